//! Slabs: frames full of nodes of one type.
//!
//! ```text
//!             node freed            last node freed
//!   full ◄──────────────► partial ────────────────────► empty ── drain ──► grace period ──► buddy
//!  (no list)  last taken   (list)  ◄────────────────── (list)
//!                                        node taken
//! ```
//!
//! In front of the slabs each CPU has free nodes at hand, linked by their handles'
//! numbers (`page::magazine`); for their slabs they are in use. Batches of them
//! go to and fro under the pool's lock. A pool without a number has none.
//!
//! **A node is freed once.** While it is in use its link says [`IN_USE`], which is no
//! link. Who frees it exchanges that word first: of two who free it, at once or one
//! after the other, one is told, and no list is touched for it.
//!
//! **The last node is found**, as the last frame is (`page::front`): nodes change
//! between a cache and the slabs under both locks, and each such transfer is counted.
//!
//! The books are kept by `lists`. A new slab is built without the pool's lock;
//! the lock is held for a few words of work only.

use super::handle::{Handle, Node};
#[cfg(not(loom))]
use super::lists::slab_record;
use super::lists::{Lists, next_empty};
use crate::addr::Pfn;
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::page::{Chain, Frames, FreeError, Kind, MAGAZINE, NodeCache, OnCpu, add};
use crate::platform::{PhysMemory, Platform};
use crate::sync::{AtomicU32, Class, Mutex, Ordering, Tally};
use arrayvec::ArrayVec;
use core::marker::PhantomData;

/// The link of a node that is in use. No handle has this number ([`Pool::build`]).
const IN_USE: u32 = u32::MAX;

/// All nodes of one type.
#[derive(Debug)]
pub struct Pool<T: Node> {
    lists: Mutex<Lists>,
    /// Nodes in use less those that [`NodeCache`]s count; wraps.
    live: Tally,
    slabs: Tally,
    /// Which of a CPU's caches is this pool's; none when too large.
    number: u8,
    nodes: PhantomData<fn() -> T>,
}

impl<T: Node> Pool<T> {
    #[cfg(not(loom))]
    /// Makes a pool without slabs, whose free nodes all CPUs share.
    pub const fn new() -> Self {
        Self::numbered(u8::MAX)
    }

    #[cfg(not(loom))]
    /// Makes a pool without slabs. Each CPU has free nodes at hand when
    /// `number` is below 6; no other pool of the machine has the same number.
    pub const fn numbered(number: u8) -> Self {
        const { assert!(size_of::<T>().is_power_of_two() && size_of::<T>() >= 16) }
        Self {
            lists: Mutex::new(Class::Pool, Lists::new()),
            live: Tally::new(0),
            slabs: Tally::new(0),
            number,
            nodes: PhantomData,
        }
    }

    #[cfg(loom)]
    /// Makes a pool without slabs, whose free nodes all CPUs share.
    pub fn new() -> Self {
        Self::numbered(u8::MAX)
    }

    #[cfg(loom)]
    /// Makes a pool without slabs; see the other side of the facade.
    pub fn numbered(number: u8) -> Self {
        Self {
            lists: Mutex::new(Class::Pool, Lists::new()),
            live: Tally::new(0),
            slabs: Tally::new(0),
            number,
            nodes: PhantomData,
        }
    }

    /// Takes a node. It holds what its last user left in it: initialise all
    /// fields before it is linked.
    ///
    /// # Errors
    /// [`OutOfMemory`] when a slab is needed and no frame is left, or the
    /// platform refuses. Never while a node is free all along, wherever.
    ///
    /// # Locks
    /// Takes `NodeCache`, `Pool` inside; `FrameCache` and `Buddy` outside of both.
    pub fn alloc<P: Platform>(&self, cx: &Cx<'_, P>) -> Result<Handle<T>, OutOfMemory> {
        if !cx.platform().may_allocate_node(T::NAME) {
            return Err(OutOfMemory);
        }
        if let Some(handle) = self.take_near(cx).or_else(|| self.take(cx, None)) {
            return Ok(handle);
        }
        loop {
            let before = self.lists.lock(cx, 0).transfers();
            if let Ok(slab) = self.build(cx) {
                #[cfg(mm_mutant = "second_slab_is_lost")]
                if let Some(handle) = self.take(cx, None) {
                    return Ok(handle);
                }
                return self.take(cx, Some(slab)).ok_or(OutOfMemory);
            }
            let free = self.take(cx, None).or_else(|| self.take_at_hand(cx));
            if let Some(handle) = free {
                return Ok(handle);
            }
            // Each further turn is one in which others took or gave nodes.
            let after = self.lists.lock(cx, 0).transfers();
            if after == before || cfg!(mm_mutant = "node_transfers_unseen") {
                return Err(OutOfMemory);
            }
        }
    }

    /// Gives a node back. Lock-free readers may still look at it: its slab
    /// stays a slab of the same type until [`Self::drain`].
    ///
    /// # Errors
    /// [`FreeError::DoubleFree`] when the node is free, with nothing changed. Whether it
    /// has become somebody else's in between is not seen.
    ///
    /// # Locks
    /// Takes `NodeCache`, `Pool` inside.
    pub fn free<P: Platform>(&self, cx: &Cx<'_, P>, handle: Handle<T>) -> Result<(), FreeError> {
        let link = self.claim(cx, handle)?;
        let here = OnCpu::enter(cx);
        let set_link = |n| link.store(n, Ordering::Relaxed);
        let Some((cpu, near)) = self.near(cx, &here) else {
            let mut one = Chain::EMPTY;
            one.push(handle.into_raw(), set_link);
            self.give_back(cx, one);
            self.live.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        };
        let mut nodes = near.nodes.lock(cx, cpu);
        let over = nodes.give(handle.into_raw(), set_link);
        add(&near.live, usize::MAX);
        if over.len() > 0 && !cfg!(mm_mutant = "full_node_magazine_is_lost") {
            self.give_back(cx, over);
        }
        drop(nodes);
        Ok(())
    }

    /// Takes a node out of use: of all who free it one succeeds. Returns its link.
    fn claim<'m, P: Platform>(
        &self,
        cx: &Cx<'m, P>,
        handle: Handle<T>,
    ) -> Result<&'m AtomicU32, FreeError> {
        // A slab that was drained had no node in use. (In models the memory notices.)
        #[cfg(not(loom))]
        if slab_record(cx.frames(), number(locate(cx.frames(), handle).0)).is_none() {
            return Err(FreeError::DoubleFree);
        }
        let link = self.get(cx.frames(), handle).free_link();
        match link.compare_exchange(IN_USE, 0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(link),
            Err(_) if cfg!(mm_mutant = "node_claimed_by_all") => Ok(link),
            Err(_) => Err(FreeError::DoubleFree),
        }
    }

    /// Names a node that is being handed out: the locks of where it was order this
    /// before it is freed.
    fn hand_out<P: Platform>(&self, cx: &Cx<'_, P>, handle: Handle<T>) -> Handle<T> {
        let link = self.get(cx.frames(), handle).free_link();
        link.store(IN_USE, Ordering::Relaxed);
        handle
    }

    /// Returns the node that a handle names. A stale handle reads a node that
    /// is free or someone else's, never garbage, as long as its slab was not
    /// drained: hold a pin, or something that keeps the node in use.
    #[inline]
    pub fn get<'m, P: Platform>(&self, frames: &'m Frames<P>, handle: Handle<T>) -> &'m T {
        // In models a node of the wrong type is noticed by the memory.
        #[cfg(not(loom))]
        debug_assert!(
            slab_record(frames, number(locate(frames, handle).0)).is_some(),
            "{}: {handle:?} is not in a slab",
            T::NAME
        );
        frames
            .memory()
            .nth_node(handle.into_raw() as usize, slot_bits::<T, P>(frames))
    }

    /// Takes `n` nodes (at most `N`) into a reserve, which gives back what was
    /// not used: the reserve step of plan, reserve, commit.
    ///
    /// # Errors
    /// [`OutOfMemory`], with all nodes given back.
    pub fn prealloc<'c, 'm, P: Platform, const N: usize>(
        &'c self,
        cx: &'c Cx<'m, P>,
        n: usize,
    ) -> Result<Reserve<'c, 'm, T, P, N>, OutOfMemory> {
        let mut reserve = Reserve {
            pool: self,
            cx,
            handles: ArrayVec::new(),
        };
        while reserve.handles.len() < n {
            let handle = self.alloc(cx)?;
            if let Err(full) = reserve.handles.try_push(handle) {
                let freed = self.free(cx, full.element());
                debug_assert_eq!(freed, Ok(()));
                return Err(OutOfMemory);
            }
        }
        Ok(reserve)
    }

    /// Returns the number of nodes in use. Exact while nobody allocates or frees.
    pub fn live<P: Platform>(&self, frames: &Frames<P>) -> usize {
        frames
            .cpu_nodes()
            .filter_map(|(_, cpu)| cpu.pool(self.number.into()))
            .map(|near| near.live.load(Ordering::Relaxed))
            .fold(self.live.load(Ordering::Relaxed), usize::wrapping_add)
    }

    /// Returns the number of frames that the pool holds.
    pub fn slabs(&self) -> usize {
        self.slabs.load(Ordering::Relaxed)
    }

    /// Gives all slabs that are empty when no CPU has nodes at hand back to the
    /// frame allocator, once no reader can
    /// look at them any more. Returns their number.
    ///
    /// # Locks
    /// Waits for lock-free readers: not under an inner lock, not in a pin.
    pub fn drain<P: Platform>(&self, cx: &Cx<'_, P>) -> usize {
        self.drain_named(cx, || {})
    }

    /// As [`Self::drain`], where hints may name nodes that are not in use: they
    /// are gone when `forget` returns, but for those that name a node in use.
    ///
    /// # Locks
    /// As [`Self::drain`].
    pub(crate) fn drain_named<P: Platform>(&self, cx: &Cx<'_, P>, forget: impl FnOnce()) -> usize {
        let frames = cx.frames();
        #[cfg(mm_mutant = "forgotten_too_early")]
        let forget = {
            forget();
            || {}
        };
        self.unload(cx);
        let mut next = self.lists.lock(cx, 0).take_empty();
        if next == 0 {
            return 0;
        }
        // No node of theirs comes into use again, and readers are waited for yet.
        #[cfg(not(mm_mutant = "hints_outlive_slabs"))]
        forget();
        #[cfg(not(mm_mutant = "drain_without_grace"))]
        cx.synchronize();
        let mut drained = 0usize;
        while next != 0 {
            let pfn = Pfn::new(u64::from(next));
            next = next_empty(frames, next);
            let freed = frames.free(cx, pfn);
            debug_assert_eq!(freed, Ok(()));
            drained = drained.saturating_add(1);
        }
        self.slabs.fetch_sub(drained, Ordering::Relaxed);
        drained
    }

    /// Takes a node that this CPU has at hand, after a batch from the slabs if
    /// there is none.
    fn take_near<P: Platform>(&self, cx: &Cx<'_, P>) -> Option<Handle<T>> {
        let here = OnCpu::enter(cx);
        let (cpu, near) = self.near(cx, &here)?;
        let mut nodes = near.nodes.lock(cx, cpu);
        let mut taken = nodes.take(|n| self.link(cx, n));
        if taken.is_none() {
            nodes.load(self.take_chain(cx));
            taken = nodes.take(|n| self.link(cx, n));
        }
        let handle = Handle::from_raw(taken?)?;
        add(&near.live, 1);
        Some(self.hand_out(cx, handle))
    }

    /// Takes a node that some CPU has at hand.
    fn take_at_hand<P: Platform>(&self, cx: &Cx<'_, P>) -> Option<Handle<T>> {
        for (cpu, node) in cx.frames().cpu_nodes() {
            let near = node.pool(self.number.into())?;
            let mut nodes = near.nodes.lock(cx, cpu);
            let taken = nodes.take(|n| self.link(cx, n));
            if let Some(handle) = taken.and_then(Handle::from_raw) {
                add(&near.live, 1);
                return Some(self.hand_out(cx, handle));
            }
        }
        None
    }

    /// Takes up to a magazine of nodes from slabs that have some.
    fn take_chain<P: Platform>(&self, cx: &Cx<'_, P>) -> Chain {
        let mut chain = Chain::EMPTY;
        let mut lists = self.lists.lock(cx, 0);
        while chain.len() < MAGAZINE {
            let Some(handle) = self.take_from(cx, &mut lists) else {
                break;
            };
            let link = self.get(cx.frames(), handle).free_link();
            chain.push(handle.into_raw(), |n| link.store(n, Ordering::Relaxed));
        }
        lists.count_transfer(chain.len());
        chain
    }

    /// Gives nodes back to their slabs.
    fn give_back<P: Platform>(&self, cx: &Cx<'_, P>, mut chain: Chain) {
        let frames = cx.frames();
        let mut lists = self.lists.lock(cx, 0);
        lists.count_transfer(chain.len());
        while let Some(handle) = chain.pop(|n| self.link(cx, n)).and_then(Handle::from_raw) {
            let (pfn, slot) = locate(frames, handle);
            let link = self.get(frames, handle).free_link();
            lists.give(frames, number(pfn), slot, |next| {
                link.store(next, Ordering::Relaxed);
            });
        }
    }

    /// Gives back what all CPUs have at hand: for a drain.
    fn unload<P: Platform>(&self, cx: &Cx<'_, P>) {
        for (cpu, node) in cx.frames().cpu_nodes() {
            let Some(near) = node.pool(self.number.into()) else {
                return;
            };
            let mut nodes = near.nodes.lock(cx, cpu);
            for chain in nodes.take_all() {
                self.give_back(cx, chain);
            }
        }
    }

    /// Returns this CPU's number and its free nodes of this pool.
    fn near<'m, P: Platform>(
        &self,
        cx: &Cx<'m, P>,
        here: &OnCpu<'_, Cx<'m, P>>,
    ) -> Option<(u32, &'m NodeCache)> {
        let (cpu, node) = cx.frames().this_cpu(here)?;
        Some((cpu, node.pool(self.number.into())?))
    }

    /// Reads the link of a free node.
    fn link<P: Platform>(&self, cx: &Cx<'_, P>, number: u32) -> u32 {
        Handle::from_raw(number).map_or(0, |handle| {
            let link = self.get(cx.frames(), handle).free_link();
            link.load(Ordering::Relaxed)
        })
    }

    /// Takes a node from a slab that has one, after adding a new slab: in one
    /// hold of the lock, or others might use it up.
    fn take<P: Platform>(&self, cx: &Cx<'_, P>, new: Option<(u32, u32)>) -> Option<Handle<T>> {
        let mut lists = self.lists.lock(cx, 0);
        if let Some((slab, nodes)) = new {
            lists.add(cx.frames(), slab, nodes);
        }
        let handle = self.take_from(cx, &mut lists)?;
        drop(lists);
        self.live.fetch_add(1, Ordering::Relaxed);
        Some(self.hand_out(cx, handle))
    }

    /// Takes a node from a slab that has one.
    fn take_from<P: Platform>(&self, cx: &Cx<'_, P>, lists: &mut Lists) -> Option<Handle<T>> {
        let frames = cx.frames();
        let (slab, slot) = lists.take(frames, |slab, slot| {
            let node: &T = frames
                .memory()
                .node(Pfn::new(u64::from(slab)), slot as usize);
            node.free_link().load(Ordering::Relaxed)
        })?;
        Handle::from_raw(slab.wrapping_shl(slot_bits::<T, P>(frames)) | slot)
    }

    /// Makes a slab of free nodes, on no list. Returns its frame and
    /// the number of nodes.
    fn build<P: Platform>(&self, cx: &Cx<'_, P>) -> Result<(u32, u32), OutOfMemory> {
        let frames = cx.frames();
        let bits = slot_bits::<T, P>(frames);
        let reach = Pfn::new(1u64.wrapping_shl(u32::BITS.saturating_sub(bits)));
        let pfn = frames.alloc_below(cx, 0, reach)?;
        frames.page(pfn).ok_or(OutOfMemory)?.reset(Kind::Slab, 0);
        frames.memory().make_slab::<T>(pfn);
        let nodes = frames.memory().slab::<T>(pfn);
        let mut places = 0u32;
        for node in nodes {
            // The number that says in use names no node.
            if number(pfn).wrapping_shl(bits) | places == IN_USE {
                break;
            }
            node.free_link().store(places, Ordering::Relaxed);
            places = places.saturating_add(1);
        }
        self.slabs.fetch_add(1, Ordering::Relaxed);
        Ok((number(pfn), places))
    }
}

#[cfg(not(loom))]
impl<T: Node> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Nodes that were taken before they are needed. Dropping it gives back the rest.
pub struct Reserve<'c, 'm, T: Node, P: Platform, const N: usize> {
    pool: &'c Pool<T>,
    cx: &'c Cx<'m, P>,
    handles: ArrayVec<Handle<T>, N>,
}

impl<T: Node, P: Platform, const N: usize> Reserve<'_, '_, T, P, N> {
    /// Takes a node out for good; `None` when the plan was too small.
    pub fn take(&mut self) -> Option<Handle<T>> {
        self.handles.pop()
    }

    /// Returns how many nodes are left.
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Returns whether no node is left.
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }
}

impl<T: Node, P: Platform, const N: usize> Drop for Reserve<'_, '_, T, P, N> {
    fn drop(&mut self) {
        for handle in self.handles.drain(..) {
            let freed = self.pool.free(self.cx, handle);
            debug_assert_eq!(freed, Ok(()));
        }
    }
}

/// log2 of the number of nodes that a frame has numbers for.
fn slot_bits<T: Node, P: Platform>(frames: &Frames<P>) -> u32 {
    let size = size_of::<T>().next_power_of_two();
    frames.page_shift().saturating_sub(size.trailing_zeros())
}

/// Cuts a handle into frame and slot.
fn locate<T: Node, P: Platform>(frames: &Frames<P>, handle: Handle<T>) -> (Pfn, u32) {
    let bits = slot_bits::<T, P>(frames);
    let raw = handle.into_raw();
    (
        Pfn::new(u64::from(raw.wrapping_shr(bits))),
        raw & !u32::MAX.wrapping_shl(bits),
    )
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the page map holds no frame above 32 bits"
)]
const fn number(pfn: Pfn) -> u32 {
    pfn.as_u64() as u32
}
