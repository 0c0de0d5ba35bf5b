//! Encodings against the manual's tables (SDM 3A, tables 4-15 to 4-20).

use super::*;
use mm_core::format::{AttrFlags, NonPresentKind};
use mm_core::prot::MemType;

/// With every bit that a CPU can have.
const F: Paging<FourLevel> = Paging::with_features(
    FourLevel,
    PagingFeatures {
        page_1g: true,
        ..PagingFeatures::NX
    },
);

fn leaf(word: u64, level: u8) -> (Pfn, Attrs) {
    match F.decode(word, level) {
        Entry::Leaf { pfn, attrs } => (pfn, attrs),
        other => panic!("{word:#x} at level {level} is {other:?}"),
    }
}

#[test]
fn zero_is_empty_at_every_level() {
    for level in 1..=5 {
        assert_eq!(F.decode(0, level), Entry::Empty);
    }
}

#[test]
fn known_words_from_the_manual() {
    // A user read-write no-execute page at 0x1234000, accessed and dirty.
    let (pfn, attrs) = leaf(0x8000_0000_0123_4067, 1);
    assert_eq!(pfn, Pfn::new(0x1234));
    assert_eq!(attrs.prot, Prot::RW);
    assert_eq!(
        attrs.flags,
        AttrFlags::USER | AttrFlags::ACCESSED | AttrFlags::DIRTY
    );
    assert_eq!(F.encode_leaf(pfn, attrs, 1), Ok(0x8000_0000_0123_4067));
    // A global kernel 2 MiB code page at 4 MiB: P, PS, G, A.
    let (pfn, attrs) = leaf(0x40_01a1, 2);
    assert_eq!((pfn, attrs.prot), (Pfn::new(0x400), Prot::RX));
    assert!(attrs.flags.contains(AttrFlags::GLOBAL));
    // A table pointer as firmware writes it.
    assert_eq!(F.decode(0x1063, 4), Entry::Table(Pfn::new(1)));
    assert_eq!(
        F.encode_table(Pfn::new(1), 4, TableOwner::Kernel),
        Ok(0x1023)
    );
    assert_eq!(F.encode_table(Pfn::new(1), 2, TableOwner::User), Ok(0x1027));
}

#[test]
fn every_leaf_survives_the_round_trip() {
    let mems = [
        MemType::WriteBack,
        MemType::WriteThrough,
        MemType::Uncached,
        MemType::Device,
        MemType::WriteCombining,
    ];
    for level in 1..=3u8 {
        let align = 1u64 << (9 * (u32::from(level) - 1));
        for pfn in [0, align, 7 * align, (1 << 40) - align] {
            for prot in 1..8u8 {
                for flags in 0..32u8 {
                    for mem in mems {
                        let prot = Prot::from_bits_truncate(prot);
                        let attrs = Attrs {
                            prot,
                            flags: AttrFlags::from_bits_truncate(flags),
                            mem,
                        };
                        let word = F.encode_leaf(Pfn::new(pfn), attrs, level).unwrap();
                        let (p, a) = leaf(word, level);
                        let readable = Attrs {
                            prot: prot | Prot::READ,
                            ..attrs
                        };
                        assert_eq!((p.as_u64(), a), (pfn, readable), "{word:#x} level {level}");
                    }
                }
            }
        }
    }
}

/// The bit that means PAT at level 1 means "leaf" above: a class of bugs.
#[test]
fn bit_7_is_pat_in_a_page_and_size_above() {
    let wc = Attrs::user(Prot::READ).with_mem(MemType::WriteCombining);
    let page = F.encode_leaf(Pfn::new(1), wc, 1).unwrap();
    assert_eq!(
        page & (1 << 7 | 1 << 12),
        1 << 7 | 1 << 12 /* frame 1 */
    );
    let block = F.encode_leaf(Pfn::new(512), wc, 2).unwrap();
    assert_eq!(block & (1 << 7), 1 << 7);
    assert_eq!(block & (1 << 12), 1 << 12);
    assert_eq!(leaf(block, 2).0, Pfn::new(512));
    let wb = F
        .encode_leaf(Pfn::new(512), Attrs::user(Prot::READ), 2)
        .unwrap();
    assert_eq!(wb & (1 << 12), 0);
}

#[test]
fn non_present_entries_are_not_empty_and_not_walkable() {
    for (kind, value) in [
        (NonPresentKind::Swap, 0),
        (NonPresentKind::Swap, VALUE_MASK),
        (NonPresentKind::Guard, 0),
        (NonPresentKind::Migration, 0x1234),
        (NonPresentKind::ProtNone, 0xffff_ffff),
    ] {
        let entry = NonPresent { kind, value };
        let word = F.encode_nonpresent(entry).unwrap();
        assert_eq!(word & 1, 0);
        for level in 1..=4 {
            assert_eq!(F.decode(word, level), Entry::NonPresent(entry));
        }
    }
    let big = NonPresent {
        kind: NonPresentKind::Swap,
        value: VALUE_MASK + 1,
    };
    assert_eq!(F.encode_nonpresent(big), Err(FormatError::PayloadTooBig));
}

/// L1TF: the address bits of a small non-present value are all ones at the top.
#[test]
fn small_payloads_point_above_memory() {
    let entry = NonPresent {
        kind: NonPresentKind::Swap,
        value: 5,
    };
    let word = F.encode_nonpresent(entry).unwrap();
    assert_eq!(word & 0x000f_0000_0000_0000, 0x000f_0000_0000_0000);
}

#[test]
fn word_operations_agree_with_decoding() {
    let attrs = Attrs::user(Prot::RWX).with(AttrFlags::ACCESSED);
    for level in 1..=3u8 {
        let pages = 1u64 << (9 * (u32::from(level) - 1));
        let word = F.encode_leaf(Pfn::new(2 * pages), attrs, level).unwrap();
        let (pfn, a) = leaf(F.next_page(word, level), level);
        assert_eq!((pfn.as_u64(), a), (3 * pages, attrs));
        let ro = leaf(F.write_protect(word), level).1;
        assert_eq!(ro.prot, Prot::RX);
        assert!(!F.ad_settled(word) && F.ad_settled(F.write_protect(word)));
        let dirty = F.with_dirty(word, AdBit::Set);
        assert!(F.is_dirty(dirty) && F.ad_settled(dirty));
        assert!(
            F.is_dirty(F.write_protect(dirty)),
            "write protection keeps dirty"
        );
        assert!(!F.is_young(F.with_young(word, AdBit::Clear)));
        let p = F.with_prot(dirty, Prot::READ, level).unwrap();
        assert_eq!(leaf(p, level).1.prot, Prot::READ);
        assert!(F.is_dirty(p) && F.is_young(p));
        assert_eq!(
            F.with_prot(word, Prot::NONE, level),
            Err(FormatError::Rights)
        );
    }
}

#[test]
fn impossible_leaves_are_refused() {
    let a = Attrs::user(Prot::READ);
    assert_eq!(
        F.encode_leaf(Pfn::new(1), a, 2),
        Err(FormatError::Misaligned(Pfn::new(1)))
    );
    assert_eq!(
        F.encode_leaf(Pfn::new(0), a, 4),
        Err(FormatError::NoLeafHere(4))
    );
    let big = Pfn::new(1 << 40);
    assert_eq!(F.encode_leaf(big, a, 1), Err(FormatError::PfnTooBig(big)));
}

/// Bit 63 is reserved while EFER.NXE is clear: a word that has it faults on
/// every access.
#[test]
fn without_no_execute_no_word_has_bit_63() {
    let features = PagingFeatures {
        no_execute: false,
        page_1g: true,
    };
    let format = Paging::with_features(FourLevel, features);
    for level in 1..=3u8 {
        for bits in 1..8u8 {
            let prot = Prot::from_bits_truncate(bits);
            let word = format
                .encode_leaf(Pfn::new(0), Attrs::user(prot), level)
                .unwrap();
            assert_eq!(word >> 63, 0, "{prot} at level {level}: {word:#x}");
            let on = F.encode_leaf(Pfn::new(0), Attrs::user(prot), level);
            assert_eq!(on.unwrap() & !NO_EXEC, word, "nothing else differs");
            let Entry::Leaf { attrs, .. } = format.decode(word, level) else {
                panic!("{word:#x} is no leaf")
            };
            assert_eq!(attrs.prot, prot | Prot::RX, "what it is to the CPU");
            for other in 1..8u8 {
                let other = Prot::from_bits_truncate(other);
                let edited = format.with_prot(word, other, level).unwrap();
                let made = format.encode_leaf(Pfn::new(0), Attrs::user(other), level);
                assert_eq!(Ok(edited), made, "{prot} to {other}");
            }
            assert_eq!(
                format.with_prot(word, Prot::NONE, level),
                Err(FormatError::Rights)
            );
        }
    }
    assert_eq!(Paging::new(FourLevel), Paging::default());
}

/// PS of level 3 is reserved on a CPU without pages of 1 GiB, as it is of
/// level 4 on every CPU.
#[test]
fn without_pages_of_1_gib_level_3_has_no_leaf() {
    let format = Paging::new(FourLevel);
    let attrs = Attrs::kernel(Prot::RW);
    let leaves = |format: Paging<FourLevel>| (1..=4).map(move |level| format.leaf_at(level));
    assert!(leaves(F).eq([true, true, true, false]));
    assert!(leaves(format).eq([true, true, false, false]));
    assert_eq!(
        format.encode_leaf(Pfn::new(0), attrs, 3),
        Err(FormatError::NoLeafHere(3))
    );
    for level in 1..=2 {
        let block = Pfn::new(512);
        assert_eq!(
            format.encode_leaf(block, attrs, level),
            F.encode_leaf(block, attrs, level),
            "nothing else differs"
        );
    }
}

#[test]
fn geometry_is_48_and_57_bits() {
    let five = Paging::new(FiveLevel);
    assert_eq!((F.levels(), five.levels()), (4, 5));
    assert_eq!(F.user_end().addr(12).as_usize(), 0x7fff_ffff_f000);
    assert_eq!(five.user_end().addr(12).as_usize(), 0x00ff_ffff_ffff_f000);
    assert_eq!(Paging::new(Probed::from_cr4(1 << 12)).levels(), 5);
    assert_eq!(Paging::new(Probed::from_cr4(0x20)).levels(), 4);
    // The canonical hole: a kernel address indexes the upper half of the root.
    let kernel = mm_core::addr::VirtAddr::new(0xffff_8000_0000_0000).vpn(12);
    assert_eq!(F.index(kernel, 4), 256);
    assert_eq!(
        F.index(mm_core::addr::VirtAddr::new(0x7fff_ffff_f000).vpn(12), 1),
        511
    );
    assert_eq!(F.entry_pages(3), 1 << 18);
}
