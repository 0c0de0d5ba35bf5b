//! The suites of a run: each is timed, none is skipped silently, and the table at the end tells all.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::{Heard, say};
use crate::voice::{self, Voice};

/// What one suite counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that a suite left out by itself.
    pub ignored: u64,
}

impl Counts {
    /// Returns the counts of `n` passed tests.
    pub fn passed(n: u64) -> Self {
        Self {
            passed: n,
            ..Self::default()
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Sums up the `test result:` lines of a run of `cargo test`.
///
/// A run that fails without a failed test (it did not compile, it died) counts as one failure.
pub fn count(heard: &Heard) -> Counts {
    let mut sum = Counts::default();
    for line in heard.output.lines() {
        let Some((_, numbers)) = line.split_once("test result: ") else {
            continue;
        };
        let number = |what: &str| {
            numbers
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        sum.add(Counts {
            passed: number("passed"),
            failed: number("failed"),
            ignored: number("ignored"),
        });
    }
    if !heard.success && sum.failed == 0 {
        sum.failed = 1;
    }
    sum
}

struct Row {
    name: String,
    counts: Counts,
    took: Duration,
    remark: String,
    /// If it failed: what its commands said about that.
    telling: Vec<String>,
}

impl Row {
    /// Why it failed, shortly.
    fn reasons(&self) -> impl Iterator<Item = String> {
        let error = (!self.remark.is_empty()).then_some(&self.remark);
        let lines = error.into_iter().chain(&self.telling);
        lines
            .take(REASONS)
            .map(|line| line.chars().take(REASON_CHARS).collect())
    }
}

/// Of a failed suite's error and telling lines the first so many are repeated at the end, each up to
/// so many characters: where only the end of a log is kept, it must say what failed.
const REASONS: usize = 6;
const REASON_CHARS: usize = 160;

/// The error of a run whose table was printed: there is nothing to add to it.
#[derive(Debug)]
pub struct Told;

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("some suites failed")
    }
}

impl std::error::Error for Told {}

/// Runs a suite; an error becomes one failure with its text as remark.
fn row(name: &str, body: impl FnOnce() -> Result<Counts>) -> Row {
    let start = Instant::now();
    drop(voice::telling());
    let (counts, remark) = match body() {
        Ok(counts) => (counts, String::new()),
        Err(error) => {
            say(&format!("{name}: {error:#}"));
            (
                Counts {
                    failed: 1,
                    ..Counts::default()
                },
                first_line(&format!("{error:#}")),
            )
        }
    };
    let telling = voice::telling();
    Row {
        name: name.to_string(),
        counts,
        took: start.elapsed(),
        remark,
        telling: if counts.failed == 0 {
            Vec::new()
        } else {
            telling
        },
    }
}

/// As [`row`], and says that it begins and how it ended.
fn told_row(name: &str, body: impl FnOnce() -> Result<Counts>) -> Row {
    say(&format!("---- {name}"));
    let row = row(name, body);
    let verdict = if row.counts.failed == 0 {
        "ok"
    } else {
        "FAILED"
    };
    let seconds = row.took.as_secs_f64();
    say(&format!("---- {name}: {verdict} after {seconds:.1} s"));
    row
}

/// A suite that may run beside others: one processor is enough for it, and it uses nothing that
/// another one changes.
pub struct Job<'a> {
    name: String,
    body: Box<dyn FnOnce() -> Result<Counts> + Send + 'a>,
}

impl<'a> Job<'a> {
    /// Names a suite and what it does.
    pub fn new(name: &str, body: impl FnOnce() -> Result<Counts> + Send + 'a) -> Self {
        let (name, body) = (name.to_string(), Box::new(body));
        Self { name, body }
    }
}

/// The suites that ran so far.
pub struct Suites {
    rows: Vec<Row>,
    began: Instant,
}

impl Default for Suites {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            began: Instant::now(),
        }
    }
}

impl Suites {
    /// Runs one suite and keeps its counts; an error becomes one failure with its text as remark.
    pub fn run(&mut self, name: &str, body: impl FnOnce() -> Result<Counts>) {
        self.rows.push(told_row(name, body));
    }

    /// Runs one of many small suites: only an error is told before the table.
    pub fn run_quietly(&mut self, name: &str, body: impl FnOnce() -> Result<Counts>) {
        self.rows.push(row(name, body));
    }

    /// Runs suites side by side, half as many again as there are processors: one or the other waits
    /// for a download, or boots a machine whose programs sleep. Each is said to begin, and what it
    /// has to say follows as a whole when it has ended.
    pub fn run_side_by_side(&mut self, jobs: Vec<Job>) {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        self.run_in_lanes(jobs, processors + processors / 2);
    }

    fn run_in_lanes(&mut self, jobs: Vec<Job>, lanes: usize) {
        if lanes == 1 {
            for job in jobs {
                self.run(&job.name, job.body);
            }
            return;
        }
        let todo: Mutex<VecDeque<(usize, Job)>> =
            Mutex::new(jobs.into_iter().enumerate().collect());
        let done = Mutex::new(Vec::new());
        let next = || {
            todo.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()
        };
        thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    voice::adopt(Voice::kept());
                    while let Some((at, Job { name, body })) = next() {
                        voice::to_terminal(format!("xtask: .... {name} begins\n").as_bytes());
                        let row = told_row(&name, body);
                        voice::to_terminal(&voice::take_kept());
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.push((at, row));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(at, _)| *at);
        self.rows.extend(done.into_iter().map(|(_, row)| row));
    }

    /// Notes a suite that cannot run because the tree does not hold it yet.
    pub fn absent(&mut self, name: &str, what: &str) {
        say(&format!("---- {name}: NOT RUN, {what} is not in this tree"));
        self.rows.push(Row {
            name: name.to_string(),
            counts: Counts::default(),
            took: Duration::ZERO,
            remark: format!("NOT RUN: no {what}"),
            telling: Vec::new(),
        });
    }

    /// Prints the table and the closing line.
    ///
    /// # Errors
    /// When anything failed, or when nothing ran at all.
    pub fn finish(self) -> Result<()> {
        let width = self
            .rows
            .iter()
            .map(|row| row.name.len())
            .max()
            .unwrap_or(0)
            .max(5);
        let mut sum = Counts::default();
        println!();
        println!("{:width$}  passed  failed  ignored  minutes", "suite");
        for row in &self.rows {
            line(&row.name, width, row.counts, row.took, &row.remark);
            sum.add(row.counts);
        }
        // By the clock: suites that ran side by side took their minutes at once.
        line("total", width, sum, self.began.elapsed(), "");
        println!();
        let names: Vec<&str> = self
            .rows
            .iter()
            .filter(|row| row.counts.failed > 0)
            .map(|row| row.name.as_str())
            .collect();
        if !names.is_empty() {
            for row in self.rows.iter().filter(|row| row.counts.failed > 0) {
                for line in row.reasons() {
                    println!("{}: {line}", row.name);
                }
            }
            println!("FAILED: {}", names.join(", "));
        }
        if sum == Counts::default() {
            println!("all checks passed");
        } else {
            println!("{} passed, {} failed", sum.passed, sum.failed);
        }
        if sum.failed > 0 {
            return Err(Told.into());
        }
        if self.rows.is_empty() {
            bail!("no suite of that name");
        }
        Ok(())
    }
}

fn line(name: &str, width: usize, counts: Counts, took: Duration, remark: &str) {
    println!(
        "{name:width$}  {:6}  {:6}  {:7}  {:7.2}  {remark}",
        counts.passed,
        counts.failed,
        counts.ignored,
        took.as_secs_f64() / 60.0
    );
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::{Counts, Heard, Job, Suites, count};

    fn heard(output: &str, success: bool) -> Heard {
        Heard {
            output: output.to_string(),
            success,
            warned: false,
        }
    }

    #[test]
    fn sums_up_every_result_line() {
        let output = "running 3 tests\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
            noise\n\
            test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(
            count(&heard(output, false)),
            Counts {
                passed: 15,
                failed: 2,
                ignored: 1
            }
        );
    }

    #[test]
    fn suites_side_by_side_stand_in_the_table_in_their_order_with_their_own_faults() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let first = move || {
            // Ends only while the second one runs beside it.
            receiver.recv()?;
            crate::voice::tell("first's reason");
            anyhow::bail!("broken")
        };
        let second = move || {
            sender.send(())?;
            Ok(Counts::passed(2))
        };
        let mut suites = Suites::default();
        let jobs = vec![Job::new("first", first), Job::new("second", second)];
        suites.run_in_lanes(jobs, 2);
        let [first, second] = &suites.rows[..] else {
            panic!("{} rows", suites.rows.len());
        };
        assert_eq!((&first.name[..], &first.remark[..]), ("first", "broken"));
        assert_eq!(first.telling, ["first's reason"]);
        assert_eq!(
            (&second.name[..], second.counts),
            ("second", Counts::passed(2))
        );
        assert!(suites.finish().is_err());
    }

    #[test]
    fn a_run_that_does_not_compile_is_a_failure() {
        assert_eq!(count(&heard("", false)).failed, 1);
        assert_eq!(count(&heard("", true)), Counts::default());
    }
}
