//! What a caller asks `map` for.

use crate::addr::{Pfn, VirtAddr};
use crate::object::ObjectRef;
use crate::platform::Platform;
use crate::prot::{MemType, Prot};
use bitflags::bitflags;

bitflags! {
    /// How to map; names and meaning are those of mmap(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MapFlags: u32 {
        /// Stores are seen by everyone who maps the object. Without it the
        /// mapping is private: stores go to copies (but see [`Backing::Device`]).
        const SHARED = 1;
        /// Exactly at the address; what was there is unmapped.
        const FIXED = 1 << 1;
        /// Exactly at the address; an error when anything is there.
        const FIXED_NOREPLACE = 1 << 2;
        /// The area grows down on faults below it: a stack.
        const GROWS_DOWN = 1 << 3;
        /// Does not count as committed memory ([`Platform::may_commit`] is not asked).
        ///
        /// [`Platform::may_commit`]: crate::platform::Platform::may_commit
        const NO_RESERVE = 1 << 4;
        /// Locked into memory: its pages are never reclaimed.
        const LOCKED = 1 << 5;
        /// Search for a gap from the bottom up instead of top down.
        const BOTTOM_UP = 1 << 6;
    }
}

/// What lies behind a mapping.
#[derive(Debug)]
pub enum Backing<'a, 'm, P: Platform> {
    /// Zero-filled memory of the space itself.
    Anonymous,
    /// Pages of an object from a byte offset, a multiple of the page size.
    Object {
        /// The object; the mapping keeps it alive.
        object: &'a ObjectRef<'m, P>,
        /// The offset in bytes.
        offset: u64,
    },
    /// Device memory, mapped at once and never counted, not even where the
    /// frames are RAM of the kernel's: they stay the caller's, who keeps them
    /// until the last mapping is gone, also a fork's child's.
    ///
    /// Stores reach the device from a private area too, at once or after a
    /// protect, and a fork's child has the same device. Linux copies such a page
    /// on a store (`remap_pfn_range` of a private writable area, which must then
    /// be linear, so that copies are told from the device by their frames); we
    /// do not, as the frames may be out of reach of [`PhysMemory`], and to copy
    /// registers is nobody's wish.
    ///
    /// Instructions in frames that have a record ([`Frames::page`]) are made
    /// visible to fetches when they are mapped with EXEC, not by a later protect.
    /// What has none may be no memory at all: it is the caller's to make visible.
    ///
    /// [`Frames::page`]: crate::page::Frames::page
    /// [`PhysMemory`]: crate::platform::PhysMemory
    Device {
        /// The first frame. An area's offset in pages is a `usize`: 32-bit machines
        /// map no device behind frame 2^32 - 1 ([`MmError::NotSupported`]).
        ///
        /// [`MmError::NotSupported`]: crate::error::MmError::NotSupported
        pfn: Pfn,
        /// The memory type.
        mem: MemType,
    },
}

/// One call of `map`.
#[derive(Debug)]
pub struct MapRequest<'a, 'm, P: Platform> {
    /// Where: a hint, or with `FIXED` the address.
    pub addr: Option<VirtAddr>,
    /// How many bytes, rounded up to pages.
    pub len: usize,
    /// Where a choice must end, hints too; exact addresses go anywhere (`MAP_32BIT`).
    pub below: Option<VirtAddr>,
    /// The rights.
    pub prot: Prot,
    /// The rights it may ever get; `protect` refuses more (Linux: VM_MAY*).
    pub max_prot: Prot,
    /// How.
    pub flags: MapFlags,
    /// What lies behind.
    pub backing: Backing<'a, 'm, P>,
}

impl<'a, 'm, P: Platform> MapRequest<'a, 'm, P> {
    /// Makes a request for private anonymous memory anywhere.
    pub const fn anonymous(len: usize, prot: Prot) -> Self {
        Self {
            addr: None,
            len,
            below: None,
            prot,
            max_prot: Prot::RWX,
            flags: MapFlags::empty(),
            backing: Backing::Anonymous,
        }
    }

    /// Makes a request for a private mapping of an object anywhere.
    pub const fn private(
        object: &'a ObjectRef<'m, P>,
        offset: u64,
        len: usize,
        prot: Prot,
    ) -> Self {
        let backing = Backing::Object { object, offset };
        Self {
            addr: None,
            len,
            below: None,
            prot,
            max_prot: Prot::RWX,
            flags: MapFlags::empty(),
            backing,
        }
    }

    /// Makes a request for a shared mapping of an object anywhere.
    pub const fn shared(object: &'a ObjectRef<'m, P>, offset: u64, len: usize, prot: Prot) -> Self {
        let backing = Backing::Object { object, offset };
        Self {
            addr: None,
            len,
            below: None,
            prot,
            max_prot: Prot::RWX,
            flags: MapFlags::SHARED,
            backing,
        }
    }

    /// Asks for exactly this address; what is there goes.
    #[must_use]
    pub const fn fixed(mut self, addr: VirtAddr) -> Self {
        self.addr = Some(addr);
        self.flags = self.flags.union(MapFlags::FIXED);
        self
    }

    /// Asks for this address if it is free.
    #[must_use]
    pub const fn hint(mut self, addr: VirtAddr) -> Self {
        self.addr = Some(addr);
        self
    }

    /// Asks for a place that ends at this address or before.
    #[must_use]
    pub const fn below(mut self, end: VirtAddr) -> Self {
        self.below = Some(end);
        self
    }

    /// Adds flags.
    #[must_use]
    pub const fn with(mut self, flags: MapFlags) -> Self {
        self.flags = self.flags.union(flags);
        self
    }

    /// Limits the rights that the mapping may ever get.
    #[must_use]
    pub const fn max_prot(mut self, max: Prot) -> Self {
        self.max_prot = max;
        self
    }
}
