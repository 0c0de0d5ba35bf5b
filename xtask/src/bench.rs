//! `cargo xtask bench`: the family and its peers, side by side in one run.
//!
//! The measuring is done by the package `tests/benches-peers`, which stands outside the workspace
//! so that nobody else compiles the peers.

use anyhow::{Result, bail};
use clap::Args;

use crate::command::say;
use crate::{apt, command, paths};

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Arguments for the measuring program, after `--`: `--quick`, `--no-counts`, a part of a
    /// row's name.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Builds and runs the comparison.
pub fn command(options: &Options) -> Result<()> {
    let manifest = paths::root().join("tests/benches-peers/Cargo.toml");
    if !manifest.is_file() {
        bail!(
            "{} is missing: this is not a whole checkout",
            manifest.display()
        );
    }
    // Times are noisy and counts are not, but a machine without valgrind still has times.
    if !command::exists("valgrind") {
        if let Err(why) = apt::install(&["valgrind"], "instructions are counted by valgrind") {
            say(&format!("no instruction counts: {why:#}"));
        }
    }
    command::run(
        command::cargo()
            .args(["run", "--release", "--manifest-path"])
            .arg(manifest)
            .arg("--")
            .args(&options.args),
    )
}
