//! What remains of an area around a part of it.
//!
//! ```text
//!   old    [-------------------)      pgoff p
//!   part         [------)
//!   left   [-----)                    pgoff p
//!   right               [------)      pgoff p + (right.start - old.start)
//! ```
//!
//! `a3_split_keeps_every_page_and_its_offset` draws it in numbers. Both remainders
//! keep flags, backing and anon_vma; the page counts add up to the old one.

use super::Shape;
use crate::addr::Vpn;
use crate::range::PageRange;

/// The remainders on both sides of a part; none where the part reaches the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Around {
    /// The pages below the part.
    pub left: Option<Shape>,
    /// The pages above the part.
    pub right: Option<Shape>,
}

impl Around {
    /// Returns what remains of `old` around `part`.
    pub fn of(old: &Shape, part: PageRange) -> Self {
        let low = PageRange::new(old.range.start(), part.start());
        let high = PageRange::new(part.end(), old.range.end());
        let some = |r: PageRange| (!r.is_empty()).then(|| old.clip(r));
        Self {
            left: some(low),
            right: some(high),
        }
    }

    /// Returns the number of remainders.
    pub fn count(&self) -> u32 {
        u32::from(self.left.is_some()).saturating_add(u32::from(self.right.is_some()))
    }
}

/// Returns the part of an area below `page`, if any.
pub(super) fn below(old: &Shape, page: Vpn) -> Option<Shape> {
    let part = old.clip(PageRange::new(Vpn::new(0), page));
    (!part.range.is_empty()).then_some(part)
}

/// Returns the part of an area from `page` on, if any.
pub(super) fn above(old: &Shape, page: Vpn) -> Option<Shape> {
    let part = old.clip(old.range.from(page));
    (!part.range.is_empty()).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vma::{AnonLink, VmaFlags, VmaSpec};

    fn range(a: usize, b: usize) -> PageRange {
        PageRange::new(Vpn::new(a), Vpn::new(b))
    }

    #[test]
    fn a3_split_keeps_every_page_and_its_offset() {
        let spec = VmaSpec {
            flags: VmaFlags::READ,
            pgoff: 100,
            object: 5,
            ..VmaSpec::default()
        };
        let old = Shape {
            range: range(10, 20),
            spec,
            anon: AnonLink::Alone(3),
        };
        for start in 10..20 {
            for end in start + 1..=20 {
                let part = range(start, end);
                let Around { left, right } = Around::of(&old, part);
                let pages = |s: Option<Shape>| s.map_or(0, |s| s.range.pages());
                assert_eq!(pages(left) + part.pages() + pages(right), 10);
                for s in [left, right].into_iter().flatten() {
                    assert_eq!(s.spec.pgoff - 100, s.range.start().as_usize() - 10);
                    assert_eq!(
                        (s.spec.flags, s.spec.object, s.anon),
                        (spec.flags, 5, old.anon)
                    );
                }
                assert_eq!(left.is_some(), start > 10);
                assert_eq!(right.is_some(), end < 20);
            }
        }
    }
}
