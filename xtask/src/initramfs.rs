//! Packs the kernel's first file system.
//!
//! | path | from |
//! |---|---|
//! | `/bin/busybox`, `/bin/APPLET` → busybox | Debian's package, unmodified |
//! | everything of `examples/kernel/rootfs/` | the repository |
//! | `/etc/argv` | the words that the first program is started with |
//! | `/usr/bin/NAME` | the file given with `--program`, or a program of `examples/programs` |
//! | a dynamic program's interpreter and libraries | the host, or Debian's cross compilers ([`crate::dynamic`]) |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::cpio::{Archive, Member};
use crate::{debian, paths};

/// Where the kernel's own files stand in the repository.
const ROOTFS: &str = "examples/kernel/rootfs";

/// Packs busybox (if any) and the files of the repository.
pub fn base(busybox: Option<&Path>) -> Result<Archive> {
    let mut archive = Archive::default();
    for dir in ["/bin", "/dev", "/etc", "/proc", "/root", "/tmp", "/usr/bin"] {
        archive.put(dir, Member::Directory);
    }
    if let Some(busybox) = busybox {
        put_file(&mut archive, "/bin/busybox", busybox, true)?;
        for applet in debian::applets(busybox)? {
            if applet != "busybox" {
                archive.put(
                    &format!("/bin/{applet}"),
                    Member::Link("/bin/busybox".to_string()),
                );
            }
        }
    }
    let rootfs = paths::root().join(ROOTFS);
    if rootfs.is_dir() {
        for path in files(&rootfs)? {
            let inner = path.strip_prefix(&rootfs)?.to_string_lossy().into_owned();
            let executable = inner.ends_with(".sh") || inner.starts_with("bin/");
            put_file(&mut archive, &format!("/{inner}"), &path, executable)?;
        }
    }
    Ok(archive)
}

/// Adds the host's file `path` as `inner`.
pub fn add_file(archive: &mut Archive, inner: &str, path: &Path) -> Result<()> {
    put_file(archive, inner, path, true)
}

/// Adds an executable file with these bytes.
pub fn add_bytes(archive: &mut Archive, inner: &str, bytes: Vec<u8>) {
    archive.put(
        inner,
        Member::File {
            executable: true,
            bytes,
        },
    );
}

/// Adds the program `path` and returns where the kernel finds it.
pub fn add_program(archive: &mut Archive, path: &Path) -> Result<String> {
    let name = path
        .file_name()
        .context("a program needs a file name")?
        .to_string_lossy();
    let inner = format!("/usr/bin/{name}");
    put_file(archive, &inner, path, true)?;
    Ok(inner)
}

/// The word of the kernel's command line that starts what [`add_words`] said.
pub const START_WORDS: &str = "argv=/etc/argv";

/// Has the first program started with these words, as they are: the command line would take them
/// apart at their blanks.
pub fn add_words<W: AsRef<str>>(archive: &mut Archive, words: &[W]) {
    let mut bytes = Vec::new();
    for word in words {
        bytes.extend_from_slice(word.as_ref().as_bytes());
        bytes.push(0);
    }
    let executable = false;
    archive.put("/etc/argv", Member::File { executable, bytes });
}

/// Returns the path of the script `name` of the repository, with or without `.sh`.
pub fn script(archive: &Archive, name: &str) -> Result<String> {
    let names = [name.to_string(), format!("{name}.sh")];
    archive
        .files()
        .map(|(path, _)| path)
        .find(|path| {
            names
                .iter()
                .any(|name| path == name || path.ends_with(&format!("/{name}")))
        })
        .map(str::to_string)
        .with_context(|| format!("there is no script {name}"))
}

/// A written archive; the file goes when this does.
pub struct Written {
    /// Where it stands.
    pub path: PathBuf,
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes the archive where QEMU can read it.
pub fn write(archive: &Archive) -> Result<Written> {
    // Two machines may be booted side by side, and two of these programs may run.
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let name = format!("initramfs-{}-{number}.cpio", std::process::id());
    let path = paths::product("boot")?.join(name);
    fs::write(&path, archive.bytes())?;
    Ok(Written { path })
}

fn put_file(archive: &mut Archive, inner: &str, path: &Path, executable: bool) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() > u32::MAX as usize {
        bail!("{} is larger than a cpio archive can hold", path.display());
    }
    archive.put(inner, Member::File { executable, bytes });
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path)
            } else {
                found.push(path)
            }
        }
    }
    found.sort();
    Ok(found)
}
