//! `seal`: areas that stay as they are (mseal(2)).
//!
//! A sealed area can neither be removed, replaced, moved, resized nor given other
//! rights, and pages that the program cannot write to cannot be dropped: so nobody who
//! gets a program to make one wrong call changes what it relies on. The mark goes with
//! the space; a child of a fork has it too.
//!
//! | verb, over a sealed area | answers |
//! |---|---|
//! | unmap, map `FIXED`, protect, also to the rights that it has | `NotPermitted` |
//! | remap of it, and onto it | `NotPermitted` |
//! | brk to below its end | the old end |
//! | advise `DontNeed`, `DontNeedLocked`, `DontFork`, `WipeOnFork` of private memory without a file or WRITE | `NotPermitted` |
//! | other advice; populate, faults, user copies | as ever |
//! | growth of a stack, of an object's size | as ever: the program says neither |
//!
//! Each of these asks first, about all of its range: nothing has changed then. (Linux asked
//! so in 6.10 and 6.11; since 6.12 its mprotect and madvise have changed what lies before.)

use super::AddressSpace;
use super::upkeep::Nodes;
use crate::addr::VirtAddr;
use crate::error::MmError;
use crate::platform::Platform;
use crate::range::PageRange;
use crate::vma::{Shape, Vma, VmaFlags};

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Seals the areas of a byte range, for good (mseal(2)). Sealing them again does nothing.
    ///
    /// # Errors
    /// `Invalid` for an unaligned address or a range that wraps; `Unmapped` at the first
    /// page without an area; `Limit` when cutting at the edges would make an area too many;
    /// `OutOfMemory` when the nodes for that cannot be had. Nothing has changed then.
    ///
    /// # Locks
    /// Takes the space lock for writing, then marks, the objects' and the anon_vmas' locks.
    pub fn seal(&self, addr: VirtAddr, len: usize) -> Result<(), MmError> {
        let Some(range) = self.aligned_pages(addr, len)? else {
            return Ok(());
        };
        let cx = self.mm.cx();
        let layout = self.write_settled(&cx, |_| range);
        let nodes = Nodes::new(&cx, self.mm);
        if let Some(hole) = self.node().vmas.first_hole(&nodes, range) {
            return Err(MmError::Unmapped(hole.addr(self.shift())));
        }
        let change = |area: &Shape| area.spec.flags | VmaFlags::SEALED;
        self.modify(&layout, &nodes, range, &change)
    }

    /// Refuses a change to a sealed area.
    pub(super) fn check_unsealed(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
    ) -> Result<(), MmError> {
        self.refuse(nodes, range, |vma| vma.flags().contains(VmaFlags::SEALED))
    }

    /// Refuses to drop what a sealed area holds, unless the program could overwrite it.
    pub(super) fn check_discardable(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
    ) -> Result<(), MmError> {
        self.refuse(nodes, range, keeps_pages)
    }

    fn refuse(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
        is_sealed: impl Fn(&Vma) -> bool,
    ) -> Result<(), MmError> {
        let mut areas = self.node().vmas.overlapping(nodes, range);
        match areas.find(|&vma| is_sealed(nodes.vma(vma))) {
            Some(vma) => {
                let start = nodes.vma(vma).start().max(range.start());
                Err(MmError::NotPermitted(start.addr(self.shift())))
            }
            None => Ok(()),
        }
    }
}

/// Returns whether an area's pages stay, whatever advice there is: its seal is for what
/// they hold, as the program cannot write to them (Linux: `can_madvise_modify`).
pub(super) fn keeps_pages(vma: &Vma) -> bool {
    let flags = vma.flags();
    let others = VmaFlags::WRITE | VmaFlags::PFN_MAP;
    flags.contains(VmaFlags::SEALED) && !flags.intersects(others) && vma.object_raw() == 0
}
