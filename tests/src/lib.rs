//! The test world of the mm family: a machine made of a byte array.
//!
//! | module | what it simulates |
//! |---|---|
//! | [`arena`] | RAM: frames that scream when they are used wrongly |
//! | [`platform`] | CPUs, preemption, flushes, wake-ups, failing allocations |
//! | [`mmu`] | hardware walkers, written from the manuals |
//! | [`tlb`] | TLBs and paging-structure caches that forget nothing |
//! | [`world`] | all of it together, with programs and files |
//! | [`check`] | all spaces, records and TLBs against one another |
//! | [`oracle`] | a flat model, and random scripts that follow it |
//! | [`random`] | seeded choices |

pub mod arena;
pub mod check;
pub mod mmu;
pub mod oracle;
pub mod platform;
pub mod random;
pub mod tlb;
pub mod world;

/// Compiles the example of the repository's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
