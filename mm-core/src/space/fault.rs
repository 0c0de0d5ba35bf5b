//! `fault`: from a trap to its outcome.
//!
//! ```text
//!  fast   pin ─► remembered? ─► count in ─► re-check ─► unpin ─► resolve ─► outcome
//!                     │ no         │ marked    │ another area   ▲     │ needs an anon_vma
//!                     ▼            ▼           ▼                │     │
//!                look the page up ─► count in ─► re-check ──────┘     │
//!                     │ nothing         │ marked    │ another area    │
//!                     └─────────────────┴──────┬────┴─────────────────┘
//!                                              ▼
//!  slow   lock (read) ─► find area ──found──► count in ─► resolve ─► outcome
//!                            │ none                          └─ needs an anon_vma: make one, again
//!                            ▼
//!                    lock (write) ─► grow a stack? ─► again, or SIGSEGV
//! ```
//!
//! **Fast.** A lookup without locks proves only presence. The pin keeps slabs
//! where they are, so whatever handle the descent ends at is a node, perhaps
//! one that was freed or reused meanwhile. Counting in fails on a free or
//! marked node; once inside, nothing of the area changes, so that it belongs
//! to this space and holds the page stays true until the fault leaves. From
//! there on the read count stands for the space lock: whoever changes an area
//! marks it first and waits until readers have left. A reader takes no space
//! lock while it is inside, which is why that wait ends. The areas that the
//! CPU found here before are tried first: they prove as little, and are checked
//! in the same way (`page::hints`).
//!
//! **Slow.** Everything else proves nothing and is decided under the space
//! lock only: that there is no area, that a stack grows, which anon_vma an
//! area gets. A fault that meets a mark waits there for the writer, who holds
//! the space lock, or is busy with the area without it ([`super::busy`]).

use super::upkeep::Nodes;
use super::{AddressSpace, Layout};
use crate::addr::Vpn;
use crate::cx::{Cx, Pin};
use crate::error::OutOfMemory;
use crate::fault::{Fault, FaultOutcome, Faulting, Mode, Resolution, Signal, Stop};
use crate::platform::Platform;
use crate::pool::Handle;
use crate::prot::Access;
use crate::range::PageRange;
use crate::stats::Counter;
use crate::table::stretch;
use crate::vma::{NewVma, Vma, VmaFlags, VmaReadGuard, anon_candidate};

/// Turns after which a fault is reported as resolved though it kept racing:
/// the access simply faults again, and interrupts get their chance (D1).
const TURNS: usize = 16;

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Resolves a page fault (Linux: handle_mm_fault).
    ///
    /// Never waits: when a page must be read first, the outcome carries the
    /// ticket of the transfer.
    ///
    /// # Locks
    /// Takes the area's read count, then object and table locks. Where that is
    /// not enough, the space lock for reading (for writing to grow a stack)
    /// before it, and anon_vma locks. The caller holds none.
    pub fn fault(&self, fault: &Fault) -> FaultOutcome<'m, P> {
        let cx = self.mm.cx();
        let page = fault.addr.vpn(self.shift());
        if page >= self.user_end() {
            return match fault.mode {
                Mode::User => self.signal(Signal::SegvMapErr(fault.addr)),
                Mode::Kernel => FaultOutcome::KernelBug,
            };
        }
        self.fault_page(&cx, page, fault.access, fault.addr)
    }

    /// Resolves a fault on a page of user space, for this verb and for those
    /// that touch memory on behalf of the user.
    pub(super) fn fault_page(
        &self,
        cx: &Cx<'m, P>,
        page: Vpn,
        access: Access,
        addr: crate::addr::VirtAddr,
    ) -> FaultOutcome<'m, P> {
        let mut path = Counter::FaultFast;
        let step = self.fault_turns(cx, page, access, &mut path);
        self.mm.stats().count(path);
        match step {
            Ok(how) => FaultOutcome::Resolved(how),
            Err(Stop::Retry) => FaultOutcome::Resolved(Resolution::Minor),
            Err(Stop::Wait(ticket)) => {
                self.mm.stats().count(Counter::FaultWait);
                FaultOutcome::Wait(ticket)
            }
            Err(Stop::OutOfMemory) => {
                self.mm.stats().count(Counter::OutOfMemory);
                FaultOutcome::OutOfMemory
            }
            Err(Stop::NoSpace) => FaultOutcome::NoSpace,
            Err(Stop::Signal(signal)) => self.signal(at(signal, addr)),
            Err(Stop::NeedsAnonVma | Stop::Bug) => FaultOutcome::KernelBug,
        }
    }

    /// Tries until something else than a race comes out; `path` becomes slow
    /// when the space lock was needed.
    fn fault_turns(
        &self,
        cx: &Cx<'m, P>,
        page: Vpn,
        access: Access,
        path: &mut Counter,
    ) -> Result<Resolution, Stop<'m, P>> {
        for _ in 0..TURNS {
            let step = match self.fault_fast(cx, page, access) {
                Some(step) => step,
                None => {
                    *path = Counter::FaultSlow;
                    self.fault_slow(cx, page, access)
                }
            };
            if !matches!(step, Err(Stop::Retry)) {
                return step;
            }
        }
        Err(Stop::Retry)
    }

    /// Resolves a fault without the space lock; `None` where only that lock
    /// can tell what to do.
    fn fault_fast(
        &self,
        cx: &Cx<'m, P>,
        page: Vpn,
        access: Access,
    ) -> Option<Result<Resolution, Stop<'m, P>>> {
        let nodes = Nodes::new(cx, self.mm);
        let pin = cx.pin();
        let reader = match self.remembered(cx, &pin, &nodes, page) {
            Some(reader) => reader,
            None => self.found(cx, &pin, &nodes, page)?,
        };
        // The read count keeps the node's slab from here on.
        drop(pin);
        match self.faulting(cx, &reader, page, access).resolve() {
            Err(Stop::NeedsAnonVma) => None,
            step => Some(step),
        }
    }

    /// Counts into the area of a page where this CPU found it before.
    #[inline]
    fn remembered<'c>(
        &self,
        cx: &'c Cx<'m, P>,
        pin: &Pin<'_, 'm, P>,
        nodes: &Nodes<'_, 'm, P>,
        page: Vpn,
    ) -> Option<VmaReadGuard<'c, Cx<'m, P>>>
    where
        'm: 'c,
    {
        let key = self.key();
        let areas = pin.hints()?.areas(stretch(cx, key, page));
        let reader = areas.into_iter().find_map(|area| {
            let vma = nodes.vma(Handle::from_raw(area)?);
            vma.seems_to_hold(key, page)
                .then(|| vma.try_read(cx, key, page))?
        })?;
        self.mm.stats().count(Counter::FaultHint);
        Some(reader)
    }

    /// Counts into the area of a page that a descent finds, and remembers it.
    fn found<'c>(
        &self,
        cx: &'c Cx<'m, P>,
        pin: &Pin<'_, 'm, P>,
        nodes: &Nodes<'_, 'm, P>,
        page: Vpn,
    ) -> Option<VmaReadGuard<'c, Cx<'m, P>>>
    where
        'm: 'c,
    {
        let key = self.key();
        let handle = self.node().vmas.lookup(nodes, page)?;
        let reader = nodes.vma(handle).try_read(cx, key, page)?;
        if let Some(hints) = pin.hints() {
            // While counted in: see there.
            hints.found_area(stretch(cx, key, page), handle.into_raw());
        }
        Some(reader)
    }

    fn fault_slow(
        &self,
        cx: &Cx<'m, P>,
        page: Vpn,
        access: Access,
    ) -> Result<Resolution, Stop<'m, P>> {
        let node = self.node();
        let nodes = Nodes::new(cx, self.mm);
        let mut spins = 0u32;
        let (layout, handle) = loop {
            let layout = node.lock.read(cx, self.key());
            let Some(handle) = node.vmas.find(&nodes, page) else {
                drop(layout);
                return self.grow_stack(cx, page);
            };
            let vma = nodes.vma(handle);
            if !vma.is_marked() {
                break (layout, handle);
            }
            if vma.is_dying() && !vma.is_replaced() {
                return Err(segv(page.addr(self.shift())));
            }
            // Somebody is busy with it, and needs the lock to end that.
            #[cfg(not(mm_mutant = "fault_waits_with_the_lock"))]
            drop(layout);
            #[cfg(not(mm_mutant = "fault_waits_deaf"))]
            cx.wait_turn(spins);
            spins = spins.saturating_add(1);
        };
        let vma = nodes.vma(handle);
        let Some(reader) = vma.try_read(cx, self.key(), page) else {
            return Err(Stop::Retry);
        };
        match self.faulting(cx, &reader, page, access).resolve() {
            Err(Stop::NeedsAnonVma) => {
                drop(reader);
                self.prepare_anon(&nodes, handle)?;
                drop(layout);
                Err(Stop::Retry)
            }
            outcome => outcome,
        }
    }

    /// One fault in an area whose read count is held.
    fn faulting<'c>(
        &self,
        cx: &'c Cx<'m, P>,
        vma: &'c Vma,
        page: Vpn,
        access: Access,
    ) -> Faulting<'c, 'm, P> {
        Faulting {
            cx,
            mm: self.mm,
            node: self.node(),
            table: self.table(cx),
            vma,
            page,
            access,
        }
    }

    /// Gives an area its first anon_vma: a neighbour's where the two could be
    /// one area, so that merges come out as Linux's (anon_vma_prepare).
    fn prepare_anon(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        handle: Handle<Vma>,
    ) -> Result<(), OutOfMemory> {
        let node = self.node();
        let neighbour = || anon_candidate(&node.vmas, nodes, handle).and_then(Handle::from_raw);
        nodes.prepare_anon(&node.anon, handle, neighbour)
    }

    /// Grows the stack area above `page` down to it, if there is one and its
    /// limit and guard gap allow (Linux: expand_stack).
    fn grow_stack(&self, cx: &Cx<'m, P>, page: Vpn) -> Result<Resolution, Stop<'m, P>> {
        let segv = segv(page.addr(self.shift()));
        let node = self.node();
        let nodes = Nodes::new(cx, self.mm);
        // Most wild accesses end here, without anyone being held up.
        if self.stack_above(cx, &nodes, page).is_none() {
            return Err(segv);
        }
        let mut layout = self.write_settled(cx, |_| {
            let above = node.vmas.first_ending_above(&nodes, page);
            let end = above.map_or(page, |vma| nodes.vma(vma).start());
            PageRange::new(page, end.max(page))
        });
        #[cfg(not(mm_mutant = "grow_without_look"))]
        if node.vmas.find(&nodes, page).is_some() {
            return Err(Stop::Retry);
        }
        let Some(handle) = node.vmas.first_ending_above(&nodes, page) else {
            return Err(segv);
        };
        let vma = nodes.vma(handle);
        if !is_stack(vma) || !self.may_grow(&nodes, &layout, vma, page) {
            return Err(segv);
        }
        let grown = PageRange::new(page, vma.start());
        let mut spec = vma.spec();
        let Some(pgoff) = spec.pgoff.checked_sub(grown.pages()) else {
            return Err(segv);
        };
        spec.pgoff = pgoff;
        let new = NewVma {
            spec,
            like: Some(handle),
        };
        match self.insert(cx, &mut layout, grown, new) {
            Ok(going) => {
                debug_assert!(going.is_none(), "a stack grows into free pages");
                self.mm.stats().count(Counter::FaultGrow);
                Err(Stop::Retry)
            }
            Err(crate::error::MmError::OutOfMemory) => Err(Stop::OutOfMemory),
            Err(_) => Err(segv),
        }
    }

    /// Returns the stack above a page, or the area that has the page by now.
    fn stack_above(
        &self,
        cx: &Cx<'m, P>,
        nodes: &Nodes<'_, 'm, P>,
        page: Vpn,
    ) -> Option<Handle<Vma>> {
        let node = self.node();
        let _layout = node.lock.read(cx, self.key());
        let above = node.vmas.first_ending_above(nodes, page)?;
        let vma = nodes.vma(above);
        // An area that came since the fault looked: it is to look again.
        (is_stack(vma) || vma.range().contains(page)).then_some(above)
    }

    /// Returns whether a stack may reach down to `page`: within its limit,
    /// above what no user maps, and with the guard gap below it, unless the
    /// neighbour is a stack too or allows no access (D4).
    fn may_grow(&self, nodes: &Nodes<'_, 'm, P>, layout: &Layout, vma: &Vma, page: Vpn) -> bool {
        let most = super::SpaceLimits::pages(layout.limits.stack, self.shift());
        if vma.end().pages_since(page) > most || page < self.user_range(&layout.limits).start() {
            return false;
        }
        let below = self.node().vmas.last_starting_below(nodes, page);
        below.map(|h| nodes.vma(h)).is_none_or(|below| {
            let flags = below.flags();
            flags.contains(VmaFlags::GROWS_DOWN)
                || !flags.intersects(VmaFlags::RIGHTS)
                || page.pages_since(below.end()) >= self.stack_guard(layout)
        })
    }

    fn signal(&self, signal: Signal) -> FaultOutcome<'m, P> {
        self.mm.stats().count(Counter::FaultSignal);
        FaultOutcome::Signal(signal)
    }
}

/// Returns whether an area grows down, and is there to stay.
fn is_stack(vma: &Vma) -> bool {
    vma.flags().contains(VmaFlags::GROWS_DOWN) && !vma.is_dying()
}

fn segv<'m, P: Platform>(addr: crate::addr::VirtAddr) -> Stop<'m, P> {
    Stop::Signal(Signal::SegvMapErr(addr))
}

/// Returns the signal with the address that was accessed, not its page's.
fn at(signal: Signal, addr: crate::addr::VirtAddr) -> Signal {
    match signal {
        Signal::SegvMapErr(_) => Signal::SegvMapErr(addr),
        Signal::SegvAccErr(_) => Signal::SegvAccErr(addr),
        Signal::BusAdrErr(_) => Signal::BusAdrErr(addr),
    }
}
