//! The operations themselves, and the system registers that paging needs.
//!
//! With the short-descriptor files' trait implementation, this is the one file
//! of the module that is `unsafe`.
#![allow(unsafe_code, reason = "privileged instructions")]

use super::short::Pxn;
use super::tlb::{Barrier, CodeCaches, Emit, Op};
use core::arch::asm;

/// Executes what it is told. Exists only in privileged modes.
#[derive(Debug)]
pub struct Native(());

impl Native {
    /// Makes the executor.
    ///
    /// # Safety
    /// The CPU is in a privileged mode of ARMv7-A, with the Multiprocessing
    /// Extensions where broadcast operations will be asked for.
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Switches to the table at `root`, with the attributes of its walks in
    /// the low bits ([`TTBR_SHAREABLE`](super::registers::TTBR_SHAREABLE)), and
    /// to its ASID.
    ///
    /// # Safety
    /// The table maps the running code and stack, and stays alive until
    /// another is loaded.
    pub unsafe fn switch_root(&mut self, ttbr0: u32, asid: u8) {
        super::tlb::switch(self, ttbr0, asid);
    }
}

/// `MCR p15, opc1, value, CRn, CRm, opc2`.
macro_rules! write_cp15 {
    ($opc1:literal, $crn:literal, $crm:literal, $opc2:literal, $value:expr) => {
        asm!(concat!("mcr p15, ", $opc1, ", {}, c", $crn, ", c", $crm, ", ", $opc2),
            in(reg) $value, options(nostack, preserves_flags))
    };
}

/// `MRC p15, opc1, result, CRn, CRm, opc2`.
macro_rules! read_cp15 {
    ($opc1:literal, $crn:literal, $crm:literal, $opc2:literal) => {{
        let value: u32;
        asm!(concat!("mrc p15, ", $opc1, ", {}, c", $crn, ", c", $crm, ", ", $opc2),
            out(reg) value, options(nomem, nostack, preserves_flags));
        value
    }};
}

impl Emit for Native {
    fn op(&mut self, op: Op, value: u32) {
        // SAFETY: a privileged mode (the promise of `new`). Dropping
        // translations, predictions and clean lines is always sound; TTBR0 and
        // CONTEXTIDR are written by `switch`, whose caller is `switch_root`.
        // The encodings are those of DDI 0406C table B3-49 and B3-50.
        unsafe {
            match op {
                Op::Tlbimva => write_cp15!(0, 8, 7, 1, value),
                Op::TlbimvaIs => write_cp15!(0, 8, 3, 1, value),
                Op::Tlbimvaa => write_cp15!(0, 8, 7, 3, value),
                Op::TlbimvaaIs => write_cp15!(0, 8, 3, 3, value),
                Op::Tlbiasid => write_cp15!(0, 8, 7, 2, value),
                Op::TlbiasidIs => write_cp15!(0, 8, 3, 2, value),
                Op::Tlbiall => write_cp15!(0, 8, 7, 0, value),
                Op::TlbiallIs => write_cp15!(0, 8, 3, 0, value),
                Op::Bpiall => write_cp15!(0, 7, 5, 6, value),
                Op::BpiallIs => write_cp15!(0, 7, 1, 6, value),
                Op::Dccmvau => write_cp15!(0, 7, 11, 1, value),
                Op::Icimvau => write_cp15!(0, 7, 5, 1, value),
                Op::Iciallu => write_cp15!(0, 7, 5, 0, value),
                Op::IcialluIs => write_cp15!(0, 7, 1, 0, value),
                Op::Contextidr => write_cp15!(0, 13, 0, 1, value),
                Op::Ttbr0 => write_cp15!(0, 2, 0, 0, value),
            }
        }
    }

    fn barrier(&mut self, barrier: Barrier) {
        // SAFETY: waiting is always sound.
        unsafe {
            match barrier {
                Barrier::DsbIsh => asm!("dsb ish", options(nostack, preserves_flags)),
                Barrier::DsbIshst => asm!("dsb ishst", options(nostack, preserves_flags)),
                Barrier::Isb => asm!("isb", options(nostack, preserves_flags)),
            }
        }
    }
}

/// Reads how this CPU caches instructions (CTR).
///
/// # Safety
/// The CPU is in a privileged mode.
pub unsafe fn code_caches() -> CodeCaches {
    // SAFETY: the caller's promise; reading CTR has no effect.
    CodeCaches::from_ctr(unsafe { read_cp15!(0, 0, 0, 1) })
}

/// Reads whether this CPU knows PXN in short descriptors: ID_MMFR0.VMSA (B4.1.89)
/// is 4, or 5 with long descriptors too.
///
/// # Safety
/// The CPU is in a privileged mode.
pub unsafe fn pxn() -> Pxn {
    // SAFETY: the caller's promise; reading ID_MMFR0 has no effect.
    let features = unsafe { read_cp15!(0, 0, 1, 4) };
    if features & 0xf >= 4 {
        Pxn::Present
    } else {
        Pxn::Absent
    }
}

/// What the last data abort left: DFSR and DFAR.
///
/// # Safety
/// A privileged mode, in the abort's handler before another can happen.
pub unsafe fn data_fault() -> (u32, usize) {
    // SAFETY: the caller's promise; reading has no effect.
    let (status, address) = unsafe { (read_cp15!(0, 5, 0, 0), read_cp15!(0, 6, 0, 0)) };
    (status, address as usize)
}

/// What the last prefetch abort left: IFSR and IFAR.
///
/// # Safety
/// A privileged mode, in the abort's handler before another can happen.
pub unsafe fn prefetch_fault() -> (u32, usize) {
    // SAFETY: the caller's promise; reading has no effect.
    let (status, address) = unsafe { (read_cp15!(0, 5, 0, 1), read_cp15!(0, 6, 0, 2)) };
    (status, address as usize)
}
