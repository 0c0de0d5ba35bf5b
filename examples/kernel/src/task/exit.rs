//! Ends threads and processes.
//!
//! Ending has two steps. Whoever wants an end (exit, a fatal signal, exec in another
//! thread) *marks* threads; a marked thread ends itself at the door to user mode, where
//! its kernel stack owns nothing. The last thread frees the memory and the files, and
//! leaves a zombie for the parent.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::arch::{Arch, SignalDetail, SignalInfo};
use crate::memory::Reach;
use crate::sched::{Channel, State};
use crate::system::System;
use crate::task::lives::Leave;
use crate::task::signal::{self, IGNORE, SA_NOCLDWAIT, SIGCHLD, SIGKILL, Set};
use crate::task::{Process, Status, Task};

impl<A: Arch> System<A> {
    /// Answers the threads of a process that have not ended.
    pub fn threads_of(&self, process: &Arc<Process<A>>) -> Vec<Arc<Task<A>>> {
        self.tasks
            .lock()
            .values()
            .filter(|task| Arc::ptr_eq(&task.process, process))
            .cloned()
            .collect()
    }

    /// Marks a whole process for its end; the first status wins.
    pub fn end_process(&self, process: &Arc<Process<A>>, status: Status) {
        process.shared.lock().lives.end(status);
        for task in self.threads_of(process) {
            self.end_thread(&task);
        }
    }

    /// Marks the running thread for the end that it called for. If all others have called, too, the
    /// process ends with this status.
    pub fn exit_thread(&self, task: &Arc<Task<A>>, code: u8) {
        task.own.lock().leave = Leave::Called;
        task.process.shared.lock().lives.exit(code);
        self.end_thread(task);
    }

    /// Marks one thread for its end.
    pub fn end_thread(&self, task: &Arc<Task<A>>) {
        task.own.lock().ends = true;
        self.wake_for_signal(task);
    }

    /// Ends the running thread; its caller gives up all it owns and calls
    /// [`System::leave`].
    pub fn finish_task(&self, task: &Arc<Task<A>>) {
        let (clear, leave) = {
            let own = task.own.lock();
            (own.clear_at_end, own.leave)
        };
        let last = task.process.shared.lock().lives.threads() == 1;
        let space = task.process.space();
        if let Some(space) = &space {
            self.give_up_futexes(task, space);
        }
        if let Some(space) = space.filter(|_| clear != 0 && !last) {
            // A bad address is the program's own problem.
            let _ = self.write_user(&space, clear, &0u32.to_ne_bytes());
            if let Ok(word) = space.name_word(clear, Reach::Machine) {
                self.wake_futex(Channel::Futex(word.name), 1);
            }
        }
        self.tasks.lock().remove(&task.tid());
        self.offer_pending(&task.process, Set(!0));
        let ended = task.process.shared.lock().lives.gone(leave);
        if let Some(status) = ended {
            self.finish_process(&task.process, status);
        }
        self.wake(Channel::Child(task.process.pid));
        task.stand.lock().state = State::Ended;
    }

    fn finish_process(&self, process: &Arc<Process<A>>, status: Status) {
        let (space, files) = {
            let mut shared = process.shared.lock();
            shared.holds_parent = false;
            shared.alarm = None;
            (shared.space.take(), shared.files.take())
        };
        // Dropped here, with no lock held: unmapping and closing take locks of their own.
        drop(files);
        drop(space);
        self.wake(Channel::Vfork(process.pid));
        self.give_away_children(process.pid);
        let parent = {
            let mut shared = process.shared.lock();
            shared.zombie = true;
            // Read together: a parent that ends now either finds the zombie, or has let go of it.
            shared.parent
        };
        let parent = self.processes.lock().get(&parent).cloned();
        match parent {
            Some(parent) if !parent.shared.lock().zombie => {
                self.tell_parent(&parent, process, status)
            }
            _ => {
                self.forget(process);
            }
        }
        if process.pid == 1 {
            *self.first_status.lock() = Some(status);
            self.closing.store(true, Ordering::SeqCst);
            let others: Vec<_> = self.processes.lock().values().cloned().collect();
            for other in others.iter().filter(|other| !other.shared.lock().zombie) {
                self.send_to_process(other, SIGKILL, SignalInfo::default());
            }
        }
    }

    fn tell_parent(&self, parent: &Arc<Process<A>>, child: &Arc<Process<A>>, status: Status) {
        let action = parent.shared.lock().actions[SIGCHLD as usize];
        if action.handler == IGNORE || action.flags & SA_NOCLDWAIT != 0 {
            self.forget(child);
        }
        let (code, value) = match status {
            Status::Exited(code) => (1, i32::from(code)),
            Status::Killed(signal) => (2, signal as i32),
        };
        let detail = SignalDetail::Process {
            pid: child.pid as i32,
            uid: 0,
            status: value,
        };
        self.send_to_process(parent, SIGCHLD, SignalInfo { code, detail });
        self.wake(Channel::Child(parent.pid));
    }

    /// Children of an ended process belong to the kernel, which waits for none.
    fn give_away_children(&self, parent: u32) {
        let children: Vec<_> = self
            .processes
            .lock()
            .values()
            .filter(|child| child.shared.lock().parent == parent)
            .cloned()
            .collect();
        for child in children {
            let zombie = {
                let mut shared = child.shared.lock();
                shared.parent = 0;
                shared.zombie
            };
            if zombie {
                self.forget(&child);
            }
        }
    }

    /// Removes a zombie; answers whether nobody else had. By then its number may be another's.
    pub fn forget(&self, zombie: &Arc<Process<A>>) -> bool {
        let mut processes = self.processes.lock();
        let there = processes.get(&zombie.pid);
        let there = there.is_some_and(|process| Arc::ptr_eq(process, zombie));
        if there {
            processes.remove(&zombie.pid);
        }
        there
    }

    /// Answers for a fault that finds no memory: kills the process that faulted; or, in
    /// the place of the first process, the one that has most, unless one is dying already.
    /// Answers whether the fault may be tried again. The caller holds no lock.
    pub fn relieve_memory(&self, task: &Arc<Task<A>>) -> bool {
        let victim = if task.process.pid == 1 {
            self.victim()
        } else {
            None
        };
        let dies = victim.as_ref().unwrap_or(&task.process);
        let (pid, name) = (dies.pid, dies.name());
        if dies.shared.lock().lives.status().is_none() {
            self.log(format_args!(
                "process {pid} ({name}): out of memory, killed"
            ));
            self.end_process(dies, Status::Killed(SIGKILL));
        }
        if victim.is_some() {
            // The victim frees its memory when it runs next: here, or on another CPU, which may
            // wait for this one's answer to a flush.
            self.arch.poll_interrupts();
            self.yield_now();
        }
        victim.is_some()
    }

    /// Answers a process that is dying already, so that one lack of memory kills one process;
    /// if there is none, the one that has most. Never the first process.
    fn victim(&self) -> Option<Arc<Process<A>>> {
        let rank = |process: &Arc<Process<A>>| {
            let dying = {
                let shared = process.shared.lock();
                if process.pid == 1 || shared.zombie {
                    return None;
                }
                shared.lives.status().is_some()
            };
            let size = process.space().map_or(0, |space| space.resident_pages());
            Some((dying, size))
        };
        // Ranked with no lock held: whoever looks at a space may be the last who has it.
        let processes: Vec<_> = self.processes.lock().values().cloned().collect();
        let ranked = processes
            .into_iter()
            .filter_map(|process| Some((rank(&process)?, process)));
        ranked
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, process)| process)
    }

    /// Writes one line about a process that a signal ends.
    pub fn log_death(&self, task: &Task<A>, signal: u32, info: SignalInfo) {
        let (pid, name, signal_name) =
            (task.process.pid, task.process.name(), signal::name(signal));
        match info.detail {
            SignalDetail::Address(address) => {
                self.log(format_args!(
                    "process {pid} ({name}): {signal_name} at {address:#x}"
                ));
            }
            _ if matches!(
                signal,
                signal::SIGSEGV | signal::SIGBUS | signal::SIGILL | signal::SIGFPE
            ) =>
            {
                self.log(format_args!("process {pid} ({name}): {signal_name}"));
            }
            _ => (),
        }
    }
}
