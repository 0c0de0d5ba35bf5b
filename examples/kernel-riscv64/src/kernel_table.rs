//! The kernel's own page table, made by mm-core, whose upper half every address space shares.
//!
//! ```text
//! 0xffff_ffc0_0000_0000   direct map: all RAM, read-write, never executed; devices at their place
//! 0xffff_ffe0_0000_0000   kernel stacks, each with a guard page (stack.rs)
//! 0xffff_fff0_0000_0000   one page for programs: the code that ends a signal handler (signal.rs)
//! 0xffff_ffff_8000_0000   the kernel image: code read-execute, constants read, data read-write
//! ```
//!
//! All of it lies in Sv39's upper half, so the addresses are the same in every mode. Nothing of
//! the kernel's stands in the lower half: a stray null pointer in the kernel is a fault.

use core::ops::Range;

use mm_core::addr::{PhysAddr, VirtAddr};
use mm_core::cx::Cx;
use mm_core::format::{AttrFlags, Attrs, TableOwner};
use mm_core::page::Frames;
use mm_core::prot::{MemType, Prot};
use mm_core::range::PageRange;
use mm_core::space::Root;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{Remembered, SpaceTlb};
use mm_virt::tree::Facts;
use spin::Once;

use crate::memory::{direct, image};
use crate::platform::{self, Board, PAGE_SHIFT};
use crate::{devices, signal};

const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// Whom to tell when kernel entries change: every CPU, whatever space it runs.
static TLB: Once<SpaceTlb> = Once::new();

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
pub fn init(frames: &'static Frames<Board>, facts: &Facts) {
    let cx = Cx::new(frames);
    let root =
        PageTable::create(&cx, TableOwner::Kernel, 0).expect("memory for the kernel's table");
    let table = PageTable::view(&cx, root, TableOwner::Kernel, 0);
    let tlb = TLB.call_once(SpaceTlb::for_every_space);
    let map = |address: usize, physical: Range<u64>, attrs: Attrs| {
        let start = physical.start & !(PAGE_BYTES - 1);
        let end = physical.end.next_multiple_of(PAGE_BYTES);
        let attrs = attrs.with(AttrFlags::SPECIAL);
        let first = PhysAddr::new(start).pfn(PAGE_SHIFT);
        let mapped = CursorMut::new(table, tlb, pages(address, end - start)).map(first, attrs);
        match mapped {
            // Nobody walked this table yet, so no CPU remembers that it was empty.
            Ok(flush) => flush.settle(&cx, tlb),
            Err(error) => panic!("the kernel cannot be mapped: {error:?}"),
        }
    };
    for ram in facts.ram() {
        map(direct(ram.start), ram, Attrs::kernel(Prot::RW));
    }
    for device in devices::used(facts) {
        let range = device.base..device.base + device.bytes;
        let attrs = Attrs::kernel(Prot::RW).with_mem(MemType::Device);
        map(direct(range.start), range, attrs);
    }
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
        map(
            start as usize,
            image(start)..image(end),
            Attrs::kernel(prot),
        );
    }
    let trampoline = image(&raw const kernel_trampoline);
    map(
        signal::TRAMPOLINE,
        trampoline..trampoline + PAGE_BYTES,
        Attrs::kernel(Prot::RX).with(AttrFlags::USER),
    );
    tlb.activate(crate::cpu::id());
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
    if let Some(tlb) = TLB.get() {
        tlb.activate(cpu);
    }
    platform::forget_all();
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
