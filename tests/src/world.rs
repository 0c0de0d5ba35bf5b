//! The world: a machine with CPUs, software MMU and TLBs, files and programs.
//!
//! ```text
//!  test ──► World::store(cpu, space, addr, bytes)
//!             │ loads the space on the CPU
//!             ▼
//!           SoftTlbs::access ──refused──► AddressSpace::fault ──┬─ Resolved: again
//!             │ frame                                           ├─ Wait: the world's pager reads
//!             ▼                                                 └─ Signal, OutOfMemory: to the test
//!           bytes of the arena
//! ```
//!
//! Whatever a test does goes through the library's public API, and through
//! real page-table words read by a walker that knows nothing of the library.
//! A world leaks its machine, unless it is disposed of: tests are short.

use crate::format::{AnyFormat, AnyWalker, forbids_exec};
use crate::mmu::{Mode as CpuMode, Walker};
use crate::platform::{TestPlatform, on_cpu};
use crate::tlb::{Loaded, SoftTlbs};
use crate::watch::give_way;
use mm_core::Mm;
use mm_core::addr::{Pfn, VirtAddr};
use mm_core::error::MmError;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::format::PageTableFormat;
use mm_core::object::{ObjectRef, PagerFacts, Progress, Ticket, TicketError};
use mm_core::platform::PhysMemory;
use mm_core::prot::Access;
use mm_core::space::{Active, AddressSpace, Root, SpaceLimits};
use mm_core::sync::NoContext;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The machine of a world.
pub type TestMm<F = AnyFormat> = Mm<TestPlatform<F>>;
/// An address space of a world.
pub type Space<F = AnyFormat> = AddressSpace<'static, TestPlatform<F>>;
/// An object of a world.
pub type File<F = AnyFormat> = ObjectRef<'static, TestPlatform<F>>;

/// Returns the bytes of a page of a space's machine.
pub fn page_size<F: PageTableFormat>(space: &Space<F>) -> usize {
    1 << space.mm().frames().page_shift()
}

/// Why an access of a simulated program did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// The kernel would send a signal.
    Signal(Signal),
    /// No memory.
    OutOfMemory,
    /// The store of what is mapped there is full.
    NoSpace,
    /// The library says that the kernel is wrong.
    KernelBug,
}

/// errno(3): the transfer failed.
pub const EIO: i32 = 5;

/// Faults on one access after which others get their turn: a flush that
/// another CPU is about to send may be what is missing.
const HASTE: usize = 8;
/// Faults on one access after which it counts as a livelock (D1).
const PATIENCE: usize = 2000;

/// Bits of so few hardware tags that tests use them up: twice as many tags as
/// CPUs, and eight at least.
fn few_tags(cpus: usize) -> u32 {
    (2 * cpus).max(8).next_power_of_two().trailing_zeros()
}

/// A machine with CPUs and files. Of any format unless the type says which:
/// see [`crate::machine`].
pub struct World<F: PageTableFormat = AnyFormat, W: Walker = AnyWalker> {
    mm: &'static TestMm<F>,
    tlbs: Arc<SoftTlbs<W>>,
    loaded: Vec<Mutex<Option<Active<'static, TestPlatform<F>>>>>,
    files: Mutex<HashMap<u64, Vec<u8>>>,
    boot_free: usize,
    /// The machine again, as it was leaked.
    leaked: usize,
}

impl<F: PageTableFormat, W: Walker> World<F, W> {
    /// Makes a machine with `frames` frames of RAM and `cpus` CPUs. `seed` is
    /// printed when the TLBs find something wrong.
    ///
    /// # Panics
    /// When the RAM is too small for its own records.
    pub fn new(format: F, walker: W, frames: usize, cpus: usize, seed: u64) -> Self {
        Self::at(format, walker, (16, frames), cpus, seed)
    }

    /// As [`Self::new`], with RAM elsewhere: the first frame, and how many.
    ///
    /// # Panics
    /// When the RAM is too small for its own records.
    pub fn at(format: F, walker: W, ram: (u64, usize), cpus: usize, seed: u64) -> Self {
        let (first, frames) = ram;
        let leaked = Box::into_raw(Box::new(Mm::new(TestPlatform::new(format, first, frames))));
        // SAFETY: nobody takes it back but `dispose`, whose caller promises that
        // nobody looks any more.
        let mm: &'static TestMm<F> = unsafe { &*leaked };
        mm.frames()
            .add_region(&NoContext, Pfn::new(first), frames as u64)
            .unwrap();
        mm.frames().add_cpus(&NoContext, cpus).unwrap();
        mm.frames().init_zero_page(&NoContext).unwrap();
        if walker.has_tags() {
            mm.platform().set_asid_bits(few_tags(cpus));
        }
        let tlbs = Arc::new(SoftTlbs::new(walker, cpus, seed));
        mm.platform().set_flush_hook(tlbs.clone());
        // The look into every CPU's TLB, by its lock, would order the CPUs: what it
        // finds, ThreadSanitizer finds as a race with the poison.
        if !cfg!(mm_tsan) {
            mm.platform().arena().set_free_hook(tlbs.clone());
        }
        let boot_free = mm.frames().free_frames();
        let loaded = (0..cpus).map(|_| Mutex::new(None)).collect();
        Self {
            mm,
            tlbs,
            loaded,
            files: Mutex::default(),
            boot_free,
            leaked: leaked.expose_provenance(),
        }
    }

    /// Returns the machine.
    pub fn mm(&self) -> &'static TestMm<F> {
        self.mm
    }

    /// Returns log2 of the page size.
    pub fn page_shift(&self) -> u32 {
        self.mm.frames().page_shift()
    }

    /// Returns the size of a page in bytes.
    pub fn page_size(&self) -> usize {
        1 << self.page_shift()
    }

    /// Returns the platform: failing allocations, logs.
    pub fn platform(&self) -> &'static TestPlatform<F> {
        self.mm.platform()
    }

    /// Returns the TLBs.
    pub fn tlbs(&self) -> &SoftTlbs<W> {
        &self.tlbs
    }

    /// Makes an empty space with the format's default limits.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn space(&self) -> Space<F> {
        let limits = SpaceLimits::for_format(mm_core::platform::Platform::format(self.platform()));
        AddressSpace::new(self.mm, limits).expect("a space")
    }

    /// Makes a file with these bytes.
    ///
    /// # Panics
    /// When there is no memory, or the key is taken.
    pub fn file(&self, key: u64, bytes: &[u8]) -> File<F> {
        let old = self.files.lock().unwrap().insert(key, bytes.to_vec());
        assert!(old.is_none(), "file {key} exists");
        self.mm
            .new_object(PagerFacts::file(key, bytes.len() as u64))
            .expect("an object")
    }

    /// Makes a file, in place of an earlier one that nobody has open any more.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn file_again(&self, key: u64, bytes: &[u8]) -> File<F> {
        self.files.lock().unwrap().remove(&key);
        self.file(key, bytes)
    }

    /// Sets the size of a file, on the disk and in memory.
    ///
    /// # Panics
    /// When it is too big.
    pub fn resize(&self, file: &File<F>, size: usize) {
        file.set_size(size as u64).expect("a size");
        let key = file.object().key();
        if let Some(bytes) = self.files.lock().unwrap().get_mut(&key) {
            bytes.resize(size, 0);
        }
    }

    /// Does what a ticket asks for: reads from the file, or nothing when
    /// someone else's transfer is awaited.
    ///
    /// # Errors
    /// [`TicketError`] when the platform lets this transfer fail: who started it
    /// answers for it, and must not try for ever.
    pub fn serve(&self, ticket: Ticket<'static, TestPlatform<F>>) -> Result<(), TicketError> {
        match ticket {
            Ticket::Start(mut io) => {
                let size = 1usize << self.page_shift();
                // Nobody else's turn may come while the host's lock is held.
                let key = io.key();
                let file = self.files.lock().unwrap().get(&key).cloned();
                let file = file.unwrap_or_default();
                let at = io.pgoff() as usize * size;
                let end = (at + size).min(file.len());
                if at < end {
                    io.fill(0, &file[at..end]);
                }
                let ended = self.platform().transfer();
                io.finish(ended);
                return ended;
            }
            Ticket::Join(_) => give_way(),
            Ticket::Memory(_) => {}
        }
        Ok(())
    }

    /// Runs a verb that may have to wait, on a CPU, until it has done `len`
    /// bytes or stops; returns how many.
    ///
    /// # Errors
    /// The errno when nothing could be done; `EIO` after a failed transfer.
    pub fn finish(
        &self,
        cpu: usize,
        at: usize,
        len: usize,
        mut verb: impl FnMut(usize, usize) -> Result<Progress<'static, TestPlatform<F>>, MmError>,
    ) -> Result<usize, i32> {
        let mut done = 0;
        loop {
            match self.verb(cpu, || verb(at + done, len - done)) {
                Ok(progress) => {
                    done += progress.done;
                    match progress.wait {
                        Some(ticket) if done < len => match self.verb(cpu, || self.serve(ticket)) {
                            Ok(()) => {}
                            Err(TicketError) if done == 0 => return Err(EIO),
                            Err(TicketError) => return Ok(done),
                        },
                        _ => return Ok(done),
                    }
                }
                Err(error) if done == 0 => return Err(error.errno()),
                Err(_) => return Ok(done),
            }
        }
    }

    /// Runs a verb on a CPU, in the kernel: see [`crate::interrupts`].
    pub fn verb<R>(&self, cpu: usize, f: impl FnOnce() -> R) -> R {
        on_cpu(cpu, || self.platform().in_kernel(f))
    }

    /// Runs `space` on a CPU.
    pub fn run(&self, cpu: usize, space: &Space<F>) {
        let mut slot = self.loaded[cpu].lock().unwrap();
        self.verb(cpu, || {
            let load = |root: Root| {
                let root_pfn = root.table.pfn(self.page_shift());
                let loaded = Loaded {
                    root: root_pfn,
                    asid: root.asid,
                };
                self.tlbs.load_tagged(cpu, Some(loaded), root.remembered);
            };
            // SAFETY: the slot is the CPU's, the root is loaded, and `idle` takes it
            // from the CPU before it drops what is in the slot.
            unsafe { space.switch(&mut slot, load) };
        });
        self.tlbs.take_back(cpu);
    }

    /// Runs a kernel thread on a CPU, on the root that it has loaded.
    pub fn lend(&self, cpu: usize) {
        let mut slot = self.loaded[cpu].lock().unwrap();
        if let Some(active) = slot.as_mut() {
            self.tlbs.lend(cpu);
            self.verb(cpu, || active.lazy());
        }
    }

    /// Runs nothing on a CPU.
    pub fn idle(&self, cpu: usize) {
        let mut slot = self.loaded[cpu].lock().unwrap();
        self.tlbs.load(cpu, None);
        self.verb(cpu, || drop(slot.take()));
    }

    /// Lets the program of `space` on `cpu` load bytes.
    ///
    /// # Errors
    /// [`Stopped`] at the first byte that cannot be had.
    pub fn load(
        &self,
        cpu: usize,
        space: &Space<F>,
        addr: usize,
        bytes: &mut [u8],
    ) -> Result<(), Stopped> {
        let ram = self.platform().arena();
        let mut done = 0;
        self.each_page(addr, bytes.len(), |at, offset, len| {
            let part = &mut bytes[done..done + len];
            done += len;
            self.access(cpu, space, at, Access::Read, |pfn| {
                ram.read(pfn, offset, part)
            })
        })
    }

    /// Lets the program store bytes.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn store(
        &self,
        cpu: usize,
        space: &Space<F>,
        addr: usize,
        bytes: &[u8],
    ) -> Result<(), Stopped> {
        let ram = self.platform().arena();
        let mut done = 0;
        self.each_page(addr, bytes.len(), |at, offset, len| {
            let part = &bytes[done..done + len];
            done += len;
            self.access(cpu, space, at, Access::Write, |pfn| {
                ram.write(pfn, offset, part)
            })
        })
    }

    /// Lets the program fetch an instruction.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn fetch(&self, cpu: usize, space: &Space<F>, addr: usize) -> Result<(), Stopped> {
        self.access(cpu, space, addr, Access::Exec, |_| ())
    }

    /// Loads one byte.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn peek(&self, cpu: usize, space: &Space<F>, addr: usize) -> Result<u8, Stopped> {
        let mut byte = [0];
        self.load(cpu, space, addr, &mut byte)?;
        Ok(byte[0])
    }

    /// Stores one byte.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn poke(&self, cpu: usize, space: &Space<F>, addr: usize, byte: u8) -> Result<(), Stopped> {
        self.store(cpu, space, addr, &[byte])
    }

    fn each_page(
        &self,
        addr: usize,
        len: usize,
        mut f: impl FnMut(usize, usize, usize) -> Result<(), Stopped>,
    ) -> Result<(), Stopped> {
        let size = 1usize << self.page_shift();
        let mut at = addr;
        while at < addr + len {
            let offset = at % size;
            let part = (size - offset).min(addr + len - at);
            f(at, offset, part)?;
            at += part;
        }
        Ok(())
    }

    /// Returns what a fault of this access says that it was: where hardware
    /// cannot forbid fetches, it does not say that it was one (Intel SDM 3A, 4.7).
    fn reported(&self, access: Access) -> Access {
        let format = mm_core::platform::Platform::format(self.platform());
        if access == Access::Exec && !forbids_exec(format) {
            return Access::Read;
        }
        access
    }

    /// One access of a page, with its faults.
    fn access(
        &self,
        cpu: usize,
        space: &Space<F>,
        addr: usize,
        access: Access,
        mut then: impl FnMut(Pfn),
    ) -> Result<(), Stopped> {
        self.run(cpu, space);
        let page = VirtAddr::new(addr).vpn(self.page_shift());
        let ram = self.platform().arena();
        let mut last = None;
        let mut turn = 0;
        while turn < PATIENCE {
            turn += 1;
            if turn > HASTE {
                give_way();
            }
            let hit = self
                .tlbs
                .access(ram, cpu, page, access, CpuMode::User, &mut then);
            match hit {
                Ok(()) => return Ok(()),
                Err(refusal) => last = Some(refusal),
            }
            let fault = Fault {
                addr: VirtAddr::new(addr),
                access: self.reported(access),
                mode: Mode::User,
            };
            match self.verb(cpu, || space.fault(&fault)) {
                FaultOutcome::Resolved(_) => {}
                FaultOutcome::Wait(ticket) => {
                    // How long another CPU's transfer takes is the host's choice.
                    if matches!(ticket, Ticket::Join(_)) {
                        turn -= 1;
                    }
                    if self.verb(cpu, || self.serve(ticket)).is_err() {
                        let at = VirtAddr::new(addr);
                        return Err(Stopped::Signal(Signal::BusAdrErr(at)));
                    }
                }
                FaultOutcome::Signal(signal) => return Err(Stopped::Signal(signal)),
                FaultOutcome::OutOfMemory => return Err(Stopped::OutOfMemory),
                FaultOutcome::NoSpace => return Err(Stopped::NoSpace),
                FaultOutcome::KernelBug => return Err(Stopped::KernelBug),
            }
        }
        panic!("{access:?} at {addr:#x} faults for ever: {last:?}");
    }

    /// Checks that nothing is left of all programs and files: every pool is
    /// empty, every frame free, preemption allowed, nothing charged.
    ///
    /// # Panics
    /// When something is.
    pub fn assert_empty(&self) {
        for cpu in 0..self.loaded.len() {
            self.idle(cpu);
        }
        self.mm.drain();
        let usage = self.mm.usage();
        assert!(usage.is_clean(), "left over: {usage:?}");
        assert_eq!(usage.pool_frames, 0, "slabs left: {usage:?}");
        assert_eq!(
            self.mm.frames().free_frames(),
            self.boot_free,
            "frames leaked: {usage:?}"
        );
        assert_eq!(self.platform().charged(), 0, "charges left");
        assert_eq!(self.platform().held_by_all(), 0, "pages of stores left");
        self.platform().assert_preemptible();
    }

    /// Checks that nothing is left, and gives the machine back to the host: for
    /// tests that make thousands.
    ///
    /// # Panics
    /// As [`Self::assert_empty`].
    ///
    /// # Safety
    /// No reference to the machine is kept: none from [`Self::mm`] or
    /// [`Self::platform`]. Spaces and files cannot be: they would be left over.
    pub unsafe fn dispose(self) {
        self.assert_empty();
        let machine = std::ptr::with_exposed_provenance_mut::<TestMm<F>>(self.leaked);
        drop(self);
        // SAFETY: it was leaked in `new`, once, and this is the only way back; by the
        // caller's promise, and because no space, object or CPU has it, nobody looks.
        drop(unsafe { Box::from_raw(machine) });
    }
}

impl<F: PageTableFormat, W: Walker> Drop for World<F, W> {
    /// Takes the spaces off the CPUs; after a failure they stay where they
    /// are, because half of a verb was done.
    fn drop(&mut self) {
        for cpu in 0..self.loaded.len() {
            if std::thread::panicking() {
                let slot = self.loaded[cpu].get_mut();
                std::mem::forget(slot.unwrap_or_else(PoisonError::into_inner).take());
            } else {
                self.idle(cpu);
            }
        }
    }
}
