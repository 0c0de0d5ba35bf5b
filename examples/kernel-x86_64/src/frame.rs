//! The user's registers as the trap entry saves them.
//!
//! ```text
//! top of the kernel stack ─► ┌────────────────────┐
//!                            │ ss                 │ pushed by the CPU (trap)
//!                            │ rsp  (the user's)  │ or by the entry code (syscall)
//!                            │ rflags, cs, rip    │
//!                            │ error, origin      │ error code; vector or syscall number
//!                            │ rdi ... r15        │
//!                            │ fs_base, gs_base   │ filled in and loaded by Rust code
//!  frame pointer ──────────► └────────────────────┘ 24 words: keeps the stack aligned to 16
//! ```
//!
//! Leaving goes through [`UserFrame::make_safe`], so no value that a setter or a signal frame
//! brought in can make `iretq` or `sysretq` fault in the kernel.

use crate::cpu::{USER_CODE, USER_DATA};
use crate::vsyscall;
use mm_kernel::arch::{Frame, PrivateSyscall};

/// First address above user memory: the last page below the non-canonical hole stays empty, so
/// that no `syscall` instruction can end exactly at the hole.
pub const USER_END: usize = 0x7fff_ffff_f000;

/// Flags that user mode may set: CF PF AF ZF SF TF DF OF AC ID.
const USER_FLAGS: usize = 0x0024_0dd5;
/// Interrupts on, and the bit that is always 1.
const FIXED_FLAGS: usize = 0x202;
const TRAP_FLAG: usize = 1 << 8;

/// Bytes of `syscall`.
const SYSCALL_BYTES: usize = 2;

/// A canonical address where no user program ever runs: going there is a page fault.
const NOWHERE: usize = 0xffff_ffff_ffff_f000;

const ARCH_PRCTL: usize = 158;
const ARCH_SET_GS: usize = 0x1001;
const ARCH_SET_FS: usize = 0x1002;
const ARCH_GET_FS: usize = 0x1003;
const ARCH_GET_GS: usize = 0x1004;
const EPERM: isize = 1;
const EINVAL: isize = 22;

/// See the module header.
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFrame {
    pub gs_base: usize,
    pub fs_base: usize,
    pub r15: usize,
    pub r14: usize,
    pub r13: usize,
    pub r12: usize,
    pub rbp: usize,
    pub rbx: usize,
    pub r11: usize,
    pub r10: usize,
    pub r9: usize,
    pub r8: usize,
    pub rax: usize,
    pub rcx: usize,
    pub rdx: usize,
    pub rsi: usize,
    pub rdi: usize,
    /// The vector of a trap, the number of a syscall.
    pub origin: usize,
    /// The error code that some exceptions have.
    pub error: usize,
    pub rip: usize,
    pub cs: usize,
    pub rflags: usize,
    pub rsp: usize,
    pub ss: usize,
}

/// Bytes of a frame.
pub const FRAME_BYTES: usize = size_of::<UserFrame>();

const _: () = assert!(FRAME_BYTES == 24 * 8);

impl UserFrame {
    /// Removes everything that user mode must not have. Called on every way out.
    pub fn make_safe(&mut self) {
        self.cs = USER_CODE.into();
        self.ss = USER_DATA.into();
        self.rflags = self.rflags & USER_FLAGS | FIXED_FLAGS;
        // An interrupt may come between such a jump and its fault.
        if self.rip >= USER_END && vsyscall::number(self.rip).is_none() {
            self.rip = NOWHERE;
        }
        // A base outside user space could be non-canonical, which the load refuses.
        if self.fs_base >= USER_END {
            self.fs_base = 0;
        }
        if self.gs_base >= USER_END {
            self.gs_base = 0;
        }
    }

    /// Whether `sysretq` restores exactly this frame (it takes rip from rcx, rflags from r11).
    pub fn fits_sysret(&self) -> bool {
        self.rip < USER_END
            && self.rcx == self.rip
            && self.r11 == self.rflags
            && self.rflags & TRAP_FLAG == 0
    }

    fn arch_prctl(&mut self) -> PrivateSyscall {
        let (code, value) = (self.rdi, self.rsi);
        match code {
            ARCH_SET_FS | ARCH_SET_GS if value >= USER_END => PrivateSyscall::Return(-EPERM),
            ARCH_SET_FS => {
                self.fs_base = value;
                PrivateSyscall::Return(0)
            }
            ARCH_SET_GS => {
                self.gs_base = value;
                PrivateSyscall::Return(0)
            }
            ARCH_GET_FS => PrivateSyscall::Store {
                address: value,
                value: self.fs_base,
            },
            ARCH_GET_GS => PrivateSyscall::Store {
                address: value,
                value: self.gs_base,
            },
            _ => PrivateSyscall::Return(-EINVAL),
        }
    }
}

impl Frame for UserFrame {
    fn new(pc: usize, sp: usize) -> Self {
        Self {
            rip: pc,
            rsp: sp,
            cs: USER_CODE.into(),
            ss: USER_DATA.into(),
            rflags: FIXED_FLAGS,
            ..Self::default()
        }
    }

    // Linux: do_syscall_64 takes an int.
    fn syscall_number(&self) -> usize {
        self.origin as u32 as usize
    }

    fn arguments(&self) -> [usize; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    fn set_return(&mut self, value: isize) {
        self.rax = value as usize;
    }

    fn return_value(&self) -> isize {
        self.rax as isize
    }

    fn restart_syscall(&mut self) {
        self.rax = self.origin;
        self.rip = self.rip.wrapping_sub(SYSCALL_BYTES);
    }

    fn pc(&self) -> usize {
        self.rip
    }

    fn set_pc(&mut self, pc: usize) {
        self.rip = pc;
    }

    fn sp(&self) -> usize {
        self.rsp
    }

    fn set_sp(&mut self, sp: usize) {
        self.rsp = sp;
    }

    fn set_tls(&mut self, tls: usize) {
        self.fs_base = tls;
    }

    fn private_syscall(&mut self) -> PrivateSyscall {
        match self.syscall_number() {
            ARCH_PRCTL => self.arch_prctl(),
            _ => PrivateSyscall::Unknown,
        }
    }
}
