//! Where progress goes: to the terminal as it comes, or, of suites that run side by side, kept
//! until the suite ends, so that nobody has to untangle two of them.
//!
//! A thread has one voice, and hands it to the threads that it starts ([`current`], [`adopt`]).

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is said by one suite, or by all that runs in turn.
#[derive(Clone, Default)]
pub struct Voice(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    /// What is kept for later; `None` where it goes to the terminal at once.
    kept: Option<Vec<u8>>,
    /// Lines by which one can tell why the commands that were listened to failed.
    telling: Vec<String>,
}

impl Voice {
    /// Returns a voice that keeps what it is told.
    pub fn kept() -> Self {
        let voice = Self::default();
        voice.said().kept = Some(Vec::new());
        voice
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // A suite that panicked has said what it has said.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static VOICE: RefCell<Voice> = RefCell::new(Voice::default());
}

/// Returns this thread's voice.
pub fn current() -> Voice {
    VOICE.with_borrow(Voice::clone)
}

/// From now on this thread speaks with `voice`; returns the one it had.
pub fn adopt(voice: Voice) -> Voice {
    VOICE.replace(voice)
}

/// Tells whether this thread's progress is kept for later.
pub fn is_kept() -> bool {
    current().said().kept.is_some()
}

/// Prints, or keeps, text that ends where it ends.
pub fn print(text: &str) {
    write(text.as_bytes());
}

/// As [`print`], for bytes that may not be text yet.
pub fn write(bytes: &[u8]) {
    match &mut current().said().kept {
        Some(kept) => kept.extend_from_slice(bytes),
        None => to_terminal(bytes),
    }
}

/// Prints at once, whatever this thread's voice is.
pub fn to_terminal(bytes: &[u8]) {
    let mut terminal = std::io::stdout().lock();
    // Nobody is there to be told that nobody listens.
    let _ = terminal.write_all(bytes);
    let _ = terminal.flush();
}

/// Returns what this thread's voice kept since the last call.
pub fn take_kept() -> Vec<u8> {
    match &mut current().said().kept {
        Some(kept) => std::mem::take(kept),
        None => Vec::new(),
    }
}

/// Notes a line by which one can tell why a command failed.
pub fn tell(line: &str) {
    current().said().telling.push(line.to_string());
}

/// Returns the telling lines of this thread's voice since the last call.
pub fn telling() -> Vec<String> {
    std::mem::take(&mut current().said().telling)
}

#[cfg(test)]
mod tests {
    use super::{Voice, adopt, current, is_kept, print, take_kept, tell, telling};

    #[test]
    fn voices_of_two_threads_are_apart_and_a_helper_thread_has_its_parents() {
        let before = adopt(Voice::kept());
        print("mine ");
        let mine = current();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!is_kept());
                tell("elsewhere");
            });
            scope.spawn(|| {
                adopt(mine);
                print("and my helper's");
                tell("here");
            });
        });
        assert_eq!(take_kept(), b"mine and my helper's");
        assert_eq!(telling(), ["here"]);
        adopt(before);
    }
}
