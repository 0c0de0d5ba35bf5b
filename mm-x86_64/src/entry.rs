//! What the entries of all paging modes have in common: their low twelve bits,
//! and non-present words.
//!
//! Words are handled as u64; a 32-bit mode widens its own. Where NX and the
//! frame stand, and which bits of a block are its frame, is each mode's.

use mm_core::format::{
    AdBit, AttrFlags, Attrs, Entry, FormatError, NonPresent, NonPresentKind, Word,
};
use mm_core::prot::{MemType, Prot};

pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;
/// Page size: a leaf above level 1.
pub(crate) const PS: u64 = 1 << 7;
/// The same bit at level 1 selects the upper half of the PAT.
const PAT_L1: u64 = 1 << 7;
/// Where the PAT bit stands in a leaf above level 1.
const PAT_LARGE: u64 = 1 << 12;
const GLOBAL: u64 = 1 << 8;
/// First software bit: frames without a page record.
const SPECIAL: u64 = 1 << 9;
/// Where the modes with 64-bit words have the right not to execute.
#[cfg(any(target_pointer_width = "64", target_has_atomic = "64"))]
pub(crate) const NO_EXEC: u64 = 1 << 63;

const KIND_SHIFT: u32 = 1;
const KIND_MASK: u64 = 7;
pub(crate) const VALUE_SHIFT: u32 = 4;

const FLAG_BITS: [(AttrFlags, u64); 5] = [
    (AttrFlags::USER, USER),
    (AttrFlags::GLOBAL, GLOBAL),
    (AttrFlags::ACCESSED, ACCESSED),
    (AttrFlags::DIRTY, DIRTY),
    (AttrFlags::SPECIAL, SPECIAL),
];

/// PWT, PCD and PAT of a memory type, the PAT bit where `pat` says.
const fn cache_bits(mem: MemType, pat: u64) -> u64 {
    match mem {
        MemType::WriteBack => 0,
        MemType::WriteThrough => PWT,
        MemType::Uncached => PCD,
        MemType::Device => PCD | PWT,
        MemType::WriteCombining => pat,
    }
}

const fn mem_type(word: u64, pat: u64) -> MemType {
    if word & pat != 0 {
        return MemType::WriteCombining;
    }
    match word & (PCD | PWT) {
        0 => MemType::WriteBack,
        PWT => MemType::WriteThrough,
        PCD => MemType::Uncached,
        _ => MemType::Device,
    }
}

const fn pat_bit(level: u8) -> u64 {
    if level == 1 { PAT_L1 } else { PAT_LARGE }
}

/// R/W and NX of rights. `no_exec` is the mode's NX bit, or zero: then all
/// that can be read can be executed.
pub(crate) const fn rights(prot: Prot, no_exec: u64) -> Result<u64, FormatError> {
    if prot.is_empty() {
        // Present means readable: no access is said by a non-present entry.
        return Err(FormatError::Rights);
    }
    let mut bits = 0;
    if prot.contains(Prot::WRITE) {
        bits |= WRITABLE;
    }
    if !prot.contains(Prot::EXEC) {
        bits |= no_exec;
    }
    Ok(bits)
}

/// Everything of a leaf but its frame.
pub(crate) fn leaf_bits(attrs: Attrs, level: u8, no_exec: u64) -> Result<u64, FormatError> {
    let mut word = PRESENT | rights(attrs.prot, no_exec)? | cache_bits(attrs.mem, pat_bit(level));
    for (flag, bit) in FLAG_BITS {
        if attrs.flags.contains(flag) {
            word |= bit;
        }
    }
    Ok(if level > 1 { word | PS } else { word })
}

/// Undoes [`leaf_bits`].
pub(crate) fn leaf_attrs(word: u64, level: u8, no_exec: u64) -> Attrs {
    let mut prot = Prot::READ;
    prot.set(Prot::WRITE, word & WRITABLE != 0);
    prot.set(Prot::EXEC, word & no_exec == 0);
    let mut flags = AttrFlags::empty();
    for (flag, bit) in FLAG_BITS {
        flags.set(flag, word & bit != 0);
    }
    let mem = mem_type(word, pat_bit(level));
    Attrs { prot, flags, mem }
}

/// Reads a word whose P is clear; its value has the bits of `mask`.
pub(crate) const fn nonpresent(word: u64, mask: u64) -> Entry {
    match NonPresentKind::from_bits((word >> KIND_SHIFT) & KIND_MASK) {
        Some(kind) => Entry::NonPresent(NonPresent {
            kind,
            value: !(word >> VALUE_SHIFT) & mask,
        }),
        None => Entry::Empty,
    }
}

/// Undoes [`nonpresent`].
pub(crate) const fn nonpresent_bits(entry: NonPresent, mask: u64) -> Result<u64, FormatError> {
    if entry.value > mask {
        return Err(FormatError::PayloadTooBig);
    }
    let value = (!entry.value & mask) << VALUE_SHIFT;
    Ok(value | ((entry.kind as u64) << KIND_SHIFT))
}

/// Hardware sets A on any use, and D on a store, of a present leaf.
pub(crate) const fn ad_settled(word: u64) -> bool {
    word & PRESENT == 0 || (word & ACCESSED != 0 && (word & DIRTY != 0 || word & WRITABLE == 0))
}

pub(crate) fn edit<W: Word>(word: W, clear: u64, set: u64) -> W {
    W::from_u64((word.to_u64() & !clear) | set)
}

pub(crate) fn with_bit<W: Word>(word: W, bit: u64, state: AdBit) -> W {
    match state {
        AdBit::Set => edit(word, 0, bit),
        AdBit::Clear => edit(word, bit, 0),
    }
}
