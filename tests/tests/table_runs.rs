//! Contiguous runs: when entries are marked, what keeps a run, what breaks it,
//! and what is flushed for that. Random scripts stand in `tables`.

use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::cx::Cx;
use mm_core::format::tiny::{SetsBoth, SetsBothBreaking, SetsNothing, Tiny, TinyFacts};
use mm_core::format::{AttrFlags, Attrs, Entry, PageTableFormat, TableOwner};
use mm_core::page::{Frames, PageFlags};
use mm_core::platform::PhysMemory as _;
use mm_core::prot::{Access, MemType, Prot};
use mm_core::range::PageRange;
use mm_core::space::{Backing, MapRequest};
use mm_core::sync::{AtomicU64, NoContext};
use mm_core::table::{Cursor, CursorMut, Harvest, Harvested, KernelSpace, PageTable, Why};
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_testkit::machine::on_every_machine;
use mm_testkit::mmu::{Mode, Sets, TinyWalker};
use mm_testkit::platform::TestPlatform;
use mm_testkit::tlb::{Loaded, SoftTlbs};
use std::sync::Arc;

/// Three levels of eight entries, runs of four.
type Format<T> = Tiny<u64, T>;

fn range(first: usize, end: usize) -> PageRange {
    PageRange::new(Vpn::new(first), Vpn::new(end))
}

const ALL: PageRange = PageRange::new(Vpn::new(0), Vpn::new(usize::MAX));

/// A space on a machine with one CPU, which runs it.
struct Space<T: TinyFacts> {
    frames: Frames<TestPlatform<Format<T>>>,
    tlbs: Arc<SoftTlbs<TinyWalker<AtomicU64>>>,
    tlb: SpaceTlb,
    root: Pfn,
    /// 64 frames in a row, aligned to their number.
    block: Pfn,
}

impl<T: TinyFacts> Space<T> {
    fn new(sets: Sets) -> Self {
        let format = Format::<T>::new(3, 3).with_runs(2);
        let frames = TestPlatform::machine(format, 64, 1024);
        let mut walker = TinyWalker::new(3, 3, sets, format.caches_invalid()).with_runs(2);
        walker.breaks = format.break_before_make();
        let tlbs = Arc::new(SoftTlbs::new(walker, 1, 0));
        frames.platform().set_flush_hook(tlbs.clone());
        frames.platform().arena().set_free_hook(tlbs.clone());
        let block = frames.alloc(&NoContext, 6).unwrap();
        let root = PageTable::create(&Cx::new(&frames), TableOwner::User, 1).unwrap();
        let tlb = SpaceTlb::new();
        tlb.activate(0);
        tlbs.load(0, Some(Loaded { root, asid: 0 }));
        Self {
            frames,
            tlbs,
            tlb,
            root,
            block,
        }
    }

    fn with<R>(&self, verb: impl FnOnce(PageTable<'_, '_, TestPlatform<Format<T>>>) -> R) -> R {
        let cx = Cx::new(&self.frames);
        verb(PageTable::view(&cx, self.root, TableOwner::User, 1))
    }

    /// Maps frames of the block, owned by nobody.
    fn map(&self, pages: PageRange, skew: u64, prot: Prot) {
        let noted = AttrFlags::ACCESSED | AttrFlags::DIRTY;
        let attrs = Attrs::user(prot).with(AttrFlags::SPECIAL).with(noted);
        self.map_with(pages, self.block.saturating_add(skew), attrs)
            .unwrap();
    }

    fn map_with(&self, pages: PageRange, first: Pfn, attrs: Attrs) -> Result<(), Why> {
        self.with(|table| {
            let mut cursor = CursorMut::new(table, &self.tlb, pages);
            let owed = cursor.map(first, attrs).map_err(|e| e.why)?;
            owed.settle(table.cx(), &self.tlb);
            Ok(())
        })
    }

    fn unmap(&self, pages: PageRange) -> Result<(), Why> {
        self.with(|table| {
            let mut gather = TlbGather::new(table.cx(), &self.tlb);
            let mut cursor = CursorMut::new(table, &self.tlb, pages);
            cursor.unmap(&mut gather).map_err(|e| e.why)?;
            let _released = gather.finish();
            Ok(())
        })
    }

    fn protect(&self, pages: PageRange, prot: Prot) -> Result<(), Why> {
        self.with(|table| {
            let mut cursor = CursorMut::new(table, &self.tlb, pages);
            cursor.protect(prot).map_err(|e| e.why)
        })
    }

    fn harvest(&self, pages: PageRange, bit: Harvest) -> Vec<Harvested> {
        let mut seen = Vec::new();
        self.with(|table| {
            CursorMut::new(table, &self.tlb, pages).harvest(bit, |h| seen.push(h));
        });
        seen
    }

    /// A letter for each page: R in a run, B in a run of blocks, b in a block, p
    /// alone, n not present, a dot where nothing is.
    fn picture(&self, pages: PageRange) -> String {
        self.with(|table| {
            let format = table.cx().format();
            let letter = |page| match table.translate(page) {
                None => '.',
                Some((word, level)) => match (format.decode(word, level), format.is_run(word)) {
                    (Entry::Leaf { .. }, true) if level == 1 => 'R',
                    (Entry::Leaf { .. }, true) => 'B',
                    (Entry::Leaf { .. }, false) if level == 1 => 'p',
                    (Entry::Leaf { .. }, false) => 'b',
                    _ => 'n',
                },
            };
            pages.iter().map(letter).collect()
        })
    }

    fn access(&self, page: usize, access: Access) -> Option<u64> {
        let ram = self.frames.platform().arena();
        let then = |pfn: Pfn| pfn.as_u64() - self.block.as_u64();
        let result = self
            .tlbs
            .access(ram, 0, Vpn::new(page), access, Mode::User, then);
        result.ok()
    }

    /// The pages of the flushes since the last call; `ALL` for all of the space.
    fn flushes(&self) -> Vec<PageRange> {
        let log = self.frames.platform().take_log().flushes;
        log.iter().map(|(_, f)| f.pages.unwrap_or(ALL)).collect()
    }
}

fn aligned_fills<T: TinyFacts>(sets: Sets) {
    let s = Space::<T>::new(sets);
    s.map(range(1, 15), 1, Prot::RW);
    assert_eq!(s.picture(range(0, 16)), ".pppRRRRRRRRppp.");
    // The last entry of what would be a run comes later: it stays alone.
    s.map(range(15, 23), 15, Prot::RW);
    assert_eq!(s.picture(range(8, 24)), "RRRRppppRRRRppp.");
    // Frames that are aligned otherwise.
    s.map(range(24, 40), 1, Prot::RW);
    assert_eq!(s.picture(range(24, 40)), "pppppppppppppppp");
    for page in 1..23 {
        assert_eq!(s.access(page, Access::Read), Some(page as u64));
    }
    // Eight blocks of eight pages: two runs of four, of which one whole.
    let s = Space::<T>::new(sets);
    s.map(range(24, 64), 24, Prot::RW);
    assert_eq!(s.picture(range(24, 40)), "bbbbbbbbBBBBBBBB");
    assert_eq!(s.picture(range(56, 64)), "BBBBBBBB");
    assert_eq!(s.access(45, Access::Write), Some(45));
    // A page of one: its block alone is shattered, into runs.
    s.protect(range(45, 46), Prot::READ).unwrap();
    assert_eq!(s.picture(range(32, 64)), "bbbbbbbbRRRRppppbbbbbbbbbbbbbbbb");
    for page in 24..64 {
        let expect = (page != 45).then_some(page as u64);
        assert_eq!(s.access(page, Access::Read), Some(page as u64));
        assert_eq!(s.access(page, Access::Write), expect, "{page}");
    }
}

#[test]
fn aligned_runs_that_a_map_fills_are_marked() {
    aligned_fills::<SetsBoth>(Sets::Both);
    aligned_fills::<SetsBothBreaking>(Sets::Both);
    aligned_fills::<SetsNothing>(Sets::Nothing);
}

fn parts<T: TinyFacts>(sets: Sets) {
    let s = Space::<T>::new(sets);
    let run = range(4, 8);
    let again = |prot| {
        s.unmap(range(0, 16)).unwrap();
        s.map(range(4, 12), 4, prot);
        assert_eq!(s.picture(range(0, 16)), "....RRRRRRRR....");
        for page in 4..12 {
            s.access(page, Access::Read);
        }
        s.flushes();
    };
    // The run first, while no other translation may come in; then the page.
    again(Prot::RW);
    s.unmap(range(5, 6)).unwrap();
    assert_eq!(s.picture(range(0, 16)), "....p.ppRRRR....");
    assert_eq!(s.flushes(), [run, range(5, 6)]);
    again(Prot::RW);
    s.protect(range(3, 7), Prot::READ).unwrap();
    assert_eq!(s.picture(range(0, 16)), "....ppppRRRR....");
    assert_eq!(s.flushes(), [run, range(4, 7)]);
    assert_eq!(s.access(7, Access::Write), Some(7));
    assert_eq!(s.access(6, Access::Write), None);
    // More rights: only the run is flushed.
    again(Prot::READ);
    s.protect(range(7, 8), Prot::RW).unwrap();
    assert_eq!(s.picture(range(0, 16)), "....ppppRRRR....");
    assert_eq!(s.flushes(), [run]);
    // The rights that it has: nothing happens.
    again(Prot::RW);
    s.protect(range(5, 6), Prot::RW).unwrap();
    assert_eq!(s.picture(range(0, 16)), "....RRRRRRRR....");
    assert_eq!(s.flushes(), []);
    again(Prot::RW);
    s.harvest(range(6, 7), Harvest::Dirty);
    assert_eq!(s.picture(range(0, 16)), "....ppppRRRR....");
    assert_eq!(s.flushes(), [run, range(6, 7)]);
    for page in (4..12).filter(|&page| page != 6) {
        assert_eq!(s.access(page, Access::Write), Some(page as u64));
    }
}

#[test]
fn a_part_that_changes_breaks_its_run_first() {
    parts::<SetsBoth>(Sets::Both);
    parts::<SetsBothBreaking>(Sets::Both);
    parts::<SetsNothing>(Sets::Nothing);
}

fn wholes<T: TinyFacts>(sets: Sets, breaks: bool) {
    let s = Space::<T>::new(sets);
    let two = range(4, 12);
    s.map(two, 4, Prot::RW);
    (4..12).for_each(|page| _ = s.access(page, Access::Write));
    s.flushes();
    // With break-before-make each run goes and comes; then what lost rights.
    let broken = |then: &[PageRange]| {
        let mut all = Vec::new();
        if breaks {
            all.extend([range(4, 8), range(8, 12)]);
        }
        all.extend(then);
        all
    };
    s.protect(two, Prot::READ).unwrap();
    assert_eq!(s.picture(range(0, 16)), "....RRRRRRRR....");
    assert_eq!(s.flushes(), broken(&[two]));
    assert_eq!(s.access(5, Access::Write), None);
    s.protect(range(0, 16), Prot::RWX).unwrap();
    assert_eq!(s.picture(range(0, 16)), "....RRRRRRRR....");
    assert_eq!(s.flushes(), broken(&[]));
    s.tlb.flush_local(&Cx::new(&s.frames), two);
    assert_eq!(s.access(5, Access::Write), Some(5));
    s.flushes();
    let seen = s.harvest(two, Harvest::Dirty);
    assert_eq!(s.picture(range(0, 16)), "....RRRRRRRR....");
    assert_eq!(s.flushes(), broken(&[two]));
    let runs = [range(4, 8), range(8, 12)];
    let frame = |r: PageRange| s.block.saturating_add(r.start().as_usize() as u64);
    assert_eq!(
        seen,
        runs.map(|pages| Harvested {
            pages,
            frame: frame(pages)
        })
    );
    // Accessed is never flushed, and no entry is empty for a moment.
    assert_eq!(s.harvest(two, Harvest::Accessed).len(), 2);
    assert_eq!(s.harvest(two, Harvest::Accessed), []);
    assert_eq!(s.picture(range(0, 16)), "....RRRRRRRR....");
    assert_eq!(s.flushes(), []);
    s.unmap(two).unwrap();
    assert_eq!(s.flushes(), [ALL], "the tables go too");
    assert_eq!(s.picture(range(0, 16)), "................");
}

#[test]
fn a_run_that_changes_as_a_whole_stays_one() {
    wholes::<SetsBoth>(Sets::Both, false);
    wholes::<SetsBothBreaking>(Sets::Both, true);
}

fn notes<T: TinyFacts>() {
    let s = Space::<T>::new(Sets::Both);
    let pages: Vec<_> = (0..4).map(|i| s.block.saturating_add(4 + i)).collect();
    // Cached pages, each with a reference and a map count of its own.
    s.frames.free(&NoContext, s.block).unwrap();
    let singles: Vec<_> = (0..64).map(|_| s.frames.alloc(&NoContext, 0)).collect();
    assert!(singles.iter().all(Result::is_ok));
    let record = |pfn| s.frames.page(pfn).unwrap();
    let enter = || {
        for &pfn in &pages {
            record(pfn).user().init(PageFlags::UPTODATE, 1, 0);
            record(pfn).get_refs(1).unwrap();
            record(pfn).user().add_maps(1).unwrap();
        }
        s.map_with(range(4, 8), pages[0], Attrs::user(Prot::RW))
            .unwrap();
        assert_eq!(s.picture(range(4, 8)), "RRRR");
        // Noted in one entry only, and not in that of the page.
        assert_eq!(s.access(6, Access::Write), Some(6));
        let noted = |page| {
            let word = s.with(|table| table.translate(Vpn::new(page)).unwrap().0);
            Format::<T>::new(3, 3).is_dirty(word)
        };
        assert_eq!([4, 5, 6, 7].map(noted), [false, false, false, true]);
        let mut seen = Vec::new();
        s.with(|table| {
            Cursor::new(table, range(4, 8)).visit(|v| {
                let is_dirty = |a: Attrs| a.flags.contains(AttrFlags::DIRTY);
                seen.push(matches!(v.entry, Entry::Leaf { attrs, .. } if is_dirty(attrs)));
            });
        });
        assert_eq!(seen, [true; 4], "what a visit sees");
    };
    let verbs: [(&str, &dyn Fn()); 6] = [
        ("unmap", &|| {}),
        ("with the table", &|| s.unmap(range(0, 64)).unwrap()),
        ("in two parts", &|| s.unmap(range(4, 6)).unwrap()),
        ("broken", &|| s.protect(range(4, 5), Prot::READ).unwrap()),
        ("kept", &|| s.protect(range(4, 8), Prot::READ).unwrap()),
        ("taken away", &|| {
            s.protect(range(4, 8), Prot::NONE).unwrap()
        }),
    ];
    for (name, verb) in verbs {
        enter();
        // Something else in the table, so that it stays.
        s.frames.alloc(&NoContext, 0).unwrap();
        verb();
        s.unmap(range(4, 8)).unwrap();
        for &pfn in &pages {
            let page = record(pfn);
            assert_eq!((page.refs(), page.user().maps()), (1, 0), "{name}");
            assert!(page.has(PageFlags::DIRTY | PageFlags::REFERENCED), "{name}");
        }
    }
}

/// Accessed and dirty belong to the run: hardware may note them in any entry.
#[test]
fn what_one_entry_notes_counts_for_each_page() {
    notes::<SetsBoth>();
    notes::<SetsBothBreaking>();
}

/// A protect that must shatter a block of a run and cannot: nothing changed.
#[test]
fn a_run_survives_a_verb_that_fails() {
    let s = Space::<SetsBothBreaking>::new(Sets::Both);
    s.map(range(0, 32), 0, Prot::RW);
    assert_eq!(s.picture(range(0, 32)), "B".repeat(32));
    for page in [3, 20] {
        s.flushes();
        s.frames.platform().fail_nth(1);
        let result = s.protect(range(page, page + 5), Prot::READ);
        s.frames.platform().fail_none();
        assert_eq!(result, Err(Why::OutOfMemory));
        assert_eq!(s.picture(range(0, 32)), "B".repeat(32));
        assert_eq!(s.flushes(), []);
    }
    // Mapping over it is refused, and takes back the runs that it made.
    let attrs = Attrs::user(Prot::RW).with(AttrFlags::SPECIAL);
    let mapped = s.map_with(range(32, 60), s.block.saturating_add(32), attrs);
    assert_eq!(mapped, Ok(()));
    s.unmap(range(32, 56)).unwrap();
    let mapped = s.map_with(range(33, 60), s.block.saturating_add(33), attrs);
    assert_eq!(mapped, Err(Why::Exists));
    assert_eq!(s.picture(range(32, 64)), ".".repeat(24) + "RRRR....");
}

/// A device of the kernel's is aligned like its frames, so that runs fit.
#[test]
fn a_device_of_the_kernel_is_mapped_in_runs() {
    let format = Format::<SetsBothBreaking>::new(3, 3).with_runs(2);
    let frames = TestPlatform::machine(format.with_kernel_half(4), 64, 512);
    let cx = Cx::new(&frames);
    let kernel = KernelSpace::new(range(256, 512));
    kernel.init(&cx).unwrap();
    let first = Pfn::new(0x1002);
    let area = kernel.map_device(&cx, first, 7, MemType::Device).unwrap();
    let table = kernel.table(&cx).unwrap();
    let in_run = |page| format.is_run(table.translate(page).unwrap().0);
    let marked: Vec<_> = area.iter().map(in_run).collect();
    assert_eq!(marked, [false, false, true, true, true, true, false]);
    assert_eq!(kernel.vunmap(&cx, area.start()), Ok(area));
}

/// A device in the space of a program, on every machine with runs: faults,
/// fork, protect, unmap and the copy of one page take its runs apart, and every
/// byte stays where it was.
#[test]
fn a_program_uses_parts_of_a_device_that_is_mapped_in_runs() {
    on_every_machine(|machine| {
        let format = machine.format();
        let run = 1usize << format.run_bits(1);
        if run == 1 {
            return machine.skip("has no runs of pages");
        }
        let w = machine.world(2048, 2, 1);
        let size = machine.page_size();
        let pages = 3 * run + 1;
        let order = (4 * run).ilog2() as u8;
        let device = w.mm().frames().alloc(&NoContext, order).unwrap();
        let memory = w.mm().frames().memory();
        for i in 0..pages {
            memory.write(device.saturating_add(i as u64), 0, &[i as u8]);
        }
        let s = w.space();
        let start = 4 * run * size;
        let request = MapRequest {
            backing: Backing::Device {
                pfn: device,
                mem: MemType::WriteBack,
            },
            ..MapRequest::anonymous(pages * size, Prot::RW).fixed(VirtAddr::new(start))
        };
        s.map(&request).unwrap();
        let at = |page: usize| start + page * size;
        // How many entries of each run are marked.
        let marked = |s: &mm_testkit::world::Space, runs: usize| -> Vec<usize> {
            let cx = Cx::new(w.mm().frames());
            w.run(0, s);
            let root = w.tlbs().contents(0).0.unwrap().root;
            let table = PageTable::view(&cx, root, TableOwner::User, 1);
            let is_marked = |page: &usize| {
                let vpn = VirtAddr::new(at(*page)).vpn(machine.format().page_shift());
                table.translate(vpn).is_some_and(|(word, level)| {
                    let leaf = matches!(format.decode(word, level), Entry::Leaf { .. });
                    leaf && format.is_run(word)
                })
            };
            let of_run = |r: usize| (r * run..(r + 1) * run).filter(is_marked).count();
            (0..runs).map(of_run).collect()
        };
        assert_eq!(marked(&s, 3), [run; 3]);
        let reads = |cpu, s: &mm_testkit::world::Space, page: usize| w.peek(cpu, s, at(page));
        for page in 0..pages {
            assert_eq!(reads(0, &s, page), Ok(page as u8));
        }
        w.poke(1, &s, at(1), 100).unwrap();
        assert_eq!(marked(&s, 3), [run; 3]);
        // All of it, then WRITE back: a device is never copied, also when it is private.
        s.protect(VirtAddr::new(start), pages * size, Prot::READ)
            .unwrap();
        assert_eq!(marked(&s, 3), [run; 3]);
        s.protect(VirtAddr::new(start), pages * size, Prot::RW)
            .unwrap();
        let child = s.fork().unwrap();
        assert_eq!(marked(&child, 3), [0; 3], "an entry each");
        assert_eq!(marked(&s, 3), [run; 3]);
        w.poke(1, &s, at(2), 101).unwrap();
        assert_eq!(
            marked(&s, 3),
            [0, run, run],
            "one entry of the first is writable"
        );
        assert_eq!(reads(0, &s, 2), Ok(101));
        assert_eq!(reads(0, &child, 2), Ok(101));
        s.unmap(VirtAddr::new(at(run + 1)), size).unwrap();
        assert_eq!(marked(&s, 3), [0, 0, run]);
        let none = VirtAddr::new(at(2 * run + 1));
        s.protect(none, size, Prot::NONE).unwrap();
        assert_eq!(marked(&s, 3), [0; 3]);
        assert!(reads(0, &s, 2 * run + 1).is_err());
        assert!(reads(1, &s, run + 1).is_err());
        for page in (0..pages).filter(|p| ![1, 2, run + 1, 2 * run + 1].contains(p)) {
            assert_eq!(reads(0, &s, page), Ok(page as u8));
            assert_eq!(reads(1, &child, page), Ok(page as u8));
        }
        w.check([&s, &child]).unwrap();
        drop((s, child));
        w.mm().frames().free(&NoContext, device).unwrap();
        w.assert_empty();
    });
}
