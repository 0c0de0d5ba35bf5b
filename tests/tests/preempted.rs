//! Every verb, preempted wherever it can be, by every other verb.
//!
//! One CPU runs a verb; at the nth place where preemption is allowed it stops,
//! another CPU runs a whole other verb, then the first goes on. That is done
//! for each n up to the verb's last place, so of all schedules with one
//! preemption none is left out. Where the other verb waits for a lock that the
//! first one holds, the first goes on at once and the two end together.
//!
//! Afterwards everything is checked against everything, stores that nothing
//! took back must be there, and a child's memory must be as it was at the fork.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::format::TableOwner;
use mm_core::platform::MAX_CPUS;
use mm_core::prot::Prot;
use mm_core::space::{Advice, MapFlags, MapRequest, RemapFlags};
use mm_core::table::PageTable;
use mm_testkit::machine::{machines, on_every_machine};
use mm_testkit::mmu::Leaf;
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{File, Space, Stopped, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const FIRST: usize = 0x400;
/// Pages of each of the three areas: anonymous, private file, shared file.
const PAGES: usize = 4;
/// What a verb stores, always at the same place of a page.
const STORED: u8 = 9;
/// Turns of wait loops after which the other verb counts as waiting.
const WAITS: u64 = 100;
/// One in so many pairs is tried on each machine, so that each pair is tried on
/// several; all on all in a long run.
const SHARE: usize = 8;

/// One space with three areas, and a child of it in half of the runs.
struct Scene {
    w: Arc<World>,
    page: usize,
    s: Space,
    child: Option<Space>,
    private: File,
    shared: File,
}

impl Scene {
    fn new(w: &Arc<World>, key: u64, with_child: bool) -> Self {
        let page = w.page_size();
        let (private, shared) = (
            w.file(key, &vec![7; PAGES * page]),
            w.file(key + 1, &vec![5; PAGES * page]),
        );
        let s = w.space();
        let fixed = |r: MapRequest<'_, '_, _>, area: usize| {
            let at = VirtAddr::new((FIRST + area * PAGES) * page);
            s.map(&r.fixed(at)).unwrap();
        };
        let len = PAGES * page;
        fixed(MapRequest::anonymous(len, Prot::RW), 0);
        fixed(MapRequest::private(&private, 0, len, Prot::RW), 1);
        fixed(MapRequest::shared(&shared, 0, len, Prot::RW), 2);
        let mut scene = Self {
            w: w.clone(),
            page,
            s,
            child: None,
            private,
            shared,
        };
        for n in [0, 2, 5, 9] {
            scene.w.poke(0, &scene.s, scene.at(n), 1).unwrap();
        }
        for n in [4, 8] {
            scene.w.peek(0, &scene.s, scene.at(n)).unwrap();
        }
        scene.child = with_child.then(|| scene.s.fork().unwrap());
        scene
    }

    /// Returns the address of a page's byte.
    fn at(&self, n: usize) -> usize {
        (FIRST + n) * self.page + n
    }

    fn range(&self, from: usize) -> VirtAddr {
        VirtAddr::new((FIRST + from) * self.page)
    }
}

/// What a verb may do to the memory of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Looks,
    Stores(usize),
    /// Takes pages or rights away: a store may be refused, or be gone.
    Takes,
}

struct Verb {
    name: &'static str,
    kind: Kind,
    run: fn(&Scene, usize) -> Result<(), Stopped>,
}

const fn verb(
    name: &'static str,
    kind: Kind,
    run: fn(&Scene, usize) -> Result<(), Stopped>,
) -> Verb {
    Verb { name, kind, run }
}

fn load(c: &Scene, cpu: usize, n: usize) -> Result<(), Stopped> {
    c.w.peek(cpu, &c.s, c.at(n)).map(|_| ())
}

fn store(c: &Scene, cpu: usize, n: usize) -> Result<(), Stopped> {
    c.w.poke(cpu, &c.s, c.at(n), STORED)
}

fn protect(c: &Scene, cpu: usize, (from, pages): (usize, usize), prot: Prot) {
    // Holes that an unmap left are an error, after the part before them.
    let _holes = on_cpu(cpu, || c.s.protect(c.range(from), pages * c.page, prot));
}

fn unmap(c: &Scene, cpu: usize, from: usize, pages: usize) {
    on_cpu(cpu, || c.s.unmap(c.range(from), pages * c.page)).unwrap();
}

fn remap(c: &Scene, cpu: usize, (from, pages): (usize, usize), to: usize) -> Result<(), MmError> {
    let (len, fixed) = (pages * c.page, RemapFlags::MAY_MOVE | RemapFlags::FIXED);
    let (from, to) = (c.range(from), c.range(to));
    on_cpu(cpu, || c.s.remap(from, len, len, fixed, Some(to))).map(|_| ())
}

fn cut(c: &Scene, cpu: usize, file: &File, pages: usize) {
    on_cpu(cpu, || {
        c.w.resize(file, pages * c.page);
        c.w.resize(file, PAGES * c.page);
    });
}

/// Forks, and compares what the child has with what the parent had.
fn fork(c: &Scene, cpu: usize) {
    let child = on_cpu(cpu, || c.s.fork()).unwrap();
    let first = c.w.peek(cpu, &child, c.at(0));
    assert!(
        matches!(first, Ok(0 | 1 | STORED) | Err(Stopped::Signal(_))),
        "{first:?}"
    );
    assert_eq!(first, c.w.peek(cpu, &child, c.at(0)), "a fork moves on");
    on_cpu(cpu, || drop(child));
}

const VERBS: &[Verb] = &[
    verb("load, untouched", Kind::Looks, |c, cpu| load(c, cpu, 1)),
    verb("load, file", Kind::Looks, |c, cpu| load(c, cpu, 6)),
    verb("store, touched", Kind::Stores(0), |c, cpu| store(c, cpu, 0)),
    verb("store, untouched", Kind::Stores(1), |c, cpu| {
        store(c, cpu, 1)
    }),
    verb("store, private file", Kind::Stores(4), |c, cpu| {
        store(c, cpu, 4)
    }),
    verb("store, shared file", Kind::Stores(8), |c, cpu| {
        store(c, cpu, 8)
    }),
    verb("user copy", Kind::Stores(2), |c, cpu| {
        let at = VirtAddr::new(c.at(2));
        let done = c.w.finish(cpu, 0, 1, |_, _| c.s.write(at, &[STORED]));
        done.map(|_| ()).map_err(|_| Stopped::KernelBug)
    }),
    verb("unmap", Kind::Takes, |c, cpu| {
        unmap(c, cpu, 0, PAGES);
        Ok(())
    }),
    verb("unmap, across", Kind::Takes, |c, cpu| {
        unmap(c, cpu, 1, 8);
        Ok(())
    }),
    verb("fixed map", Kind::Takes, |c, cpu| {
        let r = MapRequest::anonymous(6 * c.page, Prot::RW).fixed(c.range(0));
        on_cpu(cpu, || c.s.map(&r)).unwrap();
        Ok(())
    }),
    verb("map beside", Kind::Looks, |c, cpu| {
        let r = MapRequest::anonymous(2 * c.page, Prot::RW)
            .fixed(c.range(3 * PAGES))
            .with(MapFlags::NO_RESERVE);
        on_cpu(cpu, || c.s.map(&r)).unwrap();
        Ok(())
    }),
    verb("move there and back", Kind::Takes, |c, cpu| {
        // What another verb has made of it may be no longer one area.
        if remap(c, cpu, (4, 2), 20).is_ok() {
            remap(c, cpu, (20, 2), 4).expect("nobody else knows of it");
        }
        Ok(())
    }),
    verb("move the shared file", Kind::Takes, |c, cpu| {
        let _or_cut_in_two = remap(c, cpu, (2 * PAGES, PAGES), 20);
        Ok(())
    }),
    verb("move over the others", Kind::Takes, |c, cpu| {
        let _or_cut_in_two = remap(c, cpu, (0, PAGES), 7);
        Ok(())
    }),
    verb("protect, read", Kind::Takes, |c, cpu| {
        protect(c, cpu, (0, 10), Prot::READ);
        Ok(())
    }),
    verb("protect, none and back", Kind::Takes, |c, cpu| {
        protect(c, cpu, (1, 2), Prot::NONE);
        protect(c, cpu, (1, 2), Prot::RW);
        Ok(())
    }),
    verb("forget", Kind::Takes, |c, cpu| {
        let _holes = on_cpu(cpu, || c.s.advise(c.range(0), 9 * c.page, Advice::DontNeed));
        Ok(())
    }),
    verb("fork", Kind::Looks, |c, cpu| {
        fork(c, cpu);
        Ok(())
    }),
    verb("cut the private file", Kind::Takes, |c, cpu| {
        cut(c, cpu, &c.private, 0);
        Ok(())
    }),
    verb("cut the shared file", Kind::Takes, |c, cpu| {
        cut(c, cpu, &c.shared, 1);
        Ok(())
    }),
];

/// Runs `one` on a CPU and `other` on another in the middle of it: at the nth place where it may
/// be preempted. Without such a place `other` does not run.
fn beside<R: Send, S: Send>(
    w: &World,
    nth: u64,
    one: impl FnOnce() -> R,
    other: impl FnOnce() -> S + Send,
) -> (R, Option<S>) {
    let platform = w.platform();
    let (begin, begun) = channel::<()>();
    let ended = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let done = ended.clone();
        let other = scope.spawn(move || {
            // Closed: the place was not reached.
            let outcome = begun.recv().ok().map(|()| on_cpu(1, other));
            done.store(true, Ordering::SeqCst);
            outcome
        });
        platform.preempt_nth(nth, move || {
            let (turns, since) = (platform.relaxes(), Instant::now());
            begin.send(()).expect("it waits for its turn");
            while !ended.load(Ordering::SeqCst)
                && platform.relaxes() < turns + WAITS
                && since.elapsed() < Duration::from_secs(5)
            {
                std::thread::yield_now();
            }
        });
        let one = on_cpu(0, one);
        // Drops the sender, too, if it was not used.
        platform.preempt_no_more();
        (one, other.join().expect("the other verb"))
    })
}

/// Runs `a` on one CPU and `b` in the middle of it on another; returns whether
/// `a` has an nth place.
fn meet(c: &Scene, a: &Verb, b: &Verb, nth: u64, how: &str) -> bool {
    let (one, other) = beside(&c.w, nth, || (a.run)(c, 0), || (b.run)(c, 1));
    let Some(other) = other else {
        return false;
    };
    for (verb, outcome, beside) in [(a, one, b), (b, other, a)] {
        assert!(
            outcome.is_ok() || beside.kind == Kind::Takes,
            "{how}: {} ended with {outcome:?}",
            verb.name
        );
        if let (Kind::Stores(n), true) = (verb.kind, beside.kind != Kind::Takes) {
            assert_eq!(c.w.peek(0, &c.s, c.at(n)), Ok(STORED), "{how}: lost");
        }
    }
    true
}

fn pair(w: &Arc<World>, key: &mut u64, a: &Verb, b: &Verb, with_child: bool) -> u64 {
    for nth in 1.. {
        *key += 2;
        let how = format!("{} preempted at {nth} by {}", a.name, b.name);
        let c = Scene::new(w, *key, with_child);
        let met = meet(&c, a, b, nth, &how);
        if let Some(child) = &c.child {
            for (n, byte) in [(0, 1), (1, 0), (2, 1), (4, 7), (5, 1)] {
                let cut = [a.name, b.name].contains(&"cut the private file");
                let private = n >= PAGES;
                if !(cut && private) {
                    assert_eq!(w.peek(2, child, c.at(n)), Ok(byte), "{how}: child's {n}");
                }
            }
        }
        let spaces = std::iter::once(&c.s).chain(&c.child);
        w.check(spaces).unwrap_or_else(|e| panic!("{how}: {e}"));
        drop(c);
        w.assert_empty();
        if !met {
            return nth - 1;
        }
    }
    0
}

#[test]
fn every_verb_is_preempted_everywhere_by_every_other() {
    const { assert!(MAX_CPUS > 3) };
    on_every_machine(|machine| {
        let w = Arc::new(machine.world(512, 3, 1));
        let number = machines().iter().position(|m| m.name == machine.name);
        let share = if std::env::var_os("MM_LONG").is_some() {
            1
        } else {
            SHARE
        };
        let (mut key, mut met) = (0, 0);
        for (i, a) in VERBS.iter().enumerate() {
            for (j, b) in VERBS.iter().enumerate() {
                if (i * VERBS.len() + j + number.unwrap()) % share == 0 {
                    met += pair(&w, &mut key, a, b, (i + j) % 2 == 0);
                }
            }
        }
        assert!(met > 100, "only {met} meetings");
    });
}

/// Who takes rights away rewrites the entries first and flushes then. Until the flush others may
/// find those entries: what they take of them must be flushed by them.
#[test]
fn what_is_taken_beside_a_protect_is_remembered_by_nobody() {
    const OWN: usize = 2;
    const SHARED: usize = 2 * PAGES + 1;
    type Taker = (&'static str, usize, fn(&Scene));
    let takers: [Taker; 3] = [
        ("forget", OWN, |c| {
            c.s.advise(c.range(OWN), c.page, Advice::DontNeed).unwrap();
        }),
        ("cut", SHARED, |c| cut(c, 1, &c.shared, 1)),
        ("clean", SHARED, |c| {
            let cx = c.w.mm().cx();
            let view = c.shared.view(&cx);
            let (_, page) = view.next_dirty(1).expect("it was stored to");
            assert!(view.clean(&page));
        }),
    ];
    on_every_machine(|machine| {
        let w = Arc::new(machine.world(512, 3, 1));
        let (mut key, mut met) = (0, 0);
        for (prot, (name, n, take)) in [Prot::NONE, Prot::READ]
            .into_iter()
            .flat_map(|prot| takers.map(|taker| (prot, taker)))
        {
            for nth in 1.. {
                key += 2;
                let c = Scene::new(&w, key, false);
                w.poke(2, &c.s, c.at(n), 3).unwrap();
                let page = VirtAddr::new(c.at(n)).vpn(w.page_shift());
                let taken = || {
                    take(&c);
                    w.tlbs().remembered(2, page)
                };
                let ((), left) = beside(&w, nth, || protect(&c, 0, (n, 1), prot), taken);
                let Some(left) = left else { break };
                met += 1;
                let used = |leaf: &Leaf| name != "clean" || leaf.rights.user.write;
                assert!(
                    !left.iter().any(used),
                    "{name} beside protect {prot:?}, preempted at {nth}: {left:?}"
                );
                w.check([&c.s]).unwrap();
            }
        }
        w.assert_empty();
        assert!(met > 10, "only {met} meetings");
    });
}

/// CVE-2018-18281: who takes pages at the new place tells nobody of the old one. So nobody
/// takes any before what moved them has told all.
#[test]
fn what_is_cut_beside_a_move_is_remembered_by_nobody() {
    on_every_machine(|machine| {
        let w = Arc::new(machine.world(512, 3, 1));
        let (mut key, mut met) = (0, 0);
        for nth in 1.. {
            key += 2;
            let c = Scene::new(&w, key, false);
            let (from, to) = (2 * PAGES, 20);
            let at = c.at(from + 1);
            // Not by whoever moves it, which drops its own first. A page beside it keeps the table.
            w.poke(2, &c.s, at, 3).unwrap();
            let page = VirtAddr::new(at).vpn(w.page_shift());
            let cut = || {
                w.resize(&c.shared, c.page);
                w.tlbs().remembered(2, page)
            };
            let (moved, left) = beside(&w, nth, || remap(&c, 0, (from, PAGES), to), cut);
            assert_eq!(moved, Ok(()));
            let Some(left) = left else { break };
            met += 1;
            assert!(left.is_empty(), "preempted at {nth}: {left:?}");
            w.check([&c.s]).unwrap();
        }
        w.assert_empty();
        assert!(met > 5, "only {met} meetings");
    });
}

/// Lesson 65 (CVE-2022-39188): who cuts a file asks it which areas map it. So an area leaves the
/// file's map only when its entries are gone: who does not find it would return while a page
/// that was cut off can be reached. What the area's own verb took first is that verb's to flush,
/// and the frame waits for it.
#[test]
fn lesson_65_what_is_cut_beside_the_end_of_its_area_is_in_no_table() {
    const FROM: usize = 3;
    const LEN: usize = 9;
    type End = (&'static str, fn(&Scene, Space) -> Option<Space>);
    let ends: [End; 3] = [
        // Over a hole: areas that are all there go on without the space lock.
        ("unmap", |c, s| {
            s.unmap(c.range(FROM), LEN * c.page).unwrap();
            Some(s)
        }),
        ("fixed map", |c, s| {
            let anew = MapRequest::anonymous(LEN * c.page, Prot::RW);
            s.map(&anew.fixed(c.range(FROM))).unwrap();
            Some(s)
        }),
        ("exit", |_, _| None),
    ];
    on_every_machine(|machine| {
        let w = Arc::new(machine.world(512, 3, 1));
        let mut key = 0;
        for (name, end) in ends {
            for nth in 1.. {
                key += 2;
                let how = format!("{name}, preempted at {nth}");
                let mut c = Scene::new(&w, key, true);
                let s = c.child.take().expect("a child");
                s.unmap(c.range(PAGES), c.page).unwrap();
                let at = c.at(2 * PAGES + 1);
                w.poke(2, &s, at, 3).unwrap();
                let page = VirtAddr::new(at).vpn(w.page_shift());
                // CPU 2 keeps the root, whoever else ends.
                let root = w.tlbs().contents(2).0.expect("it runs").root;
                let entry = || {
                    let cx = w.mm().cx();
                    let table = PageTable::view(&cx, root, TableOwner::User, 0);
                    table.translate(page)
                };
                assert!(entry().is_some(), "{how}: nothing to cut off");
                let cut = || {
                    w.resize(&c.shared, c.page);
                    entry()
                };
                let (s, left) = beside(&w, nth, || end(&c, s), cut);
                let Some(left) = left else {
                    assert!(nth > 3, "{name}: only {} places", nth - 1);
                    break;
                };
                assert!(left.is_none(), "{how}: {left:x?}");
                if s.is_some() {
                    let remembered = w.tlbs().remembered(2, page);
                    assert!(remembered.is_empty(), "{how}: {remembered:?}");
                }
                w.check(std::iter::once(&c.s).chain(&s))
                    .unwrap_or_else(|e| panic!("{how}: {e}"));
            }
        }
        w.assert_empty();
    });
}
