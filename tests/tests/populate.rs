//! What populate promises beside others that touch, drop or change the same pages.

use mm_core::addr::VirtAddr;
use mm_core::prot::Prot;
use mm_core::space::{Advice, MapRequest};
use mm_testkit::machine::on_every_machine;
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{Space, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const FIRST: usize = 0x400;
/// Pages of the area; the first one is populated.
const PAGES: usize = 4;

/// Lets CPU 1 do `other` at each place where a populate of one page can be preempted, one after
/// the other, each time in a fresh space with the area that `map` makes; then calls `look`.
fn at_every_place(
    w: &Arc<World>,
    map: impl Fn(&Space, VirtAddr),
    other: fn(&World, &Space, usize),
    look: impl Fn(&Space, usize),
) {
    let page = w.page_size();
    let at = FIRST * page;
    for nth in 1.. {
        let s = w.space();
        map(&s, VirtAddr::new(at));
        let (world, space) = (w.clone(), s.clone());
        w.platform().preempt_nth(nth, move || {
            on_cpu(1, || other(&world, &space, at));
            drop(space);
        });
        let progress = on_cpu(0, || s.populate(VirtAddr::new(at), page)).unwrap();
        assert!(progress.wait.is_none() && progress.error.is_none());
        assert_eq!(progress.done, page);
        let is_last = w.platform().preempt_no_more();
        look(&s, at);
        w.check([&s]).unwrap();
        w.idle(1);
        w.idle(0);
        drop(s);
        if is_last {
            return;
        }
        assert!(nth < 1000, "populate ends");
    }
}

/// A load that comes first enters the zero page, or a page of the file and those around it,
/// all without WRITE: populate has not done its work then (Linux: faultin_page, until FOLL_WRITE
/// holds). A store into what it counted needs no memory.
#[test]
fn a_page_counted_as_populated_takes_a_store_without_memory() {
    on_every_machine(|machine| {
        let w = Arc::new(machine.world(1024, 2, 0));
        let page = w.page_size();
        let takes_store = |s: &Space, at: usize| {
            w.platform().fail_from(1, u64::MAX);
            let stored = w.poke(0, s, at, 9);
            w.platform().fail_none();
            assert_eq!(stored, Ok(()), "after populate");
        };
        let anonymous = |s: &Space, at| {
            let area = MapRequest::anonymous(PAGES * page, Prot::RW);
            s.map(&area.fixed(at)).unwrap();
        };
        at_every_place(
            &w,
            anonymous,
            |w, s, at| {
                w.peek(1, s, at).unwrap();
            },
            takes_store,
        );
        let file = w.file(1, &vec![7; PAGES * page]);
        let private = |s: &Space, at: VirtAddr| {
            let area = MapRequest::private(&file, 0, PAGES * page, Prot::RW);
            s.map(&area.fixed(at)).unwrap();
        };
        let reader = w.space();
        private(&reader, VirtAddr::new(FIRST * page));
        for i in 0..PAGES {
            w.peek(0, &reader, (FIRST + i) * page).unwrap();
        }
        w.idle(0);
        drop(reader);
        at_every_place(
            &w,
            private,
            |w, s, at| {
                // Enters the pages around it, too.
                w.peek(1, s, at + (PAGES - 1) * w.page_size()).unwrap();
            },
            takes_store,
        );
        drop(file);
        w.assert_empty();
    });
}

/// Somebody who drops the page once makes populate fault once more.
#[test]
fn populate_begins_again_where_its_page_was_dropped() {
    on_every_machine(|machine| {
        let w = Arc::new(machine.world(1024, 2, 0));
        let page = w.page_size();
        at_every_place(
            &w,
            |s, at| {
                let area = MapRequest::anonymous(PAGES * page, Prot::RW);
                s.map(&area.fixed(at)).unwrap();
                assert_eq!(s.populate(at, page).unwrap().done, page);
            },
            |w, s, at| {
                let dropped = s.advise(VirtAddr::new(at), w.page_size(), Advice::DontNeed);
                dropped.unwrap();
            },
            |s, at| assert_eq!(w.peek(0, s, at), Ok(0)),
        );
        w.assert_empty();
    });
}

/// Rights that come and go between the question what to fault for and the fault: the area can be
/// read all along, so populate has no reason to fail.
#[test]
fn populate_asks_again_where_the_area_became_another_one() {
    on_every_machine(|machine| {
        let w = machine.world(1024, 2, 0);
        let s = w.space();
        let len = PAGES * w.page_size();
        let at = s.map(&MapRequest::anonymous(len, Prot::RW)).unwrap();
        let stop = AtomicBool::new(false);
        let failed = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    on_cpu(1, || {
                        s.protect(at, len, Prot::READ).unwrap();
                        s.protect(at, len, Prot::RW).unwrap();
                    });
                }
            });
            let populate = || on_cpu(0, || s.populate(at, len).map(|progress| progress.error));
            let failed = (0..CALLS)
                .map(|_| populate())
                .find(|error| *error != Ok(None));
            stop.store(true, Ordering::Relaxed);
            failed
        });
        assert_eq!(failed, None);
        drop(s);
        w.assert_empty();
    });
}

/// Calls beside another CPU that changes rights: without asking again some of them failed.
const CALLS: usize = 100;
