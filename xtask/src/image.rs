//! Makes a flat image out of a kernel's ELF file.
//!
//! QEMU's loader for Arm passes the device tree, the command line and the initrd to what it takes
//! for Linux: a raw image. It is loaded where its own header says (AArch64, Linux
//! `Documentation/arch/arm64/booting.rst`, 4) or 64 KiB above the start of RAM (Armv7).
//!
//! ```text
//! ELF    LOAD p_paddr 0x40200000 ..   LOAD p_paddr 0x40230000 ..
//! image  [ bytes ..............][ 0 ][ bytes ............]         memory that is not in the file
//!        ^ lowest physical address                                 (.bss) is not in the image
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::AnyEndian;

/// What the loader expects at the start of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Code.
    None,
    /// Linux' header of 64 bytes, the first two instructions included.
    Arm64,
}

/// Where the magic number of [`Header::Arm64`] stands, and what it is.
const ARM64_MAGIC: (usize, &[u8]) = (56, b"ARM\x64");

/// A larger image is a mistake in a linker script.
const LIMIT: u64 = 64 << 20;

/// Writes the flat image of `file` beside it and returns its path.
pub fn flatten(file: &Path, header: Header) -> Result<PathBuf> {
    let bytes = std::fs::read(file)?;
    let image = flat(&bytes).with_context(|| format!("cannot flatten {}", file.display()))?;
    let (at, magic) = ARM64_MAGIC;
    if header == Header::Arm64 && image.get(at..at + magic.len()) != Some(magic) {
        bail!(
            "{} does not start with an arm64 image header",
            file.display()
        );
    }
    let path = file.with_extension("img");
    std::fs::write(&path, image)?;
    Ok(path)
}

fn flat(bytes: &[u8]) -> Result<Vec<u8>> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let segments = file.segments().context("no program headers")?;
    let loads: Vec<_> = segments
        .iter()
        .filter(|segment| segment.p_type == PT_LOAD && segment.p_filesz > 0)
        .collect();
    let start = loads.iter().map(|segment| segment.p_paddr).min();
    let start = start.context("nothing to load")?;
    let mut image = Vec::new();
    for segment in loads {
        let at = segment.p_paddr - start;
        if at + segment.p_filesz > LIMIT {
            bail!(
                "a segment at {:#x}, the first at {start:#x}",
                segment.p_paddr
            );
        }
        let data = file.segment_data(&segment)?;
        let end = at as usize + data.len();
        image.resize(image.len().max(end), 0);
        if let Some(place) = image.get_mut(at as usize..end) {
            place.copy_from_slice(data);
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::flat;

    /// An ELF32 file (little endian, Arm) with two loads: `AB` at 0x8000, `C` at 0x8004, the
    /// second one first in the table.
    fn file() -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 1, 1, 1];
        bytes.resize(16, 0);
        let halves = |bytes: &mut Vec<u8>, values: &[u16]| {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        };
        let words = |bytes: &mut Vec<u8>, values: &[u32]| {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        };
        halves(&mut bytes, &[2, 40]);
        words(&mut bytes, &[1, 0, 52, 0, 0]);
        halves(&mut bytes, &[52, 32, 2, 40, 0, 0]);
        words(&mut bytes, &[1, 118, 0xc000_8004, 0x8004, 1, 100, 6, 4]);
        words(&mut bytes, &[1, 116, 0xc000_8000, 0x8000, 2, 2, 5, 4]);
        bytes.extend(b"ABC");
        bytes
    }

    #[test]
    fn segments_stand_where_their_physical_addresses_say() {
        assert_eq!(flat(&file()).unwrap(), b"AB\0\0C");
    }

    #[test]
    fn a_stray_segment_is_refused() {
        let mut bytes = file();
        // The second load's p_paddr.
        bytes[52 + 32 + 12..52 + 32 + 16].copy_from_slice(&0xc000_8000_u32.to_le_bytes());
        assert!(flat(&bytes).is_err());
    }
}
