//! The Arm PL011 serial port. Source: Arm DDI 0183, chapter 3.
//!
//! The firmware set speed and format; only interrupts are ours.

use crate::console::SerialPort;
use crate::mmio::Registers;

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const LINE_CONTROL: usize = 0x2c;
const CONTROL: usize = 0x30;
const INTERRUPT_MASK: usize = 0x38;
const INTERRUPT_CLEAR: usize = 0x44;

const FLAG_RECEIVE_EMPTY: u32 = 1 << 4;
const FLAG_TRANSMIT_FULL: u32 = 1 << 5;
/// 8 bits, FIFOs on.
const LINE_8N1_FIFO: u32 = 0b11 << 5 | 1 << 4;
/// The port, its transmitter and its receiver on.
const CONTROL_ON: u32 = 1 << 0 | 1 << 8 | 1 << 9;
/// Input arrived; input has waited (fewer bytes than the FIFO's mark).
const RECEIVE: u32 = 1 << 4 | 1 << 6;

/// A PL011.
#[derive(Clone, Copy, Debug)]
pub struct Pl011(Registers);

impl Pl011 {
    /// Switches the port on, without interrupts. `registers` are a PL011's.
    pub fn new(registers: Registers) -> Self {
        registers.write(INTERRUPT_MASK, 0);
        registers.write(LINE_CONTROL, LINE_8N1_FIFO);
        registers.write(CONTROL, CONTROL_ON);
        Self(registers)
    }
}

impl SerialPort for Pl011 {
    fn send(&self, byte: u8) {
        while self.0.read(FLAGS) & FLAG_TRANSMIT_FULL != 0 {
            core::hint::spin_loop();
        }
        self.0.write(DATA, u32::from(byte));
    }

    fn receive(&self) -> Option<u8> {
        let empty = self.0.read(FLAGS) & FLAG_RECEIVE_EMPTY != 0;
        // The bits above are errors of the line; the byte is passed on as it came.
        (!empty).then(|| self.0.read(DATA) as u8)
    }

    fn listen(&self) {
        self.0.write(INTERRUPT_MASK, RECEIVE);
    }

    fn acknowledge(&self) {
        self.0.write(INTERRUPT_CLEAR, RECEIVE);
    }
}
