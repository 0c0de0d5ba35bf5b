//! Locked areas (mlock(2) and its family): which areas are, which later ones will be, and what
//! is counted. The numbers are those of Linux 6.18, tried; where it stops half way, we do not begin.

use mm_core::addr::{Pfn, VirtAddr};
use mm_core::error::MmError;
use mm_core::prot::{MemType, Prot};
use mm_core::space::{Advice, Backing, LockKind, MapFlags, MapRequest, RemapFlags, SpaceLimits};
use mm_core::vma::VmaFlags;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{Space, World, page_size};

const BASE: usize = 0x400;

fn at(s: &Space, n: usize) -> VirtAddr {
    VirtAddr::new((BASE + n) * page_size(s))
}

fn len(s: &Space, pages: usize) -> usize {
    pages * page_size(s)
}

fn map(s: &Space, start: usize, end: usize, flags: MapFlags) {
    let area = MapRequest::anonymous(len(s, end - start), Prot::RW).with(flags);
    assert_eq!(s.map(&area.fixed(at(s, start))), Ok(at(s, start)));
}

fn lock(s: &Space, start: usize, end: usize, kind: LockKind) -> Result<(), MmError> {
    s.lock(at(s, start), len(s, end - start), kind)
}

fn unlock(s: &Space, start: usize, end: usize) -> Result<(), MmError> {
    s.unlock(at(s, start), len(s, end - start))
}

/// Writes the areas as `start-end`, with a `!` where they are locked, a `~` where they are on
/// fault; and checks that the locked pages are counted.
fn draw(s: &Space) -> String {
    let page = |n: usize| n.wrapping_sub(BASE);
    let mut locked = 0;
    let areas = s.areas().map(|a| {
        let (start, end) = (a.range.start().as_usize(), a.range.end().as_usize());
        let is = |flag| a.flags.contains(flag);
        let mark = match (is(VmaFlags::LOCKED), is(VmaFlags::LOCK_ON_FAULT)) {
            (false, false) => "",
            (true, false) => "!",
            (true, true) => "~",
            (false, true) => panic!("on fault, and not locked"),
        };
        locked += if mark.is_empty() { 0 } else { end - start };
        format!("{}-{}{mark}", page(start), page(end))
    });
    let text = areas.collect::<Vec<_>>().join(" ");
    assert_eq!(s.counts().locked.get(), locked, "{text}");
    text
}

fn bound(s: &Space, locked: usize, areas: usize) {
    s.set_limits(SpaceLimits {
        locked: len(s, locked),
        areas,
        stack_guard: 0,
        ..s.limits()
    });
}

fn poke(w: &World, s: &Space, n: usize, byte: u8) {
    w.poke(0, s, at(s, n).as_usize(), byte).unwrap();
}

fn peek(w: &World, s: &Space, n: usize) -> u8 {
    w.peek(0, s, at(s, n).as_usize()).unwrap()
}

fn with_world(test: impl Fn(&Machine, &World, &Space)) {
    on_every_machine(|machine| {
        let w = machine.world(1024, 2, 0);
        let s = w.space();
        bound(&s, 1000, 1000);
        test(machine, &w, &s);
        w.check([&s]).unwrap();
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn a_range_is_locked_up_to_its_first_hole() {
    with_world(|_, _, s| {
        let page = page_size(s);
        map(s, 0, 8, MapFlags::empty());
        map(s, 10, 12, MapFlags::empty());
        assert_eq!(lock(s, 2, 4, LockKind::Now), Ok(()));
        assert_eq!(draw(s), "0-2 2-4! 4-8 10-12");
        assert_eq!(lock(s, 3, 5, LockKind::OnFault), Ok(()));
        assert_eq!(draw(s), "0-2 2-3! 3-5~ 5-8 10-12");
        assert_eq!(lock(s, 2, 5, LockKind::Now), Ok(()), "the other way");
        assert_eq!(draw(s), "0-2 2-5! 5-8 10-12");
        // Rounded outwards: one byte on each side of an edge is two pages.
        let edge = VirtAddr::new(at(s, 7).as_usize() - 1);
        assert_eq!(s.lock(edge, 2, LockKind::Now), Ok(()));
        assert_eq!(draw(s), "0-2 2-5! 5-6 6-8! 10-12");
        assert_eq!(s.unlock(edge, 1), Ok(()));
        assert_eq!(draw(s), "0-2 2-5! 5-7 7-8! 10-12");
        let hole = Err(MmError::Unmapped(at(s, 8)));
        assert_eq!(lock(s, 0, 12, LockKind::Now), hole);
        assert_eq!(draw(s), "0-8! 10-12");
        assert_eq!(unlock(s, 1, 9), hole);
        assert_eq!(draw(s), "0-1! 1-8 10-12");
        let hole = Err(MmError::Unmapped(at(s, 9)));
        assert_eq!(lock(s, 9, 12, LockKind::Now), hole);
        assert_eq!(unlock(s, 9, 12), hole);
        assert_eq!(draw(s), "0-1! 1-8 10-12");
        // Nothing, also by rounding; and what wraps.
        for (n, none) in [(0, 0), (9, 0), (1, usize::MAX), (1, usize::MAX - page + 2)] {
            assert_eq!(s.lock(at(s, n), none, LockKind::Now), Ok(()));
            assert_eq!(s.unlock(at(s, n), none), Ok(()));
        }
        let wraps = Err(MmError::Invalid(at(s, 1)));
        let most = usize::MAX - page + 1;
        assert_eq!(s.lock(at(s, 1), most, LockKind::Now), wraps);
        assert_eq!(s.unlock(at(s, 1), most), wraps);
        assert_eq!(draw(s), "0-1! 1-8 10-12");
    });
}

#[test]
fn limits_refuse_before_anything_changes() {
    with_world(|_, _, s| {
        map(s, 0, 8, MapFlags::empty());
        bound(s, 4, 1000);
        assert_eq!(lock(s, 0, 5, LockKind::Now), Err(MmError::Limit));
        assert_eq!(lock(s, 0, 3, LockKind::Now), Ok(()));
        // What is locked already is not counted twice.
        assert_eq!(lock(s, 2, 5, LockKind::Now), Err(MmError::Limit));
        assert_eq!(lock(s, 0, 4, LockKind::OnFault), Ok(()));
        assert_eq!(draw(s), "0-4~ 4-8");
        // A hole is: it is not known to be one yet.
        assert_eq!(lock(s, 8, 9, LockKind::Now), Err(MmError::Limit));
        let all = |current| s.lock_all(current, Some(LockKind::Now));
        assert_eq!(all(Some(LockKind::Now)), Err(MmError::Limit));
        assert_eq!(draw(s), "0-4~ 4-8");
        map(s, 20, 21, MapFlags::empty());
        assert_eq!(draw(s), "0-4~ 4-8 20-21");
        // As many areas as there may be: unlocking needs one more, too.
        bound(s, 1000, 3);
        assert_eq!(lock(s, 5, 6, LockKind::Now), Err(MmError::Limit));
        assert_eq!(unlock(s, 1, 2), Err(MmError::Limit));
        assert_eq!(draw(s), "0-4~ 4-8 20-21");
        assert_eq!(s.lock_all(Some(LockKind::Now), None), Ok(()));
        assert_eq!(draw(s), "0-8! 20-21!");
        // Nothing may be locked: not allowed, rather than too much. Unlocking always is.
        bound(s, 0, 1000);
        let denied = |got: Result<(), MmError>| assert_eq!(got.map_err(MmError::errno), Err(1));
        denied(lock(s, 0, 1, LockKind::Now));
        denied(lock(s, 0, 0, LockKind::Now));
        denied(s.lock_all(None, Some(LockKind::Now)));
        let more = MapRequest::anonymous(len(s, 1), Prot::RW);
        denied(s.map(&more.with(MapFlags::LOCKED)).map(drop));
        assert_eq!(unlock(s, 0, 8), Ok(()));
        assert_eq!(s.unlock_all(), Ok(()));
        assert_eq!(draw(s), "0-8 20-21");
    });
}

#[test]
fn what_cannot_be_taken_away_is_passed_over() {
    with_world(|_, _, s| {
        let registers = || MapRequest {
            backing: Backing::Device {
                pfn: Pfn::new(0x4000),
                mem: MemType::Device,
            },
            ..MapRequest::anonymous(len(s, 2), Prot::RW)
        };
        map(s, 0, 2, MapFlags::empty());
        s.map(&registers().fixed(at(s, 2))).unwrap();
        map(s, 4, 6, MapFlags::empty());
        assert_eq!(lock(s, 0, 6, LockKind::Now), Ok(()));
        assert_eq!(draw(s), "0-2! 2-4 4-6!");
        assert_eq!(
            s.lock_all(Some(LockKind::OnFault), Some(LockKind::Now)),
            Ok(())
        );
        assert_eq!(draw(s), "0-2~ 2-4 4-6~");
        let asked = registers().with(MapFlags::LOCKED).fixed(at(s, 8));
        s.map(&asked).unwrap();
        assert_eq!(draw(s), "0-2~ 2-4 4-6~ 8-10");
    });
}

#[test]
fn areas_made_later_are_locked_and_grown_ones_stay_as_they_are() {
    with_world(|_, w, s| {
        s.set_brk_start(at(s, 40));
        assert_eq!(s.brk(Some(at(s, 42))), at(s, 42));
        map(s, 10, 12, MapFlags::GROWS_DOWN);
        map(s, 0, 2, MapFlags::empty());
        assert_eq!(s.lock_all(None, Some(LockKind::OnFault)), Ok(()));
        assert_eq!(draw(s), "0-2 10-12 40-42", "what is there stays");
        map(s, 2, 4, MapFlags::empty());
        assert_eq!(s.brk(Some(at(s, 44))), at(s, 44));
        poke(w, s, 9, 1);
        let longer = s.remap(at(s, 0), len(s, 2), len(s, 3), RemapFlags::MAY_MOVE, None);
        s.unmap(longer.unwrap(), len(s, 3)).unwrap();
        assert_eq!(draw(s), "2-4~ 9-12 40-42 42-44~");
        // A shared window is mapped anew.
        let file = w.file(1, &vec![7; len(s, 4)]);
        let shared = MapRequest::shared(&file, 0, len(s, 4), Prot::READ);
        assert_eq!(s.lock_all(None, None), Ok(()));
        s.map(&shared.fixed(at(s, 50))).unwrap();
        assert_eq!(s.lock_all(None, Some(LockKind::Now)), Ok(()));
        s.rearrange(at(s, 50), len(s, 1), len(s, 3) as u64).unwrap();
        assert_eq!(draw(s), "2-4~ 9-12 40-42 42-44~ 50-51! 51-54");
        // The child has none of it, neither what is locked nor what would be.
        let child = on_cpu(0, || s.fork()).unwrap();
        map(&child, 4, 5, MapFlags::empty());
        assert_eq!(child.brk(Some(at(s, 45))), at(s, 45));
        assert_eq!(draw(&child), "2-5 9-12 40-42 42-45 50-51 51-54");
        w.check([s, &child]).unwrap();
        w.idle(0);
        drop(child);
        assert_eq!(draw(s), "2-4~ 9-12 40-42 42-44~ 50-51! 51-54");
        // Over the limit, later maps say so; a heap and a stack stay.
        assert_eq!(lock(s, 9, 12, LockKind::Now), Ok(()));
        bound(s, 8, 1000);
        let more = MapRequest::anonymous(len(s, 1), Prot::RW);
        assert_eq!(s.map(&more).map_err(MmError::errno), Err(11));
        assert_eq!(s.brk(Some(at(s, 45))), at(s, 44));
        assert!(w.poke(0, s, at(s, 8).as_usize(), 1).is_err());
        assert_eq!(s.lock_all(Some(LockKind::Now), None), Err(MmError::Limit));
        assert_eq!(s.unlock_all(), Ok(()));
        map(s, 4, 5, MapFlags::empty());
        assert_eq!(draw(s), "2-5 9-12 40-44 50-51 51-54");
    });
}

#[test]
fn g8_locked_pages_are_counted_exactly_through_every_change() {
    with_world(|_, w, s| {
        // `draw` compares the count with the areas each time.
        map(s, 0, 12, MapFlags::LOCKED);
        (0..12).for_each(|n| poke(w, s, n, n as u8 + 1));
        assert_eq!(draw(s), "0-12!");
        unlock(s, 3, 5).unwrap();
        assert_eq!(draw(s), "0-3! 3-5 5-12!");
        lock(s, 3, 4, LockKind::Now).unwrap();
        assert_eq!(draw(s), "0-4! 4-5 5-12!", "split, and merged");
        s.protect(at(s, 6), len(s, 2), Prot::READ).unwrap();
        s.unmap(at(s, 9), len(s, 1)).unwrap();
        assert_eq!(draw(s), "0-4! 4-5 5-6! 6-8! 8-9! 10-12!");
        let child = on_cpu(0, || s.fork()).unwrap();
        assert_eq!(draw(&child), "0-4 4-5 5-6 6-8 8-9 10-12");
        assert_eq!(child.counts().locked.get(), 0);
        (0..6).for_each(|n| assert_eq!(peek(w, &child, n), n as u8 + 1));
        w.check([s, &child]).unwrap();
        w.idle(0);
        drop(child);
        let remap = |n: usize, (old, new): (usize, usize), flags, to: usize| {
            let (old, new) = (len(s, old), len(s, new));
            let moved = s.remap(at(s, n), old, new, flags, Some(at(s, to)));
            assert_eq!(moved.map_err(MmError::errno), Ok(at(s, to)));
        };
        let fixed = RemapFlags::MAY_MOVE | RemapFlags::FIXED;
        remap(10, (2, 5), RemapFlags::empty(), 10);
        assert_eq!(draw(s), "0-4! 4-5 5-6! 6-8! 8-9! 10-15!", "longer");
        remap(10, (5, 1), RemapFlags::empty(), 10);
        assert_eq!(draw(s), "0-4! 4-5 5-6! 6-8! 8-9! 10-11!", "shorter");
        remap(0, (4, 2), fixed, 20);
        assert_eq!(draw(s), "4-5 5-6! 6-8! 8-9! 10-11! 20-22!", "moved");
        remap(20, (2, 2), fixed | RemapFlags::DONT_UNMAP, 30);
        assert_eq!(draw(s), "4-5 5-6! 6-8! 8-9! 10-11! 20-22 30-32!", "left");
        map(s, 5, 31, MapFlags::empty());
        assert_eq!((peek(w, s, 4), peek(w, s, 31)), (5, 2));
        unlock(s, 4, 32).unwrap();
        assert_eq!(s.counts().locked.get(), 0);
    });
}

#[test]
fn locked_pages_go_by_their_own_advice_only() {
    with_world(|_, w, s| {
        map(s, 0, 4, MapFlags::empty());
        (0..4).for_each(|n| poke(w, s, n, 5));
        lock(s, 1, 3, LockKind::Now).unwrap();
        let advise = |n: usize, pages: usize, advice| s.advise(at(s, n), len(s, pages), advice);
        let refused = Err(MmError::Invalid(at(s, 1)));
        assert_eq!(advise(1, 2, Advice::DontNeed), refused);
        assert_eq!(advise(0, 4, Advice::DontNeed), refused);
        assert_eq!([0, 1, 2, 3].map(|n| peek(w, s, n)), [0, 5, 5, 5]);
        assert_eq!(advise(1, 1, Advice::DontNeedLocked), Ok(()));
        assert_eq!([0, 1, 2, 3].map(|n| peek(w, s, n)), [0, 0, 5, 5]);
        assert_eq!(advise(0, 4, Advice::DontNeedLocked), Ok(()), "over areas");
        assert_eq!([0, 1, 2, 3].map(|n| peek(w, s, n)), [0; 4]);
        assert_eq!(draw(s), "0-1 1-3! 3-4");
        poke(w, s, 1, 6);
        unlock(s, 0, 4).unwrap();
        assert_eq!(advise(0, 4, Advice::DontNeed), Ok(()));
        assert_eq!(peek(w, s, 1), 0);
        // A seal keeps what it keeps.
        poke(w, s, 1, 6);
        lock(s, 0, 4, LockKind::Now).unwrap();
        s.protect(at(s, 0), len(s, 4), Prot::READ).unwrap();
        s.seal(at(s, 0), len(s, 4)).unwrap();
        let kept = advise(0, 4, Advice::DontNeedLocked);
        assert_eq!(kept, Err(MmError::NotPermitted(at(s, 0))));
        assert_eq!(unlock(s, 0, 4), Ok(()), "a seal is about other things");
        assert_eq!(peek(w, s, 1), 6);
    });
}

#[test]
fn a_page_that_is_cached_is_resident_where_it_is_mapped() {
    with_world(|_, w, s| {
        let file = w.file(1, &vec![7; len(s, 4)]);
        let resident = |n: usize| s.is_resident(at(s, n));
        s.map(&MapRequest::private(&file, 0, len(s, 6), Prot::RW).fixed(at(s, 0)))
            .unwrap();
        let part = MapRequest::shared(&file, len(s, 1) as u64, len(s, 3), Prot::READ);
        s.map(&part.fixed(at(s, 10))).unwrap();
        map(s, 20, 22, MapFlags::empty());
        assert!((0..6).chain(10..13).all(|n| resident(n) == Some(false)));
        // Read by way of one area, it is there in the other: nobody has an entry for it.
        assert_eq!(peek(w, s, 11), 7);
        s.advise(at(s, 10), len(s, 3), Advice::DontNeed).unwrap();
        assert_eq!(
            [10, 11, 12].map(resident),
            [Some(false), Some(true), Some(false)]
        );
        assert_eq!(
            [1, 2, 3].map(resident),
            [Some(false), Some(true), Some(false)]
        );
        // A copy of one's own is there without the file's page.
        poke(w, s, 3, 1);
        w.resize(&file, len(s, 2));
        assert_eq!([1, 2, 3, 5].map(resident), [Some(false); 4]);
        poke(w, s, 20, 1);
        assert_eq!([20, 21].map(resident), [Some(true), Some(false)]);
        s.protect(at(s, 20), len(s, 1), Prot::NONE).unwrap();
        assert_eq!([resident(20), resident(22)], [Some(true), None]);
        assert_eq!(s.is_resident(VirtAddr::new(usize::MAX)), None);
    });
}
