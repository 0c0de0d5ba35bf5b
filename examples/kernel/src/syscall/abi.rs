//! Where the ABIs differ otherwise than in numbers.
//!
//! | what | x86-64 | AArch64 | RISC-V | Arm |
//! |---|---|---|---|---|
//! | `long`, pointers, times | 64 bits | 64 | 64 | 32, and a second form of 64 |
//! | 64-bit arguments | one register | one | one | a pair that starts at an even one |
//! | `open` flags | asm-generic | four of them permuted | asm-generic | as AArch64 |
//! | `sigaction` has `sa_restorer` | yes | yes | no | yes |
//! | `MAP_32BIT` | yes | no | no | no |
//! | `clone`'s last two arguments | child tid, tls | tls, child tid | as AArch64 | as AArch64 |
//!
//! Sources: Linux `include/uapi/asm-generic/`, `arch/*/include/uapi/asm/{fcntl,mman,signal,stat}.h`;
//! AAPCS32, 6.5 ("double-word aligned arguments").

use crate::arch::{Arch, SyscallAbi};
use crate::fs::open::flag;

/// `e_machine` of the architectures whose generic ABI is not quite the generic one.
const ARM: u16 = 40;
const AARCH64: u16 = 183;
const RISCV: u16 = 243;

/// The 64-bit argument that starts at register `at` or, on Arm, at the next even one.
#[must_use]
pub const fn wide(abi: SyscallAbi, arguments: [usize; 6], at: usize) -> u64 {
    match abi {
        SyscallAbi::X86_64 | SyscallAbi::Generic => arguments[at] as u64,
        SyscallAbi::Arm => {
            let low = at.next_multiple_of(2);
            (arguments[low] as u64 & 0xffff_ffff) | (arguments[low + 1] as u64) << 32
        }
    }
}

/// The flags of open(2) as this kernel names them ([`flag`]).
#[must_use]
pub const fn open_flags<A: Arch>(flags: usize) -> usize {
    permuted(A::ELF_MACHINE, flags)
}

const fn permuted(machine: u16, flags: usize) -> usize {
    const DIRECTORY: usize = 0o40_000;
    const NO_FOLLOW: usize = 0o100_000;
    const DIRECT: usize = 0o200_000;
    const LARGE: usize = 0o400_000;
    if machine != ARM && machine != AARCH64 {
        return flags;
    }
    // Direct I/O and large files mean nothing here.
    let mut out = flags & !(DIRECTORY | NO_FOLLOW | DIRECT | LARGE);
    if flags & DIRECTORY != 0 {
        out |= flag::DIRECTORY;
    }
    if flags & NO_FOLLOW != 0 {
        out |= flag::NO_FOLLOW;
    }
    out
}

/// Answers where a mapping must end that mmap(2) chooses the place of.
#[must_use]
pub const fn map_below(abi: SyscallAbi, flags: usize) -> Option<usize> {
    const LOW: usize = 0x40;
    match abi {
        SyscallAbi::X86_64 if flags & LOW != 0 => Some(1 << 31),
        _ => None,
    }
}

/// Tells whether `struct sigaction` names the function that handlers return to.
#[must_use]
pub const fn has_restorer<A: Arch>() -> bool {
    A::ELF_MACHINE != RISCV
}

#[cfg(test)]
mod tests {
    use super::{AARCH64, ARM, RISCV, SyscallAbi, flag, permuted, wide};

    #[test]
    fn a_wide_argument_starts_in_an_even_register() {
        let arguments = [10, 11, 12, 13, 14, 15];
        assert_eq!(wide(SyscallAbi::Generic, arguments, 3), 13);
        assert_eq!(wide(SyscallAbi::Arm, arguments, 3), 14 | 15 << 32);
        assert_eq!(wide(SyscallAbi::Arm, arguments, 1), 12 | 13 << 32);
        assert_eq!(wide(SyscallAbi::Arm, arguments, 2), 12 | 13 << 32);
    }

    #[test]
    fn flags_of_open_are_permuted_on_arm() {
        let create = flag::CREATE | flag::CLOSE_ON_EXEC;
        for machine in [ARM, AARCH64] {
            assert_eq!(
                permuted(machine, create | 0o40_000),
                create | flag::DIRECTORY
            );
            assert_eq!(permuted(machine, 0o100_000), flag::NO_FOLLOW);
            assert_eq!(permuted(machine, 0o600_000), 0);
        }
        assert_eq!(
            permuted(RISCV, 0o600_000),
            flag::DIRECTORY | flag::NO_FOLLOW
        );
    }
}
