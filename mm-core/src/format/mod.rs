//! Page-table formats: bits only.
//!
//! A format says how one architecture mode writes page-table words: geometry
//! per level, entry kinds, word operations. It touches no memory but the table
//! node it is given, knows nothing of VMAs, and is testable on any host.
//!
//! Levels count from the leaf up: level 1 holds pages, level [`levels`] is the
//! root. An entry is one of four kinds, and *not present is not empty*:
//!
//! | kind | hardware sees | live? |
//! |---|---|---|
//! | [`Entry::Empty`] | fault | no |
//! | [`Entry::Table`] | next level | yes |
//! | [`Entry::Leaf`] | page or block | yes |
//! | [`Entry::NonPresent`] | fault | yes: swap, migration, guard, PROT_NONE |
//!
//! Inner loops use the word operations ([`PageTableFormat::next_page`],
//! [`PageTableFormat::write_protect`], [`PageTableFormat::ad_settled`]) and
//! never decode and encode again.
//!
//! # Slots
//!
//! A *logical* entry may be more than one word of hardware's: the second-level
//! tables of ARMv7 have a software word beside each hardware word (young, dirty
//! and swap have no bits there), its first level has two words for each table
//! frame, and Svnapot and ARMv7's large pages write runs down in another way
//! than single pages. So mm-core never reads a word out of a node: it asks the
//! format for slot `i` of a node ([`PageTableFormat::load`] and its relatives),
//! and sees logical words only. A format with plain words overrides nothing,
//! and a slot is one load or store.
//!
//! [`levels`]: PageTableFormat::levels

mod attrs;
mod nonpresent;
pub mod tiny;
mod word;

pub use attrs::{AttrFlags, Attrs};
pub use nonpresent::{NonPresent, NonPresentKind};
pub use word::{Cell, Word, WordCell};

use crate::addr::{Pfn, Vpn};
use crate::prot::Prot;
use core::fmt::Debug;

/// A page-table word, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing was ever stored here: the all-zero word.
    Empty,
    /// The next table.
    Table(Pfn),
    /// A page, or a block when above level 1.
    Leaf {
        /// The first frame.
        pfn: Pfn,
        /// Rights, memory type, accessed and dirty state.
        attrs: Attrs,
    },
    /// A word that hardware faults on and we understand.
    NonPresent(NonPresent),
}

impl Entry {
    /// Returns the frame that a leaf leads to, or led to before `PROT_NONE`
    /// took it away, with its state bits.
    #[inline]
    pub const fn frame(self) -> Option<(Pfn, AttrFlags)> {
        match self {
            Self::Leaf { pfn, attrs } => Some((pfn, attrs.flags)),
            Self::NonPresent(np) => match (np.kind, np.pfn()) {
                (NonPresentKind::ProtNone, Some(pfn)) => Some((pfn, np.flags())),
                _ => None,
            },
            Self::Empty | Self::Table(_) => None,
        }
    }

    /// Returns the frame of which an entry of level 1 holds a count: every verb
    /// that shares, copies, reuses or gives back asks here. None for what is
    /// `SPECIAL`, also where its frame has a record and somebody counts it.
    #[inline]
    pub const fn counted(self) -> Option<Pfn> {
        match self.frame() {
            Some((pfn, flags)) if !flags.contains(AttrFlags::SPECIAL) => Some(pfn),
            _ => None,
        }
    }
}

/// Which of accessed and dirty the hardware sets by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HardwareAd {
    /// Neither: software sets both, through faults.
    None,
    /// Accessed only.
    Accessed,
    /// Both.
    Both,
}

/// Why an entry could not be written down in this format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FormatError {
    /// The frame number has more bits than the format stores.
    PfnTooBig(Pfn),
    /// The frame is not aligned to the block size of the level.
    Misaligned(Pfn),
    /// No leaf may stand at this level.
    NoLeafHere(u8),
    /// The combination of rights does not exist (RISC-V: write without read).
    Rights,
    /// A payload has more bits than [`PageTableFormat::nonpresent_bits`].
    PayloadTooBig,
}

/// How one architecture mode writes its page tables.
///
/// An instance, because the depth may be chosen at run time (Sv39/48/57,
/// LA57, T0SZ); formats of fixed depth are zero-sized and cost nothing.
///
/// # Safety
/// Walks follow what [`decode`](Self::decode) returns, and hardware follows
/// the words. The implementor promises: `decode(encode_x(v)) == x(v)`, the
/// all-zero word is `Empty`, geometry matches the hardware, and
/// `write_protect` never leaves a word that hardware lets be written through.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
pub unsafe trait PageTableFormat: Copy + Debug + Send + Sync + 'static {
    /// The type of one word, u32 or u64.
    type Word: Word;

    /// Returns log2 of the page size in bytes.
    fn page_shift(self) -> u32;
    /// Returns what hardware sets by itself. Probed, where CPUs differ (Svadu,
    /// FEAT_HAFDBS); the same as long as the machine runs.
    fn hardware_ad(self) -> HardwareAd;
    /// Returns whether a valid leaf may only be replaced by way of an invalid
    /// one and a flush.
    fn break_before_make(self) -> bool;
    /// Returns whether hardware may remember that an entry was invalid: then
    /// map needs a flush.
    fn caches_invalid(self) -> bool;
    /// Returns whether a walk may still find nothing for a while after an entry
    /// was written where nothing stood. A user's fault then is spurious; nobody
    /// resolves one of the kernel, so its maps owe a flush, whose barriers or
    /// fences make the entries seen.
    fn shows_entries_late(self) -> bool {
        false
    }
    /// Returns the number of bits that [`NonPresent::value`] may use: three more
    /// than a frame number has, at least ([`NonPresent::prot_none`]).
    fn nonpresent_bits(self) -> u32;
    /// Returns the number of levels; the root's level.
    fn levels(self) -> u8;
    /// Returns log2 of the number of entries of a table of this level.
    fn index_bits(self, level: u8) -> u32;
    /// Returns log2 of the number of frames that a table of this level takes
    /// (and is aligned to).
    fn table_order(self, _level: u8) -> u8 {
        0
    }
    /// Returns the first frame number that a table of this level cannot have, because
    /// the entry above has no bits for it, or the register that names a root. A
    /// power of two, or above all numbers of the page map: frames of tables are
    /// allocated below.
    fn table_reach(self, level: u8) -> Pfn {
        // Most roots hang on a register that is as wide as an entry.
        let above = level.saturating_add(1).min(self.levels());
        reach(|pfn| self.encode_table(pfn, above, TableOwner::User).is_ok())
    }
    /// Returns the first frame number that a page's leaf has no bits for, as
    /// [`Self::table_reach`]: RAM above is of no use.
    fn leaf_reach(self) -> Pfn {
        let attrs = Attrs::user(Prot::READ);
        reach(|pfn| self.encode_leaf(pfn, attrs, 1).is_ok())
    }
    /// Returns whether a leaf may stand at this level.
    fn leaf_at(self, level: u8) -> bool;
    /// Returns the end of user space: pages `0..user_end` belong to users.
    fn user_end(self) -> Vpn;
    /// Returns the first root index of the kernel half, whose root entries
    /// every space shares; the number of root entries where there is none:
    /// because the kernel's root is another one, for addresses whose bits above
    /// the table's reach are all ones (AArch64 TTBR1).
    fn kernel_root_index(self) -> usize;

    /// Reads a word.
    fn decode(self, word: Self::Word, level: u8) -> Entry;
    /// Writes a leaf.
    ///
    /// # Errors
    /// [`FormatError`] where the format cannot say it.
    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<Self::Word, FormatError>;
    /// Writes a pointer to the next table; `level` is that of the entry.
    ///
    /// # Errors
    /// [`FormatError`] where the frame does not fit.
    fn encode_table(self, pfn: Pfn, level: u8, user: TableOwner)
    -> Result<Self::Word, FormatError>;
    /// Writes a non-present entry.
    ///
    /// # Errors
    /// [`FormatError::PayloadTooBig`].
    fn encode_nonpresent(self, entry: NonPresent) -> Result<Self::Word, FormatError>;

    /// Returns the word for the next page (or block) with the same attributes.
    fn next_page(self, word: Self::Word, level: u8) -> Self::Word;
    /// Returns the leaf without the right to write; dirty and accessed stay.
    fn write_protect(self, word: Self::Word) -> Self::Word;
    /// Returns whether hardware can change nothing in this word any more:
    /// then a plain store loses nothing.
    fn ad_settled(self, word: Self::Word) -> bool;
    /// Returns whether the leaf was accessed.
    fn is_young(self, word: Self::Word) -> bool;
    /// Returns whether the leaf was written through.
    fn is_dirty(self, word: Self::Word) -> bool;
    /// Returns the leaf marked accessed or not.
    fn with_young(self, word: Self::Word, young: AdBit) -> Self::Word;
    /// Returns the leaf marked dirty or not.
    fn with_dirty(self, word: Self::Word, dirty: AdBit) -> Self::Word;
    /// Returns the leaf with other rights: frame, memory type, user and global
    /// bits, accessed and dirty stay.
    ///
    /// # Errors
    /// [`FormatError::Rights`].
    fn with_prot(
        self,
        word: Self::Word,
        prot: crate::prot::Prot,
        level: u8,
    ) -> Result<Self::Word, FormatError>;

    /// Returns the number of pages below the index of a level.
    fn index_shift(self, level: u8) -> u32 {
        let mut shift = 0u32;
        let mut l = 1u8;
        while l < level {
            shift = shift.saturating_add(self.index_bits(l));
            l = l.saturating_add(1);
        }
        shift
    }
    /// Returns the number of pages that one entry of a level spans.
    fn entry_pages(self, level: u8) -> usize {
        1usize.checked_shl(self.index_shift(level)).unwrap_or(0)
    }
    /// Returns the number of entries of a table of a level.
    fn entries(self, level: u8) -> usize {
        1usize.checked_shl(self.index_bits(level)).unwrap_or(0)
    }
    /// Returns the index of a page in its table of a level.
    fn index(self, page: Vpn, level: u8) -> usize {
        // The shift is below the width: a table's reach fits a page number.
        let shifted = page.as_usize().wrapping_shr(self.index_shift(level));
        shifted & self.entries(level).wrapping_sub(1)
    }

    /// Returns log2 of the number of entries of a contiguous run at this level:
    /// entries that one TLB entry may hold together (Arm: the contiguous hint
    /// and ARMv7's large pages; RISC-V: Svnapot). Zero: there are none.
    fn run_bits(self, _level: u8) -> u32 {
        0
    }
    /// Returns whether a leaf is marked as part of a run.
    fn is_run(self, _word: Self::Word) -> bool {
        false
    }
    /// Returns a leaf marked as part of a run, or not. All entries of a run
    /// are marked, alike in their attributes, and lead to consecutive frames,
    /// the first of them aligned to the run. Where a run is written down in
    /// another way than by a bit, the slot operations translate: the words
    /// that pass through here name each its own frame.
    fn with_run(self, word: Self::Word, _run: Run) -> Self::Word {
        word
    }

    /// Reads slot `i` of a table node; acquire, so that a linked table is seen
    /// filled. Out of range reads as empty.
    fn load(self, node: &[Cell<Self>], i: usize) -> Self::Word {
        node.get(i).map_or(Self::Word::ZERO, WordCell::load)
    }
    /// Writes slot `i`; release, so that what it points to is seen filled.
    fn store(self, node: &[Cell<Self>], i: usize, word: Self::Word) {
        if let Some(cell) = node.get(i) {
            cell.store(word);
        }
    }
    /// Exchanges slot `i` in one step and returns what stood there: loses no
    /// accessed or dirty bit that hardware sets meanwhile.
    fn swap(self, node: &[Cell<Self>], i: usize, word: Self::Word) -> Self::Word {
        node.get(i).map_or(Self::Word::ZERO, |cell| cell.swap(word))
    }
    /// Replaces slot `i` if it still holds `old`.
    ///
    /// # Errors
    /// What stood there instead.
    fn compare_exchange(
        self,
        node: &[Cell<Self>],
        i: usize,
        old: Self::Word,
        new: Self::Word,
    ) -> Result<(), Self::Word> {
        node.get(i).map_or(Err(Self::Word::ZERO), |cell| {
            cell.compare_exchange(old, new)
        })
    }
}

/// Returns how far frame numbers can be said, up to the 32 bits of the page map.
fn reach(says: impl Fn(Pfn) -> bool) -> Pfn {
    let power = |bits| 1u64.wrapping_shl(bits);
    // Frame numbers are bits, from 0 on.
    let bits = (1..=u32::BITS).rev();
    let fits = |&bits: &u32| says(Pfn::new(power(bits).wrapping_sub(1)));
    Pfn::new(power(bits.clone().find(fits).unwrap_or(0)))
}

/// Whether a leaf is marked as part of a contiguous run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// Mark it.
    Member,
    /// Unmark it.
    Single,
}

/// Whose mappings lie below a table entry; some formats put rights there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableOwner {
    /// Users may reach leaves below.
    User,
    /// Only the kernel may.
    Kernel,
}

/// The state to give an accessed or dirty bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdBit {
    /// Mark it.
    Set,
    /// Unmark it.
    Clear,
}
