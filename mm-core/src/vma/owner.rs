//! The node of one address space (Linux: mm_struct).
//!
//! ```text
//!   AddressSpace ──users──►┌────────────── SpaceNode ──────────────┐
//!   Active, SpaceRef ─refs►│ lock: Layout (brk, limits, locks)     │
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
//!
//! **Present pages** are counted by faults on all CPUs, and taken off by who
//! unmaps. A fault leaves what it counted with its CPU, which brings it to the
//! node when it is much or when a fault of another space comes
//! ([`SpaceNode::count`]). Who needs the exact number has all CPUs bring theirs
//! first ([`SpaceNode::settle`]); it stays exact as long as no fault is inside
//! an area. The last user does that too, when there is no area any more: so
//! what a CPU keeps always belongs to a space that lives, and its node may be
//! reached by its number.

use super::limits::{PageCount, PresentCount, SpaceLimits};
use super::{VmaFlags, VmaTree};
use crate::addr::Pfn;
use crate::cx::Cx;
use crate::page::{OnCpu, PresentChange};
use crate::platform::Platform;
use crate::pool::{Handle, Node, Pool};
use crate::sync::{AtomicU32, AtomicUsize, Class, Mutex, Ordering, RefCount, RwLock};
use crate::tlb::{Released, SpaceTlb};

/// One address space. All of it is atomics or behind a lock.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(512)))]
pub struct SpaceNode {
    users: RefCount,
    refs: RefCount,
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
    /// Those of [`VmaFlags::ANY_LOCK`] that areas made later have (Linux: def_flags).
    pub(crate) later_locks: VmaFlags,
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
        later_locks: VmaFlags::empty(),
        busy: 0,
        awaiting: 0,
    };

    /// Returns the flags of an area that is made now: locked as it was said of those that
    /// come later, and never where its pages cannot be taken away.
    pub(crate) fn new_area(&self, flags: VmaFlags) -> VmaFlags {
        if flags.intersects(VmaFlags::SPECIAL) {
            flags.difference(VmaFlags::ANY_LOCK)
        } else {
            flags | self.later_locks
        }
    }
}

/// The page counts of one space: on one line of a cache, so that who changes areas writes one more.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(64)))]
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
    pub anon: PresentCount,
    /// Present pages of objects.
    pub file: PresentCount,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<SpaceNode>() == 512);

impl Node for SpaceNode {
    const NAME: &'static str = "space";

    fn new() -> Self {
        Self {
            users: RefCount::new(),
            refs: RefCount::new(),
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
        self.users.start();
        self.refs.start();
    }

    /// Returns the root table.
    pub fn root(&self) -> Pfn {
        Pfn::new(self.root.load(Ordering::Relaxed) as u64)
    }

    /// Returns the number of users.
    pub fn users(&self) -> u32 {
        self.users.load()
    }

    /// Adds a user next to one that the caller is or holds.
    pub(crate) fn get_user(&self) {
        self.users.get();
    }

    /// Gives up a user; true when it was the last.
    #[must_use = "the last user unmaps everything"]
    pub(crate) fn put_user(&self) -> bool {
        self.users.put()
    }

    /// Counts what a gather gave back.
    pub(crate) fn released<P: Platform>(&self, platform: &P, released: Released) {
        self.counts.anon.sub(released.anon_pages);
        self.counts.file.sub(released.file_pages);
        platform.uncharge(released.anon_pages);
    }

    /// Counts pages that a fault made present, or took away, in this space, whose
    /// number is `space`; its CPU keeps that for a while.
    ///
    /// # Locks
    /// Takes the CPU's `Present`. The caller is a user of the space.
    pub(crate) fn count<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        spaces: &Pool<SpaceNode>,
        space: u32,
        change: PresentChange,
    ) {
        let frames = cx.frames();
        let here = OnCpu::enter(cx);
        let Some((cpu, node)) = frames.this_cpu(&here) else {
            return self.counts.change(change);
        };
        let mut batch = node.present.lock(cx, cpu);
        let Some((whose, change)) = batch.count(space, change) else {
            return;
        };
        #[cfg(mm_mutant = "batch_is_paid_in_two_steps")]
        let batch = {
            drop(batch);
            node.present.lock(cx, cpu)
        };
        // Under the lock, so that nobody who settles misses it: and so it is alive.
        match Handle::from_raw(whose) {
            Some(other) if whose != space => spaces.get(frames, other).counts.change(change),
            _ => self.counts.change(change),
        }
        drop(batch);
    }

    /// Brings what CPUs keep of this space's counts of present pages, whose
    /// number is `space`.
    ///
    /// # Locks
    /// Takes `Present` of each CPU in turn.
    pub(crate) fn settle<P: Platform>(&self, cx: &Cx<'_, P>, space: u32) {
        for (cpu, node) in cx.frames().cpu_nodes() {
            let mut batch = node.present.lock(cx, cpu);
            if let Some(change) = batch.take(space) {
                self.counts.change(change);
            }
        }
    }

    /// Settles for the last time: no page is present, and none will be.
    ///
    /// # Locks
    /// As [`Self::settle`].
    pub(crate) fn settle_empty<P: Platform>(&self, cx: &Cx<'_, P>, space: u32) {
        #[cfg(not(mm_mutant = "batch_outlives_space"))]
        self.settle(cx, space);
        debug_assert!(
            self.counts.anon.is_zero() && self.counts.file.is_zero(),
            "pages of an empty space are counted: {:?}",
            self.counts
        );
    }

    /// Adds a reference.
    pub(crate) fn get_ref(&self) {
        self.refs.get();
    }

    /// Gives up a reference; true when it was the last.
    #[must_use = "the last reference frees the root"]
    pub(crate) fn put_ref(&self) -> bool {
        self.refs.put()
    }
}

impl Counts {
    fn new() -> Self {
        Self {
            total: PageCount::new(),
            data: PageCount::new(),
            locked: PageCount::new(),
            areas: PageCount::new(),
            anon: PresentCount::new(),
            file: PresentCount::new(),
        }
    }

    fn reset(&self) {
        for count in [&self.total, &self.data, &self.locked, &self.areas] {
            count.set(0);
        }
        self.anon.set_zero();
        self.file.set_zero();
    }

    fn change(&self, by: PresentChange) {
        self.anon.change(by.anon);
        self.file.change(by.file);
    }
}
