//! 32-bit paging, as the books explain paging with it: described and tested,
//! not run by a kernel here.
//!
//! ```text
//!   two levels, 32-bit words             PAE: three levels, 64-bit words
//!    31    22 21    12 11      0          31 30 29    21 20    12 11      0
//!   | dir    | table  | offset  |        |  *  | dir    | table  | offset  |
//!     10       10                           2    9        9
//!   CR3 ─► directory ─► table ─► page    CR3 ─► 4 pointers ─► directory ─► table ─► page
//!             └─► 4 MiB (PSE)                       └─► 2 MiB
//! ```
//!
//! Users have the first three GiB, the kernel the last, as everywhere.
//!
//! Not yet: PSE-36 (40-bit frames of 4 MiB leaves).

#[cfg(target_has_atomic = "64")]
mod pae;
mod two_level;

#[cfg(target_has_atomic = "64")]
pub use pae::Pae;
pub use two_level::{LargePages, TwoLevel};

#[cfg(test)]
mod tests;
