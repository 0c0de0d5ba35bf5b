//! Pools of nodes and the byte heap: type-stable, nothing lost, all refusals clean.

use mm_arm::lpae::Lpae;
use mm_core::cx::Cx;
use mm_core::error::OutOfMemory;
use mm_core::page::{Frames, FreeError};
use mm_core::pool::{FrameHeap, Handle, Node, Pool};
use mm_core::sync::{AtomicU32, Class, NoContext, Ordering};
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::OnceLock;

type P = TestPlatform<Lpae>;

/// 128 bytes: 32 in a frame.
struct Thing {
    link: AtomicU32,
    value: AtomicU32,
    _rest: [AtomicU32; 30],
}

impl Node for Thing {
    const NAME: &'static str = "thing";
    fn new() -> Self {
        Self {
            link: AtomicU32::new(0),
            value: AtomicU32::new(0xfeed),
            _rest: [const { AtomicU32::new(0) }; 30],
        }
    }
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

fn machine(frames: usize) -> Frames<P> {
    TestPlatform::machine(Lpae, 0x800, frames)
}

#[test]
fn drain_returns_every_slab_and_only_empty_ones() {
    let m = machine(128);
    let cx = Cx::new(&m);
    let pool: Pool<Thing> = Pool::new();
    let free = m.free_frames();
    let nodes: Vec<_> = (0..100).map(|_| pool.alloc(&cx).unwrap()).collect();
    assert_eq!((pool.live(&m), pool.slabs()), (100, 4));
    assert_eq!(m.free_frames(), free - 4);
    assert_eq!(pool.drain(&cx), 0);
    let (keep, give) = nodes.split_first().unwrap();
    for &node in give {
        pool.free(&cx, node).unwrap();
    }
    assert_eq!(pool.drain(&cx), 3);
    assert_eq!((pool.live(&m), pool.slabs()), (1, 1));
    pool.free(&cx, *keep).unwrap();
    assert_eq!(pool.drain(&cx), 1);
    assert_eq!(pool.drain(&cx), 0);
    assert_eq!(m.free_frames(), free);
}

/// A node that fills its frame.
struct Big {
    link: AtomicU32,
    _rest: [AtomicU32; 1023],
}

impl Node for Big {
    const NAME: &'static str = "big";
    fn new() -> Self {
        Self {
            link: AtomicU32::new(0),
            _rest: [const { AtomicU32::new(0) }; 1023],
        }
    }
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

#[test]
fn slabs_of_one_node_go_from_full_to_empty() {
    let m = machine(64);
    let cx = Cx::new(&m);
    let pool: Pool<Big> = Pool::new();
    let free = m.free_frames();
    let mut nodes: Vec<_> = (0..5).map(|_| pool.alloc(&cx).unwrap()).collect();
    pool.free(&cx, nodes.remove(2)).unwrap();
    pool.free(&cx, nodes.remove(0)).unwrap();
    nodes.extend((0..3).map(|_| pool.alloc(&cx).unwrap()));
    assert_eq!(pool.slabs(), 6);
    for node in nodes {
        pool.free(&cx, node).unwrap();
    }
    assert_eq!(pool.drain(&cx), 6);
    assert_eq!(m.free_frames(), free);
}

#[test]
fn a_stale_handle_reads_a_node_of_its_type() {
    let m = machine(128);
    let cx = Cx::new(&m);
    let pool: Pool<Thing> = Pool::new();
    let a = pool.alloc(&cx).unwrap();
    let node = pool.get(&m, a);
    assert_eq!(node.value.load(Ordering::Relaxed), 0xfeed);
    node.value.store(7, Ordering::Relaxed);
    pool.free(&cx, a).unwrap();
    assert_eq!(
        pool.get(&m, a).value.load(Ordering::Relaxed),
        7,
        "built once, never dropped"
    );
    assert_eq!(pool.alloc(&cx), Ok(a), "the warm node first");
    assert!(std::ptr::eq(pool.get(&m, a), node));
    pool.free(&cx, a).unwrap();
    pool.drain(&cx);
}

/// At the CPU's hand, at another's, in a slab, in a slab that is gone: who frees it
/// again is told, and nobody gets it twice.
#[test]
fn a_node_is_freed_once_wherever_it_is_since() {
    for cpus in [0, 2] {
        let m = machine(128);
        m.add_cpus(&NoContext, cpus).unwrap();
        let cx = Cx::new(&m);
        let pool: Pool<Thing> = Pool::numbered(2);
        let (a, b) = (pool.alloc(&cx).unwrap(), pool.alloc(&cx).unwrap());
        pool.free(&cx, a).unwrap();
        let again = || (0..3).map(|cpu| on_cpu(cpu, || pool.free(&cx, a)));
        assert!(again().all(|told| told == Err(FreeError::DoubleFree)));
        assert_eq!(pool.live(&m), 1, "counted once");
        let more: Vec<_> = (0..100).map(|_| pool.alloc(&cx).unwrap()).collect();
        let mut all: Vec<_> = more.iter().copied().chain([b]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len(), pool.live(&m)), (101, 101), "handed out once");
        for node in all {
            pool.free(&cx, node).unwrap();
        }
        // Full magazines went back to the slabs.
        assert!(again().all(|told| told == Err(FreeError::DoubleFree)));
        assert_eq!((pool.live(&m), pool.drain(&cx)), (0, 4));
        assert!(again().all(|told| told == Err(FreeError::DoubleFree)));
        assert_eq!((pool.live(&m), pool.slabs()), (0, 0));
    }
}

#[test]
fn random_nodes_are_distinct_and_all_come_back() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let m = machine(64);
        if seed % 2 == 0 {
            m.add_cpus(&NoContext, 2).unwrap();
        }
        let cx = Cx::new(&m);
        let pool: Pool<Thing> = Pool::numbered(3);
        let free = m.free_frames();
        let mut held: Vec<(Handle<Thing>, u32)> = Vec::new();
        for step in 0..4000 {
            if random.chance(if step < 2000 { 60 } else { 40 }) {
                let Ok(handle) = pool.alloc(&cx) else {
                    assert_eq!(m.free_frames(), 0, "seed {seed}");
                    continue;
                };
                assert!(
                    held.iter().all(|&(h, _)| h != handle),
                    "seed {seed}: {handle:?} twice"
                );
                pool.get(&m, handle).value.store(step, Ordering::Relaxed);
                held.push((handle, step));
            } else if !held.is_empty() {
                let (handle, value) = held.swap_remove(random.below(held.len() as u64) as usize);
                assert_eq!(
                    pool.get(&m, handle).value.load(Ordering::Relaxed),
                    value,
                    "seed {seed}"
                );
                pool.free(&cx, handle).unwrap();
            }
            if random.chance(2) {
                pool.drain(&cx);
            }
            assert_eq!(pool.live(&m), held.len(), "seed {seed}");
        }
        for (handle, _) in held {
            pool.free(&cx, handle).unwrap();
        }
        pool.drain(&cx);
        assert_eq!(m.free_frames(), free, "seed {seed}");
        m.platform().assert_preemptible();
    }
}

#[test]
fn each_failing_allocation_leaves_the_pool_as_it_was() {
    let m = machine(64);
    let cx = Cx::new(&m);
    let pool: Pool<Thing> = Pool::new();
    let free = m.free_frames();
    // The node itself, then the frame of its slab.
    for nth in 1..=2 {
        m.platform().fail_nth(nth);
        assert_eq!(pool.alloc(&cx), Err(OutOfMemory));
        m.platform().fail_none();
        assert_eq!((pool.live(&m), pool.slabs(), m.free_frames()), (0, 0, free));
    }
    assert_eq!(m.platform().take_log().failed.len(), 2);
}

/// Half of the RAM beyond what handles of 128 bytes reach, 512 GiB.
#[test]
fn slabs_are_of_frames_that_handles_reach() {
    const REACH: u64 = 1 << 27;
    let m = TestPlatform::machine(Lpae, REACH - 64, 128);
    for cpus in [0, 2] {
        m.add_cpus(&NoContext, cpus).unwrap();
        let cx = Cx::new(&m);
        let pool: Pool<Thing> = Pool::numbered(0);
        let free = m.free_frames();
        // Frames of others come from above as long as there are some.
        let high = if cpus == 0 { 64 } else { 63 };
        let held: Vec<_> = (0..high).map(|_| m.alloc(&NoContext, 0).unwrap()).collect();
        assert!(held.iter().all(|pfn| pfn.as_u64() >= REACH));
        let low = m.free_frames();
        let nodes: Vec<_> = std::iter::from_fn(|| pool.alloc(&cx).ok()).collect();
        assert_eq!(m.free_frames(), 0);
        // The last place would have the number that says in use.
        assert_eq!(nodes.len(), low * 32 - 1);
        for (i, &node) in nodes.iter().enumerate() {
            pool.get(&m, node).value.store(i as u32, Ordering::Relaxed);
        }
        for (i, &node) in nodes.iter().enumerate() {
            let value = pool.get(&m, node).value.swap(0xfeed, Ordering::Relaxed);
            assert_eq!(value, i as u32);
        }
        for pfn in held {
            m.free(&NoContext, pfn).unwrap();
        }
        assert!(pool.alloc(&cx).is_err(), "what is free, no handle names");
        for node in nodes {
            pool.free(&cx, node).unwrap();
        }
        assert_eq!((pool.live(&m), pool.drain(&cx)), (0, low));
        assert_eq!(m.free_frames(), free);
    }
}

#[test]
fn a_reserve_gives_back_what_was_not_used_also_when_it_fails_halfway() {
    let m = machine(64);
    let cx = Cx::new(&m);
    let pool: Pool<Thing> = Pool::new();
    {
        let mut reserve = pool.prealloc::<P, 8>(&cx, 5).unwrap();
        assert_eq!(reserve.len(), 5);
        let used = reserve.take().unwrap();
        assert_eq!(pool.live(&m), 5);
        drop(reserve);
        assert_eq!(pool.live(&m), 1);
        pool.free(&cx, used).unwrap();
    }
    m.platform().fail_nth(4);
    assert!(pool.prealloc::<P, 8>(&cx, 5).is_err());
    m.platform().fail_none();
    assert!(
        pool.prealloc::<P, 2>(&cx, 3).is_err(),
        "larger than the reserve"
    );
    assert_eq!(pool.live(&m), 0);
    pool.drain(&cx);
}

#[test]
fn cpus_share_a_pool_while_it_is_drained() {
    share(&machine(512), |cpu, _| cpu);
}

/// With nodes at hand, also of CPUs that a thread is on for a moment only, at
/// once with others; CPU 3 has none.
#[test]
fn threads_that_move_lose_no_node_and_share_none() {
    let m = machine(512);
    m.add_cpus(&NoContext, 3).unwrap();
    share(&m, |_, random| random.below(4) as usize);
}

/// Three threads allocate and free, each step on the CPU that `choose` says.
fn share(m: &Frames<P>, choose: impl Fn(usize, &mut Random) -> usize + Sync) {
    let pool: Pool<Thing> = Pool::numbered(0);
    let free = m.free_frames();
    std::thread::scope(|s| {
        for thread in 0..3 {
            let (pool, choose) = (&pool, &choose);
            s.spawn(move || {
                let mut random = Random::new(thread as u64);
                let mut held = Vec::new();
                for _ in 0..3000 {
                    on_cpu(choose(thread, &mut random), || {
                        let cx = Cx::new(m);
                        if random.chance(50) {
                            let h = pool.alloc(&cx).unwrap();
                            pool.get(m, h).value.store(h.into_raw(), Ordering::Relaxed);
                            held.push(h);
                        } else if let Some(h) = held.pop() {
                            assert_eq!(pool.get(m, h).value.load(Ordering::Relaxed), h.into_raw());
                            pool.free(&cx, h).unwrap();
                        }
                        if thread == 0 && random.chance(5) {
                            pool.drain(&cx);
                        }
                    });
                }
                let cx = Cx::new(m);
                for h in held {
                    pool.free(&cx, h).unwrap();
                }
            });
        }
    });
    let cx = Cx::new(m);
    assert_eq!(pool.live(m), 0);
    pool.drain(&cx);
    assert_eq!((pool.slabs(), m.free_frames()), (0, free));
    m.platform().assert_preemptible();
}

#[test]
fn nodes_at_hand_cost_no_shared_lock() {
    let m = machine(128);
    m.add_cpus(&NoContext, 2).unwrap();
    let cx = Cx::new(&m);
    let pool: Pool<Thing> = Pool::numbered(5);
    // The first makes the slab, the second takes what is left of it.
    let first = [pool.alloc(&cx).unwrap(), pool.alloc(&cx).unwrap()];
    m.platform().log_locks();
    m.platform().take_log();
    m.platform().fail_none();
    let more: Vec<_> = (0..20).map(|_| pool.alloc(&cx).unwrap()).collect();
    assert_eq!(m.platform().fail_none(), 20, "each is asked for");
    for node in more {
        pool.free(&cx, node).unwrap();
    }
    let locks = m.platform().take_log().locks;
    assert_eq!(locks.len(), 40);
    assert!(
        locks.iter().all(|rank| rank.class == Class::NodeCache),
        "{locks:?}"
    );
    for node in first {
        pool.free(&cx, node).unwrap();
    }
    assert_eq!((pool.live(&m), pool.slabs()), (0, 1));
    assert_eq!(pool.drain(&cx), 1);
}

#[test]
fn the_last_node_is_found_at_whichever_cpus_hand_it_is() {
    let m = machine(64);
    m.add_cpus(&NoContext, 3).unwrap();
    let pool: Pool<Thing> = Pool::numbered(0);
    let cx = Cx::new(&m);
    let mut held: Vec<_> = std::iter::from_fn(|| pool.alloc(&cx).ok()).collect();
    assert_eq!((m.free_frames(), held.len()), (0, pool.slabs() * 32));
    for owner in 0..4 {
        let node = held.pop().unwrap();
        on_cpu(owner, || pool.free(&cx, node)).unwrap();
        assert_eq!(on_cpu((owner + 1) % 3, || pool.alloc(&cx)), Ok(node));
        assert_eq!(pool.alloc(&cx), Err(OutOfMemory));
        held.insert(0, node);
    }
    for node in held {
        pool.free(&cx, node).unwrap();
    }
    pool.drain(&cx);
    assert_eq!(pool.slabs(), 0);
}

#[test]
fn the_heap_serves_every_size_and_alignment_and_keeps_one_slab_a_class() {
    static MACHINE: OnceLock<Frames<P>> = OnceLock::new();
    static HEAP: FrameHeap<P> = FrameHeap::new(|| MACHINE.get());
    let layout = |size, align| Layout::from_size_align(size, align).unwrap();
    // SAFETY: the layout has a size; nothing comes back before there is a machine.
    assert!(unsafe { HEAP.alloc(layout(64, 8)) }.is_null());
    let m = MACHINE.get_or_init(|| machine(1024));
    let free = m.free_frames();
    for seed in 0..10 {
        let mut random = Random::new(seed);
        let mut held: Vec<(*mut u8, Layout, u8)> = Vec::new();
        for step in 0..3000u32 {
            if random.chance(52) {
                let below = random.pick(&[16, 100, 600, 5000, 40_000]);
                let size = 1 + random.below(below) as usize;
                let wanted = layout(size, random.pick(&[1, 8, 16, 64, 4096]));
                // SAFETY: the layout has a size.
                let ptr = unsafe { HEAP.alloc(wanted) };
                if ptr.is_null() {
                    continue;
                }
                assert_eq!(ptr.addr() % wanted.align(), 0);
                // SAFETY: the heap says that these bytes are ours.
                unsafe { ptr.write_bytes(step as u8, size) };
                held.push((ptr, wanted, step as u8));
            } else if !held.is_empty() {
                let at = random.below(held.len() as u64) as usize;
                let (ptr, had, fill) = held.swap_remove(at);
                // SAFETY: allocated with this layout, not yet freed.
                unsafe {
                    let bytes = std::slice::from_raw_parts(ptr, had.size());
                    assert!(
                        bytes.iter().all(|&b| b == fill),
                        "seed {seed} step {step}: overlap"
                    );
                    if random.chance(20) {
                        let size = 1 + random.below(3000) as usize;
                        let new = HEAP.realloc(ptr, had, size);
                        assert!(!new.is_null());
                        let kept = std::slice::from_raw_parts(new, size.min(had.size()));
                        assert!(
                            kept.iter().all(|&b| b == fill),
                            "seed {seed}: realloc lost bytes"
                        );
                        HEAP.dealloc(new, layout(size, had.align()));
                    } else {
                        HEAP.dealloc(ptr, had);
                    }
                }
            }
        }
        for (ptr, had, _) in held {
            // SAFETY: allocated with this layout, not yet freed.
            unsafe { HEAP.dealloc(ptr, had) };
        }
        assert!(
            free - m.free_frames() <= 8,
            "seed {seed}: {} slabs kept",
            free - m.free_frames()
        );
    }
    let kept = free - m.free_frames();
    assert_eq!(HEAP.drain(), kept);
    assert_eq!(
        m.free_frames(),
        free,
        "a drained heap without bytes in use holds nothing"
    );
    // SAFETY: the layout has a size; a drained heap serves on.
    assert!(!unsafe { HEAP.alloc(layout(64, 8)) }.is_null());
    // SAFETY: as above; no order is that large.
    assert!(unsafe { HEAP.alloc(layout(8 << 20, 8)) }.is_null());
    m.platform().assert_preemptible();
}

/// Blocks are aligned by their frames' numbers, which says nothing of addresses
/// where frame 0 has none that is a multiple of the alignment.
#[test]
fn the_heap_refuses_an_alignment_that_its_memory_has_not() {
    static EVEN: OnceLock<Frames<P>> = OnceLock::new();
    static ODD: OnceLock<Frames<P>> = OnceLock::new();
    static IN_STEP: FrameHeap<P> = FrameHeap::new(|| EVEN.get());
    static OUT_OF_STEP: FrameHeap<P> = FrameHeap::new(|| ODD.get());
    // An arena begins at a multiple of 2 MiB, whatever its first frame.
    for (first, machine, heap, aligned) in [
        (0x800, &EVEN, &IN_STEP, true),
        (0x801, &ODD, &OUT_OF_STEP, false),
    ] {
        let m = machine.get_or_init(|| TestPlatform::machine(Lpae, first, 1024));
        let free = m.free_frames();
        for align in [4096, 8192, 16384] {
            let layout = Layout::from_size_align(align, align).unwrap();
            // SAFETY: the layout has a size.
            let ptr = unsafe { heap.alloc(layout) };
            assert_eq!(ptr.addr() % align, 0, "first frame {first:#x}");
            assert_eq!(ptr.is_null(), align > 4096 && !aligned, "{align}");
            if !ptr.is_null() {
                // SAFETY: allocated with this layout.
                unsafe { heap.dealloc(ptr, layout) };
            }
            assert_eq!(m.free_frames(), free, "a refused block stays free");
        }
    }
}
