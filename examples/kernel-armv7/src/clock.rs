//! Time: the generic timer's virtual counter and its interrupt, the date of the machine's clock.
//!
//! Source: DDI 0406C B8 (the Generic Timer).

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mm_virt::clock::{self, ClockKind};
use mm_virt::mmio::Registers;

/// Timer interrupts per second.
pub const TICKS_PER_SECOND: u64 = 100;

static HERTZ: AtomicU32 = AtomicU32::new(1);
static BOOT_COUNTER: AtomicU64 = AtomicU64::new(0);
static BOOT_TIME: AtomicU64 = AtomicU64::new(0);

/// Reads the rate and the date. Called once.
pub fn init(date: Option<(ClockKind, Registers)>) {
    let hertz: u32;
    // SAFETY: reading CNTFRQ has no effect.
    unsafe {
        asm!("mrc p15, 0, {}, c14, c0, 0", out(reg) hertz, options(nomem, nostack, preserves_flags))
    };
    HERTZ.store(hertz.max(1), Ordering::Relaxed);
    BOOT_COUNTER.store(counter(), Ordering::Relaxed);
    if let Some((kind, registers)) = date {
        BOOT_TIME.store(clock::read(kind, registers), Ordering::Relaxed);
    }
    log::info!(
        "counter {} kHz, {TICKS_PER_SECOND} ticks per second",
        hertz / 1000
    );
}

/// Starts the tick of this CPU. Programs on it read no counter: there is the kernel for that.
pub fn start() {
    rearm();
    // SAFETY: CNTKCTL: nothing for user mode. CNTV_CTL: enabled, not masked. The interrupt has a
    // handler.
    unsafe {
        asm!(
            "mcr p15, 0, {none}, c14, c1, 0",
            "mcr p15, 0, {on}, c14, c3, 1",
            "isb",
            none = in(reg) 0,
            on = in(reg) 1,
            options(nostack, preserves_flags)
        )
    };
}

/// Has the timer interrupt again after a tick, which also ends the interrupt of now.
pub fn rearm() {
    let ticks = HERTZ.load(Ordering::Relaxed) / TICKS_PER_SECOND as u32;
    // SAFETY: CNTV_TVAL.
    unsafe {
        asm!("mcr p15, 0, {}, c14, c3, 0", "isb", in(reg) ticks, options(nostack, preserves_flags))
    };
}

/// Reads the counter.
pub fn counter() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: CNTVCT; the barrier keeps the read where it stands.
    unsafe {
        asm!("isb", "mrrc p15, 1, {}, {}, c14", out(reg) low, out(reg) high, options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads the time since boot, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    const NANOSECONDS: u64 = 1_000_000_000;
    let counts = counter().wrapping_sub(BOOT_COUNTER.load(Ordering::Relaxed));
    let hertz = u64::from(HERTZ.load(Ordering::Relaxed));
    counts / hertz * NANOSECONDS + counts % hertz * NANOSECONDS / hertz
}

/// Reads the wall-clock time of boot, in seconds since 1970.
pub fn boot_time() -> u64 {
    BOOT_TIME.load(Ordering::Relaxed)
}
