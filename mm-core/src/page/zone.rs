//! Zones: which frames an allocation may get, and which are left for who needs them
//! (Linux: ZONE_DMA, ZONE_DMA32, ZONE_NORMAL).
//!
//! Not everybody can name every frame: a table's entry, a root's register, a node's
//! handle and a device have so many bits for a frame number and no more. Such a
//! bound is a power of two, so zone `n` is the frames whose number has its highest
//! bit at `n`, and a bound of `2^n` frames allows zones `0..n`:
//!
//! ```text
//! frame    1  2  4  8        2^19      2^20          2^26               2^32
//! zone   0 │1 │2 │3 │   ...    │   19    │   20   ...  │   26      ...    │
//!          └──────── group ────┴─────────┴── group ────┴── group ─ ...
//!          PAE: roots only               ▲ a bound     ▲ a bound
//! ```
//!
//! **No block lies in two zones.** A block of `2^n` frames starts at a multiple of
//! its size, and not at 0, for frame 0 is never RAM: so all its frames have the
//! same highest bit. Buddies that merge are such a block: merging needs no check.
//!
//! **Who needs a bound finds what there is.** The allocator has lists of its own
//! for each zone, and a word for each order that says which of them hold a
//! block: it looks at no block that does not fit, whatever the bound.
//!
//! **Low frames are left.** The machine's own bounds ([`Bounds`]) divide zones into
//! groups. Who takes whatever there is gets it from the highest group that has a
//! block; within a group the smallest block that fits counts, as if there were
//! no zones. So a machine whose RAM lies below all bounds has one group.
//!
//! **Caches hold the highest group** (`front`): a frame of a lower one goes back to
//! the allocator at once, or the next who asks for any frame would get it. A
//! bound need not be the machine's own, so a cache may still hold frames on both
//! sides of one; who asks with a bound is given none without a look at its number.

use crate::addr::Pfn;
use crate::format::PageTableFormat;

/// How many zones there are: one for each bit of a frame number.
pub(super) const ZONES: usize = u32::BITS as usize;

/// log2 of the bytes of the smallest nodes of the family, those of `rmap`.
const SMALLEST_NODE: u32 = 6;

/// A set of zones: a bit for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Zones(pub(super) u32);

impl Zones {
    /// Whatever there is.
    pub(super) const ALL: Self = Self(u32::MAX);

    /// Returns the zones that end by `bound`; of one that it divides, nothing.
    pub(super) const fn below(bound: Pfn) -> Self {
        match bound.as_u64().checked_ilog2() {
            Some(bits) => match u32::MAX.checked_shl(bits) {
                Some(above) => Self(!above),
                None => Self::ALL,
            },
            None => Self(0),
        }
    }

    /// Returns whether a frame lies in one of them.
    #[inline]
    pub(super) const fn has(self, frame: u32) -> bool {
        self.0 & 1u32.wrapping_shl(zone_of(frame)) != 0
    }

    /// Returns those that are in both sets.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the highest zone of the set.
    pub(super) const fn highest(self) -> Option<u32> {
        self.0.checked_ilog2()
    }
}

/// Returns the zone of a frame, and of the block that it is the first of.
#[inline]
pub(super) const fn zone_of(frame: u32) -> u32 {
    match frame.checked_ilog2() {
        Some(zone) => zone,
        None => 0,
    }
}

/// The bounds that a machine has by itself: bit `n` for one of `2^n` frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds(u32);

impl Bounds {
    /// No bounds: all zones are one group.
    pub(super) const NONE: Self = Self(0);

    /// Returns what the format's tables and roots reach, and what handles reach of
    /// nodes from the smallest to those of half a page.
    pub(super) fn of<F: PageTableFormat>(format: F) -> Self {
        let nodes = u32::BITS
            .saturating_add(SMALLEST_NODE)
            .saturating_sub(format.page_shift());
        let nodes = u32::MAX.checked_shl(nodes).unwrap_or(0);
        let tables = (1..=format.levels())
            .filter_map(|level| format.table_reach(level).as_u64().checked_ilog2())
            .filter_map(|bits| 1u32.checked_shl(bits));
        Self(tables.fold(nodes, |all, bound| all | bound))
    }

    /// Returns the group of a zone, and all that is above.
    pub(super) const fn group_from(self, zone: u32) -> Zones {
        // A zone is a bit of 32.
        let up_to = u32::MAX.wrapping_shr(31u32.wrapping_sub(zone));
        match Zones(self.0 & up_to).highest() {
            Some(bound) => Zones(u32::MAX.wrapping_shl(bound)),
            None => Zones::ALL,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Bounds, Zones, zone_of};
    use crate::addr::Pfn;

    #[test]
    fn a_bound_allows_the_frames_below_its_power_of_two() {
        for (bound, power) in [(0, 1), (1, 1), (2, 2), (1000, 512), (1024, 1024)] {
            let zones = Zones::below(Pfn::new(bound));
            for frame in 1..3000u32 {
                assert_eq!(zones.has(frame), frame < power, "{frame} below {bound}");
            }
        }
        assert_eq!(Zones::below(Pfn::new(1 << 32)), Zones::ALL);
        assert!(Zones::below(Pfn::new(1 << 31)).has(u32::MAX >> 1));
        assert!(!Zones::below(Pfn::new(u64::from(u32::MAX))).has(u32::MAX));
        assert_eq!(Zones::below(Pfn::new(u64::MAX)), Zones::ALL);
    }

    #[test]
    fn a_block_lies_in_one_zone() {
        for order in 0..11 {
            for block in (1u32..100).map(|n| n << order) {
                let last = block + (1 << order) - 1;
                assert_eq!(zone_of(block), zone_of(last), "{block} of order {order}");
            }
        }
    }

    #[test]
    fn bounds_divide_zones_into_groups() {
        let bounds = Bounds(1 << 5 | 1 << 20 | 1 << 31);
        for zone in 0..32 {
            let from = [31, 20, 5].into_iter().find(|&bound| bound <= zone);
            let group = Zones(u32::MAX << from.unwrap_or(0));
            assert_eq!(bounds.group_from(zone), group, "zone {zone}");
            assert_eq!(Bounds::NONE.group_from(zone), Zones::ALL);
        }
    }

    impl Bounds {
        /// Bounds of a test's own.
        pub(in crate::page) const fn new(bits: u32) -> Self {
            Self(bits)
        }
    }
}
