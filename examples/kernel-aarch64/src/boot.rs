//! From the loader's entry to [`kernel_main`](crate::kernel_main), and from the firmware's to
//! [`secondary_main`](crate::smp::secondary_main).
//!
//! The loader (QEMU's `-kernel`, or any that boots Linux) puts the image at a multiple of 2 MiB
//! and jumps to its first instruction, translation off, `x0` = physical address of the device
//! tree. The boot tables map, with blocks:
//!
//! ```text
//! virtual                          physical
//! the image's own GiB              itself              until the real table is loaded
//! 0xffff_0000_0000_0000 + p        p: the GiB of the image and of the device tree
//!                                  (memory.rs adds the other GiB of RAM)
//! 0xffff_8000_0000_0000            1 GiB from the image on
//! ```
//!
//! A CPU that was started on EL2 goes down to EL1 first.
//!
//! The other CPUs start at `boot_secondary` when the kernel's own table stands (smp.rs). They load
//! it at once: only for the jump to its addresses TTBR0 names the boot table of the image's GiB.
//! Until translation is on, they read nothing but the image as it was loaded, because what the
//! first CPU wrote since then may be in its caches only; all they are told is in `x0`.
//!
//! Sources: Linux `Documentation/arch/arm64/booting.rst`; Arm ARM DDI 0487, D8.2, D1.

use core::arch::global_asm;

use mm_arm::aarch64::registers;

/// Bytes of the boot stack, which later is the first idle thread's stack.
const BOOT_STACK_BYTES: usize = 64 * 1024;

/// 48-bit halves of 4 KiB pages, walked through write-back caches; the size of physical
/// addresses is added.
const BOOT_TCR: u64 = 0xb510_3510;

/// Normal memory, AF, inner shareable, no execution by users.
const BLOCK: u64 = 1 << 54 | 0x701;

const SCTLR: u64 = registers::SCTLR_MMU
    | registers::SCTLR_CACHES
    | registers::SCTLR_STACK_ALIGNMENT
    | registers::SCTLR_USER_MAY
    | registers::SCTLR_SPAN
    | registers::SCTLR_RES1;

global_asm!(
    r#"
    .pushsection .text.header, "ax", @progbits
    .global image_header
image_header:
    b       boot_entry
    .long   0
    .quad   0x200000                /* where the image wants to be, from a 2 MiB boundary */
    .quad   kernel_bytes
    .quad   0xa                     /* little endian, 4 KiB pages, anywhere in memory */
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

boot_entry:
    mov     x20, x0                 /* device tree */
    adrp    x21, kernel_start       /* where we are */
    bl      boot_lower
    b       boot_first

boot_lower:                         /* from EL2 to EL1; all exceptions masked */
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    1f
    mov     x1, #(1 << 31)          /* EL1 is 64-bit */
    msr     hcr_el2, x1
    mov     x1, #3                  /* EL1 may use the counters */
    msr     cnthctl_el2, x1
    msr     cntvoff_el2, xzr
    mov     x1, #0x33ff             /* no traps of FP */
    msr     cptr_el2, x1
    mov     x1, #0x0800
    movk    x1, #0x30d0, lsl #16
    msr     sctlr_el1, x1
    mov     x1, #0x3c5              /* EL1, own stack pointer, all masked */
    msr     spsr_el2, x1
    adr     x1, 1f
    msr     elr_el2, x1
    eret
1:  msr     daifset, #0xf
    msr     spsel, #1
    ret

boot_first:
    adrp    x1, kernel_bss_start
    add     x1, x1, :lo12:kernel_bss_start
    adrp    x2, kernel_end
2:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    2b

    ldr     x10, ={block}
    /* The direct map: the GiB of the image, of the tree's beginning and of its end. */
    adrp    x1, boot_direct
    mov     x2, x21
    bl      boot_map_gib
    mov     x2, x20
    bl      boot_map_gib
    add     x2, x20, #0x200000
    bl      boot_map_gib
    /* The image's GiB at its own address. */
    adrp    x1, boot_low
    mov     x2, x21
    bl      boot_map_gib
    adrp    x3, boot_low_root
    orr     x1, x1, #3
    str     x1, [x3]
    /* The image where it is linked: 512 blocks of 2 MiB. */
    adrp    x1, boot_image
    orr     x2, x21, x10
    mov     x3, #512
3:  str     x2, [x1], #8
    add     x2, x2, #0x200000
    subs    x3, x3, #1
    b.ne    3b
    adrp    x1, boot_image
    orr     x1, x1, #3
    adrp    x2, boot_image_pointers
    str     x1, [x2]
    orr     x2, x2, #3
    adrp    x4, boot_root
    str     x2, [x4, #(256 * 8)]
    adrp    x1, boot_direct
    orr     x1, x1, #3
    str     x1, [x4]
    /* What caches may hold of the tables from before is older than what was just stored. */
    dmb     sy
    adrp    x1, boot_tables_start
    adrp    x2, boot_tables_end
4:  dc      ivac, x1
    add     x1, x1, #16
    cmp     x1, x2
    b.lo    4b
    dsb     sy
    ldr     x30, =boot_high
    /* falls into */

boot_translate:                     /* x4: the upper half's root; goes on at x30 */
    ldr     x1, ={mair}
    msr     mair_el1, x1
    ldr     x1, ={tcr}
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #0xf
    mov     x5, #5
    cmp     x2, x5
    csel    x2, x2, x5, lo
    bfi     x1, x2, #32, #3
    msr     tcr_el1, x1
    adrp    x3, boot_low_root
    msr     ttbr0_el1, x3
    msr     ttbr1_el1, x4
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x1, ={sctlr}
    msr     sctlr_el1, x1
    isb
    ret

    .global boot_secondary
boot_secondary:                     /* x0: the kernel's root, and the CPU's number below it */
    mov     x20, x0
    bl      boot_lower
    and     x4, x20, #0xfffffffffffff000
    ldr     x30, =boot_secondary_high
    b       boot_translate

boot_map_gib:                       /* x1: a table of GiB, x2: an address */
    lsr     x3, x2, #30
    lsl     x5, x3, #30
    orr     x5, x5, x10
    and     x3, x3, #511
    str     x5, [x1, x3, lsl #3]
    ret

boot_high:
    ldr     x1, =boot_stack_top
    mov     sp, x1
    mov     x0, x20
    mov     x1, x21
    mov     x29, xzr
    mov     x30, xzr
    bl      kernel_main
    brk     #1

boot_secondary_high:
    and     x0, x20, #0xfff
    ldr     x1, ={stacks}
    ldr     x1, [x1, x0, lsl #3]
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    bl      {secondary_main}
    brk     #1
    .ltorg
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
boot_tables_start:
boot_low_root:          .skip 4096
boot_low:               .skip 4096
    .global boot_root
boot_root:              .skip 4096
    .global boot_direct
boot_direct:            .skip 4096
boot_image_pointers:    .skip 4096
boot_image:             .skip 4096
boot_tables_end:
boot_stack:             .skip {stack}
boot_stack_top:
    .popsection
    "#,
    block = const BLOCK,
    mair = const registers::MAIR_VALUE,
    tcr = const BOOT_TCR,
    sctlr = const SCTLR,
    stack = const BOOT_STACK_BYTES,
    stacks = sym crate::smp::STACKS,
    secondary_main = sym crate::smp::secondary_main,
);
