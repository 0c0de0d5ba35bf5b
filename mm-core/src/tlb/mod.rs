//! Translations that CPUs remember.
//!
//! A CPU may remember any present entry it could walk to, and any table entry
//! on the way (its paging-structure cache), until it is told to forget. So
//! what an entry led to is freed only after every CPU that may remember it was
//! told. [`SpaceTlb`] knows which CPUs those are; [`TlbGather`] owns what is
//! to be freed, and is the only way from an unmapped entry to a free frame.
//!
//! # Who is told: the two fences
//!
//! ```text
//!  publish (whoever changed entries)      activate (a CPU switching in)
//!    write entry                            set own bit in the mask
//!    fence(SeqCst)                          fence(SeqCst)
//!    generation += 1                        load generation
//!    read mask ──► flush those CPUs         load root, walk entries
//! ```
//!
//! Of two such sides at least one sees the other's store: either the mask has
//! the CPU's bit and the flush reaches it, or the CPU walks the new entries
//! (F4). The generation tells a CPU that kept tagged translations of a space
//! while it ran another whether it missed a flush meanwhile.
//!
//! # Lazy CPUs
//! A kernel thread borrows the space that was active before it; its CPU keeps
//! its bit until another root is loaded, so flushes (and above all those that
//! free tables, which its walker may still be in) reach it.

mod asid;
mod gather;

pub use asid::AsidPool;
pub(crate) use gather::free_table;
pub use gather::{BATCH, Full, Released, TlbGather};

use crate::addr::Vpn;
use crate::cx::Cx;
use crate::format::PageTableFormat;
use crate::platform::{CPU_WORDS, CpuSet, Flush, Platform};
use crate::range::PageRange;
use crate::sync::{AtomicU32, AtomicUsize, Ordering, fence};

/// Pages from which on a flush drops everything of the space: one instruction
/// a page costs more than the refills (Linux: `tlb_single_page_flush_ceiling`).
pub const FLUSH_CEILING_PAGES: usize = 33;

/// The tag of a table that all spaces share.
const EVERY_SPACE: usize = usize::MAX;

/// Which CPUs may remember translations of one space.
///
/// It lives in the space's node, all atomics, and outlives every CPU's bit.
#[derive(Debug)]
pub struct SpaceTlb {
    cpus: [AtomicU32; CPU_WORDS],
    generation: AtomicUsize,
    /// Number and generation (see `asid`).
    tag: AtomicUsize,
}

impl SpaceTlb {
    #[cfg(not(loom))]
    /// Makes the state of a space that no CPU has loaded; its tag is zero.
    pub const fn new() -> Self {
        Self {
            cpus: [const { AtomicU32::new(0) }; CPU_WORDS],
            generation: AtomicUsize::new(1),
            tag: AtomicUsize::new(0),
        }
    }

    #[cfg(loom)]
    /// Makes the state of a space that no CPU has loaded; its tag is zero.
    pub fn new() -> Self {
        Self {
            cpus: core::array::from_fn(|_| AtomicU32::new(0)),
            generation: AtomicUsize::new(1),
            tag: AtomicUsize::new(0),
        }
    }

    #[cfg(not(loom))]
    /// Makes the state of mappings that every space shares: flushes name no
    /// tag and drop global entries too. Each CPU activates it once.
    pub const fn for_every_space() -> Self {
        Self {
            tag: AtomicUsize::new(EVERY_SPACE),
            ..Self::new()
        }
    }

    #[cfg(loom)]
    /// Makes the state of mappings that every space shares: flushes name no
    /// tag and drop global entries too. Each CPU activates it once.
    pub fn for_every_space() -> Self {
        Self {
            tag: AtomicUsize::new(EVERY_SPACE),
            ..Self::new()
        }
    }

    /// Starts again as a fresh space in a reused node: no CPU has loaded it.
    pub fn reset(&self) {
        for word in &self.cpus {
            word.store(0, Ordering::Relaxed);
        }
        self.tag.store(0, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Returns the hardware tag for flushes, or `None` for all spaces.
    #[expect(clippy::cast_possible_truncation, reason = "masked to 16 bits")]
    pub fn asid(&self) -> Option<u16> {
        match self.tag.load(Ordering::Relaxed) {
            EVERY_SPACE => None,
            tag => Some((tag & 0xffff) as u16),
        }
    }

    fn tag(&self) -> usize {
        self.tag.load(Ordering::Acquire)
    }

    /// Gives the space another tag; no CPU runs it with the old one.
    fn set_tag(&self, tag: usize) {
        self.tag.store(tag, Ordering::Release);
    }

    /// Notes that this CPU is about to load the root: from here on flushes
    /// reach it. Returns the generation: tagged translations that the CPU kept
    /// from an older one must be dropped before use.
    pub fn activate(&self, cpu: usize) -> usize {
        if let Some(word) = self.cpus.get(cpu / 32) {
            word.fetch_or(bit(cpu), Ordering::Relaxed);
        }
        // Against the fence in `publish`: the mask is seen, or the entries are.
        fence(Ordering::SeqCst);
        self.generation.load(Ordering::Acquire)
    }

    /// Notes that the CPU holds no translation of this space any more: another
    /// root is loaded and the old translations are dropped.
    pub fn deactivate(&self, cpu: usize) {
        if let Some(word) = self.cpus.get(cpu / 32) {
            // Release: the CPU's last walk came before.
            word.fetch_and(!bit(cpu), Ordering::Release);
        }
    }

    /// Returns the CPUs that may remember translations.
    pub fn cpus(&self) -> CpuSet {
        let mut words = [0; CPU_WORDS];
        for (word, cpus) in words.iter_mut().zip(&self.cpus) {
            *word = cpus.load(Ordering::Acquire);
        }
        CpuSet::from_words(words)
    }

    /// Returns the generation: one more with each flush.
    pub fn generation(&self) -> usize {
        self.generation.load(Ordering::Acquire)
    }

    /// Publishes the entries written so far and returns whom to tell.
    pub(crate) fn publish(&self) -> CpuSet {
        fence(Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::Release);
        self.cpus()
    }

    /// Drops pages on every CPU that may remember them, and returns when done.
    ///
    /// # Locks
    /// Any may be held; under an inner one, one page, block or run only.
    pub fn flush_pages<P: Platform>(&self, cx: &Cx<'_, P>, pages: PageRange) {
        self.flush_everywhere(cx, pages, Reach::Leaves);
    }

    fn flush_everywhere<P: Platform>(&self, cx: &Cx<'_, P>, pages: PageRange, reach: Reach) {
        let cpus = self.publish();
        if !cpus.is_empty() {
            cx.platform().flush(cpus, self.flush(pages, reach));
        }
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
        let reach = if cx.format().caches_invalid() {
            Reach::Tables
        } else {
            Reach::Leaves
        };
        self.flush_here(cx, pages, reach);
    }

    fn flush_here<P: Platform>(&self, cx: &Cx<'_, P>, pages: PageRange, reach: Reach) {
        cx.platform().preempt_off();
        let mut cpus = CpuSet::EMPTY;
        cpus.insert(cx.platform().cpu());
        cx.platform().flush(cpus, self.flush(pages, reach));
        cx.platform().preempt_on();
    }
}

/// Which entries on the way to a page a flush of it drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Reach {
    /// The page's own.
    #[default]
    Leaves,
    /// Those of the tables above, too.
    Tables,
}

#[cfg(not(loom))]
impl Default for SpaceTlb {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "five bits")]
const fn bit(cpu: usize) -> u32 {
    1u32.wrapping_shl((cpu & 31) as u32)
}

/// What a map owes on machines that remember invalid entries: nothing on all
/// others, where it compiles to nothing.
///
/// Such a machine may also remember that there was no table (RISC-V: a fence
/// with an address reaches leaves only, 10.2.1). Who fills the first entry of a
/// table owes the tables above.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "some machines remember that the page was invalid: settle it"]
pub struct MapFlush {
    pages: PageRange,
    reach: Reach,
}

impl MapFlush {
    /// Nothing is owed.
    pub const NONE: Self = Self {
        pages: PageRange::new(Vpn::new(0), Vpn::new(0)),
        reach: Reach::Leaves,
    };

    /// Owes pages of a table that others may have been walking.
    pub(crate) fn of(pages: PageRange) -> Self {
        Self {
            pages,
            reach: Reach::Leaves,
        }
    }

    /// Owes pages, of which some table may be new.
    pub(crate) fn of_new_table(pages: PageRange) -> Self {
        Self {
            pages,
            reach: Reach::Tables,
        }
    }

    /// Owes both debts: one range around them.
    pub fn join(self, other: Self) -> Self {
        Self {
            pages: hull(self.pages, other.pages),
            reach: if self.reach == Reach::Leaves {
                other.reach
            } else {
                self.reach
            },
        }
    }

    /// Pays on this CPU. The others pay when they fault: the fault is spurious
    /// and ends in [`SpaceTlb::flush_spurious`].
    pub fn settle<P: Platform>(self, cx: &Cx<'_, P>, tlb: &SpaceTlb) {
        if !self.pages.is_empty() {
            tlb.flush_here(cx, self.pages, self.reach);
        }
    }

    /// Pays on every CPU: for kernel mappings, whose faults nobody resolves.
    /// Always with the tables: that another CPU's map just made one there, this
    /// one cannot know.
    pub fn settle_everywhere<P: Platform>(self, cx: &Cx<'_, P>, tlb: &SpaceTlb) {
        if !self.pages.is_empty() {
            tlb.flush_everywhere(cx, self.pages, Reach::Tables);
        }
    }
}

/// Returns the smallest range around both; an empty one counts for nothing.
pub(crate) fn hull(a: PageRange, b: PageRange) -> PageRange {
    if a.is_empty() {
        b
    } else if b.is_empty() {
        a
    } else {
        PageRange::new(a.start().min(b.start()), a.end().max(b.end()))
    }
}
