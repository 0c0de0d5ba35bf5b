//! Facts about files: the stat family, access, chmod, chown, times.

use alloc::sync::Arc;

use super::record::Record;
use super::time::Form;
use super::{AT_FDCWD, Call};
use crate::arch::{Arch, SyscallAbi};
use crate::errno::{Errno, Result};
use crate::fs::open::{FileKind, OpenFile};
use crate::fs::tree::{Kind, Node, Origin, mode};
use crate::fs::walk::LastLink;
use crate::memory::{FileData, FileNode};

/// The link itself is meant.
pub const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const AT_EMPTY_PATH: usize = 0x1000;
/// What sizes are counted in, in bytes.
const BLOCK: u64 = 512;
/// The size of transfers that suits best, in bytes.
const BLOCK_SIZE: u64 = 4096;

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
        let mode = node.type_bits() | facts.permissions;
        Facts {
            device: node.origin.device(),
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

    /// `struct stat`, on Arm `struct stat64`.
    fn stat(&self, abi: SyscallAbi) -> Record<144> {
        let mut out = Record::new(abi);
        let special = u64::from(self.special.0 << 8 | self.special.1);
        let blocks = self.size.div_ceil(BLOCK);
        match abi {
            SyscallAbi::X86_64 => {
                out.u64(self.device).u64(self.ino);
                out.u64(u64::from(self.links)).u32(self.mode);
                out.u32(self.uid).u32(self.gid).u32(0).u64(special);
                out.u64(self.size).u64(BLOCK_SIZE).u64(blocks);
            }
            SyscallAbi::Generic => {
                out.u64(self.device).u64(self.ino);
                out.u32(self.mode).u32(self.links);
                out.u32(self.uid).u32(self.gid).u64(special).u64(0);
                out.u64(self.size).u64(BLOCK_SIZE).u64(blocks);
            }
            // The inode's number stands here cut, and whole at the end.
            SyscallAbi::Arm => {
                out.u64(self.device).u32(0).u32(self.ino as u32);
                out.u32(self.mode).u32(self.links);
                out.u32(self.uid).u32(self.gid).u64(special).u32(0);
                out.align(8).u64(self.size);
                out.u32(BLOCK_SIZE as u32).align(8).u64(blocks);
            }
        }
        for _ in 0..3 {
            out.word(self.mtime).word(0);
        }
        match abi {
            SyscallAbi::X86_64 => out.fill(144),
            SyscallAbi::Generic => out.fill(128),
            SyscallAbi::Arm => out.u64(self.ino),
        };
        out
    }

    /// `struct statx`, 256 bytes, the same everywhere.
    fn statx(&self, abi: SyscallAbi) -> Record<256> {
        const BASIC: u32 = 0x7ff;
        let mut out = Record::new(abi);
        let (major, minor) = self.special;
        out.u32(BASIC)
            .u32(BLOCK_SIZE as u32)
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
        out.fill(256);
        out
    }
}

/// `struct statfs` of a file system in memory, on Arm `struct statfs64`.
fn statfs(abi: SyscallAbi, page_bytes: u64, total: u64, free: u64) -> Record<120> {
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    const NAME: u64 = crate::limits::NAME_BYTES as u64;
    let mut out = Record::new(abi);
    out.word(RAMFS_MAGIC).word(page_bytes);
    out.u64(total).u64(free).u64(free).u64(0).u64(0);
    // The number of the file system is two times 32 bits on every ABI.
    out.u64(0).word(NAME).word(page_bytes);
    out.words([0; 5]);
    out
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
        self.put(into, facts.stat(A::SYSCALL_ABI).bytes())
            .map(|()| 0)
    }

    pub(super) fn fstat(&self, fd: usize, into: usize) -> Result {
        let facts = Facts::of_file(&*self.file(fd)?);
        self.put(into, facts.stat(A::SYSCALL_ABI).bytes())
            .map(|()| 0)
    }

    pub(super) fn statx(&self, dir: usize, path: usize, flags: usize, into: usize) -> Result {
        let facts = self.facts_at(dir, path, flags)?;
        self.put(into, facts.statx(A::SYSCALL_ABI).bytes())
            .map(|()| 0)
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
        let (total, free) = self.system.frames();
        let page_bytes = 1 << A::PAGE_SHIFT;
        let out = statfs(A::SYSCALL_ABI, page_bytes, total as u64, free as u64);
        self.put(into, out.bytes()).map(|()| 0)
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
        change_permissions(&*self.changeable(dir, path, 0)?, permissions)
    }

    pub(super) fn fchmod(&self, fd: usize, permissions: usize) -> Result {
        change_permissions(&*self.changeable_file(fd)?, permissions)
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

    pub(super) fn utimensat(
        &self,
        dir: usize,
        path: usize,
        (times, form): (usize, Form),
        flags: usize,
    ) -> Result {
        const NOW: u64 = 0x3fff_ffff;
        const OMIT: u64 = 0x3fff_fffe;
        let node = if path == 0 {
            self.changeable_file(dir)?
        } else {
            self.changeable(dir, path, flags)?
        };
        let mtime = if times == 0 {
            Some(self.system.wall_seconds())
        } else {
            // The first of two times is that of access, which is not kept.
            let bytes = match form {
                Form::Word => 2 * Self::WORD,
                Form::Wide => 16,
            };
            let [seconds, nanoseconds] = self.get_pair(times.wrapping_add(bytes), form)?;
            match nanoseconds {
                OMIT => None,
                NOW => Some(self.system.wall_seconds()),
                _ => Some(seconds),
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

fn change_permissions<A: Arch>(node: &FileNode<A>, permissions: usize) -> Result {
    let permissions = permissions as u32 & 0o7777;
    let mut facts = node.facts.lock();
    if let Kind::File(FileData {
        seals: Some(seals), ..
    }) = &node.kind
    {
        seals.check_permissions(facts.permissions, permissions)?;
    }
    facts.permissions = permissions;
    Ok(0)
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

#[cfg(test)]
mod tests {
    use super::{Facts, SyscallAbi, statfs};

    const FACTS: Facts = Facts {
        device: 0x11,
        ino: 0x1_0000_0022,
        mode: 0x8033,
        links: 0x44,
        uid: 0x55,
        gid: 0x66,
        special: (7, 8),
        size: 0x2_0000_0099,
        mtime: 0xaabb,
    };

    /// Offsets by `offsetof` of each architecture's own headers.
    #[test]
    fn fields_of_stat_stand_where_programs_look() {
        for (abi, bytes, ino, mode, links, uid, rdev, size, blocks, mtime) in [
            (SyscallAbi::X86_64, 144, 8, 24, 16, 28, 40, 48, 64, 88),
            (SyscallAbi::Generic, 128, 8, 16, 20, 24, 32, 48, 64, 88),
            (SyscallAbi::Arm, 104, 96, 16, 20, 24, 32, 48, 64, 80),
        ] {
            let stat = FACTS.stat(abi);
            let word = |at: usize| u32::from_le_bytes(stat.bytes()[at..at + 4].try_into().unwrap());
            let long = |at: usize| u64::from_le_bytes(stat.bytes()[at..at + 8].try_into().unwrap());
            assert_eq!(stat.bytes().len(), bytes, "{abi:?}");
            assert_eq!((long(0), long(ino)), (0x11, 0x1_0000_0022), "{abi:?}");
            assert_eq!(
                (word(mode), word(links), word(uid)),
                (0x8033, 0x44, 0x55),
                "{abi:?}"
            );
            assert_eq!((long(rdev), long(size)), (0x708, 0x2_0000_0099), "{abi:?}");
            assert_eq!(long(blocks), 0x100_0001, "{abi:?}");
            assert_eq!(word(mtime), 0xaabb, "{abi:?}");
        }
        assert_eq!(
            FACTS.statx(SyscallAbi::Arm).bytes(),
            FACTS.statx(SyscallAbi::X86_64).bytes()
        );
    }

    #[test]
    fn statfs_has_wide_counts_everywhere() {
        for (abi, bytes, blocks) in [
            (SyscallAbi::X86_64, 120, 16),
            (SyscallAbi::Generic, 120, 16),
            (SyscallAbi::Arm, 84, 8),
        ] {
            let out = statfs(abi, 4096, 0x1_0000_0001, 5);
            assert_eq!(out.bytes().len(), bytes);
            assert_eq!(
                out.bytes()[blocks..blocks + 8],
                0x1_0000_0001_u64.to_le_bytes()
            );
        }
    }
}
