//! Bytes between files and user memory: read, write and their variants.
//!
//! Bytes pass through a buffer on the kernel stack, a page at a time, in one turn from the first to
//! the last. A transfer that got somewhere answers how far, whatever stopped it.

use super::Call;
use crate::arch::{Arch, FaultAccess};
use crate::errno::{Errno, Result};
use crate::fs::open::{Course, FileKind, OpenFile, Place, Way};
use crate::memory::{Outcome, page_shift};
use crate::task::signal::SIGPIPE;

const CHUNK: usize = 4096;
const MAX_VECTORS: usize = 1024;
/// Most bytes of one transfer (Linux: MAX_RW_COUNT).
const MAX_BYTES: usize = 0x7fff_f000;

impl<A: Arch> Call<'_, A> {
    pub(super) fn read(&self, fd: usize, address: usize, length: usize) -> Result {
        self.one(fd, Place::Here, (address, length), Way::Read)
    }

    pub(super) fn write(&self, fd: usize, address: usize, length: usize) -> Result {
        self.one(fd, Place::Here, (address, length), Way::Write)
    }

    pub(super) fn pread(&self, fd: usize, address: usize, length: usize, at: u64) -> Result {
        self.one(fd, offset(at)?, (address, length), Way::Read)
    }

    pub(super) fn pwrite(&self, fd: usize, address: usize, length: usize, at: u64) -> Result {
        self.one(fd, offset(at)?, (address, length), Way::Write)
    }

    fn one(&self, fd: usize, place: Place, bytes: (usize, usize), way: Way) -> Result {
        let file = self.file(fd)?;
        self.transfer(&mut self.system.begin(&file, place, way)?, bytes)
    }

    pub(super) fn readv(&self, fd: usize, vectors: usize, count: usize) -> Result {
        self.vectored(fd, vectors, count, Way::Read)
    }

    pub(super) fn writev(&self, fd: usize, vectors: usize, count: usize) -> Result {
        self.vectored(fd, vectors, count, Way::Write)
    }

    fn vectored(&self, fd: usize, vectors: usize, count: usize, way: Way) -> Result {
        let file = self.file(fd)?;
        if count > MAX_VECTORS {
            return Err(Errno::EINVAL);
        }
        let mut course = self.system.begin(&file, Place::Here, way)?;
        let mut done = 0usize;
        for i in 0..count {
            let vector = self
                .get_nth(vectors, 2 * i)
                .and_then(|base| Ok((base, self.get_nth(vectors, 2 * i + 1)?)));
            let moved = vector.and_then(|(base, length)| {
                Ok((length, self.transfer(&mut course, (base, length))?))
            });
            match moved {
                Ok((length, n)) => {
                    done = done.saturating_add(n);
                    if n < length {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Moves bytes between a file and the program's memory from `address` on.
    fn transfer(&self, course: &mut Course<'_, A>, (address, length): (usize, usize)) -> Result {
        if isize::try_from(length).is_err() {
            return Err(Errno::EINVAL);
        }
        let file = course.file;
        let streams = course.way == Way::Read && !file.seekable() && !self.system.endless(file);
        let length = length.min(MAX_BYTES);
        let mut buffer = [0; CHUNK];
        let mut done = 0;
        loop {
            let chunk = &mut buffer[..CHUNK.min(length - done)];
            let user = address.wrapping_add(done);
            let moved = match course.way {
                Way::Read => self.read_out(course, user, chunk),
                Way::Write => self.write_in(course, user, chunk),
            };
            match moved {
                Ok(n) => {
                    done += n;
                    if done == length
                        || n < chunk.len()
                        || n == 0
                        || streams
                        || self.task.own.lock().ends
                    {
                        return Ok(done);
                    }
                    self.system.breathe();
                }
                Err(Errno::EPIPE) => {
                    self.raise_here(SIGPIPE);
                    return if done > 0 {
                        Ok(done)
                    } else {
                        Err(Errno::EPIPE)
                    };
                }
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }

    /// Copies a piece from the program, as far as it can be read, and writes it.
    fn write_in(&self, course: &mut Course<'_, A>, user: usize, chunk: &mut [u8]) -> Result {
        let n = self.system.read_user_some(&*self.space()?, user, chunk)?;
        self.system.write_file(course, &chunk[..n])
    }

    /// Reads a piece and copies it to the program. What finds no place there stays unread: in a
    /// file the transfer goes back over it, and from a stream no more is taken than has a place.
    fn read_out(&self, course: &mut Course<'_, A>, user: usize, chunk: &mut [u8]) -> Result {
        let space = self.space()?;
        let room = if course.file.seekable() {
            chunk.len()
        } else {
            self.writable_at(user, chunk.len())?
        };
        let n = self.system.read_file(course, &mut chunk[..room])?;
        let copied = self.system.write_user_some(&space, user, &chunk[..n]);
        if course.file.seekable() {
            course.give_back(n - copied.as_ref().copied().unwrap_or(0));
        }
        copied
    }

    /// Answers how many bytes from `user` on the program could store to, `length` at most.
    ///
    /// # Errors
    /// As a store to the first of them.
    fn writable_at(&self, user: usize, length: usize) -> Result {
        let page = 1usize << page_shift::<A>();
        let space = self.space()?;
        let mut done = 0;
        while done < length {
            let at = user.checked_add(done).ok_or(Errno::EFAULT)?;
            let stopped = match self.system.resolve_fault(&space, at, FaultAccess::Write) {
                Outcome::Retry => continue,
                Outcome::Resolved => None,
                Outcome::OutOfMemory => Some(Errno::ENOMEM),
                Outcome::Signal(..) => Some(Errno::EFAULT),
            };
            match stopped {
                Some(error) if done == 0 => return Err(error),
                Some(_) => break,
                None => done += page - at % page,
            }
        }
        Ok(done.min(length))
    }

    pub(super) fn sendfile(
        &self,
        out: usize,
        from: usize,
        offset_at: usize,
        count: usize,
        offset_bytes: usize,
    ) -> Result {
        let (out, from) = (self.file(out)?, self.file(from)?);
        from.data(Errno::EINVAL)?;
        from.readable()?;
        out.writable()?;
        let start = if offset_at == 0 {
            None
        } else {
            let mut bytes = [0; 8];
            self.get_into(offset_at, &mut bytes[..offset_bytes])?;
            Some(u64::from_le_bytes(bytes))
        };
        let sent = self.send_pieces(&out, &from, start, count.min(MAX_BYTES));
        if let (Some(start), Ok(done)) = (start, &sent) {
            let end = start + *done as u64;
            self.put(offset_at, &end.to_le_bytes()[..offset_bytes])?;
        }
        sent
    }

    /// Sends from `start` on, or as read would from the file's own offset: each piece moves it in
    /// one turn, so that two who send from one open file send different bytes. The turn is not kept
    /// while a piece is written, which may take until somebody empties a pipe.
    fn send_pieces(
        &self,
        out: &OpenFile<A>,
        from: &OpenFile<A>,
        start: Option<u64>,
        count: usize,
    ) -> Result {
        let mut buffer = [0; CHUNK];
        let mut done = 0;
        while done < count && !self.task.own.lock().ends {
            self.system.breathe();
            let chunk = &mut buffer[..CHUNK.min(count - done)];
            let place = match start {
                None => Place::Here,
                Some(start) => Place::At(start.checked_add(done as u64).ok_or(Errno::EINVAL)?),
            };
            let read = self.read_piece(from, place, chunk);
            let (at, n) = match read {
                Ok((_, 0)) => break,
                Ok(piece) => piece,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            let written = self
                .system
                .begin(out, Place::Here, Way::Write)
                .and_then(|mut course| self.system.write_file(&mut course, &chunk[..n]));
            if start.is_none() {
                self.give_back(from, at, n, written.as_ref().copied().unwrap_or(0));
            }
            match written {
                Ok(written) => {
                    done += written;
                    if written < n {
                        break;
                    }
                }
                Err(Errno::EPIPE) => {
                    self.raise_here(SIGPIPE);
                    return Err(Errno::EPIPE);
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Reads a piece in a turn of its own; answers where, and how much.
    fn read_piece(
        &self,
        file: &OpenFile<A>,
        place: Place,
        into: &mut [u8],
    ) -> Result<(u64, usize)> {
        let mut course = self.system.begin(file, place, Way::Read)?;
        let at = course.at();
        Ok((at, self.system.read_file(&mut course, into)?))
    }

    /// Moves a file's offset back over what was read but found no taker. If somebody has moved it
    /// since, they are lost, as with a reader who drops them.
    fn give_back(&self, file: &OpenFile<A>, at: u64, read: usize, taken: usize) {
        if taken < read {
            let _turn = file.turn.take(self.system);
            let mut offset = file.offset.lock();
            if *offset == at + read as u64 {
                *offset = at + taken as u64;
            }
        }
    }

    /// Arm's: the offset comes in halves, and the answer goes to memory.
    pub(super) fn llseek(&self, fd: usize, by: u64, into: usize, whence: usize) -> Result {
        let to = self.lseek(fd, by as i64, whence)?;
        self.put(into, &to.to_le_bytes()).map(|()| 0)
    }

    pub(super) fn lseek(&self, fd: usize, by: i64, whence: usize) -> Result<u64> {
        let file = self.file(fd)?;
        if !file.seekable() {
            return Err(Errno::ESPIPE);
        }
        if let FileKind::Device(..) = &file.kind {
            // It is the same everywhere (Linux: null_lseek).
            return Ok(0);
        }
        let _turn = file.turn.take(self.system);
        let size = file.data(Errno::EINVAL).map_or(0, |data| data.size());
        let from = match whence {
            0 => 0,
            1 => *file.offset.lock() as i64,
            2 => size as i64,
            // SEEK_DATA, SEEK_HOLE: no file has holes that it would tell of.
            3 if (0..size as i64).contains(&by) => 0,
            4 if (0..size as i64).contains(&by) => size as i64 - by,
            3 | 4 => return Err(Errno::ENXIO),
            _ => return Err(Errno::EINVAL),
        };
        let to = from
            .checked_add(by)
            .filter(|to| *to >= 0)
            .ok_or(Errno::EINVAL)?;
        if let FileKind::Directory(node, last) = &file.kind {
            // The place of an entry is how many come before it, `.` and `..` among them.
            let before = usize::try_from(to).unwrap_or(usize::MAX).saturating_sub(2);
            *last.lock() = node.last_of(before)?;
        }
        *file.offset.lock() = to as u64;
        Ok(to as u64)
    }
}

fn offset(at: u64) -> Result<Place> {
    if i64::try_from(at).is_err() {
        Err(Errno::EINVAL)
    } else {
        Ok(Place::At(at))
    }
}
