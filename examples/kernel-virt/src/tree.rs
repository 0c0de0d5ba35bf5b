//! The facts of the machine, read once from the firmware's device tree.
//!
//! Sources: Devicetree Specification v0.4, 2.3 (standard properties), 3.4 to 3.8 (memory,
//! reserved memory, chosen, cpus); the kernel's device-tree bindings of the devices named here.
//!
//! The text ([`Facts::command_line`], [`CpuKind`]) stays where the firmware put it, so the
//! tree is among the regions that [`Facts::regions`] calls reserved. All addresses are physical.

use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::{NodeStandard, Status};
use dtoolkit::{Node, Property};
use mm_core::platform::{Region, RegionKind};

use crate::clock::ClockKind;

/// More regions than any of these machines has.
pub const MAX_REGIONS: usize = 32;
/// CPUs beyond these stay off.
pub const MAX_CPUS: usize = 8;
/// A deeper tree is not looked into.
const MAX_DEPTH: usize = 6;

/// Where a device is, and how it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// First byte of its registers.
    pub base: u64,
    /// Bytes of its registers.
    pub bytes: u64,
    /// Its interrupt as the interrupt controller numbers it (GIC: from 32 for devices, from 16
    /// for a CPU's own); 0 for none.
    pub interrupt: u32,
}

/// A GICv2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicFacts {
    /// The distributor.
    pub distributor: Device,
    /// The CPU interface.
    pub cpu: Device,
}

/// The instruction by which the firmware's power calls (PSCI) are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsciConduit {
    /// `smc`.
    Smc,
    /// `hvc`.
    Hvc,
}

/// What the device tree says. Devices that are not there are `None`.
#[derive(Clone, Debug)]
pub struct Facts {
    regions: [Region; MAX_REGIONS],
    region_count: usize,
    cpus: [u64; MAX_CPUS],
    cpu_count: usize,
    /// Contexts of the PLIC for supervisors, in the order of `cpus`.
    plic_contexts: [Option<usize>; MAX_CPUS],
    /// The kernel's command line.
    pub command_line: &'static str,
    /// The initial file system; empty for none.
    pub initrd: Range<u64>,
    /// The device tree itself.
    pub tree: Range<u64>,
    /// The firmware's random bytes, folded; 0 for none.
    pub seed: u64,
    /// An Arm serial port.
    pub pl011: Option<Device>,
    /// A 16550 serial port.
    pub ns16550: Option<Device>,
    /// Arm's interrupt controller.
    pub gic: Option<GicFacts>,
    /// RISC-V's interrupt controller.
    pub plic: Option<Device>,
    /// The clock that tells the date.
    pub clock: Option<(ClockKind, Device)>,
    /// What ends the machine with a status.
    pub finisher: Option<Device>,
    /// How to call PSCI.
    pub psci: Option<PsciConduit>,
    /// The Arm generic timer's interrupts: secure, non-secure, virtual, hypervisor.
    pub timer_interrupts: [u32; 4],
    /// Ticks per second of the CPUs' time counter, where the tree says it (RISC-V).
    pub timebase: Option<u32>,
    kinds: [CpuKind; MAX_CPUS],
}

/// What a CPU can do, as the tree says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuKind {
    /// RISC-V's `riscv,isa`, or nothing.
    pub isa: &'static str,
    /// RISC-V's `mmu-type`, or nothing.
    pub mmu_type: &'static str,
}

/// Why a device tree cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// It is no valid tree.
    Malformed,
    /// It has no memory.
    NoMemory,
    /// It has more than [`MAX_REGIONS`] regions.
    TooManyRegions,
}

impl Facts {
    /// Reads the tree at `tree`, whose physical address is `physical`.
    ///
    /// # Errors
    ///
    /// When there is no usable tree.
    ///
    /// # Safety
    ///
    /// The boot protocol promises a device tree at `tree`: its header, and as many bytes as the
    /// header says, are mapped, and nobody writes them as long as the machine runs.
    pub unsafe fn read(tree: *const u8, physical: u64) -> Result<Self, TreeError> {
        // SAFETY: the caller's promise. What the header says is checked by `from_raw`.
        let fdt = unsafe { Fdt::from_raw(tree) }.map_err(|_| TreeError::Malformed)?;
        Self::of(fdt, physical)
    }

    fn of(fdt: Fdt<'static>, physical: u64) -> Result<Self, TreeError> {
        let nothing = Region {
            start: 0,
            len: 0,
            kind: RegionKind::Reserved,
        };
        let mut facts = Self {
            regions: [nothing; MAX_REGIONS],
            region_count: 0,
            cpus: [0; MAX_CPUS],
            cpu_count: 0,
            plic_contexts: [None; MAX_CPUS],
            command_line: "",
            initrd: 0..0,
            tree: physical..physical + fdt.data().len() as u64,
            seed: 0,
            pl011: None,
            ns16550: None,
            gic: None,
            plic: None,
            clock: None,
            finisher: None,
            psci: None,
            timer_interrupts: [0; 4],
            timebase: None,
            kinds: [CpuKind::default(); MAX_CPUS],
        };
        facts.read_memory(fdt)?;
        facts.read_chosen(fdt);
        facts.read_cpus(fdt);
        facts.read_devices(fdt.root(), 0);
        facts.read_plic_contexts(fdt);
        Ok(facts)
    }

    /// The memory map: RAM as usable; the tree, the initrd and what the firmware keeps as
    /// reserved. A kernel adds its own image and gives all to `mm_core::platform::normalise`.
    pub fn regions(&self) -> &[Region] {
        self.regions.get(..self.region_count).unwrap_or(&[])
    }

    /// The ranges of all RAM, also of what is reserved in it: what a direct map covers.
    pub fn ram(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let usable = |region: &&Region| region.kind == RegionKind::Usable;
        let range = |region: &Region| region.start..region.start.saturating_add(region.len);
        self.regions().iter().filter(usable).map(range)
    }

    /// The hardware's names of the CPUs (hart number, MPIDR affinity), first the first in the
    /// tree; a kernel's CPU n is entry n.
    pub fn cpus(&self) -> &[u64] {
        self.cpus.get(..self.cpu_count).unwrap_or(&[])
    }

    /// The hardware's names of the CPUs other than `boot`, which the kernel numbers 0: the n-th of
    /// these is its CPU n + 1.
    pub fn other_cpus(&self, boot: u64) -> impl Iterator<Item = u64> + '_ {
        let others = self
            .cpus()
            .iter()
            .copied()
            .filter(move |&name| name != boot);
        others.take(MAX_CPUS - 1)
    }

    /// What the CPU with this name can do; nothing for one that is not in the tree.
    pub fn kind(&self, name: u64) -> CpuKind {
        let place = self.cpus().iter().position(|&cpu| cpu == name);
        let kind = place.and_then(|place| self.kinds.get(place));
        kind.copied().unwrap_or_default()
    }

    /// The PLIC's context for the supervisor of CPU `cpu`.
    pub fn plic_context(&self, cpu: usize) -> Option<usize> {
        self.plic_contexts.get(cpu).copied().flatten()
    }

    /// Adds a region, for example the kernel's image.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn add_region(&mut self, range: Range<u64>, kind: RegionKind) -> Result<(), TreeError> {
        let place = self.regions.get_mut(self.region_count);
        let place = place.ok_or(TreeError::TooManyRegions)?;
        *place = Region {
            start: range.start,
            len: range.end.saturating_sub(range.start),
            kind,
        };
        self.region_count += 1;
        Ok(())
    }

    fn read_memory(&mut self, fdt: Fdt<'static>) -> Result<(), TreeError> {
        for node in fdt.root().children() {
            if text(&node, "device_type") == Some("memory") && is_on(&node) {
                for range in ranges(&node) {
                    self.add_region(range, RegionKind::Usable)?;
                }
            }
        }
        if self.region_count == 0 {
            return Err(TreeError::NoMemory);
        }
        self.add_region(self.tree.clone(), RegionKind::Reserved)?;
        for reservation in fdt.memory_reservations() {
            let start = reservation.address();
            let end = start.saturating_add(reservation.size());
            self.add_region(start..end, RegionKind::Reserved)?;
        }
        if let Some(reserved) = fdt.find_node("/reserved-memory") {
            for node in reserved.children().filter(is_on) {
                for range in ranges(&node) {
                    self.add_region(range, RegionKind::Reserved)?;
                }
            }
        }
        if let Some(chosen) = fdt.find_node("/chosen") {
            let start = number(&chosen, "linux,initrd-start").unwrap_or(0);
            let end = number(&chosen, "linux,initrd-end").unwrap_or(0);
            if start < end {
                self.initrd = start..end;
                self.add_region(start..end, RegionKind::Reserved)?;
            }
        }
        Ok(())
    }

    fn read_chosen(&mut self, fdt: Fdt<'static>) {
        let Some(chosen) = fdt.find_node("/chosen") else {
            return;
        };
        self.command_line = text(&chosen, "bootargs").unwrap_or("");
        for name in ["rng-seed", "kaslr-seed"] {
            for word in bytes(&chosen, name).chunks(8) {
                let word = word
                    .iter()
                    .fold(0, |word, &byte| word << 8 | u64::from(byte));
                self.seed = self.seed.rotate_left(7) ^ word;
            }
        }
    }

    fn read_cpus(&mut self, fdt: Fdt<'static>) {
        let Some(cpus) = fdt.find_node("/cpus") else {
            return;
        };
        self.timebase = number(&cpus, "timebase-frequency").map(|hertz| hertz as u32);
        for cpu in cpus.children() {
            if text(&cpu, "device_type") != Some("cpu") || !is_on(&cpu) {
                continue;
            }
            let timebase = number(&cpu, "timebase-frequency").map(|hertz| hertz as u32);
            self.timebase = self.timebase.or(timebase);
            let name = number(&cpu, "reg");
            if let (Some(place), Some(name)) = (self.cpus.get_mut(self.cpu_count), name) {
                *place = name;
                if let Some(kind) = self.kinds.get_mut(self.cpu_count) {
                    kind.isa = text(&cpu, "riscv,isa").unwrap_or("");
                    kind.mmu_type = text(&cpu, "mmu-type").unwrap_or("");
                }
                self.cpu_count += 1;
            }
        }
    }

    fn read_devices(&mut self, parent: FdtNode<'static>, depth: usize) {
        for node in parent.children() {
            if is_on(&node) {
                node.compatible()
                    .into_iter()
                    .flatten()
                    .for_each(|kind| self.read_device(&node, kind));
            }
            if depth < MAX_DEPTH {
                self.read_devices(node, depth + 1);
            }
        }
    }

    /// The first device of a kind is the one that is used.
    fn read_device(&mut self, node: &FdtNode<'static>, kind: &str) {
        let first = |old: Option<Device>| old.or_else(|| device(node, 0));
        match kind {
            "arm,pl011" => self.pl011 = first(self.pl011),
            "ns16550a" | "ns16550" => self.ns16550 = first(self.ns16550),
            "sifive,test0" | "sifive,test1" => self.finisher = first(self.finisher),
            "riscv,plic0" | "sifive,plic-1.0.0" => self.plic = first(self.plic),
            "arm,cortex-a15-gic" | "arm,gic-400" | "arm,cortex-a9-gic" => {
                if let (Some(distributor), Some(cpu)) = (device(node, 0), device(node, 1)) {
                    self.gic = self.gic.or(Some(GicFacts { distributor, cpu }));
                }
            }
            "arm,pl031" | "google,goldfish-rtc" => {
                let kind = match kind {
                    "arm,pl031" => ClockKind::Pl031,
                    _ => ClockKind::Goldfish,
                };
                self.clock = self.clock.or(device(node, 0).map(|clock| (kind, clock)));
            }
            "arm,armv8-timer" | "arm,armv7-timer" => {
                for (at, place) in self.timer_interrupts.iter_mut().enumerate() {
                    *place = interrupt(node, at);
                }
            }
            "arm,psci" | "arm,psci-0.2" | "arm,psci-1.0" => {
                self.psci = match text(node, "method") {
                    Some("smc") => Some(PsciConduit::Smc),
                    Some("hvc") => Some(PsciConduit::Hvc),
                    _ => None,
                };
            }
            _ => {}
        }
    }

    /// Context n of the PLIC is entry n of its `interrupts-extended`: pairs of a hart's own
    /// interrupt controller and the interrupt there, of which the supervisor's is 9.
    fn read_plic_contexts(&mut self, fdt: Fdt<'static>) {
        const SUPERVISOR_EXTERNAL: u32 = 9;
        let Some(cpus) = fdt.find_node("/cpus") else {
            return;
        };
        let Some(plic) = find(fdt.root(), &["riscv,plic0", "sifive,plic-1.0.0"], 0) else {
            return;
        };
        let contexts = cells(&plic, "interrupts-extended");
        for cpu in cpus.children() {
            let controller = cpu.child("interrupt-controller");
            let handle = controller.and_then(|node| number(&node, "phandle"));
            let name = number(&cpu, "reg");
            let index = self.cpus().iter().position(|&other| Some(other) == name);
            let Some(place) = index.and_then(|index| self.plic_contexts.get_mut(index)) else {
                continue;
            };
            let mut pairs = contexts.clone();
            let mut context = 0;
            while let (Some(controller), Some(number)) = (pairs.next(), pairs.next()) {
                if Some(u64::from(controller)) == handle && number == SUPERVISOR_EXTERNAL {
                    *place = Some(context);
                }
                context += 1;
            }
        }
    }
}

fn find(parent: FdtNode<'static>, kinds: &[&str], depth: usize) -> Option<FdtNode<'static>> {
    parent.children().find_map(|node| {
        let mut kinds_of = node.compatible().into_iter().flatten();
        if is_on(&node) && kinds_of.any(|kind| kinds.contains(&kind)) {
            return Some(node);
        }
        (depth < MAX_DEPTH)
            .then(|| find(node, kinds, depth + 1))
            .flatten()
    })
}

fn is_on(node: &FdtNode<'static>) -> bool {
    node.status() == Ok(Status::Okay)
}

fn text(node: &FdtNode<'static>, name: &str) -> Option<&'static str> {
    node.property(name)?.value_as().ok()
}

fn bytes(node: &FdtNode<'static>, name: &str) -> &'static [u8] {
    let property = node.property(name);
    property
        .and_then(|property| property.value_as().ok())
        .unwrap_or(&[])
}

/// A number of one or two cells: the specification lets the firmware choose.
fn number(node: &FdtNode<'static>, name: &str) -> Option<u64> {
    let property = node.property(name)?;
    let single = property.value_as::<u32>().ok().map(u64::from);
    single.or_else(|| property.value_as().ok())
}

fn cells(node: &FdtNode<'static>, name: &str) -> impl Iterator<Item = u32> + Clone + use<> {
    let (cells, _) = bytes(node, name).as_chunks::<4>();
    cells.iter().map(|cell| u32::from_be_bytes(*cell))
}

/// The address ranges of a node's `reg`.
fn ranges(node: &FdtNode<'static>) -> impl Iterator<Item = Range<u64>> + use<> {
    let regs = node.reg().ok().flatten();
    regs.into_iter().flatten().filter_map(|reg| {
        let (start, bytes) = (reg.address::<u64>().ok()?, reg.size::<u64>().ok()?);
        Some(start..start.saturating_add(bytes))
    })
}

fn device(node: &FdtNode<'static>, at: usize) -> Option<Device> {
    let range = ranges(node).nth(at)?;
    Some(Device {
        base: range.start,
        bytes: range.end - range.start,
        interrupt: interrupt(node, 0),
    })
}

/// Entry `at` of a node's `interrupts`: three cells for a GIC (kind, number, flags), one for a
/// PLIC.
fn interrupt(node: &FdtNode<'static>, at: usize) -> u32 {
    let mut cells = cells(node, "interrupts");
    let is_gic = cells.clone().count().is_multiple_of(3);
    if !is_gic {
        return cells.nth(at).unwrap_or(0);
    }
    match (cells.nth(3 * at), cells.next()) {
        (Some(0), Some(number)) => 32 + number,
        (Some(1), Some(number)) => 16 + number,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
