//! What must follow when areas change.
//!
//! Areas are found in three ways besides their tree: through the object they map,
//! through the anon_vmas of their private pages, and by whoever counts them.
//! Edits know when these must change; how is the machine's affair, and
//! stands behind this trait so that edits can be tested without a machine.

use super::Vma;
use crate::error::OutOfMemory;
use crate::pool::Handle;
use crate::sync::Context;
use crate::tree::Resolve;

/// What must follow when areas change: nodes, objects, anon_vmas.
///
/// The machine implements it over its pools; tests over vectors.
pub trait Upkeep: Resolve<Vma> {
    /// The context of the executing verb.
    type Context: Context;
    /// Chains put aside.
    type Chains;
    /// The lock of an object's map of areas, and of an anon_vma's root.
    type Locked;

    /// Returns the context.
    fn context(&self) -> &Self::Context;

    /// Takes a node from the pool.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn alloc(&self) -> Result<Handle<Vma>, OutOfMemory>;
    /// Gives a node that is in no tree back.
    fn free(&self, vma: Handle<Vma>);

    /// Puts chains aside.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing put aside.
    fn reserve_chains(&self, chains: u32) -> Result<Self::Chains, OutOfMemory>;
    /// Gives chains back.
    fn release_chains(&self, chains: Self::Chains);

    /// Takes a reference to the object of a new area; tells its hook.
    fn retain(&self, vma: Handle<Vma>);
    /// Gives the reference of an area that goes back; tells its hook.
    fn release(&self, vma: Handle<Vma>);

    /// Locks the object and the anon_vma root of these numbers (zero: none).
    fn lock(&self, object: u32, anon: u32) -> Self::Locked;
    /// Puts an area into its object's map.
    fn map_insert(&self, locked: &mut Self::Locked, vma: Handle<Vma>);
    /// Takes an area out of its object's map.
    fn map_remove(&self, locked: &mut Self::Locked, vma: Handle<Vma>);
    /// Takes an area's chains out of their anon_vmas' interval trees.
    fn chains_hide(&self, locked: &mut Self::Locked, vma: Handle<Vma>);
    /// Puts an area's chains back.
    fn chains_show(&self, locked: &mut Self::Locked, vma: Handle<Vma>);
    /// Gives `to`, which has no anon_vma, that of `from`, and chains like its
    /// (shown).
    fn chains_copy(
        &self,
        locked: &mut Self::Locked,
        to: Handle<Vma>,
        from: Handle<Vma>,
        reserve: &mut Self::Chains,
    );
    /// Moves anon_vma and (hidden) chains to `to`, which has none.
    fn chains_move(&self, locked: &mut Self::Locked, to: Handle<Vma>, from: Handle<Vma>);
    /// Gives `to`, a copy of `from` in the child of a fork, chains to the
    /// anon_vmas of `from` and one of its own.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing changed.
    fn chains_fork(&self, to: Handle<Vma>, from: Handle<Vma>) -> Result<(), OutOfMemory>;
    /// Takes an area out of its anon_vmas and frees its chains. Takes the root
    /// lock itself.
    fn chains_drop(&self, vma: Handle<Vma>);
}
