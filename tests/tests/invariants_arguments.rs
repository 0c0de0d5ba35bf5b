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
use mm_testkit::mmu::LongModeWalker;
use mm_testkit::platform::TestPlatform;
use mm_testkit::world::{Space, Stopped, World};
use mm_x86_64::{FourLevel, Paging};

type Format = Paging<FourLevel>;
type X64 = World<Format, LongModeWalker>;
type Request<'a> = MapRequest<'a, 'static, TestPlatform<Format>>;

const PAGE: usize = 4096;
const TOP: usize = 0x7fff_ffff_f000;
const LAST: usize = usize::MAX - PAGE + 1;
const OK: i32 = 0;
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const EOVERFLOW: i32 = 75;

fn world() -> X64 {
    World::new(Paging::new(FourLevel), LongModeWalker::new(4), 512, 2, 0)
}

fn va(a: usize) -> VirtAddr {
    VirtAddr::new(a)
}

fn errno<T>(r: Result<T, MmError>) -> i32 {
    r.map_or_else(MmError::errno, |_| OK)
}

/// 32 pages of memory with nothing for 64 pages above.
fn memory(s: &Space<Format>) -> usize {
    let at = 0x1000_0000;
    s.map(&MapRequest::anonymous(32 * PAGE, Prot::RW).fixed(va(at)))
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
    let w = world();
    let s = w.space();
    let b = memory(&s);
    let grows = MapFlags::GROWS_DOWN;
    let file = w.file(1, &[1; 3 * PAGE]);
    let cases: &[(&str, Request<'_>, i32)] = &[
        ("no length", anon(0), EINVAL),
        ("all bytes", anon(usize::MAX), ENOMEM),
        ("a quarter of all", anon(1 << 62), ENOMEM),
        ("more than there is", anon(TOP + PAGE), ENOMEM),
        ("nearly all there is", anon(TOP - PAGE), ENOMEM),
        ("fixed, unaligned", anon(PAGE).fixed(va(1)), EINVAL),
        ("fixed too low", anon(PAGE).fixed(va(0)), EPERM),
        ("fixed at the end", anon(PAGE).fixed(va(TOP)), ENOMEM),
        (
            "fixed over the end",
            anon(2 * PAGE).fixed(va(TOP - PAGE)),
            ENOMEM,
        ),
        ("fixed at the last page", anon(PAGE).fixed(va(LAST)), ENOMEM),
        ("fixed and wrapping", anon(2 * PAGE).fixed(va(LAST)), ENOMEM),
        ("noreplace over something", noreplace(anon(PAGE), b), EEXIST),
        ("noreplace, unaligned", noreplace(anon(PAGE), b + 1), EINVAL),
        (
            "a shared stack",
            anon(PAGE).with(MapFlags::SHARED | grows),
            EINVAL,
        ),
        (
            "a stack of a file",
            MapRequest::private(&file, 0, PAGE, Prot::RW).with(grows),
            EINVAL,
        ),
        (
            "unaligned offset",
            MapRequest::shared(&file, 8, PAGE, Prot::READ),
            EINVAL,
        ),
        (
            "offset -1 page",
            MapRequest::shared(&file, LAST as u64, PAGE, Prot::READ),
            EOVERFLOW,
        ),
        (
            "offset -1 page, 2",
            MapRequest::shared(&file, LAST as u64, 2 * PAGE, Prot::READ),
            EOVERFLOW,
        ),
        (
            "signed end",
            MapRequest::shared(&file, 0x7fff_ffff_ffff_f000, PAGE, Prot::READ),
            EOVERFLOW,
        ),
        (
            "past its end",
            MapRequest::shared(&file, 1 << 40, PAGE, Prot::READ),
            OK,
        ),
        ("the last page", anon(PAGE).fixed(va(TOP - PAGE)), OK),
    ];
    for (what, request, want) in cases {
        let before = s.maps().to_string();
        assert_eq!(errno(s.map(request)), *want, "{what}");
        if *want != OK {
            assert_eq!(s.maps().to_string(), before, "{what}");
        }
    }
    // The last page there is works.
    w.poke(0, &s, TOP - 1, 7).unwrap();
    assert_eq!(w.peek(1, &s, TOP - 1), Ok(7));
    drop((s, file));
    w.assert_empty();
}

#[test]
fn a7_hints_are_followed_where_mmap_follows_them() {
    let w = world();
    let s = w.space();
    let b = memory(&s);
    let map = |r: Request<'_>| s.map(&r).unwrap().as_usize();
    // Rounded down; taken: elsewhere; too low: as low as possible.
    assert_eq!(map(anon(PAGE).hint(va(b + 40 * PAGE + 5))), b + 40 * PAGE);
    let other = map(anon(PAGE).hint(va(b)));
    assert!(other > b + 64 * PAGE);
    assert_eq!(map(anon(PAGE).hint(va(0x1000))), 0x10000);
    assert!(map(anon(PAGE).hint(va(0))) > b, "no hint at all");
    assert!(map(anon(PAGE).hint(va(TOP))) < TOP);
    assert!(map(anon(PAGE).hint(va(LAST))) < TOP);
    drop(s);
    w.assert_empty();
}

#[test]
fn b1_unmap_refuses_what_munmap_refuses() {
    let w = world();
    let s = w.space();
    let b = memory(&s);
    for (at, len, want) in [
        (b + 1, PAGE, EINVAL),
        (b, 0, EINVAL),
        (b, LAST, EINVAL),
        (b, usize::MAX, EINVAL),
        (TOP, PAGE, EINVAL),
        (TOP - PAGE, 2 * PAGE, EINVAL),
        (LAST, PAGE, EINVAL),
        (b, 1 << 60, EINVAL),
        (b + 40 * PAGE, PAGE, OK),
        (0, PAGE, OK),
        (TOP - PAGE, PAGE, OK),
    ] {
        assert_eq!(errno(s.unmap(va(at), len)), want, "{at:#x} {len:#x}");
        assert_eq!(s.counts().total.get(), 32, "{at:#x} {len:#x}");
    }
    // Half a page takes the whole.
    s.unmap(va(b), 1).unwrap();
    assert_eq!(s.counts().total.get(), 31);
    drop(s);
    w.assert_empty();
}

#[test]
fn b1_lesson_21_protect_refuses_what_mprotect_refuses() {
    let w = world();
    let s = w.space();
    let b = memory(&s);
    for (at, len, want) in [
        (b + 1, PAGE, EINVAL),
        (b, 0, OK),
        (b + 1, 0, EINVAL),
        (b, usize::MAX, ENOMEM),
        (b, LAST, ENOMEM),
        (LAST, PAGE, ENOMEM),
        (LAST, 2 * PAGE, ENOMEM),
        (b + 40 * PAGE, PAGE, ENOMEM),
        (b + 40 * PAGE, 0, OK),
        (TOP, PAGE, ENOMEM),
    ] {
        let got = errno(s.protect(va(at), len, Prot::READ));
        assert_eq!(got, want, "{at:#x} {len:#x}");
    }
    drop(s);
    w.assert_empty();
}

#[test]
fn c1_lesson_22_protect_over_a_hole_changes_exactly_the_pages_before_it() {
    let w = world();
    let s = w.space();
    let b = memory(&s);
    s.unmap(va(b + 10 * PAGE), PAGE).unwrap();
    let over = s.protect(va(b + 5 * PAGE), 10 * PAGE, Prot::READ);
    assert_eq!(over, Err(MmError::Unmapped(va(b + 10 * PAGE))));
    let lines: Vec<_> = s.areas().map(|a| (a.range.pages(), a.prot())).collect();
    let want = [(5, Prot::RW), (5, Prot::READ), (21, Prot::RW)];
    assert_eq!(lines, want, "{}", s.maps());
    // And over an area that does not allow it.
    let sealed = anon(2 * PAGE).fixed(va(b + 10 * PAGE)).max_prot(Prot::RW);
    s.map(&sealed).unwrap();
    let over = s.protect(va(b + 8 * PAGE), 10 * PAGE, Prot::RX);
    assert_eq!(over, Err(MmError::Denied(va(b + 10 * PAGE))));
    assert_eq!(s.find(va(b + 9 * PAGE)).unwrap().prot(), Prot::RX);
    assert_eq!(s.find(va(b + 12 * PAGE)).unwrap().prot(), Prot::RW);
    drop(s);
    w.assert_empty();
}

#[test]
fn b1_advise_refuses_what_madvise_refuses() {
    let w = world();
    let s = w.space();
    let b = memory(&s);
    let drop_pages = Advice::DontNeed;
    for advice in [drop_pages, Advice::DontFork] {
        for (at, len, want) in [
            (b + 1, PAGE, EINVAL),
            (b, 0, OK),
            (b + 1, 0, EINVAL),
            (b, usize::MAX, EINVAL),
            (b, LAST, EINVAL),
            (LAST, PAGE, EINVAL),
            (LAST, PAGE - 1, EINVAL),
            (LAST, 2 * PAGE, EINVAL),
            (b + 40 * PAGE, PAGE, ENOMEM),
            (TOP, PAGE, ENOMEM),
        ] {
            let got = errno(s.advise(va(at), len, advice));
            assert_eq!(got, want, "{at:#x} {len:#x} {advice:?}");
        }
    }
    let locked = s.map(&anon(PAGE).with(MapFlags::LOCKED)).unwrap();
    assert_eq!(errno(s.advise(locked, PAGE, drop_pages)), EINVAL);
    let shared = s.map(&anon(PAGE).with(MapFlags::SHARED)).unwrap();
    assert_eq!(errno(s.advise(shared, PAGE, Advice::WipeOnFork)), EINVAL);
    assert_eq!(errno(s.advise(shared, PAGE, drop_pages)), OK);
    drop(s);
    w.assert_empty();
}

#[test]
fn c1_advice_passes_over_holes_and_reports_the_first() {
    let w = world();
    let s = w.space();
    let b = memory(&s);
    w.poke(0, &s, b, 1).unwrap();
    w.poke(0, &s, b + 20 * PAGE, 2).unwrap();
    s.unmap(va(b + 10 * PAGE), PAGE).unwrap();
    let over = s.advise(va(b), 64 * PAGE, Advice::DontNeed);
    assert_eq!(over, Err(MmError::Unmapped(va(b + 10 * PAGE))));
    assert_eq!(w.peek(0, &s, b), Ok(0));
    assert_eq!(w.peek(0, &s, b + 20 * PAGE), Ok(0));
    drop(s);
    w.assert_empty();
}

#[test]
fn b1_populate_refuses_and_stops_where_faults_would() {
    let w = world();
    let s = w.space();
    let b = memory(&s);
    let run = |at: usize, len: usize| w.finish(0, at, len, |at, len| s.populate(va(at), len));
    assert_eq!(run(b + 40 * PAGE, PAGE), Err(ENOMEM));
    assert_eq!(run(b + 1, PAGE), Err(EINVAL));
    assert_eq!(run(TOP, PAGE), Err(EINVAL));
    assert_eq!(run(b + 30 * PAGE, 4 * PAGE), Ok(2 * PAGE));
    assert_eq!(s.counts().anon.get(), 2, "what was done stays");
    s.protect(va(b), PAGE, Prot::NONE).unwrap();
    assert_eq!(run(b, PAGE), Err(EACCES));
    let file = w.file(1, &[1; 3 * PAGE + 100]);
    let f = s
        .map(&MapRequest::shared(&file, 0, 8 * PAGE, Prot::RW))
        .unwrap();
    assert_eq!(run(f.as_usize(), 8 * PAGE), Ok(4 * PAGE));
    assert_eq!(run(f.as_usize() + 5 * PAGE, PAGE), Err(14));
    drop((s, file));
    w.assert_empty();
}

/// Lesson 27; and Linux keeps one page free between the heap and what is above.
#[test]
fn lesson_27_brk_moves_only_where_it_can() {
    let w = world();
    let s = w.space();
    let o = 0x60_0000;
    s.set_brk_start(va(o));
    let brk = |to: usize| s.brk(Some(va(to))).as_usize();
    assert_eq!(brk(o + 5 * PAGE + 17), o + 5 * PAGE + 17);
    assert_eq!(s.brk(None).as_usize(), o + 5 * PAGE + 17);
    assert_eq!(s.counts().total.get(), 6);
    assert_eq!(brk(o + 3 * PAGE), o + 3 * PAGE);
    assert_eq!(s.counts().total.get(), 3);
    s.map(&anon(PAGE).fixed(va(o + 16 * PAGE))).unwrap();
    assert_eq!(brk(o + 14 * PAGE), o + 14 * PAGE);
    assert_eq!(brk(o + 15 * PAGE), o + 15 * PAGE);
    assert_eq!(brk(o + 15 * PAGE + 1), o + 15 * PAGE);
    assert_eq!(brk(o + 16 * PAGE), o + 15 * PAGE);
    assert_eq!(brk(o + 20 * PAGE), o + 15 * PAGE);
    assert_eq!(brk(usize::MAX), o + 15 * PAGE);
    assert_eq!(brk(o - 1), o + 15 * PAGE);
    assert_eq!(brk(o), o);
    assert_eq!(s.areas().count(), 1);
    drop(s);
    w.assert_empty();
}

#[test]
fn an_objects_rights_bound_its_mappings() {
    let w = world();
    let s = w.space();
    let object = |rights| {
        let facts = PagerFacts::memory(PAGE as u64).rights(rights);
        w.mm().new_object(facts).unwrap()
    };
    let (read, write) = (object(Prot::READ), object(Prot::WRITE));
    for (r, want) in [
        (MapRequest::shared(&read, 0, PAGE, Prot::RW), EACCES),
        (MapRequest::shared(&read, 0, PAGE, Prot::READ), OK),
        (MapRequest::shared(&read, 0, PAGE, Prot::RX), EACCES),
        (MapRequest::private(&read, 0, PAGE, Prot::RW), OK),
        (MapRequest::private(&write, 0, PAGE, Prot::READ), EACCES),
        (MapRequest::shared(&write, 0, PAGE, Prot::WRITE), EACCES),
        (MapRequest::shared(&write, 0, PAGE, Prot::NONE), EACCES),
    ] {
        assert_eq!(errno(s.map(&r)), want, "{r:?}");
    }
    let a = s
        .map(&MapRequest::shared(&read, 0, PAGE, Prot::READ))
        .unwrap();
    assert_eq!(errno(s.protect(a, PAGE, Prot::RW)), EACCES);
    drop((s, read, write));
    w.assert_empty();
}

/// Limits hold at the bound and not one page below it.
#[test]
fn a8_i_limits_hold_exactly() {
    let w = world();
    let s = w.space();
    let b = memory(&s);
    let free = s.limits();
    let limit = |change: fn(&mut SpaceLimits)| {
        let mut limits = free;
        change(&mut limits);
        s.set_limits(limits);
    };
    let map = |pages: usize, flags| errno(s.map(&anon(pages * PAGE).with(flags)));
    limit(|l| l.address_space = 40 * PAGE);
    assert_eq!(map(9, MapFlags::empty()), ENOMEM);
    assert_eq!(map(8, MapFlags::empty()), OK);
    // In place of what is there only the difference counts.
    let over = anon(33 * PAGE).fixed(va(b));
    assert_eq!(errno(s.map(&over)), ENOMEM);
    assert_eq!(errno(s.map(&anon(32 * PAGE).fixed(va(b)))), OK);
    limit(|l| l.data = 41 * PAGE);
    assert_eq!(map(2, MapFlags::empty()), ENOMEM);
    assert_eq!(map(2, MapFlags::SHARED), OK, "shared memory is no data");
    assert_eq!(map(1, MapFlags::empty()), OK);
    limit(|l| l.locked = 2 * PAGE);
    assert_eq!(map(3, MapFlags::LOCKED), ENOMEM);
    assert_eq!(map(2, MapFlags::LOCKED), OK);
    let areas = s.areas().count();
    assert_eq!(s.counts().areas.get(), areas);
    let mut limits = free;
    limits.areas = areas + 1;
    s.set_limits(limits);
    // Cutting a hole into an area makes one more, a new right two.
    assert_eq!(errno(s.protect(va(b + PAGE), PAGE, Prot::READ)), ENOMEM);
    assert_eq!(s.areas().count(), areas);
    assert_eq!(errno(s.unmap(va(b + PAGE), PAGE)), OK);
    assert_eq!(errno(s.unmap(va(b + 5 * PAGE), PAGE)), ENOMEM);
    assert_eq!(errno(s.unmap(va(b + 2 * PAGE), PAGE)), OK, "an edge");
    assert_eq!(errno(s.unmap(va(b + 2 * PAGE), 40 * PAGE)), OK);
    s.set_limits(free);
    w.check([&s]).unwrap();
    drop(s);
    w.assert_empty();
}

/// B3: the canonical hole and the kernel's half are nobody's to touch.
#[test]
fn b3_addresses_outside_user_space_fault_and_never_reach_the_kernel() {
    let w = world();
    let s = w.space();
    for at in [
        TOP,
        1 << 47,
        0xffff_7fff_ffff_f000,
        0xffff_8000_0000_0000,
        LAST,
    ] {
        for access in [Access::Read, Access::Write, Access::Exec] {
            let fault = |mode| {
                s.fault(&Fault {
                    addr: va(at),
                    access,
                    mode,
                })
            };
            let user = fault(Mode::User);
            let segv = matches!(user, FaultOutcome::Signal(Signal::SegvMapErr(a)) if a == va(at));
            assert!(segv, "{at:#x}: {user:?}");
            assert!(matches!(fault(Mode::Kernel), FaultOutcome::KernelBug));
        }
        let got = w.peek(0, &s, at);
        assert!(matches!(got, Err(Stopped::Signal(Signal::SegvMapErr(_)))));
        assert_eq!(s.write(va(at), b"x").unwrap_err(), MmError::Fault(va(at)));
        assert!(s.load_u32(va(at)).is_err());
    }
    // A copy that runs into the end stops there.
    let last = anon(PAGE).fixed(va(TOP - PAGE));
    s.map(&last).unwrap();
    let mut bytes = [0; 64];
    let progress = s.read(va(TOP - 10), &mut bytes).unwrap();
    assert_eq!(
        (progress.done, progress.error),
        (10, Some(MmError::Fault(va(TOP))))
    );
    assert_eq!(errno(s.load_u32(va(TOP - 3))), EINVAL);
    drop(s);
    w.assert_empty();
}

/// Without protection keys x86 cannot keep a page that runs from being read,
/// so Linux lets it be read, also before it was touched.
#[test]
fn d3_loads_from_memory_that_may_only_run_succeed_on_x86() {
    let w = world();
    let s = w.space();
    let a = s.map(&MapRequest::anonymous(2 * PAGE, Prot::EXEC)).unwrap();
    assert_eq!(w.peek(0, &s, a.as_usize()), Ok(0));
    assert_eq!(s.read(va(a.as_usize() + PAGE), &mut [1]).unwrap().done, 1);
    let denied = w.poke(0, &s, a.as_usize(), 1);
    assert!(matches!(
        denied,
        Err(Stopped::Signal(Signal::SegvAccErr(_)))
    ));
    drop(s);
    w.assert_empty();
}
