//! The kernel's use of mm-core: the only file that names its types.
//!
//! | here | mm-core |
//! |---|---|
//! | [`Space`] | an `AddressSpace`, with the number that names its futexes |
//! | [`FileData`] | the `ObjectRef` behind a regular file |
//! | [`System::resolve_fault`] | `fault`, with tickets turned into sleep |
//! | [`System::read_user`], `write_user` | `read`, `write` of user memory, resumed until done |
//! | [`System::read_data`], `write_data` | `read`, `write` of a file's cached pages |
//!
//! # Waiting
//!
//! mm-core never waits. Where it answers a ticket, the task sleeps here and asks again:
//!
//! | ticket | what the task does |
//! |---|---|
//! | `Start(request)` | hands the request to the [disk](crate::disk), sleeps until it is finished |
//! | `Join(key)` | sleeps until that transfer is finished |
//! | `Memory` | gives way to others, once; then it counts as out of memory |
//!
//! The sleep is patient: a transfer always ends, and soon. No lock is held over it.

use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use mm_core::Mm;
use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::object::{IoRequest, ObjectRef, PagerFacts, Progress, Ticket, TicketError, TicketKey};
use mm_core::prot::{Access, Prot};
use mm_core::space::{AddressSpace, Advice, MapFlags, MapRequest, SpaceLimits, Word32};
use mm_core::stats::Stats;
use mm_core::vma::VmaFlags;
use mm_elf::{MapStep, StepKind};

use crate::arch::{Arch, FaultAccess};
use crate::errno::{Errno, Result};
use crate::sched::{Channel, Patience};
use crate::system::System;
use crate::task::signal::{SIGBUS, SIGSEGV};

/// The memory of the machine.
pub type MachineMemory<A> = &'static Mm<<A as Arch>::Platform>;
/// The proof that a CPU has a space loaded.
pub type Active<A> = mm_core::space::Active<'static, <A as Arch>::Platform>;
/// A read for the disk to do.
pub type Request<A> = IoRequest<'static, <A as Arch>::Platform>;
/// The name of a transfer.
pub type TransferKey = TicketKey;

impl From<MmError> for Errno {
    fn from(error: MmError) -> Self {
        Errno(error.errno())
    }
}

/// Answers the page size as a power of two.
#[must_use]
pub const fn page_shift<A: Arch>() -> u32 {
    A::PAGE_SHIFT
}

/// One call of mmap, in our words.
#[derive(Clone, Copy)]
pub struct Map {
    /// Where: a hint, or with a fixed flag the address.
    pub at: Option<usize>,
    /// Bytes.
    pub length: usize,
    /// The rights.
    pub prot: Prot,
    /// The rights that mprotect may give.
    pub max_prot: Prot,
    /// How.
    pub flags: MapFlags,
}

/// A process's address space.
pub struct Space<A: Arch> {
    /// Never used twice; the same in all handles to one space.
    pub number: u64,
    inner: AddressSpace<'static, A::Platform>,
}

static NEXT_SPACE: AtomicU64 = AtomicU64::new(1);

impl<A: Arch> Space<A> {
    /// Makes an empty space.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(system: &System<A>) -> Result<Self> {
        use mm_core::platform::Platform;
        let limits = SpaceLimits::for_format(system.memory.platform().format());
        let limits = SpaceLimits {
            min_addr: VirtAddr::new(A::USER_START),
            ..limits
        };
        Ok(Self::numbered(AddressSpace::new(system.memory, limits)?))
    }

    fn numbered(inner: AddressSpace<'static, A::Platform>) -> Self {
        Space {
            number: NEXT_SPACE.fetch_add(1, Ordering::Relaxed),
            inner,
        }
    }

    /// Makes another handle to the same space (vfork, CLONE_VM).
    #[must_use]
    pub fn share(&self) -> Self {
        Space {
            number: self.number,
            inner: self.inner.clone(),
        }
    }

    /// Copies the space, pages shared until somebody writes.
    ///
    /// # Errors
    /// `ENOMEM`; the parent is as before.
    pub fn fork(&self) -> Result<Self> {
        Ok(Self::numbered(self.inner.fork()?))
    }

    /// Makes this the space that the running CPU has loaded.
    pub fn switch(&self, loaded: &mut Option<Active<A>>, load: impl FnOnce(u64)) {
        self.inner.switch(loaded, |root| load(root.table.as_u64()));
    }

    /// Maps zero-filled memory.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map_anonymous(&self, map: &Map) -> Result {
        let request = MapRequest::anonymous(map.length, map.prot);
        self.map(request, map)
    }

    /// Maps a file from a byte offset on.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map_data(&self, map: &Map, data: &FileData<A>, offset: u64) -> Result {
        let request = MapRequest::private(&data.object, offset, map.length, map.prot);
        self.map(request, map)
    }

    fn map(&self, request: MapRequest<'_, 'static, A::Platform>, map: &Map) -> Result {
        let addr = map.at.map(VirtAddr::new);
        let request = MapRequest { addr, ..request }
            .with(map.flags)
            .max_prot(map.max_prot);
        Ok(self.inner.map(&request)?.as_usize())
    }

    /// Maps one step of a program's plan.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map_step(&self, data: &FileData<A>, step: &MapStep) -> Result<()> {
        let (at, length) = (Some(step.addr as usize), step.len as usize);
        let map = Map {
            at,
            length,
            prot: step.prot,
            max_prot: Prot::RWX,
            flags: MapFlags::FIXED,
        };
        match step.kind {
            StepKind::File { offset } => self.map_data(&map, data, offset)?,
            StepKind::Anonymous => self.map_anonymous(&map)?,
        };
        Ok(())
    }

    /// Maps the stack, which grows down from there.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map_stack(&self, at: usize, length: usize, prot: Prot) -> Result<()> {
        let flags = MapFlags::FIXED | MapFlags::GROWS_DOWN;
        self.map_anonymous(&Map {
            at: Some(at),
            length,
            prot,
            max_prot: Prot::RWX,
            flags,
        })?;
        Ok(())
    }

    /// Says where the heap starts.
    pub fn set_heap_start(&self, at: usize) {
        self.inner.set_brk_start(VirtAddr::new(at));
    }

    /// Moves the end of the heap if it can; answers where it is. 0 only asks.
    #[must_use]
    pub fn brk(&self, to: usize) -> usize {
        self.inner
            .brk(Some(VirtAddr::new(to)).filter(|_| to != 0))
            .as_usize()
    }

    /// Unmaps, as munmap(2).
    ///
    /// # Errors
    /// As munmap(2).
    pub fn unmap(&self, at: usize, length: usize) -> Result<()> {
        Ok(self.inner.unmap(VirtAddr::new(at), length)?)
    }

    /// Changes rights, as mprotect(2).
    ///
    /// # Errors
    /// As mprotect(2).
    pub fn protect(&self, at: usize, length: usize, prot: Prot) -> Result<()> {
        Ok(self.inner.protect(VirtAddr::new(at), length, prot)?)
    }

    /// Takes advice, as madvise(2).
    ///
    /// # Errors
    /// As madvise(2).
    pub fn advise(&self, at: usize, length: usize, advice: Advice) -> Result<()> {
        Ok(self.inner.advise(VirtAddr::new(at), length, advice)?)
    }

    /// Answers an error unless the whole range is mapped.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn check_mapped(&self, at: usize, length: usize) -> Result<()> {
        let end = at.checked_add(length).ok_or(Errno::ENOMEM)?;
        let mut here = at;
        while here < end {
            let area = self.inner.find(VirtAddr::new(here)).ok_or(Errno::ENOMEM)?;
            here = area.range.end().addr(page_shift::<A>()).as_usize();
        }
        Ok(())
    }

    /// Writes the text of /proc/self/maps (proc(5)); `path` names the files of the disk.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write_maps<'a>(
        &self,
        out: &mut impl Write,
        path: impl Fn(u64) -> Option<&'a str>,
    ) -> core::fmt::Result {
        let shift = page_shift::<A>();
        for area in self.inner.areas() {
            let (start, end) = (
                area.range.start().addr(shift).as_usize(),
                area.range.end().addr(shift).as_usize(),
            );
            let shared = if area.flags.contains(VmaFlags::SHARED) {
                's'
            } else {
                'p'
            };
            let ino = area.key.unwrap_or(0);
            write!(
                out,
                "{start:08x}-{end:08x} {}{shared} {:08x} 00:01 {ino:<20}",
                area.prot(),
                area.offset
            )?;
            if area.flags.contains(VmaFlags::GROWS_DOWN) {
                out.write_str(" [stack]")?;
            } else if let Some(path) = area.key.and_then(&path) {
                write!(out, " /{path}")?;
            }
            out.write_str("\n")?;
        }
        Ok(())
    }

    /// Counts the pages that the space has present.
    #[must_use]
    pub fn resident_pages(&self) -> usize {
        let counts = self.inner.counts();
        counts.anon.get() + counts.file.get()
    }
}

/// What a regular file holds: its cached pages.
pub struct FileData<A: Arch> {
    object: ObjectRef<'static, A::Platform>,
}

impl<A: Arch> FileData<A> {
    /// Makes the file of the archive's member `index`; its pages come from the disk.
    /// Its key is one more, since files without a disk have key 0.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn from_archive(system: &System<A>, index: usize, size: u64) -> Result<Self> {
        Ok(FileData {
            object: system
                .memory
                .new_object(PagerFacts::file(index as u64 + 1, size))?,
        })
    }

    /// Makes an empty file that lives in memory only.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn in_memory(system: &System<A>) -> Result<Self> {
        Ok(FileData {
            object: system.memory.new_object(PagerFacts::memory(0))?,
        })
    }

    /// Answers the size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.object.size()
    }
}

/// A node of the tree of files.
pub type FileNode<A> = crate::fs::tree::Node<FileData<A>>;

/// What became of a user's page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The access will succeed.
    Resolved,
    /// Something was waited for; ask again.
    Retry,
    /// The program gets this signal with this `si_code`.
    Signal(u32, i32),
    /// There is no memory left.
    OutOfMemory,
}

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;

impl<A: Arch> System<A> {
    /// Resolves a page fault of the running task, or says what is to be done.
    pub fn resolve_fault(&self, space: &Space<A>, address: usize, access: FaultAccess) -> Outcome {
        let access = match access {
            FaultAccess::Read => Access::Read,
            FaultAccess::Write => Access::Write,
            FaultAccess::Execute => Access::Exec,
        };
        match space.inner.fault(&Fault {
            addr: VirtAddr::new(address),
            access,
            mode: Mode::User,
        }) {
            FaultOutcome::Resolved(_) => Outcome::Resolved,
            FaultOutcome::Wait(ticket) => match self.await_ticket(ticket) {
                Ok(()) => Outcome::Retry,
                Err(_) => Outcome::OutOfMemory,
            },
            FaultOutcome::Signal(Signal::SegvMapErr(_)) => Outcome::Signal(SIGSEGV, SEGV_MAPERR),
            FaultOutcome::Signal(Signal::SegvAccErr(_)) => Outcome::Signal(SIGSEGV, SEGV_ACCERR),
            FaultOutcome::Signal(Signal::BusAdrErr(_)) => Outcome::Signal(SIGBUS, BUS_ADRERR),
            FaultOutcome::OutOfMemory => Outcome::OutOfMemory,
            FaultOutcome::KernelBug => Outcome::Signal(SIGSEGV, SEGV_MAPERR),
        }
    }

    /// Sleeps until a ticket is worth asking again.
    ///
    /// # Errors
    /// `ENOMEM` for a ticket that waits for memory: nothing frees it here.
    fn await_ticket(&self, ticket: Ticket<'static, A::Platform>) -> Result<()> {
        let key = match ticket {
            Ticket::Start(request) => {
                let key = request.ticket_key();
                self.start_read(request);
                key
            }
            Ticket::Join(key) => key,
            Ticket::Memory(_) => return Err(Errno::ENOMEM),
        };
        let finished = || (!self.memory.is_pending(key)).then_some(());
        let _ = self.wait_until(Channel::Transfer(key), None, Patience::Patient, finished);
        Ok(())
    }

    /// Copies bytes from a program.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn read_user(&self, space: &Space<A>, at: usize, into: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let progress = space.inner.read(from(at, done)?, &mut into[done..])?;
            done += self.after(progress)?;
        }
        Ok(())
    }

    /// Copies bytes to a program.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn write_user(&self, space: &Space<A>, at: usize, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let progress = space.inner.write(from(at, done)?, &bytes[done..])?;
            done += self.after(progress)?;
        }
        Ok(())
    }

    /// Copies a string from a program, without its NUL, which must come within `most`
    /// bytes.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`; `E2BIG` when there is no NUL in time.
    pub fn read_user_string(&self, space: &Space<A>, at: usize, most: usize) -> Result<Vec<u8>> {
        const PIECE: usize = 256;
        let mut string = Vec::new();
        while string.len() < most {
            let mut piece = [0; PIECE];
            let piece = &mut piece[..PIECE.min(most - string.len())];
            let progress = space.inner.read_cstr(from(at, string.len())?, piece)?;
            let (done, waits) = (progress.done, progress.wait.is_some());
            string.try_reserve(done).map_err(|_| Errno::ENOMEM)?;
            string.extend_from_slice(&piece[..done]);
            self.after(progress)?;
            // Short without a ticket: the NUL, or a byte that cannot be read.
            if done < piece.len() && !waits {
                let mut last = [0];
                self.read_user(space, at.wrapping_add(string.len()), &mut last)?;
                return Ok(string);
            }
        }
        Err(Errno::E2BIG)
    }

    /// Loads a futex's word in one piece.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn load_user_word(&self, space: &Space<A>, at: usize) -> Result<u32> {
        loop {
            match space.inner.load_u32(VirtAddr::new(at))? {
                Word32::Value(value) => return Ok(value),
                Word32::Wait(ticket) => self.await_ticket(ticket)?,
            }
        }
    }

    /// Waits as a transfer says; answers how far it came. An error counts only where
    /// nothing was done: asked again for the rest, the transfer answers it first.
    fn after(&self, progress: Progress<'static, A::Platform>) -> Result {
        match progress {
            Progress {
                done: 0,
                error: Some(error),
                ..
            } => Err(error.into()),
            Progress {
                done,
                wait: Some(ticket),
                ..
            } => self.await_ticket(ticket).map(|()| done),
            Progress { done, .. } => Ok(done),
        }
    }

    /// Faults a range in, as far as it goes (MAP_POPULATE).
    pub fn populate(&self, space: &Space<A>, at: usize, length: usize) {
        const PIECE: usize = 1 << 20;
        let mut done = 0;
        while done < length {
            self.breathe();
            let piece = PIECE.min(length - done);
            let Ok(progress) = space.inner.populate(VirtAddr::new(at + done), piece) else {
                return;
            };
            let waits = progress.wait.is_some();
            match self.after(progress) {
                Ok(0) if !waits => return,
                Ok(n) => done += n,
                Err(_) => return,
            }
        }
    }

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

    /// Writes a file's bytes; the file grows as needed.
    ///
    /// # Errors
    /// `ENOSPC` when there is no memory, `EFBIG`.
    pub fn write_data(&self, data: &FileData<A>, at: u64, bytes: &[u8]) -> Result {
        at.checked_add(bytes.len() as u64)
            .filter(|end| *end <= i64::MAX as u64)
            .ok_or(Errno::EFBIG)?;
        // Files in memory leave programs a sixteenth of it: a full /tmp kills nobody.
        let (all, free) = self.frames();
        if at.saturating_add(bytes.len() as u64) > data.size() && free < all / 16 {
            return Err(Errno::ENOSPC);
        }
        let mut done = 0;
        while done < bytes.len() {
            let progress = data.object.write(at + done as u64, &bytes[done..]);
            let waits = progress.wait.is_some();
            match self.after(progress) {
                Ok(0) if !waits => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(Errno::ENOMEM) => return Err(Errno::ENOSPC),
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Cuts or extends a file.
    ///
    /// # Errors
    /// `EFBIG`, `ENOMEM`.
    pub fn set_data_size(&self, data: &FileData<A>, size: u64) -> Result<()> {
        Ok(data.object.set_size(size)?)
    }

    /// Answers the physical address of the kernel's own root table.
    pub fn kernel_root(&self) -> u64 {
        self.memory
            .frames()
            .kernel_root()
            .map_or(0, |root| root.addr(page_shift::<A>()).as_u64())
    }

    /// Counts the frames of the machine: all, free.
    pub fn frames(&self) -> (usize, usize) {
        let stats = self.memory.frame_stats();
        (stats.total, stats.free)
    }
}

/// What is in use, and what was done: equal at boot and at the end but for the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Frames that nobody uses.
    pub free_frames: usize,
    /// Nodes of all pools that are in use.
    pub nodes: usize,
    /// Blocks of frames that were handed out.
    pub allocated: usize,
    /// Blocks of frames that came back.
    pub freed: usize,
}

impl<A: Arch> System<A> {
    /// Counts what is in use.
    pub fn counts(&self) -> Counts {
        let usage = self.memory.usage();
        let frames = self.memory.frame_stats();
        let nodes = [
            usage.spaces,
            usage.vmas,
            usage.anon_vmas,
            usage.chains,
            usage.objects,
            usage.radix_nodes,
        ];
        Counts {
            free_frames: usage.free_frames,
            nodes: nodes.iter().sum(),
            allocated: frames.allocations,
            freed: frames.frees,
        }
    }

    /// Answers the counters of what was done.
    pub fn counters(&self) -> &Stats {
        self.memory.stats()
    }

    /// Gives back what is only kept for speed.
    pub fn drain(&self) {
        self.arch.drain_heap();
        self.memory.drain();
    }
}

fn from(at: usize, done: usize) -> Result<VirtAddr> {
    at.checked_add(done).map(VirtAddr::new).ok_or(Errno::EFAULT)
}

/// What the disk is asked for: the archive's member.
pub fn file_of<A: Arch>(request: &Request<A>) -> Option<usize> {
    usize::try_from(request.key()).ok()?.checked_sub(1)
}

/// Fills a page that was asked for from a file's bytes, and finishes the transfer.
pub fn finish<A: Arch>(mut request: Request<A>, bytes: Option<&[u8]>) -> TransferKey {
    let key = request.ticket_key();
    let from = usize::try_from(request.offset()).unwrap_or(usize::MAX);
    match bytes {
        Some(bytes) => {
            // What lies past the page is ignored, what is not filled reads as zero.
            request.fill(0, bytes.get(from..).unwrap_or_default());
            request.finish(Ok(()));
        }
        None => request.finish(Err(TicketError)),
    }
    key
}
