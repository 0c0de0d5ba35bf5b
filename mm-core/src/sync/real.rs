//! The facade's real side: `core` atomics and `spin` locks.

use super::Context;
use super::waiting::wait;

#[cfg(mm_watched)]
pub use super::watched::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};
#[cfg(all(target_has_atomic = "64", not(mm_watched)))]
pub use core::sync::atomic::AtomicU64;
pub use core::sync::atomic::Ordering;
#[cfg(not(any(mm_watched, mm_tsan = "fences")))]
pub use core::sync::atomic::fence;
#[cfg(not(mm_watched))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};

/// A count that nothing is decided by: models do not interleave it.
pub use AtomicUsize as Tally;
/// A word that is written before anybody else looks: models take it as it is.
pub use core::sync::atomic::AtomicU32 as Fixed32;

pub use super::epoch::{Epoch, Pinned, Slot};
pub use super::waiting::{BitHeld, BitLock};
pub(super) use super::waiting::{RawReadGuard, RawRwLock, RawWriteGuard};
pub use spin::Once;

/// A fence, and a change of a word that all fences change: ThreadSanitizer sees that
/// who comes to it later has seen what those did who came before.
#[cfg(mm_tsan = "fences")]
pub fn fence(order: Ordering) {
    static FENCES: AtomicU32 = AtomicU32::new(0);
    if order == Ordering::SeqCst {
        let _before = FENCES.fetch_add(1, order);
    }
    core::sync::atomic::fence(order);
}

/// Tells the witness that a lock's word is about to change.
#[cfg(mm_watched)]
pub(super) fn touch<T>(lock: &T) {
    super::watched::touched(lock, super::watched::Touch::Write);
}

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
        #[cfg(mm_watched)]
        touch(self);
        self.0.try_lock()
    }

    pub(super) fn lock(&self, cx: &impl Context) -> RawMutexGuard<'_, T> {
        wait(cx, || self.try_lock())
    }
}
