//! The level-1 guard: create, install, take, detach, destroy.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::{Attrs, Entry, PageTableFormat, TableOwner};
use mm_core::page::{Frames, PageFlags};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::PageTable;
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_testkit::format::AnyFormat;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::TestPlatform;

fn user_page(cx: &Cx<'_, TestPlatform<AnyFormat>>) -> Pfn {
    let pfn = cx.frames().alloc(cx, 0).unwrap();
    let page = cx.frames().page(pfn).unwrap();
    page.user().init(PageFlags::ANON, 1, 0);
    page.user().add_maps(1).unwrap();
    pfn
}

/// Returns pages in one table, on both sides of the edges of tables of each
/// level, and at the end of user space.
fn pages(format: AnyFormat) -> Vec<usize> {
    let end = format.user_end().as_usize();
    let edges = (2..=format.levels()).map(|level| format.entry_pages(level));
    let mut pages = vec![0, 1, 5, end - 2, end - 1];
    pages.extend(edges.filter(|e| *e < end).flat_map(|e| [e - 1, e]));
    pages.sort_unstable();
    pages.dedup();
    pages
}

fn range(first: usize, end: usize) -> PageRange {
    PageRange::new(Vpn::new(first), Vpn::new(end))
}

/// Maps pages through guards, unmaps them by detach and by take, and looks
/// whether every frame came back.
fn life(m: &Machine) {
    let format = m.format();
    let spread = pages(format);
    let frames: Frames<TestPlatform<AnyFormat>> = TestPlatform::machine(format, 64, 256);
    let cx = Cx::new(&frames);
    let tlb = SpaceTlb::new();
    let before = frames.free_frames();
    let root = PageTable::create(&cx, TableOwner::User, 7).unwrap();
    let table = PageTable::view(&cx, root, TableOwner::User, 7);
    let mut pfns = Vec::new();
    for &vpn in &spread {
        let pfn = user_page(&cx);
        let guard = table.lock_leaf_or_create(Vpn::new(vpn), &tlb).unwrap();
        let word = format.encode_leaf(pfn, Attrs::user(Prot::RW), 1).unwrap();
        guard.install(Vpn::new(vpn), word).settle(&cx, &tlb);
        pfns.push(pfn);
    }
    for (&vpn, &pfn) in spread.iter().zip(&pfns) {
        let (word, level) = table.translate(Vpn::new(vpn)).unwrap();
        assert!(matches!(format.decode(word, level), Entry::Leaf { pfn: p, .. } if p == pfn));
    }
    let mut seen = 0;
    let mut at = range(0, format.user_end().as_usize());
    while let Some(guard) = table.next_leaf(at) {
        seen += guard.live() as usize;
        at = at.from(guard.range().end());
    }
    assert_eq!(seen, spread.len());
    // One by hand, the rest by detaching.
    let first = Vpn::new(spread[0]);
    let mut gather = TlbGather::new(&cx, &tlb);
    let taken = table.lock_leaf(first).unwrap().take(&tlb, first).unwrap();
    gather.push(taken).unwrap();
    table.prune(range(spread[0], spread[0] + 1), &mut gather);
    table.detach_covered(table.user_pages(), &mut gather);
    let released = gather.finish();
    assert_eq!(released.anon_pages, spread.len());
    for &vpn in &spread {
        assert_eq!(table.translate(Vpn::new(vpn)), None);
    }
    table.destroy(&tlb).unwrap();
    assert_eq!(frames.free_frames(), before);
    frames.platform().assert_preemptible();
}

#[test]
fn a_table_lives_and_dies_without_losing_a_frame() {
    on_every_machine(life);
}
