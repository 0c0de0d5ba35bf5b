//! One test for each rule of page tables and TLBs that other kernels broke.
//! F1..F8 are the TLB invariants; the rest are classes of page-table bugs.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::error::OutOfMemory;
use mm_core::format::{
    AttrFlags, Attrs, Entry, NonPresent, NonPresentKind, PageTableFormat, TableOwner,
};
use mm_core::page::Frames;
use mm_core::platform::{CpuSet, Flush, Platform as _};
use mm_core::prot::{Access, MemType, Prot};
use mm_core::range::PageRange;
use mm_core::table::{Cursor, CursorMut, Harvest, PageTable, TableError, Why};
use mm_core::tlb::{BATCH, Remembered, SpaceTlb, TlbGather};
use mm_testkit::format::{AnyFormat, AnyWalker, Slot};
use mm_testkit::machine::on_every_machine;
use mm_testkit::mmu::{Mode, Refusal, Roots, Sets};
use mm_testkit::patience::{StopAtEnd, until};
use mm_testkit::platform::{FlushHook, TestPlatform, on_cpu};
use mm_testkit::random::Random;
use mm_testkit::tlb::{Loaded, SoftTlbs};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

type Ram = Frames<TestPlatform<AnyFormat>>;

fn range(first: usize, end: usize) -> PageRange {
    PageRange::new(Vpn::new(first), Vpn::new(end))
}

/// A space on a machine, as the tests need it.
struct Space<'m> {
    frames: &'m Ram,
    tlb: SpaceTlb,
    root: Pfn,
}

impl<'m> Space<'m> {
    fn new(frames: &'m Ram) -> Self {
        let root = PageTable::create(&Cx::new(frames), TableOwner::User, 1).unwrap();
        Self {
            frames,
            tlb: SpaceTlb::new(),
            root,
        }
    }

    fn cx(&self) -> Cx<'m, TestPlatform<AnyFormat>> {
        Cx::new(self.frames)
    }

    fn table<'c>(
        &self,
        cx: &'c Cx<'m, TestPlatform<AnyFormat>>,
    ) -> PageTable<'c, 'm, TestPlatform<AnyFormat>> {
        PageTable::view(cx, self.root, TableOwner::User, 1)
    }

    fn map(&self, pages: PageRange, first: Pfn, attrs: Attrs) -> Result<(), TableError> {
        let cx = self.cx();
        let owed = CursorMut::new(self.table(&cx), &self.tlb, pages).map(first, attrs)?;
        owed.settle(&cx, &self.tlb);
        Ok(())
    }

    /// Maps fresh frames that the table owns.
    fn map_fresh(&self, pages: PageRange) {
        let cx = self.cx();
        let attrs = Attrs::user(Prot::RW);
        for page in pages.iter() {
            let pfn = self.frames.alloc(&cx, 0).unwrap();
            let one = PageRange::with_len(page, 1).unwrap();
            let owed = CursorMut::new(self.table(&cx), &self.tlb, one).map_each(&[pfn], attrs);
            owed.unwrap().settle(&cx, &self.tlb);
        }
    }

    fn unmap(&self, pages: PageRange) -> Result<usize, TableError> {
        let cx = self.cx();
        let mut gather = TlbGather::new(&cx, &self.tlb);
        CursorMut::new(self.table(&cx), &self.tlb, pages).unmap(&mut gather)?;
        Ok(gather.finish().kernel_pages)
    }

    fn protect(&self, pages: PageRange, prot: Prot) -> Result<(), TableError> {
        let cx = self.cx();
        CursorMut::new(self.table(&cx), &self.tlb, pages).protect(prot)
    }

    fn entry(&self, page: usize) -> Option<(Entry, u8)> {
        let cx = self.cx();
        let (word, level) = self.table(&cx).translate(Vpn::new(page))?;
        Some((cx.format().decode(word, level), level))
    }

    fn flushes(&self) -> Vec<(CpuSet, Flush)> {
        self.frames.platform().take_log().flushes
    }

    /// Runs the space on a CPU.
    fn run(&self, tlbs: &SoftTlbs<AnyWalker>, cpu: usize) {
        self.tlb.activate(cpu);
        let root = self.root;
        tlbs.load(cpu, Some(Loaded { root, asid: 0 }));
    }

    /// Runs it there no more.
    fn idle(&self, tlbs: &SoftTlbs<AnyWalker>, cpu: usize) {
        tlbs.load(cpu, None);
        self.tlb.deactivate(cpu);
    }

    fn destroy(self) {
        let all = {
            let cx = self.cx();
            self.table(&cx).user_pages()
        };
        self.unmap(all).unwrap();
        let cx = self.cx();
        self.table(&cx).destroy(&self.tlb).unwrap();
    }
}

fn cpus(list: &[usize]) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    list.iter().for_each(|&cpu| set.insert(cpu));
    set
}

const SPECIAL_RW: Attrs = Attrs::user(Prot::RW).with(AttrFlags::SPECIAL);

/// F2: who is pinned may be in a table that was unlinked.
#[test]
fn f2_a_table_outlives_the_readers_that_may_be_in_it() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let space = Space::new(&frames);
        space.map_fresh(range(0, 4));
        let (pinned, freed) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|s| {
            s.spawn(|| {
                on_cpu(1, || {
                    let cx = space.cx();
                    let pin = cx.pin();
                    let table = space.table(&cx);
                    assert!(table.translate_pinned(&pin, Vpn::new(3)).is_some());
                    pinned.store(true, Ordering::SeqCst);
                    // The table's words stay readable (the arena checks that) ...
                    until("the table stayed", || {
                        table.translate_pinned(&pin, Vpn::new(3)).is_none()
                    });
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    // ... and nothing was given back before we are gone.
                    assert!(!freed.load(Ordering::SeqCst));
                });
            });
            until("nobody was pinned", || pinned.load(Ordering::SeqCst));
            assert_eq!(space.unmap(range(0, format.entry_pages(2))).unwrap(), 4);
            freed.store(true, Ordering::SeqCst);
        });
        space.destroy();
    });
}

/// F3, Theseus#32: one round for a whole verb, naming exactly what is needed.
#[test]
fn f3_each_verb_flushes_once_and_only_what_lost_rights() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let space = Space::new(&frames);
        space.tlb.activate(2);
        space.tlb.activate(5);
        let both = cpus(&[2, 5]);
        let flush = |pages, tables| Flush {
            pages,
            tables,
            asid: Some(0),
        };
        let precise = |a, b| flush(Some(range(a, b)), false);
        // Two tables and a piece; frames that fit no block and no run.
        let table = format.entry_pages(2);
        let all = range(0, 2 * table + 40);
        let first = Pfn::new(16 * table as u64 + 1);
        space.map(all, first, SPECIAL_RW).unwrap();
        let made = space.flushes();
        if format.caches_invalid() {
            let local = (cpus(&[0]), flush(None, true));
            assert_eq!(made, [local], "the mapping CPU, for the whole verb");
        } else {
            assert_eq!(made, [], "nobody remembers invalid entries");
        }
        space.protect(all, Prot::RWX).unwrap();
        assert_eq!(
            space.flushes(),
            [],
            "rights that grow are found out by faults"
        );
        space.protect(range(7, 9), Prot::READ).unwrap();
        assert_eq!(space.flushes(), [(both, precise(7, 9))]);
        space.protect(range(7, 9), Prot::READ).unwrap();
        assert_eq!(space.flushes(), [], "nothing changed");
        space.protect(all, Prot::READ).unwrap();
        assert_eq!(space.flushes(), [(both, flush(None, false))]);
        space.unmap(range(3, 4)).unwrap();
        assert_eq!(space.flushes(), [(both, precise(3, 4))]);
        // A map that meets page 4 takes page 3 back, which CPUs may have used.
        assert!(space.map(range(3, 5), first, SPECIAL_RW).is_err());
        assert_eq!(space.flushes(), [(both, precise(3, 4))]);
        // Pages and a table whole.
        let rest = range(table - 12, all.end().as_usize());
        space.unmap(rest).unwrap();
        assert_eq!(space.flushes(), [(both, flush(None, true))]);
        space.unmap(rest).unwrap();
        assert_eq!(space.flushes(), [], "there was nothing");
        space.tlb.deactivate(5);
        space.unmap(range(0, 1)).unwrap();
        assert_eq!(space.flushes(), [(cpus(&[2]), precise(0, 1))]);
        space.tlb.deactivate(2);
        space.destroy();
        assert_eq!(
            frames.platform().take_log().flushes,
            [],
            "no CPU has it loaded"
        );
    });
}

/// F4: a CPU that kept tagged translations learns that it missed a flush, also
/// one of those that it was lazy for.
#[test]
fn f4_a_cpu_learns_what_it_missed() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let space = Space::new(&frames);
        assert_eq!(space.tlb.activate(1), Remembered::Stale, "a first time");
        space.map_fresh(range(0, 4));
        for gone in [SpaceTlb::leave, SpaceTlb::lazy] {
            gone(&space.tlb, 1);
            assert_eq!(space.tlb.activate(1), Remembered::Current, "no flush");
            space.unmap(range(0, 1)).unwrap();
            gone(&space.tlb, 1);
            assert_eq!(space.tlb.activate(1), Remembered::Current, "told in time");
            gone(&space.tlb, 1);
            space.map_fresh(range(0, 1));
            frames.platform().take_log();
            space.unmap(range(0, 1)).unwrap();
            assert_eq!(frames.platform().take_log().flushes, [], "left alone");
            assert_eq!(space.tlb.activate(1), Remembered::Stale, "one was missed");
        }
        space.tlb.deactivate(1);
        assert_eq!(space.tlb.activate(1), Remembered::Stale, "nothing is kept");
        space.tlb.deactivate(1);
        space.unmap(range(0, 4)).unwrap();
        space.destroy();
    });
}

/// Walks to a page whenever a flush is sent.
#[derive(Debug)]
struct Peek {
    walker: AnyWalker,
    frames: Arc<Ram>,
    root: Pfn,
    page: usize,
    /// How often the page, and the block, was missing, and how often neither.
    missing: [AtomicUsize; 2],
    there: AtomicUsize,
}

impl FlushHook for Peek {
    fn flush(&self, _cpus: CpuSet, _flush: Flush) {
        let roots = Roots {
            low: self.root.as_u64() << self.walker.page_shift(),
            high: None,
        };
        let start = self.walker.start(roots, self.page).unwrap();
        let (ram, mut trail) = (self.frames.platform().arena(), Vec::new());
        let (page, mode) = (self.page, Mode::User);
        let walk = self
            .walker
            .walk(ram, start, page, Access::Read, mode, &mut trail);
        let count = match walk {
            Err(Refusal::NotPresent(level)) => &self.missing[usize::from(level) - 1],
            other => other.map(|_| &self.there).unwrap(),
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// F7: where the format demands it, a block becomes invalid and is flushed
/// before the table takes its place. Elsewhere it is never missing.
#[test]
fn f7_a_block_is_shattered_by_way_of_an_invalid_entry() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = Arc::new(TestPlatform::machine(format, 64, 128));
        let space = Space::new(&frames);
        let b = format.entry_pages(2);
        let noted = AttrFlags::ACCESSED | AttrFlags::DIRTY;
        let block = Pfn::new(4 * b as u64);
        space
            .map(range(b, 2 * b), block, SPECIAL_RW.with(noted))
            .unwrap();
        let page = b + b / 4;
        assert_eq!(space.entry(page).unwrap().1, 2);
        space.tlb.activate(0);
        let hook = Arc::new(Peek {
            walker: m.walker(),
            frames: frames.clone(),
            root: space.root,
            page,
            missing: Default::default(),
            there: AtomicUsize::new(0),
        });
        frames.platform().set_flush_hook(hook.clone());
        space.protect(range(page, page + 1), Prot::READ).unwrap();
        let missing = |level: usize| hook.missing[level - 1].load(Ordering::SeqCst);
        let breaks = format.break_before_make();
        // The pages of the block may be runs, and then that of the page breaks.
        let run = breaks && format.run_bits(1) > 0;
        let expect = (usize::from(breaks), usize::from(run));
        assert_eq!((missing(2), missing(1)), expect);
        assert!(
            hook.there.load(Ordering::SeqCst) > 0,
            "the right is flushed"
        );
        let level = |page| space.entry(page).unwrap().1;
        assert_eq!((level(page), level(page - 1), level(2 * b - 1)), (1, 1, 1));
        space.tlb.deactivate(0);
        space.destroy();
        // The hook and the machine hold each other.
        frames.platform().set_flush_hook(Arc::new(Nobody));
    });
}

struct Nobody;

impl FlushHook for Nobody {
    fn flush(&self, _cpus: CpuSet, _flush: Flush) {}
}

/// F7: also that there was no table may be remembered (RISC-V 10.2.1: a fence
/// with an address reaches leaves only), by who maps and by who comes later.
#[test]
fn f7_a_map_that_made_a_table_is_flushed_with_it() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 128);
        let tlbs = Arc::new(SoftTlbs::new(m.walker(), 2, 0));
        frames.platform().set_flush_hook(tlbs.clone());
        let space = Space::new(&frames);
        let cx = space.cx();
        let ram = frames.platform().arena();
        let look = |cpu| tlbs.access(ram, cpu, Vpn::new(9), Access::Read, Mode::User, |pfn| pfn);
        let mut remembers = false;
        for cpu in [0, 1] {
            space.run(&tlbs, cpu);
            match look(cpu) {
                Err(Refusal::NotPresent(level)) if level > 1 => {
                    remembers = m.walker().caches_invalid_at(level);
                }
                other => panic!("{other:?} where there is no table"),
            }
        }
        let pfn = frames.alloc(&cx, 0).unwrap();
        let attrs = Attrs::user(Prot::READ).with(AttrFlags::ACCESSED);
        let owed = CursorMut::new(space.table(&cx), &space.tlb, range(9, 10))
            .map(pfn, attrs)
            .unwrap();
        owed.settle(&cx, &space.tlb);
        assert_eq!(look(0), Ok(pfn), "the CPU that mapped");
        assert_eq!(look(1).is_err(), remembers);
        on_cpu(1, || space.tlb.flush_spurious(&cx, range(9, 10)));
        assert_eq!(look(1), Ok(pfn), "the CPU whose fault was spurious");
        space.idle(&tlbs, 0);
        space.idle(&tlbs, 1);
        space.destroy();
    });
}

/// F7, nanos#1966: machines that remember invalid entries need a flush on map,
/// the others see the page at once.
#[test]
fn f7_lesson_55_a_map_is_flushed_where_invalid_entries_are_remembered() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 128);
        let tlbs = Arc::new(SoftTlbs::new(m.walker(), 1, 0));
        frames.platform().set_flush_hook(tlbs.clone());
        let space = Space::new(&frames);
        let cx = space.cx();
        space.run(&tlbs, 0);
        let ram = frames.platform().arena();
        let look = || tlbs.access(ram, 0, Vpn::new(9), Access::Read, Mode::User, |pfn| pfn);
        // A neighbour, so that the table is there and the page's entry empty.
        space.map_fresh(range(8, 9));
        assert_eq!(look(), Err(Refusal::NotPresent(1)));
        let pfn = frames.alloc(&cx, 0).unwrap();
        let attrs = Attrs::user(Prot::READ).with(AttrFlags::ACCESSED);
        let owed = CursorMut::new(space.table(&cx), &space.tlb, range(9, 10))
            .map(pfn, attrs)
            .unwrap();
        let remembers = m.walker().caches_invalid_at(1);
        assert!(format.caches_invalid() || !remembers);
        if remembers {
            assert_eq!(look(), Err(Refusal::NotPresent(1)), "remembered");
        } else {
            assert_eq!(look(), Ok(pfn));
        }
        space.flushes();
        owed.settle(&cx, &space.tlb);
        assert_eq!(
            space.flushes().len(),
            usize::from(format.caches_invalid()),
            "a flush is owed where the format says so"
        );
        assert_eq!(look(), Ok(pfn));
        space.idle(&tlbs, 0);
        space.destroy();
    });
}

/// F8: a full batch means another round, and nothing is dropped.
#[test]
fn f8_a_full_batch_flushes_and_goes_on() {
    const PAGES: usize = 199;
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 1024);
        let space = Space::new(&frames);
        space.tlb.activate(0);
        // All but the first of each table, so that no table goes as a whole.
        let table = format.entry_pages(2);
        let mut pieces = Vec::new();
        let mut left = PAGES;
        for first in (1..).step_by(table) {
            let pages = left.min(table - 1);
            pieces.push(range(first, first + pages));
            left -= pages;
            if left == 0 {
                break;
            }
        }
        for memory in ["there is", "there is none"] {
            let before = frames.free_frames();
            pieces.iter().for_each(|piece| space.map_fresh(*piece));
            space.flushes();
            let room = if memory == "there is none" {
                frames.platform().fail_from(1, u64::MAX);
                BATCH
            } else {
                BATCH + format.entries(1)
            };
            let cx = space.cx();
            let mut gather = TlbGather::new(&cx, &space.tlb);
            for piece in &pieces {
                CursorMut::new(space.table(&cx), &space.tlb, *piece)
                    .unmap(&mut gather)
                    .unwrap();
            }
            assert_eq!(gather.finish().kernel_pages, PAGES);
            frames.platform().fail_none();
            // The last round frees the tables, which are empty only then.
            assert_eq!(
                space.flushes().len(),
                PAGES.div_ceil(room),
                "memory: {memory}"
            );
            assert_eq!(frames.free_frames(), before);
        }
        space.tlb.deactivate(0);
        space.destroy();
    });
}

/// x86_64 crate, redox rmm: a table is linked zeroed. Free frames hold poison.
#[test]
fn a_fresh_table_is_empty_when_it_becomes_visible() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let space = Space::new(&frames);
        space.map_fresh(range(100, 101));
        let mut seen = Vec::new();
        let cx = space.cx();
        let all = space.table(&cx).user_pages();
        Cursor::new(space.table(&cx), all).visit(|v| seen.push(v.pages));
        assert_eq!(seen, [range(100, 101)]);
        space.destroy();
    });
}

/// ostd, aarch64-paging: hardware sets dirty between our load and our store.
/// One CPU stores all the time, one toggles rights, one harvests: each store
/// that came after a harvest is in the next.
#[test]
fn lesson_61_a_dirty_bit_that_hardware_sets_meanwhile_is_not_lost() {
    on_every_machine(|m| {
        if m.walker().sets() != Sets::Both {
            return m.skip("hardware sets no dirty bit");
        }
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let tlbs = Arc::new(SoftTlbs::new(m.walker(), 3, 0));
        frames.platform().set_flush_hook(tlbs.clone());
        let space = Space::new(&frames);
        space.map_fresh(range(0, 1));
        space.run(&tlbs, 0);
        // Between two slot operations the others get their turn.
        let turns = AtomicUsize::new(0);
        format.intrude(move |_: AnyFormat, _: Slot<'_>| {
            if turns.fetch_add(1, Ordering::Relaxed) % 8 == 0 {
                std::thread::yield_now();
            }
        });
        store_while_harvesting(&space, &tlbs);
        format.leave();
        space.idle(&tlbs, 0);
        space.destroy();
    });
}

fn store_while_harvesting(space: &Space<'_>, tlbs: &SoftTlbs<AnyWalker>) {
    let (stores, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            let ram = space.frames.platform().arena();
            while !stop.load(Ordering::SeqCst) {
                let store = || stores.fetch_add(1, Ordering::SeqCst);
                let _ = tlbs.access(ram, 0, Vpn::new(0), Access::Write, Mode::User, |_| store());
            }
        });
        s.spawn(|| {
            on_cpu(1, || {
                while !stop.load(Ordering::SeqCst) {
                    space.protect(range(0, 1), Prot::READ).unwrap();
                    space.protect(range(0, 1), Prot::RW).unwrap();
                }
            });
        });
        let harvests = || {
            let cx = space.cx();
            let mut after = stores.load(Ordering::SeqCst);
            let mut round = 0;
            // The others are threads, which may be slow to begin.
            while round < 1000 || stores.load(Ordering::SeqCst) < 200 {
                if round > 1000 {
                    std::thread::yield_now();
                }
                round += 1;
                assert!(round < 10_000_000, "nobody stores");
                let before = stores.load(Ordering::SeqCst);
                let mut dirty = false;
                CursorMut::new(space.table(&cx), &space.tlb, range(0, 1))
                    .harvest(Harvest::Dirty, |_| dirty = true);
                assert!(dirty || before == after, "round {round}: a store is lost");
                after = stores.load(Ordering::SeqCst);
            }
        };
        // A failure must end the others too.
        let _stop = StopAtEnd(&stop);
        on_cpu(2, harvests);
    });
}

/// page-table-generic, patina#1238: one page out of a block.
#[test]
fn a_block_loses_one_page_and_keeps_the_others() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 512);
        let space = Space::new(&frames);
        let b = format.entry_pages(2);
        let block = Pfn::new(4 * b as u64);
        let attrs = SPECIAL_RW.with_mem(MemType::WriteCombining);
        let word = format.encode_leaf(block, attrs, 2).unwrap();
        let Entry::Leaf { attrs: nearest, .. } = format.decode(word, 2) else {
            panic!("{word:#x}")
        };
        space.map(range(2 * b, 4 * b), block, attrs).unwrap();
        assert_eq!(space.entry(2 * b + b / 2 - 4).unwrap().1, 2);
        space.tlb.activate(2);
        let _made = space.flushes();
        space
            .unmap(range(2 * b + b / 2 - 4, 2 * b + b / 2 - 3))
            .unwrap();
        // No CPU uses the block any more.
        let whole = range(2 * b, 3 * b);
        let flushes = space.flushes();
        let drops = |f: &Flush| f.pages.is_none_or(|pages| pages.covers(whole));
        assert!(flushes.iter().any(|(_, f)| drops(f)), "{flushes:?}");
        space.tlb.deactivate(2);
        for page in 2 * b..4 * b {
            let (entry, level) = match space.entry(page) {
                Some(found) => found,
                None => {
                    assert_eq!(page, 2 * b + b / 2 - 4);
                    continue;
                }
            };
            let first = (page - 2 * b) as u64;
            let (within, expect) = if page < 3 * b {
                (0, 1)
            } else {
                (first & (b as u64 - 1), 2)
            };
            assert_eq!(level, expect);
            // The PAT bit stands elsewhere in a block than in a page.
            let pfn = block.saturating_add(first - within);
            assert_eq!(
                entry,
                Entry::Leaf {
                    pfn,
                    attrs: nearest
                }
            );
        }
        space.destroy();
    });
}

/// C1: without memory for the table, a block is not cut and nothing changes.
#[test]
fn c1_a_block_that_cannot_be_shattered_stays_whole() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 512);
        let space = Space::new(&frames);
        let b = format.entry_pages(2);
        let block = Pfn::new(4 * b as u64);
        space.map(range(b, 2 * b), block, SPECIAL_RW).unwrap();
        frames.platform().fail_from(1, u64::MAX);
        let oom = |at| {
            Err(TableError {
                at: Vpn::new(at),
                why: Why::OutOfMemory,
            })
        };
        assert_eq!(
            space.unmap(range(b + b / 4, b + b / 2)).map(|_| ()),
            oom(b + b / 4)
        );
        assert_eq!(
            space.protect(range(0, b + b / 2), Prot::READ),
            oom(b + b / 2 - 1)
        );
        assert_eq!(space.entry(b + b / 4 + 3), space.entry(b));
        // Whole, it needs no memory.
        space.unmap(range(0, 3 * b)).unwrap();
        assert_eq!(space.entry(b + b / 4 + 3), None);
        frames.platform().fail_none();
        space.destroy();
    });
}

/// x86_64#561, page_table_multiarch#4: a swapped page occupies its entry.
#[test]
fn not_present_is_not_empty() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let space = Space::new(&frames);
        let cx = space.cx();
        let table = space.table(&cx);
        let swap = NonPresent {
            kind: NonPresentKind::Swap,
            value: 77,
        };
        {
            let guard = table.lock_leaf_or_create(Vpn::new(5), &space.tlb).unwrap();
            let word = cx.format().encode_nonpresent(swap).unwrap();
            guard.install(Vpn::new(5), word).settle(&cx, &space.tlb);
            assert_eq!(guard.live(), 1);
        }
        let mut gather = TlbGather::new(&cx, &space.tlb);
        table.prune(table.user_pages(), &mut gather);
        assert_eq!(gather.finish().tables, 0, "the table is in use");
        let exists = TableError {
            at: Vpn::new(5),
            why: Why::Exists,
        };
        assert_eq!(space.map(range(3, 8), Pfn::new(9), SPECIAL_RW), Err(exists));
        assert_eq!(space.entry(3), None, "taken back");
        space.protect(range(0, 10), Prot::RW).unwrap();
        assert_eq!(space.entry(5).unwrap().0, Entry::NonPresent(swap));
        let mut gather = TlbGather::new(&cx, &space.tlb);
        CursorMut::new(table, &space.tlb, range(0, 10))
            .unmap(&mut gather)
            .unwrap();
        let released = gather.finish();
        assert_eq!(
            (released.swap_entries, released.tables),
            (1, usize::from(format.levels()) - 1)
        );
        space.destroy();
    });
}

/// asterinas#3162, aarch64-paging: every allocation of a map may fail; then
/// tables, frames and entries are as before.
#[test]
fn c1_a_map_that_runs_out_of_memory_leaves_nothing() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 512);
        let space = Space::new(&frames);
        // Where the fewest tables are shared by the two sides.
        let edge = format.entry_pages(format.levels().min(3));
        space.tlb.activate(0);
        let pages = range(edge - 3, edge + 1500);
        let before = frames.free_frames();
        let mut failures = 0;
        loop {
            frames.platform().fail_nth(failures + 1);
            let result = space.map(pages, Pfn::new(1 << 16), SPECIAL_RW);
            frames.platform().fail_none();
            let Err(e) = result else { break };
            assert_eq!(e.why, Why::OutOfMemory);
            assert!(pages.contains(e.at));
            assert_eq!(frames.free_frames(), before);
            assert!(pages.iter().all(|p| space.entry(p.as_usize()).is_none()));
            failures += 1;
        }
        // A path on each side, and leaf tables.
        let leaves = 1503_usize.div_ceil(format.entry_pages(2));
        assert!(failures as usize >= leaves);
        if m.name == "x86_64, 4 levels" {
            // Below the line: 3 tables; above: another 2 and 3 leaf tables.
            assert_eq!(failures, 3 + 2 + 2);
        }
        space.unmap(pages).unwrap();
        assert_eq!(frames.free_frames(), before);
        for nth in 1..=4 {
            frames.platform().fail_nth(nth);
            let root = PageTable::create(&space.cx(), TableOwner::User, 2);
            frames.platform().fail_none();
            match root {
                Ok(root) => {
                    assert!(nth > 1);
                    let cx = space.cx();
                    let table = PageTable::view(&cx, root, TableOwner::User, 2);
                    table.destroy(&SpaceTlb::new()).unwrap();
                }
                Err(OutOfMemory) => assert_eq!(nth, 1),
            }
            assert_eq!(frames.free_frames(), before);
        }
        space.tlb.deactivate(0);
        space.destroy();
    });
}

/// asterinas#1285, #2709: the last page of user space, and ranges past it.
#[test]
fn b2_the_end_of_the_address_space_is_reached_and_not_passed() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let space = Space::new(&frames);
        let end = format.user_end().as_usize();
        space.map_fresh(range(end - 1, end));
        assert!(space.entry(end - 1).is_some());
        assert_eq!(space.entry(end), None);
        let reach = |at| {
            Err(TableError {
                at: Vpn::new(at),
                why: Why::OutOfReach,
            })
        };
        assert_eq!(
            space.map(range(end - 5, end + 1), Pfn::new(9), SPECIAL_RW),
            reach(end)
        );
        assert_eq!(
            space.map(range(end + 5, end + 6), Pfn::new(9), SPECIAL_RW),
            reach(end + 5)
        );
        let cx = space.cx();
        let kernel = Vpn::new(end);
        assert!(
            space
                .table(&cx)
                .lock_leaf_or_create(kernel, &space.tlb)
                .is_err()
        );
        space.protect(range(0, usize::MAX), Prot::READ).unwrap();
        assert_eq!(space.unmap(range(end - 9, usize::MAX)).unwrap(), 1);
        space.destroy();
    });
}

/// svsm#1118: a walk over nothing ends; 128 TiB take a few looks.
#[test]
fn empty_ranges_are_skipped_by_whole_tables() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let space = Space::new(&frames);
        let cx = space.cx();
        let table = space.table(&cx);
        let all = table.user_pages();
        let mut seen = 0;
        let far = (format.user_end().as_usize() / 2) & !(format.entry_pages(2) - 1);
        Cursor::new(table, all).visit(|_| seen += 1);
        assert_eq!(seen, 0);
        assert!(table.next_leaf(all).is_none());
        space.map_fresh(range(far, far + 1));
        Cursor::new(table, all).visit(|v| {
            seen += 1;
            assert_eq!(v.pages, range(far, far + 1));
        });
        assert_eq!(seen, 1);
        assert_eq!(
            table.next_leaf(all).unwrap().range(),
            range(far, far + format.entry_pages(2))
        );
        space.protect(all, Prot::READ).unwrap();
        space.destroy();
    });
}

/// x86_64#264: a table goes when its last entry goes, without a scan.
#[test]
fn empty_tables_are_freed_at_once() {
    on_every_machine(|m| {
        let format = m.format();
        let frames = TestPlatform::machine(format, 64, 256);
        let space = Space::new(&frames);
        let before = frames.free_frames();
        let tables = usize::from(format.levels()) - 1;
        space.map_fresh(range(10, 12));
        assert_eq!(frames.free_frames(), before - 2 - tables);
        space.unmap(range(10, 11)).unwrap();
        assert_eq!(frames.free_frames(), before - 1 - tables);
        space.unmap(range(11, 12)).unwrap();
        assert_eq!(
            frames.free_frames(),
            before,
            "the tables went with the page"
        );
        space.destroy();
    });
}

/// Three CPUs map and unmap pages of the same few tables: those are linked,
/// found dead, and freed under each other's feet.
#[test]
fn neighbours_share_tables_and_lose_no_page() {
    on_every_machine(|m| {
        for seed in m.seeds(1) {
            let frames = TestPlatform::machine(m.format(), 64, 512);
            let tlbs = Arc::new(SoftTlbs::new(m.walker(), 3, seed));
            frames.platform().set_flush_hook(tlbs.clone());
            frames.platform().arena().set_free_hook(tlbs.clone());
            let before = frames.free_frames();
            let space = Space::new(&frames);
            std::thread::scope(|s| {
                for cpu in 0..3usize {
                    let (space, tlbs) = (&space, &tlbs);
                    s.spawn(move || on_cpu(cpu, || neighbour(space, tlbs, cpu, seed)));
                }
            });
            space.destroy();
            assert_eq!(frames.free_frames(), before, "seed {seed}");
        }
    });
}

/// The nth of 20 pages of a CPU: two in each of ten tables, four of which hang
/// in one table of the level above where there are so many levels.
fn place(format: AnyFormat, nth: usize, cpu: usize) -> usize {
    let table = format.entry_pages(2);
    let far = format.entry_pages(format.levels());
    let far = if far > table && 3 * far <= format.user_end().as_usize() {
        far
    } else {
        4 * table
    };
    let (k, second) = (nth / 2, nth % 2);
    k / 4 * far + k % 4 * table + 3 * second + cpu
}

fn neighbour(space: &Space<'_>, tlbs: &SoftTlbs<AnyWalker>, cpu: usize, seed: u64) {
    let format = space.frames.platform().format();
    // What hardware may not set is set: nobody resolves faults.
    let attrs = Attrs::user(Prot::RW).with(match tlbs.walker().sets() {
        Sets::Both => AttrFlags::empty(),
        _ => AttrFlags::ACCESSED | AttrFlags::DIRTY,
    });
    let mut random = Random::new(seed * 3 + cpu as u64);
    let mut mine: BTreeMap<usize, Pfn> = BTreeMap::new();
    space.run(tlbs, cpu);
    let ram = space.frames.platform().arena();
    for _ in 0..1500 {
        let page = place(format, random.below(20) as usize, cpu);
        let one = range(page, page + 1);
        match random.below(4) {
            0 if !mine.contains_key(&page) => {
                let cx = space.cx();
                let Ok(pfn) = space.frames.alloc(&cx, 0) else {
                    continue;
                };
                let cursor = &mut CursorMut::new(space.table(&cx), &space.tlb, one);
                match cursor.map_each(&[pfn], attrs) {
                    Ok(owed) => {
                        owed.settle(&cx, &space.tlb);
                        mine.insert(page, pfn);
                    }
                    Err(e) => panic!("seed {seed}: {e:?}"),
                }
            }
            1 => {
                let was = mine.remove(&page);
                assert_eq!(
                    space.unmap(one).unwrap(),
                    usize::from(was.is_some()),
                    "seed {seed}"
                );
            }
            _ => {
                let store = || tlbs.access(ram, cpu, one.start(), Access::Write, Mode::User, |p| p);
                let mut got = store();
                // A neighbour may have unlinked an empty table that this CPU
                // still remembers, and not have told it yet: a spurious fault.
                let mut turns = 0;
                while got.is_err() && mine.contains_key(&page) {
                    assert!(
                        space.entry(page).is_some(),
                        "seed {seed}: page {page} is lost"
                    );
                    assert!(turns < 1_000_000, "seed {seed}: page {page} stays stale");
                    turns += 1;
                    std::thread::yield_now();
                    got = store();
                }
                assert_eq!(
                    got.ok(),
                    mine.get(&page).copied(),
                    "seed {seed}, page {page}"
                );
                let (nth, whose) = (random.below(20) as usize, random.below(3) as usize);
                let other = Vpn::new(place(format, nth, whose));
                tlbs.speculate(ram, cpu, other);
                let cx = space.cx();
                space.table(&cx).translate(other);
            }
        }
    }
    space.idle(tlbs, cpu);
    for (page, pfn) in mine {
        let Some((Entry::Leaf { pfn: found, .. }, 1)) = space.entry(page) else {
            panic!("seed {seed}: page {page} is lost")
        };
        assert_eq!(found, pfn);
    }
}

#[test]
fn a_gather_is_small_enough_for_a_kernel_stack() {
    // Words of 64 bits are the largest.
    assert!(size_of::<TlbGather<'_, '_, TestPlatform<AnyFormat>>>() <= 640);
}
