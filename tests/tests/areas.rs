//! Areas through the public API: what merges after real faults and forks, and
//! long scripts of every verb against a model that knows pages and nothing else.
//!
//! The merge rules are those that Linux's selftests check on a live kernel
//! (tools/testing/selftests/mm/merge.c); the scripts follow E2, C1, A1 and I.

use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::error::MmError;
use mm_core::format::Entry;
use mm_core::prot::{MemType, Prot};
use mm_core::space::{Advice, Backing, MapFlags, MapRequest};
use mm_core::vma::VmaFlags;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::random::Random;
use mm_testkit::world::{Space, Stopped, World, page_size};
use std::collections::BTreeMap;

/// The first page that is used.
const BASE: usize = 0x100;

fn world(machine: &Machine, seed: u64) -> World {
    machine.world(2048, 4, seed)
}

fn at(s: &Space, n: usize) -> VirtAddr {
    VirtAddr::new((BASE + n) * page_size(s))
}

fn try_map(s: &Space, start: usize, end: usize, prot: Prot) -> Result<(), MmError> {
    let request = MapRequest::anonymous((end - start) * page_size(s), prot).fixed(at(s, start));
    s.map(&request).map(|_| ())
}

fn map(s: &Space, start: usize, end: usize, prot: Prot) {
    try_map(s, start, end, prot).unwrap();
}

fn protect(s: &Space, start: usize, end: usize, prot: Prot) {
    s.protect(at(s, start), (end - start) * page_size(s), prot)
        .unwrap();
}

/// Writes the areas as `start-end`, in pages.
fn draw(s: &Space) -> String {
    let page = |n: usize| n - BASE;
    s.areas()
        .map(|a| {
            let (start, end) = (a.range.start().as_usize(), a.range.end().as_usize());
            format!("{}-{}", page(start), page(end))
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Memory that was writable for a while counts as committed, and so cannot be one area with
/// memory that never was, only if it may have pages of its own (as measured on Linux 6.18;
/// mprotect_fixup since 6.7).
#[test]
fn what_was_writable_and_is_untouched_merges_when_it_is_not_any_more() {
    on_every_machine(|machine| {
        for (flags, touched) in [
            (MapFlags::empty(), false),
            (MapFlags::empty(), true),
            (MapFlags::GROWS_DOWN, false),
            (MapFlags::GROWS_DOWN, true),
        ] {
            let w = world(machine, 1);
            let s = w.space();
            let area = MapRequest::anonymous(8 * page_size(&s), Prot::NONE).with(flags);
            s.map(&area.fixed(at(&s, 0))).unwrap();
            protect(&s, 0, 4, Prot::RW);
            assert_eq!(draw(&s), "0-4 4-8");
            if touched {
                w.poke(0, &s, at(&s, 0).as_usize(), 1).unwrap();
            }
            protect(&s, 0, 4, Prot::NONE);
            let one = if touched { "0-4 4-8" } else { "0-8" };
            assert_eq!(draw(&s), one, "{flags:?}");
            // Part by part the same, also where the neighbour is one already.
            s.unmap(at(&s, 0), 8 * page_size(&s)).unwrap();
            let area = MapRequest::anonymous(8 * page_size(&s), Prot::RW).with(flags);
            s.map(&area.fixed(at(&s, 0))).unwrap();
            if touched {
                w.poke(0, &s, at(&s, 6).as_usize(), 1).unwrap();
            }
            for part in [2, 0, 4, 6] {
                protect(&s, part, part + 2, Prot::NONE);
            }
            assert_eq!(draw(&s), "0-8", "{flags:?}");
            w.check([&s]).unwrap();
            drop(s);
            w.assert_empty();
        }
    });
}

#[test]
fn mprotect_merges_unfaulted_with_faulted_in_both_directions() {
    on_every_machine(|machine| {
        for touched in [0, 5] {
            let w = world(machine, 1);
            let s = w.space();
            map(&s, 0, 10, Prot::RW);
            protect(&s, 5, 10, Prot::READ);
            assert_eq!(draw(&s), "0-5 5-10");
            if touched == 0 {
                w.poke(0, &s, at(&s, 0).as_usize(), 1).unwrap();
            } else {
                protect(&s, 5, 10, Prot::RW);
                protect(&s, 0, 5, Prot::READ);
                w.poke(0, &s, at(&s, 5).as_usize(), 1).unwrap();
                protect(&s, 0, 5, Prot::RW);
            }
            protect(&s, 5, 10, Prot::RW);
            assert_eq!(draw(&s), "0-10");
            drop(s);
            w.assert_empty();
        }
    });
}

/// The first page of each half was made while the halves had different rights:
/// they share an anon_vma all the same, and are one area again.
#[test]
fn neighbours_that_were_both_faulted_become_one_again() {
    on_every_machine(|machine| {
        let w = world(machine, 2);
        let s = w.space();
        map(&s, 0, 10, Prot::RW);
        protect(&s, 5, 10, Prot::RWX);
        w.poke(0, &s, at(&s, 1).as_usize(), 1).unwrap();
        w.poke(0, &s, at(&s, 7).as_usize(), 7).unwrap();
        protect(&s, 5, 10, Prot::RW);
        assert_eq!(draw(&s), "0-10");
        assert_eq!(w.peek(1, &s, at(&s, 1).as_usize()), Ok(1));
        assert_eq!(w.peek(1, &s, at(&s, 7).as_usize()), Ok(7));
        drop(s);
        w.assert_empty();
    });
}

/// What was mapped without WRITE and got it later is like what had it from the
/// start, also in what it commits to.
#[test]
fn rights_that_came_later_are_no_reason_not_to_merge() {
    on_every_machine(|machine| {
        let w = world(machine, 3);
        let s = w.space();
        map(&s, 0, 5, Prot::READ);
        map(&s, 5, 10, Prot::RW);
        protect(&s, 0, 5, Prot::RW);
        assert_eq!(draw(&s), "0-10");
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn after_fork_an_area_with_pages_stays_apart_from_a_new_neighbour_in_the_child() {
    on_every_machine(|machine| {
        let w = world(machine, 4);
        let s = w.space();
        map(&s, 0, 5, Prot::RW);
        w.poke(0, &s, at(&s, 0).as_usize(), 1).unwrap();
        let child = s.fork().unwrap();
        map(&child, 5, 8, Prot::RW);
        assert_eq!(draw(&child), "0-5 5-8");
        // The parent's area has no ancestors.
        map(&s, 5, 8, Prot::RW);
        assert_eq!(draw(&s), "0-8");
        // Without pages of its own the child's would have merged.
        let other = w.space();
        map(&other, 0, 5, Prot::RW);
        let child = (child, other.fork().unwrap());
        map(&child.1, 5, 8, Prot::RW);
        assert_eq!(draw(&child.1), "0-8");
        drop((s, child, other));
        w.assert_empty();
    });
}

#[test]
fn a7_the_guard_below_a_stack_is_the_spaces_own() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        for guard in [0, 16] {
            let w = world(machine, 5);
            let s = w.space();
            let mut limits = s.limits();
            limits.stack_guard = guard * page;
            limits.mmap_base = at(&s, 100);
            s.set_limits(limits);
            let mut stack = MapRequest::anonymous(4 * page, Prot::RW).fixed(at(&s, 96));
            stack.flags |= MapFlags::GROWS_DOWN;
            s.map(&stack).unwrap();
            let child = s.fork().unwrap();
            for space in [&s, &child] {
                let got = space.map(&MapRequest::anonymous(page, Prot::READ)).unwrap();
                assert_eq!(got, at(&s, 96 - guard - 1), "guard of {guard} pages");
            }
            drop((s, child));
            w.assert_empty();
        }
    });
}

#[test]
fn a_choice_ends_below_the_address_that_is_asked_for() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 6);
        let s = w.space();
        let mut limits = s.limits();
        limits.min_addr = at(&s, 0);
        s.set_limits(limits);
        let low = |pages: usize| MapRequest::anonymous(pages * page, Prot::RW).below(at(&s, 8));
        assert_eq!(s.map(&low(2)), Ok(at(&s, 6)));
        // A hint above counts for nothing, one that ends there does.
        assert_eq!(s.map(&low(2).hint(at(&s, 20))), Ok(at(&s, 4)));
        assert_eq!(s.map(&low(2).hint(at(&s, 1))), Ok(at(&s, 1)));
        assert_eq!(s.map(&low(2)), Err(MmError::NoGap(2 * page)));
        let up = low(1).with(MapFlags::BOTTOM_UP);
        assert_eq!(s.map(&up), Ok(at(&s, 0)));
        assert_eq!(s.map(&low(1)), Ok(at(&s, 3)));
        assert_eq!(s.map(&up), Err(MmError::NoGap(page)));
        // An exact address is no choice.
        assert_eq!(s.map(&low(1).fixed(at(&s, 30))), Ok(at(&s, 30)));
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn rights_of_a_stack_reach_down_to_its_start() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 7);
        let s = w.space();
        let mut stack = MapRequest::anonymous(6 * page, Prot::RW).fixed(at(&s, 10));
        stack.flags |= MapFlags::GROWS_DOWN;
        s.map(&stack).unwrap();
        map(&s, 16, 20, Prot::RW);
        w.poke(0, &s, at(&s, 11).as_usize(), 1).unwrap();
        let stack = |start: usize, pages: usize, prot| {
            let got = s.protect_stack(at(&s, start), pages * page, prot);
            got.map_err(MmError::errno)
        };
        assert_eq!(stack(13, 1, Prot::READ), Ok(()));
        assert_eq!(draw(&s), "10-14 14-16 16-20");
        assert!(w.poke(1, &s, at(&s, 11).as_usize(), 2).is_err());
        // A hole before it counts for nothing; what follows is as without.
        assert_eq!(stack(8, 8, Prot::RW), Ok(()));
        assert_eq!(draw(&s), "10-16 16-20");
        assert_eq!(w.poke(1, &s, at(&s, 11).as_usize(), 2), Ok(()));
        assert_eq!(stack(15, 6, Prot::READ), Err(12));
        assert_eq!(draw(&s), "10-16 16-20");
        assert_eq!(s.find(at(&s, 19)).unwrap().prot(), Prot::READ);
        assert_eq!(stack(17, 1, Prot::RW), Err(22));
        assert_eq!(stack(8, 2, Prot::RW), Err(12));
        assert_eq!(stack(20, 1, Prot::RW), Err(12));
        assert_eq!(stack(20, 0, Prot::RW), Ok(()));
        drop(s);
        w.assert_empty();
    });
}

/// remap_file_pages(2): the pages of a shared window in another order.
#[test]
fn a_shared_window_shows_the_pages_that_it_is_asked_to() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 8);
        let (s, bytes) = (w.space(), |n: usize| (n / page) as u8 + 1);
        let file = w.file(1, &(0..8 * page).map(bytes).collect::<Vec<_>>());
        let shared = MapRequest::shared(&file, 0, 4 * page, Prot::RW).fixed(at(&s, 0));
        s.map(&shared).unwrap();
        let shown = |n: usize| w.peek(0, &s, at(&s, n).as_usize()).unwrap();
        assert_eq!([0, 1, 2, 3].map(shown), [1, 2, 3, 4]);
        let go = |start: usize, pages: usize, pgoff: usize| {
            let offset = (pgoff * page) as u64;
            s.rearrange(at(&s, start), pages * page, offset)
                .map_err(MmError::errno)
        };
        assert_eq!(go(0, 1, 3), Ok(()));
        assert_eq!(go(1, 2, 6), Ok(()));
        assert_eq!([0, 1, 2, 3].map(shown), [4, 7, 8, 4]);
        w.poke(1, &s, at(&s, 0).as_usize(), 44).unwrap();
        assert_eq!(shown(3), 44, "one page, twice");
        // Back again: one area, over all that it was cut into.
        assert_eq!(go(0, 4, 0), Ok(()));
        assert_eq!(draw(&s), "0-4");
        assert_eq!([0, 1, 2, 3].map(shown), [1, 2, 3, 44]);
        assert_eq!(go(2, 3, 0), Err(22), "a hole");
        let size = page * 3 / 2;
        assert_eq!(s.rearrange(at(&s, 3), size, 0), Ok(()), "rounded down");
        assert_eq!(shown(3), 1);
        assert_eq!(go(3, 0, 0), Err(22));
        assert_eq!(
            s.rearrange(at(&s, 0), page, 1).map_err(MmError::errno),
            Err(22)
        );
        map(&s, 10, 12, Prot::RW);
        assert_eq!(go(10, 1, 0), Err(22), "private");
        protect(&s, 1, 2, Prot::READ);
        assert_eq!(go(0, 3, 4), Err(22), "other rights");
        // The file lives by its mapping alone.
        drop(file);
        assert_eq!(go(2, 2, 6), Ok(()));
        s.unmap(at(&s, 0), 2 * page).unwrap();
        assert_eq!(go(2, 2, 0), Ok(()));
        assert_eq!([2, 3].map(shown), [1, 2]);
        drop(s);
        w.assert_empty();
    });
}

/// One page as the model knows it.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Page {
    prot: Prot,
    byte: u8,
    inherits: Inherits,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Inherits {
    Copy,
    Nothing,
    Zeroes,
}

type Model = BTreeMap<usize, Page>;

/// One program: its space and what the model thinks of it.
struct Program {
    space: Space,
    model: Model,
}

impl Program {
    fn first_hole(&self, start: usize, end: usize) -> Option<usize> {
        (start..end).find(|p| !self.model.contains_key(p))
    }

    /// Compares the areas with the model (A1, I).
    fn check(&self) {
        let mut seen = 0;
        let mut last_end = 0;
        for area in self.space.areas() {
            assert!(area.range.start().as_usize() >= last_end, "areas overlap");
            assert!(!area.range.is_empty());
            last_end = area.range.end().as_usize();
            for page in area.range.iter() {
                let model = self.model.get(&(page.as_usize() - BASE));
                let model = model.unwrap_or_else(|| panic!("{page:?} is mapped"));
                assert_eq!(model.prot, area.prot());
                let inherits = if area.flags.contains(VmaFlags::DONT_COPY) {
                    Inherits::Nothing
                } else if area.flags.contains(VmaFlags::WIPE_ON_FORK) {
                    Inherits::Zeroes
                } else {
                    Inherits::Copy
                };
                assert_eq!(model.inherits, inherits);
                seen += 1;
            }
        }
        assert_eq!(seen, self.model.len(), "pages mapped");
        let counts = self.space.counts();
        assert_eq!(counts.total.get(), seen);
        assert_eq!(counts.areas.get(), self.space.areas().count());
        let data = self.model.values().filter(|p| p.prot.contains(Prot::WRITE));
        assert_eq!(counts.data.get(), data.count());
    }

    /// Reads every page that may be read (E2).
    fn check_bytes(&self, w: &World, cpu: usize) {
        for (&page, model) in &self.model {
            let got = w.peek(cpu, &self.space, at(&self.space, page).as_usize());
            // x86 cannot store without loading, nor execute without it.
            if model.prot.is_empty() {
                assert!(matches!(got, Err(Stopped::Signal(_))), "{page}: {got:?}");
            } else {
                assert_eq!(got, Ok(model.byte), "page {page} of {model:?}");
            }
        }
    }
}

const PAGES: u64 = 40;

fn play(machine: &Machine, seed: u64, steps: usize) {
    println!("seed {seed}");
    let w = world(machine, seed);
    let mut rng = Random::new(seed);
    let mut programs = vec![Program {
        space: w.space(),
        model: Model::new(),
    }];
    for step in 0..steps {
        let which = rng.below(programs.len() as u64) as usize;
        let cpu = rng.below(4) as usize;
        let start = rng.below(PAGES) as usize;
        let end = (start + 1 + rng.below(10) as usize).min(PAGES as usize);
        let at = |n| VirtAddr::new((BASE + n) * w.page_size());
        let (addr, len) = (at(start), (end - start) * w.page_size());
        let prot = rng.pick(&[Prot::RW, Prot::RW, Prot::READ, Prot::RX, Prot::NONE]);
        let verb = rng.below(100);
        // Some verbs meet an empty pool or allocator on their way.
        let failing = rng.chance(20) && verb < 80;
        if failing {
            w.platform().fail_nth(1 + rng.below(6));
        }
        let p = &mut programs[which];
        let hole = p.first_hole(start, end);
        let range = start..end;
        match verb {
            0..20 => {
                if succeeded(try_map(&p.space, start, end, prot), failing) {
                    let new = Page {
                        prot,
                        byte: 0,
                        inherits: Inherits::Copy,
                    };
                    p.model.extend(range.map(|page| (page, new)));
                }
            }
            20..32 => {
                if succeeded(p.space.unmap(addr, len), failing) {
                    p.model.retain(|page, _| !range.contains(page));
                }
            }
            32..55 => {
                let done = p.space.protect(addr, len, prot);
                if done != Err(MmError::OutOfMemory) || !failing {
                    // Exactly the prefix before the first hole (lesson 22).
                    assert_eq!(done, hole.map_or(Ok(()), |h| Err(MmError::Unmapped(at(h)))));
                    let prefix = start..hole.unwrap_or(end);
                    p.model
                        .range_mut(prefix)
                        .for_each(|(_, page)| page.prot = prot);
                }
            }
            55..62 => {
                let done = p.space.advise(addr, len, Advice::DontNeed);
                assert_eq!(done, hole.map_or(Ok(()), |h| Err(MmError::Unmapped(at(h)))));
                p.model.range_mut(range).for_each(|(_, page)| page.byte = 0);
            }
            62..70 => {
                let (on, off, kind) = rng.pick(&[
                    (Advice::DontFork, Advice::DoFork, Inherits::Nothing),
                    (Advice::WipeOnFork, Advice::KeepOnFork, Inherits::Zeroes),
                ]);
                // One of the two at a time, so that the model need not rank them.
                let others = p
                    .model
                    .range(range.clone())
                    .any(|(_, page)| page.inherits != Inherits::Copy && page.inherits != kind);
                if !others {
                    let set = rng.chance(60);
                    let done = p.space.advise(addr, len, if set { on } else { off });
                    if done != Err(MmError::OutOfMemory) || !failing {
                        let want = hole.map_or(Ok(()), |h| Err(MmError::Unmapped(at(h))));
                        assert_eq!(done, want);
                        let inherits = if set { kind } else { Inherits::Copy };
                        p.model
                            .range_mut(range)
                            .for_each(|(_, page)| page.inherits = inherits);
                    }
                }
            }
            70..76 if programs.len() < 5 => {
                let forked = programs[which].space.fork();
                match forked {
                    Ok(space) => {
                        let inherited = programs[which].model.iter().filter_map(|(&n, &page)| {
                            match page.inherits {
                                Inherits::Copy => Some((n, page)),
                                Inherits::Zeroes => Some((n, Page { byte: 0, ..page })),
                                Inherits::Nothing => None,
                            }
                        });
                        let model = inherited.collect();
                        programs.push(Program { space, model });
                    }
                    Err(error) => assert!(failing && error == MmError::OutOfMemory),
                }
            }
            76..80 if programs.len() > 1 => drop(programs.swap_remove(which)),
            _ => {
                w.platform().fail_none();
                let byte = rng.below(255) as u8 + 1;
                let p = &mut programs[which];
                let done = w.poke(cpu, &p.space, addr.as_usize(), byte);
                match p.model.get_mut(&start) {
                    Some(page) if page.prot.contains(Prot::WRITE) => {
                        assert_eq!(done, Ok(()));
                        page.byte = byte;
                    }
                    _ => assert!(matches!(done, Err(Stopped::Signal(_))), "{done:?}"),
                }
            }
        }
        w.platform().fail_none();
        programs.iter().for_each(Program::check);
        if step % 8 == 0 {
            for (i, p) in programs.iter().enumerate() {
                p.check_bytes(&w, i % 4);
            }
        }
    }
    drop(programs);
    w.assert_empty();
}

/// Returns whether the verb was done; it may fail only where that was arranged.
fn succeeded(done: Result<(), MmError>, failing: bool) -> bool {
    match done {
        Ok(()) => true,
        Err(MmError::OutOfMemory) if failing => false,
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a1_i_scripts_of_every_verb_agree_with_a_map_of_pages() {
    on_every_machine(|machine| {
        for seed in machine.seeds(2) {
            play(machine, seed, 250);
        }
    });
}

#[test]
fn a_device_over_the_only_pages_of_a_table_is_there() {
    on_every_machine(|machine| {
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let page = machine.page_size();
        let at = VirtAddr::new(0x40000 * page);
        let area = MapRequest::anonymous(4 * page, Prot::RW).fixed(at);
        s.map(&area).unwrap();
        w.poke(0, &s, at.as_usize(), 1).unwrap();
        // The table goes with its last page, and must come again.
        let device = Backing::Device {
            pfn: Pfn::new(0x4000),
            mem: MemType::Device,
        };
        s.map(&MapRequest {
            backing: device,
            ..area
        })
        .unwrap();
        for i in 0..4 {
            let entry = s.entry(Vpn::new(0x40000 + i));
            let there =
                matches!(entry, Entry::Leaf { pfn, .. } if pfn == Pfn::new(0x4000 + i as u64));
            assert!(there, "page {i}: {entry:?}");
        }
        drop(s);
        w.assert_empty();
    });
}

/// proc(5): anonymous memory has no offset. What a listing has shown of an area
/// may become one with what follows, of which it then shows the rest.
#[test]
fn the_rest_of_an_area_is_shown_with_an_offset_only_if_it_has_one() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 1);
        let file = w.file(1, &vec![0; 4 * page]);
        let s = w.space();
        for (request, rest) in [
            (MapRequest::private(&file, 0, 4 * page, Prot::RW), 2 * page),
            (MapRequest::anonymous(4 * page, Prot::RW), 0),
        ] {
            s.map(&request.fixed(at(&s, 0))).unwrap();
            protect(&s, 2, 4, Prot::READ);
            let mut areas = s.areas();
            assert_eq!(areas.next().unwrap().range.pages(), 2);
            protect(&s, 2, 4, Prot::RW);
            assert_eq!(draw(&s), "0-4");
            let seen = areas.next().unwrap();
            assert_eq!((seen.range.pages(), seen.offset), (2, rest as u64));
            assert_eq!(areas.next(), None);
        }
        drop((s, file));
        w.assert_empty();
    });
}
