//! The node of one area.
//!
//! ```text
//! line 0   state  space  start  end  links(16)  gap words(16)  flags  anon
//! line 1   interval links(16)  subtree last  pgoff  object  chains(8)  hook  mem  guard  free link
//! ```
//!
//! The first cache line is what a walk of the address tree and a fault read;
//! the second is for the reverse maps. Everything is an atomic; who may
//! change what:
//!
//! | fields | change under | read |
//! |---|---|---|
//! | start, end, pgoff, flags, backing | write mark, held under the space lock for writing | read count, or space lock; start, end, pgoff also under the object's or the anon_vma's lock |
//! | links, gap words | space lock for writing | the same, or lock-free with a re-check |
//! | anon | space lock for reading + the space's anon lock: none → some; else as the range | acquire |
//! | chains | anon_vma root lock with the above | space lock |
//! | interval links | the object's map lock | the same |
//!
//! Range and interval links change together under the object's lock (see
//! [`super::edit`]), so a reverse walk never sees half a change.

use super::mark::Mark;
use super::{AnonLink, Shape, VmaFlags, VmaSpec, VmaTree};
use crate::addr::Vpn;
use crate::pool::Node;
use crate::prot::MemType;
use crate::range::PageRange;
use crate::sync::{AtomicU32, AtomicUsize, Class, Context, Ordering, Rank};
use crate::tree::{GapWords, Links};

/// One area of an address space: a range with one set of rights and one backing.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(C, align(128)))]
pub struct Vma {
    mark: Mark,
    space: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    pub(super) links: Links<Vma>,
    pub(super) gaps: GapWords,
    flags: AtomicU32,
    anon: AtomicU32,
    pub(super) interval: Links<Vma>,
    pub(super) subtree_last: AtomicUsize,
    pgoff: AtomicUsize,
    object: AtomicU32,
    chains: AtomicU32,
    chain_count: AtomicU32,
    hook: AtomicU32,
    mem: AtomicU32,
    guard: AtomicU32,
    free: AtomicU32,
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Vma>() == 128);
    // What a walk reads ends with the first cache line.
    assert!(core::mem::offset_of!(Vma, interval) <= 64);
};

impl Node for Vma {
    const NAME: &'static str = "vma";

    fn new() -> Self {
        Self {
            mark: Mark::new(),
            space: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            links: Links::new(),
            gaps: GapWords::new(),
            flags: AtomicU32::new(0),
            anon: AtomicU32::new(0),
            interval: Links::new(),
            subtree_last: AtomicUsize::new(0),
            pgoff: AtomicUsize::new(0),
            object: AtomicU32::new(0),
            chains: AtomicU32::new(0),
            chain_count: AtomicU32::new(0),
            hook: AtomicU32::new(0),
            mem: AtomicU32::new(0),
            guard: AtomicU32::new(0),
            free: AtomicU32::new(0),
        }
    }

    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

/// Reading. Each value alone is never torn; that they belong together is
/// proven by a [`VmaReadGuard`] or the space lock.
impl Vma {
    /// Returns the first page.
    pub fn start(&self) -> Vpn {
        Vpn::new(self.start.load(Ordering::Relaxed))
    }

    /// Returns the page after the last.
    pub fn end(&self) -> Vpn {
        Vpn::new(self.end.load(Ordering::Relaxed))
    }

    /// Returns the pages of the area.
    pub fn range(&self) -> PageRange {
        PageRange::new(self.start(), self.end())
    }

    /// Returns the number of the space node it belongs to.
    pub fn space(&self) -> u32 {
        self.space.load(Ordering::Relaxed)
    }

    /// Returns rights, kind and advice.
    pub fn flags(&self) -> VmaFlags {
        VmaFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Returns the page of the backing that the first page maps.
    pub fn pgoff(&self) -> usize {
        self.pgoff.load(Ordering::Relaxed)
    }

    /// Returns the page of the backing that `page` maps.
    pub fn pgoff_of(&self, page: Vpn) -> usize {
        self.pgoff()
            .wrapping_add(page.as_usize())
            .wrapping_sub(self.start().as_usize())
    }

    /// Returns the page that maps page `pgoff` of the backing, if one does.
    pub fn page_at(&self, pgoff: usize) -> Option<Vpn> {
        let page = self.start().checked_add(pgoff.checked_sub(self.pgoff())?)?;
        (page < self.end()).then_some(page)
    }

    /// Returns the last page of the backing that the area maps.
    pub fn last_pgoff(&self) -> usize {
        self.pgoff()
            .wrapping_add(self.range().pages())
            .wrapping_sub(1)
    }

    /// Returns the number of the object's handle, zero where there is none.
    pub fn object_raw(&self) -> u32 {
        self.object.load(Ordering::Acquire)
    }

    /// Returns the number of the anon_vma's handle, zero where there is none.
    pub fn anon_raw(&self) -> u32 {
        self.anon.load(Ordering::Acquire)
    }

    /// Returns the kernel's number for its custom operations, zero for none.
    pub fn hook(&self) -> u32 {
        self.hook.load(Ordering::Relaxed)
    }

    /// Returns how accesses are cached.
    pub fn mem(&self) -> MemType {
        match self.mem.load(Ordering::Relaxed) {
            1 => MemType::WriteThrough,
            2 => MemType::WriteCombining,
            3 => MemType::Uncached,
            4 => MemType::Device,
            _ => MemType::WriteBack,
        }
    }

    /// Returns the lowest page that is kept free for the area: its start, less
    /// the guard gap where it grows down.
    pub fn floor(&self) -> Vpn {
        if self.flags().contains(VmaFlags::GROWS_DOWN) {
            self.start()
                .saturating_sub(self.guard.load(Ordering::Relaxed) as usize)
        } else {
            self.start()
        }
    }

    /// Returns what the area maps.
    pub fn spec(&self) -> VmaSpec {
        VmaSpec {
            flags: self.flags(),
            pgoff: self.pgoff(),
            object: self.object_raw(),
            hook: self.hook(),
            mem: self.mem(),
        }
    }

    /// Returns whose private pages the area may hold.
    ///
    /// # Locks
    /// The space lock, for the number of chains to be exact.
    pub fn anon_link(&self) -> AnonLink {
        match (self.anon_raw(), self.chain_count()) {
            (0, _) => AnonLink::None,
            (id, 0 | 1) => AnonLink::Alone(id),
            (id, _) => AnonLink::Family(id),
        }
    }

    /// Returns the area as a value.
    ///
    /// # Locks
    /// The space lock.
    pub fn shape(&self) -> Shape {
        Shape {
            range: self.range(),
            spec: self.spec(),
            anon: self.anon_link(),
        }
    }

    /// Returns the number of chains to anon_vmas.
    pub fn chain_count(&self) -> u32 {
        self.chain_count.load(Ordering::Relaxed)
    }

    /// Returns the cell of the head of the list of chains, for `rmap`.
    #[allow(dead_code, reason = "the reverse map is built on this")]
    pub(crate) fn chains(&self) -> &AtomicU32 {
        &self.chains
    }

    /// Returns the cell of the number of chains, for `rmap`.
    #[allow(dead_code, reason = "the reverse map is built on this")]
    pub(crate) fn chain_counter(&self) -> &AtomicU32 {
        &self.chain_count
    }

    /// Returns the cell of the anon_vma, for `rmap`.
    #[allow(dead_code, reason = "the reverse map is built on this")]
    pub(crate) fn anon_cell(&self) -> &AtomicU32 {
        &self.anon
    }
}

/// Writing: the holder of the write mark only.
impl Vma {
    pub(super) fn set_start(&self, start: Vpn) {
        self.assert_writer();
        self.start.store(start.as_usize(), Ordering::Relaxed);
    }

    pub(super) fn set_end(&self, end: Vpn) {
        self.assert_writer();
        self.end.store(end.as_usize(), Ordering::Relaxed);
    }

    pub(super) fn set_pgoff(&self, pgoff: usize) {
        self.assert_writer();
        self.pgoff.store(pgoff, Ordering::Relaxed);
    }

    pub(super) fn set_flags(&self, flags: VmaFlags) {
        self.assert_writer();
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    fn assert_writer(&self) {
        debug_assert!(
            self.mark.is_marked() || !self.mark.is_attached(),
            "changed without the write mark"
        );
    }

    /// Fills a fresh node for a tree. It stays free until [`Self::attach`].
    pub(super) fn fill(&self, tree: &VmaTree, range: PageRange, spec: &VmaSpec) {
        debug_assert!(!self.mark.is_attached(), "filled while in use");
        self.space.store(tree.space(), Ordering::Relaxed);
        self.guard.store(tree.stack_guard(), Ordering::Relaxed);
        self.set_start(range.start());
        self.set_end(range.end());
        self.set_pgoff(spec.pgoff);
        self.flags.store(spec.flags.bits(), Ordering::Relaxed);
        self.object.store(spec.object, Ordering::Relaxed);
        self.hook.store(spec.hook, Ordering::Relaxed);
        self.mem.store(spec.mem as u32, Ordering::Relaxed);
        self.anon.store(0, Ordering::Relaxed);
        self.chains.store(0, Ordering::Relaxed);
        self.chain_count.store(0, Ordering::Relaxed);
    }
}

/// The state: reader count and write mark (module `mark`).
impl Vma {
    /// Returns whether the area seems to be one that holds `page` of `space`.
    /// That proves nothing; it is asked before [`Self::try_read`], so that who
    /// only remembers an area does not count into one that others use.
    pub(crate) fn seems_to_hold(&self, space: u32, page: Vpn) -> bool {
        self.space() == space && self.range().contains(page)
    }

    /// Counts a reader in if the area is attached, belongs to `space`, holds
    /// `page` and is not being changed. `None` proves nothing: ask under the
    /// space lock.
    ///
    /// # Locks
    /// Takes a read count; never waits. At most the space lock is held. The node must not be freed before
    /// this is called: an epoch pin, or the space lock.
    pub fn try_read<'a, C: Context>(
        &'a self,
        cx: &'a C,
        space: u32,
        page: Vpn,
    ) -> Option<VmaReadGuard<'a, C>> {
        if !self.mark.try_enter() {
            return None;
        }
        // Nobody waits here, yet writers wait for who is inside: so the order is checked as for
        // a lock, and nobody is inside two areas.
        let rank = Rank::new(Class::Vma, 0);
        cx.acquire(rank);
        let guard = VmaReadGuard {
            vma: self,
            cx,
            rank,
        };
        let is_it = self.space() == space && self.range().contains(page);
        #[cfg(mm_mutant = "no_recheck")]
        let is_it = is_it || self.is_attached();
        is_it.then_some(guard)
    }

    /// Sets the write mark and waits until no reader is inside. The mark
    /// stays until [`Self::unmark`]; setting it again is harmless.
    ///
    /// # Locks
    /// The space lock for writing; takes the mark after it.
    pub(crate) fn write_mark(&self, cx: &impl Context) {
        let rank = Rank::new(Class::Vma, 0);
        cx.acquire(rank);
        self.mark.mark(cx);
        // Marks are held by the hundred and by nobody else: only waiting has a rank.
        cx.release(rank);
    }

    /// Removes the write mark.
    pub(crate) fn unmark(&self) {
        self.mark.unmark();
    }

    /// Returns whether the write mark is set.
    pub fn is_marked(&self) -> bool {
        self.mark.is_marked()
    }

    /// Notes that the area is being zapped without the space lock: it stays in
    /// the tree, faults on it find nothing, and it goes after the flush.
    pub(crate) fn set_dying(&self) {
        self.mark.set_dying();
    }

    /// Returns whether the area is being zapped without the space lock.
    pub fn is_dying(&self) -> bool {
        self.mark.is_dying()
    }

    /// Notes that another area comes in the place of the dying one, so that
    /// faults wait for it.
    pub(crate) fn set_replaced(&self) {
        self.mark.set_replaced();
    }

    /// Returns whether another area comes in the place of the dying one.
    pub fn is_replaced(&self) -> bool {
        self.mark.is_replaced()
    }

    /// Returns whether the area is in a tree.
    pub fn is_attached(&self) -> bool {
        self.mark.is_attached()
    }

    pub(super) fn attach(&self) {
        self.mark.attach();
    }

    pub(super) fn detach(&self) {
        self.mark.detach();
    }
}

/// A read count: the area stays attached, and what the space lock guards of
/// it stays as it is.
#[derive(Debug)]
pub struct VmaReadGuard<'a, C: Context> {
    vma: &'a Vma,
    cx: &'a C,
    rank: Rank,
}

impl<C: Context> core::ops::Deref for VmaReadGuard<'_, C> {
    type Target = Vma;
    fn deref(&self) -> &Vma {
        self.vma
    }
}

impl<C: Context> Drop for VmaReadGuard<'_, C> {
    fn drop(&mut self) {
        self.vma.mark.leave();
        self.cx.release(self.rank);
    }
}
