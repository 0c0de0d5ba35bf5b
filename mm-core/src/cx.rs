//! The context of one verb.
//!
//! Each public verb makes one [`Cx`] and passes it down: it names the machine,
//! holds the ranks of the locks taken, and pins epochs. `lock(cx)` is the only
//! way to a lock, so nothing waits without serving shootdowns. A `Cx` stays on
//! one thread (it is not `Sync`) and verbs never call verbs.

use crate::page::{CpuNode, Frames, Hints};
use crate::platform::{CpuSet, Flush, Platform};
use crate::sync::{Context, Pinned, Rank, RankStack};
use core::cell::Cell;
use core::fmt;

/// The machine, the held ranks and the pins of one executing verb.
pub struct Cx<'m, P: Platform> {
    frames: &'m Frames<P>,
    ranks: RankStack,
    pinned: Cell<bool>,
}

impl<'m, P: Platform> Cx<'m, P> {
    /// Starts a verb.
    pub fn new(frames: &'m Frames<P>) -> Self {
        Self {
            frames,
            ranks: RankStack::new(),
            pinned: Cell::new(false),
        }
    }

    /// Returns the frames of the machine.
    pub fn frames(&self) -> &'m Frames<P> {
        self.frames
    }

    /// Returns the platform.
    pub fn platform(&self) -> &'m P {
        self.frames.platform()
    }

    /// Returns the page-table format.
    pub fn format(&self) -> P::Format {
        self.platform().format()
    }

    /// Returns log2 of the page size in bytes.
    pub fn page_shift(&self) -> u32 {
        crate::format::PageTableFormat::page_shift(self.format())
    }

    /// Pins this CPU's epoch: until the guard is dropped, no table and no slab
    /// that can be found now is freed.
    ///
    /// # Locks
    /// None may be waited for while pinned except inner ones. Pins of one CPU do
    /// not nest, whichever `Cx` they are of: who holds one calls no verb, whose
    /// own pin would end this one, and whose grace period would wait for it.
    pub fn pin(&self) -> Pin<'_, 'm, P> {
        debug_assert!(!self.pinned.get(), "epoch pins do not nest");
        let stays = Stays::begin(self);
        let cpu = self.platform().cpu();
        Pin {
            _pinned: self.frames.pin(cpu),
            stays,
        }
    }

    /// Waits until every lock-free reader of before is gone.
    ///
    /// # Locks
    /// Outer locks may be held, no inner one, and no pin.
    pub fn synchronize(&self) {
        debug_assert!(!self.pinned.get() && !self.ranks.holds_inner());
        self.frames.synchronize(self);
    }

    /// Takes one turn of a wait for another verb's end. No rank says where that stands in the
    /// order of locks: so nothing is held meanwhile, and no cycle leads through this wait.
    pub(crate) fn wait_turn(&self, spins: u32) {
        debug_assert!(
            self.ranks.is_empty() && !self.pinned.get(),
            "lock order: a verb waits for another one while {:?} is held",
            self.ranks
        );
        self.relax(spins);
    }

    /// Sends a flush, with preemption off: see [`Platform::flush`].
    pub(crate) fn flush(&self, cpus: CpuSet, flush: Flush) {
        self.preempt_off();
        self.platform().flush(cpus, flush);
        self.preempt_on();
    }

    /// Returns whether an inner lock is held: then no batch may be flushed.
    pub fn holds_inner(&self) -> bool {
        self.ranks.holds_inner()
    }
}

impl<P: Platform> Context for Cx<'_, P> {
    fn relax(&self, spins: u32) {
        self.platform().relax(spins);
    }
    fn preempt_off(&self) {
        self.platform().preempt_off();
    }
    fn preempt_on(&self) {
        self.platform().preempt_on();
    }
    fn acquire(&self, rank: Rank) {
        self.platform().locking(rank);
        self.ranks.push(rank);
    }
    fn acquire_fresh(&self, rank: Rank) {
        self.platform().locking(rank);
        self.ranks.push_fresh(rank);
    }
    fn release(&self, rank: Rank) {
        self.ranks.pop(rank);
    }
}

impl<P: Platform> Drop for Cx<'_, P> {
    fn drop(&mut self) {
        debug_assert!(self.ranks.is_empty(), "a verb ended with a lock held");
    }
}

impl<P: Platform> fmt::Debug for Cx<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx")
            .field("ranks", &self.ranks)
            .finish_non_exhaustive()
    }
}

/// Proof that this CPU's epoch is pinned.
pub struct Pin<'c, 'm, P: Platform> {
    // Dropped first: the CPU is unpinned, then the verb may leave it.
    _pinned: Option<Pinned<'m>>,
    stays: Stays<'c, 'm, P>,
}

impl<'m, P: Platform> Pin<'_, 'm, P> {
    /// Returns where this CPU found areas and tables, if it has a node.
    #[inline]
    pub(crate) fn hints(&self) -> Option<&'m Hints> {
        let frames = self.stays.0.frames;
        frames.cpu_node(frames.platform().cpu()).map(CpuNode::hints)
    }
}

/// The verb stays on its CPU, and says that it is pinned.
struct Stays<'c, 'm, P: Platform>(&'c Cx<'m, P>);

impl<'c, 'm, P: Platform> Stays<'c, 'm, P> {
    fn begin(cx: &'c Cx<'m, P>) -> Self {
        cx.preempt_off();
        cx.pinned.set(true);
        Self(cx)
    }
}

impl<P: Platform> Drop for Stays<'_, '_, P> {
    fn drop(&mut self) {
        self.0.pinned.set(false);
        self.0.preempt_on();
    }
}
