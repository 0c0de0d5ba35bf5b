//! Descriptors: open, close, dup, fcntl, pipe, getdents, truncate.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Call;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::device::Device;
use crate::fs::open::{FileKind, OpenFile, flag};
use crate::fs::proc::ProcFile;
use crate::fs::table::OnExec;
use crate::fs::text::OpenText;
use crate::fs::tree::{Kind, Node, Origin, mode};
use crate::fs::walk::{LastLink, Place};
use crate::limits::Grant;
use crate::memory::{Claim, FileData, FileNode, Purpose, Seals};
use crate::system::System;

fn on_exec(flags: usize) -> OnExec {
    if flags & flag::CLOSE_ON_EXEC != 0 {
        OnExec::Close
    } else {
        OnExec::Keep
    }
}

impl<A: Arch> System<A> {
    /// Tells whether reads of a file without places never wait (so that a long read
    /// need not stop at the first piece).
    pub fn endless(&self, file: &OpenFile<A>) -> bool {
        matches!(
            &file.kind,
            FileKind::Device(_, Device::Zero | Device::Full | Device::Random)
        )
    }
}

impl<A: Arch> Call<'_, A> {
    pub(super) fn openat(
        &self,
        dir: usize,
        path: usize,
        flags: usize,
        permissions: usize,
    ) -> Result {
        let flags = super::abi::open_flags::<A>(flags);
        let temporary = flags & flag::TEMPORARY != 0;
        let makes = flags & (flag::DIRECTORY | flag::CREATE) == flag::DIRECTORY;
        if temporary && (!makes || flags & flag::ACCESS == 0) {
            return Err(Errno::EINVAL);
        }
        let path = self.path(path)?;
        let last = if flags & flag::NO_FOLLOW != 0
            || flags & (flag::CREATE | flag::EXCLUSIVE) == flag::CREATE | flag::EXCLUSIVE
        {
            LastLink::Keep
        } else {
            LastLink::Follow
        };
        // Before anything is made: that there is no descriptor left makes no file.
        let files = self.task.process.files()?;
        let numbers = 0..self.task.process.file_limit();
        files.lock().free(numbers.clone())?;
        let grant = OpenFile::<A>::grant()?;
        let file = if temporary {
            let node = self.temporary(dir, &path, last, permissions as u32)?;
            self.open_node(node, flags & !flag::DIRECTORY, grant)?
        } else {
            let place = if flags & flag::CREATE != 0 {
                self.find_or_create(dir, &path, last, flags, permissions as u32)?
            } else {
                self.walk(dir, &path, last)?
            };
            self.open_node(place.existing()?.clone(), flags, grant)?
        };
        let fd = files.lock().insert(file.clone(), numbers, on_exec(flags))?;
        // Last, for the same reason: another thread may have taken the last descriptor.
        if flags & flag::ACCESS != 0 && flags & flag::TRUNCATE != 0 {
            let truncated = file
                .data(Errno::EINVAL)
                .map_or(Ok(()), |data| self.system.set_data_size(data, 0));
            if let Err(error) = truncated {
                let closed = files.lock().remove(fd);
                drop(closed);
                return Err(error);
            }
        }
        Ok(fd)
    }

    /// Walks to a file, and makes it if there is none.
    fn find_or_create(
        &self,
        dir: usize,
        path: &[u8],
        last: LastLink,
        flags: usize,
        permissions: u32,
    ) -> Result<Place<FileData<A>>> {
        // Nobody else makes the name between the look and the making.
        let _names = self.system.names.lock();
        let mut place = self.walk(dir, path, last)?;
        match &place.node {
            None if !place.wants_directory => {
                place.node = Some(self.create_file(&place, permissions)?);
            }
            Some(_) if flags & flag::EXCLUSIVE != 0 => return Err(Errno::EEXIST),
            _ => (),
        }
        Ok(place)
    }

    /// Opens a file that was found or made.
    pub(super) fn open_node(
        &self,
        node: Arc<FileNode<A>>,
        flags: usize,
        grant: Grant,
    ) -> Result<Arc<OpenFile<A>>> {
        let writes = flags & flag::ACCESS != 0;
        let kind = match &node.kind {
            Kind::Directory(_) if writes || flags & flag::CREATE != 0 => return Err(Errno::EISDIR),
            Kind::Directory(_) => FileKind::Directory(node, crate::sync::Mutex::new(None)),
            _ if flags & flag::DIRECTORY != 0 => return Err(Errno::ENOTDIR),
            Kind::Link(_) | Kind::Proc(ProcFile::Executable) => return Err(Errno::ELOOP),
            Kind::File(_) if writes && node.origin != Origin::Memory => return Err(Errno::EROFS),
            Kind::File(_) => FileKind::Regular(node),
            Kind::Proc(_) if writes => return Err(Errno::EACCES),
            Kind::Proc(ProcFile::Text(text)) => {
                let text = OpenText::new(*text, self.task.process.pid);
                FileKind::Text(node, text)
            }
            Kind::Device(device) => {
                let device = *device;
                FileKind::Device(node, device)
            }
        };
        let claim = match &kind {
            FileKind::Regular(node) if writes => Some(Claim::new(node.clone(), Purpose::Write)?),
            _ => None,
        };
        let kept = flags & (flag::ACCESS | flag::APPEND | flag::NONBLOCK | flag::DIRECTORY);
        Ok(OpenFile::granted(kind, kept, claim, grant))
    }

    fn create_file(
        &self,
        place: &Place<FileData<A>>,
        permissions: u32,
    ) -> Result<Arc<FileNode<A>>> {
        if place.directory.origin != Origin::Memory {
            return Err(Errno::EROFS);
        }
        let data = FileData::in_memory(self.system, Seals::SEAL)?;
        let umask = self.task.process.shared.lock().umask;
        let node = Node::new(
            Origin::Memory,
            permissions & !umask,
            self.system.wall_seconds(),
            Kind::File(data),
        )?;
        place.directory.create(&place.name, node.clone())?;
        self.system.files.enter(&node);
        Ok(node)
    }

    pub(super) fn close(&self, fd: usize) -> Result {
        let file = self
            .task
            .process
            .files()?
            .lock()
            .remove(fd as u32 as usize)?;
        drop(file);
        Ok(0)
    }

    pub(super) fn dup(&self, fd: usize) -> Result {
        let (file, most) = (self.file(fd)?, self.task.process.file_limit());
        self.task
            .process
            .files()?
            .lock()
            .insert(file, 0..most, OnExec::Keep)
    }

    pub(super) fn dup2(&self, from: usize, to: usize) -> Result {
        if from == to {
            self.file(from).map(|_| to)
        } else {
            self.dup_to(from, to, OnExec::Keep)
        }
    }

    pub(super) fn dup3(&self, from: usize, to: usize, flags: usize) -> Result {
        if from == to {
            Err(Errno::EINVAL)
        } else {
            self.dup_to(from, to, on_exec(flags))
        }
    }

    fn dup_to(&self, from: usize, to: usize, mark: OnExec) -> Result {
        let file = self.file(from)?;
        if to as u32 as usize >= self.task.process.file_limit() {
            return Err(Errno::EBADF);
        }
        let old = self
            .task
            .process
            .files()?
            .lock()
            .replace(to as u32 as usize, file, mark)?;
        drop(old);
        Ok(to)
    }

    pub(super) fn fcntl(&self, fd: usize, command: usize, argument: usize) -> Result {
        let file = self.file(fd)?;
        let files = self.task.process.files()?;
        let fd = fd as u32 as usize;
        let numbers = argument..self.task.process.file_limit();
        match command {
            // F_DUPFD, F_DUPFD_CLOEXEC
            0 => files.lock().insert(file, numbers, OnExec::Keep),
            1030 => files.lock().insert(file, numbers, OnExec::Close),
            // F_GETFD, F_SETFD
            1 => Ok(usize::from(files.lock().on_exec(fd)? == OnExec::Close)),
            2 => {
                let mark = if argument & 1 != 0 {
                    OnExec::Close
                } else {
                    OnExec::Keep
                };
                files.lock().set_on_exec(fd, mark).map(|()| 0)
            }
            // F_GETFL, F_SETFL
            3 => Ok(*file.flags.lock()),
            4 => {
                let changeable = flag::APPEND | flag::NONBLOCK;
                let mut flags = file.flags.lock();
                *flags = *flags & !changeable | argument & changeable;
                Ok(0)
            }
            // F_ADD_SEALS, F_GET_SEALS
            1033 => self.add_seals(&file, argument as u32),
            1034 => self.get_seals(&file),
            // F_GETLK; F_SETLK, F_SETLKW.
            5 => self.look_at_lock(argument),
            6 | 7 => self.lock_type(argument).map(|_| 0),
            // The same for `struct flock64`, which only 32-bit programs need.
            12 if Self::WORD == 4 => self.look_at_lock(argument),
            13 | 14 if Self::WORD == 4 => self.lock_type(argument).map(|_| 0),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Answers that nobody holds the lock: all locks succeed.
    fn look_at_lock(&self, at: usize) -> Result {
        const UNLOCKED: u16 = 2;
        self.lock_type(at)?;
        self.put(at, &UNLOCKED.to_ne_bytes()).map(|()| 0)
    }

    /// Reads the type of a lock, which stands first in either structure.
    fn lock_type(&self, at: usize) -> Result<u16> {
        const LAST: u16 = 2;
        let kind = u16::from_ne_bytes(self.get(at)?);
        if kind > LAST {
            Err(Errno::EINVAL)
        } else {
            Ok(kind)
        }
    }

    pub(super) fn pipe2(&self, into: usize, flags: usize) -> Result {
        if flags & !(flag::CLOSE_ON_EXEC | flag::NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        let (reader, writer) = OpenFile::pipe(self.system, flags & flag::NONBLOCK)?;
        let files = self.task.process.files()?;
        let numbers = 0..self.task.process.file_limit();
        let read_fd = files
            .lock()
            .insert(reader, numbers.clone(), on_exec(flags))?;
        let write_fd = files.lock().insert(writer, numbers, on_exec(flags));
        let mut numbers = [0; 8];
        numbers[..4].copy_from_slice(&(read_fd as u32).to_ne_bytes());
        numbers[4..].copy_from_slice(&(*write_fd.as_ref().unwrap_or(&0) as u32).to_ne_bytes());
        let stored = write_fd.and_then(|fd| {
            self.put(into, &numbers).inspect_err(|_| {
                let _closed = files.lock().remove(fd);
            })
        });
        if stored.is_err() {
            let closed = files.lock().remove(read_fd);
            drop(closed);
        }
        stored.map(|()| 0)
    }

    pub(super) fn getdents64(&self, fd: usize, into: usize, size: usize) -> Result {
        let file = self.file(fd)?;
        let FileKind::Directory(node, last) = &file.kind else {
            return Err(Errno::ENOTDIR);
        };
        // Two that list one open directory share its entries.
        let _turn = file.turn.take(self.system);
        let mut position = *file.offset.lock();
        let mut done = 0;
        loop {
            let (name, ino, kind): (Box<[u8]>, u64, u32) = match position {
                0 => (b".".as_slice().into(), node.ino, mode::DIRECTORY),
                1 => {
                    let above = node.above().map_or(node.ino, |above| above.ino);
                    (b"..".as_slice().into(), above, mode::DIRECTORY)
                }
                _ => {
                    let previous = last.lock().clone();
                    match node.entry_after(previous.as_deref())? {
                        Some((name, child)) => (name, child.ino, child.type_bits()),
                        None => break,
                    }
                }
            };
            let length = (19 + name.len() + 1).next_multiple_of(8);
            if done + length > size {
                if done == 0 {
                    return Err(Errno::EINVAL);
                }
                break;
            }
            let mut record: Vec<u8> = Vec::with_capacity(length);
            record.extend_from_slice(&ino.to_ne_bytes());
            record.extend_from_slice(&(position + 1).to_ne_bytes());
            record.extend_from_slice(&(length as u16).to_ne_bytes());
            record.push((kind >> 12) as u8);
            record.extend_from_slice(&name);
            record.resize(length, 0);
            match self.put(into.wrapping_add(done), &record) {
                Err(error) if done == 0 => return Err(error),
                // What was put already is listed, and this entry will be next.
                Err(_) => break,
                Ok(()) => {}
            }
            if position >= 2 {
                *last.lock() = Some(name);
            }
            position += 1;
            *file.offset.lock() = position;
            done += length;
        }
        Ok(done)
    }

    pub(super) fn truncate(&self, path: usize, size: u64) -> Result {
        let place = self.walk(super::AT_FDCWD, &self.path(path)?, LastLink::Follow)?;
        let node = place.existing()?;
        match &node.kind {
            Kind::Directory(_) => Err(Errno::EISDIR),
            Kind::File(_) if node.origin != Origin::Memory => Err(Errno::EROFS),
            Kind::File(_) => {
                let claim = Claim::new(node.clone(), Purpose::Write)?;
                self.resize(claim.data()?, size)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn ftruncate(&self, fd: usize, size: u64) -> Result {
        let file = self.file(fd)?;
        file.writable().map_err(|_| Errno::EINVAL)?;
        self.resize(file.data(Errno::EINVAL)?, size)
    }

    fn resize(&self, data: &FileData<A>, size: u64) -> Result {
        if i64::try_from(size).is_err() {
            return Err(Errno::EINVAL);
        }
        self.system.set_data_size(data, size)?;
        Ok(0)
    }
}
