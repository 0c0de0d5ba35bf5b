//! The CPUs' own free frames: nothing is lost or handed out twice, whoever
//! allocates, frees, moves or drains; what is cached is still free.

use mm_arm::lpae::Lpae;
use mm_core::addr::Pfn;
use mm_core::error::OutOfMemory;
use mm_core::page::{Frames, FreeError, Kind, MAX_ORDER};
use mm_core::sync::NoContext;
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

type P = TestPlatform<Lpae>;

const CX: NoContext = NoContext;

fn machine(frames: usize, cpus: usize) -> Frames<P> {
    let m = TestPlatform::machine(Lpae, 0x100, frames);
    m.add_cpus(&CX, cpus).unwrap();
    m
}

fn alloc_on(m: &Frames<P>, cpu: usize) -> Result<Pfn, OutOfMemory> {
    on_cpu(cpu, || m.alloc(&CX, 0))
}

fn free_on(m: &Frames<P>, cpu: usize, pfn: Pfn) {
    on_cpu(cpu, || m.free(&CX, pfn)).unwrap();
}

/// Returns the locks that `f` takes.
fn locks(m: &Frames<P>, f: impl FnOnce(&mm_core::cx::Cx<'_, P>)) -> Vec<mm_core::sync::Class> {
    m.platform().log_locks();
    m.platform().take_log();
    f(&mm_core::cx::Cx::new(m));
    let log = m.platform().take_log();
    log.locks.iter().map(|rank| rank.class).collect()
}

#[test]
fn a_batch_costs_the_shared_lock_once() {
    use mm_core::sync::Class::{Buddy, FrameCache};
    let m = machine(1024, 2);
    assert_eq!(
        locks(&m, |cx| assert!(m.alloc(cx, 0).is_ok())),
        [FrameCache, Buddy],
        "the first brings a batch"
    );
    let held: Vec<Pfn> = (0..31).map(|_| alloc_on(&m, 0).unwrap()).collect();
    let shared = |taken: &[_]| taken.iter().filter(|&&class| class == Buddy).count();
    assert_eq!(
        shared(&locks(&m, |cx| assert!(m.alloc(cx, 0).is_ok()))),
        1,
        "the 33rd"
    );
    let back = locks(&m, |cx| {
        for &pfn in &held {
            m.free(cx, pfn).unwrap();
        }
    });
    assert_eq!((back.len(), shared(&back)), (31, 0));
}

#[test]
fn cached_frames_are_free_and_freeing_them_again_is_found() {
    let m = machine(256, 2);
    let whole = m.free_frames();
    let pfn = alloc_on(&m, 0).unwrap();
    assert_eq!(m.free_frames(), whole - 1, "the batch is free all the same");
    assert_eq!(m.page(pfn).unwrap().kind(), Kind::Kernel);
    free_on(&m, 1, pfn);
    assert_eq!(m.page(pfn).unwrap().kind(), Kind::Cached);
    assert_eq!(m.free_frames(), whole);
    let before = m.stats();
    for cpu in 0..2 {
        let again = on_cpu(cpu, || m.free(&CX, pfn));
        assert_eq!(again, Err(FreeError::DoubleFree));
    }
    assert_eq!(m.free(&CX, Pfn::new(0xff)), Err(FreeError::Foreign));
    assert_eq!(m.stats(), before);
    assert_eq!(
        (before.allocations, before.frees),
        (2, 1),
        "with the nodes'"
    );
}

#[test]
fn the_frames_of_cpus_are_taken_once() {
    let m = TestPlatform::machine(Lpae, 0x100, 256);
    let whole = m.free_frames();
    m.platform().fail_nth(1);
    assert_eq!(m.add_cpus(&CX, 4), Err(OutOfMemory));
    assert_eq!(m.free_frames(), whole);
    m.platform().fail_none();
    m.add_cpus(&CX, 4).unwrap();
    assert_eq!(m.free_frames(), whole - 1);
    m.add_cpus(&CX, 4).unwrap();
    assert_eq!(m.free_frames(), whole - 1);
    // CPUs that it was not told of share what there is.
    let pfn = alloc_on(&m, 9).unwrap();
    free_on(&m, 9, pfn);
    assert_eq!(m.free_frames(), whole - 1);
}

#[test]
fn the_last_frame_is_found_in_whichever_cache_it_is() {
    let m = machine(256, 3);
    let whole = m.free_frames();
    for (owner, seeker) in [(0, 1), (1, 0), (2, 1), (1, 7)] {
        let mut held = HashSet::new();
        // Every CPU has a part of the memory at hand.
        for cpu in 0..3 {
            assert!(held.insert(alloc_on(&m, cpu).unwrap()));
        }
        while let Ok(pfn) = alloc_on(&m, seeker) {
            assert!(held.insert(pfn), "{pfn} twice");
        }
        assert_eq!((held.len(), m.free_frames()), (whole, 0));
        let last = *held.iter().next().unwrap();
        free_on(&m, owner, last);
        assert_eq!(alloc_on(&m, seeker), Ok(last));
        assert_eq!(alloc_on(&m, owner), Err(OutOfMemory));
        for pfn in held {
            free_on(&m, owner, pfn);
        }
        assert_eq!(m.free_frames(), whole);
    }
    m.platform().assert_preemptible();
}

#[test]
fn a_large_block_is_not_refused_for_what_caches_hold() {
    let m = machine(2048, 4);
    let most = |m: &Frames<P>| {
        (0..=MAX_ORDER).rev().find(|&order| {
            let block = m.alloc(&CX, order);
            block.is_ok_and(|pfn| m.free(&CX, pfn).is_ok())
        })
    };
    m.drain(&CX);
    let before = most(&m);
    assert!(before >= Some(9));
    // Spread every frame over the caches and the allocator, in random order.
    let mut all: Vec<Pfn> = std::iter::from_fn(|| m.alloc(&CX, 0).ok()).collect();
    let mut random = Random::new(1);
    while !all.is_empty() {
        let pfn = all.swap_remove(random.below(all.len() as u64) as usize);
        free_on(&m, random.below(4) as usize, pfn);
    }
    assert_eq!(most(&m), before);
}

#[test]
fn drained_caches_leave_the_allocator_as_it_was() {
    let m = machine(512, 4);
    let whole = m.free_frames();
    let blocks = |m: &Frames<P>| {
        let kinds = (0x100..0x300).filter_map(|n| m.page(Pfn::new(n)));
        kinds
            .map(|page| (page.kind(), page.order()))
            .collect::<Vec<_>>()
    };
    let before = blocks(&m);
    let held: Vec<Pfn> = (0..200).map(|i| alloc_on(&m, i % 4).unwrap()).collect();
    for (i, pfn) in held.into_iter().enumerate() {
        // Half of them by another CPU than took them.
        free_on(&m, (i + i / 8) % 4, pfn);
    }
    assert_ne!(blocks(&m), before, "something is cached");
    m.drain(&CX);
    assert!(blocks(&m).iter().all(|(kind, _)| *kind != Kind::Cached));
    let merged = |m: &Frames<P>| m.alloc(&CX, 7).map(|pfn| m.free(&CX, pfn).unwrap());
    assert_eq!(merged(&m), Ok(()));
    assert_eq!(m.free_frames(), whole);
}

#[test]
fn each_allocation_is_asked_for_and_may_be_refused() {
    let m = machine(256, 2);
    let whole = m.free_frames();
    m.platform().fail_none();
    let held: Vec<Pfn> = (0..40).map(|_| alloc_on(&m, 0).unwrap()).collect();
    assert_eq!(m.platform().fail_none(), 40, "batches are not asked for");
    m.platform().fail_nth(2);
    let first = alloc_on(&m, 0).unwrap();
    assert_eq!(
        alloc_on(&m, 0),
        Err(OutOfMemory),
        "though there is one at hand"
    );
    m.platform().fail_none();
    assert_eq!(m.stats().refused, 1);
    for pfn in held.into_iter().chain([first]) {
        free_on(&m, 0, pfn);
    }
    assert_eq!(m.free_frames(), whole);
}

/// Threads that move between CPUs in the middle of everything, some on the
/// same CPU at once: caches may be used by others than their own.
#[test]
fn threads_that_move_lose_no_frame_and_share_none() {
    for seed in 0..8 {
        let m = machine(400, 3);
        let whole = m.free_frames();
        let owners: Vec<AtomicUsize> = (0..0x400).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|s| {
            for thread in 1..5 {
                let (m, owners) = (&m, &owners);
                s.spawn(move || {
                    let mut random = Random::new(seed * 8 + thread as u64);
                    let mut held: Vec<(Pfn, u8)> = Vec::new();
                    let own = |pfn: Pfn, from: usize, to: usize| {
                        let was = owners[pfn.as_usize()].swap(to, Ordering::SeqCst);
                        assert_eq!(was, from, "seed {seed}: {pfn} is somebody else's");
                    };
                    for _ in 0..1500 {
                        // CPU 3 has no cache.
                        on_cpu(random.below(4) as usize, || {
                            if random.chance(52) {
                                let order = random.pick(&[0, 0, 0, 0, 0, 0, 0, 2]);
                                if let Ok(pfn) = m.alloc(&CX, order) {
                                    (0..1 << order)
                                        .for_each(|i| own(pfn.saturating_add(i), 0, thread));
                                    held.push((pfn, order));
                                }
                            } else if !held.is_empty() {
                                let at = random.below(held.len() as u64) as usize;
                                let (pfn, order) = held.swap_remove(at);
                                (0..1 << order).for_each(|i| own(pfn.saturating_add(i), thread, 0));
                                m.free(&CX, pfn).unwrap();
                            } else if random.chance(10) {
                                m.drain(&CX);
                            }
                        });
                    }
                    for (pfn, order) in held {
                        (0..1 << order).for_each(|i| own(pfn.saturating_add(i), thread, 0));
                        m.free(&CX, pfn).unwrap();
                    }
                });
            }
        });
        assert_eq!(m.free_frames(), whole, "seed {seed}");
        m.drain(&CX);
        let all: HashSet<Pfn> = std::iter::from_fn(|| m.alloc(&CX, 0).ok()).collect();
        assert_eq!(all.len(), whole, "seed {seed}");
    }
}

/// As many threads as frames, each with one at most, while batches go to and fro:
/// nobody is refused for long. (Once one may be, where a frame is free at every moment
/// but not the same one: it was given where was looked already, and taken elsewhere.)
#[test]
fn nobody_is_refused_for_long_while_frames_are_free() {
    let m = machine(64, 4);
    let spare = m.free_frames();
    // All but four; each thread holds one at most.
    let kept: Vec<Pfn> = (4..spare).map(|_| m.alloc(&CX, 0).unwrap()).collect();
    std::thread::scope(|s| {
        for cpu in 0..4 {
            let m = &m;
            s.spawn(move || {
                for round in 0..4000 {
                    let pfn = (0..20).find_map(|_| alloc_on(m, cpu).ok());
                    let pfn = pfn.expect("one of four is free");
                    free_on(m, (cpu + round) % 4, pfn);
                    if round % 7 == 0 {
                        m.drain(&CX);
                    }
                }
            });
        }
    });
    assert_eq!(m.free_frames(), 4);
    drop(kept);
}

/// RAM on both sides of a bound of the machine's own: low frames go by the caches.
#[test]
fn caches_leave_low_frames_to_who_needs_them() {
    const BOUND: u64 = 1 << 26;
    let m = TestPlatform::machine(Lpae, BOUND - 512, 1024);
    m.add_cpus(&CX, 2).unwrap();
    let (whole, bound) = (m.free_frames(), Pfn::new(BOUND));
    let low = |pfn: Pfn| pfn.as_u64() < BOUND;
    let below = |cpu| on_cpu(cpu, || m.alloc_below(&CX, 0, bound));
    let mut held = Vec::new();
    for cpu in 0..60 {
        let pfn = below(cpu % 2).unwrap();
        assert!(low(pfn), "{pfn}");
        held.push(pfn);
        let any = alloc_on(&m, cpu % 2).unwrap();
        assert!(!low(any), "{any}: a low one for who asked for any");
        held.push(any);
    }
    for (i, pfn) in held.drain(..).enumerate() {
        free_on(&m, i % 2, pfn);
        let cached = m.page(pfn).unwrap().kind() == Kind::Cached;
        assert_ne!(cached, low(pfn), "{pfn}");
    }
    m.drain(&CX);
    while let Some(pfn) = alloc_on(&m, 0).ok().filter(|&pfn| !low(pfn)) {
        held.push(pfn);
    }
    // That one was low: it came after all that lies above, but for the CPUs' nodes.
    assert_eq!(held.len(), 511);
    while let Ok(pfn) = below(1) {
        held.push(pfn);
    }
    assert_eq!((held.len() + 1, m.free_frames()), (whole, 0));
}

/// A bound of a device's lies in the middle of what the caches hold.
#[test]
fn the_last_frame_below_a_bound_is_found_in_whichever_cache_it_is() {
    const BOUND: u64 = 0x200;
    let m = TestPlatform::machine(Lpae, 0x100, 512);
    m.add_cpus(&CX, 3).unwrap();
    let whole = m.free_frames();
    let low = |pfn: &Pfn| pfn.as_u64() < BOUND;
    let below = |cpu| on_cpu(cpu, || m.alloc_below(&CX, 0, Pfn::new(BOUND)));
    let all: Vec<Pfn> = std::iter::from_fn(|| m.alloc(&CX, 0).ok()).collect();
    assert_eq!(all.len(), whole);
    let (lows, highs): (Vec<Pfn>, Vec<Pfn>) = all.into_iter().partition(low);
    // From the top of a magazine to the bottom of the other.
    for above in [0, 1, 31, 32, 33, 63] {
        for (owner, seeker) in [(0, 0), (0, 1), (2, 1), (1, 7)] {
            let wanted = lows[above];
            free_on(&m, owner, wanted);
            highs[..above]
                .iter()
                .for_each(|&pfn| free_on(&m, owner, pfn));
            assert_eq!(below(seeker), Ok(wanted), "{above} above it");
            assert_eq!(below(seeker), Err(OutOfMemory));
            assert_eq!(m.free_frames(), above);
            let back: HashSet<Pfn> = (0..above).map(|_| alloc_on(&m, owner).unwrap()).collect();
            assert_eq!(back, highs[..above].iter().copied().collect());
            assert_eq!(alloc_on(&m, seeker), Err(OutOfMemory));
        }
    }
    // Its order of a pair: who needs a block empties the caches.
    let pair = lows
        .iter()
        .find(|pfn| pfn.as_u64() % 2 == 0 && lows.contains(&pfn.saturating_add(1)));
    let pair = *pair.unwrap();
    free_on(&m, 0, pair);
    free_on(&m, 1, pair.saturating_add(1));
    free_on(&m, 1, highs[0]);
    assert_eq!(m.alloc_below(&CX, 1, Pfn::new(BOUND)), Ok(pair));
}
