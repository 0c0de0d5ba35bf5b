#![cfg_attr(not(test), no_std)]
//! The portable part of a small Linux-compatible kernel.
extern crate alloc;
pub mod arch;
pub mod cpio;
pub mod errno;
/// Files.
pub mod fs { pub mod device; pub mod proc; pub mod table; pub mod tree; pub mod walk; }
pub mod limits;
pub mod pipe;
pub mod tty;
