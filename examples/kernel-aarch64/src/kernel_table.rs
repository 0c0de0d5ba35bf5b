//! The kernel's own page table, made by mm-core and loaded into TTBR1 for good.
//!
//! ```text
//! 0xffff_0000_0000_0000   direct map: all RAM, read-write, never executed
//! 0xffff_4000_0000_0000   what is mapped on demand: devices, kernel stacks, each with guards
//! 0xffff_8000_0000_0000   the kernel image: code read-execute, constants read, data read-write;
//!                         one page of it for programs (signal.rs)
//! ```
//!
//! Nothing of the kernel stands in TTBR0: between spaces an empty table is loaded there.

use core::arch::{asm, global_asm};

use mm_arm::aarch64::native::Native;
use mm_arm::aarch64::{Tags, registers, tlb};
use mm_core::addr::Pfn;
use mm_core::format::{AttrFlags, Attrs};
use mm_core::platform::{Flush, PhysMemory, Platform};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::space::Root;
use mm_core::table::KernelSpace;
use mm_core::tlb::Remembered;
use mm_kernel::memory::KernelHalf;
use mm_kernel::memory::kernel::window;
use spin::Once;

use crate::memory::{Facts, KERNEL_BASE, direct};
use crate::platform::{self, PAGE_SHIFT, Virt};

/// Where devices and kernel stacks are mapped.
pub const WINDOW: PageRange = window(0xffff_4000_0000_0000, PAGE_SHIFT);

/// The kernel's part of every address space.
static KERNEL: KernelSpace = KernelSpace::new(WINDOW);

/// Physical address of the table that TTBR0 names while no space is loaded.
static EMPTY: Once<u64> = Once::new();

/// Physical address of the first byte of the image.
static IMAGE: Once<u64> = Once::new();

unsafe extern "C" {
    fn replace_kernel_root();
    static kernel_start: u8;
    static kernel_text_end: u8;
    static kernel_trampoline: u8;
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
    IMAGE.call_once(|| facts.image.start);
    let half = half().expect("frames come first");
    let root = half.init();
    half.ram(facts.tree.ram(), direct);
    let users = Attrs::kernel(Prot::RX).with(AttrFlags::USER);
    for (start, end, attrs) in [
        (
            &raw const kernel_start,
            &raw const kernel_text_end,
            Attrs::kernel(Prot::RX),
        ),
        (
            &raw const kernel_trampoline,
            &raw const kernel_rodata_start,
            users,
        ),
        (
            &raw const kernel_rodata_start,
            &raw const kernel_rodata_end,
            Attrs::kernel(Prot::READ),
        ),
        (
            &raw const kernel_data_start,
            &raw const kernel_end,
            Attrs::kernel(Prot::RW),
        ),
    ] {
        let range = physical(start as usize)..physical(end as usize);
        half.fixed(start as usize, range, attrs);
    }
    KERNEL.activate(crate::cpu::id());
    let empty = half.memory.alloc(&half.cx(), 0);
    let empty = empty.expect("memory for an empty table");
    let platform = half.memory.platform();
    platform.memory().zero(empty, 0);
    EMPTY.call_once(|| empty.addr(PAGE_SHIFT).as_u64());
    // SAFETY: the table maps the kernel's image and all RAM as the boot tables did, and it is
    // never freed; from here on the user half is empty.
    unsafe { switch_on(platform, root, empty) }
}

/// Returns the physical address of a byte of the image.
pub fn physical(address: usize) -> u64 {
    IMAGE.get().copied().unwrap_or(0) + (address - KERNEL_BASE) as u64
}

/// Returns the physical address of the table's root; 0 before there is one.
pub fn root() -> u64 {
    let root = KERNEL.root();
    root.map_or(0, |pfn| pfn.addr(PAGE_SHIFT).as_u64())
}

/// Returns the kernel's half, once there is memory.
pub fn half() -> Option<KernelHalf<Virt>> {
    let memory = platform::frames()?;
    Some(KernelHalf {
        space: &KERNEL,
        memory,
    })
}

/// Makes the table, which boot.rs loaded, this CPU's for good: what is remembered so far (of the
/// image's own addresses, by another TCR_EL1) is dropped, and from here on flushes reach it.
/// Called once on each CPU but the first.
pub fn enter(cpu: usize) {
    let Some(memory) = platform::frames() else {
        return;
    };
    let platform = memory.platform();
    // SAFETY: EL1.
    let mut native = unsafe { Native::new() };
    // SAFETY: as in `switch_on`; what runs here is in TTBR1's table.
    unsafe {
        asm!("msr tcr_el1, {}", "isb", in(reg) tcr(platform, &native),
            options(nostack, preserves_flags));
        forget_user_root(&mut native);
    }
    KERNEL.activate(cpu);
    tlb::flush_local(&mut native, platform.tlb(), EVERYTHING);
}

const EVERYTHING: Flush = Flush {
    pages: None,
    tables: true,
    asid: None,
};

fn tcr(platform: &Virt, native: &Native) -> u64 {
    registers::tcr(platform.format(), native.mmfr0()) | registers::TCR_USER_TAGS
}

/// Loads the kernel's table and what the format needs of TCR_EL1.
///
/// The boot tables map the same addresses by other sizes of blocks, and no TLB may hold both
/// (D8.16.1): so the CPU goes through an empty table, for which it runs at its physical address.
///
/// # Safety
///
/// The table maps what runs; it stays alive. TTBR0 names the boot table, which maps the image's
/// GiB where it is, and `empty` a table without entries.
unsafe fn switch_on(platform: &Virt, root: Pfn, empty: Pfn) {
    // SAFETY: EL1.
    let mut native = unsafe { Native::new() };
    let tcr = tcr(platform, &native);
    let physical = physical(replace_kernel_root as *const () as usize);
    // SAFETY: TCR differs from the boot tables' in what hardware notes, and in users' tags and
    // ASIDs, of which none is in use. The code touches no memory, interrupts are off, and it comes
    // back to a table that maps this function; then EMPTY is a table without entries.
    unsafe {
        asm!(
            "msr tcr_el1, {tcr}",
            "dsb ishst",
            "isb",
            "blr {physical}",
            tcr = in(reg) tcr,
            physical = in(reg) physical,
            in("x0") registers::ttbr(root.addr(PAGE_SHIFT).as_u64(), 0),
            in("x1") registers::ttbr(empty.addr(PAGE_SHIFT).as_u64(), 0),
            out("x30") _,
            options(nostack, preserves_flags)
        );
        forget_user_root(&mut native);
    }
    tlb::flush_local(&mut native, platform.tlb(), EVERYTHING);
}

global_asm!(
    r#"
    .pushsection .text.replace_kernel_root, "ax", @progbits
    .balign 64
    .global replace_kernel_root
replace_kernel_root:                /* x0: the new root, x1: an empty one */
    msr     ttbr1_el1, x1
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     ttbr1_el1, x0
    isb
    ret
    .popsection
    "#
);

/// # Safety
///
/// No user code runs on this CPU before another root is loaded.
unsafe fn forget_user_root(native: &mut Native) {
    if let Some(&empty) = EMPTY.get() {
        // SAFETY: an empty table that is never freed; nothing is remembered of it.
        unsafe { tlb::switch_space(native, empty, 0, Tags::Shared) }
    }
}

/// Loads the root of a space into TTBR0 with its ASID. The kernel's root stands for "no space".
///
/// # Safety
///
/// The table stays alive until another is loaded.
pub unsafe fn load(root: Root) {
    let kernel = self::root();
    let tags = match root.remembered {
        Remembered::Current => Tags::OfSpaces,
        Remembered::Stale => Tags::Shared,
    };
    // SAFETY: EL1.
    let mut native = unsafe { Native::new() };
    // SAFETY: the caller's promise. The kernel's table must not be walked for low addresses: its
    // entries are global, and would be remembered for every space.
    unsafe {
        if kernel == root.table.as_u64() {
            forget_user_root(&mut native);
        } else {
            tlb::switch_space(&mut native, root.table.as_u64(), root.asid, tags);
        }
    }
}
