//! Reverse mapping: from a page to every area that may map it.
//!
//! A cached page is found through the areas that map its object, by offset. An
//! anonymous page belongs to no object; after forks many areas of many spaces
//! may map it, all descended from the one where it was first touched. They are
//! gathered as Linux gathers them (`mm/rmap.c`):
//!
//! ```text
//!  parent's area ──chain──► AnonVma A (root, holds the lock)      pages touched
//!        ▲                    ▲     ▲                              before the fork
//!      chain list           chain   └──parent── AnonVma C          belong to A,
//!                             │                   ▲                the child's own
//!  child's area ──────────────┴──────chain────────┘                to C
//! ```
//!
//! Whose page it is ([`AnonVma`]) says where to begin: its interval tree names
//! the areas, by page offset, that may map it. An area has a chain to its own
//! anon_vma and to those of all its ancestors, so a page that a child
//! inherited is found in the child through its owner A; a page of the child is
//! looked for in the child and its descendants only.
//!
//! | operation | memory | when |
//! |---|---|---|
//! | [`Rmap::reserve_prepare`], [`Prepare::publish`] | 1 anon_vma, 1 chain | the first write fault in an area |
//! | [`Rmap::copy`] | as many chains as the source has | split, remap |
//! | [`Rmap::move_to`] | none | merge into an area without pages |
//! | [`Rmap::hide`], [`Rmap::show`] | none | around a change of range or offset |
//! | [`Rmap::reserve_fork`], [`Fork::commit`] | 1 anon_vma, chains of the parent + 1 | fork, per area |
//! | [`Rmap::unlink`] | none | the area goes |
//!
//! What needs memory reserves it first; what follows cannot fail.
//!
//! **Locks.** All anon_vmas of one family share the lock in their root, and all
//! chains of an area lead into one family (asserted), so no two of these
//! locks are ever held. The lock for writing guards interval trees, counts, and
//! the range and offset of every area in them; [`walk()`] takes it for
//! reading. The list of an area's chains is guarded by its space's lock too.
//!
//! **Life.** An anon_vma lives while an area has a chain to it or somebody
//! holds a reference; its root lives as long. A page does not hold one: while
//! a page is mapped, the area that maps it has the chain. Who unlinks
//! an area has given its mapped pages back before.

mod anon;
mod chain;
mod fork;
mod walk;

pub use anon::{AnonVma, AnonVmaChain, RootGuard};
pub use chain::Chains;
#[cfg(any(test, feature = "validate"))]
pub use chain::RmapFlaw;
pub use fork::{Fork, Prepare};
pub use walk::{Hit, walk, walk_areas};

use crate::cx::Cx;
use crate::platform::Platform;
use crate::pool::{Handle, Pool};
use crate::tree::Resolve;
use crate::vma::Vma;

/// The nodes of reverse mapping of one machine, seen by one executing verb.
pub struct Rmap<'c, 'm, P: Platform> {
    cx: &'c Cx<'m, P>,
    anons: &'c Pool<AnonVma>,
    chains: &'c Pool<AnonVmaChain>,
    vmas: &'c Pool<Vma>,
}

impl<P: Platform> Clone for Rmap<'_, '_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for Rmap<'_, '_, P> {}

impl<'c, 'm, P: Platform> Rmap<'c, 'm, P> {
    /// Makes the view of the pools of a machine.
    pub fn new(
        cx: &'c Cx<'m, P>,
        anons: &'c Pool<AnonVma>,
        chains: &'c Pool<AnonVmaChain>,
        vmas: &'c Pool<Vma>,
    ) -> Self {
        Self {
            cx,
            anons,
            chains,
            vmas,
        }
    }

    /// Returns the anon_vma of a handle.
    pub fn anon(&self, anon: Handle<AnonVma>) -> &'m AnonVma {
        self.anons.get(self.cx.frames(), anon)
    }

    fn chain(&self, chain: Handle<AnonVmaChain>) -> &'m AnonVmaChain {
        self.chains.get(self.cx.frames(), chain)
    }

    fn vma(&self, vma: Handle<Vma>) -> &'m Vma {
        self.vmas.get(self.cx.frames(), vma)
    }
}

impl<P: Platform> Resolve<Vma> for Rmap<'_, '_, P> {
    fn get(&self, handle: Handle<Vma>) -> &Vma {
        self.vma(handle)
    }
}

impl<P: Platform> Resolve<AnonVmaChain> for Rmap<'_, '_, P> {
    fn get(&self, handle: Handle<AnonVmaChain>) -> &AnonVmaChain {
        self.chain(handle)
    }
}
