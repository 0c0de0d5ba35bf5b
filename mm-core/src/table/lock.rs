//! A locked table, and what may be done to its entries.

use super::PageTable;
use super::walk::Found;
use crate::addr::{Pfn, Vpn};
use crate::cx::Cx;
use crate::format::{AdBit, AttrFlags, Cell, Entry, HardwareAd, NonPresent, PageTableFormat, Word};
use crate::page::{TableLock, TableRecord};
use crate::platform::Platform;
use crate::prot::Prot;
use crate::range::PageRange;
use crate::sync::{Class, Rank};
use crate::tlb::{MapFlush, SpaceTlb};

/// A locked table of level 1.
pub type LeafGuard<'c, 'm, P> = TableGuard<'c, 'm, P>;

/// Proof that a table is locked and in the tree; the way to its entries.
///
/// Entries are named by page. A page outside of [`Self::range`] is a bug of
/// the caller: it names an entry of this table all the same (debug builds
/// refuse).
///
/// # Locks
/// Holds an inner lock: no allocation, no outer lock, no batched flush.
pub struct TableGuard<'c, 'm, P: Platform> {
    cx: &'c Cx<'m, P>,
    lock: TableLock<'c, Cx<'m, P>>,
    words: &'m [Cell<P::Format>],
    pfn: Pfn,
    first: Vpn,
    level: u8,
}

/// An entry taken out of a table: what it led to may still be remembered by
/// CPUs, so it must be pushed into the gather.
#[must_use = "push it into the gather: CPUs may remember the entry"]
pub struct Taken<F: PageTableFormat> {
    word: F::Word,
    page: Vpn,
    pages: usize,
    level: u8,
}

impl<F: PageTableFormat> Taken<F> {
    /// Returns the word, with the accessed and dirty state it ended with.
    pub fn word(&self) -> F::Word {
        self.word
    }

    /// Returns the page (of a block, the first).
    pub fn page(&self) -> Vpn {
        self.page
    }

    /// Returns the level that the entry stood at.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Returns the pages that the entry spanned.
    pub fn pages(&self) -> PageRange {
        PageRange::new(self.page, self.page.saturating_add(self.pages))
    }

    /// Ends the debt: the gather has it.
    pub(crate) fn consume(self) {}
}

impl<F: PageTableFormat> core::fmt::Debug for Taken<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Taken({:?} at {:?})", self.word, self.page)
    }
}

impl<'c, 'm, P: Platform> TableGuard<'c, 'm, P> {
    /// Waits for the lock of a table that was found while pinned. It may
    /// be DEAD.
    pub(super) fn lock(
        table: &PageTable<'c, 'm, P>,
        found: &Found<'m, P>,
        page: Vpn,
    ) -> Option<Self> {
        let cx = table.cx;
        let record = found.record(cx)?.table();
        let lock = record.lock(cx, rank(cx.format(), found.pfn, found.level));
        Some(Self::held(cx, lock, found, page))
    }

    /// Takes the lock of a table that nobody else can know.
    pub(super) fn lock_fresh(
        table: &PageTable<'c, 'm, P>,
        found: &Found<'m, P>,
        page: Vpn,
    ) -> Option<Self> {
        let cx = table.cx;
        let record = found.record(cx)?.table();
        let lock = record.lock_fresh(cx, rank(cx.format(), found.pfn, found.level));
        Some(Self::held(cx, lock, found, page))
    }

    #[inline]
    fn held(
        cx: &'c Cx<'m, P>,
        lock: TableLock<'c, Cx<'m, P>>,
        found: &Found<'m, P>,
        page: Vpn,
    ) -> Self {
        let mask = table_pages(cx.format(), found.level).wrapping_sub(1);
        let first = Vpn::new(page.as_usize() & !mask);
        Self {
            cx,
            lock,
            words: found.words,
            pfn: found.pfn,
            first,
            level: found.level,
        }
    }

    /// Returns the pages that the table spans.
    pub fn range(&self) -> PageRange {
        let pages = table_pages(self.cx.format(), self.level);
        PageRange::new(self.first, self.first.saturating_add(pages))
    }

    /// Returns the level of the table.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Returns the frame of the table.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Returns how many entries are not empty.
    pub fn live(&self) -> u32 {
        self.record().live()
    }

    /// Returns the record of the table.
    pub fn record(&self) -> TableRecord<'c> {
        self.lock.record()
    }

    pub(super) fn cx(&self) -> &'c Cx<'m, P> {
        self.cx
    }

    pub(super) fn format(&self) -> P::Format {
        self.cx.format()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.record().is_dead()
    }

    /// Returns the word of a page's entry.
    pub fn word(&self, page: Vpn) -> <P::Format as PageTableFormat>::Word {
        self.cx.format().load(self.words, self.index(page))
    }

    /// Returns a page's entry, decoded.
    pub fn entry(&self, page: Vpn) -> Entry {
        self.cx.format().decode(self.word(page), self.level)
    }

    /// Stores a word into an empty entry, with release: what it leads to is
    /// seen as it is now. The reference that the word stands for moves into
    /// the table.
    ///
    /// An entry that is not empty is left alone (and refused in debug builds).
    pub fn install(&self, page: Vpn, word: <P::Format as PageTableFormat>::Word) -> MapFlush {
        let (format, index) = (self.cx.format(), self.index(page));
        debug_assert!(word != Word::ZERO, "an empty word cannot be installed");
        if format.load(self.words, index) != Word::ZERO {
            debug_assert!(false, "an entry that is in use was to be overwritten");
            return MapFlush::NONE;
        }
        self.add_live(1);
        format.store(self.words, index, word);
        let pages = format.entry_pages(self.level);
        self.map_flush(PageRange::new(page, page.saturating_add(pages)))
    }

    /// Installs consecutive frames from a page on, until `count` are in or an
    /// entry is in use; returns how many. `word` is the first. Aligned runs
    /// that are filled whole are marked (`run`).
    pub(crate) fn install_run(
        &self,
        page: Vpn,
        count: usize,
        word: <P::Format as PageTableFormat>::Word,
    ) -> usize {
        let (format, level) = (self.cx.format(), self.level);
        let first = self.index(page);
        let end = first.saturating_add(count).min(format.entries(level));
        // The first in-use entry, looked for in one go: a store to each entry
        // is then all that is left to do.
        let free = if self.live() == 0 {
            end
        } else {
            let used = (first..end).find(|&i| format.load(self.words, i) != Word::ZERO);
            used.unwrap_or(end)
        };
        self.store_leaves(first..free, word);
        let installed = free.saturating_sub(first);
        self.add_live(u32::try_from(installed).unwrap_or(u32::MAX));
        installed
    }

    /// Empties an entry and returns what stood there, with the accessed and
    /// dirty state it ended with; `None` when it was empty already. A run that
    /// it is part of is broken, for which `tlb` names the CPUs.
    pub fn take(&self, tlb: &SpaceTlb, page: Vpn) -> Option<Taken<P::Format>> {
        let (format, index) = (self.cx.format(), self.index(page));
        let mut old = format.load(self.words, index);
        if let Some(run) = self.run_of(index, old) {
            self.break_run(tlb, &run);
            old = format.load(self.words, index);
        }
        if old == Word::ZERO {
            return None;
        }
        let word = self.clear_slot(index, old);
        self.sub_live(1);
        let pages = format.entry_pages(self.level);
        let page = Vpn::new(page.as_usize() & !pages.wrapping_sub(1));
        Some(Taken {
            word,
            page,
            pages,
            level: self.level,
        })
    }

    /// Empties an entry that a map has just made and takes back: a run that it
    /// is part of goes whole.
    pub(super) fn forget(&self, page: Vpn) {
        let index = self.index(page);
        if self.cx.format().load(self.words, index) != Word::ZERO {
            self.cx.format().store(self.words, index, Word::ZERO);
            self.sub_live(1);
        }
    }

    /// Empties an entry that held `old` and returns what it ended with. The
    /// live count is the caller's to lower.
    #[inline]
    pub(crate) fn clear_slot(
        &self,
        slot: usize,
        old: <P::Format as PageTableFormat>::Word,
    ) -> <P::Format as PageTableFormat>::Word {
        let format = self.cx.format();
        if self.is_settled(old) || cfg!(mm_mutant = "taken_by_store") {
            format.store(self.words, slot, Word::ZERO);
            old
        } else {
            format.swap(self.words, slot, Word::ZERO)
        }
    }

    /// Replaces the word of an entry by what `change` makes of it, losing no
    /// bit that hardware sets meanwhile; returns the old and the new word, or
    /// `None` (and does nothing) when the entry is empty.
    ///
    /// `change` may be called several times, and must not return the empty
    /// word (that is [`Self::take`]). Where rights were removed, the caller
    /// owes a flush ([`crate::tlb::TlbGather::flush_range`]). A run that the
    /// entry is part of is broken first, if the entry changes.
    #[must_use = "where rights were removed a flush is owed"]
    pub(crate) fn replace_nonempty(
        &self,
        tlb: &SpaceTlb,
        page: Vpn,
        mut change: impl FnMut(
            <P::Format as PageTableFormat>::Word,
        ) -> <P::Format as PageTableFormat>::Word,
    ) -> Option<Replaced<P>> {
        let slot = self.index(page);
        if self.has_runs() {
            let one = slot..slot.saturating_add(1);
            let mut replaced = None;
            let _table = self.replace_slots(tlb, one, change, |_, old, new| {
                replaced = Some((old, new));
            });
            return replaced.or_else(|| {
                let word = self.cx.format().load(self.words, slot);
                (word != Word::ZERO).then_some((word, word))
            });
        }
        self.replace_slot(slot, &mut change)
    }

    /// Takes WRITE from a level-1 leaf; returns whether it had it. Then a flush
    /// is owed.
    #[must_use = "a flush is owed"]
    pub(crate) fn write_protect(&self, tlb: &SpaceTlb, page: Vpn) -> bool {
        let format = self.cx.format();
        let replaced = self.replace_nonempty(tlb, page, |word| match format.decode(word, 1) {
            Entry::Leaf { attrs, .. } if attrs.prot.contains(Prot::WRITE) => {
                format.write_protect(word)
            }
            _ => word,
        });
        replaced.is_some_and(|(old, new)| old != new)
    }

    /// Takes WRITE and DIRTY from the entry of a page, if it leads to this frame, also where no
    /// access is allowed; returns whether it had one of them. Then a flush is owed: who takes rights
    /// away may not have come to its own yet, and a store through what a CPU remembers has left DIRTY.
    #[must_use = "a flush is owed"]
    pub(crate) fn take_dirty(&self, tlb: &SpaceTlb, page: Vpn, of: Pfn) -> bool {
        let format = self.cx.format();
        let replaced = self.replace_nonempty(tlb, page, |word| {
            let entry = format.decode(word, 1);
            if entry.counted() != Some(of) {
                return word;
            }
            match entry {
                Entry::NonPresent(np) => {
                    let kept = np.flags().difference(AttrFlags::DIRTY);
                    let clean = NonPresent::prot_none(of, kept);
                    format.encode_nonpresent(clean).unwrap_or(word)
                }
                _ => format.with_dirty(format.write_protect(word), AdBit::Clear),
            }
        });
        replaced.is_some_and(|(old, new)| old != new)
    }

    /// Replaces one word, by index and whatever run it is part of. An entry
    /// that does not change is not written.
    pub(super) fn replace_slot(
        &self,
        slot: usize,
        mut change: impl FnMut(
            <P::Format as PageTableFormat>::Word,
        ) -> <P::Format as PageTableFormat>::Word,
    ) -> Option<Replaced<P>> {
        let format = self.cx.format();
        let mut old = format.load(self.words, slot);
        loop {
            if old == Word::ZERO {
                return None;
            }
            let new = change(old);
            debug_assert!(new != Word::ZERO, "entries are emptied by take");
            if new == old {
                return Some((old, new));
            }
            if self.is_settled(old) || cfg!(mm_mutant = "replaced_by_store") {
                format.store(self.words, slot, new);
                return Some((old, new));
            }
            match format.compare_exchange(self.words, slot, old, new) {
                Ok(()) => return Some((old, new)),
                Err(now) => old = now,
            }
        }
    }

    /// Returns the first entry of the range's part of this table and the one
    /// after the last.
    pub(crate) fn slots(&self, range: PageRange) -> core::ops::Range<usize> {
        let part = self.range().intersect(range);
        if part.is_empty() {
            return 0..0;
        }
        let last = self
            .cx
            .format()
            .index(part.end().saturating_sub(1), self.level);
        self.cx.format().index(part.start(), self.level)..last.saturating_add(1)
    }

    /// Returns an entry by index, decoded.
    pub(super) fn entry_at(&self, slot: usize) -> Entry {
        let format = self.cx.format();
        format.decode(format.load(self.words, slot), self.level)
    }

    /// Returns the first page of an entry.
    pub(crate) fn page_of(&self, slot: usize) -> Vpn {
        let pages = slot.wrapping_mul(self.cx.format().entry_pages(self.level));
        self.first.saturating_add(pages)
    }

    /// Returns whether hardware cannot write to this word.
    fn is_settled(&self, word: <P::Format as PageTableFormat>::Word) -> bool {
        let format = self.cx.format();
        format.hardware_ad() == HardwareAd::None
            || format.ad_settled(word)
            || !matches!(format.decode(word, self.level), Entry::Leaf { .. })
    }

    /// Returns what installing the entries of `pages` owed. When they are all
    /// that the table has, it may be new.
    pub(crate) fn map_flush(&self, pages: PageRange) -> MapFlush {
        let format = self.cx.format();
        let entries = pages.pages().checked_div(format.entry_pages(self.level));
        self.map_flush_of(
            pages,
            entries.map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        )
    }

    /// As [`Self::map_flush`], where only so many entries of `pages` were installed.
    pub(super) fn map_flush_of(&self, pages: PageRange, entries: u32) -> MapFlush {
        if !self.cx.format().caches_invalid() {
            MapFlush::NONE
        } else if entries == self.live() && !cfg!(mm_mutant = "new_table_is_not_flushed") {
            MapFlush::of_new_table(pages)
        } else {
            MapFlush::of(pages)
        }
    }

    pub(super) fn index(&self, page: Vpn) -> usize {
        debug_assert!(
            self.range().contains(page),
            "{page:?} is not in {:?}",
            self.range()
        );
        self.cx.format().index(page, self.level)
    }

    pub(crate) fn words(&self) -> &'m [Cell<P::Format>] {
        self.words
    }

    pub(super) fn add_live(&self, n: u32) {
        self.record().set_live(self.live().saturating_add(n));
    }

    pub(crate) fn sub_live(&self, n: u32) {
        debug_assert!(self.live() >= n, "live count below zero");
        self.record().set_live(self.live().saturating_sub(n));
    }
}

/// The old and the new word of a replaced entry.
pub(crate) type Replaced<P> = (
    <<P as Platform>::Format as PageTableFormat>::Word,
    <<P as Platform>::Format as PageTableFormat>::Word,
);

/// Returns the rank of a table's lock: parents before children, then by frame.
pub(super) fn rank<F: PageTableFormat>(format: F, pfn: Pfn, level: u8) -> Rank {
    // PFNs of RAM fit in 32 bits: the page map refuses others.
    #[expect(clippy::cast_possible_truncation, reason = "see above")]
    let key = pfn.as_u64() as u32;
    Rank {
        class: Class::Table,
        level: format.levels().saturating_sub(level),
        key,
    }
}

/// Returns the number of pages that a table of a level spans.
pub(super) fn table_pages<F: PageTableFormat>(format: F, level: u8) -> usize {
    format.entry_pages(level.saturating_add(1))
}
