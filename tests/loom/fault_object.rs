//! The claims, for pages that are found through what they belong to: by a
//! truncation through their object, by a walk through their anon_vma.
//!
//! - `load_and_truncate`, `store_and_truncate`, `copy_and_truncate` (G5, lesson
//!   58): after a truncation no entry leads to a page that it cut off, nor to a
//!   private copy of one, whatever a fault did meanwhile. `load_and_regrow`: nor
//!   when the object has grown again.
//! - `fork_and_truncate`: a child has every page that its parent has and that was
//!   not cut off, though a truncation takes the child's table for an empty one.
//!   `fork_and_truncate_private` (G5): and none that was cut off, not even a copy.
//! - `store_and_clean`: after writeback has cleaned a page of a file, what was
//!   stored is in its copy, or the page is dirty again; it is dirty while an
//!   entry allows stores. `store_again_and_clean`: also when the entry notes an older
//!   store.
//! - `unmap_and_truncate`, `exit_and_truncate` (H7): a page is taken once, by the
//!   one or by the other.
//! - `remap_and_truncate`: after a truncation no entry leads to a page that it cut
//!   off, neither where it was nor where it moved meanwhile.
//! - `remap_and_walk` (G1): who walks from a page that moves finds it at one place.
//! - `unmap_and_walk` (G4), `exit_and_walk` (H14): who walks from a page meets
//!   whole areas only, and its anon_vma stays while it does.
//!
//! That no frame is lost and none freed twice is checked after each.
#![cfg(loom)]

mod explore;
mod machine;
mod scene;

use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::Mm;
use mm_core::addr::Vpn;
use mm_core::format::Entry;
use mm_core::object::{ObjectRef, PagerFacts, Ticket};
use mm_core::page::Page;
use mm_core::platform::PhysMemory;
use mm_core::prot::{Access, Prot};
use mm_core::rmap::walk;
use mm_core::space::{MapRequest, RemapFlags};
use scene::{
    Done, PAGE, Space, access, allows_stores, both, empty, on_machine, poke, scene, store, va,
};
use std::ops::ControlFlow;

type File = ObjectRef<'static, Machine>;

/// An object of one page.
fn object(mm: &'static Mm<Machine>) -> File {
    mm.new_object(PagerFacts::memory(PAGE as u64)).unwrap()
}

/// Accesses page 1, where an object is mapped, while that is truncated.
fn truncate(
    mm: &'static Mm<Machine>,
    how: Access,
    request: impl for<'a> Fn(&'a File) -> MapRequest<'a, 'static, Machine>,
) {
    let (s, file) = (empty(mm), object(mm));
    s.map(&request(&file).fixed(va(1))).unwrap();
    let (got, ()) = both(
        &s,
        move |s| access(&s, 1, how),
        |_| file.set_size(0).unwrap(),
    );
    assert!(matches!(got, Done::Done | Done::PastEnd), "{got:?}");
    assert_eq!(s.entry(Vpn::new(1)), Entry::Empty);
    assert_eq!(access(&s, 1, how), Done::PastEnd);
    assert_eq!(file.object().cached_pages(), 0);
    let counts = s.counts();
    assert_eq!((counts.anon.get(), counts.file.get()), (0, 0));
}

#[test]
fn load_and_truncate() {
    on_machine(16, |mm| {
        truncate(mm, Access::Read, |f| {
            MapRequest::shared(f, 0, PAGE, Prot::RW)
        });
    });
}

#[test]
fn store_and_truncate() {
    on_machine(16, |mm| {
        truncate(mm, Access::Write, |f| {
            MapRequest::shared(f, 0, PAGE, Prot::RW)
        });
    });
}

#[test]
fn copy_and_truncate() {
    on_machine(20, |mm| {
        truncate(mm, Access::Write, |f| {
            MapRequest::private(f, 0, PAGE, Prot::RW)
        });
    });
}

#[test]
fn load_and_regrow() {
    on_machine(16, |mm| {
        let (s, file) = (empty(mm), object(mm));
        let shared = MapRequest::shared(&file, 0, PAGE, Prot::RW).fixed(va(1));
        s.map(&shared).unwrap();
        let (got, ()) = both(
            &s,
            |s| access(&s, 1, Access::Read),
            |_| {
                file.set_size(0).unwrap();
                file.set_size(PAGE as u64).unwrap();
            },
        );
        assert!(matches!(got, Done::Done | Done::PastEnd), "{got:?}");
        let mapped = usize::from(s.entry(Vpn::new(1)) != Entry::Empty);
        assert_eq!((s.counts().file.get(), mapped), (mapped, mapped));
        if let Err(flaw) = s.validate() {
            panic!("{flaw:?}");
        }
    });
}

#[test]
fn fork_and_truncate() {
    on_machine(32, |mm| {
        let (s, file) = (empty(mm), object(mm));
        let cut = MapRequest::private(&file, 0, PAGE, Prot::RW);
        s.map(&cut.fixed(va(4))).unwrap();
        let own = MapRequest::anonymous(PAGE, Prot::RW).fixed(va(6));
        s.map(&own).unwrap();
        assert_eq!(store(&s, 6), Done::Done);
        let (child, ()) = both(&s, |s| s.fork().unwrap(), |_| file.set_size(0).unwrap());
        let (ours, theirs) = (s.entry(Vpn::new(6)), child.entry(Vpn::new(6)));
        match (ours, theirs) {
            (Entry::Leaf { pfn: ours, .. }, Entry::Leaf { pfn: theirs, .. }) => {
                assert_eq!(ours, theirs);
            }
            other => panic!("the page is lost: {other:?}"),
        }
        assert_eq!(child.counts().anon.get(), 1);
    });
}

#[test]
fn fork_and_truncate_private() {
    on_machine(64, |mm| {
        let (s, file) = (empty(mm), object(mm));
        let cut = MapRequest::private(&file, 0, PAGE, Prot::RW);
        s.map(&cut.fixed(va(4))).unwrap();
        assert_eq!(store(&s, 4), Done::Done);
        let (child, ()) = both(&s, |s| s.fork().unwrap(), |_| file.set_size(0).unwrap());
        for space in [&s, &child] {
            assert_eq!(space.entry(Vpn::new(4)), Entry::Empty);
            assert_eq!(space.counts().anon.get(), 0);
        }
    });
}

/// A file of one page, which is read in.
fn file(mm: &'static Mm<Machine>) -> File {
    let file = mm.new_object(PagerFacts::file(1, PAGE as u64)).unwrap();
    match file.read(0, &mut [0; 4]).wait {
        Some(Ticket::Start(io)) => io.finish(Ok(())),
        other => panic!("{other:?}"),
    }
    file
}

/// Stores to a page, which `make_dirty` leaves dirty and without WRITE, while it is
/// written back.
fn clean(make_dirty: impl Fn(&Space, &File) + Sync + Send + 'static) {
    on_machine(16, move |mm| {
        let (s, file) = (empty(mm), file(mm));
        let shared = MapRequest::shared(&file, 0, PAGE, Prot::RW).fixed(va(1));
        s.map(&shared).unwrap();
        make_dirty(&s, &file);
        assert!(!allows_stores(&s, 1));
        let (stored, copy) = both(
            &s,
            |s| poke(&s, 1, 7),
            |_| {
                let cx = mm.cx();
                let view = file.view(&cx);
                let (_, page) = view.next_dirty(0).unwrap();
                assert!(view.clean(&page));
                let mut copy = [0; 4];
                mm.frames().memory().read(page.pfn(), 0, &mut copy);
                u32::from_ne_bytes(copy)
            },
        );
        assert!(stored);
        let dirty = file.view(&mm.cx()).next_dirty(0).is_some();
        assert!(dirty || (copy == 7 && !allows_stores(&s, 1)), "{copy}");
    });
}

#[test]
fn store_and_clean() {
    clean(|s, file| {
        assert_eq!(file.write(0, &5u32.to_ne_bytes()).done, 4);
        assert_eq!(access(s, 1, Access::Read), Done::Done);
    });
}

#[test]
fn store_again_and_clean() {
    clean(|s, _| {
        assert!(poke(s, 1, 5));
        s.protect(va(1), PAGE, Prot::READ).unwrap();
        s.protect(va(1), PAGE, Prot::RW).unwrap();
    });
}

/// A space that maps an object's page, which is there.
fn mapped(mm: &'static Mm<Machine>) -> (Space, File) {
    let (s, file) = (empty(mm), object(mm));
    let shared = MapRequest::shared(&file, 0, PAGE, Prot::RW).fixed(va(1));
    s.map(&shared).unwrap();
    assert_eq!(store(&s, 1), Done::Done);
    // A page that stays, so that the grace period of its table is no part of this.
    let own = MapRequest::anonymous(PAGE, Prot::RW).fixed(va(3));
    s.map(&own).unwrap();
    assert_eq!(store(&s, 3), Done::Done);
    (s, file)
}

#[test]
fn unmap_and_truncate() {
    on_machine(24, |mm| {
        let (s, file) = mapped(mm);
        both(
            &s,
            |s| s.unmap(va(1), PAGE).unwrap(),
            |_| file.set_size(0).unwrap(),
        );
        assert_eq!(s.entry(Vpn::new(1)), Entry::Empty);
        assert_eq!(
            (s.counts().file.get(), file.object().cached_pages()),
            (0, 0)
        );
    });
}

/// Moves pages from page 1 on to page 5.
fn remap(s: &Space, pages: usize) {
    let (len, fixed) = (pages * PAGE, RemapFlags::MAY_MOVE | RemapFlags::FIXED);
    assert_eq!(s.remap(va(1), len, len, fixed, Some(va(5))), Ok(va(5)));
}

#[test]
fn remap_and_truncate() {
    on_machine(20, |mm| {
        let s = empty(mm);
        let facts = PagerFacts::memory(2 * PAGE as u64);
        let file = mm.new_object(facts).unwrap();
        // The page moves into an area that a truncation comes to before the old one.
        let first = MapRequest::shared(&file, 0, PAGE, Prot::RW);
        s.map(&first.fixed(va(4))).unwrap();
        let second = MapRequest::shared(&file, PAGE as u64, PAGE, Prot::RW);
        s.map(&second.fixed(va(1))).unwrap();
        assert_eq!(store(&s, 1), Done::Done);
        both(&s, |s| remap(&s, 1), |_| file.set_size(0).unwrap());
        for page in [1, 4, 5] {
            assert_eq!(s.entry(Vpn::new(page)), Entry::Empty);
        }
        assert_eq!(s.areas().count(), 1);
        let counted = (s.counts().file.get(), file.object().cached_pages());
        assert_eq!(counted, (0, 0));
    });
}

#[test]
fn remap_and_walk() {
    on_machine(20, |mm| {
        let s = scene(mm);
        let page = locked_page(mm, &s);
        let (found, ()) = both(
            &s,
            move |s| {
                let mut found = 0;
                let _ = walk(mm, &mm.cx(), page, |hit| {
                    assert!(hit.area.range().contains(hit.page));
                    if let Entry::Leaf { pfn, .. } = s.entry(hit.page) {
                        let here = mm.frames().page(pfn).unwrap();
                        found += usize::from(std::ptr::eq(here, page));
                    }
                    ControlFlow::<()>::Continue(())
                });
                found
            },
            |s| remap(s, 2),
        );
        assert_eq!(found, 1);
        let_go(mm, page);
    });
}

#[test]
fn exit_and_truncate() {
    on_machine(20, |mm| {
        let (s, file) = (empty(mm), object(mm));
        let shared = MapRequest::shared(&file, 0, PAGE, Prot::RW).fixed(va(1));
        s.map(&shared).unwrap();
        assert_eq!(store(&s, 1), Done::Done);
        let exit = thread::spawn(move || {
            be_cpu(1);
            drop(s);
        });
        file.set_size(0).unwrap();
        exit.join().unwrap();
        assert_eq!(file.object().cached_pages(), 0);
    });
}

/// Page 2 of the scene, LOCKED and kept, as who looks for its entries has it.
fn locked_page(mm: &'static Mm<Machine>, s: &Space) -> &'static Page {
    let Entry::Leaf { pfn, .. } = s.entry(Vpn::new(2)) else {
        panic!("the page is not there");
    };
    let page = mm.frames().page(pfn).unwrap();
    page.get_refs(1).unwrap();
    assert!(page.try_lock_page());
    page
}

/// Walks from a page; returns the spaces of its areas.
fn spaces_of(mm: &'static Mm<Machine>, page: &Page) -> Vec<u32> {
    let mut spaces = Vec::new();
    let _ = walk(mm, &mm.cx(), page, |hit| {
        assert!(hit.area.range().contains(hit.page));
        assert_eq!(hit.page, Vpn::new(2));
        spaces.push(hit.area.space());
        ControlFlow::<()>::Continue(())
    });
    spaces
}

fn let_go(mm: &'static Mm<Machine>, page: &Page) {
    page.unlock_page();
    let (cx, first) = (mm.cx(), 0..64);
    let is_it = |pfn: &mm_core::addr::Pfn| {
        mm.frames()
            .page(*pfn)
            .is_some_and(|p| std::ptr::eq(p, page))
    };
    let pfn = first.map(mm_core::addr::Pfn::new).find(is_it).unwrap();
    mm.frames().free(&cx, pfn).unwrap();
}

#[test]
fn unmap_and_walk() {
    on_machine(16, |mm| {
        let s = scene(mm);
        let page = locked_page(mm, &s);
        let (seen, ()) = both(
            &s,
            move |_| spaces_of(mm, page),
            |s| {
                s.unmap(va(1), 2 * PAGE).unwrap();
                mm.drain();
                // Whoever follows a handle into what is no slab any more is told.
                Machine::dirty(mm.frames());
            },
        );
        assert!(seen.is_empty() || seen == [s.id()]);
        let_go(mm, page);
    });
}

#[test]
fn exit_and_walk() {
    on_machine(28, |mm| {
        let s = scene(mm);
        let child = s.fork().unwrap();
        let (ours, theirs) = (s.id(), child.id());
        let page = locked_page(mm, &s);
        let (seen, ()) = both(
            &s,
            move |_| spaces_of(mm, page),
            |_| {
                drop(child);
                mm.drain();
                Machine::dirty(mm.frames());
            },
        );
        assert!(seen.contains(&ours), "the parent's entry is not found");
        assert!(seen.iter().all(|&id| id == ours || id == theirs));
        let_go(mm, page);
    });
}
