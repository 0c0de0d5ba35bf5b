//! The counted handle that kernels hold.

use super::node::{Object, ObjectView, PagerFacts};
use super::size::Resized;
use super::ticket::Progress;
use super::unmap::Copies;
use crate::cx::Cx;
use crate::error::{MmError, OutOfMemory};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pool::Handle;
use core::fmt;

/// A counted reference to an object: an open file, an inode, a segment of
/// shared memory. The last one to go drops the cached pages, dirty ones too.
pub struct ObjectRef<'m, P: Platform> {
    mm: &'m Mm<P>,
    handle: Handle<Object>,
}

impl<P: Platform> Mm<P> {
    /// Makes an object.
    ///
    /// # Errors
    /// [`MmError::TooBig`], [`MmError::OutOfMemory`].
    pub fn new_object(&self, facts: PagerFacts) -> Result<ObjectRef<'_, P>, MmError> {
        let cx = self.cx();
        let handle = ObjectView::create(self, &cx, facts)?.handle();
        Ok(ObjectRef { mm: self, handle })
    }
}

impl<'m, P: Platform> ObjectView<'_, 'm, P> {
    /// Takes a reference that outlives the verb.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the count is near its end.
    pub(crate) fn try_ref(self) -> Result<ObjectRef<'m, P>, OutOfMemory> {
        self.object.get_ref()?;
        Ok(ObjectRef {
            mm: self.mm,
            handle: self.handle,
        })
    }
}

impl<'m, P: Platform> ObjectRef<'m, P> {
    /// Takes another reference.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the count is near its end.
    pub fn try_clone(&self) -> Result<Self, OutOfMemory> {
        self.object().get_ref()?;
        Ok(Self {
            mm: self.mm,
            handle: self.handle,
        })
    }

    /// Looks at the object inside a verb.
    pub fn view<'c>(&self, cx: &'c Cx<'m, P>) -> ObjectView<'c, 'm, P> {
        ObjectView::new(self.mm, cx, self.handle)
    }

    /// Returns the handle.
    pub fn handle(&self) -> Handle<Object> {
        self.handle
    }

    /// Returns the node: kind, key, rights, writers.
    pub fn object(&self) -> &'m Object {
        self.mm.objects.get(self.mm.frames(), self.handle)
    }

    /// Returns the size in bytes.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared.
    pub fn size(&self) -> u64 {
        self.view(&self.mm.cx()).size()
    }

    /// Reads bytes through the cache; fewer at the end of the object.
    ///
    /// # Locks
    /// Those of [`ObjectView::read`].
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Progress<'m, P> {
        self.view(&self.mm.cx()).read(offset, bytes)
    }

    /// Writes bytes through the cache; the object grows as needed.
    ///
    /// # Locks
    /// Those of [`ObjectView::write`].
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Progress<'m, P> {
        self.view(&self.mm.cx()).write(offset, bytes)
    }

    /// Sets the size (ftruncate(2)). What was cut off is unmapped everywhere and
    /// gone for all who read; growth shows zeros, also in a page that is being read in
    /// meanwhile. Reads that begin after growth show what the pager has: what is cut
    /// off here it drops before it answers them.
    ///
    /// # Errors
    /// [`MmError::TooBig`], with nothing changed.
    ///
    /// # Locks
    /// Takes `ObjectMap`, and table locks inside; flushes. Takes `Radix`, `Pool`, `Buddy`. Waits for
    /// another truncation.
    pub fn set_size(&self, size: u64) -> Result<(), MmError> {
        let cx = self.mm.cx();
        let view = self.view(&cx);
        #[cfg(mm_mutant = "unmap_before_size")]
        view.unmap(0, u64::MAX, Copies::Go);
        if let Resized::Truncated(truncation) = view.resize(size)? {
            #[cfg(not(mm_mutant = "unmap_before_size"))]
            view.unmap(truncation.from(), u64::MAX, Copies::Go);
            view.finish_truncation(truncation);
        }
        Ok(())
    }

    /// Frees `pages` pages from the page offset `first` on: who maps them, or reads
    /// them, finds zeros (fallocate(2), `FALLOC_FL_PUNCH_HOLE`). Copies in private areas stay, and the size.
    ///
    /// # Errors
    /// [`MmError::NotSupported`] for files: what a hole is there only their pager knows.
    /// [`MmError::OutOfMemory`] when a page has too many references: those before it are freed.
    ///
    /// # Locks
    /// As [`Self::set_size`]; waits for who has a page LOCKED, too.
    pub fn make_hole(&self, first: u64, pages: u64) -> Result<(), MmError> {
        let cx = self.mm.cx();
        self.view(&cx).make_hole(first, first.saturating_add(pages))
    }
}

impl<P: Platform> Drop for ObjectRef<'_, P> {
    fn drop(&mut self) {
        self.view(&self.mm.cx()).put();
    }
}

impl<P: Platform> fmt::Debug for ObjectRef<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectRef").field(&self.handle).finish()
    }
}
