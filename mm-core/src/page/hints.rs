//! Where a CPU found areas and leaf tables last, so that its next fault need not go down.
//!
//! ```text
//!   space, page ─► stretch ─┬─► areas    [ one | other ]   numbers of handles
//!    (a leaf table's pages) └─► leaves   [ frame ]
//! ```
//!
//! Numbers only, of nodes and frames that may be gone, or something else, by
//! the time they are followed: a hint proves nothing, and who ends what it
//! names takes nothing back. Who follows one is pinned, and checks.
//!
//! **An area** is counted into and looked at again, like one that a descent
//! came to ([`Vma::try_read`](crate::vma::Vma::try_read)). That needs a node
//! there, so hints are treated like the links of a tree. Only who is counted
//! into an area *sets* a hint to it: its node is in use then, and a slab that
//! is taken off its pool's lists has none in use. So all hints to such a slab
//! are older; they are *forgotten*, on all CPUs, before its grace period, which
//! waits for who still follows one ([`Pool::drain_named`](crate::pool::Pool)).
//!
//! **A leaf table** has a record, which outlives it and says what it spans
//! while it is linked ([`TableRecord::linked_at`](super::TableRecord)). Who
//! finds that said while pinned has a table that is not freed before the pin
//! ends, just as if it had come down to it.
//!
//! Only its own CPU sets a hint, with preemption off, and never to what another
//! hint says: a drain may just have cleared that.

use crate::sync::{AtomicU32, Ordering};

/// Sets of areas.
const SETS: usize = 4;
/// Areas of a set: code and data of a small program share a stretch.
const WAYS: usize = 2;
/// Leaf tables.
const LEAVES: usize = 8;

/// The pages of one leaf table in one space: what is near one another there
/// shares hints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// The number of the space.
    pub(crate) space: u32,
    /// How many leaf tables span the pages below.
    pub(crate) number: usize,
}

impl Stretch {
    /// Spreads neighbours, and the same place of several spaces.
    #[inline]
    fn hash(self) -> usize {
        let n = self.number ^ self.number.wrapping_shr(3);
        n ^ self.space as usize
    }
}

/// One CPU's hints.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(C))]
pub(crate) struct Hints {
    areas: [[AtomicU32; WAYS]; SETS],
    leaves: [AtomicU32; LEAVES],
    /// How often an area was found elsewhere: whose turn it is to go.
    misses: AtomicU32,
}

impl Hints {
    #[cfg(not(loom))]
    /// Makes hints to nothing.
    pub(super) const fn new() -> Self {
        Self {
            areas: [const { [const { AtomicU32::new(0) }; WAYS] }; SETS],
            leaves: [const { AtomicU32::new(0) }; LEAVES],
            misses: AtomicU32::new(0),
        }
    }

    #[cfg(loom)]
    /// Makes hints to nothing.
    pub(super) fn new() -> Self {
        Self {
            areas: core::array::from_fn(|_| core::array::from_fn(|_| AtomicU32::new(0))),
            leaves: core::array::from_fn(|_| AtomicU32::new(0)),
            misses: AtomicU32::new(0),
        }
    }

    /// Returns the numbers of areas where pages of the stretch were found;
    /// zero is none.
    ///
    /// # Locks
    /// None; in an epoch pin, as long as the numbers are followed.
    #[inline]
    pub(crate) fn areas(&self, at: Stretch) -> [u32; WAYS] {
        let load = |hint: &AtomicU32| hint.load(Ordering::Relaxed);
        let set = self.areas.get(at.hash() % SETS);
        set.map_or([0; WAYS], |set| set.each_ref().map(load))
    }

    /// Notes where a page of the stretch was found.
    ///
    /// # Locks
    /// The caller is counted into the area, in an epoch pin.
    pub(crate) fn found_area(&self, at: Stretch, area: u32) {
        let misses = self.misses.load(Ordering::Relaxed);
        self.misses.store(misses.wrapping_add(1), Ordering::Relaxed);
        let set = self.areas.get(at.hash() % SETS);
        if let Some(hint) = set.and_then(|set| set.get(misses as usize % WAYS)) {
            hint.store(area, Ordering::Relaxed);
        }
    }

    /// Drops all hints to areas.
    pub(crate) fn forget_areas(&self) {
        for hint in self.areas.iter().flatten() {
            hint.store(0, Ordering::Relaxed);
        }
    }

    /// Returns the frame of the leaf table that spanned the stretch.
    ///
    /// # Locks
    /// None; in an epoch pin, as long as the frame is looked at.
    #[inline]
    pub(crate) fn leaf(&self, at: Stretch) -> u32 {
        let hint = self.leaves.get(at.hash() % LEAVES);
        hint.map_or(0, |hint| hint.load(Ordering::Relaxed))
    }

    /// Notes which leaf table spans the stretch.
    pub(crate) fn found_leaf(&self, at: Stretch, table: u32) {
        if let Some(hint) = self.leaves.get(at.hash() % LEAVES) {
            hint.store(table, Ordering::Relaxed);
        }
    }
}
