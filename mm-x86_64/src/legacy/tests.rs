//! Encodings against SDM 3A, tables 4-4 to 4-6 and 4-8 to 4-11.

use super::*;
use mm_core::addr::{Pfn, VirtAddr};
use mm_core::format::{
    AdBit, AttrFlags, Attrs, Entry, FormatError, NonPresent, NonPresentKind, PageTableFormat,
    TableOwner, Word,
};
use mm_core::prot::{MemType, Prot};

const TWO: TwoLevel = TwoLevel::new(LargePages::On);
const SMALL: TwoLevel = TwoLevel::new(LargePages::Off);

fn leaf<F: PageTableFormat>(format: F, word: F::Word, level: u8) -> (Pfn, Attrs) {
    match format.decode(word, level) {
        Entry::Leaf { pfn, attrs } => (pfn, attrs),
        other => panic!("{word:?} at level {level} is {other:?}"),
    }
}

#[test]
fn zero_is_empty_at_every_level() {
    for level in 1..=3 {
        assert_eq!(TWO.decode(0, level), Entry::Empty);
        assert_eq!(Pae.decode(0, level), Entry::Empty);
    }
}

/// A directory entry and a page as the textbooks draw them (P, R/W, U/S, A, D),
/// and the 4 MiB kernel mappings that 32-bit kernels boot with (0x83).
#[test]
fn known_words_of_two_levels() {
    assert_eq!(TWO.decode(0x1063, 2), Entry::Table(Pfn::new(1)));
    assert_eq!(
        TWO.encode_table(Pfn::new(1), 2, TableOwner::Kernel),
        Ok(0x1023)
    );
    assert_eq!(
        TWO.encode_table(Pfn::new(1), 2, TableOwner::User),
        Ok(0x1027)
    );
    let (pfn, attrs) = leaf(TWO, 0x0123_4067, 1);
    assert_eq!((pfn, attrs.prot), (Pfn::new(0x1234), Prot::RWX));
    let flags = AttrFlags::USER | AttrFlags::ACCESSED | AttrFlags::DIRTY;
    assert_eq!(attrs.flags, flags);
    assert_eq!(TWO.encode_leaf(pfn, attrs, 1), Ok(0x0123_4067));
    let (pfn, attrs) = leaf(TWO, 0x0040_0083, 2);
    assert_eq!((pfn, attrs.prot), (Pfn::new(0x400), Prot::RWX));
    assert_eq!(TWO.encode_leaf(pfn, attrs, 2), Ok(0x0040_0083));
    // Without CR4.PSE bit 7 of a directory entry is ignored.
    assert_eq!(SMALL.decode(0x0040_0083, 2), Entry::Table(Pfn::new(0x400)));
    assert_eq!(
        SMALL.encode_leaf(pfn, attrs, 2),
        Err(FormatError::NoLeafHere(2))
    );
}

/// Table 4-8: of a pointer entry only P, PWT, PCD and the address may be set.
#[test]
fn known_words_of_pae() {
    for owner in [TableOwner::User, TableOwner::Kernel] {
        assert_eq!(Pae.encode_table(Pfn::new(1), 3, owner), Ok(0x1001));
    }
    assert_eq!(Pae.decode(0x1001, 3), Entry::Table(Pfn::new(1)));
    assert_eq!(
        Pae.encode_table(Pfn::new(1), 2, TableOwner::User),
        Ok(0x1027)
    );
    let (pfn, attrs) = leaf(Pae, 0x8000_000f_0123_4067, 1);
    assert_eq!((pfn, attrs.prot), (Pfn::new(0xf0_1234), Prot::RW));
    assert_eq!(Pae.encode_leaf(pfn, attrs, 1), Ok(0x8000_000f_0123_4067));
    // A global kernel 2 MiB code page at 4 MiB: P, A, PS, G.
    let (pfn, attrs) = leaf(Pae, 0x40_01a1, 2);
    assert_eq!((pfn, attrs.prot), (Pfn::new(0x400), Prot::RX));
    assert_eq!(
        Pae.encode_leaf(Pfn::new(0), attrs, 3),
        Err(FormatError::NoLeafHere(3))
    );
}

fn every_leaf<F: PageTableFormat>(format: F, frames: u32, implied: Prot) {
    let mems = [
        MemType::WriteBack,
        MemType::WriteThrough,
        MemType::Uncached,
        MemType::Device,
        MemType::WriteCombining,
    ];
    for level in 1..=2 {
        let align = format.entry_pages(level) as u64;
        for frame in [0, align, 7 * align, (1 << frames) - align] {
            for rights in 1..8 {
                for flags in 0..32 {
                    for mem in mems {
                        let attrs = Attrs {
                            prot: Prot::from_bits_truncate(rights),
                            flags: AttrFlags::from_bits_truncate(flags),
                            mem,
                        };
                        let word = format.encode_leaf(Pfn::new(frame), attrs, level).unwrap();
                        let prot = attrs.prot | implied;
                        let want = (Pfn::new(frame), Attrs { prot, ..attrs });
                        assert_eq!(leaf(format, word, level), want, "{word:?} level {level}");
                    }
                }
            }
        }
    }
    let attrs = Attrs::user(Prot::READ);
    let big = Pfn::new(1 << frames);
    assert_eq!(
        format.encode_leaf(big, attrs, 1),
        Err(FormatError::PfnTooBig(big))
    );
    assert!(format.encode_table(big, 2, TableOwner::User).is_err());
    let one = Pfn::new(1);
    assert_eq!(
        format.encode_leaf(one, attrs, 2),
        Err(FormatError::Misaligned(one))
    );
}

#[test]
fn every_leaf_survives_the_round_trip() {
    every_leaf(TWO, 20, Prot::RX);
    every_leaf(Pae, 40, Prot::READ);
}

fn non_present<F: PageTableFormat>(format: F) {
    let most = (1u64 << format.nonpresent_bits()) - 1;
    for (kind, value) in [
        (NonPresentKind::Swap, 0),
        (NonPresentKind::Swap, most),
        (NonPresentKind::Guard, 0),
        (NonPresentKind::ProtNone, 0xf_ffff << 2),
    ] {
        let entry = NonPresent { kind, value };
        let word = format.encode_nonpresent(entry).unwrap();
        assert_eq!(word.to_u64() & 1, 0);
        for level in 1..=format.levels() {
            assert_eq!(format.decode(word, level), Entry::NonPresent(entry));
        }
    }
    let kind = NonPresentKind::Swap;
    let big = NonPresent {
        kind,
        value: most + 1,
    };
    assert_eq!(
        format.encode_nonpresent(big),
        Err(FormatError::PayloadTooBig)
    );
}

#[test]
fn non_present_entries_are_not_empty_and_not_walkable() {
    non_present(TWO);
    non_present(Pae);
}

fn word_operations<F: PageTableFormat>(format: F, implied: Prot) {
    let attrs = Attrs::user(Prot::RWX).with(AttrFlags::ACCESSED);
    for level in 1..=2 {
        let pages = format.entry_pages(level) as u64;
        let word = format
            .encode_leaf(Pfn::new(2 * pages), attrs, level)
            .unwrap();
        let next = leaf(format, format.next_page(word, level), level);
        assert_eq!(next, (Pfn::new(3 * pages), attrs));
        let protected = format.write_protect(word);
        assert_eq!(leaf(format, protected, level).1.prot, Prot::RX);
        assert!(!format.ad_settled(word) && format.ad_settled(protected));
        let dirty = format.with_dirty(word, AdBit::Set);
        assert!(format.is_dirty(dirty) && format.ad_settled(dirty));
        assert!(format.is_dirty(format.write_protect(dirty)));
        assert!(!format.is_young(format.with_young(word, AdBit::Clear)));
        let read = format.with_prot(dirty, Prot::READ, level).unwrap();
        assert_eq!(leaf(format, read, level).1.prot, implied);
        assert!(format.is_dirty(read) && format.is_young(read));
        let none = format.with_prot(word, Prot::NONE, level);
        assert_eq!(none, Err(FormatError::Rights));
    }
}

#[test]
fn word_operations_agree_with_decoding() {
    word_operations(TWO, Prot::RX);
    word_operations(Pae, Prot::READ);
}

#[test]
fn geometry_is_that_of_the_drawings() {
    let page = VirtAddr::new(0xc0c0_3000).vpn(12);
    assert_eq!((TWO.index(page, 2), TWO.index(page, 1)), (771, 3));
    let index = |level| Pae.index(page, level);
    assert_eq!((index(3), index(2), index(1)), (3, 6, 3));
    assert_eq!(
        (Pae.entries(3), Pae.entries(2), TWO.entries(2)),
        (4, 512, 1024)
    );
    assert_eq!((TWO.entry_pages(2), Pae.entry_pages(2)), (1024, 512));
    assert_eq!(TWO.user_end(), Pae.user_end());
    // The kernel's root entries begin where users end.
    assert_eq!(TWO.index(TWO.user_end(), 2), TWO.kernel_root_index());
    assert_eq!(Pae.index(Pae.user_end(), 3), Pae.kernel_root_index());
}
