//! Races, made to happen: a format whose loads and stores let somebody else in
//! at the worst moment. Threads would need luck for these windows.
//!
//! [`Nosy`] is a tiny format; right after each load of a word, the hardware of
//! another CPU stores through it (sets accessed and dirty), or a closure of
//! the test runs.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::tiny::{SetsBoth, Tiny};
use mm_core::format::{
    AdBit, AttrFlags, Attrs, Cell, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat,
    TableOwner,
};
use mm_core::page::{Frames, PageFlags};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_testkit::platform::{TestPlatform, on_cpu};
use std::cell::{Cell as StdCell, RefCell};

type Inner = Tiny<u64, SetsBoth>;
type Platform = TestPlatform<Nosy>;

thread_local! {
    /// After how many more loads of a writable leaf hardware stores through it;
    /// zero: never.
    static STORES: StdCell<usize> = const { StdCell::new(0) };
    /// What runs after the load that brings the count to zero.
    static INTRUDER: RefCell<Option<Intruder>> = const { RefCell::new(None) };
}

struct Intruder {
    loads: usize,
    run: Box<dyn FnOnce()>,
}

#[derive(Clone, Copy, Debug)]
struct Nosy(Inner);

// SAFETY: all bits are the inner format's.
unsafe impl PageTableFormat for Nosy {
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

    fn load(self, node: &[Cell<Self>], i: usize) -> u64 {
        let word = self.0.load(node, i);
        // Present, writable, a leaf: bits 0, 1, 6. Accessed and dirty: 4, 5.
        if STORES.get() > 0 && word & 0x43 == 0x43 {
            STORES.set(STORES.get() - 1);
            if STORES.get() == 0 {
                self.0.compare_exchange(node, i, word, word | 0x30).unwrap();
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

fn machine() -> &'static Frames<Platform> {
    let format = Nosy(Tiny::new(3, 2));
    Box::leak(Box::new(TestPlatform::machine(format, 64, 256)))
}

fn one(page: usize) -> PageRange {
    PageRange::new(Vpn::new(page), Vpn::new(page + 1))
}

fn cached_page(cx: &Cx<'_, Platform>) -> Pfn {
    let pfn = cx.frames().alloc(cx, 0).unwrap();
    let page = cx.frames().page(pfn).unwrap();
    page.user().init(PageFlags::UPTODATE, 1, 0);
    page.get_refs(1).unwrap();
    page.user().add_maps(1).unwrap();
    pfn
}

/// ostd, aarch64-paging, svsm#1189: a load, a store by hardware, our store.
#[test]
fn hardware_sets_dirty_between_a_load_and_a_store() {
    let frames = machine();
    let cx = Cx::new(frames);
    let tlb = SpaceTlb::new();
    let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let table = PageTable::view(&cx, root, TableOwner::User, 1);
    // Stores after the nth load; true when it came to that.
    let races = |nth: usize, verb: &dyn Fn()| {
        let pfn = cached_page(&cx);
        let attrs = Attrs::user(Prot::RW);
        let mut cursor = CursorMut::new(table, &tlb, one(5));
        cursor.map_each(&[pfn], attrs).unwrap().settle(&cx, &tlb);
        STORES.set(nth);
        verb();
        let stored = STORES.replace(0) == 0;
        let mut gather = TlbGather::new(&cx, &tlb);
        CursorMut::new(table, &tlb, one(5))
            .unmap(&mut gather)
            .unwrap();
        let _released = gather.finish();
        let page = frames.page(pfn).unwrap();
        assert_eq!((page.refs(), page.user().maps()), (1, 0));
        assert_eq!(page.has(PageFlags::DIRTY), stored, "after load {nth}");
        frames.free(&cx, pfn).unwrap();
        stored
    };
    let verbs: [(&str, &dyn Fn()); 4] = [
        ("protect", &|| {
            CursorMut::new(table, &tlb, one(5))
                .protect(Prot::READ)
                .unwrap()
        }),
        ("protect none", &|| {
            CursorMut::new(table, &tlb, one(5))
                .protect(Prot::NONE)
                .unwrap()
        }),
        ("protect all", &|| {
            CursorMut::new(table, &tlb, one(5))
                .protect(Prot::RWX)
                .unwrap()
        }),
        ("unmap", &|| {
            let mut gather = TlbGather::new(&cx, &tlb);
            CursorMut::new(table, &tlb, one(5))
                .unmap(&mut gather)
                .unwrap();
            let _released = gather.finish();
        }),
    ];
    for (name, verb) in verbs {
        let windows = (1..20).take_while(|&nth| races(nth, verb)).count();
        assert!((2..20).contains(&windows), "{name}: {windows}");
    }
    // A block that is shattered while hardware stores through it.
    let block = frames.alloc(&cx, 2).unwrap();
    let attrs = Attrs::user(Prot::RW).with(AttrFlags::SPECIAL);
    let four = PageRange::new(Vpn::new(8), Vpn::new(12));
    for nth in 1..20 {
        CursorMut::new(table, &tlb, four)
            .map(block, attrs)
            .unwrap()
            .settle(&cx, &tlb);
        STORES.set(nth);
        CursorMut::new(table, &tlb, one(9))
            .protect(Prot::RWX)
            .unwrap();
        let stored = STORES.replace(0) == 0;
        let (word, level) = table.translate(Vpn::new(9)).unwrap();
        assert_eq!(
            (level, cx.format().is_dirty(word)),
            (1, stored),
            "load {nth}"
        );
        let mut gather = TlbGather::new(&cx, &tlb);
        CursorMut::new(table, &tlb, four)
            .unmap(&mut gather)
            .unwrap();
        let _released = gather.finish();
        if !stored {
            assert!(nth > 4);
            return;
        }
    }
    panic!("hardware never stopped");
}

/// Protocol: whoever locks a table tests DEAD and starts again from the root.
#[test]
fn a_table_dies_between_the_descent_and_the_lock() {
    let frames = machine();
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
            let cx: &'static Cx<'static, Platform> = Box::leak(Box::new(Cx::new(frames)));
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
