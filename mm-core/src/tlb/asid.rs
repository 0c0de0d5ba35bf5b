//! Hardware tags of spaces (ASID, PCID), handed out by generations.
//!
//! A tagged TLB keeps the translations of a space while its CPU runs another,
//! so a tag may name a new space only when no CPU holds a translation of the
//! old one. There are more spaces than tags. So tags are given out in order,
//! and when they are used up a new *generation* begins:
//!
//! ```text
//!   generation g      1 2 3 ... last │ generation g + 1
//!   tags of spaces    A B C      Z   │ B keeps 2 (it is running), all others
//!                                    │ get a new tag when they run next
//!   each CPU                         │ drops everything before it runs a tag
//!                                    │ of g + 1
//! ```
//!
//! A space's tag is one word, generation and number, so that both are read
//! together. A CPU that switches to a space of this generation takes no lock:
//! it exchanges its *active* word, which the beginning of a generation sets to
//! zero; so one of the two sees the other: the exchange fails, or the
//! tag is found running and kept.
//!
//! A CPU that leaves a space keeps its bit in the space's mask, as it keeps
//! translations: flushes reach it. [`AsidPool::retire`] ends that. Of the
//! generation before, a CPU may still hold translations that no flush names
//! any more; nothing can use them, as it drops all before it runs a tag of this
//! one.

use super::SpaceTlb;
use crate::cx::Cx;
use crate::platform::{CpuSet, Flush, MAX_CPUS, Platform};
use crate::sync::{AtomicUsize, Class, Mutex, Ordering, fence};

/// Bits of a tag word that hold the number; the generation lies above. On
/// 32-bit machines it has 16 bits: a space that does not run for 65536
/// generations (16 million new tags of 8 bits) is beyond what is tracked.
const NUMBER_BITS: u32 = 16;
const NUMBER: usize = 0xffff;
const FIRST_GENERATION: usize = 1 << NUMBER_BITS;

/// The key that orders this pool's lock behind all pools of nodes.
const LOCK_KEY: u32 = u32::MAX;

/// Gives tags to the spaces of a machine.
#[derive(Debug)]
pub struct AsidPool {
    /// How many tags there are, zero (untagged) included.
    tags: usize,
    generation: AtomicUsize,
    /// What each CPU runs; zero: it must come in through the lock.
    active: [AtomicUsize; MAX_CPUS],
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The number given out last.
    last: usize,
    /// What each CPU ran when the generation began.
    running: [usize; MAX_CPUS],
    /// CPUs that have not dropped the generation before.
    stale: CpuSet,
}

impl AsidPool {
    #[cfg(not(loom))]
    /// Makes a pool of `1 << bits` tags, at most 16 bits. There must be more
    /// than twice as many tags as CPUs.
    pub const fn new(bits: u32) -> Self {
        Self {
            tags: tags(bits),
            generation: AtomicUsize::new(FIRST_GENERATION),
            active: [const { AtomicUsize::new(0) }; MAX_CPUS],
            state: Mutex::new(Class::Pool, State::NEW),
        }
    }

    #[cfg(loom)]
    /// Makes a pool of `1 << bits` tags, at most 16 bits.
    pub fn new(bits: u32) -> Self {
        Self {
            tags: tags(bits),
            generation: AtomicUsize::new(FIRST_GENERATION),
            active: core::array::from_fn(|_| AtomicUsize::new(0)),
            state: Mutex::new(Class::Pool, State::NEW),
        }
    }

    /// Makes a space the one that this CPU is about to load, and returns the
    /// tag to load it with. Translations of the tag that the CPU has are the
    /// space's own; nothing needs to be dropped on the switch.
    ///
    /// # Locks
    /// Preemption must be off. Takes `(Pool, MAX)` only when the space has no
    /// tag of this generation or the CPU has not run in it.
    pub fn activate<P: Platform>(&self, cx: &Cx<'_, P>, tlb: &SpaceTlb) -> u16 {
        let cpu = cx.platform().cpu();
        tlb.activate(cpu);
        let tag = tlb.tag();
        let tag = if self.enter_current(cpu, tag) {
            tag
        } else {
            self.enter_locked(cx, cpu, tlb)
        };
        // Against the fence in `publish`: of a flush that runs now, either the
        // entries are seen here, or this tag is seen there and named.
        fence(Ordering::SeqCst);
        number(tag)
    }

    fn enter_locked<P: Platform>(&self, cx: &Cx<'_, P>, cpu: usize, tlb: &SpaceTlb) -> usize {
        let mut state = self.state.lock(cx, LOCK_KEY);
        let mut tag = tlb.tag();
        if !self.is_current(tag) {
            tag = self.renew(&mut state, cpu, tag);
            tlb.set_tag(tag);
        }
        if state.stale.contains(cpu) {
            state.stale.remove(cpu);
            let mut this = CpuSet::EMPTY;
            this.insert(cpu);
            cx.platform().flush(
                this,
                Flush {
                    pages: None,
                    tables: true,
                    asid: None,
                },
            );
        }
        if let Some(active) = self.active.get(cpu) {
            active.store(tag, Ordering::Release);
        }
        tag
    }

    /// Makes all CPUs forget a space that none of them has loaded, before its
    /// root is freed.
    ///
    /// # Locks
    /// Any may be held.
    pub fn retire<P: Platform>(&self, cx: &Cx<'_, P>, tlb: &SpaceTlb) {
        let cpus = tlb.publish();
        if !cpus.is_empty() {
            let flush = Flush {
                pages: None,
                tables: true,
                asid: tlb.asid(),
            };
            cx.platform().flush(cpus, flush);
            cpus.iter().for_each(|cpu| tlb.deactivate(cpu));
        }
    }

    /// Returns how many generations have begun.
    pub fn generations(&self) -> usize {
        self.generation.load(Ordering::Relaxed) >> NUMBER_BITS
    }

    fn is_current(&self, tag: usize) -> bool {
        (tag ^ self.generation.load(Ordering::Acquire)) >> NUMBER_BITS == 0
    }

    /// The way without a lock.
    fn enter_current(&self, cpu: usize, tag: usize) -> bool {
        let Some(active) = self.active.get(cpu) else {
            return false;
        };
        let old = active.load(Ordering::Relaxed);
        // Against the swap in `begin_generation`: it fails, or the swap sees it.
        old != 0
            && self.is_current(tag)
            && active
                .compare_exchange(old, tag, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Gives a space a tag of this generation: its old number, if it was
    /// running when the generation began, else the next.
    fn renew(&self, state: &mut State, cpu: usize, old: usize) -> usize {
        let generation = self.generation.load(Ordering::Relaxed);
        let kept = generation | (old & NUMBER);
        let mut keeps = false;
        for running in state.running.iter_mut().filter(|r| old != 0 && **r == old) {
            *running = kept;
            keeps = true;
        }
        if keeps {
            return kept;
        }
        loop {
            state.last = state.last.saturating_add(1);
            if state.last >= self.tags {
                self.begin_generation(state, cpu);
                continue;
            }
            if state.running.iter().all(|r| r & NUMBER != state.last) {
                return self.generation.load(Ordering::Relaxed) | state.last;
            }
        }
    }

    fn begin_generation(&self, state: &mut State, cpu: usize) {
        let next = self
            .generation
            .load(Ordering::Relaxed)
            .wrapping_add(FIRST_GENERATION);
        self.generation.store(next, Ordering::Release);
        state.last = 0;
        for (i, (active, running)) in self.active.iter().zip(&mut state.running).enumerate() {
            let runs = active.swap(0, Ordering::AcqRel);
            // Zero: it has not switched since the generation before.
            if runs != 0 {
                *running = runs;
            }
            // This CPU is leaving what it ran.
            if i == cpu {
                *running = 0;
            }
            state.stale.insert(i);
        }
    }
}

impl State {
    const NEW: Self = Self {
        last: 0,
        running: [0; MAX_CPUS],
        stale: CpuSet::EMPTY,
    };
}

const fn tags(bits: u32) -> usize {
    1 << if bits < NUMBER_BITS {
        bits
    } else {
        NUMBER_BITS
    }
}

#[expect(clippy::cast_possible_truncation, reason = "masked to 16 bits")]
const fn number(tag: usize) -> u16 {
    (tag & NUMBER) as u16
}
