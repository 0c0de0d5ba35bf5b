//! Plans of this machine's own programs, compared with what its Linux did.
#![cfg(all(target_os = "linux", target_endian = "little"))]

mod support;

use mm_core::prot::Prot;
use mm_elf::segment::interpreter_path;
use mm_elf::{Header, ImageFacts, ImageKind, Machine, StepKind, Target, auxv};
use support::properties::{load as run, target};

fn host() -> Option<Target> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => Machine::X86_64,
        "aarch64" => Machine::Aarch64,
        "riscv64" => Machine::Riscv64,
        _ => return None,
    };
    let mut target = target(machine);
    let page = own_auxv(auxv::AT_PAGESZ).expect("Linux tells the page size");
    target.page_shift = page.trailing_zeros();
    target.user = page..1 << 56;
    Some(target)
}

fn own_auxv(key: u64) -> Option<u64> {
    let bytes = std::fs::read("/proc/self/auxv").ok()?;
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|w| u64::from_le_bytes(w.try_into().unwrap()))
        .collect();
    words
        .chunks_exact(2)
        .find(|pair| pair[0] == key)
        .map(|pair| pair[1])
}

/// A line of /proc/self/maps that maps this file: range, rights, offset.
fn own_maps(path: &str) -> Vec<(u64, u64, Prot, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (range, rights, offset) = (words.next()?, words.next()?, words.next()?);
            if words.nth(2)? != path {
                return None;
            }
            let (start, end) = range.split_once('-')?;
            let prot = rights.chars().fold(Prot::NONE, |all, c| match c {
                'r' => all | Prot::READ,
                'w' => all | Prot::WRITE,
                'x' => all | Prot::EXEC,
                _ => all,
            });
            Some((hex(start), hex(end), prot, hex(offset)))
        })
        .collect()
}

/// Every page that Linux maps of this program is mapped by the plan, at the
/// same address, from the same offset, with the same rights (but those that
/// RELRO took away later), and the vector says the same.
#[test]
fn the_plan_of_this_test_is_what_linux_made_of_it() {
    let Some(target) = host() else { return };
    let exe = std::env::current_exe().unwrap();
    let bytes = std::fs::read(&exe).unwrap();
    let lines = own_maps(exe.to_str().unwrap());
    assert!(lines.len() >= 2, "{lines:x?}");

    let header = Header::parse(&bytes[..64], bytes.len() as u64, &target).unwrap();
    let image = header
        .check(&bytes[header.table().offset as usize..])
        .unwrap();
    let base = lines[0].0;
    assert!(run(&bytes, &target, base).is_ok());
    let plan = image.plan(base).unwrap();
    assert_eq!(plan.range().start, base);

    let page = target.page_size();
    let mut pages = 0;
    for &(start, end, prot, offset) in &lines {
        for addr in (start..end).step_by(page as usize) {
            let step = plan
                .steps()
                .find(|s| s.addr <= addr && addr - s.addr < s.len)
                .unwrap();
            let StepKind::File { offset: first } = step.kind else {
                panic!("{addr:#x} is the file's for Linux: {step:x?}")
            };
            assert_eq!(
                first + (addr - step.addr),
                offset + (addr - start),
                "{addr:#x}"
            );
            let relro = prot == Prot::READ && step.prot == Prot::RW;
            assert!(step.prot == prot || relro, "{addr:#x}: {prot} or {step:x?}");
            pages += 1;
        }
    }
    let planned: u64 = plan
        .steps()
        .filter(|s| matches!(s.kind, StepKind::File { .. }))
        .map(|s| s.len / page)
        .sum();
    assert_eq!(planned, pages);

    let facts = ImageFacts::new(&plan, None);
    assert_eq!(own_auxv(auxv::AT_ENTRY), Some(facts.entry));
    assert_eq!(own_auxv(auxv::AT_PHDR), Some(facts.phdr));
    assert_eq!(own_auxv(auxv::AT_PHENT), Some(facts.phent));
    assert_eq!(own_auxv(auxv::AT_PHNUM), Some(facts.phnum));
}

/// The interpreter of this test, if it has one, is a relocatable image
/// without an interpreter, and stands at its own bias in this process.
#[test]
fn the_interpreter_of_this_test_loads_too() {
    let Some(target) = host() else { return };
    let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let header = Header::parse(&bytes, bytes.len() as u64, &target).unwrap();
    let image = header
        .check(&bytes[header.table().offset as usize..])
        .unwrap();
    let Some(at) = image.interpreter() else {
        return;
    };
    let path = interpreter_path(&bytes[at.offset as usize..][..at.len as usize]).unwrap();
    let path = std::path::Path::new(std::str::from_utf8(path).unwrap())
        .canonicalize()
        .unwrap();

    let bytes = std::fs::read(&path).unwrap();
    let base = own_auxv(auxv::AT_BASE).unwrap();
    assert!(run(&bytes, &target, base).is_ok());
    let header = Header::parse(&bytes, bytes.len() as u64, &target).unwrap();
    let image = header
        .check(&bytes[header.table().offset as usize..])
        .unwrap();
    assert_eq!(image.interpreter(), None);
    assert_eq!(header.kind(), ImageKind::Relocatable);
    let plan = image.plan(base).unwrap();
    assert_eq!(plan.bias(), base);
    let lines = own_maps(path.to_str().unwrap());
    assert_eq!(lines[0].0, plan.range().start);
}

/// Whatever programs this machine has: all of them get a plan.
#[test]
fn programs_of_this_machine_all_get_a_plan() {
    let Some(target) = host() else { return };
    let mut count = 0;
    for dir in ["/bin", "/sbin"] {
        let Ok(entries) = std::fs::read_dir(dir) else {
            continue;
        };
        for path in entries.flatten().map(|e| e.path()).take(300) {
            let Ok(bytes) = std::fs::read(&path) else {
                continue;
            };
            if !bytes.starts_with(b"\x7fELF")
                || bytes.get(18) != Some(&target.machine.number().to_le_bytes()[0])
            {
                continue;
            }
            let got = run(&bytes, &target, 0x5555_5555_0000);
            assert!(got.is_ok(), "{}: {got:?}", path.display());
            count += 1;
        }
    }
    println!("{count} programs");
}
