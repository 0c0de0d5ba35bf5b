//! Counts of who keeps a node alive.
//!
//! ```text
//! 0        1 ........ REFUSED ........ STUCK_FROM ... STUCK ...
//! is free  is kept    no more for      stands still: the node
//!                     who can fail     is never freed
//! ```
//!
//! A count that wrapped would free what others use, so it never does, whatever
//! is forgotten ([`core::mem::forget`]): near its end it stands still for good
//! (Linux: refcount_t, REFCOUNT_SATURATED). The bounds are further apart than
//! there can be CPUs between an addition and the store that follows.

use super::{AtomicU32, Ordering};

const REFUSED: u32 = 0x8000_0000;
const STUCK_FROM: u32 = 0xc000_0000;
const STUCK: u32 = 0xe000_0000;

/// A count of who keeps a node alive.
#[derive(Debug)]
pub(crate) struct RefCount(AtomicU32);

impl RefCount {
    /// Makes the count of a node that is free.
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Makes the node alive, kept once, and publishes what was written to it.
    pub(crate) fn start(&self) {
        self.0.store(1, Ordering::Release);
    }

    /// Returns the count; what others did before is seen.
    pub(crate) fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Counts one more, next to one that the caller is or holds.
    pub(crate) fn get(&self) {
        let was = self.0.fetch_add(1, Ordering::Relaxed);
        debug_assert!(was > 0, "counted what is gone");
        self.stand_still(was);
    }

    /// Counts one more, unless so many are counted that somebody must have
    /// forgotten them.
    pub(crate) fn try_get(&self) -> bool {
        let was = self.0.fetch_add(1, Ordering::Relaxed);
        debug_assert!(was > 0, "counted what is gone");
        let counted = was < REFUSED;
        if !counted {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
        counted
    }

    /// Counts one less; true when it was the last, which sees all that the others
    /// did before.
    #[must_use = "the last one frees the node"]
    pub(crate) fn put(&self) -> bool {
        #[cfg(mm_mutant = "users_counted_in_two_steps")]
        let was = {
            let was = self.0.load(Ordering::Acquire);
            self.0.store(was.saturating_sub(1), Ordering::Release);
            was
        };
        #[cfg(not(mm_mutant = "users_counted_in_two_steps"))]
        let was = self.0.fetch_sub(1, Ordering::Release);
        debug_assert!(was > 0, "count below zero");
        self.stand_still(was);
        if was == 1 {
            super::fence_acquire(&self.0);
        }
        was == 1
    }

    fn stand_still(&self, was: u32) {
        if was >= STUCK_FROM {
            self.0.store(STUCK, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_told() {
        let count = RefCount::new();
        count.start();
        count.get();
        assert!(count.try_get());
        assert_eq!(count.load(), 3);
        assert_eq!(
            [count.put(), count.put(), count.put()],
            [false, false, true]
        );
    }

    /// As after so many forgotten ones: the next would make it zero, and the
    /// one after that free the node once more.
    #[test]
    fn a_count_that_is_used_up_frees_nothing() {
        for first in [STUCK_FROM - 1, STUCK_FROM, STUCK, u32::MAX] {
            let count = RefCount(AtomicU32::new(first));
            for _ in 0..3 {
                count.get();
                assert!(count.load() >= STUCK_FROM, "from {first:#x}");
            }
            for _ in 0..8 {
                assert!(!count.put(), "from {first:#x}");
            }
            assert_eq!(count.load(), STUCK, "from {first:#x}");
        }
    }

    /// Who is refused counts nothing; who cannot be refused is counted.
    #[test]
    fn a_reference_is_refused_long_before() {
        let count = RefCount(AtomicU32::new(REFUSED - 1));
        assert!(count.try_get());
        assert!(!count.try_get());
        assert_eq!(count.load(), REFUSED);
        count.get();
        assert_eq!(count.load(), REFUSED + 1);
        assert!(!count.put() && !count.put());
        assert!(count.try_get(), "there is room again");
    }
}
