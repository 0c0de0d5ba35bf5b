//! Interleaved rounds and medians.
//!
//! A contender is a closure that prepares one round, runs the work to be
//! measured inside of [`timed`] exactly once, and cleans up. Only the inside is
//! timed or (under callgrind) counted.

use std::time::Instant;

/// What a run does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Takes the median time of this many rounds.
    Time(usize),
    /// Runs each contender once, small, for callgrind.
    Count,
}

/// One round of one contender: how long, and how many operations.
#[derive(Clone, Copy)]
pub struct Sample {
    pub nanos: f64,
    pub ops: f64,
}

/// Times the work of a round. All of `ops` operations are done inside `work`.
pub fn timed(ops: usize, mut work: impl FnMut()) -> Sample {
    let start = Instant::now();
    measured_region(&mut work);
    Sample {
        nanos: start.elapsed().as_nanos() as f64,
        ops: ops as f64,
    }
}

/// The function whose inside callgrind counts: its name is told on the
/// command line, so it is neither generic nor inlined.
#[inline(never)]
fn measured_region(work: &mut dyn FnMut()) {
    work();
}

/// Who is measured, or what it is measured against.
#[derive(Clone)]
pub struct Score {
    pub name: &'static str,
    /// Median nanoseconds (or bytes) per operation.
    pub value: f64,
    /// Instructions per operation, when counted.
    pub instructions: Option<f64>,
    /// Whether callgrind sees it: host-kernel rows are not worth counting.
    pub counted: bool,
}

/// What the project set itself for a row.
#[derive(Clone, Copy)]
pub struct Goal {
    /// As the project's table says it.
    pub text: &'static str,
    /// Against whom, in the same run.
    pub against: &'static str,
    /// At most this many times that.
    pub ratio: f64,
    /// At most this many instructions.
    pub instructions: Option<f64>,
}

/// One row of the table.
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    pub reference: &'static str,
    pub goal: Goal,
    pub scores: Vec<Score>,
}

/// The prefix of the names of our own contenders.
pub const OURS: &str = "mm";

/// One contender of a row to be measured.
pub struct Contender<'a> {
    name: &'static str,
    counted: bool,
    round: Box<dyn FnMut() -> Sample + 'a>,
}

/// Makes a contender.
pub fn contender<'a>(name: &'static str, round: impl FnMut() -> Sample + 'a) -> Contender<'a> {
    Contender {
        name,
        counted: true,
        round: Box::new(round),
    }
}

/// Makes a contender that the host's kernel executes.
pub fn host<'a>(name: &'static str, round: impl FnMut() -> Sample + 'a) -> Contender<'a> {
    Contender {
        counted: false,
        ..contender(name, round)
    }
}

/// Measures rows and keeps them.
pub struct Bench<'a> {
    pub mode: Mode,
    only: Option<&'a str>,
    rows: &'a mut Vec<Row>,
}

impl<'a> Bench<'a> {
    pub fn new(mode: Mode, only: Option<&'a str>, rows: &'a mut Vec<Row>) -> Self {
        Self { mode, only, rows }
    }

    /// Returns `full`, or `small` when instructions are counted.
    pub fn size(&self, full: usize, small: usize) -> usize {
        match self.mode {
            Mode::Time(_) => full,
            Mode::Count => small,
        }
    }

    /// Returns whether a row was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_none_or(|part| name.contains(part))
    }

    /// Measures one row.
    pub fn row(
        &mut self,
        name: &'static str,
        unit: &'static str,
        reference: &'static str,
        goal: Goal,
        mut contenders: Vec<Contender<'_>>,
    ) {
        if !self.wants(name) {
            return;
        }
        let rounds = match self.mode {
            Mode::Time(rounds) => rounds,
            Mode::Count => {
                // A line for each: `counts` reads them.
                for c in contenders.iter_mut().filter(|c| c.counted) {
                    println!("{}", (c.round)().ops);
                    crate::counts::dump();
                }
                return;
            }
        };
        eprint!("\r\x1b[Kmeasuring: {name}");
        let mut values = vec![Vec::with_capacity(rounds); contenders.len()];
        // One round to warm up, not kept.
        for round in 0..=rounds {
            for (c, values) in contenders.iter_mut().zip(&mut values) {
                let sample = (c.round)();
                if round > 0 {
                    values.push(sample.nanos / sample.ops);
                }
            }
        }
        eprint!("\r\x1b[K");
        let scores = contenders.iter().zip(values).map(|(c, mut values)| Score {
            name: c.name,
            value: median(&mut values),
            instructions: None,
            counted: c.counted,
        });
        self.rows.push(Row {
            name,
            unit,
            reference,
            goal,
            scores: scores.collect(),
        });
    }

    /// Adds a row that needs no clock.
    pub fn fact(
        &mut self,
        name: &'static str,
        unit: &'static str,
        reference: &'static str,
        goal: Goal,
        values: &[(&'static str, f64)],
    ) {
        if self.mode == Mode::Count || !self.wants(name) {
            return;
        }
        let scores = values.iter().map(|&(name, value)| Score {
            name,
            value,
            instructions: None,
            counted: false,
        });
        self.rows.push(Row {
            name,
            unit,
            reference,
            goal,
            scores: scores.collect(),
        });
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Random numbers that are the same in every run (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Returns a number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
