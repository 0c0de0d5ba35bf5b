//! Long-mode page-table entries.
//!
//! ```text
//!  63 62..59 58..52 51..................12 11..9  8  7  6 5  4   3   2   1  0
//!  NX  pkey  soft      frame number         soft  G  *  D A PCD PWT U/S R/W P=1
//!                                                    * level 1: PAT, above: PS (a leaf; its PAT is bit 12)
//!
//!  63..58    57....................................4  3..1  0
//!    0               inverted value                   kind  P=0   non-present
//! ```
//!
//! | memory type | PAT PCD PWT | with [`PAT_VALUE`] |
//! |---|---|---|
//! | write-back | 0 0 0 | WB |
//! | write-through | 0 0 1 | WT |
//! | uncached | 0 1 0 | UC- |
//! | device | 0 1 1 | UC |
//! | write-combining | 1 0 0 | WC |
//!
//! The first four are what the PAT holds at reset; a kernel that uses
//! write-combining loads [`PAT_VALUE`] first. EFER.NXE must be as the format's
//! [`PagingFeatures`] say: while it is clear, bit 63 is reserved, no entry has
//! it, and every page that is present can be fetched from. So is PS of level 3
//! on a CPU without pages of 1 GiB: a leaf there would fault at its first use.
//! CR0.WP must be set, else the kernel writes through write-protected entries.
//! A readable right is implied by present; write-only and exec-only mappings
//! are readable too, as on Linux/x86 without protection keys.
//!
//! Why the value of a non-present entry is inverted: a CPU with L1TF
//! speculates through bits 51..12 of an entry whose P is 0; inverted, small
//! values point far above any memory. (Intel, "L1 Terminal Fault", 2018.)

use crate::entry::{
    ACCESSED, DIRTY, NO_EXEC, PRESENT, PS, USER, VALUE_SHIFT, WRITABLE, ad_settled, edit,
    leaf_attrs, leaf_bits, nonpresent, nonpresent_bits, rights, with_bit,
};
use core::fmt::Debug;
use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{
    AdBit, Attrs, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat, TableOwner,
};
use mm_core::prot::Prot;

const FRAME: u64 = 0x000f_ffff_ffff_f000;
const VALUE_BITS: u32 = 54;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;
const _: () = assert!(VALUE_BITS + VALUE_SHIFT < 64);

/// The value for MSR IA32_PAT (0x277): the reset value with entry 4 changed
/// to write-combining.
pub const PAT_VALUE: u64 = 0x0007_0401_0007_0406;

/// How many levels a table has.
pub trait Depth: Copy + Debug + Send + Sync + 'static {
    /// Returns 4 or 5.
    fn levels(self) -> u8;
}

/// Four levels: 48-bit virtual addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FourLevel;

/// Five levels (CR4.LA57): 57-bit virtual addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FiveLevel;

/// The depth that the CPU was found to run with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probed {
    la57: bool,
}

impl Probed {
    /// Makes the depth of a CPU whose CR4 has this value.
    pub const fn from_cr4(cr4: u64) -> Self {
        Self {
            la57: cr4 & (1 << 12) != 0,
        }
    }
}

impl Depth for FourLevel {
    fn levels(self) -> u8 {
        4
    }
}

impl Depth for FiveLevel {
    fn levels(self) -> u8 {
        5
    }
}

impl Depth for Probed {
    fn levels(self) -> u8 {
        if self.la57 { 5 } else { 4 }
    }
}

/// Which bits of an entry the CPUs have: elsewhere these are reserved (SDM 3A,
/// 4.1.4), and one entry with such a bit answers no access.
///
/// `native::paging_features` asks the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagingFeatures {
    /// EFER.NXE is set, which CPUs with CPUID.80000001H:EDX bit 20 have: the
    /// first of Intel's 64-bit CPUs have not, and firmware can hide it.
    /// Without it every page that can be read can be executed: of an area
    /// without [`Prot::EXEC`] too, once the page is there.
    pub no_execute: bool,
    /// CPUID.80000001H:EDX bit 26: level 3 has leaves, of 1 GiB.
    pub page_1g: bool,
}

impl PagingFeatures {
    /// EFER.NXE alone: what all CPUs of the last twenty years can be used with.
    pub const NX: Self = Self {
        no_execute: true,
        page_1g: false,
    };
}

impl Default for PagingFeatures {
    fn default() -> Self {
        Self::NX
    }
}

/// The long-mode format of a depth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Paging<D: Depth> {
    depth: D,
    features: PagingFeatures,
}

impl<D: Depth> Paging<D> {
    /// Makes the format for CPUs with EFER.NXE set, without pages of 1 GiB:
    /// see [`PagingFeatures::NX`].
    pub const fn new(depth: D) -> Self {
        Self::with_features(depth, PagingFeatures::NX)
    }

    /// Makes the format for CPUs that have these features, the same on all.
    pub const fn with_features(depth: D, features: PagingFeatures) -> Self {
        Self { depth, features }
    }

    /// The bit that forbids fetches, or zero.
    const fn no_exec(self) -> u64 {
        if self.features.no_execute { NO_EXEC } else { 0 }
    }
}

/// The address bits that a leaf of a level leaves for flags: the low bits of
/// the frame of a block, of which bit 12 is its PAT.
const fn block_mask(level: u8) -> u64 {
    match level {
        1 => 0,
        2 => 0x001f_f000,
        _ => 0x3fff_f000,
    }
}

#[expect(unsafe_code, reason = "implements the format")]
// SAFETY: each encode_* is the inverse of the branch of `decode` that its
// tests name; zero has P clear and kind 0 and decodes as `Empty`; geometry is
// that of SDM 3A 4.5; `write_protect` clears R/W, which with CR0.WP set forbids
// every store (SDM 3A 4.6).
unsafe impl<D: Depth> PageTableFormat for Paging<D> {
    type Word = u64;

    fn page_shift(self) -> u32 {
        12
    }
    fn hardware_ad(self) -> HardwareAd {
        HardwareAd::Both
    }
    fn break_before_make(self) -> bool {
        false
    }
    fn caches_invalid(self) -> bool {
        false
    }
    fn nonpresent_bits(self) -> u32 {
        VALUE_BITS
    }

    fn levels(self) -> u8 {
        self.depth.levels()
    }

    fn index_bits(self, _level: u8) -> u32 {
        9
    }
    #[inline]
    fn index_shift(self, level: u8) -> u32 {
        u32::from(level).saturating_sub(1).wrapping_mul(9)
    }

    fn leaf_at(self, level: u8) -> bool {
        match level {
            1 | 2 => true,
            3 => self.features.page_1g,
            _ => false,
        }
    }

    /// 2^47 or 2^56 less one page: SYSRET to the first non-canonical address
    /// faults in the kernel, so no user instruction may end there.
    fn user_end(self) -> Vpn {
        if self.levels() == 5 {
            Vpn::new((1 << 44) - 1)
        } else {
            Vpn::new((1 << 35) - 1)
        }
    }

    fn kernel_root_index(self) -> usize {
        256
    }

    fn decode(self, word: u64, level: u8) -> Entry {
        if word & PRESENT == 0 {
            return nonpresent(word, VALUE_MASK);
        }
        if level > 1 && word & PS == 0 {
            return Entry::Table(Pfn::new((word & FRAME) >> 12));
        }
        Entry::Leaf {
            pfn: Pfn::new((word & FRAME & !block_mask(level)) >> 12),
            attrs: leaf_attrs(word, level, self.no_exec()),
        }
    }

    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u64, FormatError> {
        if !self.leaf_at(level) {
            return Err(FormatError::NoLeafHere(level));
        }
        let addr = frame_bits(pfn)?;
        if addr & block_mask(level) != 0 {
            return Err(FormatError::Misaligned(pfn));
        }
        Ok(addr | leaf_bits(attrs, level, self.no_exec())?)
    }

    fn encode_table(self, pfn: Pfn, _level: u8, owner: TableOwner) -> Result<u64, FormatError> {
        let user = match owner {
            TableOwner::User => USER,
            TableOwner::Kernel => 0,
        };
        // Accessed is set up front: the CPU would only write it for nothing.
        Ok(frame_bits(pfn)? | PRESENT | WRITABLE | ACCESSED | user)
    }

    fn encode_nonpresent(self, entry: NonPresent) -> Result<u64, FormatError> {
        nonpresent_bits(entry, VALUE_MASK)
    }

    fn next_page(self, word: u64, level: u8) -> u64 {
        let step = match level {
            1 => 1 << 12,
            2 => 1 << 21,
            _ => 1 << 30,
        };
        word.wrapping_add(step)
    }

    fn write_protect(self, word: u64) -> u64 {
        word & !WRITABLE
    }

    fn ad_settled(self, word: u64) -> bool {
        ad_settled(word)
    }

    fn is_young(self, word: u64) -> bool {
        word & ACCESSED != 0
    }

    fn is_dirty(self, word: u64) -> bool {
        word & DIRTY != 0
    }

    fn with_young(self, word: u64, young: AdBit) -> u64 {
        with_bit(word, ACCESSED, young)
    }

    fn with_dirty(self, word: u64, dirty: AdBit) -> u64 {
        with_bit(word, DIRTY, dirty)
    }

    fn with_prot(self, word: u64, prot: Prot, _level: u8) -> Result<u64, FormatError> {
        let no_exec = self.no_exec();
        Ok(edit(word, WRITABLE | no_exec, rights(prot, no_exec)?))
    }
}

const fn frame_bits(pfn: Pfn) -> Result<u64, FormatError> {
    let n = pfn.as_u64();
    if n > FRAME >> 12 {
        return Err(FormatError::PfnTooBig(pfn));
    }
    Ok(n << 12)
}

#[cfg(test)]
mod tests;
