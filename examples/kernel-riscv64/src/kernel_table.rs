//! The kernel's own page table, made by mm-core, whose upper half every address space shares.
//!
//! ```text
//! 0xffff_ffc0_0000_0000   direct map: all RAM, read-write, never executed
//! 0xffff_ffe0_0000_0000   what is mapped on demand: devices, kernel stacks, each with guards
//! 0xffff_fff0_0000_0000   one page for programs: the code that ends a signal handler (signal.rs)
//! 0xffff_ffff_8000_0000   the kernel image: code read-execute, constants read, data read-write
//! ```
//!
//! All of it lies in Sv39's upper half, so the addresses are the same in every mode. Nothing of
//! the kernel's stands in the lower half: a stray null pointer in the kernel is a fault.

use mm_core::format::{AttrFlags, Attrs};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::space::Root;
use mm_core::table::KernelSpace;
use mm_core::tlb::Remembered;
use mm_kernel::memory::KernelHalf;
use mm_kernel::memory::kernel::window;
use mm_virt::tree::Facts;

use crate::memory::{direct, image};
use crate::platform::{self, Board, PAGE_SHIFT};
use crate::signal;

/// Where devices and kernel stacks are mapped.
const WINDOW: PageRange = window(0xffff_ffe0_0000_0000, PAGE_SHIFT);

/// The kernel's part of every address space.
static KERNEL: KernelSpace = KernelSpace::new(WINDOW);

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_text_end: u8;
    static kernel_rodata_end: u8;
    static kernel_end: u8;
    static kernel_trampoline: u8;
}

/// Builds the table and loads it. Called once.
///
/// # Panics
///
/// When there is not even memory for this.
pub fn init(facts: &Facts) {
    let half = half().expect("frames come first");
    let root = half.init();
    half.ram(facts.ram(), direct);
    let [start, text_end, rodata_end, end] = [
        &raw const kernel_start,
        &raw const kernel_text_end,
        &raw const kernel_rodata_end,
        &raw const kernel_end,
    ];
    for (start, end, prot) in [
        (start, text_end, Prot::RX),
        (text_end, rodata_end, Prot::READ),
        (rodata_end, end, Prot::RW),
    ] {
        half.fixed(
            start as usize,
            image(start)..image(end),
            Attrs::kernel(prot),
        );
    }
    let trampoline = image(&raw const kernel_trampoline);
    half.fixed(
        signal::TRAMPOLINE,
        trampoline..trampoline + 1,
        Attrs::kernel(Prot::RX).with(AttrFlags::USER),
    );
    KERNEL.activate(crate::cpu::id());
    // SAFETY: the table maps the kernel's image and all RAM as the boot table did, and it is
    // never freed.
    unsafe {
        platform::load(Root {
            table: root.addr(PAGE_SHIFT),
            asid: 0,
            remembered: Remembered::Stale,
        });
    }
    // The boot table's entries were global.
    platform::forget_all();
}

/// Counts this CPU in, which runs on the table already: from here on it is told of every change,
/// and what it remembers from before is dropped.
pub fn join(cpu: usize) {
    KERNEL.activate(cpu);
    platform::forget_all();
}

/// Returns the kernel's half, once there is memory.
pub fn half() -> Option<KernelHalf<Board>> {
    let memory = platform::frames()?;
    Some(KernelHalf {
        space: &KERNEL,
        memory,
    })
}
