//! The claims, for the locks that are written by hand, alone:
//!
//! - `a_writer_that_waits_is_next`: once a writer waits, no reader who comes
//!   later is let in before it; afterwards readers are.
//! - `who_writes_is_alone`: a reader sees all of what a writer did, or nothing, and is let in
//!   once that has left.
//! - `two_writers_both_get_in`: and each sees what the other did.
//! - `the_bit_is_held_by_one`: and whoever changes other bits of the word
//!   loses neither them nor the lock.
//!
//! What spin's lock does itself is not modelled: loom's takes its place.
//! There is no upgrade from reading to writing, so none is modelled. All are
//! explored exhaustively.
#![cfg(loom)]

mod explore;

use explore::exhaustively;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use mm_core::sync::waiting::{BitLock, RawRwLock};
use mm_core::sync::{Context, NoContext, Rank};

/// A verb that says when it has waited a turn.
struct Waiter(Arc<AtomicU32>);

impl Context for Waiter {
    fn relax(&self, _spins: u32) {
        self.0.store(1, Ordering::Release);
        thread::yield_now();
    }
    fn preempt_off(&self) {}
    fn preempt_on(&self) {}
    fn acquire(&self, _rank: Rank) {}
    fn acquire_fresh(&self, _rank: Rank) {}
    fn release(&self, _rank: Rank) {}
}

#[test]
fn a_writer_that_waits_is_next() {
    exhaustively(|| {
        let lock = Arc::new(RawRwLock::new(0));
        let waits = Arc::new(AtomicU32::new(0));
        let held = lock.read(&NoContext);
        let writer = {
            let (lock, cx) = (Arc::clone(&lock), Waiter(Arc::clone(&waits)));
            thread::spawn(move || *lock.write(&cx) = 1)
        };
        while waits.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        let passed = lock.try_read().is_some();
        drop(held);
        let seen = *lock.read(&NoContext);
        writer.join().unwrap();
        assert!(!passed && seen == 1, "a reader passed a waiting writer");
    });
}

#[test]
fn who_writes_is_alone() {
    exhaustively(|| {
        let lock = Arc::new(RawRwLock::new([0, 0]));
        let writer = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                let mut both = lock.write(&NoContext);
                both[0] = 1;
                thread::yield_now();
                both[1] = 1;
            })
        };
        let both = *lock.read(&NoContext);
        assert_eq!(both[0], both[1]);
        writer.join().unwrap();
        assert_eq!(*lock.read(&NoContext), [1, 1]);
    });
}

#[test]
fn two_writers_both_get_in() {
    exhaustively(|| {
        let lock = Arc::new(RawRwLock::new(0));
        let writer = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || *lock.write(&NoContext) += 1)
        };
        *lock.write(&NoContext) += 1;
        writer.join().unwrap();
        assert_eq!(lock.try_read().map(|count| *count), Some(2));
    });
}

#[test]
fn the_bit_is_held_by_one() {
    const FLAGS: [u32; 2] = [1, 2];
    fn guarded(word: &AtomicU32, count: &AtomicU32, flag: u32) {
        let lock: BitLock<31> = BitLock::new();
        word.fetch_or(flag, Ordering::Relaxed);
        let _held = lock.lock(word, &NoContext);
        // No atomic addition: the lock must be what keeps the other out.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        lock.unlock(word);
    }
    exhaustively(|| {
        let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || guarded(&shared.0, &shared.1, FLAGS[0]))
        };
        guarded(&shared.0, &shared.1, FLAGS[1]);
        other.join().unwrap();
        let (word, count) = (&shared.0, &shared.1);
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert_eq!(word.load(Ordering::Relaxed), FLAGS[0] | FLAGS[1]);
    });
}
