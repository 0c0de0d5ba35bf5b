//! Whole-tree checks, for tests and for `validate`.

use super::{Adapter, MAX_STEPS, RED, Resolve, Side, Tree};
use crate::pool::Handle;

/// What is wrong with a tree, and at which node (its number).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// A node does not name the parent that links it.
    Parent(u32),
    /// A linked node does not know that it is linked.
    Unlinked(u32),
    /// A red node is the root or has a red parent.
    Red(u32),
    /// The ways down to two empty places pass differently many black nodes.
    BlackHeight(u32),
    /// A node stands before its left neighbour in order.
    Order(u32),
    /// A summary does not follow from the node and its children.
    Summary(u32),
    /// An area is wrong about where the one before it ends.
    Gap(u32),
    /// The way up does not end.
    Loop(u32),
}

impl<A: Adapter> Tree<A> {
    /// Checks links, colours, black heights, order and summaries; returns the
    /// number of nodes. O(n log n).
    ///
    /// # Errors
    /// The first flaw found. A wrong summary has been corrected by the look.
    ///
    /// # Locks
    /// The owner's, exclusively (summaries are recomputed in place).
    pub fn check<R: Resolve<A::Node>>(&self, nodes: &R) -> Result<usize, Flaw> {
        let mut count = 0usize;
        let mut height = None;
        let mut prev: Option<Handle<A::Node>> = None;
        for h in self.iter(nodes) {
            let raw = h.into_raw();
            let node = nodes.get(h);
            let links = A::links(node);
            if !links.is_linked() {
                return Err(Flaw::Unlinked(raw));
            }
            let parent = links.parent.get_locked();
            if links.is_red() && parent.is_none_or(|p| A::links(nodes.get(p)).is_red()) {
                return Err(Flaw::Red(raw));
            }
            for side in [Side::Left, Side::Right] {
                match links.child(side) {
                    Some(c) if A::links(nodes.get(c)).parent.get_locked() != Some(h) => {
                        return Err(Flaw::Parent(c.into_raw()));
                    }
                    Some(_) => {}
                    None => {
                        let blacks = self.blacks_above(nodes, h)?;
                        if *height.get_or_insert(blacks) != blacks {
                            return Err(Flaw::BlackHeight(raw));
                        }
                    }
                }
            }
            if prev.is_some_and(|p| A::precedes(node, nodes.get(p))) {
                return Err(Flaw::Order(raw));
            }
            if self.augment(nodes, h) {
                return Err(Flaw::Summary(raw));
            }
            prev = Some(h);
            count = count.saturating_add(1);
        }
        Ok(count)
    }

    /// Counts the black nodes from one up to the root.
    fn blacks_above<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        node: Handle<A::Node>,
    ) -> Result<usize, Flaw> {
        let mut blacks = 0usize;
        let mut at = node;
        for _ in 0..MAX_STEPS {
            let links = A::links(nodes.get(at));
            if links.colour() != RED {
                blacks = blacks.saturating_add(1);
            }
            match links.parent.get_locked() {
                Some(p) => at = p,
                None if self.root() == Some(at) => return Ok(blacks),
                None => return Err(Flaw::Parent(at.into_raw())),
            }
        }
        Err(Flaw::Loop(node.into_raw()))
    }
}
