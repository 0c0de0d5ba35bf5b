//! What models of whole verbs begin with: a space with an area of two private
//! pages, the second of which is there, on two-level tables of four entries.

#![allow(dead_code, reason = "each model uses its part")]

use crate::explore::at_most;
use crate::machine::{Machine, be_cpu};
use loom::thread;
use mm_core::Mm;
use mm_core::addr::{VirtAddr, Vpn};
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::format::Entry;
use mm_core::platform::Platform;
use mm_core::prot::{Access, Prot};
use mm_core::space::{AddressSpace, MapRequest, SpaceLimits};

/// An address space of the model.
pub type Space = AddressSpace<'static, Machine>;

/// The size of a page.
pub const PAGE: usize = 128;

/// What became of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    Done,
    Denied,
    NoArea,
    PastEnd,
}

/// Explores a model on a machine of so many frames, all of which are free in
/// the end.
pub fn on_machine(frames: usize, model: impl Fn(&'static Mm<Machine>) + Sync + Send + 'static) {
    at_most(3, move || Machine::with_mm(frames, &model));
}

/// The address of a page.
pub fn va(page: usize) -> VirtAddr {
    VirtAddr::new(page * PAGE)
}

/// Faults as a user would.
pub fn access(s: &Space, page: usize, access: Access) -> Done {
    let outcome = s.fault(&Fault {
        addr: va(page),
        access,
        mode: Mode::User,
    });
    match outcome {
        FaultOutcome::Resolved(_) => Done::Done,
        FaultOutcome::Signal(Signal::SegvAccErr(_)) => Done::Denied,
        FaultOutcome::Signal(Signal::SegvMapErr(_)) => Done::NoArea,
        FaultOutcome::Signal(Signal::BusAdrErr(_)) => Done::PastEnd,
        outcome => panic!("{outcome:?}"),
    }
}

/// Faults as a store.
pub fn store(s: &Space, page: usize) -> Done {
    access(s, page, Access::Write)
}

/// Writes a word by a user copy; false when the address is bad.
pub fn poke(s: &Space, page: usize, word: u32) -> bool {
    s.write(va(page), &word.to_ne_bytes()).is_ok()
}

/// Reads a word by a user copy.
pub fn peek(s: &Space, page: usize) -> Option<u32> {
    let mut bytes = [0; 4];
    let progress = s.read(va(page), &mut bytes).ok()?;
    assert_eq!(progress.done, 4);
    Some(u32::from_ne_bytes(bytes))
}

/// Two private pages.
pub fn area() -> MapRequest<'static, 'static, Machine> {
    MapRequest::anonymous(2 * PAGE, Prot::RW).fixed(va(1))
}

/// An empty space.
pub fn empty(mm: &'static Mm<Machine>) -> Space {
    let limits = SpaceLimits {
        min_addr: va(1),
        stack_guard: 0,
        ..SpaceLimits::for_format(mm.platform().format())
    };
    AddressSpace::new(mm, limits).unwrap()
}

/// A space with [`area`], whose second page is there.
pub fn scene(mm: &'static Mm<Machine>) -> Space {
    let s = empty(mm);
    s.map(&area()).unwrap();
    assert_eq!(store(&s, 2), Done::Done);
    s
}

/// Runs `one` on CPU 1 while `two` runs on CPU 0.
pub fn both<A: Send + 'static, B>(
    s: &Space,
    one: impl FnOnce(Space) -> A + Send + 'static,
    two: impl FnOnce(&Space) -> B,
) -> (A, B) {
    let other = s.clone();
    let thread = thread::spawn(move || {
        be_cpu(1);
        one(other)
    });
    let two = two(s);
    (thread.join().unwrap(), two)
}

/// Returns whether the entry of a page allows stores.
pub fn allows_stores(s: &Space, page: usize) -> bool {
    match s.entry(Vpn::new(page)) {
        Entry::Leaf { attrs, .. } => attrs.prot.contains(Prot::WRITE),
        _ => false,
    }
}
