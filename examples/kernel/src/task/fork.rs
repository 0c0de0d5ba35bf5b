//! Makes tasks: the first one, fork, vfork and clone.
//!
//! | call | address space | descriptors | parent |
//! |---|---|---|---|
//! | fork | copied on write | copied | goes on |
//! | vfork, posix_spawn (`CLONE_VM` and `CLONE_VFORK`) | shared | copied | sleeps until exec or exit |
//! | thread (`CLONE_THREAD`) | shared, same process | shared | goes on |
//!
//! Everything that can fail is done before the child is entered in the tables; from
//! there on nothing fails.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::sync::Mutex;

use crate::arch::{Arch, Frame};
use crate::errno::{Errno, Result};
use crate::limits::TASKS;
use crate::sched::{Channel, Patience, Stand};
use crate::system::System;
use crate::task::lives::Lives;
use crate::task::signal::{Pending, SIGKILL};
use crate::task::{Files, Own, Process, Shared, Status, Task};

const CLONE_VM: usize = 0x100;
const CLONE_FILES: usize = 0x400;
const CLONE_VFORK: usize = 0x4000;
const CLONE_THREAD: usize = 0x1_0000;
const CLONE_SETTLS: usize = 0x8_0000;
const CLONE_PARENT_SETTID: usize = 0x10_0000;
const CLONE_CHILD_CLEARTID: usize = 0x20_0000;
const CLONE_CHILD_SETTID: usize = 0x100_0000;

/// What clone(2) asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// `CLONE_` flags.
    pub flags: usize,
    /// The child's stack pointer; 0 for the parent's.
    pub stack: usize,
    /// Where the parent wants the child's number.
    pub parent_tid: usize,
    /// Where the child wants its number, or 0 stored at its end.
    pub child_tid: usize,
    /// The child's thread pointer.
    pub tls: usize,
}

impl Request {
    /// A plain fork.
    pub const FORK: Request = Request {
        flags: 0,
        stack: 0,
        parent_tid: 0,
        child_tid: 0,
        tls: 0,
    };
    /// A vfork.
    pub const VFORK: Request = Request {
        flags: CLONE_VM | CLONE_VFORK,
        ..Request::FORK
    };

    fn has(&self, flag: usize) -> bool {
        self.flags & flag != 0
    }
}

impl<A: Arch> System<A> {
    /// Makes a child of `parent`, whose registers are `frame`; answers its number.
    ///
    /// # Errors
    /// `EAGAIN` when there are too many tasks, `ENOMEM`, `EINVAL` for flags that
    /// contradict each other.
    pub fn clone_task(&self, parent: &Arc<Task<A>>, frame: &A::Frame, request: &Request) -> Result {
        let is_thread = request.has(CLONE_THREAD);
        if is_thread && !request.has(CLONE_VM) {
            return Err(Errno::EINVAL);
        }
        let tid = self.free_number()?;
        let mut frame = frame.clone();
        frame.set_return(0);
        if request.stack != 0 {
            frame.set_sp(request.stack);
        }
        if request.has(CLONE_SETTLS) {
            frame.set_tls(request.tls);
        }
        let process = if is_thread {
            parent.process.clone()
        } else {
            self.child_process(parent, tid, request)?
        };
        let mask = parent.own.lock().mask;
        let child = self.new_task(parent.system, tid, process.clone(), frame, mask)?;
        self.arch.copy_fp_state(&child.thread);
        {
            let mut own = child.own.lock();
            let stays = !request.has(CLONE_VM) || request.has(CLONE_VFORK);
            own.signal_stack = parent.own.lock().signal_stack.filter(|_| stays);
            if request.has(CLONE_CHILD_CLEARTID) {
                own.clear_at_end = request.child_tid;
            }
        }
        if let Some(space) = process.space().filter(|_| request.has(CLONE_CHILD_SETTID)) {
            // As in Linux, a bad address here is the child's own problem.
            let _ = self.write_user(&space, request.child_tid, &tid.to_ne_bytes());
        }
        let parent_space = parent.process.space();
        if let Some(space) = parent_space.filter(|_| request.has(CLONE_PARENT_SETTID)) {
            let _ = self.write_user(&space, request.parent_tid, &tid.to_ne_bytes());
        }
        if is_thread {
            self.enter_thread(&child)?;
        } else {
            // The thread first: who finds the process, and ends it, finds all its threads.
            self.tasks.lock().insert(tid, child.clone());
            self.processes.lock().insert(tid, process.clone());
            // The end of the run looks for processes after it has said so: it finds this one, or
            // is found here.
            if self.closing.load(Ordering::SeqCst) {
                self.end_process(&process, Status::Killed(SIGKILL));
            }
        }
        self.start_task(&child);
        drop(child);
        if request.has(CLONE_VFORK) {
            let released = || (!process.shared.lock().holds_parent).then_some(());
            // Only the child's exec or exit lets the parent use its stack again; one that is killed
            // never does.
            let _ = self.wait_until(Channel::Vfork(tid), None, Patience::Killable, released);
        }
        Ok(tid as usize)
    }

    /// Enters a thread in the table and in its process.
    ///
    /// Who ends all threads of a process says so in `shared` and then looks for them in the
    /// table; here it is the other way round, so that no thread is missed.
    ///
    /// # Errors
    /// The caller is being ended: it never sees the error.
    fn enter_thread(&self, child: &Arc<Task<A>>) -> Result<()> {
        self.tasks.lock().insert(child.tid(), child.clone());
        let entered = {
            let mut shared = child.process.shared.lock();
            let entered = !shared.loses_threads();
            if entered {
                shared.lives.enter();
            }
            entered
        };
        if entered {
            return Ok(());
        }
        let never_ran = self.tasks.lock().remove(&child.tid());
        drop(never_ran);
        Err(Errno::RESTART)
    }

    fn child_process(
        &self,
        parent: &Arc<Task<A>>,
        pid: u32,
        request: &Request,
    ) -> Result<Arc<Process<A>>> {
        let space = parent.process.space().ok_or(Errno::ESRCH)?;
        let files = parent.process.files()?;
        let files: Files<A> = if request.has(CLONE_FILES) {
            files
        } else {
            Arc::new(Mutex::new(files.lock().duplicate()?))
        };
        let space = Arc::new(if request.has(CLONE_VM) {
            space.share()
        } else {
            space.fork()?
        });
        let from = parent.process.shared.lock();
        let shared = Shared {
            parent: parent.process.pid,
            group: from.group,
            session: from.session,
            space: Some(space),
            files: Some(files),
            cwd: from.cwd.clone(),
            umask: from.umask,
            limits: from.limits,
            program: from.program.clone(),
            arguments: from.arguments.clone(),
            name: from.name,
            most_resident: 0,
            refuses_huge_pages: from.refuses_huge_pages,
            lives: Lives::first(),
            exec_by: None,
            zombie: false,
            holds_parent: request.has(CLONE_VFORK),
            actions: from.actions,
            pending: Pending::default(),
            alarm: None,
        };
        Ok(Arc::new(Process {
            pid,
            shared: Mutex::new(shared),
        }))
    }

    /// Makes a task that is in no table yet.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for its kernel stack.
    pub fn new_task(
        &self,
        system: &'static System<A>,
        tid: u32,
        process: Arc<Process<A>>,
        frame: A::Frame,
        mask: crate::task::signal::Set,
    ) -> Result<Arc<Task<A>>> {
        let argument = core::ptr::from_ref(system).expose_provenance();
        let thread = self
            .arch
            .new_thread(first_run::<A>, argument)
            .ok_or(Errno::ENOMEM)?;
        let own = Mutex::new(Own::new(frame, mask));
        Ok(Arc::new(Task {
            number: AtomicU32::new(tid),
            system,
            process,
            thread,
            stand: Mutex::new(Stand::new()),
            cpu: AtomicUsize::new(0),
            on_cpu: AtomicBool::new(false),
            own,
        }))
    }

    /// Finds a number that no task, process or group has.
    ///
    /// # Errors
    /// `EAGAIN` when there are as many as there may be.
    pub fn free_number(&self) -> Result<u32> {
        let (tasks, processes) = (self.tasks.lock(), self.processes.lock());
        if tasks.len() >= TASKS || processes.len() >= TASKS {
            return Err(Errno::EAGAIN);
        }
        let mut last = self.last_number.lock();
        loop {
            *last = if *last >= 32_767 { 2 } else { *last + 1 };
            let named = |process: &Arc<Process<A>>| {
                let shared = process.shared.lock();
                shared.group == *last || shared.session == *last
            };
            if !tasks.contains_key(&last)
                && !processes.contains_key(&last)
                && !processes.values().any(named)
            {
                return Ok(*last);
            }
        }
    }
}

/// Where every task's kernel stack begins.
extern "C" fn first_run<A: Arch>(argument: usize) -> ! {
    // SAFETY: `new_task` passes the address of a `&'static System<A>`, whose provenance
    // it exposed, with the same `A`.
    #[expect(unsafe_code, reason = "the entry of a thread gets one word")]
    let system: &'static System<A> = unsafe { &*core::ptr::with_exposed_provenance(argument) };
    system.after_switch();
    system.first_entry()
}
