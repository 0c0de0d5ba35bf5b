//! Which areas map an object: the interval tree by page offset (Linux: `i_mmap`).
//!
//! An area is in the tree of its object from its commit to its removal, private
//! ones too: they may map cached pages until they write to them. Its range and
//! offset change only while it is out of the tree, under the lock; so whoever
//! holds the lock sees every area that may map a page of the object, whole.

use super::node::{Mapped, ObjectView};
use crate::cx::Cx;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::sync::{ReadGuard, WriteGuard};
use crate::tree::{IntervalTree, Overlaps, Resolve};
use crate::vma::{ByOffset, Vma};

/// The areas of an object, locked to be changed.
pub struct ObjectMap<'c, 'm, P: Platform> {
    mapped: WriteGuard<'c, Mapped, Cx<'m, P>>,
}

/// The areas of an object, locked to be walked.
pub struct ObjectAreas<'c, 'm, P: Platform> {
    mapped: ReadGuard<'c, Mapped, Cx<'m, P>>,
}

impl<'c, 'm: 'c, P: Platform> ObjectView<'c, 'm, P> {
    /// Locks the areas to put some in or take some out.
    ///
    /// # Locks
    /// Takes `ObjectMap`.
    pub(crate) fn lock_map(self) -> ObjectMap<'c, 'm, P> {
        ObjectMap {
            mapped: self.object.map.write(self.cx, self.key()),
        }
    }

    /// Locks the areas to walk them.
    ///
    /// # Locks
    /// Takes `ObjectMap` shared.
    pub fn read_map(self) -> ObjectAreas<'c, 'm, P> {
        ObjectAreas {
            mapped: self.object.map.read(self.cx, self.key()),
        }
    }
}

impl<P: Platform> ObjectMap<'_, '_, P> {
    /// Puts an area in that is in no object's tree, behind those that begin at
    /// the same offset.
    pub fn insert(&mut self, nodes: &impl Resolve<Vma>, vma: Handle<Vma>) {
        self.mapped.areas.insert(nodes, vma);
    }

    /// Takes an area of this object out.
    pub fn remove(&mut self, nodes: &impl Resolve<Vma>, vma: Handle<Vma>) {
        self.mapped.areas.remove(nodes, vma);
    }
}

impl<P: Platform> ObjectAreas<'_, '_, P> {
    /// Returns the tree, for reverse walks.
    pub fn tree(&self) -> &IntervalTree<ByOffset> {
        &self.mapped.areas
    }

    /// Returns whether no area maps the object.
    pub fn is_empty(&self) -> bool {
        self.mapped.areas.is_empty()
    }

    /// Walks the areas that map a page of `first..=last`, by their first page.
    pub fn overlaps<'a, R: Resolve<Vma>>(
        &self,
        nodes: &'a R,
        first: u64,
        last: u64,
    ) -> Overlaps<'a, ByOffset, R> {
        let bound = |pgoff: u64| usize::try_from(pgoff).unwrap_or(usize::MAX);
        self.mapped.areas.overlaps(nodes, bound(first), bound(last))
    }
}
