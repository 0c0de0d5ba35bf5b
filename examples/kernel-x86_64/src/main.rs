//! The x86_64 half of the example kernel.
//!
//! A tour in the order in which the machine meets the files:
//!
//! 1. `boot`: QEMU enters at `pvh_start`; 32-bit code turns long mode on and calls [`kernel_main`].
//! 2. `memory`: what the boot loader said about memory; the direct map.
//! 3. `cpu`: per-CPU data, segments, the features that are switched on.
//! 4. `trap`: every way into the kernel and out of it; `frame`: the registers saved there;
//!    `vsyscall`: calls by a jump.
//! 5. `platform`: **what mm-core asks of a kernel**; `kernel_table`: the kernel's own mappings.
//! 6. `thread`, `fp`: the context switch, kernel stacks, FP/SIMD state.
//! 7. `clock`, `pic`, `console`, `random`, `power`: the devices.
//! 8. `signal`: the signal frame of the x86-64 ABI.
//! 9. `acpi`, `apic`, `smp`, `shootdown`: the other CPUs: which there are, interrupts between them,
//!    their start, and flushes of their TLBs.
//! 10. `arch`: all of this as `impl Arch` for the portable kernel, which [`kernel_main`] starts.
#![no_std]
#![no_main]

mod acpi;
mod apic;
mod arch;
mod boot;
mod clock;
mod console;
mod cpu;
mod fp;
mod frame;
mod kernel_table;
mod memory;
mod pic;
mod platform;
mod power;
mod random;
mod shootdown;
mod signal;
mod smp;
mod thread;
mod trap;
mod vsyscall;

use core::panic::PanicInfo;

use mm_kernel::arch::{Boot, Outcome};
use mm_kernel::system::System;
use spin::Once;

use acpi::Cpus;
use arch::X86_64;

/// The portable kernel.
static SYSTEM: Once<System<X86_64>> = Once::new();

/// The CPUs that the firmware named.
static CPUS: Once<Cpus> = Once::new();

/// The first Rust code: runs on the boot stack and the boot page table, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: u64) -> ! {
    console::init();
    log::info!("mm example kernel on x86_64");
    let mut facts = memory::read_start_info(start_info);
    memory::extend_boot_table(&mut facts);
    for region in facts.regions() {
        log::info!("memory {region}");
    }
    log::info!("command line: {:?}", facts.command_line);
    log::info!("initrd: {} bytes", facts.initrd.len());
    CPUS.call_once(|| acpi::cpus(facts.rsdp));
    assert!(cpu::init(0), "the first CPU is like itself");
    trap::init();
    let mm = platform::init(&facts);
    kernel_table::init(&facts);
    pic::init();
    clock::init();
    console::listen();
    let boot = Boot {
        command_line: facts.command_line,
        initrd: facts.initrd,
    };
    mm_kernel::sync::serve_with(shootdown::serve);
    let system = SYSTEM.call_once(|| System::new(&X86_64, mm, boot));
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
    x86_64::instructions::interrupts::disable();
    console::emergency(format_args!("\nkernel panic: {info}\n"));
    power::off(Outcome::Failure)
}
