//! C: what happens when memory is out.

use super::{RO, RW, Space, anon, file, range};
use crate::addr::Vpn;
use crate::vma::{NewVma, VmaFlags};

/// Builds the same space each time: forked areas with two chains each.
fn build() -> Space {
    let s = Space::new();
    s.map(0, 10, file(RW, 1, 100));
    s.fault(0, &[12, 11]);
    s.add(10, 20, RO);
    s.fault(10, &[22, 21]);
    s.map(30, 40, file(RW | VmaFlags::SHARED, 2, 0));
    s
}

type Verb = fn(&Space) -> bool;

#[test]
fn c1_every_failing_allocation_leaves_everything_as_it_was() {
    let verbs: [(&str, u32, Verb); 7] = [
        ("map apart", 1, |s| {
            s.try_place(
                range(22, 25),
                NewVma {
                    spec: anon(RW, 22),
                    like: None,
                },
            )
            .is_ok()
        }),
        ("map in the middle", 1 + 1 + 2, |s| {
            s.try_place(
                range(3, 5),
                NewVma {
                    spec: anon(RW, 3),
                    like: None,
                },
            )
            .is_ok()
        }),
        ("move", 1 + 2, |s| {
            let like = s.tree.find(&s.up, Vpn::new(12));
            s.try_place(
                range(50, 55),
                NewVma {
                    spec: anon(RO, 12),
                    like,
                },
            )
            .is_ok()
        }),
        ("unmap the middle", 1 + 2, |s| s.try_unmap(3, 5).is_ok()),
        ("protect the middle", 2 + 4, |s| {
            s.try_set(13, 15, RW).is_ok()
        }),
        ("protect over two", 2 + 4, |s| {
            s.try_set(5, 15, RW | VmaFlags::EXEC).is_ok()
        }),
        ("protect shared", 1, |s| {
            s.try_set(30, 35, RO | VmaFlags::SHARED).is_ok()
        }),
    ];
    for (name, allocations, verb) in verbs {
        let mut failures = 0;
        for fuse in 0.. {
            let s = build();
            let before = s.snapshot();
            s.up.fuse.set(Some(fuse));
            if verb(&s) {
                break;
            }
            failures += 1;
            assert_eq!(s.snapshot(), before, "{name}, allocation {fuse}");
            s.check();
        }
        assert_eq!(failures, allocations, "{name}: allocations that can fail");
    }
}

#[test]
fn c4_munmap_needs_no_memory() {
    for (start, end) in [
        (0, 10),
        (0, 5),
        (5, 10),
        (5, 15),
        (0, 50),
        (15, 35),
        (45, 46),
    ] {
        let s = build();
        s.up.fuse.set(Some(0));
        s.try_unmap(start, end).unwrap();
    }
}

#[test]
fn merging_and_whole_changes_need_no_memory() {
    let s = Space::new();
    s.add(0, 3, RW);
    s.put(3, 5, anon(RO, 3));
    s.put(5, 9, anon(RW, 5));
    s.fault(3, &[11]);
    s.up.fuse.set(Some(0));
    s.try_set(3, 5, RW).unwrap();
    assert_eq!(s.draw(), "0-9@0");
    s.try_set(0, 9, RO).unwrap();
    s.try_place(
        range(9, 12),
        NewVma {
            spec: anon(RO, 9),
            like: None,
        },
    )
    .unwrap();
    assert_eq!(s.draw(), "0-12@0");
    assert_eq!(s.at(0).anon_raw(), 11);
}

#[test]
fn vmi_prealloc_fail() {
    // The neighbour would inherit chains, of which there is none left.
    let s = Space::new();
    s.put(0, 3, anon(RW, 0));
    s.put(3, 8, anon(RO, 3));
    s.fault(3, &[11]);
    let before = s.snapshot();
    s.up.fuse.set(Some(0));
    assert!(s.try_set(3, 5, RW).is_err());
    assert_eq!(s.snapshot(), before);
    s.up.fuse.set(None);
    s.set(3, 5, RW);
    assert_eq!(s.draw(), "0-5@0 5-8@5");
}

#[test]
fn an_edit_that_is_given_up_leaves_no_mark() {
    let s = build();
    let before = s.snapshot();
    let plan = crate::vma::Plan::remove(&s.tree, &s.up, range(3, 35));
    let mut edit = crate::vma::Edit::reserve(&s.tree, &s.up, plan).unwrap();
    edit.mark();
    drop(edit);
    assert_eq!(s.snapshot(), before);
    s.check();
}
