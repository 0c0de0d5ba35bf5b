//! Who sees what the library does to shared words, and whose turn it is.
//!
//! Under `cfg(mm_watched)` every operation of the library's facade on a shared
//! word comes by here (`mm_core::sync::watch`): under `scheduled` another
//! simulated CPU may get its turn there (shuttle decides, `tests/shuttle`), and
//! under `touched_by` it is noted which words were touched. What simulated
//! hardware does is [`Quiet`]: no turn of anybody else's, and not counted.
//!
//! Without the cfg threads are the host's and [`give_way`] is its yield.

use std::cell::Cell;
use std::marker::PhantomData;

#[cfg(mm_watched)]
pub use watched::{Touches, scheduled, touched_by};

thread_local! {
    static QUIET: Cell<u32> = const { Cell::new(0) };
}

/// While this lives, the thread does what hardware does in one step.
#[derive(Debug)]
pub struct Quiet(PhantomData<*const ()>);

impl Quiet {
    /// Begins the step.
    pub fn begin() -> Self {
        QUIET.set(QUIET.get() + 1);
        Self(PhantomData)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(QUIET.get() - 1);
    }
}

/// Lets others run: in each turn of a wait loop.
pub fn give_way() {
    #[cfg(mm_watched)]
    if watched::give_way() {
        return;
    }
    std::thread::yield_now();
}

#[cfg(mm_watched)]
mod watched {
    use super::QUIET;
    use crate::platform::keeping_cpu;
    use mm_core::sync::{Touch, watch};
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    /// The words that were touched, in order: their addresses, and how.
    pub type Touches = Vec<(usize, Touch)>;

    thread_local! {
        /// Turns that are left, when somebody schedules.
        static TURNS: Cell<Option<u64>> = const { Cell::new(None) };
        static NOTES: RefCell<Option<Touches>> = const { RefCell::new(None) };
    }

    fn witness(word: usize, touch: Touch) {
        if QUIET.get() > 0 {
            return;
        }
        NOTES.with_borrow_mut(|notes| {
            if let Some(notes) = notes {
                notes.push((word, touch));
            }
        });
        // A switch that asks for nothing, unlike a yield.
        turn(|| shuttle::thread::sleep(Duration::ZERO));
    }

    pub(super) fn give_way() -> bool {
        turn(shuttle::thread::yield_now)
    }

    /// Passes the turn, if there is a scheduler.
    fn turn(pass: impl FnOnce()) -> bool {
        let Some(left) = TURNS.get().filter(|_| !std::thread::panicking()) else {
            return false;
        };
        assert!(left > 0, "this wait, or somebody's, does not end");
        TURNS.set(Some(left - 1));
        keeping_cpu(pass);
        true
    }

    /// Runs the body of a shuttle test, whose threads take turns from here on
    /// wherever the library touches a shared word. After so many `turns` it counts
    /// as endless.
    pub fn scheduled<R>(turns: u64, body: impl FnOnce() -> R) -> R {
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                TURNS.set(None);
            }
        }
        watch(witness);
        TURNS.set(Some(turns));
        let _end = End;
        body()
    }

    /// Runs `verb` and returns also which shared words it touched, in order.
    pub fn touched_by<R>(verb: impl FnOnce() -> R) -> (R, Touches) {
        watch(witness);
        NOTES.set(Some(Vec::new()));
        let result = verb();
        (result, NOTES.take().unwrap_or_default())
    }
}
