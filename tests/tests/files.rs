//! Mapped objects through the public API: page cache, waits, sharing.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::object::{PagerFacts, Progress, Ticket};
use mm_core::prot::{Access, Prot};
use mm_core::space::{MapFlags, MapRequest};
use mm_core::stats::Counter;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{File, Space, Stopped, World};
use std::sync::Arc;

fn world(machine: &Machine, seed: u64) -> World {
    machine.world(2048, 4, seed)
}

fn text(pages: usize, page: usize) -> Vec<u8> {
    (0..pages * page)
        .map(|i| (i / page) as u8 ^ (i % page % 251) as u8)
        .collect()
}

#[test]
fn a_private_mapping_reads_the_file_and_keeps_its_stores() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 1);
        let bytes = text(40, page);
        let file = w.file(7, &bytes);
        let s = w.space();
        let a = s
            .map(&MapRequest::private(&file, 0, 40 * page, Prot::RW))
            .unwrap()
            .as_usize();
        let mut got = vec![0; bytes.len()];
        w.load(0, &s, a, &mut got).unwrap();
        assert_eq!(got, bytes);
        assert_eq!(
            w.mm().stats().get(Counter::FaultWait),
            40,
            "each page was waited for"
        );
        w.store(0, &s, a + 3, b"mine").unwrap();
        assert_eq!(w.peek(0, &s, a + 3), Ok(b'm'));
        let mut cached = [0; 4];
        assert_eq!(file.read(3, &mut cached).done, 4);
        assert_eq!(cached, bytes[3..7]);
        let t = w.space();
        let b = t
            .map(&MapRequest::private(&file, 0, 40 * page, Prot::READ))
            .unwrap()
            .as_usize();
        w.load(1, &t, b, &mut got).unwrap();
        assert_eq!(got, bytes);
        assert!(
            w.mm().stats().get(Counter::FaultAround) > 30,
            "cached neighbours come along"
        );
        assert_eq!(
            w.mm().stats().get(Counter::FaultWait),
            40,
            "nothing is read twice"
        );
        drop((s, t, file));
        w.assert_empty();
    });
}

#[test]
fn d5_past_the_end_of_the_file_is_sigbus_and_the_tail_is_zero() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 2);
        let file = w.file(1, &vec![1; page + 10]);
        let s = w.space();
        for shared in [false, true] {
            let mut r = MapRequest::private(&file, 0, 4 * page, Prot::RW);
            if shared {
                r = r.with(MapFlags::SHARED);
            }
            let a = s.map(&r).unwrap().as_usize();
            assert_eq!(w.peek(0, &s, a + page + 9), Ok(1));
            assert_eq!(w.peek(0, &s, a + page + 10), Ok(0));
            for access in [
                w.peek(0, &s, a + 2 * page).map(|_| ()),
                w.poke(0, &s, a + 2 * page, 1),
            ] {
                assert!(
                    matches!(access, Err(Stopped::Signal(Signal::BusAdrErr(_)))),
                    "{access:?}"
                );
            }
        }
        drop((s, file));
        w.assert_empty();
    });
}

#[test]
fn e14_shared_anonymous_memory_stays_shared_after_fork() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 3);
        let s = w.space();
        let r = MapRequest::anonymous(2 * page, Prot::RW).with(MapFlags::SHARED);
        let a = s.map(&r).unwrap().as_usize();
        w.poke(0, &s, a, 1).unwrap();
        let c = s.fork().unwrap();
        assert_eq!(w.peek(1, &c, a), Ok(1));
        w.poke(1, &c, a, 2).unwrap();
        w.poke(1, &c, a + page, 3).unwrap();
        assert_eq!(w.peek(0, &s, a), Ok(2));
        assert_eq!(
            w.peek(0, &s, a + page),
            Ok(3),
            "also when first touched after the fork"
        );
        drop((s, c));
        w.assert_empty();
    });
}

#[test]
fn shared_file_stores_reach_everyone_and_make_the_page_dirty() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 4);
        let file = w.file(1, &text(3, page));
        let (s, t) = (w.space(), w.space());
        let a = s
            .map(&MapRequest::shared(&file, 0, 3 * page, Prot::RW))
            .unwrap()
            .as_usize();
        let b = t
            .map(&MapRequest::shared(&file, page as u64, page, Prot::RW))
            .unwrap()
            .as_usize();
        assert_eq!(w.peek(0, &s, a + page), Ok(1));
        w.poke(1, &t, b, 0xee).unwrap();
        assert_eq!(w.peek(0, &s, a + page), Ok(0xee));
        let mut back = [0];
        assert_eq!(file.read(page as u64, &mut back).done, 1);
        assert_eq!(back, [0xee]);
        let cx = w.mm().cx();
        let dirty = file.view(&cx).next_dirty(0).map(|(at, _)| at);
        assert_eq!(dirty, Some(1));
        drop(cx);
        drop((s, t, file));
        w.assert_empty();
    });
}

#[test]
fn lesson_8_private_pages_of_files_are_shared_only_for_reading_at_fork() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 5);
        let file = w.file(1, &text(4, page));
        let s = w.space();
        let a = s
            .map(&MapRequest::private(&file, 0, 4 * page, Prot::RW))
            .unwrap()
            .as_usize();
        s.protect(VirtAddr::new(a + page), page, Prot::READ)
            .unwrap();
        w.poke(0, &s, a + 2 * page, 0xaa).unwrap();
        let c = s.fork().unwrap();
        w.poke(1, &c, a + 2 * page, 0xbb).unwrap();
        w.poke(1, &c, a, 0xcc).unwrap();
        let two = |cpu, s, nth: usize| {
            let mut bytes = [0; 2];
            let loaded = w.load(cpu, s, a + nth * page, &mut bytes);
            loaded.map(|()| bytes)
        };
        // The byte beside each store is the file's.
        assert_eq!(two(0, &s, 2), Ok([0xaa, 3]));
        assert_eq!(two(1, &c, 2), Ok([0xbb, 3]));
        assert_eq!(two(0, &s, 0), Ok([0, 1]));
        assert_eq!(two(1, &c, 0), Ok([0xcc, 1]));
        assert_eq!(two(1, &c, 3), Ok([3, 2]));
        let denied = w.poke(1, &c, a + page, 1);
        assert!(matches!(
            denied,
            Err(Stopped::Signal(Signal::SegvAccErr(_)))
        ));
        drop((s, c, file));
        w.assert_empty();
    });
}

#[test]
fn memory_objects_map_without_waiting() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 6);
        let file = w
            .mm()
            .new_object(PagerFacts::memory(10 * page as u64))
            .unwrap();
        assert_eq!(file.write(5, b"hello").done, 5);
        let s = w.space();
        let a = s
            .map(&MapRequest::shared(&file, 0, page, Prot::RW))
            .unwrap()
            .as_usize();
        assert_eq!(w.peek(0, &s, a + 5), Ok(b'h'));
        assert_eq!(w.mm().stats().get(Counter::FaultWait), 0);
        drop((s, file));
        w.assert_empty();
    });
}

/// A page of a memory-only object is nobody's to read in again: it is charged
/// while the object has it, whoever made it, and a file's pages are not.
#[test]
fn pages_of_memory_objects_are_charged() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 6);
        let charged = || w.platform().charged();
        let read = w.file(1, &text(2, page));
        let memory = PagerFacts::memory(4 * page as u64);
        let file = w.mm().new_object(memory).unwrap();
        let s = w.space();
        let map = |file, pages| MapRequest::shared(file, 0, pages * page, Prot::RW);
        let a = s.map(&map(&file, 4)).unwrap().as_usize();
        let b = s.map(&map(&read, 2)).unwrap().as_usize();
        w.peek(0, &s, b).unwrap();
        assert_eq!(file.read(0, &mut [1; 4]).done, 4);
        assert_eq!(charged(), 0, "a file's page, and a hole");
        assert_eq!(file.write(5, b"hello").done, 5);
        w.poke(0, &s, a + page, 1).unwrap();
        assert_eq!(charged(), 2);
        w.platform().set_charge_limit(2);
        let addr = VirtAddr::new(a + 2 * page);
        for access in [Access::Read, Access::Write] {
            let mode = Mode::User;
            let outcome = s.fault(&Fault { addr, access, mode });
            assert!(matches!(outcome, FaultOutcome::OutOfMemory), "{outcome:?}");
        }
        let refused = file.write(2 * page as u64, b"hello");
        assert!(
            matches!(refused.wait, Some(Ticket::Memory(_))),
            "{refused:?}"
        );
        assert_eq!((charged(), file.object().cached_pages()), (2, 2));
        // What is there costs nothing more, and what goes makes room.
        w.poke(1, &s, a, 2).unwrap();
        file.set_size(page as u64).unwrap();
        assert_eq!(charged(), 1);
        file.set_size(4 * page as u64).unwrap();
        w.poke(0, &s, a + 2 * page, 3).unwrap();
        assert_eq!(charged(), 2);
        drop(file);
        assert_eq!(charged(), 2, "it is still mapped");
        drop((s, read));
        w.assert_empty();
    });
}

/// A read beside who makes a hole reads what was there, or zeros, and makes no page, wherever in
/// the read the hole comes.
#[test]
fn a_read_does_not_fill_the_hole_that_is_made_meanwhile() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = Arc::new(world(machine, 6));
        for nth in 1.. {
            let facts = PagerFacts::memory(page as u64);
            let object = Arc::new(w.mm().new_object(facts).unwrap());
            assert_eq!(object.write(0, &[7; 4]).done, 4);
            let other = object.clone();
            w.platform()
                .preempt_nth(nth, move || on_cpu(1, || other.make_hole(0, 1).unwrap()));
            let mut bytes = [1; 4];
            let read = on_cpu(0, || object.read(0, &mut bytes));
            let is_last = w.platform().preempt_no_more();
            let in_the_middle = format!("{read:?}, preempted at {nth}");
            assert!(
                read.wait.is_none() && read.error.is_none(),
                "{in_the_middle}"
            );
            assert_eq!(read.done, 4, "{in_the_middle}");
            assert!(bytes == [7; 4] || bytes == [0; 4], "{in_the_middle}");
            let left = usize::from(is_last);
            assert_eq!(object.object().cached_pages(), left, "{in_the_middle}");
            drop(object);
            w.assert_empty();
            if is_last {
                break;
            }
        }
    });
}

/// How somebody comes to want the first page of an object.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Touch,
    Write,
}

/// Asks for the page once, as a CPU's part of a race does.
///
/// # Panics
/// When it is refused.
fn ask(wish: Wish, space: &Space, at: usize, object: &File) {
    match wish {
        Wish::Touch => {
            let (addr, access) = (VirtAddr::new(at), Access::Write);
            let mode = Mode::User;
            let outcome = space.fault(&Fault { addr, access, mode });
            let joins = matches!(outcome, FaultOutcome::Wait(Ticket::Join(_)));
            assert!(
                joins || matches!(outcome, FaultOutcome::Resolved(_)),
                "{outcome:?}"
            );
        }
        Wish::Write => {
            let Progress { done, wait, error } = object.write(0, b"page");
            let joins = matches!(wait, Some(Ticket::Join(_)));
            assert_eq!(error, None);
            assert!(joins || (wait.is_none() && done == 4), "{wait:?}");
        }
    }
}

/// There is room for one page, and two want it, wherever one comes in the middle of the other:
/// one makes it, the other gets it.
#[test]
fn nobody_is_refused_a_page_that_somebody_else_makes() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = Arc::new(world(machine, 6));
        w.platform().set_charge_limit(1);
        // A write in the middle of a write waits for its end.
        let races = [
            (Wish::Touch, Wish::Touch),
            (Wish::Touch, Wish::Write),
            (Wish::Write, Wish::Touch),
        ];
        for (one, other) in races {
            for nth in 1.. {
                let facts = PagerFacts::memory(page as u64);
                let object = Arc::new(w.mm().new_object(facts).unwrap());
                let (s, t) = (w.space(), w.space());
                let shared = MapRequest::shared(&object, 0, page, Prot::RW);
                let a = s.map(&shared).unwrap().as_usize();
                let b = t.map(&shared).unwrap().as_usize();
                let (space, file) = (t.clone(), object.clone());
                w.platform().preempt_nth(nth, move || {
                    on_cpu(1, || ask(other, &space, b, &file));
                });
                on_cpu(0, || ask(one, &s, a, &object));
                let is_last = w.platform().preempt_no_more();
                assert_eq!(w.platform().charged(), 1, "{one:?}, {other:?}, at {nth}");
                on_cpu(1, || ask(other, &t, b, &object));
                on_cpu(0, || ask(one, &s, a, &object));
                drop((s, t, object));
                w.assert_empty();
                if is_last {
                    break;
                }
            }
        }
    });
}

/// Of two threads that touch one page of private memory, and there is room for one page, one is not
/// refused because the other was faster.
#[test]
fn nobody_is_refused_a_page_that_another_thread_touched_meanwhile() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = Arc::new(world(machine, 6));
        for nth in 1.. {
            let s = w.space();
            let a = s.map(&MapRequest::anonymous(page, Prot::RW)).unwrap();
            let fault = Fault {
                addr: a,
                access: Access::Write,
                mode: Mode::User,
            };
            w.platform().set_charge_limit(1);
            let space = s.clone();
            w.platform().preempt_nth(nth, move || {
                // The first one may have been charged for it already.
                let _or_refused = on_cpu(1, || space.fault(&fault));
            });
            let outcome = on_cpu(0, || s.fault(&fault));
            let is_last = w.platform().preempt_no_more();
            assert!(
                matches!(outcome, FaultOutcome::Resolved(_)),
                "{outcome:?}, preempted at {nth}"
            );
            assert_eq!(w.platform().charged(), 1);
            drop(s);
            w.assert_empty();
            if is_last {
                break;
            }
        }
    });
}

const STORE: u64 = 7;

/// A store that is full takes no page, neither by a write nor through a mapping, and keeps what it
/// has; other objects are not concerned. That is no lack of memory, which stays one.
#[test]
fn a_full_store_of_memory_objects_takes_no_page() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 6);
        let held = || w.platform().held(STORE);
        let facts = PagerFacts::memory(4 * page as u64);
        let stored = w.mm().new_object(facts.named(3).in_store(STORE)).unwrap();
        let other = w.mm().new_object(facts.named(3)).unwrap();
        let s = w.space();
        let map = |file| MapRequest::shared(file, 0, 4 * page, Prot::RW);
        let a = s.map(&map(&stored)).unwrap().as_usize();
        let b = s.map(&map(&other)).unwrap().as_usize();
        w.platform().set_room(STORE, 1);
        w.poke(0, &s, a, 1).unwrap();
        let addr = VirtAddr::new(a + page);
        for access in [Access::Read, Access::Write] {
            let mode = Mode::User;
            let outcome = s.fault(&Fault { addr, access, mode });
            assert!(matches!(outcome, FaultOutcome::NoSpace), "{outcome:?}");
        }
        let copied = s.write(addr, b"no").map(|progress| progress.done);
        assert_eq!(copied, Err(MmError::Fault(addr)));
        let refused = stored.write(2 * page as u64, b"no");
        assert!(refused.done == 0 && refused.wait.is_none(), "{refused:?}");
        assert_eq!(refused.error, Some(MmError::NoSpace));
        assert_eq!(stored.write(1, b"yes").done, 3);
        w.poke(0, &s, a, 2).unwrap();
        w.poke(0, &s, b + page, 3).unwrap();
        assert_eq!(other.write(2 * page as u64, b"yes").done, 3);
        let pages = (stored.object().cached_pages(), w.platform().charged());
        assert_eq!(pages, (1, 3), "what was refused was not charged");
        // Room, but no memory.
        w.platform().set_room(STORE, 2);
        w.platform().set_charge_limit(3);
        let waits = stored.write(2 * page as u64, b"no").wait;
        assert!(matches!(waits, Some(Ticket::Memory(_))), "{waits:?}");
        assert_eq!(held(), 1, "what was not charged is not held");
        // A private copy is the space's, not the store's.
        let own = MapRequest::private(&stored, 0, page, Prot::RW);
        let own = s.map(&own).unwrap();
        let access = Access::Write;
        let mode = Mode::User;
        let outcome = s.fault(&Fault {
            addr: own,
            access,
            mode,
        });
        assert!(matches!(outcome, FaultOutcome::OutOfMemory), "{outcome:?}");
        drop((s, stored, other));
        assert_eq!(held(), 0);
        w.assert_empty();
    });
}

/// However pages leave a store, it has room again, and for no more than left: also when they are
/// cut off in the middle of an access that makes one.
#[test]
fn a_store_holds_exactly_what_its_objects_have() {
    const ROOM: usize = 3;
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = Arc::new(world(machine, 6));
        w.platform().set_room(STORE, ROOM);
        let facts = PagerFacts::memory(4 * page as u64).in_store(STORE);
        for nth in 1.. {
            let (one, two) = (w.mm().new_object(facts), w.mm().new_object(facts));
            let (one, two) = (Arc::new(one.unwrap()), two.unwrap());
            assert_eq!(two.write(0, b"page").done, 4);
            assert_eq!(one.write(0, b"page").done, 4);
            let s = w.space();
            let shared = MapRequest::shared(&one, 0, 4 * page, Prot::RW);
            let addr = VirtAddr::new(s.map(&shared).unwrap().as_usize() + page);
            let file = one.clone();
            w.platform()
                .preempt_nth(nth, move || on_cpu(1, || file.set_size(0).unwrap()));
            let (access, mode) = (Access::Write, Mode::User);
            let outcome = on_cpu(0, || s.fault(&Fault { addr, access, mode }));
            assert!(!matches!(outcome, FaultOutcome::NoSpace), "{outcome:?}");
            let is_last = w.platform().preempt_no_more();
            let pages = || one.object().cached_pages() + two.object().cached_pages();
            assert_eq!(w.platform().held(STORE), pages(), "preempted at {nth}");
            // Whatever is left of the room is to be had.
            while two.write(two.size(), &vec![1; page]).error.is_none() {}
            assert_eq!(w.platform().held(STORE), ROOM, "preempted at {nth}");
            assert_eq!(pages(), ROOM, "preempted at {nth}");
            two.make_hole(0, 1).unwrap();
            assert_eq!(w.platform().held(STORE), ROOM - 1);
            drop((s, one, two));
            w.assert_empty();
            if is_last {
                break;
            }
        }
    });
}

/// Of two who want the last page of a store one gets it, wherever one comes in the middle of the
/// other.
#[test]
fn the_last_page_of_a_store_has_one_taker() {
    on_every_machine(|machine| {
        let w = Arc::new(world(machine, 6));
        w.platform().set_room(STORE, 1);
        for nth in 1.. {
            let facts = PagerFacts::memory(0).in_store(STORE);
            let (one, two) = (w.mm().new_object(facts), w.mm().new_object(facts));
            let (one, two) = (one.unwrap(), Arc::new(two.unwrap()));
            let other = two.clone();
            w.platform().preempt_nth(nth, move || {
                let Progress { done, wait, error } = on_cpu(1, || other.write(0, b"page"));
                let refused = error == Some(MmError::NoSpace);
                assert!(wait.is_none() && refused == (done == 0), "{error:?}");
            });
            let Progress { done, wait, error } = on_cpu(0, || one.write(0, b"page"));
            let refused = error == Some(MmError::NoSpace);
            assert!(wait.is_none() && refused == (done == 0), "{error:?}");
            let is_last = w.platform().preempt_no_more();
            let pages = one.object().cached_pages() + two.object().cached_pages();
            assert_eq!((pages, w.platform().held(STORE)), (1, 1), "at {nth}");
            assert_eq!(one.size() + two.size(), 4, "preempted at {nth}");
            drop((one, two));
            w.assert_empty();
            if is_last {
                break;
            }
        }
    });
}

#[test]
fn g5_lesson_60_truncation_unmaps_private_copies_too() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 7);
        let file = w.file(1, &text(6, page));
        let (s, t) = (w.space(), w.space());
        let a = s
            .map(&MapRequest::shared(&file, 0, 6 * page, Prot::RW))
            .unwrap()
            .as_usize();
        let b = t
            .map(&MapRequest::private(&file, 0, 6 * page, Prot::RW))
            .unwrap()
            .as_usize();
        for n in 0..6 {
            w.peek(0, &s, a + n * page).unwrap();
            w.poke(1, &t, b + n * page, 0x77).unwrap();
        }
        file.set_size(2 * page as u64 + 100).unwrap();
        assert_eq!(w.peek(0, &s, a + 2 * page + 99), Ok(2 ^ 99));
        assert_eq!(w.peek(1, &t, b + 2 * page), Ok(0x77), "the last page stays");
        for n in 3..6 {
            for access in [w.peek(0, &s, a + n * page), w.peek(1, &t, b + n * page)] {
                assert!(
                    matches!(access, Err(Stopped::Signal(Signal::BusAdrErr(_)))),
                    "{access:?}"
                );
            }
        }
        assert_eq!(t.counts().anon.get(), 3);
        file.set_size(6 * page as u64).unwrap();
        assert_eq!(
            w.peek(0, &s, a + 2 * page + 100),
            Ok(0),
            "growth shows zeros"
        );
        drop((s, t, file));
        w.assert_empty();
    });
}

#[test]
fn a_truncation_while_a_fork_flushes_is_paid_back_once() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 11);
        let file = Arc::new(w.file(1, &text(6, page)));
        let s = w.space();
        let a = s
            .map(&MapRequest::private(&file, 0, 6 * page, Prot::RW))
            .unwrap()
            .as_usize();
        for n in 0..6 {
            w.poke(0, &s, a + n * page, 0x77).unwrap();
        }
        let again = file.clone();
        w.platform().interrupt_flush(move || {
            again.set_size(2 * page as u64).unwrap();
        });
        let child = s.fork().unwrap();
        assert_eq!((s.counts().anon.get(), child.counts().anon.get()), (2, 2));
        assert_eq!(w.platform().charged(), 4, "two pages in each");
        drop((s, child, file));
        w.assert_empty();
    });
}

/// A page is cut off and grown anew between the moment a fault finds it and the
/// moment it would install it: what was cut off must not come back, and a store
/// must go to the page that the file has now.
#[test]
fn g5_a_page_that_was_cut_off_is_not_mapped_when_the_file_has_grown_again() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = Arc::new(machine.world(256, 4, 1));
        let mut key = 0;
        for (shared, store) in [(true, false), (true, true), (false, false), (false, true)] {
            let mut met = 0;
            for nth in 1.. {
                key += 1;
                let file = Arc::new(w.file(key, &vec![7; page]));
                let (s, reader) = (w.space(), w.space());
                let request = if shared {
                    MapRequest::shared(&file, 0, page, Prot::RW)
                } else {
                    MapRequest::private(&file, 0, page, Prot::RW)
                };
                let a = s.map(&request).unwrap().as_usize();
                // So that it is cached.
                let b = reader.map(&request).unwrap().as_usize();
                assert_eq!(w.peek(1, &reader, b), Ok(7));
                let (w2, file2) = (w.clone(), file.clone());
                w.platform().preempt_nth(nth, move || {
                    w2.resize(&file2, 0);
                    w2.resize(&file2, page);
                });
                if store {
                    w.poke(0, &s, a + 1, 9).unwrap();
                }
                let got = w.peek(0, &s, a);
                let interrupted = !w.platform().preempt_no_more();
                if interrupted {
                    met += 1;
                    let how = format!("shared {shared}, store {store}, preempted at {nth}");
                    assert_eq!(got, Ok(0), "{how}");
                    let mut bytes = [0; 2];
                    let read =
                        w.finish(0, 0, 2, |at, _| Ok(file.read(at as u64, &mut bytes[at..])));
                    assert_eq!(read, Ok(2), "{how}");
                    let stored = w.peek(0, &s, a + 1).unwrap();
                    assert!(stored == 0 || (store && stored == 9), "{how}: {stored}");
                    assert_eq!(bytes, [0, if shared { stored } else { 0 }], "{how}");
                }
                drop((s, reader, file));
                w.assert_empty();
                if !interrupted {
                    break;
                }
            }
            assert!(met >= 3, "only {met} places to be preempted at");
        }
    });
}

#[test]
fn h17_lesson_48_a_shared_byte_has_one_name_in_every_space_and_a_private_one_has_none() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 9);
        let file = w.file(1, &text(6, page));
        let (s, t) = (w.space(), w.space());
        let name = |space: &Space, at: usize| {
            let found = space.shared_object(VirtAddr::new(at)).unwrap();
            found.map(|(object, offset)| (object.handle(), offset))
        };
        // One file, mapped in two spaces at other offsets.
        let map = |space: &Space, r: MapRequest<'_, 'static, _>| space.map(&r).unwrap().as_usize();
        let a = map(&s, MapRequest::shared(&file, 0, 6 * page, Prot::RW));
        let below = map(&t, MapRequest::anonymous(page, Prot::RW));
        let b = map(
            &t,
            MapRequest::shared(&file, 2 * page as u64, 3 * page, Prot::READ),
        );
        let offset = 3 * page as u64 + 20;
        assert_eq!(name(&s, a + 3 * page + 20), Some((file.handle(), offset)));
        assert_eq!(name(&t, b + page + 20), Some((file.handle(), offset)));
        // Anonymous shared memory goes to the child under the same name; another one has another.
        let shared = || MapRequest::anonymous(2 * page, Prot::RW).with(MapFlags::SHARED);
        let (c, d) = (map(&s, shared()), map(&s, shared()));
        let before = name(&s, c + page).unwrap();
        let child = s.fork().unwrap();
        assert_eq!(name(&child, c + page), Some(before));
        assert_ne!(name(&s, d + page), Some(before));
        // Private memory has no name, before and after it is copied; a hole has none either.
        let own = map(&s, MapRequest::private(&file, 0, page, Prot::RW));
        assert_eq!(name(&s, own), None);
        w.poke(0, &s, own, 1).unwrap();
        assert_eq!(name(&s, own), None);
        assert_eq!(name(&t, below), None);
        assert_eq!(name(&t, 0), None);
        // The name outlives the mapping while somebody holds it.
        let (held, _) = s.shared_object(VirtAddr::new(c)).unwrap().unwrap();
        drop((s, t, child, file));
        assert_eq!(held.handle(), before.0);
        assert_eq!(held.object().refs(), 1);
        drop(held);
        w.assert_empty();
    });
}

#[test]
fn stores_after_a_page_was_cleaned_are_found_by_writeback() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let file = w.file(1, &vec![1; 3 * page]);
        let s = w.space();
        let at = s
            .map(&MapRequest::shared(&file, 0, 3 * page, Prot::RW))
            .unwrap();
        let at = at.as_usize();
        let next = || {
            file.view(&w.mm().cx())
                .next_dirty(0)
                .map(|(pgoff, _)| pgoff)
        };
        let clean = || {
            let cx = w.mm().cx();
            let (_, dirty) = file.view(&cx).next_dirty(0).unwrap();
            assert!(file.view(&cx).clean(&dirty));
        };
        // On two CPUs, each of which remembers that it may store.
        for round in 0..3 {
            for cpu in 0..2 {
                w.poke(cpu, &s, at + page, round).unwrap();
            }
            assert_eq!(next(), Some(1), "round {round}");
            clean();
            assert_eq!(next(), None, "round {round}");
        }
        w.poke(1, &s, at + page, 7).unwrap();
        assert_eq!(next(), Some(1));
        drop((s, file));
        w.assert_empty();
    });
}

#[test]
fn a_page_unmapped_dirty_is_found_by_writeback() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let file = w.file(1, &vec![1; 3 * page]);
        let s = w.space();
        let at = s
            .map(&MapRequest::shared(&file, 0, 3 * page, Prot::RW))
            .unwrap();
        w.poke(0, &s, at.as_usize(), 7).unwrap();
        let cx = w.mm().cx();
        let view = file.view(&cx);
        s.protect(at, 3 * page, Prot::READ).unwrap();
        let (pgoff, dirty) = view.next_dirty(0).unwrap();
        assert_eq!(pgoff, 0);
        assert!(view.clean(&dirty));
        drop(dirty);
        // The entry says still that it was stored through.
        s.unmap(at, 3 * page).unwrap();
        if let Some((_, again)) = view.next_dirty(0) {
            assert!(view.clean(&again));
        }
        assert!(view.next_dirty(0).is_none());
        assert_eq!(file.write(0, &[9; 8]).done, 8);
        let found = view.next_dirty(0).map(|(pgoff, _)| pgoff);
        assert_eq!(found, Some(0), "a write(2) that writeback never sees");
    });
}
