//! Who runs: the run queue of each CPU, switching, and the life of a CPU.
//!
//! ```text
//!              yield, preempt            wake, time, signal
//!   Running ───────────────► Ready ◄──────────────────────── Blocked(sleep)
//!     ▲ │ ▲                    │                                 ▲
//!     │ │ └─ chosen by a CPU ──┘                                 │
//!     │ └─ announce ─► Waiting(sleep) ─ nobody woke it: commit ──┘
//!     │                    │
//!     └── woken meanwhile ─┘              Running ─ exit ─► Ended (freed by whoever runs next)
//! ```
//!
//! [`wait`] says how tasks sleep and wake, [`balance`] how they come to other CPUs.
//!
//! # On a CPU
//!
//! A task leaves a CPU in two steps: its state says that it is not Running any more, then the
//! switch saves its registers. In between anybody may make it Ready. `on_cpu` says that its
//! registers are not saved yet (Linux's flag of this name):
//!
//! * A task whose `on_cpu` is set stands in no queue but that of the CPU it is on: whoever makes it
//!   ready sees the flag and puts it there, and the balancer leaves it alone. So another CPU never
//!   meets it, and nobody waits for a switch. Its own CPU may pop it while it is still on the old
//!   stack, and then simply goes on in it.
//! * [`System::after_switch`], on the next task's stack, clears the flag (release) and gives up the
//!   CPU's reference; the load (acquire) of who makes the task ready, or moves it, sees the saved
//!   registers.
//!
//! The idle thread runs in the space of the task before it (lazy TLB, `mm_core::space`): flushes
//! that free no tables pass the CPU by, and [`System::activate`] catches up before the next task.
//!
//! # Locks
//!
//! Futexes, then what mm-core locks, then tables of tasks and processes, then a task's [`Stand`], then a run queue. Two run queues are
//! never held at once. The last reference to a task is given up with no lock held: the end of its
//! kernel stack takes the outermost lock of mm-core. No lock is held over a switch. Kernel code is not preempted: a CPU's record
//! is its own between two switches.

pub mod balance;
pub mod turn;
pub mod wait;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use spin::Once;

use crate::arch::Arch;
use crate::limits::TASKS;
use crate::memory::Active;
use crate::sync::Mutex;
use crate::system::System;
use crate::task::Task;

pub use wait::{Channel, Cut, Patience, Sleep, Stand, State};

/// Ticks that a task runs before the next one's turn.
const SLICE_TICKS: usize = 2;

/// What belongs to one CPU.
pub struct Cpu<A: Arch> {
    queue: Mutex<VecDeque<Arc<Task<A>>>>,
    current: Mutex<Option<Arc<Task<A>>>>,
    /// The task that this CPU is switching away from, until the next one runs.
    left: Mutex<Option<Arc<Task<A>>>>,
    /// The space whose page table is loaded.
    active: Mutex<Option<Active<A>>>,
    /// Its idle thread; set once the CPU runs.
    idle: Once<A::Thread>,
    /// The idle thread runs, or is about to look for a task: a task put into the queue needs a
    /// kick.
    resting: AtomicBool,
    slice: AtomicUsize,
    wants_switch: AtomicBool,
    wants_balance: AtomicBool,
    /// Ticks that came in user mode.
    pub user_ticks: AtomicUsize,
    /// Times that it halted until an interrupt came.
    pub halts: AtomicUsize,
}

impl<A: Arch> Cpu<A> {
    /// Makes the record of a CPU that runs its idle thread.
    #[must_use]
    pub fn new() -> Self {
        Cpu {
            queue: Mutex::new(VecDeque::with_capacity(TASKS)),
            current: Mutex::new(None),
            left: Mutex::new(None),
            active: Mutex::new(None),
            idle: Once::new(),
            resting: AtomicBool::new(false),
            slice: AtomicUsize::new(SLICE_TICKS),
            wants_switch: AtomicBool::new(false),
            wants_balance: AtomicBool::new(false),
            user_ticks: AtomicUsize::new(0),
            halts: AtomicUsize::new(0),
        }
    }

    /// Tells whether the CPU was started.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.idle.is_completed()
    }

    /// Counts the tasks that run here or want to.
    fn load(&self) -> usize {
        let queued = self.queue.lock().len();
        queued + usize::from(!self.resting.load(Ordering::Relaxed))
    }
}

impl<A: Arch> Default for Cpu<A> {
    fn default() -> Self {
        Self::new()
    }
}

/// What the scheduler did.
#[derive(Default)]
pub struct Moves {
    /// Times that a task ran on another CPU than before.
    pub migrations: AtomicUsize,
    /// Tasks that the balancer took from one queue to another.
    pub balanced: AtomicUsize,
    /// Interrupts sent to other CPUs.
    pub kicks: AtomicUsize,
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

    /// Counts the CPUs that run.
    pub fn running_cpus(&self) -> usize {
        self.cpus.iter().filter(|cpu| cpu.runs()).count()
    }

    /// Puts a ready task, which is in no queue, into one.
    fn enqueue(&self, task: &Arc<Task<A>>) {
        let home = task.cpu.load(Ordering::Relaxed);
        // Acquire: its registers are saved, if it is not on a CPU any more.
        let place = if task.on_cpu.load(Ordering::Acquire) {
            home
        } else {
            self.place_for(home)
        };
        self.put(place, task.clone());
    }

    /// Puts a task into a CPU's queue and tells the CPU if it rests.
    fn put(&self, place: usize, task: Arc<Task<A>>) {
        let Some(cpu) = self.cpus.get(place) else {
            unreachable!("there is no CPU {place}")
        };
        cpu.queue.lock().push_back(task);
        // The idle loop says that it rests, then looks into the queue: of the two sides one
        // sees the other's store, by the order in which they held the queue.
        if cpu.resting.load(Ordering::Relaxed) {
            self.kick(place);
        }
    }

    /// Interrupts a CPU, unless it is this one.
    fn kick(&self, cpu: usize) {
        if cpu != self.arch.cpu() {
            self.moves.kicks.fetch_add(1, Ordering::Relaxed);
            self.arch.kick(cpu);
        }
    }

    /// Gives the CPU to the next task in the queue, if there is one.
    pub fn yield_now(&self) {
        let task = self.current();
        task.stand.lock().state = State::Ready;
        // It is still on this CPU, so it goes into this CPU's queue.
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

    /// Counts a tick of this CPU: the running task's time, and when to balance.
    pub fn count_tick(&self) {
        let cpu = self.this_cpu();
        // Relaxed: only this CPU changes it.
        let left = cpu.slice.load(Ordering::Relaxed).saturating_sub(1);
        cpu.slice.store(
            if left == 0 { SLICE_TICKS } else { left },
            Ordering::Relaxed,
        );
        if left == 0 {
            cpu.wants_switch.store(true, Ordering::Relaxed);
        }
        let now = self.ticks.load(Ordering::Relaxed);
        if balance::is_due(now, self.arch.cpu()) {
            cpu.wants_balance.store(true, Ordering::Relaxed);
        }
    }

    /// Counts a tick that came in user mode.
    pub fn count_user_tick(&self) {
        self.this_cpu().user_ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets others run if the running task's time is over; called on the way back to
    /// user mode.
    pub fn preempt(&self) {
        self.balance_if_due();
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

    /// Makes the running stack this CPU's idle thread.
    fn become_idle(&self) {
        self.this_cpu().idle.call_once(|| self.arch.boot_thread());
    }

    /// Runs tasks until none is left: the life of the first CPU's boot thread. Then waits
    /// until the other CPUs have nothing to do with them any more.
    pub fn idle(&self) {
        self.become_idle();
        self.run_tasks(|| self.tasks.lock().is_empty());
        self.parking.store(true, Ordering::Release);
        let others = self.running_cpus() - 1;
        for (number, _) in self.cpus.iter().enumerate().filter(|(_, cpu)| cpu.runs()) {
            self.kick(number);
        }
        // Acquire: what they gave up has come back.
        while self.parked.load(Ordering::Acquire) < others {
            crate::sync::wait_turn();
        }
    }

    /// Runs tasks until the machine ends: the life of every other CPU.
    pub fn idle_secondary(&self) -> ! {
        self.become_idle();
        self.run_tasks(|| self.parking.load(Ordering::Acquire));
        self.forget_space();
        self.parked.fetch_add(1, Ordering::Release);
        loop {
            // It still answers flushes, which it gets as interrupts.
            self.arch.wait_for_interrupt();
        }
    }

    /// The idle loop.
    fn run_tasks(&self, over: impl Fn() -> bool) {
        let cpu = self.this_cpu();
        loop {
            cpu.resting.store(true, Ordering::Relaxed);
            if cpu.queue.lock().is_empty() {
                if over() {
                    return;
                }
                self.balance();
            }
            if cpu.queue.lock().is_empty() {
                // A kick that comes after this look ends the wait at once.
                cpu.halts.fetch_add(1, Ordering::Relaxed);
                self.arch.wait_for_interrupt();
            } else {
                cpu.resting.store(false, Ordering::Relaxed);
                self.reschedule();
            }
        }
    }

    /// Switches to the next ready task, or to the idle thread. The running task's state
    /// has been set; it comes back here when it is chosen again, perhaps on another CPU.
    #[expect(
        unsafe_code,
        reason = "Arch::switch has conditions; they hold by the states above"
    )]
    fn reschedule(&self) {
        let cpu = self.this_cpu();
        let next = cpu.queue.lock().pop_front();
        cpu.slice.store(SLICE_TICKS, Ordering::Relaxed);
        if let Some(next) = &next {
            next.stand.lock().state = State::Running;
            let here = self.arch.cpu();
            if next.cpu.swap(here, Ordering::Relaxed) != here {
                self.moves.migrations.fetch_add(1, Ordering::Relaxed);
            }
            next.on_cpu.store(true, Ordering::Relaxed);
            self.activate(next);
        } else if let Some(active) = cpu.active.lock().as_mut() {
            // The idle thread borrows the root: flushes may pass this CPU by.
            active.lazy();
        }
        let idle: *const A::Thread = cpu.idle.get().expect("idle ran first");
        let to: *const A::Thread = next.as_ref().map_or(idle, |task| &raw const task.thread);
        let previous = core::mem::replace(&mut *cpu.current.lock(), next);
        let from: *const A::Thread = previous
            .as_ref()
            .map_or(idle, |task| &raw const task.thread);
        if core::ptr::eq(from, to) {
            return;
        }
        *cpu.left.lock() = previous;
        // SAFETY: `from` is what this CPU runs. `to` was in the run queue, where only tasks stand
        // that run nowhere and whose registers are saved, but for this CPU's own `from` (module
        // header); or it is this CPU's idle thread. Both stay alive: `current` keeps the one,
        // `left` the other until `after_switch` runs on another stack (then the tables keep it, or
        // a queue, or it has ended), the CPU keeps its idle thread.
        unsafe { self.arch.switch(&*from, &*to) };
        self.after_switch();
    }

    /// Lets go of the task that ran before this one: its registers are saved.
    pub fn after_switch(&self) {
        let left = self.this_cpu().left.lock().take();
        if let Some(left) = &left {
            // Release: whoever sees it may run the task elsewhere.
            left.on_cpu.store(false, Ordering::Release);
        }
        // The last reference to one that has ended; it frees the stack, which is not this one.
        drop(left);
    }

    /// Loads the page table of a task's space, unless it is loaded already.
    #[expect(unsafe_code, reason = "Arch::load_root and a switch have conditions")]
    pub fn activate(&self, task: &Task<A>) {
        let Some(space) = task.process.space() else {
            return;
        };
        let mut loaded = self.this_cpu().active.lock();
        // SAFETY: the root is of a space of this machine, whose kernel half is like all
        // others', and the `Active` that replaces the last one keeps it alive. It is this
        // CPU's, is touched here and in `forget_space` only, and the root is loaded.
        unsafe { space.switch(&mut loaded, |root| self.arch.load_root(root)) };
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
