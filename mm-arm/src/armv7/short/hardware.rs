//! The hardware's own words (DDI 0406C B3.5.1).
//!
//! ```text
//!                31......24 23..20 19 18 17 16 15 14..12 11..10 9 8..5 4  3 2 1  0
//!  table         base 31..10 ................................  * dom  0  * P 0  1    P: PXN
//!  section       base 31..20       NS 0  nG S  A2  TEX    AP   * dom  XN C B 1  PXN
//!  supersection  base 31..24 35..32 NS 1  nG S  A2  TEX    AP   * 39.. XN C B 1  PXN
//!
//!                31......16 15 14..12 11 10 9  8..6 5..4 3 2 1 0
//!  large page    base       XN TEX    nG S  A2  0   AP   C B 0 1
//!  small page    base 31..12          nG S  A2  TEX AP   C B 1 XN
//! ```

use mm_core::prot::MemType;

/// Pages of 4 KiB in a section and a supersection.
pub const SECTION_PAGES: u32 = 256;
/// See [`SECTION_PAGES`].
pub const SUPERSECTION_PAGES: u32 = 4096;

/// How TEX, C and B name memory types (DDI 0406C B3.8).
///
/// | memory type | Plain: TEX C B | Remapped: TEX\[0\] C B, with [`PRRR`] and [`NMRR`] |
/// |---|---|---|
/// | write-back, write-allocate | 001 1 1 | 1 1 1 |
/// | write-through | 000 1 0 | 0 1 0 |
/// | write-combining (normal, not cached) | 001 0 0 | 0 0 1 |
/// | uncached (strongly ordered) | 000 0 0 | 0 0 0 |
/// | device | 000 0 1 | 1 0 0 |
///
/// [`PRRR`]: crate::armv7::registers::PRRR
/// [`NMRR`]: crate::armv7::registers::NMRR
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemoryTypes {
    /// SCTLR.TRE is clear: TEX, C and B say it by themselves.
    #[default]
    Plain,
    /// SCTLR.TRE is set: TEX\[0\], C and B index PRRR and NMRR; TEX\[2:1\]
    /// mean nothing to hardware and stay clear.
    Remapped,
}

impl MemoryTypes {
    /// Returns TEX, C and B of a type, as five bits.
    const fn bits(self, mem: MemType) -> u32 {
        match (self, mem) {
            (_, MemType::WriteBack) => 0b00111,
            (_, MemType::WriteThrough) => 0b00010,
            (_, MemType::Uncached) => 0b00000,
            (Self::Plain, MemType::WriteCombining) => 0b00100,
            (Self::Plain, MemType::Device) => 0b00001,
            (Self::Remapped, MemType::WriteCombining) => 0b00001,
            (Self::Remapped, MemType::Device) => 0b00100,
        }
    }

    /// Returns the type of TEX, C and B. Words of others may hold types that
    /// this format never writes: they read as the nearest.
    pub const fn of_bits(self, bits: u32) -> MemType {
        match self {
            Self::Remapped => match bits & 7 {
                1 => MemType::WriteCombining,
                2 => MemType::WriteThrough,
                3 | 7 => MemType::WriteBack,
                4 => MemType::Device,
                _ => MemType::Uncached,
            },
            Self::Plain => match bits {
                0b00000 => MemType::Uncached,
                0b00001 | 0b01000 => MemType::Device,
                0b00010 => MemType::WriteThrough,
                0b00100 => MemType::WriteCombining,
                // TEX[2] set: the inner policy stands in C and B.
                0b10000..=0b11111 => match bits & 3 {
                    0 => MemType::WriteCombining,
                    2 => MemType::WriteThrough,
                    _ => MemType::WriteBack,
                },
                _ => MemType::WriteBack,
            },
        }
    }
}

/// Whether normal memory is marked shareable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// All CPUs see it coherently: needed with more than one, and right for
    /// every core with the Multiprocessing Extensions.
    #[default]
    Shareable,
    /// One CPU only: older cores do not cache shareable memory.
    Local,
}

/// Whether user tables forbid the kernel to execute below them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pxn {
    /// The CPU has no PXN (without the Large Physical Address Extension):
    /// the bit is reserved.
    #[default]
    Absent,
    /// PXN is set in table words of users.
    Present,
}

/// The facts of a machine that its hardware words depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hardware {
    /// How memory types are named.
    pub types: MemoryTypes,
    /// Whether memory is shareable.
    pub sharing: Sharing,
    /// Whether the CPU knows PXN.
    pub pxn: Pxn,
}

/// AP\[2:0\] with SCTLR.AFE clear (DDI 0406C table B3-8).
///
/// | AP | kernel | user |
/// |---|---|---|
/// | 000 | none | none |
/// | 001 | read, write | none |
/// | 010 | read, write | read |
/// | 011 | read, write | read, write |
/// | 101 | read | none |
/// | 110, 111 | read | read |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ap(u32);

impl Ap {
    /// Makes the rights of a page: who may read it, and whether the same may
    /// write it.
    pub(super) const fn new(user: bool, write: bool) -> Self {
        let class = if user { 3 } else { 1 };
        Self(if write { class } else { class | 4 })
    }

    /// Reads three bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 7)
    }

    /// Reads three bits where SCTLR.AFE is set: AP\[0\] is the access flag.
    /// Returns the rights and whether the word was accessed; a word that was
    /// not faults as if it were invalid, with a code of its own.
    pub const fn with_access_flag(bits: u32) -> (Self, bool) {
        // AP[2:1]: 00 kernel RW, 01 all RW, 10 kernel RO, 11 all RO.
        (Self(bits & 6 | 1), bits & 1 != 0)
    }

    /// Returns the three bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
    /// Returns whether user mode may read.
    pub const fn is_user(self) -> bool {
        matches!(self.0, 2 | 3 | 6 | 7)
    }
    /// Returns whether user mode may write.
    pub const fn is_user_writable(self) -> bool {
        self.0 == 3
    }
    /// Returns whether the kernel may write.
    pub const fn is_writable(self) -> bool {
        matches!(self.0, 1..=3)
    }
    /// Returns whether the kernel may read.
    pub const fn is_readable(self) -> bool {
        !matches!(self.0, 0 | 4)
    }
}

/// What a leaf of hardware's shall say.
#[derive(Clone, Copy)]
pub(super) struct Rights {
    pub base: u32,
    pub mem: MemType,
    pub ap: Ap,
    pub exec: bool,
    pub global: bool,
}

/// A leaf of hardware's, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its first byte, below 4 GiB.
    pub base: u32,
    /// How many pages of 4 KiB it spans.
    pub pages: u32,
    /// Its memory type.
    pub mem: MemType,
    /// Its rights.
    pub ap: Ap,
    /// Whether instructions may be fetched.
    pub exec: bool,
    /// Whether it is the same in all spaces.
    pub global: bool,
    /// Its domain; 0 where the word has none.
    pub domain: u32,
}

const fn flag(set: bool, bit: u32) -> u32 {
    if set { bit } else { 0 }
}

impl Hardware {
    const fn shared(self) -> bool {
        matches!(self.sharing, Sharing::Shareable)
    }

    /// Writes a pointer to a second-level table.
    pub(super) const fn table(self, base: u32, domain: u32) -> u32 {
        let pxn = flag(matches!(self.pxn, Pxn::Present) && domain != 0, 1 << 2);
        base & 0xffff_fc00 | domain << 5 | pxn | 1
    }

    /// Writes what sections and supersections have in common.
    const fn first_level(self, leaf: Rights) -> u32 {
        let tex_cb = self.types.bits(leaf.mem);
        let ap = leaf.ap.bits();
        0b10 | (tex_cb & 3) << 2
            | flag(!leaf.exec, 1 << 4)
            | (ap & 3) << 10
            | (tex_cb >> 2) << 12
            | (ap >> 2) << 15
            | flag(self.shared(), 1 << 16)
            | flag(!leaf.global, 1 << 17)
    }

    pub(super) const fn section(self, leaf: Rights, domain: u32) -> u32 {
        leaf.base & 0xfff0_0000 | self.first_level(leaf) | domain << 5
    }

    pub(super) const fn supersection(self, leaf: Rights) -> u32 {
        leaf.base & 0xff00_0000 | self.first_level(leaf) | 1 << 18
    }

    /// Writes what small and large pages have in common.
    const fn second_level(self, leaf: Rights) -> u32 {
        let ap = leaf.ap.bits();
        (self.types.bits(leaf.mem) & 3) << 2
            | (ap & 3) << 4
            | (ap >> 2) << 9
            | flag(self.shared(), 1 << 10)
            | flag(!leaf.global, 1 << 11)
    }

    pub(super) const fn small_page(self, leaf: Rights) -> u32 {
        let tex = self.types.bits(leaf.mem) >> 2;
        leaf.base & 0xffff_f000 | self.second_level(leaf) | tex << 6 | 0b10 | flag(!leaf.exec, 1)
    }

    pub(super) const fn large_page(self, leaf: Rights) -> u32 {
        let tex = self.types.bits(leaf.mem) >> 2;
        leaf.base & 0xffff_0000
            | self.second_level(leaf)
            | tex << 12
            | 0b01
            | flag(!leaf.exec, 1 << 15)
    }
}

/// Reads a first-level word, if it is a section or a supersection.
pub const fn decode_first(word: u32, types: MemoryTypes) -> Option<Found> {
    if word & 2 == 0 {
        return None;
    }
    let supersection = word & 1 << 18 != 0;
    let (mask, pages) = if supersection {
        (0xff00_0000, SUPERSECTION_PAGES)
    } else {
        (0xfff0_0000, SECTION_PAGES)
    };
    Some(Found {
        base: word & mask,
        pages,
        mem: types.of_bits(word >> 2 & 3 | (word >> 12 & 7) << 2),
        ap: Ap::from_bits(word >> 10 & 3 | (word >> 15 & 1) << 2),
        exec: word & 1 << 4 == 0,
        global: word & 1 << 17 == 0,
        domain: if supersection { 0 } else { word >> 5 & 15 },
    })
}

/// Reads a second-level word, if it is a page.
pub const fn decode_second(word: u32, types: MemoryTypes) -> Option<Found> {
    let (mask, pages, tex, exec) = match word & 3 {
        0 => return None,
        1 => (0xffff_0000, 16, word >> 12 & 7, word & 1 << 15 == 0),
        _ => (0xffff_f000, 1, word >> 6 & 7, word & 1 == 0),
    };
    Some(Found {
        base: word & mask,
        pages,
        mem: types.of_bits(word >> 2 & 3 | tex << 2),
        ap: Ap::from_bits(word >> 4 & 3 | (word >> 9 & 1) << 2),
        exec,
        global: word & 1 << 11 == 0,
        domain: 0,
    })
}
