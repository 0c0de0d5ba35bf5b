//! Where this kernel's stacks stand, of [`mm_kernel::stack`].
//!
//! An overflow runs into the hole below the stack: a page fault that finds no stack, thus a double
//! fault, which has a stack of its own and says what happened.

use mm_core::page::Frames;
use mm_core::tlb::SpaceTlb;
use mm_kernel::stack::{self, Slots, StackArea};

use crate::kernel_table;
use crate::platform::{self, PAGE_SHIFT, Pc};

static SLOTS: Slots = Slots::new();

/// The area of stacks in the kernel's half.
pub struct Area;

impl StackArea for Area {
    type Platform = Pc;

    const START: usize = 0xffff_c000_0000_0000;
    const PAGE_SHIFT: u32 = PAGE_SHIFT;

    fn slots() -> &'static Slots {
        &SLOTS
    }

    fn memory() -> Option<&'static Frames<Pc>> {
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
