//! Unmapping ranges.
//!
//! ```text
//!   range      ·····[──────────────────────────────)·····
//!   tables    │  edge  │ detached │ detached │  edge  │
//!               take each  whole, words kept    take each
//! ```
//!
//! Blocks that an end of the range cuts are shattered first: the only step
//! that needs memory, before anything is changed.

use super::cursor::{CursorMut, TableError};
use crate::format::{PageTableFormat, Word};
use crate::platform::Platform;
use crate::range::PageRange;
use crate::tlb::TlbGather;

impl<P: Platform> CursorMut<'_, '_, P> {
    /// Unmaps the pages up to the end of the range into the gather, and frees
    /// tables that become empty. What is unmapped is given back when the
    /// gather is finished; it may flush on the way when it is full.
    ///
    /// # Errors
    /// [`TableError`] when a block cannot be shattered; nothing is unmapped.
    ///
    /// # Locks
    /// Takes tables' locks (inner); none may be held.
    pub fn unmap(&mut self, gather: &mut TlbGather<'_, '_, P>) -> Result<(), TableError> {
        self.shatter_edges()?;
        let whole = self.range;
        gather.reserve(whole.pages());
        self.table.detach_covered(whole, gather);
        while let Some(guard) = self.table.next_leaf(self.range) {
            let format = self.table.cx.format();
            let mut full = None;
            let mut room = gather.room();
            for slot in guard.slots(self.range) {
                if format.load(guard.words(), slot) == Word::ZERO {
                    continue;
                }
                let page = guard.page_of(slot);
                if room == 0 {
                    full = Some(page);
                    break;
                }
                if let Some(taken) = guard.take(page) {
                    room = room.saturating_sub(1);
                    let pushed = gather.push(taken);
                    debug_assert!(pushed.is_ok(), "there was room");
                }
            }
            let end = full.unwrap_or(guard.range().end());
            drop(guard);
            if full.is_some() {
                gather.flush();
            }
            self.range = self.range.from(end);
        }
        self.range = PageRange::new(whole.end(), whole.end());
        self.table.prune(whole, gather);
        Ok(())
    }
}
