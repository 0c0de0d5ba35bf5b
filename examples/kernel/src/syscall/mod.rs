//! System calls: from registers to methods of [`Call`], and back.
//!
//! A call gets words and answers a word or an [`Errno`]. Words that are addresses go
//! through [`Call::get`], [`Call::put`] and their kin, which go through the address
//! space: a bad one is EFAULT, never more. A call that a signal cuts short answers
//! [`Errno::RESTART`]; the door then decides between EINTR and starting it again.

pub mod abi;
pub mod files;
pub mod futex;
pub mod identity;
pub mod info;
pub mod io;
pub mod memfd;
pub mod memory;
pub mod names;
pub mod paths;
pub mod poll;
pub mod process;
pub mod record;
pub mod resident;
pub mod signals;
pub mod stat;
pub mod terminal;
pub mod time;

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::arch::{Arch, Frame, PrivateSyscall};
use crate::errno::{Errno, Result};
use crate::fs::open::OpenFile;
use crate::limits::PATH_BYTES;
use crate::memory::Space;
use crate::system::System;
use crate::task::Task;
use crate::task::signal::Left;
use names::Name;
use record::Record;
use time::Form;

/// One system call under way.
pub struct Call<'a, A: Arch> {
    /// The kernel.
    pub system: &'static System<A>,
    /// Who calls.
    pub task: &'a Arc<Task<A>>,
    /// The caller's registers.
    pub frame: &'a mut A::Frame,
}

/// Runs the system call that `frame` asks for.
pub fn enter<A: Arch>(task: &Arc<Task<A>>, frame: &mut A::Frame) -> Left {
    let (number, arguments) = (frame.syscall_number(), frame.arguments());
    let mut call = Call {
        system: task.system,
        task,
        frame,
    };
    let result = match names::lookup(A::SYSCALL_ABI, number) {
        Some(name) => call.run(name, arguments),
        None => call.other(),
    };
    match result {
        Ok(value) => frame.set_return(value as isize),
        Err(Errno::RESTART) => return Left::Interrupted,
        Err(error) => frame.set_return(-(error.0 as isize)),
    }
    Left::Done
}

/// Runs the system call that `frame` asks for by a jump to a fixed address ([`Trap::Call`]), with
/// the place to go on at on its stack. A bad address there, or among its arguments, is no error
/// for it to hear of but a fault.
///
/// [`Trap::Call`]: crate::arch::Trap::Call
///
/// # Errors
/// `EFAULT`; the frame is as before.
pub fn enter_by_jump<A: Arch>(task: &Arc<Task<A>>, frame: &mut A::Frame) -> Result<()> {
    let (number, arguments, sp) = (frame.syscall_number(), frame.arguments(), frame.sp());
    let mut call = Call {
        system: task.system,
        task,
        frame,
    };
    let caller = call.get_word(sp)?;
    let name = names::lookup(A::SYSCALL_ABI, number).ok_or(Errno::EFAULT)?;
    let value = match call.run(name, arguments) {
        Err(Errno::EFAULT) => return Err(Errno::EFAULT),
        Err(error) => -(error.0 as isize),
        Ok(value) => value as isize,
    };
    frame.set_pc(caller);
    frame.set_sp(sp.wrapping_add(Call::<A>::WORD));
    frame.set_return(value);
    Ok(())
}

/// Answers an offset in the register of the result.
fn as_word(value: u64) -> Result {
    match isize::try_from(value) {
        Ok(_) => Ok(value as usize),
        Err(_) => Err(Errno::EOVERFLOW),
    }
}

/// The working directory, as the `at` calls name it.
pub const AT_FDCWD: usize = -100_i32 as usize;

impl<A: Arch> Call<'_, A> {
    fn other(&mut self) -> Result {
        match self.frame.private_syscall() {
            PrivateSyscall::Return(value) if value < 0 => Err(Errno(value.unsigned_abs() as i32)),
            PrivateSyscall::Return(value) => Ok(value as usize),
            PrivateSyscall::Store { address, value } => {
                self.put_words(address, [value]).map(|()| 0)
            }
            PrivateSyscall::SyncCode { start, end } => self.sync_code(start, end),
            PrivateSyscall::Unknown => Err(self.not_offered()),
        }
    }

    /// Answers the error of a call that this kernel does not have, and says so once for each.
    fn not_offered(&self) -> Errno {
        let number = self.frame.syscall_number();
        let mut unknown = self.system.unknown.lock();
        if !unknown.contains(&number) && unknown.len() < unknown.capacity() {
            unknown.push(number);
            self.system.log(format_args!(
                "no syscall {number} (asked by {})",
                self.task.process.name()
            ));
        }
        Errno::ENOSYS
    }

    #[rustfmt::skip]
    fn run(&mut self, name: Name, arguments: [usize; 6]) -> Result {
        let [a, b, c, d, e, f] = arguments;
        let wide = |at| abi::wide(A::SYSCALL_ABI, arguments, at);
        match name {
            // Descriptors and bytes: io.rs, files.rs, poll.rs, terminal.rs
            Name::Read => self.read(a, b, c),
            Name::Write => self.write(a, b, c),
            Name::Pread => self.pread(a, b, c, wide(3)),
            Name::Pwrite => self.pwrite(a, b, c, wide(3)),
            Name::Readv => self.readv(a, b, c),
            Name::Writev => self.writev(a, b, c),
            Name::Sendfile => self.sendfile(a, b, c, d, Self::WORD),
            Name::Sendfile64 => self.sendfile(a, b, c, d, 8),
            Name::Lseek => self.lseek(a, b as isize as i64, c).and_then(as_word),
            Name::Llseek => self.llseek(a, (b as u64) << 32 | c as u64, d, e),
            Name::Open => self.openat(AT_FDCWD, a, b, c),
            Name::Openat => self.openat(a, b, c, d),
            Name::Creat => self.openat(AT_FDCWD, a, 0o1101, b),
            Name::MemfdCreate => self.memfd_create(a, b),
            Name::Close => self.close(a),
            Name::Dup => self.dup(a),
            Name::Dup2 => self.dup2(a, b),
            Name::Dup3 => self.dup3(a, b, c),
            Name::Fcntl | Name::Fcntl64 => self.fcntl(a, b, c),
            Name::Pipe => self.pipe2(a, 0),
            Name::Pipe2 => self.pipe2(a, b),
            Name::Ioctl => self.ioctl(a, b, c),
            Name::Poll => self.poll(a, b, c),
            Name::Ppoll => self.ppoll(a, b, (c, Form::Word), d),
            Name::PpollTime64 => self.ppoll(a, b, (c, Form::Wide), d),
            Name::Select => self.select(a, [b, c, d], e),
            Name::Pselect6 => self.pselect6(a, [b, c, d], (e, Form::Word), f),
            Name::Pselect6Time64 => self.pselect6(a, [b, c, d], (e, Form::Wide), f),
            Name::Getdents64 => self.getdents64(a, b, c),
            Name::Truncate => self.truncate(a, wide(1)),
            Name::Ftruncate => self.ftruncate(a, wide(1)),
            Name::TruncateWord => self.truncate(a, b as isize as i64 as u64),
            Name::FtruncateWord => self.ftruncate(a, b as isize as i64 as u64),
            Name::Flock | Name::Fsync | Name::Fdatasync | Name::Fadvise => self.file(a).map(|_| 0),
            Name::Sync => Ok(0),
            // Names: paths.rs, stat.rs
            Name::Stat => self.newfstatat(AT_FDCWD, a, b, 0),
            Name::Lstat => self.newfstatat(AT_FDCWD, a, b, stat::AT_SYMLINK_NOFOLLOW),
            Name::Fstat => self.fstat(a, b),
            Name::Newfstatat => self.newfstatat(a, b, c, d),
            Name::Statx => self.statx(a, b, c, e),
            Name::Statfs => self.statfs(a, b),
            Name::Fstatfs => self.fstatfs(a, b),
            Name::Statfs64 => self.statfs(a, c),
            Name::Fstatfs64 => self.fstatfs(a, c),
            Name::Access => self.faccessat(AT_FDCWD, a, b),
            Name::Faccessat | Name::Faccessat2 => self.faccessat(a, b, c),
            Name::Readlink => self.readlinkat(AT_FDCWD, a, b, c),
            Name::Readlinkat => self.readlinkat(a, b, c, d),
            Name::Getcwd => self.getcwd(a, b),
            Name::Chdir => self.chdir(a),
            Name::Fchdir => self.fchdir(a),
            Name::Mkdir => self.mkdirat(AT_FDCWD, a, b),
            Name::Mkdirat => self.mkdirat(a, b, c),
            Name::Rmdir => self.unlinkat(AT_FDCWD, a, paths::AT_REMOVEDIR),
            Name::Unlink => self.unlinkat(AT_FDCWD, a, 0),
            Name::Unlinkat => self.unlinkat(a, b, c),
            Name::Rename => self.renameat(AT_FDCWD, a, AT_FDCWD, b, 0),
            Name::Renameat => self.renameat(a, b, c, d, 0),
            Name::Renameat2 => self.renameat(a, b, c, d, e),
            Name::Link => self.linkat(AT_FDCWD, a, AT_FDCWD, b, 0),
            Name::Linkat => self.linkat(a, b, c, d, e),
            Name::Symlink => self.symlinkat(a, AT_FDCWD, b),
            Name::Symlinkat => self.symlinkat(a, b, c),
            Name::Chmod => self.fchmodat(AT_FDCWD, a, b),
            Name::Fchmodat => self.fchmodat(a, b, c),
            Name::Fchmod => self.fchmod(a, b),
            Name::Chown => self.fchownat(AT_FDCWD, a, b, c, 0),
            Name::Lchown => self.fchownat(AT_FDCWD, a, b, c, stat::AT_SYMLINK_NOFOLLOW),
            Name::Fchownat => self.fchownat(a, b, c, d, e),
            Name::Fchown => self.fchown(a, b, c),
            Name::Utimensat => self.utimensat(a, b, (c, Form::Word), d),
            Name::Utimensat64 => self.utimensat(a, b, (c, Form::Wide), d),
            Name::Umask => self.umask(a),
            // Memory: memory.rs, resident.rs
            Name::Mmap => self.mmap(a, b, c, d, e, f as u64),
            // In units of 4 KiB, whatever the page size is.
            Name::Mmap2 => self.mmap(a, b, c, d, e, (f as u64) << 12),
            Name::Munmap => self.munmap(a, b),
            Name::Mprotect => self.mprotect(a, b, c),
            Name::Brk => self.brk(a),
            Name::Madvise => self.madvise(a, b, c),
            Name::Mremap => self.mremap((a, b), c, d, e),
            Name::Mseal => self.mseal(a, b, c),
            Name::Membarrier => Err(self.not_offered()),
            Name::Msync => self.msync(a, b, c),
            Name::RemapFilePages => self.remap_file_pages((a, b), c, d, e),
            Name::Mincore => self.mincore(a, b, c),
            Name::Mlock => self.mlock(a, b, 0),
            Name::Mlock2 => self.mlock(a, b, c),
            Name::Munlock => self.munlock(a, b),
            Name::Mlockall => self.mlockall(a),
            Name::Munlockall => self.munlockall(),
            // Processes and threads: process.rs, futex.rs, identity.rs
            Name::Fork => self.fork(),
            Name::Vfork => self.vfork(),
            Name::Clone => self.clone_call(a, b, c, d, e),
            Name::Execve => self.execve(a, b, c),
            Name::Exit => self.exit(a),
            Name::ExitGroup => self.exit_group(a),
            Name::Wait4 => self.wait4(a, b, c, d),
            Name::Waitid => self.waitid(a, b, (c, e), d),
            Name::SetTidAddress => self.set_tid_address(a),
            Name::SetRobustList => self.set_robust_list(a, b),
            Name::Futex => self.futex(a, b, c, (d, Form::Word), e, f),
            Name::FutexTime64 => self.futex(a, b, c, (d, Form::Wide), e, f),
            Name::SchedYield => self.sched_yield(),
            Name::SchedGetaffinity => self.sched_getaffinity(b, c),
            Name::SchedSetaffinity => self.sched_setaffinity(b, c),
            Name::Getpid => Ok(self.task.process.pid as usize),
            Name::Gettid => Ok(self.task.tid() as usize),
            Name::Getppid => self.getppid(),
            Name::Getpgrp => self.getpgid(0),
            Name::Getpgid => self.getpgid(a),
            Name::Setpgid => self.setpgid(a, b),
            Name::Getsid => self.getsid(a),
            Name::Setsid => self.setsid(),
            Name::Getuid | Name::Getgid | Name::Geteuid | Name::Getegid | Name::Getgroups => Ok(0),
            Name::Setuid | Name::Setgid => self.set_identity([a, a, a]),
            Name::Setresuid | Name::Setresgid => self.set_identity([a, b, c]),
            Name::Setgroups => self.setgroups(a, b),
            Name::Getresuid | Name::Getresgid => self.get_identity([a, b, c]),
            Name::Prctl => self.prctl(a, [b, c, d, e]),
            Name::Getrlimit => self.prlimit(0, a, (0, b), Form::Word),
            Name::Setrlimit => self.prlimit(0, a, (b, 0), Form::Word),
            Name::Prlimit64 => self.prlimit(a, b, (c, d), Form::Wide),
            // Signals: signals.rs
            Name::RtSigaction => self.rt_sigaction(a, b, c, d),
            Name::RtSigprocmask => self.rt_sigprocmask(a, b, c, d),
            // Which of the two it is, and so which frame is on the stack, the number tells.
            Name::RtSigreturn | Name::Sigreturn => self.rt_sigreturn(),
            Name::RtSigpending => self.rt_sigpending(a),
            Name::RtSigsuspend => self.rt_sigsuspend(a, b),
            Name::Sigaltstack => self.sigaltstack(a, b),
            Name::Pause => self.pause(),
            Name::Kill => self.kill(a, b),
            Name::Tkill => self.tgkill(0, a, b),
            Name::Tgkill => self.tgkill(a, b, c),
            // Time: time.rs
            Name::Nanosleep => self.nanosleep(a, b),
            Name::ClockNanosleep => self.clock_nanosleep(a, b, c, d, Form::Word),
            Name::ClockNanosleep64 => self.clock_nanosleep(a, b, c, d, Form::Wide),
            Name::ClockGettime => self.clock_gettime(a, b, Form::Word),
            Name::ClockGettime64 => self.clock_gettime(a, b, Form::Wide),
            Name::ClockGetres => self.clock_getres(b, Form::Word),
            Name::ClockGetres64 => self.clock_getres(b, Form::Wide),
            Name::Gettimeofday => self.gettimeofday(a, b),
            Name::Time => self.time(a),
            Name::Times => self.times(a),
            Name::Alarm => self.alarm(a),
            Name::Setitimer => self.setitimer(a, b, c),
            // The machine: info.rs
            Name::Uname => self.uname(a),
            Name::Sysinfo => self.sysinfo(a),
            Name::Getrandom => self.getrandom(a, b),
            Name::Getrusage => self.getrusage(a, b),
            Name::Getcpu => self.getcpu(a, b),
        }
    }

    /// Answers the caller's address space.
    pub(crate) fn space(&self) -> Result<Arc<Space<A>>> {
        self.task.process.space().ok_or(Errno::ESRCH)
    }

    /// Answers the open file of a descriptor. As in Linux, only 32 bits count.
    pub(crate) fn file(&self, fd: usize) -> Result<Arc<OpenFile<A>>> {
        self.task
            .process
            .files()?
            .lock()
            .get(fd as u32 as usize)
            .cloned()
    }

    /// Copies bytes to the program.
    pub(crate) fn put(&self, address: usize, bytes: &[u8]) -> Result<()> {
        self.system.write_user(&*self.space()?, address, bytes)
    }

    /// Copies bytes from the program.
    pub(crate) fn get_into(&self, address: usize, bytes: &mut [u8]) -> Result<()> {
        self.system.read_user(&*self.space()?, address, bytes)
    }

    /// Copies a small structure from the program.
    pub(crate) fn get<const N: usize>(&self, address: usize) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.get_into(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Bytes of the program's words.
    pub(crate) const WORD: usize = A::SYSCALL_ABI.word_bytes();

    /// Copies a word from the program.
    pub(crate) fn get_word(&self, address: usize) -> Result<usize> {
        let mut bytes = [0; 8];
        self.get_into(address, &mut bytes[..Self::WORD])?;
        Ok(u64::from_le_bytes(bytes) as usize)
    }

    /// Copies word `index` of an array from the program.
    pub(crate) fn get_nth(&self, array: usize, index: usize) -> Result<usize> {
        self.get_word(array.wrapping_add(index.wrapping_mul(Self::WORD)))
    }

    /// Copies words to the program, one after the other.
    pub(crate) fn put_words<const N: usize>(
        &self,
        address: usize,
        words: [usize; N],
    ) -> Result<()> {
        let mut record = Record::<256>::new(A::SYSCALL_ABI);
        record.words(words.map(|word| word as u64));
        self.put(address, record.bytes())
    }

    /// Copies a path from the program.
    pub(crate) fn path(&self, address: usize) -> Result<Vec<u8>> {
        self.system
            .read_user_string(&*self.space()?, address, PATH_BYTES)
            .map_err(|error| {
                if error == Errno::E2BIG {
                    Errno::ENAMETOOLONG
                } else {
                    error
                }
            })
    }
}
