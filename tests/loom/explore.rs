//! How far a model is explored, and how many runs that took.

#![allow(dead_code, reason = "each model uses its part")]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whole verbs look at more than loom expects of a model.
const BRANCHES: usize = 100_000;

/// Explores all schedules: for primitives.
pub fn exhaustively(claim: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    run(builder, claim);
}

/// Explores all schedules of so many preemptions, or of as many as
/// `LOOM_MAX_PREEMPTIONS` says when that is fewer.
pub fn at_most(preemptions: usize, claim: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let asked = builder.preemption_bound.unwrap_or(preemptions);
    builder.preemption_bound = Some(asked.min(preemptions));
    run(builder, claim);
}

fn run(mut builder: loom::model::Builder, claim: impl Fn() + Send + Sync + 'static) {
    builder.max_branches = BRANCHES;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let start = std::time::Instant::now();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        claim();
    });
    let runs = runs.load(Ordering::Relaxed);
    let took = start.elapsed();
    let bound = match builder.preemption_bound {
        Some(most) => format!("{most} preemptions"),
        None => "all schedules".into(),
    };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("model");
    // Past the harness, which keeps what a test that passes prints.
    writeln!(
        std::io::stderr(),
        "{name}: {runs} runs, {bound}, {took:.1?}"
    )
    .unwrap();
}
