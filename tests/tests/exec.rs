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
use mm_elf::{Header, ImageFacts, ImageLoad, Machine as Isa, Plan, ProcessFacts, Stack, Target};
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{File, Space, World};
use support::{R, W, X, load, typical};

fn world(machine: &Machine, seed: u64) -> World {
    machine.world(1024, 2, seed)
}

/// Returns whose programs a machine runs; `None`, and says so, where mm-elf
/// knows none.
fn isa(machine: &Machine) -> Option<Isa> {
    let known = [
        ("x86_64", Isa::X86_64),
        ("aarch64", Isa::Aarch64),
        ("armv7", Isa::Arm),
        ("sv32", Isa::Riscv32),
        ("sv", Isa::Riscv64),
        // A machine of no maker runs anybody's.
        ("tiny", Isa::Riscv64),
    ];
    let found = known
        .iter()
        .find(|(name, _)| machine.name.starts_with(name));
    if found.is_none() {
        machine.skip("mm-elf has no target for it");
    }
    found.map(|(_, isa)| *isa)
}

/// Two pages below the end of user space.
fn top(machine: &Machine) -> u64 {
    (machine.user_end() - 2 * machine.page_size()) as u64
}

/// Returns a place in a file of pages of 4 KiB as it is where pages are larger.
fn scaled(place: u64, page: u64) -> u64 {
    (place & !0xfff) / 4096 * page + (place & 0xfff)
}

/// The typical program, as a linker makes it for a machine.
fn program(machine: &Machine, isa: Isa) -> support::File {
    let page = machine.page_size() as u64;
    let typical = typical();
    let header = |h: &support::Ph| support::Ph {
        offset: scaled(h.offset, page),
        addr: scaled(h.addr, page),
        file: scaled(h.file, page),
        mem: scaled(h.mem, page),
        align: if h.align == 0x1000 { page } else { h.align },
        ..*h
    };
    let headers: Vec<_> = typical.headers.iter().map(header).collect();
    support::File {
        entry: scaled(typical.entry, page),
        ..support::File::new(isa, &headers)
    }
}

/// A file whose every byte tells where it stands, but for the headers.
fn bytes_of(file: &support::File) -> Vec<u8> {
    let mut bytes = file.bytes();
    for (i, byte) in bytes.iter_mut().enumerate().skip(0x400) {
        *byte = (i / 4096) as u8 ^ (i % 251) as u8 | 1;
    }
    bytes
}

fn with_plan<T>(machine: &Machine, isa: Isa, bytes: &[u8], f: impl FnOnce(&Plan<'_>) -> T) -> T {
    let page = machine.page_size();
    let target = Target {
        machine: isa,
        page_shift: page.ilog2(),
        user: page as u64..machine.user_end() as u64,
    };
    let header = Header::parse(bytes, bytes.len() as u64, &target).unwrap();
    let table = header.table();
    let image = header.check(&bytes[table.offset as usize..]).unwrap();
    f(&image.plan(0x10000 * page as u64).unwrap())
}

/// What exec does; counts the waits. A program that finds no memory gets none.
fn exec(
    machine: &Machine,
    w: &World,
    space: &Space,
    file: &File,
    plan: &Plan<'_>,
) -> Result<(u64, usize), MmError> {
    let mut waits = 0;
    let mut serve = |ticket| match ticket {
        Ticket::Memory(_) => Err(MmError::OutOfMemory),
        ticket => {
            waits += 1;
            // The page at its name is what cannot be had.
            w.serve(ticket)
                .map_err(|_| MmError::Fault(VirtAddr::new(0)))
        }
    };
    let mut image = ImageLoad::new(space, file, plan);
    while let Some(ticket) = image.advance()? {
        serve(ticket)?;
    }
    set_heap(space, plan)?;
    let top = top(machine);
    map_stack(
        space,
        top,
        4 * machine.page_size() as u64,
        plan.stack().prot(),
    )?;
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
    let stack = stack.image(top, 1 << 20).unwrap();
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
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 1);
        let Some(isa) = isa(machine) else { return };
        let bytes = bytes_of(&program(machine, isa));
        let file = w.file(1, &bytes);
        let space = w.space();
        with_plan(machine, isa, &bytes, |plan| {
            let (sp, waits) = on_cpu(0, || exec(machine, &w, &space, &file, plan)).unwrap();
            assert_eq!(waits, 1, "the page where the bss begins");
            assert_eq!(w.mm().stats().get(Counter::CacheRead), 1);
            assert_eq!(space.brk(None).as_usize() as u64, plan.brk());
            let mut word = [0; 8];
            let argc = &mut word[..isa.word_bytes() as usize];
            w.load(0, &space, sp as usize, argc).unwrap();
            assert_eq!(u64::from_le_bytes(word), 2, "argc");
            for segment in plan.image().segments() {
                let len = (segment.mem_bytes as usize).min(9 * page);
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
            let text = space.find(VirtAddr::new(0x401 * page)).unwrap();
            assert_eq!(text.prot(), Prot::RX);
        });
        drop((space, file));
        w.assert_empty();
    });
}

/// Stores of a program never reach the file.
#[test]
fn the_zeroed_tail_is_the_programs_own() {
    on_every_machine(|machine| {
        let w = world(machine, 2);
        let Some(isa) = isa(machine) else { return };
        let bytes = bytes_of(&program(machine, isa));
        let file = w.file(1, &bytes);
        let space = w.space();
        with_plan(machine, isa, &bytes, |plan| {
            on_cpu(0, || exec(machine, &w, &space, &file, plan)).map(|_| ())
        })
        .unwrap();
        let mut cached = vec![0; 0x100];
        let page = machine.page_size() as u64;
        let at = scaled(0xc_17b0, page) + scaled(0x5ae0, page) - 0x80;
        assert_eq!(file.read(at, &mut cached).done, bytes.len() - at as usize);
        assert_eq!(cached[..0x80], bytes[at as usize..][..0x80]);
        drop((space, file));
        w.assert_empty();
    });
}

#[test]
fn a_read_only_bss_is_zero_and_read_only() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 3);
        let Some(isa) = isa(machine) else { return };
        let p = page as u64;
        let load = |flags, offset, addr, file, mem| support::Ph {
            align: p,
            ..load(flags, offset, addr, file, mem)
        };
        let headers = [
            load(R | X, p, 0x401 * p, 0x10, 3 * p),
            load(W, 2 * p, 0x405 * p, 9, 10),
        ];
        let bytes = bytes_of(&support::File {
            size: 4 * page,
            ..support::File::new(isa, &headers)
        });
        let file = w.file(1, &bytes);
        let space = w.space();
        with_plan(machine, isa, &bytes, |plan| {
            on_cpu(0, || exec(machine, &w, &space, &file, plan)).map(|_| ())
        })
        .unwrap();
        assert_eq!(w.peek(0, &space, 0x401 * page + 15), Ok(bytes[page + 15]));
        assert_eq!(w.peek(0, &space, 0x401 * page + 16), Ok(0));
        assert_eq!(w.peek(0, &space, 0x404 * page - 1), Ok(0));
        assert!(w.poke(0, &space, 0x401 * page + 16, 1).is_err());
        assert_eq!(
            space.find(VirtAddr::new(0x401 * page)).unwrap().prot(),
            Prot::RX
        );
        drop((space, file));
        w.assert_empty();
    });
}

#[test]
fn an_image_replaces_nothing_that_is_there() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 4);
        let Some(isa) = isa(machine) else { return };
        let bytes = bytes_of(&program(machine, isa));
        let file = w.file(1, &bytes);
        let space = w.space();
        let there = VirtAddr::new(0x4c9 * page);
        space
            .map(&MapRequest::anonymous(page, Prot::RW).fixed(there))
            .unwrap();
        with_plan(machine, isa, &bytes, |plan| {
            let got = on_cpu(0, || exec(machine, &w, &space, &file, plan));
            assert_eq!(got.err().map(MmError::errno), Some(17));
        });
        drop((space, file));
        w.assert_empty();
    });
}

/// C1: exec with every one of its allocations failing. Whatever fails, the
/// space is dropped and nothing is left.
#[test]
fn c1_a_load_that_runs_out_of_memory_leaves_nothing() {
    on_every_machine(|machine| {
        let w = world(machine, 5);
        let Some(isa) = isa(machine) else { return };
        let bytes = bytes_of(&program(machine, isa));
        let mut failures = 0;
        for nth in 1.. {
            let file = w.file_again(1, &bytes);
            let space = w.space();
            w.platform().fail_nth(nth);
            let got = with_plan(machine, isa, &bytes, |plan| {
                on_cpu(0, || exec(machine, &w, &space, &file, plan))
            });
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
    });
}

/// Exec with every one of its reads failing: it says so, nothing is left of the
/// space, and the next try reads the page again.
#[test]
fn a_load_whose_reads_fail_leaves_nothing() {
    on_every_machine(|machine| {
        let w = world(machine, 6);
        let Some(isa) = isa(machine) else { return };
        let bytes = bytes_of(&program(machine, isa));
        let file = w.file(1, &bytes);
        let mut failures = 0;
        for nth in 1.. {
            let space = w.space();
            let run = || {
                with_plan(machine, isa, &bytes, |plan| {
                    on_cpu(0, || exec(machine, &w, &space, &file, plan))
                })
            };
            w.platform().fail_transfer(nth);
            let got = run();
            let transfers = w.platform().fail_no_transfer();
            if transfers < nth {
                assert!(got.is_ok());
                break;
            }
            assert_eq!(got, Err(MmError::Fault(VirtAddr::new(0))));
            failures += 1;
            assert_eq!(file.object().cached_pages() as u64, nth - 1);
            drop(space);
        }
        assert!(failures > 0);
        drop(file);
        w.assert_empty();
    });
}
