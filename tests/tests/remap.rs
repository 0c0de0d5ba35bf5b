//! mremap(2): growing, shrinking and moving areas, with all that is in them.
//!
//! The answers are those of Linux 6.12; what can be asked of a running Linux by a
//! program is asked again by `examples/programs` (bad-maps). Random scripts
//! stand in `oracle`, meetings with other verbs in `preempted` and in the models.

use mm_core::addr::{Pfn, VirtAddr};
use mm_core::error::MmError;
use mm_core::fault::Signal;
use mm_core::format::{AttrFlags, Entry, PageTableFormat};
use mm_core::prot::{MemType, Prot};
use mm_core::space::{Backing, MapFlags, MapRequest, RemapFlags, SpaceLimits};
use mm_core::vma::VmaFlags;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{Space, Stopped, World, page_size};

/// The first page that is used: 16 pages below a border of tables.
const BASE: usize = 0x20000 - 16;
const MOVE: RemapFlags = RemapFlags::MAY_MOVE;
const FIXED: RemapFlags = MOVE.union(RemapFlags::FIXED);
const LEAVE: RemapFlags = MOVE.union(RemapFlags::DONT_UNMAP);
const NONE: RemapFlags = RemapFlags::empty();

fn world(machine: &Machine) -> World {
    machine.world(2048, 3, 5)
}

fn at(s: &Space, n: usize) -> VirtAddr {
    VirtAddr::new((BASE + n) * page_size(s))
}

fn map(s: &Space, n: usize, pages: usize) {
    let r = MapRequest::anonymous(pages * page_size(s), Prot::RW).fixed(at(s, n));
    assert_eq!(s.map(&r), Ok(at(s, n)));
}

/// Remaps `old` pages from page `n` to `new` pages, to page `to`.
fn remap(
    s: &Space,
    n: usize,
    (old, new): (usize, usize),
    flags: RemapFlags,
    to: Option<usize>,
) -> Result<usize, MmError> {
    let page = page_size(s);
    let to = to.map(|to| at(s, to));
    let moved = s.remap(at(s, n), old * page, new * page, flags, to)?;
    Ok(moved.as_usize() / page - BASE)
}

/// As [`remap`]; the errno.
fn refused(
    s: &Space,
    n: usize,
    pages: (usize, usize),
    flags: RemapFlags,
    to: Option<usize>,
) -> i32 {
    let before = s.maps().to_string();
    let error = remap(s, n, pages, flags, to).expect_err("it is refused");
    assert_eq!(s.maps().to_string(), before, "nothing has changed");
    error.errno()
}

fn poke(w: &World, s: &Space, n: usize, byte: u8) {
    w.poke(0, s, at(s, n).as_usize() + n, byte).unwrap();
}

fn byte(w: &World, s: &Space, n: usize, was: usize) -> Result<u8, Stopped> {
    w.peek(1, s, at(s, n).as_usize() + was)
}

fn is_gone(w: &World, s: &Space, n: usize) {
    for cpu in 0..3 {
        let got = w.peek(cpu, s, at(s, n).as_usize());
        let gone = matches!(got, Err(Stopped::Signal(Signal::SegvMapErr(_))));
        assert!(gone, "page {n} on CPU {cpu}: {got:?}");
    }
}

/// Returns the areas as `start+pages`, in pages from the base.
fn draw(s: &Space) -> String {
    let areas = s.areas().map(|a| {
        let start = a.range.start().as_usize() - BASE;
        format!("{start}+{}", a.range.pages())
    });
    areas.collect::<Vec<_>>().join(" ")
}

fn end(w: &World, s: Space) {
    w.check([&s]).unwrap();
    drop(s);
    w.assert_empty();
}

const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;

#[test]
fn b4_b5_arguments_that_make_no_sense() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        map(&s, 0, 8);
        let odd = |a: VirtAddr| VirtAddr::new(a.as_usize() + 1);
        let asked =
            |addr, old, new, flags, to| s.remap(addr, old, new, flags, to).map_err(MmError::errno);
        let unknown = RemapFlags::from_bits_retain(8);
        for (what, got) in [
            ("odd address", asked(odd(at(&s, 0)), page, page, MOVE, None)),
            ("unknown flag", asked(at(&s, 0), page, page, unknown, None)),
            ("new length zero", asked(at(&s, 0), page, 0, MOVE, None)),
            (
                "new length wraps",
                asked(at(&s, 0), page, usize::MAX, MOVE, None),
            ),
            (
                "old length wraps",
                asked(at(&s, 0), usize::MAX, page, MOVE, None),
            ),
            (
                "odd place",
                asked(at(&s, 0), page, page, FIXED, Some(odd(at(&s, 64)))),
            ),
            ("no place", asked(at(&s, 0), page, page, FIXED, None)),
            (
                "place past the end",
                asked(
                    at(&s, 0),
                    page,
                    page,
                    FIXED,
                    Some(VirtAddr::new(machine.user_end() & !(page - 1))),
                ),
            ),
            (
                "unmaps past the end",
                asked(at(&s, 0), usize::MAX & !(page - 1), page, MOVE, None),
            ),
        ] {
            assert_eq!(got, Err(EINVAL), "{what}");
        }
        let fixed_alone = RemapFlags::FIXED;
        assert_eq!(refused(&s, 0, (1, 1), fixed_alone, Some(64)), EINVAL);
        assert_eq!(refused(&s, 0, (1, 1), RemapFlags::DONT_UNMAP, None), EINVAL);
        assert_eq!(refused(&s, 0, (1, 2), LEAVE, None), EINVAL);
        assert_eq!(refused(&s, 0, (0, 1), MOVE, None), EINVAL, "private, twice");
        // B5: any page in common.
        for to in [0, 1, 3] {
            assert_eq!(refused(&s, 0, (4, 4), FIXED, Some(to)), EINVAL);
        }
        assert_eq!(refused(&s, 4, (4, 4), FIXED, Some(1)), EINVAL);
        assert_eq!(refused(&s, 2, (1, 4), FIXED, Some(0)), EINVAL);
        assert_eq!(refused(&s, 0, (4, 4), LEAVE, Some(3)), EINVAL);
        // No area, or not all of one.
        assert_eq!(refused(&s, 8, (1, 1), NONE, None), EFAULT);
        assert_eq!(refused(&s, 4, (5, 6), MOVE, None), EFAULT);
        assert_eq!(refused(&s, 4, (5, 5), FIXED, Some(64)), EFAULT);
        let len = machine.user_end().max((usize::MAX >> 1) & !(page - 1));
        let huge = s.remap(at(&s, 0), page, len, MOVE, None);
        assert_eq!(huge.map_err(MmError::errno), Err(ENOMEM));
        let low = s.remap(at(&s, 0), page, page, FIXED, Some(VirtAddr::new(0)));
        assert_eq!(low.map_err(MmError::errno), Err(EPERM));
        // As it is.
        assert_eq!(remap(&s, 0, (4, 4), NONE, None), Ok(0));
        assert_eq!(
            remap(&s, 3, (9, 9), MOVE, None),
            Ok(3),
            "nobody looks further"
        );
        assert_eq!(draw(&s), "0+8");
        end(&w, s);
    });
}

#[test]
fn it_grows_and_shrinks_where_it_is() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        map(&s, 0, 4);
        map(&s, 20, 2);
        poke(&w, &s, 3, 3);
        let counts = || s.counts();
        assert_eq!(remap(&s, 0, (4, 12), NONE, None), Ok(0));
        assert_eq!(draw(&s), "0+12 20+2");
        assert_eq!(byte(&w, &s, 3, 3), Ok(3));
        assert_eq!(byte(&w, &s, 11, 0), Ok(0));
        // merge_extend: it becomes one with what it reaches.
        assert_eq!(remap(&s, 0, (12, 20), NONE, None), Ok(0));
        assert_eq!(draw(&s), "0+22");
        assert_eq!(counts().total.get(), 22);
        // Blocked, and not at its end.
        map(&s, 22, 1);
        s.protect(at(&s, 22), page, Prot::READ).unwrap();
        assert_eq!(refused(&s, 0, (22, 23), NONE, None), ENOMEM);
        assert_eq!(refused(&s, 0, (4, 5), NONE, None), ENOMEM);
        // The tail goes, as by munmap, whatever is in it.
        poke(&w, &s, 9, 9);
        assert_eq!(remap(&s, 0, (30, 8), NONE, None), Ok(0));
        assert_eq!(draw(&s), "0+8");
        is_gone(&w, &s, 9);
        assert_eq!(byte(&w, &s, 3, 3), Ok(3));
        assert_eq!((counts().total.get(), counts().data.get()), (8, 8));
        // From within: a hole.
        assert_eq!(remap(&s, 2, (4, 1), NONE, None), Ok(2));
        assert_eq!(draw(&s), "0+3 6+2");
        end(&w, s);
    });
}

/// nanos#985: entries beyond the pages that moved were overwritten where the source
/// had holes.
#[test]
fn lesson_29_holes_stay_holes_and_nothing_else_is_touched() {
    on_every_machine(|machine| {
        let w = world(machine);
        let s = w.space();
        // Whole tables, and enough pages.
        let table = machine.format().entries(1).max(64);
        // Moved by as much as, more and less than the tables are apart.
        for (k, by) in [table, table + 3, 2 * table - 5, 41]
            .into_iter()
            .enumerate()
        {
            map(&s, 0, 32);
            // What lies beside the new place.
            map(&s, by - 2, 2);
            map(&s, by + 32, 2);
            let beside = [by - 2, by - 1, by + 32, by + 33];
            for n in beside {
                poke(&w, &s, n, 200);
            }
            let used = [0, 1, 5, 14, 15, 16, 17, 30];
            for n in used {
                poke(&w, &s, n, n as u8 + 1);
            }
            w.peek(0, &s, at(&s, 9).as_usize()).unwrap();
            let anon = s.counts().anon.get();
            assert_eq!(remap(&s, 0, (32, 32), FIXED, Some(by)), Ok(by));
            assert_eq!(s.counts().anon.get(), anon, "holes are not filled");
            w.check([&s]).unwrap();
            for n in 0..32 {
                let want = if used.contains(&n) { n as u8 + 1 } else { 0 };
                assert_eq!(byte(&w, &s, by + n, n), Ok(want), "page {n} by {by}");
            }
            is_gone(&w, &s, 0);
            is_gone(&w, &s, 31);
            for n in beside {
                assert_eq!(byte(&w, &s, n, n), Ok(200), "beside, turn {k}");
            }
            s.unmap(at(&s, 0), 3 * table * w.page_size()).unwrap();
        }
        end(&w, s);
    });
}

/// asterinas#2197: a cursor ran past the range when a table without pages followed.
#[test]
fn lesson_4_a_move_ends_where_its_range_ends() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        let table = machine.format().entries(1);
        // Pages in the first and in the third table of five, none in the last.
        map(&s, 0, 4 * table);
        for n in [0, 2 * table] {
            poke(&w, &s, n, 7);
        }
        let to = 8 * table + 1;
        // Growing, too: the new place reaches further than the old one.
        assert_eq!(
            remap(&s, 0, (4 * table, 5 * table), FIXED, Some(to)),
            Ok(to)
        );
        assert_eq!(byte(&w, &s, to, 0), Ok(7));
        assert_eq!(byte(&w, &s, to + 2 * table, 2 * table), Ok(7));
        assert_eq!(draw(&s), format!("{to}+{}", 5 * table));
        s.unmap(at(&s, 0), 16 * table * page).unwrap();
        // Up to the end of user space, and away from there.
        let last = machine.user_end() - 4 * page;
        let r = MapRequest::anonymous(4 * page, Prot::RW).fixed(VirtAddr::new(last));
        s.map(&r).unwrap();
        w.poke(0, &s, last + 3 * page, 9).unwrap();
        let moved = s.remap(
            VirtAddr::new(last),
            4 * page,
            4 * page,
            FIXED,
            Some(at(&s, 1)),
        );
        assert_eq!(moved, Ok(at(&s, 1)));
        assert_eq!(w.peek(0, &s, at(&s, 4).as_usize()), Ok(9));
        let back = s.remap(
            at(&s, 1),
            4 * page,
            4 * page,
            FIXED,
            Some(VirtAddr::new(last)),
        );
        assert_eq!(back, Ok(VirtAddr::new(last)));
        assert_eq!(w.peek(0, &s, last + 3 * page), Ok(9));
        end(&w, s);
    });
}

/// tgoskits#263: what was shared became private when it moved.
#[test]
fn lesson_28_what_is_shared_stays_shared() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        let file = w.file(1, &vec![5; 8 * page]);
        let shared = MapRequest::shared(&file, 2 * page as u64, 4 * page, Prot::RW);
        s.map(&shared.fixed(at(&s, 0))).unwrap();
        let private = MapRequest::private(&file, 0, 4 * page, Prot::RW);
        s.map(&private.fixed(at(&s, 8))).unwrap();
        let anon = MapRequest::anonymous(4 * page, Prot::RW).with(MapFlags::SHARED);
        s.map(&anon.fixed(at(&s, 16))).unwrap();
        for n in [1, 9, 17] {
            poke(&w, &s, n, 1);
        }
        // Growing keeps the offset, too.
        for (n, to) in [(0, 40), (8, 60), (16, 80)] {
            assert_eq!(remap(&s, n, (4, 5), FIXED, Some(to)), Ok(to));
        }
        let child = s.fork().unwrap();
        poke(&w, &s, 41, 2);
        poke(&w, &s, 61, 2);
        poke(&w, &s, 81, 2);
        assert_eq!(byte(&w, &child, 41, 41), Ok(2), "file, shared");
        assert_eq!(byte(&w, &child, 61, 61), Ok(5), "file, private");
        assert_eq!(byte(&w, &child, 81, 81), Ok(2), "memory, shared");
        assert_eq!(byte(&w, &child, 61, 9), Ok(1), "written before the move");
        assert_eq!(byte(&w, &child, 44, 0), Ok(5), "the sixth page of the file");
        let past = byte(&w, &child, 84, 0);
        let bus = matches!(past, Err(Stopped::Signal(Signal::BusAdrErr(_))));
        assert!(bus, "shared memory does not grow: {past:?}");
        w.check([&s, &child]).unwrap();
        drop((s, child, file));
        w.assert_empty();
    });
}

#[test]
fn all_kinds_of_entries_move_with_their_counts() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        map(&s, 0, 12);
        for n in 0..8 {
            poke(&w, &s, n, 1);
        }
        w.peek(0, &s, at(&s, 9).as_usize()).unwrap();
        s.protect(at(&s, 2), 2 * page, Prot::NONE).unwrap();
        s.protect(at(&s, 2), 2 * page, Prot::RW).unwrap();
        let child = s.fork().unwrap();
        // One page copied, one alone again, others shared with the child.
        poke(&w, &s, 0, 2);
        child.unmap(at(&s, 4), page).unwrap();
        poke(&w, &s, 4, 2);
        let counts = |s: &Space| (s.counts().anon.get(), s.counts().file.get());
        let before = counts(&s);
        assert_eq!(remap(&s, 0, (12, 12), FIXED, Some(33)), Ok(33));
        assert_eq!(counts(&s), before);
        w.check([&s, &child]).unwrap();
        for (n, want) in [(0, 2), (1, 1), (2, 1), (4, 2), (7, 1), (9, 0)] {
            assert_eq!(byte(&w, &s, 33 + n, n), Ok(want), "page {n}");
        }
        // Stores after the move are not the child's, nor the other way round.
        poke(&w, &s, 34, 7);
        poke(&w, &child, 5, 8);
        assert_eq!(byte(&w, &child, 1, 1), Ok(1));
        assert_eq!(byte(&w, &s, 38, 5), Ok(1));
        // What the child inherited moves in the child.
        assert_eq!(
            remap(&child, 0, (4, 4), MOVE | RemapFlags::FIXED, Some(64)),
            Ok(64)
        );
        assert_eq!(byte(&w, &child, 65, 1), Ok(1));
        poke(&w, &child, 65, 9);
        assert_eq!(byte(&w, &s, 35, 2), Ok(1));
        w.check([&s, &child]).unwrap();
        // Without rights, and back at the new place.
        s.protect(at(&s, 33), 12 * page, Prot::NONE).unwrap();
        assert_eq!(remap(&s, 33, (12, 12), FIXED, Some(3)), Ok(3));
        assert!(byte(&w, &s, 3, 0).is_err());
        s.protect(at(&s, 3), 12 * page, Prot::RW).unwrap();
        assert_eq!(byte(&w, &s, 3, 0), Ok(2));
        w.check([&s, &child]).unwrap();
        drop((s, child));
        w.assert_empty();
    });
}

/// CVE-2018-18281: a frame was freed at the new place while a CPU still stored to it by
/// the old one.
#[test]
fn f5_nobody_uses_the_old_place_after_a_move() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        // No table becomes empty: those of the old place are used on.
        map(&s, 0, 32);
        for n in 0..32 {
            for cpu in 0..3 {
                w.poke(cpu, &s, at(&s, n).as_usize(), n as u8).unwrap();
            }
        }
        on_cpu(0, || remap(&s, 4, (8, 8), FIXED, Some(100))).unwrap();
        for n in 4..12 {
            let known = |cpu| w.tlbs().remembered(cpu, at(&s, n).vpn(w.page_shift()));
            assert_eq!((0..3).map(known).map(|k| k.len()).sum::<usize>(), 0);
            is_gone(&w, &s, n);
        }
        w.check([&s]).unwrap();
        // Freed at once: software TLBs scream if anybody can still reach it.
        s.unmap(at(&s, 100), 8 * page).unwrap();
        end(&w, s);
    });
}

#[test]
fn a_move_is_one_round_for_the_pages_that_moved() {
    on_every_machine(|machine| {
        let w = world(machine);
        let s = w.space();
        map(&s, 0, 32);
        // Of those that move, the ends were never touched.
        for n in (0..6).chain(12..14) {
            poke(&w, &s, n, 1);
        }
        // CPU 1 runs it, too; CPU 2 did, and runs another.
        let other = w.space();
        w.run(1, &s);
        w.run(2, &s);
        w.run(2, &other);
        w.platform().take_log();
        on_cpu(0, || remap(&s, 2, (8, 8), FIXED, Some(14 + 64))).unwrap();
        let sent = w.platform().take_log().flushes;
        let pages = |n: usize| at(&s, n).vpn(w.page_shift());
        let from = sent
            .iter()
            .filter(|(_, flush)| flush.pages.is_some_and(|p| p.contains(pages(2))));
        let from: Vec<_> = from.collect();
        assert_eq!(from.len(), 1, "{sent:?}");
        let range = from[0].1.pages.unwrap();
        assert_eq!((range.start(), range.end()), (pages(2), pages(6)));
        assert!(from[0].0.iter().eq([0, 1]), "{sent:?}");
        let most = if machine.format().caches_invalid() {
            2
        } else {
            1
        };
        assert!(sent.len() <= most, "{sent:?}");
        // Nothing there: nothing to be told.
        on_cpu(0, || remap(&s, 20, (4, 4), FIXED, Some(90))).unwrap();
        assert_eq!(w.platform().take_log().flushes, vec![]);
        drop(other);
        end(&w, s);
    });
}

#[test]
fn a_place_that_is_taken_is_replaced() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        map(&s, 0, 16);
        let r = MapRequest::anonymous(16 * page, Prot::RX).fixed(at(&s, 16));
        s.map(&r).unwrap();
        for n in 0..16 {
            poke(&w, &s, n, n as u8 + 1);
        }
        // Within the area itself, above and below.
        assert_eq!(remap(&s, 2, (2, 2), FIXED, Some(10)), Ok(10));
        assert_eq!(draw(&s), "0+2 4+6 10+2 12+4 16+16");
        assert_eq!(byte(&w, &s, 10, 2), Ok(3));
        assert_eq!(byte(&w, &s, 12, 12), Ok(13));
        assert_eq!(remap(&s, 14, (2, 2), FIXED, Some(5)), Ok(5));
        assert_eq!(byte(&w, &s, 6, 15), Ok(16));
        w.check([&s]).unwrap();
        // Over several areas, and shrinking on the way: the tail goes as well.
        assert_eq!(remap(&s, 7, (3, 1), FIXED, Some(0)), Ok(0));
        assert_eq!(byte(&w, &s, 0, 7), Ok(8));
        assert_eq!(byte(&w, &s, 1, 1), Ok(2));
        is_gone(&w, &s, 8);
        assert_eq!(remap(&s, 10, (2, 8), FIXED, Some(14)), Ok(14));
        assert_eq!(byte(&w, &s, 15, 3), Ok(4));
        assert_eq!(byte(&w, &s, 20, 0), Ok(0));
        end(&w, s);
    });
}

#[test]
fn what_is_left_behind_is_an_empty_area() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        map(&s, 0, 8);
        for n in 0..8 {
            poke(&w, &s, n, 1);
        }
        // A hint is a hint.
        map(&s, 64, 1);
        let to = remap(&s, 0, (8, 8), LEAVE, Some(60)).unwrap();
        assert_ne!(to, 60, "something is there");
        assert_eq!(byte(&w, &s, to + 3, 3), Ok(1));
        assert_eq!(byte(&w, &s, 3, 3), Ok(0), "a new page");
        assert_eq!(s.counts().total.get(), 17);
        poke(&w, &s, 4, 2);
        assert_eq!(byte(&w, &s, to + 4, 4), Ok(1));
        w.check([&s]).unwrap();
        // A part, with a given place.
        poke(&w, &s, 5, 5);
        let given = LEAVE | RemapFlags::FIXED;
        assert_eq!(remap(&s, 4, (2, 2), given, Some(40)), Ok(40));
        assert_eq!(byte(&w, &s, 41, 5), Ok(5));
        assert_eq!(byte(&w, &s, 5, 5), Ok(0));
        // A file's pages come again.
        let file = w.file(1, &vec![5; 4 * page]);
        let shared = MapRequest::shared(&file, 0, 4 * page, Prot::RW);
        s.map(&shared.fixed(at(&s, 100))).unwrap();
        poke(&w, &s, 101, 6);
        assert_eq!(remap(&s, 100, (4, 4), given, Some(120)), Ok(120));
        assert_eq!(
            (byte(&w, &s, 101, 101), byte(&w, &s, 121, 101)),
            (Ok(6), Ok(6))
        );
        w.check([&s]).unwrap();
        drop((s, file));
        w.assert_empty();
    });
}

/// Locks move; what is left behind is not locked, and nothing else changes (I).
#[test]
fn locked_pages_are_counted_where_they_are() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        let locked = MapRequest::anonymous(8 * page, Prot::RW).with(MapFlags::LOCKED);
        s.map(&locked.fixed(at(&s, 0))).unwrap();
        let limits = SpaceLimits {
            locked: 10 * page,
            ..s.limits()
        };
        s.set_limits(limits);
        assert_eq!(refused(&s, 0, (8, 11), NONE, None), EAGAIN);
        assert_eq!(refused(&s, 0, (8, 11), FIXED, Some(64)), EAGAIN);
        // Both limits: the one of locks is told (Linux: vma_to_resize).
        s.set_limits(SpaceLimits {
            address_space: 8 * page,
            ..limits
        });
        assert_eq!(refused(&s, 0, (8, 11), MOVE, None), EAGAIN);
        assert_eq!(refused(&s, 0, (8, 10), MOVE, None), ENOMEM);
        s.set_limits(limits);
        assert_eq!(remap(&s, 0, (8, 10), FIXED, Some(64)), Ok(64));
        assert_eq!(s.counts().locked.get(), 10);
        let given = LEAVE | RemapFlags::FIXED;
        assert_eq!(remap(&s, 66, (3, 3), given, Some(90)), Ok(90));
        assert_eq!(s.counts().locked.get(), 10, "moved, not doubled");
        let is_locked = |n| {
            let area = s.find(at(&s, n)).unwrap();
            area.flags.contains(VmaFlags::LOCKED)
        };
        let pages = [64, 66, 68, 69, 90];
        assert_eq!(pages.map(is_locked), [true, false, false, true, true]);
        end(&w, s);
    });
}

#[test]
fn a_shared_area_is_mapped_once_more() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        let anon = MapRequest::anonymous(8 * page, Prot::RW).with(MapFlags::SHARED);
        s.map(&anon.fixed(at(&s, 0))).unwrap();
        poke(&w, &s, 3, 3);
        assert_eq!(refused(&s, 2, (0, 4), NONE, None), ENOMEM);
        let twice = remap(&s, 2, (0, 4), MOVE, None).unwrap();
        assert_eq!(byte(&w, &s, twice + 1, 3), Ok(3));
        w.poke(0, &s, at(&s, twice + 2).as_usize(), 9).unwrap();
        assert_eq!(byte(&w, &s, 4, 0), Ok(9));
        assert_eq!(s.counts().total.get(), 12);
        // Inside of what it is taken from; but not where it begins.
        assert_eq!(refused(&s, 2, (0, 4), FIXED, Some(0)), EINVAL);
        assert_eq!(refused(&s, 2, (0, 4), FIXED, Some(2)), EFAULT);
        assert_eq!(remap(&s, 2, (0, 2), FIXED, Some(4)), Ok(4));
        assert_eq!(byte(&w, &s, 5, 3), Ok(3));
        end(&w, s);
    });
}

/// The merge rules of Linux's selftests: an untouched area joins where it goes, a
/// touched one only where its pages were first.
#[test]
fn a_moved_area_joins_its_neighbours_as_on_linux() {
    on_every_machine(|machine| {
        let w = world(machine);
        let s = w.space();
        // Untouched, beside touched.
        map(&s, 0, 2);
        poke(&w, &s, 0, 1);
        map(&s, 40, 2);
        assert_eq!(remap(&s, 40, (2, 2), FIXED, Some(2)), Ok(2));
        assert_eq!(draw(&s), "0+4");
        // copy_vma merge, and away again: cut out of the middle, and back.
        for n in 0..4 {
            poke(&w, &s, n, n as u8 + 1);
        }
        assert_eq!(remap(&s, 1, (2, 2), FIXED, Some(50)), Ok(50));
        assert_eq!(draw(&s), "0+1 3+1 50+2");
        assert_eq!(remap(&s, 50, (2, 2), FIXED, Some(1)), Ok(1));
        assert_eq!(draw(&s), "0+4", "at its original place");
        for n in 0..4 {
            assert_eq!(byte(&w, &s, n, n), Ok(n as u8 + 1));
        }
        // Touched, beside touched elsewhere: offsets do not fit.
        map(&s, 60, 2);
        poke(&w, &s, 60, 1);
        assert_eq!(remap(&s, 60, (2, 2), FIXED, Some(4)), Ok(4));
        assert_eq!(draw(&s), "0+4 4+2");
        // An untouched area becomes one with what it is moved out of.
        map(&s, 100, 6);
        assert_eq!(remap(&s, 103, (3, 3), FIXED, Some(106)), Ok(106));
        assert_eq!(draw(&s), "0+4 4+2 100+3 106+3");
        map(&s, 94, 4);
        assert_eq!(remap(&s, 106, (3, 3), FIXED, Some(103)), Ok(103));
        assert_eq!(remap(&s, 101, (2, 2), FIXED, Some(98)), Ok(98));
        assert_eq!(draw(&s), "0+4 4+2 94+7 103+3");
        assert_eq!(remap(&s, 94, (7, 3), FIXED, Some(106)), Ok(106));
        assert_eq!(draw(&s), "0+4 4+2 103+6");
        end(&w, s);
    });
}

#[test]
fn bounds_are_those_of_linux() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        map(&s, 0, 8);
        let limits = s.limits();
        let set = |total: usize, data: usize, areas: usize| {
            s.set_limits(SpaceLimits {
                address_space: total * page,
                data: data * page,
                areas,
                ..limits
            });
        };
        set(9, 100, 100);
        assert_eq!(refused(&s, 0, (8, 10), NONE, None), ENOMEM);
        assert_eq!(refused(&s, 0, (8, 8), LEAVE, None), ENOMEM);
        assert_eq!(remap(&s, 0, (8, 9), FIXED, Some(64)), Ok(64));
        set(100, 9, 100);
        assert_eq!(refused(&s, 64, (9, 10), MOVE, None), ENOMEM);
        // Fewer than four areas are left, fewer than six for a given place.
        set(100, 100, 4);
        map(&s, 73, 1);
        s.protect(at(&s, 73), page, Prot::READ).unwrap();
        assert_eq!(refused(&s, 64, (9, 10), MOVE, None), ENOMEM);
        set(100, 100, 6);
        assert!(remap(&s, 64, (9, 10), MOVE, None).is_ok());
        map(&s, 64, 1);
        set(100, 100, 8);
        assert_eq!(refused(&s, 64, (1, 1), FIXED, Some(0)), ENOMEM);
        set(100, 100, 9);
        assert_eq!(remap(&s, 64, (1, 1), FIXED, Some(0)), Ok(0));
        // Growing where it is needs none.
        set(100, 100, 3);
        assert_eq!(remap(&s, 0, (1, 2), NONE, None), Ok(0));
        end(&w, s);
    });
}

#[test]
fn a_stack_and_the_heap_move_as_areas() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        s.set_limits(SpaceLimits {
            stack_guard: 4 * page,
            ..s.limits()
        });
        let stack = MapRequest::anonymous(4 * page, Prot::RW).with(MapFlags::GROWS_DOWN);
        s.map(&stack.fixed(at(&s, 64))).unwrap();
        poke(&w, &s, 65, 1);
        assert_eq!(remap(&s, 64, (4, 4), FIXED, Some(200)), Ok(200));
        assert_eq!(byte(&w, &s, 201, 65), Ok(1));
        poke(&w, &s, 198, 2);
        assert_eq!(draw(&s), "198+6", "it grows where it is now");
        s.set_brk_start(at(&s, 0));
        assert_eq!(s.brk(Some(at(&s, 4))), at(&s, 4));
        poke(&w, &s, 1, 3);
        assert_eq!(remap(&s, 0, (4, 4), FIXED, Some(20)), Ok(20));
        assert_eq!(byte(&w, &s, 21, 1), Ok(3));
        // The end of the heap is a number: it stays, and grows from there.
        assert_eq!(s.brk(Some(at(&s, 6))), at(&s, 6));
        assert_eq!(draw(&s), "4+2 20+4 198+6");
        end(&w, s);
    });
}

#[test]
fn a_file_that_is_cut_is_cut_at_the_new_place() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        let file = w.file(1, &vec![5; 8 * page]);
        for (n, r) in [
            (0, MapRequest::shared(&file, 0, 8 * page, Prot::RW)),
            (8, MapRequest::private(&file, 0, 8 * page, Prot::RW)),
        ] {
            s.map(&r.fixed(at(&s, n))).unwrap();
        }
        for n in [1, 6, 9, 14] {
            poke(&w, &s, n, 1);
        }
        w.peek(0, &s, at(&s, 13).as_usize()).unwrap();
        assert_eq!(remap(&s, 4, (4, 4), FIXED, Some(44)), Ok(44));
        assert_eq!(remap(&s, 12, (4, 4), FIXED, Some(60)), Ok(60));
        w.resize(&file, 5 * page);
        w.check([&s]).unwrap();
        for n in [45, 46, 61, 62] {
            let got = byte(&w, &s, n, 0);
            let bus = matches!(got, Err(Stopped::Signal(Signal::BusAdrErr(_))));
            assert!(bus, "page {n}: {got:?}");
        }
        assert_eq!(byte(&w, &s, 44, 0), Ok(5));
        assert_eq!(byte(&w, &s, 1, 1), Ok(1));
        drop((s, file));
        w.assert_empty();
    });
}

/// Devices move, entry by entry, runs or not; they do not grow.
#[test]
fn a_device_moves_and_does_not_grow() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        let first = Pfn::new(0x4000);
        let device = MapRequest {
            backing: Backing::Device {
                pfn: first,
                mem: MemType::WriteBack,
            },
            ..MapRequest::anonymous(40 * page, Prot::RW)
        };
        let aligned = 16 + 64;
        s.map(&device.fixed(at(&s, aligned))).unwrap();
        let frame = |n: usize| match s.entry(at(&s, n).vpn(w.page_shift())) {
            Entry::Leaf { pfn, attrs } => {
                assert!(attrs.flags.contains(AttrFlags::SPECIAL));
                pfn.as_u64() - first.as_u64()
            }
            other => panic!("{other:?}"),
        };
        for flags in [NONE, MOVE] {
            assert_eq!(refused(&s, aligned, (40, 41), flags, None), EFAULT);
        }
        assert_eq!(refused(&s, aligned, (0, 40), MOVE, None), EINVAL);
        assert_eq!(refused(&s, aligned, (40, 40), LEAVE, None), EINVAL);
        // As aligned as before; not; a part of a run.
        let mut place = aligned;
        for to in [aligned + 256, 601, 900] {
            assert_eq!(remap(&s, place, (40, 40), FIXED, Some(to)), Ok(to));
            for n in 0..40 {
                assert_eq!(frame(to + n), n as u64, "to {to}");
            }
            w.check([&s]).unwrap();
            place = to;
        }
        assert_eq!(
            remap(&s, place, (40, 40), FIXED, Some(aligned)),
            Ok(aligned)
        );
        assert_eq!(
            remap(&s, aligned + 3, (9, 9), FIXED, Some(aligned + 1024 + 3)),
            Ok(aligned + 1024 + 3)
        );
        let here = |n: usize| if (3..12).contains(&n) { n + 1024 } else { n };
        for n in 0..40 {
            assert_eq!(frame(aligned + here(n)), n as u64, "page {n}");
        }
        assert_eq!(remap(&s, aligned + 20, (20, 4), FIXED, Some(0)), Ok(0));
        assert_eq!(frame(3), 23);
        end(&w, s);
    });
}

/// Code is visible by its frame: it needs no more at another address.
#[test]
fn code_runs_at_its_new_place() {
    on_every_machine(|machine| {
        let w = world(machine);
        let (s, page) = (w.space(), w.page_size());
        map(&s, 0, 4);
        poke(&w, &s, 1, 1);
        s.protect(at(&s, 0), 4 * page, Prot::RX).unwrap();
        for cpu in 0..3 {
            w.fetch(cpu, &s, at(&s, 1).as_usize()).unwrap();
        }
        let entry = |n: usize| s.entry(at(&s, n).vpn(w.page_shift()));
        let before = entry(1);
        assert_eq!(remap(&s, 0, (4, 4), FIXED, Some(70)), Ok(70));
        assert_eq!(entry(71), before, "at once, with all its rights");
        for cpu in 0..3 {
            w.fetch(cpu, &s, at(&s, 71).as_usize()).unwrap();
        }
        end(&w, s);
    });
}
