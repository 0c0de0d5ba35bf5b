//! A lock that may be held over a sleep: whose turn it is to use a file's offset, or to append.
//!
//! A task that waits for it lets interrupts and others in between; so it is for what tasks seldom
//! want at the same time, and who takes it holds no lock but other turns. It is held by tasks
//! inside one system call and given back before the door, so that no thread ends with it.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::Arch;
use crate::system::System;

/// The lock.
#[derive(Default)]
pub struct Turn(AtomicBool);

/// The proof that it is this task's turn.
pub struct Held<'a>(&'a Turn);

impl Turn {
    /// Makes a lock that nobody holds.
    #[must_use]
    pub const fn new() -> Self {
        Turn(AtomicBool::new(false))
    }

    /// Waits until nobody else holds it; the caller holds no lock but other turns.
    pub fn take<A: Arch>(&self, system: &System<A>) -> Held<'_> {
        // Acquire: what the last holder did is done.
        while self.0.swap(true, Ordering::Acquire) {
            // With nobody else to run here, the holder may wait for this CPU's answer.
            system.arch.poll_interrupts();
            system.yield_now();
        }
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}
