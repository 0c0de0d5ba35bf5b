//! The 16550 serial port, one byte a register. Source: National Semiconductor PC16550D, 8.

use crate::console::SerialPort;
use crate::mmio::Registers;

const DATA: usize = 0;
const INTERRUPT_ENABLE: usize = 1;
const FIFO_CONTROL: usize = 2;
const LINE_CONTROL: usize = 3;
const MODEM_CONTROL: usize = 4;
const LINE_STATUS: usize = 5;

const STATUS_INPUT: u8 = 1 << 0;
const STATUS_CAN_SEND: u8 = 1 << 5;

/// A 16550.
#[derive(Clone, Copy, Debug)]
pub struct Ns16550(Registers);

impl Ns16550 {
    /// Sets the line to 8N1, without interrupts; the speed stays the firmware's.
    /// `registers` are a 16550's.
    pub fn new(registers: Registers) -> Self {
        registers.write_byte(INTERRUPT_ENABLE, 0);
        registers.write_byte(LINE_CONTROL, 0x03); // 8 bits, no parity, one stop bit
        registers.write_byte(FIFO_CONTROL, 0x07); // enable and clear, interrupt at 1 byte
        registers.write_byte(MODEM_CONTROL, 0x0b); // DTR, RTS, interrupt line on
        Self(registers)
    }
}

impl SerialPort for Ns16550 {
    fn send(&self, byte: u8) {
        while self.0.read_byte(LINE_STATUS) & STATUS_CAN_SEND == 0 {
            core::hint::spin_loop();
        }
        self.0.write_byte(DATA, byte);
    }

    fn receive(&self) -> Option<u8> {
        let input = self.0.read_byte(LINE_STATUS) & STATUS_INPUT != 0;
        input.then(|| self.0.read_byte(DATA))
    }

    fn listen(&self) {
        self.0.write_byte(INTERRUPT_ENABLE, 0x01);
    }

    /// Reading the data was it.
    fn acknowledge(&self) {}
}
