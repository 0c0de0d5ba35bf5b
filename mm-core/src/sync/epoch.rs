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
//! writer   unlink; fence(SeqCst); epoch += 2; for each slot: wait while 0 < slot <= old
//! ```
//!
//! Either the reader's slot is seen by the writer, or the writer's unlink is
//! seen by the reader: the two fences order them. Which slots there are the
//! writer asks after its fence: where a reader found its slot, it finds it too.
//!
//! This is a lock written by hand. It is compiled in models too, on loom's
//! atomics, and modelled alone there (`tests/loom/pool.rs`); models of what
//! pins and waits have loom's lock for each slot (`model.rs`, which says why
//! that claims no more).

use super::{AtomicU32, Context, Ordering, fence};

/// The epoch of a machine: changed by grace periods only.
#[derive(Debug)]
pub struct Epoch(AtomicU32);

/// The epoch that a CPU is pinned at; 0 when it is not.
#[derive(Debug)]
pub struct Slot(AtomicU32);

/// Proof that a CPU is pinned.
#[derive(Debug)]
pub struct Pinned<'a>(&'a Slot);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}

impl Slot {
    #[cfg(not(loom))]
    /// Makes the slot of a CPU that is not pinned.
    #[expect(
        clippy::new_without_default,
        reason = "the loom side has no const constructor"
    )]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[cfg(loom)]
    /// Makes the slot of a CPU that is not pinned.
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl Epoch {
    #[cfg(not(loom))]
    /// Makes the first epoch.
    #[expect(
        clippy::new_without_default,
        reason = "the loom side has no const constructor"
    )]
    pub const fn new() -> Self {
        Self(AtomicU32::new(1))
    }

    #[cfg(loom)]
    /// Makes the first epoch.
    pub fn new() -> Self {
        Self(AtomicU32::new(1))
    }

    /// Pins the CPU whose slot it is until the proof is dropped. Preemption is
    /// off; pins of a CPU do not nest.
    #[inline]
    pub fn pin<'a>(&self, slot: &'a Slot) -> Pinned<'a> {
        slot.0
            .store(self.0.load(Ordering::Relaxed), Ordering::Relaxed);
        #[cfg(not(mm_mutant = "pin_without_fence"))]
        fence(Ordering::SeqCst);
        Pinned(slot)
    }

    /// Waits until no CPU is pinned since before this call.
    ///
    /// # Locks
    /// Not under an inner lock, and not while pinned.
    pub fn synchronize<'a, I>(&self, cx: &impl Context, slots: impl FnOnce() -> I)
    where
        I: Iterator<Item = &'a Slot>,
    {
        #[cfg(not(mm_mutant = "grace_without_fence"))]
        fence(Ordering::SeqCst);
        // By two: odd numbers, so that it never wraps to what says "not pinned".
        let old = self.0.fetch_add(2, Ordering::Relaxed);
        for slot in slots() {
            let mut spins = 0u32;
            loop {
                let pinned = slot.0.load(Ordering::Acquire);
                // Wrapping distance: a pin from before this call is at most `old`.
                if pinned == 0 || pinned.wrapping_sub(old).wrapping_sub(1) < u32::MAX / 2 {
                    break;
                }
                #[cfg(not(mm_mutant = "grace_waits_deaf"))]
                cx.relax(spins);
                spins = spins.saturating_add(1);
            }
            #[cfg(mm_mutant = "grace_waits_for_one")]
            break;
        }
    }
}
