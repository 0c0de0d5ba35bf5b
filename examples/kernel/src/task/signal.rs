//! Signals: sending, masking, delivering; see signal(7).
//!
//! A signal is sent to a process or to one thread, becomes *pending*, and is delivered
//! at the door to user mode: ignored, fatal, or a call of the program's handler, for
//! which the architecture builds the frame. A signal that would be ignored is dropped
//! when it is sent. Equal pending signals are one. There is no stopping of processes:
//! SIGSTOP and its relatives are ignored.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use crate::arch::{Arch, Frame, HandlerStyle, SignalDelivery, SignalDetail, SignalInfo};
use crate::errno::{Errno, Result};
use crate::system::System;
use crate::task::{Process, Shared, Status, Task};

/// Number of signals, with 0 which is none.
pub const SIGNALS: usize = 65;

macro_rules! signals {
    ($($name:ident = $number:literal;)*) => {
        $(#[doc = concat!("Signal ", $number, ".")] pub const $name: u32 = $number;)*

        /// Names a signal.
        #[must_use]
        pub const fn name(signal: u32) -> &'static str {
            match signal {
                $($number => stringify!($name),)*
                _ => "a signal",
            }
        }
    };
}

signals! {
    SIGHUP = 1; SIGINT = 2; SIGQUIT = 3; SIGILL = 4; SIGTRAP = 5; SIGABRT = 6; SIGBUS = 7;
    SIGFPE = 8; SIGKILL = 9; SIGUSR1 = 10; SIGSEGV = 11; SIGUSR2 = 12; SIGPIPE = 13;
    SIGALRM = 14; SIGTERM = 15; SIGCHLD = 17; SIGCONT = 18; SIGSTOP = 19; SIGTSTP = 20;
    SIGTTIN = 21; SIGTTOU = 22; SIGURG = 23; SIGWINCH = 28;
}

/// A set of signals, laid out as `sigset_t`: bit 0 is signal 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    /// Makes the set of one signal.
    #[must_use]
    pub const fn of(signal: u32) -> Self {
        if signal == 0 || signal as usize >= SIGNALS {
            Set(0)
        } else {
            Set(1 << (signal - 1))
        }
    }

    /// Joins two sets.
    #[must_use]
    pub const fn union(self, other: Set) -> Self {
        Set(self.0 | other.0)
    }

    /// Takes another set's signals out.
    #[must_use]
    pub const fn minus(self, other: Set) -> Self {
        Set(self.0 & !other.0)
    }

    /// Tells whether it has none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Tells whether it has `signal`.
    #[must_use]
    pub const fn has(self, signal: u32) -> bool {
        self.0 & Self::of(signal).0 != 0
    }

    /// Answers the lowest signal.
    #[must_use]
    pub const fn first(self) -> Option<u32> {
        if self.0 == 0 {
            None
        } else {
            Some(self.0.trailing_zeros() + 1)
        }
    }

    /// Takes out what cannot be masked.
    #[must_use]
    pub const fn maskable(self) -> Self {
        self.minus(Set::of(SIGKILL).union(Set::of(SIGSTOP)))
    }
}

/// Signals on their way.
#[derive(Default)]
pub struct Pending {
    /// Which.
    pub set: Set,
    infos: BTreeMap<u32, SignalInfo>,
}

impl Pending {
    fn add(&mut self, signal: u32, info: SignalInfo) {
        self.set = self.set.union(Set::of(signal));
        self.infos.insert(signal, info);
    }

    /// Takes the lowest signal that `mask` does not hold back.
    pub fn take(&mut self, mask: Set) -> Option<(u32, SignalInfo)> {
        let signal = self.set.minus(mask).first()?;
        self.set = self.set.minus(Set::of(signal));
        Some((signal, self.infos.remove(&signal).unwrap_or_default()))
    }
}

/// What a process does on a signal: `struct sigaction` of the kernel interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// 0 for the default, 1 to ignore, else the handler's address.
    pub handler: usize,
    /// `SA_` flags.
    pub flags: usize,
    /// Where handlers return to.
    pub restorer: usize,
    /// Signals masked while the handler runs.
    pub mask: Set,
}

/// Ignore: `SIG_IGN`.
pub const IGNORE: usize = 1;
const SA_SIGINFO: usize = 4;
/// Without it the field of the restorer holds anything.
const SA_RESTORER: usize = 0x0400_0000;
const SA_ONSTACK: usize = 0x0800_0000;
const SA_RESTART: usize = 0x1000_0000;
const SA_NODEFER: usize = 0x4000_0000;
const SA_RESETHAND: usize = 0x8000_0000;
/// `SA_NOCLDWAIT`: children leave no zombies.
pub const SA_NOCLDWAIT: usize = 2;

impl Action {
    /// Tells whether `signal` does nothing with this action.
    #[must_use]
    pub fn ignores(&self, signal: u32) -> bool {
        let harmless = matches!(
            signal,
            SIGCHLD | SIGCONT | SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU | SIGURG | SIGWINCH
        );
        self.handler == IGNORE || (self.handler == 0 && harmless)
    }
}

impl<A: Arch> Shared<A> {
    /// Tells whether `signal`, which is neither held back nor ignored, is the end of the process as
    /// soon as it is sent: then who sleeps until it is killed need not come to the door to learn
    /// of it (Linux: `sig_fatal`).
    fn ends_at_once(&self, signal: u32) -> bool {
        let action = self.actions.get(signal as usize);
        action.is_some_and(|action| action.handler == 0) && !leaves_a_core(signal)
    }
}

/// Tells whether the default of `signal` is to leave a core (signal(7)): that ends a process at the
/// door of the thread that takes the signal.
const fn leaves_a_core(signal: u32) -> bool {
    const SIGXCPU: u32 = 24;
    const SIGXFSZ: u32 = 25;
    const SIGSYS: u32 = 31;
    matches!(
        signal,
        SIGQUIT
            | SIGILL
            | SIGTRAP
            | SIGABRT
            | SIGBUS
            | SIGFPE
            | SIGSEGV
            | SIGXCPU
            | SIGXFSZ
            | SIGSYS
    )
}

/// Who gets a signal of kill(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process with this number.
    Process(u32),
    /// The process group with this number.
    Group(u32),
    /// Everyone but the sender and the first process.
    Everyone,
}

/// How a system call left, for restarting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It has its result, or there was none.
    Done,
    /// It was cut short and starts again unless a handler says no.
    Interrupted,
}

impl<A: Arch> System<A> {
    /// Sends a signal to a process.
    pub fn send_to_process(&self, process: &Arc<Process<A>>, signal: u32, info: SignalInfo) {
        let blocked = self
            .threads_of(process)
            .iter()
            .all(|task| task.own.lock().mask.has(signal));
        let fatal = {
            let mut shared = process.shared.lock();
            if shared.zombie {
                return;
            }
            let ignored = shared
                .actions
                .get(signal as usize)
                .is_some_and(|action| action.ignores(signal));
            if ignored && !blocked {
                return;
            }
            shared.pending.add(signal, info);
            !blocked && shared.ends_at_once(signal)
        };
        if fatal {
            self.end_process(process, Status::Killed(signal));
        } else {
            self.offer_signal(process, signal);
        }
    }

    /// Has one thread look at a signal of its process: the first thread, unless it holds the signal
    /// back. The others sleep on (Linux: `complete_signal`).
    ///
    /// Listed after the signal was stored: a thread that comes from here on finds it before it
    /// sleeps.
    fn offer_signal(&self, process: &Arc<Process<A>>, signal: u32) {
        let takes = |task: &Arc<Task<A>>| {
            let own = task.own.lock();
            !own.ends && !own.mask.has(signal)
        };
        let threads = self.threads_of(process).into_iter().filter(takes);
        if let Some(task) = threads.min_by_key(|task| task.tid() != process.pid) {
            self.wake_for_signal(&task);
        }
    }

    /// Offers those of `signals` anew that wait for the process: who was to look at them ends, or
    /// holds them back now (Linux: `retarget_shared_pending`).
    pub fn offer_pending(&self, process: &Arc<Process<A>>, signals: Set) {
        let mut left = Set(process.shared.lock().pending.set.0 & signals.0);
        while let Some(signal) = left.first() {
            left = left.minus(Set::of(signal));
            self.offer_signal(process, signal);
        }
    }

    /// Sets which signals the running thread holds back; answers which it did before.
    pub fn set_mask(&self, task: &Task<A>, mask: Set) -> Set {
        let before = core::mem::replace(&mut task.own.lock().mask, mask);
        self.offer_pending(&task.process, mask.minus(before));
        before
    }

    /// Sends a signal to one thread.
    pub fn send_to_thread(&self, task: &Arc<Task<A>>, signal: u32, info: SignalInfo) {
        let (ignored, fatal) = {
            let shared = task.process.shared.lock();
            let action = shared.actions.get(signal as usize);
            let ignored = action.is_some_and(|action| action.ignores(signal));
            (ignored, !ignored && shared.ends_at_once(signal))
        };
        {
            let mut own = task.own.lock();
            if ignored && !own.mask.has(signal) {
                return;
            }
            own.pending.add(signal, info);
            if own.mask.has(signal) {
                return;
            }
        }
        if fatal {
            self.end_process(&task.process, Status::Killed(signal));
        } else {
            self.wake_for_signal(task);
        }
    }

    /// Sends a signal that the running thread caused itself and cannot hold back: if it
    /// masks or ignores it, the process ends.
    pub fn force_signal(&self, task: &Arc<Task<A>>, signal: u32, info: SignalInfo) {
        let mut own = task.own.lock();
        let masked = own.mask.has(signal);
        match task.process.shared.lock().actions.get_mut(signal as usize) {
            Some(action) if masked || action.handler == IGNORE => action.handler = 0,
            _ => (),
        }
        own.mask = own.mask.minus(Set::of(signal));
        own.pending.add(signal, info);
    }

    /// Sends a signal as kill(2) does; signal 0 only looks whether somebody is there.
    ///
    /// # Errors
    /// `EINVAL` for a signal that does not exist, `ESRCH` if there is nobody.
    pub fn kill(&self, sender: u32, target: Target, signal: u32) -> Result<()> {
        if signal as usize >= SIGNALS {
            return Err(Errno::EINVAL);
        }
        let everyone: alloc::vec::Vec<_> = self.processes.lock().values().cloned().collect();
        let info = SignalInfo {
            code: 0,
            detail: SignalDetail::Process {
                pid: sender as i32,
                uid: 0,
                status: 0,
            },
        };
        let mut found = false;
        for process in everyone {
            let group = process.shared.lock().group;
            let chosen = match target {
                Target::Process(pid) => process.pid == pid,
                Target::Group(wanted) => group == wanted,
                Target::Everyone => process.pid != sender && process.pid != 1,
            };
            if chosen {
                found = true;
                if signal != 0 && !self.spares(&process, sender, signal) {
                    self.send_to_process(&process, signal, info);
                }
            }
        }
        if found { Ok(()) } else { Err(Errno::ESRCH) }
    }

    /// Tells whether a signal from another process would end the first one, which only
    /// itself and the terminal may do: with it the whole run ends.
    pub fn spares(&self, process: &Process<A>, sender: u32, signal: u32) -> bool {
        let action = process.shared.lock().actions[signal as usize];
        process.pid == 1 && sender > 1 && action.handler == 0
    }

    /// Delivers what is pending to the running thread: edits `frame` for handlers and
    /// marks the process for its end on fatal signals.
    pub fn deliver_signals(&self, task: &Arc<Task<A>>, frame: &mut A::Frame, mut left: Left) {
        use crate::arch::Frame;
        while let Some((signal, info)) = self.next_signal(task) {
            let action = {
                let mut shared = task.process.shared.lock();
                let Some(slot) = shared.actions.get_mut(signal as usize) else {
                    continue;
                };
                let action = *slot;
                if action.flags & SA_RESETHAND != 0 {
                    slot.handler = 0;
                }
                action
            };
            if action.ignores(signal) {
                continue;
            }
            if action.handler == 0 {
                self.log_death(task, signal, info);
                self.end_process(&task.process, Status::Killed(signal));
                return;
            }
            if left == Left::Interrupted {
                if action.flags & SA_RESTART != 0 {
                    frame.restart_syscall();
                } else {
                    frame.set_return(-(Errno::EINTR.0 as isize));
                }
                left = Left::Done;
            }
            self.call_handler(task, frame, signal, info, &action);
        }
        if left == Left::Interrupted {
            frame.restart_syscall();
        }
        let saved = task.own.lock().saved_mask.take();
        if let Some(mask) = saved {
            self.set_mask(task, mask);
        }
    }

    fn next_signal(&self, task: &Arc<Task<A>>) -> Option<(u32, SignalInfo)> {
        let mut own = task.own.lock();
        if own.ends {
            return None;
        }
        let mask = own.mask;
        own.pending
            .take(mask)
            .or_else(|| task.process.shared.lock().pending.take(mask))
    }

    fn call_handler(
        &self,
        task: &Arc<Task<A>>,
        frame: &mut A::Frame,
        signal: u32,
        info: SignalInfo,
        action: &Action,
    ) {
        let (mask, old_mask, stack) = {
            let mut own = task.own.lock();
            let old = own.saved_mask.take().unwrap_or(own.mask);
            let itself = if action.flags & SA_NODEFER == 0 {
                Set::of(signal)
            } else {
                Set(0)
            };
            let mask = own.mask.union(action.mask).union(itself).maskable();
            (mask, old, own.signal_stack)
        };
        self.set_mask(task, mask);
        let sp = frame.sp();
        let delivery = SignalDelivery {
            number: signal,
            handler: action.handler,
            restorer: if action.flags & SA_RESTORER != 0 {
                action.restorer
            } else {
                0
            },
            style: if action.flags & SA_SIGINFO != 0 {
                HandlerStyle::Info
            } else {
                HandlerStyle::Plain
            },
            old_mask: old_mask.0,
            alternate_stack: stack
                .filter(|stack| action.flags & SA_ONSTACK != 0 && !is_on(*stack, sp)),
            info,
        };
        let Some(space) = task.process.space() else {
            return;
        };
        let pushed = self.arch.push_signal(frame, &delivery, &mut |at, bytes| {
            self.write_user(&space, at, bytes).is_ok()
        });
        if pushed.is_err() {
            self.log_death(task, SIGSEGV, info);
            self.end_process(&task.process, Status::Killed(SIGSEGV));
        }
    }
}

/// Tells whether a stack pointer is on a signal stack: (base, size), in bytes. An empty one begins
/// at its end (Linux: on_sig_stack).
#[must_use]
pub fn is_on((base, size): (usize, usize), sp: usize) -> bool {
    sp > base && sp - base <= size
}

#[cfg(test)]
mod tests {
    use super::{Action, IGNORE, Pending, SIGCHLD, SIGINT, SIGKILL, SIGTERM, Set, SignalInfo};

    #[test]
    fn sets_follow_the_linux_layout() {
        assert_eq!(Set::of(1).0, 1);
        assert_eq!(Set::of(64).0, 1 << 63);
        assert_eq!(Set::of(0).union(Set::of(65)), Set(0));
        assert!(!Set(!0).maskable().has(SIGKILL));
        assert_eq!(
            Set::of(SIGTERM).union(Set::of(SIGINT)).first(),
            Some(SIGINT)
        );
    }

    #[test]
    fn the_mask_holds_signals_back() {
        let mut pending = Pending::default();
        pending.add(SIGTERM, SignalInfo::default());
        pending.add(SIGINT, SignalInfo::default());
        assert_eq!(
            pending.take(Set::of(SIGINT)).map(|(signal, _)| signal),
            Some(SIGTERM)
        );
        assert_eq!(pending.take(Set::of(SIGINT)), None);
        assert_eq!(pending.take(Set(0)).map(|(signal, _)| signal), Some(SIGINT));
    }

    #[test]
    fn defaults_ignore_the_harmless() {
        assert!(Action::default().ignores(SIGCHLD));
        assert!(!Action::default().ignores(SIGTERM));
        assert!(
            Action {
                handler: IGNORE,
                ..Action::default()
            }
            .ignores(SIGTERM)
        );
    }
}
