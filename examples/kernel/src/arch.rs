//! What the portable kernel asks of an architecture, and what it offers to it.
//!
//! ```text
//!            kernel-x86_64 (boot, traps, timer, console, Platform)
//!   calls │  Kernel::{user_trap, interrupt}          ▲ implements
//!         ▼                                          │ Arch, Frame
//!            mm-kernel (processes, scheduler, syscalls, files)
//! ```
//!
//! # Protocol
//!
//! * **Kernel mode runs with interrupts off.** Interrupts are taken in user mode
//!   and inside [`Arch::wait_for_interrupt`] and [`Arch::poll_interrupts`], nowhere
//!   else. So the portable part is never entered twice on one CPU, user mode is
//!   preempted at every tick, and a long loop in the kernel offers a window with
//!   `poll_interrupts`.
//! * **Traps run on the kernel stack of the running thread.** The user's registers,
//!   its stack pointer first of all, are saved in a [`Frame`] at the top of that
//!   stack; [`Kernel::user_trap`] may read and edit the frame, may block (that is,
//!   [`Arch::switch`] away and come back later), and its return restores the frame.
//!   It may also never return: `exec` and `exit` end in [`Arch::enter_user`] or in a
//!   last `switch`.
//! * **Every CPU is like the first**: its own kernel stack, traps, timer tick. CPU 0 starts the
//!   others ([`Arch::start_cpus`]); each ends its start in [`Kernel::run_secondary`]. What is done
//!   once a tick for the machine (reads of the disk, alarms) CPU 0 does. Console input may be
//!   announced on any CPU.
//! * **Whoever waits in the kernel serves flushes**: see [`crate::sync`]. An architecture whose
//!   CPUs must answer each other's flushes gives [`crate::sync::serve_with`] the function that
//!   does it, has `Platform::relax` call it too, and locks with [`crate::sync::Mutex`] only.
//! * **A new thread starts in a kernel function** and reaches user mode with
//!   `enter_user`: fork's child with a clone of its parent's frame whose return value
//!   is 0, exec with [`Frame::new`].
//! * **User memory is never touched here.** Where a trap needs user memory (signal
//!   frames) the caller passes a closure that goes through `AddressSpace`.
//!
//! # States of a thread's registers
//!
//! | where the thread is | user registers | kernel registers | FP/SIMD state |
//! |---|---|---|---|
//! | in user mode | in the CPU | none | in the CPU |
//! | in the kernel, running | frame on its kernel stack | in the CPU | in the CPU |
//! | switched out | frame on its kernel stack | in `Arch::Thread` | in `Arch::Thread` |

pub use crate::syscall::names::SyscallAbi;

/// What the portable kernel needs from one architecture.
///
/// An instance, not a set of static hooks: a host test can make its own. Everything that
/// belongs to a CPU is named by [`Arch::cpu`].
pub trait Arch: Sync + Sized + 'static {
    /// What `mm-core` runs on.
    type Platform: mm_core::platform::Platform;

    /// The saved user registers.
    type Frame: Frame;

    /// The kernel side of one thread: its kernel stack, its saved kernel registers,
    /// its FP/SIMD state. Dropping it frees the stack, so a thread that ends is
    /// dropped by whoever runs after it.
    type Thread: Send + Sync + 'static;

    /// `e_machine` of the ELF files that run here.
    const ELF_MACHINE: u16;

    /// The machine's name as `uname -m` prints it, also used for `AT_PLATFORM`.
    const MACHINE: &'static str;

    /// Which syscall numbers and structure layouts user programs use.
    const SYSCALL_ABI: SyscallAbi;

    /// log2 of the page size, as the platform's page-table format has it.
    const PAGE_SHIFT: u32;

    /// First address that user memory may use, in bytes.
    const USER_START: usize;

    /// The page, outside user memory, in which programs call the kernel by jumping to fixed
    /// addresses ([`Trap::Call`]), where the architecture has one. Nothing is mapped there.
    const CALL_PAGE: Option<usize> = None;

    /// Timer interrupts per second.
    const TICKS_PER_SECOND: u64;

    /// Upper bound of [`Arch::cpu`]: the length of per-CPU arrays.
    const MAX_CPUS: usize;

    /// Returns the first address above what programs get, in bytes: above the stack, and above
    /// what mmap chooses. It depends on the page tables that the machine runs with.
    fn user_end(&self) -> usize;

    // ---- CPU and time -------------------------------------------------------

    /// Names the running CPU: `0..MAX_CPUS`, without gaps; 0 is the one that booted.
    fn cpu(&self) -> usize;

    /// Starts the machine's other CPUs, as many as there may be, and returns when each has
    /// its own stack, traps and tick and is about to call [`Kernel::run_secondary`]: what a
    /// start allocates is allocated by then. Called once, by CPU 0, after the kernel was
    /// registered for traps. A CPU that does not come up is left out, with a message.
    fn start_cpus(&self) {}

    /// Interrupts another CPU: ends its [`Arch::wait_for_interrupt`], or brings it from user
    /// mode to the kernel's door ([`Interrupt::Other`]). A CPU that is in the kernel takes the
    /// interrupt later, as soon as it lets interrupts in.
    fn kick(&self, _cpu: usize) {}

    /// Counts the flushes that reached other CPUs, for the summary.
    fn remote_flushes(&self) -> usize {
        0
    }

    /// Lets interrupts in, sleeps until at least one was handled, and shuts them
    /// again. The idle loop's body: the CPU halts. An interrupt that is pending
    /// already ends the sleep, so none is lost between the caller's look for work
    /// and the halt.
    fn wait_for_interrupt(&self);

    /// Handles the interrupts that are pending now, without waiting.
    fn poll_interrupts(&self);

    /// Reads the time since boot, in nanoseconds. Never goes backwards.
    fn monotonic_ns(&self) -> u64;

    /// Reads the wall-clock time of boot, in seconds since 1970 (0 if unknown).
    fn boot_time(&self) -> u64;

    /// Fills `bytes` with random data, from hardware where it exists, otherwise from
    /// a generator seeded by the clock.
    fn random(&self, bytes: &mut [u8]);

    /// Values for the auxiliary vector's `AT_HWCAP` and `AT_HWCAP2`.
    fn hardware_capabilities(&self) -> (usize, usize);

    /// Gives back memory that the kernel's heap keeps only for speed: before frames are
    /// counted.
    fn drain_heap(&self);

    /// Counts the frames of the kernel's heap that hold something.
    fn heap_frames(&self) -> usize;

    // ---- Console and power --------------------------------------------------

    /// Writes bytes to the console, waiting for the device where it must.
    fn console_write(&self, bytes: &[u8]);

    /// Takes one byte of console input, if there is one. [`Interrupt::Input`]
    /// announces input.
    fn console_read(&self) -> Option<u8>;

    /// Switches the machine off and reports `outcome` to whoever started it.
    fn power_off(&self, outcome: Outcome) -> !;

    // ---- Threads ------------------------------------------------------------

    /// Makes a thread that will call `entry(argument)` on a fresh kernel stack when it
    /// is first switched to. Its FP/SIMD state is the architecture's initial state.
    /// `None` when there is no memory for the stack.
    ///
    /// `entry` never returns; it starts with interrupts off, like all kernel code.
    fn new_thread(&self, entry: extern "C" fn(usize) -> !, argument: usize)
    -> Option<Self::Thread>;

    /// Makes a handle for the thread that is running now on the boot stack, so that
    /// it can be switched away from: each CPU's idle thread. Called once a CPU.
    fn boot_thread(&self) -> Self::Thread;

    /// Saves the running thread in `from` and continues `to`. Returns when somebody
    /// switches back to `from`.
    ///
    /// # Safety
    ///
    /// `from` is the running thread of this CPU, `to` is a different thread which runs
    /// on no CPU, and both stay alive until they are switched away from again.
    unsafe fn switch(&self, from: &Self::Thread, to: &Self::Thread);

    /// Leaves the kernel: loads `frame` and continues in user mode. What is on the
    /// kernel stack is forgotten, not dropped.
    ///
    /// # Safety
    ///
    /// `current` is the running thread, made by [`Arch::new_thread`], and nothing that
    /// is still needed lives on its kernel stack (hold no locks, own no handles).
    unsafe fn enter_user(&self, current: &Self::Thread, frame: &Self::Frame) -> !;

    /// Copies the FP/SIMD state of the running thread into `child` (fork, clone).
    fn copy_fp_state(&self, child: &Self::Thread);

    /// Gives the running thread the initial FP/SIMD state (exec).
    fn reset_fp_state(&self);

    /// Makes the page table with this root the CPU's, and drops what is remembered under
    /// its tag if that is stale.
    ///
    /// # Safety
    ///
    /// The table maps the kernel half as every table of this machine does, and it stays
    /// alive until another root is loaded on this CPU.
    unsafe fn load_root(&self, root: mm_core::space::Root);

    /// Makes what a program wrote to a page of the loaded table visible to its fetches. The page
    /// is there and young. Called for [`PrivateSyscall::SyncCode`] only, which architectures have
    /// whose programs cannot do it themselves.
    fn sync_user_page(&self, _page: usize) {}

    // ---- Signals ------------------------------------------------------------

    /// Builds a signal frame on the user's stack and edits `frame` so that user mode
    /// continues in the handler, which ends in `rt_sigreturn`.
    ///
    /// `write(address, bytes)` stores into user memory and answers whether all of it
    /// could be stored.
    ///
    /// # Errors
    ///
    /// [`BadFrame`] when the stack cannot be written; `frame` is as before and the
    /// caller kills the process with SIGSEGV.
    fn push_signal(
        &self,
        frame: &mut Self::Frame,
        delivery: &SignalDelivery,
        write: &mut dyn FnMut(usize, &[u8]) -> bool,
    ) -> Result<(), BadFrame>;

    /// Undoes [`Arch::push_signal`] (`rt_sigreturn`): reads the signal frame from the
    /// user's stack, restores the registers in `frame` and answers the signal mask to
    /// restore. Whatever the user wrote into the frame, it never gains a right.
    ///
    /// # Errors
    ///
    /// [`BadFrame`] when the signal frame cannot be read or is malformed.
    fn pop_signal(
        &self,
        frame: &mut Self::Frame,
        read: &mut dyn FnMut(usize, &mut [u8]) -> bool,
    ) -> Result<SignalReturn, BadFrame>;
}

/// The user registers, saved at the top of the thread's kernel stack.
///
/// Setters take any value that a user program can ask for; what would be dangerous to
/// load (an address outside user space, privileged flags) makes the program fault, not
/// the kernel.
pub trait Frame: Clone + Send + 'static {
    /// Makes the registers of a program that starts at `pc` with stack pointer `sp`;
    /// all others are zero.
    fn new(pc: usize, sp: usize) -> Self;

    /// Number of the syscall this frame asks for.
    fn syscall_number(&self) -> usize;

    /// The six syscall arguments.
    fn arguments(&self) -> [usize; 6];

    /// Sets the value that the syscall returns: a result or a negative errno.
    fn set_return(&mut self, value: isize);

    /// Reads back the value of [`Frame::set_return`].
    fn return_value(&self) -> isize;

    /// Makes user mode execute the syscall instruction again, with the same number and
    /// arguments (SA_RESTART).
    fn restart_syscall(&mut self);

    /// Where user mode continues.
    fn pc(&self) -> usize;

    /// Sets where user mode continues.
    fn set_pc(&mut self, pc: usize);

    /// The user's stack pointer.
    fn sp(&self) -> usize;

    /// Sets the user's stack pointer (clone with a stack).
    fn set_sp(&mut self, sp: usize);

    /// Sets the thread pointer (CLONE_SETTLS).
    fn set_tls(&mut self, tls: usize);

    /// Answers a syscall that only this architecture has (`arch_prctl` on x86_64,
    /// `set_tls` on Arm). The portable part tries this for numbers that its table does
    /// not know.
    fn private_syscall(&mut self) -> PrivateSyscall;
}

/// What a syscall that only one architecture has asks the portable part to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateSyscall {
    /// There is no such syscall here: answer ENOSYS.
    Unknown,
    /// It is done; this is its return value.
    Return(isize),
    /// Store the word `value` at the user address `address`, then return 0 (or EFAULT).
    Store {
        /// User address, in bytes.
        address: usize,
        /// The word to store.
        value: usize,
    },
    /// Make what the program wrote at `start..end` visible to its fetches
    /// ([`Arch::sync_user_page`]), then return 0 (or EFAULT).
    SyncCode {
        /// First user address, in bytes.
        start: usize,
        /// First user address behind.
        end: usize,
    },
}

/// What the architecture calls: implemented by the portable kernel, registered before
/// the first interrupt.
pub trait Kernel<A: Arch>: Sync {
    /// Handles a trap from user mode, on the running thread's kernel stack. User mode
    /// continues with `frame` when it returns.
    fn user_trap(&self, frame: &mut A::Frame, trap: Trap);

    /// Handles an interrupt that came while the kernel let interrupts in. It runs inside
    /// [`Arch::wait_for_interrupt`] or [`Arch::poll_interrupts`] of some thread: it notes
    /// what happened and wakes threads, and never switches.
    fn interrupt(&self, interrupt: Interrupt);

    /// The life of a CPU that [`Arch::start_cpus`] started, on that CPU's own boot stack with
    /// interrupts off: its idle loop, to which it comes back whenever it has no thread to run.
    fn run_secondary(&'static self) -> !;
}

/// Why user mode entered the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A system call; number and arguments are in the frame.
    Syscall,
    /// A system call by a jump to a fixed address ([`Arch::CALL_PAGE`]); number and arguments are
    /// in the frame, the place to go on at is on the stack.
    Call,
    /// A page fault.
    Fault {
        /// The address that could not be reached, in bytes.
        address: usize,
        /// What the program tried.
        access: FaultAccess,
    },
    /// Any other exception that the program caused.
    Exception(Exception),
    /// An interrupt that came in user mode: handle it, then perhaps preempt.
    Interrupt(Interrupt),
}

/// What a faulting instruction tried to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAccess {
    /// Load data.
    Read,
    /// Store data.
    Write,
    /// Fetch an instruction.
    Execute,
}

/// A device wants attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// The timer: one tick of `1 / TICKS_PER_SECOND` seconds has passed.
    Tick,
    /// The console has input; read it with [`Arch::console_read`] until it is empty.
    Input,
    /// Nothing to do now: spurious, handled already, or a [kick](Arch::kick), after which the
    /// door and the idle loop look by themselves.
    Other,
}

/// A program's mistake, named by what POSIX makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// SIGFPE: integer division by zero or overflow.
    Arithmetic,
    /// SIGFPE: floating point.
    FloatingPoint,
    /// SIGILL.
    IllegalInstruction,
    /// SIGTRAP.
    Breakpoint,
    /// SIGSEGV without an address (SI_KERNEL): privileged instruction, non-canonical address.
    Protection,
    /// SIGBUS: misaligned access.
    Alignment,
}

/// How the run ended, for [`Arch::power_off`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All went well.
    Success,
    /// A program or the kernel failed.
    Failure,
}

/// One signal on its way to a handler.
#[derive(Clone, Debug)]
pub struct SignalDelivery {
    /// Signal number, from 1.
    pub number: u32,
    /// Address of the handler.
    pub handler: usize,
    /// `sa_restorer`: where the handler returns to; 0 where the program named none.
    pub restorer: usize,
    /// `sa_flags` had SA_SIGINFO. (The frame is the same; kept for other ABIs.)
    pub style: HandlerStyle,
    /// The signal mask to restore after the handler.
    pub old_mask: u64,
    /// The stack to use when it is not the current one: (base, size), in bytes.
    pub alternate_stack: Option<(usize, usize)>,
    /// `siginfo_t`.
    pub info: SignalInfo,
}

/// Which arguments the handler expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandlerStyle {
    /// `void handler(int)`.
    Plain,
    /// `void handler(int, siginfo_t *, void *)`.
    Info,
}

/// The parts of `siginfo_t` that the kernel fills in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalInfo {
    /// `si_code`.
    pub code: i32,
    /// The union after the header.
    pub detail: SignalDetail,
}

/// The union inside `siginfo_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignalDetail {
    /// Nothing.
    #[default]
    None,
    /// Sent by a process, or about a child.
    Process {
        /// `si_pid`.
        pid: i32,
        /// `si_uid`.
        uid: u32,
        /// `si_status`.
        status: i32,
    },
    /// About an address.
    Address(usize),
}

/// What [`Arch::pop_signal`] found in the signal frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalReturn {
    /// The signal mask to restore.
    pub mask: u64,
}

/// A signal frame that cannot be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

/// What the boot loader passed, as the architecture hands it to the portable kernel.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// The kernel's command line (`script=/path`, `shell`, `argv=/path`).
    pub command_line: &'static str,
    /// The initial file system: a cpio archive (newc), or empty.
    pub initrd: &'static [u8],
}
