//! Bugs that other kernels had in their areas, each as a test. Numbers are
//! those of the list of lessons; letters those of the invariants.

use super::{RO, RW, Space, anon, file, range};
use crate::addr::Vpn;
use crate::sync::NoContext;
use crate::tree::{Direction, Flaw, GapRequest, Resolve};
use crate::vma::tree::VmaFlaw;
use crate::vma::{Edit, NewVma, Plan, Shape, VmaFlags, VmaTree, duplicate};

const STACK_GUARD_PAGES: usize = crate::vma::STACK_GUARD_PAGES as usize;

/// DragonOS-Community/DragonOS#1728: a fixed mapping over several areas
/// removed only the first.
#[test]
fn lesson_1_a_fixed_mapping_replaces_every_area_below_it() {
    let s = Space::new();
    s.map(0, 4, file(RO, 1, 0));
    s.map(5, 6, file(RO, 2, 0));
    s.map(6, 9, file(RO, 3, 0));
    let d = s.map(2, 8, file(RW, 4, 0));
    assert_eq!(s.draw(), "0-2@0 2-8@0 8-9@2");
    assert_eq!((d.areas, d.pages), (0, 1));
}

/// asterinas/asterinas#2917: a walk over a snapshot of areas met one that the
/// step before had merged away.
#[test]
fn a5_lesson_2_a_step_that_merges_away_the_next_area_does_not_confuse_the_walk() {
    let s = Space::new();
    s.add(0, 2, RO);
    s.add(2, 4, RW);
    s.add(4, 6, RO);
    s.add(6, 8, RW);
    s.add(8, 10, RO);
    assert_eq!(s.set(0, 10, RW).areas, -4);
    assert_eq!(s.draw(), "0-10@0");
    // And with the range ending inside of an area that was merged.
    let s = Space::new();
    s.add(0, 2, RO);
    s.add(2, 4, RW);
    s.add(4, 6, RO);
    assert_eq!(s.set(1, 5, RW).areas, 0);
    assert_eq!(s.draw(), "0-1@0 1-5@1 5-6@5");
}

/// The same for the plan: what a merged area has inherited counts for the next
/// step, not what stood there before.
#[test]
fn lesson_2_a_plan_goes_on_from_the_merged_area() {
    let s = Space::new();
    s.put(0, 2, anon(RO, 0));
    s.put(2, 4, anon(RW, 2));
    s.put(4, 6, anon(RO, 4));
    s.fault(0, &[11]);
    s.fault(4, &[21]);
    assert_eq!(s.set(0, 6, RW).areas, -1);
    assert_eq!(s.draw(), "0-4@0 4-6@4");
}

/// An area that is being zapped without the space lock is nobody's neighbour,
/// and its mark is not this edit's to remove.
#[test]
fn a_dying_neighbour_is_left_alone() {
    for modify in [true, false] {
        let s = Space::new();
        s.put(0, 3, anon(RW, 0));
        s.put(6, 9, anon(RW, 6));
        for page in [0, 6] {
            s.at(page).write_mark(&NoContext);
            s.at(page).set_dying();
        }
        let flags = if modify { RO } else { RW };
        if modify {
            s.put(3, 6, anon(RW, 3));
        }
        let change = move |_: &Shape| flags;
        let done = if modify {
            // To other flags and back: back would merge.
            let there = Plan::modify(&s.tree, &s.up, range(3, 6), &change);
            drop(Edit::reserve(&s.tree, &s.up, there).unwrap().commit());
            let back = Plan::modify(&s.tree, &s.up, range(3, 6), &|_| RW);
            assert_eq!(back.delta().areas, 0);
            Edit::reserve(&s.tree, &s.up, back).unwrap().commit()
        } else {
            let new = NewVma {
                spec: anon(RW, 3),
                like: None,
            };
            let plan = Plan::replace(&s.tree, &s.up, range(3, 6), new);
            assert_eq!(plan.delta().areas, 1);
            Edit::reserve(&s.tree, &s.up, plan).unwrap().commit()
        };
        drop(done);
        assert_eq!(s.draw(), "0-3@0 3-6@3 6-9@6");
        assert!(s.at(0).is_marked() && s.at(6).is_marked() && !s.at(3).is_marked());
    }
}

/// asterinas#1172, #1188: an empty range reached an assertion.
#[test]
fn lesson_5_an_empty_range_changes_nothing() {
    let s = Space::new();
    s.add(0, 4, RW);
    let before = s.snapshot();
    s.unmap(2, 2);
    s.set(2, 2, RO);
    s.unmap(4, 4);
    assert_eq!(s.snapshot(), before);
}

/// DragonOS#433: fork copied the areas but not the index of holes beside them.
#[test]
fn lesson_6_a_copy_of_the_areas_has_their_gaps() {
    let s = Space::new();
    s.add(3, 5, RW);
    s.add(9, 12, RO);
    s.add(12, 20, RW);
    let child = VmaTree::new();
    child.set_space(99);
    for vma in s.tree.iter(&s.up) {
        duplicate(&s.up, vma, &child).unwrap();
    }
    assert_eq!(child.check(&s.up), Ok(3));
    for pages in 1..10 {
        let request = GapRequest {
            low: 1,
            ..GapRequest::new(pages)
        };
        let place = |tree: &VmaTree| tree.find_gap(&s.up, &request);
        assert_eq!(place(&child), place(&s.tree));
    }
}

/// DragonOS#796: the halves of a split were not in the reverse maps.
#[test]
fn lesson_7_split_halves_are_in_the_reverse_maps() {
    let s = Space::new();
    s.map(0, 9, file(RW, 1, 100));
    s.fault(0, &[12, 11]);
    s.unmap(3, 6);
    // `check` has compared both reverse maps with the areas.
    assert_eq!(s.draw(), "0-3@100 6-9@106");
    assert_eq!(s.at(7).anon_raw(), 12);
    assert_eq!(s.at(7).chain_count(), 2);
}

/// DragonOS#1354, usercorn#287, libkernel 0.2.0: offset lost by a split.
#[test]
fn lesson_8_9_10_a_split_moves_the_offset_on() {
    let s = Space::new();
    s.map(10, 20, file(RO, 1, 3));
    s.set(14, 16, RW);
    assert_eq!(s.draw(), "10-14@3 14-16@7 16-20@9");
    assert_eq!(s.at(15).pgoff_of(Vpn::new(15)), 8);
    assert_eq!(s.at(17).page_at(10), Some(Vpn::new(17)));
    assert_eq!(s.at(17).page_at(8), None);
    assert_eq!(s.at(17).page_at(13), None);
}

/// Fiwix#16: merging freed too many pages.
#[test]
fn lesson_11_no_page_is_counted_twice_or_lost_by_a_merge() {
    let s = Space::new();
    assert_eq!(s.add(0, 5, RW).pages, 5);
    assert_eq!(s.add(3, 8, RW).pages, 3);
    assert_eq!(s.draw(), "0-8@0");
    assert_eq!(s.unmap(0, 8).pages, -8);
    assert_eq!(s.counts.get(), super::Delta::default());
}

/// nanos#1954: an update of attributes overwrote tree links.
#[test]
fn lesson_12_a_change_of_flags_leaves_the_links_alone() {
    let s = Space::new();
    for i in 0..20 {
        s.map(i * 2, i * 2 + 1, anon(RW, 500 + i));
    }
    for i in 0..20 {
        s.set(i * 2, i * 2 + 1, RO);
        assert_eq!(s.tree.check(&s.up), Ok(20));
    }
}

/// unicorn#1495: unmapping the first pages failed where another area ends.
#[test]
fn lesson_13_an_area_that_ends_where_the_range_begins_is_not_in_it() {
    let s = Space::new();
    s.map(0, 4, file(RO, 1, 0));
    s.map(4, 8, file(RO, 2, 0));
    s.unmap(4, 6);
    assert_eq!(s.draw(), "0-4@0 6-8@2");
}

/// fission#9: the halves that survive a partial overlap were dropped.
#[test]
fn lesson_14_the_surviving_halves_stay() {
    let s = Space::new();
    s.map(0, 4, file(RO, 1, 0));
    s.map(6, 9, file(RO, 2, 0));
    s.map(3, 7, file(RW, 3, 0));
    assert_eq!(s.draw(), "0-3@0 3-7@0 7-9@1");
}

/// FEX#5020: a fixed mapping larger than what it replaces.
#[test]
fn lesson_15_a_fixed_mapping_may_be_larger_than_what_it_replaces() {
    let s = Space::new();
    s.map(4, 6, file(RO, 1, 0));
    assert_eq!(s.map(0, 10, file(RW, 2, 0)).pages, 8);
    assert_eq!(s.draw(), "0-10@0");
    assert_eq!(s.up.refs.borrow()[&1], 0);
}

/// phoenix-rtos-kernel#508: a split half belonged to whoever ran.
#[test]
fn lesson_16_a_split_half_belongs_to_the_space_of_the_whole() {
    let s = Space::new();
    s.add(0, 9, RW);
    s.unmap(3, 4);
    assert!([0, 5].iter().all(|&p| s.at(p).space() == super::SPACE));
}

/// OP-TEE optee_os#3877: an area was used after it was freed.
#[test]
fn lesson_17_a_freed_area_is_entered_by_nobody() {
    let s = Space::new();
    s.add(0, 4, RW);
    let vma = s.tree.find(&s.up, Vpn::new(0)).unwrap();
    s.unmap(0, 4);
    assert!(
        s.up.get(vma)
            .try_read(&NoContext, super::SPACE, Vpn::new(0))
            .is_none()
    );
    // Nor under its old name when the node has become another area.
    s.add(100, 104, RW);
    assert_eq!(s.tree.find(&s.up, Vpn::new(100)), Some(vma));
    let node = s.up.get(vma);
    assert!(
        node.try_read(&NoContext, super::SPACE, Vpn::new(0))
            .is_none()
    );
    assert!(
        node.try_read(&NoContext, super::SPACE + 1, Vpn::new(100))
            .is_none()
    );
    assert!(
        node.try_read(&NoContext, super::SPACE, Vpn::new(100))
            .is_some()
    );
}

/// kontainapp/km#199: areas protected in pieces were never one again.
#[test]
fn lesson_18_pieces_become_one_again() {
    let s = Space::new();
    s.add(0, 64, RW);
    s.fault(0, &[12, 11]);
    for page in 0..64 {
        s.set(page, page + 1, RO);
    }
    assert_eq!(s.draw(), "0-64@0");
    for page in (0..64).rev() {
        s.set(page, page + 1, RW);
    }
    assert_eq!(s.draw(), "0-64@0");
    for page in (0..64).step_by(2) {
        s.set(page, page + 1, RO);
    }
    assert_eq!(s.counts.get().areas, 64);
    s.set(0, 64, RW);
    assert_eq!(s.draw(), "0-64@0");
}

/// B2: offsets and pages at the end of their numbers.
#[test]
fn b2_the_last_page_and_the_last_offset() {
    let s = Space::new();
    let top = usize::MAX >> 12;
    s.map(top, top + 1, file(RO, 1, usize::MAX));
    s.map(top - 1, top, file(RO, 1, usize::MAX - 1));
    assert_eq!(s.tree.iter(&s.up).count(), 1);
    assert_eq!(s.at(top).pgoff_of(Vpn::new(top)), usize::MAX);
    s.unmap(top - 1, top);
    s.unmap(top, top + 1);
    assert!(s.tree.is_empty());
}

#[test]
fn a2_check_sees_what_does_not_belong() {
    let s = Space::new();
    s.add(10, 14, RW);
    s.add(20, 24, RW);
    assert_eq!(s.tree.check(&s.up), Ok(2));
    s.at(10).write_mark(&NoContext);
    s.at(10).set_end(Vpn::new(21));
    assert_eq!(
        s.tree
            .check(&s.up)
            .map_err(|e| matches!(e, VmaFlaw::Tree(Flaw::Gap(_)))),
        Err(true)
    );
    s.at(10).set_end(Vpn::new(14));
    assert_eq!(s.tree.check(&s.up), Ok(2));
    s.at(20).write_mark(&NoContext);
    s.at(20).set_end(Vpn::new(20));
    assert_eq!(s.tree.check(&s.up), Err(VmaFlaw::Empty(Vpn::new(20))));
}

#[test]
fn a7_gaps_are_those_that_brute_force_finds() {
    let s = Space::new();
    let stack = RW | VmaFlags::GROWS_DOWN;
    s.add(10, 20, RW);
    s.add(23, 30, RW);
    s.add(600, 610, stack);
    s.add(640, 650, RW);
    let free = |at: usize, pages: usize, guard: usize| {
        (at..at + pages).all(|p| s.tree.find(&s.up, Vpn::new(p)).is_none())
            // Below an area that grows down a distance is kept.
            && !(at..at + pages).any(|p| (600 - STACK_GUARD_PAGES..600).contains(&p))
            && (at.saturating_sub(guard)..at).all(|p| s.tree.find(&s.up, Vpn::new(p)).is_none())
    };
    for pages in [1, 2, 3, 4, 10, 20, 29, 30, 31, 200, 313, 314, 315, 400] {
        for guard in [0, 1, 5] {
            for align in [1, 2, 8, 64] {
                for (low, high) in [(0, 700), (1, 700), (12, 640), (30, 345), (25, 26)] {
                    let places: Vec<usize> = (low..high)
                        .filter(|&p| p % align == 0 && p + pages <= high)
                        .filter(|&p| free(p, pages, guard))
                        .collect();
                    for direction in [Direction::Lowest, Direction::Highest] {
                        let request = GapRequest {
                            pages,
                            low,
                            high,
                            align,
                            guard,
                            direction,
                            ..GapRequest::new(pages)
                        };
                        let want = match direction {
                            Direction::Lowest => places.first(),
                            Direction::Highest => places.last(),
                        };
                        let got = s.tree.find_gap(&s.up, &request).map(Vpn::as_usize);
                        assert_eq!(got.as_ref(), want, "{request:?}");
                    }
                }
            }
        }
    }
    assert!(s.tree.is_free(&s.up, range(30, 600 - STACK_GUARD_PAGES)));
    assert!(!s.tree.is_free(&s.up, range(30, 601 - STACK_GUARD_PAGES)));
    assert!(!s.tree.is_free(&s.up, range(20, 24)));
}

#[test]
fn a8_the_limit_on_areas_is_known_before_anything_is_done() {
    let s = Space::new();
    s.add(0, 9, RW);
    let before = s.snapshot();
    let plan = Plan::remove(&s.tree, &s.up, range(3, 4));
    assert_eq!((plan.delta().areas, plan.removed_pages()), (1, 1));
    assert_eq!(s.snapshot(), before);
}

#[test]
fn i_counts_follow_rights_and_locks() {
    let s = Space::new();
    let locked = RW | VmaFlags::LOCKED;
    s.add(0, 10, RW);
    assert_eq!(s.set(2, 5, locked).locked, 3);
    let d = s.set(4, 8, RO);
    assert_eq!((d.locked, d.data), (-1, -4));
    assert_eq!(s.unmap(0, 10).pages, -10);
}

#[test]
fn holes_are_found_and_passed_over() {
    let s = Space::new();
    s.add(0, 2, RW);
    s.add(4, 6, RW);
    assert_eq!(s.tree.first_hole(&s.up, range(0, 6)), Some(Vpn::new(2)));
    assert_eq!(s.tree.first_hole(&s.up, range(4, 6)), None);
    assert_eq!(s.tree.first_hole(&s.up, range(5, 7)), Some(Vpn::new(6)));
    assert_eq!(s.tree.first_hole(&s.up, range(3, 5)), Some(Vpn::new(3)));
    s.set(1, 5, RO);
    assert_eq!(s.draw(), "0-1@0 1-2@1 4-5@4 5-6@5");
}
