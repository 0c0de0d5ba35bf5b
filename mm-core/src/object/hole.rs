//! Holes: taking pages out of a memory-only object that is in use
//! (fallocate(2), `FALLOC_FL_PUNCH_HOLE`).
//!
//! ```text
//!   no truncation ─► LOCKED, DETACHED, not UPTODATE ─► unmap ─► flush ─► out of the index ─► unlock, wake
//! ```
//!
//! The page stays in the index until nobody maps it: so no space sees another page
//! at its offset while some CPU still reaches this one. Who wants it meanwhile
//! joins, as for a page that is being read, and finds none afterwards. A fault that
//! looked it up before tests DETACHED under the table's lock: it sees the mark, or
//! the walk sees its entry. Copies in private areas stay.

use super::cache::CachedPage;
use super::node::{ObjectKind, ObjectView};
use super::radix::Want;
use super::unmap::Areas;
use crate::error::{MmError, OutOfMemory};
use crate::format::TableOwner;
use crate::page::PageFlags;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::table::PageTable;
use crate::tlb::TlbGather;
use crate::tree::Resolve;
use crate::vma::Vma;
use arrayvec::ArrayVec;

/// Pages that are unmapped with one flush of each space.
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
        self.lock_size().truncating = true;
        let made = self.drop_pages(from, end);
        self.object.map.write(self.cx, self.key()).truncating = false;
        Ok(made?)
    }

    fn drop_pages(self, from: u64, end: u64) -> Result<(), OutOfMemory> {
        let mut at = from;
        loop {
            let mut pages = Pages::new();
            let found = self.take_pages(&mut at, end, &mut pages);
            if pages.is_empty() {
                return found;
            }
            self.unmap_pages(&pages);
            for page in &pages {
                self.detach(page.pfn(), page.record().user().index());
                page.record().unlock_page();
                self.mm.platform().wake(page.key());
            }
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

    /// Unmaps pages wherever they are mapped themselves.
    // Out of line, so that its walk is not in one frame with the pages.
    #[inline(never)]
    fn unmap_pages(self, pages: &[CachedPage<'c, 'm, P>]) {
        let index = |page: Option<&CachedPage<'_, '_, P>>| {
            page.map_or(0, |page| page.record().user().index())
        };
        let nodes = Areas(self.mm);
        let areas = self.read_map();
        for handle in areas.overlaps(&nodes, index(pages.first()), index(pages.last())) {
            self.unmap_pages_of(nodes.get(handle), pages);
        }
    }

    // Out of line, so that its gather is not in one frame with the pages.
    #[inline(never)]
    fn unmap_pages_of(self, vma: &Vma, pages: &[CachedPage<'c, 'm, P>]) {
        let Some(space) = Handle::from_raw(vma.space()) else {
            return;
        };
        let node = self.mm.spaces.get(self.mm.frames(), space);
        let table = PageTable::view(self.cx, node.root(), TableOwner::User, space.into_raw());
        let mut gather = TlbGather::new(self.cx, &node.tlb);
        let mut emptied = PageRange::default();
        for page in pages {
            let offset = usize::try_from(page.record().user().index()).ok();
            let Some(at) = offset.and_then(|offset| vma.page_at(offset)) else {
                continue;
            };
            let Some(leaf) = table.lock_leaf(at) else {
                continue;
            };
            if leaf.entry(at).counted() != Some(page.pfn()) {
                continue;
            }
            let full = gather.take_leaves(&leaf, PageRange::new(at, at.saturating_add(1)));
            debug_assert!(full.is_none(), "a gather has room for a batch");
            if leaf.live() == 0 {
                emptied = crate::tlb::hull(emptied, leaf.range().intersect(vma.range()));
            }
        }
        if !emptied.is_empty() {
            table.prune(emptied, &mut gather);
        }
        node.released(self.cx.platform(), gather.finish());
    }
}

const _: () = assert!(BATCH <= crate::tlb::BATCH, "a gather has room for a batch");
