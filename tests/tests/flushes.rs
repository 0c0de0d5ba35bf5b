//! What each verb flushes, exactly: how often, which pages, whom it tells.
//!
//! The shortcut "always flush everything" passes every other test.
//!
//! | | machines that | flush |
//! |---|---|---|
//! | a page that was not there | remember invalid entries | the page, on the CPU that faulted |
//! | the first page of a table | remember invalid entries | the same, and that there was no table |
//! | both | do not | nothing |
//! | copy-on-write | remember invalid entries | the page everywhere, then again here: the gap was there to be remembered |
//! | | do not | the page everywhere, once: also where breaking before making is demanded |
//! | an unmap that empties a table | | as without, and walk caches in the same round |
//!
//! Whom a flush tells, of four CPUs that all ran the space once
//! (`rounds_and_interrupts_of_each_verb`):
//!
//! | CPU | now | told |
//! |---|---|---|
//! | 0 | does the verb | itself |
//! | 1 | runs a kernel thread on the space's root | when tables are freed; else it catches up |
//! | 2 | runs the space | always: one interrupt a verb |
//! | 3 | runs another space | never: it catches up |

use mm_core::addr::VirtAddr;
use mm_core::format::PageTableFormat;
use mm_core::object::PagerFacts;
use mm_core::platform::{CpuSet, Flush};
use mm_core::prot::{Access, Prot};
use mm_core::range::PageRange;
use mm_core::space::{Advice, MapFlags, MapRequest};
use mm_core::stats::Counter;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::mmu::{Leaf, Mode, Refusal, Roots};
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{Space, World};
use std::sync::{Arc, Mutex};

fn world(machine: &Machine) -> World {
    machine.world(2048, 4, 1)
}

/// What a walk found.
type Met = Arc<Mutex<Option<Result<Leaf, Refusal>>>>;

fn va(addr: usize) -> VirtAddr {
    VirtAddr::new(addr)
}

fn cpus(list: &[usize]) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    for &cpu in list {
        set.insert(cpu);
    }
    set
}

/// The flushes that `verb` sent.
fn flushes(w: &World, verb: impl FnOnce()) -> Vec<(CpuSet, Flush)> {
    w.platform().take_log();
    verb();
    w.platform().take_log().flushes
}

fn pages(w: &World, first: usize, n: usize) -> Option<PageRange> {
    PageRange::with_len(va(first).vpn(w.page_shift()), n)
}

/// The tag of the space that CPU 0 runs.
fn asid(w: &World) -> Option<u16> {
    w.tlbs().contents(0).0.map(|loaded| loaded.asid)
}

/// The flush of one page.
fn one_page(w: &World, list: &[usize], at: usize) -> (CpuSet, Flush) {
    let flush = Flush {
        pages: pages(w, at, 1),
        tables: false,
        asid: asid(w),
    };
    (cpus(list), flush)
}

/// What CPU 0 flushes because it may remember that the page was not there.
fn forgets_the_gap(machine: &Machine, w: &World, at: usize) -> Vec<(CpuSet, Flush)> {
    let remembers = machine.format().caches_invalid();
    remembers
        .then(|| one_page(w, &[0], at))
        .into_iter()
        .collect()
}

/// A space with 64 touched pages, loaded on CPUs 0 and 2, in the middle of a
/// table page so that no table becomes empty.
fn touched(w: &World) -> (Space, usize) {
    let s = w.space();
    let page = w.page_size();
    let at = 0x40000 * page;
    let area = MapRequest::anonymous(128 * page, Prot::RW).fixed(va(at));
    s.map(&area).unwrap();
    for n in 0..64 {
        w.poke(0, &s, at + n * page, 1).unwrap();
    }
    w.peek(2, &s, at).unwrap();
    (s, at)
}

#[test]
fn lessons_52_56_verbs_flush_once_the_pages_that_lost_something_on_the_cpus_that_ran() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let (s, at) = touched(&w);
        let few = |first, n| {
            vec![(
                cpus(&[0, 2]),
                Flush {
                    pages: pages(&w, first, n),
                    tables: false,
                    asid: asid(&w),
                },
            )]
        };
        let got = flushes(&w, || s.unmap(va(at), 2 * page).unwrap());
        assert_eq!(got, few(at, 2), "unmap of two touched pages");
        let got = flushes(&w, || s.unmap(va(at + 100 * page), 2 * page).unwrap());
        assert_eq!(got, vec![], "unmap of pages that nobody touched");
        let got = flushes(&w, || {
            s.protect(va(at + 4 * page), page, Prot::READ).unwrap()
        });
        assert_eq!(got, few(at + 4 * page, 1), "protect that takes a right");
        let got = flushes(&w, || s.protect(va(at + 4 * page), page, Prot::RW).unwrap());
        assert_eq!(
            got,
            vec![],
            "protect that gives a right: lazily, by a fault"
        );
        let got = flushes(&w, || {
            s.advise(va(at + 6 * page), page, Advice::DontNeed).unwrap()
        });
        assert_eq!(got, few(at + 6 * page, 1), "DONTNEED");
        let got = flushes(&w, || {
            s.map(&MapRequest::anonymous(3 * page, Prot::READ).fixed(va(at + 8 * page)))
                .unwrap();
        });
        assert_eq!(
            got,
            few(at + 8 * page, 3),
            "a fixed mapping over touched pages"
        );
        let got = flushes(&w, || {
            s.map(&MapRequest::anonymous(3 * page, Prot::READ)).unwrap();
        });
        assert_eq!(got, vec![], "a mapping where nothing was");
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn lesson_53_a_long_unmap_is_one_round_that_drops_the_space() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let (s, at) = touched(&w);
        let got = flushes(&w, || s.unmap(va(at), 60 * page).unwrap());
        let whole = Flush {
            pages: None,
            // Small tables are emptied by 60 pages already.
            tables: machine.format().entries(1) <= 60,
            asid: asid(&w),
        };
        assert_eq!(got, vec![(cpus(&[0, 2]), whole)]);
        let got = flushes(&w, || s.unmap(va(at), 128 * page).unwrap());
        assert_eq!(got.len(), 1, "{got:?}");
        assert!(
            got[0].1.tables,
            "the emptied table goes with the same round"
        );
        drop(s);
        w.assert_empty();
    });
}

/// What a walk to a page of CPU 0's space meets in the middle of the next flush.
fn walk_at_the_next_flush(machine: &Machine, w: &World, at: usize) -> Met {
    let met = Met::default();
    let (mm, walker, page) = (w.mm(), machine.walker(), at >> w.page_shift());
    let root = w.tlbs().contents(0).0.expect("it runs").root;
    let roots = Roots {
        low: root.as_u64() << w.page_shift(),
        high: None,
    };
    let there = met.clone();
    w.platform().interrupt_flush(move || {
        let (ram, start) = (mm.platform().arena(), walker.start(roots, page).unwrap());
        let walk = walker.walk(ram, start, page, Access::Read, Mode::User, &mut vec![]);
        *there.lock().unwrap() = Some(walk);
    });
    met
}

#[test]
fn lesson_45_fork_flushes_the_parent_once_and_copies_flush_one_page() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let (s, at) = touched(&w);
        let mut child = None;
        let got = flushes(&w, || child = Some(s.fork().unwrap()));
        assert_eq!(got.len(), 1, "{got:?}");
        assert_eq!(got[0].0, cpus(&[0, 2]));
        let child = child.unwrap();
        assert_eq!(
            flushes(&w, || drop(child.fork().unwrap())),
            vec![],
            "nobody ran the child"
        );
        w.peek(0, &s, at).unwrap();
        let walk = walk_at_the_next_flush(machine, &w, at);
        let got = flushes(&w, || w.poke(0, &s, at, 2).unwrap());
        let mut want = vec![one_page(&w, &[0, 2], at)];
        want.extend(forgets_the_gap(machine, &w, at));
        assert_eq!(got, want, "copy-on-write tells all who ran the space");
        let walk = walk.lock().unwrap().take();
        assert_eq!(
            walk,
            Some(Err(Refusal::NotPresent(1))),
            "E11: break, flush, make"
        );
        drop(child);
        w.peek(0, &s, at + page).unwrap();
        let got = flushes(&w, || w.poke(0, &s, at + page, 2).unwrap());
        let here = one_page(&w, &[0], at + page);
        assert_eq!(got, vec![here], "reuse only adds a right: this CPU alone");
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn first_touches_flush_at_most_what_was_remembered_here() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let (s, at) = touched(&w);
        // Where tables are small, the page's is a new one.
        let is_new = machine.format().index_bits(1) < 7;
        let store = flushes(&w, || w.poke(0, &s, at + 70 * page, 1).unwrap());
        let mut want = forgets_the_gap(machine, &w, at + 70 * page);
        want.iter_mut().for_each(|(_, flush)| flush.tables = is_new);
        assert_eq!(store, want);
        let load = flushes(&w, || assert_eq!(w.peek(0, &s, at + 71 * page), Ok(0)));
        assert_eq!(load, forgets_the_gap(machine, &w, at + 71 * page));
        drop(s);
        w.assert_empty();
    });
}

/// A space whose pages all four CPUs remember, each in its state of the table
/// above; and the space that CPU 3 runs.
fn four_states(w: &World) -> (Space, Space, usize) {
    let (s, at) = touched(w);
    for cpu in 1..4 {
        for n in 0..64 {
            w.peek(cpu, &s, at + n * w.page_size()).unwrap();
        }
    }
    let other = w.space();
    w.lend(1);
    w.run(3, &other);
    (s, other, at)
}

#[test]
fn rounds_and_interrupts_of_each_verb() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let (s, other, at) = four_states(&w);
        let mut child = None;
        // Whether pages 10 to 50 hold all of a table.
        let entries = machine.format().entries(1);
        // A heap, a stack and a file, each with pages in one table that are left in it.
        let (heap, stack, shared) = (at + (page << 16), at + (page << 17), at + (page << 18));
        s.set_brk_start(va(heap));
        assert_eq!(s.brk(Some(va(heap + 4 * page))), va(heap + 4 * page));
        let grows = MapRequest::anonymous(page, Prot::RW).with(MapFlags::GROWS_DOWN);
        s.map(&grows.fixed(va(stack + 3 * page))).unwrap();
        let file = w.file(1, &vec![7; 4 * page]);
        let area = MapRequest::shared(&file, 0, 4 * page, Prot::RW);
        s.map(&area.fixed(va(shared))).unwrap();
        let memory = shared + 8 * page;
        let area = MapRequest::anonymous(4 * page, Prot::RW).with(MapFlags::SHARED);
        s.map(&area.fixed(va(memory))).unwrap();
        w.poke(0, &s, stack + 3 * page, 1).unwrap();
        for n in 0..4 {
            w.poke(0, &s, heap + n * page, 1).unwrap();
            w.poke(0, &s, shared + n * page, 1).unwrap();
            w.poke(0, &s, memory + n * page, 1).unwrap();
        }
        let tables = 10usize.next_multiple_of(entries) + entries <= 50;
        // Rounds, pages (none: the whole tag), other CPUs that are told.
        let mut table = Vec::new();
        let mut row = |name: &'static str, verb: &mut dyn FnMut()| {
            let sent = flushes(&w, verb);
            let pages: Vec<_> = sent
                .iter()
                .map(|(_, f)| f.pages.map(|p| p.pages()))
                .collect();
            let told = sent.iter().flat_map(|(cpus, _)| cpus.iter());
            let others: Vec<_> = told.filter(|&cpu| cpu != 0).collect();
            table.push((name, pages, others));
        };
        row("unmap of two", &mut || s.unmap(va(at), 2 * page).unwrap());
        row("protect", &mut || {
            s.protect(va(at + 2 * page), page, Prot::READ).unwrap();
        });
        row("DONTNEED", &mut || {
            s.advise(va(at + 3 * page), 3 * page, Advice::DontNeed)
                .unwrap();
        });
        row("fixed map", &mut || {
            let over = MapRequest::anonymous(page, Prot::RW).fixed(va(at + 6 * page));
            s.map(&over).unwrap();
        });
        row("brk back", &mut || {
            let end = va(heap + 2 * page);
            assert_eq!(s.brk(Some(end)), end);
        });
        row("brk back, untouched", &mut || {
            let end = va(heap + 9 * page);
            assert_eq!(s.brk(Some(end)), end);
            let end = va(heap + 2 * page);
            assert_eq!(s.brk(Some(end)), end);
        });
        row("stack growth", &mut || {
            w.poke(0, &s, stack + 2 * page, 1).unwrap();
        });
        row("REMOVE", &mut || {
            let hole = s.advise(va(memory + page), page, Advice::Remove);
            hole.unwrap();
        });
        row("REMOVE of nothing", &mut || {
            let hole = s.advise(va(memory + page), page, Advice::Remove);
            hole.unwrap();
        });
        row("rearrange", &mut || {
            s.rearrange(va(memory + 2 * page), page, 0).unwrap();
        });
        row("rearrange back, untouched", &mut || {
            let third = 2 * page as u64;
            s.rearrange(va(memory + 2 * page), page, third).unwrap();
        });
        row("populate", &mut || {
            let there = w.finish(0, memory + 2 * page, page, |at, len| {
                s.populate(va(at), len)
            });
            assert_eq!(there, Ok(page));
        });
        row("seal", &mut || s.seal(va(memory + 3 * page), page).unwrap());
        row("protect of a stack", &mut || {
            s.protect_stack(va(stack + 3 * page), page, Prot::READ)
                .unwrap();
        });
        row("truncation", &mut || w.resize(&file, 2 * page));
        row("truncation of nothing", &mut || w.resize(&file, 4 * page));
        row("fork", &mut || child = Some(s.fork().unwrap()));
        row("unmap of 40", &mut || {
            s.unmap(va(at + 10 * page), 40 * page).unwrap();
        });
        row("unmap of all", &mut || s.unmap(va(at), 128 * page).unwrap());
        let remembered = usize::from(machine.format().caches_invalid());
        let with_tables = |tables: bool| if tables { vec![1, 2] } else { vec![2] };
        let want = vec![
            ("unmap of two", vec![Some(2)], vec![2]),
            ("protect", vec![Some(1)], vec![2]),
            ("DONTNEED", vec![Some(3)], vec![2]),
            ("fixed map", vec![Some(1)], vec![2]),
            ("brk back", vec![Some(2)], vec![2]),
            ("brk back, untouched", vec![], vec![]),
            // As a first touch: where it was remembered that nothing was there.
            ("stack growth", vec![Some(1); remembered], vec![]),
            ("REMOVE", vec![Some(1)], vec![2]),
            ("REMOVE of nothing", vec![], vec![]),
            ("rearrange", vec![Some(1)], vec![2]),
            ("rearrange back, untouched", vec![], vec![]),
            ("populate", vec![Some(1); remembered], vec![]),
            ("seal", vec![], vec![]),
            ("protect of a stack", vec![Some(2)], vec![2]),
            ("truncation", vec![Some(2)], vec![2]),
            ("truncation of nothing", vec![], vec![]),
            ("fork", vec![None], vec![2]),
            ("unmap of 40", vec![None], with_tables(tables)),
            ("unmap of all", vec![None], with_tables(true)),
        ];
        assert_eq!(table, want);
        drop((s, other, child, file));
        w.assert_empty();
    });
}

/// A hole of many batches sends what a truncation sends, and counts what it drops. Out of a private
/// area, where copies stay, entries are taken one by one: a flush for each gather full of them.
#[test]
fn a_hole_of_any_size_is_one_round_for_a_shared_area() {
    on_every_machine(|machine| {
        const PAGES: usize = 100;
        let page = machine.page_size();
        let len = PAGES * page;
        let w = world(machine);
        let (s, other, _) = four_states(&w);
        let object = w.mm().new_object(PagerFacts::memory(len as u64)).unwrap();
        let shared = s.map(&MapRequest::shared(&object, 0, len, Prot::RW));
        let private = s.map(&MapRequest::private(&object, 0, len, Prot::RW));
        let (shared, private) = (shared.unwrap().as_usize(), private.unwrap().as_usize());
        let hole = || {
            let dropped = || w.mm().stats().get(Counter::CacheDrop);
            let before = dropped();
            let sent = flushes(&w, || object.make_hole(0, PAGES as u64).unwrap());
            assert_eq!(dropped() - before, PAGES);
            assert_eq!(object.object().cached_pages(), 0);
            sent
        };
        for at in (0..len).step_by(page) {
            w.poke(0, &s, shared + at, 1).unwrap();
        }
        let sent = hole();
        assert_eq!(sent.len(), 1, "{sent:?}");
        for at in (0..len).step_by(page) {
            w.poke(0, &s, shared + at, 1).unwrap();
            assert_eq!(w.peek(0, &s, private + at), Ok(1));
        }
        w.poke(0, &s, private + 7 * page, 2).unwrap();
        let sent = hole();
        assert!(sent.len() <= 1 + PAGES.div_ceil(32), "{sent:?}");
        for at in (0..len).step_by(page) {
            let copy = if at == 7 * page { 2 } else { 0 };
            assert_eq!(w.peek(0, &s, private + at), Ok(copy));
        }
        drop((s, other, object));
        w.assert_empty();
    });
}

/// F4: who was not told uses nothing of what was taken away. The TLBs scream
/// when a CPU begins to run what remembers a freed frame.
#[test]
fn f4_who_was_not_told_catches_up_before_a_user_runs() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let (s, other, at) = four_states(&w);
        let remembers = |cpu| {
            !w.tlbs()
                .remembered(cpu, va(at).vpn(w.page_shift()))
                .is_empty()
        };
        assert!(remembers(1), "a kernel thread drops nothing");
        assert_eq!(remembers(3), machine.walker().has_tags(), "tags keep it");
        // Back without a flush in between: nothing is dropped.
        w.run(1, &s);
        w.run(3, &s);
        assert_eq!(
            (remembers(1), remembers(3)),
            (true, machine.walker().has_tags())
        );
        w.lend(1);
        w.run(3, &other);
        s.unmap(va(at), page).unwrap();
        s.protect(va(at + page), page, Prot::READ).unwrap();
        for cpu in [1, 3] {
            assert_eq!(w.poke(cpu, &s, at + 5 * page, 1), Ok(()));
            assert!(!remembers(cpu), "what a flush took away is dropped");
            assert!(w.poke(cpu, &s, at + page, 1).is_err(), "a lost right");
        }
        w.check([&s, &other]).unwrap();
        drop((s, other));
        w.assert_empty();
    });
}

/// What another CPU has loaded, or this one of another machine, says nothing.
#[test]
fn a_cpu_loads_what_only_another_has_loaded() {
    on_every_machine(|machine| {
        let (w, other) = (machine.world(1024, 2, 1), machine.world(1024, 2, 1));
        let (s, same) = (w.space(), other.space());
        assert_eq!(s.id(), same.id(), "else nothing is tested");
        let mut loaded = None;
        let mut loads = Vec::new();
        for (space, cpu) in [(&s, 0), (&s, 0), (&s, 1), (&s, 1), (&same, 1), (&s, 1)] {
            let before = loads.len();
            let load = |_| loads.push(cpu);
            // SAFETY: no simulated CPU walks a root here: none was told of it.
            on_cpu(cpu, || unsafe { space.switch(&mut loaded, load) });
            assert!(loads.len() <= before + 1);
        }
        assert_eq!(loads, [0, 1, 1, 1]);
        drop(loaded);
        drop((s, same));
        w.assert_empty();
        other.assert_empty();
    });
}
