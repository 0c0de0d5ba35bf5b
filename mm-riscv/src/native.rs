//! The instructions themselves, and the calls of the firmware.
//!
//! This is the one file of the crate with inline assembly. The Svinval
//! instructions are written as numbers, so that assemblers without the
//! extension take them (13: funct7 0x0b, 0x0c).
#![allow(unsafe_code, reason = "privileged instructions")]

use crate::tlb::{Emit, HartMask};
use core::arch::asm;

/// Executes what it is told. Exists only in supervisor mode.
#[derive(Debug)]
pub struct Native(());

impl Native {
    /// Makes the executor.
    ///
    /// # Safety
    /// The hart is in supervisor mode, above an SBI 0.2 or later with RFENCE
    /// if there are other harts; and each value given to
    /// [`Emit::write_satp`] names a table that maps the running code and
    /// stack, and stays alive until another is loaded, or a mode that the hart
    /// does not have.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl Emit for Native {
    fn sfence_vma(&mut self, addr: Option<usize>, asid: Option<u16>) {
        // SAFETY: supervisor mode (the promise of `new`); dropping
        // translations is always sound. A tag of zero is in a register.
        unsafe {
            match (addr, asid) {
                (None, None) => asm!("sfence.vma x0, x0", options(nostack, preserves_flags)),
                (None, Some(asid)) => {
                    asm!("sfence.vma x0, {}", in(reg) asid as usize, options(nostack, preserves_flags));
                }
                (Some(addr), None) => {
                    asm!("sfence.vma {}, x0", in(reg) addr, options(nostack, preserves_flags));
                }
                (Some(addr), Some(asid)) => {
                    asm!("sfence.vma {}, {}", in(reg) addr, in(reg) asid as usize,
                        options(nostack, preserves_flags));
                }
            }
        }
    }

    fn sfence_w_inval(&mut self) {
        // SAFETY: as for `sfence_vma`; used where Svinval was found.
        unsafe {
            asm!(
                ".insn r 0x73, 0, 0x0c, x0, x0, x0",
                options(nostack, preserves_flags)
            );
        }
    }

    fn sinval_vma(&mut self, addr: usize, asid: Option<u16>) {
        // SAFETY: as for `sfence_w_inval`.
        unsafe {
            match asid {
                Some(asid) => asm!(".insn r 0x73, 0, 0x0b, x0, {}, {}", in(reg) addr,
                    in(reg) asid as usize, options(nostack, preserves_flags)),
                None => asm!(".insn r 0x73, 0, 0x0b, x0, {}, x0", in(reg) addr,
                    options(nostack, preserves_flags)),
            }
        }
    }

    fn sfence_inval_ir(&mut self) {
        // SAFETY: as for `sfence_w_inval`.
        unsafe {
            asm!(
                ".insn r 0x73, 0, 0x0c, x0, x0, x1",
                options(nostack, preserves_flags)
            );
        }
    }

    fn fence(&mut self) {
        // SAFETY: a fence has no effect but order.
        unsafe { asm!("fence rw, rw", options(nostack, preserves_flags)) }
    }

    fn fence_i(&mut self) {
        // SAFETY: as for `fence`.
        unsafe { asm!("fence.i", options(nostack, preserves_flags)) }
    }

    fn read_satp(&mut self) -> u64 {
        let value: usize;
        // SAFETY: reading the register has no effect.
        unsafe { asm!("csrr {}, satp", out(reg) value, options(nomem, nostack, preserves_flags)) }
        value as u64
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the register is as wide as usize"
    )]
    fn write_satp(&mut self, value: u64) {
        // SAFETY: the promise of `new`.
        unsafe { asm!("csrw satp, {}", in(reg) value as usize, options(nostack, preserves_flags)) }
    }

    fn remote_sfence_vma(
        &mut self,
        harts: HartMask,
        start: usize,
        bytes: usize,
        asid: Option<u16>,
    ) {
        let (function, tag) = match asid {
            None => (REMOTE_SFENCE_VMA, 0),
            Some(asid) => (REMOTE_SFENCE_VMA_ASID, usize::from(asid)),
        };
        // SAFETY: SBI 8.2, 8.3: the call drops translations and returns.
        let answer = unsafe {
            call(
                RFENCE,
                function,
                [harts.mask, harts.base, start, bytes, tag],
            )
        };
        debug_assert!(answer.is_ok(), "the firmware refused a remote fence");
    }

    fn remote_fence_i(&mut self, harts: HartMask) {
        // SAFETY: SBI 8.1: the call orders fetches and returns.
        let answer = unsafe { call(RFENCE, 0, [harts.mask, harts.base, 0, 0, 0]) };
        debug_assert!(answer.is_ok(), "the firmware refused a remote fence");
    }
}

/// The extension RFENCE of SBI, and its functions.
const RFENCE: usize = 0x5246_4e43;
const REMOTE_SFENCE_VMA: usize = 1;
const REMOTE_SFENCE_VMA_ASID: usize = 2;

/// Calls the firmware: SBI 3, "Binary Encoding".
///
/// # Errors
/// The error number of SBI, which is negative.
///
/// # Safety
/// The hart is in supervisor mode, and what the function does to memory and to
/// harts is wanted.
pub unsafe fn call(
    extension: usize,
    function: usize,
    arguments: [usize; 5],
) -> Result<usize, isize> {
    let [a0, a1, a2, a3, a4] = arguments;
    let (error, value): (isize, usize);
    // SAFETY: the caller's promise. The firmware keeps all registers but a0 and a1.
    unsafe {
        asm!("ecall",
            inlateout("a0") a0 as isize => error, inlateout("a1") a1 => value,
            in("a2") a2, in("a3") a3, in("a4") a4, in("a6") function, in("a7") extension,
            options(nostack));
    }
    if error == 0 { Ok(value) } else { Err(error) }
}
