//! Every step of random histories is compared with a sorted list or a scan.

use super::{
    Adapter, Area, Direction, GapRequest, GapTree, GapWords, Interval, IntervalTree, Links,
    Resolve, Tree,
};
use crate::pool::{Handle, Node};
use crate::sync::{AtomicU32, AtomicUsize, Ordering};
use std::cmp;
use std::collections::BTreeMap;
use std::vec::Vec;

/// A node that can be in a tree of each kind.
struct TestNode {
    free: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    guard: AtomicUsize,
    by_address: Links<TestNode>,
    gaps: GapWords,
    by_page: Links<TestNode>,
    subtree_last: AtomicUsize,
    by_key: Links<TestNode>,
    sum: AtomicUsize,
}

impl Node for TestNode {
    const NAME: &'static str = "test";
    fn new() -> Self {
        Self {
            free: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            guard: AtomicUsize::new(0),
            by_address: Links::new(),
            gaps: GapWords::new(),
            by_page: Links::new(),
            subtree_last: AtomicUsize::new(0),
            by_key: Links::new(),
            sum: AtomicUsize::new(0),
        }
    }
    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

impl TestNode {
    fn start(&self) -> usize {
        self.start.load(Ordering::Relaxed)
    }
    fn end(&self) -> usize {
        self.end.load(Ordering::Relaxed)
    }
    fn set(&self, start: usize, end: usize) {
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
    }
}

/// Nodes in a vector; a handle is an index plus one.
struct Arena(Vec<TestNode>);

impl Arena {
    fn new(n: usize) -> Self {
        Self((0..n).map(|_| TestNode::new()).collect())
    }
}

impl Resolve<TestNode> for Arena {
    fn get(&self, handle: Handle<TestNode>) -> &TestNode {
        &self.0[handle.into_raw() as usize - 1]
    }
}

fn handle(i: usize) -> Handle<TestNode> {
    Handle::from_raw(u32::try_from(i).unwrap() + 1).unwrap()
}

/// By start; the summary counts nodes, so that each wrong summary shows.
struct ByKey;

impl Adapter for ByKey {
    type Node = TestNode;
    fn links(node: &TestNode) -> &Links<TestNode> {
        &node.by_key
    }
    fn precedes(a: &TestNode, b: &TestNode) -> bool {
        a.start() < b.start()
    }
    fn augment(node: &TestNode, left: Option<&TestNode>, right: Option<&TestNode>) -> bool {
        let of = |n: Option<&TestNode>| n.map_or(0, |n| n.sum.load(Ordering::Relaxed));
        let sum = 1 + of(left) + of(right);
        node.sum.swap(sum, Ordering::Relaxed) != sum
    }
}

struct ByAddress;

impl Area for ByAddress {
    type Node = TestNode;
    fn links(node: &TestNode) -> &Links<TestNode> {
        &node.by_address
    }
    fn gaps(node: &TestNode) -> &GapWords {
        &node.gaps
    }
    fn start(node: &TestNode) -> usize {
        node.start()
    }
    fn end(node: &TestNode) -> usize {
        node.end()
    }
    fn floor(node: &TestNode) -> usize {
        node.start()
            .saturating_sub(node.guard.load(Ordering::Relaxed))
    }
}

struct ByPage;

impl Interval for ByPage {
    type Node = TestNode;
    fn links(node: &TestNode) -> &Links<TestNode> {
        &node.by_page
    }
    fn first(node: &TestNode) -> usize {
        node.start()
    }
    fn last(node: &TestNode) -> usize {
        node.end() - 1
    }
    fn subtree_last(node: &TestNode) -> &AtomicUsize {
        &node.subtree_last
    }
}

/// SplitMix64 (public domain algorithm), so that a seed is a whole history.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[test]
fn a6_tree_equals_a_btreemap_after_every_step() {
    for seed in 0..40u64 {
        let mut rng = Rng(seed);
        let n = 1 + rng.below(80);
        let arena = Arena::new(n);
        let tree = Tree::<ByKey>::new();
        let mut model: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let mut linked: Vec<Option<(usize, usize)>> = vec![None; n];
        let keys = 1 + rng.below(60);
        for step in 0..400usize {
            // Phases of growth and of shrinking, so that all sizes occur.
            let i = rng.below(n);
            let grow = rng.below(10) < if (step / 100) % 2 == 0 { 8 } else { 2 };
            match linked[i] {
                None if grow => {
                    let key = (rng.below(keys), step);
                    arena.0[i].start.store(key.0, Ordering::Relaxed);
                    tree.insert(&arena, handle(i));
                    model.insert(key, i);
                    linked[i] = Some(key);
                }
                Some(key) if !grow => {
                    tree.remove(&arena, handle(i));
                    model.remove(&key);
                    linked[i] = None;
                    let links = &arena.0[i].by_key;
                    assert!(!links.is_linked() && links.parent.get().is_none());
                    assert!(links.left.get().is_none() && links.right.get().is_none());
                }
                _ => continue,
            }
            assert_eq!(
                tree.check(&arena),
                Ok(model.len()),
                "seed {seed} step {step}"
            );
            let order: Vec<_> = tree.iter(&arena).collect();
            let expected: Vec<_> = model.values().map(|&i| handle(i)).collect();
            assert_eq!(order, expected, "seed {seed} step {step}");
            let back: Vec<_> =
                std::iter::successors(tree.last(&arena), |&h| tree.prev(&arena, h)).collect();
            assert!(
                back.iter().rev().eq(expected.iter()),
                "seed {seed} step {step}"
            );
            let probe = rng.below(keys + 1);
            let bound = model.range((probe, 0)..).next().map(|(_, &i)| handle(i));
            assert_eq!(
                tree.lower_bound(&arena, |n| n.start() < probe),
                bound,
                "seed {seed}"
            );
            let found = tree.find(&arena, |n| n.start().cmp(&probe));
            let unlocked = tree.find_unlocked(&arena, |n| n.start().cmp(&probe));
            let exists = bound.is_some_and(|h| arena.get(h).start() == probe);
            assert_eq!(found.is_some(), exists, "seed {seed} step {step}");
            assert_eq!(found, unlocked, "seed {seed} step {step}");
            assert!(found.is_none_or(|h| arena.get(h).start() == probe));
        }
    }
}

#[test]
fn tree_stays_as_flat_as_promised() {
    let n = 1 << 14;
    let arena = Arena::new(n);
    let tree = Tree::<ByKey>::new();
    for i in 0..n {
        arena.0[i].start.store(i, Ordering::Relaxed);
        tree.insert(&arena, handle(i));
    }
    let mut deepest = 0;
    for probe in 0..n {
        let mut steps = 0;
        let found = tree.find_unlocked(&arena, |n| {
            steps += 1;
            n.start().cmp(&probe)
        });
        assert_eq!(found, Some(handle(probe)));
        deepest = deepest.max(steps);
    }
    assert!(deepest <= 2 * 14 + 2, "{deepest} steps");
}

/// Readers run while a writer inserts and removes: each look ends, and finds a
/// node whose key was once asked for; nodes that are never removed are found
/// at least sometimes.
#[test]
fn a6_unlocked_descent_ends_during_rotations() {
    use std::sync::atomic::{AtomicBool, AtomicUsize as Counter};
    let n = 512;
    let arena = Arena::new(n);
    let tree = Tree::<ByKey>::new();
    for (i, node) in arena.0.iter().enumerate() {
        node.start.store(i, Ordering::Relaxed);
    }
    for i in (0..n).step_by(2) {
        tree.insert(&arena, handle(i));
    }
    let stop = AtomicBool::new(false);
    let hits = Counter::new(0);
    std::thread::scope(|s| {
        for t in 0..2u64 {
            let (arena, tree, stop, hits) = (&arena, &tree, &stop, &hits);
            s.spawn(move || {
                let mut rng = Rng(t);
                while !stop.load(Ordering::Relaxed) {
                    let probe = rng.below(n);
                    let mut steps = 0;
                    let found = tree.find_unlocked(arena, |n| {
                        steps += 1;
                        n.start().cmp(&probe)
                    });
                    assert!(steps <= super::MAX_STEPS);
                    if let Some(h) = found {
                        assert_eq!(h, handle(probe));
                        hits.fetch_add(usize::from(probe % 2 == 0), Ordering::Relaxed);
                    }
                }
            });
        }
        let mut rng = Rng(99);
        for _ in 0..60_000 {
            let i = rng.below(n) | 1;
            if arena.0[i].by_key.is_linked() {
                tree.remove(&arena, handle(i));
            } else {
                tree.insert(&arena, handle(i));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(tree.check(&arena).is_ok());
    assert!(hits.load(Ordering::Relaxed) > 0);
}

/// A history of areas in a small space, as map and unmap would make it.
struct Areas {
    arena: Arena,
    tree: GapTree<ByAddress>,
    live: BTreeMap<usize, usize>,
    free: Vec<usize>,
}

impl Areas {
    fn new(n: usize) -> Self {
        Self {
            arena: Arena::new(n),
            tree: GapTree::new(),
            live: BTreeMap::new(),
            free: (0..n).collect(),
        }
    }

    fn ends(&self, i: usize) -> (usize, usize) {
        (self.arena.0[i].start(), self.arena.0[i].end())
    }

    fn is_free(&self, start: usize, end: usize) -> bool {
        self.live.values().all(|&i| {
            let (s, e) = self.ends(i);
            end <= s || e <= start
        })
    }

    fn insert(&mut self, start: usize, end: usize, guard: usize) {
        if start >= end || !self.is_free(start, end) {
            return;
        }
        let Some(i) = self.free.pop() else { return };
        self.arena.0[i].set(start, end);
        self.arena.0[i].guard.store(guard, Ordering::Relaxed);
        self.tree.insert(&self.arena, handle(i));
        self.live.insert(start, i);
    }

    fn remove(&mut self, start: usize) {
        let i = self.live.remove(&start).unwrap();
        self.tree.remove(&self.arena, handle(i));
        self.free.push(i);
    }

    /// Grows or shrinks an area at both ends, or changes its guard.
    fn change(&mut self, start: usize, new: (usize, usize), guard: usize) {
        let i = self.live[&start];
        let old = self.ends(i);
        self.live.remove(&start);
        let ok = new.0 < new.1 && self.is_free(new.0, new.1) && new.0 < old.1 && old.0 < new.1;
        let new = if ok { new } else { old };
        self.arena.0[i].set(new.0, new.1);
        self.arena.0[i].guard.store(guard, Ordering::Relaxed);
        self.live.insert(new.0, i);
        self.tree.moved(&self.arena, handle(i));
    }

    fn check(&self, what: &str) {
        assert_eq!(
            self.tree.tree().check(&self.arena),
            Ok(self.live.len()),
            "{what}"
        );
        let mut prev_end = 0;
        for &i in self.live.values() {
            let known = self.arena.0[i].gaps.prev_end();
            assert_eq!(known, prev_end, "{what}");
            prev_end = self.arena.0[i].end();
        }
    }

    /// Whether the request may be placed at `at`, by looking at every area.
    fn allows(&self, r: &GapRequest, at: usize) -> bool {
        let align = r.align.max(1);
        at >= r.low
            && at + r.pages <= r.high
            && at % align == r.offset % align
            && self.is_free(at, at + r.pages)
            && self.live.values().all(|&i| {
                let end = self.ends(i).1;
                end > at || end + r.guard <= at
            })
            // The next area above keeps its guard free; those behind it are
            // shielded by it.
            && self.live.range(at..).next().is_none_or(|(_, &i)| {
                at + r.pages <= ByAddress::floor(&self.arena.0[i])
            })
    }

    fn brute(&self, r: &GapRequest, span: usize) -> Option<usize> {
        let mut all = (0..span).filter(|&at| self.allows(r, at));
        match r.direction {
            Direction::Lowest => all.next(),
            Direction::Highest => all.next_back(),
        }
    }
}

#[test]
fn a7_gap_exists_iff_brute_force_finds_it() {
    let span = 220;
    let (mut found, mut none) = (0, 0);
    for seed in 0..60u64 {
        let mut rng = Rng(seed);
        let mut areas = Areas::new(40);
        for step in 0..200 {
            let what = std::format!("seed {seed} step {step}");
            let guard = if rng.below(4) == 0 { rng.below(12) } else { 0 };
            let pick = rng.below(areas.live.len().max(1));
            let some = areas.live.keys().nth(pick).copied();
            match (rng.below(10), some) {
                (0..=5, _) | (_, None) => {
                    let start = rng.below(200);
                    areas.insert(start, start + 1 + rng.below(9), guard);
                }
                (6..=7, Some(start)) => areas.remove(start),
                (_, Some(start)) => {
                    let (s, e) = areas.ends(areas.live[&start]);
                    let new = (
                        (s + rng.below(7)).saturating_sub(3),
                        (e + rng.below(7)).saturating_sub(3),
                    );
                    areas.change(start, new, guard);
                }
            }
            areas.check(&what);
            for _ in 0..6 {
                let low = rng.below(span);
                let align = [1, 1, 2, 3, 4, 8, 16, 32][rng.below(8)];
                let request = GapRequest {
                    pages: 1 + rng.below(24),
                    low: [0, low][rng.below(2)],
                    high: low + rng.below(span - low + 1),
                    align,
                    offset: rng.below(align + 2),
                    guard: [0, rng.below(10)][rng.below(2)],
                    direction: [Direction::Lowest, Direction::Highest][rng.below(2)],
                };
                let expected = areas.brute(&request, span);
                let got = areas.tree.find_gap(&areas.arena, &request);
                assert_eq!(got, expected, "{what} {request:?}");
                match got {
                    Some(_) => found += 1,
                    None => none += 1,
                }
            }
        }
    }
    assert!(
        found > 10_000 && none > 10_000,
        "{found} found, {none} not: a one-sided test"
    );
}

/// Counts how often the tree looks at a node.
struct Counting<'a>(&'a Arena, AtomicUsize);

impl Resolve<TestNode> for Counting<'_> {
    fn get(&self, handle: Handle<TestNode>) -> &TestNode {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(handle)
    }
}

#[test]
fn a7_gap_search_is_logarithmic_also_where_alignment_fails() {
    let n = 1 << 14;
    let areas = Areas::new(n);
    // Gaps of 20 pages at 64 k + 1: large enough for 16, never aligned to 16 for 16 pages.
    for k in 0..n {
        let at = k * 64;
        areas.arena.0[k].set(if k == 0 { 0 } else { at + 21 }, at + 65);
        areas.tree.insert(&areas.arena, handle(k));
    }
    let end = n * 64 + 1;
    let looks = |request: GapRequest| {
        let nodes = Counting(&areas.arena, AtomicUsize::new(0));
        let got = areas.tree.find_gap(&nodes, &request);
        (got, nodes.1.load(Ordering::Relaxed))
    };
    let base = GapRequest {
        high: end + 1000,
        ..GapRequest::new(16)
    };

    let (got, steps) = looks(base);
    assert_eq!(got, Some(65));
    assert!(steps < 200, "{steps}");
    let (got, steps) = looks(GapRequest {
        low: 40 * 64,
        ..base
    });
    assert_eq!(got, Some(40 * 64 + 1));
    assert!(steps < 200, "{steps}");
    let (got, steps) = looks(GapRequest { pages: 21, ..base });
    assert_eq!(got, Some(end));
    assert!(steps < 200, "{steps}");
    let (got, steps) = looks(GapRequest {
        pages: 21,
        high: end,
        ..base
    });
    assert_eq!(got, None);
    assert!(steps < 200, "{steps}");

    // Every gap is large enough and none is aligned: 16 Ki of them are passed over.
    for direction in [Direction::Lowest, Direction::Highest] {
        let request = GapRequest {
            align: 32,
            offset: 30,
            direction,
            ..base
        };
        let (got, steps) = looks(request);
        let place = got.unwrap();
        assert!(place >= end && place % 32 == 30);
        assert!(steps < 4000, "{steps} looks at nodes among {n}");
    }
}

#[test]
fn a7_gap_at_the_ends_of_the_space() {
    let mut areas = Areas::new(4);
    let lowest = GapRequest::new(4);
    let highest = GapRequest {
        direction: Direction::Highest,
        ..lowest
    };
    assert_eq!(areas.tree.find_gap(&areas.arena, &lowest), Some(0));
    assert_eq!(
        areas.tree.find_gap(&areas.arena, &highest),
        Some(usize::MAX - 4)
    );
    assert_eq!(areas.tree.find_gap(&areas.arena, &GapRequest::new(0)), None);
    let all = GapRequest {
        guard: 1,
        ..GapRequest::new(usize::MAX)
    };
    assert_eq!(areas.tree.find_gap(&areas.arena, &all), None);
    areas.insert(4, 8, 0);
    assert_eq!(areas.tree.find_gap(&areas.arena, &lowest), Some(0));
    areas.insert(usize::MAX - 8, usize::MAX, 0);
    assert_eq!(
        areas.tree.find_gap(&areas.arena, &highest),
        Some(usize::MAX - 12)
    );
    // Nothing lies below the lowest gap, so a guard costs nothing there.
    let guarded = GapRequest { guard: 5, ..lowest };
    assert_eq!(areas.tree.find_gap(&areas.arena, &guarded), Some(0));
    let guarded = GapRequest { low: 1, ..guarded };
    assert_eq!(areas.tree.find_gap(&areas.arena, &guarded), Some(13));
}

#[test]
fn g2_overlaps_equal_a_scan_after_every_step() {
    for seed in 0..40u64 {
        let mut rng = Rng(seed);
        let n = 1 + rng.below(60);
        let arena = Arena::new(n);
        let tree = IntervalTree::<ByPage>::new();
        let long = 1 + rng.below(30);
        for step in 0..300 {
            let i = rng.below(n);
            let node = &arena.0[i];
            if node.by_page.is_linked() {
                tree.remove(&arena, handle(i));
            } else {
                let start = rng.below(100);
                node.set(start, start + 1 + rng.below(long));
                tree.insert(&arena, handle(i));
            }
            assert!(tree.tree().check(&arena).is_ok(), "seed {seed} step {step}");
            let first = rng.below(130);
            let last = first + rng.below(12);
            let got: Vec<_> = tree.overlaps(&arena, first, last).collect();
            let expected: Vec<_> = tree
                .tree()
                .iter(&arena)
                .filter(|&h| {
                    let n = arena.get(h);
                    n.start() <= last && first < n.end()
                })
                .collect();
            assert_eq!(got, expected, "seed {seed} step {step} [{first},{last}]");
        }
    }
}

#[test]
fn overlaps_lets_the_node_in_hand_be_removed() {
    let arena = Arena::new(64);
    let tree = IntervalTree::<ByPage>::new();
    for (i, node) in arena.0.iter().enumerate() {
        node.set(i, i + 8);
        tree.insert(&arena, handle(i));
    }
    let mut seen = 0;
    for h in tree.overlaps(&arena, 10, 30) {
        tree.remove(&arena, h);
        seen += 1;
    }
    assert_eq!(seen, 28);
    assert_eq!(tree.tree().check(&arena), Ok(64 - 28));
    assert_eq!(tree.overlaps(&arena, 10, 30).count(), 0);
}

#[test]
fn overlap_query_costs_log_n_plus_hits() {
    let n = 1 << 14;
    let arena = Arena::new(n);
    let tree = IntervalTree::<ByPage>::new();
    for (i, node) in arena.0.iter().enumerate() {
        node.set(i * 4, i * 4 + 4);
        tree.insert(&arena, handle(i));
    }
    let nodes = Counting(&arena, AtomicUsize::new(0));
    assert_eq!(tree.overlaps(&nodes, 40_000, 40_031).count(), 8);
    let looks = nodes.1.load(Ordering::Relaxed);
    assert!(looks < 200, "{looks}");
    assert_eq!(cmp::max(looks, 8), looks);
}
