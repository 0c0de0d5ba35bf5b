//! Which slot a CPU is pinned in: one beside what it keeps for itself, in a line
//! that no other CPU writes; one of a shared array where it has nothing.
//!
//! A pin made in the one ends there, though the CPU has got the other meanwhile;
//! a grace period looks at all of both. How the two order readers and writers is
//! [`crate::sync::Epoch`]'s.

use super::Frames;
use super::cpu::CpuNode;
use crate::platform::{MAX_CPUS, Platform};
use crate::sync::{Context, Epoch, Pinned, Slot};

/// The epoch of a machine, and the slots of CPUs without a node.
#[derive(Debug)]
pub(super) struct Epochs {
    epoch: Epoch,
    early: [Slot; MAX_CPUS],
}

impl Epochs {
    #[cfg(not(loom))]
    /// Makes the epochs of a machine where nobody is pinned.
    pub(super) const fn new() -> Self {
        Self {
            epoch: Epoch::new(),
            early: [const { Slot::new() }; MAX_CPUS],
        }
    }

    #[cfg(loom)]
    /// Makes the epochs of a machine where nobody is pinned.
    pub(super) fn new() -> Self {
        Self {
            epoch: Epoch::new(),
            early: core::array::from_fn(|_| Slot::new()),
        }
    }
}

impl<P: Platform> Frames<P> {
    /// Pins a CPU, on which the caller stays, until the proof is dropped.
    #[inline]
    pub(crate) fn pin(&self, cpu: usize) -> Option<Pinned<'_>> {
        let own = self.cpu_node(cpu).map(CpuNode::slot);
        let slot = own.or_else(|| self.epochs.early.get(cpu))?;
        Some(self.epochs.epoch.pin(slot))
    }

    /// Waits until no CPU is pinned since before this call.
    ///
    /// # Locks
    /// Not under an inner lock, and not while pinned.
    pub(crate) fn synchronize(&self, cx: &impl Context) {
        let own = || self.cpu_nodes().map(|(_, node)| node.slot());
        let slots = || self.epochs.early.iter().chain(own());
        self.epochs.epoch.synchronize(cx, slots);
    }
}
