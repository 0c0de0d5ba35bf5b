//! The console over any serial port: polled output, interrupt-driven input, the `log` sink.
//!
//! Output is `\n`-terminated lines of bytes; the port gets `\r\n`, as terminals expect from a
//! kernel's own messages. What programs write passes unchanged (the tty decides).
//!
//! Input is drained by the interrupt (or by a tick that polls) into a ring, from which the
//! portable kernel takes it. Bytes that do not fit are dropped, as on any terminal line without
//! flow control.
//!
//! # Protocol
//!
//! A kernel has one console, a static. It is silent until [`Console::init`] gives it its port;
//! a second `init` moves it (from the boot table's address of the device to the real one).
//! Interrupts are off wherever its locks are taken, so the interrupt never spins on its own CPU.

use core::fmt::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::mutex::SpinMutex;

/// What the console needs of a serial port.
pub trait SerialPort: Copy + Send {
    /// Writes one byte, waiting until the port takes it.
    fn send(&self, byte: u8);
    /// Takes one byte that arrived.
    fn receive(&self) -> Option<u8>;
    /// Lets the port interrupt when input arrives.
    fn listen(&self);
    /// Acknowledges the interrupt at the port, before its input is taken: what arrives after the
    /// last look interrupts again.
    fn acknowledge(&self);
}

/// Bytes of input that wait for a reader.
const RING_BYTES: usize = 1024;

struct Ring {
    bytes: [u8; RING_BYTES],
    first: usize,
    count: usize,
}

impl Ring {
    fn push(&mut self, byte: u8) {
        let at = (self.first + self.count) % RING_BYTES;
        match self.bytes.get_mut(at) {
            Some(place) if self.count < RING_BYTES => {
                *place = byte;
                self.count += 1;
            }
            _ => {}
        }
    }

    fn pop(&mut self) -> Option<u8> {
        if self.count == 0 {
            return None;
        }
        let byte = self.bytes.get(self.first).copied();
        self.first = (self.first + 1) % RING_BYTES;
        self.count -= 1;
        byte
    }
}

/// The console of a machine.
pub struct Console<P> {
    /// Locked only to copy it.
    port: SpinMutex<Option<P>>,
    /// Locked for the length of one message, which keeps its bytes together.
    output: SpinMutex<()>,
    input: SpinMutex<Ring>,
}

impl<P: SerialPort + 'static> Console<P> {
    /// Makes a console without a port.
    #[expect(clippy::new_without_default, reason = "a console is a static")]
    pub const fn new() -> Self {
        Self {
            port: SpinMutex::new(None),
            output: SpinMutex::new(()),
            input: SpinMutex::new(Ring {
                bytes: [0; RING_BYTES],
                first: 0,
                count: 0,
            }),
        }
    }

    /// Gives the console its port and makes it the sink of `log`.
    pub fn init(&'static self, port: P) {
        *self.port.lock() = Some(port);
        if log::set_logger(self).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
    }

    /// Lets the port interrupt when input arrives.
    pub fn listen(&self) {
        if let Some(port) = self.port() {
            port.listen();
        }
        self.drain();
    }

    /// Writes bytes as they are.
    pub fn write(&self, bytes: &[u8]) {
        let _together = self.output.lock();
        if let Some(port) = self.port() {
            bytes.iter().for_each(|&byte| port.send(byte));
        }
    }

    /// Takes one byte of input.
    pub fn read(&self) -> Option<u8> {
        self.input.lock().pop()
    }

    /// Moves what the port received into the ring: the interrupt's work. Answers whether there
    /// was any.
    pub fn drain(&self) -> bool {
        let Some(port) = self.port() else {
            return false;
        };
        let mut ring = self.input.lock();
        let mut any = false;
        port.acknowledge();
        while let Some(byte) = port.receive() {
            ring.push(byte);
            any = true;
        }
        any
    }

    /// Writes a last message whoever is writing.
    pub fn emergency(&self, message: fmt::Arguments<'_>) {
        if let Some(port) = self.port() {
            let _ = Lines(port).write_fmt(message);
        }
    }

    fn port(&self) -> Option<P> {
        *self.port.lock()
    }
}

/// Sends text with `\n` as `\r\n`.
struct Lines<P>(P);

impl<P: SerialPort> Write for Lines<P> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send(b'\r');
            }
            self.0.send(byte);
        }
        Ok(())
    }
}

impl<P: SerialPort + 'static> Log for Console<P> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        let _together = self.output.lock();
        let Some(port) = self.port() else {
            return;
        };
        let mut lines = Lines(port);
        let _ = match record.level() {
            Level::Error => lines.write_fmt(format_args!("kernel: error: {}\n", record.args())),
            Level::Warn => lines.write_fmt(format_args!("kernel: warning: {}\n", record.args())),
            _ => lines.write_fmt(format_args!("kernel: {}\n", record.args())),
        };
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// A port that receives a second byte between the last look for more and what comes after it.
    #[derive(Clone, Copy)]
    struct Late(&'static Mutex<(Vec<u8>, Vec<u8>, bool)>);

    impl SerialPort for Late {
        fn send(&self, _: u8) {}

        fn receive(&self) -> Option<u8> {
            let (there, coming, interrupts) = &mut *self.0.lock().unwrap();
            let byte = there.pop();
            let late = if byte.is_none() { coming.pop() } else { None };
            if let Some(late) = late {
                there.push(late);
                *interrupts = true;
            }
            byte
        }

        fn listen(&self) {}

        fn acknowledge(&self) {
            self.0.lock().unwrap().2 = false;
        }
    }

    #[test]
    fn what_arrives_after_the_last_look_interrupts_again() {
        static STATE: Mutex<(Vec<u8>, Vec<u8>, bool)> = Mutex::new((Vec::new(), Vec::new(), false));
        static CONSOLE: Console<Late> = Console::new();
        *STATE.lock().unwrap() = (vec![1], vec![2], true);
        *CONSOLE.port.lock() = Some(Late(&STATE));
        assert!(CONSOLE.drain());
        assert_eq!(CONSOLE.read(), Some(1));
        assert!(
            STATE.lock().unwrap().2,
            "nobody will look for the second byte"
        );
        assert!(CONSOLE.drain());
        assert_eq!(CONSOLE.read(), Some(2));
    }

    #[test]
    fn the_ring_keeps_the_order_and_drops_what_does_not_fit() {
        let mut ring = Ring {
            bytes: [0; RING_BYTES],
            first: RING_BYTES - 2,
            count: 0,
        };
        for at in 0..RING_BYTES + 3 {
            ring.push(at as u8);
        }
        for at in 0..RING_BYTES {
            assert_eq!(ring.pop(), Some(at as u8));
        }
        assert_eq!(ring.pop(), None);
    }
}
