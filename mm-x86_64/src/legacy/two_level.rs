//! The two-level entries of the 80386.
//!
//! ```text
//!  31......................12 11..9  8  7  6 5  4   3   2   1  0
//!        frame number          soft  G  *  D A PCD PWT U/S R/W P=1
//!                                       * table: PAT, directory: PS (4 MiB; its PAT is bit 12)
//!  31.............................4  3..1  0
//!          inverted value             kind  P=0   non-present
//! ```
//!
//! There is no NX: what can be read can be executed. Source: Intel SDM 3A,
//! 4.3, tables 4-4 to 4-6. Frames of 4 MiB leaves have 32-bit addresses.

use crate::entry::{
    ACCESSED, DIRTY, PRESENT, PS, USER, WRITABLE, ad_settled, edit, leaf_attrs, leaf_bits,
    nonpresent, nonpresent_bits, rights, with_bit,
};
use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{
    AdBit, Attrs, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat, TableOwner, Word,
};
use mm_core::prot::Prot;

const FRAME: u64 = 0xffff_f000;
/// The address bits that a 4 MiB leaf leaves for flags.
const BLOCK_MASK: u64 = 0x003f_f000;
const VALUE_BITS: u32 = 28;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;

/// Whether CR4.PSE is set: else PS is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LargePages {
    /// The directory may hold leaves of 4 MiB.
    On,
    /// It may not.
    Off,
}

/// The format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TwoLevel {
    large: LargePages,
}

impl TwoLevel {
    /// Makes the format.
    pub const fn new(large: LargePages) -> Self {
        Self { large }
    }

    const fn frame_bits(pfn: Pfn) -> Result<u64, FormatError> {
        if pfn.as_u64() > FRAME >> 12 {
            return Err(FormatError::PfnTooBig(pfn));
        }
        Ok(pfn.as_u64() << 12)
    }
}

#[expect(unsafe_code, reason = "implements the format")]
// SAFETY: each encode_* is the inverse of the branch of `decode` that its
// tests name; zero has P clear and kind 0 and decodes as `Empty`; geometry is
// that of SDM 3A 4.3; `write_protect` clears R/W, which with CR0.WP set forbids
// every store (SDM 3A 4.6).
unsafe impl PageTableFormat for TwoLevel {
    type Word = u32;

    fn page_shift(self) -> u32 {
        12
    }
    fn hardware_ad(self) -> HardwareAd {
        HardwareAd::Both
    }
    fn break_before_make(self) -> bool {
        false
    }
    fn caches_invalid(self) -> bool {
        false
    }
    fn nonpresent_bits(self) -> u32 {
        VALUE_BITS
    }
    fn levels(self) -> u8 {
        2
    }
    fn index_bits(self, _level: u8) -> u32 {
        10
    }
    fn leaf_at(self, level: u8) -> bool {
        level == 1 || (level == 2 && self.large == LargePages::On)
    }
    fn user_end(self) -> Vpn {
        Vpn::new(0xc0000)
    }
    fn kernel_root_index(self) -> usize {
        768
    }

    fn decode(self, word: u32, level: u8) -> Entry {
        let bits = word.to_u64();
        if bits & PRESENT == 0 {
            return nonpresent(bits, VALUE_MASK);
        }
        if level > 1 && (bits & PS == 0 || self.large == LargePages::Off) {
            return Entry::Table(Pfn::new((bits & FRAME) >> 12));
        }
        let mask = if level > 1 { BLOCK_MASK } else { 0 };
        Entry::Leaf {
            pfn: Pfn::new((bits & FRAME & !mask) >> 12),
            attrs: leaf_attrs(bits, level, 0),
        }
    }

    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u32, FormatError> {
        if !self.leaf_at(level) {
            return Err(FormatError::NoLeafHere(level));
        }
        let addr = Self::frame_bits(pfn)?;
        if level > 1 && addr & BLOCK_MASK != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        Ok(u32::from_u64(addr | leaf_bits(attrs, level, 0)?))
    }

    fn encode_table(self, pfn: Pfn, _level: u8, owner: TableOwner) -> Result<u32, FormatError> {
        let user = match owner {
            TableOwner::User => USER,
            TableOwner::Kernel => 0,
        };
        let bits = Self::frame_bits(pfn)? | PRESENT | WRITABLE | ACCESSED | user;
        Ok(u32::from_u64(bits))
    }

    fn encode_nonpresent(self, entry: NonPresent) -> Result<u32, FormatError> {
        nonpresent_bits(entry, VALUE_MASK).map(u32::from_u64)
    }

    fn next_page(self, word: u32, level: u8) -> u32 {
        word.wrapping_add(if level == 1 { 1 << 12 } else { 1 << 22 })
    }

    fn write_protect(self, word: u32) -> u32 {
        edit(word, WRITABLE, 0)
    }
    fn ad_settled(self, word: u32) -> bool {
        ad_settled(word.to_u64())
    }
    fn is_young(self, word: u32) -> bool {
        word.to_u64() & ACCESSED != 0
    }
    fn is_dirty(self, word: u32) -> bool {
        word.to_u64() & DIRTY != 0
    }
    fn with_young(self, word: u32, young: AdBit) -> u32 {
        with_bit(word, ACCESSED, young)
    }
    fn with_dirty(self, word: u32, dirty: AdBit) -> u32 {
        with_bit(word, DIRTY, dirty)
    }
    fn with_prot(self, word: u32, prot: Prot, _level: u8) -> Result<u32, FormatError> {
        Ok(edit(word, WRITABLE, rights(prot, 0)?))
    }
}
