//! Registers of a device, at wherever the kernel mapped them.

use core::ptr;

/// The registers of one device: offsets are in bytes from its base.
///
/// Reads and writes are volatile and in program order; order against ordinary memory is the
/// caller's business (none of the drivers here does DMA).
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: usize,
}

impl Registers {
    /// Names the registers that are mapped at `base`.
    ///
    /// # Safety
    ///
    /// `base` is the kernel's address of a device of the kind that the driver is for, mapped as
    /// device memory (uncached) for as long as the value or a copy of it lives, and its effects
    /// never touch memory.
    pub const unsafe fn new(base: usize) -> Self {
        Self { base }
    }

    /// Where they are mapped.
    pub const fn base(self) -> usize {
        self.base
    }

    /// Reads a 32-bit register.
    pub fn read(self, offset: usize) -> u32 {
        // SAFETY: `new` promises a device there; drivers name registers of their device.
        unsafe { ptr::read_volatile(self.at(offset)) }
    }

    /// Writes a 32-bit register.
    pub fn write(self, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.at(offset), value) }
    }

    /// Reads an 8-bit register.
    pub fn read_byte(self, offset: usize) -> u8 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(self.at(offset)) }
    }

    /// Writes an 8-bit register.
    pub fn write_byte(self, offset: usize, value: u8) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.at(offset), value) }
    }

    fn at<T>(self, offset: usize) -> *mut T {
        ptr::with_exposed_provenance_mut(self.base.wrapping_add(offset))
    }
}
