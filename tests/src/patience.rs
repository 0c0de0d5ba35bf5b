//! Waits that end: code that is broken must fail a test, not hang it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything takes that a test waits for, also on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives way to others until it is so.
///
/// # Panics
/// When it is not so after a minute: "... for a minute".
pub fn until(it_never: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{it_never} for a minute");
        std::thread::yield_now();
    }
}

/// Waits for the end of a thread and returns what it made.
///
/// # Panics
/// When it does not end in a minute, and when it panicked.
pub fn join<T>(thread: JoinHandle<T>) -> T {
    until("another thread did not end", || thread.is_finished());
    thread.join().expect("another thread failed")
}

/// Tells others to stop when it is dropped, also by a panic: they would go on for ever.
#[derive(Debug)]
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
