//! Tables come in: allocated before the lock, zeroed, then linked.

use super::cursor::Why;
use super::{LeafGuard, MAX_LEVELS, PageTable, TableGuard, alloc_table, stretch};
use crate::addr::{Pfn, Vpn};
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::format::{Entry, PageTableFormat};
use crate::platform::Platform;
use crate::tlb::SpaceTlb;
use arrayvec::ArrayVec;

/// Zeroed tables that nobody else knows, one per missing level; what is not
/// linked goes back when it is dropped.
pub(super) struct Spares<'c, 'm, P: Platform> {
    cx: &'c Cx<'m, P>,
    tables: ArrayVec<Pfn, MAX_LEVELS>,
}

impl<'c, 'm, P: Platform> Spares<'c, 'm, P> {
    pub(super) fn new(cx: &'c Cx<'m, P>) -> Self {
        Self {
            cx,
            tables: ArrayVec::new(),
        }
    }

    /// Makes sure there is a table for each level of `low..high`.
    pub(super) fn reserve(&mut self, low: u8, high: u8, space: u32) -> Result<(), OutOfMemory> {
        for level in low..high {
            if self.of_level(level).is_some() {
                continue;
            }
            let table = alloc_table(self.cx, level, space)?;
            if self.tables.try_push(table).is_err() {
                crate::tlb::free_table(self.cx, table);
                return Err(OutOfMemory);
            }
        }
        Ok(())
    }

    /// Returns the table of a level, which stays here.
    pub(super) fn of_level(&self, level: u8) -> Option<Pfn> {
        let frames = self.cx.frames();
        let fits = |pfn: &Pfn| {
            frames
                .page(*pfn)
                .is_some_and(|p| p.table().level() == level)
        };
        self.tables.iter().copied().find(fits)
    }

    /// Gives up a table that was linked.
    pub(super) fn forget(&mut self, table: Pfn) {
        self.tables.retain(|t| *t != table);
    }
}

impl<P: Platform> Drop for Spares<'_, '_, P> {
    fn drop(&mut self) {
        for table in self.tables.drain(..) {
            crate::tlb::free_table(self.cx, table);
        }
    }
}

/// Why there is no table of the level asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    /// No frame was left.
    OutOfMemory,
    /// The page is not this table's.
    OutOfReach,
    /// A block of this level spans the page.
    Block(u8),
}

impl Stopped {
    /// Returns what a verb says that fills tables and breaks no block.
    pub(super) fn why(self) -> Why {
        match self {
            Self::OutOfMemory => Why::OutOfMemory,
            Self::OutOfReach => Why::OutOfReach,
            Self::Block(_) => Why::Exists,
        }
    }
}

/// How far one attempt came.
enum Attempt<'c, 'm, P: Platform> {
    Locked(TableGuard<'c, 'm, P>),
    /// Tables of the levels below this one are needed.
    Missing(u8),
    /// A block of this level spans the page.
    Block(u8),
    /// The chain was linked, or somebody else's was.
    Linked,
}

impl<'c, 'm, P: Platform> PageTable<'c, 'm, P> {
    /// Locks the level-1 table that spans a page, after making it and all that
    /// is missing above it. A block in the way is shattered.
    ///
    /// # Errors
    /// [`OutOfMemory`], also for a page that this table does not span; the
    /// table is as before.
    ///
    /// # Locks
    /// Takes the table's lock (inner); none may be held that allocation takes.
    #[inline]
    pub fn lock_leaf_or_create(
        &self,
        page: Vpn,
        tlb: &SpaceTlb,
    ) -> Result<LeafGuard<'c, 'm, P>, OutOfMemory> {
        // The common case: it is there.
        match self.lock_leaf(page) {
            Some(guard) => Ok(guard),
            None => self.create_leaf(page, tlb),
        }
    }

    /// As [`Self::lock_leaf_or_create`], where it was not there.
    #[cold]
    #[inline(never)]
    fn create_leaf(&self, page: Vpn, tlb: &SpaceTlb) -> Result<LeafGuard<'c, 'm, P>, OutOfMemory> {
        let mut spares = Spares::new(self.cx);
        loop {
            match self.create_level(page, 1) {
                Ok(guard) => return Ok(guard),
                Err(Stopped::Block(level)) => {
                    // All that it may take, before the first is shattered.
                    spares.reserve(1, level, self.space)?;
                    self.shatter(page, level, tlb, &mut spares)?;
                }
                Err(Stopped::OutOfMemory | Stopped::OutOfReach) => return Err(OutOfMemory),
            }
        }
    }

    /// Locks the table of a level that spans a page, after making it and all
    /// that is missing above it.
    #[inline]
    pub(crate) fn lock_level_or_create(
        &self,
        page: Vpn,
        target: u8,
    ) -> Result<TableGuard<'c, 'm, P>, Stopped> {
        // The common case: it is there.
        match self.lock_level(page, target) {
            Some(guard) => Ok(guard),
            None => self.create_level(page, target),
        }
    }

    /// As [`Self::lock_level_or_create`], where it was not there.
    #[cold]
    #[inline(never)]
    fn create_level(&self, page: Vpn, target: u8) -> Result<TableGuard<'c, 'm, P>, Stopped> {
        let mut spares = Spares::new(self.cx);
        loop {
            match self
                .try_link(page, target, &mut spares)
                .ok_or(Stopped::OutOfReach)?
            {
                Attempt::Locked(guard) => return Ok(guard),
                Attempt::Missing(below) => spares
                    .reserve(target, below, self.space)
                    .map_err(|OutOfMemory| Stopped::OutOfMemory)?,
                Attempt::Block(level) => return Err(Stopped::Block(level)),
                Attempt::Linked => {}
            }
        }
    }

    /// Goes down once and links the spares where tables are missing, if they
    /// suffice. `None`: the page cannot have a table.
    fn try_link(
        &self,
        page: Vpn,
        target: u8,
        spares: &mut Spares<'c, 'm, P>,
    ) -> Option<Attempt<'c, 'm, P>> {
        let guard = self.lock_found(page, target)?;
        let level = guard.level();
        if level == target {
            return Some(Attempt::Locked(guard));
        }
        match guard.entry(page) {
            Entry::Empty => {}
            Entry::Table(_) if cfg!(mm_mutant = "linked_without_look") => {}
            Entry::Table(_) => return Some(Attempt::Linked),
            Entry::Leaf { .. } => return Some(Attempt::Block(level)),
            // Nobody writes these above level 1.
            Entry::NonPresent(_) => return None,
        }
        if (target..level).any(|l| spares.of_level(l).is_none()) {
            return Some(Attempt::Missing(level));
        }
        self.link_chain(&guard, page, target, spares)?;
        Some(Attempt::Linked)
    }

    /// Builds the chain of missing tables from below while it is private, then
    /// publishes it with one store.
    fn link_chain(
        &self,
        parent: &TableGuard<'c, 'm, P>,
        page: Vpn,
        target: u8,
        spares: &mut Spares<'c, 'm, P>,
    ) -> Option<()> {
        let format = self.cx.format();
        let mut below: Option<Pfn> = None;
        for level in target..parent.level() {
            let table = spares.of_level(level)?;
            if let Some(child) = below {
                let word = format.encode_table(child, level, self.owner).ok()?;
                let words = self.words(table, level);
                format.store(words, format.index(page, level), word);
                self.cx.frames().page(table)?.table().set_live(1);
            }
            below = Some(table);
        }
        let word = format
            .encode_table(below?, parent.level(), self.owner)
            .ok()?;
        parent.add_live(1);
        format.store(parent.words(), parent.index(page), word);
        let leaf = spares.of_level(1).filter(|_| target == 1);
        if let Some(record) = leaf.and_then(|leaf| self.cx.frames().page(leaf)) {
            // From now on CPUs may come here without going down.
            let at = stretch(self.cx, self.space, page);
            record.table().set_linked(at);
        }
        for level in target..parent.level() {
            if let Some(table) = spares.of_level(level) {
                spares.forget(table);
            }
        }
        Some(())
    }
}
