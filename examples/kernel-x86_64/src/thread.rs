//! Kernel stacks and the context switch.
//!
//! ```text
//! low  ┌──────────────┐
//!      │ guard page   │ not mapped: an overflow is a double fault, on a stack of its own
//!      ├──────────────┤
//!      │ kernel stack │ grows down from the frame
//!      │      ...     │
//!      ├──────────────┤ ◄─ where syscalls and traps start pushing, minus the frame
//!      │ user frame   │ the saved user registers, always at this place
//!      ├──────────────┤ ◄─ kernel stack top (TSS, PerCpu)
//!      │ FP image     │ aligned to 64 bytes
//! high └──────────────┘
//! ```
//!
//! A switch pushes the callee-saved registers, exchanges the stack pointers and pops: all other
//! registers are dead across the call. The thread that never ran has a hand-made stack on which
//! the pops end in `thread_start`.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use crate::frame::{FRAME_BYTES, UserFrame};
use crate::platform::Pc;
use crate::{cpu, fp, kernel_table, trap};

/// One kernel stack. Dropped from another stack than itself.
type KernelStack = mm_kernel::stack::KernelStack<Pc>;

/// The words that `switch_stacks` pops: six registers and the return address.
const SWITCH_WORDS: usize = 7;

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
            (frame_top(&stack) - FRAME_BYTES - SWITCH_WORDS * 8) as *mut [usize; SWITCH_WORDS];
        // SAFETY: both lie inside the fresh stack, which nobody else knows.
        unsafe {
            fp::initialise(image);
            // In the order of the pops: r15, r14, r13, r12, rbx, rbp, return address.
            first.write([
                0,
                0,
                0,
                argument,
                entry as *const () as usize,
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
    let cpu = cpu::current();
    cpu.forget_user_bases();
    if let Some(top) = to.top() {
        cpu.set_kernel_stack(top);
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
        // SAFETY: the child's image is initialised and the child runs nowhere yet.
        unsafe { fp::save(image) }
    }
}

/// Gives the CPU the FP/SIMD state with which programs start.
pub fn reset_fp_state() {
    with_image(|image| {
        // SAFETY: `with_image` lends a buffer of the right size and alignment.
        unsafe {
            fp::initialise(image);
            fp::load(image);
        }
    });
}

/// The largest image: x87, SSE, AVX and AVX-512.
pub const MAX_FP_BYTES: usize = 2816;

/// Lends an aligned buffer for an FP image.
pub fn with_image<R>(use_it: impl FnOnce(*mut u8) -> R) -> R {
    #[repr(C, align(64))]
    struct Image([u8; MAX_FP_BYTES]);
    assert!(
        cpu::features().fp_bytes <= MAX_FP_BYTES,
        "an FP state of unknown size"
    );
    let mut image = MaybeUninit::<Image>::zeroed();
    use_it(image.as_mut_ptr().cast())
}

fn fp_image(stack: &KernelStack) -> *mut u8 {
    let bytes = cpu::features().fp_bytes.next_multiple_of(fp::ALIGNMENT);
    (stack.end() - bytes) as *mut u8
}

/// The image starts at a multiple of 64, so this is aligned as the ABI wants it.
fn frame_top(stack: &KernelStack) -> usize {
    fp_image(stack) as usize
}

global_asm!(
    r#"
    .pushsection .text.thread, "ax", @progbits
    .balign 16
    .global switch_stacks
switch_stacks:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

    .balign 16
    .global thread_start
thread_start:                   /* rbx: the function, r12: its argument */
    mov rdi, r12
    call rbx
    ud2
    .popsection
    "#
);
