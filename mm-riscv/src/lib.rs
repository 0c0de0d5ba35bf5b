//! RISC-V for [`mm_core`]: page-table formats, trap causes, fences and `satp`.
//!
//! | module | what | where it runs |
//! |---|---|---|
//! | [`paging`] | Sv32, Sv39, Sv48, Sv57 entries, Svnapot, Svpbmt, Svadu: bits only | any host; Sv39 and up where addresses have 64 bits |
//! | [`isa`] | which of the extensions a hart has, from the device tree | any host |
//! | [`satp`] | the layout of `satp`, probing of modes and ASIDs through [`tlb::Emit`] | any host |
//! | [`fault`] | `scause` | any host |
//! | [`tlb`] | which fences drop what, here and on other harts, through [`tlb::Emit`] | any host |
//! | `native` | those instructions and the SBI calls | RISC-V only |
//!
//! Not yet: Sv39x4 and its relatives (the hypervisor's second stage: a root of
//! 16 KiB).
//!
//! Sources: "The RISC-V Instruction Set Manual, Volume II: Privileged
//! Architecture" (20240411: chapters 10 "Supervisor-Level ISA", 11 "Svnapot",
//! 12 "Svpbmt", 13 "Svinval", 14 "Svadu", and the ratified Svvptc); "RISC-V
//! Supervisor Binary Interface Specification" 2.0, chapter 8 "RFENCE".
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod fault;
pub mod isa;
#[cfg(any(target_arch = "riscv64", target_arch = "riscv32"))]
pub mod native;
pub mod paging;
pub mod satp;
pub mod tlb;

pub use fault::Cause;
pub use isa::Extensions;
pub use paging::{Mode, Paging, Sv32};
#[cfg(target_pointer_width = "64")]
pub use paging::{Probed, Sv39, Sv48, Sv57};
