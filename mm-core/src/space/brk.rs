//! `brk`: the heap's end (brk(2)).
//!
//! The end is a byte address, returned exactly as it was set; the area behind
//! it consists of whole pages. On failure the old end is returned, as the
//! system call does; so it is where a sealed part would go.

use super::AddressSpace;
use crate::addr::{VirtAddr, page_mask};
use crate::cx::Cx;
use crate::platform::Platform;
use crate::prot::Prot;
use crate::range::PageRange;
use crate::vma::{NewVma, VmaFlags, VmaSpec};

use super::Layout;
use super::busy::Going;

impl<'m, P: Platform> AddressSpace<'m, P> {
    /// Sets where the heap starts; it is empty then. The loader calls it once.
    ///
    /// # Locks
    /// Takes the space lock for writing.
    pub fn set_brk_start(&self, start: VirtAddr) {
        let cx = self.mm.cx();
        let start = start.as_usize();
        self.node().lock.write(&cx, self.key()).brk = Some((start, start));
    }

    /// Moves the heap's end if it can, and returns where it is (brk(2));
    /// `None` only asks.
    ///
    /// # Locks
    /// Takes the space lock for writing, then what [`Self::map`] takes.
    pub fn brk(&self, to: Option<VirtAddr>) -> VirtAddr {
        let cx = self.mm.cx();
        let mut layout = self.write_settled(&cx, |layout| self.heap_part(layout, to));
        let Some((start, end)) = layout.brk else {
            return VirtAddr::new(0);
        };
        let Some(to) = to.map(VirtAddr::as_usize).filter(|&to| to >= start) else {
            return VirtAddr::new(end);
        };
        let Some(going) = self.move_brk(&cx, &mut layout, start, end, to) else {
            return VirtAddr::new(end);
        };
        layout.brk = Some((start, to));
        drop(layout);
        self.finish(&cx, going);
        VirtAddr::new(to)
    }

    /// Returns the pages that a move of the heap's end may concern.
    fn heap_part(&self, layout: &Layout, to: Option<VirtAddr>) -> PageRange {
        let end = layout.brk.map_or(0, |(_, end)| end);
        let to = to.map_or(end, VirtAddr::as_usize);
        let vpn = |at: usize| VirtAddr::new(at).vpn(self.shift());
        PageRange::new(vpn(end.min(to)), vpn(end.max(to)).saturating_add(2))
    }

    fn move_brk(
        &self,
        cx: &Cx<'m, P>,
        layout: &mut Layout,
        start: usize,
        end: usize,
        to: usize,
    ) -> Option<Option<Going>> {
        let page_up = |a: usize| {
            a.checked_add(page_mask(self.shift()))
                .map(|a| VirtAddr::new(a).vpn(self.shift()))
        };
        let (old, new) = (page_up(end)?, page_up(to)?);
        if new < old {
            return self.remove(cx, layout, PageRange::new(new, old)).ok();
        }
        if new == old {
            return Some(None);
        }
        let bytes = to.saturating_sub(start);
        if bytes > layout.limits.data || new > self.user_end() {
            return None;
        }
        let nodes = super::upkeep::Nodes::new(cx, self.mm);
        let range = PageRange::new(old, new);
        let vmas = &self.node().vmas;
        // A page stays free between the heap and what lies above it (Linux does
        // so too), and the guard of a stack.
        let apart = PageRange::new(old, new.saturating_add(1));
        if !vmas.is_free(&nodes, apart) {
            return None;
        }
        let flags = VmaFlags::from_prot(Prot::RW) | VmaFlags::MAY | VmaFlags::ACCOUNT;
        let spec = VmaSpec {
            flags: layout.new_area(flags),
            pgoff: old.as_usize(),
            ..VmaSpec::default()
        };
        self.insert(cx, layout, range, NewVma { spec, like: None })
            .ok()
    }
}
