//! Races, made to happen: somebody else acts between any two slot operations
//! of a verb. Threads would need luck for these windows.
//!
//! ```text
//!  CPU 0: verb ── slot op 1 ── slot op 2 ── ... ── slot op n ── ... ── end
//!                                              ▲
//!  CPU 1: one store, or one verb, here; for each n in turn
//! ```
//!
//! Tables of thousands of entries have thousands of windows: then it is the
//! first, the last, and some between ([`windows`]). Random scripts in which
//! other CPUs act all the time stand in `tables`.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::{AttrFlags, Attrs, Entry, PageTableFormat, TableOwner};
use mm_core::page::{Frames, PageFlags};
use mm_core::platform::Platform as _;
use mm_core::prot::{Access, Prot};
use mm_core::range::PageRange;
use mm_core::sync::NoContext;
use mm_core::table::{Cursor, CursorMut, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_testkit::format::{AnyFormat, AnyWalker, Slot, SlotOp};
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::mmu::{Mode, Sets};
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use mm_testkit::tlb::{Loaded, SoftTlbs};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Ram = Frames<TestPlatform<AnyFormat>>;

fn range(first: usize, pages: usize) -> PageRange {
    PageRange::with_len(Vpn::new(first), pages).unwrap()
}

/// Which of `count` windows are tried.
fn windows(count: usize, random: &mut Random) -> BTreeSet<usize> {
    const EDGE: usize = 60;
    if count <= 3 * EDGE {
        return (1..=count).collect();
    }
    let between = (0..EDGE).map(|_| 1 + random.below(count as u64) as usize);
    let edges = (1..=EDGE).chain(count - EDGE + 1..=count);
    between.chain(edges).collect()
}

/// A space that CPU 1 runs while CPU 0 changes it.
struct Race {
    frames: Arc<Ram>,
    tlbs: Arc<SoftTlbs<AnyWalker>>,
    tlb: SpaceTlb,
    root: Pfn,
    /// Slot operations of the verb so far.
    ops: Arc<AtomicUsize>,
}

impl Race {
    fn new(m: &Machine, ram: usize) -> Self {
        // Most of the RAM is not the allocator's.
        let frames = Frames::new(TestPlatform::new(m.format(), 64, ram));
        let free = ram.min(1024) as u64;
        frames.add_region(&NoContext, Pfn::new(64), free).unwrap();
        let frames = Arc::new(frames);
        let tlbs = Arc::new(SoftTlbs::new(m.walker(), 2, 0));
        frames.platform().set_flush_hook(tlbs.clone());
        frames.platform().arena().set_free_hook(tlbs.clone());
        let root = PageTable::create(&Cx::new(&frames), TableOwner::User, 1).unwrap();
        let tlb = SpaceTlb::new();
        tlb.activate(1);
        tlbs.load(1, Some(Loaded { root, asid: 0 }));
        Self {
            frames,
            tlbs,
            tlb,
            root,
            ops: Arc::default(),
        }
    }

    fn with<R>(&self, verb: impl FnOnce(PageTable<'_, '_, TestPlatform<AnyFormat>>) -> R) -> R {
        let cx = Cx::new(&self.frames);
        verb(PageTable::view(&cx, self.root, TableOwner::User, 1))
    }

    fn map(&self, pages: PageRange, first: Pfn, attrs: Attrs) {
        self.with(|table| {
            let mut cursor = CursorMut::new(table, &self.tlb, pages);
            let owed = cursor.map(first, attrs).unwrap();
            owed.settle(table.cx(), &self.tlb);
        });
    }

    fn unmap(&self, pages: PageRange) {
        self.with(|table| {
            let mut gather = TlbGather::new(table.cx(), &self.tlb);
            let mut cursor = CursorMut::new(table, &self.tlb, pages);
            cursor.unmap(&mut gather).unwrap();
            let _released = gather.finish();
        });
    }

    fn protect(&self, pages: PageRange, prot: Prot) {
        self.with(|table| {
            let mut cursor = CursorMut::new(table, &self.tlb, pages);
            cursor.protect(prot).unwrap();
        });
    }

    /// Runs a verb beside an access to the page that `place` chooses, right
    /// after its nth slot operation; returns where it went through, and where it
    /// led.
    fn beside(
        &self,
        nth: usize,
        access: Access,
        place: impl Fn(Slot<'_>) -> usize + Send + Sync + 'static,
        verb: impl FnOnce(),
    ) -> Option<(usize, Pfn)> {
        let went = Arc::new(Mutex::new(None));
        let (ops, tlbs, frames) = (self.ops.clone(), self.tlbs.clone(), self.frames.clone());
        let into = went.clone();
        ops.store(0, Ordering::SeqCst);
        let format = self.frames.platform().format();
        format.intrude(move |_: AnyFormat, slot: Slot<'_>| {
            if ops.fetch_add(1, Ordering::SeqCst) + 1 != nth {
                return;
            }
            let page = place(slot);
            let ram = frames.platform().arena();
            let got = tlbs.access(ram, 1, Vpn::new(page), access, Mode::User, |f| f);
            *into.lock().unwrap() = got.ok().map(|frame| (page, frame));
        });
        verb();
        format.leave();
        went.lock().unwrap().take()
    }

    /// Returns how many slot operations a verb takes that nobody disturbs.
    fn count(&self, verb: impl FnOnce()) -> usize {
        self.beside(usize::MAX, Access::Read, |_| 0, verb);
        self.ops.load(Ordering::SeqCst)
    }
}

/// What hardware does not note is noted by software: nobody resolves faults.
fn attrs(m: &Machine) -> Attrs {
    let fresh = Attrs::user(Prot::RW);
    match m.walker().sets() {
        Sets::Both => fresh,
        Sets::Accessed => fresh.with(AttrFlags::DIRTY),
        Sets::Nothing => fresh.with(AttrFlags::ACCESSED | AttrFlags::DIRTY),
    }
}

/// ostd, aarch64-paging, svsm#1189: a load, a store by hardware, our store.
/// What hardware noted is known when all is unmapped, and what software noted
/// stays.
#[test]
fn what_is_noted_between_two_slot_operations_is_not_lost() {
    on_every_machine(notes_survive);
}

/// A run of pages (four, where there are no runs) with cached frames in a row.
fn notes_survive(m: &Machine) {
    let race = Race::new(m, 1024);
    let frames = &*race.frames;
    let n = 4.max(1 << m.format().run_bits(1));
    let whole = range(n, n);
    let singles: BTreeSet<_> = (0..3 * n)
        .map(|_| frames.alloc(&NoContext, 0).unwrap())
        .collect();
    let row = |first: Pfn| (0..n).map(move |k| first.saturating_add(k as u64));
    let good =
        |first: &&Pfn| first.as_u64() % n as u64 == 0 && row(**first).all(|f| singles.contains(&f));
    let first = *singles.iter().find(good).unwrap();
    let (attrs, sets) = (attrs(m), m.walker().sets());
    let map = || {
        for pfn in row(first) {
            let page = frames.page(pfn).unwrap();
            page.user().init(PageFlags::UPTODATE, 1, 0);
            page.get_refs(1).unwrap();
            page.user().add_maps(1).unwrap();
        }
        race.map(whole, first, attrs);
    };
    let one = range(n + 1, 1);
    let verbs: [(&str, &dyn Fn()); 8] = [
        ("protect", &|| race.protect(one, Prot::READ)),
        ("protect none", &|| race.protect(one, Prot::NONE)),
        ("protect all", &|| race.protect(one, Prot::RWX)),
        ("protect whole", &|| race.protect(whole, Prot::READ)),
        ("protect none whole", &|| race.protect(whole, Prot::NONE)),
        ("unmap", &|| race.unmap(one)),
        ("unmap whole", &|| race.unmap(whole)),
        ("there and back", &|| {
            race.protect(one, Prot::NONE);
            race.protect(one, Prot::RW);
        }),
    ];
    let mut random = Random::new(1);
    for (name, verb) in verbs {
        map();
        let count = race.count(verb);
        race.unmap(whole);
        let mut stores = 0;
        for nth in windows(count, &mut random) {
            let any = n + random.below(n as u64) as usize;
            // The page whose entry the slot is, or another; by a CPU that
            // remembers nothing, or that loaded from it before.
            for (same, warm) in [(true, false), (true, true), (false, false)] {
                map();
                let load = |page| {
                    let ram = frames.platform().arena();
                    let tlbs = &race.tlbs;
                    tlbs.access(ram, 1, page, Access::Read, Mode::User, |f| f)
                };
                if warm {
                    assert!(whole.iter().all(|page| load(page).is_ok()));
                }
                let place = move |slot: Slot<'_>| match slot.index {
                    i if same && (n..2 * n).contains(&i) => i,
                    _ if same => n + 1,
                    _ => any,
                };
                let went = race.beside(nth, Access::Write, place, verb);
                race.unmap(whole);
                stores += usize::from(went.is_some());
                for (page, pfn) in whole.iter().zip(row(first)) {
                    let record = frames.page(pfn).unwrap();
                    assert_eq!((record.refs(), record.user().maps()), (1, 0));
                    let stored = went.filter(|w| w.0 == page.as_usize());
                    let what = format!("{name}, window {nth}, page {page}, warm {warm}");
                    assert!(stored.is_none_or(|w| w.1 == pfn), "{what}: {stored:?}");
                    let noted = |flag| attrs.flags.contains(flag);
                    let young = (warm || stored.is_some()) && sets != Sets::Nothing;
                    assert!(
                        record.has(PageFlags::REFERENCED) || !(young || noted(AttrFlags::ACCESSED)),
                        "{what}: an access is lost"
                    );
                    let dirty = stored.is_some() && sets == Sets::Both;
                    assert!(
                        record.has(PageFlags::DIRTY) || !(dirty || noted(AttrFlags::DIRTY)),
                        "{what}: a store is lost"
                    );
                }
            }
        }
        assert!(stores > 0, "{name}: no store went through");
    }
}

/// A block that is cut while hardware notes in it: each page of it keeps what
/// was noted, whichever entry led there.
#[test]
fn a_block_is_shattered_while_hardware_stores_through_it() {
    on_every_machine(shatters);
}

fn shatters(m: &Machine) {
    let sets = m.walker().sets();
    let b = m.format().entry_pages(2);
    // Only a store needs frames in RAM (its instructions may be code), and only
    // where hardware notes stores does it say more than a load.
    let (access, ram) = match sets {
        Sets::Both => (Access::Write, 1024 + 2 * b),
        _ => (Access::Read, 1024),
    };
    let race = Race::new(m, ram);
    let block = Pfn::new((64 + 1024_usize).next_multiple_of(b) as u64);
    let attrs = attrs(m).with(AttrFlags::SPECIAL);
    let all = range(2 * b, b);
    let target = 2 * b + b / 4 + 1;
    let one = range(target, 1);
    let verbs: [(&str, &dyn Fn()); 2] = [
        ("fewer rights", &|| race.protect(one, Prot::READ)),
        ("unmap", &|| race.unmap(one)),
    ];
    let mut random = Random::new(2);
    for (name, verb) in verbs {
        race.map(all, block, attrs);
        let level = race.with(|t| t.translate(Vpn::new(target)).map(|(_, level)| level));
        assert_eq!(level, Some(2));
        let count = race.count(verb);
        race.unmap(all);
        let mut noted = 0;
        for nth in windows(count, &mut random) {
            let any = 2 * b + random.below(b as u64) as usize;
            for page in [target, any] {
                race.map(all, block, attrs);
                let went = race.beside(nth, access, move |_| page, verb);
                let what = format!("{name}, window {nth}, page {page:#x}");
                if let Some((_, pfn)) = went {
                    noted += 1;
                    assert_eq!(pfn, block.saturating_add((page - 2 * b) as u64), "{what}");
                }
                // What a visit says: hardware may have noted in another entry
                // of the page's run.
                let mut found = None;
                race.with(|table| {
                    Cursor::new(table, range(page, 1)).visit(|v| found = Some(v.entry));
                });
                let gone = name == "unmap" && page == target;
                assert_eq!(found.is_none(), gone, "{what}");
                let Some(Entry::Leaf { attrs: left, .. }) = found else {
                    race.unmap(all);
                    continue;
                };
                for (flag, by_hardware) in [
                    (AttrFlags::ACCESSED, sets != Sets::Nothing),
                    (AttrFlags::DIRTY, sets == Sets::Both),
                ] {
                    let noted = (went.is_some() && by_hardware) || attrs.flags.contains(flag);
                    let kept = left.flags.contains(flag);
                    assert!(kept || !noted, "{what}: {flag:?} is lost");
                }
                race.unmap(all);
            }
        }
        assert!(noted > 0, "{name}: no access went through");
    }
}

type Gather = TlbGather<'static, 'static, TestPlatform<AnyFormat>>;

thread_local! {
    /// What CPU 1 gathered: it waits until CPU 0 is not pinned any more.
    static GATHERED: RefCell<Option<Gather>> = const { RefCell::new(None) };
}

/// Protocol: whoever locks a table tests DEAD and starts again from the root.
#[test]
fn a_table_dies_between_the_descent_and_the_lock() {
    on_every_machine(dies);
}

fn dies(m: &Machine) {
    let format = m.format();
    let frames: &'static Ram = Box::leak(Box::new(TestPlatform::machine(format, 64, 256)));
    let cx = Cx::new(frames);
    let tlb: &'static SpaceTlb = Box::leak(Box::default());
    let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let table = PageTable::view(&cx, root, TableOwner::User, 1);
    let attrs = Attrs::user(Prot::RW);
    let fresh = || frames.alloc(&cx, 0).unwrap();
    let map = |page, pfn| {
        CursorMut::new(table, tlb, range(page, 1))
            .map_each(&[pfn], attrs)
            .unwrap()
            .settle(&cx, tlb);
    };
    map(5, fresh());
    // The descent of the map below loads a word of each level but the lowest;
    // after the last, CPU 1 unmaps the only page and unlinks the tables.
    let below = usize::from(format.levels()) - 1;
    let loads = AtomicUsize::new(0);
    format.intrude(move |_: AnyFormat, slot: Slot<'_>| {
        let counts = usize::from(slot.op == SlotOp::Load);
        if loads.fetch_add(counts, Ordering::SeqCst) + counts != below || counts == 0 {
            return;
        }
        on_cpu(1, || {
            let cx: &'static Cx<'static, _> = Box::leak(Box::new(Cx::new(frames)));
            let table = PageTable::view(cx, root, TableOwner::User, 1);
            let mut gather = TlbGather::new(cx, tlb);
            let mut cursor = CursorMut::new(table, tlb, range(5, 1));
            cursor.unmap(&mut gather).unwrap();
            GATHERED.set(Some(gather));
        });
    });
    let pfn = fresh();
    map(6, pfn);
    format.leave();
    let released = GATHERED.take().expect("nobody came in").finish();
    assert_eq!((released.kernel_pages, released.tables), (1, below));
    let (word, level) = table
        .translate(Vpn::new(6))
        .expect("mapped into a dead table");
    assert!(matches!(format.decode(word, level), Entry::Leaf { pfn: p, .. } if p == pfn));
    assert_eq!(table.translate(Vpn::new(5)), None);
}
