//! Transfers as data: what to wait for.
//!
//! Nothing in this crate waits for I/O. A verb that needs a page that is not
//! there returns a [`Ticket`]:
//!
//! | ticket | who gets it | what to do |
//! |---|---|---|
//! | `Start` | the first who wants the page | read it into the request, `finish`, retry |
//! | `Join` | all others meanwhile | sleep until [`Platform::wake`] with the key, retry |
//! | `Memory` | who ran out of frames | free some, retry |
//!
//! A sleeper registers first and then asks [`Mm::is_pending`], because
//! the transfer may have ended before. When a transfer fails, the one who
//! finished it answers for it (SIGBUS, `EIO`); who had joined starts anew.

use super::node::{Object, ObjectView};
use crate::addr::{Pfn, page_size};
use crate::error::MmError;
use crate::mm::Mm;
use crate::page::PageFlags;
use crate::platform::{PhysMemory, Platform};
use crate::pool::Handle;
use crate::stats::Counter;
use core::fmt;

/// The name of one transfer under way: whoever joined it is woken with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TicketKey {
    /// The frame that is being filled or written.
    pub frame: Pfn,
}

/// What a verb has to wait for.
#[must_use = "whoever drops a request fails it"]
pub enum Ticket<'m, P: Platform> {
    /// The caller owns the transfer.
    Start(IoRequest<'m, P>),
    /// The transfer is someone else's.
    Join(TicketKey),
    /// So many frames are missing.
    Memory(usize),
}

/// How far a verb over several pages came.
#[must_use = "a verb that waits is not done"]
pub struct Progress<'m, P: Platform> {
    /// Bytes (or pages, where the verb says so) that are done.
    pub done: usize,
    /// What to wait for before going on behind `done`.
    pub wait: Option<Ticket<'m, P>>,
    /// What ended the verb at `done`.
    pub error: Option<MmError>,
}

impl<P: Platform> Progress<'_, P> {
    /// A verb that came to its end.
    pub const fn done(done: usize) -> Self {
        Self {
            done,
            wait: None,
            error: None,
        }
    }
}

/// A transfer failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TicketError;

/// One page to be read. Whoever holds it owns the page's LOCKED state.
///
/// It keeps the page and its object alive, may travel to another thread, and
/// must be [finished](Self::finish); dropping it finishes it with an error.
/// Drop it like any verb: with no lock of this crate held, and not from an interrupt
/// handler, which may have interrupted a verb that holds what it takes.
pub struct IoRequest<'m, P: Platform> {
    mm: &'m Mm<P>,
    object: Handle<Object>,
    frame: Pfn,
    pgoff: u64,
}

impl<'m, P: Platform> IoRequest<'m, P> {
    /// Wraps a page that the caller locked, with the caller's reference to it;
    /// takes a reference to the object. On an error the caller keeps all.
    pub(super) fn new(
        view: ObjectView<'_, 'm, P>,
        frame: Pfn,
        pgoff: u64,
    ) -> Result<Self, crate::error::OutOfMemory> {
        view.object.get_ref()?;
        view.mm.stats().count(Counter::CacheRead);
        Ok(Self {
            mm: view.mm,
            object: view.handle,
            frame,
            pgoff,
        })
    }

    /// Returns the pager's name for the object.
    pub fn key(&self) -> u64 {
        self.mm.objects.get(self.mm.frames(), self.object).key()
    }

    /// Returns the offset to read from, in pages.
    pub fn pgoff(&self) -> u64 {
        self.pgoff
    }

    /// Returns the offset to read from, in bytes.
    pub fn offset(&self) -> u64 {
        self.pgoff << self.mm.frames().page_shift()
    }

    /// Returns the name under which others join.
    pub fn ticket_key(&self) -> TicketKey {
        TicketKey { frame: self.frame }
    }

    /// Puts bytes into the page, `offset` bytes from its start. What is not
    /// filled stays zero; what would lie past the page is ignored, and so is what lies
    /// past the end of the object now or at any time until [`Self::finish`].
    pub fn fill(&mut self, offset: usize, bytes: &[u8]) {
        let room = page_size(self.mm.frames().page_shift()).saturating_sub(offset);
        let fits = bytes.get(..bytes.len().min(room)).unwrap_or(bytes);
        if !fits.is_empty() {
            self.mm.frames().memory().write(self.frame, offset, fits);
        }
    }

    /// Ends the transfer: the page becomes readable for all, or goes. Wakes
    /// all who joined.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared, `Radix`, `Pool`, `Buddy`.
    pub fn finish(self, result: Result<(), TicketError>) {
        self.end(result);
        core::mem::forget(self);
    }

    fn end(&self, result: Result<(), TicketError>) {
        let cx = self.mm.cx();
        let view = ObjectView::new(self.mm, &cx, self.object);
        if let Some(page) = self.mm.frames().page(self.frame) {
            match result {
                Ok(()) => view.end_read(self.frame, page, self.pgoff),
                Err(TicketError) => {
                    self.mm.stats().count(Counter::CacheError);
                    page.set(PageFlags::ERROR);
                    let _or_truncated = view.detach(self.frame, self.pgoff);
                }
            }
            #[cfg(mm_mutant = "wake_before_unlock")]
            self.mm.platform().wake(self.ticket_key());
            page.unlock_page();
            #[cfg(not(mm_mutant = "wake_before_unlock"))]
            if result.is_ok() || !cfg!(mm_mutant = "failure_wakes_nobody") {
                self.mm.platform().wake(self.ticket_key());
            }
            view.put_page(self.frame);
        }
        view.put();
    }
}

impl<P: Platform> Drop for IoRequest<'_, P> {
    fn drop(&mut self) {
        self.end(Err(TicketError));
    }
}

impl<P: Platform> fmt::Debug for Ticket<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(request) => f.debug_tuple("Start").field(request).finish(),
            Self::Join(key) => f.debug_tuple("Join").field(key).finish(),
            Self::Memory(frames) => f.debug_tuple("Memory").field(frames).finish(),
        }
    }
}

impl<P: Platform> fmt::Debug for Progress<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("done", &self.done)
            .field("wait", &self.wait)
            .field("error", &self.error)
            .finish()
    }
}

impl<P: Platform> fmt::Debug for IoRequest<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoRequest")
            .field("object", &self.object)
            .field("frame", &self.frame)
            .field("pgoff", &self.pgoff)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Mm<P> {
    /// Returns whether a transfer is still under way. A sleeper registers
    /// first and asks then.
    pub fn is_pending(&self, key: TicketKey) -> bool {
        self.frames()
            .page(key.frame)
            .is_some_and(|page| page.has(PageFlags::LOCKED))
    }
}
