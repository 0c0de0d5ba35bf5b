//! The rows of areas (VMAs).
//!
//! Peers are containers: a key, an end, and 24 bytes of content. Ours plans
//! each edit, looks for overlaps and merges, marks what it changes, and keeps
//! the gaps; all of that is in its numbers.

mod ours;
mod stab;
mod theirs;

use crate::heap;
use crate::machine;
use crate::measure::{Bench, Goal, Random, Sample, contender, timed};
use ours::Ours;
use std::hint::black_box;
use theirs::{BTree, Intrusive, Set};

/// Areas in the small sets, in the large ones, and in the one of most.
const SMALL: usize = 4 << 10;
const LARGE: usize = 64 << 10;
const MOST: usize = 1 << 20;
/// The first page in use.
const BASE: usize = 0x10_0000;
/// From one area to the next, and how much of that is an area.
const STRIDE: usize = 8;
const LENGTH: usize = 6;

/// What a row does to a set of areas. All numbers are pages.
trait Areas {
    fn insert(&mut self, start: usize, end: usize, kind: Kind);
    /// Returns the start of the area that holds a page.
    fn find(&self, page: usize) -> Option<usize>;
    /// Takes pages out of the middle of an area.
    fn punch(&mut self, start: usize, end: usize);
    /// Finds a gap of one page in a range, puts an area there, takes it away.
    fn map_unmap(&mut self, low: usize, high: usize);
    /// Returns the sum of all ends.
    fn walk(&self) -> usize;
}

/// Neighbours of different kinds do not merge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    A,
    B,
    C,
}

/// Measures the rows.
pub fn measure(bench: &mut Bench<'_>) {
    let mm = machine::boot();
    let cx = mm.cx();
    let (small, large) = (bench.size(SMALL, 1024), bench.size(LARGE, 4096));
    let goal = Goal {
        text: "<= 0.15x BTreeMap (3 ns of 20), <= 20 instructions",
        against: "BTreeMap",
        ratio: 0.15,
        instructions: Some(20.0),
    };
    find_row(bench, &cx, "find, hot, 4 Ki areas", small, Pages::One, goal);
    let goal = Goal {
        text: "<= 0.40x BTreeMap",
        against: "BTreeMap",
        ratio: 0.40,
        instructions: None,
    };
    find_row(
        bench,
        &cx,
        "find, random, 4 Ki areas",
        small,
        Pages::Random,
        goal,
    );
    find_row(
        bench,
        &cx,
        "find, random, 64 Ki areas",
        large,
        Pages::Random,
        goal,
    );
    edit_rows(bench, &cx, small);
    let goal = Goal {
        text: "<= 87 ns of 10.8 us: 0.008x BTreeMap (Linux' rbtree), and flat",
        against: "BTreeMap",
        ratio: 87.0 / 10_800.0,
        instructions: None,
    };
    gap_row(
        bench,
        &cx,
        "map+unmap, hole at the far end, 4 Ki",
        small,
        goal,
    );
    let goal = Goal {
        text: "<= 98 ns of 469 us: 0.0002x BTreeMap (Linux' rbtree), and flat",
        against: "BTreeMap",
        ratio: 98.0 / 469_000.0,
        instructions: None,
    };
    gap_row(
        bench,
        &cx,
        "map+unmap, hole at the far end, 64 Ki",
        large,
        goal,
    );
    let goal = Goal {
        text: "<= 138 ns of 15 ms: 0.00001x BTreeMap (Linux' rbtree), and flat",
        against: "BTreeMap",
        ratio: 138.0 / 15_000_000.0,
        instructions: None,
    };
    let most = bench.size(MOST, 16 << 10);
    gap_row(
        bench,
        &cx,
        "map+unmap, hole at the far end, 1 Mi",
        most,
        goal,
    );
    stab::row(bench, &cx, large);
    walk_row(bench, &cx, small);
    memory_row(bench, &cx);
}

type Cx = mm_core::cx::Cx<'static, machine::Bare>;

/// Fills a set with `n` areas that do not touch, in random order.
fn fill<S: Areas>(mut set: S, n: usize) -> S {
    let mut order: Vec<_> = (0..n).collect();
    Random::new(3).shuffle(&mut order);
    for i in order {
        let start = BASE + i * STRIDE;
        set.insert(start, start + LENGTH, Kind::A);
    }
    set
}

/// Which pages a find row asks for.
#[derive(Clone, Copy)]
enum Pages {
    One,
    Random,
}

fn find_row(
    bench: &mut Bench<'_>,
    cx: &Cx,
    name: &'static str,
    n: usize,
    which: Pages,
    goal: Goal,
) {
    if !bench.wants(name) {
        return;
    }
    let mut random = Random::new(5);
    let some = BASE + n / 3 * STRIDE + 1;
    let pages: Vec<_> = (0..bench.size(8192, 512))
        .map(|_| match which {
            Pages::One => some,
            Pages::Random => BASE + random.below(n) * STRIDE + random.below(LENGTH),
        })
        .collect();
    let btree = fill(BTree::new(), n);
    let intrusive = fill(Intrusive::new(), n);
    let set = fill(Set::new(), n);
    let ours = fill(Ours::new(cx), n);
    bench.row(
        name,
        "find",
        "BTreeMap",
        goal,
        vec![
            contender("BTreeMap", || find(&btree, &pages)),
            contender("intrusive RBTree", || find(&intrusive, &pages)),
            contender("memory_set", || find(&set, &pages)),
            contender("mm", || find(&ours, &pages)),
        ],
    );
}

fn find(set: &impl Areas, pages: &[usize]) -> Sample {
    let start = set.find(pages[0]).expect("an area");
    assert_eq!(start, BASE + (pages[0] - BASE) / STRIDE * STRIDE);
    timed(pages.len(), || {
        for &page in pages {
            black_box(set.find(black_box(page)));
        }
    })
}

fn edit_rows(bench: &mut Bench<'_>, cx: &Cx, n: usize) {
    let mut places: Vec<_> = (0..n).map(|i| BASE + i * STRIDE).collect();
    Random::new(9).shuffle(&mut places);
    // Of every other area the place is taken before, of the rest in the row.
    let places = &places[..n / 2];
    let goal = Goal {
        text: "<= 0.9x BTreeMap, no allocation",
        against: "BTreeMap",
        ratio: 0.9,
        instructions: None,
    };
    bench.row(
        "insert into 4 Ki areas",
        "insert",
        "BTreeMap",
        goal,
        vec![
            contender("BTreeMap", || insert(fill(BTree::new(), n), places, n)),
            contender("intrusive RBTree", || {
                insert(fill(Intrusive::new(), n), places, n)
            }),
            contender("memory_set", || insert(fill(Set::new(), n), places, n)),
            contender("mm", || insert(fill(Ours::new(cx), n), places, n)),
        ],
    );
    let goal = Goal {
        text: "<= 0.65x BTreeMap",
        against: "BTreeMap",
        ratio: 0.65,
        instructions: None,
    };
    // memory_set looks at every area for each unmap.
    let few = &places[..places.len().min(128)];
    bench.row(
        "unmap middle (split), 4 Ki areas",
        "unmap",
        "BTreeMap",
        goal,
        vec![
            contender("BTreeMap", || punch(fill(BTree::new(), n), places)),
            contender("intrusive RBTree", || {
                punch(fill(Intrusive::new(), n), places)
            }),
            contender("memory_set", || punch(fill(Set::new(), n), few)),
            contender("mm", || punch(fill(Ours::new(cx), n), places)),
        ],
    );
}

/// Inserts one-page areas into the two free pages above areas, touching none.
fn insert<S: Areas>(mut set: S, places: &[usize], n: usize) -> Sample {
    let sample = timed(places.len(), || {
        for &place in places {
            set.insert(place + LENGTH, place + LENGTH + 1, Kind::B);
        }
    });
    assert!(n > 0 && set.find(places[0] + LENGTH).is_some());
    sample
}

fn punch<S: Areas>(mut set: S, places: &[usize]) -> Sample {
    let sample = timed(places.len(), || {
        for &place in places {
            set.punch(place + 2, place + 3);
        }
    });
    assert_eq!(set.find(places[0] + 2), None);
    assert_eq!(set.find(places[0] + 3), Some(places[0] + 3));
    sample
}

/// Areas side by side, and one free page where the search comes last.
fn packed<S: Areas>(mut set: S, n: usize) -> S {
    let mut order: Vec<_> = (0..n).collect();
    Random::new(4).shuffle(&mut order);
    for i in order {
        let kind = if i % 2 == 0 { Kind::A } else { Kind::B };
        set.insert(BASE + 1 + i, BASE + 2 + i, kind);
    }
    set
}

fn gap_row(bench: &mut Bench<'_>, cx: &Cx, name: &'static str, n: usize, goal: Goal) {
    if !bench.wants(name) {
        return;
    }
    let mut btree = packed(BTree::new(), n);
    let mut intrusive = packed(Intrusive::new(), n);
    // Its search goes up, so that its hole is at the top.
    let mut set = packed(Set::new(), n);
    let mut ours = packed(Ours::new(cx), n);
    let (low, high) = (BASE, BASE + 1 + n);
    // Those who look at every area need one turn only.
    let times = if n > SMALL { 1 } else { 4 };
    bench.row(
        name,
        "pair",
        "BTreeMap",
        goal,
        vec![
            contender("BTreeMap", || map_unmap(&mut btree, low, high, times)),
            contender("intrusive RBTree", || {
                map_unmap(&mut intrusive, low, high, times)
            }),
            contender("memory_set", || {
                map_unmap(&mut set, low + 1, high + 1, times)
            }),
            contender("mm", || map_unmap(&mut ours, low, high, 512)),
        ],
    );
}

fn map_unmap(set: &mut impl Areas, low: usize, high: usize, times: usize) -> Sample {
    timed(times, || {
        for _ in 0..times {
            set.map_unmap(low, high);
        }
    })
}

fn walk_row(bench: &mut Bench<'_>, cx: &Cx, n: usize) {
    let goal = Goal {
        text: "<= 1.0x BTreeMap",
        against: "BTreeMap",
        ratio: 1.0,
        instructions: None,
    };
    let btree = fill(BTree::new(), n);
    let intrusive = fill(Intrusive::new(), n);
    let set = fill(Set::new(), n);
    let ours = fill(Ours::new(cx), n);
    bench.row(
        "iterate, 4 Ki areas",
        "area",
        "BTreeMap",
        goal,
        vec![
            contender("BTreeMap", || walk(&btree, n)),
            contender("intrusive RBTree", || walk(&intrusive, n)),
            contender("memory_set", || walk(&set, n)),
            contender("mm", || walk(&ours, n)),
        ],
    );
}

fn walk(set: &impl Areas, n: usize) -> Sample {
    timed(n, || {
        black_box(set.walk());
    })
}

fn memory_row(bench: &mut Bench<'_>, cx: &Cx) {
    let goal = Goal {
        text: "<= 128 bytes with everything in it (2.1x the 62 of a bare BTreeMap)",
        against: "128 bytes",
        ratio: 1.0,
        instructions: None,
    };
    let n = bench.size(LARGE, 16);
    let ours = fill(Ours::new(cx), n);
    let per = |bytes: usize| bytes as f64 / n as f64;
    bench.fact(
        "memory, 64 Ki areas",
        "bytes per area",
        "BTreeMap",
        goal,
        &[
            ("BTreeMap", per(heap_of(|| fill(BTree::new(), n)))),
            (
                "intrusive RBTree",
                per(heap_of(|| fill(Intrusive::new(), n))),
            ),
            ("memory_set", per(heap_of(|| fill(Set::new(), n)))),
            ("mm", per(ours.bytes())),
            ("128 bytes", 128.0),
        ],
    );
}

/// Returns the heap that what `make` makes holds.
fn heap_of<T>(make: impl FnOnce() -> T) -> usize {
    let before = heap::in_use();
    let made = make();
    let bytes = heap::in_use().wrapping_sub(before);
    drop(made);
    bytes
}
