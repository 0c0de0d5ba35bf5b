//! Memory calls with every kind of bad argument, and bad accesses, with the kernel's answers.
//!
//! What this prints depends on nothing but the kernel's answers, so a run on Linux is the oracle
//! for a run elsewhere. Cases whose answer depends on the machine (its memory, its limits, its
//! user) are left out on purpose.
#![no_std]
#![no_main]

use programs::{
    ANONYMOUS, BASE, EXEC, FIXED, FIXED_NOREPLACE, HOLE, KERNEL, PAGE, PRIVATE, READ, RETURN,
    SHARED, Start, TOP, WRITE, Word, call, call3, in_child, mmap, nr, open, pipe, run, say, start,
    sync_code,
};

start!(main);

/// Bytes from [`BASE`] on in which the program looks for what it mapped.
const SPAN: usize = 1 << 30;
const NONE: usize = usize::MAX;
const ANON: usize = PRIVATE | ANONYMOUS;

fn main(start: Start) -> usize {
    let file = open(start.argument(0)).unwrap_or(NONE);
    let directory = open(c"/".as_ptr().addr()).unwrap_or(NONE);
    maps(file, directory);
    unmaps();
    remaps(file);
    protections(file);
    breaks();
    advice();
    accesses(file);
    contents(file);
    0
}

fn show(name: &str, answer: Result<usize, usize>) {
    match answer {
        Ok(value) if (BASE..BASE + SPAN).contains(&value) => {
            say!("{name}: base+{:#x}", value - BASE)
        }
        Ok(0) => say!("{name}: 0"),
        Ok(_) => say!("{name}: some address"),
        Err(errno) => say!("{name}: errno {errno}"),
    }
}

fn map(name: &str, args: [usize; 6]) {
    show(name, mmap(args));
}

/// Maps `pages` at `BASE + at` pages, and dies when that fails.
fn lay(at: usize, pages: usize, prot: usize) {
    let args = [BASE + at * PAGE, pages * PAGE, prot, ANON | FIXED, NONE, 0];
    if mmap(args).is_err() {
        say!("cannot map at {at}");
    }
}

fn clear() {
    let _ = call3(nr::MUNMAP, BASE, SPAN, 0);
}

fn maps(file: usize, directory: usize) {
    map("mmap good", [BASE, PAGE, READ, ANON | FIXED, NONE, 0]);
    map(
        "mmap noreplace over it",
        [BASE, PAGE, READ, ANON | FIXED_NOREPLACE, NONE, 0],
    );
    map(
        "mmap noreplace beside it",
        [BASE + PAGE, PAGE, READ, ANON | FIXED_NOREPLACE, NONE, 0],
    );
    map("mmap length 0", [BASE, 0, READ, ANON | FIXED, NONE, 0]);
    map("mmap length 1", [BASE, 1, READ, ANON | FIXED, NONE, 0]);
    map("mmap length max", [0, usize::MAX, READ, ANON, NONE, 0]);
    map(
        "mmap length max, page aligned",
        [0, usize::MAX & !(PAGE - 1), READ, ANON, NONE, 0],
    );
    map(
        "mmap length of the whole space",
        [0, TOP + PAGE, READ, ANON, NONE, 0],
    );
    map(
        "mmap fixed at an odd address",
        [BASE + 1, PAGE, READ, ANON | FIXED, NONE, 0],
    );
    map(
        "mmap fixed at the top",
        [TOP, PAGE, READ, ANON | FIXED, NONE, 0],
    );
    map(
        "mmap fixed over the top",
        [TOP - PAGE, 2 * PAGE, READ, ANON | FIXED, NONE, 0],
    );
    map(
        "mmap fixed in the kernel",
        [KERNEL, PAGE, READ, ANON | FIXED, NONE, 0],
    );
    map(
        "mmap fixed, wrapping",
        [
            usize::MAX & !(PAGE - 1),
            2 * PAGE,
            READ,
            ANON | FIXED,
            NONE,
            0,
        ],
    );
    map(
        "mmap hint at an odd address",
        [BASE + 9 * PAGE + 5, PAGE, READ, ANON, NONE, 0],
    );
    map(
        "mmap hint in the kernel",
        [KERNEL, PAGE, READ, ANON, NONE, 0],
    );
    map(
        "mmap neither shared nor private",
        [BASE, PAGE, READ, ANONYMOUS | FIXED, NONE, 0],
    );
    map(
        "mmap shared and private",
        [BASE, PAGE, READ, SHARED | ANON | FIXED, NONE, 0],
    );
    map("mmap file -1", [BASE, PAGE, READ, PRIVATE | FIXED, NONE, 0]);
    map("mmap file 99", [BASE, PAGE, READ, PRIVATE | FIXED, 99, 0]);
    map(
        "mmap file, odd offset",
        [BASE, PAGE, READ, PRIVATE | FIXED, file, 1],
    );
    map(
        "mmap file, offset wraps",
        [
            BASE,
            2 * PAGE,
            READ,
            PRIVATE | FIXED,
            file,
            usize::MAX & !(PAGE - 1),
        ],
    );
    map(
        "mmap file, shared and writable",
        [BASE, PAGE, READ | WRITE, SHARED | FIXED, file, 0],
    );
    map(
        "mmap directory",
        [BASE, PAGE, READ, PRIVATE | FIXED, directory, 0],
    );
    if let Ok(end) = pipe() {
        map(
            "mmap pipe",
            [BASE, PAGE, READ, PRIVATE | FIXED, end[0] as usize, 0],
        );
    }
    clear();
}

fn unmaps() {
    lay(0, 8, READ);
    show("munmap odd address", call3(nr::MUNMAP, BASE + 1, PAGE, 0));
    show("munmap length 0", call3(nr::MUNMAP, BASE, 0, 0));
    show("munmap length max", call3(nr::MUNMAP, BASE, usize::MAX, 0));
    show("munmap in the kernel", call3(nr::MUNMAP, KERNEL, PAGE, 0));
    show(
        "munmap over the top",
        call3(nr::MUNMAP, TOP - PAGE, 3 * PAGE, 0),
    );
    show("munmap odd length", call3(nr::MUNMAP, BASE, 1, 0));
    show("munmap hole", call3(nr::MUNMAP, BASE, PAGE, 0));
    show("munmap middle", call3(nr::MUNMAP, BASE + 3 * PAGE, PAGE, 0));
    show("munmap over holes", call3(nr::MUNMAP, BASE, 20 * PAGE, 0));
    clear();
}

const MAY_MOVE: usize = 1;
const MOVE_TO: usize = MAY_MOVE | 2;
const LEAVE: usize = MAY_MOVE | 4;

/// Remaps from page `at` on, to page `to`, lengths in bytes.
fn remap(at: usize, lengths: [usize; 2], flags: usize, to: usize) -> Result<usize, usize> {
    let [old, new] = lengths;
    let (at, to) = (BASE + at * PAGE, BASE + to * PAGE);
    call(nr::MREMAP, [at, old, new, flags, to, 0])
}

/// Asks for `old` pages from page `at` on to become `new` pages.
fn remapped(name: &str, at: usize, [old, new]: [usize; 2], flags: usize, to: usize) {
    show(name, remap(at, [old * PAGE, new * PAGE], flags, to));
}

fn remaps(file: usize) {
    const WRAPS: usize = usize::MAX;
    lay(0, 8, READ | WRITE);
    for page in 0..8 {
        poke_with(BASE + page * PAGE, 10 + page as u8);
    }
    show(
        "mremap odd address",
        call(nr::MREMAP, [BASE + 1, PAGE, PAGE, MAY_MOVE, 0, 0]),
    );
    show(
        "mremap to an odd address",
        call(
            nr::MREMAP,
            [BASE, PAGE, PAGE, MOVE_TO, BASE + 20 * PAGE + 1, 0],
        ),
    );
    show(
        "mremap over the top",
        call(nr::MREMAP, [BASE, PAGE, 2 * PAGE, MOVE_TO, TOP, 0]),
    );
    show(
        "mremap into the kernel",
        call(nr::MREMAP, [BASE, PAGE, PAGE, MOVE_TO, KERNEL, 0]),
    );
    show(
        "mremap out of the kernel",
        call(nr::MREMAP, [KERNEL, PAGE, PAGE, MAY_MOVE, 0, 0]),
    );
    remapped("mremap to length 0", 0, [1, 0], MAY_MOVE, 0);
    show(
        "mremap old length max",
        remap(0, [WRAPS, PAGE], MAY_MOVE, 0),
    );
    show(
        "mremap new length max",
        remap(0, [PAGE, WRAPS], MAY_MOVE, 0),
    );
    remapped("mremap strange flags", 0, [1, 1], 8, 0);
    remapped("mremap fixed that may not move", 0, [1, 1], 2, 20);
    remapped("mremap left that may not move", 0, [1, 1], 4, 20);
    remapped("mremap left and longer", 0, [1, 2], LEAVE, 20);
    remapped("mremap private once more", 0, [0, 1], MAY_MOVE, 0);
    remapped("mremap onto itself", 0, [2, 2], MOVE_TO, 0);
    remapped("mremap overlapping above", 0, [4, 4], MOVE_TO, 3);
    remapped("mremap overlapping below", 4, [4, 4], MOVE_TO, 1);
    remapped("mremap left, hint overlaps", 0, [4, 4], LEAVE, 2);
    remapped("mremap hole", 8, [1, 1], MAY_MOVE, 0);
    remapped(
        "mremap longer over the end of an area",
        4,
        [5, 6],
        MAY_MOVE,
        0,
    );
    remapped("mremap as it is", 0, [8, 8], 0, 0);
    remapped("mremap as it is, over the end", 0, [12, 12], 0, 0);
    remapped("mremap longer in the middle", 0, [2, 3], 0, 0);
    remapped("mremap longer", 0, [8, 12], 0, 0);
    say!(
        "grown: {} {}",
        byte(BASE + 7 * PAGE),
        byte(BASE + 11 * PAGE)
    );
    lay(12, 1, READ);
    remapped("mremap longer, blocked", 0, [12, 13], 0, 0);
    remapped("mremap shorter", 0, [12, 8], 0, 0);
    say!("cut off: {:?}", in_child(|| peek(BASE + 8 * PAGE)));
    remapped("mremap shorter over holes", 4, [20, 3], 0, 0);
    remapped("mremap to a place", 1, [2, 2], MOVE_TO, 20);
    say!(
        "moved: {} {}",
        byte(BASE + 20 * PAGE),
        byte(BASE + 21 * PAGE)
    );
    say!("the old place: {:?}", in_child(|| peek(BASE + PAGE)));
    remapped("mremap to a place, longer", 20, [2, 4], MOVE_TO, 30);
    say!(
        "moved: {} {}",
        byte(BASE + 31 * PAGE),
        byte(BASE + 33 * PAGE)
    );
    remapped("mremap over others, shorter", 3, [3, 1], MOVE_TO, 31);
    say!(
        "moved: {} {}",
        byte(BASE + 30 * PAGE),
        byte(BASE + 31 * PAGE)
    );
    say!("the tail: {:?}", in_child(|| peek(BASE + 5 * PAGE)));
    remapped("mremap two areas and leave", 30, [2, 2], LEAVE, 40);
    remapped("mremap and leave", 30, [1, 1], LEAVE | MOVE_TO, 40);
    say!(
        "left: {} {}",
        byte(BASE + 30 * PAGE),
        byte(BASE + 40 * PAGE)
    );
    let child = in_child(|| {
        let _ = remap(40, [PAGE, PAGE], MOVE_TO, 50);
        let seen = byte(BASE + 50 * PAGE);
        poke(BASE + 50 * PAGE);
        programs::exit(seen as usize)
    });
    say!("a child's: {child:?}, ours: {}", byte(BASE + 40 * PAGE));
    remapped("mremap anywhere", 40, [1, 200], MAY_MOVE, 0);
    clear();
    let shared = SHARED | ANONYMOUS | FIXED;
    let _ = mmap([BASE, 4 * PAGE, READ | WRITE, shared, NONE, 0]);
    poke_with(BASE + 2 * PAGE, 7);
    remapped("mremap shared once more, in place", 2, [0, 2], 0, 0);
    remapped("mremap shared once more", 2, [0, 2], MOVE_TO, 10);
    poke_with(BASE + 11 * PAGE, 8);
    say!(
        "twice: {} {}",
        byte(BASE + 10 * PAGE),
        byte(BASE + 3 * PAGE)
    );
    remapped("mremap shared, longer than it is", 0, [4, 6], 0, 0);
    say!("past its end: {:?}", in_child(|| peek(BASE + 5 * PAGE)));
    let child = in_child(|| {
        let _ = remap(0, [4 * PAGE, 4 * PAGE], MOVE_TO, 20);
        poke_with(BASE + 20 * PAGE, 9);
    });
    say!(
        "shared with a child that moved it: {child:?}, {}",
        byte(BASE)
    );
    let _ = mmap([BASE + 30 * PAGE, PAGE, READ, PRIVATE | FIXED, file, 0]);
    remapped("mremap file, longer", 30, [1, 2], MOVE_TO, 40);
    say!(
        "a file's first bytes: {} {}",
        byte(BASE + 40 * PAGE),
        byte(BASE + 40 * PAGE + 1)
    );
    peek(BASE + 41 * PAGE);
    clear();
}

fn protections(file: usize) {
    lay(0, 4, READ);
    lay(6, 2, READ);
    show(
        "mprotect odd address",
        call3(nr::MPROTECT, BASE + 1, PAGE, READ),
    );
    show("mprotect length 0", call3(nr::MPROTECT, BASE, 0, READ));
    show(
        "mprotect length max",
        call3(nr::MPROTECT, BASE, usize::MAX, READ),
    );
    show(
        "mprotect wrapping",
        call3(nr::MPROTECT, BASE, usize::MAX & !(PAGE - 1), READ),
    );
    show(
        "mprotect strange rights",
        call3(nr::MPROTECT, BASE, PAGE, 0x80),
    );
    show(
        "mprotect growing both ways",
        call3(nr::MPROTECT, BASE, PAGE, READ | 0x300_0000),
    );
    show(
        "mprotect growing down, no stack",
        call3(nr::MPROTECT, BASE, PAGE, READ | 0x100_0000),
    );
    show(
        "mprotect hole",
        call3(nr::MPROTECT, BASE + 4 * PAGE, PAGE, READ),
    );
    show(
        "mprotect into a hole",
        call3(nr::MPROTECT, BASE + 2 * PAGE, 4 * PAGE, READ | WRITE),
    );
    show(
        "mprotect across a hole",
        call3(nr::MPROTECT, BASE, 8 * PAGE, READ | WRITE),
    );
    show(
        "mprotect in the kernel",
        call3(nr::MPROTECT, KERNEL, PAGE, READ),
    );
    show("mprotect to nothing", call3(nr::MPROTECT, BASE, PAGE, 0));
    let _ = mmap([BASE, PAGE, READ, SHARED | FIXED, file, 0]);
    show(
        "mprotect read-only file to writable",
        call3(nr::MPROTECT, BASE, PAGE, READ | WRITE),
    );
    clear();
}

fn breaks() {
    let now = call3(nr::BRK, 0, 0, 0).unwrap_or(0);
    let asked = |to: usize| call3(nr::BRK, to, 0, 0).unwrap_or(0).wrapping_sub(now);
    say!("brk odd growth: {:#x}", asked(now + 12345));
    say!("brk back: {:#x}", asked(now));
    say!("brk below the start: {:#x}", asked(PAGE));
    say!("brk to the kernel: {:#x}", asked(KERNEL));
    say!("brk to max: {:#x}", asked(usize::MAX));
    say!("brk over the top: {:#x}", asked(TOP + PAGE));
}

fn advice() {
    const DONTNEED: usize = 4;
    lay(0, 4, READ | WRITE);
    show(
        "madvise odd address",
        call3(nr::MADVISE, BASE + 1, PAGE, DONTNEED),
    );
    show("madvise length 0", call3(nr::MADVISE, BASE, 0, DONTNEED));
    show("madvise strange advice", call3(nr::MADVISE, BASE, PAGE, 77));
    show(
        "madvise wrapping",
        call3(nr::MADVISE, BASE, usize::MAX & !(PAGE - 1), DONTNEED),
    );
    show(
        "madvise hole",
        call3(nr::MADVISE, BASE + 4 * PAGE, PAGE, DONTNEED),
    );
    show(
        "madvise into a hole",
        call3(nr::MADVISE, BASE, 8 * PAGE, DONTNEED),
    );
    show("madvise good", call3(nr::MADVISE, BASE, 2 * PAGE, DONTNEED));
    clear();
}

/// Accesses that end the program, each in a child.
fn accesses(file: usize) {
    lay(0, 1, READ);
    lay(1, 1, 0);
    lay(2, 1, READ | WRITE);
    let end = file_pages();
    let _ = mmap([
        BASE + 8 * PAGE,
        (end + 4) * PAGE,
        READ,
        PRIVATE | FIXED,
        file,
        0,
    ]);
    let past = BASE + 8 * PAGE + (end + 2) * PAGE;
    for (name, address) in [
        ("read at 0", 0),
        ("read in the kernel", KERNEL),
        ("read at a hole in the address space", HOLE),
        ("read unmapped", BASE + 4 * PAGE),
        ("read without rights", BASE + PAGE),
        ("read past the end of the file", past),
        ("read good", BASE),
        ("read good file", BASE + 8 * PAGE),
    ] {
        say!("{name}: {:?}", in_child(|| peek(address)));
    }
    for (name, address) in [
        ("write at 0", 0),
        ("write in the kernel", KERNEL),
        ("write read-only", BASE),
        ("write own code", main as fn(Start) -> usize as usize),
        ("write read-only file", BASE + 8 * PAGE),
        ("write good", BASE + 2 * PAGE),
    ] {
        say!("{name}: {:?}", in_child(|| poke(address)));
    }
    for (name, address) in [("execute at 0", 0), ("execute data", BASE + 2 * PAGE)] {
        say!("{name}: {:?}", in_child(|| jump(address)));
    }
    say!("endless stack: {:?}", in_child(deepen));
    say!(
        "execute good: {:?}",
        in_child(|| {
            let page = BASE + 3 * PAGE;
            lay(3, 1, READ | WRITE | EXEC);
            let place = core::ptr::with_exposed_provenance_mut::<Word>(page);
            // SAFETY: `lay` has just mapped the page, readable, writable and executable.
            unsafe { place.write_volatile(RETURN) };
            sync_code(page);
            jump(page);
        })
    );
    clear();
}

/// What memory holds after what was done to it.
fn contents(file: usize) {
    lay(0, 4, READ | WRITE);
    poke(BASE);
    poke(BASE + PAGE);
    say!("written: {}", byte(BASE));
    let _ = call3(nr::MADVISE, BASE, PAGE, 4);
    say!(
        "after dontneed: {} and its neighbour {}",
        byte(BASE),
        byte(BASE + PAGE)
    );
    let child = in_child(|| {
        let seen = byte(BASE + PAGE);
        poke(BASE + 2 * PAGE);
        programs::exit(seen as usize)
    });
    say!(
        "a child sees: {child:?}, and what it wrote is not ours: {}",
        byte(BASE + 2 * PAGE)
    );
    let _ = mmap([
        BASE + 4 * PAGE,
        PAGE,
        READ | WRITE,
        SHARED | ANONYMOUS | FIXED,
        NONE,
        0,
    ]);
    let child = in_child(|| poke(BASE + 4 * PAGE));
    say!("shared with a child: {child:?}, {}", byte(BASE + 4 * PAGE));
    lay(1, 1, READ | WRITE);
    say!("mapped over: {}", byte(BASE + PAGE));
    let _ = mmap([BASE, PAGE, READ | WRITE, PRIVATE | FIXED, file, 0]);
    say!("a file's first bytes: {} {}", byte(BASE), byte(BASE + 1));
    poke(BASE);
    let _ = mmap([BASE + PAGE, PAGE, READ, PRIVATE | FIXED, file, 0]);
    say!(
        "a private write stays private: {} {}",
        byte(BASE),
        byte(BASE + PAGE)
    );
    let _ = call3(nr::MPROTECT, BASE, PAGE, READ);
    let _ = call3(nr::MPROTECT, BASE, PAGE, READ | WRITE);
    say!("rights taken and given back: {}", byte(BASE));
    clear();
}

/// Returns the pages of the program's own file, more than it has rather than fewer.
fn file_pages() -> usize {
    // The file of this program is far below 16 MiB.
    4096
}

fn byte(address: usize) -> u8 {
    // SAFETY: the callers have mapped the page; if the kernel did not, this program ends here.
    unsafe { core::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

fn peek(address: usize) {
    let _ = byte(address);
}

fn poke(address: usize) {
    // SAFETY: a page of this program's own, or (in a child) an access that must end the child.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(42) }
}

fn poke_with(address: usize, value: u8) {
    // SAFETY: as for `poke`.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(value) }
}

fn jump(address: usize) {
    // SAFETY: the page holds one `ret`, or (in a child) the jump must end the child.
    unsafe { run(address) }
}

/// Uses more stack than any limit allows.
fn deepen() {
    let here = 0_u8;
    let top = (&raw const here).addr();
    for depth in 1..(1 << 20) {
        poke(top.wrapping_sub(depth * PAGE));
    }
}
