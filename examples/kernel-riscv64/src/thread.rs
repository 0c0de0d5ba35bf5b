//! Kernel stacks and the context switch.
//!
//! ```text
//! low  ┌──────────────┐
//!      │ guard pages  │ not mapped: an overflow is reported on a stack of its own
//!      ├──────────────┤
//!      │ kernel stack │ grows down from the frame
//!      │      ...     │
//!      ├──────────────┤ ◄─ the frame's place: sp in Rust code that handles a trap (PerCpu)
//!      │ user frame   │ the saved user registers, always at this place
//!      ├──────────────┤
//!      │ FP image     │
//! high └──────────────┘
//! ```
//!
//! A switch stores the callee-saved registers on the stack, exchanges the stack pointers and
//! loads: all other registers are dead across the call. The thread that never ran has a hand-made
//! stack on which the loads end in `thread_start`.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use crate::fp::{self, IMAGE_BYTES, Image};
use crate::frame::{FRAME_BYTES, UserFrame};
use crate::platform::Board;
use crate::{cpu, kernel_table, trap};

/// One kernel stack. Dropped from another stack than itself.
type KernelStack = mm_kernel::stack::KernelStack<Board>;

/// The words that `switch_stacks` loads: ra, s0 to s11, and one to keep the stack aligned.
const SWITCH_WORDS: usize = 14;

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
        let first = (frame_place(&stack) - SWITCH_WORDS * 8) as *mut [usize; SWITCH_WORDS];
        let mut words = [0; SWITCH_WORDS];
        words[0] = thread_start as *const () as usize; // ra
        words[1] = entry as *const () as usize; // s0
        words[2] = argument; // s1
        // SAFETY: both lie inside the fresh stack, which nobody else knows.
        unsafe {
            image.write(Image::INITIAL);
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

    fn place(&self) -> Option<usize> {
        match &self.stack {
            Stack::Own(stack) => Some(frame_place(stack)),
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
    if let Some(place) = to.place() {
        cpu::current().set_kernel_stack(place);
    }
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
    let place = current.place().expect("the boot thread has no user mode") as *mut UserFrame;
    // SAFETY: the frame's place at the top of the stack is never used for anything else; `frame`
    // may itself lie there, hence `copy`. Interrupts are off, as everywhere in the kernel.
    unsafe {
        core::ptr::copy(frame, place, 1);
        trap::leave(place)
    }
}

/// Copies the running thread's floating-point state into `child`.
pub fn copy_fp_state(child: &Thread) {
    if let Some(image) = child.image() {
        // SAFETY: the child's image is initialised and the child runs nowhere yet.
        unsafe { fp::save(image) }
    }
}

/// Gives the CPU the floating-point state with which programs start.
pub fn reset_fp_state() {
    // SAFETY: an image.
    unsafe { fp::load(&Image::INITIAL) }
}

fn fp_image(stack: &KernelStack) -> *mut Image {
    (stack.end() - IMAGE_BYTES) as *mut Image
}

/// Image and frame are multiples of 16 bytes, so this is aligned as the ABI wants it.
fn frame_place(stack: &KernelStack) -> usize {
    fp_image(stack) as usize - FRAME_BYTES
}

global_asm!(
    r#"
    .pushsection .text.thread, "ax", @progbits
    .balign 4
    .global switch_stacks
switch_stacks:
    addi sp, sp, -{bytes}
    sd ra, 0(sp)
    sd s0, 8(sp)
    sd s1, 16(sp)
    sd s2, 24(sp)
    sd s3, 32(sp)
    sd s4, 40(sp)
    sd s5, 48(sp)
    sd s6, 56(sp)
    sd s7, 64(sp)
    sd s8, 72(sp)
    sd s9, 80(sp)
    sd s10, 88(sp)
    sd s11, 96(sp)
    sd sp, 0(a0)
    mv sp, a1
    ld ra, 0(sp)
    ld s0, 8(sp)
    ld s1, 16(sp)
    ld s2, 24(sp)
    ld s3, 32(sp)
    ld s4, 40(sp)
    ld s5, 48(sp)
    ld s6, 56(sp)
    ld s7, 64(sp)
    ld s8, 72(sp)
    ld s9, 80(sp)
    ld s10, 88(sp)
    ld s11, 96(sp)
    addi sp, sp, {bytes}
    ret

    .balign 4
    .global thread_start
thread_start:                   /* s0: the function, s1: its argument */
    mv a0, s1
    jalr s0
    unimp
    .popsection
    "#,
    bytes = const SWITCH_WORDS * 8,
);
