//! The kernel's own page table, made by mm-core, whose upper quarter every address space shares.
//!
//! ```text
//! 0xc000_0000   direct map: RAM, read-write, never executed
//! 0xf000_0000   the kernel image: code read-execute, constants read, data read-write
//! 0xf800_0000   what is mapped on demand: devices, kernel stacks, each with guards
//! 0xffff_0000   the helpers of user programs: read-execute for users (kuser.rs)
//! ```
//!
//! Nothing stands below: a stray null pointer in the kernel is a fault.

use core::arch::asm;

use mm_arm::armv7::registers::TTBR_SHAREABLE;
use mm_core::format::{AttrFlags, Attrs};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::KernelSpace;
use mm_kernel::memory::KernelHalf;
use mm_kernel::memory::kernel::window;
use mm_virt::mmio::Registers;
use mm_virt::tree::{Device, Facts};

use crate::memory::{DIRECT_MIB, RAM_BASE, direct, physical_of_image};
use crate::platform::{self, PAGE_SHIFT, Virt};
use crate::{cpu, kuser};

/// Where devices and kernel stacks are mapped.
pub const WINDOW: PageRange = window(0xf800_0000, PAGE_SHIFT);

/// The kernel's part of every address space.
static KERNEL: KernelSpace = KernelSpace::new(WINDOW);

unsafe extern "C" {
    fn boot_enter_table();
    static kernel_start: u8;
    static kernel_text_end: u8;
    static kernel_rodata_start: u8;
    static kernel_rodata_end: u8;
    static kernel_data_start: u8;
    static kernel_end: u8;
}

/// Builds the table and loads it. Called once. Nothing of the boot table is left: devices must be
/// mapped again.
///
/// # Panics
///
/// When there is not even memory for this.
pub fn init(facts: &Facts) {
    let half = half().expect("frames come first");
    let root = half.init();
    let reach = RAM_BASE as u64 + ((DIRECT_MIB as u64) << 20);
    let ram = facts.ram().map(|range| range.start..range.end.min(reach));
    half.ram(ram, direct);
    for (start, end, prot) in [
        (
            &raw const kernel_start,
            &raw const kernel_text_end,
            Prot::RX,
        ),
        (
            &raw const kernel_rodata_start,
            &raw const kernel_rodata_end,
            Prot::READ,
        ),
        (
            &raw const kernel_data_start,
            &raw const kernel_end,
            Prot::RW,
        ),
    ] {
        let physical = physical_of_image(start)..physical_of_image(end);
        half.fixed(start as usize, physical, Attrs::kernel(prot));
    }
    let helpers = kuser::physical();
    let for_users = Attrs::kernel(Prot::RX).with(AttrFlags::USER);
    half.fixed(kuser::ADDRESS, helpers..helpers + 1, for_users);
    KERNEL.activate(cpu::id());
    platform::publish();
    let root = root.addr(PAGE_SHIFT).as_u64() as u32 | TTBR_SHAREABLE;
    // SAFETY: the table maps the kernel's image and all RAM as the boot table did, and it is
    // never freed. The function is called where the boot table has it too, and touches r0 to r2.
    unsafe {
        asm!(
            "blx {enter}",
            enter = in(reg) boot_enter_table as *const () as usize,
            inout("r0") root => _,
            out("r1") _,
            out("r2") _,
            out("lr") _,
            options(nostack)
        );
        leave_split(root);
    }
}

/// Returns the physical address of the table's root; 0 before there is one.
pub fn root() -> u32 {
    let root = KERNEL.root();
    root.map_or(0, |pfn| pfn.addr(PAGE_SHIFT).as_u64() as u32)
}

/// Returns the kernel's half, once there is memory.
pub fn half() -> Option<KernelHalf<Virt>> {
    let memory = platform::frames()?;
    Some(KernelHalf {
        space: &KERNEL,
        memory,
    })
}

/// Makes the table, which boot.rs loaded, this CPU's for good: from here on flushes reach it.
/// Called once on each CPU but the first.
pub fn enter(cpu: usize) {
    KERNEL.activate(cpu);
    // SAFETY: boot.rs loaded it.
    unsafe { leave_split(root() | TTBR_SHAREABLE) };
}

/// Leaves the split that `boot_enter_table` made: from here on TTBR0's table maps all.
///
/// # Safety
///
/// TTBR1 names the kernel's table, and `root` is the same with the attributes of walks.
unsafe fn leave_split(root: u32) {
    // SAFETY: the upper half is that of the same table before and after; below, nothing is used.
    unsafe {
        asm!(
            "mcr p15, 0, {root}, c2, c0, 0",    // TTBR0
            "isb",
            "mcr p15, 0, {one}, c2, c0, 2",     // TTBCR: one table
            "isb",
            root = in(reg) root,
            one = in(reg) 0,
            options(nostack, preserves_flags)
        );
    }
    // The boot table's entry of the lower half was global, and could be executed.
    platform::forget_all();
}

/// Maps the registers of a device.
///
/// # Panics
///
/// Before the table is there, and when there is no room for it.
pub fn device(device: &Device) -> Registers {
    let half = half().expect("frames come first");
    let address = half.device(device.base..device.base + device.bytes);
    // SAFETY: the device tree says that the device is there; it was just mapped as device memory,
    // for ever.
    unsafe { Registers::new(address) }
}
