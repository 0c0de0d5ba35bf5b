//! What mm-core runs on: this machine's frames, page tables and TLB, as `impl Platform`.
//!
//! This is all that the family asks of a kernel. The rest of the file sets it up:
//!
//! ```text
//! device tree's memory ─ normalise ─► frames for the family
//!   minus the kernel's image, the initrd, the tree itself, what the firmware keeps
//! ```

use core::sync::atomic::{AtomicUsize, Ordering};

use mm_arm::aarch64::native::Native;
use mm_arm::aarch64::tlb::{TlbFeatures, flush_broadcast, flush_local};
use mm_arm::aarch64::{Page4K, Stage1, code};
use mm_core::addr::Pfn;
use mm_core::error::NoSpace;
use mm_core::object::TicketKey;
use mm_core::page::Frames;
use mm_core::platform::{CpuSet, DirectMap, Flush, Platform, normalise};
use mm_core::pool::FrameHeap;
use mm_core::tlb::AsidPool;
use mm_core::{Mm, MmCell};
use mm_kernel::limits::HEAP_BYTES;
use mm_kernel::memory::frames::give;
use spin::Once;

use crate::cpu;
use crate::memory::{DIRECT_MAP, Facts, direct};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;

/// Bits of an address in either half (64 less TCR_EL1.T0SZ and T1SZ).
pub const VA_BITS: u8 = 48;

/// The memory of the machine.
static MM: MmCell<Virt> = MmCell::new();

/// The tags of spaces.
static ASIDS: AsidPool = AsidPool::new();

/// Who is told when a transfer ends.
static WAKER: Once<fn(TicketKey)> = Once::new();

/// Frames of the heap alone, as many as the portable kernel's bound says: programs that take
/// all memory leave the kernel its own.
static HEAP_FRAMES: Once<Frames<Virt>> = Once::new();

/// How many flushes were for other CPUs too.
static REMOTE_FLUSHES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static HEAP: FrameHeap<Virt> = FrameHeap::new(|| HEAP_FRAMES.get());

/// A machine with a direct map of all RAM.
pub struct Virt {
    memory: DirectMap,
    format: Stage1<Page4K>,
    tlb: TlbFeatures,
    cache: code::CacheType,
}

impl Virt {
    fn new() -> Self {
        let features = cpu::features();
        ASIDS.set_bits(features.asid_bits);
        Self {
            // SAFETY: the boot tables map all RAM at DIRECT_MAP, and so does the kernel's table
            // after them; `init` leaves out what somebody uses.
            memory: unsafe { DirectMap::new(DIRECT_MAP, PAGE_SHIFT) },
            format: Stage1::new(VA_BITS, features.ad),
            tlb: features.tlb,
            cache: features.cache,
        }
    }

    /// Returns what TLB instructions depend on.
    pub fn tlb(&self) -> TlbFeatures {
        self.tlb
    }
}

// SAFETY: `init` gives the family only RAM that the device tree calls usable, without what the
// kernel, the loader and the initrd occupy. `cpu` reads the CPU's own record, and the kernel is
// not preempted. A flush of others than this CPU alone is broadcast to all.
unsafe impl Platform for Virt {
    type Format = Stage1<Page4K>;
    type Memory = DirectMap;

    fn format(&self) -> Self::Format {
        self.format
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
        let mut this = CpuSet::EMPTY;
        this.insert(cpu::id());
        // SAFETY: the kernel runs on EL1.
        let mut native = unsafe { Native::new() };
        if cpus == this {
            flush_local(&mut native, self.tlb, flush);
        } else if !cpus.is_empty() {
            REMOTE_FLUSHES.fetch_add(1, Ordering::Relaxed);
            flush_broadcast(&mut native, self.tlb, flush);
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

    fn sync_code(&self, frame: Pfn) {
        let address = direct(frame.addr(PAGE_SHIFT).as_u64());
        // SAFETY: the kernel runs on EL1.
        let mut native = unsafe { Native::new() };
        code::sync_code(&mut native, self.cache, address, 1 << PAGE_SHIFT);
    }
}

/// Returns the machine's frames, once they are there.
pub fn frames() -> Option<&'static Frames<Virt>> {
    MM.get().map(Mm::frames)
}

/// Returns how many flushes were for other CPUs too.
pub fn remote_flushes() -> usize {
    REMOTE_FLUSHES.load(Ordering::Relaxed)
}

/// Has `waker` called whenever a transfer ends.
pub fn set_waker(waker: fn(TicketKey)) {
    WAKER.call_once(|| waker);
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
/// When the memory map is unusable: there is no kernel without memory.
pub fn init(facts: &Facts) -> &'static Mm<Virt> {
    let heap = HEAP_FRAMES.call_once(|| Frames::new(Virt::new()));
    let mm = MM.init(Virt::new());
    let (frames, cx) = (mm.frames(), mm.cx());
    let mut heap_needs = (HEAP_BYTES >> PAGE_SHIFT) as u64;
    for range in normalise(facts.tree.regions(), PAGE_SHIFT) {
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
    mm
}
