//! Leaving the machine.
//!
//! A debugger or an emulator that listens to semihosting ends with our status; otherwise the
//! firmware's power call (PSCI) ends the machine. Sources: Arm "Semihosting for AArch32 and
//! AArch64", SYS_EXIT_EXTENDED; Arm DEN 0022, SYSTEM_OFF.

use core::arch::asm;

use mm_kernel::arch::Outcome;
use mm_virt::tree::PsciConduit;
use spin::Once;

const SYS_EXIT_EXTENDED: usize = 0x20;
const APPLICATION_EXIT: usize = 0x2_0026;
const PSCI_SYSTEM_OFF: usize = 0x8400_0008;

static CONDUIT: Once<Option<PsciConduit>> = Once::new();

/// Notes how to call the firmware.
pub fn init(conduit: Option<PsciConduit>) {
    CONDUIT.call_once(|| conduit);
}

/// Switches the machine off. Success ends QEMU with status 0, failure with 1.
pub fn off(outcome: Outcome) -> ! {
    let status = match outcome {
        Outcome::Success => 0,
        Outcome::Failure => 1,
    };
    let block: [usize; 2] = [APPLICATION_EXIT, status];
    // SAFETY: with semihosting the call does not return; without it, it is a syscall of the
    // kernel, which the vector ignores and which clobbers supervisor mode's link register.
    // Then the firmware's call, which does not return either where there is one.
    unsafe {
        asm!("svc #0x123456", in("r0") SYS_EXIT_EXTENDED, in("r1") &block, lateout("lr") _);
        match CONDUIT.get().copied().flatten() {
            Some(PsciConduit::Hvc) => {
                asm!(".arch_extension virt", "hvc #0", in("r0") PSCI_SYSTEM_OFF)
            }
            Some(PsciConduit::Smc) => {
                asm!(".arch_extension sec", "smc #0", in("r0") PSCI_SYSTEM_OFF)
            }
            None => {}
        }
    }
    loop {
        // SAFETY: sleeps; interrupts are off.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}
