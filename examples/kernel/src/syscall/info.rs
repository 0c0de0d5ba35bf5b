//! Facts about the machine: uname, sysinfo, random bytes, usage.

use super::Call;
use crate::arch::Arch;
use crate::errno::Result;
use crate::fs::text::{RELEASE, VERSION};

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
        // uptime, loads[3], totalram, freeram, sharedram, bufferram, totalswap,
        // freeswap, procs (u16), totalhigh, freehigh, mem_unit (u32).
        let mut out = super::record::Record::<112>::new(A::SYSCALL_ABI);
        out.words([uptime, 0, 0, 0, total as u64, free as u64, 0, 0, 0, 0]);
        out.u16(processes as u16).align(Self::WORD).words([0, 0]);
        out.u32(1 << A::PAGE_SHIFT).align(Self::WORD);
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

    pub(super) fn getrusage(&self, into: usize) -> Result {
        self.put_words(into, [0; 18]).map(|()| 0)
    }
}
