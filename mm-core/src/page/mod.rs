//! Frames: the record of each, and who owns it.
//!
//! [`Page`] is the 32-byte record of a frame, [`PageMap`] finds it in O(1),
//! [`Buddy`] hands frames out, mostly by way of the CPU's own cache (`front`),
//! and low ones to who cannot name others (`zone`).
//! [`Frames`] puts them beside the platform: it is what every layer above needs
//! to reach memory.

mod buddy;
mod code;
mod cpu;
mod epoch;
mod frames;
mod front;
mod hints;
mod magazine;
mod map;
mod record;
mod zone;

pub(crate) use code::rewritten;
pub(crate) use cpu::{CpuNode, NodeCache, PresentChange};
pub(crate) use front::{OnCpu, add};
pub(crate) use hints::{Hints, Stretch};
pub(crate) use magazine::{Chain, MAGAZINE};

pub use buddy::{Buddy, FreeError, MAX_ORDER};
pub use frames::{FrameStats, Frames};
pub use map::{PageMap, RegionError};
pub use record::{CountOverflow, Kind, Page, PageFlags, TableLock, TableRecord, UserRecord};
