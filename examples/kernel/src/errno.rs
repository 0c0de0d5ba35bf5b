//! Linux error numbers: what a system call answers when it fails.
//!
//! A system call returns a `Result<usize, Errno>`; the dispatcher turns an
//! error into the negative number that Linux programs expect. The numbers are
//! those of `asm-generic/errno.h`; see errno(3).

/// One Linux error number (positive, as in errno(3)).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno($number);)*

            /// Names the error as C programs do.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($number => stringify!($name),)*
                    _ => "E?",
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "No such file or directory.";
    ESRCH = 3, "No such process.";
    EINTR = 4, "Interrupted by a signal.";
    EIO = 5, "Input or output error.";
    ENXIO = 6, "No such device or address.";
    E2BIG = 7, "Argument list too long.";
    ENOEXEC = 8, "Not a program this kernel can run.";
    EBADF = 9, "Bad file descriptor.";
    ECHILD = 10, "No child processes.";
    EAGAIN = 11, "Try again; would block.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied.";
    EFAULT = 14, "Bad user address.";
    EBUSY = 16, "In use.";
    EEXIST = 17, "Exists already.";
    EXDEV = 18, "Would cross file systems.";
    ENODEV = 19, "No such device.";
    ENOTDIR = 20, "Not a directory.";
    EISDIR = 21, "Is a directory.";
    EINVAL = 22, "Invalid argument.";
    ENFILE = 23, "Too many open files in the system.";
    EMFILE = 24, "Too many open files in the process.";
    ENOTTY = 25, "Not a terminal.";
    ETXTBSY = 26, "Text file busy.";
    EFBIG = 27, "File too large.";
    ENOSPC = 28, "No space left.";
    ESPIPE = 29, "Not seekable.";
    EROFS = 30, "Read-only file system.";
    EPIPE = 32, "Nobody reads the pipe.";
    ERANGE = 34, "Result does not fit.";
    ENAMETOOLONG = 36, "Name too long.";
    ENOSYS = 38, "No such system call.";
    ENOTEMPTY = 39, "Directory not empty.";
    ELOOP = 40, "Too many symbolic links.";
    EOVERFLOW = 75, "Value too large.";
    EOPNOTSUPP = 95, "Not offered.";
    ETIMEDOUT = 110, "Timed out.";
}

impl Errno {
    /// Never seen by a program: the call was interrupted and is started again
    /// unless a handler without `SA_RESTART` runs (Linux: ERESTARTSYS).
    pub const RESTART: Errno = Errno(512);
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// What a system call answers.
pub type Result<T = usize> = core::result::Result<T, Errno>;
