//! The Armv7 half of the example kernel.
//!
//! A tour in the order in which the machine meets the files:
//!
//! 1. `boot`: QEMU enters at `boot_start`; assembly turns the MMU on and calls [`kernel_main`].
//! 2. `memory`: the kernel's view of memory; what the device tree says.
//! 3. `cpu`: per-CPU registers and stacks, the features that are switched on.
//! 4. `trap`: every way into the kernel and out of it; `frame`: the registers saved there.
//! 5. `platform`: **what mm-core asks of a kernel**; `kernel_table`: the kernel's own mappings.
//! 6. `thread`, `fp`: the context switch, kernel stacks, FP/SIMD state.
//! 7. `devices`, `clock`, `power`: the devices, with mm-virt's drivers.
//! 8. `smp`: the other CPUs.
//! 9. `signal`, `kuser`, `code`: the signal frames, the page of helpers and the cache flush of the
//!    Arm ABI.
//! 10. `arch`: all of this as `impl Arch` for the portable kernel, which [`kernel_main`] starts.
#![no_std]
#![no_main]

mod arch;
mod boot;
mod clock;
mod code;
mod cpu;
mod devices;
mod fp;
mod frame;
mod kernel_table;
mod kuser;
mod memory;
mod platform;
mod power;
mod signal;
mod smp;
mod thread;
mod trap;

use core::arch::asm;
use core::panic::PanicInfo;

use mm_kernel::arch::{Boot, Outcome};
use mm_kernel::system::System;
use spin::Once;

use arch::Armv7;
use devices::CONSOLE;

/// The portable kernel.
static SYSTEM: Once<System<Armv7>> = Once::new();

/// The first Rust code: runs on the boot stack and the boot page table, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(tree: u32) -> ! {
    assert!(cpu::init(0), "the first CPU is like itself");
    trap::init();
    let facts = memory::read_facts(tree);
    power::init(facts.psci);
    devices::early_console(&facts);
    log::info!("mm example kernel on armv7");
    for region in facts.regions() {
        log::info!("memory {region:x?}");
    }
    let initrd = memory::initrd(&facts);
    log::info!("command line: {:?}", facts.command_line);
    log::info!("initrd: {} bytes", initrd.len());
    let mm = platform::init(&facts);
    kernel_table::init(&facts);
    devices::move_console(&facts);
    devices::init(&facts);
    smp::init(&facts);
    let boot = Boot {
        command_line: facts.command_line,
        initrd,
    };
    let system = SYSTEM.call_once(|| System::new(&Armv7, mm, boot));
    trap::register(system);
    platform::set_waker(|key| {
        if let Some(system) = SYSTEM.get() {
            system.wake_transfer(key);
        }
    });
    devices::init_cpu(0);
    clock::start();
    system.run()
}

/// Says where and why, then powers off: a kernel that is wrong about itself does not go on.
#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    // SAFETY: interrupts off.
    unsafe { asm!("cpsid aif", options(nomem, nostack)) };
    CONSOLE.emergency(format_args!("\nkernel panic: {info}\n"));
    power::off(Outcome::Failure)
}
