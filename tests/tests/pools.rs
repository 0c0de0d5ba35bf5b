//! Pools of nodes and the byte heap: type-stable, nothing lost, all refusals clean.

use mm_core::cx::Cx;
use mm_core::error::OutOfMemory;
use mm_core::page::Frames;
use mm_core::pool::{FrameHeap, Handle, Node, Pool};
use mm_core::sync::{AtomicU32, Ordering};
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use mm_x86_64::{FourLevel, Paging};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::OnceLock;

type P = TestPlatform<Paging<FourLevel>>;

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
    TestPlatform::machine(Paging::new(FourLevel), 0x800, frames)
}

#[test]
fn drain_returns_every_slab_and_only_empty_ones() {
    let m = machine(128);
    let cx = Cx::new(&m);
    let pool: Pool<Thing> = Pool::new();
    let free = m.free_frames();
    let nodes: Vec<_> = (0..100).map(|_| pool.alloc(&cx).unwrap()).collect();
    assert_eq!((pool.live(), pool.slabs()), (100, 4));
    assert_eq!(m.free_frames(), free - 4);
    assert_eq!(pool.drain(&cx), 0);
    let (keep, give) = nodes.split_first().unwrap();
    for &node in give {
        pool.free(&cx, node);
    }
    assert_eq!(pool.drain(&cx), 3);
    assert_eq!((pool.live(), pool.slabs()), (1, 1));
    pool.free(&cx, *keep);
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
    pool.free(&cx, nodes.remove(2));
    pool.free(&cx, nodes.remove(0));
    nodes.extend((0..3).map(|_| pool.alloc(&cx).unwrap()));
    assert_eq!(pool.slabs(), 6);
    for node in nodes {
        pool.free(&cx, node);
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
    pool.free(&cx, a);
    assert_eq!(
        pool.get(&m, a).value.load(Ordering::Relaxed),
        7,
        "built once, never dropped"
    );
    assert_eq!(pool.alloc(&cx), Ok(a), "the warm node first");
    assert!(std::ptr::eq(pool.get(&m, a), node));
    pool.free(&cx, a);
    pool.drain(&cx);
}

#[test]
fn random_nodes_are_distinct_and_all_come_back() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let m = machine(64);
        let cx = Cx::new(&m);
        let pool: Pool<Thing> = Pool::new();
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
                pool.free(&cx, handle);
            }
            if random.chance(2) {
                pool.drain(&cx);
            }
            assert_eq!(pool.live(), held.len(), "seed {seed}");
        }
        for (handle, _) in held {
            pool.free(&cx, handle);
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
        assert_eq!((pool.live(), pool.slabs(), m.free_frames()), (0, 0, free));
    }
    assert_eq!(m.platform().take_log().failed.len(), 2);
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
        assert_eq!(pool.live(), 5);
        drop(reserve);
        assert_eq!(pool.live(), 1);
        pool.free(&cx, used);
    }
    m.platform().fail_nth(4);
    assert!(pool.prealloc::<P, 8>(&cx, 5).is_err());
    m.platform().fail_none();
    assert!(
        pool.prealloc::<P, 2>(&cx, 3).is_err(),
        "larger than the reserve"
    );
    assert_eq!(pool.live(), 0);
    pool.drain(&cx);
}

#[test]
fn cpus_share_a_pool_while_it_is_drained() {
    let m = machine(512);
    let pool: Pool<Thing> = Pool::new();
    let free = m.free_frames();
    std::thread::scope(|s| {
        for cpu in 0..3 {
            let (m, pool) = (&m, &pool);
            s.spawn(move || {
                on_cpu(cpu, || {
                    let mut random = Random::new(cpu as u64);
                    let cx = Cx::new(m);
                    let mut held = Vec::new();
                    for _ in 0..3000 {
                        if random.chance(50) {
                            let h = pool.alloc(&cx).unwrap();
                            pool.get(m, h).value.store(h.into_raw(), Ordering::Relaxed);
                            held.push(h);
                        } else if let Some(h) = held.pop() {
                            assert_eq!(pool.get(m, h).value.load(Ordering::Relaxed), h.into_raw());
                            pool.free(&cx, h);
                        }
                        if cpu == 0 && random.chance(5) {
                            pool.drain(&cx);
                        }
                    }
                    for h in held {
                        pool.free(&cx, h);
                    }
                });
            });
        }
    });
    let cx = Cx::new(&m);
    pool.drain(&cx);
    assert_eq!(m.free_frames(), free);
    m.platform().assert_preemptible();
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
