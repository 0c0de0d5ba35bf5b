//! The size of an object: who may see it, and how it changes.

use super::node::{Mapped, ObjectKind, ObjectView};
use crate::addr::{Pfn, page_size};
use crate::cx::Cx;
use crate::error::MmError;
use crate::page::{Page, PageFlags, rewritten};
use crate::platform::{PhysMemory, Platform};
use crate::sync::{Context, Ordering, WriteGuard};

/// What a change of size leaves to do.
#[must_use = "a truncation must be finished"]
#[derive(Debug)]
pub(super) enum Resized {
    /// Nothing.
    Done,
    /// Unmap the pages from [`Truncation::from`] on, private copies too, then
    /// [`ObjectView::finish_truncation`].
    Truncated(Truncation),
}

/// A truncation under way. Whoever wants to grow the object waits for its end,
/// so it must be finished, and soon.
#[must_use = "a truncation must be finished"]
#[derive(Debug)]
pub(super) struct Truncation {
    from: u64,
}

impl Truncation {
    /// Returns the first page that is past the end.
    pub(super) const fn from(&self) -> u64 {
        self.from
    }
}

impl<'c, 'm, P: Platform> ObjectView<'c, 'm, P> {
    /// Returns whether the object has a page at this offset. Takes no lock:
    /// whoever installs a page asks under the lock of its page table, so that
    /// a truncation either is seen here or finds the entry later.
    pub fn reaches(self, pgoff: u64) -> bool {
        pgoff < self.object.pages.load(Ordering::Acquire) as u64
    }

    /// Returns the size in bytes.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared.
    pub fn size(self) -> u64 {
        self.object.map.read(self.cx, self.key()).size
    }

    /// Sets the size and zeroes what lies past it in the last page. Pages past
    /// the end stay for the caller to unmap, see [`Resized`].
    ///
    /// # Errors
    /// [`MmError::TooBig`], with nothing changed.
    ///
    /// # Locks
    /// Takes `ObjectMap`, and `Radix` inside; waits for another truncation.
    pub(super) fn resize(self, size: u64) -> Result<Resized, MmError> {
        let pages = self.pages_of(size).ok_or(MmError::TooBig)?;
        let mut mapped = self.lock_size();
        let old = mapped.size;
        self.set_size_locked(&mut mapped, size, pages);
        if size >= old {
            return Ok(Resized::Done);
        }
        mapped.truncating = true;
        Ok(Resized::Truncated(Truncation { from: pages as u64 }))
    }

    /// Drops the pages that a truncation cut off, once nobody maps them.
    ///
    /// # Locks
    /// Takes `ObjectMap`, `Radix`, `Pool`, `Buddy`.
    pub(super) fn finish_truncation(self, truncation: Truncation) {
        self.drop_pages_from(truncation.from);
        self.object.map.write(self.cx, self.key()).truncating = false;
    }

    /// Takes the lock of the size while no truncation is under way: pages that
    /// one is about to drop must not be taken for pages of a grown object.
    pub(super) fn lock_size(self) -> WriteGuard<'c, Mapped, Cx<'m, P>>
    where
        'm: 'c,
    {
        let mut turns = 0u32;
        loop {
            let mapped = self.object.map.write(self.cx, self.key());
            if !mapped.truncating {
                return mapped;
            }
            drop(mapped);
            self.cx.wait_turn(turns);
            turns = turns.saturating_add(1);
        }
    }

    /// Sets the size, zeroing first what lies past the smaller of both sizes.
    pub(super) fn set_size_locked(
        self,
        mapped: &mut WriteGuard<'_, Mapped, impl Context>,
        size: u64,
        pages: usize,
    ) {
        self.zero_past(size.min(mapped.size));
        mapped.size = size;
        self.object.pages.store(pages, Ordering::Release);
    }

    /// Zeroes what the page at the end of an object holds past it: a user may
    /// have written there through a mapping, and growth must show zeros. Of a page
    /// of a file that is being read in it is noted, for [`Self::end_read`]: by then the object
    /// may have grown again. The caller holds the lock of the size exclusively.
    pub(super) fn zero_past(self, end: u64) {
        let tail = end >> self.cx.page_shift();
        let valid = self.valid_bytes(end, tail);
        if valid == 0 {
            return;
        }
        let Some(page) = self.lookup(tail).ok().flatten() else {
            return;
        };
        if page.is_uptodate() {
            self.zero_from(page.pfn(), valid);
        } else if self.object.kind() == ObjectKind::File && !cfg!(mm_mutant = "cut_is_forgotten") {
            let past = page_size(self.cx.page_shift()).saturating_sub(valid);
            let past = u32::try_from(past).unwrap_or(u32::MAX);
            page.record().user().cut(past);
        }
    }

    /// Makes a page that was read in readable for all, with zeros where it lay past
    /// the end at some time since the read began.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared; the caller owns the page's LOCKED.
    pub(super) fn end_read(self, pfn: Pfn, page: &Page, pgoff: u64) {
        // Under the lock of the size: a change before it is seen here, one after it
        // sees the page UPTODATE.
        let mapped = self.object.map.read(self.cx, self.key());
        let kept = page_size(self.cx.page_shift()).saturating_sub(page.user().take_cut() as usize);
        self.zero_from(pfn, self.valid_bytes(mapped.size, pgoff).min(kept));
        page.set(PageFlags::UPTODATE);
        drop(mapped);
    }

    /// Returns how many bytes of a page lie within a size.
    pub(super) fn valid_bytes(self, size: u64, pgoff: u64) -> usize {
        let page = page_size(self.cx.page_shift());
        let start = pgoff.checked_shl(self.cx.page_shift()).unwrap_or(u64::MAX);
        usize::try_from(size.saturating_sub(start))
            .unwrap_or(page)
            .min(page)
    }

    /// Zeroes a page from a byte on.
    pub(super) fn zero_from(self, pfn: Pfn, from: usize) {
        const ZEROS: [u8; 64] = [0; 64];
        let end = page_size(self.cx.page_shift());
        let mut at = from;
        while at < end {
            let len = end.saturating_sub(at).min(ZEROS.len());
            self.mm
                .frames()
                .memory()
                .write(pfn, at, ZEROS.get(..len).unwrap_or(&ZEROS));
            at = at.saturating_add(len);
        }
        if let Some(page) = self.mm.frames().page(pfn).filter(|_| from < end) {
            rewritten(self.cx.platform(), pfn, page);
        }
    }
}
