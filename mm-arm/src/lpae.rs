//! The long descriptors of ARMv7-A (the Large Physical Address Extension).
//!
//! ```text
//!  31 30  29..........21 20..........12 11..........0     40-bit frames
//!   4 ×      512 ×           512 ×         4 KiB
//!  level 3  level 2        level 1
//! ```
//!
//! One root of four entries spans all 4 GiB (TTBCR.T0SZ = T1SZ = 0, as a kernel
//! with a 3 GiB user space runs it: three entries are the user's, the last is
//! the kernel's and the same in every root). Words are those of
//! `descriptor.rs`, with three differences (DDI 0406C, B3.6):
//!
//! | | AArch64 | LPAE |
//! |---|---|---|
//! | bit 54 | UXN: users only | XN: nobody |
//! | writable bit | DBM, 51 | software, 57 |
//! | accessed, dirty | FEAT_HAFDBS | faults: software only |
//!
//! A word is read and written in one step (64-bit single-copy atomicity comes
//! with the extension: A3.5.3).

use crate::descriptor::{self as bits, Layout};
use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{
    AdBit, Attrs, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat, Run, TableOwner,
};
use mm_core::prot::Prot;

const SHIFT: u32 = 12;
const FRAME: u64 = 0x0000_00ff_ffff_f000;
/// The third software bit.
const WRITABLE: u64 = 1 << 57;

/// The value for MAIR0.
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
pub const MAIR0_VALUE: u32 = bits::MAIR_VALUE as u32;
/// The value for MAIR1.
pub const MAIR1_VALUE: u32 = (bits::MAIR_VALUE >> 32) as u32;

/// The value for TTBCR: EAE (long descriptors), T0SZ = 0 (TTBR0 translates
/// everything), walks through inner and outer write-back caches, inner shareable.
pub const TTBCR_VALUE: u32 = (1 << 31) | (3 << 12) | (1 << 10) | (1 << 8);

/// Returns the value for TTBR0: the root's address and the ASID, in one write.
pub const fn ttbr0(root: u64, asid: u16) -> u64 {
    (root & 0x0000_00ff_ffff_ffe0) | ((asid as u64 & 0xff) << 48)
}

struct V7;

impl Layout for V7 {
    const WRITABLE: u64 = WRITABLE;
    const KERNEL_CODE: u64 = 0;
}

/// The format: three levels, users below 3 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lpae;

impl Lpae {
    fn leaf_shift(self, level: u8) -> u32 {
        SHIFT.wrapping_add(self.index_shift(level))
    }

    fn leaf_frame(self, level: u8) -> u64 {
        FRAME & u64::MAX.wrapping_shl(self.leaf_shift(level))
    }
}

#[expect(unsafe_code, reason = "implements the format")]
// SAFETY: each encode_* is the inverse of the branch of `decode` that its
// tests name; zero is invalid and of kind 0 and decodes as `Empty`; geometry is
// that of DDI 0406C B3.6.6; `write_protect` sets AP[2], which forbids every
// store (B3.7.1).
unsafe impl PageTableFormat for Lpae {
    type Word = u64;

    fn page_shift(self) -> u32 {
        SHIFT
    }
    fn hardware_ad(self) -> HardwareAd {
        HardwareAd::None
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

    fn levels(self) -> u8 {
        3
    }
    fn index_bits(self, level: u8) -> u32 {
        if level < 3 { 9 } else { 2 }
    }
    #[inline]
    fn index_shift(self, level: u8) -> u32 {
        match level {
            0 | 1 => 0,
            2 => 9,
            3 => 18,
            _ => 20,
        }
    }

    fn leaf_at(self, level: u8) -> bool {
        (1..=3).contains(&level)
    }

    /// 3 GiB.
    fn user_end(self) -> Vpn {
        Vpn::new(0xc_0000)
    }

    fn kernel_root_index(self) -> usize {
        3
    }

    #[inline]
    fn decode(self, word: u64, level: u8) -> Entry {
        if !bits::is_valid(word) {
            return bits::decode_invalid(word);
        }
        if level > 1 && word & bits::TABLE_OR_PAGE != 0 {
            return Entry::Table(Pfn::new((word & FRAME) >> SHIFT));
        }
        Entry::Leaf {
            pfn: Pfn::new((word & self.leaf_frame(level)) >> SHIFT),
            attrs: bits::attrs::<V7>(word),
        }
    }

    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u64, FormatError> {
        if !self.leaf_at(level) {
            return Err(FormatError::NoLeafHere(level));
        }
        let addr = bits::frame_bits(pfn, SHIFT, FRAME)?;
        if addr & !self.leaf_frame(level) != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        let word = addr | bits::leaf_bits::<V7>(attrs)?;
        Ok(if level == 1 {
            word | bits::TABLE_OR_PAGE
        } else {
            word
        })
    }

    fn encode_table(self, pfn: Pfn, _level: u8, owner: TableOwner) -> Result<u64, FormatError> {
        let never = match owner {
            TableOwner::User => bits::PXN_TABLE,
            TableOwner::Kernel => 0,
        };
        let addr = bits::frame_bits(pfn, SHIFT, FRAME)?;
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
        bits::write_protect::<V7>(word)
    }
    /// Hardware sets nothing.
    #[inline]
    fn ad_settled(self, _word: u64) -> bool {
        true
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
        bits::with_dirty::<V7>(word, dirty)
    }
    fn with_prot(self, word: u64, prot: Prot, _level: u8) -> Result<u64, FormatError> {
        bits::with_prot::<V7>(word, prot)
    }

    /// 16 entries of the two lower levels; the root has too few.
    fn run_bits(self, level: u8) -> u32 {
        if level < 3 { 4 } else { 0 }
    }
    fn is_run(self, word: u64) -> bool {
        bits::is_run(word)
    }
    fn with_run(self, word: u64, run: Run) -> u64 {
        bits::with_run(word, run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mm_core::format::AttrFlags;
    use mm_core::prot::MemType;

    const F: Lpae = Lpae;

    fn leaf(word: u64, level: u8) -> (Pfn, Attrs) {
        match F.decode(word, level) {
            Entry::Leaf { pfn, attrs } => (pfn, attrs),
            other => panic!("{word:#x} at level {level} is {other:?}"),
        }
    }

    /// Fields of DDI 0406C figures B3-14 and B3-15, put together by hand.
    #[test]
    fn words_are_as_the_manual_draws_them() {
        // AP=01 (users read and write), SH=11, AF, nG, XN, PXN; software writable.
        let rw = Attrs::user(Prot::RW).with(AttrFlags::ACCESSED | AttrFlags::DIRTY);
        assert_eq!(
            F.encode_leaf(Pfn::new(0x80_1234), rw, 1),
            Ok(0x0260_0008_0123_4f43)
        );
        // AP=11 (users read), executed by users only.
        let rx = Attrs::user(Prot::RX).with(AttrFlags::ACCESSED);
        assert_eq!(
            F.encode_leaf(Pfn::new(0x1000), rx, 1),
            Ok(0x0020_0000_0100_0fc3)
        );
        // A 2 MiB section of kernel code: neither XN nor PXN, global, AP=10, dirty.
        let code = Attrs::kernel(Prot::RX);
        assert_eq!(
            F.encode_leaf(Pfn::new(0x4_0200), code, 2),
            Ok(0x0080_0000_4020_0781)
        );
        assert_eq!(leaf(0x4020_0781, 2).1.prot, Prot::RX);
        // XN forbids the kernel too, PXN alone also.
        assert_eq!(leaf(0x0040_0000_4020_0781, 2).1.prot, Prot::READ);
        assert_eq!(leaf(0x0020_0000_4020_0781, 2).1.prot, Prot::READ);
        let table = F.encode_table(Pfn::new(0x4_1000), 3, TableOwner::User);
        assert_eq!(table, Ok(0x0800_0000_4100_0003));
        assert_eq!(
            F.encode_table(Pfn::new(0x4_1000), 3, TableOwner::Kernel),
            Ok(0x4100_0003)
        );
    }

    #[test]
    fn every_leaf_survives_the_round_trip() {
        for level in 1..=3u8 {
            let align = F.entry_pages(level) as u64;
            for pfn in [0, align, 5 * align, (1 << 28) - align] {
                for prot in 1..8u8 {
                    for flags in 0..32u8 {
                        let attrs = Attrs {
                            prot: Prot::from_bits_truncate(prot),
                            flags: AttrFlags::from_bits_truncate(flags),
                            mem: MemType::Device,
                        };
                        let word = F.encode_leaf(Pfn::new(pfn), attrs, level).unwrap();
                        let want = Attrs {
                            prot: attrs.prot | Prot::READ,
                            ..attrs
                        };
                        assert_eq!(leaf(word, level), (Pfn::new(pfn), want));
                        let protected = F.write_protect(word);
                        let (_, got) = leaf(protected, level);
                        assert_eq!(got.prot, want.prot - Prot::WRITE);
                        assert_eq!(got.flags, want.flags);
                        assert_ne!(protected & (1 << 7), 0, "AP[2] stops every store");
                    }
                }
            }
        }
        let big = Pfn::new(1 << 28);
        assert_eq!(
            F.encode_leaf(big, Attrs::user(Prot::READ), 1),
            Err(FormatError::PfnTooBig(big))
        );
    }

    #[test]
    fn non_present_entries_are_not_empty_and_not_walkable() {
        use mm_core::format::NonPresentKind;
        assert_eq!(F.decode(0, 1), Entry::Empty);
        for (kind, value) in [
            (NonPresentKind::Swap, 0),
            (NonPresentKind::Swap, (1 << 60) - 1),
            (NonPresentKind::Guard, 0),
            (NonPresentKind::Migration, 0x1234),
            (NonPresentKind::ProtNone, (1 << 30) - 1),
        ] {
            let entry = NonPresent { kind, value };
            let word = F.encode_nonpresent(entry).unwrap();
            assert_eq!(word & 1, 0);
            for level in 1..=3 {
                assert_eq!(F.decode(word, level), Entry::NonPresent(entry));
            }
        }
        let big = NonPresent {
            kind: NonPresentKind::Swap,
            value: 1 << 60,
        };
        assert_eq!(F.encode_nonpresent(big), Err(FormatError::PayloadTooBig));
    }

    #[test]
    fn geometry_is_four_times_a_gibibyte() {
        assert_eq!(
            (F.levels(), F.entries(3), F.entries(2), F.entries(1)),
            (3, 4, 512, 512)
        );
        assert_eq!(F.entry_pages(3), 1 << 18);
        assert_eq!(F.index(F.user_end(), 3), F.kernel_root_index());
        assert_eq!(F.user_end().as_usize() << 12, 0xc000_0000);
        assert_eq!([1, 2, 3].map(|l| F.run_bits(l)), [4, 4, 0]);
    }

    #[test]
    fn registers_match_the_format() {
        assert_eq!((MAIR0_VALUE, MAIR1_VALUE), (0x0044_bbff, 0x4404));
        assert_eq!(TTBCR_VALUE, 0x8000_3500);
        assert_eq!(ttbr0(0x12_3456_7020, 0x1ff), 0x00ff_0012_3456_7020);
    }
}
