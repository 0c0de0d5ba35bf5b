//! Page-table entries of Sv32, Sv39, Sv48 and Sv57.
//!
//! ```text
//!   63 62 61 60..54 53..............10  9   8  7 6 5 4 3 2 1  0
//!   N  PBMT  zero      frame number    soft  *  D A G U X W R V=1    * special (RSW bit 0)
//!
//!                 31................10  9   8  7 6 5 4 3 2 1  0
//!   Sv32:              frame number    soft  *  D A G U X W R V=1
//!
//!   63..4 (Sv32: 31..4)                           3..1        0
//!                 value                           kind       V=0      non-present
//! ```
//!
//! A valid entry with R, W and X clear leads to the next table; there D, A and
//! U are reserved, and written as zero. Every level may hold leaves. W without
//! R is reserved and refused; X without R is execute-only.
//!
//! | memory type | Svpbmt | why |
//! |---|---|---|
//! | write-back | PMA (0) | what the platform says of the address |
//! | write-combining, write-through | NC (1) | uncached, idempotent, weakly ordered |
//! | uncached, device | IO (2) | uncached, strongly ordered |
//!
//! Without Svpbmt every type is PMA: the platform knows which addresses are
//! devices.
//!
//! # Accessed and dirty
//! [`Extensions::sets_ad`] says whether hardware may write to entries (Svadu).
//! If it faults instead (Svade), it faults on A clear, and on a store while D
//! is clear, with the rights that the entry has: mm-core then sets the bits.
//!
//! # Runs
//! Svnapot writes a run of sixteen pages as sixteen alike words with N set and
//! the pattern 1000 in place of the low four bits of the frame number; which
//! page of the run is meant stands in the address. The slot operations here
//! translate: the words that pass through them name each its own frame, and a
//! mark that the frame does not fit (frame and slot differ in their low four
//! bits) is not written. Hardware sets A and D in whichever of the sixteen
//! words it walked to, so the state of a run is the union of its words.
//!
//! Source: Privileged Architecture 20240411, 10.3 (Sv32), 10.4 to 10.6 (Sv39,
//! Sv48, Sv57), 11 (Svnapot), 12 (Svpbmt).

use crate::isa::Extensions;
use core::fmt::Debug;
use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{
    AdBit, AttrFlags, Attrs, Cell, Entry, FormatError, HardwareAd, NonPresent, NonPresentKind,
    PageTableFormat, Run, TableOwner, Word, WordCell,
};
use mm_core::prot::{MemType, Prot};

const VALID: u64 = 1;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const EXEC: u64 = 1 << 3;
const USER: u64 = 1 << 4;
const GLOBAL: u64 = 1 << 5;
const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;
/// First bit for software: frames without a page record.
const SPECIAL: u64 = 1 << 8;
const PPN_SHIFT: u32 = 10;
const PBMT: u64 = 3 << 61;
const PBMT_NC: u64 = 1 << 61;
const PBMT_IO: u64 = 2 << 61;
const NAPOT: u64 = 1 << 63;

/// Entries of a run of Svnapot, as a power of two: the only one defined.
const NAPOT_BITS: u32 = 4;
const NAPOT_MASK: u64 = ((1 << NAPOT_BITS) - 1) << PPN_SHIFT;
/// What stands in place of the low bits of a run's frame numbers.
const NAPOT_PATTERN: u64 = 1 << (NAPOT_BITS - 1) << PPN_SHIFT;

const RIGHTS: u64 = READ | WRITE | EXEC;
const KIND_SHIFT: u32 = 1;
const KIND_MASK: u64 = 7;
const VALUE_SHIFT: u32 = 4;

/// log2 of the page size, the same in all modes.
pub const PAGE_SHIFT: u32 = 12;

/// One of the translation modes.
pub trait Mode: Copy + Debug + Send + Sync + 'static {
    /// u32 for Sv32, else u64.
    type Word: Word;
    /// log2 of the entries of a table.
    const INDEX_BITS: u32;
    /// Bits of a frame number.
    const PPN_BITS: u32;
    /// The first root index of the kernel.
    const KERNEL_INDEX: usize;
    /// Returns the number of levels.
    fn levels(self) -> u8;
}

/// Two levels of 1024 entries: 32-bit virtual, 34-bit physical addresses.
///
/// There is no hole in the address space; the kernel's is the last GiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sv32;

impl Mode for Sv32 {
    type Word = u32;
    const INDEX_BITS: u32 = 10;
    const PPN_BITS: u32 = 22;
    const KERNEL_INDEX: usize = 768;
    fn levels(self) -> u8 {
        2
    }
}

#[cfg(target_pointer_width = "64")]
mod wide {
    use super::{Debug, Mode};

    /// Three levels: 39-bit virtual addresses.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Sv39;

    /// Four levels: 48-bit virtual addresses.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Sv48;

    /// Five levels: 57-bit virtual addresses.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Sv57;

    /// The mode that the hart was found to run with.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Probed {
        levels: u8,
    }

    impl Probed {
        /// Reads the mode out of a value of `satp`; `None` when it is not one
        /// of Sv39, Sv48 and Sv57.
        pub const fn from_satp(satp: u64) -> Option<Self> {
            match satp >> 60 {
                8 => Some(Self { levels: 3 }),
                9 => Some(Self { levels: 4 }),
                10 => Some(Self { levels: 5 }),
                _ => None,
            }
        }
    }

    /// What the 64-bit modes have in common.
    trait Levels: Copy + Debug + Send + Sync + 'static {
        fn levels(self) -> u8;
    }

    impl Levels for Sv39 {
        fn levels(self) -> u8 {
            3
        }
    }
    impl Levels for Sv48 {
        fn levels(self) -> u8 {
            4
        }
    }
    impl Levels for Sv57 {
        fn levels(self) -> u8 {
            5
        }
    }
    impl Levels for Probed {
        fn levels(self) -> u8 {
            self.levels
        }
    }

    impl<L: Levels> Mode for L {
        type Word = u64;
        const INDEX_BITS: u32 = 9;
        const PPN_BITS: u32 = 44;
        const KERNEL_INDEX: usize = 256;
        fn levels(self) -> u8 {
            Levels::levels(self)
        }
    }
}
#[cfg(target_pointer_width = "64")]
pub use wide::{Probed, Sv39, Sv48, Sv57};

/// The format of a mode on harts with these extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Paging<M: Mode> {
    mode: M,
    extensions: Extensions,
}

impl<M: Mode> Paging<M> {
    const WORD_BITS: u32 = (size_of::<M::Word>() as u32).wrapping_mul(8);
    const VALUE_BITS: u32 = Self::WORD_BITS.wrapping_sub(VALUE_SHIFT);
    const VALUE_MASK: u64 = (1 << Self::VALUE_BITS) - 1;
    const PPN_MASK: u64 = (1 << M::PPN_BITS) - 1;

    /// Makes the format. Sv32 has neither Svnapot nor Svpbmt: its words have
    /// no bits for them.
    pub const fn new(mode: M, mut extensions: Extensions) -> Self {
        if Self::WORD_BITS == 32 {
            extensions.svnapot = false;
            extensions.svpbmt = false;
        }
        Self { mode, extensions }
    }

    /// Returns the mode.
    pub const fn mode(self) -> M {
        self.mode
    }

    /// Returns the extensions that the format uses.
    pub const fn extensions(self) -> Extensions {
        self.extensions
    }

    const fn mem_bits(self, mem: MemType) -> u64 {
        if !self.extensions.svpbmt {
            return 0;
        }
        match mem {
            MemType::WriteBack => 0,
            MemType::WriteCombining | MemType::WriteThrough => PBMT_NC,
            MemType::Uncached | MemType::Device => PBMT_IO,
        }
    }

    fn put_ppn(pfn: Pfn) -> Result<u64, FormatError> {
        if pfn.as_u64() > Self::PPN_MASK {
            return Err(FormatError::PfnTooBig(pfn));
        }
        Ok(pfn.as_u64() << PPN_SHIFT)
    }

    fn ppn(word: u64) -> Pfn {
        Pfn::new((word >> PPN_SHIFT) & Self::PPN_MASK)
    }

    /// The word as hardware wants it in slot `i`.
    fn to_hardware(self, word: M::Word, i: usize) -> M::Word {
        if !self.is_run(word) {
            return word;
        }
        let bits = word.to_u64();
        M::Word::from_u64(if (bits ^ slot_bits(i)) & NAPOT_MASK == 0 {
            (bits & !NAPOT_MASK) | NAPOT_PATTERN
        } else {
            bits & !NAPOT
        })
    }

    /// The word that stands for what hardware finds in slot `i`.
    fn to_logical(self, word: M::Word, i: usize) -> M::Word {
        if !self.is_run(word) {
            return word;
        }
        M::Word::from_u64((word.to_u64() & !NAPOT_MASK) | slot_bits(i))
    }
}

/// The low frame number bits that slot `i` of a run has.
const fn slot_bits(i: usize) -> u64 {
    ((i as u64) << PPN_SHIFT) & NAPOT_MASK
}

const fn mem_type(word: u64) -> MemType {
    match word & PBMT {
        0 => MemType::WriteBack,
        PBMT_NC => MemType::WriteCombining,
        // The fourth value is reserved, and never written.
        _ => MemType::Device,
    }
}

fn rights(prot: Prot) -> Result<u64, FormatError> {
    // R, W and X clear would be a table; no access is a non-present entry.
    if prot.is_empty() || (prot.contains(Prot::WRITE) && !prot.contains(Prot::READ)) {
        return Err(FormatError::Rights);
    }
    Ok(RIGHT_BITS
        .iter()
        .filter(|(right, _)| prot.contains(*right))
        .fold(0, |bits, (_, bit)| bits | bit))
}

const RIGHT_BITS: [(Prot, u64); 3] = [(Prot::READ, READ), (Prot::WRITE, WRITE), (Prot::EXEC, EXEC)];
const FLAG_BITS: [(AttrFlags, u64); 5] = [
    (AttrFlags::USER, USER),
    (AttrFlags::GLOBAL, GLOBAL),
    (AttrFlags::ACCESSED, ACCESSED),
    (AttrFlags::DIRTY, DIRTY),
    (AttrFlags::SPECIAL, SPECIAL),
];

fn edit<W: Word>(word: W, clear: u64, set: u64) -> W {
    W::from_u64((word.to_u64() & !clear) | set)
}

fn with_bit<W: Word>(word: W, bit: u64, state: AdBit) -> W {
    match state {
        AdBit::Set => edit(word, 0, bit),
        AdBit::Clear => edit(word, bit, 0),
    }
}

#[expect(unsafe_code, reason = "implements the format")]
// SAFETY: each encode_* is the inverse of the branch of `decode` that its
// tests name; zero has V clear and kind 0 and decodes as `Empty`; geometry is
// that of 10.3.2 and 10.4.1; `write_protect` clears W, without which a store
// raises a page fault (10.3.2, step 8). The slot operations of a run store the
// encoding of 11, which hardware reads as the frames that the words name.
unsafe impl<M: Mode> PageTableFormat for Paging<M> {
    type Word = M::Word;

    fn page_shift(self) -> u32 {
        PAGE_SHIFT
    }
    fn hardware_ad(self) -> HardwareAd {
        if self.extensions.sets_ad {
            HardwareAd::Both
        } else {
            HardwareAd::None
        }
    }
    fn break_before_make(self) -> bool {
        false
    }
    /// An implementation may remember invalid entries (10.2.1, "SFENCE.VMA"):
    /// then a map needs a fence, unless Svvptc promises that it does not.
    fn caches_invalid(self) -> bool {
        !self.extensions.svvptc
    }
    /// With Svvptc a store is seen by walks within a bounded time, not at once.
    fn shows_entries_late(self) -> bool {
        self.extensions.svvptc
    }
    fn nonpresent_bits(self) -> u32 {
        Self::VALUE_BITS
    }

    fn levels(self) -> u8 {
        self.mode.levels()
    }
    fn index_bits(self, _level: u8) -> u32 {
        M::INDEX_BITS
    }
    #[inline]
    fn index_shift(self, level: u8) -> u32 {
        u32::from(level)
            .saturating_sub(1)
            .wrapping_mul(M::INDEX_BITS)
    }
    fn leaf_at(self, level: u8) -> bool {
        (1..=self.levels()).contains(&level)
    }
    fn user_end(self) -> Vpn {
        Vpn::new(M::KERNEL_INDEX.saturating_mul(self.entry_pages(self.levels())))
    }
    fn kernel_root_index(self) -> usize {
        M::KERNEL_INDEX
    }

    fn decode(self, word: M::Word, level: u8) -> Entry {
        let bits = word.to_u64();
        if bits & VALID == 0 {
            let Some(kind) = NonPresentKind::from_bits((bits >> KIND_SHIFT) & KIND_MASK) else {
                return Entry::Empty;
            };
            let value = bits >> VALUE_SHIFT;
            return Entry::NonPresent(NonPresent { kind, value });
        }
        if level > 1 && bits & RIGHTS == 0 {
            return Entry::Table(Self::ppn(bits));
        }
        let prot = RIGHT_BITS
            .iter()
            .filter(|(_, bit)| bits & bit != 0)
            .map(|(right, _)| *right)
            .collect();
        let mut flags = AttrFlags::empty();
        for (flag, bit) in FLAG_BITS {
            flags.set(flag, bits & bit != 0);
        }
        Entry::Leaf {
            pfn: Self::ppn(bits),
            attrs: Attrs {
                prot,
                flags,
                mem: mem_type(bits),
            },
        }
    }

    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<M::Word, FormatError> {
        if !self.leaf_at(level) {
            return Err(FormatError::NoLeafHere(level));
        }
        let ppn = Self::put_ppn(pfn)?;
        if pfn.as_u64() & (self.entry_pages(level) as u64).wrapping_sub(1) != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        let mut bits = ppn | VALID | rights(attrs.prot)? | self.mem_bits(attrs.mem);
        for (flag, bit) in FLAG_BITS {
            if attrs.flags.contains(flag) {
                bits |= bit;
            }
        }
        Ok(M::Word::from_u64(bits))
    }

    fn encode_table(
        self,
        pfn: Pfn,
        _level: u8,
        _owner: TableOwner,
    ) -> Result<M::Word, FormatError> {
        Ok(M::Word::from_u64(Self::put_ppn(pfn)? | VALID))
    }

    fn encode_nonpresent(self, entry: NonPresent) -> Result<M::Word, FormatError> {
        if entry.value > Self::VALUE_MASK {
            return Err(FormatError::PayloadTooBig);
        }
        let kind = (entry.kind as u64) << KIND_SHIFT;
        Ok(M::Word::from_u64((entry.value << VALUE_SHIFT) | kind))
    }

    fn next_page(self, word: M::Word, level: u8) -> M::Word {
        let step = (self.entry_pages(level) as u64) << PPN_SHIFT;
        M::Word::from_u64(word.to_u64().wrapping_add(step))
    }
    fn write_protect(self, word: M::Word) -> M::Word {
        edit(word, WRITE, 0)
    }
    fn ad_settled(self, word: M::Word) -> bool {
        let bits = word.to_u64();
        bits & VALID == 0
            || !self.extensions.sets_ad
            || (bits & ACCESSED != 0 && (bits & DIRTY != 0 || bits & WRITE == 0))
    }
    fn is_young(self, word: M::Word) -> bool {
        word.to_u64() & ACCESSED != 0
    }
    fn is_dirty(self, word: M::Word) -> bool {
        word.to_u64() & DIRTY != 0
    }
    fn with_young(self, word: M::Word, young: AdBit) -> M::Word {
        with_bit(word, ACCESSED, young)
    }
    fn with_dirty(self, word: M::Word, dirty: AdBit) -> M::Word {
        with_bit(word, DIRTY, dirty)
    }
    fn with_prot(self, word: M::Word, prot: Prot, _level: u8) -> Result<M::Word, FormatError> {
        Ok(edit(word, RIGHTS, rights(prot)?))
    }

    fn run_bits(self, level: u8) -> u32 {
        if level == 1 && self.extensions.svnapot {
            NAPOT_BITS
        } else {
            0
        }
    }
    fn is_run(self, word: M::Word) -> bool {
        self.extensions.svnapot && word.to_u64() & (NAPOT | VALID) == NAPOT | VALID
    }
    fn with_run(self, word: M::Word, run: Run) -> M::Word {
        match run {
            Run::Member if self.extensions.svnapot => edit(word, 0, NAPOT),
            Run::Member => word,
            Run::Single => edit(word, NAPOT, 0),
        }
    }

    fn load(self, node: &[Cell<Self>], i: usize) -> M::Word {
        let word = node.get(i).map_or(M::Word::ZERO, WordCell::load);
        self.to_logical(word, i)
    }
    fn store(self, node: &[Cell<Self>], i: usize, word: M::Word) {
        if let Some(cell) = node.get(i) {
            cell.store(self.to_hardware(word, i));
        }
    }
    fn swap(self, node: &[Cell<Self>], i: usize, word: M::Word) -> M::Word {
        let old = node
            .get(i)
            .map_or(M::Word::ZERO, |cell| cell.swap(self.to_hardware(word, i)));
        self.to_logical(old, i)
    }
    fn compare_exchange(
        self,
        node: &[Cell<Self>],
        i: usize,
        old: M::Word,
        new: M::Word,
    ) -> Result<(), M::Word> {
        let (old, new) = (self.to_hardware(old, i), self.to_hardware(new, i));
        node.get(i).map_or(Err(M::Word::ZERO), |cell| {
            cell.compare_exchange(old, new)
                .map_err(|found| self.to_logical(found, i))
        })
    }
}

#[cfg(test)]
mod tests;
