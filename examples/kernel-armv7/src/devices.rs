//! The devices of this kernel: serial port, interrupt controller, date, randomness.
//!
//! The drivers are mm-virt's; here is which of them this machine has, and whose interrupt is whose.
//! Devices interrupt the first CPU. Each CPU has its own timer, and takes [`RESCHEDULE`] from the
//! others.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

use mm_core::page::Frames;
use mm_kernel::arch::Interrupt;
use mm_virt::console::Console;
use mm_virt::gic::Gic;
use mm_virt::mmio::Registers;
use mm_virt::pl011::Pl011;
use mm_virt::random::Random;
use mm_virt::tree::Facts;
use spin::Once;

use crate::cpu::MAX_CPUS;
use crate::platform::Virt;
use crate::{clock, kernel_table, memory};

/// The console.
pub static CONSOLE: Console<Pl011> = Console::new();

/// The generator of random bytes.
pub static RANDOM: Random = Random::new();

struct Lines {
    gic: Gic,
    timer: u32,
    serial: u32,
}

static LINES: Once<Lines> = Once::new();

/// The software interrupt by which a CPU has another look at its run queue.
const RESCHEDULE: u32 = 0;

/// The interrupt controller's name of each CPU; nothing before it came.
static INTERFACES: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];

/// Lets the kernel speak, by the boot table's address of the serial port.
pub fn early_console(facts: &Facts) {
    if let Some(port) = facts.pl011 {
        let address = memory::early_device(port.base);
        // SAFETY: the device tree says that the port is there, and it was just mapped.
        CONSOLE.init(Pl011::new(unsafe { Registers::new(address) }));
    }
}

/// Moves the console to the kernel's own table; must follow that table's load at once.
pub fn move_console(memory: &'static Frames<Virt>, facts: &Facts) {
    if let Some(port) = facts.pl011 {
        CONSOLE.init(Pl011::new(kernel_table::device(memory, &port)));
    }
}

/// Starts interrupts of devices and console input; reads the clocks. Called once.
///
/// # Panics
///
/// When the machine has no GICv2 or no timer.
pub fn init(memory: &'static Frames<Virt>, facts: &Facts) {
    let gic = facts.gic.expect("no GICv2 in the device tree");
    let gic = Gic::new(
        kernel_table::device(memory, &gic.distributor),
        kernel_table::device(memory, &gic.cpu),
    );
    gic.init();
    let timer = facts.timer_interrupts[2];
    assert!(timer != 0, "no timer in the device tree");
    let serial = facts.pl011.map_or(0, |port| port.interrupt);
    LINES.call_once(|| Lines { gic, timer, serial });
    if serial != 0 {
        gic.enable(serial);
        CONSOLE.listen();
    }
    let date = facts.clock.as_ref();
    let date = date.map(|(kind, device)| (*kind, kernel_table::device(memory, device)));
    clock::init(date);
    RANDOM.seed(facts.seed);
    RANDOM.seed(clock::counter());
    RANDOM.seed(clock::boot_time());
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

/// Handles the most urgent interrupt.
pub fn interrupt() -> Interrupt {
    let Some(lines) = LINES.get() else {
        return Interrupt::Other;
    };
    let Some(taken) = lines.gic.acknowledge() else {
        return Interrupt::Other;
    };
    let number = taken.number();
    let what = if number == lines.timer {
        clock::rearm();
        Interrupt::Tick
    } else if number == lines.serial {
        CONSOLE.drain();
        Interrupt::Input
    } else {
        // Nobody's, or RESCHEDULE: that it came is all that it says.
        Interrupt::Other
    };
    lines.gic.end(taken);
    what
}
