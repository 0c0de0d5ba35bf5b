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
        self.table.detach_covered(whole, gather);
        let mut emptied = Emptied::None;
        while let Some(guard) = self.table.next_leaf(self.range) {
            let full = gather.take_leaves(&guard, self.range);
            if guard.live() == 0 {
                emptied = Emptied::Some;
            }
            let end = full.unwrap_or(guard.range().end());
            drop(guard);
            // Memory for a longer batch, or else another round.
            if full.is_some() && gather.extend().is_err() {
                gather.flush();
            }
            self.range = self.range.from(end);
        }
        self.range = PageRange::new(whole.end(), whole.end());
        if emptied == Emptied::Some {
            self.table.prune_leaves(whole, gather);
        }
        Ok(())
    }
}

/// Whether a table at an edge lost its last entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptied {
    None,
    Some,
}
