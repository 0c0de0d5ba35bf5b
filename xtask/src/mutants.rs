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
use crate::{loom, paths, soak};

/// How long a test may take: one that a mutant lets wait for ever proves nothing.
const LIMIT: Duration = Duration::from_secs(600);

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
    let wrapper = wrapper(mutant)?;
    let log = paths::product("mutants")?.join(format!("{mutant}.log"));
    let mut builds: Vec<Build> = Vec::new();
    for row in rows {
        match builds.iter_mut().find(|build| build.has(row)) {
            Some(build) => build.rows.push(row),
            None => builds.push(Build { rows: vec![row] }),
        }
    }
    for build in &builds {
        // That it does not compile would prove nothing.
        let mut all = build.command(&wrapper, &build.rows)?;
        if command::into_file(all.arg("--no-run"), &log, LIMIT)? != Ended::Well {
            print_log(&log)?;
            bail!("the mutant {mutant} does not compile");
        }
        for row in &build.rows {
            let mut one = build.command(&wrapper, &[row])?;
            one.args(["--", "--exact", row.test]);
            let ended = command::into_file(&mut one, &log, LIMIT)?;
            let began = std::fs::read_to_string(&log)?.contains("running 1 test");
            match ended {
                Ended::Badly if began => {}
                Ended::Late => bail!("{} {} does not end", row.target, row.test),
                Ended::Well if !began => bail!("there is no test {} {}", row.target, row.test),
                _ => {
                    print_log(&log)?;
                    bail!("the mutant {mutant} passes {} {}", row.target, row.test);
                }
            }
        }
    }
    let by: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {}", row.target, row.test))
        .collect();
    say(&format!("mutant {mutant}: caught by {}", by.join(", ")));
    Ok(Counts::passed(rows.len() as u64))
}

/// Rows whose targets are compiled together.
struct Build<'a> {
    rows: Vec<&'a Row>,
}

impl Build<'_> {
    fn has(&self, row: &Row) -> bool {
        self.rows.first().is_some_and(|first| match row.tool {
            Tool::Loom | Tool::Loom3 => matches!(first.tool, Tool::Loom | Tool::Loom3),
            Tool::Kit | Tool::Schedules => first.tool == row.tool,
            Tool::Own => first.tool == Tool::Own && first.target == row.target,
        })
    }

    /// The command that compiles and runs the targets of some of the rows.
    fn command(&self, wrapper: &Path, rows: &[&Row]) -> Result<Command> {
        let mut command = match rows.first().map(|row| row.tool) {
            Some(tool @ (Tool::Loom | Tool::Loom3)) => {
                let preemptions = if tool == Tool::Loom { "2" } else { "3" };
                let mut command = loom::cargo_test(&paths::product("mutants/loom")?);
                command.env("LOOM_MAX_PREEMPTIONS", preemptions);
                command
            }
            Some(Tool::Schedules) => soak::cargo_test(&paths::product("mutants/watched")?),
            tool => {
                let mut command = command::cargo();
                command
                    .args(["test", "--target-dir"])
                    .arg(paths::product("mutants/plain")?);
                match (tool, rows.first()) {
                    (Some(Tool::Own), Some(row)) => {
                        command.args(["--lib", "--package", row.target])
                    }
                    _ => command.args(["--package", "mm-testkit"]),
                };
                command
            }
        };
        command
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
            // Each mutant is compiled once, and nobody debugs it.
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("RUST_BACKTRACE", "0");
        let mut targets: Vec<_> = rows
            .iter()
            .filter(|row| row.tool != Tool::Own)
            .map(|row| row.target)
            .collect();
        targets.dedup();
        for target in targets {
            command.args(["--test", target]);
        }
        Ok(command)
    }
}

/// Returns a wrapper of the compiler that breaks the line: cargo uses it for this workspace alone,
/// so what the workspace depends on is compiled once for all mutants.
pub fn wrapper(mutant: &str) -> Result<PathBuf> {
    let wrapper = paths::product("mutants")?.join(format!("rustc-{mutant}"));
    let cfg = format!("mm_mutant=\"{mutant}\"");
    std::fs::write(&wrapper, format!("#!/bin/sh\nexec \"$@\" --cfg '{cfg}'\n"))?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    Ok(wrapper)
}

fn print_log(log: &Path) -> Result<()> {
    let text = std::fs::read(log).with_context(|| format!("{}", log.display()))?;
    print!("{}", String::from_utf8_lossy(&text));
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
