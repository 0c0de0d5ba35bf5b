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
    /// log2 of the entries of a run.
    pub run_bits: u32,
    /// Whether valid entries may only be replaced by way of an invalid one.
    pub breaks: bool,
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
            run_bits: 0,
            breaks: matches!(sets, Sets::Accessed),
            cell: PhantomData,
        }
    }

    /// Lets one translation hold a run of `1 << bits` leaves.
    #[must_use]
    pub const fn with_runs(mut self, bits: u32) -> Self {
        self.run_bits = bits;
        self
    }

    /// Demands break-before-make, whatever hardware sets.
    #[must_use]
    pub const fn breaking(mut self) -> Self {
        self.breaks = true;
        self
    }
}

impl<C: WordCell + Debug> TinyWalker<C> {
    const BYTES: u64 = size_of::<C::Word>() as u64;

    /// The valid entries of a run, with their indices.
    fn run(
        &self,
        ram: &Arena,
        table: u64,
        index: usize,
        run: usize,
    ) -> impl Iterator<Item = (usize, u64)> {
        let first = index & !(run - 1);
        let entry = move |i: usize| (i, load(ram, table + i as u64 * Self::BYTES, Self::BYTES));
        (first..first + run).map(entry).filter(|(_, w)| w & 1 != 0)
    }
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
        self.breaks
    }
    fn sets(&self) -> Sets {
        self.sets
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
            let frame = word >> 14;
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
            // Bit 13: one of a run, which is held as one.
            let run = if is(13) { 1usize << self.run_bits } else { 1 };
            if frame & (span as u64 - 1) != 0
                || (frame / span as u64) & (run as u64 - 1) != index as u64 & (run as u64 - 1)
            {
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
            let entries: Vec<_> = self.run(ram, at.table, index, run).collect();
            let alike = |&(i, other): &(usize, u64)| {
                // All but accessed, dirty and the frame.
                let step = (i as u64).wrapping_sub(index as u64);
                let next = frame.wrapping_add(step.wrapping_mul(span as u64));
                (other ^ word) & 0x3fcf == 0 && other >> 14 == next
            };
            // The entry itself may have other rights by now.
            let unlike = entries.iter().find(|e| e.0 != index && !alike(e));
            assert!(
                unlike.is_none() || !self.breaks,
                "entry {index} of level {} is in one run with {unlike:x?}, but not alike",
                at.level
            );
            // Where hardware notes, a note in any entry counts for all, and it
            // is made in a neighbour: the worst that hardware may do.
            let by_hardware = |bit: u32| match self.sets {
                Sets::Both => true,
                Sets::Accessed => bit == 4,
                Sets::Nothing => false,
            };
            let noted = |bit: u32| {
                is(bit) || (by_hardware(bit) && entries.iter().any(|(_, w)| w >> bit & 1 != 0))
            };
            let beside = |e: &&(usize, u64)| e.0 == index ^ 1 && alike(e);
            let (noting, old) = match entries.iter().find(beside) {
                Some(&(i, other)) => (at.table + i as u64 * Self::BYTES, other),
                None => (cell, word),
            };
            let mut want = old;
            if !noted(4) {
                if !by_hardware(4) {
                    return Err(Refusal::NotAccessed);
                }
                want |= 1 << 4;
            }
            if access == Access::Write && !noted(5) {
                if !by_hardware(5) {
                    return Err(Refusal::NotDirty);
                }
                want |= 1 << 5;
            }
            if want != old && !replace(ram, noting, Self::BYTES, old, want) {
                continue;
            }
            let skip = (index & (run - 1)) * span;
            return Ok(Leaf {
                page: first - skip,
                pages: span * run,
                frame: frame - skip as u64,
                rights,
                dirty: noted(5) || want >> 5 & 1 != 0,
                global: is(8),
                memory: (word >> 10 & 7) as u8,
            });
        }
    }
}
