//! The family and its peers, side by side in one run.
//!
//! ```text
//! for each row:   round 1: store x86_64 multiarch aarch64 mm   round 2: store x86_64 ...   median
//! then once more under callgrind, one small round:              instructions per operation
//! ```
//!
//! Rounds are interleaved, so what else the machine does hits all contenders
//! alike; what is read off are ratios, not times. What each row does and does
//! not contain is said in README.md.

mod areas;
mod counts;
mod heap;
mod machine;
mod measure;
mod paths;
mod report;
mod tables;

use measure::{Mode, Row};
use std::process::ExitCode;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// The rounds of a run, and of `--quick`.
const ROUNDS: usize = 25;
const QUICK: usize = 5;

fn main() -> ExitCode {
    let mut mode = Mode::Time(ROUNDS);
    let mut counting = true;
    let mut only = None;
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--quick" => mode = Mode::Time(QUICK),
            "--no-counts" => counting = false,
            counts::PASS => mode = Mode::Count,
            name if !name.starts_with('-') => only = Some(name.to_owned()),
            _ => {
                eprintln!("usage: [--quick] [--no-counts] [ROW]   (ROW: a part of a row's name)");
                return ExitCode::FAILURE;
            }
        }
    }
    let mut rows = rows(mode, only.as_deref());
    if mode == Mode::Count {
        return ExitCode::SUCCESS;
    }
    if counting {
        match counts::collect(only.as_deref()) {
            Ok(counted) => counts::enter(&mut rows, &counted),
            Err(why) => println!("no instruction counts: {why}\n"),
        }
    }
    report::print(&rows);
    ExitCode::SUCCESS
}

/// Measures every row whose name contains `only`.
fn rows(mode: Mode, only: Option<&str>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut bench = measure::Bench::new(mode, only, &mut rows);
    tables::measure(&mut bench);
    areas::measure(&mut bench);
    paths::measure(&mut bench);
    rows
}
