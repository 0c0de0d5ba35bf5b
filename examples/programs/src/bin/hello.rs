//! Says hello, and uses memory in every simple way: what `cargo xtask run` boots without busybox.
#![no_std]
#![no_main]

use programs::{
    ANONYMOUS, Ended, PAGE, PRIVATE, READ, Start, WRITE, call, in_child, mmap, nr, say, start,
};

start!(main);

fn main(start: Start) -> usize {
    say!(
        "hello from a small program of our own, with {} argument(s)",
        start.count()
    );
    let length = 64 * PAGE;
    let Ok(address) = mmap([0, length, READ | WRITE, PRIVATE | ANONYMOUS, usize::MAX, 0]) else {
        say!("mmap failed");
        return 1;
    };
    let pages = core::ptr::with_exposed_provenance_mut::<u8>(address);
    for at in (0..length).step_by(PAGE) {
        // SAFETY: inside the mapping that was just made, which nobody else knows.
        unsafe { pages.add(at).write_volatile(7) };
    }
    // A child writes to its copy; ours must not change.
    let child = in_child(|| {
        for at in (0..length).step_by(PAGE) {
            // SAFETY: as above, in the child's copy.
            unsafe { pages.add(at).write_volatile(9) };
        }
    });
    let kept = (0..length)
        .step_by(PAGE)
        // SAFETY: as above.
        .all(|at| unsafe { pages.add(at).read_volatile() } == 7);
    let freed = call(nr::MUNMAP, [address, length, 0, 0, 0, 0]).is_ok();
    let good = child == Ok(Ended::Exited(0)) && kept && freed;
    say!(
        "64 pages written, copied on write by a child, and given back: {}",
        if good { "ok" } else { "WRONG" }
    );
    usize::from(!good)
}
