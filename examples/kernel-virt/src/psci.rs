//! The firmware's power calls (PSCI): their numbers and their answers.
//!
//! A kernel makes the calls, by the instruction that the device tree names
//! ([`Facts::psci`](crate::tree::Facts::psci)): function in the first register, arguments in the
//! next three, the answer in the first.
//!
//! ```text
//! CPU_ON(name of the CPU, physical entry, context)
//!   the CPU starts at the entry: translation and caches off, interrupts masked, context in the
//!   first register; nothing else of its state is promised
//! ```
//!
//! Source: Arm DEN 0022, 5.1 (functions), 5.2 (answers), 6.4 (the state of a CPU that starts).

use core::fmt;

/// CPU_ON of a 32-bit caller.
pub const CPU_ON: u32 = 0x8400_0003;
/// CPU_ON of a 64-bit caller.
pub const CPU_ON_64: u32 = 0xc400_0003;
/// SYSTEM_OFF, the same for both.
pub const SYSTEM_OFF: u32 = 0x8400_0008;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub i32);

impl Refused {
    /// Takes the answer of a call: 0 is success.
    ///
    /// # Errors
    ///
    /// What the firmware says.
    pub const fn check(answer: i32) -> Result<(), Self> {
        match answer {
            0 => Ok(()),
            code => Err(Self(code)),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            -1 => "not supported",
            -2 => "invalid parameters",
            -3 => "denied",
            -4 => "already on",
            -5 => "on pending",
            -6 => "internal failure",
            -7 => "not present",
            -8 => "disabled",
            -9 => "invalid address",
            code => return write!(text, "PSCI error {code}"),
        };
        text.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zero_is_success() {
        assert_eq!(Refused::check(0), Ok(()));
        let refused = Refused::check(-4).unwrap_err();
        assert_eq!(refused.to_string(), "already on");
        assert_eq!(Refused(-77).to_string(), "PSCI error -77");
    }
}
