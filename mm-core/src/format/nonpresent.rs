//! Words that hardware faults on and we understand.
//!
//! A format stores the kind in three bits and the value in
//! `nonpresent_bits` bits, inverted where speculation could follow it.

use crate::addr::Pfn;

/// What a non-present entry stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum NonPresentKind {
    /// The page is in a swap slot: the value.
    Swap = 1,
    /// The page is moving; wait for its LOCKED state. The value is its frame.
    Migration = 2,
    /// A guard marker: access is SIGSEGV though an area is there (MADV_GUARD_INSTALL).
    Guard = 3,
    /// The page is there but no access is allowed (PROT_NONE). The value is
    /// the frame, shifted, with the accessed and dirty state.
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

impl NonPresent {
    /// Makes the entry of a page that is kept but may not be accessed.
    pub const fn prot_none(pfn: Pfn, young: bool, dirty: bool) -> Self {
        let value = (pfn.as_u64() << 2) | ((dirty as u64) << 1) | young as u64;
        Self {
            kind: NonPresentKind::ProtNone,
            value,
        }
    }

    /// Returns the frame that a PROT_NONE or migration entry names.
    pub const fn pfn(self) -> Option<Pfn> {
        match self.kind {
            NonPresentKind::ProtNone => Some(Pfn::new(self.value >> 2)),
            NonPresentKind::Migration => Some(Pfn::new(self.value)),
            NonPresentKind::Swap | NonPresentKind::Guard => None,
        }
    }

    /// Returns whether a PROT_NONE entry's page was accessed.
    pub const fn is_young(self) -> bool {
        matches!(self.kind, NonPresentKind::ProtNone) && self.value & 1 != 0
    }

    /// Returns whether a PROT_NONE entry's page was written.
    pub const fn is_dirty(self) -> bool {
        matches!(self.kind, NonPresentKind::ProtNone) && self.value & 2 != 0
    }
}
