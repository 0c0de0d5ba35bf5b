//! `fork`: a copy of the space, its private pages shared until written to
//! (Linux: dup_mm, dup_mmap, copy_page_range).
//!
//! ```text
//! lock parent (write) ─► write-mark every area            no fault is inside, nobody is busy
//!   for each area:  node, chains, object's map           may fail
//!                   entries: table by table               may fail
//! flush the parent ─► unmark                              stores fault from here on
//! ```
//!
//! The marks stay until the flush is done: otherwise a sibling's store could
//! go through an old writable translation to a page that a copy-on-write fault
//! has just copied for the child (E3). A page is shared under the lock of the
//! parent's table: counted first, then EXCLUSIVE cleared, then protected, so
//! whoever decides about reuse sees all or nothing of it (E9).
//!
//! | area | the child gets |
//! |---|---|
//! | `DONT_COPY` | nothing |
//! | `WIPE_ON_FORK` | the area, empty |
//! | shared, or no page of its own yet | the area; its pages come with faults |
//! | private with pages | the area and its entries, all write-protected |
//! | device | the area and its entries, as they are: what a leaf marks `SPECIAL` nobody counts or copies |
//!
//! When something fails, the child is dropped like any space, which gives every
//! count back; the parent's entries may stay write-protected, which nobody
//! can observe.

use super::AddressSpace;
use super::upkeep::Nodes;
use crate::cx::Cx;
use crate::error::{MmError, OutOfMemory};
use crate::fault::{WordOf, counted, visible};
use crate::format::{AdBit, Entry, NonPresent, NonPresentKind, PageTableFormat, Run};
use crate::page::{Kind, Page, PageFlags};
use crate::platform::Platform;
use crate::range::PageRange;
use crate::stats::Counter;
use crate::table::LeafGuard;
use crate::tlb::TlbGather;
use crate::vma::{Counts, Delta, Vma, VmaFlags, duplicate};

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Makes a copy of the space. Threads of the parent may go on running.
    ///
    /// # Errors
    /// [`MmError::OutOfMemory`]; the parent is as before.
    ///
    /// # Locks
    /// Takes the space lock for writing and marks every area; then objects',
    /// anon_vmas' and table locks.
    pub fn fork(&self) -> Result<Self, MmError> {
        let cx = self.mm.cx();
        let child = Self::fresh(self.mm, &cx)?;
        let node = self.node();
        let layout = self.write_alone(&cx);
        // Nobody else knows the child: its lock is free whatever is held.
        let mut fresh = child.node().lock.write_fresh(&cx, child.key());
        *fresh = *layout;
        // Those are the parent's.
        fresh.awaiting = 0;
        // mlockall(2): not inherited.
        fresh.later_locks = VmaFlags::empty();
        child.set_limits_locked(&mut fresh, layout.limits);
        drop(fresh);
        let nodes = Nodes::new(&cx, self.mm);
        self.mark_all(&cx, &nodes);
        // Counted while no fault is inside, so that it is enough.
        node.settle(&cx, self.key());
        let charged = node.counts.anon.get();
        if let Err(error) = self.mm.platform().try_charge(charged) {
            self.unmark_all(&nodes);
            return Err(error.into());
        }
        let mut gather = TlbGather::new(&cx, &node.tlb);
        let mut shared = 0usize;
        let copied = self.copy_areas(&cx, &nodes, &child, &mut gather, &mut shared);
        #[cfg(mm_mutant = "unmark_before_flush")]
        self.unmark_all(&nodes);
        // Also after a failure: entries have lost WRITE.
        self.released(gather.finish());
        #[cfg(not(mm_mutant = "unmark_before_flush"))]
        self.unmark_all(&nodes);
        // What a truncation took from the child meanwhile it paid back itself.
        self.mm.platform().uncharge(charged.saturating_sub(shared));
        drop(layout);
        copied?;
        self.mm.stats().count(Counter::Fork);
        Ok(child)
    }

    /// Write-marks every area: no fault is inside any more.
    ///
    /// # Locks
    /// The space lock for writing.
    pub(crate) fn mark_all(&self, cx: &Cx<'m, P>, nodes: &Nodes<'_, 'm, P>) {
        for vma in self.node().vmas.iter(nodes) {
            nodes.vma(vma).write_mark(cx);
        }
    }

    /// Undoes [`Self::mark_all`].
    pub(crate) fn unmark_all(&self, nodes: &Nodes<'_, 'm, P>) {
        for vma in self.node().vmas.iter(nodes) {
            nodes.vma(vma).unmark();
        }
    }

    // Out of line, so that its locals are not in one frame with the gather.
    #[inline(never)]
    fn copy_areas(
        &self,
        cx: &Cx<'m, P>,
        nodes: &Nodes<'_, 'm, P>,
        child: &Self,
        gather: &mut TlbGather<'_, 'm, P>,
        shared: &mut usize,
    ) -> Result<(), OutOfMemory> {
        let (parent, node) = (self.node(), child.node());
        let mut at = parent.vmas.first(nodes);
        while let Some(handle) = at {
            at = parent.vmas.next(nodes, handle);
            let vma = nodes.vma(handle);
            if vma.flags().contains(VmaFlags::DONT_COPY) {
                continue;
            }
            if vma.flags().contains(VmaFlags::ACCOUNT) {
                let pages = vma.range().pages();
                self.check_commit(pages).map_err(|_| OutOfMemory)?;
            }
            #[cfg(mm_mutant = "entries_before_chains")]
            if has_entries(vma) {
                self.copy_entries(cx, child, vma, gather, shared)?;
            }
            let twin = duplicate(nodes, handle, &node.vmas)?;
            child.count(&Delta::of_area(nodes.vma(twin)));
            if has_entries(vma) && !cfg!(mm_mutant = "entries_before_chains") {
                self.copy_entries(cx, child, vma, gather, shared)?;
            }
        }
        Ok(())
    }

    /// Copies the entries of one area, one table page at a time; `shared`
    /// counts its anonymous pages.
    // Out of line, so that its locals are not in one frame with the gather.
    #[inline(never)]
    fn copy_entries(
        &self,
        cx: &Cx<'m, P>,
        child: &Self,
        vma: &Vma,
        gather: &mut TlbGather<'_, 'm, P>,
        shared: &mut usize,
    ) -> Result<(), OutOfMemory> {
        let (from, to) = (self.table(cx), child.table(cx));
        let range = vma.range();
        let mut at = range.start();
        loop {
            let Some(leaf) = from.next_leaf(PageRange::new(at, range.end())) else {
                return Ok(());
            };
            let part = leaf.range().intersect(PageRange::new(at, range.end()));
            drop(leaf);
            // The child's table is made while no table is locked. The marks
            // keep faults out, so the parent's is the same afterwards, or empty.
            drop(to.lock_leaf_or_create(part.start(), &child.node().tlb)?);
            if let Some(old) = from.lock_leaf(part.start()) {
                let Some(new) = to.lock_leaf_fresh(part.start()) else {
                    #[cfg(mm_mutant = "pass_over_freed_table")]
                    {
                        at = part.end();
                    }
                    // A truncation took the child's for an empty one: again.
                    continue;
                };
                let copy = LeafCopy {
                    cx,
                    old,
                    new,
                    gather,
                    copied: Copied::default(),
                };
                let (copied, outcome) = copy.run(part, &child.node().counts);
                *shared = shared.saturating_add(copied.anon);
                self.mm
                    .stats()
                    .add(Counter::ForkPages, copied.anon.saturating_add(copied.file));
                outcome?;
            }
            at = part.end();
        }
    }
}

/// Returns whether faults would not bring the area's pages back by themselves.
fn has_entries(vma: &Vma) -> bool {
    let flags = vma.flags();
    if flags.contains(VmaFlags::WIPE_ON_FORK) {
        return false;
    }
    flags.contains(VmaFlags::PFN_MAP) || vma.anon_raw() != 0
}

#[derive(Clone, Copy, Default)]
struct Copied {
    anon: usize,
    file: usize,
}

/// The copy of one table page.
struct LeafCopy<'a, 'c, 'g, 'm, P: Platform> {
    cx: &'a Cx<'m, P>,
    old: LeafGuard<'c, 'm, P>,
    new: LeafGuard<'c, 'm, P>,
    gather: &'a mut TlbGather<'g, 'm, P>,
    copied: Copied,
}

impl<P: Platform> LeafCopy<'_, '_, '_, '_, P> {
    fn run(mut self, range: PageRange, counts: &Counts) -> (Copied, Result<(), OutOfMemory>) {
        let outcome = self.copy(range);
        // Before the child's table is unlocked: from then on a truncation finds
        // the entries, and takes them from the counts.
        counts.anon.add(self.copied.anon);
        counts.file.add(self.copied.file);
        (self.copied, outcome)
    }

    fn copy(&mut self, range: PageRange) -> Result<(), OutOfMemory> {
        let format = self.cx.format();
        for page in range.iter() {
            let word = self.old.word(page);
            let entry = format.decode(word, 1);
            match entry {
                Entry::NonPresent(np) if np.kind == NonPresentKind::Guard => {
                    let _owed = self.new.install(page, word);
                    continue;
                }
                // Empty; swap and migration come later.
                _ if entry.frame().is_none() => continue,
                _ => {}
            }
            // What nobody counts (a device, the zero page) is entered as it is, and
            // what is the kernel's own.
            let counted = counted(self.cx, entry);
            if let Some(counted) = counted {
                self.share(counted)?;
                self.protect(page);
            } else {
                self.share_kernels(entry)?;
            }
            // Again: hardware may have marked it dirty, protect took WRITE.
            let word = self.old.word(page);
            let word = if matches!(entry, Entry::Leaf { .. }) {
                // Alone: not all of a run need be copied.
                let word = format.with_run(format.with_young(word, AdBit::Clear), Run::Single);
                self.without_hidden_code(counted, word)
            } else {
                word
            };
            // The child's CPUs have not run it: nothing invalid is remembered.
            let _owed = self.new.install(page, word);
        }
        Ok(())
    }

    /// Returns an entry of the child without the right to execute what fetches
    /// do not see yet; the first fetch faults and gets it.
    fn without_hidden_code(&self, counted: Option<&Page>, word: WordOf<P>) -> WordOf<P> {
        let format = self.cx.format();
        let Entry::Leaf { pfn, attrs } = format.decode(word, 1) else {
            return word;
        };
        let published = cfg!(mm_mutant = "fork_publishes_hidden_code");
        let prot = visible(counted.filter(|_| !published), attrs.prot);
        if prot == attrs.prot {
            return word;
        }
        if prot.is_empty() {
            let kept = NonPresent::prot_none(pfn, attrs.flags);
            return format.encode_nonpresent(kept).unwrap_or(word);
        }
        format.with_prot(word, prot, 1).unwrap_or(word)
    }

    /// Counts the child's entry.
    fn share(&mut self, page: &Page) -> Result<(), OutOfMemory> {
        get_both(page)?;
        if page.has(PageFlags::ANON) {
            #[cfg(not(mm_mutant = "exclusive_after_fork"))]
            page.clear(PageFlags::EXCLUSIVE);
            self.copied.anon = self.copied.anon.saturating_add(1);
        } else {
            self.copied.file = self.copied.file.saturating_add(1);
        }
        Ok(())
    }

    /// Counts the child's entry of a frame that the kernel entered by itself: one
    /// reference, which comes back as any other does ([`TlbGather`]).
    fn share_kernels(&self, entry: Entry) -> Result<(), OutOfMemory> {
        let page = entry.counted().and_then(|pfn| self.cx.frames().page(pfn));
        match page.filter(|page| page.kind() == Kind::Kernel) {
            Some(page) => page.get_refs(1).map_err(|_| OutOfMemory),
            None => Ok(()),
        }
    }

    /// Takes WRITE from the parent's entry.
    fn protect(&mut self, page: crate::addr::Vpn) {
        if self.old.write_protect(self.gather.tlb(), page) {
            #[cfg(not(mm_mutant = "fork_without_flush"))]
            self.gather
                .flush_range(PageRange::new(page, page.saturating_add(1)));
        }
    }
}

/// Takes a reference and a map count, or neither.
fn get_both(page: &Page) -> Result<(), OutOfMemory> {
    page.get_refs(1).map_err(|_| OutOfMemory)?;
    if page.user().add_maps(1).is_err() {
        let last = page.put_refs(1);
        debug_assert!(!last, "the parent's entry holds a reference");
        return Err(OutOfMemory);
    }
    Ok(())
}
