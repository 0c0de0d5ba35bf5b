//! Page faults of programs, and the kernel's access to their memory.

use alloc::vec::Vec;

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::object::{Progress, Ticket};
use mm_core::prot::Access;

use super::{Space, Word};
use crate::arch::{Arch, FaultAccess};
use crate::errno::{Errno, Result};
use crate::system::System;
use crate::task::signal::{SIGBUS, SIGSEGV};

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
                // Linux: VM_FAULT_SIGBUS of filemap_fault.
                Err(Errno::EIO) => Outcome::Signal(SIGBUS, BUS_ADRERR),
                Err(_) => Outcome::OutOfMemory,
            },
            FaultOutcome::Signal(Signal::SegvMapErr(_)) => Outcome::Signal(SIGSEGV, SEGV_MAPERR),
            FaultOutcome::Signal(Signal::SegvAccErr(_)) => Outcome::Signal(SIGSEGV, SEGV_ACCERR),
            FaultOutcome::Signal(Signal::BusAdrErr(_)) => Outcome::Signal(SIGBUS, BUS_ADRERR),
            // Linux: shmem_fault.
            FaultOutcome::NoSpace => Outcome::Signal(SIGBUS, BUS_ADRERR),
            FaultOutcome::OutOfMemory => Outcome::OutOfMemory,
            FaultOutcome::KernelBug => Outcome::Signal(SIGSEGV, SEGV_MAPERR),
        }
    }

    /// Copies bytes from a program.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn read_user(&self, space: &Space<A>, at: usize, into: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let progress = space.inner.read(from(at, done)?, &mut into[done..])?;
            done += self.after(progress).map_err(bad_page)?;
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
            done += self.after(progress).map_err(bad_page)?;
        }
        Ok(())
    }

    /// Copies bytes from a program up to the first that cannot be copied; answers how many.
    ///
    /// # Errors
    /// As [`System::read_user`], when it is the first.
    pub fn read_user_some(&self, space: &Space<A>, at: usize, into: &mut [u8]) -> Result {
        self.copy_some(into.len(), |done| {
            Ok(space.inner.read(from(at, done)?, &mut into[done..])?)
        })
    }

    /// Copies bytes to a program up to the first that cannot be copied; answers how many.
    ///
    /// # Errors
    /// As [`System::write_user`], when it is the first.
    pub fn write_user_some(&self, space: &Space<A>, at: usize, bytes: &[u8]) -> Result {
        self.copy_some(bytes.len(), |done| {
            Ok(space.inner.write(from(at, done)?, &bytes[done..])?)
        })
    }

    fn copy_some(
        &self,
        length: usize,
        mut piece: impl FnMut(usize) -> Result<Progress<'static, A::Platform>>,
    ) -> Result {
        let mut done = 0;
        while done < length {
            let moved = piece(done).and_then(|progress| self.after(progress).map_err(bad_page));
            match moved {
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
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
            self.after(progress).map_err(bad_page)?;
            // Short without a ticket: the NUL, or a byte that cannot be read.
            if done < piece.len() && !waits {
                let mut last = [0];
                self.read_user(space, at.wrapping_add(string.len()), &mut last)?;
                return Ok(string);
            }
        }
        Err(Errno::E2BIG)
    }

    /// Loads a word in one piece, without waiting: a lock may be held that no call of the family
    /// comes back for.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn peek_user_word(&self, space: &Space<A>, at: usize) -> Result<Word<A>> {
        Ok(space.inner.load_u32(VirtAddr::new(at))?)
    }

    /// Loads a word in one piece.
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL`, `ENOMEM`.
    pub fn load_user_word(&self, space: &Space<A>, at: usize) -> Result<u32> {
        self.await_user_word(|| space.inner.load_u32(VirtAddr::new(at)))
    }

    /// Stores `new` if the word is `old`, in one piece; answers what it was.
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL`, `ENOMEM`.
    pub fn exchange_user_word(
        &self,
        space: &Space<A>,
        at: usize,
        old: u32,
        new: u32,
    ) -> Result<u32> {
        let at = VirtAddr::new(at);
        self.await_user_word(|| space.inner.compare_exchange_u32(at, old, new))
    }

    fn await_user_word(
        &self,
        attempt: impl Fn() -> core::result::Result<Word<A>, MmError>,
    ) -> Result<u32> {
        loop {
            match attempt()? {
                Word::<A>::Value(value) => return Ok(value),
                Word::<A>::Wait(ticket) => self.await_user_page(ticket)?,
            }
        }
    }

    /// Sleeps until a page that was peeked at is worth asking for again.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn await_user_page(&self, ticket: Ticket<'static, A::Platform>) -> Result<()> {
        self.await_ticket(ticket).map_err(bad_page)
    }

    /// Faults a range in, as far as it goes (MAP_POPULATE); answers whether that was all of it.
    pub fn populate(&self, space: &Space<A>, at: usize, length: usize) -> bool {
        const PIECE: usize = 1 << 20;
        let mut done = 0;
        while done < length {
            self.breathe();
            let piece = PIECE.min(length - done);
            let Ok(progress) = space.inner.populate(VirtAddr::new(at + done), piece) else {
                return false;
            };
            let waits = progress.wait.is_some();
            match self.after(progress) {
                Ok(0) if !waits => return false,
                Ok(n) => done += n,
                Err(_) => return false,
            }
        }
        true
    }
}

fn from(at: usize, done: usize) -> Result<VirtAddr> {
    at.checked_add(done).map(VirtAddr::new).ok_or(Errno::EFAULT)
}

/// A page that cannot be read is a bad address to a call that copies it.
fn bad_page(error: Errno) -> Errno {
    if error == Errno::EIO {
        Errno::EFAULT
    } else {
        error
    }
}
