//! The tree of names: directories, files, links, devices.
//!
//! One tree serves the read-only initramfs, the writable /tmp and /dev/shm, and the synthetic /dev
//! and /proc; each node's [`Origin`] says what may be changed in it. Nodes are shared
//! by counted references. A node knows the directory above it, but not its names: these
//! stand in directories only, so that rename and unlink have one place to change. Who stays in a
//! directory (a working directory, an open one) holds the node: it is the same whatever it is called.
//! A file that has lost its last name keeps it, for those who have it mapped and ask which file it is.
//! `F` is what a regular file holds (a page-cache object in the kernel).
//!
//! # Locks
//!
//! Each directory's map, the directory above a node, its facts and its lost name have a lock of their
//! own. A directory's map comes before its entries' maps, and all before what is above, facts and then
//! the lost name; [`rename`] takes one directory after the other.
//!
//! Whoever changes names for a program (open with `O_CREAT`, mkdir, symlink, link, unlink, rmdir,
//! rename) holds `System::names` from its walk to its change, so that what it found still stands:
//! of two that make a name one finds the other's, and no rename moves a directory below itself.
//! It is the outermost of the locks of names, taken by system calls only, after they have read
//! user memory; a walk neither sleeps nor takes it. Whoever only looks does without it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Bound;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;

use super::device::Device;
use super::proc::ProcFile;
use crate::errno::{Errno, Result};
use crate::limits::{Grant, NAME_BYTES, NODES_QUOTA, PATH_BYTES};

/// Where a node comes from, which decides what may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The initramfs: read-only.
    Archive,
    /// /tmp, /dev/shm and files without a name: writable, in memory, counted against a quota.
    Memory,
    /// /dev and /proc: made by the kernel, names fixed.
    Synthetic,
}

/// Facts that stat(2) reports and chmod(2) and friends change.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Permission bits, without the type.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links; none once the last name is gone.
    pub links: u32,
    /// Last change of the data, in seconds since 1970.
    pub mtime: u64,
}

/// What a node is.
pub enum Kind<F> {
    /// A directory and its entries, sorted by name.
    Directory(Mutex<Entries<F>>),
    /// A regular file.
    File(F),
    /// A symbolic link and its target.
    Link(Box<[u8]>),
    /// A device.
    Device(Device),
    /// A file of /proc whose text is made when it is read.
    Proc(ProcFile),
}

/// A directory's entries.
pub type Entries<F> = BTreeMap<Box<[u8]>, Arc<Node<F>>>;

/// An entry of a directory: its name and what it names.
pub type Named<F> = (Box<[u8]>, Arc<Node<F>>);

/// One file, directory or link.
pub struct Node<F> {
    /// Inode number, never used twice.
    pub ino: u64,
    /// What may be changed.
    pub origin: Origin,
    /// Facts for stat.
    pub facts: Mutex<Facts>,
    /// What it is.
    pub kind: Kind<F>,
    /// The directory that names it, or named it last.
    above: Mutex<Weak<Node<F>>>,
    /// What it was called last there, once no directory names it.
    lost: Mutex<Option<Box<[u8]>>>,
    _grant: Option<Grant>,
}

static NEXT_INO: AtomicU64 = AtomicU64::new(1);

/// `S_IFMT` types of stat(2).
pub mod mode {
    /// Mask of the type bits.
    pub const TYPE: u32 = 0o170_000;
    /// A directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// A regular file.
    pub const FILE: u32 = 0o100_000;
    /// A symbolic link.
    pub const LINK: u32 = 0o120_000;
    /// A character device.
    pub const CHARACTER: u32 = 0o020_000;
    /// A pipe.
    pub const FIFO: u32 = 0o010_000;
}

impl Origin {
    /// Answers the number of the file system, as stat's `st_dev` has it.
    #[must_use]
    pub const fn device(self) -> u64 {
        match self {
            Origin::Archive => 1,
            Origin::Memory => 2,
            Origin::Synthetic => 3,
        }
    }
}

impl<F> Node<F> {
    /// Makes a node that no directory names yet.
    ///
    /// # Errors
    /// `ENOSPC` when it is of memory, which holds as many nodes as it may.
    pub fn new(origin: Origin, permissions: u32, mtime: u64, kind: Kind<F>) -> Result<Arc<Self>> {
        let grant = match origin {
            Origin::Memory => Some(NODES_QUOTA.take(1, Errno::ENOSPC)?),
            Origin::Archive | Origin::Synthetic => None,
        };
        let links = if matches!(kind, Kind::Directory(_)) {
            2
        } else {
            1
        };
        let facts = Facts {
            permissions: permissions & 0o7777,
            uid: 0,
            gid: 0,
            links,
            mtime,
        };
        let ino = NEXT_INO.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Node {
            ino,
            origin,
            facts: Mutex::new(facts),
            kind,
            above: Mutex::new(Weak::new()),
            lost: Mutex::new(None),
            _grant: grant,
        }))
    }

    /// Makes an empty directory.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn directory(origin: Origin, permissions: u32, mtime: u64) -> Result<Arc<Self>> {
        Self::new(
            origin,
            permissions,
            mtime,
            Kind::Directory(Mutex::new(BTreeMap::new())),
        )
    }

    /// Answers the `S_IFMT` type.
    #[must_use]
    pub fn type_bits(&self) -> u32 {
        match &self.kind {
            Kind::Directory(_) => mode::DIRECTORY,
            Kind::File(_) | Kind::Proc(ProcFile::Text(_)) => mode::FILE,
            Kind::Link(_) | Kind::Proc(ProcFile::Executable) => mode::LINK,
            Kind::Device(_) => mode::CHARACTER,
        }
    }

    /// Answers the entries.
    ///
    /// # Errors
    /// `ENOTDIR` for anything but a directory.
    pub fn entries(&self) -> Result<&Mutex<Entries<F>>> {
        match &self.kind {
            Kind::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Answers what a regular file holds.
    ///
    /// # Errors
    /// `EACCES` for anything else.
    pub fn file(&self) -> Result<&F> {
        match &self.kind {
            Kind::File(held) => Ok(held),
            _ => Err(Errno::EACCES),
        }
    }

    /// Finds an entry of this directory.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT`.
    pub fn child(&self, name: &[u8]) -> Result<Arc<Self>> {
        self.entries()?
            .lock()
            .get(name)
            .cloned()
            .ok_or(Errno::ENOENT)
    }

    /// Answers the directory above this one, if it is still there; the root has none. Of a file with
    /// several names: above that which it got last.
    #[must_use]
    pub fn above(&self) -> Option<Arc<Self>> {
        self.above.lock().upgrade()
    }

    /// Answers the whole path of a directory, or of a file by the name that it got last; the caller holds the lock of names (module header).
    ///
    /// # Errors
    /// `ENOENT` for one that was removed, or has lost that name, `ENAMETOOLONG`.
    pub fn path(self: &Arc<Self>) -> Result<Vec<u8>> {
        if self.facts.lock().links == 0 {
            return Err(Errno::ENOENT);
        }
        // From its end, and each name from its end, too.
        let mut path = Vec::new();
        let mut here = self.clone();
        while let Some(above) = here.above() {
            let entries = above.entries()?.lock();
            let (name, _) = entries
                .iter()
                .find(|(_, node)| Arc::ptr_eq(node, &here))
                .ok_or(Errno::ENOENT)?;
            if path.len() + name.len() + 1 >= PATH_BYTES {
                return Err(Errno::ENAMETOOLONG);
            }
            path.extend(name.iter().rev());
            path.push(b'/');
            drop(entries);
            here = above;
        }
        path.reverse();
        Ok(if path.is_empty() { b"/".to_vec() } else { path })
    }

    /// Answers the path for somebody who has the file, whatever became of its name (Linux: d_path);
    /// the caller holds the lock of names.
    ///
    /// # Errors
    /// As [`Node::path`].
    pub fn shown_path(self: &Arc<Self>) -> Result<Vec<u8>> {
        let lost = self.lost.lock().clone();
        let Some(name) = lost else {
            return self.path();
        };
        let mut path = self.above().map_or(Ok(Vec::new()), |above| above.path())?;
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        path.extend_from_slice(b" (deleted)");
        Ok(path)
    }

    /// Makes it a file that no directory names, though it was made in one or has a name of its own.
    pub fn lose_name(&self, above: Option<&Arc<Self>>, name: &[u8]) {
        self.facts.lock().links = 0;
        *self.above.lock() = above.map_or(Weak::new(), Arc::downgrade);
        *self.lost.lock() = Some(name.into());
    }

    /// Finds the first entry after `last`, or the first of all.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn entry_after(&self, last: Option<&[u8]>) -> Result<Option<Named<F>>> {
        let entries = self.entries()?.lock();
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .next()
            .map(|(name, node)| (name.clone(), node.clone())))
    }

    /// Names the last of the first `count` entries, or of all if there are fewer.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn last_of(&self, count: usize) -> Result<Option<Box<[u8]>>> {
        Ok(self
            .entries()?
            .lock()
            .keys()
            .take(count)
            .next_back()
            .cloned())
    }

    fn writable(&self) -> Result<&Mutex<Entries<F>>> {
        let entries = self.entries()?;
        if self.origin != Origin::Memory {
            return Err(Errno::EROFS);
        }
        if self.facts.lock().links == 0 {
            return Err(Errno::ENOENT);
        }
        Ok(entries)
    }

    /// Enters `child` as `name`, whatever the origin: how the kernel builds the tree.
    ///
    /// # Errors
    /// `ENOTDIR`, `EEXIST`, `ENAMETOOLONG`.
    pub fn insert(self: &Arc<Self>, name: &[u8], child: Arc<Self>) -> Result<()> {
        if name.len() > NAME_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut entries = self.entries()?.lock();
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if matches!(child.kind, Kind::Directory(_)) {
            self.facts.lock().links += 1;
        }
        *child.above.lock() = Arc::downgrade(self);
        entries.insert(name.into(), child);
        Ok(())
    }

    /// Enters `child` as `name` for a program.
    ///
    /// # Errors
    /// As [`Node::insert`], and `EROFS` outside /tmp, `ENOENT` in a directory that was removed.
    pub fn create(self: &Arc<Self>, name: &[u8], child: Arc<Self>) -> Result<()> {
        self.writable()?;
        self.insert(name, child)
    }

    /// Takes one of its names from a file.
    fn end_link(&self, name: &[u8]) {
        let mut facts = self.facts.lock();
        facts.links -= 1;
        if facts.links == 0 {
            *self.lost.lock() = Some(name.into());
        }
    }

    /// Removes the file or link `name`.
    ///
    /// # Errors
    /// `EROFS`, `ENOENT`, `EISDIR`.
    pub fn unlink(&self, name: &[u8]) -> Result<()> {
        let mut entries = self.writable()?.lock();
        let node = entries.get(name).ok_or(Errno::ENOENT)?;
        if matches!(node.kind, Kind::Directory(_)) {
            return Err(Errno::EISDIR);
        }
        node.end_link(name);
        entries.remove(name);
        Ok(())
    }

    /// Removes the empty directory `name`.
    ///
    /// # Errors
    /// `EROFS`, `ENOENT`, `ENOTDIR`, `ENOTEMPTY`.
    pub fn remove_directory(&self, name: &[u8]) -> Result<()> {
        let mut entries = self.writable()?.lock();
        let node = entries.get(name).ok_or(Errno::ENOENT)?;
        if !node.entries()?.lock().is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        node.facts.lock().links = 0;
        entries.remove(name);
        self.facts.lock().links -= 1;
        Ok(())
    }
}

/// Moves `from_name` to `to_name`, replacing what stands there as rename(2) says. The caller
/// holds the lock of names (module header).
///
/// # Errors
/// `EROFS`, `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EINVAL` when a directory would
/// move into itself.
pub fn rename<F>(
    from: &Arc<Node<F>>,
    from_name: &[u8],
    to: &Arc<Node<F>>,
    to_name: &[u8],
) -> Result<()> {
    from.writable()?;
    to.writable()?;
    let moved = from.child(from_name)?;
    let is_directory = matches!(moved.kind, Kind::Directory(_));
    if is_directory && stands_in(to, &moved) {
        return Err(Errno::EINVAL);
    }
    let old = to.child(to_name).ok();
    if let Some(old) = &old {
        if Arc::ptr_eq(old, &moved) {
            return Ok(());
        }
        match (is_directory, matches!(old.kind, Kind::Directory(_))) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) if !old.entries()?.lock().is_empty() => return Err(Errno::ENOTEMPTY),
            _ => (),
        }
    }
    // One step: whoever looks for the target meanwhile finds the one or the other.
    *moved.above.lock() = Arc::downgrade(to);
    to.entries()?.lock().insert(to_name.into(), moved);
    from.entries()?.lock().remove(from_name);
    match &old {
        Some(old) if is_directory => old.facts.lock().links = 0,
        Some(old) => old.end_link(to_name),
        None if is_directory => to.facts.lock().links += 1,
        _ => (),
    }
    if is_directory {
        from.facts.lock().links -= 1;
    }
    Ok(())
}

/// Tells whether a directory is another one, or below it.
fn stands_in<F>(directory: &Arc<Node<F>>, other: &Arc<Node<F>>) -> bool {
    let mut here = Some(directory.clone());
    while let Some(node) = here {
        if Arc::ptr_eq(&node, other) {
            return true;
        }
        here = node.above();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{Errno, Kind, Node, Origin, rename};
    use std::sync::Arc;

    fn file(content: u32) -> Arc<Node<u32>> {
        Node::new(Origin::Memory, 0o644, 0, Kind::File(content)).unwrap()
    }

    fn names(dir: &Node<u32>) -> Vec<String> {
        let (mut out, mut last) = (Vec::new(), None);
        while let Some((name, _)) = dir.entry_after(last.as_deref()).unwrap() {
            out.push(String::from_utf8(name.to_vec()).unwrap());
            last = Some(name);
        }
        out
    }

    #[test]
    fn only_memory_nodes_change() {
        let archive = Node::directory(Origin::Archive, 0o755, 0).unwrap();
        archive.insert(b"a", file(1)).unwrap();
        assert_eq!(archive.create(b"b", file(2)), Err(Errno::EROFS));
        assert_eq!(archive.unlink(b"a"), Err(Errno::EROFS));
        assert_eq!(names(&archive), ["a"]);
    }

    #[test]
    fn entries_come_and_go() {
        let tmp = Node::directory(Origin::Memory, 0o755, 0).unwrap();
        let sub = Node::directory(Origin::Memory, 0o755, 0).unwrap();
        tmp.create(b"sub", sub.clone()).unwrap();
        assert_eq!(tmp.facts.lock().links, 3);
        sub.create(b"f", file(1)).unwrap();
        assert_eq!(tmp.create(b"sub", file(2)), Err(Errno::EEXIST));
        assert_eq!(tmp.unlink(b"sub"), Err(Errno::EISDIR));
        assert_eq!(tmp.remove_directory(b"sub"), Err(Errno::ENOTEMPTY));
        sub.unlink(b"f").unwrap();
        tmp.remove_directory(b"sub").unwrap();
        assert_eq!(tmp.facts.lock().links, 2);
        assert!(names(&tmp).is_empty());
    }

    #[test]
    fn rename_replaces_and_refuses_as_the_manual_says() {
        let tmp = Node::directory(Origin::Memory, 0o755, 0).unwrap();
        let sub = Node::directory(Origin::Memory, 0o755, 0).unwrap();
        tmp.create(b"a", file(1)).unwrap();
        tmp.create(b"b", file(2)).unwrap();
        tmp.create(b"sub", sub.clone()).unwrap();
        let replaced = tmp.child(b"b").unwrap();
        rename(&tmp, b"a", &tmp, b"b").unwrap();
        assert_eq!(names(&tmp), ["b", "sub"]);
        assert_eq!(replaced.facts.lock().links, 0);
        assert!(matches!(tmp.child(b"b").unwrap().kind, Kind::File(1)));
        assert_eq!(rename(&tmp, b"b", &tmp, b"sub"), Err(Errno::EISDIR));
        assert_eq!(rename(&tmp, b"sub", &tmp, b"b"), Err(Errno::ENOTDIR));
        assert_eq!(rename(&tmp, b"sub", &sub, b"x"), Err(Errno::EINVAL));
        rename(&tmp, b"b", &sub, b"c").unwrap();
        assert_eq!(
            (names(&tmp), names(&sub)),
            (vec!["sub".into()], vec!["c".into()])
        );
    }

    #[test]
    fn a_moved_directory_is_counted_where_it_is() {
        let directory = || Node::<u32>::directory(Origin::Memory, 0o755, 0).unwrap();
        let (tmp, sub, old) = (directory(), directory(), directory());
        let links = |node: &Node<u32>| node.facts.lock().links;
        tmp.create(b"sub", sub.clone()).unwrap();
        tmp.create(b"a", directory()).unwrap();
        tmp.create(b"b", directory()).unwrap();
        sub.create(b"old", old.clone()).unwrap();
        assert_eq!((links(&tmp), links(&sub)), (5, 3));
        rename(&tmp, b"a", &sub, b"new").unwrap();
        assert_eq!((links(&tmp), links(&sub)), (4, 4));
        old.create(b"f", file(1)).unwrap();
        let onto_old = || rename(&tmp, b"b", &sub, b"old");
        assert_eq!(onto_old(), Err(Errno::ENOTEMPTY));
        old.unlink(b"f").unwrap();
        onto_old().unwrap();
        assert_eq!((links(&tmp), links(&sub)), (3, 4));
    }

    #[test]
    fn a_directory_knows_its_path_until_it_is_removed() {
        let directory = || Node::<u32>::directory(Origin::Memory, 0o755, 0).unwrap();
        let (root, a, b, sub) = (directory(), directory(), directory(), directory());
        root.create(b"a", a.clone()).unwrap();
        root.create(b"b", b.clone()).unwrap();
        a.create(b"sub", sub.clone()).unwrap();
        assert_eq!(root.path().unwrap(), b"/");
        assert_eq!(sub.path().unwrap(), b"/a/sub");
        rename(&root, b"a", &b, b"c").unwrap();
        assert_eq!(sub.path().unwrap(), b"/b/c/sub");
        assert_eq!(rename(&root, b"b", &sub, b"d"), Err(Errno::EINVAL));
        assert_eq!(rename(&root, b"b", &b, b"d"), Err(Errno::EINVAL));
        a.remove_directory(b"sub").unwrap();
        assert_eq!(sub.path(), Err(Errno::ENOENT));
        assert_eq!(sub.create(b"f", file(1)), Err(Errno::ENOENT));
        assert!(Arc::ptr_eq(&sub.above().unwrap(), &a));
    }

    #[test]
    fn a_listing_survives_removals() {
        let tmp = Node::directory(Origin::Memory, 0o755, 0).unwrap();
        for name in [b"a", b"b", b"c"] {
            tmp.create(name, file(0)).unwrap();
        }
        let (first, _) = tmp.entry_after(None).unwrap().unwrap();
        tmp.unlink(b"a").unwrap();
        tmp.unlink(b"b").unwrap();
        let (next, _) = tmp.entry_after(Some(&first)).unwrap().unwrap();
        assert_eq!(&*next, b"c");
    }
}
