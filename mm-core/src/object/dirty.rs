//! Which pages are newer than what the pager holds.
//!
//! A page becomes dirty when `write` changes it, and before a first store through
//! a mapping (file mappings start write-protected): under the lock of the table
//! in which the entry becomes writable. The record's flag says so; the index's
//! marks find such pages without looking at the others.
//!
//! Writeback: for each page from [`ObjectView::next_dirty`] call
//! [`ObjectView::clean`], *then* copy the page out. In `clean` the page first
//! becomes clean, then its mappings lose WRITE and every CPU forgets them. A
//! store that came before is in the copy; one that comes later faults, finds the
//! page clean, and makes it dirty again. The other way round a fault between the
//! two steps would leave a page that is clean and writable.
//!
//! An entry that somebody unmaps meanwhile is not found, and a CPU may go on
//! storing through it until it is flushed. So the mark of a page stays while it
//! is mapped, also when it is clean: the map count goes down after that flush,
//! and before it the page becomes dirty when the entry was (`tlb::gather`).
//! `next_dirty` passes over such pages, and takes off marks without a reason.

use super::cache::CachedPage;
use super::node::ObjectView;
use super::radix::{Mark, Want};
use crate::addr::Pfn;
use crate::page::{Page, PageFlags};
use crate::platform::Platform;

impl<'c, 'm, P: Platform> ObjectView<'c, 'm, P> {
    /// Marks a page dirty. A page that was truncated meanwhile stays as it is.
    ///
    /// # Locks
    /// Takes `Radix`.
    pub fn set_dirty(self, page: &CachedPage<'_, 'm, P>) {
        let _or_truncated = self.dirty_held(page.pfn(), page.record());
    }

    /// As [`Self::set_dirty`], for a page that an entry keeps; returns whether
    /// the object has it still.
    pub(crate) fn dirty_held(self, pfn: Pfn, page: &Page) -> bool {
        // The flag alone proves no mark: it is set, too, when an entry goes.
        self.mark(pfn, page, || {
            page.set(PageFlags::DIRTY);
            Mark::Dirty
        })
    }

    /// Marks a page clean, and takes the right to write to it from all who map
    /// it. What it holds afterwards is what is to be written out. Returns
    /// whether it was dirty; if not, nothing is done.
    ///
    /// # Locks
    /// Takes `Radix`; then `ObjectMap` shared, and table locks inside; flushes.
    pub fn clean(self, page: &CachedPage<'_, 'm, P>) -> bool {
        #[cfg(mm_mutant = "clean_after_protect")]
        self.write_protect(page);
        let record = page.record();
        let mut was = false;
        self.mark(page.pfn(), record, || {
            // In this order: who counted down made it dirty before.
            let mapped = record.user().maps() > 0;
            was = record.clear(PageFlags::DIRTY).contains(PageFlags::DIRTY);
            if mapped { Mark::Kept } else { Mark::Clean }
        });
        #[cfg(not(mm_mutant = "clean_after_protect"))]
        if was {
            self.write_protect(page);
        }
        was
    }

    /// Finds the first dirty page at or above an offset.
    ///
    /// # Locks
    /// Takes `Radix`, again for each page that is only marked.
    pub fn next_dirty(self, from: u64) -> Option<(u64, CachedPage<'c, 'm, P>)> {
        let mut at = from;
        loop {
            let (pgoff, page) = self.next(at, Want::Dirty)?;
            let record = page.record();
            if record.has(PageFlags::DIRTY) {
                return Some((pgoff, page));
            }
            self.mark(page.pfn(), record, || {
                // In the order of `clean`.
                if record.user().maps() > 0 || record.has(PageFlags::DIRTY) {
                    Mark::Kept
                } else {
                    Mark::Clean
                }
            });
            at = pgoff.checked_add(1)?;
        }
    }

    /// Finds the first cached page at or above an offset, in whatever state.
    ///
    /// # Locks
    /// Takes `Radix`.
    pub fn next_page(self, from: u64) -> Option<(u64, CachedPage<'c, 'm, P>)> {
        self.next(from, Want::Page)
    }

    fn next(self, from: u64, want: Want) -> Option<(u64, CachedPage<'c, 'm, P>)> {
        let take = |pgoff, pfn| self.get_page(pfn).ok().flatten().map(|page| (pgoff, page));
        let index = &self.object.index;
        index
            .next(self.cx, self.nodes(), from, want, take)
            .flatten()
    }

    fn mark(self, pfn: Pfn, page: &Page, change: impl FnOnce() -> Mark) -> bool {
        let (index, pgoff) = (&self.object.index, page.user().index());
        index.mark(self.cx, self.nodes(), pgoff, pfn, change)
    }
}
