//! The kernel's own page table, made by mm-core, whose upper half every address space shares.
//!
//! ```text
//! 0xffff_8000_0000_0000   direct map: all RAM of the firmware's map, read-write, never executed
//! 0xffff_c000_0000_0000   what is mapped on demand: the local APIC, kernel stacks, each with guards
//! 0xffff_ffff_8000_0000   the kernel image: code read-execute, constants read, data read-write
//! ```
//!
//! On a CPU without NX whatever is mapped can be executed, by programs too, but nothing else differs.
//!
//! Nothing stands in the lower half: a stray null pointer in the kernel is a fault.

use mm_core::addr::PhysAddr;
use mm_core::format::Attrs;
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::space::Root;
use mm_core::table::KernelSpace;
use mm_core::tlb::Remembered;
use mm_kernel::memory::KernelHalf;
use mm_kernel::memory::kernel::window;
use mm_x86_64::native::Native;

use crate::memory::{Facts, KERNEL_BASE, direct};
use crate::platform::{self, PAGE_SHIFT, Pc};

/// Where devices and kernel stacks are mapped.
pub const WINDOW: PageRange = window(0xffff_c000_0000_0000, PAGE_SHIFT);

/// The kernel's part of every address space.
static KERNEL: KernelSpace = KernelSpace::new(WINDOW);

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_text_end: u8;
    static kernel_rodata_start: u8;
    static kernel_rodata_end: u8;
    static kernel_data_start: u8;
    static kernel_end: u8;
}

/// Builds the table and loads it. Called once.
///
/// # Panics
///
/// When there is not even memory for this.
pub fn init(facts: &Facts) {
    let half = half().expect("frames come first");
    half.init();
    let ram = facts.regions().iter().filter(|region| region.usable);
    half.ram(ram.map(|region| region.start..region.end()), direct);
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
        let physical = |address: *const u8| (address as usize - KERNEL_BASE) as u64;
        half.fixed(
            start as usize,
            physical(start)..physical(end),
            Attrs::kernel(prot),
        );
    }
    join();
}

/// Physical address of the kernel's own root; 0 before there is one.
pub fn root() -> u64 {
    let root = KERNEL.root();
    root.map_or(0, |pfn| pfn.addr(PAGE_SHIFT).as_u64())
}

/// Returns the kernel's half, once there is memory.
pub fn half() -> Option<KernelHalf<Pc>> {
    let memory = platform::frames()?;
    Some(KernelHalf {
        space: &KERNEL,
        memory,
    })
}

/// Loads the table on the running CPU and has flushes reach it. Runs once on each CPU.
pub fn join() {
    KERNEL.activate(crate::cpu::id());
    // SAFETY: the table maps the kernel's image and all RAM as the boot table did, and it is
    // never freed. The load drops what the CPU remembered before flushes reached it.
    unsafe {
        load(Root {
            table: PhysAddr::new(root()),
            asid: 0,
            remembered: Remembered::Stale,
        });
    }
}

/// Loads a root.
///
/// # Safety
///
/// The table has this machine's kernel half and stays alive until another is loaded.
pub unsafe fn load(root: Root) {
    // SAFETY: ring 0; the rest is the caller's promise.
    unsafe { Native::new().switch_root(root.table.as_u64(), root.asid, root.remembered) }
}
