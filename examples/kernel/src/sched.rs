//! Who runs: the run queue of each CPU, sleeping and waking, switching.
//!
//! ```text
//!              reschedule                 wake, time, signal
//!   Running ───────────────► Ready      ┌───────────────────► Ready
//!      │  ▲                    │        │
//!      │  └────────────────────┘        │
//!      ├── wait_until ─────────────► Blocked(on a channel)
//!      └── exit ───────────────────► Ended    (freed by whoever runs next)
//! ```
//! A sleeper names the [`Channel`] it sleeps on; whoever changes what the channel
//! stands for wakes it, and the sleeper looks again. That is all there is: no queue is
//! allocated to wait, so waiting cannot fail.
//!
//! Kernel code runs with interrupts off and is not preempted, so that between looking
//! and sleeping nothing can change on this CPU. All states are under the lock of the
//! task; the order of locks is table, then task, then run queue. No lock is held over a
//! switch.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::{Mutex, Once};

use crate::arch::Arch;
use crate::limits::TASKS;
use crate::memory::{Active, TransferKey};
use crate::system::System;
use crate::task::Task;

/// Ticks that a task runs before the next one's turn.
const SLICE_TICKS: u32 = 2;

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

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On a CPU.
    Running,
    /// In a run queue.
    Ready,
    /// Asleep.
    Blocked {
        /// On what.
        channel: Channel,
        /// Until when at most, in nanoseconds since boot.
        deadline: Option<u64>,
        /// Whether signals wake it.
        patience: Patience,
    },
    /// It will never run again.
    Ended,
}

/// What belongs to one CPU.
pub struct Cpu<A: Arch> {
    queue: Mutex<VecDeque<Arc<Task<A>>>>,
    current: Mutex<Option<Arc<Task<A>>>>,
    /// The thread that ended last, until the next one has left its stack.
    ended: Mutex<Option<Arc<Task<A>>>>,
    /// The space whose page table is loaded.
    active: Mutex<Option<Active<A>>>,
    idle: Once<A::Thread>,
    slice: Mutex<u32>,
    wants_switch: AtomicBool,
}

impl<A: Arch> Cpu<A> {
    /// Makes the record of a CPU that runs its idle thread.
    #[must_use]
    pub fn new() -> Self {
        Cpu {
            queue: Mutex::new(VecDeque::with_capacity(TASKS)),
            current: Mutex::new(None),
            ended: Mutex::new(None),
            active: Mutex::new(None),
            idle: Once::new(),
            slice: Mutex::new(SLICE_TICKS),
            wants_switch: AtomicBool::new(false),
        }
    }
}

impl<A: Arch> Default for Cpu<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Arch> System<A> {
    fn this_cpu(&self) -> &Cpu<A> {
        &self.cpus[self.arch.cpu()]
    }

    /// Answers the running task.
    ///
    /// # Panics
    /// On the idle thread: a bug of the kernel.
    pub fn current(&self) -> Arc<Task<A>> {
        self.this_cpu()
            .current
            .lock()
            .clone()
            .expect("the idle thread is no task")
    }

    /// Puts a task that just came to be into the run queue of the emptiest CPU, of those
    /// that run tasks by now.
    pub fn start_task(&self, task: &Arc<Task<A>>) {
        *task.state.lock() = State::Ready;
        let running = self.cpus.iter().filter(|cpu| cpu.idle.is_completed());
        let emptiest = running.min_by_key(|cpu| cpu.queue.lock().len());
        emptiest
            .unwrap_or(self.this_cpu())
            .queue
            .lock()
            .push_back(task.clone());
    }

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
        loop {
            if let Some(found) = ready() {
                return Ok(found);
            }
            let task = self.current();
            if patience == Patience::Interruptible && task.has_signal() {
                return Err(Cut::Signal);
            }
            if deadline.is_some_and(|deadline| self.arch.monotonic_ns() >= deadline) {
                return Err(Cut::Timeout);
            }
            *task.state.lock() = State::Blocked {
                channel,
                deadline,
                patience,
            };
            drop(task);
            self.reschedule();
        }
    }

    /// Sleeps on `channel` once, until somebody wakes it.
    ///
    /// # Errors
    /// A signal or time woke the task and not the channel.
    pub fn sleep(&self, channel: Channel, deadline: Option<u64>) -> Result<(), Cut> {
        let task = self.current();
        if task.has_signal() {
            return Err(Cut::Signal);
        }
        *task.state.lock() = State::Blocked {
            channel,
            deadline,
            patience: Patience::Interruptible,
        };
        *task.cut.lock() = None;
        self.reschedule();
        let cut = task.cut.lock().take();
        cut.map_or(Ok(()), Err)
    }

    /// Gives the CPU to the next task in the queue, if there is one.
    pub fn yield_now(&self) {
        let task = self.current();
        *task.state.lock() = State::Ready;
        self.this_cpu().queue.lock().push_back(task);
        self.reschedule();
    }

    /// Takes the running task, which has ended, from its CPU for ever.
    ///
    /// The caller's stack is forgotten: it must own nothing.
    pub fn leave(&self) -> ! {
        self.reschedule();
        unreachable!("an ended thread ran again");
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
        let sleeping = |task: &&Arc<Task<A>>| matches!(*task.state.lock(), State::Blocked { channel, .. } if chosen(channel));
        tasks
            .values()
            .filter(sleeping)
            .take(most)
            .map(|task| self.make_ready(task))
            .count()
    }

    /// Moves up to `most` sleepers from one channel to another without waking them.
    pub fn move_sleepers(&self, most: usize, from: Channel, to: Channel) -> usize {
        let tasks = self.tasks.lock();
        let mut moved = 0;
        for task in tasks.values() {
            match &mut *task.state.lock() {
                State::Blocked { channel, .. } if *channel == from && moved < most => {
                    *channel = to;
                    moved += 1;
                }
                _ => (),
            }
        }
        moved
    }

    /// Wakes `task` because a signal came for it.
    pub fn wake_for_signal(&self, task: &Arc<Task<A>>) {
        if matches!(
            *task.state.lock(),
            State::Blocked {
                patience: Patience::Interruptible,
                ..
            }
        ) {
            *task.cut.lock() = Some(Cut::Signal);
            self.make_ready(task);
        }
    }

    fn make_ready(&self, task: &Arc<Task<A>>) {
        let mut state = task.state.lock();
        if matches!(*state, State::Blocked { .. }) {
            *state = State::Ready;
            self.this_cpu().queue.lock().push_back(task.clone());
        }
    }

    /// Wakes the sleepers whose time has come; called at each tick.
    pub fn wake_late(&self) {
        let now = self.arch.monotonic_ns();
        for task in self.tasks.lock().values() {
            let late = matches!(*task.state.lock(), State::Blocked { deadline: Some(deadline), .. } if deadline <= now);
            if late {
                *task.cut.lock() = Some(Cut::Timeout);
                self.make_ready(task);
            }
        }
        let cpu = self.this_cpu();
        let mut slice = cpu.slice.lock();
        *slice = slice.saturating_sub(1);
        if *slice == 0 {
            *slice = SLICE_TICKS;
            cpu.wants_switch.store(true, Ordering::Relaxed);
        }
    }

    /// Lets others run if the running task's time is over; called on the way back to
    /// user mode.
    pub fn preempt(&self) {
        let cpu = self.this_cpu();
        if cpu.wants_switch.swap(false, Ordering::Relaxed) && !cpu.queue.lock().is_empty() {
            self.yield_now();
        }
    }

    /// Lets interrupts and others in during long work in the kernel; the caller holds no
    /// lock.
    pub fn breathe(&self) {
        self.arch.poll_interrupts();
        self.preempt();
    }

    /// Runs tasks until none is left: the life of the boot thread.
    pub fn idle(&self) {
        self.this_cpu().idle.call_once(|| self.arch.boot_thread());
        while !self.tasks.lock().is_empty() {
            if self.this_cpu().queue.lock().is_empty() {
                self.arch.wait_for_interrupt();
            } else {
                self.reschedule();
            }
        }
    }

    /// Switches to the next ready task, or to the idle thread. The running task's state
    /// has been set; it comes back here when it is chosen again.
    #[expect(
        unsafe_code,
        reason = "Arch::switch has conditions; they hold by the states above"
    )]
    fn reschedule(&self) {
        let cpu = self.this_cpu();
        let next = cpu.queue.lock().pop_front();
        *cpu.slice.lock() = SLICE_TICKS;
        if let Some(next) = &next {
            *next.state.lock() = State::Running;
            self.activate(next);
        }
        let idle: *const A::Thread = cpu.idle.get().expect("idle ran first");
        let to: *const A::Thread = next.as_ref().map_or(idle, |task| &raw const task.thread);
        let previous = core::mem::replace(&mut *cpu.current.lock(), next);
        let from: *const A::Thread = previous
            .as_ref()
            .map_or(idle, |task| &raw const task.thread);
        let ended = previous.filter(|task| *task.state.lock() == State::Ended);
        if ended.is_some() {
            *cpu.ended.lock() = ended;
        }
        if core::ptr::eq(from, to) {
            return;
        }
        // SAFETY: `from` is what this CPU runs. `to` was in the run queue (or is this
        // CPU's idle thread), where only tasks stand that run nowhere. Both stay alive:
        // the table of tasks keeps every task that has not ended, `ended` keeps the one
        // that has until `after_switch` runs on another stack, the CPU keeps its idle
        // thread.
        unsafe { self.arch.switch(&*from, &*to) };
        self.after_switch();
    }

    /// Frees the thread that ended before this one ran.
    pub fn after_switch(&self) {
        let ended = self.this_cpu().ended.lock().take();
        drop(ended);
    }

    /// Loads the page table of a task's space, unless it is loaded already.
    #[expect(
        unsafe_code,
        reason = "Arch::load_root has conditions; they hold by Active"
    )]
    pub fn activate(&self, task: &Task<A>) {
        let Some(space) = task.process.space() else {
            return;
        };
        // SAFETY: the root is of a space of this machine, whose kernel half is like all
        // others', and the `Active` that replaces the last one keeps it alive.
        space.switch(&mut self.this_cpu().active.lock(), |root| unsafe {
            self.arch.load_root(root)
        });
    }

    /// Gives up the last space's page table once no task is left.
    #[expect(
        unsafe_code,
        reason = "Arch::load_root has conditions; they hold for the kernel's root"
    )]
    pub fn forget_space(&self) {
        let last = self.this_cpu().active.lock().take();
        if last.is_some() {
            // SAFETY: the kernel's own root maps the kernel half and is never freed.
            unsafe { self.arch.load_root(self.kernel_root()) };
        }
        drop(last);
    }
}
