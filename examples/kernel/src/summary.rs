//! What a run did, and the proof that nothing is left of it.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::Arch;
use crate::system::System;

impl<A: Arch> System<A> {
    /// Notes what is in use before the first file and the first process.
    pub fn note_boot(&self) {
        self.arch.drain_heap();
        self.at_boot.call_once(|| self.counts());
    }

    /// Writes the summary; answers whether nothing leaked and reads were waited for.
    ///
    /// Called when no task, no file and no space is left.
    pub fn summarize(&self) -> bool {
        self.drain();
        let now = self.counts();
        let boot = self.at_boot.get().copied().unwrap_or(now);
        let leaked_frames = boot.free_frames.abs_diff(now.free_frames);
        let leaked_heap = boot.heap_frames.abs_diff(now.heap_frames);
        let leaked_nodes = now.nodes.abs_diff(boot.nodes);
        let waited = self.disk.reads();
        let allocated = now.allocated.wrapping_sub(boot.allocated);
        let freed = now.freed.wrapping_sub(boot.freed);
        self.log(format_args!("---- summary ----"));
        for line in alloc::format!("{}", self.counters()).lines() {
            self.log(format_args!("{line}"));
        }
        self.summarize_cpus();
        self.log(format_args!("{waited:>10}  reads waited for"));
        self.log(format_args!("{allocated:>10}  frames allocated"));
        self.log(format_args!("{freed:>10}  frames freed"));
        self.log(format_args!(
            "leaked: {leaked_frames} frames, {leaked_heap} frames of the heap, {leaked_nodes} nodes"
        ));
        if waited == 0 {
            self.log(format_args!(
                "no read was ever waited for: that is a failure"
            ));
        }
        leaked_frames == 0 && leaked_heap == 0 && leaked_nodes == 0 && waited > 0
    }

    /// What each CPU did, on machines with several.
    fn summarize_cpus(&self) {
        let running = self.running_cpus();
        if running < 2 {
            return;
        }
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let counts = [
            (running, "CPUs"),
            (load(&self.moves.migrations), "migrations"),
            (load(&self.moves.balanced), "tasks moved by the balancer"),
            (load(&self.moves.kicks), "CPUs kicked"),
            (self.arch.remote_flushes(), "flushes of other CPUs"),
            (self.ticks.load(Ordering::Relaxed) as usize, "ticks"),
        ];
        for (count, what) in counts {
            self.log(format_args!("{count:>10}  {what}"));
        }
        for (number, cpu) in self.cpus.iter().enumerate().filter(|(_, cpu)| cpu.runs()) {
            let ticks = load(&cpu.user_ticks);
            self.log(format_args!(
                "{ticks:>10}  ticks of user time on CPU {number}"
            ));
            let halts = load(&cpu.halts);
            self.log(format_args!("{halts:>10}  halts of CPU {number}"));
        }
    }
}
