//! The signal frames of the Arm Linux ABI.
//!
//! ```text
//! high  ┌───────────────┐ ◄─ the interrupted stack pointer, a multiple of 8
//!       │ trampoline    │ 16 bytes that nobody executes: handlers return through `sa_restorer`
//!       │               │ or the page of helpers (kuser.rs)
//!       │ ucontext_t    │ 744 bytes: flags, link, stack, registers, mask, VFP registers
//!       │ siginfo_t     │ 128 bytes, only with SA_SIGINFO
//! low   └───────────────┘ ◄─ the handler's stack pointer
//! ```
//!
//! A handler with SA_SIGINFO returns by rt_sigreturn, one without by sigreturn: the number of the
//! call tells which frame it is.
//!
//! Sources: AAPCS (stack alignment, Thumb by bit 0); Linux' uapi `asm/sigcontext.h`,
//! `asm/ucontext.h` for the order of the fields.

use mm_kernel::arch::{BadFrame, HandlerStyle, SignalDelivery, SignalDetail, SignalReturn};

use crate::fp;
use crate::frame::{CPSR_IT, USER_END, UserFrame};
use crate::kuser;
use crate::thread::FpImage;

const INFO_BYTES: usize = 128;
// Within ucontext_t.
const STACK_FLAGS: usize = 12;
const OLD_MASK: usize = 28;
const REGISTERS: usize = 32;
const FAULT_ADDRESS: usize = 100;
const MASK: usize = 104;
const VFP: usize = 232;
const CONTEXT_BYTES: usize = 744;
const TRAMPOLINE_BYTES: usize = 16;

// Within the VFP frame.
const VFP_REGISTERS: usize = VFP + 8;
const VFP_MAGIC: u32 = 0x5646_5001;
const VFP_BYTES: u32 = 288;

/// What `uc_flags` of a frame without siginfo says.
const PLAIN_MAGIC: u32 = 0x5ac3_c35a;
/// There is no alternate stack.
const STACK_DISABLED: u32 = 2;
const SIGRETURN: usize = 119;

type Context = [u8; CONTEXT_BYTES];

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
    let info_bytes = match delivery.style {
        HandlerStyle::Plain => 0,
        HandlerStyle::Info => INFO_BYTES,
    };
    let place = top.wrapping_sub(info_bytes + CONTEXT_BYTES + TRAMPOLINE_BYTES) & !7;
    if place >= USER_END || top > USER_END || place > top {
        return Err(BadFrame);
    }
    let context = encode_context(frame, delivery);
    let info = encode_info(delivery);
    let written = write(place + info_bytes, &context) && write(place, &info[..info_bytes]);
    if !written {
        return Err(BadFrame);
    }
    frame.registers[0] = delivery.number as usize;
    if delivery.style == HandlerStyle::Info {
        frame.registers[1] = place;
        frame.registers[2] = place + info_bytes;
    }
    frame.lr = match (delivery.restorer, delivery.style) {
        (0, HandlerStyle::Plain) => kuser::SIGRETURN,
        (0, HandlerStyle::Info) => kuser::RT_SIGRETURN,
        (restorer, _) => restorer,
    };
    frame.sp = place;
    frame.cpsr &= !CPSR_IT;
    frame.jump(delivery.handler);
    Ok(())
}

/// See `Arch::pop_signal`.
pub fn pop(
    frame: &mut UserFrame,
    read: &mut dyn FnMut(usize, &mut [u8]) -> bool,
) -> Result<SignalReturn, BadFrame> {
    let info_bytes = match frame.registers[7] {
        SIGRETURN => 0,
        _ => INFO_BYTES,
    };
    let mut context = [0; CONTEXT_BYTES];
    let place = frame.sp.wrapping_add(info_bytes);
    if !frame.sp.is_multiple_of(8) || !read(place, &mut context) {
        return Err(BadFrame);
    }
    if get(&context, VFP) != VFP_MAGIC || get(&context, VFP + 4) != VFP_BYTES {
        return Err(BadFrame);
    }
    load_fp(&context);
    let registers = frame.registers.iter_mut();
    let rest = [&mut frame.sp, &mut frame.lr, &mut frame.pc, &mut frame.cpsr];
    for (index, register) in registers.chain(rest).enumerate() {
        *register = get(&context, REGISTERS + 4 * index) as usize;
    }
    frame.make_safe();
    let mask = u64::from(get(&context, MASK + 4)) << 32 | u64::from(get(&context, MASK));
    Ok(SignalReturn { mask })
}

fn encode_context(frame: &UserFrame, delivery: &SignalDelivery) -> Context {
    let mut bytes = [0; CONTEXT_BYTES];
    if delivery.style == HandlerStyle::Plain {
        put(&mut bytes, 0, PLAIN_MAGIC);
    }
    put(&mut bytes, STACK_FLAGS, STACK_DISABLED);
    put(&mut bytes, OLD_MASK, delivery.old_mask as u32);
    let rest = [frame.sp, frame.lr, frame.pc, frame.cpsr];
    for (index, register) in frame.registers.into_iter().chain(rest).enumerate() {
        put(&mut bytes, REGISTERS + 4 * index, register as u32);
    }
    if let SignalDetail::Address(address) = delivery.info.detail {
        put(&mut bytes, FAULT_ADDRESS, address as u32);
    }
    put(&mut bytes, MASK, delivery.old_mask as u32);
    put(&mut bytes, MASK + 4, (delivery.old_mask >> 32) as u32);
    put(&mut bytes, VFP, VFP_MAGIC);
    put(&mut bytes, VFP + 4, VFP_BYTES);
    save_fp(&mut bytes);
    bytes
}

fn encode_info(delivery: &SignalDelivery) -> [u8; INFO_BYTES] {
    let mut bytes = [0; INFO_BYTES];
    put(&mut bytes, 0, delivery.number);
    put(&mut bytes, 8, delivery.info.code as u32);
    match delivery.info.detail {
        SignalDetail::None => {}
        SignalDetail::Process { pid, uid, status } => {
            put(&mut bytes, 12, pid as u32);
            put(&mut bytes, 16, uid);
            put(&mut bytes, 20, status as u32);
        }
        SignalDetail::Address(address) => put(&mut bytes, 12, address as u32),
    }
    bytes
}

/// Writes d0 to d31 and FPSCR.
fn save_fp(context: &mut Context) {
    let mut image = FpImage::ZERO;
    // SAFETY: an aligned image of the right size.
    unsafe { fp::save(image.0.as_mut_ptr()) };
    let saved = &image.0[..fp::FPSCR + 4];
    context[VFP_REGISTERS..][..saved.len()].copy_from_slice(saved);
}

/// Loads d0 to d31 and FPSCR; the thread register of programs stays.
fn load_fp(context: &Context) {
    let mut image = FpImage::ZERO;
    // SAFETY: as in `save_fp`: it keeps the thread register.
    unsafe { fp::save(image.0.as_mut_ptr()) };
    let length = fp::FPSCR + 4;
    image.0[..length].copy_from_slice(&context[VFP_REGISTERS..][..length]);
    let status = get(&image.0, fp::FPSCR) & fp::FPSCR_USER;
    put(&mut image.0, fp::FPSCR, status);
    // SAFETY: an aligned image; FPSCR was cut to what programs may choose.
    unsafe { fp::load(image.0.as_ptr()) };
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn get(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
