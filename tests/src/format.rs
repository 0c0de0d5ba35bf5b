//! One format and one walker for all machines, so that the library and the
//! suites are compiled once and run on each.
//!
//! ```text
//!  mm-core ──PageTableFormat──► AnyFormat ──vtable──► dyn DynFormat ──► Paging, Sv39, Short, ...
//!    a node: cells of 64 bits      │ the same memory: cells of 32 or 64 bits ▲
//!    a word: a u64                 └─ after each slot operation: the Intruder │
//! ```
//!
//! What runs is the real format's code on the real words in RAM; only the call
//! goes another way. Logical words pass as u64: a word of 32 bits is widened,
//! and one that comes back with more bits than the format's word panics. Cells
//! are 64 bits wide because mm-core also keeps logical words in frames of its
//! own (the gather's spare frame); in a table node they mean nothing, and the
//! facade looks at the node's memory through cells of the format's own.
//!
//! A method that [`PageTableFormat`] gains must be added to the lists below:
//! its default would run on the facade instead of the format's own.

use crate::mmu::Walker;
use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{
    AdBit, Attrs, Cell, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat, Run,
    TableOwner, Word,
};
use mm_core::prot::Prot;
use mm_core::sync::{AtomicU32, AtomicU64};
use std::any::TypeId;
use std::cell::Cell as StdCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Writes the facade: each method once, by what it does with words.
macro_rules! facade {
    (
        facts { $($fact:ident($($fa:ident: $ft:ty),*) -> $fr:ty;)* }
        asks { $($ask:ident($($aa:ident: $at:ty),*) -> $ar:ty;)* }
        edits { $($edit:ident($($ea:ident: $et:ty),*);)* }
        fallible_edits { $($try_edit:ident($($ta:ident: $tt:ty),*);)* }
        encodes { $($encode:ident($($ca:ident: $ct:ty),*);)* }
    ) => {
        /// [`PageTableFormat`] without its types: words are u64, nodes are raw
        /// cells. Implemented by every format.
        pub trait DynFormat: fmt::Debug + Send + Sync {
            $(#[doc = concat!("[`PageTableFormat::", stringify!($fact), "`].")]
            fn $fact(&self $(, $fa: $ft)*) -> $fr;)*
            $(#[doc = concat!("[`PageTableFormat::", stringify!($ask), "`].")]
            fn $ask(&self, word: u64 $(, $aa: $at)*) -> $ar;)*
            $(#[doc = concat!("[`PageTableFormat::", stringify!($edit), "`].")]
            fn $edit(&self, word: u64 $(, $ea: $et)*) -> u64;)*
            $(#[doc = concat!("[`PageTableFormat::", stringify!($try_edit), "`].")]
            /// # Errors
            /// The format's.
            fn $try_edit(&self, word: u64 $(, $ta: $tt)*) -> Result<u64, FormatError>;)*
            $(#[doc = concat!("[`PageTableFormat::", stringify!($encode), "`].")]
            /// # Errors
            /// The format's.
            fn $encode(&self $(, $ca: $ct)*) -> Result<u64, FormatError>;)*

            /// [`PageTableFormat::load`].
            fn load(&self, node: &[AtomicU64], i: usize) -> u64;
            /// [`PageTableFormat::store`].
            fn store(&self, node: &[AtomicU64], i: usize, word: u64);
            /// [`PageTableFormat::swap`].
            fn swap(&self, node: &[AtomicU64], i: usize, word: u64) -> u64;
            /// [`PageTableFormat::compare_exchange`].
            ///
            /// # Errors
            /// What stood there instead.
            fn compare_exchange(
                &self,
                node: &[AtomicU64],
                i: usize,
                old: u64,
                new: u64,
            ) -> Result<(), u64>;
        }

        impl<F: PageTableFormat> DynFormat for F {
            $(fn $fact(&self $(, $fa: $ft)*) -> $fr {
                PageTableFormat::$fact(*self $(, $fa)*)
            })*
            $(fn $ask(&self, word: u64 $(, $aa: $at)*) -> $ar {
                PageTableFormat::$ask(*self, narrow::<F>(word) $(, $aa)*)
            })*
            $(fn $edit(&self, word: u64 $(, $ea: $et)*) -> u64 {
                PageTableFormat::$edit(*self, narrow::<F>(word) $(, $ea)*).to_u64()
            })*
            $(fn $try_edit(&self, word: u64 $(, $ta: $tt)*) -> Result<u64, FormatError> {
                PageTableFormat::$try_edit(*self, narrow::<F>(word) $(, $ta)*).map(Word::to_u64)
            })*
            $(fn $encode(&self $(, $ca: $ct)*) -> Result<u64, FormatError> {
                PageTableFormat::$encode(*self $(, $ca)*).map(Word::to_u64)
            })*

            fn load(&self, node: &[AtomicU64], i: usize) -> u64 {
                PageTableFormat::load(*self, cells::<F>(node), i).to_u64()
            }
            fn store(&self, node: &[AtomicU64], i: usize, word: u64) {
                PageTableFormat::store(*self, cells::<F>(node), i, narrow::<F>(word));
            }
            fn swap(&self, node: &[AtomicU64], i: usize, word: u64) -> u64 {
                PageTableFormat::swap(*self, cells::<F>(node), i, narrow::<F>(word)).to_u64()
            }
            fn compare_exchange(
                &self,
                node: &[AtomicU64],
                i: usize,
                old: u64,
                new: u64,
            ) -> Result<(), u64> {
                let (old, new) = (narrow::<F>(old), narrow::<F>(new));
                PageTableFormat::compare_exchange(*self, cells::<F>(node), i, old, new)
                    .map_err(Word::to_u64)
            }
        }

        // SAFETY: each method is the inner format's, which keeps the promises;
        // words lose nothing on the way (`narrow`), and slots are the inner
        // format's own cells in the same memory (`cells`).
        unsafe impl PageTableFormat for AnyFormat {
            type Word = u64;

            $(fn $fact(self $(, $fa: $ft)*) -> $fr {
                self.inner.$fact($($fa),*)
            })*
            $(fn $ask(self, word: u64 $(, $aa: $at)*) -> $ar {
                self.inner.$ask(word $(, $aa)*)
            })*
            $(fn $edit(self, word: u64 $(, $ea: $et)*) -> u64 {
                self.inner.$edit(word $(, $ea)*)
            })*
            $(fn $try_edit(self, word: u64 $(, $ta: $tt)*) -> Result<u64, FormatError> {
                self.inner.$try_edit(word $(, $ta)*)
            })*
            $(fn $encode(self $(, $ca: $ct)*) -> Result<u64, FormatError> {
                self.inner.$encode($($ca),*)
            })*

            fn load(self, node: &[AtomicU64], i: usize) -> u64 {
                let word = self.inner.load(node, i);
                self.meanwhile(Slot { op: SlotOp::Load, node, index: i, word });
                word
            }
            fn store(self, node: &[AtomicU64], i: usize, word: u64) {
                self.inner.store(node, i, word);
                self.meanwhile(Slot { op: SlotOp::Store, node, index: i, word });
            }
            fn swap(self, node: &[AtomicU64], i: usize, word: u64) -> u64 {
                let old = self.inner.swap(node, i, word);
                self.meanwhile(Slot { op: SlotOp::Swap, node, index: i, word: old });
                old
            }
            fn compare_exchange(
                self,
                node: &[AtomicU64],
                i: usize,
                old: u64,
                new: u64,
            ) -> Result<(), u64> {
                let result = self.inner.compare_exchange(node, i, old, new);
                self.meanwhile(Slot { op: SlotOp::CompareExchange, node, index: i, word: new });
                result
            }
        }
    };
}

facade! {
    facts {
        page_shift() -> u32;
        hardware_ad() -> HardwareAd;
        break_before_make() -> bool;
        caches_invalid() -> bool;
        shows_entries_late() -> bool;
        nonpresent_bits() -> u32;
        levels() -> u8;
        index_bits(level: u8) -> u32;
        table_order(level: u8) -> u8;
        table_reach(level: u8) -> Pfn;
        leaf_reach() -> Pfn;
        leaf_at(level: u8) -> bool;
        user_end() -> Vpn;
        kernel_root_index() -> usize;
        index_shift(level: u8) -> u32;
        entry_pages(level: u8) -> usize;
        entries(level: u8) -> usize;
        index(page: Vpn, level: u8) -> usize;
        run_bits(level: u8) -> u32;
    }
    asks {
        decode(level: u8) -> Entry;
        ad_settled() -> bool;
        is_young() -> bool;
        is_dirty() -> bool;
        is_run() -> bool;
    }
    edits {
        next_page(level: u8);
        write_protect();
        with_young(young: AdBit);
        with_dirty(dirty: AdBit);
        with_run(run: Run);
    }
    fallible_edits {
        with_prot(prot: Prot, level: u8);
    }
    encodes {
        encode_leaf(pfn: Pfn, attrs: Attrs, level: u8);
        encode_table(pfn: Pfn, level: u8, user: TableOwner);
        encode_nonpresent(entry: NonPresent);
    }
}

/// Gives a word back to its format.
fn narrow<F: PageTableFormat>(word: u64) -> F::Word {
    let narrow = F::Word::from_u64(word);
    assert_eq!(narrow.to_u64(), word, "no word of the format");
    narrow
}

/// Sees a table node as its format does.
fn cells<F: PageTableFormat>(node: &[AtomicU64]) -> &[Cell<F>] {
    let is = TypeId::of::<Cell<F>>();
    let known = [TypeId::of::<AtomicU32>(), TypeId::of::<AtomicU64>()];
    assert!(known.contains(&is), "cells of another type");
    // SAFETY: the cell is AtomicU32 or AtomicU64, for which any bytes are a
    // value and which may be written through shared references; the node
    // stays borrowed. All words of a table node are reached this way, so no
    // two widths meet in one.
    let (head, cells, tail) = unsafe { node.align_to::<Cell<F>>() };
    assert!(head.is_empty() && tail.is_empty());
    cells
}

/// A slot operation that was just done.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    /// What was done.
    pub op: SlotOp,
    /// The node.
    pub node: &'a [AtomicU64],
    /// Which slot of it.
    pub index: usize,
    /// What was loaded, stored, displaced (swap) or offered (compare-exchange).
    pub word: u64,
}

/// What is done with slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotOp {
    /// [`PageTableFormat::load`].
    Load,
    /// [`PageTableFormat::store`].
    Store,
    /// [`PageTableFormat::swap`].
    Swap,
    /// [`PageTableFormat::compare_exchange`], whether it came off or not.
    CompareExchange,
}

/// Who acts between two slot operations of the code under test: hardware that
/// sets bits, another CPU.
pub trait Intruder: Send + Sync {
    /// Runs right after a slot operation, on the thread that did it. What it
    /// does itself through slots is not told to it.
    fn meanwhile(&self, format: AnyFormat, slot: Slot<'_>);
}

impl<T: Fn(AnyFormat, Slot<'_>) + Send + Sync> Intruder for T {
    fn meanwhile(&self, format: AnyFormat, slot: Slot<'_>) {
        self(format, slot);
    }
}

/// Where a machine's intruder sits.
#[derive(Default)]
struct Hook {
    armed: AtomicBool,
    intruder: Mutex<Option<Arc<dyn Intruder>>>,
}

thread_local! {
    static INTRUDING: StdCell<bool> = const { StdCell::new(false) };
}

/// Returns whether pages of this format can be loaded from without being
/// fetched from; hardware of the others does not tell the two apart.
pub fn forbids_exec(format: impl PageTableFormat) -> bool {
    !prot_of(format, Prot::READ).contains(Prot::EXEC)
}

/// Returns the rights that a user's page has that was given these.
fn prot_of<F: PageTableFormat>(format: F, prot: Prot) -> Prot {
    let word = format.encode_leaf(Pfn::new(0), Attrs::user(prot), 1);
    match word.map(|word| format.decode(word, 1)) {
        Ok(Entry::Leaf { attrs, .. }) => attrs.prot,
        other => panic!("{prot}: {other:?}"),
    }
}

/// Ends an intrusion, also one that panics.
struct Over;

impl Drop for Over {
    fn drop(&mut self) {
        INTRUDING.set(false);
    }
}

/// Any format, as one type. Copies share the intruder; see the module.
#[derive(Clone, Copy)]
pub struct AnyFormat {
    inner: &'static dyn DynFormat,
    hook: &'static Hook,
}

impl AnyFormat {
    /// Wraps a format. Leaks a few bytes: a machine's format lives for ever.
    pub fn new(inner: &'static dyn DynFormat) -> Self {
        Self {
            inner,
            hook: Box::leak(Box::default()),
        }
    }

    /// Wraps a format, which it leaks.
    pub fn of(format: impl PageTableFormat) -> Self {
        Self::new(Box::leak(Box::new(format)))
    }

    /// Lets somebody in after each slot operation from now on.
    pub fn intrude(self, intruder: impl Intruder + 'static) {
        *self.intruder() = Some(Arc::new(intruder));
        self.hook.armed.store(true, Ordering::SeqCst);
    }

    /// Lets nobody in any more.
    pub fn leave(self) {
        self.hook.armed.store(false, Ordering::SeqCst);
        *self.intruder() = None;
    }

    /// Returns whether a page can be fetched from without being loaded from.
    pub fn has_exec_only(self) -> bool {
        !prot_of(self, Prot::EXEC).contains(Prot::READ)
    }

    /// Returns whether a page can be loaded from without being fetched from.
    pub fn forbids_exec(self) -> bool {
        forbids_exec(self)
    }

    fn intruder(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn Intruder>>> {
        self.hook
            .intruder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn meanwhile(self, slot: Slot<'_>) {
        if !self.hook.armed.load(Ordering::Relaxed) || INTRUDING.get() {
            return;
        }
        let intruder = self.intruder().clone();
        if let Some(intruder) = intruder {
            INTRUDING.set(true);
            let _over = Over;
            intruder.meanwhile(self, slot);
        }
    }
}

impl fmt::Debug for AnyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Any walker, as one type.
pub type AnyWalker = &'static dyn Walker;

#[cfg(test)]
mod tests {
    use super::*;
    use mm_core::format::WordCell;
    use mm_core::format::tiny::{SetsBoth, Tiny};
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn slots_are_the_formats_own_cells() {
        let node: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let format = AnyFormat::of(Tiny::<u32, SetsBoth>::new(2, 3));
        let word = |n| format.encode_leaf(Pfn::new(n), Attrs::user(Prot::RW), 1);
        for i in 0..8 {
            format.store(&node, i, word(i as u64 + 1).unwrap());
        }
        let raw = cells::<Tiny<u32, SetsBoth>>(&node);
        for (i, cell) in raw.iter().enumerate() {
            assert_eq!(u64::from(WordCell::load(cell)), word(i as u64 + 1).unwrap());
            assert_eq!(format.load(&node, i), word(i as u64 + 1).unwrap());
        }
        assert_eq!(format.swap(&node, 3, 0), word(4).unwrap());
        assert_eq!(format.load(&node, 3), 0);
        let wrong = format.compare_exchange(&node, 5, 0, word(9).unwrap());
        assert_eq!(wrong, Err(word(6).unwrap()));
        let right = format.compare_exchange(&node, 5, word(6).unwrap(), word(9).unwrap());
        assert_eq!(right, Ok(()));
        assert_eq!(format.load(&node, 5), word(9).unwrap());
    }

    #[test]
    #[should_panic(expected = "no word of the format")]
    fn a_word_with_too_many_bits_is_noticed() {
        let format = AnyFormat::of(Tiny::<u32, SetsBoth>::new(2, 3));
        format.is_young(1 << 32);
    }

    #[test]
    fn an_intruder_acts_after_each_operation_but_not_within_its_own() {
        let node: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let format = AnyFormat::of(Tiny::<u64, SetsBoth>::new(2, 2));
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        format.intrude(move |format: AnyFormat, slot: Slot<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            if slot.op == SlotOp::Load {
                format.store(slot.node, slot.index, slot.word + 0x1000);
            }
        });
        assert_eq!(format.load(&node, 1), 0);
        assert_eq!(format.load(&node, 1), 0x1000);
        format.store(&node, 2, 1);
        assert_eq!(seen.load(Ordering::SeqCst), 3);
        format.leave();
        assert_eq!(format.load(&node, 1), 0x2000);
        assert_eq!(format.load(&node, 1), 0x2000);
        assert_eq!(seen.load(Ordering::SeqCst), 3);
    }
}
