//! Long descriptors: what VMSAv8-64 and the LPAE of ARMv7 write alike.
//!
//! ```text
//!  63 62 61 60 59 58..55 54  53  52   51  50 ..12  11 10  9 8   7     6     5  4..2    1 0
//!  table: rights below   -   -   -    -   frame    -  -   -     -     -     -   -      1 1
//!  page:  ignored  soft  UXN PXN Cont DBM frame    nG AF  SH  AP[2]  AP[1]  NS AttrIndx 1 1
//!  block: ignored  soft  UXN PXN Cont DBM frame    nG AF  SH  AP[2]  AP[1]  NS AttrIndx 0 1
//!
//!  63............................................4 3..1 0
//!                     value                         kind 0     non-present
//! ```
//!
//! # Writable and dirty
//!
//! AP\[2\] says "read-only *now*"; whether stores are allowed at all is said by
//! a second bit. The four states, and what a store does in each:
//!
//! | writable bit | AP\[2\] | soft dirty | state | a store |
//! |---|---|---|---|---|
//! | 1 | 0 | 0 | writable, dirty | goes through |
//! | 1 | 1 | 0 | writable, clean | hardware clears AP\[2\]; without it: fault, software clears it |
//! | 0 | 1 | 1 | read-only, dirty | fault |
//! | 0 | 1 | 0 | read-only, clean | fault |
//!
//! On AArch64 the writable bit is DBM, so one word means the same with and
//! without FEAT_HAFDBS (Arm ARM DDI 0487, "Hardware management of the dirty
//! state"); LPAE has no such bit and takes a software one. Words that others
//! wrote (boot loaders) may have AP\[2\] clear without it: they read as
//! writable and dirty, which is what hardware makes of them.
//!
//! # Memory types
//!
//! | memory type | AttrIndx | MAIR byte | |
//! |---|---|---|---|
//! | write-back | 0 | 0xff | Normal, inner and outer write-back |
//! | write-through | 1 | 0xbb | Normal, inner and outer write-through |
//! | write-combining | 2 | 0x44 | Normal, non-cacheable |
//! | (device, strongest) | 3 | 0x00 | nGnRnE: read as device, not written |
//! | device | 4 | 0x04 | nGnRE |
//! | uncached | 5 | 0x44 | Normal, non-cacheable |
//!
//! All are inner shareable; what is not cacheable counts as outer shareable
//! whatever SH says. A readable right is implied by valid; write-only and
//! exec-only mappings are readable too (Linux without FEAT_PAN3 likewise: a
//! privileged load would otherwise pass where a user's must not).

use mm_core::addr::Pfn;
use mm_core::format::{
    AdBit, AttrFlags, Attrs, Entry, FormatError, NonPresent, NonPresentKind, Run,
};
use mm_core::prot::{MemType, Prot};

pub(crate) const VALID: u64 = 1;
/// A table above level 1, a page at level 1; clear: a block.
pub(crate) const TABLE_OR_PAGE: u64 = 1 << 1;
/// AP\[1\]: reachable from EL0.
pub(crate) const USER: u64 = 1 << 6;
/// AP\[2\]: stores fault, or mark the entry dirty.
pub(crate) const READ_ONLY: u64 = 1 << 7;
/// SH: inner shareable.
const SHARED: u64 = 3 << 8;
/// AF.
pub(crate) const ACCESSED: u64 = 1 << 10;
/// nG: belongs to the ASID.
const NOT_GLOBAL: u64 = 1 << 11;
/// The contiguous hint.
pub(crate) const CONTIGUOUS: u64 = 1 << 52;
const PXN: u64 = 1 << 53;
/// UXN on AArch64, XN of LPAE.
pub(crate) const UXN: u64 = 1 << 54;
/// First software bit: written to, in an entry that may not be written any more.
const DIRTY: u64 = 1 << 55;
/// Second software bit: frames without a page record.
const SPECIAL: u64 = 1 << 56;
/// PXNTable: nothing below is executed by the kernel.
pub(crate) const PXN_TABLE: u64 = 1 << 59;

const ATTR_SHIFT: u32 = 2;
const ATTR_MASK: u64 = 7 << ATTR_SHIFT;

const KIND_SHIFT: u32 = 1;
const KIND_MASK: u64 = 7;
const VALUE_SHIFT: u32 = 4;
/// Bits of a non-present value: hardware reads none of an invalid entry but bit 0.
pub(crate) const VALUE_BITS: u32 = 60;

/// The value for MAIR_EL1, or MAIR1:MAIR0 of LPAE, that the formats are written for.
pub const MAIR_VALUE: u64 = 0x0000_4404_0044_bbff;

/// Where the two kinds of long descriptors differ.
pub(crate) trait Layout {
    /// The bit that allows stores, now or once the entry is marked dirty.
    const WRITABLE: u64;
    /// What stays set in a kernel leaf that the kernel executes.
    const KERNEL_CODE: u64;
}

const fn mem_index(mem: MemType) -> u64 {
    match mem {
        MemType::WriteBack => 0,
        MemType::WriteThrough => 1,
        MemType::WriteCombining => 2,
        MemType::Device => 4,
        MemType::Uncached => 5,
    }
}

const fn mem_type(word: u64) -> MemType {
    match (word & ATTR_MASK) >> ATTR_SHIFT {
        1 => MemType::WriteThrough,
        2 => MemType::WriteCombining,
        3 | 4 => MemType::Device,
        5 => MemType::Uncached,
        _ => MemType::WriteBack,
    }
}

/// Returns the bits of rights and dirty state.
fn rights<L: Layout>(prot: Prot, user: bool, dirty: bool) -> Result<u64, FormatError> {
    if prot.is_empty() {
        // Valid means readable: no access is said by a non-present entry.
        return Err(FormatError::Rights);
    }
    let exec = prot.contains(Prot::EXEC);
    let mut bits = match (user, exec) {
        (true, true) => PXN,
        (false, true) => L::KERNEL_CODE,
        (_, false) => PXN | UXN,
    };
    bits |= match (prot.contains(Prot::WRITE), dirty) {
        (true, true) => L::WRITABLE,
        (true, false) => L::WRITABLE | READ_ONLY,
        (false, true) => READ_ONLY | DIRTY,
        (false, false) => READ_ONLY,
    };
    Ok(bits)
}

/// Returns the bits of a leaf besides frame and type.
pub(crate) fn leaf_bits<L: Layout>(attrs: Attrs) -> Result<u64, FormatError> {
    let flags = attrs.flags;
    let user = flags.contains(AttrFlags::USER);
    let mut word = VALID | SHARED | (mem_index(attrs.mem) << ATTR_SHIFT);
    word |= rights::<L>(attrs.prot, user, flags.contains(AttrFlags::DIRTY))?;
    for (set, bit) in [
        (user, USER),
        (!flags.contains(AttrFlags::GLOBAL), NOT_GLOBAL),
        (flags.contains(AttrFlags::ACCESSED), ACCESSED),
        (flags.contains(AttrFlags::SPECIAL), SPECIAL),
    ] {
        if set {
            word |= bit;
        }
    }
    Ok(word)
}

/// Reads what [`leaf_bits`] wrote.
#[inline]
pub(crate) fn attrs<L: Layout>(word: u64) -> Attrs {
    let user = word & USER != 0;
    let forbidden = if user {
        UXN
    } else {
        (PXN | UXN) & !L::KERNEL_CODE
    };
    let mut prot = Prot::READ;
    prot.set(Prot::WRITE, is_writable::<L>(word));
    prot.set(Prot::EXEC, word & forbidden == 0);
    let mut flags = AttrFlags::empty();
    flags.set(AttrFlags::USER, user);
    flags.set(AttrFlags::GLOBAL, word & NOT_GLOBAL == 0);
    flags.set(AttrFlags::ACCESSED, word & ACCESSED != 0);
    flags.set(AttrFlags::DIRTY, is_dirty(word));
    flags.set(AttrFlags::SPECIAL, word & SPECIAL != 0);
    Attrs {
        prot,
        flags,
        mem: mem_type(word),
    }
}

#[inline]
const fn is_writable<L: Layout>(word: u64) -> bool {
    word & L::WRITABLE != 0 || word & READ_ONLY == 0
}

#[inline]
pub(crate) const fn is_dirty(word: u64) -> bool {
    word & DIRTY != 0 || word & READ_ONLY == 0
}

#[inline]
pub(crate) const fn is_valid(word: u64) -> bool {
    word & VALID != 0
}

/// Clears the writable bit; a dirty entry stays one by the software bit.
#[inline]
pub(crate) const fn write_protect<L: Layout>(word: u64) -> u64 {
    let dirty = if word & READ_ONLY == 0 { DIRTY } else { 0 };
    word & !L::WRITABLE | READ_ONLY | dirty
}

#[inline]
pub(crate) const fn with_dirty<L: Layout>(word: u64, dirty: AdBit) -> u64 {
    match dirty {
        AdBit::Set if is_writable::<L>(word) => (word | L::WRITABLE) & !(READ_ONLY | DIRTY),
        AdBit::Set => word | DIRTY,
        // What AP[2] alone made writable stays so.
        AdBit::Clear if is_writable::<L>(word) => word & !DIRTY | READ_ONLY | L::WRITABLE,
        AdBit::Clear => word & !DIRTY,
    }
}

pub(crate) const fn with_young(word: u64, young: AdBit) -> u64 {
    match young {
        AdBit::Set => word | ACCESSED,
        AdBit::Clear => word & !ACCESSED,
    }
}

pub(crate) const fn with_run(word: u64, run: Run) -> u64 {
    match run {
        Run::Member => word | CONTIGUOUS,
        Run::Single => word & !CONTIGUOUS,
    }
}

pub(crate) const fn is_run(word: u64) -> bool {
    word & (VALID | CONTIGUOUS) == VALID | CONTIGUOUS
}

/// Replaces rights; dirty state and all else stay.
pub(crate) fn with_prot<L: Layout>(word: u64, prot: Prot) -> Result<u64, FormatError> {
    let changed = L::WRITABLE | READ_ONLY | DIRTY | PXN | UXN;
    Ok(word & !changed | rights::<L>(prot, word & USER != 0, is_dirty(word))?)
}

/// Returns the address bits of a frame, which must lie in `mask`.
pub(crate) const fn frame_bits(pfn: Pfn, shift: u32, mask: u64) -> Result<u64, FormatError> {
    let n = pfn.as_u64();
    if n > mask.wrapping_shr(shift) {
        return Err(FormatError::PfnTooBig(pfn));
    }
    Ok(n.wrapping_shl(shift))
}

pub(crate) fn encode_nonpresent(entry: NonPresent) -> Result<u64, FormatError> {
    if entry.value.wrapping_shr(VALUE_BITS) != 0 {
        return Err(FormatError::PayloadTooBig);
    }
    Ok((entry.value << VALUE_SHIFT) | ((entry.kind as u64) << KIND_SHIFT))
}

/// Reads an entry that hardware does not look into.
pub(crate) fn decode_invalid(word: u64) -> Entry {
    let Some(kind) = NonPresentKind::from_bits((word >> KIND_SHIFT) & KIND_MASK) else {
        return Entry::Empty;
    };
    let value = word >> VALUE_SHIFT;
    Entry::NonPresent(NonPresent { kind, value })
}
