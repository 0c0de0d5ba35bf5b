//! The portable part of a small Linux-compatible kernel on the mm family.
//!
//! It runs unmodified static Linux programs with `mm-core` for their memory and
//! `mm-elf` for their files. It is an example: short, and meant to be copied. An
//! architecture implements [`arch::Arch`], makes a [`system::System`] and calls
//! [`system::System::run`].
//!
//! | folder or file | what |
//! |---|---|
//! | [`arch`] | what an architecture supplies |
//! | [`system`], [`run`], [`summary`] | the kernel as one value; boot to power-off |
//! | [`memory`] | **the only user of mm-core**: spaces, faults, user access, files' pages |
//! | [`disk`] | reads of the initramfs that finish at a later tick |
//! | [`sched`] | run queues, sleeping, waking, balancing between CPUs |
//! | [`stack`] | the memory of kernel stacks, and what an overflow looks like |
//! | [`startup`] | how the first CPU waits for the others |
//! | [`sync`] | the kernel's lock, and why a flush never waits for ever |
//! | [`task`] | processes, threads, fork, exec, exit, wait, signals |
//! | [`fs`] | names, open files, descriptors |
//! | [`pipe`], [`tty`], [`cpio`] | a pipe, a line discipline, an archive: pure state machines |
//! | [`syscall`] | system calls, one file a family |
//! | [`limits`] | the bounds of what programs can make the kernel hold |
//!
//! Where a path waits for I/O it says so in its types: mm-core never waits, it answers
//! a ticket; [`memory`] is where tickets become sleep.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod arch;
pub mod cpio;
pub mod disk;
pub mod errno;
pub mod fs;
pub mod limits;
pub mod memory;
pub mod pipe;
pub mod run;
pub mod sched;
pub mod stack;
pub mod startup;
pub mod summary;
pub mod sync;
pub mod syscall;
pub mod system;
pub mod task;
pub mod tty;
