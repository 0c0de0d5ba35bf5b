//! What user programs can make the kernel's own heap hold, at most.
//!
//! User memory comes from frames and every allocation of it can fail. The kernel
//! heap is a fixed reserve: `alloc`'s types cannot report that it is empty, so
//! nothing that a program asks for may grow it without a bound. Every bound stands
//! here, and [`HEAP_BYTES`] is their sum: an architecture that gives the heap this
//! much never sees it run out, whatever programs do.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::errno::{Errno, Result};

/// Threads on the machine, all processes together.
pub const TASKS: usize = 512;

/// File descriptors of one process (RLIMIT_NOFILE).
pub const DESCRIPTORS: usize = 128;

/// Open files on the machine.
pub const OPEN_FILES: usize = 2048;

/// Pipes on the machine; each holds a ring of `pipe::CAPACITY` bytes.
pub const PIPES: usize = 192;

/// Files, directories and links in memory: under /tmp and /dev/shm, and without a name.
pub const TMP_NODES: usize = 2048;

/// Bytes of one path, with its NUL.
pub const PATH_BYTES: usize = 4096;

/// Bytes of one name in a directory.
pub const NAME_BYTES: usize = 255;

/// Bytes of argv and envp of one exec, strings and pointers together.
pub const ARGUMENT_BYTES: usize = 128 * 1024;

/// Bytes of argv and envp of all execs under way, and of all open /proc files.
pub const SCRATCH_BYTES: usize = 2 * 1024 * 1024;

/// Reads that wait for the disk at one time: at most one a task, plus read-ahead.
pub const DISK_REQUESTS: usize = 2 * TASKS;

/// Bytes of heap that the kernel needs in the worst case, with the allocator's own
/// losses (a half).
pub const HEAP_BYTES: usize = {
    let tasks = TASKS * (4096 + DESCRIPTORS * 16);
    let files = OPEN_FILES * 256 + TMP_NODES * 640;
    let pipes = PIPES * (crate::pipe::CAPACITY + 256);
    let sum = tasks + files + pipes + SCRATCH_BYTES + DISK_REQUESTS * 128;
    (sum + sum / 2).next_multiple_of(1024 * 1024)
};

/// A small machine has that much to spare.
const _: () = assert!(HEAP_BYTES <= 24 << 20);

/// A supply of something that is limited for the whole machine.
pub struct Quota {
    left: AtomicUsize,
}

impl Quota {
    /// Makes a supply of `amount` units.
    #[must_use]
    pub const fn new(amount: usize) -> Self {
        Quota {
            left: AtomicUsize::new(amount),
        }
    }

    /// Takes `amount` units until the grant is dropped.
    ///
    /// # Errors
    /// `otherwise`, when fewer are left.
    pub fn take(&'static self, amount: usize, otherwise: Errno) -> Result<Grant> {
        // Relaxed: a count of its own, which orders no other memory.
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(amount)
            });
        taken
            .map(|_| Grant {
                quota: self,
                amount,
            })
            .map_err(|_| otherwise)
    }

    /// Counts the units that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

/// Units taken from a [`Quota`]; they go back when it is dropped.
pub struct Grant {
    quota: &'static Quota,
    amount: usize,
}

impl Grant {
    /// Takes `more` units into the same grant.
    ///
    /// # Errors
    /// `otherwise`, when fewer are left.
    pub fn grow(&mut self, more: usize, otherwise: Errno) -> Result<()> {
        let mut extra = self.quota.take(more, otherwise)?;
        self.amount += core::mem::take(&mut extra.amount);
        Ok(())
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.quota.left.fetch_add(self.amount, Ordering::Relaxed);
    }
}

/// Open files on the machine.
pub static FILES_QUOTA: Quota = Quota::new(OPEN_FILES);
/// Pipes on the machine.
pub static PIPES_QUOTA: Quota = Quota::new(PIPES);
/// Nodes in memory.
pub static NODES_QUOTA: Quota = Quota::new(TMP_NODES);
/// Bytes of exec arguments and /proc texts.
pub static SCRATCH_QUOTA: Quota = Quota::new(SCRATCH_BYTES);

#[cfg(test)]
mod tests {
    use super::{Errno, Quota};

    #[test]
    fn grants_go_back() {
        static QUOTA: Quota = Quota::new(3);
        let mut two = QUOTA.take(2, Errno::ENFILE).unwrap();
        assert_eq!(QUOTA.take(2, Errno::ENFILE).err(), Some(Errno::ENFILE));
        two.grow(1, Errno::ENFILE).unwrap();
        assert_eq!(two.grow(1, Errno::ENOMEM), Err(Errno::ENOMEM));
        drop(two);
        assert_eq!(QUOTA.left(), 3);
    }
}
