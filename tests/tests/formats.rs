//! Formats and hardware read the same words alike; and the table of formats
//! (FORMATS.md) says what is true.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::{AttrFlags, Attrs, Entry, HardwareAd, PageTableFormat, TableOwner};
use mm_core::prot::{Access, MemType, Prot};
use mm_core::range::PageRange;
use mm_core::sync::NoContext;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_testkit::machine::{Machine, machines, on_every_machine};
use mm_testkit::mmu::{Leaf, Mode, Roots};
use mm_testkit::platform::TestPlatform;
use mm_x86_64::legacy::Pae;
use std::fs;
use std::path::{Path, PathBuf};

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Exec];
const TYPES: [MemType; 5] = [
    MemType::WriteBack,
    MemType::WriteThrough,
    MemType::WriteCombining,
    MemType::Uncached,
    MemType::Device,
];

/// What hardware lets programs and the kernel do, and one of the leaves it found.
#[derive(Clone, Copy, Debug)]
struct Seen {
    user: [bool; 3],
    kernel: [bool; 3],
    leaf: Option<Leaf>,
}

/// Maps one page or block with these attributes, and returns what the format
/// reads there and what hardware does; `None` where it cannot be written down.
fn mapped(m: &Machine, level: u8, attrs: Attrs) -> Option<(Pfn, Attrs, Seen)> {
    let format = m.format();
    let pages = format.entry_pages(level);
    // The frame's number has the block's alignment, and the bits of two blocks.
    let pfn = Pfn::new(3 * pages as u64);
    format.encode_leaf(pfn, attrs, level).ok()?;
    let (found, attrs, seen) = filled(m, pages, pfn, attrs);
    assert_eq!(found, level, "a block is one entry");
    Some((pfn, attrs, seen))
}

/// Maps frames from `pfn` on at as many pages with these attributes, and returns
/// the level of the last one's entry, what the format reads there and what
/// hardware does.
fn filled(m: &Machine, pages: usize, pfn: Pfn, attrs: Attrs) -> (u8, Attrs, Seen) {
    let format = m.format();
    let frames = TestPlatform::machine(format, 16, 64);
    let cx = Cx::new(&frames);
    let tlb = SpaceTlb::new();
    let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let table = PageTable::view(&cx, root, TableOwner::User, 1);
    let first = if 2 * pages <= format.user_end().as_usize() {
        pages
    } else {
        0
    };
    let range = PageRange::with_len(Vpn::new(first), pages).unwrap();
    let owed = CursorMut::new(table, &tlb, range).map(pfn, attrs).unwrap();
    owed.settle(&cx, &tlb);
    let last = range.end().saturating_sub(1);
    let (word, found) = table.translate(last).unwrap();
    let Entry::Leaf { pfn: at, attrs } = format.decode(word, found) else {
        panic!("{word:#x} is no leaf")
    };
    let end = pfn.as_u64() + pages as u64;
    assert_eq!(at.as_u64(), end - format.entry_pages(found) as u64);
    let roots = Roots {
        low: root.as_u64() << format.page_shift(),
        high: None,
    };
    let ram = frames.platform().arena();
    let mut leaf = None;
    let mut goes = |access, mode| {
        let start = m.walker().start(roots, last.as_usize()).unwrap();
        let way = &mut Vec::new();
        let walked = m
            .walker()
            .walk(ram, start, last.as_usize(), access, mode, way);
        leaf = leaf.or(walked.ok());
        walked.is_ok()
    };
    let user = ACCESSES.map(|a| goes(a, Mode::User));
    let kernel = ACCESSES.map(|a| goes(a, Mode::Kernel));
    if let Some(leaf) = leaf {
        let below = (last.as_usize() - leaf.page) as u64;
        assert_eq!(leaf.frame + below, end - 1, "{leaf:x?}");
    }
    let seen = Seen { user, kernel, leaf };
    let mut gather = TlbGather::new(&cx, &tlb);
    CursorMut::new(table, &tlb, range)
        .unmap(&mut gather)
        .unwrap();
    let _nothing = gather.finish();
    table.destroy(&tlb).unwrap();
    (found, attrs, seen)
}

fn leaf_levels(m: &Machine) -> Vec<u8> {
    let format = m.format();
    (1..=format.levels())
        .filter(|&level| format.leaf_at(level))
        .collect()
}

/// Accessed and dirty, so that no hardware waits for software; special, so that
/// the frames need no record.
const SETTLED: AttrFlags = AttrFlags::ACCESSED
    .union(AttrFlags::DIRTY)
    .union(AttrFlags::SPECIAL);

/// Every combination of rights, for programs and for the kernel, global and
/// not, as pages and as blocks of every size.
#[test]
fn hardware_does_what_the_format_decodes() {
    on_every_machine(does_what_the_format_decodes);
}

/// CPUs with less than `machines()` has, in long mode: with addresses that only a `usize` of 64 bits holds.
#[cfg(target_pointer_width = "64")]
mod long_mode {
    use super::{SETTLED, does_what_the_format_decodes, filled};
    use mm_core::addr::Pfn;
    use mm_core::format::{Attrs, PageTableFormat};
    use mm_core::prot::Prot;
    use mm_testkit::machine::Machine;
    use mm_testkit::mmu::LongModeWalker;
    use mm_x86_64::{FourLevel, Paging, PagingFeatures};

    /// The same for a CPU that cannot forbid fetches: there bit 63 is reserved, and
    /// one entry with it would answer no access.
    #[test]
    fn hardware_without_no_execute_does_what_the_format_decodes() {
        let features = PagingFeatures {
            no_execute: false,
            page_1g: true,
        };
        let machine = Machine::new(
            "x86_64, no NX",
            Paging::with_features(FourLevel, features),
            LongModeWalker::new(4).without_no_execute(),
        );
        assert!(!machine.format().forbids_exec());
        does_what_the_format_decodes(&machine);
    }

    /// The same for a CPU without pages of 1 GiB: there PS of level 3 is reserved,
    /// and what would fill one such page is mapped by pages of 2 MiB.
    #[test]
    fn hardware_without_pages_of_1_gib_does_what_the_format_decodes() {
        let machine = Machine::new(
            "x86_64, no pages of 1 GiB",
            Paging::new(FourLevel),
            LongModeWalker::new(4).without_page_1g(),
        );
        does_what_the_format_decodes(&machine);
        let attrs = Attrs::user(Prot::RW).with(SETTLED);
        let size = machine.format().entry_pages(3);
        let (level, _, seen) = filled(&machine, size, Pfn::new(size as u64), attrs);
        assert_eq!((level, seen.user), (2, [true, true, false]));
    }
}

fn does_what_the_format_decodes(m: &Machine) {
    for level in leaf_levels(m) {
        for bits in 1..8 {
            for flags in [
                AttrFlags::USER,
                AttrFlags::USER | AttrFlags::GLOBAL,
                AttrFlags::empty(),
                AttrFlags::GLOBAL,
            ] {
                let prot = Prot::from_bits_truncate(bits);
                let attrs = Attrs {
                    prot,
                    flags: flags | SETTLED,
                    mem: MemType::WriteBack,
                };
                let Some((_, read, seen)) = mapped(m, level, attrs) else {
                    continue;
                };
                let what = format!("level {level}, {prot} {flags:?} is {read:?}: {seen:x?}");
                let allowed = ACCESSES.map(|a| read.prot.allows(a));
                assert!(read.prot.contains(prot), "{what}");
                if flags.contains(AttrFlags::USER) {
                    assert_eq!(seen.user, allowed, "{what}");
                } else {
                    assert_eq!(seen.user, [false; 3], "{what}");
                    assert_eq!(seen.kernel[1], allowed[1], "{what}");
                    // The tables of programs may keep the kernel from fetching.
                    assert!(!seen.kernel[2] || allowed[2], "{what}");
                    assert!(seen.kernel[0] || !prot.contains(Prot::READ), "{what}");
                }
                assert_eq!(read.flags, attrs.flags, "{what}");
                let global = seen.leaf.map(|leaf| leaf.global);
                let want = flags.contains(AttrFlags::GLOBAL);
                assert!(global.is_none_or(|is| is == want), "{what}");
            }
        }
    }
}

/// How far leaves and tables reach is what their words say, but for roots that hang
/// on a narrower register.
#[test]
fn frames_are_named_as_far_as_the_format_says() {
    on_every_machine(|m| {
        let format = m.format();
        let leaves = Pfn::new(m.last_frame().as_u64().saturating_add(1).min(1 << 32));
        assert_eq!(format.leaf_reach(), leaves);
        for level in 1..=format.levels() {
            let reach = format.table_reach(level);
            let above = (level + 1).min(format.levels());
            let names = |pfn| format.encode_table(pfn, above, TableOwner::User).is_ok();
            assert!(names(Pfn::new(reach.as_u64() - 1)), "level {level}");
            let narrow = m.name == "x86, PAE" && level == format.levels();
            let ends = reach.as_u64() == 1 << 32 || !names(reach);
            assert_ne!(ends, narrow, "level {level}: {reach}");
        }
    });
}

/// RAM on both sides of 4 GiB: CR3 names a root below, entries all the rest.
#[test]
fn pae_roots_lie_below_4_gib() {
    const BOUND: u64 = 1 << 20;
    let frames = TestPlatform::machine(Pae, BOUND - 64, 256);
    frames.add_cpus(&NoContext, 1).unwrap();
    let cx = Cx::new(&frames);
    let mut spaces = Vec::new();
    for space in 1..=20 {
        let root = PageTable::create(&cx, TableOwner::User, space).unwrap();
        assert!(root.as_u64() < BOUND, "{root}");
        let table = PageTable::view(&cx, root, TableOwner::User, space);
        let tlb = SpaceTlb::new();
        let page = frames.alloc(&cx, 0).unwrap();
        let attrs = Attrs::user(Prot::RW);
        let range = PageRange::with_len(Vpn::new(16), 1).unwrap();
        let owed = CursorMut::new(table, &tlb, range).map(page, attrs).unwrap();
        owed.settle(&cx, &tlb);
        assert!(
            page.as_u64() >= BOUND,
            "{page}: low frames are left for roots"
        );
        spaces.push(root);
    }
    // As many as there are low frames, whatever is allocated besides.
    while frames.alloc(&cx, 0).unwrap().as_u64() >= BOUND {}
    while let Ok(root) = PageTable::create(&cx, TableOwner::User, 99) {
        assert!(root.as_u64() < BOUND, "{root}");
    }
    assert_eq!(frames.free_frames(), 0);
}

/// Types that the format tells apart reach hardware as unlike numbers, the
/// others as one.
#[test]
fn memory_types_reach_the_hardware() {
    on_every_machine(|m| {
        for level in leaf_levels(m) {
            let seen = TYPES.map(|mem| {
                let attrs = Attrs::user(Prot::RW).with(SETTLED).with_mem(mem);
                let (_, read, seen) = mapped(m, level, attrs).unwrap();
                (read.mem, seen.leaf.unwrap().memory)
            });
            for (mem, number) in seen {
                for (other, theirs) in seen {
                    assert_eq!(mem == other, number == theirs, "level {level}: {seen:?}");
                }
            }
        }
    });
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn bytes(pages: usize, shift: u32) -> String {
    let bytes = (pages as u64) << shift;
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = (bytes.ilog2() / 10) as usize;
    format!("{} {}", bytes >> (10 * unit), units[unit])
}

/// The row of a machine in the table of facts.
fn row(m: &Machine) -> String {
    let f = m.format();
    let shift = f.page_shift();
    let levels: Vec<_> = (1..=f.levels()).rev().collect();
    let bits: Vec<_> = levels
        .iter()
        .map(|&l| f.index_bits(l).to_string())
        .collect();
    let leaves = leaf_levels(m);
    let sizes: Vec<_> = leaves
        .iter()
        .map(|&l| bytes(f.entry_pages(l), shift))
        .collect();
    let runs: Vec<_> = leaves
        .iter()
        .filter(|&&l| f.run_bits(l) > 0)
        .map(|&l| bytes(f.entry_pages(l) << f.run_bits(l), shift))
        .collect();
    let runs = if runs.is_empty() {
        "–".to_owned()
    } else {
        runs.join(", ")
    };
    let ad = match f.hardware_ad() {
        HardwareAd::None => "software",
        HardwareAd::Accessed => "A by hardware",
        HardwareAd::Both => "hardware",
    };
    let yes = |is| if is { "yes" } else { "no" };
    let kernel = if f.kernel_root_index() == f.entries(f.levels()) {
        "a root of its own"
    } else {
        "entries in every root"
    };
    format!(
        "| {} | {} | {} | {runs} | {ad} | {} | {} | {} | {kernel} |",
        m.name,
        bits.join("+"),
        sizes.join(", "),
        yes(f.break_before_make()),
        yes(f.caches_invalid()),
        f.nonpresent_bits(),
    )
}

/// The facts in FORMATS.md are those of the machines that the suites run on.
#[test]
fn the_table_of_facts_is_true() {
    let text = fs::read_to_string(root().join("FORMATS.md")).unwrap();
    let rows: Vec<_> = machines()
        .iter()
        .filter(|m| !m.name.starts_with("tiny"))
        .map(row)
        .collect();
    let missing: Vec<_> = rows.iter().filter(|row| !text.contains(*row)).collect();
    assert!(
        missing.is_empty(),
        "FORMATS.md lacks:\n{}",
        missing
            .into_iter()
            .map(|r| format!("{r}\n"))
            .collect::<String>()
    );
}

/// Every letter in the matrix of FORMATS.md stands for tests, and they are there.
#[test]
fn every_yes_has_its_test() {
    let text = fs::read_to_string(root().join("FORMATS.md")).unwrap();
    let mut defined = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("- **")) {
        let letter = line[4..].split("**").next().unwrap();
        defined.push(letter.to_owned());
        let names: Vec<_> = line.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{letter} has no test");
        for name in names {
            if name.starts_with("cargo xtask ") {
                continue;
            }
            let (file, test) = name.split_once("::").expect("FILE::TEST");
            let code = fs::read_to_string(root().join(file))
                .unwrap_or_else(|e| panic!("{letter}: {file}: {e}"));
            let there = code.split("#[test]").skip(1).any(|after| {
                let item = after.split('{').next().unwrap_or_default();
                item.contains(&format!("fn {test}()"))
            });
            assert!(there, "{letter}: there is no test {name}");
        }
    }
    let cells = text.lines().filter(|l| l.starts_with('|'));
    let mut used = 0;
    for cell in cells.flat_map(|line| line.split('|')) {
        let Some(letters) = cell.trim().strip_prefix("yes ") else {
            continue;
        };
        let remark = letters.find('(').unwrap_or(letters.len());
        for letter in letters[..remark].split_whitespace() {
            used += 1;
            assert!(
                defined.iter().any(|d| d == letter),
                "{letter} stands for nothing"
            );
        }
    }
    assert!(used > 100, "only {used} cells say yes");
}
