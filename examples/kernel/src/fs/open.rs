//! Open files: what descriptors share.
//!
//! | kind | read | write | when it would block |
//! |---|---|---|---|
//! | regular file | from the page cache | into the page cache (/tmp only) | a transfer: always waited for |
//! | text of /proc | from a copy made at its start | – | never |
//! | pipe end | bytes in order | all of it | sleeps, or EAGAIN |
//! | terminal | a line | at once | sleeps, or EAGAIN |
//! | other device | at once | at once | never |
//!
//! Reads and writes here are between a file and a buffer of the kernel; the syscalls
//! carry the bytes to and from user memory. Closing a pipe's end is its drop.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;

use super::device::Device;
use super::text::OpenText;

use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::limits::{FILES_QUOTA, Grant, PIPES_QUOTA};
use crate::memory::{Claim, FileData, FileNode};
use crate::pipe::Pipe;
use crate::sched::turn::{Held, Turn};
use crate::sched::{Channel, Patience};
use crate::system::System;
use crate::tty::Tty;

/// Flags of open(2) that the file keeps, and those that only open itself looks at.
pub mod flag {
    /// Mask of the access mode.
    pub const ACCESS: usize = 0o3;
    /// Only for writing.
    pub const WRITE_ONLY: usize = 0o1;
    /// For both.
    pub const READ_WRITE: usize = 0o2;
    /// Make the file if it is missing.
    pub const CREATE: usize = 0o100;
    /// It must be missing.
    pub const EXCLUSIVE: usize = 0o200;
    /// Empty the file.
    pub const TRUNCATE: usize = 0o1000;
    /// Write at the end.
    pub const APPEND: usize = 0o2000;
    /// EAGAIN rather than sleep.
    pub const NONBLOCK: usize = 0o4000;
    /// It must be a directory.
    pub const DIRECTORY: usize = 0o200_000;
    /// It must not be a link.
    pub const NO_FOLLOW: usize = 0o400_000;
    /// A file without a name; it comes with `DIRECTORY`, as what is named is where it is made.
    pub const TEMPORARY: usize = 0o20_000_000;
    /// Close on exec.
    pub const CLOSE_ON_EXEC: usize = 0o2_000_000;
}

/// What is open.
pub enum FileKind<A: Arch> {
    /// A regular file.
    Regular(Arc<FileNode<A>>),
    /// A directory, and the name listed last.
    Directory(Arc<FileNode<A>>, Mutex<Option<Box<[u8]>>>),
    /// A text of /proc.
    Text(Arc<FileNode<A>>, OpenText),
    /// A device.
    Device(Arc<FileNode<A>>, Device),
    /// An end of a pipe.
    Pipe(PipeEnd<A>),
}

/// An open file.
pub struct OpenFile<A: Arch> {
    /// What is open.
    pub kind: FileKind<A>,
    /// `flag` bits.
    pub flags: Mutex<usize>,
    /// Where the next read or write starts, in bytes.
    pub offset: Mutex<u64>,
    /// Held from looking at `offset` until it has moved.
    pub turn: Turn,
    _claim: Option<Claim<A>>,
    _grant: Grant,
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that bytes come out of.
    Reader,
    /// The end that bytes go into.
    Writer,
}

/// A pipe as both ends see it.
pub struct Line {
    /// Number, which names its wait channel and its inode.
    pub number: u64,
    /// The bytes.
    pub pipe: Mutex<Pipe>,
    _grant: Grant,
}

/// One end of a pipe; dropping it closes it.
pub struct PipeEnd<A: Arch> {
    system: &'static System<A>,
    /// The pipe.
    pub line: Arc<Line>,
    /// Which end.
    pub side: Side,
}

impl<A: Arch> Drop for PipeEnd<A> {
    fn drop(&mut self) {
        match self.side {
            Side::Reader => self.line.pipe.lock().close_reader(),
            Side::Writer => self.line.pipe.lock().close_writer(),
        }
        self.system.wake(Channel::Pipe(self.line.number));
    }
}

static NEXT_PIPE: AtomicU64 = AtomicU64::new(1 << 32);

impl<A: Arch> OpenFile<A> {
    /// Makes an open file.
    ///
    /// # Errors
    /// `ENFILE` when the machine has as many as it may.
    pub fn new(kind: FileKind<A>, flags: usize) -> Result<Arc<Self>> {
        Ok(Self::granted(kind, flags, None, Self::grant()?))
    }

    /// Takes what one open file costs of the quota.
    ///
    /// # Errors
    /// `ENFILE`.
    pub fn grant() -> Result<Grant> {
        FILES_QUOTA.take(1, Errno::ENFILE)
    }

    /// Makes an open file for which [`OpenFile::grant`] was taken, and a regular one claimed if it
    /// is for writing.
    pub fn granted(
        kind: FileKind<A>,
        flags: usize,
        claim: Option<Claim<A>>,
        grant: Grant,
    ) -> Arc<Self> {
        Arc::new(OpenFile {
            kind,
            flags: Mutex::new(flags),
            offset: Mutex::new(0),
            turn: Turn::new(),
            _claim: claim,
            _grant: grant,
        })
    }

    /// Makes a pipe: the reading end, the writing end.
    ///
    /// # Errors
    /// `ENFILE`, `ENOMEM`.
    pub fn pipe(system: &'static System<A>, flags: usize) -> Result<(Arc<Self>, Arc<Self>)> {
        let grant = PIPES_QUOTA.take(1, Errno::ENFILE)?;
        let number = NEXT_PIPE.fetch_add(1, Ordering::Relaxed);
        let line = Arc::new(Line {
            number,
            pipe: Mutex::new(Pipe::new()?),
            _grant: grant,
        });
        let end = |side| {
            FileKind::Pipe(PipeEnd {
                system,
                line: line.clone(),
                side,
            })
        };
        let reader = Self::new(end(Side::Reader), flags)?;
        let writer = Self::new(end(Side::Writer), flags | flag::WRITE_ONLY)?;
        Ok((reader, writer))
    }

    fn has(&self, wanted: usize) -> bool {
        *self.flags.lock() & wanted != 0
    }

    /// Answers an error unless the file was opened for reading.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn readable(&self) -> Result<()> {
        if *self.flags.lock() & flag::ACCESS == flag::WRITE_ONLY {
            Err(Errno::EBADF)
        } else {
            Ok(())
        }
    }

    /// Answers an error unless the file was opened for writing.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn writable(&self) -> Result<()> {
        if *self.flags.lock() & flag::ACCESS == 0 {
            Err(Errno::EBADF)
        } else {
            Ok(())
        }
    }

    /// Answers the node behind, if it has one.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<FileNode<A>>> {
        match &self.kind {
            FileKind::Regular(node)
            | FileKind::Directory(node, _)
            | FileKind::Text(node, ..)
            | FileKind::Device(node, _) => Some(node),
            FileKind::Pipe(_) => None,
        }
    }

    /// Answers the regular file behind.
    ///
    /// # Errors
    /// `otherwise` for anything else.
    pub fn data(&self, otherwise: Errno) -> Result<&FileData<A>> {
        match &self.kind {
            FileKind::Regular(node) => match &node.kind {
                super::tree::Kind::File(data) => Ok(data),
                _ => Err(otherwise),
            },
            _ => Err(otherwise),
        }
    }

    /// Tells whether reads and writes have places.
    #[must_use]
    pub fn seekable(&self) -> bool {
        match &self.kind {
            FileKind::Regular(_) | FileKind::Directory(..) | FileKind::Text(..) => true,
            FileKind::Device(_, device) => *device != Device::Terminal,
            FileKind::Pipe(_) => false,
        }
    }

    /// Answers which of poll's events are there now.
    #[must_use]
    pub fn events(&self, system: &System<A>) -> Events {
        match &self.kind {
            FileKind::Pipe(end) => {
                let pipe = end.line.pipe.lock();
                match end.side {
                    Side::Reader => Events {
                        read: pipe.readable() && !(pipe.hung_up() && pipe.pending_bytes() == 0),
                        write: false,
                        hang_up: pipe.hung_up(),
                        error: false,
                    },
                    Side::Writer => Events {
                        read: false,
                        write: pipe.writable(),
                        hang_up: false,
                        error: pipe.broken(),
                    },
                }
            }
            FileKind::Device(_, Device::Terminal) => Events {
                read: system.tty.lock().readable(),
                write: true,
                hang_up: false,
                error: false,
            },
            _ => Events {
                read: true,
                write: true,
                hang_up: false,
                error: false,
            },
        }
    }
}

/// What poll(2) can say of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// A read would not block and finds data or the end.
    pub read: bool,
    /// A write would not block.
    pub write: bool,
    /// The writers have gone.
    pub hang_up: bool,
    /// The readers have gone.
    pub error: bool,
}

/// Where a transfer takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the file's own offset, which moves.
    Here,
    /// At this offset; the file's own stays (pread, pwrite).
    At(u64),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the file.
    Read,
    /// Into the file.
    Write,
}

/// A transfer under way: where its next byte stands, and the turns that keep others out until it is
/// over, so that the bytes of one call stay together.
pub struct Course<'a, A: Arch> {
    /// What is read or written.
    pub file: &'a OpenFile<A>,
    /// Which way.
    pub way: Way,
    at: u64,
    moves: bool,
    _offset: Option<Held<'a>>,
    _writing: Option<Held<'a>>,
}

impl<A: Arch> Course<'_, A> {
    /// Answers where the next byte stands.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    fn go_to(&mut self, at: u64) {
        self.at = at;
        if self.moves {
            *self.file.offset.lock() = at;
        }
    }

    fn advance(&mut self, by: usize) {
        if by > 0 {
            self.go_to(self.at + by as u64);
        }
    }

    /// Goes back over bytes that were read and found no taker.
    pub fn give_back(&mut self, bytes: usize) {
        if bytes > 0 {
            self.go_to(self.at - bytes as u64);
        }
    }
}

impl<A: Arch> System<A> {
    /// Begins a transfer; the caller holds no turn.
    ///
    /// # Errors
    /// `EBADF`, `ESPIPE`.
    pub fn begin<'a>(
        &self,
        file: &'a OpenFile<A>,
        place: Place,
        way: Way,
    ) -> Result<Course<'a, A>> {
        match way {
            Way::Read => file.readable()?,
            Way::Write => file.writable()?,
        }
        if place != Place::Here && !file.seekable() {
            return Err(Errno::ESPIPE);
        }
        let moves = place == Place::Here && file.seekable();
        let offset = moves.then(|| file.turn.take(self));
        let written = match way {
            Way::Write => file.data(Errno::EBADF).ok(),
            Way::Read => None,
        };
        let writing = written.map(|data| data.writing.take(self));
        let at = match (written, place) {
            // Wherever the caller meant (Linux: pwrite, too).
            (Some(data), _) if file.has(flag::APPEND) => data.size(),
            (_, Place::At(at)) => at,
            (_, Place::Here) => *file.offset.lock(),
        };
        Ok(Course {
            file,
            way,
            at,
            moves,
            _offset: offset,
            _writing: writing,
        })
    }

    /// Reads into a buffer; 0 is the end of the file.
    ///
    /// # Errors
    /// `EISDIR`, `EAGAIN`, `EIO`; restarted after a signal.
    pub fn read_file(&self, course: &mut Course<'_, A>, into: &mut [u8]) -> Result {
        let file = course.file;
        let n = match &file.kind {
            FileKind::Directory(..) => return Err(Errno::EISDIR),
            FileKind::Regular(_) => self.read_data(file.data(Errno::EIO)?, course.at, into)?,
            FileKind::Text(_, text) => text.read(self, course.at, into)?,
            FileKind::Pipe(end) => {
                let n = self.when_ready(file, Channel::Pipe(end.line.number), || {
                    end.line.pipe.lock().read(into)
                })?;
                self.wake(Channel::Pipe(end.line.number));
                n
            }
            FileKind::Device(_, Device::Terminal) => {
                self.when_ready(file, Channel::Terminal, || self.tty.lock().read(into))?
            }
            FileKind::Device(_, Device::Null) => 0,
            FileKind::Device(_, Device::Zero | Device::Full) => {
                into.fill(0);
                into.len()
            }
            FileKind::Device(_, Device::Random) => {
                self.arch.random(into);
                into.len()
            }
        };
        course.advance(n);
        Ok(n)
    }

    /// Writes a buffer; may write less when it is cut short.
    ///
    /// # Errors
    /// `EBADF`, `EPIPE`, `EAGAIN`, `ENOSPC`, `EFBIG`; restarted after a signal.
    pub fn write_file(&self, course: &mut Course<'_, A>, from: &[u8]) -> Result {
        let file = course.file;
        let n = match &file.kind {
            FileKind::Directory(..) | FileKind::Text(..) => return Err(Errno::EBADF),
            FileKind::Regular(node) => {
                let n = self.write_data(file.data(Errno::EIO)?, course.at, from)?;
                node.facts.lock().mtime = self.wall_seconds();
                n
            }
            FileKind::Pipe(end) => self.write_pipe(file, end, from)?,
            FileKind::Device(_, Device::Terminal) => {
                let termios = self.tty.lock().termios;
                Tty::cook(&termios, from, |bytes| self.arch.console_write(bytes));
                from.len()
            }
            FileKind::Device(_, Device::Full) => return Err(Errno::ENOSPC),
            FileKind::Device(_, Device::Null | Device::Zero | Device::Random) => from.len(),
        };
        course.advance(n);
        Ok(n)
    }

    fn write_pipe(&self, file: &OpenFile<A>, end: &PipeEnd<A>, from: &[u8]) -> Result {
        let channel = Channel::Pipe(end.line.number);
        let mut done = 0;
        while done < from.len() {
            match self.when_ready(file, channel, || end.line.pipe.lock().write(&from[done..])) {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
            self.wake(channel);
        }
        Ok(done)
    }

    /// Tries until it does not answer EAGAIN, asleep on `channel` in between.
    fn when_ready(
        &self,
        file: &OpenFile<A>,
        channel: Channel,
        mut attempt: impl FnMut() -> Result,
    ) -> Result {
        let nonblock = file.has(flag::NONBLOCK);
        let look = || match attempt() {
            Err(Errno::EAGAIN) if !nonblock => None,
            other => Some(other),
        };
        self.wait_until(channel, None, Patience::Interruptible, look)
            .map_err(|_| Errno::RESTART)?
    }
}
