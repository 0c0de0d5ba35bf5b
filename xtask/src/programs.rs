//! Builds the small Linux programs of `examples/programs`, static but one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{self, say};
use crate::cpio::Archive;
use crate::kernel::{self, Arch};
use crate::toolchain::{self, Std};
use crate::{apt, debian, dynamic, initramfs, paths};

/// Where the programs stand in the repository.
const PACKAGE: &str = "examples/programs";

/// The program that shows a kernel's memory at work without busybox.
pub const HELLO: &str = "hello";

/// How that program is started.
pub const HELLO_WORDS: &[&str] = &["/usr/bin/hello"];

/// The program that takes all memory, as it must be started to have fork fail for want of it, and
/// the memory of a machine on which nothing else runs out before, in MiB.
pub const NO_MEMORY: &[&str] = &["/usr/bin/memory-hog", "fork"];
pub const SMALL_MEMORY: u32 = 48;
const MEMORY_HOG: &str = "memory-hog";

/// The program whose output on Linux is the oracle for its output on our kernel.
pub const ORACLE: &str = "bad-maps";

/// The program whose threads share an address space.
const THREADS: &str = "threads";

/// The program whose processes wait for each other in memory that they share.
const SHARED_FUTEX: &str = "shared-futex";

/// The program that asks for memory to be locked, populated and advised.
const MEMORY_CALLS: &str = "memory-calls";

/// The program whose files live in memory.
const MEMORY_FILES: &str = "memory-files";

/// The program that reads what the kernel says of it.
const ABOUT_SELF: &str = "about-self";

/// The program whose calls fail or stop half way.
const FILE_CALLS: &str = "file-calls";

/// The program whose directories are moved and removed.
const NAMES: &str = "names";

/// The program whose calls have small answers.
const SMALL_CALLS: &str = "small-calls";

/// The program whose processes are held to their limits.
const LIMITS: &str = "limits";

/// The program whose processes are killed while their threads sleep.
const GROUP_EXIT: &str = "group-exit";

/// The program whose processes and threads meet in vfork, exec and signals.
const PROCESSES: &str = "processes";

/// The program that looks after its registers.
const REGISTERS: &str = "registers";

/// The program that fills the files in memory, as it is started where there is little.
pub const FULL_TMP: &[&str] = &["/usr/bin/full-tmp"];

/// The program that its interpreter links when it starts, and how it is started.
const DYNAMIC: &str = "dynamic";
pub const DYNAMIC_WORDS: &[&str] = &["/usr/bin/dynamic"];

/// The script that feeds the kernel bad input.
pub const BAD_INPUT: &str = "bad-input";

/// The program that reads a file of which the disk has lost the end, and that file's pages.
const BAD_DISK: &str = "bad-disk";
const DAMAGED_PAGES: u8 = 8;

/// The script that runs other static programs than busybox.
pub const OTHERS: &str = "other-programs";

/// The script that keeps all CPUs busy with threads and processes.
pub const SMP: &str = "smp";

/// What that script runs.
const SMP_PROGRAMS: [&str; 4] = ["smp-threads", "fork-storm", "same-moment", SHARED_FUTEX];

/// The built programs.
pub struct Programs {
    dir: PathBuf,
}

/// Builds the programs for `arch`.
pub fn build(arch: Arch) -> Result<Programs> {
    let bare = toolchain::bare(arch.target())?;
    say(&format!(
        "building {PACKAGE} for {}: core is {}",
        arch.target(),
        bare.describe()
    ));
    let manifest = paths::root().join(PACKAGE).join("Cargo.toml");
    let (mut cargo, target_dir) = kernel::cargo(&bare, Std::Core, &manifest, "programs")?;
    command::run(&mut cargo)?;
    Ok(Programs {
        dir: target_dir.join(arch.target()).join("release"),
    })
}

/// Returns the source of the C program `name`: `name-ARCH.c` where a program knows its machine.
/// The registers of x86-64 are `registers.c`.
fn c_source(arch: Arch, name: &str) -> Option<PathBuf> {
    let sources = paths::root().join(PACKAGE);
    let own = sources.join(format!("{name}-{}.c", arch.name()));
    let general =
        (name != REGISTERS || arch == Arch::X86_64).then(|| sources.join(format!("{name}.c")));
    [Some(own), general]
        .into_iter()
        .flatten()
        .find(|source| source.is_file())
}

/// How a C program reaches its C library.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Linking {
    /// It holds what it needs.
    Static,
    /// Its interpreter maps the library, and that of mathematics.
    Dynamic,
}

/// Builds the C program `name`.
fn c_program(arch: Arch, name: &str, linking: Linking, dir: &Path) -> Result<()> {
    let [compiler, package, library] = c_compiler(arch);
    if apt::is_debian() {
        apt::install(&[package, library], "a C program is to be built")?;
    }
    let source = c_source(arch, name)
        .with_context(|| format!("there is no {name}.c for {}", arch.name()))?;
    let mut command = std::process::Command::new(compiler);
    command.args(["-O2", "-Wall", "-pthread", "-o"]);
    command.arg(dir.join(name)).arg(source);
    command::run(match linking {
        Linking::Static => command.arg("-static"),
        Linking::Dynamic => command.arg("-lm"),
    })
}

/// Returns a compiler for programs of `arch`, and Debian's packages of it and of its C library.
fn c_compiler(arch: Arch) -> [&'static str; 3] {
    match arch {
        Arch::X86_64 if cfg!(target_arch = "x86_64") => ["cc", "gcc", "libc6-dev"],
        Arch::X86_64 => [
            "x86_64-linux-gnu-gcc",
            "gcc-x86-64-linux-gnu",
            "libc6-dev-amd64-cross",
        ],
        Arch::Aarch64 => [
            "aarch64-linux-gnu-gcc",
            "gcc-aarch64-linux-gnu",
            "libc6-dev-arm64-cross",
        ],
        Arch::Armv7 => [
            "arm-linux-gnueabihf-gcc",
            "gcc-arm-linux-gnueabihf",
            "libc6-dev-armhf-cross",
        ],
        Arch::Riscv64 => [
            "riscv64-linux-gnu-gcc",
            "gcc-riscv64-linux-gnu",
            "libc6-dev-riscv64-cross",
        ],
    }
}

impl Programs {
    /// Returns the file of the program `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Puts the script of Debian's other static programs, and those, into `archive`.
    pub fn add_others(&self, archive: &mut Archive, arch: Arch) -> Result<()> {
        for program in [debian::MKSH, debian::LDCONFIG] {
            initramfs::add_program(archive, &debian::fetch(&program, arch.debian())?)?;
        }
        for name in [
            THREADS,
            SHARED_FUTEX,
            MEMORY_CALLS,
            MEMORY_FILES,
            ABOUT_SELF,
            FILE_CALLS,
            NAMES,
            SMALL_CALLS,
            LIMITS,
            GROUP_EXIT,
            PROCESSES,
            REGISTERS,
        ] {
            if c_source(arch, name).is_none() {
                say(&format!(
                    "NOT RUN: there is no {name}.c for {}",
                    arch.name()
                ));
                continue;
            }
            c_program(arch, name, Linking::Static, &self.dir)?;
            initramfs::add_program(archive, &self.path(name))?;
        }
        initramfs::add_program(archive, &self.path(HELLO))?;
        add_script(archive, OTHERS)
    }

    /// Puts the script that keeps all CPUs busy, and its programs, into `archive`.
    pub fn add_smp(&self, archive: &mut Archive, arch: Arch) -> Result<()> {
        for name in SMP_PROGRAMS {
            c_program(arch, name, Linking::Static, &self.dir)?;
            initramfs::add_program(archive, &self.path(name))?;
        }
        add_script(archive, SMP)
    }

    /// Puts the dynamic program into `archive`, with its interpreter and its libraries.
    pub fn add_dynamic(&self, archive: &mut Archive, arch: Arch) -> Result<()> {
        c_program(arch, DYNAMIC, Linking::Dynamic, &self.dir)?;
        initramfs::add_program(archive, &self.path(DYNAMIC))?;
        dynamic::add_needs(archive, &self.path(DYNAMIC), arch)
    }

    /// Puts the program that takes all memory into `archive`.
    pub fn add_memory_hog(&self, archive: &mut Archive) -> Result<()> {
        initramfs::add_program(archive, &self.path(MEMORY_HOG)).map(drop)
    }

    /// Puts the program that fills the files in memory into `archive`.
    pub fn add_full_tmp(&self, archive: &mut Archive, arch: Arch) -> Result<()> {
        c_program(arch, "full-tmp", Linking::Static, &self.dir)?;
        initramfs::add_program(archive, &self.path("full-tmp")).map(drop)
    }

    /// Puts everything that the script of bad input needs into `archive`.
    pub fn add_bad_input(&self, archive: &mut Archive, arch: Arch, busybox: &Path) -> Result<()> {
        for name in [ORACLE, "bad-pointers", MEMORY_HOG] {
            initramfs::add_program(archive, &self.path(name))?;
        }
        c_program(arch, BAD_DISK, Linking::Static, &self.dir)?;
        initramfs::add_program(archive, &self.path(BAD_DISK))?;
        // The last file of the archive, by its name; what is lost begins within a page.
        let pages = (1..=DAMAGED_PAGES).flat_map(|page| [page; 4096]).collect();
        initramfs::add_bytes(archive, "/zz/damaged", pages);
        archive.lose(usize::from(DAMAGED_PAGES) * 4096 / 2 - 100);
        add_script(archive, BAD_INPUT)?;
        let whole = std::fs::read(busybox)?;
        for cut in cuts(whole.len()) {
            let part = whole.get(..cut).unwrap_or_default().to_vec();
            initramfs::add_bytes(archive, &format!("/cut/busybox-{cut}"), part);
        }
        // What is last in a file is in no segment.
        let nearly = whole.get(..whole.len() - 1).unwrap_or_default().to_vec();
        initramfs::add_bytes(archive, "/uncut/busybox", nearly);
        Ok(())
    }

    /// Runs the oracle program here, on Linux, and returns those of its lines that `arch` must
    /// print too. Its stack may grow as far as Linux lets it by default, and as the example kernel
    /// does, whatever this shell's limit is.
    ///
    /// These programs must be x86-64's.
    pub fn oracle(&self, arch: Arch) -> Result<Vec<String>> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            bail!("the oracle is Linux on x86-64, and this host is not");
        }
        let mut shell = std::process::Command::new("sh");
        let bounded = "ulimit -S -s 8192 && exec \"$0\"";
        let output = command::capture(shell.args(["-c", bounded]).arg(self.path(ORACLE)))?;
        let is_own = |line: &&str| OWN_ANSWERS.iter().any(|own| own.matches(arch, line));
        let lines = output.lines().filter(|line| !is_own(line));
        Ok(lines.map(str::to_string).collect())
    }
}

/// A question of the oracle program that an architecture answers in its own way.
struct OwnAnswer {
    arch: Arch,
    question: &'static str,
    #[expect(dead_code, reason = "for the reader")]
    why: &'static str,
}

impl OwnAnswer {
    fn matches(&self, arch: Arch, line: &str) -> bool {
        let question = line.split(':').next().unwrap_or_default();
        self.arch == arch && self.question == question
    }
}

/// All other lines are the same everywhere.
const OWN_ANSWERS: &[OwnAnswer] = &[
    OwnAnswer {
        arch: Arch::Armv7,
        question: "mmap file, odd offset",
        why: "mmap2 counts in units of 4 KiB: there are no odd offsets",
    },
    OwnAnswer {
        arch: Arch::Armv7,
        question: "mmap file, offset wraps",
        why: "mmap2 reaches 16 TiB, which does not wrap",
    },
];

fn add_script(archive: &mut Archive, name: &str) -> Result<()> {
    let script = format!("{name}.sh");
    let path = paths::root().join(PACKAGE).join(&script);
    initramfs::add_file(archive, &format!("/etc/{script}"), &path)
}

/// Returns lengths at which a file that is cut loses what it needs: inside its headers, at page edges,
/// anywhere.
fn cuts(length: usize) -> Vec<usize> {
    let mut cuts = vec![0, 1, 4, 16, 52, 63, 64, 65, 120, 296, 4095, 4096, 4097];
    cuts.extend([length / 3, length / 2]);
    cuts
}

/// Returns the first line of `expected` that `output` does not hold in this order.
pub fn first_missing<'a>(expected: &'a [String], output: &str) -> Option<&'a String> {
    let mut lines = output.lines();
    expected
        .iter()
        .find(|line| !lines.any(|found| found == line.as_str()))
}

#[cfg(test)]
mod tests {
    use super::first_missing;

    #[test]
    fn lines_must_come_in_order() {
        let expected = ["a".to_string(), "b".to_string()];
        assert_eq!(first_missing(&expected, "x\na\nnoise\nb\n"), None);
        assert_eq!(first_missing(&expected, "b\na\n"), Some(&expected[1]));
        assert_eq!(first_missing(&expected, "b\n"), Some(&expected[0]));
    }
}
