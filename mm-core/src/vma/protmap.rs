//! From the rights of an area to the rights of a page-table entry.
//!
//! ```text
//! area            entry, as installed by a read fault or by protect
//! private  r--    r--
//! private  rw-    r--   until a write fault made the page its own (COW)
//! shared   rw-    r--   where the object tracks dirtiness by write faults
//! shared   rw-    rw-   else
//! any      -w-    rw-   no architecture has stores without loads
//! any      --x    --x or r-x, by what the format can say
//! any      ---    PROT_NONE entry
//! ```
//!
//! What hardware cannot express is widened, and a fault still asks the area
//! ([`VmaFlags::allows`]): so a load from a write-only area succeeds once the
//! page is there, as on Linux (mmap(2), "PROT_WRITE may imply PROT_READ").

use super::VmaFlags;
use crate::prot::Prot;

/// How the object behind a shared area learns that its pages are written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyTracking {
    /// Nobody asks: shared anonymous memory, devices.
    None,
    /// By a fault on the first store to each clean page.
    ByFault,
}

impl VmaFlags {
    /// Returns the rights with which a page of the area is entered when it is
    /// not known to belong to the area alone, or not yet dirty.
    ///
    /// A private page starts without WRITE: the first store faults, and the
    /// fault decides between reuse and copy.
    pub const fn page_prot(self, tracking: DirtyTracking) -> Prot {
        let hw = widen(self.prot());
        let late = match tracking {
            DirtyTracking::None => !self.contains(Self::SHARED),
            DirtyTracking::ByFault => true,
        };
        if late { hw.difference(Prot::WRITE) } else { hw }
    }

    /// Returns the rights of a page of the area that may be written to at
    /// once: exclusive and private, or shared and dirty already.
    pub const fn writable_page_prot(self) -> Prot {
        widen(self.prot())
    }
}

const fn widen(prot: Prot) -> Prot {
    if prot.contains(Prot::WRITE) {
        prot.union(Prot::READ)
    } else {
        prot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: VmaFlags = VmaFlags::READ;
    const W: VmaFlags = VmaFlags::WRITE;
    const X: VmaFlags = VmaFlags::EXEC;
    const S: VmaFlags = VmaFlags::SHARED;

    #[test]
    fn e1_a_private_page_is_never_entered_writable_by_default() {
        for bits in 0..8 {
            let flags = VmaFlags::from_bits_truncate(bits);
            assert!(!flags.page_prot(DirtyTracking::None).contains(Prot::WRITE));
        }
    }

    #[test]
    fn the_table_of_rights() {
        let none = DirtyTracking::None;
        let fault = DirtyTracking::ByFault;
        for (flags, tracking, want) in [
            (R, none, Prot::READ),
            (R | W, none, Prot::READ),
            (W, none, Prot::READ),
            (R | X, none, Prot::RX),
            (R | W | X, none, Prot::RX),
            (X, none, Prot::EXEC),
            (R | W | S, none, Prot::RW),
            (R | W | S, fault, Prot::READ),
            (W | S, none, Prot::RW),
            (S, none, Prot::NONE),
            (VmaFlags::empty(), none, Prot::NONE),
        ] {
            assert_eq!(flags.page_prot(tracking), want, "{flags:?} {tracking:?}");
        }
        assert_eq!((R | W).writable_page_prot(), Prot::RW);
        assert_eq!(R.writable_page_prot(), Prot::READ);
    }
}
