//! What the small programs stand on: raw Linux system calls, printing, and a start.
//!
//! Each program is a static Linux program without a C library, so what it asks of a kernel is
//! exactly what its source says. The same file runs on Linux itself and on the example kernel:
//! what it prints in both places can be compared line by line, and is, by `cargo xtask test`.
//! What differs between architectures is in `machine`: system calls, a program's start, and a few
//! addresses.
#![no_std]

use core::fmt::{self, Write};

mod machine;
/// The example kernel's table of system calls: the same file, so that none is left out.
#[path = "../../kernel/src/syscall/names.rs"]
pub mod names;

pub use machine::{
    ABI, BASE, HOLE, KERNEL, LAST, RETURN, TOP, WILD, Word, nr, open, pause, pipe, run, sync_code,
};

/// `PROT_READ`.
pub const READ: usize = 1;
/// `PROT_WRITE`.
pub const WRITE: usize = 2;
/// `PROT_EXEC`.
pub const EXEC: usize = 4;
/// `MAP_SHARED`.
pub const SHARED: usize = 0x01;
/// `MAP_PRIVATE`.
pub const PRIVATE: usize = 0x02;
/// `MAP_FIXED`.
pub const FIXED: usize = 0x10;
/// `MAP_ANONYMOUS`.
pub const ANONYMOUS: usize = 0x20;
/// `MAP_FIXED_NOREPLACE`.
pub const FIXED_NOREPLACE: usize = 0x10_0000;
/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Makes system call `number`; a failure is an `errno`.
///
/// # Errors
/// The kernel's error number.
pub fn call(number: usize, args: [usize; 6]) -> Result<usize, usize> {
    let result = machine::raw_call(number, args);
    if (-4095..0).contains(&result) {
        Err(result.unsigned_abs())
    } else {
        Ok(result.cast_unsigned_())
    }
}

/// Maps memory; the offset is a number of bytes.
///
/// # Errors
/// The kernel's error number.
pub fn mmap(mut args: [usize; 6]) -> Result<usize, usize> {
    args[5] /= machine::OFFSET_UNIT;
    call(nr::MMAP, args)
}

/// Makes a child that is a copy of this process; answers its number, or 0 in the child.
///
/// # Errors
/// The kernel's error number.
pub fn fork() -> Result<usize, usize> {
    const SIGCHLD: usize = 17;
    call(nr::CLONE, [SIGCHLD, 0, 0, 0, 0, 0])
}

/// Stands in for `isize::cast_unsigned`, which is younger than this crate's oldest compiler.
trait CastUnsigned {
    fn cast_unsigned_(self) -> usize;
}

impl CastUnsigned for isize {
    fn cast_unsigned_(self) -> usize {
        usize::from_ne_bytes(self.to_ne_bytes())
    }
}

/// Makes a system call with up to three arguments.
///
/// # Errors
/// The kernel's error number.
pub fn call3(number: usize, a: usize, b: usize, c: usize) -> Result<usize, usize> {
    call(number, [a, b, c, 0, 0, 0])
}

/// Ends the program.
pub fn exit(status: usize) -> ! {
    loop {
        let _ = call3(nr::EXIT_GROUP, status, 0, 0);
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(usize),
    /// By this signal.
    Killed(usize),
    /// It did not end, and was killed by its parent.
    Stuck,
}

/// Runs `body` in a child; returns how the child ended. A child that does not end after 30
/// seconds is killed.
///
/// # Errors
/// The error of `fork`.
pub fn in_child(body: impl FnOnce()) -> Result<Ended, usize> {
    in_child_for(30 * LOOKS_PER_SECOND, body)
}

/// As [`in_child`], for a child that sleeps or is quick: it is killed after so many looks, of
/// which there are at most [`LOOKS_PER_SECOND`].
///
/// # Errors
/// The error of `fork`.
pub fn in_child_for(looks: usize, body: impl FnOnce()) -> Result<Ended, usize> {
    let child = fork()?;
    if child == 0 {
        body();
        exit(0);
    }
    let mut status: i32 = 0;
    let place = (&raw mut status).addr();
    const WNOHANG: usize = 1;
    for turn in 0..HASTE + looks {
        if call(nr::WAIT4, [child, place, WNOHANG, 0, 0, 0])? == child {
            return Ok(ended(volatile(&status)));
        }
        if turn < HASTE {
            let _ = call3(nr::SCHED_YIELD, 0, 0, 0);
        } else {
            let pause: [usize; 2] = [0, 1_000_000_000 / LOOKS_PER_SECOND];
            let _ = call3(nr::NANOSLEEP, (&raw const pause).addr(), 0, 0);
        }
    }
    let _ = call3(nr::KILL, child, 9, 0);
    call(nr::WAIT4, [child, place, 0, 0, 0, 0])?;
    Ok(Ended::Stuck)
}

/// How often a parent looks after its child without sleeping in between.
const HASTE: usize = 100;
/// How often it looks later: a kernel may well sleep no shorter than a tick of its clock.
pub const LOOKS_PER_SECOND: usize = 100;

/// Reads a status word of `wait4` (`WIFEXITED` and its relatives).
pub fn ended(status: i32) -> Ended {
    let word = status.unsigned_abs() as usize;
    if word & 0x7f == 0 {
        Ended::Exited((word >> 8) & 0xff)
    } else {
        Ended::Killed(word & 0x7f)
    }
}

/// Reads a value that the kernel wrote behind the compiler's back.
pub fn volatile<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::from_ref(value).read_volatile() }
}

/// Standard output.
pub struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut at = 0;
        while at < text.len() {
            match call3(nr::WRITE, 1, text.as_ptr().addr() + at, text.len() - at) {
                Ok(n) if n > 0 => at += n,
                _ => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}

/// One line on its way to standard output, written by a single call so that lines stay whole.
pub struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Line {
    /// Formats and writes a line.
    pub fn print(what: fmt::Arguments<'_>) {
        let mut line = Line {
            bytes: [0; 256],
            length: 0,
        };
        let _ = line.write_fmt(what);
        let _ = line.write_str("\n");
        let text = core::str::from_utf8(line.bytes.get(..line.length).unwrap_or_default());
        let _ = Out.write_str(text.unwrap_or("?\n"));
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            match self.bytes.get_mut(self.length) {
                Some(place) => *place = byte,
                None => return Err(fmt::Error),
            }
            self.length += 1;
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($what:tt)*) => { $crate::Line::print(format_args!($($what)*)) };
}

/// What the kernel put on the stack for the program.
#[derive(Clone, Copy)]
pub struct Start {
    stack: *const usize,
}

impl Start {
    /// The number of arguments, the program's name included.
    pub fn count(self) -> usize {
        // SAFETY: the kernel starts a program with its argument count where the stack points to.
        unsafe { self.stack.read() }
    }

    /// The address of argument `at`, a string that ends in a zero byte; 0 past the last.
    pub fn argument(self, at: usize) -> usize {
        if at >= self.count() {
            return 0;
        }
        // SAFETY: `count` words with the addresses of the arguments follow the count.
        unsafe { self.stack.add(1 + at).read() }
    }
}

/// Makes `$main`, a function from [`Start`] to an exit status, the program's start.
#[macro_export]
macro_rules! start {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn program_main(stack: *const usize) -> ! {
            let main: fn($crate::Start) -> usize = $main;
            $crate::exit(main($crate::started(stack)))
        }
    };
}

/// Wraps the first stack pointer; only the start of a program has one to wrap.
#[doc(hidden)]
pub fn started(stack: *const usize) -> Start {
    Start { stack }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    let _ = Out.write_str("panic\n");
    exit(101)
}
