//! The disk: serves reads of the initramfs a tick after they were asked for.
//!
//! The archive lies in memory, so a read could be answered at once. It is not: a
//! request waits in a queue until a later timer tick, as it would for a device, so that
//! every path that waits for I/O is walked in every run.
//!
//! ```text
//!   fault, read ─► Wait(Start(request)) ─► queue ─tick─► fill, finish ─► sleepers retry
//!                  Wait(Join(key))      ─► sleep until the key is no longer pending
//! ```

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::Mutex;

use crate::arch::Arch;
use crate::cpio::{Archive, Entry};
use crate::limits::DISK_REQUESTS;
use crate::memory::{Request, TransferKey};
use crate::sched::Channel;
use crate::system::System;

/// Ticks from the request to its end, at least.
const LATENCY_TICKS: u64 = 1;

/// The queue of reads, and where the bytes are.
pub struct Disk<A: Arch> {
    files: Vec<Entry<'static>>,
    queue: Mutex<VecDeque<(u64, Request<A>)>>,
    reads: AtomicUsize,
}

impl<A: Arch> Disk<A> {
    /// Makes the disk of an archive; file *n* is the archive's member *n*.
    #[must_use]
    pub fn new(archive: &'static [u8]) -> Self {
        let files = Archive::new(archive).collect();
        Disk {
            files,
            queue: Mutex::new(VecDeque::with_capacity(DISK_REQUESTS)),
            reads: AtomicUsize::new(0),
        }
    }

    /// Answers the path of the file that an object's key names, without a leading slash.
    #[must_use]
    pub fn path(&self, key: u64) -> Option<&str> {
        let index = usize::try_from(key).ok()?.checked_sub(1)?;
        core::str::from_utf8(self.files.get(index)?.name).ok()
    }

    /// Counts the reads that somebody waited for and that a later tick finished.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl<A: Arch> System<A> {
    /// Queues a read. The request is dropped, which fails it, if the queue is full.
    pub fn start_read(&self, request: Request<A>) {
        let due = self.ticks.load(Ordering::Relaxed) + LATENCY_TICKS;
        let refused = {
            let mut queue = self.disk.queue.lock();
            if queue.len() < DISK_REQUESTS {
                queue.push_back((due, request));
                None
            } else {
                Some(request)
            }
        };
        drop(refused);
    }

    /// Finishes the reads whose time has come; called at each tick.
    pub fn finish_reads(&self, now: u64) {
        loop {
            let due = {
                let mut queue = self.disk.queue.lock();
                if queue.front().is_some_and(|(due, _)| *due <= now) {
                    queue.pop_front()
                } else {
                    None
                }
            };
            let Some((_, request)) = due else { break };
            self.disk.reads.fetch_add(1, Ordering::Relaxed);
            let file =
                crate::memory::file_of::<A>(&request).and_then(|index| self.disk.files.get(index));
            let key = crate::memory::finish::<A>(request, file.map(|file| file.data));
            self.wake(Channel::Transfer(key));
        }
    }

    /// Wakes who waits for a transfer: what `Platform::wake` calls.
    pub fn wake_transfer(&self, key: TransferKey) {
        self.wake(Channel::Transfer(key));
    }
}
