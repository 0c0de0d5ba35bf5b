//! The register that holds the root: its layout, and what a hart accepts in it.
//!
//! ```text
//!  RV64:  63..60  59........44  43........0
//!  RV32:   31     30........22  21........0
//!          mode      ASID      frame of the root
//! ```
//!
//! A write with a mode that the hart does not have has no effect at all
//! (10.1.11), which is how modes are probed. A write with a mode that it has
//! takes effect at once: the table must map the running code already. Bits of
//! the ASID that a hart does not have read as zero.
//!
//! Source: Privileged Architecture 20240411, 10.1.11.

use crate::tlb::Emit;
use mm_core::addr::Pfn;

/// Where the fields of `satp` stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    asid_shift: u32,
    asid_bits: u32,
    mode_shift: u32,
}

/// The layout of 64-bit harts.
pub const RV64: Layout = Layout {
    asid_shift: 44,
    asid_bits: 16,
    mode_shift: 60,
};

/// The layout of 32-bit harts.
pub const RV32: Layout = Layout {
    asid_shift: 22,
    asid_bits: 9,
    mode_shift: 31,
};

/// A value of the mode field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Translation {
    /// No translation.
    Bare = 0,
    /// Two levels, on 32-bit harts.
    Sv32 = 1,
    /// Three levels.
    Sv39 = 8,
    /// Four levels.
    Sv48 = 9,
    /// Five levels.
    Sv57 = 10,
}

/// The modes of 64-bit harts, the deepest first. A hart that has one has all
/// shallower ones.
pub const DEEPEST_FIRST: [Translation; 3] =
    [Translation::Sv57, Translation::Sv48, Translation::Sv39];

impl Layout {
    /// Writes down a value.
    pub const fn value(self, mode: Translation, asid: u16, root: Pfn) -> u64 {
        let asid = (asid as u64) & low_bits(self.asid_bits);
        ((mode as u64) << self.mode_shift)
            | (asid << self.asid_shift)
            | (root.as_u64() & low_bits(self.asid_shift))
    }

    /// Returns the mode field of a value.
    pub const fn mode(self, satp: u64) -> u64 {
        satp >> self.mode_shift
    }

    /// Returns the ASID in a value.
    #[expect(clippy::cast_possible_truncation, reason = "16 bits at most")]
    pub const fn asid(self, satp: u64) -> u16 {
        ((satp >> self.asid_shift) & low_bits(self.asid_bits)) as u16
    }

    /// Returns the frame of the root in a value.
    pub const fn root(self, satp: u64) -> Pfn {
        Pfn::new(satp & low_bits(self.asid_shift))
    }

    /// Tries a value and returns whether the hart took its mode. If not,
    /// nothing changed; if so, the value is in force.
    ///
    /// The caller's promise to [`Emit::write_satp`] holds for the value.
    pub fn accepts(self, emit: &mut impl Emit, value: u64) -> bool {
        emit.write_satp(value);
        self.mode(emit.read_satp()) == self.mode(value)
    }

    /// Returns how many bits of ASID the hart has: writes ones, reads them
    /// back, and restores the register. What was remembered meanwhile under
    /// the foreign ASID is dropped.
    pub fn probe_asid_bits(self, emit: &mut impl Emit) -> u32 {
        let old = emit.read_satp();
        emit.write_satp(old | (low_bits(self.asid_bits) << self.asid_shift));
        let read = self.asid(emit.read_satp());
        emit.write_satp(old);
        emit.sfence_vma(None, None);
        read.count_ones()
    }
}

const fn low_bits(bits: u32) -> u64 {
    1u64.wrapping_shl(bits).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlb::tests::Log;

    #[test]
    fn fields_stand_where_the_manual_draws_them() {
        let root = Pfn::new(0x8_0200);
        let value = RV64.value(Translation::Sv39, 0xffff, root);
        assert_eq!(value, 0x8fff_f000_0008_0200);
        assert_eq!((RV64.mode(value), RV64.asid(value)), (8, 0xffff));
        assert_eq!(RV64.root(value), root);
        assert_eq!(
            RV64.value(Translation::Sv57, 0, root),
            0xa000_0000_0008_0200
        );
        let value = RV32.value(Translation::Sv32, 0xffff, Pfn::new(0x3f_ffff));
        assert_eq!(value, 0xffff_ffff);
        assert_eq!((RV32.mode(value), RV32.asid(value)), (1, 0x1ff));
        assert_eq!(RV32.value(Translation::Sv32, 1, root), 0x8048_0200);
    }

    #[test]
    fn a_mode_is_probed_by_whether_the_write_had_an_effect() {
        let mut hart = Log::with_modes(&[0, 8, 9]);
        let value = |mode| RV64.value(mode, 0, Pfn::new(7));
        assert!(!RV64.accepts(&mut hart, value(Translation::Sv57)));
        assert_eq!(hart.read_satp(), 0);
        assert!(RV64.accepts(&mut hart, value(Translation::Sv48)));
        assert_eq!(hart.read_satp(), value(Translation::Sv48));
    }

    #[test]
    fn asid_bits_are_those_that_stick() {
        for bits in [0, 7, 16] {
            let mut hart = Log::with_modes(&[8]);
            hart.asid_bits = bits;
            let old = RV64.value(Translation::Sv39, 0, Pfn::new(7));
            hart.write_satp(old);
            hart.ops.clear();
            assert_eq!(RV64.probe_asid_bits(&mut hart), bits);
            assert_eq!(hart.read_satp(), old);
            assert_eq!(hart.ops.last().unwrap(), "sfence.vma x0, x0");
        }
    }
}
