//! The node of a page index: slots, and what they hold in sum.
//!
//! All changes are made under the index's lock; slots and levels are also read
//! without it.
//!
//! What a slot holds, a frame or a node, says the level of the node, and a node
//! that was freed comes back at another level at once, also while somebody without
//! a lock is between the two. So a node has *lives*: its life is one word, a number
//! that is never the same again and the level; who looks without a lock reads it
//! before the slot and after ([`RadixNode::peek`]). The level alone would not do: it
//! may go and come back in between.
//!
//! ```text
//!  begin_life                    peek
//!    life  = next | level          life    (Acquire)  the slots of earlier lives are empty
//!    slots = ...  (Release)        slot    (Acquire)  whose it is, life says that or later
//!                                  life               the same: the slot is of this life
//! ```

use super::SLOTS;
use crate::pool::{Handle, Node};
use crate::sync::{AtomicU32, AtomicUsize, Ordering};

/// Bits of a node's life that hold the level; the number lies above. Where words
/// have 32 bits it has 28: it is the same again after as many lives of one node,
/// all of them within two loads of one who is pinned.
const LEVEL_BITS: u32 = 4;
const LEVEL: usize = (1 << LEVEL_BITS) - 1;
const NEXT_LIFE: usize = 1 << LEVEL_BITS;
const _: () = assert!(super::MAX_LEVELS <= LEVEL);

/// A node of an object's page index: 512 bytes.
#[derive(Debug)]
#[repr(C, align(512))]
pub struct RadixNode {
    slots: [AtomicU32; SLOTS],
    dirty: [AtomicU32; 2],
    /// Used slots.
    pub(super) used: AtomicU32,
    /// Number and level. Level 1: slots are frames, else nodes of the level below.
    life: AtomicUsize,
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
            life: AtomicUsize::new(0),
            free: AtomicU32::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            slots: core::array::from_fn(|_| AtomicU32::new(0)),
            dirty: core::array::from_fn(|_| AtomicU32::new(0)),
            used: AtomicU32::new(0),
            life: AtomicUsize::new(0),
            free: AtomicU32::new(0),
        }
    }

    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

impl RadixNode {
    /// Begins a life of a node that was just taken from the pool.
    pub(super) fn begin_life(&self, level: u32) {
        debug_assert!(self.used.load(Ordering::Relaxed) == 0);
        let before = self.life.load(Ordering::Relaxed) & !LEVEL;
        let life = before.wrapping_add(NEXT_LIFE) | (level as usize & LEVEL);
        // Release: who sees it sees that the slots of the life before are empty.
        self.life.store(life, Ordering::Release);
    }

    pub(super) fn level(&self) -> u32 {
        level_of(self.life.load(Ordering::Relaxed))
    }

    /// Reads a slot of a node of this level without a lock; `None` when the node
    /// has become another's. What it held in this life may be old.
    pub(super) fn peek(&self, level: u32, i: usize) -> Option<u32> {
        let life = self.life.load(Ordering::Acquire);
        if level_of(life) != level {
            // Reused for another object since we read its name.
            return None;
        }
        let slot = self.slot(i);
        // The slot's acquire keeps this load behind it.
        let same = self.life.load(Ordering::Relaxed) == life;
        (same || cfg!(mm_mutant = "life_is_looked_at_once")).then_some(slot)
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

#[expect(clippy::cast_possible_truncation, reason = "masked to four bits")]
const fn level_of(life: usize) -> u32 {
    (life & LEVEL) as u32
}

const fn bit(i: usize) -> u32 {
    1u32.wrapping_shl((i & 31) as u32)
}
