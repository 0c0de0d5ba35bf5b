//! From the loader's entry to [`kernel_main`](crate::kernel_main), and from the firmware's to
//! [`secondary_main`](crate::smp::secondary_main).
//!
//! QEMU (or another loader that knows Linux' protocol) enters a flat image at its first byte: MMU
//! and data cache off, supervisor mode, `r2` = physical address of the device tree. The boot table
//! is one level of sections of 1 MiB:
//!
//! ```text
//! virtual                 physical
//! 0x4000_0000 + 1 MiB     the same                    until the real table is loaded
//! 0xc000_0000 + 768 MiB   0x4000_0000 ..              the direct map (memory.rs)
//! 0xf000_0000 +  64 MiB   0x4000_0000 ..              the kernel image
//! 0xfe00_0000 +   1 MiB   the serial port's           filled in by memory.rs
//! ```
//!
//! The kernel's table maps the upper half by pages, and no TLB may hold a section and a page of one
//! address (B3.10.1, "break-before-make"). So `boot_enter_table` changes to it with the MMU off, at
//! the address where that makes no difference, and is found there by a split of the two halves:
//!
//! | | below 0x8000_0000 | above |
//! |---|---|---|
//! | boot table | TTBR0: boot table | TTBR0: boot table |
//! | `boot_enter_table` | TTBR0: boot table | TTBR1: the kernel's |
//! | `kernel_table::enter` | TTBR0: the kernel's, or a space's | TTBR0 |
//!
//! The other CPUs start at `boot_secondary` when the kernel's table stands (smp.rs), and load it by
//! the same split. Until the MMU is on they read no memory, because what the first CPU wrote may be
//! in its caches only; all they are told is in `r0`.
//!
//! Sources: Linux `Documentation/arch/arm/booting.rst`; DDI 0406C B3.5.1 (sections), B3.5.4 (the
//! split), B4.1.130 (SCTLR).

use core::arch::global_asm;

use mm_arm::armv7::registers::{
    DACR_CLIENTS, SCTLR_ACCESS_FLAG, SCTLR_ALIGNMENT, SCTLR_BRANCH, SCTLR_CACHE,
    SCTLR_HIGH_VECTORS, SCTLR_INSTRUCTION_CACHE, SCTLR_MMU, SCTLR_REMAP, SCTLR_THUMB_EXCEPTIONS,
    TTBR_SHAREABLE,
};

use crate::memory::{DIRECT_MAP, DIRECT_MIB, IMAGE_MIB, KERNEL_OFFSET, RAM_BASE};

/// Bytes of the boot stack, which later is the first idle thread's stack.
pub const BOOT_STACK_BYTES: usize = 64 * 1024;

/// A section of normal memory: write-back, shareable, for the kernel only, executable.
const SECTION_RAM: usize = 0x1_140e;

const SCTLR_SET: u32 = SCTLR_MMU | SCTLR_CACHE | SCTLR_BRANCH | SCTLR_INSTRUCTION_CACHE;
const SCTLR_CLEAR: u32 =
    SCTLR_ALIGNMENT | SCTLR_HIGH_VECTORS | SCTLR_REMAP | SCTLR_ACCESS_FLAG | SCTLR_THUMB_EXCEPTIONS;

global_asm!(
    r#"
    .macro load32 register, value
    movw \register, #:lower16:(\value)
    movt \register, #:upper16:(\value)
    .endm

    /* Maps `count` MiB from the index in r4 to the section word in r3. */
    .macro sections count
    mov r5, #\count
2:  str r3, [r4], #4
    add r3, r3, #0x100000
    subs r5, r5, #1
    bne 2b
    .endm

    /* Joins the coherent CPUs and forgets what caches of addresses hold: r1 is used. */
    .macro prepare
    mrc p15, 0, r1, c1, c0, 1   /* ACTLR.SMP: take part in coherency */
    tst r1, #1 << 6
    orreq r1, r1, #1 << 6
    mcreq p15, 0, r1, c1, c0, 1
    load32 r1, {clients}
    mcr p15, 0, r1, c3, c0, 0   /* DACR */
    mov r1, #0
    mcr p15, 0, r1, c13, c0, 1  /* CONTEXTIDR: ASID 0 */
    mcr p15, 0, r1, c7, c5, 0   /* ICIALLU */
    mcr p15, 0, r1, c7, c5, 6   /* BPIALL */
    mcr p15, 0, r1, c8, c7, 0   /* TLBIALL */
    .endm

    /* Switches the MMU on, and goes on at `target`: r0 to r2 are used. */
    .macro translate target
    dsb
    isb
    mrc p15, 0, r0, c1, c0, 0   /* SCTLR */
    load32 r1, {set}
    load32 r2, {clear}
    orr r0, r0, r1
    bic r0, r0, r2
    mcr p15, 0, r0, c1, c0, 0
    isb
    load32 r0, \target
    bx r0
    .endm

    .pushsection .boot.text, "ax", %progbits
    .arm
    .global boot_start
boot_start:
    cpsid aif, #0x13
    mov r10, r2                 /* the device tree */

    /* The loader need not have cleared .bss. */
    load32 r9, {offset}
    load32 r0, bss_start
    sub r0, r0, r9
    load32 r1, bss_end
    sub r1, r1, r9
    mov r2, #0
1:  str r2, [r0], #4
    cmp r0, r1
    blo 1b

    load32 r0, boot_root
    sub r0, r0, r9
    load32 r6, {section}
    load32 r7, {ram}
    orr r3, r7, r6
    add r4, r0, r7, lsr #18
    str r3, [r4]                /* this code, where it runs */
    load32 r8, {direct}
    add r4, r0, r8, lsr #18
    sections {direct_mib}
    orr r3, r7, r6
    load32 r8, {ram} + {offset}
    add r4, r0, r8, lsr #18
    sections {image_mib}

    prepare
    mov r1, #0
    mcr p15, 0, r1, c2, c0, 2   /* TTBCR: one table */
    orr r0, r0, #{walks}
    mcr p15, 0, r0, c2, c0, 0   /* TTBR0 */
    translate boot_high

    .global boot_secondary
boot_secondary:                 /* r0: the kernel's root, and the CPU's number below it */
    cpsid aif, #0x13
    mov r10, r0
    prepare
    mov r1, #1
    mcr p15, 0, r1, c2, c0, 2   /* TTBCR: halves */
    load32 r0, boot_root
    load32 r9, {offset}
    sub r0, r0, r9
    orr r0, r0, #{walks}
    mcr p15, 0, r0, c2, c0, 0   /* TTBR0 */
    lsr r0, r10, #14
    lsl r0, r0, #14
    orr r0, r0, #{walks}
    mcr p15, 0, r0, c2, c0, 1   /* TTBR1 */
    translate boot_secondary_high
    .popsection

    .pushsection .boot.text, "ax", %progbits
    .arm
    /* Called where it is loaded, by the boot table, interrupts off. Touches no memory.
       r0: TTBR1, whose table maps where lr points. */
    .global boot_enter_table
boot_enter_table:
    mrc p15, 0, r1, c1, c0, 0   /* SCTLR */
    bic r2, r1, #{mmu}
    mcr p15, 0, r2, c1, c0, 0
    isb
    mcr p15, 0, r0, c2, c0, 1   /* TTBR1 */
    mov r2, #1
    mcr p15, 0, r2, c2, c0, 2   /* TTBCR: halves */
    mcr p15, 0, r0, c8, c7, 0   /* TLBIALL */
    mcr p15, 0, r0, c7, c5, 6   /* BPIALL */
    dsb
    isb
    mcr p15, 0, r1, c1, c0, 0
    isb
    bx lr
    .popsection

    .pushsection .text.boot_high, "ax", %progbits
    .arm
boot_high:
    load32 sp, boot_stack_end
    mov r0, r10
    mov r11, #0                 /* ends a back trace */
    mov lr, #0
    bl kernel_main
    udf #0

boot_secondary_high:
    uxtb r0, r10
    load32 r1, {stacks}
    ldr sp, [r1, r0, lsl #2]
    mov r11, #0
    mov lr, #0
    bl {secondary_main}
    udf #0
    .popsection

    .pushsection .bss.boot_root, "aw", %nobits
    .balign 16384
    .global boot_root
boot_root: .skip 16384
    .popsection

    .pushsection .bss.boot_stack, "aw", %nobits
    .balign 4096
boot_stack: .skip {stack}
boot_stack_end:
    .popsection
    "#,
    offset = const KERNEL_OFFSET,
    section = const SECTION_RAM,
    ram = const RAM_BASE,
    direct = const DIRECT_MAP,
    direct_mib = const DIRECT_MIB,
    image_mib = const IMAGE_MIB,
    walks = const TTBR_SHAREABLE,
    clients = const DACR_CLIENTS,
    mmu = const SCTLR_MMU,
    set = const SCTLR_SET,
    clear = const SCTLR_CLEAR,
    stack = const BOOT_STACK_BYTES,
    stacks = sym crate::smp::STACKS,
    secondary_main = sym crate::smp::secondary_main,
);
