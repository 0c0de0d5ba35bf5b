//! From the firmware's entry to [`kernel_main`](crate::kernel_main).
//!
//! The firmware (SBI) enters at the lowest address of the image in supervisor mode, paging off,
//! `a0` = hart, `a1` = physical address of the device tree. The boot tables serve every mode:
//!
//! ```text
//!  Sv57 root ──[0], [511]──► Sv48 root ──[0], [511]──► Sv39 root: leaves of 1 GiB
//!
//!  virtual                       physical
//!  the image's GiB               the same       until the real table is loaded
//!  0xffff_ffc0_0000_0000         0 .. 128 GiB   the direct map, RAM and devices
//!  0xffff_ffff_8000_0000         the image's GiB
//! ```
//!
//! The modes are tried deepest first: a write of `satp` with a mode that the hart does not have
//! has no effect, and any other turns paging on, where the identity map keeps the code running.
//! Which mode the kernel really uses is decided later (platform.rs).
//!
//! Sources: RISC-V Privileged Architecture 20240411, 10.1.11; SBI specification 2.0, chapter 2;
//! the boot protocol of Linux on RISC-V for the registers.

use core::arch::global_asm;

use crate::trap::STACK_BYTES;

global_asm!(
    r#"
    .pushsection .text.boot, "ax", @progbits
    .global boot_start
boot_start:
    csrw sie, zero
    csrw satp, zero
    csrci sstatus, 2            /* SIE */
    mv s0, a0
    mv s1, a1

    /* The loader need not have cleared .bss. */
    la t0, kernel_bss_start
    la t1, kernel_end
1:  sd zero, 0(t0)
    addi t0, t0, 8
    bltu t0, t1, 1b

    la s2, boot_root_39
    la s3, boot_root_48
    la s4, boot_root_57

    /* The direct map: V R W G A D, 128 leaves from index 256. */
    li t0, 0xe7
    li t1, 1 << 28
    li t2, 128
    li t4, 2048
    add t3, s2, t4
2:  sd t0, 0(t3)
    add t0, t0, t1
    addi t3, t3, 8
    addi t2, t2, -1
    bnez t2, 2b

    /* The image's GiB, executable: where it is, and at index 510. */
    srli t0, s2, 30
    slli t1, t0, 28
    ori t1, t1, 0xcf
    slli t2, t0, 3
    add t2, t2, s2
    sd t1, 0(t2)
    li t4, 510 * 8
    add t2, s2, t4
    sd t1, 0(t2)

    /* Each deeper root leads to the one before, from both ends. */
    li t4, 511 * 8
    srli t0, s2, 2
    ori t0, t0, 1
    sd t0, 0(s3)
    add t1, s3, t4
    sd t0, 0(t1)
    srli t0, s3, 2
    ori t0, t0, 1
    sd t0, 0(s4)
    add t1, s4, t4
    sd t0, 0(t1)
    sfence.vma

    li t0, 10
    mv t1, s4
    jal 3f
    li t0, 9
    mv t1, s3
    jal 3f
    li t0, 8
    mv t1, s2
    jal 3f
    j 5f                        /* no mode at all */
3:  slli t0, t0, 60
    srli t1, t1, 12
    or t0, t0, t1
    csrw satp, t0
    csrr t1, satp
    beq t0, t1, 4f
    ret

4:  sfence.vma
    la t0, boot_high
    la t1, boot_stack + {stack}
    li t2, -1
    slli t2, t2, 32             /* KERNEL_BASE */
    add sp, t1, t2
    add t0, t0, t2
    jr t0
boot_high:
    csrw sscratch, zero
    mv a0, s0
    mv a1, s1
    mv s0, zero
    mv ra, zero
    call kernel_main
5:  wfi
    j 5b
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
boot_root_39: .skip 4096
boot_root_48: .skip 4096
boot_root_57: .skip 4096
    /* As each stack of the kernel: at a multiple of twice its size, nothing below it. */
boot_stack_hole: .skip {stack}
    .balign {stack} * 2
    .global boot_stack
boot_stack: .skip {stack}
    .popsection
    "#,
    stack = const STACK_BYTES,
);
