//! What belongs to one CPU: its record, which TPIDR_EL1 names, and its features.
//!
//! ```text
//! TPIDR_EL1 ──► PerCpu { id, emergency stack }
//! SP_EL1        in user mode: the end of the running thread's kernel stack (a bank of its own,
//!               so that a trap needs no lookup)
//! ```
//!
//! A `PerCpu` is touched only by its own CPU, with interrupts off (see the portable kernel's
//! `arch` module), which is why its cells need no lock.
//!
//! Source: Arm ARM DDI 0487, D17.2 (ID registers, CPACR, SCTLR), D8.4.5 (PAN).

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};

use mm_arm::aarch64::code::CacheType;
use mm_arm::aarch64::native::Native;
use mm_arm::aarch64::registers;
use mm_arm::aarch64::tlb::TlbFeatures;
use mm_core::format::HardwareAd;
use spin::Once;

use crate::platform::PAGE_SHIFT;

/// Upper bound of the number of CPUs.
pub const MAX_CPUS: usize = 8;

const EMERGENCY_STACK_BYTES: usize = 8192;

/// Reads a system register.
#[macro_export]
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: the register exists on EL1; reading it has no effect.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value,
                options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// What the CPU can do, as far as the kernel cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// PSTATE.PAN: the kernel cannot touch users' pages by their addresses.
    pub pan: bool,
    /// RNDR: random numbers.
    pub random: bool,
    /// A performance monitor.
    pub monitor: bool,
    /// Linux' AT_HWCAP.
    pub hwcap: u64,
    /// What hardware notes in tables.
    pub ad: HardwareAd,
    /// Bits of a space's tag.
    pub asid_bits: u32,
    /// What flushes depend on.
    pub tlb: TlbFeatures,
    /// What the upkeep of instruction caches depends on.
    pub cache: CacheType,
}

#[repr(C)]
pub struct PerCpu {
    id: Cell<usize>,
    emergency: UnsafeCell<EmergencyStack>,
}

#[repr(C, align(16))]
struct EmergencyStack([u8; EMERGENCY_STACK_BYTES]);

/// Where, from its record on, a CPU's emergency stack ends.
pub const EMERGENCY_STACK_END: usize = size_of::<PerCpu>();

struct Cpus([PerCpu; MAX_CPUS]);

// SAFETY: each record is touched only by the CPU that it belongs to (module header).
unsafe impl Sync for Cpus {}

static CPUS: Cpus = Cpus(
    [const {
        PerCpu {
            id: Cell::new(0),
            emergency: UnsafeCell::new(EmergencyStack([0; EMERGENCY_STACK_BYTES])),
        }
    }; MAX_CPUS],
);
static FEATURES: Once<Features> = Once::new();

/// Returns the number of the running CPU.
pub fn id() -> usize {
    let this = read_register!("tpidr_el1") as *const PerCpu;
    // SAFETY: TPIDR_EL1 names this CPU's record since `init`; records are never freed.
    unsafe { (*this).id.get() }
}

/// Returns what the CPUs can do.
///
/// # Panics
///
/// Before [`init`].
pub fn features() -> &'static Features {
    FEATURES.get().expect("the CPU's features are read at boot")
}

/// Names the CPU's record, switches features on. Runs once on each CPU. Answers whether it can do
/// what the first one can, no less and no more: one set of tables, one way to flush, one AT_HWCAP.
#[must_use]
pub fn init(id: usize) -> bool {
    let cpu = &CPUS.0[id];
    cpu.id.set(id);
    // SAFETY: the record is this CPU's; the lock of the log asks whose it is.
    unsafe {
        asm!("msr tpidr_el1, {}", in(reg) cpu as *const PerCpu, options(nostack, preserves_flags));
    }
    let own = read_features();
    let features = FEATURES.call_once(|| own);
    if own != *features {
        // Before anything is switched on that this CPU may not have.
        log::warn!("cpu {id}: {own:?}, but the first has {features:?}");
        return false;
    }
    let sctlr = read_register!("sctlr_el1") & !registers::SCTLR_SPAN;
    // SAFETY: FP belongs to programs (the kernel is compiled without);
    // SPAN is cleared only where PAN exists, and no user page is touched by its address.
    unsafe {
        asm!(
            "msr tpidrro_el0, xzr",
            "msr cpacr_el1, {fp}",
            "msr mdscr_el1, xzr",
            "isb",
            fp = in(reg) 3_u64 << 20,
            options(nostack, preserves_flags)
        );
        // Their values after a reset are unknown: programs read no event counters, nothing steps.
        if features.monitor {
            asm!("msr pmuserenr_el0, xzr", options(nostack, preserves_flags));
        }
        if features.pan {
            // The second instruction is `msr pan, #1`, which older assemblers do not know.
            asm!("msr sctlr_el1, {}", ".inst 0xd500419f", "isb", in(reg) sctlr,
                options(nostack, preserves_flags));
        }
    }
    true
}

/// Tells the log.
pub fn log_features() {
    let features = features();
    let on = |feature: bool| if feature { "on" } else { "absent" };
    log::info!(
        "cpu {}: PAN {}, RNDR {}, hwcap {:#x}, tables: {:?} set by hardware",
        id(),
        on(features.pan),
        on(features.random),
        features.hwcap,
        features.ad,
    );
}

fn read_features() -> Features {
    let (isar0, pfr0) = (
        read_register!("id_aa64isar0_el1"),
        read_register!("id_aa64pfr0_el1"),
    );
    let field = |register: u64, shift: u32| (register >> shift) & 0xf;
    // SAFETY: the kernel runs on EL1.
    let native = unsafe { Native::new() };
    Features {
        pan: registers::has_pan(read_register!("id_aa64mmfr1_el1")),
        random: field(isar0, 60) != 0,
        // 15 is a monitor of somebody's own design, without this register.
        monitor: !matches!(field(read_register!("id_aa64dfr0_el1"), 8), 0 | 15),
        // FP and ASIMD are there unless the field is 15; the others as Linux numbers them.
        hwcap: [
            (field(pfr0, 16) != 15, 0),
            (field(pfr0, 20) != 15, 1),
            (field(isar0, 4) >= 1, 3),
            (field(isar0, 4) >= 2, 4),
            (field(isar0, 8) >= 1, 5),
            (field(isar0, 12) >= 1, 6),
            (field(isar0, 16) >= 1, 7),
            (field(isar0, 20) >= 2, 8),
        ]
        .into_iter()
        .fold(0, |bits, (has, bit)| bits | u64::from(has) << bit),
        ad: registers::hardware_ad(native.mmfr1()),
        asid_bits: registers::asid_bits(native.mmfr0()),
        tlb: native.tlb_features(PAGE_SHIFT),
        cache: native.cache_type(),
    }
}

/// Reads RNDR, unless the CPU has none or its source fails.
pub fn hardware_random() -> Option<u64> {
    if !features().random {
        return None;
    }
    (0..10).find_map(|_| {
        let (word, ok): (u64, u64);
        // SAFETY: the CPU has the register (RNDR), as just checked; Z says that it failed.
        unsafe {
            asm!("mrs {}, s3_3_c2_c4_0", "cset {}, ne", out(reg) word, out(reg) ok,
                options(nomem, nostack));
        }
        (ok != 0).then_some(word)
    })
}

/// Keeps interrupts out.
pub fn interrupts_off() {
    // SAFETY: masking interrupts is always sound.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) }
}

/// Lets pending interrupts in and keeps them out again.
pub fn poll_interrupts() {
    // SAFETY: the caller (the portable kernel) opens a window here; handlers run on this stack.
    unsafe {
        asm!(
            "msr daifclr, #2",
            "isb",
            "msr daifset, #2",
            options(nostack, preserves_flags)
        );
    }
}

/// Sleeps until an interrupt is pending, and takes it. An interrupt that is masked wakes all
/// the same, so none is missed between a check and the sleep.
pub fn wait_for_interrupt() {
    // SAFETY: as in `poll_interrupts`.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
    poll_interrupts();
}
