//! Facts about the machine: uname, sysinfo, random bytes, usage, and the texts of /proc.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use super::Call;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::proc::Text;
use crate::limits::{Grant, SCRATCH_QUOTA};

const RELEASE: &str = "6.1.0-mm";
const VERSION: &str = "#1 example kernel of the mm family";

/// A text that grows only as far as the kernel's heap allows.
struct Bounded {
    text: Vec<u8>,
    grant: Grant,
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> core::fmt::Result {
        self.grant
            .grow(piece.len(), Errno::ENOMEM)
            .map_err(|_| core::fmt::Error)?;
        self.text
            .try_reserve(piece.len())
            .map_err(|_| core::fmt::Error)?;
        self.text.extend_from_slice(piece.as_bytes());
        Ok(())
    }
}

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

    pub(super) fn getrusage(&self, into: usize) -> Result {
        self.put_words(into, [0; 18]).map(|()| 0)
    }

    /// Makes a text of /proc for whoever opens it.
    pub(super) fn proc_text(&self, text: Text) -> Result<(Vec<u8>, Grant)> {
        let grant = SCRATCH_QUOTA.take(0, Errno::ENOMEM)?;
        let mut out = Bounded {
            text: Vec::new(),
            grant,
        };
        self.write_text(text, &mut out).map_err(|_| Errno::ENOMEM)?;
        Ok((out.text, out.grant))
    }

    fn write_text(&self, text: Text, out: &mut Bounded) -> core::fmt::Result {
        let process = &self.task.process;
        let (total, free) = self.system.frames();
        let kib = 1usize << (A::PAGE_SHIFT - 10);
        let uptime_ns = self.system.arch.monotonic_ns();
        match text {
            Text::Maps => process.space().map_or(Ok(()), |space| space.write_maps(out, |key| self.system.disk.path(key))),
            Text::CommandLine => {
                let arguments = process.shared.lock().arguments.clone();
                out.write_str(&String::from_utf8_lossy(&arguments))
            }
            Text::Name => writeln!(out, "{}", process.name()),
            Text::Stat => {
                let (parent, group, session) = {
                    let shared = process.shared.lock();
                    (shared.parent, shared.group, shared.session)
                };
                write!(out, "{} ({}) R {parent} {group} {session} 1281 {group}", process.pid, process.name())?;
                (0..44).try_for_each(|_| out.write_str(" 0"))?;
                out.write_str("\n")
            }
            Text::Status => {
                let parent = process.shared.lock().parent;
                let name = process.name();
                let threads = self.system.threads_of(process).len();
                write!(out, "Name:\t{name}\nState:\tR (running)\nTgid:\t{0}\nPid:\t{0}\nPPid:\t{parent}\n", process.pid)?;
                writeln!(out, "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nThreads:\t{threads}")
            }
            Text::Memory => {
                writeln!(out, "MemTotal: {:>12} kB\nMemFree: {:>13} kB\nMemAvailable: {:>8} kB", total * kib, free * kib, free * kib)?;
                out.write_str("Buffers:              0 kB\nCached:               0 kB\nSwapTotal:            0 kB\nSwapFree:             0 kB\n")
            }
            Text::Uptime => writeln!(out, "{}.{:02} 0.00", uptime_ns / 1_000_000_000, uptime_ns / 10_000_000 % 100),
            Text::Load => {
                let (tasks, last) = (self.system.tasks.lock().len(), *self.system.last_number.lock());
                writeln!(out, "0.00 0.00 0.00 1/{tasks} {last}")
            }
            Text::Mounts => out.write_str(
                "rootfs / rootfs ro 0 0\ntmpfs /tmp tmpfs rw 0 0\ndevfs /dev devtmpfs rw 0 0\nproc /proc proc rw 0 0\n",
            ),
            Text::Version => writeln!(out, "Linux version {RELEASE} {VERSION}"),
            Text::Counters => write!(out, "{}", self.system.counters()),
        }
    }
}
