//! Random bytes: RDRAND where the CPU has it, otherwise a generator seeded by the clocks.
//!
//! The fallback (SplitMix64) is good enough to make programs start; it is not secret.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{clock, cpu};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let word = hardware().unwrap_or_else(fallback).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

fn hardware() -> Option<u64> {
    if !cpu::features().rdrand {
        return None;
    }
    // The manual's advice: ten tries, then treat the unit as broken.
    (0..10).find_map(|_| {
        let (word, ok): (u64, u8);
        // SAFETY: the CPU has the instruction, as just checked; it only writes its operand.
        unsafe {
            core::arch::asm!(
                "rdrand {word}", "setc {ok}",
                word = out(reg) word, ok = out(reg_byte) ok, options(nomem, nostack)
            );
        }
        (ok != 0).then_some(word)
    })
}

fn fallback() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let seed = clock::counter().wrapping_add(clock::boot_time());
    let state = STATE.fetch_add(STEP ^ (seed << 1), Ordering::Relaxed);
    let mut word = state.wrapping_add(seed);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
