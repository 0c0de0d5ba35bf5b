//! Areas without a machine: nodes in a vector, objects and anon_vmas as plain
//! maps that record what the edits told them, and a check of everything
//! against everything after each operation.

mod family;
mod lessons;
mod memory;
mod merging;
#[cfg(debug_assertions)]
mod order;
mod script;

use super::{ByOffset, Delta, Edit, NewVma, Plan, Shape, Upkeep, Vma, VmaFlags, VmaSpec, VmaTree};
use crate::addr::Vpn;
use crate::error::OutOfMemory;
use crate::pool::{Handle, Node};
use crate::range::PageRange;
use crate::sync::{NoContext, Ordering};
use crate::tree::{Interval, IntervalTree, Resolve};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

const NODES: usize = 512;
const SPACE: u32 = 77;

/// The machine of these tests.
struct Machine {
    nodes: Vec<Vma>,
    free: RefCell<Vec<u32>>,
    /// Allocations until one fails; `None`: never.
    fuse: Cell<Option<u32>>,
    allocations: Cell<u32>,
    objects: RefCell<BTreeMap<u32, IntervalTree<ByOffset>>>,
    refs: RefCell<BTreeMap<u32, u32>>,
    /// Chains by area, and by anon_vma what interval each area is found by.
    chains: RefCell<BTreeMap<u32, Vec<u32>>>,
    shown: RefCell<BTreeMap<(u32, u32), (usize, usize)>>,
    reserved: Cell<u32>,
}

/// Proof of a lock: which object, and which family of anon_vmas.
struct Locked {
    object: u32,
    root: u32,
}

fn root(anon: u32) -> u32 {
    anon / 10
}

impl Machine {
    fn new() -> Self {
        Self {
            nodes: (0..NODES).map(|_| Vma::new()).collect(),
            free: RefCell::new((1..NODES as u32).rev().collect()),
            fuse: Cell::new(None),
            allocations: Cell::new(0),
            objects: RefCell::default(),
            refs: RefCell::default(),
            chains: RefCell::default(),
            shown: RefCell::default(),
            reserved: Cell::new(0),
        }
    }

    fn burn(&self) -> Result<(), OutOfMemory> {
        self.allocations.set(self.allocations.get() + 1);
        match self.fuse.get() {
            Some(0) => Err(OutOfMemory),
            Some(n) => {
                self.fuse.set(Some(n - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn anons_of(&self, vma: Handle<Vma>) -> Vec<u32> {
        self.chains
            .borrow()
            .get(&vma.into_raw())
            .cloned()
            .unwrap_or_default()
    }

    fn interval_of(&self, vma: Handle<Vma>) -> (usize, usize) {
        let node = self.get(vma);
        (node.pgoff(), node.last_pgoff())
    }

    fn set_chains(&self, vma: Handle<Vma>, anon: u32, chains: Vec<u32>) {
        let node = self.get(vma);
        node.anon_cell().store(anon, Ordering::Relaxed);
        node.chain_counter()
            .store(chains.len() as u32, Ordering::Relaxed);
        self.chains.borrow_mut().insert(vma.into_raw(), chains);
    }
}

impl Resolve<Vma> for Machine {
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        &self.nodes[handle.into_raw() as usize]
    }
}

impl Upkeep for Machine {
    type Context = NoContext;
    type Chains = Cell<u32>;
    type Locked = Locked;

    fn context(&self) -> &NoContext {
        &NoContext
    }

    fn alloc(&self) -> Result<Handle<Vma>, OutOfMemory> {
        self.burn()?;
        self.free
            .borrow_mut()
            .pop()
            .and_then(Handle::from_raw)
            .ok_or(OutOfMemory)
    }

    fn free(&self, vma: Handle<Vma>) {
        let node = self.get(vma);
        assert!(!node.is_attached() && !node.links.is_linked() && !node.interval.is_linked());
        assert!(!self.free.borrow().contains(&vma.into_raw()), "freed twice");
        self.free.borrow_mut().push(vma.into_raw());
    }

    fn reserve_chains(&self, chains: u32) -> Result<Cell<u32>, OutOfMemory> {
        for _ in 0..chains {
            self.burn()?;
        }
        self.reserved.set(self.reserved.get() + chains);
        Ok(Cell::new(chains))
    }

    fn release_chains(&self, chains: Cell<u32>) {
        self.reserved.set(self.reserved.get() - chains.get());
    }

    fn retain(&self, vma: Handle<Vma>) {
        *self
            .refs
            .borrow_mut()
            .entry(self.get(vma).object_raw())
            .or_default() += 1;
    }

    fn release(&self, vma: Handle<Vma>) {
        *self
            .refs
            .borrow_mut()
            .get_mut(&self.get(vma).object_raw())
            .unwrap() -= 1;
    }

    fn lock(&self, object: u32, anon: u32) -> Locked {
        Locked {
            object,
            root: root(anon),
        }
    }

    fn map_insert(&self, locked: &mut Locked, vma: Handle<Vma>) {
        let object = self.get(vma).object_raw();
        assert_eq!(locked.object, object, "another object's lock");
        if object != 0 {
            self.objects
                .borrow_mut()
                .entry(object)
                .or_default()
                .insert(self, vma);
        }
    }

    fn map_remove(&self, locked: &mut Locked, vma: Handle<Vma>) {
        let object = self.get(vma).object_raw();
        assert_eq!(locked.object, object, "another object's lock");
        if object != 0 {
            self.objects.borrow()[&object].remove(self, vma);
        }
    }

    fn chains_hide(&self, locked: &mut Locked, vma: Handle<Vma>) {
        for anon in self.anons_of(vma) {
            assert_eq!(locked.root, root(anon), "another family's lock");
            assert!(
                self.shown
                    .borrow_mut()
                    .remove(&(anon, vma.into_raw()))
                    .is_some()
            );
        }
    }

    fn chains_show(&self, locked: &mut Locked, vma: Handle<Vma>) {
        for anon in self.anons_of(vma) {
            assert_eq!(locked.root, root(anon), "another family's lock");
            let key = (anon, vma.into_raw());
            assert_eq!(
                self.shown.borrow_mut().insert(key, self.interval_of(vma)),
                None
            );
        }
    }

    fn chains_copy(
        &self,
        locked: &mut Locked,
        to: Handle<Vma>,
        from: Handle<Vma>,
        reserve: &mut Cell<u32>,
    ) {
        assert_eq!(self.get(to).anon_raw(), 0, "has chains already");
        let chains = self.anons_of(from);
        let n = chains.len() as u32;
        assert!(reserve.get() >= n, "the plan bounds the chains of its edit");
        reserve.set(reserve.get() - n);
        self.reserved.set(self.reserved.get() - n);
        self.set_chains(to, self.get(from).anon_raw(), chains);
        self.chains_show(locked, to);
    }

    fn chains_move(&self, _locked: &mut Locked, to: Handle<Vma>, from: Handle<Vma>) {
        assert_eq!(self.get(to).anon_raw(), 0, "has chains already");
        self.set_chains(to, self.get(from).anon_raw(), self.anons_of(from));
        self.set_chains(from, 0, Vec::new());
    }

    fn chains_fork(&self, to: Handle<Vma>, from: Handle<Vma>) -> Result<(), OutOfMemory> {
        let mut chains = self.anons_of(from);
        // Its own anon_vma, and the chains in one go.
        self.burn()?;
        self.burn()?;
        let own = chains[0] + 1;
        chains.insert(0, own);
        self.set_chains(to, own, chains);
        self.chains_show(
            &mut Locked {
                object: 0,
                root: root(own),
            },
            to,
        );
        Ok(())
    }

    fn chains_drop(&self, vma: Handle<Vma>) {
        for anon in self.anons_of(vma) {
            assert!(
                self.shown
                    .borrow_mut()
                    .remove(&(anon, vma.into_raw()))
                    .is_some()
            );
        }
        self.set_chains(vma, 0, Vec::new());
    }
}

/// A space with its counts.
struct Space {
    up: Machine,
    tree: VmaTree,
    counts: Cell<Delta>,
}

const RW: VmaFlags = VmaFlags::READ.union(VmaFlags::WRITE).union(VmaFlags::MAY);
const RO: VmaFlags = VmaFlags::READ.union(VmaFlags::MAY);

fn range(start: usize, end: usize) -> PageRange {
    PageRange::new(Vpn::new(start), Vpn::new(end))
}

fn anon(flags: VmaFlags, pgoff: usize) -> VmaSpec {
    VmaSpec {
        flags,
        pgoff,
        ..VmaSpec::default()
    }
}

fn file(flags: VmaFlags, object: u32, pgoff: usize) -> VmaSpec {
    VmaSpec {
        flags,
        pgoff,
        object,
        ..VmaSpec::default()
    }
}

fn plus(a: Delta, b: Delta) -> Delta {
    Delta {
        areas: a.areas + b.areas,
        pages: a.pages + b.pages,
        locked: a.locked + b.locked,
        data: a.data + b.data,
        stack: a.stack + b.stack,
        account: a.account + b.account,
    }
}

impl Space {
    fn new() -> Self {
        let tree = VmaTree::new();
        tree.set_space(SPACE);
        Self {
            up: Machine::new(),
            tree,
            counts: Cell::default(),
        }
    }

    /// Carries a plan out as a verb does, and checks everything.
    fn run(&self, plan: Plan<'_>) -> Result<Delta, OutOfMemory> {
        let delta = plan.delta();
        let mut edit = Edit::reserve(&self.tree, &self.up, plan)?;
        edit.mark();
        for vma in self.tree.overlapping(&self.up, edit.plan().range()) {
            assert!(self.up.get(vma).is_marked());
        }
        drop(edit.commit());
        self.counts.set(plus(self.counts.get(), delta));
        self.check();
        Ok(delta)
    }

    fn try_place(&self, r: PageRange, new: NewVma) -> Result<Delta, OutOfMemory> {
        self.run(Plan::replace(&self.tree, &self.up, r, new))
    }

    /// Maps as mmap(2) with MAP_FIXED does.
    fn map(&self, start: usize, end: usize, spec: VmaSpec) -> Delta {
        self.try_place(range(start, end), NewVma { spec, like: None })
            .unwrap()
    }

    /// Maps anonymous memory at its own offset.
    fn add(&self, start: usize, end: usize, flags: VmaFlags) -> Delta {
        self.map(start, end, anon(flags, start))
    }

    fn try_unmap(&self, start: usize, end: usize) -> Result<Delta, OutOfMemory> {
        self.run(Plan::remove(&self.tree, &self.up, range(start, end)))
    }

    fn unmap(&self, start: usize, end: usize) -> Delta {
        self.try_unmap(start, end).unwrap()
    }

    fn try_set(&self, start: usize, end: usize, flags: VmaFlags) -> Result<Delta, OutOfMemory> {
        let change = |area: &Shape| {
            let kept = VmaFlags::MERGE_IGNORES;
            area.spec.flags.intersection(kept) | flags.difference(kept)
        };
        self.run(Plan::modify(
            &self.tree,
            &self.up,
            range(start, end),
            &change,
        ))
    }

    /// Gives the areas of a range these flags, as protect and advise do.
    fn set(&self, start: usize, end: usize, flags: VmaFlags) -> Delta {
        self.try_set(start, end, flags).unwrap()
    }

    /// Puts an area down as it is, whatever it could be merged with.
    fn put(&self, start: usize, end: usize, spec: VmaSpec) -> Handle<Vma> {
        let vma = self.up.alloc().unwrap();
        let node = self.up.get(vma);
        node.fill(&self.tree, range(start, end), &spec);
        node.attach();
        self.up.retain(vma);
        self.tree.insert(&self.up, vma);
        self.up.map_insert(
            &mut Locked {
                object: spec.object,
                root: 0,
            },
            vma,
        );
        node.unmark();
        self.counts.set(Delta::of_tree(&self.tree, &self.up));
        vma
    }

    /// Lets a private page be made in the area: it has an anon_vma then, and
    /// perhaps chains to ancestors of the same family.
    fn fault(&self, page: usize, chains: &[u32]) {
        let vma = self.tree.find(&self.up, Vpn::new(page)).unwrap();
        if self.up.get(vma).anon_raw() == 0 {
            self.up.set_chains(vma, chains[0], chains.to_vec());
            self.up.chains_show(
                &mut Locked {
                    object: 0,
                    root: root(chains[0]),
                },
                vma,
            );
        }
    }

    fn at(&self, page: usize) -> &Vma {
        self.up
            .get(self.tree.find(&self.up, Vpn::new(page)).unwrap())
    }

    /// Writes the areas as `start-end@offset`.
    fn draw(&self) -> String {
        let one = |vma| {
            let v = self.up.get(vma);
            let (start, end) = (v.start().as_usize(), v.end().as_usize());
            format!("{start}-{end}@{}", v.pgoff())
        };
        self.tree
            .iter(&self.up)
            .map(one)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Writes down everything that an operation that fails must not change.
    fn snapshot(&self) -> String {
        let mut free = self.up.free.borrow().clone();
        free.sort_unstable();
        let areas: Vec<_> = self
            .tree
            .iter(&self.up)
            .map(|vma| (vma, self.up.get(vma).shape()))
            .collect();
        let (chains, shown) = (self.up.chains.borrow(), self.up.shown.borrow());
        let chains: Vec<_> = chains.iter().filter(|c| !c.1.is_empty()).collect();
        format!(
            "{areas:?} {free:?} {chains:?} {shown:?} {:?}",
            self.up.refs.borrow()
        )
    }

    /// A1, A2, A3, G2, I: everything that can be derived is as derived.
    fn check(&self) {
        let up = &self.up;
        let count = self.tree.check(up).unwrap();
        assert_eq!(Delta::of_tree(&self.tree, up), self.counts.get(), "counts");
        assert_eq!(self.counts.get().areas, count as isize);
        assert_eq!(
            NODES - 1 - up.free.borrow().len(),
            count,
            "nodes live = areas"
        );
        assert_eq!(up.reserved.get(), 0, "chains were kept");
        let mut refs = BTreeMap::<u32, u32>::new();
        let mut shown = BTreeMap::new();
        for vma in self.tree.iter(up) {
            let node = up.get(vma);
            assert!(!node.is_marked(), "{vma:?} stayed marked");
            *refs.entry(node.object_raw()).or_default() += 1;
            let anons = up.anons_of(vma);
            assert_eq!(anons.len() as u32, node.chain_count());
            assert_eq!(anons.is_empty(), node.anon_raw() == 0);
            for anon in anons {
                shown.insert((anon, vma.into_raw()), up.interval_of(vma));
            }
            if node.object_raw() != 0 {
                let object = &up.objects.borrow()[&node.object_raw()];
                let (first, last) = up.interval_of(vma);
                for at in [first, last] {
                    assert!(
                        object.overlaps(up, at, at).any(|h| h == vma),
                        "{vma:?} not found"
                    );
                }
            } else {
                assert!(!ByOffset::links(node).is_linked());
            }
        }
        assert_eq!(*up.shown.borrow(), shown, "what anon_vmas find");
        let kept: BTreeMap<_, _> = up
            .refs
            .borrow()
            .iter()
            .filter(|r| *r.1 != 0)
            .map(|(k, v)| (*k, *v))
            .collect();
        assert_eq!(kept, refs, "references to objects");
        for (id, object) in &*up.objects.borrow() {
            let n = object.tree().check(up).unwrap();
            assert_eq!(
                n as u32,
                refs.get(id).copied().unwrap_or(0),
                "areas in object {id}"
            );
        }
    }
}
