//! Stabs: all areas of a file that may map one of its pages (rmap).
//!
//! Each of our areas is in the tree of its file, by offset, as it stands in a
//! kernel: 128 bytes, in the tree of its space too. The peers hold a range and 24
//! bytes each. A sorted map can answer only because it is told how long the longest
//! area is.

use super::ours::Ours;
use super::{BASE, Cx, Kind};
use crate::measure::{Bench, Goal, Random, Sample, contender, timed};
use iset::IntervalMap;
use mm_core::rmap::walk_areas;
use mm_core::tree::IntervalTree;
use mm_core::vma::{ByOffset, VmaSpec};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::ControlFlow;

/// So many areas map each page of the file.
const HITS: usize = 8;
/// What an area holds besides its range.
type Content = [usize; 3];

/// Areas of one file, each beginning a page of it behind the one before.
trait Stab {
    /// Returns the sum of the first pages of all areas that map a page.
    fn stab(&self, page: usize) -> usize;
}

struct Sorted(BTreeMap<usize, (usize, Content)>);

impl Stab for Sorted {
    fn stab(&self, page: usize) -> usize {
        self.0
            .range((page + 1).saturating_sub(HITS)..=page)
            .filter(|(_, (end, _))| *end > page)
            .map(|(first, _)| first)
            .sum()
    }
}

impl Stab for IntervalMap<usize, Content> {
    fn stab(&self, page: usize) -> usize {
        self.overlap(page).map(|(range, _)| range.start).sum()
    }
}

struct Reverse<'c> {
    file: IntervalTree<ByOffset>,
    areas: Ours<'c>,
}

impl<'c> Reverse<'c> {
    fn new(cx: &'c Cx, order: &[usize]) -> Self {
        let mut areas = Ours::new(cx);
        for &i in order {
            let start = BASE + i * (HITS + 1);
            let spec = VmaSpec {
                pgoff: i,
                ..Ours::spec(Kind::A)
            };
            areas.put(start, start + HITS, spec);
        }
        // In a kernel the commit of an area does this.
        let file = IntervalTree::new();
        for vma in areas.handles() {
            file.insert(areas.nodes(), vma);
        }
        Self { file, areas }
    }
}

impl Stab for Reverse<'_> {
    fn stab(&self, page: usize) -> usize {
        let mut sum = 0;
        let _ = walk_areas(&self.file, self.areas.nodes(), page as u64, |hit| {
            sum += hit.area.pgoff();
            ControlFlow::<()>::Continue(())
        });
        sum
    }
}

impl Drop for Reverse<'_> {
    fn drop(&mut self) {
        for vma in self.areas.handles() {
            self.file.remove(self.areas.nodes(), vma);
        }
    }
}

/// Measures the row.
pub fn row(bench: &mut Bench<'_>, cx: &Cx, n: usize) {
    let name = "rmap stab of 8 hits, 64 Ki areas";
    if !bench.wants(name) {
        return;
    }
    let mut order: Vec<_> = (0..n).collect();
    let mut random = Random::new(11);
    random.shuffle(&mut order);
    let pages: Vec<_> = (0..bench.size(8192, 256))
        .map(|_| HITS + random.below(n - HITS))
        .collect();
    let ranges = order.iter().map(|&i| (i, i + HITS));
    let sorted = Sorted(ranges.clone().map(|(i, end)| (i, (end, [i; 3]))).collect());
    let mut tree = IntervalMap::new();
    for (i, end) in ranges {
        tree.insert(i..end, [i; 3]);
    }
    let ours = Reverse::new(cx, &order);
    let goal = Goal {
        text: "<= 442 ns (0.8x of Linux' interval tree): 3.4x a random find of BTreeMap there",
        against: "BTreeMap, one find",
        ratio: 3.4,
        instructions: None,
    };
    bench.row(
        name,
        "stab",
        "iset",
        goal,
        vec![
            contender("BTreeMap, one find", || find(&sorted, &pages)),
            contender("BTreeMap, told the longest", || stab(&sorted, &pages)),
            contender("iset", || stab(&tree, &pages)),
            contender("mm", || stab(&ours, &pages)),
        ],
    );
}

fn stab(areas: &impl Stab, pages: &[usize]) -> Sample {
    let page = pages[0];
    assert_eq!(areas.stab(page), (page + 1 - HITS..=page).sum());
    timed(pages.len(), || {
        for &page in pages {
            black_box(areas.stab(black_box(page)));
        }
    })
}

fn find(areas: &Sorted, pages: &[usize]) -> Sample {
    timed(pages.len(), || {
        for &page in pages {
            black_box(areas.0.range(..=black_box(page)).next_back());
        }
    })
}
