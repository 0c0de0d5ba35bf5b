//! Slabs: frames full of nodes of one type.
//!
//! ```text
//!             node freed            last node freed
//!   full ◄──────────────► partial ────────────────────► empty ── drain ──► grace period ──► buddy
//!  (no list)  last taken   (list)  ◄────────────────── (list)
//!                                        node taken
//! ```
//!
//! The state of a slab is in the record of its frame: how many nodes are in
//! use, the first free node (a slot plus one), and prev and next on its list
//! (frame numbers, zero for none). Free nodes are linked through their own
//! `free_link` words. A new slab is built without the pool's lock; the lock is
//! held for a few words of work only.

use super::handle::{Handle, Node};
use crate::addr::{Pfn, page_size};
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::format::PageTableFormat;
use crate::page::{Frames, Kind, Page};
use crate::platform::{PhysMemory, Platform};
use crate::sync::{AtomicUsize, Class, Mutex, Ordering};
use arrayvec::ArrayVec;
use core::marker::PhantomData;

const LIVE: usize = 0;
const FREE: usize = 1;
const PREV: usize = 2;
const NEXT: usize = 3;

/// All nodes of one type.
#[derive(Debug)]
pub struct Pool<T: Node> {
    lists: Mutex<Lists>,
    live: AtomicUsize,
    slabs: AtomicUsize,
    nodes: PhantomData<fn() -> T>,
}

/// Heads of the lists of slabs: frame numbers, zero for none.
#[derive(Debug)]
struct Lists {
    partial: u32,
    empty: u32,
}

#[derive(Clone, Copy)]
enum List {
    Partial,
    Empty,
}

impl<T: Node> Pool<T> {
    #[cfg(not(loom))]
    /// Makes a pool without slabs.
    pub const fn new() -> Self {
        const { assert!(size_of::<T>().is_power_of_two() && size_of::<T>() >= 16) }
        Self {
            lists: Mutex::new(
                Class::Pool,
                Lists {
                    partial: 0,
                    empty: 0,
                },
            ),
            live: AtomicUsize::new(0),
            slabs: AtomicUsize::new(0),
            nodes: PhantomData,
        }
    }

    #[cfg(loom)]
    /// Makes a pool without slabs.
    pub fn new() -> Self {
        Self {
            lists: Mutex::new(
                Class::Pool,
                Lists {
                    partial: 0,
                    empty: 0,
                },
            ),
            live: AtomicUsize::new(0),
            slabs: AtomicUsize::new(0),
            nodes: PhantomData,
        }
    }

    /// Takes a node. It holds what its last user left in it: initialise all
    /// fields before it is linked.
    ///
    /// # Errors
    /// [`OutOfMemory`] when a slab is needed and no frame is left, or the
    /// platform refuses.
    ///
    /// # Locks
    /// Takes `Pool`, and `Buddy` outside of it.
    pub fn alloc<P: Platform>(&self, cx: &Cx<'_, P>) -> Result<Handle<T>, OutOfMemory> {
        if !cx.platform().may_allocate_node(T::NAME) {
            return Err(OutOfMemory);
        }
        if let Some(handle) = self.take(cx) {
            return Ok(handle);
        }
        let slab = match self.build(cx) {
            Ok(slab) => slab,
            // Someone may have freed a node while we failed to get a frame.
            Err(error) => return self.take(cx).ok_or(error),
        };
        let mut lists = self.lists.lock(cx, 0);
        let frames = cx.frames();
        lists.push(frames, List::Partial, slab);
        drop(lists);
        self.take(cx).ok_or(OutOfMemory)
    }

    /// Gives a node back. Lock-free readers may still look at it: its slab
    /// stays a slab of the same type until [`Self::drain`].
    ///
    /// # Locks
    /// Takes `Pool`.
    pub fn free<P: Platform>(&self, cx: &Cx<'_, P>, handle: Handle<T>) {
        let frames = cx.frames();
        let (pfn, slot) = locate::<T, P>(handle);
        let Some(page) = slab_record(frames, pfn) else {
            debug_assert!(false, "{}: {handle:?} is not in a slab", T::NAME);
            return;
        };
        let node = self.get(frames, handle);
        let mut lists = self.lists.lock(cx, 0);
        let (live, first) = (get(page, LIVE), get(page, FREE));
        debug_assert!(live > 0, "{}: {handle:?} freed twice", T::NAME);
        node.free_link().store(first, Ordering::Relaxed);
        set(page, FREE, slot.saturating_add(1));
        set(page, LIVE, live.saturating_sub(1));
        let number = number(pfn);
        if live == 1 {
            if first != 0 {
                lists.remove(frames, List::Partial, number);
            }
            lists.push(frames, List::Empty, number);
        } else if first == 0 {
            lists.push(frames, List::Partial, number);
        }
        drop(lists);
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the node that a handle names. A stale handle reads a node that
    /// is free or someone else's, never garbage, as long as its slab was not
    /// drained: hold a pin, or something that keeps the node in use.
    #[inline]
    pub fn get<'m, P: Platform>(&self, frames: &'m Frames<P>, handle: Handle<T>) -> &'m T {
        let (pfn, slot) = locate::<T, P>(handle);
        debug_assert!(
            slab_record(frames, pfn).is_some(),
            "{}: {handle:?} is not in a slab",
            T::NAME
        );
        frames.memory().node(pfn, slot as usize)
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
                self.free(cx, full.element());
                return Err(OutOfMemory);
            }
        }
        Ok(reserve)
    }

    /// Returns the number of nodes in use.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Returns the number of frames that the pool holds.
    pub fn slabs(&self) -> usize {
        self.slabs.load(Ordering::Relaxed)
    }

    /// Gives all empty slabs back to the frame allocator, once no reader can
    /// look at them any more. Returns their number.
    ///
    /// # Locks
    /// Waits for lock-free readers: not under an inner lock, not in a pin.
    pub fn drain<P: Platform>(&self, cx: &Cx<'_, P>) -> usize {
        let frames = cx.frames();
        let mut lists = self.lists.lock(cx, 0);
        let mut next = core::mem::take(&mut lists.empty);
        drop(lists);
        if next == 0 {
            return 0;
        }
        cx.synchronize();
        let mut drained = 0usize;
        while next != 0 {
            let pfn = Pfn::new(u64::from(next));
            next = slab_record(frames, pfn).map_or(0, |page| get(page, NEXT));
            let freed = frames.free(cx, pfn);
            debug_assert_eq!(freed, Ok(()));
            drained = drained.saturating_add(1);
        }
        self.slabs.fetch_sub(drained, Ordering::Relaxed);
        drained
    }

    /// Takes a node from a slab that has one.
    fn take<P: Platform>(&self, cx: &Cx<'_, P>) -> Option<Handle<T>> {
        let frames = cx.frames();
        let mut lists = self.lists.lock(cx, 0);
        if lists.partial == 0 {
            let spare = lists.empty;
            if spare == 0 {
                return None;
            }
            lists.remove(frames, List::Empty, spare);
            lists.push(frames, List::Partial, spare);
        }
        let number = lists.partial;
        let pfn = Pfn::new(u64::from(number));
        let page = slab_record(frames, pfn)?;
        let slot = get(page, FREE).checked_sub(1)?;
        let node: &T = frames.memory().node(pfn, slot as usize);
        let rest = node.free_link().load(Ordering::Relaxed);
        set(page, FREE, rest);
        set(page, LIVE, get(page, LIVE).saturating_add(1));
        if rest == 0 {
            lists.remove(frames, List::Partial, number);
        }
        drop(lists);
        self.live.fetch_add(1, Ordering::Relaxed);
        Handle::from_raw(number.wrapping_shl(slot_bits::<T, P>()) | slot)
    }

    /// Makes a slab of free nodes, on no list. Returns its frame.
    fn build<P: Platform>(&self, cx: &Cx<'_, P>) -> Result<u32, OutOfMemory> {
        let frames = cx.frames();
        let pfn = frames.alloc(cx, 0)?;
        let limit = 1u64.wrapping_shl(u32::BITS.saturating_sub(slot_bits::<T, P>()));
        let (Some(page), true) = (frames.page(pfn), pfn.as_u64() < limit) else {
            // A handle could not name it.
            let freed = frames.free(cx, pfn);
            debug_assert_eq!(freed, Ok(()));
            return Err(OutOfMemory);
        };
        page.reset(Kind::Slab, 0);
        frames.memory().make_slab::<T>(pfn);
        let nodes = frames.memory().slab::<T>(pfn);
        let mut first = 0u32;
        for (slot, node) in (1u32..).zip(nodes) {
            node.free_link().store(first, Ordering::Relaxed);
            first = slot;
        }
        set(page, LIVE, 0);
        set(page, FREE, first);
        self.slabs.fetch_add(1, Ordering::Relaxed);
        Ok(number(pfn))
    }
}

#[cfg(not(loom))]
impl<T: Node> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl Lists {
    fn head(&mut self, list: List) -> &mut u32 {
        match list {
            List::Partial => &mut self.partial,
            List::Empty => &mut self.empty,
        }
    }

    fn push<P: Platform>(&mut self, frames: &Frames<P>, list: List, slab: u32) {
        let next = core::mem::replace(self.head(list), slab);
        if let Some(page) = slab_record(frames, Pfn::new(u64::from(slab))) {
            set(page, PREV, 0);
            set(page, NEXT, next);
        }
        if let Some(next) = slab_record(frames, Pfn::new(u64::from(next))) {
            set(next, PREV, slab);
        }
    }

    fn remove<P: Platform>(&mut self, frames: &Frames<P>, list: List, slab: u32) {
        let Some(page) = slab_record(frames, Pfn::new(u64::from(slab))) else {
            return;
        };
        let (prev, next) = (get(page, PREV), get(page, NEXT));
        match slab_record(frames, Pfn::new(u64::from(prev))) {
            Some(prev) => set(prev, NEXT, next),
            None => *self.head(list) = next,
        }
        if let Some(next) = slab_record(frames, Pfn::new(u64::from(next))) {
            set(next, PREV, prev);
        }
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
            self.pool.free(self.cx, handle);
        }
    }
}

/// log2 of the number of nodes that a frame has numbers for.
const fn slot_bits<T: Node, P: Platform>() -> u32 {
    let size = size_of::<T>().next_power_of_two();
    page_size(P::Format::PAGE_SHIFT)
        .trailing_zeros()
        .saturating_sub(size.trailing_zeros())
}

/// Cuts a handle into frame and slot.
const fn locate<T: Node, P: Platform>(handle: Handle<T>) -> (Pfn, u32) {
    let bits = slot_bits::<T, P>();
    let raw = handle.into_raw();
    (
        Pfn::new(raw.wrapping_shr(bits) as u64),
        raw & !u32::MAX.wrapping_shl(bits),
    )
}

fn slab_record<P: Platform>(frames: &Frames<P>, pfn: Pfn) -> Option<&Page> {
    frames.page(pfn).filter(|page| page.kind() == Kind::Slab)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the page map holds no frame above 32 bits"
)]
const fn number(pfn: Pfn) -> u32 {
    pfn.as_u64() as u32
}

// The pool's lock orders all accesses.
fn get(page: &Page, word: usize) -> u32 {
    page.word(word).load(Ordering::Relaxed)
}

fn set(page: &Page, word: usize, value: u32) {
    page.word(word).store(value, Ordering::Relaxed);
}
