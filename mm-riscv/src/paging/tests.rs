//! Encodings against the manual (10.3.1, 10.4.1, 11, 12) and a dump.

use super::*;

const F32: Paging<Sv32> = Paging::new(Sv32, Extensions::NONE);

const MEMS: [MemType; 5] = [
    MemType::WriteBack,
    MemType::WriteThrough,
    MemType::WriteCombining,
    MemType::Uncached,
    MemType::Device,
];

fn leaf<M: Mode>(format: Paging<M>, word: M::Word, level: u8) -> (Pfn, Attrs) {
    match format.decode(word, level) {
        Entry::Leaf { pfn, attrs } => (pfn, attrs),
        other => panic!("{word:?} at level {level} is {other:?}"),
    }
}

/// Linux's page protections (`PAGE_READ_EXEC`, `PAGE_KERNEL`, ...) in Sv32 words.
#[test]
fn sv32_words_have_frames_of_22_bits() {
    // V R X U A of the frame that ends the 34-bit space.
    let (pfn, attrs) = leaf(F32, 0xffff_fc5b, 1);
    assert_eq!((pfn, attrs.prot), (Pfn::new(0x3f_ffff), Prot::RX));
    assert_eq!(attrs.flags, AttrFlags::USER | AttrFlags::ACCESSED);
    assert_eq!(F32.encode_leaf(pfn, attrs, 1), Ok(0xffff_fc5b));
    // A global kernel megapage at 2 GiB: V R W G A D.
    let (pfn, attrs) = leaf(F32, 0x2000_00e7, 2);
    assert_eq!((pfn, attrs), (Pfn::new(0x8_0000), Attrs::kernel(Prot::RW)));
    let big = Pfn::new(1 << 22);
    let user = Attrs::user(Prot::READ);
    assert_eq!(
        F32.encode_leaf(big, user, 1),
        Err(FormatError::PfnTooBig(big))
    );
}

fn every_leaf<M: Mode>(format: Paging<M>) {
    for level in 1..=format.levels() {
        let align = format.entry_pages(level) as u64;
        let last = (1 << M::PPN_BITS) - align;
        for frame in [0, align, last] {
            for rights in 1..8 {
                for flags in 0..32 {
                    for mem in MEMS {
                        let attrs = Attrs {
                            prot: Prot::from_bits_truncate(rights),
                            flags: AttrFlags::from_bits_truncate(flags),
                            mem,
                        };
                        let encoded = format.encode_leaf(Pfn::new(frame), attrs, level);
                        if attrs.prot.contains(Prot::WRITE) && !attrs.prot.contains(Prot::READ) {
                            assert_eq!(encoded, Err(FormatError::Rights));
                            continue;
                        }
                        let (pfn, back) = leaf(format, encoded.unwrap(), level);
                        let mem = match mem {
                            _ if !format.extensions().svpbmt => MemType::WriteBack,
                            MemType::WriteThrough => MemType::WriteCombining,
                            MemType::Uncached => MemType::Device,
                            mem => mem,
                        };
                        assert_eq!((pfn, back), (Pfn::new(frame), Attrs { mem, ..attrs }));
                    }
                }
            }
        }
    }
}

fn non_present<M: Mode>(format: Paging<M>) {
    let most = (1u64 << format.nonpresent_bits()) - 1;
    for (kind, value) in [
        (NonPresentKind::Swap, 0),
        (NonPresentKind::Swap, most),
        (NonPresentKind::Guard, 0),
        (NonPresentKind::Migration, 0x1234),
        (NonPresentKind::ProtNone, most),
    ] {
        let entry = NonPresent { kind, value };
        let word = format.encode_nonpresent(entry).unwrap();
        assert_eq!(word.to_u64() & VALID, 0);
        assert!(!format.is_run(word) && format.ad_settled(word));
        for level in 1..=format.levels() {
            assert_eq!(format.decode(word, level), Entry::NonPresent(entry));
        }
    }
    let big = NonPresent {
        kind: NonPresentKind::Swap,
        value: most + 1,
    };
    assert_eq!(
        format.encode_nonpresent(big),
        Err(FormatError::PayloadTooBig)
    );
    // Every frame can be kept under PROT_NONE.
    let last = Pfn::new((1 << M::PPN_BITS) - 1);
    let kept = NonPresent::prot_none(last, AttrFlags::all());
    assert!(format.encode_nonpresent(kept).is_ok());
}

fn word_operations<M: Mode>(format: Paging<M>) {
    let attrs = Attrs::user(Prot::RWX).with(AttrFlags::ACCESSED);
    for level in 1..=format.levels() {
        let pages = format.entry_pages(level) as u64;
        let word = format.encode_leaf(Pfn::new(2 * pages), attrs, level);
        let word = word.unwrap();
        let (pfn, next) = leaf(format, format.next_page(word, level), level);
        assert_eq!((pfn.as_u64(), next), (3 * pages, attrs));
        let protected = format.write_protect(word);
        assert_eq!(leaf(format, protected, level).1.prot, Prot::RX);
        assert!(!format.ad_settled(word) && format.ad_settled(protected));
        let dirty = format.with_dirty(word, AdBit::Set);
        assert!(format.is_dirty(dirty) && format.ad_settled(dirty));
        assert!(format.is_dirty(format.write_protect(dirty)));
        assert!(!format.is_young(format.with_young(word, AdBit::Clear)));
        let read = format.with_prot(dirty, Prot::READ, level).unwrap();
        assert_eq!(leaf(format, read, level).1.prot, Prot::READ);
        assert!(format.is_dirty(read) && format.is_young(read));
        for refused in [Prot::NONE, Prot::WRITE, Prot::WRITE | Prot::EXEC] {
            let changed = format.with_prot(word, refused, level);
            assert_eq!(changed, Err(FormatError::Rights));
        }
    }
}

#[test]
fn sv32_entries_of_every_kind_are_read_as_they_are_written() {
    for level in 1..=5 {
        assert_eq!(F32.decode(0, level), Entry::Empty);
    }
    every_leaf(F32);
    non_present(F32);
    word_operations(F32);
    assert_eq!(
        F32.encode_leaf(Pfn::new(0), Attrs::user(Prot::READ), 3),
        Err(FormatError::NoLeafHere(3))
    );
}

#[test]
fn sv32_has_two_levels_and_no_runs() {
    assert_eq!(F32.user_end().addr(12).as_usize(), 0xc000_0000);
    assert_eq!((F32.entries(1), F32.entry_pages(2)), (1024, 1024));
    let first = mm_core::addr::VirtAddr::new(0xc000_0000).vpn(12);
    assert_eq!(F32.index(first, 2), 768);
    assert_eq!(F32.run_bits(1), 0);
    assert!(F32.caches_invalid());
}

/// Sv39, Sv48 and Sv57, whose addresses need a `usize` of 64 bits.
#[cfg(target_pointer_width = "64")]
mod wide {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering};

    const F39: Paging<Sv39> = Paging::new(Sv39, Extensions::NONE);
    const ALL: Extensions = Extensions {
        svnapot: true,
        svpbmt: true,
        sets_ad: true,
        svvptc: true,
        svinval: true,
    };
    const FULL: Paging<Sv39> = Paging::new(Sv39, ALL);

    #[test]
    fn zero_is_empty_at_every_level() {
        for level in 1..=5 {
            assert_eq!(F39.decode(0, level), Entry::Empty);
        }
    }

    /// The page table of the first process of xv6-riscv, as the lab "pgtbl" of
    /// MIT's 6.S081 (2020) prints it.
    #[test]
    fn known_words_from_a_dump_of_xv6() {
        for (word, level, frame) in [
            (0x21fd_a801, 3, 0x87f6a),
            (0x21fd_a401, 2, 0x87f69),
            (0x21fd_b401, 3, 0x87f6d),
            (0x21fd_b001, 2, 0x87f6c),
        ] {
            let pfn = Pfn::new(frame);
            assert_eq!(F39.decode(word, level), Entry::Table(pfn));
            assert_eq!(F39.encode_table(pfn, level, TableOwner::User), Ok(word));
        }
        for (word, frame, prot, flags) in [
            (0x21fd_ac1f, 0x87f6b, Prot::RWX, AttrFlags::USER),
            (0x21fd_a00f, 0x87f68, Prot::RWX, AttrFlags::empty()),
            (0x21fd_9c1f, 0x87f67, Prot::RWX, AttrFlags::USER),
            (0x21fd_d807, 0x87f76, Prot::RW, AttrFlags::empty()),
            (0x2000_1c0b, 0x80007, Prot::RX, AttrFlags::empty()),
        ] {
            let (pfn, attrs) = leaf(F39, word, 1);
            let want = Attrs {
                prot,
                flags,
                mem: MemType::WriteBack,
            };
            assert_eq!((pfn, attrs), (Pfn::new(frame), want), "{word:#x}");
            assert_eq!(F39.encode_leaf(pfn, attrs, 1), Ok(word));
        }
    }

    #[test]
    fn every_leaf_survives_the_round_trip() {
        every_leaf(F39);
        every_leaf(FULL);
        every_leaf(Paging::new(Sv48, ALL));
        every_leaf(Paging::new(Sv57, Extensions::NONE));
    }

    /// The table of 12: PMA 0, NC 1, IO 2 in bits 62..61.
    #[test]
    fn memory_types_stand_in_bits_61_and_62() {
        for (mem, pbmt) in MEMS.into_iter().zip([0, 1, 1, 2, 2]) {
            let attrs = Attrs::user(Prot::READ).with_mem(mem);
            assert_eq!(
                FULL.encode_leaf(Pfn::new(1), attrs, 1),
                Ok(pbmt << 61 | 0x413)
            );
            assert_eq!(F39.encode_leaf(Pfn::new(1), attrs, 1), Ok(0x413));
        }
    }

    #[test]
    fn non_present_entries_are_not_empty_and_not_walkable() {
        non_present(FULL);
    }

    #[test]
    fn word_operations_agree_with_decoding() {
        word_operations(F39);
        word_operations(Paging::new(Sv57, ALL));
    }

    #[test]
    fn hardware_that_faults_writes_to_no_entry() {
        let svade = Extensions::from_names(["svade"]);
        let format = Paging::new(Sv39, svade);
        assert_eq!(format.hardware_ad(), HardwareAd::None);
        assert_eq!(F39.hardware_ad(), HardwareAd::Both);
        let word = format.encode_leaf(Pfn::new(1), Attrs::user(Prot::RW), 1);
        assert!(format.ad_settled(word.unwrap()) && !F39.ad_settled(word.unwrap()));
    }

    #[test]
    fn a_fresh_page_needs_a_fence_without_svvptc() {
        assert!(F39.caches_invalid());
        assert!(!FULL.caches_invalid());
    }

    #[test]
    fn impossible_leaves_are_refused() {
        let attrs = Attrs::user(Prot::READ);
        let one = Pfn::new(1);
        assert_eq!(
            F39.encode_leaf(one, attrs, 2),
            Err(FormatError::Misaligned(one))
        );
        assert_eq!(
            F39.encode_leaf(Pfn::new(0), attrs, 4),
            Err(FormatError::NoLeafHere(4))
        );
        let big = Pfn::new(1 << 44);
        assert_eq!(
            F39.encode_leaf(big, attrs, 1),
            Err(FormatError::PfnTooBig(big))
        );
    }

    #[test]
    fn geometry_is_39_48_and_57_bits() {
        let f48 = Paging::new(Sv48, Extensions::NONE);
        let f57 = Paging::new(Sv57, Extensions::NONE);
        assert_eq!(F39.user_end().addr(12).as_usize(), 1 << 38);
        assert_eq!(f48.user_end().addr(12).as_usize(), 1 << 47);
        assert_eq!(f57.user_end().addr(12).as_usize(), 1 << 56);
        assert_eq!(F39.entries(1), 512);
        assert_eq!(f57.entry_pages(5), 1 << 36);
        // The kernel's addresses are sign-extended: the upper half of the root.
        for (first, index) in [
            (0xffff_ffc0_0000_0000_usize, F39.kernel_root_index()),
            (0xffff_ffff_ffff_f000, 511),
        ] {
            let page = mm_core::addr::VirtAddr::new(first).vpn(12);
            assert_eq!(F39.index(page, 3), index);
        }
        let first = mm_core::addr::VirtAddr::new(0xff00_0000_0000_0000).vpn(12);
        assert_eq!(f57.index(first, 5), 256);
        for (satp, levels) in [(8, Some(3)), (9, Some(4)), (10, Some(5)), (0, None)] {
            let mode = Probed::from_satp(satp << 60 | 0x8_0200);
            assert_eq!(mode.map(Mode::levels), levels);
        }
    }

    fn node() -> Vec<AtomicU64> {
        (0..512).map(|_| AtomicU64::new(0)).collect()
    }

    /// 11: N set and `ppn[3:0] = 1000` for 64 KiB; the page is named by the address.
    #[test]
    fn a_run_is_written_as_the_pattern_and_read_as_frames() {
        let node = node();
        let word = FULL
            .encode_leaf(Pfn::new(0x80230), Attrs::user(Prot::RW), 1)
            .unwrap();
        let mut word = FULL.with_run(word, Run::Member);
        for i in 32..48 {
            FULL.store(&node, i, word);
            let hardware = node[i].load(Ordering::Relaxed);
            assert_eq!(hardware, 1 << 63 | 0x80238 << 10 | 0x17, "slot {i}");
            assert_eq!(FULL.load(&node, i), word);
            let (pfn, _) = leaf(FULL, word, 1);
            assert_eq!(pfn.as_u64(), 0x80230 + i as u64 - 32);
            word = FULL.next_page(word, 1);
        }
        assert_eq!((FULL.run_bits(1), FULL.run_bits(2)), (4, 0));
        assert_eq!(F39.run_bits(1), 0);
    }

    #[test]
    fn exchanges_of_a_run_speak_of_frames_too() {
        let node = node();
        let single = FULL
            .encode_leaf(Pfn::new(0x125), Attrs::user(Prot::RW), 1)
            .unwrap();
        let member = FULL.with_run(single, Run::Member);
        FULL.store(&node, 5, member);
        // Hardware sets the bits meanwhile.
        node[5].fetch_or(ACCESSED | DIRTY, Ordering::Relaxed);
        let touched = member | ACCESSED | DIRTY;
        assert_eq!(
            FULL.compare_exchange(&node, 5, member, single),
            Err(touched)
        );
        assert_eq!(FULL.compare_exchange(&node, 5, touched, single), Ok(()));
        assert_eq!(node[5].load(Ordering::Relaxed), single);
        assert_eq!(FULL.swap(&node, 5, member), single);
        assert_eq!(FULL.swap(&node, 5, 0), member);
        assert_eq!(FULL.with_run(member, Run::Single), single);
    }

    /// The pattern can only say the frame whose low bits are the slot's.
    #[test]
    fn a_mark_that_the_frame_does_not_fit_is_not_written() {
        let node = node();
        let single = FULL
            .encode_leaf(Pfn::new(0x126), Attrs::user(Prot::RW), 1)
            .unwrap();
        FULL.store(&node, 5, FULL.with_run(single, Run::Member));
        assert_eq!(node[5].load(Ordering::Relaxed), single);
        assert_eq!(FULL.load(&node, 5), single);
    }

    #[test]
    fn harts_without_svnapot_see_no_mark() {
        let word = F39
            .encode_leaf(Pfn::new(0x120), Attrs::user(Prot::RW), 1)
            .unwrap();
        assert_eq!(F39.with_run(word, Run::Member), word);
        let narrow = Paging::new(Sv32, ALL);
        assert_eq!(narrow.run_bits(1), 0);
        assert!(!narrow.extensions().svpbmt);
    }
}
