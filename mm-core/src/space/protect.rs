//! `protect`: other rights for a range (mprotect(2)).
//!
//! ```text
//! prefix without hole and denial ─► plan ─► limits ─► reserve     may fail
//!      ─► mark ─► commit ─► unlock ─► rewrite entries ─► flush ─► unmark     cannot fail
//! ```
//!
//! The entries are rewritten without the space lock, under the marks alone
//! ([`super::busy`]).
//!
//! Entries are rewritten as the table says; rights that are added beyond it
//! come with the next fault, which decides about copy-on-write (E5: giving
//! WRITE back never makes a shared frame writable).
//!
//! | entry | new rights of the area | becomes |
//! |---|---|---|
//! | leaf | none | PROT_NONE entry, page kept |
//! | leaf, writable | with WRITE | leaf, writable |
//! | leaf | any | leaf with the rights of `page_prot` |
//! | leaf, writable and executable | with WRITE, without EXEC | leaf, writable; code not made visible |
//! | leaf, code not made visible | with EXEC | leaf without EXEC until it faults |
//! | PROT_NONE | any | leaf with the rights of `page_prot` |

use super::AddressSpace;
use super::upkeep::Nodes;
use crate::addr::VirtAddr;
use crate::cx::Cx;
use crate::error::MmError;
use crate::fault::{counted, visible};
use crate::format::{Attrs, Entry, NonPresent, NonPresentKind, PageTableFormat};
use crate::page::Page;
use crate::platform::Platform;
use crate::prot::Prot;
use crate::range::PageRange;
use crate::tlb::TlbGather;
use crate::vma::{DirtyTracking, Edit, Plan, Shape, Vma, VmaFlags};

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Gives a byte range other rights (mprotect(2)).
    ///
    /// # Errors
    /// `Invalid` for an unaligned address; `Unmapped` at the first page
    /// without an area, `Denied` at the first area whose backing does not
    /// allow the rights: then exactly the pages before that address have
    /// been changed, as on Linux. `Limit`, `OutOfMemory`, `NotPermitted` for a sealed
    /// area: nothing has changed.
    ///
    /// # Locks
    /// Takes the space lock for writing, then what [`Self::map`] takes.
    pub fn protect(&self, addr: VirtAddr, len: usize, prot: Prot) -> Result<(), MmError> {
        self.protect_from(addr, len, prot, Begin::Address)
    }

    /// As [`Self::protect`], from the start of the stack that the range begins in
    /// (mprotect(2), `PROT_GROWSDOWN`): what grows down later has the rights, too.
    ///
    /// # Errors
    /// As [`Self::protect`]; `Unmapped` for a range without areas, `Invalid` when its
    /// first area is no stack.
    ///
    /// # Locks
    /// As [`Self::protect`].
    pub fn protect_stack(&self, addr: VirtAddr, len: usize, prot: Prot) -> Result<(), MmError> {
        self.protect_from(addr, len, prot, Begin::StackStart)
    }

    fn protect_from(
        &self,
        addr: VirtAddr,
        len: usize,
        prot: Prot,
        begin: Begin,
    ) -> Result<(), MmError> {
        if !addr.is_page_aligned(self.shift()) {
            return Err(MmError::Invalid(addr));
        }
        if len == 0 {
            return Ok(());
        }
        let asked =
            PageRange::from_bytes(addr, len, self.shift()).map_err(|_| MmError::Unmapped(addr))?;
        let cx = self.mm.cx();
        let nodes = Nodes::new(&cx, self.mm);
        let range = || match begin {
            Begin::Address => Ok(asked),
            Begin::StackStart => self.down_to_start(&nodes, asked),
        };
        let mut layout = self.write_to_be_busy(&cx, || range().unwrap_or(asked));
        // The same again: the lock is held since.
        let range = range()?;
        // Behind a hole and a denied area, too.
        self.check_unsealed(&nodes, range)?;
        let (prefix, stopped) = self.allowed_prefix(&nodes, range, prot);
        if !prefix.is_empty() {
            let change = |area: &Shape| area.protected(prot);
            let node = self.node();
            let plan = Plan::modify(&node.vmas, &nodes, prefix, &change);
            self.check_limits(&layout, &plan.delta())?;
            let delta = plan.delta();
            let mut edit = Edit::reserve(&node.vmas, &nodes, plan)?;
            edit.mark();
            let done = edit.commit();
            self.count(&delta);
            done.stay_marked();
            layout.busy = layout.busy.saturating_add(1);
            drop(layout);
            #[cfg(mm_mutant = "unmark_before_rewrite")]
            self.unmark_busy(&cx, prefix);
            self.rewrite(&cx, &nodes, prefix);
            #[cfg(not(mm_mutant = "unmark_before_rewrite"))]
            self.unmark_busy(&cx, prefix);
        }
        stopped.map_or(Ok(()), Err)
    }

    /// Returns a range from the start of its first area on, which is a stack.
    fn down_to_start(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
    ) -> Result<PageRange, MmError> {
        let vmas = &self.node().vmas;
        let addr = range.start().addr(self.shift());
        let first = vmas.overlapping(nodes, range).next();
        let vma = nodes.vma(first.ok_or(MmError::Unmapped(addr))?);
        if vma.flags().contains(VmaFlags::GROWS_DOWN) {
            Ok(PageRange::new(vma.start(), range.end()))
        } else {
            Err(MmError::Invalid(addr))
        }
    }

    /// Returns the longest prefix that may get the rights, and why it ends.
    fn allowed_prefix(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
        prot: Prot,
    ) -> (PageRange, Option<MmError>) {
        let mut at = range.start();
        for vma in self.node().vmas.overlapping(nodes, range) {
            let vma = nodes.vma(vma);
            if vma.start() > at {
                break;
            }
            if !vma.flags().may().contains(prot) {
                let stop = MmError::Denied(at.addr(self.shift()));
                return (PageRange::new(range.start(), at), Some(stop));
            }
            at = vma.end().min(range.end());
        }
        let stop = (at < range.end()).then(|| MmError::Unmapped(at.addr(self.shift())));
        (PageRange::new(range.start(), at), stop)
    }

    /// Gives the entries of a range the rights of their areas.
    fn rewrite(&self, cx: &Cx<'m, P>, nodes: &Nodes<'_, 'm, P>, range: PageRange) {
        let node = self.node();
        let mut gather = TlbGather::new(cx, &node.tlb);
        let mut left = range;
        while !left.is_empty() {
            // Not for reading: a waiting writer holds readers back, and those who
            // wait for this verb's marks come back as writers without end.
            let layout = node.lock.write(cx, self.key());
            let Some(handle) = node.vmas.find(nodes, left.start()) else {
                debug_assert!(false, "an area that is being protected went away");
                break;
            };
            // The mark keeps it as it is without the lock.
            drop(layout);
            let vma = nodes.vma(handle);
            let part = vma.range().intersect(left);
            self.rewrite_area(cx, vma, part, &mut gather);
            left = left.from(part.end());
        }
        self.released(gather.finish());
    }

    fn rewrite_area(
        &self,
        cx: &Cx<'m, P>,
        vma: &Vma,
        range: PageRange,
        gather: &mut TlbGather<'_, 'm, P>,
    ) {
        let rights = Rights::of(vma);
        let table = self.table(cx);
        let mut at = range.start();
        while let Some(leaf) = table.next_leaf(PageRange::new(at, range.end())) {
            let part = leaf.range().intersect(PageRange::new(at, range.end()));
            let change = |word| rights.apply(cx, word);
            let _all = leaf.replace_slots(gather.tlb(), leaf.slots(part), change, |slots, _, _| {
                #[cfg(not(mm_mutant = "protect_without_flush"))]
                gather.flush_range(leaf.pages_of(&slots));
            });
            at = part.end();
        }
    }
}

/// Where a change of rights begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    Address,
    StackStart,
}

/// What the entries of one area may allow.
struct Rights {
    /// On an entry that must fault on the first store.
    protected: Prot,
    /// Stores are allowed by the area.
    writable: bool,
    mem: crate::prot::MemType,
}

impl Rights {
    fn of(vma: &Vma) -> Self {
        let flags = vma.flags();
        let tracking = if vma.object_raw() == 0 {
            DirtyTracking::None
        } else {
            DirtyTracking::ByFault
        };
        Self {
            protected: flags.page_prot(tracking),
            writable: flags.contains(VmaFlags::WRITE),
            mem: vma.mem(),
        }
    }

    /// Returns the word with the rights of the area; unchanged where the
    /// format cannot say it, which is never more than it said before.
    fn apply<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        word: <P::Format as PageTableFormat>::Word,
    ) -> <P::Format as PageTableFormat>::Word {
        let format = cx.format();
        let entry = format.decode(word, 1);
        match entry {
            Entry::Leaf { pfn, attrs } => {
                let mut prot = self.protected;
                if self.writable {
                    prot |= attrs.prot & Prot::WRITE;
                }
                let published = cfg!(mm_mutant = "protect_publishes_hidden_code");
                if !attrs.prot.contains(Prot::EXEC) && !published {
                    prot = visible(counted(cx, entry), prot);
                }
                let lost = attrs.prot.difference(prot);
                let forgets = lost.contains(Prot::EXEC) && prot.contains(Prot::WRITE);
                #[cfg(mm_mutant = "protect_leaves_code_clean")]
                let forgets = false;
                if forgets {
                    // From here on it holds data, and no store faults.
                    counted(cx, entry).map(Page::code_written);
                }
                if prot.is_empty() {
                    let kept = NonPresent::prot_none(pfn, attrs.flags);
                    return format.encode_nonpresent(kept).unwrap_or(word);
                }
                format.with_prot(word, prot, 1).unwrap_or(word)
            }
            Entry::NonPresent(np) if np.kind == NonPresentKind::ProtNone => {
                let Some(pfn) = np.pfn() else { return word };
                let prot = self.protected.difference(Prot::EXEC);
                if prot.is_empty() {
                    return word;
                }
                let attrs = Attrs::user(prot).with_mem(self.mem).with(np.flags());
                format.encode_leaf(pfn, attrs, 1).unwrap_or(word)
            }
            _ => word,
        }
    }
}
