//! The claims, for holes in memory that is in use; an object of one page, which is there:
//!
//! - `store_and_hole`: after both an entry leads to the page that the object has, or nowhere.
//! - `copy_and_hole`: a private copy is kept, or not made yet; the page that it was made of is not mapped.
//! - `two_places_and_hole`: who gets another page at one place finds the old one at no other, nor does a CPU
//!   that remembered it.
//! - `read_and_hole`: who reads while the hole is made reads the old page or zeros, and does not sleep on.
//! - `truncate_and_hole`: what is cut off and what becomes a hole is dropped once.
//! - `hole_and_fork`: parent and child see one page.
//!
//! That no frame is lost and none freed twice is checked after each.
#![cfg(loom)]

mod explore;
mod machine;
mod scene;

use explore::at_most;
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::Mm;
use mm_core::addr::{Pfn, Vpn};
use mm_core::fault::{Fault, FaultOutcome, Mode};
use mm_core::format::Entry;
use mm_core::object::{ObjectRef, PagerFacts, Ticket};
use mm_core::prot::{Access, Prot};
use mm_core::space::{Advice, MapRequest};
use scene::{PAGE, Space, both, empty, on_machine, va};

type Memory = ObjectRef<'static, Machine>;

/// Explores a model in which somebody sleeps: a second preemption would take hours.
fn with_sleepers(frames: usize, model: impl Fn(&'static Mm<Machine>) + Sync + Send + 'static) {
    at_most(1, move || Machine::with_mm(frames, &model));
}

/// Faults until the page is there: who meets a hole that is being made sleeps.
fn touch(mm: &'static Mm<Machine>, s: &Space, page: usize, access: Access) {
    let (addr, mode) = (va(page), Mode::User);
    loop {
        match s.fault(&Fault { addr, access, mode }) {
            FaultOutcome::Resolved(_) => return,
            FaultOutcome::Wait(Ticket::Join(key)) => {
                mm.platform().sleep_while(|| mm.is_pending(key));
            }
            outcome => panic!("{outcome:?}"),
        }
    }
}

/// Returns the frame that a page is mapped to.
fn mapped(s: &Space, page: usize) -> Option<Pfn> {
    match s.entry(Vpn::new(page)) {
        Entry::Leaf { pfn, .. } => Some(pfn),
        _ => None,
    }
}

/// Returns the frame of the object's page.
fn cached(mm: &'static Mm<Machine>, memory: &Memory) -> Option<Pfn> {
    let cx = mm.cx();
    let page = memory.view(&cx).find_page(0)?;
    Some(page.pfn())
}

/// An object of one page, which holds a 7.
fn written(mm: &'static Mm<Machine>) -> Memory {
    let memory = mm.new_object(PagerFacts::memory(PAGE as u64)).unwrap();
    assert_eq!(memory.write(0, &7u32.to_ne_bytes()).done, 4);
    memory
}

/// An object of one page and a space that maps it shared at page 1 and, when `twice`, at page 5,
/// by which it was stored to.
fn used(mm: &'static Mm<Machine>, twice: bool) -> (Space, Memory) {
    let memory = mm.new_object(PagerFacts::memory(PAGE as u64)).unwrap();
    let s = empty(mm);
    for page in [1, 5].into_iter().take(if twice { 2 } else { 1 }) {
        let shared = MapRequest::shared(&memory, 0, PAGE, Prot::RW);
        s.map(&shared.fixed(va(page))).unwrap();
    }
    touch(mm, &s, 1, Access::Write);
    (s, memory)
}

#[test]
fn store_and_hole() {
    with_sleepers(20, |mm| {
        let (s, memory) = used(mm, false);
        // What finds the page without an entry to it, as a second space would.
        s.advise(va(1), PAGE, Advice::DontNeed).unwrap();
        both(
            &s,
            move |s| touch(mm, &s, 1, Access::Write),
            |_| memory.make_hole(0, 1).unwrap(),
        );
        let there = mapped(&s, 1);
        assert!(there.is_none() || there == cached(mm, &memory));
        assert_eq!(s.counts().file.get(), usize::from(there.is_some()));
        if let Err(flaw) = s.validate() {
            panic!("{flaw:?}");
        }
    });
}

#[test]
fn copy_and_hole() {
    with_sleepers(20, |mm| {
        let (s, memory) = (empty(mm), written(mm));
        let private = MapRequest::private(&memory, 0, PAGE, Prot::RW);
        s.map(&private.fixed(va(1))).unwrap();
        both(
            &s,
            move |s| touch(mm, &s, 1, Access::Write),
            |_| memory.make_hole(0, 1).unwrap(),
        );
        let there = mapped(&s, 1);
        assert!(there.is_none() || there != cached(mm, &memory));
        let copies = usize::from(there.is_some());
        assert_eq!((s.counts().anon.get(), s.counts().file.get()), (copies, 0));
    });
}

#[test]
fn two_places_and_hole() {
    with_sleepers(24, |mm| {
        let (s, memory) = used(mm, true);
        let old = mapped(&s, 1).unwrap();
        let mut loaded = None;
        be_cpu(2);
        // SAFETY: there is no hardware that walks.
        unsafe { s.switch(&mut loaded, |_| mm.platform().remember(old)) };
        be_cpu(0);
        both(
            &s,
            move |s| {
                touch(mm, &s, 5, Access::Write);
                if mapped(&s, 5).is_some_and(|new| new != old) {
                    assert_ne!(mapped(&s, 1), Some(old), "two pages at one offset");
                    assert!(!mm.platform().remembers(old), "a CPU reaches the old page");
                }
            },
            |_| memory.make_hole(0, 1).unwrap(),
        );
        drop(loaded);
    });
}

#[test]
fn read_and_hole() {
    with_sleepers(16, |mm| {
        let memory = written(mm);
        let other = memory.try_clone().unwrap();
        let reader = thread::spawn(move || {
            be_cpu(1);
            let mut bytes = [0; 4];
            loop {
                let progress = other.read(0, &mut bytes);
                match progress.wait {
                    None => break assert_eq!(progress.done, 4),
                    Some(Ticket::Join(key)) => {
                        mm.platform().sleep_while(|| mm.is_pending(key));
                    }
                    wait => panic!("memory is never read in: {wait:?}"),
                }
            }
            u32::from_ne_bytes(bytes)
        });
        memory.make_hole(0, 1).unwrap();
        let read = reader.join().unwrap();
        assert!(read == 7 || read == 0, "{read}");
    });
}

#[test]
fn truncate_and_hole() {
    on_machine(20, |mm| {
        let (s, memory) = used(mm, false);
        let cut = memory.try_clone().unwrap();
        both(
            &s,
            move |_| cut.set_size(0).unwrap(),
            |_| memory.make_hole(0, 1).unwrap(),
        );
        assert_eq!(mapped(&s, 1), None);
        let held = memory.object().cached_pages();
        assert_eq!((s.counts().file.get(), held), (0, 0));
    });
}

#[test]
fn hole_and_fork() {
    on_machine(32, |mm| {
        let (s, memory) = used(mm, false);
        let (child, ()) = both(
            &s,
            |s| s.fork().unwrap(),
            |_| memory.make_hole(0, 1).unwrap(),
        );
        touch(mm, &s, 1, Access::Write);
        touch(mm, &child, 1, Access::Write);
        assert_eq!(mapped(&s, 1), mapped(&child, 1));
        assert_eq!(mapped(&s, 1), cached(mm, &memory));
    });
}
