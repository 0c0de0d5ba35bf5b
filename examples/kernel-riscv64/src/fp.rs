//! The floating-point state of user programs: f0 to f31 and fcsr.
//!
//! The kernel itself runs with sstatus.FS off (trap.rs), so an instruction of the kernel that
//! touched these registers would trap, and they always hold the running thread's state. They are
//! exchanged at every switch.
//!
//! Source: RISC-V Privileged Architecture 20240411, 3.1.6.7 (FS).

use core::arch::naked_asm;

/// An image: the registers as doubles, then fcsr, as in Linux' `struct __riscv_d_ext_state`.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct Image {
    pub registers: [u64; 32],
    pub fcsr: u32,
}

/// Bytes of an image.
pub const IMAGE_BYTES: usize = size_of::<Image>();

impl Image {
    /// The state with which programs start.
    pub const INITIAL: Self = Self {
        registers: [0; 32],
        fcsr: 0,
    };
}

macro_rules! each_register {
    ($instruction:literal) => {
        concat!(
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, \
             23, 24, 25, 26, 27, 28, 29, 30, 31\n",
            $instruction,
            " f\\n, 8*\\n(a0)\n.endr"
        )
    };
}

/// Saves the CPU's state in `image`.
///
/// # Safety
///
/// `image` points to a writable image.
#[unsafe(naked)]
pub unsafe extern "C" fn save(image: *mut Image) {
    naked_asm!(
        ".option push",
        ".option arch, +d",
        "li t0, 3 << 13", // FS
        "csrs sstatus, t0",
        each_register!("fsd"),
        "frcsr t1",
        "sw t1, 256(a0)",
        "csrc sstatus, t0",
        "ret",
        ".option pop",
    );
}

/// Loads the CPU's state from `image`. Every value is one that the registers can have; of fcsr
/// the CPU takes the bits that exist.
///
/// # Safety
///
/// `image` points to an image.
#[unsafe(naked)]
pub unsafe extern "C" fn load(image: *const Image) {
    naked_asm!(
        ".option push",
        ".option arch, +d",
        "li t0, 3 << 13",
        "csrs sstatus, t0",
        each_register!("fld"),
        "lw t1, 256(a0)",
        "fscsr t1",
        "csrc sstatus, t0",
        "ret",
        ".option pop",
    );
}
