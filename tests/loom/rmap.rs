//! The claims, for a page that a parent and its child share after a fork, and
//! a walk of its reverse mapping meanwhile:
//!
//! - `walk_and_fork`: the walk finds the parent and its child while the parent
//!   forks once more, and the new child from when its entry is there (G1).
//! - `walk_and_unlink`: it finds the child while the parent unmaps the page,
//!   though the parent's link is above the child's.
//! - `walk_and_last`: while the last area of a family goes and its anon_vma is
//!   used anew, it finds the old area or none, never the new one.
//!
//! And for an area that has no anon_vma yet, in which two CPUs store to two pages:
//!
//! - `fault_and_fault_first`: both choose one, the area has one of them, and a walk finds both
//!   pages by it; who comes second gives back what it put aside.
//!
//! That no node and no frame is lost is checked after each.
#![cfg(loom)]

mod explore;
mod machine;

use core::ops::ControlFlow;
use explore::at_most;
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::Mm;
use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::fault::{Fault, FaultOutcome, Mode};
use mm_core::format::Entry;
use mm_core::page::Page;
use mm_core::platform::Platform;
use mm_core::prot::{Access, Prot};
use mm_core::rmap::walk;
use mm_core::space::{AddressSpace, MapRequest, SpaceLimits};
use mm_core::vma::VmaFlags;

type Space = AddressSpace<'static, Machine>;

const PAGE: usize = 128;
const AT: usize = 1;

fn va() -> VirtAddr {
    VirtAddr::new(AT * PAGE)
}

fn map(s: &Space, prot: Prot) {
    s.map(&MapRequest::anonymous(PAGE, prot).fixed(va()))
        .unwrap();
    touch(s, AT, Access::Write);
}

fn touch(s: &Space, page: usize, access: Access) {
    let outcome = s.fault(&Fault {
        addr: VirtAddr::new(page * PAGE),
        access,
        mode: Mode::User,
    });
    assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
}

fn empty(mm: &'static Mm<Machine>) -> Space {
    let limits = SpaceLimits {
        min_addr: va(),
        stack_guard: 0,
        ..SpaceLimits::for_format(mm.platform().format())
    };
    AddressSpace::new(mm, limits).unwrap()
}

fn scene(mm: &'static Mm<Machine>) -> Space {
    let s = empty(mm);
    map(&s, Prot::RW);
    s
}

/// What a walk found.
#[derive(Debug)]
struct Found {
    /// How often the page was mapped when it began.
    maps: u32,
    /// The spaces where the page may be mapped, and as what.
    areas: Vec<(u32, VmaFlags)>,
}

impl Found {
    fn has(&self, s: &Space) -> bool {
        self.areas.iter().any(|&(space, _)| space == s.id())
    }
}

/// A page that somebody keeps: reclaim, migration.
struct Kept {
    mm: &'static Mm<Machine>,
    pfn: Pfn,
    at: Vpn,
}

impl Kept {
    fn new(s: &Space) -> Self {
        Self::of(s, AT)
    }

    fn of(s: &Space, page: usize) -> Self {
        let at = Vpn::new(page);
        let Entry::Leaf { pfn, .. } = s.entry(at) else {
            panic!("nothing is mapped");
        };
        let kept = Self {
            mm: s.mm(),
            pfn,
            at,
        };
        kept.page().get_refs(1).unwrap();
        kept
    }

    fn page(&self) -> &'static Page {
        self.mm.frames().page(self.pfn).unwrap()
    }

    /// Walks the LOCKED page.
    fn walk(&self) -> Found {
        let mut found = Vec::new();
        let page = self.page();
        assert!(page.try_lock_page());
        let maps = page.user().maps();
        let walked = walk(self.mm, &self.mm.cx(), page, |hit| {
            assert_eq!(hit.page, self.at);
            found.push((hit.area.space(), hit.area.flags()));
            ControlFlow::<()>::Continue(())
        });
        assert!(walked.is_continue());
        page.unlock_page();
        Found { maps, areas: found }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.mm.frames().free(&self.mm.cx(), self.pfn).unwrap();
    }
}

/// Walks on CPU 1 while `verb` runs on CPU 0; what the walk found.
fn walking<R>(kept: Kept, verb: impl FnOnce() -> R) -> (Found, R) {
    let walker = thread::spawn(move || {
        be_cpu(1);
        kept.walk()
    });
    let done = verb();
    (walker.join().unwrap(), done)
}

#[test]
fn walk_and_fork() {
    at_most(3, || {
        Machine::with_mm(36, |mm| {
            let s = scene(mm);
            // The second child's chain turns the family's tree.
            let first = s.fork().unwrap();
            let (found, second) = walking(Kept::new(&s), || s.fork().unwrap());
            assert!(found.has(&s) && found.has(&first), "lost: {found:?}");
            assert!(found.areas.len() >= found.maps as usize, "{found:?}");
            let after = Kept::new(&s).walk();
            assert!([&s, &first, &second].iter().all(|s| after.has(s)));
        });
    });
}

#[test]
fn walk_and_unlink() {
    at_most(3, || {
        Machine::with_mm(28, |mm| {
            let s = scene(mm);
            let child = s.fork().unwrap();
            let (found, ()) = walking(Kept::new(&s), || s.unmap(va(), PAGE).unwrap());
            assert!(found.has(&child), "the child is lost: {found:?}");
        });
    });
}

#[test]
fn walk_and_last() {
    at_most(3, || {
        Machine::with_mm(20, |mm| {
            let s = scene(mm);
            let (found, ()) = walking(Kept::new(&s), || {
                s.unmap(va(), PAGE).unwrap();
                map(&s, Prot::RWX);
            });
            let news = |&(_, flags): &(u32, VmaFlags)| flags.contains(VmaFlags::EXEC);
            assert!(
                !found.areas.iter().any(news),
                "an area that never had the page"
            );
        });
    });
}

#[test]
fn fault_and_fault_first() {
    at_most(3, || {
        Machine::with_cpus(28, 2, |mm| {
            // Each CPU has nodes and frames at hand: who takes them from whom is modelled alone.
            for cpu in [1, 0] {
                be_cpu(cpu);
                drop(scene(mm));
            }
            let s = empty(mm);
            // The last pages of one table and the first of the next, which reading makes: who
            // has which table's lock is no part of the claim.
            s.map(&MapRequest::anonymous(4 * PAGE, Prot::RW).fixed(VirtAddr::new(2 * PAGE)))
                .unwrap();
            touch(&s, 2, Access::Read);
            touch(&s, 5, Access::Read);
            let other = s.clone();
            let thread = thread::spawn(move || {
                be_cpu(1);
                touch(&other, 4, Access::Write);
            });
            touch(&s, 3, Access::Write);
            thread.join().unwrap();
            let used = mm.usage();
            assert_eq!((used.anon_vmas, used.chains), (1, 1), "{used:?}");
            for page in [3, 4] {
                let found = Kept::of(&s, page).walk();
                assert!(
                    found.areas.len() == 1 && found.has(&s),
                    "page {page}: {found:?}"
                );
            }
        });
    });
}
