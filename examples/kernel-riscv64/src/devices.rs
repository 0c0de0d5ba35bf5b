//! The devices of the board, as the device tree names them; the drivers are mm-virt's.
//!
//! The boot table shows the serial port's registers in the direct map; the kernel's own table maps
//! each device where its window has room.

use core::fmt;

use mm_kernel::arch::{Interrupt, Outcome};
use mm_riscv::native;
use mm_virt::clock;
use mm_virt::console::Console;
use mm_virt::finisher;
use mm_virt::mmio::Registers;
use mm_virt::ns16550::Ns16550;
use mm_virt::plic::Plic;
use mm_virt::random::Random;
use mm_virt::tree::{Device, Facts};
use spin::Once;

use crate::{cpu, kernel_table, memory};

const SBI_PUTCHAR: usize = 0x01;
const SBI_RESET: usize = 0x5352_5354;

/// What QEMU ends with when the kernel failed.
const FAILURE_STATUS: u16 = 1;

static CONSOLE: Console<Ns16550> = Console::new();
static RANDOM: Random = Random::new();
static BOARD: Once<Board> = Once::new();

/// What the interrupt handler and the way out need.
struct Board {
    plic: Option<Plic>,
    /// The PLIC's name of the boot CPU's supervisor: devices interrupt it alone.
    context: Option<usize>,
    serial_interrupt: u32,
    finisher: Option<Registers>,
    boot_time: u64,
}

/// Lets the kernel speak while the boot table is loaded.
///
/// # Panics
///
/// When there is no serial port.
pub fn early_console(facts: &Facts) {
    let serial = facts.ns16550.expect("a serial port");
    // SAFETY: the device tree says that the port is there; the boot table's direct map reaches it.
    // It touches no memory.
    CONSOLE.init(Ns16550::new(unsafe {
        Registers::new(memory::direct(serial.base))
    }));
}

/// Maps the devices, gives the console its port, and notes the rest; must follow the load of the
/// kernel's table at once. `hart` is the boot hart.
///
/// # Panics
///
/// When there is no serial port, or no room for a device.
pub fn init(facts: &Facts, hart: usize) {
    let half = kernel_table::half().expect("the kernel's table comes first");
    let registers = |device: Device| {
        let address = half.device(device.base..device.base + device.bytes);
        // SAFETY: the device tree says that such a device is there; it was just mapped as device
        // memory, for good, and none of these devices touches memory.
        unsafe { Registers::new(address) }
    };
    let serial = facts.ns16550.expect("a serial port");
    CONSOLE.init(Ns16550::new(registers(serial)));
    let boot_time = facts
        .clock
        .map_or(0, |(kind, device)| clock::read(kind, registers(device)));
    let place = facts.cpus().iter().position(|&name| name == hart as u64);
    BOARD.call_once(|| Board {
        plic: facts.plic.map(|device| Plic::new(registers(device))),
        context: place.and_then(|place| facts.plic_context(place)),
        serial_interrupt: serial.interrupt,
        finisher: facts.finisher.map(registers),
        boot_time,
    });
    RANDOM.seed(facts.seed ^ cpu::counter() ^ boot_time);
}

/// Lets the serial port interrupt the boot CPU when input arrives.
pub fn listen() {
    let Some((board, plic, context)) = interrupts() else {
        log::warn!("no interrupt controller: there will be no input");
        return;
    };
    plic.init_context(context);
    plic.enable(context, board.serial_interrupt);
    CONSOLE.listen();
}

/// Handles an external interrupt.
pub fn interrupt() -> Interrupt {
    let Some((board, plic, context)) = interrupts() else {
        return Interrupt::Other;
    };
    let Some(number) = plic.claim(context) else {
        return Interrupt::Other;
    };
    let serial = number == board.serial_interrupt;
    if serial {
        CONSOLE.drain();
    }
    plic.complete(context, number);
    if serial {
        Interrupt::Input
    } else {
        Interrupt::Other
    }
}

fn interrupts() -> Option<(&'static Board, Plic, usize)> {
    let board = BOARD.get()?;
    Some((board, board.plic?, board.context?))
}

/// Writes bytes to the console as they are.
pub fn write(bytes: &[u8]) {
    CONSOLE.write(bytes);
}

/// Takes one byte of console input.
pub fn read() -> Option<u8> {
    CONSOLE.read()
}

/// Reads the wall-clock time of boot, in seconds since 1970.
pub fn boot_time() -> u64 {
    BOARD.get().map_or(0, |board| board.boot_time)
}

/// Fills `bytes` with random data.
pub fn random(bytes: &mut [u8]) {
    RANDOM.fill(bytes);
}

/// Writes a last message; by the firmware before the devices are mapped for good.
pub fn emergency(message: fmt::Arguments<'_>) {
    struct Firmware;
    impl fmt::Write for Firmware {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for byte in text.bytes() {
                // SAFETY: the legacy call prints one byte.
                let _ = unsafe { native::call(SBI_PUTCHAR, 0, [byte.into(), 0, 0, 0, 0]) };
            }
            Ok(())
        }
    }
    if BOARD.get().is_some() {
        CONSOLE.emergency(message);
    } else {
        let _ = fmt::Write::write_fmt(&mut Firmware, message);
    }
}

/// Switches the machine off: by the finisher, which tells QEMU a status, else by the firmware.
pub fn power_off(outcome: Outcome) -> ! {
    let (status, reason) = match outcome {
        Outcome::Success => (0, 0),
        Outcome::Failure => (FAILURE_STATUS, 1),
    };
    if let Some(finisher) = BOARD.get().and_then(|board| board.finisher) {
        finisher::finish(finisher, status);
    }
    // SAFETY: the call switches the machine off (SBI 2.0, chapter 10).
    let _ = unsafe { native::call(SBI_RESET, 0, [0, reason, 0, 0, 0]) };
    loop {
        cpu::sleep();
    }
}
