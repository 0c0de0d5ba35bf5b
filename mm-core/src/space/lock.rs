//! `lock`: memory that stays (mlock(2), mlockall(2)).
//!
//! A locked area's pages are never taken away. The verbs set marks and count pages; they
//! bring no page in, as that may have to wait: [`AddressSpace::populate`] does, called
//! next unless pages are locked as they come ([`LockKind::OnFault`]).
//!
//! | area | is locked |
//! |---|---|
//! | of a range that is locked, or of the space | by `lock`, `lock_all` |
//! | made by map, or by a brk that makes the heap longer | with [`MapFlags::LOCKED`], or as `lock_all` said of what comes later |
//! | grown by remap or by a fault (a stack), moved | as it was |
//! | left behind by remap with `DONT_UNMAP`; a fork's child's | no more |
//! | of a device, or one that must not grow ([`VmaFlags::SPECIAL`]) | never: its pages cannot be taken away |
//!
//! What `lock_all` said of what comes later is not a fork's child's, nor a new space's.
//!
//! [`MapFlags::LOCKED`]: super::MapFlags::LOCKED

use super::upkeep::Nodes;
use super::{AddressSpace, Layout};
use crate::addr::{VirtAddr, Vpn, page_mask};
use crate::error::MmError;
use crate::platform::Platform;
use crate::range::PageRange;
use crate::vma::{Shape, VmaFlags};

/// When the pages of locked memory are brought in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// All of them: the caller populates the range next.
    Now,
    /// Each by its first access (`MLOCK_ONFAULT`, `MCL_ONFAULT`).
    OnFault,
}

impl LockKind {
    const fn flags(self) -> VmaFlags {
        match self {
            Self::Now => VmaFlags::LOCKED,
            Self::OnFault => VmaFlags::ANY_LOCK,
        }
    }
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Locks the areas of a byte range, rounded outwards to pages (mlock(2), mlock2(2)). Those
    /// that are locked already become locked in this way; an empty range is none.
    ///
    /// # Errors
    /// `NotPermitted` where nothing may be locked; `Invalid` for a range that wraps; `Limit`
    /// where more would be locked than may be, or cutting at the edges would make an area too
    /// many; `OutOfMemory`: nothing has changed. `Unmapped` at the first page without
    /// an area: exactly the areas before it are locked.
    ///
    /// # Locks
    /// Takes the space lock for writing, then the objects' and the anon_vmas' locks.
    pub fn lock(&self, addr: VirtAddr, len: usize, kind: LockKind) -> Result<(), MmError> {
        let range = self.pages_around(addr, len)?;
        let cx = self.mm.cx();
        let layout = self.write_settled(&cx, |_| range);
        self.check_may_lock(&layout, addr)?;
        let nodes = Nodes::new(&cx, self.mm);
        // Also what is no area counts (Linux: do_mlock).
        let more = range.pages().saturating_sub(self.locked_in(&nodes, range));
        let locked = self.node().counts.locked.get().saturating_add(more);
        if locked > self.lockable(&layout) {
            return Err(MmError::Limit);
        }
        self.relock(&layout, &nodes, range, kind.flags())
    }

    /// Undoes [`Self::lock`] of a byte range, rounded outwards to pages (munlock(2)).
    ///
    /// # Errors
    /// `Invalid` for a range that wraps; `Limit`, `OutOfMemory` where cutting at the edges
    /// needs an area more: nothing has changed. `Unmapped` at the first page without an
    /// area: exactly the areas before it are unlocked.
    ///
    /// # Locks
    /// As [`Self::lock`].
    pub fn unlock(&self, addr: VirtAddr, len: usize) -> Result<(), MmError> {
        let range = self.pages_around(addr, len)?;
        let cx = self.mm.cx();
        let layout = self.write_settled(&cx, |_| range);
        let nodes = Nodes::new(&cx, self.mm);
        self.relock(&layout, &nodes, range, VmaFlags::empty())
    }

    /// Locks what is mapped now, and says what becomes of areas made later (mlockall(2)):
    /// `None` leaves what is there as it is, and later ones unlocked.
    ///
    /// # Errors
    /// `NotPermitted` where nothing may be locked; `Limit` where more is mapped than may
    /// be locked; `OutOfMemory`. Nothing has changed then.
    ///
    /// # Locks
    /// As [`Self::lock`].
    pub fn lock_all(
        &self,
        current: Option<LockKind>,
        later: Option<LockKind>,
    ) -> Result<(), MmError> {
        let cx = self.mm.cx();
        let mut layout = self.write_alone(&cx);
        self.check_may_lock(&layout, VirtAddr::new(0))?;
        if let Some(kind) = current {
            if self.node().counts.total.get() > self.lockable(&layout) {
                return Err(MmError::Limit);
            }
            let nodes = Nodes::new(&cx, self.mm);
            self.relock_all(&layout, &nodes, kind.flags())?;
        }
        layout.later_locks = later.map_or(VmaFlags::empty(), LockKind::flags);
        Ok(())
    }

    /// Unlocks what is mapped, and all that will be (munlockall(2)).
    ///
    /// # Errors
    /// `OutOfMemory`: nothing has changed.
    ///
    /// # Locks
    /// As [`Self::lock`].
    pub fn unlock_all(&self) -> Result<(), MmError> {
        let cx = self.mm.cx();
        let mut layout = self.write_alone(&cx);
        let nodes = Nodes::new(&cx, self.mm);
        self.relock_all(&layout, &nodes, VmaFlags::empty())?;
        layout.later_locks = VmaFlags::empty();
        Ok(())
    }

    /// Refuses to lock anything where the limit is zero.
    pub(super) fn check_may_lock(&self, layout: &Layout, addr: VirtAddr) -> Result<(), MmError> {
        if layout.limits.locked == 0 {
            return Err(MmError::NotPermitted(addr));
        }
        Ok(())
    }

    fn lockable(&self, layout: &Layout) -> usize {
        super::SpaceLimits::pages(layout.limits.locked, self.shift())
    }

    /// Rounds a byte range outwards to pages; nothing where its length so rounded is 0.
    fn pages_around(&self, addr: VirtAddr, len: usize) -> Result<PageRange, MmError> {
        let mask = page_mask(self.shift());
        let within = addr.as_usize() & mask;
        let start = VirtAddr::new(addr.as_usize().wrapping_sub(within));
        // So that -1 is as 0 (Linux: PAGE_ALIGN).
        let len = len.wrapping_add(within).wrapping_add(mask) & !mask;
        let none = PageRange::new(start.vpn(self.shift()), start.vpn(self.shift()));
        Ok(self.aligned_pages(start, len)?.unwrap_or(none))
    }

    /// Counts the locked pages of a range.
    fn locked_in(&self, nodes: &Nodes<'_, 'm, P>, range: PageRange) -> usize {
        let areas = self.node().vmas.overlapping(nodes, range);
        let locked = areas
            .map(|vma| nodes.vma(vma))
            .filter(|vma| vma.flags().contains(VmaFlags::LOCKED));
        locked
            .map(|vma| vma.range().intersect(range).pages())
            .fold(0, usize::saturating_add)
    }

    /// Gives the areas of a range up to its first hole these locks.
    fn relock(
        &self,
        layout: &Layout,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
        locks: VmaFlags,
    ) -> Result<(), MmError> {
        let hole = self.node().vmas.first_hole(nodes, range);
        let part = PageRange::new(range.start(), hole.unwrap_or(range.end()));
        if !part.is_empty() {
            let change = |area: &Shape| locked(area.spec.flags, locks);
            self.modify(layout, nodes, part, &change)?;
        }
        let unmapped = |hole: Vpn| Err(MmError::Unmapped(hole.addr(self.shift())));
        hole.map_or(Ok(()), unmapped)
    }

    /// Gives all areas these locks: none is cut, so that nothing must be put aside.
    fn relock_all(
        &self,
        layout: &Layout,
        nodes: &Nodes<'_, 'm, P>,
        locks: VmaFlags,
    ) -> Result<(), MmError> {
        let all = PageRange::new(Vpn::new(0), self.user_end());
        let change = |area: &Shape| locked(area.spec.flags, locks);
        self.modify(layout, nodes, all, &change)
    }
}

/// Returns the flags with other locks; those of special areas stay (Linux: mlock_fixup).
fn locked(flags: VmaFlags, locks: VmaFlags) -> VmaFlags {
    if flags.intersects(VmaFlags::SPECIAL) {
        return flags;
    }
    flags.difference(VmaFlags::ANY_LOCK) | locks
}
