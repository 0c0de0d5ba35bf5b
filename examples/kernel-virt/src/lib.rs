//! What the example kernels on QEMU's `virt` machines share.
//!
//! Nothing about the machine is written down in a kernel: the firmware's device tree says where
//! RAM, CPUs and devices are, and the drivers here work wherever their registers are mapped.
//!
//! ```text
//!  device tree ─► tree::Facts ─┬─ regions(taken) ─► mm-core's `normalise` ─► frames
//!                              ├─ command line, initrd (physical ranges)
//!                              └─ bases, interrupt numbers ─► pl011, ns16550, gic, plic, clock
//! ```
//!
//! | file | what | whose |
//! |---|---|---|
//! | [`tree`] | the facts of the device tree | all |
//! | [`mmio`] | registers at an address: the only unsafe code of the drivers | all |
//! | [`console`] | log, output, input ring over any serial port | all |
//! | [`pl011`], [`gic`] | serial port, interrupt controller (GICv2) | AArch64, Armv7 |
//! | [`lines`] | what the interrupts of such a machine are about | AArch64, Armv7 |
//! | [`psci`] | the firmware's power calls, which start CPUs | AArch64, Armv7 |
//! | [`ns16550`], [`plic`] | serial port, interrupt controller | RISC-V |
//! | [`clock`] | the date (PL031, Goldfish) | all |
//! | [`finisher`] | power-off with an exit status | RISC-V |
//! | [`random`] | a generator seeded by the device tree's random bytes | all |
//!
//! The CPU's own timer, its traps and its page tables are each kernel's.
#![cfg_attr(not(test), no_std)]

pub mod clock;
pub mod console;
pub mod finisher;
pub mod gic;
pub mod lines;
pub mod mmio;
pub mod ns16550;
pub mod pl011;
pub mod plic;
pub mod psci;
pub mod random;
pub mod tree;
