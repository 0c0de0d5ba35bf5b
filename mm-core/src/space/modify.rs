//! Other flags for the areas of a range: what `seal`, `advise` and `lock` have in common.
//!
//! ```text
//! lock (write) ─► which part ─► plan ─► limits ─► reserve ─► commit ─► count
//!                   the verb's        may fail               cannot fail
//! ```
//!
//! No entry changes, so no fault has to be kept out.

use super::upkeep::Nodes;
use super::{AddressSpace, Layout};
use crate::addr::VirtAddr;
use crate::error::MmError;
use crate::platform::Platform;
use crate::range::PageRange;
use crate::vma::{Change, Edit, Plan};

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Returns the pages of a byte range from an aligned address on; `None` when it is empty.
    ///
    /// # Errors
    /// `Invalid` for an address within a page, and for a range that wraps or that no address ends.
    pub(super) fn aligned_pages(
        &self,
        addr: VirtAddr,
        len: usize,
    ) -> Result<Option<PageRange>, MmError> {
        if !addr.is_page_aligned(self.shift()) {
            return Err(MmError::Invalid(addr));
        }
        if len == 0 {
            return Ok(None);
        }
        let range = PageRange::from_bytes(addr, len, self.shift())?;
        if range.end().addr(self.shift()) <= addr {
            // The end of the last page is no address.
            return Err(MmError::Invalid(addr));
        }
        Ok(Some(range))
    }

    /// Gives the areas of a range other flags; holes are passed over.
    ///
    /// # Errors
    /// `Limit`, `LockLimit`, `OutOfMemory`: nothing has changed.
    ///
    /// # Locks
    /// The space lock for writing, taken when nobody was busy with the range.
    // Out of line, so that its edit is not part of the verbs' frames.
    #[inline(never)]
    pub(super) fn modify(
        &self,
        layout: &Layout,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
        change: Change<'_>,
    ) -> Result<(), MmError> {
        let vmas = &self.node().vmas;
        let plan = Plan::modify(vmas, nodes, range, change);
        let delta = plan.delta();
        self.check_limits(layout, &delta)?;
        let edit = Edit::reserve(vmas, nodes, plan)?;
        drop(edit.commit());
        self.count(&delta);
        Ok(())
    }
}
