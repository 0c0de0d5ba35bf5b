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
//!
//! **A read can fail**: a damaged archive says how long a file is and does not hold all of it. The
//! library forgets such a page, so whoever asks again starts a new read. Therefore the one who
//! started it must be told, or would try for ever: a failed read's number stays here until its
//! starter, who always waits for it, has fetched it ([`Disk::take_failure`]). Who only joined
//! the transfer asks again, starts a read, and fails in turn.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::sync::Mutex;

use crate::arch::Arch;
use crate::cpio::{Archive, Entry};
use crate::errno::{Errno, Result};
use crate::limits::DISK_REQUESTS;
use crate::memory::{Request, TransferKey};
use crate::sched::Channel;
use crate::system::System;

/// Ticks from the request to its end, at least.
const LATENCY_TICKS: u64 = 1;

/// The queue of reads, and where the bytes are.
pub struct Disk<A: Arch> {
    files: Vec<Entry<'static>>,
    queue: Mutex<VecDeque<Read<A>>>,
    /// Failed reads whose starters do not know it yet.
    failed: Mutex<Vec<ReadNumber>>,
    started: AtomicU64,
    reads: AtomicUsize,
}

/// The name of one read, never used twice.
pub type ReadNumber = u64;

/// A read under way.
struct Read<A: Arch> {
    number: ReadNumber,
    /// The tick that finishes it.
    due: u64,
    request: Request<A>,
}

impl<A: Arch> Disk<A> {
    /// Makes the disk of an archive; file *n* is the archive's member *n*.
    #[must_use]
    pub fn new(archive: &'static [u8]) -> Self {
        let files = Archive::new(archive).collect();
        Disk {
            files,
            queue: Mutex::new(VecDeque::with_capacity(DISK_REQUESTS)),
            failed: Mutex::new(Vec::with_capacity(DISK_REQUESTS)),
            started: AtomicU64::new(0),
            reads: AtomicUsize::new(0),
        }
    }

    /// Answers whether a finished read has failed, once, to the one who started it.
    #[must_use]
    pub fn take_failure(&self, number: ReadNumber) -> bool {
        let mut failed = self.failed.lock();
        let at = failed.iter().position(|&other| other == number);
        at.map(|at| failed.swap_remove(at)).is_some()
    }

    /// Counts the reads that somebody waited for and that a later tick finished.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl<A: Arch> System<A> {
    /// Queues a read. The caller waits for its end, and asks then whether it has failed.
    ///
    /// # Errors
    /// `EIO`, when the queue is full: then the request is dropped, which fails it.
    pub fn start_read(&self, request: Request<A>) -> Result<ReadNumber> {
        let due = self.ticks.load(Ordering::Relaxed) + LATENCY_TICKS;
        let number = self.disk.started.fetch_add(1, Ordering::Relaxed);
        let queued = {
            let mut queue = self.disk.queue.lock();
            if queue.len() < DISK_REQUESTS {
                queue.push_back(Read {
                    number,
                    due,
                    request,
                });
                Ok(number)
            } else {
                Err(request)
            }
        };
        // Dropped without the lock: it wakes who joined.
        queued.map_err(|request| {
            drop(request);
            Errno::EIO
        })
    }

    /// Finishes the reads whose time has come; called at each tick.
    pub fn finish_reads(&self, now: u64) {
        loop {
            let due = {
                let mut queue = self.disk.queue.lock();
                if queue.front().is_some_and(|read| read.due <= now) {
                    queue.pop_front()
                } else {
                    None
                }
            };
            let Some(Read {
                number, request, ..
            }) = due
            else {
                break;
            };
            self.disk.reads.fetch_add(1, Ordering::Relaxed);
            let file =
                crate::memory::file_of::<A>(&request).and_then(|index| self.disk.files.get(index));
            let bytes = file.and_then(|file| file.page(request.offset(), A::PAGE_SHIFT));
            if bytes.is_none() {
                // Before anybody can see that the transfer has ended.
                self.disk.failed.lock().push(number);
            }
            let key = crate::memory::finish::<A>(request, bytes);
            self.wake(Channel::Transfer(key));
        }
    }

    /// Wakes who waits for a transfer: what `Platform::wake` calls.
    pub fn wake_transfer(&self, key: TransferKey) {
        self.wake(Channel::Transfer(key));
    }
}
