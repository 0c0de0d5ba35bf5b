//! What a kernel supplies.
//!
//! A [`Platform`] is an *instance* that lives in the machine
//! ([`crate::page::Frames`], [`crate::Mm`]): kernels put one in a static,
//! tests make ten. It bundles
//!
//! | part | trait | shipped implementation |
//! |---|---|---|
//! | page-table format | [`crate::format::PageTableFormat`] | the backends |
//! | memory: the only casts from frames to references | [`PhysMemory`] | [`DirectMap`] |
//! | CPUs: which one, preemption, waiting | [`Platform`] | defaults for one CPU |
//! | TLB: local flush, remote shootdown | [`Platform`] | the backends' instructions |
//! | wake-ups, code coherence, charging | [`Platform`] | defaults that do nothing |

mod mem;
mod regions;

pub use mem::{DirectMap, LinearMemory, PhysMemory};
pub use regions::{FrameRange, Region, RegionKind, Usable, normalise};

use crate::addr::Pfn;
use crate::error::{NoSpace, OutOfMemory};
use crate::format::PageTableFormat;
use crate::range::PageRange;

/// The most CPUs a machine may have. Models have fewer, so that they end.
pub const MAX_CPUS: usize = if cfg!(loom) { 3 } else { 64 };

/// Words of 32 CPUs each that a set of CPUs takes.
pub const CPU_WORDS: usize = MAX_CPUS.div_ceil(32);

/// A set of CPUs, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet([u32; CPU_WORDS]);

impl CpuSet {
    /// The empty set.
    pub const EMPTY: Self = Self([0; CPU_WORDS]);

    /// Makes a set of its words, lowest CPUs first.
    pub const fn from_words(words: [u32; CPU_WORDS]) -> Self {
        Self(words)
    }

    /// Adds a CPU; numbers past [`MAX_CPUS`] are ignored.
    pub fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.0.get_mut(cpu / 32) {
            *word |= 1u32.wrapping_shl(low5(cpu));
        }
    }

    /// Removes a CPU.
    pub fn remove(&mut self, cpu: usize) {
        if let Some(word) = self.0.get_mut(cpu / 32) {
            *word &= !1u32.wrapping_shl(low5(cpu));
        }
    }

    /// Returns whether the CPU is in the set.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0
            .get(cpu / 32)
            .is_some_and(|w| w & 1u32.wrapping_shl(low5(cpu)) != 0)
    }

    /// Returns whether no CPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
    }

    /// Returns the CPUs in either set.
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a |= b;
        }
        self
    }

    /// Walks the CPUs of the set in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..MAX_CPUS).filter(|&cpu| self.contains(cpu))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "five bits")]
const fn low5(cpu: usize) -> u32 {
    (cpu & 31) as u32
}

/// What to drop from TLBs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flush {
    /// The pages; all of the space when `None`.
    pub pages: Option<PageRange>,
    /// Page-table pages were unlinked too: paging-structure caches must go.
    pub tables: bool,
    /// The tag of the space, `None` for all spaces and global entries (kernel
    /// mappings). On machines without tags the tag is zero.
    pub asid: Option<u16>,
}

/// What a kernel supplies: see the module.
///
/// # Safety
/// Every frame given to the family is real memory that nobody else uses;
/// [`Self::cpu`] tells the truth while preemption is off; when
/// [`Self::flush`] returns, no CPU of the set can use a dropped translation
/// (a CPU that is not running a user of the space and will flush before it
/// does so again counts as done).
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
pub unsafe trait Platform: Sized + Sync + 'static {
    /// The page-table format of user spaces.
    type Format: PageTableFormat;
    /// The way to reach frames.
    type Memory: PhysMemory;

    /// Returns the page-table format.
    fn format(&self) -> Self::Format;
    /// Returns the way to reach frames.
    fn memory(&self) -> &Self::Memory;

    /// Returns the number of this CPU, below [`MAX_CPUS`].
    fn cpu(&self) -> usize {
        0
    }
    /// Forbids preemption on this CPU; nests.
    fn preempt_off(&self) {}
    /// Allows preemption again.
    fn preempt_on(&self) {}
    /// Called in wait loops with the number of turns: must let a pending
    /// shootdown be served, and may yield when preemption is on.
    fn relax(&self, _spins: u32) {
        crate::sync::spin_hint();
    }

    /// Returns the hardware tags of spaces (PCID, ASID): one pool for a machine,
    /// usually a static. None, where TLBs do not tell spaces apart.
    /// [`crate::space::Root`] says what a load of a root owes.
    fn asids(&self) -> Option<&crate::tlb::AsidPool> {
        None
    }

    /// Drops translations on the CPUs of the set, this one included if it is
    /// in the set, and returns when all have done so. Never takes a lock that
    /// the family may hold, and while it waits for others it serves what they
    /// ask, as [`Self::relax`] does: one of them may be waiting for this CPU.
    ///
    /// Preemption is off: what the asking CPU notes in a place of its own stays its own
    /// until all have answered. Interrupts may be on, or off.
    fn flush(&self, cpus: CpuSet, flush: Flush);

    /// Called after a ticket with this key was finished: whoever joined it
    /// may retry. No inner lock of the family's is held, but outer ones may be.
    fn wake(&self, _key: crate::object::TicketKey) {}

    /// Makes freshly written instructions in a frame visible to fetches on
    /// every CPU, and returns when they are. An executable leaf is published
    /// only after this was called since the last write through the library
    /// (`page::code` says how). The frame is RAM, as the direct map may hold nothing
    /// else: it has a record, or `vmap` was given it. No lock of the family's
    /// inner ones is held. A no-op only where instruction caches are coherent (x86).
    fn sync_code(&self, _frame: Pfn) {}

    /// Asked before memory is given to a user, in the verb that needs it, with no
    /// inner lock of the family's held. One frame is charged for
    ///
    /// - each anonymous page of each space: one that a fork shares is charged to
    ///   parent and child, as either may need a copy;
    /// - each page that a memory-only object holds (shared anonymous memory, a
    ///   tmpfs), whoever makes it, until it is cut off or the object ends.
    ///
    /// Not charged are pages of files, which can be read again, page tables, and
    /// nodes of areas and objects (Linux's memory cgroups charge these, too).
    /// [`Self::may_allocate`] and [`Self::may_allocate_node`] are asked for each
    /// of their frames and nodes; a space's limits bound its areas.
    ///
    /// # Errors
    /// [`OutOfMemory`] refuses.
    fn try_charge(&self, _frames: usize) -> Result<(), OutOfMemory> {
        Ok(())
    }
    /// Asked before an area that counts as committed memory
    /// ([`VmaFlags::ACCOUNT`](crate::vma::VmaFlags::ACCOUNT)) is made or grows by so many pages, by
    /// whichever verb, and before shared anonymous memory of so many is made: could they
    /// all be touched? The verb that asks exceeds a limit where they could not. It is a question:
    /// it may be asked twice, nothing follows, and nobody is told when the area goes. So a
    /// kernel refuses what can never be had (Linux: `vm.overcommit_memory` 0), while
    /// [`Self::try_charge`] counts what is had. Not asked for what is mapped with
    /// [`MapFlags::NO_RESERVE`](crate::space::MapFlags::NO_RESERVE).
    fn may_commit(&self, _pages: usize) -> bool {
        true
    }
    /// Told when charged memory comes back, to whichever verb gives it back.
    fn uncharge(&self, _frames: usize) {}

    /// Asked before an object of a store
    /// ([`PagerFacts::store`](crate::object::PagerFacts::store)) has one page more, whether
    /// by a write or by an access to a mapping, besides [`Self::try_charge`]. What is
    /// granted is the store's until [`Self::let_go`]: a platform that counts both up and
    /// down knows at each moment how many pages a store has at most, and zero when it is
    /// empty. No inner lock of the family's is held, but outer ones may be.
    ///
    /// # Errors
    /// [`NoSpace`] refuses: a tmpfs is full. The verb that asked answers
    /// [`MmError::NoSpace`](crate::error::MmError::NoSpace), a fault
    /// [`FaultOutcome::NoSpace`](crate::fault::FaultOutcome::NoSpace).
    fn try_hold(&self, _store: u64) -> Result<(), NoSpace> {
        Ok(())
    }
    /// Told when pages have left a store: cut off, holes, or the object ended; or one
    /// that was granted did not come about. Called as [`Self::try_hold`].
    fn let_go(&self, _store: u64, _pages: usize) {}

    /// Asked before each allocation of a frame: a place for fault injection
    /// and for reserves of the kernel's own.
    fn may_allocate(&self, _order: u8) -> bool {
        true
    }
    /// Asked before each allocation of a node of a pool, which may need a
    /// frame: a place for fault injection. `pool` is the pool's name.
    fn may_allocate_node(&self, _pool: &'static str) -> bool {
        true
    }
    /// Told of each lock that a verb is about to take: a place for counting
    /// and for tests of the order. Takes no lock of the family itself.
    fn locking(&self, _rank: crate::sync::Rank) {}
}
