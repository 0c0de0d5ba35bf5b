//! Areas: which pages of a space may be touched, how, and what is behind them.
//!
//! ```text
//!  space ──► VmaTree ──► Vma  Vma  Vma      by address, with gaps      tree.rs
//!                         │    └──► object's interval tree, by offset  ByOffset
//!                         └──► chains to anon_vmas                     rmap
//! ```
//!
//! | file | what |
//! |---|---|
//! | `node` | the 128-byte node; who may read and change which field |
//! | `mark` | reader count and write mark: how faults and changes meet |
//! | `flags`, `protmap` | properties; what they mean for a page-table entry |
//! | `shape` | an area as a value, for plans |
//! | `tree` | the areas of a space: find, walk, find a gap |
//! | `split`, `merge` | pure decisions: what remains, what joins |
//! | `plan` | what an edit will do: limits are checked against it |
//! | `edit` | reserve, mark, commit |
//! | `upkeep` | what must follow: nodes, objects' maps, anon_vmas |
//! | `owner`, `limits` | the node of the space that areas belong to, its bounds and counts |
//! | `family` | copies for fork; whose anon_vma a first page gets |
//!
//! A verb of `space` that changes areas makes a [`Plan`] under the space lock,
//! checks its [`Delta`] against the limits, reserves, marks, zaps what the
//! range loses, commits, and changes page tables before it drops [`Done`].

mod edit;
mod family;
mod flags;
mod limits;
mod mark;
mod merge;
mod node;
mod owner;
mod plan;
mod protmap;
mod shape;
mod split;
#[cfg(all(test, not(loom)))]
mod tests;
mod tree;
mod upkeep;

pub use edit::{Done, Edit, Stock};
pub use family::{anon_candidate, duplicate};
pub use flags::VmaFlags;
pub use limits::{PageCount, PresentCount, SpaceLimits};
pub use merge::{Join, join_changed, join_new};
pub use node::{Vma, VmaReadGuard};
pub use owner::{Counts, Layout, SpaceNode};
pub use plan::{Change, Delta, NewVma, Plan};
pub use protmap::DirtyTracking;
pub use shape::{AnonLink, Shape, VmaSpec};
pub use split::Around;
#[cfg(any(test, feature = "validate"))]
pub use tree::VmaFlaw;
pub use tree::{ByAddress, ByOffset, STACK_GUARD_PAGES, VmaTree};
pub use upkeep::Upkeep;
