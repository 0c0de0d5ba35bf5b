//! The AArch64 half of the example kernel, for machines that a device tree describes.
//!
//! A tour in the order in which the machine meets the files:
//!
//! 1. `boot`: the loader enters at the image header; translation is switched on, then [`kernel_main`].
//! 2. `memory`: what the device tree said about memory; the direct map.
//! 3. `cpu`: per-CPU data, the features that are switched on.
//! 4. `trap`: every way into the kernel and out of it; `frame`: the registers saved there.
//! 5. `platform`: **what mm-core asks of a kernel**; `kernel_table`: the kernel's own mappings.
//! 6. `thread`, `fp`: the context switch, kernel stacks, FP/SIMD state.
//! 7. `devices`, `clock`, `power`: serial port, interrupt controller, timer, the end.
//! 8. `smp`: the other CPUs.
//! 9. `signal`: the signal frame of the AArch64 ABI.
//! 10. `arch`: all of this as `impl Arch` for the portable kernel, which [`kernel_main`] starts.
#![no_std]
#![no_main]

mod arch;
mod boot;
mod clock;
mod cpu;
mod devices;
mod fp;
mod frame;
mod kernel_table;
mod memory;
mod platform;
mod power;
mod signal;
mod smp;
mod thread;
mod trap;

use core::panic::PanicInfo;

use mm_kernel::arch::{Boot, Outcome};
use mm_kernel::system::System;
use spin::Once;

use arch::Aarch64;

/// The portable kernel.
static SYSTEM: Once<System<Aarch64>> = Once::new();

/// The first Rust code: runs on the boot stack and the boot page tables, interrupts off.
/// `tree` and `image` are the physical addresses of the device tree and of the kernel.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(tree: u64, image: u64) -> ! {
    assert!(cpu::init(0), "the first CPU is like itself");
    trap::init();
    let facts = memory::read_tree(tree, image);
    memory::extend_boot_table(&facts);
    let mm = platform::init(&facts);
    kernel_table::init(&facts);
    devices::init(&facts);
    log::info!("mm example kernel on AArch64");
    facts.log();
    cpu::log_features();
    log::info!(
        "{} MiB free",
        mm.frames().free_frames() >> (20 - platform::PAGE_SHIFT)
    );
    clock::init(&facts);
    smp::init(&facts);
    let boot = Boot {
        command_line: facts.tree.command_line,
        initrd: facts.initrd(),
    };
    let system = SYSTEM.call_once(|| System::new(&Aarch64, mm, boot));
    trap::register(system);
    platform::set_waker(|key| {
        if let Some(system) = SYSTEM.get() {
            system.wake_transfer(key);
        }
    });
    devices::init_cpu(0);
    devices::listen();
    clock::start();
    system.run()
}

/// Says where and why, then powers off: a kernel that is wrong about itself does not go on.
#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    cpu::interrupts_off();
    devices::CONSOLE.emergency(format_args!("\nkernel panic: {info}\n"));
    power::off(Outcome::Failure)
}
