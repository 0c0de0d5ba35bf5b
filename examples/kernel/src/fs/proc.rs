//! The names of /proc; what its files say is in [`super::text`].
//!
//! `/proc/self` is a directory like any other here: its files speak of whoever opens
//! them.

/// One file of /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcFile {
    /// A text that is made when it is read.
    Text(Text),
    /// `/proc/self/exe`: a link to the program's file.
    Executable,
}

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// `/proc/self/maps`.
    Maps,
    /// `/proc/self/cmdline`.
    CommandLine,
    /// `/proc/self/comm`.
    Name,
    /// `/proc/self/stat`.
    Stat,
    /// `/proc/self/statm`.
    Sizes,
    /// `/proc/self/status`.
    Status,
    /// `/proc/meminfo`.
    Memory,
    /// `/proc/uptime`.
    Uptime,
    /// `/proc/loadavg`.
    Load,
    /// `/proc/mounts`.
    Mounts,
    /// `/proc/version`.
    Version,
    /// `/proc/mm`: the counters of the memory library.
    Counters,
}

/// The files under /proc/self.
pub const SELF: [(&[u8], ProcFile); 7] = [
    (b"maps", ProcFile::Text(Text::Maps)),
    (b"cmdline", ProcFile::Text(Text::CommandLine)),
    (b"comm", ProcFile::Text(Text::Name)),
    (b"stat", ProcFile::Text(Text::Stat)),
    (b"statm", ProcFile::Text(Text::Sizes)),
    (b"status", ProcFile::Text(Text::Status)),
    (b"exe", ProcFile::Executable),
];

/// The files under /proc.
pub const MACHINE: [(&[u8], ProcFile); 6] = [
    (b"meminfo", ProcFile::Text(Text::Memory)),
    (b"uptime", ProcFile::Text(Text::Uptime)),
    (b"loadavg", ProcFile::Text(Text::Load)),
    (b"mounts", ProcFile::Text(Text::Mounts)),
    (b"version", ProcFile::Text(Text::Version)),
    (b"mm", ProcFile::Text(Text::Counters)),
];
