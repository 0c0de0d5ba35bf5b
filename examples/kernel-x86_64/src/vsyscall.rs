//! The calls that programs make by jumping: the page that Linux calls vsyscall.
//!
//! Before there was a vDSO, C libraries and the Go runtime called these addresses to know the time, and
//! programs that were linked with them still do. Nothing is mapped there: the fetch faults, and the
//! fault is the call.
//!
//! Source: Linux `arch/x86/entry/vsyscall/vsyscall_64.c` for the addresses and what a bad one does.

/// The page.
pub const PAGE: usize = 0xffff_ffff_ff60_0000;

/// Returns the number of the system call that an address stands for.
pub const fn number(address: usize) -> Option<usize> {
    const GETTIMEOFDAY: usize = 96;
    const TIME: usize = 201;
    const GETCPU: usize = 309;
    match address.wrapping_sub(PAGE) {
        0 => Some(GETTIMEOFDAY),
        0x400 => Some(TIME),
        0x800 => Some(GETCPU),
        _ => None,
    }
}
