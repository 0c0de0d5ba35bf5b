//! How far a model is explored, and how many runs that took (`--nocapture` shows it).

#![allow(dead_code, reason = "each model uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Explores all schedules: for primitives.
pub fn exhaustively(claim: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    run(&builder, claim);
}

/// Explores all schedules of so many preemptions as the command says, or fewer.
pub fn at_most(preemptions: usize, claim: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let asked = builder.preemption_bound.unwrap_or(preemptions);
    builder.preemption_bound = Some(asked.min(preemptions));
    run(&builder, claim);
}

fn run(builder: &loom::model::Builder, claim: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let start = std::time::Instant::now();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        claim();
    });
    println!(
        "{}: {} runs, {:?}",
        std::thread::current().name().unwrap_or("model"),
        runs.load(Ordering::Relaxed),
        start.elapsed(),
    );
}
