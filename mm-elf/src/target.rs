//! What programs this kernel runs: machine, page size, user addresses.

use core::ops::Range;

use elf::abi::{EM_AARCH64, EM_ARM, EM_RISCV, EM_X86_64};
use elf::file::Class;

/// An instruction set together with its ELF class.
///
/// One machine number can stand for two classes (RISC-V); the two are checked
/// together then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Machine {
    /// x86-64, ELF64.
    X86_64,
    /// AArch64, ELF64.
    Aarch64,
    /// 32-bit ARM, ELF32.
    Arm,
    /// RISC-V with 64-bit registers, ELF64.
    Riscv64,
    /// RISC-V with 32-bit registers, ELF32.
    Riscv32,
}

/// What a program must fit: the kernel's answer to "which files can I run?".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The instruction set.
    pub machine: Machine,
    /// The size of a page as a power of two (12 for 4 KiB).
    pub page_shift: u32,
    /// The byte addresses a user may map, the end exclusive. Debian's armhf
    /// and riscv64 programs are linked at 64 KiB, so a start above that
    /// refuses them.
    pub user: Range<u64>,
}

impl Machine {
    /// Returns the number that `e_machine` has for it.
    pub const fn number(self) -> u16 {
        match self {
            Self::X86_64 => EM_X86_64,
            Self::Aarch64 => EM_AARCH64,
            Self::Arm => EM_ARM,
            Self::Riscv64 | Self::Riscv32 => EM_RISCV,
        }
    }

    /// Returns the size of an address in its programs, in bytes.
    pub const fn word_bytes(self) -> u64 {
        match self.class() {
            Class::ELF32 => 4,
            Class::ELF64 => 8,
        }
    }

    /// Returns the string that `AT_PLATFORM` has on Linux, where it has one.
    pub const fn platform(self) -> Option<&'static [u8]> {
        match self {
            Self::X86_64 => Some(b"x86_64"),
            Self::Aarch64 => Some(b"aarch64"),
            Self::Arm => Some(b"v7l"),
            Self::Riscv64 | Self::Riscv32 => None,
        }
    }

    /// Returns whether the number stands for machines of both classes, so that the
    /// class must be looked at (Linux: `elf_check_arch` of RISC-V).
    pub(crate) const fn shares_number(self) -> bool {
        matches!(self, Self::Riscv64 | Self::Riscv32)
    }

    pub(crate) const fn class(self) -> Class {
        match self {
            Self::X86_64 | Self::Aarch64 | Self::Riscv64 => Class::ELF64,
            Self::Arm | Self::Riscv32 => Class::ELF32,
        }
    }
}

impl Target {
    /// Returns the size of a page in bytes.
    pub const fn page_size(&self) -> u64 {
        match 1u64.checked_shl(self.page_shift) {
            Some(n) => n,
            None => 0,
        }
    }

    /// Returns the mask of the offset bits within a page.
    pub const fn page_mask(&self) -> u64 {
        self.page_size().wrapping_sub(1)
    }

    /// Rounds down to a page.
    pub(crate) const fn page_floor(&self, addr: u64) -> u64 {
        addr & !self.page_mask()
    }

    /// Rounds up to a page, or returns `None` past the last one.
    pub(crate) const fn page_ceil(&self, addr: u64) -> Option<u64> {
        match addr.checked_add(self.page_mask()) {
            Some(a) => Some(self.page_floor(a)),
            None => None,
        }
    }
}
