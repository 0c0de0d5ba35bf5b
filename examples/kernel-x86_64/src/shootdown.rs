//! Flushes of other CPUs' TLBs.
//!
//! Each CPU has one slot for the flush that it asks of others, and asks for one at a time:
//!
//! ```text
//!   asking CPU                                  asked CPU
//!     slot.flush = flush                          in its FLUSH interrupt, or in a wait loop:
//!     slot.waiting = the others   (release)         for each slot whose `waiting` has this CPU:
//!     interrupt each of them                          (acquire) flush as it says
//!     until waiting is empty:     (acquire)           take this CPU out of `waiting`  (release)
//!       serve others' slots
//! ```
//! * `flush` is written only while `waiting` is empty and read only by those in it, so it needs no
//!   lock; serving takes none.
//! * Two CPUs that ask each other both serve while they wait. A CPU that spins for a lock serves
//!   too (`mm_kernel::sync`); one that runs a program, or rests, has interrupts on. So every
//!   question is answered.
//! * Serving never asks, so it does not nest. And nobody else of this CPU asks while somebody waits:
//!   the library asks with preemption off, and this kernel is never preempted.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use mm_core::platform::{CpuSet, Flush};
use mm_x86_64::native::Native;
use mm_x86_64::tlb::{TlbFeatures, flush_local};
use spin::Once;

use crate::cpu::{self, MAX_CPUS};
use crate::{apic, smp};

struct Slot {
    waiting: AtomicU32,
    flush: UnsafeCell<Flush>,
}

// SAFETY: `flush` is written by the slot's CPU while `waiting` is empty, and read by CPUs in
// `waiting` only; the release and acquire on `waiting` order the two.
unsafe impl Sync for Slot {}

const NOTHING: Flush = Flush {
    pages: None,
    tables: false,
    asid: None,
};

static SLOTS: [Slot; MAX_CPUS] = [const {
    Slot {
        waiting: AtomicU32::new(0),
        flush: UnsafeCell::new(NOTHING),
    }
}; MAX_CPUS];

static FEATURES: Once<TlbFeatures> = Once::new();
static ROUNDS: AtomicUsize = AtomicUsize::new(0);

/// Says what the CPUs can do, before the first flush.
pub fn init(features: TlbFeatures) {
    FEATURES.call_once(|| features);
}

/// Counts the flushes that went to other CPUs.
pub fn rounds() -> usize {
    ROUNDS.load(Ordering::Relaxed)
}

fn here(flush: Flush) {
    let features = FEATURES.get().copied().unwrap_or_default();
    // SAFETY: the kernel runs in ring 0.
    let mut native = unsafe { Native::new() };
    flush_local(&mut native, features, flush);
}

/// Flushes the CPUs of the set and returns when all have done so.
pub fn flush(cpus: CpuSet, flush: Flush) {
    let me = cpu::id();
    if cpus.contains(me) {
        here(flush);
    }
    let others = cpus
        .iter()
        .filter(|&cpu| cpu != me && cpu < MAX_CPUS)
        .fold(0, |mask, cpu| mask | 1_u32 << cpu);
    if others == 0 {
        return;
    }
    ROUNDS.fetch_add(1, Ordering::Relaxed);
    let slot = &SLOTS[me];
    // SAFETY: this CPU's last question was answered by all before `flush` returned.
    unsafe { slot.flush.get().write(flush) };
    slot.waiting.store(others, Ordering::Release);
    for cpu in (0..MAX_CPUS).filter(|cpu| others >> cpu & 1 == 1) {
        smp::interrupt(cpu, apic::FLUSH);
    }
    while slot.waiting.load(Ordering::Acquire) != 0 {
        serve();
        core::hint::spin_loop();
    }
}

/// Does what other CPUs ask of this one.
pub fn serve() {
    let me = cpu::id();
    let bit = 1_u32 << me;
    for slot in &SLOTS {
        if slot.waiting.load(Ordering::Acquire) & bit != 0 {
            // SAFETY: this CPU is in `waiting`, so the asking one does not write.
            here(unsafe { *slot.flush.get() });
            slot.waiting.fetch_and(!bit, Ordering::Release);
        }
    }
}
