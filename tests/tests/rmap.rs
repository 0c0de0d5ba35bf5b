//! Reverse mapping against a model: spaces with real areas, edited, forked and
//! torn down at random, and plain maps that say which page is mapped where.

use mm_arm::lpae::Lpae;
use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::error::OutOfMemory;
use mm_core::page::{Frames, Kind, Page, PageFlags};
use mm_core::pool::{Handle, Pool};
use mm_core::range::PageRange;
use mm_core::rmap::{AnonVma, AnonVmaChain, Chains, Rmap, RootGuard, walk_areas};
use mm_core::tree::{IntervalTree, Resolve};
use mm_core::vma::{
    ByOffset, Edit, NewVma, Plan, Shape, Upkeep, Vma, VmaFlags, VmaSpec, VmaTree, anon_candidate,
    duplicate,
};
use mm_testkit::patience::StopAtEnd;
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

type P = TestPlatform<Lpae>;

const RW: VmaFlags = VmaFlags::READ.union(VmaFlags::WRITE).union(VmaFlags::MAY);

fn range(start: usize, end: usize) -> PageRange {
    PageRange::new(Vpn::new(start), Vpn::new(end))
}

/// The pools of one machine.
struct Machine {
    frames: Frames<P>,
    vmas: Pool<Vma>,
    anons: Pool<AnonVma>,
    chains: Pool<AnonVmaChain>,
    map: IntervalTree<ByOffset>,
}

impl Machine {
    fn new() -> Self {
        Self {
            frames: TestPlatform::machine(Lpae, 0x100, 2048),
            vmas: Pool::new(),
            anons: Pool::new(),
            chains: Pool::new(),
            map: IntervalTree::new(),
        }
    }

    fn live(&self) -> [usize; 3] {
        [
            self.vmas.live(&self.frames),
            self.anons.live(&self.frames),
            self.chains.live(&self.frames),
        ]
    }
}

/// One verb: what `vma::Edit` is carried out with.
struct Verb<'c, 'm> {
    cx: &'c Cx<'m, P>,
    m: &'m Machine,
    rmap: Rmap<'c, 'm, P>,
}

impl<'c, 'm> Verb<'c, 'm> {
    fn new(m: &'m Machine, cx: &'c Cx<'m, P>) -> Self
    where
        'm: 'c,
    {
        let rmap = Rmap::new(cx, &m.anons, &m.chains, &m.vmas);
        Self { cx, m, rmap }
    }
}

impl Resolve<Vma> for Verb<'_, '_> {
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        self.m.vmas.get(&self.m.frames, handle)
    }
}

impl<'c, 'm> Upkeep for Verb<'c, 'm> {
    type Context = Cx<'m, P>;
    type Chains = Chains<'c, 'm, P>;
    type Locked = Option<RootGuard<'c, 'm, P>>;

    fn context(&self) -> &Cx<'m, P> {
        self.cx
    }
    fn alloc(&self) -> Result<Handle<Vma>, OutOfMemory> {
        self.m.vmas.alloc(self.cx)
    }
    fn free(&self, vma: Handle<Vma>) {
        self.m.vmas.free(self.cx, vma).unwrap();
    }
    fn reserve_chains(&self, chains: u32) -> Result<Chains<'c, 'm, P>, OutOfMemory> {
        self.rmap.reserve_chains(chains)
    }
    fn release_chains(&self, chains: Chains<'c, 'm, P>) {
        drop(chains);
    }
    fn retain(&self, _: Handle<Vma>) {}
    fn release(&self, _: Handle<Vma>) {}
    fn lock(&self, _object: u32, anon: u32) -> Option<RootGuard<'c, 'm, P>> {
        Handle::from_raw(anon).map(|anon| self.rmap.lock(anon))
    }
    fn map_insert(&self, _: &mut Option<RootGuard<'c, 'm, P>>, vma: Handle<Vma>) {
        if self.get(vma).object_raw() != 0 {
            self.m.map.insert(self, vma);
        }
    }
    fn map_remove(&self, _: &mut Option<RootGuard<'c, 'm, P>>, vma: Handle<Vma>) {
        if self.get(vma).object_raw() != 0 {
            self.m.map.remove(self, vma);
        }
    }
    fn chains_hide(&self, locked: &mut Option<RootGuard<'c, 'm, P>>, vma: Handle<Vma>) {
        if self.get(vma).chain_count() > 0 {
            self.rmap.hide(locked.as_ref().unwrap(), vma);
        }
    }
    fn chains_show(&self, locked: &mut Option<RootGuard<'c, 'm, P>>, vma: Handle<Vma>) {
        if self.get(vma).chain_count() > 0 {
            self.rmap.show(locked.as_ref().unwrap(), vma);
        }
    }
    fn chains_copy(
        &self,
        locked: &mut Option<RootGuard<'c, 'm, P>>,
        to: Handle<Vma>,
        from: Handle<Vma>,
        reserve: &mut Chains<'c, 'm, P>,
    ) {
        self.rmap.copy(locked.as_ref().unwrap(), to, from, reserve);
    }
    fn chains_move(
        &self,
        locked: &mut Option<RootGuard<'c, 'm, P>>,
        to: Handle<Vma>,
        from: Handle<Vma>,
    ) {
        self.rmap.move_to(locked.as_ref().unwrap(), to, from);
    }
    fn chains_fork(&self, to: Handle<Vma>, from: Handle<Vma>) -> Result<(), OutOfMemory> {
        self.rmap.reserve_fork(from)?.commit(to, from);
        Ok(())
    }
    fn chains_drop(&self, vma: Handle<Vma>) {
        self.rmap.unlink(vma);
    }
}

/// A space: its areas, and the model of its page table.
struct Space {
    id: u32,
    tree: VmaTree,
    entries: BTreeMap<usize, Pfn>,
}

const SPAN: usize = 64;

struct World<'m> {
    m: &'m Machine,
    spaces: Vec<Space>,
    next_id: u32,
    /// Areas that a fork gave an anon_vma that was there before.
    reused: Cell<usize>,
}

impl<'m> World<'m> {
    fn new(m: &'m Machine) -> Self {
        let mut world = Self {
            m,
            spaces: Vec::new(),
            next_id: 1,
            reused: Cell::new(0),
        };
        world.spawn();
        world
    }

    fn spawn(&mut self) -> usize {
        let tree = VmaTree::new();
        tree.set_space(self.next_id);
        self.spaces.push(Space {
            id: self.next_id,
            tree,
            entries: BTreeMap::new(),
        });
        self.next_id += 1;
        self.spaces.len() - 1
    }

    fn page(&self, pfn: Pfn) -> &'m Page {
        self.m.frames.page(pfn).unwrap()
    }

    fn unmap_page(&self, cx: &Cx<'m, P>, pfn: Pfn) {
        if self.page(pfn).user().sub_maps(1) == 0 {
            self.m.frames.free(cx, pfn).unwrap();
        }
    }

    fn zap(&mut self, cx: &Cx<'m, P>, s: usize, r: PageRange) {
        let inside = r.start().as_usize()..r.end().as_usize();
        let gone: Vec<_> = self.spaces[s]
            .entries
            .range(inside)
            .map(|(&v, &pfn)| (v, pfn))
            .collect();
        for (v, pfn) in gone {
            self.spaces[s].entries.remove(&v);
            self.unmap_page(cx, pfn);
        }
    }

    fn replace(&mut self, s: usize, r: PageRange, new: NewVma) -> Result<(), OutOfMemory> {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let plan = Plan::replace(&self.spaces[s].tree, &verb, r, new);
        Edit::reserve(&self.spaces[s].tree, &verb, plan)?;
        self.zap(&cx, s, r);
        // The plan stands: nothing but entries changed. Reserving again must not
        // fail where a failure was injected, so the first one is the one tried.
        self.m.frames.platform().fail_none();
        let plan = Plan::replace(&self.spaces[s].tree, &verb, r, new);
        let mut edit = Edit::reserve(&self.spaces[s].tree, &verb, plan)?;
        edit.mark();
        drop(edit.commit());
        Ok(())
    }

    fn remove(&mut self, s: usize, r: PageRange) -> Result<(), OutOfMemory> {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let plan = Plan::remove(&self.spaces[s].tree, &verb, r);
        Edit::reserve(&self.spaces[s].tree, &verb, plan)?;
        self.m.frames.platform().fail_none();
        self.zap(&cx, s, r);
        let plan = Plan::remove(&self.spaces[s].tree, &verb, r);
        let mut edit = Edit::reserve(&self.spaces[s].tree, &verb, plan)?;
        edit.mark();
        drop(edit.commit());
        Ok(())
    }

    fn set(
        &mut self,
        s: usize,
        r: PageRange,
        on: VmaFlags,
        off: VmaFlags,
    ) -> Result<(), OutOfMemory> {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let change = |area: &Shape| area.spec.flags.difference(off).union(on);
        let tree = &self.spaces[s].tree;
        let plan = Plan::modify(tree, &verb, r, &change);
        let mut edit = Edit::reserve(tree, &verb, plan)?;
        edit.mark();
        drop(edit.commit());
        Ok(())
    }

    fn map(&mut self, s: usize, r: PageRange) -> Result<(), OutOfMemory> {
        let spec = VmaSpec {
            flags: RW,
            pgoff: r.start().as_usize(),
            ..VmaSpec::default()
        };
        self.replace(s, r, NewVma { spec, like: None })
    }

    /// A write fault; `reuse` lets a sole owner keep its page.
    fn write(&mut self, s: usize, v: usize, reuse: bool) -> Result<(), OutOfMemory> {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let Some(vma) = self.spaces[s].tree.find(&verb, Vpn::new(v)) else {
            return Ok(());
        };
        let frame = self.m.frames.alloc(&cx, 0)?;
        if verb.get(vma).anon_raw() == 0 {
            let prepare = verb.rmap.reserve_prepare();
            let Ok(prepare) = prepare else {
                self.m.frames.free(&cx, frame).unwrap();
                return Err(OutOfMemory);
            };
            let tree = &self.spaces[s].tree;
            let neighbour = anon_candidate(tree, &verb, vma).and_then(Handle::from_raw);
            let anon = prepare.publish(vma, neighbour);
            assert_eq!(anon.map(Handle::into_raw), Some(verb.get(vma).anon_raw()));
            if let Some(neighbour) = neighbour {
                assert_eq!(anon, Some(neighbour));
            }
            // Whoever is second gets what the first has, and loses nothing.
            let again = verb.rmap.reserve_prepare();
            if let Ok(again) = again {
                assert_eq!(again.publish(vma, None), anon);
            }
        }
        let area = verb.get(vma);
        let (owner, index) = (area.anon_raw(), area.pgoff_of(Vpn::new(v)) as u64);
        if let Some(&old) = self.spaces[s].entries.get(&v) {
            let page = self.page(old);
            if page.user().maps() == 1 && reuse {
                // The only mapper takes the page over.
                assert!(page.try_lock_page());
                page.user().set_owner(owner, index);
                page.unlock_page();
                self.m.frames.free(&cx, frame).unwrap();
                return Ok(());
            }
            self.unmap_page(&cx, old);
        }
        let page = self.page(frame);
        page.user().init(PageFlags::ANON, owner, index);
        page.user().add_maps(1).unwrap();
        self.spaces[s].entries.insert(v, frame);
        Ok(())
    }

    fn fork(&mut self, s: usize) -> Result<usize, OutOfMemory> {
        let child = self.spawn();
        match self.fork_areas(s, child) {
            Ok(()) => {
                let entries = self.spaces[s].entries.clone();
                for &pfn in entries.values() {
                    self.page(pfn).user().add_maps(1).unwrap();
                }
                self.spaces[child].entries = entries;
                Ok(child)
            }
            Err(error) => {
                self.m.frames.platform().fail_from(1, u64::MAX);
                self.exit(child);
                self.m.frames.platform().fail_none();
                Err(error)
            }
        }
    }

    fn fork_areas(&self, s: usize, child: usize) -> Result<(), OutOfMemory> {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let mut at = self.spaces[s].tree.first(&verb);
        while let Some(parent) = at {
            let area = duplicate(&verb, parent, &self.spaces[child].tree)?;
            if let Some(own) = Handle::from_raw(verb.get(area).anon_raw()) {
                let reused = usize::from(verb.rmap.anon(own).chains() > 1);
                self.reused.set(self.reused.get() + reused);
            }
            at = self.spaces[s].tree.next(&verb, parent);
        }
        Ok(())
    }

    /// Ends a space. Needs no memory.
    fn exit(&mut self, s: usize) {
        let whole = range(0, 4 * SPAN);
        let cx = Cx::new(&self.m.frames);
        self.zap(&cx, s, whole);
        let space = self.spaces.swap_remove(s);
        let verb = Verb::new(self.m, &cx);
        let plan = Plan::remove(&space.tree, &verb, whole);
        let mut edit = Edit::reserve(&space.tree, &verb, plan).unwrap();
        edit.mark();
        drop(edit.commit());
        assert!(space.tree.first(&verb).is_none());
    }

    /// mremap(2): moves part of an area, or makes it longer in place.
    fn relocate(
        &mut self,
        s: usize,
        from: PageRange,
        to: PageRange,
        nth: u64,
    ) -> Result<(), OutOfMemory> {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let Some(vma) = self.spaces[s].tree.find(&verb, from.start()) else {
            return Ok(());
        };
        let shape = verb.get(vma).shape();
        if !shape.range.covers(from) || to.overlaps(shape.range) || to.pages() != from.pages() {
            return Ok(());
        }
        let skip = from.start().pages_since(shape.range.start());
        let spec = shape.spec.advanced(skip).unwrap();
        // Whatever lies at the target goes, which may cut areas: another verb.
        self.remove(s, to)?;
        self.m.frames.platform().fail_nth(nth);
        let still = self.spaces[s].tree.find(&verb, from.start());
        if still != Some(vma) || verb.get(vma).range() != shape.range {
            return Ok(());
        }
        self.replace(
            s,
            to,
            NewVma {
                spec,
                like: Some(vma),
            },
        )?;
        // Both places are found while entries move one by one.
        for (a, b) in from.iter().zip(to.iter()) {
            if let Some(pfn) = self.spaces[s].entries.remove(&a.as_usize()) {
                self.spaces[s].entries.insert(b.as_usize(), pfn);
                self.find_everywhere("while entries move");
            }
        }
        self.m.frames.platform().fail_none();
        self.remove(s, from).unwrap();
        Ok(())
    }

    /// An area that is made longer in place.
    fn extend(&mut self, s: usize, v: usize, pages: usize) -> Result<(), OutOfMemory> {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let Some(vma) = self.spaces[s].tree.find(&verb, Vpn::new(v)) else {
            return Ok(());
        };
        let shape = verb.get(vma).shape();
        let to = PageRange::with_len(shape.range.end(), pages).unwrap();
        if !self.spaces[s].tree.is_free(&verb, to) {
            return Ok(());
        }
        let spec = shape.spec.advanced(shape.range.pages()).unwrap();
        self.replace(
            s,
            to,
            NewVma {
                spec,
                like: Some(vma),
            },
        )
    }

    /// Every page is found wherever it is mapped.
    fn find_everywhere(&self, what: &str) {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let mut mapped: BTreeMap<Pfn, BTreeSet<(u32, usize)>> = BTreeMap::new();
        for space in &self.spaces {
            for (&v, &pfn) in &space.entries {
                mapped.entry(pfn).or_default().insert((space.id, v));
            }
        }
        for (pfn, places) in &mapped {
            let page = self.page(*pfn);
            assert_eq!(page.user().maps() as usize, places.len(), "{what}");
            assert!(page.try_lock_page());
            let mut hits = BTreeSet::new();
            let _ = verb.rmap.walk_anon(page, |hit| {
                assert!(
                    hit.area.is_attached() && hit.area.range().contains(hit.page),
                    "{what}"
                );
                let new = hits.insert((hit.area.space(), hit.page.as_usize()));
                assert!(new, "{what}: {hit:?} twice");
                ControlFlow::<()>::Continue(())
            });
            page.unlock_page();
            assert!(
                places.is_subset(&hits),
                "{what}: {pfn:?} at {places:?}, found {hits:?}"
            );
        }
    }

    /// Chains, counts and trees are what the areas say.
    fn check(&self, what: &str) {
        self.find_everywhere(what);
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let (mut vmas, mut chains) = (0, 0);
        let mut anons = BTreeSet::new();
        for space in &self.spaces {
            space.tree.check(&verb).unwrap();
            for vma in space.tree.iter(&verb) {
                assert_eq!(verb.rmap.check(vma), Ok(()), "{what}");
                anons.extend(verb.rmap.anons_of(vma));
                vmas += 1;
                chains += verb.get(vma).chain_count() as usize;
            }
        }
        // Roots without areas live on as long as one of the family does.
        let roots: BTreeSet<_> = anons
            .iter()
            .map(|&a| verb.rmap.anon(a).root().unwrap())
            .collect();
        for &anon in &anons {
            let node = verb.rmap.anon(anon);
            let sons = anons
                .iter()
                .filter(|&&a| verb.rmap.anon(a).parent() == Some(anon));
            assert_eq!(
                node.children() as usize,
                sons.count(),
                "{what}: children of {anon:?}"
            );
        }
        for &root in &roots {
            let family = anons
                .iter()
                .filter(|&&a| verb.rmap.anon(a).root() == Some(root));
            // One per member but itself, and one for its own areas: the same number.
            let refs = verb.rmap.anon(root).refs() as usize;
            assert_eq!(refs, family.count(), "{what}: refs of {root:?}");
        }
        let all: BTreeSet<_> = anons.union(&roots).collect();
        assert_eq!(self.m.live(), [vmas, all.len(), chains], "{what}");
    }

    /// What an operation that fails must not change.
    fn snapshot(&self) -> String {
        let cx = Cx::new(&self.m.frames);
        let verb = Verb::new(self.m, &cx);
        let mut out = format!("{:?} {}", self.m.live(), self.m.frames.free_frames());
        for space in &self.spaces {
            out += &format!("\nspace {} {:?}", space.id, space.entries);
            for vma in space.tree.iter(&verb) {
                let area = verb.get(vma);
                out += &format!("\n {vma:?} {:?} {}", area.shape(), area.chain_count());
                for anon in verb.rmap.anons_of(vma) {
                    let a = verb.rmap.anon(anon);
                    let counts = (a.refs(), a.chains(), a.children(), a.active());
                    out += &format!(" {anon:?}{counts:?}");
                }
            }
        }
        out
    }

    /// Empties the pools of what is not in use, so that counts of frames compare.
    fn drain(&self) {
        let cx = Cx::new(&self.m.frames);
        self.m.vmas.drain(&cx);
        self.m.anons.drain(&cx);
        self.m.chains.drain(&cx);
    }
}

/// What the histories of the property test came across.
#[derive(Default, Debug)]
struct Tally {
    reused: usize,
    failed: BTreeMap<&'static str, usize>,
    done: BTreeMap<&'static str, usize>,
}

fn history(seed: u64, steps: usize, tally: &mut Tally) {
    let m = Machine::new();
    let cx = Cx::new(&m.frames);
    let at_boot = m.frames.free_frames();
    drop(cx);
    let mut random = Random::new(seed);
    let mut world = World::new(&m);
    for step in 0..steps {
        let s = random.below(world.spaces.len() as u64) as usize;
        let start = random.below(SPAN as u64) as usize;
        let r = range(start, start + 1 + random.below(12) as usize);
        let to = SPAN + random.below(SPAN as u64) as usize;
        let to = range(to, to + r.pages());
        let choice = random.below(100);
        let reuse = random.chance(50);
        let op = match choice {
            0..=14 => "map",
            15..=24 => "remove",
            25..=39 => "set",
            40..=69 => "write",
            70..=79 => "fork",
            80..=87 => "relocate",
            88..=92 => "extend",
            _ => "exit",
        };
        let what = format!("seed {seed} step {step} {op} {r:?} in space {s}");
        world.drain();
        let before = world.snapshot();
        let inject = op != "exit" && random.chance(50);
        // A fork takes many, most others one or two.
        let few = if op == "fork" { 12 } else { 3 };
        let nth = if inject { 1 + random.below(few) } else { 0 };
        m.frames.platform().fail_nth(nth);
        let result = match op {
            "map" => world.map(s, r),
            "remove" => world.remove(s, r),
            "set" if reuse => world.set(s, r, VmaFlags::empty(), VmaFlags::WRITE),
            "set" => world.set(s, r, VmaFlags::WRITE, VmaFlags::empty()),
            "write" => world.write(s, start, reuse),
            "fork" if world.spaces.len() < 8 => world.fork(s).map(|_| ()),
            "fork" => Ok(()),
            "relocate" => world.relocate(s, r, to, nth),
            "extend" => world.extend(s, start, r.pages()),
            _ => {
                world.exit(s);
                if world.spaces.is_empty() {
                    world.spawn();
                }
                Ok(())
            }
        };
        m.frames.platform().fail_none();
        match result {
            Ok(()) => *tally.done.entry(op).or_default() += 1,
            Err(OutOfMemory) => {
                assert!(inject, "{what}: out of memory");
                *tally.failed.entry(op).or_default() += 1;
                world.drain();
                if op != "relocate" {
                    assert_eq!(world.snapshot(), before, "{what}");
                }
            }
        }
        world.check(&what);
        m.frames.platform().assert_preemptible();
    }
    while !world.spaces.is_empty() {
        world.exit(0);
    }
    tally.reused += world.reused.get();
    assert_eq!(m.live(), [0; 3], "seed {seed}");
    world.drain();
    assert_eq!(m.frames.free_frames(), at_boot, "seed {seed}");
}

#[test]
fn g1_g6_every_page_is_found_wherever_it_is_mapped() {
    let mut tally = Tally::default();
    for seed in 0..80 {
        history(seed, 150, &mut tally);
    }
    for op in [
        "map", "remove", "set", "write", "fork", "relocate", "extend",
    ] {
        let done = tally.done.get(op).copied().unwrap_or(0);
        let mut failed = tally.failed.get(op).copied().unwrap_or(0);
        if op == "extend" {
            // Needs no memory: the area has all that its longer self needs.
            assert_eq!(failed, 0);
            failed = usize::MAX;
        }
        assert!(done > 50 && failed > 5, "{op} was hardly tried: {tally:?}");
    }
    assert!(tally.reused > 5, "{tally:?}");
}

/// A process forks, the parent exits, and so on: the line of anon_vmas does not grow
/// without end, and what the first one wrote is still found in the last one.
#[test]
fn g6_a_line_of_forks_reuses_anon_vmas() {
    let m = Machine::new();
    let mut world = World::new(&m);
    world.map(0, range(0, 8)).unwrap();
    world.write(0, 3, true).unwrap();
    let mut most = 0;
    for generation in 0..40 {
        let child = world.fork(0).unwrap();
        world.write(child, 4, true).unwrap();
        world.check("a line of forks");
        world.exit(0);
        world.check("a line of forks");
        most = most.max(m.anons.live(&m.frames));
        assert!(
            m.anons.live(&m.frames) <= 3,
            "generation {generation}: {:?}",
            m.live()
        );
    }
    assert!(most > 1);
    assert_eq!(world.spaces[0].entries.len(), 2);
    world.exit(0);
    assert_eq!(m.live(), [0; 3]);
}

/// The pattern of CVE-2022-42703: an anon_vma that was reused must not go, nor
/// be reused again, while an area adds pages to it.
#[test]
fn g6_an_active_anon_vma_is_not_reused() {
    let m = Machine::new();
    let mut world = World::new(&m);
    world.map(0, range(0, 8)).unwrap();
    world.write(0, 0, true).unwrap();
    let cx = Cx::new(&m.frames);
    let verb = Verb::new(&m, &cx);
    let own = |world: &World<'_>, s: usize| {
        let vma = world.spaces[s].tree.find(&verb, Vpn::new(0)).unwrap();
        verb.get(vma).anon_raw()
    };
    let root = own(&world, 0);
    // Child B of A; grandchild C of B; then B's area is left to C alone.
    let b = world.fork(0).unwrap();
    let middle = own(&world, b);
    assert_ne!(root, middle);
    let c = world.fork(b).unwrap();
    assert!(![root, middle].contains(&own(&world, c)));
    world.exit(b);
    world.check("B is gone");
    // C's next child takes B's over; the one after must not.
    let c = world.spaces.len() - 1;
    let d = world.fork(c).unwrap();
    assert_eq!(own(&world, d), middle);
    let e = world.fork(c).unwrap();
    assert_ne!(own(&world, e), middle);
    world.write(d, 1, true).unwrap();
    world.check("D writes");
    // Also not when C, D and E are the only ones left, nor the root ever.
    world.exit(0);
    let all: Vec<_> = (0..world.spaces.len()).map(|s| own(&world, s)).collect();
    assert!(!all.contains(&root));
    world.check("A is gone");
    while !world.spaces.is_empty() {
        world.exit(0);
        world.check("one fewer");
    }
    assert_eq!(m.live(), [0; 3]);
}

/// One with two children stays theirs: otherwise each page of one would be looked
/// for in the other's descendants too. Once one is left, it is taken over.
#[test]
fn g6_an_anon_vma_with_two_children_is_not_reused() {
    let m = Machine::new();
    let mut world = World::new(&m);
    world.map(0, range(0, 8)).unwrap();
    world.write(0, 0, true).unwrap();
    let cx = Cx::new(&m.frames);
    let verb = Verb::new(&m, &cx);
    let own = |world: &World<'_>, id: u32| {
        let space = world.spaces.iter().find(|space| space.id == id);
        let tree = &space.unwrap().tree;
        let vma = tree.find(&verb, Vpn::new(0)).unwrap();
        verb.get(vma).anon_raw()
    };
    let at = |world: &World<'_>, id: u32| world.spaces.iter().position(|s| s.id == id).unwrap();
    // A (1) forks B (2), which forks C (3) and D (4) and exits.
    world.fork(0).unwrap();
    let middle = own(&world, 2);
    world.fork(at(&world, 2)).unwrap();
    world.fork(at(&world, 2)).unwrap();
    world.exit(at(&world, 2));
    world.fork(at(&world, 3)).unwrap();
    assert!(own(&world, 5) != middle && own(&world, 5) != own(&world, 1));
    world.exit(at(&world, 4));
    world.check("D is gone");
    world.fork(at(&world, 3)).unwrap();
    assert_eq!(own(&world, 6), middle);
    world.check("B's is taken over");
    while !world.spaces.is_empty() {
        world.exit(0);
        world.check("one fewer");
    }
    assert_eq!(m.live(), [0; 3]);
}

/// Walks run while the areas that they find are split, merged, forked and
/// removed. Pages of the first space stay mapped: each walk finds them there.
#[test]
fn g1_walks_find_what_stays_while_areas_change() {
    let m = Machine::new();
    let mut world = World::new(&m);
    world.map(0, range(0, 16)).unwrap();
    for v in 0..16 {
        world.write(0, v, true).unwrap();
    }
    let stay: Vec<_> = world.spaces[0]
        .entries
        .iter()
        .map(|(&v, &pfn)| (v, pfn))
        .collect();
    let id = world.spaces[0].id;
    let stop = AtomicBool::new(false);
    let (walks, other) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for cpu in 1..3 {
            let (m, stay, stop, walks, other) = (&m, &stay, &stop, &walks, &other);
            scope.spawn(move || {
                on_cpu(cpu, || {
                    let mut random = Random::new(cpu as u64);
                    while !stop.load(Ordering::Relaxed) {
                        let cx = Cx::new(&m.frames);
                        let verb = Verb::new(m, &cx);
                        let (v, pfn) = random.pick(stay);
                        let page = m.frames.page(pfn).unwrap();
                        if page.try_lock_page() {
                            let mut found = false;
                            let _ = verb.rmap.walk_anon(page, |hit| {
                                found |= (hit.area.space(), hit.page) == (id, Vpn::new(v));
                                ControlFlow::<()>::Continue(())
                            });
                            page.unlock_page();
                            assert!(found, "page {v} was not found");
                            walks.fetch_add(1, Ordering::Relaxed);
                        }
                        // Any other page, perhaps on its way out: its owner may be
                        // gone, or someone else's by now.
                        let pfn = Pfn::new(0x100 + random.below(2048));
                        let Some(page) = m.frames.page(pfn) else {
                            continue;
                        };
                        if page.kind() != Kind::User || !page.try_get_ref() {
                            continue;
                        }
                        if page.kind() == Kind::User && page.try_lock_page() {
                            let _ = verb.rmap.walk_anon(page, |hit| {
                                assert!(hit.area.range().contains(hit.page));
                                ControlFlow::<()>::Continue(())
                            });
                            page.unlock_page();
                            other.fetch_add(1, Ordering::Relaxed);
                        }
                        m.frames.free(&cx, pfn).unwrap();
                    }
                });
            });
        }
        // A failure must end the others too.
        let _stop = StopAtEnd(&stop);
        let mut random = Random::new(7);
        let enough = || walks.load(Ordering::Relaxed) > 500 && other.load(Ordering::Relaxed) > 500;
        for round in 0..20_000 {
            if round > 150 && enough() {
                break;
            }
            let child = world.fork(0).unwrap();
            for s in [0, child] {
                let at = random.below(14) as usize;
                let r = range(at, at + 2);
                world.set(s, r, VmaFlags::empty(), VmaFlags::WRITE).unwrap();
                world.write(child, at, true).unwrap();
            }
            for s in [0, child] {
                world
                    .set(s, range(0, 16), VmaFlags::WRITE, VmaFlags::empty())
                    .unwrap();
            }
            world.exit(child);
            world.drain();
        }
    });
    let (walks, other) = (walks.into_inner(), other.into_inner());
    assert!(walks > 100 && other > 100, "{walks} walks, {other} others");
    world.check("at rest");
    world.exit(0);
    assert_eq!(m.live(), [0; 3]);
    m.frames.platform().assert_preemptible();
}

/// Files: the areas of an object's map, by offset, through the same edits.
#[test]
fn g1_cached_pages_are_found_in_every_area_of_the_object() {
    for seed in 0..20 {
        let m = Machine::new();
        let mut world = World::new(&m);
        world.spawn();
        let mut random = Random::new(seed);
        for step in 0..100 {
            let s = random.below(2) as usize;
            let start = random.below(SPAN as u64) as usize;
            let r = range(start, start + 1 + random.below(12) as usize);
            let spec = VmaSpec {
                flags: RW,
                pgoff: random.below(16) as usize,
                object: 5,
                ..VmaSpec::default()
            };
            match random.below(4) {
                0 | 1 => world.replace(s, r, NewVma { spec, like: None }).unwrap(),
                2 => world.remove(s, r).unwrap(),
                _ => world.set(s, r, VmaFlags::empty(), VmaFlags::WRITE).unwrap(),
            }
            let cx = Cx::new(&m.frames);
            let verb = Verb::new(&m, &cx);
            let index = random.below(30) as usize;
            let mut hits = Vec::new();
            let _ = walk_areas(&m.map, &verb, index as u64, |hit| {
                hits.push((hit.area.space(), hit.page));
                ControlFlow::<()>::Continue(())
            });
            let mut expected = Vec::new();
            for space in &world.spaces {
                for vma in space.tree.iter(&verb) {
                    let area = verb.get(vma);
                    let pages = area.range().iter();
                    let at = pages.filter(|&v| area.pgoff_of(v) == index);
                    expected.extend(at.map(|v| (space.id, v)));
                }
            }
            hits.sort_unstable();
            expected.sort_unstable();
            assert_eq!(hits, expected, "seed {seed} step {step}");
        }
    }
}
