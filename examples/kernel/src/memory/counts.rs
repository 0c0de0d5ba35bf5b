//! What is in use, for the summary and for /proc.

use mm_core::Stats;
use mm_core::addr::PhysAddr;
use mm_core::page::Frames;
use mm_core::platform::Platform;
use mm_core::space::Root;
use mm_core::tlb::Remembered;

use super::page_shift;
use crate::arch::Arch;
use crate::system::System;

impl<A: Arch> System<A> {
    /// Answers the kernel's own root table, for CPUs that run no user.
    pub fn kernel_root(&self) -> Root {
        let root = self.memory.frames().kernel_root();
        Root {
            table: root.map_or(PhysAddr::new(0), |root| root.addr(page_shift::<A>())),
            asid: 0,
            remembered: Remembered::Stale,
        }
    }

    /// Counts the frames of the machine: all, free.
    pub fn frames(&self) -> (usize, usize) {
        let stats = self.memory.frame_stats();
        (stats.total, stats.free)
    }
}

/// Tells whether so many pages could all be touched at once, for the platform to answer: what exceeds all
/// of memory never could, and a program is told so rather than ended later (Linux, by default, too).
pub fn may_commit<P: Platform>(frames: Option<&Frames<P>>, pages: usize) -> bool {
    frames.is_none_or(|frames| pages <= frames.stats().total)
}

/// What is in use, and what was done: equal at boot and at the end but for the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Frames that nobody uses.
    pub free_frames: usize,
    /// Frames of the kernel's own heap that are in use.
    pub heap_frames: usize,
    /// Nodes of all pools that are in use.
    pub nodes: usize,
    /// Blocks of frames that were handed out.
    pub allocated: usize,
    /// Blocks of frames that came back.
    pub freed: usize,
}

impl<A: Arch> System<A> {
    /// Counts what is in use.
    pub fn counts(&self) -> Counts {
        let usage = self.memory.usage();
        let frames = self.memory.frame_stats();
        let nodes = [
            usage.spaces,
            usage.vmas,
            usage.anon_vmas,
            usage.chains,
            usage.objects,
            usage.radix_nodes,
        ];
        Counts {
            free_frames: usage.free_frames,
            heap_frames: self.arch.heap_frames(),
            nodes: nodes.iter().sum(),
            allocated: frames.allocations,
            freed: frames.frees,
        }
    }

    /// Answers the counters of what was done.
    pub fn counters(&self) -> Stats<'static, A::Platform> {
        self.memory.stats()
    }

    /// Gives back what is only kept for speed.
    pub fn drain(&self) {
        self.arch.drain_heap();
        self.memory.drain();
    }
}
