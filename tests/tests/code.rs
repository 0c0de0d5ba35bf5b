//! Executable entries are published only after `sync_code` since the last
//! write through the library: one test for each way around that.

use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::format::{Attrs, Entry, PageTableFormat};
use mm_core::object::PagerFacts;
use mm_core::platform::Platform;
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
    let long = std::env::var_os("MM_LONG").is_some();
    // Of 100 one or two meet a sequence that a test beside this one names.
    let scripts = if long { 100 } else { 5 };
    on_every_machine(|machine| {
        let size = machine.page_size();
        for seed in 0..scripts {
            let mut random = Random::new(seed);
            let w = machine.world(1024, 2, seed);
            let file = w.file(1, &vec![5; 3 * size]);
            let memory = w.mm().new_object(PagerFacts::memory(3 * size as u64));
            let memory = memory.unwrap();
            let mut spaces = vec![Program::new(w.space()), Program::new(w.space())];
            let rights = [
                Prot::RX,
                Prot::RWX,
                Prot::RW,
                Prot::READ,
                Prot::EXEC,
                Prot::NONE,
            ];
            for _ in 0..400 {
                let cpu = random.below(2) as usize;
                let who = random.pick(&(0..spaces.len()).collect::<Vec<_>>());
                let (s, n) = (spaces[who].space.clone(), random.below(PAGES) as usize);
                let len = (1 + random.below(3)) as usize * size;
                let addr = (FIRST + n) * size;
                for program in &mut spaces {
                    program.look();
                }
                w.platform().take_log();
                match random.below(14) {
                    0 => {
                        let prot = random.pick(&rights);
                        let request = match random.below(4) {
                            0 => MapRequest::anonymous(len, prot),
                            1 => MapRequest::private(&file, 0, len, prot),
                            2 => MapRequest::shared(&file, 0, len, prot),
                            _ => MapRequest::shared(&memory, 0, len, prot),
                        };
                        s.map(&request.fixed(VirtAddr::new(addr))).unwrap();
                    }
                    1 | 2 => _ = s.protect(VirtAddr::new(addr), len, random.pick(&rights)),
                    3 => _ = s.write(VirtAddr::new(addr), &[seed as u8; 40]),
                    4 => _ = file.write(random.below(3) * size as u64, &[3; 70]),
                    5 if spaces.len() < 4 => spaces.push(Program::new(s.fork().unwrap())),
                    5 => drop(spaces.remove(cpu)),
                    6 => {
                        w.resize(&file, size * 3 / 2);
                        w.resize(&file, size * 3);
                    }
                    7 | 8 => {
                        _ = w.poke(cpu, &s, addr, 7);
                        let stored = frame(&s, n).map(|(pfn, _)| pfn);
                        let runs = |program: &Program| program.executes(stored);
                        if spaces[who].since[n].is_some() || spaces.iter().any(runs) {
                            stored
                                .into_iter()
                                .for_each(|pfn| w.platform().sync_code(pfn));
                            continue;
                        }
                    }
                    9 => _ = w.peek(cpu, &s, addr),
                    _ => _ = w.fetch(cpu, &s, addr),
                }
                for pfn in w.platform().take_log().synced {
                    for program in &mut spaces {
                        program.shown(pfn);
                    }
                }
            }
            drop((spaces, file, memory));
            w.assert_empty();
        }
    });
}

/// Pages that areas of a script begin in.
const PAGES: u64 = 3;

/// A program of a script, and what of it the library does not see: stores to a page that is
/// executable elsewhere, and by a right that it has since before the page was made visible. The
/// program makes those visible by itself, as a compiler does that writes beside where it runs.
struct Program {
    space: Space,
    /// Of each page the frame and the rights that it has, and had when that was last made visible.
    before: Vec<Option<(Pfn, Prot)>>,
    since: Vec<Option<(Pfn, Prot)>>,
}

impl Program {
    fn new(space: Space) -> Self {
        // An area of three pages may begin in the last one.
        let none = vec![None; PAGES as usize + 2];
        Self {
            space,
            before: none.clone(),
            since: none,
        }
    }

    /// Looks at all pages before a step.
    fn look(&mut self) {
        for page in 0..self.before.len() {
            let now = frame(&self.space, page).filter(|(_, prot)| prot.contains(Prot::WRITE));
            self.before[page] = now;
            // A right that changed was handed out anew.
            self.since[page] = self.since[page].filter(|&since| Some(since) == now);
        }
    }

    /// A frame was made visible in the step.
    fn shown(&mut self, pfn: Pfn) {
        for page in 0..self.before.len() {
            if self.before[page].is_some_and(|(before, _)| before == pfn) {
                self.since[page] = frame(&self.space, page).filter(|&(now, _)| now == pfn);
            }
        }
    }

    /// Returns whether a page of the program's leads to a frame and can be executed.
    fn executes(&self, stored: Option<Pfn>) -> bool {
        let pages = (0..self.before.len()).filter_map(|page| frame(&self.space, page));
        let mut runs = pages.filter(|(_, prot)| prot.contains(Prot::EXEC));
        runs.any(|(pfn, _)| stored == Some(pfn))
    }
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

/// Stores where code ran, once the right to execute is gone and the right to store is not: no
/// store faults, and the area becomes executable again.
#[test]
fn code_that_becomes_data_and_stays_writable_is_made_visible_again() {
    on_every_machine(|machine| {
        if !has_exec(machine) {
            return;
        }
        let size = machine.page_size();
        for first in [Prot::RWX, Prot::RW] {
            for fork in [false, true] {
                let w = machine.world(1024, 1, 1);
                let s = w.space();
                let area = MapRequest::anonymous(size, first).fixed(at(machine, 0));
                s.map(&area).unwrap();
                let protect = |s: &Space, prot| s.protect(at(machine, 0), size, prot).unwrap();
                // As RW first: the entry gets EXEC beside WRITE by the fetch.
                w.poke(0, &s, FIRST * size, 1).unwrap();
                protect(&s, Prot::RWX);
                w.fetch(0, &s, FIRST * size).unwrap();
                let (pfn, prot) = frame(&s, 0).unwrap();
                assert_eq!(prot, Prot::RWX);
                protect(&s, Prot::RW);
                assert_eq!(frame(&s, 0), Some((pfn, Prot::RW)), "stores do not fault");
                w.poke(0, &s, FIRST * size, 2).unwrap();
                let child = fork.then(|| s.fork().unwrap());
                for s in [Some(&s), child.as_ref()].into_iter().flatten() {
                    protect(s, Prot::RX);
                }
                assert!(fetch_syncs(&w, machine, &s, 0));
                if let Some(child) = &child {
                    // The same page, which was made visible for the parent.
                    assert!(!fetch_syncs(&w, machine, child, 0));
                }
                drop((s, child));
                w.assert_empty();
            }
        }
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
