//! Making freshly written instructions visible to fetches.
//!
//! Instruction caches do not watch stores. What each CPU does is in CTR_EL0:
//!
//! ```text
//!  DC CVAU, each data line         unless IDC: stores are seen where fetches look
//!  DSB ISH
//!  IC IVAU, each instruction line  unless DIC: then instruction caches watch
//!  DSB ISH
//!  ISB
//! ```
//!
//! (DDI 0487, B2.7.4 "Concurrent modification and execution", D7.5.) IC IVAU reaches
//! every CPU of the inner shareable domain, but where the instruction cache
//! finds lines by virtual address (L1Ip is not PIPT) it drops only the alias
//! that it names, and users fetch by another than the kernel wrote by: there
//! IC IALLUIS drops all. The ISBs of the other CPUs are their exception returns.

use super::{Emit, Reach, Waits};

/// The value of CTR_EL0: lines, and what is coherent without us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheType(u64);

impl CacheType {
    /// Takes a value of CTR_EL0.
    pub const fn new(ctr: u64) -> Self {
        Self(ctr)
    }

    /// Returns the shortest data line, in bytes.
    pub const fn data_line(self) -> usize {
        4usize.wrapping_shl(((self.0 >> 16) & 0xf) as u32)
    }

    /// Returns the shortest instruction line, in bytes.
    pub const fn instruction_line(self) -> usize {
        4usize.wrapping_shl((self.0 & 0xf) as u32)
    }

    /// Returns whether data need not be cleaned (IDC).
    pub const fn is_data_coherent(self) -> bool {
        self.0 & (1 << 28) != 0
    }

    /// Returns whether instruction caches need not be told (DIC).
    pub const fn are_fetches_coherent(self) -> bool {
        self.0 & (1 << 29) != 0
    }

    /// Returns whether one physical line may be cached under several virtual
    /// addresses (L1Ip is not 0b11, PIPT).
    pub const fn has_aliases(self) -> bool {
        (self.0 >> 14) & 3 != 3
    }
}

/// Makes instructions in `bytes` bytes at `addr`, by which they were written,
/// visible to fetches on every CPU.
pub fn sync_code(emit: &mut impl Emit, cache: CacheType, addr: usize, bytes: usize) {
    if !cache.is_data_coherent() {
        for line in lines(addr, bytes, cache.data_line()) {
            #[cfg(not(mm_mutant = "aarch64_code_is_not_cleaned"))]
            emit.dc_cvau(line);
        }
    }
    #[cfg(not(mm_mutant = "aarch64_code_dropped_before_cleaned"))]
    emit.dsb(Waits::All, Reach::InnerShareable);
    if !cache.are_fetches_coherent() {
        if cache.has_aliases() {
            emit.ic_ialluis();
        } else {
            for line in lines(addr, bytes, cache.instruction_line()) {
                #[cfg(not(mm_mutant = "aarch64_code_is_not_dropped"))]
                emit.ic_ivau(line);
            }
        }
        #[cfg(not(mm_mutant = "aarch64_code_is_not_waited_for"))]
        emit.dsb(Waits::All, Reach::InnerShareable);
    }
    #[cfg(not(mm_mutant = "aarch64_code_without_isb"))]
    emit.isb();
}

fn lines(addr: usize, bytes: usize, line: usize) -> impl Iterator<Item = usize> {
    let start = addr & !line.wrapping_sub(1);
    (start..addr.saturating_add(bytes)).step_by(line)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::aarch64::Tlbi;

    /// Writes down what was emitted, as an assembler would have it.
    #[derive(Default)]
    pub(crate) struct Log(pub Vec<String>);

    impl Emit for Log {
        fn tlbi(&mut self, what: Tlbi, reach: Reach, argument: u64) {
            let name = match what {
                Tlbi::All => "vmalle1",
                Tlbi::Asid => "aside1",
                Tlbi::Address => "vae1",
                Tlbi::AddressLast => "vale1",
                Tlbi::AnyAddress => "vaae1",
                Tlbi::AnyAddressLast => "vaale1",
                Tlbi::Range => "rvae1",
                Tlbi::RangeLast => "rvale1",
                Tlbi::AnyRange => "rvaae1",
                Tlbi::AnyRangeLast => "rvaale1",
            };
            let shared = if reach == Reach::InnerShareable {
                "is"
            } else {
                ""
            };
            let argument = if what == Tlbi::All {
                String::new()
            } else {
                format!(" {argument:#x}")
            };
            self.0.push(format!("tlbi {name}{shared}{argument}"));
        }
        fn dsb(&mut self, waits: Waits, reach: Reach) {
            let domain = if reach == Reach::Local { "nsh" } else { "ish" };
            let stores = if waits == Waits::Stores { "st" } else { "" };
            self.0.push(format!("dsb {domain}{stores}"));
        }
        fn isb(&mut self) {
            self.0.push("isb".into());
        }
        #[expect(unsafe_code, reason = "implements the trait")]
        unsafe fn write_ttbr0(&mut self, value: u64) {
            self.0.push(format!("msr ttbr0_el1 {value:#x}"));
        }
        fn dc_cvau(&mut self, addr: usize) {
            self.0.push(format!("dc cvau {addr:#x}"));
        }
        fn ic_ivau(&mut self, addr: usize) {
            self.0.push(format!("ic ivau {addr:#x}"));
        }
        fn ic_ialluis(&mut self) {
            self.0.push("ic ialluis".into());
        }
    }

    fn run(ctr: u64) -> Vec<String> {
        let mut log = Log::default();
        sync_code(&mut log, CacheType::new(ctr), 0x1000, 128);
        log.0
    }

    /// CTR_EL0 of a Cortex-A57: 64-byte lines, PIPT (DDI 0488, 4.3.25).
    #[test]
    fn lines_are_cleaned_then_dropped() {
        assert_eq!(
            run(0x8444_c004),
            [
                "dc cvau 0x1000",
                "dc cvau 0x1040",
                "dsb ish",
                "ic ivau 0x1000",
                "ic ivau 0x1040",
                "dsb ish",
                "isb"
            ]
        );
    }

    #[test]
    fn what_is_coherent_is_left_out() {
        // IDC: a Neoverse N1 reports it; DIC too: nothing but the barriers.
        assert_eq!(
            run(0x9444_c004),
            [
                "dsb ish",
                "ic ivau 0x1000",
                "ic ivau 0x1040",
                "dsb ish",
                "isb"
            ]
        );
        assert_eq!(run(0xb444_c004), ["dsb ish", "isb"]);
    }

    /// A Cortex-A53 finds instructions by virtual index: 0x84448004.
    #[test]
    fn an_aliasing_instruction_cache_is_dropped_whole() {
        assert_eq!(
            run(0x8444_8004)[2..],
            ["dsb ish", "ic ialluis", "dsb ish", "isb"]
        );
    }

    #[test]
    fn a_page_that_begins_within_a_line_is_covered() {
        let mut log = Log::default();
        sync_code(&mut log, CacheType::new(0x8444_c004), 0x1010, 0x40);
        assert_eq!(log.0[..2], ["dc cvau 0x1000", "dc cvau 0x1040"]);
    }
}
