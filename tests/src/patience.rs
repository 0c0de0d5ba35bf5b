//! Waits that end: code that is broken must fail a test, not hang it.

use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything takes that a test waits for, also on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives way to others until it is so.
///
/// # Panics
/// When it is not so after a minute: "... for 60s".
pub fn until(it_never: &str, is_so: impl FnMut() -> bool) {
    until_within(PATIENCE, it_never, is_so);
}

/// As [`until`], with a patience of its own.
///
/// # Panics
/// When it is not so in time: "... for 20s".
pub fn until_within(patience: Duration, it_never: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < patience, "{it_never} for {patience:?}");
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

/// Ends the whole test program when one thread fails: the others wait for it, at a barrier, in
/// a wait loop of the library that has no end, or for its word to stop.
#[derive(Debug)]
pub struct Together {
    machine: &'static str,
}

impl Together {
    /// Makes the guard of a thread; `machine` is named when it fails.
    pub fn new(machine: &'static str) -> Self {
        static LOUD: Once = Once::new();
        LOUD.call_once(|| {
            let quiet = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                tell(&panic.to_string());
                quiet(panic);
            }));
        });
        Self { machine }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tell(&format!("^^^ on the machine \"{}\"", self.machine));
            std::process::abort();
        }
    }
}

/// Says something that is not lost when the process aborts, as what the test
/// harness captures is.
fn tell(line: &str) {
    let _unheard = writeln!(std::io::stderr(), "{line}");
}
