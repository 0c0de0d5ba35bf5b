//! What mm-core runs on: this machine's frames, page tables and TLBs, as `impl Platform`.
//!
//! This is all that the family asks of a kernel. The rest of the file sets it up:
//!
//! ```text
//! device tree ─ regions ─ normalise ─► frames for the family
//!   minus the kernel's image, the tree, the initrd, what the firmware keeps
//! satp (what the boot code got) ─┬─► the mode: Sv39, Sv48 or Sv57
//! command line: mmu=sv39 ...    ─┘
//! ```

use core::sync::atomic::{AtomicUsize, Ordering};

use mm_core::addr::Pfn;
use mm_core::error::NoSpace;
use mm_core::format::PageTableFormat;
use mm_core::object::TicketKey;
use mm_core::page::Frames;
use mm_core::platform::{CpuSet, DirectMap, Flush, Platform, RegionKind, normalise};
use mm_core::pool::FrameHeap;
use mm_core::space::Root;
use mm_core::tlb::{self, AsidPool};
use mm_core::{Mm, MmCell};
use mm_kernel::limits::HEAP_BYTES;
use mm_kernel::memory::frames::give;
use mm_riscv::native::Native;
use mm_riscv::satp::{RV64, Translation};
use mm_riscv::tlb::{
    Emit, Remembered, TlbFeatures, flush_local, flush_remote, load_root, sync_code,
};
use mm_riscv::{Extensions, Paging, Probed};
use mm_virt::tree::Facts;
use spin::Once;

use crate::memory::DIRECT_MAP;
use crate::{cpu, memory};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = mm_riscv::paging::PAGE_SHIFT;

/// The memory of the machine.
static MM: MmCell<Board> = MmCell::new();

/// The tags of spaces.
static ASIDS: AsidPool = AsidPool::new();

/// Who is told when a transfer ends.
static WAKER: Once<fn(TicketKey)> = Once::new();

/// Frames of the heap alone, as many as the portable kernel's bound says: programs that take
/// all memory leave the kernel its own.
static HEAP_FRAMES: Once<Frames<Board>> = Once::new();

#[global_allocator]
static HEAP: FrameHeap<Board> = FrameHeap::new(|| HEAP_FRAMES.get());

/// Flushes that were sent to other harts.
static REMOTE_FLUSHES: AtomicUsize = AtomicUsize::new(0);

/// The mode, and what the harts can do. The same on every CPU.
static PAGING: Once<Mmu> = Once::new();

#[derive(Clone, Copy)]
struct Mmu {
    format: Paging<Probed>,
    mode: Translation,
    tlb: TlbFeatures,
}

/// A RISC-V board with a direct map of all RAM.
pub struct Board {
    memory: DirectMap,
    mmu: Mmu,
}

// SAFETY: `init` gives the family only RAM that the device tree calls usable, without what the
// kernel, the firmware, the tree and the initrd occupy. `cpu` reads the CPU's own record, and
// the kernel is not preempted. `flush` returns when this hart and, by the firmware, all others of
// the set have executed the fences.
unsafe impl Platform for Board {
    type Format = Paging<Probed>;
    type Memory = DirectMap;

    fn format(&self) -> Self::Format {
        self.mmu.format
    }

    fn memory(&self) -> &DirectMap {
        &self.memory
    }

    fn cpu(&self) -> usize {
        cpu::id()
    }

    fn asids(&self) -> Option<&AsidPool> {
        Some(&ASIDS)
    }

    fn flush(&self, cpus: CpuSet, flush: Flush) {
        let (mut native, here) = (native(), cpu::id());
        let others = || cpus.iter().filter(|&cpu| cpu != here);
        if others().next().is_some() {
            REMOTE_FLUSHES.fetch_add(1, Ordering::Relaxed);
            flush_remote(&mut native, others().filter_map(cpu::hart), flush);
        }
        if cpus.contains(here) {
            flush_local(&mut native, self.mmu.tlb, flush);
        }
    }

    fn try_hold(&self, store: u64) -> Result<(), NoSpace> {
        mm_kernel::memory::file::try_hold(frames(), store)
    }

    fn let_go(&self, store: u64, pages: usize) {
        mm_kernel::memory::file::let_go(store, pages);
    }

    fn may_commit(&self, pages: usize) -> bool {
        mm_kernel::memory::counts::may_commit(frames(), pages)
    }

    fn wake(&self, key: TicketKey) {
        if let Some(waker) = WAKER.get() {
            waker(key);
        }
    }

    fn sync_code(&self, _frame: Pfn) {
        sync_all_code();
    }
}

/// Makes what was written visible to the instruction fetches of every CPU.
pub fn sync_all_code() {
    let here = cpu::id();
    let others = cpu::running().filter(|&cpu| cpu != here);
    sync_code(&mut native(), others.filter_map(cpu::hart));
}

/// Makes what was written before this CPU ran visible to its instruction fetches.
pub fn sync_own_code() {
    sync_code(&mut native(), []);
}

/// Orders what this CPU wrote before what it asks the firmware for.
pub fn publish_stores() {
    native().fence();
}

/// Makes the table with this root the CPU's.
///
/// # Safety
///
/// The table has this machine's kernel half and stays alive until another is loaded.
pub unsafe fn load(root: Root) {
    if let Some(mmu) = PAGING.get() {
        let satp = RV64.value(mmu.mode, root.asid, root.table.pfn(PAGE_SHIFT));
        let remembered = match root.remembered {
            tlb::Remembered::Current => Remembered::Own,
            tlb::Remembered::Stale => Remembered::Other,
        };
        load_root(&mut native(), satp, root.asid, remembered);
    }
}

/// Where the memory of programs ends: with the running mode's user half, or with Sv48's. What lies
/// above that in Sv57, programs get by asking for it only, as on Linux: some keep marks in the upper
/// bits of their pointers.
///
/// # Panics
///
/// Before the mode is chosen.
pub fn user_end() -> usize {
    let mmu = PAGING.get().expect("the mode is chosen");
    let end = mmu.format.user_end().addr(PAGE_SHIFT).as_usize();
    end.min(1 << 47)
}

/// The value of `satp` for the kernel's own table.
///
/// # Panics
///
/// When there is no such table yet.
pub fn kernel_satp() -> usize {
    let mmu = PAGING.get().expect("the mode is chosen");
    let root = frames().and_then(Frames::kernel_root);
    RV64.value(mmu.mode, 0, root.expect("the kernel's table")) as usize
}

/// Drops everything that this CPU remembers of any table.
pub fn forget_all() {
    native().sfence_vma(None, None);
}

fn native() -> Native {
    // SAFETY: the kernel runs in supervisor mode above SBI; `load`'s callers promise good roots.
    unsafe { Native::new() }
}

/// Returns the machine's frames, once they are there.
pub fn frames() -> Option<&'static Frames<Board>> {
    MM.get().map(Mm::frames)
}

/// Has `waker` called whenever a transfer ends.
pub fn set_waker(waker: fn(TicketKey)) {
    WAKER.call_once(|| waker);
}

/// Returns how many flushes were sent to other harts.
pub fn remote_flushes() -> usize {
    REMOTE_FLUSHES.load(Ordering::Relaxed)
}

/// Gives back the heap's empty slabs.
pub fn drain_heap() {
    HEAP.drain();
}

/// Counts the heap's frames that hold something.
pub fn heap_frames() -> usize {
    HEAP_FRAMES.get().map_or(0, |frames| {
        let stats = frames.stats();
        stats.total - stats.free
    })
}

/// Makes the machine of the family and gives it all free RAM.
///
/// # Panics
///
/// When the memory map is unusable, or the wanted mode is not there: there is no kernel without
/// memory.
pub fn init(facts: &mut Facts) -> &'static Mm<Board> {
    let mmu = *PAGING.call_once(|| choose_mmu(facts));
    let asid_bits = RV64.probe_asid_bits(&mut native());
    log::info!("{asid_bits} bits of ASID");
    ASIDS.set_bits(asid_bits);
    // SAFETY: the boot table maps all RAM at DIRECT_MAP, and so does the kernel's table after
    // it; the regions leave out what somebody uses.
    let map = || unsafe { DirectMap::new(DIRECT_MAP, PAGE_SHIFT) };
    let board = || Board { memory: map(), mmu };
    let heap = HEAP_FRAMES.call_once(|| Frames::new(board()));
    let mm = MM.init(board());
    let (frames, cx) = (mm.frames(), mm.cx());
    let reserved = facts.add_region(memory::image_range(), RegionKind::Reserved);
    reserved.expect("room for the kernel's own region");
    let mut heap_needs = (HEAP_BYTES >> PAGE_SHIFT) as u64;
    for range in normalise(facts.regions(), PAGE_SHIFT) {
        let (mut start, mut left) = (range.start, range.frames);
        if heap_needs > 0 && left > heap_needs {
            give(heap, start, heap_needs);
            start = Pfn::new(start.as_u64() + heap_needs);
            left -= heap_needs;
            heap_needs = 0;
        }
        give(frames, start, left);
    }
    assert!(heap_needs == 0, "no region is large enough for the heap");
    let zero = frames.init_zero_page(&cx);
    assert!(zero.is_ok(), "no memory for the zero page");
    log::info!("{} MiB free", frames.free_frames() >> (20 - PAGE_SHIFT));
    mm
}

/// The mode of the command line, or the deepest that the hart took at boot, which has all
/// shallower ones, too (10.1.11).
fn choose_mmu(facts: &Facts) -> Mmu {
    let deepest = RV64.mode(native().read_satp());
    let wanted = facts
        .command_line
        .split_ascii_whitespace()
        .find_map(|option| option.strip_prefix("mmu="));
    let mode = match wanted {
        Some("sv39") => Translation::Sv39,
        Some("sv48") => Translation::Sv48,
        Some("sv57") => Translation::Sv57,
        Some(other) => panic!("mmu={other}: there are sv39, sv48 and sv57"),
        None if deepest == Translation::Sv57 as u64 => Translation::Sv57,
        None if deepest == Translation::Sv48 as u64 => Translation::Sv48,
        None => Translation::Sv39,
    };
    assert!(mode as u64 <= deepest, "this hart has no {mode:?}");
    let probed = Probed::from_satp(RV64.value(mode, 0, Pfn::new(0)));
    // Svvptc lets a new entry be seen late, by a fault that only has to be tried again. The
    // kernel's own faults are bugs, and a fresh kernel stack must be there: so fences stay.
    let extensions = Extensions {
        svvptc: false,
        ..Extensions::from_isa(facts.kind(cpu::hart(0).unwrap_or(0) as u64).isa)
    };
    log::info!("mmu: {mode:?}, {extensions:?}");
    Mmu {
        format: Paging::new(probed.expect("a mode of 64-bit harts"), extensions),
        mode,
        tlb: TlbFeatures {
            svinval: extensions.svinval,
        },
    }
}
