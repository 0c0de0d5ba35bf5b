//! x86-64 for [`mm_core`]: page-table formats, fault decoding, TLB and
//! control registers.
//!
//! | module | what | where it runs |
//! |---|---|---|
//! | [`paging`] | 4- and 5-level long-mode entries, bits only | any 64-bit host: addresses are `usize` |
//! | [`legacy`] | two-level and PAE entries of 32-bit x86, described and tested | any host; PAE where 64-bit words are atomic |
//! | [`fault`] | the error code of #PF | any host |
//! | [`tlb`] | which instructions drop what, through [`tlb::Emit`] | any host |
//! | `native` | those instructions, CR0/CR3/CR4/EFER/PAT | x86-64 only |
//!
//! Sources: Intel SDM (volume 3A, chapters 4 "Paging", 6.15 "#PF", 11.12
//! "PAT"; order number 253668) and AMD APM volume 2, chapters 5 and 7.
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

mod entry;
pub mod fault;
pub mod legacy;
#[cfg(target_arch = "x86_64")]
pub mod native;
#[cfg(target_pointer_width = "64")]
pub mod paging;
pub mod tlb;

pub use fault::PageFaultCode;
#[cfg(target_pointer_width = "64")]
pub use paging::{Depth, FiveLevel, FourLevel, Paging, PagingFeatures, Probed};
