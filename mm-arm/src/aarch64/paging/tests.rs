//! Encodings against the manual (DDI 0487, D8.3) and words of running Linuxes.

use super::*;
use mm_core::addr::VirtAddr;
use mm_core::format::{AttrFlags, NonPresentKind};
use mm_core::prot::MemType;

const F: Stage1<Page4K> = Stage1::new(48, HardwareAd::Both);

fn leaf<G: Granule>(f: Stage1<G>, word: u64, level: u8) -> (Pfn, Attrs) {
    match f.decode(word, level) {
        Entry::Leaf { pfn, attrs } => (pfn, attrs),
        other => panic!("{word:#x} at level {level} is {other:?}"),
    }
}

/// Linux 6 on 4 KiB pages: `show_pte` and `ptdump` print such words.
#[test]
fn known_words_of_linux() {
    // A user's data page: UXN PXN DBM, software dirty (also bit 55 there),
    // nG AF SH=inner AP=01, Normal.
    let (pfn, attrs) = leaf(F, 0x00e8_0000_47d8_bf43, 1);
    assert_eq!(pfn, Pfn::new(0x4_7d8b));
    assert_eq!((attrs.prot, attrs.mem), (Prot::RW, MemType::WriteBack));
    let rw = AttrFlags::USER | AttrFlags::ACCESSED | AttrFlags::DIRTY;
    assert_eq!(attrs.flags, rw);
    // The same as we write it: AP[2] alone says dirty.
    assert_eq!(F.encode_leaf(pfn, attrs, 1), Ok(0x0068_0000_47d8_bf43));
    // Clean: AP[2] set; DBM lets hardware clear it.
    let clean = Attrs::user(Prot::RW).with(AttrFlags::ACCESSED);
    assert_eq!(F.encode_leaf(pfn, clean, 1), Ok(0x0068_0000_47d8_bfc3));
    // A user's code page: PXN, AP=11.
    let (pfn, attrs) = leaf(F, 0x0020_0000_bb2c_5fc3, 1);
    assert_eq!((pfn, attrs.prot), (Pfn::new(0xb_b2c5), Prot::RX));
    assert_eq!(F.encode_leaf(pfn, attrs, 1), Ok(0x0020_0000_bb2c_5fc3));
    // A kernel data page: UXN PXN DBM, global.
    let (pfn, attrs) = leaf(F, 0x0068_0000_bf5f_0703, 1);
    assert_eq!((pfn, attrs), (Pfn::new(0xb_f5f0), Attrs::kernel(Prot::RW)));
    assert_eq!(F.encode_leaf(pfn, attrs, 1), Ok(0x0068_0000_bf5f_0703));
    // A device register of the kernel: nGnRE is index 4 there too.
    let (pfn, attrs) = leaf(F, 0x0068_0000_0900_0713, 1);
    assert_eq!((pfn, attrs.mem), (Pfn::new(0x9000), MemType::Device));
    assert!(!attrs.prot.contains(Prot::EXEC));
    // Kernel code, a 2 MiB block: UXN, AP=10.
    let (pfn, attrs) = leaf(F, 0x0040_0000_4020_0781, 2);
    assert_eq!((pfn, attrs.prot), (Pfn::new(0x4_0200), Prot::RX));
    assert!(!attrs.flags.contains(AttrFlags::USER) && !F.is_dirty(0x0040_0000_4020_0781));
    // Tables: PXNTable below users.
    assert_eq!(
        F.decode(0x0800_0001_0712_3003, 3),
        Entry::Table(Pfn::new(0x10_7123))
    );
    let user = F.encode_table(Pfn::new(0x10_7123), 3, TableOwner::User);
    assert_eq!(user, Ok(0x0800_0001_0712_3003));
    let kernel = F.encode_table(Pfn::new(0x10_7123), 3, TableOwner::Kernel);
    assert_eq!(kernel, Ok(0x1_0712_3003));
}

#[test]
fn zero_is_empty_at_every_level() {
    for level in 1..=4 {
        assert_eq!(F.decode(0, level), Entry::Empty);
    }
}

fn round_trips<G: Granule>(f: Stage1<G>) {
    let mems = [
        MemType::WriteBack,
        MemType::WriteThrough,
        MemType::Uncached,
        MemType::Device,
        MemType::WriteCombining,
    ];
    for level in (1..=4u8).filter(|&level| f.leaf_at(level)) {
        let align = f.entry_pages(level) as u64;
        let top = 1u64 << (48 - G::SHIFT);
        for pfn in [0, align, 3 * align, top - align] {
            for prot in 1..8u8 {
                for flags in 0..32u8 {
                    for mem in mems {
                        let attrs = Attrs {
                            prot: Prot::from_bits_truncate(prot),
                            flags: AttrFlags::from_bits_truncate(flags),
                            mem,
                        };
                        let want = Attrs {
                            prot: attrs.prot | Prot::READ,
                            ..attrs
                        };
                        let word = f.encode_leaf(Pfn::new(pfn), attrs, level).unwrap();
                        assert_eq!(leaf(f, word, level), (Pfn::new(pfn), want), "{word:#x}");
                        operations(f, word, level, Pfn::new(pfn), want);
                    }
                }
            }
        }
        let odd = f.encode_leaf(Pfn::new(1), Attrs::user(Prot::READ), level);
        assert_eq!(odd.is_ok(), level == 1);
    }
    let big = Pfn::new(1 << (48 - G::SHIFT));
    let refused = Err(FormatError::PfnTooBig(big));
    assert_eq!(f.encode_leaf(big, Attrs::user(Prot::READ), 1), refused);
    assert_eq!(f.encode_table(big, 2, TableOwner::User), refused);
}

/// What each word operation must do, said by what it decodes as.
fn operations<G: Granule>(f: Stage1<G>, word: u64, level: u8, pfn: Pfn, attrs: Attrs) {
    let protected = f.write_protect(word);
    let without = Attrs {
        prot: attrs.prot - Prot::WRITE,
        ..attrs
    };
    assert_eq!(leaf(f, protected, level), (pfn, without));
    assert!(
        protected & DBM == 0 && protected & (1 << 7) != 0,
        "no store goes through"
    );
    assert_eq!(f.is_dirty(word), attrs.flags.contains(AttrFlags::DIRTY));
    assert_eq!(f.is_young(word), attrs.flags.contains(AttrFlags::ACCESSED));
    for (state, is_set) in [(AdBit::Set, true), (AdBit::Clear, false)] {
        let mut want = attrs;
        want.flags.set(AttrFlags::DIRTY, is_set);
        let changed = f.with_dirty(word, state);
        assert_eq!(leaf(f, changed, level), (pfn, want));
        // The same word as if it had been written down so.
        assert_eq!(Ok(changed), f.encode_leaf(pfn, want, level));
        let mut want = attrs;
        want.flags.set(AttrFlags::ACCESSED, is_set);
        assert_eq!(
            Ok(f.with_young(word, state)),
            f.encode_leaf(pfn, want, level)
        );
    }
    for prot in [Prot::READ, Prot::RW, Prot::RX, Prot::RWX] {
        let want = Attrs { prot, ..attrs };
        assert_eq!(
            f.with_prot(word, prot, level),
            f.encode_leaf(pfn, want, level)
        );
    }
    assert_eq!(
        f.with_prot(word, Prot::NONE, level),
        Err(FormatError::Rights)
    );
    let next = pfn.saturating_add(f.entry_pages(level) as u64);
    if let Ok(next) = f.encode_leaf(next, attrs, level) {
        assert_eq!(f.next_page(word, level), next);
    }
    let member = f.with_run(word, Run::Member);
    assert!(f.is_run(member) && !f.is_run(word));
    assert_eq!(f.decode(member, level), f.decode(word, level));
    assert_eq!(f.with_run(member, Run::Single), word);
}

#[test]
fn every_leaf_survives_the_round_trip() {
    round_trips(F);
    round_trips(Stage1::<Page4K>::new(39, HardwareAd::None));
    round_trips(Stage1::<Page16K>::new(47, HardwareAd::Accessed));
    round_trips(Stage1::<Page64K>::new(42, HardwareAd::Both));
}

/// A page has bit 1 set, a block has not: the other way round is reserved or
/// a table.
#[test]
fn bit_1_is_a_page_at_level_1_and_a_table_above() {
    let attrs = Attrs::user(Prot::READ);
    let page = F.encode_leaf(Pfn::new(0), attrs, 1).unwrap();
    let block = F.encode_leaf(Pfn::new(0), attrs, 2).unwrap();
    assert_eq!((page & 3, block & 3), (3, 1));
    assert!(matches!(F.decode(page, 2), Entry::Table(_)));
    assert_eq!(
        F.encode_leaf(Pfn::new(0), attrs, 4),
        Err(FormatError::NoLeafHere(4))
    );
}

/// Execution is forbidden to the privilege that the page is not for.
#[test]
fn nobody_executes_the_others_pages() {
    let (uxn, pxn) = (1u64 << 54, 1u64 << 53);
    let word = |attrs| F.encode_leaf(Pfn::new(0), attrs, 1).unwrap() & (uxn | pxn);
    assert_eq!(word(Attrs::user(Prot::RX)), pxn);
    assert_eq!(word(Attrs::user(Prot::RW)), uxn | pxn);
    assert_eq!(word(Attrs::kernel(Prot::RX)), uxn);
    assert_eq!(word(Attrs::kernel(Prot::RW)), uxn | pxn);
    // Users' entries belong to the ASID, the kernel's to all.
    let global = |attrs| F.encode_leaf(Pfn::new(0), attrs, 1).unwrap() & (1 << 11) == 0;
    assert!(!global(Attrs::user(Prot::RX)) && global(Attrs::kernel(Prot::RX)));
}

#[test]
fn non_present_entries_are_not_empty_and_not_walkable() {
    for (kind, value) in [
        (NonPresentKind::Swap, 0),
        (NonPresentKind::Swap, (1 << 60) - 1),
        (NonPresentKind::Guard, 0),
        (NonPresentKind::Migration, 0x1234),
        (NonPresentKind::ProtNone, 0xf_ffff_ffff_ffff),
    ] {
        let entry = NonPresent { kind, value };
        let word = F.encode_nonpresent(entry).unwrap();
        assert_eq!(word & 1, 0);
        assert!(F.ad_settled(word));
        assert!(!F.is_run(word));
        for level in 1..=4 {
            assert_eq!(F.decode(word, level), Entry::NonPresent(entry));
        }
    }
    let big = NonPresent {
        kind: NonPresentKind::Swap,
        value: 1 << 60,
    };
    assert_eq!(F.encode_nonpresent(big), Err(FormatError::PayloadTooBig));
}

#[test]
fn a_word_is_settled_when_hardware_has_nothing_left_to_set() {
    let with = |ad| Stage1::<Page4K>::new(48, ad);
    let word = |prot, flags| {
        F.encode_leaf(Pfn::new(1), Attrs::user(prot).with(flags), 1)
            .unwrap()
    };
    let (young, dirty) = (AttrFlags::ACCESSED, AttrFlags::DIRTY);
    // rights, state; settled with no hardware, with accessed, with both
    for (word, settled) in [
        (word(Prot::RW, AttrFlags::empty()), [true, false, false]),
        (word(Prot::RW, dirty), [true, false, false]),
        (word(Prot::RW, young), [true, true, false]),
        (word(Prot::RW, young | dirty), [true, true, true]),
        (word(Prot::READ, young), [true, true, true]),
        (word(Prot::READ, AttrFlags::empty()), [true, false, false]),
    ] {
        let all = [HardwareAd::None, HardwareAd::Accessed, HardwareAd::Both];
        assert_eq!(
            all.map(|ad| with(ad).ad_settled(word)),
            settled,
            "{word:#x}"
        );
    }
}

/// What hardware does to a clean entry with DBM is what we read as dirty.
#[test]
fn hardware_clears_ap_2_and_that_is_dirty() {
    let clean = Attrs::user(Prot::RW).with(AttrFlags::ACCESSED);
    let word = F.encode_leaf(Pfn::new(7), clean, 1).unwrap();
    let stored = word & !(1 << 7);
    assert!(!F.is_dirty(word) && F.is_dirty(stored) && F.ad_settled(stored));
    let protected = F.write_protect(stored);
    assert!(F.is_dirty(protected), "write protection keeps dirty");
    assert_eq!(
        F.with_prot(protected, Prot::RW, 1),
        Ok(stored),
        "and gives it back"
    );
    // A boot loader's entry: writable without DBM.
    let foreign = stored & !DBM;
    assert!(F.is_dirty(foreign));
    assert_eq!(leaf(F, foreign, 1).1.prot, Prot::RW);
    assert!(!F.is_dirty(F.with_dirty(foreign, AdBit::Clear)));
    assert_eq!(
        leaf(F, F.with_dirty(foreign, AdBit::Clear), 1).1.prot,
        Prot::RW
    );
}

/// D8.2.5 to D8.2.10: which bits each lookup resolves.
#[test]
fn geometry_follows_granule_and_size() {
    fn of<G: Granule>(va_bits: u8) -> (u8, u32, Vec<u8>, usize) {
        let f = Stage1::<G>::new(va_bits, HardwareAd::None);
        let blocks = (1..=5).filter(|&l| f.leaf_at(l)).collect();
        let total: u32 = (1..=f.levels()).map(|l| f.index_bits(l)).sum();
        assert_eq!(total + G::SHIFT, u32::from(va_bits));
        assert_eq!(f.index_shift(f.levels() + 1), total);
        assert_eq!(f.kernel_root_index(), f.entries(f.levels()));
        assert_eq!(f.user_end().addr(G::SHIFT).as_usize(), 1 << va_bits);
        (
            f.levels(),
            f.index_bits(f.levels()),
            blocks,
            f.entry_pages(2),
        )
    }
    assert_eq!(of::<Page4K>(48), (4, 9, vec![1, 2, 3], 512));
    assert_eq!(of::<Page4K>(42), (4, 3, vec![1, 2, 3], 512));
    assert_eq!(of::<Page4K>(39), (3, 9, vec![1, 2, 3], 512));
    assert_eq!(of::<Page16K>(48), (4, 1, vec![1, 2], 2048));
    assert_eq!(of::<Page16K>(47), (3, 11, vec![1, 2], 2048));
    assert_eq!(of::<Page16K>(36), (2, 11, vec![1, 2], 2048));
    assert_eq!(of::<Page64K>(48), (3, 6, vec![1, 2], 8192));
    assert_eq!(of::<Page64K>(42), (2, 13, vec![1, 2], 8192));
    // T0SZ has a range of its own: sizes are held within it.
    assert_eq!(Stage1::<Page4K>::new(64, HardwareAd::None).va_bits(), 48);
    let kernel = VirtAddr::new(F.kernel_base());
    assert_eq!(kernel.as_usize(), 0xffff_0000_0000_0000);
    assert_eq!(F.index(kernel.vpn(12), 4), 0);
    assert_eq!(F.index(VirtAddr::new(usize::MAX).vpn(12), 4), 511);
}

/// Table D8-"Contiguous bit": entries in a run, by granule and level.
#[test]
fn runs_are_as_long_as_the_manual_says() {
    fn runs<G: Granule>(va_bits: u8) -> Vec<u32> {
        let f = Stage1::<G>::new(va_bits, HardwareAd::None);
        (1..=f.levels()).map(|l| 1 << f.run_bits(l)).collect()
    }
    assert_eq!(runs::<Page4K>(48), [16, 16, 16, 1]);
    assert_eq!(runs::<Page16K>(47), [128, 32, 1]);
    assert_eq!(runs::<Page64K>(48), [32, 32, 1]);
    // A root shorter than a run has none: 33 bits leave 3 for the third level.
    assert_eq!(runs::<Page4K>(33), [16, 16, 1]);
    let word = F
        .encode_leaf(Pfn::new(16), Attrs::user(Prot::READ), 1)
        .unwrap();
    assert_eq!(F.with_run(word, Run::Member) ^ word, 1 << 52);
}
