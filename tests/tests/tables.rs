//! Random scripts on one page table against a flat map of pages, on several
//! CPUs whose TLBs forget nothing.
//!
//! After each step every page reads as the model says; a CPU may be refused
//! what is allowed (a spurious fault, gone after a local flush) but never
//! allowed what is not. Frames that are freed while reachable scream.
//!
//! Between any two slot operations of a verb, another CPU may load from or
//! store to a page of the range that the verb works on ([`Others`]): what its
//! hardware notes in the entries is never lost, and it never gets where neither
//! the old rights nor the new ones let it.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::tiny::{SetsAccessed, SetsBoth, SetsBothBreaking, SetsNothing, Tiny};
use mm_core::format::{AttrFlags, Attrs, Entry, NonPresentKind, PageTableFormat, TableOwner};
use mm_core::page::{Frames, Kind, PageFlags};
use mm_core::platform::Platform as _;
use mm_core::prot::{Access, Prot};
use mm_core::range::PageRange;
use mm_core::sync::{AtomicU32, AtomicU64};
use mm_core::table::{Cursor, CursorMut, Harvest, PageTable, Why};
use mm_core::tlb::{SpaceTlb, TlbGather};
use mm_testkit::format::{AnyFormat, AnyWalker, Slot};
use mm_testkit::machine::on_every_machine;
use mm_testkit::mmu::{Mode, Sets, TinyWalker, Walker};
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use mm_testkit::tlb::{Loaded, SoftTlbs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const CPUS: usize = 3;
const RIGHTS: [Prot; 4] = [Prot::READ, Prot::RW, Prot::RX, Prot::RWX];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// Goes back to the allocator when unmapped.
    Table,
    /// A cached page; the model holds a reference of its own.
    File,
    /// Owned by nobody: part of a block.
    Nobody,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    frame: Pfn,
    prot: Prot,
    owner: Owner,
    /// An access went through.
    young: bool,
    /// A store went through since the last harvest.
    dirty: bool,
}

type Machine = Frames<TestPlatform<AnyFormat>>;

/// What the other CPUs do while one is in a verb.
struct Others {
    frames: Arc<Machine>,
    tlbs: Arc<SoftTlbs<AnyWalker>>,
    now: Mutex<Now>,
}

struct Now {
    /// Where they look: what the verb works on, if there is one.
    range: Option<PageRange>,
    active: [bool; CPUS],
    random: Random,
    /// What went through and is not accounted for.
    done: Vec<(usize, Pfn, Access)>,
    /// How much ever did.
    count: usize,
}

impl Others {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what one of them may do right now.
    fn meanwhile(&self, format: AnyFormat, slot: Slot<'_>) {
        let mut now = self.now();
        let Some(range) = now.range.filter(|_| now.random.chance(25)) else {
            return;
        };
        let cpu = now.random.below(CPUS as u64) as usize;
        if !now.active[cpu] {
            return;
        }
        // Mostly the very page whose entry the slot is, if it is a page's.
        let size = format.entries(1);
        let below = slot.index.wrapping_sub(range.start().as_usize()) & (size - 1);
        let nth = if now.random.chance(70) && below < range.pages() {
            let tables = (range.pages() - below).div_ceil(size);
            below + size * now.random.below(tables as u64) as usize
        } else {
            now.random.below(range.pages() as u64) as usize
        };
        let page = range.start().saturating_add(nth);
        let access = now.random.pick(&[Access::Read, Access::Write]);
        let ram = self.frames.platform().arena();
        let went = self.tlbs.access(ram, cpu, page, access, Mode::User, |f| f);
        if let Ok(frame) = went {
            now.done.push((page.as_usize(), frame, access));
            now.count += 1;
        }
    }
}

struct World<'m> {
    frames: &'m Machine,
    tlbs: Arc<SoftTlbs<AnyWalker>>,
    others: Arc<Others>,
    tlb: SpaceTlb,
    root: Pfn,
    model: BTreeMap<usize, Page>,
    random: Random,
    seed: u64,
    windows: Vec<PageRange>,
    /// Consecutive frames that leaves may lead to without owning them.
    block: (Pfn, u64),
    active: [bool; CPUS],
    /// Entries of runs that were seen after steps.
    in_runs: usize,
}

impl World<'_> {
    fn range(&mut self) -> PageRange {
        let windows = self.windows.clone();
        let w = self.random.pick(&windows);
        let n = w.pages() as u64;
        let a = self.random.below(n) as usize;
        let len = if self.random.chance(30) {
            self.random.below(n)
        } else {
            self.random.below(9)
        };
        let start = w.start().saturating_add(a);
        PageRange::new(start, start.saturating_add(len as usize + 1)).intersect(w)
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..25 => self.map(),
            25..35 => {
                let (range, aligned) = (self.range(), self.random.chance(80));
                self.map_block(range, aligned);
            }
            35..50 => self.unmap(),
            50..62 => self.protect(),
            62..90 => (0..16).for_each(|_| self.access()),
            90..96 => self.harvest(),
            _ => self.switch(),
        }
        self.check();
    }

    fn attrs(&self, prot: Prot) -> Attrs {
        let attrs = Attrs::user(prot);
        // What hardware does not set is set: nobody resolves faults here.
        match self.tlbs.walker().sets() {
            Sets::Both => attrs,
            Sets::Accessed => attrs.with(AttrFlags::DIRTY),
            Sets::Nothing => attrs.with(AttrFlags::ACCESSED | AttrFlags::DIRTY),
        }
    }

    /// Returns what hardware makes of rights: without NX all that is present
    /// may be executed.
    fn means(&self, prot: Prot) -> Prot {
        let format = self.frames.platform().format();
        if prot == Prot::NONE {
            return prot;
        }
        let word = format.encode_leaf(Pfn::new(0), self.attrs(prot), 1);
        match word.map(|word| format.decode(word, 1)) {
            Ok(Entry::Leaf { attrs, .. }) => attrs.prot,
            other => panic!("{other:?}"),
        }
    }

    /// Lets an allocation fail now and then; counts what a failed verb leaks.
    fn armed<R>(
        &mut self,
        range: PageRange,
        verb: impl FnOnce(&mut Self) -> Result<R, Why>,
    ) -> Result<R, Why> {
        let before = self.frames.free_frames();
        self.others.now().range = Some(range).filter(|r| !r.is_empty());
        if self.random.chance(40) {
            self.frames.platform().fail_nth(1 + self.random.below(4));
        }
        let result = verb(self);
        self.others.now().range = None;
        self.frames.platform().fail_none();
        if result.is_err() {
            assert_eq!(
                self.frames.free_frames(),
                before,
                "seed {}: a failed verb leaks",
                self.seed
            );
        }
        result
    }

    /// Takes over what other CPUs did during a verb: into the pages that were
    /// there before, and into those that are there now.
    fn account(&mut self, before: &mut [(usize, Page)], also: Prot, tried: &[Pfn]) {
        let done = std::mem::take(&mut self.others.now().done);
        for (page, frame, access) in done {
            let also = self.means(also);
            let old = before.iter_mut().find(|(p, _)| *p == page).map(|(_, p)| p);
            let same = |p: &&mut Page| p.frame == frame;
            let old = old.filter(same);
            let was = old.as_ref().map_or(Prot::NONE, |p| p.prot);
            let is = self.model.get(&page).filter(|p| p.frame == frame);
            let is = is.map_or(Prot::NONE, |p| p.prot);
            let rights = self.means(was) | self.means(is) | also;
            let known = old.is_some() || is != Prot::NONE || tried.contains(&frame);
            assert!(
                known && (rights.allows(access) || tried.contains(&frame)),
                "seed {}: {access:?} of {page:#x} reached {frame} meanwhile",
                self.seed
            );
            let new = self.model.get_mut(&page).filter(same);
            for p in old.into_iter().chain(new) {
                p.young = true;
                p.dirty |= access == Access::Write;
            }
        }
    }

    fn map(&mut self) {
        let range = self.range();
        let prot = self.random.pick(&RIGHTS);
        let owner = self.random.pick(&[Owner::Table, Owner::File]);
        let cx = Cx::new(self.frames);
        // Half of the time frames in a row, aligned like the pages: for runs.
        let in_a_row = self.random.chance(50);
        let pfns = if in_a_row {
            self.frames_in_a_row(range)
        } else {
            let fresh = range.iter().map_while(|_| self.frames.alloc(&cx, 0).ok());
            fresh.collect()
        };
        let range = if in_a_row {
            PageRange::with_len(range.start(), pfns.len()).unwrap()
        } else {
            range
        };
        for &pfn in &pfns {
            // Whoever maps a frame to be executed makes its instructions visible.
            self.frames.platform().sync_code(pfn);
            if owner == Owner::File {
                let page = self.frames.page(pfn).unwrap();
                page.user().init(PageFlags::UPTODATE, 1, 0);
                page.get_refs(1).unwrap();
                page.user().add_maps(1).unwrap();
            }
        }
        let attrs = self.attrs(prot);
        let pfns_ref = &pfns;
        let mut before = self.pages(range);
        let result = self.armed(range, |w| {
            let table = PageTable::view(&cx, w.root, TableOwner::User, 1);
            let mut cursor = CursorMut::new(table, &w.tlb, range);
            let mapped = match pfns_ref[..] {
                [first, ..] if in_a_row => cursor.map(first, attrs),
                _ => cursor.map_each(pfns_ref, attrs),
            };
            let owed = mapped.map_err(|e| {
                assert!(range.contains(e.at) || pfns_ref.is_empty());
                e.why
            })?;
            owed.settle(&cx, &w.tlb);
            Ok(())
        });
        let taken = range
            .iter()
            .take(pfns.len())
            .any(|p| self.model.contains_key(&p.as_usize()));
        let tried = pfns.clone();
        match result {
            Ok(()) => {
                assert!(!taken, "seed {}: mapped over a page", self.seed);
                for (page, &frame) in range.iter().zip(&pfns) {
                    let page_of = Page {
                        frame,
                        prot,
                        owner,
                        young: false,
                        dirty: false,
                    };
                    self.model.insert(page.as_usize(), page_of);
                }
            }
            Err(why) => {
                assert!(
                    why == Why::OutOfMemory || (why == Why::Exists && taken),
                    "{why:?}"
                );
                for pfn in pfns {
                    if owner == Owner::File {
                        let page = self.frames.page(pfn).unwrap();
                        assert_eq!(page.user().sub_maps(1), 0);
                        assert!(!page.put_refs(1));
                    }
                    self.frames.free(&cx, pfn).unwrap();
                }
            }
        }
        self.account(&mut before, Prot::NONE, &tried);
    }

    /// Allocates single frames that lie in a row and are aligned like the pages
    /// of a range, as many as there are.
    fn frames_in_a_row(&self, range: PageRange) -> Vec<Pfn> {
        let cx = Cx::new(self.frames);
        let fresh = std::iter::from_fn(|| self.frames.alloc(&cx, 0).ok());
        let all: Vec<_> = fresh.take(range.pages() + 32).collect();
        let free: BTreeSet<_> = all.into_iter().map(Pfn::as_u64).collect();
        let start = range.start().as_usize() as u64;
        let stretch = |&first: &u64| {
            let row = (first..first + range.pages() as u64).take_while(|n| free.contains(n));
            row.collect::<Vec<_>>()
        };
        let aligned = free.iter().filter(|&&n| n % 16 == start % 16);
        let best = aligned
            .map(stretch)
            .max_by_key(Vec::len)
            .unwrap_or_default();
        for &n in free.iter().filter(|n| !best.contains(n)) {
            self.frames.free(&cx, Pfn::new(n)).unwrap();
        }
        best.into_iter().map(Pfn::new).collect()
    }

    fn map_block(&mut self, range: PageRange, aligned: bool) {
        let (first, count) = self.block;
        // Often aligned alike, so that blocks fit.
        let skew = if aligned {
            range.start().as_usize() as u64 % count
        } else {
            self.random.below(count)
        };
        let frame = first.saturating_add(skew);
        let pages = range.pages().min((count - skew) as usize);
        let range = PageRange::with_len(range.start(), pages).unwrap();
        let prot = self.random.pick(&RIGHTS);
        let attrs = self.attrs(prot).with(AttrFlags::SPECIAL);
        let cx = Cx::new(self.frames);
        let mut before = self.pages(range);
        let result = self.armed(range, |w| {
            let table = PageTable::view(&cx, w.root, TableOwner::User, 1);
            let mut cursor = CursorMut::new(table, &w.tlb, range);
            cursor
                .map(frame, attrs)
                .map_err(|e| e.why)?
                .settle(&cx, &w.tlb);
            Ok(())
        });
        let taken = range.iter().any(|p| self.model.contains_key(&p.as_usize()));
        match result {
            Ok(()) => {
                assert!(!taken, "seed {}: mapped over a page", self.seed);
                for (i, page) in range.iter().enumerate() {
                    let frame = frame.saturating_add(i as u64);
                    let page_of = Page {
                        frame,
                        prot,
                        owner: Owner::Nobody,
                        young: false,
                        dirty: false,
                    };
                    self.model.insert(page.as_usize(), page_of);
                }
            }
            Err(why) => {
                assert!(
                    why == Why::OutOfMemory || (why == Why::Exists && taken),
                    "{why:?}"
                )
            }
        }
        let tried: Vec<_> = (0..count).map(|i| first.saturating_add(i)).collect();
        self.account(&mut before, Prot::NONE, &tried);
    }

    fn unmap(&mut self) {
        let range = self.range();
        let cx = Cx::new(self.frames);
        let mut before: Vec<_> = self.pages(range);
        let result = self.armed(range, |w| {
            let table = PageTable::view(&cx, w.root, TableOwner::User, 1);
            let mut gather = TlbGather::new(&cx, &w.tlb);
            let done = CursorMut::new(table, &w.tlb, range).unmap(&mut gather);
            let released = gather.finish();
            done.map_err(|e| {
                assert_eq!(released, Default::default());
                e.why
            })?;
            let count = |o| before.iter().filter(|(_, p)| p.owner == o).count();
            assert_eq!(
                released.kernel_pages,
                count(Owner::Table),
                "seed {}",
                w.seed
            );
            assert_eq!(released.file_pages, count(Owner::File), "seed {}", w.seed);
            Ok(())
        });
        self.account(&mut before, Prot::NONE, &[]);
        match result {
            Ok(()) => {
                for (page, p) in before {
                    self.model.remove(&page);
                    if p.owner == Owner::File {
                        let record = self.frames.page(p.frame).unwrap();
                        assert_eq!((record.refs(), record.user().maps()), (1, 0));
                        assert!(
                            record.has(PageFlags::DIRTY) || !p.dirty,
                            "seed {}: a store to page {page:#x} is lost",
                            self.seed
                        );
                        self.frames.free(&cx, p.frame).unwrap();
                    }
                }
            }
            Err(why) => assert_eq!(why, Why::OutOfMemory),
        }
    }

    fn pages(&self, range: PageRange) -> Vec<(usize, Page)> {
        let keys = range.start().as_usize()..range.end().as_usize();
        self.model.range(keys).map(|(&k, &p)| (k, p)).collect()
    }

    fn protect(&mut self) {
        let range = self.range();
        let prot = self
            .random
            .pick(&[Prot::NONE, Prot::READ, Prot::RW, Prot::RX, Prot::RWX]);
        let cx = Cx::new(self.frames);
        let mut before = self.pages(range);
        let result = self.armed(range, |w| {
            let table = PageTable::view(&cx, w.root, TableOwner::User, 1);
            CursorMut::new(table, &w.tlb, range)
                .protect(prot)
                .map_err(|e| e.why)
        });
        let special = self
            .pages(range)
            .iter()
            .any(|(_, p)| p.owner == Owner::Nobody);
        match result {
            Ok(()) => {
                assert!(!(special && prot == Prot::NONE));
                for (page, _) in self.pages(range) {
                    self.model.get_mut(&page).unwrap().prot = prot;
                }
            }
            Err(Why::OutOfMemory) => {}
            Err(why) => assert!(special && prot == Prot::NONE, "{why:?}"),
        }
        self.account(&mut before, prot, &[]);
    }

    fn access(&mut self) {
        let cpu = self.random.below(CPUS as u64) as usize;
        if !self.active[cpu] {
            return;
        }
        let mapped = self.model.len();
        let page = if mapped > 0 && self.random.chance(80) {
            let nth = self.random.below(mapped as u64) as usize;
            Vpn::new(*self.model.keys().nth(nth).unwrap())
        } else {
            self.range().start()
        };
        let cx = Cx::new(self.frames);
        let ram = self.frames.platform().arena();
        if self.random.chance(20) {
            return self.tlbs.speculate(ram, cpu, page);
        }
        let access = self
            .random
            .pick(&[Access::Read, Access::Write, Access::Exec]);
        let found = self.model.get(&page.as_usize()).copied();
        let allowed = found.is_some_and(|p| self.means(p.prot).allows(access));
        let attempt = || {
            self.tlbs
                .access(ram, cpu, page, access, Mode::User, |frame| frame)
        };
        let mut result = attempt();
        if result.is_err() && allowed {
            // Spurious: the entry is as it should be, the CPU remembers another.
            let one = PageRange::with_len(page, 1).unwrap();
            on_cpu(cpu, || self.tlb.flush_spurious(&cx, one));
            result = attempt();
        }
        match result {
            Ok(frame) => {
                assert!(
                    allowed,
                    "seed {}: {access:?} of {page} on CPU {cpu} went through",
                    self.seed
                );
                assert_eq!(
                    frame,
                    found.unwrap().frame,
                    "seed {}: {page} on CPU {cpu}",
                    self.seed
                );
                let p = self.model.get_mut(&page.as_usize()).unwrap();
                p.young = true;
                p.dirty |= access == Access::Write;
            }
            Err(why) => assert!(
                !allowed,
                "seed {}: {access:?} of {page}: {why:?}",
                self.seed
            ),
        }
    }

    fn harvest(&mut self) {
        if self.tlbs.walker().sets() != Sets::Both {
            return;
        }
        let range = self.range();
        let cx = Cx::new(self.frames);
        let table = PageTable::view(&cx, self.root, TableOwner::User, 1);
        let mut seen = Vec::new();
        self.others.now().range = Some(range).filter(|r| !r.is_empty());
        CursorMut::new(table, &self.tlb, range).harvest(Harvest::Dirty, |h| {
            assert_eq!(
                cx.frames().platform().preempt_depth(),
                0,
                "called under a lock"
            );
            seen.extend(h.pages.iter().map(Vpn::as_usize));
        });
        for (page, p) in self.pages(range) {
            assert!(
                !p.dirty || p.prot == Prot::NONE || seen.contains(&page),
                "seed {}: {page:#x}",
                self.seed
            );
        }
        for page in &seen {
            self.model.get_mut(page).unwrap().dirty = false;
        }
        self.others.now().range = None;
        let stored: Vec<_> = self.others.now().done.iter().map(|d| d.0).collect();
        let mut before = self.pages(range);
        self.account(&mut before, Prot::NONE, &[]);
        // A store that came before the harvest of its entry was told of, one
        // that came after stands in the entry.
        for page in stored.into_iter().filter(|p| seen.contains(p)) {
            let now = table.translate(Vpn::new(page));
            let dirty = now.is_some_and(|(word, _)| cx.format().is_dirty(word));
            self.model.get_mut(&page).unwrap().dirty = dirty;
        }
    }

    /// A CPU begins or ends to run the space.
    fn switch(&mut self) {
        let cpu = self.random.below(CPUS as u64) as usize;
        if self.active[cpu] {
            self.tlbs.load(cpu, None);
            self.tlb.deactivate(cpu);
        } else {
            self.tlb.activate(cpu);
            self.tlbs.load(
                cpu,
                Some(Loaded {
                    root: self.root,
                    asid: 0,
                }),
            );
        }
        self.active[cpu] = !self.active[cpu];
        self.others.now().active = self.active;
    }

    fn check(&mut self) {
        let cx = Cx::new(self.frames);
        let table = PageTable::view(&cx, self.root, TableOwner::User, 1);
        let format = cx.format();
        let mut in_runs = 0;
        for &w in &self.windows {
            let (mut dirty, mut young) = (BTreeSet::new(), BTreeSet::new());
            let mut visited = 0;
            Cursor::new(table, w).visit(|v| {
                visited += v.pages.pages();
                let Entry::Leaf { attrs, .. } = v.entry else {
                    return;
                };
                if attrs.flags.contains(AttrFlags::DIRTY) {
                    dirty.extend(v.pages.iter());
                }
                if attrs.flags.contains(AttrFlags::ACCESSED) {
                    young.extend(v.pages.iter());
                }
            });
            assert_eq!(visited, self.pages(w).len(), "seed {}", self.seed);
            for page in w.iter() {
                let word = table.translate(page);
                let in_run = word.is_some_and(|(word, level)| {
                    let leaf = matches!(format.decode(word, level), Entry::Leaf { .. });
                    leaf && format.is_run(word)
                });
                in_runs += usize::from(in_run);
                let found = word.map(|(word, level)| (format.decode(word, level), level));
                let expect = self.model.get(&page.as_usize());
                match (found, expect) {
                    (None, None) => {}
                    (Some((Entry::Leaf { pfn, attrs }, level)), Some(p)) => {
                        let within = page.as_usize() & (format.entry_pages(level) - 1);
                        assert_eq!(
                            pfn.saturating_add(within as u64),
                            p.frame,
                            "seed {}",
                            self.seed
                        );
                        assert_eq!(
                            attrs.prot - Prot::READ,
                            self.means(p.prot) - Prot::READ,
                            "seed {}",
                            self.seed
                        );
                        assert!(
                            young.contains(&page) || !p.young,
                            "seed {}: an access to {page} is lost",
                            self.seed
                        );
                        assert!(
                            dirty.contains(&page)
                                || !p.dirty
                                || self.tlbs.walker().sets() != Sets::Both
                        );
                    }
                    (Some((Entry::NonPresent(np), 1)), Some(p)) => {
                        assert_eq!(np.kind, NonPresentKind::ProtNone);
                        assert_eq!((np.pfn(), p.prot), (Some(p.frame), Prot::NONE));
                    }
                    other => panic!("seed {}: {page}: {other:?}", self.seed),
                }
            }
        }
        // A table goes with its last entry: there is no empty one but the root.
        let ram = self.frames.platform().arena();
        for i in 0..ram.frames() {
            let pfn = ram.first().saturating_add(i);
            let page = self.frames.page(pfn).filter(|_| pfn != self.root);
            if let Some(page) = page.filter(|page| page.kind() == Kind::Table) {
                let record = page.table();
                let (live, level) = (record.live(), record.level());
                assert!(
                    live > 0,
                    "seed {}: an empty table of level {level}",
                    self.seed
                );
            }
        }
        self.frames.platform().assert_preemptible();
        self.in_runs += in_runs;
    }
}

fn script(
    format: AnyFormat,
    walker: AnyWalker,
    windows: &[(usize, usize)],
    block_order: u8,
    ram: usize,
    steps: usize,
    seed: u64,
) {
    let machine = Arc::new(TestPlatform::machine(format, 512, ram));
    let frames = &*machine;
    let cx = Cx::new(frames);
    let before = frames.free_frames();
    let tlbs = Arc::new(SoftTlbs::new(walker, CPUS, seed));
    frames.platform().set_flush_hook(tlbs.clone());
    frames.platform().arena().set_free_hook(tlbs.clone());
    let block = frames.alloc(&cx, block_order).unwrap();
    for i in 0..1u64 << block_order {
        frames.platform().sync_code(block.saturating_add(i));
    }
    let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
    let others = Arc::new(Others {
        frames: machine.clone(),
        tlbs: tlbs.clone(),
        now: Mutex::new(Now {
            range: None,
            active: [false; CPUS],
            random: Random::new(seed + 1000),
            done: Vec::new(),
            count: 0,
        }),
    });
    let they = others.clone();
    format.intrude(move |format: AnyFormat, slot: Slot<'_>| they.meanwhile(format, slot));
    let mut world = World {
        frames,
        tlbs,
        others,
        tlb: SpaceTlb::new(),
        root,
        model: BTreeMap::new(),
        random: Random::new(seed),
        seed,
        windows: windows
            .iter()
            .map(|&(a, b)| PageRange::new(Vpn::new(a), Vpn::new(b)))
            .collect(),
        block: (block, 1 << block_order),
        active: [false; CPUS],
        in_runs: 0,
    };
    world.switch();
    // As much of a window at first as the block fits, for the longest runs.
    let window = world.windows[0];
    let aligned = window.start().as_usize().next_multiple_of(1 << block_order);
    let from = PageRange::new(Vpn::new(aligned), window.end());
    let whole = if from.is_empty() { window } else { from };
    world.map_block(whole, true);
    world.check();
    for _ in 0..steps {
        world.step();
    }
    assert_eq!(
        world.in_runs > 0,
        format.run_bits(1) > 0,
        "seed {seed}: {} entries of runs",
        world.in_runs
    );
    format.leave();
    assert!(world.others.now().count > 0, "seed {seed}: nobody came in");
    // The end of a space: everything goes, in one round.
    let files: Vec<_> = world
        .model
        .values()
        .filter(|p| p.owner == Owner::File)
        .map(|p| p.frame)
        .collect();
    let table = PageTable::view(&cx, root, TableOwner::User, 1);
    let mut gather = TlbGather::new(&cx, &world.tlb);
    CursorMut::new(table, &world.tlb, table.user_pages())
        .unmap(&mut gather)
        .unwrap();
    let _released = gather.finish();
    for cpu in 0..CPUS {
        if world.active[cpu] {
            assert!(table.destroy(&world.tlb).is_err());
            world.switch_off(cpu);
        }
    }
    table.destroy(&world.tlb).unwrap();
    for pfn in files {
        frames.free(&cx, pfn).unwrap();
    }
    frames.free(&cx, block).unwrap();
    assert_eq!(frames.free_frames(), before, "seed {seed}: frames are lost");
}

impl World<'_> {
    fn switch_off(&mut self, cpu: usize) {
        self.tlbs.load(cpu, None);
        self.tlb.deactivate(cpu);
        self.active[cpu] = false;
        self.others.now().active = self.active;
    }
}

fn tiny(
    format: impl PageTableFormat,
    walker: impl Walker,
    windows: &[(usize, usize)],
    block_order: u8,
    ram: usize,
    steps: usize,
    seed: u64,
) {
    let walker = Box::leak(Box::new(walker));
    let format = AnyFormat::of(format);
    script(format, walker, windows, block_order, ram, steps, seed);
}

#[test]
fn scripts_on_a_tiny_table_that_sets_both_bits() {
    for seed in 0..12 {
        let walker = TinyWalker::<AtomicU32>::new(3, 2, Sets::Both, false);
        tiny(
            Tiny::<u32, SetsBoth>::new(3, 2),
            walker,
            &[(0, 64)],
            4,
            512,
            400,
            seed,
        );
    }
}

#[test]
fn scripts_on_a_tiny_table_that_demands_break_before_make() {
    for seed in 100..112 {
        let walker = TinyWalker::<AtomicU64>::new(4, 2, Sets::Accessed, false);
        tiny(
            Tiny::<u64, SetsAccessed>::new(4, 2),
            walker,
            &[(0, 256)],
            6,
            1024,
            300,
            seed,
        );
    }
}

#[test]
fn scripts_on_a_tiny_table_that_remembers_invalid_entries() {
    for seed in 200..212 {
        let walker = TinyWalker::<AtomicU32>::new(2, 3, Sets::Nothing, true);
        tiny(
            Tiny::<u32, SetsNothing>::new(2, 3),
            walker,
            &[(0, 64)],
            3,
            512,
            400,
            seed,
        );
    }
}

/// Runs of two and of four, of pages and of blocks, up to whole tables.
#[test]
fn scripts_on_tiny_tables_with_runs() {
    for seed in 500..512 {
        let walker = TinyWalker::<AtomicU32>::new(3, 2, Sets::Both, false);
        let format = Tiny::<u32, SetsBoth>::new(3, 2).with_runs(1);
        let windows = [(0, 64)];
        tiny(format, walker.with_runs(1), &windows, 4, 512, 400, seed);
        let walker = TinyWalker::<AtomicU32>::new(2, 3, Sets::Both, false);
        let format = Tiny::<u32, SetsBoth>::new(2, 3).with_runs(2);
        tiny(format, walker.with_runs(2), &windows, 4, 512, 400, seed);
    }
}

#[test]
fn scripts_on_tiny_tables_with_runs_that_are_broken_before_they_are_made() {
    for seed in 600..612 {
        let walker = TinyWalker::<AtomicU64>::new(3, 2, Sets::Both, false).breaking();
        let format = Tiny::<u64, SetsBothBreaking>::new(3, 2).with_runs(1);
        let windows = [(0, 64)];
        tiny(format, walker.with_runs(1), &windows, 4, 512, 400, seed);
        let walker = TinyWalker::<AtomicU64>::new(4, 2, Sets::Accessed, false);
        let format = Tiny::<u64, SetsAccessed>::new(4, 2).with_runs(2);
        let windows = [(0, 256)];
        tiny(format, walker.with_runs(2), &windows, 6, 1024, 200, seed);
    }
}

#[test]
fn scripts_on_a_tiny_table_with_runs_that_sets_nothing() {
    for seed in 700..712 {
        let walker = TinyWalker::<AtomicU32>::new(2, 3, Sets::Nothing, true);
        let format = Tiny::<u32, SetsNothing>::new(2, 3).with_runs(2);
        let windows = [(0, 64)];
        tiny(format, walker.with_runs(2), &windows, 4, 512, 400, seed);
    }
}

/// The formats of real machines: around the edges of leaf tables and of those
/// above, and at the end of user space.
#[test]
fn scripts_on_every_machine() {
    on_every_machine(|m| {
        let f = m.format();
        let end = f.user_end().as_usize();
        let table = f.entry_pages(2);
        let edge = f.entry_pages(f.levels());
        let reach = table.min(512);
        let mut windows = vec![
            (table - reach / 5, table + reach + reach / 5),
            (end - 600, end),
        ];
        if edge > 2 * table && 2 * edge < end {
            windows.push((edge - 100, edge + 500));
        }
        // Room for blocks where they are of 2 or 4 MiB.
        let order = (table.ilog2() + 1).min(10) as u8;
        for seed in 300..302 {
            script(f, m.walker(), &windows, order, 8192, 100, seed);
        }
    });
}
