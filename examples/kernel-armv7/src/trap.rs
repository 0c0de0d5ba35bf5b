//! Every way into the kernel and out of it.
//!
//! Each exception has a mode with banked `lr`, `sp` and `spsr`. From user mode, each goes on to
//! supervisor mode at once: SRS puts the return address and the status on the kernel stack of
//! the running thread, and the mode is changed. An abort or an undefined instruction of the kernel
//! itself is a bug: it stays on the stack of its own mode, so that it can be reported even when
//! the kernel stack ran over.
//!
//! | exception | return address | from user mode | from the kernel |
//! |---|---|---|---|
//! | SVC | lr | syscall | ignored (semihosting without an emulator) |
//! | undefined | lr - 4, Thumb: lr - 2 | SIGILL | panic |
//! | prefetch abort | lr - 4 | page fault | panic |
//! | data abort | lr - 8 | page fault | panic |
//! | IRQ | lr - 4 | interrupt | interrupt in an open window |
//!
//! Source: DDI 0406C B1.8 (exception handling), B1.8.3 (link values), B9.3.16 (SRS).

use core::arch::{asm, global_asm};

use mm_arm::armv7::fault::{Abort, Cause};
use mm_arm::armv7::native;
use mm_core::prot::Access;
use mm_kernel::arch::{Exception, FaultAccess, Interrupt, Kernel, Trap};
use mm_kernel::stack::ran_over;
use spin::Once;

use crate::arch::Armv7;
use crate::devices;
use crate::frame::UserFrame;
use crate::kernel_table::WINDOW;
use crate::platform::PAGE_SHIFT;

const UNDEFINED: usize = 1;
const PREFETCH: usize = 2;
const DATA: usize = 3;
const IRQ: usize = 4;

static KERNEL: Once<&'static dyn Kernel<Armv7>> = Once::new();

unsafe extern "C" {
    static vectors: [u32; 8];
    fn return_to_user(frame: *const UserFrame) -> !;
}

/// Tells the CPU where the vectors are. Runs once on each CPU.
pub fn init() {
    // SAFETY: the vectors are code written for this; they are mapped as long as the kernel runs.
    unsafe {
        asm!(
            "mcr p15, 0, {}, c12, c0, 0", // VBAR
            "isb",
            in(reg) &raw const vectors,
            options(nostack, preserves_flags)
        );
    }
}

/// Registers the portable kernel, which from now on is told about traps and interrupts.
pub fn register(kernel: &'static dyn Kernel<Armv7>) {
    KERNEL.call_once(|| kernel);
}

/// Loads the registers of `frame` and continues in user mode.
///
/// # Safety
///
/// `frame` stands at the top of the running thread's kernel stack; interrupts are off.
pub unsafe fn leave(frame: *mut UserFrame) -> ! {
    // SAFETY: the caller's promise: the frame is valid and nobody else uses it.
    unsafe {
        prepare_to_leave(&mut *frame);
        return_to_user(frame)
    }
}

/// Returns the portable kernel.
///
/// # Panics
///
/// Before [`register`].
pub fn kernel() -> &'static dyn Kernel<Armv7> {
    *KERNEL
        .get()
        .expect("a trap came before the kernel was registered")
}

extern "C" fn on_syscall(frame: &mut UserFrame) {
    if !frame.is_user() {
        // The kernel's own semihosting call, and nobody listens: `rfe` continues behind it.
        return;
    }
    frame.tls = thread_pointer();
    frame.original_r0 = frame.registers[0];
    kernel().user_trap(frame, Trap::Syscall);
    prepare_to_leave(frame);
}

extern "C" fn on_user_trap(frame: &mut UserFrame, origin: usize) {
    frame.tls = thread_pointer();
    frame.origin = origin;
    let trap = match origin {
        // SAFETY: supervisor mode; interrupts are off, so these are this abort's.
        DATA => unsafe {
            let (status, address) = native::data_fault();
            abort(Abort::data(status), address)
        },
        // SAFETY: as above.
        PREFETCH => unsafe {
            let (status, address) = native::prefetch_fault();
            abort(Abort::prefetch(status), address)
        },
        IRQ => Trap::Interrupt(devices::interrupt()),
        _ => Trap::Exception(Exception::IllegalInstruction),
    };
    kernel().user_trap(frame, trap);
    prepare_to_leave(frame);
}

fn abort(abort: Abort, address: usize) -> Trap {
    if abort.is_page_fault() {
        let access = match abort.access {
            Access::Read => FaultAccess::Read,
            Access::Write => FaultAccess::Write,
            Access::Exec => FaultAccess::Execute,
        };
        return Trap::Fault { address, access };
    }
    assert!(!abort.is_corruption(), "{abort:?} at {address:#x}");
    Trap::Exception(match abort.cause {
        Cause::Debug => Exception::Breakpoint,
        Cause::Alignment | Cause::External => Exception::Alignment,
        _ => Exception::Protection,
    })
}

/// Handles an interrupt in a window that the kernel opened.
extern "C" fn on_kernel_interrupt() {
    let interrupt = devices::interrupt();
    if interrupt != Interrupt::Other {
        kernel().interrupt(interrupt);
    }
}

/// A bug, on the stack of the exception's own mode.
extern "C" fn on_kernel_fault(origin: usize, pc: usize, stack: usize) -> ! {
    // SAFETY: a privileged mode; interrupts are off, so these are this abort's.
    let (what, (status, address)) = unsafe {
        match origin {
            DATA => ("data abort", native::data_fault()),
            PREFETCH => ("prefetch abort", native::prefetch_fault()),
            UNDEFINED => ("undefined instruction", (0, pc)),
            _ => ("unexpected exception", (0, pc)),
        }
    };
    if origin == DATA && ran_over(WINDOW, PAGE_SHIFT, stack, address) {
        panic!("kernel stack overflow at {pc:#x}, stack {stack:#x}, address {address:#x}");
    }
    panic!(
        "{what} in the kernel at {pc:#x}: status {status:#x}, address {address:#x}, stack {stack:#x}"
    )
}

fn prepare_to_leave(frame: &mut UserFrame) {
    frame.make_safe();
    // SAFETY: TPIDRURO, which only programs look at.
    unsafe {
        asm!("mcr p15, 0, {}, c13, c0, 3", in(reg) frame.tls, options(nomem, nostack, preserves_flags));
    }
}

fn thread_pointer() -> usize {
    let tls: usize;
    // SAFETY: reading TPIDRURO has no effect.
    unsafe {
        asm!("mrc p15, 0, {}, c13, c0, 3", out(reg) tls, options(nomem, nostack, preserves_flags))
    };
    tls
}

global_asm!(
    r#"
    /* Saves the program's registers below what SRS stored; r0 = the frame. */
    .macro save_user
    sub sp, sp, #15 * 4
    stmia sp, {{r0-r14}}^
    sub sp, sp, #3 * 4
    mov r0, sp
    .endm

    /* An abort, with lr corrected: to supervisor mode from user mode, or to the report. */
    .macro abort origin
    push {{r0, r1}}
    mrs r0, spsr
    tst r0, #15
    pop {{r0, r1}}
    movne r0, #\origin
    bne kernel_fault
    srsdb sp!, #0x13
    cps #0x13
    save_user
    mov r1, #\origin
    bl {on_user_trap}
    mov r0, sp
    b return_to_user
    .endm

    .pushsection .text.trap, "ax", %progbits
    .arm
    .balign 32
    .global vectors
vectors:
    b vector_unexpected
    b vector_undefined
    b vector_syscall
    b vector_prefetch
    b vector_data
    b vector_unexpected
    b vector_irq
    b vector_unexpected

vector_syscall:
    srsdb sp!, #0x13
    save_user
    bl {on_syscall}
    mov r0, sp
    /* falls into */

    .global return_to_user      /* r0: the frame */
return_to_user:
    mov sp, r0
    dsb ishst                   /* new entries are seen by walks (tlb::publish) */
    clrex                       /* an exclusive access does not span threads */
    add sp, sp, #3 * 4
    ldmia sp, {{r0-r14}}^
    nop
    add sp, sp, #15 * 4
    rfeia sp!

vector_undefined:
    push {{r0, r1}}
    mrs r0, spsr
    tst r0, #0x20
    pop {{r0, r1}}
    subeq lr, lr, #4
    subne lr, lr, #2
    abort {undefined}

vector_prefetch:
    sub lr, lr, #4
    abort {prefetch}

vector_data:
    sub lr, lr, #8
    abort {data}

vector_irq:
    sub lr, lr, #4
    srsdb sp!, #0x13
    cps #0x13
    push {{r0, r1}}
    ldr r0, [sp, #12]
    tst r0, #15
    pop {{r0, r1}}
    bne 2f
    save_user
    mov r1, #{irq}
    bl {on_user_trap}
    mov r0, sp
    b return_to_user
2:  push {{r0-r3, r12, lr}}
    and r1, sp, #4
    sub sp, sp, r1
    push {{r1, lr}}
    bl {on_kernel_interrupt}
    pop {{r1, lr}}
    add sp, sp, r1
    pop {{r0-r3, r12, lr}}
    rfeia sp!

vector_unexpected:
    mov r0, #0
kernel_fault:                   /* r0: origin */
    mov r1, lr
    mrs r3, cpsr
    cps #0x13
    mov r2, sp
    msr cpsr_c, r3
    bl {on_kernel_fault}
    udf #0
    .popsection
    "#,
    on_syscall = sym on_syscall,
    on_user_trap = sym on_user_trap,
    on_kernel_interrupt = sym on_kernel_interrupt,
    on_kernel_fault = sym on_kernel_fault,
    undefined = const UNDEFINED,
    prefetch = const PREFETCH,
    data = const DATA,
    irq = const IRQ,
);
