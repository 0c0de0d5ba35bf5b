//! The rows of whole paths: a first write, a fork, a copy on write.
//!
//! The bytes of pages are left out of our numbers where the row says so: the
//! memory skips clearing and copying. No CPU has a space loaded, so nobody is
//! told of a flush; a kernel adds its trap and its invalidations. The host's
//! kernel is shown for orientation: it does all of that.

mod linux;

use crate::machine::{self, Bare};
use crate::measure::{Bench, Goal, Sample, contender, host, timed};
use mm_core::Mm;
use mm_core::addr::VirtAddr;
use mm_core::fault::{Fault, FaultOutcome, Mode};
use mm_core::platform::Platform;
use mm_core::prot::{Access, Prot};
use mm_core::space::{AddressSpace, MapRequest, SpaceLimits};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The contender that stands for this machine's speed.
pub const LOCKED: &str = "a locked add";
/// Pages touched in a round.
const PAGES: usize = 2048;
/// Where they are.
const BASE: usize = 0x4000_0000;

type Space = AddressSpace<'static, Bare>;

/// Measures the rows.
pub fn measure(bench: &mut Bench<'_>) {
    let mm = machine::boot();
    let pages = bench.size(PAGES, 256);
    let goal = Goal {
        text: "<= 100 ns without clearing: 15.6 locked adds (of 6.4 ns where the goal was set)",
        against: LOCKED,
        ratio: 100.0 / 6.4,
        instructions: None,
    };
    bench.row(
        "anonymous write fault",
        "fault",
        "host kernel, with trap and clearing",
        goal,
        vec![
            host("host kernel, with trap and clearing", || {
                linux::touch(pages)
            }),
            contender(LOCKED, locked_adds),
            contender("mm (clearing left out)", || {
                without_bytes(mm, || touch(mm, pages))
            }),
            contender("mm with clearing", || touch(mm, pages)),
        ],
    );
    let goal = Goal {
        text: "<= 1.1x a bare copy with one atomic count a page (8 ns of 7.2)",
        against: "limit",
        ratio: 8.0 / 7.2,
        instructions: None,
    };
    let parent = Entries::new(pages);
    let child = Entries::new(pages);
    let counts: Vec<_> = (0..pages).map(|_| AtomicU32::new(1)).collect();
    bench.row(
        "fork, per touched page",
        "page",
        "limit",
        goal,
        vec![
            contender("limit", || copy_counted(&parent, &child, &counts)),
            contender("mm (first fork)", || fork(mm, pages)),
            contender("mm (forked before)", || fork_again(mm, pages)),
            host("host kernel", || linux::fork(pages)),
        ],
    );
    let goal = Goal {
        text: "<= 150 ns without the copy: 23.4 locked adds (of 6.4 ns where the goal was set)",
        against: LOCKED,
        ratio: 150.0 / 6.4,
        instructions: None,
    };
    bench.row(
        "copy on write",
        "fault",
        "host kernel, with trap and copy",
        goal,
        vec![
            host("host kernel, with trap and copy", || linux::cow(pages)),
            contender(LOCKED, locked_adds),
            contender("mm (copy left out)", || {
                without_bytes(mm, || cow(mm, pages))
            }),
            contender("mm with copy", || cow(mm, pages)),
        ],
    );
}

fn without_bytes(mm: &'static Mm<Bare>, round: impl FnOnce() -> Sample) -> Sample {
    mm.platform().memory().skip_page_bytes(true);
    let sample = round();
    mm.platform().memory().skip_page_bytes(false);
    sample
}

/// Makes a space with one private area.
fn space(mm: &'static Mm<Bare>, pages: usize) -> Space {
    let limits = SpaceLimits::for_format(mm.platform().format());
    let space = Space::new(mm, limits).expect("a space");
    let request = MapRequest::anonymous(pages << 12, Prot::RW).fixed(VirtAddr::new(BASE));
    space.map(&request).expect("an area");
    space
}

fn write(space: &Space, page: usize) {
    let fault = Fault {
        addr: VirtAddr::new(BASE + (page << 12)),
        access: Access::Write,
        mode: Mode::User,
    };
    let outcome = space.fault(&fault);
    assert!(matches!(outcome, FaultOutcome::Resolved(_)), "a fault");
}

fn write_all(space: &Space, pages: usize) {
    for page in 0..pages {
        write(space, page);
    }
}

fn touch(mm: &'static Mm<Bare>, pages: usize) -> Sample {
    let space = space(mm, pages);
    // The first page brings the anon_vma and the tables above.
    write(&space, 0);
    timed(pages - 1, || {
        for page in 1..pages {
            write(&space, page);
        }
    })
}

fn fork(mm: &'static Mm<Bare>, pages: usize) -> Sample {
    let parent = space(mm, pages);
    write_all(&parent, pages);
    let mut child = None;
    timed(pages, || child = Some(parent.fork().expect("a child")))
}

/// A shell's second child: entries are write-protected already.
fn fork_again(mm: &'static Mm<Bare>, pages: usize) -> Sample {
    let parent = space(mm, pages);
    write_all(&parent, pages);
    drop(parent.fork().expect("a child"));
    let mut child = None;
    timed(pages, || child = Some(parent.fork().expect("a child")))
}

fn cow(mm: &'static Mm<Bare>, pages: usize) -> Sample {
    let parent = space(mm, pages);
    write_all(&parent, pages);
    let _child = parent.fork().expect("a child");
    timed(pages, || write_all(&parent, pages))
}

/// The unit that goals in nanoseconds are turned into.
fn locked_adds() -> Sample {
    let count = AtomicU32::new(0);
    timed(1024, || {
        for _ in 0..1024 {
            black_box(&count).fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// A stretch of entries that are writable again before each copy.
struct Entries(Vec<AtomicU64>);

impl Entries {
    fn new(pages: usize) -> Self {
        Self(
            (0..pages as u64)
                .map(|i| AtomicU64::new(i << 12 | 7))
                .collect(),
        )
    }
}

/// What no fork that counts references page by page can beat.
fn copy_counted(parent: &Entries, child: &Entries, counts: &[AtomicU32]) -> Sample {
    for entry in &parent.0 {
        entry.fetch_or(2, Ordering::Relaxed);
    }
    timed(counts.len(), || {
        for ((from, to), count) in parent.0.iter().zip(&child.0).zip(counts) {
            count.fetch_add(1, Ordering::Relaxed);
            let word = from.load(Ordering::Relaxed) & !2;
            from.store(word, Ordering::Relaxed);
            to.store(black_box(word), Ordering::Release);
        }
    })
}
