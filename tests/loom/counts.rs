//! The claims, for two CPUs with nodes of their own, of which CPU 1 owes a space a page that it
//! counted (rule 17), and faults in another space:
//!
//! - `fault_and_count`: who asks meanwhile how many pages of the first space are present gets
//!   the exact number, and so does who asks the second one later.
//! - `fault_and_end`: the first space ends meanwhile, and nothing is owed to it afterwards: not
//!   when its node is another space's either.
#![cfg(loom)]

mod explore;
mod machine;
mod scene;

use explore::at_most;
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::Mm;
use mm_core::space::Advice;
use scene::{Done, PAGE, Space, area, empty, scene, store, va};

/// Enough for two spaces and for what CPUs keep.
const FRAMES: usize = 32;

/// A space to which CPU 1 owes its one page, and one whose first page is not there yet.
fn spaces(mm: &'static Mm<Machine>) -> (Space, Space) {
    let other = scene(mm);
    be_cpu(1);
    let owed = scene(mm);
    be_cpu(0);
    (owed, other)
}

/// Lets CPU 1 fault in `other` while CPU 0 does `two`.
fn beside_a_fault<R: Send + 'static>(other: &Space, two: impl FnOnce() -> R + Send + 'static) -> R {
    // The thread that changes most goes first: loom leaves schedules out when it only reads.
    be_cpu(1);
    let thread = thread::spawn(move || {
        be_cpu(0);
        two()
    });
    // Puts aside what the CPU counted for the space before.
    assert_eq!(store(other, 1), Done::Done);
    be_cpu(0);
    thread.join().unwrap()
}

#[test]
fn fault_and_count() {
    at_most(3, || {
        Machine::with_cpus(FRAMES, 2, |mm| {
            let (owed, other) = spaces(mm);
            let asked = owed.clone();
            let counted = beside_a_fault(&other, move || asked.counts().anon.get());
            assert_eq!(counted, 1);
            assert_eq!(
                (owed.counts().anon.get(), other.counts().anon.get()),
                (1, 2)
            );
        });
    });
}

#[test]
fn fault_and_end() {
    at_most(3, || {
        Machine::with_cpus(FRAMES, 2, |mm| {
            let (owed, other) = spaces(mm);
            // What exit does to pages and tables is no part of the claim.
            owed.advise(va(2), PAGE, Advice::DontNeed).unwrap();
            owed.unmap(va(1), 2 * PAGE).unwrap();
            beside_a_fault(&other, move || drop(owed));
            let next = empty(mm);
            next.map(&area()).unwrap();
            assert_eq!(
                (next.counts().anon.get(), other.counts().anon.get()),
                (0, 2)
            );
        });
    });
}
