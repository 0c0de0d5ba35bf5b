//! The word of a page table, and the atomic cell that holds it.

#[cfg(any(loom, target_has_atomic = "64"))]
use crate::sync::AtomicU64;
use crate::sync::{AtomicU32, Ordering};
use core::fmt::Debug;

/// One page-table word: a u32 or a u64.
pub trait Word: Copy + Eq + Debug + Send + Sync + 'static {
    /// The atomic cell of the word.
    type Cell: WordCell<Word = Self>;
    /// The empty word.
    const ZERO: Self;
    /// Widens the word.
    fn to_u64(self) -> u64;
    /// Narrows a number to the word; high bits that do not fit are dropped.
    fn from_u64(bits: u64) -> Self;
}

/// The atomic cell of a page-table word. Hardware may set bits in it at any time.
pub trait WordCell: Debug + Send + Sync + 'static {
    /// The word it holds.
    type Word: Word;
    /// Makes a cell.
    fn new(word: Self::Word) -> Self;
    /// Loads with acquire: what a loaded pointer leads to is seen filled.
    fn load(&self) -> Self::Word;
    /// Stores with release.
    fn store(&self, word: Self::Word);
    /// Exchanges in one step.
    fn swap(&self, word: Self::Word) -> Self::Word;
    /// Replaces `old` by `new` in one step.
    ///
    /// # Errors
    /// What stood there instead.
    fn compare_exchange(&self, old: Self::Word, new: Self::Word) -> Result<(), Self::Word>;
}

/// The cell type of a format.
pub type Cell<F> = <<F as super::PageTableFormat>::Word as Word>::Cell;

macro_rules! word {
    ($word:ty, $cell:ty) => {
        impl Word for $word {
            type Cell = $cell;
            const ZERO: Self = 0;
            #[inline]
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
            #[inline]
            #[allow(clippy::cast_possible_truncation)]
            fn from_u64(bits: u64) -> Self {
                bits as Self
            }
        }
        cell!($word, $cell);
    };
}

macro_rules! cell {
    ($word:ty, $cell:ty) => {
        impl WordCell for $cell {
            type Word = $word;
            #[inline]
            fn new(word: $word) -> Self {
                Self::new(word)
            }
            #[inline]
            fn load(&self) -> $word {
                self.load(Ordering::Acquire)
            }
            #[inline]
            fn store(&self, word: $word) {
                self.store(word, Ordering::Release);
            }
            #[inline]
            fn swap(&self, word: $word) -> $word {
                self.swap(word, Ordering::AcqRel)
            }
            #[inline]
            fn compare_exchange(&self, old: $word, new: $word) -> Result<(), $word> {
                self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
                    .map(|_| ())
            }
        }
    };
}
word!(u32, AtomicU32);
// Of the page map, which models take as it is.
#[cfg(any(loom, mm_watched))]
cell!(u32, crate::sync::Fixed32);
#[cfg(any(loom, target_has_atomic = "64"))]
word!(u64, AtomicU64);
