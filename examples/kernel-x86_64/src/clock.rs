//! Time: the interval timer's tick, the time-stamp counter as the clock, the battery clock's date.
//!
//! The counter's rate is measured once against the interval timer. Its value never goes
//! backwards on one CPU; of several CPUs the firmware starts all counters together, and nothing here
//! sets one.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

/// Timer interrupts per second.
pub const TICKS_PER_SECOND: u64 = 100;

/// Input frequency of the interval timer, in Hz.
const PIT_HZ: u64 = 1_193_182;
/// How long the counter is measured, in 1/x seconds.
const MEASURE: u64 = 100;
/// How often.
const TRIES: usize = 5;

static BOOT_COUNTER: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per count, as a fixed-point number with 32 fraction bits.
static SCALE: AtomicU64 = AtomicU64::new(0);
static BOOT_TIME: AtomicU64 = AtomicU64::new(0);

/// Measures the counter, reads the date, starts the tick.
pub fn init() {
    let per_measure = measure_counter();
    let hertz = per_measure * MEASURE;
    SCALE.store(
        ((1_000_000_000_u128 << 32) / u128::from(hertz)) as u64,
        Ordering::Relaxed,
    );
    BOOT_COUNTER.store(counter(), Ordering::Relaxed);
    BOOT_TIME.store(read_date(), Ordering::Relaxed);
    let divisor = (PIT_HZ / TICKS_PER_SECOND) as u16;
    out(0x43, 0x34); // channel 0, both bytes, rate generator
    out(0x40, divisor as u8);
    out(0x40, (divisor >> 8) as u8);
    log::info!(
        "counter {} MHz, {TICKS_PER_SECOND} ticks per second",
        hertz / 1_000_000
    );
}

/// Reads the time-stamp counter.
pub fn counter() -> u64 {
    // SAFETY: every 64-bit CPU has the counter, and the kernel may always read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads the time since boot, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let counts = counter().wrapping_sub(BOOT_COUNTER.load(Ordering::Relaxed));
    ((u128::from(counts) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Reads the wall-clock time of boot, in seconds since 1970.
pub fn boot_time() -> u64 {
    BOOT_TIME.load(Ordering::Relaxed)
}

/// Counts how far the counter runs in `1 / MEASURE` seconds of the timer's channel 2.
///
/// An emulated CPU may stand still at any instruction, so each try knows how wrong it can be at
/// most: the best one counts.
fn measure_counter() -> u64 {
    let tries = [(); TRIES].map(|()| measure_once());
    let best = tries.into_iter().min_by_key(|(least, most)| most - least);
    best.map_or(1, |(least, most)| (least / 2 + most / 2).max(1))
}

/// Answers the least and the most that the counter ran.
fn measure_once() -> (u64, u64) {
    let divisor = (PIT_HZ / MEASURE) as u16;
    let gate = input(0x61) & !0x02 | 0x01; // speaker off, channel 2 runs
    out(0x61, gate & !0x01);
    out(0x43, 0xb0); // channel 2, both bytes, interrupt on terminal count
    out(0x42, divisor as u8);
    out(0x42, (divisor >> 8) as u8);
    let before = counter();
    out(0x61, gate);
    let after = counter();
    let mut running = after;
    while input(0x61) & 0x20 == 0 {
        running = counter();
    }
    (running.saturating_sub(after), counter() - before)
}

/// Reads the battery clock (MC146818), read twice until both readings agree.
fn read_date() -> u64 {
    let sample = || [0, 2, 4, 7, 8, 9].map(cmos);
    let mut previous = sample();
    loop {
        let now = sample();
        if now == previous {
            break;
        }
        previous = now;
    }
    let mode = cmos(0x0b);
    let decode = |value: u8| match mode & 0x04 {
        0 => u64::from(value & 0x0f) + u64::from(value >> 4) * 10,
        _ => u64::from(value),
    };
    let [second, minute, hour, day, month, year] = previous;
    let (afternoon, hour) = (hour & 0x80 != 0, decode(hour & 0x7f));
    let hour = match (mode & 0x02, afternoon) {
        (0, true) => hour % 12 + 12,
        (0, false) => hour % 12,
        _ => hour,
    };
    days_since_1970(2000 + decode(year), decode(month), decode(day)) * 86_400
        + hour * 3600
        + decode(minute) * 60
        + decode(second)
}

/// Counts days in the Gregorian calendar; the year starts in March, so that the leap day is last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    (year * 365 + leap_days + (month * 306 + 5) / 10 + day).saturating_sub(719_469)
}

fn cmos(register: u8) -> u8 {
    out(0x70, register);
    input(0x71)
}

fn out(port: u16, value: u8) {
    // SAFETY: the timer, its gate and the battery clock; none of them touches memory.
    unsafe { Port::new(port).write(value) }
}

fn input(port: u16) -> u8 {
    // SAFETY: as above.
    unsafe { Port::new(port).read() }
}
