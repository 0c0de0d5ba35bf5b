//! The memory of one machine.
//!
//! [`Mm`] holds the frames and one pool for each kind of node. Kernels keep
//! one in a [`MmCell`]; tests make ten.

use crate::cx::Cx;
use crate::object::{Object, RadixNode};
use crate::page::{FrameStats, Frames};
use crate::platform::Platform;
use crate::pool::Pool;
use crate::rmap::{AnonVma, AnonVmaChain};
use crate::stats::{Counter, Counts};
use crate::vma::SpaceNode;
use crate::vma::Vma;
use core::fmt;

/// One per machine: frames, pools, counters.
pub struct Mm<P: Platform> {
    pub(crate) frames: Frames<P>,
    pub(crate) spaces: Pool<SpaceNode>,
    pub(crate) vmas: Pool<Vma>,
    pub(crate) anon_vmas: Pool<AnonVma>,
    pub(crate) chains: Pool<AnonVmaChain>,
    pub(crate) objects: Pool<Object>,
    pub(crate) radix: Pool<RadixNode>,
    /// Of CPUs that keep no counters of their own.
    counts: Counts,
}

/// What is in use: at rest, with no space and no object alive, every number
/// of nodes is zero and the frames are as at boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Address spaces.
    pub spaces: usize,
    /// Areas.
    pub vmas: usize,
    /// anon_vmas.
    pub anon_vmas: usize,
    /// Chains between areas and anon_vmas.
    pub chains: usize,
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
        let nodes = [
            self.spaces,
            self.vmas,
            self.anon_vmas,
            self.chains,
            self.objects,
            self.radix_nodes,
        ];
        nodes.iter().all(|&n| n == 0)
    }
}

impl<P: Platform> Mm<P> {
    #[cfg(not(loom))]
    /// Makes the memory of a machine that has no frames yet.
    // Out of line: the caller's frame holds the machine once, not its parts too.
    #[inline(never)]
    pub const fn new(platform: P) -> Self {
        Self {
            frames: Frames::new(platform),
            spaces: Pool::numbered(0),
            vmas: Pool::numbered(1),
            anon_vmas: Pool::numbered(2),
            chains: Pool::numbered(3),
            objects: Pool::numbered(4),
            radix: Pool::numbered(5),
            counts: Counts::new(),
        }
    }

    #[cfg(loom)]
    /// Makes the memory of a machine that has no frames yet.
    pub fn new(platform: P) -> Self {
        Self {
            frames: Frames::new(platform),
            spaces: Pool::numbered(0),
            vmas: Pool::numbered(1),
            anon_vmas: Pool::numbered(2),
            chains: Pool::numbered(3),
            objects: Pool::numbered(4),
            radix: Pool::numbered(5),
            counts: Counts::new(),
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
    pub fn stats(&self) -> Stats<'_, P> {
        Stats { mm: self }
    }

    /// Returns the numbers of the machine's frames.
    pub fn frame_stats(&self) -> FrameStats {
        self.frames.stats()
    }

    /// Gives everything back that is only kept for speed: empty slabs, then the
    /// free frames of each CPU.
    ///
    /// # Locks
    /// Takes `Pool`, `FrameCache` and `Buddy`; waits for lock-free readers.
    pub fn drain(&self) {
        let cx = self.cx();
        self.spaces.drain(&cx);
        self.vmas.drain_named(&cx, || self.frames.forget_areas());
        self.anon_vmas.drain(&cx);
        self.chains.drain(&cx);
        self.objects.drain(&cx);
        self.radix.drain(&cx);
        self.frames.drain(&cx);
    }

    /// Returns what is in use.
    pub fn usage(&self) -> Usage {
        Usage {
            spaces: self.spaces.live(&self.frames),
            vmas: self.vmas.live(&self.frames),
            anon_vmas: self.anon_vmas.live(&self.frames),
            chains: self.chains.live(&self.frames),
            objects: self.objects.live(&self.frames),
            radix_nodes: self.radix.live(&self.frames),
            pool_frames: [
                self.spaces.slabs(),
                self.vmas.slabs(),
                self.anon_vmas.slabs(),
                self.chains.slabs(),
                self.objects.slabs(),
                self.radix.slabs(),
            ]
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

/// The counters of one machine. Each CPU counts on its own; readers sum.
#[derive(Debug)]
pub struct Stats<'m, P: Platform> {
    mm: &'m Mm<P>,
}

impl<P: Platform> Stats<'_, P> {
    /// Counts one.
    pub(crate) fn count(&self, what: Counter) {
        self.add(what, 1);
    }

    /// Counts several.
    pub(crate) fn add(&self, what: Counter, n: usize) {
        let frames = &self.mm.frames;
        // Who is moved meanwhile counts on the CPU where it was.
        let counts = frames.cpu_node(frames.platform().cpu());
        counts
            .map_or(&self.mm.counts, |cpu| cpu.counts())
            .add(what, n);
    }

    /// Returns a count.
    pub fn get(&self, what: Counter) -> usize {
        let nodes = self.mm.frames.cpu_nodes();
        nodes
            .map(|(_, cpu)| cpu.counts().get(what))
            .fold(self.mm.counts.get(what), usize::wrapping_add)
    }
}

impl<P: Platform> fmt::Display for Stats<'_, P> {
    /// Writes one line for each counter that is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::stats::write(f, |what| self.get(what))
    }
}

/// A place for the memory of a machine in a static: empty until [`Self::init`].
#[cfg(not(loom))]
pub struct MmCell<P: Platform>(crate::sync::Once<Mm<P>>);

#[cfg(not(loom))]
impl<P: Platform> MmCell<P> {
    /// Makes an empty place.
    pub const fn new() -> Self {
        Self(crate::sync::Once::new())
    }

    /// Puts the machine there, once; later calls return the first. For the boot's
    /// stack: it holds the machine, some 2.5 KiB, before that is in its place.
    pub fn init(&self, platform: P) -> &Mm<P> {
        self.0.call_once(|| Mm::new(platform))
    }

    /// Returns the machine, once it is there.
    pub fn get(&self) -> Option<&Mm<P>> {
        self.0.get()
    }
}

#[cfg(not(loom))]
impl<P: Platform> Default for MmCell<P> {
    fn default() -> Self {
        Self::new()
    }
}
