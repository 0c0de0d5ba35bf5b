//! The signal frame of the RISC-V Linux ABI.
//!
//! ```text
//! high  ┌───────────────┐ ◄─ the interrupted stack pointer, aligned to 16
//!       │ FP state      │ 528 bytes: f0 to f31, fcsr, room of the quad format
//!       │ registers     │ 256 bytes: pc, x1 to x31
//!       │ ucontext_t    │ 176 bytes: flags, link, stack, mask
//!       │ siginfo_t     │ 128 bytes
//! low   └───────────────┘ ◄─ the handler's stack pointer
//! ```
//!
//! RISC-V has no `sa_restorer`: the handler returns into a page of the kernel's half that programs
//! may execute (Linux has it in its vDSO).
//!
//! Sources: sigreturn(2); Linux' uapi `struct ucontext` and `struct sigcontext` for the order of
//! the fields; RISC-V calling convention (the stack's alignment).

use core::arch::global_asm;

use crate::fp::{self, Image};
use crate::frame::{A0, RA, SP, UserFrame};
use mm_kernel::arch::{BadFrame, SignalDelivery, SignalDetail, SignalReturn};

/// Where every program finds the code that calls `rt_sigreturn`.
pub const TRAMPOLINE: usize = 0xffff_fff0_0000_0000;

global_asm!(
    r#"
    .pushsection .trampoline, "a", @progbits
    .balign 4096
    li a7, 139                  /* rt_sigreturn */
    ecall
    unimp
    .balign 4096
    .popsection
    "#
);

const CONTEXT: usize = 128;
const CONTEXT_STACK_FLAGS: usize = CONTEXT + 24;
const MASK: usize = CONTEXT + 40;
const REGISTERS: usize = CONTEXT + 176;
const FLOATS: usize = REGISTERS + 256;
const FRAME_BYTES: usize = FLOATS + 528;

/// There is no alternate stack.
const STACK_DISABLED: u32 = 2;

/// See `Arch::push_signal`.
pub fn push(
    frame: &mut UserFrame,
    delivery: &SignalDelivery,
    write: &mut dyn FnMut(usize, &[u8]) -> bool,
) -> Result<(), BadFrame> {
    let top = match delivery.alternate_stack {
        Some((base, bytes)) => base.wrapping_add(bytes),
        None => frame.registers[SP],
    };
    let place = top.wrapping_sub(FRAME_BYTES) & !0xf;
    // Whether it is the program's memory, `write` knows.
    if place > top {
        return Err(BadFrame);
    }
    if !write(place, &encode(frame, delivery)) {
        return Err(BadFrame);
    }
    frame.registers[0] = delivery.handler;
    frame.registers[RA] = TRAMPOLINE;
    frame.registers[SP] = place;
    frame.registers[A0] = delivery.number as usize;
    frame.registers[A0 + 1] = place;
    frame.registers[A0 + 2] = place + CONTEXT;
    Ok(())
}

/// See `Arch::pop_signal`.
pub fn pop(
    frame: &mut UserFrame,
    read: &mut dyn FnMut(usize, &mut [u8]) -> bool,
) -> Result<SignalReturn, BadFrame> {
    let mut bytes = [0; FRAME_BYTES];
    if !frame.registers[SP].is_multiple_of(16) || !read(frame.registers[SP], &mut bytes) {
        return Err(BadFrame);
    }
    for (index, register) in frame.registers.iter_mut().enumerate() {
        *register = get(&bytes, REGISTERS + index * 8) as usize;
    }
    let mut image = Image::INITIAL;
    for (index, register) in image.registers.iter_mut().enumerate() {
        *register = get(&bytes, FLOATS + index * 8);
    }
    image.fcsr = get(&bytes, FLOATS + 256) as u32;
    // SAFETY: an image; every value can be loaded.
    unsafe { fp::load(&image) };
    Ok(SignalReturn {
        mask: get(&bytes, MASK),
    })
}

fn encode(frame: &UserFrame, delivery: &SignalDelivery) -> [u8; FRAME_BYTES] {
    let mut bytes = [0; FRAME_BYTES];
    put_u32(&mut bytes, 0, delivery.number);
    put_u32(&mut bytes, 8, delivery.info.code as u32);
    match delivery.info.detail {
        SignalDetail::None => {}
        SignalDetail::Process { pid, uid, status } => {
            put_u32(&mut bytes, 16, pid as u32);
            put_u32(&mut bytes, 20, uid);
            put_u32(&mut bytes, 24, status as u32);
        }
        SignalDetail::Address(address) => put(&mut bytes, 16, address as u64),
    }
    put_u32(&mut bytes, CONTEXT_STACK_FLAGS, STACK_DISABLED);
    put(&mut bytes, MASK, delivery.old_mask);
    for (index, &register) in frame.registers.iter().enumerate() {
        put(&mut bytes, REGISTERS + index * 8, register as u64);
    }
    let mut image = Image::INITIAL;
    // SAFETY: a writable image.
    unsafe { fp::save(&mut image) };
    for (index, &register) in image.registers.iter().enumerate() {
        put(&mut bytes, FLOATS + index * 8, register);
    }
    put_u32(&mut bytes, FLOATS + 256, image.fcsr);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn get(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
