//! Going down, without locks.

use super::lock::table_pages;
use super::{LeafGuard, PageTable, TableGuard};
use crate::addr::{Pfn, Vpn};
use crate::cx::{Cx, Pin};
use crate::format::{Cell, Entry, PageTableFormat, TableOwner, Word};
use crate::page::{Page, Stretch};
use crate::platform::Platform;
use crate::range::PageRange;

/// Where a descent ended: a table of the level asked for, or the last one
/// above it whose entry leads to no table. Valid while pinned.
pub(super) struct Found<'m, P: Platform> {
    pub(super) pfn: Pfn,
    pub(super) level: u8,
    pub(super) words: &'m [Cell<P::Format>],
    /// Its record, where that was looked at already.
    pub(super) page: Option<&'m Page>,
}

impl<'m, P: Platform> Found<'m, P> {
    /// Returns the record of the table.
    #[inline]
    pub(super) fn record(&self, cx: &Cx<'m, P>) -> Option<&'m Page> {
        self.page.or_else(|| cx.frames().page(self.pfn))
    }
}

impl<'c, 'm, P: Platform> PageTable<'c, 'm, P> {
    /// Returns the word that decides about a page and its level, unless it is
    /// empty. It may be a block or a non-present entry, and may have changed
    /// by the time the caller looks at it.
    pub fn translate(&self, page: Vpn) -> Option<(<P::Format as PageTableFormat>::Word, u8)> {
        let pin = self.cx.pin();
        self.translate_pinned(&pin, page)
    }

    /// As [`Self::translate`], for a caller who looks at more while pinned:
    /// the word was in the table at some time since the pin was taken.
    pub fn translate_pinned(
        &self,
        pin: &Pin<'_, '_, P>,
        page: Vpn,
    ) -> Option<(<P::Format as PageTableFormat>::Word, u8)> {
        if !self.reaches(page) {
            return None;
        }
        let format = self.cx.format();
        let mut found = self.top();
        loop {
            // The very word that the way down ends at: read once more, it might lead to a table
            // that was linked meanwhile.
            let word = format.load(found.words, format.index(page, found.level));
            match self.below(pin, &found, word) {
                Some(below) => found = below,
                None => return (word != Word::ZERO).then_some((word, found.level)),
            }
        }
    }

    /// Goes down to the table of `target` level on the way to a page.
    pub(super) fn descend(&self, pin: &Pin<'_, '_, P>, page: Vpn, target: u8) -> Found<'m, P> {
        let format = self.cx.format();
        let mut found = self.top();
        while found.level > target {
            let word = format.load(found.words, format.index(page, found.level));
            match self.below(pin, &found, word) {
                Some(below) => found = below,
                None => break,
            }
        }
        found
    }

    fn top(&self) -> Found<'m, P> {
        let level = self.cx.format().levels();
        Found {
            pfn: self.root,
            level,
            words: self.words(self.root, level),
            page: None,
        }
    }

    /// Returns the table that a word of a table leads to.
    fn below(
        &self,
        _pin: &Pin<'_, '_, P>,
        above: &Found<'m, P>,
        word: <P::Format as PageTableFormat>::Word,
    ) -> Option<Found<'m, P>> {
        let level = above.level.checked_sub(1).filter(|level| *level > 0)?;
        match self.cx.format().decode(word, above.level) {
            Entry::Table(pfn) => Some(Found {
                pfn,
                level,
                words: self.words(pfn, level),
                page: None,
            }),
            _ => None,
        }
    }

    /// Locks the level-1 table that spans a page, if there is one. A block
    /// has none.
    ///
    /// # Locks
    /// Takes the table's lock (inner).
    #[inline]
    pub fn lock_leaf(&self, page: Vpn) -> Option<LeafGuard<'c, 'm, P>> {
        self.lock_level(page, 1)
    }

    /// As [`Self::lock_leaf`], for a table of a space that nobody runs yet
    /// (fork's child): its lock may be taken whatever tables are held. `None`
    /// also where a truncation, which finds the child's areas through their
    /// object, has just freed the table because it is empty.
    ///
    /// # Locks
    /// Takes the table's lock (inner); whoever has it waits for no table of
    /// another space.
    pub(crate) fn lock_leaf_fresh(&self, page: Vpn) -> Option<LeafGuard<'c, 'm, P>> {
        let pin = self.cx.pin();
        let found = self.descend(&pin, page, 1);
        TableGuard::lock_fresh(self, &found, page)
            .filter(|guard| guard.level() == 1 && !guard.is_dead())
    }

    /// Locks the table of a level that spans a page, if there is one.
    // Inline, as are those who only pass a guard on: a guard is a dozen words to move.
    #[inline]
    pub(crate) fn lock_level(&self, page: Vpn, level: u8) -> Option<TableGuard<'c, 'm, P>> {
        match self.lock_found(page, level)? {
            guard if guard.level() == level => Some(guard),
            _ => None,
        }
    }

    /// Locks the table of `target` level that spans a page, or the lowest one
    /// above it.
    #[inline(never)]
    pub(super) fn lock_found(&self, page: Vpn, target: u8) -> Option<TableGuard<'c, 'm, P>> {
        if !self.reaches(page) {
            return None;
        }
        let mut spins = 0u32;
        loop {
            {
                let pin = self.cx.pin();
                let remembered = self.remembered(&pin, page, target);
                let is_new = remembered.is_none();
                let found = remembered.unwrap_or_else(|| self.descend(&pin, page, target));
                let guard = TableGuard::lock(self, &found, page)?;
                if !guard.is_dead() || cfg!(mm_mutant = "dead_is_not_looked_at") {
                    if is_new && found.level == 1 {
                        self.remember(&pin, page, found.pfn);
                    }
                    return Some(guard);
                }
            }
            // Whoever set DEAD is about to clear the way to it.
            crate::sync::Context::relax(self.cx, spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Returns the leaf table of a page where this CPU found it before, if its
    /// record still says so.
    #[inline]
    fn remembered(&self, pin: &Pin<'_, 'm, P>, page: Vpn, target: u8) -> Option<Found<'m, P>> {
        if target != 1 {
            return None;
        }
        let at = stretch(self.cx, self.space, page);
        let pfn = Pfn::new(pin.hints()?.leaf(at).into());
        let page = self.cx.frames().page(pfn)?;
        let spans = page.table().spans(at) || cfg!(mm_mutant = "hint_is_believed");
        if self.owner != TableOwner::User || !spans {
            return None;
        }
        let words = self.words(pfn, 1);
        Some(Found {
            pfn,
            level: 1,
            words,
            page: Some(page),
        })
    }

    /// Notes the leaf table of a page, whose lock is held.
    fn remember(&self, pin: &Pin<'_, 'm, P>, page: Vpn, table: Pfn) {
        if let (Some(hints), Ok(table)) = (pin.hints(), u32::try_from(table.as_u64())) {
            hints.found_leaf(stretch(self.cx, self.space, page), table);
        }
    }

    /// Locks the first level-1 table that spans a page of the range, skipping
    /// what has none (absent subtrees, blocks).
    ///
    /// # Locks
    /// Takes the table's lock (inner).
    pub fn next_leaf(&self, range: PageRange) -> Option<LeafGuard<'c, 'm, P>> {
        self.next_at_level(range, 1)
    }

    /// Locks the first table of a level that spans a page of the range.
    pub(super) fn next_at_level(
        &self,
        range: PageRange,
        level: u8,
    ) -> Option<TableGuard<'c, 'm, P>> {
        let mut at = range.start();
        while at < range.end() {
            if let Some(guard) = self.lock_level(at, level) {
                return Some(guard);
            }
            at = self.next_table(PageRange::new(at, range.end()), level)?;
        }
        None
    }

    /// Returns a page of the range from which on there may be a table of the
    /// level; one table page is looked at, inside one pin.
    fn next_table(&self, range: PageRange, level: u8) -> Option<Vpn> {
        let format = self.cx.format();
        let first = range.start();
        if !self.reaches(first) {
            return None;
        }
        let pin = self.cx.pin();
        let found = self.descend(&pin, first, level);
        if found.level <= level {
            return Some(first);
        }
        let span = format.entry_pages(found.level);
        let mut at = first;
        for i in format.index(first, found.level)..format.entries(found.level) {
            if let Entry::Table(_) = format.decode(format.load(found.words, i), found.level) {
                break;
            }
            at = next_boundary(at, span);
        }
        (at < range.end()).then_some(at)
    }
}

/// Returns where a page is, as far as the leaf tables of its space go.
#[inline]
pub(crate) fn stretch<P: Platform>(cx: &Cx<'_, P>, space: u32, page: Vpn) -> Stretch {
    let pages = table_pages(cx.format(), 1);
    Stretch {
        space,
        number: page.as_usize().wrapping_shr(pages.trailing_zeros()),
    }
}

/// Returns the first page of the next entry that spans `pages` pages.
pub(super) fn next_boundary(page: Vpn, pages: usize) -> Vpn {
    Vpn::new(page.as_usize() | pages.wrapping_sub(1)).saturating_add(1)
}
