//! A reader-writer lock with a rank, taken through a context.
//!
//! A waiting writer holds new readers back, so writers do not starve; hence a
//! holder of a read guard must never take the same lock again.

use super::imp::{RawReadGuard, RawRwLock, RawWriteGuard};
use super::{Class, Context, Held, Rank};
use core::ops::{Deref, DerefMut};

/// A value that many read or one writes. Only outer classes.
#[derive(Debug)]
pub struct RwLock<T> {
    class: Class,
    raw: RawRwLock<T>,
}

impl<T> RwLock<T> {
    #[cfg(not(loom))]
    /// Makes an unlocked lock of a class.
    pub const fn new(class: Class, value: T) -> Self {
        Self {
            class,
            raw: RawRwLock::new(value),
        }
    }

    #[cfg(loom)]
    /// Makes an unlocked lock of a class.
    pub fn new(class: Class, value: T) -> Self {
        Self {
            class,
            raw: RawRwLock::new(value),
        }
    }

    /// Takes the lock for reading; `key` orders locks of the same class.
    ///
    /// # Locks
    /// Takes `(class, key)` shared; waits in [`Context::relax`].
    pub fn read<'a, C: Context>(&'a self, cx: &'a C, key: u32) -> ReadGuard<'a, T, C> {
        let held = Held::enter(cx, Rank::new(self.class, key));
        ReadGuard {
            raw: self.raw.read(cx),
            _held: held,
        }
    }

    /// Takes the lock for writing; `key` orders locks of the same class.
    ///
    /// # Locks
    /// Takes `(class, key)` alone; waits in [`Context::relax`].
    pub fn write<'a, C: Context>(&'a self, cx: &'a C, key: u32) -> WriteGuard<'a, T, C> {
        let held = Held::enter(cx, Rank::new(self.class, key));
        WriteGuard {
            raw: self.raw.write(cx),
            _held: held,
        }
    }

    /// Takes the lock for reading if no writer holds or awaits it.
    pub fn try_read<'a, C: Context>(&'a self, cx: &'a C, key: u32) -> Option<ReadGuard<'a, T, C>> {
        let held = Held::attempt(cx, Rank::new(self.class, key));
        Some(ReadGuard {
            raw: self.raw.try_read()?,
            _held: held,
        })
    }

    /// Takes the lock for writing if nobody holds it.
    pub fn try_write<'a, C: Context>(
        &'a self,
        cx: &'a C,
        key: u32,
    ) -> Option<WriteGuard<'a, T, C>> {
        let held = Held::attempt(cx, Rank::new(self.class, key));
        Some(WriteGuard {
            raw: self.raw.try_write()?,
            _held: held,
        })
    }

    /// Takes the lock for writing where nobody else can know it yet: the
    /// space of a fork's child.
    pub fn write_fresh<'a, C: Context>(&'a self, cx: &'a C, key: u32) -> WriteGuard<'a, T, C> {
        let held = Held::attempt(cx, Rank::new(self.class, key));
        WriteGuard {
            raw: self.raw.write(cx),
            _held: held,
        }
    }
}

/// Proof that the lock is held for reading.
pub struct ReadGuard<'a, T, C: Context> {
    raw: RawReadGuard<'a, T>,
    _held: Held<'a, C>,
}

/// Proof that the lock is held for writing.
pub struct WriteGuard<'a, T, C: Context> {
    raw: RawWriteGuard<'a, T>,
    _held: Held<'a, C>,
}

impl<T, C: Context> Deref for ReadGuard<'_, T, C> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.raw
    }
}

impl<T, C: Context> Deref for WriteGuard<'_, T, C> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.raw
    }
}

impl<T, C: Context> DerefMut for WriteGuard<'_, T, C> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.raw
    }
}
