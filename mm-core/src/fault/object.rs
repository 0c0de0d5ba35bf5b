//! A fault on an empty entry of an area that maps an object.
//!
//! ```text
//!             cached, up to date?  ── no ──► Wait (read it), PastEof: SIGBUS
//!                      │
//!   load ──────────────┼──► `page_prot`: without WRITE where somebody asks who
//!                      │    stores; pages around it too                (do_read_fault)
//!   store, private ────┼──► copy to an own page                       (do_cow_fault)
//!   store, shared ─────┴──► dirty, entry with WRITE                   (do_shared_fault)
//! ```
//!
//! The page is looked up without the table lock, then installed under it if
//! the object still has it: see [`super`] for why that is enough against
//! truncation.

use super::{Faulting, Resolution, Signal, Step, Stop, handed_out};
use crate::addr::Vpn;
use crate::format::AttrFlags;
use crate::object::{CachedPage, Found, ObjectKind, ObjectView};
use crate::page::{PageFlags, PresentChange};
use crate::platform::Platform;
use crate::pool::Handle;
use crate::prot::Access;
use crate::range::PageRange;
use crate::stats::Counter;
use crate::tlb::MapFlush;
use crate::vma::VmaFlags;
use arrayvec::ArrayVec;

/// Pages that one file fault looks at: its own and its neighbours in an aligned
/// window (Linux: fault_around_bytes, 64 KiB).
const AROUND: usize = 16;

/// Pages to be mapped together, each with its place until it is.
type Pages<'c, 'm, P> = ArrayVec<(Vpn, Option<CachedPage<'c, 'm, P>>), AROUND>;

impl<'c, 'm, P: Platform> Faulting<'c, 'm, P> {
    /// Resolves a fault on an empty entry (Linux: do_fault).
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    pub(super) fn map_object_page(&self) -> Step<'m, P> {
        let Some(view) = self.object() else {
            return Err(Stop::Bug);
        };
        let pgoff = self.vma.pgoff_of(self.page) as u64;
        let page = match view.find_or_create(pgoff) {
            Found::Page(page) => page,
            Found::Wait(ticket) => return Err(Stop::Wait(ticket)),
            Found::OutOfMemory => return Err(Stop::OutOfMemory),
            Found::NoSpace => return Err(Stop::NoSpace),
            Found::PastEof => {
                let addr = self.page.addr(self.cx.page_shift());
                return Err(Stop::Signal(Signal::BusAdrErr(addr)));
            }
        };
        // The first access after the read is the one that waited for it.
        let read = view.object().kind() == ObjectKind::File
            && !page
                .record()
                .set(PageFlags::REFERENCED)
                .contains(PageFlags::REFERENCED);
        let how = if read {
            Resolution::Major
        } else {
            Resolution::Minor
        };
        let shared = self.vma.flags().contains(VmaFlags::SHARED);
        if self.access == Access::Write && !shared {
            self.copy_cached(&page, || page.is_held_by(view))?;
        } else {
            self.map_cached(view, page)?;
        }
        Ok(how)
    }

    /// Returns the object of the area, which keeps it alive.
    pub(super) fn object(&self) -> Option<ObjectView<'c, 'm, P>> {
        let handle = Handle::from_raw(self.vma.object_raw())?;
        Some(ObjectView::new(self.mm, self.cx, handle))
    }

    /// Gives a private area its own copy of a cached page.
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    fn copy_cached(
        &self,
        page: &CachedPage<'_, 'm, P>,
        still: impl Fn() -> bool,
    ) -> Result<(), Stop<'m, P>> {
        let own = self.new_own_page()?;
        super::copy_page(self.cx, page.pfn(), own);
        self.sync_if_code(own);
        self.install_own(own, Counter::CowCopy, still)?;
        Ok(())
    }

    /// Maps a cached page itself, and cached neighbours when it is only read.
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    fn map_cached(
        &self,
        view: ObjectView<'c, 'm, P>,
        page: CachedPage<'c, 'm, P>,
    ) -> Result<(), Stop<'m, P>> {
        let stores = self.access == Access::Write;
        let mut pages = Pages::new();
        if !stores && !self.vma.flags().contains(VmaFlags::RAND_READ) {
            for near in self.window().iter().filter(|&near| near != self.page) {
                let found = view.find_page(self.vma.pgoff_of(near) as u64);
                if let Some(found) = found.filter(|_| pages.remaining_capacity() > 1) {
                    found.record().set(PageFlags::REFERENCED);
                    pages.push((near, Some(found)));
                }
            }
        }
        let fits = pages.try_push((self.page, Some(page)));
        debug_assert!(fits.is_ok(), "room is kept for the page itself");
        for page in pages.iter().filter_map(|(_, page)| page.as_ref()) {
            self.sync_if_code(page.pfn());
        }
        // Pages that are not needed are given back here, after the table is unlocked.
        self.install_cached(view, &mut pages)
    }

    /// Returns the pages around the fault that may be mapped with it: in an
    /// aligned window, the area, and one table page.
    fn window(&self) -> PageRange {
        let low = Vpn::new(self.page.as_usize() & !AROUND.wrapping_sub(1));
        let window = PageRange::new(low, low.saturating_add(AROUND));
        window.intersect(self.vma.range())
    }

    /// Enters pages that are still the object's into entries that are still
    /// empty, and takes them out of `pages`. The fault's own page is the last.
    // Out of line, so that the table's locals are not in one frame with the pages.
    #[inline(never)]
    fn install_cached(
        &self,
        view: ObjectView<'c, 'm, P>,
        pages: &mut Pages<'c, 'm, P>,
    ) -> Result<(), Stop<'m, P>> {
        let protected = self.protected_prot();
        let mut owed = MapFlush::NONE;
        let mut installed = 0usize;
        let leaf = self.table.lock_leaf_or_create(self.page, &self.node.tlb)?;
        let own = pages.last().and_then(|(_, page)| page.as_ref());
        if !own.is_some_and(|page| page.is_held_by(view)) {
            drop(leaf);
            return Err(Stop::Retry);
        }
        for (at, slot) in pages.iter_mut() {
            let (at, Some(page)) = (*at, slot.as_ref()) else {
                continue;
            };
            let stores = at == self.page && self.access == Access::Write;
            let (prot, flags) = if stores {
                (self.vma.flags().writable_page_prot(), AttrFlags::DIRTY)
            } else {
                // With WRITE where nobody asks who stores: it is handed out here, too.
                (protected, AttrFlags::empty())
            };
            let prot = handed_out(Some(page.record()), prot);
            if prot.is_empty() {
                // Executable only, and written to just now.
                continue;
            }
            let word = self.encode(page.pfn(), prot, flags);
            let free = leaf.range().contains(at)
                && matches!(leaf.entry(at), crate::format::Entry::Empty)
                && page.is_held_by(view);
            let Ok(word) = word else { continue };
            if free && page.record().user().add_maps(1).is_ok() {
                if stores {
                    // Under the table's lock, and counted: see `object::dirty`.
                    view.set_dirty(page);
                }
                let _entered = slot.take().map(CachedPage::into_pfn);
                owed = owed.join(leaf.install(at, word));
                installed = installed.saturating_add(1);
            }
        }
        drop(leaf);
        self.count_present(PresentChange {
            anon: 0,
            file: i32::try_from(installed).unwrap_or(0),
        });
        self.settle(owed);
        let stats = self.mm.stats();
        stats.count(Counter::FaultFile);
        stats.add(Counter::FaultAround, installed.saturating_sub(1));
        Ok(())
    }
}
