//! The user's registers as the trap entry saves them, at the top of the thread's kernel stack.
//!
//! ```text
//!   word 0      pc (sepc)           the order of Linux' `struct user_regs_struct`,
//!   word 1..31  x1 .. x31           which a signal frame has, too
//!   word 32     a0 at the syscall   for a restart
//!   word 33     sstatus             of a trap from the kernel
//!   word 34     scause
//!   word 35     stval
//! ```
//!
//! Nothing in a frame can hurt the kernel: the way out to user mode sets privilege, interrupts and
//! FS itself, and a pc outside user space is a fault of the program.

use mm_kernel::arch::{Frame, PrivateSyscall};

use crate::platform;

/// Bytes of `ecall`.
const ECALL_BYTES: usize = 4;

const FLUSH_ICACHE: usize = 259;

/// Places in `registers`.
pub const RA: usize = 1;
pub const SP: usize = 2;
pub const TP: usize = 4;
pub const A0: usize = 10;
const A7: usize = 17;

/// See the module header.
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFrame {
    /// The pc, then x1 to x31.
    pub registers: [usize; 32],
    pub original_a0: usize,
    pub status: usize,
    pub cause: usize,
    pub value: usize,
}

/// Bytes of a frame.
pub const FRAME_BYTES: usize = size_of::<UserFrame>();

const _: () = assert!(FRAME_BYTES == 36 * 8 && FRAME_BYTES.is_multiple_of(16));

impl UserFrame {
    /// Notes that the trap was a syscall: user mode continues behind it.
    pub fn begin_syscall(&mut self) {
        self.original_a0 = self.registers[A0];
        self.registers[0] = self.registers[0].wrapping_add(ECALL_BYTES);
    }
}

impl Frame for UserFrame {
    fn new(pc: usize, sp: usize) -> Self {
        let mut frame = Self::default();
        frame.registers[0] = pc;
        frame.registers[SP] = sp;
        frame
    }

    fn syscall_number(&self) -> usize {
        self.registers[A7]
    }

    fn arguments(&self) -> [usize; 6] {
        let [_, a1, a2, a3, a4, a5] = [0, 1, 2, 3, 4, 5].map(|n| self.registers[A0 + n]);
        [self.original_a0, a1, a2, a3, a4, a5]
    }

    fn set_return(&mut self, value: isize) {
        self.registers[A0] = value as usize;
    }

    fn return_value(&self) -> isize {
        self.registers[A0] as isize
    }

    fn restart_syscall(&mut self) {
        self.registers[A0] = self.original_a0;
        self.registers[0] = self.registers[0].wrapping_sub(ECALL_BYTES);
    }

    fn pc(&self) -> usize {
        self.registers[0]
    }

    fn set_pc(&mut self, pc: usize) {
        self.registers[0] = pc;
    }

    fn sp(&self) -> usize {
        self.registers[SP]
    }

    fn set_sp(&mut self, sp: usize) {
        self.registers[SP] = sp;
    }

    fn set_tls(&mut self, tls: usize) {
        self.registers[TP] = tls;
    }

    fn private_syscall(&mut self) -> PrivateSyscall {
        match self.syscall_number() {
            // Whatever range is asked for: one fence.i shows all of it.
            FLUSH_ICACHE => {
                platform::sync_all_code();
                PrivateSyscall::Return(0)
            }
            _ => PrivateSyscall::Unknown,
        }
    }
}
