//! A store to a write-protected page.
//!
//! ```text
//!  device ─────────────────────────────────► writable
//!  shared area ────────────────────────────► dirty, writable     (do_shared_fault, page_mkwrite)
//!  private, zero page ─────────────────────► zeroed own page
//!  private, cached page ───────────────────► copied own page     (do_cow_fault)
//!  private, anonymous, EXCLUSIVE ──────────► reuse               (wp_page_reuse)
//!  private, anonymous, only reference ─────► becomes EXCLUSIVE, reuse
//!  private, anonymous, otherwise ──────────► copy                (wp_page_copy)
//! ```
//!
//! Why the decision is safe: it is made under the lock of the table that holds
//! the entry. EXCLUSIVE is cleared only by fork, under the same lock. With one
//! reference and one map, both are this entry's: another could only come from
//! this entry (fork, a pin), again under this lock (E9).

use super::{Faulting, Resolution, Step, Stop, WordOf, copy_page, counted};
use crate::addr::Pfn;
use crate::format::{AdBit, AttrFlags, Entry, PageTableFormat};
use crate::page::{Page, PageFlags, PresentChange};
use crate::platform::Platform;
use crate::prot::Prot;
use crate::stats::Counter;
use crate::table::LeafGuard;
use crate::tlb::{Released, TlbGather};
use crate::vma::VmaFlags;

impl<'m, P: Platform> Faulting<'_, 'm, P> {
    /// Resolves a store to a present entry without the right to write
    /// (Linux: do_wp_page).
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    pub(super) fn write_to_protected(
        &self,
        leaf: LeafGuard<'_, 'm, P>,
        word: WordOf<P>,
        entry: Entry,
    ) -> Step<'m, P> {
        let Some((pfn, flags)) = entry.frame() else {
            return Err(Stop::Bug);
        };
        let zero = self.cx.frames().zero_page() == Some(pfn);
        if flags.contains(AttrFlags::SPECIAL) && !zero {
            // Nobody can copy a device: also in a private area stores reach it.
            return self.make_writable(leaf, Counter::FaultShared);
        }
        let page = counted(self.cx, entry);
        if self.vma.flags().contains(VmaFlags::SHARED) {
            return self.write_to_shared(leaf, word, pfn, page);
        }
        match page {
            Some(page) if page.has(PageFlags::ANON) && is_only_owner(page) => {
                page.set(PageFlags::EXCLUSIVE);
                #[cfg(not(mm_mutant = "store_leaves_code_clean"))]
                page.code_written();
                #[cfg(mm_mutant = "reuse_without_lock")]
                let leaf = {
                    drop(leaf);
                    self.table.lock_leaf(self.page).ok_or(Stop::Retry)?
                };
                self.make_writable(leaf, Counter::CowReuse)
            }
            _ => self.copy(leaf, word, pfn, page),
        }
    }

    /// Marks a page of a shared area dirty and lets it be written to (Linux:
    /// do_page_mkwrite), both under the table's lock: whoever cleans the page in
    /// between would find the entry without WRITE, and not hear of the stores.
    fn write_to_shared(
        &self,
        leaf: LeafGuard<'_, 'm, P>,
        word: WordOf<P>,
        pfn: Pfn,
        page: Option<&Page>,
    ) -> Step<'m, P> {
        if let Some(view) = self.object() {
            // The entry keeps it.
            let page = page.ok_or(Stop::Bug)?;
            page.code_written();
            if !view.dirty_held(pfn, page) {
                // Truncated meanwhile: the entry goes too.
                drop(leaf);
                return Err(Stop::Retry);
            }
        }
        #[cfg(mm_mutant = "dirty_without_lock")]
        let leaf = {
            drop(leaf);
            let leaf = self.table.lock_leaf(self.page);
            leaf.filter(|leaf| self.is_still(leaf, word))
                .ok_or(Stop::Retry)?
        };
        debug_assert!(self.is_still(&leaf, word), "the table is locked");
        self.make_writable(leaf, Counter::FaultShared)
    }

    /// Adds the right to write, and to execute only where it is there: what is
    /// stored from here on may be code that fetches do not see. Rights only grow, so stale translations are
    /// resolved by spurious faults and only this CPU forgets at once.
    fn make_writable(&self, leaf: LeafGuard<'_, 'm, P>, counter: Counter) -> Step<'m, P> {
        let format = self.cx.format();
        let prot = self.vma.flags().writable_page_prot();
        let _kept = leaf.replace_nonempty(&self.node.tlb, self.page, |word| {
            let word = format.with_dirty(format.with_young(word, AdBit::Set), AdBit::Set);
            let prot = match format.decode(word, 1) {
                Entry::Leaf { attrs, .. } if attrs.prot.contains(Prot::EXEC) => prot,
                _ if cfg!(mm_mutant = "store_publishes_hidden_code") => prot,
                _ => prot.difference(Prot::EXEC),
            };
            format.with_prot(word, prot, 1).unwrap_or(word)
        });
        drop(leaf);
        self.node.tlb.flush_local(self.cx, self.one_page());
        self.mm.stats().count(counter);
        Ok(Resolution::Minor)
    }

    /// Gives the area a page of its own with the same bytes
    /// (Linux: wp_page_copy).
    fn copy(
        &self,
        leaf: LeafGuard<'_, 'm, P>,
        word: WordOf<P>,
        old: Pfn,
        page: Option<&Page>,
    ) -> Step<'m, P> {
        // Keeps the old page while no lock is held.
        let page = page.filter(|_| !cfg!(mm_mutant = "copy_without_reference"));
        if let Some(page) = page {
            page.get_refs(1).map_err(|_| Stop::OutOfMemory)?;
        }
        drop(leaf);
        let result = self.copy_referenced(word, old);
        if page.is_some() {
            let freed = self.cx.frames().free(self.cx, old);
            debug_assert_eq!(freed, Ok(()));
        }
        result
    }

    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    fn copy_referenced(&self, word: WordOf<P>, old: Pfn) -> Step<'m, P> {
        let new = self.new_own_page()?;
        copy_page(self.cx, old, new);
        self.sync_if_code(new);
        let entry = match self.encode_own(new) {
            Ok(entry) => entry,
            Err(stop) => {
                self.drop_own_page(new);
                return Err(stop);
            }
        };
        self.exchange(word, new, entry)
    }

    /// Puts the new page in the old one's place, if that is still there.
    // Out of line, so that the gather is in no other path's frame.
    #[inline(never)]
    fn exchange(&self, word: WordOf<P>, new: Pfn, entry: WordOf<P>) -> Step<'m, P> {
        let mut gather = TlbGather::new(self.cx, &self.node.tlb);
        if !self.exchange_entry(&mut gather, word, entry) {
            self.drop_own_page(new);
            return Ok(Resolution::Minor);
        }
        self.replaced_by_own(gather.finish());
        self.mm.stats().count(Counter::CowCopy);
        Ok(Resolution::Minor)
    }

    /// Counts a page of its own that came, and what went for it: mostly an
    /// anonymous page for another.
    fn replaced_by_own(&self, released: Released) {
        self.cx.platform().uncharge(released.anon_pages);
        let gone = |pages: usize| i32::try_from(pages).unwrap_or(0);
        let change = PresentChange {
            anon: 1i32.wrapping_sub(gone(released.anon_pages)),
            file: gone(released.file_pages).wrapping_neg(),
        };
        if change != PresentChange::default() {
            self.count_present(change);
        }
    }

    /// Replaces the entry if it still is `word`; the old page rides the gather.
    // Out of line, so that the table's locals are not in one frame with the gather.
    #[inline(never)]
    fn exchange_entry(
        &self,
        gather: &mut TlbGather<'_, 'm, P>,
        word: WordOf<P>,
        entry: WordOf<P>,
    ) -> bool {
        let leaf = self.table.lock_leaf(self.page);
        let Some(leaf) = leaf.filter(|leaf| self.is_still(leaf, word)) else {
            return false;
        };
        let owed = gather.exchange(&leaf, self.page, entry);
        drop(leaf);
        self.settle(owed);
        true
    }

    /// Returns whether the entry still leads to the same page, protected:
    /// hardware may have marked it accessed meanwhile.
    fn is_still(&self, leaf: &LeafGuard<'_, 'm, P>, word: WordOf<P>) -> bool {
        let format = self.cx.format();
        let now = format.with_young(leaf.word(self.page), AdBit::Set);
        #[cfg(mm_mutant = "exchange_without_look")]
        let now = format.with_young(word, AdBit::Set);
        now == format.with_young(word, AdBit::Set)
            && matches!(leaf.entry(self.page), Entry::Leaf { .. })
    }
}

/// Returns whether the entry that is being looked at is the only way to an
/// anonymous page.
fn is_only_owner(page: &Page) -> bool {
    page.has(PageFlags::EXCLUSIVE)
        || (page.refs() == 1 && page.user().maps() == 1)
        || cfg!(mm_mutant = "reuse_what_two_have")
}
