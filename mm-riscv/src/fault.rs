//! Why a hart trapped: `scause`.
//!
//! ```text
//!  31 / 63     ...0
//!  interrupt   code
//! ```
//!
//! A page fault does not say whether an entry was there: the tables do. Nor
//! does it say who was trapped: `sstatus.SPP` does. `stval` holds the address;
//! of an instruction that crosses a page, the address of the part that faulted.
//!
//! Source: Privileged Architecture 20240411, 10.1.8, table 22.

use mm_core::prot::Access;

/// The top bit of `scause`.
const INTERRUPT: usize = 1 << (usize::BITS - 1);

/// A trap's cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Something outside of the instruction.
    Interrupt(Interrupt),
    /// The instruction.
    Exception(Exception),
}

/// An interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// Sent by another hart.
    Software,
    /// The timer.
    Timer,
    /// A device, through the interrupt controller.
    External,
    /// A performance counter overflowed.
    CounterOverflow,
    /// A code that is not known here.
    Other(usize),
}

/// An exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exception {
    /// No translation allows it.
    PageFault(Access),
    /// The physical address does not allow it.
    AccessFault(Access),
    /// The address is not aligned.
    Misaligned(Access),
    /// No such instruction, or not in this mode.
    IllegalInstruction,
    /// EBREAK, or a trigger.
    Breakpoint,
    /// ECALL from user mode.
    UserCall,
    /// ECALL from supervisor mode: firmware takes it, a kernel never sees it.
    SupervisorCall,
    /// A shadow stack or a landing pad was violated.
    SoftwareCheck,
    /// Memory is broken.
    HardwareError,
    /// A code that is not known here.
    Other(usize),
}

impl Cause {
    /// Decodes a value of `scause`.
    pub const fn from_scause(scause: usize) -> Self {
        let code = scause & !INTERRUPT;
        if scause & INTERRUPT != 0 {
            return Self::Interrupt(match code {
                1 => Interrupt::Software,
                5 => Interrupt::Timer,
                9 => Interrupt::External,
                13 => Interrupt::CounterOverflow,
                other => Interrupt::Other(other),
            });
        }
        Self::Exception(match code {
            0 => Exception::Misaligned(Access::Exec),
            1 => Exception::AccessFault(Access::Exec),
            2 => Exception::IllegalInstruction,
            3 => Exception::Breakpoint,
            4 => Exception::Misaligned(Access::Read),
            5 => Exception::AccessFault(Access::Read),
            6 => Exception::Misaligned(Access::Write),
            7 => Exception::AccessFault(Access::Write),
            8 => Exception::UserCall,
            9 => Exception::SupervisorCall,
            12 => Exception::PageFault(Access::Exec),
            13 => Exception::PageFault(Access::Read),
            15 => Exception::PageFault(Access::Write),
            18 => Exception::SoftwareCheck,
            19 => Exception::HardwareError,
            other => Exception::Other(other),
        })
    }

    /// Returns what a page fault's instruction tried to do; `None` for every
    /// other cause. Atomic memory operations are stores.
    pub const fn page_fault(self) -> Option<Access> {
        match self {
            Self::Exception(Exception::PageFault(access)) => Some(access),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_decode_as_the_table_says() {
        for (code, access) in [(12, Access::Exec), (13, Access::Read), (15, Access::Write)] {
            assert_eq!(Cause::from_scause(code).page_fault(), Some(access));
            assert_eq!(Cause::from_scause(code | INTERRUPT).page_fault(), None);
        }
        for (code, exception) in [
            (0, Exception::Misaligned(Access::Exec)),
            (1, Exception::AccessFault(Access::Exec)),
            (2, Exception::IllegalInstruction),
            (3, Exception::Breakpoint),
            (4, Exception::Misaligned(Access::Read)),
            (5, Exception::AccessFault(Access::Read)),
            (6, Exception::Misaligned(Access::Write)),
            (7, Exception::AccessFault(Access::Write)),
            (8, Exception::UserCall),
            (9, Exception::SupervisorCall),
            (10, Exception::Other(10)),
            (14, Exception::Other(14)),
            (18, Exception::SoftwareCheck),
            (19, Exception::HardwareError),
            (23, Exception::Other(23)),
        ] {
            assert_eq!(Cause::from_scause(code), Cause::Exception(exception));
        }
        for (code, interrupt) in [
            (1, Interrupt::Software),
            (5, Interrupt::Timer),
            (9, Interrupt::External),
            (13, Interrupt::CounterOverflow),
            (2, Interrupt::Other(2)),
        ] {
            let cause = Cause::from_scause(code | INTERRUPT);
            assert_eq!(cause, Cause::Interrupt(interrupt));
        }
    }
}
