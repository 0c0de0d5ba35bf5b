//! What leads each system call to its pointers: a row for each call of the kernel's own table, with
//! a line for each pointer that it takes. All else in a line is valid, so that nothing but the wild
//! pointer stops the call.
//!
//! The match has no arm for the rest: with a new call in the kernel's table (it is the same file)
//! this program does not compile until the call has a row.

use programs::names::Name;

use Arg::{Child, Executable, File, Holder, Value as V, Wild, WildWord, Zeros};

/// An argument of a line.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A number, such as a descriptor or a length.
    Value(usize),
    /// The wild pointer.
    Wild,
    /// The wild pointer, aligned as a word.
    WildWord,
    /// The address of the wild pointer, with an 8 behind it and zeros after that: an I/O vector, a
    /// mask with its size, the strings of exec.
    Holder,
    /// A page of zeros.
    Zeros,
    /// The name of a file that can be written.
    File,
    /// The name of a link to a program.
    Executable,
    /// The number of a child that ends.
    Child,
}

/// Arguments of a call; those that are missing are 0.
pub type Line = &'static [Arg];

/// The terminal.
const TERMINAL: Arg = V(1);
/// The root directory, a file, and both ends of a pipe with bytes in it.
const ROOT: Arg = V(3);
const FILE: Arg = V(4);
const READER: Arg = V(5);
const WRITER: Arg = V(6);

/// Takes no pointer, or one that is not followed: the range of a mapping (bad-maps has those), a
/// word that is cleared when the thread ends, what a clone leaves in memory.
const NONE: &[Line] = &[];

/// Returns the lines of a call.
#[rustfmt::skip]
pub const fn of(name: Name) -> &'static [Line] {
    match name {
        Name::Read | Name::Pread => &[&[FILE, Wild, V(8)]],
        Name::Write => &[&[FILE, Wild, V(8)], &[WRITER, Wild, V(8)], &[TERMINAL, Wild, V(8)]],
        Name::Pwrite => &[&[FILE, Wild, V(8)]],
        Name::Readv => &[&[FILE, Wild, V(1)], &[FILE, Holder, V(1)], &[READER, Holder, V(1)]],
        Name::Writev => &[&[FILE, Wild, V(1)], &[FILE, Holder, V(1)], &[WRITER, Holder, V(1)]],
        Name::Sendfile | Name::Sendfile64 => &[&[WRITER, FILE, Wild, V(8)]],
        Name::Llseek => &[&[FILE, V(0), V(0), Wild, V(0)]],
        Name::Open | Name::Creat | Name::MemfdCreate => &[&[Wild]],
        Name::Openat => &[&[ROOT, Wild]],
        // F_GETLK, F_SETLK, F_SETLKW
        Name::Fcntl => &[&[FILE, V(5), Wild], &[FILE, V(6), Wild], &[FILE, V(7), Wild]],
        // and the same of 64 bits
        Name::Fcntl64 => &[
            &[FILE, V(5), Wild], &[FILE, V(6), Wild], &[FILE, V(7), Wild],
            &[FILE, V(12), Wild], &[FILE, V(13), Wild], &[FILE, V(14), Wild],
        ],
        Name::Pipe | Name::Pipe2 => &[&[Wild]],
        // TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGPGRP, TIOCSPGRP, TIOCGWINSZ, TIOCSWINSZ,
        // FIONREAD, FIONBIO, TIOCGSID
        Name::Ioctl => &[
            &[TERMINAL, V(0x5401), Wild], &[TERMINAL, V(0x5402), Wild],
            &[TERMINAL, V(0x5403), Wild], &[TERMINAL, V(0x5404), Wild],
            &[TERMINAL, V(0x540f), Wild], &[TERMINAL, V(0x5410), Wild],
            &[TERMINAL, V(0x5413), Wild], &[TERMINAL, V(0x5414), Wild],
            &[TERMINAL, V(0x541b), Wild], &[READER, V(0x541b), Wild],
            &[READER, V(0x5421), Wild], &[TERMINAL, V(0x5429), Wild],
        ],
        Name::Poll => &[&[Wild, V(1)]],
        Name::Ppoll | Name::PpollTime64 => &[
            &[Wild, V(1), Zeros, V(0), V(8)],
            &[Zeros, V(1), Wild, V(0), V(8)],
            &[Zeros, V(1), Zeros, Wild, V(8)],
        ],
        Name::Select => &[
            &[V(1), Wild, V(0), V(0), Zeros], &[V(1), V(0), Wild, V(0), Zeros],
            &[V(1), V(0), V(0), Wild, Zeros], &[V(1), V(0), V(0), V(0), Wild],
        ],
        Name::Pselect6 | Name::Pselect6Time64 => &[
            &[V(1), Wild, V(0), V(0), Zeros], &[V(1), V(0), Wild, V(0), Zeros],
            &[V(1), V(0), V(0), Wild, Zeros], &[V(1), V(0), V(0), V(0), Wild],
            &[V(1), V(0), V(0), V(0), Zeros, Wild], &[V(1), V(0), V(0), V(0), Zeros, Holder],
        ],
        Name::Getdents64 => &[&[ROOT, Wild, V(4096)]],
        Name::Truncate | Name::TruncateWord => &[&[Wild]],
        Name::Stat | Name::Lstat | Name::Statfs => &[&[Wild, Zeros], &[File, Wild]],
        Name::Fstat | Name::Fstatfs => &[&[FILE, Wild]],
        Name::Newfstatat => &[&[ROOT, Wild, Zeros], &[ROOT, File, Wild]],
        Name::Statx => &[
            &[ROOT, Wild, V(0), V(0x7ff), Zeros], &[ROOT, File, V(0), V(0x7ff), Wild],
        ],
        Name::Statfs64 => &[&[Wild, V(88), Zeros], &[File, V(88), Wild]],
        Name::Fstatfs64 => &[&[FILE, V(88), Wild]],
        Name::Access | Name::Chdir | Name::Mkdir | Name::Rmdir | Name::Unlink => &[&[Wild]],
        Name::Faccessat | Name::Faccessat2 | Name::Mkdirat | Name::Unlinkat => &[&[ROOT, Wild]],
        Name::Readlink => &[&[Wild, Zeros, V(64)], &[Executable, Wild, V(64)]],
        Name::Readlinkat => &[&[ROOT, Wild, Zeros, V(64)], &[ROOT, Executable, Wild, V(64)]],
        Name::Getcpu => &[&[Wild], &[V(0), Wild]],
        Name::Getcwd => &[&[Wild, V(4096)]],
        Name::Rename | Name::Link | Name::Symlink => &[&[Wild, File], &[File, Wild]],
        Name::Renameat | Name::Renameat2 | Name::Linkat => {
            &[&[ROOT, Wild, ROOT, File], &[ROOT, File, ROOT, Wild]]
        }
        Name::Symlinkat => &[&[Wild, ROOT, File], &[File, ROOT, Wild]],
        Name::Chmod | Name::Chown | Name::Lchown => &[&[Wild]],
        Name::Fchmodat | Name::Fchownat => &[&[ROOT, Wild]],
        Name::Utimensat | Name::Utimensat64 => &[&[ROOT, Wild], &[ROOT, File, Wild]],
        Name::Mincore => &[&[Zeros, V(4096), Wild]],
        Name::Execve => &[
            &[Wild, Zeros, Zeros],
            &[Executable, Wild, Zeros], &[Executable, Holder, Zeros],
            &[Executable, Zeros, Wild], &[Executable, Zeros, Holder],
        ],
        Name::Wait4 => &[&[Child, Wild], &[Child, Zeros, V(0), Wild]],
        // P_PID, WEXITED
        Name::Waitid => &[&[V(1), Child, Wild, V(4)], &[V(1), Child, Zeros, V(4), Wild]],
        // FUTEX_WAIT, the private one, and FUTEX_CMP_REQUEUE
        Name::Futex | Name::FutexTime64 => &[
            &[WildWord, V(0), V(0), Zeros], &[Zeros, V(0), V(0), Wild],
            &[WildWord, V(128), V(0), Zeros], &[Zeros, V(128), V(0), Wild],
            &[WildWord, V(4), V(0), V(0), Zeros],
        ],
        Name::SchedGetaffinity | Name::SchedSetaffinity => &[&[V(0), V(8), Wild]],
        Name::Setgroups => &[&[V(1), Wild]],
        Name::Getresuid | Name::Getresgid => {
            &[&[Wild, Zeros, Zeros], &[Zeros, Wild, Zeros], &[Zeros, Zeros, Wild]]
        }
        // PR_SET_NAME, PR_GET_NAME
        Name::Prctl => &[&[V(15), Wild], &[V(16), Wild]],
        // RLIMIT_NOFILE
        Name::Getrlimit | Name::Setrlimit => &[&[V(7), Wild]],
        Name::Prlimit64 => &[&[V(0), V(7), Wild], &[V(0), V(7), V(0), Wild]],
        // SIGUSR1
        Name::RtSigaction => &[&[V(10), Wild, V(0), V(8)], &[V(10), V(0), Wild, V(8)]],
        Name::RtSigprocmask => &[&[V(0), Wild, V(0), V(8)], &[V(0), V(0), Wild, V(8)]],
        Name::RtSigpending | Name::RtSigsuspend => &[&[Wild, V(8)]],
        Name::Sigaltstack => &[&[Wild], &[V(0), Wild]],
        // Where the rest of a sleep goes that a signal ends, file-calls.c shows.
        Name::Nanosleep => &[&[Wild]],
        Name::ClockNanosleep | Name::ClockNanosleep64 => &[&[V(1), V(0), Wild]],
        Name::ClockGettime | Name::ClockGettime64 | Name::ClockGetres | Name::ClockGetres64 => {
            &[&[V(1), Wild]]
        }
        Name::Gettimeofday => &[&[Wild], &[V(0), Wild]],
        Name::Time | Name::Times => &[&[Wild]],
        Name::Setitimer => &[&[V(0), Wild], &[V(0), Zeros, Wild]],
        Name::Uname | Name::Sysinfo => &[&[Wild]],
        Name::Getrandom => &[&[Wild, V(8)]],
        Name::Getrusage => &[&[V(0), Wild]],
        // Numbers only.
        Name::Lseek | Name::Close | Name::Dup | Name::Dup2 | Name::Dup3 | Name::Ftruncate
        | Name::FtruncateWord | Name::Flock | Name::Fsync | Name::Fdatasync | Name::Fadvise
        | Name::Sync | Name::Fchdir | Name::Fchmod | Name::Fchown | Name::Umask | Name::Membarrier
        | Name::Fork | Name::Vfork | Name::Exit | Name::ExitGroup | Name::SchedYield | Name::Getpid
        | Name::Gettid | Name::Getppid | Name::Getpgrp | Name::Getpgid | Name::Setpgid
        | Name::Getsid | Name::Setsid | Name::Getuid | Name::Getgid | Name::Geteuid | Name::Getegid
        | Name::Setuid | Name::Setgid | Name::Setresuid | Name::Setresgid | Name::Pause
        | Name::Kill | Name::Tkill | Name::Tgkill | Name::Alarm => NONE,
        // Nothing is stored: there are no groups.
        Name::Getgroups => NONE,
        Name::Mmap | Name::Mmap2 | Name::Munmap | Name::Mprotect | Name::Brk | Name::Madvise
        | Name::Mremap | Name::RemapFilePages | Name::Msync | Name::Mlock | Name::Mlock2 | Name::Munlock | Name::Mlockall
        | Name::Munlockall | Name::Mseal => NONE,
        Name::SetTidAddress | Name::SetRobustList | Name::Clone => NONE,
        // The frame on the stack: a signal answers.
        Name::RtSigreturn | Name::Sigreturn => NONE,
    }
}
