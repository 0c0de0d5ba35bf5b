//! The peers' page tables, each used as its documentation has it, and the
//! limit: plain stores into a table one holds already.
//!
//! Physical addresses are those of this process, so that each crate reaches
//! its tables by the identity.

use super::{DENSE, FULL, RUN, Rights, SPARSE, Table};
use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::idmap::IdTranslation;
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, VaRange};
use memory_addr::{PhysAddr as MultiPhys, VirtAddr as MultiVirt};
use page_table_multiarch::x86_64::X64PageTable;
use page_table_multiarch::{MappingFlags, PageSize, PagingHandler};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicU64, Ordering};
use x86_64::structures::paging::page_table::PageTableFlags;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PhysFrame, Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

const FRAME_LAYOUT: Layout = match Layout::from_size_align(4096, 4096) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

fn new_frame() -> *mut u8 {
    // SAFETY: the size is not zero.
    let frame = unsafe { alloc_zeroed(FRAME_LAYOUT) };
    assert!(!frame.is_null(), "no memory");
    frame
}

/// Tables that are known beforehand: no walk, no allocation, no check.
pub struct Raw {
    tables: Vec<Box<[AtomicU64]>>,
}

impl Raw {
    pub fn new() -> Self {
        let table = || (0..RUN).map(|_| AtomicU64::new(0)).collect();
        Self {
            tables: (0..2048).map(|_| table()).collect(),
        }
    }

    fn entries(&self, page: usize, pages: usize) -> &[AtomicU64] {
        let base = if page >= SPARSE { SPARSE } else { DENSE };
        let table = &self.tables[(page - base) / RUN];
        &table[page % RUN..page % RUN + pages]
    }
}

impl Table for Raw {
    fn map(&mut self, page: usize, pages: usize, frame: usize) {
        let mut word = (frame << 12) as u64 | 7;
        for entry in self.entries(page, pages) {
            entry.store(word, Ordering::Release);
            word += 1 << 12;
        }
    }

    fn protect(&mut self, page: usize, pages: usize, rights: Rights) {
        for entry in self.entries(page, pages) {
            let word = entry.load(Ordering::Relaxed);
            let word = match rights {
                Rights::Read => word & !2,
                Rights::ReadWrite => word | 2,
            };
            entry.store(word, Ordering::Release);
        }
    }

    fn unmap(&mut self, page: usize, pages: usize) {
        for entry in self.entries(page, pages) {
            entry.store(0, Ordering::Release);
        }
    }

    fn translate(&mut self, page: usize) -> usize {
        (self.entries(page, 1)[0].load(Ordering::Relaxed) >> 12) as usize
    }
}

/// The crate `x86_64`.
pub struct X64 {
    table: OffsetPageTable<'static>,
    root: *const AtomicU64,
}

struct Frames;

// SAFETY: each frame is fresh memory of its own.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        Some(PhysFrame::containing_address(PhysAddr::new(
            new_frame().expose_provenance() as u64,
        )))
    }
}

impl X64 {
    pub fn new() -> Self {
        let root = new_frame();
        root.expose_provenance();
        // SAFETY: a zeroed frame is an empty table, and this is the only
        // reference to it that is used while entries are changed.
        let table = unsafe { &mut *root.cast::<PageTable>() };
        // SAFETY: the identity reaches every table that `Frames` hands out.
        let table = unsafe { OffsetPageTable::new(table, VirtAddr::zero()) };
        Self {
            table,
            root: root.cast_const().cast(),
        }
    }

    /// Four dependent loads.
    pub fn raw_walk(&self, page: usize) -> u64 {
        let mut table = self.root;
        let mut word = 0;
        for level in (0..4).rev() {
            let index = page >> (9 * level) & 511;
            // SAFETY: the caller asks for mapped pages only, so each word leads
            // to a table of this process, and the index is below 512.
            word = unsafe { (*table.add(index)).load(Ordering::Acquire) };
            table = std::ptr::with_exposed_provenance((word & 0xf_ffff_ffff_f000) as usize);
        }
        word
    }

    fn page(page: usize) -> Page {
        Page::containing_address(VirtAddr::new((page << 12) as u64))
    }
}

impl Table for X64 {
    fn map(&mut self, page: usize, pages: usize, frame: usize) {
        let flags = PageTableFlags::PRESENT
            | PageTableFlags::WRITABLE
            | PageTableFlags::USER_ACCESSIBLE
            | PageTableFlags::NO_EXECUTE;
        for i in 0..pages {
            let frame = PhysFrame::containing_address(PhysAddr::new(((frame + i) << 12) as u64));
            // SAFETY: nobody ever uses this table for translating.
            let flush = unsafe {
                self.table
                    .map_to(Self::page(page + i), frame, flags, &mut Frames)
            };
            flush.expect("a free page").ignore();
        }
    }

    fn protect(&mut self, page: usize, pages: usize, rights: Rights) {
        let mut flags =
            PageTableFlags::PRESENT | PageTableFlags::USER_ACCESSIBLE | PageTableFlags::NO_EXECUTE;
        flags.set(PageTableFlags::WRITABLE, rights == Rights::ReadWrite);
        for i in 0..pages {
            // SAFETY: nobody ever uses this table for translating.
            let flush = unsafe { self.table.update_flags(Self::page(page + i), flags) };
            flush.expect("a mapped page").ignore();
        }
    }

    fn unmap(&mut self, page: usize, pages: usize) {
        for i in 0..pages {
            let (_, flush) = self.table.unmap(Self::page(page + i)).expect("a page");
            flush.ignore();
        }
    }

    fn translate(&mut self, page: usize) -> usize {
        let addr = VirtAddr::new((page << 12) as u64);
        let to = self.table.translate_addr(addr);
        to.map_or(0, |addr| (addr.as_u64() >> 12) as usize)
    }
}

/// The crate `page_table_multiarch`.
pub struct Multiarch {
    table: X64PageTable<Handler>,
}

struct Handler;

impl PagingHandler for Handler {
    fn alloc_frames(num: usize, _align: usize) -> Option<MultiPhys> {
        assert_eq!(num, 1, "tables are single frames");
        Some(MultiPhys::from(new_frame().expose_provenance()))
    }

    fn dealloc_frames(paddr: MultiPhys, num: usize) {
        assert_eq!(num, 1, "tables are single frames");
        let frame = std::ptr::with_exposed_provenance_mut(paddr.as_usize());
        // SAFETY: it came from `alloc_frames`, and the crate gives it back once.
        unsafe { dealloc(frame, FRAME_LAYOUT) }
    }

    fn phys_to_virt(paddr: MultiPhys) -> MultiVirt {
        MultiVirt::from(paddr.as_usize())
    }
}

impl Multiarch {
    pub fn new() -> Self {
        Self {
            table: X64PageTable::try_new().expect("a root"),
        }
    }

    fn addr(page: usize) -> MultiVirt {
        MultiVirt::from(page << 12)
    }
}

impl Table for Multiarch {
    fn map(&mut self, page: usize, pages: usize, frame: usize) {
        let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::USER;
        let to = |at: MultiVirt| MultiPhys::from(at.as_usize() - (page << 12) + (frame << 12));
        let mut cursor = self.table.cursor();
        if pages == 1 {
            cursor
                .map(
                    Self::addr(page),
                    to(Self::addr(page)),
                    PageSize::Size4K,
                    flags,
                )
                .expect("a free page");
        } else {
            cursor
                .map_region(Self::addr(page), to, pages << 12, flags, false)
                .expect("a free range");
        }
    }

    fn protect(&mut self, page: usize, pages: usize, rights: Rights) {
        let mut flags = MappingFlags::READ | MappingFlags::USER;
        flags.set(MappingFlags::WRITE, rights == Rights::ReadWrite);
        self.table
            .cursor()
            .protect_region(Self::addr(page), pages << 12, flags)
            .expect("a mapped range");
    }

    fn unmap(&mut self, page: usize, pages: usize) {
        self.table
            .cursor()
            .unmap_region(Self::addr(page), pages << 12)
            .expect("a mapped range");
    }

    fn translate(&mut self, page: usize) -> usize {
        let found = self.table.query(Self::addr(page));
        found.map_or(0, |(addr, _, _)| addr.as_usize() >> 12)
    }
}

/// The crate `aarch64-paging`; its tables are never live here.
pub struct Aarch64 {
    table: Mapping<IdTranslation<El1Attributes>, El1And0>,
}

const ARM_PAGE: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::NON_GLOBAL)
    .union(El1Attributes::USER)
    .union(El1Attributes::INNER_SHAREABLE)
    .union(El1Attributes::ATTRIBUTE_INDEX_1);

impl Aarch64 {
    pub fn new() -> Self {
        let table =
            Mapping::with_asid_and_va_range(IdTranslation::new(), 1, 0, El1And0, VaRange::Lower);
        Self { table }
    }

    fn region(page: usize, pages: usize) -> MemoryRegion {
        MemoryRegion::new(page << 12, (page + pages) << 12)
    }

    fn enter(&mut self, page: usize, pages: usize, frame: usize, attributes: El1Attributes) {
        let constraints = Constraints::NO_BLOCK_MAPPINGS | Constraints::NO_CONTIGUOUS_HINT;
        self.table
            .map_range(
                &Self::region(page, pages),
                PhysicalAddress(frame << 12),
                attributes,
                constraints,
            )
            .expect("a range");
    }
}

impl Table for Aarch64 {
    fn map(&mut self, page: usize, pages: usize, frame: usize) {
        self.enter(page, pages, frame, ARM_PAGE);
    }

    fn protect(&mut self, page: usize, pages: usize, rights: Rights) {
        let (set, clear) = match rights {
            Rights::Read => (El1Attributes::READ_ONLY, El1Attributes::empty()),
            Rights::ReadWrite => (El1Attributes::empty(), El1Attributes::READ_ONLY),
        };
        self.table
            .modify_range(&Self::region(page, pages), &|_, entry| {
                if entry.is_table() {
                    return Ok(());
                }
                entry.modify_flags(set, clear)
            })
            .expect("a mapped range");
    }

    fn unmap(&mut self, page: usize, pages: usize) {
        self.enter(page, pages, 0, El1Attributes::empty());
    }

    fn translate(&mut self, page: usize) -> usize {
        debug_assert!(page >= FULL);
        let mut frame = 0;
        let walked = self
            .table
            .walk_range(&Self::region(page, 1), &mut |_, entry, level| {
                if level == 3 {
                    frame = entry.output_address().0 >> 12;
                }
                Ok(())
            });
        walked.map_or(0, |()| frame)
    }
}
