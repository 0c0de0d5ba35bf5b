//! Walks a path from the root to a name: path_resolution(7).
//!
//! A walk ends at a *place*: the directory that holds (or would hold) the last name,
//! the name, and the node if there is one. So the same walk serves open, creation and
//! removal. `..` and symbolic links are resolved on a stack of the nodes passed, with
//! no recursion; links are spliced into what is left of the path, at most 40 of them.
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
    /// The directory of the last name (the root for the root itself).
    pub directory: Arc<Node<F>>,
    /// The last name; empty for the root.
    pub name: Vec<u8>,
    /// What the name stands for, if it exists.
    pub node: Option<Arc<Node<F>>>,
    /// The whole path without links, `.` and `..`.
    pub path: Vec<u8>,
    /// Whether the path ended in a slash and so can only mean a directory.
    pub wants_directory: bool,
}

impl<F> Place<F> {
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
}

const MAX_LINKS: usize = 40;

/// Walks `path`, from `base` (a whole path) unless it starts with a slash.
/// `magic` answers where the links of /proc point for whoever asks.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`.
pub fn walk<F>(
    root: &Arc<Node<F>>,
    base: &[u8],
    path: &[u8],
    last: LastLink,
    magic: &dyn Fn(ProcFile) -> Result<Vec<u8>>,
) -> Result<Place<F>> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut rest = if path[0] == b'/' {
        path.to_vec()
    } else {
        splice(base, path)?
    };
    let mut passed: Vec<(Vec<u8>, Arc<Node<F>>)> = Vec::new();
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
        let here = passed.last().map_or(root, |(_, node)| node).clone();
        match name.as_slice() {
            b"" | b"." if at_end => return Ok(end_at_directory(root, passed)),
            b".." => {
                here.entries()?;
                passed.pop();
                if at_end {
                    return Ok(end_at_directory(root, passed));
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
                        passed.clear();
                    }
                    rest = splice(&target, &after)?;
                    continue;
                }
                if at_end {
                    let wants_directory = !after.is_empty();
                    let path = join(passed.iter().map(|(name, _)| name).chain([&name]));
                    return Ok(Place {
                        directory: here,
                        name,
                        node: child,
                        path,
                        wants_directory,
                    });
                }
                if let Some(node) = child {
                    node.entries()?;
                    passed.push((name, node));
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

fn end_at_directory<F>(root: &Arc<Node<F>>, mut passed: Vec<(Vec<u8>, Arc<Node<F>>)>) -> Place<F> {
    let path = join(passed.iter().map(|(name, _)| name));
    let (name, node) = passed.pop().unwrap_or_else(|| (Vec::new(), root.clone()));
    let directory = passed.pop().map_or_else(|| root.clone(), |(_, node)| node);
    Place {
        directory,
        name,
        node: Some(node),
        path,
        wants_directory: true,
    }
}

fn join<'a>(names: impl Iterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut path = Vec::new();
    for name in names {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
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

    fn at(base: &str, path: &str, last: LastLink) -> Result<Place<u32>, Errno> {
        walk(&tree(), base.as_bytes(), path.as_bytes(), last, &|_| {
            Err(Errno::ENOENT)
        })
    }

    fn path(base: &str, path: &str) -> Result<String, Errno> {
        let place = at(base, path, LastLink::Follow)?;
        place.existing()?;
        Ok(String::from_utf8(place.path).unwrap())
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
        let place = at("/", "bin/sh", LastLink::Keep).unwrap();
        assert!(matches!(place.node.unwrap().kind, Kind::Link(_)));
        let place = at("/", "usr/bin/", LastLink::Keep).unwrap();
        assert_eq!(place.path, b"/bin");
    }

    #[test]
    fn a_missing_last_name_is_a_place_to_create() {
        let place = at("/usr", "../bin/x", LastLink::Follow).unwrap();
        assert!(place.node.is_none());
        assert_eq!(
            (place.name.as_slice(), place.path.as_slice()),
            (&b"x"[..], &b"/bin/x"[..])
        );
        let place = at("/", "usr/new", LastLink::Follow).unwrap();
        assert!(place.node.is_none());
        assert_eq!(place.path, b"/bin/fresh");
    }
}
