//! Sound files and the plans they must give.

mod support;

use mm_core::prot::Prot;
use mm_elf::segment::interpreter_path;
use mm_elf::{ElfError, Header, Machine, MapStep, StackRights, StepKind};
use support::properties::{load as run, target};
use support::{
    File, PT_GNU_RELRO, PT_GNU_STACK, PT_INTERP, PT_LOAD, PT_PHDR, PT_RISCV_ATTRIBUTES, PT_TLS, Ph,
    R, W, X, load, typical,
};

const PIE_BASE: u64 = 0x5555_5555_5000;

/// The steps as (address, length, rights, file offset or none, zeroed from).
type Row = (u64, u64, Prot, Option<u64>, Option<u64>);

fn rows(file: &File, base: u64) -> Vec<Row> {
    let bytes = file.bytes();
    let target = target(file.machine);
    run(&bytes, &target, base).unwrap();
    with_plan(file, base, |plan| {
        plan.steps()
            .map(
                |MapStep {
                     addr,
                     len,
                     prot,
                     kind,
                     zero,
                     ..
                 }| {
                    let offset = match kind {
                        StepKind::File { offset } => Some(offset),
                        StepKind::Anonymous => None,
                    };
                    (addr, len, prot, offset, zero.map(|z| z.start))
                },
            )
            .collect()
    })
}

fn with_plan<T>(file: &File, base: u64, f: impl FnOnce(&mm_elf::Plan<'_>) -> T) -> T {
    let bytes = file.bytes();
    let header = Header::parse(&bytes, bytes.len() as u64, &target(file.machine)).unwrap();
    let image = header
        .check(&bytes[header.table().offset as usize..])
        .unwrap();
    f(&image.plan(base).unwrap())
}

#[test]
fn a_typical_static_program_maps_as_linux_maps_it() {
    let file = typical();
    let want = [
        (0x40_0000, 0x1000, Prot::READ, Some(0), None),
        (0x40_1000, 0x9_7000, Prot::RX, Some(0x1000), None),
        (0x49_8000, 0x2_9000, Prot::READ, Some(0x9_8000), None),
        (0x4c_2000, 0x7000, Prot::RW, Some(0xc_1000), Some(0x4c_8290)),
        (0x4c_9000, 0x5000, Prot::RW, None, None),
    ];
    assert_eq!(rows(&file, 0), want);
    with_plan(&file, 0, |plan| {
        assert_eq!((plan.bias(), plan.entry()), (0, 0x40_1234));
        assert_eq!((plan.end(), plan.brk()), (0x4c_da88, 0x4c_e000));
        assert_eq!(plan.phdr(), Some(0x40_0040));
        assert_eq!(plan.stack(), StackRights::ReadWrite);
        assert_eq!(plan.interpreter(), None);
    });
}

/// Linux's start of the heap counts every PT_LOAD, also one without a byte (tried on 6.18: 0x4a1000,
/// and 0x401000 without it).
#[test]
fn an_empty_segment_moves_the_heap_and_maps_nothing() {
    let text = load(R | X, 0, 0x40_0000, 0x1000, 0x1000);
    let heap = |headers: &[Ph]| {
        let file = File::new(Machine::X86_64, headers);
        assert_eq!(rows(&file, 0).len(), 1);
        with_plan(&file, 0, |plan| {
            assert_eq!((plan.range().end, plan.end()), (0x40_1000, 0x40_1000));
            plan.brk()
        })
    };
    assert_eq!(heap(&[text]), 0x40_1000);
    for offset in [0, 0xdf8, 0x123] {
        let empty = load(R | W, offset, 0x4a_0df8, 0, 0);
        assert_eq!(heap(&[text, empty]), 0x4a_1000);
        assert_eq!(heap(&[empty, text]), 0x4a_1000);
        let below = load(R | W, offset, 0x1000, 0, 0);
        assert_eq!(heap(&[text, below]), 0x40_1000);
        assert_eq!(heap(&[below, text, empty, below]), 0x4a_1000);
    }
    // The heap starts in user space.
    let result = |addr: u64| {
        let headers = [text, load(R | W, 0, addr, 0, 0)];
        run(
            &File::new(Machine::X86_64, &headers).bytes(),
            &target(Machine::X86_64),
            0,
        )
    };
    let outside = |end: u64| ElfError::OutsideUser {
        addr: 0x40_0000,
        len: end - 0x40_0000,
    };
    assert_eq!(result(0x7fff_ffff_f001), Err(outside(0x8000_0000_0000)));
    assert_eq!(result(1 << 63), Err(outside(1 << 63)));
    let wraps = ElfError::Wraps {
        segment: 1,
        addr: u64::MAX,
    };
    assert_eq!(result(u64::MAX), Err(wraps));
}

#[test]
fn bss_is_a_zeroed_tail_and_anonymous_pages() {
    let at = |file, mem| {
        let h = load(R | W, 0x1100, 0x40_1100, file, mem);
        rows(&File::new(Machine::X86_64, &[h]), 0)
    };
    let rw = Prot::RW;
    // Within the page; past the page; file bytes that end with a page; none.
    assert_eq!(
        at(0x10, 0x20),
        [(0x40_1000, 0x1000, rw, Some(0x1000), Some(0x40_1110))]
    );
    assert_eq!(
        at(0x10, 0xf01),
        [
            (0x40_1000, 0x1000, rw, Some(0x1000), Some(0x40_1110)),
            (0x40_2000, 0x1000, rw, None, None),
        ]
    );
    assert_eq!(
        at(0xf00, 0x1f00),
        [
            (0x40_1000, 0x1000, rw, Some(0x1000), None),
            (0x40_2000, 0x1000, rw, None, None)
        ]
    );
    assert_eq!(at(0, 0xf01), [(0x40_1000, 0x2000, rw, None, None)]);
    assert_eq!(
        at(0x10, 0x10),
        [(0x40_1000, 0x1000, rw, Some(0x1000), None)]
    );
}

#[test]
fn a_relocatable_program_stands_at_its_base() {
    let headers = [
        load(R | X, 0, 0, 0x800, 0x800),
        load(R | W, 0x800, 0x1800, 0x100, 0x3000),
    ];
    let file = File {
        entry: 0x40,
        ..File::new(Machine::X86_64, &headers).relocatable()
    };
    let want = [
        (PIE_BASE, 0x1000, Prot::RX, Some(0), None),
        (
            PIE_BASE + 0x1000,
            0x1000,
            Prot::RW,
            Some(0),
            Some(PIE_BASE + 0x1900),
        ),
        (PIE_BASE + 0x2000, 0x3000, Prot::RW, None, None),
    ];
    assert_eq!(rows(&file, PIE_BASE), want);
    with_plan(&file, PIE_BASE, |plan| {
        assert_eq!(plan.bias(), PIE_BASE);
        assert_eq!(plan.entry(), PIE_BASE + 0x40);
        assert_eq!(plan.phdr(), Some(PIE_BASE + 0x40));
        assert_eq!(plan.range(), PIE_BASE..PIE_BASE + 0x5000);
    });
}

#[test]
fn the_base_is_lowered_to_the_largest_alignment() {
    let mut headers = [
        load(R | X, 0, 0, 0x800, 0x800),
        load(R | W, 0x800, 0x1_1800, 0x100, 0x100),
    ];
    headers[1].align = 0x1_0000;
    let file = File::new(Machine::Aarch64, &headers).relocatable();
    with_plan(&file, 0x5555_5555_5000, |plan| {
        assert_eq!(plan.bias(), 0x5555_5555_0000)
    });
}

/// Linux since 5.10 (maximum_alignment): what is no power of two counts for nothing.
#[test]
fn alignments_that_are_no_power_of_two_move_no_image() {
    for odd in [3, 0x1001, 0x3_0000, u64::MAX] {
        let mut headers = [
            load(R | X, 0, 0, 0x800, 0x800),
            load(R | W, 0x800, 0x1_1800, 0x100, 0x100),
        ];
        headers[0].align = odd;
        headers[1].align = 0x1_0000;
        let file = File::new(Machine::X86_64, &headers).relocatable();
        with_plan(&file, PIE_BASE, |plan| {
            assert_eq!(plan.bias(), 0x5555_5555_0000, "beside {odd:#x}");
        });
    }
}

#[test]
fn a_relocatable_program_linked_high_may_go_low() {
    let headers = [load(R | X, 0, 0xffff_8000_0000_0000, 0x800, 0x800)];
    let file = File::new(Machine::X86_64, &headers).relocatable();
    with_plan(&file, PIE_BASE, |plan| {
        assert_eq!(plan.range(), PIE_BASE..PIE_BASE + 0x1000);
        assert_eq!(plan.entry(), PIE_BASE);
        assert_eq!(plan.bias().wrapping_add(0xffff_8000_0000_0000), PIE_BASE);
    });
}

#[test]
fn page_shared_by_two_segments_goes_to_the_later() {
    let headers = [
        load(R | X, 0, 0x40_0000, 0x1810, 0x1810),
        load(R | W, 0x1810, 0x40_1810, 0x20, 0x20),
        load(R, 0x1830, 0x40_1830, 0x1000, 0x1000),
    ];
    let want = [
        (0x40_0000, 0x1000, Prot::RX, Some(0), None),
        (0x40_1000, 0x2000, Prot::READ, Some(0x1000), None),
    ];
    assert_eq!(rows(&File::new(Machine::X86_64, &headers), 0), want);
}

/// arm64: two segments, aligned to 64 KiB, the writable one starts mid-page.
#[test]
fn debian_arm64_layout_loads() {
    let mut headers = [
        load(R | X, 0, 0x40_0000, 0x1a_5000, 0x1a_5000),
        load(R | W, 0x1a_dc38, 0x5b_dc38, 0x1_2358, 0x1_8f30),
    ];
    headers.iter_mut().for_each(|h| h.align = 0x1_0000);
    let got = rows(&File::new(Machine::Aarch64, &headers), 0);
    assert_eq!(
        got[1],
        (
            0x5b_d000,
            0x1_3000,
            Prot::RW,
            Some(0x1a_d000),
            Some(0x5c_ff90)
        )
    );
}

/// armhf and riscv64 link at 64 KiB, ELF32 and ELF64.
#[test]
fn programs_linked_at_64_kib_load() {
    for machine in [Machine::Arm, Machine::Riscv64, Machine::Riscv32] {
        let attributes = Ph {
            kind: PT_RISCV_ATTRIBUTES,
            offset: 0x100,
            file: 0x53,
            ..Ph::default()
        };
        let headers = [
            attributes,
            load(R | X, 0, 0x1_0000, 0x900, 0x900),
            load(R | W, 0x900, 0x1_1900, 4, 0x2000),
        ];
        let got = rows(&File::new(machine, &headers), 0);
        assert_eq!(got[0].0, 0x1_0000, "{machine:?}");
        assert_eq!(got.len(), 3, "{machine:?}");
    }
}

#[test]
fn a_page_of_64_kib_takes_file_pages_of_64_kib() {
    let headers = [load(R | W, 0x1_2340, 0x41_2340, 0x10, 0x1_0000)];
    let bytes = File::new(Machine::Aarch64, &headers).bytes();
    let mut target = target(Machine::Aarch64);
    target.page_shift = 16;
    assert_eq!(run(&bytes, &target, 0), Ok(2));
}

#[test]
fn b2_the_last_page_of_32_bits_can_be_user() {
    let headers = [load(R | X, 0, 0xffff_f000, 0x1000, 0x1000)];
    let file = File::new(Machine::Arm, &headers);
    let mut target = target(Machine::Arm);
    target.user.end = 1 << 32;
    assert_eq!(run(&file.bytes(), &target, 0), Ok(1));
}

#[test]
fn empty_segments_are_passed_by() {
    let headers = [
        load(R, 0, 0x7f_0000, 0, 0),
        load(R | X, 0, 0x40_0000, 0x100, 0x100),
    ];
    assert_eq!(rows(&File::new(Machine::X86_64, &headers), 0).len(), 1);
}

#[test]
fn odd_alignments_that_mean_nothing_are_taken() {
    for align in [0, 1, 2, 3, 0x10, 0x1001, 1 << 21, u64::MAX] {
        let mut h = load(R | X, 0x1000, 0x40_1000, 0x100, 0x100);
        h.align = align;
        assert_eq!(
            rows(&File::new(Machine::X86_64, &[h]), 0).len(),
            1,
            "{align:#x}"
        );
    }
}

#[test]
fn headers_a_loader_passes_by_may_hold_anything() {
    let mut file = typical();
    for kind in [
        0,
        2,
        4,
        5,
        PT_PHDR,
        PT_TLS,
        PT_GNU_RELRO,
        0x6474_e550,
        0x6474_e553,
        u32::MAX,
    ] {
        let wild = u64::MAX - 7;
        file.headers.push(Ph {
            kind,
            flags: !0,
            offset: wild,
            addr: wild,
            file: wild,
            mem: 1,
            align: 3,
        });
    }
    assert_eq!(rows(&file, 0), rows(&typical(), 0));
}

#[test]
fn program_headers_may_lie_beyond_the_first_page() {
    let mut file = typical();
    file.phoff = 0xc_8000;
    let bytes = file.bytes();
    let header = Header::parse(&bytes[..64], bytes.len() as u64, &target(file.machine)).unwrap();
    assert_eq!(
        (header.table().offset, header.table().len),
        (0xc_8000, 7 * 56)
    );
    assert_eq!(rows(&file, 0), rows(&typical(), 0));
    // No segment has them, so the program cannot be told where they are.
    assert_eq!(with_plan(&file, 0, |plan| plan.phdr()), None);
    file.phoff = 0xc_5000;
    assert_eq!(with_plan(&file, 0, |plan| plan.phdr()), Some(0x4c_6000));
}

#[test]
fn the_interpreter_is_named_by_its_bytes() {
    let mut file = typical().relocatable();
    let path = b"/lib64/ld-linux-x86-64.so.2\0";
    file.headers.insert(
        0,
        Ph {
            kind: PT_INTERP,
            offset: 0x300,
            file: path.len() as u64,
            ..Ph::default()
        },
    );
    file.headers.insert(
        1,
        Ph {
            kind: PT_INTERP,
            offset: 0,
            file: 0,
            ..Ph::default()
        },
    );
    let mut bytes = file.bytes();
    bytes[0x300..][..path.len()].copy_from_slice(path);
    assert!(run(&bytes, &target(file.machine), PIE_BASE).is_ok());
    let header = Header::parse(&bytes, bytes.len() as u64, &target(file.machine)).unwrap();
    let image = header.check(&bytes[64..]).unwrap();
    let at = image.interpreter().unwrap();
    assert_eq!(
        interpreter_path(&bytes[at.offset as usize..][..at.len as usize]),
        Ok(&path[..path.len() - 1])
    );
    assert_eq!(interpreter_path(b"/a\0b\0"), Ok(&b"/a"[..]));
    assert_eq!(interpreter_path(b"/a"), Err(ElfError::InterpreterPath));
    assert_eq!(interpreter_path(b"\0\0"), Err(ElfError::InterpreterPath));
    assert_eq!(interpreter_path(b""), Err(ElfError::InterpreterPath));
}

#[test]
fn the_stack_is_executable_only_if_asked_for() {
    let with = |headers: &[Ph]| {
        let mut file = File::new(Machine::X86_64, &[load(R | X, 0, 0x40_0000, 9, 9)]);
        file.headers.extend(headers);
        with_plan(&file, 0, |plan| plan.stack())
    };
    let stack = |flags| Ph {
        kind: PT_GNU_STACK,
        flags,
        ..Ph::default()
    };
    assert_eq!(with(&[]), StackRights::Unspecified);
    assert_eq!(with(&[stack(R | W)]), StackRights::ReadWrite);
    assert_eq!(with(&[stack(R | W | X)]), StackRights::ReadWriteExec);
    assert_eq!(StackRights::Unspecified.prot(), Prot::RW);
    assert_eq!(StackRights::ReadWriteExec.prot(), Prot::RWX);
}

#[test]
fn rights_are_those_of_the_flags() {
    for bits in 0..8 {
        let flags = 0xfff0_0000 | bits;
        let h = Ph {
            kind: PT_LOAD,
            ..load(flags, 0, 0x40_0000, 9, 9)
        };
        let prot = rows(&File::new(Machine::X86_64, &[h]), 0)[0].2;
        assert_eq!(prot.contains(Prot::READ), bits & R != 0);
        assert_eq!(prot.contains(Prot::WRITE), bits & W != 0);
        assert_eq!(prot.contains(Prot::EXEC), bits & X != 0);
    }
}

#[test]
fn a_full_page_of_headers_is_walked() {
    let headers: Vec<Ph> = (0..73)
        .map(|i| {
            load(
                R | W,
                i * 0x1000 + 0x10,
                0x40_0010 + i * 0x3000,
                0x10,
                0x1800,
            )
        })
        .collect();
    assert_eq!(rows(&File::new(Machine::X86_64, &headers), 0).len(), 73 * 2);
}

/// Linux takes the first segment that holds the headers, too.
#[test]
fn headers_in_two_segments_are_found_in_the_first() {
    let headers = [
        load(R, 0, 0x40_0000, 0x800, 0x800),
        load(R | W, 0, 0x41_0000, 0x800, 0x800),
    ];
    let file = File::new(Machine::X86_64, &headers);
    assert_eq!(with_plan(&file, 0, |plan| plan.phdr()), Some(0x40_0040));
}
