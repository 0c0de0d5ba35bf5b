//! Which space a CPU has loaded.
//!
//! A CPU keeps one `Option<Active>`. [`AddressSpace::switch`] replaces it: tell
//! the space that this CPU may remember its translations, find its hardware
//! tag, load the root, then tell the old one that it does not run it any more.
//!
//! # Lazy CPUs
//! A kernel thread runs in whatever is loaded (lazy TLB): its CPU keeps the
//! `Active`, which holds a reference, so the root stays although the last user
//! may be gone. [`Active::lazy`] says so: flushes that free no tables leave the
//! CPU alone from there on, and [`AddressSpace::switch`] to the same space, which
//! must come before the next user instruction, catches up.

use super::{AddressSpace, SpaceNode};
use crate::addr::PhysAddr;
use crate::cx::Cx;
use crate::format::TableOwner;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::table::PageTable;
use crate::tlb::Remembered;
use core::fmt;

/// What the CPU's root register is loaded with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// The address of the root table.
    pub table: PhysAddr,
    /// The hardware tag of the space, zero where tags are not used.
    pub asid: u16,
    /// Whether the load must drop what the CPU remembers under this tag; global
    /// entries stay.
    pub remembered: Remembered,
}

/// A CPU's word that it has a space loaded; keeps its root alive. See the
/// contract of [`AddressSpace::switch`] for when it may be dropped.
pub struct Active<'m, P: Platform> {
    mm: &'m Mm<P>,
    handle: Handle<SpaceNode>,
    cpu: usize,
    asid: u16,
    mode: Runs,
}

/// Who runs on a loaded root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    Users,
    KernelThreads,
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Makes this space the one that this CPU has loaded and runs users of.
    /// `load` writes the root register, and drops what is remembered under the
    /// tag when [`Root::remembered`] says that it is stale. Nothing is loaded
    /// when the space is loaded already and no flush was missed.
    ///
    /// # Safety
    /// `loaded` is what this CPU's last switch left there: `None` when the root
    /// register holds a root that the library knows nothing of. `load` does load
    /// the root. An [`Active`] is dropped only after the CPU has loaded another root
    /// than its own: it keeps the tables that hardware walks from being freed. After
    /// [`Active::lazy`] no user instruction runs here before the next switch: flushes pass
    /// this CPU over.
    ///
    /// # Locks
    /// Preemption must be off. Takes `(Pool, MAX)` when the space needs a new
    /// tag; and the space that is left may be freed here: `Pool` and `Buddy`.
    #[expect(unsafe_code, reason = "what a CPU has loaded is the kernel's word")]
    pub unsafe fn switch(&self, loaded: &mut Option<Active<'m, P>>, load: impl FnOnce(Root)) {
        let cx = self.mm.cx();
        let node = self.node();
        if let Some(active) = loaded.as_mut().filter(|active| active.is_of(self)) {
            if active.mode == Runs::KernelThreads {
                let root = self.root_to_load(&cx);
                if root.remembered == Remembered::Stale || root.asid != active.asid {
                    load(root);
                }
                active.asid = root.asid;
                active.mode = Runs::Users;
            }
            return;
        }
        node.get_ref();
        let root = self.root_to_load(&cx);
        load(root);
        // The old one is dropped, and with it this CPU's state in its word, only
        // now that another root is loaded.
        *loaded = Some(Active {
            mm: self.mm,
            handle: self.handle,
            cpu: self.mm.platform().cpu(),
            asid: root.asid,
            mode: Runs::Users,
        });
    }

    /// Enters the space on this CPU; what is to be loaded for it.
    fn root_to_load(&self, cx: &Cx<'m, P>) -> Root {
        let node = self.node();
        let platform = cx.platform();
        let (asid, remembered) = match platform.asids() {
            Some(asids) => asids.activate(cx, &node.tlb),
            None => (0, node.tlb.activate(platform.cpu())),
        };
        Root {
            table: node.root().addr(self.shift()),
            asid,
            remembered,
        }
    }
}

impl<P: Platform> Active<'_, P> {
    /// Returns whether this CPU has that space loaded.
    fn is_of(&self, space: &AddressSpace<'_, P>) -> bool {
        self.handle == space.handle
            && core::ptr::eq(self.mm, space.mm)
            && self.cpu == self.mm.platform().cpu()
    }

    /// Returns the number of the loaded space.
    pub fn id(&self) -> u32 {
        self.handle.into_raw()
    }

    /// Notes that this CPU goes on with a kernel thread, which uses no address
    /// of users; [`AddressSpace::switch`] comes before the next user.
    ///
    /// # Locks
    /// Preemption must be off. Takes none.
    pub fn lazy(&mut self) {
        if self.mode == Runs::Users {
            let node = self.mm.spaces.get(self.mm.frames(), self.handle);
            node.tlb.lazy(self.cpu);
            self.mode = Runs::KernelThreads;
        }
    }
}

impl<P: Platform> Drop for Active<'_, P> {
    fn drop(&mut self) {
        let node = self.mm.spaces.get(self.mm.frames(), self.handle);
        if self.asid == 0 {
            node.tlb.deactivate(self.cpu);
        } else {
            node.tlb.leave(self.cpu);
        }
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
        let freed = mm.spaces.free(cx, handle);
        debug_assert_eq!(freed, Ok(()));
    }
}
