//! Counters of one machine: what happened, never what is.

use crate::sync::{Ordering, Tally};
use core::fmt;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        const NAMES: &[&str] = &[$($text,)*];
        const ALL: &[Counter] = &[$(Counter::$name,)*];
    };
}

counters! {
    /// Faults that took no space lock.
    FaultFast = "faults: without the space lock",
    /// Areas of faults that were where the CPU had found them before.
    FaultHint = "faults: area remembered",
    /// Faults that took the space lock.
    FaultSlow = "faults: with the space lock",
    /// Faults that found the address unmapped or the access not allowed.
    FaultSignal = "faults answered by a signal",
    /// Anonymous reads answered by the zero page.
    FaultZero = "faults: zero page",
    /// Anonymous first writes.
    FaultAnon = "faults: anonymous",
    /// File pages mapped from the cache.
    FaultFile = "faults: file, cached",
    /// Faults that had to wait for a transfer.
    FaultWait = "faults: waited for a read",
    /// Pages mapped around a file fault.
    FaultAround = "pages mapped around file faults",
    /// Faults on entries that were already good.
    FaultSpurious = "faults: spurious",
    /// Stack growth.
    FaultGrow = "faults: stack growth",
    /// Pages of shared objects, and of devices, made writable by a first store.
    FaultShared = "faults: shared page made writable",
    /// Write faults that copied the page.
    CowCopy = "copy-on-write: copies",
    /// Write faults that found themselves the only owner.
    CowReuse = "copy-on-write: reuses",
    /// Address spaces forked.
    Fork = "forks",
    /// Entries copied at fork.
    ForkPages = "entries shared at fork",
    /// Pages that were to be read from a pager.
    CacheRead = "page cache: reads",
    /// Reads that someone else had started.
    CacheJoin = "page cache: reads joined",
    /// Reads that failed.
    CacheError = "page cache: reads failed",
    /// Pages dropped by truncation and at the end of objects.
    CacheDrop = "page cache: pages dropped",
    /// Verbs and faults that ended for want of memory.
    OutOfMemory = "out of memory",
}

/// One count of each kind: one CPU's, or those of all CPUs that have no node.
#[derive(Debug)]
pub(crate) struct Counts {
    counts: [Tally; ALL.len()],
}

impl Counts {
    /// Makes counters at zero.
    pub(crate) const fn new() -> Self {
        Self {
            counts: [const { Tally::new(0) }; ALL.len()],
        }
    }

    /// Counts several. Atomic, so that a thread that moves does no harm.
    pub(crate) fn add(&self, what: Counter, n: usize) {
        if let Some(c) = self.counts.get(what as usize) {
            c.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Returns a count.
    pub(crate) fn get(&self, what: Counter) -> usize {
        self.counts
            .get(what as usize)
            .map_or(0, |c| c.load(Ordering::Relaxed))
    }
}

/// Writes one line for each counter that is not zero.
///
/// # Errors
/// Those of the formatter.
pub(crate) fn write(f: &mut fmt::Formatter<'_>, get: impl Fn(Counter) -> usize) -> fmt::Result {
    for (what, name) in ALL.iter().zip(NAMES) {
        let n = get(*what);
        if n > 0 {
            writeln!(f, "{n:>10}  {name}")?;
        }
    }
    Ok(())
}
