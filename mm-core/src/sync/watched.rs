//! The facade's atomics with a witness, for tests under `cfg(mm_watched)`.
//!
//! Each operation first tells the [`watch`]er which word it touches and how,
//! and then is the operation of `core`; the types are laid out like `core`'s.
//! Two tests stand on it: a scheduler that lets another thread run between any
//! two operations, and a count of the cache lines that a verb writes. Without a
//! witness nothing differs.

use core::sync::atomic::{self as plain, Ordering};

/// What is done to a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// It is read.
    Load,
    /// It is written, perhaps after it was read.
    Write,
    /// No word: a fence.
    Fence,
}

/// Who is told, before it is done: the word's address, and what.
pub type Witness = fn(usize, Touch);

static WITNESS: spin::Once<Witness> = spin::Once::new();

/// Lets `witness` see every operation from now on; the first one stays.
pub fn watch(witness: Witness) {
    WITNESS.call_once(|| witness);
}

/// Tells the witness.
#[inline]
pub(super) fn touched<T>(word: &T, touch: Touch) {
    if let Some(witness) = WITNESS.get() {
        witness(core::ptr::from_ref(word).cast::<u8>().addr(), touch);
    }
}

/// A fence that is seen.
pub fn fence(order: Ordering) {
    touched(&WITNESS, Touch::Fence);
    plain::fence(order);
}

macro_rules! watched {
    ($name:ident, $value:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(plain::$name);

        #[expect(missing_docs, reason = "as in `core`")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(plain::$name::new(value))
            }
            pub fn load(&self, order: Ordering) -> $value {
                touched(self, Touch::Load);
                self.0.load(order)
            }
            pub fn store(&self, value: $value, order: Ordering) {
                touched(self, Touch::Write);
                self.0.store(value, order);
            }
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                touched(self, Touch::Write);
                self.0.swap(value, order)
            }
            #[expect(clippy::missing_errors_doc, reason = "as in `core`")]
            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                touched(self, Touch::Write);
                self.0.compare_exchange(old, new, success, failure)
            }
            #[expect(clippy::missing_errors_doc, reason = "as in `core`")]
            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                touched(self, Touch::Write);
                // Never fails without a reason, so that a schedule can be played again.
                self.0.compare_exchange(old, new, success, failure)
            }
            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                touched(self, Touch::Write);
                self.0.fetch_and(value, order)
            }
            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                touched(self, Touch::Write);
                self.0.fetch_or(value, order)
            }
        }
    };
}
watched!(AtomicBool, bool, "A watched flag.");
watched!(AtomicU32, u32, "A watched word of 32 bits.");
watched!(AtomicU64, u64, "A watched word of 64 bits.");
watched!(AtomicUsize, usize, "A watched word of an address's size.");

macro_rules! counting {
    ($name:ident, $value:ty) => {
        #[expect(missing_docs, reason = "as in `core`")]
        impl $name {
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                touched(self, Touch::Write);
                self.0.fetch_add(value, order)
            }
            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                touched(self, Touch::Write);
                self.0.fetch_sub(value, order)
            }
            #[expect(clippy::missing_errors_doc, reason = "as in `core`")]
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut step: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut old = self.load(failure);
                while let Some(new) = step(old) {
                    match self.compare_exchange(old, new, success, failure) {
                        Ok(old) => return Ok(old),
                        Err(now) => old = now,
                    }
                }
                Err(old)
            }
        }
    };
}
counting!(AtomicU32, u32);
counting!(AtomicU64, u64);
counting!(AtomicUsize, usize);
