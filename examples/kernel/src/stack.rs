//! The memory of kernel stacks: pages of their own, each stack above pages that are never mapped.
//!
//! ```text
//! START ─► │ slot 0             │ slot 1             │ ...
//!          │ not mapped │ stack │ not mapped │ stack │
//! ```
//!
//! Stack and hole have the same size, a power of two, so one bit of an address says in which of
//! them it is. An overflow runs into the hole; each architecture says what its CPU makes of that.
//!
//! A slot belongs to whoever set its bit in [`Slots`], from before its stack is mapped until after
//! every CPU forgot it: no stack is ever mapped where another may still be remembered. There is no
//! lock; what fails is memory and the number of slots, and then nothing is left behind.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};

use mm_core::addr::{Pfn, VirtAddr};
use mm_core::cx::Cx;
use mm_core::format::{Attrs, TableOwner};
use mm_core::page::Frames;
use mm_core::platform::Platform;
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};

/// Pages of a kernel stack.
pub const STACK_PAGES: usize = 8;

/// Pages that one table of the lowest level maps, at least.
const TABLE_PAGES: usize = 512;

const WORDS: usize = 32;
const WORD_SLOTS: usize = u32::BITS as usize;

/// Where an architecture keeps its stacks: `2 * STACK_PAGES` pages for each of [`Slots::COUNT`]
/// slots, which nothing else uses.
pub trait StackArea: Send + Sync + 'static {
    /// What the kernel runs on.
    type Platform: Platform;

    /// First address, at the start of a table of the lowest level.
    const START: usize;

    /// log2 of the page size.
    const PAGE_SHIFT: u32;

    /// Which slots are in use.
    fn slots() -> &'static Slots;

    /// The machine's memory, once it is there.
    fn memory() -> Option<&'static Frames<Self::Platform>>;

    /// Whom to tell when entries of the kernel's table change, once that is loaded.
    fn tlb() -> Option<&'static SpaceTlb>;
}

/// Maps frames at an address of the area, for the kernel alone, on all CPUs. On success the
/// kernel's table owns them; `None` when there is no memory for tables, and nothing is mapped.
fn map<S: StackArea>(cx: &Cx<'static, S::Platform>, start: usize, frames: &[Pfn]) -> Option<()> {
    let (table, tlb) = table::<S>(cx)?;
    let pages = pages::<S>(start, frames.len())?;
    let mapped = CursorMut::new(table, tlb, pages).map_each(frames, Attrs::kernel(Prot::RW));
    mapped.map(|flush| flush.settle_everywhere(cx, tlb)).ok()
}

/// Unmaps pages of the area and frees their frames, after every CPU forgot them.
fn unmap<S: StackArea>(cx: &Cx<'static, S::Platform>, start: usize, count: usize) {
    let (Some((table, tlb)), Some(pages)) = (table::<S>(cx), pages::<S>(start, count)) else {
        return;
    };
    let mut gather = TlbGather::new(cx, tlb);
    let done = CursorMut::new(table, tlb, pages).unmap(&mut gather);
    debug_assert!(done.is_ok(), "there are no large pages here to split");
    let _ = gather.finish();
}

/// The kernel's table, and whom to tell when it changes.
fn table<'c, S: StackArea>(
    cx: &'c Cx<'static, S::Platform>,
) -> Option<(PageTable<'c, 'static, S::Platform>, &'static SpaceTlb)> {
    let root = cx.frames().kernel_root()?;
    let table = PageTable::view(cx, root, TableOwner::Kernel, 0);
    Some((table, S::tlb()?))
}

fn pages<S: StackArea>(start: usize, count: usize) -> Option<PageRange> {
    PageRange::with_len(VirtAddr::new(start).vpn(S::PAGE_SHIFT), count)
}

/// A bit for each slot in use.
pub struct Slots([AtomicU32; WORDS]);

impl Slots {
    /// How many stacks there can be.
    pub const COUNT: usize = WORDS * WORD_SLOTS;

    /// None is in use.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; WORDS])
    }

    fn take(&self) -> Option<usize> {
        for (index, word) in self.0.iter().enumerate() {
            let took = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| {
                (bits != u32::MAX).then(|| bits | (bits + 1))
            });
            if let Ok(before) = took {
                return Some(index * WORD_SLOTS + before.trailing_ones() as usize);
            }
        }
        None
    }

    fn free(&self, slot: usize) {
        if let Some(word) = self.0.get(slot / WORD_SLOTS) {
            word.fetch_and(!(1 << (slot % WORD_SLOTS)), Ordering::AcqRel);
        }
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of a stack, for pages of this size.
#[must_use]
pub const fn stack_bytes(page_shift: u32) -> usize {
    STACK_PAGES << page_shift
}

/// Makes the tables of the whole area, so that stacks come and go without making any: tables of
/// the kernel's half are never freed. Called once, before the first stack.
///
/// # Panics
///
/// When there is not even memory for this.
pub fn init<S: StackArea>() {
    let memory = S::memory().expect("frames come first");
    let cx = Cx::new(memory);
    let end = S::START + Slots::COUNT * slot_bytes::<S>();
    for table in (S::START..end).step_by(TABLE_PAGES << S::PAGE_SHIFT) {
        let frame = memory
            .alloc(&cx, 0)
            .expect("memory for the tables of stacks");
        map::<S>(&cx, table, &[frame]).expect("memory for the tables of stacks");
        unmap::<S>(&cx, table, 1);
    }
}

/// Answers whether an address lies in the area of stacks, but in none: an overflow.
#[must_use]
pub fn is_guard<S: StackArea>(address: usize) -> bool {
    let offset = address.wrapping_sub(S::START);
    offset < Slots::COUNT * slot_bytes::<S>()
        && offset % slot_bytes::<S>() < stack_bytes(S::PAGE_SHIFT)
}

fn slot_bytes<S: StackArea>() -> usize {
    2 * stack_bytes(S::PAGE_SHIFT)
}

/// One kernel stack. Dropped from another stack than itself.
pub struct KernelStack<S: StackArea> {
    slot: Slot<S>,
}

impl<S: StackArea> KernelStack<S> {
    /// Makes a stack; `None` when there is no memory, or there are too many stacks.
    #[must_use]
    pub fn new() -> Option<Self> {
        let slot = Slot::take()?;
        let memory = S::memory()?;
        let cx = Cx::new(memory);
        let mut frames = [Pfn::new(0); STACK_PAGES];
        let mut count = 0;
        for place in &mut frames {
            let Ok(frame) = memory.alloc(&cx, 0) else {
                break;
            };
            *place = frame;
            count += 1;
        }
        if count < STACK_PAGES || map::<S>(&cx, slot.start(), &frames).is_none() {
            for &frame in &frames[..count] {
                let freed = memory.free(&cx, frame);
                debug_assert!(freed.is_ok(), "the frame was just allocated");
            }
            return None;
        }
        Some(Self { slot })
    }

    /// The first address above it.
    #[must_use]
    pub fn end(&self) -> usize {
        self.slot.start() + stack_bytes(S::PAGE_SHIFT)
    }
}

impl<S: StackArea> Drop for KernelStack<S> {
    fn drop(&mut self) {
        if let Some(memory) = S::memory() {
            unmap::<S>(&Cx::new(memory), self.slot.start(), STACK_PAGES);
        }
    }
}

/// A stack's place. Freed after the stack in it was unmapped (fields are dropped last).
struct Slot<S: StackArea>(usize, PhantomData<S>);

impl<S: StackArea> Slot<S> {
    fn take() -> Option<Self> {
        S::slots().take().map(|slot| Self(slot, PhantomData))
    }

    /// The stack's lowest address.
    fn start(&self) -> usize {
        S::START + self.0 * slot_bytes::<S>() + stack_bytes(S::PAGE_SHIFT)
    }
}

impl<S: StackArea> Drop for Slot<S> {
    fn drop(&mut self) {
        S::slots().free(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_given_once_and_again_when_it_is_free() {
        let slots = Slots::new();
        let all: Vec<_> = (0..Slots::COUNT).map(|_| slots.take()).collect();
        assert!(all.iter().copied().eq((0..Slots::COUNT).map(Some)));
        assert_eq!(slots.take(), None);
        for free in [700, 33] {
            slots.free(free);
        }
        assert_eq!(
            [slots.take(), slots.take(), slots.take()],
            [Some(33), Some(700), None]
        );
    }
}
