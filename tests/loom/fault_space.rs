//! The claims, for verbs that meet on the areas of one space:
//!
//! - `stack_and_map` (H9): a stack grows down to a page or another area comes
//!   there, never both, and neither replaces the other.
//! - `unmap_and_unmap`: of two unmaps that overlap nothing is left, and nothing is
//!   taken twice.
//! - `protect_and_protect` (H2): of two that overlap no entry is left that allows
//!   more than its area.
//! - `remap_and_fault` (H8): a page that a fault makes while its area moves is at
//!   the new place, or the fault finds no area; nothing is left at the old one.
//! - `copy_and_protect`: a user copy falls before an area loses WRITE, or fails.
//! - `copy_and_drop` (H15): a user copy never goes to a page that was given back.
//! - `copy_and_fork` (lesson 40): a user copy is seen by both of a fork or by the
//!   parent alone, and the child's bytes stay as they were.
//! - `fault_and_exec` (H16): a fault in the space that another thread leaves for a
//!   new one ends as if that thread were still there.
//!
//! That no frame is lost and none freed twice is checked after each.
#![cfg(loom)]

mod explore;
mod machine;
mod scene;

use loom::thread;
use machine::be_cpu;
use mm_core::addr::Vpn;
use mm_core::error::MmError;
use mm_core::format::Entry;
use mm_core::prot::Prot;
use mm_core::space::{Advice, MapFlags, MapRequest, RemapFlags};
use scene::{
    Done, PAGE, Space, allows_stores, area, both, empty, on_machine, peek, poke, scene, store, va,
};

/// Asserts that the tree, the tables and the counts of a space agree.
fn assert_sound(s: &Space) {
    if let Err(flaw) = s.validate() {
        panic!("{flaw:?}");
    }
}

#[test]
fn stack_and_map() {
    on_machine(16, |mm| {
        let s = empty(mm);
        let stack = MapRequest::anonymous(PAGE, Prot::RW).fixed(va(3));
        s.map(&stack.with(MapFlags::GROWS_DOWN)).unwrap();
        let mut below = MapRequest::anonymous(PAGE, Prot::READ).fixed(va(2));
        below.flags = MapFlags::FIXED_NOREPLACE;
        let (stored, mapped) = both(&s, |s| store(&s, 2), |s| s.map(&below).map(drop));
        match mapped {
            Ok(()) => assert_eq!(stored, Done::Denied, "the page is the new area's"),
            Err(MmError::Exists(_)) => assert_eq!(stored, Done::Done),
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(
            s.find(va(2)).unwrap().prot(),
            if mapped.is_ok() { Prot::READ } else { Prot::RW }
        );
        assert_sound(&s);
    });
}

#[test]
fn unmap_and_unmap() {
    on_machine(20, |mm| {
        let s = scene(mm);
        // Stays, so that what is counted off twice is missed.
        let other = MapRequest::anonymous(2 * PAGE, Prot::READ).fixed(va(5));
        s.map(&other).unwrap();
        both(
            &s,
            |s| s.unmap(va(1), 2 * PAGE).unwrap(),
            |s| s.unmap(va(2), PAGE).unwrap(),
        );
        assert_eq!(s.areas().count(), 1);
        assert_eq!((s.counts().total.get(), s.counts().areas.get()), (2, 1));
        assert_sound(&s);
    });
}

#[test]
fn protect_and_protect() {
    on_machine(20, |mm| {
        let s = scene(mm);
        both(
            &s,
            |s| s.protect(va(2), PAGE, Prot::NONE).unwrap(),
            |s| s.protect(va(1), 2 * PAGE, Prot::READ).unwrap(),
        );
        assert!(!allows_stores(&s, 2));
        if s.find(va(2)).unwrap().prot() == Prot::NONE {
            let entry = s.entry(Vpn::new(2));
            assert!(matches!(entry, Entry::NonPresent(_)), "{entry:?}");
        }
        assert_sound(&s);
    });
}

#[test]
fn remap_and_fault() {
    on_machine(24, |mm| {
        let s = scene(mm);
        assert!(poke(&s, 2, 7));
        let ((old, new), ()) = both(
            &s,
            |s| (poke(&s, 1, 5), store(&s, 6)),
            |s| {
                let fixed = RemapFlags::MAY_MOVE | RemapFlags::FIXED;
                let moved = s.remap(va(1), 2 * PAGE, 2 * PAGE, fixed, Some(va(5)));
                assert_eq!(moved, Ok(va(5)));
            },
        );
        assert!(matches!(new, Done::Done | Done::NoArea), "{new:?}");
        for page in [1, 2] {
            assert_eq!(s.entry(Vpn::new(page)), Entry::Empty);
        }
        assert_eq!(peek(&s, 5), Some(if old { 5 } else { 0 }));
        assert_eq!(peek(&s, 6), Some(7));
        assert_sound(&s);
    });
}

#[test]
fn copy_and_protect() {
    on_machine(20, |mm| {
        let s = scene(mm);
        let (copied, seen) = both(
            &s,
            |s| poke(&s, 2, 7),
            |s| {
                s.protect(va(2), PAGE, Prot::READ).unwrap();
                peek(s, 2)
            },
        );
        assert_eq!(seen, Some(if copied { 7 } else { 0 }));
        assert_eq!(peek(&s, 2), seen, "stored to after it was protected");
    });
}

#[test]
fn copy_and_drop() {
    on_machine(20, |mm| {
        let s = scene(mm);
        assert_eq!(store(&s, 1), Done::Done);
        let (copied, ()) = both(
            &s,
            |s| poke(&s, 2, 7),
            |s| s.advise(va(2), PAGE, Advice::DontNeed).unwrap(),
        );
        assert!(copied);
        assert!(matches!(peek(&s, 2), Some(0 | 7)));
    });
}

#[test]
fn copy_and_fork() {
    on_machine(28, |mm| {
        let s = scene(mm);
        let (copied, (child, seen)) = both(
            &s,
            |s| poke(&s, 2, 7),
            |s| {
                let child = s.fork().unwrap();
                let seen = peek(&child, 2);
                (child, seen)
            },
        );
        assert!(copied);
        assert_eq!((peek(&s, 2), peek(&child, 2)), (Some(7), seen));
    });
}

#[test]
fn fault_and_exec() {
    on_machine(24, |mm| {
        let (old, new) = (scene(mm), empty(mm));
        let other = old.clone();
        let thread = thread::spawn(move || {
            be_cpu(1);
            store(&other, 1)
        });
        drop(old);
        new.map(&area()).unwrap();
        assert_eq!(thread.join().unwrap(), Done::Done);
        assert_eq!(store(&new, 1), Done::Done);
    });
}
