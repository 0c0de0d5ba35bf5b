//! `remap`: grow, shrink or move an area (mremap(2)).
//!
//! ```text
//! lock (write), nobody busy at the old or the new place
//!   │ shorter ───────────────────────────────► the tail is unmapped
//!   │ longer, and free behind it ────────────► a new area there, which joins
//!   ▼ elsewhere
//! plan both places ─► limits ─► reserve nodes and chains                        may fail
//!   ─► mark both places ─► make and keep the tables of the new place            may fail
//!   ─► zap what is replaced ─► put the new area there, marked                   cannot fail
//!   ─► lock the object's map, the family ─► move entries ─► flush ─► unlock
//!   ─► take the old area out ─► unmark
//! ```
//!
//! All of it under the space lock. What it rests on:
//!
//! | beside it | meets |
//! |---|---|
//! | a fault or a user copy, old or new place | a mark: it waits for the space lock, then finds the page at the new place, or no area (H8) |
//! | dropping pages | the same: it counts into the area, or takes the space lock |
//! | fork, unmap, protect, a listing | the space lock |
//! | truncation, writeback, a reverse walk | the object's map or the family, held for writing from before the first entry moves until the flush is done: it finds each page at the old place or at the new one (G1), and frees none that a CPU may still reach by the old one (F5, CVE-2018-18281) |
//! | hardware | an entry is taken by exchange: what it noted comes along (LOCKING rule 11) |
//!
//! Before that lock is taken such a walk finds the new area without entries and
//! the old one with all, afterwards the other way round: the new area is in the
//! trees from its commit on, the old one until its removal.
//!
//! The tables of the new place are made before the first change, and KEPT as
//! for a device: but only those to which an entry will move. No entry can come
//! after that, because the old place is marked before; some may go. Tables that
//! are left empty go through the gather, with a grace period.
//!
//! **Instruction caches.** Nothing is made visible anew: what a page holds is, or is
//! not, visible to fetches by its frame, whatever its address (`page::code`): an
//! entry without EXEC moves without it.
//!
//! **Offsets.** A page is found by its offset, so the new area has the old one's.
//! Anonymous memory that has no page of its own yet is not bound to any: it gets that of its
//! place, so that it can join its neighbours there.
//!
//! What Linux 6.12 does and we do otherwise: after an error, nothing has changed
//! (Linux may have unmapped the new place, or the tail of the old one). With
//! [`RemapFlags::DONT_UNMAP`] the pages that are left behind are not locked any
//! more, as there, but all others of their area are.

use super::busy::Writing;
use super::upkeep::Nodes;
use super::{AddressSpace, Layout, MapFlags, MapRequest};
use crate::addr::{VirtAddr, page_mask};
use crate::cx::Cx;
use crate::error::MmError;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::prot::Prot;
use crate::range::PageRange;
use crate::tlb::{MapFlush, TlbGather};
use crate::vma::{Delta, Edit, NewVma, Plan, Shape, Stock, Upkeep, Vma, VmaFlags, VmaSpec};
use bitflags::bitflags;

/// A move leaves room for so many areas more below the limit (Linux: move_vma).
const SPARE_AREAS: usize = 3;
/// As many areas a move to a given place may add by cutting first (Linux: mremap_to).
const CUT_AREAS: usize = 2;

bitflags! {
    /// How to remap; names and meaning are those of mremap(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RemapFlags: u32 {
        /// The area may be moved.
        const MAY_MOVE = 1;
        /// Exactly to the new address; what was there is unmapped. Needs `MAY_MOVE`.
        const FIXED = 1 << 1;
        /// The old area stays, without its pages; the new address is a hint
        /// unless it is `FIXED`. Needs `MAY_MOVE`, and the length stays as it is.
        const DONT_UNMAP = 1 << 2;
    }
}

/// The arguments, in pages.
#[derive(Clone, Copy)]
struct Asked {
    addr: VirtAddr,
    /// Empty when a shared area is to be mapped once more.
    old: PageRange,
    /// The new length, in pages and as it was given.
    pages: usize,
    len: usize,
    flags: RemapFlags,
    to: Option<VirtAddr>,
}

/// An area that moves.
#[derive(Clone, Copy)]
struct Move {
    /// The pages that move: all of one area.
    from: PageRange,
    /// The pages where no area is left: those, and what is cut off behind them.
    gone: PageRange,
    /// The new area.
    to: PageRange,
    left: Left,
}

/// What is left at the old place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The area, without pages.
    Area,
}

/// What is to be done.
enum Way {
    Stay,
    Shrink(PageRange),
    Grow(PageRange),
    Move(Move),
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Changes the length of a mapping, or its place, or both; its pages move along
    /// (mremap(2)). Returns where it is.
    ///
    /// `old_len` zero maps a shared area once more. `to` is looked at with
    /// [`RemapFlags::FIXED`] and [`RemapFlags::DONT_UNMAP`] only. Pages that a
    /// locked area gained are brought in by [`Self::populate`].
    ///
    /// # Errors
    /// `Invalid` for arguments that contradict each other, places that overlap, and an
    /// offset that has no number; `Fault` where there is no area, or the range is not all of
    /// one, or the area must not grow; `NoGap` when it can neither grow where it is nor be moved;
    /// `Limit`, `LockLimit`, `OutOfMemory`; `NotPermitted` for a sealed area, and below
    /// what users may map. Nothing has changed then.
    ///
    /// # Locks
    /// Takes the space lock for writing, then what [`Self::map`] takes.
    pub fn remap(
        &self,
        addr: VirtAddr,
        old_len: usize,
        new_len: usize,
        flags: RemapFlags,
        to: Option<VirtAddr>,
    ) -> Result<VirtAddr, MmError> {
        let asked = self.asked(addr, old_len, new_len, flags, to)?;
        let cx = self.mm.cx();
        let (mut layout, way) = self.write_remappable(&cx, &asked)?;
        match way {
            Way::Stay => Ok(addr),
            Way::Shrink(tail) => {
                let going = self.remove(&cx, &mut layout, tail)?;
                drop(layout);
                self.finish(&cx, going);
                Ok(addr)
            }
            Way::Grow(more) => {
                self.grow_in_place(&cx, &mut layout, more)?;
                Ok(addr)
            }
            Way::Move(go) => {
                self.move_area(&cx, &layout, &go)?;
                Ok(go.to.start().addr(self.shift()))
            }
        }
    }

    /// Checks what can be told from the arguments alone.
    fn asked(
        &self,
        addr: VirtAddr,
        old_len: usize,
        new_len: usize,
        flags: RemapFlags,
        to: Option<VirtAddr>,
    ) -> Result<Asked, MmError> {
        let moves = flags.contains(RemapFlags::MAY_MOVE);
        let needs_move = flags.intersects(RemapFlags::FIXED | RemapFlags::DONT_UNMAP);
        let resizes = flags.contains(RemapFlags::DONT_UNMAP) && old_len != new_len;
        let unknown = !RemapFlags::all().contains(flags);
        if unknown || (needs_move && !moves) || resizes || !addr.is_page_aligned(self.shift()) {
            return Err(MmError::Invalid(addr));
        }
        let mask = page_mask(self.shift());
        let pages = |len: usize| {
            let all = len.checked_add(mask).ok_or(MmError::Invalid(addr))?;
            Ok::<usize, MmError>(super::SpaceLimits::pages(all, self.shift()))
        };
        let (old, new) = (pages(old_len)?, pages(new_len)?);
        let old = PageRange::with_len(addr.vpn(self.shift()), old);
        match old {
            Some(old) if new > 0 => Ok(Asked {
                addr,
                old,
                pages: new,
                len: new_len,
                flags,
                to,
            }),
            _ => Err(MmError::Invalid(addr)),
        }
    }

    /// Takes the space lock for writing, and decides what to do: where nobody is
    /// busy.
    fn write_remappable<'c>(
        &self,
        cx: &'c Cx<'m, P>,
        asked: &Asked,
    ) -> Result<(Writing<'c, 'm, P>, Way), MmError> {
        // Also what it may grow over.
        let most = asked.pages.max(asked.old.pages());
        let start = asked.old.start();
        let around = PageRange::new(start, start.saturating_add(most));
        let mut spins = 0u32;
        loop {
            let layout = self.write_settled(cx, |_| around);
            let way = self.choose(cx, &layout, asked)?;
            match &way {
                Way::Move(go) if !self.is_settled(cx, &layout, go.to) => {}
                _ => return Ok((layout, way)),
            }
            drop(layout);
            #[cfg(not(mm_mutant = "move_waits_deaf"))]
            cx.wait_turn(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Decides what to do, in the order in which Linux finds its errors.
    // Out of line, so that its shapes are not part of the verb's frame.
    #[inline(never)]
    fn choose(&self, cx: &Cx<'m, P>, layout: &Layout, asked: &Asked) -> Result<Way, MmError> {
        let nodes = Nodes::new(cx, self.mm);
        let (old, pages) = (asked.old, asked.pages);
        let vmas = &self.node().vmas;
        let vma = vmas.find(&nodes, old.start()).map(|vma| nodes.vma(vma));
        let vma = vma.ok_or(MmError::Fault(asked.addr))?;
        if vma.flags().contains(VmaFlags::SEALED) {
            return Err(MmError::NotPermitted(asked.addr));
        }
        let given = RemapFlags::FIXED | RemapFlags::DONT_UNMAP;
        if asked.flags.intersects(given) {
            return self.choose_given(cx, layout, asked, vma).map(Way::Move);
        }
        let end = old.start().saturating_add(pages);
        if pages == old.pages() {
            return Ok(Way::Stay);
        }
        if pages < old.pages() {
            if old.end() > self.user_end() {
                return Err(MmError::Invalid(asked.addr));
            }
            return Ok(Way::Shrink(old.from(end)));
        }
        check_resize(asked, vma, old)?;
        let more = isize::try_from(pages.saturating_sub(old.pages())).unwrap_or(isize::MAX);
        self.check_limits(layout, &Delta::of_pages(vma.flags(), more))?;
        if old.end() == vma.end() {
            let more = PageRange::new(vma.end(), end);
            let free = vmas.overlapping(&nodes, more).next().is_none();
            if free && end <= self.user_end() {
                return Ok(Way::Grow(more));
            }
        }
        if !asked.flags.contains(RemapFlags::MAY_MOVE) {
            return Err(MmError::NoGap(asked.len));
        }
        self.check_areas(layout, 0)?;
        Ok(Way::Move(Move {
            from: old,
            gone: old,
            to: self.place_moved(cx, layout, asked, MapFlags::empty())?,
            left: Left::Nothing,
        }))
    }

    /// Decides for a move to a given place, or one that leaves the area behind.
    fn choose_given(
        &self,
        cx: &Cx<'m, P>,
        layout: &Layout,
        asked: &Asked,
        vma: &Vma,
    ) -> Result<Move, MmError> {
        let fixed = asked.flags.contains(RemapFlags::FIXED);
        let old = asked.old;
        if let (None, true) = (asked.to, fixed) {
            return Err(MmError::Invalid(asked.addr));
        }
        if let Some(to) = asked.to {
            let new = PageRange::with_len(to.vpn(self.shift()), asked.pages)
                .filter(|new| to.is_page_aligned(self.shift()) && new.end() <= self.user_end());
            let new = new.ok_or(MmError::Invalid(to))?;
            // Not by `overlaps`: an empty old range inside the new one counts too.
            if old.end() > new.start() && new.end() > old.start() {
                return Err(MmError::Invalid(to));
            }
            if fixed {
                self.check_unsealed(&Nodes::new(cx, self.mm), new)?;
                if new.contains(old.start()) {
                    // It would be unmapped before it is looked at.
                    return Err(MmError::Fault(asked.addr));
                }
            }
        }
        self.check_areas(layout, CUT_AREAS)?;
        let from = PageRange::new(
            old.start(),
            old.end().min(old.start().saturating_add(asked.pages)),
        );
        if from != old {
            if old.end() > self.user_end() {
                return Err(MmError::Invalid(asked.addr));
            }
            self.check_unsealed(&Nodes::new(cx, self.mm), old)?;
        }
        check_resize(asked, vma, from)?;
        let flags = if fixed {
            MapFlags::FIXED
        } else {
            MapFlags::empty()
        };
        let stays = asked.flags.contains(RemapFlags::DONT_UNMAP);
        Ok(Move {
            from,
            gone: old,
            to: self.place_moved(cx, layout, asked, flags)?,
            left: if stays { Left::Area } else { Left::Nothing },
        })
    }

    /// Chooses where the moved area goes.
    fn place_moved(
        &self,
        cx: &Cx<'m, P>,
        layout: &Layout,
        asked: &Asked,
        flags: MapFlags,
    ) -> Result<PageRange, MmError> {
        let given = asked
            .flags
            .intersects(RemapFlags::FIXED | RemapFlags::DONT_UNMAP);
        let request = MapRequest {
            addr: asked.to.filter(|_| given),
            ..MapRequest::anonymous(asked.len, Prot::NONE).with(flags)
        };
        self.place(cx, layout, &request, asked.pages)
    }

    /// Refuses a move when only few areas more are allowed.
    fn check_areas(&self, layout: &Layout, more: usize) -> Result<(), MmError> {
        let have = self.node().counts.areas.get().saturating_add(more);
        if have >= layout.limits.areas.saturating_sub(SPARE_AREAS) {
            return Err(MmError::Limit);
        }
        Ok(())
    }

    /// Lets the area that ends where `more` begins grow over it.
    fn grow_in_place(
        &self,
        cx: &Cx<'m, P>,
        layout: &mut Layout,
        more: PageRange,
    ) -> Result<(), MmError> {
        let nodes = Nodes::new(cx, self.mm);
        let vmas = &self.node().vmas;
        let Some(like) = vmas.last_starting_below(&nodes, more.start()) else {
            return Err(MmError::Fault(more.start().addr(self.shift())));
        };
        let vma = nodes.vma(like);
        let spec = VmaSpec {
            pgoff: vma.pgoff_of(more.start()),
            ..vma.spec()
        };
        let new = NewVma {
            spec,
            like: Some(like),
        };
        let going = self.insert(cx, layout, more, new)?;
        debug_assert!(going.is_none(), "an area grows into free pages");
        Ok(())
    }

    /// Moves an area: see the module.
    // Out of line, so that its edit is not part of the verb's frame.
    #[inline(never)]
    fn move_area(&self, cx: &Cx<'m, P>, layout: &Layout, go: &Move) -> Result<(), MmError> {
        let node = self.node();
        let nodes = Nodes::new(cx, self.mm);
        let Some(like) = self.find_source(&nodes, go) else {
            return Err(MmError::Fault(go.gone.start().addr(self.shift())));
        };
        let new = NewVma {
            spec: moved_spec(nodes.vma(like), go),
            like: Some(like),
        };
        let plan = Plan::replace(&node.vmas, &nodes, go.to, new);
        let delta = plan.delta();
        self.check_limits(
            layout,
            &Delta {
                // Looked at before.
                areas: 0,
                ..delta.plus(self.departure(&nodes, go))
            },
        )?;
        let (spare, chains) = needs(nodes.vma(like), go);
        let stock = Stock::reserve(&nodes, spare, chains)?;
        let replaces = plan.removed_pages() > 0;
        let mut edit = Edit::reserve(&node.vmas, &nodes, plan)?;
        if !cfg!(mm_mutant = "moved_without_mark") {
            self.mark_source(cx, &nodes, go.gone);
        }
        edit.mark();
        if let Err(error) = self.keep_targets(cx, go) {
            drop(edit);
            self.unmark_source(&nodes, go.gone);
            return Err(error);
        }
        if replaces {
            self.zap_now(cx, go.to);
        }
        let cut = go.gone.from(go.from.end());
        if !cut.is_empty() {
            self.zap_now(cx, cut);
        }
        let done = edit.commit();
        self.count(&delta);
        self.move_pages(cx, &nodes, go);
        self.depart(&nodes, go, stock);
        // Together with the old place: it may lie right beside.
        drop(done);
        Ok(())
    }

    fn find_source(&self, nodes: &Nodes<'_, 'm, P>, go: &Move) -> Option<Handle<Vma>> {
        self.node().vmas.find(nodes, go.gone.start())
    }

    /// Returns how the counts change at the old place; that of areas aside.
    // Out of line, so that its plan is not in one frame with the edit's.
    #[inline(never)]
    fn departure(&self, nodes: &Nodes<'_, 'm, P>, go: &Move) -> Delta {
        let vmas = &self.node().vmas;
        match go.left {
            Left::Nothing => Plan::remove(vmas, nodes, go.gone).delta(),
            Left::Area => Plan::modify(vmas, nodes, go.from, &unlocked).delta(),
        }
    }

    fn mark_source(&self, cx: &Cx<'m, P>, nodes: &Nodes<'_, 'm, P>, range: PageRange) {
        for vma in self.node().vmas.overlapping(nodes, range) {
            nodes.vma(vma).write_mark(cx);
        }
    }

    fn unmark_source(&self, nodes: &Nodes<'_, 'm, P>, range: PageRange) {
        for vma in self.node().vmas.overlapping(nodes, range) {
            let vma = nodes.vma(vma);
            // An edit beside it may have done it.
            if vma.is_marked() {
                vma.unmark();
            }
        }
    }

    /// Makes and keeps the tables that entries will move to.
    // Out of line, so that its locals are not in one frame with the edit.
    #[inline(never)]
    fn keep_targets(&self, cx: &Cx<'m, P>, go: &Move) -> Result<(), MmError> {
        let table = self.table(cx);
        let kept = table.each_target(go.from, go.to.start(), |page| {
            let leaf = table.lock_leaf_or_create(page, &self.node().tlb)?;
            leaf.record().keep();
            Ok::<(), MmError>(())
        });
        if kept.is_err() {
            self.keep_no_longer(cx, go.to);
        }
        kept
    }

    /// Moves the entries, where no reverse walk looks meanwhile.
    // Out of line, so that its gather is not in one frame with the edit.
    #[inline(never)]
    fn move_pages(&self, cx: &Cx<'m, P>, nodes: &Nodes<'_, 'm, P>, go: &Move) {
        let Some(from) = self.find_source(nodes, go).filter(|_| !go.from.is_empty()) else {
            return;
        };
        let node = self.node();
        let vma = nodes.vma(from);
        let (object, anon) = (vma.object_raw(), vma.anon_raw());
        #[cfg(mm_mutant = "moved_without_rmap_lock")]
        let (object, anon) = (0, 0);
        let locked = nodes.lock(object, anon);
        let mut gather = TlbGather::new(cx, &node.tlb);
        let owed: MapFlush = self
            .table(cx)
            .move_entries(go.from, go.to.start(), &mut gather);
        #[cfg(mm_mutant = "moved_without_waiting_for_flush")]
        drop(locked);
        self.released(gather.finish());
        #[cfg(not(mm_mutant = "moved_without_waiting_for_flush"))]
        drop(locked);
        owed.settle(cx, &node.tlb);
        let end = go.to.start().saturating_add(go.from.pages());
        self.keep_no_longer(cx, PageRange::new(go.to.start(), end));
    }

    /// Takes the old area out, or leaves it there without pages; unmarks what is
    /// left of it.
    // Out of line, so that its edit is not in one frame with the new area's.
    #[inline(never)]
    fn depart<'a, 'c>(
        &'a self,
        nodes: &'a Nodes<'c, 'm, P>,
        go: &Move,
        stock: Stock<'a, Nodes<'c, 'm, P>>,
    ) {
        let vmas = &self.node().vmas;
        // Planned only now: the new area may have become one with the old.
        let plan = match go.left {
            Left::Nothing if go.gone.is_empty() => return,
            Left::Nothing => Plan::remove(vmas, nodes, go.gone),
            Left::Area => Plan::modify(vmas, nodes, go.from, &unlocked),
        };
        let delta = plan.delta();
        let done = Edit::with_stock(vmas, nodes, plan, stock).commit();
        self.count(&delta);
        if go.left == Left::Area {
            self.forget_family(nodes, go.from);
        }
        drop(done);
    }

    /// Takes an area whose pages have all moved away out of its family: it is as
    /// one that was never touched.
    fn forget_family(&self, nodes: &Nodes<'_, 'm, P>, from: PageRange) {
        let left = self.node().vmas.find(nodes, from.start());
        if let Some(left) = left.filter(|&left| nodes.vma(left).range() == from) {
            nodes.chains_drop(left);
        }
    }
}

/// Refuses to resize an area that must not be, and to move what is no area.
fn check_resize(asked: &Asked, vma: &Vma, from: PageRange) -> Result<(), MmError> {
    let (flags, invalid) = (vma.flags(), Err(MmError::Invalid(asked.addr)));
    let fixed_size = flags.intersects(VmaFlags::DONT_EXPAND | VmaFlags::PFN_MAP);
    if from.is_empty() && !flags.contains(VmaFlags::SHARED) {
        return invalid;
    }
    if asked.flags.contains(RemapFlags::DONT_UNMAP) && fixed_size {
        return invalid;
    }
    if from.end() > vma.end() {
        return Err(MmError::Fault(asked.addr));
    }
    if asked.pages == from.pages() {
        return Ok(());
    }
    if vma
        .pgoff_of(from.start())
        .checked_add(asked.pages)
        .is_none()
    {
        return invalid;
    }
    if fixed_size {
        return Err(MmError::Fault(asked.addr));
    }
    Ok(())
}

/// Returns what the new area maps.
fn moved_spec(vma: &Vma, go: &Move) -> VmaSpec {
    let spec = vma.spec();
    let anonymous = spec.object == 0 && !spec.flags.contains(VmaFlags::PFN_MAP);
    let pgoff = if anonymous && vma.anon_raw() == 0 {
        go.to.start().as_usize()
    } else {
        vma.pgoff_of(go.gone.start())
    };
    VmaSpec { pgoff, ..spec }
}

/// Returns the nodes and chains that the old place may need.
fn needs(vma: &Vma, go: &Move) -> (u32, u32) {
    // With the new area it may become one that has a chain.
    let chains = vma.chain_count().max(1);
    let whole = go.gone.covers(vma.range());
    match go.left {
        Left::Nothing if whole || go.gone.is_empty() => (0, 0),
        Left::Nothing => (1, chains),
        Left::Area if vma.flags().intersects(VmaFlags::ANY_LOCK) => (2, chains.saturating_mul(2)),
        Left::Area => (0, 0),
    }
}

/// Returns the flags of what is left behind without pages.
fn unlocked(area: &Shape) -> VmaFlags {
    area.spec.flags.difference(VmaFlags::ANY_LOCK)
}
