//! `cargo xtask run`: boots the example kernel on an unmodified static busybox.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::boot::{self, Booted, Ending, Machine};
use crate::command::say;
use crate::cpio::Archive;
use crate::kernel::{self, Arch};
use crate::verdict::{self, Expect};
use crate::{busybox, initramfs};

/// What to boot, and how.
#[derive(Args)]
pub struct Options {
    /// The architecture of the kernel and the machine.
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// Gives an interactive shell on this terminal.
    #[arg(long, conflicts_with_all = ["program", "script"])]
    shell: bool,
    /// Runs this static ELF program of the host, with the arguments that follow.
    #[arg(long, value_name = "FILE", conflicts_with = "script")]
    program: Option<PathBuf>,
    /// Runs this script of examples/kernel/rootfs in busybox' shell.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SCRIPT)]
    script: String,
    /// Memory of the machine in MiB.
    #[arg(long, value_name = "MIB", default_value_t = MEMORY)]
    memory: u32,
    /// Number of CPUs of the machine.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// QEMU's CPU model.
    #[arg(long, default_value = "max")]
    cpu: String,
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
/// Memory of the machine in MiB.
pub const MEMORY: u32 = 256;
/// Seconds after which a machine is stopped.
pub const LIMIT: u64 = 300;

/// Boots what the options ask for.
pub fn command(options: &Options) -> Result<()> {
    let (mut archive, append, expect) = contents(options)?;
    let kernel = kernel::build(options.arch)?;
    let append = match &options.program {
        Some(program) => {
            let inner = initramfs::add_program(&mut archive, program)?;
            let mut line = format!("program={inner}");
            for arg in &options.args {
                line.push(' ');
                line.push_str(arg);
            }
            line
        }
        None => append,
    };
    let initrd = initramfs::write(&archive)?;
    let machine = Machine {
        arch: options.arch,
        kernel: &kernel,
        initrd: &initrd.path,
        append: &append,
        memory: options.memory,
        cpus: options.cpus,
        cpu_model: &options.cpu,
    };
    if options.shell {
        let ending = boot::interactive(&machine)?;
        // Ctrl-A X is a good way to leave a shell.
        if !matches!(ending, Ending::Success | Ending::Died(Some(0))) {
            bail!("{}", boot::describe(ending));
        }
        return Ok(());
    }
    let booted = boot::watch(&machine, Duration::from_secs(options.limit))?;
    judge(&booted, &archive, expect)
}

/// Boots `script` as the tests do, and judges the run.
pub fn script(kernel: &Path, arch: Arch, archive: &Archive, setup: &Setup) -> Result<()> {
    let initrd = initramfs::write(archive)?;
    let append = format!("script={}", initramfs::script(archive, setup.script)?);
    let booted = boot::watch(
        &Machine {
            arch,
            kernel,
            initrd: &initrd.path,
            append: &append,
            memory: setup.memory,
            cpus: setup.cpus,
            cpu_model: setup.cpu,
        },
        setup.limit,
    )?;
    judge(&booted, archive, setup.expect)
}

/// One boot of the tests.
pub struct Setup {
    /// Name of the script in the repository.
    pub script: &'static str,
    /// Memory of the machine in MiB.
    pub memory: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// QEMU's CPU model.
    pub cpu: &'static str,
    /// When to give up.
    pub limit: Duration,
    /// What the run must show.
    pub expect: Expect,
}

/// Returns the archive, the kernel's command line, and what the run must show.
fn contents(options: &Options) -> Result<(Archive, String, Expect)> {
    let busybox =
        match busybox::fetch(options.arch.debian()) {
            Ok(path) => Some(path),
            Err(error) if options.program.is_some() => {
                say(&format!("going on without busybox: {error:#}"));
                None
            }
            Err(error) => return Err(error).context(
                "busybox is what the scripts and the shell need; --program FILE runs without it",
            ),
        };
    let archive = initramfs::base(busybox.as_deref())?;
    if options.shell {
        return Ok((archive, "shell".to_string(), Expect::Summary));
    }
    if options.program.is_some() {
        return Ok((archive, String::new(), Expect::Summary));
    }
    let path = initramfs::script(&archive, &options.script)?;
    let expect = if options.script == DEFAULT_SCRIPT {
        Expect::SummaryAndChecksums
    } else {
        Expect::Summary
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
    say("success: the kernel ended well, nothing leaked, and the checksums are the host's");
    Ok(())
}
