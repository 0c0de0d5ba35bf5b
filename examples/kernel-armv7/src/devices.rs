//! The devices of this kernel: serial port, interrupt controller, date, randomness.
//!
//! The drivers are mm-virt's, and so is whose interrupt is whose ([`mm_virt::lines`]); here is which
//! of them this machine has.

use core::arch::asm;

use mm_kernel::arch::Interrupt;
use mm_virt::console::Console;
use mm_virt::gic::Gic;
use mm_virt::lines::{Line, Lines};
use mm_virt::mmio::Registers;
use mm_virt::pl011::Pl011;
use mm_virt::random::Random;
use mm_virt::tree::Facts;
use spin::Once;

use crate::{clock, kernel_table, memory};

/// The console.
pub static CONSOLE: Console<Pl011> = Console::new();

/// The generator of random bytes.
pub static RANDOM: Random = Random::new();

static LINES: Once<Lines> = Once::new();

/// Lets the kernel speak, by the boot table's address of the serial port.
pub fn early_console(facts: &Facts) {
    if let Some(port) = facts.pl011 {
        let address = memory::early_device(port.base);
        // SAFETY: the device tree says that the port is there, and it was just mapped.
        CONSOLE.init(Pl011::new(unsafe { Registers::new(address) }));
    }
}

/// Moves the console to the kernel's own table; must follow that table's load at once.
pub fn move_console(facts: &Facts) {
    if let Some(port) = facts.pl011 {
        CONSOLE.init(Pl011::new(kernel_table::device(&port)));
    }
}

/// Starts interrupts of devices and console input; reads the clocks. Called once.
///
/// # Panics
///
/// When the machine has no GICv2 or no timer.
pub fn init(facts: &Facts) {
    let gic = facts.gic.expect("no GICv2 in the device tree");
    let gic = Gic::new(
        kernel_table::device(&gic.distributor),
        kernel_table::device(&gic.cpu),
    );
    let timer = facts.timer_interrupts[2];
    assert!(timer != 0, "no timer in the device tree");
    let serial = facts.pl011.map_or(0, |port| port.interrupt);
    let lines = LINES.call_once(|| Lines::new(gic, timer, serial));
    if lines.listen() {
        CONSOLE.listen();
    }
    let date = facts.clock.as_ref();
    let date = date.map(|(kind, device)| (*kind, kernel_table::device(device)));
    clock::init(date);
    RANDOM.seed(facts.seed);
    RANDOM.seed(clock::counter());
    RANDOM.seed(clock::boot_time());
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
        Line::Timer => clock::rearm(),
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
