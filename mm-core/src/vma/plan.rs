//! What an edit will do, found out without doing it.
//!
//! ```text
//! Plan::replace  ─┐          ┌─ limits checked by the verb
//! Plan::remove   ─┼─► Plan ──┤
//! Plan::modify   ─┘          └─► reserve ─► Edit ─► mark ─► commit ─► Done
//! ```
//!
//! A plan walks the tree and folds shapes; it takes no memory for itself. It
//! says how the counts of the space change ([`Delta`]), and bounds what
//! must be put aside: at most two nodes whatever the number of areas, because
//! only the two edges of a range can cut through an area.

use super::merge::{Join, join_changed, join_new, joined};
use super::split::{Around, above, below};
use super::tree::Neighbours;
use super::{AnonLink, Shape, Vma, VmaFlags, VmaSpec, VmaTree};
use crate::addr::Vpn;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::tree::Resolve;

/// How an edit changes the counts of its space, in pages but for `areas`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// Areas (`map_count`).
    pub areas: isize,
    /// All pages (`total_vm`).
    pub pages: isize,
    /// Pages of areas with `LOCKED`.
    pub locked: isize,
    /// Private writable pages outside of stacks (`RLIMIT_DATA`).
    pub data: isize,
    /// Pages of areas with `GROWS_DOWN`.
    pub stack: isize,
    /// Pages of areas with `ACCOUNT`: committed memory.
    pub account: isize,
}

impl Delta {
    fn add(&mut self, flags: VmaFlags, pages: usize) {
        self.count(flags, isize::try_from(pages).unwrap_or(isize::MAX));
    }

    fn sub(&mut self, flags: VmaFlags, pages: usize) {
        self.count(
            flags,
            isize::try_from(pages)
                .unwrap_or(isize::MAX)
                .saturating_neg(),
        );
    }

    fn count(&mut self, flags: VmaFlags, pages: isize) {
        let when = |is: bool| if is { pages } else { 0 };
        self.pages = self.pages.saturating_add(pages);
        self.locked = self
            .locked
            .saturating_add(when(flags.contains(VmaFlags::LOCKED)));
        self.data = self.data.saturating_add(when(flags.is_data()));
        self.stack = self
            .stack
            .saturating_add(when(flags.contains(VmaFlags::GROWS_DOWN)));
        self.account = self
            .account
            .saturating_add(when(flags.contains(VmaFlags::ACCOUNT)));
    }

    /// Adds up two changes.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            areas: self.areas.saturating_add(other.areas),
            pages: self.pages.saturating_add(other.pages),
            locked: self.locked.saturating_add(other.locked),
            data: self.data.saturating_add(other.data),
            stack: self.stack.saturating_add(other.stack),
            account: self.account.saturating_add(other.account),
        }
    }

    fn areas(&mut self, n: isize) {
        self.areas = self.areas.saturating_add(n);
    }

    /// Returns what so many pages of an area with these flags count, below zero
    /// when they go.
    pub fn of_pages(flags: VmaFlags, pages: isize) -> Self {
        let mut some = Self::default();
        some.count(flags, pages);
        some
    }

    /// Returns what one area counts.
    pub fn of_area(vma: &Vma) -> Self {
        let mut one = Self::default();
        one.areas(1);
        one.add(vma.flags(), vma.range().pages());
        one
    }

    /// Returns what the areas of a whole tree count: for `check`s and for fork.
    pub fn of_tree(tree: &VmaTree, nodes: &impl Resolve<Vma>) -> Self {
        let mut sum = Self::default();
        let mut at = tree.first(nodes);
        while let Some(vma) = at {
            let node = nodes.get(vma);
            sum.areas(1);
            sum.add(node.flags(), node.range().pages());
            at = tree.next(nodes, vma);
        }
        sum
    }
}

/// An area to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewVma {
    /// What it maps.
    pub spec: VmaSpec,
    /// The area whose private pages will lie here too: the one that is
    /// extended (a stack, remap in place) or moved. None for fresh memory.
    pub like: Option<Handle<Vma>>,
}

/// The new flags of an area, from what it is. Asked more than once, by the plan and
/// again when it is carried out, so it must not depend on anything but the spec and
/// on whether there is an anon_vma (the range, and whose pages these are, change as
/// areas join), nor change its answer once applied.
pub type Change<'a> = &'a dyn Fn(&Shape) -> VmaFlags;

#[derive(Clone, Copy)]
pub(super) enum Op<'a> {
    /// Remove what lies in the range, then perhaps put one area there.
    Replace(Option<NewVma>),
    /// Give the areas of the range other flags.
    Modify(Change<'a>),
}

/// What an edit will do.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub(super) op: Op<'a>,
    pub(super) range: PageRange,
    pub(super) delta: Delta,
    pub(super) nodes: u32,
    pub(super) chains: u32,
    pub(super) removes: usize,
}

impl<'a> Plan<'a> {
    /// Plans an area over `range`, in place of whatever lies there.
    ///
    /// # Locks
    /// The space lock, for writing if the plan is to be carried out.
    // Out of line, so that the plan's shapes are not part of the verbs' frames.
    #[inline(never)]
    pub fn replace(
        tree: &VmaTree,
        nodes: &impl Resolve<Vma>,
        range: PageRange,
        new: NewVma,
    ) -> Self {
        let (mut plan, (below, above)) = Self::clear(tree, nodes, range);
        plan.op = Op::Replace(Some(new));
        let anon = new
            .like
            .map_or(AnonLink::None, |vma| nodes.get(vma).anon_link());
        let shape = Shape {
            range,
            spec: new.spec,
            anon,
        };
        let prev = below.and_then(|vma| part_below(nodes, vma, range.start()));
        let next = above.and_then(|vma| part_above(nodes, vma, range.end()));
        let join = join_new(prev.as_ref(), &shape, next.as_ref());
        plan.delta.add(new.spec.flags, range.pages());
        let heir = match join {
            Join::Apart => {
                plan.delta.areas(1);
                plan.nodes = plan.nodes.saturating_add(1);
                AnonLink::None
            }
            Join::Prev => prev.map_or(anon, |p| p.anon),
            Join::Next => next.map_or(anon, |n| n.anon),
            Join::Both => {
                plan.delta.areas(-1);
                // What neither neighbour has comes from `like`.
                prev.map_or(anon, |p| p.anon)
                    .or(next.map_or(anon, |n| n.anon))
            }
        };
        if let (Some(like), None, Some(_)) = (new.like, heir.id(), anon.id()) {
            plan.chains = plan.chains.saturating_add(nodes.get(like).chain_count());
        }
        plan
    }

    /// Plans a range without areas.
    ///
    /// # Locks
    /// As [`Self::replace`].
    // Out of line, so that the plan's shapes are not part of the verbs' frames.
    #[inline(never)]
    pub fn remove(tree: &VmaTree, nodes: &impl Resolve<Vma>, range: PageRange) -> Self {
        Self::clear(tree, nodes, range).0
    }

    /// Plans a range without areas, in one way down; returns also the last area that
    /// starts below the range and the first that ends above it.
    fn clear(tree: &VmaTree, nodes: &impl Resolve<Vma>, range: PageRange) -> (Self, Neighbours) {
        let mut plan = Self::nothing(Op::Replace(None), range);
        let (mut below, mut at) = tree.around(nodes, range.start());
        while let Some(vma) = at {
            let node = nodes.get(vma);
            if node.start() < range.start() {
                below = at;
            }
            if range.is_empty() || node.start() >= range.end() {
                break;
            }
            plan.note_gone(node, range);
            if node.end() > range.end() {
                break;
            }
            at = tree.next(nodes, vma);
        }
        (plan, (below, at))
    }

    fn note_gone(&mut self, node: &Vma, range: PageRange) {
        let (old, flags) = (node.range(), node.flags());
        let part = old.intersect(range);
        self.removes = self.removes.saturating_add(part.pages());
        self.delta.sub(flags, part.pages());
        match (old.start() < part.start(), part.end() < old.end()) {
            (false, false) => self.delta.areas(-1),
            (true, true) => {
                self.delta.areas(1);
                self.nodes = self.nodes.saturating_add(1);
                self.chains = self.chains.saturating_add(node.chain_count());
            }
            _ => {}
        }
    }

    /// Plans other flags for the areas of `range`. Pages of the range without
    /// an area are passed over: what a hole means is the verb's to say.
    ///
    /// # Locks
    /// As [`Self::replace`].
    // Out of line, so that the plan's shapes are not part of the verbs' frames.
    #[inline(never)]
    pub fn modify(
        tree: &VmaTree,
        nodes: &impl Resolve<Vma>,
        range: PageRange,
        change: Change<'a>,
    ) -> Self {
        let mut plan = Self::nothing(Op::Modify(change), range);
        let mut prev = shape_below_area(tree, nodes, range.start());
        let mut at = tree.first_ending_above(nodes, range.start());
        while let Some(vma) = at {
            let node = nodes.get(vma);
            let old = node.shape();
            let part = old.range.intersect(range);
            if part.is_empty() {
                break;
            }
            at = tree.next(nodes, vma);
            let flags = change(&old);
            if flags == old.spec.flags {
                prev = Some(old);
                continue;
            }
            let next = at
                .filter(|&n| !nodes.get(n).is_dying())
                .map(|n| nodes.get(n).shape());
            let join = join_changed(prev.as_ref(), &old, part, flags, next.as_ref());
            plan.note_change(&old, part, flags, join, node.chain_count());
            let mut new = old.clip(part);
            new.spec.flags = flags;
            prev = Some(joined(join, prev.as_ref(), &new, next.as_ref()));
            if matches!(join, Join::Next | Join::Both) {
                // The next area has these flags and is part of this one now.
                at = at.and_then(|n| tree.next(nodes, n));
            }
        }
        plan
    }

    fn note_change(
        &mut self,
        old: &Shape,
        part: PageRange,
        flags: VmaFlags,
        join: Join,
        chains: u32,
    ) {
        self.delta.sub(old.spec.flags, part.pages());
        self.delta.add(flags, part.pages());
        let splits = Around::of(old, part).count();
        let whole = splits == 0;
        let (areas, copies) = match join {
            Join::Apart => {
                self.nodes = self.nodes.saturating_add(splits);
                (splits as isize, splits)
            }
            // The one that grows has the same anon_vma or needs a copy of the
            // chains, unless it can take them over.
            Join::Prev | Join::Next => (if whole { -1 } else { 0 }, u32::from(!whole)),
            Join::Both => (-2, 0),
        };
        self.delta.areas(areas);
        self.chains = self.chains.saturating_add(chains.saturating_mul(copies));
    }

    fn nothing(op: Op<'a>, range: PageRange) -> Self {
        Self {
            op,
            range,
            delta: Delta::default(),
            nodes: 0,
            chains: 0,
            removes: 0,
        }
    }

    /// Returns how the counts of the space will change.
    pub fn delta(&self) -> Delta {
        self.delta
    }

    /// Returns the pages of the range.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Returns how many mapped pages the range loses: when not zero, they must
    /// be zapped between [`super::Edit::mark`] and [`super::Edit::commit`].
    pub fn removed_pages(&self) -> usize {
        self.removes
    }
}

/// Returns the part of an area below `page`, unless it is going away.
pub(super) fn part_below(nodes: &impl Resolve<Vma>, vma: Handle<Vma>, page: Vpn) -> Option<Shape> {
    let node = nodes.get(vma);
    if node.is_dying() {
        None
    } else {
        below(&node.shape(), page)
    }
}

/// Returns the part of an area from `page` on, unless it is going away.
pub(super) fn part_above(nodes: &impl Resolve<Vma>, vma: Handle<Vma>, page: Vpn) -> Option<Shape> {
    let node = nodes.get(vma);
    if node.is_dying() {
        None
    } else {
        above(&node.shape(), page)
    }
}

/// Returns the area before the one that holds `page` or follows it.
fn shape_below_area(tree: &VmaTree, nodes: &impl Resolve<Vma>, page: Vpn) -> Option<Shape> {
    let prev = match tree.first_ending_above(nodes, page) {
        Some(vma) => tree.prev(nodes, vma)?,
        None => tree.last(nodes)?,
    };
    let node = nodes.get(prev);
    (!node.is_dying()).then(|| node.shape())
}
