//! Which CPUs must be told when entries of a space change.
//!
//! ```text
//!                 activate                       lazy
//!   absent ──────────────────► running ────────────────────► lazy
//!     ▲  ▲                     │  │  ▲                       │ │
//!     │  └───── deactivate ────┘  │  └────── activate ───────┘ │
//!     └───────────────────────────┴────── leave ───────────────┘
//! ```
//!
//! | state of a CPU | bits | may use | a flush |
//! |---|---|---|---|
//! | running | RUNNING, LOADED | translations, tables | tells it |
//! | lazy: a kernel thread borrows the root | LOADED | tables (its walker) | tells it when tables are freed |
//! | absent | none | nothing, until it comes back | does not tell it |
//!
//! A CPU that is not told keeps what it remembers. *VALID* says that all of it
//! is still true: a flush takes the bit from everyone it does not tell, and who
//! comes back without it drops the tag before it runs a user
//! ([`Remembered::Stale`]). So an absent CPU costs a flush no interrupt, and
//! whoever was gone while nothing was taken away finds its translations again.
//! (Linux counts generations for the same; a bit is enough, as the flush that
//! misses a CPU is the one to say so.)
//!
//! # Why none is missed
//!
//! ```text
//!  publish (whoever changed entries)      activate (a CPU switching in)
//!    write entry                            own word |= RUNNING | LOADED | VALID
//!    fence(SeqCst)                          fence(SeqCst)
//!    read each word, and in one step        load root, walk entries
//!    take VALID from those not told
//! ```
//!
//! Of two such sides at least one sees the other's store: either the word has
//! the CPU's bit and the flush reaches it, or the CPU walks the new entries
//! (F4). What the CPU remembered before is told apart by VALID, in the *same*
//! word: a flush that does not see the CPU running has taken VALID before the
//! CPU came back, and it drops its translations. Two words would not do: a CPU
//! that comes and goes between the two reads would be seen in neither.
//!
//! A frame or a table is freed once every CPU that is told has answered. An
//! absent CPU still remembers them under a tag that it does not run; no walk and
//! no access of a CPU uses such an entry.

use super::asid::{self, Tag};
use super::{FLUSH_CEILING_PAGES, Reach};
use crate::addr::Vpn;
use crate::cx::Cx;
use crate::format::PageTableFormat;
use crate::platform::{CPU_WORDS, CpuSet, Flush, MAX_CPUS, Platform};
use crate::range::PageRange;
use crate::sync::{AtomicU32, AtomicUsize, Ordering, fence};

/// CPUs whose state one word holds: a byte of each bit.
const CPUS_PER_WORD: usize = 8;
const STATE_WORDS: usize = MAX_CPUS.div_ceil(CPUS_PER_WORD);

/// One of the bits, of the first CPU of a word.
const RUNNING: u32 = 1;
const LOADED: u32 = 1 << 8;
const VALID: u32 = 1 << 16;

/// What a CPU that switches in remembers under the tag of the space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remembered {
    /// Nothing that is not true: nothing needs to be dropped.
    Current,
    /// Perhaps what a flush has taken away meanwhile, or what belonged to
    /// another space: the tag is to be dropped before a user runs.
    Stale,
}

/// Which CPUs may remember translations of one space.
///
/// It lives in the space's node, all atomics, and outlives every CPU's bit.
#[derive(Debug)]
pub struct SpaceTlb {
    /// Eight CPUs a word: see the module.
    cpus: [AtomicU32; STATE_WORDS],
    /// Number and generation (see `asid`).
    tag: AtomicUsize,
    /// The round of generations that the tag was given in.
    round: AtomicU32,
}

impl SpaceTlb {
    #[cfg(not(loom))]
    /// Makes the state of a space that no CPU has loaded; its tag is zero.
    pub const fn new() -> Self {
        Self {
            cpus: [const { AtomicU32::new(0) }; STATE_WORDS],
            tag: AtomicUsize::new(0),
            round: AtomicU32::new(0),
        }
    }

    #[cfg(loom)]
    /// Makes the state of a space that no CPU has loaded; its tag is zero.
    pub fn new() -> Self {
        Self {
            cpus: core::array::from_fn(|_| AtomicU32::new(0)),
            tag: AtomicUsize::new(0),
            round: AtomicU32::new(0),
        }
    }

    #[cfg(not(loom))]
    /// Makes the state of mappings that every space shares: flushes name no
    /// tag and drop global entries too. Each CPU activates it once.
    pub const fn for_every_space() -> Self {
        Self {
            tag: AtomicUsize::new(asid::EVERY_SPACE),
            ..Self::new()
        }
    }

    #[cfg(loom)]
    /// Makes the state of mappings that every space shares: flushes name no
    /// tag and drop global entries too. Each CPU activates it once.
    pub fn for_every_space() -> Self {
        Self {
            tag: AtomicUsize::new(asid::EVERY_SPACE),
            ..Self::new()
        }
    }

    /// Starts again as a fresh space in a reused node: no CPU has loaded it,
    /// and no tag is its own.
    pub fn reset(&self) {
        for word in &self.cpus {
            word.store(0, Ordering::Relaxed);
        }
        self.set_tag(Tag::FRESH);
    }

    /// Returns the hardware tag for flushes, or `None` for all spaces.
    pub fn asid(&self) -> Option<u16> {
        match self.tag.load(Ordering::Relaxed) {
            asid::EVERY_SPACE => None,
            word => Some(asid::number(word)),
        }
    }

    pub(super) fn tag(&self) -> Tag {
        // In this order: who sees a round sees the tag that was given in it, or a later one.
        let round = self.round.load(Ordering::Acquire);
        Tag {
            round,
            word: self.tag.load(Ordering::Acquire),
        }
    }

    /// Gives the space another tag; no CPU runs it with the old one.
    ///
    /// # Locks
    /// The pool's.
    pub(super) fn set_tag(&self, tag: Tag) {
        self.tag.store(tag.word, Ordering::Release);
        self.round.store(tag.round, Ordering::Release);
    }

    /// Notes that this CPU is about to load the root, or to run users of a root
    /// that it kept: from here on flushes reach it. Returns whether what it
    /// remembers from before may be used.
    pub fn activate(&self, cpu: usize) -> Remembered {
        let remembered = self.enter(cpu);
        // Against the fence in `publish`: the bit is seen, or the entries are.
        #[cfg(not(mm_mutant = "activate_without_fence"))]
        fence(Ordering::SeqCst);
        remembered
    }

    /// As [`Self::activate`]; the caller adds the fence.
    pub(super) fn enter(&self, cpu: usize) -> Remembered {
        let (word, shift) = self.word(cpu);
        let all = RUNNING | LOADED | VALID;
        let old = word.map_or(0, |word| {
            word.fetch_or(all.wrapping_shl(shift), Ordering::AcqRel)
        });
        if old & VALID.wrapping_shl(shift) == 0 && !cfg!(mm_mutant = "missed_flush_is_forgotten") {
            Remembered::Stale
        } else {
            Remembered::Current
        }
    }

    /// Notes that the CPU goes on with a kernel thread, on the root that is
    /// loaded: it uses no address of users until it is activated again.
    pub fn lazy(&self, cpu: usize) {
        self.clear(cpu, RUNNING);
    }

    /// Notes that another root is loaded, and that the CPU keeps translations
    /// of this space under a tag that it does not run any more.
    pub fn leave(&self, cpu: usize) {
        self.clear(cpu, RUNNING | LOADED);
    }

    /// Notes that the CPU holds no translation of this space any more: another
    /// root is loaded and the old translations are dropped.
    pub fn deactivate(&self, cpu: usize) {
        self.clear(cpu, RUNNING | LOADED | VALID);
    }

    fn clear(&self, cpu: usize, bits: u32) {
        if let (Some(word), shift) = self.word(cpu) {
            // Release: the CPU's last walk came before.
            word.fetch_and(!bits.wrapping_shl(shift), Ordering::Release);
        }
    }

    /// The word of a CPU, and how far its bits are shifted in it.
    #[expect(clippy::cast_possible_truncation, reason = "three bits")]
    fn word(&self, cpu: usize) -> (Option<&AtomicU32>, u32) {
        let word = self.cpus.get(cpu / CPUS_PER_WORD);
        (word, (cpu % CPUS_PER_WORD) as u32)
    }

    /// Returns the CPUs that have the root loaded, lazily or not.
    pub fn cpus(&self) -> CpuSet {
        collect(self.cpus.iter().map(|word| {
            let state = word.load(Ordering::Acquire);
            state.wrapping_shr(LOADED.trailing_zeros())
        }))
    }

    /// Publishes the entries written so far and returns whom to tell; of the
    /// others, none uses what it remembers without dropping it.
    pub(crate) fn publish(&self, reach: Reach) -> CpuSet {
        #[cfg(not(mm_mutant = "publish_without_fence"))]
        fence(Ordering::SeqCst);
        collect(self.cpus.iter().map(|word| {
            let mut state = word.load(Ordering::Acquire);
            loop {
                let loaded = state.wrapping_shr(LOADED.trailing_zeros());
                let told = match reach {
                    Reach::Leaves => state,
                    Reach::Tables => loaded,
                } & 0xff;
                // A lazy CPU that is told misses nothing, and keeps VALID.
                let missed = state.wrapping_shr(VALID.trailing_zeros()) & 0xff & !told;
                if missed == 0 || cfg!(mm_mutant = "missed_cpus_are_not_noted") {
                    return told;
                }
                let taken = state & !missed.wrapping_shl(VALID.trailing_zeros());
                match word.compare_exchange(state, taken, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return told,
                    Err(now) => state = now,
                }
            }
        }))
    }

    /// Drops pages on every CPU that may use them, and returns when done.
    ///
    /// # Locks
    /// Any may be held; under an inner one, one page, block or run only.
    pub fn flush_pages<P: Platform>(&self, cx: &Cx<'_, P>, pages: PageRange) {
        let _told = self.flush_everywhere(cx, pages, Reach::Leaves);
    }

    /// Drops pages on every CPU that may use them; answers whether there was one.
    pub(super) fn flush_everywhere<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        pages: PageRange,
        reach: Reach,
    ) -> bool {
        let cpus = self.publish(reach);
        if !cpus.is_empty() {
            cx.flush(cpus, self.flush(pages, reach));
        }
        !cpus.is_empty()
    }

    fn flush(&self, pages: PageRange, reach: Reach) -> Flush {
        Flush {
            pages: (pages.pages() < FLUSH_CEILING_PAGES).then_some(pages),
            tables: reach == Reach::Tables,
            asid: self.asid(),
        }
    }

    /// Drops one page on every CPU: the flush that copy-on-write and
    /// break-before-make send while they hold the table.
    ///
    /// # Locks
    /// Any may be held.
    pub fn flush_page<P: Platform>(&self, cx: &Cx<'_, P>, page: Vpn) {
        self.flush_pages(cx, PageRange::new(page, page.saturating_add(1)));
    }

    /// Drops pages on this CPU only: after rights of an entry grew.
    pub fn flush_local<P: Platform>(&self, cx: &Cx<'_, P>, pages: PageRange) {
        self.flush_here(cx, pages, Reach::Leaves);
    }

    /// Drops on this CPU only what made an access fault whose entry was
    /// already as it should be: an older entry of the pages, or, on machines
    /// that remember invalid entries, that there was none or no table for it.
    pub fn flush_spurious<P: Platform>(&self, cx: &Cx<'_, P>, pages: PageRange) {
        let tables = cx.format().caches_invalid() && !cfg!(mm_mutant = "spurious_keeps_tables");
        self.flush_here(cx, pages, Reach::of(tables));
    }

    pub(super) fn flush_here<P: Platform>(&self, cx: &Cx<'_, P>, pages: PageRange, reach: Reach) {
        cx.platform().preempt_off();
        let mut cpus = CpuSet::EMPTY;
        cpus.insert(cx.platform().cpu());
        cx.platform().flush(cpus, self.flush(pages, reach));
        cx.platform().preempt_on();
    }
}

#[cfg(not(loom))]
impl Default for SpaceTlb {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a set of the low bytes of state words.
fn collect(bytes: impl Iterator<Item = u32>) -> CpuSet {
    let mut words = [0u32; CPU_WORDS];
    for (i, byte) in bytes.enumerate() {
        if let Some(word) = words.get_mut(i / 4) {
            *word |= (byte & 0xff).wrapping_shl(shift_of(i));
        }
    }
    CpuSet::from_words(words)
}

#[expect(clippy::cast_possible_truncation, reason = "two bits")]
const fn shift_of(byte: usize) -> u32 {
    ((byte & 3) as u32).wrapping_mul(8)
}
