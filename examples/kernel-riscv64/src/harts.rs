//! The other harts: how they start, and how they are called.
//!
//! ```text
//!  hart that runs                        hart that starts
//!    makes a stack, fills its Handoff
//!    HSM hart_start ────────────────────► hart_entry: paging off, a1 = the Handoff
//!    waits, serving nothing                 stvec = hart_high, satp = the kernel's table:
//!      (kernel mode has no interrupts,      the next fetch faults, and the trap is the jump
//!      remote fences are the firmware's)    to the high half
//!                                           hart_main: enters (mm_kernel::startup); record,
//!    ◄──────────────── arrives ───────────  traps, kernel table, tick
//!    the next hart                          the portable kernel's idle loop
//! ```
//!
//! * **Numbers are dense** and given in the order of starting: the boot hart is CPU 0, whatever
//!   its hart number. One hart starts at a time, and its number is final when it runs.
//! * **Translations**: the kernel's table counts the CPU in before it drops everything that it
//!   remembered, so each later change reaches it, and what it walked before is gone.
//! * **Remote fences** (SBI RFENCE) are done by the firmware with interrupts of machine mode,
//!   which supervisors cannot shut out. So a hart that spins in the kernel with interrupts off
//!   still serves them, any lock may be held while one is sent, and two harts that fence each
//!   other both end: the firmware serves its own queue while it waits. No lock of this kernel
//!   needs to serve anything in its wait loop.
//! * **A kick** (SBI IPI) sets `sip.SSIP` there. It ends a `wfi`, also one that comes after it,
//!   and is taken at the next open window or in user mode.
//!
//! Sources: SBI specification 2.0, chapters 7 "IPI", 8 "RFENCE", 9 "HSM"; RISC-V Privileged
//! Architecture 20240411, 10.1.3 "sip", 10.1.11 "satp".

use core::arch::global_asm;
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicUsize, Ordering};

use mm_kernel::startup::Startup;
use mm_riscv::native;
use mm_riscv::tlb::hart_masks;

use crate::cpu::MAX_CPUS;
use crate::{clock, cpu, kernel_table, memory, platform, trap};

const SBI_IPI: usize = 0x73_5049;
const SBI_HSM: usize = 0x48_534d;
const HART_START: usize = 0;

unsafe extern "C" {
    fn hart_entry();
}

/// What the hart that starts needs. It reads this with paging off.
#[repr(C)]
struct Handoff {
    satp: AtomicUsize,
    stack: AtomicUsize,
    cpu: AtomicUsize,
}

/// One hart starts at a time.
static HANDOFF: Handoff = Handoff {
    satp: AtomicUsize::new(0),
    stack: AtomicUsize::new(0),
    cpu: AtomicUsize::new(0),
};

static STARTUP: Startup<MAX_CPUS> = Startup::new();

/// What the firmware answers instead of starting a hart (SBI 2.0, chapter 3).
struct Refused(isize);

impl fmt::Display for Refused {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "SBI error {}", self.0)
    }
}

/// Starts every other hart and returns when they run. Says which do not come.
pub fn start_all() {
    let Some(half) = kernel_table::half() else {
        return;
    };
    let here = cpu::hart(cpu::id());
    let others = cpu::harts_of_tree().iter().copied();
    let others = others.filter(|&hart| Some(hart) != here);
    let say = |message: fmt::Arguments<'_>| log::warn!("{message}");
    STARTUP.bring_all(half, others, start, clock::monotonic_ns, say);
    log::info!("{} CPUs run", cpu::running().count());
}

fn start(hart: usize, number: usize, stack: usize) -> Result<(), Refused> {
    cpu::announce(hart, number);
    HANDOFF
        .satp
        .store(platform::kernel_satp(), Ordering::Relaxed);
    HANDOFF.stack.store(stack, Ordering::Relaxed);
    HANDOFF.cpu.store(number, Ordering::Relaxed);
    let entry = memory::image(hart_entry as *const u8) as usize;
    let handoff = memory::image((&raw const HANDOFF).cast()) as usize;
    platform::publish_stores();
    // SAFETY: the hart starts in `hart_entry`, which reads the Handoff and leads to `hart_main`.
    let started = unsafe { native::call(SBI_HSM, HART_START, [hart, entry, handoff, 0, 0]) };
    match started {
        Ok(_) => Ok(()),
        Err(error) => {
            cpu::withdraw(number);
            Err(Refused(error))
        }
    }
}

/// The first Rust code of a hart that was started: on its own stack and the kernel's table,
/// interrupts off. That it is like the first one, the device tree said.
extern "C" fn hart_main(number: usize) -> ! {
    if STARTUP.enter(number) {
        cpu::start(number);
        trap::init();
        kernel_table::join(number);
        clock::start();
        cpu::arrive(number);
        // From here on others make their code visible to this hart; what they wrote before is now.
        platform::sync_own_code();
        STARTUP.arrive(number);
        trap::kernel().run_secondary()
    }
    loop {
        cpu::sleep();
    }
}

/// Interrupts a CPU: it leaves its `wfi` and looks at its queue.
pub fn kick(cpu: usize) {
    platform::publish_stores();
    for harts in hart_masks(cpu::hart(cpu)) {
        // SAFETY: the call sets a bit that the hart's trap handler takes back.
        let sent = unsafe { native::call(SBI_IPI, 0, [harts.mask, harts.base, 0, 0, 0]) };
        debug_assert!(sent.is_ok(), "the firmware refused to interrupt CPU {cpu}");
    }
}

global_asm!(
    r#"
    .pushsection .text.harts, "ax", @progbits
    .balign 4
hart_entry:                     /* a1: the physical address of the Handoff */
    csrw sie, zero
    csrci sstatus, 2            /* SIE */
    ld t0, {satp}(a1)
    ld sp, {stack}(a1)
    ld a0, {cpu}(a1)
    la t1, hart_high
    li t2, -1
    slli t2, t2, 32             /* KERNEL_BASE */
    add t1, t1, t2
    csrw stvec, t1
    sfence.vma
    /* The kernel's table does not map what follows: a trap. */
    csrw satp, t0
1:  j 1b

    .balign 4
hart_high:
    csrw sscratch, zero
    mv s0, zero
    mv ra, zero
    call {main}
    unimp
    .popsection
    "#,
    satp = const offset_of!(Handoff, satp),
    stack = const offset_of!(Handoff, stack),
    cpu = const offset_of!(Handoff, cpu),
    main = sym hart_main,
);
