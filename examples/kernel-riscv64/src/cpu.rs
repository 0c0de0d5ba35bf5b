//! What belongs to one CPU, and the registers that the kernel sets on each.
//!
//! ```text
//! tp in the kernel        ──► PerCpu { kernel_stack, user_stack, ... } of the CPU
//! sscratch in user mode   ──► the same; 0 in the kernel, which tells the two apart at a trap
//! ```
//!
//! A `PerCpu` is touched only by its own CPU, with interrupts off (see the portable kernel's
//! `arch` module), which is why its cells need no lock.
//!
//! CPU numbers are dense; hart numbers, by which the firmware and the device tree name CPUs, need
//! not be. The boot hart, which can be any, is CPU 0; the others get theirs as they start
//! (harts.rs).
//!
//! Source: RISC-V Privileged Architecture 20240411, chapter 10.

use core::arch::asm;
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicUsize, Ordering};

use mm_virt::tree::{self, Facts};
use spin::Once;

/// Upper bound of the number of CPUs.
pub const MAX_CPUS: usize = tree::MAX_CPUS;

const EMERGENCY_STACK_BYTES: usize = 8192;

/// Bits of `sie` and `sip`.
const SOFTWARE_INTERRUPT: usize = 1 << 1;
pub const TIMER_INTERRUPT: usize = 1 << 5;
pub const EXTERNAL_INTERRUPT: usize = 1 << 9;

/// Bit of `sstatus`: interrupts on in supervisor mode.
const SIE: usize = 1 << 1;
/// Of `scounteren`: user mode may read the time.
const COUNTER_TIME: usize = 1 << 1;

#[repr(C)]
pub struct PerCpu {
    /// Where a trap from user mode puts its frame: at the top of the running thread's stack.
    kernel_stack: Cell<usize>,
    /// Holds the user's stack pointer for the few instructions before it reaches the stack.
    user_stack: Cell<usize>,
    /// Holds a register while the entry looks at the kernel's stack pointer.
    spare: Cell<usize>,
    /// Top of a stack for the report of a stack overflow.
    emergency: Cell<usize>,
    id: Cell<usize>,
    /// Counter value of the next tick.
    pub next_tick: Cell<u64>,
    stack: EmergencyStack,
}

pub const KERNEL_STACK_OFFSET: usize = offset_of!(PerCpu, kernel_stack);
pub const USER_STACK_OFFSET: usize = offset_of!(PerCpu, user_stack);
pub const SPARE_OFFSET: usize = offset_of!(PerCpu, spare);
pub const EMERGENCY_OFFSET: usize = offset_of!(PerCpu, emergency);

#[repr(C, align(16))]
struct EmergencyStack(Cell<[u8; EMERGENCY_STACK_BYTES]>);

struct Cpus([PerCpu; MAX_CPUS]);

// SAFETY: each record is touched only by the CPU that it belongs to (module header).
unsafe impl Sync for Cpus {}

static CPUS: Cpus = Cpus([const { PerCpu::new() }; MAX_CPUS]);

/// The CPUs that run, a bit each.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

static HWCAP: AtomicUsize = AtomicUsize::new(0);

/// The harts of the device tree that are like the one that booted, in its order.
static TREE: Once<([usize; MAX_CPUS], usize)> = Once::new();

/// Hart numbers by CPU number.
static HARTS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(NO_HART) }; MAX_CPUS];

const NO_HART: usize = usize::MAX;

impl PerCpu {
    const fn new() -> Self {
        Self {
            kernel_stack: Cell::new(0),
            user_stack: Cell::new(0),
            spare: Cell::new(0),
            emergency: Cell::new(0),
            id: Cell::new(0),
            next_tick: Cell::new(0),
            stack: EmergencyStack(Cell::new([0; EMERGENCY_STACK_BYTES])),
        }
    }

    /// Makes traps from user mode put their frames at `place`.
    pub fn set_kernel_stack(&self, place: usize) {
        self.kernel_stack.set(place);
    }
}

/// Returns the running CPU's record.
pub fn current() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: in the kernel tp points to this CPU's record since `init`; compiled code leaves
    // the register alone, and records are never freed.
    unsafe {
        asm!("mv {}, tp", out(reg) this, options(nomem, nostack, preserves_flags));
        &*this
    }
}

/// Returns the number of the running CPU.
pub fn id() -> usize {
    current().id.get()
}

/// Returns the hart of a CPU that runs or starts.
pub fn hart(cpu: usize) -> Option<usize> {
    let hart = HARTS.get(cpu)?.load(Ordering::Acquire);
    (hart != NO_HART).then_some(hart)
}

/// Returns the harts that the device tree names and that are like the one that booted.
pub fn harts_of_tree() -> &'static [usize] {
    TREE.get().map_or(&[], |(harts, count)| &harts[..*count])
}

/// Returns the CPUs that run.
pub fn running() -> impl Iterator<Item = usize> {
    let running = RUNNING.load(Ordering::SeqCst);
    (0..MAX_CPUS).filter(move |cpu| running >> cpu & 1 == 1)
}

/// Gives a hart its number. Only the boot hart does this, for one hart at a time.
pub fn announce(hart: usize, number: usize) {
    HARTS[number].store(hart, Ordering::Release);
}

/// Takes the number back from a hart that does not start.
pub fn withdraw(number: usize) {
    HARTS[number].store(NO_HART, Ordering::Release);
}

/// Says that this CPU runs.
pub fn arrive(number: usize) {
    RUNNING.fetch_or(1 << number, Ordering::SeqCst);
}

/// Returns what Linux passes to programs as AT_HWCAP: a bit for each single-letter extension.
pub fn hwcap() -> usize {
    HWCAP.load(Ordering::Relaxed)
}

fn single_letters(isa: &str) -> usize {
    let letters = isa.strip_prefix("rv64").unwrap_or("").split('_').next();
    // s, u and x with what follows are no single letters of user mode; h and v are not for
    // programs here: their state is not switched.
    letters
        .unwrap_or("")
        .bytes()
        .filter(|letter| b"acdfim".contains(letter))
        .fold(0, |bits, letter| bits | 1 << (letter - b'a'))
}

/// Notes the harts, and sets up the one that is running, as CPU 0. A hart with another instruction
/// set or depth of tables is left out: programs, tables and fences go by what the first one has.
///
/// # Panics
///
/// When the device tree does not have this hart.
pub fn init(facts: &Facts, hart: usize) {
    let own = facts.kind(hart as u64);
    TREE.call_once(|| {
        let (mut harts, mut count) = ([0; MAX_CPUS], 0);
        for &name in facts.cpus() {
            if facts.kind(name) != own {
                log::warn!(
                    "hart {name} stays off: {:?}, but {own:?} boots",
                    facts.kind(name)
                );
            } else if let Some(place) = harts.get_mut(count) {
                *place = name as usize;
                count += 1;
            }
        }
        (harts, count)
    });
    let known = harts_of_tree().contains(&hart);
    assert!(known, "hart {hart}, which runs, is not in the device tree");
    HWCAP.store(single_letters(own.isa), Ordering::Relaxed);
    announce(hart, 0);
    start(0);
    arrive(0);
    listen();
    let count = harts_of_tree().len();
    log::info!("hart {hart} of {count} boots, {}", own.isa);
}

/// Sets up the CPU that is running, as number `id`. Runs once on each.
pub fn start(id: usize) {
    let cpu = &CPUS.0[id];
    cpu.id.set(id);
    cpu.emergency
        .set(cpu.stack.0.as_ptr() as usize + EMERGENCY_STACK_BYTES);
    // SAFETY: tp is the kernel's for this purpose; the counters are for user mode to read, and
    // both interrupts have a handler (trap.rs). sstatus.SIE stays clear.
    unsafe {
        asm!("mv tp, {}", in(reg) core::ptr::from_ref(cpu), options(nostack, preserves_flags));
        asm!("csrw scounteren, {}", in(reg) COUNTER_TIME, options(nomem, nostack, preserves_flags));
        asm!("csrw sie, {}", in(reg) TIMER_INTERRUPT | SOFTWARE_INTERRUPT, options(nomem, nostack, preserves_flags));
    }
}

/// Lets devices interrupt this CPU: the boot CPU only.
fn listen() {
    // SAFETY: the interrupt has a handler (trap.rs).
    unsafe {
        asm!("csrs sie, {}", in(reg) EXTERNAL_INTERRUPT, options(nomem, nostack, preserves_flags));
    }
}

/// Takes back the interrupt by which another CPU called.
pub fn end_call() {
    // SAFETY: the bit is the supervisor's to clear; what the caller wrote before is seen after.
    unsafe { asm!("csrc sip, {}", "fence rw, rw", in(reg) SOFTWARE_INTERRUPT, options(nostack)) }
}

/// Lets interrupts in for a moment: those that are pending are handled.
pub fn open_window() {
    // SAFETY: the handlers of kernel interrupts may run wherever the kernel opens a window.
    unsafe {
        asm!("csrs sstatus, {0}", "nop", "csrc sstatus, {0}", in(reg) SIE, options(nostack));
    }
}

/// Sleeps until an interrupt is pending.
pub fn sleep() {
    // SAFETY: an enabled interrupt ends the wait though interrupts are off.
    unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) }
}

/// Shuts interrupts out, wherever they were let in.
pub fn interrupts_off() {
    // SAFETY: fewer interrupts are always sound.
    unsafe { asm!("csrc sstatus, {}", in(reg) SIE, options(nomem, nostack, preserves_flags)) }
}

/// Reads the time counter, the same on all harts.
pub fn counter() -> u64 {
    let value;
    // SAFETY: supervisor mode may read it (the firmware emulates it where the hart has none).
    unsafe { asm!("rdtime {}", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}
