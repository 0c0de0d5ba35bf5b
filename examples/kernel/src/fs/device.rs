//! The devices of /dev: names, numbers, and what reading and writing them does.

/// One character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Swallows what is written; reads give the end of file.
    Null,
    /// Reads give zeros.
    Zero,
    /// Reads give zeros; writes find no space.
    Full,
    /// Reads give random bytes.
    Random,
    /// The terminal.
    Terminal,
}

/// Every name under /dev.
pub const NAMES: [(&[u8], Device); 7] = [
    (b"null", Device::Null),
    (b"zero", Device::Zero),
    (b"full", Device::Full),
    (b"random", Device::Random),
    (b"urandom", Device::Random),
    (b"tty", Device::Terminal),
    (b"console", Device::Terminal),
];

impl Device {
    /// Answers the device number, as stat's `st_rdev` has it (major, minor).
    #[must_use]
    pub const fn number(self) -> (u32, u32) {
        match self {
            Device::Null => (1, 3),
            Device::Zero => (1, 5),
            Device::Full => (1, 7),
            Device::Random => (1, 9),
            Device::Terminal => (5, 1),
        }
    }
}
