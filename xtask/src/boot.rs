//! Boots a kernel in QEMU and watches it: output as it comes, a time limit, the exit status.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::apt;
use crate::command::{self, say};
use crate::dialogue::{Dialogue, Turn};
use crate::kernel::Arch;
use crate::voice;

/// A machine to start.
pub struct Machine<'a> {
    /// Its architecture.
    pub arch: Arch,
    /// The kernel's file, as QEMU's loader for this architecture takes it.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initrd: &'a Path,
    /// The kernel's command line.
    pub append: &'a str,
    /// Memory in MiB.
    pub memory: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// QEMU's name of the CPU model; `None` for the one that the architecture is run on.
    pub cpu_model: Option<&'a str>,
}

/// How a run of a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The kernel said that all went well.
    Success,
    /// The kernel said that something failed.
    Failure,
    /// The machine ended in another way: a triple fault, a killed QEMU, a refused option.
    Died(Option<i32>),
    /// The time was up.
    TimedOut(Duration),
}

/// What a machine wrote to its console, and how it ended.
pub struct Booted {
    /// The console's text.
    pub output: String,
    /// The ending.
    pub ending: Ending,
    /// What whoever typed waited for at the end.
    pub waits_for: Option<&'static str>,
}

/// How QEMU emulates an architecture, and how a kernel there ends it.
struct Emulator {
    program: &'static str,
    /// Debian's package of the program.
    package: &'static str,
    cpu: &'static str,
    /// The machine, and the device that ends it.
    args: &'static [&'static str],
    /// QEMU's status when the kernel reports success, and when it reports failure.
    status: (i32, i32),
}

fn emulator(arch: Arch) -> Emulator {
    match arch {
        // The port's 0x10 and 0x11 become `(value << 1) | 1`.
        Arch::X86_64 => Emulator {
            program: "qemu-system-x86_64",
            package: "qemu-system-x86",
            cpu: "max",
            args: &["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"],
            status: (33, 35),
        },
        // Semihosting's SYS_EXIT_EXTENDED passes the status on.
        Arch::Aarch64 => Emulator {
            program: "qemu-system-aarch64",
            package: "qemu-system-arm",
            cpu: "max",
            args: &["-machine", "virt,gic-version=2", "-semihosting"],
            status: (0, 1),
        },
        Arch::Armv7 => Emulator {
            program: "qemu-system-arm",
            package: "qemu-system-arm",
            cpu: "cortex-a15",
            args: &["-machine", "virt,gic-version=2", "-semihosting"],
            status: (0, 1),
        },
        // The finisher's "pass" is 0, its "fail" carries a status.
        Arch::Riscv64 => Emulator {
            program: "qemu-system-riscv64",
            package: "qemu-system-misc",
            cpu: "rv64",
            args: &["-machine", "virt", "-bios", "default"],
            status: (0, 1),
        },
    }
}

/// Boots a machine at whose console `turns` are typed, and stops it after `limit`.
pub fn watch(machine: &Machine, limit: Duration, turns: &'static [Turn]) -> Result<Booted> {
    let mut qemu = qemu(machine)?;
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .stdin(if turns.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped());
    say(&command::text(&qemu));
    let mut child = qemu.spawn().context("cannot start QEMU")?;
    let mut dialogue = Dialogue::new(turns);
    let (output, timed_out) = follow(&mut child, limit, &mut dialogue)?;
    let ending = if timed_out {
        child.kill()?;
        child.wait()?;
        Ending::TimedOut(limit)
    } else {
        ending(machine.arch, child.wait()?.code())
    };
    say(&format!("the machine ended: {}", describe(ending)));
    Ok(Booted {
        output,
        ending,
        waits_for: dialogue.waits_for(),
    })
}

/// Boots a machine whose console is this terminal. Ctrl-A X ends it.
pub fn interactive(machine: &Machine) -> Result<Ending> {
    let mut qemu = qemu(machine)?;
    qemu.args(["-display", "none", "-serial", "mon:stdio"])
        .stdin(Stdio::inherit());
    say(&command::text(&qemu));
    say("the console is this terminal; Ctrl-A X ends the machine");
    let status = qemu.status().context("cannot start QEMU")?;
    let ending = ending(machine.arch, status.code());
    say(&format!("the machine ended: {}", describe(ending)));
    Ok(ending)
}

/// Says an ending in words.
pub fn describe(ending: Ending) -> String {
    match ending {
        Ending::Success => "the kernel reports success".to_string(),
        Ending::Failure => "the kernel reports FAILURE".to_string(),
        Ending::Died(Some(code)) => format!("QEMU died with status {code}"),
        Ending::Died(None) => "QEMU was killed".to_string(),
        Ending::TimedOut(limit) => format!("no end after {} s, stopped", limit.as_secs()),
    }
}

fn qemu(machine: &Machine) -> Result<Command> {
    let emulator = emulator(machine.arch);
    if !command::exists(emulator.program) {
        let why = format!("{} is missing", emulator.program);
        apt::install(&[emulator.package], &why)?;
    }
    // Only recommended by Debian's package of the emulator; elsewhere it comes along.
    if machine.arch == Arch::Riscv64 && apt::is_debian() {
        apt::install(&["opensbi"], "the firmware of that machine is missing")?;
    }
    let mut qemu = Command::new(emulator.program);
    qemu.args(["-cpu", machine.cpu_model.unwrap_or(emulator.cpu)])
        .args(emulator.args)
        .arg("-kernel")
        .arg(machine.kernel)
        .arg("-initrd")
        .arg(machine.initrd)
        .args(["-append", machine.append])
        .args(["-m", &format!("{}M", machine.memory)])
        .args(["-smp", &machine.cpus.to_string()])
        .args(["-no-reboot", "-nodefaults"]);
    Ok(qemu)
}

fn ending(arch: Arch, code: Option<i32>) -> Ending {
    let (success, failure) = emulator(arch).status;
    match code {
        Some(code) if code == success => Ending::Success,
        Some(code) if code == failure => Ending::Failure,
        other => Ending::Died(other),
    }
}

/// Shows and collects what `child` writes until it closes its output or the time is up, and has
/// `dialogue` answer.
fn follow(child: &mut Child, limit: Duration, dialogue: &mut Dialogue) -> Result<(String, bool)> {
    let mut keyboard = child.stdin.take();
    let mut stdout = child.stdout.take().context("QEMU has no output")?;
    let (sender, receiver) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stdout.read(&mut buffer) {
            if sender
                .send(buffer.iter().take(read).copied().collect())
                .is_err()
            {
                break;
            }
        }
    });
    let end = Instant::now() + limit;
    let mut output = Vec::new();
    let timed_out = loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(mut bytes) => {
                bytes.retain(|byte| *byte != b'\r');
                voice::write(&bytes);
                output.extend_from_slice(&bytes);
                // A machine that takes no more input is ending: its ending says why.
                if let Some(mut keys) = keyboard.take() {
                    keyboard = dialogue.answer(&output, &mut keys).ok().map(|()| keys);
                }
            }
            Err(RecvTimeoutError::Timeout) => break true,
            Err(RecvTimeoutError::Disconnected) => break false,
        }
    };
    if !output.ends_with(b"\n") {
        voice::print("\n");
    }
    Ok((
        String::from_utf8_lossy(&output).replace('\r', ""),
        timed_out,
    ))
}
