//! x86: 4-level and 5-level paging.
//!
//! Intel SDM volume 3A, 4.5 "4-Level Paging and 5-Level Paging" (tables 4-14 to
//! 4-20), 4.6 "Access Rights", 4.8 "Accessed and Dirty Flags".

use super::{Allow, Leaf, Mode, Refusal, Rights, Roots, Sets, Step, Walker};
use crate::arena::Arena;
use mm_core::prot::Access;
use std::sync::atomic::Ordering;

/// The walker of 4- and 5-level long mode.
#[derive(Clone, Copy, Debug)]
pub struct LongModeWalker {
    /// 4 or 5.
    pub levels: u8,
    /// MAXPHYADDR in bits.
    pub phys_bits: u32,
    /// EFER.NXE: while it is clear, bit 63 is reserved (4.5.4, tables 4-15 to 4-20).
    pub no_execute: bool,
    /// CPUID.80000001H:EDX\[26\]: without it PS of level 3 is reserved (4.5.4, table 4-16).
    pub page_1g: bool,
}

impl LongModeWalker {
    /// Makes the walker of a CPU with 46 physical address bits, NX and pages of 1 GiB.
    pub const fn new(levels: u8) -> Self {
        Self {
            levels,
            phys_bits: 46,
            no_execute: true,
            page_1g: true,
        }
    }

    /// Makes the same CPU without EFER.NXE.
    pub const fn without_no_execute(self) -> Self {
        Self {
            no_execute: false,
            ..self
        }
    }

    /// Makes the same CPU without pages of 1 GiB.
    pub const fn without_page_1g(self) -> Self {
        Self {
            page_1g: false,
            ..self
        }
    }
}

impl Walker for LongModeWalker {
    fn page_shift(&self) -> u32 {
        12
    }
    fn caches_invalid(&self) -> bool {
        false
    }
    fn fault_drops_entry(&self) -> bool {
        true
    }
    fn aborts_on_conflict(&self) -> bool {
        false
    }
    fn sets(&self) -> Sets {
        Sets::Both
    }
    fn coherent_code(&self) -> bool {
        true
    }
    fn start(&self, roots: Roots, page: usize) -> Result<Step, Refusal> {
        // Linear-address bit 47 (56) is copied into the bits above (SDM 3.3.7.1).
        let top = 9 * u32::from(self.levels) - 1;
        let above = page >> top;
        if above != 0 && above != (1usize << (52 - top)) - 1 {
            return Err(Refusal::NonCanonical);
        }
        // The root spans everything: sign-extended pages too.
        Ok(Step::root(self.levels, roots.low, 4096, usize::MAX))
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
            let shift = 9 * u32::from(at.level - 1);
            let index = (page >> shift) & 511;
            let cell = ram.word64(at.table + index as u64 * 8);
            let word = cell.load(Ordering::SeqCst);
            // Bit 0: present. All else is ignored when it is clear.
            if word & 1 == 0 {
                return Err(Refusal::NotPresent(at.level));
            }
            let address = word & 0x000f_ffff_ffff_f000;
            let page_size = word & 0x80 != 0;
            let is_leaf = at.level == 1 || (page_size && at.level <= 3);
            let mut reserved = 0x000f_ffff_ffff_ffff & !((1u64 << self.phys_bits) - 1);
            if at.level >= 4 || (at.level == 3 && !self.page_1g) {
                reserved |= 0x80;
            }
            if !self.no_execute {
                reserved |= 1 << 63;
            }
            if is_leaf && at.level > 1 {
                // 4-MByte-style low address bits: 20:13 or 29:13 (12 is PAT).
                reserved |= ((1u64 << (shift + 12)) - 1) & !0x1fff;
            }
            if word & reserved != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            // R/W bit 1, U/S bit 2, XD bit 63.
            let allow = Allow {
                read: true,
                write: word & 2 != 0,
                exec: word >> 63 == 0,
            };
            let rights = at.rights.and(Rights {
                user: allow.when(word & 4 != 0),
                kernel: allow,
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
                // PAT is bit 7 of a page and bit 12 of a block; PCD, PWT: 4, 3.
                let (base, pat) = if at.level == 1 {
                    (address, word >> 7 & 1)
                } else {
                    (address & !0x1fff, word >> 12 & 1)
                };
                return Ok(Leaf {
                    page: first,
                    pages: span,
                    frame: base >> 12,
                    rights,
                    dirty: want & 0x40 != 0,
                    global: word & 0x100 != 0,
                    memory: (pat << 2 | word >> 3 & 3) as u8,
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
                table: address,
                bytes: 4096,
                rights,
                note: 0,
            };
            trail.push(at);
        }
    }
}
