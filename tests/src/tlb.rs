//! Software TLBs and instruction caches: CPUs that forget nothing until they
//! are told.
//!
//! Each CPU keeps every translation and every table it ever walked through
//! until a flush names it. That is the worst that hardware may do, and
//! all of the time. Translations may also come into being without an access
//! ([`SoftTlbs::speculate`]), and a walk may begin at any remembered table.
//!
//! What screams (panics, with the seed of the test):
//! - a frame is freed while a CPU can use a translation to it (F1) or walk through it
//!   as a table (F2), seen in the very call that frees it;
//! - a CPU loads a tag, or begins to run users again, while it remembers
//!   under that tag what was freed meanwhile (F4);
//! - a translation comes in beside another of the same page, or would if the
//!   CPU walked again, where the machine demands break-before-make (F7);
//! - a walk goes through a frame that is not a table any more (the arena);
//! - a fetch sees other bytes than were last written to the frame, by mm-core or
//!   by a program, because nobody made them visible since. Only what a program
//!   stores where it executes is its own business. Machines whose caches are
//!   coherent (x86) never see old bytes.
//!
//! An access runs under the CPU's lock, as a real one is over before the CPU
//! answers a shootdown: [`FlushHook::flush`] waits for it.

use crate::arena::{Arena, FreeHook, own_code};
use crate::mmu::{Leaf, Mode, Refusal, Roots, Step, Walker};
use crate::platform::FlushHook;
use crate::watch::Quiet;
use mm_core::addr::{Pfn, Vpn};
use mm_core::platform::{CpuSet, Flush};
use mm_core::prot::Access;
use mm_core::range::PageRange;
use mm_core::tlb::Remembered;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Whose instructions a CPU executes on the loaded root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Runs {
    #[default]
    Users,
    /// A kernel thread: no address of users is used, walks may go on.
    KernelThread,
}

/// What a CPU runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The root table.
    pub root: Pfn,
    /// The tag; zero on machines without.
    pub asid: u16,
}

#[derive(Debug, Default)]
struct Cpu {
    loaded: Option<Loaded>,
    leaves: Vec<(u16, Leaf)>,
    tables: Vec<(u16, Step)>,
    /// Entries that led nowhere, with their levels.
    invalid: Vec<(u16, usize, u8)>,
    runs: Runs,
    /// Frames that were freed while they were remembered under a tag that
    /// could not be used.
    freed: Vec<(u16, Pfn)>,
    /// The version of each frame that the instruction cache holds.
    code: HashMap<u64, u64>,
    /// Counts choices, so that they differ from one another.
    dice: u64,
}

/// A CPU in the middle of one step.
struct Attended<'a> {
    cpu: MutexGuard<'a, Cpu>,
    _step: Quiet,
}

impl Deref for Attended<'_> {
    type Target = Cpu;
    fn deref(&self) -> &Cpu {
        &self.cpu
    }
}

impl DerefMut for Attended<'_> {
    fn deref_mut(&mut self) -> &mut Cpu {
        &mut self.cpu
    }
}

/// The TLBs of a machine.
#[derive(Debug)]
pub struct SoftTlbs<W: Walker> {
    walker: W,
    cpus: Vec<Mutex<Cpu>>,
    /// The kernel's own root, by physical address; zero: none.
    kernel_root: AtomicU64,
    seed: u64,
}

impl<W: Walker> SoftTlbs<W> {
    /// Makes `cpus` empty TLBs; `seed` goes into each scream.
    pub fn new(walker: W, cpus: usize, seed: u64) -> Self {
        Self {
            walker,
            cpus: (0..cpus).map(|_| Mutex::default()).collect(),
            kernel_root: AtomicU64::new(0),
            seed,
        }
    }

    fn cpu(&self, cpu: usize) -> Attended<'_> {
        Attended {
            _step: Quiet::begin(),
            cpu: self.cpus[cpu]
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }

    /// Gives every CPU a root for the kernel's addresses (TTBR1), once at boot.
    pub fn set_kernel_root(&self, root: Pfn) {
        let at = root.as_u64() << self.walker.page_shift();
        self.kernel_root.store(at, Ordering::SeqCst);
    }

    fn roots(&self, loaded: Loaded) -> Roots {
        let high = self.kernel_root.load(Ordering::SeqCst);
        Roots {
            low: loaded.root.as_u64() << self.walker.page_shift(),
            high: (high != 0).then_some(high),
        }
    }

    /// Loads a root on a CPU, as CR3 or TTBR are loaded. Without tags (asid
    /// zero), what is not global is dropped.
    pub fn load(&self, cpu: usize, loaded: Option<Loaded>) {
        let remembered = match loaded {
            Some(Loaded { asid: 1.., .. }) => Remembered::Current,
            _ => Remembered::Stale,
        };
        self.load_tagged(cpu, loaded, remembered);
    }

    /// Loads a root on a CPU, and drops what is remembered under its tag when
    /// that is stale. Nothing loaded is tag zero.
    ///
    /// # Panics
    /// When the CPU remembers what it must not use.
    pub fn load_tagged(&self, cpu: usize, loaded: Option<Loaded>, remembered: Remembered) {
        let n = cpu;
        let mut cpu = self.cpu(cpu);
        let asid = loaded.map_or(0, |l| l.asid);
        if remembered == Remembered::Stale {
            cpu.leaves.retain(|(tag, leaf)| leaf.global || *tag != asid);
            cpu.tables.retain(|(tag, _)| *tag != asid);
            cpu.invalid.retain(|(tag, _, _)| *tag != asid);
        }
        cpu.loaded = loaded;
        self.use_users(n, &mut cpu);
    }

    /// Goes on with a kernel thread on the root that is loaded.
    pub fn lend(&self, cpu: usize) {
        self.cpu(cpu).runs = Runs::KernelThread;
    }

    /// Runs users again on the root that is loaded.
    ///
    /// # Panics
    /// When the CPU remembers what was freed meanwhile.
    pub fn take_back(&self, cpu: usize) {
        let n = cpu;
        self.use_users(n, &mut self.cpu(cpu));
    }

    /// From here on everything under the loaded tag may be used.
    fn use_users(&self, n: usize, cpu: &mut Cpu) {
        cpu.runs = Runs::Users;
        let asid = cpu.loaded.map_or(0, |l| l.asid);
        let freed = std::mem::take(&mut cpu.freed);
        for (tag, pfn) in freed {
            let leaf = cpu.leaves.iter().find(|(t, l)| *t == tag && leads(l, pfn));
            let table = cpu
                .tables
                .iter()
                .find(|(t, step)| *t == tag && self.holds(step, pfn));
            assert!(
                tag != asid || (leaf.is_none() && table.is_none()),
                "seed {}: CPU {n} missed that {pfn} was freed: {leaf:x?} {table:x?}",
                self.seed
            );
            if leaf.is_some() || table.is_some() {
                cpu.freed.push((tag, pfn));
            }
        }
    }

    /// Whether a table stands in a frame.
    fn holds(&self, step: &Step, frame: Pfn) -> bool {
        let (shift, frame) = (self.walker.page_shift(), frame.as_u64());
        step.table >> shift <= frame && frame <= (step.table + step.bytes - 1) >> shift
    }

    /// Accesses a page on a CPU; `then` runs with the frame while the
    /// translation surely holds.
    ///
    /// # Errors
    /// The [`Refusal`]: a page fault.
    ///
    /// # Panics
    /// When the CPU runs nothing.
    pub fn access<R>(
        &self,
        ram: &Arena,
        cpu: usize,
        page: Vpn,
        access: Access,
        mode: Mode,
        then: impl FnOnce(Pfn) -> R,
    ) -> Result<R, Refusal> {
        let n = cpu;
        let mut cpu = self.cpu(n);
        let leaf = self.translate(ram, &mut cpu, page.as_usize(), access, mode)?;
        let frame = Pfn::new(leaf.frame + (page.as_usize() - leaf.page) as u64);
        if access == Access::Exec {
            self.fetch(ram, n, &mut cpu, frame);
        }
        if access == Access::Write && self.executes(ram, n, &cpu, frame) {
            return Ok(own_code(|| then(frame)));
        }
        Ok(then(frame))
    }

    /// Fetches from a frame through the instruction cache.
    fn fetch(&self, ram: &Arena, n: usize, cpu: &mut Cpu, frame: Pfn) {
        if self.walker.coherent_code() {
            return;
        }
        let (code, written) = ram.code_versions(frame);
        let held = *cpu.code.entry(frame.as_u64()).or_insert(code);
        assert!(
            held == written,
            "seed {}: CPU {n} fetches old bytes from {frame}: version {held} of {written}",
            self.seed
        );
    }

    /// Returns whether any CPU may execute from a frame right now. Another CPU
    /// that is busy may.
    fn executes(&self, ram: &Arena, n: usize, cpu: &Cpu, frame: Pfn) -> bool {
        if self.walker.coherent_code() || ram.code_versions(frame).0 == 0 {
            return false;
        }
        let runs = |cpu: &Cpu| {
            cpu.leaves.iter().any(|(_, l)| {
                let exec = l.rights.user.exec || l.rights.kernel.exec;
                let below = frame.as_u64().checked_sub(l.frame);
                exec && below.is_some_and(|below| below < l.pages as u64)
            })
        };
        let others = self.cpus.iter().enumerate().filter(|(i, _)| *i != n);
        runs(cpu)
            || others
                .into_iter()
                .any(|(_, c)| c.try_lock().map_or(true, |c| runs(&c)))
    }

    /// Lets a CPU walk to a page without an access, as prefetchers do.
    pub fn speculate(&self, ram: &Arena, cpu: usize, page: Vpn) {
        let mut cpu = self.cpu(cpu);
        if cpu.loaded.is_none() {
            return;
        }
        for mode in [Mode::User, Mode::Kernel] {
            let _fault = self.translate(ram, &mut cpu, page.as_usize(), Access::Read, mode);
        }
    }

    fn translate(
        &self,
        ram: &Arena,
        cpu: &mut Cpu,
        page: usize,
        access: Access,
        mode: Mode,
    ) -> Result<Leaf, Refusal> {
        let result = self.look_up(ram, cpu, page, access, mode);
        if result.is_err() && self.walker.fault_drops_entry() {
            // Translations and the tables on the way to the page: so that a
            // fault that was spurious does not come again.
            let asid = cpu.loaded.map_or(0, |l| l.asid);
            cpu.leaves.retain(|(tag, l)| {
                !((*tag == asid || l.global) && l.page <= page && page - l.page < l.pages)
            });
            cpu.tables
                .retain(|(tag, t)| !(*tag == asid && t.spans(page)));
        }
        result
    }

    fn look_up(
        &self,
        ram: &Arena,
        cpu: &mut Cpu,
        page: usize,
        access: Access,
        mode: Mode,
    ) -> Result<Leaf, Refusal> {
        let loaded = cpu.loaded.expect("the CPU runs nothing");
        assert!(
            cpu.runs == Runs::Users || mode == Mode::Kernel,
            "seed {}: a CPU that was lent runs a user",
            self.seed
        );
        let mine = |asid: u16, global: bool| asid == loaded.asid || global;
        cpu.dice = cpu.dice.wrapping_add(1);
        let hit = cpu.leaves.iter().position(|(asid, l)| {
            mine(*asid, l.global) && l.page <= page && page - l.page < l.pages
        });
        if let Some(i) = hit {
            let leaf = cpu.leaves[i].1;
            self.scream_if_replaced(ram, loaded, leaf, page, mode);
            leaf.rights.check(access, mode)?;
            if access != Access::Write || leaf.dirty {
                return Ok(leaf);
            }
            // A store through a clean translation walks again to set dirty.
            cpu.leaves.remove(i);
        }
        let remembered = |(asid, at, _): &&(u16, usize, u8)| (*asid, *at) == (loaded.asid, page);
        if let Some((_, _, level)) = cpu.invalid.iter().find(remembered) {
            return Err(Refusal::NotPresent(*level));
        }
        // Begin at the root, or at any remembered table: by turns.
        let mut starts = vec![self.walker.start(self.roots(loaded), page)?];
        starts.extend(
            cpu.tables
                .iter()
                .filter_map(|(asid, t)| (*asid == loaded.asid && t.spans(page)).then_some(*t)),
        );
        let start = starts[(cpu.dice as usize) % starts.len()];
        let mut trail = Vec::new();
        let result = self.walker.walk(ram, start, page, access, mode, &mut trail);
        for step in trail {
            if !cpu.tables.contains(&(loaded.asid, step)) {
                cpu.tables.push((loaded.asid, step));
            }
        }
        match result {
            Ok(leaf) => {
                let end = leaf.page + leaf.pages;
                let other = cpu.leaves.iter().find(|(asid, l)| {
                    mine(*asid, l.global) && l.page < end && leaf.page < l.page + l.pages
                });
                assert!(
                    other.is_none() || !self.walker.aborts_on_conflict(),
                    "seed {}: TLB conflict: {leaf:x?} beside {other:x?}",
                    self.seed
                );
                cpu.leaves.push((loaded.asid, leaf));
                Ok(leaf)
            }
            Err(fault) => {
                if let Refusal::NotPresent(level) = fault {
                    if self.walker.caches_invalid_at(level) {
                        cpu.invalid.push((loaded.asid, page, level));
                    }
                }
                Err(fault)
            }
        }
    }

    /// A CPU may walk again to a page that it has a translation of. Where two
    /// unlike ones are an error, the words must still lead to the same frame
    /// by an entry of the same size, or nowhere: rights alone may change.
    fn scream_if_replaced(&self, ram: &Arena, loaded: Loaded, leaf: Leaf, page: usize, mode: Mode) {
        if !self.walker.aborts_on_conflict() {
            return;
        }
        let Ok(start) = self.walker.start(self.roots(loaded), page) else {
            return;
        };
        let again = self
            .walker
            .walk(ram, start, page, Access::Read, mode, &mut Vec::new());
        if let Ok(now) = again {
            let place = |l: Leaf| (l.page, l.pages, l.frame, l.memory);
            assert!(
                place(now) == place(leaf),
                "seed {}: TLB conflict: {now:x?} replaced {leaf:x?} without a break",
                self.seed
            );
        }
    }

    /// Returns the translations that a CPU remembers for a page.
    pub fn remembered(&self, cpu: usize, page: Vpn) -> Vec<Leaf> {
        let page = page.as_usize();
        let cpu = self.cpu(cpu);
        let spans = |l: &Leaf| l.page <= page && page - l.page < l.pages;
        cpu.leaves.iter().map(|(_, l)| *l).filter(spans).collect()
    }

    /// Returns what a CPU runs and every translation that it remembers. A CPU
    /// that was lent uses none, and may miss flushes.
    pub fn contents(&self, cpu: usize) -> (Option<Loaded>, Vec<(u16, Leaf)>) {
        let cpu = self.cpu(cpu);
        if cpu.runs == Runs::KernelThread {
            return (cpu.loaded, Vec::new());
        }
        (cpu.loaded, cpu.leaves.clone())
    }

    /// Returns the hardware that walks.
    pub fn walker(&self) -> &W {
        &self.walker
    }

    /// Returns the number of CPUs.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    fn scream_if_reachable(&self, freed: Pfn) {
        for (n, cpu) in self.cpus.iter().enumerate() {
            let mut cpu = cpu
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let asid = cpu.loaded.map(|l| l.asid);
            let users = cpu.runs == Runs::Users;
            let mut later = Vec::new();
            for (tag, leaf) in cpu.leaves.iter().filter(|(_, l)| leads(l, freed)) {
                let usable = leaf.global || (users && asid == Some(*tag));
                assert!(
                    !usable,
                    "seed {}: {freed} is freed while CPU {n} still translates to it: {leaf:x?}",
                    self.seed
                );
                later.push((*tag, freed));
            }
            for (tag, table) in cpu.tables.iter().filter(|(_, t)| self.holds(t, freed)) {
                assert!(
                    asid != Some(*tag),
                    "seed {}: {freed} is freed while CPU {n} still walks through it: {table:x?}",
                    self.seed
                );
                later.push((*tag, freed));
            }
            cpu.freed.append(&mut later);
            if let Some(l) = cpu.loaded {
                let root = self.walker.start(self.roots(l), 0);
                assert!(
                    !root.is_ok_and(|root| self.holds(&root, freed)),
                    "seed {}: the root of CPU {n} is freed",
                    self.seed
                );
            }
        }
    }
}

/// Whether a translation leads to a frame.
fn leads(leaf: &Leaf, frame: Pfn) -> bool {
    let frame = frame.as_u64();
    leaf.frame <= frame && frame - leaf.frame < leaf.pages as u64
}

fn meets(range: PageRange, page: usize, pages: usize) -> bool {
    range.overlaps(PageRange::new(
        Vpn::new(page),
        Vpn::new(page.saturating_add(pages)),
    ))
}

impl<W: Walker> FlushHook for SoftTlbs<W> {
    fn forget_code(&self, frame: Pfn) {
        for n in 0..self.cpus.len() {
            self.cpu(n).code.remove(&frame.as_u64());
        }
    }

    fn flush(&self, cpus: CpuSet, flush: Flush) {
        for n in cpus.iter().filter(|&n| n < self.cpus.len()) {
            let mut cpu = self.cpu(n);
            let tag_meets = |asid: u16| flush.asid.is_none_or(|f| f == asid);
            let page_meets = |page, pages| flush.pages.is_none_or(|r| meets(r, page, pages));
            cpu.leaves.retain(|(asid, l)| {
                // One space's flush of everything leaves global ones alone; one
                // of single pages need not, but hardware is free to.
                let named = tag_meets(*asid) && !(l.global && flush.asid.is_some());
                !(named && page_meets(l.page, l.pages))
            });
            // A flush of pages reaches leaves; that a table was missing, hardware is
            // free to remember until tables are flushed.
            cpu.invalid.retain(|(asid, page, level)| {
                let reached = *level == 1 || flush.tables;
                !(tag_meets(*asid) && page_meets(*page, 1) && reached)
            });
            if flush.tables {
                cpu.tables
                    .retain(|(asid, t)| !(tag_meets(*asid) && page_meets(t.page, t.pages)));
            }
        }
    }
}

impl<W: Walker> FreeHook for SoftTlbs<W> {
    fn freed(&self, pfn: Pfn) {
        self.scream_if_reachable(pfn);
    }
}
