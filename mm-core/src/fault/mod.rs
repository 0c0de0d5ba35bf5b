//! Resolves one fault.
//!
//! ```text
//!                      area, read count held ─► allowed? ── no ─► Signal
//!                                                          │
//!                          lock leaf table, look at the entry
//!              ┌───────────────┬──────────────┬────────────┴───┐
//!            Empty          Leaf, RO        Leaf, good      PROT_NONE
//!         ┌────┴────┐      & a store           │               │
//!       anon      object       │            spurious        re-entered
//!    zero page,  cached page, cow: reuse    (local flush)
//!    own page    own copy,    or copy
//!                Wait
//! ```
//!
//! Each case follows one shape: *look* under the table lock, *drop it*,
//! *prepare* (allocate, copy, find the cached page: all that can fail), *lock
//! again and check* that the entry is still what was looked at, *install*. When
//! it is not, somebody else resolved the fault or changed the area: what was
//! prepared is given back and the fault answers `Resolved`, because the
//! access will simply be tried again (lessons 61-63; invariant D2).
//!
//! What protects what: the area's read count keeps the area's range, rights
//! and backing, with or without the space lock ([`crate::space`] says when that
//! is taken); the table lock keeps the entry; a reference keeps the page. A
//! page that was found in an object is installed only if the object still
//! reaches that far and has not dropped it, tested under the table lock:
//! truncation sets the size, then takes every table lock that maps it, then
//! marks what it drops; so either it sees our entry, or we see its size, or,
//! where the object has grown again, its mark (`object` module).
//!
//! Copy-on-write follows copy-then-publish (E11): the old entry is cleared and
//! flushed on all CPUs before the new one is visible, all under the table lock,
//! so no other thread can read the old page after somebody has written to the
//! new one.

mod anon;
mod cow;
mod object;
mod outcome;

pub use outcome::{Fault, FaultOutcome, Mode, Resolution, Signal};

use crate::addr::{Pfn, Vpn};
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::format::{AdBit, AttrFlags, Attrs, Entry, NonPresentKind, PageTableFormat};
use crate::mm::Mm;
use crate::object::{ObjectKind, Ticket};
use crate::page::{Kind, Page, PageFlags, PresentChange};
use crate::platform::{PhysMemory, Platform};
use crate::prot::{Access, Prot};
use crate::range::PageRange;
use crate::stats::Counter;
use crate::table::{LeafGuard, PageTable};
use crate::tlb::MapFlush;
use crate::vma::SpaceNode;
use crate::vma::{DirtyTracking, Vma, VmaFlags};

pub(crate) type WordOf<P> = <<P as Platform>::Format as PageTableFormat>::Word;

/// Why a fault is not resolved yet.
pub(crate) enum Stop<'m, P: Platform> {
    /// Something changed meanwhile: look again.
    Retry,
    /// A transfer must end first.
    Wait(Ticket<'m, P>),
    /// The program's error.
    Signal(Signal),
    /// No memory.
    OutOfMemory,
    /// The object's store is full.
    NoSpace,
    /// An area without an anon_vma needs one: allocation and the space's lock.
    NeedsAnonVma,
    /// Nothing that a program can cause.
    Bug,
}

impl<P: Platform> From<OutOfMemory> for Stop<'_, P> {
    fn from(_: OutOfMemory) -> Self {
        Stop::OutOfMemory
    }
}

type Step<'m, P> = Result<Resolution, Stop<'m, P>>;

/// One fault, with all that was found out about it.
pub(crate) struct Faulting<'c, 'm, P: Platform> {
    pub cx: &'c Cx<'m, P>,
    pub mm: &'m Mm<P>,
    pub node: &'m SpaceNode,
    pub table: PageTable<'c, 'm, P>,
    pub vma: &'c Vma,
    pub page: Vpn,
    pub access: Access,
}

impl<'m, P: Platform> Faulting<'_, 'm, P> {
    /// Resolves the fault as far as it goes without waiting.
    ///
    /// # Locks
    /// The area's read count is held. Takes table locks
    /// and what finding a page takes.
    pub(crate) fn resolve(&self) -> Step<'m, P> {
        let flags = self.vma.flags();
        let addr = self.page.addr(self.cx.page_shift());
        if !flags.allows(self.access) && !self.is_implied(flags) {
            return Err(Stop::Signal(Signal::SegvAccErr(addr)));
        }
        let leaf = self.table.lock_leaf_or_create(self.page, &self.node.tlb)?;
        let word = leaf.word(self.page);
        let entry = leaf.entry(self.page);
        let step = match entry {
            Entry::Empty => {
                drop(leaf);
                if flags.intersects(VmaFlags::PFN_MAP) {
                    // Device areas are mapped when they are made.
                    return Err(Stop::Signal(Signal::BusAdrErr(addr)));
                }
                if self.vma.object_raw() == 0 {
                    self.first_touch()
                } else {
                    self.map_object_page()
                }
            }
            Entry::Leaf { attrs, .. } => self.present(leaf, word, entry, attrs),
            Entry::NonPresent(np) => match np.kind {
                NonPresentKind::ProtNone => self.allow_again(leaf, entry),
                NonPresentKind::Guard => Err(Stop::Signal(Signal::SegvMapErr(addr))),
                NonPresentKind::Swap | NonPresentKind::Migration => Err(Stop::Bug),
            },
            Entry::Table(_) => Err(Stop::Bug),
        };
        match step {
            // No memory is missing where somebody else was given it for this very page.
            Err(Stop::OutOfMemory) if !self.is_unchanged(word) => Err(Stop::Retry),
            step => step,
        }
    }

    /// Returns whether the entry is still what was looked at.
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    fn is_unchanged(&self, word: WordOf<P>) -> bool {
        let leaf = self.table.lock_leaf(self.page);
        leaf.is_none_or(|leaf| leaf.word(self.page) == word)
    }

    /// Loads are implied by stores everywhere, and by fetches where the format
    /// cannot say otherwise: there a page that was fetched from could be loaded
    /// from anyway, and the answer must not depend on that (Linux on x86
    /// without protection keys: `vma_is_accessible`).
    fn is_implied(&self, flags: VmaFlags) -> bool {
        self.access == Access::Read
            && (flags.contains(VmaFlags::WRITE)
                || (flags.contains(VmaFlags::EXEC) && self.fetches_imply_loads()))
    }

    fn fetches_imply_loads(&self) -> bool {
        let format = self.cx.format();
        let word = format.encode_leaf(Pfn::new(0), Attrs::user(Prot::EXEC), 1);
        word.is_ok_and(|word| match format.decode(word, 1) {
            Entry::Leaf { attrs, .. } => attrs.prot.contains(Prot::READ),
            _ => false,
        })
    }

    fn present(
        &self,
        leaf: LeafGuard<'_, 'm, P>,
        word: WordOf<P>,
        entry: Entry,
        attrs: Attrs,
    ) -> Step<'m, P> {
        if attrs.prot.allows(self.access) {
            self.settle_ad(&leaf);
            drop(leaf);
            // Another CPU was faster, or this one remembers the old entry.
            #[cfg(not(mm_mutant = "spurious_without_flush"))]
            self.node.tlb.flush_spurious(self.cx, self.one_page());
            self.mm.stats().count(Counter::FaultSpurious);
            return Ok(Resolution::Minor);
        }
        match self.access {
            Access::Write => self.write_to_protected(leaf, word, entry),
            Access::Exec | Access::Read => self.widen(leaf, entry),
        }
    }

    /// Marks the entry accessed (and dirty) where hardware does not.
    fn settle_ad(&self, leaf: &LeafGuard<'_, 'm, P>) {
        let format = self.cx.format();
        let _kept = leaf.replace_nonempty(&self.node.tlb, self.page, |word| {
            let word = format.with_young(word, AdBit::Set);
            if self.access == Access::Write {
                format.with_dirty(word, AdBit::Set)
            } else {
                word
            }
        });
    }

    /// Gives a present entry the rights of its area that it was installed
    /// without: execution, until the code in it was made visible.
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    fn widen(&self, leaf: LeafGuard<'_, 'm, P>, entry: Entry) -> Step<'m, P> {
        let page = counted(self.cx, entry);
        if self.access == Access::Exec && hides_code(page) {
            return self.show_code(leaf, entry);
        }
        let want = visible(page, self.protected_prot());
        let format = self.cx.format();
        let _kept = leaf.replace_nonempty(&self.node.tlb, self.page, |word| {
            let writable = match format.decode(word, 1) {
                Entry::Leaf { attrs, .. } => attrs.prot & Prot::WRITE,
                _ => Prot::NONE,
            };
            let word = format.with_young(word, AdBit::Set);
            format.with_prot(word, want | writable, 1).unwrap_or(word)
        });
        drop(leaf);
        self.node.tlb.flush_local(self.cx, self.one_page());
        Ok(Resolution::Minor)
    }

    /// Makes the instructions in the page of an entry visible; the access is
    /// to be tried again.
    // Out of line, as its callers.
    #[inline(never)]
    fn show_code(&self, leaf: LeafGuard<'_, 'm, P>, entry: Entry) -> Step<'m, P> {
        let (Some(page), Some(pfn)) = (counted(self.cx, entry), entry.counted()) else {
            return Err(Stop::Retry);
        };
        // Keeps the page while no lock is held.
        page.get_refs(1).map_err(|_| Stop::OutOfMemory)?;
        drop(leaf);
        let _again = page.show_code(|| self.cx.platform().sync_code(pfn));
        let freed = self.cx.frames().free(self.cx, pfn);
        debug_assert_eq!(freed, Ok(()));
        Err(Stop::Retry)
    }

    /// Enters a page again that was kept while its area allowed nothing.
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    fn allow_again(&self, leaf: LeafGuard<'_, 'm, P>, entry: Entry) -> Step<'m, P> {
        let Some((pfn, kept)) = entry.frame() else {
            return Err(Stop::Bug);
        };
        if self.vma.flags().contains(VmaFlags::EXEC) && hides_code(counted(self.cx, entry)) {
            return self.show_code(leaf, entry);
        }
        let prot = handed_out(counted(self.cx, entry), self.protected_prot());
        let attrs = Attrs::user(prot).with_mem(self.vma.mem());
        let attrs = attrs.with(kept | AttrFlags::ACCESSED);
        let word = self.cx.format().encode_leaf(pfn, attrs, 1);
        let word = word.map_err(|_| Stop::Bug)?;
        let _kept = leaf.replace_nonempty(&self.node.tlb, self.page, |_| word);
        drop(leaf);
        Err(Stop::Retry)
    }

    /// Installs a word if the entry is still empty, and `still` holds under
    /// the table's lock; the frame's reference and map count move into the
    /// table.
    fn install(&self, word: WordOf<P>, still: impl Fn() -> bool) -> Result<Installed, OutOfMemory> {
        let leaf = self.table.lock_leaf_or_create(self.page, &self.node.tlb)?;
        let empty = matches!(leaf.entry(self.page), Entry::Empty);
        let empty = empty || cfg!(mm_mutant = "no_second_look");
        if !empty || !still() {
            return Ok(Installed::Raced);
        }
        let owed = leaf.install(self.page, word);
        drop(leaf);
        self.settle(owed);
        Ok(Installed::Here)
    }

    /// Pays what a map owes on machines that remember invalid entries.
    fn settle(&self, owed: MapFlush) {
        owed.settle(self.cx, &self.node.tlb);
    }

    /// Returns the rights of an entry that must fault on the first store.
    fn protected_prot(&self) -> Prot {
        self.vma.flags().page_prot(self.tracking())
    }

    /// Only what a pager keeps has a clean state to come back to.
    fn tracking(&self) -> DirtyTracking {
        match self.object().map(|view| view.object().kind()) {
            Some(ObjectKind::File) => DirtyTracking::ByFault,
            Some(ObjectKind::Memory) | None => DirtyTracking::None,
        }
    }

    /// Writes down a level-1 leaf, accessed.
    fn encode(&self, pfn: Pfn, prot: Prot, flags: AttrFlags) -> Result<WordOf<P>, Stop<'m, P>> {
        let attrs = Attrs::user(prot).with(flags).with(AttrFlags::ACCESSED);
        self.cx
            .format()
            .encode_leaf(pfn, attrs, 1)
            .map_err(|_| Stop::Bug)
    }

    /// Writes down the entry of a page that belongs to this area alone and
    /// has just been written to (or will be).
    fn encode_own(&self, pfn: Pfn) -> Result<WordOf<P>, Stop<'m, P>> {
        let prot = self.vma.flags().writable_page_prot();
        self.encode(pfn, prot, AttrFlags::DIRTY)
    }

    fn one_page(&self) -> PageRange {
        PageRange::new(self.page, self.page.saturating_add(1))
    }

    /// Allocates the frame of a page that will belong to this area alone: one
    /// reference, one map count, exclusive. Its contents are undefined.
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    fn new_own_page(&self) -> Result<Pfn, Stop<'m, P>> {
        let owner = self.vma.anon_raw();
        if owner == 0 {
            return Err(Stop::NeedsAnonVma);
        }
        self.cx.platform().try_charge(1)?;
        let pfn = match self.cx.frames().alloc(self.cx, 0) {
            Ok(pfn) => pfn,
            Err(error) => {
                self.cx.platform().uncharge(1);
                return Err(error.into());
            }
        };
        if let Some(page) = self.cx.frames().page(pfn) {
            let flags = PageFlags::ANON | PageFlags::EXCLUSIVE | PageFlags::UPTODATE;
            page.user()
                .init(flags, owner, self.vma.pgoff_of(self.page) as u64);
            let counted = page.user().add_maps(1);
            debug_assert!(counted.is_ok(), "a fresh page has no maps");
        }
        Ok(pfn)
    }

    /// Counts pages that this fault made present.
    fn count_present(&self, change: PresentChange) {
        let space = self.table.space();
        self.node.count(self.cx, &self.mm.spaces, space, change);
    }

    /// Gives back a page that [`Self::new_own_page`] made and nobody saw.
    fn drop_own_page(&self, pfn: Pfn) {
        if let Some(page) = self.cx.frames().page(pfn) {
            page.user().sub_maps(1);
        }
        let freed = self.cx.frames().free(self.cx, pfn);
        debug_assert_eq!(freed, Ok(()));
        self.cx.platform().uncharge(1);
    }

    /// Makes instructions in a page of an executable area visible. A page that
    /// others know may be written to again before it is entered: see
    /// [`visible`].
    fn sync_if_code(&self, pfn: Pfn) {
        if !self.vma.flags().contains(VmaFlags::EXEC) {
            return;
        }
        if let Some(page) = self.cx.frames().page(pfn) {
            let _or_without_exec = page.show_code(|| self.cx.platform().sync_code(pfn));
        }
    }
}

/// Whether an install found things as they were; if not, the access is tried
/// again, and finds out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Installed {
    Here,
    Raced,
}

/// Returns the record of the page of user memory that an entry of level 1
/// counts in: none of a device, nor of the zero page or a frame of the kernel's.
pub(crate) fn counted<'m, P: Platform>(cx: &Cx<'m, P>, entry: Entry) -> Option<&'m Page> {
    let page = cx.frames().page(entry.counted()?);
    page.filter(|page| page.kind() == Kind::User)
}

/// Returns whether a page may hold instructions that fetches do not see.
fn hides_code(page: Option<&Page>) -> bool {
    page.is_some_and(|page| !page.has(PageFlags::CODE_CLEAN))
        && !cfg!(mm_mutant = "hidden_code_is_published")
}

/// Returns the rights that an entry of a page may have now: not to execute what
/// fetches do not see. Asked under the table's lock.
pub(crate) fn visible(page: Option<&Page>, prot: Prot) -> Prot {
    if prot.contains(Prot::EXEC) && hides_code(page) {
        prot.difference(Prot::EXEC)
    } else {
        prot
    }
}

/// Returns the rights that an entry of a cached page may have now, as [`visible`], and
/// forgets that the page is visible to fetches where stores are among them: those do not fault.
fn handed_out(page: Option<&Page>, prot: Prot) -> Prot {
    let prot = visible(page, prot);
    let forgets = prot.contains(Prot::WRITE) && !cfg!(mm_mutant = "load_leaves_code_clean");
    if let Some(page) = page.filter(|_| forgets) {
        page.code_written();
    }
    prot
}

/// Copies a page into a fresh one; the zero page is not read.
fn copy_page<P: Platform>(cx: &Cx<'_, P>, from: Pfn, to: Pfn) {
    let memory = cx.frames().memory();
    if cx.frames().zero_page() == Some(from) {
        memory.zero(to, 0);
    } else {
        memory.copy(from, to);
    }
}
