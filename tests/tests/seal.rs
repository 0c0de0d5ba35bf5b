//! Sealed areas (mseal(2)): what refuses to touch them, with nothing changed, and what does not
//! mind. The numbers are those of Linux 6.18, tried; where it stops half way, we do not begin.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::prot::{MemType, Prot};
use mm_core::space::{Advice, Backing, MapFlags, MapRequest, RemapFlags, SpaceLimits};
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

fn map(s: &Space, start: usize, end: usize, prot: Prot) {
    let area = MapRequest::anonymous(len(s, end - start), prot);
    assert_eq!(s.map(&area.fixed(at(s, start))), Ok(at(s, start)));
}

fn seal(s: &Space, start: usize, end: usize) -> Result<(), MmError> {
    s.seal(at(s, start), len(s, end - start))
}

/// Writes the areas as `start-end rights`, with a `!` where they are sealed.
fn draw(s: &Space) -> String {
    let page = |n: usize| n.wrapping_sub(BASE);
    let areas = s.areas().map(|a| {
        let (start, end) = (a.range.start().as_usize(), a.range.end().as_usize());
        let mark = if a.flags.contains(VmaFlags::SEALED) {
            "!"
        } else {
            ""
        };
        format!("{}-{}{}{mark}", page(start), page(end), a.prot())
    });
    areas.collect::<Vec<_>>().join(" ")
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
        test(machine, &w, &s);
        w.check([&s]).unwrap();
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn seal_checks_its_range_and_cuts_areas() {
    with_world(|_, _, s| {
        let page = page_size(s);
        map(s, 0, 8, Prot::RW);
        assert_eq!(
            s.seal(VirtAddr::new(at(s, 0).as_usize() + 1), page)
                .map_err(|e| e.errno()),
            Err(22)
        );
        assert_eq!(s.seal(at(s, 0), 0), Ok(()));
        let wraps = usize::MAX - at(s, 0).as_usize() + 1;
        for bad in [wraps, usize::MAX - page + 1, usize::MAX] {
            assert_eq!(s.seal(at(s, 0), bad).map_err(MmError::errno), Err(22));
        }
        // Holes, and nothing at all.
        let hole = Err(MmError::Unmapped(at(s, 8)));
        assert_eq!(seal(s, 0, 9), hole);
        assert_eq!(seal(s, 20, 21), Err(MmError::Unmapped(at(s, 20))));
        assert_eq!(seal(s, 20, 21).map_err(MmError::errno), Err(12));
        assert_eq!(draw(s), "0-8rw-");
        // Two nodes are needed.
        s.set_limits(SpaceLimits {
            areas: 2,
            ..s.limits()
        });
        assert_eq!(seal(s, 2, 4), Err(MmError::Limit));
        assert_eq!(draw(s), "0-8rw-");
        s.set_limits(SpaceLimits {
            areas: 100,
            ..s.limits()
        });
        assert_eq!(s.seal(at(s, 2), page + 1), Ok(()));
        assert_eq!(draw(s), "0-2rw- 2-4rw-! 4-8rw-");
        assert_eq!(seal(s, 2, 4), Ok(()), "again");
        // Sealed ones merge, also over several areas; with others they do not.
        assert_eq!(seal(s, 1, 5), Ok(()));
        assert_eq!(draw(s), "0-1rw- 1-5rw-! 5-8rw-");
        map(s, 8, 9, Prot::RW);
        assert_eq!(draw(s), "0-1rw- 1-5rw-! 5-9rw-");
        assert_eq!(s.counts().areas.get(), 3);
    });
}

#[test]
fn no_verb_changes_a_sealed_area() {
    with_world(|_, w, s| {
        let page = page_size(s);
        map(s, 0, 8, Prot::RW);
        (0..8).for_each(|n| poke(w, s, n, n as u8 + 1));
        seal(s, 2, 4).unwrap();
        // Three areas of which the middle one is sealed, and one elsewhere.
        map(s, 20, 22, Prot::RW);
        poke(w, s, 20, 21);
        let before = draw(s);
        let refused = |what: &str, got: Result<(), MmError>| {
            assert_eq!(got.map_err(MmError::errno), Err(1), "{what}");
            assert_eq!(draw(s), before, "{what}");
        };
        for (start, end) in [(2, 4), (3, 4), (0, 8), (1, 3), (3, 12)] {
            refused("unmap", s.unmap(at(s, start), len(s, end - start)));
            for area in [
                MapRequest::anonymous(len(s, end - start), Prot::READ),
                MapRequest {
                    backing: Backing::Device {
                        pfn: mm_core::addr::Pfn::new(0x2_0000),
                        mem: MemType::Device,
                    },
                    ..MapRequest::anonymous(len(s, end - start), Prot::READ)
                },
            ] {
                refused("map", s.map(&area.fixed(at(s, start))).map(drop));
            }
        }
        for (start, end) in [(2, 4), (3, 4), (0, 8), (1, 3)] {
            for prot in [Prot::RW, Prot::READ, Prot::NONE] {
                let got = s.protect(at(s, start), len(s, end - start), prot);
                refused("protect", got);
            }
        }
        let remap = |start: usize, (old, new): (usize, usize), flags, to| {
            s.remap(
                at(s, start),
                len(s, old),
                len(s, new),
                flags,
                Some(at(s, to)),
            )
            .map(drop)
        };
        let (moves, fixed) = (
            RemapFlags::MAY_MOVE,
            RemapFlags::MAY_MOVE | RemapFlags::FIXED,
        );
        refused("as it is", remap(2, (2, 2), RemapFlags::empty(), 0));
        refused("shorter", remap(2, (2, 1), RemapFlags::empty(), 0));
        refused("longer", remap(2, (2, 3), moves, 0));
        refused("elsewhere", remap(2, (2, 2), fixed, 40));
        let stays = moves | RemapFlags::DONT_UNMAP;
        refused("and left behind", remap(2, (2, 2), stays, 40));
        refused("onto it", remap(20, (2, 2), fixed, 3));
        refused("over it", remap(20, (2, 8), fixed, 0));
        refused("a sealed tail", remap(0, (3, 1), RemapFlags::empty(), 0));
        refused("a sealed tail that goes", remap(0, (3, 1), fixed, 40));
        // Everything holds what it held, and no place was taken.
        (0..8).for_each(|n| assert_eq!(peek(w, s, n), n as u8 + 1));
        assert_eq!(peek(w, s, 20), 21);
        // Before the hole nothing is sealed: as ever.
        let partly = s.protect(at(s, 20), 4 * page, Prot::READ);
        assert_eq!(partly, Err(MmError::Unmapped(at(s, 22))));
        assert_eq!(draw(s), "0-2rw- 2-4rw-! 4-8rw- 20-22r--");
        // Behind it something is: all of the range is asked about.
        map(s, 30, 31, Prot::RW);
        map(s, 32, 33, Prot::RW);
        seal(s, 32, 33).unwrap();
        let over_a_hole = s.protect(at(s, 30), len(s, 3), Prot::READ);
        assert_eq!(over_a_hole, Err(MmError::NotPermitted(at(s, 32))));
        assert_eq!(draw(s), "0-2rw- 2-4rw-! 4-8rw- 20-22r-- 30-31rw- 32-33rw-!");
        s.unmap(at(s, 30), len(s, 1)).unwrap();
        // The rest can be had.
        s.unmap(at(s, 0), len(s, 2)).unwrap();
        s.unmap(at(s, 4), len(s, 28)).unwrap();
        assert_eq!(draw(s), "2-4rw-! 32-33rw-!");
        poke(w, s, 2, 9);
        assert_eq!((peek(w, s, 2), peek(w, s, 3)), (9, 4));
    });
}

#[test]
fn advice_takes_nothing_that_the_program_could_not_overwrite() {
    with_world(|_, w, s| {
        let advise = |n: usize, pages: usize, advice| s.advise(at(s, n), len(s, pages), advice);
        // Each in its place, as the one before stays.
        for (b, prot) in [(0, Prot::READ), (10, Prot::NONE), (20, Prot::RX)] {
            map(s, b, b + 4, Prot::RW);
            (0..4).for_each(|n| poke(w, s, b + n, 5));
            s.protect(at(s, b + 1), len(s, 2), prot).unwrap();
            seal(s, b + 1, b + 3).unwrap();
            let (before, refused) = (draw(s), Err(MmError::NotPermitted(at(s, b + 1))));
            for advice in [Advice::DontNeed, Advice::DontFork, Advice::WipeOnFork] {
                for (first, pages) in [(1, 2), (1, 1), (0, 4), (0, 6)] {
                    assert_eq!(advise(b + first, pages, advice), refused, "{advice:?}");
                }
            }
            assert_eq!(draw(s), before);
            for advice in [
                Advice::DoFork,
                Advice::KeepOnFork,
                Advice::Random,
                Advice::Normal,
                Advice::DontDump,
                Advice::DoDump,
            ] {
                assert_eq!(advise(b, 4, advice), Ok(()));
            }
            assert_eq!(draw(s), before);
            let readable = if prot == Prot::NONE { 3..4 } else { 0..4 };
            for n in readable {
                assert_eq!(peek(w, s, b + n), 5);
            }
        }
        // What can be overwritten can be dropped.
        map(s, 30, 32, Prot::RW);
        poke(w, s, 30, 5);
        seal(s, 30, 32).unwrap();
        assert_eq!(advise(30, 2, Advice::DontNeed), Ok(()));
        assert_eq!(peek(w, s, 30), 0);
        assert_eq!(advise(30, 2, Advice::DontFork), Ok(()));
        // What an object holds is read again.
        let file = w.file(1, &vec![7; len(s, 2)]);
        let shared = MapRequest::anonymous(len(s, 2), Prot::READ).with(MapFlags::SHARED);
        let private = MapRequest::private(&file, 0, len(s, 2), Prot::READ);
        for (n, area) in [(40, shared), (50, private)] {
            s.map(&area.fixed(at(s, n))).unwrap();
            seal(s, n, n + 2).unwrap();
            let held = peek(w, s, n);
            assert_eq!(advise(n, 2, Advice::DontNeed), Ok(()));
            assert_eq!(peek(w, s, n), held);
        }
    });
}

#[test]
fn a_child_has_the_seal_and_an_end_of_a_space_has_none() {
    with_world(|_, w, s| {
        map(s, 0, 4, Prot::RW);
        poke(w, s, 1, 6);
        seal(s, 1, 2).unwrap();
        let child = on_cpu(0, || s.fork()).unwrap();
        assert_eq!(draw(&child), "0-1rw- 1-2rw-! 2-4rw-");
        let refused = child.unmap(at(s, 0), len(s, 4));
        assert_eq!(refused, Err(MmError::NotPermitted(at(s, 1))));
        poke(w, &child, 1, 8);
        assert_eq!((peek(w, s, 1), peek(w, &child, 1)), (6, 8));
        w.check([s, &child]).unwrap();
        w.idle(0);
        drop(child);
    });
}

#[test]
fn the_heap_keeps_what_is_sealed_and_grows() {
    with_world(|_, w, s| {
        let page = page_size(s);
        let end = |n: usize| VirtAddr::new(at(s, n).as_usize() + 5);
        s.set_brk_start(at(s, 0));
        assert_eq!(s.brk(Some(end(4))), end(4));
        poke(w, s, 4, 3);
        // The last two of five pages.
        seal(s, 3, 5).unwrap();
        for low in [0, 2, 3] {
            assert_eq!(s.brk(Some(end(low))), end(4), "it stays");
        }
        // Within its last page there is nothing to unmap.
        assert_eq!(s.brk(Some(at(s, 5))), at(s, 5));
        assert_eq!(s.brk(Some(end(7))), end(7));
        assert_eq!(draw(s), "0-3rw- 3-5rw-! 5-8rw-");
        assert_eq!(s.brk(Some(at(s, 5))), at(s, 5));
        assert_eq!(peek(w, s, 4), 3);
        assert_eq!(draw(s), "0-3rw- 3-5rw-!");
        assert_eq!(s.counts().total.get() * page, len(s, 5));
    });
}

#[test]
fn a_sealed_stack_grows_and_stays_one_area() {
    with_world(|_, w, s| {
        let stack = MapRequest::anonymous(len(s, 2), Prot::RW).with(MapFlags::GROWS_DOWN);
        s.map(&stack.fixed(at(s, 20))).unwrap();
        seal(s, 20, 22).unwrap();
        poke(w, s, 17, 1);
        assert_eq!(draw(s), "17-22rw-!");
        assert_eq!(
            s.unmap(at(s, 17), len(s, 1)).map_err(MmError::errno),
            Err(1)
        );
    });
}
