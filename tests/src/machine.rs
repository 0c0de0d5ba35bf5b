//! The machines that every suite runs on.
//!
//! A test says [`on_every_machine`]; what differs between machines it asks the
//! machine or its world. A failure names the machine, and the others run all
//! the same. Where a test makes no sense it says why ([`Machine::skip`]); the
//! reasons are printed, and a test that ran nowhere fails.
//!
//! `MM_MACHINE=sv39 cargo test ...` runs only machines whose name has "sv39".

use crate::format::{AnyFormat, AnyWalker, DynFormat};
use crate::mmu::{
    LpaeWalker, PaeWalker, Sets, ShortWalker, SvWalker, TinyWalker, TwoLevelWalker, Walker,
};
use crate::world::World;
use mm_arm::armv7::registers::DACR_CLIENTS;
use mm_arm::armv7::short::{Hardware, Short};
use mm_arm::lpae::Lpae;
use mm_core::addr::Pfn;
use mm_core::format::tiny::{SetsAccessed, SetsBoth, SetsBothBreaking, SetsNothing, Tiny};
use mm_core::format::{Attrs, PageTableFormat, WordCell};
use mm_core::prot::Prot;
use mm_core::sync::{AtomicU32, AtomicU64};
use mm_riscv::{self as riscv, Extensions, Sv32};
use mm_x86_64::legacy::{LargePages, Pae, TwoLevel};
use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// A format with the hardware that walks it.
#[derive(Debug)]
pub struct Machine {
    /// Its name, for people.
    pub name: &'static str,
    format: &'static dyn DynFormat,
    walker: AnyWalker,
}

/// How many times as many scripts a long run plays.
const LONG_SEEDS: u64 = 50;

impl Machine {
    /// Makes a machine of a test's own; leaks both.
    pub fn new(name: &'static str, format: impl PageTableFormat, walker: impl Walker) -> Self {
        Self {
            name,
            format: Box::leak(Box::new(format)),
            walker: Box::leak(Box::new(walker)),
        }
    }

    /// Returns the format, with nobody intruding yet.
    pub fn format(&self) -> AnyFormat {
        AnyFormat::new(self.format)
    }

    /// Returns the hardware's walker.
    pub fn walker(&self) -> AnyWalker {
        self.walker
    }

    /// Returns the bytes of a page.
    pub fn page_size(&self) -> usize {
        1 << self.format.page_shift()
    }

    /// Returns the end of user space, in bytes.
    pub fn user_end(&self) -> usize {
        self.format.user_end().as_usize() << self.format.page_shift()
    }

    /// Returns the highest frame that a page's entry can name.
    pub fn last_frame(&self) -> Pfn {
        let names = |frame: u64| {
            let attrs = Attrs::user(Prot::RW);
            self.format.encode_leaf(Pfn::new(frame), attrs, 1).is_ok()
        };
        // Frame numbers are bits, from 0 on.
        let bits = (1..u64::BITS).take_while(|&n| names((1 << n) - 1));
        Pfn::new((1 << bits.last().expect("a bit")) - 1)
    }

    /// Makes a world of this machine: see [`World::new`].
    pub fn world(&self, frames: usize, cpus: usize, seed: u64) -> World {
        World::new(self.format(), self.walker, frames, cpus, seed)
    }

    /// Makes a world of this machine with RAM elsewhere: see [`World::at`].
    pub fn world_at(&self, ram: (u64, usize), cpus: usize, seed: u64) -> World {
        World::at(self.format(), self.walker, ram, cpus, seed)
    }

    /// Returns `n` seeds of the machine's own, so that the machines together
    /// play more scripts than one would; many more with `MM_LONG`.
    pub fn seeds(&self, n: u64) -> Range<u64> {
        let n = match std::env::var_os("MM_LONG") {
            Some(_) => n * LONG_SEEDS,
            None => n,
        };
        let hash = |h: u64, byte: u8| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let first = self.name.bytes().fold(0xcbf2_9ce4_8422_2325, hash) % 1000 * 10;
        first..first + n
    }

    /// Says why a test makes no sense on this machine; the test returns then.
    pub fn skip(&self, why: &str) {
        SKIPPED.with_borrow_mut(|list| list.push(format!("{}: {why}", self.name)));
    }
}

thread_local! {
    /// What the test that runs on this thread left out.
    static SKIPPED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A hart that is known to set neither accessed nor dirty bits.
const SVADE: Extensions = Extensions {
    sets_ad: false,
    ..Extensions::NONE
};
/// A hart with everything.
const FULL: Extensions = Extensions {
    svnapot: true,
    svpbmt: true,
    sets_ad: true,
    svvptc: true,
    svinval: true,
};

fn tiny<C: WordCell, F: PageTableFormat>(
    name: &'static str,
    format: F,
    sets: Sets,
    caches_invalid: bool,
) -> Machine {
    // Four levels of 32 entries: 2^20 pages, of which users have three quarters;
    // runs of four.
    Machine::new(
        name,
        format,
        TinyWalker::<C>::new(4, 5, sets, caches_invalid).with_runs(2),
    )
}

/// Returns every machine that programs of this host's word size can have: those of 64 bits are no
/// formats of a kernel whose addresses have 32, so the suites of such a host do without them.
pub fn machines() -> &'static [Machine] {
    static MACHINES: OnceLock<Vec<Machine>> = OnceLock::new();
    MACHINES.get_or_init(|| {
        let mut machines = Vec::new();
        #[cfg(target_pointer_width = "64")]
        machines.extend(wide::machines());
        machines.extend(narrow());
        machines
    })
}

/// Returns the machines of 32 bits, and those that are small enough for any host.
fn narrow() -> Vec<Machine> {
    vec![
        Machine::new(
            "x86, 2 levels",
            TwoLevel::new(LargePages::On),
            TwoLevelWalker::new(),
        ),
        Machine::new("x86, PAE", Pae, PaeWalker::new()),
        Machine::new(
            "sv32, svade",
            riscv::Paging::new(Sv32, SVADE),
            SvWalker::new(2),
        ),
        Machine::new(
            "sv32, every extension",
            riscv::Paging::new(Sv32, FULL),
            SvWalker::full(2),
        ),
        Machine::new(
            "armv7, short",
            Short::new(Hardware::default()),
            ShortWalker {
                // The format keeps bits of its own in the domain numbers.
                domains: DACR_CLIENTS,
                ..ShortWalker::new()
            },
        ),
        Machine::new("armv7, LPAE", Lpae, LpaeWalker::new()),
        tiny::<AtomicU64, _>(
            "tiny, sets both bits",
            Tiny::<u64, SetsBoth>::new(4, 5)
                .with_kernel_half(24)
                .with_runs(2),
            Sets::Both,
            false,
        ),
        tiny::<AtomicU64, _>(
            "tiny, breaks before it makes",
            Tiny::<u64, SetsAccessed>::new(4, 5)
                .with_kernel_half(24)
                .with_runs(2),
            Sets::Accessed,
            false,
        ),
        tiny::<AtomicU64, _>(
            "tiny, remembers invalid entries",
            Tiny::<u64, SetsNothing>::new(4, 5)
                .with_kernel_half(24)
                .with_runs(2),
            Sets::Nothing,
            true,
        ),
        Machine::new(
            "tiny, runs, sets both bits",
            Tiny::<u64, SetsBoth>::new(4, 5)
                .with_runs(2)
                .with_kernel_half(24),
            TinyWalker::<AtomicU64>::new(4, 5, Sets::Both, false).with_runs(2),
        ),
        Machine::new(
            "tiny, runs, sets both, breaks before it makes",
            Tiny::<u64, SetsBothBreaking>::new(4, 5)
                .with_runs(2)
                .with_kernel_half(24),
            TinyWalker::<AtomicU64>::new(4, 5, Sets::Both, false)
                .with_runs(2)
                .breaking(),
        ),
        tiny::<AtomicU32, _>(
            "tiny, words of 32 bits",
            Tiny::<u32, SetsNothing>::new(4, 5)
                .with_kernel_half(24)
                .with_runs(2),
            Sets::Nothing,
            true,
        ),
    ]
}

/// The machines whose addresses need a `usize` of 64 bits.
#[cfg(target_pointer_width = "64")]
mod wide {
    use super::{FULL, Machine, SVADE};
    use crate::mmu::{LongModeWalker, Sets, SvWalker, Vmsa64Walker};
    use mm_arm::aarch64::{Granule, Page4K, Page16K, Page64K, Stage1};
    use mm_core::format::HardwareAd;
    use mm_riscv::{self as riscv, Extensions, Sv39, Sv48, Sv57};
    use mm_x86_64::{Depth, FiveLevel, FourLevel, Paging, PagingFeatures};

    /// A CPU with pages of 1 GiB.
    fn long_mode<D: Depth>(name: &'static str, depth: D) -> Machine {
        let features = PagingFeatures {
            page_1g: true,
            ..PagingFeatures::NX
        };
        let format = Paging::with_features(depth, features);
        Machine::new(name, format, LongModeWalker::new(depth.levels()))
    }

    fn arm64<G: Granule>(name: &'static str, granule: u32, bits: u8, ad: HardwareAd) -> Machine {
        let sets = match ad {
            HardwareAd::None => Sets::Nothing,
            HardwareAd::Accessed => Sets::Accessed,
            HardwareAd::Both => Sets::Both,
        };
        let walker = Vmsa64Walker::new(granule, u32::from(bits), sets);
        Machine::new(name, Stage1::<G>::new(bits, ad), walker)
    }

    pub(super) fn machines() -> Vec<Machine> {
        vec![
            long_mode("x86_64, 4 levels", FourLevel),
            long_mode("x86_64, 5 levels", FiveLevel),
            Machine::new(
                "sv39, svade",
                riscv::Paging::new(Sv39, SVADE),
                SvWalker::new(3),
            ),
            Machine::new(
                "sv39, svade that nobody knows of",
                riscv::Paging::new(Sv39, Extensions::NONE),
                SvWalker::new(3),
            ),
            Machine::new(
                "sv48, every extension",
                riscv::Paging::new(Sv48, FULL),
                SvWalker::full(4),
            ),
            Machine::new(
                "sv57, every extension",
                riscv::Paging::new(Sv57, FULL),
                SvWalker::full(5),
            ),
            arm64::<Page4K>("aarch64, 4K, 48 bits", 12, 48, HardwareAd::None),
            arm64::<Page4K>("aarch64, 4K, 39 bits", 12, 39, HardwareAd::Accessed),
            arm64::<Page4K>("aarch64, 4K, 48 bits, sets both", 12, 48, HardwareAd::Both),
            arm64::<Page16K>("aarch64, 16K, 47 bits", 14, 47, HardwareAd::None),
            arm64::<Page16K>("aarch64, 16K, 48 bits, sets both", 14, 48, HardwareAd::Both),
            arm64::<Page64K>("aarch64, 64K, 48 bits", 16, 48, HardwareAd::Accessed),
        ]
    }
}

/// Runs a test on each machine.
///
/// # Panics
/// When it fails on some, naming them; or when it ran on none.
pub fn on_every_machine(test: impl Fn(&'static Machine)) {
    SKIPPED.take();
    let only = std::env::var("MM_MACHINE").ok();
    let chosen = |m: &&Machine| {
        only.as_ref()
            .is_none_or(|name| m.name.contains(name.as_str()))
    };
    let (mut failed, mut ran) = (Vec::new(), 0);
    for machine in machines().iter().filter(chosen) {
        let skipped = SKIPPED.with_borrow(Vec::len);
        if catch_unwind(AssertUnwindSafe(|| test(machine))).is_err() {
            eprintln!("^^^ on the machine \"{}\"", machine.name);
            failed.push(machine.name);
        }
        ran += usize::from(SKIPPED.with_borrow(Vec::len) == skipped);
    }
    for line in SKIPPED.take() {
        println!("left out on {line}");
    }
    assert!(failed.is_empty(), "failed on {failed:?}");
    assert!(ran > 0 || only.is_some(), "ran on no machine");
}

/// Runs a test that makes no page table on a machine of each page size.
///
/// # Panics
/// As [`on_every_machine`].
pub fn on_every_page_size(test: impl Fn(&'static Machine)) {
    on_every_machine(|machine| {
        let like = |m: &&Machine| m.page_size() == machine.page_size();
        match machines().iter().find(like) {
            Some(first) if first.name == machine.name => test(machine),
            _ => machine.skip("another has the same page size"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_reported_and_nothing_runs_nowhere() {
        let last = machines().len() - 1;
        let failing = catch_unwind(|| {
            on_every_machine(|m| {
                let at = |i: usize| m.name == machines()[i].name;
                assert!(!at(0) && !at(last), "meant to fail");
            });
        });
        let message = *failing.unwrap_err().downcast::<String>().unwrap();
        for i in [0, last] {
            assert!(message.contains(machines()[i].name), "{message}");
        }
        let nowhere = catch_unwind(|| on_every_machine(|m| m.skip("no reason")));
        assert!(nowhere.is_err());
    }
}
