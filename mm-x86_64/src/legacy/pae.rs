//! Physical Address Extension: 64-bit words, three levels.
//!
//! ```text
//!  63 62..52 51..................12 11..9  8  7  6 5  4   3   2   1  0
//!  NX  zero      frame number        soft  G  *  D A PCD PWT U/S R/W P=1   level 1, 2
//!                                             * level 1: PAT, level 2: PS (2 MiB; its PAT is bit 12)
//!  63........52 51..............12 11..9  8..5   4   3   2..1  0
//!   reserved        frame number    soft  zero  PCD PWT  zero  P=1         level 3
//! ```
//!
//! The four entries of the top level have no rights, no accessed bit and no
//! NX: those bits are reserved. The CPU reads all four when CR3 is loaded and
//! walks from its copies (SDM 3A 4.4.1). So a change of one is seen after a
//! load of CR3, also the change from non-present: the format says that invalid
//! entries are remembered, so that each map flushes, and a platform's flush
//! loads CR3. The table of four is 32 bytes and below 4 GiB; a frame is
//! given to it, the rest of which is empty. NX is always used: set EFER.NXE.
//!
//! Source: Intel SDM 3A, 4.4, tables 4-8 to 4-11.

use crate::entry::{
    ACCESSED, DIRTY, NO_EXEC, PRESENT, PS, USER, WRITABLE, ad_settled, edit, leaf_attrs, leaf_bits,
    nonpresent, nonpresent_bits, rights, with_bit,
};
use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{
    AdBit, Attrs, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat, TableOwner, Word,
};
use mm_core::prot::Prot;

const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// The address bits that a 2 MiB leaf leaves for flags.
const BLOCK_MASK: u64 = 0x001f_f000;
/// The level of the four pointers.
const TOP: u8 = 3;
const VALUE_BITS: u32 = 54;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;

/// The format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pae;

const fn frame_bits(pfn: Pfn) -> Result<u64, FormatError> {
    if pfn.as_u64() > FRAME >> 12 {
        return Err(FormatError::PfnTooBig(pfn));
    }
    Ok(pfn.as_u64() << 12)
}

#[expect(unsafe_code, reason = "implements the format")]
// SAFETY: each encode_* is the inverse of the branch of `decode` that its
// tests name; zero has P clear and kind 0 and decodes as `Empty`; geometry is
// that of SDM 3A 4.4; `write_protect` clears R/W, which with CR0.WP set forbids
// every store (SDM 3A 4.6).
unsafe impl PageTableFormat for Pae {
    type Word = u64;

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
        // The registers of the top level.
        true
    }
    fn nonpresent_bits(self) -> u32 {
        VALUE_BITS
    }
    fn levels(self) -> u8 {
        TOP
    }
    fn index_bits(self, level: u8) -> u32 {
        if level == TOP { 2 } else { 9 }
    }
    fn table_reach(self, level: u8) -> Pfn {
        // CR3 has 32 bits, of which a frame's are 20; entries have more than the page map.
        Pfn::new(if level == TOP { 1 << 20 } else { 1 << 32 })
    }
    fn leaf_at(self, level: u8) -> bool {
        level == 1 || level == 2
    }
    fn user_end(self) -> Vpn {
        Vpn::new(0xc0000)
    }
    fn kernel_root_index(self) -> usize {
        3
    }

    fn decode(self, word: u64, level: u8) -> Entry {
        if word & PRESENT == 0 {
            return nonpresent(word, VALUE_MASK);
        }
        if level == TOP || (level > 1 && word & PS == 0) {
            return Entry::Table(Pfn::new((word & FRAME) >> 12));
        }
        let mask = if level > 1 { BLOCK_MASK } else { 0 };
        Entry::Leaf {
            pfn: Pfn::new((word & FRAME & !mask) >> 12),
            attrs: leaf_attrs(word, level, NO_EXEC),
        }
    }

    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u64, FormatError> {
        if !self.leaf_at(level) {
            return Err(FormatError::NoLeafHere(level));
        }
        let addr = frame_bits(pfn)?;
        if level > 1 && addr & BLOCK_MASK != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        Ok(addr | leaf_bits(attrs, level, NO_EXEC)?)
    }

    fn encode_table(self, pfn: Pfn, level: u8, owner: TableOwner) -> Result<u64, FormatError> {
        let rights = match owner {
            _ if level == TOP => 0,
            TableOwner::User => WRITABLE | ACCESSED | USER,
            TableOwner::Kernel => WRITABLE | ACCESSED,
        };
        Ok(frame_bits(pfn)? | PRESENT | rights)
    }

    fn encode_nonpresent(self, entry: NonPresent) -> Result<u64, FormatError> {
        nonpresent_bits(entry, VALUE_MASK)
    }

    fn next_page(self, word: u64, level: u8) -> u64 {
        word.wrapping_add(if level == 1 { 1 << 12 } else { 1 << 21 })
    }

    fn write_protect(self, word: u64) -> u64 {
        edit(word, WRITABLE, 0)
    }
    fn ad_settled(self, word: u64) -> bool {
        ad_settled(word.to_u64())
    }
    fn is_young(self, word: u64) -> bool {
        word.to_u64() & ACCESSED != 0
    }
    fn is_dirty(self, word: u64) -> bool {
        word.to_u64() & DIRTY != 0
    }
    fn with_young(self, word: u64, young: AdBit) -> u64 {
        with_bit(word, ACCESSED, young)
    }
    fn with_dirty(self, word: u64, dirty: AdBit) -> u64 {
        with_bit(word, DIRTY, dirty)
    }
    fn with_prot(self, word: u64, prot: Prot, _level: u8) -> Result<u64, FormatError> {
        Ok(edit(word, WRITABLE | NO_EXEC, rights(prot, NO_EXEC)?))
    }
}
