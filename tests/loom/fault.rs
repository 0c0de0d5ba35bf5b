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
//! - `cow_and_exit` (H6): a store in the parent, while the child gives up its
//!   share of the page, ends with a page of the parent's own.
//! - `fault_and_fixed_map` (H10): a fault meets the old area or the new one,
//!   never none, and leaves nothing of the old one in the new.
//!
//! That no frame is lost and none freed twice is checked after each.
#![cfg(loom)]

mod machine;

use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::Mm;
use mm_core::addr::{VirtAddr, Vpn};
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::format::Entry;
use mm_core::platform::Platform;
use mm_core::prot::{Access, Prot};
use mm_core::space::{AddressSpace, Advice, MapRequest, SpaceLimits};

type Space = AddressSpace<'static, Machine>;

const PAGE: usize = 128;

/// What became of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Store {
    Done,
    Denied,
    NoArea,
}

fn va(page: usize) -> VirtAddr {
    VirtAddr::new(page * PAGE)
}

fn store(s: &Space, page: usize) -> Store {
    let outcome = s.fault(&Fault {
        addr: va(page),
        access: Access::Write,
        mode: Mode::User,
    });
    match outcome {
        FaultOutcome::Resolved(_) => Store::Done,
        FaultOutcome::Signal(Signal::SegvAccErr(_)) => Store::Denied,
        FaultOutcome::Signal(Signal::SegvMapErr(_)) => Store::NoArea,
        outcome => panic!("{outcome:?}"),
    }
}

fn area() -> MapRequest<'static, 'static, Machine> {
    MapRequest::anonymous(2 * PAGE, Prot::RW).fixed(va(1))
}

fn scene(mm: &'static Mm<Machine>) -> Space {
    let limits = SpaceLimits {
        min_addr: va(1),
        stack_guard: 0,
        ..SpaceLimits::for_format(mm.platform().format())
    };
    let s = AddressSpace::new(mm, limits).unwrap();
    s.map(&area()).unwrap();
    assert_eq!(store(&s, 2), Store::Done);
    s
}

/// Runs `one` on CPU 1 while `two` runs on CPU 0.
fn both<A: 'static, B>(
    s: &Space,
    one: impl FnOnce(Space) -> A + Send + 'static,
    two: impl FnOnce(&Space) -> B,
) -> (A, B)
where
    A: Send,
{
    let other = s.clone();
    let thread = thread::spawn(move || {
        be_cpu(1);
        one(other)
    });
    let two = two(s);
    (thread.join().unwrap(), two)
}

fn allows_stores(s: &Space, page: usize) -> bool {
    match s.entry(Vpn::new(page)) {
        Entry::Leaf { attrs, .. } => attrs.prot.contains(Prot::WRITE),
        _ => false,
    }
}

#[test]
fn fault_and_unmap() {
    loom::model(|| {
        Machine::with_mm(48, |mm| {
            let s = scene(mm);
            let (stored, ()) = both(&s, |s| store(&s, 1), |s| s.unmap(va(1), 2 * PAGE).unwrap());
            assert_ne!(stored, Store::Denied);
            for page in 1..3 {
                assert_eq!(s.entry(Vpn::new(page)), Entry::Empty);
            }
        });
    });
}

#[test]
fn fault_and_protect() {
    loom::model(|| {
        Machine::with_mm(48, |mm| {
            let s = scene(mm);
            let (stored, ()) = both(
                &s,
                |s| store(&s, 1),
                |s| s.protect(va(1), 2 * PAGE, Prot::READ).unwrap(),
            );
            assert_ne!(stored, Store::NoArea);
            assert!(!allows_stores(&s, 1) && !allows_stores(&s, 2));
        });
    });
}

#[test]
fn fault_and_fault() {
    loom::model(|| {
        Machine::with_mm(48, |mm| {
            let s = scene(mm);
            let stored = both(&s, |s| store(&s, 1), |s| store(s, 1));
            assert_eq!(stored, (Store::Done, Store::Done));
            assert!(allows_stores(&s, 1));
            assert_eq!(s.counts().anon.get(), 2, "one frame for each page");
        });
    });
}

#[test]
fn fault_and_fork() {
    loom::model(|| {
        Machine::with_mm(64, |mm| {
            let s = scene(mm);
            let stores = |s: Space| (store(&s, 1), store(&s, 2));
            let (stored, child) = both(&s, stores, |s| s.fork().unwrap());
            assert_eq!(stored, (Store::Done, Store::Done));
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
    });
}

#[test]
fn unmap_and_fork() {
    loom::model(|| {
        Machine::with_mm(64, |mm| {
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
    });
}

#[test]
fn cow_and_exit() {
    let mut bounded = loom::model::Builder::new();
    // Nearly all that the two do is about the same page: three take hours.
    bounded.preemption_bound = Some(1);
    bounded.check(|| {
        Machine::with_mm(64, |mm| {
            let s = scene(mm);
            let child = s.fork().unwrap();
            // What exit does to the page; its nodes are no part of the claim.
            let (stored, ()) = both(
                &s,
                |s| store(&s, 2),
                |_| child.advise(va(1), 2 * PAGE, Advice::DontNeed).unwrap(),
            );
            assert_eq!(stored, Store::Done);
            assert!(allows_stores(&s, 2));
        });
    });
}

#[test]
fn fault_and_fixed_map() {
    loom::model(|| {
        Machine::with_mm(48, |mm| {
            let s = scene(mm);
            let new = MapRequest::anonymous(2 * PAGE, Prot::READ).fixed(va(1));
            let (stored, _) = both(&s, |s| store(&s, 1), |s| s.map(&new).unwrap());
            assert_ne!(stored, Store::NoArea, "a moment without any area");
            for page in 1..3 {
                assert_eq!(s.entry(Vpn::new(page)), Entry::Empty);
            }
        });
    });
}
