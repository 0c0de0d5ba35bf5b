//! Rights and memory types.

use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// What an access may do: `PROT_READ`, `PROT_WRITE`, `PROT_EXEC` of mmap(2).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Prot: u8 {
        /// Loads are allowed.
        const READ = 1;
        /// Stores are allowed.
        const WRITE = 2;
        /// Instruction fetches are allowed.
        const EXEC = 4;
    }
}

impl Prot {
    /// No access at all (`PROT_NONE`).
    pub const NONE: Self = Self::empty();
    /// Loads and stores.
    pub const RW: Self = Self::READ.union(Self::WRITE);
    /// Loads and instruction fetches.
    pub const RX: Self = Self::READ.union(Self::EXEC);
    /// Everything.
    pub const RWX: Self = Self::RW.union(Self::EXEC);

    /// Returns whether the access is among the rights.
    pub const fn allows(self, access: Access) -> bool {
        self.contains(access.prot())
    }
}

impl fmt::Display for Prot {
    /// Writes `rwx` with dashes, as `/proc/PID/maps` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (right, c) in [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::EXEC, 'x')] {
            fmt::Write::write_char(f, if self.contains(right) { c } else { '-' })?;
        }
        Ok(())
    }
}

/// What the CPU tried to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store, or a read-modify-write.
    Write,
    /// An instruction fetch.
    Exec,
}

impl Access {
    /// Returns the right that this access needs.
    pub const fn prot(self) -> Prot {
        match self {
            Self::Read => Prot::READ,
            Self::Write => Prot::WRITE,
            Self::Exec => Prot::EXEC,
        }
    }
}

/// How the CPU may cache and reorder accesses to a mapping.
///
/// A format maps each to its nearest type that is at least as strong; the
/// table stands in each backend's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum MemType {
    /// Cacheable memory, write-back.
    #[default]
    WriteBack,
    /// Cacheable, every store goes through.
    WriteThrough,
    /// Uncached but stores may be combined: frame buffers.
    WriteCombining,
    /// Uncached memory, no device side effects.
    Uncached,
    /// Device registers: no caching, gathering or reordering.
    Device,
}
