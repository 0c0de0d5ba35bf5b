//! What to map where: a checked image at its place.
//!
//! A segment becomes at most two steps, and only the last page of its file
//! bytes is ever written at load time:
//!
//! ```text
//!  addr           file_end        end
//!   |  file bytes    |   zeroes    |
//!  [   File step     :zero][ Anonymous step ]        pages
//! ```
//!
//! (Test `bss_is_a_zeroed_tail_and_anonymous_pages`.) The file step maps the
//! file's page cache, privately, and nothing is read; `zero` names the bytes
//! of its last page that must read as zero although the file has something
//! there; the anonymous step needs no work at all.
//!
//! The steps of a plan ascend, are whole pages, do not overlap, and lie in
//! the user range.

use core::ops::Range;

use mm_core::prot::Prot;

use crate::error::ElfError;
use crate::header::ImageKind;
use crate::segment::{Checked, FileRange, Segment, StackRights};
use crate::target::Target;

/// A checked image at its place in the user range.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    image: Checked<'a>,
    bias: u64,
}

/// One mapping to be made, private and fixed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapStep {
    /// The segment it comes from: its index in the program header table.
    pub segment: u16,
    /// Its first byte: the start of a page.
    pub addr: u64,
    /// Its length in bytes: whole pages, at least one.
    pub len: u64,
    /// What accesses it allows.
    pub prot: Prot,
    /// Where its bytes come from.
    pub kind: StepKind,
    /// The bytes to overwrite with zeroes, in its last page, if any.
    pub zero: Option<Range<u64>>,
}

/// Where the bytes of a mapping come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepKind {
    /// The file, from this offset: a multiple of the page size.
    File {
        /// In bytes.
        offset: u64,
    },
    /// Zeroes.
    Anonymous,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(image: Checked<'a>, base: u64) -> Result<Self, ElfError> {
        let bias = match image.header().kind() {
            ImageKind::Fixed => 0,
            // A bias may be "negative": it wraps, and the check below sees
            // where the image really comes to stand.
            ImageKind::Relocatable => {
                base.wrapping_sub(image.low()) & !image.align().wrapping_sub(1)
            }
        };
        let user = &image.header().target().user;
        // The heap's start must be an address, too.
        let (addr, len) = (image.low().wrapping_add(bias), image.reach());
        let fits = addr >= user.start && addr.checked_add(len).is_some_and(|end| end <= user.end);
        if !fits {
            return Err(ElfError::OutsideUser { addr, len });
        }
        Ok(Self { image, bias })
    }

    /// Walks the mappings to be made, in ascending order.
    pub fn steps(&self) -> impl Iterator<Item = MapStep> + use<'a> {
        let target = self.image.header().target().clone();
        let bias = self.bias;
        let mut segments = self.image.segments().peekable();
        core::iter::from_fn(move || {
            let segment = segments.next()?;
            let limit = segments
                .peek()
                .map_or(u64::MAX, |next| target.page_floor(next.addr));
            Some(split(&segment, limit, &target, bias))
        })
        .flatten()
    }

    /// Returns what is added to every address in the file, wrapping.
    pub const fn bias(&self) -> u64 {
        self.bias
    }

    /// Returns the image's pages as byte addresses, gaps included.
    pub const fn range(&self) -> Range<u64> {
        let start = self.image.low().wrapping_add(self.bias);
        start..start.saturating_add(self.image.span())
    }

    /// Returns the entry point as the file says it (`AT_ENTRY`): any number. Where to
    /// start is [`Self::start`].
    pub const fn entry(&self) -> u64 {
        self.image.header().entry.wrapping_add(self.bias)
    }

    /// Returns the address of the first instruction: the interpreter's entry point,
    /// without one the program's own. The other is not looked at, as on Linux, but by
    /// the interpreter.
    ///
    /// # Errors
    /// `BadEntry` above the user range; below it, and where nothing is mapped, the
    /// program starts with a fault.
    pub fn start(&self, interpreter: Option<&Plan<'_>>) -> Result<u64, ElfError> {
        let addr = interpreter.map_or(self.entry(), Plan::entry);
        if addr < self.image.header().target().user.end {
            Ok(addr)
        } else {
            Err(ElfError::BadEntry { addr })
        }
    }

    /// Returns where the heap starts: the page after the last address that a `PT_LOAD`
    /// names, also an empty one.
    pub const fn brk(&self) -> u64 {
        self.image.heap().wrapping_add(self.bias)
    }

    /// Returns the address after the image's last byte, which is not aligned.
    pub const fn end(&self) -> u64 {
        self.image.end().wrapping_add(self.bias)
    }

    /// Returns where the program headers stand in memory (`AT_PHDR`), if a
    /// segment holds them.
    pub fn phdr(&self) -> Option<u64> {
        self.image.phdr().map(|addr| addr.wrapping_add(self.bias))
    }

    /// Returns which bytes of the file hold the interpreter's path.
    pub const fn interpreter(&self) -> Option<FileRange> {
        self.image.interpreter()
    }

    /// Returns what the program asks of its stack.
    pub const fn stack(&self) -> StackRights {
        self.image.stack()
    }

    /// Returns the image.
    pub const fn image(&self) -> &Checked<'a> {
        &self.image
    }
}

/// Splits a segment into its steps, all below `limit`, where the next begins.
fn split(
    segment: &Segment,
    limit: u64,
    target: &Target,
    bias: u64,
) -> impl Iterator<Item = MapStep> + use<> {
    let start = target.page_floor(segment.addr);
    // None of these wraps: `Segment::check` has rounded up the end.
    let ceil = |addr| target.page_ceil(addr).unwrap_or(u64::MAX);
    let file_pages = match segment.file.len {
        0 => start,
        _ => ceil(segment.file_end()),
    };
    let step = |from: u64, to: u64, kind, zero| MapStep {
        segment: segment.index,
        addr: from.wrapping_add(bias),
        len: to.min(limit).saturating_sub(from),
        prot: segment.prot,
        kind,
        zero,
    };
    // The whole rest of the page, not only up to the segment's end: what
    // follows is the heap's, and it may not see the file.
    let zero = (segment.file.len < segment.mem_bytes && segment.file_end() < file_pages)
        .then(|| segment.file_end().wrapping_add(bias)..file_pages.wrapping_add(bias));
    let offset = segment.file.offset & !target.page_mask();
    let file = step(start, file_pages, StepKind::File { offset }, zero);
    let bss = step(file_pages, ceil(segment.end()), StepKind::Anonymous, None);
    [file, bss].into_iter().filter(|step| step.len != 0)
}
