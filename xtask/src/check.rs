//! `cargo xtask check`: everything that is judged without running the family.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{self, cargo, run, say};
use crate::kernel::Arch;
use crate::suites::{Counts, Job, Suites};
use crate::toolchain::{self, Std};
use crate::{frames, kernel, links, paths, recursion, sources};

/// What to check besides the sources.
#[derive(Args)]
pub struct Options {
    /// Also builds every library for every bare-metal target, lints the kernels there, and measures
    /// stack frames.
    #[arg(long)]
    targets: bool,
    /// Runs only the checks whose name contains this.
    name: Option<String>,
}

/// The targets that every library must build for, with `core` alone.
pub const TARGETS: [&str; 5] = [
    "x86_64-unknown-none",
    "aarch64-unknown-none-softfloat",
    "armv7a-none-eabi",
    "riscv64gc-unknown-none-elf",
    "riscv32imac-unknown-none-elf",
];

/// Runs the checks and prints the table.
pub fn command(options: &Options) -> Result<()> {
    let mut suites = Suites::default();
    let wanted = |name: &str| {
        options
            .name
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    };
    all(&mut suites, &wanted);
    if options.targets {
        let jobs = targets(&mut suites, &wanted);
        suites.run_side_by_side(jobs);
    }
    suites.finish()
}

type Check = fn() -> Result<()>;
type KernelCheck = fn(Arch) -> Result<()>;

/// Runs every check that needs no other target; a check is a failure or it counts nothing.
pub fn all(suites: &mut Suites, wanted: &dyn Fn(&str) -> bool) {
    let checks: [(&str, Check); 4] = [
        ("sources", layering),
        ("fmt", fmt),
        ("clippy", clippy),
        ("doc", doc),
    ];
    for (name, check) in checks {
        if wanted(name) {
            suites.run(name, || check().map(|()| Counts::default()));
        }
    }
}

/// What is compiled for other machines, one suite each: kernels are linted and their stack frames
/// measured, the libraries are built for every bare-metal target.
pub fn targets(suites: &mut Suites, wanted: &dyn Fn(&str) -> bool) -> Vec<Job<'static>> {
    let of_kernels: [(&str, KernelCheck); 2] =
        [("clippy", kernel::lint), ("stack frames", stack_frames)];
    let mut jobs = Vec::new();
    for (what, check) in of_kernels {
        for arch in Arch::ALL {
            let name = format!("{what}, {}", arch.name());
            if !wanted(&name) {
                continue;
            }
            if kernel::is_there(arch) {
                jobs.push(Job::new(&name, move || {
                    check(arch).map(|()| Counts::default())
                }));
            } else {
                suites.absent(&name, arch.package());
            }
        }
    }
    for target in TARGETS {
        let name = format!("build {target}");
        if wanted(&name) {
            jobs.push(Job::new(&name, move || {
                libraries(target).map(|()| Counts::default())
            }));
        }
    }
    jobs
}

fn layering() -> Result<()> {
    let mut breaches = sources::breaches(&paths::root())?;
    breaches.extend(links::broken(&paths::root())?);
    breaches.extend(links::unknown_names(&paths::root())?);
    if !breaches.is_empty() {
        bail!(
            "{} breaches of the rules:\n{}",
            breaches.len(),
            sources::listed(&breaches)
        );
    }
    Ok(())
}

fn fmt() -> Result<()> {
    toolchain::subcommand("fmt", "rustfmt-web", "rustfmt")?;
    let mut workspace = cargo();
    workspace.args(["fmt", "--all"]);
    let mut commands = vec![workspace];
    for manifest in outside() {
        let mut command = cargo();
        command.args(["fmt", "--manifest-path"]).arg(manifest);
        commands.push(command);
    }
    for command in &mut commands {
        command.args(["--", "--check", "-l"]);
    }
    every(commands)
}

fn clippy() -> Result<()> {
    toolchain::subcommand("clippy", "rust-web-clippy", "clippy")?;
    let mut workspace = cargo();
    workspace.args(["clippy", "--workspace", "--all-targets", "--all-features"]);
    let mut commands = vec![workspace];
    // The kernel and the programs have no tests and no `main`: they are linted as they are, for
    // the host, whose instructions they share.
    let mut outside = paths::OUTSIDE_HOST
        .map(|package| (package, "--all-targets"))
        .to_vec();
    if cfg!(target_arch = "x86_64") {
        outside.extend([
            ("examples/programs", "--bins"),
            ("examples/kernel-x86_64", "--bins"),
        ]);
    } else {
        say("the programs and the kernel for x86-64 can be linted on x86-64 only: NOT LINTED");
    }
    say("the other kernels are linted where they are compiled: by `check --targets`, not here");
    for (package, what) in outside {
        let manifest = paths::root().join(package).join("Cargo.toml");
        if manifest.is_file() {
            let mut command = cargo();
            command
                .args(["clippy", what, "--target-dir"])
                .arg(paths::product("outside")?)
                .arg("--manifest-path")
                .arg(manifest);
            commands.push(command);
        }
    }
    for command in &mut commands {
        command.args(["--", "-D", "warnings"]);
    }
    every(commands)
}

/// Runs all commands, also after one that failed, so that one run shows everything.
fn every(commands: Vec<Command>) -> Result<()> {
    let mut failed = 0;
    for mut command in commands {
        if let Err(error) = run(&mut command) {
            say(&format!("{error:#}"));
            failed += 1;
        }
    }
    if failed > 0 {
        bail!("{failed} of the commands failed");
    }
    Ok(())
}

fn doc() -> Result<()> {
    run(cargo().env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--exclude",
        "xtask",
    ]))
}

/// Returns the manifests of the packages outside the workspace that are in the tree.
fn outside() -> Vec<std::path::PathBuf> {
    [
        "examples/kernel",
        "examples/kernel-virt",
        "examples/kernel-x86_64",
        "examples/kernel-aarch64",
        "examples/kernel-armv7",
        "examples/kernel-riscv64",
        "examples/programs",
        "tests/fuzz",
        "tests/benches-peers",
        NO_ALLOC,
    ]
    .iter()
    .map(|dir| paths::root().join(dir).join("Cargo.toml"))
    .filter(|manifest| manifest.is_file())
    .collect()
}

/// The kernel's functions of mm-core must be content with small stacks, and not call themselves.
///
/// Calls are read from x86-64's kernel alone, whose instructions the host's disassembler knows:
/// who calls whom is the same on every architecture, how large a frame is is not.
fn stack_frames(arch: Arch) -> Result<()> {
    let kernel = kernel::build_with_frames(arch)?;
    frames::check(&kernel)?;
    if arch != Arch::X86_64 {
        say("recursion is looked for in the kernel for x86-64 only");
        return Ok(());
    }
    recursion::check(&kernel)
}

/// A program of all libraries without an allocator: it does not compile when one links `alloc`.
const NO_ALLOC: &str = "tests/no-alloc";

/// Builds the libraries, and links them all without an allocator.
fn libraries(target: &'static str) -> Result<()> {
    let bare = toolchain::bare(target)?;
    say(&format!("{target}: core is {}", bare.describe()));
    let manifest = paths::root().join(NO_ALLOC).join("Cargo.toml");
    let (mut cargo, _) = kernel::cargo(&bare, Std::Core, &manifest, "bare")?;
    let heard = command::listen(&mut cargo)?;
    if !heard.success || heard.warned {
        bail!("a library does not compile for {target}, or with warnings");
    }
    Ok(())
}
