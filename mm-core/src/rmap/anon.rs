//! The nodes: families of areas, and their links to areas.
//!
//! The counts of an [`AnonVma`] and what they decide (all but `refs` under the
//! root's lock for writing):
//!
//! | count | of | decides |
//! |---|---|---|
//! | `refs` | one while it has chains, one per child family for a root, one per walker | freed at zero |
//! | `chains` | areas that may map its pages | it leaves its parent, and loses the first reference, at zero |
//! | `children` | anon_vmas forked off it that have chains; a root counts itself | with `active`: reuse |
//! | `active` | areas whose own anon_vma it is: that add pages to it | with `children`: reuse |
//!
//! **Reuse.** A process that forks, lets the parent exit, and forks again would
//! grow an endless line of anon_vmas, each with one descendant. So a fork
//! gives the child an ancestor's anon_vma that nobody adds pages to any more
//! (`active` zero) and that has at most one child. The root is never reused,
//! because it counts itself. Counting chains instead of active areas here was
//! a bug in Linux that freed an anon_vma under its pages (CVE-2022-42703).

use super::Rmap;
use crate::cx::Cx;
use crate::platform::Platform;
use crate::pool::{AtomicHandle, Handle, Node};
use crate::sync::{AtomicU32, AtomicUsize, Class, Ordering, ReadGuard, RwLock, WriteGuard};
use crate::tree::{Interval, IntervalTree, Links};
use crate::vma::Vma;

/// The areas that may map the anonymous pages of one origin.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(64)))]
pub struct AnonVma {
    /// The family's lock; only the root's is ever taken.
    lock: RwLock<()>,
    root: AtomicHandle<AnonVma>,
    parent: AtomicHandle<AnonVma>,
    refs: AtomicU32,
    chains: AtomicU32,
    children: AtomicU32,
    active: AtomicU32,
    pub(super) tree: IntervalTree<ByPgoff>,
    free: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<AnonVma>() == 64);

impl Node for AnonVma {
    const NAME: &'static str = "anon_vma";

    fn new() -> Self {
        Self {
            lock: RwLock::new(Class::AnonRoot, ()),
            root: AtomicHandle::none(),
            parent: AtomicHandle::none(),
            refs: AtomicU32::new(0),
            chains: AtomicU32::new(0),
            children: AtomicU32::new(0),
            active: AtomicU32::new(0),
            tree: IntervalTree::new(),
            free: AtomicU32::new(0),
        }
    }

    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

impl AnonVma {
    /// Returns the first of the family, which holds its lock.
    pub fn root(&self) -> Option<Handle<Self>> {
        self.root.get()
    }

    /// Returns the one it was forked off; a root is its own parent.
    pub fn parent(&self) -> Option<Handle<Self>> {
        self.parent.get()
    }

    /// Returns the number of references.
    pub fn refs(&self) -> u32 {
        self.refs.load(Ordering::Relaxed)
    }

    /// Returns the number of areas with a chain to it.
    pub fn chains(&self) -> u32 {
        self.chains.load(Ordering::Relaxed)
    }

    /// Returns the number of anon_vmas forked off it that have chains; a root
    /// counts itself.
    pub fn children(&self) -> u32 {
        self.children.load(Ordering::Relaxed)
    }

    /// Returns the number of areas whose own anon_vma it is.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Fills a fresh node. From here on walkers may hold references.
    pub(super) fn fill(&self, root: Handle<Self>, parent: Handle<Self>, children: u32) {
        debug_assert!(
            self.tree.is_empty() && self.chains() == 0,
            "a fresh anon_vma has areas"
        );
        self.root.set(Some(root));
        self.parent.set(Some(parent));
        self.children.store(children, Ordering::Relaxed);
        self.active.store(0, Ordering::Relaxed);
        self.refs.store(1, Ordering::Release);
    }

    /// Whether a fork may give it to a child: see the module.
    pub(super) fn is_reusable(&self) -> bool {
        self.children() < 2 && self.active() == 0
    }

    pub(super) fn add_chain(&self) {
        add(&self.chains);
    }

    /// Returns whether it was the last.
    pub(super) fn sub_chain(&self) -> bool {
        sub(&self.chains) == 0
    }

    pub(super) fn add_child(&self) {
        add(&self.children);
    }

    pub(super) fn sub_child(&self) {
        sub(&self.children);
    }

    pub(super) fn add_active(&self) {
        add(&self.active);
    }

    pub(super) fn sub_active(&self) {
        sub(&self.active);
    }

    /// Adds a reference to one that already has one.
    pub(super) fn add_ref(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a reference unless there is none.
    fn try_add_ref(&self) -> bool {
        let mut old = self.refs.load(Ordering::Relaxed);
        while old != 0 || cfg!(mm_mutant = "walker_revives") {
            let new = old.wrapping_add(1);
            let swap =
                self.refs
                    .compare_exchange_weak(old, new, Ordering::Acquire, Ordering::Relaxed);
            match swap {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// Drops a reference; returns whether it was the last.
    fn put_ref(&self) -> bool {
        let old = self.refs.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(old > 0, "anon_vma reference count below zero");
        old == 1
    }
}

// Under the root's lock for writing: no read-modify-write is needed.
fn add(count: &AtomicU32) {
    count.store(
        count.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

fn sub(count: &AtomicU32) -> u32 {
    let old = count.load(Ordering::Relaxed);
    debug_assert!(old > 0, "anon_vma count below zero");
    let new = old.saturating_sub(1);
    count.store(new, Ordering::Relaxed);
    new
}

/// The link between one area and one anon_vma: 64 bytes.
///
/// ```text
/// area ── chains ──► chain ── next ──► chain ── next ──► none
///                      │ anon            │ anon
///                      ▼                 ▼         each also in the anon_vma's
///                   AnonVma           AnonVma      tree, by the area's offsets
/// ```
#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(64)))]
pub struct AnonVmaChain {
    links: Links<AnonVmaChain>,
    subtree_last: AtomicUsize,
    /// The area's offsets, as they were when it was shown.
    first: AtomicUsize,
    last: AtomicUsize,
    vma: AtomicHandle<Vma>,
    anon: AtomicHandle<AnonVma>,
    /// The next chain of the area.
    next: AtomicU32,
    free: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<AnonVmaChain>() == 64);

impl Node for AnonVmaChain {
    const NAME: &'static str = "anon_vma_chain";

    fn new() -> Self {
        Self {
            links: Links::new(),
            subtree_last: AtomicUsize::new(0),
            first: AtomicUsize::new(0),
            last: AtomicUsize::new(0),
            vma: AtomicHandle::none(),
            anon: AtomicHandle::none(),
            next: AtomicU32::new(0),
            free: AtomicU32::new(0),
        }
    }

    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

impl AnonVmaChain {
    pub(super) fn anon(&self) -> Option<Handle<AnonVma>> {
        self.anon.get_locked()
    }

    pub(super) fn vma(&self) -> Option<Handle<Vma>> {
        self.vma.get_locked()
    }

    pub(super) fn is_shown(&self) -> bool {
        self.links.is_linked()
    }

    #[cfg(any(test, feature = "validate"))]
    pub(super) fn interval(&self) -> (usize, usize) {
        (
            self.first.load(Ordering::Relaxed),
            self.last.load(Ordering::Relaxed),
        )
    }

    pub(super) fn set_interval(&self, vma: &Vma) {
        self.first.store(vma.pgoff(), Ordering::Relaxed);
        self.last.store(vma.last_pgoff(), Ordering::Relaxed);
    }

    pub(super) fn set_ends(&self, vma: Handle<Vma>, anon: Handle<AnonVma>) {
        self.set_vma(vma);
        self.anon.set(Some(anon));
    }

    pub(super) fn set_vma(&self, vma: Handle<Vma>) {
        self.vma.set(Some(vma));
    }

    pub(super) fn next(&self) -> Option<Handle<Self>> {
        Handle::from_raw(self.next.load(Ordering::Relaxed))
    }

    pub(super) fn set_next(&self, next: Option<Handle<Self>>) {
        self.next
            .store(next.map_or(0, Handle::into_raw), Ordering::Relaxed);
    }
}

/// The place of chains in the interval tree of their anon_vma.
#[derive(Debug)]
pub struct ByPgoff;

impl Interval for ByPgoff {
    type Node = AnonVmaChain;

    fn links(node: &AnonVmaChain) -> &Links<AnonVmaChain> {
        &node.links
    }
    fn first(node: &AnonVmaChain) -> usize {
        node.first.load(Ordering::Relaxed)
    }
    fn last(node: &AnonVmaChain) -> usize {
        node.last.load(Ordering::Relaxed)
    }
    fn subtree_last(node: &AnonVmaChain) -> &AtomicUsize {
        &node.subtree_last
    }
}

/// Proof that a family's lock is held for writing.
#[must_use = "the family is locked only as long as this lives"]
pub struct RootGuard<'c, 'm, P: Platform> {
    root: Handle<AnonVma>,
    _lock: WriteGuard<'c, (), Cx<'m, P>>,
}

impl<P: Platform> RootGuard<'_, '_, P> {
    /// Returns the root of the locked family.
    pub fn root(&self) -> Handle<AnonVma> {
        self.root
    }
}

impl<'c, 'm, P: Platform> Rmap<'c, 'm, P> {
    /// Locks the family of an anon_vma that is alive: an area that the caller
    /// keeps has a chain to it.
    ///
    /// # Locks
    /// Takes the root's (`AnonRoot`, keyed by the root) for writing.
    pub fn lock(&self, anon: Handle<AnonVma>) -> RootGuard<'c, 'm, P> {
        let root = self.root_of(anon);
        let lock = self.anon(root).lock.write(self.cx, root.into_raw());
        RootGuard { root, _lock: lock }
    }

    /// Locks a family for reading.
    pub(super) fn lock_shared(&self, anon: Handle<AnonVma>) -> ReadGuard<'c, (), Cx<'m, P>> {
        let root = self.root_of(anon);
        self.anon(root).lock.read(self.cx, root.into_raw())
    }

    /// Returns the root of the family: the owner of a page that is not known to
    /// be exclusive to one area's anon_vma.
    pub fn root_of(&self, anon: Handle<AnonVma>) -> Handle<AnonVma> {
        let root = self.anon(anon).root();
        debug_assert!(root.is_some(), "{anon:?} was never filled");
        root.unwrap_or(anon)
    }

    /// Takes a reference to an anon_vma that may be about to go.
    ///
    /// # Locks
    /// None; the node's slab must not be freed meanwhile: an epoch pin.
    pub(super) fn try_get_anon(&self, anon: Handle<AnonVma>) -> bool {
        self.anon(anon).try_add_ref()
    }

    /// Drops a reference. The last one frees it, and the last of a family
    /// frees the root.
    ///
    /// # Locks
    /// The family's must not be held. Takes `Pool`.
    pub(super) fn put_anon(&self, anon: Handle<AnonVma>) {
        let mut at = anon;
        // Twice at most: a root is its own root.
        while self.anon(at).put_ref() {
            let root = self.root_of(at);
            debug_assert!(
                self.anon(at).tree.is_empty(),
                "{at:?} is freed while areas use it"
            );
            let freed = self.anons.free(self.cx, at);
            debug_assert_eq!(freed, Ok(()));
            if root == at {
                return;
            }
            at = root;
        }
    }

    pub(super) fn alloc_anon(&self) -> Result<Handle<AnonVma>, crate::error::OutOfMemory> {
        self.anons.alloc(self.cx)
    }

    /// Gives a node back that was never filled since it was taken.
    pub(super) fn free_fresh_anon(&self, anon: Handle<AnonVma>) {
        let freed = self.anons.free(self.cx, anon);
        debug_assert_eq!(freed, Ok(()));
    }
}
