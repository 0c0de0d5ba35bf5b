//! Epochs: how lock-free readers keep tables and slabs from being freed.
//!
//! A reader pins its CPU (preemption off, bounded, no wait): it writes the
//! current epoch into its CPU's slot. Who unlinked a table or emptied a slab
//! advances the epoch and waits until no CPU is pinned at an older one. Pins
//! are as short as inner locks, so the wait is too, and it serves shootdowns.
//! It may happen under outer locks only: a pinned reader takes no lock.
//!
//! ```text
//! reader   slot = epoch; fence(SeqCst); read links ...; slot = 0 (release)
//! writer   unlink; fence(SeqCst); epoch += 1; for each slot: wait while 0 < slot <= old
//! ```
//!
//! Either the reader's slot is seen by the writer, or the writer's unlink is
//! seen by the reader: the two fences order them.

use crate::platform::MAX_CPUS;
use crate::sync::{AtomicU32, Context, Ordering, fence};

/// The epochs of one machine.
#[derive(Debug)]
pub struct Epochs {
    now: AtomicU32,
    slots: [AtomicU32; MAX_CPUS],
}

impl Epochs {
    #[cfg(not(loom))]
    /// Makes the epochs of a machine where nobody is pinned.
    pub const fn new() -> Self {
        Self {
            now: AtomicU32::new(1),
            slots: [const { AtomicU32::new(0) }; MAX_CPUS],
        }
    }

    #[cfg(loom)]
    /// Makes the epochs of a machine where nobody is pinned.
    pub fn new() -> Self {
        Self {
            now: AtomicU32::new(1),
            slots: core::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// Pins a CPU. Preemption is off; the caller nests at most once.
    pub(crate) fn enter(&self, cpu: usize) {
        if let Some(slot) = self.slots.get(cpu) {
            slot.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
            #[cfg(not(mm_mutant = "pin_without_fence"))]
            fence(Ordering::SeqCst);
        }
    }

    /// Unpins a CPU.
    pub(crate) fn leave(&self, cpu: usize) {
        if let Some(slot) = self.slots.get(cpu) {
            slot.store(0, Ordering::Release);
        }
    }

    /// Waits until no CPU is pinned since before this call.
    ///
    /// # Locks
    /// Not under an inner lock, and not while pinned.
    pub fn synchronize(&self, cx: &impl Context, cpus: usize) {
        #[cfg(not(mm_mutant = "grace_without_fence"))]
        fence(Ordering::SeqCst);
        // By two: odd numbers, so that it never wraps to what says "not pinned".
        let old = self.now.fetch_add(2, Ordering::Relaxed);
        for slot in self.slots.iter().take(cpus) {
            let mut spins = 0u32;
            loop {
                let pinned = slot.load(Ordering::Acquire);
                // Wrapping distance: a pin from before this call is at most `old`.
                if pinned == 0 || pinned.wrapping_sub(old).wrapping_sub(1) < u32::MAX / 2 {
                    break;
                }
                cx.relax(spins);
                spins = spins.saturating_add(1);
            }
        }
    }
}

#[cfg(not(loom))]
impl Default for Epochs {
    fn default() -> Self {
        Self::new()
    }
}
