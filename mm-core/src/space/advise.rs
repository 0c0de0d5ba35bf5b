//! `advise`: what the program says of its future (madvise(2)).
//!
//! Dropping pages may take long. Where they are one area's, it is done as a fault
//! is resolved, under the area's read count and without the space lock: only who
//! changes that area waits (Linux: the lock of the area, too). Not under a write mark
//! ([`super::busy`]): faults, and others who drop pages of the same area, would have
//! to wait for what does them no harm.

use super::AddressSpace;
use super::seal::keeps_pages;
use super::unmap::zap;
use super::upkeep::Nodes;
use crate::addr::{VirtAddr, Vpn};
use crate::cx::Cx;
use crate::error::MmError;
use crate::object::{ObjectRef, ObjectView};
use crate::platform::Platform;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::tlb::TlbGather;
use crate::vma::{Shape, VmaFlags, VmaReadGuard};

/// An advice of madvise(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// Drop the pages: anonymous memory reads as zero again, files are read
    /// again (`MADV_DONTNEED`).
    DontNeed,
    /// As [`Self::DontNeed`], of locked memory too: it stays locked (`MADV_DONTNEED_LOCKED`).
    DontNeedLocked,
    /// Free the pages of the memory that is shared here, for all who share it: they read
    /// as zero again (`MADV_REMOVE`).
    Remove,
    /// No special treatment (`MADV_NORMAL`).
    Normal,
    /// Read from front to back (`MADV_SEQUENTIAL`).
    Sequential,
    /// Read at random (`MADV_RANDOM`).
    Random,
    /// A fork's child does not get the area (`MADV_DONTFORK`).
    DontFork,
    /// Undoes [`Self::DontFork`] (`MADV_DOFORK`).
    DoFork,
    /// A fork's child finds the area empty (`MADV_WIPEONFORK`).
    WipeOnFork,
    /// Undoes [`Self::WipeOnFork`] (`MADV_KEEPONFORK`).
    KeepOnFork,
    /// Left out of core dumps (`MADV_DONTDUMP`).
    DontDump,
    /// Undoes [`Self::DontDump`] (`MADV_DODUMP`).
    DoDump,
}

/// A part of an area, the object behind it, and the page of it that comes first.
type Removable<'m, P> = (PageRange, ObjectRef<'m, P>, u64);

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Takes advice about a byte range (madvise(2)). Pages without an area are
    /// passed over and reported at the end, as on Linux.
    ///
    /// # Errors
    /// `Invalid` for an unaligned address or a range that wraps, and where the
    /// advice does not fit the area (`DontNeed` of locked or device memory,
    /// `WipeOnFork` of files or devices, `Remove` of locked memory or without an object): the
    /// part before stays advised. `Remove` is `Denied` where stores can never be shared, and
    /// else answers as [`ObjectRef::make_hole`]. `Unmapped` at
    /// the first hole, after all mapped parts were advised; what another thread
    /// is unmapping is one. `NotPermitted` where a seal keeps the pages ([`Self::seal`]),
    /// `Limit`, `OutOfMemory`: nothing has changed.
    ///
    /// # Locks
    /// `DontNeed` and `DontNeedLocked` in one area take its read count, else the space lock for
    /// reading; so does `Remove`, but while it looks for areas only, and what
    /// [`ObjectRef::make_hole`] takes. The others take the space lock for writing.
    pub fn advise(&self, addr: VirtAddr, len: usize, advice: Advice) -> Result<(), MmError> {
        let Some(range) = self.aligned_pages(addr, len)? else {
            return Ok(());
        };
        if matches!(advice, Advice::DontNeed | Advice::DontNeedLocked) {
            return self.drop_pages(range, advice);
        }
        if advice == Advice::Remove {
            return self.remove_pages(range);
        }
        let cx = self.mm.cx();
        let layout = self.write_settled(&cx, |_| range);
        let nodes = Nodes::new(&cx, self.mm);
        if matches!(advice, Advice::DontFork | Advice::WipeOnFork) {
            self.check_discardable(&nodes, range)?;
        }
        let (part, stopped) = self.advisable(&nodes, range, advice);
        if !part.is_empty() {
            let change = |area: &Shape| advised(area.spec.flags, advice);
            self.modify(&layout, &nodes, part, &change)?;
        }
        stopped.map_or(Ok(()), Err)
    }

    /// Makes holes in the objects behind a range, without the space lock: an area that is
    /// mapped elsewhere meanwhile, or changed, keeps its object's hole.
    fn remove_pages(&self, range: PageRange) -> Result<(), MmError> {
        let mut left = range;
        let mut unmapped = None;
        while let Some((part, object, first)) = self.next_removable(left)? {
            if part.start() > left.start() && unmapped.is_none() {
                unmapped = Some(left.start());
            }
            object.make_hole(first, part.pages() as u64)?;
            left = left.from(part.end());
        }
        if !left.is_empty() {
            unmapped = unmapped.or(Some(left.start()));
        }
        let error = |page: Vpn| Err(MmError::Unmapped(page.addr(self.shift())));
        unmapped.map_or(Ok(()), error)
    }

    /// Returns the first mapped part of a range, its object and the page of it that the part
    /// begins with.
    fn next_removable(&self, range: PageRange) -> Result<Option<Removable<'m, P>>, MmError> {
        let cx = self.mm.cx();
        let nodes = Nodes::new(&cx, self.mm);
        let node = self.node();
        let _layout = node.lock.read(&cx, self.key());
        let mut areas = node.vmas.overlapping(&nodes, range).map(|at| nodes.vma(at));
        let Some(vma) = areas.find(|vma| !vma.is_dying() || vma.is_replaced()) else {
            return Ok(None);
        };
        let part = vma.range().intersect(range);
        let addr = part.start().addr(self.shift());
        let fit = fits(vma.flags(), vma.object_raw(), Advice::Remove);
        let object = Handle::from_raw(vma.object_raw()).filter(|_| fit);
        let object = object.ok_or(MmError::Invalid(addr))?;
        if !vma.flags().contains(VmaFlags::SHARED | VmaFlags::MAY_WRITE) {
            return Err(MmError::Denied(addr));
        }
        let first = vma.pgoff_of(part.start()) as u64;
        // The area's reference is there as long as the lock is held.
        let object = ObjectView::new(self.mm, &cx, object).try_ref()?;
        Ok(Some((part, object, first)))
    }

    // Out of line, so that its gather is not part of its callers' frames.
    #[inline(never)]
    fn drop_pages(&self, range: PageRange, advice: Advice) -> Result<(), MmError> {
        let cx = self.mm.cx();
        let node = self.node();
        if let Some(area) = self.read_droppable(&cx, range, advice) {
            self.zap_now(&cx, range);
            drop(area);
            return Ok(());
        }
        let _layout = node.lock.read(&cx, self.key());
        let nodes = Nodes::new(&cx, self.mm);
        self.check_discardable(&nodes, range)?;
        let (part, stopped) = self.advisable(&nodes, range, advice);
        let mut gather = TlbGather::new(&cx, &node.tlb);
        for vma in node.vmas.overlapping(&nodes, part) {
            let vma = nodes.vma(vma);
            if vma.is_dying() {
                // Its verb drops its pages.
                continue;
            }
            let mapped = vma.range().intersect(part);
            zap(self.table(&cx), &node.tlb, mapped, &mut gather);
        }
        self.released(gather.finish());
        stopped.map_or(Ok(()), Err)
    }

    /// Counts the caller in as a reader of the area that holds all of a range, if
    /// there is one and its pages may be dropped. `None` proves nothing.
    fn read_droppable<'c>(
        &self,
        cx: &'c Cx<'m, P>,
        range: PageRange,
        advice: Advice,
    ) -> Option<VmaReadGuard<'c, Cx<'m, P>>>
    where
        'm: 'c,
    {
        let nodes = Nodes::new(cx, self.mm);
        let pin = cx.pin();
        let handle = self.node().vmas.lookup(&nodes, range.start())?;
        let vma = self.mm.vmas.get(self.mm.frames(), handle);
        let area = vma.try_read(cx, self.key(), range.start())?;
        // The read count keeps the node's slab from here on.
        drop(pin);
        let whole = area.range().covers(range);
        let is_fit = whole && fits(area.flags(), area.object_raw(), advice) && !keeps_pages(&area);
        is_fit.then_some(area)
    }

    /// Returns the part of a range up to the first area that the advice does
    /// not fit, and the error to report afterwards.
    fn advisable(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
        advice: Advice,
    ) -> (PageRange, Option<MmError>) {
        let mut at = range.start();
        let mut hole = None;
        for vma in self.node().vmas.overlapping(nodes, range) {
            let vma = nodes.vma(vma);
            if vma.is_dying() && !vma.is_replaced() {
                // It is going: what the program unmaps is a hole already.
                continue;
            }
            if vma.start() > at && hole.is_none() {
                hole = Some(MmError::Unmapped(at.addr(self.shift())));
            }
            if !fits(vma.flags(), vma.object_raw(), advice) {
                let stop = vma.start().max(range.start());
                let error = MmError::Invalid(stop.addr(self.shift()));
                return (PageRange::new(range.start(), stop), Some(error));
            }
            at = vma.end();
        }
        if at < range.end() && hole.is_none() {
            hole = Some(MmError::Unmapped(at.addr(self.shift())));
        }
        (range, hole)
    }
}

fn fits(flags: VmaFlags, object: u32, advice: Advice) -> bool {
    match advice {
        Advice::DontNeed => !flags.intersects(VmaFlags::LOCKED | VmaFlags::PFN_MAP),
        Advice::DontNeedLocked => !flags.intersects(VmaFlags::PFN_MAP),
        Advice::Remove => !flags.contains(VmaFlags::LOCKED),
        Advice::WipeOnFork => {
            object == 0 && !flags.intersects(VmaFlags::SHARED | VmaFlags::PFN_MAP)
        }
        Advice::DoFork => !flags.contains(VmaFlags::IO),
        _ => true,
    }
}

fn advised(flags: VmaFlags, advice: Advice) -> VmaFlags {
    let pace = VmaFlags::SEQ_READ | VmaFlags::RAND_READ;
    match advice {
        Advice::DontNeed | Advice::DontNeedLocked | Advice::Remove => flags,
        Advice::Normal => flags.difference(pace),
        Advice::Sequential => flags.difference(pace) | VmaFlags::SEQ_READ,
        Advice::Random => flags.difference(pace) | VmaFlags::RAND_READ,
        Advice::DontFork => flags | VmaFlags::DONT_COPY,
        Advice::DoFork => flags.difference(VmaFlags::DONT_COPY),
        Advice::WipeOnFork => flags | VmaFlags::WIPE_ON_FORK,
        Advice::KeepOnFork => flags.difference(VmaFlags::WIPE_ON_FORK),
        Advice::DontDump => flags | VmaFlags::DONT_DUMP,
        Advice::DoDump => flags.difference(VmaFlags::DONT_DUMP),
    }
}
