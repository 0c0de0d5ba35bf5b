//! `cargo xtask bench`: the family and its peers, side by side in one run.
//!
//! The measuring is done by the package `tests/benches-peers`, which stands outside the workspace
//! so that nobody else compiles the peers.

use anyhow::{Result, bail};
use clap::Args;

use crate::{command, paths};

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Arguments for the measuring program, after `--`.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Builds and runs the comparison.
pub fn command(options: &Options) -> Result<()> {
    let manifest = paths::root().join("tests/benches-peers/Cargo.toml");
    if !manifest.is_file() {
        bail!("there is no tests/benches-peers in this tree yet, so there is nothing to measure");
    }
    command::run(
        command::cargo()
            .args(["run", "--release", "--manifest-path"])
            .arg(manifest)
            .arg("--")
            .args(&options.args),
    )
}
