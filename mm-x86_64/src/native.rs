//! The instructions themselves, and the control registers that paging needs.
//!
//! This is the one file of the crate with inline assembly.
#![allow(unsafe_code, reason = "privileged instructions")]

use crate::paging::PagingFeatures;
use crate::tlb::{CR4_PGE, Emit, InvpcidKind, TlbFeatures, cr3};
use core::arch::asm;
use mm_core::tlb::Remembered;

/// Executes what it is told. Exists only in ring 0.
#[derive(Debug)]
pub struct Native(());

impl Native {
    /// Makes the executor.
    ///
    /// # Safety
    /// The CPU is in ring 0.
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Writes CR3: switches to the table at `root` (a frame's address) with
    /// a PCID, and drops what that has cached if it is stale.
    ///
    /// # Safety
    /// The table maps the running code and stack, and stays alive until
    /// another is loaded.
    pub unsafe fn switch_root(&mut self, root: u64, pcid: u16, remembered: Remembered) {
        self.write_cr3(cr3(root, pcid, remembered));
    }
}

impl Emit for Native {
    fn invlpg(&mut self, addr: usize) {
        // SAFETY: ring 0 (the promise of `new`); dropping a translation is
        // always sound.
        unsafe { asm!("invlpg [{}]", in(reg) addr, options(nostack, preserves_flags)) }
    }

    fn invpcid(&mut self, kind: InvpcidKind, pcid: u16, addr: usize) {
        let descriptor: [u64; 2] = [u64::from(pcid), addr as u64];
        // SAFETY: as for `invlpg`; the descriptor lives across the statement.
        unsafe {
            asm!("invpcid {}, [{}]", in(reg) kind as u64, in(reg) &descriptor,
                options(nostack, preserves_flags, readonly));
        }
    }

    fn read_cr3(&mut self) -> u64 {
        let value;
        // SAFETY: reading CR3 in ring 0 has no effect.
        unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }

    fn write_cr3(&mut self, value: u64) {
        // SAFETY: callers within the crate write back the value read, or are
        // `switch_root`, whose caller promises a good table.
        unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) }
    }

    fn read_cr4(&mut self) -> u64 {
        let value;
        // SAFETY: reading CR4 in ring 0 has no effect.
        unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }

    fn write_cr4(&mut self, value: u64) {
        // SAFETY: callers only toggle PGE and restore it.
        unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) }
    }
}

/// Reads which TLB features are on: CR4.PGE, CR4.PCIDE and CPUID.
///
/// # Safety
/// The CPU is in ring 0.
pub unsafe fn tlb_features() -> TlbFeatures {
    // SAFETY: ring 0 is the caller's promise.
    let cr4 = unsafe { Native::new() }.read_cr4();
    // SAFETY: every x86-64 CPU has CPUID (newer compilers know it is safe).
    #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
    let invpcid = unsafe {
        core::arch::x86_64::__cpuid(0).eax >= 7
            && core::arch::x86_64::__cpuid_count(7, 0).ebx & (1 << 10) != 0
    };
    TlbFeatures {
        global: cr4 & CR4_PGE != 0,
        pcid: cr4 & (1 << 17) != 0,
        invpcid,
    }
}

/// IA32_EFER.
const EFER: u32 = 0xc000_0080;

/// Reads which bits of entries the CPU has: EFER.NXE and CPUID.
///
/// Every CPU must answer the same: the entries of one table are read by all.
///
/// # Safety
/// The CPU is in ring 0, and EFER.NXE is as it will stay.
pub unsafe fn paging_features() -> PagingFeatures {
    // SAFETY: every CPU in long mode has EFER; ring 0 is the caller's promise.
    let efer = unsafe { read_msr(EFER) };
    // SAFETY: every x86-64 CPU has CPUID (newer compilers know it is safe), and
    // as it has long mode, its leaf 80000001H.
    #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
    let extended = unsafe { core::arch::x86_64::__cpuid(0x8000_0001) };
    PagingFeatures {
        no_execute: efer & (1 << 11) != 0,
        page_1g: extended.edx & (1 << 26) != 0,
    }
}

/// Reads a model-specific register.
///
/// # Safety
/// Ring 0, and the CPU has the register.
unsafe fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// Ring 0, and the value is right for the register: EFER (0xc000_0080) with
/// NXE as the format's [`PagingFeatures`] say, PAT (0x277) with [`crate::paging::PAT_VALUE`].
pub unsafe fn write_msr(msr: u32, value: u64) {
    let low = value & 0xffff_ffff;
    let high = value >> 32;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("rax") low, in("rdx") high,
            options(nostack, preserves_flags));
    }
}

/// Reads CR2, the address of the last page fault.
///
/// # Safety
/// Ring 0, in the fault handler before another fault can happen.
pub unsafe fn fault_address() -> usize {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}
