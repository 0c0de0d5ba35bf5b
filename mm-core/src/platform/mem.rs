//! Reaching frames: the only casts from a physical address to a reference.
//!
//! mm-core asks for three views of a frame: the words of a page table, a slab
//! of nodes, a stretch of page records. Each frame is in exactly one view at a
//! time (its page record says which), and the views are made before they are
//! asked for, so a shared reference never lies about its type. Everything
//! in a view is atomics or lock-guarded cells. The bytes of user pages are
//! reached only by copying in and out.

use crate::addr::Pfn;
use crate::format::WordCell;
use crate::page::Page;
use crate::pool::Node;

/// The way from frame numbers to memory.
///
/// # Safety
/// Each method reaches exactly the named frames; `words`, `slab` and
/// `records` return what the matching `make_*` built, and the returned
/// references stay valid as long as `self`. Frames do not overlap.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
pub unsafe trait PhysMemory: Sync + 'static {
    /// Fills a frame (or `1 << order` of them) with zero words of a page table.
    fn make_words<C: WordCell>(&self, pfn: Pfn, order: u8);
    /// Returns the words of a page table that `make_words` built.
    fn words<C: WordCell>(&self, pfn: Pfn, order: u8) -> &[C];

    /// Fills a frame with fresh nodes.
    fn make_slab<T: Node>(&self, pfn: Pfn);
    /// Returns the nodes that `make_slab` built.
    fn slab<T: Node>(&self, pfn: Pfn) -> &[T];

    /// Fills `frames` frames with fresh page records.
    fn make_records(&self, pfn: Pfn, frames: usize);
    /// Returns the records that `make_records` built.
    fn records(&self, pfn: Pfn, frames: usize) -> &[Page];

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
    fn compare_exchange_u32(&self, pfn: Pfn, offset: usize, old: u32, new: u32)
    -> Result<(), u32>;
}

/// Memory that a kernel has mapped linearly: frame `n` at `base + n * page`.
#[derive(Debug)]
pub struct DirectMap {
    base: usize,
    page_shift: u32,
}
