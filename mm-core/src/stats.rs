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
    /// Shared file pages made writable by a first store.
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

/// The counters of one machine.
#[derive(Debug)]
pub struct Stats {
    counts: [Tally; ALL.len()],
}

impl Stats {
    /// Makes counters at zero.
    pub const fn new() -> Self {
        Self {
            counts: [const { Tally::new(0) }; ALL.len()],
        }
    }

    /// Counts one.
    pub(crate) fn count(&self, what: Counter) {
        self.add(what, 1);
    }

    /// Counts several.
    pub(crate) fn add(&self, what: Counter, n: usize) {
        if let Some(c) = self.counts.get(what as usize) {
            c.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Returns a count.
    pub fn get(&self, what: Counter) -> usize {
        self.counts
            .get(what as usize)
            .map_or(0, |c| c.load(Ordering::Relaxed))
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Stats {
    /// Writes one line for each counter that is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, name) in ALL.iter().zip(NAMES) {
            let n = self.get(*what);
            if n > 0 {
                writeln!(f, "{n:>10}  {name}")?;
            }
        }
        Ok(())
    }
}
