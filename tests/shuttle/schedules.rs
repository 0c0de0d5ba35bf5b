//! Whole verbs under random schedules: no store is lost, no freed frame is
//! reachable, nothing leaks, nobody waits for ever.
//!
//! ```text
//!  seed ──► machine, number of CPUs, a few kinds of steps, what each does, when which takes its turn
//!             │
//!             ▼
//!           2 to 4 CPUs on one space and its forks: a turn may pass to another CPU at
//!             │            every shared word that the library touches (cfg(mm_watched))
//!             ▼
//!           the bytes of each stripe, the global check, nothing left over
//! ```
//!
//! All of a schedule follows from its seed. `MM_SEED=n` plays that one.
//! From `MM_FIRST_SEED` (1) on, `MM_SCHEDULES=n` plays so many and `MM_SECONDS=n` what fits. Turns pass by
//! one of two ways, also the seed's: with a chance at each word, or by
//! priorities that change at a few chosen words (Burckhardt et al., "A randomized
//! scheduler with probabilistic guarantees of finding bugs", 2010).
//!
//! Orders of memory are not explored: every CPU sees each store at once. That is
//! what the loom models are for.
#![cfg(mm_watched)]

use mm_testkit::machine::{Machine, machines};
use mm_testkit::platform::move_to;
use mm_testkit::random::Random;
use mm_testkit::scene::{MEETINGS, SHARED, Scene, Step};
use mm_testkit::stripe::EAGER;
use mm_testkit::watch::scheduled;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Schedules of a plain run.
const SCHEDULES: u64 = 3000;
/// Shared words that one schedule may touch before it counts as endless.
const ENDLESS: u64 = 3_000_000;
const FRAMES: usize = 512;

/// How turns pass.
enum Way {
    /// To anybody, once in so many words.
    Chance(u64),
    /// To the task of the highest priority; at these words the running one loses its own.
    Priorities {
        of: HashMap<TaskId, u64>,
        lowest: u64,
        changes: Vec<u64>,
    },
}

/// One schedule, all of it from the seed.
struct Turns {
    seed: Option<u64>,
    dice: Random,
    way: Way,
    words: u64,
    /// Whose turn it was, all along.
    trace: Arc<AtomicU64>,
}

impl Turns {
    fn new(seed: u64, trace: Arc<AtomicU64>) -> Self {
        let mut dice = Random::new(seed ^ 0x7u64.rotate_right(8));
        let way = if dice.chance(60) {
            Way::Chance(dice.pick(&[2, 5, 15, 60, 250]))
        } else {
            let reach = dice.pick(&[2_000, 8_000, 30_000]);
            Way::Priorities {
                of: HashMap::new(),
                lowest: u64::MAX / 2,
                changes: (0..dice.below(6)).map(|_| dice.below(reach)).collect(),
            }
        };
        Self {
            seed: Some(seed),
            dice,
            way,
            words: 0,
            trace,
        }
    }
}

impl Scheduler for Turns {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.seed.take().map(Schedule::new)
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        waits: bool,
    ) -> Option<TaskId> {
        let next = self.choose(runnable, current, waits);
        let trace = self.trace.load(Ordering::Relaxed).rotate_left(5);
        let whose = next.map_or(0, |id| 1 + usize::from(id) as u64);
        let trace = (trace ^ whose).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.trace.store(trace, Ordering::Relaxed);
        next
    }

    fn next_u64(&mut self) -> u64 {
        self.dice.next()
    }
}

impl Turns {
    fn choose(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        waits: bool,
    ) -> Option<TaskId> {
        self.words += 1;
        let current = current.filter(|id| runnable.iter().any(|task| task.id() == *id));
        match &mut self.way {
            Way::Chance(once_in) => {
                if let Some(id) = current.filter(|_| !waits) {
                    if self.dice.below(*once_in) != 0 {
                        return Some(id);
                    }
                }
                Some(runnable[self.dice.below(runnable.len() as u64) as usize].id())
            }
            Way::Priorities {
                of,
                lowest,
                changes,
            } => {
                if let Some(id) = current {
                    if waits || changes.contains(&self.words) {
                        *lowest -= 1;
                        of.insert(id, *lowest);
                    }
                }
                for task in runnable {
                    let first = u64::MAX / 2 + self.dice.below(1 << 40);
                    of.entry(task.id()).or_insert(first);
                }
                runnable
                    .iter()
                    .map(|task| task.id())
                    .max_by_key(|id| of[id])
            }
        }
    }
}

/// What the CPUs of one seed choose from: everything, or a few things that then meet
/// the more often.
fn steps(dice: &mut Random) -> Vec<Step> {
    let mut all: Vec<Step> = SHARED.to_vec();
    all.extend(EAGER.map(Step::Stripe));
    match dice.below(6) {
        0 => all,
        5 | 4 => dice.pick(&MEETINGS).to_vec(),
        // Each step is in or out.
        1 => {
            let some: Vec<Step> = all.iter().copied().filter(|_| dice.chance(30)).collect();
            if some.is_empty() { all } else { some }
        }
        _ => (0..2 + dice.below(3)).map(|_| dice.pick(&all)).collect(),
    }
}

/// Plays the verbs of one seed; the turns are the scheduler's.
fn play(machine: &Machine, seed: u64) {
    // Which CPU the host's thread was last is not the seed's.
    move_to(0);
    let mut dice = Random::new(seed);
    let cpus = 2 + dice.below(3) as usize;
    let (steps, pages) = (steps(&mut dice), 1 + dice.below(5) as usize);
    let (scene, mut lives) = Scene::new(machine, FRAMES, cpus, pages, seed);
    // Some pages are there before, so that forks share and unmaps free.
    for life in &mut lives {
        scene.live(life, dice.below(4), &steps);
    }
    shuttle::thread::scope(|scope| {
        for life in &mut lives {
            let (scene, steps, count) = (&scene, &steps, 2 + dice.below(5));
            scope.spawn(move || scene.live(life, count, steps));
        }
    });
    move_to(0);
    scene.end(lives);
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
}

/// Plays the schedule of a seed; returns what tells it from another.
fn schedule(machine: &'static Machine, seed: u64) -> u64 {
    let trace = Arc::new(AtomicU64::new(0));
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.max_steps = shuttle::MaxSteps::None;
    config.silence_warnings = true;
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    let runner = shuttle::Runner::new(Turns::new(seed, trace.clone()), config);
    let played = catch_unwind(AssertUnwindSafe(|| {
        runner.run(move || scheduled(ENDLESS, || play(machine, seed)));
    }));
    if let Err(why) = played {
        eprintln!(
            "^^^ seed {seed} on the machine \"{}\"; again: MM_SEED={seed}",
            machine.name
        );
        resume_unwind(why);
    }
    trace.load(Ordering::Relaxed)
}

/// The tiny formats: many tables for few pages, each with another way of hardware's.
fn tiny(seed: u64) -> &'static Machine {
    let tiny = || machines().iter().filter(|m| m.name.starts_with("tiny"));
    let nth = seed as usize % tiny().count();
    tiny().nth(nth).expect("there are some")
}

/// A seed that is printed would be worth nothing.
#[test]
fn a_seed_plays_the_same_schedule_again() {
    let played = |seeds: std::ops::Range<u64>| -> Vec<u64> {
        seeds.map(|seed| schedule(tiny(seed), seed)).collect()
    };
    let once = played(1..60);
    assert_eq!(once, played(1..60));
    let unlike: HashSet<_> = once.iter().collect();
    assert_eq!(unlike.len(), once.len(), "two seeds play one schedule");
}

#[test]
fn whole_verbs_keep_their_promises_whatever_the_schedule() {
    let time = number("MM_SECONDS").map(Duration::from_secs);
    let (first, count) = match number("MM_SEED") {
        Some(seed) => (seed, 1),
        None => {
            let usual = time.map_or(SCHEDULES, |_| u64::MAX);
            let count = number("MM_SCHEDULES").unwrap_or(usual);
            (number("MM_FIRST_SEED").unwrap_or(1), count)
        }
    };
    let begin = Instant::now();
    let mut played = 0;
    while played < count && time.is_none_or(|time| begin.elapsed() < time) {
        let seed = first + played;
        schedule(tiny(seed), seed);
        played += 1;
    }
    println!(
        "{played} schedules from seed {first} on in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    assert!(played > 0);
}
