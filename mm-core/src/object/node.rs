//! The node of an object, and the way to work with it inside a verb.

use super::radix::{Index, Nodes};
use crate::cx::Cx;
use crate::error::{MmError, OutOfMemory};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pool::{Handle, Node};
use crate::prot::Prot;
use crate::sync::{AtomicU32, AtomicUsize, Class, Ordering, RefCount, RwLock};
use crate::tree::IntervalTree;
use crate::vma::ByOffset;

/// Where an object's pages come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectKind {
    /// A pager has them: reading one is a transfer.
    File,
    /// Nobody else has them: they are born zeroed and live until they are
    /// truncated or the object ends (shared anonymous memory, tmpfs).
    Memory,
}

/// What a kernel says about an object when it makes it. Facts only: the object
/// never calls back; transfers are tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagerFacts {
    /// Where pages come from.
    pub kind: ObjectKind,
    /// The kernel's own name for the object; comes back in each request.
    pub key: u64,
    /// The kernel's name for the store whose pages a memory-only object's are counted
    /// among, say a tmpfs ([`Platform::try_hold`]); zero for none.
    pub store: u64,
    /// The size in bytes.
    pub size: u64,
    /// The most that a mapping may ever be allowed.
    pub rights: Prot,
}

impl PagerFacts {
    /// Describes a file whose pages a pager transfers.
    pub const fn file(key: u64, size: u64) -> Self {
        Self {
            kind: ObjectKind::File,
            key,
            store: 0,
            size,
            rights: Prot::RWX,
        }
    }

    /// Describes memory that has no file: shared anonymous memory, tmpfs.
    pub const fn memory(size: u64) -> Self {
        Self {
            kind: ObjectKind::Memory,
            key: 0,
            store: 0,
            size,
            rights: Prot::RWX,
        }
    }

    /// Names the object.
    #[must_use]
    pub const fn named(mut self, key: u64) -> Self {
        self.key = key;
        self
    }

    /// Counts the pages of a memory-only object among those of a store.
    #[must_use]
    pub const fn in_store(mut self, store: u64) -> Self {
        self.store = store;
        self
    }

    /// Limits what a mapping may ever be allowed.
    #[must_use]
    pub const fn rights(mut self, rights: Prot) -> Self {
        self.rights = rights;
        self
    }
}

/// Cached pages by offset, and who maps them: see the module.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Object {
    free: AtomicU32,
    refs: RefCount,
    kind: AtomicU32,
    rights: AtomicU32,
    key: [AtomicU32; 2],
    store: [AtomicU32; 2],
    /// Above zero: how many write. Below (as a signed number): how many deny it.
    writers: AtomicU32,
    /// The size in pages, rounded up: what is tested under inner locks. It
    /// changes together with `map`'s size.
    pub(super) pages: AtomicUsize,
    pub(super) map: RwLock<Mapped>,
    pub(super) index: Index,
}

/// What the `ObjectMap` lock guards.
#[derive(Debug)]
pub(super) struct Mapped {
    /// The size in bytes.
    pub(super) size: u64,
    /// Pages past the end are still to be dropped.
    pub(super) truncating: bool,
    /// The areas that map the object, by page offset.
    pub(super) areas: IntervalTree<ByOffset>,
}

impl Mapped {
    /// What an object of this size begins with.
    fn new(size: u64) -> Self {
        Self {
            size,
            truncating: false,
            areas: IntervalTree::new(),
        }
    }
}

impl Node for Object {
    const NAME: &'static str = "object";

    fn new() -> Self {
        Self {
            free: AtomicU32::new(0),
            refs: RefCount::new(),
            kind: AtomicU32::new(0),
            rights: AtomicU32::new(0),
            key: core::array::from_fn(|_| AtomicU32::new(0)),
            store: core::array::from_fn(|_| AtomicU32::new(0)),
            writers: AtomicU32::new(0),
            pages: AtomicUsize::new(0),
            map: RwLock::new(Class::ObjectMap, Mapped::new(0)),
            index: Index::new(),
        }
    }

    fn free_link(&self) -> &AtomicU32 {
        &self.free
    }
}

impl Object {
    /// Returns where pages come from.
    pub fn kind(&self) -> ObjectKind {
        match self.kind.load(Ordering::Relaxed) {
            0 => ObjectKind::File,
            _ => ObjectKind::Memory,
        }
    }

    /// Returns the pager's name for the object.
    pub fn key(&self) -> u64 {
        load_halves(&self.key)
    }

    /// Returns the kernel's name for the object's store; zero for none.
    pub fn store(&self) -> u64 {
        load_halves(&self.store)
    }

    /// Returns the most that a mapping may ever be allowed.
    pub fn rights(&self) -> Prot {
        #[expect(clippy::cast_possible_truncation, reason = "stored from a u8")]
        Prot::from_bits_truncate(self.rights.load(Ordering::Relaxed) as u8)
    }

    /// Returns the number of references.
    pub fn refs(&self) -> u32 {
        self.refs.load()
    }

    /// Returns the number of cached pages.
    pub fn cached_pages(&self) -> usize {
        self.index.pages()
    }

    /// Counts one who may write (an open for writing, a shared writable mapping).
    ///
    /// # Errors
    /// [`MmError::Busy`] while someone denies it: the object is being executed
    /// (`ETXTBSY`).
    pub fn allow_writer(&self) -> Result<(), MmError> {
        self.change_writers(|n| if n < 0 { None } else { n.checked_add(1) })
    }

    /// Ends what [`Self::allow_writer`] began.
    pub fn end_writer(&self) {
        let ended = self.change_writers(|n| if n > 0 { n.checked_sub(1) } else { None });
        debug_assert!(ended.is_ok(), "a writer ended that never began");
    }

    /// Denies writing, while a program of the object runs.
    ///
    /// # Errors
    /// [`MmError::Busy`] while someone may write (`ETXTBSY`).
    pub fn deny_writers(&self) -> Result<(), MmError> {
        self.change_writers(|n| if n > 0 { None } else { n.checked_sub(1) })
    }

    /// Ends what [`Self::deny_writers`] began.
    pub fn end_deny(&self) {
        let ended = self.change_writers(|n| if n < 0 { n.checked_add(1) } else { None });
        debug_assert!(ended.is_ok(), "a denial ended that never began");
    }

    fn change_writers(&self, change: impl Fn(i32) -> Option<i32>) -> Result<(), MmError> {
        let step = |n: u32| change(n as i32).map(|n| n as u32);
        let changed = self
            .writers
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, step);
        changed.map(|_| ()).map_err(|_| MmError::Busy)
    }

    /// Adds a reference to an object that already has one.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the count is near its end: never a wrap.
    pub fn get_ref(&self) -> Result<(), OutOfMemory> {
        self.refs.try_get().then_some(()).ok_or(OutOfMemory)
    }

    /// Adds an area's reference, which cannot be refused: where so many are
    /// counted, the object stays for good instead.
    pub(crate) fn get_area_ref(&self) {
        self.refs.get();
    }
}

/// One object inside a verb: the machine, the context and the node.
pub struct ObjectView<'c, 'm, P: Platform> {
    pub(super) mm: &'m Mm<P>,
    pub(super) cx: &'c Cx<'m, P>,
    pub(super) handle: Handle<Object>,
    pub(super) object: &'m Object,
}

impl<P: Platform> Clone for ObjectView<'_, '_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for ObjectView<'_, '_, P> {}

impl<'c, 'm, P: Platform> ObjectView<'c, 'm, P> {
    /// Looks at an object that the caller holds a reference to.
    pub fn new(mm: &'m Mm<P>, cx: &'c Cx<'m, P>, handle: Handle<Object>) -> Self {
        Self {
            mm,
            cx,
            handle,
            object: mm.objects.get(mm.frames(), handle),
        }
    }

    /// Makes an object without pages; its one reference is the caller's.
    ///
    /// # Errors
    /// [`MmError::TooBig`] for a size that has no page numbers,
    /// [`MmError::OutOfMemory`].
    pub fn create(mm: &'m Mm<P>, cx: &'c Cx<'m, P>, facts: PagerFacts) -> Result<Self, MmError> {
        let pages = pages_of(facts.size, cx.page_shift()).ok_or(MmError::TooBig)?;
        let view = Self::new(mm, cx, mm.objects.alloc(cx)?);
        let object = view.object;
        store_halves(&object.key, facts.key);
        store_halves(&object.store, facts.store);
        object.kind.store(
            u32::from(facts.kind == ObjectKind::Memory),
            Ordering::Relaxed,
        );
        object
            .rights
            .store(u32::from(facts.rights.bits()), Ordering::Relaxed);
        object.writers.store(0, Ordering::Relaxed);
        debug_assert!(object.index.pages() == 0);
        // The node may have been another object's: nothing of that stays.
        *object.map.write(cx, view.key()) = Mapped::new(facts.size);
        object.pages.store(pages, Ordering::Relaxed);
        object.refs.start();
        Ok(view)
    }

    /// Returns the handle.
    pub fn handle(&self) -> Handle<Object> {
        self.handle
    }

    /// Returns the node.
    pub fn object(&self) -> &'m Object {
        self.object
    }

    /// Gives up a reference; the last one drops all pages and frees the node.
    ///
    /// # Locks
    /// Takes `Radix`, `Pool` and `Buddy`.
    pub fn put(self) {
        if self.object.refs.put() {
            self.drop_pages_from(0);
            let freed = self.mm.objects.free(self.cx, self.handle);
            debug_assert_eq!(freed, Ok(()));
        }
    }

    /// The key of the object's map lock.
    pub(super) fn key(&self) -> u32 {
        self.handle.into_raw()
    }

    pub(super) fn nodes(&self) -> Nodes<'m, P> {
        Nodes {
            frames: self.mm.frames(),
            pool: &self.mm.radix,
        }
    }

    /// Returns the number of pages that so many bytes take.
    pub(super) fn pages_of(self, size: u64) -> Option<usize> {
        pages_of(size, self.cx.page_shift())
    }
}

fn load_halves(words: &[AtomicU32; 2]) -> u64 {
    let [low, high] = words;
    let (low, high) = (low.load(Ordering::Relaxed), high.load(Ordering::Relaxed));
    u64::from(high) << 32 | u64::from(low)
}

#[expect(clippy::cast_possible_truncation, reason = "two halves of a u64")]
fn store_halves(words: &[AtomicU32; 2], value: u64) {
    let [low, high] = words;
    low.store(value as u32, Ordering::Relaxed);
    high.store((value >> 32) as u32, Ordering::Relaxed);
}

fn pages_of(size: u64, shift: u32) -> Option<usize> {
    let last = size.checked_sub(1);
    let pages = last.map_or(Some(0), |b| (b >> shift).checked_add(1))?;
    // The page numbers of 32-bit machines end before the offsets do.
    usize::try_from(pages)
        .ok()
        .filter(|_| i64::try_from(size).is_ok())
}
