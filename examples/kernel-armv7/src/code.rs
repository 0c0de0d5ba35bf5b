//! Instructions that a program wrote itself (the `cacheflush` syscall of Arm).
//!
//! Data and instruction caches are kept apart, and a program may not touch the second. The portable
//! part faults each page in; its frame is looked up as the MMU would, and the lines are cleaned where
//! the kernel sees the frame: never through an address of the program.

use core::arch::asm;

use mm_arm::armv7::native::{self, Native};
use mm_arm::armv7::tlb::{Reach, sync_code};

use crate::memory::{DIRECT_MIB, RAM_BASE, direct};
use crate::platform;

const PAGE_BYTES: usize = 4096;

/// Makes what the running program wrote to a page visible to its fetches.
pub fn sync_user(page: usize) {
    // The entry may be new: the walk must see it.
    platform::publish();
    if let Some(frame) = frame_of(page) {
        sync_frame(frame);
    }
}

/// Makes what was written to the frame at `address`, in the direct map, visible to fetches.
pub fn sync_frame(address: usize) {
    // SAFETY: supervisor mode of a CPU with the Multiprocessing Extensions. The address is mapped.
    unsafe {
        let caches = native::code_caches();
        let (mut native, bytes) = (Native::new(), PAGE_BYTES as u32);
        sync_code(&mut native, caches, Reach::Broadcast, address as u32, bytes);
    }
}

/// Returns where the kernel sees the frame that user mode reads at `page`.
fn frame_of(page: usize) -> Option<usize> {
    let result: usize;
    // SAFETY: ATS1CUR asks the MMU to translate as for a read by user mode, into PAR. It
    // faults never and changes nothing else.
    unsafe {
        asm!(
            "mcr p15, 0, {page}, c7, c8, 2",
            "isb",
            "mrc p15, 0, {result}, c7, c4, 0",
            page = in(reg) page, result = out(reg) result,
            options(nomem, nostack, preserves_flags)
        );
    }
    // Bit 0: a fault; bit 1: a supersection, of which the family gives users none.
    let (failed, physical) = (result & 3 != 0, result & !(PAGE_BYTES - 1));
    let in_ram = physical.wrapping_sub(RAM_BASE) < DIRECT_MIB << 20;
    (!failed && in_ram).then(|| direct(physical as u64))
}
