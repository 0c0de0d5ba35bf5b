//! What is wrong with a file, and where.
//!
//! The errno values are Linux' (`fs/binfmt_elf.c`, execve(2)): what cannot be
//! a program for this machine is `ENOEXEC`, so that a shell may try it as a
//! script; one whose interpreter's path cannot be read is `EIO`; a program whose segments contradict themselves is `EINVAL`; too
//! long an argument list is `E2BIG`.

use core::fmt;

/// Why a file cannot be run, or an initial stack not be built.
///
/// `segment` is the index in the program header table, as `readelf -l` counts
/// from zero; addresses and offsets are those of the file, without load bias,
/// unless the variant says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ElfError {
    /// The file does not start with the ELF magic number.
    NotElf,
    /// `e_ident[EI_CLASS]` is not the machine's, whose number stands for two.
    WrongClass {
        /// The value in the file.
        found: u8,
    },
    /// `e_machine` is another machine.
    WrongMachine {
        /// The value in the file.
        found: u16,
    },
    /// `e_type` is neither `ET_EXEC` nor `ET_DYN`.
    WrongType {
        /// The value in the file.
        found: u16,
    },
    /// `e_phentsize` is not the size of a program header of this class.
    WrongEntrySize {
        /// The value in the file.
        found: u16,
    },
    /// There are no program headers.
    NoHeaders,
    /// The program headers fill more than a page, which Linux refuses too.
    TooManyHeaders {
        /// `e_phnum`.
        found: u16,
    },
    /// The file ends before a part of it that its headers declare.
    Truncated {
        /// The part that is cut.
        part: Part,
        /// The file offset just past the part, in bytes (saturated).
        end: u64,
    },
    /// The caller handed over fewer bytes than it was asked for.
    ShortBuffer {
        /// How many bytes are needed.
        need: u64,
    },
    /// No segment is to be loaded.
    NoSegments,
    /// A segment has more bytes in the file than in memory.
    FileExceedsMemory {
        /// Which program header.
        segment: u16,
    },
    /// Address and file offset differ within the page, so it cannot be mapped.
    Misaligned {
        /// Which program header.
        segment: u16,
        /// `p_vaddr`.
        addr: u64,
    },
    /// Address plus size exceeds the address width of the class.
    Wraps {
        /// Which program header.
        segment: u16,
        /// `p_vaddr`.
        addr: u64,
    },
    /// The segment starts below the one before; the ELF specification wants
    /// them ascending.
    Unsorted {
        /// Which program header.
        segment: u16,
        /// `p_vaddr`.
        addr: u64,
    },
    /// The segment shares bytes with the one before, or a page whose content
    /// they disagree about.
    Overlap {
        /// Which program header.
        segment: u16,
        /// The first shared byte or page.
        addr: u64,
    },
    /// The image does not fit into the user range.
    OutsideUser {
        /// The first page of the image, load bias included (wrapping).
        addr: u64,
        /// Its length in bytes up to where the heap starts, whole pages.
        len: u64,
    },
    /// The program would start above the user range.
    BadEntry {
        /// The entry point, load bias included (wrapping).
        addr: u64,
    },
    /// The interpreter's path is empty or longer than `PATH_MAX`.
    InterpreterLength {
        /// `p_filesz`.
        found: u64,
    },
    /// The interpreter's path does not end with NUL.
    InterpreterPath,
    /// Arguments, environment and vector need more stack than allowed.
    ArgumentsTooBig {
        /// The bytes they need (saturated).
        need: u64,
    },
}

/// A part of a file that can be cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The file header.
    Header,
    /// The program header table.
    Table,
    /// The file bytes of the segment with this index.
    Segment(u16),
    /// The path of the interpreter.
    Interpreter,
}

impl ElfError {
    /// Returns the positive errno that Linux uses for this error.
    pub const fn errno(self) -> i32 {
        const EIO: i32 = 5;
        const E2BIG: i32 = 7;
        const ENOEXEC: i32 = 8;
        const ENOMEM: i32 = 12;
        const EINVAL: i32 = 22;
        match self {
            Self::NotElf
            | Self::WrongClass { .. }
            | Self::WrongMachine { .. }
            | Self::WrongType { .. }
            | Self::WrongEntrySize { .. }
            | Self::NoHeaders
            | Self::TooManyHeaders { .. }
            | Self::Truncated {
                part: Part::Header | Part::Table | Part::Segment(_),
                ..
            }
            | Self::InterpreterLength { .. }
            | Self::InterpreterPath => ENOEXEC,
            // No file offset (Linux: rw_verify_area).
            Self::Truncated {
                part: Part::Interpreter,
                end,
            } if end > i64::MAX as u64 => EINVAL,
            // A shell must not take it for a script: it is a program, and was cut off.
            Self::Truncated {
                part: Part::Interpreter,
                ..
            } => EIO,
            Self::ArgumentsTooBig { .. } => E2BIG,
            Self::OutsideUser { .. } => ENOMEM,
            Self::ShortBuffer { .. }
            | Self::NoSegments
            | Self::FileExceedsMemory { .. }
            | Self::Misaligned { .. }
            | Self::Wraps { .. }
            | Self::Unsorted { .. }
            | Self::Overlap { .. }
            | Self::BadEntry { .. } => EINVAL,
        }
    }
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotElf => write!(f, "not an ELF file"),
            Self::WrongClass { found } => write!(f, "ELF class {found} is not this machine's"),
            Self::WrongMachine { found } => write!(f, "made for machine {found}"),
            Self::WrongType { found } => write!(f, "ELF type {found} is not a program"),
            Self::WrongEntrySize { found } => write!(f, "program headers of {found} bytes"),
            Self::NoHeaders => write!(f, "no program headers"),
            Self::TooManyHeaders { found } => write!(f, "{found} program headers exceed a page"),
            Self::Truncated { part, end } => {
                write!(f, "file ends before {part}, which ends at {end:#x}")
            }
            Self::ShortBuffer { need } => write!(f, "{need} bytes are needed"),
            Self::NoSegments => write!(f, "nothing to load"),
            Self::FileExceedsMemory { segment } => {
                write!(f, "segment {segment} is larger in the file than in memory")
            }
            Self::Misaligned { segment, addr } => {
                write!(
                    f,
                    "segment {segment}: {addr:#x} and its file offset differ within the page"
                )
            }
            Self::Wraps { segment, addr } => {
                write!(f, "segment {segment} at {addr:#x} wraps around")
            }
            Self::Unsorted { segment, addr } => {
                write!(
                    f,
                    "segment {segment} at {addr:#x} lies below the one before"
                )
            }
            Self::Overlap { segment, addr } => {
                write!(f, "segment {segment} overlaps the one before at {addr:#x}")
            }
            Self::OutsideUser { addr, len } => {
                write!(f, "{len:#x} bytes at {addr:#x} are not user addresses")
            }
            Self::BadEntry { addr } => write!(f, "entry {addr:#x} is no user address"),
            Self::InterpreterLength { found } => {
                write!(f, "interpreter path of {found} bytes")
            }
            Self::InterpreterPath => write!(f, "interpreter path without NUL"),
            Self::ArgumentsTooBig { need } => {
                write!(f, "arguments need {need} bytes of stack")
            }
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header => write!(f, "the file header"),
            Self::Table => write!(f, "the program headers"),
            Self::Segment(n) => write!(f, "segment {n}"),
            Self::Interpreter => write!(f, "the interpreter's path"),
        }
    }
}

impl core::error::Error for ElfError {}
