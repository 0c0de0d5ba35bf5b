//! What mm-core runs on: this machine's frames, page tables and TLB, as `impl Platform`.
//!
//! This is all that the family asks of a kernel. The rest of the file sets it up:
//!
//! ```text
//! firmware's memory map ─ normalise ─► frames for the family
//!   minus the kernel's image, the initrd, the first MiB (the loader's data, the BIOS's)
//! ```

use mm_core::addr::Pfn;
use mm_core::error::NoSpace;
use mm_core::object::TicketKey;
use mm_core::page::Frames;
use mm_core::platform::{CpuSet, DirectMap, Flush, Platform, Region, RegionKind, normalise};
use mm_core::pool::FrameHeap;
use mm_core::tlb::AsidPool;
use mm_core::{Mm, MmCell};
use mm_kernel::limits::HEAP_BYTES;
use mm_kernel::memory::frames::give;
use mm_x86_64::native;
use mm_x86_64::{FourLevel, Paging};
use spin::Once;

use crate::memory::{DIRECT_MAP, Facts, MAX_REGIONS};
use crate::{cpu, shootdown};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;

/// The IA32_PAT register.
const PAT: u32 = 0x277;

/// Memory below this is not given to the family.
const LOW_MEMORY: u64 = 1 << 20;

/// The memory of the machine.
static MM: MmCell<Pc> = MmCell::new();

/// The tags of spaces.
static ASIDS: AsidPool = AsidPool::new();

/// Who is told when a transfer ends.
static WAKER: Once<fn(TicketKey)> = Once::new();

/// Frames of the heap alone, as many as the portable kernel's bound says: programs that take
/// all memory leave the kernel its own.
static HEAP_FRAMES: Once<Frames<Pc>> = Once::new();

#[global_allocator]
static HEAP: FrameHeap<Pc> = FrameHeap::new(|| HEAP_FRAMES.get());

/// A PC with a direct map of all RAM.
pub struct Pc {
    memory: DirectMap,
    format: Paging<FourLevel>,
}

// SAFETY: `init` gives the family only RAM that the firmware calls usable, without what the
// kernel, the loader and the initrd occupy. `cpu` reads the CPU's own record, and the kernel is
// not preempted. `shootdown` returns when every CPU of the set has flushed.
unsafe impl Platform for Pc {
    type Format = Paging<FourLevel>;
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
        shootdown::flush(cpus, flush);
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

    fn relax(&self, _spins: u32) {
        mm_kernel::sync::wait_turn();
    }

    fn wake(&self, key: TicketKey) {
        if let Some(waker) = WAKER.get() {
            waker(key);
        }
    }
}

/// Returns the machine's frames, once they are there.
pub fn frames() -> Option<&'static Frames<Pc>> {
    MM.get().map(Mm::frames)
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

/// Sets the memory types that the entries name. Runs on each CPU.
pub fn init_cpu() {
    // SAFETY: ring 0; the value is the one that the format's memory types are made for.
    unsafe { native::write_msr(PAT, mm_x86_64::paging::PAT_VALUE) };
}

/// Makes the machine of the family and gives it all free RAM.
///
/// # Panics
///
/// When the memory map is unusable: there is no kernel without memory.
pub fn init(facts: &Facts) -> &'static Mm<Pc> {
    // SAFETY: the boot table maps all RAM at DIRECT_MAP, and so does the kernel's table after
    // it; `usable` leaves out what somebody uses.
    let memory = unsafe { DirectMap::new(DIRECT_MAP, PAGE_SHIFT) };
    let format = format();
    init_cpu();
    // SAFETY: ring 0.
    let tlb = unsafe { native::tlb_features() };
    ASIDS.set_bits(tlb.asid_bits());
    shootdown::init(tlb);
    let heap = HEAP_FRAMES.call_once(|| Frames::new(Pc { memory, format }));
    // SAFETY: as above.
    let memory = unsafe { DirectMap::new(DIRECT_MAP, PAGE_SHIFT) };
    let mm = MM.init(Pc { memory, format });
    let (frames, cx) = (mm.frames(), mm.cx());
    let (regions, count) = reserve(facts);
    let mut heap_needs = (HEAP_BYTES >> PAGE_SHIFT) as u64;
    for range in normalise(&regions[..count], PAGE_SHIFT) {
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

/// The entries of these CPUs: [`cpu::init`] has set EFER.NXE where there is one, the same on all.
fn format() -> Paging<FourLevel> {
    // SAFETY: ring 0, after `cpu::init`.
    Paging::with_features(FourLevel, unsafe { native::paging_features() })
}

/// The firmware's map, with what is taken marked as reserved.
fn reserve(facts: &Facts) -> ([Region; MAX_REGIONS + 3], usize) {
    let taken = [
        0..LOW_MEMORY,
        facts.kernel_range.clone(),
        facts.initrd_range.clone(),
    ]
    .map(|range| region(range.start, range.end - range.start, RegionKind::Reserved));
    let given = facts.regions().iter().map(|given| {
        let kind = if given.usable {
            RegionKind::Usable
        } else {
            RegionKind::Reserved
        };
        region(given.start, given.bytes, kind)
    });
    let mut all = [region(0, 0, RegionKind::Reserved); MAX_REGIONS + 3];
    let mut count = 0;
    for (place, region) in all.iter_mut().zip(given.chain(taken)) {
        *place = region;
        count += 1;
    }
    (all, count)
}

fn region(start: u64, len: u64, kind: RegionKind) -> Region {
    Region { start, len, kind }
}
