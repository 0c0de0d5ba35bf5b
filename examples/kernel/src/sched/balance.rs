//! Which CPU a task runs on.
//!
//! A task that wakes runs where it ran, unless that CPU is busy and another one rests. For the
//! rest there is the balancer:
//!
//! ```text
//!   tick of a CPU, every BALANCE_TICKS ─► wants_balance
//!   door to user mode, idle loop        ─► balance: busiest queue ─ detach ─► attach ─ idlest queue
//! ```
//! The interrupt only raises the wish; the work is done where nothing is held. A CPU that runs
//! out of tasks balances at once. A detached task is in no queue for a moment, known to the CPU
//! that moves it alone, so that two run queues are never held at once. Its address space follows
//! when it is next chosen: the new CPU activates it.

use core::sync::atomic::Ordering;

use crate::arch::Arch;
use crate::system::System;

/// Ticks between two looks of one CPU at the others' queues.
const BALANCE_TICKS: u64 = 8;

/// Tells whether a CPU shall look at this tick; the CPUs take turns.
#[must_use]
pub fn is_due(tick: u64, cpu: usize) -> bool {
    (tick + cpu as u64) % BALANCE_TICKS == 0
}

/// How many tasks go from a queue of `busiest` tasks to one of `idlest`, so that the two differ
/// by one at most.
#[must_use]
pub const fn surplus(busiest: usize, idlest: usize) -> usize {
    busiest.saturating_sub(idlest) / 2
}

impl<A: Arch> System<A> {
    /// Chooses the CPU on which a task wakes that ran on `home`.
    pub(super) fn place_for(&self, home: usize) -> usize {
        let rests = |number: &usize| {
            self.cpus
                .get(*number)
                .is_some_and(|cpu| cpu.runs() && cpu.resting.load(Ordering::Relaxed))
        };
        if rests(&home) {
            return home;
        }
        (0..self.cpus.len()).find(rests).unwrap_or(home)
    }

    /// Puts a task that just came to be into the run queue of the idlest CPU.
    pub fn start_task(&self, task: &alloc::sync::Arc<crate::task::Task<A>>) {
        let (idlest, _) = self.extremes();
        task.cpu.store(idlest, Ordering::Relaxed);
        self.put(idlest, task.clone());
    }

    /// Balances if a tick wished it.
    pub(super) fn balance_if_due(&self) {
        if self.this_cpu().wants_balance.swap(false, Ordering::Relaxed) {
            self.balance();
        }
    }

    /// Takes tasks from the busiest CPU's queue to the idlest one's, if they differ.
    pub(super) fn balance(&self) {
        // One at a time: two would see the same surplus. Who comes second need not.
        let Some(_alone) = self.balancing.try_lock() else {
            return;
        };
        let (idlest, busiest) = self.extremes();
        let load = |number: usize| self.cpus.get(number).map_or(0, super::Cpu::load);
        for _ in 0..surplus(load(busiest), load(idlest)) {
            let Some(task) = self.detach(busiest) else {
                return;
            };
            self.moves.balanced.fetch_add(1, Ordering::Relaxed);
            self.put(idlest, task);
        }
    }

    /// Takes the task that has run longest ago from a queue, of those that are on no CPU.
    fn detach(&self, from: usize) -> Option<alloc::sync::Arc<crate::task::Task<A>>> {
        let mut queue = self.cpus.get(from)?.queue.lock();
        // Acquire: its registers are saved.
        let at = queue
            .iter()
            .position(|task| !task.on_cpu.load(Ordering::Acquire))?;
        queue.remove(at)
    }

    /// Finds the running CPUs with least and with most to do.
    fn extremes(&self) -> (usize, usize) {
        let here = self.arch.cpu();
        let (mut least, mut most) = ((usize::MAX, here), (0, here));
        for (number, cpu) in self.cpus.iter().enumerate().filter(|(_, cpu)| cpu.runs()) {
            let load = cpu.load();
            if load < least.0 {
                least = (load, number);
            }
            if load > most.0 {
                most = (load, number);
            }
        }
        (least.1, most.1)
    }
}

#[cfg(test)]
mod tests {
    use super::{BALANCE_TICKS, is_due, surplus};

    #[test]
    fn queues_differ_by_one_at_most_afterwards() {
        for (busiest, idlest) in [(0, 0), (1, 0), (2, 0), (5, 2), (9, 9), (3, 7)] {
            let moved = surplus(busiest, idlest);
            let after = (busiest - moved, idlest + moved);
            assert!(after.0.abs_diff(after.1) <= busiest.abs_diff(idlest));
            assert!(busiest < idlest || after.0 - after.1 <= 1);
        }
    }

    #[test]
    fn each_cpu_looks_once_in_a_period() {
        for cpu in 0..8 {
            let due = (0..BALANCE_TICKS).filter(|&tick| is_due(tick, cpu));
            assert_eq!(due.count(), 1);
        }
    }
}
