//! Frames: what is handed out, taken back and refused.

use mm_arm::armv7::short::Short;
use mm_arm::lpae::Lpae;
use mm_core::addr::Pfn;
use mm_core::error::OutOfMemory;
use mm_core::page::{Frames, FreeError, Kind, MAX_ORDER, RegionError};
use mm_core::platform::{PhysMemory, Platform};
use mm_core::sync::NoContext;
use mm_testkit::platform::TestPlatform;
use mm_testkit::random::Random;
use mm_x86_64::legacy::Pae;

type P = TestPlatform<Lpae>;

fn format() -> Lpae {
    Lpae
}

fn machine(first: u64, frames: usize) -> Frames<P> {
    TestPlatform::machine(format(), first, frames)
}

const CX: NoContext = NoContext;

#[test]
fn records_come_out_of_the_region_and_the_rest_is_free() {
    let m = machine(0x1000, 1024);
    // 8 frames of records and two directories.
    assert_eq!(m.free_frames(), 1024 - 10);
    assert_eq!(m.stats().total, 1024);
    assert_eq!(m.page(Pfn::new(0x1000)).unwrap().kind(), Kind::Reserved);
    assert_eq!(m.page(Pfn::new(0x100a)).unwrap().kind(), Kind::Free);
    assert!(m.page(Pfn::new(0xfff)).is_none());
    assert!(m.page(Pfn::new(0x1400)).is_none());
    assert!(m.page(Pfn::new(u64::MAX)).is_none());
    assert_eq!(m.free(&CX, Pfn::new(0x1000)), Err(FreeError::Reserved));
}

#[test]
fn regions_that_overlap_are_too_small_or_too_high_change_nothing() {
    let m = machine(0x1000, 512);
    let before = m.stats();
    let add = |start, n| m.add_region(&CX, Pfn::new(start), n);
    assert_eq!(add(0x1100, 4), Err(RegionError::Overlap));
    assert_eq!(add(0xf00, 0x101), Err(RegionError::Overlap));
    assert_eq!(add(0x2000, 1), Err(RegionError::TooSmall));
    assert_eq!(add(0x2000, 0), Err(RegionError::TooSmall));
    assert_eq!(add(1 << 32, 500), Err(RegionError::TooHigh));
    assert_eq!(add(u64::MAX, 5), Err(RegionError::TooHigh));
    assert_eq!(m.stats(), before);
}

/// RAM that no leaf can name is left out, and nobody ever gets it.
#[test]
fn a_region_is_taken_as_far_as_frames_can_be_named() {
    let first = (1 << 20) - 300;
    let m = Frames::new(TestPlatform::new(Short::default(), first, 1000));
    let add = |start, n| m.add_region(&CX, Pfn::new(start), n);
    assert_eq!(add(1 << 20, 100), Err(RegionError::TooHigh));
    assert_eq!(m.stats().total, 0);
    assert_eq!(add(first, 100), Ok(0));
    assert_eq!(add(first + 100, 900), Ok(700));
    assert_eq!(m.stats().total, 300);
    assert!(m.page(Pfn::new((1 << 20) - 1)).is_some());
    assert!(m.page(Pfn::new(1 << 20)).is_none());
    let all: Vec<Pfn> = std::iter::from_fn(|| m.alloc(&CX, 0).ok()).collect();
    assert!(all.iter().all(|pfn| pfn.as_u64() < 1 << 20));
    assert_eq!(all.len(), m.stats().total - 5, "records and directories");
}

/// The page map ends with the 32 bits of its links; the last number names nothing.
#[test]
fn the_last_frame_of_all_is_left_out() {
    let first = (1 << 32) - 200;
    let m = Frames::new(TestPlatform::new(Pae, first, 300));
    assert_eq!(m.add_region(&CX, Pfn::new(first), 300), Ok(101));
    let last = u64::from(u32::MAX) - 1;
    assert_eq!(m.page(Pfn::new(last)).unwrap().kind(), Kind::Free);
    assert!(
        m.page(Pfn::new(last + 1))
            .is_none_or(|page| page.kind() == Kind::Absent)
    );
}

/// RAM on both sides of 256 GiB, where handles of the smallest nodes end.
#[test]
fn who_needs_no_bound_leaves_what_lies_below_it() {
    const BOUND: u64 = 1 << 26;
    let m = machine(BOUND - 1024, 2048);
    let low = |pfn: Pfn| pfn.as_u64() < BOUND;
    let bound = Pfn::new(BOUND);
    let order = |n: usize| [0, 0, 1, 3][n % 4];
    let high: Vec<Pfn> = (0..100).map(|n| m.alloc(&CX, order(n)).unwrap()).collect();
    assert!(!high.iter().any(|&pfn| low(pfn)));
    for n in 0..100 {
        let pfn = m.alloc_below(&CX, order(n), bound).unwrap();
        assert!(low(pfn.saturating_add((1 << order(n)) - 1)), "{pfn}");
        let too = m.alloc_below(&CX, 0, Pfn::new(BOUND + 5)).unwrap();
        assert!(low(too), "{too}: the power of two counts");
    }
    assert_eq!(m.alloc_below(&CX, 0, Pfn::new(BOUND - 1)), Err(OutOfMemory));
    // When nothing else is left, all of it may be used; then who needs it gets nothing.
    let rest: Vec<Pfn> = std::iter::from_fn(|| m.alloc(&CX, 0).ok()).collect();
    let first_low = rest.iter().position(|&pfn| low(pfn)).unwrap();
    assert!(rest[first_low..].iter().all(|&pfn| low(pfn)));
    assert_eq!(m.alloc_below(&CX, 0, bound), Err(OutOfMemory));
    assert_eq!(m.free_frames(), 0);
    // Also when only others are free.
    for pfn in high {
        m.free(&CX, pfn).unwrap();
    }
    assert_eq!(m.alloc_below(&CX, 0, bound), Err(OutOfMemory));
    m.free(&CX, rest[first_low]).unwrap();
    assert_eq!(m.alloc_below(&CX, 0, bound), Ok(rest[first_low]));
}

#[test]
fn regions_with_holes_share_records_and_merge_across_their_border() {
    let m = Frames::new(TestPlatform::new(format(), 0, 4096));
    let add = |start, n| m.add_region(&CX, Pfn::new(start), n).unwrap();
    add(0, 100);
    let after_first = m.free_frames();
    // Frame 0 is left out; one frame of records, two directories.
    assert_eq!(after_first, 99 - 3);
    assert!(m.page(Pfn::new(0)).is_none() && m.page(Pfn::new(100)).is_none());
    // The same frame of records covers this one: it costs nothing.
    add(110, 10);
    assert_eq!(m.free_frames(), after_first + 10);
    add(2048, 1024);
    add(3072, 1024);
    let big: Vec<_> = std::iter::from_fn(|| m.alloc(&CX, MAX_ORDER).ok()).collect();
    assert_eq!(big.len(), 0, "each half lost its first frames to records");
    let half = m.alloc(&CX, MAX_ORDER - 1).unwrap();
    m.free(&CX, half).unwrap();
}

#[test]
fn double_free_foreign_and_tail_are_errors_that_change_nothing() {
    let m = machine(0x100, 256);
    let whole = m.free_frames();
    let one = m.alloc(&CX, 0).unwrap();
    let eight = m.alloc(&CX, 3).unwrap();
    assert_eq!(eight.as_u64() % 8, 0);
    let before = m.stats();
    assert_eq!(m.free(&CX, eight.saturating_add(3)), Err(FreeError::Tail));
    assert_eq!(m.free(&CX, Pfn::new(0xff)), Err(FreeError::Foreign));
    assert_eq!(m.stats(), before);
    m.free(&CX, one).unwrap();
    m.free(&CX, eight).unwrap();
    assert_eq!(m.free_frames(), whole);
    assert_eq!(m.free(&CX, one), Err(FreeError::DoubleFree));
    assert_eq!(m.free(&CX, eight), Err(FreeError::DoubleFree));
    assert!(m.free(&CX, eight.saturating_add(1)).is_err());
    assert_eq!(m.free_frames(), whole);
}

#[test]
fn a_double_free_is_found_in_whichever_half_of_a_merged_block() {
    let m = machine(0x100, 256);
    for upper_last in [true, false] {
        let pair = m.alloc(&CX, 1).unwrap();
        m.free(&CX, pair).unwrap();
        let (a, b) = (m.alloc(&CX, 0).unwrap(), m.alloc(&CX, 0).unwrap());
        let (first, last) = if upper_last == (a < b) {
            (a, b)
        } else {
            (b, a)
        };
        m.free(&CX, first).unwrap();
        m.free(&CX, last).unwrap();
        let before = m.stats();
        assert_eq!(m.free(&CX, first), Err(FreeError::DoubleFree));
        assert_eq!(m.free(&CX, last), Err(FreeError::DoubleFree));
        assert_eq!(m.stats(), before);
    }
}

#[test]
fn the_last_reference_frees_whoever_holds_it() {
    let m = machine(0x100, 128);
    let whole = m.free_frames();
    let pfn = m.alloc(&CX, 0).unwrap();
    // A finder without a lock got hold of it, then the owner frees it.
    assert!(m.page(pfn).unwrap().try_get_ref());
    m.free(&CX, pfn).unwrap();
    assert_eq!(m.free_frames(), whole - 1);
    m.free(&CX, pfn).unwrap();
    assert_eq!(m.free_frames(), whole);
    assert!(!m.page(pfn).unwrap().try_get_ref());
}

#[test]
fn refusals_by_the_platform_and_by_emptiness_are_counted() {
    let m = machine(0x100, 64);
    m.platform().fail_nth(2);
    let first = m.alloc(&CX, 0).unwrap();
    assert_eq!(m.alloc(&CX, 0), Err(OutOfMemory));
    let third = m.alloc(&CX, 0).unwrap();
    assert_eq!(m.platform().fail_none(), 3);
    assert_eq!(m.alloc(&CX, MAX_ORDER), Err(OutOfMemory));
    assert_eq!(m.alloc(&CX, MAX_ORDER + 1), Err(OutOfMemory));
    assert_eq!(m.stats().refused, 3);
    m.free(&CX, first).unwrap();
    m.free(&CX, third).unwrap();
}

#[test]
fn the_zero_page_is_zero_and_never_freed() {
    let m = machine(0x100, 64);
    assert_eq!(m.zero_page(), None);
    let zero = m.init_zero_page(&CX).unwrap();
    let free = m.free_frames();
    assert_eq!(m.init_zero_page(&CX), Ok(zero));
    assert_eq!(m.zero_page(), Some(zero));
    assert_eq!(m.free_frames(), free);
    assert!(m.platform().arena().dump(zero).iter().all(|&b| b == 0));
    assert_eq!(m.free(&CX, zero), Err(FreeError::Reserved));
}

#[test]
fn random_orders_come_back_whole() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let m = machine(1 + random.below(5000), 700 + random.below(2000) as usize);
        let whole = m.free_frames();
        let mut held: Vec<(Pfn, u8)> = Vec::new();
        for _ in 0..1500 {
            if random.chance(55) {
                let order = random.pick(&[0, 0, 0, 0, 1, 2, 3, 5, 9]);
                if let Ok(pfn) = m.alloc(&CX, order) {
                    let page = m.page(pfn).unwrap();
                    assert_eq!(
                        (page.kind(), page.refs(), page.order()),
                        (Kind::Kernel, 1, order)
                    );
                    m.memory().write(pfn, 8, b"mine");
                    held.push((pfn, order));
                }
            } else if !held.is_empty() {
                let (pfn, _) = held.swap_remove(random.below(held.len() as u64) as usize);
                m.free(&CX, pfn)
                    .unwrap_or_else(|e| panic!("seed {seed}: {pfn}: {e}"));
            }
            let used: usize = held.iter().map(|&(_, order)| 1 << order).sum();
            assert_eq!(m.free_frames() + used, whole, "seed {seed}");
        }
        for (pfn, _) in held {
            m.free(&CX, pfn).unwrap();
        }
        assert_eq!(m.free_frames(), whole, "seed {seed}");
        m.platform().assert_preemptible();
    }
}

#[test]
fn many_cpus_allocate_and_free_at_once() {
    let m = machine(0x100, 2048);
    let whole = m.free_frames();
    std::thread::scope(|s| {
        for cpu in 0..4 {
            let m = &m;
            s.spawn(move || {
                mm_testkit::platform::on_cpu(cpu, || {
                    let mut random = Random::new(cpu as u64);
                    let mut held = Vec::new();
                    for _ in 0..2000 {
                        if random.chance(50) {
                            held.extend(m.alloc(&CX, random.below(4) as u8));
                        } else if let Some(pfn) = held.pop() {
                            m.free(&CX, pfn).unwrap();
                        }
                    }
                    for pfn in held {
                        m.free(&CX, pfn).unwrap();
                    }
                });
            });
        }
    });
    assert_eq!(m.free_frames(), whole);
}

#[test]
#[should_panic(expected = "written to while it was free")]
fn the_arena_finds_a_store_to_a_freed_frame() {
    let m = machine(0x100, 64);
    let pfn = m.alloc(&CX, 0).unwrap();
    m.free(&CX, pfn).unwrap();
    let memory = m.platform().memory();
    let byte = mm_core::platform::LinearMemory::frame_ptr(memory, pfn);
    // SAFETY: the byte is in the arena; that the frame is free is the point.
    unsafe { byte.write(1) };
    let _again = m.alloc(&CX, 0);
}

/// What came back is counted, not derived from what was handed out.
#[test]
fn blocks_are_counted_out_and_in() {
    let m = machine(16, 256);
    let kept = m.alloc(&CX, 0).unwrap();
    let block = m.alloc(&CX, 3).unwrap();
    m.free(&CX, block).unwrap();
    let stats = m.stats();
    assert_eq!((stats.allocations, stats.frees), (2, 1));
    m.free(&CX, kept).unwrap();
    assert_eq!(m.stats().frees, 2);
    assert!(m.free(&CX, kept).is_err(), "twice");
    assert_eq!(m.stats().frees, 2);
}
