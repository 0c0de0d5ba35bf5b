//! The names of the system calls, and their numbers on each ABI.
//!
//! The dispatcher works on names; another architecture adds a column. Numbers: Linux
//! `arch/x86/entry/syscalls/syscall_64.tbl`.

use crate::arch::SyscallAbi;

macro_rules! names {
    ($($name:ident = $x86_64:literal,)*) => {
        /// A system call that this kernel knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is a page of the manual, section 2")]
        pub enum Name { $($name,)* }

        fn x86_64(number: usize) -> Option<Name> {
            match number {
                $($x86_64 => Some(Name::$name),)*
                _ => None,
            }
        }
    };
}

names! {
    Read = 0, Write = 1, Open = 2, Close = 3, Stat = 4, Fstat = 5, Lstat = 6, Poll = 7,
    Lseek = 8, Mmap = 9, Mprotect = 10, Munmap = 11, Brk = 12, RtSigaction = 13,
    RtSigprocmask = 14, RtSigreturn = 15, Ioctl = 16, Pread = 17, Pwrite = 18, Readv = 19,
    Writev = 20, Access = 21, Pipe = 22, Select = 23, SchedYield = 24, Mremap = 25,
    Msync = 26, Mincore = 27, Madvise = 28, Dup = 32, Dup2 = 33, Pause = 34,
    Nanosleep = 35, Alarm = 37, Setitimer = 38, Getpid = 39, Sendfile = 40, Clone = 56,
    Fork = 57, Vfork = 58, Execve = 59, Exit = 60, Wait4 = 61, Kill = 62, Uname = 63,
    Fcntl = 72, Flock = 73, Fsync = 74, Fdatasync = 75, Truncate = 76, Ftruncate = 77,
    Getcwd = 79, Chdir = 80, Fchdir = 81, Rename = 82, Mkdir = 83, Rmdir = 84, Creat = 85,
    Link = 86, Unlink = 87, Symlink = 88, Readlink = 89, Chmod = 90, Fchmod = 91,
    Chown = 92, Fchown = 93, Lchown = 94, Umask = 95, Gettimeofday = 96, Getrlimit = 97,
    Getrusage = 98, Sysinfo = 99, Times = 100, Getuid = 102, Getgid = 104, Setuid = 105,
    Setgid = 106, Geteuid = 107, Getegid = 108, Setpgid = 109, Getppid = 110,
    Getpgrp = 111, Setsid = 112, Getgroups = 115, Setgroups = 116, Setresuid = 117,
    Getresuid = 118, Setresgid = 119, Getresgid = 120, Getpgid = 121, Getsid = 124,
    RtSigpending = 127, RtSigsuspend = 130, Sigaltstack = 131, Statfs = 137,
    Fstatfs = 138, Mlock = 149, Munlock = 150, Prctl = 157, Setrlimit = 160, Sync = 162,
    Gettid = 186, Tkill = 200, Time = 201, Futex = 202, SchedSetaffinity = 203,
    SchedGetaffinity = 204, Getdents64 = 217, SetTidAddress = 218, Fadvise = 221,
    ClockGettime = 228, ClockGetres = 229, ClockNanosleep = 230, ExitGroup = 231,
    Tgkill = 234, Waitid = 247, Openat = 257, Mkdirat = 258, Fchownat = 260,
    Newfstatat = 262, Unlinkat = 263, Renameat = 264, Linkat = 265, Symlinkat = 266,
    Readlinkat = 267, Fchmodat = 268, Faccessat = 269, Pselect6 = 270, Ppoll = 271,
    SetRobustList = 273, Utimensat = 280, Dup3 = 292, Pipe2 = 293, Prlimit64 = 302,
    Renameat2 = 316, Getrandom = 318, Membarrier = 324, Statx = 332, Faccessat2 = 439,
}

/// Names the call behind a number.
#[must_use]
pub fn lookup(abi: SyscallAbi, number: usize) -> Option<Name> {
    match abi {
        SyscallAbi::X86_64 => x86_64(number),
        // The kernels of the other architectures bring their columns.
        SyscallAbi::Generic | SyscallAbi::Arm => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Name, SyscallAbi, lookup};

    #[test]
    fn numbers_find_names() {
        assert_eq!(lookup(SyscallAbi::X86_64, 59), Some(Name::Execve));
        assert_eq!(lookup(SyscallAbi::X86_64, 334), None);
        assert_eq!(lookup(SyscallAbi::X86_64, usize::MAX), None);
    }
}
