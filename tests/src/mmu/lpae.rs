//! ARMv7-A: the long-descriptor format (LPAE), PL1&0 stage 1.
//!
//! Arm ARM DDI 0406C, B3.6 "Long-descriptor translation table format", B3.7
//! "Memory access control".
//!
//! ```text
//!  63 59 58 55 54  53  52  51 40 39     12 11 10 9 8 7 6  5  4  2 1 0
//! ┌─────┬─────┬──┬───┬────┬─────┬─────────┬──┬──┬───┬────┬──┬────┬─┬─┐
//! │  –  │soft │XN│PXN│Cont│ zero│ address │nG│AF│ SH│ AP │NS│Attr│T│V│   leaf
//! └─────┴─────┴──┴───┴────┴─────┴─────────┴──┴──┴───┴────┴──┴────┴─┴─┘
//!  63 NS, 62:61 APTable, 60 XNTable, 59 PXNTable                      table
//! ```
//! Hardware sets neither the access flag nor any dirty state. XN is for both
//! modes, and a fetch needs the right to read.

use super::{Allow, Leaf, Mode, Refusal, Rights, Roots, RunOf, Sets, Step, Walker, load};
use crate::arena::Arena;
use mm_core::prot::Access;

const CONTIGUOUS: u64 = 1 << 52;
/// Entries of a contiguous run.
const RUN: u64 = 16;

/// The walker of an ARMv7-A CPU with TTBCR.EAE set.
#[derive(Clone, Copy, Debug, Default)]
pub struct LpaeWalker {
    /// TTBCR.T0SZ, below 8.
    pub t0sz: u32,
    /// TTBCR.T1SZ, below 8.
    pub t1sz: u32,
}

impl LpaeWalker {
    /// Makes the walker of a CPU whose TTBR0 translates all 4 GiB.
    pub const fn new() -> Self {
        Self { t0sz: 0, t1sz: 0 }
    }

    /// The start of a region of `2^bits` bytes (B3.6.6): up to 1 GiB it is the
    /// second level.
    fn root(table: u64, bits: u32, page: usize) -> Step {
        let level = if bits > 30 { 3 } else { 2 };
        let index = bits - 12 - 9 * (level - 1);
        Step {
            page,
            ..Step::root(level as u8, table, 8 << index, 1 << (bits - 12))
        }
    }
}

impl Walker for LpaeWalker {
    fn page_shift(&self) -> u32 {
        12
    }
    fn caches_invalid(&self) -> bool {
        false
    }
    fn fault_drops_entry(&self) -> bool {
        false
    }
    fn aborts_on_conflict(&self) -> bool {
        true
    }
    fn sets(&self) -> Sets {
        Sets::Nothing
    }
    fn coherent_code(&self) -> bool {
        false
    }
    fn start(&self, roots: Roots, page: usize) -> Result<Step, Refusal> {
        if page >> 20 != 0 {
            return Err(Refusal::NonCanonical);
        }
        if page >> (20 - self.t0sz) == 0 {
            return Ok(Self::root(roots.low, 32 - self.t0sz, 0));
        }
        // B3.6.4: TTBR1 has what is above TTBR0's where T1SZ is zero, else the
        // top of that size; between them nobody translates.
        let (bits, bottom) = if self.t1sz == 0 {
            (32, 0)
        } else {
            let bits = 32 - self.t1sz;
            (bits, (1usize << 20) - (1 << (bits - 12)))
        };
        if page < bottom {
            return Err(Refusal::NonCanonical);
        }
        let step = |table| Self::root(table, bits, bottom);
        let level = step(0).level;
        roots.high.map(step).ok_or(Refusal::NotPresent(level))
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
            let index = (page >> shift) as u64 & (at.bytes / 8 - 1);
            let entry = at.table + index * 8;
            let word = load(ram, entry, 8);
            let is = |bit: u32| word >> bit & 1 != 0;
            if !is(0) {
                return Err(Refusal::NotPresent(at.level));
            }
            let span = 1usize << shift;
            let first = page & !(span - 1);
            let address = word & 0x00ff_ffff_f000;
            let mut zero = 0xfff << 40;
            if at.level > 1 && is(1) {
                if word & zero != 0 {
                    return Err(Refusal::Reserved(at.level));
                }
                let rights = Rights {
                    user: Allow {
                        read: !is(61),
                        write: !is(61) && !is(62),
                        exec: !is(60) && !is(61),
                    },
                    kernel: Allow {
                        read: true,
                        write: !is(62),
                        exec: !is(60) && !is(59),
                    },
                };
                at = Step {
                    level: at.level - 1,
                    page: first,
                    pages: span,
                    table: address,
                    bytes: 4096,
                    rights: at.rights.and(rights),
                    note: 0,
                };
                trail.push(at);
                continue;
            }
            zero |= (((span as u64) << 12) - 1) & !0xfff;
            if (at.level == 1) != is(1) || word & zero != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            if !is(10) {
                return Err(Refusal::NotAccessed);
            }
            let (pl0, write) = (is(6), !is(7));
            let rights = at.rights.and(Rights {
                user: Allow {
                    read: pl0,
                    write: pl0 && write,
                    exec: pl0 && !is(54),
                },
                kernel: Allow {
                    read: true,
                    write,
                    exec: !is(54) && !is(53),
                },
            });
            rights.check(access, mode)?;
            let leaf = Leaf {
                page: first,
                pages: span,
                frame: address >> 12,
                rights,
                dirty: write,
                global: !is(11),
                memory: (word >> 2 & 7) as u8,
            };
            if word & CONTIGUOUS == 0 {
                return Ok(leaf);
            }
            RunOf {
                entries: RUN,
                bytes: 8,
                stride: (span as u64) << 12,
                member: (1 | CONTIGUOUS, 1 | CONTIGUOUS),
                may_differ: 0,
            }
            .check(ram, entry, word);
            let pages = span * RUN as usize;
            let page = page & !(pages - 1);
            let frame = leaf.frame - (first - page) as u64;
            assert_eq!(frame & (pages as u64 - 1), 0, "a run that is not aligned");
            return Ok(Leaf {
                page,
                pages,
                frame,
                ..leaf
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Tables, reads, walk};
    use super::*;

    const USER: Mode = Mode::User;
    const KERNEL: Mode = Mode::Kernel;

    #[test]
    fn two_nine_nine_twelve_with_40_bits() {
        let t = Tables::new(12, 4);
        let w = LpaeWalker::new();
        t.put64(0x10000, 2, 0x11003);
        t.put64(0x11000, 3, 0x12003);
        t.put64(0x12000, 4, 0x00ab_cdef_0000 | 0xf43);
        let page = (2 << 9 | 3) << 9 | 4;
        let leaf = walk(&w, &t, page, Access::Write, USER).unwrap();
        assert_eq!(
            (leaf.frame, leaf.pages, leaf.global),
            (0x0abc_def0, 1, false)
        );
        t.put64(0x12000, 4, 0x01ab_cdef_0000 | 0xf43);
        assert_eq!(reads(&w, &t, page, USER), Err(Refusal::Reserved(1)));
        t.put64(0x12000, 4, 0x5b43);
        assert_eq!(reads(&w, &t, page, USER), Err(Refusal::NotAccessed));
        t.put64(0x12000, 4, 0x5f41);
        assert_eq!(reads(&w, &t, page, USER), Err(Refusal::Reserved(1)));
        t.put64(0x11000, 3, 0x4020_0701);
        assert!(reads(&w, &t, page, KERNEL).is_ok_and(|l| l.pages == 512 && l.global));
        t.put64(0x10000, 2, 0x4000_0701);
        assert!(reads(&w, &t, page, KERNEL).is_ok_and(|l| l.pages == 1 << 18));
        assert_eq!(reads(&w, &t, page, USER), Err(Refusal::User));
    }

    #[test]
    fn xn_is_for_both_modes_and_a_fetch_reads() {
        let t = Tables::new(12, 4);
        let w = LpaeWalker::new();
        t.put64(0x10000, 0, 0x11003);
        t.put64(0x11000, 0, 0x12003);
        let rights = |leaf: u64| {
            t.put64(0x12000, 0, 0x5f03 | leaf);
            [USER, KERNEL].map(|mode| {
                [Access::Read, Access::Write, Access::Exec]
                    .map(|a| u8::from(walk(&w, &t, 0, a, mode).is_ok()))
            })
        };
        assert_eq!(rights(0), [[0, 0, 0], [1, 1, 1]], "no execute only here");
        assert_eq!(rights(0x40 | 1 << 53), [[1, 1, 1], [1, 1, 0]]);
        assert_eq!(rights(0xc0 | 1 << 54), [[1, 0, 0], [1, 0, 0]]);
        t.put64(0x10000, 0, 0x11003 | 1 << 60);
        assert_eq!(rights(0x40), [[1, 1, 0], [1, 1, 0]]);
        t.put64(0x10000, 0, 0x11003 | 1 << 61);
        assert_eq!(rights(0x40), [[0, 0, 0], [1, 1, 1]]);
    }

    #[test]
    fn sizes_split_the_addresses_between_two_roots() {
        let t = Tables::new(12, 8);
        t.put64(0x10000, 1, 0x4000_0741);
        t.put64(0x14000, 511, 0x8020_0701);
        // TTBR0: the first 2 GiB; TTBR1: the last 1 GiB, from the second level on.
        let w = LpaeWalker { t0sz: 1, t1sz: 2 };
        assert_eq!(
            reads(&w, &t, 0x40001, USER).map(|l| l.frame),
            Ok(0x40001 & !0x3ffff)
        );
        assert_eq!(reads(&w, &t, 0xffffe, KERNEL).map(|l| l.frame), Ok(0x80200));
        assert_eq!(reads(&w, &t, 0x80000, KERNEL), Err(Refusal::NonCanonical));
        // With T1SZ zero TTBR1 has the rest.
        let w = LpaeWalker { t0sz: 1, t1sz: 0 };
        t.put64(0x14000, 3, 0xc000_0701);
        assert_eq!(reads(&w, &t, 0xffffe, KERNEL).map(|l| l.frame), Ok(0xc0000));
    }

    #[test]
    fn a_contiguous_run_is_one_translation() {
        let t = Tables::new(12, 4);
        let w = LpaeWalker::new();
        t.put64(0x10000, 0, 0x11003);
        for i in 0..16 {
            t.put64(0x11000, 16 + i, 0x4000_0000 | i << 21 | 0x741 | CONTIGUOUS);
        }
        let leaf = reads(&w, &t, 20 << 9, USER).unwrap();
        assert_eq!((leaf.page, leaf.pages), (16 << 9, 16 << 9));
        assert_eq!(leaf.frame, 0x40000);
    }

    #[test]
    #[should_panic(expected = "a run with unlike entries")]
    fn a_run_with_one_old_entry_is_noticed() {
        let t = Tables::new(12, 4);
        t.put64(0x10000, 0, 0x11003);
        for i in 0..16 {
            t.put64(0x11000, 16 + i, 0x4000_0000 | i << 21 | 0x741 | CONTIGUOUS);
        }
        t.put64(0x11000, 18, 0x4000_0000 | 2 << 21 | 0x341 | CONTIGUOUS);
        let _leaf = reads(&LpaeWalker::new(), &t, 20 << 9, USER);
    }
}
