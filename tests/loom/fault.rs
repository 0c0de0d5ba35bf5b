//! The claims, for whole verbs on two-level tables of four entries; the space
//! has an area of two private pages, the second of which is there:
//!
//! - `fault_and_unmap` (H1): a fault that takes no space lock leaves nothing
//!   behind in an area that is being unmapped.
//! - `fault_and_protect` (H2): nor an entry that allows stores, once they are
//!   forbidden.
//! - `fault_and_fault` (H3): of two faults on one page one frame is kept.
//! - `fault_and_fork` (H4): after a fork no entry of a shared page allows
//!   stores, whatever a sibling stored to meanwhile, for the first time or
//!   again.
//! - `unmap_and_fork` (H5): the child has the area or does not, and its page
//!   with it.
//! - `cow_and_exit` (H6): a store in the parent, while the child reads the page
//!   and gives up its share, ends with a page of the parent's own, and the child
//!   does not see it.
//! - `cow_and_last_user` (H6): the same, while the child's last user goes and all of its
//!   areas, tables and nodes with it.
//! - `cow_and_cow` (E10): nor is a store lost when two threads of the parent copy
//!   the page at once.
//! - `cow_and_drop` (E9): a page is neither copied after it was freed, nor made
//!   writable when another came in its place: the zero page least of all.
//! - `cow_and_drop_shared`: nor when its last other user gives it up meanwhile.
//! - `cow_and_fork` (E3): a page is not copied while a CPU can store to it through
//!   the translation that fork took WRITE from.
//! - `fault_and_fixed_map` (H10): a fault meets the old area or the new one,
//!   never none, and leaves nothing of the old one in the new.
//!
//! That no frame is lost and none freed twice is checked after each.
#![cfg(loom)]

mod explore;
mod machine;
mod scene;

use loom::thread;
use machine::be_cpu;
use mm_core::addr::Vpn;
use mm_core::format::Entry;
use mm_core::prot::{Access, Prot};
use mm_core::space::{Advice, MapRequest};
use scene::{
    Done, PAGE, Space, access, allows_stores, both, on_machine, peek, poke, scene, store, va,
};

#[test]
fn fault_and_unmap() {
    on_machine(20, |mm| {
        let s = scene(mm);
        let (stored, ()) = both(&s, |s| store(&s, 1), |s| s.unmap(va(1), 2 * PAGE).unwrap());
        assert_ne!(stored, Done::Denied);
        for page in 1..3 {
            assert_eq!(s.entry(Vpn::new(page)), Entry::Empty);
        }
    });
}

#[test]
fn fault_and_protect() {
    on_machine(20, |mm| {
        let s = scene(mm);
        let (stored, ()) = both(
            &s,
            |s| store(&s, 1),
            |s| s.protect(va(1), 2 * PAGE, Prot::READ).unwrap(),
        );
        assert_ne!(stored, Done::NoArea);
        assert!(!allows_stores(&s, 1) && !allows_stores(&s, 2));
    });
}

#[test]
fn fault_and_fault() {
    on_machine(24, |mm| {
        let s = scene(mm);
        let stored = both(&s, |s| store(&s, 1), |s| store(s, 1));
        assert_eq!(stored, (Done::Done, Done::Done));
        assert!(allows_stores(&s, 1));
        assert_eq!(s.counts().anon.get(), 2, "one frame for each page");
    });
}

#[test]
fn fault_and_fork() {
    on_machine(28, |mm| {
        let s = scene(mm);
        let stores = |s: Space| (store(&s, 1), store(&s, 2));
        let (stored, child) = both(&s, stores, |s| s.fork().unwrap());
        assert_eq!(stored, (Done::Done, Done::Done));
        for page in 1..3 {
            let (ours, theirs) = (s.entry(Vpn::new(page)), child.entry(Vpn::new(page)));
            let Entry::Leaf { pfn: ours, .. } = ours else {
                panic!("the parent's page {page} is lost: {ours:?}");
            };
            match theirs {
                Entry::Leaf { pfn, .. } => {
                    assert!(!allows_stores(&child, page));
                    assert!(ours != pfn || !allows_stores(&s, page));
                }
                // The first store came after the fork.
                theirs => assert!(page == 1 && theirs == Entry::Empty, "{theirs:?}"),
            }
        }
    });
}

#[test]
fn unmap_and_fork() {
    on_machine(28, |mm| {
        let s = scene(mm);
        let ((), child) = both(
            &s,
            |s| s.unmap(va(1), 2 * PAGE).unwrap(),
            |s| s.fork().unwrap(),
        );
        let has_area = child.find(va(2)).is_some();
        let has_page = matches!(child.entry(Vpn::new(2)), Entry::Leaf { .. });
        assert_eq!(has_area, has_page);
        assert_eq!(s.entry(Vpn::new(2)), Entry::Empty);
    });
}

#[test]
fn cow_and_exit() {
    on_machine(28, |mm| {
        let s = scene(mm);
        // A page that stays, so that its table does: the grace period of a table
        // is no part of the claim, and makes thousands of schedules of each.
        assert_eq!(store(&s, 1), Done::Done);
        let child = s.fork().unwrap();
        // What exit does to the page; its nodes are no part of the claim. In the second
        // thread: loom knows of no bytes, and in the first it never put the load off.
        let (seen, stored) = both(
            &child,
            |child| {
                let seen = peek(&child, 2);
                child.advise(va(2), PAGE, Advice::DontNeed).unwrap();
                seen
            },
            |_| poke(&s, 2, 7),
        );
        assert_eq!((stored, seen), (true, Some(0)));
        assert!(allows_stores(&s, 2));
        assert_eq!(peek(&s, 2), Some(7));
    });
}

#[test]
fn cow_and_last_user() {
    on_machine(32, |mm| {
        let s = scene(mm);
        let child = s.fork().unwrap();
        let exit = thread::spawn(move || {
            be_cpu(1);
            let seen = peek(&child, 2);
            drop(child);
            seen
        });
        let stored = poke(&s, 2, 7);
        assert_eq!((stored, exit.join().unwrap()), (true, Some(0)));
        assert!(allows_stores(&s, 2));
        assert_eq!(peek(&s, 2), Some(7));
        assert_eq!(mm.usage().spaces, 1, "the child is there still");
    });
}

#[test]
fn cow_and_cow() {
    on_machine(28, |mm| {
        let s = scene(mm);
        let child = s.fork().unwrap();
        // What a store went to is there until the end, and one of the two copied.
        let stored = |s: &Space| (store(s, 2), s.entry(Vpn::new(2)));
        let (one, two) = both(&s, move |s| stored(&s), stored);
        assert_eq!((one.0, two), (Done::Done, one));
        assert_eq!(s.entry(Vpn::new(2)), two.1);
        assert_ne!(child.entry(Vpn::new(2)), two.1);
        assert_eq!(s.counts().anon.get(), 1);
    });
}

#[test]
fn cow_and_drop_shared() {
    on_machine(28, |mm| {
        let s = scene(mm);
        assert_eq!(store(&s, 1), Done::Done);
        drop(s.fork().unwrap());
        // Somebody else has a reference, as a child had, and gives it up.
        let Entry::Leaf { pfn, .. } = s.entry(Vpn::new(2)) else {
            panic!("the page is not there");
        };
        mm.frames().page(pfn).unwrap().get_refs(1).unwrap();
        let (stored, ()) = both(
            &s,
            |s| store(&s, 2),
            |s| {
                mm.frames().free(&mm.cx(), pfn).unwrap();
                s.advise(va(2), PAGE, Advice::DontNeed).unwrap();
            },
        );
        assert_eq!(stored, Done::Done);
    });
}

#[test]
fn cow_and_drop() {
    on_machine(28, |mm| {
        let s = scene(mm);
        assert_eq!(store(&s, 1), Done::Done);
        drop(s.fork().unwrap());
        let zero = mm.frames().zero_page();
        assert!(zero.is_some());
        // The zero page comes in the place of the one that is dropped.
        let (stored, loaded) = both(
            &s,
            |s| store(&s, 2),
            |s| {
                s.advise(va(2), PAGE, Advice::DontNeed).unwrap();
                access(s, 2, Access::Read)
            },
        );
        assert_eq!((stored, loaded), (Done::Done, Done::Done));
        let entry = s.entry(Vpn::new(2));
        if matches!(entry, Entry::Leaf { pfn, .. } if Some(pfn) == zero) {
            assert!(!allows_stores(&s, 2));
        }
    });
}

#[test]
fn cow_and_fork() {
    on_machine(28, |mm| {
        let s = scene(mm);
        let Entry::Leaf { pfn, .. } = s.entry(Vpn::new(2)) else {
            panic!("the page is not there");
        };
        let mut loaded = None;
        be_cpu(2);
        // SAFETY: there is no hardware that walks.
        unsafe { s.switch(&mut loaded, |_| mm.platform().remember(pfn)) };
        be_cpu(0);
        let (stored, child) = both(&s, |s| store(&s, 2), |s| s.fork().unwrap());
        assert_eq!(stored, Done::Done);
        assert_eq!(peek(&child, 2), Some(0));
        drop(loaded);
    });
}

#[test]
fn fault_and_fixed_map() {
    on_machine(24, |mm| {
        let s = scene(mm);
        let new = MapRequest::anonymous(2 * PAGE, Prot::READ).fixed(va(1));
        let (stored, _) = both(&s, |s| store(&s, 1), |s| s.map(&new).unwrap());
        assert_ne!(stored, Done::NoArea, "a moment without any area");
        for page in 1..3 {
            assert_eq!(s.entry(Vpn::new(page)), Entry::Empty);
        }
    });
}
