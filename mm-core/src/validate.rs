//! Whole-space checks: every invariant that can be computed again is.
//!
//! For tests and for kernels that look for a bug. [`AddressSpace::validate`]
//! takes nothing on trust: it goes through the areas, then through every
//! entry, and from each entry to its page and back by reverse mapping.
//!
//! ```text
//!  areas ──► order, gaps, chains (A1, A2) ──► counts equal their sums
//!  entries ─► inside an area, no right beyond it (D3)
//!     └─► page: kind, owner, offset
//!           ├─► refs ≥ maps == entries that a reverse walk finds (G1, E7)
//!           ├─► this entry is among them
//!           └─► writable and private: the only one (E1); zero page: never (E8)
//! ```
//!
//! One space is looked at, but a page's other mappings are found through the
//! reverse map wherever they are. So when all spaces of a machine pass, the
//! map count of each page equals its entries in all of them.
//!
//! The answer is only meaningful at rest: no verb, fault or transfer of a page
//! of the space under way.

use crate::addr::{Pfn, Vpn};
use crate::cx::Cx;
use crate::fault::counted;
use crate::format::{AttrFlags, Attrs, Entry, NonPresentKind, PageTableFormat, TableOwner};
use crate::mm::Mm;
use crate::object::{ObjectKind, ObjectView};
use crate::page::{Page, PageFlags};
use crate::platform::Platform;
use crate::pool::Handle;
use crate::prot::Prot;
use crate::range::PageRange;
use crate::rmap::{Hit, RmapFlaw, walk_areas};
use crate::space::{AddressSpace, Counts, Nodes};
use crate::table::PageTable;
use crate::vma::{Delta, Vma, VmaFlags, VmaFlaw};
use core::ops::ControlFlow;

/// What is wrong with a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpaceFlaw {
    /// The tree of areas is (A1, A2).
    Areas(VmaFlaw),
    /// The chains of an area are (A2, G2).
    Chains(RmapFlaw),
    /// An area has no anon_vma although it has private pages, or is marked
    /// although nobody changes it.
    Marked(Vpn),
    /// An area lies outside of user space (A1).
    Outside(PageRange),
    /// An area has rights beyond those it may ever have (A1).
    Rights(Vpn),
    /// An area is not in the map of its object (G2).
    Unmapped(Vpn),
    /// A count is not the sum over the areas or entries (A2, I).
    Count(&'static str, usize, usize),
    /// A table counts other entries than it has.
    Live(Vpn, u32, u32),
    /// An entry is in no area.
    Stray(Vpn),
    /// An entry allows what its area does not (D3).
    Entry(Vpn, Prot),
    /// An entry is of a kind, or for a frame, that has no business there.
    Frame(Vpn, Pfn),
    /// The zero page is writable, dirty or counted (E8).
    Zero(Vpn),
    /// A page does not say that it belongs where it is mapped, or was truncated.
    Owner(Vpn, Pfn),
    /// A page, or a private copy of one, is mapped past the end of its object (G5).
    PastEnd(Vpn, Pfn),
    /// A private page is writable but not this entry's alone (E1).
    Shared(Vpn, Pfn),
    /// A writable page of a file is not dirty (G7).
    Clean(Vpn, Pfn),
    /// A page has fewer references than maps (E7).
    Refs(Vpn, u32, u32),
    /// The reverse map finds fewer or more entries than are counted (G1).
    Maps(Vpn, u32, u32),
    /// The reverse map does not find the entry (G1).
    NotFound(Vpn, Pfn),
}

/// What a sound space holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceSeen {
    /// Areas.
    pub areas: usize,
    /// Pages of areas.
    pub pages: usize,
    /// Entries of anonymous pages.
    pub anon: usize,
    /// Entries of pages of objects.
    pub file: usize,
    /// Entries of the zero page.
    pub zero: usize,
    /// Entries of devices and other marks.
    pub other: usize,
}

impl<P: Platform> Mm<P> {
    /// Returns whether a page of user memory is one that a memory-only object
    /// holds, which is charged for that ([`Platform::try_charge`]).
    pub fn is_memory_only(&self, page: &Page) -> bool {
        let not_held = PageFlags::ANON | PageFlags::DETACHED;
        let owner = Handle::from_raw(page.user().owner());
        owner
            .filter(|_| !page.flags().intersects(not_held))
            .map(|object| self.objects.get(self.frames(), object).kind())
            == Some(ObjectKind::Memory)
    }
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Checks all areas, tables, counts and pages of the space against one
    /// another; returns what there is.
    ///
    /// # Errors
    /// The first flaw found.
    ///
    /// # Locks
    /// Takes the space lock for writing, then what reverse walks take. Makes
    /// pages LOCKED for a moment.
    pub fn validate(&self) -> Result<SpaceSeen, SpaceFlaw> {
        let cx = self.mm().cx();
        let nodes = Nodes::new(&cx, self.mm());
        let node = self.node();
        let _layout = self.write_alone(&cx);
        if let Some(left) = node.vmas.iter(&nodes).find(|&h| {
            let vma = nodes.vma(h);
            vma.is_marked() || vma.is_dying()
        }) {
            return Err(SpaceFlaw::Marked(nodes.vma(left).start()));
        }
        // Faults that hold no space lock wait outside, too.
        self.mark_all(&cx, &nodes);
        let seen = self.look_at_all(&cx, &nodes);
        self.unmark_all(&nodes);
        seen
    }

    fn look_at_all(
        &self,
        cx: &Cx<'m, P>,
        nodes: &Nodes<'_, 'm, P>,
    ) -> Result<SpaceSeen, SpaceFlaw> {
        let node = self.node();
        let check = Check {
            space: self,
            cx,
            nodes,
            table: self.table(cx),
        };
        let mut seen = SpaceSeen {
            areas: node.vmas.check(nodes).map_err(SpaceFlaw::Areas)?,
            ..SpaceSeen::default()
        };
        for handle in node.vmas.iter(nodes) {
            check.area(handle)?;
        }
        let sum = Delta::of_tree(&node.vmas, nodes);
        seen.pages = sum.pages.unsigned_abs();
        check.entries(&mut seen)?;
        node.settle(cx, self.key());
        counts_agree(&node.counts, &seen, &sum)?;
        Ok(seen)
    }
}

fn counts_agree(counts: &Counts, seen: &SpaceSeen, sum: &Delta) -> Result<(), SpaceFlaw> {
    for (name, have, want) in [
        ("areas", counts.areas.get(), seen.areas),
        ("areas of deltas", sum.areas.unsigned_abs(), seen.areas),
        ("total", counts.total.get(), seen.pages),
        ("data", counts.data.get(), sum.data.unsigned_abs()),
        ("locked", counts.locked.get(), sum.locked.unsigned_abs()),
        ("anon", counts.anon.get(), seen.anon),
        ("file", counts.file.get(), seen.file),
    ] {
        if have != want {
            return Err(SpaceFlaw::Count(name, have, want));
        }
    }
    Ok(())
}

/// One look at a space whose lock is held.
struct Check<'a, 'c, 'm, P: Platform> {
    space: &'a AddressSpace<'m, P>,
    cx: &'c Cx<'m, P>,
    nodes: &'a Nodes<'c, 'm, P>,
    table: PageTable<'c, 'm, P>,
}

impl<'c, 'm, P: Platform> Check<'_, 'c, 'm, P> {
    fn area(&self, handle: Handle<Vma>) -> Result<(), SpaceFlaw> {
        let vma = self.nodes.vma(handle);
        let flags = vma.flags();
        if vma.end() > self.space.user_end() {
            return Err(SpaceFlaw::Outside(vma.range()));
        }
        if !flags.may().contains(flags.prot()) {
            return Err(SpaceFlaw::Rights(vma.start()));
        }
        self.nodes.rmap().check(handle).map_err(SpaceFlaw::Chains)?;
        if let Some(object) = Handle::from_raw(vma.object_raw()) {
            let map = ObjectView::new(self.space.mm(), self.cx, object).read_map();
            let (first, last) = (vma.pgoff() as u64, vma.last_pgoff() as u64);
            if !map.overlaps(self.nodes, first, last).any(|h| h == handle) {
                return Err(SpaceFlaw::Unmapped(vma.start()));
            }
        }
        Ok(())
    }

    /// Goes through every entry of user space.
    fn entries(&self, seen: &mut SpaceSeen) -> Result<(), SpaceFlaw> {
        let end = self.space.user_end();
        let mut at = Vpn::new(0);
        while let Some(leaf) = self.table.next_leaf(PageRange::new(at, end)) {
            let range = leaf.range();
            let counted = leaf.live();
            drop(leaf);
            let mut live = 0u32;
            for page in range.iter() {
                if let Some((word, level)) = self.table.translate(page) {
                    live = live.saturating_add(1);
                    let entry = self.cx.format().decode(word, level);
                    self.entry(page, entry, level, seen)?;
                }
            }
            if counted != live {
                return Err(SpaceFlaw::Live(range.start(), counted, live));
            }
            at = range.end();
        }
        Ok(())
    }

    fn entry(
        &self,
        page: Vpn,
        entry: Entry,
        level: u8,
        seen: &mut SpaceSeen,
    ) -> Result<(), SpaceFlaw> {
        let node = self.space.node();
        let Some(handle) = node.vmas.find(self.nodes, page) else {
            return Err(SpaceFlaw::Stray(page));
        };
        let vma = self.nodes.vma(handle);
        match entry {
            Entry::Leaf { pfn, attrs } => {
                if level != 1 {
                    return Err(SpaceFlaw::Frame(page, pfn));
                }
                rights(self.cx.format(), vma, page, attrs)?;
                self.frame(handle, page, entry, Some(attrs), seen)
            }
            Entry::NonPresent(np) if np.kind == NonPresentKind::ProtNone => {
                self.frame(handle, page, entry, None, seen)
            }
            Entry::NonPresent(_) => {
                seen.other = seen.other.saturating_add(1);
                Ok(())
            }
            Entry::Empty | Entry::Table(_) => Err(SpaceFlaw::Frame(page, Pfn::new(0))),
        }
    }

    /// Checks the frame of an entry; no attributes: one that was taken away by
    /// `PROT_NONE`.
    fn frame(
        &self,
        handle: Handle<Vma>,
        page: Vpn,
        entry: Entry,
        attrs: Option<Attrs>,
        seen: &mut SpaceSeen,
    ) -> Result<(), SpaceFlaw> {
        let vma = self.nodes.vma(handle);
        let Some((pfn, flags)) = entry.frame() else {
            return Err(SpaceFlaw::Frame(page, Pfn::new(0)));
        };
        let writable = attrs.is_some_and(|a| a.prot.contains(Prot::WRITE));
        let special = flags.contains(AttrFlags::SPECIAL);
        if vma.flags().contains(VmaFlags::PFN_MAP) {
            // Its entries are the device's, one after the other, for ever.
            if !special || pfn.as_u64() != vma.pgoff_of(page) as u64 {
                return Err(SpaceFlaw::Frame(page, pfn));
            }
            seen.other = seen.other.saturating_add(1);
            return Ok(());
        }
        if special {
            let zero = self.cx.frames().zero_page() == Some(pfn);
            let written = writable || flags.contains(AttrFlags::DIRTY);
            if !zero || written || vma.object_raw() != 0 {
                return Err(SpaceFlaw::Zero(page));
            }
            seen.zero = seen.zero.saturating_add(1);
            return Ok(());
        }
        let Some(record) = counted(self.cx, entry) else {
            return Err(SpaceFlaw::Frame(page, pfn));
        };
        if !self.reaches(vma, page) {
            return Err(SpaceFlaw::PastEnd(page, pfn));
        }
        let anon = record.has(PageFlags::ANON);
        let user = record.user();
        if user.index() != vma.pgoff_of(page) as u64
            || user.owner() == 0
            || (!anon && (user.owner() != vma.object_raw() || record.has(PageFlags::DETACHED)))
            || (anon && vma.flags().contains(VmaFlags::SHARED))
        {
            return Err(SpaceFlaw::Owner(page, pfn));
        }
        if anon {
            seen.anon = seen.anon.saturating_add(1);
        } else {
            seen.file = seen.file.saturating_add(1);
        }
        if writable {
            self.writable(vma, page, pfn, record)?;
        }
        if record.refs() < user.maps() {
            return Err(SpaceFlaw::Refs(page, record.refs(), user.maps()));
        }
        self.found(handle, page, pfn, record)
    }

    /// Returns whether a page of an area is before the end of its object, if it has one: a
    /// truncation takes private copies, too.
    fn reaches(&self, vma: &Vma, page: Vpn) -> bool {
        Handle::from_raw(vma.object_raw()).is_none_or(|object| {
            let view = ObjectView::new(self.space.mm(), self.cx, object);
            view.reaches(vma.pgoff_of(page) as u64)
        })
    }

    /// Checks a page that may be written to without a fault.
    fn writable(&self, vma: &Vma, page: Vpn, pfn: Pfn, record: &Page) -> Result<(), SpaceFlaw> {
        if !vma.flags().contains(VmaFlags::SHARED) {
            let alone =
                record.has(PageFlags::ANON | PageFlags::EXCLUSIVE) && record.user().maps() == 1;
            return if alone {
                Ok(())
            } else {
                Err(SpaceFlaw::Shared(page, pfn))
            };
        }
        let kept = Handle::from_raw(vma.object_raw())
            .map(|h| ObjectView::new(self.space.mm(), self.cx, h).object().kind());
        if kept == Some(ObjectKind::File) && !record.has(PageFlags::DIRTY) {
            return Err(SpaceFlaw::Clean(page, pfn));
        }
        Ok(())
    }

    /// Walks from the page back to its entries.
    fn found(
        &self,
        handle: Handle<Vma>,
        page: Vpn,
        pfn: Pfn,
        record: &'m Page,
    ) -> Result<(), SpaceFlaw> {
        let mut hits = 0u32;
        let mut here = false;
        let visit = |hit: Hit<'_>| {
            if self.maps(hit.area.space(), hit.page, pfn) {
                hits = hits.saturating_add(1);
                here |= hit.vma == handle && hit.page == page;
            }
            ControlFlow::<()>::Continue(())
        };
        if record.has(PageFlags::ANON) {
            if !record.try_lock_page() {
                // A transfer is under way: not at rest.
                return Err(SpaceFlaw::Owner(page, pfn));
            }
            let _all = self.nodes.rmap().walk_anon(record, visit);
            record.unlock_page();
        } else if let Some(object) = Handle::from_raw(record.user().owner()) {
            let map = ObjectView::new(self.space.mm(), self.cx, object).read_map();
            let _all = walk_areas(map.tree(), self.nodes, record.user().index(), visit);
        }
        if !here {
            return Err(SpaceFlaw::NotFound(page, pfn));
        }
        let counted = record.user().maps();
        if counted == hits {
            Ok(())
        } else {
            Err(SpaceFlaw::Maps(page, counted, hits))
        }
    }

    /// Returns whether a page of a space leads to a frame.
    fn maps(&self, space: u32, page: Vpn, pfn: Pfn) -> bool {
        let Some(handle) = Handle::from_raw(space) else {
            return false;
        };
        let mm = self.space.mm();
        let root = mm.spaces.get(mm.frames(), handle).root();
        let table = PageTable::view(self.cx, root, TableOwner::User, space);
        let Some((word, level)) = table.translate(page) else {
            return false;
        };
        self.cx.format().decode(word, level).counted() == Some(pfn)
    }
}

/// Checks that an entry allows nothing that its area does not, beyond what the
/// format cannot forbid (loads of what may run, fetches of what may be loaded).
fn rights<F: PageTableFormat>(
    format: F,
    vma: &Vma,
    page: Vpn,
    attrs: Attrs,
) -> Result<(), SpaceFlaw> {
    let mut most = vma.flags().writable_page_prot();
    if !most.is_empty() {
        most |= Prot::READ;
    }
    let widest = format.encode_leaf(Pfn::new(0), Attrs::user(most), 1);
    if let Ok(Entry::Leaf { attrs, .. }) = widest.map(|word| format.decode(word, 1)) {
        most |= attrs.prot;
    }
    if most.contains(attrs.prot) && attrs.flags.contains(AttrFlags::USER) {
        Ok(())
    } else {
        Err(SpaceFlaw::Entry(page, attrs.prot))
    }
}
