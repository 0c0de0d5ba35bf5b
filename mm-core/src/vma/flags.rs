//! What an area is, apart from where it lies.

use crate::prot::{Access, Prot};
use bitflags::bitflags;

bitflags! {
    /// The properties of an area.
    ///
    /// | group | who changes it |
    /// |---|---|
    /// | `READ` `WRITE` `EXEC` | map, protect; never beyond the `MAY_` bits |
    /// | `MAY_*` | fixed when the area is made (rights of the file's opener) |
    /// | `SHARED`, backing bits | fixed when the area is made |
    /// | `LOCKED`, `LOCK_ON_FAULT` | map, brk and lock; off also by fork in the child |
    /// | advice | advise |
    /// | `SEALED` | seal; never taken off |
    /// | `MIXED_MAP`, `HUGE`, `NO_HUGE`, `MERGEABLE`, `CLOSE_HOOK`, `SOFT_DIRTY` | nobody yet: kept as they are, and merged by rule |
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct VmaFlags: u32 {
        /// Loads are allowed.
        const READ = 1;
        /// Stores are allowed.
        const WRITE = 1 << 1;
        /// Instruction fetches are allowed.
        const EXEC = 1 << 2;
        /// Stores reach the object, and whoever else maps it.
        const SHARED = 1 << 3;
        /// `READ` may be set.
        const MAY_READ = 1 << 4;
        /// `WRITE` may be set.
        const MAY_WRITE = 1 << 5;
        /// `EXEC` may be set.
        const MAY_EXEC = 1 << 6;
        /// A fault just below extends the area: a stack.
        const GROWS_DOWN = 1 << 7;
        /// Maps frames without records; the page offset is the frame number.
        const PFN_MAP = 1 << 8;
        /// Maps frames with and without records.
        const MIXED_MAP = 1 << 9;
        /// Accesses have effects outside of memory.
        const IO = 1 << 10;
        /// Never grown by remap, never merged.
        const DONT_EXPAND = 1 << 11;
        /// Resident: not reclaimed (mlock(2)).
        const LOCKED = 1 << 12;
        /// With `LOCKED`: pages become resident when first touched (`MLOCK_ONFAULT`).
        const LOCK_ON_FAULT = 1 << 13;
        /// Not copied by fork (`MADV_DONTFORK`).
        const DONT_COPY = 1 << 14;
        /// Empty in the child after fork (`MADV_WIPEONFORK`).
        const WIPE_ON_FORK = 1 << 15;
        /// Left out of core dumps (`MADV_DONTDUMP`).
        const DONT_DUMP = 1 << 16;
        /// Read from front to back (`MADV_SEQUENTIAL`).
        const SEQ_READ = 1 << 17;
        /// Read at random (`MADV_RANDOM`).
        const RAND_READ = 1 << 18;
        /// Large pages are welcome (`MADV_HUGEPAGE`).
        const HUGE = 1 << 19;
        /// Large pages are not welcome (`MADV_NOHUGEPAGE`).
        const NO_HUGE = 1 << 20;
        /// Equal pages may be shared (`MADV_MERGEABLE`).
        const MERGEABLE = 1 << 21;
        /// Memory is not set aside for it (`MAP_NORESERVE`).
        const NO_RESERVE = 1 << 22;
        /// Counts as committed memory: the platform is asked before there is more of it
        /// ([`Platform::may_commit`](crate::platform::Platform::may_commit)).
        const ACCOUNT = 1 << 23;
        /// May not be removed, moved or given other rights any more (mseal(2)).
        const SEALED = 1 << 24;
        /// Its hook wants to be told when the area goes: a merge never
        /// removes it.
        const CLOSE_HOOK = 1 << 25;
        /// Written to since the mark was cleared: kept by a merge, and no
        /// reason against one.
        const SOFT_DIRTY = 1 << 26;
        /// Cut out of its neighbours, to be taken away: never seen by users.
        const GOING = 1 << 27;
    }
}

impl VmaFlags {
    /// The rights in force.
    pub const RIGHTS: Self = Self::READ.union(Self::WRITE).union(Self::EXEC);
    /// The rights that may ever be in force.
    pub const MAY: Self = Self::MAY_READ.union(Self::MAY_WRITE).union(Self::MAY_EXEC);
    /// Areas with one of these are never merged.
    pub const SPECIAL: Self = Self::IO
        .union(Self::DONT_EXPAND)
        .union(Self::PFN_MAP)
        .union(Self::MIXED_MAP);
    /// Flags that a merged area has when one of its parts had them.
    pub const STICKY: Self = Self::SOFT_DIRTY;
    /// Flags that two areas need not agree on to be merged.
    pub const MERGE_IGNORES: Self = Self::STICKY.union(Self::CLOSE_HOOK);
    /// Either lock flag.
    pub const ANY_LOCK: Self = Self::LOCKED.union(Self::LOCK_ON_FAULT);

    /// Returns the rights in force.
    pub const fn prot(self) -> Prot {
        // READ, WRITE and EXEC are the bits of `Prot`: checked below.
        Prot::from_bits_truncate((self.bits() & Self::RIGHTS.bits()) as u8)
    }

    /// Returns the rights that may ever be in force.
    pub const fn may(self) -> Prot {
        Prot::from_bits_truncate(((self.bits() & Self::MAY.bits()) >> 4) as u8)
    }

    /// Makes rights in force.
    pub const fn from_prot(prot: Prot) -> Self {
        Self::from_bits_truncate(prot.bits() as u32)
    }

    /// Makes rights that may ever be in force.
    pub const fn from_may(prot: Prot) -> Self {
        Self::from_bits_truncate((prot.bits() as u32) << 4)
    }

    /// Returns the flags with other rights in force.
    #[must_use]
    pub const fn with_prot(self, prot: Prot) -> Self {
        self.difference(Self::RIGHTS).union(Self::from_prot(prot))
    }

    /// Returns whether an access is among the rights in force.
    ///
    /// A store also needs no right to load, nor the other way round: what
    /// hardware cannot express is widened by [`Self::page_prot`], not here.
    pub const fn allows(self, access: Access) -> bool {
        self.prot().allows(access)
    }

    /// Returns whether the pages count against the data limit: private,
    /// writable, no stack (`RLIMIT_DATA`, getrlimit(2)).
    pub const fn is_data(self) -> bool {
        self.contains(Self::WRITE) && !self.intersects(Self::SHARED.union(Self::GROWS_DOWN))
    }

    /// Returns whether the pages count as committed memory as soon as the area is
    /// made: private and writable, stacks too (Linux: `accountable_mapping`).
    pub const fn is_accountable(self) -> bool {
        self.contains(Self::WRITE) && !self.intersects(Self::SHARED.union(Self::NO_RESERVE))
    }

    /// Returns whether two areas may become one as far as flags go.
    pub const fn mergeable_with(self, other: Self) -> bool {
        let differ = self
            .symmetric_difference(other)
            .difference(Self::MERGE_IGNORES);
        differ.is_empty() && !self.union(other).intersects(Self::SPECIAL)
    }

    /// Returns these flags with the sticky ones of a part merged in.
    #[must_use]
    pub const fn absorbing(self, part: Self) -> Self {
        self.union(part.intersection(Self::STICKY))
    }
}

const _: () = {
    assert!(VmaFlags::READ.prot().contains(Prot::READ));
    assert!(VmaFlags::WRITE.prot().contains(Prot::WRITE));
    assert!(VmaFlags::EXEC.prot().contains(Prot::EXEC));
    assert!(VmaFlags::MAY.may().contains(Prot::RWX));
};
