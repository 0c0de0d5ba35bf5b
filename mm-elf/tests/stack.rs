//! The initial stack, read back as a program's start-up code reads it.

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;

use mm_elf::stack::{ALIGN, PIECE_BYTES};
use mm_elf::{ElfError, ImageFacts, ProcessFacts, Sink, Stack, auxv};
use support::Random;

const TOP: u64 = 0x7fff_ffff_f000;

fn facts(word_bytes: u64) -> ImageFacts {
    ImageFacts {
        phdr: 0x40_0040,
        phent: 56,
        phnum: 7,
        page_bytes: 4096,
        base: 0,
        entry: 0x40_1234,
        word_bytes,
    }
}

fn process() -> ProcessFacts<'static> {
    ProcessFacts {
        uid: [1000, 0],
        gid: [100, 101],
        secure: true,
        random: *b"0123456789abcdef",
        hwcap: [0xbfeb_fbff, 2],
        clock_ticks: 100,
        platform: Some(b"x86_64"),
        path: b"/bin/busybox",
        vdso: None,
    }
}

/// Memory that takes the bytes in ascending order.
#[derive(Default)]
struct Memory {
    start: u64,
    bytes: Vec<u8>,
}

impl Sink for Memory {
    type Error = Infallible;

    fn put(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Infallible> {
        if self.bytes.is_empty() {
            self.start = addr;
        }
        assert_eq!(addr, self.start + self.bytes.len() as u64, "not in order");
        assert!((1..=PIECE_BYTES).contains(&bytes.len()));
        self.bytes.extend(bytes);
        Ok(())
    }
}

impl Memory {
    fn word(&self, addr: u64, width: u64) -> u64 {
        let bytes = &self.bytes[(addr - self.start) as usize..][..width as usize];
        bytes
            .iter()
            .rev()
            .fold(0, |all, &b| all << 8 | u64::from(b))
    }

    fn string(&self, addr: u64) -> &[u8] {
        let rest = &self.bytes[(addr - self.start) as usize..];
        rest.split(|&b| b == 0).next().unwrap()
    }
}

/// What start-up code finds on the stack.
struct Found {
    argv: Vec<Vec<u8>>,
    envp: Vec<Vec<u8>>,
    aux: BTreeMap<u64, u64>,
    memory: Memory,
}

/// Writes a stack and walks it from `sp` up.
fn walk(argv: &[&[u8]], envp: &[&[u8]], process: ProcessFacts<'_>, width: u64, top: u64) -> Found {
    let (argv, envp) = (argv.iter().copied(), envp.iter().copied());
    let stack = Stack {
        argv,
        envp,
        process,
        image: facts(width),
    };
    let image = stack.image(top, 1 << 22).unwrap();
    let mut memory = Memory::default();
    let mut done = 0;
    let Ok(()) = image.write(&mut memory, &mut done);
    assert_eq!(memory.start, image.sp());
    assert_eq!(memory.bytes.len() as u64, image.bytes());
    assert_eq!(memory.start + done, top);
    assert_eq!(image.sp() % ALIGN, 0);

    let mut at = image.sp();
    let mut next = || {
        at += width;
        memory.word(at - width, width)
    };
    let argc = next();
    assert_eq!(argc, image.argc());
    let mut list = || {
        let mut strings = Vec::new();
        loop {
            match next() {
                0 => return strings,
                addr => strings.push(memory.string(addr).to_vec()),
            }
        }
    };
    let (argv, envp) = (list(), list());
    assert_eq!(argv.len() as u64, argc);
    let mut aux = BTreeMap::new();
    loop {
        let (key, value) = (next(), next());
        if key == auxv::AT_NULL {
            assert_eq!(value, 0);
            break;
        }
        assert_eq!(aux.insert(key, value), None, "key {key} twice");
    }
    Found {
        argv,
        envp,
        aux,
        memory,
    }
}

#[test]
fn the_stack_is_as_the_psabi_draws_it() {
    for width in [8, 4] {
        let top = if width == 8 { TOP } else { 0xc000_0000 };
        let (argv, envp) = (
            [&b"sh"[..], b"-c", b"", b"echo hi"],
            [&b"HOME=/"[..], b"A="],
        );
        let found = walk(&argv, &envp, process(), width, top);
        assert_eq!(found.argv, argv);
        assert_eq!(found.envp, envp);
        let aux = |key| found.aux[&key];
        for (key, value) in [
            (auxv::AT_PHDR, 0x40_0040),
            (auxv::AT_PHENT, 56),
            (auxv::AT_PHNUM, 7),
            (auxv::AT_PAGESZ, 4096),
            (auxv::AT_BASE, 0),
            (auxv::AT_FLAGS, 0),
            (auxv::AT_ENTRY, 0x40_1234),
            (auxv::AT_UID, 1000),
            (auxv::AT_EUID, 0),
            (auxv::AT_GID, 100),
            (auxv::AT_EGID, 101),
            (auxv::AT_SECURE, 1),
            (auxv::AT_HWCAP, 0xbfeb_fbff),
            (auxv::AT_HWCAP2, 2),
            (auxv::AT_CLKTCK, 100),
        ] {
            assert_eq!(aux(key), value, "key {key}");
        }
        let memory = &found.memory;
        assert_eq!(memory.string(aux(auxv::AT_EXECFN)), b"/bin/busybox");
        assert_eq!(memory.string(aux(auxv::AT_PLATFORM)), b"x86_64");
        let random = (aux(auxv::AT_RANDOM) - memory.start) as usize;
        assert_eq!(&memory.bytes[random..][..16], b"0123456789abcdef");
        assert_eq!(aux(auxv::AT_RANDOM) % ALIGN, 0);
        assert!(!found.aux.contains_key(&auxv::AT_SYSINFO_EHDR));
        // The drawing, from the top: a zero word, the path, envp, argv.
        let n = width as usize;
        let tail = b"sh\0-c\0\0echo hi\0HOME=/\0A=\0/bin/busybox\0";
        let end = memory.bytes.len() - n;
        assert_eq!(&memory.bytes[end..], &[0; 8][..n]);
        assert_eq!(&memory.bytes[end - tail.len()..end], tail);
    }
}

#[test]
fn optional_facts_may_be_absent_or_there() {
    let bare = ProcessFacts {
        platform: None,
        ..process()
    };
    let found = walk(&[], &[], bare, 8, TOP);
    assert!(found.argv.is_empty() && found.envp.is_empty());
    assert!(!found.aux.contains_key(&auxv::AT_PLATFORM));
    let vdso = ProcessFacts {
        vdso: Some(0x7000_0000),
        ..process()
    };
    assert_eq!(
        walk(&[], &[], vdso, 8, TOP).aux[&auxv::AT_SYSINFO_EHDR],
        0x7000_0000
    );
}

#[test]
fn every_length_of_strings_keeps_the_alignment() {
    for n in 0..70 {
        let (long, many) = (vec![b'x'; n], vec![&b"y"[..]; n]);
        for top in [TOP, TOP - 8, TOP - 1] {
            let found = walk(&[&long], &many, process(), 8, top);
            assert_eq!(found.argv, [long.as_slice()]);
            assert_eq!(found.envp, many);
        }
    }
}

#[test]
fn arguments_that_are_too_big_are_refused_before_a_byte_is_written() {
    let big = vec![b'x'; 1 << 20];
    let try_with = |argv: &[&[u8]], top, limit| {
        let argv = argv.iter().copied();
        let envp = std::iter::empty::<&[u8]>();
        let stack = Stack {
            argv,
            envp,
            process: process(),
            image: facts(8),
        };
        stack.image(top, limit).map(|image| image.bytes())
    };
    let got = try_with(&[&big, &big], TOP, 2 << 20);
    assert!(
        matches!(got, Err(e @ ElfError::ArgumentsTooBig { need }) if need > 2 << 20 && e.errno() == 7)
    );
    assert!(try_with(&[&big], TOP, 2 << 20).is_ok());
    // Many empty strings cost pointers, not bytes.
    let many = vec![&b""[..]; 300_000];
    assert!(try_with(&many, TOP, 2 << 20).is_err());
    // Below the first byte of memory there is nothing.
    assert!(try_with(&[&big], 1 << 20, u64::MAX).is_err());
    assert!(try_with(&[], 0, u64::MAX).is_err());
    let least = try_with(&[], TOP, 4096).unwrap();
    for limit in 0..=4096 {
        match try_with(&[], TOP, limit) {
            Ok(bytes) => assert!(bytes == least && bytes <= limit),
            Err(_) => assert!(limit < least + 3 * ALIGN),
        }
    }
}

/// A sink that must wait again and again.
struct Stubborn {
    memory: Memory,
    random: Random,
}

impl Sink for Stubborn {
    type Error = ();

    fn put(&mut self, addr: u64, bytes: &[u8]) -> Result<(), ()> {
        if self.random.below(3) != 0 {
            return Err(());
        }
        let Ok(()) = self.memory.put(addr, bytes);
        Ok(())
    }
}

#[test]
fn a_sink_that_waits_is_resumed_where_it_stopped() {
    let seed = 0x5eed_0004;
    println!("seed {seed:#x}");
    let strings: Vec<Vec<u8>> = (0..200).map(|n| vec![b'a' + (n % 26) as u8; n]).collect();
    let argv = strings.iter().map(Vec::as_slice);
    let stack = Stack {
        argv: argv.clone(),
        envp: argv,
        process: process(),
        image: facts(8),
    };
    let image = stack.image(TOP, 1 << 20).unwrap();
    let mut whole = Memory::default();
    let Ok(()) = image.write(&mut whole, &mut 0);
    let mut sink = Stubborn {
        memory: Memory::default(),
        random: Random(seed),
    };
    let (mut done, mut tries) = (0, 0);
    while image.write(&mut sink, &mut done).is_err() {
        assert_eq!(done, sink.memory.bytes.len() as u64);
        tries += 1;
    }
    assert!(tries > 100);
    assert_eq!(sink.memory.bytes, whole.bytes);
}
