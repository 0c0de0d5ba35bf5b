//! A byte heap over frames, for kernels that want `alloc`.
//!
//! mm-core itself never uses it. Requests up to half a page come from slabs of
//! power-of-two places, larger ones are blocks of the frame allocator.
//!
//! ```text
//! size, align ──► class 16 32 64 ... half a page     a slab of places, one lock per class
//!             └─► order 0 1 2 ... MAX_ORDER          a block
//! ```
//!
//! A block is aligned to its size by its frames' numbers. Its address is too where
//! frame 0 would have an address so aligned ([`LinearMemory`]); elsewhere a request
//! that asks for more than a page's alignment may be refused.
//!
//! The first four bytes of a free place link it to the next one. One empty slab
//! per class is kept, so that a program at the edge does not go to the frame
//! allocator each time.

#![expect(unsafe_code, reason = "GlobalAlloc hands out raw memory")]

use super::lists::{Given, Lists, next_empty};
use crate::addr::{Pfn, page_size};
use crate::page::{Frames, Kind, MAX_ORDER};
use crate::platform::{LinearMemory, Platform};
use crate::sync::{Class, Context, Mutex, Rank, RankStack};
use core::alloc::{GlobalAlloc, Layout};
use core::fmt;

/// log2 of the smallest place.
const MIN_SHIFT: u32 = 4;
/// Classes up to half a page of 64 KiB.
const CLASSES: usize = 12;

/// A global allocator that takes its memory from a machine's frames. Not for interrupt
/// handlers: its locks are not held against interrupts.
///
/// ```ignore
/// #[global_allocator]
/// static HEAP: FrameHeap<MyPlatform> = FrameHeap::new(|| MM.get().map(Mm::frames));
/// ```
pub struct FrameHeap<P: Platform> {
    frames: fn() -> Option<&'static Frames<P>>,
    classes: [Mutex<Lists>; CLASSES],
}

/// Where a request is served from.
enum Place {
    /// Places of `1 << (index + MIN_SHIFT)` bytes.
    Class(usize),
    /// Blocks of `1 << order` frames.
    Block(u8),
}

impl<P: Platform> FrameHeap<P> {
    #[cfg(not(loom))]
    /// Makes a heap that asks `frames` for its machine at each request;
    /// as long as there is none, every allocation fails.
    pub const fn new(frames: fn() -> Option<&'static Frames<P>>) -> Self {
        Self {
            frames,
            classes: [const { Mutex::new(Class::Pool, Lists::new()) }; CLASSES],
        }
    }

    #[cfg(loom)]
    /// Makes a heap that asks `frames` for its machine at each request.
    pub fn new(frames: fn() -> Option<&'static Frames<P>>) -> Self {
        let classes = core::array::from_fn(|_| Mutex::new(Class::Pool, Lists::new()));
        Self { frames, classes }
    }

    /// Gives the slabs back that are empty and only kept for speed; returns how
    /// many. Afterwards every frame of the heap holds a byte that is in use.
    ///
    /// # Locks
    /// Takes `Pool` and `Buddy`.
    pub fn drain(&self) -> usize {
        let Some(frames) = (self.frames)() else {
            return 0;
        };
        let cx = HeapContext::new(frames);
        let mut drained = 0usize;
        for lists in &self.classes {
            let mut next = lists.lock(&cx, 0).take_empty();
            while next != 0 {
                let pfn = Pfn::new(u64::from(next));
                next = next_empty(frames, next);
                let freed = frames.free(&cx, pfn);
                debug_assert_eq!(freed, Ok(()));
                drained = drained.saturating_add(1);
            }
        }
        drained
    }

    fn place(layout: Layout, page_shift: u32) -> Option<Place> {
        let size = layout.size().max(layout.align());
        let shift = size
            .checked_next_power_of_two()?
            .trailing_zeros()
            .max(MIN_SHIFT);
        if shift < page_shift {
            return Some(Place::Class(shift.saturating_sub(MIN_SHIFT) as usize));
        }
        let order = shift.saturating_sub(page_shift);
        u8::try_from(order)
            .ok()
            .filter(|&order| order <= MAX_ORDER)
            .map(Place::Block)
    }

    /// Takes a place of a class; the class's lock is held for a few words only.
    fn take(&self, frames: &Frames<P>, class: usize) -> Option<(u32, u32)>
    where
        P::Memory: LinearMemory,
    {
        let cx = HeapContext::new(frames);
        let lists = self.classes.get(class)?;
        let link = |slab, place| {
            // SAFETY: the place is free, so it holds its link (`build`, `dealloc`),
            // and the lock of the class is held.
            unsafe { place_ptr(frames, slab, place, class).cast::<u32>().read() }
        };
        let found = lists.lock(&cx, 0).take(frames, link);
        if found.is_some() {
            return found;
        }
        let (slab, places) = self.build(frames, &cx, class)?;
        let mut lists = lists.lock(&cx, 0);
        lists.add(frames, slab, places);
        lists.take(frames, link)
    }

    /// Takes a block; null too when its address is not aligned as asked.
    fn take_block(frames: &Frames<P>, order: u8, align: usize) -> *mut u8
    where
        P::Memory: LinearMemory,
    {
        let cx = HeapContext::new(frames);
        let Ok(pfn) = frames.alloc(&cx, order) else {
            return core::ptr::null_mut();
        };
        let block = frames.memory().frame_ptr(pfn);
        if block.addr() & align.wrapping_sub(1) == 0 {
            return block;
        }
        let freed = frames.free(&cx, pfn);
        debug_assert_eq!(freed, Ok(()));
        core::ptr::null_mut()
    }

    /// Makes a slab of free places, on no list.
    fn build(&self, frames: &Frames<P>, cx: &HeapContext<'_, P>, class: usize) -> Option<(u32, u32)>
    where
        P::Memory: LinearMemory,
    {
        let pfn = frames.alloc(cx, 0).ok()?;
        frames.page(pfn)?.reset(Kind::Slab, 0);
        let slab = u32::try_from(pfn.as_u64()).ok()?;
        let size = place_size(class);
        let places = page_size(frames.page_shift()).checked_div(size)?;
        let places = u32::try_from(places).ok()?;
        for place in 0..places {
            // SAFETY: the frame is ours alone and the place lies in it.
            unsafe {
                place_ptr(frames, slab, place, class)
                    .cast::<u32>()
                    .write(place)
            }
        }
        Some((slab, places))
    }
}

// SAFETY: a place or block is handed out to one owner at a time (`Lists` and the
// frame allocator see to it), is at least as large as the layout asks (its size is a
// power of two below neither size nor alignment), and stays until `dealloc`. A place
// is aligned: it starts at a multiple of its size in a frame, which is aligned to a
// page (`LinearMemory`). A block is handed out only if it is (`take_block`).
unsafe impl<P: Platform> GlobalAlloc for FrameHeap<P>
where
    P::Memory: LinearMemory,
{
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(frames) = (self.frames)() else {
            return core::ptr::null_mut();
        };
        let Some(place) = Self::place(layout, frames.page_shift()) else {
            return core::ptr::null_mut();
        };
        match place {
            Place::Class(class) => self
                .take(frames, class)
                .map_or(core::ptr::null_mut(), |(slab, at)| {
                    place_ptr(frames, slab, at, class)
                }),
            Place::Block(order) => Self::take_block(frames, order, layout.align()),
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(frames) = (self.frames)() else {
            return;
        };
        let Some(place) = Self::place(layout, frames.page_shift()) else {
            return;
        };
        let cx = HeapContext::new(frames);
        let pfn = frames.memory().frame_of(ptr);
        let Place::Class(class) = place else {
            let freed = frames.free(&cx, pfn);
            debug_assert_eq!(freed, Ok(()));
            return;
        };
        let (Some(lists), Ok(slab)) = (self.classes.get(class), u32::try_from(pfn.as_u64())) else {
            return;
        };
        let inside = ptr.addr() & page_size(frames.page_shift()).wrapping_sub(1);
        let at = u32::try_from(inside.wrapping_shr(class_shift(class))).unwrap_or(0);
        let mut lists = lists.lock(&cx, 0);
        let given = lists.give(frames, slab, at, |next| {
            // SAFETY: the caller gives the place up (`GlobalAlloc`), it is at
            // least 16 bytes and aligned.
            unsafe { ptr.cast::<u32>().write(next) }
        });
        if given == Given::EmptyToo {
            lists.forget_empty(frames, slab);
            drop(lists);
            let freed = frames.free(&cx, pfn);
            debug_assert_eq!(freed, Ok(()));
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises a layout that `new_size` fits.
        let wider = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let shift = (self.frames)().map_or(0, Frames::page_shift);
        let same = match (Self::place(layout, shift), Self::place(wider, shift)) {
            (Some(Place::Class(a)), Some(Place::Class(b))) => a == b,
            (Some(Place::Block(a)), Some(Place::Block(b))) => a == b,
            _ => false,
        };
        if same {
            return ptr;
        }
        // SAFETY: as the caller promises; the new block is distinct and at
        // least as large as what is copied.
        unsafe {
            let new = self.alloc(wider);
            if !new.is_null() {
                core::ptr::copy_nonoverlapping(ptr, new, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            new
        }
    }
}

impl<P: Platform> fmt::Debug for FrameHeap<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameHeap").finish_non_exhaustive()
    }
}

const fn class_shift(class: usize) -> u32 {
    (class as u32).saturating_add(MIN_SHIFT)
}

const fn place_size(class: usize) -> usize {
    1usize.wrapping_shl(class_shift(class))
}

/// Returns the first byte of a place.
fn place_ptr<P: Platform>(frames: &Frames<P>, slab: u32, place: u32, class: usize) -> *mut u8
where
    P::Memory: LinearMemory,
{
    let first = frames.memory().frame_ptr(Pfn::new(u64::from(slab)));
    first.wrapping_add((place as usize).wrapping_shl(class_shift(class)))
}

/// The context of a heap request: a kernel calls the heap anywhere, so there is
/// no verb. The order is checked within the request; what the caller holds is not
/// known here, so none of it may be a lock of the family's that the heap takes.
struct HeapContext<'a, P: Platform> {
    platform: &'a P,
    ranks: RankStack,
}

impl<'a, P: Platform> HeapContext<'a, P> {
    fn new(frames: &'a Frames<P>) -> Self {
        Self {
            platform: frames.platform(),
            ranks: RankStack::new(),
        }
    }
}

impl<P: Platform> Context for HeapContext<'_, P> {
    fn relax(&self, spins: u32) {
        self.platform.relax(spins);
    }
    fn preempt_off(&self) {
        self.platform.preempt_off();
    }
    fn preempt_on(&self) {
        self.platform.preempt_on();
    }
    fn acquire(&self, rank: Rank) {
        self.ranks.push(rank);
    }
    fn acquire_fresh(&self, rank: Rank) {
        self.ranks.push_fresh(rank);
    }
    fn release(&self, rank: Rank) {
        self.ranks.pop(rank);
    }
}
