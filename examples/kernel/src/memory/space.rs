//! A process's address space: the verbs of mmap(2) and its family in this kernel's words.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use mm_core::addr::VirtAddr;
use mm_core::format::PageTableFormat;
use mm_core::platform::Platform;
use mm_core::prot::Prot;
use mm_core::space::{
    AddressSpace, Advice, LockKind, MapFlags, MapRequest, RemapFlags, Root, SpaceLimits, VmaInfo,
};
use mm_core::vma::VmaFlags;

use super::usage::Peaks;
use super::{Active, Claim, FileData, page_shift};
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::system::System;
use crate::task::limit::{self, Limits};

/// A file as /proc/self/maps shows it.
pub struct FileName {
    /// The number of its file system, as in `st_dev`.
    pub device: u64,
    /// Inode number.
    pub ino: u64,
    /// Its path, or its last one and that it is deleted.
    pub path: Vec<u8>,
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
    /// Where a choice must end.
    pub below: Option<usize>,
}

impl<A: Arch> System<A> {
    /// Answers the first address above all that a program can map, in bytes: where it asks for it,
    /// that may be above what it gets ([`Arch::user_end`]).
    #[must_use]
    pub fn last_user_end(&self) -> usize {
        let end = self.memory.platform().format().user_end();
        end.addr(page_shift::<A>()).as_usize()
    }
}

/// A process's address space.
pub struct Space<A: Arch> {
    /// Never used twice; the same in all handles to one space.
    pub number: u64,
    /// What runs here, which nobody writes meanwhile.
    program: Arc<Claim<A>>,
    /// Where the heap starts, in bytes.
    pub(super) heap_start: usize,
    /// Where the program's stack pointer was first, in bytes.
    stack_start: usize,
    pub(super) peaks: Arc<Peaks>,
    pub(super) inner: AddressSpace<'static, A::Platform>,
}

static NEXT_SPACE: AtomicU64 = AtomicU64::new(1);

impl<A: Arch> Space<A> {
    /// Makes an empty space for a program.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(system: &System<A>, program: Arc<Claim<A>>) -> Result<Self> {
        let limits = SpaceLimits::for_format(system.memory.platform().format());
        // The stack stands right below `user_end`, mmap's choices as far below as the limits say.
        let reserve = system.last_user_end() - limits.mmap_base.as_usize();
        let limits = SpaceLimits {
            min_addr: VirtAddr::new(A::USER_START),
            mmap_base: VirtAddr::new(system.arch.user_end() - reserve).min(limits.mmap_base),
            // All programs are root's, who may lock what it likes (CAP_IPC_LOCK).
            locked: usize::MAX,
            ..limits
        };
        Ok(Self::numbered(
            AddressSpace::new(system.memory, limits)?,
            program,
        ))
    }

    /// Bounds the space as a process's limits say; not one that a vfork shares: what the child
    /// sets there is for the program that it will exec.
    pub fn set_limits(&self, limits: &Limits) {
        if self.inner.users() == 1 {
            self.inner.set_limits(SpaceLimits {
                address_space: limits.amount(limit::SPACE),
                data: limits.amount(limit::DATA),
                stack: limits.amount(limit::STACK),
                ..self.inner.limits()
            });
        }
    }

    fn numbered(inner: AddressSpace<'static, A::Platform>, program: Arc<Claim<A>>) -> Self {
        Space {
            number: NEXT_SPACE.fetch_add(1, Ordering::Relaxed),
            program,
            heap_start: 0,
            stack_start: 0,
            peaks: Arc::default(),
            inner,
        }
    }

    /// Makes another handle to the same space (vfork, CLONE_VM).
    #[must_use]
    pub fn share(&self) -> Self {
        Space {
            number: self.number,
            program: self.program.clone(),
            heap_start: self.heap_start,
            stack_start: self.stack_start,
            peaks: self.peaks.clone(),
            inner: self.inner.clone(),
        }
    }

    /// Copies the space, pages shared until somebody writes.
    ///
    /// # Errors
    /// `ENOMEM`; the parent is as before.
    pub fn fork(&self) -> Result<Self> {
        Ok(Space {
            heap_start: self.heap_start,
            stack_start: self.stack_start,
            ..Self::numbered(self.inner.fork()?, self.program.clone())
        })
    }

    /// Makes this the space that the running CPU has loaded.
    ///
    /// # Safety
    /// As for the library's [`AddressSpace::switch`](mm_core::space::AddressSpace::switch).
    #[expect(unsafe_code, reason = "the library's has conditions")]
    pub unsafe fn switch(&self, loaded: &mut Option<Active<A>>, load: impl FnOnce(Root)) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.switch(loaded, load) };
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
        let below = map.below.map(VirtAddr::new);
        let request = MapRequest {
            addr,
            below,
            ..request
        }
        .with(map.flags)
        .max_prot(map.max_prot);
        self.note_peaks();
        Ok(self.inner.map(&request)?.as_usize())
    }

    /// Says where the program's stack pointer starts.
    pub fn set_stack_start(&mut self, at: usize) {
        self.stack_start = at;
    }

    /// Answers where the program's stack pointer was first.
    #[must_use]
    pub const fn stack_start(&self) -> usize {
        self.stack_start
    }

    /// Answers where the heap starts.
    #[must_use]
    pub const fn heap_start(&self) -> usize {
        self.heap_start
    }

    /// Moves the end of the heap if it can; answers where it is. 0 only asks.
    #[must_use]
    pub fn brk(&self, to: usize) -> usize {
        self.note_peaks();
        self.inner
            .brk(Some(VirtAddr::new(to)).filter(|_| to != 0))
            .as_usize()
    }

    /// Unmaps, as munmap(2).
    ///
    /// # Errors
    /// As munmap(2).
    pub fn unmap(&self, at: usize, length: usize) -> Result<()> {
        self.note_peaks();
        Ok(self.inner.unmap(VirtAddr::new(at), length)?)
    }

    /// Grows, shrinks or moves a mapping, as mremap(2); answers where it is.
    ///
    /// # Errors
    /// As mremap(2).
    pub fn remap(
        &self,
        (at, old): (usize, usize),
        new: usize,
        flags: RemapFlags,
        to: usize,
    ) -> Result {
        self.note_peaks();
        let to = Some(VirtAddr::new(to));
        let moved = self.inner.remap(VirtAddr::new(at), old, new, flags, to)?;
        Ok(moved.as_usize())
    }

    /// Locks what is mapped, as mlock2(2); the caller brings its pages in
    /// ([`System::populate`]).
    ///
    /// # Errors
    /// As mlock2(2).
    pub fn lock(&self, at: usize, length: usize, kind: LockKind) -> Result<()> {
        Ok(self.inner.lock(VirtAddr::new(at), length, kind)?)
    }

    /// Unlocks what is mapped, as munlock(2).
    ///
    /// # Errors
    /// As munlock(2).
    pub fn unlock(&self, at: usize, length: usize) -> Result<()> {
        Ok(self.inner.unlock(VirtAddr::new(at), length)?)
    }

    /// Locks all that is mapped, or will be, as mlockall(2); `None` does not.
    ///
    /// # Errors
    /// As mlockall(2).
    pub fn lock_all(&self, now: Option<LockKind>, later: Option<LockKind>) -> Result<()> {
        Ok(self.inner.lock_all(now, later)?)
    }

    /// Unlocks all that is mapped, or will be, as munlockall(2).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn unlock_all(&self) -> Result<()> {
        Ok(self.inner.unlock_all()?)
    }

    /// Answers how what is mapped at an address is locked, if it is.
    #[must_use]
    pub fn lock_kind(&self, at: usize) -> Option<LockKind> {
        let flags = self.inner.find(VirtAddr::new(at))?.flags;
        match (
            flags.contains(VmaFlags::LOCKED),
            flags.contains(VmaFlags::LOCK_ON_FAULT),
        ) {
            (true, false) => Some(LockKind::Now),
            (true, true) => Some(LockKind::OnFault),
            (false, _) => None,
        }
    }

    /// Answers whether the pages of what is mapped at an address are there at once: it is locked,
    /// and not as they come.
    #[must_use]
    pub fn wants_pages(&self, at: usize) -> bool {
        self.lock_kind(at) == Some(LockKind::Now)
    }

    /// Answers whether a part of what is mapped in a range is locked.
    #[must_use]
    pub fn has_locked(&self, at: usize, length: usize) -> bool {
        let mut areas = self.areas(at, length);
        areas.any(|area| area.flags.contains(VmaFlags::LOCKED))
    }

    /// Changes rights, as mprotect(2).
    ///
    /// # Errors
    /// As mprotect(2).
    pub fn protect(&self, at: usize, length: usize, prot: Prot) -> Result<()> {
        Ok(self.inner.protect(VirtAddr::new(at), length, prot)?)
    }

    /// Changes rights from the start of a stack on, as mprotect(2) with `PROT_GROWSDOWN`.
    ///
    /// # Errors
    /// As mprotect(2).
    pub fn protect_stack(&self, at: usize, length: usize, prot: Prot) -> Result<()> {
        Ok(self.inner.protect_stack(VirtAddr::new(at), length, prot)?)
    }

    /// Shows other pages of what is shared there, from a byte offset on, as
    /// remap_file_pages(2).
    ///
    /// # Errors
    /// As remap_file_pages(2).
    pub fn rearrange(&self, at: usize, length: usize, offset: u64) -> Result<()> {
        Ok(self.inner.rearrange(VirtAddr::new(at), length, offset)?)
    }

    /// Takes advice, as madvise(2).
    ///
    /// # Errors
    /// As madvise(2).
    pub fn advise(&self, at: usize, length: usize, advice: Advice) -> Result<()> {
        self.note_peaks();
        Ok(self.inner.advise(VirtAddr::new(at), length, advice)?)
    }

    /// Seals what is mapped, as mseal(2).
    ///
    /// # Errors
    /// As mseal(2).
    pub fn seal(&self, at: usize, length: usize) -> Result<()> {
        Ok(self.inner.seal(VirtAddr::new(at), length)?)
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

    /// Answers whether loads are asked for where an address is mapped.
    #[must_use]
    pub fn is_readable(&self, at: usize) -> bool {
        let area = self.inner.find(VirtAddr::new(at));
        area.is_some_and(|area| area.flags.contains(VmaFlags::READ))
    }

    /// Walks what is mapped, in order, each area looked at when its turn comes: its first address
    /// and its bytes.
    pub fn mapped(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let shift = page_shift::<A>();
        self.inner.areas().map(move |area| {
            let start = area.range.start().addr(shift).as_usize();
            (start, area.range.end().addr(shift).as_usize() - start)
        })
    }

    /// Answers whether all that is mapped in a range is private memory without a file.
    #[must_use]
    pub fn is_private_anonymous(&self, at: usize, length: usize) -> bool {
        let mut areas = self.areas(at, length);
        areas.all(|area| area.key.is_none() && !area.flags.contains(VmaFlags::SHARED))
    }

    /// Walks the areas of a range.
    fn areas(&self, at: usize, length: usize) -> impl Iterator<Item = VmaInfo> + '_ {
        let shift = page_shift::<A>();
        let areas = self.inner.areas();
        areas
            .skip_while(move |area| area.range.end().addr(shift).as_usize() <= at)
            .take_while(move |area| area.range.start().addr(shift).as_usize() < at + length)
    }

    /// Answers whether a page could be used without a read, as mincore(2); nothing over a hole.
    #[must_use]
    pub fn is_resident(&self, at: usize) -> Option<bool> {
        self.inner.is_resident(VirtAddr::new(at))
    }

    /// Writes the text of /proc/self/maps (proc(5)); `name` finds files by their objects' keys.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write_maps(
        &self,
        out: &mut impl Write,
        name: impl Fn(u64) -> Option<FileName>,
    ) -> core::fmt::Result {
        let shift = page_shift::<A>();
        let heap = self.heap_start..self.brk(0);
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
            let file = area.key.and_then(&name);
            let (device, ino) = file.as_ref().map_or((0, 0), |file| (file.device, file.ino));
            write!(
                out,
                "{start:08x}-{end:08x} {}{shared} {:08x} 00:{device:02x} {ino:<20}",
                area.prot(),
                area.offset
            )?;
            if let Some(file) = file {
                out.write_str(" ")?;
                // A name of two lines stands in one (Linux: seq_path).
                for (at, line) in String::from_utf8_lossy(&file.path).split('\n').enumerate() {
                    out.write_str(if at > 0 { "\\012" } else { "" })?;
                    out.write_str(line)?;
                }
            } else if area.key == Some(0) {
                out.write_str(" /dev/zero (deleted)")?;
            } else if area.key.is_some() {
                out.write_str(" (deleted)")?;
            } else if start < heap.end && end > heap.start {
                out.write_str(" [heap]")?;
            } else if start <= self.stack_start && self.stack_start <= end {
                out.write_str(" [stack]")?;
            }
            out.write_str("\n")?;
        }
        if let Some(start) = A::CALL_PAGE {
            let end = start + (1 << shift);
            writeln!(
                out,
                "{start:x}-{end:x} --xp 00000000 00:00 {:<20} [vsyscall]",
                0
            )?;
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
