//! The walker of the tiny format: the drawing in `mm_core::format::tiny`.

use super::{Allow, Leaf, Mode, Refusal, Rights, Roots, Sets, Step, Walker, load, replace};
use crate::arena::Arena;
use mm_core::format::WordCell;
use mm_core::prot::Access;
use std::fmt::Debug;
use std::marker::PhantomData;

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

impl<C: WordCell + Debug> TinyWalker<C> {
    const BYTES: u64 = size_of::<C::Word>() as u64;
}

impl<C: WordCell + Debug> Walker for TinyWalker<C> {
    fn page_shift(&self) -> u32 {
        12
    }
    fn caches_invalid(&self) -> bool {
        self.caches_invalid
    }
    fn fault_drops_entry(&self) -> bool {
        false
    }
    fn aborts_on_conflict(&self) -> bool {
        self.sets == Sets::Accessed
    }
    fn coherent_code(&self) -> bool {
        self.sets == Sets::Both
    }
    fn start(&self, roots: Roots, page: usize) -> Result<Step, Refusal> {
        let pages = 1usize << (self.bits * u32::from(self.levels));
        if page >= pages {
            return Err(Refusal::NonCanonical);
        }
        let bytes = Self::BYTES << self.bits;
        Ok(Step::root(self.levels, roots.low, bytes, pages))
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
        let mut at = from;
        loop {
            let shift = self.bits * u32::from(at.level - 1);
            let index = (page >> shift) & ((1 << self.bits) - 1);
            let cell = at.table + index as u64 * Self::BYTES;
            let word = load(ram, cell, Self::BYTES);
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
                    table: frame << 12,
                    bytes: Self::BYTES << self.bits,
                    rights: at.rights,
                    note: 0,
                };
                trail.push(at);
                continue;
            }
            if frame & (span as u64 - 1) != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            let allow = Allow {
                read: is(9),
                write: is(1),
                exec: is(2),
            };
            let rights = Rights {
                user: allow.when(is(3)),
                kernel: allow,
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
            if want != word && !replace(ram, cell, Self::BYTES, word, want) {
                continue;
            }
            return Ok(Leaf {
                page: first,
                pages: span,
                frame,
                rights,
                dirty: want >> 5 & 1 != 0,
                global: is(8),
                memory: (word >> 10 & 7) as u8,
            });
        }
    }
}
