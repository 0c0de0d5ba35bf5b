//! Files in memory that no directory names, memfd_create(2) and `O_TMPFILE`; seals.

use alloc::format;
use alloc::sync::Arc;

use super::Call;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::open::{FileKind, OpenFile, flag};
use crate::fs::table::OnExec;
use crate::fs::tree::{Kind, Node, Origin};
use crate::fs::walk::LastLink;
use crate::memory::{FileData, FileNode, Seals};

/// Bytes of the longest name, with its NUL.
const NAME_BYTES: usize = 250;

const CLOSE_ON_EXEC: u32 = 1;
const ALLOW_SEALING: u32 = 2;
const HUGETLB: u32 = 4;
const NOEXEC_SEAL: u32 = 8;
const EXEC: u32 = 16;
/// Which huge pages, where they are asked for.
const HUGE_SIZE: u32 = 0x3f << 26;

impl<A: Arch> Call<'_, A> {
    pub(super) fn memfd_create(&self, name: usize, flags: usize) -> Result {
        let flags = flags as u32;
        let huge = HUGETLB | HUGE_SIZE;
        let known = CLOSE_ON_EXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC;
        let known = if flags & HUGETLB != 0 {
            known | huge
        } else {
            known
        };
        let both = flags & (NOEXEC_SEAL | EXEC) == NOEXEC_SEAL | EXEC;
        if flags & !known != 0 || both {
            return Err(Errno::EINVAL);
        }
        let name = self
            .system
            .read_user_string(&*self.space()?, name, NAME_BYTES)
            .map_err(|error| {
                if error == Errno::E2BIG {
                    Errno::EINVAL
                } else {
                    error
                }
            })?;
        if flags & HUGETLB != 0 {
            // As Linux where it is built without them.
            return Err(Errno::ENOSYS);
        }
        let (permissions, seals) = match flags & (NOEXEC_SEAL | ALLOW_SEALING) {
            0 => (0o777, Seals::SEAL),
            ALLOW_SEALING => (0o777, 0),
            _ => (0o666, Seals::EXEC),
        };
        let files = self.task.process.files()?;
        let numbers = 0..self.task.process.file_limit();
        files.lock().free(numbers.clone())?;
        let grant = OpenFile::<A>::grant()?;
        let node = self.nameless(permissions, seals)?;
        node.lose_name(None, &[b"memfd:", name.as_slice()].concat());
        let file = self.open_node(node, flag::READ_WRITE, grant)?;
        let on_exec = if flags & CLOSE_ON_EXEC != 0 {
            OnExec::Close
        } else {
            OnExec::Keep
        };
        let fd = files.lock().insert(file, numbers, on_exec)?;
        Ok(fd)
    }

    /// Makes a file for `O_TMPFILE`; where the path leads says only where it is.
    pub(super) fn temporary(
        &self,
        dir: usize,
        path: &[u8],
        last: LastLink,
        permissions: u32,
    ) -> Result<Arc<FileNode<A>>> {
        let place = self.walk(dir, path, last)?;
        let directory = place.existing()?;
        directory.entries()?;
        match directory.origin {
            Origin::Memory => {}
            Origin::Archive => return Err(Errno::EROFS),
            Origin::Synthetic => return Err(Errno::EOPNOTSUPP),
        }
        let umask = self.task.process.shared.lock().umask;
        let node = self.nameless(permissions & !umask, Seals::SEAL)?;
        node.lose_name(Some(directory), format!("#{}", node.ino).as_bytes());
        Ok(node)
    }

    fn nameless(&self, permissions: u32, seals: u32) -> Result<Arc<FileNode<A>>> {
        let data = FileData::in_memory(self.system, seals)?;
        let time = self.system.wall_seconds();
        let node = Node::new(Origin::Memory, permissions, time, Kind::File(data))?;
        self.system.files.enter(&node);
        Ok(node)
    }

    pub(super) fn add_seals(&self, file: &OpenFile<A>, seals: u32) -> Result {
        const ALL: u32 = 63;
        file.writable().map_err(|_| Errno::EPERM)?;
        if seals & !ALL != 0 {
            return Err(Errno::EINVAL);
        }
        let FileKind::Regular(node) = &file.kind else {
            return Err(Errno::EINVAL);
        };
        let data = file.data(Errno::EINVAL)?;
        let held = data.seals.as_ref().ok_or(Errno::EINVAL)?;
        let _turn = data.writing.take(self.system);
        let facts = node.facts.lock();
        held.add(seals, facts.permissions).map(|()| 0)
    }

    pub(super) fn get_seals(&self, file: &OpenFile<A>) -> Result {
        let data = file.data(Errno::EINVAL)?;
        let held = data.seals.as_ref().ok_or(Errno::EINVAL)?;
        Ok(held.bits() as usize)
    }
}
