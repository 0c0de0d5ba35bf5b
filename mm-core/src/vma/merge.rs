//! Which neighbours an area becomes one with.
//!
//! Pure: shapes in, [`Join`] out; nothing is changed. [`super::edit`] carries
//! it out. One character is a page; `P` and `N` are the neighbours, `V` is the
//! area being changed, `*` the range added or changed. Above: before. Below:
//! after. The name is that of the test that draws the same in numbers.
//!
//! Adding a range:
//!
//! ```text
//! merge_new_to_previous    merge_new_to_next    merge_new_to_both    merge_new_apart
//!   PPP**                    ....***NN            PPP**NNN             PPP.**.NN
//!   PPPPP                    ....NNNNN            PPPPPPPP             PPP.**.NN
//! ```
//!
//! Changing (part of) an area, so that it could be part of `P` or `N`:
//!
//! ```text
//! existing_left_partial    existing_left_full    existing_right_partial   existing_right_full
//!   PPP***V                  PPP****               V***NNN                  ****NNN
//!   PPPPPPV                  PPPPPPP               VNNNNNN                  NNNNNNN
//!
//! existing_both            existing_none         simple_modify
//!   PPP****NN                PPPV***VNN            V*V
//!   PPPPPPPPP                PPPV***VNN            A*B       three areas: split
//! ```
//!
//! When both could be but not at once (their anon_vmas differ, or `N` must not
//! be removed because its hook wants to hear of that), the previous one wins:
//!
//! ```text
//! anon_vma_non_mergeable   close_hook_next
//!   PPP****NN                PPP**NNNN       N: close hook
//!   PPPPPPPNN                PPPPPNNNN
//! ```
//!
//! The rules are Linux's (mm/vma.c, `tools/testing/vma`): equal flags but for
//! sticky ones, equal backing, contiguous offsets, mergeable anon_vmas, no
//! special flags, and nothing with a close hook is removed.

use super::{AnonLink, Shape, VmaFlags, VmaSpec};
use crate::range::PageRange;

/// What a range joins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Join {
    /// Neither neighbour: it is an area of its own.
    Apart,
    /// The previous area grows up over it.
    Prev,
    /// The next area grows down over it.
    Next,
    /// The previous area grows up over it and over the next one.
    Both,
}

/// Decides for a range that holds no area. `prev` and `next` are the areas
/// next to it, near or far.
pub fn join_new(prev: Option<&Shape>, new: &Shape, next: Option<&Shape>) -> Join {
    let prev = prev.filter(|p| mergeable(p, new));
    let next = next.filter(|n| mergeable(new, n));
    choose(prev, next)
}

/// Decides for `part` of the area `old`, when its flags become `flags`.
/// `prev` and `next` are the areas next to `old`, near or far.
pub fn join_changed(
    prev: Option<&Shape>,
    old: &Shape,
    part: PageRange,
    flags: VmaFlags,
    next: Option<&Shape>,
) -> Join {
    debug_assert!(old.range.covers(part) && !part.is_empty());
    let whole = part == old.range;
    // Joining whole removes the area, which its hook may forbid.
    if whole && old.spec.flags.contains(VmaFlags::CLOSE_HOOK) {
        return Join::Apart;
    }
    let mut new = old.clip(part);
    new.spec.flags = flags;
    let prev = prev.filter(|p| mergeable(p, &new));
    let next = next.filter(|n| mergeable(&new, n));
    choose(prev, next)
}

/// Returns whether two adjacent areas may be one.
fn mergeable(left: &Shape, right: &Shape) -> bool {
    left.range.end() == right.range.start()
        && left.spec.flags.mergeable_with(right.spec.flags)
        && left.spec.continues_with(left.range.pages(), &right.spec)
        && left.anon.mergeable_with(right.anon)
}

fn choose(prev: Option<&Shape>, next: Option<&Shape>) -> Join {
    match (prev, next) {
        (None, None) => Join::Apart,
        (Some(_), None) => Join::Prev,
        (None, Some(_)) => Join::Next,
        (Some(p), Some(n)) => {
            let removable = !n.spec.flags.contains(VmaFlags::CLOSE_HOOK);
            // Each agrees with the middle, which may have no anon_vma.
            if removable && p.anon.mergeable_with(n.anon) {
                Join::Both
            } else {
                Join::Prev
            }
        }
    }
}

/// Returns the area that stands over `part` after a join, as a value: the
/// plan's way of going on without changing anything.
pub(super) fn joined(join: Join, prev: Option<&Shape>, new: &Shape, next: Option<&Shape>) -> Shape {
    let mut out = *new;
    let grow = |a: &Shape, b: &Shape| Shape {
        range: PageRange::new(a.range.start(), b.range.end()),
        spec: VmaSpec {
            flags: a.spec.flags.absorbing(b.spec.flags),
            ..a.spec
        },
        anon: inherit(a.anon, b.anon),
    };
    if let (Join::Prev | Join::Both, Some(p)) = (join, prev) {
        out = grow(p, &out);
    }
    if let (Join::Next | Join::Both, Some(n)) = (join, next) {
        let close = n.spec.flags;
        out = grow(&out, n);
        // The node that remains is the next one: its hook remains too.
        if join == Join::Next {
            let hook = close.intersection(VmaFlags::CLOSE_HOOK);
            out.spec.flags = out.spec.flags.difference(VmaFlags::CLOSE_HOOK).union(hook);
        }
    }
    out
}

/// Returns the link of an area over both: the chains of the one that has them.
fn inherit(a: AnonLink, b: AnonLink) -> AnonLink {
    a.or(b)
}
