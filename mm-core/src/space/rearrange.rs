//! `rearrange`: other pages of its object in place of shared pages
//! (remap_file_pages(2)).
//!
//! Areas are linear: as Linux since 4.0, this is a map over the range, with the
//! rights that are there. It is a verb so that nobody changes the areas between
//! the look at them and the map.

use super::AddressSpace;
use super::map::object_pgoff;
use super::upkeep::Nodes;
use crate::addr::VirtAddr;
use crate::error::MmError;
use crate::object::ObjectView;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::range::PageRange;
use crate::vma::{NewVma, VmaFlags, VmaSpec};

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Maps the pages of an object from a byte offset on in place of others of it
    /// (remap_file_pages(2)). Address and length are rounded down to pages. Pages that
    /// a locked area gained are brought in by [`Self::populate`].
    ///
    /// # Errors
    /// `Invalid` unless the range is shared memory of one object and of one kind, without
    /// a hole, and for an unaligned offset; `TooBig` for one that has no number. `Limit`,
    /// `OutOfMemory`, `NotPermitted`. Nothing has changed then.
    ///
    /// # Locks
    /// As [`Self::map`].
    pub fn rearrange(&self, addr: VirtAddr, len: usize, offset: u64) -> Result<(), MmError> {
        let shift = self.shift();
        let pages = len.checked_shr(shift).unwrap_or(0);
        let range = PageRange::with_len(addr.vpn(shift), pages).filter(|range| !range.is_empty());
        let range = range.ok_or(MmError::Invalid(addr))?;
        let cx = self.mm.cx();
        let nodes = Nodes::new(&cx, self.mm);
        let mut layout = self.write_settled(&cx, |_| range);
        let (object, flags) = self
            .shared_alike(&nodes, range)
            .ok_or(MmError::Invalid(addr))?;
        let pgoff = object_pgoff(offset, pages, shift)?;
        // The areas that go may have the last references.
        let _kept = ObjectView::new(self.mm, &cx, object).try_ref()?;
        let kept = VmaFlags::RIGHTS | VmaFlags::MAY | VmaFlags::SHARED | VmaFlags::LOCKED;
        let spec = VmaSpec {
            flags: layout.new_area(flags.intersection(kept)),
            pgoff,
            object: object.into_raw(),
            hook: 0,
            mem: crate::prot::MemType::WriteBack,
        };
        let going = self.insert(&cx, &mut layout, range, NewVma { spec, like: None })?;
        drop(layout);
        self.finish(&cx, going);
        Ok(())
    }

    /// Returns what the areas of a range have in common, if they are shared ones of one
    /// object, of equal flags, and leave no hole.
    fn shared_alike(
        &self,
        nodes: &Nodes<'_, 'm, P>,
        range: PageRange,
    ) -> Option<(Handle<crate::object::Object>, VmaFlags)> {
        let vmas = &self.node().vmas;
        let mut areas = vmas.overlapping(nodes, range).map(|vma| nodes.vma(vma));
        let first = areas.next()?;
        let (object, flags) = (first.object_raw(), first.flags());
        let alike = areas.all(|vma| vma.object_raw() == object && vma.flags() == flags)
            && vmas.first_hole(nodes, range).is_none();
        let object = Handle::from_raw(object)?;
        (alike && flags.contains(VmaFlags::SHARED)).then_some((object, flags))
    }
}
