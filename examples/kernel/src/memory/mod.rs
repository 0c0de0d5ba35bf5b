//! The kernel's use of mm-core: the only folder that names its types.
//!
//! | file | here | mm-core and mm-elf |
//! |---|---|---|
//! | [`space`] | [`Space`] | an `AddressSpace`, with the number that names its private futexes |
//! | [`word`] | [`WordName`], [`NamedWord`] | the object and the offset behind a shared futex |
//! | [`file`](mod@file) | [`FileData`], [`System::read_data`], `write_data` | the `ObjectRef` behind a regular file, and its cached pages |
//! | [`register`] | [`Register`] | the keys of objects |
//! | [`seals`] | [`Seals`] | – |
//! | [`usage`] | [`Usage`] | `Counts` of a space |
//! | [`user`] | [`System::resolve_fault`], [`System::read_user`], `write_user` | `fault`, `read` and `write` of user memory, resumed until done |
//! | [`image`] | [`System::load_image`], [`System::write_stack`] | `ImageLoad`, `SpaceSink`: a program's plan, mapped; its stack |
//! | [`counts`] | [`Counts`] | what is in use |
//! | [`kernel`] | [`KernelHalf`] | the `KernelSpace`, and what stands at fixed addresses |
//! | [`frames`] | [`frames::give`] | `Frames::add_region` |
//!
//! # Waiting
//!
//! mm-core never waits. Where it answers a ticket, the task sleeps here and asks again:
//!
//! | ticket | what the task does |
//! |---|---|
//! | `Start(request)` | hands the request to the [disk](crate::disk), sleeps until it is finished; if it failed: `EIO` |
//! | `Join(key)` | sleeps until that transfer is finished |
//! | `Memory` | gives way to others, once; then it counts as out of memory |
//!
//! A failed read is `EIO` to read(2), SIGBUS to a program that touched the page, and `EFAULT` to a
//! call that was given its address.
//!
//! The sleep is patient: a transfer always ends, and soon. No lock is held over it.

pub mod counts;
pub mod file;
pub mod frames;
pub mod image;
pub mod kernel;
pub mod register;
pub mod seals;
pub mod space;
pub mod usage;
pub mod user;
pub mod word;

use mm_core::Mm;
use mm_core::error::MmError;
use mm_core::object::{IoRequest, Progress, Ticket, TicketKey};

use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::sched::{Channel, Patience};
use crate::system::System;

pub use counts::Counts;
pub use file::{Claim, FileData, FileNode, Purpose, file_of, finish};
pub use kernel::KernelHalf;
pub use register::Register;
pub use seals::Seals;
pub use space::{FileName, Map, Space};
pub use usage::Usage;
pub use user::Outcome;
pub use word::{NamedWord, Reach, WordName};

/// The memory of the machine.
pub type MachineMemory<A> = &'static Mm<<A as Arch>::Platform>;
/// The proof that a CPU has a space loaded.
pub type Active<A> = mm_core::space::Active<'static, <A as Arch>::Platform>;
/// A read for the disk to do.
pub type Request<A> = IoRequest<'static, <A as Arch>::Platform>;
/// The name of a transfer.
pub type TransferKey = TicketKey;
/// A word of a program's memory, or what to wait for before it can be had.
pub type Word<A> = mm_core::space::Word32<'static, <A as Arch>::Platform>;

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

impl<A: Arch> System<A> {
    /// Sleeps until a ticket is worth asking again.
    ///
    /// # Errors
    /// `EIO` for a read that was started here and failed; `ENOMEM` for a ticket that waits for
    /// memory: nothing frees it here.
    fn await_ticket(&self, ticket: Ticket<'static, A::Platform>) -> Result<()> {
        match ticket {
            Ticket::Start(request) => {
                let key = request.ticket_key();
                let number = self.start_read(request)?;
                self.await_transfer(key);
                if self.disk.take_failure(number) {
                    return Err(Errno::EIO);
                }
            }
            Ticket::Join(key) => self.await_transfer(key),
            Ticket::Memory(_) => return Err(Errno::ENOMEM),
        }
        Ok(())
    }

    fn await_transfer(&self, key: TransferKey) {
        let finished = || (!self.memory.is_pending(key)).then_some(());
        let _ = self.wait_until(Channel::Transfer(key), None, Patience::Patient, finished);
    }

    /// Waits as a transfer says; answers how far it came. An error, also one of the wait, counts only
    /// where nothing was done: asked again for the rest, the transfer answers it first.
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
            } => match self.await_ticket(ticket) {
                Err(error) if done == 0 => Err(error),
                _ => Ok(done),
            },
            Progress { done, .. } => Ok(done),
        }
    }
}
