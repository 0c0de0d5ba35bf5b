//! The node of a page index: slots, and what they hold in sum.
//!
//! All changes are made under the index's lock; slots and levels are also read
//! without it.

use super::SLOTS;
use crate::pool::{Handle, Node};
use crate::sync::{AtomicU32, Ordering};

/// A node of an object's page index: 512 bytes.
#[derive(Debug)]
#[repr(C, align(512))]
pub struct RadixNode {
    slots: [AtomicU32; SLOTS],
    dirty: [AtomicU32; 2],
    /// Used slots.
    pub(super) used: AtomicU32,
    /// 1: slots are frames, else nodes of the level below.
    pub(super) level: AtomicU32,
    free: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<RadixNode>() == 512);

impl Node for RadixNode {
    const NAME: &'static str = "radix node";

    // Of constants, as elsewhere: compilers for some architectures build what
    // closures make on the stack, one copy of the node for each step.
    #[cfg(not(loom))]
    fn new() -> Self {
        Self {
            slots: [const { AtomicU32::new(0) }; SLOTS],
            dirty: [const { AtomicU32::new(0) }; 2],
            used: AtomicU32::new(0),
            level: AtomicU32::new(0),
            free: AtomicU32::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            slots: core::array::from_fn(|_| AtomicU32::new(0)),
            dirty: core::array::from_fn(|_| AtomicU32::new(0)),
            used: AtomicU32::new(0),
            level: AtomicU32::new(0),
            free: AtomicU32::new(0),
        }
    }

    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

impl RadixNode {
    pub(super) fn level(&self) -> u32 {
        self.level.load(Ordering::Relaxed)
    }

    pub(super) fn slot(&self, i: usize) -> u32 {
        // Acquire: the node or page is seen as it was when it was linked.
        self.slots
            .get(i)
            .map_or(0, |slot| slot.load(Ordering::Acquire))
    }

    pub(super) fn set_slot(&self, i: usize, value: u32) {
        if let Some(slot) = self.slots.get(i) {
            slot.store(value, Ordering::Release);
        }
    }

    pub(super) fn child(&self, i: usize) -> Option<Handle<Self>> {
        Handle::from_raw(self.slot(i))
    }

    pub(super) fn is_dirty(&self, i: usize) -> bool {
        let word = self
            .dirty
            .get(i / 32)
            .map_or(0, |word| word.load(Ordering::Relaxed));
        word & bit(i) != 0
    }

    pub(super) fn has_dirty(&self) -> bool {
        self.dirty
            .iter()
            .any(|word| word.load(Ordering::Relaxed) != 0)
    }

    pub(super) fn set_dirty(&self, i: usize) {
        if let Some(word) = self.dirty.get(i / 32) {
            word.store(word.load(Ordering::Relaxed) | bit(i), Ordering::Relaxed);
        }
    }

    pub(super) fn clear_dirty(&self, i: usize) {
        if let Some(word) = self.dirty.get(i / 32) {
            word.store(word.load(Ordering::Relaxed) & !bit(i), Ordering::Relaxed);
        }
    }

    /// Fills an empty slot.
    pub(super) fn fill(&self, i: usize, value: u32) {
        self.used.store(
            self.used.load(Ordering::Relaxed).saturating_add(1),
            Ordering::Relaxed,
        );
        self.set_slot(i, value);
    }

    /// Empties a slot; true when it was the last used one.
    pub(super) fn empty(&self, i: usize) -> bool {
        self.set_slot(i, 0);
        self.clear_dirty(i);
        let used = self.used.load(Ordering::Relaxed).saturating_sub(1);
        self.used.store(used, Ordering::Relaxed);
        used == 0
    }
}

const fn bit(i: usize) -> u32 {
    1u32.wrapping_shl((i & 31) as u32)
}
