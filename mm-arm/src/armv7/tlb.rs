//! Which operations drop which translations, and make code visible.
//!
//! The sequences are written against [`Emit`], so that a host test compares
//! them with the manual; `native::Native` executes them.
//!
//! | operation | drops | global too | where |
//! |---|---|---|---|
//! | TLBIMVA(IS) | one page of an ASID | yes, if the page is | this CPU (all that share) |
//! | TLBIMVAA(IS) | one page of all ASIDs | yes | |
//! | TLBIASID(IS) | an ASID | no | |
//! | TLBIALL(IS) | everything | yes | |
//!
//! All of them drop cached walks too. Around them (DDI 0406C B3.10.1):
//!
//! ```text
//!  store to the table      (by the caller)
//!  DSB                     the store is done before anything is dropped
//!  TLBI...
//!  BPIALL                  the branch predictor may remember what was executable
//!  DSB                     all is dropped, on all CPUs
//!  ISB                     this CPU fetches by the new table
//! ```
//!
//! Writing down a *new* entry needs no TLBI but does need [`publish`] before
//! the page is relied upon: a walk may overtake the store. A user who comes too
//! early faults once more and is told that all is well; the kernel has no such
//! second chance.

use mm_core::platform::Flush;

/// An operation of CP15 whose operand is a register: `MCR p15, opc1, Rt, CRn, CRm, opc2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Drop an address of an ASID on this CPU; the operand holds both.
    Tlbimva,
    /// The same on all CPUs of the domain.
    TlbimvaIs,
    /// Drop an address of all ASIDs on this CPU.
    Tlbimvaa,
    /// The same on all CPUs.
    TlbimvaaIs,
    /// Drop an ASID on this CPU.
    Tlbiasid,
    /// The same on all CPUs.
    TlbiasidIs,
    /// Drop everything on this CPU.
    Tlbiall,
    /// The same on all CPUs.
    TlbiallIs,
    /// Drop all branch predictions on this CPU.
    Bpiall,
    /// The same on all CPUs.
    BpiallIs,
    /// Clean a line of the data cache to where instructions are fetched from.
    Dccmvau,
    /// Drop a line of the instruction caches of all CPUs.
    Icimvau,
    /// Drop the whole instruction cache of this CPU.
    Iciallu,
    /// The same on all CPUs.
    IcialluIs,
    /// Write CONTEXTIDR, whose low byte is the ASID.
    Contextidr,
    /// Write TTBR0.
    Ttbr0,
}

/// A barrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Barrier {
    /// DSB ISH: all accesses and operations before it are done.
    DsbIsh,
    /// DSB ISHST: all stores before it are done.
    DsbIshst,
    /// ISB: what follows is fetched anew.
    Isb,
}

/// A sink for operations.
pub trait Emit {
    /// Writes a CP15 operation with its operand.
    fn op(&mut self, op: Op, value: u32);
    /// Waits.
    fn barrier(&mut self, barrier: Barrier);
}

/// How far an operation reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// This CPU: cores without the Multiprocessing Extensions know no other.
    Local,
    /// All CPUs of the inner shareable domain, by hardware: no interrupts.
    Broadcast,
}

/// Which way caches of instructions are found (CTR.L1Ip), and their lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CodeCaches {
    data_line: u32,
    instruction_line: u32,
    by_address: bool,
}

impl CodeCaches {
    /// Reads CTR (B4.1.42).
    ///
    /// A cache that is indexed by virtual addresses (L1Ip 0b10) may hold a line
    /// under the user's address only, which another address of the same
    /// frame does not name: then all of it is dropped.
    pub const fn from_ctr(ctr: u32) -> Self {
        Self {
            data_line: 4u32.wrapping_shl(ctr >> 16 & 15),
            instruction_line: 4u32.wrapping_shl(ctr & 15),
            by_address: ctr >> 14 & 3 == 3,
        }
    }
}

/// More pages than this are dropped with the whole ASID.
pub const SINGLE_PAGE_CEILING: usize = 33;

/// Drops translations, as far as `reach` says, and returns when that is done.
///
/// `asid` of the flush is an ASID of 8 bits; `None` means global kernel
/// entries.
pub fn flush(emit: &mut impl Emit, reach: Reach, flush: Flush) {
    let broadcast = matches!(reach, Reach::Broadcast);
    let pick = |local, all| if broadcast { all } else { local };
    #[cfg(not(mm_mutant = "armv7_flush_before_stores"))]
    emit.barrier(Barrier::DsbIsh);
    let single = flush
        .pages
        .filter(|r| r.pages() <= SINGLE_PAGE_CEILING && !flush.tables);
    let asid = flush.asid.map(|asid| u32::from(asid & 0xff));
    match (single, asid) {
        (Some(range), asid) => {
            let by_page = match asid {
                Some(_) => pick(Op::Tlbimva, Op::TlbimvaIs),
                None => pick(Op::Tlbimvaa, Op::TlbimvaaIs),
            };
            for page in range.iter() {
                let address = u32::try_from(page.addr(12).as_usize()).unwrap_or(0);
                emit.op(by_page, address | asid.unwrap_or(0));
            }
        }
        (None, Some(asid)) => emit.op(pick(Op::Tlbiasid, Op::TlbiasidIs), asid),
        (None, None) => emit.op(pick(Op::Tlbiall, Op::TlbiallIs), 0),
    }
    #[cfg(not(mm_mutant = "armv7_branches_are_remembered"))]
    emit.op(pick(Op::Bpiall, Op::BpiallIs), 0);
    #[cfg(not(mm_mutant = "armv7_flush_is_not_waited_for"))]
    emit.barrier(Barrier::DsbIsh);
    #[cfg(not(mm_mutant = "armv7_flush_without_isb"))]
    emit.barrier(Barrier::Isb);
}

/// Drops all that this CPU or all CPUs hold: before the first use of a table,
/// and when ASIDs begin a new generation.
pub fn flush_everything(emit: &mut impl Emit, reach: Reach) {
    let everything = Flush {
        pages: None,
        tables: true,
        asid: None,
    };
    flush(emit, reach, everything);
}

/// Makes new entries visible to walks of this CPU and of others.
pub fn publish(emit: &mut impl Emit) {
    #[cfg(not(mm_mutant = "armv7_publish_without_dsb"))]
    emit.barrier(Barrier::DsbIshst);
    emit.barrier(Barrier::Isb);
}

/// Switches to another table and its ASID.
///
/// The two stand in two registers, and a walk between the writes would fill the
/// TLB with one space's pages under the other's tag. So the CPU passes through
/// ASID 0, which no space has (B3.10.4, "using a reserved ASID"). The barrier
/// before is for a root that was just made: no walk finds what its frames held.
pub fn switch(emit: &mut impl Emit, ttbr0: u32, asid: u8) {
    #[cfg(not(mm_mutant = "armv7_root_before_its_stores"))]
    emit.barrier(Barrier::DsbIshst);
    #[cfg(not(mm_mutant = "armv7_root_under_the_old_asid"))]
    emit.op(Op::Contextidr, 0);
    emit.barrier(Barrier::Isb);
    emit.op(Op::Ttbr0, ttbr0);
    #[cfg(not(mm_mutant = "armv7_root_without_isb"))]
    emit.barrier(Barrier::Isb);
    emit.op(Op::Contextidr, u32::from(asid));
    emit.barrier(Barrier::Isb);
}

/// Makes freshly written instructions visible to fetches: `bytes` bytes from
/// `start`, an address where the kernel sees them (B2.2.5, "cache coherency
/// for self-modifying code").
pub fn sync_code(emit: &mut impl Emit, caches: CodeCaches, reach: Reach, start: u32, bytes: u32) {
    let broadcast = matches!(reach, Reach::Broadcast);
    each_line(start, bytes, caches.data_line, |line| {
        #[cfg(not(mm_mutant = "armv7_code_is_not_cleaned"))]
        emit.op(Op::Dccmvau, line);
    });
    #[cfg(not(mm_mutant = "armv7_code_dropped_before_cleaned"))]
    emit.barrier(Barrier::DsbIsh);
    if caches.by_address {
        each_line(start, bytes, caches.instruction_line, |line| {
            #[cfg(not(mm_mutant = "armv7_code_is_not_dropped"))]
            emit.op(Op::Icimvau, line);
        });
    } else {
        let all = if broadcast {
            Op::IcialluIs
        } else {
            Op::Iciallu
        };
        emit.op(all, 0);
    }
    emit.op(if broadcast { Op::BpiallIs } else { Op::Bpiall }, 0);
    #[cfg(not(mm_mutant = "armv7_code_is_not_waited_for"))]
    emit.barrier(Barrier::DsbIsh);
    #[cfg(not(mm_mutant = "armv7_code_without_isb"))]
    emit.barrier(Barrier::Isb);
}

fn each_line(start: u32, bytes: u32, line: u32, mut see: impl FnMut(u32)) {
    // Lines are powers of two of at least four bytes.
    let mut at = start & !line.wrapping_sub(1);
    let end = u64::from(start).saturating_add(u64::from(bytes));
    while u64::from(at) < end {
        see(at);
        at = match at.checked_add(line) {
            Some(next) => next,
            None => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mm_core::addr::Vpn;
    use mm_core::range::PageRange;

    /// Writes operations by the manual's names.
    #[derive(Default)]
    struct Log(Vec<String>);

    impl Emit for Log {
        fn op(&mut self, op: Op, value: u32) {
            let name = format!("{op:?}").to_uppercase();
            self.0.push(match op {
                Op::Tlbiall | Op::TlbiallIs | Op::Bpiall | Op::BpiallIs => name,
                Op::Iciallu | Op::IcialluIs => name,
                _ => format!("{name} {value:#x}"),
            });
        }
        fn barrier(&mut self, barrier: Barrier) {
            self.0.push(
                match barrier {
                    Barrier::DsbIsh => "DSB ISH",
                    Barrier::DsbIshst => "DSB ISHST",
                    Barrier::Isb => "ISB",
                }
                .into(),
            );
        }
    }

    fn log(run: impl FnOnce(&mut Log)) -> String {
        let mut log = Log::default();
        run(&mut log);
        log.0.join("; ")
    }

    fn flushed(reach: Reach, pages: Option<usize>, tables: bool, asid: Option<u16>) -> String {
        let pages = pages.and_then(|n| PageRange::with_len(Vpn::new(0x10), n));
        let what = Flush {
            pages,
            tables,
            asid,
        };
        log(|log| flush(log, reach, what))
    }

    #[test]
    fn a_page_is_dropped_with_its_asid() {
        assert_eq!(
            flushed(Reach::Broadcast, Some(1), false, Some(3)),
            "DSB ISH; TLBIMVAIS 0x10003; BPIALLIS; DSB ISH; ISB"
        );
        assert_eq!(
            flushed(Reach::Local, Some(2), false, Some(3)),
            "DSB ISH; TLBIMVA 0x10003; TLBIMVA 0x11003; BPIALL; DSB ISH; ISB"
        );
    }

    #[test]
    fn kernel_pages_are_dropped_in_all_asids() {
        assert_eq!(
            flushed(Reach::Broadcast, Some(1), false, None),
            "DSB ISH; TLBIMVAAIS 0x10000; BPIALLIS; DSB ISH; ISB"
        );
        assert_eq!(
            flushed(Reach::Local, Some(1), true, None),
            "DSB ISH; TLBIALL; BPIALL; DSB ISH; ISB"
        );
    }

    #[test]
    fn tables_and_many_pages_drop_the_whole_asid() {
        for (pages, tables) in [(Some(1), true), (Some(34), false), (None, false)] {
            assert_eq!(
                flushed(Reach::Broadcast, pages, tables, Some(0x1ff)),
                "DSB ISH; TLBIASIDIS 0xff; BPIALLIS; DSB ISH; ISB"
            );
        }
        assert_eq!(
            log(|log| flush_everything(log, Reach::Broadcast)),
            "DSB ISH; TLBIALLIS; BPIALLIS; DSB ISH; ISB"
        );
    }

    #[test]
    fn a_switch_passes_through_the_reserved_asid() {
        assert_eq!(
            log(|log| switch(log, 0x4000_406a, 7)),
            "DSB ISHST; CONTEXTIDR 0x0; ISB; TTBR0 0x4000406a; ISB; CONTEXTIDR 0x7; ISB"
        );
    }

    #[test]
    fn new_entries_wait_for_their_store() {
        assert_eq!(log(publish), "DSB ISHST; ISB");
    }

    /// Cortex-A15: CTR 0x8444c004, physical tags, lines of 64 bytes.
    #[test]
    fn code_is_cleaned_before_it_is_dropped() {
        let a15 = CodeCaches::from_ctr(0x8444_c004);
        assert_eq!(
            log(|log| sync_code(log, a15, Reach::Broadcast, 0x1010, 0x40)),
            "DCCMVAU 0x1000; DCCMVAU 0x1040; DSB ISH; \
             ICIMVAU 0x1000; ICIMVAU 0x1040; BPIALLIS; DSB ISH; ISB"
        );
        // Cortex-A8: 0x82048004, virtually indexed.
        let a8 = CodeCaches::from_ctr(0x8204_8004);
        assert_eq!(
            log(|log| sync_code(log, a8, Reach::Local, 0x1000, 4)),
            "DCCMVAU 0x1000; DSB ISH; ICIALLU; BPIALL; DSB ISH; ISB"
        );
        assert_eq!(
            log(|log| sync_code(log, a8, Reach::Broadcast, 0x1000, 0)),
            "DSB ISH; ICIALLUIS; BPIALLIS; DSB ISH; ISB"
        );
        // The last line of the address space ends.
        let last = log(|log| sync_code(log, a15, Reach::Broadcast, 0xffff_ffc0, 0x40));
        assert!(last.starts_with("DCCMVAU 0xffffffc0; DSB"), "{last}");
    }
}
