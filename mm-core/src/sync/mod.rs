//! The facade over locks and atomics: the only place that names `spin`,
//! `loom` or `core::sync::atomic`.
//!
//! ```text
//!             user of a lock
//!                  │ lock(cx, key)          cx: rank check, preemption, relax
//!                  ▼
//!   Mutex · RwLock · BitLock                rank.rs says who may nest in whom
//!                  │
//!   waiting.rs, real.rs (spin)  |  model.rs (loom)
//!
//!   Epoch, Slot: epoch.rs       |  model.rs
//! ```
//!
//! `cfg(mm_watched)` puts a witness in front of real.rs (see watched.rs), and
//! `cfg(mm_tsan)` shows ThreadSanitizer the one kind of fence that it must see,
//! `cfg(mm_tsan = "fences")` the others too.
//!
//! Two kinds of lock (see LOCKING.md). *Outer* locks are taken by verbs, with
//! preemption on, and a waiter calls [`Context::relax`], which may yield.
//! *Inner* locks are taken for at most one table page of work with preemption
//! off. Which one a lock is follows from its [`Class`]. Every lock has a
//! [`Rank`]; a debug build refuses to take a lock whose rank is not above all
//! ranks held. A lock is taken only through a [`Context`], so nobody can wait
//! without serving shootdowns.

mod count;
#[cfg(not(loom))]
mod epoch;
#[cfg(loom)]
pub mod epoch;
mod mutex;
mod rank;
mod rwlock;
#[cfg(not(loom))]
mod waiting;
#[cfg(loom)]
pub mod waiting;
#[cfg(mm_watched)]
mod watched;

#[cfg(loom)]
#[path = "model.rs"]
mod imp;
#[cfg(not(loom))]
#[path = "real.rs"]
mod imp;

/// A word of user memory: user programs share it, so no model replaces it.
pub use core::sync::atomic::AtomicU32 as UserWord;
pub(crate) use count::RefCount;
#[cfg(any(loom, target_has_atomic = "64"))]
pub use imp::AtomicU64;
#[cfg(not(loom))]
pub use imp::Once;
pub use imp::{AtomicBool, AtomicU32, AtomicUsize, Fixed32, Ordering, Tally, fence, spin_hint};
pub use imp::{BitHeld, BitLock, Epoch, Pinned, Slot};
pub use mutex::{Mutex, MutexGuard};
pub use rank::{Class, Rank, RankStack};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
#[cfg(mm_watched)]
pub use watched::{Touch, Witness, watch};

/// Lets everything that follows happen after what others released in `word`,
/// which the caller has just changed without acquiring: what the last one to
/// give something up needs, and nobody else pays for. ThreadSanitizer overlooks
/// fences, so it gets another look at the word.
pub(crate) fn fence_acquire(word: &AtomicU32) {
    if cfg!(mm_tsan) {
        let _seen = word.load(Ordering::Acquire);
    } else {
        fence(Ordering::Acquire);
    }
}

/// Who takes a lock: the one executing verb on this CPU.
///
/// [`crate::cx::Cx`] implements it; small kernels and tests may implement it
/// for a unit type ([`NoContext`]).
pub trait Context {
    /// Called in every wait loop with the number of turns so far. Must let a
    /// pending shootdown be served; when no inner lock is held it may yield.
    fn relax(&self, spins: u32);
    /// Forbids preemption on this CPU until the matching [`Self::preempt_on`].
    fn preempt_off(&self);
    /// Allows preemption again.
    fn preempt_on(&self);
    /// Notes that a lock is about to be waited for.
    fn acquire(&self, rank: Rank);
    /// Notes a lock that cannot be waited for: only tried, or fresh.
    fn acquire_fresh(&self, rank: Rank);
    /// Notes that a lock was released.
    fn release(&self, rank: Rank);
}

/// The bookkeeping of one held lock: its rank, and preemption off when inner.
pub(crate) struct Held<'a, C: Context> {
    cx: &'a C,
    rank: Rank,
}

impl<'a, C: Context> Held<'a, C> {
    /// Notes a lock that will be waited for; the order is checked.
    pub(crate) fn enter(cx: &'a C, rank: Rank) -> Self {
        cx.acquire(rank);
        if rank.class.is_inner() {
            cx.preempt_off();
        }
        Self { cx, rank }
    }

    /// Notes a lock that is only tried: no order to check.
    pub(crate) fn attempt(cx: &'a C, rank: Rank) -> Self {
        cx.acquire_fresh(rank);
        #[cfg(not(mm_mutant = "tried_lock_is_preempted"))]
        if rank.class.is_inner() {
            cx.preempt_off();
        }
        Self { cx, rank }
    }
}

impl<C: Context> Drop for Held<'_, C> {
    fn drop(&mut self) {
        self.cx.release(self.rank);
        if self.rank.class.is_inner() {
            self.cx.preempt_on();
        }
    }
}

/// A context for code that runs before there is anything else to run: no
/// preemption, no shootdowns, no rank check.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoContext;

impl Context for NoContext {
    fn relax(&self, _spins: u32) {
        spin_hint();
    }
    fn preempt_off(&self) {}
    fn preempt_on(&self) {}
    fn acquire(&self, _rank: Rank) {}
    fn acquire_fresh(&self, _rank: Rank) {}
    fn release(&self, _rank: Rank) {}
}
