//! Broken files, and the precise error of each.

mod support;

use mm_elf::{ElfError, Header, Machine, Part, Target};
use support::properties::{load as run, target};
use support::{File, PT_INTERP, Ph, R, W, X, load, typical};

fn error_of(file: &File) -> ElfError {
    error_on(file, &target(file.machine))
}

fn error_on(file: &File, target: &Target) -> ElfError {
    match run(&file.bytes(), target, 0x5555_5555_5000) {
        Err(error) => error,
        Ok(steps) => panic!("loaded with {steps} steps: {file:x?}"),
    }
}

/// The error of one segment after a sound one.
fn second(h: Ph) -> ElfError {
    let first = load(R | X, 0, 0x40_0000, 0x1800, 0x1800);
    error_of(&File {
        size: 0x4000,
        ..File::new(Machine::X86_64, &[first, h])
    })
}

#[test]
fn the_typical_file_is_sound() {
    let file = typical();
    assert_eq!(run(&file.bytes(), &target(file.machine), 0), Ok(5));
}

#[test]
fn not_elf() {
    for bytes in [
        &b""[..],
        b"\x7f",
        b"#!/bin/sh\n",
        b"\x7fELG\x02\x01\x01",
        &[0; 200],
    ] {
        let got = Header::parse(bytes, bytes.len() as u64, &target(Machine::X86_64));
        // What there is of a one-byte file does say ELF.
        let want = match bytes.len() {
            1 => ElfError::Truncated {
                part: Part::Header,
                end: 16,
            },
            _ => ElfError::NotElf,
        };
        assert_eq!(got, Err(want));
    }
    assert_eq!(ElfError::NotElf.errno(), 8);
}

#[test]
fn wrong_class() {
    // RISC-V has one number for both.
    let headers = [load(R, 0, 0x1_0000, 9, 9)];
    let rv64 = File::new(Machine::Riscv64, &headers);
    assert_eq!(
        error_on(&rv64, &target(Machine::Riscv32)),
        ElfError::WrongClass { found: 2 }
    );
    for class in [0, 1, 3, 255] {
        let file = File {
            class,
            ..rv64.clone()
        };
        assert_eq!(error_of(&file), ElfError::WrongClass { found: class });
    }
}

/// Linux's binfmt_elf compares the magic and the machine's number: such files run (as tried on
/// x86-64 with Linux 6.18).
#[test]
fn what_linux_does_not_look_at_is_no_error() {
    for (class, data, version) in [(7, 1, 1), (1, 1, 1), (2, 9, 1), (2, 1, 5), (0, 0, 0)] {
        let file = File {
            class,
            data,
            version,
            ..typical()
        };
        assert_eq!(run(&file.bytes(), &target(file.machine), 0), Ok(5));
    }
    // x32: the same number, and headers of the other size.
    let x32 = File {
        class: 1,
        phentsize: 32,
        ..typical()
    };
    assert_eq!(error_of(&x32), ElfError::WrongEntrySize { found: 32 });
}

#[test]
fn wrong_machine() {
    for number in [0, 3, 183, 243, 0xffff] {
        let file = File {
            number,
            ..typical()
        };
        assert_eq!(error_of(&file), ElfError::WrongMachine { found: number });
    }
    assert_eq!(
        error_on(&typical(), &target(Machine::Aarch64)),
        ElfError::WrongMachine { found: 62 }
    );
}

#[test]
fn wrong_type() {
    for kind in [0, 1, 4, 0xfe00] {
        assert_eq!(
            error_of(&File { kind, ..typical() }),
            ElfError::WrongType { found: kind }
        );
    }
}

#[test]
fn wrong_entry_size() {
    for phentsize in [0, 32, 55, 57, 0xffff] {
        let file = File {
            phentsize,
            ..typical()
        };
        assert_eq!(
            error_of(&file),
            ElfError::WrongEntrySize { found: phentsize }
        );
    }
}

#[test]
fn no_headers() {
    assert_eq!(
        error_of(&File {
            phnum: Some(0),
            ..typical()
        }),
        ElfError::NoHeaders
    );
}

#[test]
fn too_many_headers() {
    for n in [74, 1000, 0xffff] {
        let file = File {
            phnum: Some(n),
            size: 1 << 23,
            ..typical()
        };
        assert_eq!(error_of(&file), ElfError::TooManyHeaders { found: n });
    }
}

#[test]
fn truncated_table() {
    for (phoff, end) in [
        (0x10_0000, 0x10_0000 + 7 * 56),
        (u64::MAX - 3, u64::MAX),
        (u64::MAX - 7 * 56, u64::MAX),
    ] {
        let mut bytes = typical().bytes();
        bytes[32..40].copy_from_slice(&phoff.to_le_bytes());
        let got = run(&bytes, &target(Machine::X86_64), 0);
        assert_eq!(
            got,
            Err(ElfError::Truncated {
                part: Part::Table,
                end
            })
        );
    }
}

#[test]
fn no_segments() {
    let tls = Ph {
        kind: 7,
        ..Ph::default()
    };
    let empty = load(R, 0, 0x40_0000, 0, 0);
    let file = File::new(Machine::X86_64, &[tls, empty]);
    assert_eq!(error_of(&file), ElfError::NoSegments);
}

#[test]
fn more_in_the_file_than_in_memory() {
    for mem in [0, 1, 0x7f] {
        let h = load(R | W, 0x2000, 0x40_2000, 0x80, mem);
        assert_eq!(second(h), ElfError::FileExceedsMemory { segment: 1 });
    }
}

#[test]
fn address_and_offset_differ_within_the_page() {
    for addr in [0x40_2001, 0x40_2800] {
        let h = load(R, 0x2000, addr, 9, 9);
        assert_eq!(second(h), ElfError::Misaligned { segment: 1, addr });
    }
}

#[test]
fn size_wraps_the_address() {
    let top = u64::MAX - 0xfff;
    for (addr, mem) in [
        (0x40_2000, u64::MAX),
        (top, 0x1000),
        (top, 0xfff),
        (top + 1, 1),
        (!0xfff, u64::MAX),
    ] {
        let h = load(R, 0x2000, addr, 0, mem);
        assert_eq!(
            second(h),
            ElfError::Wraps { segment: 1, addr },
            "{addr:#x} {mem:#x}"
        );
    }
    // 32 bits end at 2^32, not at 2^64.
    for (addr, mem) in [(0xffff_f000, 0x1001), (0x8000_0000, 0x8000_0001)] {
        let file = File::new(Machine::Arm, &[load(R, 0, addr, 9, mem)]);
        assert_eq!(error_of(&file), ElfError::Wraps { segment: 0, addr });
    }
}

#[test]
fn truncated_segment() {
    for (offset, file) in [(0x2000, 0x2001), (0x4000, 1), (0x7f_f000, 9)] {
        let h = load(R, offset, 0x40_2000, file, 0x1_0000);
        let want = ElfError::Truncated {
            part: Part::Segment(1),
            end: offset + file,
        };
        let first = load(R | X, 0, 0x40_0000, 0x800, 0x800);
        let bytes = File {
            size: 0,
            ..File::new(Machine::X86_64, &[first, h])
        }
        .bytes();
        let mut bytes = bytes[..176].to_vec();
        bytes.resize(0x4000, 0);
        assert_eq!(run(&bytes, &target(Machine::X86_64), 0), Err(want));
    }
    let h = load(R, u64::MAX - 0xfff, 0x40_2000, 0x2000, 0x2000);
    assert_eq!(
        second(h),
        ElfError::Truncated {
            part: Part::Segment(1),
            end: u64::MAX
        }
    );
}

/// The ELF specification: loadable segments ascend by address.
#[test]
fn segments_that_do_not_ascend() {
    let h = load(R, 0x2000, 0x3f_f000, 9, 9);
    assert_eq!(
        second(h),
        ElfError::Unsorted {
            segment: 1,
            addr: 0x3f_f000
        }
    );
}

#[test]
fn overlapping_segments() {
    let overlap = |addr| ElfError::Overlap { segment: 1, addr };
    // By bytes: the same, inside, the last byte.
    assert_eq!(second(load(R, 0, 0x40_0000, 9, 9)), overlap(0x40_0000));
    assert_eq!(second(load(R, 0x1000, 0x40_1000, 9, 9)), overlap(0x40_1000));
    assert_eq!(second(load(R, 0x17ff, 0x40_17ff, 1, 1)), overlap(0x40_17ff));
    // By page, where the file has other bytes for it, or none.
    assert_eq!(second(load(R, 0x2800, 0x40_1800, 9, 9)), overlap(0x40_1000));
    assert_eq!(second(load(R, 0x1800, 0x40_1800, 0, 9)), overlap(0x40_1000));
    // By page, where the first wants zeroes in it.
    let bss = load(R | W, 0, 0x40_0000, 0x1700, 0x1800);
    let file = File::new(Machine::X86_64, &[bss, load(R, 0x1800, 0x40_1800, 9, 9)]);
    assert_eq!(error_of(&file), overlap(0x40_1000));
}

#[test]
fn outside_the_user_range() {
    let at = |addr, mem| error_of(&File::new(Machine::X86_64, &[load(R, 0, addr, 9, mem)]));
    let outside = |addr, len| ElfError::OutsideUser { addr, len };
    assert_eq!(at(0, 9), outside(0, 0x1000));
    assert_eq!(at(0x7fff_ffff_f000, 9), outside(0x7fff_ffff_f000, 0x1000));
    assert_eq!(
        at(0x7fff_ffff_e000, 0x1001),
        outside(0x7fff_ffff_e000, 0x2000)
    );
    assert_eq!(
        at(0xffff_8000_0000_0000, 9),
        outside(0xffff_8000_0000_0000, 0x1000)
    );
    assert_eq!(outside(0, 0).errno(), 12);
}

/// DragonOS#1940: an oversized `PT_LOAD` made the loader panic.
#[test]
fn lesson_26_an_oversized_segment_is_refused() {
    for mem in [1u64 << 47, 1 << 60, (1 << 63) + 5, u64::MAX - (1 << 30)] {
        let len = (mem + 0xfff) & !0xfff;
        for file in [
            File::new(Machine::X86_64, &[load(R | W, 0, 0x40_0000, 0x40, mem)]),
            File::new(Machine::X86_64, &[load(R | W, 0, 0, 0x40, mem)]).relocatable(),
        ] {
            let got = error_of(&file);
            assert!(
                matches!(got, ElfError::OutsideUser { len: l, .. } if l == len),
                "{got}"
            );
        }
    }
}

#[test]
fn alignment_beyond_the_user_range() {
    let h = Ph {
        align: 1 << 62,
        ..load(R | X, 0, 0, 0x80, 0x80)
    };
    let file = File::new(Machine::X86_64, &[h]).relocatable();
    assert_eq!(
        error_of(&file),
        ElfError::OutsideUser {
            addr: 0,
            len: 0x1000
        }
    );
}

/// Returns where a program starts, with an interpreter or without.
fn start(program: &File, interpreter: Option<&File>) -> Result<u64, ElfError> {
    let (program, interpreter_bytes) = (program.bytes(), interpreter.map(File::bytes));
    let target = target(Machine::X86_64);
    let checked = |bytes| {
        let header = Header::parse(bytes, bytes.len() as u64, &target).unwrap();
        header.check(&bytes[64..]).unwrap()
    };
    let program = checked(&program).plan(0).unwrap();
    let interpreter = interpreter_bytes.as_deref().map(checked);
    let interpreter = interpreter.map(|image| image.plan(0x5555_5555_5000).unwrap());
    program.start(interpreter.as_ref())
}

#[test]
fn a_start_above_the_user_range() {
    for entry in [0x7fff_ffff_f000, u64::MAX] {
        let file = File { entry, ..typical() };
        let bad = Err(ElfError::BadEntry { addr: entry });
        assert_eq!(start(&file, None), bad);
        assert_eq!(start(&file, None).unwrap_err().errno(), 22);
    }
    // There it only faults.
    for entry in [0, 0xfff, 0x7fff_ffff_efff] {
        let file = File { entry, ..typical() };
        assert_eq!(start(&file, None), Ok(entry));
    }
}

/// Linux's execve succeeds: only the interpreter knows the program's entry point.
#[test]
fn with_an_interpreter_only_its_own_entry_matters() {
    let wild = File {
        entry: u64::MAX,
        ..typical()
    };
    let good = File {
        entry: 0x40_1234,
        ..typical()
    }
    .relocatable();
    assert_eq!(start(&wild, Some(&good)), Ok(0x5555_5555_6234));
    let bad = Err(ElfError::BadEntry { addr: u64::MAX });
    assert_eq!(start(&typical(), Some(&wild)), bad);
}

#[test]
fn interpreter_path_too_short_or_long() {
    for file in [0, 1, 4097, u64::MAX] {
        let mut elf = typical();
        elf.headers.push(Ph {
            kind: PT_INTERP,
            file,
            ..Ph::default()
        });
        assert_eq!(error_of(&elf), ElfError::InterpreterLength { found: file });
    }
}

#[test]
fn interpreter_path_without_nul() {
    let mut file = typical();
    file.headers.push(Ph {
        kind: PT_INTERP,
        offset: 0x800,
        file: 20,
        ..Ph::default()
    });
    assert_eq!(error_of(&file), ElfError::InterpreterPath);
}

#[test]
fn interpreter_path_beyond_the_file() {
    for offset in [0x100_0000, u64::MAX - 5] {
        let mut file = typical();
        file.headers.push(Ph {
            kind: PT_INTERP,
            offset,
            file: 20,
            ..Ph::default()
        });
        let want = ElfError::Truncated {
            part: Part::Interpreter,
            end: offset.saturating_add(20),
        };
        assert_eq!(error_of(&file), want);
        // EIO, as Linux (tried), so that no shell reads it as a script; EINVAL where
        // there is no such offset.
        let errno = if offset > i64::MAX as u64 { 22 } else { 5 };
        assert_eq!(want.errno(), errno);
    }
}

#[test]
fn a_caller_that_brings_too_little_is_told_how_much() {
    let bytes = typical().bytes();
    let (size, target) = (bytes.len() as u64, target(Machine::X86_64));
    for n in 1..64 {
        let need = if n < 16 { 16 } else { 64 };
        assert_eq!(
            Header::parse(&bytes[..n], size, &target),
            Err(ElfError::ShortBuffer { need })
        );
    }
    let header = Header::parse(&bytes[..64], size, &target).unwrap();
    let got = header.check(&bytes[64..64 + 391]).err();
    assert_eq!(got, Some(ElfError::ShortBuffer { need: 392 }));
}

#[test]
fn errors_say_what_and_where() {
    let text = |e: ElfError| e.to_string();
    let e = ElfError::Truncated {
        part: Part::Segment(3),
        end: 0x1234,
    };
    assert_eq!(text(e), "file ends before segment 3, which ends at 0x1234");
    let e = ElfError::Overlap {
        segment: 2,
        addr: 0x40_1000,
    };
    assert_eq!(text(e), "segment 2 overlaps the one before at 0x401000");
    assert!(size_of::<ElfError>() <= 24, "errors are small");
}
