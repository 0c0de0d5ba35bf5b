//! Segments: raw program headers in, checked segments out.
//!
//! A [`Checked`] holds the caller's bytes of the table and the facts of one
//! pass over them. [`Checked::segments`] decodes them again each time, which
//! is cheaper than it sounds (a table is a few hundred bytes) and needs no
//! list whose length would be a limit.
//!
//! What a `Checked` proves of every `PT_LOAD` that is not empty:
//!
//! - no more bytes in the file than in memory, and all of them in the file;
//! - address, size, and the rounding up to a page do not wrap, in the width
//!   of the class;
//! - address and file offset agree within the page (if it has file bytes);
//! - segments ascend and do not overlap. Two may share a *page* if the same
//!   file page serves both: then the later one maps it, as on Linux, where
//!   the later mapping replaces the earlier.
//!
//! ```text
//!            A: filesz == memsz          B: same file page, other rights
//!          |--------------------|      |-----------
//!  ....|............|............|...........|....      pages
//!      [   A        ][          B                       who maps them
//! ```
//!
//! (Test `page_shared_by_two_segments_goes_to_the_later`.) A page that holds
//! zeroes for one and file bytes for the other cannot be had lazily, and
//! Linux gets its content wrong; it is refused as an overlap.
//!
//! A `PT_LOAD` without a byte maps nothing and may stand anywhere; as on Linux, the
//! heap starts behind it, too.
//!
//! What it does not prove: that the image fits the user range. That depends
//! on where it is put, so [`Checked::plan`] says it.

use elf::abi::{PF_R, PF_W, PF_X, PT_GNU_STACK, PT_INTERP, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::parse::ParsingTable;
use elf::segment::ProgramHeader;
use mm_core::prot::Prot;

use crate::error::{ElfError, Part};
use crate::header::Header;
use crate::plan::Plan;
use crate::target::Target;

/// The longest path of an interpreter, its NUL included (Linux' `PATH_MAX`).
pub const MAX_INTERPRETER_PATH: u64 = 4096;

/// An image whose segments are sound.
#[derive(Clone, Debug)]
pub struct Checked<'a> {
    header: Header,
    table: &'a [u8],
    interpreter: Option<FileRange>,
    stack: StackRights,
    align: u64,
    low: u64,
    high: u64,
    end: u64,
    heap: u64,
    phdr: Option<u64>,
}

/// A checked `PT_LOAD` with at least one byte of memory; addresses are the
/// file's, without load bias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its index in the program header table.
    pub index: u16,
    /// Its first byte.
    pub addr: u64,
    /// Its size in memory, at least one byte.
    pub mem_bytes: u64,
    /// What of it comes from the file; the rest is zeroes.
    pub file: FileRange,
    /// What accesses it allows.
    pub prot: Prot,
}

/// Bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileRange {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// What `PT_GNU_STACK` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StackRights {
    /// The file does not say: as the machine's ABI has it.
    #[default]
    Unspecified,
    /// Readable and writable.
    ReadWrite,
    /// Executable too.
    ReadWriteExec,
}

impl StackRights {
    /// Returns the rights of the stack; a file that does not say gets no
    /// executable one, as on 64-bit Linux.
    pub const fn prot(self) -> Prot {
        match self {
            Self::Unspecified | Self::ReadWrite => Prot::RW,
            Self::ReadWriteExec => Prot::RWX,
        }
    }
}

impl FileRange {
    /// Returns the offset after the last byte, or `None` where it wraps.
    pub const fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    /// Checks that a file of this size has all of the range.
    pub(crate) fn within(self, file_size: u64, part: Part) -> Result<(), ElfError> {
        match self.end() {
            Some(end) if end <= file_size => Ok(()),
            end => Err(ElfError::Truncated {
                part,
                end: end.unwrap_or(u64::MAX),
            }),
        }
    }
}

impl Segment {
    /// Returns the address after its last byte in memory.
    pub const fn end(&self) -> u64 {
        self.addr.saturating_add(self.mem_bytes)
    }

    /// Returns the address after its last byte from the file.
    pub const fn file_end(&self) -> u64 {
        self.addr.saturating_add(self.file.len)
    }

    fn check(index: u16, raw: &ProgramHeader, header: &Header) -> Result<Self, ElfError> {
        let target = &header.target;
        let this = Self {
            index,
            addr: raw.p_vaddr,
            mem_bytes: raw.p_memsz,
            file: FileRange {
                offset: raw.p_offset,
                len: raw.p_filesz,
            },
            prot: prot(raw.p_flags),
        };
        if raw.p_filesz > raw.p_memsz {
            return Err(ElfError::FileExceedsMemory { segment: index });
        }
        end_page(index, raw, target)?;
        if raw.p_filesz > 0 {
            if (raw.p_vaddr ^ raw.p_offset) & target.page_mask() != 0 {
                return Err(ElfError::Misaligned {
                    segment: index,
                    addr: raw.p_vaddr,
                });
            }
            this.file.within(header.file_size, Part::Segment(index))?;
        }
        Ok(this)
    }

    /// Checks that `self` may follow `before`.
    fn follows(&self, before: &Self, target: &Target) -> Result<(), ElfError> {
        if self.addr < before.addr {
            return Err(ElfError::Unsorted {
                segment: self.index,
                addr: self.addr,
            });
        }
        if self.addr < before.end() {
            return Err(ElfError::Overlap {
                segment: self.index,
                addr: self.addr,
            });
        }
        let page = target.page_floor(self.addr);
        if before.end() <= page || self.shares_file_page(before) {
            return Ok(());
        }
        Err(ElfError::Overlap {
            segment: self.index,
            addr: page,
        })
    }

    /// Returns whether one file page holds the end of `before` and the start
    /// of `self`.
    const fn shares_file_page(&self, before: &Self) -> bool {
        before.file.len == before.mem_bytes
            && self.file.len > 0
            && self.addr.wrapping_sub(self.file.offset)
                == before.addr.wrapping_sub(before.file.offset)
    }
}

impl<'a> Checked<'a> {
    pub(crate) fn new(header: Header, table: &'a [u8]) -> Result<Self, ElfError> {
        let need = header.table.len;
        let table = usize::try_from(need)
            .ok()
            .and_then(|n| table.get(..n))
            .ok_or(ElfError::ShortBuffer { need })?;
        let mut this = Self {
            align: header.target.page_size(),
            header,
            table,
            interpreter: None,
            stack: StackRights::Unspecified,
            low: 0,
            high: 0,
            end: 0,
            heap: 0,
            phdr: None,
        };
        let mut before: Option<Segment> = None;
        for (index, raw) in this.raw() {
            match raw.p_type {
                PT_LOAD if raw.p_memsz == 0 && raw.p_filesz == 0 => {
                    let end = end_page(index, &raw, &this.header.target)?;
                    this.heap = this.heap.max(end);
                }
                PT_LOAD => {
                    let segment = Segment::check(index, &raw, &this.header)?;
                    match &before {
                        Some(before) => segment.follows(before, &this.header.target)?,
                        None => this.low = this.header.target.page_floor(segment.addr),
                    }
                    this.note(&segment, raw.p_align);
                    before = Some(segment);
                }
                // Linux takes the first interpreter and the last word about
                // the stack. All other types are the program's own business:
                // TLS, RELRO, notes, unwind tables.
                PT_INTERP if this.interpreter.is_none() => {
                    this.interpreter = Some(interpreter(&raw, this.header.file_size)?);
                }
                PT_GNU_STACK if raw.p_flags & PF_X != 0 => {
                    this.stack = StackRights::ReadWriteExec;
                }
                PT_GNU_STACK => this.stack = StackRights::ReadWrite,
                _ => {}
            }
        }
        match before {
            Some(_) => Ok(this),
            None => Err(ElfError::NoSegments),
        }
    }

    /// Takes a sound segment into the facts about the whole image.
    fn note(&mut self, segment: &Segment, align: u64) {
        let target = &self.header.target;
        self.end = segment.end();
        // `Segment::check` has seen that this rounding up does not wrap.
        self.high = target.page_ceil(segment.end()).unwrap_or(u64::MAX);
        self.heap = self.heap.max(self.high);
        // Linux, maximum_alignment: what is no power of two counts for nothing.
        if align.is_power_of_two() {
            self.align = self.align.max(align);
        }
        let table = self.header.table.offset;
        if self.phdr.is_none() && table.wrapping_sub(segment.file.offset) < segment.file.len {
            self.phdr = Some(
                segment
                    .addr
                    .wrapping_add(table.wrapping_sub(segment.file.offset)),
            );
        }
    }

    fn raw(&self) -> impl Iterator<Item = (u16, ProgramHeader)> + use<'a> {
        let class = self.header.target.machine.class();
        let table: ParsingTable<'a, _, ProgramHeader> =
            ParsingTable::new(LittleEndian, class, self.table);
        (0..self.header.count).zip(table.iter())
    }

    /// Walks the segments to be loaded, in ascending order of address.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + use<'a> {
        self.raw()
            .filter(|(_, raw)| raw.p_type == PT_LOAD && raw.p_memsz != 0)
            .map(|(index, raw)| Segment {
                index,
                addr: raw.p_vaddr,
                mem_bytes: raw.p_memsz,
                file: FileRange {
                    offset: raw.p_offset,
                    len: raw.p_filesz,
                },
                prot: prot(raw.p_flags),
            })
    }

    /// Decides where the image stands and what is to be mapped.
    ///
    /// `base` is where a relocatable image's first page should be; it is
    /// lowered to the image's alignment. A fixed image knows its own place.
    ///
    /// # Errors
    /// `OutsideUser` if it does not fit there.
    pub fn plan(&self, base: u64) -> Result<Plan<'a>, ElfError> {
        Plan::new(self.clone(), base)
    }

    /// Returns the file header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Returns which bytes of the file hold the path of the interpreter, its
    /// NUL included, if the program wants one. See [`interpreter_path`].
    pub const fn interpreter(&self) -> Option<FileRange> {
        self.interpreter
    }

    /// Returns what the program asks of its stack.
    pub const fn stack(&self) -> StackRights {
        self.stack
    }

    /// Returns the largest alignment of a segment, at least a page.
    pub const fn align(&self) -> u64 {
        self.align
    }

    /// Returns the first page of the image, without load bias.
    pub const fn low(&self) -> u64 {
        self.low
    }

    /// Returns the size of the image in bytes, gaps included: whole pages.
    pub const fn span(&self) -> u64 {
        self.high.saturating_sub(self.low)
    }

    /// Returns the size up to where the heap starts, in bytes: whole pages.
    pub(crate) const fn reach(&self) -> u64 {
        self.heap.saturating_sub(self.low)
    }

    /// Returns the address after its last byte, without load bias.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Returns the page after the last address that any `PT_LOAD` names, also one
    /// without a byte: where the heap starts, without load bias.
    pub(crate) const fn heap(&self) -> u64 {
        self.heap
    }

    /// Returns where the program headers stand in memory, without load bias,
    /// if a segment holds them.
    pub(crate) const fn phdr(&self) -> Option<u64> {
        self.phdr
    }
}

/// Returns the path in the bytes that [`Checked::interpreter`] named, without
/// its NUL.
///
/// # Errors
/// `InterpreterPath` if the bytes do not end with NUL, or the path is empty.
pub fn interpreter_path(bytes: &[u8]) -> Result<&[u8], ElfError> {
    let Some((0, path)) = bytes.split_last() else {
        return Err(ElfError::InterpreterPath);
    };
    // As execve(2) would read it: up to the first NUL.
    match path.split(|&b| b == 0).next() {
        Some(path) if !path.is_empty() => Ok(path),
        _ => Err(ElfError::InterpreterPath),
    }
}

fn interpreter(raw: &ProgramHeader, file_size: u64) -> Result<FileRange, ElfError> {
    let range = FileRange {
        offset: raw.p_offset,
        len: raw.p_filesz,
    };
    if !(2..=MAX_INTERPRETER_PATH).contains(&range.len) {
        return Err(ElfError::InterpreterLength { found: range.len });
    }
    range.within(file_size, Part::Interpreter)?;
    Ok(range)
}

fn prot(flags: u32) -> Prot {
    [(PF_R, Prot::READ), (PF_W, Prot::WRITE), (PF_X, Prot::EXEC)]
        .into_iter()
        .filter(|(flag, _)| flags & flag != 0)
        .fold(Prot::NONE, |all, (_, right)| all | right)
}

/// Returns the page after a header's last byte in memory, if it has a number.
fn end_page(index: u16, raw: &ProgramHeader, target: &Target) -> Result<u64, ElfError> {
    let end = raw.p_vaddr.checked_add(raw.p_memsz);
    end.and_then(|end| target.page_ceil(end))
        .filter(|&end| end <= address_end(target))
        .ok_or(ElfError::Wraps {
            segment: index,
            addr: raw.p_vaddr,
        })
}

/// Returns the exclusive end of what the class can address; 2^64 does not fit
/// and needs no bound.
const fn address_end(target: &Target) -> u64 {
    match target.machine.class() {
        Class::ELF32 => 1 << 32,
        Class::ELF64 => u64::MAX,
    }
}
