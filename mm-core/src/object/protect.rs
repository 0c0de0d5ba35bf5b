//! Taking the right to write to a page, and what says that it was used, from
//! every space that maps it (Linux: page_mkclean).
//!
//! An entry that lost WRITE a moment ago may still be stored through until its
//! verb's flush. It has DIRTY then, so it is flushed here, too.
//!
//! An area that enters the map later has no entries yet, or copies of entries
//! that were visited: fork copies none of shared areas, and those of private
//! ones have no WRITE while they lead to a page of the object.

use super::cache::CachedPage;
use super::node::ObjectView;
use super::unmap::Areas;
use crate::format::TableOwner;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::table::PageTable;
use crate::tree::Resolve;

impl<'m, P: Platform> ObjectView<'_, 'm, P> {
    /// Lets the next store to a page fault, wherever it is mapped, and takes DIRTY
    /// from all entries.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared, and table locks inside; flushes.
    pub(super) fn write_protect(self, page: &CachedPage<'_, 'm, P>) {
        let index = page.record().user().index();
        let Ok(offset) = usize::try_from(index) else {
            return;
        };
        let nodes = Areas(self.mm);
        let areas = self.read_map();
        for handle in areas.overlaps(&nodes, index, index) {
            let vma = nodes.get(handle);
            let (Some(space), Some(at)) = (Handle::from_raw(vma.space()), vma.page_at(offset))
            else {
                continue;
            };
            let node = self.mm.spaces.get(self.mm.frames(), space);
            let table = PageTable::view(self.cx, node.root(), TableOwner::User, space.into_raw());
            let Some(leaf) = table.lock_leaf(at) else {
                continue;
            };
            if leaf.take_dirty(&node.tlb, at, page.pfn()) {
                node.tlb.flush_page(self.cx, at);
            }
        }
    }
}
