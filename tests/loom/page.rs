//! The claims, for the record of a frame and the allocator behind it:
//!
//! - `the_last_put_is_one`: of all who give a reference up one is the last, and
//!   it sees what the others did.
//! - `a_finder_gets_a_reference_or_none`: who finds a page without a lock gets
//!   it while others hold it, or does not get it; a frame that was freed and
//!   used anew has one owner all along.
//! - `a_full_count_is_refused`: a map count that is full refuses, and counts all
//!   the same what others add and take at the time.
//! - `a_frame_has_one_owner`: no frame is handed out twice, and what came back
//!   is one block again.
//! - `a_double_free_is_one_error`: of two frees at once one is an error.
//! - `the_zero_page_is_one`: of two who make the zero page one does.
//!
//! All are explored exhaustively: no bound on preemptions.
#![cfg(loom)]

mod explore;
mod machine;

use explore::exhaustively;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::addr::Pfn;
use mm_core::page::{Frames, FreeError, Page};
use mm_core::sync::NoContext;

const CX: NoContext = NoContext;
/// Four of them hold records; then come one frame, and a block of two.
const FRAMES: usize = 8;

/// Runs `one` on CPU 1 while `two` runs on CPU 0.
fn both<T: Send + Sync + 'static, A: Send + 'static, B>(
    shared: &Arc<T>,
    one: impl FnOnce(&T) -> A + Send + 'static,
    two: impl FnOnce(&T) -> B,
) -> (A, B) {
    let other = Arc::clone(shared);
    let thread = thread::spawn(move || {
        be_cpu(1);
        one(&other)
    });
    let two = two(shared);
    (thread.join().unwrap(), two)
}

fn page(frames: &Frames<Machine>, pfn: Pfn) -> &Page {
    frames.page(pfn).unwrap()
}

/// What is free in the end is what was free before, each frame once.
fn all_is_free(frames: &Frames<Machine>, before: usize) {
    assert_eq!(frames.free_frames(), before);
    let mut all: Vec<Pfn> = std::iter::from_fn(|| frames.alloc(&CX, 0).ok()).collect();
    let handed_out = all.len();
    all.sort_unstable();
    all.dedup();
    let found = (handed_out, all.len());
    assert_eq!(found, (before, before), "a frame is lost, or there twice");
}

#[test]
fn the_last_put_is_one() {
    exhaustively(|| {
        let frames = Arc::new(Machine::boot(FRAMES));
        let pfn = frames.alloc(&CX, 0).unwrap();
        page(&frames, pfn).get_refs(1).unwrap();
        let used = [AtomicU32::new(0), AtomicU32::new(0)];
        let shared = Arc::new((frames, used));
        let leave = move |(frames, used): &(Arc<Frames<Machine>>, [AtomicU32; 2]), mine: usize| {
            used[mine].store(1, Ordering::Relaxed);
            frames.free(&CX, pfn).unwrap();
            // Whoever gets the frame next writes to it.
            if frames.alloc(&CX, 0) == Ok(pfn) {
                let other = used[1 - mine].load(Ordering::Relaxed);
                assert_eq!(other, 1, "freed while a user is not seen to have left");
                frames.free(&CX, pfn).unwrap();
            }
        };
        both(&shared, move |s| leave(s, 0), move |s| leave(s, 1));
        assert_eq!(page(&shared.0, pfn).refs(), 0);
    });
}

#[test]
fn a_finder_gets_a_reference_or_none() {
    exhaustively(|| {
        let frames = Arc::new(Machine::boot(FRAMES));
        let before = frames.free_frames();
        let pfn = frames.alloc(&CX, 0).unwrap();
        let find = move |frames: &Frames<Machine>| {
            if page(frames, pfn).try_get_ref() {
                // Its owner may have left meanwhile: then this is the last.
                frames.free(&CX, pfn).unwrap();
            }
        };
        let own = |frames: &Frames<Machine>| {
            frames.free(&CX, pfn).unwrap();
            let again = frames.alloc(&CX, 0).unwrap();
            let other = frames.alloc(&CX, 0).unwrap();
            assert_ne!(again, other, "the finder freed it under its owner");
            frames.free(&CX, other).unwrap();
            frames.free(&CX, again).unwrap();
        };
        both(&frames, find, own);
        all_is_free(&frames, before);
    });
}

#[test]
fn a_full_count_is_refused() {
    exhaustively(|| {
        let page = Page::new();
        const NEARLY: u32 = 0xc000_0000 - 1;
        page.user().add_maps(NEARLY).unwrap();
        let page = Arc::new(page);
        let add = |page: &Page| u32::from(page.user().add_maps(1).is_ok());
        let add_and_take = |page: &Page| {
            let added = page.user().add_maps(1).is_ok();
            if added {
                page.user().sub_maps(1);
            }
            added
        };
        let (added, other) = both(&page, add, add_and_take);
        assert!(added == 1 || other, "there was room for one");
        assert_eq!(page.user().maps(), NEARLY + added);
    });
}

#[test]
fn a_frame_has_one_owner() {
    exhaustively(|| {
        let frames = Arc::new(Machine::boot(FRAMES));
        let before = frames.free_frames();
        // Both take from one block, and split it.
        let single = frames.alloc(&CX, 0).unwrap();
        let owners: [AtomicU32; FRAMES] = std::array::from_fn(|_| AtomicU32::new(0));
        let shared = Arc::new((frames, owners));
        let live = |(frames, owners): &(Arc<Frames<Machine>>, [AtomicU32; FRAMES])| {
            let pfn = frames.alloc(&CX, 0).unwrap();
            let owner = &owners[pfn.as_usize()];
            assert_eq!(
                owner.fetch_add(1, Ordering::Relaxed),
                0,
                "{pfn} has two owners"
            );
            owner.fetch_sub(1, Ordering::Relaxed);
            frames.free(&CX, pfn).unwrap();
        };
        both(&shared, live, live);
        let frames = &shared.0;
        let block = frames.alloc(&CX, 1).expect("what was split is one again");
        frames.free(&CX, block).unwrap();
        frames.free(&CX, single).unwrap();
        all_is_free(frames, before);
    });
}

#[test]
fn a_double_free_is_one_error() {
    exhaustively(|| {
        let frames = Arc::new(Machine::boot(FRAMES));
        let before = frames.free_frames();
        let pfn = frames.alloc(&CX, 0).unwrap();
        let free = move |frames: &Frames<Machine>| frames.free(&CX, pfn);
        let (one, two) = both(&frames, free, free);
        let error = if one.is_ok() { two } else { one };
        assert!(one.is_ok() || two.is_ok());
        assert_eq!(error, Err(FreeError::DoubleFree));
        all_is_free(&frames, before);
    });
}

#[test]
fn the_zero_page_is_one() {
    exhaustively(|| {
        let frames = Arc::new(Machine::boot(FRAMES));
        let before = frames.free_frames();
        let make = |frames: &Frames<Machine>| frames.init_zero_page(&CX).unwrap();
        let (one, two) = both(&frames, make, make);
        assert_eq!(one, two);
        assert_eq!(frames.free(&CX, one), Err(FreeError::Reserved));
        all_is_free(&frames, before - 1);
    });
}
