//! Cursors: a range of a table and a position in it.
//!
//! A verb works from the position to the end of the range and moves the
//! position with it. It goes down once for each table page, holds that page's
//! lock for its entries, and calls the caller's closures only with no lock
//! held: entries are first copied into a small batch.
//!
//! The range is the caller's: two cursors that change the same pages at the
//! same time do no harm to the table, but undo each other's work.

use super::link::Spares;
use super::run::Spread;
use super::{PageTable, TableGuard};
use crate::addr::Vpn;
use crate::error::MmError;
use crate::format::{Entry, FormatError, PageTableFormat, Word};
use crate::platform::Platform;
use crate::range::PageRange;
use crate::tlb::SpaceTlb;
use arrayvec::ArrayVec;

/// Entries that are copied out under one lock before the caller sees them.
const BATCH: usize = 32;

/// What went wrong, and at which page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableError {
    /// The page.
    pub at: Vpn,
    /// What went wrong there.
    pub why: Why,
}

/// Why a verb stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Why {
    /// No frame was left for a table.
    OutOfMemory,
    /// The page is mapped already, or by an entry that is not empty.
    Exists,
    /// The page is not this table's.
    OutOfReach,
    /// The format cannot say it.
    Format(FormatError),
}

impl TableError {
    /// Returns the error of a verb on spaces that this is.
    pub fn into_mm_error(self, page_shift: u32) -> MmError {
        let at = self.at.addr(page_shift);
        match self.why {
            Why::OutOfMemory => MmError::OutOfMemory,
            Why::Exists => MmError::Exists(at),
            Why::OutOfReach => MmError::OutOfRange(at),
            Why::Format(_) => MmError::Invalid(at),
        }
    }
}

/// Reads a range of a table.
pub struct Cursor<'c, 'm, P: Platform> {
    table: PageTable<'c, 'm, P>,
    range: PageRange,
}

/// Reads and changes a range of a table.
pub struct CursorMut<'c, 'm, P: Platform> {
    pub(super) table: PageTable<'c, 'm, P>,
    pub(super) tlb: &'c SpaceTlb,
    /// From the position to the end.
    pub(super) range: PageRange,
}

/// A leaf or a non-present entry that a visit met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visited {
    /// Its pages, clipped to the range of the cursor.
    pub pages: PageRange,
    /// The level it stands at: above 1 it is a block.
    pub level: u8,
    /// What it says; accessed and dirty are those of its whole run.
    pub entry: Entry,
}

impl<'c, 'm, P: Platform> Cursor<'c, 'm, P> {
    /// Stands at the start of a range.
    pub fn new(table: PageTable<'c, 'm, P>, range: PageRange) -> Self {
        Self { table, range }
    }

    /// Calls `see` with each entry that is not empty, in ascending order, and
    /// ends behind the range.
    ///
    /// # Locks
    /// Takes tables' locks (inner); none is held while `see` runs.
    pub fn visit(&mut self, mut see: impl FnMut(Visited)) {
        let mut batch = ArrayVec::<Visited, BATCH>::new();
        while !self.range.is_empty() {
            let Some(guard) = self.table.lock_run(self.range) else {
                return;
            };
            let end = collect(self.table.cx.format(), &guard, self.range, &mut batch);
            drop(guard);
            self.range = self.range.from(end);
            batch.drain(..).for_each(&mut see);
        }
    }
}

/// Copies entries until the batch is full or another table begins; returns the
/// page to go on from.
fn collect<P: Platform>(
    format: P::Format,
    guard: &TableGuard<'_, '_, P>,
    range: PageRange,
    batch: &mut ArrayVec<Visited, BATCH>,
) -> Vpn {
    let span = format.entry_pages(guard.level());
    let mut runs = Spread::default();
    for slot in guard.slots(range) {
        let page = guard.page_of(slot);
        let word = format.load(guard.words(), slot);
        if word == Word::ZERO {
            continue;
        }
        let word = runs.word(format, guard.words(), guard.level(), slot, word);
        let entry = format.decode(word, guard.level());
        if matches!(entry, Entry::Table(_)) || batch.is_full() {
            return page.max(range.start());
        }
        let pages = PageRange::new(page, page.saturating_add(span)).intersect(range);
        batch.push(Visited {
            pages,
            level: guard.level(),
            entry,
        });
    }
    guard.range().end()
}

impl<'c, 'm, P: Platform> CursorMut<'c, 'm, P> {
    /// Stands at the start of a range.
    pub fn new(table: PageTable<'c, 'm, P>, tlb: &'c SpaceTlb, range: PageRange) -> Self {
        Self { table, tlb, range }
    }

    /// Returns the page that the next verb begins with.
    pub fn at(&self) -> Vpn {
        self.range.start()
    }

    /// Returns a cursor that reads the same pages.
    pub fn as_cursor(&self) -> Cursor<'c, 'm, P> {
        Cursor::new(self.table, self.range)
    }

    pub(super) fn error(at: Vpn, why: Why) -> TableError {
        TableError { at, why }
    }

    /// Shatters the blocks that the ends of the range cut, so that what lies
    /// in the range can be changed alone. This is all that an unmap or a
    /// protect may need memory for; it comes first, and memory for both ends
    /// before either is shattered.
    pub(super) fn shatter_edges(&self) -> Result<(), TableError> {
        if self.range.is_empty() {
            return Ok(());
        }
        let table = &self.table;
        let edges = [self.range.start(), self.range.end().saturating_sub(1)];
        let mut spares = [Spares::new(table.cx), Spares::new(table.cx)];
        for (page, spares) in edges.into_iter().zip(&mut spares) {
            if let Some(level) = self.cut_block(page) {
                let lowest = (2..=level).find(|&l| self.cuts(page, l)).unwrap_or(level);
                spares
                    .reserve(lowest.saturating_sub(1), level, table.space)
                    .map_err(|_| Self::error(page, Why::OutOfMemory))?;
            }
        }
        for (page, spares) in edges.into_iter().zip(&mut spares) {
            while let Some(level) = self.cut_block(page) {
                table
                    .shatter(page, level, self.tlb, spares)
                    .map_err(|_| Self::error(page, Why::OutOfMemory))?;
            }
        }
        Ok(())
    }

    /// Returns the level of the block that spans a page, if an end of the
    /// range cuts it.
    fn cut_block(&self, page: Vpn) -> Option<u8> {
        let format = self.table.cx.format();
        let (entry, level) = if format.break_before_make() {
            // Under the lock: without, a block that somebody breaks out of a
            // run might be looked at while it is empty.
            let one = PageRange::new(page, page.saturating_add(1));
            let guard = self.table.lock_run(one)?;
            (guard.entry(page), guard.level())
        } else {
            let (word, level) = self.table.translate(page)?;
            (format.decode(word, level), level)
        };
        let leaf = matches!(entry, Entry::Leaf { .. });
        (leaf && level > 1 && self.cuts(page, level)).then_some(level)
    }

    /// Returns whether the range has only a part of the entry of a level.
    fn cuts(&self, page: Vpn, level: u8) -> bool {
        let span = self.table.cx.format().entry_pages(level);
        let first = Vpn::new(page.as_usize() & !span.wrapping_sub(1));
        !self
            .range
            .covers(PageRange::new(first, first.saturating_add(span)))
    }
}

impl<'c, 'm, P: Platform> PageTable<'c, 'm, P> {
    /// Locks the table whose entry decides about the first page of a range.
    pub(super) fn lock_run(&self, range: PageRange) -> Option<TableGuard<'c, 'm, P>> {
        if range.is_empty() {
            return None;
        }
        self.lock_found(range.start(), 1)
    }
}
