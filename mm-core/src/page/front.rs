//! The front end of the buddy allocator: each CPU's own free frames (Linux: pcp lists).
//!
//! ```text
//!             alloc, order 0             empty: a batch at once
//!   caller ◄──────────────── this CPU's ◄─────────────────────── buddy
//!          ────────────────► magazines  ───────────────────────►
//!             free, order 0              full: a batch at once
//! ```
//!
//! A frame in a cache is free: its record says `Cached`, so that freeing it
//! again is found, and [`Frames::free_frames`] counts it. Each cache has a lock
//! of its own, below the buddy allocator's: whoever ran dry takes from the
//! caches of others, and nobody waits for a CPU to give something back. Hence
//! also the wrong CPU's cache does no harm, only costs time.
//!
//! **The last frame is found.** Frames change between the allocator and a cache
//! under both locks only, and each such transfer is counted. Who saw the
//! allocator empty, then every cache, and no transfer meanwhile, may say that
//! every frame that was free all along is gone.
//!
//! **A bound is kept** (`zone`): who needs a low frame gets the cache's next only if
//! it is one, asks the allocator else, and the last frame found is one that fits. A
//! cache is filled from the machine's highest group of zones, and frames of others
//! go by it, so that what is low is not given to whoever comes next.
//!
//! A block of a higher order asks the caches for their frames before it fails.

use super::Frames;
use super::buddy::{Records, frames, next, number};
use super::cpu::{CpuNode, slot_bits};
use super::magazine::{Chain, MAGAZINE};
use super::record::Kind;
use super::zone::Zones;
use crate::addr::Pfn;
use crate::error::OutOfMemory;
use crate::platform::{MAX_CPUS, PhysMemory, Platform};
use crate::sync::{Context, Ordering, Tally};

impl<P: Platform> Frames<P> {
    /// Says how many CPUs there are, numbered from 0, so that each gets what it
    /// keeps for itself; CPUs beyond do without, which is slower. Once: later
    /// calls change nothing. The frames it takes are never given back.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing changed.
    ///
    /// # Locks
    /// Takes `(Pool, MAX)` and `Buddy`.
    pub fn add_cpus(&self, cx: &impl Context, count: usize) -> Result<(), OutOfMemory> {
        let count = u32::try_from(count.min(MAX_CPUS)).unwrap_or(0);
        if count == 0 || self.cpus.count() > 0 {
            return Ok(());
        }
        let bits = slot_bits(self.page_shift());
        let need = count.div_ceil(1u32.wrapping_shl(bits));
        let order = need.next_power_of_two().trailing_zeros();
        let order = u8::try_from(order).map_err(|_| OutOfMemory)?;
        // The number of a node has 32 bits.
        let reach = Pfn::new(1u64.wrapping_shl(u32::BITS.saturating_sub(bits)));
        let block = self.alloc_below(cx, order, reach)?;
        let growth = self.growth.lock(cx, u32::MAX);
        let first = u32::try_from(block.as_u64().wrapping_shl(bits));
        let (0, Ok(first), Some(page)) = (self.cpus.count(), first, self.page(block)) else {
            drop(growth);
            let freed = self.free(cx, block);
            debug_assert_eq!(freed, Ok(()));
            return Ok(());
        };
        for i in 0..frames(order) {
            self.memory().make_slab::<CpuNode>(block.saturating_add(i));
        }
        page.reset(Kind::Reserved, order);
        self.cpus.publish(first, count);
        Ok(())
    }

    /// Puts the free frames of all CPUs back into the allocator, where they
    /// merge. Frames that are freed meanwhile may stay behind.
    ///
    /// # Locks
    /// Takes `FrameCache` of each CPU in turn, `Buddy` inside.
    pub fn drain(&self, cx: &impl Context) {
        for (cpu, node) in self.cpu_nodes() {
            // The cache's lock is held until all is back: see the module.
            let mut cache = node.frames.lock(cx, cpu);
            let all = cache.take_all();
            #[cfg(mm_mutant = "drain_unlocked")]
            drop(cache);
            for chain in all {
                self.buddy.lock(cx, 0).give_chain(self, chain);
            }
        }
    }

    /// Takes a frame: this CPU's, then a batch for this CPU, then anyone's.
    pub(super) fn take_one(&self, cx: &impl Context, zones: Zones) -> Option<Pfn> {
        let here = OnCpu::enter(cx);
        if let Some((cpu, node)) = self.this_cpu(&here) {
            let mut cache = node.frames.lock(cx, cpu);
            if cache.is_empty() {
                let common = self.common_zones();
                let mut buddy = self.buddy.lock(cx, 0);
                cache.load(buddy.take_chain(self, MAGAZINE, common));
            }
            let fits = |n| zones.has(n) || cfg!(mm_mutant = "cache_knows_no_bound");
            let taken = cache.take_if(fits, |n| next(self, n));
            if let Some(n) = taken {
                return Some(self.uncache(node, n));
            }
        }
        drop(here);
        self.take_any(cx, zones)
    }

    /// Puts a frame that was claimed into this CPU's cache.
    pub(super) fn give_one(&self, cx: &impl Context, pfn: Pfn) {
        let here = OnCpu::enter(cx);
        let common = self.common_zones().has(number(pfn));
        let common = common || cfg!(mm_mutant = "low_frame_is_cached");
        let near = self.this_cpu(&here).filter(|_| common);
        let Some((cpu, node)) = near else {
            self.buddy.lock(cx, 0).give(self, pfn, 0);
            self.count_in(1);
            return;
        };
        let mut cache = node.frames.lock(cx, cpu);
        let over = cache.give(number(pfn), |link| set_next(self, pfn, link));
        add(&node.used, usize::MAX);
        add(&node.frees, 1);
        if over != Chain::EMPTY && !cfg!(mm_mutant = "full_magazine_is_lost") {
            // Under the cache's lock too: see the module.
            self.buddy.lock(cx, 0).give_chain(self, over);
        }
        drop(cache);
    }

    /// Takes a block of a higher order, for which the caches are emptied where
    /// there is none.
    pub(super) fn take_block(&self, cx: &impl Context, order: u8, zones: Zones) -> Option<Pfn> {
        let mut taken = self.buddy.lock(cx, 0).take(self, order, zones);
        if taken.is_none() && self.cpus.count() > 0 {
            self.drain(cx);
            taken = self.buddy.lock(cx, 0).take(self, order, zones);
        }
        if taken.is_some() {
            self.count_out(frames(order));
        }
        taken
    }

    /// Takes a free frame of the zones wherever there is one, when this CPU has
    /// none at hand.
    fn take_any(&self, cx: &impl Context, zones: Zones) -> Option<Pfn> {
        loop {
            let mut buddy = self.buddy.lock(cx, 0);
            let taken = buddy.take(self, 0, zones);
            let before = buddy.transfers();
            drop(buddy);
            if taken.is_some() {
                self.count_out(1);
                return taken;
            }
            for (cpu, node) in self.cpu_nodes() {
                let mut cache = node.frames.lock(cx, cpu);
                let taken = cache.remove(
                    |n| zones.has(n),
                    |n| next(self, n),
                    |n, link| set_next(self, Pfn::new(u64::from(n)), link),
                );
                if let Some(n) = taken {
                    return Some(self.uncache(node, n));
                }
            }
            // Each further turn is one in which others took or gave frames.
            let after = self.buddy.lock(cx, 0).transfers();
            if after == before || cfg!(mm_mutant = "transfers_unseen") {
                return None;
            }
        }
    }

    /// Hands out a frame of a cache, whose lock is held.
    fn uncache(&self, node: &CpuNode, n: u32) -> Pfn {
        let pfn = Pfn::new(u64::from(n));
        if let Some(page) = self.record(pfn) {
            page.reset(Kind::Kernel, 0);
        }
        add(&node.used, 1);
        add(&node.allocations, 1);
        pfn
    }

    /// Drops what CPUs remember of where areas are: see `hints`.
    pub(crate) fn forget_areas(&self) {
        for (_, node) in self.cpu_nodes() {
            node.hints().forget_areas();
        }
    }

    /// Returns the number and the node of this CPU, if it has one.
    #[inline]
    pub(crate) fn this_cpu(&self, _here: &OnCpu<'_, impl Context>) -> Option<(u32, &CpuNode)> {
        let cpu = self.platform().cpu();
        Some((u32::try_from(cpu).ok()?, self.cpu_node(cpu)?))
    }

    /// Returns the node of a CPU, if it has one.
    #[inline]
    pub(crate) fn cpu_node(&self, cpu: usize) -> Option<&CpuNode> {
        let cpu = u32::try_from(cpu).ok()?;
        self.cpus.get(self.memory(), self.page_shift(), cpu)
    }

    /// Walks the nodes of all CPUs that have one.
    pub(crate) fn cpu_nodes(&self) -> impl Iterator<Item = (u32, &CpuNode)> {
        (0..self.cpus.count()).filter_map(|cpu| {
            let node = self.cpus.get(self.memory(), self.page_shift(), cpu)?;
            Some((cpu, node))
        })
    }
}

/// Preemption is off: the verb stays on its CPU.
pub(crate) struct OnCpu<'a, C: Context>(&'a C);

impl<'a, C: Context> OnCpu<'a, C> {
    /// Forbids preemption until this is dropped.
    pub(crate) fn enter(cx: &'a C) -> Self {
        cx.preempt_off();
        Self(cx)
    }
}

impl<C: Context> Drop for OnCpu<'_, C> {
    fn drop(&mut self) {
        self.0.preempt_on();
    }
}

fn set_next(records: &impl Records, pfn: Pfn, link: u32) {
    if let Some(page) = records.record(pfn) {
        page.word(super::buddy::NEXT).store(link, Ordering::Relaxed);
    }
}

/// Changes a count that only the holder of a lock changes.
pub(crate) fn add(tally: &Tally, n: usize) {
    let sum = tally.load(Ordering::Relaxed).wrapping_add(n);
    tally.store(sum, Ordering::Relaxed);
}
