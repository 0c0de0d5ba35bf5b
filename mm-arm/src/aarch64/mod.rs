//! AArch64: the EL1&0 translation regime.

pub mod code;
pub mod fault;
#[cfg(target_arch = "aarch64")]
pub mod native;
#[cfg(target_pointer_width = "64")]
pub mod paging;
pub mod registers;
pub mod tlb;

pub use fault::Syndrome;
#[cfg(target_pointer_width = "64")]
pub use paging::{Granule, Page4K, Page16K, Page64K, Stage1};

/// How far an instruction or a barrier reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// This CPU.
    Local,
    /// Every CPU of the inner shareable domain: all that one kernel runs on.
    InnerShareable,
}

/// Which accesses a barrier waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waits {
    /// Stores.
    Stores,
    /// Loads, stores, and TLB and cache maintenance.
    All,
}

/// What a TLBI drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tlbi {
    /// VMALLE1: everything of the EL1&0 regime.
    All,
    /// ASIDE1: what carries an ASID.
    Asid,
    /// VAE1: one address of an ASID and what is global, with the walk to it.
    Address,
    /// VALE1: the same, the last level only.
    AddressLast,
    /// VAAE1: one address of every ASID, with the walk to it.
    AnyAddress,
    /// VAALE1: the same, the last level only.
    AnyAddressLast,
    /// RVAE1: a range of an ASID, with the walk to it (FEAT_TLBIRANGE).
    Range,
    /// RVALE1: the same, the last level only.
    RangeLast,
    /// RVAAE1: a range of every ASID, with the walk to it.
    AnyRange,
    /// RVAALE1: the same, the last level only.
    AnyRangeLast,
}

/// What a change of the user half's root leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tags {
    /// The ASID is the space's own, and so is all that is remembered under it:
    /// nothing has to be dropped.
    OfSpaces,
    /// What is remembered under the ASID is another space's, or not true any
    /// more: it is dropped.
    Shared,
}

/// A sink for barriers, TLB and cache instructions: `native::Native` executes
/// them, a host test compares them with the manual.
pub trait Emit {
    /// TLBI; the argument means nothing to [`Tlbi::All`].
    fn tlbi(&mut self, what: Tlbi, reach: Reach, argument: u64);
    /// DSB NSH or ISH, with or without ST.
    fn dsb(&mut self, waits: Waits, reach: Reach);
    /// ISB.
    fn isb(&mut self);
    /// MSR TTBR0_EL1: the user half's root and ASID.
    ///
    /// # Safety
    /// The table that the value names stays alive until another is written, and
    /// what is remembered of its ASID is dropped before it is used.
    #[expect(unsafe_code, reason = "what is translated changes")]
    unsafe fn write_ttbr0(&mut self, value: u64);
    /// DC CVAU: cleans a data line to where fetches look.
    fn dc_cvau(&mut self, addr: usize);
    /// IC IVAU: drops an instruction line on every CPU.
    fn ic_ivau(&mut self, addr: usize);
    /// IC IALLUIS: drops all instruction caches.
    fn ic_ialluis(&mut self);
}
