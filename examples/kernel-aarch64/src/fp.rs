//! The FP and SIMD state of user programs. The kernel itself is compiled without it, so the
//! registers always hold the running thread's state and are exchanged at every switch.
//!
//! SVE and SME are not offered: their use traps (CPACR_EL1), which is SIGILL, and AT_HWCAP does
//! not name them.

use core::arch::global_asm;

/// The registers V0 to V31, FPSR and FPCR.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Image {
    pub v: [u128; 32],
    pub fpsr: u32,
    pub fpcr: u32,
    unused: u64,
}

/// Bytes of an image.
pub const IMAGE_BYTES: usize = size_of::<Image>();

const _: () = assert!(IMAGE_BYTES == 528);

unsafe extern "C" {
    fn fp_save(image: *mut Image);
    fn fp_load(image: *const Image);
}

/// Saves the CPU's state in `image`.
///
/// # Safety
///
/// `image` may be written.
pub unsafe fn save(image: *mut Image) {
    // SAFETY: the caller's promise; FP is on since `cpu::init`.
    unsafe { fp_save(image) }
}

/// Loads the CPU's state: any value may be loaded (reserved bits of FPCR are ignored or kept).
///
/// # Safety
///
/// `image` may be read.
pub unsafe fn load(image: *const Image) {
    // SAFETY: as above.
    unsafe { fp_load(image) }
}

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    .pushsection .text.fp, "ax", @progbits
    .balign 16
fp_save:
    stp     q0, q1, [x0]
    stp     q2, q3, [x0, #(2 * 16)]
    stp     q4, q5, [x0, #(4 * 16)]
    stp     q6, q7, [x0, #(6 * 16)]
    stp     q8, q9, [x0, #(8 * 16)]
    stp     q10, q11, [x0, #(10 * 16)]
    stp     q12, q13, [x0, #(12 * 16)]
    stp     q14, q15, [x0, #(14 * 16)]
    stp     q16, q17, [x0, #(16 * 16)]
    stp     q18, q19, [x0, #(18 * 16)]
    stp     q20, q21, [x0, #(20 * 16)]
    stp     q22, q23, [x0, #(22 * 16)]
    stp     q24, q25, [x0, #(24 * 16)]
    stp     q26, q27, [x0, #(26 * 16)]
    stp     q28, q29, [x0, #(28 * 16)]
    stp     q30, q31, [x0, #(30 * 16)]
    mrs     x1, fpsr
    mrs     x2, fpcr
    add     x0, x0, #(32 * 16)
    stp     w1, w2, [x0]
    ret

    .balign 16
fp_load:
    ldp     q0, q1, [x0]
    ldp     q2, q3, [x0, #(2 * 16)]
    ldp     q4, q5, [x0, #(4 * 16)]
    ldp     q6, q7, [x0, #(6 * 16)]
    ldp     q8, q9, [x0, #(8 * 16)]
    ldp     q10, q11, [x0, #(10 * 16)]
    ldp     q12, q13, [x0, #(12 * 16)]
    ldp     q14, q15, [x0, #(14 * 16)]
    ldp     q16, q17, [x0, #(16 * 16)]
    ldp     q18, q19, [x0, #(18 * 16)]
    ldp     q20, q21, [x0, #(20 * 16)]
    ldp     q22, q23, [x0, #(22 * 16)]
    ldp     q24, q25, [x0, #(24 * 16)]
    ldp     q26, q27, [x0, #(26 * 16)]
    ldp     q28, q29, [x0, #(28 * 16)]
    ldp     q30, q31, [x0, #(30 * 16)]
    add     x0, x0, #(32 * 16)
    ldp     w1, w2, [x0]
    msr     fpsr, x1
    msr     fpcr, x2
    ret
    .popsection
    "#
);
