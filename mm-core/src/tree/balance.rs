//! Linking, unlinking and the repairs that keep a tree red-black.
//!
//! The two rules: a red node has no red child; every way from the root down to
//! an empty place passes equally many black nodes. Insertion adds a red node
//! and repairs red-under-red upwards; removal of a black node leaves one side
//! short of a black node and repairs that upwards. Both are the textbook cases
//! (Cormen, Leiserson, Rivest, Stein, chapter "Red-Black Trees"), drawn here
//! for the left side; the right one is the mirror image, told by [`Side`].
//!
//! The order of the stores matters to lock-free readers: a rotation first
//! takes the middle subtree over, then turns the edge, then publishes the new
//! upper node. At each moment following child links downwards ends.

use super::{Adapter, BLACK, RED, Resolve, Side, Tree};
use crate::pool::Handle;

impl<A: Adapter> Tree<A> {
    /// Links a node as a leaf in an empty place, then repairs.
    pub(super) fn link<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        node: Handle<A::Node>,
        parent: Option<Handle<A::Node>>,
        side: Side,
    ) {
        let links = A::links(nodes.get(node));
        links.left.set(None);
        links.right.set(None);
        links.parent.set(parent);
        links.paint(RED);
        self.augment(nodes, node);
        match parent {
            None => self.root.set(Some(node)),
            Some(p) => {
                A::links(nodes.get(p)).cell(side).set(Some(node));
                self.propagate(nodes, p);
            }
        }
        self.repair_red(nodes, node);
    }

    /// Unlinks a node of the tree, repairs, and empties the node's links.
    pub(super) fn unlink<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) {
        let links = A::links(nodes.get(node));
        let parent = links.parent.get_locked();
        let (left, right) = (links.child(Side::Left), links.child(Side::Right));

        // Where one black node may now be missing: below `short` on `side`.
        let short;
        let mut side;
        let colour;
        if let (Some(left), Some(right)) = (left, right) {
            // The next node in order takes the place, the colour and the
            // children of the removed one.
            let heir = Self::extreme(nodes, right, Side::Left);
            let heir_links = A::links(nodes.get(heir));
            colour = heir_links.colour();
            let orphan = heir_links.child(Side::Right);
            if heir == right {
                short = Some(heir);
                side = Side::Right;
            } else {
                short = heir_links.parent.get_locked();
                side = Side::Left;
                if let Some(p) = short {
                    A::links(nodes.get(p)).left.set(orphan);
                }
                if let Some(o) = orphan {
                    A::links(nodes.get(o)).parent.set(short);
                }
                heir_links.right.set(Some(right));
                A::links(nodes.get(right)).parent.set(Some(heir));
            }
            heir_links.left.set(Some(left));
            A::links(nodes.get(left)).parent.set(Some(heir));
            heir_links.paint(links.colour());
            self.replace(nodes, node, Some(heir), parent);

            // Up to the heir summaries may stop early; the heir's own is that
            // of its old place, so it says nothing about the ancestors.
            let mut at = short;
            while let Some(h) = at {
                if h == heir || !self.augment(nodes, h) {
                    break;
                }
                at = A::links(nodes.get(h)).parent.get_locked();
            }
            self.augment(nodes, heir);
        } else {
            let orphan = left.or(right);
            colour = links.colour();
            short = parent;
            side = Side::Left;
            if let Some(p) = parent {
                if A::links(nodes.get(p)).child(Side::Left) != Some(node) {
                    side = Side::Right;
                }
            }
            self.replace(nodes, node, orphan, parent);
        }
        if let Some(p) = parent {
            self.propagate(nodes, p);
        }
        links.reset();
        if colour == BLACK {
            self.repair_short(nodes, short, side);
        }
    }

    /// Puts `new` where `old` hangs below `parent` (or at the root).
    fn replace<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        old: Handle<A::Node>,
        new: Option<Handle<A::Node>>,
        parent: Option<Handle<A::Node>>,
    ) {
        if let Some(n) = new {
            A::links(nodes.get(n)).parent.set(parent);
        }
        match parent {
            None => self.root.set(new),
            Some(p) => {
                let links = A::links(nodes.get(p));
                let side = if links.child(Side::Left) == Some(old) {
                    Side::Left
                } else {
                    Side::Right
                };
                links.cell(side).set(new);
            }
        }
    }

    /// Turns the edge between `x` and its child, so that `x` goes down to `side`.
    ///
    /// ```text
    ///     x                 y
    ///    / \    to Left    / \
    ///   a   y   ------>   x   c
    ///      / \           / \
    ///     b   c         a   b
    /// ```
    fn rotate<R: Resolve<A::Node>>(&self, nodes: &R, x: Handle<A::Node>, side: Side) {
        let x_links = A::links(nodes.get(x));
        let Some(y) = x_links.child(side.other()) else {
            debug_assert!(false, "nothing to rotate up at {x:?}");
            return;
        };
        let y_links = A::links(nodes.get(y));
        let middle = y_links.child(side);
        let parent = x_links.parent.get_locked();

        x_links.cell(side.other()).set(middle);
        if let Some(m) = middle {
            A::links(nodes.get(m)).parent.set(Some(x));
        }
        y_links.cell(side).set(Some(x));
        self.replace(nodes, x, Some(y), parent);
        x_links.parent.set(Some(y));

        self.augment(nodes, x);
        self.augment(nodes, y);
    }

    /// Repairs a red node that may have a red parent.
    ///
    /// ```text
    /// case 1: red uncle        case 2: inner child      case 3: outer child
    ///      G           g            G          G              G          P
    ///     / \   ->    / \          / \   ->   / \            / \   ->   / \
    ///    p   u       P   U        p   U      n   U          p   U      n   g
    ///   /           /              \        /              /                \
    ///  n           n (again at g)   n      p (case 3)     n                  U
    /// ```
    fn repair_red<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) {
        let links = |h| A::links(nodes.get(h));
        let mut n = node;
        loop {
            let Some(mut p) = links(n).parent.get_locked() else {
                links(n).paint(BLACK);
                return;
            };
            if !links(p).is_red() {
                return;
            }
            let Some(g) = links(p).parent.get_locked() else {
                links(p).paint(BLACK);
                return;
            };
            let side = if links(g).child(Side::Left) == Some(p) {
                Side::Left
            } else {
                Side::Right
            };
            if let Some(u) = links(g).child(side.other()) {
                if links(u).is_red() {
                    links(p).paint(BLACK);
                    links(u).paint(BLACK);
                    links(g).paint(RED);
                    n = g;
                    continue;
                }
            }
            if links(p).child(side.other()) == Some(n) {
                self.rotate(nodes, p, side);
                p = n;
            }
            links(p).paint(BLACK);
            links(g).paint(RED);
            self.rotate(nodes, g, side.other());
            return;
        }
    }

    /// Repairs a tree that lacks one black node below `short` on `side`.
    ///
    /// ```text
    /// P: parent, x: the short side, W: sibling, near/far: W's children seen from x
    /// case 1: W red             rotate P towards x; the new sibling is black
    /// case 2: near, far black   W red; P's whole subtree is now short: go up
    /// case 3: near red          rotate W away from x; far is now red
    /// case 4: far red           rotate P towards x, far black: done
    /// ```
    fn repair_short<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        short: Option<Handle<A::Node>>,
        side: Side,
    ) {
        let links = |h| A::links(nodes.get(h));
        let red = |h: Option<Handle<A::Node>>| h.is_some_and(|h| links(h).is_red());
        let mut parent = short;
        let mut side = side;
        loop {
            let x = match parent {
                Some(p) => links(p).child(side),
                None => self.root.get_locked(),
            };
            let (Some(p), false) = (parent, red(x)) else {
                // The root, or a red node: painting it black makes up for it.
                if let Some(x) = x {
                    links(x).paint(BLACK);
                }
                return;
            };
            let Some(mut w) = links(p).child(side.other()) else {
                debug_assert!(false, "black heights differ below {p:?}");
                return;
            };
            if links(w).is_red() {
                links(w).paint(BLACK);
                links(p).paint(RED);
                self.rotate(nodes, p, side);
                let Some(near) = links(p).child(side.other()) else {
                    debug_assert!(false, "black heights differ below {p:?}");
                    return;
                };
                w = near;
            }
            let near = links(w).child(side);
            let far = links(w).child(side.other());
            if !red(near) && !red(far) {
                links(w).paint(RED);
                parent = links(p).parent.get_locked();
                if let Some(pp) = parent {
                    side = if links(pp).child(Side::Left) == Some(p) {
                        Side::Left
                    } else {
                        Side::Right
                    };
                }
                continue;
            }
            if !red(far) {
                if let Some(near) = near {
                    links(near).paint(BLACK);
                    links(w).paint(RED);
                    self.rotate(nodes, w, side.other());
                    w = near;
                }
            }
            links(w).paint(links(p).colour());
            links(p).paint(BLACK);
            if let Some(far) = links(w).child(side.other()) {
                links(far).paint(BLACK);
            }
            self.rotate(nodes, p, side);
            return;
        }
    }
}
