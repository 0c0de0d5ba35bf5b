//! Which instructions drop which translations.
//!
//! The sequences are written against [`Emit`], so that a host test compares
//! them with the manual (DDI 0487, D8.14 and D8.16):
//!
//! ```text
//!  stores to entries
//!  DSB ISHST          every walker sees them ...
//!  TLBI ...IS         ... and what was walked before is dropped,
//!  DSB ISH            on all CPUs, and what was read through it has come in
//!  ISB                and this CPU fetches nothing through it any more
//! ```
//!
//! The other CPUs need no ISB of ours: what they fetched ahead is gone at
//! their next exception return, and no user instruction runs before one.
//!
//! | flush | few pages | else |
//! |---|---|---|
//! | of a space, leaves only | VALE1 each, or RVALE1 | ASIDE1 |
//! | of a space, tables too | VAE1 each, or RVAE1 | ASIDE1 |
//! | kernel mappings, leaves only | VAALE1 each, or RVAALE1 | VMALLE1 |
//! | kernel mappings, tables too | VAAE1 each, or RVAAE1 | VMALLE1 |
//!
//! An entry with the contiguous hint is dropped by any address in its run.
//!
//! [`switch_space`] changes the user half. The ASID stands in TTBR0 beside the
//! root (TCR_EL1.A1 is 0), so both change in one write and no walk can tag
//! entries of one space with the ASID of another.
#![expect(unsafe_code, reason = "a change of root has a condition")]

use super::{Emit, Reach, Tags, Tlbi, Waits, registers};
use mm_core::addr::Vpn;
use mm_core::platform::Flush;
use mm_core::range::PageRange;

/// What the flushes depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlbFeatures {
    /// log2 of the granule.
    pub page_shift: u32,
    /// TLBI by range exists: FEAT_TLBIRANGE, ID_AA64ISAR0_EL1.TLB is 2.
    pub range: bool,
}

/// More pages than this are dropped by a flush of the whole ASID.
pub const SINGLE_PAGE_CEILING: usize = 64;

/// Bytes of an address that the argument of a TLBI counts in, whatever the granule.
const ARGUMENT_SHIFT: u32 = 12;
/// VA\[55:12\].
const ADDRESS: u64 = (1 << 44) - 1;
/// BaseADDR of a range, in pages.
const BASE: u64 = (1 << 37) - 1;
const NUM_SHIFT: u32 = 39;
const SCALE_SHIFT: u32 = 44;
const GRANULE_SHIFT: u32 = 46;
const ASID_SHIFT: u32 = 48;

/// Drops translations on this CPU.
pub fn flush_local(emit: &mut impl Emit, features: TlbFeatures, flush: Flush) {
    flush_within(emit, features, flush, Reach::Local);
}

/// Drops translations on every CPU; when it returns, all have done so.
pub fn flush_broadcast(emit: &mut impl Emit, features: TlbFeatures, flush: Flush) {
    flush_within(emit, features, flush, Reach::InnerShareable);
}

/// Makes new entries visible to walks: a walk may overtake the stores, and then
/// find what stood there before. Users that come too early fault once
/// more and are told that all is well; the kernel has no such second chance, so
/// it publishes what it mapped for itself before the first access.
pub fn publish(emit: &mut impl Emit) {
    #[cfg(not(mm_mutant = "aarch64_publish_without_dsb"))]
    emit.dsb(Waits::Stores, Reach::InnerShareable);
    #[cfg(not(mm_mutant = "aarch64_publish_without_isb"))]
    emit.isb();
}

/// Loads the root of a space (a frame's address) with its ASID on this CPU.
///
/// # Safety
/// The table stays alive until another is loaded, and holds users' entries
/// only. With [`Tags::OfSpaces`], nothing of another space is remembered under
/// the ASID.
pub unsafe fn switch_space(emit: &mut impl Emit, root: u64, asid: u16, tags: Tags) {
    // A fresh root was just cleared: no walk may find what its frame held before.
    #[cfg(not(mm_mutant = "aarch64_root_before_its_stores"))]
    emit.dsb(Waits::Stores, Reach::InnerShareable);
    // SAFETY: the caller's promise; with shared tags, what is remembered is
    // dropped below, before user code runs.
    unsafe { emit.write_ttbr0(registers::ttbr(root, asid)) };
    // Walks from here on begin at the new root; none that began at the old one
    // is under way.
    #[cfg(not(mm_mutant = "aarch64_root_without_isb"))]
    emit.isb();
    #[cfg(not(mm_mutant = "aarch64_shared_tag_stays"))]
    if tags == Tags::Shared {
        emit.tlbi(Tlbi::Asid, Reach::Local, asid_field(asid));
        emit.dsb(Waits::All, Reach::Local);
        emit.isb();
    }
}

fn flush_within(emit: &mut impl Emit, features: TlbFeatures, flush: Flush, reach: Reach) {
    #[cfg(not(mm_mutant = "aarch64_flush_before_stores"))]
    emit.dsb(Waits::Stores, reach);
    match flush.pages.filter(|r| r.pages() <= SINGLE_PAGE_CEILING) {
        Some(pages) => drop_pages(emit, features, &flush, pages, reach),
        None => match flush.asid {
            Some(asid) => emit.tlbi(Tlbi::Asid, reach, asid_field(asid)),
            None => emit.tlbi(Tlbi::All, reach, 0),
        },
    }
    #[cfg(not(mm_mutant = "aarch64_flush_is_not_waited_for"))]
    emit.dsb(Waits::All, reach);
    #[cfg(not(mm_mutant = "aarch64_flush_without_isb"))]
    emit.isb();
}

/// Single pages and ranges of 2, 4, .. 64 pages: `(NUM + 1) << (5 * SCALE + 1)`.
fn drop_pages(
    emit: &mut impl Emit,
    features: TlbFeatures,
    flush: &Flush,
    pages: PageRange,
    reach: Reach,
) {
    let tag = flush.asid.map_or(0, asid_field);
    let (single, range) = match (flush.asid.is_some(), flush.tables) {
        (true, false) => (Tlbi::AddressLast, Tlbi::RangeLast),
        (true, true) if cfg!(mm_mutant = "aarch64_tables_stay") => {
            (Tlbi::AddressLast, Tlbi::RangeLast)
        }
        (true, true) => (Tlbi::Address, Tlbi::Range),
        (false, false) => (Tlbi::AnyAddressLast, Tlbi::AnyRangeLast),
        (false, true) => (Tlbi::AnyAddress, Tlbi::AnyRange),
    };
    let mut at = pages.start();
    let mut left = pages.pages();
    while left > 0 {
        let count = if features.range && left >= 2 {
            left & !1
        } else {
            1
        };
        if count == 1 {
            emit.tlbi(single, reach, tag | address_field(at, features.page_shift));
        } else {
            // At most SINGLE_PAGE_CEILING pages: scale 0.
            let num = (count as u64).wrapping_shr(1).wrapping_sub(1);
            let base = at.as_usize() as u64 & BASE;
            let granule = granule_field(features.page_shift);
            emit.tlbi(range, reach, tag | granule | (num << NUM_SHIFT) | base);
        }
        at = at.saturating_add(count);
        left = left.saturating_sub(count);
    }
}

fn asid_field(asid: u16) -> u64 {
    u64::from(asid) << ASID_SHIFT
}

fn address_field(page: Vpn, page_shift: u32) -> u64 {
    let up = page_shift.saturating_sub(ARGUMENT_SHIFT);
    (page.as_usize() as u64).wrapping_shl(up) & ADDRESS
}

/// TG, and a scale of zero.
const fn granule_field(page_shift: u32) -> u64 {
    let tg = match page_shift {
        12 => 1,
        14 => 2,
        _ => 3,
    };
    (tg << GRANULE_SHIFT) | (0 << SCALE_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::code::tests::Log;

    const PLAIN: TlbFeatures = TlbFeatures {
        page_shift: 12,
        range: false,
    };

    fn flush(pages: Option<usize>, tables: bool, asid: Option<u16>) -> Flush {
        Flush {
            pages: pages.and_then(|n| PageRange::with_len(Vpn::new(0x10), n)),
            tables,
            asid,
        }
    }

    fn broadcast(features: TlbFeatures, f: Flush) -> Vec<String> {
        let mut log = Log::default();
        flush_broadcast(&mut log, features, f);
        log.0
    }

    /// DDI 0487 K11.5 "Changing translation tables": store, DSB, TLBI, DSB, ISB.
    #[test]
    fn a_flush_is_between_barriers() {
        assert_eq!(
            broadcast(PLAIN, flush(Some(1), false, Some(3))),
            [
                "dsb ishst",
                "tlbi vale1is 0x3000000000010",
                "dsb ish",
                "isb"
            ]
        );
        let mut log = Log::default();
        flush_local(&mut log, PLAIN, flush(Some(1), false, Some(3)));
        assert_eq!(
            log.0,
            ["dsb nshst", "tlbi vale1 0x3000000000010", "dsb nsh", "isb"]
        );
    }

    #[test]
    fn tables_take_the_walk_with_them() {
        let ops = broadcast(PLAIN, flush(Some(2), true, Some(0xffff)));
        assert_eq!(
            ops[1..3],
            [
                "tlbi vae1is 0xffff000000000010",
                "tlbi vae1is 0xffff000000000011"
            ]
        );
        assert_eq!(
            broadcast(PLAIN, flush(None, true, Some(5)))[1],
            "tlbi aside1is 0x5000000000000"
        );
        assert_eq!(
            broadcast(PLAIN, flush(Some(65), false, Some(5)))[1],
            "tlbi aside1is 0x5000000000000"
        );
    }

    #[test]
    fn kernel_mappings_are_dropped_for_every_asid() {
        assert_eq!(
            broadcast(PLAIN, flush(Some(1), false, None))[1],
            "tlbi vaale1is 0x10"
        );
        assert_eq!(
            broadcast(PLAIN, flush(Some(1), true, None))[1],
            "tlbi vaae1is 0x10"
        );
        assert_eq!(
            broadcast(PLAIN, flush(None, true, None)),
            ["dsb ishst", "tlbi vmalle1is", "dsb ish", "isb"]
        );
    }

    /// Of an address only the bits 55..12 are named: the rest is sign.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn the_sign_of_an_address_is_not_named() {
        let high = Flush {
            pages: PageRange::with_len(Vpn::new(0xf_ffff_0000_0001), 1),
            tables: false,
            asid: None,
        };
        assert_eq!(broadcast(PLAIN, high)[1], "tlbi vaale1is 0xfff00000001");
    }

    /// RVALE1IS: ASID | TG=01 | SCALE=0 | NUM | BaseADDR; (NUM + 1) * 2 pages.
    #[test]
    fn ranges_take_one_instruction_and_an_odd_page() {
        let ranges = TlbFeatures {
            range: true,
            ..PLAIN
        };
        assert_eq!(
            broadcast(ranges, flush(Some(5), false, Some(3)))[1..3],
            [
                "tlbi rvale1is 0x3408000000010",
                "tlbi vale1is 0x3000000000014"
            ]
        );
        assert_eq!(
            broadcast(ranges, flush(Some(64), false, Some(3)))[1..2],
            ["tlbi rvale1is 0x34f8000000010"]
        );
        assert_eq!(
            broadcast(ranges, flush(Some(2), true, None))[1],
            "tlbi rvaae1is 0x400000000010"
        );
    }

    /// DDI 0487 K11.5 "Changing translation tables": a walk is sure to see a
    /// store only after a DSB.
    #[test]
    fn new_entries_wait_for_their_store() {
        let mut log = Log::default();
        publish(&mut log);
        assert_eq!(log.0, ["dsb ishst", "isb"]);
    }

    /// DDI 0487 D8.16.2 "ASID usage": one write, then a context synchronisation;
    /// where the ASID stays, what it tags is dropped after the new root is in force.
    #[test]
    fn a_switch_drops_what_is_not_told_apart() {
        let run = |asid, tags| {
            let mut log = Log::default();
            // SAFETY: nothing walks what a log notes.
            unsafe { switch_space(&mut log, 0x4123_4000, asid, tags) };
            log.0
        };
        assert_eq!(
            run(7, Tags::OfSpaces),
            ["dsb ishst", "msr ttbr0_el1 0x7000041234000", "isb"]
        );
        assert_eq!(
            run(0, Tags::Shared),
            [
                "dsb ishst",
                "msr ttbr0_el1 0x41234000",
                "isb",
                "tlbi aside1 0x0",
                "dsb nsh",
                "isb"
            ]
        );
    }

    #[test]
    fn large_granules_name_addresses_in_4_kib_and_ranges_in_pages() {
        let large = TlbFeatures {
            page_shift: 16,
            range: true,
        };
        assert_eq!(
            broadcast(large, flush(Some(3), false, Some(0)))[1..3],
            ["tlbi rvale1is 0xc00000000010", "tlbi vale1is 0x120"]
        );
        let medium = TlbFeatures {
            page_shift: 14,
            range: false,
        };
        assert_eq!(
            broadcast(medium, flush(Some(1), false, Some(0)))[1],
            "tlbi vale1is 0x40"
        );
    }
}
