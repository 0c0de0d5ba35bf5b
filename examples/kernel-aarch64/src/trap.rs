//! Every way into the kernel and out of it.
//!
//! ```text
//! user mode ── svc, fault, interrupt ──► user_entry: frame at the end of the thread's kernel
//!                                        stack (SP_EL1 points there), Rust code ──► eret
//! kernel   ── interrupt in an open window ► kernel_interrupt: scratch registers on the current
//!                                        stack ──► eret
//!          ── anything else ─────────────► kernel_fault: on the CPU's emergency stack, panic
//! ```
//!
//! The user's stack pointer is SP_EL0, which the kernel does not use: it is saved in the frame
//! and loaded from there. An exception in the kernel is a bug, and the stack may be the reason (an
//! overflow runs into the page that is never mapped), so it is reported from a stack of its own.
//!
//! Source: Arm ARM DDI 0487, D1.3.1 (vectors), D1.3.4 (what an exception saves).

use core::arch::{asm, global_asm};

use mm_arm::aarch64::fault::{Cause, Class};
use mm_arm::aarch64::{native, registers};
use mm_kernel::arch::{Exception, FaultAccess, Kernel, Trap};
use spin::Once;

use crate::arch::Aarch64;
use crate::cpu::EMERGENCY_STACK_END;
use crate::devices;
use crate::frame::{FRAME_BYTES, UserFrame};
use crate::kernel_table::WINDOW;
use crate::platform::PAGE_SHIFT;
use mm_core::prot::Access;
use mm_kernel::stack::ran_over;

static KERNEL: Once<&'static dyn Kernel<Aarch64>> = Once::new();

/// What the assembly says of a trap from user mode.
const SYNCHRONOUS: usize = 0;
const INTERRUPT: usize = 1;

unsafe extern "C" {
    static trap_vectors: u8;
    fn return_to_user(frame: *const UserFrame) -> !;
}

/// Loads the vectors. Runs once on each CPU.
pub fn init() {
    // SAFETY: the vectors are aligned and written for EL1 (below).
    unsafe {
        asm!("msr vbar_el1, {}", "isb", in(reg) &raw const trap_vectors,
            options(nostack, preserves_flags));
    }
}

/// Registers the portable kernel, which from now on is told about traps and interrupts.
pub fn register(kernel: &'static dyn Kernel<Aarch64>) {
    KERNEL.call_once(|| kernel);
}

/// Loads the registers of `frame` and continues in user mode.
///
/// # Safety
///
/// `frame` stands at the end of the running thread's kernel stack; interrupts are off.
pub unsafe fn leave(frame: *mut UserFrame) -> ! {
    // SAFETY: the caller's promise: the frame is valid and nobody else uses it.
    unsafe {
        (*frame).make_safe();
        return_to_user(frame)
    }
}

/// Returns the portable kernel.
///
/// # Panics
///
/// Before [`register`].
pub fn kernel() -> &'static dyn Kernel<Aarch64> {
    *KERNEL
        .get()
        .expect("a trap came before the kernel was registered")
}

extern "C" fn on_user_trap(frame: &mut UserFrame, kind: usize) {
    let trap = if kind == INTERRUPT {
        Trap::Interrupt(devices::interrupt())
    } else {
        synchronous(frame)
    };
    kernel().user_trap(frame, trap);
    frame.make_safe();
}

fn synchronous(frame: &UserFrame) -> Trap {
    // SAFETY: EL1, and no exception came since the one from user mode.
    let (syndrome, address) = unsafe { (native::syndrome(), native::fault_address()) };
    // The program's tag is its own business.
    let address = registers::untagged(address as u64) as usize;
    let exception = match syndrome.class() {
        Class::Svc => return Trap::Syscall,
        Class::DataAbort | Class::InstructionAbort => match syndrome.cause() {
            cause if cause.is_page_fault() => {
                let access = match syndrome.access() {
                    Access::Read => FaultAccess::Read,
                    Access::Write => FaultAccess::Write,
                    Access::Exec => FaultAccess::Execute,
                };
                return Trap::Fault { address, access };
            }
            cause if cause.is_corruption() => panic!(
                "the page tables are wrong: {cause:?} at {address:#x}, pc {:#x}",
                frame.pc
            ),
            Cause::Alignment | Cause::External => Exception::Alignment,
            _ => Exception::Protection,
        },
        Class::PcAlignment | Class::SpAlignment => Exception::Alignment,
        Class::Brk | Class::Debug => Exception::Breakpoint,
        Class::FpException => Exception::FloatingPoint,
        Class::SError => panic!("an SError: {:#x}", syndrome.bits()),
        _ => Exception::IllegalInstruction,
    };
    Trap::Exception(exception)
}

extern "C" fn on_kernel_interrupt() {
    kernel().interrupt(devices::interrupt());
}

/// Reports an exception in the kernel. `slot` is its vector.
extern "C" fn on_kernel_fault(slot: usize, pc: usize, sp: usize, lr: usize) -> ! {
    // SAFETY: EL1, and no exception came since this one.
    let (syndrome, address) = unsafe { (native::syndrome(), native::fault_address()) };
    if ran_over(WINDOW, PAGE_SHIFT, sp, address) {
        panic!("kernel stack overflow at {pc:#x}, stack {sp:#x}, address {address:#x}");
    }
    panic!(
        "exception in the kernel: vector {slot}, {:?} ({:#x}), {:?}, address {address:#x}, \
         pc {pc:#x}, lr {lr:#x}, sp {sp:#x}",
        syndrome.class(),
        syndrome.bits(),
        syndrome.cause(),
    )
}

global_asm!(
    r#"
    .macro user_vector kind
    .balign 128
    sub     sp, sp, #{frame}
    stp     x0, x1, [sp]
    mov     x1, #\kind
    b       user_entry
    .endm

    .macro fault_vector slot
    .balign 128
    msr     tpidrro_el0, x0         /* nothing is read there any more */
    mov     x0, #\slot
    b       kernel_fault
    .endm

    .pushsection .text.trap, "ax", @progbits
    .balign 2048
    .global trap_vectors
trap_vectors:
    fault_vector 0                  /* the kernel on SP_EL0: never */
    fault_vector 1
    fault_vector 2
    fault_vector 3
    fault_vector 4                  /* the kernel: synchronous */
    .balign 128
    b       kernel_interrupt
    fault_vector 6
    fault_vector 7
    user_vector {synchronous}       /* 64-bit user mode */
    user_vector {interrupt}
    fault_vector 10
    fault_vector 11
    fault_vector 12                 /* 32-bit user mode: never */
    fault_vector 13
    fault_vector 14
    fault_vector 15

    .balign 128
user_entry:                         /* x1: the kind; x0 and x1 are saved */
    stp     x2, x3, [sp, #(2 * 8)]
    stp     x4, x5, [sp, #(4 * 8)]
    stp     x6, x7, [sp, #(6 * 8)]
    stp     x8, x9, [sp, #(8 * 8)]
    stp     x10, x11, [sp, #(10 * 8)]
    stp     x12, x13, [sp, #(12 * 8)]
    stp     x14, x15, [sp, #(14 * 8)]
    stp     x16, x17, [sp, #(16 * 8)]
    stp     x18, x19, [sp, #(18 * 8)]
    stp     x20, x21, [sp, #(20 * 8)]
    stp     x22, x23, [sp, #(22 * 8)]
    stp     x24, x25, [sp, #(24 * 8)]
    stp     x26, x27, [sp, #(26 * 8)]
    stp     x28, x29, [sp, #(28 * 8)]
    mrs     x2, sp_el0
    mrs     x3, elr_el1
    mrs     x4, spsr_el1
    mrs     x5, tpidr_el0
    stp     x30, x2, [sp, #(30 * 8)]
    stp     x3, x4, [sp, #(32 * 8)]
    stp     x5, x0, [sp, #(34 * 8)]
    str     x8, [sp, #(36 * 8)]
    mov     x0, sp
    mov     x29, xzr                /* ends a back trace */
    bl      {on_user_trap}
    mov     x0, sp
    /* falls into */

    .global return_to_user          /* x0: the frame */
return_to_user:
    mov     sp, x0
    ldr     x5, [sp, #(34 * 8)]
    ldp     x3, x4, [sp, #(32 * 8)]
    ldp     x30, x2, [sp, #(30 * 8)]
    msr     tpidr_el0, x5
    msr     spsr_el1, x4
    msr     elr_el1, x3
    msr     sp_el0, x2
    ldp     x28, x29, [sp, #(28 * 8)]
    ldp     x26, x27, [sp, #(26 * 8)]
    ldp     x24, x25, [sp, #(24 * 8)]
    ldp     x22, x23, [sp, #(22 * 8)]
    ldp     x20, x21, [sp, #(20 * 8)]
    ldp     x18, x19, [sp, #(18 * 8)]
    ldp     x16, x17, [sp, #(16 * 8)]
    ldp     x14, x15, [sp, #(14 * 8)]
    ldp     x12, x13, [sp, #(12 * 8)]
    ldp     x10, x11, [sp, #(10 * 8)]
    ldp     x8, x9, [sp, #(8 * 8)]
    ldp     x6, x7, [sp, #(6 * 8)]
    ldp     x4, x5, [sp, #(4 * 8)]
    ldp     x2, x3, [sp, #(2 * 8)]
    ldp     x0, x1, [sp]
    add     sp, sp, #{frame}
    eret

kernel_interrupt:
    sub     sp, sp, #(24 * 8)
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #(2 * 8)]
    stp     x4, x5, [sp, #(4 * 8)]
    stp     x6, x7, [sp, #(6 * 8)]
    stp     x8, x9, [sp, #(8 * 8)]
    stp     x10, x11, [sp, #(10 * 8)]
    stp     x12, x13, [sp, #(12 * 8)]
    stp     x14, x15, [sp, #(14 * 8)]
    stp     x16, x17, [sp, #(16 * 8)]
    stp     x18, x29, [sp, #(18 * 8)]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x30, x0, [sp, #(20 * 8)]
    str     x1, [sp, #(22 * 8)]
    bl      {on_kernel_interrupt}
    ldr     x1, [sp, #(22 * 8)]
    ldp     x30, x0, [sp, #(20 * 8)]
    msr     spsr_el1, x1
    msr     elr_el1, x0
    ldp     x18, x29, [sp, #(18 * 8)]
    ldp     x16, x17, [sp, #(16 * 8)]
    ldp     x14, x15, [sp, #(14 * 8)]
    ldp     x12, x13, [sp, #(12 * 8)]
    ldp     x10, x11, [sp, #(10 * 8)]
    ldp     x8, x9, [sp, #(8 * 8)]
    ldp     x6, x7, [sp, #(6 * 8)]
    ldp     x4, x5, [sp, #(4 * 8)]
    ldp     x2, x3, [sp, #(2 * 8)]
    ldp     x0, x1, [sp]
    add     sp, sp, #(24 * 8)
    eret

kernel_fault:                       /* x0: the vector */
    mov     x2, sp
    mov     x3, x30
    mrs     x1, tpidr_el1
    mov     x4, #{emergency}
    add     x1, x1, x4
    mov     sp, x1
    mrs     x1, elr_el1
    bl      {on_kernel_fault}
    brk     #1
    .popsection
    "#,
    frame = const FRAME_BYTES,
    emergency = const EMERGENCY_STACK_END,
    synchronous = const SYNCHRONOUS,
    interrupt = const INTERRUPT,
    on_user_trap = sym on_user_trap,
    on_kernel_interrupt = sym on_kernel_interrupt,
    on_kernel_fault = sym on_kernel_fault,
);
