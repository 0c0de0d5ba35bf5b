//! The page of helpers that user programs call at fixed addresses.
//!
//! Programs built for older Arm CPUs find there what the CPU of today does in an instruction, and
//! handlers without `sa_restorer` return through it. Every space shows it, read-only.
//!
//! ```text
//! 0xffff_0500  sigreturn     0xffff_0508  rt_sigreturn
//! 0xffff_0f60  compare and exchange 64 bits: r0 -> old, r1 -> new, r2 -> place; r0 = 0, C set: done
//! 0xffff_0fa0  memory barrier
//! 0xffff_0fc0  compare and exchange 32 bits: r0 = old, r1 = new, r2 -> place; r0 = 0, C set: done
//! 0xffff_0fe0  r0 = the thread pointer
//! 0xffff_0ffc  how many of these there are: (0x1000 - 0xf60) / 32
//! ```
//!
//! Source: Linux `Documentation/arch/arm/kernel_user_helpers.rst`.

use core::arch::global_asm;

/// Where the page is mapped.
pub const ADDRESS: usize = 0xffff_0000;
/// Calls sigreturn.
pub const SIGRETURN: usize = ADDRESS + 0x500;
/// Calls rt_sigreturn.
pub const RT_SIGRETURN: usize = ADDRESS + 0x508;

unsafe extern "C" {
    static kuser_page: u8;
}

/// Returns the page's physical address.
pub fn physical() -> u64 {
    crate::memory::physical_of_image(&raw const kuser_page)
}

global_asm!(
    r#"
    .pushsection .kuser, "a", %progbits
    .arm
    .balign 4096
    .global kuser_page
kuser_page:
    .org 0x500
    mov r7, #119
    svc #0
    mov r7, #173
    svc #0

    .org 0xf60
    push {{r4-r7}}
    ldrd r4, r5, [r0]
    ldrd r6, r7, [r1]
    dmb ish
1:  ldrexd r0, r1, [r2]
    subs r3, r0, r4
    subseq r3, r1, r5
    strexdeq r3, r6, r7, [r2]
    teqeq r3, #1
    beq 1b
    dmb ish
    rsbs r0, r3, #0
    pop {{r4-r7}}
    bx lr

    .org 0xfa0
kuser_barrier:
    dmb ish
    bx lr

    .org 0xfc0
    dmb ish
1:  ldrex r3, [r2]
    subs r3, r3, r0
    strexeq r3, r1, [r2]
    teqeq r3, #1
    beq 1b
    rsbs r0, r3, #0
    b kuser_barrier

    .org 0xfe0
    mrc p15, 0, r0, c13, c0, 3
    bx lr

    .org 0xffc
    .long (0x1000 - 0xf60) / 32
    .popsection
    "#
);
