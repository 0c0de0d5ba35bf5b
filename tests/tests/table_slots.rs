//! A format whose entries are more than a word, as ARMv7's short descriptors
//! are: mm-core reaches entries through slots only, with whole nodes.
//!
//! ```text
//!   table of level 1 (a frame)         root (four frames)
//!   words 0..     the soft words       words 2i, 2i + 1: entry i, twice
//!   words 256..   what hardware sees
//! ```
//!
//! The slots tell a root from a table by the node's length, and refuse any
//! other: so a node that was cut to size is found, and so is a loop over the
//! words of a node.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::tiny::{SetsNothing, Tiny};
use mm_core::format::{
    AdBit, AttrFlags, Attrs, Cell, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat,
    TableOwner,
};
use mm_core::page::Frames;
use mm_core::platform::PhysMemory as _;
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::sync::Ordering;
use mm_core::table::{CursorMut, Harvest, PageTable};
use mm_core::tlb::{BATCH, SpaceTlb, TlbGather};
use mm_testkit::platform::TestPlatform;
use mm_testkit::random::Random;
use std::collections::BTreeMap;

const TABLE_WORDS: usize = 512;
const ROOT_WORDS: usize = 4 * TABLE_WORDS;
const ROOT_ORDER: u8 = 2;
/// Entries of a table: fewer than it has words.
const BITS: u8 = 7;
const SHADOW: usize = 256;
/// Marks a word that hardware sees.
const HARD: u64 = 1 << 63;

#[derive(Clone, Copy, Debug)]
struct Pairs(Tiny<u64, SetsNothing>);

/// The two words of a slot.
fn cells(node: &[Cell<Pairs>], i: usize) -> (&Cell<Pairs>, &Cell<Pairs>) {
    assert!(i < 1 << BITS, "slot {i}");
    match node.len() {
        TABLE_WORDS => (&node[i], &node[SHADOW + i]),
        ROOT_WORDS => (&node[2 * i], &node[2 * i + 1]),
        n => panic!("a node of {n} words"),
    }
}

fn put(node: &[Cell<Pairs>], i: usize, word: u64) {
    let (soft, hard) = cells(node, i);
    soft.store(word, Ordering::Release);
    let seen = if word == 0 { 0 } else { word | HARD };
    hard.store(seen, Ordering::Release);
}

// SAFETY: all bits of the words that pass through are the inner format's.
unsafe impl PageTableFormat for Pairs {
    type Word = u64;
    fn page_shift(self) -> u32 {
        self.0.page_shift()
    }
    fn hardware_ad(self) -> HardwareAd {
        self.0.hardware_ad()
    }
    fn break_before_make(self) -> bool {
        self.0.break_before_make()
    }
    fn caches_invalid(self) -> bool {
        self.0.caches_invalid()
    }
    fn nonpresent_bits(self) -> u32 {
        self.0.nonpresent_bits()
    }
    fn levels(self) -> u8 {
        self.0.levels()
    }
    fn index_bits(self, level: u8) -> u32 {
        self.0.index_bits(level)
    }
    fn table_order(self, level: u8) -> u8 {
        if level == self.levels() {
            ROOT_ORDER
        } else {
            0
        }
    }
    fn leaf_at(self, level: u8) -> bool {
        self.0.leaf_at(level) || level == self.levels()
    }
    fn user_end(self) -> Vpn {
        self.0.user_end()
    }
    fn kernel_root_index(self) -> usize {
        self.0.kernel_root_index()
    }
    fn decode(self, word: u64, level: u8) -> Entry {
        assert_eq!(word & HARD, 0, "mm-core saw what hardware sees");
        self.0.decode(word, level)
    }
    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u64, FormatError> {
        // The inner format has no blocks in its root.
        if pfn.as_u64() & (self.entry_pages(level) as u64 - 1) != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        self.0.encode_leaf(pfn, attrs, 1)
    }
    fn encode_table(self, pfn: Pfn, level: u8, owner: TableOwner) -> Result<u64, FormatError> {
        assert!(level <= self.levels(), "there is no level {level}");
        self.0.encode_table(pfn, level, owner)
    }
    fn encode_nonpresent(self, entry: NonPresent) -> Result<u64, FormatError> {
        self.0.encode_nonpresent(entry)
    }
    fn next_page(self, word: u64, level: u8) -> u64 {
        self.0.next_page(word, level)
    }
    fn write_protect(self, word: u64) -> u64 {
        self.0.write_protect(word)
    }
    fn ad_settled(self, word: u64) -> bool {
        self.0.ad_settled(word)
    }
    fn is_young(self, word: u64) -> bool {
        self.0.is_young(word)
    }
    fn is_dirty(self, word: u64) -> bool {
        self.0.is_dirty(word)
    }
    fn with_young(self, word: u64, young: AdBit) -> u64 {
        self.0.with_young(word, young)
    }
    fn with_dirty(self, word: u64, dirty: AdBit) -> u64 {
        self.0.with_dirty(word, dirty)
    }
    fn with_prot(self, word: u64, prot: Prot, level: u8) -> Result<u64, FormatError> {
        self.0.with_prot(word, prot, level)
    }
    fn load(self, node: &[Cell<Self>], i: usize) -> u64 {
        cells(node, i).0.load(Ordering::Acquire)
    }
    fn store(self, node: &[Cell<Self>], i: usize, word: u64) {
        put(node, i, word);
    }
    fn swap(self, node: &[Cell<Self>], i: usize, word: u64) -> u64 {
        let old = self.load(node, i);
        put(node, i, word);
        old
    }
    fn compare_exchange(
        self,
        node: &[Cell<Self>],
        i: usize,
        old: u64,
        new: u64,
    ) -> Result<(), u64> {
        let now = self.load(node, i);
        if now != old {
            return Err(now);
        }
        put(node, i, new);
        Ok(())
    }
}

type Machine = Frames<TestPlatform<Pairs>>;

/// What hardware, which sees only its own words, finds for a page.
fn walk(frames: &Machine, root: Pfn, page: usize) -> Option<(Pfn, bool)> {
    let ram = frames.platform().arena();
    let words: &[Cell<Pairs>] = ram.words(root, ROOT_ORDER);
    let entry = words[2 * (page >> BITS) + 1].load(Ordering::Acquire);
    if entry == 0 {
        return None;
    }
    let (word, skew) = if entry & 1 << 6 != 0 {
        (entry, page & ((1 << BITS) - 1))
    } else {
        let table: &[Cell<Pairs>] = ram.words(Pfn::new((entry & !HARD) >> 14), 0);
        (
            table[SHADOW + (page & ((1 << BITS) - 1))].load(Ordering::Acquire),
            0,
        )
    };
    assert!(word == 0 || word & HARD != 0, "{word:#x} is a soft word");
    let frame = Pfn::new((word & !HARD) >> 14).saturating_add(skew as u64);
    (word & 1 != 0).then_some((frame, word & 2 != 0))
}

/// Random maps, unmaps, protects and harvests; hardware's words say the same
/// as a map of pages, and every frame comes back: those of the root too.
#[test]
fn slots_are_the_only_way_to_words() {
    for seed in 0..8 {
        let mut random = Random::new(seed);
        let frames: Machine = TestPlatform::machine(Pairs(Tiny::new(2, BITS)), 64, 2048);
        let cx = Cx::new(&frames);
        let block = frames.alloc(&cx, BITS).unwrap();
        let before = frames.free_frames();
        let tlb = SpaceTlb::new();
        let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
        assert_eq!(before - frames.free_frames(), 4);
        let table = PageTable::view(&cx, root, TableOwner::User, 1);
        let mut model: BTreeMap<usize, (Pfn, bool)> = BTreeMap::new();
        for step in 0..400 {
            let start = random.below(3 << BITS) as usize;
            let len = 1 + random.below(3 * BATCH as u64) as usize;
            let range = PageRange::new(Vpn::new(start), Vpn::new(start + len));
            let mut cursor = CursorMut::new(table, &tlb, range);
            match random.below(5) {
                0 | 1 => {
                    let first = frames.alloc(&cx, BITS).unwrap();
                    let attrs = Attrs::user(Prot::RW).with(AttrFlags::SPECIAL);
                    let mapped = cursor.map(block, attrs);
                    let free = range.iter().all(|p| !model.contains_key(&p.as_usize()));
                    assert_eq!(mapped.is_ok(), free, "seed {seed} step {step}");
                    if let Ok(owed) = mapped {
                        owed.settle(&cx, &tlb);
                        for (i, page) in range.iter().enumerate() {
                            let frame = block.saturating_add(i as u64);
                            model.insert(page.as_usize(), (frame, true));
                        }
                    }
                    frames.free(&cx, first).unwrap();
                }
                2 => {
                    let mut gather = TlbGather::new(&cx, &tlb);
                    cursor.unmap(&mut gather).unwrap();
                    let _released = gather.finish();
                    model.retain(|&page, _| !range.contains(Vpn::new(page)));
                }
                3 => {
                    let prot = random.pick(&[Prot::READ, Prot::RW]);
                    cursor.protect(prot).unwrap();
                    for (_, page) in model.range_mut(start..start + len) {
                        page.1 = prot == Prot::RW;
                    }
                }
                _ => cursor.harvest(Harvest::Accessed, |_| ()),
            }
            for page in 0..4usize << BITS {
                assert_eq!(
                    walk(&frames, root, page),
                    model.get(&page).copied(),
                    "seed {seed} step {step} page {page}"
                );
            }
        }
        let mut gather = TlbGather::new(&cx, &tlb);
        CursorMut::new(table, &tlb, table.user_pages())
            .unmap(&mut gather)
            .unwrap();
        let _released = gather.finish();
        table.destroy(&tlb).unwrap();
        assert_eq!(frames.free_frames(), before, "seed {seed}");
    }
}

/// Owned pages ride the gather in a node of their own when there are many, and
/// a table that goes with its words is read by slots.
#[test]
fn what_a_gather_holds_is_read_by_slots() {
    let frames: Machine = TestPlatform::machine(Pairs(Tiny::new(2, BITS)), 64, 2048);
    let cx = Cx::new(&frames);
    let before = frames.free_frames();
    let tlb = SpaceTlb::new();
    let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let table = PageTable::view(&cx, root, TableOwner::User, 1);
    let pages = 2 << BITS;
    let all = PageRange::new(Vpn::new(0), Vpn::new(pages));
    for unmapped in [all, PageRange::new(Vpn::new(1), Vpn::new(pages - 1))] {
        let owned: Vec<_> = all.iter().map(|_| frames.alloc(&cx, 0).unwrap()).collect();
        let owed = CursorMut::new(table, &tlb, all).map_each(&owned, Attrs::user(Prot::RW));
        owed.unwrap().settle(&cx, &tlb);
        let mut count = 0;
        for range in [unmapped, all] {
            let mut gather = TlbGather::new(&cx, &tlb);
            CursorMut::new(table, &tlb, range)
                .unmap(&mut gather)
                .unwrap();
            count += gather.finish().kernel_pages;
        }
        assert_eq!(count, pages);
    }
    table.destroy(&tlb).unwrap();
    assert_eq!(frames.free_frames(), before);
}
