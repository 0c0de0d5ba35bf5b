//! Areas and their relatives: the copy of an area in the child of a fork, and
//! the neighbour whose anon_vma an area takes for its first private page.

use super::{Shape, Upkeep, Vma, VmaFlags, VmaSpec, VmaTree};
use crate::error::OutOfMemory;
use crate::pool::Handle;
use crate::tree::Resolve;

/// Puts a copy of an area into the tree of a fork's child, at the same place,
/// with the same object and with chains to the same anon_vmas, so that the
/// pages it will share are found in it before they are there.
///
/// The copy is unlocked (mlock(2): locks are not inherited); a `WIPE_ON_FORK`
/// area is copied without its pages and so without chains.
///
/// In the object's map the copy stands behind the area, which has the same
/// offset (Linux: vma_interval_tree_insert_after). A truncation beside the fork
/// so comes to the parent's area first: what fork copied before that, the
/// truncation still finds in the copy, and afterwards there is nothing to copy.
/// The other way round it would find the copy empty, and the entry that fork
/// then copies would lead to a page that was cut off.
///
/// # Errors
/// [`OutOfMemory`], with nothing changed.
///
/// # Locks
/// The parent's space lock for writing, and the child's or a child that nobody
/// knows yet. Takes the family's and the object's lock.
pub fn duplicate<U: Upkeep>(
    up: &U,
    from: Handle<Vma>,
    tree: &VmaTree,
) -> Result<Handle<Vma>, OutOfMemory> {
    let old = up.get(from);
    let spec = old.spec();
    let flags = spec.flags.difference(VmaFlags::ANY_LOCK);
    let to = up.alloc()?;
    let new = up.get(to);
    new.fill(tree, old.range(), &VmaSpec { flags, ..spec });
    if old.anon_raw() != 0 && !flags.contains(VmaFlags::WIPE_ON_FORK) {
        if let Err(error) = up.chains_fork(to, from) {
            up.free(to);
            return Err(error);
        }
    }
    new.attach();
    up.retain(to);
    tree.insert(up, to);
    let mut locked = up.lock(spec.object, 0);
    // Behind the area: see above.
    up.map_insert(&mut locked, to);
    drop(locked);
    new.unmark();
    Ok(to)
}

/// Returns the number of the anon_vma that an area should share with a
/// neighbour rather than get one of its own: so that the two can be one area
/// when their rights become equal (Linux: find_mergeable_anon_vma).
///
/// The neighbour must have nothing but its own anon_vma, and agree in all that
/// does not change by protect.
///
/// # Locks
/// The space lock, at least for reading, and the space's lock for choosing
/// anon_vmas.
pub fn anon_candidate(tree: &VmaTree, nodes: &impl Resolve<Vma>, vma: Handle<Vma>) -> Option<u32> {
    let own = nodes.get(vma).shape();
    let shape = |h: Handle<Vma>| nodes.get(h).shape();
    let above = tree
        .next(nodes, vma)
        .map(shape)
        .filter(|above| could_merge(&own, above));
    let below = || {
        tree.prev(nodes, vma)
            .map(shape)
            .filter(|below| could_merge(below, &own))
    };
    let alone = |s: Shape| match s.anon {
        super::AnonLink::Alone(id) => Some(id),
        super::AnonLink::None | super::AnonLink::Family(_) => None,
    };
    above.and_then(alone).or_else(|| below().and_then(alone))
}

fn could_merge(left: &Shape, right: &Shape) -> bool {
    let rights = VmaFlags::RIGHTS.union(VmaFlags::STICKY);
    left.range.end() == right.range.start()
        && left
            .spec
            .flags
            .symmetric_difference(right.spec.flags)
            .difference(rights)
            .is_empty()
        && left.spec.continues_with(left.range.pages(), &right.spec)
}
