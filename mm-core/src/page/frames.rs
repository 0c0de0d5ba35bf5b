//! The frames of a machine: records, allocator, epochs, zero page.
//!
//! A frame is in one state at a time, told by its record's [`Kind`]:
//!
//! ```text
//! Absent ── add_region ──► Free ── alloc ──► Kernel ── the caller's reset/init ──► Table, Slab, User
//!                            ▲                                                          │
//!                            └────────────────────────── free ──────────────────────────┘
//! ```
//!
//! An allocated frame has one reference, its owner's. [`Frames::free`] gives
//! one up, and whoever gives up the last one frees: a finder without a lock
//! may hold one for a moment on a frame that was freed and used anew, so every
//! holder ends the same way. What free means in detail is `front`'s.

use super::buddy::{Buddy, FreeError, MAX_ORDER, Records, frames, number};
use super::cpu::{CpuNode, CpuNodes};
use super::epoch::Epochs;
use super::map::{PageMap, RegionError};
use super::record::{Kind, Page};
use super::zone::{Bounds, Zones, zone_of};
use crate::addr::Pfn;
use crate::error::OutOfMemory;
use crate::format::PageTableFormat;
use crate::platform::{PhysMemory, Platform};
use crate::sync::{AtomicU32, Class, Context, Fixed32, Mutex, Ordering, Tally};

/// The frames of one machine, beside the platform that reaches them.
#[derive(Debug)]
pub struct Frames<P: Platform> {
    platform: P,
    map: PageMap,
    pub(super) buddy: Mutex<Buddy>,
    /// Held while a region is added; orders growth of the map.
    pub(super) growth: Mutex<()>,
    pub(super) epochs: Epochs,
    zero: AtomicU32,
    kernel_root: AtomicU32,
    /// The highest group of zones, as bits: what CPUs' caches hold.
    common: Fixed32,
    /// What each CPU keeps for itself.
    pub(super) cpus: CpuNodes,
    total: Tally,
    /// Frames that were given to the allocator when regions were added.
    added: Tally,
    /// Frames handed out less those that came back, by way of no CPU's cache;
    /// wraps. So do the next two.
    used: Tally,
    allocations: Tally,
    frees: Tally,
    refused: Tally,
}

/// Numbers about the frames of a machine, in frames unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameStats {
    /// All frames of all regions, page records included.
    pub total: usize,
    /// Free frames.
    pub free: usize,
    /// Blocks handed out since boot; wraps.
    pub allocations: usize,
    /// Blocks that came back since boot; wraps.
    pub frees: usize,
    /// Requests that were refused since boot; wraps.
    pub refused: usize,
}

impl<P: Platform> Frames<P> {
    #[cfg(not(loom))]
    /// Makes a machine without frames.
    pub const fn new(platform: P) -> Self {
        Self {
            platform,
            map: PageMap::new(),
            buddy: Mutex::new(Class::Buddy, Buddy::new()),
            growth: Mutex::new(Class::Pool, ()),
            epochs: Epochs::new(),
            zero: AtomicU32::new(0),
            kernel_root: AtomicU32::new(0),
            common: Fixed32::new(Zones::ALL.0),
            cpus: CpuNodes::new(),
            total: Tally::new(0),
            added: Tally::new(0),
            used: Tally::new(0),
            allocations: Tally::new(0),
            frees: Tally::new(0),
            refused: Tally::new(0),
        }
    }

    #[cfg(loom)]
    /// Makes a machine without frames.
    pub fn new(platform: P) -> Self {
        Self {
            platform,
            map: PageMap::new(),
            buddy: Mutex::new(Class::Buddy, Buddy::new()),
            growth: Mutex::new(Class::Pool, ()),
            epochs: Epochs::new(),
            zero: AtomicU32::new(0),
            kernel_root: AtomicU32::new(0),
            common: Fixed32::new(Zones::ALL.0),
            cpus: CpuNodes::new(),
            total: Tally::new(0),
            added: Tally::new(0),
            used: Tally::new(0),
            allocations: Tally::new(0),
            frees: Tally::new(0),
            refused: Tally::new(0),
        }
    }

    /// Returns the platform.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Returns log2 of the page size in bytes.
    pub fn page_shift(&self) -> u32 {
        self.platform.format().page_shift()
    }

    /// Returns the way to reach frames.
    pub fn memory(&self) -> &P::Memory {
        self.platform.memory()
    }

    /// Gives the machine a region of RAM: `count` frames from `start`. Their
    /// records (one frame in 128 at 4 KiB) come out of the region itself; frame
    /// 0 is left out, because zero names no frame. Returns how many frames at the
    /// end were left out too, because the format's leaves cannot name them (32-bit
    /// formats) or the 32 bits of the family's own links: nobody could use them.
    ///
    /// # Errors
    /// [`RegionError`], with nothing changed; [`RegionError::TooHigh`] where not
    /// even the first frame can be named.
    ///
    /// # Locks
    /// Takes `(Pool, MAX)` for as long as records are made, and `Buddy`: for
    /// boot and for memory that is plugged in, not for a hot path.
    pub fn add_region(
        &self,
        cx: &impl Context,
        start: Pfn,
        count: u64,
    ) -> Result<u64, RegionError> {
        let format = self.platform.format();
        // The last number of all is that of no node, so it is no frame's either.
        let reach = format.leaf_reach().min(Pfn::new(u64::from(u32::MAX)));
        let asked = start.checked_add(count).ok_or(RegionError::TooHigh)?;
        if start >= reach {
            return Err(RegionError::TooHigh);
        }
        let end = asked.min(reach);
        let start = start.max(Pfn::new(1));
        let growth = self.growth.lock(cx, u32::MAX);
        let rest = self
            .map
            .extend(self.memory(), self.page_shift(), start, end)?;
        for pfn in (start.as_u64()..end.as_u64()).map(Pfn::new) {
            if let Some(page) = self.record(pfn) {
                let kind = if pfn < rest {
                    Kind::Reserved
                } else {
                    Kind::FreeTail
                };
                page.reset(kind, 0);
                page.set_refs(u32::from(pfn < rest));
            }
        }
        let bounds = Bounds::of(format);
        self.buddy.lock(cx, 0).set_bounds(bounds);
        let highest = number(end).saturating_sub(1);
        let group = bounds.group_from(zone_of(highest));
        let common = self.common_zones().and(group);
        self.common.store(common.0, Ordering::Relaxed);
        let mut pfn = rest;
        while pfn < end {
            let order = largest_block(pfn, end);
            self.memory().freed(pfn, order);
            self.buddy.lock(cx, 0).give(self, pfn, order);
            self.added
                .fetch_add(usize_of(frames(order)), Ordering::Relaxed);
            pfn = pfn.saturating_add(frames(order));
        }
        drop(growth);
        self.total.fetch_add(
            usize_of(end.as_u64().saturating_sub(start.as_u64())),
            Ordering::Relaxed,
        );
        Ok(asked.as_u64().saturating_sub(end.as_u64()))
    }

    /// Returns the record of a frame, in O(1); `None` where the frame is not
    /// RAM of the family.
    #[inline]
    pub fn page(&self, pfn: Pfn) -> Option<&Page> {
        self.record(pfn).filter(|page| page.kind() != Kind::Absent)
    }

    /// Allocates `1 << order` frames, aligned to their size. The record of the
    /// first says `Kernel` and has one reference; the contents are undefined.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no such block or the platform refuses.
    ///
    /// # Locks
    /// Takes `FrameCache` or `Buddy`.
    pub fn alloc(&self, cx: &impl Context, order: u8) -> Result<Pfn, OutOfMemory> {
        self.alloc_in(cx, order, Zones::ALL)
    }

    /// Allocates as [`Self::alloc`] does, but only frames below `below`, rounded down
    /// to a power of two: for who has no bits for higher numbers (the entries of
    /// tables, handles, a device). Such a block is found as long as there is one.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no such block or the platform refuses.
    ///
    /// # Locks
    /// Takes `FrameCache` or `Buddy`.
    ///
    /// Source: zones as in Linux, `Documentation/mm/physical_memory.rst`.
    pub fn alloc_below(
        &self,
        cx: &impl Context,
        order: u8,
        below: Pfn,
    ) -> Result<Pfn, OutOfMemory> {
        self.alloc_in(cx, order, Zones::below(below))
    }

    fn alloc_in(&self, cx: &impl Context, order: u8, zones: Zones) -> Result<Pfn, OutOfMemory> {
        let taken = if order > MAX_ORDER || !self.platform.may_allocate(order) {
            None
        } else if order == 0 {
            self.take_one(cx, zones)
        } else {
            self.take_block(cx, order, zones)
        };
        let Some(pfn) = taken else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(OutOfMemory);
        };
        self.memory().allocated(pfn, order);
        for tail in (1..frames(order)).map(|i| pfn.saturating_add(i)) {
            if let Some(page) = self.record(tail) {
                page.reset(Kind::Tail, 0);
            }
        }
        if let Some(page) = self.record(pfn) {
            page.set_refs(1);
        }
        Ok(pfn)
    }

    /// Gives up one reference to a block, named by its first frame, and frees
    /// it if that was the last one (or if its last one was given up before).
    ///
    /// # Errors
    /// [`FreeError`], with nothing changed.
    ///
    /// # Locks
    /// Takes `FrameCache` or `Buddy`.
    pub fn free(&self, cx: &impl Context, pfn: Pfn) -> Result<(), FreeError> {
        let page = self.page(pfn).ok_or(FreeError::Foreign)?;
        if let Some(error) = FreeError::of(page.kind()) {
            return Err(error);
        }
        if !page.give_up_ref() {
            return Ok(());
        }
        // Two frees at once are one free too many: the record decides whose.
        let order = page.claim()?;
        self.memory().freed(pfn, order);
        if order == 0 {
            self.give_one(cx, pfn);
        } else {
            self.buddy.lock(cx, 0).give(self, pfn, order);
            self.count_in(frames(order));
        }
        Ok(())
    }

    /// Makes the shared zero page; again, returns the one that is there.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn init_zero_page(&self, cx: &impl Context) -> Result<Pfn, OutOfMemory> {
        if let Some(pfn) = self.zero_page() {
            return Ok(pfn);
        }
        let pfn = self.alloc(cx, 0)?;
        self.memory().zero(pfn, 0);
        // Programs may fetch from it: the zeros must be what they see.
        #[cfg(not(mm_mutant = "zero_page_is_not_shown"))]
        self.platform().sync_code(pfn);
        let number = u32::try_from(pfn.as_u64()).map_err(|_| OutOfMemory)?;
        match self
            .zero
            .compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => {
                if let Some(page) = self.page(pfn) {
                    page.reset(Kind::Zero, 0);
                }
                Ok(pfn)
            }
            Err(_) if cfg!(mm_mutant = "zero_page_is_made_twice") => Ok(pfn),
            Err(first) => {
                let freed = self.free(cx, pfn);
                debug_assert_eq!(freed, Ok(()));
                Ok(Pfn::new(u64::from(first)))
            }
        }
    }

    /// Returns the shared zero page, once it was made.
    pub fn zero_page(&self) -> Option<Pfn> {
        match self.zero.load(Ordering::Acquire) {
            0 => None,
            n => Some(Pfn::new(u64::from(n))),
        }
    }

    /// Returns the root of the kernel's page table, once it was made.
    pub fn kernel_root(&self) -> Option<Pfn> {
        match self.kernel_root.load(Ordering::Acquire) {
            0 => None,
            n => Some(Pfn::new(u64::from(n))),
        }
    }

    /// Notes the kernel's page table, whose upper half every space shares.
    pub(crate) fn set_kernel_root(&self, root: Pfn) {
        let number = u32::try_from(root.as_u64()).unwrap_or(0);
        self.kernel_root.store(number, Ordering::Release);
    }

    /// Returns the number of free frames, those in CPUs' caches included.
    /// Exact while nobody allocates or frees.
    pub fn free_frames(&self) -> usize {
        let used = self.sum(&self.used, |node| &node.used);
        let added = self.added.load(Ordering::Relaxed);
        // While others allocate and free, the sum may miss one of a pair.
        let free = added.wrapping_sub(used);
        if free > added { 0 } else { free }
    }

    /// Returns the numbers of the machine's frames.
    pub fn stats(&self) -> FrameStats {
        FrameStats {
            total: self.total.load(Ordering::Relaxed),
            free: self.free_frames(),
            allocations: self.sum(&self.allocations, |node| &node.allocations),
            frees: self.sum(&self.frees, |node| &node.frees),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Returns the highest group of zones that there is RAM in: see `zone`.
    #[inline]
    pub(super) fn common_zones(&self) -> Zones {
        Zones(self.common.load(Ordering::Relaxed))
    }

    /// Sums a count over the CPUs; wraps.
    fn sum(&self, shared: &Tally, of: impl Fn(&CpuNode) -> &Tally) -> usize {
        self.cpu_nodes()
            .map(|(_, node)| of(node).load(Ordering::Relaxed))
            .fold(shared.load(Ordering::Relaxed), usize::wrapping_add)
    }

    /// Counts a block handed out by way of no cache.
    pub(super) fn count_out(&self, n: u64) {
        self.used.fetch_add(usize_of(n), Ordering::Relaxed);
        self.allocations.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a block that came back by way of no cache.
    pub(super) fn count_in(&self, n: u64) {
        self.used.fetch_sub(usize_of(n), Ordering::Relaxed);
        self.frees.fetch_add(1, Ordering::Relaxed);
    }
}

impl<P: Platform> Records for Frames<P> {
    #[inline]
    fn record(&self, pfn: Pfn) -> Option<&Page> {
        self.map.page(self.memory(), self.page_shift(), pfn)
    }
}

/// Returns the order of the largest block that starts at `pfn` and ends by `end`.
fn largest_block(pfn: Pfn, end: Pfn) -> u8 {
    let left = end.as_u64().saturating_sub(pfn.as_u64());
    let aligned = pfn.as_u64().trailing_zeros();
    let fits = left.checked_ilog2().unwrap_or(0);
    u8::try_from(aligned.min(fits))
        .unwrap_or(MAX_ORDER)
        .min(MAX_ORDER)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "counts of RAM frames fit in usize"
)]
const fn usize_of(n: u64) -> usize {
    n as usize
}
