//! Trees as QEMU's two `virt` machines make them, cut down to what is read.

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use mm_core::platform::normalise;

use super::*;

fn node(name: &str, properties: &[(&str, &[u8])]) -> DeviceTreeNode {
    let mut builder = DeviceTreeNode::builder(name).unwrap();
    for (name, value) in properties {
        builder = builder.property(DeviceTreeProperty::new(*name, *value).unwrap());
    }
    builder.build()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn root(children: Vec<DeviceTreeNode>) -> Fdt<'static> {
    let mut tree = DeviceTree::new();
    for (name, cells) in [("#address-cells", 2), ("#size-cells", 2)] {
        let value = words(&[cells]);
        tree.root
            .add_property(DeviceTreeProperty::new(name, value.as_slice()).unwrap());
    }
    children
        .into_iter()
        .for_each(|child| tree.root.add_child(child));
    Fdt::new(tree.to_dtb().leak()).unwrap()
}

fn memory() -> DeviceTreeNode {
    let reg = words(&[0, 0x4000_0000, 0, 0x1000_0000]);
    node(
        "memory@40000000",
        &[("device_type", b"memory\0"), ("reg", &reg)],
    )
}

fn device_node(name: &str, kind: &[u8], reg: &[u32], interrupts: &[u32]) -> DeviceTreeNode {
    let (reg, interrupts) = (words(reg), words(interrupts));
    node(
        name,
        &[
            ("compatible", kind),
            ("reg", &reg),
            ("interrupts", &interrupts),
        ],
    )
}

#[test]
fn an_arm_machine() {
    let initrd = words(&[0x4800_0000]);
    let end = words(&[0, 0x4810_0000]);
    let fdt = root(vec![
        memory(),
        node(
            "chosen",
            &[
                ("bootargs", b"shell\0"),
                ("linux,initrd-start", &initrd),
                ("linux,initrd-end", &end),
                ("kaslr-seed", &[1, 2, 3, 4, 5, 6, 7, 8]),
            ],
        ),
        device_node(
            "pl011@9000000",
            b"arm,pl011\0arm,primecell\0",
            &[0, 0x900_0000, 0, 0x1000],
            &[0, 1, 4],
        ),
        device_node(
            "intc@8000000",
            b"arm,cortex-a15-gic\0",
            &[0, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x1_0000],
            &[],
        ),
        device_node(
            "timer",
            b"arm,armv8-timer\0arm,armv7-timer\0",
            &[],
            &[1, 13, 0x104, 1, 14, 0x104, 1, 11, 0x104, 1, 10, 0x104],
        ),
        node(
            "psci",
            &[("compatible", b"arm,psci-1.0\0"), ("method", b"hvc\0")],
        ),
    ]);
    let facts = Facts::of(fdt, 0x4000_0000).unwrap();
    assert_eq!(facts.command_line, "shell");
    assert_eq!(facts.initrd, 0x4800_0000..0x4810_0000);
    assert_eq!(facts.seed, 0x0102_0304_0506_0708);
    let uart = facts.pl011.unwrap();
    assert_eq!(
        (uart.base, uart.bytes, uart.interrupt),
        (0x900_0000, 0x1000, 33)
    );
    assert_eq!(facts.gic.unwrap().cpu.base, 0x801_0000);
    assert_eq!(facts.timer_interrupts, [29, 30, 27, 26]);
    assert_eq!(facts.psci, Some(PsciConduit::Hvc));
    assert_eq!(facts.ns16550, None);
    assert!(facts.ram().eq(core::iter::once(0x4000_0000..0x5000_0000)));
    // The tree's pages at the start and the initrd's in the middle are not free.
    let free: Vec<_> = normalise(facts.regions(), 12)
        .map(|range| (range.start.as_u64(), range.frames))
        .collect();
    let tree = facts.tree.end.div_ceil(4096);
    assert_eq!(free, [(tree, 0x48000 - tree), (0x48100, 0x7f00)]);
}

#[test]
fn a_riscv_machine() {
    let mut cpus = node("cpus", &[("timebase-frequency", &words(&[10_000_000]))]);
    for (name, value) in [("#address-cells", 1), ("#size-cells", 0)] {
        let value = words(&[value]);
        cpus.add_property(DeviceTreeProperty::new(name, value.as_slice()).unwrap());
    }
    for hart in 0..3 {
        let status: &[u8] = if hart == 0 { b"disabled\0" } else { b"okay\0" };
        let isa: &[u8] =
            [&b"rv64imac\0"[..], b"rv64imafdc_svpbmt\0", b"rv64imafdc\0"][hart as usize];
        let mut cpu = node(
            &format!("cpu@{hart}"),
            &[
                ("device_type", b"cpu\0"),
                ("reg", &words(&[hart])),
                ("status", status),
                ("riscv,isa", isa),
                ("mmu-type", b"riscv,sv48\0"),
            ],
        );
        let handle = words(&[10 + hart]);
        cpu.add_child(node("interrupt-controller", &[("phandle", &handle)]));
        cpus.add_child(cpu);
    }
    let mut soc = node("soc", &[]);
    for name in ["#address-cells", "#size-cells"] {
        let value = words(&[2]);
        soc.add_property(DeviceTreeProperty::new(name, value.as_slice()).unwrap());
    }
    soc.add_child(device_node(
        "serial@10000000",
        b"ns16550a\0",
        &[0, 0x1000_0000, 0, 0x100],
        &[10],
    ));
    soc.add_child(device_node(
        "test@100000",
        b"sifive,test1\0sifive,test0\0syscon\0",
        &[0, 0x10_0000, 0, 0x1000],
        &[],
    ));
    let reg = words(&[0, 0xc00_0000, 0, 0x60_0000]);
    let contexts = words(&[10, 11, 11, 11, 11, 9, 12, 11, 12, 9]);
    soc.add_child(node(
        "plic@c000000",
        &[
            ("compatible", b"sifive,plic-1.0.0\0riscv,plic0\0"),
            ("reg", &reg),
            ("interrupts-extended", &contexts),
        ],
    ));
    let mut reserved = node("reserved-memory", &[]);
    for name in ["#address-cells", "#size-cells"] {
        let value = words(&[2]);
        reserved.add_property(DeviceTreeProperty::new(name, value.as_slice()).unwrap());
    }
    let firmware = words(&[0, 0x4000_0000, 0, 0x8_0000]);
    reserved.add_child(node("mmode_resv0@40000000", &[("reg", &firmware)]));
    let fdt = root(vec![memory(), cpus, soc, reserved]);
    let facts = Facts::of(fdt, 0x4f00_0000).unwrap();
    assert_eq!(facts.cpus(), [1, 2], "hart 0 is off");
    assert!(facts.other_cpus(2).eq([1]), "the boot CPU is not the first");
    assert!(facts.other_cpus(9).eq([1, 2]));
    assert_eq!(facts.timebase, Some(10_000_000));
    let kind = |isa| CpuKind {
        isa,
        mmu_type: "riscv,sv48",
    };
    assert_eq!(facts.kind(1), kind("rv64imafdc_svpbmt"));
    assert_eq!(facts.kind(2), kind("rv64imafdc"), "each has its own");
    assert_eq!(facts.kind(0), CpuKind::default(), "it is off");
    assert_eq!(facts.ns16550.unwrap().interrupt, 10);
    assert_eq!(facts.finisher.unwrap().base, 0x10_0000);
    assert_eq!(facts.plic.unwrap().base, 0xc00_0000);
    assert_eq!(
        [0, 1, 2].map(|cpu| facts.plic_context(cpu)),
        [Some(2), Some(4), None]
    );
    let first = normalise(facts.regions(), 12).next().unwrap();
    assert_eq!(
        first.start.as_u64(),
        0x4_0080,
        "the firmware's memory is not free"
    );
}

#[test]
fn a_tree_without_memory_is_refused() {
    assert_eq!(Facts::of(root(vec![]), 0).err(), Some(TreeError::NoMemory));
}
