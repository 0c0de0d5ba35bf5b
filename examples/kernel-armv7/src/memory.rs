//! The kernel's view of memory, and what the boot loader said about it.
//!
//! ```text
//! 0x0001_0000  user space, 3 GiB
//! 0xc000_0000  the direct map: RAM from 0x4000_0000, at most 768 MiB (more is left alone)
//! 0xf000_0000  the kernel image, at the same distance from RAM_BASE as in RAM
//! 0xf800_0000  what is mapped on demand: devices, kernel stacks (kernel_table.rs)
//! 0xfe00_0000  the serial port, while the boot table is loaded
//! 0xffff_0000  the page of helpers that user programs call (kuser.rs)
//! ```

use core::ptr;
use core::slice;

use mm_arm::armv7::native::Native;
use mm_arm::armv7::tlb::publish;
use mm_core::platform::RegionKind;
use mm_virt::tree::Facts;

/// Where RAM starts on QEMU's `virt` machines. The image is linked for it.
pub const RAM_BASE: usize = 0x4000_0000;
/// Where the direct map shows [`RAM_BASE`].
pub const DIRECT_MAP: usize = 0xc000_0000;
/// MiB of the direct map.
pub const DIRECT_MIB: usize = 768;
/// MiB of the image, at most.
pub const IMAGE_MIB: usize = 64;
/// What the image's addresses are above physical ones; linker.ld has the same.
pub const KERNEL_OFFSET: usize = 0xb000_0000;
/// Where the boot table shows a device.
const EARLY_DEVICE: usize = 0xfe00_0000;

/// A section of device memory for the kernel only, not executable.
const SECTION_DEVICE: u32 = 0x1_0416;
const SECTION_BYTES: u64 = 1 << 20;

unsafe extern "C" {
    static kernel_physical_start: u8;
    static kernel_end: u8;
    static mut boot_root: [u32; 4096];
}

/// Returns the kernel's address of a byte of RAM.
pub fn direct(physical: u64) -> usize {
    (physical as usize)
        .wrapping_sub(RAM_BASE)
        .wrapping_add(DIRECT_MAP)
}

/// Reads the device tree at the physical address `tree`, and adds what only this kernel knows:
/// its own image, and RAM that the direct map does not reach. Called once.
///
/// # Panics
///
/// When there is no usable device tree.
pub fn read_facts(tree: u32) -> Facts {
    let physical = u64::from(tree);
    // SAFETY: the boot protocol: r2 points to a device tree in RAM, which the boot table maps at
    // `direct`. The tree's range is reserved by `Facts`, so nobody writes it.
    let facts = unsafe { Facts::read(direct(physical) as *const u8, physical) };
    let mut facts = facts.expect("the device tree is unusable");
    let image = (&raw const kernel_physical_start) as u64..physical_of_image(&raw const kernel_end);
    let reach = RAM_BASE as u64 + ((DIRECT_MIB as u64) << 20);
    for taken in [image, 0..RAM_BASE as u64, reach..u64::MAX] {
        let added = facts.add_region(taken, RegionKind::Reserved);
        added.expect("too many memory regions");
    }
    facts
}

/// Returns the physical address of a byte of the image.
pub fn physical_of_image(address: *const u8) -> u64 {
    (address as usize - KERNEL_OFFSET) as u64
}

/// Returns the initial file system.
pub fn initrd(facts: &Facts) -> &'static [u8] {
    let range = &facts.initrd;
    if range.is_empty() {
        return &[];
    }
    // SAFETY: the loader put it there; the range is reserved in the memory map, so it is never
    // handed out and nobody writes it. The direct map reaches it: it is in RAM below the reach of
    // the table that the loader's own protocol asks for.
    unsafe {
        slice::from_raw_parts(
            direct(range.start) as *const u8,
            (range.end - range.start) as usize,
        )
    }
}

/// Maps a device by the boot table, until [`crate::kernel_table`] maps it, and returns where.
pub fn early_device(base: u64) -> usize {
    let word = (base & !(SECTION_BYTES - 1)) as u32 | SECTION_DEVICE;
    // SAFETY: the boot table belongs to this code, one CPU runs, and the entry was empty: a walk
    // may find it from now on.
    unsafe {
        ptr::write_volatile(
            (&raw mut boot_root).cast::<u32>().add(EARLY_DEVICE >> 20),
            word,
        );
        publish(&mut Native::new());
    }
    EARLY_DEVICE + (base & (SECTION_BYTES - 1)) as usize
}
