//! Whole address spaces, used through the public API at random: each page is
//! counted as often as entries map it, and the reverse walk finds each of them.

use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::format::{Entry, PageTableFormat, TableOwner};
use mm_core::page::Kind;
use mm_core::platform::Platform;
use mm_core::prot::Prot;
use mm_core::rmap::walk;
use mm_core::space::{Advice, MapRequest};
use mm_core::table::PageTable;
use mm_testkit::machine::on_every_machine;
use mm_testkit::random::Random;
use mm_testkit::world::{Space, World};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// The first page that is used, and how many are at most.
const BASE: usize = 0x100;
const SPAN: usize = 64;

/// Returns what the tables of a space map: page and frame.
fn entries(w: &World, space: &Space) -> Vec<(usize, Pfn)> {
    // A CPU of its own: the others have their spaces loaded.
    w.run(2, space);
    let root = w.tlbs().contents(2).0.unwrap().root;
    w.idle(2);
    let cx = w.mm().cx();
    let table = PageTable::view(&cx, root, TableOwner::User, 0);
    let format = w.platform().format();
    let leaf = |n: usize| {
        let (word, level) = table.translate(Vpn::new(n))?;
        match format.decode(word, level) {
            Entry::Leaf { pfn, .. } => Some((n, pfn)),
            _ => None,
        }
    };
    (BASE..BASE + SPAN).filter_map(leaf).collect()
}

fn check(w: &World, spaces: &[Space], what: &str) -> usize {
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
    on_every_machine(|machine| {
        let page = machine.page_size();
        let mut pages = 0;
        for seed in machine.seeds(2) {
            let w = machine.world(2048, 3, seed);
            let mut random = Random::new(seed);
            let file = w.file(1, &vec![7; 24 * page]);
            let mut spaces = vec![w.space()];
            for step in 0..120 {
                let s = random.below(spaces.len() as u64) as usize;
                let at = BASE * page + page * random.below(40) as usize;
                let len = page * (1 + random.below(10) as usize);
                let addr = VirtAddr::new(at);
                let offset = (page as u64) * random.below(12);
                let choice = random.below(20);
                let what =
                    format!("seed {seed} step {step} choice {choice} at {at:#x} len {len:#x}");
                let space = &spaces[s];
                match choice {
                    0..=2 => {
                        let _ = space.map(&MapRequest::anonymous(len, Prot::RW).fixed(addr));
                    }
                    3 => {
                        let _ = space
                            .map(&MapRequest::private(&file, offset, len, Prot::RW).fixed(addr));
                    }
                    4 => {
                        let _ = space
                            .map(&MapRequest::shared(&file, offset, len, Prot::RW).fixed(addr));
                    }
                    5..=11 => {
                        for n in 0..3 {
                            let _ = w.poke(0, space, at + n * page, 1);
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
        assert!(pages > 500, "{pages} pages were looked for");
    });
}

/// A page that the child inherited belongs to the parent's anon_vma: it is found
/// in both, and in neither once both have their own.
#[test]
fn g6_an_inherited_page_is_found_in_parent_and_child() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 3, 1);
        let parent = w.space();
        let base = BASE * page;
        let addr = VirtAddr::new(base);
        parent
            .map(&MapRequest::anonymous(4 * page, Prot::RW).fixed(addr))
            .unwrap();
        w.poke(0, &parent, base + page, 1).unwrap();
        let child = parent.fork().unwrap();
        let pfn = entries(&w, &child)[0].1;
        let record = w.mm().frames().page(pfn).unwrap();
        let found = || {
            assert!(record.try_lock_page());
            let mut hits = BTreeSet::new();
            let _ = walk(w.mm(), &w.mm().cx(), record, |hit| {
                assert_eq!(hit.page, Vpn::new(BASE + 1));
                hits.insert(hit.area.space());
                ControlFlow::<()>::Continue(())
            });
            record.unlock_page();
            hits
        };
        assert_eq!(found(), BTreeSet::from([parent.id(), child.id()]));
        // The visitor may break off.
        assert!(record.try_lock_page());
        let broken = walk(w.mm(), &w.mm().cx(), record, |_| ControlFlow::Break(7));
        record.unlock_page();
        assert_eq!(broken, ControlFlow::Break(7));
        // The parent goes: its page lives on in the child, and is found there.
        let id = child.id();
        w.idle(0);
        drop(parent);
        assert_eq!(found(), BTreeSet::from([id]));
        w.poke(1, &child, base + page, 2).unwrap();
        drop(child);
        w.assert_empty();
    });
}
