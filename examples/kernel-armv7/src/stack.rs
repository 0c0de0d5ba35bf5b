//! Where this kernel's stacks stand, of [`mm_kernel::stack`].
//!
//! An overflow runs into the hole below the stack: an abort of the kernel, which is handled on the
//! abort mode's own stack and says what happened.

use mm_core::page::Frames;
use mm_core::tlb::SpaceTlb;
use mm_kernel::stack::{self, Slots, StackArea};

use crate::kernel_table;
use crate::memory::STACKS;
use crate::platform::{self, PAGE_SHIFT, Virt};

static SLOTS: Slots = Slots::new();

/// The area of stacks in the kernel's half.
pub struct Area;

impl StackArea for Area {
    type Platform = Virt;

    const START: usize = STACKS;
    const PAGE_SHIFT: u32 = PAGE_SHIFT;

    fn slots() -> &'static Slots {
        &SLOTS
    }

    fn memory() -> Option<&'static Frames<Virt>> {
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
