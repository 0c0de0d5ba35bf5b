//! Where an area's read count stands in the order of locks.

use super::{RW, SPACE, Space};
use crate::addr::Vpn;
use crate::sync::{Class, Context, Rank, RankStack};
use crate::tree::Resolve;

/// A verb of which only the held ranks matter.
struct Verb(RankStack);

impl Context for Verb {
    fn relax(&self, _spins: u32) {}
    fn preempt_off(&self) {}
    fn preempt_on(&self) {}
    fn acquire(&self, rank: Rank) {
        self.0.push(rank);
    }
    fn acquire_fresh(&self, rank: Rank) {
        self.0.push_fresh(rank);
    }
    fn release(&self, rank: Rank) {
        self.0.pop(rank);
    }
}

/// Enters the areas that hold these pages, one inside the other, while a lock is held.
fn enter_under(class: Class, pages: &[usize]) {
    let s = Space::new();
    s.add(0, 4, RW);
    s.add(8, 12, RW);
    let verb = Verb(RankStack::new());
    verb.acquire(Rank::new(class, 1));
    let inside: Vec<_> = pages
        .iter()
        .filter_map(|&page| {
            let page = Vpn::new(page);
            let vma = s.tree.find(&s.up, page)?;
            s.up.get(vma).try_read(&verb, SPACE, page)
        })
        .collect();
    assert_eq!(inside.len(), pages.len());
}

#[test]
fn an_area_is_entered_under_the_space_lock() {
    enter_under(Class::Space, &[0]);
}

#[test]
#[should_panic(expected = "lock order")]
fn no_area_is_entered_under_the_lock_of_a_table() {
    enter_under(Class::Table, &[0]);
}

#[test]
#[should_panic(expected = "lock order")]
fn no_area_is_entered_from_inside_another() {
    enter_under(Class::Space, &[0, 8]);
}
