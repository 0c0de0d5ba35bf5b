//! Time: the counter that all harts share, and a tick by the firmware's timer.
//!
//! Source: SBI specification 2.0, chapter 6 "Timer".

use core::sync::atomic::{AtomicU64, Ordering};

use mm_riscv::native;
use mm_virt::tree::Facts;

use crate::cpu;

/// Timer interrupts per second.
pub const TICKS_PER_SECOND: u64 = 100;

const SBI_TIMER: usize = 0x5449_4d45;

/// Counts per second.
static HERTZ: AtomicU64 = AtomicU64::new(1);
static BOOT_COUNTER: AtomicU64 = AtomicU64::new(0);

/// Reads the counter's rate and starts the boot CPU's tick.
///
/// # Panics
///
/// When the device tree does not say the rate.
pub fn init(facts: &Facts) {
    let hertz = facts.timebase.expect("the rate of the time counter");
    HERTZ.store(hertz.into(), Ordering::Relaxed);
    BOOT_COUNTER.store(cpu::counter(), Ordering::Relaxed);
    log::info!(
        "counter {} kHz, {TICKS_PER_SECOND} ticks per second",
        hertz / 1000
    );
    start();
}

/// Starts this CPU's tick.
pub fn start() {
    next_tick();
}

/// Asks for the next timer interrupt, which also takes the pending one back. Ticks that came too
/// late for their turn are left out.
pub fn next_tick() {
    let period = HERTZ.load(Ordering::Relaxed) / TICKS_PER_SECOND;
    let (cpu, now) = (cpu::current(), cpu::counter());
    let next = (cpu.next_tick.get() + period).max(now + period / 2);
    cpu.next_tick.set(next);
    // SAFETY: the call only sets this hart's timer.
    let set = unsafe { native::call(SBI_TIMER, 0, [next as usize, 0, 0, 0, 0]) };
    assert!(set.is_ok(), "the firmware has no timer: {set:?}");
}

/// Reads the time since boot, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let counts = cpu::counter().saturating_sub(BOOT_COUNTER.load(Ordering::Relaxed));
    let hertz = HERTZ.load(Ordering::Relaxed);
    (u128::from(counts) * 1_000_000_000 / u128::from(hertz)) as u64
}
