//! The 32-byte record of one frame.
//!
//! ```text
//! word 0  state   kind(4) order(5) flags(..) | TABLE_LOCK DEAD LOCKED ...
//! word 1  refs    all references
//! words 2..8      by kind:
//!
//!   User     maps     owner    index lo   index hi   lru prev  lru next
//!     while it is read in                            cut
//!   Table    live     level    linked at  space      -         gather link
//!   Slab     live     free     prev       next       pool      -
//!   Free     -        -        -          -          prev      next
//!   Cached   -        -        -          -          -         next
//! ```
//!
//! `User` is anonymous memory and page cache; the flag ANON says which. `maps`
//! counts present entries that map the frame. `owner` is the handle of the
//! `AnonVma` (anonymous) or `Object` (cached); `index` the page offset in it. Nothing is linked
//! through `lru` yet.
//! Links are PFNs as u32: the page map refuses frames above that.
//! The state word changes by atomic read-modify-write only, because the
//! table lock, LOCKED and the flags of one frame have different owners.

use super::buddy::FreeError;
use super::hints::Stretch;
use crate::sync::{AtomicU32, BitHeld, BitLock, Context, Held, Ordering, Rank};
use bitflags::bitflags;

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Not RAM, or not given to the family.
    Absent = 0,
    /// In the buddy allocator; the record is that of a block's head.
    Free = 1,
    /// In the buddy allocator, inside a block.
    FreeTail = 2,
    /// Allocated, no further meaning: the kernel's own use.
    Kernel = 3,
    /// A page-table page.
    Table = 4,
    /// A slab of nodes.
    Slab = 5,
    /// User memory: anonymous or page cache.
    User = 6,
    /// The shared zero page: never freed, never writable, not counted.
    Zero = 7,
    /// Records of the page map itself, or reserved by the kernel at boot.
    Reserved = 8,
    /// Inside a block of higher order that was allocated as one.
    Tail = 9,
    /// Free, but not in the buddy allocator: in a CPU's cache, or on its way.
    Cached = 10,
}

impl Kind {
    const fn from_bits(bits: u32) -> Self {
        match bits {
            1 => Self::Free,
            2 => Self::FreeTail,
            3 => Self::Kernel,
            4 => Self::Table,
            5 => Self::Slab,
            6 => Self::User,
            7 => Self::Zero,
            8 => Self::Reserved,
            9 => Self::Tail,
            10 => Self::Cached,
            _ => Self::Absent,
        }
    }
}

const KIND_MASK: u32 = 0xf;
const ORDER_SHIFT: u32 = 4;
const ORDER_MASK: u32 = 0x1f << ORDER_SHIFT;

/// Bit of the table lock in the state word.
const TABLE_LOCK_BIT: u32 = 31;

bitflags! {
    /// The flags of the state word.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PageFlags: u32 {
        /// The page's owner and index are frozen by a ticket (protocol: see
        /// `object`). A state, not a thread's lock.
        const LOCKED = 1 << 9;
        /// Table: unlinked; whoever locks it starts again from the root.
        const DEAD = 1 << 10;
        /// User: anonymous memory, else page cache.
        const ANON = 1 << 11;
        /// User, anonymous: exactly one space may reach it: a write fault may
        /// reuse it without a copy. Cleared at fork under the table lock.
        const EXCLUSIVE = 1 << 12;
        /// User: the contents are what the pager holds, or newer.
        const UPTODATE = 1 << 13;
        /// User: newer than what the pager holds.
        const DIRTY = 1 << 14;
        /// User: a transfer failed.
        const ERROR = 1 << 15;
        /// User: instruction fetches see the contents.
        const CODE_CLEAN = 1 << 16;
        /// User: referenced since the last look.
        const REFERENCED = 1 << 17;
        /// User: writeback is under way.
        const WRITEBACK = 1 << 18;
        /// User: removed from its object (truncated) while still referenced.
        const DETACHED = 1 << 19;
        /// User: somebody makes instructions visible (`code`).
        const CODE_SYNC = 1 << 20;
        /// User: nobody wrote since that began.
        const CODE_FRESH = 1 << 21;
        /// User: instructions were made visible once: it may be executed.
        const CODE_SHOWN = 1 << 22;
        /// Table: promised to a map that cannot fail any more: it stays, though it may be
        /// empty. Changes under the table's lock.
        const KEPT = 1 << 23;
        /// User: the platform was charged for it, as an object has it (`object::cache`).
        const CHARGED = 1 << 24;
        /// User: somebody waits for the end of LOCKED, or did.
        const JOINED = 1 << 25;
    }
}

/// The record of one frame. See the module for its fields.
#[derive(Debug)]
#[repr(C)]
pub struct Page {
    state: AtomicU32,
    refs: AtomicU32,
    words: [AtomicU32; 6],
    lock: BitLock<TABLE_LOCK_BIT>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Page>() == 32);

impl Page {
    /// Makes the record of a frame that is absent.
    pub fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
            refs: AtomicU32::new(0),
            words: core::array::from_fn(|_| AtomicU32::new(0)),
            lock: BitLock::new(),
        }
    }

    /// Returns what the frame is used for.
    pub fn kind(&self) -> Kind {
        Kind::from_bits(self.state.load(Ordering::Acquire) & KIND_MASK)
    }

    /// Returns the order of the block that this frame heads.
    pub fn order(&self) -> u8 {
        ((self.state.load(Ordering::Relaxed) & ORDER_MASK) >> ORDER_SHIFT) as u8
    }

    /// Gives the frame a new use: sets kind and order, clears all flags. Only
    /// the owner of the whole frame may (the allocator, or who just allocated).
    pub(crate) fn reset(&self, kind: Kind, order: u8) {
        let order = (u32::from(order) << ORDER_SHIFT) & ORDER_MASK;
        self.state.store(kind as u32 | order, Ordering::Release);
    }

    /// Takes the frame out of use, on its way to the allocator: of several who
    /// free it at once one succeeds. Returns the order of its block.
    ///
    /// # Errors
    /// What is wrong with freeing it, with nothing changed.
    pub(super) fn claim(&self) -> Result<u8, FreeError> {
        let mut old = self.state.load(Ordering::Relaxed);
        loop {
            if let Some(error) = FreeError::of(Kind::from_bits(old & KIND_MASK)) {
                return Err(error);
            }
            let order = ((old & ORDER_MASK) >> ORDER_SHIFT) as u8;
            match self.state.compare_exchange_weak(
                old,
                Kind::Cached as u32,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(order),
                Err(_) if cfg!(mm_mutant = "claim_without_exchange") => return Ok(order),
                Err(now) => old = now,
            }
        }
    }

    /// Returns the flags.
    pub fn flags(&self) -> PageFlags {
        PageFlags::from_bits_truncate(self.state.load(Ordering::Acquire))
    }

    /// Returns whether all these flags are set.
    pub fn has(&self, flags: PageFlags) -> bool {
        self.flags().contains(flags)
    }

    /// Sets flags; returns those that were set before.
    pub fn set(&self, flags: PageFlags) -> PageFlags {
        PageFlags::from_bits_truncate(self.state.fetch_or(flags.bits(), Ordering::AcqRel))
    }

    /// Clears flags; returns those that were set before.
    pub fn clear(&self, flags: PageFlags) -> PageFlags {
        PageFlags::from_bits_truncate(self.state.fetch_and(!flags.bits(), Ordering::AcqRel))
    }

    /// Replaces flags by others if all of them are set; says whether they were.
    pub(super) fn exchange_flags(&self, from: PageFlags, to: PageFlags) -> bool {
        let mut old = self.state.load(Ordering::Relaxed);
        while old & from.bits() == from.bits() {
            let new = (old & !from.bits()) | to.bits();
            match self
                .state
                .compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// Tries to set the LOCKED state; true when this caller now owns it.
    pub fn try_lock_page(&self) -> bool {
        !self.set(PageFlags::LOCKED).contains(PageFlags::LOCKED)
            || cfg!(mm_mutant = "locked_by_two")
    }

    /// Ends the LOCKED state.
    pub fn unlock_page(&self) {
        self.clear(PageFlags::LOCKED);
    }

    /// Returns the number of references.
    pub fn refs(&self) -> u32 {
        self.refs.load(Ordering::Acquire)
    }

    /// Sets the number of references of a frame that nobody else knows.
    pub(crate) fn set_refs(&self, n: u32) {
        self.refs.store(n, Ordering::Release);
    }

    /// Adds references to a frame that already has one.
    ///
    /// # Errors
    /// `CountOverflow` near the end of the count: never a wrap (a quarter of
    /// the range is kept as a margin for racing callers).
    pub fn get_refs(&self, n: u32) -> Result<(), CountOverflow> {
        let old = self.refs.fetch_add(n, Ordering::Relaxed);
        if old >= COUNT_LIMIT {
            self.refs.fetch_sub(n, Ordering::Relaxed);
            return Err(CountOverflow);
        }
        Ok(())
    }

    /// Adds a reference unless there is none: for finders without a lock.
    pub fn try_get_ref(&self) -> bool {
        let mut old = self.refs.load(Ordering::Relaxed);
        while (old != 0 || cfg!(mm_mutant = "finder_revives")) && old < COUNT_LIMIT {
            match self.refs.compare_exchange_weak(
                old,
                old.wrapping_add(1),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// Drops references; true when they were the last: the caller frees the frame.
    #[must_use = "the last reference frees the frame"]
    pub fn put_refs(&self, n: u32) -> bool {
        let old = self.refs.fetch_sub(n, Ordering::Release);
        debug_assert!(old >= n, "page reference count below zero");
        if old == n {
            #[cfg(not(mm_mutant = "last_put_without_acquire"))]
            crate::sync::fence_acquire(&self.refs);
            return true;
        }
        false
    }

    /// Drops a reference if there is one; true when none is left: the caller
    /// frees the frame, or is told that it is free already. Unlike
    /// [`Self::put_refs`] it never goes below zero, whoever frees too much.
    pub(super) fn give_up_ref(&self) -> bool {
        let mut old = self.refs.load(Ordering::Relaxed);
        while let Some(left) = old.checked_sub(1) {
            #[cfg(not(mm_mutant = "put_in_two_steps"))]
            let swap =
                self.refs
                    .compare_exchange_weak(old, left, Ordering::Release, Ordering::Relaxed);
            #[cfg(mm_mutant = "put_in_two_steps")]
            let swap = Ok::<u32, u32>(self.refs.swap(left, Ordering::Release));
            match swap {
                Ok(_) if left > 0 => return false,
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        #[cfg(not(mm_mutant = "last_put_without_acquire"))]
        crate::sync::fence_acquire(&self.refs);
        true
    }

    /// Returns the view of a page of user memory.
    pub fn user(&self) -> UserRecord<'_> {
        UserRecord(self)
    }

    /// Returns the view of a page-table page.
    pub fn table(&self) -> TableRecord<'_> {
        TableRecord(self)
    }

    /// Returns the raw word `i` of the six by kind (allocator and pools).
    pub(crate) fn word(&self, i: usize) -> &AtomicU32 {
        // The index is a constant below six at every call.
        self.words.get(i).unwrap_or(&self.state)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts above this are refused.
const COUNT_LIMIT: u32 = 0xc000_0000;

/// A reference or map count is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountOverflow;

/// The view of a page of user memory: anonymous or page cache.
#[derive(Clone, Copy, Debug)]
pub struct UserRecord<'a>(&'a Page);

impl<'a> UserRecord<'a> {
    /// Returns how many present entries map the page.
    pub fn maps(self) -> u32 {
        self.0.word(0).load(Ordering::Acquire)
    }

    /// Counts `n` more mappings.
    ///
    /// # Errors
    /// `CountOverflow`, with nothing changed.
    pub fn add_maps(self, n: u32) -> Result<(), CountOverflow> {
        let old = self.0.word(0).fetch_add(n, Ordering::Relaxed);
        if old >= COUNT_LIMIT {
            #[cfg(not(mm_mutant = "refused_map_counts"))]
            self.0.word(0).fetch_sub(n, Ordering::Relaxed);
            return Err(CountOverflow);
        }
        Ok(())
    }

    /// Counts `n` fewer mappings; returns how many are left.
    pub fn sub_maps(self, n: u32) -> u32 {
        let old = self.0.word(0).fetch_sub(n, Ordering::Release);
        debug_assert!(old >= n, "page map count below zero");
        old.wrapping_sub(n)
    }

    /// Returns the handle of the owner as a number: AnonVma or Object; zero is none.
    pub fn owner(self) -> u32 {
        self.0.word(1).load(Ordering::Acquire)
    }

    /// Returns the page offset in the owner.
    pub fn index(self) -> u64 {
        let lo = u64::from(self.0.word(2).load(Ordering::Relaxed));
        let hi = u64::from(self.0.word(3).load(Ordering::Relaxed));
        (hi << 32) | lo
    }

    /// Sets owner and offset. Only before the page is published, or LOCKED.
    #[expect(clippy::cast_possible_truncation, reason = "two halves of a u64")]
    pub fn set_owner(self, owner: u32, index: u64) {
        self.0.word(2).store(index as u32, Ordering::Relaxed);
        self.0
            .word(3)
            .store((index >> 32) as u32, Ordering::Relaxed);
        self.0.word(1).store(owner, Ordering::Release);
    }

    /// Notes that the last `bytes` bytes of a page that is being read in lie past an
    /// end that the object had meanwhile. Of several notes the largest counts.
    ///
    /// # Locks
    /// The object's `ObjectMap`, exclusively.
    pub(crate) fn cut(self, bytes: u32) {
        let cut = self.0.word(4);
        cut.store(cut.load(Ordering::Relaxed).max(bytes), Ordering::Relaxed);
    }

    /// Takes what [`Self::cut`] noted: the page is read in, and may go to a list.
    ///
    /// # Locks
    /// The object's `ObjectMap`; the caller owns the page's LOCKED.
    pub(crate) fn take_cut(self) -> u32 {
        let bytes = self.0.word(4).load(Ordering::Relaxed);
        self.0.word(4).store(0, Ordering::Relaxed);
        bytes
    }

    /// Starts the record of a page that was just allocated: no mapping. The
    /// reference is the one that the allocator made: storing a count here
    /// would lose that of a finder who still takes the frame for what it was.
    pub fn init(self, flags: PageFlags, owner: u32, index: u64) {
        self.0.reset(Kind::User, 0);
        self.0.word(0).store(0, Ordering::Relaxed);
        self.set_owner(owner, index);
        self.0.word(4).store(0, Ordering::Relaxed);
        self.0.word(5).store(0, Ordering::Relaxed);
        self.0.set(flags);
    }
}

/// The view of a page-table page.
#[derive(Clone, Copy, Debug)]
pub struct TableRecord<'a>(&'a Page);

impl<'a> TableRecord<'a> {
    /// Starts the record of a table that was just allocated: no live entry; the
    /// allocator's reference is its one sharer.
    pub fn init(self, level: u8, order: u8, space: u32) {
        #[cfg(mm_mutant = "table_before_it_forgets")]
        self.0.reset(Kind::Table, order);
        self.0.word(0).store(0, Ordering::Relaxed);
        self.0.word(1).store(u32::from(level), Ordering::Relaxed);
        self.0.word(2).store(0, Ordering::Relaxed);
        self.0.word(3).store(space, Ordering::Relaxed);
        self.0.word(4).store(0, Ordering::Relaxed);
        self.0.word(5).store(0, Ordering::Relaxed);
        // Last, with release: see `spans`.
        #[cfg(not(mm_mutant = "table_before_it_forgets"))]
        self.0.reset(Kind::Table, order);
    }

    /// Returns the number of entries that are not empty.
    pub fn live(self) -> u32 {
        self.0.word(0).load(Ordering::Relaxed)
    }

    /// Changes the number of live entries; under the table's lock.
    pub(crate) fn set_live(self, n: u32) {
        self.0.word(0).store(n, Ordering::Relaxed);
    }

    /// Returns the level: 1 is the leaf level.
    #[expect(clippy::cast_possible_truncation, reason = "levels are below eight")]
    pub fn level(self) -> u8 {
        self.0.word(1).load(Ordering::Relaxed) as u8
    }

    /// Says which stretch of its space the level-1 table spans, from now that it
    /// is linked.
    ///
    /// # Locks
    /// The parent's.
    pub(crate) fn set_linked(self, at: Stretch) {
        self.0.word(2).store(linked_at(at), Ordering::Release);
    }

    /// Returns whether this is the linked level-1 table that spans the stretch.
    /// True only for a table that was linked at some time since the caller's
    /// pin was taken.
    ///
    /// # Locks
    /// None; in an epoch pin.
    pub(crate) fn spans(self, at: Stretch) -> bool {
        let linked = linked_at(at);
        // Acquire, in this order: who sees that the frame is a table again sees
        // that it is linked nowhere yet (`init`), and who sees where it is linked
        // sees whose it is.
        let state = self.0.state.load(Ordering::Acquire);
        let is_table = state & (KIND_MASK | PageFlags::DEAD.bits()) == Kind::Table as u32;
        is_table
            && linked != 0
            && self.0.word(2).load(Ordering::Acquire) == linked
            && (self.space() == at.space || cfg!(mm_mutant = "table_of_any_space"))
    }

    /// Returns the handle of the space as a number; zero for kernel tables.
    pub fn space(self) -> u32 {
        self.0.word(3).load(Ordering::Relaxed)
    }

    /// Returns the word that chains detached tables in a gather.
    pub(crate) fn gather_link(self) -> &'a AtomicU32 {
        self.0.word(5)
    }

    /// Returns whether the table was unlinked.
    pub fn is_dead(self) -> bool {
        self.0.has(PageFlags::DEAD)
    }

    /// Returns whether the table stays in the tree though it may be empty.
    pub(crate) fn is_kept(self) -> bool {
        self.0.has(PageFlags::KEPT)
    }

    /// Keeps the table in the tree; under its lock.
    pub(crate) fn keep(self) {
        self.0.set(PageFlags::KEPT);
    }

    /// Ends [`Self::keep`]; under the table's lock.
    pub(crate) fn keep_no_longer(self) {
        self.0.clear(PageFlags::KEPT);
    }

    /// Takes the table's lock. `rank` orders parents before children.
    ///
    /// # Locks
    /// Inner, class `Table`.
    pub fn lock<C: Context>(self, cx: &'a C, rank: Rank) -> TableLock<'a, C> {
        let held = Held::enter(cx, rank);
        let bit = self.0.lock.lock(&self.0.state, cx);
        TableLock {
            page: self.0,
            _bit: bit,
            _held: held,
        }
    }

    /// Takes the lock of a table that nobody else can know yet.
    pub fn lock_fresh<C: Context>(self, cx: &'a C, rank: Rank) -> TableLock<'a, C> {
        let held = Held::attempt(cx, rank);
        let bit = self.0.lock.lock(&self.0.state, cx);
        TableLock {
            page: self.0,
            _bit: bit,
            _held: held,
        }
    }
}

/// Writes down where a table is linked; zero where the word has no room for it.
fn linked_at(at: Stretch) -> u32 {
    let next = at.number.wrapping_add(1);
    u32::try_from(next).unwrap_or(0)
}

/// Proof that a table's lock is held.
pub struct TableLock<'a, C: Context> {
    page: &'a Page,
    _bit: BitHeld<'a>,
    _held: Held<'a, C>,
}

impl<'a, C: Context> TableLock<'a, C> {
    /// Returns the record of the locked table.
    pub fn record(&self) -> TableRecord<'a> {
        TableRecord(self.page)
    }
}

impl<C: Context> Drop for TableLock<'_, C> {
    fn drop(&mut self) {
        self.page.lock.unlock(&self.page.state);
    }
}
