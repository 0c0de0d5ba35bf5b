//! What follows when areas change: nodes from the pools, objects' maps,
//! anon_vmas. The machine's side of [`crate::vma::Edit`].

use crate::cx::Cx;
use crate::error::OutOfMemory;
use crate::mm::Mm;
use crate::object::{Object, ObjectMap, ObjectView};
use crate::platform::Platform;
use crate::pool::Handle;
use crate::rmap::{AnonVma, Chains, Rmap, RootGuard};
use crate::sync::Mutex;
use crate::tree::Resolve;
use crate::vma::{Upkeep, Vma};

/// The nodes of one machine, seen by one executing verb.
pub(crate) struct Nodes<'c, 'm, P: Platform> {
    cx: &'c Cx<'m, P>,
    mm: &'m Mm<P>,
}

/// An object's map of areas and a family of anon_vmas, locked in this order.
pub(crate) struct Locked<'c, 'm, P: Platform> {
    map: Option<ObjectMap<'c, 'm, P>>,
    root: Option<RootGuard<'c, 'm, P>>,
}

impl<'c, 'm, P: Platform> Nodes<'c, 'm, P> {
    pub(crate) fn new(cx: &'c Cx<'m, P>, mm: &'m Mm<P>) -> Self {
        Self { cx, mm }
    }

    /// Returns the node of an area.
    pub(crate) fn vma(&self, vma: Handle<Vma>) -> &'m Vma {
        self.mm.vmas.get(self.mm.frames(), vma)
    }

    pub(crate) fn rmap(&self) -> Rmap<'c, 'm, P> {
        Rmap::new(self.cx, &self.mm.anon_vmas, &self.mm.chains, &self.mm.vmas)
    }

    /// Returns the object of a number; `None` for zero.
    pub(crate) fn object(&self, raw: u32) -> Option<&'m Object> {
        Handle::from_raw(raw).map(|handle| self.mm.objects.get(self.mm.frames(), handle))
    }

    /// Returns the key of the object of a number.
    pub(super) fn object_key(&self, raw: u32) -> Option<u64> {
        self.object(raw).map(Object::key)
    }

    /// Gives an area its first anon_vma, a neighbour's if there is a candidate.
    ///
    /// # Locks
    /// The space lock is held for reading; takes the space's lock for
    /// choosing, then the family's.
    pub(super) fn prepare_anon(
        &self,
        choosing: &Mutex<()>,
        vma: Handle<Vma>,
        neighbour: impl FnOnce() -> Option<Handle<AnonVma>>,
    ) -> Result<(), OutOfMemory> {
        let prepare = self.rmap().reserve_prepare()?;
        let _one_at_a_time = choosing.lock(self.cx, 0);
        let _own = prepare.publish(vma, neighbour());
        Ok(())
    }
}

impl<P: Platform> Resolve<Vma> for Nodes<'_, '_, P> {
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        self.vma(handle)
    }
}

impl<'c, 'm, P: Platform> Upkeep for Nodes<'c, 'm, P> {
    type Context = Cx<'m, P>;
    type Chains = Chains<'c, 'm, P>;
    type Locked = Locked<'c, 'm, P>;

    fn context(&self) -> &Cx<'m, P> {
        self.cx
    }

    fn alloc(&self) -> Result<Handle<Vma>, OutOfMemory> {
        self.mm.vmas.alloc(self.cx)
    }

    fn free(&self, vma: Handle<Vma>) {
        let freed = self.mm.vmas.free(self.cx, vma);
        debug_assert_eq!(freed, Ok(()));
    }

    fn reserve_chains(&self, chains: u32) -> Result<Self::Chains, OutOfMemory> {
        self.rmap().reserve_chains(chains)
    }

    fn release_chains(&self, chains: Self::Chains) {
        drop(chains);
    }

    fn retain(&self, vma: Handle<Vma>) {
        if let Some(object) = self.object(self.vma(vma).object_raw()) {
            object.get_area_ref();
        }
    }

    fn release(&self, vma: Handle<Vma>) {
        if let Some(handle) = Handle::from_raw(self.vma(vma).object_raw()) {
            ObjectView::new(self.mm, self.cx, handle).put();
        }
    }

    fn lock(&self, object: u32, anon: u32) -> Self::Locked {
        let map = Handle::from_raw(object)
            .map(|object| ObjectView::new(self.mm, self.cx, object).lock_map());
        let root = Handle::from_raw(anon).map(|anon| self.rmap().lock(anon));
        Locked { map, root }
    }

    fn map_insert(&self, locked: &mut Self::Locked, vma: Handle<Vma>) {
        if let Some(map) = &mut locked.map {
            map.insert(self, vma);
        }
    }

    fn map_remove(&self, locked: &mut Self::Locked, vma: Handle<Vma>) {
        if let Some(map) = &mut locked.map {
            map.remove(self, vma);
        }
    }

    fn chains_hide(&self, locked: &mut Self::Locked, vma: Handle<Vma>) {
        if let Some(root) = &locked.root {
            self.rmap().hide(root, vma);
        }
    }

    fn chains_show(&self, locked: &mut Self::Locked, vma: Handle<Vma>) {
        if let Some(root) = &locked.root {
            self.rmap().show(root, vma);
        }
    }

    fn chains_copy(
        &self,
        locked: &mut Self::Locked,
        to: Handle<Vma>,
        from: Handle<Vma>,
        reserve: &mut Self::Chains,
    ) {
        if let Some(root) = &locked.root {
            self.rmap().copy(root, to, from, reserve);
        }
    }

    fn chains_move(&self, locked: &mut Self::Locked, to: Handle<Vma>, from: Handle<Vma>) {
        if let Some(root) = &locked.root {
            self.rmap().move_to(root, to, from);
        }
    }

    fn chains_fork(&self, to: Handle<Vma>, from: Handle<Vma>) -> Result<(), OutOfMemory> {
        self.rmap().reserve_fork(from)?.commit(to, from);
        Ok(())
    }

    fn chains_drop(&self, vma: Handle<Vma>) {
        self.rmap().unlink(vma);
    }
}
