//! The facade's real side: `core` atomics and `spin` locks.

use super::Context;

#[cfg(target_has_atomic = "64")]
pub use core::sync::atomic::AtomicU64;
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

/// A word that is written before anybody else looks: models take it as it is.
pub use core::sync::atomic::AtomicU32 as Fixed32;
/// A count that nothing is decided by: models do not interleave it.
pub use core::sync::atomic::AtomicUsize as Tally;

pub use spin::Once;

/// Tells the CPU that this is a wait loop.
pub fn spin_hint() {
    core::hint::spin_loop();
}

/// A mutex without rank or context: the facade's [`super::Mutex`] adds them.
#[derive(Debug, Default)]
pub(super) struct RawMutex<T>(spin::mutex::SpinMutex<T>);
pub(super) type RawMutexGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

impl<T> RawMutex<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    pub(super) fn try_lock(&self) -> Option<RawMutexGuard<'_, T>> {
        self.0.try_lock()
    }

    pub(super) fn lock(&self, cx: &impl Context) -> RawMutexGuard<'_, T> {
        wait(cx, || self.0.try_lock())
    }
}

/// A reader-writer lock that does not starve writers: a waiting writer holds
/// new readers back.
#[derive(Debug, Default)]
pub(super) struct RawRwLock<T> {
    writers: AtomicU32,
    lock: spin::rwlock::RwLock<T>,
}
pub(super) type RawReadGuard<'a, T> = spin::rwlock::RwLockReadGuard<'a, T>;
pub(super) type RawWriteGuard<'a, T> = spin::rwlock::RwLockWriteGuard<'a, T>;

impl<T> RawRwLock<T> {
    pub(super) const fn new(value: T) -> Self {
        Self {
            writers: AtomicU32::new(0),
            lock: spin::rwlock::RwLock::new(value),
        }
    }

    pub(super) fn try_read(&self) -> Option<RawReadGuard<'_, T>> {
        if self.writers.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.lock.try_read()
    }

    pub(super) fn try_write(&self) -> Option<RawWriteGuard<'_, T>> {
        self.lock.try_write()
    }

    pub(super) fn read(&self, cx: &impl Context) -> RawReadGuard<'_, T> {
        wait(cx, || self.try_read())
    }

    pub(super) fn write(&self, cx: &impl Context) -> RawWriteGuard<'_, T> {
        self.writers.fetch_add(1, Ordering::Relaxed);
        let guard = wait(cx, || self.lock.try_write());
        self.writers.fetch_sub(1, Ordering::Relaxed);
        guard
    }
}

/// A lock in one bit of a word that has other bits too (a page record's
/// state). The word is passed to each call: the lock itself has no size.
#[derive(Debug)]
pub struct BitLock<const BIT: u32>;

impl<const BIT: u32> BitLock<BIT> {
    /// The lock's bit in the word.
    pub const MASK: u32 = 1 << BIT;

    /// Makes the lock.
    #[expect(
        clippy::new_without_default,
        reason = "the loom side has no const constructor"
    )]
    pub const fn new() -> Self {
        Self
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self, word: &AtomicU32) -> bool {
        word.fetch_or(Self::MASK, Ordering::Acquire) & Self::MASK == 0
    }

    /// Waits for the lock.
    pub fn lock(&self, word: &AtomicU32, cx: &impl Context) {
        wait(cx, || {
            // Look before the locked instruction, so that waiters share the line.
            if word.load(Ordering::Relaxed) & Self::MASK != 0 {
                return None;
            }
            self.try_lock(word).then_some(())
        });
    }

    /// Releases the lock.
    pub fn unlock(&self, word: &AtomicU32) {
        word.fetch_and(!Self::MASK, Ordering::Release);
    }
}

fn wait<G>(cx: &impl Context, mut attempt: impl FnMut() -> Option<G>) -> G {
    let mut spins = 0u32;
    loop {
        if let Some(guard) = attempt() {
            return guard;
        }
        cx.relax(spins);
        spins = spins.saturating_add(1);
    }
}
