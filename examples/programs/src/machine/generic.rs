//! The generic table of system calls, which AArch64 and RISC-V share.

/// Numbers of system calls.
pub mod nr {
    #![allow(missing_docs, reason = "the names are Linux's own")]
    pub const OPENAT: usize = 56;
    pub const PIPE2: usize = 59;
    pub const WRITE: usize = 64;
    pub const PPOLL: usize = 73;
    pub const EXIT_GROUP: usize = 94;
    pub const NANOSLEEP: usize = 101;
    pub const SCHED_YIELD: usize = 124;
    pub const KILL: usize = 129;
    pub const SETSID: usize = 157;
    pub const BRK: usize = 214;
    pub const MUNMAP: usize = 215;
    pub const CLONE: usize = 220;
    pub const MMAP: usize = 222;
    pub const MPROTECT: usize = 226;
    pub const MREMAP: usize = 216;
    pub const MADVISE: usize = 233;
    pub const WAIT4: usize = 260;
    /// Calls that may wait for ever by their nature with some of the arguments of `bad-pointers`:
    /// for a signal, as there is no descriptor and no time.
    pub const MAY_WAIT: &[(&str, usize)] = &[("pselect6", 72)];
    /// Its child returns on its parent's stack; here it is a clone.
    pub const VFORK: Option<usize> = None;
    /// Those that make children: clone, clone3.
    pub const MAKE_CHILDREN: &[usize] = &[220, 435];
}
