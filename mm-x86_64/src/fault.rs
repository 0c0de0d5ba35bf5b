//! The error code of a page fault.

use bitflags::bitflags;
use mm_core::prot::Access;

bitflags! {
    /// The error code that the CPU pushes for vector 14 (SDM 3A 4.7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PageFaultCode: u32 {
        /// The entry was present: rights were missing.
        const PRESENT = 1;
        /// The access was a store.
        const WRITE = 1 << 1;
        /// The CPU was in user mode.
        const USER = 1 << 2;
        /// A reserved bit was set in an entry: the tables are corrupt.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
        /// A protection key forbade it.
        const PROTECTION_KEY = 1 << 5;
        /// A shadow-stack access.
        const SHADOW_STACK = 1 << 6;
        /// An SGX access-control violation.
        const SGX = 1 << 15;
    }
}

impl PageFaultCode {
    /// Returns what the CPU tried to do.
    pub const fn access(self) -> Access {
        if self.contains(Self::FETCH) {
            Access::Exec
        } else if self.contains(Self::WRITE) {
            Access::Write
        } else {
            Access::Read
        }
    }

    /// Returns whether the CPU was in user mode.
    pub const fn is_user(self) -> bool {
        self.contains(Self::USER)
    }

    /// Returns whether page tables are corrupt: never a user's fault.
    pub const fn is_corruption(self) -> bool {
        self.contains(Self::RESERVED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_decode_as_the_manual_says() {
        let code = |n| PageFaultCode::from_bits_retain(n);
        assert_eq!(code(4).access(), Access::Read);
        assert_eq!(code(6).access(), Access::Write);
        assert_eq!(code(7).access(), Access::Write);
        assert_eq!(code(0x14).access(), Access::Exec);
        assert!(code(0x14).is_user() && !code(2).is_user());
        assert!(code(8).is_corruption() && !code(7).is_corruption());
    }
}
