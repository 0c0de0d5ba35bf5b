//! `cargo xtask loom --mutants`: each line that the locking or the flushes rest on, broken once.
//!
//! A *mutant* is a line of the libraries under `cfg(mm_mutant = "...")`: a fence, a second look, a
//! mark, a count, a flush that is left out. [`table`] says which test of which tool must fail then:
//! a model, a test on CPUs with software TLBs and instruction caches, or a crate's own test of its
//! sequences. What passes is a mutant that nobody noticed.
//!
//! Each mutant is compiled once for each tool that has a row for it. What a broken test says goes
//! to a file of the mutant's below `target/mutants`, and is shown only if the test did not fail.

mod table;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use table::{ROWS, Row, Tool};

use crate::command::{self, Ended, say};
use crate::suites::{Counts, Suites};
use crate::{loom, paths, soak, voice};

/// How long a test may take: one that a mutant lets wait for ever proves nothing.
const LIMIT: Duration = Duration::from_secs(600);

/// How mutants are compiled.
const PROFILE: [&str; 6] = [
    "profile.dev.debug=false",
    "profile.dev.opt-level=0",
    "profile.release.debug=false",
    "profile.release.opt-level=0",
    "profile.dev.package.'*'.opt-level=3",
    "profile.release.package.'*'.opt-level=3",
];

/// Runs all mutants, or those of one name, and prints the table.
pub fn command(name: Option<&str>) -> Result<()> {
    let mut suites = Suites::default();
    for rows in ROWS.chunk_by(|a, b| a.mutant == b.mutant) {
        let mutant = rows.first().map_or("", |row| row.mutant);
        if name.is_none_or(|only| only == mutant) {
            suites.run_quietly(&format!("mutant {mutant}"), || caught(mutant, rows));
        }
    }
    suites.finish()
}

/// Breaks one line, and fails unless every test of `rows` does.
fn caught(mutant: &str, rows: &[Row]) -> Result<Counts> {
    let log = paths::product("mutants")?.join(format!("{mutant}.log"));
    for rows in rows.chunk_by(compiled_together) {
        let programs = compile(mutant, rows, &log)?;
        for row in rows {
            notices(mutant, row, &programs, &log)?;
        }
    }
    let by: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {}", row.target, row.test))
        .collect();
    say(&format!("mutant {mutant}: caught by {}", by.join(", ")));
    Ok(Counts::passed(rows.len() as u64))
}

fn compiled_together(a: &Row, b: &Row) -> bool {
    match a.tool {
        Tool::Loom | Tool::Loom3 => matches!(b.tool, Tool::Loom | Tool::Loom3),
        Tool::Kit | Tool::Schedules => a.tool == b.tool,
        Tool::Own => b.tool == Tool::Own && a.target == b.target,
    }
}

/// Compiles the targets of rows with one line broken; returns the programs.
fn compile(mutant: &str, rows: &[Row], log: &Path) -> Result<Vec<PathBuf>> {
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let mut command = match first.tool {
        Tool::Loom | Tool::Loom3 => loom::cargo_test(&paths::product("mutants/loom")?),
        Tool::Kit => {
            let mut command = command::cargo();
            command.args(["test", "--package", "mm-testkit", "--target-dir"]);
            command.arg(paths::product("mutants/kit")?);
            command
        }
        Tool::Schedules => soak::cargo_test(&paths::product("mutants/watched")?),
        Tool::Own => {
            let mut command = command::cargo();
            command.args(["rustc", "--profile", "test", "--lib", "--package"]);
            command.arg(first.target).arg("--target-dir");
            command.arg(paths::product("mutants/own")?);
            command
        }
    };
    command
        .env("CARGO_INCREMENTAL", "0")
        .args(["--message-format", "json-render-diagnostics"]);
    if first.tool != Tool::Schedules {
        // Those play for long enough to be optimised.
        command.args(PROFILE.iter().flat_map(|option| ["--config", option]));
    }
    if first.tool == Tool::Own {
        // The line is in the crate itself, so nothing else is compiled anew.
        command.args(["--", "--cfg", &cfg_of(mutant)]);
    } else {
        let mut targets: Vec<_> = rows.iter().map(|row| row.target).collect();
        targets.dedup();
        for target in targets {
            command.args(["--test", target]);
        }
        command
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper(mutant)?)
            .arg("--no-run");
    }
    // That it does not compile would prove nothing.
    if command::into_file(&mut command, log, LIMIT)? != Ended::Well {
        print_log(log)?;
        bail!("the mutant {mutant} does not compile");
    }
    let told = std::fs::read_to_string(log)?;
    let after = told.split("\"executable\":\"").skip(1);
    let program = |text: &str| text.split('"').next().map(PathBuf::from);
    Ok(after.filter_map(program).collect())
}

/// Runs one test of a mutant, which must fail.
fn notices(mutant: &str, row: &Row, programs: &[PathBuf], log: &Path) -> Result<()> {
    let (target, test) = (row.target, row.test);
    // `target/.../loom_fault-0123456789abcdef`
    let stem = format!("{}-", target.replace('-', "_"));
    let is_its = |program: &&PathBuf| {
        let name = program.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(&stem))
    };
    let Some(program) = programs.iter().find(is_its) else {
        bail!("no program was compiled for {target}");
    };
    let mut command = Command::new(program);
    command::clean(&mut command);
    command
        .args(["--exact", test])
        .env("RUST_BACKTRACE", "0")
        .env("LOOM_MAX_BRANCHES", loom::BRANCHES)
        .env(
            "LOOM_MAX_PREEMPTIONS",
            if row.tool == Tool::Loom3 { "3" } else { "2" },
        );
    let ended = command::into_file(&mut command, log, LIMIT)?;
    // A panic may end in an abort, which counts no test.
    let began = std::fs::read_to_string(log)?.contains("running 1 test");
    match ended {
        Ended::Badly if began => Ok(()),
        Ended::Late => bail!("{target} {test} does not end"),
        Ended::Well if !began => bail!("there is no test {target} {test}"),
        _ => {
            print_log(log)?;
            bail!("the mutant {mutant} passes {target} {test}");
        }
    }
}

/// What breaks the line.
fn cfg_of(mutant: &str) -> String {
    format!("mm_mutant=\"{mutant}\"")
}

/// Returns a wrapper of the compiler that breaks the line: cargo uses it for this workspace alone,
/// so what the workspace depends on is compiled once for all mutants.
pub fn wrapper(mutant: &str) -> Result<PathBuf> {
    let cfg = cfg_of(mutant);
    let wrapper = paths::product("mutants")?.join(format!("rustc-{mutant}"));
    std::fs::write(&wrapper, format!("#!/bin/sh\nexec \"$@\" --cfg '{cfg}'\n"))?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    Ok(wrapper)
}

fn print_log(log: &Path) -> Result<()> {
    let text = std::fs::read(log).with_context(|| format!("{}", log.display()))?;
    voice::write(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::table::ROWS;
    use crate::paths;

    /// The names in all `mm_mutant = "..."` of the libraries.
    fn in_the_sources() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for library in paths::LIBRARIES {
            for path in paths::rust_files(&paths::root().join(library).join("src")).unwrap() {
                let text = std::fs::read_to_string(path).unwrap();
                for part in text.split("mm_mutant = \"").skip(1) {
                    names.extend(part.split('"').next().map(str::to_string));
                }
            }
        }
        names
    }

    #[test]
    fn every_mutant_of_the_sources_has_a_row_and_every_row_a_mutant() {
        let rows: BTreeSet<String> = ROWS.iter().map(|row| row.mutant.to_string()).collect();
        assert_eq!(rows, in_the_sources());
    }

    #[test]
    fn rows_of_one_mutant_stand_together() {
        let names: BTreeSet<&str> = ROWS.iter().map(|row| row.mutant).collect();
        let chunks = ROWS.chunk_by(|a, b| a.mutant == b.mutant).count();
        assert_eq!(chunks, names.len());
    }

    #[test]
    fn locking_names_every_mutant_and_no_other_words_for_them() {
        let locking = std::fs::read_to_string(paths::root().join("LOCKING.md")).unwrap();
        let missing: Vec<&str> = ROWS
            .iter()
            .map(|row| row.mutant)
            .filter(|name| !locking.contains(&format!("`{name}`")))
            .collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn every_test_of_a_row_is_in_the_sources() {
        let mut tests = String::new();
        for dir in ["tests", "mm-core", "mm-x86_64", "mm-arm", "mm-riscv"] {
            for path in paths::rust_files(&paths::root().join(dir)).unwrap() {
                tests.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
        for row in ROWS {
            let name = row.test.rsplit("::").next().unwrap();
            assert!(tests.contains(&format!("fn {name}(")), "{row:?}");
        }
    }
}
