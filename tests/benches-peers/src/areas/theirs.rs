//! The peers' sets of areas. None but `memory_set` looks for overlaps.

use super::{Areas, Kind};
use intrusive_collections::{Bound, KeyAdapter, RBTree, RBTreeLink, intrusive_adapter};
use memory_addr::{AddrRange, VirtAddr};
use memory_set::{MappingBackend, MemoryArea, MemorySet};
use std::cell::Cell;
use std::collections::BTreeMap;

/// What an area holds besides its range.
#[derive(Clone, Copy)]
struct Content {
    _kind: Kind,
    _object: u32,
    _offset: usize,
    _anon: usize,
}

impl Content {
    fn new(kind: Kind) -> Self {
        Self {
            _kind: kind,
            _object: 0,
            _offset: 0,
            _anon: 0,
        }
    }
}

/// The standard library's `BTreeMap`, by start.
pub struct BTree(BTreeMap<usize, (usize, Content)>);

impl BTree {
    pub fn new() -> Self {
        Self(BTreeMap::new())
    }
}

impl Areas for BTree {
    fn insert(&mut self, start: usize, end: usize, kind: Kind) {
        self.0.insert(start, (end, Content::new(kind)));
    }

    fn find(&self, page: usize) -> Option<usize> {
        let (&start, &(end, _)) = self.0.range(..=page).next_back()?;
        (page < end).then_some(start)
    }

    fn punch(&mut self, start: usize, end: usize) {
        let (_, area) = self.0.range_mut(..=start).next_back().expect("an area");
        let right = *area;
        area.0 = start;
        self.0.insert(end, right);
    }

    fn map_unmap(&mut self, low: usize, high: usize) {
        let mut above = high;
        for (&start, &(end, _)) in self.0.iter().rev() {
            if end < above {
                break;
            }
            above = start;
        }
        assert!(above > low, "a gap");
        self.insert(above - 1, above, Kind::C);
        self.0.remove(&(above - 1));
    }

    fn walk(&self) -> usize {
        self.0.values().map(|(end, _)| end).sum()
    }
}

/// The red-black tree of `intrusive-collections`, in boxes.
pub struct Intrusive(RBTree<ByStart>);

struct Area {
    link: RBTreeLink,
    start: usize,
    end: Cell<usize>,
    content: Content,
}

intrusive_adapter!(ByStart = Box<Area>: Area { link => RBTreeLink });

impl<'a> KeyAdapter<'a> for ByStart {
    type Key = usize;

    fn get_key(&self, area: &'a Area) -> usize {
        area.start
    }
}

impl Intrusive {
    pub fn new() -> Self {
        Self(RBTree::new(ByStart::new()))
    }

    fn put(&mut self, start: usize, end: usize, content: Content) {
        self.0.insert(Box::new(Area {
            link: RBTreeLink::new(),
            start,
            end: Cell::new(end),
            content,
        }));
    }
}

impl Areas for Intrusive {
    fn insert(&mut self, start: usize, end: usize, kind: Kind) {
        self.put(start, end, Content::new(kind));
    }

    fn find(&self, page: usize) -> Option<usize> {
        let area = self.0.upper_bound(Bound::Included(&page)).get()?;
        (page < area.end.get()).then_some(area.start)
    }

    fn punch(&mut self, start: usize, end: usize) {
        let at = self.0.upper_bound(Bound::Included(&start));
        let area = at.get().expect("an area");
        let (old_end, content) = (area.end.replace(start), area.content);
        self.put(end, old_end, content);
    }

    fn map_unmap(&mut self, low: usize, high: usize) {
        let mut above = high;
        let mut at = self.0.back();
        while let Some(area) = at.get() {
            if area.end.get() < above {
                break;
            }
            above = area.start;
            at.move_prev();
        }
        assert!(above > low, "a gap");
        self.insert(above - 1, above, Kind::C);
        let page = above - 1;
        self.0.find_mut(&page).remove().expect("the area");
    }

    fn walk(&self) -> usize {
        self.0.iter().map(|area| area.end.get()).sum()
    }
}

/// The crate `memory_set`, over a page table that does nothing.
pub struct Set(MemorySet<Nothing>);

#[derive(Clone)]
struct Nothing {
    _content: Content,
}

impl MappingBackend for Nothing {
    type Addr = VirtAddr;
    type Flags = u8;
    type PageTable = ();

    fn map(&self, _start: VirtAddr, _size: usize, _flags: u8, (): &mut ()) -> bool {
        true
    }
    fn unmap(&self, _start: VirtAddr, _size: usize, (): &mut ()) -> bool {
        true
    }
    fn protect(&self, _start: VirtAddr, _size: usize, _flags: u8, (): &mut ()) -> bool {
        true
    }
}

impl Set {
    pub fn new() -> Self {
        Self(MemorySet::new())
    }
}

fn addr(page: usize) -> VirtAddr {
    VirtAddr::from(page << 12)
}

impl Areas for Set {
    fn insert(&mut self, start: usize, end: usize, kind: Kind) {
        let backend = Nothing {
            _content: Content::new(kind),
        };
        let area = MemoryArea::new(addr(start), (end - start) << 12, kind as u8, backend);
        self.0.map(area, &mut (), false).expect("a free range");
    }

    fn find(&self, page: usize) -> Option<usize> {
        Some(self.0.find(addr(page))?.start().as_usize() >> 12)
    }

    fn punch(&mut self, start: usize, end: usize) {
        self.0
            .unmap(addr(start), (end - start) << 12, &mut ())
            .expect("areas");
    }

    fn map_unmap(&mut self, low: usize, high: usize) {
        let limit = AddrRange::new(addr(low), addr(high));
        let gap = self.0.find_free_area(addr(low), 1 << 12, limit, 1 << 12);
        let page = gap.expect("a gap").as_usize() >> 12;
        self.insert(page, page + 1, Kind::C);
        self.punch(page, page + 1);
    }

    fn walk(&self) -> usize {
        self.0.iter().map(|area| area.end().as_usize()).sum()
    }
}
