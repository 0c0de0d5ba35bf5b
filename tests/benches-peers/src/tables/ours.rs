//! Our page tables.

use super::{Rights, Table};
use crate::machine::{Bare, Format};
use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::{AttrFlags, Attrs, Entry, PageTableFormat, TableOwner};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_x86_64::{FourLevel, Paging};

/// A user table that no CPU has loaded: flushes are published, nobody is told.
pub struct Ours<'c> {
    table: PageTable<'c, 'static, Bare>,
    tlb: SpaceTlb,
    flags: AttrFlags,
}

impl<'c> Ours<'c> {
    /// Makes a table whose entries hardware may still mark.
    pub fn new(cx: &'c Cx<'static, Bare>, space: u32) -> Self {
        let root = PageTable::create(cx, TableOwner::User, space).expect("a root");
        Self {
            table: PageTable::view(cx, root, TableOwner::User, space),
            tlb: SpaceTlb::new(),
            // Frames that nobody counts.
            flags: AttrFlags::SPECIAL,
        }
    }

    /// Makes a table whose entries are accessed and dirty from the start.
    pub fn settled(cx: &'c Cx<'static, Bare>, space: u32) -> Self {
        let settled = AttrFlags::ACCESSED.union(AttrFlags::DIRTY);
        let mut ours = Self::new(cx, space);
        ours.flags = ours.flags.union(settled);
        ours
    }

    fn cursor(&self, page: usize, pages: usize) -> CursorMut<'_, 'static, Bare> {
        let range = PageRange::with_len(Vpn::new(page), pages).expect("a range");
        CursorMut::new(self.table, &self.tlb, range)
    }
}

impl Table for Ours<'_> {
    fn map(&mut self, page: usize, pages: usize, frame: usize) {
        let attrs = Attrs::user(Prot::RW).with(self.flags);
        let owed = self
            .cursor(page, pages)
            .map(Pfn::new(frame as u64), attrs)
            .expect("a free range");
        owed.settle(self.table.cx(), &self.tlb);
    }

    fn protect(&mut self, page: usize, pages: usize, rights: Rights) {
        let prot = match rights {
            Rights::Read => Prot::READ,
            Rights::ReadWrite => Prot::RW,
        };
        self.cursor(page, pages).protect(prot).expect("rights");
    }

    fn unmap(&mut self, page: usize, pages: usize) {
        let mut gather = TlbGather::new(self.table.cx(), &self.tlb);
        self.cursor(page, pages)
            .unmap(&mut gather)
            .expect("no blocks");
        let _nothing_counted = gather.finish();
    }

    fn translate(&mut self, page: usize) -> usize {
        let format: Format = Paging::new(FourLevel);
        match self.table.translate(Vpn::new(page)) {
            Some((word, level)) => match format.decode(word, level) {
                Entry::Leaf { pfn, .. } => pfn.as_usize(),
                _ => 0,
            },
            None => 0,
        }
    }
}
