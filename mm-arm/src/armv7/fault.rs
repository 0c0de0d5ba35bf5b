//! Data aborts and prefetch aborts.
//!
//! DFSR with DFAR, or IFSR with IFAR, say what happened. The code stands in
//! another place where long descriptors are on (DDI 0406C B3.13):
//!
//! ```text
//!          31..14 13 12  11  10 9     8  7..4   3..0
//!  short   *      CM ExT WnR FS 0     *  domain FS       five bits: 10, 3..0
//!  long    *      CM ExT WnR *  1=LPAE *  5..0: STATUS
//! ```
//! CM (a cache-maintenance operation faulted) and WnR are in DFSR only.

use mm_core::prot::Access;

const LPAE: u32 = 1 << 9;
const WNR: u32 = 1 << 11;
const CACHE_MAINTENANCE: u32 = 1 << 13;

/// A data abort or a prefetch abort, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// Why.
    pub cause: Cause,
    /// What was tried.
    pub access: Access,
}

/// Why an access was aborted. Levels are the hardware's: 1 is the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The word of this level says that nothing is there.
    Translation(u8),
    /// The word of this level has its access flag clear (SCTLR.AFE).
    AccessFlag(u8),
    /// The domain of the word of this level gives no access (DACR).
    Domain(u8),
    /// The word of this level does not allow it.
    Permission(u8),
    /// The address is not aligned as the instruction or the memory demands.
    Alignment,
    /// Memory or a bus answered with an error.
    External,
    /// Memory or a bus answered with an error to the walk of this level.
    ExternalOnWalk(u8),
    /// A parity or ECC error.
    Parity,
    /// An error of an earlier access, reported late: the fault address is of
    /// no use.
    AsyncExternal,
    /// A breakpoint or watchpoint.
    Debug,
    /// The TLB holds two translations of the address: break-before-make was
    /// not kept.
    TlbConflict,
    /// An operation on the instruction cache faulted; IFSR says why.
    InstructionCache,
    /// A code that the manual reserves or leaves to the CPU's maker.
    Unknown(u8),
}

impl Abort {
    /// Decodes DFSR.
    pub const fn data(dfsr: u32) -> Self {
        // A cache operation that faults says "write", whatever it wanted: it
        // needs no right to write (B4.1, DFSR). Clean and invalidate by address
        // read.
        let write = dfsr & WNR != 0 && dfsr & CACHE_MAINTENANCE == 0;
        Self {
            cause: cause(dfsr),
            access: if write { Access::Write } else { Access::Read },
        }
    }

    /// Decodes IFSR.
    pub const fn prefetch(ifsr: u32) -> Self {
        Self {
            cause: cause(ifsr),
            access: Access::Exec,
        }
    }

    /// Returns whether it is a page fault: one for the address space to
    /// resolve or to refuse.
    pub const fn is_page_fault(self) -> bool {
        matches!(
            self.cause,
            Cause::Translation(_) | Cause::AccessFlag(_) | Cause::Permission(_)
        )
    }

    /// Returns whether page tables or the rules of their upkeep are broken:
    /// never a user's fault.
    pub const fn is_corruption(self) -> bool {
        matches!(
            self.cause,
            Cause::TlbConflict | Cause::Domain(_) | Cause::ExternalOnWalk(_)
        )
    }
}

const fn cause(fsr: u32) -> Cause {
    if fsr & LPAE != 0 {
        long(fsr & 0x3f)
    } else {
        short(fsr & 0xf | (fsr >> 10 & 1) << 4)
    }
}

/// Table B3-23.
const fn short(fs: u32) -> Cause {
    match fs {
        0b00001 => Cause::Alignment,
        0b00010 => Cause::Debug,
        0b00011 => Cause::AccessFlag(1),
        0b00100 => Cause::InstructionCache,
        0b00101 => Cause::Translation(1),
        0b00110 => Cause::AccessFlag(2),
        0b00111 => Cause::Translation(2),
        0b01000 => Cause::External,
        0b01001 => Cause::Domain(1),
        0b01011 => Cause::Domain(2),
        0b01100 => Cause::ExternalOnWalk(1),
        0b01101 => Cause::Permission(1),
        0b01110 => Cause::ExternalOnWalk(2),
        0b01111 => Cause::Permission(2),
        0b10000 => Cause::TlbConflict,
        0b10110 => Cause::AsyncExternal,
        0b11000 | 0b11001 => Cause::Parity,
        0b11100 => Cause::ExternalOnWalk(1),
        0b11110 => Cause::ExternalOnWalk(2),
        #[expect(clippy::cast_possible_truncation, reason = "five bits")]
        other => Cause::Unknown(other as u8),
    }
}

/// Table B3-24.
const fn long(status: u32) -> Cause {
    let level = (status & 3) as u8;
    match status {
        0b00_0101..=0b00_0111 => Cause::Translation(level),
        0b00_1001..=0b00_1011 => Cause::AccessFlag(level),
        0b00_1101..=0b00_1111 => Cause::Permission(level),
        0b01_0000 => Cause::External,
        0b01_0001 => Cause::AsyncExternal,
        0b01_0101..=0b01_0111 => Cause::ExternalOnWalk(level),
        0b01_1000 | 0b01_1001 => Cause::Parity,
        0b01_1101..=0b01_1111 => Cause::ExternalOnWalk(level),
        0b10_0001 => Cause::Alignment,
        0b10_0010 => Cause::Debug,
        0b11_0000 => Cause::TlbConflict,
        #[expect(clippy::cast_possible_truncation, reason = "six bits")]
        other => Cause::Unknown(other as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Among them what Linux prints: "Oops: 5" and "Oops: 805" for loads and
    /// stores at addresses without a table, "page domain fault (0x01b)".
    #[test]
    fn short_codes_decode_as_the_manual_says() {
        let data = |dfsr, cause, access| assert_eq!(Abort::data(dfsr), Abort { cause, access });
        data(0x005, Cause::Translation(1), Access::Read);
        data(0x805, Cause::Translation(1), Access::Write);
        data(0x007, Cause::Translation(2), Access::Read);
        data(0x817, Cause::Translation(2), Access::Write);
        data(0x80f, Cause::Permission(2), Access::Write);
        data(0x00d, Cause::Permission(1), Access::Read);
        data(0x003, Cause::AccessFlag(1), Access::Read);
        data(0x006, Cause::AccessFlag(2), Access::Read);
        data(0x009, Cause::Domain(1), Access::Read);
        data(0x01b, Cause::Domain(2), Access::Read);
        data(0x001, Cause::Alignment, Access::Read);
        data(0x801, Cause::Alignment, Access::Write);
        data(0x008, Cause::External, Access::Read);
        data(0x1008, Cause::External, Access::Read);
        data(0x00c, Cause::ExternalOnWalk(1), Access::Read);
        data(0x40e, Cause::ExternalOnWalk(2), Access::Read);
        data(0x406, Cause::AsyncExternal, Access::Read);
        data(0x400, Cause::TlbConflict, Access::Read);
        data(0x409, Cause::Parity, Access::Read);
        data(0x402, Cause::Unknown(0x12), Access::Read);
        data(0x000, Cause::Unknown(0), Access::Read);
        // A cache operation on a page that is not there wants to read it.
        data(0x2807, Cause::Translation(2), Access::Read);
    }

    #[test]
    fn long_codes_decode_as_the_manual_says() {
        let data = |dfsr, cause| assert_eq!(Abort::data(dfsr).cause, cause);
        data(0x205, Cause::Translation(1));
        data(0x206, Cause::Translation(2));
        data(0xa07, Cause::Translation(3));
        data(0x20b, Cause::AccessFlag(3));
        data(0xa0f, Cause::Permission(3));
        data(0x210, Cause::External);
        data(0x211, Cause::AsyncExternal);
        data(0x216, Cause::ExternalOnWalk(2));
        data(0x21e, Cause::ExternalOnWalk(2));
        data(0x218, Cause::Parity);
        data(0x221, Cause::Alignment);
        data(0x222, Cause::Debug);
        data(0x230, Cause::TlbConflict);
        data(0x234, Cause::Unknown(0x34));
        assert_eq!(Abort::data(0xa0f).access, Access::Write);
        // The same number means another thing in the other form.
        assert_eq!(Abort::data(0x005).cause, Cause::Translation(1));
        assert_eq!(Abort::data(0x007).cause, Cause::Translation(2));
    }

    #[test]
    fn a_prefetch_abort_is_a_fetch() {
        let abort = Abort::prefetch(0x007);
        assert_eq!(abort.access, Access::Exec);
        assert_eq!(abort.cause, Cause::Translation(2));
        assert!(abort.is_page_fault());
        // Bit 11 of IFSR is reserved.
        assert_eq!(Abort::prefetch(0x80f).access, Access::Exec);
    }

    #[test]
    fn only_page_faults_are_for_the_address_space() {
        for code in [0x003, 0x005, 0x006, 0x007, 0x00d, 0x00f, 0x80f] {
            assert!(Abort::data(code).is_page_fault(), "{code:#x}");
        }
        for code in [0x001, 0x002, 0x008, 0x009, 0x00b, 0x00c, 0x400, 0x406] {
            assert!(!Abort::data(code).is_page_fault(), "{code:#x}");
        }
        assert!(Abort::data(0x400).is_corruption() && Abort::data(0x00b).is_corruption());
        assert!(!Abort::data(0x805).is_corruption() && !Abort::data(0x001).is_corruption());
    }
}
