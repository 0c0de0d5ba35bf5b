//! RISC-V: Sv32, Sv39, Sv48 and Sv57.
//!
//! RISC-V privileged architecture, supervisor level: "Sv32" (virtual address
//! translation process, steps 1 to 10), "Sv39", "Sv48", "Sv57", and the
//! extensions Svnapot, Svpbmt, Svade, Svadu, Svvptc.
//!
//! ```text
//!   63 62  61 60    54 53              10 9 8 7 6 5 4 3 2 1 0
//!  ┌──┬──────┬────────┬──────────────────┬───┬─┬─┬─┬─┬─┬─┬─┬─┐
//!  │N │ PBMT │reserved│ PPN              │RSW│D│A│G│U│X│W│R│V│   Sv39 and up
//!  └──┴──────┴────────┴──────────────────┴───┴─┴─┴─┴─┴─┴─┴─┴─┘
//!                      31              10 9 8 ...                Sv32
//! ```

use super::{Allow, Leaf, Mode, Refusal, Rights, Roots, RunOf, Sets, Step, Walker, load, replace};
use crate::arena::Arena;
use mm_core::prot::Access;

const V: u64 = 1;
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
const U: u64 = 1 << 4;
const G: u64 = 1 << 5;
const A: u64 = 1 << 6;
const D: u64 = 1 << 7;
const N: u64 = 1 << 63;
/// Pages of the one NAPOT size there is: 64 KiB.
const NAPOT_PAGES: usize = 16;
const NAPOT: RunOf = RunOf {
    entries: NAPOT_PAGES as u64,
    bytes: 8,
    stride: 0,
    member: (V | N, V | N),
    // Rights too: nothing must be broken here before it is made, so while a range
    // changes a hart may use the old word or the new one for all of it, until
    // the fence. (At rest, unlike rights let an access through that should not.)
    may_differ: A | D | R | W | X,
};

/// The walker of a RISC-V hart whose S-mode keeps SUM and MXR clear.
#[derive(Clone, Copy, Debug)]
pub struct SvWalker {
    /// 2 for Sv32, 3 for Sv39, 4 for Sv48, 5 for Sv57.
    pub levels: u8,
    /// Svadu enabled: sets A and D; else (Svade) it faults for software to do so.
    pub sets: Sets,
    /// Svnapot is there.
    pub svnapot: bool,
    /// Svpbmt is there.
    pub svpbmt: bool,
    /// Svvptc: entries that become valid are seen without a fence.
    pub svvptc: bool,
}

impl SvWalker {
    /// Makes the walker of the least hart: Svade, no extension.
    pub const fn new(levels: u8) -> Self {
        Self {
            levels,
            sets: Sets::Nothing,
            svnapot: false,
            svpbmt: false,
            svvptc: false,
        }
    }

    /// Makes the walker of a hart with all extensions, that sets A and D.
    pub const fn full(levels: u8) -> Self {
        Self {
            levels,
            sets: Sets::Both,
            svnapot: levels > 2,
            svpbmt: levels > 2,
            svvptc: true,
        }
    }

    const fn bytes(&self) -> u64 {
        if self.levels == 2 { 4 } else { 8 }
    }
    const fn index_bits(&self) -> u32 {
        if self.levels == 2 { 10 } else { 9 }
    }
    const fn page_bits(&self) -> u32 {
        self.index_bits() * self.levels as u32
    }

    /// What may not be set in any valid entry.
    fn reserved(&self) -> u64 {
        if self.levels == 2 {
            return 0;
        }
        let pbmt = if self.svpbmt { 0 } else { 3 << 61 };
        let napot = if self.svnapot { 0 } else { N };
        0x7f << 54 | pbmt | napot
    }
}

impl Walker for SvWalker {
    fn page_shift(&self) -> u32 {
        12
    }
    fn caches_invalid(&self) -> bool {
        !self.svvptc
    }
    fn fault_drops_entry(&self) -> bool {
        false
    }
    fn aborts_on_conflict(&self) -> bool {
        false
    }
    fn sets(&self) -> Sets {
        self.sets
    }
    fn coherent_code(&self) -> bool {
        // FENCE.I: stores are not seen by fetches until then.
        false
    }
    fn start(&self, roots: Roots, page: usize) -> Result<Step, Refusal> {
        // Bits above the highest must repeat it; Sv32 addresses have none.
        let bits = self.page_bits();
        let above = page >> (bits - 1);
        let canonical = match self.levels {
            2 => page >> bits == 0,
            _ => above == 0 || above == (1 << (52 - (bits - 1))) - 1,
        };
        if !canonical {
            return Err(Refusal::NonCanonical);
        }
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
            let shift = self.index_bits() * u32::from(at.level - 1);
            let index = (page >> shift) & ((1 << self.index_bits()) - 1);
            let entry = at.table + index as u64 * self.bytes();
            let word = load(ram, entry, self.bytes());
            if word & V == 0 {
                return Err(Refusal::NotPresent(at.level));
            }
            // Step 3: W without R, and reserved bits.
            if word & (R | W) == W || word & self.reserved() != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            let ppn = (word & !(0x3ff << 54)) >> 10;
            let span = 1usize << shift;
            let first = page & !(span - 1);
            let global = at.note | u8::from(word & G != 0);
            if word & (R | X) == 0 {
                // A pointer: D, A, U, N and PBMT are reserved in it.
                let wide = if self.levels == 2 { 0 } else { 7 << 61 };
                if word & (D | A | U | wide) != 0 || at.level == 1 {
                    return Err(Refusal::Reserved(at.level));
                }
                at = Step {
                    level: at.level - 1,
                    page: first,
                    pages: span,
                    table: ppn << 12,
                    bytes: 4096,
                    rights: Rights::ALL,
                    note: global,
                };
                trail.push(at);
                continue;
            }
            let pbmt = if self.levels == 2 { 0 } else { word >> 61 & 3 };
            let napot = self.levels > 2 && word & N != 0;
            if pbmt == 3 || (napot && (at.level > 1 || ppn & 15 != 8)) {
                return Err(Refusal::Reserved(at.level));
            }
            let allow = Allow {
                read: word & R != 0,
                write: word & W != 0,
                exec: word & X != 0,
            };
            let rights = Rights {
                user: allow.when(word & U != 0),
                kernel: allow.when(word & U == 0),
            };
            rights.check(access, mode)?;
            // Step 6: a superpage is aligned.
            if ppn & (span as u64 - 1) != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            let mut want = word | A;
            if access == Access::Write {
                want |= D;
            }
            if want != word {
                if self.sets == Sets::Nothing {
                    return Err(match word & A {
                        0 => Refusal::NotAccessed,
                        _ => Refusal::NotDirty,
                    });
                }
                if !replace(ram, entry, self.bytes(), word, want) {
                    continue;
                }
            }
            let leaf = Leaf {
                page: first,
                pages: span,
                frame: ppn,
                rights,
                dirty: want & D != 0,
                global: global != 0,
                memory: pbmt as u8,
            };
            if !napot {
                return Ok(leaf);
            }
            NAPOT.check(ram, entry, word);
            return Ok(Leaf {
                page: page & !(NAPOT_PAGES - 1),
                pages: NAPOT_PAGES,
                frame: ppn & !15,
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

    #[test]
    fn sv39_goes_down_three_levels_of_nine_bits() {
        // VPN[2], VPN[1], VPN[0] = 1, 2, 3: 0x4040_3000.
        let t = Tables::new(12, 8);
        let page = 0x4040_3000 >> 12;
        t.put64(0x10000, 1, 0x11 << 10 | V);
        t.put64(0x11000, 2, 0x12 << 10 | V);
        t.put64(0x12000, 3, 0x1234 << 10 | 0xdf); // V R W X U A D
        let w = SvWalker::new(3);
        let leaf = reads(&w, &t, page, USER).unwrap();
        assert_eq!((leaf.frame, leaf.page, leaf.pages), (0x1234, page, 1));
        assert!(leaf.rights.user == Allow::ALL && leaf.rights.kernel == Allow::NONE);
        assert!(leaf.dirty && !leaf.global);
        assert_eq!(reads(&w, &t, page + 1, USER), Err(Refusal::NotPresent(1)));
        assert_eq!(
            reads(&w, &t, page, Mode::Kernel),
            Err(Refusal::Right(Access::Read)),
            "SUM is clear"
        );
        // Bit 38 is repeated above, or the address is none.
        assert_eq!(reads(&w, &t, 1 << 26, USER), Err(Refusal::NonCanonical));
    }

    /// Page numbers of 52 bits: only a machine of 64 has them.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn sv39_repeats_bit_38_in_the_high_half() {
        let t = Tables::new(12, 8);
        let w = SvWalker::new(3);
        let high = (1usize << 52) - (1 << 26);
        t.put64(0x10000, 256, 0x1c_0000 << 10 | 0x6f); // 1 GiB: V R W X G A, kernel
        assert_eq!(
            reads(&w, &t, high + 5, Mode::Kernel).map(|l| (l.frame, l.pages, l.global)),
            Ok((0x1c_0000, 1 << 18, true))
        );
        t.put64(0x10000, 256, 0x1c_0001 << 10 | 0x6f);
        assert_eq!(
            reads(&w, &t, high + 5, Mode::Kernel),
            Err(Refusal::Reserved(3)),
            "a superpage is aligned"
        );
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn reserved_entries_are_refused() {
        let t = Tables::new(12, 8);
        let w = SvWalker::new(4);
        t.put64(0x10000, 0, 0x11 << 10 | V);
        t.put64(0x11000, 0, 0x12 << 10 | V);
        t.put64(0x12000, 0, 0x13 << 10 | V);
        let base = 0x200 << 10 | V | U | A | D;
        for (word, full) in [
            (base | W, false),
            (base | W | X, false),
            (base, false), // a pointer at the last level
            (base | R | 1 << 54, false),
            (base | R | 1 << 60, false),
            (base | R | 3 << 61, false),
            (base | R | 1 << 61, true),
            (base | R | N, false), // ppn[3:0] is not 8
            (base | R | N | 8 << 10, true),
        ] {
            t.put64(0x13000, 0, word);
            assert_eq!(
                reads(&w, &t, 0, USER),
                Err(Refusal::Reserved(1)),
                "{word:#x}"
            );
            let with = reads(&SvWalker::full(4), &t, 0, USER);
            assert_eq!(with.is_ok(), full, "{word:#x}: {with:?}");
        }
        t.put64(0x13000, 0, base | R);
        assert!(reads(&w, &t, 0, USER).is_ok());
        for bit in [U, A, D, 1 << 61, N] {
            t.put64(0x12000, 0, 0x13 << 10 | V | bit);
            assert_eq!(
                reads(&SvWalker::full(4), &t, 0, USER),
                Err(Refusal::Reserved(2)),
                "{bit:#x} in a pointer"
            );
        }
    }

    #[test]
    fn a_and_d_are_hardwares_or_softwares() {
        let t = Tables::new(12, 8);
        t.put64(0x10000, 0, 0x11 << 10 | V | G);
        t.put64(0x11000, 0, 0x12 << 10 | V);
        let word = 0x300 << 10 | V | R | W | U;
        t.put64(0x12000, 7, word);
        let soft = SvWalker::new(3);
        assert_eq!(reads(&soft, &t, 7, USER), Err(Refusal::NotAccessed));
        assert_eq!(t.get64(0x12000, 7), word);
        t.put64(0x12000, 7, word | A);
        assert!(reads(&soft, &t, 7, USER).is_ok_and(|l| !l.dirty && l.global));
        assert_eq!(
            walk(&soft, &t, 7, Access::Write, USER),
            Err(Refusal::NotDirty)
        );
        t.put64(0x12000, 7, word);
        let hard = SvWalker::full(3);
        assert!(reads(&hard, &t, 7, USER).is_ok_and(|l| !l.dirty));
        assert_eq!(t.get64(0x12000, 7), word | A);
        assert!(walk(&hard, &t, 7, Access::Write, USER).is_ok_and(|l| l.dirty));
        assert_eq!(t.get64(0x12000, 7), word | A | D);
        assert_eq!(
            walk(&hard, &t, 7, Access::Exec, USER),
            Err(Refusal::Right(Access::Exec))
        );
    }

    #[test]
    fn a_napot_range_is_one_translation_of_64_kib() {
        let t = Tables::new(12, 8);
        t.put64(0x10000, 0, 0x11 << 10 | V);
        t.put64(0x11000, 0, 0x12 << 10 | V);
        let word = N | 1 << 61 | 0x348 << 10 | V | R | X | U | A | D;
        for i in 16..32 {
            t.put64(0x12000, i, word);
        }
        t.put64(0x12000, 20, word & !A);
        let leaf = reads(&SvWalker::full(3), &t, 0x1b, USER).unwrap();
        assert_eq!((leaf.page, leaf.pages, leaf.frame), (16, 16, 0x340));
        assert_eq!(leaf.memory, 1, "NC");
    }

    #[test]
    #[should_panic(expected = "a run with unlike entries")]
    fn a_napot_range_of_unlike_entries_is_noticed() {
        let t = Tables::new(12, 8);
        t.put64(0x10000, 0, 0x11 << 10 | V);
        t.put64(0x11000, 0, 0x12 << 10 | V);
        let word = N | 0x348 << 10 | V | R | U | A | D;
        for i in 16..32 {
            t.put64(0x12000, i, word);
        }
        t.put64(0x12000, 30, word + (16 << 10));
        let _leaf = reads(&SvWalker::full(3), &t, 16, USER);
    }

    #[test]
    fn sv32_has_words_of_32_bits_and_34_bit_frames() {
        let t = Tables::new(12, 8);
        let w = SvWalker::new(2);
        // VPN[1] = 0x240, VPN[0] = 0x155; the frame has 22 bits.
        let page = 0x240 << 10 | 0x155;
        t.put32(0x10000, 0x240, 0x11 << 10 | 1);
        t.put32(0x11000, 0x155, 0x3f_fffe << 10 | 0xd7);
        let leaf = reads(&w, &t, page, USER).unwrap();
        assert_eq!((leaf.frame, leaf.memory), (0x3f_fffe, 0));
        // A megapage of 1024 pages.
        t.put32(0x10000, 1, 0x0800 << 10 | 0xdf);
        let leaf = reads(&w, &t, 0x7ff, USER).unwrap();
        assert_eq!((leaf.page, leaf.pages, leaf.frame), (0x400, 0x400, 0x800));
        t.put32(0x10000, 1, 0x0801 << 10 | 0xdf);
        assert_eq!(reads(&w, &t, 0x7ff, USER), Err(Refusal::Reserved(2)));
        assert_eq!(reads(&w, &t, 1 << 20, USER), Err(Refusal::NonCanonical));
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn sv57_has_five_levels() {
        let t = Tables::new(12, 8);
        for (i, level) in (1..5).rev().enumerate() {
            let next = 0x11 + i as u64;
            t.put64(0x10000 + i as u64 * 0x1000, level, next << 10 | V);
        }
        t.put64(0x14000, 9, 0x77 << 10 | V | X | U | A);
        // Indexes 4, 3, 2, 1, 9 from the root down.
        let page = (((4 << 9 | 3) << 9 | 2) << 9 | 1) << 9 | 9;
        let w = SvWalker::new(5);
        assert_eq!(
            walk(&w, &t, page, Access::Exec, USER).map(|l| l.frame),
            Ok(0x77)
        );
        assert_eq!(
            reads(&w, &t, page, USER),
            Err(Refusal::Right(Access::Read)),
            "execute only"
        );
    }
}
