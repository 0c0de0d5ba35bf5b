//! Names of nodes.

use crate::sync::{AtomicU32, Ordering};
use core::cmp;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::num::NonZeroU32;

/// A type that lives in a pool.
///
/// Its size is a power of two of at least 16 bytes (checked when the pool is
/// used), all its fields are atomics or lock-guarded cells.
pub trait Node: Sized + Send + Sync + 'static {
    /// What the pool is called in statistics.
    const NAME: &'static str;
    /// Makes a node that is not in use.
    fn new() -> Self;
    /// Returns the word that links free nodes and says when the node is in use:
    /// the pool's alone.
    fn free_link(&self) -> &AtomicU32;
}

/// The name of a node of type `T`.
pub struct Handle<T> {
    raw: NonZeroU32,
    node: PhantomData<fn() -> T>,
}

impl<T> Handle<T> {
    /// Makes a handle of its number; zero is none.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match NonZeroU32::new(raw) {
            Some(raw) => Some(Self {
                raw,
                node: PhantomData,
            }),
            None => None,
        }
    }

    /// Returns the number.
    pub const fn into_raw(self) -> u32 {
        self.raw.get()
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}
impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}
impl<T> Eq for Handle<T> {}
impl<T> PartialOrd for Handle<T> {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Handle<T> {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.raw.cmp(&other.raw)
    }
}
impl<T> Hash for Handle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}
impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:x}", self.raw)
    }
}

/// A cell that holds a handle or none.
pub struct AtomicHandle<T> {
    raw: AtomicU32,
    node: PhantomData<fn() -> T>,
}

impl<T> AtomicHandle<T> {
    #[cfg(not(loom))]
    /// Makes an empty cell.
    pub const fn none() -> Self {
        Self {
            raw: AtomicU32::new(0),
            node: PhantomData,
        }
    }

    #[cfg(loom)]
    /// Makes an empty cell.
    pub fn none() -> Self {
        Self {
            raw: AtomicU32::new(0),
            node: PhantomData,
        }
    }

    /// Loads with acquire: the node is seen as it was when it was linked.
    pub fn get(&self) -> Option<Handle<T>> {
        let order = Ordering::Acquire;
        #[cfg(mm_mutant = "links_without_acquire")]
        let order = Ordering::Relaxed;
        Handle::from_raw(self.raw.load(order))
    }

    /// Loads where the caller's lock orders everything.
    pub fn get_locked(&self) -> Option<Handle<T>> {
        Handle::from_raw(self.raw.load(Ordering::Relaxed))
    }

    /// Stores with release.
    pub fn set(&self, handle: Option<Handle<T>>) {
        let order = Ordering::Release;
        #[cfg(mm_mutant = "links_without_release")]
        let order = Ordering::Relaxed;
        self.raw.store(handle.map_or(0, Handle::into_raw), order);
    }
}

impl<T> fmt::Debug for AtomicHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
