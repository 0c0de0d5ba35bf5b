//! What the device tree says about memory, and the kernel's view of it.

use core::ops::Range;
use core::slice;

use mm_core::platform::RegionKind;
use mm_virt::tree;

/// Where the kernel image is linked.
pub const KERNEL_BASE: usize = 0xffff_8000_0000_0000;

/// Where the direct map starts: all RAM, and the registers of devices.
pub const DIRECT_MAP: usize = 0xffff_0000_0000_0000;

const GIB: u64 = 1 << 30;
/// Bytes that one table of GiB reaches.
const DIRECT_REACH: u64 = 512 * GIB;

/// Returns the kernel's address of a byte of RAM, or of a device's register.
pub fn direct(physical: u64) -> usize {
    DIRECT_MAP + physical as usize
}

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_end: u8;
    static mut boot_direct: [u64; 512];
}

/// What the kernel keeps of what it was told.
pub struct Facts {
    /// The device tree's.
    pub tree: tree::Facts,
    /// Physical range that the kernel occupies.
    pub image: Range<u64>,
}

impl Facts {
    /// The initial file system.
    pub fn initrd(&self) -> &'static [u8] {
        let range = &self.tree.initrd;
        if range.is_empty() {
            return &[];
        }
        // SAFETY: the loader put it there, in RAM, which the direct map reaches; the tree's
        // regions call the range reserved, so nobody ever writes it.
        unsafe {
            slice::from_raw_parts(
                direct(range.start) as *const u8,
                (range.end - range.start) as usize,
            )
        }
    }

    /// Tells the log.
    pub fn log(&self) {
        for region in self.tree.regions() {
            let kind = match region.kind {
                RegionKind::Usable => "RAM",
                _ => "reserved",
            };
            let end = region.start.saturating_add(region.len);
            log::info!("memory {:#014x}-{end:#014x} {kind}", region.start);
        }
        log::info!("command line: {:?}", self.tree.command_line);
        log::info!("initrd: {} bytes", self.initrd().len());
    }
}

/// Reads the tree at a physical address. Called once.
///
/// # Panics
///
/// When there is no usable tree.
pub fn read_tree(tree: u64, image: u64) -> Facts {
    // SAFETY: the boot protocol passes the address of a device tree of at most 2 MiB, which the
    // boot tables map at `direct`; `Facts::regions` calls it reserved, so it stays.
    let read = unsafe { tree::Facts::read(direct(tree) as *const u8, tree) };
    let mut tree = match read {
        Ok(facts) => facts,
        Err(error) => panic!("the device tree at {tree:#x}: {error:?}"),
    };
    let bytes = (&raw const kernel_end as usize - &raw const kernel_start as usize) as u64;
    let image = image..image + bytes;
    let added = tree.add_region(image.clone(), RegionKind::Reserved);
    assert!(added.is_ok(), "the device tree has too many regions");
    Facts { tree, image }
}

/// Makes the boot table's direct map reach all RAM.
pub fn extend_boot_table(facts: &Facts) {
    /// Normal memory, AF, inner shareable, not executed.
    const BLOCK: u64 = 3 << 53 | 0x701;
    for range in facts.tree.ram() {
        assert!(range.end <= DIRECT_REACH, "RAM above 512 GiB");
        for gib in range.start / GIB..range.end.div_ceil(GIB) {
            // SAFETY: the boot table is only changed here, on one CPU, by its linked address.
            // Entries become valid or stay the same block, so nothing has to be flushed.
            unsafe {
                let entry = (&raw mut boot_direct).cast::<u64>().add(gib as usize);
                if entry.read() == 0 {
                    entry.write_volatile((gib * GIB) | BLOCK);
                }
            }
        }
    }
    // SAFETY: barriers: the walker sees the entries before they are used.
    unsafe { core::arch::asm!("dsb ishst", "isb", options(nostack, preserves_flags)) }
}
