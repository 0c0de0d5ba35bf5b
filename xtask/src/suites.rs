//! The suites of a run: each is timed, none is skipped silently, and the table at the end tells all.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::{Heard, say, telling};

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

/// Of a failed suite's telling lines the first so many are repeated at the end, each up to so many
/// characters: where only the end of a log is kept, it must say what failed.
const TOLD_LINES: usize = 8;
const TOLD_CHARS: usize = 160;

/// The error of a run whose table was printed: there is nothing to add to it.
#[derive(Debug)]
pub struct Told;

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("some suites failed")
    }
}

impl std::error::Error for Told {}

/// The suites that ran so far.
#[derive(Default)]
pub struct Suites {
    rows: Vec<Row>,
}

impl Suites {
    /// Runs one suite and keeps its counts; an error becomes one failure with its text as remark.
    pub fn run(&mut self, name: &str, body: impl FnOnce() -> Result<Counts>) {
        say(&format!("---- {name}"));
        self.run_quietly(name, body);
        if let Some(row) = self.rows.last() {
            let verdict = if row.counts.failed == 0 {
                "ok"
            } else {
                "FAILED"
            };
            say(&format!(
                "---- {name}: {verdict} after {:.1} s",
                row.took.as_secs_f64()
            ));
        }
    }

    /// Runs one of many small suites: only an error is told before the table.
    pub fn run_quietly(&mut self, name: &str, body: impl FnOnce() -> Result<Counts>) {
        let start = Instant::now();
        drop(telling());
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
        self.rows.push(Row {
            name: name.to_string(),
            counts,
            took: start.elapsed(),
            remark,
            telling: if counts.failed == 0 {
                Vec::new()
            } else {
                telling()
            },
        });
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
        let mut took = Duration::ZERO;
        println!();
        println!("{:width$}  passed  failed  ignored  minutes", "suite");
        for row in &self.rows {
            line(&row.name, width, row.counts, row.took, &row.remark);
            sum.add(row.counts);
            took += row.took;
        }
        line("total", width, sum, took, "");
        println!();
        let names: Vec<&str> = self
            .rows
            .iter()
            .filter(|row| row.counts.failed > 0)
            .map(|row| row.name.as_str())
            .collect();
        if !names.is_empty() {
            for row in &self.rows {
                for told in row.telling.iter().take(TOLD_LINES) {
                    let told: String = told.chars().take(TOLD_CHARS).collect();
                    println!("{}: {told}", row.name);
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
    use super::{Counts, Heard, count};

    fn heard(output: &str, success: bool) -> Heard {
        Heard {
            output: output.to_string(),
            success,
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
    fn a_run_that_does_not_compile_is_a_failure() {
        assert_eq!(count(&heard("", false)).failed, 1);
        assert_eq!(count(&heard("", true)), Counts::default());
    }
}
