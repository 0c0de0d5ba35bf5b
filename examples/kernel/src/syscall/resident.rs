//! Calls about which pages are there: mlock(2) and its family, mincore(2), MADV_POPULATE.
//!
//! Which areas are locked, and what is asked of a range, is mm-core's to say; what brings their pages
//! in may wait, and is here. This kernel takes no page away from a program, locked or not.

use mm_core::space::LockKind;

use super::Call;
use crate::arch::{Arch, FaultAccess};
use crate::errno::{Errno, Result};
use crate::memory::{Outcome, Space, page_shift};
use crate::task::signal::SIGSEGV;

/// What mlockall(2) takes.
const MCL_CURRENT: u32 = 1;
const MCL_FUTURE: u32 = 2;
const MCL_ONFAULT: u32 = 4;
/// The flag of mlock2(2): no page is brought in.
const MLOCK_ONFAULT: u32 = 1;

impl<A: Arch> Call<'_, A> {
    /// `flags` is an int.
    pub(super) fn mlock(&self, at: usize, length: usize, flags: usize) -> Result {
        let kind = match flags as u32 {
            0 => LockKind::Now,
            MLOCK_ONFAULT => LockKind::OnFault,
            _ => return Err(Errno::EINVAL),
        };
        let space = self.space()?;
        space.lock(at, length, kind)?;
        let within = at % (1 << page_shift::<A>());
        if self.populate_locked(&space, at - within, length.wrapping_add(within)) {
            Ok(0)
        } else {
            // The range is locked all the same (Linux: __mlock_posix_error_return).
            Err(Errno::ENOMEM)
        }
    }

    pub(super) fn munlock(&self, at: usize, length: usize) -> Result {
        self.space()?.unlock(at, length).map(|()| 0)
    }

    /// `flags` is an int.
    pub(super) fn mlockall(&self, flags: usize) -> Result {
        let flags = flags as u32;
        let known = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;
        if flags & !known != 0 || flags & !MCL_ONFAULT == 0 {
            return Err(Errno::EINVAL);
        }
        let kind = if flags & MCL_ONFAULT == 0 {
            LockKind::Now
        } else {
            LockKind::OnFault
        };
        let space = self.space()?;
        let asked = |bit: u32| Some(kind).filter(|_| flags & bit != 0);
        space.lock_all(asked(MCL_CURRENT), asked(MCL_FUTURE))?;
        if flags & MCL_CURRENT != 0 {
            let areas = space.mapped();
            for (start, length) in areas.filter(|area| space.wants_pages(area.0)) {
                // What cannot come is left out: an area may have no rights (Linux: mm_populate).
                let _ = self.system.populate(&space, start, length);
            }
        }
        Ok(0)
    }

    pub(super) fn munlockall(&self) -> Result {
        self.space()?.unlock_all().map(|()| 0)
    }

    /// Brings the pages of a range in, area by area, where they are locked and not as they come;
    /// answers whether that was all of them.
    pub(super) fn populate_locked(&self, space: &Space<A>, at: usize, length: usize) -> bool {
        let end = at.saturating_add(length);
        let mut parts = space
            .mapped()
            .map(|(start, bytes)| (start.max(at), (start + bytes).min(end)))
            .skip_while(|(start, stop)| stop <= start)
            .take_while(|(start, stop)| start < stop);
        parts.all(|(start, stop)| {
            !space.wants_pages(start) || self.system.populate(space, start, stop - start)
        })
    }

    /// Tells of each page whether the program could use it without a read.
    pub(super) fn mincore(&self, at: usize, length: usize, vector: usize) -> Result {
        const PIECE: usize = 256;
        let page = 1usize << page_shift::<A>();
        if at % page != 0 {
            return Err(Errno::EINVAL);
        }
        let space = self.space()?;
        let pages = length.div_ceil(page);
        for first in (0..pages).step_by(PIECE) {
            self.system.breathe();
            let mut there = [0; PIECE];
            let there = &mut there[..PIECE.min(pages - first)];
            let start = first
                .checked_mul(page)
                .and_then(|from| at.checked_add(from));
            let start = start.ok_or(Errno::ENOMEM)?;
            space.check_mapped(start, there.len() * page)?;
            for (place, page) in there.iter_mut().zip((start..).step_by(page)) {
                *place = u8::from(space.is_resident(page).ok_or(Errno::ENOMEM)?);
            }
            self.put(vector.wrapping_add(first), there)?;
        }
        Ok(0)
    }

    /// Brings pages in as accesses of this kind would, up to the first that cannot be had.
    pub(super) fn populate_for(&self, at: usize, length: usize, access: FaultAccess) -> Result {
        let space = self.space()?;
        let page = 1usize << page_shift::<A>();
        let length = checked::<A>(at, length)?;
        for page in (at..at + length).step_by(page) {
            self.system.breathe();
            loop {
                // Each time: below a stack, a fault without this would grow it.
                space.check_mapped(page, 1)?;
                // A machine may load where only stores are asked for; Linux brings nothing in.
                if access == FaultAccess::Read && !space.is_readable(page) {
                    return Err(Errno::EINVAL);
                }
                match self.system.resolve_fault(&space, page, access) {
                    Outcome::Resolved => break,
                    Outcome::Retry => {}
                    Outcome::Signal(SIGSEGV, _) => return Err(Errno::EINVAL),
                    Outcome::Signal(..) => return Err(Errno::EFAULT),
                    Outcome::OutOfMemory => return Err(Errno::ENOMEM),
                }
            }
        }
        Ok(0)
    }
}

/// Rounds a length up to whole pages.
///
/// # Errors
/// `EINVAL` for an address within a page, and for a range that wraps.
pub(super) fn checked<A: Arch>(at: usize, length: usize) -> Result {
    let page = 1usize << page_shift::<A>();
    let length = length.checked_next_multiple_of(page).ok_or(Errno::EINVAL)?;
    if at % page != 0 || at.checked_add(length).is_none() {
        return Err(Errno::EINVAL);
    }
    Ok(length)
}
