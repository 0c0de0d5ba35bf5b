//! The devices of the machine: the serial port and the interrupt controller.

use mm_kernel::arch::Interrupt;
use mm_virt::console::Console;
use mm_virt::gic::Gic;
use mm_virt::mmio::Registers;
use mm_virt::pl011::Pl011;
use mm_virt::tree::Device;
use spin::Once;

use crate::memory::{Facts, direct};
use crate::{clock, power};

/// The console, and the sink of `log`.
pub static CONSOLE: Console<Pl011> = Console::new();

struct Lines {
    gic: Gic,
    serial: u32,
    timer: u32,
}

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
    gic.init();
    gic.init_cpu();
    let [_, _, timer, _] = facts.tree.timer_interrupts;
    LINES.call_once(|| Lines {
        gic,
        serial: serial.interrupt,
        timer,
    });
}

/// Lets the timer and the serial port interrupt.
pub fn listen() {
    if let Some(lines) = LINES.get() {
        lines.gic.enable(lines.timer);
        lines.gic.enable(lines.serial);
    }
    CONSOLE.listen();
}

/// Takes the most urgent interrupt.
pub fn interrupt() -> Interrupt {
    let Some(lines) = LINES.get() else {
        return Interrupt::Other;
    };
    let Some(taken) = lines.gic.acknowledge() else {
        return Interrupt::Other;
    };
    let interrupt = if taken.number() == lines.timer {
        clock::tick();
        Interrupt::Tick
    } else if taken.number() == lines.serial {
        CONSOLE.drain();
        Interrupt::Input
    } else {
        Interrupt::Other
    };
    lines.gic.end(taken);
    interrupt
}

/// The registers of a device.
pub fn registers(device: &Device) -> Registers {
    // SAFETY: the device tree says what is there, and the kernel's table maps the devices that
    // the kernel uses as device memory (`kernel_table`), for good.
    unsafe { Registers::new(direct(device.base)) }
}
