//! Facts about the machine: uname, sysinfo, random bytes, usage.

use super::Call;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::text::{RELEASE, VERSION};
use crate::memory::Space;

impl<A: Arch> Call<'_, A> {
    pub(super) fn uname(&self, into: usize) -> Result {
        const FIELD: usize = 65;
        let mut out = [0; 6 * FIELD];
        let fields = ["Linux", "mm", RELEASE, VERSION, A::MACHINE, "(none)"];
        for (place, text) in out.chunks_exact_mut(FIELD).zip(fields) {
            let n = text.len().min(FIELD - 1);
            place[..n].copy_from_slice(&text.as_bytes()[..n]);
        }
        self.put(into, &out).map(|()| 0)
    }

    pub(super) fn sysinfo(&self, into: usize) -> Result {
        let (total, free) = self.system.frames();
        let uptime = self.system.arch.monotonic_ns() / 1_000_000_000;
        let processes = self.system.processes.lock().len();
        // In bytes where a word holds them, else in pages (Linux: do_sysinfo).
        let shift = crate::memory::page_shift::<A>();
        let unit = if (total as u64) >> (8 * Self::WORD as u32 - shift) == 0 {
            shift
        } else {
            0
        };
        let (total, free) = ((total as u64) << unit, (free as u64) << unit);
        // uptime, loads[3], totalram, freeram, sharedram, bufferram, totalswap,
        // freeswap, procs (u16), totalhigh, freehigh, mem_unit (u32).
        let mut out = super::record::Record::<112>::new(A::SYSCALL_ABI);
        out.words([uptime, 0, 0, 0, total, free, 0, 0, 0, 0]);
        out.u16(processes as u16).align(Self::WORD).words([0, 0]);
        out.u32(1 << (shift - unit)).align(Self::WORD);
        // What follows fills the structure up to 64 bytes where words are small.
        self.put(into, out.fill(64).bytes()).map(|()| 0)
    }

    pub(super) fn getrandom(&self, into: usize, length: usize) -> Result {
        let length = length.min(32 << 20);
        let mut done = 0;
        let mut buffer = [0; 256];
        while done < length && !self.task.own.lock().ends {
            let chunk = &mut buffer[..256.min(length - done)];
            self.system.arch.random(chunk);
            self.system.breathe();
            match self.put(into.wrapping_add(done), chunk) {
                Ok(()) => done += chunk.len(),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Says where the caller runs; there is one node.
    pub(super) fn getcpu(&self, cpu: usize, node: usize) -> Result {
        for (into, number) in [(cpu, self.system.arch.cpu() as u32), (node, 0)] {
            if into != 0 {
                self.put(into, &number.to_le_bytes())?;
            }
        }
        Ok(0)
    }

    pub(super) fn getrusage(&self, who: usize, into: usize) -> Result {
        // RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD
        if !(-1..=1).contains(&(who as i32)) {
            return Err(Errno::EINVAL);
        }
        // No time is counted, and nothing of what ended.
        let mut usage = [0; 18];
        if who as i32 >= 0 {
            const MOST_RESIDENT: usize = 4;
            let now = self.space()?.usage().most_resident;
            let before = self.task.process.shared.lock().most_resident;
            usage[MOST_RESIDENT] = Space::<A>::kibibytes(now.max(before));
        }
        self.put_words(into, usage).map(|()| 0)
    }
}
