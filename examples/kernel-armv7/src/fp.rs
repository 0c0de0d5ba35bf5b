//! The floating-point and SIMD state of user programs. The kernel itself is compiled without it,
//! so the registers always hold the running thread's state and are exchanged at every switch.
//!
//! ```text
//!  0   d0 .. d31     256 bytes
//!  256 FPSCR
//!  260 TPIDRURW      the thread register that programs write themselves
//! ```
//!
//! Source: DDI 0406C A2.5 and B6.1 (VFP and Advanced SIMD registers).

use core::arch::{asm, global_asm};

/// Bytes of an image, aligned to 8.
pub const IMAGE_BYTES: usize = 264;
/// Where FPSCR stands in an image.
pub const FPSCR: usize = 256;

/// Bits of FPSCR that a program may choose: NZCV QC AHP DN FZ RMode Stride Len, flags. Traps
/// (bits 8 to 15) are not supported by the CPUs that are run on.
pub const FPSCR_USER: u32 = 0xfff7_009f;

unsafe extern "C" {
    fn fp_save(image: *mut u8);
    fn fp_load(image: *const u8);
    fn fp_enable();
    fn fp_features(features: *mut [u32; 2]);
}

/// Switches the unit on.
///
/// # Safety
///
/// CPACR allows it, on this CPU.
pub unsafe fn enable() {
    // SAFETY: the caller's promise.
    unsafe { fp_enable() }
}

/// Reads MVFR0 and MVFR1.
///
/// # Safety
///
/// CPACR allows it, on this CPU; the unit need not be on.
pub unsafe fn features() -> (u32, u32) {
    let mut features = [0; 2];
    // SAFETY: the caller's promise; two words are written.
    unsafe { fp_features(&mut features) };
    (features[0], features[1])
}

/// Saves the CPU's state in `image`.
///
/// # Safety
///
/// `image` points to [`IMAGE_BYTES`] writable bytes, aligned to 8.
pub unsafe fn save(image: *mut u8) {
    // SAFETY: the caller's promise; the last word is TPIDRURW's.
    unsafe {
        fp_save(image);
        let word: u32;
        asm!("mrc p15, 0, {}, c13, c0, 2", out(reg) word, options(nomem, nostack, preserves_flags));
        image.add(260).cast::<u32>().write(word);
    }
}

/// Loads the CPU's state from `image`.
///
/// # Safety
///
/// As [`save`], and the bytes were written by [`save`] or are all zero, or are a program's with
/// FPSCR cut to [`FPSCR_USER`].
pub unsafe fn load(image: *const u8) {
    // SAFETY: the caller's promise.
    unsafe {
        fp_load(image);
        let word = image.add(260).cast::<u32>().read();
        asm!("mcr p15, 0, {}, c13, c0, 2", in(reg) word, options(nomem, nostack, preserves_flags));
    }
}

global_asm!(
    r#"
    .pushsection .text.fp, "ax", %progbits
    .arm
    .fpu neon
    .global fp_save
fp_save:
    vstmia r0!, {{d0-d15}}
    vstmia r0!, {{d16-d31}}
    vmrs r1, fpscr
    str r1, [r0]
    bx lr
    .global fp_load
fp_load:
    vldmia r0!, {{d0-d15}}
    vldmia r0!, {{d16-d31}}
    ldr r1, [r0]
    vmsr fpscr, r1
    bx lr
    .global fp_enable
fp_enable:
    mov r0, #1 << 30            /* FPEXC.EN */
    vmsr fpexc, r0
    bx lr
    .global fp_features
fp_features:
    vmrs r1, mvfr0
    vmrs r2, mvfr1
    stm r0, {{r1, r2}}
    bx lr
    .popsection
    "#
);
