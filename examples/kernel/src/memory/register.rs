//! Which file an area maps: areas know the key of an object, the register the file behind it.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};

use super::FileNode;
use crate::arch::Arch;
use crate::sync::Mutex;

/// Keys of files in memory start here; those of the disk are below, and memory that has no file has 0.
pub const MEMORY: u64 = 1 << 32;

/// All regular files that exist, by key.
pub struct Register<A: Arch> {
    files: Mutex<BTreeMap<u64, Weak<FileNode<A>>>>,
    next: AtomicU64,
}

impl<A: Arch> Register<A> {
    /// Makes an empty one.
    #[must_use]
    pub const fn new() -> Self {
        Register {
            files: Mutex::new(BTreeMap::new()),
            next: AtomicU64::new(MEMORY),
        }
    }

    /// Answers a key for a file in memory, never used twice.
    pub(super) fn memory_key(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a file under the key of what it holds.
    pub fn enter(&self, node: &Arc<FileNode<A>>) {
        if let Ok(data) = node.file() {
            self.files.lock().insert(data.key(), Arc::downgrade(node));
        }
    }

    /// Takes a file out that is going.
    pub(super) fn leave(&self, key: u64) {
        let mut files = self.files.lock();
        files.remove(&key);
        // An empty tree keeps its root, which would look like a leak at the end.
        if files.is_empty() {
            *files = BTreeMap::new();
        }
    }

    /// Finds the file behind a key, while somebody has it or it has a name.
    #[must_use]
    pub fn find(&self, key: u64) -> Option<Arc<FileNode<A>>> {
        self.files.lock().get(&key)?.upgrade()
    }
}

impl<A: Arch> Default for Register<A> {
    fn default() -> Self {
        Self::new()
    }
}
