//! Starting CPUs by the firmware's calls (PSCI), and leaving the machine.
//!
//! A debugger or an emulator that listens to semihosting ends with our status; otherwise the
//! firmware ends the machine. Sources: Arm "Semihosting for AArch32 and AArch64",
//! SYS_EXIT_EXTENDED; Arm DEN 0022, CPU_ON and SYSTEM_OFF; Arm DEN 0028 (registers of a call).

use core::arch::asm;

use mm_kernel::arch::Outcome;
use mm_virt::psci::{self, Refused};
use mm_virt::tree::PsciConduit;
use spin::Once;

const SYS_EXIT_EXTENDED: usize = 0x20;
const APPLICATION_EXIT: usize = 0x2_0026;

static CONDUIT: Once<Option<PsciConduit>> = Once::new();

/// Notes how to call the firmware.
pub fn init(conduit: Option<PsciConduit>) {
    CONDUIT.call_once(|| conduit);
}

/// Starts the CPU whose MPIDR affinity is `name` at a physical address, with `context` in r0. It
/// sees all that this CPU wrote before.
///
/// # Errors
///
/// The CPU stays off, for the firmware's reason.
///
/// # Safety
///
/// The entry is code that brings a CPU of this kernel up without translation, given this context.
pub unsafe fn start_cpu(name: u32, entry: u32, context: u32) -> Result<(), Refused> {
    // SAFETY: the caller's promise.
    unsafe { call(psci::CPU_ON, [name, entry, context]) }
}

/// # Safety
///
/// What the call does to this machine is sound.
unsafe fn call(function: u32, [first, second, third]: [u32; 3]) -> Result<(), Refused> {
    const NOT_SUPPORTED: u32 = -1_i32 as u32;
    let mut answer = function;
    // SAFETY: the firmware's call by the instruction that the device tree names; it keeps the
    // calling convention. The barrier is for whoever looks at memory next.
    unsafe {
        match CONDUIT.get().copied().flatten() {
            Some(PsciConduit::Hvc) => {
                asm!(".arch_extension virt", "dsb", "hvc #0", inout("r0") answer,
                    inout("r1") first => _, inout("r2") second => _, inout("r3") third => _,
                    out("r12") _, out("lr") _, options(nostack));
            }
            Some(PsciConduit::Smc) => {
                asm!(".arch_extension sec", "dsb", "smc #0", inout("r0") answer,
                    inout("r1") first => _, inout("r2") second => _, inout("r3") third => _,
                    out("r12") _, out("lr") _, options(nostack));
            }
            None => answer = NOT_SUPPORTED,
        }
    }
    Refused::check(answer as i32)
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
    // Then the firmware's call: the machine ends, or there is no firmware that could.
    unsafe {
        asm!("svc #0x123456", in("r0") SYS_EXIT_EXTENDED, in("r1") &block, lateout("lr") _);
        let _ = call(psci::SYSTEM_OFF, [0; 3]);
    }
    loop {
        // SAFETY: sleeps; interrupts are off.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}
