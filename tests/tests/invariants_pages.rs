//! Faults, forks and flushes by the letter (D, E, F); letters that are not here name a test of another file.

use mm_core::addr::{Pfn, VirtAddr};
use mm_core::error::MmError;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::format::PageTableFormat;
use mm_core::page::PageFlags;
use mm_core::prot::{Access, Prot};
use mm_core::space::{Advice, MapFlags, MapRequest, SpaceLimits};
use mm_core::stats::Counter;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::world::{Space, Stopped, World, page_size};

fn world(machine: &Machine) -> World {
    machine.world(2048, 4, 0)
}

fn va(a: usize) -> VirtAddr {
    VirtAddr::new(a)
}

fn anon(s: &Space, pages: usize) -> usize {
    let r = MapRequest::anonymous(pages * page_size(s), Prot::RW);
    s.map(&r).unwrap().as_usize()
}

fn check(w: &World, spaces: &[&Space]) {
    w.check(spaces.iter().copied()).unwrap();
}

fn is_accerr<T>(r: Result<T, Stopped>) -> bool {
    matches!(r, Err(Stopped::Signal(Signal::SegvAccErr(_))))
}

fn is_maperr<T>(r: Result<T, Stopped>) -> bool {
    matches!(r, Err(Stopped::Signal(Signal::SegvMapErr(_))))
}

#[test]
fn d1_d2_lessons_62_63_a_fault_on_a_good_entry_is_resolved_and_disturbs_nobody() {
    on_every_machine(|machine| {
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 1);
        (0..3).for_each(|cpu| w.run(cpu, &s));
        w.poke(0, &s, a, 1).unwrap();
        let _before = w.platform().take_log();
        for access in [Access::Read, Access::Write] {
            let fault = Fault {
                addr: va(a),
                access,
                mode: Mode::User,
            };
            assert!(matches!(s.fault(&fault), FaultOutcome::Resolved(_)));
        }
        assert_eq!(w.mm().stats().get(Counter::FaultSpurious), 2);
        let flushes = w.platform().take_log().flushes;
        // Each drops what made this CPU fault, and nothing elsewhere.
        assert_eq!(flushes.len(), 2, "{flushes:?}");
        assert!(
            flushes.iter().all(|(cpus, _)| cpus.iter().eq([0])),
            "{flushes:?}"
        );
        check(&w, &[&s]);
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn d3_each_right_allows_its_access_and_no_other() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        for bits in 0..8 {
            let prot = Prot::from_bits_truncate(bits);
            for touched in [false, true] {
                let a = anon(&s, 1);
                if touched {
                    w.poke(0, &s, a, 1).unwrap();
                    w.poke(1, &s, a, 1).unwrap();
                }
                s.protect(va(a), page, prot).unwrap();
                for cpu in 0..2 {
                    let got = w.peek(cpu, &s, a).map(|_| ());
                    let hidden = prot == Prot::EXEC && machine.format().has_exec_only();
                    let readable = !prot.is_empty() && !hidden;
                    assert_eq!(got.is_ok(), readable, "{prot} {touched}");
                    assert!(got.is_ok() || is_accerr(got));
                    let got = w.poke(cpu, &s, a, 1);
                    assert_eq!(got.is_ok(), prot.contains(Prot::WRITE), "{prot} {touched}");
                    assert!(got.is_ok() || is_accerr(got));
                    let got = w.fetch(cpu, &s, a);
                    let open = !prot.is_empty() && !machine.format().forbids_exec();
                    let runs = prot.contains(Prot::EXEC) || open;
                    assert_eq!(got.is_ok(), runs, "{prot} {touched}");
                    assert!(got.is_ok() || is_accerr(got));
                }
                check(&w, &[&s]);
            }
        }
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn d4_a_stack_stops_at_the_guard_unless_what_lies_below_is_no_danger() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let top = 0x50000 * page;
        for (prot, flags, stops) in [
            (Prot::READ, MapFlags::empty(), true),
            (Prot::NONE, MapFlags::empty(), false),
            (Prot::RW, MapFlags::GROWS_DOWN, false),
        ] {
            let s = w.space();
            s.set_limits(SpaceLimits {
                stack: 2048 * page,
                stack_guard: 256 * page,
                ..s.limits()
            });
            let below = MapRequest::anonymous(page, prot).fixed(va(top - 600 * page));
            s.map(&below.with(flags)).unwrap();
            let stack = MapRequest::anonymous(page, Prot::RW).fixed(va(top - page));
            s.map(&stack.with(MapFlags::GROWS_DOWN)).unwrap();
            let guard = 256;
            // The lowest page that leaves the guard free.
            let last = top - (599 - guard) * page;
            w.poke(0, &s, last, 1).unwrap();
            let further = w.poke(0, &s, last - page, 1);
            assert_eq!(is_maperr(further), stops, "{prot} {flags:?}");
            check(&w, &[&s]);
            drop(s);
            w.assert_empty();
        }
    });
}

/// The area changes while its page is read: what comes back from the disk is
/// not entered where it no longer belongs.
#[test]
fn d6_what_was_waited_for_is_looked_at_again() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &vec![5; 4 * page]);
        let s = w.space();
        let a = s
            .map(&MapRequest::private(&file, 0, page, Prot::RW))
            .unwrap();
        let fault = Fault {
            addr: a,
            access: Access::Read,
            mode: Mode::User,
        };
        let FaultOutcome::Wait(ticket) = s.fault(&fault) else {
            panic!("nothing to wait for")
        };
        s.unmap(a, page).unwrap();
        w.serve(ticket).unwrap();
        assert!(is_maperr(w.peek(0, &s, a.as_usize())));
        // Somebody else's mapping at the same place is what counts then.
        s.map(&MapRequest::anonymous(page, Prot::READ).fixed(a))
            .unwrap();
        assert_eq!(w.peek(0, &s, a.as_usize()), Ok(0));
        check(&w, &[&s]);
        drop((s, file));
        w.assert_empty();
    });
}

#[test]
fn d7_lesson_59_fault_around_stays_inside_the_area_and_counts_every_page() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &vec![5; 64 * page]);
        let mut bytes = vec![0; 64 * page];
        let read = |at: usize, bytes: &mut [u8]| {
            let r = w.finish(0, at, bytes.len(), |at, len| {
                Ok(file.read(at as u64, &mut bytes[at..at + len]))
            });
            assert_eq!(r, Ok(bytes.len()));
        };
        read(0, &mut bytes);
        let s = w.space();
        // What one table spans.
        let table = machine.format().entries(1) * page;
        let at = (0x40000 * page).next_multiple_of(table) - 3 * page;
        // Three pages before a border of tables, five behind it; a hole in front.
        let r = MapRequest::private(&file, 8 * page as u64, 8 * page, Prot::READ).fixed(va(at));
        s.map(&r).unwrap();
        assert_eq!(w.peek(0, &s, at + page), Ok(5));
        assert_eq!(s.counts().file.get(), 3, "one table page");
        check(&w, &[&s]);
        assert_eq!(w.peek(0, &s, at + 4 * page), Ok(5));
        assert_eq!(s.counts().file.get(), 8, "the area");
        check(&w, &[&s]);
        s.unmap(va(at + page), 2 * page).unwrap();
        assert_eq!(s.counts().file.get(), 6);
        drop((s, file));
        w.assert_empty();
    });
}

#[test]
fn e3_after_fork_no_cpu_can_write_to_what_is_shared() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 40);
        for cpu in 0..3 {
            for i in 0..40 {
                w.poke(cpu, &s, a + i * page, 1).unwrap();
            }
        }
        let child = s.fork().unwrap();
        for cpu in 0..3 {
            for i in 0..40 {
                let left = w
                    .tlbs()
                    .remembered(cpu, va(a + i * page).vpn(w.page_shift()));
                assert!(left.iter().all(|leaf| !leaf.rights.user.write), "CPU {cpu}");
            }
        }
        check(&w, &[&s, &child]);
        drop((s, child));
        w.assert_empty();
    });
}

#[test]
fn e2_e4_lessons_33_34_43_a_chain_of_forks_keeps_everyones_bytes_apart() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let mut all = vec![w.space()];
        let a = anon(&all[0], 3);
        w.poke(0, &all[0], a, 100).unwrap();
        for n in 1..6 {
            let child = all[n - 1].fork().unwrap();
            all.push(child);
            // The first page stays common, the second is written by everyone.
            w.poke(n % 4, &all[n], a + page, n as u8).unwrap();
            w.poke(n % 4, &all[n], a + page + n, 10 + n as u8).unwrap();
            if n == 3 {
                w.poke(0, &all[n], a, 33).unwrap();
            }
            w.check(&all).unwrap();
        }
        for (n, s) in all.iter().enumerate() {
            let first = if n < 3 { 100 } else { 33 };
            assert_eq!(w.peek(n % 4, s, a), Ok(first), "space {n}");
            assert_eq!(w.peek(n % 4, s, a + page), Ok(n as u8), "space {n}");
            let mut marks = [0; 6];
            w.load(n % 4, s, a + page, &mut marks).unwrap();
            let inherited = |i: usize| if i <= n { 10 + i as u8 } else { 0 };
            let want: Vec<u8> = (1..6).map(inherited).collect();
            assert_eq!(marks[1..], want, "what space {n} has of those before it");
        }
        // The middle goes first.
        while !all.is_empty() {
            drop(all.remove(all.len() / 2));
            w.check(&all).unwrap();
        }
        w.assert_empty();
    });
}

#[test]
fn e6_lessons_32_37_what_was_read_only_stays_so_in_the_child() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 2);
        w.poke(0, &s, a, 1).unwrap();
        s.protect(va(a), page, Prot::READ).unwrap();
        let child = s.fork().unwrap();
        assert!(is_accerr(w.poke(0, &s, a, 2)));
        assert!(is_accerr(w.poke(1, &child, a, 2)));
        assert_eq!(w.peek(1, &child, a), Ok(1));
        w.poke(1, &child, a + page, 2).unwrap();
        // nyx-os#21: a shared page that nobody may write to was not counted, and went with one.
        drop(s);
        assert_eq!(w.peek(1, &child, a), Ok(1));
        check(&w, &[&child]);
        drop(child);
        w.assert_empty();
    });
}

/// Lesson 36: an 8-bit count had it with the 256th sharer.
#[test]
fn e7_lesson_36_three_hundred_processes_share_a_page() {
    on_every_machine(|machine| {
        let w = world(machine);
        let mut all = vec![w.space()];
        let a = anon(&all[0], 1);
        w.poke(0, &all[0], a, 7).unwrap();
        for _ in 0..300 {
            let child = all[0].fork().unwrap();
            all.push(child);
        }
        w.check(&all).unwrap();
        assert_eq!(w.peek(1, &all[300], a), Ok(7));
        w.poke(1, &all[300], a, 8).unwrap();
        assert_eq!(w.peek(2, &all[150], a), Ok(7));
        all.truncate(1);
        let reused = w.mm().stats().get(Counter::CowReuse);
        w.poke(0, &all[0], a, 9).unwrap();
        assert_eq!(w.mm().stats().get(Counter::CowReuse), reused + 1, "E9");
        w.check(&all).unwrap();
        drop(all);
        w.assert_empty();
    });
}

/// Lesson 36: a count that is full is no memory, to who shares and to who copies, and nothing of
/// it stays behind.
#[test]
fn e7_lesson_36_a_full_count_refuses_a_fork_and_a_copy() {
    /// What is left above is for those who find it full at the same time.
    const FULL: u32 = 0xc000_0000;
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 2);
        w.poke(0, &s, a, 1).unwrap();
        w.poke(0, &s, a + page, 2).unwrap();
        // The second of two: the first is shared by then, and no longer.
        let leaf = w.tlbs().remembered(0, va(a + page).vpn(w.page_shift()))[0];
        let record = w.mm().frames().page(Pfn::new(leaf.frame)).unwrap();
        let counts = || (record.refs(), record.user().maps());
        let refused = |full: (u32, u32)| {
            assert_eq!(counts(), full);
            assert_eq!(s.fork().unwrap_err(), MmError::OutOfMemory);
            assert_eq!(counts(), full, "after a fork that failed");
            assert_eq!(w.mm().usage().spaces, 1);
        };
        record.get_refs(FULL - 1).unwrap();
        assert!(record.get_refs(1).is_err());
        refused((FULL, 1));
        record.user().add_maps(FULL - 1).unwrap();
        refused((FULL, FULL));
        assert!(!record.put_refs(FULL - 1));
        assert!(record.user().add_maps(1).is_err());
        refused((1, FULL));
        record.user().sub_maps(FULL - 1);
        check(&w, &[&s]);

        let child = s.fork().unwrap();
        assert_eq!(counts(), (2, 2));
        record.get_refs(FULL - 2).unwrap();
        let copies = w.mm().stats().get(Counter::CowCopy);
        assert_eq!(w.poke(1, &child, a + page, 3), Err(Stopped::OutOfMemory));
        assert_eq!(counts(), (FULL, 2), "after a copy that failed");
        assert!(!record.put_refs(FULL - 2));
        check(&w, &[&s, &child]);
        w.poke(1, &child, a + page, 3).unwrap();
        assert_eq!(w.mm().stats().get(Counter::CowCopy), copies + 1);
        assert_eq!(counts(), (1, 1));
        assert_eq!(w.peek(0, &s, a + page), Ok(2));
        drop((s, child));
        w.assert_empty();
    });
}

#[test]
fn e8_the_zero_page_is_not_counted_written_or_freed() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 64);
        let zero = w.mm().frames().zero_page().unwrap();
        let before = w.mm().frames().page(zero).unwrap().refs();
        for i in 0..64 {
            assert_eq!(w.peek(i % 4, &s, a + i * page), Ok(0));
        }
        assert_eq!(s.counts().anon.get(), 0);
        let child = s.fork().unwrap();
        check(&w, &[&s, &child]);
        for i in 0..32 {
            w.poke(0, &s, a + i * page, 1).unwrap();
            assert_eq!(w.peek(1, &child, a + i * page), Ok(0));
        }
        s.protect(va(a), 64 * page, Prot::NONE).unwrap();
        s.protect(va(a), 64 * page, Prot::RW).unwrap();
        w.poke(0, &s, a + 63 * page, 1).unwrap();
        check(&w, &[&s, &child]);
        drop((s, child));
        assert_eq!(w.mm().frames().page(zero).unwrap().refs(), before);
        w.assert_empty();
    });
}

#[test]
fn e12_advice_about_forks_is_followed() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 4);
        for i in 0..4 {
            w.poke(0, &s, a + i * page, 1).unwrap();
        }
        s.advise(va(a), page, Advice::DontFork).unwrap();
        s.advise(va(a + page), page, Advice::WipeOnFork).unwrap();
        let child = s.fork().unwrap();
        assert!(is_maperr(w.peek(1, &child, a)));
        assert_eq!(w.peek(1, &child, a + page), Ok(0));
        assert_eq!(w.peek(1, &child, a + 2 * page), Ok(1));
        assert_eq!(child.counts().total.get(), 3);
        // The grandchild gets it empty too.
        w.poke(1, &child, a + page, 5).unwrap();
        let grandchild = child.fork().unwrap();
        assert_eq!(w.peek(2, &grandchild, a + page), Ok(0));
        check(&w, &[&s, &child, &grandchild]);
        drop((s, child, grandchild));
        w.assert_empty();
    });
}

#[test]
fn e13_a_vfork_child_is_the_same_space() {
    on_every_machine(|machine| {
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 1);
        w.poke(0, &s, a, 1).unwrap();
        let child = s.clone();
        w.poke(1, &child, a, 2).unwrap();
        assert_eq!(w.peek(0, &s, a), Ok(2));
        assert_eq!(w.mm().stats().get(Counter::CowReuse), 0);
        assert_eq!(w.mm().stats().get(Counter::CowCopy), 0);
        drop(s);
        assert_eq!(
            w.peek(1, &child, a),
            Ok(2),
            "the parent's exit ends nothing"
        );
        drop(child);
        w.assert_empty();
    });
}

#[test]
fn f3_lesson_49_fewer_rights_are_in_force_everywhere_when_protect_returns() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 2);
        for cpu in 0..4 {
            w.poke(cpu, &s, a, 1).unwrap();
        }
        s.protect(va(a), page, Prot::READ).unwrap();
        for cpu in 0..4 {
            assert!(
                w.tlbs()
                    .remembered(cpu, va(a).vpn(w.page_shift()))
                    .iter()
                    .all(|l| !l.rights.user.write)
            );
            assert!(is_accerr(w.poke(cpu, &s, a, 2)));
        }
        check(&w, &[&s]);
        drop(s);
        w.assert_empty();
    });
}

/// More edge pages than a batch holds, and no frame for a larger one: it is
/// flushed several times, and nothing is forgotten (the TLBs would scream).
#[test]
fn f1_f8_lesson_51_a_full_batch_is_flushed_before_anything_is_freed() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let a = anon(&s, 300);
        w.poke(0, &s, a + 299 * page, 1).unwrap();
        for i in 0..299 {
            w.poke(i % 4, &s, a + i * page, 1).unwrap();
        }
        w.platform().fail_from(1, u64::MAX);
        s.unmap(va(a), 299 * page).unwrap();
        w.platform().fail_none();
        assert_eq!(s.counts().anon.get(), 1);
        assert_eq!(w.peek(0, &s, a + 299 * page), Ok(1));
        check(&w, &[&s]);
        drop(s);
        w.assert_empty();
    });
}

/// Protocols 11: an executable entry never leads to bytes that fetches may not
/// see, also when the page comes back from `PROT_NONE`.
#[test]
fn code_is_made_visible_before_it_may_run_also_after_protection_none() {
    on_every_machine(|machine| {
        if !machine.format().forbids_exec() {
            return machine.skip("whatever can be loaded can run: nothing becomes code later");
        }
        let page = machine.page_size();
        let w = machine.world(256, 2, 0);
        let s = w.space();
        for between in [Prot::RW, Prot::READ, Prot::NONE] {
            for code in [Prot::EXEC, Prot::RX] {
                let a = s.map(&MapRequest::anonymous(page, Prot::RW)).unwrap();
                w.store(0, &s, a.as_usize(), b"code").unwrap();
                s.protect(a, page, between).unwrap();
                s.protect(a, page, code).unwrap();
                let _before = w.platform().take_log();
                w.fetch(1, &s, a.as_usize()).unwrap();
                let leaf = w.tlbs().remembered(1, a.vpn(w.page_shift()))[0];
                let frame = Pfn::new(leaf.frame);
                let synced = w.platform().take_log().synced;
                assert_eq!(synced, [frame], "{between} then {code}");
                let n = w.mm().frames().page(frame).unwrap();
                assert!(n.has(PageFlags::CODE_CLEAN));
                w.fetch(0, &s, a.as_usize()).unwrap();
                assert_eq!(w.platform().take_log().synced, [], "once is enough");
            }
        }
        drop(s);
        w.assert_empty();
    });
}
