//! Time: the generic timer's virtual counter and its tick, the battery clock's date.
//!
//! Source: Arm ARM DDI 0487, D12 "The Generic Timer". The counter is the same on all CPUs.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use mm_virt::random::Random;

use crate::devices;
use crate::memory::Facts;
use crate::read_register;

/// Timer interrupts per second.
pub const TICKS_PER_SECOND: u64 = 100;

static HERTZ: AtomicU64 = AtomicU64::new(1);
static BOOT_COUNTER: AtomicU64 = AtomicU64::new(0);
static BOOT_TIME: AtomicU64 = AtomicU64::new(0);
static RANDOM: Random = Random::new();

/// Reads the date. Called once.
pub fn init(facts: &Facts) {
    let hertz = read_register!("cntfrq_el0").max(TICKS_PER_SECOND);
    HERTZ.store(hertz, Ordering::Relaxed);
    BOOT_COUNTER.store(counter(), Ordering::Relaxed);
    if let Some((kind, device)) = &facts.tree.clock {
        let date = mm_virt::clock::read(*kind, devices::registers(device));
        BOOT_TIME.store(date, Ordering::Relaxed);
    }
    RANDOM.seed(facts.tree.seed);
    RANDOM.seed(counter() ^ boot_time());
    log::info!(
        "counter {} MHz, {TICKS_PER_SECOND} ticks per second",
        hertz / 1_000_000
    );
}

/// Starts this CPU's tick, lets programs on it read the counter.
pub fn start() {
    // SAFETY: EL0 may read the virtual counter and nothing else; the timer is on, not masked.
    unsafe {
        asm!(
            "msr cntkctl_el1, {user}", "msr cntv_cval_el0, {next}", "msr cntv_ctl_el0, {on}", "isb",
            user = in(reg) 2_u64, next = in(reg) counter() + period(), on = in(reg) 1_u64,
            options(nostack, preserves_flags)
        );
    }
}

/// Sets the next tick: the interrupt's work. A machine that stood still gets one tick, not all
/// that it missed.
pub fn tick() {
    let due = read_register!("cntv_cval_el0") + period();
    let next = due.max(counter() + 1);
    // SAFETY: the timer's comparator; it only interrupts.
    unsafe {
        asm!("msr cntv_cval_el0, {}", "isb", in(reg) next, options(nostack, preserves_flags));
    }
}

/// Reads the time since boot, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let counts = counter().wrapping_sub(BOOT_COUNTER.load(Ordering::Relaxed));
    let hertz = HERTZ.load(Ordering::Relaxed);
    (u128::from(counts) * 1_000_000_000 / u128::from(hertz)) as u64
}

/// Reads the wall-clock time of boot, in seconds since 1970.
pub fn boot_time() -> u64 {
    BOOT_TIME.load(Ordering::Relaxed)
}

/// Fills `bytes`: from the CPU where it can, else from a generator (not secret).
pub fn random(bytes: &mut [u8]) {
    if let Some(word) = crate::cpu::hardware_random() {
        RANDOM.seed(word);
    }
    RANDOM.fill(bytes);
}

fn period() -> u64 {
    HERTZ.load(Ordering::Relaxed) / TICKS_PER_SECOND
}

fn counter() -> u64 {
    // SAFETY: a barrier: the counter is not read ahead of what came before.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
    read_register!("cntvct_el0")
}
