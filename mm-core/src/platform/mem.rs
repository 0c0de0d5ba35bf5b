//! Reaching frames: the only casts from a physical address to a reference.
//!
//! mm-core asks for three views of a frame: the words of a page table, a slab
//! of nodes, a stretch of page records. Each frame is in exactly one view at a
//! time (its page record says which), and the views are made before they are
//! asked for, so a shared reference never lies about its type. Everything
//! in a view is atomics or lock-guarded cells. The bytes of user pages are
//! reached only by copying in and out.

#![expect(
    unsafe_code,
    reason = "the one place where a physical address becomes a reference"
)]

use crate::addr::{Pfn, page_size};
use crate::format::{Word, WordCell};
use crate::page::Page;
use crate::pool::Node;
use crate::sync::{Ordering, UserWord};

/// The way from frame numbers to memory.
///
/// # Safety
/// Each method reaches exactly the named frames; `words`, `slab` and
/// `records` return what the matching `make_*` built, and the returned
/// references stay valid as long as `self`. Frames do not overlap.
pub unsafe trait PhysMemory: Sync + 'static {
    /// Fills a frame (or `1 << order` of them) with zero words of a page table.
    fn make_words<C: WordCell>(&self, pfn: Pfn, order: u8);
    /// Returns the words of a page table that `make_words` built.
    fn words<C: WordCell>(&self, pfn: Pfn, order: u8) -> &[C];

    /// Returns one word of a frame that `make_words` built, where a frame holds
    /// `1 << slot_bits` of them: `words(pfn, 0)[slot]`, where a slot too large wraps
    /// around. Each look for a page record asks, so linear memory answers without
    /// measuring the frame.
    #[inline]
    fn word<C: WordCell>(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> Option<&C> {
        let slot = slot & !usize::MAX.wrapping_shl(slot_bits);
        self.words(pfn, 0).get(slot)
    }

    /// Fills a frame with fresh nodes.
    fn make_slab<T: Node>(&self, pfn: Pfn);
    /// Returns the nodes that `make_slab` built.
    fn slab<T: Node>(&self, pfn: Pfn) -> &[T];
    /// Returns one node that `make_slab` built: `slab(pfn)[slot]`, where a slot
    /// too large wraps around, so that there always is one.
    fn node<T: Node>(&self, pfn: Pfn, slot: usize) -> &T;
    /// Returns the node that a handle's number names: frame and slot in one,
    /// where a frame holds `1 << slot_bits` nodes. Each step down a tree asks,
    /// so linear memory answers with one shift.
    #[inline]
    fn nth_node<T: Node>(&self, number: usize, slot_bits: u32) -> &T {
        let pfn = Pfn::new(number.wrapping_shr(slot_bits) as u64);
        self.node(pfn, number & !usize::MAX.wrapping_shl(slot_bits))
    }

    /// Fills `frames` frames with fresh page records.
    fn make_records(&self, pfn: Pfn, frames: usize);
    /// Returns the records that `make_records` built.
    fn records(&self, pfn: Pfn, frames: usize) -> &[Page];
    /// Returns one record of a frame that `make_records` built; as [`Self::word`].
    #[inline]
    fn record(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> Option<&Page> {
        let slot = slot & !usize::MAX.wrapping_shl(slot_bits);
        self.records(pfn, 1).get(slot)
    }

    /// Fills `1 << order` frames with zero bytes.
    fn zero(&self, pfn: Pfn, order: u8);
    /// Copies a frame.
    fn copy(&self, from: Pfn, to: Pfn);
    /// Copies bytes out of a frame; `offset + bytes.len()` lies within it.
    fn read(&self, pfn: Pfn, offset: usize, bytes: &mut [u8]);
    /// Copies bytes into a frame; `offset + bytes.len()` lies within it.
    fn write(&self, pfn: Pfn, offset: usize, bytes: &[u8]);
    /// Loads an aligned u32 of a frame atomically.
    fn load_u32(&self, pfn: Pfn, offset: usize) -> u32;
    /// Replaces an aligned u32 of a frame atomically.
    ///
    /// # Errors
    /// What stood there instead of `old`.
    fn compare_exchange_u32(&self, pfn: Pfn, offset: usize, old: u32, new: u32) -> Result<(), u32>;

    /// Told that a block was handed out, before anyone uses it. Test memories
    /// look here whether someone wrote to it while it was free.
    fn allocated(&self, _pfn: Pfn, _order: u8) {}
    /// Told that nobody uses a block any more, before it can be handed out
    /// again. Test memories poison it.
    fn freed(&self, _pfn: Pfn, _order: u8) {}
}

/// Memory where a frame has an address for as long as the memory lives, and
/// the address tells the frame: what a byte heap needs.
///
/// # Safety
/// The pointer is to the first of `1 << order` frames' bytes, which are valid
/// for reads and writes by whoever allocated them, and `frame_of` is its inverse.
/// It is aligned to a page. Larger blocks are aligned to their size only where
/// `frame_ptr(0)` is: a heap refuses what asks for more.
pub unsafe trait LinearMemory: PhysMemory {
    /// Returns the first byte of a frame.
    fn frame_ptr(&self, pfn: Pfn) -> *mut u8;
    /// Returns the frame that holds a byte.
    fn frame_of(&self, byte: *const u8) -> Pfn;
}

/// Memory that a kernel has mapped linearly: frame `n` at `base + n * page`,
/// wrapping, so that a base below zero is possible (an arena of a host test
/// whose first frame is not 0).
#[derive(Debug)]
pub struct DirectMap {
    base: usize,
    page_shift: u32,
}

impl DirectMap {
    /// Names a linear mapping of all RAM. Its provenance must be exposed.
    ///
    /// # Safety
    /// For every frame that the family is given, `base + (pfn << page_shift)`
    /// is mapped readable and writable, cacheable, as long as this value
    /// lives, and nothing else uses the frame. `page_shift` is that of the
    /// page-table format, and `base` is a multiple of a page.
    pub const unsafe fn new(base: usize, page_shift: u32) -> Self {
        Self { base, page_shift }
    }

    /// Returns the first byte of a frame.
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        let offset = pfn.as_usize().wrapping_shl(self.page_shift);
        core::ptr::with_exposed_provenance_mut(self.base.wrapping_add(offset))
    }

    /// Returns the bytes of a frame from `offset`, of which `len` must be inside.
    fn bytes(&self, pfn: Pfn, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        let fits = end <= page_size(self.page_shift);
        debug_assert!(fits, "access past the end of frame {pfn}: {offset} + {len}");
        fits.then(|| self.frame(pfn).wrapping_add(offset))
    }

    /// Returns how many `T` fit in `frames` frames.
    const fn capacity<T>(&self, frames: usize) -> usize {
        match frames
            .wrapping_shl(self.page_shift)
            .checked_div(size_of::<T>())
        {
            Some(n) => n,
            None => 0,
        }
    }

    /// Returns one of the `T`s that `build` made in a frame that holds `1 << slot_bits`.
    // loom's atomics make types of sizes that do not fill a frame.
    #[cfg(not(loom))]
    #[inline]
    fn nth<T>(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> &T {
        debug_assert!(self.capacity::<T>(1) == 1usize.wrapping_shl(slot_bits));
        let slot = slot & !usize::MAX.wrapping_shl(slot_bits);
        let place = pfn.as_usize().wrapping_shl(slot_bits) | slot;
        let offset = place.wrapping_mul(size_of::<T>());
        let place = core::ptr::with_exposed_provenance::<T>(self.base.wrapping_add(offset));
        // SAFETY: as in `view`: the frame is full of `T`s, and `slot` is one of them.
        unsafe { &*place }
    }

    /// Builds a `T` in each place of `frames` frames.
    fn build<T>(&self, pfn: Pfn, frames: usize, mut make: impl FnMut() -> T) {
        let first = self.frame(pfn).cast::<T>();
        debug_assert!(first.is_aligned());
        for i in 0..self.capacity::<T>(frames) {
            // SAFETY: `i` is below the number of `T` that fit in the frames, and
            // `new` promises that the frames are mapped and used by nobody else.
            // A frame is page-aligned, which no `T` exceeds.
            unsafe { first.wrapping_add(i).write(make()) }
        }
    }

    /// Returns the `T`s that `build` made.
    fn view<T>(&self, pfn: Pfn, frames: usize) -> &[T] {
        let first = self.frame(pfn).cast::<T>();
        debug_assert!(first.is_aligned());
        // SAFETY: the frames are mapped (`new`) and hold `capacity` built `T`s
        // (the trait's contract: a view is made before it is asked for, and a
        // frame is in one view at a time). `T` is atomics or lock-guarded cells:
        // nobody ever makes a `&mut` to it, so shared references may coexist.
        unsafe { core::slice::from_raw_parts(first, self.capacity::<T>(frames)) }
    }

    /// Returns an aligned word of a frame.
    fn word(&self, pfn: Pfn, offset: usize) -> Option<&UserWord> {
        debug_assert!(offset & 3 == 0);
        let place = self
            .bytes(pfn, offset & !3, size_of::<u32>())?
            .cast::<u32>();
        // SAFETY: the place lies in a mapped frame (`bytes`), is aligned (the
        // low bits are cut off, frames are page-aligned) and, being shared with
        // user programs, is accessed by whole words atomically or by raw copies.
        Some(unsafe { UserWord::from_ptr(place) })
    }
}

// SAFETY: frames are contiguous in the linear mapping, by `new`'s promise.
unsafe impl LinearMemory for DirectMap {
    fn frame_ptr(&self, pfn: Pfn) -> *mut u8 {
        self.frame(pfn)
    }

    fn frame_of(&self, byte: *const u8) -> Pfn {
        let offset = byte.addr().wrapping_sub(self.base);
        Pfn::new(offset.wrapping_shr(self.page_shift) as u64)
    }
}

// SAFETY: every method reaches the frames it was given by `DirectMap::new`'s
// promise; `words`, `slab`, `records` and `node` return views of what `build` made.
unsafe impl PhysMemory for DirectMap {
    fn make_words<C: WordCell>(&self, pfn: Pfn, order: u8) {
        self.build(pfn, block(order), || C::new(<C::Word as Word>::ZERO));
    }

    fn words<C: WordCell>(&self, pfn: Pfn, order: u8) -> &[C] {
        self.view(pfn, block(order))
    }

    #[cfg(not(loom))]
    #[inline]
    fn word<C: WordCell>(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> Option<&C> {
        Some(self.nth(pfn, slot, slot_bits))
    }

    fn make_slab<T: Node>(&self, pfn: Pfn) {
        self.build(pfn, 1, T::new);
    }

    fn slab<T: Node>(&self, pfn: Pfn) -> &[T] {
        self.view(pfn, 1)
    }

    fn node<T: Node>(&self, pfn: Pfn, slot: usize) -> &T {
        const { assert!(size_of::<T>() > 0) }
        let slot = slot & self.capacity::<T>(1).wrapping_sub(1);
        let node = self.frame(pfn).cast::<T>().wrapping_add(slot);
        // SAFETY: as in `view`; the slot is below the capacity, which is a power
        // of two because page and node sizes are (`Node`).
        unsafe { &*node }
    }

    // loom's atomics make nodes of sizes that do not fill a frame.
    #[cfg(not(loom))]
    #[inline]
    fn nth_node<T: Node>(&self, number: usize, slot_bits: u32) -> &T {
        debug_assert!(self.capacity::<T>(1) == 1usize.wrapping_shl(slot_bits));
        let offset = number.wrapping_mul(size_of::<T>());
        let node = core::ptr::with_exposed_provenance::<T>(self.base.wrapping_add(offset));
        // SAFETY: as in `node`: a slab is full of nodes, a power of two of
        // them (`Node`), so nodes are numbered through all frames without a hole.
        unsafe { &*node }
    }

    fn make_records(&self, pfn: Pfn, frames: usize) {
        self.build(pfn, frames, Page::new);
    }

    fn records(&self, pfn: Pfn, frames: usize) -> &[Page] {
        self.view(pfn, frames)
    }

    #[cfg(not(loom))]
    #[inline]
    fn record(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> Option<&Page> {
        Some(self.nth(pfn, slot, slot_bits))
    }

    fn zero(&self, pfn: Pfn, order: u8) {
        let len = block(order).wrapping_shl(self.page_shift);
        // SAFETY: the block is mapped, and its owner (who may zero it) allows
        // no reference into it.
        unsafe { self.frame(pfn).write_bytes(0, len) }
    }

    fn copy(&self, from: Pfn, to: Pfn) {
        if from == to {
            return;
        }
        // SAFETY: both frames are mapped and distinct; the destination is the
        // caller's. The source may be written by user programs meanwhile, whose
        // stores this program does not see as its own: any mix of bytes is right.
        unsafe {
            core::ptr::copy_nonoverlapping(
                self.frame(from),
                self.frame(to),
                page_size(self.page_shift),
            );
        }
    }

    fn read(&self, pfn: Pfn, offset: usize, bytes: &mut [u8]) {
        if let Some(from) = self.bytes(pfn, offset, bytes.len()) {
            // SAFETY: `bytes` checked that the place lies in the mapped frame;
            // the caller's buffer is its own.
            unsafe { core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
        }
    }

    fn write(&self, pfn: Pfn, offset: usize, bytes: &[u8]) {
        if let Some(to) = self.bytes(pfn, offset, bytes.len()) {
            // SAFETY: as in `read`, in the other direction.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
        }
    }

    fn load_u32(&self, pfn: Pfn, offset: usize) -> u32 {
        self.word(pfn, offset)
            .map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn compare_exchange_u32(&self, pfn: Pfn, offset: usize, old: u32, new: u32) -> Result<(), u32> {
        let word = self.word(pfn, offset).ok_or(old)?;
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .map(|_| ())
    }
}

/// Returns the number of frames of a block.
const fn block(order: u8) -> usize {
    1usize.wrapping_shl(order as u32)
}
