//! Short descriptors: two levels, with software words beside hardware's.
//!
//! The hardware's second-level word has no room for *young*, *dirty* or a mark
//! of software's. So the word that this format shows is a *soft* word, from
//! which the hardware's is derived. A frame of the second level holds both:
//!
//! ```text
//!   frame of level 1 (4 KiB)                    root (16 KiB), level 2
//!   +0x000  512 soft words: the truth           4096 hardware words;
//!   +0x800  256 hardware words, first MiB  ◄─── 2i      logical entry i,
//!   +0xc00  256 hardware words, second MiB ◄─── 2i + 1  2 MiB
//! ```
//!
//! | soft word | hardware's word |
//! |---|---|
//! | empty, non-present, not young | fault |
//! | young, clean or not writable | read-only |
//! | young, dirty and writable | read and write |
//!
//! So a first access and a first store fault, and software marks the word.
//! (SCTLR.AFE would give the first of these a bit, AP\[0\]; it costs the
//! kernel-only rights and saves nothing, so it stays clear. See
//! [`Ap::with_access_flag`] for how words read then.)
//!
//! A soft word is set before hardware's and cleared after it: who reads
//! without the table's lock reads soft words, and never finds less than what
//! hardware can reach. Hardware writes to no word, so nothing is ever lost.
//!
//! # Soft word
//!
//! ```text
//!  31..........12 11  10..8  7  6  5  4  3  2  1  0
//!      frame      run  type  X  W  D  Y  G  S  U  P=1   type 7: a table (root only)
//!
//!  31...........4  3..1  0
//!      value       kind  P=0                            non-present, 27 bits of value
//! ```
//! U user, S special, G global, Y young, D dirty, W writable, X executable.
//! Present means readable: write-only and execute-only mappings are readable.
//!
//! # Root
//!
//! A logical entry is two hardware words; the first tells all of it, the second
//! follows from it. Two first-level words have no room beside them, but:
//!
//! - a *section* has a domain number: four bits that mean nothing to hardware
//!   when all domains are clients ([`DACR_CLIENTS`]). They hold D, W, S and run;
//! - a word that faults has thirty bits: a non-present entry, or (kind 7) the
//!   soft flags and the frame of a leaf that is not young;
//! - a *table* has domain 1 where it is a user's, 0 where the kernel's.
//!
//! # Leaves
//!
//! | leaf | size | how |
//! |---|---|---|
//! | small page | 4 KiB | level 1 |
//! | large page | 64 KiB | run of 16 at level 1: the same hardware word 16 times |
//! | section pair | 2 MiB | level 2: two sections of 1 MiB |
//! | supersections | 16 MiB | run of 8 at level 2, where all are young, dirty and not special: the same hardware word 16 times; else the run is written down as sections |
//!
//! Addresses above 4 GiB, which supersections could name, are not used.
//!
//! [`DACR_CLIENTS`]: super::registers::DACR_CLIENTS

mod hardware;

pub use hardware::{Ap, Found, Hardware, MemoryTypes, Pxn, Sharing, decode_first, decode_second};

use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{
    AdBit, AttrFlags, Attrs, Cell, Entry, FormatError, HardwareAd, NonPresent, NonPresentKind,
    PageTableFormat, Run, TableOwner, WordCell,
};
use mm_core::prot::{MemType, Prot};

const PRESENT: u32 = 1;
const USER: u32 = 1 << 1;
const SPECIAL: u32 = 1 << 2;
const GLOBAL: u32 = 1 << 3;
const YOUNG: u32 = 1 << 4;
const DIRTY: u32 = 1 << 5;
const WRITE: u32 = 1 << 6;
const EXEC: u32 = 1 << 7;
const TYPE_SHIFT: u32 = 8;
const TYPE: u32 = 7 << TYPE_SHIFT;
/// The memory type that is none: a table.
const TABLE: u32 = TYPE;
const RUN: u32 = 1 << 11;
const FRAME: u32 = 0xffff_f000;

const KIND_SHIFT: u32 = 1;
const KIND: u32 = 7;
const VALUE_SHIFT: u32 = 4;
const VALUE_BITS: u32 = 27;

/// The frame bits that a leaf of level 2 leaves free.
const BLOCK_MASK: u32 = 0x001f_f000;
/// Entries of a run, less one: 16 pages, 8 section pairs.
const PAGE_RUN: u32 = 15;
const BLOCK_RUN: u32 = 7;

/// Words of a leaf table, soft ones first.
const LEAF_ENTRIES: usize = 512;
/// Hardware words of the root, two an entry.
const ROOT_WORDS: usize = 4096;

const TYPES: [MemType; 5] = [
    MemType::WriteBack,
    MemType::WriteThrough,
    MemType::WriteCombining,
    MemType::Uncached,
    MemType::Device,
];

const FLAG_BITS: [(AttrFlags, u32); 5] = [
    (AttrFlags::USER, USER),
    (AttrFlags::GLOBAL, GLOBAL),
    (AttrFlags::ACCESSED, YOUNG),
    (AttrFlags::DIRTY, DIRTY),
    (AttrFlags::SPECIAL, SPECIAL),
];

/// The short-descriptor format of one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Short {
    hardware: Hardware,
}

impl Short {
    /// Makes the format of a machine that runs with these facts.
    pub const fn new(hardware: Hardware) -> Self {
        Self { hardware }
    }

    /// Returns how hardware words are written.
    pub const fn hardware(self) -> Hardware {
        self.hardware
    }

    /// Returns the hardware word of entry `i` of a leaf table.
    fn second(self, soft: u32, i: usize) -> u32 {
        if soft & (PRESENT | YOUNG) != PRESENT | YOUNG {
            return 0;
        }
        if soft & RUN != 0 && frame_place(soft >> 12, PAGE_RUN) == place(i, PAGE_RUN) {
            return self.hardware.large_page(leaf(soft));
        }
        self.hardware.small_page(leaf(soft))
    }

    /// Returns the two hardware words of entry `i` of the root.
    fn first(self, soft: u32, i: usize) -> (u32, u32) {
        if soft & PRESENT == 0 {
            let word = (soft >> KIND_SHIFT & KIND) << 2 | (soft >> VALUE_SHIFT) << 5;
            return (word, 0);
        }
        if soft & TYPE == TABLE {
            let user = if soft & USER != 0 { 1 } else { 0 };
            let word = self.hardware.table(soft & FRAME | 0x800, user);
            return (word, word | 0x400);
        }
        if soft & YOUNG == 0 {
            // Bits 1 to 11 of the soft word stand at 5 to 15.
            let flags = (soft & !FRAME & !PRESENT) << 4;
            return (soft & FRAME & !BLOCK_MASK | flags | KIND << 2, 0);
        }
        let settled = soft & (DIRTY | SPECIAL | RUN) == DIRTY | RUN;
        if settled && frame_place(soft >> 21, BLOCK_RUN) == place(i, BLOCK_RUN) {
            let word = self.hardware.supersection(leaf(soft));
            return (word, word);
        }
        let word = self.hardware.section(leaf(soft), domain(soft));
        (word, word | 1 << 20)
    }

    /// Returns the soft word of entry `i` of the root, of its first word.
    fn soft(self, word: u32, i: usize) -> u32 {
        match word & 3 {
            0 => match word >> 2 & KIND {
                KIND => {
                    let flags = word >> 4 & !FRAME & !PRESENT;
                    word & FRAME & !BLOCK_MASK | flags | PRESENT
                }
                kind => kind << KIND_SHIFT | (word >> 5) << VALUE_SHIFT,
            },
            1 => {
                let user = if word >> 5 & 15 != 0 { USER } else { 0 };
                word & FRAME & !0xc00 | TABLE | user | PRESENT
            }
            _ => self.soft_section(word, i),
        }
    }

    fn soft_section(self, word: u32, i: usize) -> u32 {
        let Some(found) = decode_first(word, self.hardware.types) else {
            return 0;
        };
        let mut soft = found.base & FRAME & !BLOCK_MASK | PRESENT | YOUNG;
        soft |= type_bits(found.mem);
        soft |= if found.ap.is_user() { USER } else { 0 };
        soft |= if found.exec { EXEC } else { 0 };
        soft |= if found.global { GLOBAL } else { 0 };
        if found.pages == hardware::SUPERSECTION_PAGES {
            soft |= place(i, BLOCK_RUN) << 21 | DIRTY | RUN;
            soft |= if found.ap.is_writable() { WRITE } else { 0 };
            return soft;
        }
        soft | soft_of_domain(found.domain)
    }
}

/// Returns the place of an entry within its run.
fn place(i: usize, mask: u32) -> u32 {
    u32::try_from(i).unwrap_or(0) & mask
}

/// Returns the place within its run that a leaf's frame asks for.
const fn frame_place(frame: u32, mask: u32) -> u32 {
    frame & mask
}

/// Returns what hardware is to enforce for a young leaf.
fn leaf(soft: u32) -> hardware::Rights {
    let index = (soft & TYPE) >> TYPE_SHIFT;
    let mem = TYPES.get(index as usize).copied().unwrap_or_default();
    hardware::Rights {
        base: soft & FRAME,
        mem,
        ap: Ap::new(
            soft & USER != 0,
            // A store into a clean page must fault, so that it is marked.
            soft & (WRITE | DIRTY) == WRITE | DIRTY,
        ),
        exec: soft & EXEC != 0,
        global: soft & GLOBAL != 0,
    }
}

const DOMAIN_BITS: [(u32, u32); 4] = [(DIRTY, 1), (WRITE, 2), (SPECIAL, 4), (RUN, 8)];

/// Returns the domain number that keeps what a section has no bits for.
fn domain(soft: u32) -> u32 {
    let set = DOMAIN_BITS.iter().filter(|(flag, _)| soft & flag != 0);
    set.fold(0, |domain, (_, bit)| domain | bit)
}

fn soft_of_domain(domain: u32) -> u32 {
    let set = DOMAIN_BITS.iter().filter(|(_, bit)| domain & bit != 0);
    set.fold(0, |soft, (flag, _)| soft | flag)
}

fn type_bits(mem: MemType) -> u32 {
    let index = TYPES.iter().position(|&m| m == mem).unwrap_or(0);
    u32::try_from(index).unwrap_or(0) << TYPE_SHIFT
}

const fn rights(prot: Prot) -> Result<u32, FormatError> {
    if prot.is_empty() {
        // Present means readable: no access is said by a non-present entry.
        return Err(FormatError::Rights);
    }
    let mut bits = 0;
    if prot.contains(Prot::WRITE) {
        bits |= WRITE;
    }
    if prot.contains(Prot::EXEC) {
        bits |= EXEC;
    }
    Ok(bits)
}

fn frame_bits(pfn: Pfn) -> Result<u32, FormatError> {
    match u32::try_from(pfn.as_u64()) {
        Ok(n) if n <= FRAME >> 12 => Ok(n << 12),
        _ => Err(FormatError::PfnTooBig(pfn)),
    }
}

/// Which of the two kinds of node a slice of cells is.
enum Node {
    Root,
    Leaf,
}

const fn node<C>(cells: &[C]) -> Node {
    if cells.len() >= ROOT_WORDS {
        Node::Root
    } else {
        Node::Leaf
    }
}

fn put(cells: &[Cell<Short>], i: usize, word: u32) {
    if let Some(cell) = cells.get(i) {
        WordCell::store(cell, word);
    }
}

/// The two places of an entry and what they shall hold.
struct Places {
    /// Where the truth stands, and its new word.
    truth: (usize, u32),
    /// Where the derived hardware word stands, and its new word.
    derived: (usize, u32),
}

impl Short {
    fn places(self, cells: &[Cell<Self>], i: usize, soft: u32) -> Places {
        match node(cells) {
            Node::Root => {
                let (first, second) = self.first(soft, i);
                let at = i.wrapping_mul(2);
                Places {
                    truth: (at, first),
                    derived: (at.wrapping_add(1), second),
                }
            }
            Node::Leaf => Places {
                truth: (i, soft),
                derived: (i.wrapping_add(LEAF_ENTRIES), self.second(soft, i)),
            },
        }
    }

    fn in_range(cells: &[Cell<Self>], i: usize) -> bool {
        let entries = match node(cells) {
            Node::Root => ROOT_WORDS / 2,
            Node::Leaf => LEAF_ENTRIES,
        };
        i < entries
    }
}

#[expect(unsafe_code, reason = "implements the format")]
// SAFETY: each encode_* is the inverse of the branch of `decode` that its
// tests name; zero has P clear and kind 0 and decodes as `Empty`; geometry is
// that of DDI 0406C B3.5 with pairs of first-level words, and the hardware words
// derived from a soft word say the same frame and never more rights (tests
// `hardware_never_sees_more_than_the_soft_word_says`); `write_protect` clears
// W, without which the derived word has AP[2] set.
unsafe impl PageTableFormat for Short {
    type Word = u32;

    fn page_shift(self) -> u32 {
        12
    }
    fn hardware_ad(self) -> HardwareAd {
        HardwareAd::None
    }
    /// A change of frame, size or memory type goes by way of an invalid word
    /// (DDI 0406C B3.10.1).
    fn break_before_make(self) -> bool {
        true
    }
    /// A word that faults with a translation fault is never cached (B3.9).
    fn caches_invalid(self) -> bool {
        false
    }
    /// A walk may overtake the store until a DSB.
    fn shows_entries_late(self) -> bool {
        true
    }
    fn nonpresent_bits(self) -> u32 {
        VALUE_BITS
    }

    fn levels(self) -> u8 {
        2
    }
    fn index_bits(self, level: u8) -> u32 {
        if level == 2 { 11 } else { 9 }
    }
    #[inline]
    fn index_shift(self, level: u8) -> u32 {
        match level {
            0 | 1 => 0,
            2 => 9,
            // Above the root: all that the table reaches.
            _ => 20,
        }
    }
    /// 16 KiB at the root.
    fn table_order(self, level: u8) -> u8 {
        if level == 2 { 2 } else { 0 }
    }
    fn leaf_at(self, level: u8) -> bool {
        (1..=2).contains(&level)
    }
    /// 0xc000_0000: 3 GiB of user space.
    fn user_end(self) -> Vpn {
        Vpn::new(0xc_0000)
    }
    fn kernel_root_index(self) -> usize {
        1536
    }

    fn run_bits(self, level: u8) -> u32 {
        match level {
            1 => 4,
            2 => 3,
            _ => 0,
        }
    }
    fn is_run(self, word: u32) -> bool {
        word & (PRESENT | RUN) == PRESENT | RUN
    }
    fn with_run(self, word: u32, run: Run) -> u32 {
        match run {
            Run::Member => word | RUN,
            Run::Single => word & !RUN,
        }
    }

    fn decode(self, word: u32, level: u8) -> Entry {
        if word & PRESENT == 0 {
            let kind = u64::from(word >> KIND_SHIFT & KIND);
            let Some(kind) = NonPresentKind::from_bits(kind) else {
                return Entry::Empty;
            };
            let value = u64::from(word >> VALUE_SHIFT);
            return Entry::NonPresent(NonPresent { kind, value });
        }
        if level > 1 && word & TYPE == TABLE {
            return Entry::Table(Pfn::new(u64::from(word >> 12)));
        }
        let mut prot = Prot::READ;
        prot.set(Prot::WRITE, word & WRITE != 0);
        prot.set(Prot::EXEC, word & EXEC != 0);
        let mut flags = AttrFlags::empty();
        for (flag, bit) in FLAG_BITS {
            flags.set(flag, word & bit != 0);
        }
        let index = (word & TYPE) >> TYPE_SHIFT;
        let mem = TYPES.get(index as usize).copied().unwrap_or_default();
        let pfn = Pfn::new(u64::from(word >> 12));
        Entry::Leaf {
            pfn,
            attrs: Attrs { prot, flags, mem },
        }
    }

    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u32, FormatError> {
        if !self.leaf_at(level) {
            return Err(FormatError::NoLeafHere(level));
        }
        let frame = frame_bits(pfn)?;
        if level == 2 && frame & BLOCK_MASK != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        let mut word = frame | PRESENT | rights(attrs.prot)? | type_bits(attrs.mem);
        for (flag, bit) in FLAG_BITS {
            if attrs.flags.contains(flag) {
                word |= bit;
            }
        }
        Ok(word)
    }

    fn encode_table(self, pfn: Pfn, _level: u8, owner: TableOwner) -> Result<u32, FormatError> {
        let user = match owner {
            TableOwner::User => USER,
            TableOwner::Kernel => 0,
        };
        Ok(frame_bits(pfn)? | TABLE | user | PRESENT)
    }

    fn encode_nonpresent(self, entry: NonPresent) -> Result<u32, FormatError> {
        match u32::try_from(entry.value) {
            Ok(value) if value >> VALUE_BITS == 0 => {
                Ok(value << VALUE_SHIFT | (entry.kind as u32) << KIND_SHIFT)
            }
            _ => Err(FormatError::PayloadTooBig),
        }
    }

    fn next_page(self, word: u32, level: u8) -> u32 {
        word.wrapping_add(if level == 1 { 1 << 12 } else { 1 << 21 })
    }
    fn write_protect(self, word: u32) -> u32 {
        word & !WRITE
    }
    /// Hardware writes to no word.
    fn ad_settled(self, _word: u32) -> bool {
        true
    }
    fn is_young(self, word: u32) -> bool {
        word & YOUNG != 0
    }
    fn is_dirty(self, word: u32) -> bool {
        word & DIRTY != 0
    }
    fn with_young(self, word: u32, young: AdBit) -> u32 {
        with_bit(word, YOUNG, young)
    }
    fn with_dirty(self, word: u32, dirty: AdBit) -> u32 {
        with_bit(word, DIRTY, dirty)
    }
    fn with_prot(self, word: u32, prot: Prot, _level: u8) -> Result<u32, FormatError> {
        Ok(word & !(WRITE | EXEC) | rights(prot)?)
    }

    fn load(self, cells: &[Cell<Self>], i: usize) -> u32 {
        if !Self::in_range(cells, i) {
            return 0;
        }
        match node(cells) {
            Node::Leaf => cells.get(i).map_or(0, WordCell::load),
            Node::Root => {
                let word = cells.get(i.wrapping_mul(2)).map_or(0, WordCell::load);
                self.soft(word, i)
            }
        }
    }

    fn store(self, cells: &[Cell<Self>], i: usize, word: u32) {
        if !Self::in_range(cells, i) {
            return;
        }
        let places = self.places(cells, i, word);
        let (truth, derived) = (places.truth, places.derived);
        if derived.1 == 0 {
            put(cells, derived.0, 0);
            put(cells, truth.0, truth.1);
        } else {
            put(cells, truth.0, truth.1);
            put(cells, derived.0, derived.1);
        }
    }

    /// In two steps, which is enough: hardware writes to no word, and who
    /// calls holds the table's lock.
    fn swap(self, cells: &[Cell<Self>], i: usize, word: u32) -> u32 {
        let old = self.load(cells, i);
        self.store(cells, i, word);
        old
    }

    /// As [`Self::swap`].
    fn compare_exchange(
        self,
        cells: &[Cell<Self>],
        i: usize,
        old: u32,
        new: u32,
    ) -> Result<(), u32> {
        if !Self::in_range(cells, i) {
            return Err(0);
        }
        let found = self.load(cells, i);
        if found != old {
            return Err(found);
        }
        self.store(cells, i, new);
        Ok(())
    }
}

const fn with_bit(word: u32, bit: u32, state: AdBit) -> u32 {
    match state {
        AdBit::Set => word | bit,
        AdBit::Clear => word & !bit,
    }
}

#[cfg(test)]
mod tests;
