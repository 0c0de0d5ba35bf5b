//! Finding pages, starting to read those that are not there, dropping them.
//!
//! A page of a memory-only object is *granted* while the index has it: held by its store, if
//! it has one ([`Platform::try_hold`]), and charged ([`Platform::try_charge`]). That is asked
//! for once the page is in, so that of several who want it one asks:
//!
//! ```text
//!   LOCKED ─► into the index ─► hold, charge ─┬─► UPTODATE, CHARGED ─► unlock, wake who JOINED
//!                                             └─► refused: out again ─► unlock, wake who JOINED
//! ```
//!
//! Who wants it meanwhile joins, and finds it afterwards, or asks for itself.
//!
//! | what ends a grant | who gives it back |
//! |---|---|
//! | the charge is refused | who asked: what was held already |
//! | a truncation, a hole, the object's last reference | who takes the page out of the index, behind it |
//! | a truncation took the page out before it was granted | who asked, at once |
//!
//! A truncation waits for no page. So one step sets CHARGED and tells of DETACHED, and one sets
//! DETACHED and tells of CHARGED: the later of the two gives back. Nothing is granted for a page that
//! was in the index already (an insert that is refused asked for nothing), and a page that left it counts no
//! more, though somebody may still copy from it. The platform is asked and told with outer locks at
//! most, never under an inner one: a write asks under `ObjectMap`. Its count is never below the
//! pages that others can find, and equal when no verb is under way.

use super::node::{ObjectKind, ObjectView};
use super::radix::Inserted;
use super::ticket::{IoRequest, Ticket, TicketKey};
use crate::addr::Pfn;
use crate::cx::Cx;
use crate::error::{NoSpace, OutOfMemory};
use crate::page::{Kind, Page, PageFlags};
use crate::platform::{PhysMemory, Platform};
use crate::stats::Counter;
use arrayvec::ArrayVec;
use core::fmt;

/// Pages that are dropped in one hold of the index's lock.
const BATCH: usize = 16;

/// What a search for a page came to.
#[must_use = "a page that is not there must be waited for"]
pub enum Found<'c, 'm, P: Platform> {
    /// The page is there, and up to date.
    Page(CachedPage<'c, 'm, P>),
    /// The page must be read first: `Start` or `Join`.
    Wait(Ticket<'m, P>),
    /// The object ends before it.
    PastEof,
    /// No frame or node was left.
    OutOfMemory,
    /// The object's store is full.
    NoSpace,
}

/// Why a page could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// No frame or node was left.
    OutOfMemory,
    /// The object's store is full.
    NoSpace,
}

impl From<OutOfMemory> for Refused {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<NoSpace> for Refused {
    fn from(_: NoSpace) -> Self {
        Self::NoSpace
    }
}

/// Whether a page that was put in is to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Granted {
    /// It is granted, and up to date.
    Here,
    /// A truncation took it out before.
    CutOff,
}

/// A reference to a cached page.
pub struct CachedPage<'c, 'm, P: Platform> {
    cx: &'c Cx<'m, P>,
    pfn: Pfn,
    page: &'m Page,
}

impl<'m, P: Platform> CachedPage<'_, 'm, P> {
    /// Returns the frame.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Returns the record.
    pub fn record(&self) -> &'m Page {
        self.page
    }

    /// Hands the reference over to whoever drops it otherwise: an entry of a
    /// page table, a transfer.
    pub(crate) fn into_pfn(self) -> Pfn {
        let pfn = self.pfn;
        core::mem::forget(self);
        pfn
    }

    /// Returns whether the object still has this page. Takes no lock: whoever
    /// installs a page asks under the lock of its page table. A truncation that
    /// is not over finds the entry later; of one that is over, the size may have
    /// grown again, but the page it dropped stays marked.
    pub(crate) fn is_held_by(&self, view: ObjectView<'_, '_, P>) -> bool {
        // In this order: who sees the grown size sees the mark.
        let reaches = view.reaches(self.page.user().index());
        let reaches = reaches || cfg!(mm_mutant = "map_past_the_end");
        reaches && (!self.is_detached() || cfg!(mm_mutant = "map_what_was_dropped"))
    }

    pub(super) fn is_uptodate(&self) -> bool {
        self.page.has(PageFlags::UPTODATE)
    }

    pub(super) fn is_detached(&self) -> bool {
        self.page.has(PageFlags::DETACHED)
    }

    pub(super) fn key(&self) -> TicketKey {
        TicketKey { frame: self.pfn }
    }
}

impl<P: Platform> Drop for CachedPage<'_, '_, P> {
    fn drop(&mut self) {
        let freed = self.cx.frames().free(self.cx, self.pfn);
        debug_assert_eq!(freed, Ok(()));
    }
}

impl<P: Platform> fmt::Debug for CachedPage<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachedPage").field(&self.pfn).finish()
    }
}

impl<P: Platform> fmt::Debug for Found<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(page) => page.fmt(f),
            Self::Wait(ticket) => write!(f, "Wait({ticket:?})"),
            Self::PastEof => f.write_str("PastEof"),
            Self::OutOfMemory => f.write_str("OutOfMemory"),
            Self::NoSpace => f.write_str("NoSpace"),
        }
    }
}

impl<'c, 'm, P: Platform> ObjectView<'c, 'm, P> {
    /// Finds a page that is in the cache and up to date, without waiting and
    /// without starting anything: fault-around, `mincore`.
    ///
    /// # Locks
    /// None in the common case, else `Radix`.
    pub fn find_page(self, pgoff: u64) -> Option<CachedPage<'c, 'm, P>> {
        self.lookup(pgoff)
            .ok()
            .flatten()
            .filter(CachedPage::is_uptodate)
    }

    /// Finds a page, or begins what brings it: a page of a memory-only object
    /// is made, a page of a file is to be read by whoever gets the request.
    ///
    /// # Locks
    /// None when the page is there, else `Radix`, `Pool`, `Buddy`.
    pub fn find_or_create(self, pgoff: u64) -> Found<'c, 'm, P> {
        loop {
            if !self.reaches(pgoff) {
                return Found::PastEof;
            }
            let step = match self.lookup(pgoff) {
                Ok(Some(page)) => self.settle(page, pgoff).map_err(Refused::from),
                Ok(None) => self
                    .begin(pgoff)
                    .or_else(|refused| self.again_if_there(pgoff, refused)),
                Err(error) => Err(error.into()),
            };
            match step {
                Ok(Some(found)) => return found,
                // Someone was faster, or the page went: look again.
                Ok(None) => {}
                Err(Refused::OutOfMemory) => return Found::OutOfMemory,
                Err(Refused::NoSpace) => return Found::NoSpace,
            }
        }
    }

    /// Finds a page in whatever state it is, and takes a reference.
    ///
    /// # Errors
    /// [`OutOfMemory`] when its references are near the end of their count.
    pub(super) fn lookup(self, pgoff: u64) -> Result<Option<CachedPage<'c, 'm, P>>, OutOfMemory> {
        if let Some(page) = self.lookup_unlocked(pgoff) {
            return Ok(Some(page));
        }
        let index = &self.object.index;
        if index.pages() == 0 {
            return Ok(None);
        }
        // Nothing there, or a race: the lock tells.
        let found = index.find(self.cx, self.nodes(), pgoff, |pfn| self.get_page(pfn));
        found.transpose().map(Option::flatten)
    }

    fn lookup_unlocked(self, pgoff: u64) -> Option<CachedPage<'c, 'm, P>> {
        #[cfg(not(mm_mutant = "lookup_unpinned"))]
        let pin = self.cx.pin();
        let pfn = self.object.index.peek(self.nodes(), pgoff)?;
        let page = self
            .mm
            .frames()
            .page(pfn)
            .filter(|page| page.try_get_ref())?;
        // With the reference the page stays what it is; but is it still ours,
        // and in the index? It may have been freed and used anew before.
        let found = CachedPage {
            cx: self.cx,
            pfn,
            page,
        };
        let user = page.user();
        let ours = page.kind() == Kind::User
            && !page.has(PageFlags::ANON)
            && user.owner() == self.handle.into_raw()
            && user.index() == pgoff
            && (cfg!(mm_mutant = "found_without_second_look")
                || self.object.index.peek(self.nodes(), pgoff) == Some(pfn));
        #[cfg(not(mm_mutant = "lookup_unpinned"))]
        drop(pin);
        ours.then_some(found)
    }

    /// Takes a reference to a page that cannot go meanwhile.
    pub(super) fn get_page(self, pfn: Pfn) -> Result<Option<CachedPage<'c, 'm, P>>, OutOfMemory> {
        let Some(page) = self.mm.frames().page(pfn) else {
            return Ok(None);
        };
        page.get_refs(1).map_err(|_| OutOfMemory)?;
        Ok(Some(CachedPage {
            cx: self.cx,
            pfn,
            page,
        }))
    }

    /// Says what to do with a page that is in the index; `None`: look again.
    pub(super) fn settle(
        self,
        found: CachedPage<'c, 'm, P>,
        pgoff: u64,
    ) -> Result<Option<Found<'c, 'm, P>>, OutOfMemory> {
        if found.is_uptodate() {
            return Ok(Some(Found::Page(found)));
        }
        if !found.page.try_lock_page() {
            // Before the sleeper asks whether it is still LOCKED: see `grant`.
            found.page.set(PageFlags::JOINED);
            self.mm.stats().count(Counter::CacheJoin);
            return Ok(Some(Found::Wait(Ticket::Join(found.key()))));
        }
        // Its reader may have finished just before we locked it.
        let gone = !cfg!(mm_mutant = "locked_without_second_look")
            && (found.is_uptodate() || found.is_detached());
        let request = if gone {
            Ok(None)
        } else {
            IoRequest::new(self, found.pfn, pgoff).map(Some)
        };
        if !matches!(request, Ok(Some(_))) {
            self.unlock(&found);
        }
        let Some(request) = request? else {
            return Ok(None);
        };
        let _handed_over = found.into_pfn();
        Ok(Some(Found::Wait(Ticket::Start(request))))
    }

    /// Makes a page and puts it in; `None`: look again.
    fn begin(self, pgoff: u64) -> Result<Option<Found<'c, 'm, P>>, Refused> {
        let page = self.new_page(pgoff, PageFlags::LOCKED)?;
        let inserted = self.insert(&page, pgoff, || {
            cfg!(mm_mutant = "inserted_past_the_end") || self.reaches(pgoff)
        })?;
        if inserted != Inserted::Done {
            return Ok(None);
        }
        if self.object.kind() == ObjectKind::Memory {
            let granted = self.grant(&page)?;
            return Ok((granted == Granted::Here).then_some(Found::Page(page)));
        }
        match IoRequest::new(self, page.pfn, pgoff) {
            Ok(request) => {
                let _handed_over = page.into_pfn();
                Ok(Some(Found::Wait(Ticket::Start(request))))
            }
            Err(error) => {
                let _or_truncated = self.detach(page.pfn, pgoff);
                self.unlock(&page);
                Err(error.into())
            }
        }
    }

    /// Answers whoever could not make a page: none is missing where somebody else
    /// has put it in by now.
    pub(super) fn again_if_there<T>(
        self,
        pgoff: u64,
        refused: Refused,
    ) -> Result<Option<T>, Refused> {
        self.lookup(pgoff)?.map_or(Err(refused), |_| Ok(None))
    }

    /// Has a page of a memory-only object granted that the caller put in LOCKED, and lets
    /// everybody have it.
    ///
    /// # Errors
    /// When that is refused: the page is out of the index again.
    pub(super) fn grant(self, page: &CachedPage<'c, 'm, P>) -> Result<Granted, Refused> {
        let granted = match self.ask() {
            Ok(()) => {
                let before = page.page.set(PageFlags::UPTODATE | PageFlags::CHARGED);
                if before.contains(PageFlags::DETACHED) && !cfg!(mm_mutant = "cut_off_and_charged")
                {
                    self.give_back(1);
                }
                Ok(Granted::Here)
            }
            // One that was cut off meanwhile asked for nothing.
            Err(refused) if self.detach(page.pfn, page.page.user().index()) => Err(refused),
            Err(_) => Ok(Granted::CutOff),
        };
        // Mostly nobody waits, and a wake may cost more than all of this.
        let before = page.page.clear(PageFlags::LOCKED | PageFlags::JOINED);
        if before.contains(PageFlags::JOINED) {
            self.mm.platform().wake(page.key());
        }
        granted
    }

    /// Asks the platform for one page more.
    fn ask(self) -> Result<(), Refused> {
        let (platform, store) = (self.cx.platform(), self.object.store());
        if store != 0 {
            platform.try_hold(store)?;
        }
        platform.try_charge(1).map_err(|error| {
            if store != 0 {
                platform.let_go(store, 1);
            }
            error.into()
        })
    }

    /// Tells the platform that so many granted pages left the index.
    fn give_back(self, pages: usize) {
        let (platform, store) = (self.cx.platform(), self.object.store());
        if pages == 0 {
            return;
        }
        platform.uncharge(pages);
        if store != 0 {
            platform.let_go(store, pages);
        }
    }

    fn unlock(self, page: &CachedPage<'c, 'm, P>) {
        page.page.unlock_page();
        self.mm.platform().wake(page.key());
    }

    /// Makes a zeroed page of this object that is not in its index.
    pub(super) fn new_page(
        self,
        pgoff: u64,
        flags: PageFlags,
    ) -> Result<CachedPage<'c, 'm, P>, OutOfMemory> {
        let frames = self.mm.frames();
        let pfn = frames.alloc(self.cx, 0)?;
        frames.memory().zero(pfn, 0);
        let page = frames.page(pfn).ok_or(OutOfMemory)?;
        page.user().init(flags, self.handle.into_raw(), pgoff);
        Ok(CachedPage {
            cx: self.cx,
            pfn,
            page,
        })
    }

    /// Puts a page into the index, which takes a reference of its own.
    pub(super) fn insert(
        self,
        page: &CachedPage<'c, 'm, P>,
        pgoff: u64,
        allowed: impl Fn() -> bool,
    ) -> Result<Inserted, OutOfMemory> {
        #[cfg(mm_mutant = "charged_before_it_is_in")]
        {
            self.cx.platform().try_charge(1)?;
            self.cx.platform().uncharge(1);
        }
        // The index's reference, before anyone can find the page.
        page.page.get_refs(1).map_err(|_| OutOfMemory)?;
        let index = &self.object.index;
        let inserted = index.insert(self.cx, self.nodes(), pgoff, page.pfn, allowed);
        if inserted != Ok(Inserted::Done) {
            self.put_page(page.pfn);
        }
        inserted
    }

    /// Takes a page out of the index and drops the index's reference; says whether it
    /// was in there.
    pub(super) fn detach(self, pfn: Pfn, pgoff: u64) -> bool {
        let mut charged = false;
        let mark = || charged = self.mark_detached(pfn);
        let index = &self.object.index;
        let removed = index.remove(self.cx, self.nodes(), pgoff, pfn, mark);
        if removed {
            self.put_page(pfn);
        }
        self.give_back(usize::from(charged));
        removed
    }

    /// Drops all pages from an offset on, which nobody maps any more. Pages that
    /// someone still uses are freed when they are let go.
    ///
    /// # Locks
    /// Takes `Radix`, `Pool`, `Buddy`, again and again.
    pub(super) fn drop_pages_from(self, pgoff: u64) {
        loop {
            let mut batch: ArrayVec<Pfn, BATCH> = ArrayVec::new();
            let mut charged = 0usize;
            let mark = |pfn| charged = charged.saturating_add(usize::from(self.mark_detached(pfn)));
            self.object
                .index
                .remove_from(self.cx, self.nodes(), pgoff, &mut batch, mark);
            if batch.is_empty() {
                return;
            }
            self.mm.stats().add(Counter::CacheDrop, batch.len());
            for pfn in batch {
                self.put_page(pfn);
            }
            self.give_back(charged);
        }
    }

    /// Drops a reference to a page.
    pub(super) fn put_page(self, pfn: Pfn) {
        let freed = self.mm.frames().free(self.cx, pfn);
        debug_assert_eq!(freed, Ok(()));
    }

    /// Marks a page that leaves the index; says whether its charge is to be given back.
    fn mark_detached(self, pfn: Pfn) -> bool {
        self.mm.frames().page(pfn).is_some_and(|page| {
            let before = page.set(PageFlags::DETACHED);
            page.clear(PageFlags::DIRTY);
            before.contains(PageFlags::CHARGED)
        })
    }
}
