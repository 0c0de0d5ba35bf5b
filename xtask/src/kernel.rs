//! Builds the example kernel of an architecture.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use clap::ValueEnum;
use elf::abi::{EM_AARCH64, EM_ARM, EM_RISCV, EM_X86_64};

use crate::command::{self, say};
use crate::image::{self, Header};
use crate::toolchain::{self, Bare, Std};
use crate::{frames, paths};

/// An architecture that has an example kernel.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Arch {
    /// x86-64, the machine `pc` of QEMU.
    #[value(name = "x86_64")]
    X86_64,
    /// AArch64, the machine `virt`.
    #[value(name = "aarch64")]
    Aarch64,
    /// Armv7-A, the machine `virt`.
    #[value(name = "armv7")]
    Armv7,
    /// RISC-V of 64 bits, the machine `virt`.
    #[value(name = "riscv64")]
    Riscv64,
}

/// What the architectures are called, and by whom.
struct Names {
    own: &'static str,
    target: &'static str,
    package: &'static str,
    debian: &'static str,
    triplet: &'static str,
    elf_machine: u16,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 4] = [Arch::X86_64, Arch::Aarch64, Arch::Armv7, Arch::Riscv64];

    /// Our name of the architecture.
    pub fn name(self) -> &'static str {
        self.names().own
    }

    /// The rustc target of the kernel.
    pub fn target(self) -> &'static str {
        self.names().target
    }

    /// The name of the kernel's package and binary.
    pub fn package(self) -> &'static str {
        self.names().package
    }

    /// Debian's name of the architecture.
    pub fn debian(self) -> &'static str {
        self.names().debian
    }

    /// The name under which a C library's files for the architecture stand: Debian's "multiarch
    /// tuple".
    pub fn triplet(self) -> &'static str {
        self.names().triplet
    }

    /// `e_machine` of the architecture's ELF files.
    pub fn elf_machine(self) -> u16 {
        self.names().elf_machine
    }

    fn names(self) -> Names {
        match self {
            Arch::X86_64 => Names {
                own: "x86_64",
                target: "x86_64-unknown-none",
                package: "kernel-x86_64",
                debian: "amd64",
                triplet: "x86_64-linux-gnu",
                elf_machine: EM_X86_64,
            },
            Arch::Aarch64 => Names {
                own: "aarch64",
                target: "aarch64-unknown-none-softfloat",
                package: "kernel-aarch64",
                debian: "arm64",
                triplet: "aarch64-linux-gnu",
                elf_machine: EM_AARCH64,
            },
            Arch::Armv7 => Names {
                own: "armv7",
                target: "armv7a-none-eabi",
                package: "kernel-armv7",
                debian: "armhf",
                triplet: "arm-linux-gnueabihf",
                elf_machine: EM_ARM,
            },
            Arch::Riscv64 => Names {
                own: "riscv64",
                target: "riscv64gc-unknown-none-elf",
                package: "kernel-riscv64",
                debian: "riscv64",
                triplet: "riscv64-linux-gnu",
                elf_machine: EM_RISCV,
            },
        }
    }
}

/// Tells whether the tree holds the kernel of this architecture, and a script for it to run.
pub fn is_there(arch: Arch) -> bool {
    let examples = paths::root().join("examples");
    examples.join(arch.package()).join("Cargo.toml").is_file()
        && examples.join("kernel/rootfs").is_dir()
}

/// Builds the kernel and returns the file that the machine's loader takes: the ELF file, or on
/// Arm, where QEMU passes the device tree to Linux' own forms only, a flat image of it.
///
/// A program builds it once: a machine that is started meanwhile may be reading the file.
pub fn build(arch: Arch) -> Result<PathBuf> {
    static BUILT: Mutex<Vec<(Arch, PathBuf)>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, file)) = built.iter().find(|(of, _)| *of == arch) {
        return Ok(file.clone());
    }
    let file = build_anew(arch)?;
    built.push((arch, file.clone()));
    Ok(file)
}

fn build_anew(arch: Arch) -> Result<PathBuf> {
    let elf = build_for(arch, Purpose::Boot)?;
    match arch {
        Arch::X86_64 | Arch::Riscv64 => Ok(elf),
        Arch::Aarch64 => image::flatten(&elf, Header::Arm64),
        Arch::Armv7 => image::flatten(&elf, Header::None),
    }
}

/// Builds the kernel so that its ELF file tells the frame size of every function.
pub fn build_with_frames(arch: Arch) -> Result<PathBuf> {
    build_for(arch, Purpose::Frames)
}

/// Lints the kernel with the compiler that builds it. What others wrote is not linted, so `core` is
/// the one that the kernel was built with: it stands there already.
pub fn lint(arch: Arch) -> Result<()> {
    let bare = toolchain::bare(arch.target())?;
    let mut clippy = bare.clippy(Std::CoreAlloc)?;
    release(&mut clippy, &manifest(arch)?);
    place(&mut clippy, &bare, "kernel")?;
    clippy.args(["--", "-D", "warnings"]);
    command::run(&mut clippy)
}

/// Returns the command that builds a package of ours for a bare machine, and the directory below
/// which its products will stand: `own`, or, where unstable flags are open anyhow, that of the builds
/// that tell frame sizes. Those stand in a section that is not loaded; and `core`, which is compiled
/// from its source there, is compiled once for kernels, programs and libraries.
pub fn cargo(bare: &Bare, std: Std, manifest: &Path, own: &str) -> Result<(Command, PathBuf)> {
    let mut cargo = bare.cargo("build", std);
    release(&mut cargo, manifest);
    let dir = place(&mut cargo, bare, own)?;
    Ok((cargo, dir))
}

/// Has the optimised package of a manifest compiled.
fn release(command: &mut Command, manifest: &Path) {
    command.args(["--release", "--manifest-path"]).arg(manifest);
}

/// Says where a command's products go: see [`cargo`].
fn place(command: &mut Command, bare: &Bare, own: &str) -> Result<PathBuf> {
    if bare.is_unlocked() {
        return place_with_frames(command);
    }
    let dir = paths::product(own)?;
    command.arg("--target-dir").arg(&dir);
    Ok(dir)
}

fn place_with_frames(command: &mut Command) -> Result<PathBuf> {
    let dir = paths::product("kernel-frames")?;
    command
        .env("RUSTFLAGS", frames::FLAG)
        .env("RUSTC_BOOTSTRAP", "1")
        .arg("--target-dir")
        .arg(&dir);
    Ok(dir)
}

fn manifest(arch: Arch) -> Result<PathBuf> {
    let manifest = paths::root()
        .join("examples")
        .join(arch.package())
        .join("Cargo.toml");
    if !manifest.is_file() {
        bail!("there is no examples/{} in this tree yet", arch.package());
    }
    Ok(manifest)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Boot,
    Frames,
}

fn build_for(arch: Arch, purpose: Purpose) -> Result<PathBuf> {
    let manifest = manifest(arch)?;
    let bare = toolchain::bare(arch.target())?;
    say(&format!(
        "building {} for {}: core is {}",
        arch.package(),
        arch.target(),
        bare.describe()
    ));
    let mut cargo = bare.cargo("build", Std::CoreAlloc);
    release(&mut cargo, &manifest);
    let target_dir = match purpose {
        Purpose::Boot => place(&mut cargo, &bare, "kernel")?,
        Purpose::Frames => place_with_frames(&mut cargo)?,
    };
    command::run(&mut cargo)?;
    let elf = target_dir
        .join(arch.target())
        .join("release")
        .join(arch.package());
    if !elf.is_file() {
        bail!("the build left no {}", elf.display());
    }
    Ok(elf)
}
