//! The memory of kernel stacks: pages of their own, each stack above pages that are never mapped.
//!
//! ```text
//!              │ guard │ stack │ guard │             │ guard │ stack │ guard │
//!                      ▲                                     ▲
//!                      └─ multiples of twice a stack's size ─┘
//! ```
//!
//! One bit is clear in all addresses of stacks and set in those right below one: of an address near
//! a stack it says on which side of the stack's lower end it is. An overflow runs into the guard;
//! each architecture says what its CPU makes of that.
//!
//! Tables and addresses are the [`KernelSpace`]'s, which says who may use what and what every CPU
//! forgets before; the frames are the stack's own. A stack is made and dropped with no lock held:
//! the space's lock is the outermost of mm-core's.
//!
//! [`KernelSpace`]: mm_core::table::KernelSpace

use core::hint::black_box;

use mm_core::addr::{Pfn, VirtAddr};
use mm_core::platform::Platform;
use mm_core::prot::Prot;
use mm_core::range::PageRange;

use crate::memory::KernelHalf;

/// Pages of a kernel stack.
pub const STACK_PAGES: usize = 8;

/// Bytes of a stack, for pages of this size.
#[must_use]
pub const fn stack_bytes(page_shift: u32) -> usize {
    STACK_PAGES << page_shift
}

/// Answers whether a fault at `address`, where the stack pointer was `sp`, is a stack of this window
/// that ran over.
#[must_use]
pub const fn ran_over(window: PageRange, page_shift: u32, sp: usize, address: usize) -> bool {
    let bytes = stack_bytes(page_shift);
    // From the hole below a stack to its end.
    let (of_sp, of_address) = (sp.wrapping_add(bytes), address.wrapping_add(bytes));
    let same_stack = of_sp / (2 * bytes) == of_address / (2 * bytes);
    same_stack && address & bytes != 0 && window.contains(VirtAddr::new(sp).vpn(page_shift))
}

/// Fills the running stack until it runs over: the kernel must say so, and end.
pub fn run_over(depth: usize) {
    let frame = [depth; 64];
    if depth < black_box(usize::MAX) {
        run_over(depth + 1);
    }
    // Needed after the call, so that no loop is made of it.
    black_box(&frame);
}

/// One kernel stack. Dropped from another stack than itself.
pub struct KernelStack<P: Platform> {
    half: KernelHalf<P>,
    frames: [Pfn; STACK_PAGES],
    pages: PageRange,
}

impl<P: Platform> KernelStack<P> {
    /// Makes a stack; `None` when there is no memory, or there are too many stacks.
    #[must_use]
    pub fn new(half: KernelHalf<P>) -> Option<Self> {
        let cx = half.cx();
        let mut frames = [Pfn::new(0); STACK_PAGES];
        let mut count = 0;
        for place in &mut frames {
            let Ok(frame) = half.memory.alloc(&cx, 0) else {
                break;
            };
            *place = frame;
            count += 1;
        }
        if count == STACK_PAGES {
            let align = 2 * STACK_PAGES;
            let mapped = half.space.vmap_aligned(&cx, &frames, Prot::RW, align);
            if let Ok(pages) = mapped {
                return Some(Self {
                    half,
                    frames,
                    pages,
                });
            }
        }
        free(half, &frames[..count]);
        None
    }

    /// The first address above it.
    #[must_use]
    pub fn end(&self) -> usize {
        let shift = self.half.cx().page_shift();
        self.pages.end().addr(shift).as_usize()
    }
}

impl<P: Platform> Drop for KernelStack<P> {
    fn drop(&mut self) {
        let gone = self.half.space.vunmap(&self.half.cx(), self.pages.start());
        debug_assert!(gone.is_ok(), "it was mapped: {gone:?}");
        if gone.is_ok() {
            free(self.half, &self.frames);
        }
    }
}

fn free<P: Platform>(half: KernelHalf<P>, frames: &[Pfn]) {
    for &frame in frames {
        let freed = half.memory.free(&half.cx(), frame);
        debug_assert!(freed.is_ok(), "the frame was allocated for a stack");
    }
}

#[cfg(test)]
mod tests {
    use mm_core::addr::Vpn;

    use super::*;

    #[test]
    fn an_overflow_is_told_from_other_faults() {
        const SHIFT: u32 = 12;
        let window = PageRange::with_len(Vpn::new(0x1000), 0x1000).unwrap();
        let bytes = stack_bytes(SHIFT);
        let stack = 0x180_0000;
        assert_eq!(stack % (2 * bytes), 0);
        let over = |sp, address| ran_over(window, SHIFT, sp, address);
        // A push at the lower end, and a frame that reaches below it.
        assert!(over(stack, stack - 8));
        assert!(over(stack + 64, stack - 4096));
        assert!(over(stack - 128, stack - 64));
        assert!(!over(stack + 64, stack + 32), "in the stack");
        assert!(!over(stack + 64, 0), "a null pointer");
        assert!(!over(stack + 64, stack - 2 * bytes - 8), "below another");
        assert!(!over(0x80_0000, 0x80_0000 - 8), "no stack of the window");
    }
}
