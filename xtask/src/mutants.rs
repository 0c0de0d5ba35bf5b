//! `cargo xtask loom --mutants`: each line that the locking or the flushes rest on, broken once.
//!
//! A *mutant* is a line of the libraries under `cfg(mm_mutant = "...")`: a fence, a second look, a
//! mark, a count, a flush that is left out. [`table`] says which test of which tool must fail then:
//! a model, a test on CPUs with software TLBs and instruction caches, or a crate's own test of its
//! sequences. What passes is a mutant that nobody noticed.
//!
//! ```text
//! unbroken   each target compiled, each test run once: what fails here proves nothing
//!    │
//!    ├─ lane 0 ─► compile, run ─► compile, run ─► ...    a lane takes the next mutant;
//!    └─ lane 1 ─► compile, run ─► compile, run ─► ...    its target directories are its own
//! ```
//!
//! Each mutant is compiled once for each tool that has a row for it. What a broken test says goes
//! to a file of the mutant's below `target/mutants`, and is shown only if the test did not fail.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, Result, bail};
use table::{ROWS, Row, Tool};

use crate::command::{self, Ended, say};
use crate::suites::{Counts, Suites};
use crate::{loom, paths, soak, voice};

/// How long a test may take: one that a mutant lets wait for ever proves nothing.
const LIMIT: Duration = Duration::from_secs(600);

/// How many mutants are tried side by side, where there are so many processors: a compiler and a test
/// keep one busy each.
const LANES: usize = 2;

/// How mutants are compiled.
const PROFILE: [&str; 6] = [
    "profile.dev.debug=false",
    "profile.dev.opt-level=0",
    "profile.release.debug=false",
    "profile.release.opt-level=0",
    "profile.dev.package.'*'.opt-level=3",
    "profile.release.package.'*'.opt-level=3",
];

/// What is compiled: the libraries as they are, or with one line broken.
#[derive(Clone, Copy)]
enum Build {
    Unbroken,
    Broken(&'static str),
}

/// One of the runs side by side.
#[derive(Clone, Copy)]
struct Lane(usize);

impl Lane {
    /// Returns the lane's directory for what one tool compiles: no lane waits for another's.
    fn product(self, tool: &str) -> io::Result<PathBuf> {
        paths::product(&format!("mutants/lane{}/{tool}", self.0))
    }
}

/// A test, as one tool runs it.
type Test = (Tool, &'static str, &'static str);

fn test_of(row: &Row) -> Test {
    (row.tool, row.target, row.test)
}

/// Runs all mutants, or those of some names, and prints the table.
pub fn command(names: &[String]) -> Result<()> {
    names.iter().try_for_each(|name| check_name(name))?;
    let mutants: Vec<&'static [Row]> = ROWS
        .chunk_by(|a, b| a.mutant == b.mutant)
        .filter(|rows| names.is_empty() || names.iter().any(|name| name == mutant_of(rows)))
        .collect();
    let mut suites = Suites::default();
    let groups = groups(&mutants);
    let names = groups
        .iter()
        .map(|group| format!("unbroken {}", group.name));
    let mut sound = BTreeSet::new();
    in_lanes(
        &mut suites,
        &names.collect::<Vec<_>>(),
        |nth, lane| passing(&groups[nth], lane),
        |tests| {
            let passed = Counts::passed(tests.passed.len() as u64);
            sound.extend(tests.passed);
            if tests.failed.is_empty() {
                return Ok(passed);
            }
            bail!(
                "these fail though nothing is broken: {}",
                tests.failed.join(", ")
            );
        },
    );
    let names = mutants
        .iter()
        .map(|rows| format!("mutant {}", mutant_of(rows)));
    in_lanes(
        &mut suites,
        &names.collect::<Vec<_>>(),
        |nth, lane| caught(mutants[nth], lane, &sound),
        Ok,
    );
    suites.finish()
}

/// Refuses what is no mutant.
///
/// # Errors
/// With what to look at.
pub fn check_name(name: &str) -> Result<()> {
    if ROWS.iter().any(|row| row.mutant == name) {
        return Ok(());
    }
    bail!("there is no mutant {name}: xtask/src/mutants/table.rs names them");
}

fn mutant_of(rows: &[Row]) -> &'static str {
    rows.first().map_or("", |row| row.mutant)
}

/// Runs jobs side by side. The table has them in their order; what a job returns becomes its counts by
/// `count`, in that order too. A job's minutes are those that the table waited for it.
fn in_lanes<T: Send>(
    suites: &mut Suites,
    names: &[String],
    job: impl Fn(usize, Lane) -> Result<T> + Sync,
    mut count: impl FnMut(T) -> Result<Counts>,
) {
    let lanes = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let (send, results) = mpsc::channel();
    thread::scope(|scope| {
        for lane in 0..lanes.min(LANES) {
            let (next, job, send) = (&next, &job, send.clone());
            scope.spawn(move || {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= names.len() || send.send((nth, job(nth, Lane(lane)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut early = BTreeMap::new();
        for (nth, name) in names.iter().enumerate() {
            suites.run_quietly(name, || {
                loop {
                    if let Some(result) = early.remove(&nth) {
                        return count(result?);
                    }
                    let (other, result) = results.recv().context("a lane ended too early")?;
                    early.insert(other, result);
                }
            });
        }
    });
}

/// Rows whose targets one command compiles.
struct Group {
    name: &'static str,
    rows: Vec<&'static Row>,
}

/// Returns the tests of mutants, each once, by what compiles them.
fn groups(mutants: &[&'static [Row]]) -> Vec<Group> {
    let mut seen = BTreeSet::new();
    let mut groups: Vec<Group> = Vec::new();
    for row in mutants.iter().copied().flatten() {
        if !seen.insert(test_of(row)) {
            continue;
        }
        match groups
            .iter_mut()
            .find(|group| compiled_together(group.rows[0], row))
        {
            Some(group) => group.rows.push(row),
            None => groups.push(Group {
                name: match row.tool {
                    Tool::Loom | Tool::Loom3 => "models",
                    Tool::Kit => "tests",
                    Tool::Schedules => "schedules",
                    Tool::Own => row.target,
                },
                rows: vec![row],
            }),
        }
    }
    groups
}

/// What became of tests that were run with nothing broken.
struct Sound {
    passed: Vec<Test>,
    failed: Vec<String>,
}

/// Runs the tests of a group with nothing broken.
fn passing(group: &Group, lane: Lane) -> Result<Sound> {
    let log = paths::product("mutants")?.join(format!("unbroken-{}.log", group.name));
    let programs = compile(Build::Unbroken, &group.rows, lane, &log)?;
    let mut sound = Sound {
        passed: Vec::new(),
        failed: Vec::new(),
    };
    for row in &group.rows {
        match run(row, &programs, &log)? {
            Ended::Well => sound.passed.push(test_of(row)),
            Ended::Badly | Ended::Late => {
                print_log(&log)?;
                sound.failed.push(format!("{} {}", row.target, row.test));
            }
        }
    }
    say(&format!(
        "unbroken {}: {} pass",
        group.name,
        sound.passed.len()
    ));
    Ok(sound)
}

/// Breaks one line, and fails unless every test of `rows` does, which passed before.
fn caught(rows: &[Row], lane: Lane, sound: &BTreeSet<Test>) -> Result<Counts> {
    let mutant = mutant_of(rows);
    if let Some(row) = rows.iter().find(|row| !sound.contains(&test_of(row))) {
        bail!("{} {} fails though nothing is broken", row.target, row.test);
    }
    let log = paths::product("mutants")?.join(format!("{mutant}.log"));
    for rows in rows.chunk_by(compiled_together) {
        let rows: Vec<_> = rows.iter().collect();
        let programs = compile(Build::Broken(mutant), &rows, lane, &log)?;
        for row in rows {
            notices(row, &programs, &log)?;
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

/// Compiles the targets of rows; returns the programs.
fn compile(build: Build, rows: &[&Row], lane: Lane, log: &Path) -> Result<Vec<PathBuf>> {
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let mut command = match first.tool {
        Tool::Loom | Tool::Loom3 => loom::cargo_test(&lane.product("loom")?),
        Tool::Kit => {
            let mut command = command::cargo();
            command.args(["test", "--package", "mm-testkit", "--target-dir"]);
            command.arg(lane.product("kit")?);
            command
        }
        Tool::Schedules => soak::cargo_test(&lane.product("watched")?),
        Tool::Own => {
            let mut command = command::cargo();
            command.args(["rustc", "--profile", "test", "--lib", "--package"]);
            command.arg(first.target).arg("--target-dir");
            command.arg(lane.product("own")?);
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
    if first.tool != Tool::Own {
        let targets: BTreeSet<_> = rows.iter().map(|row| row.target).collect();
        command.args(targets.iter().flat_map(|target| ["--test", *target]));
        command.arg("--no-run");
    }
    match build {
        Build::Unbroken => {}
        // The line is in the crate itself, so nothing else is compiled anew.
        Build::Broken(mutant) if first.tool == Tool::Own => {
            command.args(["--", "--cfg", &cfg_of(mutant)]);
        }
        Build::Broken(mutant) => {
            command.env("RUSTC_WORKSPACE_WRAPPER", wrapper(mutant)?);
        }
    }
    // That it does not compile would prove nothing.
    if command::into_file(&mut command, log, LIMIT)? != Ended::Well {
        print_log(log)?;
        match build {
            Build::Unbroken => bail!("it does not compile"),
            Build::Broken(mutant) => bail!("the mutant {mutant} does not compile"),
        }
    }
    let told = std::fs::read_to_string(log)?;
    let after = told.split("\"executable\":\"").skip(1);
    let program = |text: &str| text.split('"').next().map(PathBuf::from);
    Ok(after.filter_map(program).collect())
}

/// Runs one test of a mutant, which must fail.
fn notices(row: &Row, programs: &[PathBuf], log: &Path) -> Result<()> {
    let Row {
        mutant,
        target,
        test,
        ..
    } = row;
    match run(row, programs, log)? {
        Ended::Badly => Ok(()),
        Ended::Late => bail!("{target} {test} does not end"),
        Ended::Well => {
            print_log(log)?;
            bail!("the mutant {mutant} passes {target} {test}");
        }
    }
}

/// Runs one test.
///
/// # Errors
/// When it did not begin.
fn run(row: &Row, programs: &[PathBuf], log: &Path) -> Result<Ended> {
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
    if std::fs::read_to_string(log)?.contains("running 1 test") {
        return Ok(ended);
    }
    print_log(log)?;
    bail!("there is no test {target} {test}");
}

/// What breaks the line.
pub fn cfg_of(mutant: &str) -> String {
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
