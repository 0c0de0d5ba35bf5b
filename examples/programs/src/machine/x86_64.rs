//! x86-64.

use core::arch::{asm, global_asm};

use crate::names::SyscallAbi;

/// An instruction, or the smallest piece of one.
pub type Word = u8;

/// `ret`.
pub const RETURN: Word = 0xc3;
/// Where a program maps things: far from where a kernel puts anything by itself.
pub const BASE: usize = 0x1000_0000_0000;
/// The first page that a program cannot have: the last below the kernel, or the first above.
pub const TOP: usize = 0x7fff_ffff_f000;
/// An address of the kernel.
pub const KERNEL: usize = 0xffff_8000_0000_0000;
/// An address that is neither a program's nor the kernel's, where there is one.
pub const HOLE: usize = 0x0001_0000_0000_0000;
/// The table of system calls.
pub const ABI: SyscallAbi = SyscallAbi::X86_64;
/// Bytes of mmap's unit of offsets.
pub const OFFSET_UNIT: usize = 1;

/// Pointers that no call may follow. Neither they nor [`LAST`] is a signal's number.
pub const WILD: [usize; 7] = [
    0x900,                 // in the page that is never mapped
    0x1000_0000_0000,      // user space, not mapped
    0x8000_0000_0000,      // not canonical
    0xffff_7fff_ffff_ffff, // not canonical
    0xffff_8000_0000_0000, // the first byte of the kernel's half
    0xffff_ffff_8000_0000, // where kernels like to live
    usize::MAX - 7,        // the end of everything
];
/// The last byte of user space, where a stack may end.
pub const LAST: usize = 0x7fff_ffff_efff;

/// Numbers of system calls.
pub mod nr {
    #![allow(missing_docs, reason = "the names are Linux's own")]
    pub const WRITE: usize = 1;
    pub const MMAP: usize = 9;
    pub const MPROTECT: usize = 10;
    pub const MREMAP: usize = 25;
    pub const MUNMAP: usize = 11;
    pub const BRK: usize = 12;
    pub const SCHED_YIELD: usize = 24;
    pub const MADVISE: usize = 28;
    pub const NANOSLEEP: usize = 35;
    pub const CLONE: usize = 56;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SETSID: usize = 112;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
    pub const PPOLL: usize = 271;
    pub const PIPE2: usize = 293;
    /// Calls that may wait for ever by their nature with some of the arguments of `bad-pointers`:
    /// for a signal, as there is no descriptor and no time.
    pub const MAY_WAIT: &[(&str, usize)] = &[
        ("poll", 7),
        ("select", 23),
        ("pause", 34),
        ("pselect6", 270),
    ];
    /// Its child returns on its parent's stack.
    pub const VFORK: Option<usize> = Some(58);
    /// Those that make children: clone, fork, vfork, clone3.
    pub const MAKE_CHILDREN: &[usize] = &[56, 57, 58, 435];
}

/// Makes a system call, and answers what the register of the result holds.
pub fn raw_call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel changes only memory that the arguments name, and every caller in these
    // programs names memory of its own or none at all.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Calls the code at `address`.
///
/// # Safety
///
/// There is code that returns, or the call must end this process.
pub unsafe fn run(address: usize) {
    // A function pointer to address 0 is never made: the call is written in assembly.
    // SAFETY: the caller's promise.
    unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) }
}

/// Makes code that was written at `address` visible to the fetching of instructions.
pub fn sync_code(address: usize) {
    let _ = address; // the caches are coherent
}

// The ABI's start: the stack pointer is the argument, and a call needs it aligned to 16 bytes
// (System V ABI for x86-64, section 3.4.1).
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call program_main",
    "ud2",
);
