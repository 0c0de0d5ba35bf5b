//! The devices of the machine: the serial port and the interrupt controller.
//!
//! The drivers are mm-virt's, and so is whose interrupt is whose ([`mm_virt::lines`]).

use core::arch::asm;

use mm_kernel::arch::Interrupt;
use mm_virt::console::Console;
use mm_virt::gic::Gic;
use mm_virt::lines::{Line, Lines};
use mm_virt::mmio::Registers;
use mm_virt::pl011::Pl011;
use mm_virt::tree::Device;
use spin::Once;

use crate::memory::Facts;
use crate::{clock, kernel_table, power};

/// The console, and the sink of `log`.
pub static CONSOLE: Console<Pl011> = Console::new();

static LINES: Once<Lines> = Once::new();

/// Finds the devices: from here on there is a log.
///
/// # Panics
///
/// When one is missing.
pub fn init(facts: &Facts) {
    let serial = facts.tree.pl011.expect("the device tree names no PL011");
    CONSOLE.init(Pl011::new(registers(&serial)));
    power::init(facts.tree.psci);
    let gic = facts.tree.gic.expect("the device tree names no GICv2");
    let gic = Gic::new(registers(&gic.distributor), registers(&gic.cpu));
    let [_, _, timer, _] = facts.tree.timer_interrupts;
    LINES.call_once(|| Lines::new(gic, timer, serial.interrupt));
}

/// Lets the serial port interrupt this CPU.
pub fn listen() {
    if LINES.get().is_some_and(Lines::listen) {
        CONSOLE.listen();
    }
}

/// Lets this CPU be interrupted, by its timer and by others. Runs once on each CPU.
pub fn init_cpu(cpu: usize) {
    if let Some(lines) = LINES.get() {
        lines.init_cpu(cpu);
    }
}

/// Interrupts another CPU.
pub fn kick(cpu: usize) {
    if let Some(lines) = LINES.get() {
        // SAFETY: a barrier: what was written before is there when the interrupt comes.
        unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
        lines.call(cpu);
    }
}

/// Handles the most urgent interrupt.
pub fn interrupt() -> Interrupt {
    let serve = |line| match line {
        Line::Timer => clock::tick(),
        Line::Serial => {
            CONSOLE.drain();
        }
        Line::Call => (),
    };
    match LINES.get().and_then(|lines| lines.take(serve)) {
        Some(Line::Timer) => Interrupt::Tick,
        Some(Line::Serial) => Interrupt::Input,
        Some(Line::Call) | None => Interrupt::Other,
    }
}

/// Maps the registers of a device.
///
/// # Panics
///
/// Before the kernel's table is there, and when there is no room for it.
pub fn registers(device: &Device) -> Registers {
    let half = kernel_table::half().expect("the kernel's table comes first");
    let address = half.device(device.base..device.base + device.bytes);
    // SAFETY: the device tree says what is there, and it was just mapped as device memory, for good.
    unsafe { Registers::new(address) }
}
