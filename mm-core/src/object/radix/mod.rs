//! The pages of an object by page offset: a radix tree of 64-way nodes.
//!
//! ```text
//! root ─► level 2 ─► level 1 ─► frame numbers      page offset 0x0_1_2
//!          [64]       [64]                          slot 1 of the root, slot 2 below
//! ```
//!
//! The root's level is as high as the largest offset needs, so a small file is
//! one node. Each node counts its used slots, and has one bit per slot that
//! says whether a dirty page is below: writeback visits nothing else.
//!
//! Changes are made under the index's lock, with nodes that were allocated
//! before. [`Index::peek`] takes no lock: slots and links are published with
//! release, nodes are type-stable, and a slot is believed only if its node was in one
//! life before and after it was read (`node`), so
//! it finds a page, or none, that was there while it ran; or the page of another
//! object, if a node was reused under it: who peeks checks the page's record.
//! A node that is not in use has only empty slots.

mod node;

pub use node::RadixNode;

use crate::addr::Pfn;
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::page::Frames;
use crate::platform::Platform;
use crate::pool::{AtomicHandle, Handle, Pool, Reserve};
use crate::sync::{AtomicUsize, Class, Mutex, Ordering};
use arrayvec::ArrayVec;

/// log2 of the number of slots.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// Levels that 64-bit offsets need.
const MAX_LEVELS: usize = 11;
/// Nodes that one page may need: roots on top of a small tree and a new branch
/// beside it.
const MAX_NEW: usize = 2 * (MAX_LEVELS - 1);

/// The pool of radix nodes and the memory they are in.
pub(super) struct Nodes<'m, P: Platform> {
    pub(super) frames: &'m Frames<P>,
    pub(super) pool: &'m Pool<RadixNode>,
}

impl<P: Platform> Clone for Nodes<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for Nodes<'_, P> {}

impl<'m, P: Platform> Nodes<'m, P> {
    fn get(self, handle: Handle<RadixNode>) -> &'m RadixNode {
        self.pool.get(self.frames, handle)
    }
}

/// What a search looks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Any page.
    Page,
    /// A dirty page.
    Dirty,
}

/// What became of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inserted {
    /// The page is in the index.
    Done,
    /// Another page is there.
    Occupied,
    /// The caller's condition, tested under the lock, did not hold.
    Refused,
}

/// The pages of one object.
#[derive(Debug)]
pub(super) struct Index {
    lock: Mutex<()>,
    root: AtomicHandle<RadixNode>,
    pages: AtomicUsize,
}

type Path = ArrayVec<(Handle<RadixNode>, usize), MAX_LEVELS>;

impl Index {
    pub(super) fn new() -> Self {
        Self {
            lock: Mutex::new(Class::Radix, ()),
            root: AtomicHandle::none(),
            pages: AtomicUsize::new(0),
        }
    }

    /// Returns the number of pages.
    pub(super) fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Finds a page without a lock. The caller is pinned, and checks the
    /// page's record: see the module.
    pub(super) fn peek<P: Platform>(&self, nodes: Nodes<'_, P>, pgoff: u64) -> Option<Pfn> {
        let mut node = nodes.get(self.root.get()?);
        let mut level = node.level();
        if !reaches(level, pgoff) {
            return None;
        }
        loop {
            // Never a slot's number before it is known for whose it is: a frame is no node.
            let held = node.peek(level, slot_of(pgoff, level))?;
            if level <= 1 {
                return named(held);
            }
            node = nodes.get(Handle::from_raw(held)?);
            level = level.wrapping_sub(1);
        }
    }

    /// Finds a page under the lock and lets `take` have it before it can go.
    ///
    /// # Locks
    /// Takes `Radix`; `take` runs inside.
    pub(super) fn find<P: Platform, R>(
        &self,
        cx: &Cx<'_, P>,
        nodes: Nodes<'_, P>,
        pgoff: u64,
        take: impl FnOnce(Pfn) -> R,
    ) -> Option<R> {
        let _held = self.lock.lock(cx, 0);
        let mut path = Path::new();
        self.descend(nodes, pgoff, &mut path).map(take)
    }

    /// Puts a page in, if the place is empty and `allowed` (tested under the
    /// lock) holds.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing changed.
    ///
    /// # Locks
    /// Takes `Radix`; allocates outside of it.
    pub(super) fn insert<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        nodes: Nodes<'_, P>,
        pgoff: u64,
        pfn: Pfn,
        allowed: impl Fn() -> bool,
    ) -> Result<Inserted, OutOfMemory> {
        let page = u32::try_from(pfn.as_u64()).map_err(|_| OutOfMemory)?;
        let mut need = {
            let _held = self.lock.lock(cx, 0);
            self.missing(nodes, pgoff)
        };
        loop {
            let mut reserve = nodes.pool.prealloc::<P, MAX_NEW>(cx, need)?;
            let held = self.lock.lock(cx, 0);
            need = self.missing(nodes, pgoff);
            if need > reserve.len() {
                // The tree changed since it was measured.
                drop(held);
                continue;
            }
            if !allowed() {
                drop(held);
                return Ok(Inserted::Refused);
            }
            let done = self.place(nodes, &mut reserve, pgoff, page);
            drop(held);
            if done == Some(Inserted::Done) {
                self.pages.fetch_add(1, Ordering::Relaxed);
            }
            debug_assert!(done.is_some(), "the reserve was measured under the lock");
            return done.ok_or(OutOfMemory);
        }
    }

    /// Takes out the page at an offset if it is this one.
    ///
    /// # Locks
    /// Takes `Radix` and, inside, `Pool`.
    pub(super) fn remove<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        nodes: Nodes<'_, P>,
        pgoff: u64,
        pfn: Pfn,
        removed: impl FnOnce(),
    ) -> bool {
        let _held = self.lock.lock(cx, 0);
        let mut path = Path::new();
        if self.descend(nodes, pgoff, &mut path) != Some(pfn) {
            return false;
        }
        self.cut(cx, nodes, path);
        removed();
        true
    }

    /// Takes out the first pages from an offset on, as many as fit in `out`.
    ///
    /// # Locks
    /// Takes `Radix` and, inside, `Pool`.
    pub(super) fn remove_from<P: Platform, const N: usize>(
        &self,
        cx: &Cx<'_, P>,
        nodes: Nodes<'_, P>,
        from: u64,
        out: &mut ArrayVec<Pfn, N>,
        mut removed: impl FnMut(Pfn),
    ) {
        let _held = self.lock.lock(cx, 0);
        while !out.is_full() {
            let mut path = Path::new();
            let Some((pgoff, pfn)) = self.search(nodes, from, Want::Page) else {
                return;
            };
            if self.descend(nodes, pgoff, &mut path) != Some(pfn) {
                return;
            }
            self.cut(cx, nodes, path);
            removed(pfn);
            out.push(pfn);
        }
    }

    /// Finds the first wanted page at or above an offset, and lets `take`
    /// have it before it can go.
    ///
    /// # Locks
    /// Takes `Radix`; `take` runs inside.
    pub(super) fn next<P: Platform, R>(
        &self,
        cx: &Cx<'_, P>,
        nodes: Nodes<'_, P>,
        from: u64,
        want: Want,
        take: impl FnOnce(u64, Pfn) -> R,
    ) -> Option<R> {
        let _held = self.lock.lock(cx, 0);
        self.search(nodes, from, want)
            .map(|(pgoff, pfn)| take(pgoff, pfn))
    }

    /// Marks a page dirty or clean, if it is (still) in the index; returns
    /// whether it is.
    ///
    /// # Locks
    /// Takes `Radix`; `change` runs inside when the page is there.
    pub(super) fn mark<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        nodes: Nodes<'_, P>,
        pgoff: u64,
        pfn: Pfn,
        change: impl FnOnce() -> Mark,
    ) -> bool {
        let _held = self.lock.lock(cx, 0);
        let mut path = Path::new();
        if self.descend(nodes, pgoff, &mut path) != Some(pfn) {
            return false;
        }
        match change() {
            Mark::Dirty => {
                for (handle, i) in path {
                    nodes.get(handle).set_dirty(i);
                }
            }
            Mark::Clean => {
                for (handle, i) in path.into_iter().rev() {
                    let node = nodes.get(handle);
                    node.clear_dirty(i);
                    if node.has_dirty() {
                        break;
                    }
                }
            }
            Mark::Kept => {}
        }
        true
    }

    /// Walks down to a page; `path` gets the nodes and slots, root first.
    fn descend<P: Platform>(
        &self,
        nodes: Nodes<'_, P>,
        pgoff: u64,
        path: &mut Path,
    ) -> Option<Pfn> {
        let mut handle = self.root.get_locked()?;
        let mut level = nodes.get(handle).level();
        if !reaches(level, pgoff) {
            return None;
        }
        loop {
            let slot = slot_of(pgoff, level);
            path.push((handle, slot));
            let node = nodes.get(handle);
            if level <= 1 {
                return named(node.slot(slot));
            }
            handle = node.child(slot)?;
            level = level.wrapping_sub(1);
        }
    }

    /// Counts the nodes that a page at this offset still needs.
    fn missing<P: Platform>(&self, nodes: Nodes<'_, P>, pgoff: u64) -> usize {
        let wanted = level_for(pgoff);
        let Some(root) = self.root.get_locked() else {
            return wanted as usize;
        };
        let level = nodes.get(root).level();
        if level < wanted {
            // New roots on top, and a new branch beside the old one.
            let above = wanted.saturating_sub(level);
            return above.saturating_add(wanted.saturating_sub(1)) as usize;
        }
        let mut path = Path::new();
        if self.descend(nodes, pgoff, &mut path).is_some() {
            return 0;
        }
        (level as usize).saturating_sub(path.len())
    }

    /// Puts a page in, taking nodes from the reserve; `None` when it ran out.
    fn place<P: Platform>(
        &self,
        nodes: Nodes<'_, P>,
        reserve: &mut Reserve<'_, '_, RadixNode, P, MAX_NEW>,
        pgoff: u64,
        page: u32,
    ) -> Option<Inserted> {
        let wanted = level_for(pgoff);
        let mut make = |level: u32| {
            let handle = reserve.take()?;
            nodes.get(handle).begin_life(level);
            Some(handle)
        };
        let mut handle = match self.root.get_locked() {
            Some(root) => root,
            None => {
                let root = make(wanted)?;
                self.root.set(Some(root));
                root
            }
        };
        while nodes.get(handle).level() < wanted {
            let above = make(nodes.get(handle).level().saturating_add(1))?;
            let node = nodes.get(above);
            node.fill(0, handle.into_raw());
            if nodes.get(handle).has_dirty() {
                node.set_dirty(0);
            }
            self.root.set(Some(above));
            handle = above;
        }
        let mut level = nodes.get(handle).level();
        while level > 1 {
            let (node, slot) = (nodes.get(handle), slot_of(pgoff, level));
            level = level.wrapping_sub(1);
            handle = match node.child(slot) {
                Some(child) => child,
                None => {
                    let child = make(level)?;
                    node.fill(slot, child.into_raw());
                    child
                }
            };
        }
        let (node, slot) = (nodes.get(handle), slot_of(pgoff, 1));
        if node.slot(slot) != 0 {
            return Some(Inserted::Occupied);
        }
        node.fill(slot, page);
        Some(Inserted::Done)
    }

    /// Empties the slot at the end of a path, and frees nodes that become empty.
    fn cut<P: Platform>(&self, cx: &Cx<'_, P>, nodes: Nodes<'_, P>, path: Path) {
        let mut emptied = true;
        let mut clean = true;
        for (handle, slot) in path.into_iter().rev() {
            let node = nodes.get(handle);
            if emptied {
                emptied = node.empty(slot);
                if emptied {
                    if self.root.get_locked() == Some(handle) {
                        self.root.set(None);
                    }
                    let freed = nodes.pool.free(cx, handle);
                    debug_assert_eq!(freed, Ok(()));
                }
            } else if clean {
                node.clear_dirty(slot);
            }
            clean = clean && !node.has_dirty();
        }
        self.pages.fetch_sub(1, Ordering::Relaxed);
    }

    /// Finds the first wanted page at or above an offset.
    fn search<P: Platform>(
        &self,
        nodes: Nodes<'_, P>,
        from: u64,
        want: Want,
    ) -> Option<(u64, Pfn)> {
        let root = nodes.get(self.root.get_locked()?);
        let mut at = from;
        loop {
            let mut node = root;
            let mut level = root.level();
            if !reaches(level, at) {
                return None;
            }
            loop {
                let first = slot_of(at, level);
                let wanted = |&i: &usize| match want {
                    Want::Page => node.slot(i) != 0,
                    Want::Dirty => node.is_dirty(i),
                };
                let Some(i) = (first..SLOTS).find(wanted) else {
                    // Nothing more below this node: on behind it.
                    at = (at | below(level.saturating_add(1))).checked_add(1)?;
                    break;
                };
                if i > first {
                    let rest = below(level.saturating_add(1));
                    at = (at & !rest) | (i as u64).wrapping_shl(shift(level));
                }
                if level <= 1 {
                    return named(node.slot(i)).map(|pfn| (at, pfn));
                }
                node = nodes.get(node.child(i)?);
                level = level.wrapping_sub(1);
            }
        }
    }
}

/// How to mark a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Newer than what the pager holds.
    Dirty,
    /// As the pager holds it.
    Clean,
    /// As it is marked.
    Kept,
}

/// log2 of the pages that a slot of this level spans.
const fn shift(level: u32) -> u32 {
    level.saturating_sub(1).saturating_mul(BITS)
}

/// The mask of the offsets that a slot of this level spans: all of a node of
/// the level below.
const fn below(level: u32) -> u64 {
    match 1u64.checked_shl(shift(level)) {
        Some(n) => n.wrapping_sub(1),
        None => u64::MAX,
    }
}

const fn slot_of(pgoff: u64, level: u32) -> usize {
    match pgoff.checked_shr(shift(level)) {
        Some(n) => (n as usize) & (SLOTS - 1),
        None => 0,
    }
}

/// Returns whether a tree with a root of this level has a place for the offset.
const fn reaches(level: u32, pgoff: u64) -> bool {
    pgoff <= below(level.saturating_add(1))
}

/// Returns the least level of a root that reaches an offset.
fn level_for(pgoff: u64) -> u32 {
    u64::BITS
        .saturating_sub(pgoff.leading_zeros())
        .div_ceil(BITS)
        .max(1)
}

fn named(page: u32) -> Option<Pfn> {
    if page == 0 {
        None
    } else {
        Some(Pfn::new(u64::from(page)))
    }
}
