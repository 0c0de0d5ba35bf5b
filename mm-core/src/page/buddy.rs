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

/// The free lists, by order and zone. Zero ends a list.
#[derive(Debug)]
pub struct Buddy {
    /// The zones in which there is a block, by order: side by side, for each search looks at all.
    filled: [Zones; ORDERS],
    heads: [[u32; ZONES]; ORDERS],
    bounds: Bounds,
    /// Counts batches to and from the CPUs' caches; wraps.
    transfers: u32,
}

impl Buddy {
    /// Makes an allocator without frames.
    pub const fn new() -> Self {
        Self {
            filled: [Zones(0); ORDERS],
            heads: [[0; ZONES]; ORDERS],
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
        let (have, first) = self.find(order, zones)?;
        let pfn = Pfn::new(u64::from(first));
        self.unlink(records, pfn, have);
        self.split(records, pfn, have, order);
        records.record(pfn)?.reset(Kind::Kernel, order);
        Some(pfn)
    }

    /// Puts all of a block that is on no list back but its first frames, `1 << order` of
    /// them: memory is handed out from below.
    fn split(&mut self, records: &impl Records, pfn: Pfn, have: u8, order: u8) {
        for half in (order..have).rev() {
            self.link(records, Pfn::new(pfn.as_u64() ^ frames(half)), half);
        }
    }

    /// Finds a block of this order or a higher one in the zones: in their highest
    /// group that has one, the smallest.
    fn find(&self, order: u8, zones: Zones) -> Option<(u8, u32)> {
        let lists = self.filled.get(usize::from(order)..)?;
        let filled = lists.iter().fold(0, |all, filled| all | filled.0);
        let highest = zones.and(Zones(filled)).highest()?;
        let group = zones.and(self.bounds.group_from(highest));
        let (order, zone) = (order..)
            .zip(lists)
            .find_map(|(order, filled)| Some((order, group.and(*filled).highest()?)))?;
        let heads = self.heads.get(usize::from(order))?;
        Some((order, *heads.get(zone as usize)?))
    }

    /// Takes up to `most` single frames of the zones for a CPU's cache: the same as one
    /// after the other, but a block that is not larger than what is wanted is split in
    /// one go, without a list for each part of it.
    pub(super) fn take_chain(&mut self, records: &impl Records, most: u32, zones: Zones) -> Chain {
        let mut chain = Chain::EMPTY;
        let mut last: Option<&Page> = None;
        'all: while let Some(order) = most.saturating_sub(chain.len()).checked_ilog2() {
            let Some((have, first)) = self.find(0, zones) else {
                break;
            };
            let order = u8::try_from(order).unwrap_or(MAX_ORDER).min(have);
            let first = Pfn::new(u64::from(first));
            self.unlink(records, first, have);
            self.split(records, first, have, order);
            for pfn in (0..frames(order)).map(|i| first.saturating_add(i)) {
                let Some(page) = records.record(pfn) else {
                    break 'all;
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
        let bit = 1u32.wrapping_shl(zone);
        if let Some(filled) = self.filled.get_mut(usize::from(order)) {
            filled.0 = match first {
                0 => filled.0 & !bit,
                _ => filled.0 | bit,
            };
        }
        let heads = self.heads.get_mut(usize::from(order));
        let head = heads.and_then(|heads| heads.get_mut(zone as usize));
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
