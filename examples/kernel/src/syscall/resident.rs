//! Calls about which pages are there: mlock(2) and its family, mincore(2), MADV_POPULATE.
//!
//! This kernel takes no page away from a program, so a page that is there is as good as locked:
//! mlock brings the pages in and munlock has nothing to undo. Ranges are checked as Linux does.

use super::Call;
use crate::arch::{Arch, FaultAccess};
use crate::errno::{Errno, Result};
use crate::memory::{Outcome, page_shift};
use crate::task::signal::SIGSEGV;

/// What mlockall(2) takes: MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT.
const MCL_ALL: usize = 7;
const MCL_CURRENT: usize = 1;
const MCL_ONFAULT: usize = 4;
/// The flag of mlock2(2): no page is brought in.
const MLOCK_ONFAULT: usize = 1;

impl<A: Arch> Call<'_, A> {
    pub(super) fn mlock(&self, at: usize, length: usize, flags: usize) -> Result {
        if flags & !MLOCK_ONFAULT != 0 {
            return Err(Errno::EINVAL);
        }
        let (start, length) = widened::<A>(at, length)?;
        self.space()?.check_mapped(start, length)?;
        if flags & MLOCK_ONFAULT == 0 && !self.system.populate(&*self.space()?, start, length) {
            // Linux: __mlock_posix_error_return.
            return Err(Errno::ENOMEM);
        }
        Ok(0)
    }

    pub(super) fn munlock(&self, at: usize, length: usize) -> Result {
        let (start, length) = widened::<A>(at, length)?;
        self.space()?.check_mapped(start, length).map(|()| 0)
    }

    pub(super) fn mlockall(&self, flags: usize) -> Result {
        if flags == 0 || flags & !MCL_ALL != 0 || flags == MCL_ONFAULT {
            return Err(Errno::EINVAL);
        }
        if flags & MCL_CURRENT != 0 && flags & MCL_ONFAULT == 0 {
            let space = self.space()?;
            for (start, length) in space.mapped() {
                // What cannot come is left out: an area may have no rights (Linux: mm_populate).
                let _ = self.system.populate(&space, start, length);
            }
        }
        Ok(0)
    }

    /// Tells of each page whether the program could use it without a read. A page of a file that
    /// is cached and not entered yet counts as absent, as it may on Linux a moment later.
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
                *place = u8::from(space.is_present(page));
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

/// Rounds a range outwards to whole pages, as mlock does.
fn widened<A: Arch>(at: usize, length: usize) -> Result<(usize, usize)> {
    let within = at & ((1 << page_shift::<A>()) - 1);
    let length = length.wrapping_add(within);
    Ok((at - within, checked::<A>(at - within, length)?))
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
