//! Collecting what hardware noted: accessed and dirty.

use super::TableGuard;
use super::cursor::CursorMut;
use crate::addr::{Pfn, Vpn};
use crate::format::{AdBit, Entry, PageTableFormat, Word};
use crate::platform::Platform;
use crate::range::PageRange;
use crate::tlb::hull;
use arrayvec::ArrayVec;

/// Entries that are copied out under one lock before the caller sees them.
const BATCH: usize = 32;

/// Which bit is collected and cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harvest {
    /// Accessed. Not flushed: a page whose translation is still remembered may
    /// look unused a little too early, which does no harm.
    Accessed,
    /// Dirty. Flushed before the verb returns: a store through a remembered
    /// translation would not be noted again.
    Dirty,
}

/// A leaf (or a run, whose entries share what is noted) that had the bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Harvested {
    /// Its pages; several when it is a block or a run.
    pub pages: PageRange,
    /// Its first frame.
    pub frame: Pfn,
}

impl<P: Platform> CursorMut<'_, '_, P> {
    /// Clears a bit in all leaves up to the end of the range and calls `see`
    /// with those that had it; a block that the range touches counts whole.
    ///
    /// # Locks
    /// Takes tables' locks (inner); none is held while `see` runs.
    pub fn harvest(&mut self, bit: Harvest, mut see: impl FnMut(Harvested)) {
        let mut batch = ArrayVec::<Harvested, BATCH>::new();
        let mut flush = PageRange::default();
        while let Some(guard) = self.table.lock_run(self.range) {
            let end = self.harvest_table(&guard, bit, &mut batch);
            drop(guard);
            self.range = self.range.from(end);
            for harvested in batch.drain(..) {
                flush = hull(flush, harvested.pages);
                see(harvested);
            }
        }
        self.range = PageRange::new(self.range.end(), self.range.end());
        #[cfg(not(mm_mutant = "harvest_without_flush"))]
        if bit == Harvest::Dirty && !flush.is_empty() {
            self.tlb.flush_pages(self.table.cx, flush);
        }
    }

    /// Works until the batch is full or another table begins; returns the page
    /// to go on from.
    fn harvest_table(
        &self,
        guard: &TableGuard<'_, '_, P>,
        bit: Harvest,
        batch: &mut ArrayVec<Harvested, BATCH>,
    ) -> Vpn {
        let format = self.table.cx.format();
        let level = guard.level();
        let slots = guard.slots(self.range);
        let mut next = slots.start;
        while next < slots.end {
            let slot = next;
            next = slot.saturating_add(1);
            let word = format.load(guard.words(), slot);
            if word == Word::ZERO {
                continue;
            }
            let page = guard.page_of(slot);
            let frame = match format.decode(word, level) {
                Entry::Table(_) => return page.max(self.at()),
                Entry::Leaf { pfn, .. } => pfn,
                _ => continue,
            };
            if let Some(run) = guard.run_of(slot, word) {
                if slot > run.start || slots.end < run.end {
                    guard.break_run(self.tlb, &run);
                    next = slot;
                } else if batch.is_full() {
                    return page.max(self.at());
                } else {
                    next = run.end;
                    if guard.harvest_run(self.tlb, &run, bit) {
                        let pages = guard.pages_of(&run);
                        batch.push(Harvested { pages, frame });
                    }
                }
                continue;
            }
            let is_set = match bit {
                Harvest::Accessed => format.is_young(word),
                Harvest::Dirty => format.is_dirty(word),
            };
            if !is_set {
                continue;
            }
            if batch.is_full() {
                return page.max(self.at());
            }
            let cleared = guard.replace_slot(slot, |old| match bit {
                Harvest::Accessed => format.with_young(old, AdBit::Clear),
                Harvest::Dirty => format.with_dirty(old, AdBit::Clear),
            });
            if cleared.is_some() {
                let pages = PageRange::new(page, page.saturating_add(format.entry_pages(level)));
                batch.push(Harvested { pages, frame });
            }
        }
        guard.range().end()
    }
}
