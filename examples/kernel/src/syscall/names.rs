//! The names of the system calls, and their numbers on each ABI.
//!
//! The dispatcher works on names. A name is one call with one set of arguments: where an ABI has
//! a call in an old and a new form (times of 32 and of 64 bits), each form has its name.
//!
//! | ABI | source of the numbers | what it does not have |
//! |---|---|---|
//! | x86-64 | Linux `arch/x86/entry/syscalls/syscall_64.tbl` | times of another width than the word |
//! | generic (AArch64, RISC-V) | Linux `include/uapi/asm-generic/unistd.h` | fork, vfork, open, pipe, ... : only the newest form of each |
//! | Arm EABI | Linux `arch/arm/tools/syscall.tbl` | users of 16 bits and `struct stat` without 64-bit sizes, which no C library of today calls |
//!
//! RISC-V leaves out of the generic table what it found replaced when it came (renameat,
//! getrlimit, setrlimit); programs there do not ask for it, so it is not told apart.

/// Which table of syscall numbers and which structure layouts (`struct stat`, ...) user
/// programs are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyscallAbi {
    /// x86-64's own table.
    X86_64,
    /// The generic table of AArch64 and RISC-V.
    Generic,
    /// Arm EABI.
    Arm,
}

impl SyscallAbi {
    /// Bytes of a `long` and of a pointer of user programs.
    #[must_use]
    pub const fn word_bytes(self) -> usize {
        match self {
            SyscallAbi::X86_64 | SyscallAbi::Generic => 8,
            SyscallAbi::Arm => 4,
        }
    }
}

macro_rules! names {
    ($($name:ident,)*) => {
        /// A system call that this kernel knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is a page of the manual, section 2")]
        pub enum Name { $($name,)* }
    };
}

macro_rules! numbers {
    ($abi:ident: $($name:ident = $number:literal,)*) => {
        const fn $abi(number: usize) -> Option<Name> {
            match number {
                $($number => Some(Name::$name),)*
                _ => None,
            }
        }
    };
}

names! {
    Read, Write, Open, Close, Stat, Fstat, Lstat, Poll, Lseek, Mmap, Mprotect, Munmap, Brk,
    RtSigaction, RtSigprocmask, RtSigreturn, Ioctl, Pread, Pwrite, Readv, Writev, Access, Pipe,
    Select, SchedYield, Mremap, RemapFilePages, Msync, Mincore, Madvise, Dup, Dup2, Pause, Nanosleep, Alarm,
    Setitimer, Getpid, Sendfile, Clone, Fork, Vfork, Execve, Exit, Wait4, Kill, Uname, Fcntl,
    Flock, Fsync, Fdatasync, Truncate, Ftruncate, Getcwd, Chdir, Fchdir, Rename, Mkdir, Rmdir,
    Creat, Link, Unlink, Symlink, Readlink, Chmod, Fchmod, Chown, Fchown, Lchown, Umask,
    Gettimeofday, Getrlimit, Getrusage, Sysinfo, Times, Getuid, Getgid, Setuid, Setgid,
    Geteuid, Getegid, Setpgid, Getppid, Getpgrp, Setsid, Getgroups, Setgroups, Setresuid,
    Getresuid, Setresgid, Getresgid, Getpgid, Getsid, RtSigpending, RtSigsuspend, Sigaltstack,
    Statfs, Fstatfs, Mlock, Munlock, Mlock2, Mlockall, Munlockall, Prctl, Setrlimit, Sync, Gettid, Tkill, Time, Futex,
    SchedSetaffinity, SchedGetaffinity, Getdents64, SetTidAddress, Fadvise, ClockGettime,
    ClockGetres, ClockNanosleep, ExitGroup, Tgkill, Waitid, Openat, Mkdirat, Fchownat,
    Newfstatat, Unlinkat, Renameat, Linkat, Symlinkat, Readlinkat, Fchmodat, Faccessat,
    Pselect6, Ppoll, SetRobustList, Utimensat, Dup3, Pipe2, Prlimit64, Renameat2, Getrandom,
    Membarrier, MemfdCreate, Getcpu, Statx, Faccessat2, Mseal,
    // Of Arm only.
    Sigreturn, Llseek, Mmap2, Fcntl64, Sendfile64, Statfs64, Fstatfs64, ClockGettime64,
    ClockGetres64, ClockNanosleep64, Utimensat64, Pselect6Time64, PpollTime64, FutexTime64,
    TruncateWord, FtruncateWord,
}

numbers! { x86_64:
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
    Fstatfs = 138, Mlock = 149, Munlock = 150, Mlockall = 151,
    Munlockall = 152, Mlock2 = 325, Prctl = 157, Setrlimit = 160, Sync = 162,
    Gettid = 186, Tkill = 200, Time = 201, Futex = 202, SchedSetaffinity = 203,
    SchedGetaffinity = 204, RemapFilePages = 216, Getdents64 = 217, SetTidAddress = 218,
    Fadvise = 221,
    ClockGettime = 228, ClockGetres = 229, ClockNanosleep = 230, ExitGroup = 231,
    Tgkill = 234, Getcpu = 309, Waitid = 247, Openat = 257, Mkdirat = 258, Fchownat = 260,
    Newfstatat = 262, Unlinkat = 263, Renameat = 264, Linkat = 265, Symlinkat = 266,
    Readlinkat = 267, Fchmodat = 268, Faccessat = 269, Pselect6 = 270, Ppoll = 271,
    SetRobustList = 273, Utimensat = 280, Dup3 = 292, Pipe2 = 293, Prlimit64 = 302,
    Renameat2 = 316, Getrandom = 318, MemfdCreate = 319, Membarrier = 324, Statx = 332, Faccessat2 = 439, Mseal = 462,
}

numbers! { generic:
    Getcwd = 17, Dup = 23, Dup3 = 24, Fcntl = 25, Ioctl = 29, Flock = 32, Mkdirat = 34,
    Unlinkat = 35, Symlinkat = 36, Linkat = 37, Renameat = 38, Statfs = 43, Fstatfs = 44,
    Truncate = 45, Ftruncate = 46, Faccessat = 48, Chdir = 49, Fchdir = 50, Fchmod = 52,
    Fchmodat = 53, Fchownat = 54, Fchown = 55, Openat = 56, Close = 57, Pipe2 = 59,
    Getdents64 = 61, Lseek = 62, Read = 63, Write = 64, Readv = 65, Writev = 66, Pread = 67,
    Pwrite = 68, Sendfile = 71, Pselect6 = 72, Ppoll = 73, Readlinkat = 78,
    Newfstatat = 79, Fstat = 80, Sync = 81, Fsync = 82, Fdatasync = 83, Utimensat = 88,
    Exit = 93, ExitGroup = 94, Waitid = 95, SetTidAddress = 96, Futex = 98,
    SetRobustList = 99, Nanosleep = 101, Setitimer = 103, ClockGettime = 113,
    ClockGetres = 114, ClockNanosleep = 115, SchedSetaffinity = 122, SchedGetaffinity = 123,
    SchedYield = 124, Kill = 129, Tkill = 130, Tgkill = 131, Sigaltstack = 132,
    RtSigsuspend = 133, RtSigaction = 134, RtSigprocmask = 135, RtSigpending = 136,
    RtSigreturn = 139, Setgid = 144, Setuid = 146, Setresuid = 147, Getresuid = 148,
    Setresgid = 149, Getresgid = 150, Times = 153, Setpgid = 154, Getpgid = 155,
    Getsid = 156, Setsid = 157, Getgroups = 158, Setgroups = 159, Uname = 160,
    Getrlimit = 163, Setrlimit = 164, Getrusage = 165, Umask = 166, Prctl = 167, Getcpu = 168,
    Gettimeofday = 169, Getpid = 172, Getppid = 173, Getuid = 174, Geteuid = 175,
    Getgid = 176, Getegid = 177, Gettid = 178, Sysinfo = 179, Brk = 214, Munmap = 215,
    Mremap = 216, Clone = 220, Execve = 221, Mmap = 222, Fadvise = 223, Mprotect = 226,
    Msync = 227, Mlock = 228, Munlock = 229, Mlockall = 230,
    Munlockall = 231, Mlock2 = 284, Mincore = 232, Madvise = 233,
    RemapFilePages = 234, Wait4 = 260, Prlimit64 = 261, Renameat2 = 276, Getrandom = 278, MemfdCreate = 279, Membarrier = 283, Statx = 291,
    Faccessat2 = 439, Mseal = 462,
}

numbers! { arm:
    Exit = 1, Fork = 2, Read = 3, Write = 4, Open = 5, Close = 6, Creat = 8, Link = 9,
    Unlink = 10, Execve = 11, Chdir = 12, Chmod = 15, Lseek = 19, Getpid = 20, Pause = 29,
    Access = 33, Sync = 36, Kill = 37, Rename = 38, Mkdir = 39, Rmdir = 40, Dup = 41,
    Pipe = 42, Times = 43, Brk = 45, Ioctl = 54, Fcntl = 55, Setpgid = 57, Umask = 60,
    Dup2 = 63, Getppid = 64, Getpgrp = 65, Setsid = 66, Setrlimit = 75, Getrusage = 77,
    Gettimeofday = 78, Symlink = 83, Readlink = 85, Munmap = 91, TruncateWord = 92,
    FtruncateWord = 93, Fchmod = 94,
    Setitimer = 104, Wait4 = 114, Sysinfo = 116, Fsync = 118, Sigreturn = 119,
    Clone = 120, Uname = 122, Mprotect = 125, Getpgid = 132, Fchdir = 133, Llseek = 140, Select = 142, Flock = 143,
    Msync = 144, Readv = 145, Writev = 146, Getsid = 147, Fdatasync = 148, Mlock = 150,
    Munlock = 151, Mlockall = 152, Munlockall = 153, Mlock2 = 390, SchedYield = 158, Nanosleep = 162, Mremap = 163, Poll = 168, Prctl = 172,
    RtSigreturn = 173, RtSigaction = 174, RtSigprocmask = 175, RtSigpending = 176,
    RtSigsuspend = 179, Pread = 180, Pwrite = 181, Getcwd = 183, Sigaltstack = 186,
    Sendfile = 187, Vfork = 190, Getrlimit = 191, Mmap2 = 192, Truncate = 193,
    Ftruncate = 194, Stat = 195, Lstat = 196, Fstat = 197, Lchown = 198, Getuid = 199,
    Getgid = 200, Geteuid = 201, Getegid = 202, Getgroups = 205, Setgroups = 206,
    Fchown = 207, Setresuid = 208, Getresuid = 209, Setresgid = 210, Getresgid = 211,
    Chown = 212, Setuid = 213, Setgid = 214, Getdents64 = 217, Mincore = 219, Madvise = 220, Fcntl64 = 221,
    Gettid = 224, Tkill = 238, Sendfile64 = 239, Futex = 240, SchedSetaffinity = 241,
    SchedGetaffinity = 242, ExitGroup = 248, RemapFilePages = 253, SetTidAddress = 256, ClockGettime = 263,
    ClockGetres = 264, ClockNanosleep = 265, Statfs64 = 266, Fstatfs64 = 267, Tgkill = 268,
    Fadvise = 270, Waitid = 280, Openat = 322, Mkdirat = 323, Fchownat = 325,
    Newfstatat = 327, Unlinkat = 328, Renameat = 329, Linkat = 330, Symlinkat = 331,
    Readlinkat = 332, Fchmodat = 333, Faccessat = 334, Pselect6 = 335, Ppoll = 336,
    SetRobustList = 338, Getcpu = 345, Utimensat = 348, Dup3 = 358, Pipe2 = 359, Prlimit64 = 369,
    Renameat2 = 382, Getrandom = 384, MemfdCreate = 385, Membarrier = 389, Statx = 397, ClockGettime64 = 403,
    ClockGetres64 = 406, ClockNanosleep64 = 407, Utimensat64 = 412, Pselect6Time64 = 413,
    PpollTime64 = 414, FutexTime64 = 422, Faccessat2 = 439, Mseal = 462,
}

/// Names the call behind a number.
#[must_use]
pub const fn lookup(abi: SyscallAbi, number: usize) -> Option<Name> {
    match abi {
        SyscallAbi::X86_64 => x86_64(number),
        SyscallAbi::Generic => generic(number),
        SyscallAbi::Arm => arm(number),
    }
}

#[cfg(test)]
mod tests {
    use super::{Name, SyscallAbi, lookup};

    #[test]
    fn numbers_find_names() {
        assert_eq!(lookup(SyscallAbi::X86_64, 59), Some(Name::Execve));
        assert_eq!(lookup(SyscallAbi::Generic, 221), Some(Name::Execve));
        assert_eq!(lookup(SyscallAbi::Arm, 11), Some(Name::Execve));
        assert_eq!(lookup(SyscallAbi::Generic, 2), None, "no fork there");
        for abi in [SyscallAbi::X86_64, SyscallAbi::Generic, SyscallAbi::Arm] {
            assert_eq!(
                lookup(abi, 334),
                (abi == SyscallAbi::Arm).then_some(Name::Faccessat)
            );
            assert_eq!(lookup(abi, usize::MAX), None);
            let fork = (0..500).filter_map(|number| lookup(abi, number));
            let fork = fork.filter(|name| matches!(name, Name::Fork | Name::Vfork));
            let forks = if abi == SyscallAbi::Generic { 0 } else { 2 };
            assert_eq!(fork.count(), forks);
        }
    }

    /// The generic table is the newest form of each call, and Arm has had them all added.
    #[test]
    fn arm_has_every_call_of_the_generic_table() {
        let all = |abi| (0..500).filter_map(move |number| lookup(abi, number));
        let missing = all(SyscallAbi::Generic)
            .filter(|name| all(SyscallAbi::Arm).all(|other| other != *name));
        // It has these in other forms: statfs64, fstatfs64, mmap2.
        let other_forms = [Name::Statfs, Name::Fstatfs, Name::Mmap];
        assert_eq!(missing.collect::<Vec<_>>(), other_forms);
    }

    #[test]
    fn a_name_has_one_number_on_an_abi() {
        for abi in [SyscallAbi::X86_64, SyscallAbi::Generic, SyscallAbi::Arm] {
            let names: Vec<_> = (0..500).filter_map(|number| lookup(abi, number)).collect();
            for (at, name) in names.iter().enumerate() {
                assert!(!names[..at].contains(name), "{name:?} twice on {abi:?}");
            }
        }
    }

    #[test]
    fn arm_has_what_the_generic_abi_has() {
        // Arm has these with wider numbers only.
        let wider = [Name::Mmap, Name::Statfs, Name::Fstatfs];
        let arm: Vec<_> = (0..500)
            .filter_map(|n| lookup(SyscallAbi::Arm, n))
            .collect();
        let missing: Vec<_> = (0..500)
            .filter_map(|number| lookup(SyscallAbi::Generic, number))
            .filter(|name| !arm.contains(name) && !wider.contains(name))
            .collect();
        assert_eq!(missing, []);
    }
}
