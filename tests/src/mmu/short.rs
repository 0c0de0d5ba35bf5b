//! ARMv7-A: the short-descriptor format.
//!
//! Arm ARM DDI 0406C, B3.5 "Short-descriptor translation table format" (figures
//! B3-4 and B3-5), B3.7 "Memory access control".
//!
//! ```text
//!  first level: 4096 words, 16 KiB
//!   31            20 19 18 17 16  15  14 12 11 10 9 8   5 4 3 2 1 0
//!   table address (31:10)                         ─ domain 0 ─ PXN 0 1
//!   section          NS 0  nG  S AP[2]  TEX  AP   ─ domain XN C B  1 PXN
//!   super 31:24│35:32 NS 1  nG  S AP[2]  TEX  AP   ─ 39:36  XN C B  1 PXN   16 times
//!  second level: 256 words, 1 KiB
//!   large page 31:16 │ XN 15 │ TEX 14:12 │ nG S AP[2] 0 0 0 AP C B 0 1      16 times
//!   small page 31:12                     │ nG S AP[2]  TEX  AP C B 1 XN
//! ```
//! Hardware sets nothing. An instruction fetch needs the right to read.

use super::{Allow, Leaf, Mode, Refusal, Rights, Roots, RunOf, Sets, Step, Walker, load};
use crate::arena::Arena;
use mm_core::prot::Access;

/// The walker of an ARMv7-A CPU with TTBCR.EAE clear.
#[derive(Clone, Copy, Debug)]
pub struct ShortWalker {
    /// SCTLR.AFE: `AP[0]` is the access flag.
    pub access_flag: bool,
    /// DACR: two bits for each domain: 0 closed, 1 client, 3 manager.
    pub domains: u32,
    /// TTBCR.N: TTBR0 translates the first `2^(32-N)` bytes, TTBR1 the others.
    pub n: u32,
}

impl ShortWalker {
    /// Makes the walker of a CPU where domain 0 is a client, the others are
    /// closed, TTBR0 translates all, and AP has three bits of rights.
    pub const fn new() -> Self {
        Self {
            access_flag: false,
            domains: 1,
            n: 0,
        }
    }

    /// `AP[2:0]` as rights of the two modes (table B3-8), or with the access flag
    /// `AP[2:1]` (table B3-9).
    fn access(&self, ap: u64) -> Option<(Allow, Allow)> {
        let rw = Allow {
            exec: false,
            ..Allow::ALL
        };
        let ro = Allow { write: false, ..rw };
        let none = Allow::NONE;
        let ap = if self.access_flag { ap | 1 } else { ap };
        Some(match (self.access_flag, ap) {
            (_, 0b000) => (none, none),
            (_, 0b001) => (none, rw),
            (_, 0b010) => (ro, rw),
            (_, 0b011) => (rw, rw),
            (_, 0b101) => (none, ro),
            (_, 0b110 | 0b111) => (ro, ro),
            _ => return None,
        })
    }
}

impl Default for ShortWalker {
    fn default() -> Self {
        Self::new()
    }
}

/// What the four kinds of leaf say, each in other bits.
struct Fields {
    level: u8,
    pages: usize,
    frame: u64,
    ap: u64,
    xn: bool,
    pxn: bool,
    global: bool,
    domain: u8,
    /// TEX, C, B.
    memory: u8,
    repeats: bool,
}

impl Fields {
    fn of_first(word: u64) -> Self {
        let bit = |n: u32| word >> n & 1;
        let is_super = bit(18) != 0;
        let frame = if is_super {
            (word >> 24 | (word >> 20 & 15) << 8 | (word >> 5 & 15) << 12) << 12
        } else {
            word >> 20 << 8
        };
        Self {
            level: 2,
            pages: if is_super { 4096 } else { 256 },
            frame,
            ap: bit(15) << 2 | word >> 10 & 3,
            xn: bit(4) != 0,
            pxn: bit(0) != 0,
            global: bit(17) == 0,
            domain: if is_super { 0 } else { (word >> 5 & 15) as u8 },
            memory: ((word >> 12 & 7) << 2 | word >> 2 & 3) as u8,
            repeats: is_super,
        }
    }

    fn of_second(word: u64, table: Step) -> Self {
        let bit = |n: u32| word >> n & 1;
        let large = bit(1) == 0;
        let tex = if large { word >> 12 & 7 } else { word >> 6 & 7 };
        Self {
            level: 1,
            pages: if large { 16 } else { 1 },
            frame: if large { word >> 16 << 4 } else { word >> 12 },
            ap: bit(9) << 2 | word >> 4 & 3,
            xn: if large { bit(15) != 0 } else { bit(0) != 0 },
            pxn: table.note & 16 != 0,
            global: bit(11) == 0,
            domain: table.note & 15,
            memory: (tex << 2 | word >> 2 & 3) as u8,
            repeats: large,
        }
    }
}

impl Walker for ShortWalker {
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
        let all = 1usize << 20;
        let low = all >> self.n;
        if page < low {
            return Ok(Step::root(2, roots.low, 0x4000 >> self.n, low));
        }
        let table = roots.high.ok_or(Refusal::NotPresent(2))?;
        Ok(Step::root(2, table, 0x4000, all))
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
        if at.level == 2 {
            let entry = at.table + (page as u64 >> 8) * 4;
            let word = load(ram, entry, 4);
            match word & 3 {
                0 => return Err(Refusal::NotPresent(2)),
                1 => {
                    if word & 0x10 != 0 {
                        return Err(Refusal::Reserved(2));
                    }
                    // The domain, and PXN for all pages below.
                    let note = (word >> 5 & 15) as u8 | (word << 2 & 16) as u8;
                    at = Step {
                        level: 1,
                        page: page & !255,
                        pages: 256,
                        table: word & !0x3ff,
                        bytes: 1024,
                        rights: Rights::ALL,
                        note,
                    };
                    trail.push(at);
                }
                _ => {
                    return self.leaf(ram, entry, word, Fields::of_first(word), page, access, mode);
                }
            }
        }
        let entry = at.table + (page as u64 & 255) * 4;
        let word = load(ram, entry, 4);
        if word & 3 == 0 {
            return Err(Refusal::NotPresent(1));
        }
        if word & 3 == 1 && word & 0x1c0 != 0 {
            return Err(Refusal::Reserved(1));
        }
        let fields = Fields::of_second(word, at);
        self.leaf(ram, entry, word, fields, page, access, mode)
    }
}

impl ShortWalker {
    #[expect(clippy::too_many_arguments, reason = "the state of one walk")]
    fn leaf(
        &self,
        ram: &Arena,
        entry: u64,
        word: u64,
        is: Fields,
        page: usize,
        access: Access,
        mode: Mode,
    ) -> Result<Leaf, Refusal> {
        // Access flag, then domain, then permission (B3.12.4).
        if self.access_flag && is.ap & 1 == 0 {
            return Err(Refusal::NotAccessed);
        }
        let reserved = Err(Refusal::Reserved(is.level));
        let rights = match self.domains >> (2 * is.domain) & 3 {
            0 => return Err(Refusal::Domain(is.domain)),
            // A manager's accesses are not checked: neither is XN.
            3 => Rights::ALL,
            1 => {
                let Some((user, kernel)) = self.access(is.ap) else {
                    return reserved;
                };
                let exec = |allow: Allow, never: bool| Allow {
                    exec: allow.read && !never,
                    ..allow
                };
                Rights {
                    user: exec(user, is.xn),
                    kernel: exec(kernel, is.xn || is.pxn),
                }
            }
            _ => return reserved,
        };
        rights.check(access, mode)?;
        if is.repeats {
            RunOf {
                entries: 16,
                bytes: 4,
                stride: 0,
                // The kind: bits 1:0, and of a supersection also bit 18.
                member: match is.level {
                    1 => (3, 1),
                    _ => (1 << 18 | 2, 1 << 18 | 2),
                },
                may_differ: 0,
            }
            .check(ram, entry, word);
        }
        Ok(Leaf {
            page: page & !(is.pages - 1),
            pages: is.pages,
            frame: is.frame,
            rights,
            dirty: rights.user.write || rights.kernel.write,
            global: is.global,
            memory: is.memory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Tables, reads, walk};
    use super::*;

    const USER: Mode = Mode::User;
    const KERNEL: Mode = Mode::Kernel;

    fn tables() -> Tables {
        // The first level takes 0x10000 to 0x13fff; 0x14000 is the other root.
        Tables::new(12, 12)
    }

    #[test]
    fn twelve_eight_twelve_with_tables_of_1_kib() {
        let t = tables();
        let w = ShortWalker::new();
        // 0x0001_0000, where armhf programs are linked: index 0 and 16.
        t.put32(0x10000, 0, 0x0001_8c01);
        // AP 011, TEX 000, C, B, nG, small page, not XN.
        t.put32(0x18c00, 16, 0x4444_583e);
        let leaf = walk(&w, &t, 0x10, Access::Write, USER).unwrap();
        assert_eq!((leaf.frame, leaf.pages, leaf.global), (0x44445, 1, false));
        assert_eq!(leaf.memory, 0b00011, "C and B");
        assert!(walk(&w, &t, 0x10, Access::Exec, USER).is_ok());
        t.put32(0x18c00, 16, 0x4444_583f);
        assert_eq!(
            walk(&w, &t, 0x10, Access::Exec, USER),
            Err(Refusal::Right(Access::Exec))
        );
        assert_eq!(reads(&w, &t, 0x11, USER), Err(Refusal::NotPresent(1)));
        assert_eq!(reads(&w, &t, 0x110, USER), Err(Refusal::NotPresent(2)));
        // The last word of the first level.
        t.put32(0x13000, 1023, 0x0001_9001);
        t.put32(0x19000, 255, 0x5555_541e);
        assert_eq!(reads(&w, &t, 0xfffff, KERNEL).map(|l| l.frame), Ok(0x55555));
        assert_eq!(reads(&w, &t, 0xfffff, USER), Err(Refusal::User));
    }

    #[test]
    fn sections_and_supersections() {
        let t = tables();
        let w = ShortWalker::new();
        // TEX 001, C, B, S, AP 001: write-back memory of the kernel's.
        t.put32(0x10000, 0x800, 0x8001_140e);
        let leaf = walk(&w, &t, 0x80012, Access::Exec, KERNEL).unwrap();
        assert_eq!((leaf.page, leaf.pages, leaf.frame), (0x80000, 256, 0x80000));
        assert_eq!(leaf.memory, 0b00111);
        assert!(leaf.global);
        for i in 0..16 {
            // Bits 23:20 are address bits 35:32, bits 8:5 39:36.
            t.put32(0x10000, 0x900 + i, 0x4454_0402 | 1 << 5);
        }
        let leaf = reads(&w, &t, 0x90500, KERNEL).unwrap();
        assert_eq!((leaf.page, leaf.pages), (0x90000, 4096));
        assert_eq!(leaf.frame, 0x15_4400_0000 >> 12);
    }

    #[test]
    #[should_panic(expected = "a run with unlike entries")]
    fn a_supersection_repeats_sixteen_times() {
        let t = tables();
        for i in 0..16 {
            t.put32(0x10000, 0x900 + i, 0x4404_0402);
        }
        t.put32(0x10000, 0x903, 0x4404_8402);
        let _leaf = reads(&ShortWalker::new(), &t, 0x90500, KERNEL);
    }

    #[test]
    fn a_large_page_repeats_sixteen_times() {
        let t = tables();
        t.put32(0x10000, 0, 0x0001_8001);
        for i in 0..16 {
            // XN, TEX 001, AP 11, C, B.
            t.put32(0x18000, 32 + i, 0x4444_903d);
        }
        let leaf = reads(&ShortWalker::new(), &t, 39, USER).unwrap();
        assert_eq!((leaf.page, leaf.pages, leaf.frame), (32, 16, 0x44440));
        assert_eq!(leaf.memory, 0b00111);
        assert!(!leaf.rights.user.exec && leaf.rights.user.write);
        t.put32(0x18000, 39, 0x4444_907d);
        assert_eq!(
            reads(&ShortWalker::new(), &t, 39, USER),
            Err(Refusal::Reserved(1))
        );
    }

    #[test]
    #[should_panic(expected = "a run with unlike entries")]
    fn a_large_page_that_changes_midway_is_noticed() {
        let t = tables();
        t.put32(0x10000, 0, 0x0001_8001);
        for i in 0..16 {
            t.put32(0x18000, 32 + i, 0x4444_903d);
        }
        t.put32(0x18000, 45, 0x4445_903d);
        let _leaf = reads(&ShortWalker::new(), &t, 39, USER);
    }

    #[test]
    fn rights_are_three_bits_or_two_and_a_flag() {
        let t = tables();
        t.put32(0x10000, 0, 0x0001_8001);
        let rights = |w: ShortWalker, ap: u32| {
            t.put32(0x18000, 0, 0x5002 | (ap >> 2) << 9 | (ap & 3) << 4);
            [USER, KERNEL].map(|mode| {
                [Access::Read, Access::Write, Access::Exec]
                    .map(|a| u8::from(walk(&w, &t, 0, a, mode).is_ok()))
            })
        };
        let plain = ShortWalker::new();
        assert_eq!(rights(plain, 0b000), [[0, 0, 0], [0, 0, 0]]);
        assert_eq!(rights(plain, 0b001), [[0, 0, 0], [1, 1, 1]]);
        assert_eq!(rights(plain, 0b010), [[1, 0, 1], [1, 1, 1]]);
        assert_eq!(rights(plain, 0b011), [[1, 1, 1], [1, 1, 1]]);
        assert_eq!(reads(&plain, &t, 0, USER).map(|l| l.frame), Ok(5));
        rights(plain, 0b100);
        assert_eq!(reads(&plain, &t, 0, USER), Err(Refusal::Reserved(1)));
        assert_eq!(rights(plain, 0b101), [[0, 0, 0], [1, 0, 1]]);
        assert_eq!(rights(plain, 0b111), [[1, 0, 1], [1, 0, 1]]);
        let flag = ShortWalker {
            access_flag: true,
            ..plain
        };
        assert_eq!(rights(flag, 0b001), [[0, 0, 0], [1, 1, 1]]);
        assert_eq!(rights(flag, 0b011), [[1, 1, 1], [1, 1, 1]]);
        assert_eq!(rights(flag, 0b101), [[0, 0, 0], [1, 0, 1]]);
        assert_eq!(rights(flag, 0b111), [[1, 0, 1], [1, 0, 1]]);
        rights(flag, 0b010);
        assert_eq!(reads(&flag, &t, 0, USER), Err(Refusal::NotAccessed));
    }

    #[test]
    fn domains_open_and_close() {
        let t = tables();
        t.put32(0x10000, 0, 0x0001_8001 | 2 << 5);
        t.put32(0x18000, 0, 0x5013); // kernel only, XN
        let w = ShortWalker::new();
        assert_eq!(reads(&w, &t, 0, KERNEL), Err(Refusal::Domain(2)));
        let client = ShortWalker {
            domains: 1 << 4,
            ..w
        };
        assert_eq!(reads(&client, &t, 0, USER), Err(Refusal::User));
        let manager = ShortWalker {
            domains: 3 << 4,
            ..w
        };
        assert!(walk(&manager, &t, 0, Access::Exec, USER).is_ok());
    }

    #[test]
    fn pxn_of_the_table_is_for_all_its_pages() {
        let t = tables();
        t.put32(0x10000, 0, 0x0001_8005);
        t.put32(0x18000, 0, 0x5032);
        let w = ShortWalker::new();
        assert!(walk(&w, &t, 0, Access::Exec, USER).is_ok());
        assert_eq!(
            walk(&w, &t, 0, Access::Exec, KERNEL),
            Err(Refusal::Right(Access::Exec))
        );
    }

    #[test]
    fn ttbcr_splits_the_addresses_between_two_roots() {
        let t = tables();
        let w = ShortWalker {
            n: 1,
            ..ShortWalker::new()
        };
        t.put32(0x10000, 0x7ff, 0x1110_0c02);
        t.put32(0x14000, 0x800, 0x2220_0c02);
        t.put32(0x14000, 0x7ff, 0x3330_0c02);
        assert_eq!(reads(&w, &t, 0x7ff00, USER).map(|l| l.frame), Ok(0x11100));
        assert_eq!(reads(&w, &t, 0x80000, USER).map(|l| l.frame), Ok(0x22200));
        let step = w
            .start(
                Roots {
                    low: 0x10000,
                    high: None,
                },
                0,
            )
            .unwrap();
        assert_eq!(step.bytes, 0x2000);
    }
}
