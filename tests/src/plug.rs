//! What tests plug into the simulated machine, and how it counts, so that
//! neither orders two threads where the library does not.
//!
//! Under `cfg(mm_tsan)` a lock around a hook, or a sequentially consistent
//! count of allocations, would be seen as such an order, and races would hide
//! behind it: there a hook is plugged in once, and counts are relaxed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
#[cfg(not(mm_tsan))]
use std::sync::{Mutex, PoisonError};

/// The order of what is only counted.
pub(crate) const COUNT: Ordering = if cfg!(mm_tsan) {
    Ordering::Relaxed
} else {
    Ordering::SeqCst
};

/// A place for a hook.
#[derive(Debug)]
pub(crate) struct Plug<T: ?Sized> {
    #[cfg(not(mm_tsan))]
    hook: Mutex<Option<Arc<T>>>,
    #[cfg(mm_tsan)]
    hook: std::sync::OnceLock<Arc<T>>,
}

impl<T: ?Sized> Default for Plug<T> {
    fn default() -> Self {
        Self {
            hook: Default::default(),
        }
    }
}

#[cfg(not(mm_tsan))]
impl<T: ?Sized> Plug<T> {
    /// Plugs in a hook, in place of the one before.
    pub(crate) fn set(&self, hook: Arc<T>) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    /// Returns the hook.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        hook.clone()
    }
}

#[cfg(mm_tsan)]
impl<T: ?Sized> Plug<T> {
    /// Plugs in a hook.
    ///
    /// # Panics
    /// When there is one.
    pub(crate) fn set(&self, hook: Arc<T>) {
        assert!(self.hook.set(hook).is_ok(), "one hook is there already");
    }

    /// Returns the hook.
    pub(crate) fn get(&self) -> Option<&T> {
        self.hook.get().map(Arc::as_ref)
    }
}
