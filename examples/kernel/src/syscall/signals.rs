//! The signal calls: actions, masks, sending, returning from handlers.

use super::Call;
use crate::arch::{Arch, Frame, SignalDetail, SignalInfo};
use crate::errno::{Errno, Result};
use crate::sched::{Channel, Patience};
use crate::task::signal::{Action, SIGKILL, SIGNALS, SIGSEGV, SIGSTOP, Set, Target, is_on};

const SET_BYTES: usize = 8;
const SS_ONSTACK: usize = 1;
const SS_DISABLE: usize = 2;

impl<A: Arch> Call<'_, A> {
    /// Sends a signal to the calling thread.
    pub(super) fn raise_here(&self, signal: u32) {
        self.system
            .send_to_thread(self.task, signal, self.own_info());
    }

    fn own_info(&self) -> SignalInfo {
        SignalInfo {
            code: 0,
            detail: SignalDetail::Process {
                pid: self.task.process.pid as i32,
                uid: 0,
                status: 0,
            },
        }
    }

    pub(super) fn rt_sigaction(
        &self,
        signal: usize,
        new: usize,
        old: usize,
        size: usize,
    ) -> Result {
        if size != SET_BYTES || signal == 0 || signal >= SIGNALS {
            return Err(Errno::EINVAL);
        }
        let fixed = signal == SIGKILL as usize || signal == SIGSTOP as usize;
        let restorer = usize::from(super::abi::has_restorer::<A>());
        let wanted = if new == 0 {
            None
        } else if fixed {
            return Err(Errno::EINVAL);
        } else {
            let at = |i: usize| self.get_nth(new, i);
            let mask = self.get(new.wrapping_add((2 + restorer) * Self::WORD))?;
            Some(Action {
                handler: at(0)?,
                flags: at(1)?,
                restorer: if restorer == 1 { at(2)? } else { 0 },
                mask: Set(u64::from_le_bytes(mask)).maskable(),
            })
        };
        let before = self.task.process.shared.lock().actions[signal];
        if old != 0 {
            let mut out = super::record::Record::<32>::new(A::SYSCALL_ABI);
            let words = [before.handler, before.flags, before.restorer];
            out.words(words.into_iter().take(2 + restorer).map(|word| word as u64));
            out.u64(before.mask.0);
            self.put(old, out.bytes())?;
        }
        if let Some(wanted) = wanted {
            self.task.process.shared.lock().actions[signal] = wanted;
        }
        Ok(0)
    }

    pub(super) fn rt_sigprocmask(&self, how: usize, new: usize, old: usize, size: usize) -> Result {
        if size != SET_BYTES {
            return Err(Errno::EINVAL);
        }
        let before = self.task.own.lock().mask;
        if new != 0 {
            let set = Set(u64::from_ne_bytes(self.get(new)?));
            let mask = match how {
                0 => before.union(set),
                1 => before.minus(set),
                2 => set,
                _ => return Err(Errno::EINVAL),
            };
            self.system.set_mask(self.task, mask.maskable());
        }
        if old != 0 {
            self.put(old, &before.0.to_ne_bytes())?;
        }
        Ok(0)
    }

    pub(super) fn rt_sigpending(&self, into: usize) -> Result {
        let own = {
            let own = self.task.own.lock();
            (own.pending.set, own.mask)
        };
        let all = own.0.union(self.task.process.shared.lock().pending.set);
        self.put(into, &(all.0 & own.1.0).to_ne_bytes()).map(|()| 0)
    }

    pub(super) fn rt_sigsuspend(&self, mask: usize, size: usize) -> Result {
        if size != SET_BYTES {
            return Err(Errno::EINVAL);
        }
        let set = Set(u64::from_ne_bytes(self.get(mask)?)).maskable();
        let before = self.system.set_mask(self.task, set);
        self.task.own.lock().saved_mask = Some(before);
        self.pause()
    }

    pub(super) fn pause(&self) -> Result {
        // Never ready: only a signal ends it, and it always ends with EINTR.
        let _ = self
            .system
            .wait_until(Channel::Time, None, Patience::Interruptible, || None::<()>);
        Err(Errno::EINTR)
    }

    pub(super) fn rt_sigreturn(&mut self) -> Result {
        let space = self.space()?;
        let system = self.system;
        let popped = system.arch.pop_signal(self.frame, &mut |at, bytes| {
            system.read_user(&space, at, bytes).is_ok()
        });
        match popped {
            Ok(popped) => {
                self.system.set_mask(self.task, Set(popped.mask).maskable());
                Ok(self.frame.return_value() as usize)
            }
            Err(_) => {
                system.force_signal(
                    self.task,
                    SIGSEGV,
                    SignalInfo {
                        code: 0x80,
                        detail: SignalDetail::Address(0),
                    },
                );
                Ok(0)
            }
        }
    }

    pub(super) fn sigaltstack(&self, new: usize, old: usize) -> Result {
        const SMALLEST: usize = 2048;
        let before = self.task.own.lock().signal_stack;
        let on_it = before.is_some_and(|stack| is_on(stack, self.frame.sp()));
        let wanted = if new == 0 {
            None
        } else {
            let (base, flags, size) = (
                self.get_nth(new, 0)?,
                self.get_nth(new, 1)? as u32 as usize,
                self.get_nth(new, 2)?,
            );
            match flags {
                _ if on_it => return Err(Errno::EPERM),
                SS_DISABLE => Some(None),
                0 | SS_ONSTACK if size < SMALLEST => return Err(Errno::ENOMEM),
                0 | SS_ONSTACK => Some(Some((base, size))),
                // Also SS_AUTODISARM: a stack that stays armed would be overwritten.
                _ => return Err(Errno::EINVAL),
            }
        };
        if old != 0 {
            let (base, size) = before.unwrap_or((0, 0));
            let flags = match before {
                None => SS_DISABLE,
                Some(_) if on_it => SS_ONSTACK,
                Some(_) => 0,
            };
            self.put_words(old, [base, flags, size])?;
        }
        if let Some(wanted) = wanted {
            self.task.own.lock().signal_stack = wanted;
        }
        Ok(0)
    }

    pub(super) fn kill(&self, pid: usize, signal: usize) -> Result {
        let target = match pid as i32 {
            0 => Target::Group(self.task.process.shared.lock().group),
            -1 => Target::Everyone,
            pid @ 1.. => Target::Process(pid as u32),
            pid => Target::Group(pid.unsigned_abs()),
        };
        self.system
            .kill(self.task.process.pid, target, signal as u32)
            .map(|()| 0)
    }

    pub(super) fn tgkill(&self, process: usize, tid: usize, signal: usize) -> Result {
        if signal >= SIGNALS {
            return Err(Errno::EINVAL);
        }
        let task = self
            .system
            .tasks
            .lock()
            .get(&(tid as u32))
            .cloned()
            .ok_or(Errno::ESRCH)?;
        if process != 0 && task.process.pid != process as u32 {
            return Err(Errno::ESRCH);
        }
        let own_pid = self.task.process.pid;
        if signal != 0 && !self.system.spares(&task.process, own_pid, signal as u32) {
            let info = SignalInfo {
                code: -6,
                ..self.own_info()
            };
            self.system.send_to_thread(&task, signal as u32, info);
        }
        Ok(0)
    }
}
