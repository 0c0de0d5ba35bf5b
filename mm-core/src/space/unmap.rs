//! `unmap`: take areas away (munmap(2)), and `zap`: drop the entries of a range.
//!
//! ```text
//! lock (write) ─► plan ─► limits ─► cut ─► mark, count ─► unlock ─► zap ─► flush ─► lock ─► take out
//!                      may fail                                   cannot fail
//! ```
//!
//! A zap detaches whole tables and takes single entries at the edges. What it
//! takes rides the gather: frames are freed after the flush, tables after the
//! flush and a grace period. Unmapping whole areas needs no memory; cutting
//! one in two needs a node, which is taken before anything changes (C4). That
//! the zap needs no space lock, and when it is done under it all the same, is
//! told in [`super::busy`].

use super::AddressSpace;
use super::upkeep::Nodes;
use crate::addr::VirtAddr;
use crate::cx::Cx;
use crate::error::MmError;
use crate::platform::Platform;
use crate::range::PageRange;
use crate::table::{CursorMut, PageTable};
use crate::tlb::{SpaceTlb, TlbGather};
use crate::vma::{Delta, Edit, Plan};

use super::Layout;
use super::busy::Going;

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Unmaps every page of a byte range (munmap(2)); pages without an area
    /// are no error.
    ///
    /// # Errors
    /// `Invalid` for an unaligned address, a zero length, or an end past user
    /// space; `Limit` when cutting an area in two would make one too many;
    /// `OutOfMemory` when the node for that cannot be had; `NotPermitted` over
    /// a sealed area. Nothing has changed then.
    ///
    /// # Locks
    /// Takes the space lock for writing, twice, then what [`Self::map`] takes;
    /// pages are given back between the two.
    pub fn unmap(&self, addr: VirtAddr, len: usize) -> Result<(), MmError> {
        let range = PageRange::from_bytes(addr, len, self.shift())?;
        if range.end() > self.user_end() {
            return Err(MmError::Invalid(addr));
        }
        let cx = self.mm.cx();
        let mut layout = self.write_settled(&cx, |_| range);
        let going = self.remove(&cx, &mut layout, range)?;
        drop(layout);
        self.finish(&cx, going);
        Ok(())
    }

    /// Removes the areas of a range, or lets them die: then the caller ends it
    /// ([`Self::finish`]) once the lock is released. Shared by unmap and brk.
    // Out of line, so that its edit is not part of its callers' frames.
    #[inline(never)]
    pub(super) fn remove(
        &self,
        cx: &Cx<'m, P>,
        layout: &mut Layout,
        range: PageRange,
    ) -> Result<Option<Going>, MmError> {
        let node = self.node();
        let nodes = Nodes::new(cx, self.mm);
        let plan = Plan::remove(&node.vmas, &nodes, range);
        if plan.removed_pages() == 0 {
            return Ok(None);
        }
        self.check_unsealed(&nodes, range)?;
        self.check_limits(layout, &plan.delta())?;
        let delta = plan.delta();
        let going = self.begin(cx, layout, range, None, &delta);
        if going.is_some() {
            return Ok(going);
        }
        let mut edit = Edit::reserve(&node.vmas, &nodes, plan)?;
        edit.mark();
        self.zap_now(cx, range);
        let done = edit.commit();
        self.count(&delta);
        drop(done);
        Ok(None)
    }

    /// Unmaps everything, without needing memory: the last user is gone.
    // Out of line, so that its gather is not part of its callers' frames.
    #[inline(never)]
    pub(super) fn unmap_everything(&self, cx: &Cx<'m, P>) {
        let node = self.node();
        let layout = node.lock.write(cx, self.key());
        debug_assert_eq!(layout.busy, 0, "the last user is not alone");
        let all = PageRange::new(crate::addr::Vpn::new(0), self.user_end());
        let nodes = Nodes::new(cx, self.mm);
        let plan = Plan::remove(&node.vmas, &nodes, all);
        if let Ok(mut edit) = Edit::reserve(&node.vmas, &nodes, plan) {
            edit.mark();
            self.zap_now(cx, all);
            drop(edit.commit());
        } else {
            debug_assert!(false, "removing whole areas puts nothing aside");
        }
        node.counts.total.set(0);
        drop(layout);
    }

    /// Drops the entries of a range, flushes, and counts what came back.
    // Out of line, so that its gather is not part of its callers' frames.
    #[inline(never)]
    pub(super) fn zap_now(&self, cx: &Cx<'m, P>, range: PageRange) {
        let node = self.node();
        let mut gather = TlbGather::new(cx, &node.tlb);
        zap(self.table(cx), &node.tlb, range, &mut gather);
        self.released(gather.finish());
    }

    /// Counts what a gather gave back.
    pub(super) fn released(&self, released: crate::tlb::Released) {
        self.node().released(self.mm.platform(), released);
    }

    /// Refuses a change whose result would exceed a bound. What shrinks a
    /// count is always allowed.
    pub(super) fn check_limits(&self, layout: &Layout, delta: &Delta) -> Result<(), MmError> {
        let counts = &self.node().counts;
        let limits = &layout.limits;
        let pages = |bytes| super::SpaceLimits::pages(bytes, self.shift());
        let (limit, locks) = (MmError::Limit, MmError::LockLimit);
        for (have, more, most, error) in [
            (counts.areas.get(), delta.areas, limits.areas, limit),
            // Before those below, as on Linux: its errno is another one.
            (
                counts.locked.get(),
                delta.locked,
                pages(limits.locked),
                locks,
            ),
            (
                counts.total.get(),
                delta.pages,
                pages(limits.address_space),
                limit,
            ),
            (counts.data.get(), delta.data, pages(limits.data), limit),
        ] {
            if more > 0 && have.saturating_add_signed(more) > most {
                return Err(error);
            }
        }
        match usize::try_from(delta.account) {
            Ok(more) if more > 0 => self.check_commit(more),
            _ => Ok(()),
        }
    }

    /// Refuses memory of which the platform says that it cannot be had.
    pub(super) fn check_commit(&self, pages: usize) -> Result<(), MmError> {
        if self.mm.platform().may_commit(pages) {
            Ok(())
        } else {
            Err(MmError::Limit)
        }
    }

    /// Adds a committed change to the counts.
    pub(super) fn count(&self, delta: &Delta) {
        let counts = &self.node().counts;
        for (count, more) in [
            (&counts.areas, delta.areas),
            (&counts.total, delta.pages),
            (&counts.data, delta.data),
            (&counts.locked, delta.locked),
        ] {
            // The space lock is held for writing: nobody else changes these.
            count.set(count.get().saturating_add_signed(more));
        }
    }
}

/// Drops the entries of a range into a gather (Linux: zap_page_range).
///
/// # Locks
/// Table locks, one at a time (a parent with a child). Nobody enters pages in
/// the range meanwhile, or the caller does not mind.
pub(super) fn zap<'m, P: Platform>(
    table: PageTable<'_, 'm, P>,
    tlb: &SpaceTlb,
    range: PageRange,
    gather: &mut TlbGather<'_, 'm, P>,
) {
    let unmapped = CursorMut::new(table, tlb, range).unmap(gather);
    debug_assert!(unmapped.is_ok(), "users have no blocks to be shattered");
}
