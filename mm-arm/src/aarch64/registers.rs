//! Values for the registers that switch translation on (DDI 0487, D17.2).
//!
//! ```text
//!  MAIR_EL1 = MAIR_VALUE; TCR_EL1 = tcr(..); TTBR0, TTBR1; ISB; SCTLR_EL1 |= MMU
//! ```

#[cfg(target_pointer_width = "64")]
use super::paging::{Granule, Stage1};
use mm_core::format::HardwareAd;
#[cfg(target_pointer_width = "64")]
use mm_core::format::PageTableFormat;

pub use crate::descriptor::MAIR_VALUE;

/// SCTLR_EL1.M: translation.
pub const SCTLR_MMU: u64 = 1;
/// SCTLR_EL1.C and I: data and instruction caches.
pub const SCTLR_CACHES: u64 = (1 << 2) | (1 << 12);
/// SCTLR_EL1.SA and SA0: SP must be aligned, in EL1 and in EL0.
pub const SCTLR_STACK_ALIGNMENT: u64 = (1 << 3) | (1 << 4);
/// What EL0 may do by itself, as Linux allows: DC ZVA, CTR_EL0, WFI, WFE,
/// cache maintenance by address (UCI).
pub const SCTLR_USER_MAY: u64 = (1 << 14) | (1 << 15) | (1 << 16) | (1 << 18) | (1 << 26);
/// SCTLR_EL1.SPAN clear: taking an exception sets PSTATE.PAN.
pub const SCTLR_SPAN: u64 = 1 << 23;
/// Bits that are one where the feature that names them is missing: LSMAOE,
/// nTLSMD, EIS, EOS, TSCXT.
pub const SCTLR_RES1: u64 = (1 << 11) | (1 << 20) | (1 << 22) | (1 << 28) | (1 << 29);

/// TCR_EL1.AS: ASIDs have 16 bits.
pub const TCR_ASID_16: u64 = 1 << 36;
/// TCR_EL1.HA: hardware sets AF.
pub const TCR_HARDWARE_ACCESSED: u64 = 1 << 39;
/// TCR_EL1.HD: hardware clears AP\[2\] of an entry with DBM.
pub const TCR_HARDWARE_DIRTY: u64 = 1 << 40;

/// TCR_EL1.TBI0: the top byte of users' addresses is not translated, as Linux
/// promises programs. A kernel that sets it takes reported addresses by
/// [`untagged`].
pub const TCR_USER_TAGS: u64 = 1 << 37;

/// Returns the address that a tagged one is translated as: bit 55 says which
/// half it is of, and bits 63 to 56 follow it.
pub const fn untagged(addr: u64) -> u64 {
    const TAG: u64 = 0xff << 56;
    if addr & (1 << 55) == 0 {
        addr & !TAG
    } else {
        addr | TAG
    }
}

/// Returns what hardware notes by itself, of ID_AA64MMFR1_EL1 (HAFDBS).
pub const fn hardware_ad(mmfr1: u64) -> HardwareAd {
    match mmfr1 & 0xf {
        0 => HardwareAd::None,
        1 => HardwareAd::Accessed,
        _ => HardwareAd::Both,
    }
}

/// Returns the number of bits of an ASID, of ID_AA64MMFR0_EL1 (ASIDBits).
pub const fn asid_bits(mmfr0: u64) -> u32 {
    if (mmfr0 >> 4) & 0xf == 2 { 16 } else { 8 }
}

/// Returns whether TLBI by range exists, of ID_AA64ISAR0_EL1 (TLB).
pub const fn has_tlbi_range(isar0: u64) -> bool {
    (isar0 >> 56) & 0xf >= 2
}

/// Returns whether PSTATE.PAN exists, of ID_AA64MMFR1_EL1 (PAN).
pub const fn has_pan(mmfr1: u64) -> bool {
    (mmfr1 >> 20) & 0xf != 0
}

/// Returns a value for TTBR0_EL1 or TTBR1_EL1: the root's address and, in the
/// one that TCR_EL1.A1 names (TTBR0), the ASID: both change in one write.
pub const fn ttbr(root: u64, asid: u16) -> u64 {
    (root & 0x0000_ffff_ffff_fffe) | ((asid as u64) << 48)
}

/// Returns the value for TCR_EL1 that tables of the format are walked with:
/// both halves of the same size and granule, walks through write-back caches,
/// inner shareable, as many physical address bits as the CPU and the format
/// have (`mmfr0` is ID_AA64MMFR0_EL1), ASIDs as wide as they go and in TTBR0,
/// and hardware's accessed and dirty bits as the format was made for.
#[cfg(target_pointer_width = "64")]
pub fn tcr<G: Granule>(format: Stage1<G>, mmfr0: u64) -> u64 {
    let size = 64u64.wrapping_sub(u64::from(format.va_bits()));
    // IRGN, ORGN: write-back, write-allocate; SH: inner.
    let walks = (1 << 8) | (1 << 10) | (3 << 12);
    let half = size | walks;
    // PARange counts as IPS does; 48 bits are the most that the format says.
    let physical = (mmfr0 & 0xf).min(5);
    let mut value = half | (half << 16) | (G::TG0 << 14) | (G::TG1 << 30) | (physical << 32);
    if asid_bits(mmfr0) == 16 {
        value |= TCR_ASID_16;
    }
    value
        | match format.hardware_ad() {
            HardwareAd::None => 0,
            HardwareAd::Accessed => TCR_HARDWARE_ACCESSED,
            HardwareAd::Both => TCR_HARDWARE_ACCESSED | TCR_HARDWARE_DIRTY,
        }
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use super::*;
    use crate::aarch64::{Page4K, Page16K, Page64K};

    /// A Cortex-A57: 44 bits, ASIDs of 16 bits, no FEAT_HAFDBS.
    const A57: u64 = 0x1124;

    #[test]
    fn tcr_matches_the_format() {
        // T0SZ = T1SZ = 16, 4 KiB: what Linux runs with 48 bits, less its TBI and HD.
        let four = Stage1::<Page4K>::new(48, HardwareAd::None);
        assert_eq!(tcr(four, A57), 0x14_b510_3510);
        let three = Stage1::<Page4K>::new(39, HardwareAd::Both);
        assert_eq!(tcr(three, A57), 0x194_b519_3519);
        let sixteen = Stage1::<Page16K>::new(47, HardwareAd::Accessed);
        assert_eq!(tcr(sixteen, 0x25), 0x95_7511_b511);
        // 52 bits of physical address are not used.
        let big = Stage1::<Page64K>::new(42, HardwareAd::None);
        assert_eq!(tcr(big, 0x06), 0x05_f516_7516);
    }

    #[test]
    fn features_are_read_where_the_manual_puts_them() {
        assert_eq!(
            [0, 1, 2, 3].map(hardware_ad)[..2],
            [HardwareAd::None, HardwareAd::Accessed]
        );
        assert_eq!([2, 3].map(hardware_ad), [HardwareAd::Both; 2]);
        assert_eq!((asid_bits(A57), asid_bits(0x05)), (16, 8));
        assert!(has_tlbi_range(2 << 56) && !has_tlbi_range(1 << 56));
        assert!(has_pan(0x10_0000) && !has_pan(0x2));
        assert_eq!(ttbr(0x4123_4000, 0x12), 0x0012_0000_4123_4000);
    }

    #[test]
    fn a_tag_is_taken_off_by_bit_55() {
        assert_eq!(untagged(0x5a00_ffff_1234_5678), 0x0000_ffff_1234_5678);
        assert_eq!(untagged(0x12ff_8000_0000_1000), 0xffff_8000_0000_1000);
        assert_eq!(untagged(0xffff_8000_0000_1000), 0xffff_8000_0000_1000);
    }

    #[test]
    fn mair_holds_the_types_that_entries_name() {
        let byte = |i: u32| (MAIR_VALUE >> (8 * i)) & 0xff;
        // D17.2.97: 0xff write-back, 0xbb write-through, 0x44 non-cacheable,
        // 0x00 nGnRnE, 0x04 nGnRE.
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(byte),
            [0xff, 0xbb, 0x44, 0x00, 0x04, 0x44]
        );
    }
}
