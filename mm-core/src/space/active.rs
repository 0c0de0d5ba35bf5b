//! Which space a CPU has loaded.
//!
//! A CPU keeps one `Option<Active>`. [`AddressSpace::switch`] replaces it: tell
//! the space that this CPU may remember its translations, load the root,
//! then tell the old one that it does not any more. A kernel thread runs in
//! whatever is loaded (lazy TLB): its CPU simply keeps the `Active`, which
//! holds a reference, so the root stays although the last user may be gone.

use super::{AddressSpace, SpaceNode};
use crate::addr::PhysAddr;
use crate::cx::Cx;
use crate::format::TableOwner;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::table::PageTable;
use core::fmt;

/// What the CPU's root register is loaded with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// The address of the root table.
    pub table: PhysAddr,
    /// The hardware tag of the space, zero where tags are not used.
    pub asid: u16,
}

/// Proof that a CPU has a space loaded; keeps its root alive.
pub struct Active<'m, P: Platform> {
    mm: &'m Mm<P>,
    handle: Handle<SpaceNode>,
    cpu: usize,
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Makes this space the one that this CPU has loaded. `load` writes the
    /// root register and drops translations of the tag's earlier owner (a
    /// plain write does where tags are not used). Nothing is loaded when the
    /// space is loaded already.
    ///
    /// # Locks
    /// Preemption must be off. Takes none, but the space that is left may be
    /// freed here: `Pool` and `Buddy`.
    pub fn switch(&self, loaded: &mut Option<Active<'m, P>>, load: impl FnOnce(Root)) {
        if loaded
            .as_ref()
            .is_some_and(|active| active.handle == self.handle)
        {
            return;
        }
        let node = self.node();
        let cpu = self.mm.platform().cpu();
        node.get_ref();
        node.tlb.activate(cpu);
        let shift = self.shift();
        load(Root {
            table: node.root().addr(shift),
            asid: node.tlb.asid().unwrap_or(0),
        });
        // The old one is dropped, and with it this CPU's bit in its mask, only
        // now that another root is loaded.
        *loaded = Some(Active {
            mm: self.mm,
            handle: self.handle,
            cpu,
        });
    }
}

impl<P: Platform> Active<'_, P> {
    /// Returns the number of the loaded space.
    pub fn id(&self) -> u32 {
        self.handle.into_raw()
    }
}

impl<P: Platform> Drop for Active<'_, P> {
    fn drop(&mut self) {
        let node = self.mm.spaces.get(self.mm.frames(), self.handle);
        node.tlb.deactivate(self.cpu);
        let cx = self.mm.cx();
        put_space_ref(self.mm, &cx, self.handle);
    }
}

impl<P: Platform> fmt::Debug for Active<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Active({:?} on CPU {})", self.handle, self.cpu)
    }
}

/// Gives up a reference to a space; the last one frees the root and the node
/// (Linux: mmdrop).
pub(super) fn put_space_ref<P: Platform>(mm: &Mm<P>, cx: &Cx<'_, P>, handle: Handle<SpaceNode>) {
    let node = mm.spaces.get(mm.frames(), handle);
    if node.put_ref() {
        let table = PageTable::view(cx, node.root(), TableOwner::User, handle.into_raw());
        let destroyed = table.destroy(&node.tlb);
        debug_assert!(destroyed.is_ok(), "the last reference leaves an empty root");
        mm.spaces.free(cx, handle);
    }
}
