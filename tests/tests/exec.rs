//! Programs loaded into spaces: lazily, whole, or not at all.

#[path = "../../mm-elf/tests/support/mod.rs"]
mod support;

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::object::Ticket;
use mm_core::prot::Prot;
use mm_core::space::MapRequest;
use mm_core::stats::Counter;
use mm_elf::load::{SpaceSink, Stopped, map_stack, set_heap};
use mm_elf::{Header, ImageFacts, ImageLoad, Machine, Plan, ProcessFacts, Stack};
use mm_testkit::mmu::LongModeWalker;
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{File, Space, World};
use mm_x86_64::{FourLevel, Paging};
use support::properties::target;
use support::{R, W, X, load, typical};

type Format = Paging<FourLevel>;
type X64 = World<Format, LongModeWalker>;

const TOP: u64 = 0x7fff_ffff_e000;

fn world(seed: u64) -> X64 {
    let (format, walker) = (Paging::new(FourLevel), LongModeWalker::new(4));
    World::new(format, walker, 1024, 2, seed)
}

/// A file whose every byte tells where it stands, but for the headers.
fn bytes_of(file: &support::File) -> Vec<u8> {
    let mut bytes = file.bytes();
    for (i, byte) in bytes.iter_mut().enumerate().skip(0x400) {
        *byte = (i / 4096) as u8 ^ (i % 251) as u8 | 1;
    }
    bytes
}

fn with_plan<T>(bytes: &[u8], f: impl FnOnce(&Plan<'_>) -> T) -> T {
    let target = target(Machine::X86_64);
    let header = Header::parse(bytes, bytes.len() as u64, &target).unwrap();
    let table = header.table();
    let image = header.check(&bytes[table.offset as usize..]).unwrap();
    f(&image.plan(0x5555_5555_5000).unwrap())
}

/// What exec does; counts the waits. A program that finds no memory gets none.
fn exec(
    w: &X64,
    space: &Space<Format>,
    file: &File<Format>,
    plan: &Plan<'_>,
) -> Result<(u64, usize), MmError> {
    let mut waits = 0;
    let mut serve = |ticket| match ticket {
        Ticket::Memory(_) => Err(MmError::OutOfMemory),
        ticket => {
            waits += 1;
            w.serve(ticket);
            Ok(())
        }
    };
    let mut image = ImageLoad::new(space, file, plan);
    while let Some(ticket) = image.advance()? {
        serve(ticket)?;
    }
    set_heap(space, plan)?;
    map_stack(space, TOP, 0x4000, plan.stack().prot())?;
    let process = ProcessFacts {
        path: b"/bin/sh",
        ..ProcessFacts::default()
    };
    let args = [&b"sh"[..], b"-c"];
    let stack = Stack {
        argv: args.iter().copied(),
        envp: std::iter::empty(),
        process,
        image: ImageFacts::new(plan, None),
    };
    let stack = stack.image(TOP, 1 << 20).unwrap();
    let mut done = 0;
    loop {
        match stack.write(&mut SpaceSink(space), &mut done) {
            Ok(()) => return Ok((stack.sp(), waits)),
            Err(Stopped::Wait(ticket)) => serve(ticket)?,
            Err(Stopped::Error(error)) => return Err(error),
        }
    }
}

/// Every byte of every segment is the file's, or zero; the rest of the last
/// page is zero too; and only one page of the file was read to get there.
#[test]
fn a_program_is_mapped_and_only_its_bss_page_is_read() {
    let w = world(1);
    let bytes = bytes_of(&typical());
    let file = w.file(1, &bytes);
    let space = w.space();
    with_plan(&bytes, |plan| {
        let (sp, waits) = on_cpu(0, || exec(&w, &space, &file, plan)).unwrap();
        assert_eq!(waits, 1, "the page where the bss begins");
        assert_eq!(w.mm().stats().get(Counter::CacheRead), 1);
        assert_eq!(space.brk(None).as_usize() as u64, plan.brk());
        let mut word = [0; 8];
        w.load(0, &space, sp as usize, &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), 2, "argc");
        for segment in plan.image().segments() {
            let len = (segment.mem_bytes as usize).min(0x9000);
            let mut got = vec![0xaa; len];
            w.load(0, &space, segment.addr as usize, &mut got).unwrap();
            for (i, byte) in got.into_iter().enumerate() {
                let want = match i < segment.file.len as usize {
                    true => bytes[segment.file.offset as usize + i],
                    false => 0,
                };
                assert_eq!(byte, want, "{i:#x} of {segment:x?}");
            }
        }
        assert_eq!(w.peek(0, &space, plan.brk() as usize - 1), Ok(0));
        let text = space.find(VirtAddr::new(0x40_1000)).unwrap();
        assert_eq!(text.prot(), Prot::RX);
    });
    drop((space, file));
    w.assert_empty();
}

/// Stores of a program never reach the file.
#[test]
fn the_zeroed_tail_is_the_programs_own() {
    let w = world(2);
    let bytes = bytes_of(&typical());
    let file = w.file(1, &bytes);
    let space = w.space();
    with_plan(&bytes, |plan| {
        on_cpu(0, || exec(&w, &space, &file, plan)).map(|_| ())
    })
    .unwrap();
    let mut cached = vec![0; 0x100];
    let at = 0xc_17b0 + 0x5ae0 - 0x80;
    assert_eq!(file.read(at, &mut cached).done, bytes.len() - at as usize);
    assert_eq!(cached[..0x80], bytes[at as usize..][..0x80]);
    drop((space, file));
    w.assert_empty();
}

#[test]
fn a_read_only_bss_is_zero_and_read_only() {
    let w = world(3);
    let headers = [
        load(R | X, 0x1000, 0x40_1000, 0x10, 0x3000),
        load(W, 0x2000, 0x40_5000, 9, 10),
    ];
    let bytes = bytes_of(&support::File {
        size: 0x4000,
        ..support::File::new(Machine::X86_64, &headers)
    });
    let file = w.file(1, &bytes);
    let space = w.space();
    with_plan(&bytes, |plan| {
        on_cpu(0, || exec(&w, &space, &file, plan)).map(|_| ())
    })
    .unwrap();
    assert_eq!(w.peek(0, &space, 0x40_100f), Ok(bytes[0x100f]));
    assert_eq!(w.peek(0, &space, 0x40_1010), Ok(0));
    assert_eq!(w.peek(0, &space, 0x40_3fff), Ok(0));
    assert!(w.poke(0, &space, 0x40_1010, 1).is_err());
    assert_eq!(
        space.find(VirtAddr::new(0x40_1000)).unwrap().prot(),
        Prot::RX
    );
    drop((space, file));
    w.assert_empty();
}

#[test]
fn an_image_replaces_nothing_that_is_there() {
    let w = world(4);
    let bytes = bytes_of(&typical());
    let file = w.file(1, &bytes);
    let space = w.space();
    let there = VirtAddr::new(0x4c_9000);
    space
        .map(&MapRequest::anonymous(4096, Prot::RW).fixed(there))
        .unwrap();
    with_plan(&bytes, |plan| {
        let got = on_cpu(0, || exec(&w, &space, &file, plan));
        assert_eq!(got.err().map(MmError::errno), Some(17));
    });
    drop((space, file));
    w.assert_empty();
}

/// C1: exec with every one of its allocations failing. Whatever fails, the
/// space is dropped and nothing is left.
#[test]
fn c1_a_load_that_runs_out_of_memory_leaves_nothing() {
    let w = world(5);
    let bytes = bytes_of(&typical());
    let mut failures = 0;
    for nth in 1.. {
        let file = w.file_again(1, &bytes);
        let space = w.space();
        w.platform().fail_nth(nth);
        let got = with_plan(&bytes, |plan| on_cpu(0, || exec(&w, &space, &file, plan)));
        w.platform().fail_none();
        failures += usize::from(got.is_err());
        drop((space, file));
        w.assert_empty();
        // Far past the last allocation.
        if nth > 100 {
            assert!(got.is_ok());
            break;
        }
    }
    assert!(failures > 5, "{failures} failures");
}
