//! Builds the tree at boot: the archive's files, /tmp, /dev with /dev/shm, and /proc.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::tree::{Kind, Node, Origin, mode};
use super::walk::{LastLink, walk};
use super::{device, proc};
use crate::arch::Arch;
use crate::cpio::{Archive, Entry};
use crate::errno::{Errno, Result};
use crate::memory::{FileData, FileNode};
use crate::system::System;

impl<A: Arch> System<A> {
    /// Builds the whole tree.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for the files' objects; an archive whose
    /// members contradict each other gives what the tree answers.
    pub fn build_tree(&'static self) -> Result<()> {
        let root = Node::directory(Origin::Archive, 0o755, 0)?;
        let mut links = BTreeMap::new();
        for (index, entry) in Archive::new(self.boot.initrd).enumerate() {
            self.add_member(&root, index, &entry, &mut links)?;
        }
        let tmp = Node::directory(Origin::Memory, 0o1777, self.wall_seconds())?;
        place(&root, b"tmp", tmp)?;
        let dev = Node::directory(Origin::Synthetic, 0o755, 0)?;
        for (name, device) in device::NAMES {
            dev.insert(
                name,
                Node::new(Origin::Synthetic, 0o666, 0, Kind::Device(device))?,
            )?;
        }
        let shm = Node::directory(Origin::Memory, 0o1777, self.wall_seconds())?;
        dev.insert(b"shm", shm)?;
        place(&root, b"dev", dev)?;
        let own = Node::directory(Origin::Synthetic, 0o555, 0)?;
        for (name, file) in proc::SELF {
            own.insert(
                name,
                Node::new(Origin::Synthetic, 0o444, 0, Kind::Proc(file))?,
            )?;
        }
        let proc_root = Node::directory(Origin::Synthetic, 0o555, 0)?;
        proc_root.insert(b"self", own)?;
        for (name, file) in proc::MACHINE {
            proc_root.insert(
                name,
                Node::new(Origin::Synthetic, 0o444, 0, Kind::Proc(file))?,
            )?;
        }
        place(&root, b"proc", proc_root)?;
        *self.root.lock() = Some(root);
        Ok(())
    }

    fn add_member(
        &'static self,
        root: &Arc<FileNode<A>>,
        index: usize,
        entry: &Entry<'_>,
        links: &mut BTreeMap<u32, Arc<FileNode<A>>>,
    ) -> Result<()> {
        let mut path = entry.name;
        while let Some(rest) = path.strip_prefix(b"/").or_else(|| path.strip_prefix(b"./")) {
            path = rest;
        }
        if path.is_empty() || path == b"." {
            return Ok(());
        }
        let (directory, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (self.directory_of(root, &path[..slash])?, &path[slash + 1..]),
            None => (root.clone(), path),
        };
        let time = u64::from(entry.mtime);
        let node = match entry.mode & mode::TYPE {
            mode::DIRECTORY if directory.child(name).is_ok() => return Ok(()),
            mode::DIRECTORY => Node::directory(Origin::Archive, entry.mode, time)?,
            // A link whose target is cut off leads nowhere.
            mode::LINK if entry.size != entry.data.len() as u64 => return Ok(()),
            mode::LINK => Node::new(Origin::Archive, 0o777, time, Kind::Link(entry.data.into()))?,
            mode::FILE => match links.get(&entry.ino).filter(|_| entry.nlink > 1) {
                Some(node) if entry.size == 0 => node.clone(),
                _ => {
                    let data = FileData::from_archive(self, index, entry.size)?;
                    let node = Node::new(Origin::Archive, entry.mode, time, Kind::File(data))?;
                    self.files.enter(&node);
                    node
                }
            },
            _ => return Ok(()),
        };
        if entry.nlink > 1 && matches!(node.kind, Kind::File(_)) && entry.size != 0 {
            links.insert(entry.ino, node.clone());
        }
        directory.insert(name, node)
    }

    fn directory_of(&self, root: &Arc<FileNode<A>>, path: &[u8]) -> Result<Arc<FileNode<A>>> {
        let mut here = root.clone();
        for name in path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
        {
            let next = match here.child(name) {
                Ok(next) => next,
                Err(_) => {
                    let next = Node::directory(Origin::Archive, 0o755, 0)?;
                    here.insert(name, next.clone())?;
                    next
                }
            };
            // A link in the middle of a member's path: cpio writes none, but may.
            here = match &next.kind {
                Kind::Link(_) => {
                    let mut whole: Vec<u8> = b"/".to_vec();
                    whole.extend_from_slice(path);
                    let place = walk(root, root, &whole, LastLink::Follow, &|_| {
                        Err(Errno::ENOENT)
                    })?;
                    return place.existing().cloned();
                }
                _ => next,
            };
        }
        Ok(here)
    }
}

/// Puts a directory of the kernel's own in the place of the archive's empty one.
fn place<A: Arch>(root: &Arc<FileNode<A>>, name: &[u8], node: Arc<FileNode<A>>) -> Result<()> {
    if root.entries()?.lock().remove(name).is_some() {
        root.facts.lock().links -= 1;
    }
    root.insert(name, node)
}
