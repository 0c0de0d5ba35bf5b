//! Arm, 32 bits.

use core::arch::{asm, global_asm};

use crate::names::SyscallAbi;

/// An instruction, or the smallest piece of one.
pub type Word = u32;

/// `bx lr`.
pub const RETURN: Word = 0xe12f_ff1e;
/// Where a program maps things: far from where a kernel puts anything by itself.
pub const BASE: usize = 0x3000_0000;
/// The first page that a program cannot have: the last below the kernel, or the first above.
pub const TOP: usize = 0xc000_0000;
/// An address of the kernel.
pub const KERNEL: usize = 0xc000_8000;
/// An address that is neither a program's nor the kernel's, where there is one.
pub const HOLE: usize = 0xffff_8000;
/// The table of system calls.
pub const ABI: SyscallAbi = SyscallAbi::Arm;
/// Bytes of mmap's unit of offsets.
pub const OFFSET_UNIT: usize = 4096;

/// Pointers that no call may follow. Neither they nor [`LAST`] is a signal's number.
pub const WILD: [usize; 6] = [
    0x900,          // in the page that is never mapped
    0x3000_0000,    // user space, not mapped
    0xc000_0000,    // the first byte of the kernel's
    0xc000_8000,    // where kernels like to live
    0xffff_0000,    // the vectors
    usize::MAX - 7, // the end of everything
];
/// The last byte of user space, where a stack may end.
pub const LAST: usize = 0xbfff_ffff;

/// Numbers of system calls.
pub mod nr {
    #![allow(missing_docs, reason = "the names are Linux's own")]
    pub const WRITE: usize = 4;
    pub const KILL: usize = 37;
    pub const BRK: usize = 45;
    pub const SETSID: usize = 66;
    pub const MUNMAP: usize = 91;
    pub const WAIT4: usize = 114;
    pub const CLONE: usize = 120;
    pub const MPROTECT: usize = 125;
    pub const MREMAP: usize = 163;
    pub const SCHED_YIELD: usize = 158;
    pub const NANOSLEEP: usize = 162;
    pub const MMAP: usize = 192;
    pub const MADVISE: usize = 220;
    pub const EXIT_GROUP: usize = 248;
    pub const OPENAT: usize = 322;
    pub const PPOLL: usize = 336;
    pub const PIPE2: usize = 359;
    /// Calls that may wait for ever by their nature with some of the arguments of `bad-pointers`:
    /// for a signal, as there is no descriptor and no time.
    pub const MAY_WAIT: &[(&str, usize)] = &[
        ("pause", 29),
        ("select", 142),
        ("poll", 168),
        ("pselect6", 335),
        ("pselect6_time64", 413),
    ];
    /// Its child returns on its parent's stack.
    pub const VFORK: Option<usize> = Some(190);
    /// Those that make children: fork, clone, vfork, clone3.
    pub const MAKE_CHILDREN: &[usize] = &[2, 120, 190, 435];
}

/// Makes a system call, and answers what the register of the result holds.
pub fn raw_call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel changes only memory that the arguments name, and every caller in these
    // programs names memory of its own or none at all.
    unsafe {
        // r7 may be the compiler's frame pointer, so it is borrowed.
        asm!(
            "mov {kept}, r7", "mov r7, {number}", "svc #0", "mov r7, {kept}",
            kept = out(reg) _, number = in(reg) number,
            inlateout("r0") a => result,
            in("r1") b, in("r2") c, in("r3") d, in("r4") e, in("r5") f,
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
    // The target has no floating point, so the registers are named one by one.
    unsafe {
        asm!(
            "blx {}", in(reg) address,
            out("r0") _, out("r1") _, out("r2") _, out("r3") _, out("r12") _, out("lr") _,
        );
    }
}

/// Makes code that was written at `address` visible to the fetching of instructions.
pub fn sync_code(address: usize) {
    const CACHEFLUSH: usize = 0xf0002;
    let _ = crate::call3(CACHEFLUSH, address, address + 4, 0);
}

// The kernel starts a program with its arguments where the stack points to; a call needs the
// stack aligned to 8 bytes (AAPCS32, 6.2.1).
global_asm!(
    ".globl _start",
    ".type _start, %function",
    ".arm",
    "_start:",
    "mov r11, #0",
    "mov lr, #0",
    "mov r0, sp",
    "bic r1, r0, #7",
    "mov sp, r1",
    "bl program_main",
    "udf #0",
);
