//! Links every library of the family, and no allocator.
//!
//! The crate `alloc` asks whoever links it for a global allocator. There is none here, so this
//! compiles only while nothing in the family, and nothing that it depends on, links `alloc`.

#![no_std]

extern crate mm_arm;
extern crate mm_core;
extern crate mm_elf;
extern crate mm_riscv;
extern crate mm_x86_64;

/// Nothing here runs.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
