//! What a fault, a map and an unmap cost when 1, 2, 4 or 8 CPUs do the same in
//! one space, each in an area of its own, 2 MiB from the next: counted, since a
//! host of few cores cannot show time.
//!
//! | column | what is counted |
//! |---|---|
//! | locks | locks waited for, of any class, in one operation of CPU 0 |
//! | lines | distinct lines of 64 bytes that it writes, locks included (`cfg(mm_watched)`: every shared word of the library; not page contents, not what hardware sets) |
//! | shared | those of them that the same operation of another CPU touches too |
//! | IPIs | CPUs that it sends a flush to, itself left out |
//!
//! Each CPU has done the operation before: its free frames and nodes are at
//! hand, and it remembers its area and its leaf table.
#![cfg(mm_watched)]

use mm_core::addr::VirtAddr;
use mm_core::fault::{Fault, FaultOutcome, Mode};
use mm_core::prot::{Access, Prot};
use mm_core::space::MapRequest;
use mm_core::stats::Counter;
use mm_core::sync::{Class, Touch};
use mm_testkit::machine::{Machine, machines};
use mm_testkit::platform::on_cpu;
use mm_testkit::watch::touched_by;
use mm_testkit::world::{Space, World};
use std::collections::HashSet;

const PAGE: usize = 4096;
const APART: usize = 512 * PAGE;
const BASE: usize = 1 << 30;
const LINE: usize = 64;

fn va(addr: usize) -> VirtAddr {
    VirtAddr::new(addr)
}

fn machine() -> &'static Machine {
    let mut all = machines().iter();
    all.find(|m| m.name == "x86_64, 4 levels").unwrap()
}

/// What one operation did.
struct Cost {
    locks: Vec<Class>,
    written: HashSet<usize>,
    touched: HashSet<usize>,
    /// CPUs of each flush.
    flushes: Vec<Vec<usize>>,
}

fn cost(w: &World, cpu: usize, verb: impl FnOnce()) -> Cost {
    w.platform().take_log();
    let ((), touches) = touched_by(|| on_cpu(cpu, verb));
    let log = w.platform().take_log();
    let words = touches.iter().filter(|(_, touch)| *touch != Touch::Fence);
    let lines = |only_writes: bool| {
        let chosen = words
            .clone()
            .filter(|(_, t)| !only_writes || *t == Touch::Write);
        chosen.map(|(word, _)| word / LINE).collect()
    };
    Cost {
        locks: log.locks.iter().map(|rank| rank.class).collect(),
        written: lines(true),
        touched: lines(false),
        flushes: log
            .flushes
            .iter()
            .map(|(cpus, _)| cpus.iter().collect())
            .collect(),
    }
}

/// The columns of CPU 0.
fn row(costs: &[Cost]) -> [usize; 4] {
    let own = &costs[0];
    let others: HashSet<_> = costs[1..].iter().flat_map(|cost| &cost.touched).collect();
    let shared = own.written.iter().filter(|line| others.contains(line));
    let told = |cpus: &Vec<usize>| cpus.iter().filter(|cpu| **cpu != 0).count();
    [
        own.locks.len(),
        own.written.len(),
        shared.count(),
        own.flushes.iter().map(told).sum(),
    ]
}

fn area(cpu: usize) -> usize {
    BASE + cpu * APART
}

fn fault(s: &Space, at: usize) {
    let outcome = s.fault(&Fault {
        addr: va(at),
        access: Access::Write,
        mode: Mode::User,
    });
    assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
}

fn map(s: &Space, at: usize, pages: usize) {
    s.map(&MapRequest::anonymous(pages * PAGE, Prot::RW).fixed(va(at)))
        .unwrap();
}

/// Maps 16 pages at the end of a CPU's stretch, stores to one and unmaps them.
fn map_and_unmap(s: &Space, cpu: usize) {
    let at = area(cpu) + 300 * PAGE;
    map(s, at, 16);
    fault(s, at);
    s.unmap(va(at), 16 * PAGE).unwrap();
}

/// A space that so many CPUs run, each with an area that it has used.
fn scene(cpus: usize) -> (World, Space) {
    let w = machine().world(4096, cpus, 1);
    let s = w.space();
    for cpu in 0..cpus {
        on_cpu(cpu, || map(&s, area(cpu), 256));
        w.run(cpu, &s);
        for i in 0..4 {
            on_cpu(cpu, || fault(&s, area(cpu) + i * PAGE));
        }
        on_cpu(cpu, || map_and_unmap(&s, cpu));
    }
    w.platform().log_locks();
    (w, s)
}

#[test]
fn the_cost_of_an_operation_beside_others() {
    println!("| operation | CPUs | locks | lines | shared | IPIs |");
    println!("|---|---|---|---|---|---|");
    for cpus in [1, 2, 4, 8] {
        let (w, s) = scene(cpus);
        let faults: Vec<_> = (0..cpus)
            .map(|cpu| cost(&w, cpu, || fault(&s, area(cpu) + 9 * PAGE)))
            .collect();
        let [locks, lines, shared, ipis] = row(&faults);
        println!("| fault | {cpus} | {locks} | {lines} | {shared} | {ipis} |");
        for own in &faults {
            assert!(!own.locks.contains(&Class::Space), "{:?}", own.locks);
            assert!(own.locks.len() <= 5, "{:?}", own.locks);
            assert!(own.flushes.is_empty());
            // Its area, its leaf table and that one's record, its page's record,
            // and its CPU's own.
            assert!(own.written.len() <= 7, "{} lines", own.written.len());
        }
        assert_eq!(shared, 0, "lines that a fault writes and others use");
        let pairs: Vec<_> = (0..cpus)
            .map(|cpu| cost(&w, cpu, || map_and_unmap(&s, cpu)))
            .collect();
        let [locks, lines, shared, ipis] = row(&pairs);
        println!("| map, fault, unmap | {cpus} | {locks} | {lines} | {shared} | {ipis} |");
        for own in &pairs {
            assert_eq!(own.flushes.len(), 1, "one round");
            assert_eq!(own.flushes[0].len(), cpus, "to who runs the space");
        }
        // The space's lock, its counts, the tree of its areas.
        assert!(shared <= 6, "{shared} lines that others use");
        drop(s);
        w.assert_empty();
    }
}

#[test]
fn faults_take_the_fast_path_and_unmaps_one_round() {
    let (w, s) = scene(8);
    let (mut fast, mut all) = (0, 0);
    let remembered = || w.mm().stats().get(Counter::FaultHint);
    let before = remembered();
    for i in 10..200 {
        for cpu in 0..8 {
            let locks = cost(&w, cpu, || fault(&s, area(cpu) + i * PAGE)).locks;
            fast += usize::from(!locks.contains(&Class::Space));
            all += 1;
        }
    }
    assert!(fast * 100 >= all * 95, "{fast} of {all} faults");
    let hits = remembered() - before;
    assert!(
        hits * 100 >= all * 95,
        "{hits} of {all} areas are remembered"
    );
    // Pages, an area, and areas with what is between them.
    for (at, len) in [
        (area(0) + 20 * PAGE, PAGE),
        (area(1), 100 * PAGE),
        (area(2), 256 * PAGE),
        (area(3), 4 * APART),
    ] {
        let rounds = cost(&w, 0, || s.unmap(va(at), len).unwrap()).flushes.len();
        assert_eq!(rounds, 1, "rounds for {} pages", len / PAGE);
    }
    drop(s);
    w.assert_empty();
}
