//! From the boot loader's entry to [`kernel_main`](crate::kernel_main).
//!
//! QEMU (or another PVH loader) finds the entry in an ELF note and jumps there in 32-bit
//! protected mode, paging off, `ebx` = physical address of `start_info`. The boot page table
//! maps the first 4 GiB three times with 2 MiB leaves:
//!
//! ```text
//! virtual                          physical
//! 0                                0 .. 4 GiB     until the real table is loaded
//! 0xffff_8000_0000_0000            0 .. 4 GiB     the direct map (memory.rs extends it)
//! 0xffff_ffff_8000_0000            0 .. 1 GiB     the kernel image
//! ```
//!
//! Sources: the Xen PVH boot ABI ("x86/HVM direct boot ABI"); Intel SDM volume 3, 9.8.5
//! "Initializing IA-32e Mode".

use core::arch::global_asm;

/// Bytes of the boot stack, which later is the first idle thread's stack.
pub const BOOT_STACK_BYTES: usize = 64 * 1024;

global_asm!(
    r#"
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18              /* name size, data size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_start
    .popsection

    .pushsection .boot.text, "awx", @progbits
    .code32
    .global pvh_start
pvh_start:
    cli
    cld
    mov ebp, ebx                /* start_info */

    /* The loader need not have cleared .boot.bss. */
    mov edi, offset boot_bss_start
    mov ecx, offset boot_bss_end
    sub ecx, edi
    xor eax, eax
    rep stosb
    mov esp, offset boot_early_stack_top

    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    test edx, 1 << 29
    jz no_long_mode

    /* Four page directories: 2048 leaves of 2 MiB, present | writable | large. */
    mov edi, offset boot_directories
    mov eax, 0x83
    xor edx, edx
2:  mov [edi], eax
    mov [edi + 4], edx
    add edi, 8
    add eax, 0x200000
    jnc 2b

    mov edi, offset boot_low_pointers
    mov eax, offset boot_directories + 3
    mov [edi], eax
    lea ebx, [eax + 0x1000]
    mov [edi + 8], ebx
    lea ebx, [eax + 0x2000]
    mov [edi + 16], ebx
    lea ebx, [eax + 0x3000]
    mov [edi + 24], ebx
    mov edi, offset boot_high_pointers
    mov [edi + 510 * 8], eax    /* -2 GiB .. -1 GiB */
    mov edi, offset boot_root
    mov eax, offset boot_low_pointers + 3
    mov [edi], eax
    mov [edi + 256 * 8], eax    /* the direct map */
    mov eax, offset boot_high_pointers + 3
    mov [edi + 511 * 8], eax
    mov cr3, edi

    mov eax, cr4
    or eax, 0x20                /* PAE */
    mov cr4, eax
    mov ecx, 0xc0000080         /* EFER */
    rdmsr
    or eax, 0x100               /* LME */
    wrmsr
    mov eax, cr0
    and eax, 0x9fffffff         /* not CD, not NW */
    or eax, 0x80010023          /* PG, WP, NE, MP, PE */
    and eax, 0xfffffff3         /* not TS, not EM */
    mov cr0, eax

    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset boot_long
    push eax
    retf

no_long_mode:
    mov esi, offset boot_complaint
3:  lodsb
    test al, al
    jz 4f
    mov dx, 0x3f8
    out dx, al
    jmp 3b
4:  hlt
    jmp 4b

    .code64
boot_long:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    movabs rax, offset boot_high
    jmp rax
    .popsection

    .pushsection .boot.data, "aw", @progbits
boot_complaint:
    .asciz "This kernel needs a 64-bit CPU.\r\n"
    .balign 8
    .global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 64-bit code */
    .quad 0x00cf93000000ffff    /* data */
boot_gdt_pointer:
    .short . - boot_gdt - 1
    .long boot_gdt
    .popsection

    .pushsection .boot.bss, "aw", @nobits
    .balign 4096
boot_bss_start:
    .global boot_root
boot_root:          .skip 4096
boot_low_pointers:  .skip 4096
boot_high_pointers: .skip 4096
boot_directories:   .skip 4 * 4096
    .skip 1024
boot_early_stack_top:
boot_bss_end:
    .popsection

    .pushsection .text.boot_high, "ax", @progbits
boot_high:
    lea rsp, [rip + boot_stack + {stack}]
    mov edi, ebp
    xor ebp, ebp
    push 0                      /* ends a back trace; keeps the stack aligned at the call */
    push 0
    call kernel_main
    ud2
    .popsection

    .pushsection .bss.boot_stack, "aw", @nobits
    .balign 4096
    .global boot_stack
boot_stack: .skip {stack}
    .popsection
    "#,
    stack = const BOOT_STACK_BYTES,
);
