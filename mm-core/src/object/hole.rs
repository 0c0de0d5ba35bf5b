//! Holes: taking pages out of a memory-only object that is in use
//! (fallocate(2), `FALLOC_FL_PUNCH_HOLE`).
//!
//! ```text
//!   no truncation ─► unmap all, flush ─► batch by batch:
//!        LOCKED, DETACHED, not UPTODATE ─► unmap what came back, flush ─► out of the index ─► unlock, wake
//! ```
//!
//! The page stays in the index until nobody maps it: so no space sees another page
//! at its offset while some CPU still reaches this one, but for CPUs of a space that is taking
//! that very entry away itself ([`super::unmap`]). Who wants it meanwhile
//! joins, as for a page that is being read, and finds none afterwards. A fault that
//! looked it up before tests DETACHED under the table's lock: it sees the mark, or
//! the walk sees its entry. Copies in private areas stay.
//!
//! All are unmapped first because a hole of any size is one round of flushes for each area
//! then (where an area is private, as many as its entries fill gathers); the batches find what
//! faults brought back. LOCKED is waited for with empty hands only: whoever owns it may
//! want a page of this batch.

use super::cache::CachedPage;
use super::node::{ObjectKind, ObjectView};
use super::radix::Want;
use super::unmap::Copies;
use crate::error::{MmError, OutOfMemory};
use crate::page::PageFlags;
use crate::platform::Platform;
use crate::stats::Counter;
use arrayvec::ArrayVec;

/// Pages that are LOCKED at a time.
const BATCH: usize = 16;

type Pages<'c, 'm, P> = ArrayVec<CachedPage<'c, 'm, P>, BATCH>;

impl<'c, 'm: 'c, P: Platform> ObjectView<'c, 'm, P> {
    /// Drops the pages of `from..end`, also where they are mapped; the size stays.
    ///
    /// # Errors
    /// [`MmError::NotSupported`] for files, [`MmError::OutOfMemory`] when a page has too
    /// many references: those before it are dropped.
    ///
    /// # Locks
    /// Takes `ObjectMap`, and table locks inside; flushes. Takes `Radix`, `Pool`, `Buddy`. Waits
    /// for a truncation, and for who has a page LOCKED.
    pub(super) fn make_hole(self, from: u64, end: u64) -> Result<(), MmError> {
        if self.object.kind() != ObjectKind::Memory {
            return Err(MmError::NotSupported);
        }
        let Some(last) = end.checked_sub(1).filter(|&last| from <= last) else {
            return Ok(());
        };
        self.lock_size().truncating = true;
        #[cfg(not(mm_mutant = "hole_before_unmap"))]
        self.unmap(from, last, Copies::Stay);
        let made = self.drop_pages(from, end);
        self.object.map.write(self.cx, self.key()).truncating = false;
        Ok(made?)
    }

    fn drop_pages(self, from: u64, end: u64) -> Result<(), OutOfMemory> {
        let mut at = from;
        loop {
            let mut pages = Pages::new();
            let found = self.take_pages(&mut at, end, &mut pages);
            let (Some(first), Some(last)) = (pages.first(), pages.last()) else {
                return found;
            };
            let index = |page: &CachedPage<'_, '_, P>| page.record().user().index();
            let batch = index(first)..=index(last);
            #[cfg(not(mm_mutant = "hole_before_unmap"))]
            self.unmap(*batch.start(), *batch.end(), Copies::Stay);
            for page in &pages {
                let _or_in_no_index = self.detach(page.pfn(), index(page));
                page.record().unlock_page();
                #[cfg(not(mm_mutant = "hole_wakes_nobody"))]
                self.mm.platform().wake(page.key());
            }
            #[cfg(mm_mutant = "hole_before_unmap")]
            self.unmap(*batch.start(), *batch.end(), Copies::Stay);
            self.mm.stats().add(Counter::CacheDrop, pages.len());
        }
    }

    /// Finds the next pages of `at..end`, and keeps everybody else away from them.
    // Out of line, so that a found page is not in one frame with all of them.
    #[inline(never)]
    fn take_pages(
        self,
        at: &mut u64,
        end: u64,
        pages: &mut Pages<'c, 'm, P>,
    ) -> Result<(), OutOfMemory> {
        while *at < end && !pages.is_full() {
            let index = &self.object.index;
            let take = |pgoff, pfn| {
                self.get_page(pfn)
                    .map(|page| page.map(|page| (pgoff, page)))
            };
            let found = index.next(self.cx, self.nodes(), *at, Want::Page, take);
            let Some((pgoff, page)) = found.transpose()?.flatten().filter(|&(at, _)| at < end)
            else {
                *at = end;
                break;
            };
            let record = page.record();
            let mut turns = 0u32;
            while !record.try_lock_page() {
                if !pages.is_empty() {
                    return Ok(());
                }
                self.cx.wait_turn(turns);
                turns = turns.saturating_add(1);
            }
            // In this order: who finds it not UPTODATE, and unlocked again, sees the mark.
            record.set(PageFlags::DETACHED);
            record.clear(PageFlags::UPTODATE);
            pages.push(page);
            *at = pgoff.saturating_add(1);
        }
        Ok(())
    }
}
