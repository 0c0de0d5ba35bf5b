//! What the boot loader said about memory, and the kernel's view of it.
//!
//! `start_info` and everything it points to lies in the low 4 GiB, which the boot table maps.
//! Source: the Xen PVH boot ABI, `struct hvm_start_info` versions 0 and 1.

use core::fmt;
use core::ops::Range;
use core::slice;

use spin::Once;
use x86_64::registers::control::Cr3;

/// Where the kernel image is linked: -2 GiB plus its physical address.
pub const KERNEL_BASE: usize = 0xffff_ffff_8000_0000;

/// Where the direct map of all RAM starts.
pub const DIRECT_MAP: usize = 0xffff_8000_0000_0000;

/// Bytes that the boot table reaches before [`extend_boot_table`].
pub const BOOT_REACH: u64 = 4 << 30;

const GIB: u64 = 1 << 30;

/// More entries than any firmware reports; the rest is ignored, loudly.
pub const MAX_REGIONS: usize = 32;

/// Returns the kernel's address of a byte of RAM.
pub fn direct(physical: u64) -> usize {
    DIRECT_MAP + physical as usize
}

/// One entry of the firmware's memory map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Whether it is RAM that may be used, or anything else.
    pub usable: bool,
}

impl Region {
    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.usable { "RAM" } else { "reserved" };
        write!(f, "{:#014x}-{:#014x} {kind}", self.start, self.end())
    }
}

/// What the kernel keeps of `start_info`.
pub struct Facts {
    regions: [Region; MAX_REGIONS],
    region_count: usize,
    /// The kernel's command line.
    pub command_line: &'static str,
    /// Physical address of ACPI's root pointer; 0 for none.
    pub rsdp: u64,
    /// The initial file system.
    pub initrd: &'static [u8],
    /// Physical range of the initial file system, in bytes.
    pub initrd_range: Range<u64>,
    /// Physical range that the kernel occupies, the tables it took at boot included.
    pub kernel_range: Range<u64>,
}

impl Facts {
    /// The memory map, as the firmware gave it.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.region_count]
    }

    /// The first byte above all usable RAM.
    pub fn ram_end(&self) -> u64 {
        self.regions()
            .iter()
            .filter(|region| region.usable)
            .map(Region::end)
            .max()
            .unwrap_or(0)
    }
}

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    map: u64,
    map_count: u32,
    reserved: u32,
}

#[repr(C)]
struct Module {
    start: u64,
    bytes: u64,
    command_line: u64,
    reserved: u64,
}

#[repr(C)]
struct MapEntry {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

/// A command line ends before.
const COMMAND_LINE_BYTES: usize = 2048;

const MAGIC: u32 = 0x336e_c578;

unsafe extern "C" {
    static kernel_physical_start: u8;
    static kernel_end: u8;
}

/// Reads what the loader left at the physical address `start_info`. Called once.
///
/// # Panics
///
/// When it is not a PVH `start_info`, or has no memory map.
pub fn read_start_info(start_info: u64) -> Facts {
    // SAFETY: the loader's contract (PVH): ebx points to a start_info in low memory, which the
    // boot table maps at `direct`. Nobody writes it.
    let info = unsafe { &*(direct(start_info) as *const StartInfo) };
    assert!(info.magic == MAGIC, "no PVH start_info at {start_info:#x}");
    assert!(
        info.version >= 1 && info.map_count > 0,
        "the boot loader gave no memory map"
    );
    // SAFETY: version 1 promises `map_count` entries at `map`, low and mapped as above.
    let map = unsafe {
        slice::from_raw_parts(direct(info.map) as *const MapEntry, info.map_count as usize)
    };
    let mut regions = [Region::default(); MAX_REGIONS];
    let region_count = map.len().min(MAX_REGIONS);
    if region_count < map.len() {
        log::warn!(
            "the memory map has {} entries, {region_count} are used",
            map.len()
        );
    }
    for (region, entry) in regions.iter_mut().zip(map) {
        *region = Region {
            start: entry.start,
            bytes: entry.bytes,
            usable: entry.kind == 1,
        };
    }
    let initrd_range = if info.module_count > 0 {
        // SAFETY: the loader promises `module_count` modules at `modules`.
        let module = unsafe { &*(direct(info.modules) as *const Module) };
        module.start..module.start + module.bytes
    } else {
        0..0
    };
    Facts {
        regions,
        region_count,
        command_line: copy_command_line(info.command_line),
        rsdp: info.rsdp,
        initrd: read_bytes(&initrd_range),
        initrd_range,
        kernel_range: image_range(),
    }
}

fn image_range() -> Range<u64> {
    let start = (&raw const kernel_physical_start) as u64;
    let end = (&raw const kernel_end) as usize - KERNEL_BASE;
    start..end as u64
}

/// Copies the command line into the kernel, because the loader's memory is given away.
///
/// # Panics
///
/// When it is too long: cut, it would ask for something else.
fn copy_command_line(start: u64) -> &'static str {
    static COPY: Once<[u8; COMMAND_LINE_BYTES]> = Once::new();
    if start == 0 {
        return "";
    }
    let copy = COPY.call_once(|| {
        // SAFETY: a zero-terminated string in mapped low memory. What is read behind its end is
        // memory too, and is not used.
        unsafe { (direct(start) as *const [u8; COMMAND_LINE_BYTES]).read() }
    });
    let end = copy.iter().position(|&byte| byte == 0);
    let text = end.map(|end| &copy[..end]);
    assert!(
        text.is_some(),
        "the command line is longer than {} bytes",
        COMMAND_LINE_BYTES - 1
    );
    let text = text.unwrap_or_default();
    core::str::from_utf8(text).unwrap_or("")
}

fn read_bytes(range: &Range<u64>) -> &'static [u8] {
    if range.is_empty() {
        return &[];
    }
    assert!(range.end <= BOOT_REACH, "the initrd lies above 4 GiB");
    // SAFETY: the loader put the module there; the platform keeps the range out of the frames
    // that it hands to mm-core, so nobody ever writes it.
    unsafe {
        slice::from_raw_parts(
            direct(range.start) as *const u8,
            (range.end - range.start) as usize,
        )
    }
}

/// Makes the boot table's direct map reach all RAM: one page directory per GiB above the
/// fourth, taken from the memory right behind the kernel image.
pub fn extend_boot_table(facts: &mut Facts) {
    let end = facts.ram_end().next_multiple_of(GIB);
    let root = Cr3::read().0.start_address().as_u64();
    let root = direct(root) as *mut u64;
    // SAFETY: the boot table is only changed here, on one CPU; its tables lie in low memory.
    // The new directories lie behind the kernel image in the same RAM region (checked), which
    // nobody uses yet.
    unsafe {
        let pointers = direct(root.add(256).read() & !0xfff) as *mut u64;
        for gib in BOOT_REACH / GIB..end / GIB {
            assert!(gib < 512, "more than 512 GiB of RAM");
            let directory = take_behind_kernel(facts);
            for index in 0..512 {
                let entry = (direct(directory) as *mut u64).add(index as usize);
                entry.write((gib * GIB + index * (2 << 20)) | 0x83);
            }
            pointers.add(gib as usize).write(directory | 3);
        }
    }
}

fn take_behind_kernel(facts: &mut Facts) -> u64 {
    let frame = facts.kernel_range.end;
    let free = facts.regions().iter().any(|region| {
        region.usable
            && region.start <= facts.kernel_range.start
            && frame + 4096 <= region.end().min(BOOT_REACH)
    });
    let taken = frame < facts.initrd_range.end && frame + 4096 > facts.initrd_range.start;
    assert!(
        free && !taken,
        "no room for the boot table behind the kernel"
    );
    facts.kernel_range.end = frame + 4096;
    frame
}
