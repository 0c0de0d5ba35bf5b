//! The facade's model side: loom. Locks block in loom's scheduler instead of
//! spinning, so that models finish.

use super::Context;

pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// A word that is written before anybody else looks: models take it as it is.
pub use core::sync::atomic::AtomicU32 as Fixed32;
/// A count that nothing is decided by: models do not interleave it.
pub use core::sync::atomic::AtomicUsize as Tally;

/// Lets another thread of the model run.
pub fn spin_hint() {
    loom::thread::yield_now();
}

#[derive(Debug)]
pub(super) struct RawMutex<T>(loom::sync::Mutex<T>);
pub(super) type RawMutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

impl<T> RawMutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(super) fn try_lock(&self) -> Option<RawMutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }

    pub(super) fn lock(&self, _cx: &impl Context) -> RawMutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[derive(Debug)]
pub(super) struct RawRwLock<T>(loom::sync::RwLock<T>);
pub(super) type RawReadGuard<'a, T> = loom::sync::RwLockReadGuard<'a, T>;
pub(super) type RawWriteGuard<'a, T> = loom::sync::RwLockWriteGuard<'a, T>;

impl<T> RawRwLock<T> {
    pub(super) fn new(value: T) -> Self {
        Self(loom::sync::RwLock::new(value))
    }

    pub(super) fn try_read(&self) -> Option<RawReadGuard<'_, T>> {
        self.0.try_read().ok()
    }

    pub(super) fn try_write(&self) -> Option<RawWriteGuard<'_, T>> {
        self.0.try_write().ok()
    }

    pub(super) fn read(&self, _cx: &impl Context) -> RawReadGuard<'_, T> {
        self.0.read().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn write(&self, _cx: &impl Context) -> RawWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(|e| e.into_inner())
    }
}

/// The model of a lock in one bit of a word: the bit is kept, so that readers
/// of the word see it, but waiting is loom's.
#[derive(Debug)]
pub struct BitLock<const BIT: u32> {
    held: loom::sync::Mutex<bool>,
    freed: loom::sync::Condvar,
}

impl<const BIT: u32> BitLock<BIT> {
    /// The lock's bit in the word.
    pub const MASK: u32 = 1 << BIT;

    /// Makes the lock.
    pub fn new() -> Self {
        Self {
            held: loom::sync::Mutex::new(false),
            freed: loom::sync::Condvar::new(),
        }
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self, word: &AtomicU32) -> bool {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        if *held {
            return false;
        }
        *held = true;
        word.fetch_or(Self::MASK, Ordering::Acquire);
        true
    }

    /// Waits for the lock.
    pub fn lock(&self, word: &AtomicU32, _cx: &impl Context) {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        while *held {
            held = self.freed.wait(held).unwrap_or_else(|e| e.into_inner());
        }
        *held = true;
        word.fetch_or(Self::MASK, Ordering::Acquire);
    }

    /// Releases the lock.
    pub fn unlock(&self, word: &AtomicU32) {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        word.fetch_and(!Self::MASK, Ordering::Release);
        *held = false;
        self.freed.notify_one();
    }
}
