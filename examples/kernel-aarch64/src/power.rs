//! Leaving the machine: semihosting, which carries an exit status; PSCI where there is none.
//!
//! Sources: Arm "Semihosting for AArch32 and AArch64", 5.9 (SYS_EXIT_EXTENDED); Arm DEN 0022
//! (PSCI), 5.9 (SYSTEM_OFF).

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use mm_kernel::arch::Outcome;
use mm_virt::tree::PsciConduit;
use spin::Once;

const EXIT_EXTENDED: u64 = 0x20;
const APPLICATION_EXIT: u64 = 0x2_0026;
const PSCI_SYSTEM_OFF: u64 = 0x8400_0008;

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
    // SAFETY: the firmware's call, by the instruction that the device tree names; it does not
    // return.
    unsafe {
        match CONDUIT.get() {
            Some(PsciConduit::Hvc) => {
                asm!("hvc #0", inout("x0") PSCI_SYSTEM_OFF => _, options(nostack));
            }
            Some(PsciConduit::Smc) => {
                asm!("smc #0", inout("x0") PSCI_SYSTEM_OFF => _,
                    options(nostack));
            }
            None => {}
        }
    }
    loop {
        core::hint::spin_loop();
    }
}
