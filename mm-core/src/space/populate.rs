//! `populate`: fault before use (MAP_POPULATE, mlock(2), MADV_POPULATE_*).
//!
//! ```text
//!   for each page:  what access? ─► fault as the user would ─► entry allows it? ─► next page
//!                        ▲              │ SIGSEGV  │ Wait, error  │ no
//!                        ├──────────────┘          │              │
//!                        └─────────────────────────┼──────────────┘
//!                                                  ▼
//!                                             with progress
//! ```
//!
//! A fault that lost a race is resolved, as the access will be tried again; whoever
//! won may have entered less than was asked for: a page of zeroes, or the page of the
//! object itself, either without WRITE. So the entry has the last word. Nor is the area held
//! between the question and the fault: one that does not allow the access any more is asked anew.

use super::AddressSpace;
use super::upkeep::Nodes;
use crate::addr::{VirtAddr, Vpn};
use crate::cx::Cx;
use crate::error::MmError;
use crate::fault::{FaultOutcome, Signal};
use crate::object::{Progress, Ticket};
use crate::platform::Platform;
use crate::prot::Access;
use crate::range::PageRange;
use crate::vma::VmaFlags;

/// Faults on one page after which others are taken to be at it all the time.
const TURNS: usize = 64;

/// What came of one page.
enum Populated<'m, P: Platform> {
    Here,
    Wait(Ticket<'m, P>),
    /// Somebody else took it away or changed it each time.
    Contended,
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Makes the pages of a byte range present, as a load or (for private
    /// writable areas) a store would: no such access of them faults unless
    /// somebody changes them again. `done` counts bytes; call again from
    /// there after waiting. What stopped it there is in `error`; neither is
    /// there when others keep taking the next page away: call again, or leave
    /// it to its first access.
    ///
    /// # Errors
    /// `Invalid` for a bad range; when nothing could be done: `Unmapped` over
    /// a hole, `Denied` where no access is allowed, `Fault` past the end of a
    /// file, where its store is full and where the page is kept from all accesses, `OutOfMemory`.
    /// Pages made present stay.
    ///
    /// # Locks
    /// As [`Self::fault`], page by page.
    pub fn populate(&self, addr: VirtAddr, len: usize) -> Result<Progress<'m, P>, MmError> {
        let range = PageRange::from_bytes(addr, len, self.shift())?;
        if range.end() > self.user_end() {
            return Err(MmError::Invalid(addr));
        }
        let cx = self.mm.cx();
        let size = crate::addr::page_size(self.shift());
        let mut done = 0usize;
        for page in range.iter() {
            let (wait, error) = match self.populate_page(&cx, page) {
                Ok(Populated::Here) => {
                    done = done.saturating_add(size);
                    continue;
                }
                Ok(Populated::Contended) => (None, None),
                Ok(Populated::Wait(ticket)) => (Some(ticket), None),
                Err(error) if done == 0 => return Err(error),
                Err(error) => (None, Some(error)),
            };
            return Ok(Progress { done, wait, error });
        }
        Ok(Progress::done(done))
    }

    /// Makes a page present so that its entry allows the access.
    fn populate_page(&self, cx: &Cx<'m, P>, page: Vpn) -> Result<Populated<'m, P>, MmError> {
        let at = page.addr(self.shift());
        let mut refused = 0usize;
        for _ in 0..TURNS {
            // Asked again each time: the area may be another one by now.
            let access = self.populate_access(cx, page);
            let access = access.ok_or(MmError::Unmapped(at))??;
            match self.fault_page(cx, page, access, at) {
                FaultOutcome::Resolved(_) => {}
                FaultOutcome::Wait(ticket) => return Ok(Populated::Wait(ticket)),
                FaultOutcome::OutOfMemory => return Err(MmError::OutOfMemory),
                FaultOutcome::Signal(Signal::SegvAccErr(_) | Signal::SegvMapErr(_)) => {
                    // Another area than was asked, by now.
                    refused = refused.saturating_add(1);
                    continue;
                }
                FaultOutcome::NoSpace => return Err(MmError::Fault(at)),
                FaultOutcome::Signal(Signal::BusAdrErr(_)) | FaultOutcome::KernelBug => {
                    return Err(MmError::Fault(at));
                }
            }
            if self.is_entered(cx, page, access) {
                return Ok(Populated::Here);
            }
        }
        if refused == TURNS {
            // The area allows it and the page never does: a guard.
            return Err(MmError::Fault(at));
        }
        Ok(Populated::Contended)
    }

    /// Returns the access that makes a page useful; `None` over a hole.
    fn populate_access(&self, cx: &Cx<'m, P>, page: Vpn) -> Option<Result<Access, MmError>> {
        let nodes = Nodes::new(cx, self.mm);
        let node = self.node();
        let _layout = node.lock.read(cx, self.key());
        let vma = nodes.vma(node.vmas.find(&nodes, page)?);
        if vma.is_dying() && !vma.is_replaced() {
            return None;
        }
        let flags = vma.flags();
        Some(
            if flags.contains(VmaFlags::WRITE) && !flags.contains(VmaFlags::SHARED) {
                Ok(Access::Write)
            } else if flags.contains(VmaFlags::READ) {
                Ok(Access::Read)
            } else if flags.contains(VmaFlags::WRITE) {
                Ok(Access::Write)
            } else if flags.contains(VmaFlags::EXEC) {
                Ok(Access::Exec)
            } else {
                Err(MmError::Denied(page.addr(self.shift())))
            },
        )
    }
}
