//! Kernel stacks and the context switch.
//!
//! ```text
//! low  ┌──────────────┐
//!      │ guard page   │ not mapped: an overflow is reported from the emergency stack
//!      ├──────────────┤
//!      │ kernel stack │ grows down from the frame
//!      │      ...     │
//!      ├──────────────┤
//!      │ user frame   │ the saved user registers, always at this place
//!      ├──────────────┤ ◄─ SP_EL1 while the thread is in user mode
//!      │ FP image     │
//! high └──────────────┘
//! ```
//!
//! A switch saves the callee-saved registers, exchanges the stack pointers and loads: all other
//! registers are dead across the call. The thread that never ran has a hand-made stack on which
//! the loads end in `thread_start`.
//!
//! Programs maintain caches themselves (`dc cvau`, `ic ivau`), and only a DSB of the CPU that did
//! it completes it. One that is preempted before its own DSB may go on elsewhere, so a switch
//! begins with a DSB, as Linux's `__switch_to` does.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use crate::fp::{self, IMAGE_BYTES, Image};
use crate::frame::{FRAME_BYTES, UserFrame};
use crate::platform::Virt;
use crate::{kernel_table, trap};

/// One kernel stack. Dropped from another stack than itself.
type KernelStack = mm_kernel::stack::KernelStack<Virt>;

/// The words that `switch_stacks` loads: x19 to x30.
const SWITCH_WORDS: usize = 12;

unsafe extern "C" {
    fn switch_stacks(save: *mut usize, load: usize);
    fn thread_start();
}

/// The kernel side of one thread.
pub struct Thread {
    /// The kernel stack pointer while the thread is switched out.
    saved: UnsafeCell<usize>,
    stack: Stack,
}

enum Stack {
    Own(KernelStack),
    /// The boot stack; such a thread never enters user mode.
    Boot,
}

// SAFETY: `saved` is touched only by `switch`, whose contract makes its caller the only user of
// both threads; the stack's memory belongs to the thread alone.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl Thread {
    /// Makes a thread that calls `entry(argument)`.
    pub fn new(entry: extern "C" fn(usize) -> !, argument: usize) -> Option<Self> {
        let stack = KernelStack::new(kernel_table::half()?)?;
        let first =
            (frame_top(&stack) - FRAME_BYTES - SWITCH_WORDS * 8) as *mut [usize; SWITCH_WORDS];
        let mut words = [0; SWITCH_WORDS];
        words[0] = entry as *const () as usize;
        words[1] = argument;
        words[SWITCH_WORDS - 1] = thread_start as *const () as usize;
        // SAFETY: both lie inside the fresh stack, which nobody else knows.
        unsafe {
            fp_image(&stack).write(Image::default());
            first.write(words);
        }
        Some(Self {
            saved: UnsafeCell::new(first as usize),
            stack: Stack::Own(stack),
        })
    }

    /// Names the thread that runs on the boot stack.
    pub fn boot() -> Self {
        Self {
            saved: UnsafeCell::new(0),
            stack: Stack::Boot,
        }
    }

    fn image(&self) -> Option<*mut Image> {
        match &self.stack {
            Stack::Own(stack) => Some(fp_image(stack)),
            Stack::Boot => None,
        }
    }
}

/// Saves the running thread in `from` and continues `to`.
///
/// # Safety
///
/// As `Arch::switch`.
pub unsafe fn switch(from: &Thread, to: &Thread) {
    // SAFETY: images inside the threads' own stacks, initialised when they were made. `to` was
    // saved by an earlier switch (or made by `new`) and runs nowhere: the caller's promise.
    unsafe {
        if let Some(image) = from.image() {
            fp::save(image);
        }
        if let Some(image) = to.image() {
            fp::load(image);
        }
        switch_stacks(from.saved.get(), *to.saved.get());
    }
}

/// Continues in user mode with `frame`.
///
/// # Safety
///
/// As `Arch::enter_user`.
pub unsafe fn enter_user(current: &Thread, frame: &UserFrame) -> ! {
    let Stack::Own(stack) = &current.stack else {
        panic!("the boot thread has no user mode");
    };
    let place = (frame_top(stack) - FRAME_BYTES) as *mut UserFrame;
    // SAFETY: the frame's place at the end of the stack is never used for anything else; `frame`
    // may itself lie there, hence `copy`. Interrupts are off, as everywhere in the kernel.
    unsafe {
        core::ptr::copy(frame, place, 1);
        trap::leave(place)
    }
}

/// Copies the running thread's FP/SIMD state into `child`.
pub fn copy_fp_state(child: &Thread) {
    if let Some(image) = child.image() {
        // SAFETY: the child's image is its own, and the child runs nowhere yet.
        unsafe { fp::save(image) }
    }
}

/// Gives the CPU the FP/SIMD state with which programs start.
pub fn reset_fp_state() {
    // SAFETY: an image of our own.
    unsafe { fp::load(&Image::default()) }
}

fn fp_image(stack: &KernelStack) -> *mut Image {
    (stack.end() - IMAGE_BYTES) as *mut Image
}

fn frame_top(stack: &KernelStack) -> usize {
    fp_image(stack) as usize
}

global_asm!(
    r#"
    .pushsection .text.thread, "ax", @progbits
    .balign 16
switch_stacks:
    dsb     ish                         /* completes the thread's cache maintenance */
    stp     x29, x30, [sp, #-(2 * 8)]!
    stp     x27, x28, [sp, #-(2 * 8)]!
    stp     x25, x26, [sp, #-(2 * 8)]!
    stp     x23, x24, [sp, #-(2 * 8)]!
    stp     x21, x22, [sp, #-(2 * 8)]!
    stp     x19, x20, [sp, #-(2 * 8)]!
    mov     x2, sp
    str     x2, [x0]
    mov     sp, x1
    ldp     x19, x20, [sp], #(2 * 8)
    ldp     x21, x22, [sp], #(2 * 8)
    ldp     x23, x24, [sp], #(2 * 8)
    ldp     x25, x26, [sp], #(2 * 8)
    ldp     x27, x28, [sp], #(2 * 8)
    ldp     x29, x30, [sp], #(2 * 8)
    ret

    .balign 16
thread_start:                       /* x19: the function, x20: its argument */
    mov     x0, x20
    blr     x19
    brk     #1
    .popsection
    "#
);
