//! What differs between architectures.
//!
//! | what | x86-64 | AArch64, RISC-V | Arm |
//! |---|---|---|---|
//! | system calls | its own table | the generic table: no fork, pipe, open, pause | EABI's table, `mmap2` |
//! | user space ends at | 2^47 | 2^48 (AArch64), 2^38 to 2^56 (RISC-V) | 3 GiB |
//! | fresh code | visible at once | after cache maintenance | after a system call |
//!
//! Sources: Linux `arch/x86/entry/syscalls/syscall_64.tbl`, `include/uapi/asm-generic/unistd.h`,
//! `arch/arm/tools/syscall.tbl`, and each architecture's procedure call standard for the start.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "arm")]
mod arm;
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
mod generic;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as own;
#[cfg(target_arch = "arm")]
use arm as own;
#[cfg(target_arch = "riscv64")]
use riscv64 as own;
#[cfg(target_arch = "x86_64")]
use x86_64 as own;

#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
pub use generic::nr;
#[cfg(not(any(target_arch = "aarch64", target_arch = "riscv64")))]
pub use own::nr;

pub use own::{ABI, BASE, HOLE, KERNEL, LAST, RETURN, TOP, WILD, run, sync_code};
pub(crate) use own::{OFFSET_UNIT, raw_call};

/// An instruction, or the smallest piece of one.
pub type Word = own::Word;

use crate::{call, call3};

/// Opens the file whose name stands at `path`, for reading.
///
/// # Errors
/// The kernel's error number.
pub fn open(path: usize) -> Result<usize, usize> {
    const HERE: usize = -100_i32 as usize;
    call(nr::OPENAT, [HERE, path, 0, 0, 0, 0])
}

/// Makes a pipe.
///
/// # Errors
/// The kernel's error number.
pub fn pipe() -> Result<[u32; 2], usize> {
    let mut ends = [0_u32; 2];
    call3(nr::PIPE2, (&raw mut ends).addr(), 0, 0)?;
    Ok(crate::volatile(&ends))
}

/// Sleeps until a signal comes.
pub fn pause() {
    let _ = call(nr::PPOLL, [0; 6]);
}
