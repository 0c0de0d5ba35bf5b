//! Files that are cut or scribbled over anywhere: an error or a sound plan, never a panic.

mod support;

use mm_elf::{ElfError, Part};
use support::properties::{MACHINES, any_bytes, load as run, target};
use support::{Random, typical};

const BASE: u64 = 0x5555_5555_5000;

/// A cut program is refused, and the error says which part is missing: the
/// first one that ends past the cut.
fn check_cut(bytes: &[u8], cut: usize) {
    let file = &bytes[..cut];
    let got = run(file, &target(mm_elf::Machine::X86_64), BASE);
    let (size, table) = (cut as u64, 64 + 7 * 56);
    match got {
        Err(ElfError::NotElf) => assert_eq!(cut, 0, "cut at {cut:#x}"),
        Err(ElfError::Truncated { part, end }) => {
            assert!(end > size, "cut at {cut:#x}: {part} ends at {end:#x}");
            match part {
                Part::Header => assert!(size < 64, "cut at {cut:#x}"),
                Part::Table => assert!((64..table).contains(&size), "cut at {cut:#x}"),
                Part::Segment(_) => assert!(size >= table, "cut at {cut:#x}"),
                Part::Interpreter => panic!("there is none: cut at {cut:#x}"),
            }
        }
        other => panic!("cut at {cut:#x}: {other:?}"),
    }
}

/// A program as large as Debian's static busybox.
#[test]
fn cut_at_every_byte_of_the_first_64_kib() {
    let bytes = typical().bytes();
    for cut in 0..=0x1_0000 {
        check_cut(&bytes, cut);
    }
}

#[test]
fn a_thousand_seeded_cuts_of_the_rest() {
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    let (bytes, mut random) = (typical().bytes(), Random(seed));
    for _ in 0..1000 {
        check_cut(&bytes, random.below(bytes.len() as u64) as usize);
    }
    check_cut(&bytes, bytes.len() - 1);
    assert!(run(&bytes, &target(mm_elf::Machine::X86_64), BASE).is_ok());
}

/// Fields of the headers take values that tend to hurt.
#[test]
fn twenty_thousand_seeded_scribbles() {
    let seed = 0x5eed_0002;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    // The headers are what is read: a small file takes the same paths.
    let whole = typical().relocatable().bytes();
    let mut seen = [0u32; 2];
    for round in 0..20_000 {
        let mut bytes = whole.clone();
        if round % 2 == 0 {
            bytes[16] = 2;
        }
        for _ in 0..=random.below(3) {
            let at = random.below((64 + 7 * 56) / 2) as usize * 2;
            let old = u64::from_le_bytes(bytes[at..][..8].try_into().unwrap());
            let value = match random.below(6) {
                0 => 0,
                1 => u64::MAX - random.below(0x2000),
                2 => 1 << random.below(64),
                3 => old.wrapping_add(random.below(0x3000)).wrapping_sub(0x1800),
                4 => old ^ 1 << random.below(64),
                _ => random.next(),
            };
            let width = [1, 2, 4, 8][random.below(4) as usize];
            bytes[at..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let got = run(&bytes, &target(mm_elf::Machine::X86_64), BASE);
        seen[usize::from(got.is_ok())] += 1;
    }
    // Both outcomes are common, or the test tests nothing.
    assert!(seen.iter().all(|&n| n > 1000), "{seen:?}");
}

/// The body of the fuzz target, on seeded input: random headers on every machine.
#[test]
fn the_fuzz_body_on_seeded_input() {
    let seed = 0x5eed_0003;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for round in 0..20_000 {
        let machine = MACHINES[round % MACHINES.len()];
        let pick = (round % MACHINES.len()) as u8 | (random.next() as u8 & 0x80);
        let mut input = vec![pick];
        input.extend(random.next().to_le_bytes());
        let mut headers = Vec::new();
        let mut addr = random.below(64) << 12;
        for _ in 0..random.below(9) {
            addr = addr.wrapping_add(random.next() >> (20 + random.below(44)));
            let offset = random.below(0x4000) & !0xfff | addr & 0xfff;
            let file = random.below(0x800);
            headers.push(support::Ph {
                kind: [1, 1, 1, 1, 1, 1, 3, 0x6474_e551][random.below(8) as usize],
                flags: random.next() as u32,
                offset,
                addr,
                file,
                mem: file + (random.next() >> (24 + random.below(40))),
                align: 1 << random.below(22),
            });
            addr = addr.wrapping_add(random.below(0x2000));
        }
        let mut file = support::File::new(machine, &headers);
        if random.below(2) == 0 {
            file = file.relocatable();
        }
        input.extend(file.bytes());
        any_bytes(&input);
    }
    for len in 0..300 {
        let mut input: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        any_bytes(&input);
        if len > 13 {
            input[9..13].copy_from_slice(b"\x7fELF");
            any_bytes(&input);
        }
    }
}
