//! What each CPU keeps for itself, so that CPUs do not write each other's lines.
//!
//! The nodes of all CPUs lie in one block of frames, which
//! [`Frames::add_cpus`](super::Frames::add_cpus) takes once; until then, and
//! for CPUs that it was not told of, there is none and everything goes to
//! what is shared. A node may be used by another CPU than its own (a thread
//! that moved, a drain): each part has its lock, so that costs time only.

use super::hints::Hints;
use super::magazine::Magazines;
use crate::platform::PhysMemory;
use crate::pool::Node;
use crate::stats::Counts;
use crate::sync::{AtomicU32, Class, Fixed32, Mutex, Ordering, Slot, Tally};

/// How many pools have free nodes at hand on each CPU.
pub(crate) const POOLS: usize = 6;

/// One CPU's node.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(C, align(512)))]
pub(crate) struct CpuNode {
    /// Where areas and tables were found.
    hints: Hints,
    /// Pages that came and went.
    pub(crate) present: Mutex<Batch>,
    /// Free frames at hand.
    pub(super) frames: Mutex<Magazines>,
    free: AtomicU32,
    /// The epoch that the CPU is pinned at.
    slot: Slot,
    /// Frames handed out less those that came back, by way of this CPU; wraps.
    pub(super) used: Tally,
    /// Blocks handed out; wraps.
    pub(super) allocations: Tally,
    /// Blocks that came back; wraps.
    pub(super) frees: Tally,
    /// Free nodes at hand, by pool.
    pools: [NodeCache; POOLS],
    /// What happened on this CPU.
    counts: Counts,
}

/// Pages that are present more than before, or fewer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct PresentChange {
    /// Anonymous pages.
    pub(crate) anon: i32,
    /// Pages of objects.
    pub(crate) file: i32,
}

/// What a CPU counted for the space that it last counted for, and that is not
/// in the counts of that space yet (Linux: percpu_counter).
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The number of the space; zero: none, and nothing was counted.
    space: u32,
    change: PresentChange,
}

impl Batch {
    const EMPTY: Self = Self {
        space: 0,
        change: PresentChange { anon: 0, file: 0 },
    };

    /// How many pages stay behind at most. In models none are left unfolded for
    /// long.
    const MOST: u32 = if cfg!(loom) { 1 } else { 64 };

    /// Counts pages of a space; returns what is to be counted in a space's
    /// node now: this one's when it is much, another's that is put aside.
    pub(crate) fn count(
        &mut self,
        space: u32,
        change: PresentChange,
    ) -> Option<(u32, PresentChange)> {
        let before = (self.space, self.change);
        if self.space != space {
            *self = Self { space, change };
            return (before.0 != 0).then_some(before);
        }
        self.change.anon = self.change.anon.wrapping_add(change.anon);
        self.change.file = self.change.file.wrapping_add(change.file);
        let much = self
            .change
            .anon
            .unsigned_abs()
            .max(self.change.file.unsigned_abs());
        (much >= Self::MOST).then(|| (space, core::mem::take(&mut self.change)))
    }

    /// Takes out what was counted for a space.
    pub(crate) fn take(&mut self, space: u32) -> Option<PresentChange> {
        (self.space == space).then(|| core::mem::take(self).change)
    }
}

/// One CPU's free nodes of one pool.
#[derive(Debug)]
pub(crate) struct NodeCache {
    /// Their handles' numbers.
    pub(crate) nodes: Mutex<Magazines>,
    /// Nodes handed out less those that came back, by way of this CPU; wraps.
    pub(crate) live: Tally,
}

impl NodeCache {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            nodes: Mutex::new(Class::NodeCache, Magazines::new()),
            live: Tally::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            nodes: Mutex::new(Class::NodeCache, Magazines::new()),
            live: Tally::new(0),
        }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<CpuNode>() == 512);

impl Node for CpuNode {
    const NAME: &'static str = "cpu";

    #[cfg(not(loom))]
    fn new() -> Self {
        // Copied from a constant: built on the stack, several of its size would stand there.
        const {
            CpuNode {
                hints: Hints::new(),
                present: Mutex::new(Class::Present, Batch::EMPTY),
                frames: Mutex::new(Class::FrameCache, Magazines::new()),
                free: AtomicU32::new(0),
                slot: Slot::new(),
                used: Tally::new(0),
                allocations: Tally::new(0),
                frees: Tally::new(0),
                pools: [const { NodeCache::new() }; POOLS],
                counts: Counts::new(),
            }
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            hints: Hints::new(),
            present: Mutex::new(Class::Present, Batch::EMPTY),
            frames: Mutex::new(Class::FrameCache, Magazines::new()),
            free: AtomicU32::new(0),
            slot: Slot::new(),
            used: Tally::new(0),
            allocations: Tally::new(0),
            frees: Tally::new(0),
            pools: core::array::from_fn(|_| NodeCache::new()),
            counts: Counts::new(),
        }
    }

    // A CPU's node is never given back.
    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

impl CpuNode {
    /// Returns where this CPU found areas and tables.
    pub(crate) fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Returns the free nodes of a pool, by the pool's number.
    pub(crate) fn pool(&self, number: usize) -> Option<&NodeCache> {
        self.pools.get(number)
    }

    /// Returns where the CPU is pinned.
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Returns what happened on this CPU.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

/// Where the nodes are: the number of the first, as handles number nodes, and
/// how many.
#[derive(Debug)]
pub(super) struct CpuNodes {
    first: Fixed32,
    count: Fixed32,
}

impl CpuNodes {
    /// Makes the names of no nodes.
    pub(super) const fn new() -> Self {
        Self {
            first: Fixed32::new(0),
            count: Fixed32::new(0),
        }
    }

    /// Returns how many CPUs have a node.
    pub(super) fn count(&self) -> u32 {
        // Acquire: the nodes are seen as they were built.
        self.count.load(Ordering::Acquire)
    }

    /// Names the nodes, once they are built.
    pub(super) fn publish(&self, first: u32, count: u32) {
        self.first.store(first, Ordering::Relaxed);
        self.count.store(count, Ordering::Release);
    }

    /// Returns a CPU's node.
    #[inline]
    pub(super) fn get<'m, M: PhysMemory>(
        &self,
        memory: &'m M,
        page_shift: u32,
        cpu: u32,
    ) -> Option<&'m CpuNode> {
        if cpu >= self.count() {
            return None;
        }
        let number = self.first.load(Ordering::Relaxed).wrapping_add(cpu);
        Some(memory.nth_node(number as usize, slot_bits(page_shift)))
    }
}

/// log2 of the number of nodes in a frame. Loom's nodes fill a frame each.
pub(super) const fn slot_bits(page_shift: u32) -> u32 {
    let size = size_of::<CpuNode>().next_power_of_two();
    page_shift.saturating_sub(size.trailing_zeros())
}
