//! The claims, for pools of nodes and the epochs that keep their slabs:
//!
//! - `a_reader_is_waited_for`: who unlinks and waits for the grace period frees
//!   nothing that a pinned reader still reaches, and what the reader did is
//!   seen; `a_reader_comes_again` while it waits, `two_readers_are_waited_for`
//!   by three CPUs. This is the epochs' own code; elsewhere the facade has
//!   loom's lock for each slot.
//! - `a_node_has_one_owner`: no node is handed out twice, and no slab is lost.
//! - `a_stale_handle_reads_a_node`: a pinned reader of a node that is freed
//!   meanwhile, its slab drained and its frame reused, reads a node all along.
#![cfg(loom)]

mod explore;
mod machine;

use explore::{at_most, exhaustively};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::cx::Cx;
use mm_core::page::Frames;
use mm_core::pool::{AtomicHandle, Node, Pool};
use mm_core::sync::epoch::{Epoch, Slot};
use mm_core::sync::{self, AtomicU32 as Word, NoContext};

/// A node that says whose it is.
struct Item {
    owners: Word,
    free: Word,
}

impl Node for Item {
    const NAME: &'static str = "item";
    fn new() -> Self {
        Self {
            owners: Word::new(0),
            free: Word::new(0),
        }
    }
    fn free_link(&self) -> &Word {
        &self.free
    }
}

/// Runs `one` on CPU 1 while `two` runs on CPU 0.
fn both<T: Send + Sync + 'static>(
    shared: &Arc<T>,
    one: impl FnOnce(&T) + Send + 'static,
    two: impl FnOnce(&T),
) {
    let other = Arc::clone(shared);
    let thread = thread::spawn(move || {
        be_cpu(1);
        one(&other);
    });
    two(shared);
    thread.join().unwrap();
}

/// What is unlinked, then freed.
struct Linked {
    epoch: Epoch,
    slots: [Slot; 2],
    link: AtomicU32,
    freed: AtomicU32,
}

impl Linked {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Epoch::new(),
            slots: [Slot::new(), Slot::new()],
            link: AtomicU32::new(1),
            freed: AtomicU32::new(0),
        })
    }

    fn read(&self, cpu: usize) {
        let _pinned = self.epoch.pin(&self.slots[cpu]);
        if self.link.load(Ordering::Relaxed) != 0 {
            let freed = self.freed.load(Ordering::Relaxed);
            assert_eq!(freed, 0, "freed under a reader");
        }
    }

    fn free(&self) {
        self.link.store(0, Ordering::Relaxed);
        self.epoch.synchronize(&NoContext, || self.slots.iter());
        self.freed.store(1, Ordering::Relaxed);
    }
}

#[test]
fn a_reader_is_waited_for() {
    exhaustively(|| both(&Linked::new(), |s| s.read(0), Linked::free));
}

#[test]
fn a_reader_comes_again() {
    let twice = |s: &Linked| {
        s.read(0);
        s.read(0);
    };
    at_most(3, move || both(&Linked::new(), twice, Linked::free));
}

#[test]
fn two_readers_are_waited_for() {
    at_most(2, || {
        let shared = Linked::new();
        let other = Arc::clone(&shared);
        let second = thread::spawn(move || other.read(1));
        both(&shared, |s| s.read(0), Linked::free);
        second.join().unwrap();
    });
}

#[test]
fn a_node_has_one_owner() {
    at_most(3, || {
        let frames = Machine::boot(16);
        let before = frames.free_frames();
        let shared = Arc::new((frames, Pool::<Item>::new()));
        let live = |(frames, pool): &(Frames<Machine>, Pool<Item>)| {
            let cx = Cx::new(frames);
            let handle = pool.alloc(&cx).unwrap();
            let owners = &pool.get(frames, handle).owners;
            let others = owners.fetch_add(1, sync::Ordering::Relaxed);
            assert_eq!(others, 0, "{handle:?} has two owners");
            owners.fetch_sub(1, sync::Ordering::Relaxed);
            pool.free(&cx, handle).unwrap();
        };
        both(&shared, live, live);
        let (frames, pool) = &*shared;
        pool.drain(&Cx::new(frames));
        assert_eq!((pool.live(frames), pool.slabs()), (0, 0));
        assert_eq!(frames.free_frames(), before, "a slab is lost");
    });
}

#[test]
fn a_stale_handle_reads_a_node() {
    struct Shared {
        frames: Frames<Machine>,
        pool: Pool<Item>,
        link: AtomicHandle<Item>,
    }
    at_most(3, || {
        let shared = Arc::new(Shared {
            frames: Machine::boot(16),
            pool: Pool::new(),
            link: AtomicHandle::none(),
        });
        let handle = shared.pool.alloc(&Cx::new(&shared.frames)).unwrap();
        shared.link.set(Some(handle));
        let read = |s: &Shared| {
            let cx = Cx::new(&s.frames);
            let _pin = cx.pin();
            if let Some(handle) = s.link.get() {
                // The memory says when the frame is no slab any more.
                let node = s.pool.get(&s.frames, handle);
                node.owners.load(sync::Ordering::Relaxed);
            }
        };
        both(&shared, read, |s| {
            let cx = Cx::new(&s.frames);
            s.link.set(None);
            s.pool.free(&cx, handle).unwrap();
            s.pool.drain(&cx);
            Machine::dirty(&s.frames);
        });
    });
}
