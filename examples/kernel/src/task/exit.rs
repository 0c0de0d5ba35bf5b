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
use crate::sched::{Channel, State};
use crate::system::System;
use crate::task::signal::{self, IGNORE, SA_NOCLDWAIT, SIGCHLD, SIGKILL};
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
        process.shared.lock().ending.get_or_insert(status);
        for task in self.threads_of(process) {
            self.end_thread(&task);
        }
    }

    /// Marks one thread for its end.
    pub fn end_thread(&self, task: &Arc<Task<A>>) {
        task.own.lock().ends = true;
        self.wake_for_signal(task);
    }

    /// Ends the running thread; its caller gives up all it owns and calls
    /// [`System::leave`].
    pub fn finish_task(&self, task: &Arc<Task<A>>) {
        let clear = task.own.lock().clear_at_end;
        let last = task.process.shared.lock().threads == 1;
        if let Some(space) = task.process.space().filter(|_| clear != 0 && !last) {
            // A bad address is the program's own problem.
            let _ = self.write_user(&space, clear, &0u32.to_ne_bytes());
            let channel = Channel::Futex(space.number, clear);
            self.wake_some(1, |on| on == channel);
        }
        self.tasks.lock().remove(&task.tid);
        let left = {
            let mut shared = task.process.shared.lock();
            shared.threads -= 1;
            shared.threads
        };
        if left == 0 {
            self.finish_process(&task.process);
        }
        self.wake(Channel::Child(task.process.pid));
        task.stand.lock().state = State::Ended;
    }

    fn finish_process(&self, process: &Arc<Process<A>>) {
        let (space, files, status) = {
            let mut shared = process.shared.lock();
            shared.holds_parent = false;
            shared.alarm = None;
            let status = *shared.ending.get_or_insert(Status::Exited(0));
            (shared.space.take(), shared.files.take(), status)
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
                self.forget(process.pid);
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
            self.forget(child.pid);
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
                self.forget(child.pid);
            }
        }
    }

    /// Removes a zombie; answers whether nobody else had.
    pub fn forget(&self, pid: u32) -> bool {
        let gone = self.processes.lock().remove(&pid);
        gone.is_some()
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
        if dies.shared.lock().ending.is_none() {
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
                shared.ending.is_some()
            };
            let size = process.space().map_or(0, |space| space.resident_pages());
            Some((dying, size))
        };
        let processes = self.processes.lock();
        let ranked = processes
            .values()
            .filter_map(|process| Some((rank(process)?, process)));
        ranked
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, process)| process.clone())
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
