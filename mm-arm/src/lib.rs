//! Arm for [`mm_core`]: page-table formats, fault decoding, TLB and system
//! registers.
//!
//! | module | what | where it runs |
//! |---|---|---|
//! | [`aarch64::paging`] | VMSAv8-64, granules of 4, 16 and 64 KiB, 2 to 4 levels | any 64-bit host: addresses are `usize` |
//! | [`aarch64::fault`] | ESR_EL1 of instruction and data aborts | any host |
//! | [`aarch64::tlb`], [`aarch64::code`] | which instructions drop what, through [`aarch64::Emit`] | any host |
//! | [`aarch64::registers`] | values for TCR_EL1, MAIR_EL1, SCTLR_EL1, TTBRn_EL1 | any host |
//! | `aarch64::native` | those instructions and registers | AArch64 only |
//! | [`armv7`] | short descriptors with their software words, aborts, TLB of ARMv7-A | any host; its registers Arm only |
//! | [`lpae`] | the long descriptors of ARMv7-A: 3 levels, 40-bit output | any host with 64-bit atomics |
//!
//! # Formats and features
//!
//! | feature | | shown by |
//! |---|---|---|
//! | granules 4, 16, 64 KiB; T0SZ 16 to 32 | yes | `geometry_follows_granule_and_size` |
//! | pages, blocks, tables | yes | `known_words_of_linux`, `every_leaf_survives_the_round_trip` |
//! | contiguous hint | yes | `runs_are_as_long_as_the_manual_says` |
//! | accessed and dirty: software, FEAT_HAFDBS accessed, both | yes | `a_word_is_settled_when_hardware_has_nothing_left_to_set` |
//! | ASIDs of 8 and 16 bits, nG | yes | `tcr_matches_the_format` |
//! | TLBI by address, range, ASID, all; local and broadcast | yes | `tlb` tests |
//! | 52-bit addresses (FEAT_LPA, FEAT_LPA2) | not yet: addresses of 48 bits in and out | |
//! | stage 2, EL2 | not yet | |
//!
//! Sources: Arm Architecture Reference Manual for A-profile (DDI 0487),
//! chapters D7 "The AArch64 System Level Memory Model", D8 "The AArch64 Virtual
//! Memory System Architecture" and D17 (ESR_EL1); for LPAE, DDI 0406C, B3.6.
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

pub mod aarch64;
pub mod armv7;
#[cfg_attr(
    not(target_has_atomic = "64"),
    allow(dead_code, reason = "no word of 64 bits, so no format is built of it")
)]
mod descriptor;
#[cfg(target_has_atomic = "64")]
pub mod lpae;
