//! Random bytes from the device tree's seed.
//!
//! SplitMix64 is good enough to make programs start; it is not secret. A CPU's own source, where
//! there is one, is better.

use core::sync::atomic::{AtomicU64, Ordering};

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A generator, to be a static.
pub struct Random(AtomicU64);

impl Random {
    /// Makes a generator that was not seeded.
    #[expect(clippy::new_without_default, reason = "a generator is a static")]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Mixes a seed in: [`Facts::seed`](crate::tree::Facts::seed), a counter, the date.
    pub fn seed(&self, seed: u64) {
        self.0.fetch_add(mix(seed), Ordering::Relaxed);
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = mix(self.0.fetch_add(STEP, Ordering::Relaxed)).to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(to, from)| *to = from);
        }
    }
}

fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
