//! The areas of one space, by address.
//!
//! ```text
//!          first_ending_above(p)            last_starting_below(p)
//!   [AAAA)      [BBBB)                 [AAAA)      [BBBB)
//!     p ───────► A                       p ───────► A
//!        p ────► B                             p ─► A
//! ```
//!
//! All of it under the space lock but [`VmaTree::lookup`], which a fault calls
//! in an epoch pin without it: what that returns is a candidate, to be
//! counted into and checked ([`Vma::try_read`]); when it returns nothing, that
//! proves nothing.
//!
//! The tree has no caches, lists or counts beside it, so there is nothing that
//! could disagree with it (`check` recomputes its only summary, the gaps).

use super::Vma;
use crate::addr::Vpn;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::sync::{AtomicU32, AtomicUsize, Ordering};
#[cfg(any(test, feature = "validate"))]
use crate::tree::Flaw;
use crate::tree::{Area, GapRequest, GapTree, GapWords, Interval, Links, Resolve};
use core::cmp;
use core::iter;

/// Pages kept free below an area that grows down, so that a stack that
/// overruns meets a fault and not its neighbour (Linux `stack_guard_gap`).
/// What a space has unless it says otherwise.
pub const STACK_GUARD_PAGES: u32 = 256;

/// The place of areas in the tree of their space.
pub struct ByAddress;

impl Area for ByAddress {
    type Node = Vma;

    fn links(node: &Vma) -> &Links<Vma> {
        &node.links
    }
    fn gaps(node: &Vma) -> &GapWords {
        &node.gaps
    }
    fn start(node: &Vma) -> usize {
        node.start().as_usize()
    }
    fn end(node: &Vma) -> usize {
        node.end().as_usize()
    }
    fn floor(node: &Vma) -> usize {
        node.floor().as_usize()
    }
}

/// The place of areas in the interval tree of the object they map.
pub struct ByOffset;

impl Interval for ByOffset {
    type Node = Vma;

    fn links(node: &Vma) -> &Links<Vma> {
        &node.interval
    }
    fn first(node: &Vma) -> usize {
        node.pgoff()
    }
    fn last(node: &Vma) -> usize {
        node.last_pgoff()
    }
    fn subtree_last(node: &Vma) -> &AtomicUsize {
        &node.subtree_last
    }
}

/// Two areas between which no other is; none at an end.
pub(super) type Neighbours = crate::tree::Neighbours<Vma>;

/// The areas of one space.
#[derive(Debug)]
pub struct VmaTree {
    tree: GapTree<ByAddress>,
    space: AtomicU32,
    stack_guard: AtomicU32,
}

impl VmaTree {
    #[cfg(not(loom))]
    /// Makes the tree of a space without areas.
    pub const fn new() -> Self {
        Self {
            tree: GapTree::new(),
            space: AtomicU32::new(0),
            stack_guard: AtomicU32::new(STACK_GUARD_PAGES),
        }
    }

    #[cfg(loom)]
    /// Makes the tree of a space without areas.
    pub fn new() -> Self {
        Self {
            tree: GapTree::new(),
            space: AtomicU32::new(0),
            stack_guard: AtomicU32::new(STACK_GUARD_PAGES),
        }
    }

    /// Says which space the areas belong to: the number of its node's handle.
    ///
    /// # Locks
    /// Before the first area is inserted.
    pub fn set_space(&self, space: u32) {
        debug_assert!(self.is_empty());
        self.space.store(space, Ordering::Relaxed);
    }

    /// Returns the number of the space's node.
    pub fn space(&self) -> u32 {
        self.space.load(Ordering::Relaxed)
    }

    /// Sets how many pages are kept free below areas that grow down and are
    /// made from now on.
    ///
    /// # Locks
    /// The space lock for writing.
    pub fn set_stack_guard(&self, pages: u32) {
        self.stack_guard.store(pages, Ordering::Relaxed);
    }

    /// Returns how many pages are kept free below areas that grow down.
    pub fn stack_guard(&self) -> u32 {
        self.stack_guard.load(Ordering::Relaxed)
    }

    /// Returns whether there is no area.
    pub fn is_empty(&self) -> bool {
        self.tree.tree().is_empty()
    }

    /// Returns the area that holds the page.
    pub fn find(&self, nodes: &impl Resolve<Vma>, page: Vpn) -> Option<Handle<Vma>> {
        // One comparison a level, to the bottom: faster than two and an early end.
        self.first_ending_above(nodes, page)
            .filter(|&vma| nodes.get(vma).start() <= page)
    }

    /// Returns a candidate for the area that holds the page, without any lock.
    /// `None` proves nothing.
    ///
    /// # Locks
    /// None; in an epoch pin.
    pub fn lookup(&self, nodes: &impl Resolve<Vma>, page: Vpn) -> Option<Handle<Vma>> {
        self.tree.tree().find_unlocked(nodes, |vma| side(vma, page))
    }

    /// Returns the area that holds the page, else the next one above.
    pub fn first_ending_above(&self, nodes: &impl Resolve<Vma>, page: Vpn) -> Option<Handle<Vma>> {
        self.tree.tree().lower_bound(nodes, |vma| vma.end() <= page)
    }

    /// Returns the last area that begins below the page.
    pub fn last_starting_below(&self, nodes: &impl Resolve<Vma>, page: Vpn) -> Option<Handle<Vma>> {
        self.tree.tree().last_where(nodes, |vma| vma.start() < page)
    }

    /// Returns the last area that ends at or below the page, and the first that ends
    /// above it: [`Self::first_ending_above`] and its neighbour in one way down.
    pub(super) fn around(&self, nodes: &impl Resolve<Vma>, page: Vpn) -> Neighbours {
        self.tree.tree().around(nodes, |vma| vma.end() <= page)
    }

    /// Returns the lowest area.
    pub fn first(&self, nodes: &impl Resolve<Vma>) -> Option<Handle<Vma>> {
        self.tree.tree().first(nodes)
    }

    /// Returns the highest area.
    pub fn last(&self, nodes: &impl Resolve<Vma>) -> Option<Handle<Vma>> {
        self.tree.tree().last(nodes)
    }

    /// Returns the area above this one.
    pub fn next(&self, nodes: &impl Resolve<Vma>, vma: Handle<Vma>) -> Option<Handle<Vma>> {
        self.tree.tree().next(nodes, vma)
    }

    /// Returns the area below this one.
    pub fn prev(&self, nodes: &impl Resolve<Vma>, vma: Handle<Vma>) -> Option<Handle<Vma>> {
        self.tree.tree().prev(nodes, vma)
    }

    /// Walks the areas in ascending order. No area may be inserted or removed
    /// meanwhile: who changes areas finds each by its page instead.
    pub fn iter<R: Resolve<Vma>>(&self, nodes: &R) -> impl Iterator<Item = Handle<Vma>> {
        iter::successors(self.first(nodes), move |&vma| self.next(nodes, vma))
    }

    /// Walks the areas that hold a page of the range, in ascending order; as
    /// [`Self::iter`].
    pub fn overlapping<R: Resolve<Vma>>(
        &self,
        nodes: &R,
        range: PageRange,
    ) -> impl Iterator<Item = Handle<Vma>> {
        let first = if range.is_empty() {
            None
        } else {
            self.first_ending_above(nodes, range.start())
        };
        iter::successors(first, move |&vma| self.next(nodes, vma))
            .take_while(move |&vma| nodes.get(vma).start() < range.end())
    }

    /// Returns the first page of the range that no area holds.
    pub fn first_hole(&self, nodes: &impl Resolve<Vma>, range: PageRange) -> Option<Vpn> {
        let mut at = range.start();
        for vma in self.overlapping(nodes, range) {
            let held = nodes.get(vma).range();
            if held.start() > at {
                break;
            }
            at = held.end();
        }
        (at < range.end()).then_some(at)
    }

    /// Returns the first page of a free place that meets the request.
    pub fn find_gap(&self, nodes: &impl Resolve<Vma>, request: &GapRequest) -> Option<Vpn> {
        self.tree.find_gap(nodes, request).map(Vpn::new)
    }

    /// Returns whether the range is free and keeps its distance from the areas
    /// that grow down towards it: what makes an address hint good.
    pub fn is_free(&self, nodes: &impl Resolve<Vma>, range: PageRange) -> bool {
        self.first_ending_above(nodes, range.start())
            .is_none_or(|vma| range.end() <= nodes.get(vma).floor())
    }

    /// Puts a filled area that overlaps none into the tree.
    ///
    /// # Locks
    /// The space lock for writing.
    pub(super) fn insert(&self, nodes: &impl Resolve<Vma>, vma: Handle<Vma>) {
        self.tree.insert(nodes, vma);
    }

    /// As [`Self::insert`], between two neighbours.
    ///
    /// # Locks
    /// The space lock for writing.
    pub(super) fn insert_between(
        &self,
        nodes: &impl Resolve<Vma>,
        vma: Handle<Vma>,
        between: Neighbours,
    ) {
        self.tree.insert_between(nodes, vma, between);
    }

    /// Takes an area out of the tree.
    ///
    /// # Locks
    /// The space lock for writing; the area is write-marked.
    pub(super) fn remove(&self, nodes: &impl Resolve<Vma>, vma: Handle<Vma>) {
        self.tree.remove(nodes, vma);
    }

    /// Brings the gaps up to date after the edges of an area were moved.
    ///
    /// # Locks
    /// The space lock for writing.
    pub(super) fn resized(&self, nodes: &impl Resolve<Vma>, vma: Handle<Vma>) {
        self.tree.moved(nodes, vma);
    }

    /// Checks the tree, its order and its gaps against the areas alone; returns
    /// their number.
    ///
    /// # Errors
    /// What is wrong first.
    ///
    /// # Locks
    /// The space lock for writing.
    #[cfg(any(test, feature = "validate"))]
    pub fn check(&self, nodes: &impl Resolve<Vma>) -> Result<usize, VmaFlaw> {
        let count = self.tree.check(nodes).map_err(VmaFlaw::Tree)?;
        let mut end = Vpn::new(0);
        for vma in self.iter(nodes) {
            let node = nodes.get(vma);
            if !node.is_attached() {
                return Err(VmaFlaw::NotAttached(node.range()));
            }
            if node.space() != self.space() {
                return Err(VmaFlaw::Foreign(node.range()));
            }
            if node.range().is_empty() {
                return Err(VmaFlaw::Empty(node.start()));
            }
            if node.start() < end {
                return Err(VmaFlaw::Overlap(node.range()));
            }
            end = node.end();
        }
        Ok(count)
    }
}

impl Default for VmaTree {
    fn default() -> Self {
        Self::new()
    }
}

/// What is wrong with the areas of a space.
#[cfg(any(test, feature = "validate"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmaFlaw {
    /// The tree itself is.
    Tree(Flaw),
    /// An area is in the tree but free.
    NotAttached(PageRange),
    /// An area says it belongs to another space.
    Foreign(PageRange),
    /// An area without pages.
    Empty(Vpn),
    /// An area begins below the end of the one before it.
    Overlap(PageRange),
}

fn side(vma: &Vma, page: Vpn) -> cmp::Ordering {
    if page < vma.start() {
        cmp::Ordering::Greater
    } else if page < vma.end() {
        cmp::Ordering::Equal
    } else {
        cmp::Ordering::Less
    }
}
