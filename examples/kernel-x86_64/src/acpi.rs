//! Which CPUs the machine has: ACPI's table of interrupt controllers (MADT).
//!
//! ```text
//! RSDP ─► XSDT (64-bit) or RSDT (32-bit) ─► "APIC" ─► an entry of type 0 for each CPU
//! ```
//! Read on the boot table, which maps the low 4 GiB, where firmware keeps its tables. Everything is
//! checked against the lengths that the tables themselves give; what does not fit ends the search,
//! and the machine runs on one CPU.
//!
//! Source: ACPI specification 6.5, sections 5.2.5 (RSDP) to 5.2.12 (MADT).

use crate::cpu::MAX_CPUS;
use crate::memory::{BOOT_REACH, direct};

const HEADER_BYTES: usize = 36;
/// Where a MADT's entries begin.
const ENTRIES: usize = 44;
const LOCAL_APIC: u8 = 0;
const ENABLED: u8 = 1;
/// More than any table here has; a longer one is cut.
const MAX_TABLE_BYTES: usize = 64 * 1024;

/// The CPUs that the firmware names, by the number of their local APIC.
#[derive(Clone, Copy, Default)]
pub struct Cpus {
    ids: [u8; MAX_CPUS],
    count: usize,
}

impl Cpus {
    /// The numbers of the local APICs, at most `MAX_CPUS`.
    pub fn ids(&self) -> &[u8] {
        &self.ids[..self.count]
    }
}

/// Finds the CPUs; none if there is no table. `rsdp` is a physical address, 0 for none.
pub fn cpus(rsdp: u64) -> Cpus {
    let mut found = Cpus::default();
    let Some(madt) = madt(rsdp) else {
        return found;
    };
    let mut rest = madt.get(ENTRIES..).unwrap_or_default();
    while let [kind, length, body @ ..] = rest {
        if let (LOCAL_APIC, [_, id, flags, ..]) = (*kind, body) {
            if flags & ENABLED != 0 && found.count < MAX_CPUS {
                found.ids[found.count] = *id;
                found.count += 1;
            }
        }
        // An entry of no length would be the last one for ever.
        rest = rest.get(usize::from(*length).max(2)..).unwrap_or_default();
    }
    found
}

fn madt(rsdp: u64) -> Option<&'static [u8]> {
    let root = bytes(rsdp, HEADER_BYTES).filter(|root| root.starts_with(b"RSD PTR "))?;
    let (list, width) = if root[15] >= 2 {
        (number(root.get(24..32)?), 8)
    } else {
        (number(root.get(16..20)?), 4)
    };
    let list = table(list)?.get(HEADER_BYTES..)?;
    list.chunks_exact(width)
        .filter_map(|address| table(number(address)))
        .find(|table| table.starts_with(b"APIC"))
}

/// The table at a physical address, as long as its header says.
fn table(address: u64) -> Option<&'static [u8]> {
    let header = bytes(address, HEADER_BYTES)?;
    let length = number(header.get(4..8)?) as usize;
    bytes(address, length.clamp(HEADER_BYTES, MAX_TABLE_BYTES))
}

fn bytes(address: u64, length: usize) -> Option<&'static [u8]> {
    if address == 0 || address.checked_add(length as u64)? > BOOT_REACH {
        return None;
    }
    // SAFETY: the boot table maps these bytes, nobody writes the firmware's tables, and reading
    // memory that is not there has no effect.
    Some(unsafe { core::slice::from_raw_parts(direct(address) as *const u8, length) })
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}
