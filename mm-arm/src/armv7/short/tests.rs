//! Words against the manual's figures (DDI 0406C B3-4, B3-5) and Linux' dumps,
//! and slots against a walk of the hardware words.

use super::*;
use core::sync::atomic::AtomicU32;

const PLAIN: Short = Short::new(Hardware {
    types: MemoryTypes::Plain,
    sharing: Sharing::Local,
    pxn: hardware::Pxn::Absent,
});
const LINUX: Short = Short::new(Hardware {
    types: MemoryTypes::Remapped,
    sharing: Sharing::Shareable,
    pxn: hardware::Pxn::Absent,
});
const PXN: Short = Short::new(Hardware {
    types: MemoryTypes::Remapped,
    sharing: Sharing::Shareable,
    pxn: hardware::Pxn::Present,
});
const ALL: [Short; 3] = [PLAIN, LINUX, PXN];

fn cells(n: usize) -> Vec<AtomicU32> {
    (0..n).map(|_| AtomicU32::new(0)).collect()
}

fn leaf_table() -> Vec<AtomicU32> {
    cells(1024)
}

fn root() -> Vec<AtomicU32> {
    cells(4096)
}

fn raw(cells: &[AtomicU32], i: usize) -> u32 {
    WordCell::load(&cells[i])
}

/// Returns the hardware words of entry `i`.
fn hardware_words(cells: &[AtomicU32], i: usize) -> Vec<u32> {
    if cells.len() == 4096 {
        vec![raw(cells, 2 * i), raw(cells, 2 * i + 1)]
    } else {
        vec![raw(cells, 512 + i)]
    }
}

fn used(prot: Prot) -> Attrs {
    Attrs::user(prot).with(AttrFlags::ACCESSED | AttrFlags::DIRTY)
}

/// Every combination of attributes at a level, with a frame that fits.
fn every_leaf(mut see: impl FnMut(u8, Pfn, Attrs)) {
    for level in 1..=2u8 {
        for prot in [Prot::READ, Prot::RW, Prot::RX, Prot::RWX] {
            for flags in 0..32u8 {
                for mem in TYPES {
                    let attrs = Attrs {
                        prot,
                        flags: AttrFlags::from_bits_truncate(flags),
                        mem,
                    };
                    for pfn in [0, 0x600, 0x3_1600, 0xf_fe00] {
                        see(level, Pfn::new(pfn), attrs);
                    }
                }
            }
        }
    }
}

#[test]
fn zero_is_empty_and_reads_from_fresh_tables() {
    for level in 1..=2 {
        assert_eq!(PLAIN.decode(0, level), Entry::Empty);
    }
    assert_eq!(PLAIN.load(&leaf_table(), 5), 0);
    assert_eq!(PLAIN.load(&root(), 5), 0);
    // Out of range reads as empty and writes nothing.
    let table = leaf_table();
    PLAIN.store(&table, 512, 0x1013);
    assert_eq!(PLAIN.load(&table, 512), 0);
    assert!((0..1024).all(|i| raw(&table, i) == 0));
}

/// The hardware words that an SMP Linux with TEX remap writes for the same
/// pages: what its dumps show as `*ppte`.
#[test]
fn hardware_words_as_in_linux_dumps() {
    let table = leaf_table();
    let word = |pfn: u64, prot, flags| {
        let attrs = Attrs::user(prot).with(flags);
        let soft = LINUX.encode_leaf(Pfn::new(pfn), attrs, 1).unwrap();
        LINUX.store(&table, 3, soft);
        raw(&table, 515)
    };
    let both = AttrFlags::ACCESSED | AttrFlags::DIRTY;
    // User data, write-allocate: nG S TEX=001 AP=011 C B small XN.
    assert_eq!(word(0x9fd5b, Prot::RW, both), 0x9fd5_bc7f);
    // The same, clean: AP[2] forbids the store that shall mark it.
    assert_eq!(word(0x9fd5b, Prot::RW, AttrFlags::ACCESSED), 0x9fd5_be7f);
    // User code: read-only and executable.
    assert_eq!(word(0x8f0a4, Prot::RX, AttrFlags::ACCESSED), 0x8f0a_4e7e);
    // Not young: nothing for hardware to find.
    assert_eq!(word(0x8f0a4, Prot::RX, AttrFlags::DIRTY), 0);
}

/// Figures B3-4 and B3-5, by hand.
#[test]
fn known_words_from_the_manual() {
    let root = root();
    // A kernel section of RAM, write-back: TEX 001 C B, AP 01, XN clear.
    let code = Attrs::kernel(Prot::RWX);
    let soft = PLAIN.encode_leaf(Pfn::new(0x40200), code, 2).unwrap();
    PLAIN.store(&root, 7, soft);
    // Domain 3 keeps dirty and writable.
    assert_eq!(hardware_words(&root, 7), [0x4020_146e, 0x4030_146e]);
    // Device registers, not executable, S clear.
    let device = Attrs::kernel(Prot::RW).with_mem(MemType::Device);
    let soft = PLAIN.encode_leaf(Pfn::new(0x09000), device, 2).unwrap();
    PLAIN.store(&root, 8, soft);
    assert_eq!(hardware_words(&root, 8), [0x0900_0476, 0x0910_0476]);
    // The two hardware tables of a frame.
    let table = PXN
        .encode_table(Pfn::new(0x43210), 2, TableOwner::User)
        .unwrap();
    PXN.store(&root, 9, table);
    assert_eq!(hardware_words(&root, 9), [0x4321_0825, 0x4321_0c25]);
    let table = PXN
        .encode_table(Pfn::new(0x43210), 2, TableOwner::Kernel)
        .unwrap();
    PXN.store(&root, 9, table);
    assert_eq!(hardware_words(&root, 9), [0x4321_0801, 0x4321_0c01]);
    // A section as Linux' boot table has it: AP_WRITE, WB, shareable.
    let found = decode_first(0x8021_1c0e, MemoryTypes::Remapped).unwrap();
    assert_eq!((found.base, found.pages), (0x8020_0000, 256));
    assert_eq!(found.mem, MemType::WriteBack);
    assert!(found.ap.is_user_writable() && found.exec && found.global);
}

#[test]
fn every_leaf_survives_word_and_slot() {
    for f in ALL {
        let (leaf_table, root) = (leaf_table(), root());
        every_leaf(|level, pfn, attrs| {
            let word = f.encode_leaf(pfn, attrs, level).unwrap();
            assert_eq!(f.decode(word, level), Entry::Leaf { pfn, attrs });
            for run in [Run::Single, Run::Member] {
                let word = f.with_run(word, run);
                assert_eq!(f.is_run(word), run == Run::Member);
                assert_eq!(f.decode(word, level), Entry::Leaf { pfn, attrs });
                let node = if level == 1 { &leaf_table } else { &root };
                for i in [0, 3, 511] {
                    f.store(node, i, word);
                    assert_eq!(f.load(node, i), word, "{pfn} {attrs:?} {run:?} slot {i}");
                }
            }
        });
    }
}

/// The heart: what hardware finds in its own words never says more than the
/// soft word, and the same page.
#[test]
fn hardware_never_sees_more_than_the_soft_word_says() {
    for f in ALL {
        let types = f.hardware().types;
        let (leaf_table, root) = (leaf_table(), root());
        every_leaf(|level, pfn, attrs| {
            for run in [Run::Single, Run::Member] {
                let word = f.with_run(f.encode_leaf(pfn, attrs, level).unwrap(), run);
                let (node, i) = if level == 1 {
                    (&leaf_table, 0x1a0)
                } else {
                    (&root, 0x1a3)
                };
                f.store(node, i, word);
                for (nth, &hard) in hardware_words(node, i).iter().enumerate() {
                    let found = if level == 1 {
                        decode_second(hard, types)
                    } else {
                        decode_first(hard, types)
                    };
                    if !attrs.flags.contains(AttrFlags::ACCESSED) {
                        assert_eq!(hard & 3, 0, "not young: {attrs:?}");
                        continue;
                    }
                    let found = found.expect("young means present");
                    // A large page or supersection shows where its own part is.
                    let offset = if found.pages == 4096 {
                        (i as u32 & 7) << 21 | (nth as u32) << 20
                    } else if found.pages == 16 {
                        (i as u32 & 15) << 12
                    } else {
                        0
                    };
                    let byte = u64::from(found.base | offset) - ((nth as u64) << 20);
                    assert_eq!(byte >> 12, pfn.as_u64(), "{hard:#x}");
                    let dirty = attrs.flags.contains(AttrFlags::DIRTY);
                    let user = attrs.flags.contains(AttrFlags::USER);
                    let write = attrs.prot.contains(Prot::WRITE) && dirty;
                    assert_eq!(found.ap.is_writable(), write, "{hard:#x} {attrs:?}");
                    assert_eq!(found.ap.is_user_writable(), write && user);
                    assert_eq!(found.ap.is_user(), user);
                    assert!(found.ap.is_readable());
                    assert_eq!(found.exec, attrs.prot.contains(Prot::EXEC));
                    assert_eq!(found.global, attrs.flags.contains(AttrFlags::GLOBAL));
                    assert_eq!(found.mem, attrs.mem);
                }
            }
        });
    }
}

#[test]
fn a_run_of_pages_is_one_large_page_written_sixteen_times() {
    let table = leaf_table();
    let first = LINUX
        .encode_leaf(Pfn::new(0x12340), used(Prot::RW), 1)
        .unwrap();
    let mut word = LINUX.with_run(first, Run::Member);
    for i in 0x20..0x30 {
        LINUX.store(&table, i, word);
        word = LINUX.next_page(word, 1);
    }
    // Base 0x1234, XN, TEX 001, nG, S, AP 011, C, B, type 01.
    let hard: Vec<u32> = (0x20..0x30).map(|i| raw(&table, 512 + i)).collect();
    assert_eq!(hard, [0x1234_9c3d; 16]);
    // The soft words name each its own frame.
    for i in 0..16 {
        let soft = LINUX.load(&table, 0x20 + i);
        let Entry::Leaf { pfn, .. } = LINUX.decode(soft, 1) else {
            panic!("not a leaf");
        };
        assert_eq!(pfn.as_usize(), 0x12340 + i);
    }
    // A member that stands at a wrong place is no part of a large page.
    LINUX.store(&table, 0x41, LINUX.with_run(first, Run::Member));
    assert_eq!(raw(&table, 512 + 0x41) & 2, 2);
}

#[test]
fn a_settled_run_of_blocks_is_a_supersection() {
    let root = root();
    let attrs = Attrs::kernel(Prot::RW);
    let mut word = LINUX.encode_leaf(Pfn::new(0x4_1000), attrs, 2).unwrap();
    word = LINUX.with_run(word, Run::Member);
    let first = word;
    for i in 0x608..0x610 {
        LINUX.store(&root, i, word);
        assert_eq!(LINUX.load(&root, i), word);
        word = LINUX.next_page(word, 2);
    }
    let hard: Vec<u32> = (0x608 * 2..0x610 * 2).map(|i| raw(&root, i)).collect();
    assert_eq!(hard, [0x4105_141e; 16]);
    // A mark that a supersection has no room for: sections, and still a run.
    LINUX.store(&root, 0x608, first | SPECIAL);
    assert_eq!(raw(&root, 0x608 * 2) & 1 << 18, 0);
    assert!(LINUX.is_run(LINUX.load(&root, 0x608)));
}

#[test]
fn non_present_entries_are_not_empty_and_hardware_faults_on_them() {
    for f in ALL {
        for (kind, value) in [
            (NonPresentKind::Swap, 0),
            (NonPresentKind::Swap, (1 << VALUE_BITS) - 1),
            (NonPresentKind::Guard, 0),
            (NonPresentKind::Migration, 0xf_ffff),
            (NonPresentKind::ProtNone, 0x7f_ffff),
        ] {
            let entry = NonPresent { kind, value };
            let word = f.encode_nonpresent(entry).unwrap();
            for (level, node) in [(1, leaf_table()), (2, root())] {
                assert_eq!(f.decode(word, level), Entry::NonPresent(entry));
                f.store(&node, 9, word);
                assert_eq!(f.load(&node, 9), word);
                for hard in hardware_words(&node, 9) {
                    assert_eq!(hard & 3, 0);
                }
            }
        }
        let big = NonPresent {
            kind: NonPresentKind::Swap,
            value: 1 << VALUE_BITS,
        };
        assert_eq!(f.encode_nonpresent(big), Err(FormatError::PayloadTooBig));
    }
    let highest = NonPresent::prot_none(Pfn::new(0xf_ffff), AttrFlags::all());
    assert!(PLAIN.encode_nonpresent(highest).is_ok());
}

#[test]
fn word_operations_agree_with_decoding() {
    let f = LINUX;
    for level in 1..=2u8 {
        let pages = f.entry_pages(level) as u64;
        let attrs = used(Prot::RWX);
        let word = f.encode_leaf(Pfn::new(2 * pages), attrs, level).unwrap();
        let next = f.encode_leaf(Pfn::new(3 * pages), attrs, level).unwrap();
        assert_eq!(f.next_page(word, level), next);
        let ro = f.write_protect(word);
        assert!(f.is_dirty(ro) && f.is_young(ro), "dirty and young stay");
        let node = if level == 1 { leaf_table() } else { root() };
        f.store(&node, 2, ro);
        for hard in hardware_words(&node, 2) {
            let bit = if level == 1 { 9 } else { 15 };
            assert_eq!(hard >> bit & 1, 1, "AP[2] of {hard:#x}");
        }
        assert!(f.ad_settled(word), "hardware writes nowhere");
        assert!(!f.is_young(f.with_young(word, AdBit::Clear)));
        assert!(!f.is_dirty(f.with_dirty(word, AdBit::Clear)));
        let read = f.with_prot(word, Prot::READ, level).unwrap();
        let Entry::Leaf { attrs: a, .. } = f.decode(read, level) else {
            panic!("not a leaf");
        };
        assert_eq!((a.prot, a.flags), (Prot::READ, attrs.flags));
        assert_eq!(
            f.with_prot(word, Prot::NONE, level),
            Err(FormatError::Rights)
        );
    }
}

#[test]
fn slots_exchange_and_refuse() {
    for (level, node) in [(1, leaf_table()), (2, root())] {
        let f = LINUX;
        let word = f.encode_leaf(Pfn::new(0x600), used(Prot::RW), level);
        let word = word.unwrap();
        assert_eq!(f.swap(&node, 4, word), 0);
        let hard = hardware_words(&node, 4);
        assert_eq!(f.compare_exchange(&node, 4, 0, 0), Err(word));
        assert_eq!(hardware_words(&node, 4), hard, "a refusal changes nothing");
        assert_eq!(
            f.compare_exchange(&node, 4, word, f.write_protect(word)),
            Ok(())
        );
        assert_ne!(hardware_words(&node, 4), hard);
        assert_eq!(f.swap(&node, 4, 0), f.write_protect(word));
        assert!(hardware_words(&node, 4).iter().all(|&w| w == 0));
        let end = f.entries(level);
        assert_eq!(f.compare_exchange(&node, end, 0, word), Err(0));
    }
}

#[test]
fn impossible_leaves_are_refused() {
    let a = Attrs::user(Prot::READ);
    let odd = Pfn::new(256);
    assert_eq!(
        PLAIN.encode_leaf(odd, a, 2),
        Err(FormatError::Misaligned(odd))
    );
    assert_eq!(
        PLAIN.encode_leaf(Pfn::new(0), a, 3),
        Err(FormatError::NoLeafHere(3))
    );
    let big = Pfn::new(1 << 20);
    assert_eq!(
        PLAIN.encode_leaf(big, a, 1),
        Err(FormatError::PfnTooBig(big))
    );
    assert_eq!(
        PLAIN.encode_leaf(Pfn::new(1), Attrs::user(Prot::NONE), 1),
        Err(FormatError::Rights)
    );
}

/// 32-bit user space ends at 0xc0000000, and a table for each process on
/// demand costs far less than the 4 MiB of a flat one.
#[test]
fn geometry_is_three_gib_of_four() {
    let f = PLAIN;
    assert_eq!(f.user_end().addr(12).as_usize(), 0xc000_0000);
    assert_eq!(f.kernel_root_index() * f.entry_pages(2), 0xc_0000);
    assert_eq!(f.entries(2) * f.entry_pages(2), 1 << 20);
    assert_eq!(f.index_shift(3), 20, "a table reaches all addresses");
    assert_eq!((f.entries(1), f.table_order(1)), (512, 0));
    assert_eq!((f.entries(2), f.table_order(2)), (2048, 2));
    let page = mm_core::addr::VirtAddr::new(0x4011_c000).vpn(12);
    assert_eq!((f.index(page, 2), f.index(page, 1)), (0x200, 0x11c));
    let last = mm_core::addr::VirtAddr::new(0xffff_f000).vpn(12);
    assert_eq!((f.index(last, 2), f.index(last, 1)), (2047, 511));
}

/// With SCTLR.AFE, AP\[0\] is the access flag and AP\[2:1\] the rights.
#[test]
fn access_flag_takes_a_bit_of_ap() {
    for (bits, user, write) in [
        (0b001, false, true),
        (0b011, true, true),
        (0b101, false, false),
        (0b111, true, false),
    ] {
        let (ap, accessed) = Ap::with_access_flag(bits);
        assert!(accessed);
        assert_eq!((ap.is_user(), ap.is_writable()), (user, write), "{bits:#b}");
        let (same, accessed) = Ap::with_access_flag(bits & 6);
        assert!(!accessed && same == ap);
    }
    // Without it, the same bits of Linux' old read-only pages differ.
    assert!(Ap::from_bits(0b010).is_user() && !Ap::from_bits(0b010).is_user_writable());
}

#[test]
fn foreign_memory_types_read_as_the_nearest() {
    let plain = |bits| MemoryTypes::Plain.of_bits(bits);
    assert_eq!(plain(0b00011), MemType::WriteBack);
    assert_eq!(plain(0b01000), MemType::Device);
    assert_eq!(plain(0b10101), MemType::WriteBack);
    assert_eq!(plain(0b10110), MemType::WriteThrough);
    assert_eq!(plain(0b11000), MemType::WriteCombining);
    for f in ALL {
        for mem in TYPES {
            let attrs = used(Prot::RW).with_mem(mem);
            let word = f.encode_leaf(Pfn::new(1), attrs, 1).unwrap();
            assert_eq!(f.decode(word, 1), {
                let pfn = Pfn::new(1);
                Entry::Leaf { pfn, attrs }
            });
        }
    }
}
