//! What a fault is, and what became of it.

use crate::addr::VirtAddr;
use crate::object::Ticket;
use crate::platform::Platform;
use crate::prot::Access;
use core::fmt;

/// A page fault, as the architecture's trap handler reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address that was accessed.
    pub addr: VirtAddr,
    /// What was tried.
    pub access: Access,
    /// Who tried.
    pub mode: Mode,
}

/// The privilege of the faulting access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A user instruction.
    User,
    /// The kernel, on behalf of a user (a user copy) or by mistake.
    Kernel,
}

/// What became of a fault.
#[must_use = "a fault that waits or signals needs the kernel"]
pub enum FaultOutcome<'m, P: Platform> {
    /// The access will succeed when repeated.
    Resolved(Resolution),
    /// The page must be read first: do or await the transfer, then repeat the
    /// access.
    Wait(Ticket<'m, P>),
    /// The access is an error of the program.
    Signal(Signal),
    /// No memory: reclaim, kill somebody, or both; then repeat the access.
    OutOfMemory,
    /// The store of the object that is mapped there holds all that it may
    /// ([`Platform::try_hold`]): SIGBUS, `BUS_ADRERR`. Freeing memory does not help.
    NoSpace,
    /// A kernel-mode access outside user space: nothing this crate maps.
    KernelBug,
}

/// How a fault was resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// Without I/O.
    Minor,
    /// The page had been read from its pager for this access.
    Major,
}

/// The signal that Linux would send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGSEGV, `SEGV_MAPERR`: no area is there.
    SegvMapErr(VirtAddr),
    /// SIGSEGV, `SEGV_ACCERR`: the area does not allow the access.
    SegvAccErr(VirtAddr),
    /// SIGBUS, `BUS_ADRERR`: past the end of the file, or the read failed.
    BusAdrErr(VirtAddr),
}

impl<P: Platform> fmt::Debug for FaultOutcome<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolved(how) => write!(f, "Resolved({how:?})"),
            Self::Wait(_) => f.write_str("Wait"),
            Self::Signal(s) => write!(f, "{s:?}"),
            Self::OutOfMemory => f.write_str("OutOfMemory"),
            Self::NoSpace => f.write_str("NoSpace"),
            Self::KernelBug => f.write_str("KernelBug"),
        }
    }
}
