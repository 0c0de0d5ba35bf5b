//! Address spaces: the verbs, one a file.
//!
//! ```text
//!   kernel ──► map unmap protect remap brk advise seal lock populate read/write fork query   verbs: this folder
//!                 │      each makes one Cx, takes the space lock, never calls another verb
//!                 ▼
//!   edit of areas (crate::vma)   zap, entries (crate::table, crate::tlb)   fault (crate::fault)
//! ```
//!
//! | verb | space lock | may answer `Wait` |
//! |---|---|---|
//! | map, rearrange, unmap, protect, brk | write, but not while entries are zapped or rewritten (`busy`) | no |
//! | remap | write, to its end where areas move | no |
//! | advise(flags), seal, lock | write | no |
//! | advise(DONTNEED) | read | no |
//! | advise(REMOVE) | read, area by area, and none while pages go | no |
//! | fork | write, and the child's | no |
//! | fault | none; read for an area's first anon_vma, write for stack growth | yes |
//! | populate | read, page by page | yes, with progress |
//! | read, write | as fault, page by page | yes, with progress |
//! | query | read | no |
//!
//! [`AddressSpace`] is a counted handle (`vma::owner` says what is counted): clone
//! it for each thread (CLONE_VM) and vfork child, drop it at exit.

mod access;
mod active;
mod advise;
mod brk;
mod busy;
mod fault;
mod fork;
mod lock;
mod map;
mod modify;
mod populate;
mod protect;
mod query;
mod rearrange;
mod remap;
mod request;
mod seal;
mod unmap;
mod upkeep;

pub use access::Word32;
pub use active::{Active, Root};
pub use advise::Advice;
pub use lock::LockKind;
pub use query::{Maps, VmaInfo};
pub use remap::RemapFlags;
pub use request::{Backing, MapFlags, MapRequest};
#[cfg(feature = "validate")]
pub(crate) use upkeep::Nodes;

use crate::addr::Vpn;
use crate::cx::Cx;
use crate::error::MmError;
use crate::format::{PageTableFormat, TableOwner};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::table::PageTable;
pub use crate::vma::{Counts, Layout, PageCount, PresentCount, SpaceLimits, SpaceNode};
use core::fmt;

/// A counted handle to an address space: a *user* of it.
///
/// The last one dropped unmaps everything (Linux: mmput, exit_mmap).
pub struct AddressSpace<'m, P: Platform> {
    mm: &'m Mm<P>,
    handle: Handle<SpaceNode>,
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Makes an empty space (Linux: mm_alloc).
    ///
    /// # Errors
    /// [`MmError::OutOfMemory`].
    pub fn new(mm: &'m Mm<P>, limits: SpaceLimits) -> Result<Self, MmError> {
        let cx = mm.cx();
        let space = Self::fresh(mm, &cx)?;
        let mut layout = space.node().lock.write(&cx, space.key());
        // The node may have been another space's: nothing of that stays.
        *layout = Layout::NONE;
        space.set_limits_locked(&mut layout, limits);
        drop(layout);
        Ok(space)
    }

    /// Makes a space for `new` and `fork`, which write its layout.
    fn fresh(mm: &'m Mm<P>, cx: &Cx<'m, P>) -> Result<Self, MmError> {
        let handle = mm.spaces.alloc(cx)?;
        match PageTable::create(cx, TableOwner::User, handle.into_raw()) {
            Ok(root) => {
                let node = mm.spaces.get(mm.frames(), handle);
                node.start(root);
                node.vmas.set_space(handle.into_raw());
                Ok(Self { mm, handle })
            }
            Err(error) => {
                let freed = mm.spaces.free(cx, handle);
                debug_assert_eq!(freed, Ok(()));
                Err(error.into())
            }
        }
    }

    /// Returns the machine.
    pub fn mm(&self) -> &'m Mm<P> {
        self.mm
    }

    /// Returns a number that is this space's alone while it lives.
    pub fn id(&self) -> u32 {
        self.handle.into_raw()
    }

    /// Returns the page counts, with all that CPUs counted for the space.
    ///
    /// # Locks
    /// Takes `Present` of each CPU in turn.
    pub fn counts(&self) -> &'m Counts {
        let node = self.node();
        node.settle(&self.mm.cx(), self.key());
        &node.counts
    }

    /// Returns the number of users of the space.
    pub fn users(&self) -> u32 {
        self.node().users()
    }

    /// Returns the bounds of the space.
    ///
    /// # Locks
    /// Takes the space lock for reading.
    pub fn limits(&self) -> SpaceLimits {
        let cx = self.mm.cx();
        self.node().lock.read(&cx, self.key()).limits
    }

    /// Changes the bounds (setrlimit(2)); what is mapped stays.
    ///
    /// # Locks
    /// Takes the space lock for writing.
    pub fn set_limits(&self, limits: SpaceLimits) {
        let cx = self.mm.cx();
        self.set_limits_locked(&mut self.node().lock.write(&cx, self.key()), limits);
    }

    /// Sets the bounds, and tells the areas how far to keep off stacks.
    fn set_limits_locked(&self, layout: &mut Layout, limits: SpaceLimits) {
        let guard = SpaceLimits::pages(limits.stack_guard, self.shift());
        let guard = u32::try_from(guard).unwrap_or(u32::MAX);
        self.node().vmas.set_stack_guard(guard);
        layout.limits = limits;
    }

    pub(crate) fn node(&self) -> &'m SpaceNode {
        self.mm.spaces.get(self.mm.frames(), self.handle)
    }

    /// Returns the key that orders this space's lock among spaces.
    pub(crate) fn key(&self) -> u32 {
        self.handle.into_raw()
    }

    pub(crate) fn table<'c>(&self, cx: &'c Cx<'m, P>) -> PageTable<'c, 'm, P> {
        PageTable::view(
            cx,
            self.node().root(),
            TableOwner::User,
            self.handle.into_raw(),
        )
    }

    /// Returns the page shift of the format.
    pub(crate) fn shift(&self) -> u32 {
        self.mm.platform().format().page_shift()
    }

    /// Returns the pages that users may map under these bounds.
    pub(crate) fn user_range(&self, limits: &SpaceLimits) -> PageRange {
        PageRange::new(limits.min_page(self.shift()), self.user_end())
    }

    /// Returns the end of user space.
    pub(crate) fn user_end(&self) -> Vpn {
        self.mm.platform().format().user_end()
    }
}

impl<P: Platform> Clone for AddressSpace<'_, P> {
    /// Adds a user: a thread, or a vfork child until it execs. A space whose
    /// users were forgotten by the billion stays for good ([`core::mem::forget`]).
    fn clone(&self) -> Self {
        self.node().get_user();
        Self {
            mm: self.mm,
            handle: self.handle,
        }
    }
}

impl<P: Platform> Drop for AddressSpace<'_, P> {
    fn drop(&mut self) {
        if !self.node().put_user() {
            return;
        }
        let cx = self.mm.cx();
        self.unmap_everything(&cx);
        self.node().settle_empty(&cx, self.key());
        active::put_space_ref(self.mm, &cx, self.handle);
    }
}

impl<P: Platform> fmt::Debug for AddressSpace<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressSpace({:?}, {} users)", self.handle, self.users())
    }
}
