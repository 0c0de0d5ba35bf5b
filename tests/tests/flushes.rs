//! What each verb flushes, exactly: how often, which pages, whom it tells.
//!
//! The shortcut "always flush everything" passes every other test.

use mm_core::addr::VirtAddr;
use mm_core::platform::{CpuSet, Flush};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::space::{Advice, MapRequest};
use mm_testkit::mmu::LongModeWalker;
use mm_testkit::world::{Space, World};
use mm_x86_64::{FourLevel, Paging};

type Format = Paging<FourLevel>;
type X64 = World<Format, LongModeWalker>;

const PAGE: usize = 4096;

fn world() -> X64 {
    World::new(Paging::new(FourLevel), LongModeWalker::new(4), 2048, 4, 1)
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
fn flushes(w: &X64, verb: impl FnOnce()) -> Vec<(CpuSet, Flush)> {
    w.platform().take_log();
    verb();
    w.platform().take_log().flushes
}

fn pages(first: usize, n: usize) -> Option<PageRange> {
    PageRange::with_len(va(first).vpn(12), n)
}

/// A space with 64 touched pages, loaded on CPUs 0 and 2, in the middle of a
/// table page so that no table becomes empty.
fn touched(w: &X64) -> (Space<Format>, usize) {
    let s = w.space();
    let at = 0x4000_0000;
    let area = MapRequest::anonymous(128 * PAGE, Prot::RW).fixed(va(at));
    s.map(&area).unwrap();
    for page in 0..64 {
        w.poke(0, &s, at + page * PAGE, 1).unwrap();
    }
    w.peek(2, &s, at).unwrap();
    (s, at)
}

#[test]
fn verbs_flush_once_the_pages_that_lost_something_on_the_cpus_that_ran() {
    let w = world();
    let (s, at) = touched(&w);
    let few = |first, n| {
        vec![(
            cpus(&[0, 2]),
            Flush {
                pages: pages(first, n),
                tables: false,
                asid: Some(0),
            },
        )]
    };
    let got = flushes(&w, || s.unmap(va(at), 2 * PAGE).unwrap());
    assert_eq!(got, few(at, 2), "unmap of two touched pages");
    let got = flushes(&w, || s.unmap(va(at + 100 * PAGE), 2 * PAGE).unwrap());
    assert_eq!(got, vec![], "unmap of pages that nobody touched");
    let got = flushes(&w, || {
        s.protect(va(at + 4 * PAGE), PAGE, Prot::READ).unwrap()
    });
    assert_eq!(got, few(at + 4 * PAGE, 1), "protect that takes a right");
    let got = flushes(&w, || s.protect(va(at + 4 * PAGE), PAGE, Prot::RW).unwrap());
    assert_eq!(
        got,
        vec![],
        "protect that gives a right: lazily, by a fault"
    );
    let got = flushes(&w, || {
        s.advise(va(at + 6 * PAGE), PAGE, Advice::DontNeed).unwrap()
    });
    assert_eq!(got, few(at + 6 * PAGE, 1), "DONTNEED");
    let got = flushes(&w, || {
        s.map(&MapRequest::anonymous(3 * PAGE, Prot::READ).fixed(va(at + 8 * PAGE)))
            .unwrap();
    });
    assert_eq!(
        got,
        few(at + 8 * PAGE, 3),
        "a fixed mapping over touched pages"
    );
    let got = flushes(&w, || {
        s.map(&MapRequest::anonymous(3 * PAGE, Prot::READ)).unwrap();
    });
    assert_eq!(got, vec![], "a mapping where nothing was");
    drop(s);
    w.assert_empty();
}

#[test]
fn a_long_unmap_is_one_round_that_drops_the_space() {
    let w = world();
    let (s, at) = touched(&w);
    let got = flushes(&w, || s.unmap(va(at), 60 * PAGE).unwrap());
    let whole = Flush {
        pages: None,
        tables: false,
        asid: Some(0),
    };
    assert_eq!(got, vec![(cpus(&[0, 2]), whole)]);
    let got = flushes(&w, || s.unmap(va(at), 128 * PAGE).unwrap());
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(
        got[0].1.tables,
        "the emptied table goes with the same round"
    );
    drop(s);
    w.assert_empty();
}

#[test]
fn fork_flushes_the_parent_once_and_copies_flush_one_page() {
    let w = world();
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
    let one = Flush {
        pages: pages(at, 1),
        tables: false,
        asid: Some(0),
    };
    assert_eq!(
        got,
        vec![(cpus(&[0, 2]), one)],
        "copy-on-write tells all who ran the space"
    );
    drop(child);
    w.peek(0, &s, at + PAGE).unwrap();
    let got = flushes(&w, || w.poke(0, &s, at + PAGE, 2).unwrap());
    let here = Flush {
        pages: pages(at + PAGE, 1),
        tables: false,
        asid: Some(0),
    };
    assert_eq!(
        got,
        vec![(cpus(&[0]), here)],
        "reuse only adds a right: this CPU alone"
    );
    drop(s);
    w.assert_empty();
}

#[test]
fn first_touches_flush_nothing() {
    let w = world();
    let (s, at) = touched(&w);
    assert_eq!(
        flushes(&w, || w.poke(0, &s, at + 70 * PAGE, 1).unwrap()),
        vec![]
    );
    assert_eq!(
        flushes(&w, || assert_eq!(w.peek(0, &s, at + 71 * PAGE), Ok(0))),
        vec![]
    );
    drop(s);
    w.assert_empty();
}
