//! Bad arguments, limits and ends of memory (B1-B5, A8, C2, I).
//!
//! The errno of each line was asked of Linux 6.18 on x86_64 with a program that
//! makes the same system calls; where a kernel decides for itself (the lowest
//! address, overcommit) the library's own limits are used.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::object::PagerFacts;
use mm_core::prot::{Access, Prot};
use mm_core::space::{Advice, MapFlags, MapRequest, SpaceLimits};
use mm_testkit::format::AnyFormat;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::TestPlatform;
use mm_testkit::world::{Space, Stopped, World, page_size};

type Request<'a> = MapRequest<'a, 'static, TestPlatform<AnyFormat>>;

const OK: i32 = 0;
const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const EOVERFLOW: i32 = 75;

fn world(machine: &Machine) -> World {
    machine.world(512, 2, 0)
}

fn va(a: usize) -> VirtAddr {
    VirtAddr::new(a)
}

fn errno<T>(r: Result<T, MmError>) -> i32 {
    r.map_or_else(MmError::errno, |_| OK)
}

/// 32 pages of memory with nothing for 64 pages above.
fn memory(s: &Space) -> usize {
    let at = 0x10000 * page_size(s);
    s.map(&MapRequest::anonymous(32 * page_size(s), Prot::RW).fixed(va(at)))
        .unwrap();
    at
}

fn anon(len: usize) -> Request<'static> {
    MapRequest::anonymous(len, Prot::RW)
}

fn noreplace(r: Request<'_>, at: usize) -> Request<'_> {
    r.hint(va(at)).with(MapFlags::FIXED_NOREPLACE)
}

#[test]
fn b1_b2_map_refuses_what_mmap_refuses() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let top = machine.user_end();
        let highest = 0usize.wrapping_sub(page);
        let last_page = 0u64.wrapping_sub(page as u64);
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        let grows = MapFlags::GROWS_DOWN;
        let file = w.file(1, &vec![1; 3 * page]);
        let cases: &[(&str, Request<'_>, i32)] = &[
            ("no length", anon(0), EINVAL),
            ("all bytes", anon(usize::MAX), ENOMEM),
            ("all pages but one", anon(highest), ENOMEM),
            ("more than there is", anon(top + page), ENOMEM),
            ("nearly all there is", anon(top - page), ENOMEM),
            ("fixed, unaligned", anon(page).fixed(va(1)), EINVAL),
            ("fixed too low", anon(page).fixed(va(0)), EPERM),
            ("fixed at the end", anon(page).fixed(va(top)), ENOMEM),
            (
                "fixed over the end",
                anon(2 * page).fixed(va(top - page)),
                ENOMEM,
            ),
            (
                "fixed at the last page",
                anon(page).fixed(va(highest)),
                ENOMEM,
            ),
            (
                "fixed and wrapping",
                anon(2 * page).fixed(va(highest)),
                ENOMEM,
            ),
            ("noreplace over something", noreplace(anon(page), b), EEXIST),
            ("noreplace, unaligned", noreplace(anon(page), b + 1), EINVAL),
            (
                "a shared stack",
                anon(page).with(MapFlags::SHARED | grows),
                EINVAL,
            ),
            (
                "a stack of a file",
                MapRequest::private(&file, 0, page, Prot::RW).with(grows),
                EINVAL,
            ),
            (
                "unaligned offset",
                MapRequest::shared(&file, 8, page, Prot::READ),
                EINVAL,
            ),
            (
                "offset -1 page",
                MapRequest::shared(&file, last_page, page, Prot::READ),
                EOVERFLOW,
            ),
            (
                "offset -1 page, 2",
                MapRequest::shared(&file, last_page, 2 * page, Prot::READ),
                EOVERFLOW,
            ),
            (
                "signed end",
                MapRequest::shared(
                    &file,
                    i64::MAX as u64 / page as u64 * page as u64,
                    page,
                    Prot::READ,
                ),
                EOVERFLOW,
            ),
            (
                "past its end",
                MapRequest::shared(&file, 1 << 40, page, Prot::READ),
                OK,
            ),
            ("the last page", anon(page).fixed(va(top - page)), OK),
        ];
        for (what, request, want) in cases {
            let before = s.maps().to_string();
            assert_eq!(errno(s.map(request)), *want, "{what}");
            if *want != OK {
                assert_eq!(s.maps().to_string(), before, "{what}");
            }
        }
        // The last page there is works.
        w.poke(0, &s, top - 1, 7).unwrap();
        assert_eq!(w.peek(1, &s, top - 1), Ok(7));
        drop((s, file));
        w.assert_empty();
    });
}

#[test]
fn a7_hints_are_followed_where_mmap_follows_them() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let top = machine.user_end();
        let highest = 0usize.wrapping_sub(page);
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        let lowest = s.limits().min_page(w.page_shift()).as_usize() * page;
        let map = |r: Request<'_>| s.map(&r).unwrap().as_usize();
        // Rounded down; taken: elsewhere; too low: as low as possible.
        assert_eq!(map(anon(page).hint(va(b + 40 * page + 5))), b + 40 * page);
        let other = map(anon(page).hint(va(b)));
        assert!(other > b + 64 * page);
        // Raised to what users may map; but in page 0 it is none, as it is rounded down first.
        for none in [0, 1, page - 1] {
            assert!(map(anon(page).hint(va(none))) > b, "no hint at all");
        }
        assert_eq!(map(anon(page).hint(va(page + 1))), lowest);
        assert!(map(anon(page).hint(va(top))) < top);
        assert!(map(anon(page).hint(va(highest))) < top);
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn b1_unmap_refuses_what_munmap_refuses() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let top = machine.user_end();
        let highest = 0usize.wrapping_sub(page);
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        for (at, len, want) in [
            (b + 1, page, EINVAL),
            (b, 0, EINVAL),
            (b, highest, EINVAL),
            (b, usize::MAX, EINVAL),
            (top, page, EINVAL),
            (top - page, 2 * page, EINVAL),
            (highest, page, EINVAL),
            (b, highest - b, EINVAL),
            (b + 40 * page, page, OK),
            (0, page, OK),
            (top - page, page, OK),
        ] {
            assert_eq!(errno(s.unmap(va(at), len)), want, "{at:#x} {len:#x}");
            assert_eq!(s.counts().total.get(), 32, "{at:#x} {len:#x}");
        }
        // Half a page takes the whole.
        s.unmap(va(b), 1).unwrap();
        assert_eq!(s.counts().total.get(), 31);
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn b1_lesson_21_protect_refuses_what_mprotect_refuses() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let top = machine.user_end();
        let highest = 0usize.wrapping_sub(page);
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        for (at, len, want) in [
            (b + 1, page, EINVAL),
            (b, 0, OK),
            (b + 1, 0, EINVAL),
            (b, usize::MAX, ENOMEM),
            (b, highest, ENOMEM),
            (highest, page, ENOMEM),
            (highest, 2 * page, ENOMEM),
            (b + 40 * page, page, ENOMEM),
            (b + 40 * page, 0, OK),
            (top, page, ENOMEM),
        ] {
            let got = errno(s.protect(va(at), len, Prot::READ));
            assert_eq!(got, want, "{at:#x} {len:#x}");
        }
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn c1_lesson_22_protect_over_a_hole_changes_exactly_the_pages_before_it() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        s.unmap(va(b + 10 * page), page).unwrap();
        let over = s.protect(va(b + 5 * page), 10 * page, Prot::READ);
        assert_eq!(over, Err(MmError::Unmapped(va(b + 10 * page))));
        let lines: Vec<_> = s.areas().map(|a| (a.range.pages(), a.prot())).collect();
        let want = [(5, Prot::RW), (5, Prot::READ), (21, Prot::RW)];
        assert_eq!(lines, want, "{}", s.maps());
        // And over an area that does not allow it.
        let sealed = anon(2 * page).fixed(va(b + 10 * page)).max_prot(Prot::RW);
        s.map(&sealed).unwrap();
        let over = s.protect(va(b + 8 * page), 10 * page, Prot::RX);
        assert_eq!(over, Err(MmError::Denied(va(b + 10 * page))));
        assert_eq!(s.find(va(b + 9 * page)).unwrap().prot(), Prot::RX);
        assert_eq!(s.find(va(b + 12 * page)).unwrap().prot(), Prot::RW);
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn b1_advise_refuses_what_madvise_refuses() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let top = machine.user_end();
        let highest = 0usize.wrapping_sub(page);
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        let drop_pages = Advice::DontNeed;
        for advice in [drop_pages, Advice::DontFork] {
            for (at, len, want) in [
                (b + 1, page, EINVAL),
                (b, 0, OK),
                (b + 1, 0, EINVAL),
                (b, usize::MAX, EINVAL),
                (b, highest, EINVAL),
                (highest, page, EINVAL),
                (highest, page - 1, EINVAL),
                (highest, 2 * page, EINVAL),
                (b + 40 * page, page, ENOMEM),
                (top, page, ENOMEM),
            ] {
                let got = errno(s.advise(va(at), len, advice));
                assert_eq!(got, want, "{at:#x} {len:#x} {advice:?}");
            }
        }
        let locked = s.map(&anon(page).with(MapFlags::LOCKED)).unwrap();
        assert_eq!(errno(s.advise(locked, page, drop_pages)), EINVAL);
        let shared = s.map(&anon(page).with(MapFlags::SHARED)).unwrap();
        assert_eq!(errno(s.advise(shared, page, Advice::WipeOnFork)), EINVAL);
        assert_eq!(errno(s.advise(shared, page, drop_pages)), OK);
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn c1_advice_passes_over_holes_and_reports_the_first() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        w.poke(0, &s, b, 1).unwrap();
        w.poke(0, &s, b + 20 * page, 2).unwrap();
        s.unmap(va(b + 10 * page), page).unwrap();
        let over = s.advise(va(b), 64 * page, Advice::DontNeed);
        assert_eq!(over, Err(MmError::Unmapped(va(b + 10 * page))));
        assert_eq!(w.peek(0, &s, b), Ok(0));
        assert_eq!(w.peek(0, &s, b + 20 * page), Ok(0));
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn b1_populate_refuses_and_stops_where_faults_would() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let top = machine.user_end();
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        let run = |at: usize, len: usize| w.finish(0, at, len, |at, len| s.populate(va(at), len));
        assert_eq!(run(b + 40 * page, page), Err(ENOMEM));
        assert_eq!(run(b + 1, page), Err(EINVAL));
        assert_eq!(run(top, page), Err(EINVAL));
        assert_eq!(run(b + 30 * page, 4 * page), Ok(2 * page));
        assert_eq!(s.counts().anon.get(), 2, "what was done stays");
        s.protect(va(b), page, Prot::NONE).unwrap();
        assert_eq!(run(b, page), Err(EACCES));
        let file = w.file(1, &vec![1; 3 * page + 100]);
        let f = s
            .map(&MapRequest::shared(&file, 0, 8 * page, Prot::RW))
            .unwrap();
        assert_eq!(run(f.as_usize(), 8 * page), Ok(4 * page));
        assert_eq!(run(f.as_usize() + 5 * page, page), Err(14));
        // What stopped it is said with what was done.
        let stopped = |at: usize, len: usize| {
            let progress = s.populate(va(at), len).unwrap();
            assert!(progress.wait.is_none());
            (progress.done, progress.error)
        };
        let hole = MmError::Unmapped(va(b + 32 * page));
        assert_eq!(stopped(b + 30 * page, 4 * page), (2 * page, Some(hole)));
        let end = MmError::Fault(va(f.as_usize() + 4 * page));
        assert_eq!(stopped(f.as_usize(), 8 * page), (4 * page, Some(end)));
        assert_eq!(stopped(f.as_usize(), 4 * page), (4 * page, None));
        drop((s, file));
        w.assert_empty();
    });
}

/// Lesson 27; and Linux keeps one page free between the heap and what is above.
#[test]
fn lesson_27_brk_moves_only_where_it_can() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let o = 0x600 * page;
        s.set_brk_start(va(o));
        let brk = |to: usize| s.brk(Some(va(to))).as_usize();
        assert_eq!(brk(o + 5 * page + 17), o + 5 * page + 17);
        assert_eq!(s.brk(None).as_usize(), o + 5 * page + 17);
        assert_eq!(s.counts().total.get(), 6);
        assert_eq!(brk(o + 3 * page), o + 3 * page);
        assert_eq!(s.counts().total.get(), 3);
        s.map(&anon(page).fixed(va(o + 16 * page))).unwrap();
        assert_eq!(brk(o + 14 * page), o + 14 * page);
        assert_eq!(brk(o + 15 * page), o + 15 * page);
        assert_eq!(brk(o + 15 * page + 1), o + 15 * page);
        assert_eq!(brk(o + 16 * page), o + 15 * page);
        assert_eq!(brk(o + 20 * page), o + 15 * page);
        assert_eq!(brk(usize::MAX), o + 15 * page);
        assert_eq!(brk(o - 1), o + 15 * page);
        assert_eq!(brk(o), o);
        assert_eq!(s.areas().count(), 1);
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn an_objects_rights_bound_its_mappings() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let object = |rights| {
            let facts = PagerFacts::memory(page as u64).rights(rights);
            w.mm().new_object(facts).unwrap()
        };
        let (read, write) = (object(Prot::READ), object(Prot::WRITE));
        for (r, want) in [
            (MapRequest::shared(&read, 0, page, Prot::RW), EACCES),
            (MapRequest::shared(&read, 0, page, Prot::READ), OK),
            (MapRequest::shared(&read, 0, page, Prot::RX), EACCES),
            (MapRequest::private(&read, 0, page, Prot::RW), OK),
            (MapRequest::private(&write, 0, page, Prot::READ), EACCES),
            (MapRequest::shared(&write, 0, page, Prot::WRITE), EACCES),
            (MapRequest::shared(&write, 0, page, Prot::NONE), EACCES),
        ] {
            assert_eq!(errno(s.map(&r)), want, "{r:?}");
        }
        let a = s
            .map(&MapRequest::shared(&read, 0, page, Prot::READ))
            .unwrap();
        assert_eq!(errno(s.protect(a, page, Prot::RW)), EACCES);
        drop((s, read, write));
        w.assert_empty();
    });
}

/// Limits hold at the bound and not one page below it.
#[test]
fn a8_i_limits_hold_exactly() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let b = memory(&s);
        let free = s.limits();
        let limit = |change: &dyn Fn(&mut SpaceLimits)| {
            let mut limits = free;
            change(&mut limits);
            s.set_limits(limits);
        };
        let map = |pages: usize, flags| errno(s.map(&anon(pages * page).with(flags)));
        limit(&|l| l.address_space = 40 * page);
        assert_eq!(map(9, MapFlags::empty()), ENOMEM);
        assert_eq!(map(8, MapFlags::empty()), OK);
        // In place of what is there only the difference counts.
        let over = anon(33 * page).fixed(va(b));
        assert_eq!(errno(s.map(&over)), ENOMEM);
        assert_eq!(errno(s.map(&anon(32 * page).fixed(va(b)))), OK);
        limit(&|l| l.data = 41 * page);
        assert_eq!(map(2, MapFlags::empty()), ENOMEM);
        assert_eq!(map(2, MapFlags::SHARED), OK, "shared memory is no data");
        assert_eq!(map(1, MapFlags::empty()), OK);
        limit(&|l| l.locked = 2 * page);
        assert_eq!(map(3, MapFlags::LOCKED), EAGAIN);
        assert_eq!(map(2, MapFlags::LOCKED), OK);
        let areas = s.areas().count();
        assert_eq!(s.counts().areas.get(), areas);
        let mut limits = free;
        limits.areas = areas + 1;
        s.set_limits(limits);
        // Cutting a hole into an area makes one more, a new right two.
        assert_eq!(errno(s.protect(va(b + page), page, Prot::READ)), ENOMEM);
        let apart = s.advise(va(b + page), page, Advice::DontFork);
        assert_eq!(errno(apart), ENOMEM);
        assert_eq!(s.areas().count(), areas);
        assert_eq!(errno(s.unmap(va(b + page), page)), OK);
        assert_eq!(map(1, MapFlags::SHARED), ENOMEM, "at the bound");
        assert_eq!(errno(s.unmap(va(b + 5 * page), page)), ENOMEM);
        assert_eq!(errno(s.unmap(va(b + 2 * page), page)), OK, "an edge");
        assert_eq!(errno(s.unmap(va(b + 2 * page), 40 * page)), OK);
        limits.areas = s.areas().count() + 1;
        s.set_limits(limits);
        assert_eq!(map(1, MapFlags::SHARED), OK, "up to the bound");
        assert_eq!(map(1, MapFlags::SHARED), ENOMEM);
        s.set_limits(free);
        w.check([&s]).unwrap();
        drop(s);
        w.assert_empty();
    });
}

/// What a space may use before anybody says otherwise: as on Linux, and the search begins 16 MiB
/// below the end of user space.
#[test]
fn a8_limits_that_nobody_set_are_those_of_linux() {
    let bases: &[(&str, u64)] = &[
        ("x86_64, 4 levels", 0x7fff_feff_f000),
        ("x86_64, 5 levels", 0xff_ffff_feff_f000),
        ("sv39", 0x3f_ff00_0000),
        ("sv48", 0x7fff_ff00_0000),
        ("sv57", 0xff_ffff_ff00_0000),
        ("aarch64, 4K, 39 bits", 0x7f_ff00_0000),
        ("aarch64, 16K, 47 bits", 0x7fff_ff00_0000),
        ("aarch64", 0xffff_ff00_0000),
        // 3 GiB are the user's.
        ("x86", 0xbf00_0000),
        ("sv32", 0xbf00_0000),
        ("armv7", 0xbf00_0000),
        ("tiny", 0xbf00_0000),
    ];
    on_every_machine(|machine| {
        let w = world(machine);
        let s = w.space();
        let row = bases.iter().find(|row| machine.name.starts_with(row.0));
        let base = row.expect("a machine without a row").1;
        let limits = s.limits();
        assert_eq!(limits.mmap_base.as_usize() as u64, base);
        // As many pages as Linux keeps, or as many bytes as those are of 4 KiB.
        assert!([1 << 20, 256 * machine.page_size()].contains(&limits.stack_guard));
        let want = SpaceLimits {
            min_addr: va(0x1_0000),
            address_space: usize::MAX,
            data: usize::MAX,
            stack: 0x80_0000,
            locked: 0x80_0000,
            areas: 65_530,
            mmap_base: limits.mmap_base,
            stack_guard: limits.stack_guard,
        };
        assert_eq!(limits, want);
        drop(s);
        w.assert_empty();
    });
}

/// B3: the canonical hole and the kernel's half are nobody's to touch.
#[test]
fn b3_addresses_outside_user_space_fault_and_never_reach_the_kernel() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let top = machine.user_end();
        let highest = 0usize.wrapping_sub(page);
        let w = world(machine);
        let s = w.space();
        // What mirrors user space from the other end, where it is not that itself.
        let mirror = 0usize.wrapping_sub(top).max(top + 2 * page);
        for at in [top, top + page, mirror - 2 * page, mirror - page, highest] {
            for access in [Access::Read, Access::Write, Access::Exec] {
                let fault = |mode| {
                    s.fault(&Fault {
                        addr: va(at),
                        access,
                        mode,
                    })
                };
                let user = fault(Mode::User);
                let segv =
                    matches!(user, FaultOutcome::Signal(Signal::SegvMapErr(a)) if a == va(at));
                assert!(segv, "{at:#x}: {user:?}");
                let kernel = fault(Mode::Kernel);
                assert!(
                    matches!(kernel, FaultOutcome::KernelBug),
                    "{at:#x}: {kernel:?}"
                );
            }
            let got = w.peek(0, &s, at);
            assert!(matches!(got, Err(Stopped::Signal(Signal::SegvMapErr(_)))));
            assert_eq!(s.write(va(at), b"x").unwrap_err(), MmError::Fault(va(at)));
            assert!(s.load_u32(va(at)).is_err());
        }
        // A copy that runs into the end stops there.
        let last = anon(page).fixed(va(top - page));
        s.map(&last).unwrap();
        let mut bytes = [0; 64];
        let progress = s.read(va(top - 10), &mut bytes).unwrap();
        assert_eq!(
            (progress.done, progress.error),
            (10, Some(MmError::Fault(va(top))))
        );
        assert_eq!(errno(s.load_u32(va(top - 3))), EINVAL);
        drop(s);
        w.assert_empty();
    });
}

/// Without protection keys x86 cannot keep a page that runs from being read,
/// so Linux lets it be read, also before it was touched. So it is on every
/// machine whose format says the same; the others deny it.
#[test]
fn d3_loads_from_memory_that_may_only_run_are_denied_where_hardware_can() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let a = s.map(&MapRequest::anonymous(2 * page, Prot::EXEC)).unwrap();
        let denied = |stopped| matches!(stopped, Stopped::Signal(Signal::SegvAccErr(_)));
        let loaded = w.peek(0, &s, a.as_usize());
        let copied = s.read(va(a.as_usize() + page), &mut [1]);
        if machine.format().has_exec_only() {
            assert!(loaded.is_err_and(denied), "{loaded:?}");
            assert!(copied.is_err());
        } else {
            assert_eq!(loaded, Ok(0));
            assert_eq!(copied.unwrap().done, 1);
        }
        w.fetch(0, &s, a.as_usize()).unwrap();
        let stored = w.poke(0, &s, a.as_usize(), 1);
        assert!(stored.is_err_and(denied), "{stored:?}");
        drop(s);
        w.assert_empty();
    });
}
