//! Files: the tree of names, open files, descriptors.
//!
//! ```text
//!  descriptor ─► OpenFile ─► Node (tree) ─► page-cache object    fs::{table, open, tree}
//!                        └─► Pipe, Tty, device                   pipe, tty, device
//! ```
//! [`tree`] and [`walk`] know nothing of memory or tasks: they are generic over what
//! a regular file holds, so host tests use plain values.

pub mod device;
pub mod open;
pub mod populate;
pub mod proc;
pub mod table;
pub mod text;
pub mod tree;
pub mod walk;
