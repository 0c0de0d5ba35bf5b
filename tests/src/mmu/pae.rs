//! x86: PAE paging, a top of four entries and two levels of 512.
//!
//! Intel SDM volume 3A, 4.4 "PAE Paging" (tables 4-7 to 4-11).
//!
//! The four entries at the top are registers: MOV to CR3 loads them, and a walk
//! does not look at memory for them (4.4.1). So a CPU remembers that one was
//! absent, until a flush that loads CR3 again.

use super::{Allow, Leaf, Mode, Refusal, Rights, Roots, Sets, Step, Walker, load, replace};
use crate::arena::Arena;
use mm_core::prot::Access;

/// The walker of PAE paging with NX.
#[derive(Clone, Copy, Debug)]
pub struct PaeWalker {
    /// MAXPHYADDR in bits.
    pub phys_bits: u32,
}

impl PaeWalker {
    /// Makes the walker of a CPU with 36 physical address bits.
    pub const fn new() -> Self {
        Self { phys_bits: 36 }
    }
}

impl Default for PaeWalker {
    fn default() -> Self {
        Self::new()
    }
}

impl Walker for PaeWalker {
    fn page_shift(&self) -> u32 {
        12
    }
    /// There are process-context identifiers in long mode only (SDM 4.10.1).
    fn has_tags(&self) -> bool {
        false
    }
    fn caches_invalid(&self) -> bool {
        true
    }
    fn caches_invalid_at(&self, level: u8) -> bool {
        level == 3
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
        if page >> 20 != 0 {
            return Err(Refusal::NonCanonical);
        }
        Ok(Step::root(3, roots.low, 32, 1 << 20))
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
            let index = (page >> shift) & if at.level == 3 { 3 } else { 511 };
            let entry = at.table + index as u64 * 8;
            let word = load(ram, entry, 8);
            if word & 1 == 0 {
                return Err(Refusal::NotPresent(at.level));
            }
            let span = 1usize << shift;
            let first = page & !(span - 1);
            let address = word & ((1 << self.phys_bits) - 1) & !0xfff;
            // Bits 62:MAXPHYADDR; in the top also 63, 8:5 and 2:1.
            let mut reserved = (1 << 63) - (1u64 << self.phys_bits);
            if at.level == 3 {
                reserved |= 1 << 63 | 0x1e6;
            }
            let big = at.level == 2 && word & 0x80 != 0;
            if big {
                reserved |= 0x001f_e000;
            }
            if word & reserved != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            // The top has no rights and no accessed bit.
            let rights = if at.level == 3 {
                at.rights
            } else {
                let allow = Allow {
                    read: true,
                    write: word & 2 != 0,
                    exec: word >> 63 == 0,
                };
                at.rights.and(Rights {
                    user: allow.when(word & 4 != 0),
                    kernel: allow,
                })
            };
            if at.level > 1 && !big {
                if at.level == 2 && word & 0x20 == 0 && !replace(ram, entry, 8, word, word | 0x20) {
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
                continue;
            }
            rights.check(access, mode)?;
            let dirty = if access == Access::Write { 0x40 } else { 0 };
            let want = word | 0x20 | dirty;
            if want != word && !replace(ram, entry, 8, word, want) {
                continue;
            }
            let (base, pat) = if big {
                (address & !0x1f_ffff, word >> 12 & 1)
            } else {
                (address, word >> 7 & 1)
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
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Tables, reads, walk};
    use super::*;

    const USER: Mode = Mode::User;

    #[test]
    fn two_nine_nine_twelve() {
        let t = Tables::new(12, 4);
        let w = PaeWalker::new();
        // 0xc060_3000: indexes 3, 3, 3.
        t.put64(0x10000, 3, 0x11001);
        t.put64(0x11000, 3, 0x12007);
        t.put64(0x12000, 3, 0x8000_000f_edcb_a007);
        let leaf = walk(&w, &t, 0xc0603, Access::Write, USER).unwrap();
        assert_eq!((leaf.frame, leaf.pages), (0x00fe_dcba, 1));
        assert_eq!(t.get64(0x12000, 3), 0x8000_000f_edcb_a067);
        assert_eq!(t.get64(0x11000, 3), 0x12027);
        assert_eq!(t.get64(0x10000, 3), 0x11001, "no accessed bit at the top");
        assert_eq!(
            walk(&w, &t, 0xc0603, Access::Exec, USER),
            Err(Refusal::Right(Access::Exec))
        );
        t.put64(0x11000, 3, 0x0820_00e5);
        assert_eq!(
            reads(&w, &t, 0xc0603, USER).map(|l| (l.page, l.pages, l.frame)),
            Ok((0xc0600, 512, 0x8200))
        );
        t.put64(0x11000, 3, 0x0820_20e5);
        assert_eq!(reads(&w, &t, 0xc0603, USER), Err(Refusal::Reserved(2)));
    }

    #[test]
    fn the_top_has_no_rights_and_nothing_above_the_address() {
        let t = Tables::new(12, 4);
        let w = PaeWalker::new();
        t.put64(0x11000, 0, 0x12007);
        t.put64(0x12000, 0, 0x5007);
        t.put64(0x10000, 0, 0x11001);
        assert!(reads(&w, &t, 0, USER).is_ok());
        for bit in [2, 4, 0x20, 0x80, 0x100, 1 << 36, 1 << 63] {
            t.put64(0x10000, 0, 0x11001 | bit);
            assert_eq!(
                reads(&w, &t, 0, USER),
                Err(Refusal::Reserved(3)),
                "{bit:#x}"
            );
        }
        t.put64(0x10000, 0, 0x11001);
        // There are no bits for software above the address in PAE.
        t.put64(0x12000, 0, 0x5007 | 1 << 52);
        assert_eq!(reads(&w, &t, 0, USER), Err(Refusal::Reserved(1)));
        assert!(w.caches_invalid_at(3) && !w.caches_invalid_at(2));
    }
}
