//! Wild pointers to every system call, in two rounds: the kernel answers or ends the child, and
//! stays up.
//!
//! 1. Each call that the example kernel knows gets each of its pointers wild and all else valid
//!    ([`rows`]), and must answer EFAULT, as Linux does.
//! 2. Each number gets wild words in many places. A child that does not end is a failure, unless
//!    its call is one of those that wait by their nature ([`nr::MAY_WAIT`]).
//!
//! Not to be run on a machine that is needed: the second round's calls include the dangerous ones.
//! With an argument there is the first round only.
#![no_std]
#![no_main]

mod rows;

use programs::names::{self, Name};
use programs::{
    ABI, ANONYMOUS, Ended, LAST, LOOKS_PER_SECOND, PAGE, PRIVATE, Start, WILD, call, call3, fork,
    in_child_for, mmap, nr, pipe, say, start,
};
use rows::{Arg, Line};

start!(main);

/// Of clone: the child shares the memory; without a stack of its own, its parent's stack, too.
const CLONE_VM: usize = 0x100;

/// One more than the highest number that is tried: Linux' tables end below.
const CALLS: usize = 470;

/// Seconds that a child gets on a machine that may be busy.
const SECONDS: usize = 10;

const EFAULT: usize = 14;

fn main(start: Start) -> usize {
    let wrong = match open_files().and_then(|()| by_rows()) {
        Ok(wrong) => wrong,
        Err(errno) => {
            say!("the first round fails with errno {errno}");
            return 1;
        }
    };
    if wrong > 0 || start.count() > 1 {
        return usize::from(wrong > 0);
    }
    by_numbers()
}

/// The file that [`open_files`] makes.
const FILE: &[u8] = b"/tmp/bad-pointers\0";

/// Opens what the rows count on: 3 to 6.
fn open_files() -> Result<(), usize> {
    const HERE: usize = -100_i32 as usize;
    const CREATE_FOR_BOTH: usize = 0o102;
    let root = programs::open(c"/".as_ptr().addr())?;
    let name = FILE.as_ptr().addr();
    let file = call(nr::OPENAT, [HERE, name, CREATE_FOR_BOTH, 0o600, 0, 0])?;
    let ends = pipe()?;
    // Through another descriptor: the first one's next byte stays the first of the file.
    let again = call(nr::OPENAT, [HERE, name, CREATE_FOR_BOTH, 0o600, 0, 0])?;
    for fd in [again, ends[1] as usize] {
        call3(nr::WRITE, fd, name, FILE.len())?;
    }
    match [root, file, ends[0] as usize, ends[1] as usize] {
        [3, 4, 5, 6] => Ok(()),
        others => {
            say!("descriptors {others:?} instead of 3 to 6");
            Err(0)
        }
    }
}

/// The first round; answers how many calls are wrong.
fn by_rows() -> Result<usize, usize> {
    let (mut reached, mut without, mut wrong) = (0, 0, 0);
    for number in 0..CALLS {
        let Some(name) = names::lookup(ABI, number) else {
            continue;
        };
        let lines = rows::of(name);
        if lines.is_empty() {
            without += 1;
            continue;
        }
        let ended = in_child_for(SECONDS * LOOKS_PER_SECOND, || {
            let faults = lines.iter().all(|line| answers_fault(name, number, line));
            programs::exit(usize::from(!faults));
        })?;
        reached += 1;
        if ended != Ended::Exited(0) {
            say!("{name:?}, a wild pointer and all else valid: {ended:?}: WRONG");
            wrong += 1;
        }
    }
    say!(
        "of {reached} system calls, {wrong} do not answer a wild pointer with EFAULT; {without} follow none"
    );
    Ok(wrong)
}

/// Makes the call of a line with every wild pointer; answers whether each was refused.
fn answers_fault(name: Name, number: usize, line: Line) -> bool {
    const NO_RIGHTS: [usize; 6] = [0, PAGE, 0, PRIVATE | ANONYMOUS, usize::MAX, 0];
    WILD.into_iter().chain(mmap(NO_RIGHTS)).all(|wild| {
        let answer = call_with(number, line, wild);
        let refused = answer == Err(EFAULT);
        if !refused {
            say!("{name:?} {line:?} with {wild:#x}: {answer:?}");
        }
        refused
    })
}

/// Words that calls read and write.
#[repr(align(4096))]
struct Page(
    #[expect(dead_code, reason = "the kernel's calls use it")] [usize; PAGE / size_of::<usize>()],
);

/// Makes a call with this wild pointer where the line has one.
fn call_with(number: usize, line: Line, wild: usize) -> Result<usize, usize> {
    let mut zeros = Page([0; PAGE / size_of::<usize>()]);
    let mut holder = [wild, 8, 0, 0];
    let mut args = [0; 6];
    for (word, arg) in args.iter_mut().zip(line) {
        *word = match *arg {
            Arg::Value(value) => value,
            Arg::Wild => wild,
            Arg::WildWord => wild & !7,
            Arg::Holder => (&raw mut holder).expose_provenance(),
            Arg::Zeros => (&raw mut zeros).expose_provenance(),
            Arg::File => FILE.as_ptr().expose_provenance(),
            Arg::Executable => c"/proc/self/exe".as_ptr().expose_provenance(),
            Arg::Child => match fork()? {
                0 => programs::exit(0),
                child => child,
            },
        };
    }
    call(number, args)
}

/// The second round.
fn by_numbers() -> usize {
    let (mut returned, mut killed, mut waited, mut stuck) = (0, 0, 0, 0);
    for number in 0..CALLS {
        let waits = nr::MAY_WAIT.iter().find(|(_, call)| *call == number);
        let seconds = if waits.is_some() { 2 } else { SECONDS };
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
    for wild in WILD.into_iter().chain([LAST]) {
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
