//! Every way into the kernel and out of it.
//!
//! ```text
//! user mode ── ecall, trap, interrupt ─┐                     ┌─ sret
//!                                      └► frame on the       │
//!                                         thread's kernel ───┘
//!                                         stack, Rust code
//! kernel   ── interrupt in an open window ─► frame on the current stack ─ sret
//!          ── any other exception ─────────► panic
//!          ── a stack pointer below one ────► panic, on the CPU's emergency stack
//! ```
//!
//! * One entry serves all. sscratch tells who was interrupted: in user mode it holds the CPU's
//!   record, in the kernel zero.
//! * The way in switches FS and SUM off: the kernel uses no floating-point registers (an
//!   instruction that did would trap) and touches no user memory.
//! * The way out to user mode sets privilege, interrupts and FS itself and takes only registers
//!   from the frame.
//!
//! Source: RISC-V Privileged Architecture 20240411, 10.1.

use core::arch::{asm, global_asm};

use mm_core::prot::Access;
use mm_riscv::fault::{self, Cause};
use spin::Once;

use crate::arch::Riscv64;
use crate::cpu::{EMERGENCY_OFFSET, KERNEL_STACK_OFFSET, SPARE_OFFSET, USER_STACK_OFFSET};
use crate::frame::{FRAME_BYTES, UserFrame};
use crate::platform::PAGE_SHIFT;
use crate::{clock, cpu, devices};
use mm_kernel::arch::{Exception, FaultAccess, Interrupt, Kernel, Trap};
use mm_kernel::stack::stack_bytes;

/// Its bit is clear in addresses of stacks, and set in those below one (`mm_kernel::stack`).
pub const STACK_BYTES: usize = stack_bytes(PAGE_SHIFT);

static KERNEL: Once<&'static dyn Kernel<Riscv64>> = Once::new();

unsafe extern "C" {
    fn trap_entry();
    fn return_to_user(frame: *const UserFrame) -> !;
}

/// Sets the trap entry. Runs once on each CPU, before anything that could trap.
pub fn init() {
    // SAFETY: the entry is aligned to 4 and handles every trap.
    unsafe {
        asm!("csrw stvec, {}", in(reg) trap_entry as *const () as usize, options(nomem, nostack));
    }
}

/// Registers the portable kernel, which from now on is told about traps and interrupts.
pub fn register(kernel: &'static dyn Kernel<Riscv64>) {
    KERNEL.call_once(|| kernel);
}

/// Loads the registers of `frame` and continues in user mode.
///
/// # Safety
///
/// `frame` stands at its place in the running thread's kernel stack; interrupts are off.
pub unsafe fn leave(frame: *const UserFrame) -> ! {
    // SAFETY: the caller's promise: the frame is valid and nobody else uses it.
    unsafe { return_to_user(frame) }
}

/// Returns the portable kernel.
pub fn kernel() -> &'static dyn Kernel<Riscv64> {
    *KERNEL
        .get()
        .expect("a trap came before the kernel was registered")
}

/// Handles a trap from user mode.
extern "C" fn on_user_trap(frame: &mut UserFrame) {
    let trap = match Cause::from_scause(frame.cause) {
        Cause::Interrupt(which) => Trap::Interrupt(interrupt(which)),
        Cause::Exception(fault::Exception::UserCall) => {
            frame.begin_syscall();
            Trap::Syscall
        }
        Cause::Exception(fault::Exception::PageFault(access)) => Trap::Fault {
            address: frame.value,
            access: fault_access(access),
        },
        Cause::Exception(other) => Trap::Exception(exception(other)),
    };
    kernel().user_trap(frame, trap);
}

/// Handles a trap that interrupted the kernel: an interrupt in an open window, or a bug.
extern "C" fn on_kernel_trap(frame: &mut UserFrame) {
    match Cause::from_scause(frame.cause) {
        Cause::Interrupt(which) => {
            let interrupt = interrupt(which);
            kernel().interrupt(interrupt);
        }
        Cause::Exception(other) => panic!(
            "{other:?} in the kernel at {:#x}, address {:#x}\n{frame:#x?}",
            frame.registers[0], frame.value
        ),
    }
}

extern "C" fn on_stack_overflow(pc: usize, address: usize, stack: usize) -> ! {
    panic!("kernel stack overflow at {pc:#x}, stack {stack:#x}, address {address:#x}")
}

fn interrupt(which: fault::Interrupt) -> Interrupt {
    match which {
        fault::Interrupt::Timer => {
            clock::next_tick();
            Interrupt::Tick
        }
        fault::Interrupt::External => devices::interrupt(),
        fault::Interrupt::Software => {
            cpu::end_call();
            Interrupt::Other
        }
        _ => Interrupt::Other,
    }
}

fn fault_access(access: Access) -> FaultAccess {
    match access {
        Access::Read => FaultAccess::Read,
        Access::Write => FaultAccess::Write,
        Access::Exec => FaultAccess::Execute,
    }
}

fn exception(exception: fault::Exception) -> Exception {
    match exception {
        fault::Exception::IllegalInstruction => Exception::IllegalInstruction,
        fault::Exception::Breakpoint => Exception::Breakpoint,
        fault::Exception::Misaligned(_) => Exception::Alignment,
        _ => Exception::Protection,
    }
}

global_asm!(
    r#"
    /* x1, x3 and x5 to x31, at their places in a frame. */
    .macro each_register instruction
    \instruction x1, 8(sp)
    \instruction x3, 24(sp)
    .irp n, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    \instruction x\n, 8*\n(sp)
    .endr
    .endm

    .macro save_causes
    csrr t0, sepc
    csrr t1, sstatus
    csrr t2, scause
    csrr t3, stval
    sd t0, 0(sp)
    sd t1, {status}(sp)
    sd t2, {status}+8(sp)
    sd t3, {status}+16(sp)
    li t0, {fs} | {sum}
    csrc sstatus, t0
    .endm

    .pushsection .text.trap, "ax", @progbits
    .balign 4
    .global trap_entry
trap_entry:
    csrrw tp, sscratch, tp
    beqz tp, 2f

    /* From user mode: tp is the CPU's record, sscratch the user's tp. */
    sd sp, {user_stack}(tp)
    ld sp, {kernel_stack}(tp)
    each_register sd
    ld t0, {user_stack}(tp)
    csrrw t1, sscratch, zero
    sd t0, 16(sp)
    sd t1, 32(sp)
    save_causes
    mv a0, sp
    call {on_user_trap}
    mv a0, sp
    /* falls into */

    .global return_to_user      /* a0: the frame */
return_to_user:
    mv sp, a0
    ld t0, 0(sp)
    csrw sepc, t0
    .option push
    .option arch, +a
    sc.d t0, t0, 0(sp)          /* a reservation does not span threads (A extension, LR and SC) */
    .option pop
    li t0, {spp}
    csrc sstatus, t0
    li t0, {spie} | {fs}
    csrs sstatus, t0
    csrw sscratch, tp
    each_register ld
    ld tp, 32(sp)
    ld sp, 16(sp)
    sret

    /* From the kernel: sscratch is the CPU's record. */
2:  csrrw tp, sscratch, zero
    sd t0, {spare}(tp)
    addi sp, sp, -{frame}
    srli t0, sp, {stack_shift}
    andi t0, t0, 1
    bnez t0, 3f
    ld t0, {spare}(tp)
    each_register sd
    save_causes
    mv a0, sp
    call {on_kernel_trap}
    ld t0, 0(sp)
    ld t1, {status}(sp)
    csrw sepc, t0
    csrw sstatus, t1
    each_register ld
    addi sp, sp, {frame}
    sret

3:  csrr a0, sepc
    csrr a1, stval
    mv a2, sp
    ld sp, {emergency}(tp)
    call {on_stack_overflow}
    unimp
    .popsection
    "#,
    on_user_trap = sym on_user_trap,
    on_kernel_trap = sym on_kernel_trap,
    on_stack_overflow = sym on_stack_overflow,
    user_stack = const USER_STACK_OFFSET,
    kernel_stack = const KERNEL_STACK_OFFSET,
    spare = const SPARE_OFFSET,
    emergency = const EMERGENCY_OFFSET,
    stack_shift = const STACK_BYTES.trailing_zeros(),
    frame = const FRAME_BYTES,
    status = const core::mem::offset_of!(UserFrame, status),
    fs = const 3 << 13,
    sum = const 1 << 18,
    spp = const 1 << 8,
    spie = const 1 << 5,
);
