//! The kernel as one value: what it owns, how it starts, and the way in and out.
//!
//! ```text
//!   trap ─► user_trap ─► handle ─► (syscall | fault | exception | interrupt)
//!                            │            may sleep; returns, whatever happened
//!                            ▼
//!                          door: preempt, deliver signals, end if marked ─► user mode
//! ```
//! The *door* is the only place where a thread ends, is preempted, or gets a signal:
//! there its kernel stack owns nothing and holds no lock.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use spin::Once;

use crate::sync::Mutex;

use crate::arch::{
    Arch, Boot, Exception, FaultAccess, Interrupt, Kernel, SignalDetail, SignalInfo, Trap,
};
use crate::disk::Disk;

use crate::memory::{FileNode, MachineMemory, Outcome, Register};
use crate::sched::{Channel, Cpu, Moves};
use crate::task::signal::{self, Left, SIGALRM};
use crate::task::{Process, Status, Task};
use crate::tty::{Key, Tty};

/// The whole kernel.
pub struct System<A: Arch> {
    /// The machine.
    pub arch: &'static A,
    /// Its memory.
    pub memory: MachineMemory<A>,
    /// Each CPU's run queue.
    pub cpus: Vec<Cpu<A>>,
    /// What the scheduler did.
    pub moves: Moves,
    /// Held by who balances.
    pub balancing: Mutex<()>,
    /// The first process has ended, and with it the run: processes that come to be end at once.
    pub closing: AtomicBool,
    /// No task is left: CPUs stop looking for one.
    pub parking: AtomicBool,
    /// CPUs that have stopped.
    pub parked: AtomicUsize,
    /// Threads by number.
    pub tasks: Mutex<BTreeMap<u32, Arc<Task<A>>>>,
    /// Processes by number, zombies too.
    pub processes: Mutex<BTreeMap<u32, Arc<Process<A>>>>,
    /// Held by who looks at a futex's word and sleeps on it, and by who wakes those.
    pub futexes: Mutex<()>,
    /// The number given out last.
    pub last_number: Mutex<u32>,
    /// How the first process ended.
    pub first_status: Mutex<Option<Status>>,
    /// Held by who changes names, from the walk to the change; see [`crate::fs::tree`].
    pub names: Mutex<()>,
    /// The root directory, until the end.
    pub root: Mutex<Option<Arc<FileNode<A>>>>,
    /// Regular files by the keys of their pages.
    pub files: Register<A>,
    /// Reads under way.
    pub disk: Disk<A>,
    /// The terminal.
    pub tty: Mutex<Tty>,
    /// Ticks since boot.
    pub ticks: AtomicU64,
    /// Syscall numbers that were asked for in vain, to log each once.
    pub unknown: Mutex<Vec<usize>>,
    /// What the boot loader passed.
    pub boot: Boot,
    /// The counters at boot, to compare with at the end.
    pub at_boot: Once<crate::memory::Counts>,
}

impl<A: Arch> System<A> {
    /// Makes the kernel; nothing runs before [`System::run`].
    pub fn new(arch: &'static A, memory: MachineMemory<A>, boot: Boot) -> Self {
        let frames = memory.frames();
        let added = frames.add_cpus(&memory.cx(), A::MAX_CPUS);
        assert!(added.is_ok(), "no memory for the CPUs' caches");
        System {
            arch,
            memory,
            cpus: (0..A::MAX_CPUS).map(|_| Cpu::new()).collect(),
            moves: Moves::default(),
            balancing: Mutex::new(()),
            closing: AtomicBool::new(false),
            parking: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            tasks: Mutex::new(BTreeMap::new()),
            processes: Mutex::new(BTreeMap::new()),
            futexes: Mutex::new(()),
            last_number: Mutex::new(0),
            first_status: Mutex::new(None),
            names: Mutex::new(()),
            root: Mutex::new(None),
            files: Register::new(),
            disk: Disk::new(boot.initrd),
            tty: Mutex::new(Tty::new()),
            ticks: AtomicU64::new(0),
            unknown: Mutex::new(Vec::with_capacity(64)),
            boot,
            at_boot: Once::new(),
        }
    }

    /// Writes one line of the kernel's own to the console.
    pub fn log(&self, line: fmt::Arguments<'_>) {
        // Whole, so that the lines of several CPUs do not mix.
        let text = alloc::format!("kernel: {line}\n");
        let mut cooked = Vec::with_capacity(text.len() + 1);
        let sane = crate::tty::Termios::sane();
        Tty::cook(&sane, text.as_bytes(), |bytes| {
            cooked.extend_from_slice(bytes)
        });
        self.arch.console_write(&cooked);
    }

    /// Sends a new thread to user mode for the first time.
    #[expect(
        unsafe_code,
        reason = "Arch::enter_user has conditions; they hold here"
    )]
    pub fn first_entry(&self) -> ! {
        let task = self.current();
        let frame = task.own.lock().start.take();
        let Some(mut frame) = frame else {
            unreachable!("a thread started twice")
        };
        if task.process.space().is_none() {
            self.load_first(&task, &mut frame);
        }
        let thread: *const A::Thread = &raw const task.thread;
        drop(task);
        self.door(&mut frame, Left::Done);
        // SAFETY: the thread is the running one, which the table of tasks keeps alive;
        // this stack holds nothing but `frame`, which is plain registers.
        unsafe { self.arch.enter_user(&*thread, &frame) }
    }

    fn door(&self, frame: &mut A::Frame, left: Left) {
        self.preempt();
        let ends = {
            let task = self.current();
            self.deliver_signals(&task, frame, left);
            let ends = task.own.lock().ends;
            if ends {
                self.finish_task(&task);
            }
            ends
        };
        if ends {
            self.leave();
        }
    }

    fn fault(&self, task: &Arc<Task<A>>, address: usize, access: FaultAccess) {
        let Some(space) = task.process.space() else {
            return;
        };
        loop {
            match self.resolve_fault(&space, address, access) {
                Outcome::Resolved => return,
                Outcome::Retry if task.own.lock().ends => return,
                Outcome::Retry => (),
                Outcome::Signal(number, code) => {
                    let info = SignalInfo {
                        code,
                        detail: SignalDetail::Address(address),
                    };
                    return self.force_signal(task, number, info);
                }
                Outcome::OutOfMemory if self.relieve_memory(task) => (),
                Outcome::OutOfMemory => return,
            }
        }
    }

    fn exception(&self, task: &Arc<Task<A>>, exception: Exception, pc: usize) {
        let (number, code) = match exception {
            Exception::Arithmetic => (signal::SIGFPE, 1),
            Exception::FloatingPoint => (signal::SIGFPE, 7),
            Exception::IllegalInstruction => (signal::SIGILL, 1),
            Exception::Breakpoint => (signal::SIGTRAP, 1),
            Exception::Protection => (signal::SIGSEGV, 0x80),
            Exception::Alignment => (signal::SIGBUS, 1),
        };
        let detail = if exception == Exception::Protection {
            SignalDetail::Address(0)
        } else {
            SignalDetail::Address(pc)
        };
        self.force_signal(task, number, SignalInfo { code, detail });
    }

    fn ring_alarms(&self) {
        let now = self.arch.monotonic_ns();
        let late: Vec<_> = {
            let due = |process: &&Arc<Process<A>>| {
                process.shared.lock().alarm.is_some_and(|(at, _)| at <= now)
            };
            self.processes
                .lock()
                .values()
                .filter(due)
                .cloned()
                .collect()
        };
        for process in late {
            {
                let mut shared = process.shared.lock();
                // Another CPU may have set it anew meanwhile.
                let Some((_, every)) = shared.alarm.filter(|(at, _)| *at <= now) else {
                    continue;
                };
                shared.alarm = (every != 0).then_some((now.saturating_add(every), every));
            }
            self.send_to_process(&process, SIGALRM, SignalInfo::default());
        }
    }

    fn take_keys(&self) {
        while let Some(byte) = self.arch.console_read() {
            let (key, group) = {
                let mut tty = self.tty.lock();
                (
                    tty.input(byte, |echo| self.arch.console_write(echo)),
                    tty.group,
                )
            };
            let signal = match key {
                Key::Plain => 0,
                Key::Interrupt => signal::SIGINT,
                Key::Quit => signal::SIGQUIT,
            };
            if signal != 0 {
                let _ = self.kill(0, signal::Target::Group(group), signal);
            }
        }
        self.wake(Channel::Terminal);
    }
}

impl<A: Arch> Kernel<A> for System<A> {
    fn user_trap(&self, frame: &mut A::Frame, trap: Trap) {
        let left = {
            let task = self.current();
            match trap {
                Trap::Syscall => crate::syscall::enter(&task, frame),
                Trap::Call => {
                    use crate::arch::Frame;
                    if crate::syscall::enter_by_jump(&task, frame).is_err() {
                        self.fault(&task, frame.pc(), FaultAccess::Execute);
                    }
                    Left::Done
                }
                Trap::Fault { address, access } => {
                    self.fault(&task, address, access);
                    Left::Done
                }
                Trap::Exception(exception) => {
                    use crate::arch::Frame;
                    self.exception(&task, exception, frame.pc());
                    Left::Done
                }
                Trap::Interrupt(interrupt) => {
                    if interrupt == Interrupt::Tick {
                        self.count_user_tick();
                    }
                    self.interrupt(interrupt);
                    Left::Done
                }
            }
        };
        self.door(frame, left);
    }

    fn interrupt(&self, interrupt: Interrupt) {
        match interrupt {
            Interrupt::Tick => {
                if self.arch.cpu() == 0 {
                    let now = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
                    self.finish_reads(now);
                    self.wake_late();
                    self.ring_alarms();
                }
                self.count_tick();
            }
            Interrupt::Input => self.take_keys(),
            Interrupt::Other => (),
        }
    }

    fn run_secondary(&'static self) -> ! {
        self.idle_secondary()
    }
}
