//! The node of one address space (Linux: mm_struct).
//!
//! ```text
//!   AddressSpace ──users──►┌────────────── SpaceNode ──────────────┐
//!   Active, SpaceRef ─refs►│ lock: Layout (brk, limits)            │
//!                          │ vmas: tree     tlb: who runs it        │
//!                          │ root: tables   rss, totals: counts     │
//!                          └───────────────────────────────────────┘
//! ```
//!
//! Two counts, as in Linux: `users` are those who run in the space (threads,
//! vfork children, whoever reads another process' memory); the last one
//! unmaps everything. `refs` are those who need the node and its root table to
//! stay: all users together hold one, each CPU that has the root loaded holds
//! one (also lazily, while it runs a kernel thread). The last one frees the
//! root.
//!
//! | state | users | refs | what is true |
//! |---|---|---|---|
//! | free | 0 | 0 | in the pool |
//! | alive | ≥ 1 | ≥ 1 | areas may be mapped |
//! | emptied | 0 | ≥ 1 | no area, no user table; the root is still loaded somewhere |

use super::VmaTree;
use super::limits::{PageCount, SpaceLimits};
use crate::addr::Pfn;
use crate::platform::Platform;
use crate::pool::Node;
use crate::sync::{AtomicU32, AtomicUsize, Class, Mutex, Ordering, RwLock};
use crate::tlb::{Released, SpaceTlb};

/// One address space. All of it is atomics or behind a lock.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(512)))]
pub struct SpaceNode {
    users: AtomicU32,
    refs: AtomicU32,
    root: AtomicUsize,
    free: AtomicU32,
    /// The space lock: readers are faults and queries, writers change areas.
    pub(crate) lock: RwLock<Layout>,
    /// Held while an area gets its first anon_vma under the space lock for reading.
    pub(crate) anon: Mutex<()>,
    /// The areas, by address.
    pub(crate) vmas: VmaTree,
    /// Which CPUs run the space.
    pub(crate) tlb: SpaceTlb,
    /// What is mapped and what is present.
    pub(crate) counts: Counts,
}

/// What the space lock guards besides the areas.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The bounds.
    pub limits: SpaceLimits,
    /// Where the heap starts, and its current end, in bytes.
    pub brk: Option<(usize, usize)>,
    /// Verbs that left areas marked while they work without the lock.
    pub(crate) busy: u32,
    /// Verbs that wait until nobody is busy: others do not become busy then.
    pub(crate) awaiting: u32,
}

impl Layout {
    /// That of a space in which nothing may be mapped yet.
    pub(crate) const NONE: Self = Self {
        limits: SpaceLimits::NONE,
        brk: None,
        busy: 0,
        awaiting: 0,
    };
}

/// The page counts of one space.
#[derive(Debug)]
pub struct Counts {
    /// Pages of all areas.
    pub total: PageCount,
    /// Pages of private writable areas that are not stacks.
    pub data: PageCount,
    /// Pages of locked areas.
    pub locked: PageCount,
    /// Areas.
    pub areas: PageCount,
    /// Present anonymous pages.
    pub anon: PageCount,
    /// Present pages of objects.
    pub file: PageCount,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<SpaceNode>() == 512);

impl Node for SpaceNode {
    const NAME: &'static str = "space";

    fn new() -> Self {
        Self {
            users: AtomicU32::new(0),
            refs: AtomicU32::new(0),
            root: AtomicUsize::new(0),
            free: AtomicU32::new(0),
            lock: RwLock::new(Class::Space, Layout::NONE),
            anon: Mutex::new(Class::AnonRoot, ()),
            vmas: VmaTree::new(),
            tlb: SpaceTlb::new(),
            counts: Counts::new(),
        }
    }

    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

impl SpaceNode {
    /// Makes a node from the pool alive, with one user.
    pub(crate) fn start(&self, root: Pfn) {
        self.tlb.reset();
        self.counts.reset();
        self.root.store(root.as_usize(), Ordering::Relaxed);
        self.users.store(1, Ordering::Relaxed);
        self.refs.store(1, Ordering::Release);
    }

    /// Returns the root table.
    pub fn root(&self) -> Pfn {
        Pfn::new(self.root.load(Ordering::Relaxed) as u64)
    }

    /// Returns the number of users.
    pub fn users(&self) -> u32 {
        self.users.load(Ordering::Acquire)
    }

    /// Adds a user next to one that the caller is or holds.
    pub(crate) fn get_user(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up a user; true when it was the last.
    #[must_use = "the last user unmaps everything"]
    pub(crate) fn put_user(&self) -> bool {
        #[cfg(mm_mutant = "users_counted_in_two_steps")]
        let was = {
            let was = self.users.load(Ordering::Acquire);
            self.users.store(was.saturating_sub(1), Ordering::Release);
            was
        };
        #[cfg(not(mm_mutant = "users_counted_in_two_steps"))]
        let was = self.users.fetch_sub(1, Ordering::AcqRel);
        was == 1
    }

    /// Counts what a gather gave back.
    pub(crate) fn released<P: Platform>(&self, platform: &P, released: Released) {
        self.counts.anon.sub(released.anon_pages);
        self.counts.file.sub(released.file_pages);
        platform.uncharge(released.anon_pages);
    }

    /// Adds a reference.
    pub(crate) fn get_ref(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up a reference; true when it was the last.
    #[must_use = "the last reference frees the root"]
    pub(crate) fn put_ref(&self) -> bool {
        self.refs.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl Counts {
    fn new() -> Self {
        Self {
            total: PageCount::new(),
            data: PageCount::new(),
            locked: PageCount::new(),
            areas: PageCount::new(),
            anon: PageCount::new(),
            file: PageCount::new(),
        }
    }

    fn reset(&self) {
        for count in [
            &self.total,
            &self.data,
            &self.locked,
            &self.areas,
            &self.anon,
            &self.file,
        ] {
            count.set(0);
        }
    }
}
