//! `map`: put an area somewhere (mmap(2)).
//!
//! ```text
//! check arguments ─► lock (write) ─► place ─► plan ─► limits ─► reserve     may fail
//!      ─► mark ─► zap what was there ─► flush ─► commit ─► count             cannot fail
//! ```
//!
//! What was there is zapped without the space lock where that is possible
//! ([`super::busy`]).
//!
//! Everything that can fail comes before the first change, also for `FIXED`
//! over existing areas (C2).

use super::busy::{Going, Writing};
use super::upkeep::Nodes;
use super::{AddressSpace, Backing, Layout, MapFlags, MapRequest};
use crate::addr::{Pfn, VirtAddr, Vpn};
use crate::cx::Cx;
use crate::error::MmError;
use crate::format::{AttrFlags, Attrs, NonPresent, PageTableFormat};
use crate::object::PagerFacts;
use crate::platform::Platform;
use crate::prot::{MemType, Prot};
use crate::range::PageRange;
use crate::table::LeafGuard;
use crate::tlb::{MapFlush, TlbGather};
use crate::tree::{Direction, GapRequest};
use crate::vma::{Edit, NewVma, Plan, VmaFlags, VmaSpec};

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Maps an area and returns its address (mmap(2)).
    ///
    /// Nothing is read or allocated for its pages: they come on first touch.
    /// For `MAP_POPULATE` and locked areas call [`Self::populate`] next.
    ///
    /// # Errors
    /// As mmap(2), see [`MmError::errno`]; `NotPermitted` for `FIXED` over a sealed area, and for
    /// `LOCKED` where nothing may be locked. Nothing has changed then, also with `FIXED`.
    ///
    /// # Locks
    /// Takes the space lock for writing, then VMA marks, the object's and the
    /// anon_vmas' locks, table locks.
    pub fn map(&self, request: &MapRequest<'_, 'm, P>) -> Result<VirtAddr, MmError> {
        let cx = self.mm.cx();
        let pages = self.check_length(request.len)?;
        // Shared anonymous memory is an object that no file stands behind.
        let own;
        let (object, spec) = match &request.backing {
            Backing::Anonymous if request.flags.contains(MapFlags::SHARED) => {
                if !request.flags.contains(MapFlags::NO_RESERVE) {
                    // The areas of an object do not count, whoever makes its pages.
                    self.check_commit(pages)?;
                }
                own = self.mm.new_object(PagerFacts::memory(
                    (pages as u64).wrapping_shl(self.shift()),
                ))?;
                (
                    Some(&own),
                    self.spec(request, 0, own.handle().into_raw(), MemType::WriteBack)?,
                )
            }
            Backing::Anonymous => (None, self.spec(request, 0, 0, MemType::WriteBack)?),
            Backing::Object { object, offset } => {
                let pgoff = object_pgoff(*offset, pages, self.shift())?;
                (
                    Some(*object),
                    self.spec(
                        request,
                        pgoff,
                        object.handle().into_raw(),
                        MemType::WriteBack,
                    )?,
                )
            }
            Backing::Device { pfn, mem } => {
                let first = usize::try_from(pfn.as_u64()).map_err(|_| MmError::NotSupported)?;
                (None, self.spec(request, first, 0, *mem)?)
            }
        };
        let (mut layout, range) = self.write_placed(&cx, request, pages)?;
        let anonymous = object.is_none() && !spec.flags.contains(VmaFlags::PFN_MAP);
        let pgoff = if anonymous {
            range.start().as_usize()
        } else {
            spec.pgoff
        };
        if request.flags.contains(MapFlags::LOCKED) {
            self.check_may_lock(&layout, range.start().addr(self.shift()))?;
        }
        let flags = layout.new_area(spec.flags);
        let new = NewVma {
            spec: VmaSpec {
                pgoff,
                flags,
                ..spec
            },
            like: None,
        };
        let going = self.insert(&cx, &mut layout, range, new)?;
        drop(layout);
        self.finish(&cx, going);
        Ok(range.start().addr(self.shift()))
    }

    /// Takes the space lock for writing, and chooses where the area goes: where
    /// nobody is busy.
    fn write_placed<'c>(
        &self,
        cx: &'c Cx<'m, P>,
        request: &MapRequest<'_, 'm, P>,
        pages: usize,
    ) -> Result<(Writing<'c, 'm, P>, PageRange), MmError> {
        let exact = request
            .flags
            .intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
        let fixed = request.addr.filter(|_| exact);
        let fixed = fixed.and_then(|addr| PageRange::with_len(addr.vpn(self.shift()), pages));
        let wanted = fixed.unwrap_or(PageRange::new(Vpn::new(0), Vpn::new(0)));
        let mut spins = 0u32;
        loop {
            let layout = self.write_settled(cx, |_| wanted);
            let range = self.place(cx, &layout, request, pages)?;
            if self.is_settled(cx, &layout, range) {
                return Ok((layout, range));
            }
            drop(layout);
            #[cfg(not(mm_mutant = "map_waits_deaf"))]
            cx.wait_turn(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Puts an area over a range, in place of what is there; or lets that die:
    /// then the caller ends it ([`Self::finish`]) once the lock is released.
    /// Shared by map, brk and stack growth.
    // Out of line, so that its edit is not part of its callers' frames.
    #[inline(never)]
    pub(super) fn insert(
        &self,
        cx: &Cx<'m, P>,
        layout: &mut Layout,
        range: PageRange,
        new: NewVma,
    ) -> Result<Option<Going>, MmError> {
        let node = self.node();
        let nodes = Nodes::new(cx, self.mm);
        let plan = Plan::replace(&node.vmas, &nodes, range, new);
        self.check_unsealed(&nodes, range)?;
        self.check_limits(layout, &plan.delta())?;
        let removed = plan.removed_pages();
        let delta = plan.delta();
        let device = new.spec.flags.contains(VmaFlags::PFN_MAP);
        if removed > 0 && !device {
            let going = self.begin(cx, layout, range, Some(new), &delta);
            if going.is_some() {
                return Ok(going);
            }
        }
        if device {
            self.check_device(cx, &new.spec, range.pages())?;
        }
        let mut edit = Edit::reserve(&node.vmas, &nodes, plan)?;
        if device {
            self.keep_tables(cx, range)?;
        }
        edit.mark();
        if removed > 0 {
            self.zap_now(cx, range);
        }
        if device {
            self.enter_device(cx, range, &new.spec);
        }
        let done = edit.commit();
        self.count(&delta);
        drop(done);
        Ok(None)
    }

    fn check_length(&self, len: usize) -> Result<usize, MmError> {
        if len == 0 {
            return Err(MmError::Invalid(VirtAddr::new(0)));
        }
        let pages = PageRange::from_bytes(VirtAddr::new(0), len, self.shift())
            .map_or(usize::MAX, PageRange::pages);
        if pages > self.user_end().as_usize() {
            return Err(MmError::NoGap(len));
        }
        Ok(pages)
    }

    fn spec(
        &self,
        request: &MapRequest<'_, 'm, P>,
        pgoff: usize,
        object: u32,
        mem: MemType,
    ) -> Result<VmaSpec, MmError> {
        let max = max_prot(request)?;
        let mut flags = VmaFlags::from_prot(request.prot) | VmaFlags::from_may(max);
        for (asked, flag) in [
            (MapFlags::SHARED, VmaFlags::SHARED),
            (MapFlags::GROWS_DOWN, VmaFlags::GROWS_DOWN),
            (MapFlags::NO_RESERVE, VmaFlags::NO_RESERVE),
            (MapFlags::LOCKED, VmaFlags::LOCKED),
        ] {
            flags.set(flag, request.flags.contains(asked));
        }
        if matches!(request.backing, Backing::Device { .. }) {
            flags |= VmaFlags::PFN_MAP | VmaFlags::IO | VmaFlags::DONT_EXPAND;
        }
        let own =
            matches!(request.backing, Backing::Anonymous) && !flags.contains(VmaFlags::SHARED);
        if flags.contains(VmaFlags::GROWS_DOWN) && !own {
            return Err(MmError::Invalid(request.addr.unwrap_or_default()));
        }
        flags.set(VmaFlags::ACCOUNT, flags.is_accountable());
        Ok(VmaSpec {
            flags,
            pgoff,
            object,
            hook: 0,
            mem,
        })
    }

    /// Chooses where the area goes.
    pub(super) fn place(
        &self,
        cx: &Cx<'m, P>,
        layout: &Layout,
        request: &MapRequest<'_, 'm, P>,
        pages: usize,
    ) -> Result<PageRange, MmError> {
        let nodes = Nodes::new(cx, self.mm);
        let user = self.user_range(&layout.limits);
        let vmas = &self.node().vmas;
        let exact = request
            .flags
            .intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
        let end = request.below.filter(|_| !exact);
        let end = end.map_or(user.end(), |end| end.vpn(self.shift()).min(user.end()));
        let lowest = user.start().addr(self.shift());
        // A hint below what users may map means as low as possible.
        let hint = |addr: VirtAddr| if exact { addr } else { addr.max(lowest) };
        // One within page 0 is none (Linux: round_hint_to_min, after rounding down).
        let is_hint = |addr: &VirtAddr| addr.vpn(self.shift()) != Vpn::new(0);
        let wanted = request.addr.filter(|addr| exact || is_hint(addr));
        if let Some(addr) = wanted.map(hint) {
            if exact && !addr.is_page_aligned(self.shift()) {
                return Err(MmError::Invalid(addr));
            }
            let range = PageRange::with_len(addr.vpn(self.shift()), pages);
            let inside = range.filter(|r| r.end() <= end);
            match (inside, exact) {
                (Some(range), true) => {
                    if range.start() < user.start() {
                        return Err(MmError::NotPermitted(addr));
                    }
                    let noreplace = request.flags.contains(MapFlags::FIXED_NOREPLACE);
                    if noreplace && vmas.overlapping(&nodes, range).next().is_some() {
                        return Err(MmError::Exists(addr));
                    }
                    return Ok(range);
                }
                (None, true) => return Err(MmError::OutOfRange(addr)),
                (Some(range), false)
                    if range.start() >= user.start() && vmas.is_free(&nodes, range) =>
                {
                    return Ok(range);
                }
                _ => {}
            }
        } else if exact {
            return Err(MmError::Invalid(VirtAddr::new(0)));
        }
        let base = layout.limits.mmap_base.vpn(self.shift());
        let grows = request.flags.contains(MapFlags::GROWS_DOWN);
        let below = GapRequest {
            low: user.start().as_usize(),
            high: base.min(end).as_usize(),
            guard: if grows { self.stack_guard(layout) } else { 0 },
            direction: Direction::Highest,
            ..GapRequest::new(pages)
        };
        let high = end.as_usize();
        let anywhere = GapRequest {
            high,
            direction: Direction::Lowest,
            ..below
        };
        let first = if request.flags.contains(MapFlags::BOTTOM_UP) {
            anywhere
        } else {
            below
        };
        vmas.find_gap(&nodes, &first)
            .or_else(|| vmas.find_gap(&nodes, &anywhere))
            .and_then(|start| PageRange::with_len(start, pages))
            .ok_or(MmError::NoGap(request.len))
    }

    /// Makes the tables of a range and keeps them, also while what they map is zapped:
    /// so nothing can fail once that has begun. [`Self::enter_device`] ends it.
    // Out of line, so that its gather is not part of its callers' frames.
    #[inline(never)]
    fn keep_tables(&self, cx: &Cx<'m, P>, range: PageRange) -> Result<(), MmError> {
        let table = self.table(cx);
        let mut at = range.start();
        while at < range.end() {
            match table.lock_leaf_or_create(at, &self.node().tlb) {
                Ok(leaf) => {
                    leaf.record().keep();
                    at = leaf.range().end();
                }
                Err(error) => {
                    self.keep_no_longer(cx, PageRange::new(range.start(), at));
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Ends the keeping of the tables of a range, and unlinks those that are empty.
    // Out of line, so that its gather is not part of its callers' frames.
    #[inline(never)]
    pub(super) fn keep_no_longer(&self, cx: &Cx<'m, P>, range: PageRange) {
        let table = self.table(cx);
        let mut empty = 0usize;
        let mut kept = range;
        while let Some(leaf) = table.next_leaf(kept) {
            leaf.record().keep_no_longer();
            empty = empty.saturating_add(usize::from(leaf.live() == 0));
            kept = kept.from(leaf.range().end());
        }
        if empty > 0 {
            let mut gather = TlbGather::new(cx, &self.node().tlb);
            table.prune(range, &mut gather);
            self.released(gather.finish());
        }
    }

    /// Refuses a device whose frames have no entries: after the last frame that
    /// a format can name would come the first.
    fn check_device(&self, cx: &Cx<'m, P>, spec: &VmaSpec, pages: usize) -> Result<(), MmError> {
        let last = spec.pgoff.checked_add(pages.saturating_sub(1));
        let last = Pfn::new(last.ok_or(MmError::NotSupported)? as u64);
        let mut attrs = device_attrs(spec);
        if attrs.prot.is_empty() {
            // As it will be when it is allowed something.
            attrs.prot = Prot::READ;
        }
        let word = cx.format().encode_leaf(last, attrs, 1);
        word.map(drop).map_err(|_| MmError::NotSupported)
    }

    /// Enters the frames of a device into tables that were kept for them.
    // Out of line: few mappings are of devices.
    #[inline(never)]
    fn enter_device(&self, cx: &Cx<'m, P>, range: PageRange, spec: &VmaSpec) {
        let attrs = device_attrs(spec);
        let mut pfn = Pfn::new(spec.pgoff as u64);
        if attrs.prot.contains(Prot::EXEC) {
            // Nobody counts these frames: whatever is there now. What has no record
            // may be no RAM, which the platform could not reach.
            let frames = (0..range.pages() as u64).map(|nth| pfn.saturating_add(nth));
            for ram in frames.filter(|&frame| cx.frames().page(frame).is_some()) {
                cx.platform().sync_code(ram);
            }
        }
        let table = self.table(cx);
        let mut owed = MapFlush::NONE;
        let mut left = range;
        while let Some(leaf) = table.next_leaf(left) {
            let part = leaf.range().intersect(left);
            debug_assert_eq!(part.start(), left.start(), "the table was kept");
            leaf.record().keep_no_longer();
            let entered = enter_frames(cx.format(), &leaf, part, pfn, attrs);
            debug_assert_eq!(entered, part.pages(), "the frames fit, the range is empty");
            owed = owed.join(leaf.map_flush(part));
            pfn = pfn.saturating_add(part.pages() as u64);
            left = left.from(part.end());
        }
        debug_assert!(left.is_empty(), "the tables were kept");
        owed.settle(cx, &self.node().tlb);
    }

    pub(super) fn stack_guard(&self, layout: &Layout) -> usize {
        super::SpaceLimits::pages(layout.limits.stack_guard, self.shift())
    }
}

/// Returns how the frames of a device are entered: writable at once also where
/// the area is private, as nobody can copy them.
fn device_attrs(spec: &VmaSpec) -> Attrs {
    Attrs::user(spec.flags.writable_page_prot())
        .with(AttrFlags::SPECIAL | AttrFlags::ACCESSED | AttrFlags::DIRTY)
        .with_mem(spec.mem)
}

/// Enters frames from `first` on into one table, those that may not be accessed
/// as `PROT_NONE` entries; returns how many.
fn enter_frames<P: Platform>(
    format: P::Format,
    leaf: &LeafGuard<'_, '_, P>,
    part: PageRange,
    first: Pfn,
    attrs: Attrs,
) -> usize {
    if !attrs.prot.is_empty() {
        let word = format.encode_leaf(first, attrs, 1);
        return word.map_or(0, |word| leaf.install_run(part.start(), part.pages(), word));
    }
    let frames = (0..part.pages() as u64).map(|nth| first.saturating_add(nth));
    let words = frames
        .map(|pfn| format.encode_nonpresent(NonPresent::prot_none(pfn, attrs.flags)))
        .map_while(Result::ok);
    let entered = part.iter().zip(words).map(|(page, word)| {
        let _hardware_sees_nothing = leaf.install(page, word);
    });
    entered.count()
}

/// Returns the rights that the mapping may ever get: what is asked for, as far
/// as the object allows. Stores to a private mapping never reach the object,
/// but every mapping reads it.
fn max_prot<P: Platform>(request: &MapRequest<'_, '_, P>) -> Result<Prot, MmError> {
    let mut max = request.max_prot;
    let mut readable = true;
    if let Backing::Object { object, .. } = &request.backing {
        let mut rights = object.object().rights();
        readable = rights.contains(Prot::READ);
        if !request.flags.contains(MapFlags::SHARED) {
            rights |= Prot::WRITE;
        }
        max &= rights;
    }
    if readable && max.contains(request.prot) {
        Ok(max)
    } else {
        Err(MmError::Denied(request.addr.unwrap_or_default()))
    }
}

/// Turns a byte offset into pages of the object.
pub(super) fn object_pgoff(offset: u64, pages: usize, shift: u32) -> Result<usize, MmError> {
    let mask = 1u64.wrapping_shl(shift).wrapping_sub(1);
    if offset & mask != 0 {
        return Err(MmError::Invalid(VirtAddr::new(0)));
    }
    // File offsets are signed 64-bit numbers (`MAX_LFS_FILESIZE`).
    let bytes = (pages as u64).checked_mul(mask.wrapping_add(1));
    let last = bytes.and_then(|len| (i64::MAX as u64).checked_sub(len));
    if last.is_none_or(|last| offset > last) {
        return Err(MmError::TooBig);
    }
    let first = usize::try_from(offset.wrapping_shr(shift)).map_err(|_| MmError::TooBig)?;
    first
        .checked_add(pages)
        .map(|_| first)
        .ok_or(MmError::TooBig)
}
