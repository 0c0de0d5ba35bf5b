//! A format of no machine: small enough for models, odd enough for tests.
//!
//! Depth, fan-out and the start of the kernel half are chosen at run time; the
//! word (u32 or u64) and the facts of the imagined hardware ([`TinyFacts`]) at
//! compile time. A two-level table of four entries has sixteen pages: a loom
//! model or a brute-force test can look at all of them.
//!
//! ```text
//!  bit  0        present
//!       1 2 3    write, execute, user
//!       4 5      accessed, dirty
//!       6        leaf (else a table, above level 1)
//!       7 8 9    special, global, read
//!       10..13   memory type
//!       13       part of a run
//!       14..     frame
//!
//!  not present:  bits 1..4 the kind, bits 4.. the value
//! ```
//!
//! Where [`TinyFacts::AD`] says that hardware does not set a bit, it faults
//! until software has set it, like RISC-V's Svade.
//!
//! With [`Tiny::with_runs`] a TLB may hold an aligned run of leaves as one, of
//! pages and of blocks, if all are marked; accessed and dirty are then noted in
//! any of them.

use super::{
    AdBit, AttrFlags, Attrs, Entry, FormatError, HardwareAd, NonPresent, NonPresentKind,
    PageTableFormat, Run, TableOwner, Word,
};
use crate::addr::{Pfn, Vpn};
use crate::prot::{MemType, Prot};
use core::fmt::{self, Debug};
use core::marker::PhantomData;

/// What the imagined hardware does by itself.
pub trait TinyFacts: Copy + Debug + Send + Sync + 'static {
    /// Which of accessed and dirty it sets.
    const AD: HardwareAd;
    /// Whether a valid leaf may only be replaced by way of an invalid one.
    const BREAK_BEFORE_MAKE: bool;
    /// Whether it remembers invalid entries.
    const CACHES_INVALID: bool;
}

/// Sets both bits, tolerates replacement: like x86.
#[derive(Clone, Copy, Debug)]
pub struct SetsBoth;

/// Sets the accessed bit only, and demands break-before-make: like an AArch64
/// without dirty state management.
#[derive(Clone, Copy, Debug)]
pub struct SetsAccessed;

/// Sets both bits, and demands break-before-make: like an AArch64 with dirty
/// state management.
#[derive(Clone, Copy, Debug)]
pub struct SetsBothBreaking;

/// Sets nothing and remembers invalid entries: like RISC-V with Svade and
/// without Svvptc.
#[derive(Clone, Copy, Debug)]
pub struct SetsNothing;

impl TinyFacts for SetsBoth {
    const AD: HardwareAd = HardwareAd::Both;
    const BREAK_BEFORE_MAKE: bool = false;
    const CACHES_INVALID: bool = false;
}
impl TinyFacts for SetsAccessed {
    const AD: HardwareAd = HardwareAd::Accessed;
    const BREAK_BEFORE_MAKE: bool = true;
    const CACHES_INVALID: bool = false;
}
impl TinyFacts for SetsBothBreaking {
    const AD: HardwareAd = HardwareAd::Both;
    const BREAK_BEFORE_MAKE: bool = true;
    const CACHES_INVALID: bool = false;
}
impl TinyFacts for SetsNothing {
    const AD: HardwareAd = HardwareAd::None;
    const BREAK_BEFORE_MAKE: bool = false;
    const CACHES_INVALID: bool = true;
}

/// The format. See the module for its words.
pub struct Tiny<W, T> {
    levels: u8,
    bits: u8,
    run_bits: u8,
    kernel_index: u16,
    word: PhantomData<fn() -> (W, T)>,
}

impl<W, T> Tiny<W, T> {
    /// Makes a format of `levels` levels of `1 << bits` entries without a
    /// kernel half. Levels are held within 2 and 6, bits within 1 and 9.
    pub const fn new(levels: u8, bits: u8) -> Self {
        let levels = clamp(levels, 2, 6);
        let bits = clamp(bits, 1, 9);
        Self {
            levels,
            bits,
            run_bits: 0,
            kernel_index: 1 << bits,
            word: PhantomData,
        }
    }

    /// Lets runs of `1 << bits` leaves be marked, at every level that has
    /// leaves; at most whole tables.
    #[must_use]
    pub const fn with_runs(mut self, bits: u8) -> Self {
        self.run_bits = if bits < self.bits { bits } else { self.bits };
        self
    }

    /// Gives the root entries from `index` on to the kernel.
    #[must_use]
    pub const fn with_kernel_half(mut self, index: u16) -> Self {
        if index < 1 << self.bits {
            self.kernel_index = index;
        }
        self
    }
}

const fn clamp(n: u8, low: u8, high: u8) -> u8 {
    if n < low {
        low
    } else if n > high {
        high
    } else {
        n
    }
}

impl<W, T> Clone for Tiny<W, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W, T> Copy for Tiny<W, T> {}
impl<W, T> Debug for Tiny<W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tiny({}x{} bits, runs of {} bits, kernel at {})",
            self.levels, self.bits, self.run_bits, self.kernel_index
        )
    }
}

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const EXEC: u64 = 1 << 2;
const USER: u64 = 1 << 3;
const ACCESSED: u64 = 1 << 4;
const DIRTY: u64 = 1 << 5;
const LEAF: u64 = 1 << 6;
const SPECIAL: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const READ: u64 = 1 << 9;
const MEM_SHIFT: u32 = 10;
const MEM_MASK: u64 = 7;
const RUN: u64 = 1 << 13;
const PFN_SHIFT: u32 = 14;
const KIND_SHIFT: u32 = 1;
const VALUE_SHIFT: u32 = 4;

const RIGHTS: [(Prot, u64); 3] = [(Prot::READ, READ), (Prot::WRITE, WRITE), (Prot::EXEC, EXEC)];
const FLAGS: [(AttrFlags, u64); 5] = [
    (AttrFlags::USER, USER),
    (AttrFlags::GLOBAL, GLOBAL),
    (AttrFlags::ACCESSED, ACCESSED),
    (AttrFlags::DIRTY, DIRTY),
    (AttrFlags::SPECIAL, SPECIAL),
];
const MEM_TYPES: [MemType; 5] = [
    MemType::WriteBack,
    MemType::WriteThrough,
    MemType::WriteCombining,
    MemType::Uncached,
    MemType::Device,
];

fn rights_bits(prot: Prot) -> u64 {
    RIGHTS
        .iter()
        .filter(|(p, _)| prot.contains(*p))
        .fold(0, |word, (_, bit)| word | bit)
}

fn decode_attrs(word: u64) -> Attrs {
    let prot = RIGHTS
        .iter()
        .filter(|(_, bit)| word & bit != 0)
        .map(|(p, _)| *p)
        .collect();
    let flags = FLAGS
        .iter()
        .filter(|(_, bit)| word & bit != 0)
        .map(|(f, _)| *f)
        .collect();
    let mem = usize::try_from((word >> MEM_SHIFT) & MEM_MASK).unwrap_or(0);
    Attrs {
        prot,
        flags,
        mem: MEM_TYPES.get(mem).copied().unwrap_or_default(),
    }
}

impl<W: Word, T: TinyFacts> Tiny<W, T> {
    const WORD_BITS: u32 = (size_of::<W>() as u32).wrapping_mul(8);

    fn put_pfn(pfn: Pfn) -> Result<u64, FormatError> {
        if pfn.as_u64() >> Self::WORD_BITS.wrapping_sub(PFN_SHIFT) != 0 {
            return Err(FormatError::PfnTooBig(pfn));
        }
        Ok(pfn.as_u64() << PFN_SHIFT)
    }

    fn edit(word: W, clear: u64, set: u64) -> W {
        W::from_u64((word.to_u64() & !clear) | set)
    }
}

#[expect(unsafe_code, reason = "PageTableFormat is unsafe to implement")]
// SAFETY: `decode` undoes each `encode_*` (tests below try all kinds); the
// all-zero word has neither present bit nor kind and is Empty; the only
// hardware of this format is the software MMU of mm-testkit, which follows the
// module's drawing; `write_protect` clears the one bit that lets it write.
unsafe impl<W: Word, T: TinyFacts> PageTableFormat for Tiny<W, T> {
    type Word = W;

    fn page_shift(self) -> u32 {
        12
    }
    fn hardware_ad(self) -> HardwareAd {
        T::AD
    }
    fn break_before_make(self) -> bool {
        T::BREAK_BEFORE_MAKE
    }
    fn caches_invalid(self) -> bool {
        T::CACHES_INVALID
    }
    fn nonpresent_bits(self) -> u32 {
        Self::WORD_BITS.wrapping_sub(VALUE_SHIFT)
    }

    fn levels(self) -> u8 {
        self.levels
    }
    fn index_bits(self, _level: u8) -> u32 {
        u32::from(self.bits)
    }
    fn index_shift(self, level: u8) -> u32 {
        u32::from(level)
            .saturating_sub(1)
            .wrapping_mul(u32::from(self.bits))
    }
    fn leaf_at(self, level: u8) -> bool {
        level == 1 || level < self.levels
    }
    fn user_end(self) -> Vpn {
        Vpn::new(usize::from(self.kernel_index).saturating_mul(self.entry_pages(self.levels)))
    }
    fn kernel_root_index(self) -> usize {
        usize::from(self.kernel_index)
    }

    fn decode(self, word: W, level: u8) -> Entry {
        let bits = word.to_u64();
        if bits == 0 {
            return Entry::Empty;
        }
        if bits & PRESENT == 0 {
            // An unknown kind is never written; a guard lets nobody through.
            let kind = NonPresentKind::from_bits((bits >> KIND_SHIFT) & 7);
            let kind = kind.unwrap_or(NonPresentKind::Guard);
            return Entry::NonPresent(NonPresent {
                kind,
                value: bits >> VALUE_SHIFT,
            });
        }
        let pfn = Pfn::new(bits >> PFN_SHIFT);
        if level == 1 || bits & LEAF != 0 {
            Entry::Leaf {
                pfn,
                attrs: decode_attrs(bits),
            }
        } else {
            Entry::Table(pfn)
        }
    }

    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<W, FormatError> {
        if !self.leaf_at(level) {
            return Err(FormatError::NoLeafHere(level));
        }
        if pfn.as_u64() & (self.entry_pages(level) as u64).wrapping_sub(1) != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        let flags = FLAGS
            .iter()
            .filter(|(f, _)| attrs.flags.contains(*f))
            .fold(0, |w, (_, bit)| w | bit);
        let mem = MEM_TYPES.iter().position(|&m| m == attrs.mem).unwrap_or(0) as u64;
        let bits = Self::put_pfn(pfn)? | rights_bits(attrs.prot) | flags | (mem << MEM_SHIFT);
        Ok(W::from_u64(bits | PRESENT | LEAF))
    }

    fn encode_table(self, pfn: Pfn, _level: u8, _owner: TableOwner) -> Result<W, FormatError> {
        Ok(W::from_u64(Self::put_pfn(pfn)? | PRESENT))
    }

    fn encode_nonpresent(self, entry: NonPresent) -> Result<W, FormatError> {
        if entry.value >> self.nonpresent_bits() != 0 {
            return Err(FormatError::PayloadTooBig);
        }
        Ok(W::from_u64(
            (entry.value << VALUE_SHIFT) | ((entry.kind as u64) << KIND_SHIFT),
        ))
    }

    fn next_page(self, word: W, level: u8) -> W {
        let step = (self.entry_pages(level) as u64) << PFN_SHIFT;
        W::from_u64(word.to_u64().wrapping_add(step))
    }
    fn write_protect(self, word: W) -> W {
        Self::edit(word, WRITE, 0)
    }
    fn ad_settled(self, word: W) -> bool {
        let bits = word.to_u64();
        if bits & PRESENT == 0 {
            return true;
        }
        match T::AD {
            HardwareAd::None => true,
            HardwareAd::Accessed => bits & ACCESSED != 0,
            HardwareAd::Both => bits & ACCESSED != 0 && (bits & DIRTY != 0 || bits & WRITE == 0),
        }
    }
    fn is_young(self, word: W) -> bool {
        word.to_u64() & ACCESSED != 0
    }
    fn is_dirty(self, word: W) -> bool {
        word.to_u64() & DIRTY != 0
    }
    fn with_young(self, word: W, young: AdBit) -> W {
        match young {
            AdBit::Set => Self::edit(word, 0, ACCESSED),
            AdBit::Clear => Self::edit(word, ACCESSED, 0),
        }
    }
    fn with_dirty(self, word: W, dirty: AdBit) -> W {
        match dirty {
            AdBit::Set => Self::edit(word, 0, DIRTY),
            AdBit::Clear => Self::edit(word, DIRTY, 0),
        }
    }
    fn with_prot(self, word: W, prot: Prot, _level: u8) -> Result<W, FormatError> {
        Ok(Self::edit(word, READ | WRITE | EXEC, rights_bits(prot)))
    }

    fn run_bits(self, level: u8) -> u32 {
        if self.leaf_at(level) {
            u32::from(self.run_bits)
        } else {
            0
        }
    }
    fn is_run(self, word: W) -> bool {
        word.to_u64() & RUN != 0
    }
    fn with_run(self, word: W, run: Run) -> W {
        match run {
            Run::Member => Self::edit(word, 0, RUN),
            Run::Single => Self::edit(word, RUN, 0),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn round_trips<W: Word, T: TinyFacts>() {
        let f = Tiny::<W, T>::new(3, 3);
        assert_eq!(f.decode(W::ZERO, 1), Entry::Empty);
        for level in 1..=2u8 {
            for rights in 0..8 {
                for flags in 0..32 {
                    for mem in MEM_TYPES {
                        let attrs = Attrs {
                            prot: Prot::from_bits_truncate(rights),
                            flags: AttrFlags::from_bits_truncate(flags),
                            mem,
                        };
                        let pfn = Pfn::new(0x1340);
                        let word = f.encode_leaf(pfn, attrs, level).unwrap();
                        assert_eq!(f.decode(word, level), Entry::Leaf { pfn, attrs });
                        let step = f.entry_pages(level) as u64;
                        let next = f
                            .encode_leaf(pfn.saturating_add(step), attrs, level)
                            .unwrap();
                        assert_eq!(f.next_page(word, level), next);
                        let member = f.with_run(word, Run::Member);
                        assert_eq!(f.decode(member, level), Entry::Leaf { pfn, attrs });
                        assert!(f.is_run(member) && !f.is_run(word));
                        assert!(f.is_run(f.next_page(member, level)));
                        assert_eq!(f.with_run(member, Run::Single), word);
                        let Entry::Leaf { attrs: p, .. } = f.decode(f.write_protect(word), level)
                        else {
                            panic!("not a leaf any more")
                        };
                        assert_eq!(p.prot, attrs.prot - Prot::WRITE);
                        assert_eq!(p.flags, attrs.flags);
                    }
                }
            }
        }
        for kind in [
            NonPresentKind::Swap,
            NonPresentKind::Guard,
            NonPresentKind::Migration,
        ] {
            let np = NonPresent { kind, value: 0x3a5 };
            let word = f.encode_nonpresent(np).unwrap();
            assert_eq!(f.decode(word, 1), Entry::NonPresent(np));
        }
        let kept = AttrFlags::ACCESSED | AttrFlags::SPECIAL;
        let np = NonPresent::prot_none(Pfn::new(77), kept | AttrFlags::USER);
        assert_eq!((np.pfn(), np.flags()), (Some(Pfn::new(77)), kept));
        assert_eq!(
            f.decode(f.encode_nonpresent(np).unwrap(), 1),
            Entry::NonPresent(np)
        );
        let table = f.encode_table(Pfn::new(9), 2, TableOwner::User).unwrap();
        assert_eq!(f.decode(table, 2), Entry::Table(Pfn::new(9)));
        let wide = NonPresent {
            kind: NonPresentKind::Swap,
            value: 1u64 << f.nonpresent_bits(),
        };
        assert_eq!(f.encode_nonpresent(wide), Err(FormatError::PayloadTooBig));
        let attrs = Attrs::user(Prot::RW);
        assert_eq!(
            f.encode_leaf(Pfn::new(1), attrs, 2),
            Err(FormatError::Misaligned(Pfn::new(1)))
        );
        assert_eq!(
            f.encode_leaf(Pfn::new(0), attrs, 3),
            Err(FormatError::NoLeafHere(3))
        );
        let big = Pfn::new(1 << 51);
        assert_eq!(
            f.encode_leaf(big, attrs, 1),
            Err(FormatError::PfnTooBig(big))
        );
    }

    #[test]
    fn words_read_back_what_was_written() {
        round_trips::<u32, SetsBoth>();
        round_trips::<u64, SetsAccessed>();
        round_trips::<u32, SetsNothing>();
    }

    #[test]
    fn a_word_is_settled_when_hardware_has_nothing_left_to_set() {
        let both = Tiny::<u32, SetsBoth>::new(2, 2);
        let word = both
            .encode_leaf(Pfn::new(1), Attrs::user(Prot::RW), 1)
            .unwrap();
        let young = both.with_young(word, AdBit::Set);
        assert!(!both.ad_settled(word) && !both.ad_settled(young));
        assert!(both.ad_settled(both.with_dirty(young, AdBit::Set)));
        assert!(both.ad_settled(both.write_protect(young)));
        assert!(!both.ad_settled(both.write_protect(word)));
        let accessed = Tiny::<u32, SetsAccessed>::new(2, 2);
        assert!(!accessed.ad_settled(word) && accessed.ad_settled(young));
        assert!(Tiny::<u32, SetsNothing>::new(2, 2).ad_settled(word));
    }

    #[test]
    fn geometry_follows_levels_and_bits() {
        let f = Tiny::<u32, SetsBoth>::new(3, 2).with_kernel_half(3);
        assert_eq!(f.entries(1), 4);
        assert_eq!(f.entry_pages(3), 16);
        assert_eq!(f.user_end(), Vpn::new(48));
        assert_eq!(
            (
                f.index(Vpn::new(27), 3),
                f.index(Vpn::new(27), 2),
                f.index(Vpn::new(27), 1)
            ),
            (1, 2, 3)
        );
        assert_eq!(Tiny::<u32, SetsBoth>::new(3, 2).user_end(), Vpn::new(64));
    }
}
