//! The kernel's own page table, made by mm-core, whose upper quarter every address space shares.
//!
//! ```text
//! 0xc000_0000   direct map: RAM, read-write, never executed
//! 0xf000_0000   the kernel image: code read-execute, constants read, data read-write
//! 0xf800_0000   kernel stacks, each with a guard (stack.rs)
//! 0xfe00_0000   devices, with an empty page between any two
//! 0xffff_0000   the helpers of user programs: read-execute for users (kuser.rs)
//! ```
//!
//! Nothing stands below: a stray null pointer in the kernel is a fault.

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use mm_arm::armv7::registers::TTBR_SHAREABLE;
use mm_core::addr::{Pfn, PhysAddr, VirtAddr};
use mm_core::cx::Cx;
use mm_core::format::{AttrFlags, Attrs, TableOwner};
use mm_core::page::Frames;
use mm_core::prot::{MemType, Prot};
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::SpaceTlb;
use mm_virt::mmio::Registers;
use mm_virt::tree::{Device, Facts};
use spin::Once;

use crate::memory::{DEVICES, DIRECT_MIB, RAM_BASE, direct, physical_of_image};
use crate::platform::{self, PAGE_SHIFT, Virt};
use crate::{cpu, kuser};

const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// Whom to tell when kernel entries change: every CPU, whatever space it runs.
static TLB: Once<SpaceTlb> = Once::new();

/// Where the next device is mapped.
static NEXT_DEVICE: AtomicUsize = AtomicUsize::new(DEVICES);

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
pub fn init(frames: &'static Frames<Virt>, facts: &Facts) {
    let cx = Cx::new(frames);
    let root =
        PageTable::create(&cx, TableOwner::Kernel, 0).expect("memory for the kernel's table");
    let tlb = TLB.call_once(SpaceTlb::for_every_space);
    let kernel = |prot| Attrs::kernel(prot).with(AttrFlags::SPECIAL);
    let reach = RAM_BASE as u64 + ((DIRECT_MIB as u64) << 20);
    for range in facts.ram() {
        let start = range.start.next_multiple_of(PAGE_BYTES);
        let end = range.end.min(reach) & !(PAGE_BYTES - 1);
        if start < end {
            fixed(&cx, root, direct(start), start..end, kernel(Prot::RW));
        }
    }
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
        fixed(&cx, root, start as usize, physical, kernel(prot));
    }
    let helpers = kuser::physical();
    let for_users = kernel(Prot::RX).with(AttrFlags::USER);
    let helpers = helpers..helpers + PAGE_BYTES;
    fixed(&cx, root, kuser::ADDRESS, helpers, for_users);
    tlb.activate(cpu::id());
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
    let root = platform::frames().and_then(Frames::kernel_root);
    root.map_or(0, |pfn| pfn.addr(PAGE_SHIFT).as_u64() as u32)
}

/// Makes the table, which boot.rs loaded, this CPU's for good: from here on flushes reach it.
/// Called once on each CPU but the first.
pub fn enter(cpu: usize) {
    if let Some(tlb) = TLB.get() {
        tlb.activate(cpu);
    }
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

/// Maps what is never unmapped and has no page records.
fn fixed(cx: &Cx<'static, Virt>, root: Pfn, address: usize, physical: Range<u64>, attrs: Attrs) {
    let tlb = TLB.get().expect("the table was made");
    let table = PageTable::view(cx, root, TableOwner::Kernel, 0);
    let pages = pages(address, physical.end - physical.start);
    let first = PhysAddr::new(physical.start).pfn(PAGE_SHIFT);
    match CursorMut::new(table, tlb, pages).map(first, attrs) {
        // Nothing stood there, but a walk may overtake the store.
        Ok(flush) => flush.settle(cx, tlb),
        Err(error) => panic!("{address:#x} cannot be mapped: {error:?}"),
    }
}

/// Maps the registers of a device.
///
/// # Panics
///
/// When there is no memory for it.
pub fn device(memory: &'static Frames<Virt>, device: &Device) -> Registers {
    let cx = Cx::new(memory);
    let root = memory.kernel_root().expect("the table was made");
    let start = device.base & !(PAGE_BYTES - 1);
    let end = (device.base + device.bytes).next_multiple_of(PAGE_BYTES);
    let bytes = (end - start + PAGE_BYTES) as usize;
    let address = NEXT_DEVICE.fetch_add(bytes, Ordering::Relaxed);
    let attrs = Attrs::kernel(Prot::RW).with(AttrFlags::SPECIAL);
    fixed(
        &cx,
        root,
        address,
        start..end,
        attrs.with_mem(MemType::Device),
    );
    // SAFETY: the device tree says that the device is there; it was just mapped as device memory,
    // for ever.
    unsafe { Registers::new(address + (device.base - start) as usize) }
}

/// Returns whom to tell when the table changes.
pub fn tlb() -> Option<&'static SpaceTlb> {
    TLB.get()
}

fn pages(address: usize, bytes: u64) -> PageRange {
    let start = VirtAddr::new(address).vpn(PAGE_SHIFT);
    let pages = (bytes >> PAGE_SHIFT) as usize;
    PageRange::with_len(start, pages).expect("kernel addresses do not wrap")
}
