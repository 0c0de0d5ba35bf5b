//! Every verb with every one of its allocations failing (C1-C4).
//!
//! Each case makes a state, lets the nth allocation of a verb fail, and
//! compares the world with what it was, for n = 1, 2, ... until the verb asks
//! for fewer. What is compared: the text of the maps, all counts, every entry
//! and its bytes, the use of every frame and pool, what is charged. After each
//! turn everything is dropped and nothing may be left.
//!
//! Verbs that keep what they did so far (faults and user copies: a page table,
//! a page of a file) are held to less: nothing leaks, no page of the program
//! changes, no count is wrong.
//!
//! A case says how many failures it must have met at least: a verb that
//! allocates and shows none fails the test.
//!
//! The same with transfers (reads of a file's pages) in place of allocations:
//! whoever started the one that fails hears of it, nothing else has changed, and
//! asking again reads the page.

use mm_core::addr::{Pfn, VirtAddr};
use mm_core::error::MmError;
use mm_core::fault::Signal;
use mm_core::format::{Entry, PageTableFormat, TableOwner};
use mm_core::object::{PagerFacts, Ticket};
use mm_core::page::{Kind, PageFlags};
use mm_core::platform::{PhysMemory, Platform};
use mm_core::prot::{MemType, Prot};
use mm_core::space::{
    AddressSpace, Advice, Backing, LockKind, MapFlags, MapRequest, RemapFlags, SpaceLimits,
};
use mm_core::table::PageTable;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{EIO, File, Space, Stopped, World};

/// The first page that is used: things lie across a border of tables.
const BASE: usize = 0x40000 - 32;

fn va(w: &World, n: usize) -> VirtAddr {
    VirtAddr::new((BASE + n) * w.page_size())
}

/// A process with some of everything, its sibling after a fork, and a file.
struct Scene {
    space: Space,
    sibling: Space,
    file: File,
    page: usize,
}

impl Scene {
    fn va(&self, n: usize) -> VirtAddr {
        VirtAddr::new((BASE + n) * self.page)
    }
}

/// ```text
///  pages  0..8    private anonymous, every other page written, shared with the
///                 sibling; 5 written again; 2..4 read-only
///         8..16   private file, 9 written, 10 read
///        16..24   shared file, 17 written, 18 read
///        24..40   private anonymous, never touched; 0x3000..0x3004 too, where
///                 no table is either
///        40..44   shared anonymous, 40 written
///        50..60   a stack
/// ```
fn scene(w: &World) -> Scene {
    let (key, page) = (1, w.page_size());
    let bytes: Vec<u8> = (0..12 * page).map(|i| (i / page + 3) as u8).collect();
    let file = w.file_again(key, &bytes);
    let space = w.space();
    let map = |r: MapRequest<'_, 'static, _>, at: usize| space.map(&r.fixed(va(w, at))).unwrap();
    map(MapRequest::anonymous(8 * page, Prot::RW), 0);
    map(MapRequest::private(&file, 0, 8 * page, Prot::RW), 8);
    map(MapRequest::shared(&file, 0, 8 * page, Prot::RW), 16);
    map(MapRequest::anonymous(16 * page, Prot::RW), 24);
    map(MapRequest::anonymous(4 * page, Prot::RW), 0x3000);
    let shared = MapRequest::anonymous(4 * page, Prot::RW).with(MapFlags::SHARED);
    map(shared, 40);
    let stack = MapRequest::anonymous(10 * page, Prot::RW).with(MapFlags::GROWS_DOWN);
    space.map(&stack.fixed(va(w, 0x1000))).unwrap();
    space.set_brk_start(va(w, 0x2000));
    space.brk(Some(va(w, 0x2004)));
    let store = |page: usize| {
        w.poke(0, &space, va(w, page).as_usize(), page as u8)
            .unwrap()
    };
    for n in [0, 2, 4, 6, 9, 17, 40, 0x1005, 0x2001] {
        store(n);
    }
    for n in [3, 7, 10, 18] {
        w.peek(0, &space, va(w, n).as_usize()).unwrap();
    }
    space.protect(va(w, 2), 2 * page, Prot::READ).unwrap();
    let sibling = space.fork().unwrap();
    store(4);
    store(5);
    Scene {
        space,
        sibling,
        file,
        page,
    }
}

/// What frames are used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Census {
    free: usize,
    tables: usize,
    anon: usize,
    cached: usize,
    slabs: usize,
    other: usize,
}

impl Census {
    fn take(w: &World) -> Self {
        w.mm().drain();
        let frames = w.mm().frames();
        let mut census = Self {
            free: frames.free_frames(),
            ..Self::default()
        };
        for pfn in (0..frames.stats().total as u64 + 64).map(Pfn::new) {
            let Some(page) = frames.page(pfn) else {
                continue;
            };
            match page.kind() {
                Kind::Table => census.tables += 1,
                Kind::User if page.has(PageFlags::ANON) => census.anon += 1,
                Kind::User => census.cached += 1,
                Kind::Slab => census.slabs += 1,
                // A tail may keep its kind when its block is freed.
                Kind::Free | Kind::FreeTail | Kind::Tail | Kind::Absent => {}
                _ => census.other += 1,
            }
        }
        census
    }

    /// Frames that somebody could lose.
    fn sum(&self) -> usize {
        self.free + self.tables + self.anon + self.cached + self.slabs
    }
}

/// All that a failing verb must leave alone.
#[derive(PartialEq, Debug)]
struct Picture {
    maps: Vec<String>,
    counts: Vec<usize>,
    /// Page, frame, rights and a byte, for each present entry.
    entries: Vec<(usize, u64, u8, u8)>,
    brk: VirtAddr,
    charged: i64,
    census: Census,
    usage: mm_core::Usage,
}

fn picture(w: &World, s: &Scene) -> Picture {
    let mut counts = Vec::new();
    let mut entries = Vec::new();
    for space in [&s.space, &s.sibling] {
        let c = space.counts();
        for count in [&c.total, &c.data, &c.locked, &c.areas] {
            counts.push(count.get());
        }
        counts.extend([c.anon.get(), c.file.get()]);
        w.run(1, space);
        let root = w.tlbs().contents(1).0.unwrap().root;
        let cx = w.mm().cx();
        let table = PageTable::view(&cx, root, TableOwner::User, 0);
        let format = w.platform().format();
        for area in space.areas() {
            for page in area.range.iter() {
                let Some((word, level)) = table.translate(page) else {
                    continue;
                };
                let (pfn, prot) = match format.decode(word, level) {
                    Entry::Leaf { pfn, attrs } => (pfn, attrs.prot.bits()),
                    Entry::NonPresent(np) => (np.pfn().unwrap(), 0),
                    other => panic!("{other:?}"),
                };
                let mut byte = [0];
                w.platform().memory().read(pfn, 0, &mut byte);
                entries.push((page.as_usize(), pfn.as_u64(), prot, byte[0]));
            }
        }
    }
    w.idle(1);
    let maps = [&s.space, &s.sibling].map(|s| s.maps().to_string());
    let census = Census::take(w);
    Picture {
        maps: maps.to_vec(),
        counts,
        entries,
        brk: s.space.brk(None),
        charged: w.platform().charged(),
        census,
        usage: w.mm().usage(),
    }
}

/// How much a failing verb may leave behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// Nothing.
    Nothing,
    /// Entries of the parent without WRITE: nobody can tell.
    Protected,
    /// Empty tables and pages of files: the next try needs them.
    Caches,
    /// The same, and a stack that has grown, as on Linux.
    Grown,
}

impl Picture {
    fn compare(mut self, mut before: Self, leaves: Leaves, what: &str) {
        match leaves {
            Leaves::Grown => {
                self.maps.swap_remove(0);
                before.maps.swap_remove(0);
                // Total, data, locked and areas; no page is there.
                self.counts.drain(..4);
                before.counts.drain(..4);
                return self.compare(before, Leaves::Caches, what);
            }
            Leaves::Nothing => {}
            Leaves::Protected => {
                for (now, old) in self.entries.iter().zip(&mut before.entries) {
                    if now.2 == old.2 & !Prot::WRITE.bits() {
                        old.2 = now.2;
                    }
                }
            }
            Leaves::Caches => {
                let (now, old) = (self.census, before.census);
                assert_eq!(now.sum(), old.sum(), "{what}: {now:?}, before {old:?}");
                assert_eq!(now.anon, old.anon, "{what}: a page is left");
                before.census = now;
                before.usage = self.usage;
            }
        }
        assert_eq!(self, before, "{what}");
    }
}

/// Runs one case; returns the number of failures. Each allocation fails once
/// alone, and once with all that follow: what a verb does without when it is
/// refused may need memory too.
fn case(
    w: &World,
    name: &str,
    leaves: Leaves,
    verb: impl Fn(&World, &Scene) -> Result<(), MmError>,
) -> u64 {
    let (mut refused, mut shrugged) = (0, 0);
    for n in 1.. {
        let mut most = 0;
        for count in [1, u64::MAX] {
            let s = scene(w);
            let before = picture(w, &s);
            w.platform().fail_from(n, count);
            let result = verb(w, &s);
            let asked = w.platform().fail_none();
            most = most.max(asked);
            match result {
                Err(MmError::OutOfMemory) => {
                    refused += 1;
                    let what = format!("{name}, allocation {n}, {count} times");
                    picture(w, &s).compare(before, leaves, &what);
                }
                Err(other) => panic!("{name}, allocation {n}: {other:?}"),
                // Batches and other comforts: done all the same.
                Ok(()) if asked >= n => shrugged += 1,
                Ok(()) => {}
            }
            if let Err(wrong) = w.check([&s.space, &s.sibling]) {
                panic!("{name}, allocation {n}: {wrong}");
            }
            drop(s);
            w.assert_empty();
        }
        if most < n {
            break;
        }
    }
    println!("{name:32} {refused:3} refused, {shrugged:3} done without");
    refused
}

fn stopped(r: Result<(), Stopped>) -> Result<(), MmError> {
    r.map_err(|stopped| match stopped {
        Stopped::OutOfMemory => MmError::OutOfMemory,
        other => panic!("{other:?}"),
    })
}

fn store(w: &World, s: &Scene, n: usize) -> Result<(), MmError> {
    stopped(w.poke(0, &s.space, s.va(n).as_usize(), 1))
}

fn load(w: &World, s: &Scene, n: usize) -> Result<(), MmError> {
    stopped(w.peek(0, &s.space, s.va(n).as_usize()).map(|_| ()))
}

fn remap(
    s: &Scene,
    n: usize,
    (old, new): (usize, usize),
    flags: RemapFlags,
    to: usize,
) -> Result<(), MmError> {
    let moved = s.space.remap(s.va(n), old, new, flags, Some(s.va(to)));
    moved.map(|_| ())
}

fn world(machine: &Machine) -> World {
    machine.world(512, 2, 0)
}

/// A verb that needs no memory is never refused; another one is, at least as often as known.
fn enough(name: &str, refused: u64, least: u64) {
    assert!(refused >= least, "{name}: {refused} failures only");
    assert!(least > 0 || refused == 0, "{name} needs memory: {refused}");
}

type Verb = fn(&World, &Scene) -> Result<(), MmError>;

#[test]
fn c1_c2_c4_every_edit_with_every_failing_allocation() {
    on_every_machine(|machine| {
        let w = world(machine);
        let cases: &[(&str, u64, Verb)] = &[
            ("map anonymous", 1, |_, s| {
                let r = MapRequest::anonymous(3 * s.page, Prot::READ);
                s.space.map(&r).map(|_| ())
            }),
            ("map next to its like", 0, |_, s| {
                let r = MapRequest::anonymous(s.page, Prot::RW).with(MapFlags::FIXED_NOREPLACE);
                s.space.map(&r.hint(s.va(0x3004))).map(|_| ())
            }),
            ("map shared anonymous", 2, |_, s| {
                let r = MapRequest::anonymous(3 * s.page, Prot::RW).with(MapFlags::SHARED);
                s.space.map(&r).map(|_| ())
            }),
            ("map file", 1, |_, s| {
                let r = MapRequest::shared(&s.file, 0, s.page, Prot::READ);
                s.space.map(&r).map(|_| ())
            }),
            ("map device", 3, |w, s| {
                // At least two tables.
                let pages = 2 * w.platform().format().entries(1);
                let mut r = MapRequest::anonymous(pages * s.page, Prot::RW);
                r.backing = Backing::Device {
                    pfn: Pfn::new(0x20000),
                    mem: MemType::Uncached,
                };
                s.space.map(&r.with(MapFlags::SHARED)).map(|_| ())
            }),
            // The only pages of their table, which would go with them.
            ("map device over the heap", 2, |_, s| {
                let r = MapRequest::anonymous(4 * s.page, Prot::RW).fixed(s.va(0x2000));
                let backing = Backing::Device {
                    pfn: Pfn::new(0x20000),
                    mem: MemType::Uncached,
                };
                s.space.map(&MapRequest { backing, ..r }).map(|_| ())
            }),
            ("map fixed over several areas", 1, |_, s| {
                let r = MapRequest::anonymous(20 * s.page, Prot::RX).fixed(s.va(1));
                s.space.map(&r).map(|_| ())
            }),
            ("map fixed inside one area", 3, |_, s| {
                let r = MapRequest::private(&s.file, 0, s.page, Prot::RX).fixed(s.va(5));
                s.space.map(&r).map(|_| ())
            }),
            ("unmap inside one area", 2, |_, s| {
                s.space.unmap(s.va(5), s.page)
            }),
            ("protect inside one area", 4, |_, s| {
                s.space.protect(s.va(5), s.page, Prot::READ)
            }),
            ("protect over several areas", 1, |_, s| {
                s.space.protect(s.va(1), 30 * s.page, Prot::READ)
            }),
            ("advise inside one area", 2, |_, s| {
                s.space.advise(s.va(5), 2 * s.page, Advice::DontFork)
            }),
            ("advise over several areas", 2, |_, s| {
                s.space.advise(s.va(5), 15 * s.page, Advice::Random)
            }),
            ("lock inside one area", 2, |_, s| {
                s.space.lock(s.va(5), 2 * s.page, LockKind::OnFault)
            }),
            ("lock over several areas", 2, |_, s| {
                s.space.lock(s.va(5), 15 * s.page, LockKind::Now)
            }),
            ("lock all", 0, |_, s| {
                s.space
                    .lock_all(Some(LockKind::Now), Some(LockKind::OnFault))
            }),
            ("seal inside one area", 2, |_, s| {
                s.space.seal(s.va(5), 2 * s.page)
            }),
            ("seal over several areas", 6, |_, s| {
                s.space.seal(s.va(5), 15 * s.page)
            }),
            ("rearrange inside one area", 3, |_, s| {
                s.space.rearrange(s.va(18), 2 * s.page, 0)
            }),
            ("rearrange a whole area", 1, |_, s| {
                s.space.rearrange(s.va(16), 8 * s.page, s.page as u64)
            }),
            ("protect a stack from its start", 4, |_, s| {
                s.space.protect_stack(s.va(0x1005), s.page, Prot::READ)
            }),
            ("remap, longer where it is", 0, |_, s| {
                let grown = (4 * s.page, 6 * s.page);
                remap(s, 0x3000, grown, RemapFlags::empty(), 0)
            }),
            ("remap, shorter from within", 2, |_, s| {
                remap(s, 4, (3 * s.page, s.page), RemapFlags::empty(), 0)
            }),
            // Both nodes and their chains, and tables on all levels.
            ("remap to another place", 6, |_, s| {
                let fixed = RemapFlags::MAY_MOVE | RemapFlags::FIXED;
                remap(s, 5, (2 * s.page, 3 * s.page), fixed, 0x9000)
            }),
            ("remap over a border of tables", 2, |w, s| {
                let fixed = RemapFlags::MAY_MOVE | RemapFlags::FIXED;
                let border = 0x9000usize.next_multiple_of(w.platform().format().entries(1));
                // The scene begins 32 pages before one.
                remap(s, 4, (4 * s.page, 4 * s.page), fixed, border + 32 - 2)
            }),
            ("remap over several areas", 3, |_, s| {
                let fixed = RemapFlags::MAY_MOVE | RemapFlags::FIXED;
                remap(s, 0x2000, (4 * s.page, 20 * s.page), fixed, 1)
            }),
            ("remap a shared area once more", 1, |_, s| {
                remap(s, 16, (0, 8 * s.page), RemapFlags::MAY_MOVE, 0)
            }),
            ("remap and leave the area", 5, |_, s| {
                let leave = RemapFlags::MAY_MOVE | RemapFlags::DONT_UNMAP;
                remap(s, 4, (4 * s.page, 4 * s.page), leave, 0x9000)
            }),
            ("brk", 0, |_, s| {
                let end = s.space.brk(Some(s.va(0x2100)));
                if end == s.va(0x2100) {
                    Ok(())
                } else {
                    Err(MmError::OutOfMemory)
                }
            }),
            ("brk back inside the heap", 0, |_, s| {
                let end = s.space.brk(Some(s.va(0x2002)));
                if end == s.va(0x2002) {
                    Ok(())
                } else {
                    Err(MmError::OutOfMemory)
                }
            }),
            ("new space", 2, |w, _| {
                let limits = SpaceLimits::for_format(w.platform().format());
                AddressSpace::new(w.mm(), limits).map(drop)
            }),
            ("new object", 1, |w, _| {
                w.mm().new_object(PagerFacts::memory(5)).map(drop)
            }),
        ];
        for (name, least, verb) in cases {
            let refused = case(&w, name, Leaves::Nothing, verb);
            enough(name, refused, *least);
        }
    });
}

#[test]
fn c3_lessons_38_46_fork_with_every_failing_allocation() {
    on_every_machine(|machine| {
        let w = world(machine);
        let refused = case(&w, "fork", Leaves::Protected, |_, s| {
            s.space.fork().map(drop)
        });
        assert!(refused >= 15, "{refused} failures only");
        let refused = case(&w, "fork of the child", Leaves::Protected, |_, s| {
            s.sibling.fork().map(drop)
        });
        assert!(refused >= 15, "{refused} failures only");
    });
}

#[test]
fn c4_unmapping_whole_areas_and_dropping_pages_needs_no_memory() {
    on_every_machine(|machine| {
        let w = world(machine);
        let cases: &[(&str, Verb)] = &[
            ("unmap whole areas", |_, s| {
                s.space.unmap(s.va(0), 50 * s.page)
            }),
            ("unmap an edge", |_, s| s.space.unmap(s.va(7), 3 * s.page)),
            ("unmap everything", |w, s| {
                let end = w.platform().format().user_end();
                s.space.unmap(VirtAddr::new(0), end.as_usize() * s.page)
            }),
            ("drop pages", |_, s| {
                s.space.advise(s.va(0), 44 * s.page, Advice::DontNeed)
            }),
            ("remove pages of shared memory", |_, s| {
                s.space.advise(s.va(40), 4 * s.page, Advice::Remove)
            }),
            ("seal whole areas", |_, s| {
                s.space.seal(s.va(8), 16 * s.page)
            }),
            ("protect a whole stack", |_, s| {
                s.space.protect_stack(s.va(0x1009), s.page, Prot::READ)
            }),
            ("protect whole areas", |_, s| {
                s.space.protect(s.va(8), 16 * s.page, Prot::READ)
            }),
            ("brk to its start", |_, s| {
                assert_eq!(s.space.brk(Some(s.va(0x2000))), s.va(0x2000));
                Ok(())
            }),
        ];
        for (name, verb) in cases {
            assert_eq!(case(&w, name, Leaves::Nothing, verb), 0, "{name}");
        }
        // All at once: not a single frame is to be had.
        let s = scene(&w);
        w.platform().fail_from(1, u64::MAX);
        s.space.unmap(s.va(0), 50 * s.page).unwrap();
        drop(s);
        w.platform().fail_none();
        w.assert_empty();
    });
}

#[test]
fn every_fault_with_every_failing_allocation() {
    on_every_machine(|machine| {
        let w = world(machine);
        let cases: &[(&str, u64, Verb)] = &[
            ("load from fresh memory", 0, |w, s| load(w, s, 25)),
            ("load behind a new table", 1, |w, s| load(w, s, 0x3001)),
            ("store to fresh memory", 3, |w, s| store(w, s, 25)),
            ("store behind new tables", 4, |w, s| store(w, s, 0x3001)),
            ("store to the zero page", 1, |w, s| store(w, s, 7)),
            ("store to a shared page", 1, |w, s| store(w, s, 0)),
            ("load from a file", 1, |w, s| load(w, s, 12)),
            ("store to a private file", 2, |w, s| store(w, s, 12)),
            ("store to a shared file", 1, |w, s| store(w, s, 20)),
            ("store to shared memory", 1, |w, s| store(w, s, 41)),
            ("populate", 3, |w, s| {
                let got = w.finish(0, s.va(26).as_usize(), s.page, |at, len| {
                    s.space.populate(VirtAddr::new(at), len)
                });
                got.map(drop).map_err(|_| MmError::OutOfMemory)
            }),
        ];
        for (name, least, verb) in cases {
            let refused = case(&w, name, Leaves::Caches, verb);
            enough(name, refused, *least);
        }
        let grow = |w: &World, s: &Scene| store(w, s, 0xff0);
        let refused = case(&w, "store below the stack", Leaves::Grown, grow);
        assert!(refused >= 1, "{refused} failures only");
    });
}

#[test]
fn every_copy_with_every_failing_allocation() {
    on_every_machine(|machine| {
        let w = world(machine);
        let cases: &[(&str, u64, Verb)] = &[
            ("copy in", 3, |_, s| s.space.write(s.va(26), b"x").map(drop)),
            ("copy in to a shared page", 1, |_, s| {
                s.space.write(s.va(0), b"x").map(drop)
            }),
            ("copy out", 1, |_, s| {
                s.space.read(s.va(0x3001), &mut [0; 9]).map(drop)
            }),
            ("exchange a word", 3, |_, s| {
                on_cpu(0, || s.space.compare_exchange_u32(s.va(26), 0, 1)).map(drop)
            }),
            ("write to a new page of a file", 1, |_, s| {
                match s.file.write(30 * s.page as u64, &vec![1; s.page]).wait {
                    Some(Ticket::Memory(_)) => Err(MmError::OutOfMemory),
                    _ => Ok(()),
                }
            }),
            ("truncate", 0, |w, s| {
                w.resize(&s.file, s.page);
                Ok(())
            }),
        ];
        for (name, least, verb) in cases {
            let refused = case(&w, name, Leaves::Caches, verb);
            enough(name, refused, *least);
        }
    });
}

/// What may be refused by a bound of the kernel's is refused in the same way:
/// the charge for user memory.
#[test]
fn c1_a_refused_charge_changes_nothing() {
    on_every_machine(|machine| {
        let w = world(machine);
        let s = scene(&w);
        w.platform().set_charge_limit(w.platform().charged());
        for verb in [
            |w: &World, s: &Scene| store(w, s, 0),
            |w: &World, s: &Scene| store(w, s, 7),
            |w: &World, s: &Scene| store(w, s, 12),
            |_: &World, s: &Scene| s.space.fork().map(drop),
        ] {
            // What the first look brings in stays.
            assert_eq!(verb(&w, &s), Err(MmError::OutOfMemory));
            let before = picture(&w, &s);
            assert_eq!(verb(&w, &s), Err(MmError::OutOfMemory));
            picture(&w, &s).compare(before, Leaves::Protected, "charge");
        }
        w.platform().set_charge_limit(i64::MAX);
        store(&w, &s, 0).unwrap();
        drop(s);
        w.assert_empty();
    });
}

/// Runs a verb with each of its transfers failing, then once more without; `pages` of it need
/// a read. `report` is what the verb answers when `n` pages were there before the failure.
fn failing_transfers<T: PartialEq + std::fmt::Debug>(
    w: &World,
    name: &str,
    pages: u64,
    verb: impl Fn(&World, &Scene) -> T,
    report: impl Fn(&Scene, u64) -> T,
    good: impl Fn(&Scene) -> T,
) {
    for n in 1.. {
        let s = scene(w);
        let before = picture(w, &s);
        let cached = s.file.object().cached_pages() as u64;
        w.platform().fail_transfer(n);
        let result = verb(w, &s);
        let transfers = w.platform().fail_no_transfer();
        if transfers < n {
            assert_eq!(result, good(&s), "{name}");
            assert_eq!(n - 1, pages, "{name}: reads");
            drop(s);
            w.assert_empty();
            return;
        }
        assert_eq!(transfers, n, "{name}: nothing is read after a failure");
        assert_eq!(result, report(&s, n - 1), "{name}, transfer {n}");
        let now = s.file.object().cached_pages() as u64;
        assert_eq!(
            now,
            cached + n - 1,
            "{name}, transfer {n}: the page is forgotten"
        );
        if n == 1 {
            picture(w, &s).compare(before, Leaves::Caches, name);
        }
        if let Err(wrong) = w.check([&s.space, &s.sibling]) {
            panic!("{name}, transfer {n}: {wrong}");
        }
        // Who asks again starts anew, and gets the page.
        assert_eq!(
            verb(w, &s),
            good(&s),
            "{name}, after transfer {n} had failed"
        );
        drop(s);
        w.assert_empty();
    }
}

#[test]
fn every_access_with_every_failing_transfer() {
    on_every_machine(|machine| {
        let w = world(machine);
        type Touch = fn(&World, &Scene, usize) -> Result<(), Stopped>;
        let load: Touch = |w, s, at| w.peek(0, &s.space, at).map(|_| ());
        let store: Touch = |w, s, at| w.poke(0, &s.space, at, 1);
        // Pages 12 and 20 are page 4 of the file, which nobody has read.
        for (name, touch, page) in [
            ("load from a private file", load, 12),
            ("store to a private file", store, 12),
            ("load from a shared file", load, 20),
            ("store to a shared file", store, 20),
        ] {
            let at = |s: &Scene| s.va(page).as_usize();
            let sigbus = |s: &Scene, _| Err(Stopped::Signal(Signal::BusAdrErr(s.va(page))));
            let verb = |w: &World, s: &Scene| touch(w, s, at(s));
            failing_transfers(&w, name, 1, verb, sigbus, |_| Ok(()));
        }
    });
}

#[test]
fn every_copy_with_every_failing_transfer() {
    on_every_machine(|machine| {
        let w = world(machine);
        type Copying = fn(&World, &Scene) -> Result<usize, i32>;
        let cases: &[(&str, Copying)] = &[
            ("populate", |w, s| {
                w.finish(0, s.va(11).as_usize(), 5 * s.page, |at, len| {
                    s.space.populate(VirtAddr::new(at), len)
                })
            }),
            ("copy out", |w, s| {
                let mut bytes = vec![0; 5 * s.page];
                w.finish(0, s.va(11).as_usize(), 5 * s.page, |at, len| {
                    s.space.read(VirtAddr::new(at), &mut bytes[..len])
                })
            }),
            ("copy in", |w, s| {
                let bytes = vec![1; 5 * s.page];
                w.finish(0, s.va(11).as_usize(), 5 * s.page, |at, len| {
                    s.space.write(VirtAddr::new(at), &bytes[..len])
                })
            }),
            ("read a file", |w, s| {
                let mut bytes = vec![0; 5 * s.page];
                w.finish(0, 3 * s.page, 5 * s.page, |at, len| {
                    Ok(s.file.read(at as u64, &mut bytes[..len]))
                })
            }),
        ];
        for (name, verb) in cases {
            let short = |s: &Scene, pages: u64| match pages as usize * s.page {
                0 => Err(EIO),
                done => Ok(done),
            };
            failing_transfers(&w, name, 5, verb, short, |s| Ok(5 * s.page));
        }
        // Part of a page is written: the rest must be read first.
        let write = |w: &World, s: &Scene| {
            w.finish(0, 4 * s.page + 5, 3, |at, len| {
                Ok(s.file.write(at as u64, &[9; 3][..len]))
            })
        };
        failing_transfers(&w, "write a file", 1, write, |_, _| Err(EIO), |_| Ok(3));
    });
}
