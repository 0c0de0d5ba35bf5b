//! Builds the example kernel of an architecture.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::command::{self, say};
use crate::toolchain::{self, Std};
use crate::{frames, paths};

/// An architecture that has an example kernel.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Arch {
    /// x86-64, the machine `pc` of QEMU.
    #[value(name = "x86_64")]
    X86_64,
}

impl Arch {
    /// The rustc target of the kernel.
    pub fn target(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64-unknown-none",
        }
    }

    /// The name of the kernel's package and binary.
    pub fn package(self) -> &'static str {
        match self {
            Arch::X86_64 => "kernel-x86_64",
        }
    }

    /// Debian's name of the architecture.
    pub fn debian(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
        }
    }
}

/// Tells whether the tree holds the kernel of this architecture, and a script for it to run.
pub fn is_there(arch: Arch) -> bool {
    let examples = paths::root().join("examples");
    examples.join(arch.package()).join("Cargo.toml").is_file()
        && examples.join("kernel/rootfs").is_dir()
}

/// Builds the kernel and returns the path of its ELF file.
pub fn build(arch: Arch) -> Result<PathBuf> {
    build_for(arch, Purpose::Boot)
}

/// Builds the kernel so that its ELF file tells the frame size of every function.
pub fn build_with_frames(arch: Arch) -> Result<PathBuf> {
    build_for(arch, Purpose::Frames)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Boot,
    Frames,
}

fn build_for(arch: Arch, purpose: Purpose) -> Result<PathBuf> {
    let manifest = paths::root()
        .join("examples")
        .join(arch.package())
        .join("Cargo.toml");
    if !manifest.is_file() {
        bail!("there is no examples/{} in this tree yet", arch.package());
    }
    let bare = toolchain::bare(arch.target())?;
    say(&format!(
        "building {} for {}: core is {}",
        arch.package(),
        arch.target(),
        bare.describe()
    ));
    // Where unstable flags are open anyhow, one build serves both purposes: the sizes of frames
    // stand in a section that is not loaded.
    let with_frames = bare.is_unlocked() || purpose == Purpose::Frames;
    let target_dir = paths::product(if with_frames {
        "kernel-frames"
    } else {
        "kernel"
    })?;
    let mut cargo = bare.cargo("build", Std::CoreAlloc);
    cargo
        .args(["--release", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target_dir);
    if with_frames {
        cargo
            .env("RUSTFLAGS", frames::FLAG)
            .env("RUSTC_BOOTSTRAP", "1");
    }
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
