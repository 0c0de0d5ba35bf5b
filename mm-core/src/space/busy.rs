//! Areas that stay marked without the space lock.
//!
//! ```text
//! unmap, map FIXED   lock ─► plan, reserve ─► cut at the edges ─► mark, DYING ─► unlock
//!                      zap ─► flush
//!                    lock ─► take the areas out (and put the new one there) ─► unlock
//!
//! protect            lock ─► plan, reserve ─► mark ─► commit ─► unlock
//!                      rewrite entries, area by area ─► flush
//!                    lock ─► unmark ─► unlock
//! ```
//!
//! What takes long happens in the middle, where other ranges of the space can
//! be mapped, unmapped and faulted on. The areas in the middle are *busy*:
//! they are in the tree, so their range is taken; they carry the write mark,
//! so no fault is inside; and nobody but their verb changes them.
//!
//! **Whoever finds a mark under the space lock for writing found somebody
//! else's**: a verb that holds the lock has removed its own marks before it
//! unlocks, or made the areas busy. It does not wait for it there, because the
//! other one needs this lock to end: it unlocks, relaxes, begins again
//! ([`AddressSpace::write_settled`]).
//!
//! | who meets a busy area | does |
//! |---|---|
//! | a verb that would change it | waits, without locks, before its plan |
//! | a verb that would join it to a new neighbour | the same; a dying one is never joined |
//! | a dying area's verb, when it ends beside it | waits, unless it dies too |
//! | a verb in search of a gap | passes over it |
//! | fork | waits until nobody is busy, and meanwhile nobody becomes it |
//! | a fault, DYING | SIGSEGV: the program unmaps what it uses |
//! | a fault, DYING and REPLACED | waits: a fixed map leaves no moment without an area |
//! | a fault, being protected | waits |
//! | a listing | shows it, unless it is going |
//! | truncation, reverse walks | find it through its object: entries are under table locks |
//!
//! **Fork is not starved.** It needs a moment when nobody is busy anywhere, which
//! threads that keep unmapping elsewhere might never leave. So it counts itself
//! in ([`Layout`], `awaiting`) when it has to wait: from then on an unmap or a
//! fixed map zaps under the lock, as over holes, and a protect waits for the
//! fork. Who is busy already waits for neither, so fork waits for one end of
//! each at most ([`AddressSpace::write_alone`]).
//!
//! Only ranges without holes are zapped in the middle: somebody else could map
//! into a hole meanwhile. A range with holes, and one whose edges cut areas
//! when there is no memory for two more nodes, is zapped under the lock. So
//! unmapping never fails for want of memory where Linux's would not (C4).

use super::AddressSpace;
use super::upkeep::Nodes;
use crate::addr::Vpn;
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::sync::WriteGuard;
use crate::vma::{Delta, Edit, Layout, NewVma, Plan, Shape, Upkeep, Vma, VmaFlags};

/// The space lock, held for writing.
pub(super) type Writing<'c, 'm, P> = WriteGuard<'c, Layout, Cx<'m, P>>;

/// Areas that are about to go, or to be replaced.
#[must_use = "the areas stay in the way until this is finished"]
pub(super) struct Going {
    range: PageRange,
    new: Option<NewVma>,
    /// For the new area, so that the end cannot fail.
    spare: Option<Handle<Vma>>,
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Takes the space lock for writing when nobody is busy with the range
    /// that `range` returns under it.
    ///
    /// # Locks
    /// Takes the space lock for writing; waits without it.
    pub(crate) fn write_settled<'c>(
        &self,
        cx: &'c Cx<'m, P>,
        mut range: impl FnMut(&Layout) -> PageRange,
    ) -> Writing<'c, 'm, P> {
        let mut spins = 0u32;
        loop {
            let layout = self.node().lock.write(cx, self.key());
            if layout.busy == 0 || self.is_settled(cx, &layout, range(&layout)) {
                return layout;
            }
            drop(layout);
            #[cfg(not(mm_mutant = "busy_waits_deaf"))]
            cx.wait_turn(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// As [`Self::write_settled`], for a verb that leaves the areas of the range
    /// busy whatever happens: not while another one waits for all who are.
    ///
    /// # Locks
    /// Takes the space lock for writing; waits without it.
    pub(super) fn write_to_be_busy<'c>(
        &self,
        cx: &'c Cx<'m, P>,
        mut range: impl FnMut() -> PageRange,
    ) -> Writing<'c, 'm, P> {
        let mut spins = 0u32;
        loop {
            let layout = self.write_settled(cx, |_| range());
            if layout.awaiting == 0 {
                return layout;
            }
            drop(layout);
            #[cfg(not(mm_mutant = "behind_fork_waits_deaf"))]
            cx.wait_turn(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Takes the space lock for writing when nobody is busy at all, and lets
    /// nobody become it while it waits.
    ///
    /// # Locks
    /// Takes the space lock for writing; waits without it.
    pub(crate) fn write_alone<'c>(&self, cx: &'c Cx<'m, P>) -> Writing<'c, 'm, P> {
        let mut layout = self.node().lock.write(cx, self.key());
        if layout.busy == 0 || cfg!(mm_mutant = "fork_waits_for_nobody") {
            return layout;
        }
        layout.awaiting = layout.awaiting.saturating_add(1);
        let mut spins = 0u32;
        while layout.busy != 0 {
            drop(layout);
            #[cfg(not(mm_mutant = "fork_waits_deaf"))]
            cx.wait_turn(spins);
            spins = spins.saturating_add(1);
            layout = self.node().lock.write(cx, self.key());
        }
        layout.awaiting = layout.awaiting.saturating_sub(1);
        layout
    }

    /// Returns whether nobody is busy with the areas of a range, or with one
    /// that could become one with it.
    ///
    /// # Locks
    /// The space lock for writing.
    pub(super) fn is_settled(&self, cx: &Cx<'m, P>, layout: &Layout, range: PageRange) -> bool {
        if layout.busy == 0 || cfg!(mm_mutant = "change_what_is_busy") {
            return true;
        }
        let nodes = Nodes::new(cx, self.mm);
        let wide = PageRange::new(
            range.start().saturating_sub(1),
            range.end().saturating_add(1),
        );
        !self.node().vmas.overlapping(&nodes, wide).any(|handle| {
            let vma = nodes.vma(handle);
            let beside = vma.range().intersect(range).is_empty();
            vma.is_marked() && !(beside && vma.is_dying())
        })
    }

    /// Returns whether nobody is busy with an area right beside a range whose
    /// own areas the caller is busy with. Those that die stay as they are.
    ///
    /// # Locks
    /// The space lock for writing.
    fn is_settled_beside(&self, cx: &Cx<'m, P>, layout: &Layout, range: PageRange) -> bool {
        if layout.busy == 1 {
            return true;
        }
        let nodes = Nodes::new(cx, self.mm);
        let wide = PageRange::new(
            range.start().saturating_sub(1),
            range.end().saturating_add(1),
        );
        !self.node().vmas.overlapping(&nodes, wide).any(|handle| {
            let vma = nodes.vma(handle);
            vma.range().intersect(range).is_empty() && vma.is_marked() && !vma.is_dying()
        })
    }

    /// Lets the areas of a range die: from here on nothing can fail. `None`
    /// when that is not possible, or somebody waits for all who are busy, with
    /// nothing changed.
    ///
    /// `delta` is the plan's for the range.
    ///
    /// # Locks
    /// The space lock for writing, since before the plan was made.
    // Out of line, so that its edit is not part of its callers' frames.
    #[inline(never)]
    pub(super) fn begin(
        &self,
        cx: &Cx<'m, P>,
        layout: &mut Layout,
        range: PageRange,
        new: Option<NewVma>,
        delta: &Delta,
    ) -> Option<Going> {
        if layout.awaiting != 0 {
            return None;
        }
        let nodes = Nodes::new(cx, self.mm);
        let range = self.without_holes(&nodes, range, new.is_some())?;
        let spare = match new {
            Some(_) => Some(nodes.alloc().ok()?),
            None => None,
        };
        let Ok(areas) = self.cut_out(&nodes, range) else {
            if let Some(spare) = spare {
                nodes.free(spare);
            }
            return None;
        };
        for handle in self.node().vmas.overlapping(&nodes, range) {
            let vma = nodes.vma(handle);
            vma.write_mark(cx);
            vma.set_dying();
            if new.is_some() && !cfg!(mm_mutant = "replaced_is_gone") {
                vma.set_replaced();
            }
        }
        // What is counted later is only what depends on the neighbours then.
        self.count(&Delta { areas, ..*delta });
        layout.busy = layout.busy.saturating_add(1);
        Some(Going { range, new, spare })
    }

    /// Returns the range, less what lies outside of its areas if only those
    /// matter, or `None` where it has a hole.
    fn without_holes(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
        exact: bool,
    ) -> Option<PageRange> {
        let vmas = &self.node().vmas;
        let mut part = range;
        if !exact {
            let first = vmas.first_ending_above(nodes, range.start())?;
            let last = vmas.last_starting_below(nodes, range.end())?;
            let held = PageRange::new(nodes.vma(first).start(), nodes.vma(last).end());
            part = range.intersect(held);
        }
        vmas.first_hole(nodes, part).is_none().then_some(part)
    }

    /// Makes the areas of a range areas of that range alone; returns how many
    /// areas more there are.
    fn cut_out(&self, nodes: &Nodes<'_, 'm, P>, range: PageRange) -> Result<isize, OutOfMemory> {
        let vmas = &self.node().vmas;
        let cuts = |page: Vpn| {
            vmas.find(nodes, page)
                .is_some_and(|vma| nodes.vma(vma).start() < page)
        };
        if !cuts(range.start()) && !cuts(range.end()) {
            return Ok(0);
        }
        // No other area has the flag, so nothing is joined.
        let change = |area: &Shape| area.spec.flags | VmaFlags::GOING;
        let plan = Plan::modify(vmas, nodes, range, &change);
        let areas = plan.delta().areas;
        drop(Edit::reserve(vmas, nodes, plan)?.commit());
        Ok(areas)
    }

    /// Zaps what is going, and takes it out of the tree. The caller holds no
    /// lock.
    ///
    /// # Locks
    /// Takes table locks, then the space lock for writing; waits without it for
    /// who is busy beside the range.
    pub(super) fn finish(&self, cx: &Cx<'m, P>, going: Option<Going>) {
        if let Some(going) = going {
            self.zap_now(cx, going.range);
            self.take_out(cx, going);
        }
    }

    // Out of line, so that its edit is not part of its callers' frames.
    #[inline(never)]
    fn take_out(&self, cx: &Cx<'m, P>, going: Going) {
        let node = self.node();
        let nodes = Nodes::new(cx, self.mm);
        let mut spins = 0u32;
        let mut layout = loop {
            let layout = node.lock.write(cx, self.key());
            // An area beside it that is being protected can neither be joined
            // nor lose its mark. That verb waits for nobody: this one ends too.
            if self.is_settled_beside(cx, &layout, going.range) {
                break layout;
            }
            drop(layout);
            #[cfg(not(mm_mutant = "end_waits_deaf"))]
            cx.wait_turn(spins);
            spins = spins.saturating_add(1);
        };
        let plan = match going.new {
            Some(new) => Plan::replace(&node.vmas, &nodes, going.range, new),
            None => Plan::remove(&node.vmas, &nodes, going.range),
        };
        let areas = plan.delta().areas;
        let done = Edit::with_spare(&node.vmas, &nodes, plan, going.spare).commit();
        self.count(&Delta {
            areas,
            ..Delta::default()
        });
        drop(done);
        layout.busy = layout.busy.saturating_sub(1);
    }

    /// Ends a verb that left the areas of a range marked: faults enter again.
    ///
    /// # Locks
    /// Takes the space lock for writing.
    pub(super) fn unmark_busy(&self, cx: &Cx<'m, P>, range: PageRange) {
        let node = self.node();
        let nodes = Nodes::new(cx, self.mm);
        let mut layout = node.lock.write(cx, self.key());
        for handle in node.vmas.overlapping(&nodes, range) {
            nodes.vma(handle).unmark();
        }
        layout.busy = layout.busy.saturating_sub(1);
    }
}
