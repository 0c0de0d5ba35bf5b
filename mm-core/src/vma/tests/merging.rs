//! Merge and split: what Linux does (`tools/testing/vma/tests/merge.c`), as
//! numbers. Units are pages, `start-end@offset`. The pictures stand in
//! `merge.rs`; A4 of the invariants is what all of them check.

use super::{RO, RW, Space, anon, file, range};
use crate::addr::Vpn;
use crate::tree::Resolve;
use crate::vma::{NewVma, VmaFlags};

const CLOSE: VmaFlags = VmaFlags::CLOSE_HOOK;

#[test]
fn simple_merge() {
    let s = Space::new();
    s.add(0, 1, RW);
    s.add(2, 3, RW);
    assert_eq!(s.add(1, 2, RW).areas, -1);
    assert_eq!(s.draw(), "0-3@0");
}

#[test]
fn simple_modify() {
    let s = Space::new();
    s.add(0, 3, RW);
    assert_eq!(s.set(1, 2, RO).areas, 2);
    assert_eq!(s.draw(), "0-1@0 1-2@1 2-3@2");
    assert_eq!(s.at(1).flags(), RO);
    assert_eq!((s.at(0).flags(), s.at(2).flags()), (RW, RW));
}

#[test]
fn simple_expand() {
    let s = Space::new();
    s.add(0, 1, RW);
    let like = s.tree.find(&s.up, Vpn::new(0));
    let d = s
        .try_place(
            range(1, 3),
            NewVma {
                spec: anon(RW, 1),
                like,
            },
        )
        .unwrap();
    assert_eq!((d.areas, d.pages), (0, 2));
    assert_eq!(s.draw(), "0-3@0");
}

#[test]
fn simple_shrink() {
    let s = Space::new();
    s.add(0, 3, RW);
    let d = s.unmap(1, 3);
    assert_eq!((d.areas, d.pages), (0, -2));
    assert_eq!(s.draw(), "0-1@0");
}

#[test]
fn merge_new_one_after_the_other() {
    let s = Space::new();
    s.add(0, 2, RW);
    s.add(3, 4, RW);
    s.add(11, 12, RW);
    s.add(7, 9, RW);
    assert_eq!(s.draw(), "0-2@0 3-4@3 7-9@7 11-12@11", "merge_new_apart");
    s.add(2, 3, RW);
    assert_eq!(s.draw(), "0-4@0 7-9@7 11-12@11", "merge_new_to_both");
    s.add(4, 5, RW);
    assert_eq!(s.draw(), "0-5@0 7-9@7 11-12@11", "merge_new_to_previous");
    s.add(6, 7, RW);
    assert_eq!(s.draw(), "0-5@0 6-9@6 11-12@11", "merge_new_to_next");
    s.add(5, 6, RW);
    assert_eq!(s.draw(), "0-9@0 11-12@11");
    s.add(10, 11, RW);
    assert_eq!(s.draw(), "0-9@0 10-12@10");
    s.add(9, 10, RW);
    assert_eq!(s.draw(), "0-12@0");
}

#[test]
fn merge_new_to_previous() {
    let s = Space::new();
    s.add(0, 3, RW);
    assert_eq!(s.add(3, 5, RW).areas, 0);
    assert_eq!(s.draw(), "0-5@0");
}

#[test]
fn merge_new_to_next() {
    let s = Space::new();
    s.add(7, 9, RW);
    assert_eq!(s.add(4, 7, RW).areas, 0);
    assert_eq!(s.draw(), "4-9@4");
}

#[test]
fn merge_new_to_both() {
    let s = Space::new();
    s.add(0, 3, RW);
    s.add(5, 8, RW);
    assert_eq!(s.add(3, 5, RW).areas, -1);
    assert_eq!(s.draw(), "0-8@0");
}

#[test]
fn merge_new_apart() {
    let s = Space::new();
    s.add(0, 3, RW);
    s.add(7, 9, RW);
    assert_eq!(s.add(4, 6, RW).areas, 1);
    assert_eq!(s.draw(), "0-3@0 4-6@4 7-9@7");
}

#[test]
fn special_flags_never_merge() {
    for special in [
        VmaFlags::IO,
        VmaFlags::DONT_EXPAND,
        VmaFlags::PFN_MAP,
        VmaFlags::MIXED_MAP,
    ] {
        let flags = RW | special;
        let s = Space::new();
        s.add(0, 3, flags);
        assert_eq!(s.add(3, 4, flags).areas, 1);
        assert_eq!(s.draw(), "0-3@0 3-4@3");
        // Nor when flags are changed to be equal.
        let s = Space::new();
        s.put(0, 3, anon(flags, 0));
        s.put(3, 4, anon(RW, 3));
        s.set(3, 4, flags);
        assert_eq!(s.draw(), "0-3@0 3-4@3");
    }
}

#[test]
fn close_hook_new() {
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(5, 9, anon(RW | CLOSE, 5));
    s.add(3, 5, RW);
    assert_eq!(s.draw(), "0-5@0 5-9@5");
    assert!(s.at(5).flags().contains(CLOSE));
}

#[test]
fn close_hook_modify() {
    // The area that would go has the hook: nothing is merged.
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 5, anon(RO | CLOSE, 3));
    s.set(3, 5, RW);
    assert_eq!(s.draw(), "0-3@0 3-5@3");
    let s = Space::new();
    s.put(3, 5, anon(RO | CLOSE, 3));
    s.put(5, 9, anon(RW, 5));
    s.set(3, 5, RW);
    assert_eq!(s.draw(), "3-5@3 5-9@5");
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 5, anon(RO | CLOSE, 3));
    s.put(5, 9, anon(RW, 5));
    s.set(3, 5, RW);
    assert_eq!(s.draw(), "0-3@0 3-5@3 5-9@5");
}

#[test]
fn close_hook_next() {
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 5, anon(RO, 3));
    s.put(5, 9, anon(RW | CLOSE, 5));
    assert_eq!(s.set(3, 5, RW).areas, -1);
    assert_eq!(s.draw(), "0-5@0 5-9@5");
}

#[test]
fn new_with_close_hooks_on_both_sides() {
    let s = Space::new();
    s.put(0, 2, anon(RW | CLOSE, 0));
    s.put(5, 7, anon(RW | CLOSE, 5));
    s.add(2, 5, RW);
    assert_eq!(s.draw(), "0-5@0 5-7@5");
    assert!(s.at(0).flags().contains(CLOSE) && s.at(5).flags().contains(CLOSE));
}

#[test]
fn existing_right_partial() {
    let s = Space::new();
    s.put(2, 6, anon(RO, 2));
    s.put(6, 9, anon(RW, 6));
    assert_eq!(s.set(3, 6, RW).areas, 0);
    assert_eq!(s.draw(), "2-3@2 3-9@3");
}

#[test]
fn existing_right_full() {
    let s = Space::new();
    s.put(2, 6, anon(RO, 2));
    s.put(6, 9, anon(RW, 6));
    assert_eq!(s.set(2, 6, RW).areas, -1);
    assert_eq!(s.draw(), "2-9@2");
}

#[test]
fn existing_left_partial() {
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 7, anon(RO, 3));
    assert_eq!(s.set(3, 6, RW).areas, 0);
    assert_eq!(s.draw(), "0-6@0 6-7@6");
}

#[test]
fn existing_left_full() {
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 7, anon(RO, 3));
    assert_eq!(s.set(3, 7, RW).areas, -1);
    assert_eq!(s.draw(), "0-7@0");
}

#[test]
fn existing_both() {
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 7, anon(RO, 3));
    s.put(7, 9, anon(RW, 7));
    assert_eq!(s.set(3, 7, RW).areas, -2);
    assert_eq!(s.draw(), "0-9@0");
}

#[test]
fn existing_none() {
    for (a, b) in [(4, 5), (5, 6), (6, 7), (4, 7), (4, 6), (5, 7)] {
        let s = Space::new();
        s.put(0, 3, anon(RW, 0));
        s.put(3, 8, anon(RO, 3));
        s.put(8, 10, anon(RW, 8));
        assert_eq!(s.set(a, b, RW).areas, 2);
        assert_eq!(
            s.draw(),
            format!("0-3@0 3-{a}@3 {a}-{b}@{a} {b}-8@{b} 8-10@8")
        );
    }
}

#[test]
fn anon_vma_non_mergeable() {
    for modify in [true, false] {
        let s = Space::new();
        s.put(0, 3, anon(RW, 0));
        s.put(7, 9, anon(RW, 7));
        s.fault(0, &[11]);
        s.fault(7, &[21]);
        if modify {
            s.put(3, 7, anon(RO, 3));
            s.set(3, 7, RW);
        } else {
            s.add(3, 7, RW);
        }
        assert_eq!(s.draw(), "0-7@0 7-9@7");
        assert_eq!((s.at(0).anon_raw(), s.at(7).anon_raw()), (11, 21));
    }
}

#[test]
fn dup_anon_vma_from_next_when_adding() {
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(5, 8, anon(RW, 5));
    s.fault(5, &[11]);
    s.add(3, 5, RW);
    assert_eq!(s.draw(), "0-8@0");
    assert_eq!(s.at(0).anon_raw(), 11);
}

#[test]
fn dup_anon_vma_when_modifying() {
    // (which one was faulted, part that changes, outcome, whose inherits)
    for (faulted, part, want) in [(5, (3, 5), "0-8@0"), (3, (3, 5), "0-8@0")] {
        let s = Space::new();
        s.put(0, 3, anon(RW, 0));
        s.put(3, 5, anon(RO, 3));
        s.put(5, 8, anon(RW, 5));
        s.fault(faulted, &[11]);
        s.set(part.0, part.1, RW);
        assert_eq!(s.draw(), want);
        assert_eq!(s.at(0).anon_raw(), 11);
    }
    // P grows over the whole of V, which had pages.
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 5, anon(RO, 3));
    s.fault(3, &[11]);
    s.set(3, 5, RW);
    assert_eq!((s.draw().as_str(), s.at(0).anon_raw()), ("0-5@0", 11));
    // P grows over a part of V: both have the anon_vma then.
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 8, anon(RO, 3));
    s.fault(3, &[11]);
    s.set(3, 5, RW);
    assert_eq!((s.draw().as_str(), s.at(0).anon_raw()), ("0-5@0 5-8@5", 11));
    assert_eq!(s.at(5).anon_raw(), 11);
    // N grows down over a part of V, and over the whole.
    for (start, want) in [(3, "0-3@0 3-8@3"), (0, "0-8@0")] {
        let s = Space::new();
        s.put(0, 5, anon(RO, 0));
        s.put(5, 8, anon(RW, 5));
        s.fault(0, &[11]);
        s.set(start, 5, RW);
        assert_eq!((s.draw().as_str(), s.at(7).anon_raw()), (want, 11));
        assert_eq!(s.at(0).anon_raw(), 11);
    }
}

#[test]
fn after_fork_an_area_with_pages_does_not_merge_with_a_new_neighbour() {
    // Two chains: its own anon_vma and that of the parent.
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.fault(0, &[12, 11]);
    s.add(3, 5, RW);
    assert_eq!(s.draw(), "0-3@0 3-5@3");
    // What was one area, with the same chains, does become one again.
    s.set(1, 2, RO);
    s.set(1, 2, RW);
    assert_eq!(s.draw(), "0-3@0 3-5@3");
}

#[test]
fn unfaulted_and_faulted_neighbours_merge_in_both_directions() {
    for faulted in [0, 3] {
        let s = Space::new();
        s.put(0, 3, anon(RW, 0));
        s.put(3, 6, anon(RO, 3));
        s.fault(faulted, &[11]);
        s.set(3, 6, RW);
        assert_eq!(s.draw(), "0-6@0");
        assert_eq!(s.at(0).anon_raw(), 11);
    }
}

#[test]
fn faulted_unfaulted_moved_merges_only_the_first_two() {
    let s = Space::new();
    s.add(0, 3, RW);
    s.fault(0, &[11]);
    s.add(20, 23, RW);
    s.fault(20, &[21]);
    // The third was faulted elsewhere: its offset is fixed.
    s.put(6, 9, anon(RW, 20));
    s.add(3, 6, RW);
    assert_eq!(s.draw(), "0-6@0 6-9@20 20-23@20");
}

#[test]
fn merge_extend() {
    let s = Space::new();
    s.add(0, 1, RW);
    s.add(3, 4, RW);
    s.fault(0, &[11]);
    let like = s.tree.find(&s.up, Vpn::new(0));
    s.try_place(
        range(1, 3),
        NewVma {
            spec: anon(RW, 1),
            like,
        },
    )
    .unwrap();
    assert_eq!(s.draw(), "0-4@0");
}

#[test]
fn copy_vma() {
    let s = Space::new();
    s.add(3, 5, RW);
    s.fault(3, &[12, 11]);
    let like = s.tree.find(&s.up, Vpn::new(3));
    s.try_place(
        range(0, 2),
        NewVma {
            spec: anon(RW, 3),
            like,
        },
    )
    .unwrap();
    assert_eq!(s.draw(), "0-2@3 3-5@3");
    assert_eq!(s.at(0).anon_link(), s.at(3).anon_link());
}

#[test]
fn copy_vma_merge() {
    let s = Space::new();
    s.add(0, 2, RW);
    s.add(6, 8, RW);
    let like = s.tree.find(&s.up, Vpn::new(0));
    s.try_place(
        range(4, 6),
        NewVma {
            spec: anon(RW, 4),
            like,
        },
    )
    .unwrap();
    assert_eq!(s.draw(), "0-2@0 4-8@4");
    // And the pages that move bring their anon_vma along.
    s.fault(0, &[11]);
    let like = s.tree.find(&s.up, Vpn::new(0));
    s.try_place(
        range(2, 4),
        NewVma {
            spec: anon(RW, 2),
            like,
        },
    )
    .unwrap();
    assert_eq!(s.draw(), "0-8@0");
    assert_eq!(s.at(7).anon_raw(), 11);
}

#[test]
fn expand_only() {
    let s = Space::new();
    s.add(0, 2, RW);
    s.add(3, 5, RW);
    s.fault(3, &[12, 11]);
    // In the child of a fork: fresh memory would stay apart, growth does not.
    let like = s.tree.find(&s.up, Vpn::new(3));
    s.try_place(
        range(5, 9),
        NewVma {
            spec: anon(RW, 5),
            like,
        },
    )
    .unwrap();
    assert_eq!(s.draw(), "0-2@0 3-9@3");
}

#[test]
fn grow_down_keeps_offset_and_address_together() {
    let s = Space::new();
    let stack = RW | VmaFlags::GROWS_DOWN;
    s.add(1000, 1010, stack);
    s.fault(1000, &[12, 11]);
    let like = s.tree.find(&s.up, Vpn::new(1000));
    let d = s
        .try_place(
            range(990, 1000),
            NewVma {
                spec: anon(stack, 990),
                like,
            },
        )
        .unwrap();
    assert_eq!((d.areas, d.stack, d.data), (0, 10, 0));
    assert_eq!(s.draw(), "990-1010@990");
}

#[test]
fn sticky_flags_are_kept_by_every_merge() {
    let soft = VmaFlags::SOFT_DIRTY;
    for bits in 0..8u32 {
        let f = |i: u32| if bits & (1 << i) != 0 { RW | soft } else { RW };
        for modify in [true, false] {
            let s = Space::new();
            s.put(0, 3, anon(f(0), 0));
            s.put(5, 8, anon(f(2), 5));
            if modify {
                s.put(3, 5, anon(f(1) & !VmaFlags::WRITE, 3));
                s.set(3, 5, RW);
            } else {
                s.add(3, 5, f(1));
            }
            assert_eq!(s.draw(), "0-8@0");
            assert_eq!(
                s.at(0).flags().contains(soft),
                bits != 0,
                "{bits:03b} {modify}"
            );
        }
    }
}

#[test]
fn files_merge_only_where_object_and_offset_agree() {
    let s = Space::new();
    s.map(0, 3, file(RO, 5, 10));
    s.map(3, 5, file(RO, 5, 13));
    assert_eq!(s.draw(), "0-5@10");
    s.map(5, 7, file(RO, 6, 15));
    assert_eq!(s.draw(), "0-5@10 5-7@15", "another object");
    s.map(7, 9, file(RO, 6, 16));
    assert_eq!(s.draw(), "0-5@10 5-7@15 7-9@16", "an offset too low");
    let mut hooked = file(RO, 6, 18);
    hooked.hook = 3;
    s.map(9, 10, hooked);
    assert_eq!(s.draw(), "0-5@10 5-7@15 7-9@16 9-10@18", "another hook");
    let _ = s.up.get(s.tree.first(&s.up).unwrap());
}
