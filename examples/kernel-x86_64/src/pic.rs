//! The two 8259 interrupt controllers, moved out of the way of the CPU's exceptions.
//!
//! Source: Intel 8259A data sheet; the ports are the PC's.

use x86_64::instructions::port::Port;

/// Vector of interrupt line 0; the sixteen lines follow.
pub const FIRST_VECTOR: u8 = 32;

/// The interval timer's line.
pub const TIMER: u8 = 0;
/// The first serial port's line.
pub const SERIAL: u8 = 4;

const CASCADE: u8 = 2;
const PRIMARY: u16 = 0x20;
const SECONDARY: u16 = 0xa0;
const END_OF_INTERRUPT: u8 = 0x20;
const READ_IN_SERVICE: u8 = 0x0b;

fn write(port: u16, value: u8) {
    // SAFETY: the 8259's registers; they cannot touch memory. All writes come from the first CPU with
    // interrupts off.
    unsafe { Port::new(port).write(value) }
}

fn read(port: u16) -> u8 {
    // SAFETY: as above; reading has no side effect.
    unsafe { Port::new(port).read() }
}

/// Programs both controllers and lets only the timer and the serial port through.
pub fn init() {
    for (base, vector, wiring) in [
        (PRIMARY, FIRST_VECTOR, 1 << CASCADE),
        (SECONDARY, FIRST_VECTOR + 8, CASCADE),
    ] {
        write(base, 0x11); // ICW1: edge triggered, cascaded, ICW4 follows
        write(base + 1, vector); // ICW2
        write(base + 1, wiring); // ICW3
        write(base + 1, 0x01); // ICW4: 8086 mode
        write(base + 1, 0xff); // OCW1: all masked
    }
    write(PRIMARY + 1, !(1 << TIMER | 1 << SERIAL | 1 << CASCADE));
}

/// Acknowledges `line`. Returns false for a spurious interrupt, which must not be handled.
pub fn acknowledge(line: u8) -> bool {
    let base = if line < 8 { PRIMARY } else { SECONDARY };
    if line % 8 == 7 {
        write(base, READ_IN_SERVICE);
        if read(base) & 0x80 == 0 {
            if base == SECONDARY {
                write(PRIMARY, END_OF_INTERRUPT);
            }
            return false;
        }
    }
    if base == SECONDARY {
        write(SECONDARY, END_OF_INTERRUPT);
    }
    write(PRIMARY, END_OF_INTERRUPT);
    true
}
