//! What a CPU remembers: areas and leaf tables where it found them, and pages
//! that it counted. It helps the next fault, and is never believed.

use mm_core::addr::VirtAddr;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::platform::PhysMemory;
use mm_core::prot::{Access, Prot};
use mm_core::space::{Advice, MapRequest};
use mm_core::stats::Counter;
use mm_core::sync::{Class, NoContext};
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::{move_to, on_cpu};
use mm_testkit::world::{Space, World};

/// The page where the areas begin.
const FIRST: usize = 0x40000;

/// What became of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done,
    Denied,
    NoArea,
}

/// One machine, and its pages by number.
struct Scene {
    w: World,
    size: usize,
}

impl Scene {
    fn new(machine: &Machine, cpus: usize) -> Self {
        Self {
            w: machine.world(2048, cpus, 1),
            size: machine.page_size(),
        }
    }

    fn va(&self, page: usize) -> VirtAddr {
        VirtAddr::new((FIRST + page) * self.size)
    }

    fn map(&self, s: &Space, page: usize, pages: usize, prot: Prot) {
        let area = MapRequest::anonymous(pages * self.size, prot);
        s.map(&area.fixed(self.va(page))).unwrap();
    }

    fn unmap(&self, s: &Space, page: usize, pages: usize) {
        s.unmap(self.va(page), pages * self.size).unwrap();
    }

    /// Faults on a page as a store would.
    fn store(&self, cpu: usize, s: &Space, page: usize) -> Outcome {
        let fault = Fault {
            addr: self.va(page),
            access: Access::Write,
            mode: Mode::User,
        };
        match on_cpu(cpu, || s.fault(&fault)) {
            FaultOutcome::Resolved(_) => Outcome::Done,
            FaultOutcome::Signal(Signal::SegvAccErr(_)) => Outcome::Denied,
            FaultOutcome::Signal(Signal::SegvMapErr(_)) => Outcome::NoArea,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// An area that CPUs remember, and its table.
    fn warm(&self, s: &Space, cpus: usize) {
        self.map(s, 0, 16, Prot::RW);
        for cpu in 0..cpus {
            // The first page of all is decided under the space lock.
            for page in 0..2 {
                assert_eq!(self.store(cpu, s, 2 * cpu + page), Outcome::Done);
            }
        }
        let before = self.remembered();
        assert_eq!(self.store(0, s, 15), Outcome::Done);
        assert_eq!(self.remembered(), before + 1, "CPU 0 remembers");
    }

    /// How often an area was found without a descent.
    fn remembered(&self) -> usize {
        self.w.mm().stats().get(Counter::FaultHint)
    }
}

#[test]
fn faults_after_the_first_find_their_area_without_a_descent() {
    on_every_machine(|machine| {
        let t = Scene::new(machine, 2);
        let s = t.w.space();
        t.map(&s, 0, 16, Prot::RW);
        let fast = || t.w.mm().stats().get(Counter::FaultFast);
        // The first looks twice: it finds out in the area that it needs the space lock.
        for page in 0..6 {
            assert_eq!(t.store(0, &s, page), Outcome::Done);
            assert_eq!((fast(), t.remembered()), (page, page + 1));
        }
        // Another CPU has to find out for itself.
        assert_eq!(t.store(1, &s, 6), Outcome::Done);
        assert_eq!(t.remembered(), 6);
        assert_eq!(t.store(1, &s, 7), Outcome::Done);
        assert_eq!(t.remembered(), 7);
        // Two areas beside one another, in turns: both are remembered soon.
        t.map(&s, 20, 8, Prot::READ);
        t.map(&s, 40, 8, Prot::RW);
        for page in [40, 41, 8, 42, 9] {
            assert_eq!(t.store(0, &s, page), Outcome::Done);
        }
        let before = t.remembered();
        for page in [43, 10, 44, 11, 45, 12] {
            assert_eq!(t.store(0, &s, page), Outcome::Done);
        }
        assert_eq!(t.remembered(), before + 6);
        drop(s);
        t.w.assert_empty();
    });
}

#[test]
fn an_area_that_went_or_changed_is_not_entered() {
    on_every_machine(|machine| {
        let t = Scene::new(machine, 2);
        let s = t.w.space();
        t.warm(&s, 2);
        let on_both = |page, want| {
            for cpu in 0..2 {
                assert_eq!(t.store(cpu, &s, page), want, "page {page} on CPU {cpu}");
            }
        };
        // Split: the middle goes, both halves stay.
        t.unmap(&s, 6, 2);
        on_both(6, Outcome::NoArea);
        on_both(5, Outcome::Done);
        on_both(8, Outcome::Done);
        // Merged again, by what fills the hole.
        t.map(&s, 6, 2, Prot::RW);
        on_both(7, Outcome::Done);
        on_both(8, Outcome::Done);
        // Replaced by one with other rights; unmapped; and back.
        t.map(&s, 0, 16, Prot::READ);
        on_both(4, Outcome::Denied);
        t.unmap(&s, 0, 16);
        on_both(4, Outcome::NoArea);
        t.map(&s, 0, 16, Prot::RW);
        on_both(4, Outcome::Done);
        s.protect(t.va(4), t.size, Prot::READ).unwrap();
        on_both(4, Outcome::Denied);
        on_both(5, Outcome::Done);
        s.validate().unwrap();
        drop(s);
        t.w.assert_empty();
    });
}

/// A new space gets the node of one that ended (exec), its areas get the nodes of
/// that one's areas, its tables the frames: what a CPU remembers of the one does
/// not lead into the other.
#[test]
fn a_space_is_not_taken_for_the_one_whose_node_it_has() {
    on_every_machine(|machine| {
        let t = Scene::new(machine, 1);
        let old = t.w.space();
        t.warm(&old, 1);
        let id = old.id();
        drop(old);
        let new = t.w.space();
        assert_eq!(new.id(), id, "the same node");
        assert_eq!(t.store(0, &new, 3), Outcome::NoArea);
        t.map(&new, 8, 8, Prot::RW);
        assert_eq!(t.store(0, &new, 3), Outcome::NoArea);
        for page in 8..16 {
            assert_eq!(t.store(0, &new, page), Outcome::Done);
        }
        // Two spaces at once, alike but for what they hold.
        let child = new.fork().unwrap();
        for (s, byte) in [(&new, 1), (&child, 2), (&new, 1), (&child, 2)] {
            let at = t.va(9).as_usize();
            t.w.poke(0, s, at, byte).unwrap();
            assert_eq!(t.w.peek(0, s, at), Ok(byte));
        }
        for s in [&new, &child] {
            s.validate().unwrap();
        }
        drop((new, child));
        t.w.assert_empty();
    });
}

/// The nodes' and the tables' frames are given back and used for something else.
#[test]
fn what_was_drained_is_not_followed() {
    on_every_machine(|machine| {
        let t = Scene::new(machine, 2);
        let s = t.w.space();
        t.warm(&s, 2);
        // With their slab and their table.
        t.unmap(&s, 0, 16);
        t.w.mm().drain();
        assert_eq!(t.w.mm().usage().vmas, 0);
        // All free frames are somebody's now, and full of what looks like anything.
        let frames = t.w.mm().frames();
        let mut taken = Vec::new();
        while let Ok(pfn) = frames.alloc(&NoContext, 0) {
            frames.memory().write(pfn, 0, &vec![1; t.size]);
            taken.push(pfn);
        }
        for cpu in 0..2 {
            assert_eq!(t.store(cpu, &s, 3), Outcome::NoArea);
            assert!(t.w.peek(cpu, &s, t.va(3).as_usize()).is_err());
        }
        for pfn in taken {
            frames.free(&NoContext, pfn).unwrap();
        }
        drop(s);
        t.w.assert_empty();
    });
}

/// A thread that moves to another CPU at any place where it may, in the middle of a
/// fault: the area is the right one, and pages are counted once.
#[test]
fn a_fault_may_move_to_another_cpu() {
    on_every_machine(|machine| {
        for nth in 1.. {
            let t = Scene::new(machine, 2);
            let (s, other) = (t.w.space(), t.w.space());
            t.warm(&s, 1);
            t.map(&other, 0, 16, Prot::READ);
            // CPU 1 is busy with another space at the same place.
            assert_eq!(t.store(1, &other, 3), Outcome::Denied);
            t.w.platform().preempt_nth(nth, || move_to(1));
            assert_eq!(t.store(0, &s, 3), Outcome::Done);
            let was_over = t.w.platform().preempt_no_more();
            let present = s.counts().anon.get();
            assert_eq!(present, 4, "moved at {nth}");
            s.validate().unwrap();
            other.validate().unwrap();
            drop((s, other));
            t.w.platform().assert_preemptible();
            t.w.assert_empty();
            if was_over {
                assert!(nth > 4, "a fault may be preempted somewhere");
                return;
            }
        }
    });
}

/// Each CPU keeps what it counted; who asks gets the sum, whoever counted, moved,
/// unmapped or forked, and however many spaces took turns.
#[test]
fn pages_are_counted_exactly_on_all_cpus() {
    on_every_machine(|machine| {
        let t = Scene::new(machine, 4);
        let spaces: Vec<_> = (0..2).map(|_| t.w.space()).collect();
        for s in &spaces {
            t.map(s, 0, 200, Prot::RW);
        }
        let stays = |s: &Space, want| assert_eq!((s.counts().anon.get(), want), (want, want));
        for page in 0..200 {
            // Runs of one space, and turns.
            let which = if page < 150 { page / 50 } else { page } % 2;
            assert_eq!(t.store(page % 4, &spaces[which], page), Outcome::Done);
        }
        stays(&spaces[0], 50 + 50 + 25);
        stays(&spaces[1], 50 + 25);
        // From a CPU that never counted one of them.
        on_cpu(3, || s_drop(&t, &spaces[0], 0, 10));
        stays(&spaces[0], 115);
        let child = on_cpu(2, || spaces[1].fork().unwrap());
        stays(&child, 75);
        for cpu in 0..4 {
            assert_eq!(t.store(cpu, &child, 50 + cpu), Outcome::Done, "a copy");
        }
        stays(&child, 75);
        for s in spaces.iter().chain([&child]) {
            s.validate().unwrap();
        }
        let charged = t.w.platform().charged();
        assert_eq!(charged, 115 + 75 + 75);
        drop((spaces, child));
        assert_eq!(t.w.platform().charged(), 0);
        t.w.assert_empty();
    });
}

fn s_drop(t: &Scene, s: &Space, page: usize, pages: usize) {
    s.advise(t.va(page), pages * t.size, Advice::DontNeed)
        .unwrap();
}

/// A space that ends leaves nothing with any CPU, though the next one has its node.
#[test]
fn counts_do_not_outlive_their_space() {
    on_every_machine(|machine| {
        let t = Scene::new(machine, 2);
        for _ in 0..3 {
            let s = t.w.space();
            t.warm(&s, 2);
            assert_eq!(s.counts().anon.get(), 5);
            // Counted on the one CPU, taken off by the other.
            assert_eq!(t.store(1, &s, 9), Outcome::Done);
            on_cpu(0, || drop(s));
        }
        t.w.assert_empty();
    });
}

/// What is shared with other CPUs is not locked by a fault whose CPU remembers.
#[test]
fn a_warm_fault_takes_its_cpus_locks_only() {
    on_every_machine(|machine| {
        let t = Scene::new(machine, 2);
        let s = t.w.space();
        t.warm(&s, 2);
        t.w.platform().log_locks();
        t.w.platform().take_log();
        assert_eq!(t.store(1, &s, 9), Outcome::Done);
        let locks = t.w.platform().take_log().locks;
        let classes: Vec<_> = locks.iter().map(|rank| rank.class).collect();
        let want = [
            Class::Vma,
            Class::Table,
            Class::FrameCache,
            Class::Table,
            Class::Present,
        ];
        assert_eq!(classes, want);
        assert_eq!((locks[2].key, locks[4].key), (1, 1), "of CPU 1");
        drop(s);
        t.w.assert_empty();
    });
}
