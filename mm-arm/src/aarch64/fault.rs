//! The syndrome of an exception: ESR_EL1 (DDI 0487, D17.2.37).
//!
//! ```text
//!  31....26 25  24....................11 10  9  8  7    6   5....0
//!     EC    IL                           FnV EA CM S1PTW WnR  xFSC     aborts
//! ```

use mm_core::prot::Access;

const CLASS_SHIFT: u32 = 26;
const STATUS: u64 = 0x3f;
const WRITE: u64 = 1 << 6;
const CACHE_MAINTENANCE: u64 = 1 << 8;
const ADDRESS_NOT_VALID: u64 = 1 << 10;

/// The value of ESR_EL1 when an exception was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syndrome(u64);

/// What kind of exception it was: the classes that a kernel on EL1 tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// An undefined instruction, or one whose use is trapped.
    Undefined,
    /// A trapped FP or SIMD instruction (CPACR_EL1.FPEN).
    FpAccess,
    /// SVC from AArch64: a system call.
    Svc,
    /// A trapped system register or cache instruction of EL0.
    SystemRegister,
    /// An instruction abort.
    InstructionAbort,
    /// PC was not aligned.
    PcAlignment,
    /// A data abort.
    DataAbort,
    /// SP was not aligned.
    SpAlignment,
    /// A floating-point exception that is trapped.
    FpException,
    /// An SError.
    SError,
    /// A breakpoint, watchpoint or step.
    Debug,
    /// BRK.
    Brk,
    /// Something else.
    Other,
}

/// Why an abort was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// No valid entry: level of the manual (0 nearest the root).
    Translation(u8),
    /// AF was clear and hardware does not set it.
    AccessFlag(u8),
    /// The rights of the entry forbid it.
    Permission(u8),
    /// An entry or TTBR names an address out of range: the tables are corrupt.
    AddressSize(u8),
    /// The memory system answered with an error, or its parity was wrong.
    External,
    /// The address was not aligned.
    Alignment,
    /// Two TLB entries for one address: break-before-make was violated.
    TlbConflict,
    /// An atomic update of an entry is not supported by its memory.
    AtomicUpdate,
    /// Something else.
    Other(u8),
}

impl Cause {
    /// Returns whether resolving a page fault may help: mm-core is to be asked.
    pub const fn is_page_fault(self) -> bool {
        matches!(
            self,
            Self::Translation(_) | Self::AccessFlag(_) | Self::Permission(_)
        )
    }

    /// Returns whether tables are corrupt: never a user's fault.
    pub const fn is_corruption(self) -> bool {
        matches!(
            self,
            Self::AddressSize(_) | Self::TlbConflict | Self::AtomicUpdate
        )
    }
}

impl Syndrome {
    /// Takes a value of ESR_EL1.
    pub const fn new(esr: u64) -> Self {
        Self(esr)
    }

    /// Returns the value.
    pub const fn bits(self) -> u64 {
        self.0
    }

    const fn exception_class(self) -> u64 {
        (self.0 >> CLASS_SHIFT) & 0x3f
    }

    /// Returns the class of the exception.
    pub const fn class(self) -> Class {
        match self.exception_class() {
            0x00 | 0x0e | 0x1a => Class::Undefined,
            0x07 | 0x19 | 0x1d => Class::FpAccess,
            0x15 => Class::Svc,
            0x18 => Class::SystemRegister,
            0x20 | 0x21 => Class::InstructionAbort,
            0x22 => Class::PcAlignment,
            0x24 | 0x25 => Class::DataAbort,
            0x26 => Class::SpAlignment,
            0x2c => Class::FpException,
            0x2f => Class::SError,
            0x30..=0x35 => Class::Debug,
            0x3c => Class::Brk,
            _ => Class::Other,
        }
    }

    /// Returns whether an abort came from EL0.
    pub const fn is_user(self) -> bool {
        matches!(self.exception_class(), 0x20 | 0x24)
    }

    /// Returns what an abort's instruction tried to do. Cache maintenance
    /// needs to read, although it is reported as a write (Linux likewise).
    pub const fn access(self) -> Access {
        if matches!(self.class(), Class::InstructionAbort) {
            Access::Exec
        } else if self.0 & (WRITE | CACHE_MAINTENANCE) == WRITE {
            Access::Write
        } else {
            Access::Read
        }
    }

    /// Returns whether FAR_EL1 holds the address of an abort.
    pub const fn has_address(self) -> bool {
        self.0 & ADDRESS_NOT_VALID == 0
    }

    /// Returns why an abort was taken.
    pub const fn cause(self) -> Cause {
        let status = (self.0 & STATUS) as u8;
        let level = status & 3;
        match status {
            0x00..=0x03 => Cause::AddressSize(level),
            0x04..=0x07 => Cause::Translation(level),
            0x08..=0x0b => Cause::AccessFlag(level),
            0x0c..=0x0f => Cause::Permission(level),
            // On the access, on a walk; parity or ECC of either.
            0x10 | 0x13..=0x17 | 0x18 | 0x1b..=0x1f => Cause::External,
            0x21 => Cause::Alignment,
            0x30 => Cause::TlbConflict,
            0x31 => Cause::AtomicUpdate,
            _ => Cause::Other(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syndromes_decode_as_the_manual_says() {
        // A user load of an address without a page: EC 0x24, IL, translation
        // fault at the manual's level 3.
        let load = Syndrome::new(0x9200_0007);
        assert_eq!(load.class(), Class::DataAbort);
        assert_eq!((load.is_user(), load.access()), (true, Access::Read));
        assert_eq!(load.cause(), Cause::Translation(3));
        assert!(load.cause().is_page_fault());
        // The kernel stores to address 0, as in many a Linux oops: 0x96000045.
        let store = Syndrome::new(0x9600_0045);
        assert_eq!((store.is_user(), store.access()), (false, Access::Write));
        assert_eq!(store.cause(), Cause::Translation(1));
        // A user store to a write-protected page: 0x9200004f.
        let cow = Syndrome::new(0x9200_004f);
        assert_eq!(
            (cow.access(), cow.cause()),
            (Access::Write, Cause::Permission(3))
        );
        // A user fetch from a page without execution: 0x8200000f.
        let fetch = Syndrome::new(0x8200_000f);
        assert_eq!(fetch.class(), Class::InstructionAbort);
        assert_eq!((fetch.is_user(), fetch.access()), (true, Access::Exec));
        assert_eq!(fetch.cause(), Cause::Permission(3));
        // The kernel executes a user's page: 0x8600000f.
        let fetch = Syndrome::new(0x8600_000f);
        assert_eq!(
            (fetch.class(), fetch.is_user()),
            (Class::InstructionAbort, false)
        );
        // DC CIVAC of a user: WnR and CM.
        assert_eq!(Syndrome::new(0x9200_0147).access(), Access::Read);
        assert_eq!(Syndrome::new(0x9200_004b).cause(), Cause::AccessFlag(3));
    }

    #[test]
    fn what_is_no_page_fault_is_told_apart() {
        assert_eq!(Syndrome::new(0x5600_0000).class(), Class::Svc);
        assert_eq!(Syndrome::new(0x0200_0000).class(), Class::Undefined);
        assert_eq!(Syndrome::new(0x1fe0_0000).class(), Class::FpAccess);
        assert_eq!(Syndrome::new(0xf200_0001).class(), Class::Brk);
        assert_eq!(Syndrome::new(0xbf00_0000).class(), Class::SError);
        assert_eq!(Syndrome::new(0x8a00_0000).class(), Class::PcAlignment);
        let causes = [0x00, 0x10, 0x17, 0x18, 0x21, 0x30, 0x31, 0x11];
        assert_eq!(
            causes.map(|status| Syndrome::new(0x9200_0000 | status).cause()),
            [
                Cause::AddressSize(0),
                Cause::External,
                Cause::External,
                Cause::External,
                Cause::Alignment,
                Cause::TlbConflict,
                Cause::AtomicUpdate,
                Cause::Other(0x11),
            ]
        );
        assert!(Cause::AddressSize(0).is_corruption() && Cause::TlbConflict.is_corruption());
        assert!(!Cause::Alignment.is_page_fault() && !Cause::External.is_corruption());
        assert!(!Syndrome::new(0x9200_0410).has_address());
    }
}
