//! The claims, for the page cache of two objects on one machine:
//!
//! - `one_begins_the_transfer`: of two who want a page that is not there one
//!   gets the transfer, the other joins.
//! - `one_reads_and_all_get_it`: who comes while it ends gets that page, asleep
//!   or not; nobody sleeps on, and nobody reads again.
//! - `a_failed_read_is_begun_anew`: who had joined a transfer that fails is
//!   woken too, and gets the next one.
//! - `who_looks_gets_the_page_or_none`: a lookup without a lock, while the page
//!   is truncated and its frame and index node serve another object, finds the
//!   page or nothing.
//! - `a_node_that_changes_its_level_is_not_followed`: nor does it take a frame for
//!   a node, when the index's root becomes another's leaf.
//! - `an_index_is_not_drained_under_a_reader`: nor does it walk a node whose
//!   slab became something else.
//! - `nobody_is_refused_what_another_makes`: there is room for one page, and two want
//!   it: one makes it, both get it.
//! - `what_is_cut_off_is_given_back`: a page that is truncated while it is charged is given
//!   back once.
//! - `nothing_is_read_in_past_the_end`: a page that comes in while the file is
//!   truncated does not stay.
#![cfg(loom)]

mod explore;
mod machine;

use explore::at_most;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::Mm;
use mm_core::addr::Pfn;
use mm_core::object::{Found, IoRequest, ObjectRef, PagerFacts, Ticket, TicketError};

type File = ObjectRef<'static, Machine>;

const PAGE: u64 = 128;

/// Runs `one` on CPU 1 while `two` runs on CPU 0.
fn both<A: Send + 'static, B>(
    object: &File,
    one: impl FnOnce(File) -> A + Send + 'static,
    two: impl FnOnce(&File) -> B,
) -> (A, B) {
    let other = object.try_clone().unwrap();
    let thread = thread::spawn(move || {
        be_cpu(1);
        one(other)
    });
    let two = two(object);
    (thread.join().unwrap(), two)
}

/// Counts the transfers that readers begin.
struct Pager {
    begun: AtomicU32,
}

impl Pager {
    fn new() -> Self {
        Self {
            begun: AtomicU32::new(0),
        }
    }

    /// Reads the first page as a kernel does; `None` past the end.
    fn read(&self, mm: &'static Mm<Machine>, file: &File) -> Option<Pfn> {
        let cx = mm.cx();
        loop {
            match file.view(&cx).find_or_create(0) {
                Found::Page(page) => return Some(page.pfn()),
                Found::Wait(Ticket::Start(request)) => {
                    self.begun.fetch_add(1, Ordering::Relaxed);
                    request.finish(Ok(()));
                }
                Found::Wait(Ticket::Join(key)) => {
                    mm.platform().sleep_while(|| mm.is_pending(key));
                }
                Found::PastEof => return None,
                found => panic!("{found:?}"),
            }
        }
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }
}

/// Begins the transfer of the first page.
fn begin(mm: &'static Mm<Machine>, file: &File) -> IoRequest<'static, Machine> {
    match file.view(&mm.cx()).find_or_create(0) {
        Found::Wait(Ticket::Start(request)) => request,
        found => panic!("{found:?}"),
    }
}

#[test]
fn one_begins_the_transfer() {
    at_most(3, || {
        Machine::with_mm(16, |mm| {
            let file = mm.new_object(PagerFacts::file(1, PAGE)).unwrap();
            let ask = move |file: &File| match file.view(&mm.cx()).find_or_create(0) {
                Found::Wait(Ticket::Start(request)) => Some(request),
                Found::Wait(Ticket::Join(_)) => None,
                found => panic!("{found:?}"),
            };
            let (one, two) = both(&file, move |f| ask(&f), ask);
            assert!(one.is_some() != two.is_some(), "one begins");
            one.or(two).unwrap().finish(Ok(()));
        });
    });
}

#[test]
fn one_reads_and_all_get_it() {
    at_most(3, || {
        Machine::with_mm(12, |mm| {
            let file = mm.new_object(PagerFacts::file(1, PAGE)).unwrap();
            let request = begin(mm, &file);
            let frame = request.ticket_key().frame;
            let pager = Pager::new();
            let finish = move |_| request.finish(Ok(()));
            let ((), got) = both(&file, finish, |f| pager.read(mm, f));
            assert_eq!((got, pager.begun()), (Some(frame), 0), "read twice");
        });
    });
}

#[test]
fn a_failed_read_is_begun_anew() {
    at_most(3, || {
        Machine::with_mm(12, |mm| {
            let file = mm.new_object(PagerFacts::file(1, PAGE)).unwrap();
            let request = begin(mm, &file);
            let pager = Pager::new();
            let finish = move |_| request.finish(Err(TicketError));
            let ((), got) = both(&file, finish, |f| pager.read(mm, f));
            assert!(got.is_some() && pager.begun() == 1);
        });
    });
}

#[test]
fn who_looks_gets_the_page_or_none() {
    at_most(3, || {
        Machine::with_mm(16, |mm| {
            let ours = mm.new_object(PagerFacts::memory(PAGE)).unwrap();
            let other = mm.new_object(PagerFacts::memory(PAGE)).unwrap();
            drop(ours.view(&mm.cx()).find_or_create(0));
            // Spawned, or hardly any order is explored.
            let look = move |ours: File| match ours.view(&mm.cx()).find_or_create(0) {
                Found::Page(page) => {
                    let user = page.record().user();
                    assert_eq!(user.owner(), ours.handle().into_raw(), "another's page");
                    assert_eq!(user.index(), 0);
                }
                Found::PastEof => {}
                found => panic!("memory is never read: {found:?}"),
            };
            let reuse = |ours: &File| {
                ours.set_size(0).unwrap();
                drop(other.view(&mm.cx()).find_or_create(0));
            };
            both(&ours, look, reuse);
        });
    });
}

/// The page after those of a node of level 1.
const SECOND_LEAF: u64 = 64;

#[test]
fn a_node_that_changes_its_level_is_not_followed() {
    // A frame that is taken for a node is noticed by the memory.
    at_most(3, || {
        Machine::with_mm(16, |mm| {
            let size = (SECOND_LEAF + 1) * PAGE;
            let ours = mm.new_object(PagerFacts::memory(size)).unwrap();
            let other = mm.new_object(PagerFacts::memory(2 * PAGE)).unwrap();
            drop(ours.view(&mm.cx()).find_or_create(SECOND_LEAF));
            let look = move |ours: File| drop(ours.view(&mm.cx()).find_page(SECOND_LEAF));
            let reuse = |ours: &File| {
                // The root, of level 2, is freed last, so it is taken first.
                ours.set_size(0).unwrap();
                drop(other.view(&mm.cx()).find_or_create(1));
            };
            both(&ours, look, reuse);
        });
    });
}

#[test]
fn an_index_is_not_drained_under_a_reader() {
    at_most(3, || {
        Machine::with_mm(16, |mm| {
            let file = mm.new_object(PagerFacts::memory(PAGE)).unwrap();
            let cx = mm.cx();
            drop(file.view(&cx).find_or_create(0));
            let look = move |file: File| {
                let cx = mm.cx();
                drop(file.view(&cx).find_page(0));
            };
            let reuse = |file: &File| {
                file.set_size(0).unwrap();
                mm.drain();
                // All that is free becomes tables.
                Machine::dirty(mm.frames());
            };
            both(&file, look, reuse);
        });
    });
}

#[test]
fn nothing_is_read_in_past_the_end() {
    at_most(3, || {
        Machine::with_mm(12, |mm| {
            let file = mm.new_object(PagerFacts::file(1, PAGE)).unwrap();
            let pager = Pager::new();
            let (_, ()) = both(
                &file,
                move |f| pager.read(mm, &f),
                |f| f.set_size(0).unwrap(),
            );
            assert_eq!(file.object().cached_pages(), 0, "a page past the end");
        });
    });
}

#[test]
fn nobody_is_refused_what_another_makes() {
    at_most(2, || {
        Machine::with_room(12, 1, |mm| {
            let memory = mm.new_object(PagerFacts::memory(PAGE)).unwrap();
            let get = move |file: &File| Pager::new().read(mm, file);
            let (one, two) = both(&memory, move |f| get(&f), get);
            assert!(one.is_some() && one == two, "two pages");
            assert_eq!(memory.object().cached_pages(), 1);
        });
    });
}

#[test]
fn what_is_cut_off_is_given_back() {
    at_most(3, || {
        Machine::with_room(12, 1, |mm| {
            let memory = mm.new_object(PagerFacts::memory(PAGE)).unwrap();
            let get = move |file: File| Pager::new().read(mm, &file);
            both(&memory, get, |f| f.set_size(0).unwrap());
            assert_eq!(memory.object().cached_pages(), 0, "a page past the end");
        });
    });
}
