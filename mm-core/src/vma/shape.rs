//! The content of an area as a value, for plans.

use super::VmaFlags;
use crate::prot::{MemType, Prot};
use crate::range::PageRange;

/// What an area maps: everything but where it lies and who faulted on it.
///
/// Two areas with equal backing at contiguous offsets show the same bytes as
/// one area over both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmaSpec {
    /// Rights, kind, advice.
    pub flags: VmaFlags,
    /// The page of the backing that the first page maps. Of the object, in
    /// pages; anonymous memory: the page number where it was first placed;
    /// `PFN_MAP`: the frame number.
    pub pgoff: usize,
    /// The number of the object's handle, zero where there is none.
    pub object: u32,
    /// The kernel's number for its custom operations, zero where there are none.
    pub hook: u32,
    /// How accesses are cached; other than write-back for devices only.
    pub mem: MemType,
}

/// Which anon_vma an area's private pages belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AnonLink {
    /// No private page was made yet.
    #[default]
    None,
    /// The anon_vma of this number; made here, no parent holds pages of it.
    Alone(u32),
    /// The anon_vma of this number; there are chains to ancestors too, whose
    /// pages may still be mapped here after a fork.
    Family(u32),
}

/// An area as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Where it lies.
    pub range: PageRange,
    /// What it maps from `range.start()` on.
    pub spec: VmaSpec,
    /// Whose private pages it may hold.
    pub anon: AnonLink,
}

impl AnonLink {
    /// Returns the number of the anon_vma.
    pub const fn id(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Alone(id) | Self::Family(id) => Some(id),
        }
    }

    /// Returns whether two areas may share one list of chains.
    ///
    /// One of them may have none yet, but only if the other has no ancestors:
    /// pages of a fork's parent would otherwise have to be looked for in ever
    /// larger areas. That is Linux's rule too, and what keeps an area with
    /// pages inherited by fork from merging with a new neighbour.
    pub const fn mergeable_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::None, Self::None | Self::Alone(_)) | (Self::Alone(_), Self::None) => true,
            (Self::None, Self::Family(_)) | (Self::Family(_), Self::None) => false,
            (Self::Alone(a) | Self::Family(a), Self::Alone(b) | Self::Family(b)) => a == b,
        }
    }

    /// Returns the one of two mergeable links that an area over both has.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match self {
            Self::None => other,
            Self::Alone(_) | Self::Family(_) => self,
        }
    }
}

impl Shape {
    /// Returns the flags with other rights in force, as the user changes them
    /// (mprotect(2)): what becomes private and writable counts as committed from then
    /// on. What loses WRITE counts on, as it may have pages of its own; only
    /// anonymous memory without an anon_vma has none (Linux: mprotect_fixup).
    pub const fn protected(&self, prot: Prot) -> VmaFlags {
        let new = self.spec.flags.with_prot(prot);
        let anonymous = self.spec.object == 0 && !new.contains(VmaFlags::PFN_MAP);
        if new.is_accountable() {
            new.union(VmaFlags::ACCOUNT)
        } else if anonymous && !new.contains(VmaFlags::WRITE) && self.anon.id().is_none() {
            new.difference(VmaFlags::ACCOUNT)
        } else {
            new
        }
    }
}

impl VmaSpec {
    /// Returns the spec `pages` further on, or `None` where the offset has no number.
    #[must_use]
    pub const fn advanced(mut self, pages: usize) -> Option<Self> {
        match self.pgoff.checked_add(pages) {
            Some(pgoff) => {
                self.pgoff = pgoff;
                Some(self)
            }
            None => None,
        }
    }

    /// Returns whether `next`, directly after `pages` pages of `self`, goes
    /// on where they end. Flags and anon_vmas are not looked at.
    pub const fn continues_with(&self, pages: usize, next: &Self) -> bool {
        let contiguous = match self.pgoff.checked_add(pages) {
            Some(pgoff) => pgoff == next.pgoff,
            None => false,
        };
        contiguous
            && self.object == next.object
            && self.hook == next.hook
            && self.mem as u8 == next.mem as u8
    }
}

impl Shape {
    /// Returns the part of the shape inside `range`; the anon_vma goes with
    /// both parts.
    #[must_use]
    pub fn clip(self, range: PageRange) -> Self {
        let range = self.range.intersect(range);
        let skipped = range.start().pages_since(self.range.start());
        let pgoff = self.spec.pgoff.saturating_add(skipped);
        Self {
            range,
            spec: VmaSpec { pgoff, ..self.spec },
            anon: self.anon,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Vpn;

    fn spec(pgoff: usize) -> VmaSpec {
        VmaSpec {
            pgoff,
            object: 7,
            ..VmaSpec::default()
        }
    }

    #[test]
    fn lesson_3_inverted_offsets_are_no_neighbours_and_no_panic() {
        assert!(spec(4).continues_with(2, &spec(6)));
        assert!(!spec(6).continues_with(2, &spec(4)));
        assert!(!spec(usize::MAX).continues_with(1, &spec(0)));
        assert_eq!(spec(usize::MAX).advanced(1), None);
    }

    #[test]
    fn lesson_9_a_part_keeps_the_offset_of_its_first_page() {
        let range = PageRange::new(Vpn::new(10), Vpn::new(20));
        let s = Shape {
            range,
            spec: spec(3),
            anon: AnonLink::Alone(1),
        };
        let part = s.clip(PageRange::new(Vpn::new(14), Vpn::new(16)));
        assert_eq!((part.range.pages(), part.spec.pgoff), (2, 7));
        assert_eq!(part.anon, s.anon);
    }

    #[test]
    fn anon_links_merge_as_linux_has_it() {
        use AnonLink::{Alone, Family, None};
        for (a, b, want) in [
            (None, None, true),
            (None, Alone(1), true),
            (None, Family(1), false),
            (Alone(1), Alone(1), true),
            (Alone(1), Alone(2), false),
            (Family(1), Family(1), true),
            (Family(1), Alone(1), true),
            (Family(1), Family(2), false),
        ] {
            assert_eq!(a.mergeable_with(b), want);
            assert_eq!(b.mergeable_with(a), want);
        }
    }
}
