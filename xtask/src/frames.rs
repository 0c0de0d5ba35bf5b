//! The stack frames of mm-core's functions, as the compiler laid them out in the kernel.
//!
//! Kernels have small stacks, so no function of mm-core may use more than [`LIMIT`] bytes of one, but
//! for the one that makes the machine's memory, which runs once, at boot, below nothing else.
//! The compiler writes each function's frame size into the section `.stack_sizes` (pairs of an
//! address and a ULEB128 number, LLVM `docs/CodeGenerator.rst`, "Emitting function stack size
//! information"); generic functions are there in the forms that the kernel really uses.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::endian::AnyEndian;
use elf::file::Class;

use crate::command::say;

/// The largest frame, in bytes.
const LIMIT: u64 = 1024;

/// The largest frame of what makes an `Mm` or a `Frames`, on the boot's stack: it holds the whole, with the
/// allocator's lists in it, before that is moved to its place.
const LIMIT_OF_BOOT: u64 = 3072;

/// What the flag of the compiler must be, in a build that this can read.
pub const FLAG: &str = "-Zemit-stack-sizes";

/// Fails when a function of mm-core in the kernel `file` has too large a frame.
pub fn check(file: &Path) -> Result<()> {
    let bytes = std::fs::read(file)?;
    let mut sizes: Vec<(u64, String)> = sizes(&bytes)?
        .into_iter()
        .filter(|(_, name)| name.contains("mm_core"))
        .collect();
    sizes.sort();
    let Some((largest, name)) = sizes.last() else {
        bail!("{} names no function of mm-core", file.display());
    };
    say(&format!(
        "{} functions of mm-core; the largest frame: {largest} bytes, {name}",
        sizes.len()
    ));
    let over: Vec<String> = sizes
        .iter()
        .filter(|(size, name)| *size > limit(name))
        .map(|(size, name)| format!("  {size} bytes, of {} at most: {name}", limit(name)))
        .collect();
    if !over.is_empty() {
        bail!(
            "{} frames of mm-core are too large:\n{}",
            over.len(),
            over.join("\n")
        );
    }
    Ok(())
}

/// Returns the largest frame that the function of this mangled name may have.
fn limit(name: &str) -> u64 {
    // A value that is made once is part of the name of what makes it.
    let once = name.contains("4spin4once") || (name.contains("6MmCell") && name.contains("4init"));
    let machine = name.contains("_7mm_core2mm") && name.contains("2MmNt") && name.contains("3new");
    if once || machine {
        LIMIT_OF_BOOT
    } else {
        LIMIT
    }
}

/// Returns the frame size and the name of every function that `.stack_sizes` tells of.
fn sizes(bytes: &[u8]) -> Result<Vec<(u64, String)>> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let mut names = BTreeMap::new();
    if let Some((symbols, strings)) = file.symbol_table()? {
        for symbol in symbols {
            // Bit 0 of a function's address is no part of it on Arm.
            names.insert(
                symbol.st_value & !1,
                strings.get(symbol.st_name as usize)?.to_string(),
            );
        }
    }
    let section = file
        .section_header_by_name(".stack_sizes")?
        .context("the file has no .stack_sizes")?;
    let (data, _) = file.section_data(&section)?;
    let word = match file.ehdr.class {
        Class::ELF32 => 4,
        Class::ELF64 => 8,
    };
    let mut found = Vec::new();
    let mut rest = data;
    while let Some((address, tail)) = rest.split_at_checked(word) {
        let (size, tail) = uleb128(tail).context("a size is cut off")?;
        let address = address
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        found.push((size, names.get(&address).cloned().unwrap_or_default()));
        rest = tail;
    }
    Ok(found)
}

fn uleb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{LIMIT, LIMIT_OF_BOOT, limit, uleb128};

    #[test]
    fn only_making_the_machine_may_use_more() {
        for boot in [
            "_RNCINvB2_9call_onceNCNvMs3_BK_INtBK_6MmCellB1e_E4init0E0",
            "_RINvMs2_NtCsA_4spin4onceINtB6_4OnceINtNtNtCsB_7mm_core4page6frames6FramesNtNtCsC_1k2PcE",
            "_RNvMs_NtCsB_7mm_core2mmINtB4_2MmNtNtCsC_1k8platform2PcE3newBI_",
        ] {
            assert_eq!(limit(boot), LIMIT_OF_BOOT, "{boot}");
        }
        assert_eq!(
            limit("_RNvMs_NtCsB_7mm_core2mmINtB4_2MmNtNtCsC_1k2PcE5drainBI_"),
            LIMIT
        );
        assert_eq!(limit("_RNvMs3_7mm_core2mm_INtBK_6MmCellB1e_E3get"), LIMIT);
        assert_eq!(limit("_RNvMs_7mm_core5space4init"), LIMIT);
    }

    #[test]
    fn numbers_of_any_length_are_read() {
        assert_eq!(uleb128(&[0x08, 0xff]), Some((8, &[0xff][..])));
        assert_eq!(uleb128(&[0x80, 0x08]), Some((1024, &[][..])));
        assert_eq!(uleb128(&[0x80]), None);
    }
}
