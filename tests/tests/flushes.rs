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

use mm_core::addr::VirtAddr;
use mm_core::format::PageTableFormat;
use mm_core::platform::{CpuSet, Flush};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::space::{Advice, MapRequest};
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::world::{Space, World};

fn world(machine: &Machine) -> World {
    machine.world(2048, 4, 1)
}

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

/// The flush of one page.
fn one_page(w: &World, list: &[usize], at: usize) -> (CpuSet, Flush) {
    let flush = Flush {
        pages: pages(w, at, 1),
        tables: false,
        asid: Some(0),
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
fn verbs_flush_once_the_pages_that_lost_something_on_the_cpus_that_ran() {
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
                    asid: Some(0),
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
fn a_long_unmap_is_one_round_that_drops_the_space() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine);
        let (s, at) = touched(&w);
        let got = flushes(&w, || s.unmap(va(at), 60 * page).unwrap());
        let whole = Flush {
            pages: None,
            // Small tables are emptied by 60 pages already.
            tables: machine.format().entries(1) <= 60,
            asid: Some(0),
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

#[test]
fn fork_flushes_the_parent_once_and_copies_flush_one_page() {
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
        let got = flushes(&w, || w.poke(0, &s, at, 2).unwrap());
        let mut want = vec![one_page(&w, &[0, 2], at)];
        want.extend(forgets_the_gap(machine, &w, at));
        assert_eq!(got, want, "copy-on-write tells all who ran the space");
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
