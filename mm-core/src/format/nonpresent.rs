//! Words that hardware faults on and we understand.
//!
//! A format stores the kind in three bits and the value in
//! `nonpresent_bits` bits, inverted where speculation could follow it.

use super::AttrFlags;
use crate::addr::Pfn;

/// What a non-present entry stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum NonPresentKind {
    /// The page is in a swap slot: the value.
    Swap = 1,
    /// The page is moving; wait for its LOCKED state. The value is its frame.
    Migration = 2,
    /// A guard marker: access is SIGSEGV though an area is there (MADV_GUARD_INSTALL). No verb
    /// installs one yet; faults and forks know it.
    Guard = 3,
    /// The page is there but no access is allowed (PROT_NONE). The value is
    /// the frame, shifted, with the state bits of the leaf that it was.
    ProtNone = 4,
}

/// A non-present entry, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NonPresent {
    /// What it stands for.
    pub kind: NonPresentKind,
    /// The payload; its meaning depends on the kind.
    pub value: u64,
}

impl NonPresentKind {
    /// Reads the kind from its number, or returns `None` for an unknown one.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            1 => Some(Self::Swap),
            2 => Some(Self::Migration),
            3 => Some(Self::Guard),
            4 => Some(Self::ProtNone),
            _ => None,
        }
    }
}

/// The state bits that a PROT_NONE entry keeps. What is `SPECIAL` stays so: it
/// is nobody's to count or to free, whatever may be done with it.
const KEPT: AttrFlags = AttrFlags::ACCESSED
    .union(AttrFlags::DIRTY)
    .union(AttrFlags::SPECIAL);
const KEPT_SHIFT: u32 = KEPT.bits().trailing_zeros();
const PFN_SHIFT: u32 = KEPT.bits().count_ones();

impl NonPresent {
    /// Makes the entry of a page that is kept but may not be accessed; of the
    /// state bits of its leaf, accessed, dirty and special stay.
    pub const fn prot_none(pfn: Pfn, flags: AttrFlags) -> Self {
        let kept = flags.intersection(KEPT).bits() >> KEPT_SHIFT;
        Self {
            kind: NonPresentKind::ProtNone,
            value: (pfn.as_u64() << PFN_SHIFT) | kept as u64,
        }
    }

    /// Returns the frame that a PROT_NONE or migration entry names.
    pub const fn pfn(self) -> Option<Pfn> {
        match self.kind {
            NonPresentKind::ProtNone => Some(Pfn::new(self.value >> PFN_SHIFT)),
            NonPresentKind::Migration => Some(Pfn::new(self.value)),
            NonPresentKind::Swap | NonPresentKind::Guard => None,
        }
    }

    /// Returns the state bits that a PROT_NONE entry keeps of its leaf.
    pub const fn flags(self) -> AttrFlags {
        match self.kind {
            NonPresentKind::ProtNone => {
                // The rest of the value is the frame.
                let kept = (self.value << KEPT_SHIFT) & KEPT.bits() as u64;
                AttrFlags::from_bits_truncate(kept as u8)
            }
            NonPresentKind::Swap | NonPresentKind::Migration | NonPresentKind::Guard => {
                AttrFlags::empty()
            }
        }
    }
}
