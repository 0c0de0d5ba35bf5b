//! `cargo xtask soak`: random schedules of whole verbs, or ThreadSanitizer, for minutes.
//!
//! Both play the scene of `tests/src/scene.rs`, several CPUs on one space and its forks:
//! `tests/shuttle/schedules.rs` passes turns between them at every shared word that the library
//! touches (`--cfg mm_watched`); `cargo xtask test` runs a short piece. `tests/tsan/stress.rs` lets
//! host threads race under ThreadSanitizer (`--cfg mm_tsan`), here only.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{self, listen};
use crate::suites::{Counts, Suites, count};
use crate::{mutants, paths, toolchain};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// How long to play.
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Plays the schedule of the seed alone: again.
    #[arg(long)]
    only: bool,
    /// Plays under ThreadSanitizer instead.
    #[arg(long, conflicts_with = "only")]
    tsan: bool,
    /// Shows ThreadSanitizer the fences, which it overlooks: a report that goes away is of an order
    /// that only fences make.
    #[arg(long, requires = "tsan")]
    fences: bool,
    /// Breaks the line of this `mm_mutant`: a schedule must fail, or ThreadSanitizer report it.
    #[arg(long)]
    mutant: Option<String>,
}

/// How long to play.
enum Length {
    /// So many seconds.
    Seconds(u64),
    /// What the test does by itself.
    Usual,
    /// One seed.
    One,
}

/// Soaks.
pub fn command(options: &Options) -> Result<()> {
    if let Some(mutant) = &options.mutant {
        mutants::check_name(mutant)?;
    }
    let mut suites = Suites::default();
    let length = if options.only {
        Length::One
    } else {
        Length::Seconds(options.minutes.saturating_mul(60))
    };
    match &options.mutant {
        _ if options.tsan => suites.run("tsan", || sanitized(options)),
        Some(mutant) => suites.run("schedules", || broken(mutant, &length, options.seed)),
        None => suites.run("schedules", || played(&length, options.seed)),
    }
    suites.finish()
}

/// The minutes of each of the two in `cargo xtask test --long`.
const LONG_MINUTES: u64 = 10;

/// The random schedules of `cargo xtask test`, or of its long variant.
pub fn schedules(long: bool) -> Result<Counts> {
    let length = if long {
        Length::Seconds(LONG_MINUTES * 60)
    } else {
        Length::Usual
    };
    played(&length, 1)
}

/// ThreadSanitizer, as the long variant of `cargo xtask test` runs it.
pub fn races() -> Result<Counts> {
    sanitized(&Options {
        minutes: LONG_MINUTES,
        seed: 1,
        only: false,
        tsan: true,
        fences: false,
        mutant: None,
    })
}

fn played(length: &Length, seed: u64) -> Result<Counts> {
    let mut command = cargo_test(&paths::product("watched")?);
    command.args(["--test", "schedules", "--test", "scaling"]);
    play_for(&mut command, length, seed);
    Ok(count(&listen(&mut command)?))
}

/// Plays with one line broken, until a schedule fails.
fn broken(mutant: &str, length: &Length, seed: u64) -> Result<Counts> {
    let wrapper = mutants::wrapper(mutant)?;
    let command = || -> Result<Command> {
        let mut command = cargo_test(&paths::product("mutants/watched")?);
        command
            .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
            .args(["--test", "schedules"]);
        Ok(command)
    };
    // That it does not compile would prove nothing.
    command::run(command()?.arg("--no-run"))?;
    let mut command = command()?;
    play_for(&mut command, length, seed);
    let heard = listen(&mut command)?;
    if heard.success {
        bail!("no schedule notices {mutant}");
    }
    Ok(Counts::passed(1))
}

/// The command for tests whose CPUs take turns, or whose touches are noted.
pub fn cargo_test(target_dir: &Path) -> Command {
    let mut command = command::cargo();
    command
        .env("RUSTFLAGS", "--cfg mm_watched")
        // Optimised, yet with every assertion.
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .args(["test", "--release", "--package", "mm-testkit"])
        .arg("--target-dir")
        .arg(target_dir);
    command
}

fn play_for(command: &mut Command, length: &Length, seed: u64) {
    match length {
        Length::Seconds(seconds) => {
            command
                .env("MM_SECONDS", seconds.to_string())
                .env("MM_FIRST_SEED", seed.to_string());
        }
        Length::Usual => {}
        Length::One => {
            command.env("MM_SEED", seed.to_string());
        }
    }
    command.args(["--", "--nocapture"]);
}

/// What shows it the fences.
const FENCES: &str = "mm_tsan=\"fences\"";

/// How a report of ThreadSanitizer begins.
const REPORT: &str = "WARNING: ThreadSanitizer: ";

/// Plays under ThreadSanitizer: without a report, or with a mutant until the first.
fn sanitized(options: &Options) -> Result<Counts> {
    let toolchain::Sanitized { mut cargo, flags } = toolchain::sanitized()?;
    cargo
        .env("RUSTFLAGS", format!("{} --cfg mm_tsan", flags.join(" ")))
        // Optimised, yet with every assertion, and with lines for the reports.
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
        .env("TSAN_OPTIONS", tsan_options())
        .env("MM_SECONDS", options.minutes.saturating_mul(60).to_string())
        .env("MM_FIRST_SEED", options.seed.to_string());
    let broken = options.mutant.iter().map(|mutant| mutants::cfg_of(mutant));
    let shown = options.fences.then(|| FENCES.to_string());
    let flags: Vec<_> = broken
        .chain(shown)
        .map(|cfg| format!("'--cfg', '{cfg}'"))
        .collect();
    if !flags.is_empty() {
        // In mm-core's flags alone, so that the standard library is not built once more.
        let flags = flags.join(", ");
        cargo.args(["-Zprofile-rustflags", "--config"]).arg(format!(
            "profile.release.package.mm-core.rustflags=[{flags}]"
        ));
    }
    cargo
        .args(["--release", "--package", "mm-testkit", "--test", "tsan"])
        .arg("--target-dir")
        .arg(paths::product("tsan")?);
    let heard = listen(&mut cargo)?;
    match (&options.mutant, heard.output.contains(REPORT)) {
        (None, false) if heard.success => Ok(Counts::passed(1)),
        (None, false) => bail!("it does not compile, or a thread fails"),
        (None, true) => bail!("ThreadSanitizer reports"),
        (Some(_), true) => Ok(Counts::passed(1)),
        (Some(mutant), false) => bail!("ThreadSanitizer does not report {mutant}"),
    }
}

/// The first report ends the run, and goes where the output goes; a symbolizer of any release, if
/// there is one, gives its frames their names.
fn tsan_options() -> String {
    let options = "halt_on_error=1 history_size=4 log_path=stdout";
    let symbolizer = "/usr/bin/llvm-symbolizer";
    if Path::new(symbolizer).is_file() {
        format!("{options} external_symbolizer_path={symbolizer}")
    } else {
        options.to_string()
    }
}
