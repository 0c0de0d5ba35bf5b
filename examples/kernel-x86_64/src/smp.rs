//! Starts the other CPUs: what this machine adds to [`mm_kernel::startup`].
//!
//! ```text
//! first CPU                              another CPU
//!   copies the trampoline to TRAMPOLINE
//!   leaves stack and number in NEXT
//!   INIT, start-up interrupt ──────────► real mode at TRAMPOLINE, then at once long mode on the
//!   waits                                boot table; at its high address the kernel's table and
//!                                        the stack; `other_main`: enters; segments, features,
//!                                        traps, APIC, tick
//!   the next one ◄────── arrives ──────── then the portable kernel's idle loop
//! ```
//! One CPU is started at a time, because they share the trampoline's few words; and none after one
//! that was given up, which may still read them. That one is not reset: it may have come, and a CPU
//! that is reset while it holds a lock holds it for ever.
//!
//! The page at [`TRAMPOLINE`] lies in the low MiB, which the family never gets; what the loader
//! left there has been read.
//!
//! Source: Intel SDM volume 3, 9.4.4 "MP Initialization Example"; volume 3, 9.8.5 (long mode:
//! paging and protection may be switched on by the same write).

use core::arch::global_asm;
use core::convert::Infallible;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use mm_kernel::startup::Startup;

use crate::acpi::Cpus;
use crate::cpu::{self, MAX_CPUS};
use crate::memory::direct;
use crate::{apic, clock, kernel_table, platform, trap};

/// Where other CPUs begin, physically: a page below 1 MiB.
const TRAMPOLINE: u64 = 0x8000;

/// Between the reset and the first start-up interrupt, and between that and the second.
const RESET_NS: u64 = 10_000_000;
const RETRY_NS: u64 = 1_000_000;

/// What the CPU that is being started finds: its root, its stack, its number.
#[repr(C)]
struct Next {
    root: AtomicU64,
    stack: AtomicU64,
    number: AtomicUsize,
}

static NEXT: Next = Next {
    root: AtomicU64::new(0),
    stack: AtomicU64::new(0),
    number: AtomicUsize::new(0),
};

static STARTUP: Startup<MAX_CPUS> = Startup::new();

/// The APIC of each CPU that runs.
static APICS: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// Starts all CPUs that the firmware named but this one.
pub fn start(cpus: &Cpus) {
    let Some(half) = kernel_table::half().filter(|_| cpus.ids().len() > 1) else {
        return;
    };
    apic::init_first(half);
    let own = apic::id();
    APICS[0].store(own, Ordering::Relaxed);
    copy_trampoline();
    let others = cpus.ids().iter().copied().filter(|&id| id != own);
    let say = |message: fmt::Arguments<'_>| log::warn!("{message}");
    STARTUP.bring_all(half, others, start_one, clock::monotonic_ns, say);
    log::info!("{} CPUs run", STARTUP.running());
}

/// Sends an interrupt to a CPU that runs.
pub fn interrupt(cpu: usize, vector: u8) {
    apic::send(APICS[cpu].load(Ordering::Relaxed), vector);
}

fn copy_trampoline() {
    let start = &raw const trampoline_start as usize;
    let bytes = &raw const trampoline_end as usize - start;
    // SAFETY: the trampoline is linked where it is loaded, and copied to a page of low RAM that
    // nobody owns (module header), which it fits into; both are reached through the direct map.
    unsafe {
        core::ptr::copy_nonoverlapping(
            direct(start as u64) as *const u8,
            direct(TRAMPOLINE) as *mut u8,
            bytes.min(4096),
        );
    }
}

/// Starts the CPU with this APIC. Nothing answers, so nothing is refused.
fn start_one(id: u8, number: usize, stack: usize) -> Result<(), Infallible> {
    APICS[number].store(id, Ordering::Relaxed);
    NEXT.root.store(kernel_table::root(), Ordering::Relaxed);
    NEXT.stack.store(stack as u64, Ordering::Relaxed);
    NEXT.number.store(number, Ordering::Release);
    apic::reset(id);
    wait(RESET_NS);
    let page = (TRAMPOLINE >> 12) as u8;
    apic::startup(id, page);
    wait(RETRY_NS);
    // A CPU that has begun ignores the second one.
    apic::startup(id, page);
    Ok(())
}

fn wait(nanoseconds: u64) {
    let start = clock::monotonic_ns();
    while clock::monotonic_ns() - start < nanoseconds {
        mm_kernel::sync::wait_turn();
    }
}

/// The first Rust code of another CPU: on its own stack and the kernel's table, interrupts off.
extern "C" fn other_main() -> ! {
    let number = NEXT.number.load(Ordering::Acquire);
    if STARTUP.enter(number) {
        if cpu::init(number) {
            trap::init();
            platform::init_cpu();
            kernel_table::join();
            apic::init_other();
            STARTUP.arrive(number);
            trap::kernel().run_secondary()
        }
        STARTUP.turn_away(number);
    }
    loop {
        // Interrupts are off: nothing ends this.
        x86_64::instructions::hlt();
    }
}

global_asm!(
    r#"
    .pushsection .boot.text, "awx", @progbits
    .code16
    .global trampoline_start
trampoline_start:               /* cs = TRAMPOLINE / 16, ip = 0 */
    .byte 0xeb, 8               /* a jump over what lies at offset 4 */
    .short 0
    .short 23                   /* the boot table of segments: its last byte, where it is */
    .long boot_gdt
    cli
    cld
    mov ax, cs
    mov ds, ax
    lgdt [4]
    mov eax, cr4
    or eax, 0x20                /* PAE */
    mov cr4, eax
    mov eax, offset boot_root
    mov cr3, eax
    mov eax, 0x80000001
    cpuid
    mov ebx, edx
    shr ebx, 9                  /* CPUID's NX is bit 20, EFER's NXE bit 11 */
    and ebx, 0x800              /* NXE, which the kernel's table needs where there is NX */
    mov ecx, 0xc0000080         /* EFER */
    rdmsr
    or eax, 0x100               /* LME */
    or eax, ebx
    wrmsr
    mov eax, 0x80010033         /* PG, WP, NE, ET, MP, PE; not CD, not NW */
    mov cr0, eax
    .byte 0x66, 0xea            /* a far jump with a 32-bit offset */
    .long other_long
    .short 8
    .global trampoline_end
trampoline_end:

    .code64
other_long:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    movabs rax, offset other_high
    jmp rax
    .popsection

    .pushsection .text.other_high, "ax", @progbits
other_high:
    mov rax, [rip + {next}]
    mov cr3, rax
    mov rsp, [rip + {next} + 8]
    xor ebp, ebp
    push 0                      /* ends a back trace; keeps the stack aligned at the call */
    push 0
    call {main}
    ud2
    .popsection
    "#,
    next = sym NEXT,
    main = sym other_main,
);
