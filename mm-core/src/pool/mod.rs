//! Typed, type-stable pools of nodes over frames.
//!
//! A [`Handle`] names a node: PFN and slot in 32 bits, `pfn << slot_bits |
//! slot`, where a frame holds `1 << slot_bits` nodes; so 128-byte nodes in 4 KiB
//! frames reach 512 GiB, and slabs are of frames below (`Frames::alloc_below`).
//! Nodes are built once when their slab is made and never
//! dropped: a stale handle reads a valid (wrong) node, never garbage. That is
//! why a [`Node`] is all atomics or lock-guarded cells, why there is no `&mut`
//! to one anywhere, and why lock-free readers may look first and check later.
//!
//! States of a slab's frame: buddy → slab (kind `Slab`, live count, free
//! list through the nodes) → emptied (kept) → [`Pool::drain`] → grace
//! period → buddy.

mod handle;
mod heap;
mod lists;
mod slab;

pub use handle::{AtomicHandle, Handle, Node};
pub use heap::FrameHeap;
pub use slab::{Pool, Reserve};
