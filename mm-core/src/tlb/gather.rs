//! The gather: what was unmapped, until every CPU has forgotten it.
//!
//! ```text
//!   entry ──take──► Taken ──push──────────┐
//!   table ──detach► Detached ──push_table─┤
//!                                         ▼
//!                      ┌──────────── TlbGather ───────────┐
//!                      │ 32 words inline │ spare node      │   edges
//!                      │ head ─► table ─► table ─► table   │   through records
//!                      └──────────────────────────────────┘
//!                                         │ finish
//!         flush ──► grace period (tables) ──► counts, dirty ──► buddy
//! ```
//!
//! It is the only owner of unmapped frames and unlinked tables: `Taken` and
//! `Detached` have no other use, so freeing before the flush cannot be
//! written. Detached tables keep their words, and those are read after the
//! flush: a dirty bit that hardware sets through a remembered translation is
//! seen. Map counts settle after the flush too, so a map count is at
//! least the number of entries that lead to the page, always.
//!
//! What a present leaf owns, and gives back here:
//!
//! | frame | leaf | owns |
//! |---|---|---|
//! | `User` | level 1, also PROT_NONE | one reference and one map count |
//! | `Kernel` | level 1 | one reference |
//! | `Zero`, others, no record | any | nothing |
//! | any | `SPECIAL`, also PROT_NONE, or a block above level 1 | nothing |
//!
//! A gather is made before any guard is taken. It never allocates under a
//! lock: when its batch is full, [`TlbGather::push`] says so, the caller drops
//! its guard, and [`TlbGather::extend`] or [`TlbGather::flush`] makes room (F8:
//! overflow means another round, never a drop).

use super::{FLUSH_CEILING_PAGES, MapFlush, Reach, SpaceTlb, hull};
use crate::addr::{Pfn, Vpn};
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::format::{AttrFlags, Cell, Entry, NonPresentKind, PageTableFormat, Word};
use crate::page::{Kind, PageFlags};
use crate::platform::{CpuSet, Flush, PhysMemory, Platform};
use crate::range::PageRange;
use crate::table::{Detached, LeafGuard, Spread, Taken};
use arrayvec::ArrayVec;
use core::ops::Range;

/// Words that a gather holds without a spare frame.
pub const BATCH: usize = 32;

type FormatWord<P> = <<P as Platform>::Format as PageTableFormat>::Word;

/// What a finished gather gave back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "the space's counters go down by these"]
pub struct Released {
    /// Entries that mapped anonymous pages.
    pub anon_pages: usize,
    /// Entries that mapped cached pages.
    pub file_pages: usize,
    /// Entries that mapped frames of the kernel's own.
    pub kernel_pages: usize,
    /// Entries that named swap slots.
    pub swap_entries: usize,
    /// Page-table pages.
    pub tables: usize,
}

impl Released {
    /// Adds up two results.
    pub fn plus(self, other: Self) -> Self {
        Self {
            anon_pages: self.anon_pages.saturating_add(other.anon_pages),
            file_pages: self.file_pages.saturating_add(other.file_pages),
            kernel_pages: self.kernel_pages.saturating_add(other.kernel_pages),
            swap_entries: self.swap_entries.saturating_add(other.swap_entries),
            tables: self.tables.saturating_add(other.tables),
        }
    }
}

/// The batch is full: drop the guard, [`TlbGather::flush`], push again.
pub struct Full<P: Platform> {
    /// The entry that found no room.
    pub taken: Taken<P::Format>,
}

impl<P: Platform> core::fmt::Debug for Full<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Full").field(&self.taken).finish()
    }
}

/// Owns unmapped frames and unlinked tables until no CPU can reach them.
pub struct TlbGather<'c, 'm, P: Platform> {
    cx: &'c Cx<'m, P>,
    tlb: &'c SpaceTlb,
    words: ArrayVec<FormatWord<P>, BATCH>,
    /// A node full of words, for unmaps with long edges.
    spare: Option<Pfn>,
    spare_used: usize,
    /// The chain of detached tables.
    tables: Option<Pfn>,
    /// The pages whose translations may be remembered.
    pages: PageRange,
    /// CPUs of other spaces that were told about (rmap).
    others: CpuSet,
    several_spaces: Spaces,
    released: Released,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spaces {
    One,
    Several,
}

#[cfg(not(loom))]
const _: () = assert!(
    BATCH.wrapping_mul(8) <= 512,
    "a gather stays below 640 bytes"
);

impl<'c, 'm, P: Platform> TlbGather<'c, 'm, P> {
    /// Makes an empty gather for the entries of one space.
    ///
    /// # Locks
    /// Made before any inner lock is taken, finished after the last is dropped.
    pub fn new(cx: &'c Cx<'m, P>, tlb: &'c SpaceTlb) -> Self {
        debug_assert!(!cx.holds_inner(), "a gather is made before any guard");
        Self {
            cx,
            tlb,
            words: ArrayVec::new(),
            spare: None,
            spare_used: 0,
            tables: None,
            pages: PageRange::default(),
            others: CpuSet::EMPTY,
            several_spaces: Spaces::One,
            released: Released::default(),
        }
    }

    /// Takes a spare frame for more words, so that a long edge needs one
    /// shootdown, not one for each [`BATCH`] pages.
    ///
    /// # Errors
    /// [`OutOfMemory`], also when it has one; then [`Self::flush`] makes room.
    ///
    /// # Locks
    /// No inner one.
    pub fn extend(&mut self) -> Result<(), OutOfMemory> {
        if self.spare.is_some() {
            return Err(OutOfMemory);
        }
        let order = self.cx.format().table_order(1);
        let pfn = self.cx.frames().alloc(self.cx, order)?;
        let memory = self.cx.platform().memory();
        memory.make_words::<Cell<P::Format>>(pfn, order);
        self.spare = Some(pfn);
        Ok(())
    }

    /// Takes ownership of what an entry led to.
    ///
    /// # Errors
    /// [`Full`] with the entry, when the batch has no room.
    pub fn push(&mut self, taken: Taken<P::Format>) -> Result<(), Full<P>> {
        let entry = self.cx.format().decode(taken.word(), taken.level());
        if owns(entry, taken.level()) && !self.store(taken.word()) {
            return Err(Full { taken });
        }
        // Also without rights: who took them away may not have flushed yet.
        if entry.frame().is_some() {
            self.flush_range(taken.pages());
        }
        taken.consume();
        Ok(())
    }

    /// Takes all entries of a level-1 table that lie in a range, until there is
    /// no more room: then returns the page to go on with.
    pub(crate) fn take_leaves(
        &mut self,
        leaf: &LeafGuard<'_, '_, P>,
        range: PageRange,
    ) -> Option<Vpn> {
        let format = self.cx.format();
        let mut room = self.room();
        let mut present: Option<(usize, usize)> = None;
        let mut taken = 0u32;
        let mut full = None;
        let slots = leaf.slots(range);
        let mut slot = slots.start;
        while slot < slots.end {
            let word = format.load(leaf.words(), slot);
            let here = slot;
            slot = slot.saturating_add(1);
            if word == Word::ZERO {
                continue;
            }
            if room == 0 {
                full = Some(leaf.page_of(here));
                break;
            }
            if let Some(run) = leaf.run_of(here, word) {
                let owned = owns(format.decode(word, 1), 1);
                let fits = !owned || run.len() <= room;
                if fits && here == run.start && run.end <= slots.end {
                    self.take_run(leaf, &run);
                    taken = taken.saturating_add(u32::try_from(run.len()).unwrap_or(u32::MAX));
                    let first = present.map_or(here, |(first, _)| first);
                    present = Some((first, run.end.saturating_sub(1)));
                    room = room.saturating_sub(if owned { run.len() } else { 0 });
                    slot = run.end;
                } else {
                    leaf.break_run(self.tlb, &run);
                    slot = here;
                }
                continue;
            }
            let word = leaf.clear_slot(here, word);
            taken = taken.saturating_add(1);
            let entry = format.decode(word, 1);
            // Also without rights: who took them away may not have flushed yet.
            if entry.frame().is_some() {
                present = Some((present.map_or(here, |(first, _)| first), here));
            }
            if owns(entry, 1) {
                let stored = self.store(word);
                debug_assert!(stored, "there was room");
                room = room.saturating_sub(1);
            }
        }
        leaf.sub_live(taken);
        if let Some((first, last)) = present.filter(|_| !cfg!(mm_mutant = "taken_without_flush")) {
            let end = leaf.page_of(last.saturating_add(1));
            self.flush_range(PageRange::new(leaf.page_of(first), end));
        }
        full
    }

    /// Takes a whole run of a level-1 table; there is room for it.
    // Out of line: few entries are in runs.
    #[cold]
    #[inline(never)]
    fn take_run(&mut self, leaf: &LeafGuard<'_, '_, P>, run: &Range<usize>) {
        let format = self.cx.format();
        let mut word = leaf.take_run(run);
        for _ in run.clone() {
            if owns(format.decode(word, 1), 1) {
                let stored = self.store(word);
                debug_assert!(stored, "there was room");
            }
            word = format.next_page(word, 1);
        }
    }

    /// Replaces an entry by way of an empty one: clears it, drops the page on
    /// all CPUs of the space, and only then shows the new word (break before
    /// make; E11). What the old entry led to is given back with the gather,
    /// without another flush.
    ///
    /// # Locks
    /// Called with the table's guard; the gather was made before it and has
    /// room (a fresh one does).
    #[must_use = "some machines remember that the page was invalid: settle it"]
    pub(crate) fn exchange(
        &mut self,
        leaf: &LeafGuard<'_, 'm, P>,
        page: Vpn,
        word: FormatWord<P>,
    ) -> MapFlush {
        if let Some(taken) = leaf.take(self.tlb, page) {
            #[cfg(not(mm_mutant = "exchange_without_flush"))]
            self.flush_page_now(page);
            let (old, level) = (taken.word(), taken.level());
            let entry = self.cx.format().decode(old, level);
            let stored = !owns(entry, level) || self.store(old);
            debug_assert!(stored, "an exchange needs room in the gather");
            taken.consume();
        }
        leaf.install(page, word)
    }

    /// Returns how many more entries surely find room.
    pub fn room(&self) -> usize {
        let spare = self.spare_room().saturating_sub(self.spare_used);
        self.words.remaining_capacity().saturating_add(spare)
    }

    /// Takes ownership of an unlinked table and of all that its words lead to.
    pub fn push_table(&mut self, table: Detached) {
        let (pfn, pages) = (table.pfn(), table.pages());
        if let Some(page) = self.cx.frames().page(pfn) {
            let next = self.tables.map_or(0, |next| next.as_usize());
            // PFNs of RAM fit in 32 bits: the page map refuses others.
            #[expect(clippy::cast_possible_truncation, reason = "see above")]
            page.table()
                .gather_link()
                .store(next as u32, crate::sync::Ordering::Relaxed);
            self.tables = Some(pfn);
        }
        self.flush_range(pages);
        table.consume();
    }

    /// Returns the CPUs of the space whose entries are gathered.
    pub(crate) fn tlb(&self) -> &'c SpaceTlb {
        self.tlb
    }

    /// Notes pages whose entries lost rights, without freeing anything.
    pub fn flush_range(&mut self, pages: PageRange) {
        self.pages = hull(self.pages, pages);
    }

    /// Notes that entries of another space were changed (reverse mapping):
    /// its CPUs will be told too. Called after the entries were written.
    pub fn also(&mut self, other: &SpaceTlb) {
        self.others = self.others.union(other.publish(Reach::Leaves));
        self.several_spaces = Spaces::Several;
    }

    /// Drops one page on the CPUs of the space at once.
    ///
    /// # Locks
    /// Any may be held: copy-on-write and break-before-make hold the table.
    pub fn flush_page_now(&self, page: Vpn) {
        self.tlb.flush_page(self.cx, page);
    }

    /// Flushes, then gives back everything gathered so far; the gather can be
    /// used further. Does nothing when nothing is gathered.
    ///
    /// # Locks
    /// No inner one, no pin.
    pub fn flush(&mut self) {
        debug_assert!(
            !self.cx.holds_inner(),
            "a batch is flushed outside of inner locks"
        );
        #[cfg(mm_mutant = "given_back_before_flush")]
        self.release_words();
        #[cfg(not(mm_mutant = "gather_without_flush"))]
        self.tell_cpus();
        if self.tables.is_some() && !cfg!(mm_mutant = "tables_without_grace") {
            // Walkers that found a table before it was unlinked.
            self.cx.synchronize();
        }
        self.release_words();
        self.release_tables();
    }

    /// Flushes, gives back, and says how much.
    ///
    /// # Locks
    /// No inner one, no pin.
    // Inline: else the whole gather is moved to here.
    #[inline]
    pub fn finish(mut self) -> Released {
        self.flush();
        core::mem::take(&mut self.released)
    }

    fn tell_cpus(&mut self) {
        let pages = core::mem::take(&mut self.pages);
        let tables = self.tables.is_some();
        if pages.is_empty() && !tables && self.others.is_empty() {
            return;
        }
        let told = self.tlb.publish(Reach::of(
            tables && !cfg!(mm_mutant = "table_walkers_untold"),
        ));
        let cpus = told.union(core::mem::take(&mut self.others));
        let spaces = core::mem::replace(&mut self.several_spaces, Spaces::One);
        if cpus.is_empty() {
            return;
        }
        // The pages of the other spaces are not known: drop everything.
        let (asid, few) = match spaces {
            Spaces::One => (self.tlb.asid(), pages.pages() < FLUSH_CEILING_PAGES),
            Spaces::Several => (None, false),
        };
        let pages = few.then_some(pages);
        self.cx.flush(
            cpus,
            Flush {
                pages,
                tables: tables && !cfg!(mm_mutant = "tables_are_not_named"),
                asid,
            },
        );
    }

    fn store(&mut self, word: FormatWord<P>) -> bool {
        if self.words.try_push(word).is_ok() {
            return true;
        }
        if self.spare_used >= self.spare_room() {
            return false;
        }
        self.cx
            .format()
            .store(self.spare_words(), self.spare_used, word);
        self.spare_used = self.spare_used.saturating_add(1);
        true
    }

    /// The spare is a node like a level-1 table's, linked nowhere: only slots
    /// hold a format's words.
    fn spare_words(&self) -> &'m [Cell<P::Format>] {
        let order = self.cx.format().table_order(1);
        self.spare
            .map_or(&[], |pfn| self.cx.platform().memory().words(pfn, order))
    }

    fn spare_room(&self) -> usize {
        self.spare.map_or(0, |_| self.cx.format().entries(1))
    }

    fn release_words(&mut self) {
        while let Some(word) = self.words.pop() {
            self.release(word, 1);
        }
        for i in 0..core::mem::take(&mut self.spare_used) {
            let word = self.cx.format().load(self.spare_words(), i);
            self.release(word, 1);
        }
    }

    fn release_tables(&mut self) {
        while let Some(pfn) = self.tables.take() {
            let Some(page) = self.cx.frames().page(pfn) else {
                return;
            };
            let record = page.table();
            let next = record.gather_link().load(crate::sync::Ordering::Relaxed);
            self.tables = (next != 0).then(|| Pfn::new(u64::from(next)));
            let (format, level) = (self.cx.format(), record.level());
            let order = format.table_order(level);
            let words = self
                .cx
                .platform()
                .memory()
                .words::<Cell<P::Format>>(pfn, order);
            // Count down what is live, so that a sparse table is not read whole.
            let mut live = record.live();
            let mut runs = Spread::default();
            for i in 0..format.entries(level) {
                if live == 0 {
                    break;
                }
                let word = format.load(words, i);
                if word != Word::ZERO {
                    live = live.saturating_sub(1);
                    #[cfg(not(mm_mutant = "table_forgets_notes_of_runs"))]
                    let word = runs.word(format, words, level, i, word);
                    self.release(word, level);
                }
            }
            free_table(self.cx, pfn);
            self.released.tables = self.released.tables.saturating_add(1);
        }
    }

    /// Gives back what one word owned.
    #[inline]
    fn release(&mut self, word: FormatWord<P>, level: u8) {
        let format = self.cx.format();
        let entry = format.decode(word, level);
        if !owns(entry, level) {
            return;
        }
        if let Some((pfn, flags)) = entry.frame() {
            let (dirty, young) = (AttrFlags::DIRTY, AttrFlags::ACCESSED);
            self.release_page(pfn, flags.contains(dirty), flags.contains(young));
        } else {
            self.released.swap_entries = self.released.swap_entries.saturating_add(1);
        }
    }

    fn release_page(&mut self, pfn: Pfn, dirty: bool, young: bool) {
        let Some(page) = self.cx.frames().page(pfn) else {
            return;
        };
        let counter = match page.kind() {
            Kind::User => {
                let anon = page.has(PageFlags::ANON);
                // An anonymous page that is about to be freed has no use for them.
                if !anon || page.refs() > 1 {
                    let mut news = PageFlags::empty();
                    #[cfg(not(mm_mutant = "dirty_is_not_handed_on"))]
                    news.set(PageFlags::DIRTY, dirty);
                    news.set(PageFlags::REFERENCED, young);
                    if !page.has(news) {
                        page.set(news);
                    }
                }
                // Last: a page that nobody maps has heard of all stores.
                page.user().sub_maps(1);
                if anon {
                    &mut self.released.anon_pages
                } else {
                    &mut self.released.file_pages
                }
            }
            Kind::Kernel => &mut self.released.kernel_pages,
            _ => return,
        };
        *counter = counter.saturating_add(1);
        let freed = self.cx.frames().free(self.cx, pfn);
        debug_assert!(
            freed.is_ok(),
            "an entry led to a frame that was not allocated"
        );
    }
}

/// Returns whether an entry owns something that must ride the gather.
#[inline]
fn owns(entry: Entry, level: u8) -> bool {
    match entry {
        Entry::NonPresent(np) if np.kind == NonPresentKind::Swap => true,
        _ => level == 1 && entry.counted().is_some(),
    }
}

/// Gives a table's frames back to the allocator.
pub(crate) fn free_table<P: Platform>(cx: &Cx<'_, P>, pfn: Pfn) {
    let freed = cx.frames().free(cx, pfn);
    debug_assert!(freed.is_ok(), "a table's frame was not allocated");
}

impl<P: Platform> Drop for TlbGather<'_, '_, P> {
    fn drop(&mut self) {
        self.flush();
        if let Some(pfn) = self.spare.take() {
            let freed = self.cx.frames().free(self.cx, pfn);
            debug_assert!(freed.is_ok(), "the spare frame was not allocated");
        }
    }
}
