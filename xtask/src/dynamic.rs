//! What a dynamic program takes along: its interpreter, and the libraries that this names at its
//! start, from where the host has them.
//!
//! ```text
//! program ── PT_INTERP ──► /lib64/ld-linux-x86-64.so.2          stands at the same path inside
//!         ── DT_NEEDED ──► libc.so.6, libm.so.6 ── DT_NEEDED ──► ...
//!                          found in DT_RUNPATH, in the directories of the host's own libraries,
//!                          or in those of Debian's cross compilers
//! ```
//! A library stands inside where it stands on the host, so that the interpreter finds it by its own
//! rules; but a cross compiler's stands in [`PLAIN`]. What a program opens only while it runs
//! (`dlopen`, name services) is not known here.
//!
//! Source: System V ABI, chapter 5 "Dynamic Linking"; ld.so(8).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRTAB, PT_INTERP, PT_LOAD};
use elf::endian::AnyEndian;

use crate::command::say;
use crate::cpio::Archive;
use crate::initramfs;
use crate::kernel::Arch;

/// What every ELF file begins with.
const MAGIC: &[u8] = b"\x7fELF";

/// Where every interpreter looks for libraries.
const PLAIN: &str = "/lib";

/// What a file says about its own linking.
#[derive(Debug, PartialEq, Eq)]
struct Linking {
    /// `e_machine`.
    machine: u16,
    /// PT_INTERP.
    interpreter: Option<String>,
    /// DT_NEEDED, in the file's order.
    needed: Vec<String>,
    /// DT_RUNPATH and DT_RPATH, not yet expanded.
    search: Vec<String>,
}

/// Adds to `archive` what the program `path`, which is there already, needs on a machine of
/// `arch` to start: nothing for a static program, or for a file that is no ELF file.
///
/// # Errors
/// In a sentence: when the program is another machine's, or this host lacks something.
pub fn add_needs(archive: &mut Archive, path: &Path, arch: Arch) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !bytes.starts_with(MAGIC) {
        return Ok(());
    }
    let program = path.display();
    let linking = linking(&bytes).with_context(|| format!("{program} is damaged"))?;
    if linking.machine != arch.elf_machine() {
        bail!(
            "{program} is a program of ELF machine {}, and the machine to boot, {}, is {}",
            linking.machine,
            arch.name(),
            arch.elf_machine()
        );
    }
    let Some(interpreter) = linking.interpreter.clone() else {
        return Ok(());
    };
    let name = file_name(&interpreter);
    let found = [PathBuf::from(&interpreter)]
        .into_iter()
        .chain(cross_dirs(arch).map(|dir| dir.join(name)))
        .find(|path| is_for(path, arch));
    let Some(found) = found else {
        bail!(
            "{program} is a dynamic program, and this host has no {interpreter} for {}: link it \
             statically, or install that architecture's C library",
            arch.name()
        );
    };
    initramfs::add_file(archive, &interpreter, &found)?;
    say(&format!("{program} is dynamic: {interpreter} comes along"));
    add_libraries(archive, path, linking, name, arch)
}

/// Adds the libraries of `program`, and theirs; not `interpreter`, which is a library too.
fn add_libraries(
    archive: &mut Archive,
    program: &Path,
    linking: Linking,
    interpreter: &str,
    arch: Arch,
) -> Result<()> {
    let mut known = BTreeSet::from([interpreter.to_string()]);
    let mut todo = vec![(program.to_path_buf(), linking)];
    while let Some((user, linking)) = todo.pop() {
        let own = own_dirs(&user, &linking.search);
        for name in linking.needed {
            if !known.insert(name.clone()) {
                continue;
            }
            let (outer, inner) = find(&name, &own, arch).with_context(|| {
                format!(
                    "{} needs {name}, which this host does not have for {}",
                    user.display(),
                    arch.name()
                )
            })?;
            initramfs::add_file(archive, &inner, &outer)?;
            say(&format!("{} needs {inner}", user.display()));
            let bytes = fs::read(&outer)?;
            let linking =
                self::linking(&bytes).with_context(|| format!("{} is damaged", outer.display()))?;
            todo.push((outer, linking));
        }
    }
    Ok(())
}

/// Returns where the host has the library `name` for `arch`, and where the kernel's programs will.
fn find(name: &str, own: &[PathBuf], arch: Arch) -> Option<(PathBuf, String)> {
    let same = |path: PathBuf| {
        let inner = path.to_string_lossy().into_owned();
        (path, inner)
    };
    let cross = |path: PathBuf| (path, format!("{PLAIN}/{name}"));
    let native = own.iter().cloned().chain(native_dirs(arch));
    native
        .map(|dir| same(dir.join(name)))
        .chain(cross_dirs(arch).map(|dir| cross(dir.join(name))))
        .find(|(outer, _)| is_for(outer, arch))
}

/// The directories of a host's own libraries: Debian's, then others'.
fn native_dirs(arch: Arch) -> impl Iterator<Item = PathBuf> {
    let triplet = arch.triplet();
    [
        format!("{PLAIN}/{triplet}"),
        format!("/usr/lib/{triplet}"),
        "/lib64".to_string(),
        "/usr/lib64".to_string(),
        PLAIN.to_string(),
        "/usr/lib".to_string(),
    ]
    .into_iter()
    .map(PathBuf::from)
}

/// The directories of the libraries that a cross compiler for `arch` links against.
fn cross_dirs(arch: Arch) -> impl Iterator<Item = PathBuf> {
    [PathBuf::from(format!("/usr/{}/lib", arch.triplet()))].into_iter()
}

/// The directories that a file names for its own libraries.
fn own_dirs(file: &Path, search: &[String]) -> Vec<PathBuf> {
    let origin = file.parent().unwrap_or(Path::new("/")).to_string_lossy();
    search
        .iter()
        .flat_map(|list| list.split(':'))
        .map(|dir| {
            dir.replace("${ORIGIN}", &origin)
                .replace("$ORIGIN", &origin)
        })
        .filter(|dir| dir.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// Answers whether `path` is an ELF file for `arch`: directories of libraries may hold several
/// architectures', and linkers' scripts under a library's name.
fn is_for(path: &Path, arch: Arch) -> bool {
    let linking = fs::read(path).ok().and_then(|bytes| linking(&bytes).ok());
    linking.is_some_and(|linking| linking.machine == arch.elf_machine())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn linking(bytes: &[u8]) -> Result<Linking> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let mut found = Linking {
        machine: file.ehdr.e_machine,
        interpreter: None,
        needed: Vec::new(),
        search: Vec::new(),
    };
    let Some(segments) = file.segments() else {
        return Ok(found);
    };
    if let Some(segment) = segments.iter().find(|segment| segment.p_type == PT_INTERP) {
        found.interpreter = Some(string(file.segment_data(&segment)?)?);
    }
    let Some(dynamic) = file.dynamic()? else {
        return Ok(found);
    };
    let Some(table) = dynamic.iter().find(|entry| entry.d_tag == DT_STRTAB) else {
        return Ok(found);
    };
    // The table is named by its address: the segment that is loaded there holds it.
    let at = table.d_ptr();
    let segment = segments
        .iter()
        .find(|part| {
            part.p_type == PT_LOAD
                && (at.checked_sub(part.p_vaddr)).is_some_and(|in_it| in_it < part.p_filesz)
        })
        .context("its names are in no segment")?;
    let strings = file
        .segment_data(&segment)?
        .get((at - segment.p_vaddr) as usize..)
        .unwrap_or_default();
    for entry in dynamic.iter() {
        let list = match entry.d_tag {
            DT_NEEDED => &mut found.needed,
            DT_RUNPATH | DT_RPATH => &mut found.search,
            _ => continue,
        };
        let name = strings
            .get(entry.d_val() as usize..)
            .context("a name is outside of its table")?;
        list.push(string(name)?);
    }
    Ok(found)
}

/// Reads up to the first NUL.
fn string(bytes: &[u8]) -> Result<String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .context("a name has no end")?;
    Ok(String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Linking, linking, own_dirs};

    /// Writes an ELF64 file: one segment that is loaded at 0x1000 and holds all, PT_INTERP and
    /// PT_DYNAMIC in it.
    fn file(strings: &[u8], dynamic: &[(u64, u64)]) -> Vec<u8> {
        const HEADERS: usize = 64 + 3 * 56;
        let interpreter = b"/lib/ld.so\0";
        let tables = HEADERS + interpreter.len();
        let at = tables + strings.len();
        let end = at + 16 * dynamic.len();
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [3u16, 62] {
            out.extend(half.to_le_bytes());
        }
        out.extend(1u32.to_le_bytes());
        for word in [0u64, 64, 0] {
            out.extend(word.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 3, 0, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        for (kind, from, to) in [(1u32, 0, end), (3, HEADERS, tables), (2, at, end)] {
            out.extend(kind.to_le_bytes());
            out.extend(4u32.to_le_bytes());
            let (from, bytes) = (from as u64, (to - from) as u64);
            for word in [from, 0x1000 + from, 0x1000 + from, bytes, bytes, 1] {
                out.extend(word.to_le_bytes());
            }
        }
        out.extend(interpreter);
        out.extend(strings);
        for (tag, value) in dynamic {
            let value = if *tag == 5 {
                0x1000 + tables as u64
            } else {
                *value
            };
            out.extend(tag.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        out
    }

    #[test]
    fn a_file_says_what_it_needs() {
        let bytes = file(
            b"\0libc.so.6\0libm.so.6\0$ORIGIN/../lib:/opt\0",
            &[(1, 11), (5, 0), (29, 21), (1, 1), (0, 0)],
        );
        assert_eq!(
            linking(&bytes).unwrap(),
            Linking {
                machine: 62,
                interpreter: Some("/lib/ld.so".to_string()),
                needed: vec!["libm.so.6".to_string(), "libc.so.6".to_string()],
                search: vec!["$ORIGIN/../lib:/opt".to_string()],
            }
        );
        // Names that are not there are a damaged file's.
        assert!(linking(&file(b"\0libc", &[(1, 1), (5, 0)])).is_ok());
        assert!(linking(&file(b"\0libc\0", &[(1, 1 << 40), (5, 0)])).is_err());
        assert!(linking(b"\x7fELF").is_err());
    }

    #[test]
    fn directories_beside_the_file_are_its_own() {
        let search = [
            "$ORIGIN/../lib:relative".to_string(),
            "${ORIGIN}".to_string(),
        ];
        assert_eq!(
            own_dirs(Path::new("/opt/a/bin/x"), &search),
            ["/opt/a/bin/../lib", "/opt/a/bin"].map(PathBuf::from)
        );
    }
}
