//! `populate`: fault before use (MAP_POPULATE, mlock(2), MADV_POPULATE_*).

use super::AddressSpace;
use super::upkeep::Nodes;
use crate::addr::VirtAddr;
use crate::error::MmError;
use crate::fault::FaultOutcome;
use crate::object::Progress;
use crate::platform::Platform;
use crate::prot::Access;
use crate::range::PageRange;
use crate::vma::VmaFlags;

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Makes the pages of a byte range present, as a load or (for private
    /// writable areas) a store would. `done` counts bytes; call again from
    /// there after waiting. What stopped it there is in `error`.
    ///
    /// # Errors
    /// `Invalid` for a bad range; when nothing could be done: `Unmapped` over
    /// a hole, `Denied` where no access is allowed, `Fault` past the end of a
    /// file, `OutOfMemory`. Pages made present stay.
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
            let at = page.addr(self.shift());
            let stopped = match self.populate_access(&cx, page) {
                None => Some(MmError::Unmapped(at)),
                Some(Err(error)) => Some(error),
                Some(Ok(access)) => match self.fault_page(&cx, page, access, at) {
                    FaultOutcome::Resolved(_) => None,
                    FaultOutcome::Wait(ticket) => {
                        return Ok(Progress {
                            done,
                            wait: Some(ticket),
                            error: None,
                        });
                    }
                    FaultOutcome::OutOfMemory => Some(MmError::OutOfMemory),
                    FaultOutcome::Signal(_) | FaultOutcome::KernelBug => Some(MmError::Fault(at)),
                },
            };
            match stopped {
                Some(error) if done == 0 => return Err(error),
                Some(error) => {
                    return Ok(Progress {
                        done,
                        wait: None,
                        error: Some(error),
                    });
                }
                None => done = done.saturating_add(size),
            }
        }
        Ok(Progress::done(done))
    }

    /// Returns the access that makes a page useful; `None` over a hole.
    fn populate_access(
        &self,
        cx: &crate::cx::Cx<'m, P>,
        page: crate::addr::Vpn,
    ) -> Option<Result<Access, MmError>> {
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
