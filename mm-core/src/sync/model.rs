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
pub struct BitLock<const BIT: u32>(loom::sync::Mutex<()>);

/// Loom's lock, held from before the bit is set until after it is cleared.
#[derive(Debug)]
#[must_use = "kept until the lock is released"]
pub struct BitHeld<'a> {
    _guard: loom::sync::MutexGuard<'a, ()>,
}

impl<const BIT: u32> BitLock<BIT> {
    /// The lock's bit in the word.
    pub const MASK: u32 = 1 << BIT;

    /// Makes the lock.
    pub fn new() -> Self {
        Self(loom::sync::Mutex::new(()))
    }

    /// Waits for the lock.
    pub fn lock(&self, word: &AtomicU32, _cx: &impl Context) -> BitHeld<'_> {
        let _guard = self.0.lock().unwrap_or_else(|e| e.into_inner());
        word.fetch_or(Self::MASK, Ordering::Acquire);
        BitHeld { _guard }
    }

    /// Releases the lock. The next one comes when what [`Self::lock`] returned is dropped, too.
    pub fn unlock(&self, word: &AtomicU32) {
        word.fetch_and(!Self::MASK, Ordering::Release);
    }
}

/// The model of epochs: epoch.rs's fences, and a lock for each CPU's slot, held
/// while it is pinned; the grace period takes each for a moment, so it blocks
/// and does not spin.
///
/// It claims no more than epoch.rs. What was done while pinned is seen by who
/// waited for it: there by the slot's release and acquire, here by the lock's.
/// Whose pin was not waited for sees what was unlinked, by the fences. A pin that
/// begins between the new epoch and the look at its slot is not waited for
/// there, and is here; but in between nobody but the one who looks at slots
/// does anything, so a pin that begins just after the look meets the same. What
/// is freed too early is freed under a reader here as there.
#[derive(Debug)]
pub struct Epoch(());

/// Held while a CPU is pinned.
#[derive(Debug)]
pub struct Slot(loom::sync::Mutex<()>);

/// Proof that a CPU is pinned.
#[derive(Debug)]
pub struct Pinned<'a> {
    _slot: loom::sync::MutexGuard<'a, ()>,
}

impl Slot {
    /// Makes the slot of a CPU that is not pinned.
    pub fn new() -> Self {
        Self(loom::sync::Mutex::new(()))
    }

    fn hold(&self) -> loom::sync::MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Epoch {
    /// Makes the epoch, of which there is one.
    pub fn new() -> Self {
        Self(())
    }

    /// Pins the CPU whose slot it is until the proof is dropped.
    pub fn pin<'a>(&self, slot: &'a Slot) -> Pinned<'a> {
        let _slot = slot.hold();
        fence(Ordering::SeqCst);
        Pinned { _slot }
    }

    /// Waits until no CPU is pinned since before this call.
    pub fn synchronize<'a, I>(&self, _cx: &impl Context, slots: impl FnOnce() -> I)
    where
        I: Iterator<Item = &'a Slot>,
    {
        fence(Ordering::SeqCst);
        slots().for_each(|slot| drop(slot.hold()));
    }
}
