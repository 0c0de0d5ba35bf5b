//! Sleeping and waking.
//!
//! A sleeper names the [`Channel`] it sleeps on; whoever changes what the channel stands for
//! wakes it, and the sleeper looks again. That is all there is: no queue is allocated to wait, so
//! waiting cannot fail.
//!
//! # No wake-up is lost
//!
//! ```text
//!   sleeper                                waker
//!     announce: state = Waiting(sleep)       change what the channel stands for
//!     look: is it there?                     for each task that is Waiting or Blocked on it:
//!     commit: still Waiting? Blocked           Waiting → Running, Blocked → Ready and queued
//! ```
//! Both lock the sleeper's [`Stand`], and what is looked at has a lock of its own. Either the look
//! comes after the change and finds it; or it comes before, then the waker comes after the
//! announcement and finds it. The same holds for signals, whose pending set is looked at after the
//! announcement.
//!
//! The look may itself sleep (on the disk). Then the announcement is gone, the state is Running,
//! and the commit does nothing but look once more.
//!
//! A futex is stricter: who wakes counts those whom it wakes, so nobody may be found who has not
//! seen the word as it wants it, and nobody may be found and then look again. Therefore the word is
//! looked at and the sleep announced in one hold of `System::futexes`, in which everyone is who
//! wakes; and a look that has to wait for a page lets go of the lock, waits, and begins again
//! ([`System::look_at_futex`]; Linux: `futex_wait_setup`).

use alloc::sync::Arc;

use crate::arch::Arch;
use crate::errno::Result as CallResult;
use crate::memory::{Space, TransferKey, Word, WordName};
use crate::sync::MutexGuard;
use crate::system::System;
use crate::task::Task;

/// What a task sleeps on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Bytes, room or ends of the pipe with this number.
    Pipe(u64),
    /// Input of the terminal.
    Terminal,
    /// Any pipe or the terminal (poll).
    AnyFile,
    /// A transfer of the page cache.
    Transfer(TransferKey),
    /// A change in a child of this process.
    Child(u32),
    /// The vfork child with this number has let its parent go on.
    Vfork(u32),
    /// A futex.
    Futex(WordName),
    /// Nothing but time or a signal.
    Time,
}

/// Whether a signal ends the sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A signal ends it.
    Interruptible,
    /// Only the end of the sleeper's thread ends it (Linux: TASK_KILLABLE).
    Killable,
    /// Only what is waited for ends it: it is sure to come soon.
    Patient,
}

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A signal is to be handled.
    Signal,
    /// The deadline has passed.
    Timeout,
}

/// What a task sleeps for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleep {
    /// On what.
    pub channel: Channel,
    /// Until when at most, in nanoseconds since boot.
    pub deadline: Option<u64>,
    /// Whether signals wake it.
    pub patience: Patience,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On a CPU.
    Running,
    /// On a CPU, about to sleep unless somebody wakes it first.
    Waiting(Sleep),
    /// In a run queue, or on the way into one.
    Ready,
    /// Asleep.
    Blocked(Sleep),
    /// It will never run again.
    Ended,
}

/// A task as the scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct Stand {
    /// Where it stands.
    pub state: State,
    /// What ended its last sleep, if that was not its channel.
    cut: Option<Cut>,
}

impl Stand {
    /// Makes the stand of a task that never ran.
    #[must_use]
    pub const fn new() -> Self {
        Stand {
            state: State::Ready,
            cut: None,
        }
    }
}

impl Default for Stand {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Arch> Task<A> {
    /// Says that the running task is about to sleep.
    fn announce(&self, sleep: Sleep) {
        let mut stand = self.stand.lock();
        stand.state = State::Waiting(sleep);
        stand.cut = None;
    }

    /// Takes the announcement back; answers whether nobody had woken the task meanwhile.
    fn stay(&self) -> bool {
        let mut stand = self.stand.lock();
        let unwoken = matches!(stand.state, State::Waiting(_));
        stand.state = State::Running;
        unwoken
    }

    /// Makes the announcement good; answers false if somebody woke the task meanwhile.
    fn commit(&self) -> bool {
        let mut stand = self.stand.lock();
        match stand.state {
            State::Waiting(sleep) => {
                stand.state = State::Blocked(sleep);
                true
            }
            _ => false,
        }
    }
}

impl<A: Arch> System<A> {
    /// Sleeps on `channel` until `ready` answers something.
    ///
    /// # Errors
    /// The wait was cut short by a signal or by time.
    pub fn wait_until<T>(
        &self,
        channel: Channel,
        deadline: Option<u64>,
        patience: Patience,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Cut> {
        let sleep = Sleep {
            channel,
            deadline,
            patience,
        };
        let task = self.current();
        loop {
            task.announce(sleep);
            if let Some(found) = ready() {
                task.stay();
                return Ok(found);
            }
            let cut = match patience {
                Patience::Interruptible => task.has_signal(),
                Patience::Killable => task.own.lock().ends,
                Patience::Patient => false,
            };
            if cut {
                task.stay();
                return Err(Cut::Signal);
            }
            if deadline.is_some_and(|deadline| self.arch.monotonic_ns() >= deadline) {
                task.stay();
                return Err(Cut::Timeout);
            }
            if task.commit() {
                self.reschedule();
            }
        }
    }

    /// Looks at a futex's word: the value stays what it was for those who wake as long as the lock
    /// that comes with it is held.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn look_at_futex(
        &self,
        space: &Space<A>,
        at: usize,
    ) -> CallResult<(MutexGuard<'_, ()>, u32)> {
        loop {
            let futexes = self.futexes.lock();
            match self.peek_user_word(space, at)? {
                Word::<A>::Value(value) => return Ok((futexes, value)),
                Word::<A>::Wait(ticket) => {
                    drop(futexes);
                    self.await_user_page(ticket)?;
                }
            }
        }
    }

    /// Sleeps on a futex that the caller has just looked at, until somebody wakes it.
    ///
    /// # Errors
    /// The wait was cut short by a signal or by time.
    pub fn sleep_on_futex(
        &self,
        looked: MutexGuard<'_, ()>,
        channel: Channel,
        deadline: Option<u64>,
    ) -> Result<(), Cut> {
        let task = self.current();
        task.announce(Sleep {
            channel,
            deadline,
            patience: Patience::Interruptible,
        });
        drop(looked);
        // A wake that came already counts: whoever sent it counted this task.
        if task.has_signal() && task.stay() {
            return Err(Cut::Signal);
        }
        if task.commit() {
            self.reschedule();
        }
        let cut = task.stand.lock().cut.take();
        cut.map_or(Ok(()), Err)
    }

    /// Wakes up to `most` of those who sleep on a futex; answers how many.
    pub fn wake_futex(&self, channel: Channel, most: usize) -> usize {
        let _futexes = self.futexes.lock();
        self.wake_some(most, |on| on == channel)
    }

    /// Wakes up to `wake` of those who sleep on the futex `from`, and moves up to `most` others to
    /// another without waking them; answers how many in all. `_looked` is the lock of the futexes.
    pub fn requeue_futex(
        &self,
        _looked: MutexGuard<'_, ()>,
        (from, wake): (Channel, usize),
        (to, most): (Channel, usize),
    ) -> usize {
        self.wake_some(wake, |on| on == from) + self.move_sleepers(most, from, to)
    }

    /// Wakes everyone who sleeps on `channel`.
    pub fn wake(&self, channel: Channel) {
        let also = match channel {
            Channel::Pipe(_) | Channel::Terminal => Channel::AnyFile,
            other => other,
        };
        self.wake_some(usize::MAX, |on| on == channel || on == also);
    }

    /// Wakes up to `most` sleepers whose channel `chosen` chooses; answers how many.
    fn wake_some(&self, most: usize, chosen: impl Fn(Channel) -> bool) -> usize {
        let tasks = self.tasks.lock();
        tasks
            .values()
            .filter(|task| self.rouse(task, None, |sleep| chosen(sleep.channel)))
            .take(most)
            .count()
    }

    /// Moves up to `most` sleepers from one channel to another without waking them.
    fn move_sleepers(&self, most: usize, from: Channel, to: Channel) -> usize {
        let tasks = self.tasks.lock();
        let mut moved = 0;
        for task in tasks.values() {
            match &mut task.stand.lock().state {
                State::Waiting(sleep) | State::Blocked(sleep)
                    if sleep.channel == from && moved < most =>
                {
                    sleep.channel = to;
                    moved += 1;
                }
                _ => (),
            }
        }
        moved
    }

    /// Makes `task` look at its signals: wakes it, or if it runs on another CPU brings it to the
    /// kernel's door. What it shall see there has been stored.
    pub fn wake_for_signal(&self, task: &Arc<Task<A>>) {
        // Who can only be killed looks whether it was, and sleeps on.
        let looks = |sleep: &Sleep| sleep.patience != Patience::Patient;
        if self.rouse(task, Some(Cut::Signal), looks) {
            return;
        }
        let runs = task.stand.lock().state == State::Running;
        if runs {
            // Wherever it goes from there, it passes the door.
            self.kick(task.cpu.load(core::sync::atomic::Ordering::Relaxed));
        }
    }

    /// Wakes the sleepers whose time has come; called at each tick of the machine.
    pub fn wake_late(&self) {
        let now = self.arch.monotonic_ns();
        let late = |sleep: &Sleep| sleep.deadline.is_some_and(|deadline| deadline <= now);
        for task in self.tasks.lock().values() {
            self.rouse(task, Some(Cut::Timeout), late);
        }
    }

    /// Wakes a task if it sleeps, or is about to, as `chosen` says.
    fn rouse(
        &self,
        task: &Arc<Task<A>>,
        cut: Option<Cut>,
        chosen: impl Fn(&Sleep) -> bool,
    ) -> bool {
        let was_asleep = {
            let mut stand = task.stand.lock();
            let asleep = match &stand.state {
                State::Waiting(sleep) if chosen(sleep) => false,
                State::Blocked(sleep) if chosen(sleep) => true,
                _ => return false,
            };
            stand.state = if asleep { State::Ready } else { State::Running };
            stand.cut = cut;
            asleep
        };
        if was_asleep {
            self.enqueue(task);
        }
        true
    }
}
