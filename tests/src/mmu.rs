//! Software MMUs: walkers of the real words, written from the manuals.
//!
//! A [`Walker`] does what hardware does on a TLB miss: it reads table words out
//! of RAM, checks rights, sets accessed and dirty bits by atomic exchange, and
//! says why when it refuses. It shares nothing with the format code but the
//! word type: no constant, no function. So a format that contradicts its
//! manual, or its own drawing, is found.
//!
//! | walker | source |
//! |---|---|
//! | [`TinyWalker`] | the drawing in `mm_core::format::tiny` |
//! | [`LongModeWalker`] | Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level Paging", 4.6 "Access Rights", 4.8 "Accessed and Dirty Flags" |

use crate::arena::Arena;
use mm_core::format::WordCell;
use mm_core::prot::Access;
use mm_core::sync::{AtomicU64, Ordering};
use std::fmt::Debug;
use std::marker::PhantomData;

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
    /// The address has bits that do not repeat the highest one.
    NonCanonical,
    /// The entry of this level is not present.
    NotPresent(u8),
    /// The entry of this level has bits set that must be zero.
    Reserved(u8),
    /// The page is the kernel's.
    User,
    /// The right is missing.
    Right(Access),
    /// Software has to set the accessed bit first.
    NotAccessed,
    /// Software has to set the dirty bit first.
    NotDirty,
}

/// What a walk found: what a TLB entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first page of the page or block.
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
}

/// What entries on the way allow together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub exec: bool,
    /// User mode.
    pub user: bool,
}

impl Rights {
    const ALL: Self = Self {
        read: true,
        write: true,
        exec: true,
        user: true,
    };

    fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            exec: self.exec && other.exec,
            user: self.user && other.user,
        }
    }

    /// Checks an access.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn check(self, access: Access, mode: Mode) -> Result<(), Refusal> {
        if mode == Mode::User && !self.user {
            return Err(Refusal::User);
        }
        let allowed = match access {
            Access::Read => self.read,
            Access::Write => self.write,
            Access::Exec => self.exec,
        };
        if allowed {
            Ok(())
        } else {
            Err(Refusal::Right(access))
        }
    }
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
    /// The table's frame.
    pub table: u64,
    /// What the entries above allow.
    pub rights: Rights,
}

/// One architecture's walk.
pub trait Walker: Send + Sync + Debug + 'static {
    /// Whether entries that were found not present are remembered.
    fn caches_invalid(&self) -> bool;
    /// Whether a fault drops the translation that caused it, and what paging-
    /// structure caches hold of the way to it (Intel SDM 4.10.4.1).
    fn fault_drops_entry(&self) -> bool;
    /// Whether two remembered translations of one page that differ are an
    /// error (Arm: a TLB conflict abort), so that valid entries may only be
    /// replaced by way of an invalid one and a flush.
    fn aborts_on_conflict(&self) -> bool;
    /// The position at the root.
    fn start(&self, root: u64) -> Step;
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

/// The walker of 4- and 5-level long mode.
#[derive(Clone, Copy, Debug)]
pub struct LongModeWalker {
    /// 4 or 5.
    pub levels: u8,
    /// MAXPHYADDR in bits.
    pub phys_bits: u32,
}

impl LongModeWalker {
    /// Makes the walker of a CPU with 46 physical address bits.
    pub const fn new(levels: u8) -> Self {
        Self {
            levels,
            phys_bits: 46,
        }
    }
}

impl Walker for LongModeWalker {
    fn caches_invalid(&self) -> bool {
        false
    }
    fn fault_drops_entry(&self) -> bool {
        true
    }
    fn aborts_on_conflict(&self) -> bool {
        false
    }
    fn start(&self, root: u64) -> Step {
        let pages = 1usize << (9 * u32::from(self.levels));
        // The root spans everything: sign-extended pages too.
        Step {
            level: self.levels,
            page: 0,
            pages,
            table: root,
            rights: Rights::ALL,
        }
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
        // Linear-address bit 47 (56) is copied into the bits above (SDM 3.3.7.1).
        let top = 9 * u32::from(self.levels) - 1;
        let above = page >> top;
        if above != 0 && above != (1usize << (52 - top)) - 1 {
            return Err(Refusal::NonCanonical);
        }
        let mut at = from;
        loop {
            let shift = 9 * u32::from(at.level - 1);
            let index = (page >> shift) & 511;
            let words: &[AtomicU64] = ram.hardware(mm_core::addr::Pfn::new(at.table));
            let cell = &words[index];
            let word = cell.load(Ordering::SeqCst);
            // Bit 0: present. All else is ignored when it is clear.
            if word & 1 == 0 {
                return Err(Refusal::NotPresent(at.level));
            }
            let address = word & 0x000f_ffff_ffff_f000;
            let page_size = word & 0x80 != 0;
            let is_leaf = at.level == 1 || (page_size && at.level <= 3);
            let mut reserved = 0x000f_ffff_ffff_ffff & !((1u64 << self.phys_bits) - 1);
            if at.level >= 4 {
                reserved |= 0x80;
            }
            if is_leaf && at.level > 1 {
                // 4-MByte-style low address bits: 20:13 or 29:13 (12 is PAT).
                reserved |= ((1u64 << (shift + 12)) - 1) & !0x1fff;
            }
            if word & reserved != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            // R/W bit 1, U/S bit 2, XD bit 63.
            let rights = at.rights.and(Rights {
                read: true,
                write: word & 2 != 0,
                exec: word >> 63 == 0,
                user: word & 4 != 0,
            });
            let span = 1usize << shift;
            let first = page & !(span - 1);
            let accessed = 0x20;
            if is_leaf {
                rights.check(access, mode)?;
                let dirty = if access == Access::Write { 0x40 } else { 0 };
                let want = word | accessed | dirty;
                if want != word
                    && cell
                        .compare_exchange(word, want, Ordering::SeqCst, Ordering::SeqCst)
                        .is_err()
                {
                    continue;
                }
                let base = if at.level == 1 {
                    address
                } else {
                    address & !0x1fff
                };
                return Ok(Leaf {
                    page: first,
                    pages: span,
                    frame: base >> 12,
                    rights,
                    dirty: want & 0x40 != 0,
                    global: word & 0x100 != 0,
                });
            }
            if word & accessed == 0
                && cell
                    .compare_exchange(word, word | accessed, Ordering::SeqCst, Ordering::SeqCst)
                    .is_err()
            {
                continue;
            }
            at = Step {
                level: at.level - 1,
                page: first,
                pages: span,
                table: address >> 12,
                rights,
            };
            trail.push(at);
        }
    }
}

/// Which bits the hardware of [`TinyWalker`] sets by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sets {
    /// Accessed and dirty.
    Both,
    /// Accessed.
    Accessed,
    /// Neither.
    Nothing,
}

/// The walker of the tiny format, for words in cells of type `C`.
#[derive(Debug)]
pub struct TinyWalker<C> {
    /// The number of levels.
    pub levels: u8,
    /// log2 of the entries of a table.
    pub bits: u32,
    /// Which bits hardware sets.
    pub sets: Sets,
    /// Whether invalid entries are remembered.
    pub caches_invalid: bool,
    cell: PhantomData<fn() -> C>,
}

impl<C> Clone for TinyWalker<C> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<C> Copy for TinyWalker<C> {}

impl<C> TinyWalker<C> {
    /// Makes a walker.
    pub const fn new(levels: u8, bits: u32, sets: Sets, caches_invalid: bool) -> Self {
        Self {
            levels,
            bits,
            sets,
            caches_invalid,
            cell: PhantomData,
        }
    }
}

impl<C: WordCell + Debug> Walker for TinyWalker<C> {
    fn caches_invalid(&self) -> bool {
        self.caches_invalid
    }
    fn fault_drops_entry(&self) -> bool {
        false
    }
    fn aborts_on_conflict(&self) -> bool {
        self.sets == Sets::Accessed
    }
    fn start(&self, root: u64) -> Step {
        let pages = 1usize << (self.bits * u32::from(self.levels));
        Step {
            level: self.levels,
            page: 0,
            pages,
            table: root,
            rights: Rights::ALL,
        }
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
        use mm_core::format::Word;
        if page >> (self.bits * u32::from(self.levels)) != 0 {
            return Err(Refusal::NonCanonical);
        }
        let mut at = from;
        loop {
            let shift = self.bits * u32::from(at.level - 1);
            let words: &[C] = ram.hardware(mm_core::addr::Pfn::new(at.table));
            let cell = &words[(page >> shift) & ((1 << self.bits) - 1)];
            let raw = cell.load();
            let word = raw.to_u64();
            let is = |bit: u32| word >> bit & 1 != 0;
            if !is(0) {
                return Err(Refusal::NotPresent(at.level));
            }
            let span = 1usize << shift;
            let first = page & !(span - 1);
            let frame = word >> 13;
            if at.level > 1 && !is(6) {
                at = Step {
                    level: at.level - 1,
                    page: first,
                    pages: span,
                    table: frame,
                    rights: at.rights,
                };
                trail.push(at);
                continue;
            }
            if frame & (span as u64 - 1) != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            let rights = Rights {
                read: is(9),
                write: is(1),
                exec: is(2),
                user: is(3),
            };
            rights.check(access, mode)?;
            let mut want = word;
            if !is(4) {
                if self.sets == Sets::Nothing {
                    return Err(Refusal::NotAccessed);
                }
                want |= 1 << 4;
            }
            if access == Access::Write && !is(5) {
                if self.sets != Sets::Both {
                    return Err(Refusal::NotDirty);
                }
                want |= 1 << 5;
            }
            if want != word
                && cell
                    .compare_exchange(raw, <C::Word as Word>::from_u64(want))
                    .is_err()
            {
                continue;
            }
            let dirty = want >> 5 & 1 != 0;
            return Ok(Leaf {
                page: first,
                pages: span,
                frame,
                rights,
                dirty,
                global: is(8),
            });
        }
    }
}
