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
//! A number is given to one space in a generation. So a space that ends needs
//! to tell nobody: what CPUs remember under its number is used by no one, and
//! goes when they enter the next generation. Whether a CPU may use what it
//! remembers of a space that it comes back to says [`SpaceTlb`] (`shootdown`):
//! what it remembers under the space's number is the space's own, or nothing.
//!
//! On a machine without tags every space has number zero, and loading a root
//! drops what was remembered. A space also gets number zero, and is loaded in
//! this way, when CPUs hold all other numbers.

use super::{Remembered, SpaceTlb};
use crate::cx::Cx;
use crate::platform::{CpuSet, Flush, MAX_CPUS, Platform};
use crate::sync::{AtomicUsize, Class, Fixed32, Mutex, Ordering, fence};

/// Bits of a tag word that hold the number; the generation lies above. On
/// 32-bit machines it has 16 bits: a space that does not run for 65536
/// generations (16 million new tags of 8 bits) is beyond what is tracked.
const NUMBER_BITS: u32 = 16;
const NUMBER: usize = 0xffff;
const FIRST_GENERATION: usize = 1 << NUMBER_BITS;

/// The tag of a table that all spaces share.
pub(super) const EVERY_SPACE: usize = usize::MAX;

/// The tag of a space that never had one.
const FRESH: usize = 0;

/// The key that orders this pool's lock behind all pools of nodes.
const LOCK_KEY: u32 = u32::MAX;

/// Gives tags to the spaces of a machine.
#[derive(Debug)]
pub struct AsidPool {
    bits: Fixed32,
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
    /// Makes a pool without tags: see [`Self::set_bits`].
    pub const fn new() -> Self {
        Self {
            bits: Fixed32::new(0),
            generation: AtomicUsize::new(FIRST_GENERATION),
            active: [const { AtomicUsize::new(0) }; MAX_CPUS],
            state: Mutex::new(Class::Pool, State::NEW),
        }
    }

    #[cfg(loom)]
    /// Makes a pool without tags: see [`Self::set_bits`].
    pub fn new() -> Self {
        Self {
            bits: Fixed32::new(0),
            generation: AtomicUsize::new(FIRST_GENERATION),
            active: core::array::from_fn(|_| AtomicUsize::new(0)),
            state: Mutex::new(Class::Pool, State::NEW),
        }
    }

    /// Says how many bits every CPU's tags have, at most 16; zero: there are
    /// none. At boot, before any space is loaded. With no more tags than CPUs and
    /// one, some spaces do without.
    pub fn set_bits(&self, bits: u32) {
        self.bits.store(bits, Ordering::Relaxed);
    }

    /// Makes a space the one that this CPU is about to run, and returns the
    /// number to load it with, and whether the CPU may use what it remembers
    /// under that number.
    ///
    /// # Locks
    /// Preemption must be off. Takes `(Pool, MAX)` only when the space has no
    /// tag of this generation or the CPU has not run in it.
    pub fn activate<P: Platform>(&self, cx: &Cx<'_, P>, tlb: &SpaceTlb) -> (u16, Remembered) {
        let cpu = cx.platform().cpu();
        let remembered = tlb.enter(cpu);
        let tags = tags(self.bits.load(Ordering::Relaxed));
        let mut tag = tlb.tag();
        if tags > 1 && !self.enter_current(cpu, tag) {
            tag = self.enter_locked(cx, cpu, tlb, tags);
        }
        // Against the fence in `publish`: of a flush that runs now, either the
        // entries are seen here, or this CPU and this tag are seen there.
        #[cfg(not(mm_mutant = "switch_without_fence"))]
        fence(Ordering::SeqCst);
        match number(tag) {
            // Nobody's own, where others are.
            0 if tags > 1 => (0, Remembered::Stale),
            number => (number, remembered),
        }
    }

    fn enter_locked<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        cpu: usize,
        tlb: &SpaceTlb,
        tags: usize,
    ) -> usize {
        let mut state = self.state.lock(cx, LOCK_KEY);
        let mut tag = tlb.tag();
        if !self.is_current(tag) {
            tag = self.renew(&mut state, cpu, tlb, tags);
            tlb.set_tag(tag);
        }
        if state.stale.contains(cpu) {
            state.stale.remove(cpu);
            let mut this = CpuSet::EMPTY;
            this.insert(cpu);
            #[cfg(not(mm_mutant = "generation_without_flush"))]
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
            && (self.is_current(tag) || cfg!(mm_mutant = "generation_is_not_looked_at"))
            && active
                .compare_exchange(old, tag, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Gives a space a tag of this generation: its old number, if it was
    /// running when the generation began, else the next.
    fn renew(&self, state: &mut State, cpu: usize, tlb: &SpaceTlb, tags: usize) -> usize {
        let generation = self.generation.load(Ordering::Relaxed);
        let old = tlb.tag();
        let kept = generation | (old & NUMBER);
        // Number 0 is nobody's own, so no CPU notes who runs it; the space does.
        let without = old != FRESH && old & NUMBER == 0;
        if without && tlb.cpus().iter().any(|other| other != cpu) {
            return kept;
        }
        let mut keeps = false;
        let runs = |running: &&mut usize| old & NUMBER != 0 && **running == old;
        for running in state.running.iter_mut().filter(runs) {
            *running = kept;
            keeps = true;
        }
        if keeps {
            return kept;
        }
        let mut begun = false;
        loop {
            state.last = state.last.saturating_add(1);
            if state.last >= tags {
                if begun {
                    // CPUs hold every number.
                    return self.generation.load(Ordering::Relaxed);
                }
                self.begin_generation(state);
                begun = true;
                continue;
            }
            let held = |running: &usize| running & NUMBER == state.last;
            if !state.running.iter().any(held) || cfg!(mm_mutant = "running_tags_are_given_out") {
                return self.generation.load(Ordering::Relaxed) | state.last;
            }
        }
    }

    fn begin_generation(&self, state: &mut State) {
        let next = self
            .generation
            .load(Ordering::Relaxed)
            .wrapping_add(FIRST_GENERATION);
        // Generation 0 is no generation: a fresh space's tag must not be current.
        let next = if next == FRESH {
            FIRST_GENERATION
        } else {
            next
        };
        self.generation.store(next, Ordering::Release);
        state.last = 0;
        for (i, (active, running)) in self.active.iter().zip(&mut state.running).enumerate() {
            let runs = active.swap(0, Ordering::AcqRel);
            // Zero: it has not switched since the generation before. This CPU's number
            // too stays taken: until the root is loaded its walker may fill the TLB.
            if runs != 0 {
                *running = runs;
            }
            state.stale.insert(i);
        }
    }
}

#[cfg(not(loom))]
impl Default for AsidPool {
    fn default() -> Self {
        Self::new()
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
pub(super) const fn number(tag: usize) -> u16 {
    (tag & NUMBER) as u16
}
