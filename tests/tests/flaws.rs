//! The global check complains: each flaw that can be planted from outside is named.
//!
//! Half of all tests end with that check. One that lets a flaw pass would let
//! them pass, too.
//!
//! Not planted: what only the library's own nodes could say (`Areas`, `Chains`,
//! `Marked`, `Outside`, `Rights`, `Unmapped`).

use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::format::{AdBit, Attrs, Cell, Entry, PageTableFormat, TableOwner};
use mm_core::page::{Page, PageFlags};
use mm_core::platform::{PhysMemory, Platform as _};
use mm_core::prot::Prot;
use mm_core::space::MapRequest;
use mm_core::table::PageTable;
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_core::validate::SpaceFlaw;
use mm_testkit::format::AnyFormat;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::TestPlatform;
use mm_testkit::world::{File, Space, World};

/// The first page of each area: written, zero and untouched pages; read-only; of a file.
const OWN: usize = 0x40000;
const READ_ONLY: usize = OWN + 8;
const SHARED: usize = OWN + 16;
/// Where nothing is mapped, in the same table.
const NOTHING: usize = OWN + 24;

/// A sound space, and hands that reach into its tables.
struct Scene {
    w: World,
    s: Space,
    file: File,
    root: Pfn,
}

type Table<'c, 'm> = PageTable<'c, 'm, TestPlatform<AnyFormat>>;

impl Scene {
    fn new(machine: &Machine) -> Self {
        let page = machine.page_size();
        let w = machine.world(512, 2, 0);
        let s = w.space();
        // The area is two pages long, the file one.
        let file = w.file(1, &vec![7; page]);
        let map = |request: MapRequest<'_, 'static, _>, n: usize| {
            s.map(&request.fixed(VirtAddr::new(n * page))).unwrap();
        };
        map(MapRequest::anonymous(4 * page, Prot::RW), OWN);
        map(MapRequest::anonymous(2 * page, Prot::RW), READ_ONLY);
        map(MapRequest::shared(&file, 0, 2 * page, Prot::RW), SHARED);
        for n in [OWN, READ_ONLY, SHARED] {
            w.poke(0, &s, n * page, 1).unwrap();
        }
        w.peek(0, &s, (OWN + 1) * page).unwrap();
        s.protect(VirtAddr::new(READ_ONLY * page), 2 * page, Prot::READ)
            .unwrap();
        let root = w.tlbs().contents(0).0.expect("it runs").root;
        Self { w, s, file, root }
    }

    fn format(&self) -> AnyFormat {
        self.w.platform().format()
    }

    fn with_table<R>(&self, f: impl FnOnce(Table<'_, 'static>) -> R) -> R {
        let cx = self.w.mm().cx();
        f(PageTable::view(&cx, self.root, TableOwner::User, 0))
    }

    fn word(&self, page: usize) -> u64 {
        let found = self.with_table(|table| table.translate(Vpn::new(page)));
        found.map_or(0, |(word, _)| word)
    }

    fn frame(&self, page: usize) -> Pfn {
        let entry = self.format().decode(self.word(page), 1);
        entry.frame().expect("a page").0
    }

    fn record(&self, page: usize) -> &'static Page {
        let record = self.w.mm().frames().page(self.frame(page));
        record.expect("a record")
    }

    /// Stores a word as no verb would; returns the one before.
    fn put(&self, page: usize, word: u64) -> u64 {
        let old = self.word(page);
        let format = self.format();
        let leaf = self.with_table(|table| {
            let leaf = table.lock_leaf(Vpn::new(page)).expect("a table");
            (leaf.pfn(), leaf.range())
        });
        let memory = self.w.platform().memory();
        let words = memory.words::<Cell<AnyFormat>>(leaf.0, format.table_order(1));
        format.store(words, page - leaf.1.start().as_usize(), word);
        assert_eq!(self.word(page), word, "another slot");
        old
    }

    /// Expects the flaw while an entry is another one.
    fn entry(&self, page: usize, word: u64, flaw: SpaceFlaw) {
        let old = self.put(page, word);
        assert_eq!(self.s.validate(), Err(flaw));
        self.put(page, old);
        self.sound();
    }

    /// Expects the flaw between two steps.
    fn record_says<A, B>(
        &self,
        plant: impl FnOnce() -> A,
        undo: impl FnOnce() -> B,
        flaw: SpaceFlaw,
    ) {
        let _was = plant();
        assert_eq!(self.s.validate(), Err(flaw));
        let _is = undo();
        self.sound();
    }

    fn sound(&self) {
        self.s.validate().expect("a sound space");
        self.w.check([&self.s]).expect("a sound machine");
    }

    /// Returns what is wrong with the machine.
    fn wrong(&self) -> String {
        self.w.check([&self.s]).expect_err("a flaw was planted")
    }

    fn end(self) {
        let Self { w, s, file, .. } = self;
        drop((s, file));
        w.assert_empty();
    }
}

fn vpn(n: usize) -> Vpn {
    Vpn::new(n)
}

#[test]
fn each_flaw_of_an_entry_is_named() {
    on_every_machine(|machine| {
        let c = Scene::new(machine);
        let format = c.format();
        c.sound();
        let leaf = |pfn, prot| format.encode_leaf(pfn, Attrs::user(prot), 1).unwrap();
        // More than the area allows.
        let word = format.with_prot(c.word(READ_ONLY), Prot::RW, 1).unwrap();
        let Entry::Leaf { attrs, .. } = format.decode(word, 1) else {
            panic!("no leaf: {word:x}");
        };
        c.entry(
            READ_ONLY,
            word,
            SpaceFlaw::Entry(vpn(READ_ONLY), attrs.prot),
        );
        // The zero page, written to, or about to be.
        let zero = c.word(OWN + 1);
        let flaw = SpaceFlaw::Zero(vpn(OWN + 1));
        c.entry(OWN + 1, format.with_dirty(zero, AdBit::Set), flaw);
        let writable = format.with_prot(zero, Prot::RW, 1).unwrap();
        c.entry(OWN + 1, format.with_dirty(writable, AdBit::Set), flaw);
        // A table, where a page should be.
        let table = c.with_table(|table| table.lock_leaf(vpn(OWN)).unwrap().pfn());
        let flaw = SpaceFlaw::Frame(vpn(OWN), table);
        c.entry(OWN, leaf(table, Prot::READ), flaw);
        // Another page of the area's own.
        let own = c.frame(OWN);
        let flaw = SpaceFlaw::Owner(vpn(OWN + 2), own);
        c.entry(OWN + 2, leaf(own, Prot::READ), flaw);
        let cached = c.frame(SHARED);
        let flaw = SpaceFlaw::PastEnd(vpn(SHARED + 1), cached);
        c.entry(SHARED + 1, leaf(cached, Prot::READ), flaw);
        c.entry(NOTHING, zero, SpaceFlaw::Stray(vpn(NOTHING)));
        // An entry that is gone, and still counted.
        let (first, live) = c.with_table(|table| {
            let leaf = table.lock_leaf(vpn(OWN)).unwrap();
            (leaf.range().start(), leaf.live())
        });
        let flaw = SpaceFlaw::Live(first, live, live - 1);
        c.entry(OWN, 0, flaw);
        c.end();
    });
}

#[test]
fn each_flaw_of_a_page_is_named() {
    on_every_machine(|machine| {
        let c = Scene::new(machine);
        c.sound();
        let (own, pfn) = (c.record(OWN), c.frame(OWN));
        let exclusive = PageFlags::EXCLUSIVE;
        c.record_says(
            || own.clear(exclusive),
            || own.set(exclusive),
            SpaceFlaw::Shared(vpn(OWN), pfn),
        );
        c.record_says(
            || own.user().add_maps(1).unwrap(),
            || own.user().sub_maps(1),
            SpaceFlaw::Shared(vpn(OWN), pfn),
        );
        let (read, read_pfn) = (c.record(READ_ONLY), c.frame(READ_ONLY));
        c.record_says(
            || read.user().add_maps(1).unwrap(),
            || read.user().sub_maps(1),
            SpaceFlaw::Refs(vpn(READ_ONLY), 1, 2),
        );
        c.record_says(
            || {
                read.get_refs(1).unwrap();
                read.user().add_maps(1).unwrap();
            },
            || {
                read.user().sub_maps(1);
                assert!(!read.put_refs(1));
            },
            SpaceFlaw::Maps(vpn(READ_ONLY), 2, 1),
        );
        let (owner, index) = (read.user().owner(), read.user().index());
        c.record_says(
            || read.user().set_owner(owner, index + 1),
            || read.user().set_owner(owner, index),
            SpaceFlaw::Owner(vpn(READ_ONLY), read_pfn),
        );
        assert_ne!(own.user().owner(), owner, "two areas, two anon_vmas");
        c.record_says(
            || read.user().set_owner(own.user().owner(), index),
            || read.user().set_owner(owner, index),
            SpaceFlaw::NotFound(vpn(READ_ONLY), read_pfn),
        );
        let cached = c.record(SHARED);
        c.record_says(
            || cached.clear(PageFlags::DIRTY),
            || cached.set(PageFlags::DIRTY),
            SpaceFlaw::Clean(vpn(SHARED), c.frame(SHARED)),
        );
        c.end();
    });
}

/// A page that nobody counted in the space, and one that two spaces have although one may
/// store to it.
#[test]
fn what_a_count_misses_and_what_two_have_is_named() {
    on_every_machine(|machine| {
        let c = Scene::new(machine);
        let format = c.format();
        let mm = c.w.mm();
        let cx = mm.cx();
        let (at, tlb) = (vpn(OWN + 3), SpaceTlb::new());
        let pfn = mm.frames().alloc(&cx, 0).unwrap();
        let record = mm.frames().page(pfn).unwrap().user();
        let own = c.record(OWN).user();
        record.init(PageFlags::ANON, own.owner(), own.index() + 3);
        record.add_maps(1).unwrap();
        let word = format.encode_leaf(pfn, Attrs::user(Prot::READ), 1).unwrap();
        let install = |table: Table<'_, 'static>| {
            let leaf = table.lock_leaf(at).unwrap();
            let owed = leaf.install(at, word);
            drop(leaf);
            owed.settle(&cx, &tlb);
        };
        c.with_table(install);
        assert_eq!(c.s.validate(), Err(SpaceFlaw::Count("anon", 2, 3)));
        let mut gather = TlbGather::new(&cx, &tlb);
        let take = |table: Table<'_, 'static>| table.lock_leaf(at).unwrap().take(&tlb, at);
        gather.push(c.with_table(take).expect("the page")).unwrap();
        assert_eq!(gather.finish().anon_pages, 1);
        c.sound();

        let child = c.s.fork().unwrap();
        let word = format.with_prot(c.word(OWN), Prot::RW, 1).unwrap();
        let old = c.put(OWN, word);
        let flaw = SpaceFlaw::Shared(vpn(OWN), c.frame(OWN));
        assert_eq!(c.s.validate(), Err(flaw));
        assert!(c.w.check([&c.s, &child]).is_err());
        c.put(OWN, old);
        c.w.check([&c.s, &child]).unwrap();
        let wrong = c.wrong();
        assert!(wrong.contains("records count 4"), "{wrong}");
        drop(child);
        c.sound();
        c.end();
    });
}

#[test]
fn each_flaw_of_the_machine_is_named() {
    on_every_machine(|machine| {
        let c = Scene::new(machine);
        c.sound();
        let own = c.record(OWN);
        own.get_refs(1).unwrap();
        let wrong = c.wrong();
        assert!(wrong.contains("2 references, 1 maps"), "{wrong}");
        assert!(!own.put_refs(1));

        c.w.platform().try_charge(1).unwrap();
        let wrong = c.wrong();
        assert!(wrong.contains("3 charged: 2 pages, 2 entries"), "{wrong}");
        c.w.platform().uncharge(1);

        // What a CPU remembers of an entry that lost a right, without a flush.
        c.w.poke(0, &c.s, OWN * machine.page_size(), 2).unwrap();
        let word = c.format().with_prot(c.word(OWN), Prot::READ, 1).unwrap();
        let old = c.put(OWN, word);
        let wrong = c.wrong();
        assert!(wrong.contains("CPU 0 remembers"), "{wrong}");
        c.put(OWN, old);
        c.sound();
        c.end();
    });
}
