//! A platform with simulated CPUs.
//!
//! A host thread is a CPU while it runs inside [`on_cpu`]; a test that does not
//! care is CPU 0. The platform counts and checks what a kernel must get right
//! (preemption balances, waits end), fails allocations on demand, and records
//! flushes and wake-ups. A software TLB plugs in as a [`FlushHook`].

use crate::arena::Arena;
use crate::interrupts::{Interrupts, Open};
use crate::plug::{COUNT, Plug};
use crate::watch::give_way;
use mm_core::addr::Pfn;
use mm_core::error::{NoSpace, OutOfMemory};
use mm_core::format::PageTableFormat;
use mm_core::object::{TicketError, TicketKey};
use mm_core::page::Frames;
use mm_core::platform::{CpuSet, Flush, MAX_CPUS, Platform};
use mm_core::sync::{NoContext, Rank};
use mm_core::tlb::AsidPool;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Runs `f` as CPU `cpu`. Two threads must not be the same CPU at once.
pub fn on_cpu<R>(cpu: usize, f: impl FnOnce() -> R) -> R {
    assert!(cpu < MAX_CPUS);
    let before = CPU.replace(cpu);
    let result = f();
    CPU.set(before);
    result
}

/// Lets the calling thread go on as another CPU: where preemption is allowed, in
/// [`TestPlatform::preempt_nth`].
pub fn move_to(cpu: usize) {
    assert!(cpu < MAX_CPUS);
    CPU.set(cpu);
}

/// Runs `f`, in which other CPUs of the same host thread get their turn.
#[cfg(mm_watched)]
pub(crate) fn keeping_cpu(f: impl FnOnce()) {
    let cpu = CPU.get();
    f();
    CPU.set(cpu);
}

/// Who wants to see flushes: the software TLB.
pub trait FlushHook: Send + Sync {
    /// Drops what a real TLB would drop on these CPUs.
    fn flush(&self, cpus: CpuSet, flush: Flush);
    /// Drops what every CPU's instruction cache holds of a frame.
    fn forget_code(&self, _frame: Pfn) {}
}

/// What another CPU does at a chosen moment.
type Interruption = Box<dyn FnOnce() + Send>;

/// One allocation that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// A block of frames of this order.
    Frames(u8),
    /// A node of this pool.
    Node(&'static str),
}

/// The simulated machine around the library.
pub struct TestPlatform<F: PageTableFormat> {
    format: F,
    arena: Arena,
    preemption: Vec<AtomicI64>,
    /// Allocations asked for since the last reset.
    asked: AtomicU64,
    /// The number of the allocation that fails (one is the next), zero: none.
    fail: AtomicU64,
    /// How many fail from there on.
    fail_count: AtomicU64,
    /// The number of the transfer that fails (one is the next), zero: none; and transfers since.
    fail_transfer: AtomicU64,
    transfers: AtomicU64,
    log: Mutex<Log>,
    hook: Plug<dyn FlushHook>,
    at_allocation: Mutex<Option<(u64, Interruption)>>,
    at_flush: Mutex<Option<Interruption>>,
    /// Whether there ever was one of the two above.
    has_interruption: AtomicBool,
    at_preemption: Mutex<Option<(u64, Interruption)>>,
    has_preemption: AtomicBool,
    relaxes: AtomicU64,
    /// CPUs that somebody else runs on while they wait.
    put_aside: AtomicU64,
    interrupts: OnceLock<Interrupts>,
    log_locks: AtomicBool,
    charged: AtomicI64,
    charge_limit: AtomicI64,
    /// The most pages that may be committed at once.
    committable: AtomicU64,
    /// Of each store, the pages that it holds and may hold.
    stores: Mutex<BTreeMap<u64, (usize, usize)>>,
    asids: AsidPool,
}

/// What happened on a machine.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Flushes, in order.
    pub flushes: Vec<(CpuSet, Flush)>,
    /// Tickets that were finished.
    pub wakes: Vec<TicketKey>,
    /// Frames whose instructions were made visible.
    pub synced: Vec<Pfn>,
    /// Allocations that were made to fail.
    pub failed: Vec<Allocation>,
    /// Locks that were taken, while [`TestPlatform::log_locks`] is on.
    pub locks: Vec<Rank>,
}

impl<F: PageTableFormat> TestPlatform<F> {
    /// Makes a machine with RAM at frames `first..first + frames`.
    pub fn new(format: F, first: u64, frames: usize) -> Self {
        Self {
            format,
            arena: Arena::new(first, frames, format.page_shift()),
            preemption: (0..MAX_CPUS).map(|_| AtomicI64::new(0)).collect(),
            asked: AtomicU64::new(0),
            fail: AtomicU64::new(0),
            fail_count: AtomicU64::new(1),
            fail_transfer: AtomicU64::new(0),
            transfers: AtomicU64::new(0),
            log: Mutex::default(),
            hook: Plug::default(),
            at_allocation: Mutex::default(),
            at_flush: Mutex::default(),
            has_interruption: AtomicBool::new(false),
            at_preemption: Mutex::default(),
            has_preemption: AtomicBool::new(false),
            relaxes: AtomicU64::new(0),
            put_aside: AtomicU64::new(0),
            interrupts: OnceLock::new(),
            log_locks: AtomicBool::new(false),
            charged: AtomicI64::new(0),
            charge_limit: AtomicI64::new(i64::MAX),
            committable: AtomicU64::new(u64::MAX),
            stores: Mutex::default(),
            asids: AsidPool::new(),
        }
    }

    /// Makes a machine and gives it all of its RAM.
    ///
    /// # Panics
    /// When the RAM is too small for its own records.
    pub fn machine(format: F, first: u64, frames: usize) -> Frames<Self> {
        let machine = Frames::new(Self::new(format, first, frames));
        machine
            .add_region(&NoContext, Pfn::new(first), frames as u64)
            .unwrap();
        machine
    }

    /// Returns the RAM.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Lets the `nth` allocation from now fail (one is the next), and only it.
    pub fn fail_nth(&self, nth: u64) {
        self.fail_from(nth, 1);
    }

    /// Lets `count` allocations fail, beginning with the `nth` from now.
    pub fn fail_from(&self, nth: u64, count: u64) {
        self.asked.store(0, Ordering::SeqCst);
        self.fail_count.store(count, Ordering::SeqCst);
        self.fail.store(nth, Ordering::SeqCst);
    }

    /// Lets nothing fail any more; returns how many allocations were asked for
    /// since failing was set up or this was last called.
    pub fn fail_none(&self) -> u64 {
        self.fail.store(0, Ordering::SeqCst);
        self.asked.swap(0, Ordering::SeqCst)
    }

    /// Lets the `nth` transfer from now fail (one is the next), and only it.
    pub fn fail_transfer(&self, nth: u64) {
        self.transfers.store(0, Ordering::SeqCst);
        self.fail_transfer.store(nth, Ordering::SeqCst);
    }

    /// Lets no transfer fail any more; returns how many there were since failing was set up or
    /// this was last called.
    pub fn fail_no_transfer(&self) -> u64 {
        self.fail_transfer.store(0, Ordering::SeqCst);
        self.transfers.swap(0, Ordering::SeqCst)
    }

    #[cfg(not(loom))]
    /// Counts a transfer.
    ///
    /// # Errors
    /// [`TicketError`] when it is the one to fail.
    pub(crate) fn transfer(&self) -> Result<(), TicketError> {
        let n = self.transfers.fetch_add(1, COUNT) + 1;
        if n == self.fail_transfer.load(Ordering::SeqCst) {
            Err(TicketError)
        } else {
            Ok(())
        }
    }

    /// Runs `f` in the middle of the verb that asks for the `nth` allocation
    /// from now (one is the next): a race that comes out the same each time.
    /// No lock of the library is held there except outer ones.
    pub fn interrupt_nth(&self, nth: u64, f: impl FnOnce() + Send + 'static) {
        *self.at_allocation.lock().unwrap() = Some((nth, Box::new(f)));
        self.has_interruption.store(true, Ordering::SeqCst);
    }

    /// Runs `f` in the middle of the next flush, before any CPU forgets.
    pub fn interrupt_flush(&self, f: impl FnOnce() + Send + 'static) {
        *self.at_flush.lock().unwrap() = Some(Box::new(f));
        self.has_interruption.store(true, Ordering::SeqCst);
    }

    /// Runs `f` just before preemption is forbidden, or a flush begins where it is allowed, for
    /// the `nth` time from now (one is the next): as if the verb were preempted there. No inner lock is held
    /// and no epoch is pinned, but outer locks may be.
    pub fn preempt_nth(&self, nth: u64, f: impl FnOnce() + Send + 'static) {
        *self.at_preemption.lock().unwrap() = Some((nth, Box::new(f)));
        self.has_preemption.store(true, Ordering::SeqCst);
    }

    /// Takes back a preemption that has not come; returns whether there was one.
    pub fn preempt_no_more(&self) -> bool {
        self.has_preemption.store(false, Ordering::SeqCst);
        self.at_preemption.lock().unwrap().take().is_some()
    }

    /// Returns how many turns all wait loops have taken.
    pub fn relaxes(&self) -> u64 {
        self.relaxes.load(Ordering::Relaxed)
    }

    /// Lets a flush ask other CPUs and wait for them from now on: see
    /// [`crate::interrupts`].
    ///
    /// # Panics
    /// When that was said before.
    pub fn with_interrupts(&self, open: Open) {
        let set = self.interrupts.set(Interrupts::new(open));
        assert!(set.is_ok(), "interrupts are there already");
    }

    /// Runs `f` in the kernel: with interrupts, the CPU takes them where it must only.
    pub fn in_kernel<R>(&self, f: impl FnOnce() -> R) -> R {
        /// Leaves the kernel, also by a panic.
        struct Inside<'a, F: PageTableFormat>(&'a TestPlatform<F>, usize);
        impl<F: PageTableFormat> Drop for Inside<'_, F> {
            fn drop(&mut self) {
                if let Some(interrupts) = self.0.interrupts.get() {
                    interrupts.leave(self.1, self.0.drop_here());
                }
            }
        }
        let cpu = CPU.get();
        let interrupts = self.interrupts.get();
        let entered = interrupts.is_some_and(|interrupts| interrupts.enter(cpu));
        let _inside = entered.then(|| Inside(self, cpu));
        f()
    }

    /// Takes the interrupts of the caller's CPU, as in a turn of a wait loop.
    pub fn take_interrupts(&self) {
        if let Some(interrupts) = self.interrupts.get() {
            interrupts.serve(CPU.get(), self.drop_here());
        }
    }

    /// Puts whoever waits on a CPU aside, as a scheduler may: it stays in its next turn, and the
    /// CPU takes interrupts, until [`Self::go_on`].
    pub fn put_aside(&self, cpu: usize) {
        self.put_aside.fetch_or(1 << cpu, Ordering::SeqCst);
    }

    /// Ends [`Self::put_aside`].
    pub fn go_on(&self, cpu: usize) {
        self.put_aside.fetch_and(!(1 << cpu), Ordering::SeqCst);
    }

    /// What a CPU does to its own TLB.
    fn drop_here(&self) -> impl Fn(usize, Flush) {
        let hook = self.hook.get();
        move |cpu, flush| {
            let mut alone = CpuSet::EMPTY;
            alone.insert(cpu);
            if let Some(hook) = &hook {
                hook.flush(alone, flush);
            }
        }
    }

    /// A place where another CPU may come first, unless preemption is off.
    fn may_be_preempted(&self) {
        let allowed = || self.preemption[CPU.get()].load(Ordering::SeqCst) == 0;
        if self.has_preemption.load(Ordering::Relaxed) && allowed() {
            self.preempted();
        }
    }

    fn preempted(&self) {
        let mut slot = self.at_preemption.lock().unwrap();
        if let Some((nth, _)) = slot.as_mut() {
            *nth -= 1;
        }
        let due = slot.take_if(|(nth, _)| *nth == 0);
        drop(slot);
        if let Some((_, f)) = due {
            self.has_preemption.store(false, Ordering::SeqCst);
            f();
        }
    }

    /// Begins to log the locks that are taken.
    pub fn log_locks(&self) {
        self.log_locks.store(true, Ordering::SeqCst);
    }

    /// Returns what happened since the last call.
    pub fn take_log(&self) -> Log {
        std::mem::take(&mut *self.log())
    }

    /// Plugs in a software TLB, in place of the one before.
    pub fn set_flush_hook(&self, hook: Arc<dyn FlushHook>) {
        self.hook.set(hook);
    }

    /// Lets no more than so many pages be committed at once, as a kernel with so much memory does.
    pub fn set_committable(&self, pages: u64) {
        self.committable.store(pages, Ordering::SeqCst);
    }

    /// Has the objects of a store hold so many pages at most.
    pub fn set_room(&self, store: u64, pages: usize) {
        let mut stores = self.stores.lock().unwrap();
        stores.entry(store).or_insert((0, 0)).1 = pages;
    }

    /// Returns how many pages a store holds.
    pub fn held(&self, store: u64) -> usize {
        let stores = self.stores.lock().unwrap();
        stores.get(&store).map_or(0, |&(held, _)| held)
    }

    /// Returns how many pages all stores hold.
    pub fn held_by_all(&self) -> usize {
        let stores = self.stores.lock().unwrap();
        stores.values().map(|&(held, _)| held).sum()
    }

    /// Who grants and takes back may be a kernel's own code, with locks of its own.
    fn assert_no_inner_lock(&self) {
        let off = self.preemption[CPU.get()].load(Ordering::SeqCst);
        assert_eq!(off, 0, "asked under an inner lock");
    }

    /// Refuses charges above this many frames.
    pub fn set_charge_limit(&self, frames: i64) {
        self.charge_limit.store(frames, Ordering::SeqCst);
    }

    /// Gives spaces hardware tags of this many bits, before the first runs.
    pub fn set_asid_bits(&self, bits: u32) {
        self.asids.set_bits(bits);
    }

    /// Returns the number of charged frames.
    pub fn charged(&self) -> i64 {
        self.charged.load(Ordering::SeqCst)
    }

    /// Checks that every CPU may be preempted again.
    ///
    /// # Panics
    /// When one may not.
    pub fn assert_preemptible(&self) {
        for (cpu, depth) in self.preemption.iter().enumerate() {
            let depth = depth.load(Ordering::SeqCst);
            assert_eq!(depth, 0, "preemption is still off on CPU {cpu}");
        }
    }

    /// Returns how deep preemption is forbidden on the caller's CPU.
    pub fn preempt_depth(&self) -> i64 {
        self.preemption[CPU.get()].load(Ordering::SeqCst)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    /// Notes what happens: not for ThreadSanitizer, to which the log's lock would
    /// be an order between CPUs.
    fn note(&self, what: impl FnOnce(&mut Log)) {
        if !cfg!(mm_tsan) {
            what(&mut self.log());
        }
    }

    fn interrupt(&self) {
        if !self.has_interruption.load(Ordering::Relaxed) {
            return;
        }
        let mut slot = self.at_allocation.lock().unwrap();
        let due = match &mut *slot {
            Some((nth, _)) => {
                *nth -= 1;
                *nth == 0
            }
            None => false,
        };
        let f = if due { slot.take() } else { None };
        drop(slot);
        if let Some((_, f)) = f {
            f();
        }
    }

    fn permit(&self, allocation: Allocation) -> bool {
        self.interrupt();
        let n = self.asked.fetch_add(1, COUNT) + 1;
        let fail = self.fail.load(Ordering::SeqCst);
        let count = self.fail_count.load(Ordering::SeqCst);
        if fail != 0 && n >= fail && n - fail < count {
            self.note(|log| log.failed.push(allocation));
            return false;
        }
        true
    }
}

impl<F: PageTableFormat> fmt::Debug for TestPlatform<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestPlatform")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

// SAFETY: the arena's frames belong to this machine alone; `cpu` is the
// thread's own number; `flush` returns after the hook has dropped everything, or each CPU
// has had it drop what is its own.
unsafe impl<F: PageTableFormat> Platform for TestPlatform<F> {
    type Format = F;
    type Memory = Arena;

    fn format(&self) -> F {
        self.format
    }
    fn memory(&self) -> &Arena {
        &self.arena
    }
    fn cpu(&self) -> usize {
        CPU.get()
    }
    fn preempt_off(&self) {
        self.may_be_preempted();
        self.preemption[CPU.get()].fetch_add(1, Ordering::SeqCst);
    }
    fn preempt_on(&self) {
        let before = self.preemption[CPU.get()].fetch_sub(1, Ordering::SeqCst);
        assert!(
            before > 0,
            "preemption allowed once too often on CPU {}",
            CPU.get()
        );
        if let Some(interrupts) = self.interrupts.get().filter(|_| before == 1) {
            interrupts.preemptible(CPU.get(), self.drop_here());
        }
    }
    fn relax(&self, spins: u32) {
        assert!(spins < 50_000_000, "a wait does not end");
        self.relaxes.fetch_add(1, Ordering::Relaxed);
        self.take_interrupts();
        give_way();
        while self.put_aside.load(Ordering::SeqCst) & 1 << CPU.get() != 0 {
            self.take_interrupts();
            give_way();
        }
    }
    fn asids(&self) -> Option<&AsidPool> {
        Some(&self.asids)
    }
    fn flush(&self, cpus: CpuSet, flush: Flush) {
        assert!(
            self.preemption[CPU.get()].load(Ordering::SeqCst) > 0,
            "a flush is sent by who may be preempted meanwhile"
        );
        self.may_be_preempted();
        if self.has_interruption.load(Ordering::Relaxed) {
            let interruption = self.at_flush.lock().unwrap().take();
            if let Some(f) = interruption {
                f();
            }
        }
        if let Some(interrupts) = self.interrupts.get() {
            interrupts.flush(CPU.get(), cpus, flush, self.drop_here());
        } else if let Some(hook) = self.hook.get() {
            hook.flush(cpus, flush);
        }
        self.note(|log| log.flushes.push((cpus, flush)));
    }
    fn wake(&self, key: TicketKey) {
        self.note(|log| log.wakes.push(key));
    }
    fn sync_code(&self, frame: Pfn) {
        self.arena.clean_code(frame);
        if let Some(hook) = self.hook.get() {
            hook.forget_code(frame);
        }
        self.note(|log| log.synced.push(frame));
    }
    fn try_charge(&self, frames: usize) -> Result<(), OutOfMemory> {
        let frames = frames as i64;
        let limit = self.charge_limit.load(Ordering::SeqCst);
        let fits = |now: i64| now.checked_add(frames).filter(|&sum| sum <= limit);
        let charged = self.charged.fetch_update(COUNT, COUNT, fits);
        charged.map(|_| ()).map_err(|_| OutOfMemory)
    }
    fn try_hold(&self, store: u64) -> Result<(), NoSpace> {
        self.assert_no_inner_lock();
        let mut stores = self.stores.lock().unwrap();
        let (held, most) = stores.entry(store).or_insert((0, usize::MAX));
        if *held >= *most {
            return Err(NoSpace);
        }
        *held += 1;
        Ok(())
    }
    fn let_go(&self, store: u64, pages: usize) {
        self.assert_no_inner_lock();
        let mut stores = self.stores.lock().unwrap();
        let (held, _) = stores.get_mut(&store).expect("nothing was held");
        *held = held.checked_sub(pages).expect("more let go than held");
    }
    fn may_commit(&self, pages: usize) -> bool {
        pages as u64 <= self.committable.load(Ordering::SeqCst)
    }
    fn uncharge(&self, frames: usize) {
        let before = self.charged.fetch_sub(frames as i64, COUNT);
        assert!(before >= frames as i64, "more uncharged than charged");
    }
    fn may_allocate(&self, order: u8) -> bool {
        self.permit(Allocation::Frames(order))
    }
    fn may_allocate_node(&self, pool: &'static str) -> bool {
        self.permit(Allocation::Node(pool))
    }
    fn locking(&self, rank: Rank) {
        if self.log_locks.load(Ordering::Relaxed) {
            self.note(|log| log.locks.push(rank));
        }
    }
}
