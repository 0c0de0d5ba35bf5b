//! The test world of the mm family: a machine made of a byte array.
//!
//! | module | what it simulates |
//! |---|---|
//! | [`arena`] | RAM: frames that scream when they are used wrongly |
//! | [`platform`] | CPUs, preemption, flushes, wake-ups, failing allocations |
//! | [`interrupts`] | flushes that ask other CPUs and wait for them |
//! | [`mmu`] | hardware walkers, written from the manuals |
//! | [`tlb`] | TLBs and paging-structure caches that forget nothing |
//! | [`format`](mod@format) | every format and walker behind one type |
//! | [`machine`] | the machines that every suite runs on |
//! | [`world`] | all of it together, with programs and files |
//! | [`check`] | all spaces, records and TLBs against one another |
//! | [`stripe`] | one thread's part of a shared mapping |
//! | [`scene`] | a space that several CPUs live in, doing everything |
//! | [`watch`] | whose turn it is, and which shared words a verb touches |
//! | [`oracle`] | a flat model, and random scripts that follow it |
//! | [`random`] | seeded choices |
//! | [`recording`] | what real programs asked of their kernel |

pub mod arena;
#[cfg(not(loom))]
pub mod check;
#[cfg(not(loom))]
pub mod format;
pub mod interrupts;
#[cfg(not(loom))]
pub mod machine;
pub mod mmu;
pub mod oracle;
pub mod patience;
pub mod platform;
mod plug;
pub mod random;
#[cfg(not(loom))]
pub mod recording;
#[cfg(not(loom))]
pub mod scene;
#[cfg(not(loom))]
pub mod stripe;
pub mod tlb;
pub mod watch;
#[cfg(not(loom))]
pub mod world;

/// Compiles the example of the repository's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
