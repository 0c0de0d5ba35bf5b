//! The claims, for two CPUs with caches of one frame and a spare:
//!
//! - `alloc_and_free`: no free frame is handed out twice, and none is lost,
//!   while both allocate and free.
//! - `the_last_frame`: a CPU that ran dry gets a frame that is free in another
//!   CPU's cache, also while that is being drained.
//! - `free_twice`: of two who free a frame at once one is told.
#![cfg(loom)]

mod explore;
mod machine;

use explore::at_most;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::addr::Pfn;
use mm_core::page::{Frames, FreeError};
use mm_core::sync::NoContext;

const CX: NoContext = NoContext;

/// A machine whose two CPUs have caches, and the number of its free frames.
fn machine(frames: usize) -> (Arc<Frames<Machine>>, usize) {
    let m = Machine::boot(frames);
    m.add_cpus(&CX, 2).unwrap();
    let free = m.free_frames();
    (Arc::new(m), free)
}

/// Checks that all frames are free: each can be had once.
fn assert_whole(m: &Frames<Machine>, free: usize) {
    assert_eq!(m.free_frames(), free, "counted");
    let mut all: Vec<Pfn> = std::iter::from_fn(|| m.alloc(&CX, 0).ok()).collect();
    let handed_out = all.len();
    all.sort();
    all.dedup();
    assert_eq!((handed_out, all.len()), (free, free), "handed out");
}

#[test]
fn alloc_and_free() {
    at_most(3, || {
        let (m, free) = machine(12);
        let owners = Arc::new([(); 12].map(|()| AtomicU32::new(0)));
        let work = |m: &Frames<Machine>, owners: &[AtomicU32; 12], n: usize| {
            let mine: Vec<Pfn> = (0..n).map(|_| m.alloc(&CX, 0).unwrap()).collect();
            for &pfn in &mine {
                let before = owners[pfn.as_usize()].fetch_add(1, Ordering::Relaxed);
                assert_eq!(before, 0, "{pfn} is somebody else's");
            }
            for pfn in mine {
                owners[pfn.as_usize()].fetch_sub(1, Ordering::Relaxed);
                m.free(&CX, pfn).unwrap();
            }
        };
        let other = (m.clone(), owners.clone());
        let thread = thread::spawn(move || {
            be_cpu(1);
            work(&other.0, &other.1, 1);
        });
        work(&m, &owners, 3);
        thread.join().unwrap();
        assert_whole(&m, free);
    });
}

#[test]
fn the_last_frame() {
    at_most(3, || {
        let (m, free) = machine(8);
        be_cpu(1);
        let mut all: Vec<Pfn> = std::iter::from_fn(|| m.alloc(&CX, 0).ok()).collect();
        assert_eq!(all.len(), free);
        // Into the cache of CPU 1.
        m.free(&CX, all.pop().unwrap()).unwrap();
        be_cpu(0);
        let other = m.clone();
        let thread = thread::spawn(move || {
            be_cpu(1);
            other.drain(&CX);
        });
        let last = m.alloc(&CX, 0);
        thread.join().unwrap();
        all.push(last.expect("it was free all along"));
        for pfn in all {
            m.free(&CX, pfn).unwrap();
        }
        m.drain(&CX);
        assert_whole(&m, free);
    });
}

#[test]
fn free_twice() {
    at_most(3, || {
        let (m, free) = machine(8);
        let pfn = m.alloc(&CX, 0).unwrap();
        // Its last reference was given up before: nothing else tells them apart.
        assert!(m.page(pfn).unwrap().put_refs(1));
        let other = m.clone();
        let thread = thread::spawn(move || {
            be_cpu(1);
            other.free(&CX, pfn)
        });
        let mut told = [m.free(&CX, pfn), thread.join().unwrap()];
        told.sort_by_key(Result::is_err);
        assert_eq!(told, [Ok(()), Err(FreeError::DoubleFree)]);
        assert_whole(&m, free);
    });
}
