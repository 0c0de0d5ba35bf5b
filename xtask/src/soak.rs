//! `cargo xtask soak`: random schedules of whole verbs, for minutes.
//!
//! They play the scene of `tests/src/scene.rs`, several CPUs on one space and its forks:
//! `tests/shuttle/schedules.rs` passes turns between them at every shared word that the library
//! touches (`--cfg mm_watched`). `cargo xtask test` runs a short piece.

use anyhow::Result;
use clap::Args;

use crate::command::{self, listen};
use crate::paths;
use crate::suites::{Counts, Suites, count};

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
    let mut suites = Suites::default();
    let length = if options.only {
        Length::One
    } else {
        Length::Seconds(options.minutes.saturating_mul(60))
    };
    suites.run("schedules", || played(&length, options.seed));
    suites.finish()
}

/// The random schedules of `cargo xtask test`.
pub fn schedules() -> Result<Counts> {
    played(&Length::Usual, 1)
}

fn played(length: &Length, seed: u64) -> Result<Counts> {
    let mut command = command::cargo();
    command
        .env("RUSTFLAGS", "--cfg mm_watched")
        // Optimised, yet with every assertion.
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .args(["test", "--release", "--package", "mm-testkit"])
        .args(["--test", "schedules", "--test", "scaling", "--target-dir"])
        .arg(paths::product("watched")?)
        .args(["--", "--nocapture"]);
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
    Ok(count(&listen(&mut command)?))
}
