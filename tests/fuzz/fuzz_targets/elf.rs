//! Any bytes as an ELF file: an error or a sound plan, never a panic.
//!
//! Byte 0 picks machine and page size, bytes 1 to 8 the base, the rest is the
//! file. `mm-elf/tests/cuts.rs` runs the same body on seeded input.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../mm-elf/tests/support/properties.rs"]
mod properties;

fuzz_target!(|data: &[u8]| properties::any_bytes(data));
