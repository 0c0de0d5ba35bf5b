//! What others may do, and what they wait for, while a verb zaps or rewrites
//! entries without the space lock: looked at in the middle of its flush.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::prot::{Access, Prot};
use mm_core::space::{Advice, MapFlags, MapRequest};
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::patience::{join, until};
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{Space, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where the area of a test begins, and its pages.
const FIRST: usize = 0x40000;
const PAGES: usize = 8;

/// A space with an area that has pages on CPU 0, and an area elsewhere with
/// its anon_vma.
struct Scene {
    w: World,
    s: Space,
    page: usize,
}

impl Scene {
    fn new(machine: &Machine) -> Self {
        let page = machine.page_size();
        let w = machine.world(2048, 4, 1);
        let s = w.space();
        for start in [FIRST, 2 * FIRST] {
            let area = MapRequest::anonymous(PAGES * page, Prot::RW);
            s.map(&area.fixed(VirtAddr::new(start * page))).unwrap();
        }
        let scene = Self { w, s, page };
        for i in 0..PAGES - 1 {
            scene
                .w
                .poke(0, &scene.s, scene.at(i).as_usize(), 1)
                .unwrap();
            scene
                .w
                .poke(0, &scene.s, scene.elsewhere(i).as_usize(), 1)
                .unwrap();
        }
        scene
    }

    fn at(&self, i: usize) -> VirtAddr {
        VirtAddr::new((FIRST + i) * self.page)
    }

    fn elsewhere(&self, i: usize) -> VirtAddr {
        VirtAddr::new((2 * FIRST + i) * self.page)
    }

    /// Lets CPU 1 do `meanwhile` in the middle of the next flush of `verb`.
    fn during(self, verb: impl FnOnce(&Self), meanwhile: impl FnOnce(&Space) + Send + 'static) {
        let met = Arc::new(AtomicUsize::new(0));
        let (other, count) = (self.s.clone(), met.clone());
        self.w.platform().interrupt_flush(move || {
            on_cpu(1, || meanwhile(&other));
            count.fetch_add(1, Ordering::SeqCst);
            // Dropped here, while the verb's own user is there still.
            drop(other);
        });
        verb(&self);
        assert_eq!(met.load(Ordering::SeqCst), 1, "the verb flushed");
        if let Err(wrong) = self.w.check([&self.s]) {
            panic!("{wrong}");
        }
        drop(self.s);
        self.w.assert_empty();
    }
}

fn store(addr: VirtAddr) -> Fault {
    Fault {
        addr,
        access: Access::Write,
        mode: Mode::User,
    }
}

/// Other ranges are mapped, unmapped, protected and faulted on.
fn work_elsewhere(s: &Space, elsewhere: VirtAddr, page: usize) {
    let fresh = VirtAddr::new(elsewhere.as_usize() + (PAGES - 1) * page);
    let outcome = s.fault(&store(fresh));
    assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
    let new = s.map(&MapRequest::anonymous(3 * page, Prot::RW)).unwrap();
    let outcome = s.fault(&store(new));
    assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
    s.protect(elsewhere, page, Prot::READ).unwrap();
    s.advise(elsewhere, PAGES * page, Advice::DontNeed).unwrap();
    s.unmap(new, 2 * page).unwrap();
}

#[test]
fn an_unmap_holds_up_nobody_elsewhere() {
    on_every_machine(|machine| {
        let scene = Scene::new(machine);
        let (page, at, elsewhere) = (scene.page, scene.at(2), scene.elsewhere(0));
        scene.during(
            // Cuts the area on both sides.
            |scene| scene.s.unmap(scene.at(2), 4 * page).unwrap(),
            move |s| {
                work_elsewhere(s, elsewhere, page);
                // What dies is no more, but its place is not free yet.
                let outcome = s.fault(&store(at));
                let gone = matches!(outcome, FaultOutcome::Signal(Signal::SegvMapErr(_)));
                assert!(gone, "{outcome:?}");
                assert_eq!(s.find(at), None);
                let start = VirtAddr::new(at.as_usize() - 2 * page);
                let dropped = s.advise(start, PAGES * page, Advice::DontNeed);
                assert_eq!(dropped, Err(MmError::Unmapped(at)), "a hole");
                let hint = MapRequest::anonymous(page, Prot::RW).hint(at);
                assert_ne!(s.map(&hint), Ok(at));
                // The rest of the area is there.
                let rest = VirtAddr::new(at.as_usize() + 5 * page);
                let outcome = s.fault(&store(rest));
                assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
            },
        );
    });
}

#[test]
fn a_protect_holds_up_nobody_elsewhere() {
    on_every_machine(|machine| {
        let scene = Scene::new(machine);
        let (page, elsewhere) = (scene.page, scene.elsewhere(0));
        scene.during(
            |scene| scene.s.protect(scene.at(2), 4 * page, Prot::READ).unwrap(),
            move |s| work_elsewhere(s, elsewhere, page),
        );
    });
}

/// Pages of one area are dropped under its read count: others need the space lock.
#[test]
fn dropping_pages_holds_up_nobody_elsewhere() {
    on_every_machine(|machine| {
        let scene = Scene::new(machine);
        let (page, at, elsewhere) = (scene.page, scene.at(PAGES - 1), scene.elsewhere(0));
        let other: Arc<std::sync::Mutex<Option<JoinHandle<()>>>> = Arc::default();
        let thread = other.clone();
        let in_time = Arc::new(AtomicBool::new(false));
        let is_in_time = in_time.clone();
        scene.during(
            |scene| {
                let len = 4 * scene.page;
                scene.s.advise(scene.at(2), len, Advice::DontNeed).unwrap();
                let thread = other.lock().unwrap().take().expect("the verb flushed");
                join(thread);
                assert!(in_time.load(Ordering::SeqCst), "it waited for the flush");
            },
            move |s| {
                let s = s.clone();
                let (done, is_done) = std::sync::mpsc::channel();
                *thread.lock().unwrap() = Some(std::thread::spawn(move || {
                    on_cpu(1, || work_elsewhere(&s, elsewhere, page));
                    // Nor is a fault in the same area held up.
                    let outcome = on_cpu(1, || s.fault(&store(at)));
                    assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
                    // Nobody listens when it took too long.
                    let _late = done.send(());
                }));
                let done = is_done.recv_timeout(Duration::from_secs(10));
                is_in_time.store(done.is_ok(), Ordering::SeqCst);
            },
        );
    });
}

/// Lets a thread do `meanwhile` in the middle of the flush of `verb`, and
/// checks that it is done only after that.
fn waits(
    machine: &Machine,
    verb: impl FnOnce(&Scene),
    meanwhile: impl FnOnce(&Space, VirtAddr) + Send + 'static,
) {
    let scene = Scene::new(machine);
    let at = scene.at(3);
    let over = Arc::new(AtomicBool::new(false));
    let other: Arc<std::sync::Mutex<Option<JoinHandle<()>>>> = Arc::default();
    let (is_over, thread) = (over.clone(), other.clone());
    scene.during(
        |scene| {
            verb(scene);
            let thread = other.lock().unwrap().take().expect("the verb flushed");
            join(thread);
        },
        move |s| {
            let s = s.clone();
            *thread.lock().unwrap() = Some(std::thread::spawn(move || {
                on_cpu(1, || meanwhile(&s, at));
                assert!(is_over.load(Ordering::SeqCst), "came out too early");
            }));
            // Long enough for it to come out, if it does not wait.
            std::thread::sleep(Duration::from_millis(30));
            over.store(true, Ordering::SeqCst);
        },
    );
}

#[test]
fn a_fault_waits_for_what_replaces_its_area() {
    on_every_machine(|machine| {
        waits(
            machine,
            |scene| {
                let new = MapRequest::anonymous(4 * scene.page, Prot::READ);
                scene.s.map(&new.fixed(scene.at(2))).unwrap();
            },
            |s, at| {
                // The new area's rights, and never none at all.
                let outcome = s.fault(&store(at));
                let denied = matches!(outcome, FaultOutcome::Signal(Signal::SegvAccErr(_)));
                assert!(denied, "{outcome:?}");
            },
        );
    });
}

#[test]
fn a_fault_waits_for_the_rights_it_will_have() {
    on_every_machine(|machine| {
        waits(
            machine,
            |scene| {
                scene
                    .s
                    .protect(scene.at(2), 4 * scene.page, Prot::READ)
                    .unwrap()
            },
            |s, at| {
                let outcome = s.fault(&store(at));
                let denied = matches!(outcome, FaultOutcome::Signal(Signal::SegvAccErr(_)));
                assert!(denied, "{outcome:?}");
            },
        );
    });
}

#[test]
fn a_verb_waits_for_the_one_that_is_busy_with_its_range() {
    on_every_machine(|machine| {
        type Verb = fn(&Space, VirtAddr);
        let verbs: [Verb; 4] = [
            |s, at| s.unmap(at, 1).unwrap(),
            |s, at| {
                let area = MapRequest::anonymous(1, Prot::RW).hint(at);
                let area = area.with(MapFlags::FIXED_NOREPLACE);
                assert_eq!(s.map(&area), Ok(at));
            },
            |s, at| assert!(s.protect(at, 1, Prot::READ).is_err()),
            |s, at| {
                let child = s.fork().unwrap();
                assert_eq!(child.find(at), None);
            },
        ];
        for other in verbs {
            waits(
                machine,
                |scene| scene.s.unmap(scene.at(2), 4 * scene.page).unwrap(),
                other,
            );
        }
    });
}

/// Lets a protect of the pages behind the range of `verb` begin in the middle
/// of the flush of `verb`, and checks that `verb` ends only after it has
/// rewritten them: until then they are the protect's.
fn ends_after_a_protect_beside(
    machine: &Machine,
    verb: impl FnOnce(&Scene, usize),
    areas: &'static [usize],
) {
    let scene = Scene::new(machine);
    let (page, beside, first) = (scene.page, scene.at(6), scene.at(0).as_usize());
    let rewritten = Arc::new(AtomicBool::new(false));
    let other: Arc<std::sync::Mutex<Option<JoinHandle<()>>>> = Arc::default();
    let (is_rewritten, thread) = (rewritten.clone(), other.clone());
    scene.during(
        |scene| {
            verb(scene, 4 * page);
            let too_early = !rewritten.load(Ordering::SeqCst);
            let thread = other.lock().unwrap().take().expect("the verb flushed");
            join(thread);
            assert!(!too_early, "ended before the protect beside it");
            let found = scene.s.areas().map(|area| area.range);
            let found = found.filter(|range| range.start().as_usize() < 2 * FIRST);
            let pages: Vec<usize> = found.map(|range| range.pages()).collect();
            assert_eq!(pages, areas, "from {first:#x}");
        },
        move |s| {
            let s = s.clone();
            let (begun, is_begun) = std::sync::mpsc::channel();
            s.mm().platform().interrupt_flush(move || {
                begun.send(()).unwrap();
                // Long enough for the verb to end, if it does not wait.
                std::thread::sleep(Duration::from_millis(30));
                is_rewritten.store(true, Ordering::SeqCst);
            });
            *thread.lock().unwrap() = Some(std::thread::spawn(move || {
                on_cpu(1, || s.protect(beside, 2 * page, Prot::READ).unwrap());
            }));
            let begun = is_begun.recv_timeout(Duration::from_secs(60));
            begun.expect("the protect beside it begins");
        },
    );
}

#[test]
fn an_unmap_ends_after_the_protect_beside_it() {
    on_every_machine(|machine| {
        ends_after_a_protect_beside(
            machine,
            |scene, len| scene.s.unmap(scene.at(2), len).unwrap(),
            &[2, 2],
        );
    });
}

#[test]
fn a_fixed_map_ends_after_the_protect_beside_it() {
    on_every_machine(|machine| {
        ends_after_a_protect_beside(
            machine,
            |scene, len| {
                let new = MapRequest::anonymous(len, Prot::READ).fixed(scene.at(2));
                scene.s.map(&new).unwrap();
            },
            &[2, 4, 2],
        );
    });
}

/// Lets forks begin in the middle of the flush of an unmap, waits until they wait,
/// then does `meanwhile` as CPU 1; gives the children to `after` when all is over.
fn while_forks_wait(
    machine: &Machine,
    forks: &'static [usize],
    meanwhile: impl FnOnce(&Space) + Send + 'static,
    after: impl FnOnce(&Scene, Vec<Space>),
) {
    let scene = Scene::new(machine);
    let threads: Arc<std::sync::Mutex<Vec<JoinHandle<Space>>>> = Arc::default();
    let started = threads.clone();
    scene.during(
        |scene| {
            scene.s.unmap(scene.at(2), 4 * scene.page).unwrap();
            let threads: Vec<_> = threads.lock().unwrap().drain(..).collect();
            let children = threads.into_iter().map(join);
            after(scene, children.collect());
        },
        move |s| {
            let platform = s.mm().platform();
            for &cpu in forks {
                let turns = platform.relaxes();
                let parent = s.clone();
                let fork = move || on_cpu(cpu, || parent.fork().unwrap());
                started.lock().unwrap().push(std::thread::spawn(fork));
                until("the fork did not wait", || {
                    platform.relaxes() >= turns + 100
                });
            }
            meanwhile(s);
        },
    );
}

/// Otherwise threads that unmap one after the other could keep a fork waiting
/// for ever.
#[test]
fn while_a_fork_waits_an_unmap_elsewhere_keeps_the_lock() {
    on_every_machine(|machine| {
        let elsewhere = VirtAddr::new(2 * FIRST * machine.page_size());
        let page = machine.page_size();
        let met = Arc::new(AtomicUsize::new(0));
        let is_met = met.clone();
        let mapper: Arc<std::sync::Mutex<Option<JoinHandle<()>>>> = Arc::default();
        let started = mapper.clone();
        while_forks_wait(
            machine,
            &[2],
            move |s| {
                let other = s.clone();
                s.mm().platform().interrupt_flush(move || {
                    let through = Arc::new(AtomicBool::new(false));
                    let is_through = through.clone();
                    *started.lock().unwrap() = Some(std::thread::spawn(move || {
                        let area = MapRequest::anonymous(page, Prot::RW);
                        on_cpu(3, || other.map(&area).unwrap());
                        is_through.store(true, Ordering::SeqCst);
                    }));
                    std::thread::sleep(Duration::from_millis(30));
                    let locked = !through.load(Ordering::SeqCst);
                    is_met.store(1 + usize::from(locked), Ordering::SeqCst);
                });
                s.unmap(elsewhere, 4 * page).unwrap();
            },
            |_, children| {
                let mapper = mapper.lock().unwrap().take().expect("the unmap flushed");
                join(mapper);
                assert_eq!(children.len(), 1);
            },
        );
        assert_eq!(met.load(Ordering::SeqCst), 2, "zapped without the lock");
    });
}

#[test]
fn while_a_fork_waits_a_protect_waits_for_it() {
    on_every_machine(|machine| {
        let elsewhere = VirtAddr::new(2 * FIRST * machine.page_size());
        let page = machine.page_size();
        let protect: Arc<std::sync::Mutex<Option<JoinHandle<()>>>> = Arc::default();
        let started = protect.clone();
        while_forks_wait(
            machine,
            &[2],
            move |s| {
                let other = s.clone();
                *started.lock().unwrap() = Some(std::thread::spawn(move || {
                    on_cpu(3, || other.protect(elsewhere, page, Prot::READ).unwrap());
                }));
                std::thread::sleep(Duration::from_millis(30));
            },
            |scene, children| {
                let protect = protect.lock().unwrap().take().expect("it began");
                join(protect);
                let prot = |space: &Space| space.find(scene.elsewhere(0)).unwrap().prot();
                assert_eq!(prot(&scene.s), Prot::READ);
                assert_eq!(prot(&children[0]), Prot::RW, "the fork was first");
            },
        );
    });
}

/// What waits in the parent is none of the child's business.
#[test]
fn the_child_of_a_fork_that_another_fork_waits_beside_waits_for_nobody() {
    on_every_machine(|machine| {
        while_forks_wait(
            machine,
            &[2, 3],
            |_| {},
            |scene, children| {
                assert_eq!(children.len(), 2);
                let (elsewhere, page) = (scene.elsewhere(0), scene.page);
                for child in children {
                    let (done, is_done) = std::sync::mpsc::channel();
                    std::thread::spawn(move || {
                        on_cpu(2, || child.protect(elsewhere, page, Prot::READ).unwrap());
                        drop(child);
                        done.send(()).unwrap();
                    });
                    let end = is_done.recv_timeout(Duration::from_secs(20));
                    assert_eq!(end, Ok(()), "it waits for who is not there");
                }
            },
        );
    });
}
