//! What a space uses, now and at its most: for /proc/self and getrusage(2).

use core::sync::atomic::{AtomicUsize, Ordering};

use mm_core::vma::VmaFlags;

use super::{Space, page_shift};
use crate::arch::Arch;

/// What a space uses, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Mapped.
    pub mapped: usize,
    /// Mapped at its most.
    pub most_mapped: usize,
    /// Locked.
    pub locked: usize,
    /// Private or without a file, and there.
    pub anonymous: usize,
    /// Of files and shared memory, and there.
    pub file: usize,
    /// There at its most.
    pub most_resident: usize,
    /// Private and writable, without stacks.
    pub data: usize,
    /// In areas that grow down.
    pub stack: usize,
}

impl Usage {
    /// All that is there.
    #[must_use]
    pub const fn resident(&self) -> usize {
        self.anonymous + self.file
    }
}

/// What a space had at its most, in pages.
///
/// It is not counted with each page but looked at before a call that may take pages away, and when
/// somebody asks (Linux: `update_hiwater_rss`).
#[derive(Default)]
pub(super) struct Peaks {
    mapped: AtomicUsize,
    resident: AtomicUsize,
}

impl<A: Arch> Space<A> {
    /// Notes what is there now, if it is more than ever before.
    pub(super) fn note_peaks(&self) {
        let counts = self.inner.counts();
        let resident = counts.anon.get() + counts.file.get();
        // Relaxed: counts of their own.
        self.peaks.resident.fetch_max(resident, Ordering::Relaxed);
        let mapped = counts.total.get();
        self.peaks.mapped.fetch_max(mapped, Ordering::Relaxed);
    }

    /// Answers what the space uses.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.note_peaks();
        let counts = self.inner.counts();
        let stacks = self.inner.areas();
        let stacks = stacks.filter(|area| area.flags.contains(VmaFlags::GROWS_DOWN));
        Usage {
            mapped: counts.total.get(),
            most_mapped: self.peaks.mapped.load(Ordering::Relaxed),
            locked: counts.locked.get(),
            anonymous: counts.anon.get(),
            file: counts.file.get(),
            most_resident: self.peaks.resident.load(Ordering::Relaxed),
            data: counts.data.get(),
            stack: stacks.map(|area| area.range.pages()).sum(),
        }
    }

    /// Answers kibibytes of pages.
    #[must_use]
    pub fn kibibytes(pages: usize) -> usize {
        pages << (page_shift::<A>() - 10)
    }
}
