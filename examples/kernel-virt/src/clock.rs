//! The date: the clock that runs when the machine is off.
//!
//! Sources: Arm DDI 0224 (PL031); Goldfish' documentation of its virtual hardware.

use crate::mmio::Registers;

/// Which clock a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// Counts seconds.
    Pl031,
    /// Counts nanoseconds.
    Goldfish,
}

const PL031_DATA: usize = 0;
const GOLDFISH_LOW: usize = 0;
const GOLDFISH_HIGH: usize = 4;

/// Reads the seconds since 1970. `registers` are those of a clock of this kind.
pub fn read(kind: ClockKind, registers: Registers) -> u64 {
    match kind {
        ClockKind::Pl031 => u64::from(registers.read(PL031_DATA)),
        ClockKind::Goldfish => {
            // Reading the low half holds the high half.
            let low = u64::from(registers.read(GOLDFISH_LOW));
            let high = u64::from(registers.read(GOLDFISH_HIGH));
            (high << 32 | low) / 1_000_000_000
        }
    }
}
