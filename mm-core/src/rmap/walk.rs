//! The walk from a page to the areas that may map it.
//!
//! ```text
//! page LOCKED: owner and index stay
//!   │ pin; mapped? ─no─► nothing to find
//!   │ reference to the owner (unless it has none left); unpin
//!   │ still mapped? ─no─► nothing to find, and the owner may have been a new one
//!   ▼
//! family lock for reading ──► overlaps of [index, index] ──► visit(area, page)
//! ```
//!
//! Why the owner is the right one: while the page is mapped, the area that maps
//! it has a chain to the owner, which therefore is not freed; and a page that
//! is LOCKED gets its first mapping from nobody else. So if it is mapped after
//! the reference was taken, it was so all along. Why the slab is there: the page
//! was mapped after the pin began, so the owner can only have been freed, and
//! its slab drained, after that; and draining waits for the pin.
//!
//! A hit is where the page *may* be mapped: what the entry says is for the
//! visitor to look up, under the table's lock.

use super::{AnonVma, Rmap};
use crate::addr::Vpn;
use crate::cx::Cx;
use crate::mm::Mm;
use crate::object::ObjectView;
use crate::page::{Page, PageFlags};
use crate::platform::Platform;
use crate::pool::Handle;
use crate::tree::{IntervalTree, Resolve};
use crate::vma::{ByOffset, Vma};
use core::ops::ControlFlow;

/// One place where a page may be mapped.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// The area.
    pub vma: Handle<Vma>,
    /// Its node. Range, offset and space stay as they are during the visit.
    pub area: &'a Vma,
    /// The page of the area's space.
    pub page: Vpn,
}

/// Visits every area that may map a page of user memory, until the visitor
/// breaks off: through its anon_vma, or through its object.
///
/// The page is LOCKED. The object of a cached page must stay in use during the
/// walk: whoever found the page through it keeps it.
///
/// # Locks
/// Takes the anon_vma family's lock (`AnonRoot`) or the object's map
/// (`ObjectMap`) for reading, also around the visits: they may lock tables.
pub fn walk<P: Platform, B>(
    mm: &Mm<P>,
    cx: &Cx<'_, P>,
    page: &Page,
    visit: impl FnMut(Hit<'_>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let rmap = Rmap::new(cx, &mm.anon_vmas, &mm.chains, &mm.vmas);
    if page.has(PageFlags::ANON) {
        return rmap.walk_anon(page, visit);
    }
    debug_assert!(page.has(PageFlags::LOCKED), "not a LOCKED page");
    let record = page.user();
    match Handle::from_raw(record.owner()) {
        // Nothing maps it: nothing is found, and the object may be gone.
        None => ControlFlow::Continue(()),
        Some(_) if record.maps() == 0 => ControlFlow::Continue(()),
        Some(object) => {
            let map = ObjectView::new(mm, cx, object).read_map();
            walk_areas(map.tree(), &rmap, record.index(), visit)
        }
    }
}

impl<P: Platform> Rmap<'_, '_, P> {
    /// Visits every area that may map an anonymous page, until the visitor
    /// breaks off.
    ///
    /// The page is LOCKED, and an outer lock of class `AnonRoot` or above is
    /// not held.
    ///
    /// # Locks
    /// Takes the family's for reading, also around the visits: they may lock
    /// tables.
    pub fn walk_anon<B>(
        &self,
        page: &Page,
        mut visit: impl FnMut(Hit<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        debug_assert!(
            page.has(PageFlags::LOCKED | PageFlags::ANON),
            "not a LOCKED anonymous page"
        );
        let Some(anon) = self.owner(page) else {
            return ControlFlow::Continue(());
        };
        #[cfg(mm_mutant = "put_before_the_walk")]
        self.put_anon(anon);
        let result = self.visit_family(anon, page, &mut visit);
        #[cfg(not(mm_mutant = "put_before_the_walk"))]
        self.put_anon(anon);
        result
    }

    fn visit_family<B>(
        &self,
        anon: Handle<AnonVma>,
        page: &Page,
        visit: &mut impl FnMut(Hit<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Ok(index) = usize::try_from(page.user().index()) else {
            return ControlFlow::Continue(());
        };
        #[cfg(not(mm_mutant = "walk_without_lock"))]
        let _locked = self.lock_shared(anon);
        for chain in self.anon(anon).tree.overlaps(self, index, index) {
            let Some(vma) = self.chain(chain).vma() else {
                continue;
            };
            let area = self.vma(vma);
            if let Some(page) = area.page_at(index) {
                visit(Hit { vma, area, page })?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes a reference to the owner of a LOCKED page if the page is mapped.
    fn owner(&self, page: &Page) -> Option<Handle<AnonVma>> {
        let record = page.user();
        let anon = {
            let _pin = self.cx.pin();
            if record.maps() == 0 {
                return None;
            }
            let anon = Handle::from_raw(record.owner())?;
            self.try_get_anon(anon).then_some(anon)?
        };
        if record.maps() == 0 && !cfg!(mm_mutant = "owner_without_second_look") {
            self.put_anon(anon);
            return None;
        }
        Some(anon)
    }
}

/// Visits every area of an object's map that may map the page at `index` of
/// the object, until the visitor breaks off. Private areas are among them:
/// they may map the page until they write to it.
///
/// # Locks
/// The object's map lock, at least shared.
pub fn walk_areas<B>(
    map: &IntervalTree<ByOffset>,
    vmas: &impl Resolve<Vma>,
    index: u64,
    mut visit: impl FnMut(Hit<'_>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let Ok(index) = usize::try_from(index) else {
        return ControlFlow::Continue(());
    };
    for vma in map.overlaps(vmas, index, index) {
        let area = vmas.get(vma);
        if let Some(page) = area.page_at(index) {
            visit(Hit { vma, area, page })?;
        }
    }
    ControlFlow::Continue(())
}
