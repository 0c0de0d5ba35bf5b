//! Where anon_vmas come from: the first private page of an area, and fork.

use super::{AnonVma, Chains, Rmap};
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::vma::Vma;

/// An anon_vma that was put aside; dropping it gives it back.
struct Fresh<'c, 'm, P: Platform> {
    rmap: Rmap<'c, 'm, P>,
    anon: Option<Handle<AnonVma>>,
}

impl<'c, 'm, P: Platform> Fresh<'c, 'm, P> {
    fn reserve(rmap: Rmap<'c, 'm, P>) -> Result<Self, OutOfMemory> {
        let anon = rmap.alloc_anon()?;
        Ok(Self {
            rmap,
            anon: Some(anon),
        })
    }

    fn take(&mut self) -> Option<Handle<AnonVma>> {
        self.anon.take()
    }
}

impl<P: Platform> Drop for Fresh<'_, '_, P> {
    fn drop(&mut self) {
        if let Some(anon) = self.anon.take() {
            self.rmap.free_fresh_anon(anon);
        }
    }
}

/// What an area's first anonymous page needs. Dropping it gives it back.
#[must_use = "publish it, or it goes back to the pools"]
pub struct Prepare<'c, 'm, P: Platform> {
    fresh: Fresh<'c, 'm, P>,
    chains: Chains<'c, 'm, P>,
}

/// What the anon_vmas of one area of a fork's child need. Dropping it gives it
/// back.
#[must_use = "commit it, or it goes back to the pools"]
pub struct Fork<'c, 'm, P: Platform> {
    fresh: Option<Fresh<'c, 'm, P>>,
    chains: Chains<'c, 'm, P>,
}

impl<'c, 'm, P: Platform> Rmap<'c, 'm, P> {
    /// Puts aside what an area's first anonymous page needs.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing put aside.
    ///
    /// # Locks
    /// Takes `Pool` and `Buddy`.
    pub fn reserve_prepare(&self) -> Result<Prepare<'c, 'm, P>, OutOfMemory> {
        let fresh = Fresh::reserve(*self)?;
        Ok(Prepare {
            fresh,
            chains: self.reserve_chains(1)?,
        })
    }

    /// Puts aside what a child's copy of the area `parent` needs: nothing
    /// where it has no anonymous pages.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing put aside.
    ///
    /// # Locks
    /// The parent's space lock for writing until the commit. Takes `Pool` and
    /// `Buddy`.
    pub fn reserve_fork(&self, parent: Handle<Vma>) -> Result<Fork<'c, 'm, P>, OutOfMemory> {
        if self.own(parent).is_none() {
            return Ok(Fork {
                fresh: None,
                chains: self.reserve_chains(0)?,
            });
        }
        let fresh = Fresh::reserve(*self)?;
        let chains = self.vma(parent).chain_count().saturating_add(1);
        Ok(Fork {
            fresh: Some(fresh),
            chains: self.reserve_chains(chains)?,
        })
    }
}

impl<P: Platform> Prepare<'_, '_, P> {
    /// Gives an area its anon_vma, unless another fault was faster: then what
    /// was put aside goes back. Returns the one that the area has.
    ///
    /// `neighbour` is the anon_vma of an area beside it that could be merged
    /// with it if both had the same one, and that has no other chains: it is
    /// taken, so that they can be. None makes a new family.
    ///
    /// # Locks
    /// The space lock for reading and the space's lock for choosing anon_vmas
    /// (`AnonRoot`, key zero), so that neighbours stay and choose in turn.
    /// Takes the family's lock.
    pub fn publish(
        mut self,
        vma: Handle<Vma>,
        neighbour: Option<Handle<AnonVma>>,
    ) -> Option<Handle<AnonVma>> {
        let rmap = self.fresh.rmap;
        #[cfg(not(mm_mutant = "chosen_without_look"))]
        if let Some(own) = rmap.own(vma) {
            return Some(own);
        }
        let anon = match neighbour {
            Some(anon) => anon,
            None => {
                let anon = self.fresh.take()?;
                // It counts itself as a child, so that it is never reused.
                rmap.anon(anon).fill(anon, anon, 1);
                anon
            }
        };
        let locked = rmap.lock(anon);
        rmap.link(&locked, vma, anon, &mut self.chains);
        rmap.adopt(vma, anon);
        Some(anon)
    }
}

impl<P: Platform> Fork<'_, '_, P> {
    /// Gives the child's copy of an area chains to all anon_vmas of the parent's, so
    /// that the pages it inherits are found in it, and an anon_vma for the
    /// pages it will make. Undone by [`Rmap::unlink`] of the child's.
    ///
    /// Entries are copied only after this: a page is never mapped by an area
    /// where it cannot be found.
    ///
    /// # Locks
    /// As [`Rmap::reserve_fork`]; takes the family's.
    pub fn commit(mut self, child: Handle<Vma>, parent: Handle<Vma>) {
        let (Some(fresh), chains) = (&mut self.fresh, &mut self.chains) else {
            return;
        };
        let rmap = fresh.rmap;
        let Some(own) = rmap.own(parent) else {
            return;
        };
        debug_assert!(
            rmap.vma(child).chain_count() == 0,
            "{child:?} has chains already"
        );
        let locked = rmap.lock(own);
        let mut reused = None;
        for chain in rmap.chains_of(parent) {
            let Some(anon) = rmap.chain(chain).anon() else {
                continue;
            };
            rmap.link(&locked, child, anon, chains);
            if reused.is_none() && rmap.anon(anon).is_reusable() {
                reused = Some(anon);
            }
        }
        if let Some(anon) = reused {
            rmap.adopt(child, anon);
            return;
        }
        let Some(anon) = fresh.take() else {
            return;
        };
        let root = locked.root();
        rmap.anon(anon).fill(root, own, 0);
        rmap.anon(root).add_ref();
        rmap.anon(own).add_child();
        rmap.link(&locked, child, anon, chains);
        rmap.adopt(child, anon);
    }
}
