//! Facts about files: the stat family, access, chmod, chown, times.

use alloc::sync::Arc;

use super::{AT_FDCWD, Call};
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::open::{FileKind, OpenFile};
use crate::fs::tree::{Kind, Node, Origin, mode};
use crate::fs::walk::LastLink;
use crate::memory::FileNode;

/// The link itself is meant.
pub const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const AT_EMPTY_PATH: usize = 0x1000;
const BLOCK: u64 = 512;

/// What all forms of stat report.
struct Facts {
    device: u64,
    ino: u64,
    mode: u32,
    links: u32,
    uid: u32,
    gid: u32,
    special: (u32, u32),
    size: u64,
    mtime: u64,
}

impl Facts {
    fn of_node<A: Arch>(node: &FileNode<A>) -> Self {
        let facts = *node.facts.lock();
        let size = match &node.kind {
            Kind::File(data) => data.size(),
            Kind::Link(target) => target.len() as u64,
            _ => 0,
        };
        let special = match &node.kind {
            Kind::Device(device) => device.number(),
            _ => (0, 0),
        };
        let device = match node.origin {
            Origin::Archive => 1,
            Origin::Memory => 2,
            Origin::Synthetic => 3,
        };
        let mode = node.type_bits() | facts.permissions;
        Facts {
            device,
            ino: node.ino,
            mode,
            links: facts.links,
            uid: facts.uid,
            gid: facts.gid,
            special,
            size,
            mtime: facts.mtime,
        }
    }

    fn of_file<A: Arch>(file: &OpenFile<A>) -> Self {
        match (&file.kind, file.node()) {
            (_, Some(node)) => Self::of_node(node),
            (FileKind::Pipe(end), None) => {
                let mode = mode::FIFO | 0o600;
                Facts {
                    device: 4,
                    ino: end.line.number,
                    mode,
                    links: 1,
                    uid: 0,
                    gid: 0,
                    special: (0, 0),
                    size: 0,
                    mtime: 0,
                }
            }
            _ => Facts {
                device: 4,
                ino: 0,
                mode: 0,
                links: 1,
                uid: 0,
                gid: 0,
                special: (0, 0),
                size: 0,
                mtime: 0,
            },
        }
    }

    /// `struct stat` of x86-64, 144 bytes.
    fn stat_x86_64(&self) -> [u8; 144] {
        let mut out = Record::<144>::new();
        let (major, minor) = self.special;
        out.u64(self.device)
            .u64(self.ino)
            .u64(u64::from(self.links));
        out.u32(self.mode).u32(self.uid).u32(self.gid).u32(0);
        out.u64(u64::from(major << 8 | minor))
            .u64(self.size)
            .u64(4096)
            .u64(self.size.div_ceil(BLOCK));
        for _ in 0..3 {
            out.u64(self.mtime).u64(0);
        }
        out.bytes
    }

    /// `struct statx`, 256 bytes, the same everywhere.
    fn statx(&self) -> [u8; 256] {
        const BASIC: u32 = 0x7ff;
        let mut out = Record::<256>::new();
        let (major, minor) = self.special;
        out.u32(BASIC)
            .u32(4096)
            .u64(0)
            .u32(self.links)
            .u32(self.uid)
            .u32(self.gid)
            .u32(self.mode & 0xffff);
        out.u64(self.ino)
            .u64(self.size)
            .u64(self.size.div_ceil(BLOCK))
            .u64(0);
        for _ in 0..4 {
            out.u64(self.mtime).u64(0);
        }
        out.u32(major).u32(minor).u32(0).u32(self.device as u32);
        out.bytes
    }
}

/// A structure written field by field.
struct Record<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Record<N> {
    fn new() -> Self {
        Record {
            bytes: [0; N],
            at: 0,
        }
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes[self.at..self.at + 4].copy_from_slice(&value.to_ne_bytes());
        self.at += 4;
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes[self.at..self.at + 8].copy_from_slice(&value.to_ne_bytes());
        self.at += 8;
        self
    }
}

impl<A: Arch> Call<'_, A> {
    fn facts_at(&self, dir: usize, path: usize, flags: usize) -> Result<Facts> {
        let path = self.path(path)?;
        if path.is_empty() && flags & AT_EMPTY_PATH != 0 && dir as u32 != AT_FDCWD as u32 {
            return Ok(Facts::of_file(&*self.file(dir)?));
        }
        let place = self.walk(
            dir,
            if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
                b"."
            } else {
                &path
            },
            last_link(flags),
        )?;
        Ok(Facts::of_node(place.existing()?))
    }

    pub(super) fn newfstatat(&self, dir: usize, path: usize, into: usize, flags: usize) -> Result {
        let facts = self.facts_at(dir, path, flags)?;
        self.put(into, &facts.stat_x86_64()).map(|()| 0)
    }

    pub(super) fn fstat(&self, fd: usize, into: usize) -> Result {
        self.put(into, &Facts::of_file(&*self.file(fd)?).stat_x86_64())
            .map(|()| 0)
    }

    pub(super) fn statx(&self, dir: usize, path: usize, flags: usize, into: usize) -> Result {
        let facts = self.facts_at(dir, path, flags)?;
        self.put(into, &facts.statx()).map(|()| 0)
    }

    pub(super) fn statfs(&self, path: usize, into: usize) -> Result {
        self.walk(AT_FDCWD, &self.path(path)?, LastLink::Follow)?
            .existing()?;
        self.put_statfs(into)
    }

    pub(super) fn fstatfs(&self, fd: usize, into: usize) -> Result {
        self.file(fd)?;
        self.put_statfs(into)
    }

    fn put_statfs(&self, into: usize) -> Result {
        const RAMFS_MAGIC: usize = 0x8584_58f6;
        let (total, free) = self.system.frames();
        let mut words = [0; 15];
        words[..5].copy_from_slice(&[RAMFS_MAGIC, 4096, total, free, free]);
        words[8] = crate::limits::NAME_BYTES;
        words[9] = 4096;
        self.put_words(into, words).map(|()| 0)
    }

    pub(super) fn faccessat(&self, dir: usize, path: usize, wanted: usize) -> Result {
        const EXECUTE: usize = 1;
        const WRITE: usize = 2;
        let place = self.walk(dir, &self.path(path)?, LastLink::Follow)?;
        let node = place.existing()?;
        let permissions = node.facts.lock().permissions;
        if wanted & WRITE != 0 && node.origin == Origin::Archive {
            return Err(Errno::EROFS);
        }
        if wanted & EXECUTE != 0 && permissions & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
        Ok(0)
    }

    fn changeable(&self, dir: usize, path: usize, flags: usize) -> Result<Arc<FileNode<A>>> {
        let place = self.walk(dir, &self.path(path)?, last_link(flags))?;
        let node = place.existing()?;
        if node.origin == Origin::Memory {
            Ok(node.clone())
        } else {
            Err(Errno::EROFS)
        }
    }

    fn changeable_file(&self, fd: usize) -> Result<Arc<FileNode<A>>> {
        let file = self.file(fd)?;
        let node = file.node().ok_or(Errno::EINVAL)?;
        if node.origin == Origin::Memory {
            Ok(node.clone())
        } else {
            Err(Errno::EROFS)
        }
    }

    pub(super) fn fchmodat(&self, dir: usize, path: usize, permissions: usize) -> Result {
        self.changeable(dir, path, 0)?.facts.lock().permissions = permissions as u32 & 0o7777;
        Ok(0)
    }

    pub(super) fn fchmod(&self, fd: usize, permissions: usize) -> Result {
        self.changeable_file(fd)?.facts.lock().permissions = permissions as u32 & 0o7777;
        Ok(0)
    }

    pub(super) fn fchownat(
        &self,
        dir: usize,
        path: usize,
        uid: usize,
        gid: usize,
        flags: usize,
    ) -> Result {
        change_owner(&*self.changeable(dir, path, flags)?, uid, gid);
        Ok(0)
    }

    pub(super) fn fchown(&self, fd: usize, uid: usize, gid: usize) -> Result {
        change_owner(&*self.changeable_file(fd)?, uid, gid);
        Ok(0)
    }

    pub(super) fn utimensat(&self, dir: usize, path: usize, times: usize, flags: usize) -> Result {
        const NOW: usize = 0x3fff_ffff;
        const OMIT: usize = 0x3fff_fffe;
        let node = if path == 0 {
            self.changeable_file(dir)?
        } else {
            self.changeable(dir, path, flags)?
        };
        let word = size_of::<usize>();
        let mtime = if times == 0 {
            Some(self.system.wall_seconds())
        } else {
            let at = times.wrapping_add(2 * word);
            let (seconds, nanoseconds) =
                (self.get_word(at)?, self.get_word(at.wrapping_add(word))?);
            match nanoseconds {
                OMIT => None,
                NOW => Some(self.system.wall_seconds()),
                _ => Some(seconds as u64),
            }
        };
        if let Some(mtime) = mtime {
            node.facts.lock().mtime = mtime;
        }
        Ok(0)
    }
}

fn last_link(flags: usize) -> LastLink {
    if flags & AT_SYMLINK_NOFOLLOW != 0 {
        LastLink::Keep
    } else {
        LastLink::Follow
    }
}

fn change_owner<F>(node: &Node<F>, uid: usize, gid: usize) {
    let mut facts = node.facts.lock();
    if uid as u32 != u32::MAX {
        facts.uid = uid as u32;
    }
    if gid as u32 != u32::MAX {
        facts.gid = gid as u32;
    }
}
