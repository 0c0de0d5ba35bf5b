//! Where this kernel's stacks stand, of [`mm_kernel::stack`].
//!
//! Stacks are the upper half of their slot, whose size is a power of two: one bit of a stack pointer
//! says on which side it is. An overflow runs into the hole: a trap whose entry finds that bit
//! clear, goes to a stack of its own and says what happened.

use mm_core::page::Frames;
use mm_core::tlb::SpaceTlb;
use mm_kernel::stack::{self, Slots, StackArea};

use crate::kernel_table;
use crate::platform::{self, Board, PAGE_SHIFT};

/// Bytes of a stack.
pub const STACK_BYTES: usize = stack::stack_bytes(PAGE_SHIFT);
/// The bit that is set in addresses of stacks.
pub const STACK_SHIFT: u32 = STACK_BYTES.trailing_zeros();

static SLOTS: Slots = Slots::new();

/// The area of stacks in the kernel's half.
pub struct Area;

impl StackArea for Area {
    type Platform = Board;

    const START: usize = 0xffff_ffe0_0000_0000;
    const PAGE_SHIFT: u32 = PAGE_SHIFT;

    fn slots() -> &'static Slots {
        &SLOTS
    }

    fn memory() -> Option<&'static Frames<Board>> {
        platform::frames()
    }

    fn tlb() -> Option<&'static SpaceTlb> {
        kernel_table::tlb()
    }
}

/// One kernel stack. Dropped from another stack than itself.
pub type KernelStack = stack::KernelStack<Area>;

/// Makes the tables of the area. Called once, before the first stack.
pub fn init() {
    stack::init::<Area>();
}
