//! `cargo xtask test`: every test there is, with the minutes of each suite.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{cargo, listen, say};
use crate::kernel::{self, Arch};
use crate::run::{self, Setup, Start};
use crate::suites::{Counts, Suites, count};
use crate::verdict::Expect;
use crate::{apt, check, debian, initramfs, loom, paths, programs, publish};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Also runs the soak variants (tests read `MM_LONG=1` and do many more steps), and compiles
    /// what is run by hand.
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
    if options.long {
        for package in ["tests/fuzz", "tests/benches-peers"] {
            if !wanted(package) {
                continue;
            }
            if paths::root().join(package).join("Cargo.toml").is_file() {
                suites.run(package, || compiles(package));
            } else {
                suites.absent(package, package);
            }
        }
    }
    suites.finish()
}

/// Programs that are run by hand must at least compile.
fn compiles(package: &str) -> Result<Counts> {
    // libFuzzer is C++.
    apt::install(&["g++"], "the fuzz targets need a C++ compiler")?;
    crate::command::run(
        cargo()
            .args(["check", "--target-dir"])
            .arg(paths::product("outside")?)
            .arg("--manifest-path")
            .arg(paths::root().join(package).join("Cargo.toml")),
    )?;
    Ok(Counts::default())
}

/// The kernel's boots, one suite each. They need Debian's busybox: without it they fail.
fn boots(suites: &mut Suites, wanted: &dyn Fn(&str) -> bool) {
    for (name, setup) in BOOTS {
        let name = format!("boot {name}");
        if !wanted(&name) {
            continue;
        }
        if !kernel::is_there(ARCH) {
            suites.absent(&name, "bootable kernel");
            continue;
        }
        suites.run(&name, || boot(setup));
    }
}

fn boot(setup: &Setup) -> Result<Counts> {
    let kernel = kernel::build(ARCH)?;
    let busybox = debian::fetch(&debian::BUSYBOX, ARCH.debian())?;
    let mut archive = initramfs::base(Some(&busybox))?;
    let programs = programs::build(ARCH)?;
    programs.add_bad_input(&mut archive, &busybox)?;
    programs.add_others(&mut archive, ARCH)?;
    let booted = run::boot(&kernel, ARCH, &archive, setup)?;
    if matches!(setup.start, Start::Script(programs::BAD_INPUT)) {
        let oracle = programs.oracle()?;
        if let Some(line) = programs::first_missing(&oracle, &booted.output) {
            bail!("Linux answers `{line}`, and this kernel does not");
        }
        say(&format!(
            "all {} answers of {} are those of Linux",
            oracle.len(),
            programs::ORACLE
        ));
    }
    Ok(Counts::passed(1))
}

const ARCH: Arch = Arch::X86_64;

/// What most boots share.
const PLAIN: Setup = Setup {
    start: Start::Script(run::DEFAULT_SCRIPT),
    memory: run::MEMORY,
    cpus: 1,
    cpu: "max",
    limit: Duration::from_secs(run::LIMIT),
    expect: Expect::SummaryAndChecksums,
};

const BOOTS: &[(&str, Setup)] = &[
    ("demo", PLAIN),
    (
        "script",
        Setup {
            start: Start::Script("/etc/script.sh"),
            ..PLAIN
        },
    ),
    // Without SMEP, SMAP, PCID and NX pages of 1 GiB: the kernel must not count on them.
    (
        "demo, plain CPU",
        Setup {
            cpu: "qemu64",
            ..PLAIN
        },
    ),
    (
        "own program",
        Setup {
            start: Start::Program("/usr/bin/hello"),
            expect: Expect::Summary,
            ..PLAIN
        },
    ),
    (
        "lazy exec",
        Setup {
            start: Start::Program("/bin/busybox echo lazily"),
            expect: Expect::LazyExec("/bin/busybox"),
            ..PLAIN
        },
    ),
    (
        "other programs",
        Setup {
            start: Start::Script(programs::OTHERS),
            expect: Expect::Summary,
            ..PLAIN
        },
    ),
    (
        "bombs",
        Setup {
            start: Start::Script("/etc/bomb.sh"),
            expect: Expect::Summary,
            ..PLAIN
        },
    ),
    (
        "bad input",
        Setup {
            start: Start::Script(programs::BAD_INPUT),
            expect: Expect::Summary,
            ..PLAIN
        },
    ),
];

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
