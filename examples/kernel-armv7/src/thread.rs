//! Kernel stacks and the context switch.
//!
//! ```text
//! low  ┌──────────────┐
//!      │ guard pages  │ not mapped: an overflow is an abort of the kernel, on a stack of its own
//!      ├──────────────┤
//!      │ kernel stack │ grows down from the frame
//!      │      ...     │
//!      ├──────────────┤
//!      │ user frame   │ the saved user registers, always at this place
//!      ├──────────────┤ ◄─ the stack pointer of supervisor mode while the program runs
//!      │ FP image     │ aligned to 8 bytes
//! high └──────────────┘
//! ```
//!
//! A switch pushes the callee-saved registers, exchanges the stack pointers and pops: all other
//! registers are dead across the call. The thread that never ran has a hand-made stack on which
//! the pops end in `thread_start`. The program's stack pointer and link register are in the frame.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use crate::frame::{FRAME_BYTES, UserFrame};
use crate::platform::Virt;
use crate::{fp, kernel_table, trap};

/// One kernel stack. Dropped from another stack than itself.
type KernelStack = mm_kernel::stack::KernelStack<Virt>;

/// The words that `switch_stacks` pops: a filler, eight registers and the return address.
const SWITCH_WORDS: usize = 10;

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
        let image = fp_image(&stack);
        let first =
            (frame_top(&stack) - FRAME_BYTES - SWITCH_WORDS * 4) as *mut [usize; SWITCH_WORDS];
        // SAFETY: both lie inside the fresh stack, which nobody else knows.
        unsafe {
            image.write_bytes(0, fp::IMAGE_BYTES);
            // In the order of the pops: filler, r4 to r11, return address.
            first.write([
                0,
                entry as *const () as usize,
                argument,
                0,
                0,
                0,
                0,
                0,
                0,
                thread_start as *const () as usize,
            ]);
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

    fn image(&self) -> Option<*mut u8> {
        match &self.stack {
            Stack::Own(stack) => Some(fp_image(stack)),
            Stack::Boot => None,
        }
    }

    fn top(&self) -> Option<usize> {
        match &self.stack {
            Stack::Own(stack) => Some(frame_top(stack)),
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
    let top = current.top().expect("the boot thread has no user mode");
    let place = (top - FRAME_BYTES) as *mut UserFrame;
    // SAFETY: the frame's place at the top of the stack is never used for anything else; `frame`
    // may itself lie there, hence `copy`. Interrupts are off, as everywhere in the kernel.
    unsafe {
        core::ptr::copy(frame, place, 1);
        trap::leave(place)
    }
}

/// Copies the running thread's FP/SIMD state into `child`.
pub fn copy_fp_state(child: &Thread) {
    if let Some(image) = child.image() {
        // SAFETY: the child's image is its own and the child runs nowhere yet.
        unsafe { fp::save(image) }
    }
}

/// Gives the CPU the FP/SIMD state with which programs start.
pub fn reset_fp_state() {
    let image = FpImage::ZERO;
    // SAFETY: an aligned image of zeros.
    unsafe { fp::load(image.0.as_ptr()) }
}

/// A buffer for an FP image.
#[repr(C, align(8))]
pub struct FpImage(pub [u8; fp::IMAGE_BYTES]);

impl FpImage {
    /// The state with which programs start.
    pub const ZERO: Self = Self([0; fp::IMAGE_BYTES]);
}

fn fp_image(stack: &KernelStack) -> *mut u8 {
    (stack.end() - fp::IMAGE_BYTES) as *mut u8
}

fn frame_top(stack: &KernelStack) -> usize {
    fp_image(stack) as usize
}

global_asm!(
    r#"
    .pushsection .text.thread, "ax", %progbits
    .arm
    .global switch_stacks
switch_stacks:
    push {{r3-r11, lr}}
    str sp, [r0]
    mov sp, r1
    pop {{r3-r11, pc}}

    .global thread_start
thread_start:                   /* r4: the function, r5: its argument */
    mov r0, r5
    blx r4
    udf #0
    .popsection
    "#
);
