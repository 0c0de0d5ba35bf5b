//! The life of an address space, on the host, with pictures in text.
//!
//! A machine of 8 MiB is simulated: RAM, a software MMU that walks the real
//! page-table words as an x86-64 CPU does, and TLBs that forget nothing until
//! they are told. Everything below goes through the library's public API, as a
//! kernel's trap handlers and system calls would.

use mm_core::addr::{VirtAddr, Vpn};
use mm_core::error::MmError;

use mm_core::prot::Prot;
use mm_core::space::{MapFlags, MapRequest};
use mm_core::stats::Counter;
use mm_testkit::mmu::LongModeWalker;
use mm_testkit::world::{Space, World};
use mm_x86_64::{FourLevel, Paging};

type Format = Paging<FourLevel>;
type Machine = World<Format, LongModeWalker>;

const PAGE: usize = 1 << PAGE_SHIFT;
const PAGE_SHIFT: u32 = 12;

fn main() -> Result<(), MmError> {
    let machine: Machine = World::new(Paging::new(FourLevel), LongModeWalker::new(4), 2048, 2, 1);
    let mm = machine.mm();
    let boot = mm.frames().free_frames();

    title("A space is a root table and nothing else");
    let space = machine.space();
    show(&machine, &space, 0);
    println!("frames in use: {}", boot - mm.frames().free_frames());

    title("map: an area, but no page");
    let heap = space.map(&MapRequest::anonymous(8 * PAGE, Prot::RW))?;
    show(&machine, &space, heap.as_usize());

    title("A load gets the zero page, a store a page of its own");
    access(machine.peek(0, &space, heap.as_usize()));
    access(machine.poke(0, &space, heap.as_usize() + 2 * PAGE, 7));
    access(machine.poke(0, &space, heap.as_usize() + 3 * PAGE, 8));
    show(&machine, &space, heap.as_usize());

    title("A file is read when it is touched, and its neighbours come along");
    let text: Vec<u8> = (0..6 * PAGE).map(|i| (i / PAGE) as u8).collect();
    let file = machine.file(42, &text);
    let mapped = space.map(&MapRequest::private(&file, 0, 6 * PAGE, Prot::RW))?;
    for page in 0..6 {
        access(machine.peek(0, &space, mapped.as_usize() + page * PAGE));
    }
    println!("reads waited for: {}", mm.stats().get(Counter::FaultWait));
    let other = machine.space();
    let there = other.map(&MapRequest::private(&file, 0, 6 * PAGE, Prot::READ))?;
    access(machine.peek(1, &other, there.as_usize()));
    show(&machine, &other, there.as_usize());
    drop(other);

    title("protect splits areas; protecting back merges them");
    let middle = VirtAddr::new(heap.as_usize() + 2 * PAGE);
    space.protect(middle, 2 * PAGE, Prot::NONE)?;
    show(&machine, &space, heap.as_usize());
    space.protect(middle, 2 * PAGE, Prot::RW)?;
    show(&machine, &space, heap.as_usize());

    title("fork: the same frames, write-protected in both");
    let before = mm.frames().free_frames();
    let child = space.fork()?;
    println!(
        "frames that fork took: {} (tables and nodes)",
        before - mm.frames().free_frames()
    );
    show(&machine, &child, heap.as_usize());

    title("The first store copies, the last owner reuses");
    access(machine.poke(1, &child, middle.as_usize(), 70));
    access(machine.poke(0, &space, middle.as_usize(), 71));
    println!(
        "copies: {}, reuses: {}; the child reads {}, the parent {}",
        mm.stats().get(Counter::CowCopy),
        mm.stats().get(Counter::CowReuse),
        byte(machine.peek(1, &child, middle.as_usize())),
        byte(machine.peek(0, &space, middle.as_usize())),
    );
    show(&machine, &child, heap.as_usize());

    title("A stack grows down, and stops at its guard");
    let top = 0x7000_0000_0000;
    let stack = MapRequest::anonymous(PAGE, Prot::RW)
        .fixed(VirtAddr::new(top - PAGE))
        .with(MapFlags::GROWS_DOWN);
    space.map(&stack)?;
    access(machine.poke(0, &space, top - 5 * PAGE, 1));
    println!("{}", space.maps());
    println!(
        "far below it: {:?}",
        machine.peek(0, &space, top - (64 << 20))
    );

    title("The end: every frame is free again");
    drop((space, child, file));
    machine.assert_empty();
    println!(
        "free frames: {} of {boot} at boot",
        mm.frames().free_frames()
    );
    println!("\nwhat happened:\n{}", mm.stats());
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn access<T>(result: Result<T, mm_testkit::world::Stopped>) {
    if let Err(stopped) = result {
        println!("   stopped: {stopped:?}");
    }
}

fn byte(result: Result<u8, mm_testkit::world::Stopped>) -> u8 {
    result.unwrap_or(0)
}

/// Draws the areas, and eight pages from `from` on: what each entry says.
///
/// `-` empty, `r`/`w` readable or writable leaf, `z` the zero page, `n` kept
/// but not allowed.
fn show(machine: &Machine, space: &Space<Format>, from: usize) {
    print!("{}", space.maps());
    if from == 0 {
        return;
    }
    let first = VirtAddr::new(from).vpn(PAGE_SHIFT);
    let pages: String = (0..8)
        .map(|i| picture(machine, space, first.saturating_add(i)))
        .collect();
    println!("   {from:#x} [{pages}]");
}

fn picture(machine: &Machine, space: &Space<Format>, page: Vpn) -> char {
    match space.entry(page) {
        mm_core::format::Entry::Leaf { pfn, .. }
            if machine.mm().frames().zero_page() == Some(pfn) =>
        {
            'z'
        }
        mm_core::format::Entry::Leaf { attrs, .. } if attrs.prot.contains(Prot::WRITE) => 'w',
        mm_core::format::Entry::Leaf { .. } => 'r',
        mm_core::format::Entry::NonPresent(_) => 'n',
        _ => '-',
    }
}
