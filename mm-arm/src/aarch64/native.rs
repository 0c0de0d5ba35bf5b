//! The instructions themselves, and the registers that translation needs.
//!
//! This is the one file of the AArch64 half with inline assembly.
#![allow(unsafe_code, reason = "privileged instructions")]

use super::tlb::TlbFeatures;
use super::{Emit, Reach, Tlbi, Waits, registers};
use core::arch::asm;

/// Executes what it is told. Exists only on EL1.
#[derive(Debug)]
pub struct Native(());

macro_rules! tlbi {
    ($argument:expr, $op:literal) => {
        // SAFETY: EL1 (the promise of `new`); dropping a translation is always sound.
        unsafe { asm!(concat!("tlbi ", $op, ", {}"), in(reg) $argument, options(nostack, preserves_flags)) }
    };
}

/// The forms of FEAT_TLBIRANGE by number, which every assembler knows.
macro_rules! range {
    ($argument:expr, $op:literal) => {
        // SAFETY: as for `tlbi`; callers name a range only where the feature exists.
        unsafe { asm!(concat!("sys #0, c8, ", $op, ", {}"), in(reg) $argument, options(nostack, preserves_flags)) }
    };
}

/// Reads a system register.
macro_rules! mrs {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reading the register on EL1 has no effect.
        unsafe {
            asm!(concat!("mrs {}, ", $register), out(reg) value,
                options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

impl Native {
    /// Makes the executor.
    ///
    /// # Safety
    /// The CPU is on EL1.
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Writes TTBR1_EL1: switches the kernel half.
    ///
    /// # Safety
    /// The table maps the running code and stack as the one before did, and
    /// stays alive until another is loaded.
    pub unsafe fn switch_kernel_root(&mut self, root: u64) {
        let value = registers::ttbr(root, 0);
        // SAFETY: the caller's promise.
        unsafe {
            asm!("msr ttbr1_el1, {}", "isb", in(reg) value, options(nostack, preserves_flags));
        }
    }

    /// Reads what flushes depend on; the page size is the kernel's choice.
    pub fn tlb_features(&self, page_shift: u32) -> TlbFeatures {
        TlbFeatures {
            page_shift,
            range: registers::has_tlbi_range(mrs!("id_aa64isar0_el1")),
        }
    }

    /// Reads CTR_EL0.
    pub fn cache_type(&self) -> super::code::CacheType {
        super::code::CacheType::new(mrs!("ctr_el0"))
    }

    /// Reads ID_AA64MMFR0_EL1.
    pub fn mmfr0(&self) -> u64 {
        mrs!("id_aa64mmfr0_el1")
    }

    /// Reads ID_AA64MMFR1_EL1.
    pub fn mmfr1(&self) -> u64 {
        mrs!("id_aa64mmfr1_el1")
    }
}

impl Emit for Native {
    fn tlbi(&mut self, what: Tlbi, reach: Reach, argument: u64) {
        match (what, reach) {
            (Tlbi::All, Reach::Local) => {
                // SAFETY: as in `tlbi!`.
                unsafe { asm!("tlbi vmalle1", options(nostack, preserves_flags)) }
            }
            (Tlbi::All, Reach::InnerShareable) => {
                // SAFETY: as in `tlbi!`.
                unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) }
            }
            (Tlbi::Asid, Reach::Local) => tlbi!(argument, "aside1"),
            (Tlbi::Asid, Reach::InnerShareable) => tlbi!(argument, "aside1is"),
            (Tlbi::Address, Reach::Local) => tlbi!(argument, "vae1"),
            (Tlbi::Address, Reach::InnerShareable) => tlbi!(argument, "vae1is"),
            (Tlbi::AddressLast, Reach::Local) => tlbi!(argument, "vale1"),
            (Tlbi::AddressLast, Reach::InnerShareable) => tlbi!(argument, "vale1is"),
            (Tlbi::AnyAddress, Reach::Local) => tlbi!(argument, "vaae1"),
            (Tlbi::AnyAddress, Reach::InnerShareable) => tlbi!(argument, "vaae1is"),
            (Tlbi::AnyAddressLast, Reach::Local) => tlbi!(argument, "vaale1"),
            (Tlbi::AnyAddressLast, Reach::InnerShareable) => tlbi!(argument, "vaale1is"),
            (Tlbi::Range, Reach::Local) => range!(argument, "c6, #1"),
            (Tlbi::Range, Reach::InnerShareable) => range!(argument, "c2, #1"),
            (Tlbi::AnyRange, Reach::Local) => range!(argument, "c6, #3"),
            (Tlbi::AnyRange, Reach::InnerShareable) => range!(argument, "c2, #3"),
            (Tlbi::RangeLast, Reach::Local) => range!(argument, "c6, #5"),
            (Tlbi::RangeLast, Reach::InnerShareable) => range!(argument, "c2, #5"),
            (Tlbi::AnyRangeLast, Reach::Local) => range!(argument, "c6, #7"),
            (Tlbi::AnyRangeLast, Reach::InnerShareable) => range!(argument, "c2, #7"),
        }
    }

    fn dsb(&mut self, waits: Waits, reach: Reach) {
        // SAFETY: a barrier changes nothing.
        unsafe {
            match (waits, reach) {
                (Waits::Stores, Reach::Local) => {
                    asm!("dsb nshst", options(nostack, preserves_flags))
                }
                (Waits::All, Reach::Local) => asm!("dsb nsh", options(nostack, preserves_flags)),
                (Waits::Stores, Reach::InnerShareable) => {
                    asm!("dsb ishst", options(nostack, preserves_flags));
                }
                (Waits::All, Reach::InnerShareable) => {
                    asm!("dsb ish", options(nostack, preserves_flags));
                }
            }
        }
    }

    fn isb(&mut self) {
        // SAFETY: a barrier changes nothing.
        unsafe { asm!("isb", options(nostack, preserves_flags)) }
    }

    unsafe fn write_ttbr0(&mut self, value: u64) {
        // SAFETY: the kernel runs by TTBR1; the rest is the caller's promise.
        unsafe { asm!("msr ttbr0_el1, {}", in(reg) value, options(nostack, preserves_flags)) }
    }

    fn dc_cvau(&mut self, addr: usize) {
        // SAFETY: cleaning a line changes no contents; an address that is not
        // mapped faults, and callers name memory that they wrote.
        unsafe { asm!("dc cvau, {}", in(reg) addr, options(nostack, preserves_flags)) }
    }

    fn ic_ivau(&mut self, addr: usize) {
        // SAFETY: as for `dc_cvau`.
        unsafe { asm!("ic ivau, {}", in(reg) addr, options(nostack, preserves_flags)) }
    }

    fn ic_ialluis(&mut self) {
        // SAFETY: dropping instruction caches changes no contents.
        unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) }
    }
}

/// Reads ESR_EL1: why the last exception was taken.
///
/// # Safety
/// EL1, in the handler before another exception can happen.
pub unsafe fn syndrome() -> super::Syndrome {
    super::Syndrome::new(mrs!("esr_el1"))
}

/// Reads FAR_EL1, the address of the last abort.
///
/// # Safety
/// As for [`syndrome`].
#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses have 64 bits here"
)]
pub unsafe fn fault_address() -> usize {
    mrs!("far_el1") as usize
}
