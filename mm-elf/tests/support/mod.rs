//! Builds ELF files by hand, field by field, so that each can be wrong.
#![allow(dead_code, reason = "each test crate uses its part")]

pub mod properties;

use mm_elf::Machine;

pub const PT_LOAD: u32 = 1;
pub const PT_INTERP: u32 = 3;
pub const PT_PHDR: u32 = 6;
pub const PT_TLS: u32 = 7;
pub const PT_GNU_STACK: u32 = 0x6474_e551;
pub const PT_GNU_RELRO: u32 = 0x6474_e552;
pub const PT_RISCV_ATTRIBUTES: u32 = 0x7000_0003;
pub const R: u32 = 4;
pub const W: u32 = 2;
pub const X: u32 = 1;

/// One program header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ph {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub addr: u64,
    pub file: u64,
    pub mem: u64,
    pub align: u64,
}

/// A file to be. The defaults are right, and each field can be made wrong.
#[derive(Clone, Debug)]
pub struct File {
    pub machine: Machine,
    pub class: u8,
    pub data: u8,
    pub version: u8,
    pub kind: u16,
    pub number: u16,
    pub entry: u64,
    pub phoff: u64,
    pub phentsize: u16,
    pub phnum: Option<u16>,
    pub headers: Vec<Ph>,
    pub size: usize,
}

impl File {
    /// An `ET_EXEC` with these headers and a size that holds all of them.
    pub fn new(machine: Machine, headers: &[Ph]) -> Self {
        let wide = machine.word_bytes() == 8;
        let ends = headers.iter().map(|h| h.offset.saturating_add(h.file));
        let size = ends.filter(|&e| e < 1 << 24).max().unwrap_or(0).max(0x1000);
        Self {
            machine,
            class: if wide { 2 } else { 1 },
            data: 1,
            version: 1,
            kind: 2,
            number: machine.number(),
            entry: headers
                .iter()
                .find(|h| h.kind == PT_LOAD)
                .map_or(0, |h| h.addr),
            phoff: if wide { 64 } else { 52 },
            phentsize: if wide { 56 } else { 32 },
            phnum: None,
            headers: headers.to_vec(),
            size: size as usize,
        }
    }

    pub fn relocatable(mut self) -> Self {
        self.kind = 3;
        self
    }

    /// The bytes of the file; those outside of the headers are 0xcc.
    pub fn bytes(&self) -> Vec<u8> {
        let wide = self.machine.word_bytes() == 8;
        let mut f = vec![0x7f, b'E', b'L', b'F', self.class, self.data, self.version];
        f.resize(16, 0);
        let half = |f: &mut Vec<u8>, v: u16| f.extend(v.to_le_bytes());
        let long = |f: &mut Vec<u8>, v: u64| {
            f.extend(&v.to_le_bytes()[..if wide { 8 } else { 4 }]);
        };
        half(&mut f, self.kind);
        half(&mut f, self.number);
        f.extend(1u32.to_le_bytes());
        for word in [self.entry, self.phoff, 0] {
            long(&mut f, word);
        }
        f.extend(0u32.to_le_bytes());
        half(&mut f, if wide { 64 } else { 52 });
        half(&mut f, self.phentsize);
        half(&mut f, self.phnum.unwrap_or(self.headers.len() as u16));
        for _ in 0..3 {
            half(&mut f, 0);
        }
        let mut table = Vec::new();
        for h in &self.headers {
            table.extend(h.kind.to_le_bytes());
            if wide {
                table.extend(h.flags.to_le_bytes());
            }
            for word in [h.offset, h.addr, h.addr, h.file, h.mem] {
                long(&mut table, word);
            }
            if !wide {
                table.extend(h.flags.to_le_bytes());
            }
            long(&mut table, h.align);
        }
        let end = self
            .phoff
            .checked_add(table.len() as u64)
            .filter(|&e| e < 1 << 24);
        f.resize(
            self.size.max(end.map_or(0, |e| e as usize)).max(f.len()),
            0xcc,
        );
        if end.is_some() {
            f[self.phoff as usize..][..table.len()].copy_from_slice(&table);
        }
        f
    }
}

/// A `PT_LOAD`, page aligned.
pub const fn load(flags: u32, offset: u64, addr: u64, file: u64, mem: u64) -> Ph {
    Ph {
        kind: PT_LOAD,
        flags,
        offset,
        addr,
        file,
        mem,
        align: 0x1000,
    }
}

/// As linkers make them for x86-64: four segments at 0x400000, the last with
/// bss, and the headers that a loader passes by.
pub fn typical() -> File {
    let other = |kind, offset, addr, file, mem| Ph {
        kind,
        flags: R | W,
        offset,
        addr,
        file,
        mem,
        align: 8,
    };
    File {
        entry: 0x40_1234,
        ..File::new(
            Machine::X86_64,
            &[
                load(R, 0, 0x40_0000, 0x5b0, 0x5b0),
                load(R | X, 0x1000, 0x40_1000, 0x9_6f41, 0x9_6f41),
                load(R, 0x9_8000, 0x49_8000, 0x2_84c3, 0x2_84c3),
                load(R | W, 0xc_17b0, 0x4c_27b0, 0x5ae0, 0xb2d8),
                other(PT_TLS, 0xc_17b0, 0x4c_27b0, 0x18, 0x60),
                other(PT_GNU_STACK, 0, 0, 0, 0),
                other(PT_GNU_RELRO, 0xc_17b0, 0x4c_27b0, 0x3850, 0x3850),
            ],
        )
    }
}

/// A small generator of random numbers (xorshift64*), seeded.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
