//! What is written by hand around the locks: waiting, writers before readers,
//! and the lock in one bit.
//!
//! ```text
//!  RawRwLock   writers > 0 ── new readers wait ──► spin's lock: who is inside
//!  BitLock     0 ── fetch_or (acquire) ──► 1 ── fetch_and (release) ──► 0
//! ```
//!
//! Who waits calls [`Context::relax`] each turn. In models all locks are loom's
//! (a lock that spins inside a model of something else does not end); these
//! are compiled there too, on loom's atomics and with loom's lock in the place
//! of spin's, and modelled alone (`tests/loom/waiting.rs`).

#[cfg(loom)]
use super::imp::{RawReadGuard as ReadGuard, RawRwLock as Inside, RawWriteGuard as WriteGuard};
use super::{AtomicU32, Context, Ordering};
use core::marker::PhantomData;
#[cfg(not(loom))]
use spin::rwlock::{
    RwLock as Inside, RwLockReadGuard as ReadGuard, RwLockWriteGuard as WriteGuard,
};

/// A reader-writer lock that does not starve writers: a waiting writer holds
/// new readers back.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(Default))]
pub struct RawRwLock<T> {
    writers: AtomicU32,
    lock: Inside<T>,
}
/// Proof that a [`RawRwLock`] is held for reading.
pub type RawReadGuard<'a, T> = ReadGuard<'a, T>;
/// Proof that a [`RawRwLock`] is held for writing.
pub type RawWriteGuard<'a, T> = WriteGuard<'a, T>;

impl<T> RawRwLock<T> {
    #[cfg(not(loom))]
    /// Makes an unlocked lock.
    pub const fn new(value: T) -> Self {
        Self {
            writers: AtomicU32::new(0),
            lock: Inside::new(value),
        }
    }

    #[cfg(loom)]
    /// Makes an unlocked lock.
    pub fn new(value: T) -> Self {
        Self {
            writers: AtomicU32::new(0),
            lock: Inside::new(value),
        }
    }

    /// Takes the lock for reading if no writer holds or awaits it.
    pub fn try_read(&self) -> Option<RawReadGuard<'_, T>> {
        if self.writers.load(Ordering::Relaxed) > 0 && !cfg!(mm_mutant = "readers_first") {
            return None;
        }
        #[cfg(mm_watched)]
        super::imp::touch(self);
        self.lock.try_read()
    }

    /// Takes the lock for writing if nobody holds it.
    pub fn try_write(&self) -> Option<RawWriteGuard<'_, T>> {
        #[cfg(mm_watched)]
        super::imp::touch(self);
        self.lock.try_write()
    }

    /// Takes the lock for reading; waits for writers that hold or await it.
    pub fn read(&self, cx: &impl Context) -> RawReadGuard<'_, T> {
        wait(cx, || self.try_read())
    }

    /// Takes the lock for writing; waits for those who are inside.
    pub fn write(&self, cx: &impl Context) -> RawWriteGuard<'_, T> {
        self.writers.fetch_add(1, Ordering::Relaxed);
        let guard = wait(cx, || self.try_write());
        #[cfg(not(mm_mutant = "writer_waits_for_ever"))]
        self.writers.fetch_sub(1, Ordering::Relaxed);
        guard
    }
}

/// A lock in one bit of a word that has other bits too (a page record's
/// state). The word is passed to each call: the lock itself has no size.
#[derive(Debug)]
pub struct BitLock<const BIT: u32>;

/// What the holder of a [`BitLock`] keeps until it has released the lock: nothing here; in
/// models, loom's lock.
#[derive(Debug)]
#[must_use = "kept until the lock is released"]
pub struct BitHeld<'a>(PhantomData<&'a ()>);

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
    pub fn lock(&self, word: &AtomicU32, cx: &impl Context) -> BitHeld<'_> {
        wait(cx, || {
            // Look before the locked instruction, so that waiters share the line.
            if word.load(Ordering::Relaxed) & Self::MASK != 0 {
                return None;
            }
            self.try_lock(word).then_some(BitHeld(PhantomData))
        })
    }

    /// Releases the lock.
    pub fn unlock(&self, word: &AtomicU32) {
        let order = if cfg!(mm_mutant = "bit_lock_without_release") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        word.fetch_and(!Self::MASK, order);
    }
}

/// Tries until it succeeds; serves shootdowns between two attempts.
pub(super) fn wait<G>(cx: &impl Context, mut attempt: impl FnMut() -> Option<G>) -> G {
    let mut spins = 0u32;
    loop {
        if let Some(guard) = attempt() {
            return guard;
        }
        #[cfg(not(mm_mutant = "lock_waits_deaf"))]
        cx.relax(spins);
        spins = spins.saturating_add(1);
    }
}
