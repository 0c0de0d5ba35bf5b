//! The kernel's view of physical memory.

use core::ops::Range;
use core::slice;

use mm_virt::tree::Facts;

/// What the linker script adds to physical addresses.
pub const KERNEL_BASE: usize = 0xffff_ffff_0000_0000;

/// Where the direct map of all RAM starts. The boot table has devices at their place in it, too.
pub const DIRECT_MAP: usize = 0xffff_ffc0_0000_0000;

/// Bytes of physical memory that the direct map has room for.
pub const DIRECT_BYTES: u64 = 128 << 30;

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_end: u8;
}

/// Returns the kernel's address of a byte of RAM; while the boot table is loaded, of a device's
/// register, too.
///
/// # Panics
///
/// When the direct map does not reach so far.
pub fn direct(physical: u64) -> usize {
    assert!(
        physical < DIRECT_BYTES,
        "{physical:#x} is too high for the direct map"
    );
    DIRECT_MAP + physical as usize
}

/// Returns the physical address of a byte of the kernel's image.
pub fn image(address: *const u8) -> u64 {
    (address as usize - KERNEL_BASE) as u64
}

/// The physical range of the kernel's image.
pub fn image_range() -> Range<u64> {
    image(&raw const kernel_start)..image(&raw const kernel_end)
}

/// The initial file system.
pub fn initrd(facts: &Facts) -> &'static [u8] {
    let range = facts.initrd.clone();
    if range.is_empty() {
        return &[];
    }
    // SAFETY: the firmware put it there; `Facts` reserves the range, so nobody ever writes it.
    unsafe {
        slice::from_raw_parts(
            direct(range.start) as *const u8,
            (range.end - range.start) as usize,
        )
    }
}
