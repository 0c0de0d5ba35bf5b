//! The claim: a store that hardware lets through is noted somewhere when the
//! verb that races with it is over: in the entry, in the page, or in a harvest.
//!
//! CPU 1 is hardware: it stores twice, to one page, through its TLB entry where
//! it has one, else by a walk that sets accessed and dirty by exchange; a flush
//! waits for the end of an access. CPU 0 runs the verb. Runs are of two entries,
//! and hardware notes in the *other* entry of the run (the worst it may do).
//!
//! Fork takes WRITE from an entry as `protect` does, by the same exchange
//! (`replace_slot`).
//!
//! Shown to fail (the name of the model, the change):
//! - `unmap`: entries cleared by a store instead of a swap (`clear_slot`), or
//!   words read before the flush;
//! - `protect`, `protect_none`: a store instead of the exchange (`replace_slot`);
//! - `harvest`: no flush before the verb returns;
//! - `break_run`: `noted` not put on every entry (in place), the word of each
//!   entry alone kept (`take_run`, breaking);
//! - `unmap_run`, `protect_run`: `take_run` returns the first word's notes only;
//! - `shatter`: breaking, the table is not filled again after the swap.
#![cfg(loom)]

mod explore;
mod machine;

use explore::at_most;
use loom::sync::Arc;
use loom::thread;
use machine::{Machine, Remembered, Replacing, Small, be_cpu};
use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::tiny::Tiny;
use mm_core::format::{AttrFlags, Attrs, Cell, Entry, PageTableFormat, TableOwner, WordCell};
use mm_core::page::{Frames, PageFlags};
use mm_core::platform::{PhysMemory, Platform};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, Harvest, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};

/// The page that hardware stores to, the first of a run and of a block.
const PAGE: usize = 4;

fn pages(first: usize, end: usize) -> PageRange {
    PageRange::new(Vpn::new(first), Vpn::new(end))
}

struct Space {
    frames: Frames<Machine>,
    tlb: SpaceTlb,
    root: Pfn,
    /// Where hardware's walk ends, and the frames that it leads to.
    table: Pfn,
    mapped: Vec<Pfn>,
}

impl Space {
    /// Maps cached pages at [`PAGE`] and behind it; `skew` says how far the
    /// frames are from being aligned like them.
    fn new(format: Small, count: usize, skew: usize) -> Self {
        let frames = Machine::boot_as(32, format);
        let root = PageTable::create(&Cx::new(&frames), TableOwner::User, 1).unwrap();
        let mut space = Self {
            frames,
            tlb: SpaceTlb::new(),
            root,
            table: root,
            mapped: Vec::new(),
        };
        let cx = Cx::new(&space.frames);
        // Single frames in a row.
        let mut spare = Vec::new();
        while space.mapped.len() < count {
            let pfn = space.frames.alloc(&cx, 0).unwrap();
            let next = match space.mapped.last() {
                None => pfn.as_usize() % 2 == skew,
                Some(last) => last.saturating_add(1) == pfn,
            };
            if next {
                space.mapped.push(pfn);
            } else {
                spare.append(&mut space.mapped);
                spare.push(pfn);
            }
        }
        for &pfn in &space.mapped {
            let page = space.frames.page(pfn).unwrap();
            page.user().init(PageFlags::UPTODATE, 1, 0);
            page.get_refs(1).unwrap();
            page.user().add_maps(1).unwrap();
        }
        let table = PageTable::view(&cx, root, TableOwner::User, 1);
        let range = pages(PAGE, PAGE + count);
        let mut cursor = CursorMut::new(table, &space.tlb, range);
        let owed = cursor.map(space.mapped[0], Attrs::user(Prot::RW)).unwrap();
        owed.settle(&cx, &space.tlb);
        // One page more, so that the table stays.
        let keep = space.frames.alloc(&cx, 0).unwrap();
        let mut cursor = CursorMut::new(table, &space.tlb, pages(PAGE + 3, PAGE + 4));
        let owed = cursor.map_each(&[keep], Attrs::user(Prot::RW)).unwrap();
        owed.settle(&cx, &space.tlb);
        space.table = table.lock_leaf(Vpn::new(PAGE)).unwrap().pfn();
        space.tlb.activate(1);
        drop(cx);
        space
    }

    fn words(&self) -> &[Cell<Small>] {
        self.frames.memory().words(self.table, 0)
    }

    /// Hardware stores to [`PAGE`]: true when the store went through.
    fn store(&self) -> bool {
        const PRESENT: u64 = 1;
        const WRITE: u64 = 1 << 1;
        const NOTES: u64 = 1 << 4 | 1 << 5;
        const DIRTY: u64 = 1 << 5;
        const RUN: u64 = 1 << 13;
        let mut remembered = self.frames.platform().remembered.lock().unwrap();
        if remembered.is_some_and(|r| r.dirty) {
            return true;
        }
        *remembered = None;
        let index = PAGE % 4;
        loop {
            let word = WordCell::load(&self.words()[index]);
            if word & PRESENT == 0 || word & WRITE == 0 {
                return false;
            }
            let beside = WordCell::load(&self.words()[index ^ 1]);
            let in_run = word & RUN != 0 && beside & (PRESENT | RUN) == PRESENT | RUN;
            let (at, old) = if in_run {
                (index ^ 1, beside)
            } else {
                (index, word)
            };
            let noted = word & DIRTY != 0 || old & DIRTY != 0;
            if noted || WordCell::compare_exchange(&self.words()[at], old, old | NOTES).is_ok() {
                *remembered = Some(Remembered { dirty: true });
                return true;
            }
        }
    }

    fn verb(&self, verb: impl FnOnce(PageTable<'_, '_, Machine>, &SpaceTlb)) {
        let cx = Cx::new(&self.frames);
        verb(
            PageTable::view(&cx, self.root, TableOwner::User, 1),
            &self.tlb,
        );
    }

    fn unmap(&self, range: PageRange) {
        self.verb(|table, tlb| {
            let mut gather = TlbGather::new(table.cx(), tlb);
            let mut cursor = CursorMut::new(table, tlb, range);
            cursor.unmap(&mut gather).unwrap();
            let _released = gather.finish();
        });
    }

    fn protect(&self, range: PageRange, prot: Prot) {
        self.verb(|table, tlb| CursorMut::new(table, tlb, range).protect(prot).unwrap());
    }
}

/// Runs the verb beside two stores, then unmaps the page: it is dirty if a
/// store went through. The verb may answer that it saw the page dirty.
fn model(
    format: Small,
    count: usize,
    skew: usize,
    verb: impl Fn(&Space) -> bool + Send + Sync + 'static,
) {
    at_most(3, move || {
        let space = Arc::new(Space::new(format, count, skew));
        let hardware = {
            let space = Arc::clone(&space);
            thread::spawn(move || {
                be_cpu(1);
                let first = space.store();
                space.store() || first
            })
        };
        let seen = verb(&space);
        let stored = hardware.join().unwrap();
        space.unmap(pages(PAGE, PAGE + count));
        let page = space.frames.page(space.mapped[0]).unwrap();
        assert!(
            !stored || seen || page.has(PageFlags::DIRTY),
            "a store is lost"
        );
        assert_eq!((page.refs(), page.user().maps()), (1, 0));
    });
}

const PLAIN: Small = Small(Tiny::new(2, 2), Replacing::InPlace);
const RUNS: [Small; 2] = [
    Small(Tiny::new(2, 2).with_runs(1), Replacing::InPlace),
    Small(Tiny::new(2, 2).with_runs(1), Replacing::Breaking),
];

#[test]
fn unmap() {
    model(PLAIN, 1, 0, |space| {
        space.unmap(pages(PAGE, PAGE + 1));
        false
    });
}

#[test]
fn protect() {
    model(PLAIN, 1, 0, |space| {
        space.protect(pages(PAGE, PAGE + 1), Prot::READ);
        false
    });
}

#[test]
fn protect_none() {
    model(PLAIN, 1, 0, |space| {
        space.protect(pages(PAGE, PAGE + 1), Prot::NONE);
        false
    });
}

fn harvest_one(space: &Space) -> bool {
    let mut seen = false;
    space.verb(|table, tlb| {
        CursorMut::new(table, tlb, pages(PAGE, PAGE + 2)).harvest(Harvest::Dirty, |_| seen = true);
    });
    seen
}

/// What is stored after the harvest is noted again: by a second one.
#[test]
fn harvest() {
    for format in [PLAIN, RUNS[0], RUNS[1]] {
        at_most(3, move || {
            let space = Arc::new(Space::new(format, 2, 0));
            // The harvest in the second thread: in the first, loom never put its loads off.
            let harvester = {
                let space = Arc::clone(&space);
                thread::spawn(move || {
                    be_cpu(1);
                    harvest_one(&space)
                })
            };
            let first = space.store();
            let stored = space.store() || first;
            let seen = harvester.join().unwrap();
            let again = harvest_one(&space);
            assert!(!stored || seen || again, "a store is lost");
            // Nothing is remembered as noted that is not.
            assert!(space.store());
            assert!(harvest_one(&space), "a store after the harvest is lost");
        });
    }
}

#[test]
fn break_run() {
    for format in RUNS {
        model(format, 2, 0, |space| {
            space.protect(pages(PAGE + 1, PAGE + 2), Prot::READ);
            false
        });
    }
}

#[test]
fn unmap_part_of_a_run() {
    for format in RUNS {
        model(format, 2, 0, |space| {
            space.unmap(pages(PAGE + 1, PAGE + 2));
            false
        });
    }
}

#[test]
fn protect_run() {
    for format in RUNS {
        model(format, 2, 0, |space| {
            space.protect(pages(PAGE, PAGE + 2), Prot::READ);
            false
        });
    }
}

#[test]
fn unmap_run() {
    for format in RUNS {
        model(format, 2, 0, |space| {
            space.unmap(pages(PAGE, PAGE + 2));
            false
        });
    }
}

/// A block that is shattered while hardware stores through it: every page of
/// it is dirty then.
#[test]
fn shatter() {
    for replacing in [Replacing::InPlace, Replacing::Breaking] {
        let format = Small(Tiny::new(3, 2), replacing);
        at_most(3, move || {
            let frames = Machine::boot_as(32, format);
            let cx = Cx::new(&frames);
            let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
            let block = frames.alloc(&cx, 2).unwrap();
            let tlb = SpaceTlb::new();
            let table = PageTable::view(&cx, root, TableOwner::User, 1);
            let attrs = Attrs::user(Prot::RW).with(AttrFlags::SPECIAL);
            let range = pages(PAGE, PAGE + 4);
            let owed = CursorMut::new(table, &tlb, range).map(block, attrs);
            owed.unwrap().settle(&cx, &tlb);
            tlb.activate(1);
            let (_, level) = table.translate(Vpn::new(PAGE)).unwrap();
            assert_eq!(level, 2);
            // The walk ends in the table above.
            let above = {
                let words: &[Cell<Small>] = frames.memory().words(root, 0);
                match frames
                    .platform()
                    .format()
                    .decode(WordCell::load(&words[0]), 3)
                {
                    Entry::Table(pfn) => pfn,
                    other => panic!("{other:?}"),
                }
            };
            let space = Arc::new(Space {
                table: above,
                mapped: vec![block],
                root,
                tlb,
                frames: {
                    drop(cx);
                    frames
                },
            });
            let hardware = {
                let space = Arc::clone(&space);
                thread::spawn(move || {
                    be_cpu(1);
                    space.store_block()
                })
            };
            space.protect(pages(PAGE + 1, PAGE + 2), Prot::READ);
            let stored = hardware.join().unwrap();
            space.verb(|table, _| {
                let (word, level) = table.translate(Vpn::new(PAGE)).unwrap();
                let dirty = space.frames.platform().format().is_dirty(word);
                assert_eq!(level, 1);
                assert!(!stored || dirty, "a store is lost");
            });
        });
    }
}

impl Space {
    /// Hardware stores through the block at [`PAGE`], the second entry of its
    /// table, unless that leads to a table.
    fn store_block(&self) -> bool {
        let mut remembered = self.frames.platform().remembered.lock().unwrap();
        let cell = &self.words()[PAGE / 4];
        loop {
            let word = WordCell::load(cell);
            // Present, writable, a leaf.
            if word & 0x43 != 0x43 {
                return false;
            }
            if WordCell::compare_exchange(cell, word, word | 0x30).is_ok() {
                *remembered = Some(Remembered { dirty: true });
                return true;
            }
        }
    }
}
