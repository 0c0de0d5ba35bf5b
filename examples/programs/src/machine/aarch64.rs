//! AArch64.

use core::arch::{asm, global_asm};

use crate::names::SyscallAbi;

/// An instruction, or the smallest piece of one.
pub type Word = u32;

/// `ret`.
pub const RETURN: Word = 0xd65f_03c0;
/// Where a program maps things: far from where a kernel puts anything by itself.
pub const BASE: usize = 0x1000_0000_0000;
/// The first page that a program cannot have: the last below the kernel, or the first above.
pub const TOP: usize = 0x1_0000_0000_0000;
/// An address of the kernel.
pub const KERNEL: usize = 0xffff_8000_0000_0000;
/// An address that is neither a program's nor the kernel's, where there is one.
pub const HOLE: usize = 0x0001_0000_0000_0000;
/// The table of system calls.
pub const ABI: SyscallAbi = SyscallAbi::Generic;
/// Bytes of mmap's unit of offsets.
pub const OFFSET_UNIT: usize = 1;

/// Pointers that no call may follow. Neither they nor [`LAST`] is a signal's number.
pub const WILD: [usize; 7] = [
    0x900,                 // in the page that is never mapped
    0x1000_0000_0000,      // user space, not mapped
    0x0001_0000_0000_0000, // in no half
    0xfffe_ffff_ffff_ffff, // in no half
    0xffff_0000_0000_0000, // the first byte of the kernel's half
    0xffff_ffff_8000_0000, // where kernels like to live
    usize::MAX - 7,        // the end of everything
];
/// The last byte of user space, where a stack may end.
pub const LAST: usize = 0xffff_ffff_ffff;

/// Makes a system call, and answers what the register of the result holds.
pub fn raw_call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel changes only memory that the arguments name, and every caller in these
    // programs names memory of its own or none at all.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
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
    unsafe { asm!("blr {}", in(reg) address, clobber_abi("C")) }
}

/// Makes code that was written at `address` visible to the fetching of instructions.
pub fn sync_code(address: usize) {
    // SAFETY: cache maintenance changes no memory (Arm ARM, B2.7.4.2).
    unsafe {
        asm!(
            "dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb",
            in(reg) address, options(nostack)
        );
    }
}

// The kernel starts a program with its arguments where the stack points to (AAPCS64, 6.4.5: the
// stack is aligned to 16 bytes).
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl program_main",
    "brk #0",
);
