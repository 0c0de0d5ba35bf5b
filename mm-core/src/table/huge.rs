//! Blocks: leaves above level 1, and how they are shattered.
//!
//! ```text
//!   level 2  │ L 2 MiB │          level 2  │ Table │
//!                          ──►                 ▼
//!                                level 1  │L│L│L│ ... 512 │   same frames, same attributes
//! ```
//!
//! The table is allocated before the lock and filled while it is private. The
//! block's accessed and dirty state goes to every page: dirty may then be
//! claimed for pages that are not, never the reverse. Where hardware sets it
//! meanwhile, the exchange fails and the table is filled again. Formats that
//! demand break-before-make get the invalid word and the flush in between.
//! Otherwise the flush follows, before the lock is dropped: no CPU
//! uses the block any more when the first of the pages changes. A run that the
//! block is part of is broken before; the pages of the block are runs.

use super::link::Spares;
use super::run::run_len;
use super::{PageTable, TableGuard};
use crate::addr::{Pfn, Vpn};
use crate::error::OutOfMemory;
use crate::format::{Entry, PageTableFormat, Run, Word};
use crate::platform::Platform;
use crate::range::PageRange;
use crate::tlb::SpaceTlb;

impl<'c, 'm, P: Platform> PageTable<'c, 'm, P> {
    /// Replaces the block of `level` that spans a page by a table of the next
    /// lower level with the same mappings. Does nothing when there is none.
    /// The table comes out of the spares, so that who has several blocks to
    /// shatter can have memory for all before the first.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing is changed.
    ///
    /// # Locks
    /// Takes the table's lock (inner), and flushes the block under it.
    pub(super) fn shatter(
        &self,
        page: Vpn,
        level: u8,
        tlb: &SpaceTlb,
        spares: &mut Spares<'c, 'm, P>,
    ) -> Result<(), OutOfMemory> {
        let below = level.saturating_sub(1);
        spares.reserve(below, level, self.space)?;
        let Some(guard) = self.lock_level(page, level) else {
            return Ok(());
        };
        let table = spares.of_level(below).ok_or(OutOfMemory)?;
        if self.shatter_locked(&guard, page, table, tlb)? {
            spares.forget(table);
        }
        Ok(())
    }

    /// True when the table was linked.
    fn shatter_locked(
        &self,
        guard: &TableGuard<'c, 'm, P>,
        page: Vpn,
        table: Pfn,
        tlb: &SpaceTlb,
    ) -> Result<bool, OutOfMemory> {
        let format = self.cx.format();
        let level = guard.level();
        let span = format.entry_pages(level);
        let first = Vpn::new(page.as_usize() & !span.wrapping_sub(1));
        let pages = PageRange::new(first, first.saturating_add(span));
        let link = format
            .encode_table(table, level, self.owner)
            .map_err(|_| OutOfMemory)?;
        let index = guard.index(page);
        loop {
            let block = guard.word(page);
            if !matches!(format.decode(block, level), Entry::Leaf { .. }) {
                return Ok(false);
            }
            if let Some(run) = guard.run_of(index, block) {
                guard.break_run(tlb, &run);
                continue;
            }
            self.fill(table, block, level)?;
            if format.break_before_make() && !cfg!(mm_mutant = "block_broken_in_place") {
                let last = format.swap(guard.words(), index, Word::ZERO);
                #[cfg(not(mm_mutant = "block_broken_without_flush"))]
                tlb.flush_pages(self.cx, pages);
                // What hardware set up to the last moment.
                #[cfg(not(mm_mutant = "table_is_filled_once"))]
                self.fill(table, last, level)?;
                format.store(guard.words(), index, link);
                return Ok(true);
            }
            if format
                .compare_exchange(guard.words(), index, block, link)
                .is_ok()
            {
                #[cfg(not(mm_mutant = "block_shattered_without_flush"))]
                tlb.flush_pages(self.cx, pages);
                return Ok(true);
            }
        }
    }

    /// Fills a private table with the pages of a block.
    fn fill(
        &self,
        table: Pfn,
        block: <P::Format as PageTableFormat>::Word,
        level: u8,
    ) -> Result<(), OutOfMemory> {
        let format = self.cx.format();
        let below = level.saturating_sub(1);
        let Entry::Leaf { pfn, attrs } = format.decode(block, level) else {
            return Ok(());
        };
        let mut word = format
            .encode_leaf(pfn, attrs, below)
            .map_err(|_| OutOfMemory)?;
        if run_len(format, below) > 1 {
            // All are alike, and as aligned as the block.
            word = format.with_run(word, Run::Member);
        }
        let words = self.words(table, below);
        let entries = format.entries(below);
        for i in 0..entries {
            format.store(words, i, word);
            word = format.next_page(word, below);
        }
        if let Some(page) = self.cx.frames().page(table) {
            page.table()
                .set_live(u32::try_from(entries).unwrap_or(u32::MAX));
        }
        Ok(())
    }
}
