//! Objects: cached pages by offset, and who maps them.
//!
//! An [`Object`] is what a file, a shared anonymous area or a tmpfs file is to
//! memory (Linux: `address_space`). It owns
//!
//! - its **size**, in bytes: pages past it are SIGBUS, and nothing of them stays;
//! - its **pages**, in a radix index by page offset. The index holds one
//!   reference to each; every finder takes another;
//! - the **areas** that map it, by page offset;
//! - who may **write** to it, against who executes it (`ETXTBSY`).
//!
//! The states of a page of a file:
//!
//! ```text
//!  absent ── find_or_create ──► LOCKED ── finish(Ok) ──► UPTODATE ◄─► UPTODATE + DIRTY
//!     ▲                           │                         │
//!     │◄────── finish(Err) ───────┘                         │ truncated, or the object ends
//!     └──────────────────── DETACHED ◄──────────────────────┘
//!                (out of the index; freed with its last reference)
//! ```
//!
//! LOCKED is owned by an [`IoRequest`], not by a thread. Everyone else who
//! wants the page gets [`Ticket::Join`]. Pages of memory-only objects are born zeroed and
//! LOCKED, until the platform has granted them (`cache` says how); then only who makes a
//! [hole](ObjectRef::make_hole) locks them, while it unmaps them.
//!
//! **Size against everyone.** Truncation first sets the size (the `ObjectMap`
//! lock, exclusively), then unmaps, then drops pages. Who puts a page in tests
//! the size under the index's lock, who installs one in a page table tests it
//! under the table's lock ([`ObjectView::reaches`]): either they see the new
//! size, or the later step of the truncation sees what they did. Bytes of
//! the last page past the size are zero in every UPTODATE page: every change of the size
//! zeroes them, and `finish` after a read, by the smallest size since that began.
//!
//! [`ObjectRef`] is the counted handle that kernels hold; [`ObjectView`] is the
//! way in for the layers above, inside a verb.

mod cache;
mod dirty;
mod hole;
mod io;
mod mapping;
mod node;
mod protect;
mod radix;
mod reference;
mod size;
mod ticket;
mod unmap;

pub use cache::{CachedPage, Found};
pub use mapping::{ObjectAreas, ObjectMap};
pub use node::{Object, ObjectKind, ObjectView, PagerFacts};
pub use radix::RadixNode;
pub use reference::ObjectRef;
pub use ticket::{IoRequest, Progress, Ticket, TicketError, TicketKey};
