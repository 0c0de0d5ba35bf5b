//! The kernel's own page table, made by mm-core, whose upper half every address space shares.
//!
//! ```text
//! 0xffff_8000_0000_0000   direct map: all RAM of the firmware's map, read-write, never executed;
//!                         the local APIC beside it
//! 0xffff_c000_0000_0000   kernel stacks, each with a guard page (stack.rs)
//! 0xffff_ffff_8000_0000   the kernel image: code read-execute, constants read, data read-write
//! ```
//!
//! On a CPU without NX whatever is mapped can be executed, by programs too, but nothing else differs.
//!
//! Nothing stands in the lower half: a stray null pointer in the kernel is a fault.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use mm_core::addr::{PhysAddr, VirtAddr};
use mm_core::cx::Cx;
use mm_core::format::{AttrFlags, Attrs, TableOwner};
use mm_core::page::Frames;
use mm_core::prot::{MemType, Prot};
use mm_core::range::PageRange;
use mm_core::space::Root;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{Remembered, SpaceTlb};
use mm_x86_64::native::Native;
use spin::Once;

use crate::apic;
use crate::memory::{Facts, KERNEL_BASE, direct};
use crate::platform::{PAGE_SHIFT, Pc};

const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// Whom to tell when kernel entries change: every CPU, whatever space it runs.
static TLB: Once<SpaceTlb> = Once::new();

/// Physical address of the root.
static ROOT: AtomicU64 = AtomicU64::new(0);

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
pub fn init(frames: &'static Frames<Pc>, facts: &Facts) {
    let cx = Cx::new(frames);
    let root =
        PageTable::create(&cx, TableOwner::Kernel, 0).expect("memory for the kernel's table");
    let table = PageTable::view(&cx, root, TableOwner::Kernel, 0);
    let tlb = TLB.call_once(SpaceTlb::for_every_space);
    let map = |address: usize, physical: Range<u64>, attrs: Attrs| {
        let pages = pages(address, physical.end - physical.start);
        let attrs = attrs.with(AttrFlags::SPECIAL);
        let first = PhysAddr::new(physical.start).pfn(PAGE_SHIFT);
        let mapped = CursorMut::new(table, tlb, pages).map(first, attrs);
        match mapped {
            // Nobody walked this table yet, so no CPU remembers that it was empty.
            Ok(flush) => flush.settle(&cx, tlb),
            Err(error) => panic!("the kernel cannot be mapped: {error:?}"),
        }
    };
    for region in facts.regions().iter().filter(|region| region.usable) {
        let start = region.start.next_multiple_of(PAGE_BYTES);
        let end = region.end() & !(PAGE_BYTES - 1);
        if start < end {
            map(direct(start), start..end, Attrs::kernel(Prot::RW));
        }
    }
    let apic = Attrs::kernel(Prot::RW).with_mem(MemType::Device);
    map(
        direct(apic::BASE),
        apic::BASE..apic::BASE + PAGE_BYTES,
        apic,
    );
    for (start, end, attrs) in [
        (
            &raw const kernel_start,
            &raw const kernel_text_end,
            Attrs::kernel(Prot::RX),
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
        let physical = |address: *const u8| (address as usize - KERNEL_BASE) as u64;
        map(start as usize, physical(start)..physical(end), attrs);
    }
    ROOT.store(root.addr(PAGE_SHIFT).as_u64(), Ordering::Relaxed);
    join();
}

/// Physical address of the kernel's own root, once there is one.
pub fn root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// Loads the table on the running CPU and has flushes reach it. Runs once on each CPU.
pub fn join() {
    if let Some(tlb) = TLB.get() {
        tlb.activate(crate::cpu::id());
    }
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

/// Returns whom to tell when the table changes.
pub fn tlb() -> Option<&'static SpaceTlb> {
    TLB.get()
}

fn pages(address: usize, bytes: u64) -> PageRange {
    let start = VirtAddr::new(address).vpn(PAGE_SHIFT);
    let pages = (bytes >> PAGE_SHIFT) as usize;
    PageRange::with_len(start, pages).expect("kernel addresses do not wrap")
}
