//! One page table: a tree of table pages that hardware walks too.
//!
//! ```text
//!            root (level n)                     index of a page: bits from the top
//!           ┌──┬──┬──┬──┐
//!           │  │  │ ─┼─┐│   Table
//!           └──┴──┴──┘ │
//!                      ▼ level 2
//!           ┌──┬──┬──┬──┐
//!           │──┼──│LL│  │   Table, -, Leaf (a block), -
//!           └─┼┴──┴──┴──┘
//!             ▼ level 1
//!           ┌──┬──┬──┬──┐
//!           │L │np│  │L │   Leaf, NonPresent, Empty, Leaf
//!           └──┴──┴──┴──┘
//! ```
//!
//! Each table page has a record ([`crate::page::TableRecord`]): a lock, the
//! number of entries that are not empty (`live`), its level, and DEAD.
//!
//! # Who may do what
//!
//! | who | holds | may |
//! |---|---|---|
//! | hardware | - | read any word, set accessed and dirty in a leaf |
//! | [`PageTable::translate`], user-copy probe | a pin | read words |
//! | holder of a guard ([`LeafGuard`]) | the table's lock, and it is not DEAD | read and change words of that table, and `live` |
//!
//! # Going down, then locking
//!
//! ```text
//!   pin ─► load root[i] (acquire) ─► load [j] ─► ... ─► lock target ─► DEAD? ─► unpin
//!    ▲                                                        │ yes
//!    └────────────────────────────────────────────────────────┘ again from the root
//! ```
//!
//! The way down takes no lock: the pin keeps every table that can be found
//! from being freed. Whoever unlinks a table sets DEAD under its lock, so a
//! locked table that is not DEAD is in the tree and stays there until unlocked.
//!
//! A CPU remembers the leaf tables that it locked last (`page::hints`), and
//! looks there first: the record of a level-1 table says, from when it is linked
//! until it is DEAD, which space's and which pages' it is. A pinned CPU that reads
//! that has found the table as if it had come down to it.
//!
//! # Life of a table page
//!
//! ```text
//!  buddy ─► zeroed ─► linked ─────────────► DEAD, unlinked ─► gather ─► buddy
//!            (private)  store with release    under parent's      flush, then
//!                       under parent's lock   and own lock        grace period
//! ```
//!
//! *Linked* (`link`): tables are allocated before any lock; then the parent is
//! locked, tested for DEAD and for the slot still being empty, and the pointer
//! stored with release, so that who follows it sees zeros. *Unlinked*
//! (`prune`): a table that is empty, or one whose pages are all
//! being unmapped, words kept. There is no other way to a freed table than
//! [`crate::tlb::TlbGather`], and [`Detached`] can do nothing but go there.
//!
//! # Range verbs
//! [`CursorMut`] maps, unmaps, protects and harvests ranges, with one descent
//! a table page; faults, fork and reclaim work on guards directly.
//!
//! # Runs
//! Aligned entries in a row may be marked so that one TLB entry holds them
//! together (`run`). A change of all keeps the run; any other breaks it first.
//!
//! # Accessed and dirty
//! Hardware may set them between our load and our store. A word in which it
//! has nothing left to set (`ad_settled`), or that it faults on, is replaced
//! by a plain store; any other by compare-and-exchange, and taken by a swap.
//!
//! # The kernel half
//! [`PageTable::create`] for the kernel fills each of its root slots with a
//! table once; user roots copy these words. They never change and those tables
//! are never freed, so nothing has to be kept in step. Where hardware has a
//! second root for the kernel (`kernel_root_index() == entries(root)`), there is
//! nothing to share: user roots copy nothing (`kernel`).

mod cursor;
mod harvest;
mod huge;
mod kernel;
mod link;
mod lock;
mod map;
mod protect;
mod prune;
mod remap;
mod run;
mod unmap;
mod walk;
mod window;

pub use cursor::{Cursor, CursorMut, TableError, Visited, Why};
pub use harvest::{Harvest, Harvested};
pub use kernel::KernelSpace;
pub use lock::{LeafGuard, TableGuard, Taken};
pub use prune::Detached;
pub(crate) use run::Spread;
pub(crate) use walk::stretch;

use crate::addr::{Pfn, Vpn};
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::format::{Cell, PageTableFormat, TableOwner, Word};
use crate::page::PageFlags;
use crate::platform::{PhysMemory, Platform};
use crate::range::PageRange;
use crate::tlb::SpaceTlb;

/// The most levels a format may have.
pub const MAX_LEVELS: usize = 8;

/// A view of one page table, through which one verb works on it.
pub struct PageTable<'c, 'm, P: Platform> {
    cx: &'c Cx<'m, P>,
    root: Pfn,
    owner: TableOwner,
    space: u32,
}

impl<P: Platform> Clone for PageTable<'_, '_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for PageTable<'_, '_, P> {}

impl<'c, 'm, P: Platform> PageTable<'c, 'm, P> {
    /// Makes a root. That of a user gets the kernel's root entries, if the
    /// machine has a kernel table and they share a root; that of the kernel
    /// gets a table in each root slot of the kernel half and becomes the
    /// machine's.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing is left allocated.
    pub fn create(cx: &'c Cx<'m, P>, owner: TableOwner, space: u32) -> Result<Pfn, OutOfMemory> {
        let format = cx.format();
        let root = alloc_table(cx, format.levels(), space)?;
        let table = Self::view(cx, root, owner, space);
        match owner {
            TableOwner::User => table.copy_kernel_slots(),
            TableOwner::Kernel => {
                if let Err(e) = table.fill_kernel_slots() {
                    table.free_fresh();
                    return Err(e);
                }
                cx.frames().set_kernel_root(root);
            }
        }
        Ok(root)
    }

    /// Looks at a table that [`Self::create`] made. `space` is the number it was
    /// made with, which no other user table has: CPUs remember leaf tables by it.
    pub const fn view(cx: &'c Cx<'m, P>, root: Pfn, owner: TableOwner, space: u32) -> Self {
        Self {
            cx,
            root,
            owner,
            space,
        }
    }

    /// Returns the root's frame: what the kernel loads into the hardware.
    pub const fn root(&self) -> Pfn {
        self.root
    }

    /// Returns the number of the space; zero is the kernel's.
    pub(crate) const fn space(&self) -> u32 {
        self.space
    }

    /// Returns the context of the verb.
    pub const fn cx(&self) -> &'c Cx<'m, P> {
        self.cx
    }

    /// Returns the pages of user space.
    pub fn user_pages(&self) -> PageRange {
        PageRange::new(Vpn::new(0), self.cx.format().user_end())
    }

    /// Frees the root of a user space from which everything was unmapped and
    /// that no CPU has loaded any more.
    ///
    /// # Errors
    /// [`NotEmpty`] when a user entry is left, a CPU has it loaded, or it is
    /// the kernel's; nothing is changed.
    ///
    /// # Locks
    /// No inner one, no pin.
    pub fn destroy(self, tlb: &SpaceTlb) -> Result<(), NotEmpty> {
        let Some(page) = self.cx.frames().page(self.root) else {
            return Err(NotEmpty);
        };
        let record = page.table();
        let kept = self.kernel_slots_in_use();
        if self.owner == TableOwner::Kernel || record.live() != kept || !tlb.cpus().is_empty() {
            return Err(NotEmpty);
        }
        page.set(PageFlags::DEAD);
        // Walkers that took the root before the space was given up.
        self.cx.synchronize();
        crate::tlb::free_table(self.cx, self.root);
        Ok(())
    }

    /// Returns whether the page may be asked of this table at all.
    fn reaches(&self, page: Vpn) -> bool {
        let format = self.cx.format();
        match self.owner {
            TableOwner::User => page < format.user_end(),
            TableOwner::Kernel if is_split(format) => {
                page >= format.user_end() && above_reach(format, page) == Above::Ones
            }
            TableOwner::Kernel => {
                format.index(page, format.levels()) >= format.kernel_root_index()
                    && above_reach(format, page) != Above::Mixed
            }
        }
    }

    fn words(&self, table: Pfn, level: u8) -> &'m [Cell<P::Format>] {
        self.cx
            .platform()
            .memory()
            .words(table, self.cx.format().table_order(level))
    }

    fn kernel_slots(&self) -> core::ops::Range<usize> {
        let format = self.cx.format();
        format.kernel_root_index()..format.entries(format.levels())
    }

    fn kernel_slots_in_use(&self) -> u32 {
        let format = self.cx.format();
        let words = self.words(self.root, format.levels());
        let used = self
            .kernel_slots()
            .filter(|&i| format.load(words, i) != Word::ZERO);
        u32::try_from(used.count()).unwrap_or(u32::MAX)
    }

    fn copy_kernel_slots(&self) {
        let format = self.cx.format();
        let Some(kernel) = self.cx.frames().kernel_root() else {
            return;
        };
        let (from, to) = (
            self.words(kernel, format.levels()),
            self.words(self.root, format.levels()),
        );
        for i in self.kernel_slots() {
            format.store(to, i, format.load(from, i));
        }
        self.set_root_live();
    }

    fn fill_kernel_slots(&self) -> Result<(), OutOfMemory> {
        let format = self.cx.format();
        let level = format.levels();
        let words = self.words(self.root, level);
        for i in self.kernel_slots() {
            let child = alloc_table(self.cx, level.saturating_sub(1), self.space)?;
            let Ok(word) = format.encode_table(child, level, self.owner) else {
                crate::tlb::free_table(self.cx, child);
                return Err(OutOfMemory);
            };
            format.store(words, i, word);
        }
        self.set_root_live();
        Ok(())
    }

    fn set_root_live(&self) {
        if let Some(page) = self.cx.frames().page(self.root) {
            page.table().set_live(self.kernel_slots_in_use());
        }
    }

    /// Gives back a root that nobody has seen, and the tables in its slots.
    fn free_fresh(&self) {
        let format = self.cx.format();
        let words = self.words(self.root, format.levels());
        for i in self.kernel_slots() {
            if let crate::format::Entry::Table(child) =
                format.decode(format.load(words, i), format.levels())
            {
                crate::tlb::free_table(self.cx, child);
            }
        }
        crate::tlb::free_table(self.cx, self.root);
    }
}

/// A root could not be freed: something still hangs on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotEmpty;

/// Returns whether the kernel has a root of its own, in a register of its own,
/// and no part of user roots (Arm: TTBR1).
fn is_split<F: PageTableFormat>(format: F) -> bool {
    format.kernel_root_index() >= format.entries(format.levels())
}

/// The bits of a page number above the table's reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Above {
    Zeros,
    /// Also where there are none.
    Ones,
    Mixed,
}

fn above_reach<F: PageTableFormat>(format: F, page: Vpn) -> Above {
    let reach = format.index_shift(format.levels().saturating_add(1));
    let above = page.as_usize().checked_shr(reach).unwrap_or(0);
    let width = usize::BITS
        .saturating_sub(format.page_shift())
        .saturating_sub(reach);
    let ones = 1usize.checked_shl(width).unwrap_or(0).wrapping_sub(1);
    match above {
        n if n == ones => Above::Ones,
        0 => Above::Zeros,
        _ => Above::Mixed,
    }
}

/// Allocates a zeroed table page that nobody else knows.
fn alloc_table<P: Platform>(cx: &Cx<'_, P>, level: u8, space: u32) -> Result<Pfn, OutOfMemory> {
    let order = cx.format().table_order(level);
    let reach = cx.format().table_reach(level);
    let pfn = cx.frames().alloc_below(cx, order, reach)?;
    let page = cx.frames().page(pfn).ok_or(OutOfMemory)?;
    #[cfg(not(mm_mutant = "table_is_not_zeroed"))]
    cx.platform()
        .memory()
        .make_words::<Cell<P::Format>>(pfn, order);
    page.table().init(level, order, space);
    Ok(pfn)
}
