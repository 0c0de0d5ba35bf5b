//! The FP/SIMD state of user programs. The kernel itself is compiled without it, so the
//! registers always hold the running thread's state and are exchanged at every switch.
//!
//! An image is [`bytes`](Features::fp_bytes) long and aligned to 64: XSAVE's standard format with
//! the components that the kernel switched on, or FXSAVE's 512 bytes.
//!
//! Source: Intel SDM volume 1, 10.5 (FXSAVE), 13.4 (XSAVE area), 13.8 (XRSTOR's checks).

use core::arch::asm;
use core::arch::x86_64::{_fxrstor64, _fxsave64};
use core::ptr;

use crate::cpu::{self, Features};

/// Alignment of an image, in bytes.
pub const ALIGNMENT: usize = 64;

const CONTROL_WORD: usize = 0;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const XSTATE_BITS: usize = 512;
const XSTATE_HEADER_END: usize = 576;

/// Where FXSAVE leaves room for software; Linux describes the XSAVE image there.
pub const SOFTWARE_BYTES: usize = 464;

/// Saves the CPU's state in `image`.
///
/// # Safety
///
/// `image` points to `fp_bytes` writable bytes, aligned to [`ALIGNMENT`], and was once given to
/// [`initialise`].
pub unsafe fn save(image: *mut u8) {
    let mask = cpu::features().xsave_mask;
    // SAFETY: the caller's promise; XSAVE is used only where OSXSAVE is on.
    unsafe {
        if mask == 0 {
            _fxsave64(image);
        } else {
            asm!("xsave64 [{}]", in(reg) image, in("eax") mask as u32, in("edx") (mask >> 32) as u32,
                options(nostack, preserves_flags));
        }
    }
}

/// Loads the CPU's state from `image`.
///
/// # Safety
///
/// `image` points to an image made by [`initialise`], [`save`] or [`make_safe`].
pub unsafe fn load(image: *const u8) {
    let mask = cpu::features().xsave_mask;
    // SAFETY: the caller's promise: the image passes the instruction's checks.
    unsafe {
        if mask == 0 {
            _fxrstor64(image);
        } else {
            asm!("xrstor64 [{}]", in(reg) image, in("eax") mask as u32, in("edx") (mask >> 32) as u32,
                options(nostack, readonly, preserves_flags));
        }
    }
}

/// Writes the state with which programs start.
///
/// # Safety
///
/// `image` points to `fp_bytes` writable bytes, aligned to [`ALIGNMENT`].
pub unsafe fn initialise(image: *mut u8) {
    // SAFETY: the caller's promise; both fields lie in the first 512 bytes.
    unsafe {
        ptr::write_bytes(image, 0, cpu::features().fp_bytes);
        image.add(CONTROL_WORD).cast::<u16>().write(0x037f);
        image.add(MXCSR).cast::<u32>().write(0x1f80);
    }
}

/// Changes an image that a program may have edited so that [`load`] does not fault on it.
pub fn make_safe(image: &mut [u8], features: &Features) {
    const DEFAULT_MASK: u32 = 0xffbf;
    // The mask field itself comes from the program: it is not believed.
    let mxcsr = read_u32(image, MXCSR) & DEFAULT_MASK;
    image[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    image[MXCSR_MASK..MXCSR_MASK + 4].copy_from_slice(&DEFAULT_MASK.to_le_bytes());
    if features.xsave_mask != 0 {
        let low = u64::from(read_u32(image, XSTATE_BITS));
        let high = u64::from(read_u32(image, XSTATE_BITS + 4));
        let bits = (high << 32 | low) & features.xsave_mask;
        image[XSTATE_BITS..XSTATE_HEADER_END].fill(0);
        image[XSTATE_BITS..XSTATE_BITS + 8].copy_from_slice(&bits.to_le_bytes());
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
