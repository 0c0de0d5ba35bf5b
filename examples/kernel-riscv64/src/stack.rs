//! The memory of kernel stacks: pages of their own, each stack above a page that is never mapped.
//!
//! ```text
//! 0xffff_ffe0_0000_0000 ─► │ slot 0             │ slot 1             │ ...
//!                          │ not mapped │ stack │ not mapped │ stack │
//! ```
//!
//! Stacks and holes have the same size, a power of two, and stacks are the upper half of their
//! slot: one bit of a stack pointer says on which side it is. An overflow runs into the hole: a
//! trap whose entry finds that bit clear, goes to a stack of its own and says what happened.

use core::sync::atomic::{AtomicU64, Ordering};

use mm_core::addr::Pfn;
use mm_core::cx::Cx;

use crate::kernel_table;
use crate::platform::{self, PAGE_SHIFT};

/// Pages of a kernel stack.
const STACK_PAGES: usize = 8;
pub const STACK_BYTES: usize = STACK_PAGES << PAGE_SHIFT;
/// The bit that is set in addresses of stacks.
pub const STACK_SHIFT: u32 = STACK_BYTES.trailing_zeros();
/// Bytes of a slot: the stack and as much of nothing.
const SLOT_BYTES: usize = 2 * STACK_BYTES;
const AREA: usize = 0xffff_ffe0_0000_0000;
const WORDS: usize = 16;

/// A bit for each slot in use.
static USED: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// Bytes that one table of the lowest level maps.
const TABLE_BYTES: usize = 512 << PAGE_SHIFT;

/// Makes the tables of the whole area, so that stacks come and go without making any:
/// tables of the kernel's half are never freed.
///
/// # Panics
///
/// When there is not even memory for this.
pub fn init() {
    let memory = platform::frames().expect("frames come first");
    let cx = Cx::new(memory);
    for table in (AREA..AREA + WORDS * 64 * SLOT_BYTES).step_by(TABLE_BYTES) {
        let frame = memory
            .alloc(&cx, 0)
            .expect("memory for the tables of stacks");
        kernel_table::map(memory, table, &[frame]).expect("memory for the tables of stacks");
        kernel_table::unmap(memory, table, 1 << PAGE_SHIFT);
    }
}

/// One kernel stack. Dropped from another stack than itself.
pub struct KernelStack {
    slot: Slot,
}

impl KernelStack {
    /// Makes a stack; `None` when there is no memory, or there are too many stacks.
    pub fn new() -> Option<Self> {
        let slot = Slot::take()?;
        let memory = platform::frames()?;
        let cx = Cx::new(memory);
        let mut frames = [Pfn::new(0); STACK_PAGES];
        let mut count = 0;
        while count < STACK_PAGES
            && let Ok(frame) = memory.alloc(&cx, 0)
        {
            frames[count] = frame;
            count += 1;
        }
        if count < STACK_PAGES || kernel_table::map(memory, slot.start(), &frames).is_err() {
            for &frame in &frames[..count] {
                let freed = memory.free(&cx, frame);
                debug_assert!(freed.is_ok(), "the frame was just allocated");
            }
            return None;
        }
        Some(Self { slot })
    }

    /// The first address above it.
    pub fn end(&self) -> usize {
        self.slot.start() + STACK_BYTES
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        if let Some(memory) = platform::frames() {
            kernel_table::unmap(memory, self.slot.start(), STACK_BYTES);
        }
    }
}

/// A stack's place. Freed after the stack in it was unmapped (fields are dropped last).
struct Slot(usize);

impl Slot {
    fn take() -> Option<Self> {
        for (index, word) in USED.iter().enumerate() {
            let took = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| {
                (bits != u64::MAX).then(|| bits | (bits + 1))
            });
            if let Ok(before) = took {
                return Some(Self(index * 64 + before.trailing_ones() as usize));
            }
        }
        None
    }

    /// The stack's lowest address.
    fn start(&self) -> usize {
        AREA + self.0 * SLOT_BYTES + STACK_BYTES
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        USED[self.0 / 64].fetch_and(!(1 << (self.0 % 64)), Ordering::AcqRel);
    }
}
