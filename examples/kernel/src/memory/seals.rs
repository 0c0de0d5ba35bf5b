//! Seals: what nobody may do to a file in memory any more (fcntl(2), `F_ADD_SEALS`).
//!
//! | seal | refuses |
//! |---|---|
//! | `SEAL` | further seals; files that were not made to be sealed have it |
//! | `SHRINK`, `GROW` | a smaller size; a larger one, and writes that would need it |
//! | `EXEC` | a change of the rights to run it |
//!
//! Those against stores are not offered: who maps a file shared to store to it, now or after a
//! fork, is not counted. Seals are added and asked for under the file's `writing` turn, that of the
//! rights under the node's facts.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::errno::{Errno, Result};

/// The seals of one file.
pub struct Seals {
    bits: AtomicU32,
}

impl Seals {
    /// No further seals.
    pub const SEAL: u32 = 1;
    const SHRINK: u32 = 2;
    const GROW: u32 = 4;
    /// The rights to run it stay.
    pub const EXEC: u32 = 32;
    const OFFERED: u32 = Self::SEAL | Self::SHRINK | Self::GROW | Self::EXEC;

    /// Makes the seals of a new file.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Seals {
            bits: AtomicU32::new(bits),
        }
    }

    /// Answers the bits.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits.load(Ordering::Relaxed)
    }

    /// Adds seals to a file with these rights.
    ///
    /// # Errors
    /// `EPERM` when it is sealed against that; `EINVAL` for a seal that is not offered, which
    /// includes that of the rights of a file that can be run: it would be one against stores, too.
    pub fn add(&self, bits: u32, permissions: u32) -> Result<()> {
        if self.bits() & Self::SEAL != 0 {
            return Err(Errno::EPERM);
        }
        let runs = permissions & 0o111 != 0;
        if bits & !Self::OFFERED != 0 || (bits & Self::EXEC != 0 && runs) {
            return Err(Errno::EINVAL);
        }
        self.bits.fetch_or(bits, Ordering::Relaxed);
        Ok(())
    }

    /// Refuses a change of size.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn check_size(&self, from: u64, to: u64) -> Result<()> {
        let refused = (to < from && self.bits() & Self::SHRINK != 0)
            || (to > from && self.bits() & Self::GROW != 0);
        if refused { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Refuses a change of rights.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn check_permissions(&self, from: u32, to: u32) -> Result<()> {
        if (from ^ to) & 0o111 != 0 && self.bits() & Self::EXEC != 0 {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Answers how many of `length` bytes may be written at `at` of a file with that size: page by
    /// page, up to the first page that would need a larger one.
    ///
    /// # Errors
    /// `EPERM` when that is none.
    pub fn writable(&self, at: u64, length: usize, size: u64, page: u64) -> Result {
        let end = at.saturating_add(length as u64);
        if end <= size || self.bits() & Self::GROW == 0 {
            return Ok(length);
        }
        match (size & !(page - 1)).checked_sub(at) {
            Some(most) if most > 0 => Ok(most as usize),
            _ => Err(Errno::EPERM),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, Seals};

    #[test]
    fn a_sealed_file_is_written_up_to_its_last_whole_page() {
        let seals = Seals::new(0);
        assert_eq!(seals.writable(9000, 5, 0, 4096), Ok(5));
        seals.add(Seals::GROW, 0o777).unwrap();
        assert_eq!(seals.writable(0, 4196, 4196, 4096), Ok(4196));
        assert_eq!(seals.writable(0, 4197, 4196, 4096), Ok(4096));
        assert_eq!(seals.writable(4096, 101, 4196, 4096), Err(Errno::EPERM));
        assert_eq!(
            seals.writable(u64::MAX, usize::MAX, 4196, 4096),
            Err(Errno::EPERM)
        );
    }

    #[test]
    fn what_cannot_be_kept_is_not_sealed() {
        let seals = Seals::new(0);
        for refused in [8, 16, Seals::EXEC, 1 << 31] {
            assert_eq!(seals.add(refused, 0o700), Err(Errno::EINVAL));
        }
        assert_eq!(seals.bits(), 0);
        seals.add(Seals::EXEC | Seals::SEAL, 0o600).unwrap();
        assert_eq!(seals.add(Seals::GROW, 0o600), Err(Errno::EPERM));
        assert_eq!(seals.check_permissions(0o600, 0o700), Err(Errno::EPERM));
        assert_eq!(seals.check_permissions(0o600, 0o644), Ok(()));
    }
}
