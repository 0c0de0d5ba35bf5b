//! Reads a cpio archive in the "newc" form, the form of Linux's initramfs.
//!
//! ```text
//!   "070701" | 13 fields of 8 hex digits | name NUL | pad to 4 | data | pad to 4 | next ...
//! ```
//! The archive stays where the boot loader put it: an [`Entry`] is a view.
//! Hard links come as entries with one inode number, of which only the last
//! carries data (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//! A damaged archive ends the iteration at the damage; it never panics. Where it ends within a
//! file's data, that file is there with its whole size: reading what is missing is an error, as on
//! a disk that is too short.

/// One member of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path without a leading slash, as stored.
    pub name: &'a [u8],
    /// Type and permissions as in stat(2).
    pub mode: u32,
    /// Inode number: equal in all hard links of a file.
    pub ino: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Size of the data in bytes, as the header states it.
    pub size: u64,
    /// The file's bytes, or the target of a symbolic link; fewer where the archive is cut off.
    pub data: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Answers the bytes of the page at an offset, fewer on the last page; `None` if the archive
    /// does not hold all of them.
    #[must_use]
    pub fn page(&self, offset: u64, page_shift: u32) -> Option<&'a [u8]> {
        let end = offset.checked_add(1 << page_shift)?.min(self.size);
        let (from, to) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
        // A page past the end is asked for by nobody; it holds nothing.
        self.data.get(from.min(to)..to)
    }
}

/// Iterates over the members of an archive.
pub struct Archive<'a> {
    bytes: &'a [u8],
    at: usize,
}

const HEADER: usize = 110;

impl<'a> Archive<'a> {
    /// Starts at the first member.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Archive { bytes, at: 0 }
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let header = self.bytes.get(self.at..)?.get(..HEADER)?;
        if !matches!(header.get(..6)?, b"070701" | b"070702") {
            return None;
        }
        let field = |i: usize| hex(header.get(6 + i * 8..14 + i * 8)?);
        let (size, name_size) = (field(6)? as usize, field(11)? as usize);
        let name_at = self.at.checked_add(HEADER)?;
        let name_end = name_at.checked_add(name_size)?;
        let data_at = align4(name_end)?;
        let data_end = data_at.checked_add(size)?;
        let there = data_end.min(self.bytes.len());
        let name = self.bytes.get(name_at..name_end)?.strip_suffix(b"\0")?;
        let data = self.bytes.get(data_at..there)?;
        self.at = align4(data_end)?;
        let (ino, mode, nlink, mtime) = (field(0)?, field(1)?, field(4)?, field(5)?);
        (name != b"TRAILER!!!").then_some(Entry {
            name,
            mode,
            ino,
            nlink,
            mtime,
            size: size as u64,
            data,
        })
    }
}

impl<'a> Iterator for Archive<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let entry = self.entry();
        if entry.is_none() {
            self.at = self.bytes.len();
        }
        entry
    }
}

fn align4(at: usize) -> Option<usize> {
    Some(at.checked_add(3)? & !3)
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |sum, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        sum.checked_mul(16)?.checked_add(digit)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Archive;

    /// Builds an archive; the tree's tests use it too.
    pub(crate) fn build(members: &[(&str, u32, u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let trailer: (&str, u32, u32, &[u8]) = ("TRAILER!!!", 0, 0, b"");
        for (name, mode, ino, data) in members.iter().chain([&trailer]) {
            let fields = [
                *ino,
                *mode,
                0,
                0,
                1,
                7,
                data.len() as u32,
                0,
                0,
                0,
                0,
                name.len() as u32 + 1,
                0,
            ];
            out.extend_from_slice(b"070701");
            for field in fields {
                out.extend_from_slice(format!("{field:08X}").as_bytes());
            }
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn lists_members_in_order() {
        let image = build(&[("bin", 0o040755, 1, b""), ("bin/a", 0o100755, 2, b"hello")]);
        let found: Vec<_> = Archive::new(&image).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[1].name, found[1].mode, found[1].ino),
            (&b"bin/a"[..], 0o100755, 2)
        );
        assert_eq!((found[1].data, found[1].mtime), (&b"hello"[..], 7));
    }

    #[test]
    fn a_cut_archive_ends_early_and_never_panics() {
        let image = build(&[("a", 0o100644, 1, b"one"), ("b", 0o100644, 2, b"two")]);
        for cut in 0..image.len() {
            assert!(Archive::new(&image[..cut]).count() <= 2);
        }
        let mut huge = image.clone();
        huge[6 + 6 * 8..14 + 6 * 8].copy_from_slice(b"FFFFFFFF");
        let found: Vec<_> = Archive::new(&huge).collect();
        assert_eq!((found.len(), found[0].size), (1, 0xffff_ffff));
        assert_eq!(found[0].page(u64::MAX - 4095, 12), None);
        assert_eq!(found[0].page(1 << 20, 12), None);
    }

    #[test]
    fn a_page_is_there_whole_or_not_at_all() {
        let bytes: Vec<u8> = (0..10_000u32).map(|at| at as u8).collect();
        let image = build(&[("a", 0o100644, 1, &bytes)]);
        let data_at = image
            .windows(64)
            .position(|part| part == &bytes[..64])
            .unwrap();
        let pages = |image: &[u8]| {
            let entry = Archive::new(image).next().unwrap();
            assert_eq!(entry.size, 10_000);
            [0, 4096, 8192].map(|at| entry.page(at, 12).map(<[u8]>::len))
        };
        assert_eq!(pages(&image), [Some(4096), Some(4096), Some(1808)]);
        assert_eq!(
            pages(&image[..data_at + 9_999]),
            [Some(4096), Some(4096), None]
        );
        assert_eq!(
            pages(&image[..data_at + 8_192]),
            [Some(4096), Some(4096), None]
        );
        assert_eq!(pages(&image[..data_at + 4_095]), [None; 3]);
    }
}
