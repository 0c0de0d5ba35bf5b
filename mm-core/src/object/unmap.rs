//! Taking pages of an object out of every space that maps them.
//!
//! ```text
//!   map of areas (shared) ─► the part of each area ─► zap into a gather ─► flush: a round for each area
//! ```
//!
//! An area in the map belongs to a space whose root is alive: a space leaves
//! the maps before its root is freed. By a truncation private copies go too: what they were
//! copied from is no longer there, and a fault on them must be SIGBUS (Linux:
//! unmap_mapping_range with even_cows; G5). By a hole they stay.
//!
//! A fork may be copying entries meanwhile, from an area that was visited to one
//! that was not, but never the other way: the child's area stands behind its
//! parent's in the map ([`crate::vma::duplicate`]), and the walk goes forward.
//!
//! Another verb of a space may have taken an entry and not flushed yet: the walk finds
//! nothing there and does not wait for that flush. Until it comes a CPU of that space may
//! still use the page, which the other verb's gather keeps (Linux waits:
//! `mm_tlb_flush_nested`).

use super::node::ObjectView;
use crate::addr::Vpn;
use crate::format::{Entry, TableOwner};
use crate::page::PageFlags;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::table::{CursorMut, PageTable};
use crate::tlb::TlbGather;
use crate::tree::Resolve;
use crate::vma::{Vma, VmaFlags};

/// The areas of the machine.
pub(super) struct Areas<'m, P: Platform>(pub(super) &'m crate::mm::Mm<P>);

impl<P: Platform> Resolve<Vma> for Areas<'_, P> {
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        self.0.vmas.get(self.0.frames(), handle)
    }
}

/// What becomes of private copies of the pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    Go,
    Stay,
}

impl<P: Platform> ObjectView<'_, '_, P> {
    /// Unmaps the pages `first..=last`, wherever they are mapped.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared, and table locks inside; flushes.
    pub(super) fn unmap(self, first: u64, last: u64, copies: Copies) {
        let nodes = Areas(self.mm);
        let areas = self.read_map();
        for handle in areas.overlaps(&nodes, first, last) {
            self.unmap_area(nodes.get(handle), first, last, copies);
        }
    }

    // Out of line, so that its gather is not part of its callers' frames.
    #[inline(never)]
    fn unmap_area(self, vma: &Vma, first: u64, last: u64, copies: Copies) {
        let Some(space) = Handle::from_raw(vma.space()) else {
            return;
        };
        let page = |pgoff: u64| {
            usize::try_from(pgoff).map_or(usize::MAX, |pgoff| {
                let skipped = pgoff.saturating_sub(vma.pgoff());
                vma.start().as_usize().saturating_add(skipped)
            })
        };
        let end = Vpn::new(page(last.saturating_add(1)));
        let range = vma
            .range()
            .intersect(PageRange::new(Vpn::new(page(first)), end));
        let node = self.mm.spaces.get(self.mm.frames(), space);
        let table = PageTable::view(self.cx, node.root(), TableOwner::User, space.into_raw());
        let mut gather = TlbGather::new(self.cx, &node.tlb);
        if copies == Copies::Stay && !vma.flags().contains(VmaFlags::SHARED) {
            self.take_cached(table, range, &mut gather);
        } else {
            let unmapped = CursorMut::new(table, &node.tlb, range).unmap(&mut gather);
            debug_assert!(unmapped.is_ok(), "objects are not mapped by blocks");
        }
        node.released(self.cx.platform(), gather.finish());
    }

    /// Takes the entries that lead to cached pages, and no others.
    // Out of line, so that its walk is not in one frame with its caller's gather.
    #[inline(never)]
    fn take_cached<'c, 'm>(
        &self,
        table: PageTable<'c, 'm, P>,
        range: PageRange,
        gather: &mut TlbGather<'c, 'm, P>,
    ) {
        let mut left = range;
        let mut emptied = false;
        while let Some(leaf) = table.next_leaf(left) {
            let here = leaf.range().intersect(left);
            let full = here
                .iter()
                .filter(|&page| self.leads_to_cached(leaf.entry(page)))
                .find(|&page| {
                    let one = PageRange::new(page, page.saturating_add(1));
                    gather.take_leaves(&leaf, one).is_some()
                });
            emptied |= leaf.live() == 0;
            drop(leaf);
            if full.is_some() && gather.extend().is_err() {
                gather.flush();
            }
            left = left.from(full.unwrap_or(here.end()));
        }
        if emptied {
            table.prune(range, gather);
        }
    }

    fn leads_to_cached(&self, entry: Entry) -> bool {
        let record = entry.counted().and_then(|pfn| self.mm.frames().page(pfn));
        record.is_some_and(|record| !record.has(PageFlags::ANON))
    }
}
