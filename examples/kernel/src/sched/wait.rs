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
//! announcement, and for a futex, whose word is.
//!
//! The look may itself sleep (on the disk). Then the announcement is gone, the state is Running,
//! and the commit does nothing but look once more.

use alloc::sync::Arc;

use crate::arch::Arch;
use crate::errno::Result as CallResult;
use crate::memory::TransferKey;
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
    /// A futex: a space's number and an address in it.
    Futex(u64, usize),
    /// Nothing but time or a signal.
    Time,
}

/// Whether a signal ends the sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A signal ends it.
    Interruptible,
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
    /// Counts its announcements.
    announced: u64,
}

impl Stand {
    /// Makes the stand of a task that never ran.
    #[must_use]
    pub const fn new() -> Self {
        Stand {
            state: State::Ready,
            cut: None,
            announced: 0,
        }
    }
}

impl Default for Stand {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Arch> Task<A> {
    /// Says that the running task is about to sleep; answers the announcement's number.
    fn announce(&self, sleep: Sleep) -> u64 {
        let mut stand = self.stand.lock();
        stand.state = State::Waiting(sleep);
        stand.cut = None;
        stand.announced += 1;
        stand.announced
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
            if patience == Patience::Interruptible && task.has_signal() {
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

    /// Sleeps on `channel` once, until somebody wakes it, unless `holds` answers an error: it
    /// looks at what the sleep is for, after the sleep was announced.
    ///
    /// # Errors
    /// Those of `holds`. Inside: a signal or time woke the task and not the channel.
    pub fn sleep_while(
        &self,
        channel: Channel,
        deadline: Option<u64>,
        mut holds: impl FnMut() -> CallResult<()>,
    ) -> CallResult<Result<(), Cut>> {
        let sleep = Sleep {
            channel,
            deadline,
            patience: Patience::Interruptible,
        };
        let task = self.current();
        loop {
            let turn = task.announce(sleep);
            let held = holds();
            let slept = task.stand.lock().announced != turn;
            // A wake that came already counts, whatever was found: whoever sent it counted this
            // task. If the look slept, the announcement is gone.
            match held {
                Err(error) if slept || task.stay() => return Err(error),
                Ok(()) if slept => continue,
                Ok(()) if task.has_signal() && task.stay() => return Ok(Err(Cut::Signal)),
                _ => (),
            }
            if task.commit() {
                self.reschedule();
            }
            let cut = task.stand.lock().cut.take();
            return Ok(cut.map_or(Ok(()), Err));
        }
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
    pub fn wake_some(&self, most: usize, chosen: impl Fn(Channel) -> bool) -> usize {
        let tasks = self.tasks.lock();
        tasks
            .values()
            .filter(|task| self.rouse(task, None, |sleep| chosen(sleep.channel)))
            .take(most)
            .count()
    }

    /// Moves up to `most` sleepers from one channel to another without waking them.
    pub fn move_sleepers(&self, most: usize, from: Channel, to: Channel) -> usize {
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
        let interruptible = |sleep: &Sleep| sleep.patience == Patience::Interruptible;
        if self.rouse(task, Some(Cut::Signal), interruptible) {
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
