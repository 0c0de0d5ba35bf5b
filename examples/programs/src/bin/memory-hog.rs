//! Takes all the memory there is, in two ways: by touching pages, and by making children.
//!
//! The kernel refuses or ends the offender; afterwards everything must work as before.
//!
//! With any argument: makes children whose page tables alone are large until fork(2) itself finds
//! no memory. It must answer `ENOMEM`, and what it had taken must be there again: on a machine so
//! small that numbers of processes do not run out first.
#![no_std]
#![no_main]

use programs::{
    ANONYMOUS, BASE, FIXED, PAGE, PRIVATE, READ, Start, WRITE, call, call3, fork, in_child, mmap,
    nr, pause, say, start,
};

start!(main);

/// Bytes asked for at once.
const CHUNK: usize = 4 << 20;
/// Chunks that are tried: more than any machine of the tests has.
const CHUNKS: usize = 4096;
/// Children that are tried: more than any machine of the tests can hold.
const CHILDREN: usize = 20_000;
/// Pages that each child makes its own.
const PAGES: usize = 16;

/// Tables that each child gets at its fork, one a page far from the others.
const TABLES: usize = 64;
/// Bytes between those pages: more than a table of any of our machines maps.
const STRIDE: usize = 4 << 20;
/// How often the memory is used up.
const ROUNDS: usize = 3;

fn main(start: Start) -> usize {
    if start.count() > 1 {
        return no_memory_for_fork();
    }
    say!(
        "touching all memory: {:?}",
        in_child(|| {
            touch(CHUNKS);
        })
    );
    say!(
        "touching all memory again: {:?}",
        in_child(|| {
            touch(CHUNKS);
        })
    );
    let (made, errno) = bomb(PAGES);
    // ENOMEM and EAGAIN are the only answers that fork(2) has for this.
    let good = made > 0 && matches!(errno, Some(11 | 12));
    say!(
        "children until fork failed with {errno:?}: {}",
        if good { "ok" } else { "WRONG" }
    );
    let after = in_child(|| {
        touch(1);
    });
    say!("after that: {after:?}");
    usize::from(!good)
}

/// Uses up the memory by forks alone, several times: what one round leaks, the next one lacks.
fn no_memory_for_fork() -> usize {
    const FIXED_ANON: usize = PRIVATE | ANONYMOUS | FIXED;
    for table in 0..TABLES {
        let at = BASE + table * STRIDE;
        if mmap([at, PAGE, READ | WRITE, FIXED_ANON, usize::MAX, 0]).is_err() {
            return 2;
        }
        write(at);
    }
    let mut first = 0;
    let mut wrong = 0;
    for round in 0..ROUNDS {
        let (made, errno) = bomb(0);
        if round == 0 {
            first = made;
        }
        // A few more or less: what others have taken meanwhile, and what was killed.
        let good = errno == Some(12) && made > 0 && made + made / 8 >= first;
        say!(
            "round {round}: {made} children until fork failed with {errno:?}: {}",
            if good { "ok" } else { "WRONG" }
        );
        wrong += usize::from(!good);
    }
    usize::from(wrong > 0)
}

/// Maps and touches chunks until the kernel refuses.
fn touch(chunks: usize) {
    for _ in 0..chunks {
        let args = [0, CHUNK, READ | WRITE, PRIVATE | ANONYMOUS, usize::MAX, 0];
        let Ok(address) = mmap(args) else {
            return;
        };
        for at in (0..CHUNK).step_by(PAGE) {
            write(address + at);
        }
    }
}

/// Makes children that wait, each with so many pages of its own, until there is no more; then ends
/// them all.
fn bomb(own_pages: usize) -> (usize, Option<usize>) {
    let mut children = [0_u32; CHILDREN];
    let mut made = 0;
    let mut refused = None;
    let stack = [0_u8; PAGES * PAGE];
    let pages = (&raw const stack).addr();
    for place in &mut children {
        match fork() {
            Ok(0) => {
                for at in (0..own_pages * PAGE).step_by(PAGE) {
                    write(pages + at);
                }
                loop {
                    pause();
                }
            }
            Ok(child) => {
                *place = u32::try_from(child).unwrap_or(0);
                made += 1;
            }
            Err(errno) => {
                refused = Some(errno);
                break;
            }
        }
    }
    for child in children.iter().take(made) {
        let _ = call3(nr::KILL, *child as usize, 9, 0);
    }
    for child in children.iter().take(made) {
        let _ = call(nr::WAIT4, [*child as usize, 0, 0, 0, 0, 0]);
    }
    (made, refused)
}

fn write(address: usize) {
    // SAFETY: a page of a mapping that was just made, or of this frame's own array.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(1) }
}
