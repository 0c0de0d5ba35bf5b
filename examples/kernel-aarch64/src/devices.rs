//! The devices of the machine: the serial port and the interrupt controller.
//!
//! Devices interrupt the first CPU. Each CPU has its own timer, and takes [`RESCHEDULE`] from the
//! others.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

use mm_kernel::arch::Interrupt;
use mm_virt::console::Console;
use mm_virt::gic::Gic;
use mm_virt::mmio::Registers;
use mm_virt::pl011::Pl011;
use mm_virt::tree::Device;
use spin::Once;

use crate::cpu::MAX_CPUS;
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

/// The software interrupt by which a CPU has another look at its run queue.
const RESCHEDULE: u32 = 0;

/// The interrupt controller's name of each CPU; nothing before it came.
static INTERFACES: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];

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
    let [_, _, timer, _] = facts.tree.timer_interrupts;
    LINES.call_once(|| Lines {
        gic,
        serial: serial.interrupt,
        timer,
    });
}

/// Lets the serial port interrupt this CPU.
pub fn listen() {
    if let Some(lines) = LINES.get() {
        lines.gic.enable(lines.serial);
    }
    CONSOLE.listen();
}

/// Lets this CPU be interrupted, by its timer and by others. Runs once on each CPU.
pub fn init_cpu(cpu: usize) {
    if let Some(lines) = LINES.get() {
        lines.gic.init_cpu();
        lines.gic.enable(lines.timer);
        lines.gic.enable(RESCHEDULE);
        INTERFACES[cpu].store(lines.gic.interface(), Ordering::Release);
    }
}

/// Interrupts another CPU.
pub fn kick(cpu: usize) {
    if let (Some(lines), Some(interface)) = (LINES.get(), INTERFACES.get(cpu)) {
        // SAFETY: a barrier: what was written before is there when the interrupt comes.
        unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
        lines
            .gic
            .send(RESCHEDULE, interface.load(Ordering::Acquire));
    }
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
        // Nobody's, or RESCHEDULE: that it came is all that it says.
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
