//! The auxiliary vector: what a program is told about itself.
//!
//! getauxval(3) and the kernel's `include/uapi/linux/auxvec.h` define the
//! keys. Half of the facts come from the image ([`ImageFacts`], made by
//! [`ImageFacts::new`] from the plans), half from the kernel
//! ([`ProcessFacts`]). A static glibc reads `AT_RANDOM` before anything else,
//! then `AT_PHDR` to find its TLS, and `AT_HWCAP` to pick its string
//! functions; wrong values there crash it long before `main`.

use crate::plan::Plan;

/// `AT_NULL`: the end of the vector.
pub const AT_NULL: u64 = 0;
/// `AT_PHDR`: where the program headers stand in memory.
pub const AT_PHDR: u64 = 3;
/// `AT_PHENT`: the size of one, in bytes.
pub const AT_PHENT: u64 = 4;
/// `AT_PHNUM`: how many there are.
pub const AT_PHNUM: u64 = 5;
/// `AT_PAGESZ`: the page size in bytes.
pub const AT_PAGESZ: u64 = 6;
/// `AT_BASE`: the load bias of the interpreter, or zero.
pub const AT_BASE: u64 = 7;
/// `AT_FLAGS`: always zero.
pub const AT_FLAGS: u64 = 8;
/// `AT_ENTRY`: the entry point of the program (not of the interpreter).
pub const AT_ENTRY: u64 = 9;
/// `AT_UID`: the real user.
pub const AT_UID: u64 = 11;
/// `AT_EUID`: the effective user.
pub const AT_EUID: u64 = 12;
/// `AT_GID`: the real group.
pub const AT_GID: u64 = 13;
/// `AT_EGID`: the effective group.
pub const AT_EGID: u64 = 14;
/// `AT_PLATFORM`: address of the name of the machine.
pub const AT_PLATFORM: u64 = 15;
/// `AT_HWCAP`: what the CPU can do, first word.
pub const AT_HWCAP: u64 = 16;
/// `AT_CLKTCK`: ticks per second of times(2).
pub const AT_CLKTCK: u64 = 17;
/// `AT_SECURE`: one if the program gained rights by being run.
pub const AT_SECURE: u64 = 23;
/// `AT_RANDOM`: address of 16 random bytes.
pub const AT_RANDOM: u64 = 25;
/// `AT_HWCAP2`: what the CPU can do, second word.
pub const AT_HWCAP2: u64 = 26;
/// `AT_EXECFN`: address of the path by which the program was run.
pub const AT_EXECFN: u64 = 31;
/// `AT_SYSINFO_EHDR`: where the vDSO is mapped.
pub const AT_SYSINFO_EHDR: u64 = 33;

/// What the kernel tells a program about itself.
#[derive(Clone, Debug, Default)]
pub struct ProcessFacts<'a> {
    /// Real user, effective user.
    pub uid: [u32; 2],
    /// Real group, effective group.
    pub gid: [u32; 2],
    /// Whether running the program gained rights (set-user-ID).
    pub secure: bool,
    /// Fresh random bytes; libc makes its stack protector's secret of them.
    pub random: [u8; 16],
    /// What the CPU can do (x86: CPUID.1:EDX), first and second word.
    pub hwcap: [u64; 2],
    /// Ticks per second of times(2); 100 on Linux.
    pub clock_ticks: u64,
    /// The name of the machine, without NUL: see
    /// [`Machine::platform`](crate::Machine::platform).
    pub platform: Option<&'a [u8]>,
    /// The path by which the program was run, without NUL.
    pub path: &'a [u8],
    /// Where the kernel has mapped a vDSO, if it has one.
    pub vdso: Option<u64>,
}

/// What the vector says about the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageFacts {
    /// Where the program headers stand in memory; zero if no segment holds them.
    pub phdr: u64,
    /// The size of one, in bytes.
    pub phent: u64,
    /// How many there are.
    pub phnum: u64,
    /// The page size in bytes.
    pub page_bytes: u64,
    /// The load bias of the interpreter, or zero.
    pub base: u64,
    /// The entry point of the program.
    pub entry: u64,
    /// The size of an address, in bytes.
    pub word_bytes: u64,
}

impl ImageFacts {
    /// Collects the facts from the plan of a program, and of its interpreter
    /// if it has one.
    pub fn new(program: &Plan<'_>, interpreter: Option<&Plan<'_>>) -> Self {
        let header = program.image().header();
        Self {
            phdr: program.phdr().unwrap_or(0),
            phent: header.entry_size(),
            phnum: u64::from(header.count()),
            page_bytes: header.target().page_size(),
            base: interpreter.map_or(0, Plan::bias),
            entry: program.entry(),
            word_bytes: header.target().machine.word_bytes(),
        }
    }
}

/// The addresses of what the vector points to, on the stack itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pointers {
    pub random: u64,
    pub platform: Option<u64>,
    pub path: u64,
}

/// Returns the vector in its order, `AT_NULL` included.
pub(crate) fn entries(
    image: &ImageFacts,
    process: &ProcessFacts<'_>,
    at: Pointers,
) -> impl Iterator<Item = [u64; 2]> + use<> {
    let ([uid, euid], [gid, egid]) = (process.uid, process.gid);
    let [hwcap, hwcap2] = process.hwcap;
    let vdso = process.vdso.map(|addr| [AT_SYSINFO_EHDR, addr]);
    let platform = at.platform.map(|addr| [AT_PLATFORM, addr]);
    vdso.into_iter()
        .chain([
            [AT_HWCAP, hwcap],
            [AT_PAGESZ, image.page_bytes],
            [AT_CLKTCK, process.clock_ticks],
            [AT_PHDR, image.phdr],
            [AT_PHENT, image.phent],
            [AT_PHNUM, image.phnum],
            [AT_BASE, image.base],
            [AT_FLAGS, 0],
            [AT_ENTRY, image.entry],
            [AT_UID, uid.into()],
            [AT_EUID, euid.into()],
            [AT_GID, gid.into()],
            [AT_EGID, egid.into()],
            [AT_SECURE, process.secure.into()],
            [AT_RANDOM, at.random],
            [AT_HWCAP2, hwcap2],
            [AT_EXECFN, at.path],
        ])
        .chain(platform)
        .chain([[AT_NULL, 0]])
}
