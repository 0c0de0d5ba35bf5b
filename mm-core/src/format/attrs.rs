//! Attributes of a leaf.

use crate::prot::{MemType, Prot};
use bitflags::bitflags;

bitflags! {
    /// The state bits of a leaf besides rights and memory type.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct AttrFlags: u8 {
        /// Reachable from user mode.
        const USER = 1;
        /// The same in every address space: survives an address-space switch.
        const GLOBAL = 2;
        /// Was accessed since the bit was cleared.
        const ACCESSED = 4;
        /// Was written since the bit was cleared.
        const DIRTY = 8;
        /// A software mark: the entry owns nothing of its frame, whose record, if
        /// it has one, is somebody else's (devices, the zero page).
        const SPECIAL = 16;
    }
}

/// Rights, memory type and state of a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Attrs {
    /// The rights hardware enforces.
    pub prot: Prot,
    /// The state bits.
    pub flags: AttrFlags,
    /// The memory type.
    pub mem: MemType,
}

impl Attrs {
    /// Makes the attributes of a user page, not yet accessed.
    pub const fn user(prot: Prot) -> Self {
        Self {
            prot,
            flags: AttrFlags::USER,
            mem: MemType::WriteBack,
        }
    }

    /// Makes the attributes of a global kernel page, accessed and dirty so
    /// that hardware never writes to the entry.
    pub const fn kernel(prot: Prot) -> Self {
        let flags = AttrFlags::GLOBAL
            .union(AttrFlags::ACCESSED)
            .union(AttrFlags::DIRTY);
        Self {
            prot,
            flags,
            mem: MemType::WriteBack,
        }
    }

    /// Adds state bits.
    pub const fn with(mut self, flags: AttrFlags) -> Self {
        self.flags = self.flags.union(flags);
        self
    }

    /// Replaces the memory type.
    pub const fn with_mem(mut self, mem: MemType) -> Self {
        self.mem = mem;
        self
    }
}
