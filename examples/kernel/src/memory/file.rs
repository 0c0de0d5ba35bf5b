//! What regular files hold: pages that come from the disk, or live in memory only.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use mm_core::error::NoSpace;
use mm_core::object::{ObjectRef, PagerFacts, TicketError};
use mm_core::page::Frames;
use mm_core::platform::Platform;

use super::{Request, Seals, TransferKey, page_shift};
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::sched::turn::Turn;
use crate::system::System;

/// What a regular file holds: its cached pages.
pub struct FileData<A: Arch> {
    pub(super) object: ObjectRef<'static, A::Platform>,
    /// Held by whoever writes or cuts, from looking for the end until all is done.
    pub writing: Turn,
    /// What nobody may do to it any more; files of the disk are not sealed.
    pub seals: Option<Seals>,
    /// The key of its pages, never used twice.
    key: u64,
    system: &'static System<A>,
}

impl<A: Arch> Drop for FileData<A> {
    fn drop(&mut self) {
        self.system.files.leave(self.key);
    }
}

impl<A: Arch> FileData<A> {
    /// Makes the file of the archive's member `index`; its pages come from the disk.
    /// Its key is one more, since memory that has no name has key 0.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn from_archive(system: &'static System<A>, index: usize, size: u64) -> Result<Self> {
        let key = index as u64 + 1;
        Ok(FileData {
            object: system.memory.new_object(PagerFacts::file(key, size))?,
            writing: Turn::new(),
            seals: None,
            key,
            system,
        })
    }

    /// Makes an empty file that lives in memory only, with these seals.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn in_memory(system: &'static System<A>, seals: u32) -> Result<Self> {
        let key = system.files.memory_key();
        Ok(FileData {
            object: system
                .memory
                .new_object(PagerFacts::memory(0).named(key).in_store(TMP))?,
            writing: Turn::new(),
            seals: Some(Seals::new(seals)),
            key,
            system,
        })
    }

    /// Answers the key of its pages.
    #[must_use]
    pub const fn key(&self) -> u64 {
        self.key
    }

    /// Answers the size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.object.size()
    }
}

/// A node of the tree of files.
pub type FileNode<A> = crate::fs::tree::Node<FileData<A>>;

/// What somebody does with a file that excludes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Writes it, or cuts it.
    Write,
    /// Runs it.
    Run,
}

/// A file that is written, or run, for as long as this lives: never both.
pub struct Claim<A: Arch> {
    node: Arc<FileNode<A>>,
    purpose: Purpose,
}

impl<A: Arch> Claim<A> {
    /// Claims a regular file.
    ///
    /// # Errors
    /// `ETXTBSY` while it is claimed for the other purpose, `EACCES` if it is no regular file.
    pub fn new(node: Arc<FileNode<A>>, purpose: Purpose) -> Result<Self> {
        let object = node.file()?.object.object();
        match purpose {
            Purpose::Write => object.allow_writer()?,
            Purpose::Run => object.deny_writers()?,
        }
        Ok(Claim { node, purpose })
    }

    /// Answers what the file holds.
    ///
    /// # Errors
    /// None: only regular files are claimed.
    pub fn data(&self) -> Result<&FileData<A>> {
        self.node.file()
    }
}

impl<A: Arch> Drop for Claim<A> {
    fn drop(&mut self) {
        if let Ok(data) = self.data() {
            match self.purpose {
                Purpose::Write => data.object.object().end_writer(),
                Purpose::Run => data.object.object().end_deny(),
            }
        }
    }
}

impl<A: Arch> System<A> {
    /// Reads a file's bytes; fewer at its end.
    ///
    /// # Errors
    /// `EIO`, `ENOMEM`.
    pub fn read_data(&self, data: &FileData<A>, at: u64, into: &mut [u8]) -> Result {
        let mut done = 0;
        while done < into.len() {
            let progress = data
                .object
                .read(at.saturating_add(done as u64), &mut into[done..]);
            let waits = progress.wait.is_some();
            match self.after(progress) {
                Ok(0) if !waits => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes a file's bytes; the file grows as needed. The caller holds its turn.
    ///
    /// # Errors
    /// `EPERM` when it is sealed against that, `ENOSPC` when there is no room ([`try_hold`]),
    /// `ENOMEM`, `EFBIG`.
    pub fn write_data(&self, data: &FileData<A>, at: u64, bytes: &[u8]) -> Result {
        at.checked_add(bytes.len() as u64)
            .filter(|end| *end <= i64::MAX as u64)
            .ok_or(Errno::EFBIG)?;
        let most = match &data.seals {
            Some(seals) => {
                let page = 1 << page_shift::<A>();
                seals.writable(at, bytes.len(), data.size(), page)?
            }
            None => bytes.len(),
        };
        let bytes = &bytes[..most];
        let mut done = 0;
        while done < bytes.len() {
            let progress = data.object.write(at + done as u64, &bytes[done..]);
            let waits = progress.wait.is_some();
            match self.after(progress) {
                Ok(0) if !waits => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Cuts or extends a file.
    ///
    /// # Errors
    /// `EPERM` when it is sealed against that, `EFBIG`, `ENOMEM`.
    pub fn set_data_size(&self, data: &FileData<A>, size: u64) -> Result<()> {
        let _turn = data.writing.take(self);
        if let Some(seals) = &data.seals {
            seals.check_size(data.size(), size)?;
        }
        Ok(data.object.set_size(size)?)
    }
}

/// The store of files in memory.
const TMP: u64 = 1;

/// The pages that files in memory hold.
static TMP_PAGES: AtomicUsize = AtomicUsize::new(0);

/// Has a store hold one page more, for the platform to answer. Files in memory leave programs a
/// sixteenth of it, whoever has the rest: a full /tmp kills nobody.
///
/// # Errors
/// [`NoSpace`] when it is full.
pub fn try_hold<P: Platform>(
    frames: Option<&Frames<P>>,
    store: u64,
) -> core::result::Result<(), NoSpace> {
    let Some(frames) = frames.filter(|_| store == TMP) else {
        return Ok(());
    };
    let stats = frames.stats();
    if stats.free < stats.total / 16 {
        return Err(NoSpace);
    }
    // Relaxed: a count of its own, which orders no other memory.
    let most = stats.total - stats.total / 16;
    let one_more = |held: usize| Some(held + 1).filter(|&held| held <= most);
    let held = TMP_PAGES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    held.map(drop).map_err(|_| NoSpace)
}

/// Takes back what [`try_hold`] gave, for the platform.
pub fn let_go(store: u64, pages: usize) {
    if store == TMP {
        TMP_PAGES.fetch_sub(pages, Ordering::Relaxed);
    }
}

/// What the disk is asked for: the archive's member.
pub fn file_of<A: Arch>(request: &Request<A>) -> Option<usize> {
    usize::try_from(request.key()).ok()?.checked_sub(1)
}

/// Fills a page that was asked for with its bytes, and finishes the transfer: without any, as a
/// failed one.
pub fn finish<A: Arch>(mut request: Request<A>, bytes: Option<&[u8]>) -> TransferKey {
    let key = request.ticket_key();
    match bytes {
        Some(bytes) => {
            // What is not filled reads as zero.
            request.fill(0, bytes);
            request.finish(Ok(()));
        }
        None => request.finish(Err(TicketError)),
    }
    key
}
