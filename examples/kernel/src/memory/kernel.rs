//! The kernel's half of every address space: what stands there for good, and what comes and goes.
//!
//! An architecture keeps one [`KernelSpace`] in a static. At fixed addresses it maps RAM and its own
//! image ([`KernelHalf::ram`], [`KernelHalf::fixed`]); devices and [stacks](crate::stack) go where the
//! window of that space has room.

use core::ops::Range;

use mm_core::addr::{Pfn, PhysAddr, VirtAddr, page_mask};
use mm_core::cx::Cx;
use mm_core::format::{AttrFlags, Attrs};
use mm_core::page::Frames;
use mm_core::platform::Platform;
use mm_core::prot::{MemType, Prot};
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, KernelSpace};

use crate::limits::TASKS;
use crate::stack::STACK_PAGES;

/// Pages of the window: for twice as many stacks as there are tasks, with what is unmapped below
/// each, and for the devices.
const WINDOW_PAGES: usize = 4 * STACK_PAGES * TASKS;

/// The window that begins at this address: where an architecture's [`KernelSpace`] has what is
/// mapped on demand.
///
/// # Panics
///
/// When it does not lie in the address space.
#[must_use]
pub const fn window(start: usize, page_shift: u32) -> PageRange {
    let start = VirtAddr::new(start).vpn(page_shift);
    PageRange::with_len(start, WINDOW_PAGES).expect("a window in the address space")
}

/// The kernel's space, and the frames that its tables come from.
pub struct KernelHalf<P: Platform> {
    /// What is mapped.
    pub space: &'static KernelSpace,
    /// The machine's memory.
    pub memory: &'static Frames<P>,
}

impl<P: Platform> Clone for KernelHalf<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for KernelHalf<P> {}

impl<P: Platform> KernelHalf<P> {
    /// Makes the kernel's table and all tables of the window, which are never freed: who counts
    /// frames later finds the same number again. Answers the root. Called once.
    ///
    /// # Panics
    ///
    /// When there is not even memory for this.
    pub fn init(self) -> Pfn {
        let cx = self.cx();
        let root = self.space.init(&cx).expect("memory for the kernel's table");
        let prepared = self.space.prepare(&cx);
        prepared.expect("memory for the tables of the window");
        root
    }

    /// Maps whole pages of physical memory at a fixed address for good, before any CPU uses them.
    ///
    /// # Panics
    ///
    /// When that cannot be: the kernel is wrong about its own addresses, or there is no memory.
    pub fn fixed(self, address: usize, physical: Range<u64>, attrs: Attrs) {
        let cx = self.cx();
        let (first, count) = self.frames_of(&physical);
        let start = VirtAddr::new(address).vpn(cx.page_shift());
        let pages = PageRange::with_len(start, count).expect("kernel addresses do not wrap");
        let table = self.space.table(&cx).expect("the table was made");
        let attrs = attrs.with(AttrFlags::SPECIAL);
        match CursorMut::new(table, self.space.tlb(), pages).map(first, attrs) {
            // Nothing stood there, but a walk may overtake the store.
            Ok(flush) => flush.settle(&cx, self.space.tlb()),
            Err(error) => panic!("{address:#x} cannot be mapped: {error:?}"),
        }
    }

    /// Maps the whole pages of RAM where `direct` says, read-write and never executed.
    ///
    /// # Panics
    ///
    /// As [`KernelHalf::fixed`].
    pub fn ram(self, ranges: impl IntoIterator<Item = Range<u64>>, direct: fn(u64) -> usize) {
        let mask = self.page_mask();
        for range in ranges {
            let whole = (range.start + mask) & !mask..range.end & !mask;
            if !whole.is_empty() {
                self.fixed(direct(whole.start), whole, Attrs::kernel(Prot::RW));
            }
        }
    }

    /// Maps a device's registers for good, and answers where the first of them is.
    ///
    /// # Panics
    ///
    /// When the window is full.
    pub fn device(self, physical: Range<u64>) -> usize {
        let cx = self.cx();
        let (first, count) = self.frames_of(&physical);
        let pages = self
            .space
            .map_device(&cx, first, count, MemType::Device)
            .unwrap_or_else(|error| panic!("no device at {physical:#x?}: {error:?}"));
        let start = pages.start().addr(cx.page_shift()).as_usize();
        start + (physical.start & self.page_mask()) as usize
    }

    /// The context of one call into mm-core.
    pub fn cx(self) -> Cx<'static, P> {
        Cx::new(self.memory)
    }

    /// The frames that hold some of these bytes: the first, and how many.
    fn frames_of(self, physical: &Range<u64>) -> (Pfn, usize) {
        let mask = self.page_mask();
        let start = physical.start & !mask;
        let bytes = ((physical.end + mask) & !mask) - start;
        let shift = self.cx().page_shift();
        (PhysAddr::new(start).pfn(shift), (bytes >> shift) as usize)
    }

    fn page_mask(self) -> u64 {
        page_mask(self.cx().page_shift()) as u64
    }
}
