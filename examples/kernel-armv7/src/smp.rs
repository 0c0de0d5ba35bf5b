//! The other CPUs: how they start, and how they are called.
//!
//! ```text
//! CPU 0, `start`                                CPU n
//! a number, a stack, STATES[n] = ASKED
//! CPU_ON (power.rs) ──────────────────────────► boot_secondary: translation on, its stack
//! waits                                         its record, vectors, table, interrupts, tick
//! takes the next                ◄────────────── ASKED ─► HERE, and runs the portable kernel
//! ASKED ─► GIVEN_UP after a second              finds GIVEN_UP: sleeps for ever
//! ```
//!
//! Numbers are dense: one that the firmware refused goes to the next CPU, and after one that was
//! given up none is started. The stack of a CPU is its idle thread's, and is kept for good.
//!
//! What each CPU writes here is an atomic; [`RUNNING`] counts CPUs that are HERE, CPU 0 included,
//! and only CPU 0 writes it.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use mm_virt::tree::Facts;
use spin::Once;

use crate::cpu::{self, MAX_CPUS};
use crate::stack::KernelStack;
use crate::{clock, devices, kernel_table, power, trap};

/// Where each CPU's first stack ends; read by boot.rs.
pub static STACKS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// Nanoseconds after which a CPU that did not come is given up.
const PATIENCE: u64 = 1_000_000_000;

const OFF: u32 = 0;
const ASKED: u32 = 1;
const HERE: u32 = 2;
const GIVEN_UP: u32 = 3;

static STATES: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(OFF) }; MAX_CPUS];
static RUNNING: AtomicUsize = AtomicUsize::new(1);

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

/// Returns how many CPUs run.
pub fn running() -> usize {
    RUNNING.load(Ordering::Acquire)
}

/// Starts the other CPUs. Called once, when everything that they use is there.
pub fn start() {
    // Linked where it is loaded.
    let entry = boot_secondary as *const () as u32;
    for &name in OTHERS.get().into_iter().flatten().flatten() {
        let number = running();
        let Some(stack) = KernelStack::new() else {
            log::warn!("no memory for the stack of cpu {number}");
            return;
        };
        STACKS[number].store(stack.end(), Ordering::Relaxed);
        STATES[number].store(ASKED, Ordering::Release);
        let context = kernel_table::root() | number as u32;
        // SAFETY: the code at the entry takes this context; table, stack and state are there.
        if let Err(refused) = unsafe { power::start_cpu(name, entry, context) } {
            log::warn!("the CPU {name:#x} stays off: {refused}");
            continue;
        }
        core::mem::forget(stack);
        if !came(number) {
            log::warn!("the CPU {name:#x} did not come");
            return;
        }
        RUNNING.store(number + 1, Ordering::Release);
    }
    log::info!("{} CPUs run", running());
}

fn came(number: usize) -> bool {
    let state = &STATES[number];
    let until = clock::monotonic_ns() + PATIENCE;
    while clock::monotonic_ns() < until {
        if state.load(Ordering::Acquire) == HERE {
            return true;
        }
        core::hint::spin_loop();
    }
    let gave_up = state.compare_exchange(ASKED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
    gave_up.is_err()
}

/// The first Rust code of another CPU: runs on its stack and the kernel's table, interrupts off.
pub extern "C" fn secondary_main(number: usize) -> ! {
    cpu::init(number);
    trap::init();
    kernel_table::enter(number);
    devices::init_cpu(number);
    clock::start();
    let state = &STATES[number];
    let here = state.compare_exchange(ASKED, HERE, Ordering::AcqRel, Ordering::Acquire);
    if here.is_ok() {
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
