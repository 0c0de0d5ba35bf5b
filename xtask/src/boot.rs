//! Boots a kernel in QEMU and watches it: output as it comes, a time limit, the exit status.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::apt;
use crate::command::{self, say};
use crate::kernel::Arch;

/// A machine to start.
pub struct Machine<'a> {
    /// Its architecture.
    pub arch: Arch,
    /// The kernel's ELF file.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initrd: &'a Path,
    /// The kernel's command line.
    pub append: &'a str,
    /// Memory in MiB.
    pub memory: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// QEMU's name of the CPU model.
    pub cpu_model: &'a str,
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
}

/// Status of QEMU when the kernel writes 0x10 to the debug-exit port: `(value << 1) | 1`.
const STATUS_SUCCESS: i32 = 33;
/// Status of QEMU when the kernel writes 0x11 to the debug-exit port.
const STATUS_FAILURE: i32 = 35;

/// Boots a machine that nobody types to, and stops it after `limit`.
pub fn watch(machine: &Machine, limit: Duration) -> Result<Booted> {
    let mut qemu = qemu(machine)?;
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    say(&command::text(&qemu));
    let mut child = qemu.spawn().context("cannot start QEMU")?;
    let (output, timed_out) = follow(&mut child, limit)?;
    let ending = if timed_out {
        child.kill()?;
        child.wait()?;
        Ending::TimedOut(limit)
    } else {
        ending(child.wait()?.code())
    };
    say(&format!("the machine ended: {}", describe(ending)));
    Ok(Booted { output, ending })
}

/// Boots a machine whose console is this terminal. Ctrl-A X ends it.
pub fn interactive(machine: &Machine) -> Result<Ending> {
    let mut qemu = qemu(machine)?;
    qemu.args(["-display", "none", "-serial", "mon:stdio"])
        .stdin(Stdio::inherit());
    say(&command::text(&qemu));
    say("the console is this terminal; Ctrl-A X ends the machine");
    let status = qemu.status().context("cannot start QEMU")?;
    let ending = ending(status.code());
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
    let mut qemu = match machine.arch {
        Arch::X86_64 => {
            if !command::exists("qemu-system-x86_64") {
                apt::install(&["qemu-system-x86"], "qemu-system-x86_64 is missing")?;
            }
            let mut qemu = Command::new("qemu-system-x86_64");
            qemu.args(["-cpu", machine.cpu_model])
                .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
            qemu
        }
    };
    qemu.arg("-kernel")
        .arg(machine.kernel)
        .arg("-initrd")
        .arg(machine.initrd)
        .args(["-append", machine.append])
        .args(["-m", &format!("{}M", machine.memory)])
        .args(["-smp", &machine.cpus.to_string()])
        .args(["-no-reboot", "-nodefaults"]);
    Ok(qemu)
}

fn ending(code: Option<i32>) -> Ending {
    match code {
        Some(STATUS_SUCCESS) => Ending::Success,
        Some(STATUS_FAILURE) => Ending::Failure,
        other => Ending::Died(other),
    }
}

/// Shows and collects what `child` writes until it closes its output or the time is up.
fn follow(child: &mut Child, limit: Duration) -> Result<(String, bool)> {
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
                let mut console = std::io::stdout().lock();
                console.write_all(&bytes)?;
                console.flush()?;
                output.extend_from_slice(&bytes);
            }
            Err(RecvTimeoutError::Timeout) => break true,
            Err(RecvTimeoutError::Disconnected) => break false,
        }
    };
    if !output.ends_with(b"\n") {
        println!();
    }
    Ok((
        String::from_utf8_lossy(&output).replace('\r', ""),
        timed_out,
    ))
}
