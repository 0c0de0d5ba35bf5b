//! A mutex with a rank, taken through a context.

use super::imp::{RawMutex, RawMutexGuard};
use super::{Class, Context, Held, Rank};
use core::ops::{Deref, DerefMut};

/// A value that only the holder of the lock reaches.
#[derive(Debug)]
pub struct Mutex<T> {
    class: Class,
    raw: RawMutex<T>,
}

impl<T> Mutex<T> {
    #[cfg(not(loom))]
    /// Makes an unlocked mutex of a class.
    pub const fn new(class: Class, value: T) -> Self {
        Self {
            class,
            raw: RawMutex::new(value),
        }
    }

    #[cfg(loom)]
    /// Makes an unlocked mutex of a class.
    pub fn new(class: Class, value: T) -> Self {
        Self {
            class,
            raw: RawMutex::new(value),
        }
    }

    /// Takes the lock; `key` orders locks of the same class.
    ///
    /// # Locks
    /// Takes `(class, key)`; waits in [`Context::relax`]. Preemption is off
    /// until release when the class is inner.
    pub fn lock<'a, C: Context>(&'a self, cx: &'a C, key: u32) -> MutexGuard<'a, T, C> {
        let rank = Rank::new(self.class, key);
        #[cfg(not(mm_mutant = "rank_after_wait"))]
        let held = Held::enter(cx, rank);
        let raw = self.raw.lock(cx);
        #[cfg(mm_mutant = "rank_after_wait")]
        let held = Held::enter(cx, rank);
        MutexGuard { raw, _held: held }
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock<'a, C: Context>(&'a self, cx: &'a C, key: u32) -> Option<MutexGuard<'a, T, C>> {
        // Trying cannot deadlock, so the rank is noted only on success.
        let held = Held::attempt(cx, Rank::new(self.class, key));
        let raw = self.raw.try_lock()?;
        Some(MutexGuard { raw, _held: held })
    }
}

/// Proof that the lock is held; the way to its value.
pub struct MutexGuard<'a, T, C: Context> {
    // Dropped first: the lock is released, then the rank and preemption.
    raw: RawMutexGuard<'a, T>,
    _held: Held<'a, C>,
}

impl<T, C: Context> Deref for MutexGuard<'_, T, C> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.raw
    }
}

impl<T, C: Context> DerefMut for MutexGuard<'_, T, C> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.raw
    }
}
