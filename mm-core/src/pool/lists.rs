//! The books of slabs: which have a free place, and where.
//!
//! A slab's books are in its frame's record: how many places are in use, the
//! first free one (plus one), and prev and next on its list (frame numbers,
//! zero for none). Free places are linked through a word of their own, which
//! the caller reads and writes: nodes and bytes keep it differently.

use crate::addr::Pfn;
use crate::page::{Frames, Kind, Page};
use crate::platform::Platform;
use crate::sync::Ordering;

const LIVE: usize = 0;
const FREE: usize = 1;
const PREV: usize = 2;
const NEXT: usize = 3;

/// Heads of the lists of slabs: frame numbers, zero for none. Full slabs are
/// on no list.
#[derive(Debug)]
pub(super) struct Lists {
    partial: u32,
    empty: u32,
    /// Counts batches to and from the CPUs' caches; wraps.
    transfers: u32,
}

#[derive(Clone, Copy)]
enum List {
    Partial,
    Empty,
}

/// What giving a place back did to its slab.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// Other places are still in use.
    InUse,
    /// It is empty now, and the only empty one.
    Empty,
    /// It is empty now, and not the only one.
    EmptyToo,
}

impl Lists {
    /// Makes the lists of no slabs.
    pub(super) const fn new() -> Self {
        Self {
            partial: 0,
            empty: 0,
            transfers: 0,
        }
    }

    /// Returns how many batches went to and from caches. While the number stays the
    /// same, no free place changed between here and there.
    pub(super) const fn transfers(&self) -> u32 {
        self.transfers
    }

    /// Notes that so many places go to a cache, or come from one.
    pub(super) const fn count_transfer(&mut self, places: u32) {
        if places > 0 {
            self.transfers = self.transfers.wrapping_add(1);
        }
    }

    /// Adds a slab whose places `0..places` are free and linked downwards: the
    /// last is first, and place `i` links to `i` (that is place `i - 1`, plus one).
    pub(super) fn add<P: Platform>(&mut self, frames: &Frames<P>, slab: u32, places: u32) {
        if let Some(page) = slab_record(frames, slab) {
            set(page, LIVE, 0);
            set(page, FREE, places);
            // Empty until someone takes from it: another may have been faster,
            // and a slab that nobody needs must be found when empty ones go.
            self.push(frames, List::Empty, slab);
        }
    }

    /// Takes a free place: the slab and the place's number. `link` reads the
    /// word of a free place.
    pub(super) fn take<P: Platform>(
        &mut self,
        frames: &Frames<P>,
        link: impl FnOnce(u32, u32) -> u32,
    ) -> Option<(u32, u32)> {
        if self.partial == 0 {
            let spare = self.empty;
            if spare == 0 {
                return None;
            }
            self.remove(frames, List::Empty, spare);
            self.push(frames, List::Partial, spare);
        }
        let slab = self.partial;
        let page = slab_record(frames, slab)?;
        let place = get(page, FREE).checked_sub(1)?;
        let rest = link(slab, place);
        set(page, FREE, rest);
        set(page, LIVE, get(page, LIVE).saturating_add(1));
        if rest == 0 {
            self.remove(frames, List::Partial, slab);
        }
        Some((slab, place))
    }

    /// Gives a place back. `link` writes the word of a free place.
    pub(super) fn give<P: Platform>(
        &mut self,
        frames: &Frames<P>,
        slab: u32,
        place: u32,
        link: impl FnOnce(u32),
    ) -> Given {
        let Some(page) = slab_record(frames, slab) else {
            debug_assert!(false, "frame {slab:#x} is not a slab");
            return Given::InUse;
        };
        let (live, first) = (get(page, LIVE), get(page, FREE));
        debug_assert!(live > 0, "a place of slab {slab:#x} was freed twice");
        link(first);
        set(page, FREE, place.saturating_add(1));
        set(page, LIVE, live.saturating_sub(1));
        if live > 1 {
            if first == 0 {
                self.push(frames, List::Partial, slab);
            }
            return Given::InUse;
        }
        if first != 0 {
            self.remove(frames, List::Partial, slab);
        }
        let others = self.empty != 0;
        self.push(frames, List::Empty, slab);
        if others {
            Given::EmptyToo
        } else {
            Given::Empty
        }
    }

    /// Takes an empty slab off the lists.
    pub(super) fn forget_empty<P: Platform>(&mut self, frames: &Frames<P>, slab: u32) {
        self.remove(frames, List::Empty, slab);
    }

    /// Takes all empty slabs off the lists: the first, see [`next_empty`].
    pub(super) fn take_empty(&mut self) -> u32 {
        core::mem::take(&mut self.empty)
    }

    fn head(&mut self, list: List) -> &mut u32 {
        match list {
            List::Partial => &mut self.partial,
            List::Empty => &mut self.empty,
        }
    }

    fn push<P: Platform>(&mut self, frames: &Frames<P>, list: List, slab: u32) {
        let next = core::mem::replace(self.head(list), slab);
        if let Some(page) = slab_record(frames, slab) {
            set(page, PREV, 0);
            set(page, NEXT, next);
        }
        if let Some(next) = slab_record(frames, next) {
            set(next, PREV, slab);
        }
    }

    fn remove<P: Platform>(&mut self, frames: &Frames<P>, list: List, slab: u32) {
        let Some(page) = slab_record(frames, slab) else {
            return;
        };
        let (prev, next) = (get(page, PREV), get(page, NEXT));
        match slab_record(frames, prev) {
            Some(prev) => set(prev, NEXT, next),
            None => *self.head(list) = next,
        }
        if let Some(next) = slab_record(frames, next) {
            set(next, PREV, prev);
        }
    }
}

/// Returns the empty slab after this one, of those taken off the lists.
pub(super) fn next_empty<P: Platform>(frames: &Frames<P>, slab: u32) -> u32 {
    slab_record(frames, slab).map_or(0, |page| get(page, NEXT))
}

/// Returns the record of a frame if it is a slab; none for zero.
pub(super) fn slab_record<P: Platform>(frames: &Frames<P>, slab: u32) -> Option<&Page> {
    let page = frames.page(Pfn::new(u64::from(slab)))?;
    (page.kind() == Kind::Slab).then_some(page)
}

// The lock of the lists orders all accesses.
fn get(page: &Page, word: usize) -> u32 {
    page.word(word).load(Ordering::Relaxed)
}

fn set(page: &Page, word: usize, value: u32) {
    page.word(word).store(value, Ordering::Relaxed);
}
