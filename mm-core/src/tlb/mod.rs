//! Translations that CPUs remember.
//!
//! A CPU may remember any present entry it could walk to, and any table entry
//! on the way (its paging-structure cache), until it is told to forget. So
//! what an entry led to is freed only after every CPU that may remember it was
//! told, or cannot use it before it drops it. [`SpaceTlb`] knows which CPUs
//! those are; [`TlbGather`] owns what is to be freed, and is the only way from
//! an unmapped entry to a free frame.
//!
//! | file | what it knows |
//! |---|---|
//! | `shootdown` | which CPUs a flush must reach, and which it may leave for later |
//! | `asid` | which tag a CPU loads a space with |
//! | `gather` | what is freed after which flush |
//!
//! A flush is sent in one round: one IPI, firmware call or broadcast for all of
//! an unmap, its edges and its tables together ([`gather`](TlbGather)).

mod asid;
mod gather;
mod shootdown;

pub use asid::AsidPool;
pub(crate) use gather::free_table;
pub use gather::{BATCH, Full, Released, TlbGather};
pub use shootdown::{Remembered, SpaceTlb};

use crate::addr::Vpn;
use crate::cx::Cx;
use crate::format::PageTableFormat;
use crate::platform::Platform;
use crate::range::PageRange;

/// Pages from which on a flush drops everything of the space: one instruction
/// a page costs more than the refills (Linux: `tlb_single_page_flush_ceiling`).
pub const FLUSH_CEILING_PAGES: usize = 33;

/// Which entries on the way to a page a flush of it drops; and so whom it tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Reach {
    /// The page's own: CPUs that may use translations are told.
    #[default]
    Leaves,
    /// Those of the tables above, too: so are CPUs whose walkers may be in the
    /// tables.
    Tables,
}

impl Reach {
    /// Picks by whether tables were unlinked.
    pub(crate) const fn of(tables: bool) -> Self {
        if tables { Self::Tables } else { Self::Leaves }
    }
}

/// What a map owes on machines that remember invalid entries: nothing on all
/// others, where it compiles to nothing.
///
/// Such a machine may also remember that there was no table (RISC-V: a fence
/// with an address reaches leaves only, 10.2.1). Who fills the first entry of a
/// table owes the tables above.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "some machines remember that the page was invalid: settle it"]
pub struct MapFlush {
    pages: PageRange,
    reach: Reach,
}

impl MapFlush {
    /// Nothing is owed.
    pub const NONE: Self = Self {
        pages: PageRange::new(Vpn::new(0), Vpn::new(0)),
        reach: Reach::Leaves,
    };

    /// Owes pages of a table that others may have been walking.
    pub(crate) fn of(pages: PageRange) -> Self {
        Self {
            pages,
            reach: Reach::Leaves,
        }
    }

    /// Owes pages, of which some table may be new.
    pub(crate) fn of_new_table(pages: PageRange) -> Self {
        Self {
            pages,
            reach: Reach::Tables,
        }
    }

    /// Owes both debts: one range around them.
    pub fn join(self, other: Self) -> Self {
        Self {
            pages: hull(self.pages, other.pages),
            reach: if self.reach == Reach::Leaves {
                other.reach
            } else {
                self.reach
            },
        }
    }

    /// Pays on this CPU. The others pay when they fault: the fault is spurious
    /// and ends in [`SpaceTlb::flush_spurious`].
    pub fn settle<P: Platform>(self, cx: &Cx<'_, P>, tlb: &SpaceTlb) {
        if !self.pages.is_empty() && !cfg!(mm_mutant = "map_is_not_flushed") {
            tlb.flush_here(cx, self.pages, self.reach);
        }
    }

    /// Pays on every CPU: for kernel mappings, whose faults nobody resolves.
    /// Where absence is remembered, always with the tables: that another CPU's
    /// map just made one there, this one cannot know.
    pub fn settle_everywhere<P: Platform>(self, cx: &Cx<'_, P>, tlb: &SpaceTlb) {
        if !self.pages.is_empty() && !cfg!(mm_mutant = "kernel_map_is_not_shown") {
            let tables = !cfg!(mm_mutant = "kernel_map_keeps_tables");
            let reach = Reach::of(cx.format().caches_invalid() && tables);
            if !tlb.flush_everywhere(cx, self.pages, reach) {
                // At boot no CPU has said yet that it uses kernel mappings: this one may.
                #[cfg(not(mm_mutant = "first_kernel_map_is_not_shown"))]
                tlb.flush_here(cx, self.pages, reach);
            }
        }
    }
}

/// Returns the smallest range around both; an empty one counts for nothing.
pub(crate) fn hull(a: PageRange, b: PageRange) -> PageRange {
    if a.is_empty() {
        b
    } else if b.is_empty() {
        a
    } else {
        PageRange::new(a.start().min(b.start()), a.end().max(b.end()))
    }
}
