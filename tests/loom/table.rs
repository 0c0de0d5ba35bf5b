//! The claims, on two-level tables of four entries:
//!
//! - `walk_and_free`: who walks without a lock never reads a freed table, and
//!   sees a page or nothing. Shown to fail without the grace period.
//! - `link_and_walk`: a table is linked zeroed. Shown to fail when it is not
//!   zeroed. (Without release on the pointer it passes: the pin that comes
//!   between zeroing and linking has a fence.)
//! - `map_and_prune`: a page mapped beside one that is unmapped is not lost
//!   with their table. Shown to fail when DEAD is not tested after locking,
//!   and when the live count is not looked at again under the lock.
//! - `link_twice`: of two who miss the same table one links, the other uses
//!   it, and no frame is lost.
//! - `activate_and_flush` (F4): a CPU that is switching in either sees the new
//!   entries or is sent the flush. Shown to fail without either fence.
#![cfg(loom)]

mod explore;
mod machine;

use explore::at_most;
use loom::sync::Arc;
use loom::sync::atomic::Ordering;
use loom::thread;
use machine::{Machine, Small, be_cpu};
use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::{Attrs, Cell, Entry, PageTableFormat, TableOwner};
use mm_core::page::Frames;
use mm_core::platform::{PhysMemory, Platform};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};

struct Space {
    frames: Frames<Machine>,
    tlb: SpaceTlb,
    root: Pfn,
}

fn one(page: usize) -> PageRange {
    PageRange::new(Vpn::new(page), Vpn::new(page + 1))
}

impl Space {
    fn new() -> Self {
        let frames = Machine::boot(32);
        let root = PageTable::create(&Cx::new(&frames), TableOwner::User, 1).unwrap();
        Self {
            frames,
            tlb: SpaceTlb::new(),
            root,
        }
    }

    fn with<R>(&self, verb: impl FnOnce(PageTable<'_, '_, Machine>, &SpaceTlb) -> R) -> R {
        let cx = Cx::new(&self.frames);
        verb(
            PageTable::view(&cx, self.root, TableOwner::User, 1),
            &self.tlb,
        )
    }

    fn map(&self, page: usize) {
        let pfn = self.frames.alloc(&Cx::new(&self.frames), 0).unwrap();
        let cx = Cx::new(&self.frames);
        let table = PageTable::view(&cx, self.root, TableOwner::User, 1);
        let mut cursor = CursorMut::new(table, &self.tlb, one(page));
        let owed = cursor.map_each(&[pfn], Attrs::user(Prot::RW)).unwrap();
        owed.settle(&cx, &self.tlb);
    }

    fn unmap(&self, page: usize) {
        let cx = Cx::new(&self.frames);
        let table = PageTable::view(&cx, self.root, TableOwner::User, 1);
        let mut gather = TlbGather::new(&cx, &self.tlb);
        CursorMut::new(table, &self.tlb, one(page))
            .unmap(&mut gather)
            .unwrap();
        let _released = gather.finish();
    }

    /// Whether a page is mapped, as a walk without locks finds.
    fn is_mapped(&self, page: usize) -> bool {
        self.with(|table, _| match table.translate(Vpn::new(page)) {
            None => false,
            Some((word, level)) => {
                let format = self.frames.platform().format();
                assert!(
                    matches!(format.decode(word, level), Entry::Leaf { .. }),
                    "{word:#x}"
                );
                true
            }
        })
    }
}

#[test]
fn walk_and_free() {
    at_most(3, || {
        let space = Arc::new(Space::new());
        space.map(5);
        let walker = {
            let space = Arc::clone(&space);
            thread::spawn(move || {
                be_cpu(1);
                space.is_mapped(5);
            })
        };
        space.unmap(5);
        assert!(!space.is_mapped(5));
        // The frames of page and table are used anew, as tables.
        space.map(9);
        walker.join().unwrap();
        assert!(space.is_mapped(9));
    });
}

#[test]
fn map_and_prune() {
    at_most(3, || {
        let space = Arc::new(Space::new());
        space.map(5);
        let mapper = {
            let space = Arc::clone(&space);
            thread::spawn(move || {
                be_cpu(1);
                space.map(6);
            })
        };
        space.unmap(5);
        mapper.join().unwrap();
        assert!(space.is_mapped(6) && !space.is_mapped(5));
    });
}

#[test]
fn link_twice() {
    at_most(3, || {
        let space = Arc::new(Space::new());
        let before = space.frames.free_frames();
        let mapper = {
            let space = Arc::clone(&space);
            thread::spawn(move || {
                be_cpu(1);
                space.map(6);
            })
        };
        space.map(5);
        mapper.join().unwrap();
        assert!(space.is_mapped(5) && space.is_mapped(6));
        assert_eq!(
            before - space.frames.free_frames(),
            3,
            "two pages and one table"
        );
    });
}

#[test]
fn link_and_walk() {
    at_most(3, || {
        let space = Arc::new(Space::new());
        Machine::dirty(&space.frames);
        let walker = {
            let space = Arc::clone(&space);
            thread::spawn(move || {
                be_cpu(1);
                space.is_mapped(9)
            })
        };
        space.map(9);
        walker.join().unwrap();
        assert!(space.is_mapped(9));
    });
}

#[test]
fn activate_and_flush() {
    at_most(3, || {
        let space = Arc::new(Space::new());
        space.map(5);
        // Keeps the table, so that only the mask says who must be told.
        space.map(6);
        let table = space.with(|table, _| table.lock_leaf(Vpn::new(5)).unwrap().pfn());
        let cpu = {
            let space = Arc::clone(&space);
            thread::spawn(move || {
                be_cpu(1);
                space.tlb.activate(1);
                // Hardware walks without a pin, and remembers.
                let words: &[Cell<Small>] = space.frames.memory().words(table, 0);
                space.frames.platform().format().load(words, 1) != 0
            })
        };
        // By hand: the verb would pin again, and pins have fences of their own.
        space.with(|table, tlb| {
            let mut gather = TlbGather::new(table.cx(), tlb);
            let taken = table
                .lock_leaf(Vpn::new(5))
                .unwrap()
                .take(tlb, Vpn::new(5))
                .unwrap();
            gather.push(taken).unwrap();
            let _released = gather.finish();
        });
        let remembers = cpu.join().unwrap();
        let flushed = space.frames.platform().flushed[1].load(Ordering::Acquire);
        assert!(!remembers || flushed > 0, "the CPU was missed");
    });
}
