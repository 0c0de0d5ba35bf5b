//! Mapping ranges.
//!
//! One lock, one look for entries in use, and one store for each entry.
//! Tables come into being on the way, so a map can run out of memory in the
//! middle; then it takes back what it did, flushes, and the table is as before.
//! The frames stay the caller's until a map succeeds.

use super::cursor::{CursorMut, TableError, Why};
use super::walk::next_boundary;
use crate::addr::{Pfn, Vpn};
use crate::format::{AttrFlags, Attrs, PageTableFormat, TableOwner};
use crate::platform::Platform;
use crate::range::PageRange;
use crate::tlb::{MapFlush, TlbGather};

impl<P: Platform> CursorMut<'_, '_, P> {
    /// Maps consecutive frames from `first` on to the pages up to the end of
    /// the range. Where they are `SPECIAL` (and so own nothing), blocks are
    /// used as large as alignment allows; else each entry takes over the
    /// reference (and map count) that the caller holds on its frame. Either
    /// way aligned runs of entries are marked, where the format has such.
    ///
    /// # Errors
    /// [`TableError`] with the page; nothing is mapped and the cursor stays.
    ///
    /// # Locks
    /// Takes tables' locks (inner); allocates, so no inner one may be held.
    pub fn map(&mut self, first: Pfn, attrs: Attrs) -> Result<MapFlush, TableError> {
        let whole = self.range;
        self.check_reach(whole)?;
        self.check_frames(first, attrs)?;
        let result = self.map_run(first, attrs);
        self.settle_map(whole, result)
    }

    /// Maps one frame after the other to the pages from the position on.
    ///
    /// # Errors
    /// [`TableError`] with the page; nothing is mapped and the cursor stays.
    ///
    /// # Locks
    /// Takes tables' locks (inner); allocates, so no inner one may be held.
    pub fn map_each(&mut self, frames: &[Pfn], attrs: Attrs) -> Result<MapFlush, TableError> {
        let whole = self.range;
        let part = PageRange::with_len(whole.start(), frames.len());
        let Some(part) = part.filter(|&part| whole.covers(part)) else {
            return Err(Self::error(whole.end(), Why::OutOfReach));
        };
        self.check_reach(part)?;
        let result = self.map_slice(frames, attrs);
        self.settle_map(whole, result)
    }

    /// Refuses a range whose end lies outside of the table's reach; what is
    /// between two pages in reach is in reach, or met on the way.
    fn check_reach(&self, range: PageRange) -> Result<(), TableError> {
        let last = range.end().saturating_sub(1);
        if range.is_empty() || self.table.reaches(last) {
            return Ok(());
        }
        Err(Self::error(last, Why::OutOfReach))
    }

    /// Refuses frames past the last one that the format can name: after that
    /// would come the first.
    fn check_frames(&self, first: Pfn, attrs: Attrs) -> Result<(), TableError> {
        let Some(more) = self.range.pages().checked_sub(1) else {
            return Ok(());
        };
        let last = first.saturating_add(more as u64);
        let word = self.table.cx.format().encode_leaf(last, attrs, 1);
        word.map(drop)
            .map_err(|e| Self::error(self.range.end().saturating_sub(1), Why::Format(e)))
    }

    fn map_run(&mut self, first: Pfn, attrs: Attrs) -> Result<(), TableError> {
        let mut pfn = first;
        while !self.range.is_empty() {
            let done = self.map_table(pfn, attrs)?;
            pfn = pfn.saturating_add(done as u64);
            self.range = self.range.from(self.at().saturating_add(done));
        }
        Ok(())
    }

    /// Maps what fits into one table page; returns the number of pages.
    fn map_table(&self, pfn: Pfn, attrs: Attrs) -> Result<usize, TableError> {
        let format = self.table.cx.format();
        let at = self.at();
        let mut level = self.largest_leaf(pfn, attrs);
        loop {
            let span = format.entry_pages(level);
            let word = format
                .encode_leaf(pfn, attrs, level)
                .map_err(|e| Self::error(at, Why::Format(e)))?;
            let guard = self
                .table
                .lock_level_or_create(at, level)
                .map_err(|stopped| Self::error(at, stopped.why()))?;
            let part = self.range.intersect(guard.range()).pages();
            let entries = part.checked_div(span).unwrap_or(0);
            let done = guard.install_run(at, entries, word);
            if done > 0 {
                return Ok(done.saturating_mul(span));
            }
            // A table stands where a block would fit: fill it instead.
            if level == 1 || !matches!(guard.entry(at), crate::format::Entry::Table(_)) {
                return Err(Self::error(at, Why::Exists));
            }
            level = level.saturating_sub(1);
        }
    }

    /// Returns the highest level whose leaf fits the position, the frame, and
    /// what is left of the range.
    fn largest_leaf(&self, pfn: Pfn, attrs: Attrs) -> u8 {
        let format = self.table.cx.format();
        if !attrs.flags.contains(AttrFlags::SPECIAL) {
            return 1;
        }
        let fits = |level: &u8| {
            let mask = format.entry_pages(*level).wrapping_sub(1);
            format.leaf_at(*level)
                && self.at().as_usize() & mask == 0
                && pfn.as_u64() & mask as u64 == 0
                && self.range.pages() > mask
        };
        (1..=format.levels()).rev().find(fits).unwrap_or(1)
    }

    fn map_slice(&mut self, frames: &[Pfn], attrs: Attrs) -> Result<(), TableError> {
        let format = self.table.cx.format();
        let mut frames = frames.iter();
        while !frames.as_slice().is_empty() {
            let at = self.at();
            let guard = self
                .table
                .lock_level_or_create(at, 1)
                .map_err(|stopped| Self::error(at, stopped.why()))?;
            let part = self.range.intersect(guard.range()).pages();
            for &pfn in frames.by_ref().take(part) {
                let at = self.at();
                let word = format
                    .encode_leaf(pfn, attrs, 1)
                    .map_err(|e| Self::error(at, Why::Format(e)))?;
                if guard.install_run(at, 1, word) == 0 {
                    return Err(Self::error(at, Why::Exists));
                }
                self.range = self.range.from(at.saturating_add(1));
            }
        }
        Ok(())
    }

    /// Ends a map: says what it owes, or takes back what it did.
    fn settle_map(
        &mut self,
        whole: PageRange,
        result: Result<(), TableError>,
    ) -> Result<MapFlush, TableError> {
        let done = PageRange::new(whole.start(), self.at());
        match result {
            Ok(()) if self.owes() => Ok(MapFlush::of_new_table(done)),
            Ok(()) => Ok(MapFlush::NONE),
            Err(e) => {
                self.take_back(done);
                self.range = whole;
                Err(e)
            }
        }
    }

    /// Whether new entries may go unseen: of users where absence is remembered,
    /// of the kernel also where walks overtake stores.
    fn owes(&self) -> bool {
        let format = self.table.cx.format();
        let late = || self.table.owner == TableOwner::Kernel && format.shows_entries_late();
        format.caches_invalid() || late()
    }

    /// Removes the entries of `done`, all of them ours, without giving up the
    /// frames; CPUs have forgotten them when this returns.
    fn take_back(&self, done: PageRange) {
        let format = self.table.cx.format();
        let mut gather = TlbGather::new(self.table.cx, self.tlb);
        let mut at = done.start();
        // `lock_run` finds nothing in an empty range.
        while let Some(guard) = self.table.lock_run(PageRange::new(at, done.end())) {
            guard.forget(at);
            at = next_boundary(at, format.entry_pages(guard.level()));
        }
        #[cfg(not(mm_mutant = "taken_back_without_flush"))]
        gather.flush_range(done);
        self.table.prune(self.around(done), &mut gather);
        let _tables = gather.finish();
    }

    /// The pages, and the one where the map stopped: tables made for it go too.
    fn around(&self, done: PageRange) -> PageRange {
        PageRange::new(
            done.start(),
            done.end().max(Vpn::saturating_add(self.at(), 1)),
        )
    }
}
