//! Taking pages of an object out of every space that maps them.
//!
//! ```text
//!   map of areas (shared) ─► each area from the offset on ─► zap into a gather ─► flush
//! ```
//!
//! An area in the map belongs to a space whose root is alive: a space leaves
//! the maps before its root is freed. Private copies go too: what they were
//! copied from is no longer there, and a fault on them must be SIGBUS (Linux:
//! unmap_mapping_range with even_cows; G5).
//!
//! A fork may be copying entries meanwhile, from an area that was visited to one
//! that was not, but never the other way: the child's area stands behind its
//! parent's in the map ([`crate::vma::duplicate`]), and the walk goes forward.

use super::node::ObjectView;
use crate::addr::Vpn;
use crate::format::TableOwner;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::table::{CursorMut, PageTable};
use crate::tlb::TlbGather;
use crate::tree::Resolve;
use crate::vma::Vma;

/// The areas of the machine.
pub(super) struct Areas<'m, P: Platform>(pub(super) &'m crate::mm::Mm<P>);

impl<P: Platform> Resolve<Vma> for Areas<'_, P> {
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        self.0.vmas.get(self.0.frames(), handle)
    }
}

impl<P: Platform> ObjectView<'_, '_, P> {
    /// Unmaps the pages from an offset on, wherever they are mapped.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared, and table locks inside; flushes.
    pub(super) fn unmap_from(self, first: u64) {
        let nodes = Areas(self.mm);
        let areas = self.read_map();
        for handle in areas.overlaps(&nodes, first, u64::MAX) {
            let vma = nodes.get(handle);
            let Some(space) = Handle::from_raw(vma.space()) else {
                continue;
            };
            let node = self.mm.spaces.get(self.mm.frames(), space);
            let skipped =
                usize::try_from(first).map_or(usize::MAX, |f| f.saturating_sub(vma.pgoff()));
            let from = Vpn::new(vma.start().as_usize().saturating_add(skipped));
            let range: PageRange = vma.range().from(from);
            let table = PageTable::view(self.cx, node.root(), TableOwner::User, space.into_raw());
            let mut gather = TlbGather::new(self.cx, &node.tlb);
            let unmapped = CursorMut::new(table, &node.tlb, range).unmap(&mut gather);
            debug_assert!(unmapped.is_ok(), "objects are not mapped by blocks");
            node.released(self.cx.platform(), gather.finish());
        }
    }
}
