//! What mm-core runs on: this machine's frames, page tables and TLB, as `impl Platform`.
//!
//! This is all that the family asks of a kernel. The rest of the file sets it up:
//!
//! ```text
//! device tree's memory map ─ normalise ─► frames for the family
//!   minus the kernel's image, the initrd, the tree itself, RAM that the direct map does not reach
//! ```

use core::sync::atomic::{AtomicUsize, Ordering};

use mm_arm::armv7::Short;
use mm_arm::armv7::native::{self, Native};
use mm_arm::armv7::registers::TTBR_SHAREABLE;
use mm_arm::armv7::short::{Hardware, MemoryTypes, Sharing};
use mm_arm::armv7::tlb::{self, Reach};
use mm_core::addr::Pfn;
use mm_core::error::NoSpace;
use mm_core::object::TicketKey;
use mm_core::page::Frames;
use mm_core::platform::{CpuSet, DirectMap, Flush, Platform, normalise};
use mm_core::pool::FrameHeap;
use mm_core::space::Root;
use mm_core::tlb::{AsidPool, Remembered};
use mm_core::{Mm, MmCell};
use mm_kernel::limits::HEAP_BYTES;
use mm_kernel::memory::frames::give;
use mm_virt::tree::Facts;
use spin::Once;

use crate::memory::{DIRECT_MAP, RAM_BASE, direct};
use crate::{code, cpu};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;

/// Of every ASID with short descriptors (DDI 0406C B3.10.4).
const ASID_BITS: u32 = 8;

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

/// An Armv7 machine with a direct map of its RAM.
pub struct Virt {
    memory: DirectMap,
    format: Short,
}

impl Virt {
    fn new() -> Self {
        // SAFETY: the boot table maps RAM from RAM_BASE at DIRECT_MAP, and so does the kernel's
        // table after it; `init` hands out only what the memory map calls usable.
        let memory = unsafe { DirectMap::new(DIRECT_MAP.wrapping_sub(RAM_BASE), PAGE_SHIFT) };
        let format = Short::new(Hardware {
            types: MemoryTypes::Plain,
            sharing: Sharing::Shareable,
            // SAFETY: supervisor mode.
            pxn: unsafe { native::pxn() },
        });
        Self { memory, format }
    }
}

// SAFETY: `init` gives the family only RAM that the device tree calls usable, without what the
// kernel, the tree and the initrd occupy. `cpu` reads the CPU's own register, and the kernel is not
// preempted. A flush of others than this CPU alone is broadcast to all of the inner shareable
// domain.
unsafe impl Platform for Virt {
    type Format = Short;
    type Memory = DirectMap;

    fn format(&self) -> Short {
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
        let reach = if cpus == this {
            Reach::Local
        } else {
            Reach::Broadcast
        };
        if !cpus.is_empty() {
            if reach == Reach::Broadcast {
                REMOTE_FLUSHES.fetch_add(1, Ordering::Relaxed);
            }
            // SAFETY: supervisor mode of a CPU with the Multiprocessing Extensions.
            let mut native = unsafe { Native::new() };
            tlb::flush(&mut native, reach, flush);
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
        code::sync_frame(direct(frame.addr(PAGE_SHIFT).as_u64()));
    }
}

/// Loads a root with its ASID, and drops what is remembered under that if it is stale.
///
/// # Safety
///
/// The table has this machine's kernel half and stays alive until another is loaded.
pub unsafe fn load_root(root: Root) {
    let all_of_it = Flush {
        pages: None,
        tables: true,
        asid: Some(root.asid),
    };
    let table = root.table.as_u64() as u32 | TTBR_SHAREABLE;
    // SAFETY: supervisor mode; the table is the caller's promise.
    unsafe {
        let mut native = Native::new();
        native.switch_root(table, root.asid as u8);
        if root.remembered == Remembered::Stale {
            tlb::flush(&mut native, Reach::Local, all_of_it);
        }
    }
}

/// Drops everything that this CPU remembers of any table.
pub fn forget_all() {
    // SAFETY: supervisor mode.
    tlb::flush_everything(&mut unsafe { Native::new() }, Reach::Local);
}

/// Makes new kernel entries visible to walks. (User entries wait for the return to user mode.)
pub fn publish() {
    // SAFETY: supervisor mode.
    tlb::publish(&mut unsafe { Native::new() });
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
    ASIDS.set_bits(ASID_BITS);
    let (frames, cx) = (mm.frames(), mm.cx());
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
