//! What belongs to one CPU: its segments, its stacks, its features, and the record that the
//! trap entry reaches through GS.
//!
//! ```text
//! GS base in the kernel ──► PerCpu { this, kernel_stack, user_stack, id, loaded FS and GS, ... }
//! GS base in user mode  ──► whatever the program asked for; swapgs exchanges the two
//! ```
//!
//! `smp` starts the others. A `PerCpu` is touched only by
//! its own CPU, with interrupts off (see the portable kernel's `arch` module), which is why its
//! cells need no lock.
//!
//! Source: Intel SDM volume 3, chapters 3 (segments), 6.14 (stacks in 64-bit mode), 4.6 (SMEP,
//! SMAP), 13 (XSAVE).

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::{FsBase, GsBase, KernelGsBase};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Upper bound of the number of CPUs.
pub const MAX_CPUS: usize = 8;

// The order is dictated by syscall and sysret: kernel code, kernel data; user data, user code.
pub const KERNEL_CODE: u16 = 0x08;
pub const USER_DATA: u16 = 0x18 | 3;
pub const USER_CODE: u16 = 0x20 | 3;

/// Slots of the interrupt stack table.
pub const DOUBLE_FAULT_STACK: u16 = 0;
pub const NMI_STACK: u16 = 1;
pub const MACHINE_CHECK_STACK: u16 = 2;
const EMERGENCY_STACKS: usize = 3;
const EMERGENCY_STACK_BYTES: usize = 8192;

/// What the CPU can do, as far as the kernel cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub no_execute: bool,
    pub smep: bool,
    pub smap: bool,
    pub global_pages: bool,
    /// Process-context identifiers: tags of spaces.
    pub pcid: bool,
    /// Flushes by tag.
    invpcid: bool,
    pub rdrand: bool,
    /// CPUID.1:EDX, which Linux passes to programs as AT_HWCAP.
    pub hwcap: u32,
    /// The state components that XSAVE keeps, or 0 without XSAVE.
    pub xsave_mask: u64,
    /// Bytes of a saved FP/SIMD state.
    pub fp_bytes: usize,
}

#[repr(C)]
pub struct PerCpu {
    this: Cell<*const PerCpu>,
    /// Top of the running thread's kernel stack, for syscalls (traps find it in the TSS).
    kernel_stack: Cell<usize>,
    /// Holds the user's stack pointer for the few instructions before it reaches the stack.
    user_stack: Cell<usize>,
    id: Cell<usize>,
    /// The user FS and GS bases that are loaded now.
    pub loaded_fs: Cell<usize>,
    pub loaded_gs: Cell<usize>,
    task_state: UnsafeCell<TaskStateSegment>,
    segments: UnsafeCell<GlobalDescriptorTable>,
    emergency: UnsafeCell<[EmergencyStack; EMERGENCY_STACKS]>,
}

/// No user base has this value, so it never counts as loaded.
pub const NOTHING_LOADED: usize = usize::MAX;

pub const KERNEL_STACK_OFFSET: usize = offset_of!(PerCpu, kernel_stack);
pub const USER_STACK_OFFSET: usize = offset_of!(PerCpu, user_stack);

#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct EmergencyStack([u8; EMERGENCY_STACK_BYTES]);

struct Cpus([PerCpu; MAX_CPUS]);

// SAFETY: each record is touched only by the CPU that it belongs to (module header).
unsafe impl Sync for Cpus {}

static CPUS: Cpus = Cpus([const { PerCpu::new() }; MAX_CPUS]);
static FEATURES: Once<Features> = Once::new();

impl PerCpu {
    const fn new() -> Self {
        Self {
            this: Cell::new(ptr::null()),
            kernel_stack: Cell::new(0),
            user_stack: Cell::new(0),
            id: Cell::new(0),
            loaded_fs: Cell::new(NOTHING_LOADED),
            loaded_gs: Cell::new(NOTHING_LOADED),
            task_state: UnsafeCell::new(TaskStateSegment::new()),
            segments: UnsafeCell::new(GlobalDescriptorTable::new()),
            emergency: UnsafeCell::new(
                [EmergencyStack([0; EMERGENCY_STACK_BYTES]); EMERGENCY_STACKS],
            ),
        }
    }

    /// Makes traps from user mode start on the stack that ends at `top`.
    pub fn set_kernel_stack(&self, top: usize) {
        self.kernel_stack.set(top);
        // SAFETY: only this CPU touches its record, and no other reference to the segment lives
        // beyond `init`; the hardware reads it only at a trap from user mode.
        unsafe {
            (*self.task_state.get()).privilege_stack_table[0] = VirtAddr::new(top as u64);
        }
    }

    /// Forgets which user bases are loaded: another thread is about to run.
    pub fn forget_user_bases(&self) {
        self.loaded_fs.set(NOTHING_LOADED);
        self.loaded_gs.set(NOTHING_LOADED);
    }
}

/// Returns the running CPU's record.
pub fn current() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: in the kernel GS points to this CPU's record since `init`, whose first word is
    // its own address; records are never freed.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(nostack, readonly, preserves_flags));
        &*this
    }
}

/// Returns the number of the running CPU.
pub fn id() -> usize {
    current().id.get()
}

/// Returns what the CPUs can do.
///
/// # Panics
///
/// Before [`init`].
pub fn features() -> &'static Features {
    FEATURES.get().expect("the CPU's features are read at boot")
}

/// Loads segments and stacks, switches features on. Runs once on each CPU. Answers whether it has
/// what the first one has, no less and no more: one CR4, one XSAVE area, one way to flush for all,
/// one meaning of the tables' bit 63.
#[must_use]
pub fn init(id: usize) -> bool {
    let cpu = &CPUS.0[id];
    cpu.this.set(cpu);
    cpu.id.set(id);
    load_segments(cpu);
    let own = switch_features_on();
    let features = FEATURES.call_once(|| own);
    if own != *features {
        log::warn!("cpu {id}: {own:?}, but the first has {features:?}");
        return false;
    }
    log::info!(
        "cpu {id}: NX {}, SMEP {}, SMAP {}, PCID {}, FP state {} bytes ({})",
        on(features.no_execute),
        on(features.smep),
        on(features.smap),
        on(features.pcid),
        features.fp_bytes,
        if features.xsave_mask != 0 {
            "xsave"
        } else {
            "fxsave"
        },
    );
    true
}

fn on(feature: bool) -> &'static str {
    if feature { "on" } else { "absent" }
}

fn load_segments(cpu: &'static PerCpu) {
    // SAFETY: runs once for this record, before anything else uses it; the record is static,
    // so that the tables outlive their use. The selectors name the descriptors appended here.
    unsafe {
        let task_state = &mut *cpu.task_state.get();
        let stacks = cpu.emergency.get().cast::<EmergencyStack>();
        for slot in 0..EMERGENCY_STACKS {
            let top = stacks.add(slot + 1) as u64;
            task_state.interrupt_stack_table[slot] = VirtAddr::new(top);
        }
        let segments = &mut *cpu.segments.get();
        segments.append(Descriptor::kernel_code_segment());
        let data = segments.append(Descriptor::kernel_data_segment());
        segments.append(Descriptor::user_data_segment());
        segments.append(Descriptor::user_code_segment());
        let task = segments.append(Descriptor::tss_segment_unchecked(cpu.task_state.get()));
        segments.load_unsafe();
        CS::set_reg(SegmentSelector(KERNEL_CODE));
        SS::set_reg(data);
        DS::set_reg(SegmentSelector(0));
        ES::set_reg(SegmentSelector(0));
        load_tss(task);
        FsBase::write(VirtAddr::zero());
        GsBase::write(VirtAddr::from_ptr(cpu));
        KernelGsBase::write(VirtAddr::zero());
    }
}

fn switch_features_on() -> Features {
    let highest = leaf(0, 0).eax;
    let basic = leaf(1, 0);
    let structured = if highest >= 7 { leaf(7, 0).ebx } else { 0 };
    let extended = leaf(0x8000_0001, 0).edx;
    let bit = |word: u32, index: u32| word >> index & 1 == 1;
    let mut features = Features {
        no_execute: bit(extended, 20),
        smep: bit(structured, 7),
        smap: bit(structured, 20),
        global_pages: bit(basic.edx, 13),
        pcid: bit(basic.ecx, 17) && !invlpg_misses_globals(basic.eax),
        invpcid: bit(structured, 10),
        rdrand: bit(basic.ecx, 30),
        hwcap: basic.edx,
        xsave_mask: 0,
        fp_bytes: 512,
    };
    let mut cr4 = Cr4::read() | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    cr4.set(Cr4Flags::PAGE_GLOBAL, features.global_pages);
    // Long mode is on and CR3 holds PCID 0, as it must (SDM 4.10.1): tables are aligned.
    cr4.set(Cr4Flags::PCID, features.pcid);
    cr4.set(
        Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        features.smep,
    );
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
    cr4.set(Cr4Flags::OSXSAVE, bit(basic.ecx, 26));
    cr4.remove(Cr4Flags::FSGSBASE | Cr4Flags::TIMESTAMP_DISABLE);
    let mut efer = Efer::read() | EferFlags::SYSTEM_CALL_EXTENSIONS;
    efer.set(EferFlags::NO_EXECUTE_ENABLE, features.no_execute);
    // SAFETY: each bit is set only where CPUID says that it exists. No user page is touched or
    // executed by the kernel, so SMEP and SMAP take nothing away; the boot table has no bit 63.
    unsafe {
        Cr0::update(|cr0| {
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            cr0.insert(Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR);
        });
        Cr4::write(cr4);
        Efer::write(efer);
    }
    if cr4.contains(Cr4Flags::OSXSAVE) {
        (features.xsave_mask, features.fp_bytes) = switch_xsave_on();
    }
    features
}

/// Whether INVLPG may leave global entries behind while PCIDs are on: an erratum of Alder Lake,
/// Raptor Lake and Gracemont (Linux: `invlpg_miss_ids`), of which newer microcode is free. They do
/// without PCIDs. `signature` is CPUID.1:EAX; no other maker has these models of family 6.
fn invlpg_misses_globals(signature: u32) -> bool {
    let family = signature >> 8 & 0xf;
    let model = signature >> 12 & 0xf0 | signature >> 4 & 0xf;
    family == 6 && matches!(model, 0x97 | 0x9a | 0xb7 | 0xba | 0xbe | 0xbf)
}

/// Enables x87, SSE, AVX and AVX-512 as far as the CPU has them.
fn switch_xsave_on() -> (u64, usize) {
    let supported = leaf(0xd, 0);
    let supported = u64::from(supported.edx) << 32 | u64::from(supported.eax);
    const AVX512: u64 = 0b1110_0000;
    let mut mask = supported & 0b111;
    if mask & 0b100 != 0 && supported & AVX512 == AVX512 {
        mask |= AVX512;
    }
    // SAFETY: OSXSAVE is on, the components are supported, x87 is among them, AVX comes with SSE.
    unsafe { XCr0::write(XCr0Flags::from_bits_truncate(mask)) };
    (mask, leaf(0xd, 0).ebx as usize)
}

/// Runs CPUID.
#[allow(
    unused_unsafe,
    reason = "safe since Rust 1.94, unsafe in the oldest supported version"
)]
fn leaf(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: every 64-bit CPU has CPUID.
    unsafe {
        if subleaf == 0 {
            __cpuid(leaf)
        } else {
            __cpuid_count(leaf, subleaf)
        }
    }
}
