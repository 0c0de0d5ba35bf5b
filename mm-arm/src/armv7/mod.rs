//! ARMv7-A with short descriptors, and the page of ARMv5 that books show.
//!
//! | module | what | where it runs |
//! |---|---|---|
//! | [`short`] | the two-level format with software words beside hardware's | any host |
//! | [`armv5`] | second-level words with four AP fields, read only | any host |
//! | [`fault`] | IFSR and DFSR, short and long form | any host |
//! | [`registers`] | values of SCTLR, TTBCR, TTBR, DACR, PRRR, NMRR | any host |
//! | [`tlb`] | which operations drop what, in which order, through [`tlb::Emit`] | any host |
//! | `native` | those operations, and the registers | ARM only |
//!
//! Source: ARM Architecture Reference Manual, ARMv7-A and ARMv7-R edition
//! (DDI 0406C), chapters B3 "Virtual Memory System Architecture" and B4
//! "System Control Registers"; for ARMv5, DDI 0100I, chapter B4. The long
//! descriptors (LPAE) of ARMv7 stand beside AArch64's, which they resemble.

pub mod armv5;
pub mod fault;
#[cfg(target_arch = "arm")]
pub mod native;
pub mod registers;
pub mod short;
pub mod tlb;

pub use fault::Abort;
pub use short::Short;
