//! Kernel mappings: shared by all spaces, between guards, gone for all CPUs.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::error::MmError;
use mm_core::format::tiny::{SetsBoth, Tiny};
use mm_core::format::{AttrFlags, Attrs, Entry, PageTableFormat, TableOwner};
use mm_core::page::Frames;
use mm_core::platform::PhysMemory as _;
use mm_core::prot::{Access, MemType, Prot};
use mm_core::range::PageRange;
use mm_core::sync::AtomicU64;
use mm_core::table::{CursorMut, KernelSpace, PageTable, Why};
use mm_core::tlb::SpaceTlb;
use mm_testkit::format::AnyFormat;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::mmu::{Mode, Refusal, Roots};
use mm_testkit::platform::TestPlatform;
use mm_testkit::random::Random;
use mm_testkit::tlb::{Loaded, SoftTlbs};
use std::collections::BTreeMap;
use std::sync::Arc;

type Ram = Frames<TestPlatform<AnyFormat>>;

/// Returns whether the kernel has a root of its own.
fn has_own_root(m: &Machine) -> bool {
    let f = m.format();
    f.kernel_root_index() == f.entries(f.levels())
}

/// Returns a page in the middle of the kernel's half.
fn base(m: &Machine) -> usize {
    let f = m.format();
    let (top, shift) = (f.levels(), f.page_shift());
    let (span, entries) = (f.entry_pages(top), f.entries(top));
    let first = if has_own_root(m) {
        0
    } else {
        f.kernel_root_index()
    };
    let page = (first + entries) / 2 * span;
    let roots = Roots {
        low: 0,
        high: Some(0),
    };
    if !has_own_root(m) && m.walker().start(roots, page).is_ok() {
        return page;
    }
    // The bits above repeat the highest one.
    page | ((usize::MAX >> shift) & !(entries * span - 1))
}

fn window(m: &Machine, pages: usize) -> PageRange {
    PageRange::with_len(Vpn::new(base(m)), pages).unwrap()
}

fn kernel(m: &Machine, frames: &Ram, pages: usize) -> KernelSpace {
    let kernel = KernelSpace::new(window(m, pages));
    let cx = Cx::new(frames);
    let root = kernel.init(&cx).unwrap();
    assert_eq!(kernel.init(&cx), Ok(root));
    kernel
}

fn leaf(kernel: &KernelSpace, frames: &Ram, page: Vpn) -> Option<(Entry, u8)> {
    let cx = Cx::new(frames);
    let (word, level) = kernel.table(&cx).unwrap().translate(page)?;
    Some((cx.format().decode(word, level), level))
}

/// A kernel mapping made later is in every space, and leaves every TLB.
#[test]
fn every_space_has_the_kernel_and_every_cpu_forgets_what_is_unmapped() {
    on_every_machine(shared_and_forgotten);
}

fn shared_and_forgotten(m: &Machine) {
    let frames = TestPlatform::machine(m.format(), 64, 2048);
    let tlbs = Arc::new(SoftTlbs::new(m.walker(), 2, 0));
    frames.platform().set_flush_hook(tlbs.clone());
    frames.platform().arena().set_free_hook(tlbs.clone());
    let kernel = kernel(m, &frames, 100);
    if has_own_root(m) {
        tlbs.set_kernel_root(kernel.root().unwrap());
    }
    let cx = Cx::new(&frames);
    let spaces: Vec<_> = (0..2)
        .map(|_| {
            (
                PageTable::create(&cx, TableOwner::User, 1).unwrap(),
                SpaceTlb::new(),
            )
        })
        .collect();
    for (cpu, (root, tlb)) in spaces.iter().enumerate() {
        kernel.activate(cpu);
        tlb.activate(cpu);
        tlbs.load(
            cpu,
            Some(Loaded {
                root: *root,
                asid: 0,
            }),
        );
    }
    let pfns: Vec<_> = (0..3).map(|_| frames.alloc(&cx, 0).unwrap()).collect();
    frames.platform().take_log();
    let area = kernel.vmap(&cx, &pfns, Prot::RW).unwrap();
    // Nobody resolves a fault of the kernel: entries are seen when it returns.
    let late = m.format().caches_invalid() || m.format().shows_entries_late();
    let owed = frames.platform().take_log().flushes;
    let told = owed
        .iter()
        .map(|(cpus, f)| (cpus.iter().count(), f.pages, f.tables));
    // Who remembers invalid entries may remember that there was no table.
    let both = late.then_some((2, Some(area), m.format().caches_invalid()));
    assert!(told.eq(both), "{owed:?}");
    let ram = frames.platform().arena();
    let access = |cpu, page, mode| tlbs.access(ram, cpu, page, Access::Write, mode, |pfn| pfn);
    for cpu in 0..2 {
        for (page, &pfn) in area.iter().zip(&pfns) {
            assert_eq!(access(cpu, page, Mode::Kernel), Ok(pfn));
            assert_eq!(access(cpu, page, Mode::User), Err(Refusal::User));
        }
        for guard in [area.start().saturating_sub(1), area.end()] {
            assert_eq!(
                access(cpu, guard, Mode::Kernel),
                Err(Refusal::NotPresent(1))
            );
        }
        // Walked once more, and remembered across a change of spaces.
        access(cpu, area.start(), Mode::Kernel).unwrap();
        tlbs.load(
            cpu,
            Some(Loaded {
                root: spaces[1 - cpu].0,
                asid: 0,
            }),
        );
        assert_eq!(tlbs.remembered(cpu, area.start()).len(), 1);
    }
    frames.platform().take_log();
    assert_eq!(kernel.vunmap(&cx, area.start()), Ok(area));
    let log = frames.platform().take_log().flushes;
    assert_eq!(log.len(), 1);
    assert_eq!((log[0].1.asid, log[0].1.pages), (None, Some(area)));
    // The software TLB screams if a CPU still reaches them.
    pfns.into_iter()
        .for_each(|pfn| frames.free(&cx, pfn).unwrap());
    let again = area.start();
    let error = MmError::Unmapped(again.addr(m.format().page_shift()));
    assert_eq!(kernel.vunmap(&cx, again), Err(error));
    for (cpu, (_, tlb)) in spaces.iter().enumerate() {
        tlbs.load(cpu, None);
        tlb.deactivate(cpu);
    }
    for (root, tlb) in spaces {
        PageTable::view(&cx, root, TableOwner::User, 1)
            .destroy(&tlb)
            .unwrap();
    }
}

#[test]
fn devices_get_their_memory_type_and_blocks_and_no_right_to_execute() {
    on_every_machine(devices);
}

fn devices(m: &Machine) {
    let format = m.format();
    let frames = TestPlatform::machine(format, 64, 2048);
    let kernel = kernel(m, &frames, 1 << 16);
    let cx = Cx::new(&frames);
    let block = format.entry_pages(2);
    // The entries of the root lead to tables for ever where spaces share them.
    let blocks = if format.levels() > 2 || has_own_root(m) {
        2
    } else {
        1
    };
    for (mem, first, count, level) in [
        (MemType::Device, 0x1_ee00, 1, 1),
        (MemType::WriteCombining, 0x1_0000, 2 * block, blocks),
        (MemType::Uncached, 0x1_0003, 2 * block, 1),
    ] {
        let area = kernel.map_device(&cx, Pfn::new(first), count, mem).unwrap();
        assert_eq!(area.pages(), count);
        let (entry, found) = leaf(&kernel, &frames, area.start()).unwrap();
        let Entry::Leaf { pfn, attrs } = entry else {
            panic!("{entry:?}")
        };
        assert_eq!((found, pfn), (level, Pfn::new(first)));
        // The format's nearest type; hardware without NX executes all.
        let wanted = Attrs::kernel(Prot::RW).with_mem(mem);
        let word = format.encode_leaf(pfn, wanted, level).unwrap();
        let Entry::Leaf { attrs: nearest, .. } = format.decode(word, level) else {
            panic!("{word:#x}")
        };
        assert_eq!((attrs.mem, attrs.prot), (nearest.mem, nearest.prot));
        assert!(attrs.flags.contains(AttrFlags::GLOBAL | AttrFlags::SPECIAL));
        assert!(!attrs.flags.contains(AttrFlags::USER));
        // The unaligned one is blocks in its middle.
        let (_, middle) = leaf(&kernel, &frames, area.start().saturating_add(count / 2)).unwrap();
        assert_eq!(middle, if count > 1 { blocks } else { 1 });
        kernel.vunmap(&cx, area.start()).unwrap();
        assert_eq!(leaf(&kernel, &frames, area.start()), None);
    }
    let bad = kernel.map_device(&cx, Pfn::new(1 << 50), 1, MemType::Device);
    assert!(matches!(bad, Err(MmError::Invalid(_))), "{bad:?}");
    // The second frame's number would be zero.
    let bad = kernel.map_device(&cx, m.last_frame(), 2, MemType::Device);
    assert!(matches!(bad, Err(MmError::Invalid(_))), "{bad:?}");
    assert!(matches!(
        kernel.vmap(&cx, &[], Prot::READ),
        Err(MmError::Invalid(_))
    ));
}

/// Areas are disjoint, guarded on both sides, inside the window; a full window
/// says so, and what was given back can be used again.
#[test]
fn the_window_agrees_with_a_map_of_areas() {
    on_every_machine(areas);
}

fn areas(m: &Machine) {
    let base = base(m);
    for seed in 0..2 {
        let frames = TestPlatform::machine(m.format(), 64, 2048);
        let total = 300;
        let kernel = kernel(m, &frames, total);
        let cx = Cx::new(&frames);
        let pfn = frames.alloc(&cx, 0).unwrap();
        let mut random = Random::new(seed);
        let mut areas: BTreeMap<Vpn, PageRange> = BTreeMap::new();
        let mut refused = 0;
        for _ in 0..400 {
            if random.chance(60) {
                let count = 1 + random.below(20) as usize;
                let align = 1 << random.below(5);
                if random.chance(20) {
                    frames.platform().fail_nth(1 + random.below(3));
                }
                let result = kernel.vmap_aligned(&cx, &vec![pfn; count], Prot::READ, align);
                frames.platform().fail_none();
                match result {
                    Ok(area) => {
                        assert_eq!(area.pages(), count);
                        assert_eq!(area.start().as_usize() % align, 0, "seed {seed}");
                        let guarded = PageRange::new(
                            area.start().saturating_sub(1),
                            area.end().saturating_add(1),
                        );
                        assert!(window(m, total).covers(guarded), "seed {seed}");
                        assert!(areas.values().all(|a| !a.overlaps(guarded)), "seed {seed}");
                        areas.insert(area.start(), area);
                    }
                    Err(MmError::NoGap(_)) => {
                        // No hole between areas takes it with its guard.
                        let full = |free: usize, end: usize| {
                            let first = free.next_multiple_of(align);
                            assert!(first + count + 1 > end, "seed {seed}");
                        };
                        let mut free = base + 1;
                        for area in areas.values() {
                            full(free, area.start().as_usize());
                            free = area.end().as_usize() + 1;
                        }
                        full(free, base + total);
                        refused += 1;
                    }
                    Err(e) => assert_eq!(e, MmError::OutOfMemory),
                }
            } else if let Some((&start, &area)) = areas
                .iter()
                .nth(random.below(1 + areas.len() as u64) as usize)
            {
                let inside = start.saturating_add(1);
                if area.contains(inside) {
                    assert!(kernel.vunmap(&cx, inside).is_err(), "not where it begins");
                }
                assert_eq!(kernel.vunmap(&cx, start), Ok(area), "seed {seed}");
                areas.remove(&start);
            }
        }
        assert!(refused > 0, "seed {seed}: the window was never full");
        for start in areas.into_keys() {
            kernel.vunmap(&cx, start).unwrap();
        }
        let whole = kernel.vmap(&cx, &vec![pfn; total - 2], Prot::READ).unwrap();
        assert_eq!(whole.pages(), total - 2);
    }
}

/// One bit of an address tells a stack from what lies below it; an alignment
/// that is none is refused.
#[test]
fn an_aligned_area_begins_at_a_multiple_and_unmapped_pages_lie_below() {
    on_every_machine(|m| {
        let frames = TestPlatform::machine(m.format(), 64, 2048);
        // The window itself begins anywhere.
        let start = window(m, 100).start().saturating_add(3);
        let kernel = KernelSpace::new(PageRange::with_len(start, 97).unwrap());
        let cx = Cx::new(&frames);
        kernel.init(&cx).unwrap();
        let pfn = frames.alloc(&cx, 0).unwrap();
        let stacks: Vec<_> = (0..5)
            .map(|_| kernel.vmap_aligned(&cx, &[pfn; 8], Prot::RW, 16).unwrap())
            .collect();
        for stack in &stacks {
            assert!(stack.iter().all(|page| page.as_usize() & 8 == 0));
            assert!(
                stack
                    .iter()
                    .all(|page| leaf(&kernel, &frames, page).is_some())
            );
            let below = (1..9).map(|pages| stack.start().saturating_sub(pages));
            assert!({ below }.all(|page| leaf(&kernel, &frames, page).is_none()));
        }
        let sixth = kernel.vmap_aligned(&cx, &[pfn; 8], Prot::RW, 16);
        assert!(matches!(sixth, Err(MmError::NoGap(_))), "{sixth:?}");
        // What is no multiple stands between them, and guards them as well.
        let small = kernel.vmap_aligned(&cx, &[pfn], Prot::RW, 1).unwrap();
        assert!(stacks.iter().all(|stack| !stack.contains(small.start())));
        let free = frames.free_frames();
        for align in [0, 3, 24, usize::MAX] {
            let refused = kernel.vmap_aligned(&cx, &[pfn], Prot::RW, align);
            assert!(matches!(refused, Err(MmError::Invalid(_))), "{refused:?}");
        }
        assert_eq!(frames.free_frames(), free);
    });
}

/// What is prepared needs no memory any more, and preparing goes on where
/// memory ran out.
#[test]
fn c1_a_prepared_window_maps_without_memory() {
    on_every_machine(prepared);
}

fn prepared(m: &Machine) {
    let format = m.format();
    // Three tables, and none of them from its first page to its last.
    let pages = 2 * format.entry_pages(2);
    let start = window(m, 1).start().saturating_add(1);
    let window = PageRange::with_len(start, pages).unwrap();
    // How many frames it takes when the `nth` allocation fails.
    let takes = |nth: u64| {
        let frames = TestPlatform::machine(format, 64, 1088);
        let cx = Cx::new(&frames);
        let kernel = KernelSpace::new(window);
        assert_eq!(kernel.prepare(&cx), Err(MmError::NotSupported));
        kernel.init(&cx).unwrap();
        let pfn = frames.alloc(&cx, 0).unwrap();
        let before = frames.free_frames();
        frames.platform().fail_nth(nth);
        let failed = kernel.prepare(&cx);
        frames.platform().fail_none();
        assert!(
            matches!(failed, Ok(()) | Err(MmError::OutOfMemory)),
            "{failed:?}"
        );
        if failed.is_err() {
            // What there is, is used.
            assert_eq!(kernel.prepare(&cx), Ok(()));
        }
        let free = frames.free_frames();
        frames.platform().fail_from(1, u64::MAX);
        assert_eq!(kernel.prepare(&cx), Ok(()), "again");
        for count in [1, pages - 2] {
            let area = kernel.vmap(&cx, &vec![pfn; count], Prot::RW).unwrap();
            assert!(leaf(&kernel, &frames, area.start()).is_some());
            assert_eq!(kernel.vunmap(&cx, area.start()), Ok(area));
            let device = kernel.map_device(&cx, Pfn::new(256), count.min(9), MemType::Device);
            kernel.vunmap(&cx, device.unwrap().start()).unwrap();
        }
        assert_eq!(frames.platform().fail_none(), 0, "allocations");
        assert_eq!(frames.free_frames(), free);
        (failed.is_ok(), before - free)
    };
    let (whole, all) = takes(u64::MAX);
    assert!(whole);
    // A frame of bits, and tables that are not there from the start.
    let least = if format.levels() > 2 || has_own_root(m) {
        4
    } else {
        1
    };
    assert!(all >= least, "{all}");
    for nth in 1.. {
        let (done, taken) = takes(nth);
        assert_eq!(taken, all, "nothing is lost when allocation {nth} fails");
        if done {
            assert!(nth > least as u64, "{nth}");
            break;
        }
    }
}

/// Beyond 4 GiB a window has no bits: there are no addresses, not no memory.
#[test]
fn more_than_there_are_bits_for_is_no_gap() {
    let frames = TestPlatform::machine(Tiny::<u64, SetsBoth>::new(3, 3), 64, 512);
    let cx = Cx::new(&frames);
    let most = 1 << 20;
    let window = PageRange::with_len(Vpn::new(0), most + 100).unwrap();
    let kernel = KernelSpace::new(window);
    kernel.init(&cx).unwrap();
    let free = frames.free_frames();
    let device = |pages| kernel.map_device(&cx, Pfn::new(0), pages, MemType::Device);
    assert!(matches!(device(most - 1), Err(MmError::NoGap(_))));
    assert_eq!(frames.free_frames(), free);
}

/// The kernel half of the root is complete from the start; without memory for
/// it nothing is left behind.
#[test]
fn c1_a_kernel_table_is_made_whole_or_not_at_all() {
    on_every_machine(whole_or_not_at_all);
}

fn whole_or_not_at_all(m: &Machine) {
    let format = m.format();
    let frames = TestPlatform::machine(format, 64, 2048);
    let cx = Cx::new(&frames);
    let before = frames.free_frames();
    let top = format.levels();
    let root = 1usize << format.table_order(top);
    let tables = format.entries(top) - format.kernel_root_index();
    let all = root + (tables << format.table_order(top - 1));
    for nth in [1, 2, tables * 3 / 4, tables + 1] {
        if !(1..=tables + 1).contains(&nth) {
            continue;
        }
        frames.platform().fail_nth(nth as u64);
        let kernel = KernelSpace::new(window(m, 10));
        assert_eq!(kernel.init(&cx), Err(MmError::OutOfMemory));
        frames.platform().fail_none();
        assert_eq!(frames.free_frames(), before);
        assert_eq!(frames.kernel_root(), None);
    }
    let kernel = KernelSpace::new(window(m, 10));
    kernel.init(&cx).unwrap();
    assert_eq!(before - frames.free_frames(), all);
    let user = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    assert_eq!(before - frames.free_frames(), all + root);
    PageTable::view(&cx, user, TableOwner::User, 1)
        .destroy(&SpaceTlb::new())
        .unwrap();
    assert_eq!(
        before - frames.free_frames(),
        all,
        "the kernel's tables are not the space's"
    );
    let _ = kernel;
}

/// Two root registers: the kernel's root is in no user root, gets its tables
/// when they are needed, and has only pages whose upper bits are ones.
#[test]
fn a_kernel_with_a_root_of_its_own_shares_nothing() {
    let format = Tiny::<u64, SetsBoth>::new(3, 3);
    let frames = TestPlatform::machine(format, 64, 512);
    let cx = Cx::new(&frames);
    let first = (usize::MAX >> 12) + 1 - 512;
    let window = PageRange::with_len(Vpn::new(first + 64), 448).unwrap();
    let kernel = KernelSpace::new(window);
    let before = frames.free_frames();
    let root = kernel.init(&cx).unwrap();
    assert_eq!(
        before - frames.free_frames(),
        1,
        "no table before a mapping"
    );
    kernel.activate(0);
    let user = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let pfns: Vec<_> = (0..3).map(|_| frames.alloc(&cx, 0).unwrap()).collect();
    let area = kernel.vmap(&cx, &pfns, Prot::RW).unwrap();
    let table = kernel.table(&cx).unwrap();
    let user_table = PageTable::view(&cx, user, TableOwner::User, 1);
    let words: &[AtomicU64] = frames.platform().arena().words(user, 0);
    assert!((0..8).all(|i| format.load(words, i) == 0));
    for (page, &frame) in area.iter().zip(&pfns) {
        let (word, level) = table.translate(page).unwrap();
        let entry = format.decode(word, level);
        assert!(matches!(entry, Entry::Leaf { pfn, .. } if pfn == frame));
        // The same index, by another register.
        let low = Vpn::new(page.as_usize() & 511);
        assert_eq!(table.translate(low), None);
        assert_eq!(user_table.translate(low), None);
    }
    // The last page of the address space is the kernel's, one bit less is not.
    let fixed = |page: usize| {
        let one = PageRange::with_len(Vpn::new(page), 1).unwrap();
        let attrs = Attrs::kernel(Prot::RW).with(AttrFlags::SPECIAL);
        CursorMut::new(table, kernel.tlb(), one).map(Pfn::new(70), attrs)
    };
    let owed = fixed(first + 511).unwrap();
    owed.settle_everywhere(&cx, kernel.tlb());
    assert!(table.translate(Vpn::new(first + 511)).is_some());
    for page in [511, (first + 511) ^ (1 << (usize::BITS - 13)), first - 1] {
        assert_eq!(fixed(page).map_err(|e| e.why), Err(Why::OutOfReach));
    }
    frames.platform().take_log();
    assert_eq!(kernel.vunmap(&cx, area.start()), Ok(area));
    let log = frames.platform().take_log().flushes;
    assert_eq!((log[0].1.asid, log[0].1.pages), (None, Some(area)));
    assert!(area.iter().all(|page| table.translate(page).is_none()));
    user_table.destroy(&SpaceTlb::new()).unwrap();
    assert_eq!(kernel.root(), Some(root));
}

/// At boot no CPU has said yet that it uses kernel mappings: who makes one does.
#[test]
fn the_first_kernel_mapping_is_seen_by_the_cpu_that_makes_it() {
    on_every_machine(|m| {
        let frames = TestPlatform::machine(m.format(), 64, 2048);
        let kernel = kernel(m, &frames, 100);
        let cx = Cx::new(&frames);
        let pfn = frames.alloc(&cx, 0).unwrap();
        frames.platform().take_log();
        kernel.vmap(&cx, &[pfn], Prot::RW).unwrap();
        let late = m.format().caches_invalid() || m.format().shows_entries_late();
        let flushes = frames.platform().take_log().flushes;
        let here = flushes.iter().map(|(cpus, _)| cpus.iter().eq([0]));
        assert!(here.eq(late.then_some(true)), "{flushes:?}");
    });
}

/// What the kernel loads for itself (modules) is visible to fetches when it is
/// mapped to be executed.
#[test]
fn kernel_code_is_made_visible_when_it_is_mapped() {
    on_every_machine(visible_code);
}

fn visible_code(m: &Machine) {
    let frames = TestPlatform::machine(m.format(), 64, 2048);
    let kernel = kernel(m, &frames, 100);
    let cx = Cx::new(&frames);
    let pfns: Vec<_> = (0..3).map(|_| frames.alloc(&cx, 0).unwrap()).collect();
    frames.platform().take_log();
    kernel.vmap(&cx, &pfns, Prot::RW).unwrap();
    assert_eq!(frames.platform().take_log().synced, []);
    kernel.vmap(&cx, &pfns, Prot::RX).unwrap();
    assert_eq!(frames.platform().take_log().synced, pfns);
}

/// The guard before the first area keeps the first aligned place of a block from being the
/// first page: a window with room for the device, but not for the device so aligned, takes it
/// page by page.
#[test]
fn a_device_as_large_as_a_block_fits_into_a_window_of_two() {
    on_every_machine(|m| {
        let frames = TestPlatform::machine(m.format(), 64, 2048);
        let cx = Cx::new(&frames);
        let block = m.format().entry_pages(2);
        let kernel = kernel(m, &frames, 2 * block);
        let first = Pfn::new(4 * block as u64);
        let area = kernel.map_device(&cx, first, block, MemType::Device);
        let area = area.unwrap();
        assert_eq!(area.pages(), block);
        for (nth, page) in area.iter().enumerate() {
            let want = first.saturating_add(nth as u64);
            let found = leaf(&kernel, &frames, page);
            let it_is = matches!(found, Some((Entry::Leaf { pfn, .. }, 1)) if pfn == want);
            assert!(it_is, "{found:?} for {want:?}");
        }
        // What is left is too small for another.
        let second = kernel.map_device(&cx, first, block, MemType::Device);
        assert!(matches!(second, Err(MmError::NoGap(_))), "{second:?}");
        // Where it can be aligned, it is.
        assert_eq!(kernel.vunmap(&cx, area.start()), Ok(area));
        let half = kernel.map_device(&cx, first, block / 2, MemType::Device);
        half.unwrap();
    });
}
