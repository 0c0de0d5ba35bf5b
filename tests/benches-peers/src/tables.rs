//! The page-table rows.
//!
//! All contenders map the same virtual pages. Frames are numbers without
//! memory behind them: what is measured are entries and tables, not the
//! counting of frames (that is in the rows of whole paths).

mod ours;
mod theirs;

use crate::machine;
use crate::measure::{Bench, Goal, Random, Sample, contender, timed};
use ours::Ours;
use std::cell::RefCell;
use std::hint::black_box;
use theirs::{Aarch64, Multiarch, Raw, X64};

/// One table's worth.
const RUN: usize = 512;
/// Tables in a round.
const TABLES: usize = 16;
/// Where the rows of 512 pages work.
const DENSE: usize = 0x1000_0000;
/// Where pages are mapped for `translate`.
const FULL: usize = 0x2000_0000;
/// Where single pages are mapped.
const SPARSE: usize = 0x3000_0000;
/// No multiple of a block's frames, so that nobody maps blocks.
const FRAME: usize = 0x10_0001;

/// What a row does to a table. Pages and frames are numbers.
trait Table {
    fn map(&mut self, page: usize, pages: usize, frame: usize);
    fn protect(&mut self, page: usize, pages: usize, rights: Rights);
    fn unmap(&mut self, page: usize, pages: usize);
    /// Returns the frame number of a mapped page.
    fn translate(&mut self, page: usize) -> usize;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    Read,
    ReadWrite,
}

/// Measures the rows.
pub fn measure(bench: &mut Bench<'_>) {
    let rows = [
        "map 512",
        "protect 512",
        "unmap 512",
        "unmap 510",
        "map 1 page",
        "translate",
    ];
    if !rows
        .iter()
        .any(|row| bench.wants(row) || row.contains("translate"))
    {
        return;
    }
    let mm = machine::boot();
    let cx = mm.cx();
    let raw = RefCell::new(Raw::new());
    let x64 = RefCell::new(X64::new());
    let multi = RefCell::new(Multiarch::new());
    let arm = RefCell::new(Aarch64::new());
    let live = RefCell::new(Ours::new(&cx, 1));
    let settled = RefCell::new(Ours::settled(&cx, 2));

    let goal = Goal {
        text: "<= 1.33x one plain store an entry, <= 5 instructions",
        against: "raw store",
        ratio: 0.40 / 0.30,
        instructions: Some(5.0),
    };
    bench.row(
        "map 512 contiguous",
        "page",
        "x86_64",
        goal,
        vec![
            contender("raw store", || map_512(&raw)),
            contender("x86_64", || map_512(&x64)),
            contender("page_table_multiarch", || map_512(&multi)),
            contender("aarch64-paging", || map_512(&arm)),
            contender("mm", || map_512(&live)),
        ],
    );

    let goal = Goal {
        text: "<= 2.9x a plain store (A/D settled)",
        against: "raw store",
        ratio: 0.8 / 0.28,
        instructions: None,
    };
    bench.row(
        "protect 512, A/D settled",
        "page",
        "x86_64",
        goal,
        vec![
            contender("raw store", || protect_512(&raw)),
            contender("x86_64", || protect_512(&x64)),
            contender("page_table_multiarch", || protect_512(&multi)),
            contender("aarch64-paging", || protect_512(&arm)),
            contender("mm", || protect_512(&settled)),
        ],
    );
    let goal = Goal {
        text: "<= 24x a plain store (A/D must be kept: a locked instruction a page)",
        against: "raw store",
        ratio: 6.8 / 0.28,
        instructions: None,
    };
    bench.row(
        "protect 512, A/D live",
        "page",
        "x86_64",
        goal,
        vec![
            contender("raw store", || protect_512(&raw)),
            contender("x86_64", || protect_512(&x64)),
            contender("mm", || protect_512(&live)),
        ],
    );

    let goal = Goal {
        text: "<= 3.0x a plain store (whole table detached)",
        against: "raw store",
        ratio: 0.8 / 0.27,
        instructions: None,
    };
    bench.row(
        "unmap 512, whole table",
        "page",
        "x86_64",
        goal,
        vec![
            contender("raw store", || unmap(&raw, 0)),
            contender("x86_64", || unmap(&x64, 0)),
            contender("page_table_multiarch", || unmap(&multi, 0)),
            contender("aarch64-paging", || unmap(&arm, 0)),
            contender("mm", || unmap(&live, 0)),
        ],
    );
    let goal = Goal {
        text: "<= 25x a plain store (A/D live: a swap a page)",
        against: "raw store",
        ratio: 6.8 / 0.27,
        instructions: None,
    };
    bench.row(
        "unmap 510 of a table, A/D live",
        "page",
        "x86_64",
        goal,
        vec![
            contender("raw store", || unmap(&raw, 1)),
            contender("x86_64", || unmap(&x64, 1)),
            contender("page_table_multiarch", || unmap(&multi, 1)),
            contender("mm", || unmap(&live, 1)),
            contender("mm (settled)", || unmap(&settled, 1)),
        ],
    );

    random_rows(bench, &raw, &x64, &multi, &arm, &live);
}

/// Single pages here and there.
fn random_rows<'a>(
    bench: &mut Bench<'_>,
    raw: &'a RefCell<Raw>,
    x64: &'a RefCell<X64>,
    multi: &'a RefCell<Multiarch>,
    arm: &'a RefCell<Aarch64>,
    ours: &'a RefCell<Ours<'_>>,
) {
    let tables = bench.size(512, 64);
    let count = bench.size(4096, 256);
    let mut random = Random::new(7);

    if bench.wants("map 1 page, random") {
        // One page of each table stays mapped, so that tables are there; they
        // fit in a second-level cache.
        let tables = 64;
        let mut pages: Vec<_> = (0..tables * RUN).filter(|p| p % RUN != 0).collect();
        random.shuffle(&mut pages);
        pages.truncate(count);
        let pages = &pages;
        sparse(raw, tables);
        sparse(x64, tables);
        sparse(multi, tables);
        sparse(arm, tables);
        sparse(ours, tables);
        let goal = Goal {
            text: "<= 1.15x a plain store into a known table",
            against: "raw store",
            ratio: 1.15,
            instructions: None,
        };
        bench.row(
            "map 1 page, random",
            "page",
            "x86_64",
            goal,
            vec![
                contender("raw store", || map_random(raw, pages)),
                contender("x86_64", || map_random(x64, pages)),
                contender("page_table_multiarch", || map_random(multi, pages)),
                contender("aarch64-paging", || map_random(arm, pages)),
                contender("mm", || map_random(ours, pages)),
            ],
        );
    }
    if bench.wants("translate, random") {
        full(x64, tables);
        full(multi, tables);
        full(arm, tables);
        full(ours, tables);
        let pages: Vec<_> = (0..count)
            .map(|_| FULL + random.below(tables * RUN))
            .collect();
        let pages = &pages;
        let goal = Goal {
            text: "<= 1.05x four dependent loads",
            against: "raw walk",
            ratio: 1.05,
            instructions: None,
        };
        bench.row(
            "translate, random",
            "page",
            "x86_64",
            goal,
            vec![
                contender("raw walk", || {
                    let table = x64.borrow();
                    timed(pages.len(), || {
                        for &page in pages {
                            black_box(table.raw_walk(page));
                        }
                    })
                }),
                contender("x86_64", || translate(x64, pages)),
                contender("page_table_multiarch", || translate(multi, pages)),
                contender("aarch64-paging", || translate(arm, pages)),
                contender("mm", || translate(ours, pages)),
            ],
        );
    }
}

fn each_table(mut f: impl FnMut(usize)) {
    for i in 0..TABLES {
        f(DENSE + i * RUN);
    }
}

fn map_512(table: &RefCell<impl Table>) -> Sample {
    let mut table = table.borrow_mut();
    let sample = timed(TABLES * RUN, || {
        each_table(|page| table.map(page, RUN, FRAME + page));
    });
    each_table(|page| table.unmap(page, RUN));
    sample
}

fn protect_512(table: &RefCell<impl Table>) -> Sample {
    let mut table = table.borrow_mut();
    each_table(|page| table.map(page, RUN, FRAME + page));
    let sample = timed(2 * TABLES * RUN, || {
        for rights in [Rights::Read, Rights::ReadWrite] {
            each_table(|page| table.protect(page, RUN, rights));
        }
    });
    each_table(|page| table.unmap(page, RUN));
    sample
}

/// Unmaps all of each table but `edge` pages at both ends.
fn unmap(table: &RefCell<impl Table>, edge: usize) -> Sample {
    let mut table = table.borrow_mut();
    each_table(|page| table.map(page, RUN, FRAME + page));
    let pages = RUN - 2 * edge;
    let sample = timed(TABLES * pages, || {
        each_table(|page| table.unmap(page + edge, pages));
    });
    if edge > 0 {
        each_table(|page| {
            table.unmap(page, edge);
            table.unmap(page + RUN - edge, edge);
        });
    }
    sample
}

fn sparse(table: &RefCell<impl Table>, tables: usize) {
    for i in 0..tables {
        table.borrow_mut().map(SPARSE + i * RUN, 1, FRAME);
    }
}

fn full(table: &RefCell<impl Table>, tables: usize) {
    for i in 0..tables {
        let page = FULL + i * RUN;
        table.borrow_mut().map(page, RUN, FRAME + page);
    }
}

fn map_random(table: &RefCell<impl Table>, pages: &[usize]) -> Sample {
    let mut table = table.borrow_mut();
    let sample = timed(pages.len(), || {
        for &page in pages {
            table.map(SPARSE + page, 1, FRAME + page);
        }
    });
    for &page in pages {
        table.unmap(SPARSE + page, 1);
    }
    sample
}

fn translate(table: &RefCell<impl Table>, pages: &[usize]) -> Sample {
    let mut table = table.borrow_mut();
    assert_eq!(
        table.translate(pages[0]),
        FRAME + pages[0],
        "a wrong translation"
    );
    timed(pages.len(), || {
        for &page in pages {
            black_box(table.translate(page));
        }
    })
}
