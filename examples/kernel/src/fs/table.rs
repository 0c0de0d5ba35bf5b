//! A process's file descriptors: small numbers for shared open files.
//!
//! `O` is the open file (`Arc<OpenFile>` in the kernel); what descriptors of one file
//! share (offset, status flags) lives there, what each has of its own (close-on-exec)
//! lives here. Closing a descriptor hands the open file back to the caller, so that its
//! last reference is dropped with no lock held.

use alloc::vec::Vec;
use core::ops::Range;

use crate::errno::{Errno, Result};
use crate::limits::DESCRIPTORS;

/// Whether a descriptor survives exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExec {
    /// It stays open.
    Keep,
    /// It is closed (FD_CLOEXEC).
    Close,
}

/// The descriptors of one process.
pub struct Table<O> {
    slots: Vec<Option<(O, OnExec)>>,
}

impl<O: Clone> Table<O> {
    /// Makes an empty table.
    #[must_use]
    pub const fn new() -> Self {
        Table { slots: Vec::new() }
    }

    /// Copies the table for fork.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn duplicate(&self) -> Result<Self> {
        let mut slots = Vec::new();
        slots
            .try_reserve_exact(self.slots.len())
            .map_err(|_| Errno::ENOMEM)?;
        slots.extend(self.slots.iter().cloned());
        Ok(Table { slots })
    }

    /// Finds the open file of `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: usize) -> Result<&O> {
        self.slots
            .get(fd)
            .and_then(|slot| slot.as_ref())
            .map(|(file, _)| file)
            .ok_or(Errno::EBADF)
    }

    /// Enters `file` at the lowest free number of `among`.
    ///
    /// # Errors
    /// `EMFILE`; `EINVAL` when there is none among them; `ENOMEM`.
    pub fn insert(&mut self, file: O, among: Range<usize>, on_exec: OnExec) -> Result {
        let free = self.free(among)?;
        *self.slot(free)? = Some((file, on_exec));
        Ok(free)
    }

    /// Answers the lowest free number of `among`.
    ///
    /// # Errors
    /// `EMFILE`; `EINVAL` when there is none among them.
    pub fn free(&self, among: Range<usize>) -> Result {
        let mut among = among.start..among.end.min(DESCRIPTORS);
        if among.is_empty() {
            return Err(Errno::EINVAL);
        }
        among.find(|&fd| self.get(fd).is_err()).ok_or(Errno::EMFILE)
    }

    /// Enters `file` at `fd` and answers what stood there (dup2).
    ///
    /// # Errors
    /// `EBADF` when `fd` is beyond the limit; `ENOMEM`.
    pub fn replace(&mut self, fd: usize, file: O, on_exec: OnExec) -> Result<Option<O>> {
        if fd >= DESCRIPTORS {
            return Err(Errno::EBADF);
        }
        Ok(self.slot(fd)?.replace((file, on_exec)).map(|(old, _)| old))
    }

    fn slot(&mut self, fd: usize) -> Result<&mut Option<(O, OnExec)>> {
        if fd >= self.slots.len() {
            let more = fd + 1 - self.slots.len();
            self.slots.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize_with(fd + 1, || None);
        }
        self.slots.get_mut(fd).ok_or(Errno::EBADF)
    }

    /// Frees `fd` and answers its open file.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&mut self, fd: usize) -> Result<O> {
        self.slots
            .get_mut(fd)
            .and_then(Option::take)
            .map(|(file, _)| file)
            .ok_or(Errno::EBADF)
    }

    /// Answers the close-on-exec mark of `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn on_exec(&self, fd: usize) -> Result<OnExec> {
        self.slots
            .get(fd)
            .and_then(|slot| slot.as_ref())
            .map(|(_, mark)| *mark)
            .ok_or(Errno::EBADF)
    }

    /// Sets the close-on-exec mark of `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_on_exec(&mut self, fd: usize, on_exec: OnExec) -> Result<()> {
        let slot = self
            .slots
            .get_mut(fd)
            .and_then(|slot| slot.as_mut())
            .ok_or(Errno::EBADF)?;
        slot.1 = on_exec;
        Ok(())
    }

    /// Frees the first descriptor that exec closes and answers its open file; called
    /// until there is none.
    pub fn remove_on_exec(&mut self) -> Option<O> {
        let marked = |slot: &&mut Option<(O, OnExec)>| matches!(slot, Some((_, OnExec::Close)));
        self.slots
            .iter_mut()
            .find(marked)
            .and_then(Option::take)
            .map(|(file, _)| file)
    }
}

impl<O: Clone> Default for Table<O> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{DESCRIPTORS, Errno, OnExec, Table};

    #[test]
    fn the_lowest_free_number_is_taken() {
        let mut table = Table::new();
        for expected in 0..3 {
            assert_eq!(table.insert('a', 0..9, OnExec::Keep), Ok(expected));
        }
        assert_eq!(table.remove(1), Ok('a'));
        assert_eq!(table.insert('b', 0..9, OnExec::Keep), Ok(1));
        assert_eq!(table.insert('c', 10..11, OnExec::Close), Ok(10));
        assert_eq!(
            table.insert('d', DESCRIPTORS..usize::MAX, OnExec::Keep),
            Err(Errno::EINVAL)
        );
        assert_eq!(table.insert('d', 0..3, OnExec::Keep), Err(Errno::EMFILE));
        assert_eq!(table.insert('d', 3..3, OnExec::Keep), Err(Errno::EINVAL));
        assert_eq!(table.remove(5), Err(Errno::EBADF));
        assert_eq!(table.get(usize::MAX), Err(Errno::EBADF));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Table::new();
        for _ in 0..DESCRIPTORS {
            table.insert((), 0..usize::MAX, OnExec::Keep).unwrap();
        }
        let full = table.insert((), 0..usize::MAX, OnExec::Keep);
        assert_eq!(full, Err(Errno::EMFILE));
        assert_eq!(
            table.replace(DESCRIPTORS, (), OnExec::Keep),
            Err(Errno::EBADF)
        );
    }

    #[test]
    fn exec_closes_the_marked() {
        let mut table = Table::new();
        table.insert('a', 0..9, OnExec::Close).unwrap();
        table.insert('b', 0..9, OnExec::Keep).unwrap();
        assert_eq!(table.replace(4, 'c', OnExec::Close), Ok(None));
        assert_eq!(table.replace(4, 'd', OnExec::Close), Ok(Some('c')));
        let mut child = table.duplicate().unwrap();
        assert_eq!(child.remove_on_exec(), Some('a'));
        assert_eq!(child.remove_on_exec(), Some('d'));
        assert_eq!(child.remove_on_exec(), None);
        assert_eq!(child.get(1), Ok(&'b'));
        assert_eq!(table.get(0), Ok(&'a'));
    }
}
