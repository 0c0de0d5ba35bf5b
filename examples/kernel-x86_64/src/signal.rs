//! The signal frame of the x86-64 Linux ABI.
//!
//! ```text
//! high  ┌───────────────┐ ◄─ the interrupted stack pointer, minus the red zone of 128 bytes
//!       │ FP image      │ aligned to 64
//!       ├───────────────┤
//!       │ siginfo_t     │ 128 bytes
//!       │ ucontext_t    │ 304 bytes: flags, link, stack, registers, mask
//!       │ return address│ sa_restorer, which calls rt_sigreturn
//! low   └───────────────┘ ◄─ the handler's stack pointer, 8 below a multiple of 16
//! ```
//!
//! Sources: System V ABI AMD64 supplement 3.4 (registers and red zone); sigreturn(2);
//! Linux' uapi `struct sigcontext` for the order of the fields.

use core::slice;

use crate::frame::{USER_END, UserFrame};
use crate::{cpu, fp, thread};
use mm_kernel::arch::{BadFrame, SignalDelivery, SignalDetail, SignalReturn};

const RED_ZONE: usize = 128;
const CONTEXT: usize = 8;
const CONTEXT_STACK_FLAGS: usize = CONTEXT + 24;
const REGISTERS: usize = CONTEXT + 40;
const FP_POINTER: usize = REGISTERS + 184;
const MASK: usize = CONTEXT + 296;
const INFO: usize = CONTEXT + 304;
const FRAME_BYTES: usize = INFO + 128;

/// The image behind the pointer is in XSAVE format.
const FLAG_XSTATE: u64 = 1;
/// There is no alternate stack.
const STACK_DISABLED: u32 = 2;

// `struct _fpx_sw_bytes`: how programs recognise an XSAVE image.
const XSTATE_MAGIC_1: u32 = 0x4650_5853;
const XSTATE_MAGIC_2: u32 = 0x4650_5845;

/// See `Arch::push_signal`.
pub fn push(
    frame: &mut UserFrame,
    delivery: &SignalDelivery,
    write: &mut dyn FnMut(usize, &[u8]) -> bool,
) -> Result<(), BadFrame> {
    let top = match delivery.alternate_stack {
        Some((base, bytes)) => base.wrapping_add(bytes),
        None => frame.rsp.wrapping_sub(RED_ZONE),
    };
    let image = top.wrapping_sub(fp_bytes()) & !(fp::ALIGNMENT - 1);
    let place = (image.wrapping_sub(FRAME_BYTES) & !0xf).wrapping_sub(8);
    if place >= USER_END || top >= USER_END || place > top {
        return Err(BadFrame);
    }
    let bytes = encode(frame, delivery, image);
    if !write_fp(image, write) || !write(place, &bytes) {
        return Err(BadFrame);
    }
    frame.rsp = place;
    frame.rip = delivery.handler;
    frame.rdi = delivery.number as usize;
    frame.rsi = place + INFO;
    frame.rdx = place + CONTEXT;
    frame.rax = 0;
    frame.rflags &= !(1 << 8 | 1 << 10); // no single step, direction up
    Ok(())
}

/// See `Arch::pop_signal`.
pub fn pop(
    frame: &mut UserFrame,
    read: &mut dyn FnMut(usize, &mut [u8]) -> bool,
) -> Result<SignalReturn, BadFrame> {
    // The handler's `ret` took the return address off.
    let place = frame.rsp.wrapping_sub(8);
    let mut bytes = [0; FRAME_BYTES];
    if !read(place, &mut bytes) {
        return Err(BadFrame);
    }
    let image = get(&bytes, FP_POINTER) as usize;
    if image != 0 {
        read_fp(image, read)?;
    } else {
        thread::reset_fp_state();
    }
    for (index, register) in registers(frame).into_iter().enumerate() {
        *register = get(&bytes, REGISTERS + index * 8) as usize;
    }
    Ok(SignalReturn {
        mask: get(&bytes, MASK),
    })
}

fn encode(frame: &mut UserFrame, delivery: &SignalDelivery, image: usize) -> [u8; FRAME_BYTES] {
    let mut bytes = [0; FRAME_BYTES];
    put(&mut bytes, 0, delivery.restorer as u64);
    let flags = if cpu::features().xsave_mask != 0 {
        FLAG_XSTATE
    } else {
        0
    };
    put(&mut bytes, CONTEXT, flags);
    put(&mut bytes, CONTEXT_STACK_FLAGS, STACK_DISABLED.into());
    for (index, register) in registers(frame).into_iter().enumerate() {
        put(&mut bytes, REGISTERS + index * 8, *register as u64);
    }
    put(
        &mut bytes,
        REGISTERS + 144,
        (frame.ss as u64) << 48 | frame.cs as u64,
    );
    put(&mut bytes, REGISTERS + 152, frame.error as u64);
    put(&mut bytes, REGISTERS + 160, frame.origin as u64);
    put(&mut bytes, REGISTERS + 168, delivery.old_mask);
    if let SignalDetail::Address(address) = delivery.info.detail {
        put(&mut bytes, REGISTERS + 176, address as u64); // cr2
    }
    put(&mut bytes, FP_POINTER, image as u64);
    put(&mut bytes, MASK, delivery.old_mask);
    put_u32(&mut bytes, INFO, delivery.number);
    put_u32(&mut bytes, INFO + 8, delivery.info.code as u32);
    match delivery.info.detail {
        SignalDetail::None => {}
        SignalDetail::Process { pid, uid, status } => {
            put_u32(&mut bytes, INFO + 16, pid as u32);
            put_u32(&mut bytes, INFO + 20, uid);
            put_u32(&mut bytes, INFO + 24, status as u32);
        }
        SignalDetail::Address(address) => put(&mut bytes, INFO + 16, address as u64),
    }
    bytes
}

/// The registers in the order of `struct sigcontext`.
fn registers(frame: &mut UserFrame) -> [&mut usize; 18] {
    [
        &mut frame.r8,
        &mut frame.r9,
        &mut frame.r10,
        &mut frame.r11,
        &mut frame.r12,
        &mut frame.r13,
        &mut frame.r14,
        &mut frame.r15,
        &mut frame.rdi,
        &mut frame.rsi,
        &mut frame.rbp,
        &mut frame.rbx,
        &mut frame.rdx,
        &mut frame.rax,
        &mut frame.rcx,
        &mut frame.rsp,
        &mut frame.rip,
        &mut frame.rflags,
    ]
}

/// Bytes of the image on the user's stack: XSAVE images end with a second magic number.
fn fp_bytes() -> usize {
    let features = cpu::features();
    features.fp_bytes + if features.xsave_mask != 0 { 4 } else { 0 }
}

fn write_fp(address: usize, write: &mut dyn FnMut(usize, &[u8]) -> bool) -> bool {
    let features = cpu::features();
    thread::with_image(|image| {
        // SAFETY: `with_image` lends a zeroed, aligned buffer of at least `fp_bytes`.
        let image = unsafe {
            fp::save(image);
            slice::from_raw_parts_mut(image, features.fp_bytes)
        };
        if features.xsave_mask == 0 {
            return write(address, image);
        }
        let software = &mut image[fp::SOFTWARE_BYTES..fp::SOFTWARE_BYTES + 20];
        put_u32(software, 0, XSTATE_MAGIC_1);
        put_u32(software, 4, fp_bytes() as u32);
        put(software, 8, features.xsave_mask);
        put_u32(software, 16, features.fp_bytes as u32);
        write(address, image) && write(address + features.fp_bytes, &XSTATE_MAGIC_2.to_le_bytes())
    })
}

fn read_fp(address: usize, read: &mut dyn FnMut(usize, &mut [u8]) -> bool) -> Result<(), BadFrame> {
    let features = cpu::features();
    if address % fp::ALIGNMENT != 0 {
        return Err(BadFrame);
    }
    thread::with_image(|image| {
        // SAFETY: `with_image` lends a zeroed buffer of at least `fp_bytes`.
        let bytes = unsafe { slice::from_raw_parts_mut(image, features.fp_bytes) };
        if !read(address, bytes) {
            return Err(BadFrame);
        }
        fp::make_safe(bytes, features);
        // SAFETY: the image was made safe, so the load does not fault.
        unsafe { fp::load(image) };
        Ok(())
    })
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
