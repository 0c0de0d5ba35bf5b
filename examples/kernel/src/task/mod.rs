//! Processes and their threads.
//!
//! A [`Process`] is what its threads share: the address space, the descriptors, the
//! signal actions, the relation to its parent. A [`Task`] is one thread. Linux calls
//! both a task; here the first thread of a process has the process's number.
//!
//! ```text
//!   tasks: tid ─► Task ─► Process ◄─ pid: processes
//!                  │         └─► Space, Table of OpenFile, actions
//!                  └─► Arch::Thread (kernel stack, registers)
//! ```
//! Life of a process: *live* while it has threads → *zombie* (ended, no memory, no
//! files) until its parent has waited for it → gone. A thread ends only at the door to
//! user mode ([`crate::system`]), where its kernel stack owns nothing any more.

pub mod exec;
pub mod exit;
pub mod fork;
pub mod limit;
pub mod lives;
pub mod robust;
pub mod signal;
pub mod wait;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::sync::Mutex;

use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::open::OpenFile;
use crate::fs::table::Table;
use crate::memory::{FileNode, Space};
use crate::sched::Stand;
use crate::system::System;
use limit::Limits;
use lives::{Leave, Lives};
use signal::{Action, Pending, SIGNALS, Set};

/// A process's descriptors; threads share them.
pub type Files<A> = Arc<Mutex<Table<Arc<OpenFile<A>>>>>;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By exit, with the low eight bits of its status.
    Exited(u8),
    /// By a signal.
    Killed(u32),
}

impl Status {
    /// Encodes the status as wait(2) reports it.
    #[must_use]
    pub fn wait_word(self) -> u32 {
        match self {
            Status::Exited(code) => u32::from(code) << 8,
            Status::Killed(signal) => signal,
        }
    }
}

/// One thread.
pub struct Task<A: Arch> {
    /// Its number ([`Task::tid`]).
    pub(crate) number: AtomicU32,
    /// The kernel.
    pub system: &'static System<A>,
    /// Its process.
    pub process: Arc<Process<A>>,
    /// Kernel stack and registers.
    pub thread: A::Thread,
    /// Where it stands, for the scheduler.
    pub stand: Mutex<Stand>,
    /// The CPU that runs it, or ran it last.
    pub cpu: AtomicUsize,
    /// Its registers are in that CPU and not saved yet ([`crate::sched`]).
    pub on_cpu: AtomicBool,
    /// What only it uses.
    pub own: Mutex<Own<A>>,
}

/// What belongs to one thread alone.
pub struct Own<A: Arch> {
    /// The registers to start with, until it has started.
    pub start: Option<A::Frame>,
    /// Signals it does not want now.
    pub mask: Set,
    /// The mask to restore after the handler that ends a sigsuspend.
    pub saved_mask: Option<Set>,
    /// Signals sent to it alone.
    pub pending: Pending,
    /// The signal stack: base and size in bytes.
    pub signal_stack: Option<(usize, usize)>,
    /// Where to store 0 and wake a futex at the end (set_tid_address).
    pub clear_at_end: usize,
    /// The list of futexes that it holds (set_robust_list).
    pub robust_list: usize,
    /// It must end at the door.
    pub ends: bool,
    /// Whether it called for that itself.
    pub leave: Leave,
}

impl<A: Arch> Own<A> {
    /// Makes the state of a thread that starts with `frame`.
    #[must_use]
    pub fn new(frame: A::Frame, mask: Set) -> Self {
        Own {
            start: Some(frame),
            mask,
            saved_mask: None,
            pending: Pending::default(),
            signal_stack: None,
            clear_at_end: 0,
            robust_list: 0,
            ends: false,
            leave: Leave::default(),
        }
    }
}

impl<A: Arch> Task<A> {
    /// Answers its number: that of the process for the first thread, and for the one that called
    /// exec. It changes only there, under the lock of the table of tasks.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// Tells whether a signal waits that this thread does not block, or its end.
    #[must_use]
    pub fn has_signal(&self) -> bool {
        let own = self.own.lock();
        own.ends
            || !own
                .pending
                .set
                .union(self.process.shared.lock().pending.set)
                .minus(own.mask)
                .is_empty()
    }
}

/// What the threads of a program share.
pub struct Process<A: Arch> {
    /// Its number.
    pub pid: u32,
    /// What changes.
    pub shared: Mutex<Shared<A>>,
}

/// The changing part of a process.
pub struct Shared<A: Arch> {
    /// The parent's number; 0 when the kernel itself waits for it.
    pub parent: u32,
    /// Process group.
    pub group: u32,
    /// Session.
    pub session: u32,
    /// The address space, until the end.
    pub space: Option<Arc<Space<A>>>,
    /// Its descriptors, until the end.
    pub files: Option<Files<A>>,
    /// Working directory.
    pub cwd: Arc<FileNode<A>>,
    /// File mode creation mask.
    pub umask: u32,
    /// Resource limits.
    pub limits: Limits,
    /// Path of the program's file.
    pub program: Vec<u8>,
    /// First bytes of argv, each with its NUL, for /proc/self/cmdline.
    pub arguments: Vec<u8>,
    /// Short name (PR_SET_NAME).
    pub name: [u8; 16],
    /// The most pages that were there in spaces that exec has left.
    pub most_resident: usize,
    /// Whether it wants no huge pages (PR_SET_THP_DISABLE).
    pub refuses_huge_pages: bool,
    /// Its threads, and the status once all of them are to end, or have.
    pub lives: Lives,
    /// The thread whose exec ends all others.
    pub exec_by: Option<u32>,
    /// Whether all threads have ended and only the status is left.
    pub zombie: bool,
    /// Whether it holds its parent in vfork.
    pub holds_parent: bool,
    /// What to do on each signal.
    pub actions: [Action; SIGNALS],
    /// Signals sent to the process.
    pub pending: Pending,
    /// When SIGALRM comes, and the interval after that, in nanoseconds.
    pub alarm: Option<(u64, u64)>,
}

impl<A: Arch> Process<A> {
    /// Answers the address space, if the process still has one.
    #[must_use]
    pub fn space(&self) -> Option<Arc<Space<A>>> {
        self.shared.lock().space.clone()
    }

    /// Answers the descriptors.
    ///
    /// # Errors
    /// `EBADF` once the process has ended.
    pub fn files(&self) -> Result<Files<A>> {
        self.shared.lock().files.clone().ok_or(Errno::EBADF)
    }

    /// Answers the number that its descriptors are below.
    #[must_use]
    pub fn file_limit(&self) -> usize {
        self.shared.lock().limits.amount(limit::FILES)
    }

    /// Answers the short name as text.
    #[must_use]
    pub fn name(&self) -> alloc::string::String {
        let name = self.shared.lock().name;
        let end = name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(name.len());
        alloc::string::String::from_utf8_lossy(&name[..end]).into_owned()
    }
}

impl<A: Arch> Shared<A> {
    /// Tells whether threads of this process are being ended: it gets no new ones.
    #[must_use]
    pub const fn loses_threads(&self) -> bool {
        self.lives.status().is_some() || self.exec_by.is_some()
    }

    /// Sets the short name from the last part of a path.
    pub fn set_name(&mut self, path: &[u8]) {
        let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        let length = last.len().min(15);
        self.name = [0; 16];
        self.name[..length].copy_from_slice(&last[..length]);
    }
}
