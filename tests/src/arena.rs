//! RAM out of one big allocation.
//!
//! The first frame has a number of the test's choice. The arena checks what a
//! kernel's memory cannot: a frame is read only in the view it was made in
//! (words, nodes of one type, records, bytes), and free frames are filled with
//! [`POISON`] and checked when they are handed out again, so a store to a freed
//! frame is found, and a frame that nobody cleared is not zero by luck.
//!
//! Where instruction caches do not see stores, each frame has two versions:
//! what was last *written* to it, and what fetches can see (*code*) since
//! somebody last made the frame's instructions visible. What a program does to
//! its own code ([`own_code`]) is not counted: it knows what it owes itself.

use crate::plug::{COUNT, Plug};
use mm_core::addr::Pfn;
use mm_core::format::WordCell;
use mm_core::page::Page;
use mm_core::platform::{DirectMap, LinearMemory, PhysMemory};
use mm_core::pool::Node;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::TypeId;
use std::cell::Cell;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What a free frame is filled with.
pub const POISON: u8 = 0xdb;

const FREE: u64 = 1;
const BYTES: u64 = 2;
/// Set in the views of types, and of page-table words among them.
const TYPED: u64 = 1 << 63;
const WORDS: u64 = 1 << 62;

/// The RAM of a simulated machine.
#[derive(Debug)]
pub struct Arena {
    map: DirectMap,
    first: u64,
    page_shift: u32,
    base: *mut u8,
    layout: Layout,
    /// What each frame is: free, bytes, or the hash of a type.
    views: Vec<AtomicU64>,
    /// How often each frame was written to.
    written: Vec<AtomicU64>,
    /// How often it had been when its instructions were last made visible.
    code: Vec<AtomicU64>,
    hook: Plug<dyn FreeHook>,
}

thread_local! {
    static OWN_CODE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a program's store to memory that it executes from as well: to make the
/// instructions visible is the program's own task, not the kernel's.
pub fn own_code<R>(store: impl FnOnce() -> R) -> R {
    let before = OWN_CODE.replace(true);
    let result = store();
    OWN_CODE.set(before);
    result
}

/// Who wants to know, in the very call, that a frame is freed: the software TLB.
pub trait FreeHook: Send + Sync + Debug {
    /// Looks whether anybody can still reach the frame.
    fn freed(&self, pfn: Pfn);
}

// SAFETY: `base` is only kept to free the allocation at the end; all accesses
// go through `DirectMap`, which is Sync.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes `frames` frames, numbered from `first`.
    ///
    /// # Panics
    /// When the host has not that much memory.
    pub fn new(first: u64, frames: usize, page_shift: u32) -> Self {
        // Aligned like the largest leaf a test may want: 2 MiB of host memory.
        let layout = Layout::from_size_align(frames << page_shift, 1 << 21).unwrap();
        assert!(layout.size() > 0);
        // SAFETY: the size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null(), "no memory for an arena of {frames} frames");
        let start = base.expose_provenance();
        // SAFETY: frames `first..first + frames` lie in the allocation, which
        // lives as long as the arena; `view` refuses all others.
        let map = unsafe {
            DirectMap::new(
                start.wrapping_sub((first as usize) << page_shift),
                page_shift,
            )
        };
        let zeros = || (0..frames).map(|_| AtomicU64::new(0)).collect();
        Self {
            map,
            first,
            page_shift,
            base,
            layout,
            views: zeros(),
            written: zeros(),
            code: zeros(),
            hook: Plug::default(),
        }
    }

    /// Plugs in a look at each frame that is freed, in place of the one before.
    pub fn set_free_hook(&self, hook: Arc<dyn FreeHook>) {
        self.hook.set(hook);
    }

    /// Returns the number of the first frame.
    pub fn first(&self) -> Pfn {
        Pfn::new(self.first)
    }

    /// Returns the number of frames.
    pub fn frames(&self) -> u64 {
        self.views.len() as u64
    }

    /// Returns a copy of a frame's bytes, however it is used: for looking at
    /// what user programs would see.
    pub fn dump(&self, pfn: Pfn) -> Vec<u8> {
        self.index(pfn);
        let mut bytes = vec![0; 1 << self.page_shift];
        self.map.read(pfn, 0, &mut bytes);
        bytes
    }

    /// Makes what was written to a frame visible to fetches: cleans the data
    /// cache to where both caches meet. Instruction caches that hold the frame
    /// must forget it too.
    pub fn clean_code(&self, pfn: Pfn) {
        let i = self.index(pfn);
        self.code[i].store(self.written[i].load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Returns what a fetch that misses every cache sees of a frame, and what it
    /// should see.
    pub fn code_versions(&self, pfn: Pfn) -> (u64, u64) {
        let i = self.index(pfn);
        (
            self.code[i].load(Ordering::SeqCst),
            self.written[i].load(Ordering::SeqCst),
        )
    }

    fn dirty_code(&self, pfn: Pfn) {
        if !OWN_CODE.get() {
            self.written[self.index(pfn)].fetch_add(1, COUNT);
        }
    }

    /// Returns log2 of the size of a frame.
    pub fn page_shift(&self) -> u32 {
        self.page_shift
    }

    /// Returns the 32-bit word of a page table at a physical byte address, as
    /// hardware reads it: whatever the type of the words that were made there.
    ///
    /// # Panics
    /// When no page table is there: a walk went astray.
    pub fn word32(&self, at: u64) -> &AtomicU32 {
        let place = self.table_place(at, 4).cast::<AtomicU32>();
        // SAFETY: `table_place`: within a frame, aligned, and full of the atomic
        // words of a page table, which nobody has a `&mut` to.
        unsafe { &*place }
    }

    /// Returns the 64-bit word at a physical byte address.
    ///
    /// # Panics
    /// As [`Self::word32`].
    pub fn word64(&self, at: u64) -> &AtomicU64 {
        let place = self.table_place(at, 8).cast::<AtomicU64>();
        // SAFETY: as in `word32`.
        unsafe { &*place }
    }

    fn table_place(&self, at: u64, align: u64) -> *mut u8 {
        assert_eq!(at % align, 0, "a walk reads a word at {at:#x}");
        let pfn = Pfn::new(at >> self.page_shift);
        let view = self.view(pfn, 1)[0].load(Ordering::Relaxed);
        assert_eq!(view & WORDS, WORDS, "{pfn} is walked but is no page table");
        let offset = at & ((1 << self.page_shift) - 1);
        self.map.frame_ptr(pfn).wrapping_add(offset as usize)
    }

    /// The bytes of a frame as programs share them: what ThreadSanitizer takes for
    /// races are the programs' own. Only who gets a frame, clears, fills or frees
    /// it touches plain bytes, and that must be ordered with all of these.
    fn shared_bytes(&self, pfn: Pfn, offset: usize, len: usize) -> &[AtomicU8] {
        assert!(
            offset + len <= 1 << self.page_shift,
            "{pfn}: {offset}+{len}"
        );
        let at = self.frame_ptr(pfn).wrapping_add(offset).cast::<AtomicU8>();
        // SAFETY: within a frame of the arena (`frame_ptr` and above), and bytes of
        // any value are valid.
        unsafe { std::slice::from_raw_parts(at, len) }
    }

    fn load_bytes(&self, pfn: Pfn, offset: usize, bytes: &mut [u8]) {
        let from = self.shared_bytes(pfn, offset, bytes.len());
        for (to, from) in bytes.iter_mut().zip(from) {
            *to = from.load(Ordering::Relaxed);
        }
    }

    fn store_bytes(&self, pfn: Pfn, offset: usize, bytes: &[u8]) {
        let to = self.shared_bytes(pfn, offset, bytes.len());
        for (to, from) in to.iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
    }

    fn index(&self, pfn: Pfn) -> usize {
        let i = pfn.as_u64().checked_sub(self.first).map(|i| i as usize);
        i.filter(|&i| i < self.views.len())
            .unwrap_or_else(|| panic!("{pfn} is not in the arena"))
    }

    fn view(&self, pfn: Pfn, frames: usize) -> &[AtomicU64] {
        let i = self.index(pfn);
        self.views
            .get(i..i + frames)
            .unwrap_or_else(|| panic!("{pfn}+{frames} leaves the arena"))
    }

    fn make(&self, pfn: Pfn, frames: usize, view: u64) {
        for (i, v) in self.view(pfn, frames).iter().enumerate() {
            assert_ne!(v.swap(view, Ordering::Relaxed), FREE, "{pfn}+{i} is free");
        }
    }

    fn check(&self, pfn: Pfn, frames: usize, view: u64) {
        for (i, v) in self.view(pfn, frames).iter().enumerate() {
            let is = v.load(Ordering::Relaxed);
            assert_eq!(is, view, "{pfn}+{i} is not used as what it was made");
        }
    }

    /// A frame is touched as bytes: fine unless it is free. Whoever allocated a
    /// frame and only ever copies into it never "makes" it.
    fn touch(&self, pfn: Pfn) {
        for v in self.view(pfn, 1) {
            let is = v.load(Ordering::Relaxed);
            assert_ne!(is, FREE, "{pfn} is free");
            assert!(is <= BYTES, "{pfn} holds words, nodes or records");
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; nobody can reach it
        // any more, since all views borrow the arena.
        unsafe { dealloc(self.base, self.layout) }
    }
}

/// A number for a type, above the small ones.
fn view_of<T: 'static>() -> u64 {
    struct Plain(u64);
    impl Hasher for Plain {
        fn write(&mut self, bytes: &[u8]) {
            for b in bytes {
                self.0 = self.0.wrapping_mul(31).wrapping_add(u64::from(*b));
            }
        }
        fn write_u64(&mut self, n: u64) {
            self.0 ^= n;
        }
        fn finish(&self) -> u64 {
            self.0 & !WORDS | TYPED
        }
    }
    let mut hasher = Plain(0);
    TypeId::of::<T>().hash(&mut hasher);
    hasher.finish()
}

// SAFETY: `DirectMap` keeps the promises; the checks only add panics.
unsafe impl PhysMemory for Arena {
    fn make_words<C: WordCell>(&self, pfn: Pfn, order: u8) {
        self.make(pfn, 1 << order, view_of::<C>() | WORDS);
        self.map.make_words::<C>(pfn, order);
    }
    fn words<C: WordCell>(&self, pfn: Pfn, order: u8) -> &[C] {
        self.check(pfn, 1 << order, view_of::<C>() | WORDS);
        self.map.words(pfn, order)
    }
    fn word<C: WordCell>(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> Option<&C> {
        self.check(pfn, 1, view_of::<C>() | WORDS);
        self.map.word(pfn, slot, slot_bits)
    }
    fn make_slab<T: Node>(&self, pfn: Pfn) {
        self.make(pfn, 1, view_of::<T>());
        self.map.make_slab::<T>(pfn);
    }
    fn slab<T: Node>(&self, pfn: Pfn) -> &[T] {
        self.check(pfn, 1, view_of::<T>());
        self.map.slab(pfn)
    }
    fn node<T: Node>(&self, pfn: Pfn, slot: usize) -> &T {
        self.check(pfn, 1, view_of::<T>());
        self.map.node(pfn, slot)
    }
    fn make_records(&self, pfn: Pfn, frames: usize) {
        self.make(pfn, frames, view_of::<Page>());
        self.map.make_records(pfn, frames);
    }
    fn records(&self, pfn: Pfn, frames: usize) -> &[Page] {
        self.check(pfn, frames, view_of::<Page>());
        self.map.records(pfn, frames)
    }
    fn record(&self, pfn: Pfn, slot: usize, slot_bits: u32) -> Option<&Page> {
        self.check(pfn, 1, view_of::<Page>());
        self.map.record(pfn, slot, slot_bits)
    }
    fn zero(&self, pfn: Pfn, order: u8) {
        self.make(pfn, 1 << order, BYTES);
        for i in 0..1u64 << order {
            self.dirty_code(pfn.saturating_add(i));
        }
        self.map.zero(pfn, order);
    }
    fn copy(&self, from: Pfn, to: Pfn) {
        self.touch(from);
        self.make(to, 1, BYTES);
        if cfg!(mm_tsan) {
            // Of what programs may be storing to; into what is nobody else's yet.
            let mut bytes = vec![0; 1 << self.page_shift];
            self.load_bytes(from, 0, &mut bytes);
            self.map.write(to, 0, &bytes);
        } else {
            self.map.copy(from, to);
        }
        self.dirty_code(to);
    }
    fn read(&self, pfn: Pfn, offset: usize, bytes: &mut [u8]) {
        self.touch(pfn);
        if cfg!(mm_tsan) {
            self.load_bytes(pfn, offset, bytes);
        } else {
            self.map.read(pfn, offset, bytes);
        }
    }
    fn write(&self, pfn: Pfn, offset: usize, bytes: &[u8]) {
        self.touch(pfn);
        if cfg!(mm_tsan) {
            self.store_bytes(pfn, offset, bytes);
        } else {
            self.map.write(pfn, offset, bytes);
        }
        self.dirty_code(pfn);
    }
    fn load_u32(&self, pfn: Pfn, offset: usize) -> u32 {
        self.touch(pfn);
        self.map.load_u32(pfn, offset)
    }
    fn compare_exchange_u32(&self, pfn: Pfn, offset: usize, old: u32, new: u32) -> Result<(), u32> {
        self.touch(pfn);
        self.map.compare_exchange_u32(pfn, offset, old, new)?;
        self.dirty_code(pfn);
        Ok(())
    }

    fn allocated(&self, pfn: Pfn, order: u8) {
        for i in 0..1u64 << order {
            let frame = pfn.saturating_add(i);
            let bad = self.dump(frame).iter().position(|&b| b != POISON);
            assert_eq!(bad, None, "{frame} was written to while it was free");
            self.view(frame, 1)[0].store(0, Ordering::Relaxed);
        }
    }
    fn freed(&self, pfn: Pfn, order: u8) {
        let hook = self.hook.get();
        let poison = vec![POISON; 1 << self.page_shift];
        for i in 0..1u64 << order {
            let frame = pfn.saturating_add(i);
            if let Some(hook) = &hook {
                hook.freed(frame);
            }
            let was = self.view(frame, 1)[0].swap(FREE, Ordering::Relaxed);
            assert_ne!(was, FREE, "{frame} is freed twice");
            self.map.write(frame, 0, &poison);
            self.dirty_code(frame);
        }
    }
}

// SAFETY: as for `DirectMap`, whose frames these are.
unsafe impl LinearMemory for Arena {
    fn frame_ptr(&self, pfn: Pfn) -> *mut u8 {
        self.index(pfn);
        self.map.frame_ptr(pfn)
    }
    fn frame_of(&self, byte: *const u8) -> Pfn {
        self.map.frame_of(byte)
    }
}
