//! The interrupts of a machine with a GIC, as the kernels of both Arm architectures use them: the
//! serial port interrupts the first CPU, each CPU has its own timer, and CPUs call each other.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::gic::Gic;
use crate::tree::MAX_CPUS;

/// The software interrupt by which a CPU has another look at its run queue.
const CALL: u32 = 0;

/// What an interrupt was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// This CPU's timer.
    Timer,
    /// The serial port.
    Serial,
    /// A call of another CPU, or nobody's: that it came is all that it says.
    Call,
}

/// Which interrupt is whose.
pub struct Lines {
    gic: Gic,
    timer: u32,
    /// 0 where there is no serial port.
    serial: u32,
    /// The controller's name of each CPU; nothing before it came.
    interfaces: [AtomicU8; MAX_CPUS],
}

impl Lines {
    /// Starts the controller. Called once.
    pub fn new(gic: Gic, timer: u32, serial: u32) -> Self {
        gic.init();
        Self {
            gic,
            timer,
            serial,
            interfaces: [const { AtomicU8::new(0) }; MAX_CPUS],
        }
    }

    /// Lets the serial port interrupt this CPU. Answers whether there is one.
    pub fn listen(&self) -> bool {
        let there = self.serial != 0;
        if there {
            self.gic.enable(self.serial);
        }
        there
    }

    /// Lets this CPU be interrupted, by its timer and by others. Called once on each CPU.
    pub fn init_cpu(&self, cpu: usize) {
        self.gic.init_cpu();
        self.gic.enable(self.timer);
        self.gic.enable(CALL);
        if let Some(interface) = self.interfaces.get(cpu) {
            interface.store(self.gic.interface(), Ordering::Release);
        }
    }

    /// Interrupts another CPU. What was written before must be made visible by the caller's
    /// barrier.
    pub fn call(&self, cpu: usize) {
        if let Some(interface) = self.interfaces.get(cpu) {
            self.gic.send(CALL, interface.load(Ordering::Acquire));
        }
    }

    /// Takes the most urgent interrupt and has `serve` quiet what raised it. `None` when there was
    /// none.
    pub fn take(&self, serve: impl FnOnce(Line)) -> Option<Line> {
        let taken = self.gic.acknowledge()?;
        let line = match taken.number() {
            number if number == self.timer => Line::Timer,
            number if number == self.serial && number != CALL => Line::Serial,
            _ => Line::Call,
        };
        serve(line);
        self.gic.end(taken);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmio::Registers;

    const ACKNOWLEDGE: usize = 0x0c / 4;
    const END: usize = 0x10 / 4;

    /// Memory in the place of both sets of registers: what is there to be acknowledged is written
    /// to the register of that name.
    fn lines(registers: &mut [u32; 0x400], serial: u32) -> Lines {
        let base = registers.as_mut_ptr().expose_provenance();
        // SAFETY: memory of the test, alive while the controller is used; nothing else touches it.
        let gic = unsafe { Gic::new(Registers::new(base), Registers::new(base)) };
        Lines::new(gic, 27, serial)
    }

    #[test]
    fn an_interrupt_is_served_before_it_ends() {
        for (number, serial, expected) in [
            (27, 33, Some(Line::Timer)),
            (33, 33, Some(Line::Serial)),
            (0, 33, Some(Line::Call)),
            (0, 0, Some(Line::Call)),
            (1023, 33, None),
        ] {
            let mut registers = [0; 0x400];
            let lines = lines(&mut registers, serial);
            let place = registers.as_mut_ptr();
            let mut served = None;
            // SAFETY: the array is alive, and the controller has only its address.
            let line = unsafe {
                place.add(ACKNOWLEDGE).write_volatile(number);
                place.add(END).write_volatile(77);
                lines.take(|line| {
                    assert_eq!(place.add(END).read_volatile(), 77, "not yet");
                    served = Some(line);
                })
            };
            assert_eq!((line, served), (expected, expected));
            let end = if expected.is_some() { number } else { 77 };
            // SAFETY: as above.
            assert_eq!(unsafe { place.add(END).read_volatile() }, end);
        }
    }
}
