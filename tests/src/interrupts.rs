//! Flushes as interrupts: who flushes asks other CPUs, and waits for each of them.
//!
//! Unless a test asks for them ([`TestPlatform::with_interrupts`]), a flush edits the TLBs of all
//! CPUs at once and waits for nobody, which no machine does. With them a CPU drops
//! translations itself, where it takes interrupts:
//!
//! | the CPU | answers |
//! |---|---|
//! | runs a program, or nothing | at once |
//! | is in the kernel ([`TestPlatform::in_kernel`]) | in each turn of a wait loop (`Platform::relax`), and while it waits in a flush of its own |
//! | the same, [`Open::WherePreemptible`] | also as preemption gets allowed |
//!
//! So two CPUs that wait for each other, one of them in a flush, fail the test
//! ([`patience`](crate::patience)) unless the other's wait loop lets the flush in.
//!
//! [`TestPlatform::with_interrupts`]: crate::platform::TestPlatform::with_interrupts
//! [`TestPlatform::in_kernel`]: crate::platform::TestPlatform::in_kernel

use crate::patience::until_within;
use mm_core::platform::{CpuSet, Flush, MAX_CPUS};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longer than an answer takes, also on a busy host.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a CPU in the kernel takes interrupts besides its wait loops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// Nowhere: the kernel runs with interrupts off.
    InWaitsOnly,
    /// Where preemption is allowed: a kernel that has them off under its spin locks.
    WherePreemptible,
}

/// What one CPU is asked.
#[derive(Clone)]
struct Request {
    flush: Flush,
    /// The CPUs that have not answered.
    missing: Arc<AtomicU64>,
}

#[derive(Default)]
struct Inbox {
    in_kernel: bool,
    requests: Vec<Request>,
}

/// The interrupts of a machine. `drop_here(cpu, flush)` of each method is what a CPU does
/// to its own TLB.
pub(crate) struct Interrupts {
    open: Open,
    inboxes: Vec<Mutex<Inbox>>,
}

impl Interrupts {
    pub(crate) fn new(open: Open) -> Self {
        Self {
            open,
            inboxes: (0..MAX_CPUS).map(|_| Mutex::default()).collect(),
        }
    }

    fn inbox(&self, cpu: usize) -> MutexGuard<'_, Inbox> {
        let inbox = self.inboxes[cpu].lock();
        inbox.unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a CPU is in the kernel from here on; returns whether it was outside.
    pub(crate) fn enter(&self, cpu: usize) -> bool {
        !std::mem::replace(&mut self.inbox(cpu).in_kernel, true)
    }

    /// Notes that a CPU leaves the kernel: it answers what it still owes.
    pub(crate) fn leave(&self, cpu: usize, drop_here: impl Fn(usize, Flush)) {
        let mut inbox = self.inbox(cpu);
        for request in std::mem::take(&mut inbox.requests) {
            answer(cpu, &request, &drop_here);
        }
        inbox.in_kernel = false;
    }

    /// Takes the interrupts of a CPU that waits.
    pub(crate) fn serve(&self, cpu: usize, drop_here: impl Fn(usize, Flush)) {
        let requests = std::mem::take(&mut self.inbox(cpu).requests);
        for request in requests {
            answer(cpu, &request, &drop_here);
        }
    }

    /// Takes the interrupts of a CPU that may be preempted again.
    pub(crate) fn preemptible(&self, cpu: usize, drop_here: impl Fn(usize, Flush)) {
        if self.open == Open::WherePreemptible {
            self.serve(cpu, drop_here);
        }
    }

    /// Has all of `cpus` drop translations, and returns when they have.
    ///
    /// # Panics
    /// When one of them does not answer.
    pub(crate) fn flush(
        &self,
        me: usize,
        cpus: CpuSet,
        flush: Flush,
        drop_here: impl Fn(usize, Flush),
    ) {
        let missing = Arc::new(AtomicU64::new(0));
        for cpu in cpus.iter() {
            let mut inbox = self.inbox(cpu);
            if cpu == me || !inbox.in_kernel {
                drop_here(cpu, flush);
                continue;
            }
            missing.fetch_or(1 << cpu, Ordering::SeqCst);
            let missing = missing.clone();
            inbox.requests.push(Request { flush, missing });
        }
        let is_done = || {
            // Another CPU may be asking this one, and would wait for ever (lesson 54).
            self.serve(me, &drop_here);
            missing.load(Ordering::SeqCst) == 0
        };
        let asked: Vec<usize> = cpus.iter().filter(|&cpu| cpu != me).collect();
        let never = format!("CPU {me} asked {asked:?} to flush, and not all of them answered");
        until_within(PATIENCE, &never, is_done);
    }
}

fn answer(cpu: usize, request: &Request, drop_here: &impl Fn(usize, Flush)) {
    drop_here(cpu, request.flush);
    request.missing.fetch_and(!(1 << cpu), Ordering::SeqCst);
}
