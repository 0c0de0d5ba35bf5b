//! Wild pointers to every system call: the kernel answers or ends the child, and stays up. A child
//! that does not end is a failure, unless its call is one of those that wait by their nature
//! ([`nr::MAY_WAIT`]).
//!
//! Not to be run on a machine that is needed: the calls include the dangerous ones.
#![no_std]
#![no_main]

use programs::{Ended, LOOKS_PER_SECOND, Start, WILD, call, in_child_for, nr, say, start};

start!(main);

/// Of clone: the child shares the memory; without a stack of its own, its parent's stack, too.
const CLONE_VM: usize = 0x100;

/// One more than the highest number that is tried: Linux' tables end below.
const CALLS: usize = 470;

fn main(_: Start) -> usize {
    let (mut returned, mut killed, mut waited, mut stuck) = (0, 0, 0, 0);
    for number in 0..CALLS {
        let waits = nr::MAY_WAIT.iter().find(|(_, call)| *call == number);
        // Others get the time that a busy machine may need.
        let seconds = if waits.is_some() { 2 } else { 10 };
        match in_child_for(seconds * LOOKS_PER_SECOND, || wild_calls(number)) {
            Ok(Ended::Exited(_)) => returned += 1,
            Ok(Ended::Killed(_)) => killed += 1,
            Ok(Ended::Stuck) => match waits {
                Some((name, _)) => {
                    say!("{name} waits");
                    waited += 1;
                }
                None => {
                    say!("system call {number} with wild pointers does not end: WRONG");
                    stuck += 1;
                }
            },
            Err(errno) => {
                say!("fork fails with errno {errno} before call {number}");
                return 1;
            }
        }
    }
    say!(
        "{CALLS} system calls with wild pointers: {returned} returned, {killed} were killed, {waited} waited, {stuck} are stuck"
    );
    usize::from(stuck > 0)
}

/// Makes system call `number` with each wild pointer in each place that could be a pointer.
fn wild_calls(number: usize) {
    // A group of its own: `kill(0, 1)` is among the calls.
    let _ = call(nr::SETSID, [0; 6]);
    if nr::VFORK == Some(number) {
        // It takes no pointer, and only assembly can call it: its child destroys the frames that
        // its parent returns through.
        return;
    }
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
            if number == nr::CLONE && args[0] & CLONE_VM != 0 && args[1] == 0 {
                // So does this child.
                continue;
            }
            // The new child of such a call ends at once; otherwise they would multiply.
            if call(number, args) == Ok(0) && makes_children {
                programs::exit(0);
            }
        }
    }
}
