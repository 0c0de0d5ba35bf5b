//! Stage 1 of VMSAv8-64: descriptors (drawn in `descriptor.rs`) in tables of
//! three granules.
//!
//! | granule | index bits | levels for 48, 42, 39 bits | blocks | run of pages | run of blocks |
//! |---|---|---|---|---|---|
//! | 4 KiB | 9 | 4, 4, 3 | 2 MiB, 1 GiB | 16: 64 KiB | 16: 32 MiB, 16 GiB |
//! | 16 KiB | 11 | 4, 3, 3 | 32 MiB | 128: 2 MiB | 32: 1 GiB |
//! | 64 KiB | 13 | 3, 2, 2 | 512 MiB | 32: 2 MiB | 32: 16 GiB |
//!
//! The manual counts levels from the root; here level 1 is its level 3. The
//! root has what is left of the bits, so it may be short: its table still
//! takes a whole frame, of which hardware reads the beginning.
//!
//! TTBR0 and TTBR1 are two trees. User space fills TTBR0's, all of it; the
//! kernel has a root of its own for addresses from
//! [`kernel_base`](Stage1::kernel_base) on, which no user root copies
//! ([`kernel_root_index`](PageTableFormat::kernel_root_index) is past the end).
//!
//! Break-before-make is demanded (D8.16.1): a change of output address, size,
//! memory type or of the contiguous hint goes by way of an invalid entry.
//! Entries that are invalid or whose AF is clear are never remembered (D8.16),
//! so mapping needs no flush.
//!
//! A run of entries with the contiguous hint is one TLB entry. Hardware may
//! note an access or a store in any entry of the run, so the state of a run is
//! that of all its entries together (D8.5.5 with D8.7.1).

use crate::descriptor::{self as bits, Layout};
use core::fmt::Debug;
use core::marker::PhantomData;
use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{
    AdBit, Attrs, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat, Run, TableOwner,
};
use mm_core::prot::Prot;

/// DBM: stores mark a clean entry dirty instead of failing.
const DBM: u64 = 1 << 51;
/// Output addresses have 48 bits; the granule takes the low ones away.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

struct V8;

impl Layout for V8 {
    const WRITABLE: u64 = DBM;
    const KERNEL_CODE: u64 = bits::UXN;
}

/// The page size of a table, which hardware calls its granule.
pub trait Granule: Copy + Debug + Send + Sync + 'static {
    /// log2 of the page size in bytes.
    const SHIFT: u32;
    /// log2 of the pages in a run.
    const PAGE_RUN: u32;
    /// log2 of the blocks in a run.
    const BLOCK_RUN: u32;
    /// The highest level with blocks.
    const LARGEST: u8;
    /// TCR_EL1.TG0.
    const TG0: u64;
    /// TCR_EL1.TG1, which counts otherwise.
    const TG1: u64;
}

/// 4 KiB pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Page4K;
/// 16 KiB pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Page16K;
/// 64 KiB pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Page64K;

impl Granule for Page4K {
    const SHIFT: u32 = 12;
    const PAGE_RUN: u32 = 4;
    const BLOCK_RUN: u32 = 4;
    const LARGEST: u8 = 3;
    const TG0: u64 = 0;
    const TG1: u64 = 2;
}
impl Granule for Page16K {
    const SHIFT: u32 = 14;
    const PAGE_RUN: u32 = 7;
    const BLOCK_RUN: u32 = 5;
    const LARGEST: u8 = 2;
    const TG0: u64 = 2;
    const TG1: u64 = 1;
}
impl Granule for Page64K {
    const SHIFT: u32 = 16;
    const PAGE_RUN: u32 = 5;
    const BLOCK_RUN: u32 = 5;
    const LARGEST: u8 = 2;
    const TG0: u64 = 1;
    const TG1: u64 = 3;
}

/// The format of a granule, for a size of address space and what hardware
/// notes by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1<G: Granule> {
    va_bits: u8,
    ad: HardwareAd,
    granule: PhantomData<G>,
}

impl<G: Granule> Stage1<G> {
    /// Makes the format of address spaces of `va_bits` bits (TnSZ is 64 less
    /// that), held within 32 and 48.
    pub const fn new(va_bits: u8, ad: HardwareAd) -> Self {
        let va_bits = if va_bits < 32 {
            32
        } else if va_bits > 48 {
            48
        } else {
            va_bits
        };
        Self {
            va_bits,
            ad,
            granule: PhantomData,
        }
    }

    /// Returns the number of bits of an address that tables translate.
    pub const fn va_bits(self) -> u8 {
        self.va_bits
    }

    /// Returns the first address that TTBR1 translates.
    pub const fn kernel_base(self) -> usize {
        usize::MAX.wrapping_shl(self.va_bits as u32)
    }

    const TABLE_BITS: u32 = G::SHIFT.wrapping_sub(3);
    const FRAME: u64 = ADDRESS & u64::MAX.wrapping_shl(G::SHIFT);

    /// Bits of a page number.
    const fn page_bits(self) -> u32 {
        (self.va_bits as u32).wrapping_sub(G::SHIFT)
    }

    /// The address bits of a leaf of a level.
    fn leaf_frame(self, level: u8) -> u64 {
        Self::FRAME & u64::MAX.wrapping_shl(self.leaf_shift(level))
    }

    /// log2 of the bytes of a leaf of a level.
    fn leaf_shift(self, level: u8) -> u32 {
        G::SHIFT.wrapping_add(self.index_shift(level))
    }
}

#[expect(unsafe_code, reason = "implements the format")]
// SAFETY: each encode_* is the inverse of the branch of `decode` that its
// tests name; zero is invalid and of kind 0 and decodes as `Empty`; geometry is
// that of DDI 0487 D8.2; `write_protect` sets AP[2] and clears DBM, which
// forbids every store (D8.4.1, D8.7.2).
unsafe impl<G: Granule> PageTableFormat for Stage1<G> {
    type Word = u64;

    #[inline]
    fn page_shift(self) -> u32 {
        G::SHIFT
    }
    #[inline]
    fn hardware_ad(self) -> HardwareAd {
        self.ad
    }
    fn break_before_make(self) -> bool {
        true
    }
    fn caches_invalid(self) -> bool {
        false
    }
    /// A walk may overtake the store until a DSB.
    fn shows_entries_late(self) -> bool {
        true
    }
    fn nonpresent_bits(self) -> u32 {
        bits::VALUE_BITS
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 4")]
    fn levels(self) -> u8 {
        self.page_bits().div_ceil(Self::TABLE_BITS) as u8
    }
    #[inline]
    fn index_bits(self, level: u8) -> u32 {
        self.page_bits()
            .saturating_sub(self.index_shift(level))
            .min(Self::TABLE_BITS)
    }
    #[inline]
    fn index_shift(self, level: u8) -> u32 {
        u32::from(level)
            .saturating_sub(1)
            .wrapping_mul(Self::TABLE_BITS)
            .min(self.page_bits())
    }

    fn leaf_at(self, level: u8) -> bool {
        1 <= level && level <= G::LARGEST && level <= self.levels()
    }

    /// All that TTBR0 translates.
    fn user_end(self) -> Vpn {
        Vpn::new(1usize.wrapping_shl(self.page_bits()))
    }

    fn kernel_root_index(self) -> usize {
        self.entries(self.levels())
    }

    #[inline]
    fn decode(self, word: u64, level: u8) -> Entry {
        if !bits::is_valid(word) {
            return bits::decode_invalid(word);
        }
        if level > 1 && word & bits::TABLE_OR_PAGE != 0 {
            return Entry::Table(Pfn::new((word & Self::FRAME).wrapping_shr(G::SHIFT)));
        }
        Entry::Leaf {
            pfn: Pfn::new((word & self.leaf_frame(level)).wrapping_shr(G::SHIFT)),
            attrs: bits::attrs::<V8>(word),
        }
    }

    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u64, FormatError> {
        if !self.leaf_at(level) {
            return Err(FormatError::NoLeafHere(level));
        }
        let addr = bits::frame_bits(pfn, G::SHIFT, Self::FRAME)?;
        if addr & !self.leaf_frame(level) != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        let word = addr | bits::leaf_bits::<V8>(attrs)?;
        Ok(if level == 1 {
            word | bits::TABLE_OR_PAGE
        } else {
            word
        })
    }

    fn encode_table(self, pfn: Pfn, _level: u8, owner: TableOwner) -> Result<u64, FormatError> {
        let never = match owner {
            TableOwner::User => bits::PXN_TABLE,
            // Not UXNTable: a kernel may show users a page of its half.
            TableOwner::Kernel => 0,
        };
        let addr = bits::frame_bits(pfn, G::SHIFT, Self::FRAME)?;
        Ok(addr | bits::VALID | bits::TABLE_OR_PAGE | never)
    }

    fn encode_nonpresent(self, entry: NonPresent) -> Result<u64, FormatError> {
        bits::encode_nonpresent(entry)
    }

    #[inline]
    fn next_page(self, word: u64, level: u8) -> u64 {
        word.wrapping_add(1u64.wrapping_shl(self.leaf_shift(level)))
    }
    #[inline]
    fn write_protect(self, word: u64) -> u64 {
        bits::write_protect::<V8>(word)
    }
    #[inline]
    fn ad_settled(self, word: u64) -> bool {
        let young = word & bits::ACCESSED != 0;
        !bits::is_valid(word)
            || match self.ad {
                HardwareAd::None => true,
                HardwareAd::Accessed => young,
                HardwareAd::Both => {
                    young && word & (DBM | bits::READ_ONLY) != DBM | bits::READ_ONLY
                }
            }
    }
    #[inline]
    fn is_young(self, word: u64) -> bool {
        word & bits::ACCESSED != 0
    }
    #[inline]
    fn is_dirty(self, word: u64) -> bool {
        bits::is_dirty(word)
    }
    fn with_young(self, word: u64, young: AdBit) -> u64 {
        bits::with_young(word, young)
    }
    fn with_dirty(self, word: u64, dirty: AdBit) -> u64 {
        bits::with_dirty::<V8>(word, dirty)
    }
    fn with_prot(self, word: u64, prot: Prot, _level: u8) -> Result<u64, FormatError> {
        bits::with_prot::<V8>(word, prot)
    }

    fn run_bits(self, level: u8) -> u32 {
        let run = match level {
            1 => G::PAGE_RUN,
            _ if self.leaf_at(level) => G::BLOCK_RUN,
            _ => 0,
        };
        // A short root may have fewer entries than a run: then there is none.
        if run <= self.index_bits(level) {
            run
        } else {
            0
        }
    }
    fn is_run(self, word: u64) -> bool {
        bits::is_run(word)
    }
    fn with_run(self, word: u64, run: Run) -> u64 {
        bits::with_run(word, run)
    }
}

#[cfg(test)]
mod tests;
