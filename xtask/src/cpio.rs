//! Writes a cpio archive in the "newc" form, the form of Linux's initramfs.
//!
//! ```text
//!   "070701" | 13 fields of 8 hex digits | name NUL | pad to 4 | data | pad to 4 | next ...
//! ```
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`. The archive is
//! the same for the same contents: times are zero and inode numbers count from 1.

use std::collections::BTreeMap;

/// What stands under one name.
pub enum Member {
    /// A directory.
    Directory,
    /// A file that may be executed, or not, and its bytes.
    File {
        /// Whether anyone may execute it.
        executable: bool,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A symbolic link to this path.
    Link(String),
}

/// An archive under construction: absolute paths and what stands there.
#[derive(Default)]
pub struct Archive {
    members: BTreeMap<String, Member>,
    lost: usize,
}

impl Archive {
    /// Puts `member` at the absolute path `path`, with the directories above it.
    pub fn put(&mut self, path: &str, member: Member) {
        for (at, _) in path.match_indices('/').skip(1) {
            self.members
                .entry(path[..at].to_string())
                .or_insert(Member::Directory);
        }
        self.members.insert(path.to_string(), member);
    }

    /// Returns the paths and bytes of all files.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.members
            .iter()
            .filter_map(|(path, member)| match member {
                Member::File { bytes, .. } => Some((path.as_str(), bytes.as_slice())),
                _ => None,
            })
    }

    /// Cuts so many bytes off the end of what the last file holds, and all that would follow: as
    /// on a disk that is shorter than its file system says.
    pub fn lose(&mut self, bytes: usize) {
        self.lost = bytes;
    }

    /// Writes the archive.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, (path, member)) in self.members.iter().enumerate() {
            let (mode, data): (u32, &[u8]) = match member {
                Member::Directory => (0o040_755, &[]),
                Member::File {
                    executable: true,
                    bytes,
                } => (0o100_755, bytes),
                Member::File {
                    executable: false,
                    bytes,
                } => (0o100_644, bytes),
                Member::Link(target) => (0o120_777, target.as_bytes()),
            };
            entry(&mut out, at + 1, mode, path.trim_start_matches('/'), data);
        }
        if self.lost > 0 {
            out.truncate(out.len().saturating_sub(self.lost));
            return out;
        }
        entry(&mut out, 0, 0, "TRAILER!!!", &[]);
        out
    }
}

fn entry(out: &mut Vec<u8>, inode: usize, mode: u32, name: &str, data: &[u8]) {
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [
        inode,
        mode as usize,
        0,
        0,
        links,
        0,
        data.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::{Archive, Member};

    #[test]
    fn writes_what_the_format_says() {
        let mut archive = Archive::default();
        archive.put(
            "/bin/a",
            Member::File {
                executable: true,
                bytes: b"hello".to_vec(),
            },
        );
        archive.put("/bin/b", Member::Link("/bin/a".to_string()));
        let bytes = archive.bytes();
        assert_eq!(bytes.len() % 4, 0);
        assert!(
            bytes.starts_with(b"07070100000001000041ed"),
            "the directory comes first"
        );
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("000081ed"), "mode of an executable file");
        assert!(text.contains("0000a1ff"), "mode of a link");
        assert!(text.contains("TRAILER!!!\0"));
        let name = text.find("bin/a\0").map(|at| at + 6);
        let data = text.find("hello");
        assert_eq!(
            data,
            name.map(|end| end.next_multiple_of(4)),
            "data start at a multiple of 4"
        );
        assert_eq!(
            archive.files().collect::<Vec<_>>(),
            [("/bin/a", &b"hello"[..])]
        );
    }
}
