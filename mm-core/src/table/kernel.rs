//! The kernel's own part of every address space.
//!
//! ```text
//!   root of space A ─┐            ┌─ the same words from `kernel_root_index` on
//!   root of space B ─┼─► tables ◄─┘
//!   kernel's root  ──┘      │
//!                           └─► window:  guard area guard area guard ...
//! ```
//!
//! All root slots of the kernel half get a table at the start and never
//! change, so a kernel mapping made later is in every space at once, and
//! nothing has to be copied or faulted in.
//!
//! Some hardware has two root registers and chooses by the upper bits of the
//! address (AArch64 TTBR0 and TTBR1, Arm ARM D8.2; LPAE and short descriptors
//! with TTBCR.EAE and N, DDI 0406C B3.5). Where a format says so
//! (`kernel_root_index() == entries(root)`), the kernel's root is loaded once
//! into the second register of each CPU and is in no user root:
//!
//! ```text
//!   TTBR0  root of space A, B ...  0 .. user_end
//!   TTBR1  the kernel's root       all bits above the table's reach are ones
//! ```
//!
//! Its tables come into being as they are needed; a page whose upper bits are
//! not all ones is not the kernel's.
//!
//! Tables of the kernel are never freed; [`KernelSpace::prepare`] makes those of
//! the window before they are needed. A kernel mapping owns nothing: frames
//! and devices stay the caller's, who gets them back when
//! [`KernelSpace::vunmap`] returns: then no CPU can reach them through it.
//!
//! Each CPU calls [`KernelSpace::activate`] once, before it uses a mapping
//! that may be taken away again.

use super::cursor::{CursorMut, TableError};
use super::run::run_len;
use super::walk::next_boundary;
use super::window::{Placement, Window};
use super::{PageTable, Why};
use crate::addr::{Pfn, Vpn};
use crate::cx::Cx;
use crate::error::MmError;
use crate::format::{AttrFlags, Attrs, PageTableFormat, TableOwner};
use crate::platform::Platform;
use crate::prot::{MemType, Prot};
use crate::range::PageRange;
use crate::sync::{AtomicU32, Class, Mutex, Ordering};
use crate::tlb::{SpaceTlb, TlbGather};

/// The handle that tables of the kernel carry: no space's.
const NO_SPACE: u32 = 0;

/// The kernel's table and a window of addresses for mappings on demand.
#[derive(Debug)]
pub struct KernelSpace {
    root: AtomicU32,
    tlb: SpaceTlb,
    window: Mutex<Window>,
}

impl KernelSpace {
    #[cfg(not(loom))]
    /// Makes a kernel space without a table; `window` is the part of the kernel
    /// half that nobody else maps. At most 4 GiB of it are used.
    pub const fn new(window: PageRange) -> Self {
        Self {
            root: AtomicU32::new(0),
            tlb: SpaceTlb::for_every_space(),
            window: Mutex::new(Class::Space, Window::new(window)),
        }
    }

    #[cfg(loom)]
    /// Makes a kernel space without a table.
    pub fn new(window: PageRange) -> Self {
        Self {
            root: AtomicU32::new(0),
            tlb: SpaceTlb::for_every_space(),
            window: Mutex::new(Class::Space, Window::new(window)),
        }
    }

    /// Makes the kernel's table, with a table in each root slot of the kernel
    /// half, before the first user space is made; again, returns what is there.
    ///
    /// # Errors
    /// [`MmError::OutOfMemory`]; nothing is left allocated.
    pub fn init<P: Platform>(&self, cx: &Cx<'_, P>) -> Result<Pfn, MmError> {
        if let Some(root) = self.root() {
            return Ok(root);
        }
        let root = PageTable::create(cx, TableOwner::Kernel, NO_SPACE)?;
        let number = u32::try_from(root.as_u64()).map_err(|_| MmError::OutOfMemory)?;
        self.root.store(number, Ordering::Release);
        Ok(root)
    }

    /// Makes all tables of the window, and the memory of its free addresses: from
    /// here on a mapping there allocates nothing, nor does its end, and it can
    /// only fail for want of addresses. For what must not fail later (the
    /// stack of a thread), and for who counts frames. Blocks are not used in the
    /// window then: a table stands in their place.
    ///
    /// # Errors
    /// [`MmError::OutOfMemory`]: what was made stays, as tables of the kernel do,
    /// and another call goes on from there. [`MmError::OutOfRange`] for a window
    /// that the kernel's table does not reach, `Exists` for a block in it,
    /// `NotSupported` before [`Self::init`].
    ///
    /// # Locks
    /// Takes `(Space, 0)`, so no other lock may be held; then tables' locks.
    pub fn prepare<P: Platform>(&self, cx: &Cx<'_, P>) -> Result<(), MmError> {
        let table = self.table(cx).ok_or(MmError::NotSupported)?;
        let window = self.window.lock(cx, 0).prepare(cx)?;
        let span = cx.format().entry_pages(2);
        let mut at = window.start();
        while at < window.end() {
            match table.lock_level_or_create(at, 1) {
                Ok(_made) => at = next_boundary(at, span),
                Err(stopped) => {
                    let why = stopped.why();
                    return Err(mm_error(TableError { at, why }, cx.page_shift()));
                }
            }
        }
        Ok(())
    }

    /// Returns the kernel's root: for CPUs that run no user space, and for the
    /// second root register where there is one.
    pub fn root(&self) -> Option<Pfn> {
        match self.root.load(Ordering::Acquire) {
            0 => None,
            n => Some(Pfn::new(u64::from(n))),
        }
    }

    /// Returns which CPUs remember kernel translations.
    pub fn tlb(&self) -> &SpaceTlb {
        &self.tlb
    }

    /// Notes that a CPU may remember kernel translations from here on.
    pub fn activate(&self, cpu: usize) {
        self.tlb.activate(cpu);
    }

    /// Returns the kernel's table, to map fixed addresses of the kernel half
    /// outside of the window with a [`CursorMut`].
    pub fn table<'c, 'm, P: Platform>(&self, cx: &'c Cx<'m, P>) -> Option<PageTable<'c, 'm, P>> {
        Some(PageTable::view(
            cx,
            self.root()?,
            TableOwner::Kernel,
            NO_SPACE,
        ))
    }

    /// Maps device memory (or any frames in a row) for the kernel with a
    /// memory type, never executable; returns its pages.
    ///
    /// When it returns, every CPU sees the entries: where walks may overtake
    /// stores or remember that nothing was there, a flush was sent, as nobody
    /// resolves a fault of the kernel. So it is with [`Self::vmap`].
    ///
    /// Two mappings of the same frames with different memory types are an
    /// error that only the caller can avoid (Intel SDM 12.12.4, Arm ARM B2.16).
    ///
    /// # Errors
    /// [`MmError::NoGap`] when the window is full, `OutOfMemory`, `Invalid`
    /// when `frames` is zero or a frame number does not fit the format.
    ///
    /// # Locks
    /// Takes `(Space, 0)`, so no other lock may be held; then tables' locks.
    pub fn map_device<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        first: Pfn,
        frames: usize,
        mem: MemType,
    ) -> Result<PageRange, MmError> {
        let attrs = Attrs::kernel(Prot::RW)
            .with(AttrFlags::SPECIAL)
            .with_mem(mem);
        // Aligned like the frames, up to the largest block that fits into the window,
        // else to a run: so that frame buffers take few entries, here or in TLBs.
        let format = cx.format();
        let places = (2..=format.levels())
            .rev()
            .filter(|&level| format.leaf_at(level))
            .map(|level| format.entry_pages(level))
            .chain([run_len(format, 1)])
            .filter(|&align| align > 1 && align <= frames)
            .chain([1])
            .map(|align| Placement {
                align,
                skew: first.as_usize() & align.wrapping_sub(1),
            });
        self.map_area(cx, frames, places, |cursor| cursor.map(first, attrs))
    }

    /// Maps frames of RAM one behind the other for the kernel; returns their
    /// pages. The frames stay the caller's, and are in use until [`Self::vunmap`].
    ///
    /// # Errors
    /// As [`Self::map_device`].
    ///
    /// # Locks
    /// Takes `(Space, 0)`, so no other lock may be held; then tables' locks.
    pub fn vmap<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        frames: &[Pfn],
        prot: Prot,
    ) -> Result<PageRange, MmError> {
        self.vmap_aligned(cx, frames, prot, 1)
    }

    /// Maps as [`Self::vmap`], from a page whose number is a multiple of `align`,
    /// a power of two. With stacks aligned to twice their size, one bit of a stack
    /// pointer tells that it ran over the lower end (Linux, `THREAD_ALIGN`).
    ///
    /// # Errors
    /// As [`Self::map_device`], and `Invalid` when `align` is no power of two.
    ///
    /// # Locks
    /// Takes `(Space, 0)`, so no other lock may be held; then tables' locks.
    pub fn vmap_aligned<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        frames: &[Pfn],
        prot: Prot,
        align: usize,
    ) -> Result<PageRange, MmError> {
        if !align.is_power_of_two() {
            return Err(MmError::Invalid(Vpn::new(0).addr(cx.page_shift())));
        }
        let attrs = Attrs::kernel(prot).with(AttrFlags::SPECIAL);
        if prot.contains(Prot::EXEC) {
            // What the kernel has loaded there, for each CPU to fetch.
            #[cfg(not(mm_mutant = "kernel_code_is_not_shown"))]
            frames.iter().for_each(|&pfn| cx.platform().sync_code(pfn));
        }
        let place = Placement { align, skew: 0 };
        self.map_area(cx, frames.len(), [place], |cursor| {
            cursor.map_each(frames, attrs)
        })
    }

    /// Unmaps what [`Self::vmap`] or [`Self::map_device`] returned, named by
    /// its first page; when it returns, no CPU can reach the frames through it.
    ///
    /// # Errors
    /// [`MmError::Unmapped`] when no mapping begins there; nothing is changed.
    ///
    /// # Locks
    /// Takes `(Space, 0)`, so no other lock may be held; below it tables' locks.
    pub fn vunmap<P: Platform>(&self, cx: &Cx<'_, P>, start: Vpn) -> Result<PageRange, MmError> {
        let unmapped = MmError::Unmapped(start.addr(cx.page_shift()));
        let table = self.table(cx).ok_or(unmapped)?;
        // Held throughout: of two callers, one finds nothing to unmap; and the
        // addresses mean something else only after every CPU forgot them.
        let mut window = self.window.lock(cx, 0);
        let area = window.area(cx, start).ok_or(unmapped)?;
        let mut gather = TlbGather::new(cx, &self.tlb);
        CursorMut::new(table, &self.tlb, area)
            .unmap(&mut gather)
            .map_err(|e| mm_error(e, cx.page_shift()))?;
        let _nothing_owned = gather.finish();
        window.give(cx, area);
        Ok(area)
    }

    /// Maps an area at the first of these places that is free.
    fn map_area<'c, 'm, P: Platform>(
        &'c self,
        cx: &'c Cx<'m, P>,
        pages: usize,
        places: impl IntoIterator<Item = Placement>,
        map: impl FnOnce(&mut CursorMut<'c, 'm, P>) -> Result<crate::tlb::MapFlush, TableError>,
    ) -> Result<PageRange, MmError> {
        let shift = cx.page_shift();
        let table = self.table(cx).ok_or(MmError::NotSupported)?;
        if pages == 0 {
            return Err(MmError::Invalid(Vpn::new(0).addr(shift)));
        }
        let bytes = pages.saturating_mul(crate::addr::page_size(shift));
        let area = self.take_area(cx, pages, places)?;
        let area = area.ok_or(MmError::NoGap(bytes))?;
        match map(&mut CursorMut::new(table, &self.tlb, area)) {
            Ok(owed) => {
                owed.settle_everywhere(cx, &self.tlb);
                Ok(area)
            }
            Err(e) => {
                self.window.lock(cx, 0).give(cx, area);
                Err(mm_error(e, cx.page_shift()))
            }
        }
    }

    /// Takes an area at the first of these places that is free.
    fn take_area<P: Platform>(
        &self,
        cx: &Cx<'_, P>,
        pages: usize,
        places: impl IntoIterator<Item = Placement>,
    ) -> Result<Option<PageRange>, MmError> {
        let mut window = self.window.lock(cx, 0);
        for place in places {
            if let Some(area) = window.take(cx, pages, place)? {
                return Ok(Some(area));
            }
        }
        Ok(None)
    }
}

fn mm_error(e: TableError, shift: u32) -> MmError {
    match e.why {
        Why::OutOfMemory => MmError::OutOfMemory,
        _ => e.into_mm_error(shift),
    }
}
