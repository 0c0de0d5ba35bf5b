//! The machine that our own contenders run on: plain memory, one CPU, no
//! checks. The test world's arena would measure its own checks.

use mm_core::Mm;
use mm_core::addr::Pfn;
use mm_core::format::WordCell;
use mm_core::page::Page;
use mm_core::platform::{CpuSet, DirectMap, Flush, PhysMemory, Platform};
use mm_core::pool::Node;
use mm_core::sync::NoContext;
use mm_x86_64::{FourLevel, Paging};
use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicBool, Ordering};

/// The format of our contenders.
pub type Format = Paging<FourLevel>;

/// Frames of the machine: 256 MiB.
const FRAMES: usize = 64 << 10;

/// Memory that can be told to leave out clearing and copying of user pages, so
/// that what remains is the software's own part.
pub struct Memory {
    map: DirectMap,
    skip: AtomicBool,
}

impl Memory {
    /// Leaves out, or does again, what moves the bytes of whole pages.
    pub fn skip_page_bytes(&self, skip: bool) {
        self.skip.store(skip, Ordering::Relaxed);
    }

    fn skips(&self) -> bool {
        self.skip.load(Ordering::Relaxed)
    }
}

/// The platform.
pub struct Bare {
    memory: Memory,
}

/// Returns the machine, made for one thread and for ever.
pub fn boot() -> &'static Mm<Bare> {
    let layout = Layout::from_size_align(FRAMES << 12, 1 << 21).expect("a layout");
    // SAFETY: the size is not zero.
    let base = unsafe { alloc_zeroed(layout) };
    assert!(!base.is_null(), "no memory for the machine");
    let first = 16;
    // SAFETY: frames `first..first + FRAMES` lie in the allocation, which is
    // never freed and used by nothing else.
    let map = unsafe { DirectMap::new(base.expose_provenance().wrapping_sub(first << 12), 12) };
    let memory = Memory {
        map,
        skip: AtomicBool::new(false),
    };
    let mm: &'static Mm<Bare> = Box::leak(Box::new(Mm::new(Bare { memory })));
    mm.frames()
        .add_region(&NoContext, Pfn::new(first as u64), FRAMES as u64)
        .expect("a region");
    // As a kernel says at boot: the CPU gets what it keeps for itself.
    mm.frames().add_cpus(&NoContext, 1).expect("a CPU");
    mm.frames().init_zero_page(&NoContext).expect("a zero page");
    mm
}

// SAFETY: the frames are an allocation of their own; there is one CPU, and it
// remembers no translation, so that nothing is left to flush.
unsafe impl Platform for Bare {
    type Format = Format;
    type Memory = Memory;

    fn format(&self) -> Format {
        Paging::new(FourLevel)
    }
    fn memory(&self) -> &Memory {
        &self.memory
    }
    fn flush(&self, _cpus: CpuSet, _flush: Flush) {}
}

// SAFETY: `DirectMap` keeps the promises. What is skipped are the bytes of
// user pages, which no reference ever points to.
unsafe impl PhysMemory for Memory {
    #[inline]
    fn make_words<C: WordCell>(&self, pfn: Pfn, order: u8) {
        self.map.make_words::<C>(pfn, order);
    }
    #[inline]
    fn words<C: WordCell>(&self, pfn: Pfn, order: u8) -> &[C] {
        self.map.words(pfn, order)
    }
    #[inline]
    fn word<C: WordCell>(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> Option<&C> {
        self.map.word(pfn, slot, slot_bits)
    }
    #[inline]
    fn make_slab<T: Node>(&self, pfn: Pfn) {
        self.map.make_slab::<T>(pfn);
    }
    #[inline]
    fn slab<T: Node>(&self, pfn: Pfn) -> &[T] {
        self.map.slab(pfn)
    }
    #[inline]
    fn node<T: Node>(&self, pfn: Pfn, slot: usize) -> &T {
        self.map.node(pfn, slot)
    }
    #[inline]
    fn nth_node<T: Node>(&self, number: usize, slot_bits: u32) -> &T {
        self.map.nth_node(number, slot_bits)
    }
    #[inline]
    fn make_records(&self, pfn: Pfn, frames: usize) {
        self.map.make_records(pfn, frames);
    }
    #[inline]
    fn records(&self, pfn: Pfn, frames: usize) -> &[Page] {
        self.map.records(pfn, frames)
    }
    #[inline]
    fn record(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> Option<&Page> {
        self.map.record(pfn, slot, slot_bits)
    }
    #[inline]
    fn zero(&self, pfn: Pfn, order: u8) {
        if !self.skips() {
            self.map.zero(pfn, order);
        }
    }
    #[inline]
    fn copy(&self, from: Pfn, to: Pfn) {
        if !self.skips() {
            self.map.copy(from, to);
        }
    }
    fn read(&self, pfn: Pfn, offset: usize, bytes: &mut [u8]) {
        self.map.read(pfn, offset, bytes);
    }
    fn write(&self, pfn: Pfn, offset: usize, bytes: &[u8]) {
        self.map.write(pfn, offset, bytes);
    }
    fn load_u32(&self, pfn: Pfn, offset: usize) -> u32 {
        self.map.load_u32(pfn, offset)
    }
    fn compare_exchange_u32(&self, pfn: Pfn, offset: usize, old: u32, new: u32) -> Result<(), u32> {
        self.map.compare_exchange_u32(pfn, offset, old, new)
    }
}
