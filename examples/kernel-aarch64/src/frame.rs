//! The saved user registers.
//!
//! Every way out of the kernel goes through [`UserFrame::make_safe`], so no value that a setter
//! or a signal frame brought in gains a right: of PSTATE only the condition flags are the user's.
//! Any address may be loaded: EL0 faults where it may not go.

use mm_kernel::arch::{Frame, PrivateSyscall};

/// N, Z, C, V.
const USER_FLAGS: usize = 0xf000_0000;
/// Bytes of `svc`.
const SYSCALL_BYTES: usize = 4;
/// The register that holds a syscall's number.
const NUMBER: usize = 8;

/// See the module header. Its order is known to `trap`'s assembly.
#[repr(C, align(16))]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFrame {
    pub x: [usize; 31],
    pub sp: usize,
    pub pc: usize,
    pub pstate: usize,
    pub tls: usize,
    /// `x0` as it was at the trap: a syscall's first argument, which its result overwrites.
    pub first: usize,
    /// The number of a syscall, as it was at the trap.
    pub number: usize,
    /// Keeps the stack aligned.
    pub unused: usize,
}

/// Bytes of a frame.
pub const FRAME_BYTES: usize = size_of::<UserFrame>();

const _: () = assert!(FRAME_BYTES == 38 * 8 && FRAME_BYTES.is_multiple_of(16));

impl UserFrame {
    /// Removes everything that user mode must not have. Called on every way out.
    pub fn make_safe(&mut self) {
        // The rest is zero: EL0, 64-bit, nothing masked.
        self.pstate &= USER_FLAGS;
    }
}

impl Frame for UserFrame {
    fn new(pc: usize, sp: usize) -> Self {
        Self {
            pc,
            sp,
            ..Self::default()
        }
    }

    // Linux: el0_svc_common takes an int.
    fn syscall_number(&self) -> usize {
        self.number as u32 as usize
    }

    fn arguments(&self) -> [usize; 6] {
        let [_, x1, x2, x3, x4, x5, ..] = self.x;
        [self.first, x1, x2, x3, x4, x5]
    }

    fn set_return(&mut self, value: isize) {
        self.x[0] = value as usize;
    }

    fn return_value(&self) -> isize {
        self.x[0] as isize
    }

    fn restart_syscall(&mut self) {
        self.x[0] = self.first;
        self.x[NUMBER] = self.number;
        self.pc = self.pc.wrapping_sub(SYSCALL_BYTES);
    }

    fn pc(&self) -> usize {
        self.pc
    }

    fn set_pc(&mut self, pc: usize) {
        self.pc = pc;
    }

    fn sp(&self) -> usize {
        self.sp
    }

    fn set_sp(&mut self, sp: usize) {
        self.sp = sp;
    }

    fn set_tls(&mut self, tls: usize) {
        self.tls = tls;
    }

    /// There is none: programs write TPIDR_EL0 themselves.
    fn private_syscall(&mut self) -> PrivateSyscall {
        PrivateSyscall::Unknown
    }
}
