//! The file header: is this a program for us, and where are its segments?
//!
//! The parser never reads. It takes the first bytes of the file
//! ([`Header::BYTES`] are enough, a page is what one has), says which bytes
//! hold the program headers ([`Header::table`]), and takes those in
//! [`Header::check`]. In nearly every file they lie in the first page too,
//! but nothing promises it.

use elf::abi::{
    EI_ABIVERSION, EI_CLASS, EI_NIDENT, EI_OSABI, ELFCLASS32, ELFCLASS64, ELFMAGIC, ET_DYN, ET_EXEC,
};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::parse::ParseAt;
use elf::segment::ProgramHeader;

use crate::error::{ElfError, Part};
use crate::segment::{Checked, FileRange};
use crate::target::Target;

/// A file header that fits the target.
///
/// It proves machine, type, and class where one number stands for two, and that the program header
/// table lies within the file. It proves nothing about segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub(crate) target: Target,
    pub(crate) kind: ImageKind,
    pub(crate) entry: u64,
    pub(crate) table: FileRange,
    pub(crate) count: u16,
    pub(crate) file_size: u64,
}

/// Whether the file says where it must stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageKind {
    /// `ET_EXEC`: linked for its addresses.
    Fixed,
    /// `ET_DYN`: a position-independent program, static or not, or an
    /// interpreter.
    Relocatable,
}

impl Header {
    /// The bytes of a file that [`Header::parse`] looks at; the shorter ELF32
    /// header is 52.
    pub const BYTES: usize = 64;

    /// Parses the first bytes of a file of `file_size` bytes.
    ///
    /// # Errors
    /// Says why the file is no program for the target; `ShortBuffer` where
    /// `prefix` holds fewer bytes than the file and the header.
    pub fn parse(prefix: &[u8], file_size: u64, target: &Target) -> Result<Self, ElfError> {
        let prefix = match usize::try_from(file_size) {
            Ok(size) => prefix.get(..size).unwrap_or(prefix),
            Err(_) => prefix,
        };
        // A short file is "not ELF" unless what there is of it says ELF.
        if !prefix.iter().zip(&ELFMAGIC).all(|(a, b)| a == b) || prefix.is_empty() {
            return Err(ElfError::NotElf);
        }
        let ident = take(prefix, EI_NIDENT, file_size)?;
        let byte = |i: usize| ident.get(i).copied().unwrap_or(0);
        // As on Linux, the machine's number says class and byte order (another order
        // makes it another number), and nobody asks for the version.
        let class = target.machine.class();
        let found = byte(EI_CLASS);
        if target.machine.shares_number() && found != ident_class(class) {
            return Err(ElfError::WrongClass { found });
        }
        let tail = match class {
            Class::ELF32 => elf::file::ELF32_EHDR_TAILSIZE,
            Class::ELF64 => elf::file::ELF64_EHDR_TAILSIZE,
        };
        let whole = take(prefix, EI_NIDENT.saturating_add(tail), file_size)?;
        let tail = whole.get(EI_NIDENT..).unwrap_or_default();
        let ident = (LittleEndian, class, byte(EI_OSABI), byte(EI_ABIVERSION));
        // What there is of it is enough, so nothing can be missing.
        let raw = FileHeader::parse_tail(ident, tail).map_err(|_| ElfError::NotElf)?;
        Self::from_raw(&raw, file_size, target)
    }

    fn from_raw(
        raw: &FileHeader<LittleEndian>,
        file_size: u64,
        target: &Target,
    ) -> Result<Self, ElfError> {
        if raw.e_machine != target.machine.number() {
            return Err(ElfError::WrongMachine {
                found: raw.e_machine,
            });
        }
        let kind = match raw.e_type {
            ET_EXEC => ImageKind::Fixed,
            ET_DYN => ImageKind::Relocatable,
            found => return Err(ElfError::WrongType { found }),
        };
        let entry_size = ProgramHeader::size_for(raw.class);
        if usize::from(raw.e_phentsize) != entry_size {
            return Err(ElfError::WrongEntrySize {
                found: raw.e_phentsize,
            });
        }
        if raw.e_phnum == 0 {
            return Err(ElfError::NoHeaders);
        }
        let len = u64::from(raw.e_phnum).saturating_mul(u64::from(raw.e_phentsize));
        if len > target.page_size() {
            return Err(ElfError::TooManyHeaders { found: raw.e_phnum });
        }
        let table = FileRange {
            offset: raw.e_phoff,
            len,
        };
        table.within(file_size, Part::Table)?;
        Ok(Self {
            target: target.clone(),
            kind,
            entry: raw.e_entry,
            table,
            count: raw.e_phnum,
            file_size,
        })
    }

    /// Returns which bytes of the file hold the program headers: at most a
    /// page, anywhere in the file.
    pub const fn table(&self) -> FileRange {
        self.table
    }

    /// Returns how many program headers there are (`AT_PHNUM`).
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Returns the size of a program header in bytes (`AT_PHENT`).
    pub fn entry_size(&self) -> u64 {
        ProgramHeader::size_for(self.target.machine.class()) as u64
    }

    /// Returns whether the program says where it must stand.
    pub const fn kind(&self) -> ImageKind {
        self.kind
    }

    /// Returns what the file was checked against.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Checks the program headers, given the bytes that [`Header::table`]
    /// names (more after them do not matter).
    ///
    /// # Errors
    /// Says which segment is unsound and why.
    pub fn check<'a>(&self, table: &'a [u8]) -> Result<Checked<'a>, ElfError> {
        Checked::new(self.clone(), table)
    }
}

/// Returns the first `need` bytes of the file.
fn take(prefix: &[u8], need: usize, file_size: u64) -> Result<&[u8], ElfError> {
    let end = need as u64;
    match prefix.get(..need) {
        Some(bytes) => Ok(bytes),
        None if file_size < end => Err(ElfError::Truncated {
            part: Part::Header,
            end,
        }),
        None => Err(ElfError::ShortBuffer { need: end }),
    }
}

/// Returns the value of `e_ident[EI_CLASS]` for a class.
const fn ident_class(class: Class) -> u8 {
    match class {
        Class::ELF32 => ELFCLASS32,
        Class::ELF64 => ELFCLASS64,
    }
}
