//! What the files of /proc say.
//!
//! A text is made whole when it is read from its start, and kept for the reads that go on from
//! there: they see one moment, and who goes back to the start sees a later one (Linux: seq_file(9)).
//! It speaks of the process that opened it, whoever reads it.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use super::proc::Text;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::limits::{Grant, SCRATCH_QUOTA};
use crate::memory::FileName;
use crate::sync::Mutex;
use crate::system::System;
use crate::task::Process;

/// The kernel's release, as uname(2) says it.
pub const RELEASE: &str = "6.1.0-mm";
/// The kernel's version, as uname(2) says it.
pub const VERSION: &str = "#1 example kernel of the mm family";

/// An open file of /proc.
pub struct OpenText {
    text: Text,
    /// The process that it speaks of; by its number, so as to keep nothing of one that has gone.
    pid: u32,
    made: Mutex<Option<Bounded>>,
}

impl OpenText {
    /// Opens a text for a process.
    #[must_use]
    pub fn new(text: Text, pid: u32) -> Self {
        OpenText {
            text,
            pid,
            made: Mutex::new(None),
        }
    }

    /// Copies the text from a place on; 0 bytes are its end.
    ///
    /// # Errors
    /// `ESRCH` when the process that it speaks of is gone; `ENOMEM`.
    pub fn read<A: Arch>(&self, system: &System<A>, at: u64, into: &mut [u8]) -> Result {
        if at == 0 || self.made.lock().is_none() {
            let process = system.processes.lock().get(&self.pid).cloned();
            let process = process.ok_or(Errno::ESRCH)?;
            let made = system.proc_text(self.text, &process)?;
            let before = self.made.lock().replace(made);
            drop(before);
        }
        let made = self.made.lock();
        let text = made.as_ref().map_or(&[][..], |made| &made.text);
        let rest = usize::try_from(at).ok().and_then(|at| text.get(at..));
        let rest = rest.unwrap_or_default();
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

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

/// What /proc/self/status says of memory: pages by name.
fn sizes_of<A: Arch>(process: &Process<A>) -> impl Iterator<Item = (&'static str, usize)> {
    let usage = process.space().map(|space| space.usage());
    usage.into_iter().flat_map(|usage| {
        [
            ("VmPeak", usage.most_mapped),
            ("VmSize", usage.mapped),
            ("VmLck", usage.locked),
            ("VmHWM", usage.most_resident),
            ("VmRSS", usage.resident()),
            ("RssAnon", usage.anonymous),
            ("RssFile", usage.file),
            ("VmData", usage.data),
            ("VmStk", usage.stack),
        ]
    })
}

impl<A: Arch> System<A> {
    fn proc_text(&self, text: Text, process: &Arc<Process<A>>) -> Result<Bounded> {
        let mut out = Bounded {
            text: Vec::new(),
            grant: SCRATCH_QUOTA.take(0, Errno::ENOMEM)?,
        };
        self.write_text(text, process, &mut out)
            .map_err(|_| Errno::ENOMEM)?;
        Ok(out)
    }

    /// Answers a file as it stands in /proc/self/maps.
    fn name_of(&self, key: u64) -> Option<FileName> {
        let node = self.files.find(key)?;
        let path = {
            let _names = self.names.lock();
            node.shown_path()
        };
        Some(FileName {
            device: node.origin.device(),
            ino: node.ino,
            path: path.unwrap_or_default(),
        })
    }

    /// Answers fields 9 to 52 of /proc/self/stat, as far as they are known.
    fn facts_of(&self, process: &Arc<Process<A>>) -> [usize; 44] {
        const PRIORITY: usize = 20;
        const EXIT_SIGNAL: usize = 17;
        let mut facts = [0; 44];
        let mut set = |number: usize, value| facts[number - 9] = value;
        set(18, PRIORITY);
        set(20, self.threads_of(process).len());
        set(25, usize::MAX);
        set(38, EXIT_SIGNAL);
        if let Some(space) = process.space() {
            let usage = space.usage();
            set(23, usage.mapped << A::PAGE_SHIFT);
            set(24, usage.resident());
            set(28, space.stack_start());
            set(47, space.heap_start());
        }
        facts
    }

    fn write_text(
        &self,
        text: Text,
        process: &Arc<Process<A>>,
        out: &mut Bounded,
    ) -> core::fmt::Result {
        let (total, free) = self.frames();
        let kib = 1usize << (A::PAGE_SHIFT - 10);
        let uptime_ns = self.arch.monotonic_ns();
        match text {
            Text::Maps => process.space().map_or(Ok(()), |space| space.write_maps(out, |key| self.name_of(key))),
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
                self.facts_of(process).iter().try_for_each(|fact| write!(out, " {fact}"))?;
                out.write_str("\n")
            }
            Text::Sizes => {
                let usage = process.space().map(|space| space.usage());
                let sizes = usage.map_or([0; 4], |usage| {
                    [usage.mapped, usage.resident(), usage.file, usage.data + usage.stack]
                });
                let [mapped, resident, file, data] = sizes;
                writeln!(out, "{mapped} {resident} {file} 0 0 {data} 0")
            }
            Text::Status => {
                let parent = process.shared.lock().parent;
                let name = process.name();
                let threads = self.threads_of(process).len();
                write!(out, "Name:\t{name}\nState:\tR (running)\nTgid:\t{0}\nPid:\t{0}\nPPid:\t{parent}\n", process.pid)?;
                writeln!(out, "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0")?;
                for (name, pages) in sizes_of(process) {
                    writeln!(out, "{name}:\t{:8} kB", pages * kib)?;
                }
                writeln!(out, "Threads:\t{threads}")
            }
            Text::Memory => {
                writeln!(out, "MemTotal: {:>12} kB\nMemFree: {:>13} kB\nMemAvailable: {:>8} kB", total * kib, free * kib, free * kib)?;
                out.write_str("Buffers:              0 kB\nCached:               0 kB\nSwapTotal:            0 kB\nSwapFree:             0 kB\n")
            }
            Text::Uptime => writeln!(out, "{}.{:02} 0.00", uptime_ns / 1_000_000_000, uptime_ns / 10_000_000 % 100),
            Text::Load => {
                let (tasks, last) = (self.tasks.lock().len(), *self.last_number.lock());
                writeln!(out, "0.00 0.00 0.00 1/{tasks} {last}")
            }
            Text::Mounts => out.write_str(
                "rootfs / rootfs ro 0 0\ntmpfs /tmp tmpfs rw 0 0\ndevfs /dev devtmpfs rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\nproc /proc proc rw 0 0\n",
            ),
            Text::Version => writeln!(out, "Linux version {RELEASE} {VERSION}"),
            Text::Counters => write!(out, "{}", self.counters()),
        }
    }
}
