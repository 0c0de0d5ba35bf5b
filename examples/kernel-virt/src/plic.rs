//! The RISC-V platform-level interrupt controller. Source: RISC-V PLIC specification 1.0.
//!
//! A *context* is one privilege mode of one hart; which one is a supervisor's stands in the
//! device tree ([`Facts::plic_context`](crate::tree::Facts::plic_context)). An interrupt is
//! handled between [`Plic::claim`] and [`Plic::complete`].

use crate::mmio::Registers;

const PRIORITY: usize = 0;
const ENABLE: usize = 0x2000;
const ENABLE_BYTES: usize = 0x80;
const CONTEXT: usize = 0x20_0000;
const CONTEXT_BYTES: usize = 0x1000;
const THRESHOLD: usize = 0;
const CLAIM: usize = 4;

/// A PLIC.
#[derive(Clone, Copy, Debug)]
pub struct Plic(Registers);

impl Plic {
    /// Names the controller: `registers` are a PLIC's.
    pub const fn new(registers: Registers) -> Self {
        Self(registers)
    }

    /// Lets every enabled interrupt through to `context`.
    pub fn init_context(&self, context: usize) {
        self.0
            .write(CONTEXT + context * CONTEXT_BYTES + THRESHOLD, 0);
    }

    /// Enables interrupt `number` for `context`.
    pub fn enable(&self, context: usize, number: u32) {
        let at = number as usize;
        self.0.write(PRIORITY + 4 * at, 1);
        let word = ENABLE + context * ENABLE_BYTES + at / 32 * 4;
        self.0.write(word, self.0.read(word) | 1 << (at % 32));
    }

    /// Takes the most urgent pending interrupt of `context`.
    pub fn claim(&self, context: usize) -> Option<u32> {
        let number = self.0.read(CONTEXT + context * CONTEXT_BYTES + CLAIM);
        (number != 0).then_some(number)
    }

    /// Says that an interrupt was handled.
    pub fn complete(&self, context: usize, number: u32) {
        self.0
            .write(CONTEXT + context * CONTEXT_BYTES + CLAIM, number);
    }
}
