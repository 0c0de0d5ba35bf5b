//! The signal frame of the AArch64 Linux ABI.
//!
//! ```text
//! high  ┌───────────────┐ ◄─ the interrupted stack pointer
//!       │ frame record  │ x29 and x30 as they were: the handler's caller, for back traces
//!       ├───────────────┤
//!       │ siginfo_t     │ 128 bytes
//!       │ ucontext_t    │ flags, link, stack, mask, then fault address, x0-x30, sp, pc, pstate
//!       │ records       │ 4096 bytes: the FP/SIMD record, an empty one, the rest is not written
//! low   └───────────────┘ ◄─ the handler's stack pointer, a multiple of 16
//! ```
//!
//! The C library sets no restorer: handlers return to a page of the kernel's image that programs
//! may execute ([`trampoline`]), as they do to Linux' vDSO.
//!
//! Sources: Linux uapi `struct sigcontext` and `struct fpsimd_context` for the order of the
//! fields; AAPCS64 6.4 (stack, frame records); sigreturn(2).

use core::arch::global_asm;

use mm_kernel::arch::{BadFrame, SignalDelivery, SignalDetail, SignalReturn};

use crate::fp::{self, Image};
use crate::frame::UserFrame;

const INFO: usize = 0;
const CONTEXT: usize = 128;
const CONTEXT_STACK_FLAGS: usize = CONTEXT + 24;
const MASK: usize = CONTEXT + 40;
const MACHINE: usize = CONTEXT + 176;
const REGISTERS: usize = MACHINE + 8;
const RECORDS: usize = MACHINE + 288;
const RECORDS_BYTES: usize = 4096;
const FRAME_BYTES: usize = RECORDS + RECORDS_BYTES;
/// What is written of it: an FP record of 528 bytes, and the empty record.
const WRITTEN: usize = RECORDS + FP_BYTES + 16;
const FP_BYTES: usize = 528;
const FP_MAGIC: u32 = 0x4650_8001;
/// x29 and x30.
const RECORD_BYTES: usize = 16;

/// There is no alternate stack.
const STACK_DISABLED: u32 = 2;

unsafe extern "C" {
    static kernel_trampoline: u8;
}

/// Where handlers return to: `rt_sigreturn`.
fn trampoline() -> usize {
    (&raw const kernel_trampoline) as usize
}

/// See `Arch::push_signal`.
pub fn push(
    frame: &mut UserFrame,
    delivery: &SignalDelivery,
    write: &mut dyn FnMut(usize, &[u8]) -> bool,
) -> Result<(), BadFrame> {
    let top = match delivery.alternate_stack {
        Some((base, bytes)) => base.wrapping_add(bytes),
        None => frame.sp,
    };
    let record = (top & !0xf).wrapping_sub(RECORD_BYTES);
    let place = record.wrapping_sub(FRAME_BYTES);
    if place > top {
        return Err(BadFrame);
    }
    let mut links = [0; RECORD_BYTES];
    put(&mut links, 0, frame.x[29] as u64);
    put(&mut links, 8, frame.x[30] as u64);
    if !write(record, &links) || !write(place, &encode(frame, delivery)) {
        return Err(BadFrame);
    }
    frame.x[0] = delivery.number as usize;
    frame.x[1] = place + INFO;
    frame.x[2] = place + CONTEXT;
    frame.x[29] = record;
    frame.x[30] = match delivery.restorer {
        0 => trampoline(),
        restorer => restorer,
    };
    frame.sp = place;
    frame.pc = delivery.handler;
    Ok(())
}

/// See `Arch::pop_signal`.
pub fn pop(
    frame: &mut UserFrame,
    read: &mut dyn FnMut(usize, &mut [u8]) -> bool,
) -> Result<SignalReturn, BadFrame> {
    let mut bytes = [0; WRITTEN];
    if !frame.sp.is_multiple_of(16) || !read(frame.sp, &mut bytes) {
        return Err(BadFrame);
    }
    let image = fp_image(&bytes).ok_or(BadFrame)?;
    for (index, register) in frame.x.iter_mut().enumerate() {
        *register = get(&bytes, REGISTERS + index * 8) as usize;
    }
    let [sp, pc, pstate] = [31, 32, 33].map(|index| get(&bytes, REGISTERS + index * 8) as usize);
    (frame.sp, frame.pc, frame.pstate) = (sp, pc, pstate);
    frame.make_safe();
    // SAFETY: an image of our own; any value may be loaded.
    unsafe { fp::load(&image) }
    Ok(SignalReturn {
        mask: get(&bytes, MASK),
    })
}

fn encode(frame: &UserFrame, delivery: &SignalDelivery) -> [u8; WRITTEN] {
    let mut bytes = [0; WRITTEN];
    put_u32(&mut bytes, INFO, delivery.number);
    put_u32(&mut bytes, INFO + 8, delivery.info.code as u32);
    match delivery.info.detail {
        SignalDetail::None => {}
        SignalDetail::Process { pid, uid, status } => {
            put_u32(&mut bytes, INFO + 16, pid as u32);
            put_u32(&mut bytes, INFO + 20, uid);
            put_u32(&mut bytes, INFO + 24, status as u32);
        }
        SignalDetail::Address(address) => {
            put(&mut bytes, INFO + 16, address as u64);
            put(&mut bytes, MACHINE, address as u64);
        }
    }
    put_u32(&mut bytes, CONTEXT_STACK_FLAGS, STACK_DISABLED);
    put(&mut bytes, MASK, delivery.old_mask);
    let rest = [frame.sp, frame.pc, frame.pstate];
    for (index, register) in frame.x.iter().chain(&rest).enumerate() {
        put(&mut bytes, REGISTERS + index * 8, *register as u64);
    }
    let mut image = Image::default();
    // SAFETY: an image of our own.
    unsafe { fp::save(&mut image) }
    put_u32(&mut bytes, RECORDS, FP_MAGIC);
    put_u32(&mut bytes, RECORDS + 4, FP_BYTES as u32);
    put_u32(&mut bytes, RECORDS + 8, image.fpsr);
    put_u32(&mut bytes, RECORDS + 12, image.fpcr);
    for (index, v) in image.v.iter().enumerate() {
        let at = RECORDS + 16 + index * 16;
        bytes[at..at + 16].copy_from_slice(&v.to_le_bytes());
    }
    bytes
}

fn fp_image(bytes: &[u8; WRITTEN]) -> Option<Image> {
    let magic = get(bytes, RECORDS);
    if magic != u64::from(FP_MAGIC) | (FP_BYTES as u64) << 32 {
        return None;
    }
    let status = get(bytes, RECORDS + 8);
    let mut image = Image::default();
    (image.fpsr, image.fpcr) = (status as u32, (status >> 32) as u32);
    for (index, v) in image.v.iter_mut().enumerate() {
        let at = RECORDS + 16 + index * 16;
        let mut word = [0; 16];
        word.copy_from_slice(&bytes[at..at + 16]);
        *v = u128::from_le_bytes(word);
    }
    Some(image)
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

global_asm!(
    r#"
    .pushsection .trampoline, "ax", @progbits
    mov     x8, #139                /* rt_sigreturn */
    svc     #0
    .popsection
    "#
);
