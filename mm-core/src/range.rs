//! Ranges of pages.
//!
//! A range is two page numbers, the end exclusive. The last page of the
//! address space is representable (its end is one page number more, which
//! always fits), also on 32-bit machines where the byte address 2^32 does not
//! exist. A byte range from a user is turned into pages in one place,
//! [`PageRange::from_bytes`], and that is where it can wrap or be unaligned.

use crate::addr::{VirtAddr, Vpn, page_mask};
use core::fmt;

/// A half-open range of virtual pages, `start <= end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PageRange {
    start: Vpn,
    end: Vpn,
}

/// Why bytes did not make a page range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// The address is not the first byte of a page.
    Unaligned(VirtAddr),
    /// The length is zero.
    Empty,
    /// The end lies past the last address.
    Wraps(VirtAddr),
}

impl PageRange {
    /// Makes a range; an end below the start makes it empty at `start`.
    pub const fn new(start: Vpn, end: Vpn) -> Self {
        if end.as_usize() < start.as_usize() {
            Self { start, end: start }
        } else {
            Self { start, end }
        }
    }

    /// Makes a range of `pages` pages from `start`, or `None` where it wraps.
    pub const fn with_len(start: Vpn, pages: usize) -> Option<Self> {
        match start.checked_add(pages) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Turns bytes into pages: the address must be aligned, the length is
    /// rounded up to whole pages.
    ///
    /// # Errors
    /// [`RangeError`] with the address; a zero length is `Empty`.
    pub const fn from_bytes(
        addr: VirtAddr,
        len: usize,
        page_shift: u32,
    ) -> Result<Self, RangeError> {
        if !addr.is_page_aligned(page_shift) {
            return Err(RangeError::Unaligned(addr));
        }
        if len == 0 {
            return Err(RangeError::Empty);
        }
        // The last byte, inclusive, so that a range may end at the last address.
        let Some(last) = addr.as_usize().checked_add(len.saturating_sub(1)) else {
            return Err(RangeError::Wraps(addr));
        };
        let start = addr.vpn(page_shift);
        let last = VirtAddr::new(last | page_mask(page_shift)).vpn(page_shift);
        Ok(Self {
            start,
            end: last.saturating_add(1),
        })
    }

    /// Returns the first page.
    pub const fn start(self) -> Vpn {
        self.start
    }

    /// Returns the page after the last.
    pub const fn end(self) -> Vpn {
        self.end
    }

    /// Returns the number of pages.
    pub const fn pages(self) -> usize {
        self.end.pages_since(self.start)
    }

    /// Returns whether no page is in the range.
    pub const fn is_empty(self) -> bool {
        self.start.as_usize() >= self.end.as_usize()
    }

    /// Returns whether the page is in the range.
    pub const fn contains(self, page: Vpn) -> bool {
        self.start.as_usize() <= page.as_usize() && page.as_usize() < self.end.as_usize()
    }

    /// Returns whether every page of `other` is in the range.
    pub const fn covers(self, other: Self) -> bool {
        self.start.as_usize() <= other.start.as_usize()
            && other.end.as_usize() <= self.end.as_usize()
    }

    /// Returns whether the ranges share a page.
    pub const fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }

    /// Returns the pages in both ranges; empty where they do not meet.
    pub const fn intersect(self, other: Self) -> Self {
        let start = if self.start.as_usize() > other.start.as_usize() {
            self.start
        } else {
            other.start
        };
        let end = if self.end.as_usize() < other.end.as_usize() {
            self.end
        } else {
            other.end
        };
        Self::new(start, end)
    }

    /// Returns the range without its pages below `page`.
    pub const fn from(self, page: Vpn) -> Self {
        self.intersect(Self {
            start: page,
            end: Vpn::new(usize::MAX),
        })
    }

    /// Walks the pages in ascending order.
    pub fn iter(self) -> impl Iterator<Item = Vpn> {
        (self.start.as_usize()..self.end.as_usize()).map(Vpn::new)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[{:#x},{:#x})",
            self.start.as_usize(),
            self.end.as_usize()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b2_last_page_of_the_address_space_is_representable() {
        let top = VirtAddr::new(usize::MAX & !0xfff);
        let r = PageRange::from_bytes(top, 0x1000, 12).unwrap();
        assert_eq!(r.pages(), 1);
        assert_eq!(r.end().as_usize(), (usize::MAX >> 12) + 1);
        assert_eq!(
            PageRange::from_bytes(top, 0x1001, 12),
            Err(RangeError::Wraps(top))
        );
    }

    #[test]
    fn b1_bytes_become_pages_without_wrapping() {
        let a = VirtAddr::new(0x1000);
        assert_eq!(PageRange::from_bytes(a, 0, 12), Err(RangeError::Empty));
        assert_eq!(
            PageRange::from_bytes(a, usize::MAX, 12),
            Err(RangeError::Wraps(a))
        );
        let b = VirtAddr::new(0x1001);
        assert_eq!(
            PageRange::from_bytes(b, 1, 12),
            Err(RangeError::Unaligned(b))
        );
        assert_eq!(PageRange::from_bytes(a, 1, 12).unwrap().pages(), 1);
        assert_eq!(PageRange::from_bytes(a, 0x1001, 12).unwrap().pages(), 2);
    }

    #[test]
    fn ranges_meet_only_where_they_share_a_page() {
        let r = |a, b| PageRange::new(Vpn::new(a), Vpn::new(b));
        assert!(!r(1, 3).overlaps(r(3, 5)));
        assert!(r(1, 4).overlaps(r(3, 5)));
        assert_eq!(r(1, 4).intersect(r(3, 9)), r(3, 4));
        assert!(r(1, 4).covers(r(1, 4)) && !r(1, 4).covers(r(0, 2)));
        assert_eq!(r(5, 3), r(5, 5));
    }
}
