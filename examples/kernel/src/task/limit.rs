//! Resource limits of a process: getrlimit(2).
//!
//! | limit | who keeps it |
//! |---|---|
//! | `RLIMIT_AS`, `RLIMIT_DATA`, `RLIMIT_STACK` | the address space ([`Space::set_limits`](crate::memory::Space::set_limits)) |
//! | `RLIMIT_NOFILE` | every call that makes a descriptor |
//! | any other | nobody: it is remembered |

use crate::errno::{Errno, Result};
use crate::limits::{DESCRIPTORS, TASKS};

/// `RLIMIT_DATA`: bytes of data and heap.
pub const DATA: usize = 2;
/// `RLIMIT_STACK`: bytes of the stack.
pub const STACK: usize = 3;
/// `RLIMIT_NPROC`.
const PROCESSES: usize = 6;
/// `RLIMIT_NOFILE`: descriptors are below it.
pub const FILES: usize = 7;
/// `RLIMIT_AS`: bytes of the address space.
pub const SPACE: usize = 9;
const RESOURCES: usize = 16;

/// No limit.
const INFINITY: u64 = u64::MAX;
const STACK_BYTES: u64 = 8 << 20;

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What holds.
    pub soft: u64,
    /// The most that it may be set to.
    pub hard: u64,
}

/// The limits of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits([Limit; RESOURCES]);

impl Limits {
    /// Makes the limits of the first process.
    #[must_use]
    pub fn new() -> Self {
        let both = |most| Limit {
            soft: most,
            hard: most,
        };
        let mut limits = [both(INFINITY); RESOURCES];
        limits[STACK].soft = STACK_BYTES;
        limits[PROCESSES] = both(TASKS as u64);
        limits[FILES] = both(DESCRIPTORS as u64);
        Limits(limits)
    }

    /// Answers a limit.
    ///
    /// # Errors
    /// `EINVAL` when there is no such resource.
    pub fn get(&self, resource: usize) -> Result<Limit> {
        self.0.get(resource).copied().ok_or(Errno::EINVAL)
    }

    /// Changes a limit, as root may; answers what it was.
    ///
    /// # Errors
    /// `EINVAL`; `EPERM` for more descriptors than there can be.
    pub fn set(&mut self, resource: usize, limit: Limit) -> Result<Limit> {
        let old = self.get(resource)?;
        if limit.soft > limit.hard {
            return Err(Errno::EINVAL);
        }
        if resource == FILES && limit.hard > DESCRIPTORS as u64 {
            return Err(Errno::EPERM);
        }
        self.0[resource] = limit;
        Ok(old)
    }

    /// Answers what holds, in units of this machine's memory.
    #[must_use]
    pub fn amount(&self, resource: usize) -> usize {
        usize::try_from(self.0[resource].soft).unwrap_or(usize::MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{DESCRIPTORS, Errno, FILES, Limit, Limits, STACK};

    #[test]
    fn limits_are_kept_and_bounded() {
        let mut limits = Limits::new();
        let stack = limits.get(STACK).unwrap();
        let less = Limit { soft: 5, ..stack };
        assert_eq!(limits.set(STACK, less), Ok(stack));
        assert_eq!((limits.get(STACK), limits.amount(STACK)), (Ok(less), 5));
        let crossed = Limit { soft: 2, hard: 1 };
        assert_eq!(limits.set(STACK, crossed), Err(Errno::EINVAL));
        let most = DESCRIPTORS as u64;
        let many = |hard| Limit { soft: 1, hard };
        assert_eq!(limits.set(FILES, many(most + 1)), Err(Errno::EPERM));
        assert!(limits.set(FILES, many(most)).is_ok());
        assert_eq!(limits.get(16), Err(Errno::EINVAL));
    }
}
