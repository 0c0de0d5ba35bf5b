//! The error of the verbs.
//!
//! One small `Copy` enum. Each variant says what and where, and has the errno
//! that Linux documents for it.

use crate::addr::VirtAddr;
use crate::range::RangeError;

/// Why a verb on an address space did nothing.
///
/// Every verb is failure-atomic: on an error, the space, its tables, counts
/// and frames are as before. Where Linux documents a partial effect over a
/// hole or a denied area, the verb says which: `protect` has changed exactly the
/// prefix up to the carried address, `advise` also what lies behind a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MmError {
    /// An argument is malformed: unaligned, empty, contradictory.
    Invalid(VirtAddr),
    /// A range wraps or lies outside what a user may map.
    OutOfRange(VirtAddr),
    /// The range holds no area at this address.
    Unmapped(VirtAddr),
    /// `FIXED_NOREPLACE` met an existing area at this address.
    Exists(VirtAddr),
    /// The rights asked for exceed what the backing allows.
    Denied(VirtAddr),
    /// The caller may not do this (sealed, locked, above a limit for locks).
    NotPermitted(VirtAddr),
    /// The object is busy: written while mapped for execution, or executed
    /// while written (`ETXTBSY`).
    Busy,
    /// No gap of this many bytes is left below the limit.
    NoGap(usize),
    /// A limit (areas, bytes of address space, memory that there is) would be exceeded.
    Limit,
    /// The limit of locked memory would be exceeded (mmap(2), `RLIMIT_MEMLOCK`).
    LockLimit,
    /// No frame or node was left.
    OutOfMemory,
    /// The store of the object holds all that it may
    /// ([`Platform::try_hold`](crate::platform::Platform::try_hold)).
    NoSpace,
    /// A user address could not be accessed.
    Fault(VirtAddr),
    /// A pager reported that a transfer failed.
    Io,
    /// The operation is not possible for this kind of backing.
    NotSupported,
    /// The offset or size does not fit the object.
    TooBig,
}

impl MmError {
    /// Returns the positive errno that Linux uses for this error.
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotPermitted(_) => 1, // EPERM
            Self::Io => 5,              // EIO
            Self::LockLimit => 11,      // EAGAIN
            Self::Unmapped(_) | Self::NoGap(_) | Self::Limit | Self::OutOfMemory => 12, // ENOMEM
            Self::OutOfRange(_) => 12,
            Self::Denied(_) => 13,    // EACCES
            Self::Fault(_) => 14,     // EFAULT
            Self::Exists(_) => 17,    // EEXIST
            Self::NotSupported => 19, // ENODEV
            Self::Invalid(_) => 22,   // EINVAL
            Self::Busy => 26,         // ETXTBSY
            Self::NoSpace => 28,      // ENOSPC
            Self::TooBig => 75,       // EOVERFLOW
        }
    }
}

impl From<RangeError> for MmError {
    fn from(e: RangeError) -> Self {
        match e {
            RangeError::Unaligned(a) | RangeError::Wraps(a) => Self::Invalid(a),
            RangeError::Empty => Self::Invalid(VirtAddr::new(0)),
        }
    }
}

/// No frame was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// A store of memory-only objects holds all that it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSpace;

impl From<OutOfMemory> for MmError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}
