//! Contiguous runs: aligned entries in a row that one TLB entry may hold
//! together, because they are alike and lead to consecutive frames.
//!
//! ```text
//!   level 1   │ L₀│ L₁│ L₂│ L₃│ - │ L │ ···     each marked, each names its own frame
//!              └─ a run of 4 ─┘
//!   a TLB      [ 4 pages, rights, ... ]         or one entry for each, or some of both
//! ```
//!
//! Runs stand for Arm's contiguous hint (Arm ARM DDI 0487, D8.7.1), ARMv7's
//! large pages and supersections (DDI 0406C, B3.5.1) and RISC-V's Svnapot
//! (privileged manual, "Svnapot"). [`CursorMut::map`](super::CursorMut::map)
//! marks every aligned run of entries that it fills, of pages and of blocks,
//! whoever owns the frames: each entry of an owned page keeps its own
//! reference, and a run that is taken apart gives each back alone.
//!
//! # Invariant
//! Under a table's lock, of a run either every entry is marked or none is; the
//! marked ones are present and differ in accessed and dirty only.
//!
//! # Accessed and dirty are the run's
//! A CPU that holds the run as one translation may note an access to any of its
//! pages in any of its entries (Linux collects over the whole run for both
//! architectures: `contpte_ptep_get`, RISC-V's `huge_ptep_get`). So a bit in one
//! entry counts for each page: whoever takes, harvests or breaks a run first
//! gathers it over all entries ([`Noted`]). Dirty may be claimed for pages
//! that are not, never the reverse.
//!
//! # Changes
//!
//! | what changes | how |
//! |---|---|
//! | nothing, once computed | nothing is written |
//! | all entries, alike | in place; the run stays one |
//! | all are taken | each is swapped out; no CPU finds half of it for longer than a flush |
//! | some, or all but unlike | the run is *broken*, then entries change alone |
//!
//! | to break, or to change rights | hardware that demands break-before-make | other hardware |
//! |---|---|---|
//! | 1 | swap every entry for the empty one, gathering | exchange each, gathering |
//! | 2 | flush the run | flush the run (only to break) |
//! | 3 | store every entry anew | note in each what was noted in any (only to break) |
//!
//! Without break-before-make a translation of the whole run may be used until
//! step 2, and a store through it is noted in an entry that step 1 has not
//! reached yet, or has and is single: it is gathered or is its own. With it, a
//! CPU that walks between 1 and 3 faults, waits for the table's lock and finds
//! the entry good. Nobody resolves faults of the kernel: like shattering a
//! block, breaking a run of the kernel's is for pages that no CPU uses meanwhile.
//!
//! A run that is being filled, or taken, is for that time marked in part: valid
//! entries are alike, the others fault.

use super::TableGuard;
use crate::addr::{Pfn, Vpn};
use crate::format::{AdBit, Cell, Entry, PageTableFormat, Run, Word};
use crate::platform::Platform;
use crate::range::PageRange;
use crate::tlb::SpaceTlb;
use core::ops::Range;

type WordOf<P> = <<P as Platform>::Format as PageTableFormat>::Word;

/// Returns the number of entries of a run at a level; one where there are none.
pub(crate) fn run_len<F: PageTableFormat>(format: F, level: u8) -> usize {
    let bits = format.run_bits(level);
    if bits > format.index_bits(level) {
        return 1;
    }
    1usize.checked_shl(bits).unwrap_or(1)
}

/// Returns the run that a word at a slot is marked part of.
#[inline]
pub(crate) fn run_of<F: PageTableFormat>(
    format: F,
    level: u8,
    slot: usize,
    word: F::Word,
) -> Option<Range<usize>> {
    let len = run_len(format, level);
    if len < 2 || !format.is_run(word) || !matches!(format.decode(word, level), Entry::Leaf { .. })
    {
        return None;
    }
    let first = slot & !len.wrapping_sub(1);
    Some(first..first.saturating_add(len))
}

/// Returns the part of `slots` that whole runs fill, when the first of the
/// slots gets `pfn` and the others the frames behind it.
fn whole_runs<F: PageTableFormat>(
    format: F,
    level: u8,
    slots: &Range<usize>,
    pfn: Pfn,
) -> Range<usize> {
    let mask = run_len(format, level).wrapping_sub(1);
    let frames = pfn.as_u64().wrapping_shr(format.index_shift(level));
    let skew = frames ^ slots.start as u64;
    let first = slots.start.saturating_add(mask) & !mask;
    let end = slots.end & !mask;
    if mask == 0 || skew & mask as u64 != 0 || first >= end {
        return 0..0;
    }
    first..end
}

/// What hardware noted in the entries of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Noted {
    pub(super) young: bool,
    pub(super) dirty: bool,
}

impl Noted {
    fn add<F: PageTableFormat>(&mut self, format: F, word: F::Word) {
        self.young |= format.is_young(word);
        self.dirty |= format.is_dirty(word);
    }

    /// Returns the leaf with these notes beside its own.
    fn on<F: PageTableFormat>(self, format: F, mut word: F::Word) -> F::Word {
        if self.young && !format.is_young(word) {
            word = format.with_young(word, AdBit::Set);
        }
        if self.dirty && !format.is_dirty(word) {
            word = format.with_dirty(word, AdBit::Set);
        }
        word
    }

    fn of_run<F: PageTableFormat>(format: F, node: &[Cell<F>], run: &Range<usize>) -> Self {
        let mut noted = Self::default();
        for slot in run.clone() {
            noted.add(format, format.load(node, slot));
        }
        noted
    }
}

/// Adds to words of a node what was noted anywhere in their runs, as slots are
/// read in ascending order.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    end: usize,
    noted: Noted,
}

impl Spread {
    /// Returns the word of a slot with the notes of its run.
    #[inline]
    pub(crate) fn word<F: PageTableFormat>(
        &mut self,
        format: F,
        node: &[Cell<F>],
        level: u8,
        slot: usize,
        word: F::Word,
    ) -> F::Word {
        let Some(run) = run_of(format, level, slot, word) else {
            return word;
        };
        if slot >= self.end {
            self.end = run.end;
            self.noted = Noted::of_run(format, node, &run);
        }
        self.noted.on(format, word)
    }
}

impl<P: Platform> TableGuard<'_, '_, P> {
    /// Returns whether tables of this level can have runs at all: a constant
    /// on most formats, so that loops without them stay as they were.
    #[inline]
    pub(crate) fn has_runs(&self) -> bool {
        run_len(self.format(), self.level()) > 1
    }

    /// Returns the run that a word of this table is marked part of.
    #[inline]
    pub(crate) fn run_of(&self, slot: usize, word: WordOf<P>) -> Option<Range<usize>> {
        run_of(self.format(), self.level(), slot, word)
    }

    /// Returns the pages of some slots.
    pub(crate) fn pages_of(&self, slots: &Range<usize>) -> PageRange {
        PageRange::new(self.page_of(slots.start), self.page_of(slots.end))
    }

    /// Stores leaves for consecutive frames, `word` the first; whole runs are
    /// marked. The slots are empty.
    #[inline]
    pub(super) fn store_leaves(&self, slots: Range<usize>, word: WordOf<P>) {
        let words = self.words().len();
        if slots.end <= words {
            // Most nodes have a word for each entry: said here, plain words are
            // stored without a test of the bound at each.
            self.store_each(slots.start..slots.end.min(words), word);
        } else {
            self.store_each(slots, word);
        }
    }

    #[inline(always)]
    fn store_each(&self, slots: Range<usize>, mut word: WordOf<P>) {
        let (format, level, words) = (self.format(), self.level(), self.words());
        let runs = match format.decode(word, level) {
            Entry::Leaf { pfn, .. } if self.has_runs() => whole_runs(format, level, &slots, pfn),
            _ => 0..0,
        };
        for slot in slots {
            if runs.contains(&slot) {
                format.store(words, slot, format.with_run(word, Run::Member));
            } else {
                format.store(words, slot, word);
            }
            word = format.next_page(word, level);
        }
    }

    /// Makes the entries of a run single: one TLB entry a page from here on.
    ///
    /// # Locks
    /// The table's is held; flushes the run under it.
    // Out of line: few entries are in runs.
    #[cold]
    #[inline(never)]
    pub(crate) fn break_run(&self, tlb: &SpaceTlb, run: &Range<usize>) {
        let format = self.format();
        let pages = self.pages_of(run);
        if format.break_before_make() && !cfg!(mm_mutant = "run_broken_in_place") {
            let first = self.take_run(run);
            #[cfg(not(mm_mutant = "run_broken_without_flush"))]
            tlb.flush_pages(self.cx(), pages);
            self.store_single(run, first);
            return;
        }
        let mut noted = Noted::default();
        for slot in run.clone() {
            let old = self.replace_slot(slot, |word| format.with_run(word, Run::Single));
            if let Some((old, _)) = old {
                noted.add(format, old);
            }
        }
        #[cfg(not(mm_mutant = "run_broken_without_flush"))]
        tlb.flush_pages(self.cx(), pages);
        #[cfg(not(mm_mutant = "broken_run_forgets_notes"))]
        for slot in run.clone() {
            let _noted = self.replace_slot(slot, |word| noted.on(format, word));
        }
    }

    /// Empties the entries of a run and returns the first word, single, with
    /// what was noted in any of them until then. The others follow by
    /// [`PageTableFormat::next_page`]. The live count is the caller's.
    pub(crate) fn take_run(&self, run: &Range<usize>) -> WordOf<P> {
        let (format, words) = (self.format(), self.words());
        let mut noted = Noted::default();
        let mut first = Word::ZERO;
        for slot in run.clone() {
            let old = format.swap(words, slot, Word::ZERO);
            debug_assert!(
                run_of(format, self.level(), slot, old).is_some(),
                "a run has an entry that is not marked"
            );
            if slot == run.start || !cfg!(mm_mutant = "run_is_noted_by_its_first") {
                noted.add(format, old);
            }
            if slot == run.start {
                first = old;
            }
        }
        noted.on(format, format.with_run(first, Run::Single))
    }

    /// Empties a run of blocks, which own nothing, if it begins at a page and
    /// lies in a range; returns its pages, which are to be flushed.
    pub(super) fn take_blocks(&self, page: Vpn, within: PageRange) -> Option<PageRange> {
        let slot = self.index(page);
        let run = self.run_of(slot, self.word(page))?;
        let pages = self.pages_of(&run);
        if run.start != slot || !within.covers(pages) {
            return None;
        }
        let _nothing_owned = self.take_run(&run);
        self.sub_live(u32::try_from(run.len()).unwrap_or(u32::MAX));
        Some(pages)
    }

    fn store_single(&self, run: &Range<usize>, mut word: WordOf<P>) {
        let format = self.format();
        for slot in run.clone() {
            format.store(self.words(), slot, word);
            word = format.next_page(word, self.level());
        }
    }

    /// Stores the leaves of a run, `word` the first, into empty entries or over
    /// those of the run. The live count is the caller's.
    pub(super) fn store_run(&self, run: &Range<usize>, mut word: WordOf<P>) {
        let format = self.format();
        for slot in run.clone() {
            format.store(self.words(), slot, format.with_run(word, Run::Member));
            word = format.next_page(word, self.level());
        }
    }

    /// Replaces the words of some slots by what `change` makes of each, and
    /// calls `changed` with the slots that did change (a run at once), the
    /// first old and the first new word. Runs that lie in the slots stay runs
    /// when `change` makes the same of all their words; others are broken if
    /// anything changes. A word that `change` gets is never marked.
    ///
    /// `change` may be called several times, keeps accessed and dirty (it may
    /// add them), and does not return the empty word. Stops at the first entry
    /// that leads to a table, and returns its slot.
    ///
    /// # Locks
    /// The table's is held. May flush a run under it; what lost rights is the
    /// caller's to flush.
    #[inline]
    pub(crate) fn replace_slots(
        &self,
        tlb: &SpaceTlb,
        slots: Range<usize>,
        mut change: impl FnMut(WordOf<P>) -> WordOf<P>,
        mut changed: impl FnMut(Range<usize>, WordOf<P>, WordOf<P>),
    ) -> Option<usize> {
        let (format, level) = (self.format(), self.level());
        let mut slot = slots.start;
        while slot < slots.end {
            let next = slot.saturating_add(1);
            if level > 1 && matches!(self.entry_at(slot), Entry::Table(_)) {
                return Some(slot);
            }
            if self.has_runs() {
                let word = format.load(self.words(), slot);
                if let Some(run) = self.run_of(slot, word) {
                    match self.change_run(tlb, &run, &slots, slot, &mut change) {
                        RunChange::None => {
                            slot = next;
                            continue;
                        }
                        RunChange::Whole(old, new) => {
                            if old != new {
                                changed(run.clone(), old, new);
                            }
                            slot = run.end;
                            continue;
                        }
                        RunChange::Broken => {}
                    }
                }
            }
            if let Some((old, new)) = self.replace_slot(slot, &mut change) {
                if old != new {
                    changed(slot..next, old, new);
                }
            }
            slot = next;
        }
        None
    }

    /// Changes a run that was met at `slot`, or breaks it.
    // Out of line, so that loops without runs stay short.
    #[cold]
    #[inline(never)]
    fn change_run(
        &self,
        tlb: &SpaceTlb,
        run: &Range<usize>,
        slots: &Range<usize>,
        slot: usize,
        change: &mut dyn FnMut(WordOf<P>) -> WordOf<P>,
    ) -> RunChange<P> {
        let format = self.format();
        let single = |slot| format.with_run(format.load(self.words(), slot), Run::Single);
        let covered = slots.start <= run.start && run.end <= slots.end;
        if !covered {
            // By its own notes: hardware that sets none looks at no others.
            let old = single(slot);
            if change(old) == old {
                return RunChange::None;
            }
            self.break_run(tlb, run);
            return RunChange::Broken;
        }
        let noted = Noted::of_run(format, self.words(), run);
        let first = noted.on(format, single(run.start));
        let new = change(first);
        if !self.stays_run(run, first, new, change) {
            self.break_run(tlb, run);
            return RunChange::Broken;
        }
        if new != first {
            self.rewrite_run(tlb, run, new, change);
        }
        RunChange::Whole(first, new)
    }

    /// Returns whether `change`, which makes `new` of the first word, makes the
    /// same of the others.
    fn stays_run(
        &self,
        run: &Range<usize>,
        first: WordOf<P>,
        new: WordOf<P>,
        change: &mut dyn FnMut(WordOf<P>) -> WordOf<P>,
    ) -> bool {
        let (format, level) = (self.format(), self.level());
        if !matches!(format.decode(new, level), Entry::Leaf { .. }) {
            return false;
        }
        let (mut old, mut new) = (first, new);
        for _ in run.start.saturating_add(1)..run.end {
            old = format.next_page(old, level);
            new = format.next_page(new, level);
            if change(old) != new {
                return false;
            }
        }
        true
    }

    fn rewrite_run(
        &self,
        tlb: &SpaceTlb,
        run: &Range<usize>,
        new: WordOf<P>,
        change: &mut dyn FnMut(WordOf<P>) -> WordOf<P>,
    ) {
        let format = self.format();
        if format.break_before_make() {
            let last = self.take_run(run);
            #[cfg(not(mm_mutant = "run_rewritten_without_flush"))]
            tlb.flush_pages(self.cx(), self.pages_of(run));
            let mut noted = Noted::default();
            noted.add(format, last);
            self.store_run(run, noted.on(format, new));
            return;
        }
        for slot in run.clone() {
            let _changed = self.replace_slot(slot, |word| {
                let new = change(format.with_run(word, Run::Single));
                format.with_run(new, Run::Member)
            });
        }
    }

    /// Clears a note in all entries of a run and returns what was noted.
    ///
    /// Accessed is cleared in place everywhere: hardware itself makes entries
    /// of a run differ in it. Dirty may be a matter of rights (AArch64: `AP[2]`),
    /// so it is cleared as rights are.
    pub(super) fn harvest_run(
        &self,
        tlb: &SpaceTlb,
        run: &Range<usize>,
        bit: super::Harvest,
    ) -> bool {
        let format = self.format();
        let before = Noted::of_run(format, self.words(), run);
        match bit {
            super::Harvest::Accessed if before.young => {
                for slot in run.clone() {
                    let _was =
                        self.replace_slot(slot, |word| format.with_young(word, AdBit::Clear));
                }
                true
            }
            super::Harvest::Dirty if before.dirty => {
                if format.break_before_make() {
                    let last = self.take_run(run);
                    #[cfg(not(mm_mutant = "run_harvested_without_flush"))]
                    tlb.flush_pages(self.cx(), self.pages_of(run));
                    self.store_run(run, format.with_dirty(last, AdBit::Clear));
                } else {
                    for slot in run.clone() {
                        let _was =
                            self.replace_slot(slot, |word| format.with_dirty(word, AdBit::Clear));
                    }
                }
                true
            }
            _ => false,
        }
    }
}

/// What became of a run.
enum RunChange<P: Platform> {
    /// The slot does not change: the run is as it was.
    None,
    /// The first word before and after; the run is still one.
    Whole(WordOf<P>, WordOf<P>),
    /// Its entries are single now.
    Broken,
}
