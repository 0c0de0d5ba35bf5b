//! Our areas: nodes from a pool over frames, edited by plans.

use super::{Areas, Cx, Kind};
use crate::machine::Bare;
use mm_core::addr::Vpn;
use mm_core::error::OutOfMemory;
use mm_core::pool::{Handle, Pool};
use mm_core::range::PageRange;
use mm_core::tree::{Direction, GapRequest, Resolve};
use mm_core::vma::{Edit, NewVma, Plan, Upkeep, Vma, VmaFlags, VmaSpec, VmaTree};

/// The areas of a space that maps private memory nobody has touched.
pub struct Ours<'c> {
    tree: VmaTree,
    nodes: Nodes<'c>,
}

struct Nodes<'c> {
    cx: &'c Cx,
    pool: Pool<Vma>,
}

impl<'c> Ours<'c> {
    pub fn new(cx: &'c Cx) -> Self {
        let tree = VmaTree::new();
        tree.set_space(1);
        let nodes = Nodes {
            cx,
            pool: Pool::new(),
        };
        Self { tree, nodes }
    }

    /// Returns the bytes of the frames that hold nodes.
    pub fn bytes(&self) -> usize {
        self.nodes.pool.slabs() << 12
    }

    /// Returns what an area of a kind is; kinds differ in their rights.
    pub fn spec(kind: Kind) -> VmaSpec {
        let flags = match kind {
            Kind::A => VmaFlags::READ,
            Kind::B => VmaFlags::READ | VmaFlags::WRITE,
            Kind::C => VmaFlags::READ | VmaFlags::EXEC,
        };
        VmaSpec {
            flags,
            ..VmaSpec::default()
        }
    }

    /// Puts an area where none is.
    pub fn put(&mut self, start: usize, end: usize, spec: VmaSpec) {
        let new = NewVma { spec, like: None };
        let range = range(start, end);
        self.carry_out(Plan::replace(&self.tree, &self.nodes, range, new));
    }

    /// Returns the way to the nodes.
    pub fn nodes(&self) -> &impl Resolve<Vma> {
        &self.nodes
    }

    /// Walks the areas.
    pub fn handles(&self) -> impl Iterator<Item = Handle<Vma>> {
        self.tree.iter(&self.nodes)
    }

    fn carry_out(&self, plan: Plan<'_>) {
        let mut edit = Edit::reserve(&self.tree, &self.nodes, plan).expect("memory");
        edit.mark();
        drop(edit.commit());
    }

    fn remove(&self, range: PageRange) {
        self.carry_out(Plan::remove(&self.tree, &self.nodes, range));
    }
}

fn range(start: usize, end: usize) -> PageRange {
    PageRange::new(Vpn::new(start), Vpn::new(end))
}

impl Areas for Ours<'_> {
    fn insert(&mut self, start: usize, end: usize, kind: Kind) {
        let spec = VmaSpec {
            pgoff: start,
            ..Self::spec(kind)
        };
        self.put(start, end, spec);
    }

    fn find(&self, page: usize) -> Option<usize> {
        let vma = self.tree.find(&self.nodes, Vpn::new(page))?;
        Some(self.nodes.get(vma).start().as_usize())
    }

    fn punch(&mut self, start: usize, end: usize) {
        self.remove(range(start, end));
    }

    fn map_unmap(&mut self, low: usize, high: usize) {
        let request = GapRequest {
            low,
            high,
            direction: Direction::Highest,
            ..GapRequest::new(1)
        };
        let gap = self.tree.find_gap(&self.nodes, &request).expect("a gap");
        let page = gap.as_usize();
        self.insert(page, page + 1, Kind::C);
        self.remove(range(page, page + 1));
    }

    fn walk(&self) -> usize {
        self.tree
            .iter(&self.nodes)
            .map(|vma| self.nodes.get(vma).end().as_usize())
            .sum()
    }
}

impl Drop for Ours<'_> {
    fn drop(&mut self) {
        self.remove(range(0, 1 << 35));
        self.nodes.pool.drain(self.nodes.cx);
    }
}

impl Resolve<Vma> for Nodes<'_> {
    #[inline]
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        self.pool.get(self.cx.frames(), handle)
    }
}

/// No object and no anon_vma: nothing else must follow.
impl Upkeep for Nodes<'_> {
    type Context = mm_core::cx::Cx<'static, Bare>;
    type Chains = ();
    type Locked = ();

    fn context(&self) -> &Self::Context {
        self.cx
    }
    fn alloc(&self) -> Result<Handle<Vma>, OutOfMemory> {
        self.pool.alloc(self.cx)
    }
    fn free(&self, vma: Handle<Vma>) {
        self.pool.free(self.cx, vma).unwrap();
    }
    fn reserve_chains(&self, _chains: u32) -> Result<(), OutOfMemory> {
        Ok(())
    }
    fn release_chains(&self, (): ()) {}
    fn retain(&self, _vma: Handle<Vma>) {}
    fn release(&self, _vma: Handle<Vma>) {}
    fn lock(&self, _object: u32, _anon: u32) {}
    fn map_insert(&self, (): &mut (), _vma: Handle<Vma>) {}
    fn map_remove(&self, (): &mut (), _vma: Handle<Vma>) {}
    fn chains_hide(&self, (): &mut (), _vma: Handle<Vma>) {}
    fn chains_show(&self, (): &mut (), _vma: Handle<Vma>) {}
    fn chains_copy(&self, (): &mut (), _to: Handle<Vma>, _from: Handle<Vma>, (): &mut ()) {}
    fn chains_move(&self, (): &mut (), _to: Handle<Vma>, _from: Handle<Vma>) {}
    fn chains_fork(&self, _to: Handle<Vma>, _from: Handle<Vma>) -> Result<(), OutOfMemory> {
        Ok(())
    }
    fn chains_drop(&self, _vma: Handle<Vma>) {}
}
