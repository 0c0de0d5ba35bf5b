//! Names: directories, links, removal, renaming, the working directory.
//!
//! What changes names reads its paths from user memory first, then holds the lock of names
//! ([`crate::fs::tree`]) from the walk to the change.

use alloc::sync::Arc;

use super::{AT_FDCWD, Call};
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::open::FileKind;
use crate::fs::tree::{Kind, Node, Origin, rename};
use crate::fs::walk::{LastLink, Place, link_target, walk};
use crate::memory::{FileData, FileNode};

/// The name is a directory to remove.
pub const AT_REMOVEDIR: usize = 0x200;
const AT_SYMLINK_FOLLOW: usize = 0x400;

impl<A: Arch> Call<'_, A> {
    /// Walks a path from a directory's descriptor, or from the working directory.
    pub(super) fn walk(
        &self,
        dir: usize,
        path: &[u8],
        last: LastLink,
    ) -> Result<Place<FileData<A>>> {
        let root = self.system.root.lock().clone().ok_or(Errno::ENOENT)?;
        let base = if path.first() == Some(&b'/') {
            root.clone()
        } else if dir as u32 == AT_FDCWD as u32 {
            self.task.process.shared.lock().cwd.clone()
        } else {
            self.directory(dir)?
        };
        walk(&root, &base, path, last, &|_| {
            Ok(self.task.process.shared.lock().program.clone())
        })
    }

    /// Answers the directory of a descriptor.
    fn directory(&self, fd: usize) -> Result<Arc<FileNode<A>>> {
        match &self.file(fd)?.kind {
            FileKind::Directory(node, _) => Ok(node.clone()),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn getcwd(&self, into: usize, size: usize) -> Result {
        let cwd = self.task.process.shared.lock().cwd.clone();
        let mut path = {
            let _names = self.system.names.lock();
            cwd.path()?
        };
        path.push(0);
        if path.len() > size {
            return Err(Errno::ERANGE);
        }
        self.put(into, &path)?;
        Ok(path.len())
    }

    pub(super) fn chdir(&self, path: usize) -> Result {
        let place = self.walk(AT_FDCWD, &self.path(path)?, LastLink::Follow)?;
        self.stay_in(place.existing()?.clone())
    }

    pub(super) fn fchdir(&self, fd: usize) -> Result {
        self.stay_in(self.directory(fd)?)
    }

    fn stay_in(&self, directory: Arc<FileNode<A>>) -> Result {
        directory.entries()?;
        let mut shared = self.task.process.shared.lock();
        let left = core::mem::replace(&mut shared.cwd, directory);
        drop(shared);
        // If it was removed before, it goes now, with no lock held.
        drop(left);
        Ok(0)
    }

    pub(super) fn mkdirat(&self, dir: usize, path: usize, permissions: usize) -> Result {
        let path = self.path(path)?;
        let _names = self.system.names.lock();
        let place = self.vacant(dir, &path)?;
        let umask = self.task.process.shared.lock().umask;
        let node = Node::directory(
            Origin::Memory,
            permissions as u32 & !umask,
            self.system.wall_seconds(),
        )?;
        place.directory.create(&place.name, node)?;
        Ok(0)
    }

    pub(super) fn symlinkat(&self, target: usize, dir: usize, path: usize) -> Result {
        let target = self.path(target)?;
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        let path = self.path(path)?;
        let _names = self.system.names.lock();
        let place = self.vacant(dir, &path)?;
        let node = Node::new(
            Origin::Memory,
            0o777,
            self.system.wall_seconds(),
            Kind::Link(target.into()),
        )?;
        place.directory.create(&place.name, node)?;
        Ok(0)
    }

    pub(super) fn linkat(
        &self,
        dir: usize,
        path: usize,
        new_dir: usize,
        new_path: usize,
        flags: usize,
    ) -> Result {
        let last = if flags & AT_SYMLINK_FOLLOW != 0 {
            LastLink::Follow
        } else {
            LastLink::Keep
        };
        let (path, new_path) = (self.path(path)?, self.path(new_path)?);
        let _names = self.system.names.lock();
        let from = self.walk(dir, &path, last)?;
        let node = from.existing()?;
        if matches!(node.kind, Kind::Directory(_)) {
            return Err(Errno::EPERM);
        }
        let place = self.vacant(new_dir, &new_path)?;
        if node.origin != Origin::Memory {
            return Err(Errno::EXDEV);
        }
        place.directory.create(&place.name, node.clone())?;
        node.facts.lock().links += 1;
        Ok(0)
    }

    /// Walks to a name that must not exist and whose directory can take it; the caller holds the
    /// lock of names.
    fn vacant(&self, dir: usize, path: &[u8]) -> Result<Place<FileData<A>>> {
        let place = self.walk(dir, path, LastLink::Keep)?;
        if place.node.is_some() {
            return Err(Errno::EEXIST);
        }
        if place.directory.origin != Origin::Memory {
            return Err(Errno::EROFS);
        }
        Ok(place)
    }

    pub(super) fn unlinkat(&self, dir: usize, path: usize, flags: usize) -> Result {
        let path = self.path(path)?;
        let names = self.system.names.lock();
        let place = self.walk(dir, &path, LastLink::Keep)?;
        let node = place.existing()?;
        if flags & AT_REMOVEDIR != 0 {
            node.entries()?;
            match place.name.as_slice() {
                b"" => return Err(Errno::EBUSY),
                b"." => return Err(Errno::EINVAL),
                b".." => return Err(Errno::ENOTEMPTY),
                name => place.directory.remove_directory(name)?,
            }
        } else if place.is_named() {
            place.directory.unlink(&place.name)?;
        } else {
            return Err(Errno::EISDIR);
        }
        // A file that has lost its last name is freed with `place`.
        drop(names);
        Ok(0)
    }

    pub(super) fn renameat(
        &self,
        dir: usize,
        path: usize,
        new_dir: usize,
        new_path: usize,
        flags: usize,
    ) -> Result {
        const NO_REPLACE: usize = 1;
        if flags & !NO_REPLACE != 0 {
            return Err(Errno::EINVAL);
        }
        let (path, new_path) = (self.path(path)?, self.path(new_path)?);
        let names = self.system.names.lock();
        let from = self.walk(dir, &path, LastLink::Keep)?;
        from.existing()?;
        let to = self.walk(new_dir, &new_path, LastLink::Keep)?;
        if flags & NO_REPLACE != 0 && to.node.is_some() {
            return Err(Errno::EEXIST);
        }
        if !from.is_named() || !to.is_named() {
            return Err(Errno::EBUSY);
        }
        rename(&from.directory, &from.name, &to.directory, &to.name)?;
        // What was replaced is freed with `to`.
        drop(names);
        Ok(0)
    }

    pub(super) fn readlinkat(&self, dir: usize, path: usize, into: usize, size: usize) -> Result {
        let place = self.walk(dir, &self.path(path)?, LastLink::Keep)?;
        let magic = |_| Ok(self.task.process.shared.lock().program.clone());
        let target = link_target(place.existing()?, &magic)?.ok_or(Errno::EINVAL)?;
        if size == 0 {
            return Err(Errno::EINVAL);
        }
        let n = target.len().min(size);
        self.put(into, &target[..n])?;
        Ok(n)
    }

    pub(super) fn umask(&self, mask: usize) -> Result {
        let mut shared = self.task.process.shared.lock();
        Ok(core::mem::replace(&mut shared.umask, mask as u32 & 0o777) as usize)
    }
}
