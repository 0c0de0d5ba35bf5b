//! How one CPU brings up the others, one after the other, and what it does about one that does
//! not come.
//!
//! ```text
//! CPU 0, Startup::bring                       CPU n
//! state n: OFF ─► ASKED
//! asks the firmware ────────────────────────► starts on the stack made for it
//! waits                                       its registers, vectors, tables, interrupts
//! counts it, takes the next     ◄──────────── Startup::arrive: ASKED ─► HERE
//! ASKED ─► GIVEN_UP after PATIENCE_NS         finds GIVEN_UP: must sleep for ever
//! ```
//!
//! Numbers are dense: one that the firmware refused is the next CPU's. After a CPU that was given
//! up none is started, because that one may still come and use what was made for its number.
//! Only CPU 0 writes the count; a CPU that is counted has arrived, and whoever reads the count sees
//! what it wrote before.

use core::fmt;
use core::hint;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::psci::Refused;
use crate::tree::MAX_CPUS;

/// Nanoseconds after which a CPU that did not come is given up: emulators are slow to start one.
const PATIENCE_NS: u64 = 60_000_000_000;

const OFF: u32 = 0;
const ASKED: u32 = 1;
const HERE: u32 = 2;
const GIVEN_UP: u32 = 3;

/// Why a CPU does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The firmware did not start it. Its number is free, and so is what was made for it.
    Refused(Refused),
    /// It was started and did not come: what was made for it may still be used.
    Late,
    /// There is no number left.
    TooMany,
}

impl fmt::Display for Absent {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Absent::Refused(refused) => refused.fmt(text),
            Absent::Late => text.write_str("it did not come"),
            Absent::TooMany => text.write_str("there are too many"),
        }
    }
}

/// Which CPUs have come.
pub struct Startup {
    states: [AtomicU32; MAX_CPUS],
    running: AtomicUsize,
}

impl Startup {
    /// The first CPU runs, as number 0.
    #[expect(clippy::new_without_default, reason = "there is one, a static")]
    pub const fn new() -> Self {
        Self {
            states: [const { AtomicU32::new(OFF) }; MAX_CPUS],
            running: AtomicUsize::new(1),
        }
    }

    /// Returns how many CPUs run: those with the numbers below.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Starts the CPU that gets the number [`Startup::running`], by `ask`, and waits for it.
    /// Runs on CPU 0 only; `now` is the time in nanoseconds.
    ///
    /// # Errors
    ///
    /// The CPU does not run.
    pub fn bring(
        &self,
        ask: impl FnOnce() -> Result<(), Refused>,
        now: impl Fn() -> u64,
    ) -> Result<(), Absent> {
        let number = self.running();
        let state = self.states.get(number).ok_or(Absent::TooMany)?;
        if state.load(Ordering::Acquire) == GIVEN_UP {
            return Err(Absent::Late);
        }
        state.store(ASKED, Ordering::Release);
        ask().map_err(Absent::Refused)?;
        let until = now().saturating_add(PATIENCE_NS);
        while state.load(Ordering::Acquire) != HERE {
            let late = now() >= until;
            if late && self.moves(number, GIVEN_UP) {
                return Err(Absent::Late);
            }
            hint::spin_loop();
        }
        self.running.store(number + 1, Ordering::Release);
        Ok(())
    }

    /// Says that this CPU is ready to run. Answers whether it is still wanted; if not, it must use
    /// nothing that the others use.
    #[must_use]
    pub fn arrive(&self, number: usize) -> bool {
        self.moves(number, HERE)
    }

    /// Decides between a CPU that comes and the one that gives it up.
    fn moves(&self, number: usize, to: u32) -> bool {
        let exchange = |state: &AtomicU32| {
            let exchanged = state.compare_exchange(ASKED, to, Ordering::AcqRel, Ordering::Acquire);
            exchanged.is_ok()
        };
        self.states.get(number).is_some_and(exchange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that makes a second of each look.
    fn clock() -> impl Fn() -> u64 {
        let looks = AtomicUsize::new(0);
        move || looks.fetch_add(1, Ordering::Relaxed) as u64 * 1_000_000_000
    }

    #[test]
    fn cpus_that_come_are_counted() {
        let startup = Startup::new();
        for number in 1..MAX_CPUS {
            let ask = || {
                assert!(startup.arrive(number));
                Ok(())
            };
            assert_eq!(startup.bring(ask, clock()), Ok(()));
            assert_eq!(startup.running(), number + 1);
            assert!(!startup.arrive(number), "a number comes once");
        }
        assert_eq!(startup.bring(|| Ok(()), clock()), Err(Absent::TooMany));
    }

    #[test]
    fn a_refused_number_is_the_next_cpus() {
        let startup = Startup::new();
        let refused = startup.bring(|| Err(Refused(-2)), clock());
        assert_eq!(refused, Err(Absent::Refused(Refused(-2))));
        let ask = || {
            assert!(startup.arrive(1));
            Ok(())
        };
        assert_eq!(startup.bring(ask, clock()), Ok(()));
        assert_eq!(startup.running(), 2);
    }

    #[test]
    fn a_late_cpu_is_not_wanted_and_ends_the_starting() {
        let startup = Startup::new();
        assert_eq!(startup.bring(|| Ok(()), clock()), Err(Absent::Late));
        assert!(!startup.arrive(1));
        let ask = || -> Result<(), Refused> { unreachable!("its number may still be used") };
        assert_eq!(startup.bring(ask, clock()), Err(Absent::Late));
        assert_eq!(startup.running(), 1);
    }
}
