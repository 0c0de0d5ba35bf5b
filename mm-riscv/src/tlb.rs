//! Which fences drop which translations, on this hart and on others.
//!
//! The sequences are written against [`Emit`], so that a host test compares
//! them with the manual; `native::Native` executes them. SFENCE.VMA (10.2.1)
//! orders this hart's earlier stores to tables before its later walks, and:
//!
//! | rs1 (address) | rs2 (ASID) | drops | global too |
//! |---|---|---|---|
//! | x0 | x0 | everything, all levels | yes |
//! | x0 | given | all levels of the ASID | no |
//! | given | x0 | leaves of the address, every ASID | yes |
//! | given | given | leaves of the address of the ASID | no |
//!
//! So a change of a table's *pointer* needs the forms without an address. On a
//! hart without ASIDs the tag is zero, given in a register: x0 would drop the
//! kernel's global entries, too.
//!
//! The fence is local. Other harts are asked through the firmware (SBI
//! RFENCE), which returns when they are done; a data fence goes before, so that
//! they see the stores whose translations they drop. The same holds for
//! FENCE.I, which is local, too (Unprivileged ISA, "Zifencei"). The firmware
//! interrupts the harts in machine mode, which supervisors cannot shut out: a
//! hart that spins with interrupts off still serves it, and one that waits for
//! its own request serves those of others meanwhile (OpenSBI: `sbi_tlb_sync`).

use mm_core::platform::Flush;
use mm_core::range::PageRange;

use crate::paging::PAGE_SHIFT;

/// A sink for fences, `satp` and the firmware's remote fences.
pub trait Emit {
    /// SFENCE.VMA; `None` is x0.
    fn sfence_vma(&mut self, addr: Option<usize>, asid: Option<u16>);
    /// SFENCE.W.INVAL: earlier stores are ordered before the invalidations
    /// that follow (Svinval).
    fn sfence_w_inval(&mut self);
    /// SINVAL.VMA: like SFENCE.VMA, unordered; `None` is x0 (Svinval).
    fn sinval_vma(&mut self, addr: usize, asid: Option<u16>);
    /// SFENCE.INVAL.IR: earlier invalidations are ordered before the walks
    /// that follow (Svinval).
    fn sfence_inval_ir(&mut self);
    /// FENCE RW, RW.
    fn fence(&mut self);
    /// FENCE.I.
    fn fence_i(&mut self);
    /// Reads `satp`.
    fn read_satp(&mut self) -> u64;
    /// Writes `satp`. The table maps the running code and stack, or the mode
    /// is one that the hart does not have.
    fn write_satp(&mut self, value: u64);
    /// SBI RFENCE: SFENCE.VMA of a range on harts; all of the ASID (or, without
    /// one, everything) when `bytes` is [`usize::MAX`].
    fn remote_sfence_vma(&mut self, harts: HartMask, start: usize, bytes: usize, asid: Option<u16>);
    /// SBI RFENCE: FENCE.I on harts.
    fn remote_fence_i(&mut self, harts: HartMask);
}

/// Harts as SBI names them: bit `i` is hart `base + i`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HartMask {
    /// The bits.
    pub mask: usize,
    /// The hart of bit 0.
    pub base: usize,
}

/// Groups hart numbers into masks, as few as ascending numbers allow.
pub fn hart_masks(harts: impl IntoIterator<Item = usize>) -> impl Iterator<Item = HartMask> {
    let mut harts = harts.into_iter().peekable();
    core::iter::from_fn(move || {
        let base = *harts.peek()? & !word_mask();
        let mut mask = 0;
        while let Some(hart) = harts.next_if(|hart| hart & !word_mask() == base) {
            mask |= bit(hart);
        }
        Some(HartMask { mask, base })
    })
}

const fn word_mask() -> usize {
    (usize::BITS as usize).wrapping_sub(1)
}

#[expect(clippy::cast_possible_truncation, reason = "six bits")]
const fn bit(hart: usize) -> usize {
    1usize.wrapping_shl((hart & word_mask()) as u32)
}

/// What the hart can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TlbFeatures {
    /// Svinval.
    pub svinval: bool,
}

/// More pages than this are dropped by a full fence of the tag (Linux on
/// RISC-V: `tlb_flush_all_threshold`).
pub const SINGLE_PAGE_CEILING: usize = 64;

/// The pages that fences with an address can drop; `None`: all of the tag.
fn by_address(flush: Flush) -> Option<PageRange> {
    // A fence with an address leaves pointers to tables alone.
    flush
        .pages
        .filter(|pages| pages.pages() <= SINGLE_PAGE_CEILING)
        .filter(|_| !flush.tables || cfg!(mm_mutant = "riscv_tables_page_by_page"))
}

/// Drops translations on this hart. Without a tag in the flush global ones, too.
pub fn flush_local(emit: &mut impl Emit, features: TlbFeatures, flush: Flush) {
    let Some(pages) = by_address(flush) else {
        emit.sfence_vma(None, flush.asid);
        return;
    };
    if features.svinval && pages.pages() > 1 {
        #[cfg(not(mm_mutant = "riscv_invalidates_before_stores"))]
        emit.sfence_w_inval();
        for page in pages.iter() {
            emit.sinval_vma(page.addr(PAGE_SHIFT).as_usize(), flush.asid);
        }
        #[cfg(not(mm_mutant = "riscv_walks_before_invalidated"))]
        emit.sfence_inval_ir();
        return;
    }
    for page in pages.iter() {
        emit.sfence_vma(Some(page.addr(PAGE_SHIFT).as_usize()), flush.asid);
    }
}

/// Drops translations on other harts, and returns when they are gone.
pub fn flush_remote(emit: &mut impl Emit, harts: impl IntoIterator<Item = usize>, flush: Flush) {
    let (start, bytes) = match by_address(flush) {
        Some(pages) => (
            pages.start().addr(PAGE_SHIFT).as_usize(),
            pages.pages().wrapping_shl(PAGE_SHIFT),
        ),
        None => (0, usize::MAX),
    };
    #[cfg(not(mm_mutant = "riscv_asks_without_fence"))]
    emit.fence();
    for mask in hart_masks(harts) {
        emit.remote_sfence_vma(mask, start, bytes, flush.asid);
    }
}

/// Makes freshly written instructions visible to this hart's fetches and to
/// those of others.
pub fn sync_code(emit: &mut impl Emit, others: impl IntoIterator<Item = usize>) {
    #[cfg(not(mm_mutant = "riscv_code_before_its_stores"))]
    emit.fence();
    #[cfg(not(mm_mutant = "riscv_code_is_not_shown_here"))]
    emit.fence_i();
    #[cfg(not(mm_mutant = "riscv_code_is_not_shown_to_others"))]
    for mask in hart_masks(others) {
        emit.remote_fence_i(mask);
    }
}

/// What this hart may remember under the tag of a root that is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remembered {
    /// What is true of this root: it was loaded under this tag before, and each
    /// change since then was sent here.
    Own,
    /// Nothing: the tag is the root's own and new on this hart.
    Nothing,
    /// Another root's translations, or old ones of this root: the tag was used
    /// before, or is the only one of a hart without ASIDs.
    Other,
}

/// Loads a root: a value of [`crate::satp::Layout::value`].
///
/// The write orders nothing (10.1.11). So a fence goes before it, unless this
/// hart walked the root already: it orders the stores that made the table,
/// whoever did them, before the first walk; without it that walk, which is for
/// the next instruction of the kernel, could find the root's frame as it was
/// before. And walks before the write still use the old root, so the fence
/// that drops a used tag comes after it.
pub fn load_root(emit: &mut impl Emit, satp: u64, asid: u16, remembered: Remembered) {
    #[cfg(not(mm_mutant = "riscv_root_before_its_stores"))]
    if remembered != Remembered::Own {
        emit.sfence_vma(None, Some(asid));
    }
    emit.write_satp(satp);
    #[cfg(not(mm_mutant = "riscv_used_tag_is_kept"))]
    if remembered == Remembered::Other {
        emit.sfence_vma(None, Some(asid));
    }
}

#[cfg(test)]
pub(crate) mod tests;
