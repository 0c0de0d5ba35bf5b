//! Byte addresses and page numbers.
//!
//! A byte address and a page number are different types, and so are virtual
//! and physical: mixing them up does not compile. Ranges are kept in page
//! numbers ([`crate::range`]), because the exclusive end of the last page of
//! an address space has a page number but, at 2^32 or 2^64, no byte address.
//!
//! Virtual addresses are as wide as the machine's registers; physical ones
//! are 64 bits wide everywhere, because LPAE, PAE and Sv32 exceed 32 bits.
//! The page size belongs to the page-table format, so conversions take its
//! shift ([`page_shift`](crate::format::PageTableFormat::page_shift)).

use core::fmt;

/// A virtual byte address.
///
/// It proves nothing: neither that it is canonical nor that it is mapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VirtAddr(usize);

/// A physical byte address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(u64);

/// A virtual page number: the name of a page of an address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Vpn(usize);

/// A page frame number: the name of a physical frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Pfn(u64);

impl VirtAddr {
    /// Makes an address of a number.
    pub const fn new(addr: usize) -> Self {
        Self(addr)
    }

    /// Returns the address as a number.
    pub const fn as_usize(self) -> usize {
        self.0
    }

    /// Returns the number of the page that holds this address.
    pub const fn vpn(self, page_shift: u32) -> Vpn {
        Vpn(match self.0.checked_shr(page_shift) {
            Some(n) => n,
            None => 0,
        })
    }

    /// Returns the offset within the page, in bytes.
    pub const fn page_offset(self, page_shift: u32) -> usize {
        self.0 & page_mask(page_shift)
    }

    /// Returns whether the address is the first byte of a page.
    pub const fn is_page_aligned(self, page_shift: u32) -> bool {
        self.page_offset(page_shift) == 0
    }

    /// Adds bytes, or returns `None` past the last address.
    pub const fn checked_add(self, bytes: usize) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(a) => Some(Self(a)),
            None => None,
        }
    }

    /// Subtracts bytes, or returns `None` below address zero.
    pub const fn checked_sub(self, bytes: usize) -> Option<Self> {
        match self.0.checked_sub(bytes) {
            Some(a) => Some(Self(a)),
            None => None,
        }
    }
}

impl PhysAddr {
    /// Makes an address of a number.
    pub const fn new(addr: u64) -> Self {
        Self(addr)
    }

    /// Returns the address as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the number of the frame that holds this address.
    pub const fn pfn(self, page_shift: u32) -> Pfn {
        Pfn(match self.0.checked_shr(page_shift) {
            Some(n) => n,
            None => 0,
        })
    }
}

impl Vpn {
    /// Makes a page number.
    pub const fn new(n: usize) -> Self {
        Self(n)
    }

    /// Returns the page number as a number.
    pub const fn as_usize(self) -> usize {
        self.0
    }

    /// Returns the first byte of the page. The page one past the end of the
    /// address space has none: its address wraps to zero.
    pub const fn addr(self, page_shift: u32) -> VirtAddr {
        VirtAddr(match self.0.checked_shl(page_shift) {
            Some(a) => a,
            None => 0,
        })
    }

    /// Adds pages, or returns `None` where the number does not fit.
    pub const fn checked_add(self, pages: usize) -> Option<Self> {
        match self.0.checked_add(pages) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// Subtracts pages, or returns `None` below page zero.
    pub const fn checked_sub(self, pages: usize) -> Option<Self> {
        match self.0.checked_sub(pages) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// Adds pages, stopping at the largest number.
    pub const fn saturating_add(self, pages: usize) -> Self {
        Self(self.0.saturating_add(pages))
    }

    /// Subtracts pages, stopping at zero.
    pub const fn saturating_sub(self, pages: usize) -> Self {
        Self(self.0.saturating_sub(pages))
    }

    /// Returns how many pages `self` lies above `low`, zero when below.
    pub const fn pages_since(self, low: Self) -> usize {
        self.0.saturating_sub(low.0)
    }
}

impl Pfn {
    /// Makes a frame number.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// Returns the frame number as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the frame number as an index; frames of RAM always fit.
    #[expect(clippy::cast_possible_truncation, reason = "RAM frames fit in usize")]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Returns the first byte of the frame.
    pub const fn addr(self, page_shift: u32) -> PhysAddr {
        PhysAddr(match self.0.checked_shl(page_shift) {
            Some(a) => a,
            None => 0,
        })
    }

    /// Adds frames, or returns `None` where the number does not fit.
    pub const fn checked_add(self, frames: u64) -> Option<Self> {
        match self.0.checked_add(frames) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// Adds frames, stopping at the largest number.
    pub const fn saturating_add(self, frames: u64) -> Self {
        Self(self.0.saturating_add(frames))
    }
}

/// Returns the mask of the offset bits within a page.
pub const fn page_mask(page_shift: u32) -> usize {
    page_size(page_shift).wrapping_sub(1)
}

/// Returns the size of a page in bytes.
pub const fn page_size(page_shift: u32) -> usize {
    match 1usize.checked_shl(page_shift) {
        Some(n) => n,
        None => 0,
    }
}

macro_rules! hex {
    ($($t:ident: $name:literal),*) => {$(
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($name, "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::LowerHex for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    )*};
}
hex!(VirtAddr: "Va", PhysAddr: "Pa", Vpn: "Vpn", Pfn: "Pfn");
