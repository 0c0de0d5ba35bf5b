//! Which pages are newer than what the pager holds.
//!
//! A page becomes dirty when `write` changes it, and when a first store through
//! a mapping faults (file mappings start write-protected). The record's flag
//! says so; the index's marks find such pages without looking at the others.
//! Writeback, for each page from [`ObjectView::next_dirty`]: write-protect its
//! mappings, [`ObjectView::clean`] it, write it out; a store in between
//! faults and makes it dirty again, so none is lost.

use super::cache::CachedPage;
use super::node::ObjectView;
use super::radix::{Mark, Want};
use crate::page::PageFlags;
use crate::platform::Platform;

impl<'c, 'm, P: Platform> ObjectView<'c, 'm, P> {
    /// Marks a page dirty. A page that was truncated meanwhile stays as it is.
    ///
    /// # Locks
    /// Takes `Radix` when the page was clean.
    pub fn set_dirty(self, page: &CachedPage<'_, 'm, P>) {
        if page.record().has(PageFlags::DIRTY) {
            return;
        }
        let pgoff = page.record().user().index();
        self.object
            .index
            .mark(self.cx, self.nodes(), pgoff, page.pfn(), || {
                page.record().set(PageFlags::DIRTY);
                Mark::Dirty
            });
    }

    /// Marks a page clean: what it holds now is what will be written out.
    /// Returns whether it was dirty.
    ///
    /// # Locks
    /// Takes `Radix`.
    pub fn clean(self, page: &CachedPage<'_, 'm, P>) -> bool {
        let pgoff = page.record().user().index();
        let mut was = false;
        self.object
            .index
            .mark(self.cx, self.nodes(), pgoff, page.pfn(), || {
                was = page
                    .record()
                    .clear(PageFlags::DIRTY)
                    .contains(PageFlags::DIRTY);
                Mark::Clean
            });
        was
    }

    /// Finds the first dirty page at or above an offset.
    ///
    /// # Locks
    /// Takes `Radix`.
    pub fn next_dirty(self, from: u64) -> Option<(u64, CachedPage<'c, 'm, P>)> {
        let take = |pgoff, pfn| self.get_page(pfn).ok().flatten().map(|page| (pgoff, page));
        self.object
            .index
            .next(self.cx, self.nodes(), from, Want::Dirty, take)
            .flatten()
    }

    /// Finds the first cached page at or above an offset, in whatever state.
    ///
    /// # Locks
    /// Takes `Radix`.
    pub fn next_page(self, from: u64) -> Option<(u64, CachedPage<'c, 'm, P>)> {
        let take = |pgoff, pfn| self.get_page(pfn).ok().flatten().map(|page| (pgoff, page));
        self.object
            .index
            .next(self.cx, self.nodes(), from, Want::Page, take)
            .flatten()
    }
}
