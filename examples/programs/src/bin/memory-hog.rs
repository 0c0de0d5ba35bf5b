//! Takes all the memory there is, in two ways: by touching pages, and by making children.
//!
//! The kernel refuses or ends the offender; afterwards everything must work as before.
#![no_std]
#![no_main]

use programs::{
    ANONYMOUS, PAGE, PRIVATE, READ, Start, WRITE, call, call3, fork, in_child, mmap, nr, pause,
    say, start,
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

fn main(_: Start) -> usize {
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
    let (made, errno) = bomb();
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

/// Makes children that wait, until there is no more; then ends them all.
fn bomb() -> (usize, Option<usize>) {
    let mut children = [0_u32; CHILDREN];
    let mut made = 0;
    let mut refused = None;
    let stack = [0_u8; PAGES * PAGE];
    let pages = (&raw const stack).addr();
    for place in &mut children {
        match fork() {
            Ok(0) => {
                for at in (0..PAGES * PAGE).step_by(PAGE) {
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
