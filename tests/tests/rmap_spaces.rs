//! Whole address spaces, used through the public API at random: each page is
//! counted as often as entries map it, and the reverse walk finds each of them.

use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::page::Kind;
use mm_core::platform::PhysMemory;
use mm_core::prot::Prot;
use mm_core::rmap::walk;
use mm_core::space::{AddressSpace, Advice, MapRequest};
use mm_core::sync::{AtomicU64, Ordering};
use mm_testkit::mmu::LongModeWalker;
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use mm_testkit::world::World;
use mm_x86_64::{FourLevel, Paging};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

type Format = Paging<FourLevel>;
type X64 = World<Format, LongModeWalker>;
type Space = AddressSpace<'static, TestPlatform<Format>>;

const PAGE: usize = 4096;
const BASE: usize = 0x10_0000;

/// Returns what the tables of a space map in the user half, read bit by bit
/// (Intel SDM volume 3A, 4.5): page and frame. No large pages are made here.
fn entries(w: &X64, space: &Space) -> Vec<(usize, Pfn)> {
    let mut root = None;
    // A CPU of its own: the others have their spaces loaded.
    on_cpu(2, || {
        let mut slot = None;
        space.switch(&mut slot, |loaded| root = Some(loaded.table.pfn(12)));
    });
    let arena = w.platform().arena();
    let mut tables = vec![(root.unwrap(), 4u32, 0usize)];
    let mut found = Vec::new();
    while let Some((table, level, base)) = tables.pop() {
        let user = if level == 4 { 256 } else { 512 };
        let words = arena.words::<AtomicU64>(table, 0);
        for (i, word) in words.iter().enumerate().take(user) {
            let word = word.load(Ordering::Relaxed);
            if word & 1 == 0 {
                continue;
            }
            let frame = Pfn::new(word >> 12 & 0xff_ffff_ffff);
            let at = base + (i << (9 * (level - 1)));
            if level == 1 {
                found.push((at, frame));
            } else {
                tables.push((frame, level - 1, at));
            }
        }
    }
    found
}

fn check(w: &X64, spaces: &[Space], what: &str) -> usize {
    let mut mapped: BTreeMap<Pfn, BTreeSet<(u32, usize)>> = BTreeMap::new();
    for space in spaces {
        for (page, pfn) in entries(w, space) {
            mapped.entry(pfn).or_default().insert((space.id(), page));
        }
    }
    let mut pages = 0;
    for (pfn, places) in &mapped {
        let page = w.mm().frames().page(*pfn).unwrap();
        if page.kind() != Kind::User {
            assert_eq!(page.kind(), Kind::Zero, "{what}: {pfn:?}");
            continue;
        }
        pages += 1;
        assert_eq!(page.user().maps() as usize, places.len(), "{what}: {pfn:?}");
        assert!(page.try_lock_page(), "{what}: {pfn:?} was left LOCKED");
        let mut hits = BTreeSet::new();
        let cx = w.mm().cx();
        let _ = walk(w.mm(), &cx, page, |hit| {
            hits.insert((hit.area.space(), hit.page.as_usize()));
            ControlFlow::<()>::Continue(())
        });
        page.unlock_page();
        assert!(
            places.is_subset(&hits),
            "{what}: {pfn:?} is at {places:x?}, found at {hits:x?}"
        );
    }
    pages
}

#[test]
fn g1_map_counts_are_entries_and_the_walk_finds_each() {
    let mut pages = 0;
    for seed in 0..12 {
        let w: X64 = World::new(
            Paging::new(FourLevel),
            LongModeWalker::new(4),
            2048,
            3,
            seed,
        );
        let mut random = Random::new(seed);
        let file = w.file(1, &vec![7; 24 * PAGE]);
        let mut spaces = vec![w.space()];
        for step in 0..120 {
            let s = random.below(spaces.len() as u64) as usize;
            let at = BASE + PAGE * random.below(40) as usize;
            let len = PAGE * (1 + random.below(10) as usize);
            let addr = VirtAddr::new(at);
            let offset = (PAGE as u64) * random.below(12);
            let choice = random.below(20);
            let what = format!("seed {seed} step {step} choice {choice} at {at:#x} len {len:#x}");
            let space = &spaces[s];
            match choice {
                0..=2 => {
                    let _ = space.map(&MapRequest::anonymous(len, Prot::RW).fixed(addr));
                }
                3 => {
                    let _ =
                        space.map(&MapRequest::private(&file, offset, len, Prot::RW).fixed(addr));
                }
                4 => {
                    let _ =
                        space.map(&MapRequest::shared(&file, offset, len, Prot::RW).fixed(addr));
                }
                5..=11 => {
                    for page in 0..3 {
                        let _ = w.poke(0, space, at + page * PAGE, 1);
                    }
                }
                12..=13 => {
                    let _ = w.peek(1, space, at);
                }
                14 => {
                    let _ = space.unmap(addr, len);
                }
                15 => {
                    let _ = space.protect(addr, len, Prot::READ);
                }
                16 => {
                    let _ = space.protect(addr, len, Prot::RW);
                }
                17 => {
                    let _ = space.advise(addr, len, Advice::DontNeed);
                }
                18 if spaces.len() < 6 => {
                    let child = space.fork().unwrap();
                    spaces.push(child);
                }
                19 if spaces.len() > 1 => {
                    w.idle(0);
                    w.idle(1);
                    drop(spaces.swap_remove(s));
                }
                _ => {}
            }
            pages += check(&w, &spaces, &what);
        }
        drop((spaces, file));
        w.assert_empty();
    }
    assert!(pages > 10_000, "{pages} pages were looked for");
}

/// A page that the child inherited belongs to the parent's anon_vma: it is found
/// in both, and in neither once both have their own.
#[test]
fn g6_an_inherited_page_is_found_in_parent_and_child() {
    let w: X64 = World::new(Paging::new(FourLevel), LongModeWalker::new(4), 1024, 3, 1);
    let parent = w.space();
    let addr = VirtAddr::new(BASE);
    parent
        .map(&MapRequest::anonymous(4 * PAGE, Prot::RW).fixed(addr))
        .unwrap();
    w.poke(0, &parent, BASE + PAGE, 1).unwrap();
    let child = parent.fork().unwrap();
    let pfn = entries(&w, &child)[0].1;
    let page = w.mm().frames().page(pfn).unwrap();
    let found = || {
        assert!(page.try_lock_page());
        let mut hits = BTreeSet::new();
        let _ = walk(w.mm(), &w.mm().cx(), page, |hit| {
            assert_eq!(hit.page, Vpn::new(BASE / PAGE + 1));
            hits.insert(hit.area.space());
            ControlFlow::<()>::Continue(())
        });
        page.unlock_page();
        hits
    };
    assert_eq!(found(), BTreeSet::from([parent.id(), child.id()]));
    // The visitor may break off.
    assert!(page.try_lock_page());
    let broken = walk(w.mm(), &w.mm().cx(), page, |_| ControlFlow::Break(7));
    page.unlock_page();
    assert_eq!(broken, ControlFlow::Break(7));
    // The parent goes: its page lives on in the child, and is found there.
    let id = child.id();
    w.idle(0);
    drop(parent);
    assert_eq!(found(), BTreeSet::from([id]));
    w.poke(1, &child, BASE + PAGE, 2).unwrap();
    drop(child);
    w.assert_empty();
}
