//! F6, lesson 54 (redox 4158d899, two CPUs that shoot at each other): a CPU that waits lets
//! flushes in, whatever it waits for.
//!
//! ```text
//!   CPU 0   takes X ──► flush: asks CPU 1, and waits for it ──────────────► gives X back
//!   CPU 1                            in the kernel ──► waits for X: relax: answers ──► has X
//! ```
//!
//! One test for each wait loop of the library that somebody may be in whom a flush waits for. The
//! kernel has interrupts off but in wait loops ([`Open::InWaitsOnly`]), so a loop without its
//! `relax` fails the flush: "CPU 0 asked [1] to flush".

use mm_core::addr::VirtAddr;
use mm_core::prot::Prot;
use mm_core::space::{MapRequest, RemapFlags};
use mm_testkit::interrupts::Open;
use mm_testkit::machine::{Machine, machines, on_every_machine};
use mm_testkit::patience::{Together, join, until};
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{Space, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Where the area of a test begins, and its pages: all in one leaf table.
const FIRST: usize = 0x40000;
const PAGES: usize = 8;

/// One in so many machines is enough, as none waits in another way; all in a long run.
const SHARE: usize = 6;

fn on_some_machines(test: impl Fn(&'static Machine)) {
    let all = std::env::var_os("MM_LONG").is_some();
    on_every_machine(|machine| {
        let place = machines().iter().position(|m| m.name == machine.name);
        if all || place.is_some_and(|place| place % SHARE == 0) {
            test(machine);
        } else {
            machine.skip("others are enough");
        }
    });
}

/// A space that runs on three CPUs, with an area whose pages are there and another one elsewhere.
#[derive(Clone)]
struct Scene {
    machine: &'static str,
    w: Arc<World>,
    s: Space,
    page: usize,
}

impl Scene {
    fn new(machine: &'static Machine) -> Self {
        let page = machine.page_size();
        let w = Arc::new(machine.world(2048, 3, 1));
        let s = w.space();
        for start in [FIRST, 2 * FIRST] {
            let area = MapRequest::anonymous(PAGES * page, Prot::RW);
            s.map(&area.fixed(VirtAddr::new(start * page))).unwrap();
        }
        let scene = Self {
            machine: machine.name,
            w,
            s,
            page,
        };
        for i in 0..PAGES {
            scene.store(0, i);
            let elsewhere = scene.elsewhere().as_usize() + i * page;
            scene.w.poke(0, &scene.s, elsewhere, 1).unwrap();
        }
        for cpu in 0..3 {
            scene.w.run(cpu, &scene.s);
        }
        scene.w.platform().with_interrupts(Open::InWaitsOnly);
        scene
    }

    fn at(&self, i: usize) -> VirtAddr {
        VirtAddr::new((FIRST + i) * self.page)
    }

    fn elsewhere(&self) -> VirtAddr {
        VirtAddr::new(2 * FIRST * self.page)
    }

    fn store(&self, cpu: usize, i: usize) {
        let addr = self.at(i).as_usize();
        self.w.poke(cpu, &self.s, addr, 1 + cpu as u8).unwrap();
    }

    fn protect(&self, i: usize, pages: usize) {
        let done = self.s.protect(self.at(i), pages * self.page, Prot::READ);
        done.unwrap();
    }

    fn unmap(&self, i: usize, pages: usize) {
        self.s.unmap(self.at(i), pages * self.page).unwrap();
    }

    /// Makes all pages shared with a child, so that each store copies one.
    fn share(&self) -> Space {
        on_cpu(0, || self.s.fork()).unwrap()
    }

    /// Runs `verb` on another CPU, in the kernel; returns when it is there.
    fn start(&self, cpu: usize, verb: impl FnOnce(&Self) + Send + 'static) -> JoinHandle<()> {
        let scene = self.clone();
        let inside = Arc::new(AtomicBool::new(false));
        let entered = inside.clone();
        let thread = std::thread::spawn(move || {
            let _together = Together::new(scene.machine);
            scene.w.verb(cpu, || {
                entered.store(true, Ordering::SeqCst);
                verb(&scene);
            });
        });
        until("a thread does not begin", || inside.load(Ordering::SeqCst));
        thread
    }

    /// Runs `verb` on another CPU until it waits for something.
    fn start_and_wait(
        &self,
        cpu: usize,
        verb: impl FnOnce(&Self) + Send + 'static,
    ) -> JoinHandle<()> {
        let before = self.w.platform().relaxes();
        let thread = self.start(cpu, verb);
        let waits = || self.w.platform().relaxes() > before;
        until("a verb does not wait", waits);
        thread
    }

    /// Lets CPU 0 run `holder`; in its next flush, before it asks anybody, `others` starts what
    /// other CPUs do. Ends when all have ended.
    fn cross(
        &self,
        holder: impl FnOnce(&Self),
        others: impl FnOnce(&Self) -> Vec<JoinHandle<()>> + Send + 'static,
    ) {
        let _together = Together::new(self.machine);
        let (send, started) = std::sync::mpsc::channel();
        let scene = self.clone();
        self.w.platform().interrupt_flush(move || {
            send.send(others(&scene)).unwrap();
        });
        self.w.verb(0, || holder(self));
        let threads = started.try_recv().expect("the holder flushed");
        threads.into_iter().for_each(join);
    }

    /// Checks that all is well, and that nothing is left.
    fn end(self, child: Option<Space>) {
        let spaces: Vec<&Space> = std::iter::once(&self.s).chain(&child).collect();
        if let Err(wrong) = self.w.check(spaces) {
            panic!("{wrong}");
        }
        drop((self.s, child));
        self.w.assert_empty();
    }
}

/// The holder copies a page on write under its table's lock; the other copies the next page.
#[test]
fn f6_lesson_54_who_waits_for_a_lock_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        let child = scene.share();
        scene.cross(
            |scene| scene.store(0, 0),
            |scene| vec![scene.start(1, |scene| scene.store(1, 1))],
        );
        scene.end(Some(child));
    });
}

/// The holder is inside the area, in the flush of a copy; the other marks the area.
#[test]
fn f6_lesson_54_who_waits_for_readers_of_an_area_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        let child = scene.share();
        scene.cross(
            |scene| scene.store(0, 0),
            |scene| vec![scene.start(1, |scene| scene.protect(0, PAGES))],
        );
        scene.end(Some(child));
    });
}

/// The holder has a table's lock, for which CPU 2 waits while it is pinned; the other waits until
/// nobody is pinned any more.
#[test]
fn f6_lesson_54_who_waits_for_a_grace_period_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        let child = scene.share();
        scene.cross(
            |scene| scene.store(0, 0),
            |scene| {
                vec![
                    scene.start_and_wait(2, |scene| scene.store(2, 1)),
                    scene.start(1, |scene| scene.w.mm().cx().synchronize()),
                ]
            },
        );
        scene.end(Some(child));
    });
}

/// The holder is busy with an area that it unmaps; the other protects it.
#[test]
fn f6_lesson_54_who_waits_for_a_busy_area_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        scene.cross(
            |scene| scene.unmap(0, PAGES),
            |scene| vec![scene.start(1, |scene| scene.unmap(0, PAGES))],
        );
        scene.end(None);
    });
}

/// The holder is busy, and CPU 2, which forks, waits for it and is put aside there; the other
/// would protect something elsewhere, but not before the fork.
#[test]
fn f6_lesson_54_who_waits_behind_a_fork_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        scene.cross(
            |scene| {
                scene.unmap(0, PAGES);
                scene.w.platform().go_on(2);
            },
            |scene| {
                scene.w.platform().put_aside(2);
                let fork = scene.start_and_wait(2, |scene| drop(scene.s.fork().unwrap()));
                let protect = scene.start(1, |scene| {
                    let done = scene.s.protect(scene.elsewhere(), scene.page, Prot::READ);
                    done.unwrap();
                });
                vec![fork, protect]
            },
        );
        scene.end(None);
    });
}

/// The holder is busy; the other forks.
#[test]
fn f6_lesson_54_a_fork_that_waits_for_who_is_busy_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        scene.cross(
            |scene| scene.unmap(0, PAGES),
            |scene| vec![scene.start(1, |scene| drop(scene.s.fork().unwrap()))],
        );
        scene.end(None);
    });
}

/// The holder protects what is beside the pages that the other unmaps: both zap at once, the
/// unmap is through first and may not end before the protect.
#[test]
fn f6_lesson_54_an_unmap_that_waits_for_who_is_busy_beside_it_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        let _together = Together::new(scene.machine);
        let (send, started) = std::sync::mpsc::channel();
        let other = scene.clone();
        // In the unmap's flush CPU 0 begins, and gets as far as to its own.
        scene.w.platform().interrupt_flush(move || {
            let platform = other.w.platform();
            let marked = Arc::new(AtomicBool::new(false));
            let is_marked = marked.clone();
            platform.take_log();
            platform.interrupt_flush(move || {
                marked.store(true, Ordering::SeqCst);
                until("an unmap does not flush", || {
                    platform.take_interrupts();
                    !platform.take_log().flushes.is_empty()
                });
            });
            let protect = other.start(0, |scene| scene.protect(PAGES / 2, PAGES / 2));
            until("a protect does not flush", || {
                is_marked.load(Ordering::SeqCst)
            });
            send.send(protect).unwrap();
        });
        scene.w.verb(1, || scene.unmap(0, PAGES / 2));
        join(started.try_recv().expect("the unmap flushed"));
        drop(_together);
        scene.end(None);
    });
}

/// The holder protects the area below which the other's new one comes.
#[test]
fn f6_lesson_54_a_map_that_waits_for_who_is_busy_beside_it_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        let len = PAGES * scene.page;
        let first = scene.s.map(&MapRequest::anonymous(len, Prot::RW)).unwrap();
        scene.w.poke(0, &scene.s, first.as_usize(), 1).unwrap();
        scene.cross(
            |scene| scene.s.protect(first, len, Prot::READ).unwrap(),
            move |scene| {
                vec![scene.start(1, move |scene| {
                    let next = MapRequest::anonymous(len, Prot::RW);
                    let next = scene.s.map(&next).unwrap().as_usize();
                    assert_eq!(next + len, first.as_usize(), "not beside the busy area");
                })]
            },
        );
        scene.end(None);
    });
}

/// The holder unmaps an area; the other moves a page there.
#[test]
fn f6_lesson_54_a_move_that_waits_for_who_is_busy_there_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        scene.cross(
            |scene| scene.unmap(0, PAGES),
            |scene| {
                vec![scene.start(1, |scene| {
                    let (from, page) = (scene.elsewhere(), scene.page);
                    let there = RemapFlags::MAY_MOVE | RemapFlags::FIXED;
                    let moved = scene.s.remap(from, page, page, there, Some(scene.at(0)));
                    assert_eq!(moved, Ok(scene.at(0)));
                })]
            },
        );
        scene.end(None);
    });
}

/// The holder protects an area; the other faults in it.
#[test]
fn f6_lesson_54_a_fault_that_waits_for_who_is_busy_lets_flushes_in() {
    on_some_machines(|machine| {
        let scene = Scene::new(machine);
        scene.s.unmap(scene.at(0), scene.page).unwrap();
        let fresh = MapRequest::anonymous(scene.page, Prot::RW).fixed(scene.at(0));
        scene.s.map(&fresh).unwrap();
        scene.cross(
            |scene| scene.protect(0, PAGES),
            |scene| {
                vec![scene.start(1, |scene| {
                    let loaded = scene.w.peek(1, &scene.s, scene.at(0).as_usize());
                    assert_eq!(loaded, Ok(0));
                })]
            },
        );
        scene.end(None);
    });
}
