//! Carries a plan out in an [`AddressSpace`], without waiting.
//!
//! The space is a new one that nobody runs in yet: exec builds it aside and
//! gives up the old one only when all of this has succeeded. On an error the
//! caller drops it, and nothing has changed.
//!
//! [`ImageLoad::advance`] maps one step after the other over the file's
//! object, which reads nothing; only where the file's bytes end within a
//! page, the rest of that page is zeroed, and for that the page must come in:
//! then the load answers with a [`Ticket`] and goes on from there when it is
//! called again. A page that the program may not write to is mapped writable
//! for that moment (nothing runs in the space) and protected after.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::object::{ObjectRef, Ticket};
use mm_core::platform::Platform;
use mm_core::prot::Prot;
use mm_core::space::{AddressSpace, MapFlags, MapRequest};

use crate::plan::{MapStep, Plan, StepKind};
use crate::stack::Sink;

/// Zeroes are stored in pieces of so many bytes.
const ZEROES: [u8; 256] = [0; 256];

/// An image on its way into a space. The program and its interpreter are two.
#[derive(Debug)]
#[must_use = "nothing is mapped before `advance`"]
pub struct ImageLoad<'p, 'a, 'm, P: Platform> {
    space: &'p AddressSpace<'m, P>,
    file: &'p ObjectRef<'m, P>,
    plan: &'p Plan<'a>,
    /// Steps that are done.
    done: usize,
    /// How far the tail of the next step is zeroed, once it is mapped.
    zeroed: Option<u64>,
}

/// What an initial stack is written to: a space.
#[derive(Debug)]
pub struct SpaceSink<'p, 'm, P: Platform>(pub &'p AddressSpace<'m, P>);

/// Why a [`SpaceSink`] took no bytes.
#[must_use = "a ticket is to be waited for"]
pub enum Stopped<'m, P: Platform> {
    /// Wait for this, then write again.
    Wait(Ticket<'m, P>),
    /// The stack cannot be written.
    Error(MmError),
}

impl<'p, 'a, 'm, P: Platform> ImageLoad<'p, 'a, 'm, P> {
    /// Prepares to map the image of `file` into `space`.
    pub const fn new(
        space: &'p AddressSpace<'m, P>,
        file: &'p ObjectRef<'m, P>,
        plan: &'p Plan<'a>,
    ) -> Self {
        Self {
            space,
            file,
            plan,
            done: 0,
            zeroed: None,
        }
    }

    /// Maps what is left. `None` means that all is done; a ticket is to be
    /// waited for before the next call.
    ///
    /// # Errors
    /// As `map`, `write` and `protect` of the space. The image is then half
    /// there: drop the space.
    ///
    /// # Locks
    /// As these verbs; none is held at the return.
    pub fn advance(&mut self) -> Result<Option<Ticket<'m, P>>, MmError> {
        let plan = self.plan;
        for step in plan.steps().skip(self.done) {
            if let Some(ticket) = self.step(&step)? {
                return Ok(Some(ticket));
            }
            self.done = self.done.saturating_add(1);
            self.zeroed = None;
        }
        Ok(None)
    }

    fn step(&mut self, step: &MapStep) -> Result<Option<Ticket<'m, P>>, MmError> {
        let (addr, len) = (address(step.addr)?, size(step.len)?);
        let at_first = match &step.zero {
            Some(_) => step.prot | Prot::RW,
            None => step.prot,
        };
        if self.zeroed.is_none() {
            let request = match step.kind {
                StepKind::File { offset } => MapRequest::private(self.file, offset, len, at_first),
                StepKind::Anonymous => MapRequest::anonymous(len, at_first),
            };
            // Steps do not overlap each other; what else is there stays.
            let request = request.hint(addr).with(MapFlags::FIXED_NOREPLACE);
            self.space.map(&request)?;
        }
        let Some(zero) = &step.zero else {
            return Ok(None);
        };
        let mut at = self.zeroed.unwrap_or(zero.start);
        while at < zero.end {
            let left = usize::try_from(zero.end.saturating_sub(at)).unwrap_or(usize::MAX);
            let piece = ZEROES.get(..left).unwrap_or(&ZEROES);
            let progress = self.space.write(address(at)?, piece)?;
            at = at.saturating_add(progress.done as u64);
            self.zeroed = Some(at);
            match (progress.wait, progress.done) {
                (Some(ticket), _) => return Ok(Some(ticket)),
                (None, 0) => return Err(progress.error.unwrap_or(MmError::Fault(address(at)?))),
                (None, _) => {}
            }
        }
        if at_first != step.prot {
            self.space.protect(addr, len, step.prot)?;
        }
        Ok(None)
    }
}

/// Maps a stack that ends at `top`, `len` bytes of it at once (multiples of
/// the page size): it grows down from there, as far as the space's limit for
/// stacks allows.
///
/// # Errors
/// As `map` of the space: what is there is not replaced.
///
/// # Locks
/// As `map`.
pub fn map_stack<P: Platform>(
    space: &AddressSpace<'_, P>,
    top: u64,
    len: u64,
    prot: Prot,
) -> Result<(), MmError> {
    let start = top
        .checked_sub(len)
        .ok_or(MmError::OutOfRange(VirtAddr::new(0)))?;
    let request = MapRequest::anonymous(size(len)?, prot)
        .hint(address(start)?)
        .with(MapFlags::FIXED_NOREPLACE | MapFlags::GROWS_DOWN);
    space.map(&request).map(|_| ())
}

/// Lets the heap begin behind the program's image.
///
/// # Errors
/// `OutOfRange` where the address does not exist on this machine.
///
/// # Locks
/// As [`AddressSpace::set_brk_start`].
pub fn set_heap<P: Platform>(
    space: &AddressSpace<'_, P>,
    program: &Plan<'_>,
) -> Result<(), MmError> {
    space.set_brk_start(address(program.brk())?);
    Ok(())
}

impl<'m, P: Platform> Sink for SpaceSink<'_, 'm, P> {
    type Error = Stopped<'m, P>;

    fn put(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Self::Error> {
        let mut left = bytes;
        let mut at = addr;
        // A piece that stops half-way is stored again from its start.
        while !left.is_empty() {
            let progress = address(at)
                .and_then(|at| self.0.write(at, left))
                .map_err(Stopped::Error)?;
            left = left.get(progress.done..).unwrap_or_default();
            at = at.saturating_add(progress.done as u64);
            match (progress.wait, progress.done) {
                (Some(ticket), _) => return Err(Stopped::Wait(ticket)),
                (None, 0) => {
                    let fault = MmError::Fault(address(at).map_err(Stopped::Error)?);
                    return Err(Stopped::Error(progress.error.unwrap_or(fault)));
                }
                (None, _) => {}
            }
        }
        Ok(())
    }
}

/// An address of the plan on this machine.
fn address(addr: u64) -> Result<VirtAddr, MmError> {
    usize::try_from(addr)
        .map(VirtAddr::new)
        .map_err(|_| MmError::OutOfRange(VirtAddr::new(usize::MAX)))
}

fn size(bytes: u64) -> Result<usize, MmError> {
    usize::try_from(bytes).map_err(|_| MmError::OutOfMemory)
}
