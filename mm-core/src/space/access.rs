//! `read`, `write`: copy to and from user memory, faulting in.
//!
//! ```text
//!   for each page:  lock its table ─► entry allows it? ─► copy ─► unlock
//!                                        │ no
//!                                        ▼
//!                       fault as the user would ─► again │ Wait │ error
//! ```
//!
//! The copy happens under the table's lock, at most a page of it: so it falls
//! wholly before or after a fork, an unmap or a copy-on-write of that page
//! (lessons 40 and 43, H15), and no page needs to be pinned. A bad address is
//! an error, never an access to kernel memory: addresses are checked against
//! user space, and only entries with the USER mark are followed.

use super::AddressSpace;
use crate::addr::{Pfn, VirtAddr, Vpn};
use crate::cx::Cx;
use crate::error::MmError;
use crate::fault::{FaultOutcome, WordOf};
use crate::format::{AdBit, AttrFlags, Attrs, Entry, PageTableFormat};
use crate::object::Progress;
use crate::platform::{PhysMemory, Platform};
use crate::prot::Access;

/// Faults on one page after which an access gives up: each should be the last.
const TURNS: usize = 64;

/// What to do with a part of a frame.
trait Visit {
    fn access(&self) -> Access;
    /// Handles `len` bytes at `offset` of the frame; `done` were handled before.
    fn visit<M: PhysMemory>(
        &mut self,
        memory: &M,
        pfn: Pfn,
        offset: usize,
        done: usize,
        len: usize,
    );
}

/// What came of the visit of a page.
enum Visited {
    Done,
    /// The entry does not allow it: a fault says whether the area does.
    NotAllowed,
    /// It does, but leads out of the family's RAM: a device's.
    NotMemory,
}

struct CopyOut<'a>(&'a mut [u8]);
struct CopyIn<'a>(&'a [u8]);

impl Visit for CopyOut<'_> {
    fn access(&self) -> Access {
        Access::Read
    }
    fn visit<M: PhysMemory>(
        &mut self,
        memory: &M,
        pfn: Pfn,
        offset: usize,
        done: usize,
        len: usize,
    ) {
        if let Some(bytes) = self.0.get_mut(done..done.saturating_add(len)) {
            memory.read(pfn, offset, bytes);
        }
    }
}

impl Visit for CopyIn<'_> {
    fn access(&self) -> Access {
        Access::Write
    }
    fn visit<M: PhysMemory>(
        &mut self,
        memory: &M,
        pfn: Pfn,
        offset: usize,
        done: usize,
        len: usize,
    ) {
        if let Some(bytes) = self.0.get(done..done.saturating_add(len)) {
            memory.write(pfn, offset, bytes);
        }
    }
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Copies user memory out (Linux: copy_from_user).
    ///
    /// Fewer bytes than asked for come with a ticket to wait for, or mean that
    /// the next byte is bad: asking for it again says how.
    ///
    /// # Errors
    /// [`MmError::Fault`] when not even the first byte can be read,
    /// [`MmError::OutOfMemory`].
    ///
    /// # Locks
    /// Per page a table lock, and what [`Self::fault`] takes.
    pub fn read(&self, addr: VirtAddr, bytes: &mut [u8]) -> Result<Progress<'m, P>, MmError> {
        let len = bytes.len();
        self.walk(addr, len, &mut CopyOut(bytes))
    }

    /// Copies into user memory (Linux: copy_to_user).
    ///
    /// # Errors
    /// As [`Self::read`]; also where the area does not allow stores.
    ///
    /// # Locks
    /// As [`Self::read`].
    pub fn write(&self, addr: VirtAddr, bytes: &[u8]) -> Result<Progress<'m, P>, MmError> {
        self.walk(addr, bytes.len(), &mut CopyIn(bytes))
    }

    /// Copies a string up to and including its NUL (Linux:
    /// strncpy_from_user). `done` is the length without the NUL when one was
    /// found; it equals the buffer's when there was none so far.
    ///
    /// # Errors
    /// As [`Self::read`].
    ///
    /// # Locks
    /// As [`Self::read`].
    pub fn read_cstr(&self, addr: VirtAddr, bytes: &mut [u8]) -> Result<Progress<'m, P>, MmError> {
        let size = crate::addr::page_size(self.shift());
        let mut done = 0usize;
        while done < bytes.len() {
            let Some(here) = addr.checked_add(done) else {
                return fault_at(addr, done);
            };
            // Page by page: what lies behind the NUL may not be there.
            let in_page = size.saturating_sub(here.page_offset(self.shift()));
            let len = in_page.min(bytes.len().saturating_sub(done));
            let Some(part) = bytes.get_mut(done..done.saturating_add(len)) else {
                break;
            };
            let progress = match self.walk(here, len, &mut CopyOut(part)) {
                Ok(progress) => progress,
                Err(error) if done == 0 => return Err(error),
                Err(error) => {
                    return Ok(Progress {
                        done,
                        wait: None,
                        error: Some(error),
                    });
                }
            };
            let got = part.get(..progress.done).unwrap_or_default();
            if let Some(nul) = got.iter().position(|&b| b == 0) {
                return Ok(Progress::done(done.saturating_add(nul)));
            }
            done = done.saturating_add(progress.done);
            if progress.done < len {
                return Ok(Progress {
                    done,
                    wait: progress.wait,
                    error: progress.error,
                });
            }
        }
        Ok(Progress::done(done))
    }

    /// Loads an aligned 32-bit word of user memory in one piece (futex(2)).
    ///
    /// # Errors
    /// [`MmError::Invalid`] for an unaligned address; `Ok(Err(ticket))` when a
    /// page must be read first; else as [`Self::read`].
    ///
    /// # Locks
    /// As [`Self::read`].
    pub fn load_u32(&self, addr: VirtAddr) -> Result<Word32<'m, P>, MmError> {
        let mut visit = Load(0);
        aligned4(addr)?;
        let progress = self.walk(addr, 4, &mut visit)?;
        Ok(progress.wait.map_or(Word32::Value(visit.0), Word32::Wait))
    }

    /// Replaces an aligned 32-bit word of user memory if it holds `old`;
    /// the value is what stood there (futex(2), robust lists).
    ///
    /// # Errors
    /// As [`Self::load_u32`].
    ///
    /// # Locks
    /// As [`Self::read`].
    pub fn compare_exchange_u32(
        &self,
        addr: VirtAddr,
        old: u32,
        new: u32,
    ) -> Result<Word32<'m, P>, MmError> {
        let mut visit = Exchange {
            old,
            new,
            seen: old,
        };
        aligned4(addr)?;
        let progress = self.walk(addr, 4, &mut visit)?;
        Ok(progress
            .wait
            .map_or(Word32::Value(visit.seen), Word32::Wait))
    }

    fn walk(
        &self,
        addr: VirtAddr,
        len: usize,
        visit: &mut impl Visit,
    ) -> Result<Progress<'m, P>, MmError> {
        let cx = self.mm.cx();
        let size = crate::addr::page_size(self.shift());
        let mut done = 0usize;
        while done < len {
            let here = addr
                .checked_add(done)
                .filter(|a| a.vpn(self.shift()) < self.user_end());
            let Some(here) = here else {
                return fault_at(addr, done);
            };
            let offset = here.page_offset(self.shift());
            let part = size.saturating_sub(offset).min(len.saturating_sub(done));
            match self.visit_page(&cx, here, offset, done, part, visit) {
                Ok(None) => done = done.saturating_add(part),
                Ok(Some(ticket)) => {
                    return Ok(Progress {
                        done,
                        wait: Some(ticket),
                        error: None,
                    });
                }
                Err(error) if done == 0 => return Err(error),
                Err(error) => {
                    return Ok(Progress {
                        done,
                        wait: None,
                        error: Some(error),
                    });
                }
            }
        }
        Ok(Progress::done(done))
    }

    fn visit_page(
        &self,
        cx: &Cx<'m, P>,
        addr: VirtAddr,
        offset: usize,
        done: usize,
        len: usize,
        visit: &mut impl Visit,
    ) -> Result<Option<crate::object::Ticket<'m, P>>, MmError> {
        let page = addr.vpn(self.shift());
        for _ in 0..TURNS {
            match self.visit_present(cx, page, offset, done, len, visit) {
                Visited::Done => return Ok(None),
                Visited::NotMemory => return Err(MmError::Fault(addr)),
                Visited::NotAllowed => {}
            }
            match self.fault_page(cx, page, visit.access(), addr) {
                FaultOutcome::Resolved(_) => {}
                FaultOutcome::Wait(ticket) => return Ok(Some(ticket)),
                FaultOutcome::OutOfMemory => return Err(MmError::OutOfMemory),
                FaultOutcome::Signal(_) | FaultOutcome::NoSpace | FaultOutcome::KernelBug => {
                    return Err(MmError::Fault(addr));
                }
            }
        }
        Err(MmError::Fault(addr))
    }

    /// Returns whether the entry of a page allows an access.
    pub(super) fn is_entered(&self, cx: &Cx<'m, P>, page: Vpn, access: Access) -> bool {
        let leaf = self.table(cx).lock_leaf(page);
        leaf.is_some_and(|leaf| allowed_leaf(leaf.entry(page), access).is_some())
    }

    /// Visits a page if its entry allows it.
    fn visit_present(
        &self,
        cx: &Cx<'m, P>,
        page: Vpn,
        offset: usize,
        done: usize,
        len: usize,
        visit: &mut impl Visit,
    ) -> Visited {
        let access = visit.access();
        let Some(leaf) = self.table(cx).lock_leaf(page) else {
            return Visited::NotAllowed;
        };
        let Some((pfn, attrs)) = allowed_leaf(leaf.entry(page), access) else {
            return Visited::NotAllowed;
        };
        let Some(record) = cx.frames().page(pfn) else {
            return Visited::NotMemory;
        };
        #[cfg(mm_mutant = "user_copy_without_lock")]
        let leaf = {
            drop(leaf);
            let Some(leaf) = self.table(cx).lock_leaf(page) else {
                return Visited::NotAllowed;
            };
            leaf
        };
        visit.visit(cx.frames().memory(), pfn, offset, done, len);
        // Somebody may be executing what was just written (ptrace, a loader).
        let executed =
            access == Access::Write && (record.code_written() || attrs.prot.allows(Access::Exec));
        let format = cx.format();
        let _kept = leaf.replace_nonempty(&self.node().tlb, page, |word| {
            touched::<P>(format, word, access)
        });
        drop(leaf);
        if executed {
            // The page may be gone by now: then this does no harm.
            #[cfg(not(mm_mutant = "user_copy_is_not_shown"))]
            cx.platform().sync_code(pfn);
        }
        Visited::Done
    }
}

struct Load(u32);

impl Visit for Load {
    fn access(&self) -> Access {
        Access::Read
    }
    fn visit<M: PhysMemory>(&mut self, memory: &M, pfn: Pfn, offset: usize, _: usize, _: usize) {
        self.0 = memory.load_u32(pfn, offset);
    }
}

struct Exchange {
    old: u32,
    new: u32,
    seen: u32,
}

impl Visit for Exchange {
    fn access(&self) -> Access {
        Access::Write
    }
    fn visit<M: PhysMemory>(&mut self, memory: &M, pfn: Pfn, offset: usize, _: usize, _: usize) {
        self.seen = match memory.compare_exchange_u32(pfn, offset, self.old, self.new) {
            Ok(()) => self.old,
            Err(seen) => seen,
        };
    }
}

/// A word of user memory, or what to wait for before it can be had.
#[derive(Debug)]
#[must_use = "it may have to be waited for"]
pub enum Word32<'m, P: Platform> {
    /// The word.
    Value(u32),
    /// The page must be read first.
    Wait(crate::object::Ticket<'m, P>),
}

/// Returns the frame of an entry that lets users have an access.
fn allowed_leaf(entry: Entry, access: Access) -> Option<(Pfn, Attrs)> {
    match entry {
        Entry::Leaf { pfn, attrs } => {
            let allows = attrs.flags.contains(AttrFlags::USER) && attrs.prot.allows(access);
            allows.then_some((pfn, attrs))
        }
        _ => None,
    }
}

/// Marks an entry as hardware would have.
fn touched<P: Platform>(format: P::Format, word: WordOf<P>, access: Access) -> WordOf<P> {
    let word = format.with_young(word, AdBit::Set);
    if access == Access::Write {
        format.with_dirty(word, AdBit::Set)
    } else {
        word
    }
}

fn aligned4(addr: VirtAddr) -> Result<(), MmError> {
    if addr.as_usize() & 3 == 0 {
        Ok(())
    } else {
        Err(MmError::Invalid(addr))
    }
}

/// Ends a copy at a byte that lies outside of user space.
fn fault_at<'m, P: Platform>(addr: VirtAddr, done: usize) -> Result<Progress<'m, P>, MmError> {
    let error = MmError::Fault(VirtAddr::new(addr.as_usize().wrapping_add(done)));
    if done == 0 {
        Err(error)
    } else {
        Ok(Progress {
            done,
            wait: None,
            error: Some(error),
        })
    }
}
