//! Bugs that others had in areas, and we must not: one test for each lesson.
//!
//! Each test names the report that it was learnt from.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::fault::Signal;
use mm_core::prot::Prot;
use mm_core::space::{MapFlags, MapRequest};
use mm_core::stats::Counter;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::world::{Space, Stopped, World, page_size};

/// The first page that is used.
const BASE: usize = 0x20000;

fn world(machine: &Machine) -> World {
    machine.world(1024, 2, 0)
}

fn at(s: &Space, n: usize) -> VirtAddr {
    VirtAddr::new((BASE + n) * page_size(s))
}

fn map(s: &Space, page: usize, pages: usize, prot: Prot) {
    let r = MapRequest::anonymous(pages * page_size(s), prot).fixed(at(s, page));
    assert_eq!(s.map(&r), Ok(at(s, page)));
}

fn poke(w: &World, s: &Space, page: usize) -> Result<(), Stopped> {
    w.poke(0, s, at(s, page).as_usize(), page as u8 + 1)
}

fn peek(w: &World, s: &Space, page: usize) -> Result<u8, Stopped> {
    w.peek(1, s, at(s, page).as_usize())
}

/// Returns the areas as `start+pages rights`, in pages from the base.
fn draw(s: &Space) -> String {
    let areas = s.areas().map(|a| {
        let start = a.range.start().as_usize() - BASE;
        format!("{start}+{}{}", a.range.pages(), a.prot())
    });
    areas.collect::<Vec<_>>().join(" ")
}

fn end(w: &World, s: Space) {
    w.check([&s]).unwrap();
    drop(s);
    w.assert_empty();
}

fn numbered(w: &World, pages: usize) -> Vec<u8> {
    let page = w.page_size();
    (0..pages * page).map(|i| (i / page) as u8 + 1).collect()
}

/// DragonOS#1728: only the first area in the way was unmapped.
#[test]
fn lesson_1_fixed_over_several_areas() {
    on_every_machine(|machine| {
        let w = world(machine);
        let s = w.space();
        for (i, prot) in [Prot::RW, Prot::READ, Prot::RWX, Prot::RX]
            .into_iter()
            .enumerate()
        {
            map(&s, 2 * i, 2, prot);
        }
        poke(&w, &s, 0).unwrap();
        poke(&w, &s, 5).unwrap();
        map(&s, 1, 6, Prot::RW);
        assert_eq!(draw(&s), "0+7rw- 7+1r-x");
        assert_eq!((peek(&w, &s, 0), peek(&w, &s, 5)), (Ok(1), Ok(0)));
        end(&w, s);
    });
}

/// asterinas#2917: protect went through a list of areas that its own merges
/// had made stale.
#[test]
fn lesson_2_protect_merges_away_the_areas_it_goes_through() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        for i in 0..8 {
            map(&s, i, 1, if i % 2 == 0 { Prot::RW } else { Prot::READ });
        }
        s.protect(at(&s, 0), 8 * page, Prot::RW).unwrap();
        assert_eq!(draw(&s), "0+8rw-");
        s.protect(at(&s, 1), 6 * page, Prot::READ).unwrap();
        s.protect(at(&s, 3), 2 * page, Prot::RW).unwrap();
        assert_eq!(draw(&s), "0+1rw- 1+2r-- 3+2rw- 5+2r-- 7+1rw-");
        s.protect(at(&s, 0), 8 * page, Prot::RW).unwrap();
        assert_eq!(draw(&s), "0+8rw-");
        end(&w, s);
    });
}

/// asterinas#2209: offsets that run backwards underflowed in the merge.
#[test]
fn lesson_3_file_mappings_in_inverted_order_stay_apart() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &numbered(&w, 8));
        let s = w.space();
        for i in 0..4 {
            let offset = (3 - i) * page as u64;
            let r = MapRequest::shared(&file, offset, page, Prot::READ);
            s.map(&r.fixed(at(&s, i as usize))).unwrap();
        }
        assert_eq!(s.areas().count(), 4);
        for i in 0..4 {
            assert_eq!(peek(&w, &s, i), Ok(4 - i as u8));
        }
        drop(file);
        end(&w, s);
    });
}

/// libkernel, usercorn#287, DragonOS#1354: a split lost the offset in the file.
#[test]
fn lessons_8_9_10_every_piece_of_a_split_file_mapping_shows_its_own_page() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &numbered(&w, 12));
        let s = w.space();
        let r = MapRequest::private(&file, 2 * page as u64, 9 * page, Prot::RW);
        s.map(&r.fixed(at(&s, 0))).unwrap();
        s.protect(at(&s, 3), page, Prot::READ).unwrap();
        s.unmap(at(&s, 5), page).unwrap();
        let child = s.fork().unwrap();
        assert_eq!(draw(&s), "0+3rw- 3+1r-- 4+1rw- 6+3rw-");
        for i in [0, 2, 3, 4, 6, 8] {
            assert_eq!(peek(&w, &s, i), Ok(i as u8 + 3), "page {i}");
            assert_eq!(
                peek(&w, &child, i),
                Ok(i as u8 + 3),
                "page {i} of the child"
            );
        }
        s.protect(at(&s, 3), page, Prot::RW).unwrap();
        assert_eq!(draw(&s), "0+5rw- 6+3rw-");
        drop((child, file));
        end(&w, s);
    });
}

/// unicorn#1495, fission#9: an area that ends where another begins is not in
/// the way, and of one that is cut both halves survive.
#[test]
fn lessons_13_14_edges_are_exact_and_halves_survive() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        map(&s, 0, 4, Prot::READ);
        map(&s, 4, 4, Prot::RW);
        poke(&w, &s, 4).unwrap();
        poke(&w, &s, 7).unwrap();
        s.unmap(at(&s, 4), page).unwrap();
        assert_eq!(draw(&s), "0+4r-- 5+3rw-");
        s.unmap(at(&s, 6), page).unwrap();
        assert_eq!(draw(&s), "0+4r-- 5+1rw- 7+1rw-");
        assert_eq!(peek(&w, &s, 7), Ok(8));
        let gone = peek(&w, &s, 4);
        assert!(matches!(gone, Err(Stopped::Signal(Signal::SegvMapErr(_)))));
        end(&w, s);
    });
}

/// phoenix-rtos#508: a piece split off belonged to whoever ran at the time.
#[test]
fn lesson_16_a_split_belongs_to_the_space_it_was_made_in() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let (s, other) = (w.space(), w.space());
        map(&s, 0, 6, Prot::RW);
        for i in 0..6 {
            poke(&w, &s, i).unwrap();
        }
        // Another process runs on this CPU while its debugger cuts the first.
        w.run(0, &other);
        s.protect(at(&s, 2), page, Prot::READ).unwrap();
        w.check([&s, &other]).unwrap();
        assert_eq!(other.counts().areas.get(), 0);
        drop(other);
        for i in 0..6 {
            assert_eq!(peek(&w, &s, i), Ok(i as u8 + 1));
        }
        end(&w, s);
    });
}

/// kontainapp/km#199: pieces were never merged again, until there were too many.
#[test]
fn lesson_18_protecting_to_and_fro_does_not_pile_up_areas() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        map(&s, 0, 64, Prot::RW);
        for round in 0..8 {
            for i in 0..64 {
                if i % 3 == round % 3 {
                    poke(&w, &s, i).unwrap();
                }
                s.protect(at(&s, i), page, Prot::READ).unwrap();
            }
            s.protect(at(&s, 0), 64 * page, Prot::RW).unwrap();
            assert_eq!(draw(&s), "0+64rw-");
        }
        assert_eq!(w.mm().usage().vmas, 1);
        end(&w, s);
    });
}

/// tgoskits#1164: a mapping of 10 GB over a file of four pages took memory for
/// all of it when it was populated.
#[test]
fn lessons_24_25_populating_stops_at_the_end_of_the_file() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &numbered(&w, 4));
        let s = w.space();
        // Or what there is room for, which is far more than there is RAM.
        let len = (10 << 30).min(machine.user_end() / 4 / page * page);
        for shared in [true, false] {
            let mut r = MapRequest::private(&file, 0, len, Prot::RW);
            r.flags.set(MapFlags::SHARED, shared);
            let a = s.map(&r).unwrap();
            let done = w.finish(0, a.as_usize(), len, |at, len| {
                s.populate(VirtAddr::new(at), len)
            });
            assert_eq!(done, Ok(4 * page));
            let past = w.poke(0, &s, a.as_usize() + 4 * page, 1);
            assert!(matches!(past, Err(Stopped::Signal(Signal::BusAdrErr(_)))));
            assert_eq!(s.counts().file.get() + s.counts().anon.get(), 4);
            s.unmap(a, len).unwrap();
        }
        drop(file);
        end(&w, s);
    });
}

/// tgoskits#1992, libkernel: mprotect made a shared frame writable.
#[test]
fn lessons_30_31_giving_write_back_after_fork_copies_on_the_first_store() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        map(&s, 0, 3, Prot::RW);
        (0..3).for_each(|i| poke(&w, &s, i).unwrap());
        s.protect(at(&s, 0), 3 * page, Prot::READ).unwrap();
        let child = s.fork().unwrap();
        s.protect(at(&s, 0), 3 * page, Prot::RW).unwrap();
        w.check([&s, &child]).unwrap();
        w.poke(0, &s, at(&s, 1).as_usize(), 99).unwrap();
        assert_eq!(peek(&w, &child, 1), Ok(2));
        assert_eq!(w.mm().stats().get(Counter::CowCopy), 1);
        drop(child);
        end(&w, s);
    });
}

/// asterinas#959: shared pages stayed read-only after fork.
#[test]
fn lesson_35_shared_pages_can_be_written_after_fork_without_a_copy() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &numbered(&w, 2));
        let s = w.space();
        let r = MapRequest::shared(&file, 0, 2 * page, Prot::RW);
        s.map(&r.fixed(at(&s, 0))).unwrap();
        poke(&w, &s, 0).unwrap();
        let child = s.fork().unwrap();
        w.poke(1, &child, at(&s, 0).as_usize(), 50).unwrap();
        w.poke(0, &s, at(&s, 1).as_usize(), 51).unwrap();
        assert_eq!(peek(&w, &s, 0), Ok(50));
        assert_eq!(peek(&w, &child, 1), Ok(51));
        assert_eq!(w.mm().stats().get(Counter::CowCopy), 0);
        w.check([&s, &child]).unwrap();
        drop((child, file));
        end(&w, s);
    });
}

/// tgoskits#909, duckOS#61, caffeinix#63: the kernel's store to a shared page.
#[test]
fn lessons_40_41_the_kernels_stores_copy_too() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        map(&s, 0, 2, Prot::RW);
        poke(&w, &s, 0).unwrap();
        let child = s.fork().unwrap();
        assert_eq!(s.write(at(&s, 0), b"P").unwrap().done, 1);
        assert_eq!(peek(&w, &child, 0), Ok(1));
        assert_eq!(child.write(at(&s, 1), b"C").unwrap().done, 1);
        assert_eq!(peek(&w, &s, 1), Ok(0));
        assert_eq!(peek(&w, &s, 0), Ok(b'P'));
        // And never to what the program may not write to itself.
        child.protect(at(&s, 0), page, Prot::READ).unwrap();
        assert_eq!(
            child.write(at(&s, 0), b"X").unwrap_err(),
            MmError::Fault(at(&s, 0))
        );
        w.check([&s, &child]).unwrap();
        drop(child);
        end(&w, s);
    });
}

/// managarm#1616: fork passed over what a locked area had not touched yet.
#[test]
fn lesson_42_a_locked_area_that_is_half_touched_forks_whole() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        let r = MapRequest::anonymous(4 * page, Prot::RW).fixed(at(&s, 0));
        assert_eq!(s.map(&r.with(MapFlags::LOCKED)), Ok(at(&s, 0)));
        poke(&w, &s, 0).unwrap();
        poke(&w, &s, 2).unwrap();
        let child = s.fork().unwrap();
        for n in 0..4 {
            let before = if n % 2 == 0 { n as u8 + 1 } else { 0 };
            assert_eq!(peek(&w, &child, n), Ok(before), "page {n}");
            w.poke(1, &child, at(&s, n).as_usize(), 77).unwrap();
            assert_eq!(peek(&w, &s, n), Ok(before), "page {n}");
            poke(&w, &s, n).unwrap();
            assert_eq!(peek(&w, &child, n), Ok(77), "page {n}");
        }
        w.check([&s, &child]).unwrap();
        drop(child);
        end(&w, s);
    });
}

/// asterinas#3651: another CPU went on reading the file's page after it was copied.
#[test]
fn lesson_50_a_copy_of_a_file_page_is_seen_by_the_cpu_that_had_read_it() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &numbered(&w, 2));
        let s = w.space();
        let r = MapRequest::private(&file, 0, 2 * page, Prot::RW).fixed(at(&s, 0));
        s.map(&r).unwrap();
        assert_eq!(peek(&w, &s, 1), Ok(2));
        w.poke(0, &s, at(&s, 1).as_usize(), 99).unwrap();
        assert_eq!(peek(&w, &s, 1), Ok(99));
        w.check([&s]).unwrap();
        drop(file);
        end(&w, s);
    });
}

/// tgoskits#920: a page left the cache while one of two mappings of it, cut from one, kept its entry.
/// Truncation is what takes pages from the cache here.
#[test]
fn lesson_57_no_entry_of_a_mapping_that_was_cut_outlives_its_page() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &numbered(&w, 4));
        let s = w.space();
        for first in [0, 10] {
            let r = MapRequest::shared(&file, 0, 4 * page, Prot::RW).fixed(at(&s, first));
            s.map(&r).unwrap();
            s.protect(at(&s, first + 1), page, Prot::READ).unwrap();
        }
        assert_eq!(draw(&s).split(' ').count(), 6);
        let pages = [0, 1, 2, 3, 10, 11, 12, 13];
        for n in pages {
            for cpu in 0..2 {
                let byte = w.peek(cpu, &s, at(&s, n).as_usize());
                assert_eq!(byte, Ok(n as u8 % 10 + 1), "page {n}, CPU {cpu}");
            }
        }
        w.resize(&file, page);
        for n in pages {
            for cpu in 0..2 {
                let byte = w.peek(cpu, &s, at(&s, n).as_usize());
                if n % 10 == 0 {
                    assert_eq!(byte, Ok(1), "page {n}, CPU {cpu}");
                } else {
                    let bus = matches!(byte, Err(Stopped::Signal(Signal::BusAdrErr(_))));
                    assert!(bus, "page {n}, CPU {cpu}: {byte:?}");
                }
            }
        }
        w.check([&s]).unwrap();
        drop(file);
        end(&w, s);
    });
}

/// tgoskits#1173: which count a page is in went by its frame, not its entry.
#[test]
fn lesson_47_resident_pages_are_counted_by_what_they_are() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let file = w.file(1, &numbered(&w, 4));
        let s = w.space();
        let r = MapRequest::private(&file, 0, 4 * page, Prot::RW).fixed(at(&s, 0));
        s.map(&r).unwrap();
        for i in 0..4 {
            peek(&w, &s, i).unwrap();
        }
        let of = |s: &Space| (s.counts().anon.get(), s.counts().file.get());
        assert_eq!(of(&s), (0, 4));
        poke(&w, &s, 0).unwrap();
        poke(&w, &s, 1).unwrap();
        assert_eq!(of(&s), (2, 2));
        let child = s.fork().unwrap();
        assert_eq!(of(&child), (2, 2));
        w.poke(1, &child, at(&s, 2).as_usize(), 1).unwrap();
        assert_eq!((of(&child), of(&s)), ((3, 1), (2, 2)));
        w.check([&s, &child]).unwrap();
        drop((child, file));
        end(&w, s);
    });
}

/// tgoskits#691: a fixed mapping that failed late had destroyed the old one.
#[test]
fn lesson_66_c2_a_fixed_mapping_that_is_refused_leaves_the_old_one() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        map(&s, 0, 4, Prot::RW);
        poke(&w, &s, 1).unwrap();
        let mut limits = s.limits();
        limits.data = 5 * page;
        s.set_limits(limits);
        let r = MapRequest::anonymous(9 * page, Prot::RW).fixed(at(&s, 0));
        assert_eq!(s.map(&r), Err(MmError::Limit));
        let r = MapRequest::anonymous(page, Prot::RW)
            .max_prot(Prot::READ)
            .fixed(at(&s, 1));
        assert_eq!(s.map(&r), Err(MmError::Denied(at(&s, 1))));
        assert_eq!(draw(&s), "0+4rw-");
        assert_eq!(peek(&w, &s, 1), Ok(2));
        end(&w, s);
    });
}

/// asterinas#1172, #1188, ostd#1285: no length and odd ends never get inside.
#[test]
fn lessons_5_19_20_sums_that_wrap_are_refused_before_anything_happens() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let s = w.space();
        map(&s, 0, 2, Prot::RW);
        for len in [
            usize::MAX,
            usize::MAX - page,
            usize::MAX - BASE,
            machine.user_end().max(isize::MIN as usize),
        ] {
            assert!(s.unmap(at(&s, 0), len).is_err());
            assert!(s.protect(at(&s, 0), len, Prot::READ).is_err());
            assert!(s.populate(at(&s, 0), len).is_err());
            assert!(
                s.map(&MapRequest::anonymous(len, Prot::RW).fixed(at(&s, 0)))
                    .is_err()
            );
        }
        assert_eq!(s.brk(Some(VirtAddr::new(usize::MAX))), VirtAddr::new(0));
        // The prefix before the hole has changed, as on Linux.
        assert_eq!(draw(&s), "0+2r--");
        end(&w, s);
    });
}
