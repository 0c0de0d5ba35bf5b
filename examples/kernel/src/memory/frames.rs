//! RAM for the family, at boot.

use mm_core::addr::Pfn;
use mm_core::cx::Cx;
use mm_core::page::{Frames, RegionError};
use mm_core::platform::Platform;

/// Gives a region of RAM to the family, but for what cannot be used: firmware maps have regions
/// of a frame or two, which their own records would fill, and 32-bit machines have RAM that no
/// entry can name. What is left out is missing in [`Frames::stats`].
///
/// # Panics
///
/// When a frame of it was given before: the memory map is not what it says.
pub fn give<P: Platform>(frames: &Frames<P>, start: Pfn, count: u64) {
    match frames.add_region(&Cx::new(frames), start, count) {
        Ok(_) | Err(RegionError::TooSmall | RegionError::TooHigh) => {}
        Err(RegionError::Overlap) => panic!("memory at {start:?} was given before"),
    }
}
