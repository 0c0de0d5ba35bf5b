//! How the first CPU brings up the others, one after the other, and what it does about one that
//! does not come.
//!
//! ```text
//! first CPU, Startup::bring_all           CPU n
//! state n: OFF ─► ASKED
//! asks the machine ─────────────────────► starts on the stack made for it, touches nothing else
//! waits PATIENCE_NS                       Startup::enter: ASKED ─► COMING
//! ... then as long as it takes            its registers, vectors, tables, interrupts, messages
//! counts it, takes the next     ◄──────── Startup::arrive: COMING ─► HERE
//!                               ◄──────── Startup::turn_away: COMING ─► UNLIKE; sleeps for ever
//! ASKED ─► GIVEN_UP                       finds GIVEN_UP: sleeps for ever
//! ```
//!
//! * **A CPU is in, or it touches nothing.** One exchange decides between the CPU that enters and
//!   the one that gives it up. Who has entered may hold locks, so it is neither given up nor reset;
//!   who has not owns its stack and nothing else, and the stack stays its own for good.
//! * **A CPU that lacks what the first one announced is turned away**: programs and tables count on
//!   it. It finds out after it has entered and before it is told of any flush.
//! * **Numbers are dense.** One that the machine refused is the next CPU's. After a CPU that was
//!   given up or turned away none is started: its number, and what was made for it, is still in use.
//! * Only the first CPU writes the count; a CPU that is counted has arrived, and whoever reads the
//!   count sees what it wrote before.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use mm_core::platform::Platform;

use crate::memory::KernelHalf;
use crate::stack::KernelStack;
use crate::sync::wait_turn;

/// Nanoseconds after which a CPU that did not enter is given up: emulators on a busy machine are
/// slow to start one.
const PATIENCE_NS: u64 = 60_000_000_000;

const OFF: u32 = 0;
const ASKED: u32 = 1;
const COMING: u32 = 2;
const HERE: u32 = 3;
const GIVEN_UP: u32 = 4;
const UNLIKE: u32 = 5;

/// Why a CPU does not run; `R` is what the machine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent<R> {
    /// The machine did not start it. Its number is free, and so is what was made for it.
    Refused(R),
    /// There is no memory for its stack.
    NoStack,
    /// There is no number left.
    TooMany,
    /// It did not come.
    Late,
    /// It lacks what the first one has.
    Unlike,
}

impl<R: fmt::Display> fmt::Display for Absent<R> {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Absent::Refused(answer) => write!(text, "refused: {answer}"),
            Absent::NoStack => text.write_str("there is no memory for its stack"),
            Absent::TooMany => text.write_str("there are too many"),
            Absent::Late => text.write_str("it did not come"),
            Absent::Unlike => text.write_str("it lacks what the first one has"),
        }
    }
}

/// Which of at most `CPUS` CPUs have come.
pub struct Startup<const CPUS: usize> {
    states: [AtomicU32; CPUS],
    running: AtomicUsize,
}

impl<const CPUS: usize> Default for Startup<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const CPUS: usize> Startup<CPUS> {
    /// The first CPU runs, as number 0.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            states: [const { AtomicU32::new(OFF) }; CPUS],
            running: AtomicUsize::new(1),
        }
    }

    /// Returns how many CPUs run: those with the numbers below.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Starts the CPUs with these names. `ask(name, number, stack)` has the machine start one on
    /// the stack of `half` that ends there, which is its idle thread's and is kept for good; `say`
    /// writes a message about one that stays off; `now` is the time in nanoseconds. Runs on the
    /// first CPU only.
    pub fn bring_all<P: Platform, N: fmt::LowerHex + Copy, R: fmt::Display>(
        &self,
        half: KernelHalf<P>,
        names: impl IntoIterator<Item = N>,
        mut ask: impl FnMut(N, usize, usize) -> Result<(), R>,
        now: impl Fn() -> u64,
        say: impl Fn(fmt::Arguments<'_>),
    ) {
        for name in names {
            let stack = KernelStack::new(half);
            let came = match &stack {
                Some(stack) => self.bring(|number| ask(name, number, stack.end()), &now),
                None => Err(Absent::NoStack),
            };
            if let Err(absent) = &came {
                say(format_args!("the CPU {name:#x} stays off: {absent}"));
            }
            if matches!(came, Ok(()) | Err(Absent::Late | Absent::Unlike)) {
                core::mem::forget(stack);
            }
            if !matches!(came, Ok(()) | Err(Absent::Refused(_))) {
                break;
            }
        }
    }

    /// Starts the CPU that gets the number [`Startup::running`], by `ask`, and waits for it.
    fn bring<R>(
        &self,
        ask: impl FnOnce(usize) -> Result<(), R>,
        now: impl Fn() -> u64,
    ) -> Result<(), Absent<R>> {
        let number = self.running();
        let state = self.states.get(number).ok_or(Absent::TooMany)?;
        state.store(ASKED, Ordering::Release);
        if let Err(answer) = ask(number) {
            state.store(OFF, Ordering::Release);
            return Err(Absent::Refused(answer));
        }
        let until = now().saturating_add(PATIENCE_NS);
        loop {
            match state.load(Ordering::Acquire) {
                HERE => break,
                UNLIKE => return Err(Absent::Unlike),
                ASKED if now() >= until && moves(state, ASKED, GIVEN_UP) => {
                    return Err(Absent::Late);
                }
                _ => wait_turn(),
            }
        }
        self.running.store(number + 1, Ordering::Release);
        Ok(())
    }

    /// The first thing that a CPU does. Answers whether it is still wanted; if not, it must sleep
    /// for ever and use nothing that the others use.
    #[must_use]
    pub fn enter(&self, number: usize) -> bool {
        let state = self.states.get(number);
        state.is_some_and(|state| moves(state, ASKED, COMING))
    }

    /// Says that this CPU, which has entered, is ready to run.
    pub fn arrive(&self, number: usize) {
        if let Some(state) = self.states.get(number) {
            state.store(HERE, Ordering::Release);
        }
    }

    /// Says that this CPU, which has entered, will not run. It sleeps for ever.
    pub fn turn_away(&self, number: usize) {
        if let Some(state) = self.states.get(number) {
            state.store(UNLIKE, Ordering::Release);
        }
    }
}

/// Decides between a CPU that comes and the one that gives it up.
fn moves(state: &AtomicU32, from: u32, to: u32) -> bool {
    let exchanged = state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    exchanged.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUS: usize = 4;

    /// A clock that makes a second of each look.
    fn clock() -> impl Fn() -> u64 {
        let looks = AtomicUsize::new(0);
        move || looks.fetch_add(1, Ordering::Relaxed) as u64 * 1_000_000_000
    }

    #[test]
    fn cpus_that_come_are_counted() {
        let startup = Startup::<CPUS>::new();
        for expected in 1..CPUS {
            let ask = |number| {
                assert_eq!(number, expected);
                assert!(startup.enter(number));
                startup.arrive(number);
                Ok::<(), i32>(())
            };
            assert_eq!(startup.bring(ask, clock()), Ok(()));
            assert_eq!(startup.running(), expected + 1);
            assert!(!startup.enter(expected), "a number comes once");
        }
        let ask = |_| Ok::<(), i32>(());
        assert_eq!(startup.bring(ask, clock()), Err(Absent::TooMany));
    }

    #[test]
    fn a_refused_number_is_the_next_cpus() {
        let startup = Startup::<CPUS>::new();
        assert_eq!(
            startup.bring(|_| Err(-2), clock()),
            Err(Absent::Refused(-2))
        );
        assert!(!startup.enter(1), "nobody was started");
        let ask = |number| {
            assert!(startup.enter(number));
            startup.arrive(number);
            Ok::<(), i32>(())
        };
        assert_eq!(startup.bring(ask, clock()), Ok(()));
        assert_eq!(startup.running(), 2);
    }

    #[test]
    fn a_late_cpu_is_not_wanted() {
        let startup = Startup::<CPUS>::new();
        let late = startup.bring(|_| Ok::<(), i32>(()), clock());
        assert_eq!(late, Err(Absent::Late));
        assert!(!startup.enter(1));
        assert_eq!(startup.running(), 1);
    }

    /// It may hold a lock that the first CPU wants.
    #[test]
    fn who_has_entered_is_waited_for_as_long_as_it_takes() {
        let startup = Startup::<CPUS>::new();
        let looks = AtomicUsize::new(0);
        let now = || {
            // Far beyond all patience, the CPU is ready.
            if looks.fetch_add(1, Ordering::Relaxed) == 0 {
                0
            } else {
                u64::MAX
            }
        };
        let came = std::thread::scope(|scope| {
            let ask = |number| {
                assert!(startup.enter(number));
                let startup = &startup;
                scope.spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    startup.arrive(number);
                });
                Ok::<(), i32>(())
            };
            startup.bring(ask, now)
        });
        assert_eq!(came, Ok(()));
    }

    #[test]
    fn one_of_both_wins_when_a_cpu_comes_in_the_last_moment() {
        for _ in 0..500 {
            let startup = Startup::<CPUS>::new();
            let entered = AtomicUsize::new(0);
            let came = std::thread::scope(|scope| {
                let ask = |number| {
                    let (startup, entered) = (&startup, &entered);
                    scope.spawn(move || {
                        if startup.enter(number) {
                            entered.store(1, Ordering::Relaxed);
                            startup.arrive(number);
                        }
                    });
                    Ok::<(), i32>(())
                };
                startup.bring(ask, || u64::MAX)
            });
            let expected = usize::from(came.is_ok());
            assert_eq!(entered.load(Ordering::Relaxed), expected);
            assert_eq!(startup.running(), 1 + expected);
        }
    }

    #[test]
    fn an_unlike_cpu_is_turned_away() {
        let startup = Startup::<CPUS>::new();
        let ask = |number| {
            assert!(startup.enter(number));
            startup.turn_away(number);
            Ok::<(), i32>(())
        };
        assert_eq!(startup.bring(ask, clock()), Err(Absent::Unlike));
        assert_eq!(startup.running(), 1);
    }
}
