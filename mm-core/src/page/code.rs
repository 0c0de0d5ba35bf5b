//! Whether instruction fetches see what a page holds.
//!
//! Where instruction caches are not coherent, what was written must be made
//! visible before it is fetched ([`Platform::sync_code`]). The contract: *an
//! executable entry is published only after `sync_code` since the last write
//! through the library*. Whoever writes says so afterwards, whoever publishes
//! looks at `CODE_CLEAN` under the table's lock, and leaves EXEC out while it
//! is clear: the first fetch faults, makes the code visible, and adds it.
//!
//! ```text
//!                  show                     nobody wrote
//!   (written) ────────────► SYNC, FRESH ─────────────────► CODE_CLEAN
//!       ▲                        │ written                     │
//!       │      wrote meanwhile   ▼                             │
//!       ├──────────────────── SYNC                             │
//!       └────────────────────────────── written ───────────────┘
//! ```
//!
//! SYNC admits one at a time, so that FRESH speaks of one `sync_code`: a write
//! that ends while it runs takes FRESH away, and the page stays unclean.
//!
//! A page that was ever shown may be executed somewhere right now, by whatever
//! mapping: who writes to it shows it again at once ([`rewritten`]).
//!
//! What a *program* stores is its own to make visible, as on every system
//! (Arm ARM B2.4.4; the RISC-V manual's FENCE.I). Where the library hands out the right to
//! store, to a load too where entries come with it, or takes EXEC from an entry that keeps it, it
//! forgets that the page was clean all the same, so that a page
//! that goes RX, RW, RX, or RWX, RW, RX, is made visible again. (Not that of stores by another
//! mapping that had the right all along.) A write by the library that is
//! under way while another thread publishes the page is such a race of programs
//! too: it may be seen in part.
//!
//! [`Platform::sync_code`]: crate::platform::Platform::sync_code

use super::record::{Page, PageFlags};
use crate::addr::Pfn;
use crate::platform::Platform;

/// Notes that the library has written to a page, and makes what it wrote
/// visible if the page was ever executed.
///
/// # Locks
/// No inner one. The caller keeps the page, or does not mind.
pub(crate) fn rewritten<P: Platform>(platform: &P, pfn: Pfn, page: &Page) {
    let shown = page.code_written();
    if shown
        && !cfg!(mm_mutant = "running_code_is_not_shown")
        && !page.show_code(|| platform.sync_code(pfn))
    {
        // Somebody else is at it, perhaps since before the write.
        platform.sync_code(pfn);
    }
}

impl Page {
    /// Notes that the page was written to, or may be by a program from here on.
    /// Returns whether it was made visible before: then it may be executed now, and
    /// who wrote shows it again.
    ///
    /// One step does both, on the word that [`Self::show_code`] changes first: either
    /// that step is seen here, or the one who shows sees all that was written.
    pub fn code_written(&self) -> bool {
        #[cfg(mm_mutant = "shown_is_looked_at_first")]
        let first = self.flags();
        let gone = PageFlags::CODE_CLEAN | PageFlags::CODE_FRESH;
        #[cfg(mm_mutant = "write_leaves_code_clean")]
        let gone = PageFlags::CODE_FRESH;
        #[cfg(mm_mutant = "write_leaves_code_fresh")]
        let gone = PageFlags::CODE_CLEAN;
        let before = self.clear(gone);
        #[cfg(mm_mutant = "shown_is_looked_at_first")]
        let (_, before) = (before, first);
        before.contains(PageFlags::CODE_SHOWN)
    }

    /// Runs `sync`, which makes the instructions in the page visible, unless
    /// they are. False when somebody else is at it or wrote meanwhile: look
    /// again. The caller keeps the page.
    pub fn show_code(&self, sync: impl FnOnce()) -> bool {
        if self.has(PageFlags::CODE_CLEAN) {
            return true;
        }
        if self
            .set(PageFlags::CODE_SYNC)
            .contains(PageFlags::CODE_SYNC)
            && !cfg!(mm_mutant = "two_show_code_at_once")
        {
            return false;
        }
        self.set(PageFlags::CODE_FRESH | PageFlags::CODE_SHOWN);
        #[cfg(not(mm_mutant = "code_is_not_shown"))]
        sync();
        #[cfg(mm_mutant = "fresh_after_the_show")]
        self.set(PageFlags::CODE_FRESH);
        let both = PageFlags::CODE_SYNC | PageFlags::CODE_FRESH;
        let clean = self.exchange_flags(both, PageFlags::CODE_CLEAN);
        if !clean {
            self.clear(PageFlags::CODE_SYNC);
        }
        clean
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Page, PageFlags};

    #[test]
    fn a_write_while_code_is_made_visible_is_not_forgotten() {
        let page = Page::new();
        assert!(!page.code_written(), "nobody can execute it yet");
        assert!(page.show_code(|| ()) && page.has(PageFlags::CODE_CLEAN));
        assert!(page.show_code(|| panic!("it is visible")));
        assert!(page.code_written(), "it may be executed");
        assert!(!page.has(PageFlags::CODE_CLEAN));
        assert!(!page.show_code(|| assert!(page.code_written())));
        assert!(!page.has(PageFlags::CODE_CLEAN));
        // The second comes while the first is at it, and one after a write.
        let shown = page.show_code(|| {
            assert!(page.code_written());
            assert!(!page.show_code(|| panic!("one at a time")));
        });
        assert!(!shown && !page.has(PageFlags::CODE_CLEAN));
        assert!(page.show_code(|| ()));
        let left = PageFlags::CODE_SYNC | PageFlags::CODE_FRESH;
        assert!(!page.flags().intersects(left));
    }
}
