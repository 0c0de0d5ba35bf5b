//! Software MMUs: walkers of the real words, written from the manuals.
//!
//! A [`Walker`] does what hardware does on a TLB miss: it reads table words out
//! of RAM, checks rights, sets accessed and dirty bits by atomic exchange, and
//! says why when it refuses. It shares nothing with the format code: no
//! constant, no function, not even the word's type. So a format that
//! contradicts its manual, or its own drawing, is found.
//!
//! | walker | source |
//! |---|---|
//! | [`TinyWalker`] | the drawing in `mm_core::format::tiny` |
//! | [`Vmsa64Walker`] | Arm ARM DDI 0487, D8 "The AArch64 Virtual Memory System Architecture" |
//! | [`ShortWalker`] | Arm ARM DDI 0406C, B3.5 "Short-descriptor translation table format" |
//! | [`LpaeWalker`] | B3.6 "Long-descriptor translation table format" |
//! | [`SvWalker`] | RISC-V privileged architecture, "Supervisor-Level ISA": "Sv32" to "Sv57", Svnapot, Svpbmt, Svade, Svadu, Svvptc |
//! | [`TwoLevelWalker`] | Intel SDM volume 3A, 4.3 "32-Bit Paging" |
//! | [`PaeWalker`] | 4.4 "PAE Paging" |
//! | [`LongModeWalker`] | Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level Paging", 4.6 "Access Rights", 4.8 "Accessed and Dirty Flags" |
//!
//! Levels count from the leaf up, as everywhere in the family: a manual's
//! level 3 of VMSAv8-64 is our level 1. Tables are named by physical byte
//! addresses, because some are larger than a frame and some smaller.

#[cfg(target_pointer_width = "64")]
mod long_mode;
mod lpae;
mod pae;
mod short;
mod sv;
mod tiny;
mod two_level;
#[cfg(target_pointer_width = "64")]
mod vmsa64;

#[cfg(target_pointer_width = "64")]
pub use long_mode::LongModeWalker;
pub use lpae::LpaeWalker;
pub use pae::PaeWalker;
pub use short::ShortWalker;
pub use sv::SvWalker;
pub use tiny::TinyWalker;
pub use two_level::TwoLevelWalker;
#[cfg(target_pointer_width = "64")]
pub use vmsa64::Vmsa64Walker;

use crate::arena::Arena;
use mm_core::prot::Access;
use std::fmt::Debug;
use std::sync::atomic::Ordering;

/// From where the CPU accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A user program.
    User,
    /// The kernel.
    Kernel,
}

/// Why a walk was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The address lies in no region that a root translates.
    NonCanonical,
    /// The entry of this level is not present.
    NotPresent(u8),
    /// The entry of this level has bits set that must be zero.
    Reserved(u8),
    /// The page is not the program's at all.
    User,
    /// The right is missing.
    Right(Access),
    /// The domain of the page is closed (ARMv7 short descriptors).
    Domain(u8),
    /// Software has to set the accessed bit first.
    NotAccessed,
    /// Software has to set the dirty bit first.
    NotDirty,
}

/// What a walk found: what a TLB entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first page of the page, block or run.
    pub page: usize,
    /// How many pages it spans.
    pub pages: usize,
    /// Its first frame.
    pub frame: u64,
    /// Loads, stores and fetches that are allowed.
    pub rights: Rights,
    /// Whether hardware need not set the dirty bit any more.
    pub dirty: bool,
    /// Survives a change of address space.
    pub global: bool,
    /// The memory type, as the word numbers it: the index into PAT or MAIR, the
    /// PBMT field, or TEX, C and B.
    pub memory: u8,
}

/// What one mode may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allow {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub exec: bool,
}

impl Allow {
    /// Everything.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        exec: true,
    };
    /// Nothing.
    pub const NONE: Self = Self {
        read: false,
        write: false,
        exec: false,
    };

    fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            exec: self.exec && other.exec,
        }
    }

    fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
            Access::Exec => self.exec,
        }
    }

    /// Returns these rights, or none.
    fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::NONE }
    }
}

/// What entries on the way allow together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// To programs.
    pub user: Allow,
    /// To the kernel.
    pub kernel: Allow,
}

impl Rights {
    /// Everything to everybody.
    pub const ALL: Self = Self {
        user: Allow::ALL,
        kernel: Allow::ALL,
    };

    fn and(self, other: Self) -> Self {
        Self {
            user: self.user.and(other.user),
            kernel: self.kernel.and(other.kernel),
        }
    }

    /// Returns what whom the page is for may do: programs if they may do
    /// anything, else the kernel.
    pub fn owner(self) -> Allow {
        if self.user == Allow::NONE {
            self.kernel
        } else {
            self.user
        }
    }

    /// Checks an access.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn check(self, access: Access, mode: Mode) -> Result<(), Refusal> {
        let allow = match mode {
            Mode::User => self.user,
            Mode::Kernel => self.kernel,
        };
        if allow.allows(access) {
            Ok(())
        } else if mode == Mode::User && allow == Allow::NONE {
            Err(Refusal::User)
        } else {
            Err(Refusal::Right(access))
        }
    }
}

/// The root tables that a CPU runs with, by physical byte address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Roots {
    /// The space's (CR3, TTBR0, satp).
    pub low: u64,
    /// The kernel's own, where hardware has a second root (TTBR1).
    pub high: Option<u64>,
}

/// A position on the way down: what a paging-structure cache holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The level of the table.
    pub level: u8,
    /// The first page that the table spans.
    pub page: usize,
    /// How many pages it spans.
    pub pages: usize,
    /// The table's first byte.
    pub table: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// What the entries above allow.
    pub rights: Rights,
    /// What else the entries above say: the domain (ARMv7 short descriptors),
    /// one below a global entry (RISC-V), else zero.
    pub note: u8,
}

impl Step {
    /// The root of a table whose one root spans every page.
    fn root(level: u8, table: u64, bytes: u64, pages: usize) -> Self {
        Self {
            level,
            page: 0,
            pages,
            table,
            bytes,
            rights: Rights::ALL,
            note: 0,
        }
    }

    /// Returns whether a page lies below.
    pub fn spans(&self, page: usize) -> bool {
        self.page <= page && page - self.page < self.pages
    }
}

/// Which of accessed and dirty hardware sets by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sets {
    /// Accessed and dirty.
    Both,
    /// Accessed.
    Accessed,
    /// Neither.
    Nothing,
}

/// Reads a word of 4 or 8 bytes.
fn load(ram: &Arena, at: u64, bytes: u64) -> u64 {
    match bytes {
        4 => u64::from(ram.word32(at).load(Ordering::SeqCst)),
        _ => ram.word64(at).load(Ordering::SeqCst),
    }
}

/// Replaces a word if it still is the old one; says whether it was.
fn replace(ram: &Arena, at: u64, bytes: u64, old: u64, new: u64) -> bool {
    let order = Ordering::SeqCst;
    match bytes {
        4 => ram
            .word32(at)
            .compare_exchange(old as u32, new as u32, order, order)
            .is_ok(),
        _ => ram
            .word64(at)
            .compare_exchange(old, new, order, order)
            .is_ok(),
    }
}

/// A run of entries that one translation may stand for.
#[derive(Clone, Copy, Debug)]
struct RunOf {
    /// The number of entries.
    entries: u64,
    /// The bytes of an entry.
    bytes: u64,
    /// By how much the words of neighbours differ.
    stride: u64,
    /// What all words of the run share that are part of it now: these bits with
    /// these values. While software makes or breaks a run, others may be there.
    member: (u64, u64),
    /// Bits in which members may differ.
    may_differ: u64,
}

impl RunOf {
    /// Checks the run around an entry that says it belongs to one: whoever
    /// reads any of its entries may use it for all of them, so they must agree.
    fn check(self, ram: &Arena, entry: u64, word: u64) {
        let first = entry & !(self.entries * self.bytes - 1);
        let mine = (entry - first) / self.bytes * self.stride;
        for i in 0..self.entries {
            let other = load(ram, first + i * self.bytes, self.bytes);
            let is_member = other & self.member.0 == self.member.1;
            let unlike = other.wrapping_sub(i * self.stride) ^ word.wrapping_sub(mine);
            assert!(
                !is_member || unlike & !self.may_differ == 0,
                "a run with unlike entries: {other:#x} at {i}, beside {word:#x}"
            );
        }
    }
}

/// One architecture's walk.
///
/// Object-safe, and implemented for references, so that `&'static dyn Walker`
/// is a walker too.
pub trait Walker: Send + Sync + Debug + 'static {
    /// log2 of the page size.
    fn page_shift(&self) -> u32;
    /// Whether TLBs tell spaces apart by tags.
    fn has_tags(&self) -> bool {
        true
    }
    /// Whether entries that were found not present are remembered.
    fn caches_invalid(&self) -> bool;
    /// Whether those of one level are.
    fn caches_invalid_at(&self, _level: u8) -> bool {
        self.caches_invalid()
    }
    /// Whether a fault drops the translation that caused it, and what paging-
    /// structure caches hold of the way to it (Intel SDM 4.10.4.1).
    fn fault_drops_entry(&self) -> bool;
    /// Whether two remembered translations of one page that differ are an
    /// error (Arm: a TLB conflict abort), so that valid entries may only be
    /// replaced by way of an invalid one and a flush.
    fn aborts_on_conflict(&self) -> bool;
    /// Which of accessed and dirty it sets; what it does not, it faults for or
    /// (Arm's dirty state) knows nothing of.
    fn sets(&self) -> Sets;
    /// Whether fetches see what was stored, without any instruction.
    fn coherent_code(&self) -> bool;
    /// The position at the root that translates a page.
    ///
    /// # Errors
    /// The [`Refusal`], where no root does.
    fn start(&self, roots: Roots, page: usize) -> Result<Step, Refusal>;
    /// Goes down from a position; each table met is added to `trail`.
    ///
    /// # Errors
    /// The [`Refusal`], with no bit set in the refusing entry.
    fn walk(
        &self,
        ram: &Arena,
        from: Step,
        page: usize,
        access: Access,
        mode: Mode,
        trail: &mut Vec<Step>,
    ) -> Result<Leaf, Refusal>;
}

impl<W: Walker + ?Sized> Walker for &'static W {
    fn page_shift(&self) -> u32 {
        (**self).page_shift()
    }
    fn has_tags(&self) -> bool {
        (**self).has_tags()
    }
    fn caches_invalid(&self) -> bool {
        (**self).caches_invalid()
    }
    fn caches_invalid_at(&self, level: u8) -> bool {
        (**self).caches_invalid_at(level)
    }
    fn fault_drops_entry(&self) -> bool {
        (**self).fault_drops_entry()
    }
    fn aborts_on_conflict(&self) -> bool {
        (**self).aborts_on_conflict()
    }
    fn sets(&self) -> Sets {
        (**self).sets()
    }
    fn coherent_code(&self) -> bool {
        (**self).coherent_code()
    }
    fn start(&self, roots: Roots, page: usize) -> Result<Step, Refusal> {
        (**self).start(roots, page)
    }
    fn walk(
        &self,
        ram: &Arena,
        from: Step,
        page: usize,
        access: Access,
        mode: Mode,
        trail: &mut Vec<Step>,
    ) -> Result<Leaf, Refusal> {
        (**self).walk(ram, from, page, access, mode, trail)
    }
}

/// What the walkers' own tests share: tables written by hand.
#[cfg(test)]
mod tests {
    use super::{Leaf, Mode, Refusal, Roots, Walker};
    use crate::arena::Arena;
    use mm_core::addr::Pfn;
    use mm_core::platform::PhysMemory;
    use mm_core::prot::Access;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// RAM whose frames, from the byte address 0x10000 on, are all tables. The
    /// root is the first.
    pub(super) struct Tables {
        pub(super) ram: Arena,
    }

    impl Tables {
        pub(super) fn new(page_shift: u32, frames: usize) -> Self {
            let first = 0x10000 >> page_shift;
            let ram = Arena::new(first, frames, page_shift);
            for i in 0..frames as u64 {
                ram.make_words::<AtomicU64>(Pfn::new(first + i), 0);
            }
            Self { ram }
        }

        pub(super) fn put64(&self, table: u64, index: u64, word: u64) {
            self.ram
                .word64(table + index * 8)
                .store(word, Ordering::SeqCst);
        }
        pub(super) fn get64(&self, table: u64, index: u64) -> u64 {
            self.ram.word64(table + index * 8).load(Ordering::SeqCst)
        }
        pub(super) fn put32(&self, table: u64, index: u64, word: u32) {
            self.ram
                .word32(table + index * 4)
                .store(word, Ordering::SeqCst);
        }
    }

    /// Walks from the root at 0x10000 (and a second one at 0x14000).
    pub(super) fn walk(
        walker: &impl Walker,
        tables: &Tables,
        page: usize,
        access: Access,
        mode: Mode,
    ) -> Result<Leaf, Refusal> {
        let roots = Roots {
            low: 0x10000,
            high: Some(0x14000),
        };
        let start = walker.start(roots, page)?;
        walker.walk(&tables.ram, start, page, access, mode, &mut Vec::new())
    }

    pub(super) fn reads(
        walker: &impl Walker,
        tables: &Tables,
        page: usize,
        mode: Mode,
    ) -> Result<Leaf, Refusal> {
        walk(walker, tables, page, Access::Read, mode)
    }
}
