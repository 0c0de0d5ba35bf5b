//! The Arm generic interrupt controller, version 2. Source: Arm IHI 0048, chapter 4.
//!
//! ```text
//! 0..16    SGI  one CPU to another          | per CPU: each CPU enables its own
//! 16..32   PPI  the CPU's own (timers)      |
//! 32..     SPI  devices                     | sent to the CPUs of its target byte
//! ```
//!
//! [`Gic::init`] runs once, [`Gic::init_cpu`] once on each CPU. An interrupt is handled between
//! [`Gic::acknowledge`] and [`Gic::end`], on the CPU that acknowledged it. Registers of the first
//! 32 interrupts are banked: each CPU reads and writes its own.
//!
//! The controller numbers its CPU interfaces in its own way: a CPU asks which one it is
//! ([`Gic::interface`]), and others are called by that answer ([`Gic::send`]).

use crate::mmio::Registers;

// Of the distributor.
const DISTRIBUTOR_CONTROL: usize = 0x000;
const KIND: usize = 0x004;
const SET_ENABLE: usize = 0x100;
const CLEAR_ENABLE: usize = 0x180;
const CLEAR_PENDING: usize = 0x280;
const PRIORITY: usize = 0x400;
const TARGETS: usize = 0x800;
const GENERATE: usize = 0xf00;

// Of the CPU interface.
const CPU_CONTROL: usize = 0x00;
const CPU_PRIORITY_MASK: usize = 0x04;
const CPU_ACKNOWLEDGE: usize = 0x0c;
const CPU_END: usize = 0x10;

/// The first interrupt number of the devices.
pub const FIRST_SHARED: u32 = 32;
/// The first interrupt number that means "none".
const SPECIAL: u32 = 1020;
/// The middle: higher (numerically lower) than the mask, so that it passes.
const PRIORITY_MIDDLE: u8 = 0xa0;

/// An interrupt that was taken, to be handed back to [`Gic::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "until `end` no interrupt of this or a lower priority comes"]
pub struct Acknowledged(u32);

impl Acknowledged {
    /// The number of the interrupt.
    pub fn number(self) -> u32 {
        self.0 & 0x3ff
    }
}

/// A GICv2.
#[derive(Clone, Copy, Debug)]
pub struct Gic {
    distributor: Registers,
    cpu: Registers,
}

impl Gic {
    /// Names the controller. The registers are those of a GICv2's distributor and of its CPU
    /// interface, where each CPU sees its own.
    pub const fn new(distributor: Registers, cpu: Registers) -> Self {
        Self { distributor, cpu }
    }

    /// Disables all interrupts of devices and switches the distributor on. Called once.
    pub fn init(&self) {
        self.distributor.write(DISTRIBUTOR_CONTROL, 0);
        let words = (self.distributor.read(KIND) & 0x1f) as usize + 1;
        for word in 1..words {
            self.distributor.write(CLEAR_ENABLE + 4 * word, !0);
            self.distributor.write(CLEAR_PENDING + 4 * word, !0);
        }
        self.distributor.write(DISTRIBUTOR_CONTROL, 1);
    }

    /// Disables the interrupts that belong to this CPU, except SGIs, and lets it take interrupts.
    /// Called once on each CPU.
    pub fn init_cpu(&self) {
        self.distributor.write(CLEAR_ENABLE, 0xffff_0000);
        self.cpu.write(CPU_PRIORITY_MASK, 0xff);
        self.cpu.write(CPU_CONTROL, 1);
    }

    /// Returns the calling CPU's interface, as a set of one bit.
    ///
    /// The target bytes of the first 32 interrupts say it (4.3.12); not all of them need be
    /// there, and on a controller of one CPU none is.
    pub fn interface(&self) -> u8 {
        let words = (0..FIRST_SHARED as usize).step_by(4);
        let targets = words.map(|at| self.distributor.read(TARGETS + at));
        let bits = targets.fold(0, |bits, word| bits | word);
        let [a, b, c, d] = bits.to_le_bytes();
        match a | b | c | d {
            0 => 1,
            interface => interface,
        }
    }

    /// Enables an interrupt; one of a device (from [`FIRST_SHARED`]) is sent to the calling CPU.
    /// For a number below, it is the calling CPU's own.
    pub fn enable(&self, number: u32) {
        let at = number as usize;
        self.distributor.write_byte(PRIORITY + at, PRIORITY_MIDDLE);
        if number >= FIRST_SHARED {
            self.distributor.write_byte(TARGETS + at, self.interface());
        }
        self.distributor
            .write(SET_ENABLE + at / 32 * 4, 1 << (at % 32));
    }

    /// Takes the most urgent pending interrupt. `None` when there is none (spurious).
    pub fn acknowledge(&self) -> Option<Acknowledged> {
        let taken = Acknowledged(self.cpu.read(CPU_ACKNOWLEDGE));
        (taken.number() < SPECIAL).then_some(taken)
    }

    /// Says that an interrupt was handled.
    pub fn end(&self, taken: Acknowledged) {
        self.cpu.write(CPU_END, taken.0);
    }

    /// Sends the software interrupt `number` (below 16) to every CPU whose [`Gic::interface`] is
    /// in the set. What was written before must be made visible by the caller's barrier.
    pub fn send(&self, number: u32, interfaces: u8) {
        self.distributor
            .write(GENERATE, u32::from(interfaces) << 16 | number & 0xf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers as plain memory: a distributor and a CPU interface.
    fn machine(registers: &mut [u32; 0x400]) -> Gic {
        let base = registers.as_mut_ptr().expose_provenance();
        // SAFETY: memory of the test, alive while the controller is used; nothing else touches it.
        unsafe { Gic::new(Registers::new(base), Registers::new(base)) }
    }

    #[test]
    fn a_cpu_finds_its_interface_where_some_targets_are_missing() {
        let mut registers = [0; 0x400];
        assert_eq!(machine(&mut registers).interface(), 1, "one CPU");
        registers[TARGETS / 4 + 7] = 0x0400_0000;
        assert_eq!(machine(&mut registers).interface(), 4);
    }

    #[test]
    fn devices_call_the_cpu_that_enabled_them() {
        let mut registers = [0; 0x400];
        registers[TARGETS / 4] = 0x0202_0202;
        machine(&mut registers).enable(33);
        assert_eq!(registers[TARGETS / 4 + 8], 0x0200, "byte 33");
        assert_eq!(registers[SET_ENABLE / 4 + 1], 2);
        machine(&mut registers).send(3, 0b1010);
        assert_eq!(registers[GENERATE / 4], 0x000a_0003);
    }
}
