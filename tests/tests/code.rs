//! Executable entries are published only after `sync_code` since the last
//! write through the library: one test for each way around that.

use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::format::{Attrs, Entry, PageTableFormat};
use mm_core::object::PagerFacts;
use mm_core::prot::Prot;
use mm_core::space::MapRequest;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::random::Random;
use mm_testkit::world::{Space, World};

/// Where the areas of these tests begin, in pages.
const FIRST: usize = 0x400;

fn frame(s: &Space, page: usize) -> Option<(Pfn, Prot)> {
    match s.entry(Vpn::new(FIRST + page)) {
        Entry::Leaf { pfn, attrs } => Some((pfn, attrs.prot)),
        _ => None,
    }
}

/// Fetches from a page; says whether its frame was made visible for that.
fn fetch_syncs(w: &World, machine: &Machine, s: &Space, page: usize) -> bool {
    w.platform().take_log();
    w.fetch(0, s, (FIRST + page) * machine.page_size()).unwrap();
    let (pfn, prot) = frame(s, page).unwrap();
    assert!(prot.contains(Prot::EXEC));
    w.platform().take_log().synced.contains(&pfn)
}

fn at(machine: &Machine, page: usize) -> VirtAddr {
    VirtAddr::new((FIRST + page) * machine.page_size())
}

/// A page that the kernel wrote to, write-protected by fork, in an area that
/// becomes executable: a store gives back WRITE and not EXEC.
#[test]
fn a_store_does_not_publish_code_that_nobody_made_visible() {
    on_every_machine(|machine| {
        if !has_exec(machine) {
            return;
        }
        let size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let area = MapRequest::anonymous(size, Prot::RW).fixed(at(machine, 0));
        s.map(&area).unwrap();
        assert_eq!(s.write(at(machine, 0), &[1, 2, 3]).unwrap().done, 3);
        drop(s.fork().unwrap());
        s.protect(at(machine, 0), size, Prot::RWX).unwrap();
        w.platform().take_log();
        w.poke(0, &s, FIRST * size, 7).unwrap();
        let (pfn, prot) = frame(&s, 0).unwrap();
        let synced = w.platform().take_log().synced.contains(&pfn);
        assert!(synced || !prot.contains(Prot::EXEC), "{prot:?}");
        assert!(synced || fetch_syncs(&w, machine, &s, 0));
        drop(s);
        w.assert_empty();
    });
}

/// Returns whether entries can say that a page is not to be executed: x86 had
/// no such bit at first, and its caches are coherent.
fn has_exec(machine: &Machine) -> bool {
    let format = machine.format();
    let word = format.encode_leaf(Pfn::new(1), Attrs::user(Prot::READ), 1);
    let can = matches!(
        format.decode(word.unwrap(), 1),
        Entry::Leaf { attrs, .. } if !attrs.prot.contains(Prot::EXEC)
    );
    if !can {
        machine.skip("every page can be executed");
    }
    can
}

/// A page that a store has just made writable is not known to be clean any
/// more: the child gets an entry that fetches fault on.
#[test]
fn a_fork_does_not_publish_code_that_nobody_made_visible() {
    on_every_machine(|machine| {
        if !has_exec(machine) {
            return;
        }
        let size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let area = MapRequest::anonymous(size, Prot::RWX).fixed(at(machine, 0));
        s.map(&area).unwrap();
        w.poke(0, &s, FIRST * size, 7).unwrap();
        w.fetch(0, &s, FIRST * size).unwrap();
        drop(s.fork().unwrap());
        // The store finds the page its own, and stores may be code.
        w.poke(0, &s, FIRST * size, 8).unwrap();
        let child = s.fork().unwrap();
        let hidden = frame(&child, 0).is_none_or(|(_, prot)| !prot.contains(Prot::EXEC));
        assert!(hidden, "{:?}", frame(&child, 0));
        assert!(fetch_syncs(&w, machine, &child, 0));
        assert!(!fetch_syncs(&w, machine, &child, 0), "once is enough");
        drop((s, child));
        w.assert_empty();
    });
}

/// What is executed somewhere and then written to by write(2), by a truncation
/// or through another mapping, is fetched as it is now. (On machines whose
/// caches are not coherent the simulated ones scream otherwise.)
#[test]
fn what_is_written_to_code_that_runs_is_fetched() {
    on_every_machine(|machine| {
        let size = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let file = w.file(1, &vec![5; 2 * size]);
        let (s, other) = (w.space(), w.space());
        let code = MapRequest::shared(&file, 0, size, Prot::RX).fixed(at(machine, 0));
        s.map(&code).unwrap();
        let data = MapRequest::shared(&file, 0, size, Prot::RW).fixed(at(machine, 8));
        other.map(&data).unwrap();
        let fetch = || {
            for cpu in 0..2 {
                w.fetch(cpu, &s, FIRST * size).unwrap();
            }
        };
        w.poke(1, &other, (FIRST + 8) * size, 1).unwrap();
        fetch();
        assert_eq!(file.write(0, &[9; 16]).done, 16);
        fetch();
        assert_eq!(other.write(at(machine, 8), &[1, 2]).unwrap().done, 2);
        fetch();
        w.resize(&file, size / 2);
        fetch();
        let child = s.fork().unwrap();
        w.fetch(1, &child, FIRST * size).unwrap();
        drop((s, other, child, file));
        w.assert_empty();
    });
}

/// A frame that was executed, freed and written to anew, in an area that is
/// executable only: its entry is none until the code is visible.
#[test]
fn a_frame_that_held_other_code_is_made_visible_in_its_next_life() {
    on_every_machine(|machine| {
        let size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let area = |prot| MapRequest::anonymous(size, prot).fixed(at(machine, 0));
        // Keeps the tables, so that only the one frame is freed.
        let beside = MapRequest::anonymous(size, Prot::READ).fixed(at(machine, 1));
        s.map(&beside).unwrap();
        w.peek(0, &s, (FIRST + 1) * size).unwrap();
        s.map(&area(Prot::RWX)).unwrap();
        w.poke(0, &s, FIRST * size, 1).unwrap();
        w.fetch(0, &s, FIRST * size).unwrap();
        let (before, _) = frame(&s, 0).unwrap();
        s.unmap(at(machine, 0), size).unwrap();
        s.map(&area(Prot::RW)).unwrap();
        assert_eq!(s.write(at(machine, 0), &[2]).unwrap().done, 1);
        assert_eq!(frame(&s, 0).unwrap().0, before, "the frame was free");
        s.protect(at(machine, 0), size, Prot::EXEC).unwrap();
        w.fetch(0, &s, FIRST * size).unwrap();
        drop(s);
        w.assert_empty();
    });
}

/// Everything that writes, maps, protects, copies and fetches, at random; the
/// simulated instruction caches scream.
#[test]
fn random_scripts_never_fetch_old_bytes() {
    on_every_machine(|machine| {
        let size = machine.page_size();
        for seed in 0..3 {
            let mut random = Random::new(seed);
            let w = machine.world(1024, 2, seed);
            let file = w.file(1, &vec![5; 3 * size]);
            let mut spaces = vec![w.space(), w.space()];
            let rights = [
                Prot::RX,
                Prot::RWX,
                Prot::RW,
                Prot::READ,
                Prot::EXEC,
                Prot::NONE,
            ];
            let page = |random: &mut Random| random.below(8) as usize;
            for _ in 0..400 {
                let cpu = random.below(2) as usize;
                let s = random.pick(&(0..spaces.len()).collect::<Vec<_>>());
                let (s, n) = (spaces[s].clone(), page(&mut random));
                let len = (1 + random.below(3)) as usize * size;
                let addr = (FIRST + n) * size;
                match random.below(12) {
                    0 => {
                        let prot = random.pick(&rights);
                        let request = match random.below(3) {
                            0 => MapRequest::anonymous(len, prot),
                            1 => MapRequest::private(&file, 0, len, prot),
                            _ => MapRequest::shared(&file, 0, len, prot),
                        };
                        s.map(&request.fixed(VirtAddr::new(addr))).unwrap();
                    }
                    1 | 2 => _ = s.protect(VirtAddr::new(addr), len, random.pick(&rights)),
                    3 => _ = s.write(VirtAddr::new(addr), &[seed as u8; 40]),
                    4 => _ = file.write(random.below(3) * size as u64, &[3; 70]),
                    5 if spaces.len() < 4 => spaces.push(s.fork().unwrap()),
                    5 => drop(spaces.remove(cpu)),
                    6 => {
                        w.resize(&file, size * 3 / 2);
                        w.resize(&file, size * 3);
                    }
                    7 => _ = w.poke(cpu, &s, addr, 7),
                    _ => _ = w.fetch(cpu, &s, addr),
                }
            }
            drop((spaces, file));
            w.assert_empty();
        }
    });
}

/// RX, written to as RW (by the program, by the kernel), RX again.
#[test]
fn rights_that_go_and_come_back_make_code_visible_again() {
    on_every_machine(|machine| {
        if !has_exec(machine) {
            return;
        }
        let size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let area = MapRequest::anonymous(size, Prot::RX).fixed(at(machine, 0));
        s.map(&area).unwrap();
        type Writer = fn(&World, &Machine, &Space);
        let writers: [Writer; 2] = [
            |w, m, s| w.poke(0, s, FIRST * m.page_size(), 7).unwrap(),
            |_, m, s| assert_eq!(s.write(at(m, 0), &[1]).unwrap().done, 1),
        ];
        for detour in [Prot::RW, Prot::NONE] {
            for write in writers {
                s.protect(at(machine, 0), size, Prot::RW).unwrap();
                write(&w, machine, &s);
                s.protect(at(machine, 0), size, detour).unwrap();
                s.protect(at(machine, 0), size, Prot::RX).unwrap();
                assert!(fetch_syncs(&w, machine, &s, 0), "by way of {detour:?}");
            }
        }
        drop(s);
        w.assert_empty();
    });
}

/// Code that is mapped as data elsewhere, loaded from and only then stored to. Nobody asks who
/// stores to shared memory without a file: there the load has handed out the right already,
/// to the pages around it too, and the store says nothing.
#[test]
fn a_load_that_hands_out_stores_forgets_that_code_was_shown() {
    on_every_machine(|machine| {
        if !has_exec(machine) {
            return;
        }
        let size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let memory = w.mm().new_object(PagerFacts::memory(2 * size as u64));
        for object in [w.file(1, &vec![5; 2 * size]), memory.unwrap()] {
            let map = |page, prot| {
                let area = MapRequest::shared(&object, 0, 2 * size, prot);
                s.map(&area.fixed(at(machine, page))).unwrap();
            };
            let is_shown = || {
                map(0, Prot::RX);
                w.platform().take_log();
                for page in 0..2 {
                    w.fetch(0, &s, (FIRST + page) * size).unwrap();
                }
                let log = w.platform().take_log();
                let frames = [0, 1].map(|page| frame(&s, page).unwrap().0);
                s.unmap(at(machine, 0), 2 * size).unwrap();
                frames.map(|pfn| log.synced.contains(&pfn))
            };
            assert_eq!(is_shown(), [true; 2], "before its first fetch");
            assert_eq!(is_shown(), [false; 2], "once is enough");
            map(8, Prot::RW);
            w.peek(0, &s, (FIRST + 8) * size).unwrap();
            for page in 8..10 {
                w.poke(0, &s, (FIRST + page) * size, 9).unwrap();
            }
            s.unmap(at(machine, 8), 2 * size).unwrap();
            assert_eq!(is_shown(), [true; 2], "after the stores");
        }
        drop(s);
        w.assert_empty();
    });
}
