//! Eight host threads as CPUs of one space and its forks, for ThreadSanitizer:
//! whatever two of them touch is ordered by the library, or a report ends the run.
//!
//! `cargo xtask soak --tsan` builds it, with a standard library that is
//! instrumented too, and `--cfg mm_tsan`, under which the test kit itself orders
//! no threads where a machine would not (`tests/src/plug.rs`). What is seen:
//!
//! - a frame's plain bytes: who gets it looks for poison, clears it, copies into
//!   it or builds words and nodes there, and who frees it fills it with poison.
//!   All that others do to it (programs, the kernel's copies for them, walks,
//!   lookups) is atomic, so it races with none of its kind, but must be ordered
//!   with those;
//! - whatever the locks guard.
//!
//! Sequentially consistent fences are not seen, unless `--fences` shows them; nothing here
//! needs them to be.
//!
//! `MM_SECONDS=n` plays for so long, from `MM_FIRST_SEED` (1) on. A seed says what
//! each CPU does, not when.

#[cfg(not(mm_tsan))]
fn main() {
    println!("not built for ThreadSanitizer: cargo xtask soak --tsan");
}

#[cfg(mm_tsan)]
fn main() {
    stress::main();
}

#[cfg(mm_tsan)]
mod stress {
    use mm_testkit::machine::{Machine, machines};
    use mm_testkit::scene::{SHARED, Scene, Step};
    use mm_testkit::stripe::{EAGER, USUAL};
    use std::time::{Duration, Instant};

    const CPUS: usize = 8;
    const FRAMES: usize = 1024;
    const PAGES: usize = 6;
    /// Turns of a CPU in one scene, and things that it does in each.
    const TURNS: u64 = 15;
    const STEPS: u64 = 4;

    fn number(name: &str) -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
    }

    /// Ends the whole run when one thread fails: the others may wait for it.
    struct Together<'a>(u64, &'a Machine);

    impl Drop for Together<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("^^^ seed {} on the machine \"{}\"", self.0, self.1.name);
                std::process::abort();
            }
        }
    }

    fn play(machine: &Machine, seed: u64) {
        let _together = Together(seed, machine);
        let acts = if seed % 2 == 0 { &EAGER[..] } else { &USUAL };
        let stripe = acts.iter().map(|&act| Step::Stripe(act));
        let steps: Vec<Step> = stripe.chain(SHARED).collect();
        let (scene, mut lives) = Scene::new(machine, FRAMES, CPUS, PAGES, seed);
        std::thread::scope(|scope| {
            for life in &mut lives {
                let (scene, steps) = (&scene, &steps);
                scope.spawn(move || {
                    let _together = Together(seed, machine);
                    for _ in 0..TURNS {
                        scene.live(life, STEPS, steps);
                    }
                });
            }
        });
        scene.end(lives);
    }

    pub fn main() {
        let time = Duration::from_secs(number("MM_SECONDS").unwrap_or(20));
        let first = number("MM_FIRST_SEED").unwrap_or(1);
        // Small pages: each frame is filled with poison at boot.
        let small: Vec<_> = machines()
            .iter()
            .filter(|machine| machine.page_size() == 4096)
            .collect();
        let (begin, mut seed) = (Instant::now(), first);
        while begin.elapsed() < time {
            play(small[seed as usize % small.len()], seed);
            seed += 1;
        }
        let played = seed - first;
        println!(
            "{played} scenes of {CPUS} threads on {} machines from seed {first} on in {:.1} s",
            small.len(),
            begin.elapsed().as_secs_f64()
        );
        assert!(played > 0);
    }
}
