//! The claim: a fault that counted into an area is alone with it. What an edit
//! does between mark and commit never happens while a fault is inside, and a
//! node that was freed and reused is not entered under its old name (H11).
//!
//! The lookup runs without a lock while the edit changes the tree.
//! Shown to fail when the writer does not wait for readers, when a reader does
//! not look again at space and range after it has counted in, and when either
//! of them leaves without release.
#![cfg(loom)]

mod explore;

use explore::at_most;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use mm_core::addr::Vpn;
use mm_core::error::OutOfMemory;
use mm_core::pool::{Handle, Node};
use mm_core::range::PageRange;
use mm_core::sync::NoContext;
use mm_core::tree::Resolve;
use mm_core::vma::{Edit, NewVma, Plan, Upkeep, Vma, VmaFlags, VmaSpec, VmaTree};
use std::cell::RefCell;

const OLD: u32 = 7;
const NEW: u32 = 8;

/// Nodes that never go away, as those of a pinned slab.
struct Nodes(Vec<Vma>);

impl Resolve<Vma> for Nodes {
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        &self.0[handle.into_raw() as usize - 1]
    }
}

/// The writer's side: a list of free nodes, no objects, no anon_vmas.
struct Writer {
    nodes: Arc<Nodes>,
    free: RefCell<Vec<Handle<Vma>>>,
}

impl Resolve<Vma> for Writer {
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        self.nodes.get(handle)
    }
}

impl Upkeep for Writer {
    type Context = NoContext;
    type Chains = ();
    type Locked = ();

    fn context(&self) -> &NoContext {
        &NoContext
    }
    fn alloc(&self) -> Result<Handle<Vma>, OutOfMemory> {
        self.free.borrow_mut().pop().ok_or(OutOfMemory)
    }
    fn free(&self, vma: Handle<Vma>) {
        self.free.borrow_mut().push(vma);
    }
    fn reserve_chains(&self, _: u32) -> Result<(), OutOfMemory> {
        Ok(())
    }
    fn release_chains(&self, (): ()) {}
    fn retain(&self, _: Handle<Vma>) {}
    fn release(&self, _: Handle<Vma>) {}
    fn lock(&self, _: u32, _: u32) {}
    fn map_insert(&self, (): &mut (), _: Handle<Vma>) {}
    fn map_remove(&self, (): &mut (), _: Handle<Vma>) {}
    fn chains_hide(&self, (): &mut (), _: Handle<Vma>) {}
    fn chains_show(&self, (): &mut (), _: Handle<Vma>) {}
    fn chains_copy(&self, (): &mut (), _: Handle<Vma>, _: Handle<Vma>, (): &mut ()) {}
    fn chains_move(&self, (): &mut (), _: Handle<Vma>, _: Handle<Vma>) {}
    fn chains_fork(&self, _: Handle<Vma>, _: Handle<Vma>) -> Result<(), OutOfMemory> {
        Ok(())
    }
    fn chains_drop(&self, _: Handle<Vma>) {}
}

fn range(start: usize, end: usize) -> PageRange {
    PageRange::new(Vpn::new(start), Vpn::new(end))
}

fn place(tree: &VmaTree, up: &Writer, start: usize, end: usize) {
    let flags = VmaFlags::READ;
    let spec = VmaSpec {
        flags,
        pgoff: start + 100,
        ..VmaSpec::default()
    };
    let plan = Plan::replace(tree, up, range(start, end), NewVma { spec, like: None });
    drop(Edit::reserve(tree, up, plan).unwrap().commit());
}

fn world(areas: &[(usize, usize)]) -> (Arc<Nodes>, Arc<VmaTree>, Writer) {
    let nodes = Arc::new(Nodes((0..2).map(|_| Vma::new()).collect()));
    let free = (1..=2).filter_map(Handle::from_raw).collect();
    let up = Writer {
        nodes: nodes.clone(),
        free: RefCell::new(free),
    };
    let tree = Arc::new(VmaTree::new());
    tree.set_space(OLD);
    for &(start, end) in areas {
        place(&tree, &up, start, end);
    }
    (nodes, tree, up)
}

#[test]
fn h11_no_fault_is_inside_between_mark_and_commit() {
    at_most(3, || {
        let (nodes, tree, up) = world(&[(0, 4)]);
        let zapping = Arc::new(AtomicBool::new(false));
        let entry = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let seen = (nodes, tree.clone(), zapping.clone(), entry.clone());
        let fault = thread::spawn(move || {
            let (nodes, tree, zapping, entry) = seen;
            let page = Vpn::new(1);
            let Some(vma) = tree.lookup(&*nodes, page) else {
                return;
            };
            let vma = nodes.get(vma);
            let Some(inside) = vma.try_read(&NoContext, OLD, page) else {
                return;
            };
            assert!(
                !zapping.load(Ordering::Relaxed),
                "inside while it is zapped"
            );
            assert_eq!(inside.pgoff_of(page), 101, "half a change was seen");
            assert_eq!(inside.end(), Vpn::new(4));
            entry[0].store(true, Ordering::Relaxed);
            entry[1].store(true, Ordering::Relaxed);
        });
        let plan = Plan::remove(&tree, &up, range(0, 1));
        let mut edit = Edit::reserve(&tree, &up, plan).unwrap();
        edit.mark();
        zapping.store(true, Ordering::Relaxed);
        let [first, second] = [0, 1].map(|i| entry[i].load(Ordering::Relaxed));
        assert_eq!(first, second, "what a fault did is not seen whole");
        let done = edit.commit();
        zapping.store(false, Ordering::Relaxed);
        drop(done);
        fault.join().unwrap();
    });
}

#[test]
fn h11_a_reused_node_is_not_entered_under_its_old_name() {
    at_most(3, || {
        let (nodes, tree, up) = world(&[(0, 4)]);
        let gone = Arc::new(AtomicBool::new(false));
        let seen = (nodes, tree.clone(), gone.clone());
        let fault = thread::spawn(move || {
            let (nodes, tree, gone) = seen;
            let page = Vpn::new(1);
            let Some(vma) = tree.lookup(&*nodes, page) else {
                return;
            };
            let vma = nodes.get(vma);
            let Some(inside) = vma.try_read(&NoContext, OLD, page) else {
                return;
            };
            assert!(
                !gone.load(Ordering::Relaxed),
                "entered after it was unmapped"
            );
            assert_eq!((inside.space(), inside.range()), (OLD, range(0, 4)));
        });
        let plan = Plan::remove(&tree, &up, range(0, 4));
        let mut edit = Edit::reserve(&tree, &up, plan).unwrap();
        edit.mark();
        drop(edit.commit());
        gone.store(true, Ordering::Relaxed);
        // The same node becomes the same range of another space.
        let other = VmaTree::new();
        other.set_space(NEW);
        place(&other, &up, 0, 4);
        fault.join().unwrap();
    });
}
