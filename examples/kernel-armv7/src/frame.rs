//! The user's registers as the trap entry saves them.
//!
//! ```text
//! top of the kernel stack ─► ┌────────────────────┐
//!                            │ cpsr, pc           │ by SRS, from the exception's own mode
//!                            │ lr, sp  (the user's) │ by STM with user registers
//!                            │ r12 ... r0         │
//!                            │ origin             │ what kind of exception
//!                            │ original r0        │ of a syscall, to restart it
//!                            │ tls                │ TPIDRURO; filled in and loaded by Rust code
//!  frame pointer ──────────► └────────────────────┘ 20 words: keeps the stack aligned to 8
//! ```
//!
//! Leaving goes through [`UserFrame::make_safe`], so no value that a setter or a signal frame
//! brought in can return to anything but user mode.

use mm_kernel::arch::{Frame, PrivateSyscall};

/// First address above user memory.
pub const USER_END: usize = 0xc000_0000;

const CPSR_USER_MODE: usize = 0x10;
const CPSR_FIQ_OFF: usize = 1 << 6;
/// Thumb state.
pub const CPSR_THUMB: usize = 1 << 5;
/// Where a Thumb IT block stands.
pub const CPSR_IT: usize = 0x0600_fc00;
/// NZCVQ, IT, GE, E, T: what user mode can set itself.
const CPSR_FLAGS: usize = 0xf80f_0220 | CPSR_IT;

const CACHE_FLUSH: usize = 0xf_0002;
const SET_TLS: usize = 0xf_0005;
const GET_TLS: usize = 0xf_0006;
const EFAULT: isize = 14;
const EINVAL: isize = 22;

/// See the module header.
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFrame {
    /// TPIDRURO, the thread pointer.
    pub tls: usize,
    /// `r0` as the syscall found it.
    pub original_r0: usize,
    /// The kind of exception.
    pub origin: usize,
    /// r0 to r12.
    pub registers: [usize; 13],
    pub sp: usize,
    pub lr: usize,
    pub pc: usize,
    pub cpsr: usize,
}

/// Bytes of a frame.
pub const FRAME_BYTES: usize = size_of::<UserFrame>();

const _: () = assert!(FRAME_BYTES == 20 * 4);

impl UserFrame {
    /// Removes everything that user mode must not have. Called on every way out.
    pub fn make_safe(&mut self) {
        self.cpsr = self.cpsr & CPSR_FLAGS | CPSR_FIQ_OFF | CPSR_USER_MODE;
    }

    /// Whether the exception came from user mode.
    pub fn is_user(&self) -> bool {
        self.cpsr & 0xf == 0
    }

    fn is_thumb(&self) -> bool {
        self.cpsr & CPSR_THUMB != 0
    }

    /// Continues at a function's address, whose lowest bit says Thumb.
    pub fn jump(&mut self, to: usize) {
        self.cpsr &= !(CPSR_THUMB | CPSR_IT);
        if to & 1 != 0 {
            self.cpsr |= CPSR_THUMB;
        }
        self.pc = if to & 1 != 0 { to & !1 } else { to & !3 };
    }
}

impl Frame for UserFrame {
    fn new(pc: usize, sp: usize) -> Self {
        let mut frame = Self {
            sp,
            ..Self::default()
        };
        frame.jump(pc);
        frame.make_safe();
        frame
    }

    fn syscall_number(&self) -> usize {
        self.registers[7]
    }

    fn arguments(&self) -> [usize; 6] {
        let [r0, r1, r2, r3, r4, r5, ..] = self.registers;
        [r0, r1, r2, r3, r4, r5]
    }

    fn set_return(&mut self, value: isize) {
        self.registers[0] = value as usize;
    }

    fn return_value(&self) -> isize {
        self.registers[0] as isize
    }

    fn restart_syscall(&mut self) {
        self.registers[0] = self.original_r0;
        self.pc = self.pc.wrapping_sub(if self.is_thumb() { 2 } else { 4 });
    }

    fn pc(&self) -> usize {
        self.pc
    }

    fn set_pc(&mut self, pc: usize) {
        self.jump(pc);
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

    fn private_syscall(&mut self) -> PrivateSyscall {
        match self.syscall_number() {
            SET_TLS => {
                self.tls = self.registers[0];
                PrivateSyscall::Return(0)
            }
            GET_TLS => PrivateSyscall::Return(self.tls as isize),
            CACHE_FLUSH => {
                let [start, end, flags, ..] = self.registers;
                match () {
                    () if flags != 0 || start > end => PrivateSyscall::Return(-EINVAL),
                    () if end > USER_END => PrivateSyscall::Return(-EFAULT),
                    () => PrivateSyscall::SyncCode { start, end },
                }
            }
            _ => PrivateSyscall::Unknown,
        }
    }
}
