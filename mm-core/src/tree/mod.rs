//! Augmented red-black trees over pooled nodes.
//!
//! Written once, used for the areas of a space by address ([`GapTree`]: each
//! subtree knows its largest gap) and for the areas that may map a page
//! ([`IntervalTree`]: each subtree knows its highest last page). The tree is
//! intrusive: a node carries its [`Links`], so inserting and removing need no
//! memory and cannot fail.
//!
//! ```text
//!   Tree.root ──> node ──left──> node        every link is a handle in an atomic;
//!                  │ ^            │          a node knows its parent, so nothing
//!                right└──parent───┘          here recurses or keeps a stack
//! ```
//!
//! **Who may do what.** All changes, and all methods but one, are made under
//! the lock of the tree's owner. [`Tree::find_unlocked`] is the exception: it
//! runs in an epoch pin while somebody rotates. It reads each link once, gives
//! up after [`MAX_STEPS`], and so may miss a node or find one of another tree
//! (nodes are type-stable and reused), but never loops. What it finds is a
//! candidate that the caller locks and then checks again.
//!
//! **States of a node.** `UNLINKED` → `insert` → `RED`/`BLACK` → `remove` →
//! `UNLINKED`, with all links empty: a reader that stands on a removed node
//! falls out of the tree. A node is in at most one tree per `Links`.
//!
//! **Augmentation.** Each node keeps a summary of its subtree, a function of
//! the node and its children's summaries ([`Adapter::augment`]). Insertion and
//! removal recompute it upwards from the lowest changed node and stop at the
//! first ancestor that comes out as before; a rotation recomputes the two
//! nodes that it turns, whose common subtree is the same set as before.

mod balance;
#[cfg(any(test, feature = "validate"))]
mod check;
mod gap;
mod interval;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(any(test, feature = "validate"))]
pub use check::Flaw;
pub use gap::{Area, Direction, GapRequest, GapTree, GapWords};
pub use interval::{Interval, IntervalTree, Overlaps};

use crate::pool::{AtomicHandle, Handle, Node};
use crate::sync::{AtomicU32, Ordering};
use core::cmp;
use core::fmt;
use core::iter;
use core::marker::PhantomData;

/// Two nodes between which no other is; none at an end.
pub type Neighbours<T> = (Option<Handle<T>>, Option<Handle<T>>);

/// The most nodes that [`Tree::find_unlocked`] visits: a red-black tree of all
/// the nodes that 32-bit handles can name is at most this deep.
pub const MAX_STEPS: usize = 2 * 32 + 2;

/// The way from handles to nodes: a pool, or a vector in tests.
pub trait Resolve<T> {
    /// Returns the node of this name.
    fn get(&self, handle: Handle<T>) -> &T;
}

impl<T, R: Resolve<T> + ?Sized> Resolve<T> for &R {
    fn get(&self, handle: Handle<T>) -> &T {
        (**self).get(handle)
    }
}

/// How a type of node takes part in one kind of tree.
pub trait Adapter {
    /// The nodes.
    type Node: Node;

    /// Returns the links that this kind of tree uses.
    fn links(node: &Self::Node) -> &Links<Self::Node>;

    /// Returns whether `a` stands before `b`. Nodes that are equal in this
    /// order stand in the order of their insertion.
    fn precedes(a: &Self::Node, b: &Self::Node) -> bool;

    /// Recomputes the summary of the node's subtree from the node and its
    /// children's summaries; returns whether it changed.
    fn augment(node: &Self::Node, left: Option<&Self::Node>, right: Option<&Self::Node>) -> bool;
}

/// One of the two directions in a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Left,
    Right,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

const UNLINKED: u32 = 0;
const RED: u32 = 1;
const BLACK: u32 = 2;

/// A node's place in one tree: 16 bytes.
pub struct Links<T> {
    parent: AtomicHandle<T>,
    left: AtomicHandle<T>,
    right: AtomicHandle<T>,
    state: AtomicU32,
}

impl<T> Links<T> {
    /// Makes the links of a node that is in no tree.
    pub fn new() -> Self {
        Self {
            parent: AtomicHandle::none(),
            left: AtomicHandle::none(),
            right: AtomicHandle::none(),
            state: AtomicU32::new(UNLINKED),
        }
    }

    /// Returns whether the node is in a tree.
    pub fn is_linked(&self) -> bool {
        self.state.load(Ordering::Relaxed) != UNLINKED
    }

    fn child(&self, side: Side) -> Option<Handle<T>> {
        self.cell(side).get_locked()
    }

    fn cell(&self, side: Side) -> &AtomicHandle<T> {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    fn is_red(&self) -> bool {
        self.state.load(Ordering::Relaxed) == RED
    }

    fn paint(&self, colour: u32) {
        self.state.store(colour, Ordering::Relaxed);
    }

    fn colour(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    /// Empties all links: whoever still reads them falls out of the tree.
    fn reset(&self) {
        self.parent.set(None);
        self.left.set(None);
        self.right.set(None);
        self.paint(UNLINKED);
    }
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Links<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("parent", &self.parent)
            .field("left", &self.left)
            .field("right", &self.right)
            .field("state", &self.colour())
            .finish()
    }
}

/// A tree: the handle of its root.
pub struct Tree<A: Adapter> {
    root: AtomicHandle<A::Node>,
    adapter: PhantomData<fn() -> A>,
}

impl<A: Adapter> Tree<A> {
    #[cfg(not(loom))]
    /// Makes an empty tree.
    pub const fn new() -> Self {
        Self {
            root: AtomicHandle::none(),
            adapter: PhantomData,
        }
    }

    #[cfg(loom)]
    /// Makes an empty tree.
    pub fn new() -> Self {
        Self {
            root: AtomicHandle::none(),
            adapter: PhantomData,
        }
    }

    /// Returns whether no node is in the tree.
    pub fn is_empty(&self) -> bool {
        self.root.get_locked().is_none()
    }

    /// Returns the root.
    pub fn root(&self) -> Option<Handle<A::Node>> {
        self.root.get_locked()
    }

    /// Inserts a node that is in no tree of this kind, behind those that are
    /// equal to it: fork relies on that order (`vma::duplicate`). Its key must
    /// not change while it is in.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn insert<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) {
        let new = nodes.get(node);
        debug_assert!(!A::links(new).is_linked(), "{node:?} is in a tree already");
        let mut parent = None;
        let mut side = Side::Left;
        let mut at = self.root.get_locked();
        while let Some(h) = at {
            let here = nodes.get(h);
            let before = A::precedes(new, here);
            #[cfg(mm_mutant = "equal_node_stands_in_front")]
            let before = !A::precedes(here, new);
            side = if before { Side::Left } else { Side::Right };
            parent = Some(h);
            at = A::links(here).child(side);
        }
        self.link(nodes, node, parent, side);
    }

    /// Inserts a node that is in no tree of this kind in front of another one, or
    /// behind all; without going down, for who knows its place in the order.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub(super) fn insert_before<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        node: Handle<A::Node>,
        next: Option<Handle<A::Node>>,
    ) {
        // Of two neighbours one has no child on the other's side.
        let (parent, side) = match next {
            Some(next) => match A::links(nodes.get(next)).child(Side::Left) {
                Some(left) => (Some(Self::extreme(nodes, left, Side::Right)), Side::Right),
                None => (Some(next), Side::Left),
            },
            None => (self.last(nodes), Side::Right),
        };
        self.link(nodes, node, parent, side);
    }

    /// Removes a node that is in this tree, and empties its links.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn remove<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) {
        debug_assert!(
            A::links(nodes.get(node)).is_linked(),
            "{node:?} is in no tree"
        );
        if A::links(nodes.get(node)).is_linked() {
            self.unlink(nodes, node);
        }
    }

    /// Recomputes summaries upwards from a node of the tree whose own part of
    /// the summary was changed, until one comes out as before.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn propagate<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) {
        let mut at = Some(node);
        while let Some(h) = at {
            if !self.augment(nodes, h) {
                return;
            }
            at = A::links(nodes.get(h)).parent.get_locked();
        }
    }

    /// Returns the first node in order.
    pub fn first<R: Resolve<A::Node>>(&self, nodes: &R) -> Option<Handle<A::Node>> {
        self.root
            .get_locked()
            .map(|h| Self::extreme(nodes, h, Side::Left))
    }

    /// Returns the last node in order.
    pub fn last<R: Resolve<A::Node>>(&self, nodes: &R) -> Option<Handle<A::Node>> {
        self.root
            .get_locked()
            .map(|h| Self::extreme(nodes, h, Side::Right))
    }

    /// Returns the node after this one of the tree.
    pub fn next<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        node: Handle<A::Node>,
    ) -> Option<Handle<A::Node>> {
        Self::neighbour(nodes, node, Side::Right)
    }

    /// Returns the node before this one of the tree.
    pub fn prev<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        node: Handle<A::Node>,
    ) -> Option<Handle<A::Node>> {
        Self::neighbour(nodes, node, Side::Left)
    }

    /// Walks the nodes in order. The tree must not change meanwhile.
    pub fn iter<'a, R: Resolve<A::Node>>(
        &self,
        nodes: &'a R,
    ) -> impl Iterator<Item = Handle<A::Node>> + use<'a, A, R> {
        iter::successors(self.first(nodes), |&h| {
            Self::neighbour(nodes, h, Side::Right)
        })
    }

    /// Returns the first node for which `below` is false; it is true for a
    /// (possibly empty) prefix of the order.
    pub fn lower_bound<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        mut below: impl FnMut(&A::Node) -> bool,
    ) -> Option<Handle<A::Node>> {
        let mut found = None;
        let mut at = self.root.get_locked();
        while let Some(h) = at {
            let here = nodes.get(h);
            if below(here) {
                at = A::links(here).child(Side::Right);
            } else {
                found = Some(h);
                at = A::links(here).child(Side::Left);
            }
        }
        found
    }

    /// Returns the last node for which `below` is true and the first for which it is
    /// false; as [`Self::lower_bound`], in one way down.
    ///
    /// # Locks
    /// The owner's, at least for reading.
    pub fn around<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        mut below: impl FnMut(&A::Node) -> bool,
    ) -> Neighbours<A::Node> {
        let (mut last, mut first) = (None, None);
        let mut at = self.root.get_locked();
        while let Some(h) = at {
            let here = nodes.get(h);
            if below(here) {
                last = at;
                at = A::links(here).child(Side::Right);
            } else {
                first = at;
                at = A::links(here).child(Side::Left);
            }
        }
        (last, first)
    }

    /// Returns the last node of those for which `below` holds: they must come
    /// before all others.
    ///
    /// # Locks
    /// The owner's, at least for reading.
    pub fn last_where<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        mut below: impl FnMut(&A::Node) -> bool,
    ) -> Option<Handle<A::Node>> {
        let mut found = None;
        let mut at = self.root.get_locked();
        while let Some(h) = at {
            let here = nodes.get(h);
            if below(here) {
                found = Some(h);
                at = A::links(here).child(Side::Right);
            } else {
                at = A::links(here).child(Side::Left);
            }
        }
        found
    }

    /// Returns the node that `compare` calls equal; it says how the node
    /// stands to what is sought.
    pub fn find<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        mut compare: impl FnMut(&A::Node) -> cmp::Ordering,
    ) -> Option<Handle<A::Node>> {
        let mut at = self.root.get_locked();
        while let Some(h) = at {
            let here = nodes.get(h);
            at = match compare(here) {
                cmp::Ordering::Equal => return Some(h),
                cmp::Ordering::Less => A::links(here).child(Side::Right),
                cmp::Ordering::Greater => A::links(here).child(Side::Left),
            };
        }
        None
    }

    /// Does what [`Self::find`] does while others change the tree. `None`
    /// proves nothing; a node is only a candidate (see the module).
    ///
    /// # Locks
    /// None, but slabs must not be freed meanwhile: in an epoch pin.
    pub fn find_unlocked<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        mut compare: impl FnMut(&A::Node) -> cmp::Ordering,
    ) -> Option<Handle<A::Node>> {
        let mut at = self.root.get();
        for _ in 0..MAX_STEPS {
            let h = at?;
            let here = nodes.get(h);
            at = match compare(here) {
                cmp::Ordering::Equal => return Some(h),
                cmp::Ordering::Less => A::links(here).right.get(),
                cmp::Ordering::Greater => A::links(here).left.get(),
            };
        }
        None
    }

    /// Returns the node furthest to one side below `node`, or itself.
    fn extreme<R: Resolve<A::Node>>(
        nodes: &R,
        node: Handle<A::Node>,
        side: Side,
    ) -> Handle<A::Node> {
        let mut at = node;
        while let Some(child) = A::links(nodes.get(at)).child(side) {
            at = child;
        }
        at
    }

    /// Returns the next node in order towards one side.
    fn neighbour<R: Resolve<A::Node>>(
        nodes: &R,
        node: Handle<A::Node>,
        side: Side,
    ) -> Option<Handle<A::Node>> {
        let links = A::links(nodes.get(node));
        if let Some(child) = links.child(side) {
            return Some(Self::extreme(nodes, child, side.other()));
        }
        let mut from = node;
        let mut up = links.parent.get_locked();
        while let Some(parent) = up {
            let links = A::links(nodes.get(parent));
            if links.child(side) != Some(from) {
                return Some(parent);
            }
            from = parent;
            up = links.parent.get_locked();
        }
        None
    }

    /// Recomputes one node's summary; returns whether it changed.
    fn augment<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) -> bool {
        let here = nodes.get(node);
        let links = A::links(here);
        A::augment(
            here,
            links.child(Side::Left).map(|h| nodes.get(h)),
            links.child(Side::Right).map(|h| nodes.get(h)),
        )
    }
}

impl<A: Adapter> Default for Tree<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Adapter> fmt::Debug for Tree<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tree").field(&self.root).finish()
    }
}
