//! Tags of spaces: more spaces than tags, on CPUs that keep everything.

use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::{AttrFlags, Attrs, PageTableFormat as _, TableOwner};
use mm_core::prot::{Access, Prot};
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{AsidPool, Remembered, SpaceTlb, TlbGather};
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::mmu::Mode;
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use mm_testkit::tlb::{Loaded, SoftTlbs};
use std::collections::BTreeMap;
use std::sync::Arc;

const CPUS: usize = 2;
const SPACES: usize = 9;
const PAGES: u64 = 6;

struct Space {
    root: Pfn,
    tlb: SpaceTlb,
    model: BTreeMap<usize, Pfn>,
}

/// A page that programs write to; no hardware waits for software to mark it.
fn attrs() -> Attrs {
    Attrs::user(Prot::RW).with(AttrFlags::ACCESSED | AttrFlags::DIRTY)
}

/// Whether a machine's TLBs tell spaces apart.
fn has_tags(m: &Machine) -> bool {
    let has = m.walker().has_tags();
    if !has {
        m.skip("there are process-context identifiers in long mode only");
    }
    has
}

/// F7: a tag names another space only after each CPU has dropped the old one's
/// translations; and no CPU drops everything more than once a generation.
#[test]
fn f7_a_tag_is_reused_only_after_every_cpu_forgot_its_owner() {
    on_every_machine(|m| {
        if has_tags(m) {
            (0..2).for_each(|seed| reuse(m, seed, AsidPool::new(), 3));
        }
    });
}

/// Fewer tags than CPUs and one: some spaces do without, others change between
/// having one and not while a CPU runs them.
#[test]
fn f7_a_space_without_a_tag_gets_none_while_a_cpu_runs_it() {
    on_every_machine(|m| {
        if has_tags(m) {
            (0..2).for_each(|seed| reuse(m, seed, AsidPool::new(), 1));
        }
    });
}

/// Generations of a round that come again and again: three.
const FEW: u32 = 2;

/// The same where generations come again: spaces that slept for a round, or two, are
/// told apart from those that have their numbers now.
#[test]
fn f7_a_tag_of_an_earlier_round_is_not_current() {
    on_every_machine(|m| {
        if has_tags(m) {
            reuse(m, 0, AsidPool::with_generations_of(FEW), 2);
        }
    });
}

/// On a 32-bit machine generations come again after 65535; here after three.
#[test]
fn f7_a_space_that_slept_for_a_round_of_generations_gets_a_new_tag() {
    on_every_machine(|m| {
        if has_tags(m) {
            sleep_for_a_round(m);
        }
    });
}

fn sleep_for_a_round(m: &Machine) {
    const GENERATIONS: usize = (1 << FEW) - 1;
    let frames = TestPlatform::machine(m.format(), 64, 1024);
    let cx = Cx::new(&frames);
    let pool = AsidPool::with_generations_of(FEW);
    pool.set_bits(2);
    let sleeper = SpaceTlb::new();
    let (mine, _) = on_cpu(0, || pool.activate(&cx, &sleeper));
    sleeper.leave(0);
    let first = pool.generations();
    // Others come and go until one has the sleeper's number in a generation of its name.
    let mut last: Option<SpaceTlb> = None;
    let theirs = loop {
        let tlb = SpaceTlb::new();
        let (asid, _) = on_cpu(0, || pool.activate(&cx, &tlb));
        if let Some(before) = last.replace(tlb) {
            before.leave(0);
        }
        let slept = pool.generations() - first;
        assert!(slept <= GENERATIONS, "no other space got the number");
        if slept == GENERATIONS && asid == mine {
            break asid;
        }
    };
    let (again, _) = on_cpu(1, || pool.activate(&cx, &sleeper));
    assert_ne!(again, theirs, "two spaces run under one tag");
}

fn reuse(m: &Machine, seed: u64, pool: AsidPool, bits: u32) {
    let caches_invalid = m.format().caches_invalid();
    let frames = TestPlatform::machine(m.format(), 64, 1024);
    let tlbs = Arc::new(SoftTlbs::new(m.walker(), CPUS, seed));
    frames.platform().set_flush_hook(tlbs.clone());
    let cx = Cx::new(&frames);
    let before = frames.free_frames();
    pool.set_bits(bits);
    let mut random = Random::new(seed);
    let mut spaces: Vec<Space> = (0..SPACES)
        .map(|_| Space {
            root: PageTable::create(&cx, TableOwner::User, 1).unwrap(),
            tlb: SpaceTlb::new(),
            model: BTreeMap::new(),
        })
        .collect();
    let mut runs = [None; CPUS];
    let (mut hits, mut kept) = (0, 0);
    for step in 0..3000 {
        // Often the same one, so that two CPUs run it.
        let among = if random.chance(50) { 1 } else { SPACES as u64 };
        let which = random.below(among) as usize;
        let page = random.below(PAGES) as usize;
        let one = PageRange::new(Vpn::new(page), Vpn::new(page + 1));
        let cpu = random.below(CPUS as u64) as usize;
        match random.below(10) {
            0..3 => {
                if runs[cpu] == Some(which) {
                    continue;
                }
                let space = &spaces[which];
                let (asid, remembered) = on_cpu(cpu, || pool.activate(&cx, &space.tlb));
                assert!(asid != 0 || bits == 1);
                kept += usize::from(remembered == Remembered::Current);
                let root = space.root;
                tlbs.load_tagged(cpu, Some(Loaded { root, asid }), remembered);
                if let Some(before) = runs[cpu].replace(which) {
                    spaces[before].tlb.leave(cpu);
                }
            }
            3 => {
                let space = &mut spaces[which];
                let table = PageTable::view(&cx, space.root, TableOwner::User, 1);
                let mut cursor = CursorMut::new(table, &space.tlb, one);
                if space.model.remove(&page).is_some() {
                    let mut gather = TlbGather::new(&cx, &space.tlb);
                    cursor.unmap(&mut gather).unwrap();
                    let _released = gather.finish();
                } else {
                    let pfn = frames.alloc(&cx, 0).unwrap();
                    let owed = cursor.map_each(&[pfn], attrs()).unwrap();
                    owed.settle(&cx, &space.tlb);
                    space.model.insert(page, pfn);
                }
            }
            _ => {
                let Some(which) = runs[cpu] else { continue };
                hits += tlbs.remembered(cpu, one.start()).len();
                let ram = frames.platform().arena();
                let access =
                    || tlbs.access(ram, cpu, one.start(), Access::Write, Mode::User, |pfn| pfn);
                let mut got = access();
                if got.is_err() && caches_invalid {
                    // It may remember that the page was not there: a fault that
                    // the kernel finds spurious.
                    on_cpu(cpu, || spaces[which].tlb.flush_spurious(&cx, one));
                    got = access();
                }
                let expect = spaces[which].model.get(&page).copied();
                assert_eq!(got.ok(), expect, "seed {seed}, step {step}, CPU {cpu}");
            }
        }
    }
    let drops = frames.platform().take_log().flushes;
    let drops = drops.iter().filter(|(_, f)| f.asid.is_none()).count();
    assert!(
        pool.generations() > 10 && hits > 100 && (kept > 100 || bits == 1),
        "{hits} {kept}"
    );
    assert!(
        drops <= (pool.generations() - 1) * CPUS,
        "one a CPU and generation"
    );
    for (cpu, which) in runs.into_iter().enumerate() {
        tlbs.load(cpu, None);
        which.inspect(|&which| spaces[which].tlb.leave(cpu));
    }
    for space in spaces {
        let table = PageTable::view(&cx, space.root, TableOwner::User, 1);
        let mut gather = TlbGather::new(&cx, &space.tlb);
        CursorMut::new(table, &space.tlb, table.user_pages())
            .unmap(&mut gather)
            .unwrap();
        let _released = gather.finish();
        table.destroy(&space.tlb).unwrap();
    }
    assert_eq!(frames.free_frames(), before);
}

/// Threads switch as fast as they can through few tags; each CPU looks only at
/// pages that never change, so any wrong frame is another space's.
#[test]
fn f7_cpus_that_switch_at_once_never_share_a_tag() {
    on_every_machine(|m| {
        if has_tags(m) {
            switch(m);
        }
    });
}

fn switch(m: &Machine) {
    let frames = TestPlatform::machine(m.format(), 64, 1024);
    let tlbs = Arc::new(SoftTlbs::new(m.walker(), CPUS, 0));
    frames.platform().set_flush_hook(tlbs.clone());
    let cx = Cx::new(&frames);
    let pool = AsidPool::new();
    pool.set_bits(3);
    let spaces: Vec<(Pfn, Pfn, SpaceTlb)> = (0..SPACES)
        .map(|_| {
            let root = PageTable::create(&cx, TableOwner::User, 1).unwrap();
            let table = PageTable::view(&cx, root, TableOwner::User, 1);
            let pfn = frames.alloc(&cx, 0).unwrap();
            let tlb = SpaceTlb::new();
            let page = PageRange::new(Vpn::new(1), Vpn::new(2));
            let mut cursor = CursorMut::new(table, &tlb, page);
            let owed = cursor.map_each(&[pfn], attrs()).unwrap();
            owed.settle(&cx, &tlb);
            (root, pfn, tlb)
        })
        .collect();
    std::thread::scope(|s| {
        for cpu in 0..CPUS {
            let (frames, tlbs, pool, spaces) = (&frames, &tlbs, &pool, &spaces);
            s.spawn(move || {
                on_cpu(cpu, || {
                    let mut random = Random::new(cpu as u64);
                    let cx = Cx::new(frames);
                    let ram = frames.platform().arena();
                    let mut before: Option<&SpaceTlb> = None;
                    for _ in 0..2_000 {
                        let (root, pfn, tlb) = &spaces[random.below(SPACES as u64) as usize];
                        let (asid, remembered) = pool.activate(&cx, tlb);
                        let loaded = Loaded { root: *root, asid };
                        tlbs.load_tagged(cpu, Some(loaded), remembered);
                        if let Some(before) = before.replace(tlb) {
                            if !std::ptr::eq(before, tlb) {
                                before.leave(cpu);
                            }
                        }
                        let page = Vpn::new(1);
                        let got = tlbs.access(ram, cpu, page, Access::Write, Mode::User, |p| p);
                        assert_eq!(got, Ok(*pfn));
                    }
                });
            });
        }
    });
    assert!(pool.generations() > 100);
}
