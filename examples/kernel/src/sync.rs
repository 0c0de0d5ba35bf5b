//! The kernel's lock.
//!
//! # No deadlock with a flush
//!
//! Kernel mode runs with interrupts off. A CPU that flushes other CPUs' TLBs waits for their
//! answers, perhaps while it holds a lock; a CPU that waits for that lock cannot take the
//! interrupt that asks for the answer. So whoever waits serves: each turn of each wait loop
//! calls what the architecture gave to [`serve_with`], or lets interrupts in where no lock is held.
//!
//! | who waits | what for | serves by |
//! |---|---|---|
//! | [`Mutex::lock`] | a lock of this kernel | [`Serve`] |
//! | mm-core | its locks, a grace period | `Platform::relax` |
//! | `Platform::flush` | the answers of other CPUs | its own wait loop |
//! | [`Turn::take`](crate::sched::turn::Turn::take) | a file's turn | `Arch::poll_interrupts` |
//! | `System::relieve_memory` | a victim's memory | `Arch::poll_interrupts` |
//! | [`Startup`](crate::startup::Startup) | a CPU's start | [`wait_turn`] |
//! | `System::idle` | the other CPUs' end | [`wait_turn`] |
//! | the idle loop, user mode | – | interrupts are on |
//!
//! There is no other wait loop in the kernel, hence each CPU that is asked answers after a
//! bounded time, whatever it holds, and serving takes no lock. For that reason every lock of the
//! kernel, also in the architectures' parts, is this one. (What only a device ends, such as the
//! serial port's readiness, is bounded too.)
//!
//! Where other CPUs are told by hardware or firmware (Arm's broadcasts, RISC-V's SBI), nothing
//! is registered, and waiting only waits.

use spin::{Once, RelaxStrategy};

/// A lock whose waiters serve.
pub type Mutex<T> = spin::mutex::Mutex<T, Serve>;

/// The proof that it is held.
pub type MutexGuard<'a, T> = spin::mutex::MutexGuard<'a, T, Serve>;

/// What a waiter does in each turn.
pub struct Serve;

static SERVE: Once<fn()> = Once::new();

impl RelaxStrategy for Serve {
    fn relax() {
        wait_turn();
    }
}

/// Has every waiter call `serve`, which answers the flushes that other CPUs asked of this one
/// and takes no lock. Called once, before the other CPUs are started.
pub fn serve_with(serve: fn()) {
    SERVE.call_once(|| serve);
}

/// One turn of a wait loop.
pub fn wait_turn() {
    if let Some(serve) = SERVE.get() {
        serve();
    }
    core::hint::spin_loop();
}

#[cfg(test)]
mod tests {
    use super::{Mutex, serve_with};
    use std::sync::atomic::{AtomicUsize, Ordering};

    static SERVED: AtomicUsize = AtomicUsize::new(0);
    static LOCK: Mutex<()> = Mutex::new(());

    /// The holder waits for an answer that only the waiter can give.
    #[test]
    fn a_waiter_serves() {
        serve_with(|| {
            SERVED.fetch_add(1, Ordering::Relaxed);
        });
        let held = LOCK.lock();
        let waiter = std::thread::spawn(|| drop(LOCK.lock()));
        while SERVED.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        drop(held);
        waiter.join().unwrap();
    }
}
