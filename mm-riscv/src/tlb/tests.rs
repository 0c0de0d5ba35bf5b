//! Sequences against the manual: 10.2.1 (SFENCE.VMA), 13 (Svinval), SBI 8.

use super::*;
use mm_core::addr::Vpn;

/// A hart that writes down what it is told.
pub(crate) struct Log {
    pub(crate) ops: Vec<String>,
    pub(crate) asid_bits: u32,
    satp: u64,
    modes: Vec<u64>,
}

impl Log {
    pub(crate) fn with_modes(modes: &[u64]) -> Self {
        Self {
            ops: Vec::new(),
            asid_bits: 16,
            satp: 0,
            modes: modes.to_vec(),
        }
    }
}

fn register(value: Option<impl std::fmt::LowerHex>) -> String {
    value.map_or("x0".to_owned(), |value| format!("{value:#x}"))
}

impl Emit for Log {
    fn sfence_vma(&mut self, addr: Option<usize>, asid: Option<u16>) {
        let op = format!("sfence.vma {}, {}", register(addr), register(asid));
        self.ops.push(op);
    }
    fn sfence_w_inval(&mut self) {
        self.ops.push("sfence.w.inval".to_owned());
    }
    fn sinval_vma(&mut self, addr: usize, asid: Option<u16>) {
        self.ops
            .push(format!("sinval.vma {addr:#x}, {}", register(asid)));
    }
    fn sfence_inval_ir(&mut self) {
        self.ops.push("sfence.inval.ir".to_owned());
    }
    fn fence(&mut self) {
        self.ops.push("fence rw, rw".to_owned());
    }
    fn fence_i(&mut self) {
        self.ops.push("fence.i".to_owned());
    }
    fn read_satp(&mut self) -> u64 {
        self.satp
    }
    fn write_satp(&mut self, value: u64) {
        self.ops.push(format!("csrw satp, {value:#x}"));
        if self.modes.contains(&(value >> 60)) {
            let missing = (0xffff << self.asid_bits & 0xffff) << 44;
            self.satp = value & !missing;
        }
    }
    fn remote_sfence_vma(
        &mut self,
        harts: HartMask,
        start: usize,
        bytes: usize,
        asid: Option<u16>,
    ) {
        let HartMask { mask, base } = harts;
        self.ops.push(format!(
            "sbi rfence {mask:#x}+{base} {start:#x} {bytes:#x} {}",
            register(asid)
        ));
    }
    fn remote_fence_i(&mut self, harts: HartMask) {
        let HartMask { mask, base } = harts;
        self.ops.push(format!("sbi fence.i {mask:#x}+{base}"));
    }
}

const PLAIN: TlbFeatures = TlbFeatures { svinval: false };
const SPLIT: TlbFeatures = TlbFeatures { svinval: true };

fn flush(pages: Option<usize>, tables: bool, asid: Option<u16>) -> Flush {
    Flush {
        pages: pages.and_then(|n| PageRange::with_len(Vpn::new(0x10), n)),
        tables,
        asid,
    }
}

fn local(features: TlbFeatures, flush: Flush) -> Vec<String> {
    let mut log = Log::with_modes(&[]);
    flush_local(&mut log, features, flush);
    log.ops
}

#[test]
fn few_pages_are_dropped_one_by_one() {
    assert_eq!(
        local(PLAIN, flush(Some(2), false, Some(3))),
        ["sfence.vma 0x10000, 0x3", "sfence.vma 0x11000, 0x3"]
    );
    assert_eq!(
        local(SPLIT, flush(Some(2), false, Some(3))),
        [
            "sfence.w.inval",
            "sinval.vma 0x10000, 0x3",
            "sinval.vma 0x11000, 0x3",
            "sfence.inval.ir"
        ]
    );
    assert_eq!(
        local(SPLIT, flush(Some(1), false, Some(3))),
        ["sfence.vma 0x10000, 0x3"]
    );
}

/// "The translations of non-leaf entries are dropped by rs1 = x0 only."
#[test]
fn tables_and_many_pages_drop_the_whole_tag() {
    for flush in [
        flush(Some(1), true, Some(3)),
        flush(Some(65), false, Some(3)),
        flush(None, false, Some(3)),
    ] {
        assert_eq!(local(SPLIT, flush), ["sfence.vma x0, 0x3"]);
    }
}

/// SBI 8.2: "size = -1: the whole address space"; a range of the ceiling is
/// still named, one page more is not, and neither is one that moved tables.
#[test]
fn other_harts_drop_named_ranges_up_to_the_ceiling() {
    let remote = |flush| {
        let mut log = Log::with_modes(&[]);
        flush_remote(&mut log, [0, usize::BITS as usize - 1], flush);
        assert_eq!(log.ops.remove(0), "fence rw, rw");
        log.ops
    };
    let both = format!("sbi rfence {:#x}+0", 1 | isize::MIN as usize);
    let all = format!("0x0 {:#x}", usize::MAX);
    assert_eq!(
        remote(flush(Some(64), false, Some(0))),
        [format!("{both} 0x10000 0x40000 0x0")]
    );
    assert_eq!(
        remote(flush(Some(1), false, None)),
        [format!("{both} 0x10000 0x1000 x0")]
    );
    for (flush, tag) in [
        (flush(Some(65), false, Some(7)), "0x7"),
        (flush(Some(1), true, Some(7)), "0x7"),
        (flush(None, false, Some(0)), "0x0"),
        (flush(None, true, None), "x0"),
    ] {
        assert_eq!(remote(flush), [format!("{both} {all} {tag}")]);
    }
}

/// A hart without ASIDs: zero in a register spares the global entries.
#[test]
fn tag_zero_is_not_x0() {
    assert_eq!(
        local(PLAIN, flush(None, false, Some(0))),
        ["sfence.vma x0, 0x0"]
    );
}

#[test]
fn kernel_entries_need_the_fence_without_a_tag() {
    assert_eq!(local(PLAIN, flush(None, true, None)), ["sfence.vma x0, x0"]);
    assert_eq!(
        local(PLAIN, flush(Some(1), false, None)),
        ["sfence.vma 0x10000, x0"]
    );
}

#[test]
fn other_harts_are_asked_after_a_fence() {
    let mut log = Log::with_modes(&[]);
    flush_remote(&mut log, [1, 3, 64, 70], flush(Some(2), false, Some(5)));
    assert_eq!(
        log.ops,
        [
            "fence rw, rw",
            "sbi rfence 0xa+0 0x10000 0x2000 0x5",
            "sbi rfence 0x41+64 0x10000 0x2000 0x5"
        ]
    );
    log.ops.clear();
    flush_remote(&mut log, [2], flush(Some(2), true, None));
    assert_eq!(
        log.ops,
        [
            "fence rw, rw".into(),
            format!("sbi rfence 0x4+0 0x0 {:#x} x0", usize::MAX)
        ]
    );
}

#[test]
fn code_is_shown_to_this_hart_and_to_the_others() {
    let mut log = Log::with_modes(&[]);
    sync_code(&mut log, [0, 2]);
    assert_eq!(log.ops, ["fence rw, rw", "fence.i", "sbi fence.i 0x5+0"]);
    log.ops.clear();
    sync_code(&mut log, []);
    assert_eq!(log.ops, ["fence rw, rw", "fence.i"]);
}

/// "If the implementation does not provide ASIDs, ... after every satp write,
/// software should execute SFENCE.VMA with rs1=x0." And "writing satp does not
/// imply any ordering constraints between page-table updates and subsequent
/// address translations".
#[test]
fn a_new_root_is_ordered_before_and_a_used_tag_dropped_after_it_is_loaded() {
    let mut log = Log::with_modes(&[8]);
    load_root(&mut log, 8 << 60 | 7, 0, Remembered::Other);
    assert_eq!(
        log.ops,
        [
            "sfence.vma x0, 0x0",
            "csrw satp, 0x8000000000000007",
            "sfence.vma x0, 0x0"
        ]
    );
    log.ops.clear();
    load_root(&mut log, 8 << 60 | 5 << 44 | 7, 5, Remembered::Nothing);
    assert_eq!(
        log.ops,
        ["sfence.vma x0, 0x5", "csrw satp, 0x8000500000000007"]
    );
    log.ops.clear();
    load_root(&mut log, 8 << 60 | 5 << 44 | 7, 5, Remembered::Own);
    assert_eq!(log.ops, ["csrw satp, 0x8000500000000007"]);
}

#[test]
fn masks_start_at_multiples_of_the_word() {
    let word = usize::BITS as usize;
    let masks: Vec<_> = hart_masks([5, word - 1, word, 3 * word + 8]).collect();
    let mask = |mask, base| HartMask { mask, base };
    assert_eq!(
        masks,
        [
            mask(1 << (word - 1) | 1 << 5, 0),
            mask(1, word),
            mask(1 << 8, 3 * word)
        ]
    );
    assert_eq!(hart_masks([]).count(), 0);
}
