//! Walks a path from a directory to a name: path_resolution(7).
//!
//! A walk ends at a *place*: the directory that holds (or would hold) the last name,
//! the name, and the node if there is one. So the same walk serves open, creation and
//! removal. There is no recursion: symbolic links are spliced into what is left of the path, at
//! most 40 of them.
//! It never sleeps and holds the lock of one directory at a time: callers that change the
//! place hold the lock of names around it ([`super::tree`]).

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::proc::ProcFile;
use super::tree::{Kind, Node};
use crate::errno::{Errno, Result};
use crate::limits::{NAME_BYTES, PATH_BYTES};

/// What to do with a symbolic link as the last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// Go where it points (open, stat).
    Follow,
    /// The link itself is meant (lstat, unlink, readlink).
    Keep,
}

/// Where a walk ended.
pub struct Place<F> {
    /// The directory of the last name.
    pub directory: Arc<Node<F>>,
    /// The last name; `.` or `..` where the path ends so, and empty for the root: such a place
    /// can only be looked at, and its directory is itself.
    pub name: Vec<u8>,
    /// What the name stands for, if it exists.
    pub node: Option<Arc<Node<F>>>,
    /// Whether the path ended in a slash and so can only mean a directory.
    pub wants_directory: bool,
}

impl<F> Place<F> {
    fn itself(directory: Arc<Node<F>>, name: Vec<u8>) -> Self {
        Place {
            node: Some(directory.clone()),
            directory,
            name,
            wants_directory: true,
        }
    }

    /// Tells whether the place has a name that can be given and taken.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !matches!(self.name.as_slice(), b"" | b"." | b"..")
    }

    /// Answers the node.
    ///
    /// # Errors
    /// `ENOENT` if there is none, `ENOTDIR` if the path wants a directory and it is none.
    pub fn existing(&self) -> Result<&Arc<Node<F>>> {
        let node = self.node.as_ref().ok_or(Errno::ENOENT)?;
        if self.wants_directory {
            node.entries()?;
        }
        Ok(node)
    }

    /// Answers the whole path without links, `.` and `..`; the caller holds the lock of names.
    ///
    /// # Errors
    /// As [`Node::path`].
    pub fn path(&self) -> Result<Vec<u8>> {
        let mut path = self.directory.path()?;
        if self.is_named() {
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(&self.name);
        }
        Ok(path)
    }
}

const MAX_LINKS: usize = 40;

/// Walks `path`, from the directory `base` unless it starts with a slash.
/// `magic` answers where the links of /proc point for whoever asks.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`.
pub fn walk<F>(
    root: &Arc<Node<F>>,
    base: &Arc<Node<F>>,
    path: &[u8],
    last: LastLink,
    magic: &dyn Fn(ProcFile) -> Result<Vec<u8>>,
) -> Result<Place<F>> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut rest = path.to_vec();
    let mut here = if path[0] == b'/' { root } else { base }.clone();
    let mut links = 0;
    loop {
        let start = rest
            .iter()
            .position(|&byte| byte != b'/')
            .unwrap_or(rest.len());
        let length = rest[start..]
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(rest.len() - start);
        let name = rest[start..start + length].to_vec();
        let after = rest[start + length..].to_vec();
        let at_end = after.iter().all(|&byte| byte == b'/');
        match name.as_slice() {
            b"" | b"." if at_end => return Ok(Place::itself(here, name)),
            b".." => {
                if !Arc::ptr_eq(&here, root) {
                    here = here.above().ok_or(Errno::ENOENT)?;
                }
                if at_end {
                    return Ok(Place::itself(here, name));
                }
            }
            b"." => (),
            _ if name.len() > NAME_BYTES => return Err(Errno::ENAMETOOLONG),
            _ => {
                let child = match here.child(&name) {
                    Err(Errno::ENOENT) if at_end => None,
                    found => Some(found?),
                };
                let keep = at_end && last == LastLink::Keep && after.is_empty();
                let target = match &child {
                    Some(node) if !keep => link_target(node, magic)?,
                    _ => None,
                };
                if let Some(target) = target {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    if target.first() == Some(&b'/') {
                        here = root.clone();
                    }
                    rest = splice(&target, &after)?;
                    continue;
                }
                if at_end {
                    return Ok(Place {
                        directory: here,
                        name,
                        node: child,
                        wants_directory: !after.is_empty(),
                    });
                }
                if let Some(node) = child {
                    node.entries()?;
                    here = node;
                }
            }
        }
        rest = after;
    }
}

/// Answers where a link points; `None` for anything but a link.
///
/// # Errors
/// What `magic` answers for a link of /proc.
pub fn link_target<F>(
    node: &Node<F>,
    magic: &dyn Fn(ProcFile) -> Result<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    match &node.kind {
        Kind::Link(target) => Ok(Some(target.to_vec())),
        Kind::Proc(file @ ProcFile::Executable) => magic(*file).map(Some),
        _ => Ok(None),
    }
}

fn splice(front: &[u8], back: &[u8]) -> Result<Vec<u8>> {
    if front.len() + back.len() + 1 > 2 * PATH_BYTES {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut whole = front.to_vec();
    if !back.is_empty() {
        whole.push(b'/');
        whole.extend_from_slice(back);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::{Errno, Kind, LastLink, Node, Place, walk};
    use crate::fs::tree::Origin;
    use std::sync::Arc;

    fn tree() -> Arc<Node<u32>> {
        let dir = || Node::directory(Origin::Memory, 0o755, 0).unwrap();
        let link = |to: &[u8]| Node::new(Origin::Memory, 0o777, 0, Kind::Link(to.into())).unwrap();
        let (root, bin, usr) = (dir(), dir(), dir());
        bin.insert(b"sh", link(b"busybox")).unwrap();
        bin.insert(
            b"busybox",
            Node::new(Origin::Memory, 0o755, 0, Kind::File(7)).unwrap(),
        )
        .unwrap();
        usr.insert(b"bin", link(b"/bin")).unwrap();
        usr.insert(b"loop", link(b"../usr/loop")).unwrap();
        usr.insert(b"new", link(b"../bin/fresh")).unwrap();
        root.insert(b"bin", bin).unwrap();
        root.insert(b"usr", usr).unwrap();
        root
    }

    fn at(base: &str, path: &str, last: LastLink) -> Result<(Place<u32>, String), Errno> {
        let root = tree();
        let magic = |_| Err(Errno::ENOENT);
        let base = walk(&root, &root, base.as_bytes(), LastLink::Follow, &magic)?;
        let place = walk(&root, base.existing()?, path.as_bytes(), last, &magic)?;
        // What is above a directory lives as long as the tree does.
        let path = String::from_utf8(place.path()?).unwrap();
        Ok((place, path))
    }

    fn path(base: &str, path: &str) -> Result<String, Errno> {
        let (place, path) = at(base, path, LastLink::Follow)?;
        place.existing()?;
        Ok(path)
    }

    #[test]
    fn names_links_and_dots() {
        assert_eq!(path("/", "bin/sh").unwrap(), "/bin/busybox");
        assert_eq!(path("/usr", "bin//./sh").unwrap(), "/bin/busybox");
        assert_eq!(path("/usr/bin", "..").unwrap(), "/");
        assert_eq!(path("/", "usr/bin/../bin/").unwrap(), "/bin");
        assert_eq!(path("/bin", "../../..").unwrap(), "/");
        assert_eq!(path("/usr", ".").unwrap(), "/usr");
        assert_eq!(path("/", "/").unwrap(), "/");
    }

    #[test]
    fn refusals() {
        assert_eq!(path("/", ""), Err(Errno::ENOENT));
        assert_eq!(path("/", "bin/none"), Err(Errno::ENOENT));
        assert_eq!(path("/", "none/sh"), Err(Errno::ENOENT));
        assert_eq!(path("/", "bin/busybox/x"), Err(Errno::ENOTDIR));
        assert_eq!(path("/", "bin/busybox/"), Err(Errno::ENOTDIR));
        assert_eq!(path("/", "bin/busybox/.."), Err(Errno::ENOTDIR));
        assert_eq!(path("/", "usr/loop"), Err(Errno::ELOOP));
        assert_eq!(path("/", &"a".repeat(256)), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn the_last_link_may_be_meant_itself() {
        let (place, _) = at("/", "bin/sh", LastLink::Keep).unwrap();
        assert!(matches!(place.node.unwrap().kind, Kind::Link(_)));
        let (_, path) = at("/", "usr/bin/", LastLink::Keep).unwrap();
        assert_eq!(path, "/bin");
    }

    #[test]
    fn a_missing_last_name_is_a_place_to_create() {
        let (place, path) = at("/usr", "../bin/x", LastLink::Follow).unwrap();
        assert!(place.node.is_none());
        assert_eq!(
            (place.name.as_slice(), path.as_str()),
            (&b"x"[..], "/bin/x")
        );
        let (place, path) = at("/", "usr/new", LastLink::Follow).unwrap();
        assert!(place.node.is_none());
        assert_eq!(path, "/bin/fresh");
    }
}
