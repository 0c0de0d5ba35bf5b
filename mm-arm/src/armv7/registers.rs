//! Values of the system registers that fit [`Short`](super::Short).
//!
//! Constants with their reasons; a kernel loads them before it switches the
//! MMU on (DDI 0406C B4.1).

/// SCTLR.M: the MMU.
pub const SCTLR_MMU: u32 = 1;
/// SCTLR.A: every unaligned access faults. Clear for ARMv7 programs.
pub const SCTLR_ALIGNMENT: u32 = 1 << 1;
/// SCTLR.C: data and unified caches.
pub const SCTLR_CACHE: u32 = 1 << 2;
/// SCTLR.Z: branch prediction.
pub const SCTLR_BRANCH: u32 = 1 << 11;
/// SCTLR.I: instruction caches.
pub const SCTLR_INSTRUCTION_CACHE: u32 = 1 << 12;
/// SCTLR.V: vectors at 0xffff0000; clear: at VBAR.
pub const SCTLR_HIGH_VECTORS: u32 = 1 << 13;
/// SCTLR.TRE: memory types through PRRR and NMRR.
pub const SCTLR_REMAP: u32 = 1 << 28;
/// SCTLR.AFE: AP\[0\] is the access flag. The format wants it clear.
pub const SCTLR_ACCESS_FLAG: u32 = 1 << 29;
/// SCTLR.TE: exceptions are taken in Thumb state.
pub const SCTLR_THUMB_EXCEPTIONS: u32 = 1 << 30;

/// DACR with all sixteen domains clients: rights are checked in all of them.
/// The format keeps software's bits in domain numbers, so no domain may be
/// a manager (no checks) or without access.
pub const DACR_CLIENTS: u32 = 0x5555_5555;

/// PRRR for [`MemoryTypes::Remapped`](super::short::MemoryTypes): what each
/// of the eight indices is, two bits each from bit 0: 0 strongly ordered,
/// 1 device, 2 normal. Bits 16 to 19: S as it stands for device and normal
/// memory. Bits 24 and up: not outer shareable.
///
/// The same value as Linux loads on ARMv7.
pub const PRRR: u32 = 0xff0a_81a8;

/// NMRR: inner (bits 0 and up) and outer (bits 16 and up) policy of each
/// normal index: 0 none, 1 write-back write-allocate, 2 write-through, 3 write-back.
pub const NMRR: u32 = 0x40e0_40e0;

/// The low bits of TTBR0 and TTBR1 for walks that look into write-back,
/// write-allocate, shareable caches, with the Multiprocessing Extensions:
/// IRGN 0b01, RGN 0b01, S, NOS.
pub const TTBR_SHAREABLE: u32 = 0x6a;

/// The low bits of TTBR0 and TTBR1 for one CPU: write-back caches, not
/// shareable.
pub const TTBR_LOCAL: u32 = 0x59;

/// A TTBCR split: addresses below the boundary are looked up in TTBR0's table,
/// others in TTBR1's (DDI 0406C B3.5.4).
///
/// [`Short`](super::Short) uses one table for both (`N` = 0): 3 GiB of user
/// space is not a power of two. With a split the switch of a space leaves the
/// kernel's table alone, and user roots get smaller, at the price of user space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    n: u32,
}

impl Split {
    /// One table for all.
    pub const NONE: Self = Self { n: 0 };

    /// Makes the split at `2^(32 - n)`, or returns `None` when n exceeds 7.
    pub const fn new(n: u32) -> Option<Self> {
        if n <= 7 { Some(Self { n }) } else { None }
    }

    /// Returns the value of TTBCR with both tables enabled.
    pub const fn ttbcr(self) -> u32 {
        self.n
    }

    /// Returns the number of bytes below the boundary.
    pub const fn user_bytes(self) -> u64 {
        match (1u64 << 32).checked_shr(self.n) {
            Some(bytes) => bytes,
            None => 0,
        }
    }

    /// Returns the size of TTBR0's table, in bytes; it is aligned to it.
    /// TTBR1's has always 16 KiB.
    pub const fn user_root_bytes(self) -> u32 {
        match 0x4000u32.checked_shr(self.n) {
            Some(bytes) => bytes,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::armv7::short::MemoryTypes;
    use mm_core::prot::MemType;

    /// Looks the indices up as hardware does (B3.8.3, B4.1.127 and 104).
    #[test]
    fn remap_registers_agree_with_the_indices() {
        let expected = [
            (MemType::Uncached, 0, None),
            (MemType::WriteCombining, 2, Some(0)),
            (MemType::WriteThrough, 2, Some(2)),
            (MemType::WriteBack, 2, Some(3)),
            (MemType::Device, 1, None),
        ];
        for (index, (mem, kind, policy)) in expected.into_iter().enumerate() {
            let at = 2 * index as u32;
            assert_eq!(PRRR >> at & 3, kind, "index {index}");
            assert_eq!(MemoryTypes::Remapped.of_bits(index as u32), mem);
            if let Some(policy) = policy {
                assert_eq!(NMRR >> at & 3, policy, "inner of index {index}");
                assert_eq!(NMRR >> (16 + at) & 3, policy, "outer of index {index}");
            }
        }
        assert_eq!(PRRR >> 14 & 3, 2, "index 7 is normal");
        assert_eq!((NMRR >> 14 & 3, NMRR >> 30), (1, 1), "write-allocate");
        // S = 1 is shareable, S = 0 is not, for normal memory; device always.
        assert_eq!(PRRR >> 16 & 0xf, 0b1010);
    }

    /// Linux prints them at the end of `Table:` in a dump: 41bc806a on a
    /// Cortex-A7 with SMP, 6df30059 on one CPU.
    #[test]
    fn table_walks_look_into_the_caches_that_the_cpu_writes() {
        let irgn = |ttbr: u32| (ttbr & 1) << 1 | ttbr >> 6 & 1;
        let rgn = |ttbr: u32| ttbr >> 3 & 3;
        assert_eq!((irgn(TTBR_SHAREABLE), rgn(TTBR_SHAREABLE)), (1, 1));
        assert_eq!(TTBR_SHAREABLE & 0x22, 0x22, "S and NOS");
        assert_eq!((irgn(TTBR_LOCAL), rgn(TTBR_LOCAL)), (3, 3));
        assert_eq!(TTBR_LOCAL & 0x22, 0);
    }

    #[test]
    fn splits_halve_user_space_and_its_root() {
        assert_eq!(Split::NONE.user_bytes(), 1 << 32);
        assert_eq!(Split::NONE.user_root_bytes(), 16 << 10);
        let half = Split::new(1).unwrap();
        assert_eq!((half.ttbcr(), half.user_bytes()), (1, 0x8000_0000));
        assert_eq!(half.user_root_bytes(), 8 << 10);
        let least = Split::new(7).unwrap();
        assert_eq!(
            (least.user_bytes(), least.user_root_bytes()),
            (32 << 20, 128)
        );
        assert_eq!(Split::new(8), None);
        assert_eq!(DACR_CLIENTS.count_ones(), 16);
    }
}
