//! The memory of one machine.
//!
//! [`Mm`] holds the frames and one pool for each kind of node. Tests make ten.

use crate::cx::Cx;
use crate::object::{Object, RadixNode};
use crate::page::{FrameStats, Frames};
use crate::platform::Platform;
use crate::pool::Pool;
use crate::stats::Stats;
use core::fmt;

/// One per machine: frames, pools, counters.
pub struct Mm<P: Platform> {
    pub(crate) frames: Frames<P>,
    pub(crate) objects: Pool<Object>,
    pub(crate) radix: Pool<RadixNode>,
    stats: Stats,
}

/// What is in use: at rest, with no space and no object alive, every number
/// of nodes is zero and the frames are as at boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Objects.
    pub objects: usize,
    /// Nodes of objects' page indexes.
    pub radix_nodes: usize,
    /// Frames that pools hold.
    pub pool_frames: usize,
    /// Free frames.
    pub free_frames: usize,
}

impl Usage {
    /// Returns whether no node is in use.
    pub fn is_clean(&self) -> bool {
        let nodes = [self.objects, self.radix_nodes];
        nodes.iter().all(|&n| n == 0)
    }
}

impl<P: Platform> Mm<P> {
    #[cfg(not(loom))]
    /// Makes the memory of a machine that has no frames yet.
    pub const fn new(platform: P) -> Self {
        Self {
            frames: Frames::new(platform),
            objects: Pool::new(),
            radix: Pool::new(),
            stats: Stats::new(),
        }
    }

    #[cfg(loom)]
    /// Makes the memory of a machine that has no frames yet.
    pub fn new(platform: P) -> Self {
        Self {
            frames: Frames::new(platform),
            objects: Pool::new(),
            radix: Pool::new(),
            stats: Stats::new(),
        }
    }

    /// Starts a verb.
    pub fn cx(&self) -> Cx<'_, P> {
        Cx::new(&self.frames)
    }

    /// Returns the frames.
    pub fn frames(&self) -> &Frames<P> {
        &self.frames
    }

    /// Returns the platform.
    pub fn platform(&self) -> &P {
        self.frames.platform()
    }

    /// Returns the counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the numbers of the machine's frames.
    pub fn frame_stats(&self) -> FrameStats {
        self.frames.stats()
    }

    /// Gives everything back that is only kept for speed: empty slabs.
    ///
    /// # Locks
    /// Takes `Pool` and `Buddy`; waits for lock-free readers.
    pub fn drain(&self) {
        let cx = self.cx();
        self.objects.drain(&cx);
        self.radix.drain(&cx);
    }

    /// Returns what is in use.
    pub fn usage(&self) -> Usage {
        Usage {
            objects: self.objects.live(),
            radix_nodes: self.radix.live(),
            pool_frames: [self.objects.slabs(), self.radix.slabs()]
                .iter()
                .fold(0, |a, &b| a.saturating_add(b)),
            free_frames: self.frames.free_frames(),
        }
    }
}

impl<P: Platform> fmt::Debug for Mm<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mm")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}
