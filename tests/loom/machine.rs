//! A machine for models: frames are vectors of loom's atomics.
//!
//! What a frame was made into is kept until the model ends, so a reference
//! stays valid; but when the frame is freed its words are overwritten with
//! [`POISON`], so whoever still looks at it sees that. A loom atomic is not laid
//! out as a word, which is why nothing here has an address.

#![allow(dead_code, reason = "each model uses its part")]

use loom::sync::atomic::{AtomicU32, Ordering};
use mm_core::Mm;
use mm_core::addr::Pfn;
use mm_core::error::OutOfMemory;
use mm_core::format::tiny::{SetsBoth, Tiny};
use mm_core::format::{
    AdBit, Attrs, Cell, Entry, FormatError, HardwareAd, NonPresent, PageTableFormat, Run,
    TableOwner, Word, WordCell,
};
use mm_core::object::TicketKey;
use mm_core::page::{Frames, Page};
use mm_core::platform::{CpuSet, Flush, PhysMemory, Platform};
use mm_core::pool::Node;
use mm_core::prot::Prot;
use mm_core::sync::NoContext;
use std::any::{Any, TypeId};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32 as Plain32, AtomicUsize as AtomicPlain, Ordering::Relaxed};

/// A word that no table holds: not present, of a kind that nobody writes.
pub const POISON: u64 = 0xf0e;

/// The words of a directory of the page map.
const DIRECTORY: usize = 32;

/// What the bytes of a free frame read as.
pub const GONE: u32 = 0xdead;

/// 128-byte pages, so that a frame holds four page records and few frames do.
#[derive(Clone, Copy, Debug)]
pub struct Small(pub Tiny<u64, SetsBoth>, pub Replacing);

/// How a valid entry may be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replacing {
    /// In place.
    InPlace,
    /// By way of an invalid one and a flush.
    Breaking,
}

// SAFETY: all bits are the inner format's.
unsafe impl PageTableFormat for Small {
    type Word = u64;
    fn page_shift(self) -> u32 {
        7
    }
    fn hardware_ad(self) -> HardwareAd {
        HardwareAd::Both
    }
    fn break_before_make(self) -> bool {
        self.1 == Replacing::Breaking
    }
    fn caches_invalid(self) -> bool {
        false
    }
    fn nonpresent_bits(self) -> u32 {
        60
    }

    fn levels(self) -> u8 {
        self.0.levels()
    }
    fn index_bits(self, level: u8) -> u32 {
        self.0.index_bits(level)
    }
    fn leaf_at(self, level: u8) -> bool {
        self.0.leaf_at(level)
    }
    fn user_end(self) -> mm_core::addr::Vpn {
        self.0.user_end()
    }
    fn kernel_root_index(self) -> usize {
        self.0.kernel_root_index()
    }
    fn decode(self, word: u64, level: u8) -> Entry {
        self.0.decode(word, level)
    }
    fn encode_leaf(self, pfn: Pfn, attrs: Attrs, level: u8) -> Result<u64, FormatError> {
        self.0.encode_leaf(pfn, attrs, level)
    }
    fn encode_table(self, pfn: Pfn, level: u8, owner: TableOwner) -> Result<u64, FormatError> {
        self.0.encode_table(pfn, level, owner)
    }
    fn encode_nonpresent(self, entry: NonPresent) -> Result<u64, FormatError> {
        self.0.encode_nonpresent(entry)
    }
    fn next_page(self, word: u64, level: u8) -> u64 {
        self.0.next_page(word, level)
    }
    fn write_protect(self, word: u64) -> u64 {
        self.0.write_protect(word)
    }
    fn ad_settled(self, word: u64) -> bool {
        self.0.ad_settled(word)
    }
    fn is_young(self, word: u64) -> bool {
        self.0.is_young(word)
    }
    fn is_dirty(self, word: u64) -> bool {
        self.0.is_dirty(word)
    }
    fn with_young(self, word: u64, young: AdBit) -> u64 {
        self.0.with_young(word, young)
    }
    fn with_dirty(self, word: u64, dirty: AdBit) -> u64 {
        self.0.with_dirty(word, dirty)
    }
    fn with_prot(self, word: u64, prot: Prot, level: u8) -> Result<u64, FormatError> {
        self.0.with_prot(word, prot, level)
    }
    fn run_bits(self, level: u8) -> u32 {
        self.0.run_bits(level)
    }
    fn is_run(self, word: u64) -> bool {
        self.0.is_run(word)
    }
    fn with_run(self, word: u64, run: Run) -> u64 {
        self.0.with_run(word, run)
    }
    fn load(self, node: &[Cell<Self>], i: usize) -> u64 {
        let word = self.0.load(node, i);
        assert_ne!(word, POISON, "a freed table is read");
        word
    }
}

/// Two-level tables of four entries.
const FORMAT: Small = Small(Tiny::new(2, 2), Replacing::InPlace);

struct View {
    node: Box<dyn Any + Send + Sync>,
    poison: fn(&(dyn Any + Send + Sync)),
}

/// The frames.
pub struct Memory {
    /// All that each frame ever was, the newest last. Views are never dropped
    /// before the memory is, and boxes do not move.
    views: Vec<Mutex<Vec<View>>>,
    /// The entries of a table. Each word more would be one more that a freed table is
    /// overwritten in, beside other threads.
    entries: usize,
    /// The first four bytes of each frame of user memory. Which schedules there
    /// are does not depend on them: locks guard them, models do not.
    bytes: Vec<Plain32>,
    /// The frame that CPU 2 can store to without asking the table, until it is
    /// sent a flush: it remembers a writable entry.
    stored_to: AtomicPlain,
}

impl Memory {
    fn add<T: Send + Sync + 'static>(
        &self,
        pfn: Pfn,
        node: Vec<T>,
        poison: fn(&(dyn Any + Send + Sync)),
    ) {
        let view = View {
            node: Box::new(node),
            poison,
        };
        self.views[pfn.as_usize()].lock().unwrap().push(view);
    }

    fn view<T: 'static>(&self, pfn: Pfn) -> &[T] {
        let views = self.views[pfn.as_usize()].lock().unwrap();
        let view = views
            .last()
            .expect("the frame was never made into anything");
        let node: &Vec<T> = view
            .node
            .downcast_ref()
            .expect("the frame is something else");
        let node: *const Vec<T> = node;
        // SAFETY: the box is neither moved, changed nor dropped before `self`.
        unsafe { &*node }
    }
}

fn poison_words<C: WordCell>(node: &(dyn Any + Send + Sync)) {
    if let Some(words) = node.downcast_ref::<Vec<C>>() {
        words
            .iter()
            .for_each(|w| w.store(<C::Word as Word>::from_u64(POISON)));
    }
}

// SAFETY: each frame has its own views; see `view` for how long they live.
unsafe impl PhysMemory for Memory {
    fn make_words<C: WordCell>(&self, pfn: Pfn, _order: u8) {
        let zero = <C::Word as Word>::ZERO;
        {
            // The same words as before, so that who sees them without order
            // may see what they were.
            let views = self.views[pfn.as_usize()].lock().unwrap();
            if let Some(words) = views.last().and_then(|v| v.node.downcast_ref::<Vec<C>>()) {
                return words.iter().for_each(|w| w.store(zero));
            }
        }
        let is_table = TypeId::of::<C>() == TypeId::of::<Cell<Small>>();
        let count = if is_table { self.entries } else { DIRECTORY };
        let words: Vec<C> = (0..count).map(|_| C::new(zero)).collect();
        self.add(pfn, words, poison_words::<C>);
    }
    fn words<C: WordCell>(&self, pfn: Pfn, _order: u8) -> &[C] {
        self.view(pfn)
    }
    fn make_slab<T: Node>(&self, pfn: Pfn) {
        // Loom's nodes are larger than a page: a handle has no bits for slots.
        self.add(pfn, vec![T::new()], |_| ());
    }
    fn slab<T: Node>(&self, pfn: Pfn) -> &[T] {
        self.view(pfn)
    }
    fn node<T: Node>(&self, pfn: Pfn, _slot: usize) -> &T {
        &self.view(pfn)[0]
    }
    fn make_records(&self, pfn: Pfn, _frames: usize) {
        self.add(pfn, (0..4).map(|_| Page::new()).collect(), |_| ());
    }
    fn records(&self, pfn: Pfn, _frames: usize) -> &[Page] {
        self.view(pfn)
    }
    fn zero(&self, pfn: Pfn, _order: u8) {
        self.bytes[pfn.as_usize()].store(0, Relaxed);
    }
    fn copy(&self, from: Pfn, to: Pfn) {
        let bytes = self.bytes[from.as_usize()].load(Relaxed);
        assert_ne!(bytes, GONE, "a free frame was copied");
        let stored_to = self.stored_to.load(Relaxed);
        assert_ne!(from.as_usize(), stored_to, "a CPU can still store to it");
        self.bytes[to.as_usize()].store(bytes, Relaxed);
    }
    fn read(&self, pfn: Pfn, offset: usize, bytes: &mut [u8]) {
        let held = self.bytes[pfn.as_usize()].load(Relaxed);
        assert_ne!(held, GONE, "a free frame was read");
        if offset == 0 && bytes.len() == 4 {
            bytes.copy_from_slice(&held.to_ne_bytes());
        }
    }
    fn write(&self, pfn: Pfn, offset: usize, bytes: &[u8]) {
        let held = self.bytes[pfn.as_usize()].load(Relaxed);
        assert_ne!(held, GONE, "a free frame was written to");
        if offset == 0 && bytes.len() == 4 {
            let bytes = u32::from_ne_bytes(bytes.try_into().unwrap());
            self.bytes[pfn.as_usize()].store(bytes, Relaxed);
        }
    }
    fn load_u32(&self, _pfn: Pfn, _offset: usize) -> u32 {
        0
    }
    fn compare_exchange_u32(&self, _: Pfn, _: usize, _: u32, _: u32) -> Result<(), u32> {
        Ok(())
    }
    fn freed(&self, pfn: Pfn, order: u8) {
        for i in 0..1 << order {
            self.bytes[pfn.as_usize() + i].store(GONE, Relaxed);
            let views = self.views[pfn.as_usize() + i].lock().unwrap();
            if let Some(view) = views.last() {
                (view.poison)(view.node.as_ref());
            }
        }
    }
}

loom::thread_local! {
    static CPU: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

/// Makes the calling thread a CPU of its own.
pub fn be_cpu(cpu: usize) {
    CPU.with(|c| c.set(cpu));
}

/// The machine: memory, and a count of the flushes that each CPU was sent.
pub struct Machine {
    memory: Memory,
    format: Small,
    pub flushed: [AtomicU32; 3],
    /// How many hold preemption off on each CPU.
    pinned: [AtomicPlain; 3],
    /// How often a model took all that was free.
    used_up: AtomicPlain,
    /// Whether CPU 1 is hardware alone.
    has_tlb: bool,
    /// What it remembers of one page or run, then.
    pub remembered: loom::sync::Mutex<Option<Remembered>>,
    /// Who waits for a transfer.
    sleepers: loom::sync::Mutex<()>,
    woken: loom::sync::Condvar,
    /// The frames that users may still be given, where the model bounds them.
    room: Option<AtomicU32>,
    /// Whether the model looks at [`Self::tagged`].
    has_tags: bool,
    /// What each CPU remembers under which tag: a space's number. The lock is
    /// the CPU's own and a flush's that tells it: an interrupt orders, too.
    pub tagged: [loom::sync::Mutex<Vec<(u16, u32)>>; 3],
}

/// One TLB entry.
#[derive(Clone, Copy, Debug)]
pub struct Remembered {
    /// Hardware need not note stores any more.
    pub dirty: bool,
}

impl Machine {
    /// Makes a machine of `frames` frames with two-level tables of four entries.
    pub fn boot(frames: usize) -> Frames<Self> {
        Self::new(frames, FORMAT).boots()
    }

    /// As [`Self::boot`], with a format of one's own, and with CPU 1 as hardware alone.
    pub fn boot_as(frames: usize, format: Small) -> Frames<Self> {
        let mut machine = Self::new(frames, format);
        machine.has_tlb = true;
        machine.boots()
    }

    /// As [`Self::boot`], with hardware tags.
    pub fn boot_tagged(frames: usize) -> Frames<Self> {
        let mut machine = Self::new(frames, FORMAT);
        machine.has_tags = true;
        machine.boots()
    }

    /// Gives the machine its frames.
    fn boots(self) -> Frames<Self> {
        let frames = self.memory.views.len() as u64;
        let machine = Frames::new(self);
        machine.add_region(&NoContext, Pfn::new(0), frames).unwrap();
        machine
    }

    /// Makes a machine that knows none of its frames yet.
    fn new(frames: usize, format: Small) -> Self {
        let levels = 1..=format.levels();
        Self {
            memory: Memory {
                views: (0..frames).map(|_| Mutex::default()).collect(),
                entries: levels.map(|level| format.entries(level)).max().unwrap(),
                bytes: (0..frames).map(|_| Plain32::new(GONE)).collect(),
                stored_to: AtomicPlain::new(usize::MAX),
            },
            format,
            flushed: std::array::from_fn(|_| AtomicU32::new(0)),
            remembered: loom::sync::Mutex::new(None),
            pinned: std::array::from_fn(|_| AtomicPlain::new(0)),
            used_up: AtomicPlain::new(0),
            has_tlb: false,
            has_tags: false,
            tagged: std::array::from_fn(|_| loom::sync::Mutex::new(Vec::new())),
            room: None,
            sleepers: loom::sync::Mutex::new(()),
            woken: loom::sync::Condvar::new(),
        }
    }

    /// Sleeps as a kernel does: registers first, asks then.
    pub fn sleep_while(&self, pending: impl Fn() -> bool) {
        let mut registered = self.sleepers.lock().unwrap();
        while pending() {
            registered = self.woken.wait(registered).unwrap();
        }
    }

    /// Runs a model on the memory of a machine of `frames` frames, with
    /// two-level tables of four entries; checks that all of it is free in the end.
    pub fn with_mm(frames: usize, model: impl FnOnce(&'static Mm<Self>)) {
        Self::with_cpus(frames, 0, model);
    }

    /// As [`Self::with_mm`], where so many CPUs keep things for themselves.
    pub fn with_cpus(frames: usize, cpus: usize, model: impl FnOnce(&'static Mm<Self>)) {
        Self::new(frames, FORMAT).with_model(cpus, model);
    }

    /// As [`Self::with_mm`], where users are given so many frames; checks that they give
    /// all of them back.
    pub fn with_room(frames: usize, room: u32, model: impl FnOnce(&'static Mm<Self>)) {
        let mut machine = Self::new(frames, FORMAT);
        machine.room = Some(AtomicU32::new(room));
        machine.with_model(0, |mm| {
            model(mm);
            let left = mm.platform().room.as_ref().unwrap();
            assert_eq!(left.load(Ordering::Relaxed), room, "charged for ever");
        });
    }

    fn with_model(self, cpus: usize, model: impl FnOnce(&'static Mm<Self>)) {
        let mm = Box::into_raw(Box::new(Mm::new(self)));
        // SAFETY: it is dropped below, after the model and all of its threads,
        // which it joins.
        let shared = unsafe { &*mm };
        let frames = shared.platform().memory.views.len() as u64;
        let region = shared.frames().add_region(&NoContext, Pfn::new(0), frames);
        region.unwrap();
        shared.frames().add_cpus(&NoContext, cpus).unwrap();
        shared.frames().init_zero_page(&NoContext).unwrap();
        let before = shared.frames().free_frames();
        model(shared);
        shared.drain();
        assert!(shared.usage().is_clean(), "{:?}", shared.usage());
        let stats = shared.frames().stats();
        assert_eq!(stats.free, before, "frames are lost");
        let used_up = shared.platform().used_up.load(Relaxed);
        assert_eq!(stats.refused, used_up, "the machine is too small");
        // SAFETY: made by `into_raw` above; nobody has it any more.
        drop(unsafe { Box::from_raw(mm) });
    }

    /// Returns how many hold preemption off on a CPU.
    pub fn preempt_offs(&self, cpu: usize) -> usize {
        self.pinned[cpu].load(Relaxed)
    }

    /// Lets CPU 2 remember a writable entry that leads to a frame.
    pub fn remember(&self, pfn: Pfn) {
        self.memory.stored_to.store(pfn.as_usize(), Relaxed);
    }

    /// Returns whether CPU 2 can still store to a frame without asking the table.
    pub fn remembers(&self, pfn: Pfn) -> bool {
        self.memory.stored_to.load(Relaxed) == pfn.as_usize()
    }

    /// Makes every free frame one that was a table before.
    pub fn dirty(frames: &Frames<Self>) {
        let all: Vec<_> = std::iter::from_fn(|| frames.alloc(&NoContext, 0).ok()).collect();
        frames.platform().used_up.fetch_add(1, Relaxed);
        for &pfn in &all {
            frames.memory().make_words::<Cell<Small>>(pfn, 0);
        }
        for pfn in all {
            frames.free(&NoContext, pfn).unwrap();
        }
    }
}

// SAFETY: the frames are the model's own, a thread says which CPU it is, and
// there is no TLB: the model looks at whom a flush is sent to.
unsafe impl Platform for Machine {
    type Format = Small;
    type Memory = Memory;

    fn format(&self) -> Small {
        self.format
    }
    fn memory(&self) -> &Memory {
        &self.memory
    }
    fn cpu(&self) -> usize {
        CPU.with(|c| c.get())
    }
    fn preempt_off(&self) {
        self.pinned[self.cpu()].fetch_add(1, Relaxed);
    }
    fn preempt_on(&self) {
        let before = self.pinned[self.cpu()].fetch_sub(1, Relaxed);
        assert_ne!(before, 0, "another CPU counted it");
    }
    fn relax(&self, _spins: u32) {
        loom::thread::yield_now();
    }
    fn try_charge(&self, frames: usize) -> Result<(), OutOfMemory> {
        let Some(room) = &self.room else {
            return Ok(());
        };
        let take = |room: u32| room.checked_sub(frames as u32);
        let taken = room.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take);
        taken.map(|_| ()).map_err(|_| OutOfMemory)
    }
    fn uncharge(&self, frames: usize) {
        if let Some(room) = &self.room {
            room.fetch_add(frames as u32, Ordering::AcqRel);
        }
    }
    fn wake(&self, _key: TicketKey) {
        let _registered = self.sleepers.lock().unwrap();
        self.woken.notify_all();
    }
    fn flush(&self, cpus: CpuSet, flush: Flush) {
        for cpu in cpus.iter().filter(|_| self.has_tags) {
            let meets = |tag: u16| flush.asid.is_none_or(|asid| asid == tag);
            self.tagged[cpu].lock().unwrap().retain(|e| !meets(e.0));
        }
        // The CPU ends its access before it answers.
        if self.has_tlb && cpus.contains(1) {
            *self.remembered.lock().unwrap() = None;
        }
        for cpu in cpus.iter() {
            self.flushed[cpu].fetch_add(1, Ordering::AcqRel);
        }
        // Loom does not see this store: it tries what may come before the flush because
        // it sees the one above.
        if cpus.contains(2) {
            self.memory.stored_to.store(usize::MAX, Relaxed);
        }
    }
}
