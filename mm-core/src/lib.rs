//! Process memory for kernels.
//!
//! The README says what this is and what a kernel brings; the header of each module
//! says how it works. The modules, top-down:
//!
//! | layer | module | what it knows |
//! |---|---|---|
//! | spaces | [`space`] | the verbs: map, unmap, protect, brk, fork, fault, ... |
//! | faults | [`fault`] | resolves one fault |
//! | areas, owners | [`vma`], [`rmap`], [`object`] | VMAs; who maps a page; cached pages |
//! | tables | [`table`], [`tlb`] | one page table; what is freed after which flush |
//! | frames | [`page`], [`pool`], [`tree`] | records and allocation of frames; typed nodes; what links them |
//! | facts | [`format`], [`platform`] | bits of an architecture; what the kernel supplies |
//! | words | [`addr`], [`range`], [`prot`], [`error`], [`sync`], [`cx`], [`stats`] | |
//!
//! The feature `validate` adds a check of a whole space against all that is counted
//! about it, for tests and debug builds.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod addr;
pub mod cx;
pub mod error;
pub mod fault;
pub mod format;
mod mm;
pub mod object;
pub mod page;
pub mod platform;
pub mod pool;
pub mod prot;
pub mod range;
pub mod rmap;
pub mod space;
pub mod stats;
pub mod sync;
pub mod table;
pub mod tlb;
pub mod tree;
#[cfg(feature = "validate")]
pub mod validate;
pub mod vma;

#[cfg(not(loom))]
pub use mm::MmCell;
pub use mm::{Mm, Stats, Usage};
