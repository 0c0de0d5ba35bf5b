//! RISC-V of 64 bits.

use core::arch::{asm, global_asm};

use crate::names::SyscallAbi;

/// An instruction, or the smallest piece of one.
pub type Word = u32;

/// `ret`.
pub const RETURN: Word = 0x0000_8067;
/// Where a program maps things: far from where a kernel puts anything by itself.
pub const BASE: usize = 0x10_0000_0000;
/// The first page that a program cannot have: the last below the kernel, or the first above.
pub const TOP: usize = 0x0100_0000_0000_0000;
/// An address of the kernel.
pub const KERNEL: usize = 0xffff_ffff_8000_0000;
/// An address that is neither a program's nor the kernel's, where there is one.
pub const HOLE: usize = 0x0100_0000_0000_0000;
/// The table of system calls.
pub const ABI: SyscallAbi = SyscallAbi::Generic;
/// Bytes of mmap's unit of offsets.
pub const OFFSET_UNIT: usize = 1;

/// Pointers that no call may follow. Neither they nor [`LAST`] is a signal's number.
pub const WILD: [usize; 7] = [
    0x900,                 // in the page that is never mapped
    0x10_0000_0000,        // user space, not mapped
    0x0100_0000_0000_0000, // in no half
    0xfeff_ffff_ffff_ffff, // in no half
    0xffff_ffc0_0000_0000, // the first byte of the kernel's half with three levels
    0xffff_ffff_8000_0000, // where kernels like to live
    usize::MAX - 7,        // the end of everything
];
/// The last byte of user space with three levels, where a stack may end.
pub const LAST: usize = 0x3f_ffff_ffff;

/// Makes a system call, and answers what the register of the result holds.
pub fn raw_call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel changes only memory that the arguments name, and every caller in these
    // programs names memory of its own or none at all.
    unsafe {
        asm!(
            "ecall",
            in("a7") number,
            inlateout("a0") a => result,
            in("a1") b, in("a2") c, in("a3") d, in("a4") e, in("a5") f,
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
    unsafe { asm!("jalr {}", in(reg) address, clobber_abi("C")) }
}

/// Makes code that was written at `address` visible to the fetching of instructions.
pub fn sync_code(address: usize) {
    let _ = address;
    // SAFETY: a fence changes no memory.
    unsafe { asm!("fence.i", options(nostack)) }
}

// The kernel starts a program with its arguments where the stack points to, aligned to 16 bytes
// (RISC-V psABI, 2.1).
global_asm!(
    ".globl _start",
    "_start:",
    "mv s0, zero",
    "mv ra, zero",
    "mv a0, sp",
    "andi sp, sp, -16",
    "call program_main",
    "unimp",
);
