//! The claims, on CPUs that forget only what they are told to:
//!
//! - `shootdown_and_switch` (F4, H12): once a flush has returned, no CPU uses what
//!   it took away: neither one that ran the space, nor one that was leaving it,
//!   was away under another tag, or came back meanwhile. Two threads.
//! - `shootdown_and_lazy` (F4): nor one that ran a kernel thread on the root; and
//!   while it does, it is told of tables that are freed. Two threads.
//! - `asid_rollover` (F7): of CPUs that switch as they like through fewer tags
//!   than spaces, none finds another space's translations under the tag that it
//!   loads, and no two run different spaces under one tag at once. Two threads.
//! - `sleep_and_rollover` (F7): nor when generations come again, and a space comes back
//!   that slept for all of them, just as the first of a round begins anew. Two threads.
//! - `flush_and_rollover` (F4, F7): a flush names the tag under which a CPU
//!   remembers, also when the space is given another one meanwhile. Two threads.
//!
//! The pool of tags and the state of spaces are the library's own. A TLB is a
//! list behind a lock that its CPU takes for an access and a flush that tells it;
//! who is not told gets no order from it.
#![cfg(loom)]

mod explore;
mod machine;

use explore::at_most;
use loom::sync::Arc;
use loom::thread;
use machine::{Machine, Small, be_cpu};
use mm_core::addr::{Pfn, Vpn};
use mm_core::cx::Cx;
use mm_core::format::{Attrs, Cell, PageTableFormat, TableOwner};
use mm_core::page::Frames;
use mm_core::platform::{PhysMemory, Platform};
use mm_core::prot::Prot;
use mm_core::range::PageRange;
use mm_core::table::{CursorMut, PageTable};
use mm_core::tlb::{AsidPool, Remembered, SpaceTlb, TlbGather};
use std::sync::Mutex;

/// Spaces on one machine, of which the first has a page.
struct Machines {
    frames: Frames<Machine>,
    pool: AsidPool,
    spaces: Vec<SpaceTlb>,
    root: Pfn,
    /// What each CPU has loaded: tag and space.
    loaded: Mutex<[Option<(u16, u32)>; 3]>,
    /// Whether the flush of the page has returned.
    gone: Mutex<bool>,
}

const PAGE: Vpn = Vpn::new(5);

impl Machines {
    /// With `spaces` spaces, tags of `bits` bits.
    fn new(spaces: usize, bits: u32) -> Self {
        Self::with_pool(spaces, bits, AsidPool::new())
    }

    /// As [`Self::new`], with a pool of one's own.
    fn with_pool(spaces: usize, bits: u32, pool: AsidPool) -> Self {
        let frames = Machine::boot_tagged(32);
        pool.set_bits(bits);
        let root = PageTable::create(&Cx::new(&frames), TableOwner::User, 1).unwrap();
        Self {
            frames,
            pool,
            spaces: (0..spaces).map(|_| SpaceTlb::new()).collect(),
            root,
            loaded: Mutex::default(),
            gone: Mutex::new(false),
        }
    }

    fn tlb(&self, cpu: usize) -> &loom::sync::Mutex<Vec<(u16, u32)>> {
        &self.frames.platform().tagged[cpu]
    }

    /// Switches a CPU to a space, as `AddressSpace::switch` does.
    fn run(&self, cpu: usize, space: u32) {
        let before = self.loaded.lock().unwrap()[cpu];
        let cx = Cx::new(&self.frames);
        let (asid, remembered) = self.pool.activate(&cx, &self.spaces[space as usize]);
        {
            let mut tlb = self.tlb(cpu).lock().unwrap();
            if remembered == Remembered::Stale {
                tlb.retain(|&(tag, _)| tag != asid);
            }
            for &(tag, owner) in tlb.iter() {
                assert!(
                    tag != asid || owner == space,
                    "a tag of {owner} is loaded for {space}"
                );
            }
            let mut loaded = self.loaded.lock().unwrap();
            loaded[cpu] = Some((asid, space));
            for other in loaded.iter().flatten() {
                assert!(
                    other.0 != asid || other.1 == space,
                    "two spaces run under {asid}"
                );
            }
        }
        if let Some((_, old)) = before {
            if old != space {
                self.spaces[old as usize].leave(cpu);
            }
        }
    }

    /// Maps the page, and one beside it that keeps their table.
    fn map(&self) {
        let cx = Cx::new(&self.frames);
        for page in [PAGE, PAGE.saturating_add(1)] {
            let pfn = self.frames.alloc(&cx, 0).unwrap();
            let table = PageTable::view(&cx, self.root, TableOwner::User, 1);
            let range = PageRange::new(page, page.saturating_add(1));
            let mut cursor = CursorMut::new(table, &self.spaces[0], range);
            let owed = cursor.map_each(&[pfn], Attrs::user(Prot::RW)).unwrap();
            owed.settle(&cx, &self.spaces[0]);
        }
    }

    /// The table of the page.
    fn leaf(&self) -> Pfn {
        let cx = Cx::new(&self.frames);
        let table = PageTable::view(&cx, self.root, TableOwner::User, 1);
        table.lock_leaf(PAGE).unwrap().pfn()
    }

    /// A CPU that runs the first space accesses the page: through what it
    /// remembers, or by a walk without a pin, as hardware does.
    fn access(&self, cpu: usize, leaf: Pfn) {
        let Some((asid, 0)) = self.loaded.lock().unwrap()[cpu] else {
            panic!("it runs another space");
        };
        let words: &[Cell<Small>] = self.frames.memory().words(leaf, 0);
        let present = || self.frames.platform().format().load(words, 1) != 0;
        // Held: the CPU ends its access before it answers a flush.
        let mut tlb = self.tlb(cpu).lock().unwrap();
        if tlb.contains(&(asid, 0)) {
            assert!(!*self.gone.lock().unwrap(), "CPU {cpu} missed a flush");
        } else if present() {
            tlb.push((asid, 0));
        }
    }

    /// Whether a CPU remembers the page under the tag that it runs.
    fn remembers(&self, cpu: usize) -> bool {
        let loaded = self.loaded.lock().unwrap()[cpu];
        let tlb = self.tlb(cpu).lock().unwrap();
        tlb.iter()
            .any(|&entry| Some(entry) == loaded && entry.1 == 0)
    }

    /// Unmaps the page. By hand: a verb would pin, and pins have fences.
    fn unmap(&self) {
        let cx = Cx::new(&self.frames);
        let table = PageTable::view(&cx, self.root, TableOwner::User, 1);
        let tlb = &self.spaces[0];
        let mut gather = TlbGather::new(table.cx(), tlb);
        let taken = table.lock_leaf(PAGE).unwrap().take(tlb, PAGE).unwrap();
        gather.push(taken).unwrap();
        let _released = gather.finish();
        *self.gone.lock().unwrap() = true;
    }
}

/// Runs `away_and_back` on CPU 1, which has the page in its TLB, while CPU 0
/// unmaps it.
fn unmap_while(away_and_back: fn(&Machines)) {
    at_most(3, move || {
        let machines = Arc::new(Machines::new(2, 2));
        machines.map();
        let leaf = machines.leaf();
        be_cpu(1);
        machines.run(1, 0);
        machines.access(1, leaf);
        be_cpu(0);
        let cpu = {
            let machines = Arc::clone(&machines);
            thread::spawn(move || {
                be_cpu(1);
                away_and_back(&machines);
                machines.access(1, leaf);
            })
        };
        machines.unmap();
        cpu.join().unwrap();
        assert!(!machines.remembers(1), "CPU 1 missed the flush");
    });
}

#[test]
fn shootdown_and_switch() {
    unmap_while(|machines| {
        machines.run(1, 1);
        machines.run(1, 0);
    });
}

#[test]
fn shootdown_and_lazy() {
    unmap_while(|machines| {
        machines.spaces[0].lazy(1);
        machines.run(1, 0);
    });
}

#[test]
fn asid_rollover() {
    at_most(3, || {
        // Three tags and five spaces.
        let machines = Arc::new(Machines::new(5, 2));
        let cpu = {
            let machines = Arc::clone(&machines);
            thread::spawn(move || {
                be_cpu(1);
                for space in [3, 0, 3] {
                    machines.run_and_remember(1, space);
                }
            })
        };
        for space in [0, 1, 2, 0] {
            machines.run_and_remember(0, space);
        }
        cpu.join().unwrap();
    });
}

/// Bits of a round of three generations.
const FEW_GENERATIONS: u32 = 2;

#[test]
fn sleep_and_rollover() {
    at_most(3, || {
        let pool = AsidPool::with_generations_of(FEW_GENERATIONS);
        let machines = Arc::new(Machines::with_pool(6, 2, pool));
        // The first generation: space 0, which goes to sleep, has the third number.
        be_cpu(1);
        machines.run(1, 1);
        be_cpu(0);
        machines.run(0, 2);
        machines.run(0, 0);
        // The second; the third and last, in which space 4 has that number.
        machines.run(0, 3);
        machines.run(0, 4);
        be_cpu(1);
        machines.run(1, 1);
        be_cpu(0);
        assert_eq!(machines.pool.generations(), 3);
        let cpu = {
            let machines = Arc::clone(&machines);
            thread::spawn(move || {
                be_cpu(1);
                machines.run_and_remember(1, 0);
            })
        };
        machines.run_and_remember(0, 5);
        cpu.join().unwrap();
        assert!(machines.pool.generations() > 3, "a round is over");
    });
}

#[test]
fn flush_and_rollover() {
    at_most(3, || {
        let machines = Arc::new(Machines::new(4, 2));
        machines.map();
        let leaf = machines.leaf();
        // The next new tag begins a generation.
        for space in [0, 1, 2] {
            machines.run(0, space);
        }
        let cpu = {
            let machines = Arc::clone(&machines);
            thread::spawn(move || {
                be_cpu(1);
                machines.run(1, 3);
                machines.run(1, 0);
                machines.access(1, leaf);
            })
        };
        machines.unmap();
        cpu.join().unwrap();
        assert!(!machines.remembers(1), "CPU 1 missed the flush");
    });
}

impl Machines {
    /// Switches, and remembers something of the space.
    fn run_and_remember(&self, cpu: usize, space: u32) {
        self.run(cpu, space);
        let loaded = self.loaded.lock().unwrap()[cpu];
        self.tlb(cpu).lock().unwrap().extend(loaded);
    }
}
