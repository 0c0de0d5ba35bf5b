//! Entries move: from pages to other pages of the same table.
//!
//! ```text
//!   from   ···│ - - L L │ L - P ◄──── next leaf table of the source ──────► │···
//!               ─────────┬─────
//!   to     ········│ - - L L L - P │ ◄── kept leaf table of the destination
//! ```
//!
//! One *stretch* at a time: pages that one leaf table of the source and one of the
//! destination span. Both are locked, in ascending order of their frames, or
//! the one that is both. An entry is taken by exchange, as for an unmap, so what
//! hardware notes until then comes along; it is stored as it was, as nothing in a
//! word of a page says where the page is. Its reference and map count go with it.
//! Holes stay holes: of the destination only the entries are written that
//! something moves to (nanos#985).
//!
//! A run moves as one where the destination is aligned to it too. Any other is
//! broken first, as by an unmap of a part of it (`run`).
//!
//! A leaf table is never moved whole, by one store to its parent: its record says
//! which pages it spans to CPUs that look at it without coming down the tree
//! (`page::hints`), and they would have to be out of it before that changes.

use super::walk::{Found, next_boundary};
use super::{PageTable, TableGuard};
use crate::addr::Vpn;
use crate::format::{PageTableFormat, Word};
use crate::platform::Platform;
use crate::range::PageRange;
use crate::tlb::{MapFlush, TlbGather};

/// Two locked leaf tables, or one that spans both pages.
enum Pair<'c, 'm, P: Platform> {
    One(TableGuard<'c, 'm, P>),
    Two(TableGuard<'c, 'm, P>, TableGuard<'c, 'm, P>),
}

/// Pages of one leaf table that move to pages of one leaf table.
#[derive(Clone, Copy)]
struct Stretch {
    from: PageRange,
    to: Vpn,
}

/// Whether a table of the source lost its last entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptied {
    None,
    Some,
}

impl<'c, 'm, P: Platform> PageTable<'c, 'm, P> {
    /// Calls `keep` with a page of each leaf table of the destination that
    /// entries of `from` would move to, `to` being the place of the first page.
    /// No table is locked meanwhile.
    ///
    /// # Errors
    /// What `keep` answers.
    ///
    /// # Locks
    /// Takes tables' locks (inner); none may be held.
    pub(crate) fn each_target<E>(
        &self,
        from: PageRange,
        to: Vpn,
        mut keep: impl FnMut(Vpn) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut left = from;
        while let Some(leaf) = self.next_leaf(left) {
            let part = leaf.range().intersect(left);
            let stretch = self.stretch(part, target(from, to, part.start()));
            let words = leaf.words();
            let format = self.cx.format();
            let mut slots = leaf.slots(stretch.from);
            let used = slots.any(|slot| format.load(words, slot) != Word::ZERO);
            drop(leaf);
            if used {
                keep(stretch.to)?;
            }
            left = left.from(stretch.from.end());
        }
        Ok(())
    }

    /// Moves the entries of `from` to the pages from `to` on; tables that become
    /// empty go into the gather, which flushes the source. Returns what is owed
    /// for the destination.
    ///
    /// The two ranges share no page, and the destination has no entries, but
    /// all tables that [`Self::each_target`] named.
    ///
    /// # Locks
    /// Takes tables' locks (inner), two leaf tables at a time. Nobody enters
    /// pages in either range, and nobody takes any out of the destination
    /// before the gather has flushed (CVE-2018-18281).
    pub(crate) fn move_entries(
        &self,
        from: PageRange,
        to: Vpn,
        gather: &mut TlbGather<'_, 'm, P>,
    ) -> MapFlush {
        let mut owed = MapFlush::NONE;
        let mut emptied = Emptied::None;
        let mut left = from;
        while let Some(leaf) = self.next_leaf(left) {
            let part = leaf.range().intersect(left);
            drop(leaf);
            let stretch = self.stretch(part, target(from, to, part.start()));
            left = left.from(stretch.from.end());
            let Some(pair) = self.lock_pair(stretch.from.start(), stretch.to) else {
                // No table of the source any more, or nothing in it to be moved.
                continue;
            };
            let (source, destination) = match &pair {
                Pair::One(both) => (both, both),
                Pair::Two(source, destination) => (source, destination),
            };
            owed = owed.join(move_stretch(source, destination, stretch, gather));
            if source.live() == 0 {
                emptied = Emptied::Some;
            }
        }
        if emptied == Emptied::Some {
            self.prune_leaves(from, gather);
        }
        owed
    }

    /// Returns the part of some pages of one leaf table that moves to one leaf
    /// table.
    fn stretch(&self, from: PageRange, to: Vpn) -> Stretch {
        let span = super::lock::table_pages(self.cx.format(), 1);
        let room = next_boundary(to, span).pages_since(to);
        let end = from.start().saturating_add(room);
        let from = from.intersect(PageRange::new(from.start(), end));
        Stretch { from, to }
    }

    /// Locks the leaf tables of two pages, the one with the lower frame first;
    /// `None` when one of them has none.
    fn lock_pair(&self, source: Vpn, destination: Vpn) -> Option<Pair<'c, 'm, P>> {
        let mut spins = 0u32;
        loop {
            {
                let pin = self.cx.pin();
                let found = |page| Some(self.descend(&pin, page, 1)).filter(|f| f.level == 1);
                let (from, to) = (found(source)?, found(destination)?);
                let pair = self.lock_in_order(&from, source, &to, destination)?;
                let is_dead = match &pair {
                    Pair::One(both) => both.is_dead(),
                    Pair::Two(a, b) => a.is_dead() || b.is_dead(),
                };
                if !is_dead {
                    return Some(pair);
                }
            }
            // Whoever set DEAD is about to clear the way to it.
            crate::sync::Context::relax(self.cx, spins);
            spins = spins.saturating_add(1);
        }
    }

    fn lock_in_order(
        &self,
        from: &Found<'m, P>,
        source: Vpn,
        to: &Found<'m, P>,
        destination: Vpn,
    ) -> Option<Pair<'c, 'm, P>> {
        if from.pfn == to.pfn {
            return Some(Pair::One(TableGuard::lock(self, from, source)?));
        }
        if from.pfn < to.pfn {
            let first = TableGuard::lock(self, from, source)?;
            return Some(Pair::Two(first, TableGuard::lock(self, to, destination)?));
        }
        let first = TableGuard::lock(self, to, destination)?;
        Some(Pair::Two(TableGuard::lock(self, from, source)?, first))
    }
}

/// Returns where a page of `from` moves to.
fn target(from: PageRange, to: Vpn, page: Vpn) -> Vpn {
    to.saturating_add(page.pages_since(from.start()))
}

/// Moves the entries of one stretch.
fn move_stretch<'m, P: Platform>(
    source: &TableGuard<'_, 'm, P>,
    destination: &TableGuard<'_, 'm, P>,
    stretch: Stretch,
    gather: &mut TlbGather<'_, 'm, P>,
) -> MapFlush {
    let format = source.format();
    let slots = source.slots(stretch.from);
    let first = destination.index(stretch.to);
    let mut moved = 0u32;
    // The slots of the first and of the last page that CPUs may remember.
    let mut known: Option<(usize, usize)> = None;
    let mut slot = slots.start;
    while slot < slots.end {
        let here = slot;
        slot = slot.saturating_add(1);
        let word = format.load(source.words(), here);
        if word == Word::ZERO {
            continue;
        }
        let target = first.saturating_add(here.saturating_sub(slots.start));
        if let Some(run) = source.run_of(here, word) {
            let whole = run.start == here && run.end <= slots.end;
            let aligned = target & run.len().wrapping_sub(1) == 0;
            if whole && aligned {
                let word = source.take_run(&run);
                destination.store_run(&(target..target.saturating_add(run.len())), word);
                moved = moved.saturating_add(u32::try_from(run.len()).unwrap_or(u32::MAX));
                known = Some((known.map_or(here, |(first, _)| first), run.end));
                slot = run.end;
            } else {
                source.break_run(gather.tlb(), &run);
                slot = here;
            }
            continue;
        }
        let word = source.clear_slot(here, word);
        // Also without rights: who took them away may not have flushed yet.
        if format.decode(word, 1).frame().is_some() {
            known = Some((known.map_or(here, |(first, _)| first), slot));
        }
        debug_assert!(
            format.load(destination.words(), target) == Word::ZERO,
            "an entry moves to where one is"
        );
        format.store(destination.words(), target, word);
        moved = moved.saturating_add(1);
    }
    if moved == 0 {
        return MapFlush::NONE;
    }
    source.sub_live(moved);
    destination.add_live(moved);
    #[cfg(not(mm_mutant = "moved_without_flush"))]
    if let Some((first, end)) = known {
        gather.flush_range(PageRange::new(source.page_of(first), source.page_of(end)));
    }
    let end = stretch.to.saturating_add(stretch.from.pages());
    destination.map_flush_of(PageRange::new(stretch.to, end), moved)
}
