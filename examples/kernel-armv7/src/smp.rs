//! The other CPUs: how they start, and what they are told.
//!
//! [`mm_virt::startup`] is the protocol. Here is what a CPU needs: a stack, which is its idle
//! thread's and is kept for good, and the context of the firmware's call, by which boot.rs finds
//! the kernel's table and the CPU its number.

use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use mm_virt::startup::{Absent, Startup};
use mm_virt::tree::Facts;
use spin::Once;

use crate::cpu::{self, MAX_CPUS};
use crate::stack::KernelStack;
use crate::{clock, devices, kernel_table, power, trap};

/// Where each CPU's first stack ends; read by boot.rs.
pub static STACKS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

static STARTUP: Startup = Startup::new();

/// The hardware's names of the CPUs to start.
static OTHERS: Once<[Option<u32>; MAX_CPUS - 1]> = Once::new();

unsafe extern "C" {
    fn boot_secondary();
}

/// Notes which CPUs there are. Runs on the first.
pub fn init(facts: &Facts) {
    let mut names = facts.other_cpus(own_name());
    OTHERS.call_once(|| [(); MAX_CPUS - 1].map(|()| names.next().map(|name| name as u32)));
}

/// Starts the other CPUs. Called once, when everything that they use is there.
pub fn start() {
    // Linked where it is loaded.
    let entry = boot_secondary as *const () as u32;
    for &name in OTHERS.get().into_iter().flatten().flatten() {
        let number = STARTUP.running();
        let Some(stack) = KernelStack::new() else {
            log::warn!("no memory for the stack of cpu {number}");
            break;
        };
        let Some(place) = STACKS.get(number) else {
            break;
        };
        place.store(stack.end(), Ordering::Relaxed);
        let context = kernel_table::root() | number as u32;
        // SAFETY: the code at the entry takes this context; the table and the stack are there.
        let ask = || unsafe { power::start_cpu(name, entry, context) };
        let came = STARTUP.bring(ask, clock::monotonic_ns);
        if let Err(absent) = came {
            log::warn!("the CPU {name:#x} stays off: {absent}");
        }
        if matches!(came, Err(Absent::Refused(_))) {
            continue;
        }
        core::mem::forget(stack);
        if came.is_err() {
            break;
        }
    }
    log::info!("{} CPUs run", STARTUP.running());
}

/// The first Rust code of another CPU: runs on its stack and the kernel's table, interrupts off.
pub extern "C" fn secondary_main(number: usize) -> ! {
    cpu::init(number);
    trap::init();
    kernel_table::enter(number);
    devices::init_cpu(number);
    clock::start();
    if STARTUP.arrive(number) {
        trap::kernel().run_secondary();
    }
    loop {
        // SAFETY: sleeps; interrupts are off.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// This CPU's MPIDR affinity, which is its name in the device tree.
fn own_name() -> u64 {
    let name: u32;
    // SAFETY: reading MPIDR has no effect.
    unsafe {
        asm!("mrc p15, 0, {}, c0, c0, 5", out(reg) name, options(nomem, nostack, preserves_flags))
    };
    u64::from(name & 0xff_ffff)
}
