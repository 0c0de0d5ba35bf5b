//! Host threads as CPUs: races as they come, contents checked, everything
//! checked against everything when all are at rest.
//!
//! Each thread is one CPU and owns a stripe of the memory, whose bytes it
//! knows at any time; what the others do must not show there. Which thread
//! comes first is the host's choice, what each one does is the seed's.

use mm_core::addr::VirtAddr;
use mm_core::fault::Signal;
use mm_core::object::PagerFacts;
use mm_core::prot::Prot;
use mm_core::space::{Advice, MapFlags, MapRequest, Word32};
use mm_testkit::interrupts::Open;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::patience::{StopAtEnd, Together};
use mm_testkit::platform::on_cpu;
use mm_testkit::random::Random;
use mm_testkit::stripe::{Stripe, USUAL};
use mm_testkit::world::{File, Space, Stopped, World};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn world(machine: &Machine, cpus: usize, seed: u64) -> World {
    machine.world(4096, cpus, seed)
}

fn va(a: usize) -> VirtAddr {
    VirtAddr::new(a)
}

fn check(w: &World, spaces: &[&Space], seed: u64) {
    if let Err(wrong) = w.check(spaces.iter().copied()) {
        panic!("seed {seed}: {wrong}");
    }
}

/// Adds one to the word, as a futex would: through the kernel.
fn add_one(w: &World, cpu: usize, s: &Space, addr: usize) {
    let mut seen = 0;
    loop {
        let word = w.verb(cpu, || s.compare_exchange_u32(va(addr), seen, seen + 1));
        match word.expect("the word is there") {
            Word32::Value(value) if value == seen => return,
            Word32::Value(value) => seen = value,
            Word32::Wait(ticket) => w.verb(cpu, || w.serve(ticket)).unwrap(),
        }
    }
}

const STRIPE: usize = 24;

/// H1-H5, H10, H12, H15: everyone changes, faults and forks, each its stripe.
fn stripes(machine: &'static Machine, seed: u64, cpus: usize, rounds: usize, steps: usize) {
    let page = machine.page_size();
    let w = world(machine, cpus, seed);
    let s = w.space();
    let len = (cpus * STRIPE + 1) * page;
    let base = s.map(&MapRequest::anonymous(len, Prot::RW)).unwrap();
    let base = base.as_usize();
    let word = base + cpus * STRIPE * page;
    let rest = Barrier::new(cpus);
    let added = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (w, s, rest, added) = (&w, &s, &rest, &added);
            scope.spawn(move || {
                let _together = Together::new(machine.name);
                let mut dice = Random::new(seed * 16 + cpu as u64);
                let mut stripe = Stripe::new(base + cpu * STRIPE * page, page, STRIPE);
                for _ in 0..rounds {
                    for _ in 0..steps {
                        stripe.act(dice.pick(&USUAL), w, cpu, s, &mut dice);
                        if dice.chance(10) {
                            add_one(w, cpu, s, word);
                            added.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if rest.wait().is_leader() {
                        check(w, &[s], seed);
                    }
                    rest.wait();
                    stripe.look_at_all(w, cpu, s);
                    rest.wait();
                }
            });
        }
    });
    let mut sum = [0; 4];
    w.load(0, &s, word, &mut sum).unwrap();
    let sum = u64::from(u32::from_le_bytes(sum));
    assert_eq!(sum, added.load(Ordering::Relaxed), "seed {seed}: lost");
    drop(s);
    w.assert_empty();
}

#[test]
fn threads_change_fault_and_fork_each_its_own_stripe() {
    on_every_machine(|machine| {
        for seed in machine.seeds(1) {
            // On each machine another number of CPUs.
            stripes(machine, seed, 2 + seed as usize / 10 % 3, 4, 200);
        }
    });
}

/// E11, lesson 44: a reader never sees a page go back in time, though forks
/// make the writer's page a copy again and again.
#[test]
fn e11_lesson_44_a_reader_never_sees_the_page_from_before_the_copy() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let seed = 5;
        let w = world(machine, 3, seed);
        let s = w.space();
        let a = s.map(&MapRequest::anonymous(page, Prot::RW)).unwrap();
        let a = a.as_usize();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (w, s, stop) = (&w, &s, &stop);
            scope.spawn(move || {
                let _together = Together::new(machine.name);
                for n in 1u32..1000 {
                    w.store(0, s, a, &n.to_le_bytes()).unwrap();
                    let mut back = [0; 4];
                    w.load(0, s, a, &mut back).unwrap();
                    assert_eq!(u32::from_le_bytes(back), n, "seed {seed}: lost a store");
                }
                stop.store(true, Ordering::Release);
            });
            scope.spawn(move || {
                let _together = Together::new(machine.name);
                let mut last = 0;
                while !stop.load(Ordering::Acquire) {
                    let mut now = [0; 4];
                    w.load(1, s, a, &mut now).unwrap();
                    let now = u32::from_le_bytes(now);
                    assert!(now >= last, "seed {seed}: {now} after {last}");
                    last = now;
                }
            });
            scope.spawn(move || {
                let _together = Together::new(machine.name);
                while !stop.load(Ordering::Acquire) {
                    let child = on_cpu(2, || s.fork()).unwrap();
                    // The child's nth never changes again.
                    let mut first = [0; 4];
                    w.load(2, &child, a, &mut first).unwrap();
                    std::thread::yield_now();
                    let mut again = [0; 4];
                    w.load(2, &child, a, &mut again).unwrap();
                    assert_eq!(first, again, "seed {seed}: a store shows in the child");
                    on_cpu(2, || drop(child));
                }
            });
        });
        check(&w, &[&s], seed);
        drop(s);
        w.assert_empty();
    });
}

/// H3, E10: everyone writes to the same fresh or shared pages at once, in one
/// space and in its fork; each byte is kept, and each page exists once.
#[test]
fn e10_h3_lesson_39_simultaneous_first_and_copying_stores_keep_every_byte() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        const CPUS: usize = 4;
        const PAGES: usize = 40;
        for seed in machine.seeds(2) {
            let w = world(machine, CPUS, seed);
            let (parent, start) = (w.space(), Barrier::new(CPUS));
            let r = MapRequest::anonymous(PAGES * page, Prot::RW);
            let a = parent.map(&r).unwrap().as_usize();
            // Even pages are there before the fork, odd ones are not.
            for i in (0..PAGES).step_by(2) {
                w.poke(0, &parent, a + i * page + 4000, 77).unwrap();
            }
            let child = parent.fork().unwrap();
            std::thread::scope(|scope| {
                for cpu in 0..CPUS {
                    let (w, start) = (&w, &start);
                    let s = if cpu % 2 == 0 { &parent } else { &child };
                    scope.spawn(move || {
                        let _together = Together::new(machine.name);
                        start.wait();
                        for i in 0..PAGES {
                            w.poke(cpu, s, a + i * page + cpu, cpu as u8 + 1).unwrap();
                        }
                    });
                }
            });
            for (n, s) in [&parent, &child].into_iter().enumerate() {
                for i in 0..PAGES {
                    let mut got = [0; 4];
                    w.load(n, s, a + i * page, &mut got).unwrap();
                    let want = if n == 0 { [1, 0, 3, 0] } else { [0, 2, 0, 4] };
                    assert_eq!(got, want, "seed {seed}, page {i} of space {n}");
                    let old = if i % 2 == 0 { 77 } else { 0 };
                    assert_eq!(w.peek(n, s, a + i * page + 4000), Ok(old));
                }
                assert_eq!(s.counts().anon.get(), PAGES);
            }
            check(&w, &[&parent, &child], seed);
            drop((parent, child));
            w.assert_empty();
        }
    });
}

/// G5, lesson 60: a file is cut and grown while others load from it and store
/// to it, shared and private; what is loaded is the file's or zero, and
/// nothing of what was cut off stays.
#[test]
fn g5_lesson_60_truncation_against_faults() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        const PAGES: usize = 20;
        let seed = 8;
        let w = world(machine, 3, seed);
        let file: File = w.file(1, &vec![7; PAGES * page]);
        let (s, t) = (w.space(), w.space());
        let shared = MapRequest::shared(&file, 0, PAGES * page, Prot::RW);
        let private = MapRequest::private(&file, 0, PAGES * page, Prot::RW);
        let a = s.map(&shared).unwrap().as_usize();
        let b = t.map(&private).unwrap().as_usize();
        let stop = AtomicBool::new(false);
        let allowed = |got: Result<u8, Stopped>| match got {
            Ok(byte) => assert!([0, 7, 9].contains(&byte), "seed {seed}: {byte}"),
            Err(Stopped::Signal(Signal::BusAdrErr(_))) => {}
            Err(other) => panic!("seed {seed}: {other:?}"),
        };
        std::thread::scope(|scope| {
            for (cpu, s, at) in [(0, &s, a), (1, &t, b)] {
                let (w, stop) = (&w, &stop);
                scope.spawn(move || {
                    let _together = Together::new(machine.name);
                    let mut dice = Random::new(seed + cpu as u64);
                    while !stop.load(Ordering::Acquire) {
                        let at = at + dice.below((PAGES * page) as u64) as usize;
                        if dice.chance(50) {
                            allowed(w.poke(cpu, s, at, 9).map(|()| 9));
                        }
                        allowed(w.peek(cpu, s, at));
                    }
                });
            }
            let (w, stop, file) = (&w, &stop, &file);
            scope.spawn(move || {
                let _together = Together::new(machine.name);
                let mut dice = Random::new(seed);
                for _ in 0..150 {
                    let size = dice.below((PAGES * page) as u64) as usize;
                    on_cpu(2, || w.resize(file, size));
                    std::thread::yield_now();
                }
                stop.store(true, Ordering::Release);
            });
        });
        on_cpu(2, || w.resize(&file, 0));
        for (cpu, s, at) in [(0, &s, a), (1, &t, b)] {
            assert_eq!(s.counts().file.get() + s.counts().anon.get(), 0);
            let got = w.peek(cpu, s, at);
            assert!(matches!(got, Err(Stopped::Signal(Signal::BusAdrErr(_)))));
        }
        check(&w, &[&s, &t], seed);
        drop((s, t, file));
        w.assert_empty();
    });
}

/// F6, E13, lesson 54 (redox 4158d899, two CPUs that shoot at each other): threads of one space
/// and vfork children (clones of the handle) unmap, protect and copy pages beside each other's at
/// the same time as they exit. Each flush waits for the others, which answer where a kernel takes
/// interrupts: in wait loops only, or also wherever preemption is allowed.
#[test]
fn f6_lesson_54_e13_crossing_shootdowns_and_exits() {
    on_every_machine(|machine| {
        for (seed, open) in machine
            .seeds(2)
            .zip([Open::InWaitsOnly, Open::WherePreemptible])
        {
            crossing(machine, seed, open);
        }
    });
}

fn crossing(machine: &'static Machine, seed: u64, open: Open) {
    let page = machine.page_size();
    const CPUS: usize = 4;
    let w = world(machine, CPUS, seed);
    w.platform().with_interrupts(open);
    let s = w.space();
    // One page for each CPU, next to each other in one table: copied again after each fork.
    let copied = s.map(&MapRequest::anonymous(CPUS * page, Prot::RW));
    let copied = copied.unwrap().as_usize();
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (w, thread) = (&w, s.clone());
            scope.spawn(move || {
                let _together = Together::new(machine.name);
                let mut dice = Random::new(seed * 16 + cpu as u64);
                for round in 0..24u8 {
                    if round % 8 == cpu as u8 {
                        let child = w.verb(cpu, || thread.fork()).unwrap();
                        w.verb(cpu, || drop(child));
                    }
                    w.poke(cpu, &thread, copied + cpu * page, round).unwrap();
                    let pages = 1 + dice.below(40) as usize;
                    let r =
                        MapRequest::anonymous(pages * page, Prot::RW).with(MapFlags::NO_RESERVE);
                    let at = w.verb(cpu, || thread.map(&r)).unwrap().as_usize();
                    for i in 0..pages {
                        w.poke(cpu, &thread, at + i * page, cpu as u8).unwrap();
                    }
                    w.verb(cpu, || thread.protect(va(at), page, Prot::READ))
                        .unwrap();
                    assert_eq!(w.peek(cpu, &thread, at), Ok(cpu as u8));
                    w.verb(cpu, || thread.unmap(va(at), pages * page)).unwrap();
                    assert_eq!(w.peek(cpu, &thread, copied + cpu * page), Ok(round));
                }
                w.verb(cpu, || drop(thread));
            });
        }
    });
    assert_eq!(s.users(), 1);
    assert_eq!(s.areas().count(), 1);
    check(&w, &[&s], seed);
    drop(s);
    w.assert_empty();
}

/// A truncation finds the child's areas as soon as they are there, and frees a
/// table of the child that is still empty: fork makes it again. The moment is
/// short: tens of thousands of rounds meet it, these only now and then.
/// A hole is made again and again in memory that two spaces share. A page has one content
/// for both all along, the last that was stored or zero; and copies in private areas stay.
#[test]
fn a_page_is_gone_for_all_or_for_nobody() {
    on_every_machine(|machine| {
        const PAGES: usize = 20;
        let page = machine.page_size();
        let w = world(machine, 3, 9);
        let object = w.mm().new_object(PagerFacts::memory((PAGES * page) as u64));
        let object = object.unwrap();
        let (s, t) = (w.space(), w.space());
        let shared = MapRequest::shared(&object, 0, PAGES * page, Prot::RW);
        let a = s.map(&shared).unwrap().as_usize();
        let b = t.map(&shared).unwrap().as_usize();
        let private = MapRequest::private(&object, 0, PAGES * page, Prot::RW);
        let own = s.map(&private).unwrap().as_usize();
        w.poke(0, &s, own + 3 * page, 77).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _together = Together::new(machine.name);
                let mut dice = Random::new(9);
                while !stop.load(Ordering::Acquire) {
                    let first = dice.below(PAGES as u64) as usize;
                    let len = (PAGES - first).min(1 + dice.below(18) as usize) * page;
                    let at = va(a + first * page);
                    on_cpu(2, || s.advise(at, len, Advice::Remove)).unwrap();
                }
            });
            let _together = Together::new(machine.name);
            // A failure must end the other too.
            let _end = StopAtEnd(&stop);
            let mut dice = Random::new(10);
            for round in 0..1500 {
                let at = dice.below(PAGES as u64) as usize * page;
                let byte = 1 + dice.below(200) as u8;
                w.poke(0, &s, a + at, byte).unwrap();
                let mut last = byte;
                for look in 0..4 {
                    let got = if look % 2 == 0 {
                        w.peek(1, &t, b + at)
                    } else {
                        w.peek(0, &s, a + at)
                    };
                    let got = got.unwrap();
                    assert!(got == last || got == 0, "round {round}: {got} after {last}");
                    last = got;
                }
            }
        });
        on_cpu(2, || s.advise(va(a), PAGES * page, Advice::Remove)).unwrap();
        assert_eq!(object.object().cached_pages(), 0);
        assert_eq!((s.counts().file.get(), t.counts().file.get()), (0, 0));
        assert_eq!(w.peek(1, &s, own + 3 * page), Ok(77), "a private copy");
        check(&w, &[&s, &t], 9);
        drop((s, t, object));
        w.assert_empty();
    });
}

#[test]
fn forks_lose_no_page_to_truncations() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(2048, 2, 1);
        let (s, file) = (w.space(), w.file(1, &vec![1; page]));
        let at = 0x40000 * page;
        let cut = MapRequest::private(&file, 0, page, Prot::RW).fixed(va(at));
        s.map(&cut).unwrap();
        let own = MapRequest::anonymous(page, Prot::RW).fixed(va(at + 2 * page));
        s.map(&own).unwrap();
        w.poke(0, &s, at + 2 * page, 7).unwrap();
        let end = AtomicBool::new(false);
        let lost = std::thread::scope(|scope| {
            scope.spawn(|| {
                on_cpu(1, || {
                    while !end.load(Ordering::Relaxed) {
                        file.set_size(0).unwrap();
                        file.set_size(page as u64).unwrap();
                    }
                });
            });
            // A failure must end the other too.
            let _end = StopAtEnd(&end);
            let is_whole = |child: Space| child.counts().anon.get() == 1;
            (0..300).filter(|_| !is_whole(s.fork().unwrap())).count()
        });
        assert_eq!(lost, 0, "children without the page");
        drop((s, file));
        w.assert_empty();
    });
}
