//! Intervals that may overlap: who covers this page?
//!
//! Nodes stand in the order of their first page; each knows the highest last
//! page of its subtree. A query `[first, last]` skips subtrees that end
//! below `first`, and stops at the first node that begins above `last`:
//! O(log n) to the first hit and, over a whole query, O(log n + hits).
//!
//! A node's interval must not change while it is in the tree: remove, change,
//! insert again.

use super::{Adapter, Links, Resolve, Side, Tree};
use crate::pool::{Handle, Node};
use crate::sync::{AtomicUsize, Ordering};
use core::fmt;
use core::marker::PhantomData;

/// A node that covers the pages `first..=last` of something.
pub trait Interval {
    /// The nodes.
    type Node: Node;
    /// Returns the links of this kind of tree.
    fn links(node: &Self::Node) -> &Links<Self::Node>;
    /// Returns the first page that is covered.
    fn first(node: &Self::Node) -> usize;
    /// Returns the last page that is covered.
    fn last(node: &Self::Node) -> usize;
    /// Returns the word that the tree keeps: the highest last page of the subtree.
    fn subtree_last(node: &Self::Node) -> &AtomicUsize;
}

/// The order by first page with the highest last page as summary.
pub struct ByInterval<I>(PhantomData<fn() -> I>);

impl<I: Interval> Adapter for ByInterval<I> {
    type Node = I::Node;

    fn links(node: &I::Node) -> &Links<I::Node> {
        I::links(node)
    }

    fn precedes(a: &I::Node, b: &I::Node) -> bool {
        I::first(a) < I::first(b)
    }

    fn augment(node: &I::Node, left: Option<&I::Node>, right: Option<&I::Node>) -> bool {
        let below =
            |n: Option<&I::Node>| n.map_or(0, |n| I::subtree_last(n).load(Ordering::Relaxed));
        let highest = I::last(node).max(below(left)).max(below(right));
        let word = I::subtree_last(node);
        let changed = word.load(Ordering::Relaxed) != highest;
        if changed {
            word.store(highest, Ordering::Relaxed);
        }
        changed
    }
}

/// A tree of intervals.
pub struct IntervalTree<I: Interval> {
    tree: Tree<ByInterval<I>>,
}

impl<I: Interval> IntervalTree<I> {
    #[cfg(not(loom))]
    /// Makes an empty tree.
    pub const fn new() -> Self {
        Self { tree: Tree::new() }
    }

    #[cfg(loom)]
    /// Makes an empty tree.
    pub fn new() -> Self {
        Self { tree: Tree::new() }
    }

    /// Returns the tree, for walking all of it.
    pub fn tree(&self) -> &Tree<ByInterval<I>> {
        &self.tree
    }

    /// Returns whether nothing is covered.
    pub fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    /// Inserts a node that is in no tree of this kind.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn insert<R: Resolve<I::Node>>(&self, nodes: &R, node: Handle<I::Node>) {
        self.tree.insert(nodes, node);
    }

    /// Removes a node of the tree.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn remove<R: Resolve<I::Node>>(&self, nodes: &R, node: Handle<I::Node>) {
        self.tree.remove(nodes, node);
    }

    /// Walks the nodes that share a page with `first..=last`, in the order of
    /// their first page. The node that was just handed out may be removed.
    ///
    /// # Locks
    /// The owner's, at least shared, until the walk is dropped.
    pub fn overlaps<'a, R: Resolve<I::Node>>(
        &self,
        nodes: &'a R,
        first: usize,
        last: usize,
    ) -> Overlaps<'a, I, R> {
        let query = Query { first, last };
        let next = self
            .tree
            .root()
            .filter(|&root| query.reaches::<I>(nodes.get(root)))
            .and_then(|root| query.first_in::<I, R>(nodes, root));
        Overlaps {
            nodes,
            query,
            next,
            interval: PhantomData,
        }
    }
}

impl<I: Interval> Default for IntervalTree<I> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: Interval> fmt::Debug for IntervalTree<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntervalTree")
            .field(&self.tree.root())
            .finish()
    }
}

/// The walk over the nodes that overlap a query.
pub struct Overlaps<'a, I: Interval, R> {
    nodes: &'a R,
    query: Query,
    next: Option<Handle<I::Node>>,
    interval: PhantomData<fn() -> I>,
}

impl<I: Interval, R: Resolve<I::Node>> Iterator for Overlaps<'_, I, R> {
    type Item = Handle<I::Node>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.next?;
        self.next = self.query.after::<I, R>(self.nodes, found);
        Some(found)
    }
}

#[derive(Clone, Copy)]
struct Query {
    first: usize,
    last: usize,
}

impl Query {
    /// Returns whether a node of the subtree ends at or above the query's first page.
    fn reaches<I: Interval>(self, node: &I::Node) -> bool {
        I::subtree_last(node).load(Ordering::Relaxed) >= self.first
    }

    /// Returns the first hit in a subtree that reaches the query.
    fn first_in<I: Interval, R: Resolve<I::Node>>(
        self,
        nodes: &R,
        subtree: Handle<I::Node>,
    ) -> Option<Handle<I::Node>> {
        let mut at = subtree;
        loop {
            let node = nodes.get(at);
            let left = I::links(node).child(Side::Left);
            if let Some(left) = left.filter(|&c| self.reaches::<I>(nodes.get(c))) {
                // The leftmost node that reaches is in there. If it begins
                // above the query, so does all that follows.
                at = left;
                continue;
            }
            if I::first(node) > self.last {
                return None;
            }
            if I::last(node) >= self.first {
                return Some(at);
            }
            at = I::links(node)
                .child(Side::Right)
                .filter(|&c| self.reaches::<I>(nodes.get(c)))?;
        }
    }

    /// Returns the hit after `node`.
    fn after<I: Interval, R: Resolve<I::Node>>(
        self,
        nodes: &R,
        node: Handle<I::Node>,
    ) -> Option<Handle<I::Node>> {
        let mut at = node;
        loop {
            let right = I::links(nodes.get(at)).child(Side::Right);
            if let Some(right) = right.filter(|&c| self.reaches::<I>(nodes.get(c))) {
                return self.first_in::<I, R>(nodes, right);
            }
            // Up to the first ancestor that stands after this subtree.
            loop {
                let parent = I::links(nodes.get(at)).parent.get_locked()?;
                let from_right = I::links(nodes.get(parent)).child(Side::Right) == Some(at);
                at = parent;
                if !from_right {
                    break;
                }
            }
            let node = nodes.get(at);
            if I::first(node) > self.last {
                return None;
            }
            if I::last(node) >= self.first {
                return Some(at);
            }
        }
    }
}
