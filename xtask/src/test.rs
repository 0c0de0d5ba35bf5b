//! `cargo xtask test`: every test there is, with the minutes of each suite.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{cargo, listen, say};
use crate::cpio::Archive;
use crate::kernel::{self, Arch};
use crate::run::{self, Setup, Start};
use crate::suites::{Counts, Job, Suites, count};
use crate::verdict::{Expect, programs_output};
use crate::{
    apt, check, debian, dialogue, initramfs, loom, paths, programs, publish, soak, toolchain,
};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Also runs the soak variants (tests read `MM_LONG=1` and do many more steps, random schedules
    /// and ThreadSanitizer play for minutes) and the tests at 32 bits, and compiles what is run by hand.
    #[arg(long)]
    long: bool,
    /// Runs only the suites whose name contains this.
    suite: Option<String>,
}

impl Options {
    /// Tells whether a suite runs that others do without: with `--long`, or when it is named.
    fn is_asked_for(&self, suite: &str) -> bool {
        match &self.suite {
            Some(only) => suite.contains(only.as_str()),
            None => self.long,
        }
    }
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
    let demo = Mutex::new(None);
    // Side by side, the longest first; then what needs all processors.
    let mut beside = Vec::new();
    if wanted("loom") {
        if loom::models()?.is_empty() {
            suites.absent("loom", "tests/loom");
        } else {
            beside.push(Job::new("loom", loom::all));
        }
    }
    if wanted("host") {
        beside.push(Job::new("host", || host(options)));
    }
    if options.is_asked_for(NARROW) {
        beside.push(Job::new(NARROW, || narrow(options)));
    }
    for package in paths::OUTSIDE_HOST {
        if wanted(package) {
            if paths::root().join(package).join("Cargo.toml").is_file() {
                beside.push(Job::new(package, || outside(options, package)));
            } else {
                suites.absent(package, package);
            }
        }
    }
    if wanted("tour") {
        beside.push(Job::new("tour", tour));
    }
    if wanted("schedules") {
        beside.push(Job::new("schedules", || soak::schedules(options.long)));
    }
    if wanted("publish") {
        let publish = || publish::dry_run().map(|()| Counts::default());
        beside.push(Job::new("publish", publish));
    }
    let alone = boots(&mut suites, &wanted, &demo, &mut beside);
    beside.extend(check::targets(&mut suites, &wanted));
    suites.run_side_by_side(beside);
    for (name, setup) in alone {
        suites.run(&name, || boot(&setup, &demo));
    }
    if options.long && wanted("tsan") {
        suites.run("tsan", soak::races);
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

/// What the demo's programs wrote on the first machine that ran it to its end.
type Demo = Mutex<Option<Vec<String>>>;

/// Adds the kernel's boots to `beside`, one suite each, and returns those that need all processors.
/// They need Debian's busybox: without it they fail.
fn boots<'a>(
    suites: &mut Suites,
    wanted: &dyn Fn(&str) -> bool,
    demo: &'a Demo,
    beside: &mut Vec<Job<'a>>,
) -> Vec<(String, Setup)> {
    let mut alone = Vec::new();
    for (name, setup) in setups() {
        if !wanted(&name) {
            continue;
        }
        if !kernel::is_there(setup.arch) {
            suites.absent(&name, setup.arch.package());
        } else if setup.cpus > 1 {
            alone.push((name, setup));
        } else {
            beside.push(Job::new(&name, move || boot(&setup, demo)));
        }
    }
    alone
}

/// Boots, judges, and compares what programs wrote with what they must write.
fn boot(setup: &Setup, demo: &Demo) -> Result<Counts> {
    let prepared = prepare(setup)?;
    let booted = run::boot(&prepared.kernel, &prepared.archive, setup)?;
    if matches!(setup.start, Start::Script(run::DEFAULT_SCRIPT)) {
        let mut demo = demo.lock().unwrap_or_else(PoisonError::into_inner);
        same_output(&mut demo, programs_output(&booted.output))?;
    }
    if let Some(oracle) = prepared.oracle {
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

/// What a boot needs.
struct Prepared {
    kernel: PathBuf,
    archive: Archive,
    /// Lines that the programs must print, too, because they do so on Linux.
    oracle: Option<Vec<String>>,
}

/// Builds the kernel and the programs of a boot, and fetches those of Debian.
fn prepare(setup: &Setup) -> Result<Prepared> {
    // They are written to the same places for each boot: only the boots are side by side.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let arch = setup.arch;
    let kernel = kernel::build(arch)?;
    let busybox = debian::fetch(&debian::BUSYBOX, arch.debian())?;
    let mut archive = initramfs::base(Some(&busybox))?;
    let mut oracle = None;
    match setup.start {
        Start::Script(programs::BAD_INPUT) => {
            let programs = programs::build(arch)?;
            programs.add_bad_input(&mut archive, arch, &busybox)?;
            let host = match arch {
                Arch::X86_64 => programs,
                _ => programs::build(Arch::X86_64)?,
            };
            oracle = Some(host.oracle(arch)?);
        }
        Start::Script(programs::OTHERS) => programs::build(arch)?.add_others(&mut archive, arch)?,
        Start::Script(programs::SMP) => programs::build(arch)?.add_smp(&mut archive, arch)?,
        Start::Program(programs::NO_MEMORY) => {
            programs::build(arch)?.add_memory_hog(&mut archive)?;
        }
        Start::Program(programs::FULL_TMP) => {
            programs::build(arch)?.add_full_tmp(&mut archive, arch)?;
        }
        Start::Program(programs::HELLO_WORDS) => {
            let hello = programs::build(arch)?.path(programs::HELLO);
            initramfs::add_program(&mut archive, &hello)?;
        }
        Start::Program(programs::DYNAMIC_WORDS) => {
            programs::build(arch)?.add_dynamic(&mut archive, arch)?;
        }
        _ => {}
    }
    if let Start::Program(words) = setup.start {
        initramfs::add_words(&mut archive, words);
    }
    Ok(Prepared {
        kernel,
        archive,
        oracle,
    })
}

/// The first output is kept, every later one must be the same, line by line.
fn same_output(first: &mut Option<Vec<String>>, output: Vec<String>) -> Result<()> {
    let Some(first) = first else {
        *first = Some(output);
        return Ok(());
    };
    let at = (0..first.len().max(output.len())).find(|&at| first.get(at) != output.get(at));
    let Some(at) = at else {
        say(&format!(
            "all {} lines of the programs are those of the first machine",
            output.len()
        ));
        return Ok(());
    };
    bail!(
        "line {at} of the programs is {:?}, and {:?} on the first machine",
        output.get(at),
        first.get(at)
    );
}

/// What most boots share.
const PLAIN: Setup = Setup {
    arch: Arch::X86_64,
    options: "",
    start: Start::Script(run::DEFAULT_SCRIPT),
    memory: run::MEMORY,
    cpus: 1,
    cpu: None,
    limit: Duration::from_secs(run::LIMIT),
    expect: Expect::SummaryAndChecksums,
};

/// A program that is content with the very words `a b`, none, and `c`.
const WORDS: &[&str] = &[
    "/bin/busybox",
    "sh",
    "-c",
    "[ $# = 3 ] && [ \"$1\" = 'a b' ] && [ -z \"$2\" ] && [ \"$3\" = c ]",
    "words",
    "a b",
    "",
    "c",
];

/// A word that no command line has room for.
const TOO_LONG: &str = match std::str::from_utf8(&[b'x'; 4096]) {
    Ok(word) => word,
    Err(_) => "",
};

/// What every architecture boots.
const EVERYWHERE: [(&str, Start, Expect); 10] = [
    ("demo", PLAIN.start, PLAIN.expect),
    ("script", Start::Script("/etc/script.sh"), PLAIN.expect),
    (
        "own program",
        Start::Program(programs::HELLO_WORDS),
        Expect::Summary,
    ),
    (
        "dynamic program",
        Start::Program(programs::DYNAMIC_WORDS),
        Expect::Summary,
    ),
    (
        "lazy exec",
        Start::Program(&["/bin/busybox", "echo", "lazily"]),
        Expect::LazyExec("/bin/busybox"),
    ),
    ("words of a program", Start::Program(WORDS), Expect::Summary),
    (
        "other programs",
        Start::Script(programs::OTHERS),
        Expect::Summary,
    ),
    ("shell", Start::Shell(dialogue::SHELL), Expect::Summary),
    ("bombs", Start::Script("/etc/bomb.sh"), Expect::Summary),
    (
        "bad input",
        Start::Script(programs::BAD_INPUT),
        Expect::Summary,
    ),
];

/// CPUs of the boots that have several.
const SMP_CPUS: u32 = 4;

/// The demo on other CPUs than the usual one: architecture, name, QEMU's CPU, kernel options.
const VARIANTS: [(Arch, &str, Option<&str>, &str); 7] = [
    // Without SMEP, SMAP and PCID: the kernel must not count on them. Nor has it pages of 1 GiB,
    // but QEMU takes them all the same: that is for `tests/tests/formats.rs` to see.
    (Arch::X86_64, "plain CPU", Some("qemu64"), ""),
    // Nor on NX, as which bit 63 of an entry is reserved.
    (Arch::X86_64, "no NX", Some("qemu64,-nx"), ""),
    // Without hardware updates of accessed and dirty bits, and without range flushes.
    (Arch::Aarch64, "plain CPU", Some("cortex-a57"), ""),
    // The deepest mode that satp takes, with runs, memory types and split fences.
    (
        Arch::Riscv64,
        "every extension",
        Some("rv64,svnapot=true,svpbmt=true,svinval=true"),
        "",
    ),
    (Arch::Riscv64, "sv39", None, "mmu=sv39"),
    (Arch::Riscv64, "sv48", None, "mmu=sv48"),
    (Arch::Riscv64, "sv57", None, "mmu=sv57"),
];

/// All boots with their names, x86-64's first.
fn setups() -> Vec<(String, Setup)> {
    let mut all = Vec::new();
    for arch in Arch::ALL {
        for (name, start, expect) in EVERYWHERE {
            let setup = Setup {
                arch,
                start,
                expect,
                ..PLAIN
            };
            all.push((format!("boot {name}, {}", arch.name()), setup));
        }
        let smp = Setup {
            arch,
            start: Start::Script(programs::SMP),
            expect: Expect::Smp(SMP_CPUS),
            cpus: SMP_CPUS,
            ..PLAIN
        };
        all.push((format!("boot smp, {}", arch.name()), smp));
        let small = Setup {
            arch,
            start: Start::Program(programs::NO_MEMORY),
            expect: Expect::Summary,
            memory: programs::SMALL_MEMORY,
            ..PLAIN
        };
        let full = Setup {
            start: Start::Program(programs::FULL_TMP),
            ..small
        };
        all.push((format!("boot no memory for fork, {}", arch.name()), small));
        all.push((format!("boot full tmp, {}", arch.name()), full));
        let overflow = Setup {
            arch,
            options: "overflow-stack",
            start: Start::Program(&["/bin/busybox", "true"]),
            expect: Expect::Bug("kernel stack overflow at "),
            limit: Duration::from_secs(60),
            ..PLAIN
        };
        if arch == Arch::X86_64 {
            // The others read the line where the firmware put it.
            let too_long = Setup {
                options: TOO_LONG,
                expect: Expect::Bug("the command line is longer than "),
                limit: Duration::from_secs(60),
                ..overflow
            };
            all.push((format!("boot long command line, {}", arch.name()), too_long));
        }
        all.push((format!("boot stack overflow, {}", arch.name()), overflow));
        for (_, name, cpu, options) in VARIANTS.into_iter().filter(|variant| variant.0 == arch) {
            let setup = Setup {
                arch,
                cpu,
                options,
                ..PLAIN
            };
            all.push((format!("boot demo, {}, {name}", arch.name()), setup));
        }
    }
    all
}

/// Every test of the workspace, documentation included.
fn host(options: &Options) -> Result<Counts> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if options.long {
        command.env("MM_LONG", "1");
    }
    Ok(count(&listen(&mut command)?))
}

/// The suite of tests whose `usize` has 32 bits, as on armv7 and riscv32. A standard library may have
/// to be compiled for it first, so not every run has it.
const NARROW: &str = "32 bits";

/// The libraries' own tests, compiled for a `usize` of 32 bits; with `--long` the test world's, too,
/// which take minutes to compile. What only machines with 64 bits have is left out there: their
/// formats and what walks them.
fn narrow(options: &Options) -> Result<Counts> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("programs of 32 bits are known to run on Linux for x86-64 only");
    }
    let mut command = toolchain::narrow()?;
    command
        .args(["--no-fail-fast", "--target-dir"])
        .arg(paths::product("narrow")?)
        .arg("--lib");
    for library in paths::LIBRARIES {
        command.args(["--package", library]);
    }
    let mut dirs = vec!["mm-elf/tests"];
    if options.long {
        command.args(["--package", "mm-testkit"]);
        command.env("MM_LONG", "1");
        // Models and schedules are empty unless compiled in their own way.
        dirs.push("tests/tests");
    }
    for dir in dirs {
        for file in paths::rust_files(&paths::root().join(dir))? {
            if let Some(name) = file.file_stem().filter(|_| is_target(&file, dir)) {
                command.arg("--test").arg(name);
            }
        }
    }
    Ok(count(&listen(&mut command)?))
}

/// Tells whether a file is a test target by itself, not a module of one.
fn is_target(file: &Path, dir: &str) -> bool {
    file.parent() == Some(&paths::root().join(dir))
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
