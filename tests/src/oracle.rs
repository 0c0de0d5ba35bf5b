//! The oracle: what memory must look like, page by page.
//!
//! A [`Model`] is a flat map from page to rights, backing and private contents
//! for each process. It has no areas, no tables, no merging and no sharing of
//! code with the library: where an area would matter, it is found by scanning.
//! Each verb returns what Linux answers (an errno, a signal), and the model
//! is then as Linux would leave it.
//!
//! ```text
//!  process ──► page ──► Attr (rights, shared, advice, backing)
//!                  └──► own bytes, once it was written to privately
//!                          else ──► bytes of the object at this offset, or zeros
//! ```

use mm_core::prot::{Access, Prot};
use mm_core::space::Advice;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// ENOMEM of errno(3), and so on.
pub mod errno {
    #![allow(missing_docs, reason = "the names say it")]
    pub const EPERM: i32 = 1;
    pub const ENOMEM: i32 = 12;
    pub const EACCES: i32 = 13;
    pub const EFAULT: i32 = 14;
    pub const EEXIST: i32 = 17;
    pub const ENODEV: i32 = 19;
    pub const EINVAL: i32 = 22;
}
use errno::{EACCES, EEXIST, EFAULT, EINVAL, ENODEV, ENOMEM, EPERM};

/// What an access comes to when it is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGSEGV, nothing is mapped.
    MapErr,
    /// SIGSEGV, not allowed.
    AccErr,
    /// SIGBUS, past the end of the file.
    Bus,
}

/// What stands behind a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Back {
    /// Zeros.
    Anon,
    /// A page of an object, named by its place in [`Model::objects`].
    Object {
        /// Which.
        id: usize,
        /// Which page of it.
        pgoff: u64,
    },
}

/// Everything about a page but its contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The rights.
    pub prot: Prot,
    /// The most that mprotect may give.
    pub may: Prot,
    /// Stores are for everyone.
    pub shared: bool,
    /// A stack.
    pub grows: bool,
    /// Kept in memory.
    pub locked: bool,
    /// And that from the first access on.
    pub on_fault: bool,
    /// Left out by fork.
    pub dont_copy: bool,
    /// Empty after fork.
    pub wipe: bool,
    /// Stays as it is.
    pub sealed: bool,
    /// 0 normal, 1 sequential, 2 random.
    pub pace: u8,
    /// The backing.
    pub back: Back,
}

/// A mapped page.
#[derive(Clone, Debug)]
pub struct PageModel {
    /// Everything but the contents.
    pub attr: Attr,
    own: Option<Rc<Vec<u8>>>,
}

/// A file or shared memory.
#[derive(Clone, Debug)]
pub struct ObjectModel {
    /// The number in the last column of the maps.
    pub key: u64,
    page: usize,
    size: usize,
    pages: HashMap<u64, Vec<u8>>,
}

impl ObjectModel {
    /// Makes one that holds these bytes, in pages of so many.
    pub fn new(page: usize, key: u64, bytes: &[u8]) -> Self {
        let mut pages = HashMap::new();
        for (i, part) in bytes.chunks(page).enumerate() {
            let mut content = part.to_vec();
            content.resize(page, 0);
            pages.insert(i as u64, content);
        }
        Self {
            key,
            page,
            size: bytes.len(),
            pages,
        }
    }

    /// Makes shared memory.
    pub fn zeros(page: usize, pages: usize) -> Self {
        Self {
            key: 0,
            page,
            size: pages * page,
            pages: HashMap::new(),
        }
    }

    /// Stores a byte.
    pub fn set_byte(&mut self, pgoff: u64, offset: usize, byte: u8) {
        self.page(pgoff)[offset] = byte;
    }

    fn reaches(&self, pgoff: u64) -> bool {
        (pgoff as usize) < self.size.div_ceil(self.page)
    }

    fn page(&mut self, pgoff: u64) -> &mut Vec<u8> {
        let page = self.page;
        self.pages.entry(pgoff).or_insert_with(|| vec![0; page])
    }
}

/// Bounds that every process has.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a page.
    pub page: usize,
    /// The lowest page.
    pub min: usize,
    /// The page after the last.
    pub end: usize,
    /// Where the top-down search begins.
    pub base: usize,
    /// Pages below a stack.
    pub guard: usize,
    /// Pages of a stack; scripts stay well below it or well above, because
    /// what counts is the end of an area, which is a question of merging.
    pub stack: usize,
    /// Whether a page can be fetched from without being loaded from.
    pub exec_only: bool,
    /// Whether a page can be loaded from without being fetched from.
    pub no_exec: bool,
}

/// Where a mapping may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    /// Anywhere, preferably at this byte.
    Hint(Option<usize>),
    /// At this byte, in place of what is there.
    Fixed(usize),
    /// At this byte, if nothing is there.
    NoReplace(usize),
}

/// How to remap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Remap {
    /// MREMAP_MAYMOVE.
    pub may_move: bool,
    /// MREMAP_FIXED.
    pub fixed: bool,
    /// MREMAP_DONTUNMAP.
    pub dont_unmap: bool,
    /// The byte that these two look at.
    pub to: usize,
}

/// One process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Its pages.
    pub pages: BTreeMap<usize, PageModel>,
    /// Start and end of the heap, in bytes.
    pub brk: (usize, usize),
    /// Pages where an area may begin that is as the one before it: a fork unlocked both, and
    /// joins nothing.
    pub seams: BTreeSet<usize>,
    /// What mlockall(2) said of areas made later: locked, and that on fault.
    pub later: (bool, bool),
}

impl Process {
    /// Returns what a page of an area is that is made now.
    fn made(&self, attr: Attr) -> Attr {
        Attr {
            locked: attr.locked || self.later.0,
            on_fault: attr.on_fault || self.later.1,
            ..attr
        }
    }
}

/// All of a machine's memory.
#[derive(Debug)]
pub struct Model {
    bounds: Bounds,
    /// Every object there ever was.
    pub objects: Vec<ObjectModel>,
}

impl Model {
    /// Makes a machine without objects.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            objects: Vec::new(),
        }
    }

    /// mmap(2); `attr.back` is that of the first page. Returns the first page.
    ///
    /// # Errors
    /// The errno.
    pub fn map(&self, p: &mut Process, place: Where, len: usize, attr: Attr) -> Result<usize, i32> {
        if len == 0 {
            return Err(EINVAL);
        }
        let pages = len.div_ceil(self.bounds.page);
        if pages > self.bounds.end {
            return Err(ENOMEM);
        }
        if !attr.may.contains(attr.prot) {
            return Err(EACCES);
        }
        if attr.grows && (attr.shared || attr.back != Back::Anon) {
            return Err(EINVAL);
        }
        let at = self.place(p, place, pages, attr.grows)?;
        unsealed(p, at..at + pages)?;
        let attr = p.made(attr);
        self.fill(p, at, 0..pages, attr);
        Ok(at)
    }

    /// Chooses the first page of a mapping.
    fn place(&self, p: &Process, place: Where, pages: usize, grows: bool) -> Result<usize, i32> {
        match place {
            Where::Fixed(at) | Where::NoReplace(at) => {
                if at % self.bounds.page != 0 {
                    return Err(EINVAL);
                }
                let first = at / self.bounds.page;
                if first
                    .checked_add(pages)
                    .is_none_or(|end| end > self.bounds.end)
                {
                    return Err(ENOMEM);
                }
                if first < self.bounds.min {
                    return Err(EPERM);
                }
                let taken = p.pages.range(first..first + pages).next().is_some();
                if taken && matches!(place, Where::NoReplace(_)) {
                    return Err(EEXIST);
                }
                Ok(first)
            }
            Where::Hint(hint) => {
                let low = |a: usize| (a / self.bounds.page).max(self.bounds.min);
                let hint = hint.filter(|&a| a >= self.bounds.page);
                let hint = hint.map(low).filter(|&a| {
                    a.checked_add(pages).is_some_and(|e| e <= self.bounds.end)
                        && self.is_free(p, a, pages, 0)
                });
                match hint {
                    Some(at) => Ok(at),
                    None => self.search(p, pages, grows).ok_or(ENOMEM),
                }
            }
        }
    }

    /// Whether pages are free, keep away from the stacks above them, and have
    /// `below` more free pages under them.
    fn is_free(&self, p: &Process, at: usize, pages: usize, below: usize) -> bool {
        let from = at.saturating_sub(below);
        if p.pages.range(from..at + pages).next().is_some() {
            return false;
        }
        p.pages
            .range(at + pages..)
            .next()
            .is_none_or(|(&next, page)| {
                !page.attr.grows || at + pages <= next.saturating_sub(self.bounds.guard)
            })
    }

    /// The highest place below the base; if there is none, the lowest anywhere.
    fn search(&self, p: &Process, pages: usize, grows: bool) -> Option<usize> {
        let b = &self.bounds;
        let below = if grows { b.guard } else { 0 };
        let good = |at: usize, high: usize| {
            at >= b.min && at + pages <= high && self.is_free(p, at, pages, below)
        };
        // A best place touches the base, a mapping, or a mapping's guard.
        let tops = p.pages.iter().flat_map(|(&n, page)| {
            [
                n,
                n.saturating_sub(if page.attr.grows { b.guard } else { 0 }),
            ]
        });
        let highest = std::iter::once(b.base)
            .chain(tops)
            .filter_map(|top| top.checked_sub(pages))
            .filter(|&at| good(at, b.base))
            .max();
        let bottoms = p.pages.keys().flat_map(|&n| [n + 1, n + 1 + below]);
        highest.or_else(|| {
            std::iter::once(b.min)
                .chain(bottoms)
                .filter(|&at| good(at, b.end))
                .min()
        })
    }

    /// munmap(2).
    ///
    /// # Errors
    /// The errno.
    pub fn unmap(&self, p: &mut Process, at: usize, len: usize) -> Result<(), i32> {
        if at % self.bounds.page != 0 || len == 0 {
            return Err(EINVAL);
        }
        let first = at / self.bounds.page;
        let pages = len.div_ceil(self.bounds.page);
        if first
            .checked_add(pages)
            .is_none_or(|end| end > self.bounds.end)
        {
            return Err(EINVAL);
        }
        unsealed(p, first..first + pages)?;
        p.pages.retain(|&n, _| n < first || n >= first + pages);
        Ok(())
    }

    /// mseal(2).
    ///
    /// # Errors
    /// The errno, with nothing changed.
    pub fn seal(&self, p: &mut Process, at: usize, len: usize) -> Result<(), i32> {
        if at % self.bounds.page != 0 {
            return Err(EINVAL);
        }
        let first = at / self.bounds.page;
        let range = first..first + len.div_ceil(self.bounds.page);
        if range.clone().any(|n| !p.pages.contains_key(&n)) {
            return Err(ENOMEM);
        }
        for page in p.pages.range_mut(range).map(|(_, page)| page) {
            page.attr.sealed = true;
        }
        Ok(())
    }

    /// mlock2(2), or munlock(2) where `how` (locked, on fault) says so.
    ///
    /// # Errors
    /// The errno, with the pages before the first hole changed.
    pub fn lock(
        &self,
        p: &mut Process,
        at: usize,
        len: usize,
        how: (bool, bool),
    ) -> Result<(), i32> {
        let page = self.bounds.page;
        for n in at / page..(at + len).div_ceil(page) {
            // Nothing is nothing, wherever it begins.
            if len == 0 && at % page == 0 {
                return Ok(());
            }
            let page = p.pages.get_mut(&n).ok_or(ENOMEM)?;
            (page.attr.locked, page.attr.on_fault) = how;
        }
        Ok(())
    }

    /// mlockall(2) of what is mapped, if that, and of what comes later.
    pub fn lock_all(
        &self,
        p: &mut Process,
        current: Option<(bool, bool)>,
        later: Option<(bool, bool)>,
    ) {
        for page in p.pages.values_mut() {
            let attr = &mut page.attr;
            (attr.locked, attr.on_fault) = current.unwrap_or((attr.locked, attr.on_fault));
        }
        p.later = later.unwrap_or_default();
    }

    /// mremap(2) of a byte range whose first page is in an area up to the page
    /// `area_end`, if in any: what is one area is a question of merging, which is
    /// not the model's. Returns the first page.
    ///
    /// # Errors
    /// The errno, with nothing changed.
    pub fn remap(
        &self,
        p: &mut Process,
        (at, old_len): (usize, usize),
        new_len: usize,
        how: Remap,
        area_end: Option<usize>,
    ) -> Result<usize, i32> {
        let b = self.bounds;
        let given = how.fixed || how.dont_unmap;
        let bad = (given && !how.may_move) || (how.dont_unmap && old_len != new_len);
        if bad || new_len == 0 || at % b.page != 0 {
            return Err(EINVAL);
        }
        let (first, old, new) = (
            at / b.page,
            old_len.div_ceil(b.page),
            new_len.div_ceil(b.page),
        );
        let area_end = area_end.ok_or(EFAULT)?;
        unsealed(p, first..first + 1)?;
        let past_the_end = old > new && first + old > b.end;
        let place = if given {
            if how.to % b.page != 0 {
                return Err(EINVAL);
            }
            let to = how.to / b.page;
            if to + new > b.end || (first + old > to && to + new > first) {
                return Err(EINVAL);
            }
            if how.fixed {
                unsealed(p, to..to + new)?;
                if (to..to + new).contains(&first) {
                    return Err(EFAULT);
                }
                Where::Fixed(how.to)
            } else {
                Where::Hint(Some(how.to))
            }
        } else {
            if past_the_end {
                return Err(EINVAL);
            }
            if new <= old {
                unsealed(p, first + new..first + old)?;
                p.pages.retain(|&n, _| n < first + new || n >= first + old);
                return Ok(first);
            }
            Where::Hint(None)
        };
        if past_the_end {
            return Err(EINVAL);
        }
        let attr = p.pages[&first].attr;
        let kept = old.min(new);
        if kept < old {
            unsealed(p, first..first + old)?;
        }
        if kept == 0 && !attr.shared {
            return Err(EINVAL);
        }
        if first + kept > area_end {
            return Err(EFAULT);
        }
        let free = || p.pages.range(area_end..first + new).next().is_none();
        let at_end = first + old == area_end && first + new <= b.end;
        if !given && at_end && free() {
            self.fill(p, first, old..new, attr);
            return Ok(first);
        }
        if !how.may_move {
            return Err(ENOMEM);
        }
        let to = self.place(p, place, new, false)?;
        if how.fixed {
            p.pages.retain(|&n, _| n < to || n >= to + new);
        }
        let moved: Vec<_> = (first..first + kept).map(|n| p.pages[&n].clone()).collect();
        if how.dont_unmap {
            for page in p.pages.range_mut(first..first + kept).map(|(_, page)| page) {
                page.own = None;
                (page.attr.locked, page.attr.on_fault) = (false, false);
            }
        } else {
            p.pages.retain(|&n, _| n < first || n >= first + old);
        }
        self.fill(p, to, kept..new, attr);
        p.pages.extend(
            moved
                .into_iter()
                .enumerate()
                .map(|(i, page)| (to + i, page)),
        );
        Ok(to)
    }

    /// Maps the pages `part` of a mapping from page `first` on, whose first page has
    /// this backing.
    fn fill(&self, p: &mut Process, first: usize, part: std::ops::Range<usize>, attr: Attr) {
        for i in part {
            let mut attr = attr;
            if let Back::Object { pgoff, .. } = &mut attr.back {
                *pgoff += i as u64;
            }
            p.pages.insert(first + i, PageModel { attr, own: None });
        }
    }

    /// mprotect(2).
    ///
    /// # Errors
    /// The errno; the pages before the first that is missing or denied have
    /// changed, unless one of the range is sealed.
    pub fn protect(&self, p: &mut Process, at: usize, len: usize, prot: Prot) -> Result<(), i32> {
        if at % self.bounds.page != 0 {
            return Err(EINVAL);
        }
        let first = at / self.bounds.page;
        let all = first..first + len.div_ceil(self.bounds.page);
        let stops = |n: &usize| match p.pages.get(n) {
            None => Some((*n, ENOMEM)),
            Some(page) if !page.attr.may.contains(prot) => Some((*n, EACCES)),
            Some(_) => None,
        };
        let stop = all.clone().find_map(|n| stops(&n));
        let range = first..stop.map_or(all.end, |(n, _)| n);
        unsealed(p, all)?;
        for page in p.pages.range_mut(range).map(|(_, page)| page) {
            page.attr.prot = prot;
        }
        stop.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// remap_file_pages(2): `len` is rounded down.
    ///
    /// # Errors
    /// The errno, with nothing changed.
    pub fn rearrange(
        &self,
        p: &mut Process,
        at: usize,
        len: usize,
        offset: u64,
    ) -> Result<(), i32> {
        let page = self.bounds.page;
        let (first, pages) = (at / page, len / page);
        let attr = p.pages.get(&first).map(|page| page.attr).ok_or(EINVAL)?;
        let Back::Object { id, .. } = attr.back else {
            return Err(EINVAL);
        };
        let alike = |n: usize| {
            let other = p.pages.get(&n).map(|page| page.attr);
            other.is_some_and(|other| {
                let same = matches!(other.back, Back::Object { id: i, .. } if i == id);
                same && Attr {
                    back: attr.back,
                    ..other
                } == attr
            })
        };
        if !attr.shared
            || pages == 0
            || offset % page as u64 != 0
            || !(first..first + pages).all(alike)
        {
            return Err(EINVAL);
        }
        unsealed(p, first..first + pages)?;
        let pgoff = offset / page as u64;
        let attr = p.made(Attr {
            on_fault: false,
            dont_copy: false,
            pace: 0,
            back: Back::Object { id, pgoff },
            ..attr
        });
        self.fill(p, first, 0..pages, attr);
        Ok(())
    }

    /// madvise(2).
    ///
    /// # Errors
    /// The errno; EINVAL at the first page that the advice does not fit,
    /// ENOMEM for holes when all else was advised. EPERM where a seal keeps pages.
    pub fn advise(
        &mut self,
        p: &mut Process,
        at: usize,
        len: usize,
        advice: Advice,
    ) -> Result<(), i32> {
        if at % self.bounds.page != 0 {
            return Err(EINVAL);
        }
        let discards = matches!(
            advice,
            Advice::DontNeed | Advice::DontNeedLocked | Advice::DontFork | Advice::WipeOnFork
        );
        let first = at / self.bounds.page;
        let mut range = p.pages.range(first..first + len.div_ceil(self.bounds.page));
        let keeps = |a: &Attr| a.sealed && a.back == Back::Anon && !a.prot.contains(Prot::WRITE);
        if discards && range.any(|(_, page)| keeps(&page.attr)) {
            return Err(EPERM);
        }
        let mut result = Ok(());
        for n in at / self.bounds.page..at / self.bounds.page + len.div_ceil(self.bounds.page) {
            let Some(page) = p.pages.get_mut(&n) else {
                result = Err(ENOMEM);
                continue;
            };
            let a = &mut page.attr;
            match advice {
                Advice::DontNeed if a.locked => return Err(EINVAL),
                Advice::DontNeed | Advice::DontNeedLocked => page.own = None,
                Advice::Remove => match a.back {
                    Back::Object { id, pgoff } if !a.locked => {
                        if !a.shared || !a.may.contains(Prot::WRITE) {
                            return Err(EACCES);
                        }
                        if self.objects[id].key != 0 {
                            return Err(ENODEV);
                        }
                        self.objects[id].pages.remove(&pgoff);
                    }
                    _ => return Err(EINVAL),
                },
                Advice::WipeOnFork if a.shared || a.back != Back::Anon => return Err(EINVAL),
                Advice::WipeOnFork => a.wipe = true,
                Advice::KeepOnFork => a.wipe = false,
                Advice::DontFork => a.dont_copy = true,
                Advice::DoFork => a.dont_copy = false,
                Advice::Normal => a.pace = 0,
                Advice::Sequential => a.pace = 1,
                Advice::Random => a.pace = 2,
                Advice::DontDump | Advice::DoDump => {}
            }
        }
        result
    }

    /// brk(2): returns the new end.
    pub fn brk(&self, p: &mut Process, to: usize, attr: Attr) -> usize {
        let (start, end) = p.brk;
        if to < start {
            return end;
        }
        let (old, new) = (
            end.div_ceil(self.bounds.page),
            to.div_ceil(self.bounds.page),
        );
        if new > old {
            // Linux keeps a page free above the heap.
            if new > self.bounds.end || !self.is_free(p, old, new + 1 - old, 0) {
                return end;
            }
            let attr = p.made(attr);
            for n in old..new {
                p.pages.insert(n, PageModel { attr, own: None });
            }
        } else if unsealed(p, new..old).is_err() {
            return end;
        } else {
            p.pages.retain(|&n, _| n < new || n >= old);
        }
        p.brk.1 = to;
        to
    }

    /// fork(2): returns the child.
    pub fn fork(&self, p: &Process) -> Process {
        let mut child = p.clone();
        child.pages.retain(|_, page| !page.attr.dont_copy);
        child.later = (false, false);
        let locks = |n: &usize| {
            p.pages
                .get(n)
                .map(|page| (page.attr.locked, page.attr.on_fault))
        };
        let seams = p
            .pages
            .keys()
            .filter(|&&n| n > 0 && locks(&(n - 1)) != locks(&n));
        child.seams.extend(seams);
        for page in child.pages.values_mut() {
            (page.attr.locked, page.attr.on_fault) = (false, false);
            if page.attr.wipe {
                page.own = None;
            }
        }
        child
    }

    /// An access to one page, up to the point where bytes are copied. A store
    /// makes a private page the process' own.
    ///
    /// # Errors
    /// The signal.
    pub fn access(&mut self, p: &mut Process, n: usize, access: Access) -> Result<(), Signal> {
        if n >= self.bounds.end {
            return Err(Signal::MapErr);
        }
        if !p.pages.contains_key(&n) && !self.grow(p, n) {
            return Err(Signal::MapErr);
        }
        self.touch(p, n, access)
    }

    fn touch(&mut self, p: &mut Process, n: usize, access: Access) -> Result<(), Signal> {
        let page = p.pages.get_mut(&n).ok_or(Signal::MapErr)?;
        let prot = page.attr.prot;
        // No machine has stores without loads, some have fetches without.
        let implied = access == Access::Read
            && (prot.contains(Prot::WRITE)
                || (prot.contains(Prot::EXEC) && !self.bounds.exec_only));
        let fetched = access == Access::Exec && !self.bounds.no_exec && !prot.is_empty();
        if !prot.allows(access) && !implied && !fetched {
            return Err(Signal::AccErr);
        }
        if page.own.is_some() {
            return Ok(());
        }
        let bytes = match page.attr.back {
            Back::Anon => vec![0; self.bounds.page],
            Back::Object { id, pgoff } => {
                let object = &mut self.objects[id];
                if !object.reaches(pgoff) {
                    return Err(Signal::Bus);
                }
                object.page(pgoff).clone()
            }
        };
        if access == Access::Write && !page.attr.shared {
            page.own = Some(Rc::new(bytes));
        }
        Ok(())
    }

    /// Grows the stack above a page down to it.
    fn grow(&self, p: &mut Process, n: usize) -> bool {
        let Some((&above, page)) = p.pages.range(n..).next() else {
            return false;
        };
        let attr = page.attr;
        let below = p.pages.range(..n).next_back();
        let clear = below.is_none_or(|(&b, page)| {
            page.attr.grows || page.attr.prot.is_empty() || n - (b + 1) >= self.bounds.guard
        });
        let far = above - n >= self.bounds.stack;
        if !attr.grows || n < self.bounds.min || !clear || far {
            return false;
        }
        for i in n..above {
            p.pages.insert(i, PageModel { attr, own: None });
        }
        true
    }

    /// Returns a byte of a page that may be loaded.
    pub fn byte(&mut self, p: &Process, n: usize, offset: usize) -> u8 {
        let page = &p.pages[&n];
        match (&page.own, page.attr.back) {
            (Some(own), _) => own[offset],
            (None, Back::Anon) => 0,
            (None, Back::Object { id, pgoff }) => self.objects[id].page(pgoff)[offset],
        }
    }

    /// Stores a byte into a page that [`Self::access`] let be written to.
    pub fn set_byte(&mut self, p: &mut Process, n: usize, offset: usize, byte: u8) {
        let page = p.pages.get_mut(&n).expect("a mapped page");
        match (&mut page.own, page.attr.back) {
            (Some(own), _) => Rc::make_mut(own)[offset] = byte,
            (None, Back::Object { id, pgoff }) => self.objects[id].page(pgoff)[offset] = byte,
            (None, Back::Anon) => unreachable!("a private page was not made own"),
        }
    }

    /// A copy from or to user memory: how many bytes are done, and how it ends.
    ///
    /// # Errors
    /// EFAULT when not even the first byte is.
    pub fn copy(
        &mut self,
        p: &mut Process,
        at: usize,
        len: usize,
        access: Access,
        mut each: impl FnMut(&mut Self, &mut Process, usize, usize, usize),
    ) -> Result<usize, i32> {
        let mut done = 0;
        while done < len {
            let Some(here) = at.checked_add(done) else {
                break;
            };
            let part = (self.bounds.page - here % self.bounds.page).min(len - done);
            if self.access(p, here / self.bounds.page, access).is_err() {
                break;
            }
            for i in 0..part {
                each(
                    self,
                    p,
                    here / self.bounds.page,
                    here % self.bounds.page + i,
                    done + i,
                );
            }
            done += part;
        }
        if done == 0 && len > 0 {
            Err(EFAULT)
        } else {
            Ok(done)
        }
    }

    /// Faults pages in (MAP_POPULATE): how many bytes are done.
    ///
    /// # Errors
    /// The errno when nothing is.
    pub fn populate(&mut self, p: &mut Process, at: usize, len: usize) -> Result<usize, i32> {
        if at % self.bounds.page != 0 || len == 0 {
            return Err(EINVAL);
        }
        let (first, pages) = (at / self.bounds.page, len.div_ceil(self.bounds.page));
        if first
            .checked_add(pages)
            .is_none_or(|end| end > self.bounds.end)
        {
            return Err(EINVAL);
        }
        for i in 0..pages {
            let n = first + i;
            let error = match p.pages.get(&n).map(|page| page.attr) {
                None => Some(ENOMEM),
                Some(a) if a.prot.is_empty() => Some(EACCES),
                Some(a) => {
                    let access = if a.prot.contains(Prot::WRITE) && !a.shared {
                        Access::Write
                    } else if a.prot.contains(Prot::READ) {
                        Access::Read
                    } else if a.prot.contains(Prot::WRITE) {
                        Access::Write
                    } else {
                        Access::Exec
                    };
                    self.touch(p, n, access).err().map(|_| EFAULT)
                }
            };
            match error {
                Some(error) if i == 0 => return Err(error),
                Some(_) => return Ok(i * self.bounds.page),
                None => {}
            }
        }
        Ok(pages * self.bounds.page)
    }

    /// ftruncate(2) on an object that all these processes may map.
    pub fn resize<'a>(
        &mut self,
        all: impl Iterator<Item = &'a mut Process>,
        id: usize,
        size: usize,
    ) {
        let object = &mut self.objects[id];
        let end = size.div_ceil(self.bounds.page) as u64;
        if size < object.size {
            object.pages.retain(|&n, _| n < end);
            for p in all {
                for page in p.pages.values_mut() {
                    if matches!(page.attr.back, Back::Object { id: i, pgoff } if i == id && pgoff >= end)
                    {
                        page.own = None;
                    }
                }
            }
        }
        let edge = size.min(object.size);
        // An edge between two pages cuts none.
        let cut = object
            .pages
            .get_mut(&((edge / self.bounds.page) as u64))
            .filter(|_| edge % self.bounds.page != 0);
        if let Some(page) = cut {
            page[edge % self.bounds.page..].fill(0);
        }
        object.size = size;
    }

    /// Returns the text of a page's line in /proc/PID/maps: rights and number;
    /// and the byte offset.
    pub fn shown(&self, attr: &Attr) -> (String, u64, u64) {
        let kind = if attr.shared { 's' } else { 'p' };
        let perms = format!("{}{kind}", attr.prot);
        match attr.back {
            Back::Anon => (perms, 0, 0),
            Back::Object { id, pgoff } => {
                (perms, pgoff * self.bounds.page as u64, self.objects[id].key)
            }
        }
    }
}

/// Refuses a change where a page is sealed.
fn unsealed(p: &Process, range: std::ops::Range<usize>) -> Result<(), i32> {
    let mut pages = p.pages.range(range);
    if pages.any(|(_, page)| page.attr.sealed) {
        return Err(EPERM);
    }
    Ok(())
}
