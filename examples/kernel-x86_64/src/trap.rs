//! Every way into the kernel and out of it.
//!
//! ```text
//! user mode ── syscall ──► syscall_entry ─┐                          ┌─ sysretq (fast)
//!          ── trap ────► trap_entry ──────┴► frame on the thread's ──┴─ iretq   (any frame)
//!                                            kernel stack, Rust code
//! kernel   ── interrupt in an open window ► trap_entry ─ frame on the current stack ─ iretq
//!          ── any other exception ────────► panic
//! double fault, NMI, machine check: on stacks of their own, without GS
//! ```
//!
//! * The user's stack pointer is on the kernel stack from the first instructions on: the CPU
//!   pushes it for a trap; for `syscall`, which leaves it in RSP, the entry parks it in the
//!   CPU's record (interrupts are off) and pushes it to the place where a trap has it.
//! * GS is exchanged exactly when the other side is user mode: always for `syscall`, by the saved
//!   code segment for traps. The three handlers that may interrupt the entry code itself do not
//!   use GS at all.
//!
//! Source: Intel SDM volume 3, chapter 6; volume 2, SYSCALL, SYSRET, SWAPGS.

use core::arch::{asm, global_asm};

use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::control::Cr2;
use x86_64::registers::model_specific::{FsBase, KernelGsBase, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::idt::InterruptDescriptorTable;

use crate::arch::X86_64;
use crate::cpu::{self, KERNEL_CODE, KERNEL_STACK_OFFSET, USER_CODE, USER_DATA, USER_STACK_OFFSET};
use crate::frame::UserFrame;
use crate::kernel_table::WINDOW;
use crate::platform::PAGE_SHIFT;
use crate::{apic, console, pic, shootdown, vsyscall};
use mm_kernel::arch::{Exception, FaultAccess, Interrupt, Kernel, Trap};
use mm_kernel::stack::ran_over;

const DEBUG: usize = 1;
const BREAKPOINT: usize = 3;
const PAGE_FAULT: usize = 14;
const FIRST_LINE: usize = pic::FIRST_VECTOR as usize;
const LAST_LINE: usize = FIRST_LINE + 15;
/// The vectors above the lines are the local APIC's.
const LAST_VECTOR: usize = apic::SPURIOUS as usize;

const WRITE_ERROR: usize = 1 << 1;
const FETCH_ERROR: usize = 1 << 4;

static TABLE: Once<InterruptDescriptorTable> = Once::new();
static KERNEL: Once<&'static dyn Kernel<X86_64>> = Once::new();

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; LAST_VECTOR + 1];
    fn syscall_entry();
    fn nmi_entry();
    fn double_fault_entry();
    fn machine_check_entry();
    fn return_to_user(frame: *const UserFrame, fast: usize) -> !;
}

/// Loads the interrupt table and the syscall entry. Runs once on each CPU.
pub fn init() {
    TABLE.call_once(table).load();
    let kernel = SegmentSelector(KERNEL_CODE);
    Star::write(
        SegmentSelector(USER_CODE),
        SegmentSelector(USER_DATA),
        kernel,
        SegmentSelector(KERNEL_CODE + 8),
    )
    .expect("the segments are in the order that syscall wants");
    LStar::write(VirtAddr::from_ptr(syscall_entry as *const u8));
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::NESTED_TASK
            | RFlags::ALIGNMENT_CHECK
            | RFlags::IOPL_LOW
            | RFlags::IOPL_HIGH,
    );
}

/// Registers the portable kernel, which from now on is told about traps and interrupts.
pub fn register(kernel: &'static dyn Kernel<X86_64>) {
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
        let fast = prepare_to_leave(&mut *frame);
        return_to_user(frame, fast)
    }
}

fn table() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    // SAFETY: the stubs are code of 16 bytes each, written for exactly their vector (below).
    let stub = |vector: usize| VirtAddr::from_ptr(unsafe { &raw const trap_stubs[vector] });
    // SAFETY: each address is an entry written for its vector: the stubs push what the CPU does
    // not; the three entries on stacks of their own never use GS. Interrupt gates switch
    // interrupts off.
    unsafe {
        table.divide_error.set_handler_addr(stub(0));
        table.debug.set_handler_addr(stub(DEBUG));
        table
            .non_maskable_interrupt
            .set_handler_addr(VirtAddr::from_ptr(nmi_entry as *const u8))
            .set_stack_index(cpu::NMI_STACK);
        table
            .breakpoint
            .set_handler_addr(stub(BREAKPOINT))
            .set_privilege_level(x86_64::PrivilegeLevel::Ring3);
        table.overflow.set_handler_addr(stub(4));
        table.bound_range_exceeded.set_handler_addr(stub(5));
        table.invalid_opcode.set_handler_addr(stub(6));
        table.device_not_available.set_handler_addr(stub(7));
        table
            .double_fault
            .set_handler_addr(VirtAddr::from_ptr(double_fault_entry as *const u8))
            .set_stack_index(cpu::DOUBLE_FAULT_STACK);
        table.invalid_tss.set_handler_addr(stub(10));
        table.segment_not_present.set_handler_addr(stub(11));
        table.stack_segment_fault.set_handler_addr(stub(12));
        table.general_protection_fault.set_handler_addr(stub(13));
        table.page_fault.set_handler_addr(stub(PAGE_FAULT));
        table.x87_floating_point.set_handler_addr(stub(16));
        table.alignment_check.set_handler_addr(stub(17));
        table
            .machine_check
            .set_handler_addr(VirtAddr::from_ptr(machine_check_entry as *const u8))
            .set_stack_index(cpu::MACHINE_CHECK_STACK);
        table.simd_floating_point.set_handler_addr(stub(19));
        for vector in FIRST_LINE..=LAST_VECTOR {
            table[vector as u8].set_handler_addr(stub(vector));
        }
    }
    table
}

/// Returns the portable kernel.
pub fn kernel() -> &'static dyn Kernel<X86_64> {
    *KERNEL
        .get()
        .expect("a trap came before the kernel was registered")
}

/// Handles a syscall; answers whether `sysretq` fits.
extern "C" fn on_syscall(frame: &mut UserFrame) -> usize {
    save_user_bases(frame);
    kernel().user_trap(frame, Trap::Syscall);
    prepare_to_leave(frame)
}

/// Handles a trap from user mode; answers whether `sysretq` fits.
extern "C" fn on_user_trap(frame: &mut UserFrame) -> usize {
    if cpu::features().smap {
        // SAFETY: the CPU has SMAP. A trap keeps the program's AC flag, which would suspend it.
        unsafe { asm!("clac", options(nomem, nostack)) };
    }
    save_user_bases(frame);
    let trap = match frame.origin {
        PAGE_FAULT => {
            let address = Cr2::read_raw() as usize;
            match vsyscall::number(address).filter(|_| address == frame.rip) {
                Some(number) => {
                    frame.origin = number;
                    Trap::Call
                }
                None => Trap::Fault {
                    address,
                    access: fault_access(frame.error),
                },
            }
        }
        vector @ FIRST_LINE..=LAST_VECTOR => Trap::Interrupt(interrupt(vector)),
        vector => Trap::Exception(exception(vector)),
    };
    kernel().user_trap(frame, trap);
    prepare_to_leave(frame)
}

/// Handles a trap that interrupted the kernel: an interrupt in an open window, or a bug.
extern "C" fn on_kernel_trap(frame: &mut UserFrame) {
    match frame.origin {
        vector @ FIRST_LINE..=LAST_VECTOR => kernel().interrupt(interrupt(vector)),
        vector => panic!(
            "exception {vector} in the kernel, error {:#x}, address {:#x}\n{frame:#x?}",
            frame.error,
            Cr2::read_raw()
        ),
    }
}

/// A stack that ran over is a page fault that finds no stack.
extern "C" fn on_double_fault(rip: usize, rsp: usize) -> ! {
    let address = Cr2::read_raw() as usize;
    let what = if ran_over(WINDOW, PAGE_SHIFT, rsp, address) {
        "kernel stack overflow"
    } else {
        "double fault"
    };
    panic!("{what} at {rip:#x}, stack {rsp:#x}, address {address:#x}")
}

extern "C" fn on_machine_check(rip: usize, _rsp: usize) -> ! {
    panic!("machine check at {rip:#x}")
}

fn save_user_bases(frame: &mut UserFrame) {
    let cpu = cpu::current();
    frame.fs_base = cpu.loaded_fs.get();
    frame.gs_base = cpu.loaded_gs.get();
}

/// Cleans the frame, loads the bases; answers (as the assembly wants it) whether `sysretq` fits.
fn prepare_to_leave(frame: &mut UserFrame) -> usize {
    frame.make_safe();
    let cpu = cpu::current();
    if cpu.loaded_fs.replace(frame.fs_base) != frame.fs_base {
        FsBase::write(VirtAddr::new(frame.fs_base as u64));
    }
    if cpu.loaded_gs.replace(frame.gs_base) != frame.gs_base {
        KernelGsBase::write(VirtAddr::new(frame.gs_base as u64));
    }
    usize::from(frame.fits_sysret())
}

fn interrupt(vector: usize) -> Interrupt {
    if vector > LAST_LINE {
        return from_apic(vector as u8);
    }
    let line = (vector - FIRST_LINE) as u8;
    if !pic::acknowledge(line) {
        return Interrupt::Other;
    }
    match line {
        pic::TIMER => Interrupt::Tick,
        pic::SERIAL => {
            console::drain();
            Interrupt::Input
        }
        _ => Interrupt::Other,
    }
}

/// Handles an interrupt of the local APIC, from another CPU or this one's timer.
fn from_apic(vector: u8) -> Interrupt {
    match vector {
        // Not acknowledged: it was not delivered.
        apic::SPURIOUS => return Interrupt::Other,
        apic::FLUSH => shootdown::serve(),
        _ => {}
    }
    apic::acknowledge();
    if vector == apic::TIMER {
        Interrupt::Tick
    } else {
        Interrupt::Other
    }
}

/// What a page fault's error code says. Where no page can be closed to fetches (no NX), a fetch is
/// a load: without SMEP the CPU does not tell them apart (SDM volume 3, 4.7), and an area must not
/// answer otherwise before its page is there than after.
fn fault_access(error: usize) -> FaultAccess {
    if error & FETCH_ERROR != 0 && cpu::features().no_execute {
        FaultAccess::Execute
    } else if error & WRITE_ERROR != 0 {
        FaultAccess::Write
    } else {
        FaultAccess::Read
    }
}

fn exception(vector: usize) -> Exception {
    match vector {
        0 => Exception::Arithmetic,
        DEBUG | BREAKPOINT => Exception::Breakpoint,
        6 => Exception::IllegalInstruction,
        16 | 19 => Exception::FloatingPoint,
        17 => Exception::Alignment,
        _ => Exception::Protection,
    }
}

macro_rules! stubs {
    (@push plain) => { "push 0\n" };
    (@push error) => { "" };
    ($($vector:literal $kind:ident,)*) => {
        global_asm!(
            ".pushsection .text.trap_stubs, \"ax\", @progbits",
            ".balign 16",
            ".global trap_stubs",
            "trap_stubs:",
            $(concat!(".balign 16\n", stubs!(@push $kind), "push ", $vector, "\njmp trap_entry"),)*
            ".balign 16",
            ".popsection",
        );
    };
}

stubs! {
    0 plain, 1 plain, 2 plain, 3 plain, 4 plain, 5 plain, 6 plain, 7 plain, 8 error, 9 plain,
    10 error, 11 error, 12 error, 13 error, 14 error, 15 plain, 16 plain, 17 error, 18 plain,
    19 plain, 20 plain, 21 error, 22 plain, 23 plain, 24 plain, 25 plain, 26 plain, 27 plain,
    28 plain, 29 error, 30 error, 31 plain, 32 plain, 33 plain, 34 plain, 35 plain, 36 plain,
    37 plain, 38 plain, 39 plain, 40 plain, 41 plain, 42 plain, 43 plain, 44 plain, 45 plain,
    46 plain, 47 plain, 48 plain, 49 plain, 50 plain, 51 plain, 52 plain, 53 plain, 54 plain,
    55 plain, 56 plain, 57 plain, 58 plain, 59 plain, 60 plain, 61 plain, 62 plain, 63 plain,
}

global_asm!(
    r#"
    .macro save_registers
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push 0                      /* fs_base */
    push 0                      /* gs_base */
    cld
    .endm

    .macro restore_registers
    add rsp, 16
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    add rsp, 16                 /* origin, error: rip is next */
    .endm

    .pushsection .text.trap, "ax", @progbits
    .balign 16
trap_entry:
    test byte ptr [rsp + 24], 3
    jz 2f
    swapgs
    save_registers
    mov rdi, rsp
    call {on_user_trap}
    mov rdi, rsp
    mov rsi, rax
    jmp return_to_user
2:  save_registers
    mov rdi, rsp
    call {on_kernel_trap}
    restore_registers
    iretq

    .balign 16
    .global syscall_entry
syscall_entry:
    swapgs
    mov gs:[{user_stack}], rsp
    mov rsp, gs:[{kernel_stack}]
    push {user_data}
    push qword ptr gs:[{user_stack}]
    push r11
    push {user_code}
    push rcx
    push 0
    push rax
    save_registers
    mov rdi, rsp
    call {on_syscall}
    mov rdi, rsp
    mov rsi, rax
    /* falls into */

    .global return_to_user      /* rdi: the frame, esi: whether sysretq fits */
return_to_user:
    mov rsp, rdi
    test esi, esi
    jnz 2f
    restore_registers
    swapgs
    iretq
2:  restore_registers
    mov rsp, [rsp + 24]         /* rcx and r11 hold rip and rflags, as just checked */
    swapgs
    sysretq

    .balign 16
    .global nmi_entry
nmi_entry:                      /* nothing asks for NMIs here; a watchdog may send one */
    iretq

    .balign 16
    .global double_fault_entry
double_fault_entry:
    mov rdi, [rsp + 8]
    mov rsi, [rsp + 32]
    call {on_double_fault}
    ud2

    .balign 16
    .global machine_check_entry
machine_check_entry:
    mov rdi, [rsp]
    mov rsi, [rsp + 24]
    and rsp, -16
    call {on_machine_check}
    ud2
    .popsection
    "#,
    on_user_trap = sym on_user_trap,
    on_kernel_trap = sym on_kernel_trap,
    on_syscall = sym on_syscall,
    on_double_fault = sym on_double_fault,
    on_machine_check = sym on_machine_check,
    user_stack = const USER_STACK_OFFSET,
    kernel_stack = const KERNEL_STACK_OFFSET,
    user_data = const USER_DATA,
    user_code = const USER_CODE,
);
