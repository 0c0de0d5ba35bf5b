//! Processes and threads: fork, exec, exit, wait.

use super::Call;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::task::Status;
use crate::task::exec::Words;
use crate::task::fork::Request;
use crate::task::wait::{Children, Hurry, Reap};

const WNOHANG: usize = 1;
const WEXITED: usize = 4;
const WNOWAIT: usize = 0x100_0000;

impl<A: Arch> Call<'_, A> {
    pub(super) fn fork(&self) -> Result {
        self.system
            .clone_task(self.task, self.frame, &Request::FORK)
    }

    pub(super) fn vfork(&self) -> Result {
        self.system
            .clone_task(self.task, self.frame, &Request::VFORK)
    }

    /// The order of arguments is x86-64's; AArch64, Arm and RISC-V swap the last two.
    pub(super) fn clone_call(
        &self,
        flags: usize,
        stack: usize,
        parent_tid: usize,
        child_tid: usize,
        tls: usize,
    ) -> Result {
        let (child_tid, tls) = match A::SYSCALL_ABI {
            crate::arch::SyscallAbi::X86_64 => (child_tid, tls),
            crate::arch::SyscallAbi::Generic | crate::arch::SyscallAbi::Arm => (tls, child_tid),
        };
        self.system.clone_task(
            self.task,
            self.frame,
            &Request {
                flags,
                stack,
                parent_tid,
                child_tid,
                tls,
            },
        )
    }

    pub(super) fn execve(&mut self, path: usize, argv: usize, envp: usize) -> Result {
        let path = self.path(path)?;
        let mut words = Words::new()?;
        let mut argc = self.read_words(argv, &mut words)?;
        if argc == 0 {
            // Every program has its name, be it empty (Linux: do_execveat_common).
            words.push(b"")?;
            argc = 1;
        }
        self.read_words(envp, &mut words)?;
        self.exec(&path, words, argc)?;
        Ok(0)
    }

    /// Reads a null-terminated array of strings; answers how many there are.
    fn read_words(&self, array: usize, words: &mut Words) -> Result {
        let mut count = 0usize;
        if array == 0 {
            return Ok(0);
        }
        let space = self.space()?;
        loop {
            let string = self.get_nth(array, count)?;
            if string == 0 {
                return Ok(count);
            }
            let text = self.system.read_user_string(&space, string, words.room())?;
            words.push(&text)?;
            count += 1;
        }
    }

    pub(super) fn exit(&self, code: usize) -> Result {
        self.system.exit_thread(self.task, code as u8);
        Ok(0)
    }

    pub(super) fn exit_group(&self, code: usize) -> Result {
        self.system
            .end_process(&self.task.process, Status::Exited(code as u8));
        Ok(0)
    }

    pub(super) fn wait4(&self, pid: usize, status: usize, options: usize, usage: usize) -> Result {
        /// WUNTRACED and WCONTINUED, and which kind of child: this kernel stops none, and has one kind.
        const NO_MATTER: usize = 2 | 8 | 0xe000_0000;
        if options as u32 as usize & !(WNOHANG | NO_MATTER) != 0 {
            return Err(Errno::EINVAL);
        }
        let group = self.task.process.shared.lock().group;
        let which = match pid as i32 {
            -1 => Children::Any,
            0 => Children::Group(group),
            pid @ 1.. => Children::One(pid as u32),
            pid => Children::Group(pid.unsigned_abs()),
        };
        let hurry = if options & WNOHANG != 0 {
            Hurry::Look
        } else {
            Hurry::Wait
        };
        let Some((pid, how)) =
            self.system
                .wait_child(&self.task.process, which, hurry, Reap::Take)?
        else {
            return Ok(0);
        };
        if status != 0 {
            self.put(status, &how.wait_word().to_ne_bytes())?;
        }
        self.put_usage(usage)?;
        Ok(pid as usize)
    }

    /// Writes what a child used, which is not counted, where the caller wants to know.
    fn put_usage(&self, usage: usize) -> Result<()> {
        match usage {
            0 => Ok(()),
            _ => self.put_words(usage, [0; 18]),
        }
    }

    pub(super) fn waitid(
        &self,
        kind: usize,
        pid: usize,
        (info, usage): (usize, usize),
        options: usize,
    ) -> Result {
        let which = match kind {
            0 => Children::Any,
            1 => Children::One(pid as u32),
            2 => Children::Group(pid as u32),
            _ => return Err(Errno::EINVAL),
        };
        if options & WEXITED == 0 {
            return Err(Errno::EINVAL);
        }
        let hurry = if options & WNOHANG != 0 {
            Hurry::Look
        } else {
            Hurry::Wait
        };
        let reap = if options & WNOWAIT != 0 {
            Reap::Leave
        } else {
            Reap::Take
        };
        let found = self
            .system
            .wait_child(&self.task.process, which, hurry, reap)?;
        if found.is_some() {
            self.put_usage(usage)?;
        }
        if info != 0 {
            // siginfo_t: si_signo, si_errno, si_code, (pad,) si_pid, si_uid, si_status.
            let mut out = super::record::Record::<128>::new(A::SYSCALL_ABI);
            if let Some((pid, how)) = found {
                let (code, status) = match how {
                    Status::Exited(code) => (1, u32::from(code)),
                    Status::Killed(signal) => (2, signal),
                };
                // The union holds pointers, and is aligned like one.
                out.u32(crate::task::signal::SIGCHLD).u32(0).u32(code);
                out.align(Self::WORD).u32(pid).u32(0).u32(status);
            }
            self.put(info, out.fill(128).bytes())?;
        }
        Ok(0)
    }

    pub(super) fn set_tid_address(&self, address: usize) -> Result {
        self.task.own.lock().clear_at_end = address;
        Ok(self.task.tid() as usize)
    }

    /// `size` is that of `struct robust_list_head`.
    pub(super) fn set_robust_list(&self, head: usize, size: usize) -> Result {
        if size != 3 * Self::WORD {
            return Err(Errno::EINVAL);
        }
        self.task.own.lock().robust_list = head;
        Ok(0)
    }

    pub(super) fn sched_yield(&self) -> Result {
        self.system.yield_now();
        Ok(0)
    }

    pub(super) fn sched_getaffinity(&self, size: usize, into: usize) -> Result {
        if size < Self::WORD || size % Self::WORD != 0 {
            return Err(Errno::EINVAL);
        }
        self.put_words(into, [(1 << self.system.running_cpus()) - 1])?;
        Ok(Self::WORD)
    }

    /// Takes a set in which some CPU runs, and keeps nothing of it: every thread may run anywhere.
    pub(super) fn sched_setaffinity(&self, size: usize, from: usize) -> Result {
        let mut set = [0; 8];
        let known = size.min(Self::WORD);
        self.get_into(from, &mut set[..known])?;
        let running = (1u64 << self.system.running_cpus()) - 1;
        match u64::from_le_bytes(set) & running {
            0 => Err(Errno::EINVAL),
            _ => Ok(0),
        }
    }
}
