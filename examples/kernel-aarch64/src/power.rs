//! Starting CPUs by the firmware's calls (PSCI), and leaving the machine: by semihosting, which
//! carries an exit status, or by PSCI where there is none.
//!
//! Sources: Arm "Semihosting for AArch32 and AArch64", 5.9 (SYS_EXIT_EXTENDED); Arm DEN 0022
//! (PSCI), 5.6 (CPU_ON), 5.9 (SYSTEM_OFF); Arm DEN 0028 (registers of a call).

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use mm_kernel::arch::Outcome;
use mm_virt::psci::{self, Refused};
use mm_virt::tree::PsciConduit;
use spin::Once;

const EXIT_EXTENDED: u64 = 0x20;
const APPLICATION_EXIT: u64 = 0x2_0026;

/// How the firmware is called, if there is one.
static CONDUIT: Once<PsciConduit> = Once::new();

/// Set by whoever tried semihosting: without it the instruction is an exception, whose panic
/// comes here again.
static TRIED: AtomicBool = AtomicBool::new(false);

/// Notes how the firmware is called.
pub fn init(conduit: Option<PsciConduit>) {
    if let Some(conduit) = conduit {
        CONDUIT.call_once(|| conduit);
    }
}

/// Starts the CPU whose MPIDR affinity is `name` at a physical address, with `context` in x0. It
/// sees all that this CPU wrote before.
///
/// # Errors
///
/// The CPU stays off, for the firmware's reason.
///
/// # Safety
///
/// The entry is code that brings a CPU of this kernel up without translation, given this context.
pub unsafe fn start_cpu(name: u64, entry: u64, context: u64) -> Result<(), Refused> {
    // SAFETY: the caller's promise.
    unsafe { call(psci::CPU_ON_64, [name, entry, context]) }
}

/// # Safety
///
/// What the call does to this machine is sound.
unsafe fn call(function: u32, [first, second, third]: [u64; 3]) -> Result<(), Refused> {
    const NOT_SUPPORTED: u64 = -1_i64 as u64;
    let mut answer = u64::from(function);
    // SAFETY: the firmware's call by the instruction that the device tree names; it keeps the
    // calling convention. The barrier is for whoever looks at memory next.
    unsafe {
        match CONDUIT.get() {
            Some(PsciConduit::Hvc) => {
                asm!("dsb sy", "hvc #0", inout("x0") answer, in("x1") first, in("x2") second,
                    in("x3") third, clobber_abi("C"), options(nostack));
            }
            Some(PsciConduit::Smc) => {
                asm!("dsb sy", "smc #0", inout("x0") answer, in("x1") first, in("x2") second,
                    in("x3") third, clobber_abi("C"), options(nostack));
            }
            None => answer = NOT_SUPPORTED,
        }
    }
    Refused::check(answer as i32)
}

/// Switches the machine off. QEMU ends with status 0 or 1.
pub fn off(outcome: Outcome) -> ! {
    let status = match outcome {
        Outcome::Success => 0,
        Outcome::Failure => 1,
    };
    let block = [APPLICATION_EXIT, status];
    if !TRIED.swap(true, Ordering::AcqRel) {
        // SAFETY: the debugger, if there is one, reads the block and ends the machine.
        unsafe {
            asm!("hlt #0xf000", inout("x0") EXIT_EXTENDED => _, in("x1") &raw const block,
                options(nostack));
        }
    }
    // SAFETY: the machine ends. A firmware that does not know the call says so.
    let _ = unsafe { call(psci::SYSTEM_OFF, [0; 3]) };
    loop {
        core::hint::spin_loop();
    }
}
