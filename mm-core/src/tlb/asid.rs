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
//!
//! # Rounds
//!
//! A word has room for so many generations only, on a 32-bit machine 65535. They
//! come again, and a space that slept for all of them would find its tag current. So
//! they are counted in *rounds*, in a second word beside each of the two:
//!
//! ```text
//!  a generation begins         a CPU switches             a space gets a tag
//!    round       = r + 1         space's round, tag         tag   = g, n
//!    generation  = first         active  != 0               round = r + 1
//!    active      : swap 0        generation, round
//!                                active  : exchange
//! ```
//!
//! Each pair is read in the other order than it is written: with a new generation
//! the new round is seen, and with a space's new round no older tag. Tags of the new round
//! are given out after the swap, and an exchange after the swap fails. So one that succeeds
//! has compared a tag of the round before with that round.

use super::{Remembered, SpaceTlb};
use crate::cx::Cx;
use crate::platform::{CpuSet, Flush, MAX_CPUS, Platform};
use crate::sync::{AtomicU32, AtomicUsize, Class, Fixed32, Mutex, Ordering, fence};

/// Bits of a tag word that hold the number; the generation lies above.
const NUMBER_BITS: u32 = 16;
const NUMBER: usize = 0xffff;
const FIRST_GENERATION: usize = 1 << NUMBER_BITS;

/// Bits of a tag word that hold the generation.
const GENERATION_BITS: u32 = usize::BITS - NUMBER_BITS;

/// The tag of a table that all spaces share.
pub(super) const EVERY_SPACE: usize = usize::MAX;

/// Generation, number, and the round of generations: what a space has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    /// Rounds have 32 bits: with the least word 2^48 generations pass before one
    /// comes again.
    pub(super) round: u32,
    /// Generation and number.
    pub(super) word: usize,
}

impl Tag {
    /// The tag of a space that never had one: generation 0 is none.
    pub(super) const FRESH: Self = Self { round: 0, word: 0 };

    /// The same generation with another number.
    const fn with_number(self, number: usize) -> Self {
        Self {
            word: (self.word & !NUMBER) | (number & NUMBER),
            ..self
        }
    }

    const fn number(self) -> usize {
        self.word & NUMBER
    }
}

/// The key that orders this pool's lock behind all pools of nodes.
const LOCK_KEY: u32 = u32::MAX;

/// Gives tags to the spaces of a machine.
#[derive(Debug)]
pub struct AsidPool {
    bits: Fixed32,
    /// The last generation of a round.
    last_generation: usize,
    generation: AtomicUsize,
    round: AtomicU32,
    /// What each CPU runs; zero: it must come in through the lock.
    active: [AtomicUsize; MAX_CPUS],
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The number given out last.
    last: usize,
    /// What each CPU ran when the generation began.
    running: [Tag; MAX_CPUS],
    /// CPUs that have not dropped the generation before.
    stale: CpuSet,
}

impl AsidPool {
    #[cfg(not(loom))]
    /// Makes a pool without tags: see [`Self::set_bits`].
    pub const fn new() -> Self {
        Self::with_generations_of(GENERATION_BITS)
    }

    #[cfg(not(loom))]
    /// As [`Self::new`], where a round has as many generations as fit in so many bits,
    /// at least one and at most as many as a word has room for: rounds of a few can
    /// be tested.
    pub const fn with_generations_of(bits: u32) -> Self {
        Self {
            bits: Fixed32::new(0),
            last_generation: last_generation(bits),
            generation: AtomicUsize::new(FIRST_GENERATION),
            round: AtomicU32::new(0),
            active: [const { AtomicUsize::new(0) }; MAX_CPUS],
            state: Mutex::new(Class::Pool, State::NEW),
        }
    }

    #[cfg(loom)]
    /// Makes a pool without tags: see [`Self::set_bits`].
    pub fn new() -> Self {
        Self::with_generations_of(GENERATION_BITS)
    }

    #[cfg(loom)]
    /// As [`Self::new`], with rounds of few generations; see the other side of the facade.
    pub fn with_generations_of(bits: u32) -> Self {
        Self {
            bits: Fixed32::new(0),
            last_generation: last_generation(bits),
            generation: AtomicUsize::new(FIRST_GENERATION),
            round: AtomicU32::new(0),
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
        match number(tag.word) {
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
    ) -> Tag {
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
            cx.flush(
                this,
                Flush {
                    pages: None,
                    tables: true,
                    asid: None,
                },
            );
        }
        if let Some(active) = self.active.get(cpu) {
            active.store(tag.word, Ordering::Release);
        }
        tag
    }

    /// Returns how many generations have begun; wraps.
    pub fn generations(&self) -> usize {
        let rounds = self.round.load(Ordering::Relaxed) as usize;
        let of_a_round = self.last_generation >> NUMBER_BITS;
        let of_this = self.generation.load(Ordering::Relaxed) >> NUMBER_BITS;
        rounds.wrapping_mul(of_a_round).wrapping_add(of_this)
    }

    fn is_current(&self, tag: Tag) -> bool {
        // In this order: who sees a generation sees the round that it is of, or a later one.
        let generation = self.generation.load(Ordering::Acquire);
        let round = self.round.load(Ordering::Acquire);
        (tag.word ^ generation) >> NUMBER_BITS == 0
            && (tag.round == round || cfg!(mm_mutant = "round_is_not_looked_at"))
    }

    /// The present generation, without a number; under the lock.
    fn current(&self) -> Tag {
        Tag {
            round: self.round.load(Ordering::Relaxed),
            word: self.generation.load(Ordering::Relaxed),
        }
    }

    /// The way without a lock.
    fn enter_current(&self, cpu: usize, tag: Tag) -> bool {
        let Some(active) = self.active.get(cpu) else {
            return false;
        };
        let old = active.load(Ordering::Relaxed);
        // Against the swap in `begin_generation`: it fails, or the swap sees it.
        old != 0
            && (self.is_current(tag) || cfg!(mm_mutant = "generation_is_not_looked_at"))
            && active
                .compare_exchange(old, tag.word, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Gives a space a tag of this generation: its old number, if it was
    /// running when the generation began, else the next.
    fn renew(&self, state: &mut State, cpu: usize, tlb: &SpaceTlb, tags: usize) -> Tag {
        let old = tlb.tag();
        let kept = self.current().with_number(old.number());
        // Number 0 is nobody's own, so no CPU notes who runs it; the space does.
        let without = old.word != Tag::FRESH.word && old.number() == 0;
        if without && tlb.cpus().iter().any(|other| other != cpu) {
            return kept;
        }
        let mut keeps = false;
        let runs = |running: &&mut Tag| old.number() != 0 && **running == old;
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
                    return self.current();
                }
                self.begin_generation(state);
                begun = true;
                continue;
            }
            let held = |running: &Tag| running.number() == state.last;
            if !state.running.iter().any(held) || cfg!(mm_mutant = "running_tags_are_given_out") {
                return self.current().with_number(state.last);
            }
        }
    }

    fn begin_generation(&self, state: &mut State) {
        let ended = self.current();
        if ended.word == self.last_generation {
            // Generation 0 is no generation: a fresh space's tag must not be current.
            let round = ended.round.wrapping_add(1);
            #[cfg(not(mm_mutant = "round_is_told_last"))]
            self.round.store(round, Ordering::Release);
            self.generation.store(FIRST_GENERATION, Ordering::Release);
            #[cfg(mm_mutant = "round_is_told_last")]
            self.round.store(round, Ordering::Release);
        } else {
            let next = ended.word.wrapping_add(FIRST_GENERATION);
            self.generation.store(next, Ordering::Release);
        }
        state.last = 0;
        for (i, (active, running)) in self.active.iter().zip(&mut state.running).enumerate() {
            let runs = active.swap(0, Ordering::AcqRel);
            // Zero: it has not switched since the generation before. This CPU's number
            // too stays taken: until the root is loaded its walker may fill the TLB.
            if runs != 0 {
                *running = Tag {
                    word: runs,
                    ..ended
                };
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
        running: [Tag::FRESH; MAX_CPUS],
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

/// The generation before the first of the next round.
const fn last_generation(bits: u32) -> usize {
    let bits = match bits {
        0 => 1,
        bits if bits > GENERATION_BITS => GENERATION_BITS,
        bits => bits,
    };
    (usize::MAX >> usize::BITS.saturating_sub(bits)) << NUMBER_BITS
}

#[expect(clippy::cast_possible_truncation, reason = "masked to 16 bits")]
pub(super) const fn number(tag: usize) -> u16 {
    (tag & NUMBER) as u16
}
