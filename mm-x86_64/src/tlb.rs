//! Which instructions drop which translations.
//!
//! The sequences are written against [`Emit`], so that a host test compares
//! them with the manual; `native::Native` executes them. What SDM 3A 4.10.4
//! says of each:
//!
//! | instruction | drops | global too | paging-structure caches |
//! |---|---|---|---|
//! | INVLPG | one page, current PCID | yes | all of the current PCID |
//! | MOV to CR3, bit 63 clear | the PCID in it | no | of that PCID |
//! | INVPCID 0 | one page of a PCID | no | all of that PCID |
//! | INVPCID 1 | a PCID | no | of that PCID |
//! | INVPCID 2 | everything | yes | all |
//! | CR4.PGE off, on | everything | yes | all |
//!
//! Entries are global while CR4.PGE is set. While it is clear and PCIDs are on,
//! INVLPG leaves what other PCIDs remember of the kernel: then everything goes.

use mm_core::platform::Flush;
use mm_core::tlb::Remembered;

/// A sink for TLB instructions.
pub trait Emit {
    /// INVLPG of a virtual address.
    fn invlpg(&mut self, addr: usize);
    /// INVPCID of a type, PCID and address.
    fn invpcid(&mut self, kind: InvpcidKind, pcid: u16, addr: usize);
    /// Reads CR3.
    fn read_cr3(&mut self) -> u64;
    /// Writes CR3.
    fn write_cr3(&mut self, value: u64);
    /// Reads CR4.
    fn read_cr4(&mut self) -> u64;
    /// Writes CR4.
    fn write_cr4(&mut self, value: u64);
}

/// The types of INVPCID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum InvpcidKind {
    /// One address of one PCID.
    Address = 0,
    /// One PCID, global entries excepted.
    Pcid = 1,
    /// All PCIDs, global entries included.
    AllWithGlobal = 2,
    /// All PCIDs, global entries excepted.
    All = 3,
}

/// What the CPU can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TlbFeatures {
    /// CR4.PGE is set: entries can be global, and the kernel's are.
    pub global: bool,
    /// CR4.PCIDE is set.
    pub pcid: bool,
    /// INVPCID exists.
    pub invpcid: bool,
}

impl TlbFeatures {
    /// Returns how many bits the tags of spaces have: none without PCIDs.
    pub const fn asid_bits(self) -> u32 {
        if self.pcid { 12 } else { 0 }
    }

    /// Returns whether INVLPG drops a kernel entry whatever PCID has it: either
    /// it is global, or there is one PCID.
    const fn invlpg_reaches_all(self) -> bool {
        self.global || !self.pcid
    }
}

/// CR4.PGE: global pages.
pub const CR4_PGE: u64 = 1 << 7;
/// Bit 63 of a value for CR3: keep what the PCID has cached.
pub const CR3_NO_FLUSH: u64 = 1 << 63;

/// Returns the value of CR3 for a root: what the PCID has cached stays unless it
/// is stale. Without CR4.PCIDE the PCID is zero and bit 63 must be clear.
pub fn cr3(root: u64, pcid: u16, remembered: Remembered) -> u64 {
    let value = root | u64::from(pcid & 0xfff);
    match remembered {
        Remembered::Current if pcid != 0 => value | CR3_NO_FLUSH,
        _ if cfg!(mm_mutant = "x86_stale_pcid_is_kept") => value | CR3_NO_FLUSH,
        _ => value,
    }
}

/// More pages than this are dropped by a full flush of the tag: an INVLPG
/// costs about as much as 30 refills (Linux: tlb_single_page_flush_ceiling).
pub const SINGLE_PAGE_CEILING: usize = 33;

/// Drops translations on this CPU.
///
/// `asid` of the flush is a PCID; `None` means kernel entries, of every PCID.
pub fn flush_local(emit: &mut impl Emit, features: TlbFeatures, flush: Flush) {
    let single = flush
        .pages
        .filter(|r| r.pages() <= SINGLE_PAGE_CEILING)
        .filter(|_| !flush.tables || cfg!(mm_mutant = "x86_tables_page_by_page"));
    match (flush.asid, single) {
        (None, Some(range)) if features.invlpg_reaches_all() => {
            for page in range.iter() {
                emit.invlpg(page.addr(12).as_usize());
            }
        }
        (None, None) if cfg!(mm_mutant = "x86_global_entries_stay") => {
            flush_pcid(emit, features, 0)
        }
        (None, _) => flush_everything(emit, features),
        (Some(pcid), single) => {
            let current = current_pcid(emit, features) == pcid;
            match single {
                Some(range) if current => {
                    for page in range.iter() {
                        emit.invlpg(page.addr(12).as_usize());
                    }
                }
                Some(range) if features.invpcid => {
                    for page in range.iter() {
                        emit.invpcid(InvpcidKind::Address, pcid, page.addr(12).as_usize());
                    }
                }
                _ => flush_pcid(emit, features, pcid),
            }
        }
    }
}

fn current_pcid(emit: &mut impl Emit, features: TlbFeatures) -> u16 {
    if features.pcid {
        u16::try_from(emit.read_cr3() & 0xfff).unwrap_or(0)
    } else {
        0
    }
}

fn flush_pcid(emit: &mut impl Emit, features: TlbFeatures, pcid: u16) {
    if features.invpcid && features.pcid {
        emit.invpcid(InvpcidKind::Pcid, pcid, 0);
        return;
    }
    let cr3 = emit.read_cr3();
    if !features.pcid || u16::try_from(cr3 & 0xfff) == Ok(pcid) {
        emit.write_cr3(cr3 & !CR3_NO_FLUSH);
    } else {
        flush_everything(emit, features);
    }
}

/// Drops everything, global entries included. Where PCIDs are on without CR4.PGE
/// and INVPCID, it sets that bit for a moment.
pub fn flush_everything(emit: &mut impl Emit, features: TlbFeatures) {
    if features.invpcid {
        emit.invpcid(InvpcidKind::AllWithGlobal, 0, 0);
        return;
    }
    if !features.global && !features.pcid {
        // Nothing is global, and a CPU that has no PGE takes no such bit.
        let cr3 = emit.read_cr3();
        emit.write_cr3(cr3);
        return;
    }
    let cr4 = emit.read_cr4();
    // Toggling PGE drops all, whichever way it goes.
    emit.write_cr4(cr4 ^ CR4_PGE);
    #[cfg(not(mm_mutant = "x86_pge_stays_toggled"))]
    emit.write_cr4(cr4);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mm_core::addr::Vpn;
    use mm_core::range::PageRange;

    #[derive(Default)]
    struct Log {
        cr3: u64,
        cr4: u64,
        ops: Vec<String>,
    }

    impl Emit for Log {
        fn invlpg(&mut self, addr: usize) {
            self.ops.push(format!("invlpg {addr:#x}"));
        }
        fn invpcid(&mut self, kind: InvpcidKind, pcid: u16, addr: usize) {
            self.ops
                .push(format!("invpcid {} {pcid} {addr:#x}", kind as u64));
        }
        fn read_cr3(&mut self) -> u64 {
            self.cr3
        }
        fn write_cr3(&mut self, value: u64) {
            self.ops.push(format!("cr3 {value:#x}"));
        }
        fn read_cr4(&mut self) -> u64 {
            self.cr4
        }
        fn write_cr4(&mut self, value: u64) {
            self.ops.push(format!("cr4 {value:#x}"));
        }
    }

    fn run(features: TlbFeatures, flush: Flush) -> Vec<String> {
        let mut log = Log {
            cr3: 0x5003,
            cr4: 0xa0,
            ops: Vec::new(),
        };
        flush_local(&mut log, features, flush);
        log.ops
    }

    fn pages(n: usize) -> Option<PageRange> {
        PageRange::with_len(Vpn::new(0x10), n)
    }

    const OLD: TlbFeatures = TlbFeatures {
        global: true,
        pcid: false,
        invpcid: false,
    };
    const NEW: TlbFeatures = TlbFeatures {
        global: true,
        pcid: true,
        invpcid: true,
    };

    /// SDM 3A 4.10.4.1: bit 63 keeps what the PCID has cached.
    #[test]
    fn a_switch_keeps_what_is_true_of_its_own_pcid() {
        let load = |pcid, remembered| cr3(0x5000, pcid, remembered);
        assert_eq!(load(3, Remembered::Current), 0x8000_0000_0000_5003);
        assert_eq!(load(3, Remembered::Stale), 0x5003);
        assert_eq!(load(0, Remembered::Current), 0x5000, "no PCIDs");
        assert_eq!(load(0, Remembered::Stale), 0x5000);
    }

    #[test]
    fn few_pages_are_dropped_one_by_one() {
        let f = Flush {
            pages: pages(2),
            tables: false,
            asid: Some(0),
        };
        assert_eq!(run(OLD, f), ["invlpg 0x10000", "invlpg 0x11000"]);
        let f = Flush {
            pages: pages(2),
            tables: false,
            asid: Some(3),
        };
        assert_eq!(run(NEW, f), ["invlpg 0x10000", "invlpg 0x11000"]);
        let f = Flush {
            pages: pages(1),
            tables: false,
            asid: Some(4),
        };
        assert_eq!(run(NEW, f), ["invpcid 0 4 0x10000"]);
    }

    #[test]
    fn tables_and_many_pages_drop_the_whole_tag() {
        for f in [
            Flush {
                pages: pages(1),
                tables: true,
                asid: Some(3),
            },
            Flush {
                pages: pages(34),
                tables: false,
                asid: Some(3),
            },
            Flush {
                pages: None,
                tables: false,
                asid: Some(3),
            },
        ] {
            assert_eq!(run(NEW, f), ["invpcid 1 3 0x0"]);
        }
        let f = Flush {
            pages: None,
            tables: true,
            asid: Some(0),
        };
        assert_eq!(run(OLD, f), ["cr3 0x5003"]);
    }

    #[test]
    fn kernel_entries_need_the_global_flush() {
        let f = Flush {
            pages: None,
            tables: true,
            asid: None,
        };
        assert_eq!(run(OLD, f), ["cr4 0x20", "cr4 0xa0"]);
        assert_eq!(run(NEW, f), ["invpcid 2 0 0x0"]);
        let f = Flush {
            pages: pages(1),
            tables: false,
            asid: None,
        };
        assert_eq!(run(OLD, f), ["invlpg 0x10000"]);
    }

    /// INVLPG drops a page of the current PCID and global ones. While none is
    /// global, each PCID has kernel entries of its own.
    #[test]
    fn kernel_entries_that_are_not_global_go_from_every_pcid() {
        let few = Flush {
            pages: pages(1),
            tables: false,
            asid: None,
        };
        let local = |f: TlbFeatures| TlbFeatures { global: false, ..f };
        assert_eq!(run(local(NEW), few), ["invpcid 2 0 0x0"]);
        let pcid = TlbFeatures { pcid: true, ..OLD };
        assert_eq!(run(local(pcid), few), ["cr4 0x20", "cr4 0xa0"]);
        assert_eq!(run(pcid, few), ["invlpg 0x10000"], "PGE reaches all");
        // One PCID, in which INVLPG and a load of CR3 find all there is.
        assert_eq!(run(local(OLD), few), ["invlpg 0x10000"]);
        let all = Flush { pages: None, ..few };
        assert_eq!(run(local(OLD), all), ["cr3 0x5003"]);
        // A space's pages are its PCID's, global or not.
        let own = Flush {
            asid: Some(3),
            ..few
        };
        assert_eq!(run(local(NEW), own), ["invlpg 0x10000"]);
    }
}
