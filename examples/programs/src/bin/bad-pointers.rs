//! Wild pointers to every system call: the kernel answers or ends the child, and stays up.
//!
//! Not to be run on a machine that is needed: the calls include the dangerous ones.
#![no_std]
#![no_main]

use programs::{Ended, LOOKS_PER_SECOND, Start, WILD, call, in_child_for, nr, say, start};

start!(main);

/// One more than the highest number that is tried: Linux' tables end below.
const CALLS: usize = 470;

fn main(_: Start) -> usize {
    let (mut returned, mut killed, mut stuck) = (0, 0, 0);
    for number in 0..CALLS {
        match in_child_for(2 * LOOKS_PER_SECOND, || wild_calls(number)) {
            Ok(Ended::Exited(_)) => returned += 1,
            Ok(Ended::Killed(_)) => killed += 1,
            Ok(Ended::Stuck) => stuck += 1,
            Err(errno) => {
                say!("fork fails with errno {errno} before call {number}");
                return 1;
            }
        }
    }
    say!(
        "{CALLS} system calls with wild pointers: {returned} returned, {killed} were killed, {stuck} waited"
    );
    0
}

/// Makes system call `number` with each wild pointer in each place that could be a pointer.
fn wild_calls(number: usize) {
    // A group of its own: `kill(0, 1)` is among the calls.
    let _ = call(nr::SETSID, [0; 6]);
    // No pointer, and no plausible number below, is a signal's number: otherwise `kill` would end
    // whoever watches.
    for wild in WILD {
        // All places at once, then behind a descriptor (0, 1, 3) or a length that is plausible.
        for args in [
            [wild; 6],
            [0, wild, 4096, wild, wild, wild],
            [1, wild, 4096, wild, wild, wild],
            [3, wild, 4096, wild, wild, wild],
            [wild, 4096, wild, 0, 0, 0],
            [wild, 0, 0, wild, 0, 0],
            [0, 0, wild, wild, 0, 0],
        ] {
            let makes_children = nr::MAKE_CHILDREN.contains(&number);
            // The new child of such a call ends at once; otherwise they would multiply.
            if call(number, args) == Ok(0) && makes_children {
                programs::exit(0);
            }
        }
    }
}
