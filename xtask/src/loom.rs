//! `cargo xtask loom`: the concurrency models.
//!
//! A model is a test target `tests/loom/NAME.rs`. The models need the whole family compiled with
//! `--cfg loom`, which swaps the primitives behind `mm_core::sync`; so they have a target
//! directory of their own, and run optimised because loom explores many interleavings.

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{self, listen};
use crate::paths;
use crate::suites::{Counts, Suites, count};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Runs only the model of this name; all when absent.
    name: Option<String>,
}

/// Runs the models and prints the table.
pub fn command(options: &Options) -> Result<()> {
    let mut suites = Suites::default();
    for name in models()? {
        if options.name.as_ref().is_none_or(|only| *only == name) {
            suites.run(&format!("loom {name}"), || model(&name));
        }
    }
    suites.finish()
}

/// Runs all models as one suite.
pub fn all() -> Result<Counts> {
    let mut command = cargo_test()?;
    for name in models()? {
        command.arg("--test").arg(name);
    }
    Ok(count(&listen(&mut command)?))
}

/// Runs one model.
fn model(name: &str) -> Result<Counts> {
    Ok(count(&listen(cargo_test()?.arg("--test").arg(name))?))
}

fn cargo_test() -> Result<std::process::Command> {
    let mut command = command::cargo();
    command
        .env("RUSTFLAGS", "--cfg loom")
        // Optimised, yet with every assertion: lock ranks are checked in the models too.
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .env(
            "LOOM_MAX_PREEMPTIONS",
            std::env::var("LOOM_MAX_PREEMPTIONS").unwrap_or("3".into()),
        )
        .args([
            "test",
            "--release",
            "--package",
            "mm-testkit",
            "--no-fail-fast",
        ])
        .arg("--target-dir")
        .arg(paths::product("loom")?);
    Ok(command)
}

/// Returns the names of the models: the files of `tests/loom`.
pub fn models() -> Result<Vec<String>> {
    let dir = paths::root().join("tests/loom");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "rs") {
            match path.file_stem() {
                Some(stem) => names.push(stem.to_string_lossy().into_owned()),
                None => bail!("a model without a name: {}", path.display()),
            }
        }
    }
    names.sort();
    Ok(names)
}
