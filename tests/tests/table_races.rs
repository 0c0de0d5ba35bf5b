//! Races, made to happen: a format whose loads and stores let somebody else in
//! at the worst moment. Threads would need luck for these windows.
//!
//! [`Nosy`] is a tiny format; right after each load of a word, the hardware of
//! another CPU accesses a page through it (and notes what it notes by itself, in
//! a run in the entry beside), or a closure of the test runs.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::tiny::{
    SetsAccessed, SetsBoth, SetsBothBreaking, SetsNothing, Tiny, TinyFacts,
};
use mm_core::format::{
    AdBit, AttrFlags, Attrs, Cell, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat,
    Run, TableOwner,
};
use mm_core::page::{Frames, PageFlags};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_testkit::platform::{TestPlatform, on_cpu};
use std::cell::{Cell as StdCell, RefCell};

type Platform<T> = TestPlatform<Nosy<T>>;

thread_local! {
    /// After how many more loads of a writable leaf hardware stores through it;
    /// zero: never.
    static STORES: StdCell<usize> = const { StdCell::new(0) };
    /// The slot that it stored through.
    static STORED: StdCell<Option<usize>> = const { StdCell::new(None) };
    /// What runs after the load that brings the count to zero.
    static INTRUDER: RefCell<Option<Intruder>> = const { RefCell::new(None) };
}

struct Intruder {
    loads: usize,
    run: Box<dyn FnOnce()>,
}

#[derive(Clone, Copy, Debug)]
struct Nosy<T>(Tiny<u64, T>);

impl<T: TinyFacts> Nosy<T> {
    /// Hardware stores through a leaf that was just loaded.
    fn note(self, node: &[Cell<Self>], i: usize, word: u64) {
        // Accessed and dirty: bits 4 and 5. Part of a run: bit 13.
        let notes = match T::AD {
            HardwareAd::Both => 0x30,
            HardwareAd::Accessed => 0x10,
            HardwareAd::None => 0,
        };
        let beside = self.0.load(node, i ^ 1);
        let in_run = word >> 13 & 1 != 0 && beside & 1 << 13 != 0 && beside & 1 != 0;
        let (at, old) = if in_run { (i ^ 1, beside) } else { (i, word) };
        self.0.compare_exchange(node, at, old, old | notes).unwrap();
        STORED.set(Some(i));
    }
}

// SAFETY: all bits are the inner format's.
unsafe impl<T: TinyFacts> PageTableFormat for Nosy<T> {
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
    fn leaf_at(self, level: u8) -> bool {
        self.0.leaf_at(level)
    }
    fn user_end(self) -> Vpn {
        self.0.user_end()
    }
    fn kernel_root_index(self) -> usize {
        self.0.kernel_root_index()
    }
    fn decode(self, word: u64, level: u8) -> Entry {
        self.0.decode(word, level)
    }
    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u64, FormatError> {
        self.0.encode_leaf(pfn, attrs, level)
    }
    fn encode_table(self, pfn: Pfn, level: u8, owner: TableOwner) -> Result<u64, FormatError> {
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

    fn run_bits(self, level: u8) -> u32 {
        self.0.run_bits(level)
    }
    fn is_run(self, word: u64) -> bool {
        self.0.is_run(word)
    }
    fn with_run(self, word: u64, run: Run) -> u64 {
        self.0.with_run(word, run)
    }

    fn load(self, node: &[Cell<Self>], i: usize) -> u64 {
        let word = self.0.load(node, i);
        // Present, writable, a leaf: bits 0, 1, 6.
        if STORES.get() > 0 && word & 0x43 == 0x43 {
            STORES.set(STORES.get() - 1);
            if STORES.get() == 0 {
                self.note(node, i, word);
            }
        }
        let due = INTRUDER.with_borrow_mut(|slot| {
            let intruder = slot.as_mut()?;
            intruder.loads -= 1;
            if intruder.loads == 0 {
                slot.take()
            } else {
                None
            }
        });
        if let Some(intruder) = due {
            (intruder.run)();
        }
        word
    }
}

fn machine<T: TinyFacts>(format: Tiny<u64, T>) -> &'static Frames<Platform<T>> {
    Box::leak(Box::new(TestPlatform::machine(Nosy(format), 64, 256)))
}

fn one(page: usize) -> PageRange {
    PageRange::new(Vpn::new(page), Vpn::new(page + 1))
}

/// Four pages (half a table) with cached frames in a row, the verb beside a store through
/// any of them after the nth load of a leaf, for each n there is: what hardware
/// noted is known when all is unmapped, and what software noted stays.
fn notes_survive<T: TinyFacts>(format: Tiny<u64, T>, attrs: Attrs) {
    let frames = machine(format);
    let cx = Cx::new(frames);
    let tlb = SpaceTlb::new();
    let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let table = PageTable::view(&cx, root, TableOwner::User, 1);
    let four = PageRange::new(Vpn::new(4), Vpn::new(8));
    // Single frames, four in a row and aligned.
    let singles: Vec<_> = (0..12).map(|_| frames.alloc(&cx, 0).unwrap()).collect();
    let row = |i: &usize| (0..4).all(|k| singles.contains(&singles[*i].saturating_add(k)));
    let aligned = |i: &usize| singles[*i].as_u64() % 4 == 0;
    let first = singles[(0..12).filter(aligned).find(row).unwrap()];
    let pfns: Vec<_> = (0..4).map(|k| first.saturating_add(k)).collect();
    let unmap = |range| {
        let mut gather = TlbGather::new(&cx, &tlb);
        CursorMut::new(table, &tlb, range)
            .unmap(&mut gather)
            .unwrap();
        let _released = gather.finish();
    };
    // Stores after the nth load; true when it came to that.
    let races = |name: &str, nth: usize, verb: &dyn Fn()| {
        for &pfn in &pfns {
            let page = frames.page(pfn).unwrap();
            page.user().init(PageFlags::UPTODATE, 1, 0);
            page.get_refs(1).unwrap();
            page.user().add_maps(1).unwrap();
        }
        let mut cursor = CursorMut::new(table, &tlb, four);
        cursor.map(first, attrs).unwrap().settle(&cx, &tlb);
        STORED.set(None);
        STORES.set(nth);
        verb();
        STORES.set(0);
        let stored = STORED.get();
        unmap(four);
        for (slot, &pfn) in pfns.iter().enumerate() {
            let page = frames.page(pfn).unwrap();
            assert_eq!((page.refs(), page.user().maps()), (1, 0));
            let through = stored == Some(4 + slot);
            let by = |ad: HardwareAd| through && T::AD == ad;
            let young = by(HardwareAd::Both) || by(HardwareAd::Accessed);
            let noted = |flag| attrs.flags.contains(flag);
            let what = format!("{format:?}: {name}, load {nth}, page {slot}");
            assert!(
                page.has(PageFlags::REFERENCED) || !(young || noted(AttrFlags::ACCESSED)),
                "{what}: an access is lost"
            );
            assert!(
                page.has(PageFlags::DIRTY) || !(by(HardwareAd::Both) || noted(AttrFlags::DIRTY)),
                "{what}: a store is lost"
            );
        }
        stored.is_some()
    };
    let protect = |range, prot| CursorMut::new(table, &tlb, range).protect(prot).unwrap();
    let verbs: [(&str, &dyn Fn()); 8] = [
        ("protect", &|| protect(one(5), Prot::READ)),
        ("protect none", &|| protect(one(5), Prot::NONE)),
        ("protect all", &|| protect(one(5), Prot::RWX)),
        ("protect whole", &|| protect(four, Prot::READ)),
        ("protect none whole", &|| protect(four, Prot::NONE)),
        ("unmap", &|| unmap(one(5))),
        ("unmap whole", &|| unmap(four)),
        ("there and back", &|| {
            protect(one(6), Prot::NONE);
            protect(one(6), Prot::RW);
        }),
    ];
    for (name, verb) in verbs {
        let windows = (1..200).take_while(|&nth| races(name, nth, verb)).count();
        assert!(windows > 0, "{name}");
        assert!(windows < 199, "{name} does not end");
    }
}

/// ostd, aarch64-paging, svsm#1189: a load, a store by hardware, our store.
#[test]
fn what_is_noted_between_a_load_and_a_store_is_not_lost() {
    let fresh = Attrs::user(Prot::RW);
    let noted = fresh.with(AttrFlags::ACCESSED | AttrFlags::DIRTY);
    for runs in 0..=2 {
        notes_survive(Tiny::<_, SetsBoth>::new(3, 3).with_runs(runs), fresh);
        notes_survive(
            Tiny::<_, SetsBothBreaking>::new(3, 3).with_runs(runs),
            fresh,
        );
        let dirty = fresh.with(AttrFlags::DIRTY);
        notes_survive(Tiny::<_, SetsAccessed>::new(3, 3).with_runs(runs), dirty);
        notes_survive(Tiny::<_, SetsNothing>::new(3, 3).with_runs(runs), noted);
    }
}

/// A block that is shattered while hardware stores through it.
fn shatters<T: TinyFacts>() {
    let frames = machine(Tiny::<_, T>::new(3, 2));
    let cx = Cx::new(frames);
    let tlb = SpaceTlb::new();
    let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let table = PageTable::view(&cx, root, TableOwner::User, 1);
    let block = frames.alloc(&cx, 2).unwrap();
    let attrs = Attrs::user(Prot::RW).with(AttrFlags::SPECIAL);
    let four = PageRange::new(Vpn::new(8), Vpn::new(12));
    for nth in 1..40 {
        CursorMut::new(table, &tlb, four)
            .map(block, attrs)
            .unwrap()
            .settle(&cx, &tlb);
        STORED.set(None);
        STORES.set(nth);
        CursorMut::new(table, &tlb, one(9))
            .protect(Prot::RWX)
            .unwrap();
        STORES.set(0);
        // What is stored through the new entries concerns one page only.
        let stored = STORED.get();
        let (word, level) = table.translate(Vpn::new(9)).unwrap();
        assert_eq!(level, 1);
        // The block is the third entry of its table, the page the second.
        let through = stored == Some(2) || stored == Some(1);
        assert!(!through || cx.format().is_dirty(word), "load {nth}");
        let mut gather = TlbGather::new(&cx, &tlb);
        CursorMut::new(table, &tlb, four)
            .unmap(&mut gather)
            .unwrap();
        let _released = gather.finish();
        if stored.is_none() {
            assert!(nth > 4);
            return;
        }
    }
    panic!("hardware never stopped");
}

#[test]
fn a_block_is_shattered_while_hardware_stores_through_it() {
    shatters::<SetsBoth>();
    shatters::<SetsBothBreaking>();
}

/// Protocol: whoever locks a table tests DEAD and starts again from the root.
#[test]
fn a_table_dies_between_the_descent_and_the_lock() {
    let frames = machine(Tiny::<_, SetsBoth>::new(3, 2));
    let cx = Cx::new(frames);
    let tlb: &'static SpaceTlb = Box::leak(Box::new(SpaceTlb::new()));
    let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let table = PageTable::view(&cx, root, TableOwner::User, 1);
    let attrs = Attrs::user(Prot::RW);
    let fresh = || frames.alloc(&cx, 0).unwrap();
    CursorMut::new(table, tlb, one(5))
        .map_each(&[fresh()], attrs)
        .unwrap()
        .settle(&cx, tlb);
    // The descent of the map below loads two words; after the second, CPU 1
    // unmaps the only page and unlinks the tables. What it gathered waits
    // until CPU 0 is not pinned any more.
    let (send, gathered) = std::sync::mpsc::channel();
    let run = Box::new(move || {
        on_cpu(1, || {
            let cx: &'static Cx<'static, Platform<SetsBoth>> = Box::leak(Box::new(Cx::new(frames)));
            let table = PageTable::view(cx, root, TableOwner::User, 1);
            let mut gather = TlbGather::new(cx, tlb);
            CursorMut::new(table, tlb, one(5))
                .unmap(&mut gather)
                .unwrap();
            send.send(gather).unwrap();
        });
    });
    let pfn = fresh();
    INTRUDER.set(Some(Intruder { loads: 2, run }));
    CursorMut::new(table, tlb, one(6))
        .map_each(&[pfn], attrs)
        .unwrap()
        .settle(&cx, tlb);
    let released = gathered.recv().unwrap().finish();
    assert_eq!((released.kernel_pages, released.tables), (1, 2));
    let (word, level) = table
        .translate(Vpn::new(6))
        .expect("mapped into a dead table");
    assert!(matches!(cx.format().decode(word, level), Entry::Leaf { pfn: p, .. } if p == pfn));
    assert_eq!(table.translate(Vpn::new(5)), None);
}
