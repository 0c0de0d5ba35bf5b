//! The console: the first serial port (a 16550), polled for output, interrupt-driven for input.
//!
//! Output is `\n`-terminated lines of bytes; the port gets `\r\n`, as terminals expect from a
//! kernel's own messages. What programs write passes unchanged (the tty decides).
//!
//! Input is drained by the interrupt into a ring, from which the portable part takes it.
//! Bytes that do not fit are dropped, as on any terminal line without flow control.

use core::fmt::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};
use mm_kernel::sync::Mutex;
use x86_64::instructions::port::Port;

const PORT: u16 = 0x3f8;
const DATA: u16 = PORT;
const INTERRUPT_ENABLE: u16 = PORT + 1;
const FIFO_CONTROL: u16 = PORT + 2;
const LINE_CONTROL: u16 = PORT + 3;
const MODEM_CONTROL: u16 = PORT + 4;
const LINE_STATUS: u16 = PORT + 5;

const STATUS_INPUT: u8 = 1 << 0;
const STATUS_CAN_SEND: u8 = 1 << 5;

/// Bytes of input that wait for a reader.
const RING_BYTES: usize = 1024;

struct Ring {
    bytes: [u8; RING_BYTES],
    first: usize,
    count: usize,
}

/// Interrupts are off wherever this is locked, so the interrupt never spins on its own CPU.
static INPUT: Mutex<Ring> = Mutex::new(Ring {
    bytes: [0; RING_BYTES],
    first: 0,
    count: 0,
});

/// Keeps the bytes of one message together.
static OUTPUT: Mutex<()> = Mutex::new(());

/// Sets the line to 115200 baud, 8N1, no interrupts yet; makes this the `log` sink.
pub fn init() {
    out(INTERRUPT_ENABLE, 0);
    out(LINE_CONTROL, 0x80); // divisor latch
    out(DATA, 1);
    out(INTERRUPT_ENABLE, 0);
    out(LINE_CONTROL, 0x03); // 8 bits, no parity, one stop bit
    out(FIFO_CONTROL, 0xc7); // enable and clear, interrupt at 14 bytes
    out(MODEM_CONTROL, 0x0b); // DTR, RTS, interrupt line on
    if log::set_logger(&KernelLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Lets the port interrupt when input arrives.
pub fn listen() {
    out(INTERRUPT_ENABLE, 0x01);
    drain();
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    let _together = OUTPUT.lock();
    bytes.iter().for_each(|&byte| send(byte));
}

/// Takes one byte of input.
pub fn read() -> Option<u8> {
    let mut ring = INPUT.lock();
    if ring.count == 0 {
        return None;
    }
    let byte = ring.bytes[ring.first];
    ring.first = (ring.first + 1) % RING_BYTES;
    ring.count -= 1;
    Some(byte)
}

/// Moves what the port received into the ring: the interrupt's work.
pub fn drain() {
    let mut ring = INPUT.lock();
    while input(LINE_STATUS) & STATUS_INPUT != 0 {
        let byte = input(DATA);
        if ring.count < RING_BYTES {
            let next = (ring.first + ring.count) % RING_BYTES;
            ring.bytes[next] = byte;
            ring.count += 1;
        }
    }
}

/// Writes a last message whoever holds the lock.
pub fn emergency(message: fmt::Arguments<'_>) {
    let _ = Lines.write_fmt(message);
}

/// Sends text with `\n` as `\r\n`.
struct Lines;

impl Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

struct KernelLog;

impl Log for KernelLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        let _together = OUTPUT.lock();
        let _ = match record.level() {
            Level::Error => Lines.write_fmt(format_args!("kernel: error: {}\n", record.args())),
            Level::Warn => Lines.write_fmt(format_args!("kernel: warning: {}\n", record.args())),
            _ => Lines.write_fmt(format_args!("kernel: {}\n", record.args())),
        };
    }

    fn flush(&self) {}
}

fn send(byte: u8) {
    while input(LINE_STATUS) & STATUS_CAN_SEND == 0 {
        core::hint::spin_loop();
    }
    out(DATA, byte);
}

fn out(port: u16, value: u8) {
    // SAFETY: the serial port's registers; they cannot touch memory.
    unsafe { Port::new(port).write(value) }
}

fn input(port: u16) -> u8 {
    // SAFETY: as above.
    unsafe { Port::new(port).read() }
}
