//! What belongs to one CPU: its number, its stacks for exceptions, the features switched on.

use core::arch::asm;

use mm_arm::armv7::native;
use mm_arm::armv7::short::Pxn;
use mm_arm::armv7::tlb::CodeCaches;
use spin::Once;

/// More CPUs than this stay off.
pub const MAX_CPUS: usize = 8;

// Of AT_HWCAP (Linux' uapi asm/hwcap.h).
const HWCAP_HALF: usize = 1 << 1;
const HWCAP_THUMB: usize = 1 << 2;
const HWCAP_FAST_MULT: usize = 1 << 4;
const HWCAP_VFP: usize = 1 << 6;
const HWCAP_EDSP: usize = 1 << 7;
const HWCAP_NEON: usize = 1 << 12;
const HWCAP_VFPV3: usize = 1 << 13;
const HWCAP_TLS: usize = 1 << 15;
const HWCAP_VFPV4: usize = 1 << 16;
const HWCAP_IDIVA: usize = 1 << 17;
const HWCAP_IDIVT: usize = 1 << 18;
const HWCAP_VFPD32: usize = 1 << 19;

/// Access to coprocessors 10 and 11 for all, CPACR.
const CPACR_FLOATING_POINT: u32 = 0xf << 20;

/// Bytes of the stack for aborts and undefined instructions of the kernel: only panics run there.
const EXCEPTION_STACK_BYTES: usize = 16 * 1024;

#[repr(C, align(4096))]
struct ExceptionStack([u8; EXCEPTION_STACK_BYTES]);

static mut ABORT_STACKS: [ExceptionStack; MAX_CPUS] =
    [const { ExceptionStack([0; EXCEPTION_STACK_BYTES]) }; MAX_CPUS];
static mut UNDEFINED_STACKS: [ExceptionStack; MAX_CPUS] =
    [const { ExceptionStack([0; EXCEPTION_STACK_BYTES]) }; MAX_CPUS];

/// Returns the number of this CPU.
pub fn id() -> usize {
    let id: usize;
    // SAFETY: `init` wrote the register (TPIDRPRW), which user mode cannot.
    unsafe {
        asm!("mrc p15, 0, {}, c13, c0, 4", out(reg) id, options(nomem, nostack, preserves_flags))
    };
    id
}

/// What a CPU can do, as far as the kernel or programs count on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Features {
    /// AT_HWCAP, floating point among it.
    hwcap: usize,
    /// Whether entries can keep the kernel from executing a page.
    pxn: Pxn,
    /// What the upkeep of instruction caches depends on.
    caches: CodeCaches,
}

/// What all CPUs that run can do.
static FEATURES: Once<Features> = Once::new();

/// Makes the CPU number `cpu`: its exception stacks, floating point for programs. Answers whether it
/// can do what the first one can, no less and no more: one set of tables, one AT_HWCAP. What it can
/// do is read before anything is switched on that it may lack.
///
/// # Panics
///
/// When the first CPU lacks floating point with 32 registers: every thread's are saved and loaded.
#[must_use]
pub fn init(cpu: usize) -> bool {
    let end = |stacks: *mut ExceptionStack| stacks as usize + (cpu + 1) * EXCEPTION_STACK_BYTES;
    let abort = end((&raw mut ABORT_STACKS).cast());
    let undefined = end((&raw mut UNDEFINED_STACKS).cast());
    // SAFETY: runs once on each CPU, in supervisor mode with interrupts off; the stacks are this
    // CPU's own. The registers are those that the comments name.
    unsafe {
        asm!(
            "mcr p15, 0, {cpu}, c13, c0, 4",    // TPIDRPRW
            "cps #0x17",                        // abort mode
            "mov sp, {abort}",
            "cps #0x1b",                        // undefined mode
            "mov sp, {undefined}",
            "cps #0x13",
            cpu = in(reg) cpu,
            abort = in(reg) abort,
            undefined = in(reg) undefined,
        );
    }
    // SAFETY: supervisor mode.
    let own = unsafe {
        Features {
            hwcap: read_hardware_capabilities(),
            pxn: native::pxn(),
            caches: native::code_caches(),
        }
    };
    let features = FEATURES.call_once(|| own);
    if own != *features {
        log::warn!("cpu {cpu}: {own:?}, but the first has {features:?}");
        return false;
    }
    assert!(
        own.hwcap & HWCAP_VFPD32 != 0 && own.hwcap & HWCAP_VFP != 0,
        "this CPU lacks floating point with 32 registers, which every thread's state has"
    );
    // SAFETY: supervisor mode; CPACR allows the unit, which is there.
    unsafe { crate::fp::enable() };
    true
}

/// Allows floating point to all, as far as this CPU has it; answers whether it does.
///
/// Source: DDI 0406C B4.1.40: the bits of a coprocessor that is not there read as zero.
fn allow_floating_point() -> bool {
    let allowed: u32;
    // SAFETY: supervisor mode; whether instructions are allowed changes nothing by itself.
    unsafe {
        asm!(
            "mcr p15, 0, {wanted}, c1, c0, 2",  // CPACR
            "isb",
            "mrc p15, 0, {allowed}, c1, c0, 2",
            wanted = in(reg) CPACR_FLOATING_POINT,
            allowed = out(reg) allowed,
            options(nomem, nostack, preserves_flags),
        );
    }
    allowed & CPACR_FLOATING_POINT == CPACR_FLOATING_POINT
}

/// Returns AT_HWCAP: what every CPU can do.
pub fn hardware_capabilities() -> usize {
    FEATURES.get().map_or(0, |features| features.hwcap)
}

/// Returns what this CPU's feature registers say.
fn read_hardware_capabilities() -> usize {
    let (isar0, mvfr0, mvfr1): (u32, u32, u32);
    // SAFETY: reading the feature registers has no effect; those of floating point are there where
    // CPACR allows it, whether the unit is on or not (DDI 0406C B1.11.3).
    unsafe {
        asm!("mrc p15, 0, {}, c0, c2, 0", out(reg) isar0, options(nomem, nostack, preserves_flags));
        (mvfr0, mvfr1) = if allow_floating_point() {
            crate::fp::features()
        } else {
            (0, 0)
        };
    }
    let mut all = HWCAP_HALF | HWCAP_THUMB | HWCAP_FAST_MULT | HWCAP_EDSP | HWCAP_TLS;
    let mut add = |when: bool, bits: usize| all |= if when { bits } else { 0 };
    let divide = isar0 >> 24 & 0xf;
    add(divide >= 1, HWCAP_IDIVT);
    add(divide >= 2, HWCAP_IDIVA);
    add(mvfr0 >> 4 & 0xf >= 2, HWCAP_VFP | HWCAP_VFPV3);
    add(mvfr0 & 0xf >= 2, HWCAP_VFPD32);
    add(mvfr1 >> 28 >= 1, HWCAP_VFPV4);
    add(mvfr1 >> 8 & 0xf >= 1, HWCAP_NEON);
    all
}
