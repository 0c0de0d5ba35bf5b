//! The initial stack: argc, argv, envp, the auxiliary vector, the strings.
//!
//! As the System V psABI draws it ("Process Initialization"; the same for all
//! machines here), with Linux' order of the strings:
//!
//! ```text
//!  top  ┌──────────────────────────────┐
//!       │ one zero word                │
//!       │ path of the program, NUL     │ <- AT_EXECFN
//!       │ envp strings, each with NUL  │ ascending, as in envp
//!       │ argv strings, each with NUL  │
//!       │ platform string, NUL         │ <- AT_PLATFORM
//!       │ 16 random bytes              │ <- AT_RANDOM
//!       │ padding                      │
//!       │ AT_NULL, 0                   │
//!       │ ... auxiliary vector         │
//!       │ 0, envp pointers             │
//!       │ 0, argv pointers             │
//!   sp  │ argc                         │ 16-byte aligned
//!       └──────────────────────────────┘
//! ```
//!
//! (Test `the_stack_is_as_the_psabi_draws_it`.) Two passes over the strings:
//! [`Stack::image`] sums up their sizes, so that a list that is too long is
//! refused before anything is written; [`StackImage::write`] streams the
//! bytes, in ascending order and pieces of at most [`PIECE_BYTES`], to a
//! [`Sink`]. So the kernel may keep its strings in any shape, and no buffer
//! for the image is needed. A sink that must wait fails, and the next
//! [`StackImage::write`] goes on where it was told to.

use crate::auxv::{ImageFacts, Pointers, ProcessFacts, entries};
use crate::error::ElfError;

/// The most bytes a sink gets at once.
pub const PIECE_BYTES: usize = 256;

/// The alignment of the stack pointer at the entry point, on every machine.
pub const ALIGN: u64 = 16;

/// What stands on an initial stack.
///
/// `A` and `E` are the arguments and the environment, each string without
/// NUL; they are walked several times.
#[derive(Clone, Debug)]
pub struct Stack<'a, A, E> {
    /// The arguments.
    pub argv: A,
    /// The environment.
    pub envp: E,
    /// What the kernel says.
    pub process: ProcessFacts<'a>,
    /// What the image says.
    pub image: ImageFacts,
}

/// An initial stack whose every address is decided.
#[derive(Clone, Debug)]
pub struct StackImage<'a, A, E> {
    stack: Stack<'a, A, E>,
    argc: u64,
    sp: u64,
    top: u64,
    /// Where the vector ends and the padding begins.
    vector_end: u64,
    /// Where the first argument and the first variable begin.
    strings: [u64; 2],
    pointers: Pointers,
}

/// Takes the bytes of a stack.
pub trait Sink {
    /// Why bytes could not be taken.
    type Error;

    /// Stores bytes at a user address. Each call begins where the one before
    /// ended.
    ///
    /// # Errors
    /// None of the bytes counts as stored; the writer stops.
    fn put(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Self::Error>;
}

impl<'a, 's, A, E> Stack<'a, A, E>
where
    A: Iterator<Item = &'s [u8]> + Clone,
    E: Iterator<Item = &'s [u8]> + Clone,
{
    /// Decides every address of the stack that ends at `top` and may have
    /// `limit` bytes (Linux: a quarter of the stack's limit).
    ///
    /// # Errors
    /// `ArgumentsTooBig` if it needs more than `limit` or than lies below `top`.
    pub fn image(self, top: u64, limit: u64) -> Result<StackImage<'a, A, E>, ElfError> {
        let (argc, arg_bytes) = measure(self.argv.clone());
        let (envc, env_bytes) = measure(self.envp.clone());
        let word = self.image.word_bytes;
        let platform_bytes = self.process.platform.map(string_bytes);

        // From the top down; a sum that wraps becomes too big, not small.
        let mut used = top.wrapping_rem(ALIGN);
        let mut take = |bytes: u64| {
            used = used.saturating_add(bytes);
            top.saturating_sub(used)
        };
        take(word);
        let path = take(string_bytes(self.process.path));
        let env = take(env_bytes);
        let args = take(arg_bytes);
        let platform = platform_bytes.map(&mut take);
        let random = take(self.process.random.len() as u64) & !ALIGN.wrapping_sub(1);
        let pointers = Pointers {
            random,
            platform,
            path,
        };

        let aux = entries(&self.image, &self.process, pointers).count() as u64;
        // argc, the two lists with a zero after each, the vector in pairs.
        let words = [1, argc, 1, envc, 1, aux, aux]
            .into_iter()
            .fold(0, u64::saturating_add);
        let vector = words.saturating_mul(word);
        let sp = random.saturating_sub(vector) & !ALIGN.wrapping_sub(1);

        // An upper bound of what rounding took, for the message and the check.
        let need = used
            .saturating_add(vector)
            .saturating_add(ALIGN.wrapping_mul(2));
        if need > limit || need > top {
            return Err(ElfError::ArgumentsTooBig { need });
        }
        Ok(StackImage {
            stack: self,
            argc,
            sp,
            top,
            vector_end: sp.saturating_add(vector),
            strings: [args, env],
            pointers,
        })
    }
}

impl<'s, A, E> StackImage<'_, A, E>
where
    A: Iterator<Item = &'s [u8]> + Clone,
    E: Iterator<Item = &'s [u8]> + Clone,
{
    /// Returns the stack pointer at the entry point: a multiple of [`ALIGN`].
    pub const fn sp(&self) -> u64 {
        self.sp
    }

    /// Returns the size of the image in bytes, from the stack pointer to the top.
    pub const fn bytes(&self) -> u64 {
        self.top.saturating_sub(self.sp)
    }

    /// Returns the number of arguments.
    pub const fn argc(&self) -> u64 {
        self.argc
    }

    /// Writes the image to the sink, without its first `done` bytes, and
    /// counts `done` up as pieces are stored. A caller whose sink had to wait
    /// calls again with the same count.
    ///
    /// # Errors
    /// The sink's; everything before `done` is stored.
    pub fn write<S: Sink>(&self, sink: &mut S, done: &mut u64) -> Result<(), S::Error> {
        let process = &self.stack.process;
        let mut out = Writer {
            sink,
            done,
            start: self.sp,
            at: self.sp,
            buffer: [0; PIECE_BYTES],
            len: 0,
            word: self.stack.image.word_bytes,
        };
        let [args, env] = self.strings;
        out.word(self.argc)?;
        out.pointers(args, self.stack.argv.clone())?;
        out.pointers(env, self.stack.envp.clone())?;
        for [key, value] in entries(&self.stack.image, process, self.pointers) {
            out.word(key)?;
            out.word(value)?;
        }
        out.zeroes(self.pointers.random.saturating_sub(self.vector_end))?;
        out.bytes(&process.random)?;
        let random_end = self
            .pointers
            .random
            .saturating_add(process.random.len() as u64);
        let strings = self.pointers.platform.unwrap_or(args);
        out.zeroes(strings.saturating_sub(random_end))?;
        for string in process.platform.into_iter() {
            out.string(string)?;
        }
        for string in self.stack.argv.clone().chain(self.stack.envp.clone()) {
            out.string(string)?;
        }
        out.string(process.path)?;
        out.zeroes(self.top.saturating_sub(out.position()))?;
        out.flush()
    }
}

/// Collects small writes into pieces, and leaves out those already stored.
struct Writer<'w, S: Sink> {
    sink: &'w mut S,
    done: &'w mut u64,
    /// The address of byte zero.
    start: u64,
    /// The address of the buffer's first byte.
    at: u64,
    buffer: [u8; PIECE_BYTES],
    len: usize,
    word: u64,
}

impl<S: Sink> Writer<'_, S> {
    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            let room = self.buffer.get_mut(self.len..).unwrap_or_default();
            let n = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(n);
            for (to, from) in room.iter_mut().zip(now) {
                *to = *from;
            }
            self.len = self.len.saturating_add(n);
            bytes = later;
            if self.len == PIECE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes a number as wide as an address, little endian.
    fn word(&mut self, value: u64) -> Result<(), S::Error> {
        let bytes = value.to_le_bytes();
        let width = if self.word == 4 { 4 } else { 8 };
        self.bytes(bytes.get(..width).unwrap_or(&bytes))
    }

    /// Writes the addresses of strings that stand one after the other.
    fn pointers<'s>(
        &mut self,
        first: u64,
        strings: impl Iterator<Item = &'s [u8]>,
    ) -> Result<(), S::Error> {
        let mut addr = first;
        for string in strings {
            self.word(addr)?;
            addr = addr.saturating_add(string_bytes(string));
        }
        self.word(0)
    }

    fn string(&mut self, string: &[u8]) -> Result<(), S::Error> {
        self.bytes(string)?;
        self.bytes(&[0])
    }

    fn zeroes(&mut self, count: u64) -> Result<(), S::Error> {
        for _ in 0..count {
            self.bytes(&[0])?;
        }
        Ok(())
    }

    const fn position(&self) -> u64 {
        self.at.saturating_add(self.len as u64)
    }

    fn flush(&mut self) -> Result<(), S::Error> {
        let end = self.position();
        if end.saturating_sub(self.start) > *self.done {
            let piece = self.buffer.get(..self.len).unwrap_or_default();
            self.sink.put(self.at, piece)?;
            *self.done = end.saturating_sub(self.start);
        }
        self.at = end;
        self.len = 0;
        Ok(())
    }
}

/// Counts strings and their bytes, each with its NUL.
fn measure<'s>(strings: impl Iterator<Item = &'s [u8]>) -> (u64, u64) {
    strings.fold((0, 0), |(count, bytes), string| {
        (
            u64::saturating_add(count, 1),
            u64::saturating_add(bytes, string_bytes(string)),
        )
    })
}

const fn string_bytes(string: &[u8]) -> u64 {
    (string.len() as u64).saturating_add(1)
}
