//! Addresses for kernel mappings: a bit for each page of a window.
//!
//! ```text
//!   page     0    1   2   3    4    5   6    7 ...
//!   used     ·    █   █   █    █    █   █    ·
//!   end      ·    ·   ·   ·    █    ·   █    ·
//!          guard  area        guard area guard
//! ```
//!
//! Each area is followed by a page that is never mapped, its *guard*, which
//! carries the end bit; page 0 guards the first area. So a run off either end
//! of an area faults, and an area's length is known from its start.
//!
//! The bits lie in frames, allocated when a part of the window is first used
//! or in advance ([`Window::prepare`]): half of a frame's words are used bits,
//! half are end bits. 64 frames of 4 KiB cover 4 GiB of window.

use crate::addr::{Pfn, Vpn};
use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::format::WordCell;
use crate::platform::{PhysMemory, Platform};
use crate::range::PageRange;
use crate::sync::AtomicU32;

const CHUNKS: usize = 64;

/// Where an area may begin: at pages that are `skew` modulo `align`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub(super) align: usize,
    pub(super) skew: usize,
}

/// The window and its bits.
#[derive(Debug)]
pub(super) struct Window {
    pages: PageRange,
    /// Frames of bits; zero: none yet, and all pages of its part are free.
    chunks: [u32; CHUNKS],
    /// Where the next search begins.
    hint: usize,
}

#[derive(Clone, Copy)]
enum Bits {
    Used,
    End,
}

impl Window {
    pub(super) const fn new(pages: PageRange) -> Self {
        Self {
            pages,
            chunks: [0; CHUNKS],
            hint: 1,
        }
    }

    /// Allocates all bits; returns the pages that they cover.
    pub(super) fn prepare<P: Platform>(
        &mut self,
        cx: &Cx<'_, P>,
    ) -> Result<PageRange, OutOfMemory> {
        let total = self.total(cx);
        if let Some(last) = total.checked_sub(1) {
            self.make_chunks(cx, 0, last)?;
        }
        let start = self.pages.start();
        Ok(PageRange::new(start, start.saturating_add(total)))
    }

    /// Takes an area of `pages` pages and its guard; `None` when none fits.
    pub(super) fn take<P: Platform>(
        &mut self,
        cx: &Cx<'_, P>,
        pages: usize,
        place: Placement,
    ) -> Result<Option<PageRange>, OutOfMemory> {
        let Some(len) = pages.checked_add(1) else {
            return Ok(None);
        };
        let found = self
            .find(cx, self.hint, len, place)
            .or_else(|| self.find(cx, 1, len, place));
        let Some(first) = found else { return Ok(None) };
        let guard = first.saturating_add(pages);
        self.make_chunks(cx, first, guard)?;
        for i in first..=guard {
            self.put(cx, i, Bits::Used, Put::Set);
        }
        self.put(cx, guard, Bits::End, Put::Set);
        self.hint = guard.saturating_add(1);
        let start = self.pages.start().saturating_add(first);
        Ok(Some(PageRange::new(start, start.saturating_add(pages))))
    }

    /// Returns the area that begins at a page, without its guard.
    pub(super) fn area<P: Platform>(&self, cx: &Cx<'_, P>, start: Vpn) -> Option<PageRange> {
        if !self.pages.contains(start) {
            return None;
        }
        let first = start.pages_since(self.pages.start());
        let before = first.checked_sub(1)?;
        let begins = !self.get(cx, before, Bits::Used) || self.get(cx, before, Bits::End);
        if !begins || !self.get(cx, first, Bits::Used) {
            return None;
        }
        let guard = (first..self.total(cx)).find(|&i| self.get(cx, i, Bits::End))?;
        Some(PageRange::new(
            start,
            self.pages.start().saturating_add(guard),
        ))
    }

    /// Gives an area that [`Self::area`] returned back.
    pub(super) fn give<P: Platform>(&mut self, cx: &Cx<'_, P>, area: PageRange) {
        let first = area.start().pages_since(self.pages.start());
        let guard = first.saturating_add(area.pages());
        for i in first..=guard {
            self.put(cx, i, Bits::Used, Put::Clear);
        }
        self.put(cx, guard, Bits::End, Put::Clear);
        self.hint = self.hint.min(first);
    }

    /// Returns the pages of the window that there can be bits for.
    fn total<P: Platform>(&self, cx: &Cx<'_, P>) -> usize {
        let most = pages_per_chunk(cx).saturating_mul(CHUNKS);
        self.pages.pages().min(most)
    }

    fn find<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        from: usize,
        len: usize,
        place: Placement,
    ) -> Option<usize> {
        let base = self.pages.start().as_usize();
        let mask = place.align.wrapping_sub(1);
        let mut at = from;
        loop {
            // Up to the next page that is `skew` modulo `align`.
            let off = place.skew.wrapping_sub(base.wrapping_add(at)) & mask;
            at = at.checked_add(off)?;
            let end = at.checked_add(len)?;
            if end > self.total(cx) {
                return None;
            }
            // From behind: what is in the way lets us skip the most.
            match (at..end).rev().find(|&i| self.get(cx, i, Bits::Used)) {
                Some(used) => at = used.saturating_add(1),
                None => return Some(at),
            }
        }
    }

    fn make_chunks<P: Platform>(
        &mut self,
        cx: &Cx<'_, P>,
        first: usize,
        last: usize,
    ) -> Result<(), OutOfMemory> {
        let per_chunk = pages_per_chunk(cx);
        let chunk_of = |page: usize| page.checked_div(per_chunk).unwrap_or(CHUNKS);
        for chunk in chunk_of(first)..=chunk_of(last) {
            let slot = self.chunks.get_mut(chunk).ok_or(OutOfMemory)?;
            if *slot == 0 {
                let pfn = cx.frames().alloc(cx, 0)?;
                cx.platform().memory().make_words::<AtomicU32>(pfn, 0);
                *slot = u32::try_from(pfn.as_u64()).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// Returns the word and the mask of a page's bit, where there are any yet.
    fn bit<'m, P: Platform>(
        &self,
        cx: &Cx<'m, P>,
        page: usize,
        bits: Bits,
    ) -> Option<(&'m AtomicU32, u32)> {
        let per_chunk = pages_per_chunk(cx);
        let chunk = *self.chunks.get(page.checked_div(per_chunk)?)?;
        if chunk == 0 {
            return None;
        }
        let words = cx
            .platform()
            .memory()
            .words::<AtomicU32>(Pfn::new(chunk.into()), 0);
        let i = page.checked_rem(per_chunk)?;
        let half = match bits {
            Bits::Used => 0,
            Bits::End => per_chunk / 32,
        };
        let word = words.get(half.saturating_add(i / 32))?;
        let shift = u32::try_from(i & 31).unwrap_or(0);
        Some((word, 1u32.wrapping_shl(shift)))
    }

    fn get<P: Platform>(&self, cx: &Cx<'_, P>, page: usize, bits: Bits) -> bool {
        self.bit(cx, page, bits)
            .is_some_and(|(word, mask)| WordCell::load(word) & mask != 0)
    }

    fn put<P: Platform>(&self, cx: &Cx<'_, P>, page: usize, bits: Bits, put: Put) {
        if let Some((word, mask)) = self.bit(cx, page, bits) {
            let old = WordCell::load(word);
            let new = match put {
                Put::Set => old | mask,
                Put::Clear => old & !mask,
            };
            WordCell::store(word, new);
        }
    }
}

#[derive(Clone, Copy)]
enum Put {
    Set,
    Clear,
}

/// Returns how many pages one frame of bits covers: two bits each.
fn pages_per_chunk<P: Platform>(cx: &Cx<'_, P>) -> usize {
    crate::addr::page_size(cx.page_shift()).saturating_mul(8) / 2
}
