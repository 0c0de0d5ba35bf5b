//! `query`: what is mapped, as values and as text.
//!
//! A listing takes the space lock once for each area and goes on from where
//! the last one ended: areas never overlap in it, also when the space changes
//! meanwhile, and no lock is held while the caller writes (J).

use super::AddressSpace;
use super::upkeep::Nodes;
use crate::addr::{VirtAddr, Vpn};
use crate::error::OutOfMemory;
use crate::format::{Entry, PageTableFormat};
use crate::object::{ObjectRef, ObjectView};
use crate::platform::Platform;
use crate::pool::Handle;
use crate::prot::Prot;
use crate::range::PageRange;
use crate::vma::{Vma, VmaFlags};
use core::fmt;

/// One area, as it was when it was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmaInfo {
    /// The pages.
    pub range: PageRange,
    /// Rights, kind and advice.
    pub flags: VmaFlags,
    /// The byte offset in the object; zero for anonymous memory.
    pub offset: u64,
    /// The pager's key of the object, if there is one.
    pub key: Option<u64>,
}

impl VmaInfo {
    /// Returns the rights.
    pub fn prot(&self) -> Prot {
        self.flags.prot()
    }

    /// Returns whether the pages have places in something: an object or a device.
    fn has_offset(&self) -> bool {
        self.key.is_some() || self.flags.contains(VmaFlags::PFN_MAP)
    }
}

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Returns the area that holds an address.
    ///
    /// # Locks
    /// Takes the space lock for reading.
    pub fn find(&self, addr: VirtAddr) -> Option<VmaInfo> {
        let page = addr.vpn(self.shift());
        self.area_from(page)
            .filter(|info| info.range.contains(page))
    }

    /// Walks the areas in order, each looked at when its turn comes.
    ///
    /// # Locks
    /// Each step takes the space lock for reading.
    pub fn areas(&self) -> impl Iterator<Item = VmaInfo> + '_ {
        let mut at = Vpn::new(0);
        core::iter::from_fn(move || {
            let mut info = self.area_from(at)?;
            if info.range.start() < at {
                // It grew down, or was merged, since its neighbour was shown.
                if info.has_offset() {
                    let skipped = at.pages_since(info.range.start()) as u64;
                    let skipped = skipped.wrapping_shl(self.shift());
                    info.offset = info.offset.saturating_add(skipped);
                }
                info.range = info.range.from(at);
            }
            at = info.range.end();
            Some(info)
        })
    }

    /// Returns the text of /proc/PID/maps (proc(5)); devices and inodes are
    /// the kernel's, so `key` stands where the inode does.
    pub fn maps(&self) -> Maps<'_, 'm, P> {
        Maps { space: self }
    }

    /// Returns the page-table entry of a page, as it is now (Linux:
    /// /proc/PID/pagemap); `Empty` where there is none.
    ///
    /// # Locks
    /// None: it may have changed by the time the caller looks at it.
    pub fn entry(&self, page: Vpn) -> Entry {
        let cx = self.mm.cx();
        let found = self.table(&cx).translate(page);
        found.map_or(Entry::Empty, |(word, level)| {
            cx.format().decode(word, level)
        })
    }

    /// Returns whether a load of a page would wait for nothing (mincore(2)): the space has an
    /// entry for it, or the object that is mapped there has the page. `None` over a hole.
    ///
    /// # Locks
    /// Takes the space lock for reading, then perhaps `Radix`: it may have changed by the
    /// time the caller looks at it.
    pub fn is_resident(&self, addr: VirtAddr) -> Option<bool> {
        let cx = self.mm.cx();
        let nodes = Nodes::new(&cx, self.mm);
        let node = self.node();
        let page = addr.vpn(self.shift());
        let _layout = node.lock.read(&cx, self.key());
        let vma = nodes.vma(node.vmas.find(&nodes, page)?);
        if vma.is_dying() && !vma.is_replaced() {
            return None;
        }
        let entry = self.table(&cx).translate(page);
        let entry = entry.map_or(Entry::Empty, |(word, level)| {
            cx.format().decode(word, level)
        });
        if entry.frame().is_some() {
            return Some(true);
        }
        let object = Handle::from_raw(vma.object_raw());
        // The area's reference is there as long as the lock is held.
        let view = object.map(|object| ObjectView::new(self.mm, &cx, object));
        let cached = view.and_then(|view| view.find_page(vma.pgoff_of(page) as u64));
        Some(cached.is_some())
    }

    /// Returns the object that a shared area maps at an address, and the byte offset of the address
    /// in it: the name of a byte that is the same in every space that maps it (futex(2) without
    /// `FUTEX_PRIVATE_FLAG`). `None` over a hole, in private areas, and in device memory.
    ///
    /// It is the area that is asked, not the page: a copy-on-write changes no answer (H17). The
    /// reference keeps the name from meaning another object while somebody waits under it.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the object has too many references.
    ///
    /// # Locks
    /// Takes the space lock for reading.
    pub fn shared_object(
        &self,
        addr: VirtAddr,
    ) -> Result<Option<(ObjectRef<'m, P>, u64)>, OutOfMemory> {
        let cx = self.mm.cx();
        let nodes = Nodes::new(&cx, self.mm);
        let node = self.node();
        let page = addr.vpn(self.shift());
        let _layout = node.lock.read(&cx, self.key());
        let Some(vma) = node.vmas.find(&nodes, page).map(|vma| nodes.vma(vma)) else {
            return Ok(None);
        };
        let going = vma.is_dying() && !vma.is_replaced();
        let shared = vma.flags().contains(VmaFlags::SHARED) && !going;
        let Some(object) = Handle::from_raw(vma.object_raw()).filter(|_| shared) else {
            return Ok(None);
        };
        let start = (vma.pgoff_of(page) as u64).wrapping_shl(self.shift());
        let offset = start.wrapping_add(addr.page_offset(self.shift()) as u64);
        // The area's reference is there as long as the lock is held.
        let object = ObjectView::new(self.mm, &cx, object).try_ref()?;
        Ok(Some((object, offset)))
    }

    fn area_from(&self, page: Vpn) -> Option<VmaInfo> {
        let cx = self.mm.cx();
        let nodes = Nodes::new(&cx, self.mm);
        let node = self.node();
        let _layout = node.lock.read(&cx, self.key());
        let mut at = node.vmas.first_ending_above(&nodes, page)?;
        let going = |vma: &Vma| vma.is_dying() && !vma.is_replaced();
        while going(nodes.vma(at)) {
            at = node.vmas.next(&nodes, at)?;
        }
        let vma = nodes.vma(at);
        let mut info = VmaInfo {
            range: vma.range(),
            flags: vma.flags().difference(VmaFlags::GOING),
            offset: 0,
            key: nodes.object_key(vma.object_raw()),
        };
        if info.has_offset() {
            info.offset = (vma.pgoff() as u64).wrapping_shl(self.shift());
        }
        Some(info)
    }
}

/// The text of /proc/PID/maps.
pub struct Maps<'a, 'm, P: Platform> {
    space: &'a AddressSpace<'m, P>,
}

impl<P: Platform> fmt::Display for Maps<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for info in self.space.areas() {
            let shift = self.space.shift();
            let shared = if info.flags.contains(VmaFlags::SHARED) {
                's'
            } else {
                'p'
            };
            let last = info.range.end().saturating_sub(1).addr(shift).as_usize();
            writeln!(
                f,
                "{:08x}-{:08x} {}{} {:08x} 00:00 {}",
                info.range.start().addr(shift).as_usize(),
                (last | crate::addr::page_mask(shift)).wrapping_add(1),
                info.prot(),
                shared,
                info.offset,
                info.key.unwrap_or(0),
            )?;
        }
        Ok(())
    }
}
