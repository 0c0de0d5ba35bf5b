//! `cargo xtask loom`: the concurrency models.
//!
//! A model is a test target whose file stands in `tests/loom`. The models need the whole family compiled with
//! `--cfg loom`, which swaps the primitives behind `mm_core::sync`; so they have a target
//! directory of their own, and run optimised because loom explores many interleavings.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{self, listen};
use crate::suites::{Counts, Suites, count};
use crate::{mutants, paths};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Runs only the models (or the mutants) of these names; all when absent.
    names: Vec<String>,
    /// Breaks one line after the other, each of which a test must notice, instead of the library as it is.
    #[arg(long)]
    mutants: bool,
}

/// Whole verbs look at more than loom expects of a model.
pub const BRANCHES: &str = "20000";

/// Runs the models and prints the table.
pub fn command(options: &Options) -> Result<()> {
    if options.mutants {
        return mutants::command(&options.names);
    }
    let mut suites = Suites::default();
    for name in models()? {
        if options.names.is_empty() || options.names.contains(&name) {
            suites.run(&format!("loom {name}"), || model(&name));
        }
    }
    suites.finish()
}

/// Runs all models as one suite, one after the other: other suites run beside it.
pub fn all() -> Result<Counts> {
    let mut command = cargo_test(&paths::product("loom")?);
    command.env("RUST_TEST_THREADS", "1");
    for name in models()? {
        command.arg("--test").arg(name);
    }
    Ok(count(&listen(&mut command)?))
}

/// Runs one model.
fn model(name: &str) -> Result<Counts> {
    let mut command = cargo_test(&paths::product("loom")?);
    Ok(count(&listen(command.arg("--test").arg(name))?))
}

/// Returns the command that compiles models into a directory and runs them.
pub fn cargo_test(dir: &Path) -> std::process::Command {
    let mut command = command::cargo();
    command
        .env("RUSTFLAGS", "--cfg loom")
        // Optimised, yet with every assertion: lock ranks are checked in the models too.
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .env("LOOM_MAX_BRANCHES", BRANCHES)
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
        .arg(dir);
    command
}

/// Returns the names of the models: the test targets of `tests/Cargo.toml` that stand in `loom/`.
///
/// # Errors
/// When a file of `tests/loom` is neither a target nor a module of one: it would never run.
pub fn models() -> Result<Vec<String>> {
    let tests = paths::root().join("tests");
    let manifest = std::fs::read_to_string(tests.join("Cargo.toml"))?;
    let targets = targets(&manifest);
    if !tests.join("loom").is_dir() {
        return Ok(Vec::new());
    }
    let mut sources = String::new();
    let mut files = Vec::new();
    for path in paths::rust_files(&tests.join("loom"))? {
        sources.push_str(&std::fs::read_to_string(&path)?);
        if let Some(stem) = path.file_stem() {
            files.push(stem.to_string_lossy().into_owned());
        }
    }
    for file in files {
        let is_target = targets.iter().any(|(_, path)| *path == file);
        if !is_target && !sources.contains(&format!("mod {file};")) {
            bail!("tests/loom/{file}.rs is no [[test]] of tests/Cargo.toml, so it never runs");
        }
    }
    Ok(targets.into_iter().map(|(name, _)| name).collect())
}

/// Returns the name of each `[[test]]` whose path is `loom/FILE.rs`, with that `FILE`.
fn targets(manifest: &str) -> Vec<(String, String)> {
    let value = |section: &str, key: &str| {
        section.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim().trim_matches('"').to_string())
        })
    };
    manifest
        .split("[[")
        .skip(1)
        .filter_map(|section| {
            let path = value(section, "path")?;
            let file = path.strip_prefix("loom/")?.strip_suffix(".rs")?;
            Some((value(section, "name")?, file.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::targets;

    #[test]
    fn models_are_the_targets_of_the_folder() {
        let manifest = "[package]\nname = \"x\"\n\n[[test]]\nname = \"loom_a\"\npath = \"loom/a.rs\"\n\n\
                        [[test]]\nname = \"b\"\npath = \"tests/b.rs\"\n[lints]\nworkspace = true\n";
        assert_eq!(targets(manifest), [("loom_a".to_string(), "a".to_string())]);
    }
}
