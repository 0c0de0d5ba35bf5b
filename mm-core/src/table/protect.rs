//! Changing the rights of ranges.
//!
//! Runs that lie in the range stay runs, others are broken (`run`).
//!
//! A leaf whose rights shrink is flushed before the verb returns; rights that
//! only grow are left to be discovered by a spurious fault. `Prot::NONE`
//! turns a leaf into a non-present entry that keeps frame, accessed and dirty
//! state, because most hardware cannot say "present, no access"; any other
//! right turns it back.

use super::TableGuard;
use super::cursor::{CursorMut, TableError, Why};
use crate::format::{
    AttrFlags, Attrs, Entry, FormatError, NonPresent, NonPresentKind, PageTableFormat, TableOwner,
};
use crate::platform::Platform;
use crate::prot::{MemType, Prot};
use crate::range::PageRange;
use crate::tlb::hull;
use core::ops::Range;

type FormatWord<P> = <<P as Platform>::Format as PageTableFormat>::Word;

impl<P: Platform> CursorMut<'_, '_, P> {
    /// Gives the mapped pages up to the end of the range these rights; pages
    /// that are not mapped, swapped or guarded stay as they are.
    ///
    /// # Errors
    /// [`TableError`] when a block cannot be shattered or the rights cannot be
    /// said (also `NONE` for device memory and `SPECIAL` pages); nothing is
    /// changed.
    ///
    /// # Locks
    /// Takes tables' locks (inner); none may be held.
    pub fn protect(&mut self, prot: Prot) -> Result<(), TableError> {
        self.check_rights(prot)?;
        self.shatter_edges()?;
        let whole = self.range;
        let mut flush = PageRange::default();
        while let Some(guard) = self.table.lock_run(self.range) {
            let (end, lost) = self.protect_table(&guard, prot);
            flush = hull(flush, lost);
            drop(guard);
            self.range = self.range.from(end);
        }
        self.range = PageRange::new(whole.end(), whole.end());
        #[cfg(not(mm_mutant = "table_protect_without_flush"))]
        if !flush.is_empty() {
            self.tlb.flush_pages(self.table.cx, flush);
        }
        Ok(())
    }

    /// Finds out before the first change whether all can be done.
    fn check_rights(&self, prot: Prot) -> Result<(), TableError> {
        let format = self.table.cx.format();
        if prot != Prot::NONE {
            let sample = format.encode_leaf(crate::addr::Pfn::new(0), self.attrs(prot), 1);
            return match sample {
                Err(e) => Err(Self::error(self.at(), Why::Format(e))),
                Ok(_) => Ok(()),
            };
        }
        let mut refused = None;
        self.as_cursor().visit(|v| {
            if let Entry::Leaf { attrs, .. } = v.entry {
                let plain = attrs.mem == MemType::WriteBack
                    && !attrs.flags.contains(AttrFlags::SPECIAL)
                    && v.level == 1;
                if !plain {
                    refused.get_or_insert(v.pages.start());
                }
            }
        });
        match refused {
            Some(at) => Err(Self::error(at, Why::Format(FormatError::Rights))),
            None => Ok(()),
        }
    }

    /// The attributes of a page that comes back from `NONE`.
    fn attrs(&self, prot: Prot) -> Attrs {
        match self.table.owner {
            TableOwner::User => Attrs::user(prot),
            TableOwner::Kernel => Attrs::kernel(prot),
        }
    }

    /// Changes entries up to the next table; returns the page to go on from
    /// and the pages that lost rights.
    fn protect_table(
        &self,
        guard: &TableGuard<'_, '_, P>,
        prot: Prot,
    ) -> (crate::addr::Vpn, PageRange) {
        let format = self.table.cx.format();
        let level = guard.level();
        let mut lost: Option<(usize, usize)> = None;
        let mut end = guard.range().end();
        let changed = |slots: Range<usize>, old, _| {
            let last = slots.end.saturating_sub(1);
            // From the first loss on, what only gained rights is flushed
            // too: cheaper than looking at each.
            match &mut lost {
                Some((_, end)) => *end = last,
                None if loses_rights(format, old, prot, level) => lost = Some((slots.start, last)),
                None => {}
            }
        };
        let slots = guard.slots(self.range);
        let table = if level == 1 {
            // The level as a constant: most of a decode falls away.
            guard.replace_slots(
                self.tlb,
                slots,
                |old| self.with_rights(old, prot, 1),
                changed,
            )
        } else {
            let change = |old| self.with_rights(old, prot, level);
            guard.replace_slots(self.tlb, slots, change, changed)
        };
        if let Some(slot) = table {
            end = guard.page_of(slot).max(self.at());
        }
        let lost = lost.map_or(PageRange::default(), |(first, last)| {
            PageRange::new(guard.page_of(first), guard.page_of(last.saturating_add(1)))
        });
        (end, lost)
    }

    /// Returns a word with other rights; what cannot be said stays.
    #[inline]
    fn with_rights(&self, old: FormatWord<P>, prot: Prot, level: u8) -> FormatWord<P> {
        let format = self.table.cx.format();
        match format.decode(old, level) {
            Entry::Leaf { pfn, attrs } if prot == Prot::NONE => {
                let np = NonPresent::prot_none(pfn, attrs.flags);
                format.encode_nonpresent(np).unwrap_or(old)
            }
            Entry::Leaf { .. } => format.with_prot(old, prot, level).unwrap_or(old),
            Entry::NonPresent(np) if prot != Prot::NONE && np.kind == NonPresentKind::ProtNone => {
                let mut attrs = self.attrs(prot);
                let state = AttrFlags::ACCESSED | AttrFlags::DIRTY;
                attrs.flags = attrs.flags.difference(state) | np.flags();
                np.pfn()
                    .and_then(|pfn| format.encode_leaf(pfn, attrs, 1).ok())
                    .unwrap_or(old)
            }
            _ => old,
        }
    }
}

/// Returns whether a remembered translation of `old` allows more than `prot`.
fn loses_rights<F: PageTableFormat>(format: F, old: F::Word, prot: Prot, level: u8) -> bool {
    match format.decode(old, level) {
        Entry::Leaf { attrs, .. } => !prot.contains(attrs.prot),
        _ => false,
    }
}
