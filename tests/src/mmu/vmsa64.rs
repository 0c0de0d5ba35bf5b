//! AArch64: VMSAv8-64, stage 1 of the EL1&0 regime.
//!
//! Arm ARM DDI 0487, D8.2 "Translation process", D8.3 "Translation table
//! descriptor formats", D8.4 "Memory access control", D8.5 "Hardware updates to
//! the translation tables", D8.7.1 "The Contiguous bit".
//!
//! ```text
//!  63  59 58 55 54  53  52   51  50 48 47      n  n-1 12 11 10 9 8 7 6 5  4  2 1 0
//! ┌──────┬─────┬───┬───┬────┬───┬─────┬─────────┬──────┬──┬──┬───┬────┬──┬────┬─┬─┐
//! │ignore│soft │UXN│PXN│Cont│DBM│ zero│ address │ zero │nG│AF│ SH│ AP │NS│Attr│T│V│  leaf
//! └──────┴─────┴───┴───┴────┴───┴─────┴─────────┴──────┴──┴──┴───┴────┴──┴────┴─┴─┘
//!  63 NS, 62:61 APTable, 60 UXNTable, 59 PXNTable         11:2 ignored       1 1  table
//! ```
//! T is 1 for tables and for pages of the last level, 0 for blocks. The manual
//! counts levels from the root, up to 3: its level is 4 less ours.

use super::{Allow, Leaf, Mode, Refusal, Rights, Roots, RunOf, Sets, Step, Walker, load, replace};
use crate::arena::Arena;
use mm_core::prot::Access;

const VALID: u64 = 1;
const TABLE: u64 = 2;
const AP_EL0: u64 = 1 << 6;
const AP_RO: u64 = 1 << 7;
const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const PXN_TABLE: u64 = 1 << 59;
const UXN_TABLE: u64 = 1 << 60;
const AP_TABLE_NO_EL0: u64 = 1 << 61;
const AP_TABLE_RO: u64 = 1 << 62;

/// The walker of a PE in AArch64 state with PAN clear.
#[derive(Clone, Copy, Debug)]
pub struct Vmsa64Walker {
    /// log2 of the granule: 12, 14 or 16.
    pub granule: u32,
    /// Address bits that TTBR0 translates: 64 less TCR.T0SZ.
    pub low_bits: u32,
    /// Address bits that TTBR1 translates: 64 less TCR.T1SZ.
    pub high_bits: u32,
    /// TCR.HA and TCR.HD.
    pub sets: Sets,
    /// The physical address bits of TCR.IPS, at most 48.
    pub phys_bits: u32,
}

impl Vmsa64Walker {
    /// Makes the walker of a PE with as many address bits for TTBR1 as for
    /// TTBR0, and 48 physical ones.
    pub const fn new(granule: u32, bits: u32, sets: Sets) -> Self {
        Self {
            granule,
            low_bits: bits,
            high_bits: bits,
            sets,
            phys_bits: 48,
        }
    }

    /// Index bits of a whole table.
    const fn stride(&self) -> u32 {
        self.granule - 3
    }

    fn root(&self, table: u64, bits: u32, page: usize) -> Step {
        let pages = bits - self.granule;
        let level = pages.div_ceil(self.stride());
        let entries = pages - (level - 1) * self.stride();
        Step {
            page,
            ..Step::root(level as u8, table, 8 << entries, 1 << pages)
        }
    }

    /// Whether a block may stand at a level (without 52-bit addresses).
    const fn block_at(&self, level: u8) -> bool {
        level == 2 || (level == 3 && self.granule == 12)
    }

    /// The entries of a contiguous run.
    const fn run(&self, level: u8) -> u64 {
        match (self.granule, level) {
            (12, _) => 16,
            (14, 1) => 128,
            _ => 32,
        }
    }
}

impl Walker for Vmsa64Walker {
    fn page_shift(&self) -> u32 {
        self.granule
    }
    fn caches_invalid(&self) -> bool {
        // Nothing that would fault on translation or access flag is cached.
        false
    }
    fn fault_drops_entry(&self) -> bool {
        false
    }
    fn aborts_on_conflict(&self) -> bool {
        true
    }
    fn sets(&self) -> Sets {
        self.sets
    }
    fn coherent_code(&self) -> bool {
        false
    }
    fn start(&self, roots: Roots, page: usize) -> Result<Step, Refusal> {
        let low = self.low_bits - self.granule;
        let high = self.high_bits - self.granule;
        if page >> low == 0 {
            return Ok(self.root(roots.low, self.low_bits, 0));
        }
        let ones = (1usize << (64 - self.high_bits)) - 1;
        if page >> high != ones {
            return Err(Refusal::NonCanonical);
        }
        let step = |table| self.root(table, self.high_bits, ones << high);
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
            let shift = self.stride() * u32::from(at.level - 1);
            let entries = at.bytes / 8;
            let index = (page >> shift) as u64 & (entries - 1);
            let entry = at.table + index * 8;
            let word = load(ram, entry, 8);
            if word & VALID == 0 {
                return Err(Refusal::NotPresent(at.level));
            }
            let span = 1usize << shift;
            let first = page & !(span - 1);
            // Bits 47:granule; above the PE's addresses: an address size fault.
            let address = word & ((1 << 48) - 1) & !((1 << self.granule) - 1);
            let mut zero = 7 << 48 | ((1 << 48) - (1u64 << self.phys_bits));
            if word & TABLE != 0 && at.level > 1 {
                if word & zero != 0 {
                    return Err(Refusal::Reserved(at.level));
                }
                let el0 = word & AP_TABLE_NO_EL0 == 0;
                let write = word & AP_TABLE_RO == 0;
                let rights = Rights {
                    user: Allow {
                        read: el0,
                        write: el0 && write,
                        exec: word & UXN_TABLE == 0,
                    },
                    kernel: Allow {
                        read: true,
                        write,
                        exec: word & PXN_TABLE == 0,
                    },
                };
                at = Step {
                    level: at.level - 1,
                    page: first,
                    pages: span,
                    table: address,
                    bytes: 1 << self.granule,
                    rights: at.rights.and(rights),
                    note: 0,
                };
                trail.push(at);
                continue;
            }
            // A page has T set, a block clear. Address bits below the block are
            // zero, bits 49:48 and 50 (GP) too.
            let is_leaf = if at.level == 1 {
                word & TABLE != 0
            } else {
                self.block_at(at.level)
            };
            zero |= ((span as u64) << self.granule) - 1;
            zero &= !0xfff;
            if !is_leaf || word & zero != 0 {
                return Err(Refusal::Reserved(at.level));
            }
            // An access flag fault comes before a permission fault.
            if word & AF == 0 && self.sets == Sets::Nothing {
                return Err(Refusal::NotAccessed);
            }
            let el0 = word & AP_EL0 != 0;
            let clean = word & (AP_RO | DBM) == AP_RO | DBM && self.sets == Sets::Both;
            let write = word & AP_RO == 0 || clean;
            let rights = at.rights.and(Rights {
                user: Allow {
                    read: el0,
                    write: el0 && write,
                    exec: word & UXN == 0,
                },
                kernel: Allow {
                    read: true,
                    write,
                    // What EL0 may write is never executed at EL1.
                    exec: word & PXN == 0 && !(el0 && write),
                },
            });
            rights.check(access, mode)?;
            let mut want = word | AF;
            if access == Access::Write && clean {
                want &= !AP_RO;
            }
            if want != word && !replace(ram, entry, 8, word, want) {
                continue;
            }
            let leaf = Leaf {
                page: first,
                pages: span,
                frame: address >> self.granule,
                rights,
                dirty: want & AP_RO == 0,
                global: word & NG == 0,
                memory: (word >> 2 & 7) as u8,
            };
            if word & CONTIGUOUS == 0 {
                return Ok(leaf);
            }
            // Members may differ in what hardware sets: in the access flag if it
            // sets that, in AP[2] if that is the dirty state.
            let may_differ = match self.sets {
                Sets::Nothing => 0,
                Sets::Accessed => AF,
                Sets::Both if word & DBM != 0 => AF | AP_RO,
                Sets::Both => AF,
            };
            let run = self.run(at.level);
            RunOf {
                entries: run,
                bytes: 8,
                stride: (span as u64) << self.granule,
                member: (VALID | CONTIGUOUS, VALID | CONTIGUOUS),
                may_differ,
            }
            .check(ram, entry, word);
            let pages = span * run as usize;
            let page = page & !(pages - 1);
            let below = (first - page) as u64;
            return Ok(Leaf {
                page,
                pages,
                frame: leaf
                    .frame
                    .checked_sub(below)
                    .filter(|frame| frame & (pages as u64 - 1) == 0)
                    .expect("a run that is not aligned"),
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
    /// A page of the last level, for EL0, read and write, not for EL1 to execute:
    /// AttrIndx 0, AP 01, SH 11, AF, nG, PXN.
    const PAGE: u64 = 0x0020_0000_0000_0f43;

    #[test]
    fn four_levels_of_4_kib_tables() {
        let t = Tables::new(12, 8);
        let w = Vmsa64Walker::new(12, 48, Sets::Nothing);
        // Indexes 1, 2, 3, 5 from the top.
        let page = ((1 << 9 | 2) << 9 | 3) << 9 | 5;
        t.put64(0x10000, 1, 0x11003);
        t.put64(0x11000, 2, 0x12003);
        t.put64(0x12000, 3, 0x13003);
        t.put64(0x13000, 5, 0x4444_5000 | PAGE);
        let leaf = walk(&w, &t, page, Access::Write, USER).unwrap();
        assert_eq!((leaf.frame, leaf.page, leaf.pages), (0x44445, page, 1));
        assert!(leaf.dirty && !leaf.global);
        assert!(walk(&w, &t, page, Access::Exec, USER).is_ok());
        assert!(reads(&w, &t, page, KERNEL).is_ok(), "PAN is clear");
        // A 2 MiB block of the kernel's: AP 00, UXN, nG clear.
        t.put64(0x12000, 3, 0x0040_0000_4020_0701);
        let leaf = walk(&w, &t, page, Access::Exec, KERNEL).unwrap();
        assert_eq!((leaf.frame, leaf.pages, leaf.global), (0x40200, 512, true));
        assert_eq!(reads(&w, &t, page, USER), Err(Refusal::User));
        t.put64(0x12000, 3, 0x0040_0000_4021_0701);
        assert_eq!(reads(&w, &t, page, KERNEL), Err(Refusal::Reserved(2)));
        // A 1 GiB block may be, one of 512 GiB not.
        t.put64(0x11000, 2, 0x0040_0000_4000_0701);
        assert!(reads(&w, &t, page, KERNEL).is_ok_and(|l| l.pages == 1 << 18));
        t.put64(0x10000, 1, 0x0040_0000_0000_0701);
        assert_eq!(reads(&w, &t, page, KERNEL), Err(Refusal::Reserved(4)));
        // Nor is there a block at the last level.
        t.put64(0x10000, 1, 0x11003);
        t.put64(0x11000, 2, 0x12003);
        t.put64(0x12000, 3, 0x13003);
        t.put64(0x13000, 5, (0x4444_5000 | PAGE) & !2);
        assert_eq!(reads(&w, &t, page, USER), Err(Refusal::Reserved(1)));
    }

    #[test]
    fn the_start_level_follows_the_size_and_the_granule() {
        let start = |granule, bits| {
            let roots = Roots {
                low: 0x10000,
                high: None,
            };
            let step = Vmsa64Walker::new(granule, bits, Sets::Nothing).start(roots, 0);
            step.map(|s| (s.level, s.bytes / 8)).unwrap()
        };
        assert_eq!(start(12, 48), (4, 512));
        assert_eq!(start(12, 39), (3, 512));
        assert_eq!(start(12, 36), (3, 64));
        assert_eq!(start(14, 48), (4, 2));
        assert_eq!(start(14, 47), (3, 2048));
        assert_eq!(start(14, 36), (2, 2048));
        assert_eq!(start(16, 48), (3, 64));
        assert_eq!(start(16, 42), (2, 8192));
    }

    #[test]
    fn the_high_half_has_a_root_of_its_own() {
        let t = Tables::new(12, 8);
        let w = Vmsa64Walker::new(12, 39, Sets::Nothing);
        // The second root of the tests is at 0x14000.
        t.put64(0x14000, 511, 0x0060_0000_4000_0701);
        t.put64(0x10000, 511, 0x0060_0000_8000_0741);
        let top = (1usize << 52) - 1;
        let leaf = reads(&w, &t, top, KERNEL).unwrap();
        assert_eq!((leaf.page, leaf.frame), (top - 0x3_ffff, 0x40000));
        let low = reads(&w, &t, (1 << 27) - 1, USER).unwrap();
        assert_eq!(low.frame, 0x80000);
        assert_eq!(reads(&w, &t, 1 << 27, USER), Err(Refusal::NonCanonical));
        let none = Roots {
            low: 0x10000,
            high: None,
        };
        assert_eq!(w.start(none, top), Err(Refusal::NotPresent(3)));
    }

    #[test]
    fn granules_of_16_and_64_kib() {
        let t = Tables::new(14, 8);
        let w = Vmsa64Walker::new(14, 47, Sets::Nothing);
        // Frames of 16 KiB: 0x10000, 0x14000, 0x18000.
        t.put64(0x10000, 2, 0x14003);
        t.put64(0x14000, 3, 0x18003);
        t.put64(0x18000, 2047, 0x4444_4000 | PAGE);
        let page = (2 << 11 | 3) << 11 | 2047;
        assert_eq!(reads(&w, &t, page, USER).map(|l| l.frame), Ok(0x11111));
        t.put64(0x18000, 2047, 0x4444_5000 | PAGE);
        assert_eq!(reads(&w, &t, page, USER), Err(Refusal::Reserved(1)));
        // Blocks are of 32 MiB only.
        t.put64(0x14000, 3, 0x0600_0000 | PAGE & !2);
        assert_eq!(
            reads(&w, &t, page, USER).map(|l| (l.frame, l.pages)),
            Ok((0x1800, 2048))
        );
        t.put64(0x10000, 2, PAGE & !2);
        assert_eq!(reads(&w, &t, page, USER), Err(Refusal::Reserved(3)));

        let t = Tables::new(16, 4);
        let w = Vmsa64Walker::new(16, 42, Sets::Nothing);
        t.put64(0x10000, 5, 0x20003);
        t.put64(0x20000, 8191, 0x4_4444_0000 | PAGE);
        let page = 5 << 13 | 8191;
        assert_eq!(reads(&w, &t, page, USER).map(|l| l.frame), Ok(0x44444));
        t.put64(0x10000, 5, 0x2000_0000 | PAGE & !2);
        assert_eq!(
            reads(&w, &t, page, USER).map(|l| (l.frame, l.pages)),
            Ok((0x2000, 8192))
        );
    }

    #[test]
    fn the_access_flag_and_dirty_state_are_hardwares_or_softwares() {
        let t = Tables::new(12, 4);
        let soft = Vmsa64Walker::new(12, 30, Sets::Nothing);
        let flag = Vmsa64Walker::new(12, 30, Sets::Accessed);
        let both = Vmsa64Walker::new(12, 30, Sets::Both);
        t.put64(0x10000, 0, 0x11003);
        let old = 0x5000 | PAGE & !AF;
        t.put64(0x11000, 0, old);
        assert_eq!(reads(&soft, &t, 0, USER), Err(Refusal::NotAccessed));
        assert_eq!(t.get64(0x11000, 0), old);
        assert!(reads(&flag, &t, 0, USER).is_ok());
        assert_eq!(t.get64(0x11000, 0), old | AF);
        // Clean: read-only with DBM. Who does not know DBM sees read-only.
        let clean = 0x5000 | PAGE | AP_RO | DBM;
        for w in [soft, flag] {
            t.put64(0x11000, 0, clean);
            assert_eq!(
                walk(&w, &t, 0, Access::Write, USER),
                Err(Refusal::Right(Access::Write))
            );
        }
        let leaf = reads(&both, &t, 0, USER).unwrap();
        assert!(!leaf.dirty && leaf.rights.user.write);
        assert_eq!(t.get64(0x11000, 0), clean);
        assert!(walk(&both, &t, 0, Access::Write, USER).is_ok_and(|l| l.dirty));
        assert_eq!(t.get64(0x11000, 0), clean & !AP_RO);
        t.put64(0x11000, 0, clean & !DBM);
        assert_eq!(
            walk(&both, &t, 0, Access::Write, USER),
            Err(Refusal::Right(Access::Write))
        );
    }

    #[test]
    fn rights_of_el0_and_el1() {
        let t = Tables::new(12, 4);
        let w = Vmsa64Walker::new(12, 30, Sets::Nothing);
        let rights = |table: u64, leaf: u64| {
            t.put64(0x10000, 0, 0x11003 | table);
            t.put64(0x11000, 0, 0x5000 | AF | 3 | leaf);
            let ok = |access, mode| walk(&w, &t, 0, access, mode).is_ok();
            let of = |mode| {
                let has = [Access::Read, Access::Write, Access::Exec].map(|a| ok(a, mode));
                has.map(u8::from)
            };
            (of(USER), of(KERNEL))
        };
        assert_eq!(rights(0, UXN | PXN), ([0, 0, 0], [1, 1, 0]));
        assert_eq!(rights(0, UXN), ([0, 0, 0], [1, 1, 1]));
        assert_eq!(rights(0, PXN), ([0, 0, 1], [1, 1, 0]), "execute only");
        assert_eq!(rights(0, AP_EL0), ([1, 1, 1], [1, 1, 0]), "implied PXN");
        assert_eq!(rights(0, AP_EL0 | AP_RO), ([1, 0, 1], [1, 0, 1]));
        assert_eq!(rights(0, AP_RO | UXN), ([0, 0, 0], [1, 0, 1]));
        assert_eq!(rights(AP_TABLE_NO_EL0, AP_EL0), ([0, 0, 1], [1, 1, 0]));
        assert_eq!(rights(AP_TABLE_RO, AP_EL0 | UXN), ([1, 0, 0], [1, 0, 0]));
        assert_eq!(
            rights(UXN_TABLE | PXN_TABLE, AP_EL0 | AP_RO),
            ([1, 0, 0], [1, 0, 0])
        );
    }

    #[test]
    fn a_contiguous_run_is_one_translation() {
        let t = Tables::new(12, 4);
        let w = Vmsa64Walker::new(12, 30, Sets::Both);
        t.put64(0x10000, 0, 0x11003);
        let word = |i: u64| 0x34_0000 | i << 12 | PAGE | CONTIGUOUS | DBM;
        for i in 0..16 {
            t.put64(0x11000, 32 + i, word(i));
        }
        t.put64(0x11000, 33, word(1) & !AF | AP_RO);
        let leaf = reads(&w, &t, 39, USER).unwrap();
        assert_eq!((leaf.page, leaf.pages, leaf.frame), (32, 16, 0x340));
        // Being taken apart: one is gone already.
        t.put64(0x11000, 40, 0);
        assert!(reads(&w, &t, 39, USER).is_ok());
        assert_eq!(reads(&w, &t, 40, USER), Err(Refusal::NotPresent(1)));
        for (granule, run) in [(14, 128), (16, 32)] {
            let t = Tables::new(granule, 4);
            let bits = granule * 2 - 3;
            let w = Vmsa64Walker::new(granule, bits, Sets::Nothing);
            for i in 0..run {
                let at = 0x4000_0000 | i << granule;
                t.put64(0x10000, i, at | PAGE | CONTIGUOUS);
            }
            let leaf = reads(&w, &t, 3, USER).unwrap();
            assert_eq!((leaf.page, leaf.pages as u64), (0, run));
        }
    }

    #[test]
    #[should_panic(expected = "a run with unlike entries")]
    fn a_run_of_unlike_rights_is_noticed() {
        let t = Tables::new(12, 4);
        t.put64(0x10000, 0, 0x11003);
        for i in 0..16 {
            t.put64(0x11000, i, 0x34_0000 | i << 12 | PAGE | CONTIGUOUS);
        }
        // Without hardware dirty state AP[2] is a right.
        t.put64(0x11000, 9, 0x34_9000 | PAGE | CONTIGUOUS | AP_RO);
        let _leaf = reads(&Vmsa64Walker::new(12, 30, Sets::Accessed), &t, 0, USER);
    }

    #[test]
    #[should_panic(expected = "a run with unlike entries")]
    fn a_run_of_scattered_frames_is_noticed() {
        let t = Tables::new(12, 4);
        t.put64(0x10000, 0, 0x11003);
        for i in 0..16 {
            t.put64(0x11000, i, 0x34_0000 | i << 12 | PAGE | CONTIGUOUS);
        }
        t.put64(0x11000, 9, 0x77_9000 | PAGE | CONTIGUOUS);
        let _leaf = reads(&Vmsa64Walker::new(12, 30, Sets::Both), &t, 0, USER);
    }
}
