//! The claims, for two CPUs with one free node of a pool at hand and a spare:
//!
//! - `alloc_and_free`: no node is handed out twice, and none is lost.
//! - `alloc_and_drain`: a drain takes no slab of a node that is in use, and
//!   what it gives back is all there is.
//! - `the_last_node`: who finds no frame for a slab gets a node that is free all
//!   along, also while nodes at hand and in slabs change places.
//! - `free_twice`: of two who free a node at once one is told.
#![cfg(loom)]

mod explore;
mod machine;

use explore::at_most;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::cx::Cx;
use mm_core::page::{Frames, FreeError};
use mm_core::pool::{Node, Pool};
use mm_core::sync::NoContext;

struct Thing {
    link: AtomicU32,
    owner: AtomicU32,
}

impl Node for Thing {
    const NAME: &'static str = "thing";
    fn new() -> Self {
        Self {
            link: AtomicU32::new(0),
            owner: AtomicU32::new(0),
        }
    }
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

struct Scene {
    frames: Frames<Machine>,
    pool: Pool<Thing>,
    free: usize,
}

fn scene() -> Arc<Scene> {
    let frames = Machine::boot(16);
    frames.add_cpus(&NoContext, 2).unwrap();
    Arc::new(Scene {
        free: frames.free_frames(),
        frames,
        pool: Pool::numbered(0),
    })
}

/// Takes `n` nodes, and gives them back.
fn work(s: &Scene, n: usize) {
    let cx = Cx::new(&s.frames);
    let mine: Vec<_> = (0..n).map(|_| s.pool.alloc(&cx).unwrap()).collect();
    let owner = |handle| &s.pool.get(&s.frames, handle).owner;
    for &handle in &mine {
        let before = owner(handle).fetch_add(1, Ordering::Relaxed);
        assert_eq!(before, 0, "{handle:?} is somebody else's");
    }
    for handle in mine {
        owner(handle).fetch_sub(1, Ordering::Relaxed);
        s.pool.free(&cx, handle).unwrap();
    }
}

fn assert_whole(s: &Scene) {
    assert_eq!(s.pool.live(&s.frames), 0);
    s.pool.drain(&Cx::new(&s.frames));
    assert_eq!((s.pool.slabs(), s.frames.free_frames()), (0, s.free));
}

/// Runs `one` on CPU 1 while `two` runs on CPU 0.
fn both(one: impl FnOnce(&Scene) + Send + 'static, two: impl FnOnce(&Scene)) {
    let s = scene();
    let other = s.clone();
    let thread = thread::spawn(move || {
        be_cpu(1);
        one(&other);
    });
    two(&s);
    thread.join().unwrap();
    assert_whole(&s);
}

#[test]
fn alloc_and_free() {
    at_most(3, || both(|s| work(s, 1), |s| work(s, 3)));
}

#[test]
fn alloc_and_drain() {
    at_most(3, || {
        both(
            |s| {
                s.pool.drain(&Cx::new(&s.frames));
            },
            |s| {
                work(s, 1);
                work(s, 1);
            },
        );
    });
}

#[test]
fn the_last_node() {
    at_most(3, || {
        let s = scene();
        let cx = Cx::new(&s.frames);
        be_cpu(1);
        let [free, mine, too] = [(); 3].map(|()| s.pool.alloc(&cx).unwrap());
        let frames: Vec<_> = std::iter::from_fn(|| s.frames.alloc(&cx, 0).ok()).collect();
        // At CPU 1's hand.
        s.pool.free(&cx, free).unwrap();
        be_cpu(2);
        let other = s.clone();
        let thread = thread::spawn(move || {
            be_cpu(1);
            let cx = Cx::new(&other.frames);
            // What is at hand goes to the slabs to make room, and these come back.
            other.pool.free(&cx, mine).unwrap();
            other.pool.free(&cx, too).unwrap();
            [(); 2].map(|()| other.pool.alloc(&cx).expect("two of three"))
        });
        let last = s.pool.alloc(&cx).expect("it was free all along");
        for handle in thread.join().unwrap().into_iter().chain([last]) {
            s.pool.free(&cx, handle).unwrap();
        }
        for pfn in frames {
            s.frames.free(&cx, pfn).unwrap();
        }
        assert_whole(&s);
    });
}

#[test]
fn free_twice() {
    at_most(3, || {
        let s = scene();
        let cx = Cx::new(&s.frames);
        let node = s.pool.alloc(&cx).unwrap();
        let other = s.clone();
        let thread = thread::spawn(move || {
            be_cpu(1);
            other.pool.free(&Cx::new(&other.frames), node)
        });
        let mut told = [s.pool.free(&cx, node), thread.join().unwrap()];
        told.sort_by_key(Result::is_err);
        assert_eq!(told, [Ok(()), Err(FreeError::DoubleFree)]);
        assert_whole(&s);
    });
}
