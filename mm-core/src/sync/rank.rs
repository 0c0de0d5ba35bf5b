//! The order of locks, executable.
//!
//! ```text
//! outer   Space > Vma > ObjectMap > AnonRoot
//! inner   Table (parent before child, then by PFN) > Radix > Lru > Swap > NodeCache > Pool
//!         > FrameCache > Buddy > Present
//! ```
//!
//! A rank is (class, level, key). A lock may be taken only when its rank is
//! strictly above every held rank, so the same class twice only in ascending
//! (level, key). Tables count their level from the root down, so that a
//! parent is below its child. The page state LOCKED is not in the list: it is
//! only ever tried while something is held, so it cannot deadlock.

use core::cell::Cell;

/// The class of a lock, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Class {
    /// The lock of an address space (readers: queries, faults that need structure; writers: map,
    /// unmap, ...), and of a kernel space's free addresses (key 0).
    Space = 1,
    /// A VMA's reader count or write mark.
    Vma = 2,
    /// An object's interval tree of mappings, and its size.
    ObjectMap = 3,
    /// The root lock of a family of anon_vmas, and a space's lock for choosing one.
    AnonRoot = 4,
    /// A page-table page.
    Table = 5,
    /// An object's page index.
    Radix = 6,
    /// The lists of pages by age.
    Lru = 7,
    /// Swap slots.
    Swap = 8,
    /// A CPU's free nodes at hand.
    NodeCache = 9,
    /// A pool of nodes, and the kernel's heap of slabs (key 0); the tags of spaces and the growth of
    /// the page map (the last key).
    Pool = 10,
    /// A CPU's free frames at hand.
    FrameCache = 11,
    /// The frame allocator.
    Buddy = 12,
    /// A CPU's counts of present pages.
    Present = 13,
}

impl Class {
    /// Returns whether preemption stays off while a lock of this class is held.
    pub const fn is_inner(self) -> bool {
        self as u8 >= Self::Table as u8
    }
}

/// The place of one lock in the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    /// The class, compared first.
    pub class: Class,
    /// Depth within the class (tables: distance from the root).
    pub level: u8,
    /// PFN or handle: orders locks of one class and level.
    pub key: u32,
}

impl Rank {
    /// Makes the rank of a lock that has no level.
    pub const fn new(class: Class, key: u32) -> Self {
        Self {
            class,
            level: 0,
            key,
        }
    }
}

#[cfg(debug_assertions)]
const DEPTH: usize = 12;

/// The ranks that one context holds. Checks only in debug builds.
#[derive(Debug, Default)]
pub struct RankStack {
    #[cfg(debug_assertions)]
    held: Cell<[Option<Rank>; DEPTH]>,
    inner: Cell<u32>,
}

impl RankStack {
    /// Makes an empty stack.
    pub const fn new() -> Self {
        Self {
            #[cfg(debug_assertions)]
            held: Cell::new([None; DEPTH]),
            inner: Cell::new(0),
        }
    }

    /// Notes a lock, before it is waited for.
    ///
    /// # Panics
    /// In debug builds, when the order is violated: a bug of this crate.
    pub fn push(&self, rank: Rank) {
        #[cfg(debug_assertions)]
        {
            let mut held = self.held.get();
            #[cfg(not(mm_mutant = "outermost_is_looked_at_alone"))]
            let above = held.iter().flatten();
            #[cfg(mm_mutant = "outermost_is_looked_at_alone")]
            let above = held.iter().flatten().take(1);
            for h in above {
                debug_assert!(*h < rank, "lock order: {rank:?} wanted while {h:?} is held");
            }
            let free = held.iter_mut().find(|h| h.is_none());
            debug_assert!(free.is_some(), "lock order: more than {DEPTH} locks held");
            if let Some(slot) = free {
                *slot = Some(rank);
            }
            self.held.set(held);
        }
        // A lock that is refused leaves nothing behind.
        if rank.class.is_inner() {
            self.inner.set(self.inner.get().saturating_add(1));
        }
    }

    /// Notes a lock taken without regard to its key, because nobody else can
    /// hold it (a table of a space that is not published yet).
    pub fn push_fresh(&self, rank: Rank) {
        if rank.class.is_inner() {
            self.inner.set(self.inner.get().saturating_add(1));
        }
        #[cfg(debug_assertions)]
        {
            let mut held = self.held.get();
            if let Some(slot) = held.iter_mut().find(|h| h.is_none()) {
                *slot = Some(rank);
            }
            self.held.set(held);
        }
    }

    /// Notes a release.
    pub fn pop(&self, rank: Rank) {
        if rank.class.is_inner() {
            debug_assert!(self.inner.get() > 0);
            self.inner.set(self.inner.get().saturating_sub(1));
        }
        #[cfg(debug_assertions)]
        {
            let mut held = self.held.get();
            #[cfg(not(mm_mutant = "any_rank_is_released"))]
            let slot = held.iter_mut().find(|h| **h == Some(rank));
            #[cfg(mm_mutant = "any_rank_is_released")]
            let slot = held.iter_mut().find(|h| h.is_some());
            debug_assert!(slot.is_some(), "released {rank:?}, which is not held");
            if let Some(slot) = slot {
                *slot = None;
            }
            self.held.set(held);
        }
    }

    /// Returns whether an inner lock is held (then nothing may yield or flush a batch).
    pub fn holds_inner(&self) -> bool {
        self.inner.get() > 0
    }

    /// Returns whether no lock at all is held; always true in release builds.
    pub fn is_empty(&self) -> bool {
        #[cfg(debug_assertions)]
        {
            self.held.get().iter().all(Option::is_none)
        }
        #[cfg(not(debug_assertions))]
        {
            !self.holds_inner()
        }
    }
}

#[cfg(all(test, debug_assertions, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn order_is_class_then_level_then_key() {
        let s = RankStack::new();
        s.push(Rank::new(Class::Space, 7));
        s.push(Rank {
            class: Class::Table,
            level: 0,
            key: 9,
        });
        s.push(Rank {
            class: Class::Table,
            level: 1,
            key: 3,
        });
        s.push(Rank::new(Class::Buddy, 0));
        assert!(s.holds_inner());
        s.pop(Rank::new(Class::Buddy, 0));
        s.pop(Rank {
            class: Class::Table,
            level: 0,
            key: 9,
        });
        s.pop(Rank {
            class: Class::Table,
            level: 1,
            key: 3,
        });
        assert!(!s.holds_inner());
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn taking_an_outer_lock_inside_an_inner_one_is_refused() {
        let s = RankStack::new();
        s.push(Rank::new(Class::Pool, 1));
        s.push(Rank::new(Class::Space, 1));
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn same_class_descending_is_refused() {
        let s = RankStack::new();
        s.push(Rank::new(Class::Table, 5));
        s.push(Rank::new(Class::Table, 4));
    }

    #[test]
    fn every_pair_of_classes_is_ordered() {
        let all = [
            Class::Space,
            Class::Vma,
            Class::ObjectMap,
            Class::AnonRoot,
            Class::Table,
            Class::Radix,
            Class::Lru,
            Class::Swap,
            Class::NodeCache,
            Class::Pool,
            Class::FrameCache,
            Class::Buddy,
            Class::Present,
        ];
        for (i, &first) in all.iter().enumerate() {
            for (j, &second) in all.iter().enumerate() {
                let taken = std::panic::catch_unwind(|| {
                    let s = RankStack::new();
                    s.push(Rank::new(first, 1));
                    s.push(Rank::new(second, 1));
                });
                assert_eq!(taken.is_ok(), i < j, "{second:?} while {first:?} is held");
            }
        }
    }

    #[test]
    fn what_one_thread_holds_is_nothing_to_another() {
        let s = RankStack::new();
        s.push(Rank::new(Class::Buddy, 1));
        let other = std::thread::spawn(|| {
            let s = RankStack::new();
            s.push(Rank::new(Class::Space, 1));
            assert!(!s.holds_inner() && !s.is_empty());
        });
        assert!(other.join().is_ok());
        assert!(s.holds_inner());
    }

    #[test]
    fn a_lock_that_was_released_may_be_taken_again() {
        let s = RankStack::new();
        s.push(Rank::new(Class::Pool, 1));
        s.pop(Rank::new(Class::Pool, 1));
        s.push(Rank::new(Class::Space, 1));
        s.push(Rank::new(Class::Pool, 1));
    }
}
