//! Time: clocks, sleeping, alarms.
//!
//! The wall clock is the time of boot plus the time since; it cannot be set. CPU-time
//! clocks run as the time since boot.

use super::Call;
use super::record::Record;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::sched::{Channel, Cut, Patience};
use crate::system::System;

const SECOND: u64 = 1_000_000_000;
const REALTIME: usize = 0;
const REALTIME_COARSE: usize = 5;
const LAST_CLOCK: usize = 11;
const TIMER_ABSTIME: usize = 1;

/// Which form of a call's numbers the program uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Each is a word.
    Word,
    /// Each has 64 bits: the newer calls of 32-bit ABIs.
    Wide,
}

impl<A: Arch> System<A> {
    /// Answers the wall-clock time in seconds since 1970.
    pub fn wall_seconds(&self) -> u64 {
        self.arch.boot_time() + self.arch.monotonic_ns() / SECOND
    }

    fn clock(&self, clock: usize) -> Result<u64> {
        let boot = self.arch.boot_time().saturating_mul(SECOND);
        match clock {
            REALTIME | REALTIME_COARSE => Ok(boot + self.arch.monotonic_ns()),
            1..=LAST_CLOCK => Ok(self.arch.monotonic_ns()),
            // Clocks of processes and threads have negative numbers.
            _ if (clock as i32) < 0 => Ok(self.arch.monotonic_ns()),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl<A: Arch> Call<'_, A> {
    /// Reads two numbers: a time, a limit. Words are sign-extended.
    pub(super) fn get_pair(&self, at: usize, form: Form) -> Result<[u64; 2]> {
        match form {
            Form::Word => {
                let word = |i| self.get_nth(at, i).map(|word| word as isize as u64);
                Ok([word(0)?, word(1)?])
            }
            Form::Wide => {
                let number = |i| self.get(at.wrapping_add(i)).map(u64::from_le_bytes);
                Ok([number(0)?, number(8)?])
            }
        }
    }

    /// Writes two numbers.
    pub(super) fn put_pair(&self, at: usize, pair: [u64; 2], form: Form) -> Result<()> {
        let mut out = Record::<16>::new(A::SYSCALL_ABI);
        match form {
            Form::Word => out.words(pair),
            Form::Wide => out.u64(pair[0]).u64(pair[1]),
        };
        self.put(at, out.bytes())
    }

    /// Reads a `struct timespec` in nanoseconds.
    pub(super) fn get_time(&self, at: usize, form: Form) -> Result<u64> {
        let [seconds, nanoseconds] = self.get_pair(at, form)?;
        // The upper half of a 32-bit program's `tv_nsec` is padding.
        let nanoseconds = match (form, Self::WORD) {
            (Form::Wide, 4) => nanoseconds & 0xffff_ffff,
            _ => nanoseconds,
        };
        if nanoseconds >= SECOND || (seconds as i64) < 0 {
            return Err(Errno::EINVAL);
        }
        Ok(seconds.saturating_mul(SECOND).saturating_add(nanoseconds))
    }

    fn put_time(&self, at: usize, time: u64, form: Form) -> Result<()> {
        self.put_pair(at, [time / SECOND, time % SECOND], form)
    }

    /// Sleeps until a time since boot; answers whether it was reached.
    pub(super) fn sleep_until(&self, deadline: u64) -> Cut {
        match self.system.wait_until(
            Channel::Time,
            Some(deadline),
            Patience::Interruptible,
            || None::<()>,
        ) {
            Ok(()) => Cut::Timeout,
            Err(cut) => cut,
        }
    }

    pub(super) fn nanosleep(&self, wanted: usize, left: usize) -> Result {
        self.clock_nanosleep(1, 0, wanted, left, Form::Word)
    }

    pub(super) fn clock_nanosleep(
        &self,
        clock: usize,
        flags: usize,
        wanted: usize,
        left: usize,
        form: Form,
    ) -> Result {
        let now = self.system.clock(clock)?;
        let time = self.get_time(wanted, form)?;
        let length = if flags & TIMER_ABSTIME != 0 {
            time.saturating_sub(now)
        } else {
            time
        };
        let deadline = self.system.arch.monotonic_ns().saturating_add(length);
        match self.sleep_until(deadline) {
            Cut::Timeout => Ok(0),
            Cut::Signal => {
                if left != 0 && flags & TIMER_ABSTIME == 0 {
                    self.put_time(
                        left,
                        deadline.saturating_sub(self.system.arch.monotonic_ns()),
                        form,
                    )?;
                }
                Err(Errno::EINTR)
            }
        }
    }

    pub(super) fn clock_gettime(&self, clock: usize, into: usize, form: Form) -> Result {
        let time = self.system.clock(clock)?;
        self.put_time(into, time, form).map(|()| 0)
    }

    pub(super) fn clock_getres(&self, into: usize, form: Form) -> Result {
        if into != 0 {
            self.put_time(into, SECOND / A::TICKS_PER_SECOND, form)?;
        }
        Ok(0)
    }

    pub(super) fn gettimeofday(&self, into: usize, zone: usize) -> Result {
        if into != 0 {
            let time = self.system.clock(REALTIME)?;
            self.put_words(
                into,
                [(time / SECOND) as usize, (time % SECOND / 1000) as usize],
            )?;
        }
        if zone != 0 {
            // Greenwich, and no summer time.
            self.put(zone, &[0; 8])?;
        }
        Ok(0)
    }

    pub(super) fn time(&self, into: usize) -> Result {
        let seconds = self.system.wall_seconds() as usize;
        if into != 0 {
            self.put_words(into, [seconds])?;
        }
        Ok(seconds)
    }

    pub(super) fn times(&self, into: usize) -> Result {
        if into != 0 {
            self.put_words(into, [0; 4])?;
        }
        Ok((self.system.arch.monotonic_ns() / (SECOND / 100)) as usize)
    }

    pub(super) fn alarm(&self, seconds: usize) -> Result {
        let before = self.set_alarm((seconds as u32 as u64).saturating_mul(SECOND), 0);
        Ok(before.0.div_ceil(SECOND) as usize)
    }

    pub(super) fn setitimer(&self, which: usize, new: usize, old: usize) -> Result {
        const REAL: usize = 0;
        if which != REAL {
            return Err(Errno::EINVAL);
        }
        let microseconds = |at: usize| -> Result<u64> {
            let (seconds, micro) = (self.get_nth(at, 0)?, self.get_nth(at, 1)?);
            let sign = 1 << (8 * Self::WORD - 1);
            if micro >= 1_000_000 || seconds & sign != 0 {
                Err(Errno::EINVAL)
            } else {
                let whole = (seconds as u64).saturating_mul(SECOND);
                Ok(whole.saturating_add(micro as u64 * 1000))
            }
        };
        let every = microseconds(new)?;
        let first = microseconds(new.wrapping_add(2 * Self::WORD))?;
        let (left, interval) = self.set_alarm(first, every);
        if old != 0 {
            let split = |time: u64| [(time / SECOND) as usize, (time % SECOND / 1000) as usize];
            let ([a, b], [c, d]) = (split(interval), split(left));
            self.put_words(old, [a, b, c, d])?;
        }
        Ok(0)
    }

    /// Sets SIGALRM's time from now; answers what was left of the last one.
    fn set_alarm(&self, first: u64, every: u64) -> (u64, u64) {
        let now = self.system.arch.monotonic_ns();
        let new = (first != 0).then(|| (now.saturating_add(first), every));
        let mut shared = self.task.process.shared.lock();
        let old = core::mem::replace(&mut shared.alarm, new);
        old.map_or((0, 0), |(at, every)| (at.saturating_sub(now).max(1), every))
    }
}
