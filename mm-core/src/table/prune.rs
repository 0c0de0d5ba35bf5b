//! Tables go out: whole, words kept, through the gather.
//!
//! ```text
//!   lock parent ─► lock child ─► DEAD ─► parent's word = 0, live -= 1 ─► unlock both ─► gather
//! ```
//!
//! A child goes when all its pages are being unmapped (its words stay, and are
//! read after the flush), or when its live count is zero: no word is
//! looked at. Only level-1 tables go with words; a table above goes when its
//! children did. So the work under one parent's lock is one table page.
//!
//! A table that is KEPT stays, covered or empty: who reserved it is about to fill it.
//! What it maps is then taken as at an edge.

use super::lock::rank;
use super::walk::next_boundary;
use super::{PageTable, TableGuard};
use crate::addr::{Pfn, Vpn};
use crate::format::{Entry, PageTableFormat, TableOwner, Word};
use crate::page::PageFlags;
use crate::platform::Platform;
use crate::range::PageRange;
use crate::tlb::TlbGather;

/// An unlinked table and all that its words lead to: hardware and pinned
/// readers may still be in it, so it must be pushed into the gather.
#[derive(Debug)]
#[must_use = "push it into the gather: walkers may still be in it"]
pub struct Detached {
    table: Pfn,
    pages: PageRange,
}

impl Detached {
    /// Returns the frame of the table.
    pub fn pfn(&self) -> Pfn {
        self.table
    }

    /// Returns the pages that the table spanned.
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// Ends the debt: the gather has it.
    pub(crate) fn consume(self) {}
}

/// Which tables go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sweep {
    /// Those that lie wholly in the range, with what they map, and empty ones.
    Covered,
    /// Empty ones.
    Empty,
}

/// How far up a sweep goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Climb {
    /// To the root.
    All,
    /// Until a level where nothing went: no table above it became empty.
    WhileEmptied,
}

impl<P: Platform> PageTable<'_, '_, P> {
    /// Unlinks every table whose pages all lie in the range, and every block;
    /// what is left of the range are edges: at most one level-1 table at each
    /// end. Tables of the kernel are never freed: there, only blocks go.
    ///
    /// # Locks
    /// Takes parents', then children's locks (inner).
    pub fn detach_covered(&self, range: PageRange, gather: &mut TlbGather<'_, '_, P>) {
        self.sweep(range, Sweep::Covered, Climb::WhileEmptied, gather);
    }

    /// Unlinks the tables that span a page of the range and have no entry left.
    ///
    /// # Locks
    /// Takes parents', then children's locks (inner).
    pub fn prune(&self, range: PageRange, gather: &mut TlbGather<'_, '_, P>) {
        self.sweep(range, Sweep::Empty, Climb::All, gather);
    }

    /// As [`Self::prune`], where only level-1 tables can have become empty by
    /// themselves: goes up only while tables go.
    pub(super) fn prune_leaves(&self, range: PageRange, gather: &mut TlbGather<'_, '_, P>) {
        self.sweep(range, Sweep::Empty, Climb::WhileEmptied, gather);
    }

    /// The root of a user spans the kernel half too, which is not its own.
    fn own_pages(&self) -> PageRange {
        match self.owner {
            TableOwner::User => self.user_pages(),
            TableOwner::Kernel => PageRange::new(Vpn::new(0), Vpn::new(usize::MAX)),
        }
    }

    fn sweep(
        &self,
        range: PageRange,
        mut what: Sweep,
        climb: Climb,
        gather: &mut TlbGather<'_, '_, P>,
    ) {
        let format = self.cx.format();
        // How many entries went on the level below the one looked at.
        let mut below = usize::from(what == Sweep::Empty);
        for level in 2..=format.levels() {
            if !self.covers_entry(range, format.entry_pages(level)) {
                // Nor does it cover a larger one.
                what = Sweep::Empty;
            }
            if what == Sweep::Empty && climb == Climb::WhileEmptied && below == 0 {
                return;
            }
            below = 0;
            let mut at = range.start();
            while let Some(parent) = self.next_at_level(PageRange::new(at, range.end()), level) {
                below = below.saturating_add(self.sweep_table(&parent, range, what, gather));
                at = parent.range().end();
            }
        }
    }

    /// Returns whether the range covers an entry of this span, as far as the
    /// table is the owner's.
    fn covers_entry(&self, range: PageRange, span: usize) -> bool {
        let own = self.own_pages();
        let range = range.intersect(own);
        let mask = span.wrapping_sub(1);
        let first = range.start().saturating_add(mask).as_usize() & !mask;
        let last = if range.end() == own.end() {
            range.end().as_usize()
        } else {
            range.end().as_usize() & !mask
        };
        first < last
    }

    /// Returns how many entries went: tables and blocks.
    fn sweep_table(
        &self,
        parent: &TableGuard<'_, '_, P>,
        range: PageRange,
        what: Sweep,
        gather: &mut TlbGather<'_, '_, P>,
    ) -> usize {
        let mut gone = 0usize;
        let format = self.cx.format();
        let span = format.entry_pages(parent.level());
        let own = self.own_pages();
        let part = parent.range().intersect(range).intersect(own);
        let mut at = part.start();
        while at < part.end() && parent.live() > 0 {
            let next = next_boundary(at, span);
            let entry = PageRange::new(next.saturating_sub(span), next);
            // Of the last table, the end of user space may cut a piece.
            let covered = what == Sweep::Covered && range.covers(entry.intersect(own));
            match parent.entry(at) {
                Entry::Table(child) if self.owner == TableOwner::User => {
                    // Above level 1, what is covered has been emptied before.
                    let what = if covered && parent.level() == 2 {
                        what
                    } else {
                        Sweep::Empty
                    };
                    if let Some(detached) = self.detach(parent, child, entry, what) {
                        gather.push_table(detached);
                        gone = gone.saturating_add(1);
                    }
                }
                Entry::Leaf { .. } if covered => {
                    if let Some(run) = parent.take_blocks(at, part) {
                        gone = gone.saturating_add(run.pages().checked_div(span).unwrap_or(0));
                        gather.flush_range(run);
                        at = run.end();
                        continue;
                    }
                    if let Some(taken) = parent.take(gather.tlb(), at) {
                        let pushed = gather.push(taken);
                        debug_assert!(pushed.is_ok(), "a block owns nothing and needs no room");
                        gone = gone.saturating_add(1);
                    }
                }
                _ => {}
            }
            at = next;
        }
        gone
    }

    /// Unlinks one child: a covered one with its words, else if it is empty.
    fn detach(
        &self,
        parent: &TableGuard<'_, '_, P>,
        child: Pfn,
        pages: PageRange,
        what: Sweep,
    ) -> Option<Detached> {
        let format = self.cx.format();
        let page = self.cx.frames().page(child)?;
        let record = page.table();
        // A look before the lock: most tables on the way of a prune are in use.
        if what == Sweep::Empty && record.live() > 0 {
            return None;
        }
        let lock = record.lock(
            self.cx,
            rank(format, child, parent.level().saturating_sub(1)),
        );
        let is_kept = record.is_kept() && !cfg!(mm_mutant = "kept_table_goes");
        let is_used = record.live() > 0 && !cfg!(mm_mutant = "live_is_looked_at_once");
        if is_kept || what == Sweep::Empty && is_used {
            return None;
        }
        #[cfg(not(mm_mutant = "dead_is_not_marked"))]
        page.set(PageFlags::DEAD);
        format.store(parent.words(), parent.index(pages.start()), Word::ZERO);
        parent.sub_live(1);
        drop(lock);
        Some(Detached {
            table: child,
            pages,
        })
    }
}
