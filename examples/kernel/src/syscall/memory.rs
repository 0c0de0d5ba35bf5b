//! The memory calls: words of mmap(2) and its family into requests to the space.
//!
//! Each flag that this kernel does not know is refused where Linux refuses it and
//! ignored where Linux ignores it; all rules about ranges are mm-core's.

use mm_core::prot::Prot;
use mm_core::space::{Advice, LockKind, MapFlags, RemapFlags};

use super::resident::checked;
use super::{Call, abi};
use crate::arch::{Arch, FaultAccess};
use crate::errno::{Errno, Result};
use crate::fs::device::Device;
use crate::fs::open::{FileKind, OpenFile, flag};
use crate::memory::{Map, Outcome};

const SHARED: usize = 1;
const PRIVATE: usize = 2;
const SHARED_VALIDATE: usize = 3;
const TYPE: usize = 0xf;
const FIXED: usize = 0x10;
const ANONYMOUS: usize = 0x20;
const GROWSDOWN: usize = 0x100;
const LOCKED: usize = 0x2000;
const NORESERVE: usize = 0x4000;
const POPULATE: usize = 0x8000;
const NONBLOCK: usize = 0x1_0000;
const HUGETLB: usize = 0x4_0000;
const FIXED_NOREPLACE: usize = 0x10_0000;
/// What `SHARED_VALIDATE` does not refuse (Linux: LEGACY_MAP_MASK).
const LEGACY: usize = 0x7c07_f9f3;

fn prot_of(bits: usize) -> Result<Prot> {
    const KNOWN: usize = 7;
    /// PROT_SEM means nothing.
    const SEM: usize = 8;
    if bits & !(KNOWN | SEM) != 0 {
        Err(Errno::EINVAL)
    } else {
        Ok(Prot::from_bits_truncate((bits & KNOWN) as u8))
    }
}

impl<A: Arch> Call<'_, A> {
    /// Shows what was written at `start..end` to fetches, page by page; each page is faulted in as
    /// by a load, so that the architecture finds it.
    pub(super) fn sync_code(&mut self, start: usize, end: usize) -> Result {
        let step = 1usize << A::PAGE_SHIFT;
        let space = self.space()?;
        for page in (start & !(step - 1)..end).step_by(step) {
            self.system.breathe();
            loop {
                let found = self.system.resolve_fault(&space, page, FaultAccess::Read);
                match found {
                    Outcome::Resolved => break,
                    Outcome::Retry => {}
                    Outcome::Signal(..) => return Err(Errno::EFAULT),
                    Outcome::OutOfMemory => return Err(Errno::ENOMEM),
                }
            }
            self.system.arch.sync_user_page(page);
        }
        Ok(0)
    }

    pub(super) fn mmap(
        &self,
        at: usize,
        length: usize,
        prot: usize,
        flags: usize,
        fd: usize,
        offset: u64,
    ) -> Result {
        let page = 1usize << crate::memory::page_shift::<A>();
        // Unknown bits of prot are ignored by mmap, unlike mprotect.
        let prot = prot_of(prot & 7)?;
        if offset % page as u64 != 0 {
            return Err(Errno::EINVAL);
        }
        // From here on in the order in which Linux finds its errors (do_mmap).
        let file = if flags & ANONYMOUS == 0 {
            Some(self.file(fd)?)
        } else {
            None
        };
        let exact = flags & (FIXED | FIXED_NOREPLACE) != 0;
        // There are no huge pages to be had.
        if flags & HUGETLB != 0 || length == 0 || (exact && at % page != 0) {
            return Err(Errno::EINVAL);
        }
        if length.checked_next_multiple_of(page).is_none() {
            return Err(Errno::ENOMEM);
        }
        let mut wanted = match flags & TYPE {
            SHARED => MapFlags::SHARED,
            // What there is to validate is known of files only.
            SHARED_VALIDATE if file.is_some() && flags & !LEGACY != 0 => {
                return Err(Errno::EOPNOTSUPP);
            }
            SHARED_VALIDATE if file.is_some() => MapFlags::SHARED,
            PRIVATE => MapFlags::empty(),
            _ => return Err(Errno::EINVAL),
        };
        for (bit, flag) in [
            (FIXED, MapFlags::FIXED),
            (FIXED_NOREPLACE, MapFlags::FIXED_NOREPLACE),
            (GROWSDOWN, MapFlags::GROWS_DOWN),
            (LOCKED, MapFlags::LOCKED),
            (NORESERVE, MapFlags::NO_RESERVE),
        ] {
            wanted.set(flag, flags & bit != 0);
        }
        // A hint is rounded down, as Linux does; 0 is none.
        let at = if exact {
            Some(at)
        } else {
            Some(at & !(page - 1)).filter(|at| *at != 0)
        };
        let space = self.space()?;
        let map = Map {
            at,
            length,
            prot,
            max_prot: Prot::RWX,
            flags: wanted,
            below: abi::map_below(A::SYSCALL_ABI, flags),
        };
        let start = match file {
            None => space.map_anonymous(&map)?,
            Some(file) => self.map_file(&file, map, offset)?,
        };
        let wants_pages = match space.lock_kind(start) {
            Some(kind) => kind == LockKind::Now,
            None => flags & (POPULATE | NONBLOCK) == POPULATE,
        };
        if wants_pages {
            self.system.populate(&space, start, length);
        }
        Ok(start)
    }

    fn map_file(&self, file: &OpenFile<A>, map: Map, offset: u64) -> Result {
        let space = self.space()?;
        let shared = map.flags.contains(MapFlags::SHARED);
        let max_prot = if shared && *file.flags.lock() & flag::ACCESS == 0 {
            Prot::RX
        } else {
            Prot::RWX
        };
        if !max_prot.contains(map.prot) {
            return Err(Errno::EACCES);
        }
        file.readable().map_err(|_| Errno::EACCES)?;
        let map = Map { max_prot, ..map };
        match &file.kind {
            FileKind::Device(_, Device::Zero) => space.map_anonymous(&map),
            FileKind::Regular(_) => {
                // No file reaches beyond what `off_t` can say (Linux: file_mmap_ok).
                if offset.saturating_add(map.length as u64) > i64::MAX as u64 {
                    return Err(Errno::EOVERFLOW);
                }
                space.map_data(&map, file.data(Errno::ENODEV)?, offset)
            }
            _ => Err(Errno::ENODEV),
        }
    }

    pub(super) fn munmap(&self, at: usize, length: usize) -> Result {
        self.space()?.unmap(at, length).map(|()| 0)
    }

    /// The flags of mremap(2) are the library's.
    pub(super) fn mremap(
        &self,
        (at, old): (usize, usize),
        new: usize,
        flags: usize,
        to: usize,
    ) -> Result {
        let known = u32::try_from(flags).ok().and_then(RemapFlags::from_bits);
        let flags = known.ok_or(Errno::EINVAL)?;
        let space = self.space()?;
        let start = space.remap((at, old), new, flags, to)?;
        // What a locked mapping gains is there at once.
        let old = checked::<A>(at, old)?;
        if new > old && space.wants_pages(start) {
            self.system.populate(&space, start + old, new - old);
        }
        Ok(start)
    }

    pub(super) fn mprotect(&self, at: usize, length: usize, prot: usize) -> Result {
        const GROWS_DOWN: usize = 0x0100_0000;
        const GROWS_UP: usize = 0x0200_0000;
        let page = 1usize << crate::memory::page_shift::<A>();
        let grows = prot & (GROWS_DOWN | GROWS_UP);
        // In the order in which Linux finds its errors (do_mprotect_pkey).
        if grows == GROWS_DOWN | GROWS_UP || at % page != 0 {
            return Err(Errno::EINVAL);
        }
        if length == 0 {
            return Ok(0);
        }
        checked::<A>(at, length).map_err(|_| Errno::ENOMEM)?;
        let (space, rights) = (self.space()?, prot_of(prot & !grows)?);
        match grows {
            GROWS_DOWN => space.protect_stack(at, length, rights)?,
            GROWS_UP => {
                // No area grows up on these architectures.
                space.check_mapped(at, 1)?;
                return Err(Errno::EINVAL);
            }
            _ => space.protect(at, length, rights)?,
        }
        Ok(0)
    }

    /// `first` is in pages.
    pub(super) fn remap_file_pages(
        &self,
        (at, length): (usize, usize),
        prot: usize,
        first: usize,
        flags: usize,
    ) -> Result {
        let (space, shift) = (self.space()?, crate::memory::page_shift::<A>());
        let end = first.checked_add(length >> shift);
        if prot != 0 || end.is_none() || at.checked_add(length).is_none() {
            return Err(Errno::EINVAL);
        }
        let offset = (first as u64).checked_mul(1 << shift);
        space.rearrange(at, length, offset.ok_or(Errno::EOVERFLOW)?)?;
        if flags & NONBLOCK == 0 || space.wants_pages(at) {
            self.system
                .populate(&space, at & !((1 << shift) - 1), length);
        }
        Ok(0)
    }

    /// No flag of mseal(2) is defined yet. Linux offers the call to 64-bit programs only.
    pub(super) fn mseal(&self, at: usize, length: usize, flags: usize) -> Result {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        self.space()?.seal(at, length).map(|()| 0)
    }

    pub(super) fn brk(&self, to: usize) -> Result {
        let space = self.space()?;
        let before = space.brk(0);
        let end = space.brk(to);
        if end > before && space.wants_pages(end - 1) {
            let page = 1usize << crate::memory::page_shift::<A>();
            let grown = before & !(page - 1);
            self.populate_locked(&space, grown, end - grown);
        }
        Ok(end)
    }

    pub(super) fn madvise(&self, at: usize, length: usize, advice: usize) -> Result {
        // It is an int.
        let advice = match advice as u32 {
            // WILLNEED, COLD, PAGEOUT, and the hints about equal and huge pages change nothing
            // that a program can see.
            advice @ (3 | 12..=15 | 20 | 21) => {
                const COLD: u32 = 20;
                let space = self.space()?;
                let length = checked::<A>(at, length)?;
                if advice >= COLD && space.has_locked(at, length) {
                    return Err(Errno::EINVAL);
                }
                return space.check_mapped(at, length).map(|()| 0);
            }
            // FREE: at once, as there is no reclaim that could do it later (Linux up to 4.11
            // without swap). It is for memory without a file alone.
            8 => {
                let length = checked::<A>(at, length)?;
                if !self.space()?.is_private_anonymous(at, length) {
                    return Err(Errno::EINVAL);
                }
                Advice::DontNeed
            }
            22 => return self.populate_for(at, length, FaultAccess::Read),
            23 => return self.populate_for(at, length, FaultAccess::Write),
            0 => Advice::Normal,
            1 => Advice::Random,
            2 => Advice::Sequential,
            4 => Advice::DontNeed,
            9 => Advice::Remove,
            10 => Advice::DontFork,
            11 => Advice::DoFork,
            16 => Advice::DontDump,
            17 => Advice::DoDump,
            18 => Advice::WipeOnFork,
            19 => Advice::KeepOnFork,
            24 => Advice::DontNeedLocked,
            _ => return Err(Errno::EINVAL),
        };
        self.space()?.advise(at, length, advice).map(|()| 0)
    }

    pub(super) fn msync(&self, at: usize, length: usize, flags: usize) -> Result {
        const ASYNC: usize = 1;
        const INVALIDATE: usize = 2;
        const SYNC: usize = 4;
        let page = 1usize << crate::memory::page_shift::<A>();
        if flags & !7 != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC || at % page != 0 {
            return Err(Errno::EINVAL);
        }
        let space = self.space()?;
        if flags & INVALIDATE != 0 && space.has_locked(at, checked::<A>(at, length)?) {
            return Err(Errno::EBUSY);
        }
        // All files live in memory: there is nothing to write back.
        space.check_mapped(at, length).map(|()| 0)
    }
}
