//! The buddy allocator: free blocks of 2^n frames, found and merged in O(log).
//!
//! It stores nothing of its own but list heads, by order and zone (`zone`), and
//! which of them are not empty: a free block is described by the record of its
//! first frame (kind `Free`, its order, and prev and next in the last two words).
//!
//! ```text
//! free, order 2      Free(2)  in  in  in            in = FreeTail or Tail
//! allocate order 0   Kernel(0)  Free(0)  Free(1) in
//! allocate order 2   Kernel(2)  Tail  Tail  Tail
//! ```
//!
//! Two blocks merge when both first frames say `Free` with the same order, so
//! a frame inside a block must never say so: a block that is swallowed becomes
//! `FreeTail`, a frame allocated behind another becomes `Tail`. That also tells
//! a double free, a foreign frame and the middle of a block from a free that is
//! right, before anything is changed.

use super::magazine::Chain;
use super::record::{Kind, Page};
use super::zone::{Bounds, ZONES, Zones, zone_of};
use crate::addr::Pfn;
use crate::sync::Ordering;
use core::fmt;

/// The largest order: blocks of 2^10 frames, 4 MiB of 4 KiB frames.
pub const MAX_ORDER: u8 = 10;

const ORDERS: usize = MAX_ORDER as usize + 1;
const PREV: usize = 4;
/// The word that links free blocks, and frames in caches.
pub(super) const NEXT: usize = 5;

/// Why a frame was not freed; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// The frame is not RAM of the family.
    Foreign,
    /// The frame is free already.
    DoubleFree,
    /// The frame lies inside a block; the block is freed by its first frame.
    Tail,
    /// The frame holds page records, or is the zero page: never freed.
    Reserved,
}

impl FreeError {
    /// Returns what is wrong with freeing a frame of this kind.
    pub(super) const fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Absent => Some(Self::Foreign),
            Kind::Free | Kind::FreeTail | Kind::Cached => Some(Self::DoubleFree),
            Kind::Tail => Some(Self::Tail),
            Kind::Reserved | Kind::Zero => Some(Self::Reserved),
            Kind::Kernel | Kind::Table | Kind::Slab | Kind::User => None,
        }
    }
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "not RAM of this machine",
            Self::DoubleFree => "freed already",
            Self::Tail => "inside a block",
            Self::Reserved => "never freed",
        })
    }
}

/// Finds records: the page map, or a table of them in tests.
pub(super) trait Records {
    /// Returns the record of a frame.
    fn record(&self, pfn: Pfn) -> Option<&Page>;
}

/// The free lists of one order, by zone. Zero ends a list.
#[derive(Clone, Copy, Debug)]
struct Lists {
    heads: [u32; ZONES],
    /// The zones in which there is a block.
    filled: Zones,
}

/// The free lists, by order.
#[derive(Debug)]
pub struct Buddy {
    lists: [Lists; ORDERS],
    bounds: Bounds,
    /// Counts batches to and from the CPUs' caches; wraps.
    transfers: u32,
}

impl Buddy {
    /// Makes an allocator without frames.
    pub const fn new() -> Self {
        let none = Lists {
            heads: [0; ZONES],
            filled: Zones(0),
        };
        Self {
            lists: [none; ORDERS],
            bounds: Bounds::NONE,
            transfers: 0,
        }
    }

    /// Says below which bounds frames are left for who needs them.
    pub(super) const fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Takes a block of this order from one of the zones, splitting a larger one
    /// where there is none. Its first frame becomes `Kernel`.
    pub(super) fn take(&mut self, records: &impl Records, order: u8, zones: Zones) -> Option<Pfn> {
        let (mut have, first) = self.find(order, zones)?;
        let pfn = Pfn::new(u64::from(first));
        self.unlink(records, pfn, have);
        while have > order {
            // Keep the lower half: memory is handed out from below.
            have = have.saturating_sub(1);
            self.link(records, Pfn::new(pfn.as_u64() ^ frames(have)), have);
        }
        records.record(pfn)?.reset(Kind::Kernel, order);
        Some(pfn)
    }

    /// Finds a block of this order or a higher one in the zones: in their highest
    /// group that has one, the smallest.
    fn find(&self, order: u8, zones: Zones) -> Option<(u8, u32)> {
        let lists = (0..=MAX_ORDER).zip(&self.lists).skip(usize::from(order));
        let filled = lists
            .clone()
            .fold(0, |all, (_, lists)| all | lists.filled.0);
        let highest = zones.and(Zones(filled)).highest()?;
        let group = zones.and(self.bounds.group_from(highest));
        lists
            .filter_map(|(order, lists)| {
                let zone = group.and(lists.filled).highest()?;
                Some((order, *lists.heads.get(zone as usize)?))
            })
            .next()
    }

    /// Takes up to `most` single frames of the zones for a CPU's cache.
    pub(super) fn take_chain(&mut self, records: &impl Records, most: u32, zones: Zones) -> Chain {
        let mut chain = Chain::EMPTY;
        let mut last: Option<&Page> = None;
        while chain.len() < most {
            let Some(pfn) = self.take(records, 0, zones) else {
                break;
            };
            let Some(page) = records.record(pfn) else {
                break;
            };
            page.reset(Kind::Cached, 0);
            chain.append(number(pfn), |n| {
                if let Some(last) = last {
                    set(last, NEXT, n);
                }
            });
            set(page, NEXT, 0);
            last = Some(page);
        }
        self.count_transfer(chain);
        chain
    }

    /// Puts back the frames of a CPU's cache.
    pub(super) fn give_chain(&mut self, records: &impl Records, mut chain: Chain) {
        self.count_transfer(chain);
        while let Some(n) = chain.pop(|n| next(records, n)) {
            self.give(records, Pfn::new(u64::from(n)), 0);
        }
    }

    /// Returns how many batches went to and from caches. While the number
    /// stays the same, no free frame changed between here and there.
    pub(super) const fn transfers(&self) -> u32 {
        self.transfers
    }

    fn count_transfer(&mut self, chain: Chain) {
        if chain.len() > 0 {
            self.transfers = self.transfers.wrapping_add(1);
        }
    }

    /// Puts a block back and merges it with its free neighbours.
    pub(super) fn give(&mut self, records: &impl Records, pfn: Pfn, order: u8) {
        let (mut pfn, mut order) = (pfn, order);
        while order < MAX_ORDER {
            let buddy = Pfn::new(pfn.as_u64() ^ frames(order));
            let free = |page: &&Page| page.kind() == Kind::Free && page.order() == order;
            if records.record(buddy).filter(free).is_none() {
                break;
            }
            #[cfg(not(mm_mutant = "merged_buddy_stays_linked"))]
            self.unlink(records, buddy, order);
            let upper = Pfn::new(pfn.as_u64() | frames(order));
            if let Some(page) = records.record(upper) {
                page.reset(Kind::FreeTail, 0);
            }
            pfn = Pfn::new(pfn.as_u64() & !frames(order));
            order = order.saturating_add(1);
        }
        self.link(records, pfn, order);
    }

    /// Puts a block, or none, in front of the list of `of`'s zone; returns what
    /// was first before.
    fn set_first(&mut self, order: u8, of: Pfn, first: u32) -> u32 {
        let zone = zone_of(number(of));
        let Some(lists) = self.lists.get_mut(usize::from(order)) else {
            return 0;
        };
        let bit = 1u32.wrapping_shl(zone);
        lists.filled.0 = match first {
            0 => lists.filled.0 & !bit,
            _ => lists.filled.0 | bit,
        };
        let head = lists.heads.get_mut(zone as usize);
        head.map_or(0, |head| core::mem::replace(head, first))
    }

    fn link(&mut self, records: &impl Records, pfn: Pfn, order: u8) {
        let Some(page) = records.record(pfn) else {
            return;
        };
        let next = self.set_first(order, pfn, number(pfn));
        page.reset(Kind::Free, order);
        page.set_refs(0);
        set(page, PREV, 0);
        set(page, NEXT, next);
        if let Some(next) = numbered(records, next) {
            set(next, PREV, number(pfn));
        }
    }

    fn unlink(&mut self, records: &impl Records, pfn: Pfn, order: u8) {
        let Some(page) = records.record(pfn) else {
            return;
        };
        let (prev, next) = (get(page, PREV), get(page, NEXT));
        match numbered(records, prev) {
            Some(prev) => set(prev, NEXT, next),
            None => {
                self.set_first(order, pfn, next);
            }
        }
        if let Some(next) = numbered(records, next) {
            set(next, PREV, prev);
        }
        page.reset(Kind::FreeTail, 0);
    }
}

impl Default for Buddy {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the number of frames of a block.
pub(super) const fn frames(order: u8) -> u64 {
    1u64.wrapping_shl(order as u32)
}

fn numbered(records: &impl Records, n: u32) -> Option<&Page> {
    if n == 0 {
        None
    } else {
        records.record(Pfn::new(u64::from(n)))
    }
}

/// Returns the frame after this one in a chain.
pub(super) fn next(records: &impl Records, n: u32) -> u32 {
    numbered(records, n).map_or(0, |page| get(page, NEXT))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the page map holds no frame above 32 bits"
)]
pub(super) const fn number(pfn: Pfn) -> u32 {
    pfn.as_u64() as u32
}

// The allocator's lock orders all accesses, that of a cache those to its frames.
fn get(page: &Page, word: usize) -> u32 {
    page.word(word).load(Ordering::Relaxed)
}

fn set(page: &Page, word: usize, value: u32) {
    page.word(word).store(value, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
#[path = "buddy_tests.rs"]
mod tests;
