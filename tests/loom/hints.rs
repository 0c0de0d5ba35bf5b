//! The claims, for two CPUs with nodes of their own, of which CPU 1 remembers where
//! it was before:
//!
//! - `remember_and_drain`: what a CPU remembers after its area's slab was drained
//!   leads to no node of it, though the area was found and unmapped meanwhile.
//! - `enter_and_reuse`: who remembers a leaf table enters a page where the address
//!   leads, though that table goes meanwhile, and its frame becomes the table of
//!   other pages of the space.
//! - `copy_and_reuse`: a user copy that remembers its leaf table stores to its own
//!   space or to none, though the frame becomes the table of the same pages of
//!   another space.
#![cfg(loom)]

mod explore;
mod machine;
mod scene;

use explore::at_most;
use loom::sync::Arc;
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::Mm;
use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::{Attrs, Entry, PageTableFormat, TableOwner};
use mm_core::page::Frames;
use mm_core::platform::Platform;
use mm_core::prot::{Access, Prot};
use mm_core::range::PageRange;
use mm_core::sync::NoContext;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};
use scene::{Done, PAGE, Space, access, area, both, empty, peek, poke, scene, store, va};

#[test]
fn remember_and_drain() {
    at_most(3, || {
        Machine::with_cpus(20, 2, |mm| {
            let s = scene(mm);
            let found = |s: scene::Space| {
                let found = store(&s, 2);
                s.unmap(va(1), 2 * PAGE).unwrap();
                found
            };
            let (found, ()) = both(&s, found, |_| mm.drain());
            assert_eq!(found, Done::Done);
            // Whoever follows a handle into what is no slab any more is told.
            Machine::dirty(mm.frames());
            be_cpu(1);
            assert_eq!(store(&s, 2), Done::NoArea);
            be_cpu(0);
        });
    });
}

/// The number of the space where there is nothing but a table.
const NUMBER: u32 = 1;

fn one(page: usize) -> PageRange {
    PageRange::new(Vpn::new(page), Vpn::new(page + 1))
}

/// The scene, whose leaf table CPU 1 has found.
fn remembered(mm: &'static Mm<Machine>) -> Space {
    let s = scene(mm);
    be_cpu(1);
    assert!(poke(&s, 2, 5));
    be_cpu(0);
    s
}

/// Maps a frame at a page, which makes what tables are missing.
fn enter(frames: &Frames<Machine>, (root, tlb): (Pfn, &SpaceTlb), page: usize, pfn: Pfn) {
    let cx = Cx::new(frames);
    let table = PageTable::view(&cx, root, TableOwner::User, NUMBER);
    let mut cursor = CursorMut::new(table, tlb, one(page));
    let owed = cursor.map_each(&[pfn], Attrs::user(Prot::RW)).unwrap();
    owed.settle(&cx, tlb);
}

#[test]
fn enter_and_reuse() {
    at_most(3, || {
        let frames = Arc::new(Machine::boot(16));
        frames.add_cpus(&NoContext, 2).unwrap();
        let cx = Cx::new(&frames);
        let root = PageTable::create(&cx, TableOwner::User, NUMBER).unwrap();
        let tlb = SpaceTlb::new();
        let [last, near, far] = [(); 3].map(|()| frames.alloc(&cx, 0).unwrap());
        enter(&frames, (root, &tlb), 5, last);
        be_cpu(1);
        let table = PageTable::view(&cx, root, TableOwner::User, NUMBER);
        let old = table.lock_leaf(Vpn::new(5)).unwrap().pfn();
        be_cpu(0);
        let format = frames.platform().format();
        let word = format.encode_leaf(near, Attrs::user(Prot::RW), 1).unwrap();
        let fault = {
            let frames = Arc::clone(&frames);
            thread::spawn(move || {
                be_cpu(1);
                let cx = Cx::new(&frames);
                let table = PageTable::view(&cx, root, TableOwner::User, NUMBER);
                let leaf = table.lock_leaf(Vpn::new(6));
                let entered = leaf.map(|leaf| leaf.install(Vpn::new(6), word));
                entered.is_some()
            })
        };
        let mut gather = TlbGather::new(&cx, &tlb);
        let mut cursor = CursorMut::new(table, &tlb, one(5));
        cursor.unmap(&mut gather).unwrap();
        let unlinked = gather.finish().tables > 0;
        enter(&frames, (root, &tlb), 9, far);
        let entered = fault.join().unwrap();
        let reused = table.lock_leaf(Vpn::new(9)).unwrap().pfn() == old;
        assert_eq!(reused, unlinked, "the model rests on it");
        let leads_to = |page| match table.lock_leaf(Vpn::new(page))?.entry(Vpn::new(page)) {
            Entry::Leaf { pfn, .. } => Some(pfn),
            _ => None,
        };
        let found = [5, 6, 9, 10].map(leads_to);
        assert_eq!(found, [None, entered.then_some(near), Some(far), None]);
    });
}

#[test]
fn copy_and_reuse() {
    at_most(3, || {
        Machine::with_cpus(24, 2, |mm| {
            let (s, other) = (remembered(mm), empty(mm));
            other.map(&area()).unwrap();
            let (_, loaded) = both(
                &s,
                |s| poke(&s, 2, 7),
                |s| {
                    s.unmap(va(1), 2 * PAGE).unwrap();
                    let loaded = access(&other, 2, Access::Read);
                    (loaded, store(&other, 2))
                },
            );
            assert_eq!(loaded, (Done::Done, Done::Done));
            assert_eq!(peek(&other, 2), Some(0), "stored to another space");
        });
    });
}
