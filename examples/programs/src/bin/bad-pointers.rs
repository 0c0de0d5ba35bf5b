//! Wild pointers to every system call: the kernel answers or ends the child, and stays up.
//!
//! Not to be run on a machine that is needed: the calls include the dangerous ones.
#![no_std]
#![no_main]

use programs::{Ended, Start, call, in_child, nr, say, start};

start!(main);

/// One more than the highest number of x86-64's table that is tried.
const CALLS: usize = 470;

/// Pointers that no call may follow. None of them is a signal's number, nor are the plausible
/// numbers below: otherwise `kill` would end whoever watches.
const WILD: [usize; 8] = [
    0x900,                 // in the page that is never mapped
    0x1000_0000_0000,      // user space, not mapped
    0x7fff_ffff_efff,      // the last bytes of user space
    0x8000_0000_0000,      // not canonical
    0xffff_7fff_ffff_ffff, // not canonical
    0xffff_8000_0000_0000, // the first byte of the kernel's half
    0xffff_ffff_8000_0000, // where kernels like to live
    usize::MAX - 7,        // the end of everything
];

fn main(_: Start) -> usize {
    let (mut returned, mut killed, mut stuck) = (0, 0, 0);
    for number in 0..CALLS {
        match in_child(|| wild_calls(number)) {
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
            let makes_children = matches!(number, nr::FORK | nr::VFORK | nr::CLONE | nr::CLONE3);
            // The new child of such a call ends at once; otherwise they would multiply.
            if call(number, args) == Ok(0) && makes_children {
                programs::exit(0);
            }
        }
    }
}
