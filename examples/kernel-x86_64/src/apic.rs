//! The local APIC: interrupts between CPUs, and the tick of all CPUs but the first.
//!
//! The first CPU keeps what it has: the 8259s, which reach it through its APIC's LINT0, and the
//! interval timer's tick. On machines with one CPU the APIC is left as the firmware left it.
//!
//! Registers are words in memory, mapped as a device, and each CPU sees its own APIC at the same
//! address. Interrupts are off wherever this is called, so the two halves of
//! the command register are written together.
//!
//! Source: Intel SDM volume 3, chapter 11.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use mm_kernel::memory::KernelHalf;

use crate::clock;
use crate::platform::Pc;

/// Where the registers are, physically: the address after reset, which firmware keeps.
const BASE: u64 = 0xfee0_0000;
const BYTES: u64 = 4096;

/// Where they are mapped.
static REGISTERS: AtomicUsize = AtomicUsize::new(0);

/// Vector of this CPU's timer.
pub const TIMER: u8 = 48;
/// Vector of a request to flush.
pub const FLUSH: u8 = 49;
/// Vector of a kick: there is something to look at.
pub const KICK: u8 = 50;
/// Vector of an interrupt that went away before it was delivered.
pub const SPURIOUS: u8 = 63;

const ID: usize = 0x20;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS_VECTOR: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const LVT_TIMER: usize = 0x320;
const LVT_LINT0: usize = 0x350;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const EXTERNAL: u32 = 7 << 8;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;
const PENDING: u32 = 1 << 12;
const DIVIDE_BY_16: u32 = 3;

/// How long the timer is measured, in nanoseconds, and how often.
const MEASURE_NS: u64 = 10_000_000;
const TRIES: usize = 3;

/// The timer's counts in a tick.
static COUNTS_PER_TICK: AtomicU32 = AtomicU32::new(0);

fn read(register: usize) -> u32 {
    // SAFETY: the APIC's registers are mapped here, for good, before anybody needs them.
    unsafe { (at(register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as above; what is written sends or acknowledges interrupts, and touches no memory.
    unsafe { (at(register) as *mut u32).write_volatile(value) }
}

fn at(register: usize) -> usize {
    REGISTERS.load(Ordering::Relaxed) + register
}

/// The number of the running CPU's APIC.
pub fn id() -> u8 {
    (read(ID) >> 24) as u8
}

/// Maps the registers, switches the first CPU's APIC on, leaves the 8259s connected, and measures
/// the timer.
pub fn init_first(half: KernelHalf<Pc>) {
    REGISTERS.store(half.device(BASE..BASE + BYTES), Ordering::Relaxed);
    write(LVT_LINT0, EXTERNAL);
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(SPURIOUS));
    write(DIVIDE, DIVIDE_BY_16);
    let tries = [(); TRIES].map(|()| measure());
    let best = tries.into_iter().min_by_key(|(elapsed, _)| *elapsed);
    let (elapsed, counts) = best.unwrap_or((1, 1));
    let tick_ns = 1_000_000_000 / clock::TICKS_PER_SECOND;
    let per_tick = u128::from(counts) * u128::from(tick_ns) / u128::from(elapsed.max(1));
    COUNTS_PER_TICK.store(per_tick.clamp(1, u32::MAX.into()) as u32, Ordering::Relaxed);
}

/// Switches another CPU's APIC on, and its tick.
pub fn init_other() {
    write(LVT_LINT0, MASKED);
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(SPURIOUS));
    write(DIVIDE, DIVIDE_BY_16);
    write(LVT_TIMER, PERIODIC | u32::from(TIMER));
    write(INITIAL_COUNT, COUNTS_PER_TICK.load(Ordering::Relaxed));
}

/// Lets the timer run once: nanoseconds, counts. The try that was interrupted least is best.
fn measure() -> (u64, u32) {
    write(LVT_TIMER, MASKED);
    let start = clock::monotonic_ns();
    write(INITIAL_COUNT, u32::MAX);
    while clock::monotonic_ns() - start < MEASURE_NS {
        core::hint::spin_loop();
    }
    let counts = u32::MAX - read(CURRENT_COUNT);
    let elapsed = clock::monotonic_ns() - start;
    write(INITIAL_COUNT, 0);
    (elapsed, counts)
}

/// Acknowledges the interrupt that is being handled.
pub fn acknowledge() {
    write(END_OF_INTERRUPT, 0);
}

/// Sends an interrupt to another CPU.
pub fn send(to: u8, vector: u8) {
    command(to, ASSERT | u32::from(vector));
}

/// Stops another CPU: it waits for [`startup`].
pub fn reset(to: u8) {
    command(to, INIT | ASSERT);
}

/// Lets a CPU that was reset begin, in real mode, at a page of the low MiB.
pub fn startup(to: u8, page: u8) {
    command(to, STARTUP | ASSERT | u32::from(page));
}

fn command(to: u8, what: u32) {
    // The APIC takes the next command when it has sent the last one, which needs no other CPU.
    while read(COMMAND_LOW) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_HIGH, u32::from(to) << 24);
    write(COMMAND_LOW, what);
}
