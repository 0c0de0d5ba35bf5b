//! The buddy allocator against a model, on a plain table of records.

use super::{Buddy, MAX_ORDER, Records, frames};
use crate::addr::Pfn;
use crate::page::zone::{Bounds, Zones};
use crate::page::{Kind, Page};
use std::collections::BTreeMap;

struct Table(Vec<Page>);

impl Records for Table {
    fn record(&self, pfn: Pfn) -> Option<&Page> {
        self.0
            .get(pfn.as_usize())
            .filter(|page| page.kind() != Kind::Absent)
    }
}

/// Records of frames `from..to`, all free and merged.
fn machine(from: u64, to: u64) -> (Table, Buddy) {
    let table = Table((0..to).map(|_| Page::new()).collect());
    for page in &table.0[from as usize..] {
        page.reset(Kind::FreeTail, 0);
    }
    let mut buddy = Buddy::new();
    for pfn in from..to {
        buddy.give(&table, Pfn::new(pfn), 0);
    }
    (table, buddy)
}

/// The free blocks as the records tell them: start and order.
fn free_blocks(table: &Table) -> Vec<(u64, u8)> {
    let heads = table
        .0
        .iter()
        .enumerate()
        .filter(|(_, page)| page.kind() == Kind::Free);
    heads
        .map(|(pfn, page)| (pfn as u64, page.order()))
        .collect()
}

#[test]
fn single_frames_merge_into_the_largest_aligned_blocks() {
    let (table, _) = machine(3, 3000);
    // 3..4, 4..8, 8..16, ... 512..1024, 1024..2048, 2048..2560, ...
    let mut at = 3u64;
    for (start, order) in free_blocks(&table) {
        assert_eq!(start, at);
        assert_eq!(start % frames(order), 0);
        at += frames(order);
    }
    assert_eq!(at, 3000);
    assert!(free_blocks(&table).contains(&(1024, MAX_ORDER)));
}

#[test]
fn blocks_do_not_merge_across_frames_that_are_not_ram() {
    let (table, mut buddy) = machine(1, 64);
    let all: Vec<_> = core::iter::from_fn(|| buddy.take(&table, 0, Zones::ALL)).collect();
    assert_eq!(all.len(), 63);
    for pfn in all {
        buddy.give(&table, pfn, 0);
    }
    assert_eq!(
        free_blocks(&table),
        [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4), (32, 5)]
    );
}

#[test]
fn random_blocks_never_overlap_and_come_back_whole() {
    for seed in 1..=60u64 {
        let (from, to) = (1 + seed % 7, 2000 + seed % 900);
        let (table, mut buddy) = machine(from, to);
        let before = free_blocks(&table);
        let mut held: BTreeMap<u64, u8> = BTreeMap::new();
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        for step in 0..3000 {
            if below(100) < 55 {
                let order = [0, 0, 0, 1, 1, 2, 3, 4, 7, MAX_ORDER][below(10) as usize];
                let Some(pfn) = buddy.take(&table, order, Zones::ALL) else {
                    let fits = free_blocks(&table).iter().any(|&(_, o)| o >= order);
                    assert!(
                        !fits,
                        "seed {seed} step {step}: refused order {order} though there is one"
                    );
                    continue;
                };
                let start = pfn.as_u64();
                assert_eq!(
                    start % frames(order),
                    0,
                    "seed {seed} step {step}: unaligned"
                );
                assert!(
                    start >= from && start + frames(order) <= to,
                    "seed {seed} step {step}"
                );
                if let Some((&s, &o)) = held.range(..start + frames(order)).next_back() {
                    assert!(
                        s + frames(o) <= start,
                        "seed {seed} step {step}: {start} overlaps {s}"
                    );
                }
                held.insert(start, order);
            } else if !held.is_empty() {
                let nth = below(held.len() as u64) as usize;
                let (&start, &order) = held.iter().nth(nth).unwrap();
                held.remove(&start);
                buddy.give(&table, Pfn::new(start), order);
            }
        }
        let used: u64 = held.values().map(|&o| frames(o)).sum();
        let free: u64 = free_blocks(&table).iter().map(|&(_, o)| frames(o)).sum();
        assert_eq!(used + free, to - from, "seed {seed}: frames were lost");
        for (start, order) in held {
            buddy.give(&table, Pfn::new(start), order);
        }
        assert_eq!(free_blocks(&table), before, "seed {seed}: fragments stayed");
    }
}

/// Whatever the bound, a block is found if there is one, and low blocks are left as
/// long as others do.
#[test]
fn random_bounds_are_kept_and_low_blocks_are_left() {
    for seed in 1..=12u64 {
        let (from, to) = (1 + seed % 7, 2900 + seed % 900);
        let (table, mut buddy) = machine(from, to);
        let bounds = [9u32, 11];
        buddy.set_bounds(Bounds::new(bounds.iter().map(|&b| 1 << b).sum()));
        let before = free_blocks(&table);
        let mut held: Vec<(u64, u8)> = Vec::new();
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        let mut refused = [0, 0];
        for step in 0..2000 {
            if random(100) < 62 {
                let order = [0, 0, 1, 2, 5, 8][random(6) as usize];
                let bound = [1u64 << 32, 1 << 32, 1 << 32, 2048, 512, 700][random(6) as usize];
                let power = 1u64 << bound.ilog2();
                let free = free_blocks(&table);
                let fits = |&&(start, o): &&(u64, u8)| o >= order && start + frames(o) <= power;
                let best = free.iter().filter(fits).map(|&(start, _)| start).max();
                let taken = buddy.take(&table, order, Zones::below(Pfn::new(bound)));
                let start = taken.map(Pfn::as_u64);
                assert_eq!(start.is_some(), best.is_some(), "seed {seed} step {step}");
                let (Some(start), Some(best)) = (start, best) else {
                    refused[usize::from(bound < 1 << 32)] += 1;
                    continue;
                };
                assert!(start + frames(order) <= power, "seed {seed} step {step}");
                let group = |n: u64| bounds.iter().filter(|&&b| n >> b != 0).count();
                assert_eq!(group(start), group(best), "seed {seed} step {step}");
                held.push((start, order));
            } else if !held.is_empty() {
                let (start, order) = held.swap_remove(random(held.len() as u64) as usize);
                buddy.give(&table, Pfn::new(start), order);
            }
        }
        assert!(refused.iter().all(|&n| n > 0), "seed {seed}: {refused:?}");
        for (start, order) in held {
            buddy.give(&table, Pfn::new(start), order);
        }
        assert_eq!(free_blocks(&table), before, "seed {seed}: fragments stayed");
    }
}

/// Without bounds the smallest block that fits counts, wherever it is.
#[test]
fn without_bounds_no_large_block_is_split_for_being_high() {
    let (table, mut buddy) = machine(1, 2048);
    let single = buddy.take(&table, 0, Zones::below(Pfn::new(2)));
    assert_eq!(single, Some(Pfn::new(1)));
    buddy.give(&table, Pfn::new(1), 0);
    assert_eq!(buddy.take(&table, 0, Zones::ALL), Some(Pfn::new(1)));
    buddy.give(&table, Pfn::new(1), 0);
    buddy.set_bounds(Bounds::new(1 << 10));
    assert_eq!(buddy.take(&table, 0, Zones::ALL), Some(Pfn::new(1024)));
}
