//! x86: 32-bit paging, two levels of 1024 entries.
//!
//! Intel SDM volume 3A, 4.3 "32-Bit Paging" (tables 4-3 to 4-6), with CR4.PSE,
//! PSE-36 and CR4.PGE. There is no execute-disable bit here.

use super::{Allow, Leaf, Mode, Refusal, Rights, Roots, Sets, Step, Walker, load, replace};
use crate::arena::Arena;
use mm_core::prot::Access;

/// The walker of 32-bit paging.
#[derive(Clone, Copy, Debug)]
pub struct TwoLevelWalker {
    /// The physical address bits that 4 MiB pages reach: 32 without PSE-36, at
    /// most 40.
    pub phys_bits: u32,
}

impl TwoLevelWalker {
    /// Makes the walker of a CPU with PSE-36.
    pub const fn new() -> Self {
        Self { phys_bits: 36 }
    }
}

impl Default for TwoLevelWalker {
    fn default() -> Self {
        Self::new()
    }
}

impl Walker for TwoLevelWalker {
    fn page_shift(&self) -> u32 {
        12
    }
    /// There are process-context identifiers in long mode only (SDM 4.10.1).
    fn has_tags(&self) -> bool {
        false
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
        if page >> 20 != 0 {
            return Err(Refusal::NonCanonical);
        }
        Ok(Step::root(2, roots.low, 4096, 1 << 20))
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
            let shift = 10 * u32::from(at.level - 1);
            let entry = at.table + ((page >> shift) & 1023) as u64 * 4;
            let word = load(ram, entry, 4);
            if word & 1 == 0 {
                return Err(Refusal::NotPresent(at.level));
            }
            let allow = Allow {
                read: true,
                write: word & 2 != 0,
                exec: true,
            };
            let rights = at.rights.and(Rights {
                user: allow.when(word & 4 != 0),
                kernel: allow,
            });
            let span = 1usize << shift;
            let first = page & !(span - 1);
            let big = at.level == 2 && word & 0x80 != 0;
            if at.level == 2 && !big {
                if word & 0x20 == 0 && !replace(ram, entry, 4, word, word | 0x20) {
                    continue;
                }
                at = Step {
                    level: 1,
                    page: first,
                    pages: span,
                    table: word & 0xffff_f000,
                    bytes: 4096,
                    rights,
                    note: 0,
                };
                trail.push(at);
                continue;
            }
            // A 4 MiB page: bits 31:22 are address bits 31:22, bits 20:13 are
            // 39:32 as far as the CPU has them, the others of 21:13 reserved.
            let (base, pat) = if big {
                let above = self.phys_bits - 32;
                if word >> 13 & 0x1ff & !((1 << above) - 1) != 0 {
                    return Err(Refusal::Reserved(2));
                }
                let high = word >> 13 & 0xff;
                (high << 32 | (word & 0xffc0_0000), word >> 12 & 1)
            } else {
                (word & 0xffff_f000, word >> 7 & 1)
            };
            rights.check(access, mode)?;
            let dirty = if access == Access::Write { 0x40 } else { 0 };
            let want = word | 0x20 | dirty;
            if want != word && !replace(ram, entry, 4, word, want) {
                continue;
            }
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
    fn ten_ten_twelve() {
        let t = Tables::new(12, 4);
        let w = TwoLevelWalker::new();
        // 0x0804_8000, where programs were linked: indexes 32 and 72.
        t.put32(0x10000, 32, 0x0001_1067);
        t.put32(0x11000, 72, 0xfedc_b025);
        let leaf = reads(&w, &t, 0x08048, USER).unwrap();
        assert_eq!((leaf.frame, leaf.pages), (0xfedcb, 1));
        assert_eq!(
            walk(&w, &t, 0x08048, Access::Write, USER),
            Err(Refusal::Right(Access::Write))
        );
        assert!(walk(&w, &t, 0x08048, Access::Exec, USER).is_ok(), "no NX");
        t.put32(0x11000, 72, 0xfedc_b003); // the kernel's, writable
        assert_eq!(reads(&w, &t, 0x08048, USER), Err(Refusal::User));
        walk(&w, &t, 0x08048, Access::Write, Mode::Kernel).unwrap();
        assert_eq!(t.get64(0x11000, 36) as u32, 0xfedc_b063, "A and D");
        assert_eq!(reads(&w, &t, 1 << 20, USER), Err(Refusal::NonCanonical));
    }

    #[test]
    fn four_mib_pages_reach_above_4_gib() {
        let t = Tables::new(12, 4);
        let w = TwoLevelWalker::new();
        // Bits 16:13 are address bits 35:32.
        t.put32(0x10000, 0x300, 0x0140_01e3 | 5 << 13);
        let leaf = reads(&w, &t, 0x300 << 10 | 7, Mode::Kernel).unwrap();
        assert_eq!(leaf.frame, 0x5_0140_0000 >> 12);
        assert_eq!((leaf.page, leaf.pages), (0x300 << 10, 1024));
        assert!(leaf.global && leaf.dirty);
        for bit in [1 << 17, 1 << 21] {
            t.put32(0x10000, 0x300, 0x0140_01e3 | bit);
            assert_eq!(
                reads(&w, &t, 0x300 << 10, Mode::Kernel),
                Err(Refusal::Reserved(2)),
                "{bit:#x}"
            );
        }
    }
}
