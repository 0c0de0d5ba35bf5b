//! Copies for fork, and whose anon_vma a first page gets.

use super::{RO, RW, Space, anon, file};
use crate::addr::Vpn;
use crate::tree::Resolve;
use crate::vma::{VmaFlags, VmaTree, anon_candidate, duplicate};

#[test]
fn the_first_page_takes_the_anon_vma_of_a_neighbour_it_could_merge_with() {
    let s = Space::new();
    s.put(0, 3, anon(RO, 0));
    let vma = s.put(3, 6, anon(RW, 3));
    s.put(6, 9, anon(RO, 6));
    let candidate = || anon_candidate(&s.tree, &s.up, vma);
    assert_eq!(candidate(), None);
    s.fault(0, &[11]);
    assert_eq!(candidate(), Some(11));
    s.fault(6, &[21]);
    assert_eq!(candidate(), Some(21), "the one above first");
}

#[test]
fn lesson_64_no_anon_vma_is_taken_from_a_relative_or_a_stranger() {
    let s = Space::new();
    s.put(0, 3, file(RW, 1, 0));
    let vma = s.put(3, 6, anon(RW, 3));
    s.put(6, 9, anon(RW, 6));
    s.fault(0, &[11]);
    s.fault(6, &[22, 21]);
    assert_eq!(anon_candidate(&s.tree, &s.up, vma), None);
}

#[test]
fn g6_e12_a_copy_has_the_parents_chains_and_no_locks() {
    let s = Space::new();
    s.map(0, 9, file(RW | VmaFlags::LOCKED, 1, 5));
    s.fault(0, &[11]);
    s.map(20, 22, anon(RW | VmaFlags::WIPE_ON_FORK, 20));
    s.fault(20, &[31]);
    let child = VmaTree::new();
    child.set_space(99);
    for fuse in 0.. {
        s.up.fuse.set(Some(fuse));
        let from = s.tree.find(&s.up, Vpn::new(0)).unwrap();
        let before = s.snapshot();
        let Ok(to) = duplicate(&s.up, from, &child) else {
            assert_eq!(s.snapshot(), before);
            continue;
        };
        assert_eq!(fuse, 3, "a node, an anon_vma and chains can fail");
        let (old, new) = (s.up.get(from), s.up.get(to));
        assert_eq!(
            (new.range(), new.pgoff(), new.space()),
            (old.range(), 5, 99)
        );
        assert_eq!(new.flags(), RW);
        assert_eq!(new.chain_count(), 2);
        assert!(
            new.try_read(&crate::sync::NoContext, 99, Vpn::new(3))
                .is_some()
        );
        assert_eq!(s.up.refs.borrow()[&1], 2);
        break;
    }
    s.up.fuse.set(None);
    let wiped = s.tree.find(&s.up, Vpn::new(20)).unwrap();
    let copy = duplicate(&s.up, wiped, &child).unwrap();
    assert_eq!(s.up.get(copy).anon_raw(), 0);
    assert_eq!(child.check(&s.up), Ok(2));
}
