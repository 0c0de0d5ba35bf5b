//! `cargo xtask test`: every test there is, with the minutes of each suite.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::command::{cargo, listen};
use crate::kernel::{self, Arch};
use crate::run::{self, Setup};
use crate::suites::{Counts, Suites, count};
use crate::verdict::Expect;
use crate::{busybox, check, initramfs, loom, paths, publish};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Also runs the soak variants: tests read `MM_LONG=1` and do many more steps.
    #[arg(long)]
    long: bool,
    /// Runs only the suites whose name contains this.
    suite: Option<String>,
}

/// Runs the suites and prints the table.
pub fn command(options: &Options) -> Result<()> {
    let mut suites = Suites::default();
    let wanted = |name: &str| {
        options
            .suite
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    };

    check::all(&mut suites, &wanted);
    if wanted("host") {
        suites.run("host", || host(options));
    }
    for package in paths::OUTSIDE_HOST {
        if wanted(package) {
            if paths::root().join(package).join("Cargo.toml").is_file() {
                suites.run(package, || outside(options, package));
            } else {
                suites.absent(package, package);
            }
        }
    }
    if wanted("tour") {
        suites.run("tour", tour);
    }
    if wanted("loom") {
        if loom::models()?.is_empty() {
            suites.absent("loom", "tests/loom");
        } else {
            suites.run("loom", loom::all);
        }
    }
    boots(&mut suites, &wanted);
    check::targets(&mut suites, &wanted);
    if wanted("publish") {
        suites.run("publish", || publish::dry_run().map(|()| Counts::default()));
    }
    suites.finish()
}

/// The kernel's boots, one suite each. They need Debian's busybox: without it they fail.
fn boots(suites: &mut Suites, wanted: &dyn Fn(&str) -> bool) {
    let arch = Arch::X86_64;
    let rootfs = paths::root().join("examples/kernel/rootfs");
    for (name, setup) in BOOTS {
        let name = format!("boot {name}");
        if !wanted(&name) {
            continue;
        }
        if !paths::root().join("examples").join(arch.package()).is_dir() || !rootfs.is_dir() {
            suites.absent(&name, "bootable kernel");
            continue;
        }
        suites.run(&name, || {
            let kernel = kernel::build(arch)?;
            let archive = initramfs::base(Some(&busybox::fetch(arch.debian())?))?;
            run::script(&kernel, arch, &archive, &setup)?;
            Ok(Counts::passed(1))
        });
    }
}

const BOOTS: [(&str, Setup); 1] = [(
    "x86_64",
    Setup {
        script: run::DEFAULT_SCRIPT,
        memory: run::MEMORY,
        cpus: 1,
        cpu: "max",
        limit: Duration::from_secs(run::LIMIT),
        expect: Expect::SummaryAndChecksums,
    },
)];

/// Every test of the workspace, documentation included.
fn host(options: &Options) -> Result<Counts> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if options.long {
        command.env("MM_LONG", "1");
    }
    Ok(count(&listen(&mut command)?))
}

/// The tests of a package outside the workspace.
fn outside(options: &Options, package: &str) -> Result<Counts> {
    let mut command = cargo();
    command
        .args(["test", "--no-fail-fast", "--target-dir"])
        .arg(paths::product("outside")?)
        .arg("--manifest-path")
        .arg(paths::root().join(package).join("Cargo.toml"));
    if options.long {
        command.env("MM_LONG", "1");
    }
    Ok(count(&listen(&mut command)?))
}

/// The example that a reader runs first must run to its end.
fn tour() -> Result<Counts> {
    crate::command::run(cargo().args(["run", "--quiet", "--package", "tour"]))?;
    Ok(Counts::passed(1))
}
