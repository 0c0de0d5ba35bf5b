//! Running other programs: said aloud before, judged by exit status after.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::voice;

/// Prints one progress line, so that the reader can tell it from what the programs print.
pub fn say(line: &str) {
    voice::print(&format!("xtask: {line}\n"));
}

/// Returns the cargo of the toolchain that runs this program, to be started in the root.
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    clean(&mut command);
    command
}

/// Takes out of the environment what `cargo run` put there for this program alone.
///
/// Otherwise a build below would see the variables of this package and the library path of this
/// toolchain, and would be rebuilt (or broken) by them.
pub fn clean(command: &mut Command) {
    command
        .current_dir(crate::paths::root())
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "CARGO_PRIMARY_PACKAGE"
            || text == "LD_LIBRARY_PATH"
        {
            command.env_remove(&name);
        }
    }
}

/// Writes a command as one would type it, with its own environment in front.
pub fn text(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.to_string_lossy(), quoted(value)));
        }
    }
    let program = Path::new(command.get_program());
    words.push(
        program
            .file_name()
            .map_or_else(|| quoted(command.get_program()), quoted),
    );
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.is_empty() || word.contains([' ', '"', '$', '*', '&', ';', '|']) {
        format!("'{word}'")
    } else {
        word.into_owned()
    }
}

/// Runs a command whose output goes where ours goes.
pub fn run(command: &mut Command) -> Result<()> {
    if voice::is_kept() {
        if !listen(command)?.success {
            bail!("{} failed", text(command));
        }
        return Ok(());
    }
    say(&text(command));
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", text(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", text(command));
    }
    Ok(())
}

/// How a command ended whose output nobody watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// With exit status zero.
    Well,
    /// With another status, or by a signal.
    Badly,
    /// Not within its time.
    Late,
}

/// Runs a command whose output goes into a file; ends it, and all that it started, after a while.
pub fn into_file(command: &mut Command, file: &Path, limit: Duration) -> Result<Ended> {
    let output = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    writeln!(&output, "{}", text(command))?;
    command.stdout(output.try_clone()?).stderr(output);
    // A group of its own, so that what cargo runs ends with it.
    let mut child = command
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", text(command)))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                Ended::Well
            } else {
                Ended::Badly
            });
        }
        if start.elapsed() > limit {
            capture(Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]))?;
            child.wait()?;
            return Ok(Ended::Late);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a command that was listened to said, and whether it succeeded.
pub struct Heard {
    /// Everything it wrote to its standard output.
    pub output: String,
    /// Whether its exit status was zero.
    pub success: bool,
    /// Whether it was a cargo whose compiler warned of something in a package of ours.
    pub warned: bool,
}

/// Runs a command, shows its output line by line, keeps the telling lines, and returns the output.
pub fn listen(command: &mut Command) -> Result<Heard> {
    say(&text(command));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", text(command)))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let voice = voice::current();
    let (output, warned) = std::thread::scope(|scope| {
        let errors = scope.spawn(move || {
            voice::adopt(voice);
            let mut warned = false;
            if let Some(stderr) = stderr {
                let _shown = follow(stderr, |line| {
                    voice::print(line);
                    warned |= sums_up_warnings(line);
                });
            }
            warned
        });
        let mut output = String::new();
        if let Some(stdout) = stdout {
            follow(stdout, |line| {
                voice::print(line);
                output.push_str(line);
            })?;
        }
        let warned = errors.join().unwrap_or_default();
        Ok::<_, std::io::Error>((output, warned))
    })?;
    let status = child.wait()?;
    Ok(Heard {
        output,
        success: status.success(),
        warned,
    })
}

/// Returns whether a line is cargo's, after the warnings of a package: "warning: `mm-core` (lib)
/// generated 1 warning". Of packages from a registry, and of `core`, there are none.
fn sums_up_warnings(line: &str) -> bool {
    line.starts_with("warning: `") && line.contains(" generated ")
}

/// Hands each line on, and keeps the telling ones.
fn follow(from: impl Read, mut hand_on: impl FnMut(&str)) -> std::io::Result<()> {
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    // What a panic says stands on the line after the one that says where.
    let mut after_panic = false;
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        hand_on(&text);
        if after_panic || tells(&text) {
            voice::tell(text.trim_end());
        }
        after_panic = text.contains("panicked at");
        line.clear();
    }
    Ok(())
}

/// Returns whether a line says why something failed.
fn tells(line: &str) -> bool {
    let begins = ["error", "Caused by:", "^^^"];
    let holds = [
        "panicked at",
        "... FAILED",
        "signal: ",
        "xtask: wrong: ",
        "SUMMARY: ThreadSanitizer: ",
    ];
    begins.iter().any(|word| line.starts_with(word)) || holds.iter().any(|word| line.contains(word))
}

/// Runs a command silently and returns its standard output; its errors are part of the error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", text(command)))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            text(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns what `program` (a filter such as `md5sum`) makes of `input`.
pub fn filter(program: &str, input: &[u8]) -> Result<String> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let stdin = child.stdin.take();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.map_or(Ok(()), |mut pipe| pipe.write_all(input)));
        let mut output = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut output)?;
        }
        match writer.join() {
            Ok(written) => written?,
            Err(_) => bail!("writing to {program} panicked"),
        }
        Ok(output)
    })?;
    let status = child.wait()?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(written)
}

/// Tells whether a program of this name is found on the path.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
