//! Areas by address, and the search for free space between them.
//!
//! ```text
//!      prev_end   floor  start      end
//!   ███████|        |::::::|█████████|        each area owns the gap *below* it:
//!   prev   |<------>|guard |  area   |        [prev_end, floor)
//!            its gap
//! ```
//!
//! Each node keeps the end of the area before it and the largest gap in its
//! subtree ([`GapWords`]). The *floor* of an area is its start, less the guard
//! gap that an area which grows downwards keeps free below itself. The space
//! above the last area is nobody's gap and is looked at separately; so is the
//! lowest gap, because nothing lies below it from which to keep away.
//!
//! **How a gap is found.** At most two gaps are clipped by the limits of a
//! request; they are tried by themselves. In between, a step to the next gap
//! that is large enough costs O(log n): summaries tell which subtrees to skip.
//! Without alignment the first such gap is the answer. With alignment a gap
//! of at least `pages + guard` may still hold no aligned place, while one of
//! `align - 1` pages more always does. The search tries [`PATIENCE`] gaps of
//! the first kind in order, then takes the first of the second kind, which is
//! one more step. Only where no gap of the second kind exists does it go on
//! through those of the first, so that it finds a place whenever there is one.

use super::{Adapter, Links, Neighbours, Resolve, Side, Tree};
use crate::pool::{Handle, Node};
use crate::sync::{AtomicUsize, Ordering};
use core::fmt;
use core::marker::PhantomData;

/// How many gaps that are large enough but hold no aligned place are tried
/// before the search settles for a gap that surely holds one.
const PATIENCE: usize = 32;

/// A node that occupies a range of pages. All numbers are page numbers.
pub trait Area {
    /// The nodes.
    type Node: Node;
    /// Returns the links of the tree by address.
    fn links(node: &Self::Node) -> &Links<Self::Node>;
    /// Returns the words that the tree keeps about gaps.
    fn gaps(node: &Self::Node) -> &GapWords;
    /// Returns the first page.
    fn start(node: &Self::Node) -> usize;
    /// Returns the page after the last; above the start.
    fn end(node: &Self::Node) -> usize;
    /// Returns the lowest page that must be kept free for the area: its
    /// start, or less where it grows downwards.
    fn floor(node: &Self::Node) -> usize;
}

/// What a node keeps about gaps. Written only by the tree.
#[derive(Debug)]
pub struct GapWords {
    /// The end of the area before this one; zero when there is none.
    prev_end: AtomicUsize,
    /// The largest gap below an area of this subtree, in pages.
    largest: AtomicUsize,
}

impl GapWords {
    /// Makes the words of a node that is in no tree.
    pub fn new() -> Self {
        Self {
            prev_end: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
        }
    }

    /// Returns the end of the area before this one; zero when there is none.
    pub fn prev_end(&self) -> usize {
        self.prev_end.load(Ordering::Relaxed)
    }
}

impl Default for GapWords {
    fn default() -> Self {
        Self::new()
    }
}

/// Which of the fitting places is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The lowest: bottom-up.
    Lowest,
    /// The highest: top-down.
    Highest,
}

/// What free space is wanted. All numbers are pages or page numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GapRequest {
    /// The size, not zero.
    pub pages: usize,
    /// The lowest page it may use.
    pub low: usize,
    /// The page after the highest it may use.
    pub high: usize,
    /// Its first page is `offset` more than a multiple of this; zero means one.
    pub align: usize,
    /// See `align`.
    pub offset: usize,
    /// Pages below it that no area may occupy either; they may lie below `low`.
    pub guard: usize,
    /// Which place is taken when there are several. With an alignment above
    /// one, a place further on may be taken where very many gaps in front
    /// hold no aligned place or only just hold one (see the module).
    pub direction: Direction,
}

impl GapRequest {
    /// Asks for the lowest `pages` pages anywhere.
    pub const fn new(pages: usize) -> Self {
        Self {
            pages,
            low: 0,
            high: usize::MAX,
            align: 1,
            offset: 0,
            guard: 0,
            direction: Direction::Lowest,
        }
    }

    /// Returns the place to take in the free pages `[from, to)` above the end
    /// of an area (`from` zero: above nothing).
    fn place(&self, from: usize, to: usize) -> Option<usize> {
        let clear = if from == 0 {
            0
        } else {
            from.checked_add(self.guard)?
        };
        let low = clear.max(self.low);
        let last = to.min(self.high).checked_sub(self.pages)?;
        if low > last {
            return None;
        }
        if self.align <= 1 {
            return Some(match self.direction {
                Direction::Lowest => low,
                Direction::Highest => last,
            });
        }
        let align = self.align;
        let offset = self.offset.checked_rem(align)?;
        match self.direction {
            Direction::Lowest => {
                let above = low.checked_rem(align)?;
                let step = if offset >= above {
                    offset.wrapping_sub(above)
                } else {
                    align.wrapping_sub(above).wrapping_add(offset)
                };
                low.checked_add(step).filter(|&at| at <= last)
            }
            Direction::Highest => {
                let above = last.checked_rem(align)?;
                let step = if above >= offset {
                    above.wrapping_sub(offset)
                } else {
                    align.wrapping_sub(offset).wrapping_add(above)
                };
                last.checked_sub(step).filter(|&at| at >= low)
            }
        }
    }
}

/// The order by address with the largest gap as summary.
pub struct ByGap<A>(PhantomData<fn() -> A>);

impl<A: Area> ByGap<A> {
    fn own(node: &A::Node) -> usize {
        A::floor(node).saturating_sub(A::gaps(node).prev_end())
    }

    fn largest(node: &A::Node) -> usize {
        A::gaps(node).largest.load(Ordering::Relaxed)
    }
}

impl<A: Area> Adapter for ByGap<A> {
    type Node = A::Node;

    fn links(node: &A::Node) -> &Links<A::Node> {
        A::links(node)
    }

    fn precedes(a: &A::Node, b: &A::Node) -> bool {
        A::start(a) < A::start(b)
    }

    fn augment(node: &A::Node, left: Option<&A::Node>, right: Option<&A::Node>) -> bool {
        let below = left
            .map_or(0, Self::largest)
            .max(right.map_or(0, Self::largest));
        let largest = Self::own(node).max(below);
        let word = &A::gaps(node).largest;
        let changed = word.load(Ordering::Relaxed) != largest;
        if changed {
            word.store(largest, Ordering::Relaxed);
        }
        changed
    }
}

/// A tree of areas that do not overlap.
pub struct GapTree<A: Area> {
    tree: Tree<ByGap<A>>,
}

impl<A: Area> GapTree<A> {
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

    /// Returns the tree, for finding and walking.
    pub fn tree(&self) -> &Tree<ByGap<A>> {
        &self.tree
    }

    /// Inserts an area that overlaps none of the tree's.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn insert<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) {
        let start = A::start(nodes.get(node));
        let between = self.tree.around(nodes, |n| A::start(n) < start);
        self.insert_between(nodes, node, between);
    }

    /// As [`Self::insert`], between two neighbours in the tree, without going down.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn insert_between<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        node: Handle<A::Node>,
        (prev, next): Neighbours<A::Node>,
    ) {
        let new = nodes.get(node);
        debug_assert!(
            prev.or(next).is_some() || self.tree.is_empty(),
            "between no neighbours"
        );
        debug_assert!(
            prev.is_none_or(|prev| self.tree.next(nodes, prev) == next),
            "not neighbours"
        );
        let prev_end = prev.map_or(0, |prev| A::end(nodes.get(prev)));
        debug_assert!(prev_end <= A::start(new), "areas overlap");
        debug_assert!(
            next.is_none_or(|n| A::end(new) <= A::start(nodes.get(n))),
            "areas overlap"
        );
        A::gaps(new).prev_end.store(prev_end, Ordering::Relaxed);
        self.tree.insert_before(nodes, node, next);
        self.set_prev_end(nodes, next, A::end(new));
    }

    /// Removes an area of the tree.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn remove<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) {
        let next = self.tree.next(nodes, node);
        let prev_end = A::gaps(nodes.get(node)).prev_end();
        self.tree.remove(nodes, node);
        self.set_prev_end(nodes, next, prev_end);
    }

    /// Brings the gaps up to date after an area's start, end or floor was
    /// changed so that it still stands between the same neighbours.
    ///
    /// # Locks
    /// The owner's, exclusively.
    pub fn moved<R: Resolve<A::Node>>(&self, nodes: &R, node: Handle<A::Node>) {
        self.tree.propagate(nodes, node);
        let next = self.tree.next(nodes, node);
        self.set_prev_end(nodes, next, A::end(nodes.get(node)));
    }

    /// Returns the first page of a free place that meets the request, or
    /// `None` where there is none.
    ///
    /// # Locks
    /// The owner's, at least shared.
    pub fn find_gap<R: Resolve<A::Node>>(&self, nodes: &R, request: &GapRequest) -> Option<usize> {
        let need = request.pages.checked_add(request.guard)?;
        if request.pages == 0 {
            return None;
        }
        let Some(last) = self.tree.last(nodes) else {
            return request.place(0, usize::MAX);
        };
        let top = || request.place(A::end(nodes.get(last)), usize::MAX);
        match request.direction {
            Direction::Lowest => self
                .bottom(nodes, request)
                .or_else(|| {
                    let at = self
                        .tree
                        .lower_bound(nodes, |n| A::start(n) <= request.low)?;
                    self.search(nodes, request, need, at, Side::Right, top)
                })
                .or_else(top),
            Direction::Highest => top()
                .or_else(|| {
                    let at = self
                        .tree
                        .lower_bound(nodes, |n| A::start(n) < request.high)
                        .unwrap_or(last);
                    let bottom = || self.bottom(nodes, request);
                    self.search(nodes, request, need, at, Side::Left, bottom)
                })
                .or_else(|| self.bottom(nodes, request)),
        }
    }

    /// Tries the gap below the lowest area.
    fn bottom<R: Resolve<A::Node>>(&self, nodes: &R, request: &GapRequest) -> Option<usize> {
        request.place(0, A::floor(nodes.get(self.tree.first(nodes)?)))
    }

    /// Tries the gap of `at` and those on one side of it; `end` tries the one
    /// that is left at that end of the space.
    fn search<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        request: &GapRequest,
        need: usize,
        at: Handle<A::Node>,
        side: Side,
        end: impl Fn() -> Option<usize>,
    ) -> Option<usize> {
        let place = |h: Handle<A::Node>| {
            let node = nodes.get(h);
            request.place(A::gaps(node).prev_end(), A::floor(node))
        };
        // Whether all gaps from here on lie outside of the limits.
        let past = |h: Handle<A::Node>| {
            let node = nodes.get(h);
            match side {
                Side::Left => A::start(node) <= request.low,
                Side::Right => A::gaps(node).prev_end() >= request.high,
            }
        };
        let mut at = at;
        let mut patience = PATIENCE;
        loop {
            if past(at) {
                return None;
            }
            if let Some(found) = place(at) {
                return Some(found);
            }
            patience = patience.wrapping_sub(1);
            if patience == 0 {
                let sure = need.saturating_add(request.align.saturating_sub(1));
                let found = match Self::seek(nodes, at, sure, side) {
                    Some(h) => place(h),
                    None => end(),
                };
                if found.is_some() {
                    return found;
                }
            }
            at = Self::seek(nodes, at, need, side)?;
        }
    }

    /// Returns the next node on one side of `node` whose own gap is at least
    /// `need` pages. O(log n).
    fn seek<R: Resolve<A::Node>>(
        nodes: &R,
        node: Handle<A::Node>,
        need: usize,
        side: Side,
    ) -> Option<Handle<A::Node>> {
        let wide = |h: Handle<A::Node>| ByGap::<A>::largest(nodes.get(h)) >= need;
        let links = |h: Handle<A::Node>| A::links(nodes.get(h));
        if let Some(child) = links(node).child(side).filter(|&c| wide(c)) {
            return Self::nearest(nodes, child, need, side);
        }
        let mut from = node;
        let mut up = links(node).parent.get_locked();
        while let Some(p) = up {
            let child = links(p).child(side);
            if child != Some(from) {
                if ByGap::<A>::own(nodes.get(p)) >= need {
                    return Some(p);
                }
                if let Some(child) = child.filter(|&c| wide(c)) {
                    return Self::nearest(nodes, child, need, side);
                }
            }
            from = p;
            up = links(p).parent.get_locked();
        }
        None
    }

    /// Returns the first node of a subtree, coming from the other side, whose
    /// own gap is at least `need` pages; the subtree has one.
    fn nearest<R: Resolve<A::Node>>(
        nodes: &R,
        subtree: Handle<A::Node>,
        need: usize,
        side: Side,
    ) -> Option<Handle<A::Node>> {
        let mut at = subtree;
        loop {
            let node = nodes.get(at);
            let near = A::links(node).child(side.other());
            if let Some(near) = near.filter(|&c| ByGap::<A>::largest(nodes.get(c)) >= need) {
                at = near;
            } else if ByGap::<A>::own(node) >= need {
                return Some(at);
            } else {
                at = A::links(node).child(side)?;
            }
        }
    }

    /// Checks the tree, and that each area knows where the one before it ends;
    /// returns the number of areas.
    ///
    /// # Errors
    /// The first flaw found, as [`Tree::check`].
    ///
    /// # Locks
    /// The owner's, exclusively.
    #[cfg(any(test, feature = "validate"))]
    pub fn check<R: Resolve<A::Node>>(&self, nodes: &R) -> Result<usize, super::Flaw> {
        let mut prev_end = 0;
        for h in self.tree.iter(nodes) {
            let node = nodes.get(h);
            if A::gaps(node).prev_end.load(Ordering::Relaxed) != prev_end {
                return Err(super::Flaw::Gap(h.into_raw()));
            }
            prev_end = A::end(node);
        }
        self.tree.check(nodes)
    }

    fn set_prev_end<R: Resolve<A::Node>>(
        &self,
        nodes: &R,
        next: Option<Handle<A::Node>>,
        prev_end: usize,
    ) {
        if let Some(next) = next {
            A::gaps(nodes.get(next))
                .prev_end
                .store(prev_end, Ordering::Relaxed);
            self.tree.propagate(nodes, next);
        }
    }
}

impl<A: Area> Default for GapTree<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Area> fmt::Debug for GapTree<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GapTree").field(&self.tree.root()).finish()
    }
}
