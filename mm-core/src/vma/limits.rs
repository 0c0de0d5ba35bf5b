//! What a space may use, and what it uses.

use crate::addr::{VirtAddr, Vpn};
use crate::format::PageTableFormat;
use crate::sync::{Ordering, Tally};

/// The bounds of one space, set when it is made and copied by fork.
///
/// Byte limits are those of getrlimit(2); `usize::MAX` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceLimits {
    /// The lowest address a user may map (Linux: vm.mmap_min_addr).
    pub min_addr: VirtAddr,
    /// Where the top-down search for a gap starts; below the stack.
    pub mmap_base: VirtAddr,
    /// Bytes of address space (RLIMIT_AS).
    pub address_space: usize,
    /// Bytes of data and heap (RLIMIT_DATA).
    pub data: usize,
    /// Bytes of a growing stack (RLIMIT_STACK).
    pub stack: usize,
    /// Bytes of locked memory (RLIMIT_MEMLOCK).
    pub locked: usize,
    /// Areas (Linux: vm.max_map_count).
    pub areas: usize,
    /// Bytes kept free below a growing stack (Linux: stack_guard_gap).
    pub stack_guard: usize,
}

impl SpaceLimits {
    /// Nothing may be mapped.
    pub(crate) const NONE: Self = Self {
        min_addr: VirtAddr::new(0),
        mmap_base: VirtAddr::new(0),
        address_space: 0,
        data: 0,
        stack: 0,
        locked: 0,
        areas: 0,
        stack_guard: 0,
    };

    /// Makes the limits that Linux gives by default on this format: 8 MiB of
    /// stack, 1 MiB of guard, 65,530 areas; mapping starts 16 MiB below the
    /// end of user space, which leaves the stack its room.
    pub fn for_format<F: PageTableFormat>(format: F) -> Self {
        let shift = format.page_shift();
        let end = format.user_end();
        let reserve: usize = 16 << 20;
        let base = end.saturating_sub(reserve.checked_shr(shift).unwrap_or(0));
        Self {
            min_addr: VirtAddr::new(64 << 10),
            mmap_base: base.addr(shift),
            address_space: usize::MAX,
            data: usize::MAX,
            stack: 8 << 20,
            locked: 8 << 20,
            areas: 65_530,
            stack_guard: 1 << 20,
        }
    }

    /// Returns the lowest page a user may map.
    pub fn min_page(&self, page_shift: u32) -> Vpn {
        let mask = crate::addr::page_mask(page_shift);
        VirtAddr::new(self.min_addr.as_usize().saturating_add(mask)).vpn(page_shift)
    }

    /// Returns a byte limit in whole pages.
    pub fn pages(bytes: usize, page_shift: u32) -> usize {
        bytes.checked_shr(page_shift).unwrap_or(0)
    }
}

/// A count of pages, changed under the space lock.
#[derive(Debug)]
pub struct PageCount(Tally);

impl PageCount {
    #[cfg(not(loom))]
    /// Makes a count of zero.
    pub const fn new() -> Self {
        Self(Tally::new(0))
    }

    #[cfg(loom)]
    /// Makes a count of zero.
    pub fn new() -> Self {
        Self(Tally::new(0))
    }

    /// Returns the count.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the count.
    pub(crate) fn set(&self, n: usize) {
        self.0.store(n, Ordering::Relaxed);
    }
}

/// A count of pages to which CPUs owe a part until it is settled, so
/// that it may be off by that much, and below zero meanwhile.
#[derive(Debug)]
pub struct PresentCount(Tally);

impl PresentCount {
    pub(super) fn new() -> Self {
        Self(Tally::new(0))
    }

    /// Returns the count; zero where it is below.
    pub fn get(&self) -> usize {
        let count = self.0.load(Ordering::Relaxed);
        if isize::try_from(count).is_ok() {
            count
        } else {
            0
        }
    }

    pub(super) fn change(&self, by: i32) {
        let n = usize::try_from(by.unsigned_abs()).unwrap_or(0);
        if by < 0 {
            self.sub(n);
        } else {
            self.add(n);
        }
    }

    pub(super) fn set_zero(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Adds pages.
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Subtracts pages.
    pub(crate) fn sub(&self, n: usize) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }
}

#[cfg(not(loom))]
impl Default for PageCount {
    fn default() -> Self {
        Self::new()
    }
}
