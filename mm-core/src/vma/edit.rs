//! Changing areas: reserve, mark, commit.
//!
//! ```text
//! Plan ──reserve──► Edit ──mark──► (zap) ──commit──► Done ──drop──► unmarked
//!                    │
//!                    └─drop: what was put aside goes back, nothing changed
//! ```
//!
//! | step | may fail | what holds afterwards |
//! |---|---|---|
//! | [`Edit::reserve`] | out of memory | nodes and chains are put aside |
//! | [`Edit::mark`] | no | no fault is inside, or enters, an area of the range |
//! | [`Edit::commit`] | no | tree, objects and anon_vmas show the new areas |
//! | [`Done`] dropped | no | faults enter again |
//!
//! All of it under the space lock for writing, from the plan on. The commit
//! looks at the tree afresh, step by step, and never keeps a handle over a
//! step that may merge it away: the next area is always found by its page.
//!
//! **Order inside a step.** Nodes are marked; the object's and the anon_vma
//! root's lock are taken; every area that changes is taken out of their
//! interval trees; ranges and offsets change together; the areas go back
//! in; locks are released; only then are merged-away nodes freed. So a reverse
//! walk sees a step whole or not at all. All areas of one step have the same
//! object and the same root, so that is one pair of locks.

use super::merge::{Join, join_changed, join_new};
use super::plan::{NewVma, Op, Plan, part_above, part_below};
use super::split::Around;
use super::tree::Neighbours;
use super::{AnonLink, Change, Shape, Upkeep, Vma, VmaFlags, VmaTree};
use crate::addr::Vpn;
use crate::error::OutOfMemory;
use crate::pool::Handle;
use crate::range::PageRange;
use arrayvec::ArrayVec;

/// Nodes and chains that were put aside; dropping them gives back what was not used.
pub struct Stock<'a, U: Upkeep> {
    up: &'a U,
    nodes: ArrayVec<Handle<Vma>, 2>,
    chains: Option<U::Chains>,
}

impl<'a, U: Upkeep> Stock<'a, U> {
    /// Puts nodes, two at most, and chains aside.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing kept.
    ///
    /// # Locks
    /// Takes `Pool` and `Buddy`.
    pub fn reserve(up: &'a U, nodes: u32, chains: u32) -> Result<Self, OutOfMemory> {
        let mut stock = Self {
            up,
            nodes: ArrayVec::new(),
            chains: None,
        };
        for _ in 0..nodes {
            let node = up.alloc()?;
            if stock.nodes.try_push(node).is_err() {
                debug_assert!(false, "a plan needs at most two nodes");
                up.free(node);
            }
        }
        stock.chains = Some(up.reserve_chains(chains)?);
        Ok(stock)
    }
}

impl<U: Upkeep> Drop for Stock<'_, U> {
    fn drop(&mut self) {
        for vma in self.nodes.drain(..) {
            self.up.free(vma);
        }
        if let Some(chains) = self.chains.take() {
            self.up.release_chains(chains);
        }
    }
}

/// A plan with everything put aside that it may need.
pub struct Edit<'a, U: Upkeep> {
    tree: &'a VmaTree,
    up: &'a U,
    plan: Plan<'a>,
    stock: Stock<'a, U>,
    committed: bool,
}

impl<'a, U: Upkeep> Edit<'a, U> {
    /// Puts aside what a plan needs.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing changed or kept.
    ///
    /// # Locks
    /// The space lock for writing, since before the plan was made.
    pub fn reserve(tree: &'a VmaTree, up: &'a U, plan: Plan<'a>) -> Result<Self, OutOfMemory> {
        let stock = Stock::reserve(up, plan.nodes, plan.chains)?;
        Ok(Self::with_stock(tree, up, plan, stock))
    }

    /// Makes the edit of a plan for which enough was put aside before it was
    /// made: it cannot fail.
    ///
    /// # Locks
    /// The space lock for writing, since before the plan was made.
    pub fn with_stock(tree: &'a VmaTree, up: &'a U, plan: Plan<'a>, stock: Stock<'a, U>) -> Self {
        debug_assert!(plan.nodes as usize <= stock.nodes.len(), "too few nodes");
        Self {
            tree,
            up,
            plan,
            stock,
            committed: false,
        }
    }

    /// Makes the edit of a plan that needs at most one node, and no chains,
    /// from a node that was put aside before: it cannot fail.
    ///
    /// # Locks
    /// The space lock for writing, since before the plan was made.
    pub fn with_spare(
        tree: &'a VmaTree,
        up: &'a U,
        plan: Plan<'a>,
        spare: Option<Handle<Vma>>,
    ) -> Self {
        debug_assert!(plan.nodes <= u32::from(spare.is_some()) && plan.chains == 0);
        let stock = Stock {
            up,
            nodes: spare.into_iter().collect(),
            chains: None,
        };
        Self::with_stock(tree, up, plan, stock)
    }

    /// Returns the plan.
    pub fn plan(&self) -> &Plan<'a> {
        &self.plan
    }

    /// Write-marks the areas of the range: faults that are inside are waited
    /// for, and no new ones enter until the edit is over.
    pub fn mark(&mut self) {
        if matches!(self.plan.op, Op::Replace(_)) && self.plan.removes == 0 {
            return;
        }
        for vma in self.tree.overlapping(self.up, self.plan.range) {
            self.write_mark(vma);
        }
    }

    /// Carries the plan out.
    ///
    /// # Locks
    /// Each step takes the object's map lock, then the anon_vma root's.
    pub fn commit(mut self) -> Done<'a, U> {
        match self.plan.op {
            Op::Replace(new) => {
                if self.plan.removes > 0 {
                    self.clear();
                }
                if let Some(new) = new {
                    self.place(&new);
                }
            }
            Op::Modify(change) => self.modify(change),
        }
        // What was not needed goes back when `self` is dropped; the marks stay.
        self.committed = true;
        Done {
            tree: self.tree,
            up: self.up,
            range: self.plan.range,
        }
    }

    /// Takes the areas out of the range.
    fn clear(&mut self) {
        let range = self.plan.range;
        while let Some(vma) = self.tree.first_ending_above(self.up, range.start()) {
            let old = self.get(vma).shape();
            let part = old.range.intersect(range);
            if part.is_empty() {
                return;
            }
            let mut step = Step {
                from: Some(vma),
                ..Step::default()
            };
            match Around::of(&old, part) {
                Around {
                    left: None,
                    right: None,
                } => step.gone(vma),
                Around {
                    left: Some(rest),
                    right: None,
                } => step.stay(vma, rest.range),
                Around {
                    left: None,
                    right: Some(rest),
                } => step.stay(vma, rest.range),
                Around {
                    left: Some(left),
                    right: Some(right),
                } => {
                    step.stay(vma, left.range);
                    step.born(right);
                    step.between = Some((Some(vma), self.tree.next(self.up, vma)));
                }
            }
            self.carry_out(&step);
            if part.end() == range.end() {
                return;
            }
        }
    }

    /// Puts one area over the empty range.
    // Out of line, so that a step's shapes are not part of the verbs' frames.
    #[inline(never)]
    fn place(&mut self, new: &NewVma) {
        let range = self.plan.range;
        let anon = new
            .like
            .map_or(AnonLink::None, |vma| self.get(vma).anon_link());
        let shape = Shape {
            range,
            spec: new.spec,
            anon,
        };
        let (prev, next) = self.tree.around(self.up, range.start());
        let below = prev.and_then(|vma| part_below(self.up, vma, range.start()));
        let above = next.and_then(|vma| part_above(self.up, vma, range.end()));
        let join = join_new(below.as_ref(), &shape, above.as_ref());
        let mut step = Step {
            from: new.like,
            absorbed: new.spec.flags,
            ..Step::default()
        };
        match (join, prev, next) {
            (Join::Prev, Some(prev), _) => step.grow(prev, self.up_to(prev, range.end())),
            (Join::Next, _, Some(next)) => step.grow(next, self.down_to(next, range.start())),
            (Join::Both, Some(prev), Some(next)) => {
                step.grow(prev, self.up_to(prev, self.get(next).end()));
                step.gone(next);
            }
            _ => {
                step.born(shape);
                step.between = Some((prev, next));
            }
        }
        self.carry_out(&step);
    }

    /// Gives the areas of the range other flags.
    fn modify(&mut self, change: Change<'a>) {
        let mut left = self.plan.range;
        // Each area is found by its page: the step before may have merged away
        // whatever followed.
        while let Some(vma) = self.tree.first_ending_above(self.up, left.start()) {
            let old = self.get(vma).shape();
            let part = old.range.intersect(left);
            if part.is_empty() {
                return;
            }
            let flags = change(&old);
            if flags != old.spec.flags {
                self.change(vma, &old, part, flags);
            }
            left = left.from(part.end());
        }
    }

    /// Gives a part of one area other flags, and lets it join its neighbours.
    // Out of line, so that a step's shapes are not part of the verbs' frames.
    #[inline(never)]
    fn change(&mut self, vma: Handle<Vma>, old: &Shape, part: PageRange, flags: VmaFlags) {
        let alive = |h: &Handle<Vma>| !self.get(*h).is_dying();
        let prev = self.tree.prev(self.up, vma).filter(alive);
        let next = self.tree.next(self.up, vma).filter(alive);
        let below = prev.map(|h| self.get(h).shape());
        let above = next.map(|h| self.get(h).shape());
        let join = join_changed(below.as_ref(), old, part, flags, above.as_ref());
        let around = Around::of(old, part);
        let mut step = Step {
            from: Some(vma),
            absorbed: flags,
            ..Step::default()
        };
        match (join, prev, next) {
            (Join::Prev, Some(prev), _) => {
                step.grow(prev, self.up_to(prev, part.end()));
                step.rest(vma, around.right);
            }
            (Join::Next, _, Some(next)) => {
                step.grow(next, self.down_to(next, part.start()));
                step.rest(vma, around.left);
            }
            (Join::Both, Some(prev), Some(next)) => {
                step.grow(prev, self.up_to(prev, self.get(next).end()));
                step.gone(vma);
                step.gone(next);
            }
            _ => {
                step.stay(vma, part);
                step.flags = Some(flags);
                for rest in [around.left, around.right].into_iter().flatten() {
                    step.born(rest);
                }
            }
        }
        self.carry_out(&step);
    }

    /// Does one step: see the module for the order.
    // Out of line, so that a step's shapes are not part of the verbs' frames.
    #[inline(never)]
    fn carry_out(&mut self, step: &Step) {
        let (tree, up) = (self.tree, self.up);
        let changed = || {
            step.stay
                .iter()
                .map(|s| s.0)
                .chain(step.gone.iter().copied())
        };
        for vma in changed() {
            self.write_mark(vma);
        }
        let anon = changed()
            .chain(step.from)
            .map(|h| self.get(h).anon_raw())
            .find(|&id| id != 0);
        let object = match (changed().next(), step.born.first()) {
            (Some(h), _) => self.get(h).object_raw(),
            (None, Some(shape)) => shape.spec.object,
            (None, None) => 0,
        };
        let only_removes = step.stay.is_empty() && step.born.is_empty();
        let mut locked = up.lock(object, anon.filter(|_| !only_removes).unwrap_or(0));

        for &(vma, _) in &step.stay {
            up.map_remove(&mut locked, vma);
            up.chains_hide(&mut locked, vma);
        }
        for &vma in &step.gone {
            up.map_remove(&mut locked, vma);
            tree.remove(up, vma);
        }
        if let Some(heir) = step.heir {
            self.inherit(&mut locked, heir, step);
        }
        for &(vma, range) in &step.stay {
            self.reshape(vma, range);
        }
        if let (Some(flags), Some(&(vma, _))) = (step.flags, step.stay.first()) {
            self.get(vma).set_flags(flags);
        }
        for &(vma, _) in &step.stay {
            tree.resized(up, vma);
            up.map_insert(&mut locked, vma);
            up.chains_show(&mut locked, vma);
        }
        for shape in &step.born {
            let Some(vma) = self.make(shape, step.between) else {
                continue;
            };
            up.map_insert(&mut locked, vma);
            self.copy_chains(&mut locked, vma, step.from);
        }
        if let Some(heir) = step.heir.filter(|&h| self.get(h).anon_raw() == 0) {
            self.copy_chains(&mut locked, heir, step.from);
        }
        drop(locked);
        for &vma in &step.gone {
            self.unmake(vma);
        }
    }

    /// Lets the area that grows take over sticky flags, and the chains of an
    /// area that goes.
    fn inherit(&self, locked: &mut U::Locked, heir: Handle<Vma>, step: &Step) {
        let node = self.get(heir);
        let parts = step.gone.iter().map(|&h| self.get(h).flags());
        let flags = parts.fold(node.flags().absorbing(step.absorbed), VmaFlags::absorbing);
        node.set_flags(flags);
        if node.anon_raw() != 0 {
            return;
        }
        if let Some(&from) = step.gone.iter().find(|&&h| self.get(h).anon_raw() != 0) {
            self.up.chains_hide(locked, from);
            self.up.chains_move(locked, heir, from);
        }
    }

    /// Moves the edges of an area; the offset follows the first page.
    fn reshape(&self, vma: Handle<Vma>, range: PageRange) {
        let node = self.get(vma);
        // Wraps where the area grows down, and comes out right.
        node.set_pgoff(node.pgoff_of(range.start()));
        node.set_start(range.start());
        node.set_end(range.end());
    }

    /// Puts a new area, write-marked, into the tree.
    fn make(&mut self, shape: &Shape, between: Option<Neighbours>) -> Option<Handle<Vma>> {
        let vma = self.stock.nodes.pop();
        debug_assert!(vma.is_some(), "the plan bounds the nodes of its edit");
        let vma = vma?;
        self.get(vma).fill(self.tree, shape.range, &shape.spec);
        self.get(vma).attach();
        self.up.retain(vma);
        match between {
            Some(between) => self.tree.insert_between(self.up, vma, between),
            None => self.tree.insert(self.up, vma),
        }
        Some(vma)
    }

    /// Gives an area that is out of the tree and of its object's map back.
    fn unmake(&self, vma: Handle<Vma>) {
        let node = self.get(vma);
        if node.anon_raw() != 0 {
            self.up.chains_drop(vma);
        }
        self.up.release(vma);
        node.detach();
        self.up.free(vma);
    }

    fn copy_chains(&mut self, locked: &mut U::Locked, to: Handle<Vma>, from: Option<Handle<Vma>>) {
        if let (Some(from), Some(reserve)) = (from, self.stock.chains.as_mut()) {
            if self.up.get(from).anon_raw() != 0 {
                self.up.chains_copy(locked, to, from, reserve);
            }
        }
    }

    fn up_to(&self, vma: Handle<Vma>, end: Vpn) -> PageRange {
        PageRange::new(self.get(vma).start(), end)
    }

    fn down_to(&self, vma: Handle<Vma>, start: Vpn) -> PageRange {
        PageRange::new(start, self.get(vma).end())
    }

    fn write_mark(&self, vma: Handle<Vma>) {
        self.get(vma).write_mark(self.up.context());
    }

    fn get(&self, vma: Handle<Vma>) -> &'a Vma {
        self.up.get(vma)
    }
}

impl<U: Upkeep> Drop for Edit<'_, U> {
    fn drop(&mut self) {
        if !self.committed {
            unmark(self.tree, self.up, self.plan.range, |_| true);
        }
    }
}

/// An edit that was carried out; its areas are write-marked until this is
/// dropped. Entries of page tables are changed meanwhile.
#[must_use = "the areas stay marked until this is dropped: change the tables first"]
pub struct Done<'a, U: Upkeep> {
    tree: &'a VmaTree,
    up: &'a U,
    range: PageRange,
}

impl<U: Upkeep> Done<'_, U> {
    /// Returns the area that holds the first page of the range now.
    pub fn area(&self) -> Option<Handle<Vma>> {
        self.tree.find(self.up, self.range.start())
    }

    /// Leaves the areas of the range marked, beyond the space lock; only their
    /// neighbours are unmarked. Who calls this unmarks them.
    pub fn stay_marked(self) {
        unmark(self.tree, self.up, self.range, |vma| {
            vma.intersect(self.range).is_empty()
        });
        core::mem::forget(self);
    }
}

impl<U: Upkeep> Drop for Done<'_, U> {
    fn drop(&mut self) {
        unmark(self.tree, self.up, self.range, |_| true);
    }
}

/// Unmarks the areas in and right beside a range, what an edit may have
/// marked, if `which` says so of their ranges.
fn unmark<U: Upkeep>(tree: &VmaTree, up: &U, range: PageRange, which: impl Fn(PageRange) -> bool) {
    let wide = PageRange::new(
        range.start().saturating_sub(1),
        range.end().saturating_add(1),
    );
    for vma in tree.overlapping(up, wide) {
        let node = up.get(vma);
        // A dying area is marked by who zaps it.
        if node.is_marked() && !node.is_dying() && which(node.range()) {
            node.unmark();
        }
    }
}

/// One indivisible change: areas of one object and one anon_vma root.
#[derive(Default)]
struct Step {
    /// Areas that remain, with their new ranges.
    stay: ArrayVec<(Handle<Vma>, PageRange), 2>,
    /// Areas that go.
    gone: ArrayVec<Handle<Vma>, 2>,
    /// Areas that come.
    born: ArrayVec<Shape, 2>,
    /// Where the one area that comes stands, if that is known; none goes then.
    between: Option<Neighbours>,
    /// New flags of the first area that stays.
    flags: Option<VmaFlags>,
    /// Which of those that stay grows over others.
    heir: Option<Handle<Vma>>,
    /// Flags of what it grows over.
    absorbed: VmaFlags,
    /// Whose chains those that come, and a heir without any, get copies of.
    from: Option<Handle<Vma>>,
}

impl Step {
    fn stay(&mut self, vma: Handle<Vma>, range: PageRange) {
        let fits = self.stay.try_push((vma, range)).is_ok();
        debug_assert!(fits);
    }

    fn grow(&mut self, vma: Handle<Vma>, range: PageRange) {
        self.heir = Some(vma);
        self.stay(vma, range);
    }

    fn gone(&mut self, vma: Handle<Vma>) {
        let fits = self.gone.try_push(vma).is_ok();
        debug_assert!(fits);
    }

    fn born(&mut self, shape: Shape) {
        let fits = self.born.try_push(shape).is_ok();
        debug_assert!(fits);
    }

    /// Notes what remains of an area that was grown over: a rest, or nothing.
    fn rest(&mut self, vma: Handle<Vma>, rest: Option<Shape>) {
        match rest {
            Some(rest) => self.stay(vma, rest.range),
            None => self.gone(vma),
        }
    }
}
