//! The RISC-V half of the example kernel, for boards like QEMU's `virt`.
//!
//! A tour in the order in which the machine meets the files:
//!
//! 1. `boot`: the firmware enters at `boot_start`, which turns paging on and calls [`kernel_main`].
//! 2. `memory`: the kernel's view of physical memory; the device tree's facts come from mm-virt.
//! 3. `cpu`: per-CPU data, and what of the hart is switched on; `harts`: how the others start.
//! 4. `trap`: every way into the kernel and out of it; `frame`: the registers saved there.
//! 5. `platform`: **what mm-core asks of a kernel**; `kernel_table`: the kernel's own mappings.
//! 6. `thread`, `fp`: the context switch, kernel stacks, floating-point state.
//! 7. `devices`: console, interrupts, clock, power; `clock`: the tick.
//! 8. `signal`: the signal frame of the RISC-V ABI.
//! 9. `arch`: all of this as `impl Arch` for the portable kernel, which [`kernel_main`] starts.
#![no_std]
#![no_main]

mod arch;
mod boot;
mod clock;
mod cpu;
mod devices;
mod fp;
mod frame;
mod harts;
mod kernel_table;
mod memory;
mod platform;
mod signal;
mod thread;
mod trap;

use core::panic::PanicInfo;

use mm_kernel::arch::{Boot, Outcome};
use mm_kernel::system::System;
use mm_virt::tree::Facts;
use spin::Once;

use arch::Riscv64;

/// The portable kernel.
static SYSTEM: Once<System<Riscv64>> = Once::new();

/// The first Rust code: runs on the boot stack and the boot page table, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(hart: usize, tree: u64) -> ! {
    trap::init();
    // SAFETY: the firmware's contract: a1 pointed to a device tree, in RAM that the boot table
    // maps at `direct`, and `Facts` keeps it out of the memory that is given away.
    let facts = unsafe { Facts::read(memory::direct(tree) as *const u8, tree) };
    let mut facts = facts.expect("a device tree");
    devices::early_console(&facts);
    log::info!("mm example kernel on riscv64");
    log::info!("command line: {:?}", facts.command_line);
    cpu::init(&facts, hart);
    let mm = platform::init(&mut facts);
    kernel_table::init(&facts);
    devices::init(&facts, hart);
    clock::init(&facts);
    devices::listen();
    let boot = Boot {
        command_line: facts.command_line,
        initrd: memory::initrd(&facts),
    };
    let system = SYSTEM.call_once(|| System::new(&Riscv64, mm, boot));
    trap::register(system);
    platform::set_waker(|key| {
        if let Some(system) = SYSTEM.get() {
            system.wake_transfer(key);
        }
    });
    system.run()
}

/// Says where and why, then powers off: a kernel that is wrong about itself does not go on.
#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    cpu::interrupts_off();
    devices::emergency(format_args!("\nkernel panic: {info}\n"));
    devices::power_off(Outcome::Failure)
}
