//! Reading and writing through the cache: what read(2) and write(2) do.
//!
//! Page by page; a page that must be read first ends the call with a ticket,
//! and the kernel calls again for the rest. A page is written under the lock of
//! the size (shared; exclusively when the object grows), so that what a
//! truncation cuts off stays cut off.

use super::cache::{CachedPage, Found, Granted, Refused};
use super::node::{ObjectKind, ObjectView};
use super::radix::Inserted;
use super::ticket::{Progress, Ticket};
use crate::addr::page_size;
use crate::error::{MmError, OutOfMemory};
use crate::page::{PageFlags, rewritten};
use crate::platform::{PhysMemory, Platform};
use crate::sync::Ordering;

/// Why a page was not done.
enum Stop<'m, P: Platform> {
    Eof,
    Wait(Ticket<'m, P>),
    Error(MmError),
}

/// What became of one attempt to write into a page.
enum Attempt {
    Done,
    /// The page or the size changed meanwhile.
    Again,
}

/// A part of one page.
#[derive(Clone, Copy)]
struct Part {
    pgoff: u64,
    at: usize,
    /// The offset of the part's end in the object.
    end: u64,
}

impl<P: Platform> From<OutOfMemory> for Stop<'_, P> {
    fn from(_: OutOfMemory) -> Self {
        Self::Wait(Ticket::Memory(1))
    }
}

impl<P: Platform> From<Refused> for Stop<'_, P> {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::OutOfMemory => OutOfMemory.into(),
            Refused::NoSpace => Self::Error(MmError::NoSpace),
        }
    }
}

impl<'c, 'm, P: Platform> ObjectView<'c, 'm, P> {
    /// Reads bytes; fewer at the end of the object. Reading a hole of a
    /// memory-only object makes no page.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared and what [`Self::find_or_create`] takes.
    pub fn read(self, offset: u64, bytes: &mut [u8]) -> Progress<'m, P> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = bytes.len().min(left);
        let mut done = 0usize;
        while done < len {
            let rest = bytes.get_mut(done..len).unwrap_or_default();
            let (part, n) = self.part(offset.saturating_add(done as u64), rest.len());
            let rest = rest.get_mut(..n).unwrap_or_default();
            match self.read_part(part, rest) {
                Ok(()) => done = done.saturating_add(n),
                Err(stop) => return stop.progress(done),
            }
        }
        Progress::done(done)
    }

    /// Writes bytes; the object grows when they go past its end. Whole pages
    /// are written without being read before. [`MmError::NoSpace`] ends it where the
    /// object's store is full.
    ///
    /// # Locks
    /// Takes `ObjectMap` and what [`Self::find_or_create`] takes.
    pub fn write(self, offset: u64, bytes: &[u8]) -> Progress<'m, P> {
        let mut done = 0usize;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let (part, n) = self.part(offset.saturating_add(done as u64), rest.len());
            match self.write_part(part, rest.get(..n).unwrap_or_default()) {
                Ok(()) => done = done.saturating_add(n),
                Err(stop) => return stop.progress(done),
            }
        }
        Progress::done(done)
    }

    /// Cuts what lies in one page off a range.
    fn part(self, offset: u64, len: usize) -> (Part, usize) {
        let page = page_size(self.cx.page_shift());
        let pgoff = offset >> self.cx.page_shift();
        let start = pgoff << self.cx.page_shift();
        let at = usize::try_from(offset.saturating_sub(start)).unwrap_or(0);
        let n = len.min(page.saturating_sub(at));
        (
            Part {
                pgoff,
                at,
                end: offset.saturating_add(n as u64),
            },
            n,
        )
    }

    fn read_part(self, part: Part, bytes: &mut [u8]) -> Result<(), Stop<'m, P>> {
        // One look: a page that a hole takes after it must not be made anew.
        let found = loop {
            match self.lookup(part.pgoff)? {
                None if self.object.kind() == ObjectKind::Memory => {
                    bytes.fill(0);
                    return Ok(());
                }
                None => break self.find_or_create(part.pgoff),
                Some(_) if !self.reaches(part.pgoff) => return Err(Stop::Eof),
                Some(page) => {
                    if let Some(found) = self.settle(page, part.pgoff)? {
                        break found;
                    }
                }
            }
        };
        match found {
            Found::Page(page) => {
                self.mm.frames().memory().read(page.pfn(), part.at, bytes);
                Ok(())
            }
            Found::Wait(ticket) => Err(Stop::Wait(ticket)),
            Found::PastEof => Err(Stop::Eof),
            Found::OutOfMemory => Err(OutOfMemory.into()),
            Found::NoSpace => Err(Refused::NoSpace.into()),
        }
    }

    fn write_part(self, part: Part, bytes: &[u8]) -> Result<(), Stop<'m, P>> {
        if i64::try_from(part.end).is_err() || self.pages_of(part.end).is_none() {
            return Err(Stop::Error(MmError::TooBig));
        }
        loop {
            let attempt = match self.lookup(part.pgoff)? {
                Some(page) => match self.settle(page, part.pgoff)? {
                    Some(Found::Page(page)) => self.write_cached(&page, part, bytes),
                    Some(Found::Wait(ticket)) => return Err(Stop::Wait(ticket)),
                    _ => Attempt::Again,
                },
                None if self.needs_old_bytes(self.size(), part, bytes.len()) => {
                    match self.find_or_create(part.pgoff) {
                        Found::Wait(ticket) => return Err(Stop::Wait(ticket)),
                        Found::OutOfMemory => return Err(OutOfMemory.into()),
                        Found::NoSpace => return Err(Refused::NoSpace.into()),
                        // It appeared, or the object was truncated.
                        Found::Page(_) | Found::PastEof => Attempt::Again,
                    }
                }
                None => match self.write_new(part, bytes) {
                    Ok(attempt) => attempt,
                    Err(refused) => {
                        let there = self.again_if_there(part.pgoff, refused)?;
                        there.unwrap_or(Attempt::Again)
                    }
                },
            };
            if let Attempt::Done = attempt {
                return Ok(());
            }
        }
    }

    /// Returns whether a page that is not cached must be read before a part
    /// of it is written: it has bytes that are not overwritten.
    fn needs_old_bytes(self, size: u64, part: Part, len: usize) -> bool {
        let old = self.valid_bytes(size, part.pgoff);
        self.object.kind() == ObjectKind::File
            && old > 0
            && (part.at > 0 || part.at.saturating_add(len) < old)
    }

    /// Writes into a page of the cache.
    fn write_cached(self, page: &CachedPage<'c, 'm, P>, part: Part, bytes: &[u8]) -> Attempt {
        let map = &self.object.map;
        let mapped = map.read(self.cx, self.key());
        if part.end <= mapped.size {
            if page.is_detached() {
                return Attempt::Again;
            }
            self.copy_in(page, part.at, bytes);
            return Attempt::Done;
        }
        drop(mapped);
        let mut mapped = self.lock_size();
        if page.is_detached() {
            return Attempt::Again;
        }
        if part.end > mapped.size {
            let pages = self.pages_of(part.end).unwrap_or(usize::MAX);
            self.set_size_locked(&mut mapped, part.end, pages);
        }
        self.copy_in(page, part.at, bytes);
        Attempt::Done
    }

    /// Writes into a page that is not in the cache and need not be read.
    fn write_new(self, part: Part, bytes: &[u8]) -> Result<Attempt, Refused> {
        let kind = self.object.kind();
        let flags = match kind {
            ObjectKind::File => PageFlags::UPTODATE,
            ObjectKind::Memory => PageFlags::LOCKED,
        };
        let page = self.new_page(part.pgoff, flags)?;
        let mut mapped = self.lock_size();
        if self.needs_old_bytes(mapped.size, part, bytes.len()) {
            return Ok(Attempt::Again);
        }
        let grows = part.end > mapped.size;
        if grows {
            // Before the page is in: it may be the one at the end.
            self.zero_past(mapped.size);
        }
        // The size cannot change now, so the page may be put in before it is
        // set. Nobody finds it before: finders ask for the size first.
        self.mm.frames().memory().write(page.pfn(), part.at, bytes);
        if self.insert(&page, part.pgoff, || true)? != Inserted::Done {
            return Ok(Attempt::Again);
        }
        if kind == ObjectKind::Memory && self.grant(&page)? == Granted::CutOff {
            return Ok(Attempt::Again);
        }
        if grows {
            mapped.size = part.end;
            let pages = self.pages_of(part.end).unwrap_or(usize::MAX);
            self.object.pages.store(pages, Ordering::Release);
        }
        self.set_dirty(&page);
        Ok(Attempt::Done)
    }

    fn copy_in(self, page: &CachedPage<'c, 'm, P>, at: usize, bytes: &[u8]) {
        self.mm.frames().memory().write(page.pfn(), at, bytes);
        rewritten(self.cx.platform(), page.pfn(), page.record());
        self.set_dirty(page);
    }
}

impl<'m, P: Platform> Stop<'m, P> {
    fn progress(self, done: usize) -> Progress<'m, P> {
        match self {
            Self::Eof => Progress::done(done),
            Self::Wait(ticket) => Progress {
                done,
                wait: Some(ticket),
                error: None,
            },
            Self::Error(error) => Progress {
                done,
                wait: None,
                error: Some(error),
            },
        }
    }
}
