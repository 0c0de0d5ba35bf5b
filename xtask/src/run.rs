//! `cargo xtask run`: boots the example kernel on an unmodified static busybox.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::boot::{self, Booted, Ending, Machine};
use crate::command::say;
use crate::cpio::Archive;
use crate::dialogue::Turn;
use crate::kernel::{self, Arch};
use crate::verdict::{self, Expect};
use crate::{debian, dynamic, initramfs, programs};

/// What to boot, and how.
#[derive(Args)]
pub struct Options {
    /// The architecture of the kernel and the machine.
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// Gives an interactive shell on this terminal.
    #[arg(long, conflicts_with_all = ["program", "script"])]
    shell: bool,
    /// Runs this program of the host, with the arguments that follow. A dynamic one brings its
    /// interpreter and its libraries along, if the host has them for the architecture.
    #[arg(long, value_name = "FILE", conflicts_with = "script")]
    program: Option<PathBuf>,
    /// Runs this script in busybox' shell: one of examples/kernel/rootfs, or bad-input,
    /// other-programs, or smp.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SCRIPT)]
    script: String,
    /// Memory of the machine in MiB.
    #[arg(long, value_name = "MIB", default_value_t = MEMORY)]
    memory: u32,
    /// Number of CPUs of the machine.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// QEMU's CPU model; without it the one that the tests of this architecture use.
    #[arg(long)]
    cpu: Option<String>,
    /// A word of the kernel's command line, such as `mmu=sv48`; may be given several times.
    #[arg(long = "option", value_name = "WORD")]
    words: Vec<String>,
    /// Stops a machine that nobody types to after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT)]
    limit: u64,
    /// Arguments of the program.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        requires = "program"
    )]
    args: Vec<String>,
}

/// The script that shows what the kernel can do.
pub const DEFAULT_SCRIPT: &str = "demo";
/// The kernel's word for a shell on the console.
const SHELL: &str = "shell";
/// Memory of the machine in MiB.
pub const MEMORY: u32 = 256;
/// Seconds after which a machine is stopped.
pub const LIMIT: u64 = 300;

/// Boots what the options ask for.
pub fn command(options: &Options) -> Result<()> {
    let (archive, start, expect) = contents(options)?;
    let mut append = options.words.join(" ");
    if !append.is_empty() {
        append.push(' ');
    }
    append.push_str(&start);
    let kernel = kernel::build(options.arch)?;
    let initrd = initramfs::write(&archive)?;
    let machine = Machine {
        arch: options.arch,
        kernel: &kernel,
        initrd: &initrd.path,
        append: &append,
        memory: options.memory,
        cpus: options.cpus,
        cpu_model: options.cpu.as_deref(),
    };
    if options.shell {
        let ending = boot::interactive(&machine)?;
        // Ctrl-A X is a good way to leave a shell.
        if !matches!(ending, Ending::Success | Ending::Died(Some(0))) {
            bail!("{}", boot::describe(ending));
        }
        return Ok(());
    }
    let booted = boot::watch(&machine, Duration::from_secs(options.limit), &[])?;
    judge(&booted, &archive, expect)
}

/// Boots as the tests do, judges the run, and returns it.
pub fn boot(kernel: &Path, archive: &Archive, setup: &Setup) -> Result<Booted> {
    let initrd = initramfs::write(archive)?;
    let start = match setup.start {
        Start::Script(name) => format!("script={}", initramfs::script(archive, name)?),
        Start::Program(_) => initramfs::START_WORDS.to_string(),
        Start::Shell(_) => SHELL.to_string(),
    };
    let turns = match setup.start {
        Start::Shell(turns) => turns,
        Start::Script(_) | Start::Program(_) => &[],
    };
    let append = [setup.options, &start].join(" ");
    let machine = Machine {
        arch: setup.arch,
        kernel,
        initrd: &initrd.path,
        append: append.trim(),
        memory: setup.memory,
        cpus: setup.cpus,
        cpu_model: setup.cpu,
    };
    let booted = boot::watch(&machine, setup.limit, turns)?;
    judge(&booted, archive, setup.expect)?;
    Ok(booted)
}

/// What the kernel starts.
#[derive(Clone, Copy)]
pub enum Start {
    /// The script of this name, in busybox' shell.
    Script(&'static str),
    /// A program of the initramfs and its arguments, which the archive says, too.
    Program(&'static [&'static str]),
    /// A shell on the console, where this is typed.
    Shell(&'static [Turn]),
}

/// One boot of the tests.
pub struct Setup {
    /// The architecture.
    pub arch: Arch,
    /// Words for the kernel's command line, or nothing.
    pub options: &'static str,
    /// What the kernel starts.
    pub start: Start,
    /// Memory of the machine in MiB.
    pub memory: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// QEMU's CPU model, if it is not the usual one.
    pub cpu: Option<&'static str>,
    /// When to give up.
    pub limit: Duration,
    /// What the run must show.
    pub expect: Expect,
}

/// Returns the archive, the kernel's command line, and what the run must show.
fn contents(options: &Options) -> Result<(Archive, String, Expect)> {
    let busybox = debian::fetch(&debian::BUSYBOX, options.arch.debian());
    let mut archive = initramfs::base(busybox.as_deref().ok())?;
    if let Some(program) = &options.program {
        if let Err(error) = busybox {
            say(&format!(
                "there will be no busybox beside the program: {error:#}"
            ));
        }
        dynamic::add_needs(&mut archive, program, options.arch)?;
        let mut words = vec![initramfs::add_program(&mut archive, program)?];
        words.extend_from_slice(&options.args);
        initramfs::add_words(&mut archive, &words);
        return Ok((archive, initramfs::START_WORDS.to_string(), Expect::Summary));
    }
    let busybox = match busybox {
        Ok(path) => path,
        Err(error) if options.shell || options.script != DEFAULT_SCRIPT => {
            return Err(error.context("a shell needs busybox"));
        }
        Err(error) => {
            say(&format!("NO BUSYBOX: {error:#}"));
            say("FALLING BACK to a small program of our own; this shows far less than the script");
            let hello = programs::build(options.arch)?.path(programs::HELLO);
            let inner = initramfs::add_program(&mut archive, &hello)?;
            initramfs::add_words(&mut archive, &[inner]);
            return Ok((archive, initramfs::START_WORDS.to_string(), Expect::Summary));
        }
    };
    if options.shell {
        return Ok((archive, SHELL.to_string(), Expect::Summary));
    }
    match options.script.as_str() {
        programs::BAD_INPUT => {
            programs::build(options.arch)?.add_bad_input(&mut archive, options.arch, &busybox)?;
        }
        programs::OTHERS => {
            programs::build(options.arch)?.add_others(&mut archive, options.arch)?
        }
        programs::SMP => {
            programs::build(options.arch)?.add_smp(&mut archive, options.arch)?;
        }
        _ => {}
    }
    let path = initramfs::script(&archive, &options.script)?;
    let expect = match options.script.as_str() {
        DEFAULT_SCRIPT => Expect::SummaryAndChecksums,
        programs::SMP => Expect::Smp(options.cpus),
        _ => Expect::Summary,
    };
    Ok((archive, format!("script={path}"), expect))
}

fn judge(booted: &Booted, archive: &Archive, expect: Expect) -> Result<()> {
    let wrong = verdict::faults(booted, archive, expect)?;
    for fault in &wrong {
        say(&format!("wrong: {fault}"));
    }
    if let Some(first) = wrong.first() {
        bail!(
            "{} things are wrong with the run; the first: {first}",
            wrong.len()
        );
    }
    say(match expect {
        Expect::Bug(_) => "success: the kernel named its bug and reported failure",
        _ => "success: the kernel ended well, nothing leaked, and the checksums are the host's",
    });
    Ok(())
}
