//! The other CPUs: how they start, and what they are told.
//!
//! [`mm_kernel::startup`] is the protocol. Here is how the firmware is asked: its call carries a
//! context, by which boot.rs finds the kernel's table and the CPU its number and its stack.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use mm_kernel::startup::Startup;
use mm_virt::psci::Refused;
use spin::Once;

use crate::cpu::{self, MAX_CPUS};
use crate::memory::Facts;
use crate::{clock, devices, kernel_table, power, trap};

/// Where each CPU's first stack ends; read by boot.rs.
pub static STACKS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

static STARTUP: Startup<MAX_CPUS> = Startup::new();

/// The hardware's names of the CPUs to start.
static OTHERS: Once<[Option<u64>; MAX_CPUS - 1]> = Once::new();

unsafe extern "C" {
    fn boot_secondary();
}

/// Notes which CPUs there are. Runs on the first.
pub fn init(facts: &Facts) {
    let mut names = facts.tree.other_cpus(own_name());
    OTHERS.call_once(|| [(); MAX_CPUS - 1].map(|()| names.next()));
}

/// Starts the other CPUs. Called once, when everything that they use is there.
pub fn start() {
    let Some(half) = kernel_table::half() else {
        return;
    };
    let names = OTHERS.get().into_iter().flatten().flatten().copied();
    let say = |message: fmt::Arguments<'_>| log::warn!("{message}");
    STARTUP.bring_all(half, names, start_one, clock::monotonic_ns, say);
    log::info!("{} CPUs run", STARTUP.running());
}

fn start_one(name: u64, number: usize, stack: usize) -> Result<(), Refused> {
    if let Some(place) = STACKS.get(number) {
        place.store(stack, Ordering::Relaxed);
    }
    let entry = kernel_table::physical(boot_secondary as *const () as usize);
    let context = kernel_table::root() | number as u64;
    // SAFETY: the code at the entry takes this context; the table and the stack are there.
    unsafe { power::start_cpu(name, entry, context) }
}

/// The first Rust code of another CPU: runs on its stack and the kernel's table, interrupts off.
pub extern "C" fn secondary_main(number: usize) -> ! {
    if STARTUP.enter(number) {
        if cpu::init(number) {
            trap::init();
            kernel_table::enter(number);
            devices::init_cpu(number);
            clock::start();
            STARTUP.arrive(number);
            trap::kernel().run_secondary();
        }
        STARTUP.turn_away(number);
    }
    loop {
        // SAFETY: sleeps; interrupts are off.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// This CPU's MPIDR_EL1 affinity, which is its name in the device tree.
fn own_name() -> u64 {
    crate::read_register!("mpidr_el1") & 0xff_00ff_ffff
}
