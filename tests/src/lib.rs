//! The test world of the mm family: a machine made of a byte array.
//!
//! | module | what it simulates |
//! |---|---|
//! | [`arena`] | RAM: frames that scream when they are used wrongly |
//! | [`platform`] | CPUs, preemption, flushes, wake-ups, failing allocations |
//! | [`random`] | seeded choices |

pub mod arena;
pub mod platform;
pub mod random;
